//! `contictl sessions replay` and `contictl sessions recordings`

use std::{
    fs::File,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use conti_proto::v1::{ListRecordingsRequest, ReadRecordingRequest, Recording, RecordingFormat};
use serde_json::{Value, json};

use crate::{
    connect::PAGE_SIZE,
    error::{Error, Result},
    flags::value::duration,
    output::{self, Format, text},
    verb::{Context, missing},
};

/// The largest line or frame that is taken, in bytes: more than an agent writes.
const PIECE_MAX: usize = 16 << 20;

/// Show again what a recorded session wrote
#[derive(Debug, Args)]
pub struct Replay {
    /// How fast: 2 is twice as fast, 0 at once
    #[arg(long, value_name = "X", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Do not wait at all
    #[arg(long)]
    no_wait: bool,
    /// Never wait longer than this
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_wait: Option<Duration>,
    /// Keep the recording as a file instead of showing it: asciicast v2 or frames
    #[arg(long, value_name = "OUT")]
    raw_file: Option<PathBuf>,
    /// The session
    session: String,
}

/// List what was recorded
#[derive(Debug, Args)]
pub struct Recordings {
    /// Only the ids of their sessions
    #[arg(short, long)]
    quiet: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if (0.0..=1e6).contains(&speed) => Ok(speed),
        _ => Err("write a number from 0, e.g. 2 or 0.5".to_owned()),
    }
}

impl Replay {
    /// Shows it, or keeps it.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let request = ReadRecordingRequest { session_id: self.session.clone() };
        let mut stream =
            context.connect().await?.sessions().read_recording(request).await?.into_inner();
        let first = stream.message().await?.ok_or_else(|| missing("a recording"))?;
        let format = first.recording.as_ref().map(Recording::format);
        let mut next = Some(first);
        if let Some(path) = &self.raw_file {
            let local = |what| move |source| Error::Local { what, source };
            let mut file = File::create(path).map_err(local("cannot make the file"))?;
            while let Some(part) = next {
                file.write_all(&part.data).map_err(local("cannot write the file"))?;
                next = stream.message().await?;
            }
            return Ok(0);
        }
        let mut pieces = match format {
            Some(RecordingFormat::Asciicast) => Pieces::new(line),
            Some(RecordingFormat::Frames) => Pieces::new(frame),
            _ => return Err(broken("is of a format that this client does not know")),
        };
        let mut shown = Duration::ZERO;
        while let Some(part) = next {
            pieces.buffer.extend_from_slice(&part.data);
            while let Some(piece) = pieces.next()? {
                self.wait(piece.time.saturating_sub(shown)).await;
                shown = shown.max(piece.time);
                piece.show()?;
            }
            next = stream.message().await?;
        }
        Ok(0)
    }

    async fn wait(&self, time: Duration) {
        if self.no_wait || self.speed == 0.0 {
            return;
        }
        let scaled = Duration::try_from_secs_f64(time.as_secs_f64() / self.speed);
        let scaled = scaled.unwrap_or(Duration::MAX).min(self.max_wait.unwrap_or(Duration::MAX));
        tokio::time::sleep(scaled).await;
    }
}

impl Recordings {
    /// Lists them.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let mut client = context.connect().await?.sessions();
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListRecordingsRequest { page_size: PAGE_SIZE, page_token };
            let page = client.list_recordings(request).await?.into_inner();
            all.extend(page.recordings);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        match (context.format, self.quiet) {
            (Format::Json, false) => {
                output::json(&Value::from(all.iter().map(described).collect::<Vec<_>>()))?;
            }
            (Format::Json, true) => {
                let ids: Vec<&str> = all.iter().map(|one| one.session_id.as_str()).collect();
                output::json(&Value::from(ids))?;
            }
            (Format::Table, true) => {
                let ids: String =
                    all.iter().map(|one| text::plain(&one.session_id) + "\n").collect();
                output::print(&ids)?;
            }
            (Format::Table, false) => output::table(
                ["SESSION", "CONTAINER", "FORMAT", "STARTED", "SIZE", "COMMAND"],
                all.iter().map(row).collect(),
            )?,
        }
        Ok(0)
    }
}

fn described(recording: &Recording) -> Value {
    json!({
        "session_id": recording.session_id,
        "container_id": recording.container_id,
        "container_name": recording.container_name,
        "argv": recording.argv,
        "start_time": text::rfc3339(recording.start_time.as_ref()),
        "format": format_name(recording.format()),
        "size_bytes": recording.size_bytes,
    })
}

fn row(recording: &Recording) -> [String; 6] {
    [
        recording.session_id.clone(),
        recording.container_name.clone(),
        format_name(recording.format()).to_owned(),
        text::age(recording.start_time.as_ref()),
        recording.size_bytes.to_string(),
        text::command(&recording.argv),
    ]
}

fn format_name(format: RecordingFormat) -> &'static str {
    match format {
        RecordingFormat::Unspecified => "unknown",
        RecordingFormat::Asciicast => "asciicast",
        RecordingFormat::Frames => "frames",
    }
}

/// Something to be shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Since the start.
    time: Duration,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// Something that the recorder says.
    Note(String),
    /// Nothing that is shown.
    Other,
}

impl Piece {
    fn show(&self) -> Result<()> {
        match &self.what {
            What::Stdout(data) => output::raw(data),
            What::Stderr(data) => io::stderr()
                .lock()
                .write_all(data)
                .map_err(|source| Error::Local { what: "cannot write to stderr", source }),
            What::Note(note) => {
                output::note(note);
                Ok(())
            }
            What::Other => Ok(()),
        }
    }
}

/// Takes the first piece off some bytes: its length, and the piece where it is one. `None`: it is not
/// complete yet.
pub(super) type Cut = fn(&[u8]) -> Result<Option<(usize, Option<Piece>)>>;

/// The pieces of a recording, as its bytes come.
pub(super) struct Pieces {
    pub(super) buffer: Vec<u8>,
    at: usize,
    header: bool,
    cut: Cut,
}

impl Pieces {
    pub(super) fn new(cut: Cut) -> Pieces {
        Pieces { buffer: Vec::new(), at: 0, header: true, cut }
    }

    /// The next piece. `None`: more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let rest = &self.buffer[self.at..];
            let Some((length, piece)) = (self.cut)(rest)? else {
                if rest.len() > PIECE_MAX {
                    return Err(broken("has a part that is too large"));
                }
                self.buffer.drain(..self.at);
                self.at = 0;
                return Ok(None);
            };
            self.at += length;
            if std::mem::take(&mut self.header) && piece.is_some() {
                return Err(broken("has no header"));
            }
            if piece.is_some() {
                return Ok(piece);
            }
        }
    }
}

/// A line of asciicast.
pub(super) fn line(bytes: &[u8]) -> Result<Option<(usize, Option<Piece>)>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let value: Value =
        serde_json::from_slice(&bytes[..end]).map_err(|_| broken("has a line that is no JSON"))?;
    let Some(event) = value.as_array() else { return Ok(Some((end + 1, None))) };
    let [time, code, data] = event.as_slice() else {
        return Err(broken("has an event that is none"));
    };
    let (Some(time), Some(code), Some(data)) = (time.as_f64(), code.as_str(), data.as_str()) else {
        return Err(broken("has an event that is none"));
    };
    let what = match code {
        "o" => What::Stdout(data.as_bytes().to_vec()),
        "m" if !data.starts_with("end ") => What::Note(data.to_owned()),
        _ => What::Other,
    };
    let time = Duration::try_from_secs_f64(time).unwrap_or_default();
    Ok(Some((end + 1, Some(Piece { time, what }))))
}

/// A frame, or the header before them.
pub(super) fn frame(bytes: &[u8]) -> Result<Option<(usize, Option<Piece>)>> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let long = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    if bytes.starts_with(b"contirec") {
        let (Some(version), Some(length)) = (word(8), word(12)) else { return Ok(None) };
        if version != 1 {
            return Err(broken("is of a newer version than this client knows"));
        }
        let end = 16 + length as usize;
        return Ok((bytes.len() >= end).then_some((end, None)));
    }
    let (Some(length), Some(time), Some(_)) = (word(4), long(8), long(16)) else { return Ok(None) };
    let end = 24 + length as usize;
    let Some(data) = bytes.get(24..end) else { return Ok(None) };
    let what = match bytes[0] {
        1 => What::Stdout(data.to_vec()),
        2 => What::Stderr(data.to_vec()),
        4 => {
            let missing = data.try_into().map(u64::from_le_bytes).unwrap_or_default();
            What::Note(format!("{missing} bytes are missing here"))
        }
        5 => What::Note("the recording is full: nothing more was recorded".to_owned()),
        _ => What::Other,
    };
    Ok(Some((end, Some(Piece { time: Duration::from_micros(time), what }))))
}

fn broken(problem: &str) -> Error {
    Error::Stream(format!("the recording {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(cut: Cut, bytes: &[u8], step: usize) -> Result<Vec<Piece>> {
        let mut pieces = Pieces::new(cut);
        let mut all = Vec::new();
        for part in bytes.chunks(step) {
            pieces.buffer.extend_from_slice(part);
            while let Some(piece) = pieces.next()? {
                all.push(piece);
            }
        }
        Ok(all)
    }

    #[test]
    fn a_recording_is_read_whatever_pieces_it_comes_in() {
        let cast = "{\"version\":2}\n[0.5,\"o\",\"\u{e9}\"]\n[1,\"r\",\"8x2\"]\n[2.0,\"m\",\"end {}\"]\n[2,\"o\"";
        let mut frames = b"contirec\x01\0\0\0\x02\0\0\0{}".to_vec();
        for (kind, data) in [(1u8, &b"out"[..]), (2, b"err"), (4, &[7, 0, 0, 0, 0, 0, 0, 0])] {
            frames.extend([kind, 0, 0, 0]);
            frames.extend((data.len() as u32).to_le_bytes());
            frames.extend([0; 16]);
            frames.extend(data);
        }
        for step in 1..9 {
            let shown = pieces(line, cast.as_bytes(), step).unwrap();
            assert_eq!(shown.len(), 3);
            assert_eq!(shown[0].what, What::Stdout("\u{e9}".into()));
            assert_eq!(shown[0].time, Duration::from_millis(500));
            let shown = pieces(frame, &frames, step).unwrap();
            assert_eq!(shown[0].what, What::Stdout(b"out".to_vec()));
            assert_eq!(shown[1].what, What::Stderr(b"err".to_vec()));
            assert_eq!(shown[2].what, What::Note("7 bytes are missing here".into()));
        }
    }

    #[test]
    fn what_is_no_recording_is_told() {
        for bytes in ["[1,\"o\",\"x\"]\n", "{\n", "{}\n[1]\n", "{}\n[1,2,3]\n"] {
            assert!(pieces(line, bytes.as_bytes(), 100).is_err(), "{bytes}");
        }
        assert!(pieces(frame, &[1; 40], 100).is_ok_and(|all| all.is_empty()));
        assert!(pieces(frame, b"contirec\x02\0\0\0\0\0\0\0", 100).is_err());
        assert!(pieces(frame, &[0; 24], 100).is_err());
    }
}
