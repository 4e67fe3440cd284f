use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, mpsc};

use super::*;
use crate::directory::DataDirectory;

struct Scratch {
    _dir: tempfile::TempDir,
    directory: DataDirectory,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        Self { _dir: dir, directory }
    }

    fn paths(&self) -> &Paths {
        self.directory.paths()
    }

    fn store(&self) -> Store {
        self.open().unwrap()
    }

    fn open(&self) -> Result<Store, StoreError> {
        Store::open(self.paths(), Opening::Exclusive, u64::MAX)
    }

    /// Puts a byte into the database file, which no store has open.
    fn poke(&self, offset: u64, change: impl FnOnce(u8) -> u8) {
        let path = self.paths().database().join("data.mdb");
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[change(byte[0])], offset).unwrap();
    }
}

fn large(fill: u8) -> Vec<u8> {
    vec![fill; INLINE_BYTES_MAX as usize + 1]
}

fn journal(store: &Store) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let collect = |_, record: &[u8]| {
        records.push(record.to_vec());
        ControlFlow::Continue(())
    };
    store.records(collect).unwrap();
    records
}

fn append(store: &Store, seqs: std::ops::Range<u64>) {
    let records: Vec<_> = seqs.map(|seq| (JournalSeq(seq), vec![seq as u8; 100])).collect();
    store.append(records.iter().map(|(seq, record)| (*seq, record.as_slice()))).unwrap();
}

#[test]
fn blobs_of_every_size_come_back_after_a_restart() {
    let scratch = Scratch::new();
    let at_limit = vec![7; INLINE_BYTES_MAX as usize];
    let blobs: Vec<&[u8]> = vec![b"", b"small", &at_limit];
    let (hashes, big) = {
        let store = scratch.store();
        (store.put_all(&blobs).unwrap(), store.put(&large(1)).unwrap())
    };
    let store = scratch.store();
    for (hash, bytes) in hashes.iter().zip(&blobs) {
        assert_eq!(store.get(hash).unwrap(), *bytes);
    }
    assert_eq!(store.get(&big).unwrap(), large(1));
    assert_eq!(store.bytes_used(), 5 + 2 * INLINE_BYTES_MAX + 1);
    let file = scratch.paths().blobs().join(format!("{big:.2}")).join(big.to_string());
    assert_eq!(fs::read(file).unwrap(), large(1));
}

#[test]
fn storing_a_blob_twice_takes_its_room_once() {
    let scratch = Scratch::new();
    let store = scratch.store();
    for _ in 0..2 {
        store.put_all(&[b"twin", b"twin", &large(1)]).unwrap();
        assert_eq!(store.bytes_used(), 4 + INLINE_BYTES_MAX + 1);
    }
}

#[test]
fn a_removed_blob_is_missing_and_its_file_gone() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let hashes = store.put_all(&[b"small", &large(1)]).unwrap();
    assert_eq!(store.remove(&hashes).unwrap(), Collected { blobs: 2, bytes: 5 + INLINE_BYTES_MAX + 1 });
    for hash in &hashes {
        assert!(matches!(store.get(hash), Err(StoreError::Blob { what: Damage::Missing, .. })));
        assert!(!store.contains(hash).unwrap());
    }
    assert_eq!(store.bytes_used(), 0);
    assert_eq!(store.remove(&hashes).unwrap(), Collected::default());
    let left = scratch.paths().blobs().join(format!("{:.2}", hashes[1]));
    assert_eq!(fs::read_dir(left).unwrap().count(), 0);
}

#[test]
fn a_changed_cut_or_deleted_blob_file_is_told_apart() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let hash = store.put(&large(1)).unwrap();
    let file = scratch.paths().blobs().join(format!("{hash:.2}")).join(hash.to_string());
    let mut bytes = large(1);
    bytes[70_000] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert!(matches!(store.get(&hash), Err(StoreError::Blob { what: Damage::Hash, .. })));
    fs::write(&file, &bytes[1..]).unwrap();
    assert!(matches!(store.get(&hash), Err(StoreError::Blob { what: Damage::Length, .. })));
    fs::remove_file(&file).unwrap();
    assert!(matches!(store.get(&hash), Err(StoreError::Blob { what: Damage::Missing, .. })));
    // Storing it once more mends it.
    assert_eq!(store.put(&large(1)).unwrap(), hash);
    assert_eq!(store.get(&hash).unwrap(), large(1));
}

#[test]
fn the_budget_refuses_what_does_not_fit_and_keeps_what_does() {
    let scratch = Scratch::new();
    let store = Store::open(scratch.paths(), Opening::Exclusive, 10).unwrap();
    let kept = store.put(b"12345678").unwrap();
    let error = store.put(b"abc").unwrap_err();
    assert!(matches!(error, StoreError::Budget { needed: 3, used: 8, budget: 10 }), "{error}");
    assert!(error.is_full());
    assert_eq!(Fault::from(error), Fault::DiskFull { needed: 3 });
    store.put(b"12345678").unwrap();
    store.remove(&[kept]).unwrap();
    store.put(b"abc").unwrap();
}

#[test]
fn what_no_fact_names_is_collected() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let hashes = store.put_all(&[b"named", b"orphan", &large(1), &large(2)]).unwrap();
    let stray = scratch.paths().blobs().join("ab");
    fs::create_dir_all(&stray).unwrap();
    fs::write(stray.join("half.tmp"), "half a blob").unwrap();
    let named = BTreeSet::from([hashes[0], hashes[2]]);
    let collected = store.collect(&named).unwrap();
    assert_eq!(collected, Collected { blobs: 3, bytes: 6 + INLINE_BYTES_MAX + 1 + 11 });
    assert_eq!(store.get(&hashes[0]).unwrap(), b"named");
    assert_eq!(store.get(&hashes[2]).unwrap(), large(1));
    assert!(store.get(&hashes[1]).is_err() && store.get(&hashes[3]).is_err());
    assert_eq!(fs::read_dir(stray).unwrap().count(), 0);
    assert_eq!(store.collect(&named).unwrap(), Collected::default());
}

#[test]
fn the_journal_keeps_its_records_in_order() {
    let scratch = Scratch::new();
    {
        let store = scratch.store();
        append(&store, 0..2);
        append(&store, 2..300);
    }
    let store = scratch.store();
    let records = journal(&store);
    assert_eq!(records.len(), 300);
    assert!(records.iter().enumerate().all(|(seq, record)| *record == vec![seq as u8; 100]));
    assert_eq!(store.journal_len().unwrap(), 300);
}

#[test]
fn a_trimmed_journal_goes_on_with_the_next_number() {
    let scratch = Scratch::new();
    {
        let store = scratch.store();
        append(&store, 0..10);
        store.trim(JournalSeq(7)).unwrap();
        assert_eq!(journal(&store).len(), 3);
        store.trim(JournalSeq(99)).unwrap();
        assert_eq!(journal(&store), [vec![9; 100]]);
    }
    let store = scratch.store();
    append(&store, 10..11);
    assert_eq!(journal(&store).len(), 2);
}

#[test]
#[should_panic(expected = "journal record 3 after Some(2)")]
fn a_gap_in_the_numbers_is_the_cores_mistake() {
    let scratch = Scratch::new();
    let store = scratch.store();
    append(&store, 0..2);
    append(&store, 3..4);
}

#[test]
fn a_damaged_or_missing_record_is_named() {
    let scratch = Scratch::new();
    {
        let store = scratch.store();
        append(&store, 0..5);
        let mut transaction = store.env.write_txn().unwrap();
        let value = store.journal.get(&transaction, &3).unwrap().unwrap().to_vec();
        store.journal.put(&mut transaction, &2, &value).unwrap();
        transaction.commit().unwrap();
        let error = store.records(|_, _| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, StoreError::Journal { seq: JournalSeq(2), what: Damage::Hash, .. }), "{error}");
        let mut transaction = store.env.write_txn().unwrap();
        store.journal.delete(&mut transaction, &2).unwrap();
        transaction.commit().unwrap();
    }
    let error = scratch.store().records(|_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, StoreError::Journal { seq: JournalSeq(3), what: Damage::Missing, .. }), "{error}");
    assert!(error.to_string().contains("neuroshard keys backup"), "{error}");
}

#[test]
fn a_reader_sees_what_the_running_node_wrote() {
    let scratch = Scratch::new();
    let empty = Store::open(scratch.paths(), Opening::ReadOnly, 0);
    assert!(empty.is_err(), "nothing was stored yet");
    let writer = scratch.store();
    append(&writer, 0..3);
    let hash = writer.put(b"shared").unwrap();
    drop(writer);
    let reader = Store::open(scratch.paths(), Opening::ReadOnly, 0).unwrap();
    assert_eq!(journal(&reader).len(), 3);
    assert_eq!(reader.get(&hash).unwrap(), b"shared");
    assert!(reader.put(b"new").is_err());
}

/// A database with every kind of page: branches, leaves, large values and a free list.
fn filled(scratch: &Scratch) -> Vec<Hash> {
    let store = scratch.store();
    append(&store, 0..2000);
    let blobs: Vec<Vec<u8>> = (0..60_u8).map(|i| vec![i; 300 * usize::from(i)]).collect();
    let hashes = store.put_all(&blobs.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    store.remove(&hashes[20..40]).unwrap();
    hashes
}

#[test]
fn a_healthy_database_passes_the_check() {
    let scratch = Scratch::new();
    filled(&scratch);
    assert_eq!(journal(&scratch.store()).len(), 2000);
}

#[test]
fn a_database_cut_short_is_refused_with_the_reason() {
    let scratch = Scratch::new();
    filled(&scratch);
    let path = scratch.paths().database().join("data.mdb");
    let len = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for cut in [len / 2, 5000, 100] {
        file.set_len(cut).unwrap();
        let error = scratch.open().unwrap_err();
        assert!(matches!(error, StoreError::Structure { .. }), "{cut}: {error}");
        assert!(error.to_string().contains("Copy a backup"), "{error}");
    }
    fs::write(&path, vec![b'x'; 20_000]).unwrap();
    assert!(scratch.open().unwrap_err().to_string().contains("not one of LMDB"));
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_or_harmless_but_never_a_crash() {
    let scratch = Scratch::new();
    let hashes = filled(&scratch);
    let path = scratch.paths().database().join("data.mdb");
    let len = fs::metadata(&path).unwrap().len();
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    // Every header and a sample of everything else.
    let headers = (0..len / 4096).flat_map(|page| (0..24).map(move |byte| page * 4096 + byte)).step_by(11);
    for offset in headers.chain((0..len).step_by(4001)) {
        scratch.poke(offset, |byte| byte ^ (1 << (offset % 8)));
        match scratch.open() {
            Err(_) => refused += 1,
            Ok(store) => {
                // What is read is either right or refused.
                let mut next = 0;
                let ends = store.records(|seq, record| {
                    assert_eq!((seq.0, record), (next, &[next as u8; 100][..]));
                    next += 1;
                    ControlFlow::Continue(())
                });
                assert!(ends.is_err() || next == 2000, "offset {offset}: {next} records");
                for (i, hash) in hashes.iter().enumerate().filter(|(i, _)| !(20..40).contains(i)) {
                    if let Ok(bytes) = store.get(hash) {
                        assert_eq!(bytes, vec![i as u8; 300 * i]);
                    }
                }
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn the_scribe_reports_each_record_once_it_is_durable() {
    let scratch = Scratch::new();
    let store = Arc::new(scratch.store());
    let blob = store.put(b"old").unwrap();
    let (sender, reports) = mpsc::channel();
    let scribe = Scribe::start(Arc::clone(&store), move |report| sender.send(report).unwrap()).unwrap();
    futures_lite::future::block_on(async {
        for seq in 0..50 {
            scribe.order(StoreOrder::Persist { seq: JournalSeq(seq), record: vec![seq as u8; 100] }).await;
        }
        scribe.order(StoreOrder::Drop { hash: blob }).await;
        scribe.order(StoreOrder::Trim { before: JournalSeq(40) }).await;
    });
    drop(scribe);
    let upto: Vec<u64> = reports
        .iter()
        .map(|report| match report {
            ScribeReport::Persisted { upto } => upto.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(upto.is_sorted() && upto.last() == Some(&49), "{upto:?}");
    assert_eq!(journal(&store), (40..50).map(|seq| vec![seq; 100]).collect::<Vec<_>>());
    assert!(!store.contains(&blob).unwrap());
}

#[test]
fn a_full_disk_is_waited_out_and_loses_nothing() {
    let scratch = Scratch::new();
    // A map of 1 MiB stands for the disk.
    let store = Arc::new(Store::open_within(scratch.paths(), Opening::Exclusive, u64::MAX, 1 << 20).unwrap());
    let (sender, reports) = mpsc::channel();
    let scribe = Scribe::start(Arc::clone(&store), move |report| sender.send(report).unwrap()).unwrap();
    let record = |seq: u64| vec![seq as u8; 150_000];
    let persist = |seq| StoreOrder::Persist { seq: JournalSeq(seq), record: record(seq) };
    let mut upto = None;
    let mut next = 0;
    let error = loop {
        futures_lite::future::block_on(scribe.order(persist(next)));
        next += 1;
        match reports.recv().unwrap() {
            ScribeReport::Persisted { upto: seq } => upto = Some(seq.0),
            ScribeReport::Waiting { error } => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(error.is_full() && upto == Some(next - 2), "{error}, {upto:?} of {next}");
    assert_eq!(store.journal_len().unwrap(), next - 1);
    // Somebody makes room; LMDB reuses what a transaction freed once another one has followed.
    store.trim(JournalSeq(next - 3)).unwrap();
    store.put(b"another transaction").unwrap();
    assert!(matches!(reports.recv().unwrap(), ScribeReport::Recovered));
    assert!(matches!(reports.recv().unwrap(), ScribeReport::Persisted { upto } if upto.0 == next - 1));
    drop(scribe);
    assert_eq!(journal(&store), [record(next - 3), record(next - 2), record(next - 1)]);
}

#[test]
fn a_scribe_that_is_let_go_while_the_disk_is_full_says_that_it_failed() {
    let scratch = Scratch::new();
    let store = Arc::new(Store::open_within(scratch.paths(), Opening::Exclusive, u64::MAX, 1 << 20).unwrap());
    let (sender, reports) = mpsc::channel();
    let scribe = Scribe::start(Arc::clone(&store), move |report| sender.send(report).unwrap()).unwrap();
    let record = vec![1; 2 << 20];
    futures_lite::future::block_on(scribe.order(StoreOrder::Persist { seq: JournalSeq(0), record }));
    assert!(matches!(reports.recv().unwrap(), ScribeReport::Waiting { .. }));
    drop(scribe);
    assert!(matches!(reports.recv().unwrap(), ScribeReport::Failed { error } if error.is_full()));
    assert_eq!(store.journal_len().unwrap(), 0);
}

#[test]
fn what_passes_between_stages_is_in_memory_alone_until_it_is_dropped() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let mut blobs = StoreBlobs(Arc::new(store));
    let hash = blobs.put_transient(vec![7; 1000]).unwrap();
    assert_eq!(blobs.get(&hash), Ok(vec![7; 1000]));
    assert!(blobs.0.contains(&hash).unwrap());
    assert_eq!((blobs.0.transient_bytes(), blobs.0.bytes_used()), (1000, 0));
    blobs.0.remove(&[hash]).unwrap();
    assert_eq!(blobs.get(&hash), Err(Fault::BlobMissing { hash }));
    assert_eq!(blobs.0.transient_bytes(), 0);
    blobs.put_transient(vec![7; 1000]).unwrap();
    drop(blobs);
    assert!(!scratch.store().contains(&hash).unwrap(), "a new process begins without it");
}

#[test]
fn a_blob_that_is_in_memory_is_stored_all_the_same_and_dropped_from_both() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let passing = store.put_transient(b"both".to_vec()).unwrap();
    assert_eq!(store.put(b"both").unwrap(), passing);
    drop(store);
    let store = scratch.store();
    assert_eq!(store.get(&passing).unwrap(), b"both", "it was durable");
    store.put_transient(b"both".to_vec()).unwrap();
    assert_eq!(store.remove(&[passing]).unwrap(), Collected { blobs: 1, bytes: 4 });
    assert!(!store.contains(&passing).unwrap());
}

#[test]
fn no_memory_for_what_passes_is_a_fault_in_words() {
    let error = StoreError::Transient { needed: 3 << 20, used: 510 << 20, max: TRANSIENT_BYTES_MAX };
    let fault = Fault::from(error);
    assert!(matches!(fault, Fault::Store { .. }));
    assert!(fault.to_string().contains("no memory for 3.0 MiB more that pass between stages: 510.0 MiB of 512.0 MiB"));
}
