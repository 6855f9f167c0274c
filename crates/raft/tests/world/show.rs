//! What happened, as lines that a person reads.

use std::fmt::Write as _;

use atoll_base::NodeId;
use atoll_raft::{Ballot, Body, Input, Message, SendState};

use super::World;

/// The name of an input that is worth counting; `None` for the everyday ones.
pub fn name(input: &Input) -> Option<&'static str> {
    Some(match input {
        Input::Message(message) => match message.body {
            Body::AppendReject { .. } => "append rejected",
            Body::Snapshot { .. } => "snapshot announced",
            Body::SnapshotReply { index, .. } if index.0 == 0 => "state asked for",
            Body::Amnesia { log_is_lost: true, .. } => "rebuild asked for",
            Body::Amnesia { log_is_lost: false, .. } => "rest of the log asked for",
            Body::SnapshotReply { .. } => "snapshot answered",
            Body::TimeoutNow => "told to campaign",
            Body::Wake => "woken by a follower",
            Body::ReadIndex { .. } => "read index asked for",
            _ => return None,
        },
        Input::Transfer(_) => "transfer asked for",
        Input::ChangeMembership(_) => "change asked for",
        Input::Compacted { .. } => "log cut",
        Input::SnapshotInstalled { .. } => "snapshot installed",
        Input::InstallBegun => "install begun",
        Input::PeerLiveness { alive: false, .. } => "told that a peer is gone",
        Input::PeerLiveness { alive: true, .. } => "told that a peer is there",
        Input::Wake => "woken",
        Input::StateLost => "state lost",
        Input::Damaged(_) => "damaged",
        _ => return None,
    })
}

pub fn show(m: &Message) -> String {
    let body = match &m.body {
        Body::Append { prev_index, prev_term, commit, entries } => {
            let all: Vec<String> = entries
                .iter()
                .map(|e| format!("{}/{}{}", e.index, e.term, payload(&super::text(e), e)))
                .collect();
            format!("append after {prev_index}/{prev_term} commit {commit} [{}]", all.join(" "))
        }
        Body::AppendReply { matched, life: 0 } => format!("has {matched}"),
        Body::AppendReply { matched, life } => format!("has {matched} in life {life}"),
        Body::AppendReject { prev_index, conflict_index, conflict_term } => {
            format!("no {prev_index}, try {conflict_index}/{conflict_term}")
        }
        Body::Vote { last_index, last_term, transfer } => {
            let asked = if *transfer { " transfer" } else { "" };
            format!("vote? {last_index}/{last_term}{asked}")
        }
        Body::PreVote { last_index, last_term } => format!("pre-vote? {last_index}/{last_term}"),
        Body::VoteReply { ballot } => format!("vote {}", answer(*ballot)),
        Body::PreVoteReply { ballot } => format!("pre-vote {}", answer(*ballot)),
        Body::Heartbeat { commit, round } => format!("heartbeat commit {commit} round {round}"),
        Body::HeartbeatReply { round } => format!("heard round {round}"),
        Body::ReadIndex { .. } => "read index?".into(),
        Body::ReadIndexReply { index, .. } => format!("read index {index:?}"),
        Body::TimeoutNow => "campaign now".into(),
        Body::Snapshot { index, term, .. } => format!("snapshot {index}/{term}"),
        Body::SnapshotReply { index, installed, .. } => format!("snapshot {index} {installed}"),
        Body::Amnesia { life, log_is_lost: true } => format!("lost its log, life {life}"),
        Body::Amnesia { life, log_is_lost: false } => format!("lost entries, life {life}"),
        Body::Owed { life, to } => format!("owed up to {to}, life {life}"),
        Body::Quiet { commit } => format!("quiet at {commit}"),
        Body::Wake => "wake".into(),
    };
    format!("{}->{} t{} {body}", m.from, m.to, m.term)
}

fn answer(ballot: Ballot) -> &'static str {
    match ballot {
        Ballot::Granted => "true",
        Ballot::Refused => "false",
        Ballot::Amnesic => "true with amnesia",
    }
}

fn payload(text: &str, entry: &atoll_base::Entry) -> String {
    match entry.kind {
        atoll_base::EntryKind::Empty => "-".into(),
        atoll_base::EntryKind::Commands => format!("={text}"),
        atoll_base::EntryKind::Membership => "=members".into(),
    }
}

pub fn print(w: &World, lines: &mut Vec<String>) {
    for node in w.up() {
        let (c, r) = (w.core(node), w.replica(node));
        let mut line = format!(
            "  {node}: {:?} t{} log {}..{} commit {} durable {} applied {}",
            c.role(),
            c.term(),
            c.first_index(),
            c.last_index(),
            c.commit(),
            c.durable(),
            r.applied
        );
        for (of, p) in c.progress() {
            let state = match p.state {
                SendState::Probe { waiting: true } => "probe*",
                SendState::Probe { waiting: false } => "probe",
                SendState::Replicate => "stream",
                SendState::Snapshot => "snapshot",
            };
            let flight = p.inflight();
            write!(line, " | {of} {state} {}<{} +{flight}", p.matched, p.next).unwrap();
        }
        lines.push(line);
    }
}

/// What is told about every replica when it changed.
pub struct Seen(Vec<(NodeId, String)>, usize, usize, usize, usize);

impl Seen {
    pub fn of(w: &World) -> Self {
        let state = |node: &NodeId| {
            if !w.is_up(*node) {
                return (*node, "down".to_string());
            }
            let c = w.core(*node);
            let mut text = format!("{:?} t{} commit {}", c.role(), c.term(), c.commit());
            if let Some(leader) = c.leader() {
                write!(text, " leader {leader}").unwrap();
            }
            if let Some(vote) = c.vote() {
                write!(text, " vote {vote}").unwrap();
            }
            if c.is_quiet() {
                text.push_str(" quiet");
            }
            if c.is_damaged() {
                text.push_str(" damaged");
            }
            if c.is_amnesic() {
                text.push_str(" amnesic");
            }
            let joint = if c.membership().is_joint() { " joint" } else { "" };
            let nodes: Vec<String> =
                c.membership().nodes().iter().map(ToString::to_string).collect();
            write!(text, " members {}{joint}", nodes.join(",")).unwrap();
            (*node, text)
        };
        let replicas = w.replicas.keys().map(state).collect();
        Self(replicas, w.outcomes.len(), w.served.len(), w.failed.len(), w.wanted.len())
    }

    pub fn changes(&self, w: &World, lines: &mut Vec<String>) {
        for (node, outcome) in &w.outcomes[self.1..] {
            lines.push(format!("  {node} answers {outcome:?}"));
        }
        for (node, context, index) in &w.served[self.2..] {
            lines.push(format!("  {node} serves read {} at {}", context.0, index.0));
        }
        for (node, context, leader) in &w.failed[self.3..] {
            lines.push(format!("  {node} can't serve read {}, leader {leader:?}", context.0));
        }
        for (node, to) in w.wanted.iter().skip(self.4) {
            lines.push(format!("  {node} wants a snapshot sent to {to}"));
        }
        let old = |n: &NodeId| self.0.iter().find(|(o, _)| o == n).map(|(_, t)| t.clone());
        for (node, text) in Self::of(w).0 {
            if old(&node).as_deref() != Some(text.as_str()) {
                lines.push(format!("  {node}: {text}"));
            }
        }
    }
}
