//! The log as calls see it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Entry, Event, Limits, Outcome, Subject, Who,
    entry::{End, short},
    pace::Pace,
    volume::Volume,
    writer::{Durability, Failed, Line, Missing, Writer, Written},
};
use crate::engine::{id, info::SessionEnd};

/// Lines that wait for the writer. More than there are calls at a time, unless the disk stands still.
const QUEUE: usize = 8192;
/// How long a call waits for its record. A disk that takes longer counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// The log. Clones are the same log.
#[derive(Debug, Clone)]
pub struct Log(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// `None` once the log is closed.
    lines: Mutex<Option<SyncSender<Line>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    missing: Arc<Missing>,
    /// For what costs its caller nothing.
    pace: Pace,
    /// The same for those who do not get as far as a call.
    doors: Pace,
    /// The same for calls that fail.
    failures: Pace,
    /// What callers have added.
    volume: Volume,
}

impl Log {
    /// Opens a log, and makes it where it is not there.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Log> {
        let missing = Arc::new(Missing::default());
        let writer = Writer::open(PathBuf::from(path), limits, missing.clone())?;
        let (lines, waiting) = sync_channel(QUEUE);
        let thread =
            thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&waiting))?;
        let (lines, thread) = (Mutex::new(Some(lines)), Mutex::new(Some(thread)));
        Ok(Log(Some(Arc::new(Shared {
            lines,
            thread,
            missing,
            pace: Pace::of_calls(),
            doors: Pace::of_connections(),
            failures: Pace::of_failures(),
            volume: Volume::of(&limits),
        }))))
    }

    /// No log at all.
    pub fn none() -> Log {
        Log(None)
    }

    /// Records that a call is about to be carried out. When it returns the record is where it must be:
    /// see the [module](super).
    pub async fn begin(&self, who: Who, method: &str, subject: Subject) -> Result<Open, Failed> {
        let mut entry = Entry::new(Event::Begin, who, method, subject);
        entry.call = id::new();
        let Some(shared) = &self.0 else { return Ok(Open::new(self, entry)) };
        let durability =
            if entry.who.owns_host { Durability::Written } else { Durability::Flushed };
        let (written, answer) = oneshot::channel();
        let line = Line { bytes: entry.line(), durability, written: Some(written) };
        shared.charge(&entry.who, &line);
        shared.send(line)?;
        // From here on it stands in the log, and has an end there also where its caller does not wait.
        let mut open = Open::new(self, entry);
        let failed = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(()))) => return Ok(open),
            Ok(Ok(Err(failed))) => failed,
            Ok(Err(_)) => Failed::other("the audit log is closed"),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                Failed::other(&format!("the audit log was not written in {seconds} seconds"))
            }
        };
        open.entry = None;
        Err(failed)
    }

    /// Goes on with a call of a caller of whom too many have failed, which is carried out all the same: it is recorded
    /// when it ends, and only counted if it fails too and has done nothing.
    pub fn begin_late(&self, who: Who, method: &str, subject: Subject) -> Open {
        let mut entry = Entry::new(Event::Begin, who, method, subject);
        entry.call = id::new();
        let mut open = Open::new(self, entry);
        open.is_late = true;
        open
    }

    /// Goes on with a call that could not be recorded, and is carried out all the same: the log tells how many
    /// those were once it can be written, and their ends.
    pub fn unrecorded(&self, who: Who, method: &str, subject: Subject) -> Open {
        if let Some(shared) = &self.0 {
            shared.missing.calls.fetch_add(1, Ordering::Relaxed);
        }
        let mut entry = Entry::new(Event::Begin, who, method, subject);
        entry.call = id::new();
        Open::new(self, entry)
    }

    /// Goes on with a call that an earlier agent has begun, as [`Open::saved`] gave it.
    pub fn resume(&self, saved: &[u8]) -> io::Result<Open> {
        let entry: Entry = serde_json::from_slice(saved)?;
        let since = humantime::parse_rfc3339(&entry.time).ok().and_then(|t| t.elapsed().ok());
        let begun = since.and_then(|since| Instant::now().checked_sub(since));
        let begun = begun.unwrap_or_else(Instant::now);
        Ok(Open { log: self.clone(), entry: Some(entry), begun, is_late: false })
    }

    /// Whether a caller that is not known yet may be recorded once more.
    pub fn has_room_for(&self, who: &Who) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.pace.allows(&who.pace_key()))
    }

    /// Whether a caller may have a call recorded that may fail: not if too many of its have failed lately. Who owns the
    /// host has other ways to rewrite the log. One that ends something is let in all the same ([`Log::begin_late`]).
    pub fn has_room_for_failures(&self, who: &Who, method: &str) -> bool {
        let spent = |shared: &Arc<Shared>| shared.failures.is_spent(&failures_of(who, method));
        who.owns_host || !self.0.as_ref().is_some_and(spent)
    }

    /// For how long a caller is held up before its next call, who has filled the log too fast.
    pub fn held_up(&self, who: &Who) -> Duration {
        match &self.0 {
            Some(shared) if !who.owns_host => shared.volume.held_up(&who.pace_key()),
            _ => Duration::ZERO,
        }
    }

    /// Notes that a call failed.
    fn has_failed(&self, who: &Who, method: &str) {
        if let Some(shared) = &self.0 {
            shared.failures.owes(&failures_of(who, method));
        }
    }

    /// Records that a call was refused, and why. What is too much of one caller is only counted.
    pub fn denied(&self, who: Who, method: &str, subject: Subject, code: &str, why: &str) {
        if !self.has_room_for(&who) {
            return self.count_missing();
        }
        let mut entry = Entry::new(Event::Denied, who, method, subject);
        entry.call = id::new();
        entry.denied = Some(short(why));
        entry.outcome.code = Some(code.to_owned());
        self.add(&entry, None);
    }

    /// Records that a connection was refused, and why. What is too much is not even counted here: the
    /// metrics have all of them.
    pub fn refused(&self, who: Who, why: &str) {
        let Some(shared) = &self.0 else { return };
        if shared.doors.allows(&who.pace_key()) {
            let mut entry = Entry::new(Event::Refused, who, "", Subject::default());
            entry.denied = Some(short(why));
            self.add(&entry, None);
        }
    }

    /// Writes what is there, and closes the file. Records that come later are lost.
    pub fn close(&self) {
        let Some(shared) = &self.0 else { return };
        drop(shared.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It told what went wrong itself.
            let _ = thread.join();
        }
    }

    fn count_missing(&self) {
        if let Some(shared) = &self.0 {
            shared.missing.lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add(&self, entry: &Entry, written: Option<Written>) {
        if let Some(shared) = &self.0 {
            let line = Line { bytes: entry.line(), durability: Durability::Written, written };
            // What is refused has paces of its own.
            if entry.event == Event::End {
                shared.charge(&entry.who, &line);
            }
            // It is counted, and told in the log once that can be written.
            let _ = shared.send(line);
        }
    }
}

impl Shared {
    /// Counts a line with those of its caller.
    fn charge(&self, who: &Who, line: &Line) {
        if !who.owns_host {
            self.volume.add(&who.pace_key(), line.bytes.len());
        }
    }

    fn send(&self, line: Line) -> Result<(), Failed> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match &*lines {
            Some(lines) => lines.try_send(line).is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        self.missing.lines.fetch_add(1, Ordering::Relaxed);
        Err(Failed::other("more calls wait for the audit log than it can take"))
    }
}

/// A call that was begun. Dropped without an end, it was given up: its caller is gone.
#[derive(Debug)]
pub struct Open {
    log: Log,
    entry: Option<Entry>,
    begun: Instant,
    /// Whether its begin is not written yet.
    is_late: bool,
}

/// As whose its failing calls count: those that end something apart, so that nothing else keeps it from that.
fn failures_of(who: &Who, method: &str) -> String {
    let kind = if super::ends(method) { "ends" } else { "calls" };
    format!("{kind} of {}", who.pace_key())
}

impl Open {
    fn new(log: &Log, begin: Entry) -> Open {
        Open { log: log.clone(), entry: Some(begin), begun: Instant::now(), is_late: false }
    }

    /// Adds what has become known of what the call is about.
    pub fn subject(&mut self, change: impl FnOnce(&mut Subject)) {
        if let Some(entry) = &mut self.entry {
            change(&mut entry.subject);
        }
    }

    /// Records what came of it.
    pub fn end(mut self, outcome: Outcome) {
        self.write(outcome, None);
    }

    /// As `end`, of a call that saw its session end. Resolves to whether the record is where it must be.
    pub fn end_with(
        mut self,
        mut outcome: Outcome,
        end: &SessionEnd,
    ) -> impl Future<Output = bool> + Send + use<> {
        outcome.end = Some(End::from(end));
        let (written, answer) = oneshot::channel();
        self.write(outcome, Some(written));
        async move { matches!(answer.await, Ok(Ok(()))) }
    }

    /// Records that the call was refused after all, and why.
    pub fn denied(mut self, code: &str, why: &str) {
        if let Some(begun) = self.entry.take() {
            if self.is_late {
                return self.log.count_missing();
            }
            self.log.has_failed(&begun.who, &begun.method);
            let mut entry = Entry { event: Event::Denied, ..begun };
            entry.time = super::entry::now();
            entry.denied = Some(short(why));
            entry.outcome.code = Some(code.to_owned());
            self.log.add(&entry, None);
        }
    }

    /// The call, for an agent that is started again. `None`: there is no log, or it has its end.
    pub fn saved(&self) -> Option<Vec<u8>> {
        self.log.0.as_ref()?;
        Some(self.entry.as_ref()?.line())
    }

    /// The same call, for an end that comes later.
    pub fn again(&self) -> Open {
        let (log, entry) = (self.log.clone(), self.entry.clone());
        Open { log, entry, begun: self.begun, is_late: false }
    }

    fn write(&mut self, mut outcome: Outcome, written: Option<Written>) {
        let Some(begun) = self.entry.take() else { return };
        if outcome.has_failed() {
            if self.is_late && !outcome.may_have_done_something() {
                return self.log.count_missing();
            }
            self.log.has_failed(&begun.who, &begun.method);
        }
        if self.is_late {
            self.log.add(&begun, None);
        }
        outcome.took(self.begun.elapsed());
        let Subject { target, container, session, .. } = begun.subject;
        // What stands in the begin is not said twice but for what one looks for.
        let subject = Subject { target, container, session, ..Subject::default() };
        let mut entry = Entry::new(Event::End, begun.who, &begun.method, subject);
        entry.call = begun.call;
        entry.outcome = outcome;
        self.log.add(&entry, written);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.write(Outcome::of("CANCELLED", ""), None);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entries(path: &Path) -> Vec<Entry> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn limits(max_bytes: u64) -> Limits {
        Limits { max_bytes, keep: 1000 }
    }

    fn remote() -> Who {
        Who { identity: "alice".into(), ..Who::default() }
    }

    #[tokio::test]
    async fn begin_and_end_of_a_call_have_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, limits(1 << 20)).unwrap();
        let mut open = log.begin(remote(), "/a/B", Subject::default()).await.unwrap();
        assert_eq!(entries(&path).len(), 1, "it is there before the call is carried out");
        open.subject(|subject| subject.session = Some("s".into()));
        open.end(Outcome::of("OK", ""));
        drop(log.begin(remote(), "/a/C", Subject::default()).await.unwrap());
        log.denied(remote(), "/a/D", Subject::default(), "PERMISSION_DENIED", "role too low");
        log.close();
        let all = entries(&path);
        let told: Vec<_> = all.iter().map(|e| (e.event, e.method.as_str())).collect();
        let wanted = [
            (Event::Begin, "/a/B"),
            (Event::End, "/a/B"),
            (Event::Begin, "/a/C"),
            (Event::End, "/a/C"),
            (Event::Denied, "/a/D"),
        ];
        assert_eq!(told, wanted);
        assert_eq!(all[0].call, all[1].call);
        assert_ne!(all[0].call, all[2].call);
        assert_eq!(all[1].subject.session.as_deref(), Some("s"));
        assert_eq!(all[3].outcome.code.as_deref(), Some("CANCELLED"));
    }

    #[tokio::test]
    async fn a_call_has_an_end_whose_caller_does_not_wait_until_it_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, limits(1 << 20)).unwrap();
        let mut begin = Box::pin(log.begin(remote(), "/a/B", Subject::default()));
        drop(futures::poll!(&mut begin));
        drop(begin);
        log.close();
        let all = entries(&path);
        let told: Vec<_> = all.iter().map(|e| (e.event, e.outcome.code.as_deref())).collect();
        assert_eq!(told, [(Event::Begin, None), (Event::End, Some("CANCELLED"))]);
        assert_eq!(all[0].call, all[1].call);
    }

    #[tokio::test]
    async fn a_late_call_that_failed_is_recorded_if_something_of_it_was_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, limits(1 << 20)).unwrap();
        let failed = |done_in_part| {
            let outcome = Outcome::of("FAILED_PRECONDITION", "it does not end");
            let call = log.begin_late(remote(), "/a/Stop", Subject::default());
            call.end(Outcome { done_in_part, ..outcome });
        };
        failed(false);
        failed(true);
        drop(log.begin_late(remote(), "/a/Stop", Subject::default()));
        log.close();
        let all = entries(&path);
        let told: Vec<_> =
            all.iter().map(|entry| (entry.event, entry.outcome.code.as_deref())).collect();
        let wanted = [
            (Event::Begin, None),
            (Event::End, Some("FAILED_PRECONDITION")),
            (Event::Begin, None),
            (Event::End, Some("CANCELLED")),
        ];
        let told: Vec<_> = told.into_iter().filter(|(event, _)| *event != Event::Lost).collect();
        assert_eq!(told, wanted);
        let lost: u64 = all.iter().filter_map(|entry| entry.lost).sum();
        assert_eq!(lost, 1, "the one that did nothing is counted");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_at_the_same_time_lose_no_line_where_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, limits(5000)).unwrap();
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let log = log.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let who = remote();
                        log.begin(who, "/a/B", Subject::default())
                            .await
                            .unwrap()
                            .end(Outcome::default());
                    }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        log.close();
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(files.len() > 10);
        let all: Vec<Entry> = files.iter().flat_map(|file| entries(file)).collect();
        let begun = all.iter().filter(|entry| entry.event == Event::Begin).count();
        assert_eq!((begun, all.len()), (320, 640));
    }

    #[tokio::test]
    async fn connections_that_are_refused_take_no_room_of_calls_that_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, limits(1 << 20)).unwrap();
        for port in 0..1000 {
            log.refused(Who::unknown(&format!("10.0.0.1:{port}")), "no certificate");
        }
        log.denied(remote(), "/a/B", Subject::default(), "PERMISSION_DENIED", "role too low");
        log.close();
        let all = entries(&path);
        assert_eq!(all.len(), 17, "as many as one address may have, and the call");
        assert_eq!((all[0].event, all[0].who.address.as_str()), (Event::Refused, "10.0.0.1:0"));
        assert_eq!(all[0].denied.as_deref(), Some("no certificate"));
        assert_eq!(all[16].event, Event::Denied);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_refused_and_counted_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, limits(1 << 20)).unwrap();
        let begin = || log.begin(remote(), "/a/B", Subject::default());
        let first = begin().await.unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::create_dir(&path).unwrap();
        for _ in 0..2 {
            let problem = begin().await.unwrap_err().to_string();
            assert!(problem.contains("cannot be written"), "{problem}");
        }
        log.denied(remote(), "/a/C", Subject::default(), "PERMISSION_DENIED", "");
        assert!(begin().await.is_err());
        fs::remove_dir(&path).unwrap();
        drop(begin().await.unwrap());
        drop(first);
        log.close();
        // What was written before the file was moved away is whole, in the file that was moved.
        assert_eq!(entries(&dir.path().join("old")).len(), 1);
        let all = entries(&path);
        assert_eq!((all[0].event, all[0].lost), (Event::Lost, Some(4)));
        let told: Vec<_> = all[1..].iter().map(|entry| entry.event).collect();
        assert_eq!(told, [Event::Begin, Event::End, Event::End]);
    }
}
