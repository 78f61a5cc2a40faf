//! Opens a session, streams it to its end, and resumes it when its connection broke off.

use std::{future::Future, time::Duration};

use conti_proto::v1::{
    AttachSession, DisconnectPolicy, SessionEnd, StreamOpen, StreamOpened, stream_open,
};
use conti_shared::endpoint::Endpoint;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    connect::Destination,
    error::{Error, FAILED, Result},
    flags::value::duration_message,
    output,
    stream::{
        Options,
        link::{Failure, Link, why},
        outcome::{by_signal, outcome},
        pump::{Left, Pump},
    },
    terminal::Signals,
};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(2);
/// A link that lived this long was a good one: what breaks after it is another trouble.
const GOOD_LINK: Duration = Duration::from_secs(5);
const SIGPIPE: i32 = 13;
/// What happens to a session whose client goes without a word.
const UNDETACHED: &str = "not detached: the agent could not be told that the session is to go on, and does what \
                          --disconnect says (by default it kills, 60s after its client has gone, a command with a \
                          terminal that was not left running before)";

/// Opens a session and streams it to its end. Returns the exit code.
pub async fn stream(destination: &Destination, open: StreamOpen, options: Options) -> Result<u8> {
    let open = resumable(destination, open, &options);
    let mut signals = Signals::listen()
        .map_err(|source| Error::Local { what: "cannot listen to signals", source })?;
    let opened = tokio::select! {
        opened = Link::open(destination, open.clone()) => opened,
        number = signals.end() => return Ok(by_signal(number)),
    };
    let (link, opened) = match opened {
        Ok(opened) => opened,
        // No agent at all is not worth a wait; one that went away in the middle is, where it
        // can be asked again without doing it twice.
        Err(Failure::Broken(error @ (Error::Rpc(_) | Error::Stream(_))))
            if !open.request_id.is_empty() =>
        {
            let reason = match &error {
                Error::Rpc(status) => why(Some(status)),
                _ => why(None),
            };
            let retry = Retry::new(destination, &options, &reason, None);
            let give_up = async { Left::Signalled(signals.end().await) };
            match retry.open(&open, give_up).await? {
                Ok(opened) => opened,
                Err(left) => return Ok(code_of(&left)),
            }
        }
        Err(failure) => return Err(failure.into_error()),
    };
    output::warn(&opened.warnings);
    match follow(destination, &open, options, signals, link, opened).await {
        // What a local command would have got.
        Err(Error::OutputClosed) => Ok(by_signal(SIGPIPE)),
        result => result,
    }
}

/// A connection over a network may break though nobody has gone: unless something else was asked for, the
/// session is kept for as long as this client tries to resume it. No policy is chosen by that: where it is left
/// running, or its container is started again, it goes on as one that was started without a client.
fn resumable(destination: &Destination, mut open: StreamOpen, options: &Options) -> StreamOpen {
    if matches!(destination.endpoint, Endpoint::Unix(_)) || options.reconnect_timeout.is_zero() {
        return open;
    }
    let policy = match &mut open.open {
        Some(stream_open::Open::Start(spec)) => Some(&mut spec.policy),
        Some(stream_open::Open::Run(run)) => run.spec.as_mut().map(|spec| &mut spec.session_policy),
        _ => None,
    };
    let policy = policy.map(Option::get_or_insert_default);
    if let Some(policy) = policy
        && policy.disconnect_policy() == DisconnectPolicy::Unspecified
    {
        policy.disconnect_timeout = Some(duration_message(options.reconnect_timeout));
    }
    open
}

/// Streams an open session over as many links as it takes.
async fn follow(
    destination: &Destination,
    open: &StreamOpen,
    options: Options,
    signals: Signals,
    mut link: Link,
    opened: StreamOpened,
) -> Result<u8> {
    let attach = match &open.open {
        Some(stream_open::Open::Attach(attach)) => Some(attach),
        _ => None,
    };
    let session = opened.session.clone().unwrap_or_default();
    let again = match opened.container_name.as_str() {
        name if session.main && !name.is_empty() => format!("contictl attach {name}"),
        _ => format!("contictl attach --session {}", session.id),
    };
    let view_only = attach.is_some_and(|attach| attach.view_only);
    let mut pump = Pump::begin(&options, signals, &opened, attach.is_some(), view_only)?;
    let mut patience = None;
    loop {
        let since = Instant::now();
        let left = pump.run(&mut link).await?;
        if pump.take_progress() || since.elapsed() > GOOD_LINK {
            patience = None;
        }
        let reason = match left {
            Left::Ended(end) => return Ok(conclude(&pump, &end)),
            left @ (Left::Detached | Left::Undetached | Left::Signalled(_)) => {
                return Ok(leave(pump, &left, &again));
            }
            Left::Broken(reason) => reason,
        };
        drop(link);
        let open = StreamOpen {
            open: Some(stream_open::Open::Attach(AttachSession {
                session_id: session.id.clone(),
                container: String::new(),
                output_offset: Some(pump.delivery.next_offset()),
                view_only: !pump.is_driving(),
            })),
            request_id: String::new(),
            output_window: open.output_window,
        };
        let retry = Retry::new(destination, &options, &reason, patience);
        patience = Some(retry.deadline);
        let reopened = retry.open(&open, pump.give_up()).await.map_err(|error| {
            let left = if pump.is_detaching() { format!("; {UNDETACHED}") } else { String::new() };
            Error::Stream(format!(
                "{error}{left}; if the session is still there, `{again}` resumes it"
            ))
        })?;
        match reopened {
            Ok((next, opened)) => {
                link = next;
                pump.resume(&opened)?;
            }
            Err(left) => return Ok(leave(pump, &left, &again)),
        }
    }
}

/// The session ended: its output is compared with its account, and its end is put into a code.
fn conclude(pump: &Pump, end: &SessionEnd) -> u8 {
    pump.restore_terminal();
    let (code, note) = outcome(end);
    if let Some(note) = note {
        output::note(&note);
    }
    if end.drain_timed_out {
        output::note(
            "other processes still hold the command's stdout or stderr; what they write from now \
             on is lost",
        );
    }
    match pump.delivery.check(end) {
        Ok(()) => code,
        Err(problem) => {
            output::note(&problem);
            FAILED
        }
    }
}

/// The session is left before its end.
fn leave(pump: Pump, left: &Left, again: &str) -> u8 {
    drop(pump);
    match left {
        Left::Detached => output::note(&format!("detached; `{again}` attaches again")),
        Left::Undetached => {
            output::note(&format!(
                "{UNDETACHED}; if it keeps the session, `{again}` attaches again"
            ));
        }
        _ => output::note(&format!(
            "left before it ended; if the agent keeps it, `{again}` attaches again"
        )),
    }
    code_of(left)
}

fn code_of(left: &Left) -> u8 {
    match left {
        Left::Signalled(number) => by_signal(*number),
        Left::Undetached => FAILED,
        _ => 0,
    }
}

/// Opening a session again, until a deadline.
struct Retry<'a> {
    destination: &'a Destination,
    limit: Duration,
    deadline: Instant,
    reason: String,
}

impl Retry<'_> {
    /// Says why and for how long, once for each trouble: `patience` is the deadline of one that
    /// goes on.
    fn new<'a>(
        destination: &'a Destination,
        options: &Options,
        reason: &str,
        patience: Option<Instant>,
    ) -> Retry<'a> {
        let limit = options.reconnect_timeout;
        if patience.is_none() && !limit.is_zero() {
            output::note(&format!(
                "the connection to {} broke off ({reason}); trying to resume for {}",
                destination.endpoint,
                humantime::format_duration(limit)
            ));
        }
        let deadline = patience.unwrap_or_else(|| Instant::now() + limit);
        Retry { destination, limit, deadline, reason: reason.to_owned() }
    }

    /// Tries until it works, is refused, or the time is over; `give_up` ends it before.
    async fn open(
        mut self,
        open: &StreamOpen,
        give_up: impl Future<Output = Left>,
    ) -> Result<Result<(Link, StreamOpened), Left>> {
        tokio::pin!(give_up);
        let mut delay = FIRST_DELAY;
        loop {
            let wake = Instant::now() + delay;
            if wake > self.deadline {
                break;
            }
            tokio::select! {
                () = sleep_until(wake) => {}
                left = &mut give_up => return Ok(Err(left)),
            }
            delay = (delay * 2).min(LAST_DELAY);
            let attempt = timeout_at(self.deadline, Link::open(self.destination, open.clone()));
            tokio::select! {
                opened = attempt => match opened {
                    Ok(Ok(opened)) => return Ok(Ok(opened)),
                    Ok(Err(Failure::Refused(error))) => return Err(error),
                    Ok(Err(Failure::Broken(error))) => self.reason = error.to_string(),
                    Err(_) => "the agent does not answer".clone_into(&mut self.reason),
                },
                left = &mut give_up => return Ok(Err(left)),
            }
        }
        let Retry { destination: Destination { endpoint, .. }, limit, reason, .. } = self;
        Err(Error::Stream(match limit.is_zero() {
            true => format!("the connection to {endpoint} broke off: {reason}"),
            false => format!(
                "the connection to {endpoint} was not restored within {}: {reason}",
                humantime::format_duration(limit)
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use conti_proto::v1::{RunContainer, SessionPolicy, SessionSpec, stream_open::Open};

    use super::*;
    use crate::stream::detach;

    fn policy(host: &str, patience: Duration, asked: DisconnectPolicy) -> Option<SessionPolicy> {
        let destination = Destination { endpoint: host.parse().unwrap(), ..Destination::default() };
        let options = Options {
            stdin: false,
            detach_keys: "none".parse::<detach::Keys>().unwrap(),
            reconnect_timeout: patience,
        };
        let policy = SessionPolicy { disconnect_policy: asked.into(), ..SessionPolicy::default() };
        let spec = SessionSpec { policy: Some(policy), ..SessionSpec::default() };
        let open = StreamOpen { open: Some(Open::Start(spec)), ..StreamOpen::default() };
        match resumable(&destination, open, &options).open {
            Some(Open::Start(spec)) => spec.policy,
            _ => None,
        }
    }

    #[test]
    fn what_runs_over_a_network_is_kept_as_long_as_it_may_be_resumed() {
        let minute = Duration::from_secs(60);
        let kept = |host, patience, asked| policy(host, patience, asked).unwrap();
        for host in ["tcp://web", "ssh://web"] {
            let policy = kept(host, minute, DisconnectPolicy::Unspecified);
            assert_eq!(policy.disconnect_policy(), DisconnectPolicy::Unspecified);
            assert_eq!(policy.disconnect_timeout, Some(duration_message(minute)));
            let policy = kept(host, minute, DisconnectPolicy::Kill);
            assert_eq!(policy.disconnect_policy(), DisconnectPolicy::Kill);
            assert_eq!(policy.disconnect_timeout, None);
            let policy = kept(host, Duration::ZERO, DisconnectPolicy::Unspecified);
            assert_eq!(policy.disconnect_timeout, None);
        }
        let policy = kept("unix:///a", minute, DisconnectPolicy::Unspecified);
        assert_eq!(policy.disconnect_timeout, None);
        let run = StreamOpen {
            open: Some(Open::Run(RunContainer { spec: None })),
            ..StreamOpen::default()
        };
        let destination =
            Destination { endpoint: "tcp://web".parse().unwrap(), ..Destination::default() };
        let options = Options {
            stdin: false,
            detach_keys: "none".parse::<detach::Keys>().unwrap(),
            reconnect_timeout: minute,
        };
        assert_eq!(resumable(&destination, run.clone(), &options), run);
    }
}
