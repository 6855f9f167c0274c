//! One thing that can happen to a group, as data: the random walk draws them, a failing walk is
//! shrunk by leaving some out, and what is left is printed as the commands of a golden script.
//!
//! An action that has nothing to act on (its message was never sent, its replica is down) does
//! nothing, so that any part of a walk can be left out.

use std::fmt;
use std::time::Duration;

use atoll_base::NodeId;
use atoll_raft::{Amnesia, Input, Membership};

use super::{World, script};

/// See the module. Messages are named by sender, addressee and place among those in flight between
/// the two.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Give { from: NodeId, to: NodeId, nth: usize },
    Lose { from: NodeId, to: NodeId, nth: usize },
    Copy { from: NodeId, to: NodeId, nth: usize },
    Write { node: NodeId, count: usize },
    Hear { node: NodeId, nth: usize },
    Wait { micros: u64 },
    Due { node: NodeId },
    Propose { node: NodeId, payloads: Vec<(u64, usize)> },
    Read { node: NodeId, context: u64 },
    Offer { leader: NodeId, to: NodeId, ok: bool },
    Install { node: NodeId },
    Forget { node: NodeId },
    Installed { node: NodeId },
    InstallFails { node: NodeId },
    Crash { node: NodeId, survive: usize },
    Start { node: NodeId },
    LoseLog { node: NodeId, count: u64 },
    Compact { node: NodeId, keep: u64 },
    Transfer { leader: NodeId, to: NodeId },
    Change { leader: NodeId, members: Box<Membership> },
    Cut { from: NodeId, to: NodeId },
    Mend,
    Live { node: NodeId, of: NodeId, alive: bool },
    Damaged { node: NodeId },
    Recover,
}

impl Action {
    /// Does it.
    pub fn run(&self, w: &mut World) {
        match self {
            Self::Give { from, to, nth } => {
                if let Some(at) = place(w, *from, *to, *nth) {
                    w.deliver(at);
                }
            }
            Self::Lose { from, to, nth } => {
                if let Some(at) = place(w, *from, *to, *nth) {
                    w.net.remove(at);
                }
            }
            Self::Copy { from, to, nth } => {
                if let Some(at) = place(w, *from, *to, *nth) {
                    let copy = w.net[at].clone();
                    w.net.push_back(copy);
                }
            }
            Self::Wait { micros } => w.now = w.now.after(Duration::from_micros(*micros)),
            Self::Mend => w.cuts.clear(),
            Self::Cut { from, to } => {
                w.cuts.insert((*from, *to));
            }
            Self::Recover => w.recover(),
            Self::Install { node } | Self::Forget { node } => {
                let Some(at) = w.offers.iter().rposition(|(n, ..)| n == node) else { return };
                let (_, _, snapshot) = w.offers.remove(at);
                if w.is_up(*node) && matches!(self, Self::Install { .. }) {
                    w.begin_install(*node, snapshot);
                }
            }
            Self::Start { node } => {
                if w.replicas.contains_key(node) && !w.is_up(*node) {
                    w.start(*node);
                }
            }
            Self::LoseLog { node, count } => {
                let is_down = w.replicas.contains_key(node) && !w.is_up(*node);
                if is_down && (!w.careful || w.survives(Some(*node), None)) {
                    w.lose_log(*node, *count);
                }
            }
            _ => self.run_on_one(w),
        }
    }

    /// What needs a replica that runs.
    fn run_on_one(&self, w: &mut World) {
        let Some(node) = self.node().filter(|n| w.is_up(*n)) else { return };
        match self {
            Self::Write { count, .. } => w.write_done(node, *count),
            Self::Hear { nth, .. } => hear(w, node, *nth),
            Self::Due { .. } => {
                if w.core(node).next_deadline().is_some_and(|d| d <= w.now) {
                    w.step(node, Input::Tick);
                }
            }
            Self::Propose { payloads, .. } => {
                let text = |(id, fill): &(u64, usize)| format!("{id}{}", "x".repeat(*fill)).into();
                w.step(node, Input::Propose(payloads.iter().map(text).collect()));
            }
            Self::Read { context, .. } => w.read(node, *context),
            Self::Offer { to, ok, .. } => w.offer_snapshot(node, *to, *ok),
            Self::Installed { .. } => w.finish_install(node),
            Self::InstallFails { .. } => w.fail_install(node),
            Self::Crash { survive, .. } => w.crash(node, *survive),
            Self::Compact { keep, .. } => w.compact(node, *keep),
            Self::Transfer { to, .. } => w.step(node, Input::Transfer(*to)),
            Self::Change { members, .. } if w.careful && !w.survives(None, Some(members)) => {}
            Self::Damaged { .. } if w.careful && !w.survives(Some(node), None) => {}
            Self::Change { members, .. } => {
                w.step(node, Input::ChangeMembership((**members).clone()));
            }
            Self::Live { of, alive, .. } => {
                w.step(node, Input::PeerLiveness { node: *of, alive: *alive });
            }
            Self::Damaged { .. } => w.step(node, Input::Damaged(Amnesia::Entries)),
            _ => unreachable!("run before"),
        }
    }

    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Write { node, .. }
            | Self::Hear { node, .. }
            | Self::Due { node }
            | Self::Propose { node, .. }
            | Self::Read { node, .. }
            | Self::Install { node }
            | Self::Forget { node }
            | Self::Installed { node }
            | Self::InstallFails { node }
            | Self::Crash { node, .. }
            | Self::Start { node }
            | Self::LoseLog { node, .. }
            | Self::Compact { node, .. }
            | Self::Live { node, .. }
            | Self::Damaged { node } => Some(*node),
            Self::Offer { leader, .. }
            | Self::Transfer { leader, .. }
            | Self::Change { leader, .. } => Some(*leader),
            _ => None,
        }
    }

    /// Reads what `Display` wrote; `None` for other commands.
    pub fn parse(words: &[&str]) -> Option<Self> {
        let id = |at: usize| words.get(at)?.parse().ok().map(NodeId);
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let place = |at: usize| number(at).map(|n| n as usize);
        let parsed = match *words.first()? {
            "give" => Self::Give { from: id(1)?, to: id(2)?, nth: place(3)? },
            "lose" => Self::Lose { from: id(1)?, to: id(2)?, nth: place(3)? },
            "copy" => Self::Copy { from: id(1)?, to: id(2)?, nth: place(3)? },
            "write" => Self::Write { node: id(1)?, count: place(2)? },
            "hear" => Self::Hear { node: id(1)?, nth: place(2)? },
            "wait" => Self::Wait { micros: number(1)? },
            "due" => Self::Due { node: id(1)? },
            "put" => {
                let payload = |word: &&str| -> Option<(u64, usize)> {
                    let (id, fill) = word.split_once('+')?;
                    Some((id.parse().ok()?, fill.parse().ok()?))
                };
                let payloads = words[2..].iter().map(payload).collect::<Option<Vec<_>>>()?;
                Self::Propose { node: id(1)?, payloads }
            }
            "read" => Self::Read { node: id(1)?, context: number(2)? },
            "offer" => Self::Offer { leader: id(1)?, to: id(2)?, ok: true },
            "offer-fails" => Self::Offer { leader: id(1)?, to: id(2)?, ok: false },
            "forget" => Self::Forget { node: id(1)? },
            "install" => Self::Install { node: id(1)? },
            "installed" => Self::Installed { node: id(1)? },
            "install-fails" => Self::InstallFails { node: id(1)? },
            "crash" => Self::Crash { node: id(1)?, survive: place(2).unwrap_or(0) },
            "start" => Self::Start { node: id(1)? },
            "lose-log" => Self::LoseLog { node: id(1)?, count: number(2)? },
            "compact" => Self::Compact { node: id(1)?, keep: number(2)? },
            "transfer" => Self::Transfer { leader: id(1)?, to: id(2)? },
            "change" => {
                let members = Box::new(script::members(&words[2..]));
                Self::Change { leader: id(1)?, members }
            }
            "cut" => Self::Cut { from: id(1)?, to: id(2)? },
            "heal" => Self::Mend,
            "dead" => Self::Live { node: id(1)?, of: id(2)?, alive: false },
            "alive" => Self::Live { node: id(1)?, of: id(2)?, alive: true },
            "damaged" => Self::Damaged { node: id(1)? },
            "recover" => Self::Recover,
            _ => return None,
        };
        Some(parsed)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Give { from, to, nth } => write!(f, "give {from} {to} {nth}"),
            Self::Lose { from, to, nth } => write!(f, "lose {from} {to} {nth}"),
            Self::Copy { from, to, nth } => write!(f, "copy {from} {to} {nth}"),
            Self::Write { node, count } => write!(f, "write {node} {count}"),
            Self::Hear { node, nth } => write!(f, "hear {node} {nth}"),
            Self::Wait { micros } => write!(f, "wait {micros}"),
            Self::Due { node } => write!(f, "due {node}"),
            Self::Propose { node, payloads } => {
                write!(f, "put {node}")?;
                payloads.iter().try_for_each(|(id, fill)| write!(f, " {id}+{fill}"))
            }
            Self::Read { node, context } => write!(f, "read {node} {context}"),
            Self::Offer { leader, to, ok: true } => write!(f, "offer {leader} {to}"),
            Self::Offer { leader, to, ok: false } => write!(f, "offer-fails {leader} {to}"),
            Self::Install { node } => write!(f, "install {node}"),
            Self::Forget { node } => write!(f, "forget {node}"),
            Self::Installed { node } => write!(f, "installed {node}"),
            Self::InstallFails { node } => write!(f, "install-fails {node}"),
            Self::Crash { node, survive } => write!(f, "crash {node} {survive}"),
            Self::Start { node } => write!(f, "start {node}"),
            Self::LoseLog { node, count } => write!(f, "lose-log {node} {count}"),
            Self::Compact { node, keep } => write!(f, "compact {node} {keep}"),
            Self::Transfer { leader, to } => write!(f, "transfer {leader} {to}"),
            Self::Change { leader, members } => {
                write!(f, "change {leader}{}", script::words(members))
            }
            Self::Cut { from, to } => write!(f, "cut {from} {to}"),
            Self::Mend => write!(f, "heal"),
            Self::Live { node, of, alive: false } => write!(f, "dead {node} {of}"),
            Self::Live { node, of, alive: true } => write!(f, "alive {node} {of}"),
            Self::Damaged { node } => write!(f, "damaged {node}"),
            Self::Recover => write!(f, "recover"),
        }
    }
}

/// Where the `nth` message between two stands in the network.
fn place(w: &World, from: NodeId, to: NodeId, nth: usize) -> Option<usize> {
    let mut between = w.net.iter().enumerate().filter(|(_, m)| (m.from, m.to) == (from, to));
    between.nth(nth).map(|(at, _)| at)
}

/// A core hears of one completed write: late perhaps, and not always in order.
fn hear(w: &mut World, node: NodeId, nth: usize) {
    let notices = &mut w.replicas.get_mut(&node).expect("it runs").notices;
    if nth < notices.len() {
        let notice = notices.remove(nth);
        w.step(node, notice);
    }
}
