//! A network that loses, repeats, delays and reorders, and that can be cut in any shape.
//!
//! The links that the server uses are TCP streams, yet the peer protocol promises to survive more
//! than that, so a profile decides how far one run goes. Cuts are kept per direction: a link may
//! work one way only (trap R7).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_base::{NodeId, Rng, Time};

/// A place that sends and receives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// A node of the cluster.
    Node(NodeId),
    /// A simulated client, by number.
    Client(u32),
}

/// How a network behaves while nothing is cut. Chances are per million messages.
#[derive(Clone, Copy, Debug)]
pub struct NetworkProfile {
    /// Shortest delay of a message.
    pub delay_min: Duration,
    /// Delays are drawn from `delay_min..delay_min + delay_spread`.
    pub delay_spread: Duration,
    /// Messages that take up to twenty times as long.
    pub tail_ppm: u64,
    /// Messages that vanish.
    pub loss_ppm: u64,
    /// Messages that arrive twice.
    pub duplicate_ppm: u64,
    /// Whether messages of a link keep their order, as on one TCP stream.
    pub order: LinkOrder,
}

/// Whether a link keeps the order of its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkOrder {
    /// As on one TCP stream.
    Kept,
    /// Each message travels alone.
    Free,
}

impl NetworkProfile {
    /// A quiet local network: no faults at all.
    pub const CALM: Self = Self {
        delay_min: Duration::from_micros(100),
        delay_spread: Duration::from_micros(200),
        tail_ppm: 0,
        loss_ppm: 0,
        duplicate_ppm: 0,
        order: LinkOrder::Kept,
    };

    /// A profile for one run.
    #[must_use]
    pub fn random(rng: &mut Rng) -> Self {
        let sometimes =
            |rng: &mut Rng, most: u64| if rng.chance(1, 2) { rng.below(most) } else { 0 };
        Self {
            delay_min: Duration::from_micros(rng.range(20, 2_000)),
            delay_spread: Duration::from_micros(rng.range(50, 10_000)),
            tail_ppm: sometimes(rng, 20_000),
            loss_ppm: sometimes(rng, 50_000),
            duplicate_ppm: sometimes(rng, 50_000),
            order: if rng.chance(1, 2) { LinkOrder::Kept } else { LinkOrder::Free },
        }
    }
}

/// How many messages met which fate.
#[derive(Clone, Copy, Default, Debug)]
pub struct NetworkCounts {
    /// Offered by senders.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost in a cut.
    pub cut: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Overtaken by a later message of the same link.
    pub reordered: u64,
}

/// The state of all links.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    profile: NetworkProfile,
    cuts: BTreeSet<(Place, Place)>,
    slow: BTreeMap<(Place, Place), Duration>,
    /// By link: see [`link`].
    last_arrival: BTreeMap<u64, Time>,
    counts: NetworkCounts,
}

impl Network {
    /// A whole network.
    #[must_use]
    pub fn new(rng: Rng, profile: NetworkProfile) -> Self {
        Self {
            rng,
            profile,
            cuts: BTreeSet::new(),
            slow: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            counts: NetworkCounts::default(),
        }
    }

    /// When a message sent now arrives: never, once or twice.
    pub fn send(&mut self, now: Time, from: Place, to: Place) -> [Option<Time>; 2] {
        self.counts.sent += 1;
        if self.cuts.contains(&(from, to)) {
            self.counts.cut += 1;
            return [None, None];
        }
        if self.rng.chance(self.profile.loss_ppm, 1_000_000) {
            self.counts.lost += 1;
            return [None, None];
        }
        let first = self.arrival(now, from, to);
        let again = self.rng.chance(self.profile.duplicate_ppm, 1_000_000).then(|| {
            self.counts.duplicated += 1;
            self.arrival(now, from, to)
        });
        [Some(first), again]
    }

    /// When a message sent now on a stream arrives, in order, or `None` when the stream breaks.
    pub fn stream(&mut self, now: Time, from: Place, to: Place) -> Option<Time> {
        self.counts.sent += 1;
        if self.cuts.contains(&(from, to)) {
            self.counts.cut += 1;
            return None;
        }
        // A stream hides most losses: it breaks far more rarely than a message is lost.
        if self.rng.chance(self.profile.loss_ppm / 20, 1_000_000) {
            self.counts.lost += 1;
            return None;
        }
        let order = std::mem::replace(&mut self.profile.order, LinkOrder::Kept);
        let at = self.arrival(now, from, to);
        self.profile.order = order;
        Some(at)
    }

    fn arrival(&mut self, now: Time, from: Place, to: Place) -> Time {
        let spread = u64::try_from(self.profile.delay_spread.as_nanos()).unwrap_or(u64::MAX);
        let mut delay = self.profile.delay_min + Duration::from_nanos(self.rng.below(spread));
        if self.rng.chance(self.profile.tail_ppm, 1_000_000) {
            delay *= self.rng.range(2, 20) as u32;
        }
        delay += self.slow.get(&(from, to)).copied().unwrap_or_default();
        let at = now.after(delay);
        let last = self.last_arrival.entry(link(from, to)).or_default();
        if at >= *last {
            *last = at;
            return at;
        }
        match self.profile.order {
            LinkOrder::Kept => *last,
            LinkOrder::Free => {
                self.counts.reordered += 1;
                at
            }
        }
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: Place, to: Place) {
        self.cuts.insert((from, to));
    }

    /// Cuts everything between two sides, both ways.
    pub fn part(&mut self, left: &[Place], right: &[Place]) {
        for l in left {
            for r in right {
                self.cut(*l, *r);
                self.cut(*r, *l);
            }
        }
    }

    /// Makes one direction slower by `extra`.
    pub fn slow_down(&mut self, from: Place, to: Place, extra: Duration) {
        self.slow.insert((from, to), extra);
    }

    /// True when messages of this direction vanish.
    #[must_use]
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Mends every cut and slow link.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.slow.clear();
    }

    /// Behaves like this from now on.
    pub fn use_profile(&mut self, profile: NetworkProfile) {
        self.profile = profile;
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> NetworkCounts {
        self.counts
    }
}

/// One direction between two places as one number: what is looked up for every message.
fn link(from: Place, to: Place) -> u64 {
    let number = |place| match place {
        Place::Node(node) => node.0 << 1,
        Place::Client(client) => u64::from(client) << 1 | 1,
    };
    number(from) << 32 | number(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = Place::Node(NodeId(1));
    const B: Place = Place::Node(NodeId(2));

    fn arrivals(profile: NetworkProfile, messages: u64) -> (Vec<Time>, NetworkCounts) {
        let mut network = Network::new(Rng::new(1), profile);
        let times =
            (0..messages).flat_map(|n| network.send(Time(n * 10_000), A, B)).flatten().collect();
        (times, network.counts())
    }

    #[test]
    fn a_calm_link_delivers_all_once_and_in_order() {
        let (times, _) = arrivals(NetworkProfile::CALM, 1_000);
        assert_eq!(times.len(), 1_000);
        assert!(times.is_sorted());
    }

    #[test]
    fn a_bad_link_loses_repeats_and_reorders() {
        let bad = NetworkProfile {
            loss_ppm: 100_000,
            duplicate_ppm: 100_000,
            tail_ppm: 100_000,
            order: LinkOrder::Free,
            ..NetworkProfile::CALM
        };
        let (times, counts) = arrivals(bad, 1_000);
        assert!(!times.is_sorted());
        assert!((50..200).contains(&counts.lost), "{counts:?}");
        assert!((50..200).contains(&counts.duplicated), "{counts:?}");
        assert!(counts.reordered > 0, "{counts:?}");
    }

    #[test]
    fn cuts_have_directions_and_heal() {
        let mut network = Network::new(Rng::new(1), NetworkProfile::CALM);
        network.cut(A, B);
        assert_eq!(network.send(Time::ZERO, A, B), [None, None]);
        assert!(network.send(Time::ZERO, B, A)[0].is_some());
        network.part(&[A], &[B]);
        assert!(network.is_cut(B, A));
        network.heal();
        assert!(network.send(Time::ZERO, A, B)[0].is_some());
    }
}
