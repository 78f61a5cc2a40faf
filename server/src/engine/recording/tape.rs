//! A recording that is being written.
//!
//! Beside the session's record lies a small file that says how far the recording is. It is written after
//! each piece and before the journal gives the room of that piece free: an agent that was started again
//! cuts off what stands behind that point and goes on with the journal from there.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use conti_runtime::own;
use rustix::fs::OFlags;
use tracing::warn;

use super::{
    About, Format, Recordings, Wanted, cast, frames,
    part::{Mark, Part},
};

/// How far the recording is, in the session's directory.
const MARK: &str = "recording";
/// Room for what stands at the end of a full recording.
const LAST_WORDS: u64 = 4096;

/// A recording that is being written.
#[derive(Debug)]
pub struct Tape {
    about: About,
    wanted: Wanted,
    file: File,
    mark_path: PathBuf,
    mark_file: File,
    mark: Mark,
    /// Output that could not be written: where it begins.
    missing: Option<u64>,
    full: bool,
}

/// Whether the session of a directory was being recorded.
pub fn is_begun(dir: &Path) -> bool {
    own::symlink_metadata(dir.join(MARK)).is_ok()
}

/// Forgets how far the recording of a session is: it is not gone on with.
pub fn forget(dir: &Path) {
    let _ = own::remove_file(dir.join(MARK));
}

impl Tape {
    /// Begins the recording of a session. `dir`: the session's directory.
    pub fn create(
        recordings: &Recordings,
        about: About,
        wanted: Wanted,
        dir: &Path,
    ) -> io::Result<Tape> {
        let file = recordings.create(&about)?;
        let session = about.session.clone();
        let begin = || {
            let mark_path = dir.join(MARK);
            let mark_file = own::create(&mark_path)?;
            let mark = Mark::default();
            let mut tape = Tape {
                about,
                wanted,
                file,
                mark_path,
                mark_file,
                mark,
                missing: None,
                full: false,
            };
            let header = match tape.about.format {
                Format::Cast => cast::header(&tape.about),
                Format::Frames => frames::header(&tape.about),
            };
            tape.append(&header, Mark { length: header.len() as u64, ..mark })?;
            Ok(tape)
        };
        let begun = begin();
        if begun.is_err() {
            recordings.remove(&session);
        }
        begun
    }

    /// Goes on with the recording of a session. `None`: it is complete, or there is none.
    pub fn resume(
        recordings: &Recordings,
        session: &str,
        wanted: Wanted,
        dir: &Path,
    ) -> io::Result<Option<Tape>> {
        let mark_path = dir.join(MARK);
        let mark_file = match own::open_with(&mark_path, OFlags::RDWR, 0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = [0; 24];
        mark_file.read_exact_at(&mut bytes, 0)?;
        let (words, _) = bytes.as_chunks::<8>();
        let [length, offset, time] = [0, 1, 2].map(|index| u64::from_le_bytes(words[index]));
        let mark = Mark { length, offset, time: Duration::from_micros(time) };
        let (about, file) = recordings.reopen(session)?;
        if file.metadata()?.len() < length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is shorter than it was"));
        }
        file.set_len(length)?;
        Ok(Some(Tape {
            about,
            wanted,
            file,
            mark_path,
            mark_file,
            mark,
            missing: None,
            full: false,
        }))
    }

    /// Up to where the journal stands in it, or was given up.
    pub fn offset(&self) -> u64 {
        self.mark.offset
    }

    /// Whether nothing more will be written.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Adds parts that come one after the other. What cannot be written is given up, and a mark stands
    /// in its place once something can be written again. `last`: nothing comes after them but the end.
    pub fn write(&mut self, parts: &[Part<'_>], last: bool) {
        if self.full {
            return;
        }
        let mut mark = self.mark;
        mark.time = mark.time.max(self.elapsed());
        let mut bytes = Vec::new();
        if let Some(begin) = self.missing {
            let gap = Part::Gap { offset: begin, length: mark.offset - begin };
            self.encode(gap, &mut mark, last, &mut bytes);
        }
        for (index, part) in parts.iter().enumerate() {
            // Output behind it belongs to something else.
            let last = last || index + 1 < parts.len();
            self.encode(*part, &mut mark, last, &mut bytes);
        }
        mark.length += bytes.len() as u64;
        if mark.length > self.wanted.max_bytes.saturating_sub(LAST_WORDS) {
            warn!(session = self.about.session, "its recording is full: nothing more is recorded");
            self.full = true;
            let (mut bytes, mut mark) = (Vec::new(), self.mark);
            self.encode(Part::Full, &mut mark, last, &mut bytes);
            mark.length += bytes.len() as u64;
            let _ = self.append(&bytes, mark);
            return;
        }
        match self.append(&bytes, mark) {
            Ok(()) => self.missing = None,
            Err(error) => {
                if self.missing.is_none() {
                    warn!(session = self.about.session, %error, "its recording cannot be written; the session goes on, and a part of the recording will be missing");
                }
                self.missing.get_or_insert(self.mark.offset);
                self.mark.offset = mark.offset;
            }
        }
    }

    /// Writes how the session ended, has all of it on disk, and forgets how far it was.
    pub fn finish(mut self, end: &str) {
        if !self.full {
            self.write(&[Part::End(end)], true);
        }
        if let Err(error) = self.file.sync_data() {
            warn!(session = self.about.session, %error, "its recording may not be on disk");
        }
        let _ = own::remove_file(&self.mark_path);
    }

    fn encode(&self, part: Part<'_>, mark: &mut Mark, last: bool, bytes: &mut Vec<u8>) {
        let taken = match (self.about.format, part) {
            (Format::Cast, part) => {
                let (more, taken) = cast::encode(part, mark.time, last);
                bytes.extend(more);
                taken
            }
            (Format::Frames, part) => {
                frames::encode(part, mark.time, bytes);
                usize::MAX
            }
        };
        match part {
            Part::Output { offset, data, .. } => {
                mark.offset = offset + data.len().min(taken) as u64
            }
            Part::Gap { offset, length } => mark.offset = offset + length,
            _ => {}
        }
    }

    /// Writes bytes behind those that are there, and then how far it is.
    fn append(&mut self, bytes: &[u8], mark: Mark) -> io::Result<()> {
        let length = self.mark.length;
        let time = mark.time.as_micros() as u64;
        let words = [mark.length, mark.offset, time].map(u64::to_le_bytes);
        let written = self
            .file
            .write_all_at(bytes, length)
            .and_then(|()| self.mark_file.write_all_at(words.as_flattened(), 0));
        match written {
            Ok(()) => self.mark = mark,
            // What stands there of it is cut off or written over.
            Err(_) => drop(self.file.set_len(length)),
        }
        written
    }

    /// Since the start of the session; it never goes back, whatever the clock does.
    fn elapsed(&self) -> Duration {
        SystemTime::now().duration_since(self.about.start_time).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use std::fs;

    use super::*;
    use crate::engine::{recording::Found, spec::TerminalSize};

    struct World {
        dir: tempfile::TempDir,
        recordings: Recordings,
        wanted: Wanted,
    }

    impl World {
        fn new(max_bytes: u64) -> World {
            let dir = tempfile::tempdir().unwrap();
            let recordings = Recordings::new(dir.path().to_owned());
            World { dir, recordings, wanted: Wanted { input: false, max_bytes } }
        }

        fn begin(&self, format: Format) -> Tape {
            let about = About {
                session: "0123456789abcdef0123456789abcdef".into(),
                container: None,
                labels: BTreeMap::new(),
                confinement: None,
                surroundings: None,
                argv: vec!["x".into()],
                terminal: Some(TerminalSize { columns: 8, rows: 2 }),
                start_time: SystemTime::now(),
                format,
            };
            Tape::create(&self.recordings, about, self.wanted, self.dir.path()).unwrap()
        }

        fn resume(&self) -> Option<Tape> {
            let session = "0123456789abcdef0123456789abcdef";
            Tape::resume(&self.recordings, session, self.wanted, self.dir.path()).unwrap()
        }

        fn bytes(&self) -> Vec<u8> {
            let found: Found = self.recordings.list().pop().unwrap();
            fs::read(self.recordings.path(&found.about)).unwrap()
        }
    }

    fn output(offset: u64, data: &[u8]) -> Part<'_> {
        Part::Output { offset, stderr: false, data }
    }

    #[test]
    fn it_goes_on_where_the_mark_says_and_not_where_the_file_ends() {
        let world = World::new(1 << 20);
        let mut tape = world.begin(Format::Cast);
        tape.write(&[output(0, b"one \xc3")], false);
        assert_eq!(tape.offset(), 4, "a character that is not complete waits");
        drop(tape);
        // A crash between the piece and its mark.
        let path = world.recordings.path(&world.recordings.list()[0].about);
        let mut torn = world.bytes();
        torn.extend(b"[0.1,\"o\",\"to");
        fs::write(&path, torn).unwrap();
        let mut tape = world.resume().unwrap();
        assert_eq!(tape.offset(), 4);
        tape.write(&[output(4, "\u{e9}".as_bytes())], false);
        tape.finish("{}");
        let text = String::from_utf8(world.bytes()).unwrap();
        let events: Vec<serde_json::Value> =
            text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = events.iter().map(|event| event[2].as_str().unwrap()).collect();
        assert_eq!(told, ["one ", "\u{e9}", "end {}"]);
        assert!(world.resume().is_none(), "it is complete");
    }

    #[test]
    fn a_full_recording_says_so_and_keeps_its_size() {
        let world = World::new(10_000);
        let mut tape = world.begin(Format::Frames);
        let mut offset = 0;
        while !tape.is_full() {
            tape.write(&[output(offset, &[7; 1000])], false);
            offset += 1000;
        }
        tape.write(&[output(offset, &[7; 1000])], false);
        tape.finish("{}");
        let bytes = world.bytes();
        assert!(bytes.len() > 5000 && bytes.len() < 10_000);
        assert_eq!(bytes[bytes.len() - 24], 5, "the last frame is that of a full recording");
    }

    #[test]
    fn what_could_not_be_written_is_a_gap() {
        let world = World::new(1 << 20);
        let mut tape = world.begin(Format::Frames);
        tape.write(&[output(0, b"abc")], false);
        // A file that cannot be written to, as on a full disk.
        let path = world.recordings.path(&tape.about);
        let writable = std::mem::replace(&mut tape.file, File::open(&path).unwrap());
        tape.write(&[output(3, b"lost")], false);
        tape.write(&[output(7, b"more")], false);
        assert_eq!(tape.offset(), 11, "the session is not held");
        tape.file = writable;
        tape.write(&[output(11, b"there")], false);
        let bytes = world.bytes();
        let tail = &bytes[bytes.len() - (24 + 8 + 24 + 5)..];
        assert_eq!(
            (tail[0], &tail[16..24], &tail[24..32]),
            (4, &3u64.to_le_bytes()[..], &8u64.to_le_bytes()[..])
        );
        assert!(tail.ends_with(b"there"));
    }
}
