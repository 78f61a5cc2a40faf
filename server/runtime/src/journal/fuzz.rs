//! Fuzz targets: a journal whose other side is hostile, and files of saved ones.

use conti_fuzz::target;

use super::{layout::Journal, *};

const SIZES: Sizes = Sizes { segments: 16, output: 4096, output_max: 16_384, input: 4096 };
/// Words of the header and of the segments, which lie behind its page.
const WORDS: usize = 4096 / 8 + 2 * SIZES.segments as usize;

/// A write into the journal: which word, and what. Twelve bytes of input.
fn writes(bytes: &[u8]) -> impl Iterator<Item = (usize, u64)> {
    let (writes, _) = bytes.as_chunks::<12>();
    writes.iter().map(|write| {
        let (at, value) = write.split_at(4);
        let at = u32::from_le_bytes(at.try_into().expect("four bytes")) as usize % WORDS;
        (at * 8, u64::from_le_bytes(value.try_into().expect("eight bytes")))
    })
}

/// The words of a journal that is in use, as writes.
fn in_use() -> Vec<u8> {
    let file = create(SIZES).expect("a journal");
    let mut writer = Writer::map(file.try_clone().expect("an fd")).expect("mapped");
    for (stream, text) in [(Stream::Stdout, "out"), (Stream::Stderr, "err"), (Stream::Stdout, "x")]
    {
        writer.append(stream, text.as_bytes());
    }
    let journal = Journal::map(file).expect("mapped");
    (0..WORDS)
        .map(|word| (word as u32, journal.load(word * 8)))
        .filter(|(_, value)| *value != 0)
        .flat_map(|(word, value)| [&word.to_le_bytes()[..], &value.to_le_bytes()].concat())
        .collect()
}

/// Reads all that there is, in large and small pieces.
fn read_all(tail: u64, head: u64, read: impl Fn(u64, usize) -> ReadResult) {
    // Not more often than bytes can lie there, though a header may say that there are 2^64.
    let (mut at, mut steps) = (tail, 0);
    while at < head && steps < 2000 {
        steps += 1;
        match read(at, 1 + steps * 7 % 500) {
            ReadResult::Data { offset, bytes, .. } => {
                assert!(offset == at && !bytes.is_empty() && bytes.len() <= 500);
                at += bytes.len() as u64;
            }
            ReadResult::Gap { offset, length } => {
                assert!(offset == at && length > 0);
                at = at.saturating_add(length);
            }
            ReadResult::Empty => break,
        }
    }
}

/// A monitor that was taken over may write anything at any time, before the journal is mapped and after.
#[test]
fn fuzz_journal() {
    let samples = || vec![in_use(), in_use().repeat(2), 152_u32.to_le_bytes().repeat(6)];
    target("journal").seeds(samples).runs(2000).fixed_memory(4 << 20).check(|bytes| {
        let file = create(SIZES).expect("a journal");
        let hostile = Journal::map(file.try_clone().expect("an fd")).expect("its own header");
        let half = bytes.len() / 24 * 12;
        writes(&bytes[..half]).for_each(|(at, value)| hostile.store(at, value));
        let Ok(reader) = Reader::map(file.try_clone().expect("an fd")) else { return };
        writes(&bytes[half..]).for_each(|(at, value)| hostile.store(at, value));
        assert!(reader.input_room() as u64 <= 4096);
        assert!(reader.input_taken() <= reader.input_head());
        let (tail, head) = (reader.tail(), reader.head());
        assert!(tail <= head && head - tail <= SIZES.output_max.max(4096));
        read_all(tail, head, |at, max| reader.read(at, max));
        reader.read(0, 100);
        reader.read(u64::MAX, 100);
        let _ = (reader.is_full(), reader.mode(), reader.totals(), reader.spare(head));
        reader.let_grow();
        reader.set_acked(head);
        assert!(reader.push_input(b"input") <= 5);
        reader.trim_input();
        reader.close_input();
        let saved = Saved::of(&reader);
        assert!(saved.tail() <= saved.head());
        read_all(saved.tail(), saved.head(), |at, max| saved.read(at, max));
        // The writer of the same memory, as after the agent was taken over.
        if let Ok(mut writer) = Writer::map(file) {
            assert!(writer.append(Stream::Stderr, b"more") <= 4);
            assert!(writer.tail() <= writer.head());
        }
    });
}

#[test]
fn fuzz_saved_journal() {
    let samples = || {
        let file = create(SIZES).expect("a journal");
        let mut writer = Writer::map(file).expect("mapped");
        let mut all = Vec::new();
        for (stream, text) in [(Stream::Stdout, "one"), (Stream::Stderr, "two")] {
            writer.append(stream, text.as_bytes());
            let mut file = tempfile::tempfile().expect("a file");
            Saved::save(&writer, &mut file).expect("saved");
            let mut content = Vec::new();
            std::io::Seek::rewind(&mut file).expect("at its start");
            std::io::Read::read_to_end(&mut file, &mut content).expect("read back");
            all.push(content);
        }
        all
    };
    target("saved_journal").seeds(samples).check(|bytes| {
        let Ok(saved) = Saved::parse(bytes.to_vec()) else { return };
        assert!(saved.head() - saved.tail() <= bytes.len() as u64);
        read_all(saved.tail(), saved.head(), |at, max| saved.read(at, max));
        saved.read(0, 10);
        saved.read(u64::MAX, 10);
    });
}
