//! Watches.

use atoll_base::{Code, Failure, Revision};
use atoll_coord::{Told, WatchEvents, WatchSpec};
use atoll_machine::{Event, EventKind, KeyValue, Record};
use atoll_wire::v1 as pb;
use bytes::Bytes;

use super::read::{at_revision, decode_key_value, encode_end, key_value, range_end};

/// What a watch asks for.
#[must_use]
pub fn decode_watch(wire: pb::WatchRequest) -> WatchSpec {
    WatchSpec {
        end: range_end(&wire.start, wire.end),
        start: wire.start,
        from: at_revision(wire.from_revision),
        puts: told(!wire.no_puts),
        deletes: told(!wire.no_deletes),
        previous: told(wire.prev_kv),
        progress: told(wire.progress),
    }
}

fn told(wire: bool) -> Told {
    if wire { Told::Yes } else { Told::No }
}

pub(super) fn encode_watch(spec: WatchSpec) -> pb::WatchRequest {
    pb::WatchRequest {
        keyspace: String::new(),
        start: spec.start,
        end: encode_end(spec.end),
        from_revision: spec.from.unwrap_or_default().0,
        prev_kv: spec.previous == Told::Yes,
        no_puts: spec.puts == Told::No,
        no_deletes: spec.deletes == Told::No,
        progress: spec.progress == Told::Yes,
    }
}

/// The wire form of a batch of events.
#[must_use]
pub fn encode_watch_events(batch: WatchEvents) -> pb::WatchResponse {
    pb::WatchResponse {
        events: batch.events.into_iter().map(encode_event).collect(),
        through_revision: batch.through.0,
        ..Default::default()
    }
}

fn encode_event(event: Event) -> pb::Event {
    let (kind, kv) = match event.kind {
        EventKind::Put(record) => {
            (pb::event::Kind::Put, key_value(with_key(event.key.clone(), record)))
        }
        EventKind::Delete => {
            let key = event.key.clone();
            let mod_revision = event.revision.0;
            (pb::event::Kind::Delete, pb::KeyValue { key, mod_revision, ..Default::default() })
        }
    };
    let prev_kv = event.previous.map(|record| key_value(with_key(event.key, record)));
    pb::Event { kind: kind as i32, kv: Some(kv), prev_kv }
}

fn with_key(key: Bytes, record: Record) -> KeyValue {
    KeyValue {
        key,
        value: record.value,
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        lease: record.lease,
    }
}

fn without_key(kv: KeyValue) -> Record {
    Record {
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

pub(super) fn decode_watch_answer(wire: pb::WatchResponse) -> Result<WatchEvents, Failure> {
    Ok(WatchEvents {
        events: wire.events.into_iter().map(decode_event).collect::<Result<_, _>>()?,
        through: Revision(wire.through_revision),
    })
}

fn decode_event(wire: pb::Event) -> Result<Event, Failure> {
    let broken = |what: &str| Failure::new(Code::Internal, format!("a watch's event has {what}"));
    let kv = decode_key_value(wire.kv.ok_or_else(|| broken("no key"))?);
    let kind = pb::event::Kind::try_from(wire.kind)
        .map_err(|_| broken("a kind that this build does not know"))?;
    let (revision, key) = (kv.mod_revision, kv.key.clone());
    let kind = match kind {
        pb::event::Kind::Put => EventKind::Put(without_key(kv)),
        pb::event::Kind::Delete => EventKind::Delete,
    };
    let previous = wire.prev_kv.map(|kv| without_key(decode_key_value(kv)));
    Ok(Event { revision, key, kind, previous })
}
