//! Torn, damaged and arbitrary bytes.

use std::path::PathBuf;

use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditBodies, Subject, TenantId};
use proptest::prelude::*;

use super::*;

/// A crashed spool of `count` events, one block each, and the path of its only segment.
async fn crashed(dir: &TempDir, count: u64) -> (PathBuf, PathBuf) {
    let store = Gate::new(true);
    let (spool, driver) = open(options(dir.path()), &store);
    for n in 1..=count {
        spool.record(exchange(n)).await.unwrap();
    }
    crash(spool, driver, &store).await;
    let stream = streams(dir).remove(0);
    let segment = directory::segment_path(&stream, 1);
    (stream, segment)
}

async fn imported(stream: &Path, segment: &Path, bytes: &[u8]) -> (Imported, Vec<u64>) {
    std::fs::create_dir_all(stream).unwrap();
    std::fs::write(segment, bytes).unwrap();
    let store = Gate::new(false);
    let imported = import(stream, &key(), &*store, &Checkpoints::default()).await.unwrap();
    (imported, rows(&*store).await.iter().map(|row| id(&row.event)).collect())
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, segment) = crashed(&dir, 3).await;
    let whole = std::fs::read(&segment).unwrap();
    let blocks = (whole.len() - segment::HEAD) / 3;
    assert_eq!(segment::HEAD + 3 * blocks, whole.len(), "equal events make equal blocks");
    for end in whole.len() - blocks..whole.len() {
        let (result, ids) = imported(&stream, &segment, &whole[..end]).await;
        assert_eq!(ids, [1, 2], "cut at {end}");
        assert_eq!(result.torn_bytes, (end + blocks - whole.len()) as u64);
        // After the loss of power a file may have its length, but not its last bytes.
        let mut zeros = whole.clone();
        zeros[end..].fill(0);
        let (_, ids) = imported(&stream, &segment, &zeros).await;
        let lost = zeros != whole;
        assert_eq!(ids.len(), if lost { 2 } else { 3 }, "zeros from {end}");
    }
    let (result, ids) = imported(&stream, &segment, &whole).await;
    assert_eq!((result.torn_bytes, ids.len()), (0, 3));
    for end in 0..segment::HEAD {
        let (_, ids) = imported(&stream, &segment, &whole[..end]).await;
        assert_eq!(ids, [0; 0], "a head cut at {end}");
    }
}

#[tokio::test]
async fn no_damaged_byte_is_ever_read_as_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, segment) = crashed(&dir, 3).await;
    let whole = std::fs::read(&segment).unwrap();
    let block = (whole.len() - segment::HEAD) / 3;
    for at in segment::HEAD..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        let (_, ids) = imported(&stream, &segment, &damaged).await;
        let before: Vec<_> = (1..=((at - segment::HEAD) / block) as u64).collect();
        assert_eq!(ids, before, "damaged at {at}");
    }
    // Blocks in another order are authentic each, and still not a spool.
    let (head, blocks) = whole.split_at(segment::HEAD);
    let swapped = [head, &blocks[block..2 * block], &blocks[..block], &blocks[2 * block..]].concat();
    assert_eq!(imported(&stream, &segment, &swapped).await.1, [0; 0]);
}

#[tokio::test]
async fn blocks_of_every_size_are_read_whatever_was_read_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut options = options(dir.path());
    // Nothing is kept in memory, so that the live drain reads the same blocks.
    options.memory_rows = 0;
    let (spool, driver) = open(options, &store);
    let ahead = read_ahead::READ_AHEAD;
    let sizes = [0, 10_000, ahead - 600, ahead, 3 * ahead, 1, 20_000, 20_000, 20_000, 20_000, 0];
    let sized = |(n, size)| {
        let request = bytes::Bytes::from(vec![b'x'; size]);
        let bodies = Some(Box::new(AuditBodies { request, ..AuditBodies::default() }));
        AuditEvent { bodies, ..exchange(n) }
    };
    let sent: Vec<AuditEvent> = (1..).zip(sizes).map(sized).collect();
    for event in &sent {
        spool.record(event.clone()).await.unwrap();
    }
    let events = |rows: Vec<AuditRow>| rows.into_iter().map(|row| row.event).collect::<Vec<_>>();
    store.away(false);
    spool.flush().await;
    assert_eq!(events(rows(&*store).await), sent, "read live");

    spool.record(exchange(99)).await.unwrap();
    crash(spool, driver, &store).await;
    let again = Gate::new(false);
    import(&streams(&dir).remove(0), &key(), &*again, &Checkpoints::default()).await.unwrap();
    assert_eq!(events(rows(&*again).await)[..sent.len()], sent, "replayed");
}

fn text<T: From<String> + std::fmt::Debug>(max: usize) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(proptest::collection::vec(any::<char>(), 0..max))
        .prop_map(|chars| chars.map(|chars| chars.into_iter().collect::<String>().into()))
}

prop_compose! {
    fn any_event()(
        ts in -377_705_023_201_000_000_i64..253_402_207_200_000_000,
        (request, numbers) in (any::<u128>(), any::<[u64; 3]>()),
        (messages, status, ok) in (any::<u32>(), any::<u16>(), any::<bool>()),
        (user_agent, target, forwarded_target, rpc_id) in (text(20), text(20), text(20), text(5)),
        error in text(20),
        (rpc_code, upstream, kind) in (any::<Option<i64>>(), any::<Option<u64>>(), 0..4_u8),
        address in any::<Option<std::net::IpAddr>>(),
        actor in text::<Arc<str>>(5),
        bodies in proptest::option::of((any::<Vec<u8>>(), text::<Box<str>>(9))),
    ) -> AuditEvent {
        let kinds = [EventKind::Exchange, EventKind::Intent, EventKind::Closed, EventKind::RefusedMany];
        AuditEvent {
            user_agent,
            target,
            forwarded_target,
            request_mutated: ok,
            response_mutated: !ok,
            error,
            rpc_id,
            rpc_code,
            upstream_us: upstream,
            address,
            bytes_in: numbers[0],
            bytes_out: numbers[1],
            total_us: numbers[2],
            messages,
            status,
            outcome: if ok { Outcome::Ok } else { Outcome::Opaque },
            actor: actor.map(|id| ActorFacts {
                subject: Subject { tenant: TenantId::new(&*id), issuer: (&*id).into(), id: (&*id).into() },
                kind: ActorKind::Client,
                id: (&*id).into(),
                name: None,
            }),
            bodies: bodies.map(|(body, header)| Box::new(AuditBodies {
                response: body.into(),
                request_headers: vec![("a".into(), header.unwrap_or_default())],
                ..AuditBodies::default()
            })),
            ..AuditEvent::new(
                Timestamp::from_microsecond(ts).unwrap(),
                Ulid::from_bytes(request.to_be_bytes()),
                Category::Admin,
                kinds[usize::from(kind)],
            )
        }
    }
}

/// What fuzzing starts from, and what it found.
#[test]
fn the_corpus_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/spool_segment");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(!files.is_empty(), "{folder} is empty");
    files.into_iter().for_each(|file| check(&std::fs::read(file.unwrap().path()).unwrap()));
}

proptest! {
    #[test]
    fn an_event_reads_as_it_was_written(event in any_event()) {
        let written = postcard::to_stdvec(&event::Entry::Row((&event).into())).unwrap();
        let (entry, rest) = postcard::take_from_bytes::<event::Entry<'_>>(&written).unwrap();
        prop_assert!(rest.is_empty());
        let event::Entry::Row(read) = entry else { panic!("a row stays a row") };
        prop_assert_eq!(read.into_event().unwrap(), event);
    }

    #[test]
    fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        check(&data);
    }

    #[test]
    fn damaged_entries_never_panic(event in any_event(), at in any::<prop::sample::Index>(), bits in 1_u8..) {
        let mut data = vec![1, 1];
        data.extend(postcard::to_stdvec(&event::Entry::Row((&event).into())).unwrap());
        check(&data);
        let at = at.index(data.len());
        data[at] ^= bits;
        check(&data);
    }
}
