//! What must not stand in a log: arguments, with what looks like a secret taken out.
//!
//! It errs on the side of redacting. The name of the program and the names of flags stay, so that one
//! can tell what was done; what is lost beside secrets is, for example, the value of `--sort-key`.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";
/// The most bytes of one argument that are kept.
const ARGUMENT_MAX: usize = 1024;
/// The most arguments that are kept.
const ARGUMENTS_MAX: usize = 64;
/// Runs of letters and digits from this length on may be keys.
const KEY_MIN: usize = 32;

/// What the name of a flag, variable or field is made of where its value is a secret. Long words count
/// anywhere in a name, short ones as a part of it.
const SECRET_NAME: &str = r"(?-u:[a-z0-9_.-]*(?:password|passwd|passphrase|secret|token|api[_.-]?key|credential|private[_.-]?key|access[_.-]?key|pwd|pass)[a-z0-9_.-]*|(?:[a-z0-9_.-]*[_.-])?(?:key|auth|authorization|authentication|cookie|creds?|pin|otp|pat|psk|jwt|dsn|salt|signature|sig)(?:[_.-][a-z0-9_.-]*)?)";
/// One word of a command line, with quotes where it has any; one that is not closed goes on to the end.
const WORD: &str = r#"(?:"(?:[^"\\]|\\.)*(?:"|$)|'[^']*(?:'|$)|\\.|[^\s"'\\])+"#;

struct Patterns {
    /// A flag whose value is the next argument.
    flag: Regex,
    /// A flag for a user and a password, whose value is the next argument.
    user: Regex,
    /// In the order in which they are applied, each with what takes its place.
    rules: Vec<(Regex, &'static str)>,
    /// What may be a key by its looks alone.
    run: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let new = |pattern: &str| match Regex::new(&format!("(?is){pattern}")) {
        Ok(regex) => regex,
        // A constant of this file; the tests compile each of them.
        Err(error) => unreachable!("{error}"),
    };
    Patterns {
        flag: new(&format!(r"^--?{SECRET_NAME}$")),
        user: new(r"^(?:-u|-U|--user|--proxy-user)$"),
        rules: vec![
            // Headers: all that follows.
            (
                new(r"((?:authorization|cookie|x-[a-z-]*(?:key|token|auth)[a-z-]*)\s*:)\s*\S.*"),
                "$1 [redacted]",
            ),
            (new(r"(?-u:\b)(bearer|basic|digest|negotiate)\s+[^\s\[]\S*"), "$1 [redacted]"),
            (new(r"-----BEGIN [A-Z ]*(?:PRIVATE|SECRET).*"), REDACTED),
            (
                new(
                    r#"([a-z][a-z0-9+.-]*://)[^\s/?#"'@]*(?::[0-9]*[^\s"'@/0-9][^\s"'@]*)?(?:[^\s/?#"']*)@"#,
                ),
                "${1}[redacted]@",
            ),
            // NAME=value, name: value, "name": "value"; `=` and `:` may stand alone.
            (
                new(&format!(r#"((?-u:\b){SECRET_NAME}["']?\s*(?:=>|:=|=|:)\s*){WORD}"#)),
                "${1}[redacted]",
            ),
            // A flag and its value inside of a script.
            (new(&format!(r"((?:^|[\s;|&(])--?{SECRET_NAME}\s+){WORD}")), "${1}[redacted]"),
            (
                new(r"((?:^|\s)(?:-u|--user|--proxy-user)[\s=]*[^\s:=]+:)[^\s]*[^\s0-9][^\s]*"),
                "${1}[redacted]",
            ),
            (new(r"(?-u:\b)(pass:)[^\s]+"), "${1}[redacted]"),
            // Keys by the marks of those who issue them.
            (new(r"eyJ[a-z0-9_=-]{6,}(?:\.[a-z0-9_=-]*)*"), REDACTED),
            (new(r"(?-u:\b)(?-i:A[A-Z]{2}A[A-Z0-9]{16})(?-u:\b)"), REDACTED),
            (
                new(
                    r"(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|sk-|sk_|rk_|pk_live_|hf_|npm_|pypi-|dop_v1_|shpat_|AIza|ya29\.|AGE-SECRET-KEY-|hvs\.|s\.)[a-z0-9_=.-]{16,}",
                ),
                REDACTED,
            ),
        ],
        run: new(r"[a-z0-9+/_=-]{32,}"),
    }
});

/// The arguments of a command as they may be logged: at most 64 of at most 1 KiB each, and a mark where
/// something was cut.
pub fn argv(argv: &[String]) -> Vec<String> {
    let mut kept = Vec::with_capacity(argv.len().min(ARGUMENTS_MAX + 1));
    let program = argv.first().map(|path| path.rsplit('/').next().unwrap_or(path));
    let mut secret_next = Next::Plain;
    for (index, argument) in argv.iter().take(ARGUMENTS_MAX).enumerate() {
        let shown = match secret_next {
            // Of a value in two parts only the second is a secret.
            Next::User => match argument.split_once(':') {
                Some((user, rest)) if !is_number(user) || !is_number(rest) => {
                    Cow::Owned(format!("{}:{REDACTED}", text(user)))
                }
                _ => text(argument),
            },
            Next::Secret => Cow::Borrowed(REDACTED),
            Next::Plain if index == 0 => text(argument),
            Next::Plain => glued(program, argument).unwrap_or_else(|| text(argument)),
        };
        // Even where it took the place of a value itself: whether it did is a guess.
        secret_next =
            if index == 0 { Next::Plain } else { after(program, argument, argv.get(index + 1)) };
        kept.push(cut(&shown, ARGUMENT_MAX));
    }
    if argv.len() > ARGUMENTS_MAX {
        kept.push(format!("[{} more arguments]", argv.len() - ARGUMENTS_MAX));
    }
    kept
}

/// Makes ready what the first call would have to wait for otherwise.
pub fn prepare() {
    LazyLock::force(&PATTERNS);
}

/// The names of the variables of an environment of `NAME=value`; at most 64 of them.
pub fn env_names(env: &[String]) -> Vec<String> {
    let name =
        |entry: &String| cut(entry.split_once('=').map_or(entry.as_str(), |(name, _)| name), 256);
    let mut names: Vec<String> = env.iter().take(ARGUMENTS_MAX).map(name).collect();
    if env.len() > ARGUMENTS_MAX {
        names.push(format!("[{} more variables]", env.len() - ARGUMENTS_MAX));
    }
    names
}

/// A text without what looks like a secret.
pub fn text(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(text);
    for (pattern, replacement) in &PATTERNS.rules {
        if let Cow::Owned(replaced) = pattern.replace_all(&shown, *replacement) {
            shown = Cow::Owned(replaced);
        }
    }
    let run = |found: &Captures<'_>| without_keys(&found[0]);
    if let Cow::Owned(replaced) = PATTERNS.run.replace_all(&shown, run) {
        shown = Cow::Owned(replaced);
    }
    shown
}

/// A text of at most `max` bytes, with a mark where it was cut.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(max)];
    format!("{kept}[{} more bytes]", text.len() - kept.len())
}

/// What the argument after another one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Plain,
    Secret,
    User,
}

fn after(program: Option<&str>, argument: &str, next: Option<&String>) -> Next {
    if PATTERNS.flag.is_match(argument) || argument.to_ascii_lowercase().ends_with("authorization:")
    {
        return Next::Secret;
    }
    if PATTERNS.user.is_match(argument) {
        return Next::User;
    }
    let next = next.map_or("", String::as_str);
    match (program.unwrap_or_default(), argument) {
        ("sshpass", "-p") | ("redis-cli", "-a") => Next::Secret,
        (program, "-w") if program.starts_with("ldap") => Next::Secret,
        // Of others it may be a port, a pid or a path.
        (_, "-p") if !(is_number(next) || next.contains('/') || next.starts_with(['-', '.'])) => {
            Next::Secret
        }
        _ => Next::Plain,
    }
}

/// Flags whose secret follows without a space.
fn glued<'a>(program: Option<&str>, argument: &str) -> Option<Cow<'a, str>> {
    let program = program?;
    let takes = ["mysql", "mariadb", "sshpass", "mongo", "zip", "unzip", "7z"];
    let rest = argument.strip_prefix("-p").or_else(|| argument.strip_prefix("-P"))?;
    let secret = takes.iter().any(|name| program.starts_with(name)) && !rest.is_empty();
    secret.then(|| Cow::Owned(format!("-p{REDACTED}")))
}

/// Ports, pids, ids and ranges of them.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || b":,-.".contains(&byte))
}

/// A run of letters, digits and slashes without what nobody has thought up. Of a path, each part may be
/// such a key.
fn without_keys(run: &str) -> String {
    let letters: String = run.chars().filter(|c| *c != '/').collect();
    if run.contains(['+', '=']) && looks_random(&letters) {
        return REDACTED.to_owned();
    }
    let parts = run.split('/').map(|part| if looks_random(part) { REDACTED } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// Whether letters and digits change so often that nobody has thought them up.
fn looks_random(text: &str) -> bool {
    text.len() >= KEY_MIN && mixed(text)
}

fn mixed(text: &str) -> bool {
    // What is between words, as in a long name, is no change.
    let letters: Vec<u8> = text.bytes().filter(u8::is_ascii_alphanumeric).collect();
    let class = |byte: u8| (byte.is_ascii_digit(), byte.is_ascii_uppercase());
    let changes = letters.windows(2).filter(|pair| class(pair[0]) != class(pair[1])).count();
    letters.iter().any(u8::is_ascii_digit) && changes * 5 >= letters.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(words: &[&str]) -> String {
        argv(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn what_is_no_secret_stays() {
        for line in [
            "ls -l /etc/passwd.d/x",
            "sleep 1000",
            "mkdir -p /srv/a/b",
            "ssh -p 22 host true",
            "ps -p 1",
            "docker run -u 1000:1000 image",
            "git clone https://github.com/a/b.git@main",
            "curl http://host:8080/path@v1?x=1",
            "hostname --file=/etc/hostname --verbose",
            "sh -c echo hello; exit 42",
            "/usr/lib/python3/dist-packages/Package1/a/b/c/d/e/f/g2",
            "a-very-long-name-of-some-service-that-runs-here-number-1",
            "tr a-z A-Z",
            "env A=1 PATH_X=2 true",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(shown(&words), line);
        }
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
            (&["sh", "-c", "x --token hunter2; y"], "sh -c x --token [redacted] y"),
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
