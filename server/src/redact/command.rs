//! The arguments of one command.

use std::borrow::Cow;

use super::{
    REDACTED,
    patterns::{PATTERNS, is_number, text},
    programs::{self, Place, Program},
    script::{self, Command, Kind, Word},
};

/// How many scripts may stand in one another; of what lies deeper nothing is shown.
const DEPTH_MAX: usize = 4;

/// The arguments of a command as they may be shown; `None`: as they are.
pub fn shown(words: &[&str], depth: usize) -> Vec<Option<String>> {
    let mut reader = Reader { words, depth, known: Vec::new(), before: "", next: Next::Plain };
    (0..words.len()).map(|index| reader.read(index)).collect()
}

/// What the argument after another one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Plain,
    Secret,
    /// It is one behind this character.
    Part(char),
}

/// Reads a command from left to right.
struct Reader<'a> {
    words: &'a [&'a str],
    depth: usize,
    /// The programs that were named so far, each with how many operands have come behind its name. What is
    /// but the value of a flag may be taken for one: all of them count.
    known: Vec<(&'static Program, usize)>,
    /// The last word that is no flag.
    before: &'a str,
    next: Next,
}

impl<'a> Reader<'a> {
    fn read(&mut self, index: usize) -> Option<String> {
        let word = self.words[index];
        let secret = match self.next {
            // What is not there is none.
            _ if word.is_empty() => None,
            Next::Secret => Some(REDACTED.to_owned()),
            Next::Part(mark) => part(word, mark),
            Next::Plain if index == 0 => None,
            Next::Plain => self.own(index, word),
        };
        let shown = secret.or_else(|| {
            let script = index > 0 && self.words[index - 1].starts_with('-');
            plain(word, self.depth, script && self.words[index - 1].ends_with('c'))
        });
        // Even where it took the place of a value itself: whether it did is a guess.
        self.next = if index == 0 { Next::Plain } else { self.after(word, index + 1) };
        if !word.starts_with('-') {
            for (_, operands) in &mut self.known {
                *operands += 1;
            }
            for program in programs::known(self.before, word) {
                if !self.known.iter().any(|(known, _)| std::ptr::eq(*known, program)) {
                    self.known.push((program, 0));
                }
            }
            self.before = word;
        }
        shown
    }

    fn places(&self) -> impl Iterator<Item = (&'static Place, usize)> {
        self.known
            .iter()
            .flat_map(|(program, n)| program.places.iter().map(move |place| (place, *n)))
    }

    /// A word that is a secret, or holds one, by itself.
    fn own(&self, index: usize, word: &str) -> Option<String> {
        let operand = !word.starts_with('-');
        self.places().find_map(|(place, operands)| match place {
            Place::Glued(flags) => flags.split(' ').find_map(|flag| {
                let secret = word.strip_prefix(flag).is_some_and(|rest| !rest.is_empty());
                secret.then(|| format!("{flag}{REDACTED}"))
            }),
            Place::After(flags) => {
                let (flag, value) = word.split_once('=')?;
                let secret = programs::has(flags, flag) && !value.is_empty();
                secret.then(|| format!("{flag}={REDACTED}"))
            }
            Place::Part("", mark) if operand => part(word, *mark),
            Place::Part(flags, mark) => flags.split(' ').find_map(|flag| {
                let value = word.strip_prefix(flag).filter(|_| !flag.is_empty())?;
                Some(format!("{flag}{}", part(value, *mark)?))
            }),
            Place::Operands(from) => (operand && operands >= *from).then(|| REDACTED.to_owned()),
            Place::Values => {
                let (name, _) = word.split_once('=').filter(|_| operand)?;
                Some(format!("{name}={REDACTED}"))
            }
            Place::Last(flag) => {
                let last = index + 1 == self.words.len() && operand;
                (last && self.has_short(*flag)).then(|| REDACTED.to_owned())
            }
            Place::Named | Place::Input(_) | Place::Plain(_) => None,
        })
    }

    fn has_short(&self, flag: char) -> bool {
        let short = |word: &&&str| word.starts_with('-') && !word.starts_with("--");
        self.words.iter().filter(short).any(|word| word.contains(flag))
    }

    fn after(&self, word: &str, next: usize) -> Next {
        let own = self.places().find_map(|(place, _)| match place {
            Place::After(flags) if programs::has(flags, word) => Some(Next::Secret),
            Place::Part(flags, mark) if programs::has(flags, word) => Some(Next::Part(*mark)),
            Place::Named if PATTERNS.named.is_match(word) => Some(Next::Secret),
            _ => None,
        });
        if let Some(own) = own {
            return own;
        }
        if PATTERNS.flag.is_match(word) || word.to_ascii_lowercase().ends_with("authorization:") {
            return Next::Secret;
        }
        if PATTERNS.user.is_match(word) {
            return Next::Part(':');
        }
        let plain = |(place, _): (&Place, usize)| matches!(place, Place::Plain(flags) if programs::has(flags, word));
        let next = self.words.get(next).copied().unwrap_or_default();
        // Of most it may be a port, a pid or a path.
        let other = is_number(next) || next.contains('/') || next.starts_with(['-', '.']);
        match word {
            "-p" if !other && !self.places().any(plain) => Next::Secret,
            _ => Next::Plain,
        }
    }

    /// Whether what it reads is a secret.
    fn reads_secret(words: &[&str]) -> bool {
        let mut before = "";
        words.iter().any(|word| {
            let reads = |program: &Program| {
                program.places.iter().any(|place| {
                    matches!(place, Place::Input(with)
                        if with.is_empty() || words.iter().any(|word| programs::has(with, word)))
                })
            };
            let found = programs::known(before, word).any(reads);
            if !word.starts_with('-') {
                before = word;
            }
            found || matches!(*word, "--password-stdin" | "--passphrase-fd")
        })
    }
}

/// What stands behind a character, unless it is a number, as in `uid:gid`.
fn part(value: &str, mark: char) -> Option<String> {
    let (user, rest) = value.split_once(mark)?;
    let numbers = is_number(user) && is_number(rest);
    let secret = !rest.is_empty() && !numbers;
    secret.then(|| format!("{}{mark}{REDACTED}", text(user)))
}

/// A word that no flag and no program says anything of. `script`: it may begin with assignments, else it
/// is one as a whole where it does.
fn plain(word: &str, depth: usize, script: bool) -> Option<String> {
    // A script need not have blanks.
    let whole = word.contains(char::is_whitespace) || script && word.contains(['<', '|', ';']);
    let shown = if !whole {
        text(word)
    } else if let Some(assigned) = PATTERNS.assignment.captures(word).filter(|_| !script) {
        Cow::Owned(format!("{}{REDACTED}", &assigned[1]))
    } else {
        self::script(word, depth)
    };
    (shown != word).then(|| shown.into_owned())
}

/// A script without its secrets.
fn script(script: &str, depth: usize) -> Cow<'_, str> {
    if depth >= DEPTH_MAX {
        return Cow::Borrowed(REDACTED);
    }
    let script = text(script);
    let commands = script::commands(&script);
    let mut replaced = Vec::new();
    // From the end: what a command reads is known before what it is given.
    let mut fed = false;
    for command in commands.iter().rev() {
        fed &= command.piped;
        let words: Vec<&str> =
            of_kind(command, Kind::Argument).map(|word| word.text.as_str()).collect();
        let reads = Reader::reads_secret(&words);
        let says = words.iter().any(|word| matches!(*word, "echo" | "printf"));
        let shown = self::shown(&words, depth + 1);
        let kept =
            of_kind(command, Kind::Redirection).any(|file| programs::is_secret_file(&file.text));
        let hidden = fed || kept;
        for (index, (word, shown)) in of_kind(command, Kind::Argument).zip(shown).enumerate() {
            let said = hidden && says && index > 0 && !word.text.starts_with('-');
            let name = matches!(word.text.as_str(), "echo" | "printf");
            let shown = if said && !name { Some(REDACTED.to_owned()) } else { shown };
            replaced.extend(shown.map(|shown| (word, shown)));
        }
        for word in of_kind(command, Kind::Input) {
            let end = if word.text.ends_with('\n') { "\n" } else { "" };
            let hidden = (reads || hidden).then(|| format!("{REDACTED}{end}"));
            replaced
                .extend(hidden.or_else(|| plain(&word.text, depth + 1, true)).map(|s| (word, s)));
        }
        fed |= reads || kept;
    }
    replaced.sort_by_key(|(word, _)| word.span.start);
    put(script, &replaced)
}

fn of_kind(command: &Command, kind: Kind) -> impl Iterator<Item = &Word> {
    command.words.iter().filter(move |word| word.kind == kind)
}

/// Puts words in the place of others, in the quotes that those had.
fn put<'a>(script: Cow<'a, str>, replaced: &[(&Word, String)]) -> Cow<'a, str> {
    if replaced.is_empty() {
        return script;
    }
    let (mut whole, mut at) = (String::with_capacity(script.len()), 0);
    for (word, shown) in replaced {
        let raw = &script[word.span.clone()];
        let quote = raw.chars().next().filter(|c| matches!(c, '\'' | '"') && raw.ends_with(*c));
        let quote = quote.filter(|_| shown.contains(char::is_whitespace)).map(String::from);
        let quote = quote.unwrap_or_default();
        whole.extend([&script[at..word.span.start], &quote, shown, &quote]);
        at = word.span.end;
    }
    whole.push_str(&script[at..]);
    Cow::Owned(whole)
}
