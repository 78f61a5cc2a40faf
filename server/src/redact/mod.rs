//! What must not stand in a log: arguments, with what looks like a secret taken out.
//!
//! It errs on the side of redacting. The name of the program and the names of flags stay, so that one
//! can tell what was done; what is lost beside secrets is, for example, the value of `--sort-key`.
//!
//! - [`patterns`]: what a secret looks like, wherever it stands;
//! - [`programs`]: which arguments of which programs are secrets;
//! - [`command`]: one command, read with both; [`script`]: a script, cut into commands;
//! - [`Fingerprint`]: for those to whom looks are not enough.
//!
//! A secret that looks like nothing and belongs to a program that is not known is shown.

mod command;
mod fingerprint;
#[cfg(test)]
mod fuzz;
mod patterns;
mod programs;
mod script;
#[cfg(test)]
mod shapes;

use std::{borrow::Cow, sync::LazyLock};

pub use fingerprint::{Arguments, Fingerprint};
pub use patterns::text;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";
/// The most bytes of one argument that are kept.
const ARGUMENT_MAX: usize = 1024;
/// The most bytes of one argument that are looked at: of what lies behind them nothing is kept.
const READ_MAX: usize = 4 * ARGUMENT_MAX;
/// The most arguments that are kept.
const ARGUMENTS_MAX: usize = 64;

/// The arguments of a command as they may be logged: at most 64 of at most 1 KiB each, and a mark where
/// something was cut.
pub fn argv(argv: &[String]) -> Vec<String> {
    let words: Vec<&str> = argv.iter().take(ARGUMENTS_MAX).map(|word| beginning(word)).collect();
    let shown = command::shown(&words, 0).into_iter().zip(&words);
    let shown = shown.map(|(shown, word)| shown.map_or(Cow::Borrowed(*word), Cow::Owned));
    let mut kept: Vec<String> = shown
        .zip(argv)
        .zip(&words)
        .map(|((shown, whole), read)| cut_with(&shown, ARGUMENT_MAX, whole.len() - read.len()))
        .collect();
    if argv.len() > ARGUMENTS_MAX {
        kept.push(format!("[{} more arguments]", argv.len() - ARGUMENTS_MAX));
    }
    kept
}

/// The part of an argument that is looked at. It ends with a whole word: half a secret may not look like one.
fn beginning(word: &str) -> &str {
    if word.len() <= READ_MAX {
        return word;
    }
    let part = &word[..word.floor_char_boundary(READ_MAX)];
    part.rfind(char::is_whitespace).map_or(part, |end| &part[..end])
}

/// Makes ready what the first call would have to wait for otherwise.
pub fn prepare() {
    LazyLock::force(&patterns::PATTERNS);
}

/// The names of the variables of an environment of `NAME=value`; at most 64 of them.
pub fn env_names(env: &[String]) -> Vec<String> {
    let name = |entry: &String| {
        // What stands behind a control character is no part of a name.
        let end = entry.find(|c: char| c == '=' || c.is_control()).unwrap_or(entry.len());
        let cut_off =
            if entry[end..].starts_with(['=']) || end == entry.len() { "" } else { REDACTED };
        cut(&(text(beginning(&entry[..end])) + cut_off), 256)
    };
    let mut names: Vec<String> = env.iter().take(ARGUMENTS_MAX).map(name).collect();
    if env.len() > ARGUMENTS_MAX {
        names.push(format!("[{} more variables]", env.len() - ARGUMENTS_MAX));
    }
    names
}

/// A text of at most `max` bytes, with a mark where it was cut.
pub fn cut(text: &str, max: usize) -> String {
    cut_with(text, max, 0)
}

/// The same of a text of which `more` bytes are missing already.
fn cut_with(text: &str, max: usize, more: usize) -> String {
    let kept = &text[..text.floor_char_boundary(max)];
    match text.len() - kept.len() + more {
        0 => kept.to_owned(),
        more => format!("{kept}[{more} more bytes]"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(words: &[&str]) -> String {
        argv(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn the_known_ways_to_give_a_secret_are_found() {
        for (words, wanted) in [
            (&["x", "--password", "hunter2", "y"][..], "x --password [redacted] y"),
            (&["x", "--password=hunter2"], "x --password=[redacted]"),
            (&["x", "-p", "hunter2"], "x -p [redacted]"),
            (&["mysql", "-phunter2", "db"], "mysql -p[redacted] db"),
            (&["x", "--db-pwd", "hunter2"], "x --db-pwd [redacted]"),
            (&["env", "API_KEY=hunter2", "true"], "env API_KEY=[redacted] true"),
            (&["curl", "-u", "joe:hunter2", "url"], "curl -u joe:[redacted] url"),
            (&["psql", "postgres://joe:hunter2@db/x"], "psql postgres://[redacted]@db/x"),
            (&["psql", "postgres://joe:hun/ter2@db/x"], "psql postgres://[redacted]@db/x"),
            (&["curl", "https://h/?a=1&token=hunter2"], "curl https://h/?a=1&token=[redacted]"),
            (&["curl", "-H", "Authorization: Bearer hunter2"], "curl -H Authorization: [redacted]"),
            (&["x", "Bearer hunter2"], "x Bearer [redacted]"),
            (&["x", "Authorization:", "hunter2"], "x Authorization: [redacted]"),
            (&["x", "{\"password\": \"hun ter2\"}"], "x {\"password\": [redacted]"),
            (
                &["sh", "-c", "mysql --password='hun ter2' db"],
                "sh -c mysql --password=[redacted] db",
            ),
            (&["sh", "-c", "x --token hunter2; y"], "sh -c x --token [redacted]; y"),
            (
                &["sh", "-c", "export A_TOKEN=\"hun ter2\" B=1"],
                "sh -c export A_TOKEN=[redacted] B=1",
            ),
            (&["openssl", "enc", "-passin", "pass:hunter2"], "openssl enc -passin [redacted]"),
            (&["/x?token=hunter2"], "/x?token=[redacted]"),
            (&["/k/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b/bin/x"], "/k/[redacted]/bin/x"),
            (&["x", "AKIAIOSFODNN7EXAMPLE"], "x [redacted]"),
            (&["x", "ghp_0123456789abcdefghij"], "x [redacted]"),
            (&["x", "eyJhbGciOi.eyJzdWIiOi.abc-_d"], "x [redacted]"),
            (&["x", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"], "x [redacted]"),
            (&["x", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY1="], "x [redacted]"),
        ] {
            assert_eq!(shown(words), wanted);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let kept = argv(&many);
        assert_eq!((kept.len(), kept[64].as_str()), (65, "[36 more arguments]"));
        let long = argv(&["x".into(), "\u{e9} ".repeat(1000)]);
        assert!(long[1].ends_with(" more bytes]") && long[1].len() < ARGUMENT_MAX + 32);
        let names = env_names(&["A=1".into(), "B".into(), format!("{}=x", "C".repeat(1000))]);
        assert_eq!(&names[..2], ["A", "B"]);
        assert!(names[2].len() < 300);
    }

    #[test]
    fn what_is_no_name_of_a_variable_is_not_shown_as_one() {
        let names = env_names(&["P\0hunter2=1".into(), "ghp_0123456789abcdefghij=1".into()]);
        assert_eq!(names, ["P[redacted]", "[redacted]"]);
    }

    #[test]
    fn what_the_kernel_says_is_no_secret() {
        for (error, wanted) in [
            ("cannot write net.x of \"a secret\": Invalid argument (os error 22)", None),
            ("cannot read /run/token: No such file or directory (os error 2)", None),
            ("/x/cookie: Permission denied (os error 13)", None),
            ("token: hunter2 (os error 22)", Some("token: [redacted] (os error 22)")),
            (
                "token=hunter2: Permission denied (os error 13)",
                Some("token=[redacted] Permission denied (os error 13)"),
            ),
        ] {
            assert_eq!(text(error), wanted.unwrap_or(error));
        }
    }

    /// A secret as people choose them, and a place that gives it away.
    fn given() -> impl Strategy<Value = (String, Vec<String>)> {
        let secret = "[A-Za-z0-9!#%^*_+.-]{1,20}zQ[A-Za-z0-9]{1,20}";
        let name = prop::sample::select(vec![
            "password",
            "PASSWD",
            "db-pwd",
            "token",
            "GITHUB_TOKEN",
            "client_secret",
            "apikey",
            "api-key",
            "API_KEY",
            "credential",
            "x.auth",
            "ssh-key",
            "AWS_SECRET_ACCESS_KEY",
            "dbPassword",
            "passphrase",
        ]);
        let shape = 0usize..14;
        let other = "[a-z]{0,8}";
        (secret, name, shape, other).prop_map(|(s, name, shape, other)| {
            let words = match shape {
                0 => vec![format!("--{name}={s}")],
                1 => vec![format!("--{name}"), s.clone()],
                2 => vec![format!("-{name}"), s.clone()],
                3 => vec![format!("{name}={s}")],
                4 => vec![format!("https://{other}:{s}@host/path")],
                5 => vec![format!("Authorization: Bearer {s}")],
                6 => vec!["-H".into(), format!("authorization:Basic {s}")],
                7 => vec!["-c".into(), format!("{other} --{name} {s}")],
                8 => vec!["-c".into(), format!("{name}='{s} {s}' {other}")],
                9 => vec!["-c".into(), format!("{other};{name}=\"{s} {s}\"")],
                10 => vec![format!("{{\"a\":1,\"{name}\":\"{s}\"}}")],
                11 => vec![format!("{name}: {s}")],
                12 => vec![format!("{name} = {s}")],
                _ => vec!["-u".into(), format!("joe:{s}")],
            };
            let program = std::iter::once("prog".to_owned());
            (s, program.chain(words).chain([other]).collect())
        })
    }

    proptest! {
        #[test]
        fn no_input_is_too_odd(words in prop::collection::vec(any::<String>(), 0..80)) {
            let kept = argv(&words);
            prop_assert!(kept.len() <= ARGUMENTS_MAX + 1);
            prop_assert!(kept.iter().all(|one| one.len() < ARGUMENT_MAX + 40));
            env_names(&words);
        }

        #[test]
        fn a_secret_in_a_known_place_is_never_kept((secret, words) in given()) {
            let kept = argv(&words).join("\n");
            prop_assert!(!kept.contains(&secret), "{secret:?} in {kept:?}");
            prop_assert!(!kept.contains("zQ"), "a part of {secret:?} in {kept:?}");
            prop_assert!(kept.starts_with("prog\n"));
            if let Some(flag) = words[1].strip_prefix("--").and_then(|w| w.split('=').next()) {
                prop_assert!(kept.contains(flag), "{flag} is gone from {kept:?}");
            }
        }
    }
}
