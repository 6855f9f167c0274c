//! The shortest way through a machine.

use atoll_base::{Entry, EntryKind, KeyspaceId, LogIndex, Revision, ShardId, Term, Timestamp};
use atoll_machine::{
    BatchWriter, Command, KeyRange, MachineLimits, Op, PutOp, Reply, ShardMachine,
};
use atoll_storage::{Engine, MemEngine};
use bytes::Bytes;

#[test]
fn a_put_is_applied_answered_and_read() {
    let engine = MemEngine::new();
    let open = || {
        let limits = MachineLimits::default();
        ShardMachine::open(ShardId(7), KeyspaceId::DEFAULT, KeyRange::ALL, limits, &engine).unwrap()
    };
    let mut machine = open();
    let put = PutOp { key: Bytes::from("a"), value: Bytes::from("1"), ..PutOp::default() };
    let mut payload = BatchWriter::new(Timestamp(1));
    payload.push(&Command::anonymous(Op::Put(put)));
    let (term, index, kind) = (Term(1), LogIndex(1), EntryKind::Commands);
    let entry = Entry { term, index, kind, payload: payload.finish() };
    let mut replies = Vec::new();
    let mut batch = machine.begin(&engine);
    batch.apply(&entry, &mut replies).unwrap();
    let (writes, events) = batch.finish().unwrap();
    engine.write(writes).unwrap();
    assert_eq!(replies, [Reply::Put { revision: Revision(2), previous: None }]);
    assert_eq!(events.len(), 1);
    for machine in [machine, open()] {
        assert_eq!(machine.applied(), LogIndex(1));
        assert_eq!(machine.get(&engine, b"a", None).unwrap().unwrap().value, "1");
        assert_eq!(machine.get(&engine, b"a", Some(Revision(1))).unwrap(), None);
    }
}
