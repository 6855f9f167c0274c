//! One watch by itself: it reads the past, passes it on into the stream's queue, and comes over to
//! the feed as soon as it is not behind any more.

use std::sync::Arc;

use atoll_base::{Code, Failure, Revision};
use atoll_client::{Changes, Keys, Watch, WatchBuilder};
use atoll_machine::KeyEnd;
use atoll_wire::etcd::{etcdserverpb as pb, mvccpb};
use bytes::Bytes;
use prost::Message;
use tokio::time::Instant;

use super::super::refusal::refused;
use super::super::{Call, translate};
use super::feed::{Feed, PROGRESS_INTERVAL, Wish, event};
use super::outbox::Gone;

/// The watch of the client library that gives what is wished for, from a revision on or from now.
pub(super) fn builder(call: &Call, wish: &Wish, from: Option<Revision>) -> WatchBuilder {
    let start = wish.start.clone();
    let keys = match wish.end.clone() {
        KeyEnd::Single => Keys::one(start),
        KeyEnd::Until(end) => Keys::between(start, end),
        KeyEnd::ToEnd => Keys::from(start),
    };
    let mut watch = call.keyspace.watch(keys).with_progress();
    if let Some(from) = from {
        watch = watch.from(from);
    }
    if wish.filter.previous {
        watch = watch.with_previous();
    }
    if wish.filter.no_put {
        watch = watch.no_puts();
    }
    if wish.filter.no_delete {
        watch = watch.no_deletes();
    }
    watch
}

/// A watch ends: because its history is gone, or for good.
pub(super) async fn ended(call: &Call, watch_id: i64, failure: &Failure) -> pb::WatchResponse {
    let compact_revision = match failure.code {
        Code::Compacted => call.compacted().await.0 as i64,
        _ => 0,
    };
    pb::WatchResponse {
        header: call.header_now(),
        watch_id,
        canceled: true,
        compact_revision,
        cancel_reason: refused(failure).message().to_owned(),
        ..Default::default()
    }
}

/// How it went on with a watch by itself.
enum Went {
    /// There is more to come.
    On,
    /// The feed has it now.
    Over,
}

/// Passes one watch on.
pub(super) struct Telling {
    pub(super) call: Arc<Call>,
    pub(super) wish: Wish,
    /// Answers are cut to this size; the feed does not do that.
    pub(super) fragment_bytes_max: Option<usize>,
    pub(super) told_at: Instant,
}

impl Telling {
    /// Goes on from a revision, when there is room for what comes.
    pub(super) async fn resume(self, next: Revision) {
        match builder(&self.call, &self.wish, Some(next)).start().await {
            Ok(watch) => self.run(watch).await,
            Err(failure) => self.end(&failure).await,
        }
    }

    pub(super) async fn run(mut self, mut watch: Watch) {
        while let Some(next) = watch.next().await {
            match next {
                Ok(changes) => match self.tell(changes).await {
                    Ok(Went::On) => {}
                    Ok(Went::Over) => return,
                    Err(Gone) => break,
                },
                Err(failure) => return self.end(&failure).await,
            }
        }
        self.wish.standing.over();
    }

    async fn end(self, failure: &Failure) {
        let end = ended(&self.call, self.wish.watch, failure).await;
        let _ = self.wish.outbox.say(Ok(end)).await;
        self.wish.standing.over();
    }

    async fn tell(&mut self, changes: Changes) -> Result<Went, Gone> {
        let Changes { events, through, .. } = changes;
        let space = &self.call.space;
        let is_newest = through >= space.newest();
        space.saw(through);
        let header = Some(space.header(through));
        let blank = pb::WatchResponse { watch_id: self.wish.watch, ..Default::default() };
        if !events.is_empty() {
            self.told_at = Instant::now();
            let events: Vec<mvccpb::Event> = events.into_iter().map(event).collect();
            let mut parts = fragments(&events, self.fragment_bytes_max).into_iter().peekable();
            while let Some(events) = parts.next() {
                let fragment = parts.peek().is_some();
                let told = pb::WatchResponse { header, fragment, events, ..blank.clone() };
                self.wish.outbox.say(Ok(told)).await?;
            }
        } else if self.wish.filter.progress && self.told_at.elapsed() >= PROGRESS_INTERVAL {
            self.told_at = Instant::now();
            self.wish.outbox.say(Ok(pb::WatchResponse { header, ..blank })).await?;
        }
        self.wish.standing.told(through);
        self.call.feed.nudge();
        if self.fragment_bytes_max.is_some() {
            return Ok(Went::On);
        }
        if is_newest {
            // If it can't be started now, this watch goes on alone.
            let _ = Feed::ensure(&self.call).await;
        }
        let is_over = self.call.feed.join(&self.wish, through.next());
        Ok(if is_over { Went::Over } else { Went::On })
    }
}

/// Cuts events into parts of at most so many bytes, one event at least, and encodes them.
fn fragments(events: &[mvccpb::Event], bytes_max: Option<usize>) -> Vec<Vec<Bytes>> {
    let bytes_max = bytes_max.unwrap_or(usize::MAX);
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for event in events {
        let event = Bytes::from(event.encode_to_vec());
        let size = event.len() + 8;
        let part = parts.last_mut().expect("there is one from the start");
        if bytes + size > bytes_max && !part.is_empty() {
            parts.push(vec![event]);
            bytes = size;
        } else {
            part.push(event);
            bytes += size;
        }
    }
    parts
}

/// Which keys a request means, or why there are none.
pub(super) fn keys(request: &pb::WatchCreateRequest) -> Result<(Bytes, KeyEnd), String> {
    let start = match request.key.is_empty() {
        true => Bytes::from_static(&[0]),
        false => request.key.clone(),
    };
    let end = &request.range_end[..];
    if !end.is_empty() && end != [0] && &start[..] >= end {
        return Err("mvcc: watcher range is empty".to_owned());
    }
    let end = translate::range_end(&start, request.range_end.clone());
    Ok((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static [u8], bytes: usize) -> mvccpb::Event {
        let value = Bytes::from(vec![7; bytes]);
        let kv = mvccpb::KeyValue { key: key.into(), value, ..Default::default() };
        mvccpb::Event { kv: Some(kv), ..Default::default() }
    }

    #[test]
    fn fragments_keep_order_and_size_and_hold_at_least_one_event() {
        let all = [put(b"a", 40), put(b"b", 40), put(b"c", 500), put(b"d", 40), put(b"e", 40)];
        let encoded: Vec<Bytes> = all.iter().map(|e| Bytes::from(e.encode_to_vec())).collect();
        assert_eq!(fragments(&all, None), std::slice::from_ref(&encoded));
        let parts = fragments(&all, Some(160));
        let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 2]);
        assert_eq!(parts.concat(), encoded);
    }
}
