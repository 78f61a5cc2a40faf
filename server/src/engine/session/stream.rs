//! Reading a journal: one driver, who is waited for, and viewers, who are not.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use conti_runtime::{
    journal::{ReadResult, Reader},
    protocol::KillCause,
};
use tokio::{sync::watch, time::Instant};

use super::{Session, State, Waiting};
use crate::engine::{error::Result, info::SessionEnd, spec::OnDisconnect};

/// How long a process may wait for the acknowledgement of what its client was sent before a larger
/// journal is worth its memory. On one machine it takes less.
const FAR: Duration = Duration::from_millis(3);

/// What a reader gets, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// Output.
    Output {
        /// Where it stands in the journal.
        offset: u64,
        /// Written to stderr, or else to stdout.
        stderr: bool,
        /// The bytes, at most 256 KiB.
        data: Bytes,
    },
    /// Output that is not there any more.
    Gap {
        /// Where the first missing byte stands.
        offset: u64,
        /// How many are missing.
        length: u64,
    },
    /// The session has ended. Last.
    End(SessionEnd),
}

/// Looks at the output. A viewer that is too slow gets gaps.
#[derive(Debug)]
pub struct Viewer {
    session: Arc<Session>,
    activity: watch::Receiver<()>,
    states: watch::Receiver<State>,
    position: u64,
    done: bool,
    waiting: Waiting,
}

impl Viewer {
    pub(super) fn new(session: Arc<Session>, from: Option<u64>, waiting: Waiting) -> Viewer {
        let activity = session.activity.subscribe();
        let states = session.state.subscribe();
        // An offset that was never reached would wait for ever.
        let (tail, head) = session.retained();
        let position = from.unwrap_or(tail).min(head);
        Viewer { session, activity, states, position, done: false, waiting }
    }

    /// Where the next event begins.
    pub fn offset(&self) -> u64 {
        self.position
    }

    /// Waits for the next event, with output of up to `room` bytes. `None` after the end. Cancel-safe.
    pub async fn next(&mut self, room: usize) -> Option<Event> {
        loop {
            if let Some(event) = self.try_next(room) {
                return Some(event);
            }
            if self.done {
                return None;
            }
            let gone = tokio::select! {
                changed = self.activity.changed() => changed.is_err(),
                changed = self.states.changed() => changed.is_err(),
            };
            if gone {
                return None;
            }
        }
    }

    /// The next event, where it is there already.
    pub fn try_next(&mut self, room: usize) -> Option<Event> {
        if self.done {
            return None;
        }
        // Seen before the journal is read: what comes later than this is a change.
        self.activity.mark_unchanged();
        let end = match &*self.states.borrow_and_update() {
            State::Ended(end, _) => Some(end.clone()),
            _ => None,
        };
        let read =
            self.session.journal().read(self.position, self.waiting.piece().min(room.max(1)));
        match read {
            ReadResult::Data { offset, stderr, bytes } => {
                self.position = offset + bytes.len() as u64;
                self.session.counts.output_bytes.add(bytes.len() as u64);
                Some(Event::Output { offset, stderr, data: bytes.into() })
            }
            ReadResult::Gap { offset, length } => {
                self.position = offset + length;
                Some(Event::Gap { offset, length })
            }
            ReadResult::Empty => {
                let end = end?;
                self.done = true;
                Some(Event::End(end))
            }
        }
    }
}

/// Drives a session: its process waits for this reader, and only this client writes.
///
/// To drop it says that the client is gone. With the last of those who drive the session, or did until another took
/// over, its disconnect policy begins.
#[derive(Debug)]
pub struct Driver {
    viewer: Viewer,
    drivers: watch::Receiver<u64>,
    number: u64,
    /// Since when all was read of a journal that is full: the process waits for the client alone.
    waits_since: Option<Instant>,
    leaving: Leaving,
}

/// A driver's hold of its session, for those who write on its behalf.
#[derive(Debug, Clone)]
pub struct Hold {
    session: Arc<Session>,
    drivers: watch::Receiver<u64>,
    number: u64,
}

impl Hold {
    /// Resolves when another driver has taken over.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut drivers, number) = (self.drivers.clone(), self.number);
        async move {
            if drivers.wait_for(|last| *last != number).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Writes input, as [`Session::write`] does, as long as nobody has taken over.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<u64> {
        self.session.write_as(Some(self.number), Some(offset), data).await
    }
}

/// What a driver means by going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Its client is gone.
    Gone,
    /// Its client wants the session to run on.
    Detach,
    /// The agent stops.
    Park,
}

impl Driver {
    pub(super) fn new(session: Arc<Session>, from: Option<u64>, waiting: Waiting) -> Driver {
        let drivers = session.drivers.subscribe();
        session.clients.fetch_add(1, Ordering::AcqRel);
        let mut number = 0;
        session.drivers.send_modify(|last| {
            *last += 1;
            number = *last;
            session.driver.store(number, Ordering::Release);
        });
        let viewer = Viewer::new(session, from, waiting);
        let (waits_since, leaving) = (None, Leaving::Gone);
        let driver = Driver { viewer, drivers, number, waits_since, leaving };
        // How far away this client is shows later.
        driver.session().journal().live().map(Reader::let_stay);
        driver.session().drive_from(driver.viewer.position);
        driver
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.viewer.session
    }

    /// Where output begins.
    pub fn offset(&self) -> u64 {
        self.viewer.offset()
    }

    /// Waits for the next event, with output of up to `room` bytes. `None` after the end. Cancel-safe.
    pub async fn next(&mut self, room: usize) -> Option<Event> {
        let event = self.viewer.next(room).await;
        self.note_end(event)
    }

    /// The next event, where it is there already.
    pub fn try_next(&mut self, room: usize) -> Option<Event> {
        let event = self.viewer.try_next(room);
        let full = || self.session().journal().live().is_some_and(Reader::is_full);
        if event.is_none() && full() {
            self.waits_since.get_or_insert_with(Instant::now);
        }
        self.note_end(event)
    }

    fn note_end(&self, event: Option<Event>) -> Option<Event> {
        if let Some(Event::End(_)) = event {
            self.session().end_told.store(true, Ordering::Release);
        }
        event
    }

    /// The client has handled all output below `offset`: its room is free.
    pub fn ack(&mut self, offset: u64) {
        // Nobody can have handled what was not sent.
        let offset = offset.min(self.viewer.position);
        let waited = self.waits_since.take();
        if self.is_current() {
            if waited.is_some_and(|since| since.elapsed() >= FAR) {
                self.session().journal().live().map(Reader::let_grow);
            }
            self.session().driver_handled(offset);
        }
    }

    /// What its client holds of the session as long as nobody has taken over.
    pub fn hold(&self) -> Hold {
        Hold { session: self.session().clone(), drivers: self.drivers.clone(), number: self.number }
    }

    /// Whether nobody has taken over.
    pub fn is_current(&self) -> bool {
        self.session().driver.load(Ordering::Acquire) == self.number
    }

    /// Leaves the session running, whatever its policy.
    pub fn detach(mut self) {
        self.leaving = Leaving::Detach;
    }

    /// Leaves everything as it is, for the agent that comes after this one: there the client has time
    /// to come back, and nothing is dropped meanwhile.
    pub fn park(mut self) {
        self.leaving = Leaving::Park;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let session = self.session().clone();
        // Looked at first: whoever comes from now on has another number.
        let last = *session.drivers.borrow();
        let was_current = session
            .driver
            .compare_exchange(self.number, 0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        let was_last = session.clients.fetch_sub(1, Ordering::AcqRel) == 1;
        if session.ended() || self.leaving == Leaving::Park {
            return;
        }
        if self.leaving == Leaving::Detach {
            session.leave_running();
        }
        let is_driven = session.driver.load(Ordering::Acquire) != 0;
        if is_driven || self.leaving == Leaving::Detach || !was_last {
            // Those who drove it before look on: none of them is waited for.
            if was_current && !is_driven {
                session.let_run();
            }
            return;
        }
        // Where the process ends in this moment, there is nobody left to be told.
        match session.on_disconnect() {
            OnDisconnect::Detach => session.let_run(),
            OnDisconnect::HangUp => {
                session.let_run();
                let _ = session.end_with(libc::SIGHUP, KillCause::Disconnect);
            }
            OnDisconnect::Kill => {
                session.let_run();
                let _ = session.kill(KillCause::Disconnect);
            }
            OnDisconnect::Keep(time) => session.keep_for(time, last),
        }
    }
}

impl Session {
    /// Kills the session when nobody has come back to drive it in `time`. `last`: the number of the last driver.
    pub fn keep_for(self: &Arc<Self>, time: Duration, last: u64) {
        self.unless_driven(time, last, |session| {
            session.let_run();
            let _ = session.kill(KillCause::Disconnect);
        });
    }

    /// Lets the session run when nobody has come back to drive it in `time`: its process waits no longer.
    pub fn let_run_after(self: &Arc<Self>, time: Duration, last: u64) {
        self.unless_driven(time, last, Session::let_run);
    }

    fn unless_driven(self: &Arc<Self>, time: Duration, last: u64, then: fn(&Session)) {
        let session = self.clone();
        tokio::spawn(async move {
            let mut drivers = session.drivers.subscribe();
            tokio::select! {
                () = tokio::time::sleep(time) => then(&session),
                _ = drivers.wait_for(|number| *number != last) => {}
                _ = session.wait() => {}
            }
        });
    }
}
