//! A command, who runs it, and how it is talked to.
//!
//! PATH and TERM are not added here: in a container that runs, its own environment goes before
//! the defaults, and only the engine knows it.

use std::collections::BTreeMap;

use conti_proto::v1;
use conti_runtime::plan::{Identity, Process};

use super::{Field, Violations, capability, rlimit, text, violation::quote};
use crate::engine::{
    inherit::Command,
    spec::{SessionIo, TerminalSize},
};

/// The most that the names and values of an environment take, in bytes.
const ENV_MAX: usize = 1024 * 1024;
/// The most that all arguments take, in bytes, each with its NUL and its pointer, as execve(2) counts them against a
/// quarter of the stack's limit: 2 MiB together with the environment.
const ARGV_MAX: usize = 1024 * 1024;
/// The most that one argument or variable takes: MAX_ARG_STRLEN of execve(2), without its NUL.
const STRING_MAX: usize = 128 * 1024 - 1;
/// The size of a terminal where none was given.
const TERMINAL: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// Checks the command of a container with its confinement.
pub fn main(v: &mut Violations, at: Field<'_>, message: v1::ProcessSpec) -> Process {
    Process { create_cwd: true, ..command(v, at, message).alone() }
}

/// Checks a command as it is asked for.
pub fn command(v: &mut Violations, at: Field<'_>, message: v1::ProcessSpec) -> Command {
    argv(v, at.name("argv"), &message.argv);
    if !message.cwd.is_empty() {
        text::absolute_path(v, at.name("cwd"), &message.cwd);
    }
    if let Some(umask) = message.umask.filter(|umask| *umask > 0o777) {
        v.add(at.name("umask"), format_args!("is 0o{umask:o}, a mask is 0 to 0o777"));
    }
    if let Some(adj) = message.oom_score_adj.filter(|adj| !(-1000..=1000).contains(adj)) {
        v.add(at.name("oom_score_adj"), format_args!("is {adj}, not in -1000 to 1000"));
    }
    Command {
        env: env(v, at.name("env"), message.env),
        identity: identity(v, at.name("user"), message.user.unwrap_or_default()),
        rlimits: rlimit::rlimits(v, at.name("rlimits"), &message.rlimits),
        confinement: capability::change(v, at.name("confinement"), message.confinement),
        cwd: Some(message.cwd).filter(|cwd| !cwd.is_empty()),
        oom_score_adj: message.oom_score_adj,
        umask: message.umask,
        argv: message.argv,
    }
}

/// Checks how a process is talked to.
pub fn io(
    v: &mut Violations,
    at: Field<'_>,
    process: &v1::ProcessSpec,
    policy_at: Field<'_>,
    policy: Option<v1::SessionPolicy>,
) -> SessionIo {
    let terminal = process.terminal.as_ref().map(|terminal| match terminal.size {
        Some(size) => terminal_size(v, at.name("terminal").name("size"), size),
        None => TERMINAL,
    });
    let policy = super::session::policy(v, policy_at, policy);
    SessionIo { terminal, stdin: process.stdin || terminal.is_some(), policy }
}

/// Checks the size of a terminal.
pub fn terminal_size(v: &mut Violations, at: Field<'_>, message: v1::TerminalSize) -> TerminalSize {
    let mut number = |name, value: u32| match u16::try_from(value) {
        Ok(number @ 1..) => number,
        _ => {
            v.add(at.name(name), format_args!("is {value}, not in 1 to 65535"));
            1
        }
    };
    TerminalSize { columns: number("columns", message.columns), rows: number("rows", message.rows) }
}

fn argv(v: &mut Violations, at: Field<'_>, argv: &[String]) {
    if argv.is_empty() {
        v.add(at, "is empty: give the command to be run");
    }
    if argv.first().is_some_and(String::is_empty) {
        v.add(at.index(0), "is empty: give the command to be run");
    }
    let total: usize = argv.iter().map(|argument| argument.len() + 1 + size_of::<u64>()).sum();
    if total > ARGV_MAX {
        v.add(at, format_args!("takes {total} bytes in all, at most {ARGV_MAX} are allowed"));
        return;
    }
    for (index, argument) in argv.iter().enumerate() {
        text::no_nul(v, at.index(index), argument);
        not_too_long(v, at.index(index), argument.len());
    }
}

fn env(v: &mut Violations, at: Field<'_>, env: BTreeMap<String, String>) -> Vec<String> {
    // As the kernel counts it: with `=` and NUL.
    let total: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if total > ENV_MAX {
        v.add(at, format_args!("has {total} bytes in all, at most {ENV_MAX} are allowed"));
    }
    for (name, value) in &env {
        if name.is_empty() {
            v.add(at, "has a variable with an empty name");
        } else if name.contains(['=', '\0']) {
            v.add(at.key(name), "has a name with `=` or a NUL byte");
        }
        text::no_nul(v, at.key(name), value);
        not_too_long(v, at.key(name), name.len() + 1 + value.len());
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn not_too_long(v: &mut Violations, at: Field<'_>, length: usize) {
    if length > STRING_MAX {
        v.add(at, format_args!("has {length} bytes, the kernel takes at most {STRING_MAX}"));
    }
}

fn identity(v: &mut Violations, at: Field<'_>, message: v1::User) -> Identity {
    account(v, at.name("user"), &message.user);
    account(v, at.name("group"), &message.group);
    for (index, group) in message.additional_groups.iter().enumerate() {
        let at = at.name("additional_groups");
        if group.is_empty() {
            v.add(at.index(index), "is empty: give a group's name or number");
        }
        account(v, at.index(index), group);
    }
    const MAX: usize = 65_536;
    if message.additional_groups.len() > MAX {
        v.add(at.name("additional_groups"), format_args!("has more than {MAX} groups"));
    }
    Identity::Lookup {
        user: message.user,
        group: message.group,
        additional_groups: message.additional_groups,
    }
}

/// Checks a user or group: a name as it can stand in /etc/passwd, or an id.
fn account(v: &mut Violations, at: Field<'_>, text: &str) {
    const MAX: usize = 256;
    // 4294967295 stands for "no change" in setuid(2) and its kin.
    let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if text.len() > MAX {
        v.add(at, format_args!("has {} bytes, at most {MAX} are allowed", text.len()));
    } else if number && !text.parse().is_ok_and(|id: u32| id < u32::MAX) {
        v.add(at, format_args!("is {text}, an id is 0 to 4294967294"));
    } else if text.chars().any(|c| matches!(c, ':' | '\n' | '\0')) {
        v.add(at, format_args!("is {}: `:`, newline and NUL cannot be in a name", quote(text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::convert::checked;

    #[test]
    fn arguments_are_bounded_also_where_each_is_empty() {
        let with = |count: usize| {
            let mut all = vec![String::new(); count];
            all[0] = "true".to_owned();
            checked(|v| argv(v, Field::root("argv"), &all)).is_ok()
        };
        // Nine bytes each, and four of the first one.
        assert!(with((ARGV_MAX - 4) / 9));
        assert!(!with(ARGV_MAX / 9 + 1));
        let long = vec!["x".repeat(STRING_MAX); 9];
        assert!(checked(|v| argv(v, Field::root("argv"), &long)).is_err());
    }
}
