//! What a secret looks like wherever it stands.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

use super::REDACTED;

/// Runs of letters and digits from this length on may be keys.
const KEY_MIN: usize = 32;
/// The length of the secret keys of one large cloud, whose alphabet has the slash.
const SLASHED_KEY: usize = 40;

/// What the name of a flag, variable or field is made of where its value is a secret. Long words count
/// anywhere in a name, short ones as a part of it.
const SECRET_NAME: &str = r"(?-u:[a-z0-9_.-]*(?:password|passwd|passphrase|passcode|secret|token|bearer|api[_.-]?key|credential|mnemonic|totp|seed[_.-]?phrase|recovery[_.-]?(?:code|phrase)|session[_.-]?id|(?:slack|discord|teams)[_.-]?webhook|requirepass|(?:private|access|account|auth|master|shared|signing|encryption)[_.-]?key|pwd|pass)[a-z0-9_.-]*|(?:[a-z0-9_.-]*[_.-])?(?:key|auth|authorization|authentication|cookie|creds?|pin|otp|pat|psk|pw|jwt|dsn|salt|signature|sig)(?:[_.-][a-z0-9_.-]*)?)";
/// One word of a command line, with quotes where it has any; one that is not closed goes on to the end.
const WORD: &str = r#"(?:"(?:[^"\\]|\\.)*(?:"|$)|'[^']*(?:'|$)|\\.|[^\s"'\\])+"#;
/// Text in quotes.
const QUOTED: &str = r#"(?:"[^"]*(?:"|$)|'[^']*(?:'|$))"#;
/// The marks of those who issue keys.
const ISSUED: &str = r"(?:gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox[abeprs]-|sk-|sk_|rk_|pk_live_|hf_|npm_|pypi-|dop_v1_|dckr_pat_|tskey-|shpat_|whsec_|lin_api_|figd_|sq0[a-z]{3}-|ATATT3x|SG\.|AIza|ya29\.|AGE-SECRET-KEY-|hvs\.|s\.)";

/// All patterns.
pub struct Patterns {
    /// A flag whose value is the next argument.
    pub flag: Regex,
    /// A flag for a user and a password, whose value is the next argument.
    pub user: Regex,
    /// A secret's name, or a path that ends with one.
    pub named: Regex,
    /// An argument that is as a whole a name and its value: the name.
    pub assignment: Regex,
    /// In the order in which they are applied, each with what takes its place.
    rules: Vec<(Regex, &'static str)>,
    /// What may be a key by its looks alone.
    run: Regex,
}

/// Made when it is first asked for.
pub static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| Patterns {
    flag: new(&format!(r"^--?{SECRET_NAME}$")),
    user: new(r"^(?:-u|-U|--user|--proxy-user)$"),
    named: new(&format!(r"^(?:[^-].*/)?{SECRET_NAME}$")),
    assignment: new(&format!(r"^(-{{0,2}}{SECRET_NAME}=)")),
    rules: rules(),
    run: new(r"[a-z0-9+/_=-]{32,}"),
});

fn new(pattern: &str) -> Regex {
    match Regex::new(&format!("(?is){pattern}")) {
        Ok(regex) => regex,
        // A constant of this file; the tests compile each of them.
        Err(error) => unreachable!("{error}"),
    }
}

fn rules() -> Vec<(Regex, &'static str)> {
    let rule = |pattern: &str, replacement| (new(pattern), replacement);
    vec![
        // Headers: all that follows.
        rule(
            r"((?:authorization|cookie|x-[a-z-]*(?:key|token|auth)[a-z-]*)\s*:)\s*\S.*",
            "$1 [redacted]",
        ),
        rule(r"(?-u:\b)(bearer|basic|digest|negotiate)\s+[^\s\[]\S*", "$1 [redacted]"),
        rule(r"-----BEGIN [A-Z ]*(?:PRIVATE|SECRET).*", REDACTED),
        // The user, or user and password, of a URL.
        rule(
            r#"([a-z][a-z0-9+.-]*://)[^\s/?#"'@]*(?::[0-9]*[^\s"'@/0-9][^\s"'@]*)?(?:[^\s/?#"']*)@"#,
            "${1}[redacted]@",
        ),
        // The same without a scheme. Behind the @ of an image stands no host.
        rule(
            r#"((?:^|[\s/=:"'])[a-z0-9_.\\$-]+:)[^\s:/@"']+@([a-z0-9.-]+(?::[0-9]{1,5})?(?:[\s/"']|:/|$))"#,
            "${1}[redacted]@$2",
        ),
        // URLs that are secrets themselves.
        rule(
            r"(hooks\.slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/webhooks/|webhook\.office\.com/)[^\s]+",
            "${1}[redacted]",
        ),
        // NAME=value, name: value, "name": "value"; `=` and `:` may stand alone.
        rule(
            &format!(r#"((?-u:\b){SECRET_NAME}["']?\s*(?:=>|:=|=|:)\s*){WORD}"#),
            "${1}[redacted]",
        ),
        // A flag and its value inside of a script.
        rule(&format!(r"((?:^|[\s;|&(])--?{SECRET_NAME}\s+){WORD}"), "${1}[redacted]"),
        rule(
            r"((?:^|\s)(?:-u|--user|--proxy-user)[\s=]*[^\s:=]+:)[^\s]*[^\s0-9][^\s]*",
            "${1}[redacted]",
        ),
        rule(r"(?-u:\b)(pass:)[^\s]+", "${1}[redacted]"),
        // Literals of `kubectl create`, whatever their names.
        rule(&format!(r"(--from-literal[\s=]+[^\s=]+=){WORD}"), "${1}[redacted]"),
        // SQL, and .netrc.
        rule(
            &format!(r"(identified\s+(?:with\s+\S+\s+)?by\s+(?:password\s+)?){WORD}"),
            "${1}[redacted]",
        ),
        rule(&format!(r"((?-u:\b)password(?:\s+|\s*\(\s*)){QUOTED}"), "${1}[redacted]"),
        rule(r"((?-u:\b)login\s+\S+\s+password\s+)\S+", "${1}[redacted]"),
        // Keys by the marks of those who issue them.
        rule(r"eyJ[a-z0-9_=-]{6,}(?:\.[a-z0-9_=-]*)*", REDACTED),
        rule(r"(?-u:\b)(?-i:A[A-Z]{2}A[A-Z0-9]{16})(?-u:\b)", REDACTED),
        rule(&format!(r"{ISSUED}[a-z0-9_=.-]{{16,}}"), REDACTED),
        // Of bots.
        rule(r"(?-u:\b)[0-9]{8,10}:AA[a-z0-9_-]{30,}", REDACTED),
    ]
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

/// Ports, pids, ids and ranges of them.
pub fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || b":,-.".contains(&byte))
}

/// A run of letters, digits and slashes without what nobody has thought up. Of a path, each part may be
/// such a key.
fn without_keys(run: &str) -> String {
    let letters: String = run.chars().filter(|c| *c != '/').collect();
    let whole = run.contains(['+', '=']) || (run.len() == SLASHED_KEY && !run.starts_with('/'));
    if whole && looks_random(&letters) {
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
