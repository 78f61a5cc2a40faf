//! One line of the log.

use std::time::{Duration, SystemTime};

use conti_shared::{name, text};
use serde::{Deserialize, Serialize};

use crate::{
    access::{Caller, Identity, Peer, Role},
    engine::info::{EndReason, KillCause, SessionEnd},
    redact,
};

/// The longest text of a field, in bytes; arguments have limits of their own.
const TEXT_MAX: usize = 1024;

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A call is about to be carried out.
    Begin,
    /// It has been carried out, or its session has ended.
    End,
    /// It was refused.
    Denied,
    /// A connection was refused: whoever came over it could not call anything.
    Refused,
    /// Records before this one could not be written.
    Lost,
}

/// One line of the log: one JSON object. What does not apply is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When: RFC 3339 in UTC, with nanoseconds.
    pub time: String,
    /// What it tells.
    pub event: Event,
    /// Joins the begin of a call with its end.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub call: String,
    /// Who.
    #[serde(flatten)]
    pub who: Who,
    /// The method's path, e.g. `/conti.v1.SessionService/Stream`.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub method: String,
    /// On what.
    #[serde(flatten)]
    pub subject: Subject,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub denied: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// With [`Event::Lost`]: how many records could not be written, or may not be on disk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<u64>,
    /// With [`Event::Lost`]: how many calls were carried out whose begin is among them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unrecorded: Option<u64>,
}

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The name of the identity.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub identity: String,
    /// Its role.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<String>,
    /// Where it is: an address and port, or `unix`.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub address: String,
    /// The pid of a local process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<i32>,
    /// The serial number of its certificate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<String>,
    /// Its trace id, where it sent one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace: Option<String>,
    /// Whether it may rewrite the log anyway.
    #[serde(skip, default)]
    pub owns_host: bool,
}

impl Who {
    /// Who it counts as where its lines are counted: one who is not known, by the address alone.
    pub fn pace_key(&self) -> String {
        match (self.identity.as_str(), self.address.rsplit_once(':')) {
            ("guest" | "", Some((address, _))) => format!("guest at {address}"),
            (identity, _) => identity.to_owned(),
        }
    }

    /// One that has not shown who it is.
    pub fn unknown(address: &str) -> Who {
        Who { address: address.to_owned(), ..Who::default() }
    }

    /// One that may call.
    pub fn of(caller: &Caller) -> Who {
        let mut who = Who::nobody(&caller.peer);
        who.role = Some(caller.role.as_str().to_owned());
        who.owns_host =
            matches!(caller.peer.identity, Identity::Local { .. }) && caller.role == Role::Admin;
        who
    }

    /// One whom the policy grants nothing.
    pub fn nobody(peer: &Peer) -> Who {
        let pid = match &peer.identity {
            Identity::Local { pid, .. } => *pid,
            _ => None,
        };
        Who {
            identity: peer.identity.name(),
            role: None,
            address: peer.address.clone(),
            pid,
            certificate: peer.identity.certificate().map(|leaf| leaf.serial.clone()),
            trace: None,
            owns_host: false,
        }
    }
}

/// What a call is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// As `contictl` takes it: the name or id of a container, `pid:N` or `host`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// The id of the container.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<String>,
    /// The id of the session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    /// The command with its arguments, as the policy has them shown: redacted, or hashed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub argv: Vec<String>,
    /// The names of the variables that it was given.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub env: Vec<String>,
    /// Whom it runs as, where that was said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// Whether it has a terminal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub terminal: Option<bool>,
    /// What else tells one call from another, e.g. a path, a signal or a role.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// Why the caller says that it does it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

impl Subject {
    /// Cuts what is longer than any name, and takes out what looks like a secret: a caller may have sent anything in
    /// the place of a name.
    pub fn shorten(&mut self) {
        let texts = [&mut self.target, &mut self.session, &mut self.user, &mut self.detail];
        for text in texts.into_iter().flatten().filter(|text| !is_name(text)) {
            *text = short(text);
        }
    }

    /// Sets what is run: its arguments as they are to be shown, and the variables it is given as
    /// `NAME=value`, of which only the names are kept.
    pub fn command(&mut self, argv: Vec<String>, env: &[String], terminal: bool) {
        self.argv = argv;
        self.env = redact::env_names(env);
        self.terminal = Some(terminal);
    }
}

/// What came of a call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The name of the gRPC code, e.g. `OK` or `NOT_FOUND`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<String>,
    /// What went wrong, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// How its session ended, where the call saw it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<End>,
    /// Bytes that came from the caller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_in: Option<u64>,
    /// Bytes that went to the caller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_out: Option<u64>,
    /// How long it took, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<f64>,
    /// Whether it failed when something of it was done already.
    #[serde(skip, default)]
    pub done_in_part: bool,
}

/// How a session ended: exactly one of the fields of the reason, and how much it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
    /// Bytes of stdout, or of the terminal.
    pub stdout_bytes: u64,
    /// Bytes of stderr.
    pub stderr_bytes: u64,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its exit code.
    Exit(i32),
    /// The signal that ended it.
    Signal(i32),
    /// The out-of-memory killer ended it.
    OutOfMemory(bool),
    /// Its deadline had passed.
    Deadline(bool),
    /// It was killed: by a `client`, or after a `disconnect`.
    Killed(String),
    /// Its container ended under it.
    ContainerGone(bool),
    /// Its command was never run, and why.
    StartFailed(String),
    /// What became of it is not known, and why.
    Lost(String),
}

impl From<&SessionEnd> for End {
    fn from(end: &SessionEnd) -> End {
        let reason = match &end.reason {
            EndReason::Exit(code) => Reason::Exit(*code),
            EndReason::Signal { number, .. } => Reason::Signal(*number),
            EndReason::OutOfMemory => Reason::OutOfMemory(true),
            EndReason::Deadline => Reason::Deadline(true),
            EndReason::Killed { cause: KillCause::Client, .. } => Reason::Killed("client".into()),
            EndReason::Killed { cause: KillCause::Disconnect, .. } => {
                Reason::Killed("disconnect".into())
            }
            EndReason::ContainerGone => Reason::ContainerGone(true),
            EndReason::StartFailed { message, .. } => Reason::StartFailed(short(message)),
            EndReason::Lost(why) => Reason::Lost(short(why)),
        };
        End { reason, stdout_bytes: end.stdout_bytes, stderr_bytes: end.stderr_bytes }
    }
}

impl Entry {
    /// A line about this moment.
    pub fn new(event: Event, who: Who, method: &str, subject: Subject) -> Entry {
        Entry {
            time: now(),
            event,
            call: String::new(),
            who,
            method: if is_path(method) { redact::cut(method, TEXT_MAX) } else { short(method) },
            subject,
            denied: None,
            outcome: Outcome::default(),
            lost: None,
            unrecorded: None,
        }
    }

    /// The line, with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        // It holds text and numbers only, which all have a form in JSON.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        // It is read in terminals: what a caller sent is not to steer them.
        text::json(&line).into_owned().into_bytes()
    }
}

impl Outcome {
    /// What a code and a message say. `message`: empty where all went well.
    pub fn of(code: &str, message: &str) -> Outcome {
        let error = (!message.is_empty()).then(|| short(message));
        Outcome { code: Some(code.to_owned()), error, ..Outcome::default() }
    }

    /// Whether it was refused for what was asked for, or given up, and has cost its caller nothing.
    pub(super) fn has_failed(&self) -> bool {
        let others = ["OK", "UNAVAILABLE", "INTERNAL", "UNKNOWN"];
        self.code.as_ref().is_some_and(|code| !others.contains(&code.as_str()))
    }

    /// Whether something of it may have been done though it failed: a part of it, or what its caller, who had gone
    /// before it was answered, does not know of.
    pub(super) fn may_have_done_something(&self) -> bool {
        self.done_in_part || self.code.as_deref() == Some("CANCELLED")
    }

    /// Sets how long it took.
    pub(super) fn took(&mut self, time: Duration) {
        // Microseconds say enough.
        self.seconds = Some((time.as_secs_f64() * 1e6).round() / 1e6);
    }
}

/// Whether a text has the form of a name or an id of the agent. An id looks like a key.
fn is_name(text: &str) -> bool {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    name::check_container_name(text).is_ok() || (digits && text.len() <= 128)
}

/// Whether a text has the form of a method's path.
fn is_path(text: &str) -> bool {
    text.len() <= 128
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(&byte))
}

/// A sentence as it may stand in the log: it may quote what a caller sent.
pub(super) fn short(text: &str) -> String {
    redact::cut(&redact::text(text), TEXT_MAX)
}

pub(super) fn now() -> String {
    humantime::format_rfc3339_nanos(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_whatever_stands_in_it() {
        let mut subject = Subject { reason: Some("a\nb\u{1b}[0m".into()), ..Subject::default() };
        subject.command(vec!["sh\n".into(), "\u{2028}\r".into()], &["A=secret".into()], true);
        let mut entry = Entry::new(Event::Begin, Who::default(), "/x", subject);
        entry.call = "c".into();
        let line = entry.line();
        assert_eq!(line.iter().filter(|byte| **byte < 0x20).count(), 1);
        assert!(line.ends_with(b"}\n"));
        let text = String::from_utf8(line).unwrap();
        assert!(!text.contains("secret") && text.contains(r#""env":["A"]"#));
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn an_entry_shows_all_of_what_stands_in_it() {
        let odd = "\u{202e}evil\u{9b}31m\u{200b}\u{ad}\u{180e}\u{fff9}\u{e0041}\u{7f}";
        let some = || Some(odd.to_owned());
        let subject = Subject {
            target: some(),
            session: some(),
            argv: vec!["echo".into(), odd.into()],
            env: vec![odd.into()],
            user: some(),
            detail: some(),
            reason: some(),
            ..Subject::default()
        };
        let mut entry = Entry::new(Event::Denied, Who::unknown(odd), odd, subject);
        entry.denied = some();
        entry.outcome = Outcome::of("NOT_FOUND", odd);
        let line = String::from_utf8(entry.line()).unwrap();
        assert!(!line.trim_end().chars().any(text::is_deceptive), "{line}");
        assert!(line.contains(r"\u202eevil\u009b31m") && line.contains(r"\udb40\udc41"), "{line}");
        assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
    }

    #[test]
    fn what_stands_in_the_place_of_a_name_is_redacted_and_names_stay() {
        let secret = "/x/password=hunter2";
        let id = "0123456789abcdef0123456789abcdef";
        let some = |text: &str| Some(text.to_owned());
        let mut subject = Subject {
            target: some("password=hunter2"),
            session: some("token: hunter2"),
            user: some("joe --password hunter2"),
            detail: some(secret),
            ..Subject::default()
        };
        subject.shorten();
        let entry = Entry::new(Event::Denied, Who::default(), secret, subject);
        let line = String::from_utf8(entry.line()).unwrap();
        assert!(!line.contains("hunter2") && line.contains("/x/password=[redacted]"), "{line}");
        let mut subject = Subject {
            target: some("web-1.token"),
            session: some(id),
            detail: some("01:9F:86:D0:81:88:4C:7D:65:9A:2F:EA:A0:C5:5A:D0:15"),
            user: some("1000:1000"),
            ..Subject::default()
        };
        let before = subject.clone();
        subject.shorten();
        assert_eq!(subject, before);
    }

    #[test]
    fn every_end_of_a_session_has_a_word_of_its_own() {
        let end = |reason| {
            let end = SessionEnd {
                reason,
                time: SystemTime::UNIX_EPOCH,
                stdout_bytes: 3,
                stderr_bytes: 0,
                dropped_bytes: 0,
                drain_timed_out: false,
            };
            serde_json::to_string(&End::from(&end)).unwrap()
        };
        let killed = EndReason::Killed { signal: 9, cause: KillCause::Client };
        for (reason, word) in [
            (EndReason::Exit(7), r#""exit":7"#),
            (EndReason::Signal { number: 15, core_dumped: false }, r#""signal":15"#),
            (EndReason::OutOfMemory, r#""out_of_memory":true"#),
            (EndReason::Deadline, r#""deadline":true"#),
            (killed, r#""killed":"client""#),
            (EndReason::ContainerGone, r#""container_gone":true"#),
            (EndReason::Lost("x".into()), r#""lost":"x""#),
        ] {
            assert_eq!(end(reason), format!("{{{word},\"stdout_bytes\":3,\"stderr_bytes\":0}}"));
        }
    }
}
