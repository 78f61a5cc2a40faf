//! The arguments of one command.

use std::borrow::Cow;

use super::{
    REDACTED,
    patterns::{PATTERNS, is_number, text},
    programs::{self, Place, Program},
    script::{self, Command, Kind, Script, Word},
};

/// How many scripts may stand in one another; of what lies deeper nothing is shown.
const DEPTH_MAX: usize = 4;

/// The arguments of a command as they may be shown; `None`: as they are.
pub fn shown(words: &[&str], depth: usize) -> Vec<Option<String>> {
    shown_of(words, depth, false)
}

/// The same. `prose`: it may be no command, but a sentence.
fn shown_of(words: &[&str], depth: usize, prose: bool) -> Vec<Option<String>> {
    let mut reader =
        Reader { words, depth, prose, known: Vec::new(), before: "", next: Next::Plain };
    (0..words.len()).map(|index| reader.read(index)).collect()
}

/// What the argument after another one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Plain,
    Secret,
    /// It is one unless it is a number or a flag.
    Vague,
    /// It is one behind this character.
    Part(char),
}

/// Reads a command from left to right.
struct Reader<'a> {
    words: &'a [&'a str],
    depth: usize,
    prose: bool,
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
            // It comes behind it.
            Next::Secret | Next::Part(_) if word == "--" => return None,
            Next::Vague if is_number(word) || word.starts_with('-') => self.own(index, word),
            Next::Secret | Next::Vague => Some(REDACTED.to_owned()),
            Next::Part(mark) => part(word, mark),
            Next::Plain if index == 0 => None,
            Next::Plain => self.own(index, word),
        };
        let shown = secret.or_else(|| {
            let script = index > 0 && self.words[index - 1].starts_with('-');
            let script = script && self.words[index - 1].ends_with('c');
            plain(word, self.depth, script, self.prose || !script)
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
            Place::After(flags) | Place::Apart(flags) => {
                let glued = || {
                    let short = |flag: &&str| is_short(flag) && word.starts_with(flag);
                    let flag = flags.split(' ').find(short)?;
                    let secret = matches!(place, Place::After(_)) && word.len() > flag.len();
                    secret.then(|| format!("{flag}{REDACTED}"))
                };
                let assigned = word.split_once('=').and_then(|(flag, value)| {
                    let secret = programs::has(flags, flag) && !value.is_empty();
                    secret.then(|| format!("{flag}={REDACTED}"))
                });
                assigned.or_else(glued)
            }
            Place::Part("", mark) if operand => part(word, *mark),
            Place::Part(flags, mark) => flags.split(' ').find_map(|flag| {
                let value = match word.strip_prefix(flag).filter(|_| !flag.is_empty()) {
                    Some(value) => value,
                    None => behind_cluster(flag, word)?,
                };
                let before = &word[..word.len() - value.len()];
                Some(format!("{before}{}", part(value, *mark)?))
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
            Place::Named | Place::Input(_) | Place::Plain(_) | Place::Words => None,
        })
    }

    fn has_short(&self, flag: char) -> bool {
        let short = |word: &&&str| word.starts_with('-') && !word.starts_with("--");
        self.words.iter().filter(short).any(|word| word.contains(flag))
    }

    fn after(&self, word: &str, next: usize) -> Next {
        let own = self.places().find_map(|(place, _)| match place {
            Place::After(flags) | Place::Apart(flags) if programs::has(flags, word) => {
                Some(Next::Secret)
            }
            Place::After(flags) if ends_cluster(flags, word) => Some(Next::Secret),
            Place::Part(flags, mark) if programs::has(flags, word) || ends_cluster(flags, word) => {
                Some(Next::Part(*mark))
            }
            Place::Named if PATTERNS.named.is_match(word) => Some(Next::Secret),
            _ => None,
        });
        if let Some(own) = own {
            return own;
        }
        if PATTERNS.flag.is_match(word)
            || PATTERNS.introduced.is_match(word)
            || (matches!(word, "=" | ":" | ":=" | "=>") && PATTERNS.named.is_match(self.before))
        {
            return Next::Secret;
        }
        // In a sentence a noun is followed by anything.
        let words = || self.places().any(|(place, _)| matches!(place, Place::Words));
        if PATTERNS.vague.is_match(word)
            || (!self.prose && PATTERNS.bare.is_match(word) && !words())
        {
            return Next::Vague;
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
        let (mut before, mut known) = ("", Vec::<&Program>::new());
        for word in words {
            known.extend(programs::known(before, word));
            known.sort_by_key(|program| std::ptr::from_ref(*program));
            known.dedup_by_key(|program| std::ptr::from_ref(*program));
            if !word.starts_with('-') {
                before = word;
            }
        }
        let given = |flags: &str| {
            let flag = |word: &str| word.split_once('=').map_or(word, |(flag, _)| flag).to_owned();
            let has = |word: &&str| {
                programs::has(flags, &flag(word))
                    || flags.split(' ').any(|flag| behind_cluster(flag, word).is_some())
            };
            flags.is_empty() || words.iter().any(has)
        };
        let reads = |place: &Place| matches!(place, Place::Input(with) if given(with));
        known.iter().any(|program| program.places.iter().any(reads))
            || words.iter().any(|word| matches!(*word, "--password-stdin" | "--passphrase-fd"))
    }
}

/// Whether a flag is a single letter, which may be written as one with others and with its value.
fn is_short(flag: &str) -> bool {
    matches!(flag.as_bytes(), [b'-', letter] if letter.is_ascii_alphanumeric())
}

/// Whether the last of several flags that are written as one is one of these.
fn ends_cluster(flags: &str, word: &str) -> bool {
    let Some(letters) = word.strip_prefix('-') else { return false };
    let cluster = (2..=6).contains(&letters.len())
        && letters.bytes().all(|letter| letter.is_ascii_alphanumeric());
    cluster && flags.split(' ').any(|flag| is_short(flag) && letters.ends_with(&flag[1..]))
}

/// What stands behind this flag, where it comes behind others that are written as one with it.
fn behind_cluster<'a>(flag: &str, word: &'a str) -> Option<&'a str> {
    let letters = word.strip_prefix('-').filter(|_| is_short(flag))?;
    let (before, value) = letters.split_once(&flag[1..])?;
    before.bytes().all(|letter| letter.is_ascii_alphabetic()).then_some(value)
}

/// What stands behind a character, unless it is a number, as in `uid:gid`.
fn part(value: &str, mark: char) -> Option<String> {
    let (user, rest) = value.split_once(mark)?;
    let numbers = is_number(user) && is_number(rest);
    let secret = !rest.is_empty() && !numbers;
    secret.then(|| format!("{}{mark}{REDACTED}", text(user)))
}

/// A word that no flag and no program says anything of. `script`: it may begin with assignments, else it
/// is one as a whole where it does. `prose`: it may be a sentence.
fn plain(word: &str, depth: usize, script: bool, prose: bool) -> Option<String> {
    // A script need not have blanks.
    let whole = word.contains(char::is_whitespace) || script && word.contains(['<', '|', ';']);
    let shown = if !whole {
        text(word)
    } else if let Some(assigned) = PATTERNS.assignment.captures(word).filter(|_| !script) {
        Cow::Owned(format!("{}{REDACTED}", &assigned[1]))
    } else {
        self::script(word, depth, prose)
    };
    (shown != word).then(|| shown.into_owned())
}

/// A script without its secrets.
fn script(script: &str, depth: usize, prose: bool) -> Cow<'_, str> {
    if depth >= DEPTH_MAX {
        return Cow::Borrowed(REDACTED);
    }
    let script = text(script);
    let read = script::read(&script);
    let commands: Vec<Read<'_>> = read.commands.iter().map(Read::of).collect();
    let swallows = swallow(&read, &commands);
    let mut said: Vec<bool> = commands.iter().map(|command| command.kept).collect();
    for (from, to) in &read.gives {
        said[*from] |= swallows[*to];
    }
    let mut replaced = Vec::new();
    for ((command, read), said) in read.commands.iter().zip(&commands).zip(said) {
        let echoes = read.words.iter().any(|word| matches!(*word, "echo" | "printf"));
        let shown = shown_of(&read.words, depth + 1, prose);
        for (index, (word, shown)) in of_kind(command, Kind::Argument).zip(shown).enumerate() {
            let name = matches!(word.text.as_str(), "echo" | "printf");
            let hidden = said && echoes && index > 0 && !name && !word.text.starts_with('-');
            let shown = if hidden { Some(REDACTED.to_owned()) } else { shown };
            replaced.extend(shown.map(|shown| (word, shown)));
        }
        let given = read.reads || command.reads.is_some_and(|group| swallows[group]);
        for word in of_kind(command, Kind::Input) {
            let end = if word.text.ends_with('\n') { "\n" } else { "" };
            let hidden = (given || said).then(|| format!("{REDACTED}{end}"));
            replaced.extend(
                hidden.or_else(|| plain(&word.text, depth + 1, true, true)).map(|s| (word, s)),
            );
        }
    }
    replaced.sort_by_key(|(word, _)| word.span.start);
    put(script, &replaced)
}

/// A command of a script.
struct Read<'a> {
    /// Its arguments.
    words: Vec<&'a str>,
    /// Whether what it reads is a secret.
    reads: bool,
    /// Whether what it writes lies in a file of secrets.
    kept: bool,
}

impl Read<'_> {
    fn of(command: &Command) -> Read<'_> {
        let words: Vec<&str> =
            of_kind(command, Kind::Argument).map(|word| word.text.as_str()).collect();
        let reads = Reader::reads_secret(&words);
        let tee = words.contains(&"tee") && words.iter().any(|file| programs::is_secret_file(file));
        let kept =
            of_kind(command, Kind::Redirection).any(|file| programs::is_secret_file(&file.text));
        Read { reads, kept: kept || tee, words }
    }
}

/// Of each command whether what it is given is a secret: it reads secrets, keeps what it writes as one, or gives it
/// to one of which the same holds.
fn swallow(script: &Script, commands: &[Read<'_>]) -> Vec<bool> {
    let mut swallows: Vec<bool> = commands.iter().map(|one| one.reads || one.kept).collect();
    let mut open: Vec<usize> = (0..swallows.len()).filter(|one| swallows[*one]).collect();
    let mut gives = script.gives.clone();
    gives.sort_unstable_by_key(|(_, to)| *to);
    while let Some(to) = open.pop() {
        let first = gives.partition_point(|(_, other)| *other < to);
        for (from, _) in gives[first..].iter().take_while(|(_, other)| *other == to) {
            if !std::mem::replace(&mut swallows[*from], true) {
                open.push(*from);
            }
        }
    }
    swallows
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
        // It stood in a word that is gone.
        if word.span.start < at {
            continue;
        }
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
