//! The input queues of a node's lanes.

use atoll_base::{Code, Failure, LaneId, ShardId};
use atoll_coord::{Descriptor, Origin, Request};
use atoll_node::Input;
use atoll_replica::PeerMessage;

use super::mailbox::{Mailbox, Refused, Urgency};

/// The input queues of all lanes of a node.
#[derive(Debug)]
pub(crate) struct Lanes {
    boxes: Vec<Mailbox<Input>>,
}

impl Lanes {
    /// Queues of `count` lanes that hold `queue_max` calls or messages each.
    pub(crate) fn new(count: u16, queue_max: usize) -> Self {
        Self { boxes: (0..count.max(1)).map(|_| Mailbox::new(queue_max)).collect() }
    }

    /// How many lanes there are.
    pub(crate) fn count(&self) -> u16 {
        self.boxes.len() as u16
    }

    /// The lane that owns this shard.
    pub(crate) fn lane_of(&self, shard: ShardId) -> LaneId {
        LaneId((shard.0 % self.boxes.len() as u64) as u16)
    }

    /// The queue of one lane.
    pub(crate) fn mailbox(&self, lane: LaneId) -> &Mailbox<Input> {
        &self.boxes[usize::from(lane.0)]
    }

    /// Splits `items` by lane and keeps their order: one push per lane.
    fn split<T>(&self, items: Vec<T>, shard: impl Fn(&T) -> ShardId) -> Vec<(LaneId, Vec<T>)> {
        let Some(first) = items.first().map(|i| self.lane_of(shard(i))) else { return Vec::new() };
        if self.boxes.len() == 1 || items.iter().all(|i| self.lane_of(shard(i)) == first) {
            return vec![(first, items)];
        }
        let mut lanes: Vec<(LaneId, Vec<T>)> =
            (0..self.count()).map(|lane| (LaneId(lane), Vec::new())).collect();
        for item in items {
            lanes[usize::from(self.lane_of(shard(&item)).0)].1.push(item);
        }
        lanes.retain(|(_, items)| !items.is_empty());
        lanes
    }

    /// Hands calls to their lanes, all or none.
    ///
    /// # Errors
    /// `Overloaded` when a lane's queue is full, `ShuttingDown` when the node stops.
    pub(crate) fn submit(&self, requests: Vec<Request>) -> Result<(), Failure> {
        let parts = self.split(requests, |r| r.shard);
        if let [(lane, _)] = parts[..] {
            // One lane, the usual case: its own bound decides.
            let Some((_, requests)) = parts.into_iter().next() else { return Ok(()) };
            let weight = requests.len();
            let pushed =
                self.mailbox(lane).try_push(Input::Requests(requests), weight, Urgency::Normal);
            return pushed.map_err(|refused| refusal(lane, refused));
        }
        for (lane, part) in &parts {
            let refused = self.mailbox(*lane).would_refuse(part.len());
            if let Some(refused) = refused {
                return Err(refusal(*lane, refused));
            }
        }
        for (lane, part) in parts {
            // Room was seen a moment ago; a little more than the bound is better than half a batch.
            self.mailbox(lane).push(Input::Requests(part));
        }
        Ok(())
    }

    /// Hands over what is bounded by its source.
    pub(crate) fn submit_always(&self, requests: Vec<Request>) {
        for (lane, part) in self.split(requests, |r| r.shard) {
            self.mailbox(lane).push(Input::Requests(part));
        }
    }

    /// Hands a peer's messages to their lanes; returns how many found no room.
    pub(crate) fn deliver(&self, from: atoll_base::NodeId, messages: Vec<PeerMessage>) -> usize {
        let mut dropped = 0;
        for (lane, messages) in self.split(messages, |m| m.shard) {
            let weight = messages.len();
            let input = Input::Peer { from, messages };
            if self.mailbox(lane).try_push(input, weight, Urgency::Urgent).is_err() {
                dropped += weight;
            }
        }
        dropped
    }

    /// Tells every lane.
    pub(crate) fn tell_all(&self, input: impl Fn() -> Input) {
        for mailbox in &self.boxes {
            mailbox.push(input());
        }
    }

    /// Tells every lane what the catalog says.
    pub(crate) fn describe(&self, descriptors: &[Descriptor]) {
        self.tell_all(|| Input::Catalog(descriptors.to_vec()));
    }

    /// Tells every lane that an origin is gone.
    pub(crate) fn origin_gone(&self, origin: Origin) {
        self.tell_all(|| Input::OriginGone(origin));
    }

    /// Wakes every lane, so that it looks at what it is asked besides inputs.
    pub(crate) fn nudge(&self) {
        self.boxes.iter().for_each(Mailbox::nudge);
    }

    /// Refuses what comes from now on; lanes end after what waits.
    pub(crate) fn close(&self) {
        self.boxes.iter().for_each(Mailbox::close);
    }
}

fn refusal(lane: LaneId, refused: Refused) -> Failure {
    match refused {
        Refused::Full { waiting, limit } => Failure::new(
            Code::Overloaded,
            format!(
                "call refused: {waiting} inputs wait for lane {lane}, the limit lane_queue_max is \
                {limit}"
            ),
        ),
        Refused::Closed => Failure::new(Code::ShuttingDown, "call refused: this node is stopping"),
    }
}
