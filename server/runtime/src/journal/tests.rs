//! The journal against a model: a plain list of all bytes ever written.

use std::{
    fs::File,
    io::{Seek, Write},
    os::fd::OwnedFd,
};

use proptest::prelude::*;

use super::*;

fn open(sizes: Sizes) -> (Writer, Reader) {
    let fd = create(sizes).unwrap();
    (Writer::map(fd.try_clone().unwrap()).unwrap(), Reader::map(fd).unwrap())
}

fn tiny(segments: u64, output: u64, input: u64) -> (Writer, Reader) {
    open(Sizes { segments, output, output_max: output * 4, input })
}

fn data(offset: u64, stderr: bool, bytes: &[u8]) -> ReadResult {
    ReadResult::Data { offset, stderr, bytes: bytes.to_vec() }
}

#[test]
fn streams_stay_apart_and_in_order() {
    let (mut writer, reader) = open(Sizes::default());
    assert_eq!(reader.read(0, 9), ReadResult::Empty);
    writer.append(Stream::Stdout, b"one");
    writer.append(Stream::Stdout, b"two");
    writer.append(Stream::Stderr, b"bad");
    assert_eq!(reader.read(0, 9), data(0, false, b"onetwo"));
    assert_eq!(reader.read(4, 1), data(4, false, b"w"));
    assert_eq!(reader.read(6, 9), data(6, true, b"bad"));
    assert_eq!(reader.totals(), Totals { stdout: 6, stderr: 3, dropped: 0 });
}

#[test]
fn a_waiting_writer_never_overwrites_what_was_not_acknowledged() {
    let (mut writer, reader) = tiny(4, 4, 4);
    assert_eq!(writer.append(Stream::Stdout, b"abcdef"), 4);
    assert_eq!(writer.append(Stream::Stdout, b"ef"), 0);
    reader.set_acked(1);
    assert_eq!(writer.append(Stream::Stdout, b"ef"), 1);
    assert_eq!(reader.read(0, 9), ReadResult::Gap { offset: 0, length: 1 });
    assert_eq!(reader.read(1, 9), data(1, false, b"bcde"));
    assert_eq!(reader.totals().dropped, 0);
}

#[test]
fn a_dropping_writer_overwrites_the_oldest_and_counts_it() {
    let (mut writer, reader) = tiny(4, 4, 4);
    reader.set_mode(Mode::Drop);
    writer.append(Stream::Stdout, b"abcd");
    reader.set_acked(1);
    writer.append(Stream::Stderr, b"ef");
    assert_eq!(reader.read(0, 9), ReadResult::Gap { offset: 0, length: 2 });
    assert_eq!(reader.read(2, 9), data(2, false, b"cd"));
    assert_eq!(reader.read(4, 9), data(4, true, b"ef"));
    assert_eq!(reader.totals().dropped, 1);
}

#[test]
fn output_is_read_straight_from_a_pipe_and_no_more_is_dropped_than_needed() {
    let (mut writer, reader) = tiny(4, 8, 4);
    reader.set_mode(Mode::Drop);
    let (out, into) = std::io::pipe().unwrap();
    let mut into = into;
    for text in [&b"12345678"[..], b"9"] {
        into.write_all(text).unwrap();
        assert_eq!(writer.fill(&out, Stream::Stdout, 1 << 20).unwrap(), text.len() as u64);
    }
    assert_eq!(reader.read(1, 9), data(1, false, b"23456789"));
    drop(into);
    assert_eq!(writer.fill(&out, Stream::Stdout, 1 << 20).unwrap(), 0);
    assert_eq!((reader.tail(), reader.totals().dropped), (1, 1));
}

#[test]
fn input_arrives_in_order_and_ends_where_it_was_closed() {
    let (mut writer, reader) = tiny(1, 1, 4);
    let (out, into) = std::io::pipe().unwrap();
    assert_eq!(reader.push_input(b"abcdef"), 4);
    assert_eq!((reader.input_room(), writer.drain_input(&into).unwrap()), (0, 4));
    assert_eq!(reader.push_input(b"ef"), 2);
    reader.close_input();
    assert_eq!((reader.push_input(b"g"), writer.input_ended()), (0, false));
    writer.drain_input(&into).unwrap();
    assert!(writer.input_ended());
    assert_eq!((reader.input_taken(), reader.input_head()), (6, 6));
    drop(into);
    assert_eq!(std::io::read_to_string(out).unwrap(), "abcdef");
}

#[test]
fn an_idle_journal_keeps_64_kib_and_gives_the_rest_back() {
    let (mut writer, reader) = open(Sizes::default());
    let blocks = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_blocks * 512;
    let bytes: Vec<u8> = (0..900_000u32).map(|n| n as u8).collect();
    for _ in 0..3 {
        writer.append(Stream::Stdout, &bytes);
        assert!(!writer.trim());
        reader.set_acked(reader.head());
        assert!(blocks(writer.file()) > 800_000);
        assert!(writer.trim());
        assert!(blocks(writer.file()) < 100_000, "{}", blocks(writer.file()));
        let tail = reader.tail();
        assert_eq!(reader.head() - tail, 64 << 10);
        let expected: Vec<u8> = bytes[bytes.len() - (64 << 10)..].to_vec();
        assert_eq!(reader.read(tail, 1 << 20), joined(&reader, tail, &expected));
    }
    reader.push_input(&[1; 200_000]);
    let (_out, into) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&into, 1 << 20).unwrap();
    while writer.input_waiting() > 0 {
        writer.drain_input(&into).unwrap();
    }
    assert!(blocks(writer.file()) > 200_000);
    reader.trim_input();
    assert!(blocks(writer.file()) < 100_000);
}

#[test]
fn a_full_ring_grows_as_far_as_it_is_let_and_an_idle_one_is_small_again() {
    let sizes = Sizes::default();
    let (mut writer, reader) = open(sizes);
    let blocks = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_blocks as u64 * 512;
    let bytes: Vec<u8> = (0..2 * sizes.output_max).map(pattern).collect();
    let write = |writer: &mut Writer| {
        let from = writer.head() as usize;
        writer.append(Stream::Stdout, &bytes[from..]) as u64
    };
    assert_eq!(write(&mut writer), sizes.output);
    let mut size = sizes.output;
    while size < sizes.output_max {
        assert!(reader.is_full());
        reader.let_grow();
        assert!(writer.room(Stream::Stdout) > 0);
        assert_eq!(write(&mut writer), size);
        size *= 2;
    }
    reader.let_grow();
    assert_eq!((write(&mut writer), reader.tail(), reader.head()), (0, 0, sizes.output_max));
    let ReadResult::Data { bytes: read, .. } = reader.read(0, usize::MAX) else {
        panic!("no data")
    };
    assert!(read == bytes[..read.len()] && read.len() as u64 == sizes.output_max);
    assert!(blocks(writer.file()) >= sizes.output_max);
    reader.set_acked(reader.head());
    assert!(writer.trim());
    assert!(blocks(writer.file()) < 100_000, "{}", blocks(writer.file()));
    let tail = reader.tail();
    assert_eq!(
        reader.read(tail, usize::MAX),
        data(tail, false, &bytes[tail as usize..][..64 << 10])
    );
    // Small as long as it does not fill up.
    assert_eq!(writer.append(Stream::Stdout, &bytes[..1_000_000]), 1_000_000);
    reader.set_acked(reader.head());
    writer.append(Stream::Stdout, &bytes[..1_500_000]);
    assert!(blocks(writer.file()) < sizes.output + 100_000);
}

#[test]
fn a_ring_that_nobody_waits_for_gets_its_ordinary_size_and_counts_what_that_drops() {
    let (mut writer, reader) = tiny(4, 4, 4);
    reader.let_grow();
    assert_eq!(writer.append(Stream::Stdout, b"abcdefghij"), 8);
    reader.set_acked(1);
    reader.set_mode(Mode::Drop);
    writer.append(Stream::Stdout, b"i");
    assert_eq!((reader.tail(), reader.totals().dropped), (5, 4));
    assert_eq!(reader.read(5, 9), data(5, false, b"fghi"));
}

/// A read returns up to the end of its segment only.
fn joined(reader: &Reader, offset: u64, bytes: &[u8]) -> ReadResult {
    let ReadResult::Data { bytes: got, .. } = reader.read(offset, 1 << 20) else {
        panic!("no data")
    };
    data(offset, false, &bytes[..got.len()])
}

#[test]
fn what_is_no_journal_is_refused() {
    assert!(Reader::map(crate::sys::memfd::sized("test", 1 << 16).unwrap()).is_err());
    assert!(Reader::map(crate::sys::memfd::sized("test", 0).unwrap()).is_err());
    assert!(Reader::map(File::open("/dev/zero").unwrap().into()).is_err());
    for sizes in [(0, 1, 1), (1, 0, 1), (1, 1, u64::MAX), (u64::MAX, 1, 1)] {
        let (segments, output, input) = sizes;
        let sizes = Sizes { segments, output, output_max: output, input };
        assert!(create(sizes).is_err());
    }
    for output_max in [0, 9, 15, 30, u64::MAX] {
        assert!(create(Sizes { segments: 1, output: 10, output_max, input: 1 }).is_err());
    }
}

#[derive(Debug, Clone)]
enum Action {
    Write(Stream, usize),
    Read(u64, usize),
    Ack(u64),
    Mode(Mode),
    LetGrow,
    LetStay,
    Trim,
    Save,
}

fn action() -> impl Strategy<Value = Action> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    prop_oneof![
        6 => (stream, 0usize..20).prop_map(|(s, n)| Action::Write(s, n)),
        6 => (0u64..40, 0usize..20).prop_map(|(back, max)| Action::Read(back, max)),
        3 => (0u64..20).prop_map(Action::Ack),
        1 => prop_oneof![Just(Mode::Wait), Just(Mode::Drop)].prop_map(Action::Mode),
        2 => Just(Action::LetGrow),
        1 => Just(Action::LetStay),
        1 => Just(Action::Trim),
        1 => Just(Action::Save),
    ]
}

proptest! {
    #[test]
    fn every_interleaving_reads_the_right_bytes_or_a_gap(
        segments in 1u64..5,
        output in 1u64..30,
        actions in prop::collection::vec(action(), 0..200),
    ) {
        let (mut writer, reader) = tiny(segments, output, 1);
        let mut model: Vec<(u8, bool)> = Vec::new();
        let (mut acked, mut mode, mut dropped) = (0, Mode::Wait, 0);
        for action in actions {
            let tail = reader.tail();
            match action {
                Action::Write(stream, n) => {
                    let bytes: Vec<u8> = (0..n).map(|i| (model.len() + i) as u8).collect();
                    let written = writer.append(stream, &bytes);
                    let err = stream == Stream::Stderr;
                    model.extend(bytes[..written].iter().map(|b| (*b, err)));
                    if mode == Mode::Wait {
                        prop_assert!(reader.tail() <= acked.max(tail));
                    } else {
                        prop_assert_eq!(written as u64, (n as u64).min(output));
                    }
                }
                Action::Read(back, max) => {
                    let offset = (model.len() as u64 + 4).saturating_sub(back);
                    check(&model, tail, offset, max, &reader.read(offset, max))?;
                }
                Action::Ack(n) => {
                    acked = (acked + n).min(model.len() as u64);
                    reader.set_acked(acked);
                }
                Action::Mode(m) => {
                    mode = m;
                    reader.set_mode(m);
                }
                Action::LetGrow => reader.let_grow(),
                Action::LetStay => reader.let_stay(),
                Action::Trim => prop_assert_eq!(writer.trim(), acked == model.len() as u64),
                Action::Save => {
                    let mut file = tempfile::tempfile().unwrap();
                    Saved::save(&writer, &mut file).unwrap();
                    file.rewind().unwrap();
                    let saved = Saved::load(&mut file).unwrap();
                    prop_assert_eq!((saved.tail(), saved.head()), (tail, model.len() as u64));
                    prop_assert_eq!(saved.totals(), reader.totals());
                    for offset in 0..model.len() as u64 + 2 {
                        prop_assert_eq!(saved.read(offset, 7), reader.read(offset, 7));
                    }
                }
            }
            prop_assert_eq!(reader.head(), model.len() as u64);
            // What fell off since the last step and had not been acknowledged was dropped.
            dropped += reader.tail().saturating_sub(acked.max(tail));
            let totals = reader.totals();
            prop_assert_eq!(totals.dropped, dropped);
            prop_assert_eq!(totals.stdout + totals.stderr, model.len() as u64);
        }
    }

    #[test]
    fn a_hostile_header_never_panics_a_reader(
        words in prop::collection::vec((0usize..44, any::<u64>(), 0u64..64), 0..40),
        offsets in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..64], 1..20),
    ) {
        let (mut writer, reader) = tiny(4, 16, 16);
        writer.append(Stream::Stdout, b"abcdefgh");
        writer.append(Stream::Stderr, b"ijklmnop");
        let raw = crate::sys::shm::Mapping::new(writer.file(), 8192).unwrap();
        for (index, large, small) in words {
            let value = if large.is_multiple_of(2) { large } else { small };
            // Header words beyond the geometry, or entries of segments.
            let at = if index < 36 { 128 + index * 8 } else { 4096 + (index - 36) * 8 };
            raw.word(at).store(value, std::sync::atomic::Ordering::SeqCst);
            for offset in &offsets {
                match reader.read(*offset, 100) {
                    ReadResult::Data { bytes, .. } => prop_assert!(!bytes.is_empty() && bytes.len() <= 64),
                    ReadResult::Gap { length, .. } => prop_assert!(length > 0),
                    ReadResult::Empty => {}
                }
            }
            prop_assert!(reader.input_room() <= 16 && reader.push_input(b"x") <= 1);
            reader.trim_input();
            prop_assert!(reader.input_taken() <= reader.input_head());
            // The monitor trusts the agent's words as little.
            writer.append(Stream::Stdout, b"q");
            prop_assert!(writer.input_waiting() <= 16);
            writer.trim();
        }
    }

    #[test]
    fn a_damaged_file_never_panics(content in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..64) {
        let (mut writer, _reader) = tiny(4, 16, 16);
        writer.append(Stream::Stdout, b"abc");
        writer.append(Stream::Stderr, b"def");
        let mut file = tempfile::tempfile().unwrap();
        Saved::save(&writer, &mut file).unwrap();
        file.seek(std::io::SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&content).unwrap();
        file.rewind().unwrap();
        if let Ok(saved) = Saved::load(&mut file) {
            for offset in 0..20 {
                saved.read(offset, 9);
            }
        }
    }
}

fn check(
    model: &[(u8, bool)],
    tail: u64,
    offset: u64,
    max: usize,
    result: &ReadResult,
) -> Result<(), TestCaseError> {
    let head = model.len() as u64;
    match result {
        ReadResult::Empty => prop_assert!(offset >= head || max == 0),
        ReadResult::Gap { offset: at, length } => {
            prop_assert_eq!((*at, *at + *length), (offset, tail));
        }
        ReadResult::Data { offset: at, stderr, bytes } => {
            prop_assert!(
                *at == offset && offset >= tail && bytes.len() <= max && !bytes.is_empty()
            );
            let expected = &model[offset as usize..][..bytes.len()];
            prop_assert!(
                expected.iter().zip(bytes).all(|((b, err), got)| b == got && err == stderr)
            );
            // A segment is never cut short without a reason.
            let next = model.get(offset as usize + bytes.len());
            prop_assert!(bytes.len() == max || next.is_none_or(|(_, err)| err != stderr));
        }
    }
    Ok(())
}

#[test]
fn a_reader_beside_a_fast_dropping_writer_never_sees_a_wrong_byte() {
    let (mut writer, reader) = tiny(8, 4096, 1);
    reader.set_mode(Mode::Drop);
    const TOTAL: u64 = 20_000_000;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = [0u8; 1000];
            while writer.head() < TOTAL {
                let head = writer.head();
                let len = 1 + (head % 997) as usize;
                for (i, byte) in bytes[..len].iter_mut().enumerate() {
                    *byte = pattern(head + i as u64);
                }
                let stream = if head.is_multiple_of(3) { Stream::Stdout } else { Stream::Stderr };
                assert_eq!(writer.append(stream, &bytes[..len]), len);
            }
        });
        let mut offset = 0;
        while offset < TOTAL {
            match reader.read(offset, 1 << 20) {
                ReadResult::Data { bytes, .. } => {
                    check_pattern(offset, &bytes);
                    offset += bytes.len() as u64;
                }
                ReadResult::Gap { length, .. } => offset += length,
                ReadResult::Empty => std::hint::spin_loop(),
            }
        }
    });
}

#[test]
fn readers_beside_a_ring_that_grows_and_shrinks_never_see_a_wrong_byte() {
    let (mut writer, reader) =
        open(Sizes { segments: 8, output: 1024, output_max: 8192, input: 1 });
    const TOTAL: u64 = 2_000_000;
    std::thread::scope(|scope| {
        let reader = &reader;
        scope.spawn(move || {
            while writer.head() < TOTAL {
                let head = writer.head();
                let bytes: Vec<u8> = (0..1 + head % 997).map(|i| pattern(head + i)).collect();
                let stream = if head.is_multiple_of(3) { Stream::Stdout } else { Stream::Stderr };
                writer.append(stream, &bytes);
                // Now and then there is nothing to do, which makes the ring small again.
                while head.is_multiple_of(50) && !writer.trim() {
                    std::thread::yield_now();
                }
            }
        });
        // One that looks at what is about to go, without a claim to it.
        scope.spawn(move || {
            while reader.head() < TOTAL {
                let offset = reader.tail();
                if let ReadResult::Data { bytes, .. } = reader.read(offset, 1 << 20) {
                    check_pattern(offset, &bytes);
                }
            }
        });
        let mut offset = 0;
        while offset < TOTAL {
            match reader.read(offset, 1 << 20) {
                ReadResult::Data { bytes, .. } => {
                    check_pattern(offset, &bytes);
                    offset += bytes.len() as u64;
                    reader.let_grow();
                    if offset % 5 > 0 || reader.is_full() {
                        reader.set_acked(offset);
                    }
                }
                ReadResult::Gap { .. } => panic!("a waiting writer dropped at {offset}"),
                ReadResult::Empty => reader.set_acked(offset),
            }
        }
    });
}

fn check_pattern(offset: u64, bytes: &[u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        assert_eq!(*byte, pattern(offset + i as u64), "at {offset} + {i}");
    }
}

/// A byte that tells its offset, also across turns of the ring.
fn pattern(offset: u64) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 12) ^ (offset >> 16)) as u8
}
