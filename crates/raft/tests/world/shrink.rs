//! Makes a failing walk short: leaves out what the failure does not need, larger parts first (delta
//! debugging, Zeller and Hildebrandt 2002), and writes what is left as a golden script.

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::action::Action;
use super::script::{Setup, play};
use super::walk::Failure;

/// Actions carried out while shrinking, at most: a bound on its time.
const EFFORT: usize = 20_000_000;

/// A failing walk, made short.
#[derive(Debug)]
pub struct Shrunk {
    pub setup: Setup,
    pub actions: Vec<Action>,
    /// What failed.
    pub text: String,
    /// Walks tried.
    pub tries: usize,
}

/// Shrinks `failure`. `None` when its actions alone don't fail (then something is not determined by
/// them, which is a mistake of the walk).
pub fn shrink(failure: &Failure) -> Option<Shrunk> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let shrunk = Shrinker::new(failure).map(Shrinker::run);
    std::panic::set_hook(hook);
    shrunk
}

struct Shrinker {
    setup: Setup,
    actions: Vec<Action>,
    text: String,
    tries: usize,
    effort: usize,
}

impl Shrinker {
    fn new(failure: &Failure) -> Option<Self> {
        let (at, text) = run(&failure.setup, &failure.actions)?;
        let actions = failure.actions[..=at].to_vec();
        Some(Self { setup: failure.setup.clone(), actions, text, tries: 1, effort: 0 })
    }

    fn run(mut self) -> Shrunk {
        loop {
            let before = self.actions.len();
            let mut size = before.div_ceil(2);
            while size > 0 {
                self.remove_parts(size);
                size /= 2;
            }
            if self.actions.len() == before || self.effort > EFFORT {
                break;
            }
        }
        self.drop_spares();
        let Self { setup, actions, text, tries, .. } = self;
        Shrunk { setup, actions, text, tries }
    }

    /// Tries to do without each part of `size` actions, from the end, where the failure is.
    fn remove_parts(&mut self, size: usize) {
        let mut end = self.actions.len();
        while end > 0 && self.effort <= EFFORT {
            let start = end.saturating_sub(size);
            let mut fewer = self.actions[..start].to_vec();
            fewer.extend_from_slice(&self.actions[end.min(self.actions.len())..]);
            let setup = self.setup.clone();
            self.take_if_it_fails(&setup, fewer);
            end = start;
        }
    }

    /// Replicas that play no part go too.
    fn drop_spares(&mut self) {
        for spare in self.setup.spares.clone() {
            let mut setup = self.setup.clone();
            setup.spares.remove(&spare);
            setup.witnesses.remove(&spare);
            let actions = self.actions.clone();
            self.take_if_it_fails(&setup, actions);
        }
    }

    fn take_if_it_fails(&mut self, setup: &Setup, actions: Vec<Action>) {
        self.tries += 1;
        self.effort += actions.len();
        let Some((at, text)) = run(setup, &actions) else { return };
        if kind(&text) == kind(&self.text) {
            self.actions = actions[..=at].to_vec();
            self.setup = setup.clone();
            self.text = text;
        }
    }
}

/// Carries actions out; where and how they fail, if they do.
pub fn run(setup: &Setup, actions: &[Action]) -> Option<(usize, String)> {
    let mut at = 0;
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let mut world = setup.world();
        for action in actions {
            action.run(&mut world);
            world.outcomes.clear();
            world.served.clear();
            world.failed.clear();
            at += 1;
        }
    }));
    caught.err().map(|panic| (at, text_of(panic.as_ref())))
}

/// What a panic said.
pub fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default().to_string()
}

/// A failure's first word: which invariant, or whose.
fn kind(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

impl Shrunk {
    /// The golden script: every command, and what it made happen up to the failure.
    pub fn script(&self, title: &str) -> String {
        let mut script = format!("## {title}\n");
        let commands = std::iter::once(self.setup.command())
            .chain(self.actions.iter().map(ToString::to_string));
        let mut world = None;
        for command in commands {
            let _ = writeln!(script, "> {command}");
            let played = catch_unwind(AssertUnwindSafe(|| play(&mut world, &command)));
            match played {
                Ok(lines) => lines.iter().for_each(|line| {
                    let _ = writeln!(script, "{line}");
                }),
                Err(panic) => {
                    let text = text_of(panic.as_ref());
                    let _ = writeln!(script, "# fails: {}", text.lines().next().unwrap_or(""));
                    break;
                }
            }
        }
        script
    }

    /// The commands alone, read back from a script's text.
    pub fn commands(script: &str) -> Vec<String> {
        script.lines().filter_map(|l| l.strip_prefix("> ")).map(ToString::to_string).collect()
    }
}
