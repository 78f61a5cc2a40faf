//! What a secret looks like wherever it stands.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

use super::REDACTED;

/// Runs of letters and digits from this length on may be keys.
const KEY_MIN: usize = 32;
/// From this length on a single word of letters may be one: the shortest is `eyJ` and six more.
const SHORTEST: usize = 9;
/// The length of the secret keys of one large cloud, whose alphabet has the slash.
const SLASHED_KEY: usize = 40;

/// What the name of a flag, variable or field is made of where its value is a secret. Long words count
/// anywhere in a name, short ones as a part of it.
const SECRET_NAME: &str = r"(?-u:[a-z0-9_.-]*(?:password|passwd|passphrase|passcode|secret|token|bearer|api[_.-]?key|credential|mnemonic|totp|seed[_.-]?phrase|recovery[_.-]?(?:code|phrase)|session[_.-]?id|(?:slack|discord|teams)[_.-]?webhook|requirepass|(?:private|access|account|auth|master|shared|signing|encryption)[_.-]?key|access[_.-]?signature|pwd|pass)[a-z0-9_.-]*|(?:[a-z0-9_.-]*[_.-])?(?:key|rekey|hexkey|auth|oauth|authorization|authentication|cookie|creds?|pin|otp|pat|psk|pw|jwt|dsn|salt|signature|sig)(?:[_.-][a-z0-9_.-]*)?)";
/// The same of names that others use as well: a number is no secret there.
const VAGUE_NAME: &str =
    r"(?-u:(?:[a-z0-9_.-]*[_.-])?(?:session|hmac|seed|nonce|webhook(?:[_.-]?url)?))";
/// One word of a command line, with quotes and substitutions where it has any; one that is not closed goes on to
/// the end.
const WORD: &str = concat!(
    r#"(?:`[^`]*(?:`|$))?(?:"#,
    r#""(?:[^"\\$]|\\.|\$\((?:[^()]|\([^()]*\))*(?:\)|$)|\$)*(?:"|$)"#,
    r#"|'[^']*(?:'|$)"#,
    r#"|[$<>]\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*(?:\)|$)"#,
    r#"|\\.|[^\s"'\\])*"#,
);
/// Text in quotes.
const QUOTED: &str = r#"(?:"[^"]*(?:"|$)|'[^']*(?:'|$))"#;
/// The name of a file that holds a secret.
const SECRET_FILE: &str = r"(?-u:\.?(?:[a-z0-9]+[_.-])*(?:password|passwd|passphrase|pass|pw|secret|token|credential|cred|api[_-]?key|key|psk|cookie)s?(?:\.(?:txt|conf|cfg|ini|env|ya?ml|json|key))?)";
/// The marks of those who issue keys.
const ISSUED: &str = r"(?:gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox[abeprs]-|sk-|sk_|rk_|pk_live_|hf_|npm_|pypi-|dop_v1_|dckr_pat_|tskey-|shpat_|whsec_|lin_api_|figd_|sq0[a-z]{3}-|ATATT3x|SG\.|AIza|ya29\.|AGE-SECRET-KEY-|hvs\.|s\.)";

/// What is no value of a flag or name that it stands behind.
const NO_VALUE: [&str; 6] = ["--", "stdin", "<", "<<", "<<<", "|"];

/// All patterns.
pub struct Patterns {
    /// A flag whose value is the next argument.
    pub flag: Regex,
    /// A flag for a user and a password, whose value is the next argument.
    pub user: Regex,
    /// A flag whose value is the next argument, if that is no number.
    pub vague: Regex,
    /// A secret's name, or a path that ends with one.
    pub named: Regex,
    /// A secret's name, and what says that its value comes next.
    pub introduced: Regex,
    /// What says so by itself, in whatever command.
    pub bare: Regex,
    /// The path of a file that holds a secret.
    pub file: Regex,
    /// An argument that is as a whole a name and its value: the name.
    pub assignment: Regex,
    /// In the order in which they are applied.
    rules: Vec<Rule>,
    /// What may be a key by its looks alone.
    run: Regex,
}

/// A pattern, and what takes its place.
struct Rule {
    pattern: Regex,
    by: By,
}

#[derive(Clone, Copy)]
enum By {
    /// A text, in which `$1` stands for the first group.
    Text(&'static str),
    /// The first group and a mark for the second one, a word of a command line.
    Value,
    /// The same, unless it is a number.
    Vague,
}

/// Made when it is first asked for.
pub static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| Patterns {
    flag: new(&format!(r"^--?{SECRET_NAME}$")),
    user: new(r"^(?:-u|-U|--user|--proxy-user)$"),
    vague: new(&format!(r"^--?{VAGUE_NAME}$")),
    named: new(&format!(r"^(?:(?:[^-].*)?/)?{SECRET_NAME}$")),
    introduced: new(&format!(r#"^["']?{SECRET_NAME}["']?(?:=>|:=|=|:)$"#)),
    bare: new(r"^(?-u:(?:[a-z0-9_.-]*[.-])?(?:[a-z0-9]+_)?(?:password|passphrase|passcode))$"),
    file: new(&format!(r"^(?:.*/)?{SECRET_FILE}$|/secrets/")),
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

fn rules() -> Vec<Rule> {
    let rule = |pattern: &str, text| Rule { pattern: new(pattern), by: By::Text(text) };
    let value =
        |pattern: &str| Rule { pattern: new(&format!("({pattern})({WORD})")), by: By::Value };
    let mut rules = vec![
        // Headers: all that follows.
        rule(
            r"((?:authorization|cookie|x-[a-z-]*(?:key|token|auth)[a-z-]*)\s*:)\s*\S.*",
            "$1 [redacted]",
        ),
        rule(r"(?-u:\b)(bearer|basic|digest|negotiate)\s+[^\s\[]\S*", "$1 [redacted]"),
        rule(r"-----BEGIN [A-Z ]*(?:PRIVATE|SECRET).*", REDACTED),
        rule(r"((?-u:\b)Private-Lines:\s*[0-9]+\s+).*", "${1}[redacted]"),
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
        // User and password of one large database.
        rule(r"(jdbc:oracle:[a-z0-9]+:[^\s/@]*/)[^\s@]+@", "${1}[redacted]@"),
        // URLs that are secrets themselves.
        rule(
            r"(hooks\.slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/webhooks/|webhook\.office\.com/)[^\s]+",
            "${1}[redacted]",
        ),
        // Markup: what an element holds that is named so, or that stands behind such a name.
        rule(
            &format!(r"(<key>\s*{SECRET_NAME}\s*</key>\s*<string>)[^<]+(</string>)"),
            "${1}[redacted]$2",
        ),
        rule(
            &format!(
                r"(<(?:[a-z0-9_.-]+:)?{SECRET_NAME}(?:\s[^<>]*)?>)\s*(?:<!\[CDATA\[.*?\]\]>\s*|[^<]+)(</(?:[a-z0-9_.-]+:)?{SECRET_NAME}\s*>)"
            ),
            "${1}[redacted]$2",
        ),
        value(&format!(r#"name\s*=\s*["']{SECRET_NAME}["']\s+value\s*=\s*"#)),
        // NAME=value, name: value, "name": "value", also in a string of another one or in a form; `=` and `:` may stand
        // alone.
        value(&format!(r#"(?-u:\b){SECRET_NAME}\\*["']?\]?\s*(?:=>|:=|=|:|%3[ad])\s*"#)),
        Rule { pattern: new(&format!(r"((?-u:\b){VAGUE_NAME}=)({WORD})")), by: By::Vague },
        // A name and its value as the arguments of a function.
        rule(&format!(r#"(["']{SECRET_NAME}["']\s*,\s*){QUOTED}"#), "${1}[redacted]"),
        // A flag and its value inside of a script.
        value(&format!(r"(?:^|[\s;|&(])--?{SECRET_NAME}\s+")),
        rule(
            r"((?:^|\s)(?:-u|--user|--proxy-user)[\s=]*[^\s:=]+:)[^\s]*[^\s0-9][^\s]*",
            "${1}[redacted]",
        ),
        rule(r"(?-u:\b)(pass:)[^\s]+", "${1}[redacted]"),
        // Literals of `kubectl create`, whatever their names.
        value(r"--from-literal[\s=]+[^\s=]+="),
        // Objects of a virtual machine.
        rule(r"((?-u:\b)secret,(?:[^\s]*,)?data=)[^\s,]+", "${1}[redacted]"),
        // What ftp(1) and its kin are told.
        rule(r"((?:^|[\n;])[ \t]*user[ \t]+[^\s;]+[ \t]+)[^\s;]+([ \t]*[\n;])", "${1}[redacted]$2"),
        // SQL, and .netrc.
        value(
            r"identified\s+(?:(?:with|via)\s+\S+\s+)?(?:by|as|using)\s+(?:(?:password|values)\s+)?",
        ),
        value(r"set\s+password\s+for\s+\S+\s*(?:=|to)\s*"),
        rule(&format!(r"((?-u:\b)password(?:\s+|\s*\(\s*)(?:e|n|u&)?){QUOTED}"), "${1}[redacted]"),
        rule(r"((?-u:\b)password\s+)\$[a-z_]*\$.*?(?:\$[a-z_]*\$|$)", "${1}[redacted]"),
        rule(r"((?-u:\b)login\s+\S+\s+password\s+)\S+", "${1}[redacted]"),
        // What takes the place of a secret's name: s/NAME/value/, and sub(/NAME/, "value").
        rule(
            &format!(r#"(sub\(\s*/[^/\n]*(?-u:\b){SECRET_NAME}(?-u:\b)[^/\n]*/\s*,\s*){QUOTED}"#),
            "${1}[redacted]",
        ),
        rule(
            &format!(
                r"((?:^|[\s;'\x22])s\{{[^}}\n]*(?-u:\b){SECRET_NAME}(?-u:\b)[^}}\n]*\}}\s*\{{)[^}}\n]+"
            ),
            "${1}[redacted]",
        ),
    ];
    rules.extend(["/", "|", "#", ",", "@"].map(|mark| {
        let pattern = format!(
            r"((?:^|[\s;'\x22{{}}!$/0-9])s[{mark}][^{mark}\n]*(?-u:\b){SECRET_NAME}(?-u:\b)[^{mark}\n]*[{mark}])[^{mark}\n]+"
        );
        rule(&pattern, "${1}[redacted]")
    }));
    rules.extend([
        // Keys by the marks of those who issue them.
        rule(r"eyJ[a-z0-9_=-]{6,}(?:\.[a-z0-9_=-]*)*", REDACTED),
        rule(r"(?-u:\b)(?-i:A[A-Z]{2}A[A-Z0-9]{16})(?-u:\b)", REDACTED),
        rule(&format!(r"{ISSUED}[a-z0-9_=.-]{{16,}}"), REDACTED),
        // Of bots.
        rule(r"(?-u:\b)[0-9]{8,10}:AA[a-z0-9_-]{30,}", REDACTED),
    ]);
    rules
}

impl Rule {
    fn applied<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.by {
            By::Text(replacement) => self.pattern.replace_all(text, replacement),
            By::Value | By::Vague => self.pattern.replace_all(text, |found: &Captures<'_>| {
                let (before, value) = (&found[1], &found[2]);
                let (value, behind) = value.split_at(value_end(value));
                let plain = value.trim_matches(['"', '\'']);
                match self.by {
                    // What comes behind `--` is the value; the next word is none of a flag's. Nor is what stands for the
                    // standard input.
                    _ if plain.is_empty() || NO_VALUE.contains(&value) => found[0].to_owned(),
                    By::Vague if is_number(plain) => found[0].to_owned(),
                    _ => format!("{before}{REDACTED}{behind}"),
                }
            }),
        }
    }
}

/// Where a value ends: what closes a command, or commands around it, belongs to a script.
fn value_end(value: &str) -> usize {
    let opened = value.bytes().filter(|byte| *byte == b'(').count();
    let mut closed = value.bytes().filter(|byte| *byte == b')').count();
    let mut end = value.len();
    for byte in value.bytes().rev() {
        match byte {
            b')' if closed > opened => closed -= 1,
            b';' => {}
            _ => break,
        }
        end -= 1;
    }
    end
}

/// A text without what looks like a secret.
pub fn text(text: &str) -> Cow<'_, str> {
    // Most words of a script. No pattern fits what is that short and has nothing between its letters.
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if text.len() < SHORTEST && text.bytes().all(letters) {
        return Cow::Borrowed(text);
    }
    let (own, said) = text.split_at(text.len() - said_by_kernel(text));
    match without_secrets(own) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(shown) => Cow::Owned(shown + said),
    }
}

/// How many bytes at the end of a text are what the kernel says of an error: it stands behind a colon, but is no
/// secret.
fn said_by_kernel(text: &str) -> usize {
    let number = text.rsplit_once(" (os error ").and_then(|(_, end)| end.strip_suffix(')'));
    let Some(number) = number.and_then(|number| number.parse().ok()) else { return 0 };
    let said = std::io::Error::from_raw_os_error(number).to_string();
    if text.ends_with(&said) { said.len() } else { 0 }
}

fn without_secrets(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(text);
    for rule in &PATTERNS.rules {
        if let Cow::Owned(replaced) = rule.applied(&shown) {
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
