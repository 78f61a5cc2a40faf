//! The task that records a session: it reads the journal as a driver does, and writes it to a tape.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use conti_runtime::journal::ReadResult;
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};

use super::{Session, State};
use crate::engine::{
    Engine,
    error::Result,
    info::SessionEnd,
    io_error,
    recording::{
        About, Wanted,
        part::Part,
        tape::{self, Tape},
    },
    spec::TerminalSize,
};

/// The most output that is written at once, in bytes.
const BATCH: usize = 1 << 20;
/// Input that waits for the recorder, in pieces.
const INPUT_WAITS: usize = 16;

/// What a recorder is told besides the journal.
#[derive(Debug)]
pub struct Inbox {
    now: Mutex<Now>,
    size: watch::Sender<Option<TerminalSize>>,
    /// Whether it is done.
    done: watch::Sender<bool>,
}

/// How a session is recorded: until its command runs, that may change.
#[derive(Debug)]
struct Now {
    wanted: Option<Wanted>,
    input: Option<mpsc::Sender<Bytes>>,
    /// Until the recorder takes it.
    waiting: Option<mpsc::Receiver<Bytes>>,
    /// Ends the recorder.
    stop: Arc<Notify>,
}

impl Now {
    fn new(wanted: Option<Wanted>) -> Now {
        let (input, waiting) = mpsc::channel(INPUT_WAITS);
        let input = wanted.is_some_and(|wanted| wanted.input).then_some(input);
        Now { wanted, input, waiting: Some(waiting), stop: Arc::default() }
    }
}

impl Inbox {
    /// Of a session that is recorded, or is not.
    pub fn new(wanted: Option<Wanted>) -> Inbox {
        Inbox {
            now: Mutex::new(Now::new(wanted)),
            size: watch::Sender::new(None),
            done: watch::Sender::new(wanted.is_none()),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for a piece of input: it is kept before the session has it, so that none is missing
    /// where that ends at once. `None`: input is not recorded, or no more.
    pub async fn room(&self) -> Option<mpsc::OwnedPermit<Bytes>> {
        let input = self.now().input.clone();
        input?.reserve_owned().await.ok()
    }

    /// The terminal has another size.
    pub fn resize(&self, size: TerminalSize) {
        self.size.send_replace(Some(size));
    }

    fn take(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.now().waiting.take()
    }
}

impl Session {
    /// Resolves when its recording is complete, or will not become more so.
    pub async fn recording_done(&self) {
        let mut done = self.recorder.done.subscribe();
        // The sender is in this session.
        let _ = done.wait_for(|done| *done).await;
    }

    /// Whether and how it is recorded.
    pub fn recorded(&self) -> Option<Wanted> {
        self.recorder.now().wanted
    }

    /// Ends its recorder, and has it recorded otherwise by the next one, before its command runs.
    async fn record_otherwise(&self, wanted: Option<Wanted>) {
        self.recorder.now().stop.notify_one();
        self.recording_done().await;
        *self.recorder.now() = Now::new(wanted);
        self.recorder.done.send_replace(wanted.is_none());
    }

    /// Nobody records it, although it was to be.
    pub(in crate::engine) fn give_up_recording(&self) {
        drop(self.recorder.take());
        self.unrecorded();
        self.recorder.done.send_replace(true);
    }

    /// Has it recorded until its end.
    pub(in crate::engine) fn record_on(self: &Arc<Self>, tape: Tape) {
        let (session, stop) = (self.clone(), self.recorder.now().stop.clone());
        self.recorder_handled(tape.offset());
        tokio::spawn(async move {
            tokio::select! {
                () = record(&session, tape) => {}
                () = stop.notified() => {}
            }
            session.give_up_recording();
        });
    }

    /// What the journal holds from `offset` on, as far as one batch goes, and whether that is all.
    fn batch(&self, mut offset: u64) -> (Vec<ReadResult>, bool) {
        let journal = self.journal();
        let (mut batch, mut room) = (Vec::<ReadResult>::new(), BATCH);
        while room > 0 {
            let read = journal.read(offset, room);
            match (&read, batch.last_mut()) {
                (ReadResult::Empty, _) => return (batch, true),
                (ReadResult::Gap { length, .. }, _) => offset += length,
                (
                    ReadResult::Data { stderr, bytes, .. },
                    Some(ReadResult::Data { stderr: same, bytes: before, .. }),
                ) if stderr == same => {
                    // What was written meanwhile: a character may have been cut between the two.
                    before.extend_from_slice(bytes);
                    offset += bytes.len() as u64;
                    room = room.saturating_sub(bytes.len());
                    continue;
                }
                (ReadResult::Data { bytes, .. }, _) => {
                    offset += bytes.len() as u64;
                    // An entry costs something even where it is small.
                    room = room.saturating_sub(bytes.len() + 64);
                }
            }
            batch.push(read);
        }
        (batch, false)
    }
}

impl Engine {
    /// Has a session recorded as is wanted now, whose command does not run yet.
    pub(in crate::engine) async fn record_as(
        &self,
        session: &Arc<Session>,
        wanted: Option<Wanted>,
    ) -> Result<()> {
        if session.recorded() == wanted {
            return Ok(());
        }
        session.record_otherwise(wanted).await;
        tape::forget(&session.dir);
        self.recordings().remove(&session.id);
        let begun = (|| {
            // Held meanwhile: what is mounted from now on is noted behind it, in the recording too.
            let reached = session.reached();
            let tape = wanted.map(|wanted| {
                let mut about = About::new(&session.record);
                about.surroundings.clone_from(&reached);
                Tape::create(self.recordings(), about, wanted, &session.dir)
            });
            let tape = tape.transpose()?;
            session.write_record(&reached, None)?;
            Ok(tape)
        })();
        match begun {
            Ok(tape) => {
                tape.into_iter().for_each(|tape| session.record_on(tape));
                Ok(())
            }
            Err(error) => {
                // Not recorded at all: the next start tries it again.
                session.give_up_recording();
                session.record_otherwise(None).await;
                Err(io_error("cannot begin the recording of a session")(error))
            }
        }
    }
}

async fn record(session: &Arc<Session>, mut tape: Tape) {
    let mut activity = session.activity.subscribe();
    let mut states = session.state.subscribe();
    let mut sizes = session.recorder.size.subscribe();
    let Some(mut inputs) = session.recorder.take() else { return };
    let mut input = None;
    loop {
        // Seen before the journal is read: what comes later than this is a change.
        activity.mark_unchanged();
        let end = match &*states.borrow_and_update() {
            State::Ended(end, _) => Some(end.clone()),
            _ => None,
        };
        let size =
            sizes.has_changed().unwrap_or(false).then(|| *sizes.borrow_and_update()).flatten();
        let before = tape.offset();
        let (batch, all) = session.batch(before);
        let nothing = batch.is_empty() && size.is_none() && input.is_none();
        let typed: Option<Bytes> = input.take();
        let last = all && end.is_some();
        if !nothing {
            let written = tokio::task::spawn_blocking(move || {
                write(&mut tape, &batch, size, typed.as_deref(), last);
                tape
            });
            // A panic is a defect; it was told where it was made.
            tape = match written.await {
                Ok(tape) => tape,
                Err(_) => return,
            };
            session.recorder_handled(tape.offset());
            if tape.is_full() {
                // The rest is not waited for, but for the end; nor does input wait for it.
                session.unrecorded();
                drop(inputs);
                let end = session.wait().await;
                return finish(tape, &end).await;
            }
        }
        // Without progress only the beginning of a character is there.
        if tape.offset() > before {
            continue;
        }
        if let Some(end) = end {
            // What was typed last may have ended it.
            input = inputs.try_recv().ok();
            if input.is_some() {
                continue;
            }
            return finish(tape, &end).await;
        }
        tokio::select! {
            _ = activity.changed() => {}
            _ = states.changed() => {}
            _ = sizes.changed() => sizes.mark_changed(),
            Some(data) = inputs.recv() => input = Some(data),
        }
    }
}

fn write(
    tape: &mut Tape,
    batch: &[ReadResult],
    size: Option<TerminalSize>,
    input: Option<&[u8]>,
    last: bool,
) {
    let outputs = batch.iter().filter_map(|read| match read {
        ReadResult::Data { offset, stderr, bytes } => {
            Some(Part::Output { offset: *offset, stderr: *stderr, data: bytes })
        }
        ReadResult::Gap { offset, length } => Some(Part::Gap { offset: *offset, length: *length }),
        ReadResult::Empty => None,
    });
    let parts: Vec<Part<'_>> =
        size.map(Part::Resize).into_iter().chain(input.map(Part::Input)).chain(outputs).collect();
    tape.write(&parts, last);
}

async fn finish(tape: Tape, end: &SessionEnd) {
    let end = json!({
        "reason": end.reason,
        "stdout_bytes": end.stdout_bytes,
        "stderr_bytes": end.stderr_bytes,
        "dropped_bytes": end.dropped_bytes,
    });
    // A panic is a defect; it was told where it was made.
    let _ = tokio::task::spawn_blocking(move || tape.finish(&end.to_string())).await;
}
