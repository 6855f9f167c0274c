//! What happens when: a function of the seed, the number of nodes and the time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use atoll_base::Rng;

/// Something that is done to the cluster. Nodes are numbered from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// `kill -9`.
    Kill(usize),
    /// The power fails: `kill -9`, and what was not synced is gone.
    PowerFails(Vec<usize>),
    /// A killed node is started.
    Start(usize),
    /// The process stands still.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// Nothing gets from the first to the second any more.
    Cut(Pairs),
    /// It does again; what was under way arrives late.
    Mend(Pairs),
    /// All that gets from the first to the second takes so long.
    Delay(Pairs, Duration),
    /// It does not any more.
    Hasten(Pairs),
    /// Connections end and lose what they carry.
    Drop(Pairs),
    /// Nodes with leaders are asked to hand one over to this node.
    Lead(usize),
}

/// Who sends to whom.
pub(super) type Pairs = Vec<(usize, usize)>;

/// A fault and when it strikes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) fault: Fault,
}

/// The faults of one round, each of which has ended when the round has: `round` seeds it.
pub(super) fn round(rng: &mut Rng, nodes: usize, length: Duration) -> Vec<Step> {
    let mut plan = Plan { rng, nodes, length: length.as_millis() as u64, steps: Vec::new() };
    // What a process suffers must not overlap; what links suffer may.
    let mut free_from: BTreeMap<usize, u64> = BTreeMap::new();
    let mut now = plan.rng.range(200, 800);
    while now < plan.length {
        match plan.rng.below(10) {
            0..5 => plan.strike_process(now, &mut free_from),
            5..9 => plan.strike_links(now),
            _ => {
                let node = plan.node();
                plan.push(now, Fault::Lead(node));
            }
        }
        now += plan.rng.range(300, 2_000);
    }
    let mut steps = plan.steps;
    steps.sort_by_key(|step| step.at);
    steps
}

struct Plan<'a> {
    rng: &'a mut Rng,
    nodes: usize,
    length: u64,
    steps: Vec<Step>,
}

impl Plan<'_> {
    fn push(&mut self, at: u64, fault: Fault) {
        self.steps.push(Step { at: Duration::from_millis(at.min(self.length)), fault });
    }

    fn node(&mut self) -> usize {
        self.rng.range(1, self.nodes as u64 + 1) as usize
    }

    fn strike_process(&mut self, now: u64, free_from: &mut BTreeMap<usize, u64>) {
        let node = self.node();
        let is_free = |node: &usize| free_from.get(node).is_none_or(|from| *from <= now);
        let free: Vec<usize> = (1..=self.nodes).filter(is_free).collect();
        if !free.contains(&node) {
            return;
        }
        let end = (now + self.rng.range(50, 4_000)).min(self.length);
        match self.rng.below(8) {
            0..2 => {
                self.push(now, Fault::Kill(node));
                self.push(end, Fault::Start(node));
            }
            2..4 => {
                self.push(now, Fault::PowerFails(vec![node]));
                self.push(end, Fault::Start(node));
            }
            // Everybody who is up.
            4 => {
                self.push(now, Fault::PowerFails(free.clone()));
                for &node in &free {
                    self.push(end, Fault::Start(node));
                    free_from.insert(node, end + 1);
                }
            }
            _ => {
                self.push(now, Fault::Pause(node));
                self.push(end, Fault::Resume(node));
            }
        }
        free_from.insert(node, end + 1);
    }

    fn strike_links(&mut self, now: u64) {
        let end = now + self.rng.range(200, 5_000);
        let pairs = self.pairs();
        match self.rng.below(5) {
            0..3 => {
                self.push(now, Fault::Cut(pairs.clone()));
                // Half of the time what was held back is lost with its connection.
                if self.rng.chance(1, 2) {
                    self.push(end, Fault::Drop(pairs.clone()));
                }
                self.push(end, Fault::Mend(pairs));
            }
            3 => {
                let delay = Duration::from_millis(self.rng.range(5, 600));
                self.push(now, Fault::Delay(pairs.clone(), delay));
                self.push(end, Fault::Hasten(pairs));
            }
            _ => self.push(now, Fault::Drop(pairs)),
        }
    }

    /// A partition, a node alone, a node that only hears or only speaks, or any one direction.
    fn pairs(&mut self) -> Pairs {
        let all = || (1..=self.nodes).flat_map(|a| (1..=self.nodes).map(move |b| (a, b)));
        let all: Pairs = all().filter(|(a, b)| a != b).collect();
        let node = self.node();
        match self.rng.below(5) {
            0 => {
                let side: Vec<bool> = (0..=self.nodes).map(|_| self.rng.chance(1, 2)).collect();
                all.into_iter().filter(|&(a, b)| side[a] != side[b]).collect()
            }
            1 => all.into_iter().filter(|&(a, b)| a == node || b == node).collect(),
            2 => all.into_iter().filter(|&(a, _)| a == node).collect(),
            3 => all.into_iter().filter(|&(_, b)| b == node).collect(),
            _ => vec![*self.rng.pick(&all).expect("there are two nodes")],
        }
    }
}

impl Fault {
    /// What it is counted as, unless it only ends another.
    pub(super) fn name(&self) -> Option<&'static str> {
        match self {
            Self::Kill(_) => Some("kill"),
            Self::PowerFails(_) => Some("power failure"),
            Self::Pause(_) => Some("pause"),
            Self::Cut(_) => Some("cut"),
            Self::Delay(..) => Some("delay"),
            Self::Drop(_) => Some("dropped connections"),
            Self::Lead(_) => Some("transfer"),
            Self::Start(_) | Self::Resume(_) | Self::Mend(_) | Self::Hasten(_) => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.2} s  ", self.at.as_secs_f64())?;
        let links = |pairs: &Pairs| {
            let texts: Vec<String> = pairs.iter().map(|(a, b)| format!("{a}>{b}")).collect();
            texts.join(" ")
        };
        match &self.fault {
            Fault::Kill(node) => write!(f, "kill {node}"),
            Fault::PowerFails(nodes) => write!(f, "power fails at {nodes:?}"),
            Fault::Start(node) => write!(f, "start {node}"),
            Fault::Pause(node) => write!(f, "pause {node}"),
            Fault::Resume(node) => write!(f, "resume {node}"),
            Fault::Cut(pairs) => write!(f, "cut {}", links(pairs)),
            Fault::Mend(pairs) => write!(f, "mend {}", links(pairs)),
            Fault::Delay(pairs, by) => write!(f, "delay {} by {} ms", links(pairs), by.as_millis()),
            Fault::Hasten(pairs) => write!(f, "hasten {}", links(pairs)),
            Fault::Drop(pairs) => write!(f, "drop {}", links(pairs)),
            Fault::Lead(node) => write!(f, "hand a leader to {node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(15);

    #[test]
    fn a_seed_is_a_schedule_and_every_kind_of_fault_comes_up() {
        let mut names = BTreeSet::new();
        for seed in 0..20 {
            let steps = round(&mut Rng::new(seed), 3, LENGTH);
            assert_eq!(steps, round(&mut Rng::new(seed), 3, LENGTH));
            assert!(steps.len() >= 8, "{}", steps.len());
            names.extend(steps.iter().filter_map(|step| step.fault.name()));
        }
        assert_eq!(names.len(), 7, "{names:?}");
    }

    #[test]
    fn every_fault_ends_and_no_process_suffers_two_at_once() {
        for seed in 0..200 {
            let (mut down, mut paused, mut open) = (BTreeSet::new(), BTreeSet::new(), 0_i64);
            for step in round(&mut Rng::new(seed), 5, LENGTH) {
                assert!(step.at <= LENGTH);
                let is_up = |n: &usize| !down.contains(n) && !paused.contains(n);
                match step.fault {
                    Fault::Kill(node) => {
                        assert!(is_up(&node));
                        down.insert(node);
                    }
                    Fault::PowerFails(nodes) => {
                        assert!(nodes.iter().all(is_up));
                        down.extend(nodes);
                    }
                    Fault::Start(node) => assert!(down.remove(&node)),
                    Fault::Pause(node) => {
                        assert!(is_up(&node));
                        paused.insert(node);
                    }
                    Fault::Resume(node) => assert!(paused.remove(&node)),
                    Fault::Cut(_) | Fault::Delay(..) => open += 1,
                    Fault::Mend(_) | Fault::Hasten(_) => open -= 1,
                    Fault::Drop(_) | Fault::Lead(_) => {}
                }
            }
            assert!(down.is_empty() && paused.is_empty() && open == 0, "seed {seed}");
        }
    }
}
