//! Reads the text of a script.

use std::fmt::Display;
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

use atoll_base::{NodeId, ShardId, Time};
use atoll_raft::Role;

use super::{Change, Operating, SETTINGS, Script, ScriptError};
use crate::faults::{Damage, Direction, Fault, FaultKind, Planned, Reach, Target};
use crate::moment::{Cue, Moment};
use crate::network::NetworkProfile;

/// Virtual time that a fault waits for its moment at most, where the script does not say.
const PATIENCE: Duration = Duration::from_secs(60);

/// How moments are called.
const MOMENTS: [(&str, Moment); 7] = [
    ("vote", Moment::Vote),
    ("lead", Moment::Lead),
    ("announce", Moment::Announce),
    ("install", Moment::Install),
    ("change", Moment::Change),
    ("removal", Moment::Removal),
    ("boot", Moment::Boot),
];

type Read<T> = Result<T, String>;

pub(super) fn read(text: &str) -> Result<Script, ScriptError> {
    let mut script = Script::default();
    let mut line = 0;
    let mut lines = text.lines();
    let read = lines.by_ref().try_for_each(|text| {
        line += 1;
        match text.trim() {
            "" => Ok(()),
            text if text.starts_with('#') => Ok(()),
            text => statement(&mut script, text),
        }
    });
    read.map_err(|what| ScriptError { line, what })?;
    script.faults.sort_by_key(|planned| planned.from);
    Ok(script)
}

/// The size of the script's runs, as far as faults and changes need it.
struct Size {
    nodes: u64,
    shards: u64,
    end: Time,
}

impl Size {
    /// What was set before the first statement that needs it.
    fn of(script: &Script) -> Read<Self> {
        let set = |name: &str| {
            let missing = || format!("`set {name}` must come before this");
            script.setting(name).ok_or_else(missing)
        };
        let end = Time::ZERO.after(Duration::from_millis(set("duration-ms")?));
        Ok(Self { nodes: set("nodes")?, shards: set("shards")? + 1, end })
    }

    fn node(&self, text: &str) -> Read<NodeId> {
        numbered("node", text, self.nodes).map(NodeId)
    }

    fn time(&self, text: &str) -> Read<Time> {
        let at = Time::ZERO.after(duration(text)?);
        if at < self.end { Ok(at) } else { Err(format!("`{text}` is after the faults' end")) }
    }
}

fn numbered(what: &str, text: &str, last: u64) -> Read<u64> {
    match text.parse() {
        Ok(number) if (1..=last).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` is no {what}, they are numbered from 1 to {last}")),
    }
}

fn statement(script: &mut Script, line: &str) -> Read<()> {
    let mut words = Words(line.split_whitespace(), None);
    match words.next("a statement")? {
        "set" => setting(script, &mut words)?,
        "network" => {
            words.expect("calm")?;
            script.network = Some(NetworkProfile::CALM);
        }
        "operator" => {
            words.1 = Some(Size::of(script)?);
            operator(script, &mut words)?;
        }
        "at" => {
            words.1 = Some(Size::of(script)?);
            script.faults.push(fault(&mut words)?);
        }
        "reach" => {
            let mark = words.rest();
            if !crate::marks::ALL.contains(&mark.as_str()) {
                return Err(format!("`{mark}` is no mark of the code under test"));
            }
            script.reach.push(mark);
        }
        other => {
            return Err(format!(
                "`{other}` is no statement; known: set, network, operator, at, reach"
            ));
        }
    }
    words.end()
}

fn setting(script: &mut Script, words: &mut Words<'_>) -> Read<()> {
    let name = words.next("a setting")?;
    let Some((name, range, set)) = SETTINGS.iter().find(|(known, ..)| *known == name) else {
        let known: Vec<&str> = SETTINGS.iter().map(|(name, ..)| *name).collect();
        return Err(format!("`{name}` is no setting; known: {}", known.join(", ")));
    };
    let value: u64 = words.number("a number")?;
    if !range.contains(&value) {
        let (low, high) = (range.start(), range.end());
        return Err(format!("{name} is {value}, it must be from {low} to {high}"));
    }
    script.settings.push((name, *set, value));
    Ok(())
}

fn operator(script: &mut Script, words: &mut Words<'_>) -> Read<()> {
    let first = words.next("`random`, `late` or a time")?;
    if first == "random" {
        script.operating = Operating::Random;
        return Ok(());
    }
    if first == "late" {
        script.is_late = true;
        return Ok(());
    }
    let at = words.size()?.time(first)?;
    let change = match words.next("a change")? {
        "add" => {
            let (node, shard) = words.replica("to")?;
            let is_witness = words.may("as") && words.expect("witness").map(|()| true)?;
            let role = if is_witness { Role::Witness } else { Role::Learner };
            Change::Add(node, shard, role)
        }
        "promote" => words.replica("in").map(|(node, shard)| Change::Promote(node, shard))?,
        "remove" => words.replica("from").map(|(node, shard)| Change::Remove(node, shard))?,
        "prefer" => words.replica("in").map(|(node, shard)| Change::Prefer(node, shard))?,
        "create" => Change::Create,
        "drop" => Change::Drop,
        other => {
            return Err(format!(
                "`{other}` is no change; known: add, promote, remove, prefer, create, drop"
            ));
        }
    };
    match &mut script.operating {
        Operating::Listed(changes) => changes.push((at, change)),
        operating => *operating = Operating::Listed(vec![(at, change)]),
    }
    Ok(())
}

fn fault(words: &mut Words<'_>) -> Read<Planned> {
    let from = words.next("a time")?;
    let from = words.size()?.time(from)?;
    let cue = if words.may("on") { Some(cue(words)?) } else { None };
    let (kind, fault) = what(words)?;
    words.expect("for")?;
    let until = from.after(words.duration()?).min(words.size()?.end);
    Ok(Planned { from, until, kind, fault, cue })
}

fn cue(words: &mut Words<'_>) -> Read<Cue> {
    let name = words.next("a moment")?;
    let moment = MOMENTS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let known: Vec<&str> = MOMENTS.iter().map(|(name, _)| *name).collect();
        format!("`{name}` is no moment; known: {}", known.join(", "))
    })?;
    let lag = if words.may("after") { words.duration()? } else { Duration::ZERO };
    let patience = if words.may("within") { words.duration()? } else { PATIENCE };
    Ok(Cue { moment: moment.1, lag, patience })
}

fn what(words: &mut Words<'_>) -> Read<(FaultKind, Fault)> {
    Ok(match words.next("a fault")? {
        "crash" => crash(words)?,
        "rot" => (FaultKind::BitFlip, Fault::Rot { target: words.target()? }),
        "blackout" => (FaultKind::Blackout, Fault::Blackout),
        "pause" => (FaultKind::Pause, Fault::Pause { target: words.target()? }),
        "isolate" => {
            let target = words.target()?;
            (FaultKind::Isolate, Fault::Isolate { target, clients: Reach::Open })
        }
        "mute" => one_way(words, Direction::Outgoing)?,
        "deafen" => one_way(words, Direction::Incoming)?,
        "stall" => {
            let (target, extra) = words.slowed()?;
            (FaultKind::DiskStall, Fault::DiskStall { target, extra })
        }
        "slow" => {
            let (target, extra) = words.slowed()?;
            (FaultKind::SlowLink, Fault::SlowLink { target, extra })
        }
        "fill" => {
            let target = words.target()?;
            (FaultKind::DiskFull, Fault::DiskFull { target, short_writes: 0 })
        }
        "fail-sync" => (FaultKind::SyncFails, Fault::SyncFails { target: words.target()? }),
        "transfer" => {
            let shard = words.shard()?;
            words.expect("to")?;
            let to = words.node()?.0 as usize - 1;
            (FaultKind::Transfer, Fault::Transfer { shard: shard.0 as usize - 1, to })
        }
        "part" => {
            let mut side = 0;
            for number in words.next("nodes, as 1,2")?.split(',') {
                side |= 1 << (words.size()?.node(number)?.0 - 1);
            }
            (FaultKind::Partition, Fault::Partition { side })
        }
        "storm" => (FaultKind::Storm, Fault::Storm),
        other => {
            return Err(format!(
                "`{other}` is no fault; known: crash, rot, blackout, pause, isolate, mute, \
                 deafen, stall, slow, fill, fail-sync, transfer, part, storm"
            ));
        }
    })
}

fn crash(words: &mut Words<'_>) -> Read<(FaultKind, Fault)> {
    let target = words.target()?;
    let lost = if words.may("losing") { Some(words.next("`bit` or `stretch`")?) } else { None };
    let (kind, damage) = match lost {
        None => (FaultKind::Crash, Damage::None),
        Some("bit") => (FaultKind::BitFlip, Damage::BitFlip),
        Some("stretch") => (FaultKind::LostStretch, Damage::LostStretch),
        Some(other) => return Err(format!("`{other}` can't be lost; known: bit, stretch")),
    };
    Ok((kind, Fault::Crash { target, damage }))
}

fn one_way(words: &mut Words<'_>, direction: Direction) -> Read<(FaultKind, Fault)> {
    Ok((FaultKind::OneWay, Fault::OneWay { target: words.target()?, direction }))
}

fn duration(text: &str) -> Read<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.parse::<u32>().ok().map(u64::from);
    match (number, &text[digits.len()..]) {
        (Some(number), "ms") => Ok(Duration::from_millis(number)),
        (Some(number), "s") => Ok(Duration::from_secs(number)),
        _ => Err(format!("`{text}` is no length of time, for example 200ms or 3s")),
    }
}

/// The words of a line, and the size of the runs that they are about.
struct Words<'a>(SplitWhitespace<'a>, Option<Size>);

impl<'a> Words<'a> {
    fn size(&self) -> Read<&Size> {
        self.1.as_ref().ok_or_else(|| "this needs the size of the run".to_owned())
    }

    fn next(&mut self, wanted: &str) -> Read<&'a str> {
        self.0.next().ok_or_else(|| format!("the line ends where {wanted} is expected"))
    }

    fn expect(&mut self, word: &str) -> Read<()> {
        match self.next(&format!("`{word}`"))? {
            found if found == word => Ok(()),
            found => Err(format!("`{found}` stands where `{word}` is expected")),
        }
    }

    /// Takes the next word if it is this one.
    fn may(&mut self, word: &str) -> bool {
        let is_next = self.0.clone().next() == Some(word);
        if is_next {
            self.0.next();
        }
        is_next
    }

    fn number<T: FromStr<Err: Display>>(&mut self, wanted: &str) -> Read<T> {
        let text = self.next(wanted)?;
        text.parse().map_err(|error| format!("`{text}` is no number: {error}"))
    }

    fn duration(&mut self) -> Read<Duration> {
        duration(self.next("a length of time")?)
    }

    fn node(&mut self) -> Read<NodeId> {
        self.expect("node")?;
        let text = self.next("a node")?;
        self.size()?.node(text)
    }

    fn shard(&mut self) -> Read<ShardId> {
        self.expect("shard")?;
        let text = self.next("a shard")?;
        numbered("shard", text, self.size()?.shards).map(ShardId)
    }

    /// `node N WORD shard S`.
    fn replica(&mut self, word: &str) -> Read<(NodeId, ShardId)> {
        let node = self.node()?;
        self.expect(word)?;
        Ok((node, self.shard()?))
    }

    fn target(&mut self) -> Read<Target> {
        match self.next("whom it strikes")? {
            "actor" => Ok(Target::Actor),
            "node" => {
                let text = self.next("a node")?;
                Ok(Target::Node(self.size()?.node(text)?.0 as usize - 1))
            }
            "leader" => {
                self.expect("of")?;
                Ok(Target::LeaderOf(self.shard()?.0 as usize - 1))
            }
            other => Err(format!("`{other}` is nobody; known: node N, leader of shard S, actor")),
        }
    }

    fn slowed(&mut self) -> Read<(Target, Duration)> {
        let target = self.target()?;
        self.expect("by")?;
        Ok((target, self.duration()?))
    }

    fn rest(&mut self) -> String {
        self.0.by_ref().collect::<Vec<_>>().join(" ")
    }

    fn end(&mut self) -> Read<()> {
        match self.0.next() {
            None => Ok(()),
            Some(word) => Err(format!("`{word}` is one word too many")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_is_read() {
        let script = read(
            "# A comment.\n\
             set nodes 5\n\
             set shards 1\n\
             set duration-ms 3000\n\
             network calm\n\
             \n\
             operator 1s add node 4 to shard 1 as witness\n\
             operator 2s remove node 4 from shard 1\n\
             at 300ms on install after 1ms within 2s crash actor losing bit for 40ms\n\
             at 200ms transfer shard 2 to node 3 for 1ms\n\
             reach a snapshot was installed\n",
        )
        .unwrap();
        let at = |ms| Time::ZERO.after(Duration::from_millis(ms));
        assert_eq!((script.setting("nodes"), script.setting("lanes")), (Some(5), None));
        let (node, shard) = (NodeId(4), ShardId(1));
        assert_eq!(
            script.operating,
            Operating::Listed(vec![
                (at(1_000), Change::Add(node, shard, Role::Witness)),
                (at(2_000), Change::Remove(node, shard)),
            ])
        );
        assert_eq!(script.faults[0].fault, Fault::Transfer { shard: 1, to: 2 });
        let crash = Fault::Crash { target: Target::Actor, damage: Damage::BitFlip };
        let cue = Cue {
            moment: Moment::Install,
            lag: Duration::from_millis(1),
            patience: Duration::from_secs(2),
        };
        assert_eq!(
            script.faults[1],
            Planned {
                from: at(300),
                until: at(340),
                kind: FaultKind::BitFlip,
                fault: crash,
                cue: Some(cue),
            }
        );
        assert_eq!(script.reach, ["a snapshot was installed"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, expected) in [
            ("\njump", "line 5: `jump` is no statement"),
            ("set noses 3", "line 4: `noses` is no setting; known: nodes,"),
            ("set nodes 9", "line 4: nodes is 9, it must be from 1 to 7"),
            ("set nodes", "line 4: the line ends where a number is expected"),
            ("at 3 blackout for 1s", "line 4: `3` is no length of time"),
            ("at 99999999999s blackout for 1s", "is no length of time"),
            ("at 3s blackout for 1s or 2s", "line 4: `or` is one word too many"),
            ("at 3s pause node 8 for 1s", "`8` is no node, they are numbered from 1 to 5"),
            ("at 5s blackout for 1s", "`5s` is after the faults' end"),
            ("at 3s pause you for 1s", "`you` is nobody"),
            ("at 3s on friday blackout for 1s", "`friday` is no moment; known: vote,"),
            ("at 3s crash node 1 losing heart for 1s", "`heart` can't be lost"),
            ("operator 1s marry node 1 to shard 2", "`marry` is no change"),
            ("operator 1s add node 1 in shard 2", "`in` stands where `to` is expected"),
            ("operator 1s add node 1 to shard 0", "`0` is no shard, they are numbered from 1 to 3"),
            ("reach the moon", "`the moon` is no mark"),
        ] {
            let size = "set nodes 5\nset shards 2\nset duration-ms 5000\n";
            let error = read(&format!("{size}{text}")).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = read("set nodes 3\nat 1s storm for 1s").unwrap_err().to_string();
        assert_eq!(error, "line 2: `set duration-ms` must come before this");
    }
}
