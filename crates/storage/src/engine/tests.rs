//! One suite for every engine: hand-made cases, then random lives against a map.

use std::collections::BTreeMap;

use atoll_base::Rng;

use super::*;

/// An engine that can be stopped in the three ways.
trait Bench {
    fn engine(&self) -> &dyn Engine;
    /// Ends cleanly and starts again.
    fn reopen(&mut self);
}

struct MemBench(MemEngine);

impl Bench for MemBench {
    fn engine(&self) -> &dyn Engine {
        &self.0
    }

    fn reopen(&mut self) {
        self.0.persist().unwrap();
        self.0.crash_to_persisted();
    }
}

struct FjallBench {
    dir: tempfile::TempDir,
    engine: Option<FjallEngine>,
}

fn tiny() -> FjallOptions {
    FjallOptions {
        cache_bytes: 1 << 20,
        layer_bytes: 16 << 10,
        worker_threads: 1,
        ..FjallOptions::default()
    }
}

impl FjallBench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Some(FjallEngine::open(dir.path(), tiny()).unwrap());
        Self { dir, engine }
    }
}

impl Bench for FjallBench {
    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        self.engine = None;
        self.engine = Some(FjallEngine::open(self.dir.path(), tiny()).unwrap());
    }
}

const TREES: [Tree; 4] = [
    Tree::Meta,
    Tree::Current(KeyspaceId(1)),
    Tree::History(KeyspaceId(1)),
    Tree::Current(KeyspaceId(2)),
];

type Model = BTreeMap<Tree, BTreeMap<Vec<u8>, Vec<u8>>>;

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn all(view: &dyn ReadView, tree: Tree) -> Vec<Pair> {
    let everything = (Bound::Unbounded, Bound::Unbounded);
    view.scan(tree, everything, Direction::Forward).collect::<Result<_, _>>().unwrap()
}

fn text(pairs: &[Pair]) -> String {
    let one =
        |(k, v): &Pair| format!("{}={}", String::from_utf8_lossy(k), String::from_utf8_lossy(v));
    pairs.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn conforms(bench: &mut dyn Bench) {
    let tree = Tree::Current(KeyspaceId(7));
    let other = Tree::History(KeyspaceId(7));
    assert_eq!(bench.engine().get(tree, b"a").unwrap(), None, "a tree that never was is empty");
    let empty = bench.engine().view();
    let mut batch = WriteBatch::new();
    batch.put(tree, b("a"), b("1")).put(tree, b("b"), b("2")).put(tree, b("c"), b("3"));
    batch.put(other, b("a"), b("")).put(tree, b("b"), b("4")).delete(tree, b("nothing"));
    assert_eq!((batch.len(), batch.byte_size()), (6, 16));
    bench.engine().write(batch).unwrap();
    assert_eq!(all(&*empty, tree), [], "a view never changes");
    drop(empty);
    let before = bench.engine().view();
    let mut batch = WriteBatch::new();
    batch.put(tree, b("bb"), b("5")).put(tree, b("d"), b("6"));
    batch.delete_range(tree, b("b"), Some(b("c"))).put(tree, b("ba"), b("7"));
    batch.put(tree, b("x"), b("8")).delete(tree, b("x"));
    bench.engine().write(batch).unwrap();
    assert_eq!(text(&all(&*before, tree)), "a=1 b=4 c=3");
    assert_eq!(before.get(tree, b"b").unwrap(), Some(b("4")));
    drop(before);
    for _ in 0..2 {
        let engine = bench.engine();
        let view = engine.view();
        assert_eq!(text(&all(&*view, tree)), "a=1 ba=7 c=3 d=6");
        assert_eq!(text(&all(&*view, other)), "a=");
        assert_eq!(engine.get(tree, b"x").unwrap(), None);
        assert_eq!(view.get(other, b"a").unwrap(), Some(b("")));
        let scan = |from, to, direction| {
            text(&view.scan(tree, (from, to), direction).collect::<Result<Vec<_>, _>>().unwrap())
        };
        use Bound::{Excluded, Included, Unbounded};
        use Direction::{Backward, Forward};
        assert_eq!(scan(Included(b"b"), Excluded(b"d"), Forward), "ba=7 c=3");
        assert_eq!(scan(Excluded(b"a"), Included(b"d"), Backward), "d=6 c=3 ba=7");
        assert_eq!(scan(Unbounded, Included(b"ba"), Backward), "ba=7 a=1");
        assert_eq!(scan(Included(b"d"), Excluded(b"a"), Forward), "", "inverted");
        assert_eq!(scan(Excluded(b"a"), Excluded(b"a"), Forward), "");
        drop(view);
        engine.check().unwrap();
        engine.persist().unwrap();
        bench.reopen();
    }
    let mut batch = WriteBatch::new();
    batch.delete_range(other, b(""), None).put(Tree::Meta, b("m"), b("1"));
    bench.engine().write(batch).unwrap();
    assert_eq!(all(&*bench.engine().view(), other), []);
    let refused = bench.engine().write(WriteBatch::new().put(tree, b(""), b("1")).clone());
    assert!(matches!(refused, Err(EngineError::BadKey { bytes: 0 })));
    bench.engine().drop_keyspace(KeyspaceId(7)).unwrap();
    bench.engine().drop_keyspace(KeyspaceId(8)).unwrap();
    assert_eq!(bench.engine().get(tree, b"a").unwrap(), None);
    bench.engine().write(WriteBatch::new().put(tree, b("again"), b("1")).clone()).unwrap();
    bench.reopen();
    assert_eq!(text(&all(&*bench.engine().view(), tree)), "again=1");
    assert_eq!(text(&all(&*bench.engine().view(), Tree::Meta)), "m=1");
}

#[test]
fn engines_conform() {
    conforms(&mut MemBench(MemEngine::new()));
    conforms(&mut FjallBench::new());
}

fn random_key(rng: &mut Rng) -> Vec<u8> {
    let len = rng.range(1, 4) as usize;
    (0..len).map(|_| *rng.pick(&[0, b'a', b'b', b'c', 0xff]).unwrap()).collect()
}

fn random_batch(rng: &mut Rng) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..rng.range(0, 12) {
        let tree = *rng.pick(&TREES).unwrap();
        let key = random_key(rng);
        match rng.below(10) {
            0 => {
                let to = rng.chance(3, 4).then(|| Bytes::from(random_key(rng)));
                batch.delete_range(tree, key, to);
            }
            1..=3 => {
                batch.delete(tree, key);
            }
            _ => {
                batch.put(tree, key, vec![rng.below(256) as u8; rng.below(200) as usize]);
            }
        }
    }
    batch
}

fn apply(model: &mut Model, batch: &WriteBatch) {
    for op in batch.ops() {
        match op {
            EngineOp::Put { tree, key, value } => {
                model.entry(*tree).or_default().insert(key.to_vec(), value.to_vec());
            }
            EngineOp::Delete { tree, key } => {
                model.entry(*tree).or_default().remove(&key[..]);
            }
            EngineOp::DeleteRange { tree, from, to } => {
                let inside = |k: &[u8]| k >= &from[..] && to.as_ref().is_none_or(|to| k < &to[..]);
                model.entry(*tree).or_default().retain(|k, _| !inside(k));
            }
        }
    }
}

fn same(view: &dyn ReadView, model: &Model, rng: &mut Rng, what: &str) {
    for tree in TREES {
        let expected = model.get(&tree).cloned().unwrap_or_default();
        let (from, to) = (random_key(rng), random_key(rng));
        let inside = |k: &&Vec<u8>| **k >= from && **k <= to;
        let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        let found = view.scan(tree, range, Direction::Backward).map(|pair| pair.unwrap().0);
        let expected_keys = expected.keys().filter(inside).rev().cloned();
        assert!(found.eq(expected_keys), "{what}: {tree:?} {from:?}..={to:?}");
        let mut digest = Digest::default();
        for (key, value) in expected.iter().filter(|(key, _)| inside(key)) {
            digest.add(digest::of_pair(key, value));
        }
        let found = view.digest(tree, range).unwrap();
        assert_eq!(found, digest.finish(), "{what}: {tree:?} {from:?}..={to:?}");
        let found = all(view, tree).into_iter().map(|(k, v)| (k.to_vec(), v.to_vec()));
        assert!(found.eq(expected.clone()), "{what}: {tree:?}");
        let key = random_key(rng);
        let found = view.get(tree, &key).unwrap().map(|v| v.to_vec());
        assert_eq!(found.as_ref(), expected.get(&key), "{what}: {tree:?} {key:?}");
    }
}

fn live(bench: &mut dyn Bench, seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let mut model = Model::new();
    let mut views: Vec<(Box<dyn ReadView>, Model)> = Vec::new();
    for step in 0..steps {
        let what = format!("seed {seed} step {step}");
        let batch = random_batch(&mut rng);
        apply(&mut model, &batch);
        bench.engine().write(batch).unwrap();
        same(&*bench.engine().view(), &model, &mut rng, &what);
        for tree in TREES.into_iter().cycle().take(12) {
            let key = random_key(&mut rng);
            let found = bench.engine().get(tree, &key).unwrap();
            let expected = model.get(&tree).and_then(|pairs| pairs.get(&key));
            assert_eq!(found.as_deref(), expected.map(|v| &v[..]), "{what}: {tree:?} {key:?}");
        }
        match rng.below(30) {
            0 => {
                views.clear();
                bench.reopen();
            }
            1..=3 => bench.engine().persist().unwrap(),
            4 => {
                views.clear();
                bench.engine().drop_keyspace(KeyspaceId(1)).unwrap();
                model.retain(|tree, _| matches!(tree, Tree::Meta | Tree::Current(KeyspaceId(2))));
            }
            5..=9 => views.push((bench.engine().view(), model.clone())),
            10..=12 if !views.is_empty() => {
                views.remove(0);
            }
            _ => {}
        }
        for (view, seen) in &views {
            same(&**view, seen, &mut rng, &what);
        }
    }
}

#[test]
fn engines_match_a_map() {
    for seed in 0..40 {
        live(&mut MemBench(MemEngine::new()), seed, 150);
    }
    for seed in 0..2 {
        live(&mut FjallBench::new(), seed, 90);
    }
}

#[test]
fn a_crash_of_the_memory_engine_leaves_a_prefix_from_the_persisted_on() {
    let mut kept = BTreeMap::<usize, u32>::new();
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let engine = MemEngine::new();
        let mut models = vec![Model::new()];
        for n in 0..8 {
            let batch = random_batch(&mut rng);
            let mut next = models[n].clone();
            apply(&mut next, &batch);
            models.push(next);
            engine.write(batch).unwrap();
            if n == 3 {
                engine.persist().unwrap();
            }
        }
        engine.crash(&mut rng);
        let found: Model = TREES
            .iter()
            .map(|tree| (*tree, all(&*engine.view(), *tree)))
            .map(|(tree, pairs)| {
                (tree, pairs.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect())
            })
            .collect();
        let is_found =
            |m: &Model| TREES.iter().all(|t| m.get(t).unwrap_or(&BTreeMap::new()) == &found[t]);
        let at = models.iter().rposition(is_found).expect("a prefix");
        assert!(at >= 4, "seed {seed}: persisted batches survive");
        *kept.entry(at).or_default() += 1;
    }
    assert_eq!(kept.keys().copied().collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
}

#[test]
fn a_full_memory_engine_refuses_until_there_is_room() {
    let engine = MemEngine::new();
    engine.fill_disk();
    let batch = WriteBatch::new().put(Tree::Meta, b("a"), b("1")).clone();
    assert!(matches!(engine.write(batch.clone()), Err(EngineError::DiskFull { .. })));
    engine.free_disk();
    engine.write(batch).unwrap();
}

#[test]
fn fjall_that_lost_a_persist_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let engine = FjallEngine::open(dir.path(), tiny()).unwrap();
    for n in 0..20_u8 {
        engine.write(WriteBatch::new().put(Tree::Meta, vec![n], vec![n; 100]).clone()).unwrap();
        engine.persist().unwrap();
    }
    drop(engine);
    let journals = std::fs::read_dir(dir.path().join("fjall")).unwrap();
    let journal = journals
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "jnl"))
        .unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[700] ^= 4;
    std::fs::write(&journal, bytes).unwrap();
    let damaged = FjallEngine::open(dir.path(), tiny()).err();
    assert!(matches!(damaged, Some(EngineError::Damaged { .. })), "{damaged:?}");
}

#[test]
fn a_flipped_bit_in_a_table_of_fjall_is_damage_not_a_missing_key() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::Current(KeyspaceId(1));
    let engine = FjallEngine::open(dir.path(), tiny()).unwrap();
    let tables = dir.path().join("fjall/keyspaces");
    let is_table = |path: &std::path::PathBuf| {
        path.parent().unwrap().ends_with("tables")
            && std::fs::metadata(path).is_ok_and(|meta| meta.len() > 10_000)
    };
    // Flushes happen in the background, but a tree waits when four are due.
    for n in 0..2000_u32 {
        let key = n.to_be_bytes().to_vec();
        engine.write(WriteBatch::new().put(tree, key, vec![n as u8; 100]).clone()).unwrap();
    }
    assert!(files_below(&tables).iter().any(is_table), "a table is there to be damaged");
    engine.persist().unwrap();
    drop(engine);
    for path in files_below(&tables).iter().filter(|path| is_table(path)) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[5000] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    match FjallEngine::open(dir.path(), tiny()) {
        Err(error) => assert!(matches!(error, EngineError::Damaged { .. }), "{error}"),
        Ok(engine) => {
            let checked = engine.check();
            assert!(matches!(checked, Err(EngineError::Damaged { .. })), "{checked:?}");
        }
    }
}

fn files_below(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    // Files come and go while the engine compacts.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What a crash leaves of a flush that had written its redo file.
fn interrupted_flush(dir: &std::path::Path) -> super::layer::Layer {
    let engine = FjallEngine::open(dir, tiny()).unwrap();
    let both = |value: &str| {
        let mut batch = WriteBatch::new();
        batch.put(Tree::Meta, b("m"), b(value)).put(TREES[1], b("k"), b(value));
        batch.put(TREES[2], b("h"), b(value)).delete(TREES[1], b("gone"));
        batch
    };
    let mut first = both("1");
    first.put(TREES[1], b("gone"), b("1"));
    engine.write(first).unwrap();
    engine.persist().unwrap();
    drop(engine);
    let layer = super::layer::Layer::default();
    layer.write(both("2"));
    super::redo::RedoFile::new(dir).write(2, &layer.runs()).unwrap();
    layer
}

fn values(engine: &FjallEngine) -> String {
    let view = engine.view();
    TREES.map(|tree| text(&all(&*view, tree))).join("; ")
}

const BEFORE: &str = "m=1; gone=1 k=1; h=1; ";
const AFTER: &str = "m=2; k=2; h=2; ";

#[test]
fn a_flush_that_a_crash_interrupted_is_carried_out_whole() {
    let dir = tempfile::tempdir().unwrap();
    interrupted_flush(dir.path());
    for _ in 0..2 {
        assert_eq!(values(&FjallEngine::open(dir.path(), tiny()).unwrap()), AFTER);
        assert!(!dir.path().join("redo").exists());
    }
}

#[test]
fn a_flush_that_failed_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let tables = super::tables::Tables::open(dir.path(), &tiny()).unwrap();
    let layer = |trees: &[Tree], value: &str| {
        let mut batch = WriteBatch::new();
        for tree in trees {
            batch.put(*tree, b("k"), b(value));
        }
        let layer = super::layer::Layer::default();
        layer.write(batch);
        layer
    };
    tables.flush(&layer(&TREES[..2], "1")).unwrap();
    let runs = |tree: Tree| tables.trees()[&tree].table_count();
    assert_eq!((runs(TREES[0]), runs(TREES[1])), (1, 1));
    // Links to nowhere stand where the next trees' folders would be.
    let folders = dir.path().join("fjall/keyspaces");
    let in_the_way: Vec<_> = (0..20)
        .map(|n| folders.join(n.to_string()))
        .filter(|path| std::os::unix::fs::symlink(folders.join("nowhere"), path).is_ok())
        .collect();
    let next = layer(&TREES, "2");
    for _ in 0..3 {
        assert!(tables.flush(&next).is_err());
        assert_eq!((runs(TREES[0]), runs(TREES[1])), (2, 2), "no run comes in twice");
        assert!(dir.path().join("redo").exists());
    }
    in_the_way.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    tables.flush(&next).unwrap();
    assert_eq!(TREES.map(runs), [2, 2, 1, 1]);
    assert!(!dir.path().join("redo").exists());
    tables.flush(&layer(&TREES, "3")).unwrap();
    assert_eq!(TREES.map(runs), [3, 3, 2, 2], "the next flush begins anew");
}

#[test]
fn a_flush_that_reached_one_tree_before_the_crash_is_carried_out_whole() {
    let dir = tempfile::tempdir().unwrap();
    interrupted_flush(dir.path());
    let db = ::fjall::Database::builder(dir.path().join("fjall")).open().unwrap();
    let tree = db.keyspace("current-1", ::fjall::KeyspaceCreateOptions::default).unwrap();
    let mut run = tree.start_ingestion().unwrap();
    run.write(&b"k"[..], &b"2"[..]).unwrap();
    run.finish().unwrap();
    drop((tree, db));
    assert_eq!(values(&FjallEngine::open(dir.path(), tiny()).unwrap()), AFTER);
}

#[test]
fn a_redo_file_that_never_was_whole_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    interrupted_flush(dir.path());
    let (whole, unfinished) = (dir.path().join("redo"), dir.path().join("redo.unfinished"));
    std::fs::rename(&whole, &unfinished).unwrap();
    assert_eq!(values(&FjallEngine::open(dir.path(), tiny()).unwrap()), BEFORE);
    assert!(!unfinished.exists());
}

#[test]
fn a_redo_file_of_a_flush_that_ended_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = interrupted_flush(dir.path());
    drop(FjallEngine::open(dir.path(), tiny()).unwrap());
    super::redo::RedoFile::new(dir.path()).write(2, &layer.runs()).unwrap();
    assert_eq!(values(&FjallEngine::open(dir.path(), tiny()).unwrap()), AFTER);
    assert!(!dir.path().join("redo").exists());
}

#[test]
fn a_damaged_redo_file_is_damage_wherever_the_bit_is() {
    let dir = tempfile::tempdir().unwrap();
    interrupted_flush(dir.path());
    let path = dir.path().join("redo");
    let whole = std::fs::read(&path).unwrap();
    let damage = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        match FjallEngine::open(dir.path(), tiny()).map(|engine| values(&engine)) {
            Err(EngineError::Damaged { .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        damage(&bytes, &format!("bit flipped in byte {at}"));
    }
    for len in [0, 7, 30, whole.len() - 1] {
        damage(&whole[..len], &format!("cut to {len} bytes"));
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(values(&FjallEngine::open(dir.path(), tiny()).unwrap()), AFTER);
}

#[test]
fn layers_are_flushed_while_views_and_scans_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = FjallEngine::open(dir.path(), tiny()).unwrap();
    let put = |n: u32, round: u32| {
        let key = (n % 500).to_be_bytes().to_vec();
        let value = vec![round as u8; 100];
        let mut batch = WriteBatch::new();
        batch.put(TREES[1], key.clone(), value.clone()).put(TREES[2], key, value);
        engine.write(batch).unwrap();
    };
    (0..500).for_each(|n| put(n, 0));
    let view = engine.view();
    let mut scan = view.scan(TREES[1], (Bound::Unbounded, Bound::Unbounded), Direction::Forward);
    let mut seen = 0;
    // Each round fills several layers.
    for round in 1..8 {
        (0..500).for_each(|n| put(n, round));
        for pair in scan.by_ref().take(70) {
            assert_eq!(pair.unwrap().1, vec![0; 100], "a view never changes");
            seen += 1;
        }
    }
    seen += scan.count();
    assert_eq!(seen, 500);
    assert_eq!(all(&*view, TREES[2]).len(), 500);
    assert!(all(&*view, TREES[2]).iter().all(|(_, value)| value == &vec![0; 100]));
    drop(view);
    assert!(all(&*engine.view(), TREES[2]).iter().all(|(_, value)| value == &vec![7; 100]));
}

#[test]
fn point_reads_beside_flushes_see_the_newest_write() {
    let dir = tempfile::tempdir().unwrap();
    let engine = FjallEngine::open(dir.path(), tiny()).unwrap();
    let key = |n: u32| n.to_be_bytes();
    let round_of = |n: u32| {
        let value = engine.get(TREES[1], &key(n)).unwrap();
        value.map_or(0, |value| u32::from(value[0]))
    };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Others read what the writer writes: what they keep must not outlive it.
        for reader in 0..2 {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut rng = Rng::new(reader);
                let mut seen = [0; 500];
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let n = rng.below(500) as u32;
                    let round = round_of(n);
                    assert!(round >= seen[n as usize], "key {n} went back to round {round}");
                    seen[n as usize] = round;
                }
            });
        }
        for round in 1..20 {
            for n in 0..500 {
                let mut batch = WriteBatch::new();
                batch.put(TREES[1], key(n).to_vec(), vec![round as u8; 100]);
                engine.write(batch).unwrap();
                assert_eq!(round_of(n), round);
                let other = (n * 7 + 3) % 500;
                assert_eq!(round_of(other), if other <= n { round } else { round - 1 });
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn trees_made_after_a_drop_and_a_crash_stay() {
    let dir = tempfile::tempdir().unwrap();
    let keep = |engine: &FjallEngine, n: u32| {
        let tree = Tree::Current(KeyspaceId(n));
        let history = Tree::History(KeyspaceId(n));
        let mut batch = WriteBatch::new();
        batch.put(tree, b("k"), b("1")).put(history, b("k"), b("1"));
        engine.write(batch).unwrap();
        engine.persist().unwrap();
    };
    let mut kept = Vec::new();
    for round in 0..6 {
        let engine = FjallEngine::open(dir.path(), tiny()).unwrap();
        for n in &kept {
            let found = engine.get(Tree::Current(KeyspaceId(*n)), b"k").unwrap();
            assert_eq!(found, Some(b("1")), "round {round}: keyspace {n} is gone");
        }
        keep(&engine, 100 + round);
        kept.push(100 + round);
        for scratch in 0..round + 1 {
            keep(&engine, 200 + scratch);
        }
        for scratch in 0..round + 1 {
            engine.drop_keyspace(KeyspaceId(200 + scratch)).unwrap();
        }
        // Nothing is flushed after the drops, as after a crash.
        drop(engine);
    }
}

#[test]
fn persist_ends_while_others_write_without_pause() {
    let dir = tempfile::tempdir().unwrap();
    let engine = FjallEngine::open(dir.path(), tiny()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let is_stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for thread in 0..2_u8 {
            let (engine, is_stopped) = (&engine, &is_stopped);
            scope.spawn(move || {
                let mut n = 0_u32;
                while !is_stopped() {
                    n += 1;
                    let mut key = vec![thread];
                    key.extend((n % 1000).to_be_bytes());
                    engine
                        .write(WriteBatch::new().put(TREES[1], key, vec![1; 400]).clone())
                        .unwrap();
                }
            });
        }
        for _ in 0..5 {
            engine.persist().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn scans_beside_flushes_see_their_view() {
    const KEYS: u32 = 300;
    let dir = tempfile::tempdir().unwrap();
    let engine = FjallEngine::open(dir.path(), tiny()).unwrap();
    // All keys change in one batch: a view has the same value everywhere.
    let write = |round: u8| {
        let mut batch = WriteBatch::new();
        for n in 0..KEYS {
            batch.put(TREES[1], n.to_be_bytes().to_vec(), vec![round; 60]);
        }
        engine.write(batch).unwrap();
    };
    write(1);
    let scan = |view: &dyn ReadView, rng: &mut Rng| -> u8 {
        let (a, b) = (rng.below(u64::from(KEYS)) as u32, rng.below(u64::from(KEYS)) as u32);
        let (from, to) = (a.min(b).to_be_bytes(), a.max(b).to_be_bytes());
        let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        let pairs = view.scan(TREES[1], range, Direction::Forward);
        let pairs: Vec<_> = pairs.map(Result::unwrap).collect();
        assert_eq!(pairs.len(), a.abs_diff(b) as usize + 1);
        assert!(pairs.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 == w[1].1), "{from:?}..={to:?}");
        pairs[0].1[0]
    };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (is_over, engine) = (&is_over, &engine);
            scope.spawn(move || {
                let mut rng = Rng::new(reader);
                let mut older = engine.view();
                let mut newest = 1;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let view = engine.view();
                    let round = scan(&*view, &mut rng);
                    assert!(round >= newest, "went back from round {newest} to {round}");
                    newest = round;
                    let before = scan(&*older, &mut rng);
                    assert_eq!(before, scan(&*older, &mut rng), "a view never changes");
                    assert!(before <= round);
                    if rng.below(5) == 0 {
                        older = view;
                    }
                }
            });
        }
        for round in 2..=120 {
            write(round);
            if round % 5 == 0 {
                engine.persist().unwrap();
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mut rng = Rng::new(9);
    assert_eq!(scan(&*engine.view(), &mut rng), 120);
    assert!(engine.stretches_bytes() > 0, "scans keep what they found");
}
