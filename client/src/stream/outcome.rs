//! What the end of a session means for the exit code.

use conti_proto::v1::{KillCause, SessionEnd, session_end::Reason};

use crate::error::{FAILED, NOT_EXECUTABLE, NOT_FOUND};

const ENOENT: i32 = 2;
const SIGKILL: i32 = 9;
/// As timeout(1) has it.
const DEADLINE: u8 = 124;

/// The exit code of an end, and what the user would not know from it.
pub fn outcome(end: &SessionEnd) -> (u8, Option<String>) {
    match &end.reason {
        Some(Reason::ExitCode(code)) => (u8::try_from(*code).unwrap_or(FAILED), None),
        Some(Reason::Signal(signal)) => (by_signal(signal.number), None),
        Some(Reason::OutOfMemory(_)) => (
            by_signal(SIGKILL),
            Some("the kernel's out-of-memory killer ended the command".to_owned()),
        ),
        Some(Reason::Deadline(_)) => {
            (DEADLINE, Some("the command took longer than its deadline".to_owned()))
        }
        Some(Reason::Killed(killed)) => {
            let who = match killed.cause() {
                KillCause::Disconnect => "the command was killed: its client had gone",
                _ => "the command was killed by a client",
            };
            (by_signal(killed.signal), Some(who.to_owned()))
        }
        Some(Reason::ContainerGone(_)) => (
            by_signal(SIGKILL),
            Some("the container ended while the command was running".to_owned()),
        ),
        Some(Reason::StartFailed(failed)) => {
            let code = match (failed.step.as_str(), failed.errno) {
                ("exec", ENOENT) => NOT_FOUND,
                ("exec", _) => NOT_EXECUTABLE,
                _ => FAILED,
            };
            (code, Some(failed.message.clone()))
        }
        Some(Reason::Lost(lost)) => {
            (FAILED, Some(format!("what became of the command is not known: {}", lost.message)))
        }
        None => (FAILED, Some("the agent does not say how the command ended".to_owned())),
    }
}

/// The exit code of a command that a signal ended.
pub fn by_signal(number: i32) -> u8 {
    // A signal has a number of 1 to 64; anything else is not one.
    128 + u8::try_from(number).ok().filter(|n| *n <= 64).unwrap_or(SIGKILL as u8)
}

#[cfg(test)]
mod tests {
    use conti_proto::v1::{DeadlineEnd, KilledEnd, OutOfMemoryEnd, SignalEnd, StartFailedEnd};

    use super::*;

    fn code(reason: Reason) -> u8 {
        outcome(&SessionEnd { reason: Some(reason), ..SessionEnd::default() }).0
    }

    #[test]
    fn every_end_has_its_code() {
        let failed = |step: &str, errno| {
            Reason::StartFailed(StartFailedEnd {
                step: step.to_owned(),
                errno,
                ..StartFailedEnd::default()
            })
        };
        assert_eq!(code(Reason::ExitCode(0)), 0);
        assert_eq!(code(Reason::ExitCode(255)), 255);
        assert_eq!(code(Reason::ExitCode(256)), 125);
        assert_eq!(code(Reason::Signal(SignalEnd { number: 15, ..SignalEnd::default() })), 143);
        assert_eq!(code(Reason::Signal(SignalEnd { number: 64, ..SignalEnd::default() })), 192);
        assert_eq!(code(Reason::OutOfMemory(OutOfMemoryEnd {})), 137);
        assert_eq!(code(Reason::Deadline(DeadlineEnd {})), 124);
        assert_eq!(code(Reason::Killed(KilledEnd { signal: 9, cause: 1 })), 137);
        assert_eq!(code(failed("exec", 2)), 127);
        assert_eq!(code(failed("exec", 13)), 126);
        assert_eq!(code(failed("cwd", 2)), 125);
        assert_eq!(outcome(&SessionEnd::default()).0, 125);
    }
}
