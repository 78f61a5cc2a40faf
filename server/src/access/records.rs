//! What the machine's owner wants to be recorded: the sections `[audit]`, `[reason]` and `[recording]` of
//! the policy.

use conti_shared::text::is_deceptive;
use serde::Deserialize;

use super::Role;

/// The longest reason that a caller may give, in characters.
const REASON_MAX: usize = 512;

/// What stands in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Which calls.
    pub calls: AuditedCalls,
    /// How the arguments of commands are shown.
    pub arguments: AuditedArguments,
    /// What happens to a call that cannot be recorded.
    pub on_failure: OnAuditFailure,
    /// The size at which a file is full, in bytes. Read when the agent starts.
    pub max_bytes: u64,
    /// How many full files are kept. Read when the agent starts.
    pub keep: usize,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            calls: AuditedCalls::Changes,
            arguments: AuditedArguments::Redacted,
            on_failure: OnAuditFailure::Refuse,
            max_bytes: 64 << 20,
            keep: 10,
        }
    }
}

/// Which calls stand in the audit log. What is refused always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditedCalls {
    /// Those that need more than a viewer, and all that look at the host or a process of it.
    Changes,
    /// All but health checks.
    All,
}

/// How the arguments of commands stand in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditedArguments {
    /// Without what looks like a secret.
    Redacted,
    /// The program alone, and a keyed hash of all of them.
    Hashed,
}

/// What happens to a call that needs more than a viewer and cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAuditFailure {
    /// It is refused.
    Refuse,
    /// It is carried out.
    Allow,
}

/// Who has to say why it does more than look.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasons {
    /// Who has to.
    pub required_for: Vec<Role>,
}

/// Which sessions are recorded, beside those whose client asks for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recording {
    /// Which.
    pub sessions: RecordedSessions,
    /// Whether what is typed is recorded too. It is not by default: it holds passwords.
    pub input: bool,
}

/// Which sessions are recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedSessions {
    /// None but those whose client asks for it.
    #[default]
    None,
    /// Those with a terminal.
    Terminal,
    /// All.
    All,
}

impl Recording {
    /// Whether a session must be recorded.
    pub fn wants(&self, terminal: bool) -> bool {
        match self.sessions {
            RecordedSessions::None => false,
            RecordedSessions::Terminal => terminal,
            RecordedSessions::All => true,
        }
    }
}

impl Audit {
    /// Checks that it can be meant.
    pub(super) fn check(&self) -> Result<(), String> {
        // Room for some records of the largest size.
        const LEAST: u64 = 1 << 20;
        if self.max_bytes < LEAST {
            return Err(format!("max_bytes is {}, at least {LEAST} are needed", self.max_bytes));
        }
        match self.keep {
            1..=10_000 => Ok(()),
            _ => Err(format!("keep is {}, not in 1 to 10000", self.keep)),
        }
    }
}

/// Checks why a caller says that it does something: the end of a sentence about it, where it cannot
/// stand in a log.
pub fn check_reason(reason: &str) -> Result<(), &'static str> {
    if reason.chars().count() > REASON_MAX {
        return Err("has more than 512 characters");
    }
    if reason.chars().any(is_deceptive) {
        return Err("has control characters, or others that are not seen");
    }
    match reason.trim().is_empty() {
        true => Err("is empty"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        assert!(check_reason("INC-7: why not, \u{e9}\u{1F980}").is_ok());
        assert!(check_reason(&"\u{1F980}".repeat(512)).is_ok());
        for reason in ["", " ", "a\nb", "a\u{1b}[2J", &"a".repeat(513)] {
            assert!(check_reason(reason).is_err(), "{reason:?}");
        }
    }
}
