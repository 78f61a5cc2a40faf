//! A script of a shell, cut into commands and words.
//!
//! It need not be right where a shell is: quotes, substitutions and here-documents are understood as far
//! as it takes to find the arguments of each command. It reads from left to right once.

use std::ops::Range;

/// What a word is to its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A part of its arguments.
    Argument,
    /// A file that it reads or writes, or the word that ends a here-document.
    Redirection,
    /// What it reads: the word of `<<<`, or a here-document.
    Input,
}

/// A word, and where it stands in the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// With its quotes.
    pub span: Range<usize>,
    /// Without its quotes.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// A simple command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// Its words in the order of the script.
    pub words: Vec<Word>,
    /// Whether its output goes into the next command.
    pub piped: bool,
}

/// Cuts a script into its commands.
pub fn commands(script: &str) -> Vec<Command> {
    let mut reader = Reader {
        script,
        at: 0,
        commands: Vec::new(),
        command: Command::default(),
        next: Next::Argument,
        bodies: Vec::new(),
    };
    while let Some(byte) = script.as_bytes().get(reader.at) {
        reader.step(*byte);
    }
    reader.end_command(false);
    reader.commands
}

/// What the next word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Argument,
    Redirection,
    HereString,
    /// The word that ends a here-document.
    Delimiter,
}

struct Reader<'a> {
    script: &'a str,
    at: usize,
    commands: Vec<Command>,
    command: Command,
    next: Next,
    /// Here-documents that begin behind this line: the index of their command, and the line that ends them.
    bodies: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.script[self.at..]
    }

    fn step(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                self.at += 1;
                self.end_command(false);
                self.read_bodies();
            }
            b';' | b'(' | b')' | b'`' => {
                self.at += 1;
                self.end_command(false);
            }
            b'&' | b'|' => {
                let piped = byte == b'|' && !self.rest().starts_with("||");
                self.at += 1 + usize::from(self.rest()[1..].starts_with(['|', '&']));
                self.end_command(piped);
            }
            b'<' | b'>' => {
                let (length, next) = match self.rest() {
                    rest if rest.starts_with("<<<") => (3, Next::HereString),
                    rest if rest.starts_with("<<-") => (3, Next::Delimiter),
                    rest if rest.starts_with("<<") => (2, Next::Delimiter),
                    rest if rest[1..].starts_with(['>', '&', '|']) => (2, Next::Redirection),
                    _ => (1, Next::Redirection),
                };
                self.at += length;
                self.next = next;
            }
            b'\\' if self.rest().starts_with("\\\n") => self.at += 2,
            _ if byte.is_ascii_whitespace() => self.at += 1,
            _ => self.word(),
        }
    }

    fn word(&mut self) {
        let (begin, mut text) = (self.at, String::new());
        let mut quote = None;
        let mut characters = self.rest().char_indices().peekable();
        let mut length = self.rest().len();
        while let Some((index, c)) = characters.next() {
            match (quote, c) {
                (None, c) if c.is_ascii_whitespace() || ";()`&|<>".contains(c) => {
                    length = index;
                    break;
                }
                (None, '\'' | '"') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                (None | Some('"'), '\\') => match characters.next() {
                    Some((_, '\n')) | None => {}
                    Some((_, escaped)) => text.push(escaped),
                },
                (_, c) => text.push(c),
            }
        }
        // A byte that begins no word was taken care of by `step`; that each step moves on is what ends the loop.
        self.at = begin + length.max(1);
        let span = begin..self.at;
        let kind = match std::mem::replace(&mut self.next, Next::Argument) {
            Next::Argument => Kind::Argument,
            Next::Redirection => Kind::Redirection,
            Next::HereString => Kind::Input,
            Next::Delimiter => {
                self.bodies.push((self.commands.len(), text.clone()));
                Kind::Redirection
            }
        };
        self.command.words.push(Word { span, text, kind });
    }

    fn end_command(&mut self, piped: bool) {
        self.next = Next::Argument;
        let mut command = std::mem::take(&mut self.command);
        command.piped = piped;
        // One without words is kept where a here-document counts on its place.
        if !command.words.is_empty() {
            self.commands.push(command);
        }
    }

    /// Reads the here-documents whose commands stand in the line that has ended.
    fn read_bodies(&mut self) {
        for (command, delimiter) in std::mem::take(&mut self.bodies) {
            let begin = self.at;
            let mut end = self.script.len();
            let mut next = end;
            for line in self.script[begin..].split_inclusive('\n') {
                let start = line.as_ptr() as usize - self.script.as_ptr() as usize;
                if line.trim_matches(['\t', '\n']) == delimiter {
                    (end, next) = (start, start + line.len());
                    break;
                }
            }
            self.at = next;
            let text = self.script[begin..end].to_owned();
            if let Some(command) = self.commands.get_mut(command) {
                command.words.push(Word { span: begin..end, text, kind: Kind::Input });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(script: &str) -> Vec<Vec<String>> {
        let text = |command: Command| command.words.into_iter().map(|word| word.text).collect();
        commands(script).into_iter().map(text).collect()
    }

    #[test]
    fn a_script_is_cut_where_a_shell_cuts_it() {
        assert_eq!(words("a b; c&&d|e"), [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]);
        assert_eq!(words("a 'b c'\"d $e\"f \\g"), [["a", "b cd $ef", "g"]]);
        assert_eq!(words("x=$(a b) `c`"), [vec!["x=$"], vec!["a", "b"], vec!["c"]]);
        assert_eq!(words("a >f 2>&1 <<< 'x y'"), [["a", "f", "2", "1", "x y"]]);
        assert_eq!(words("a <<E b\nx 'y\nE\nc"), [vec!["a", "E", "b", "x 'y\n"], vec!["c"]]);
        assert_eq!(words("a 'never closed"), [["a", "never closed"]]);
        assert!(commands("a | b")[0].piped && !commands("a || b")[0].piped);
    }

    proptest! {
        #[test]
        fn no_script_is_too_odd(script in r#"[a\u{e9}'"\\<>|&;()$ \n`#-]{0,80}"#) {
            let mut at = 0;
            for word in commands(&script).iter().flat_map(|command| &command.words) {
                // Here-documents stand behind what comes after them in their line.
                prop_assert!(script.get(word.span.clone()).is_some());
                if word.kind != Kind::Input {
                    prop_assert!(at <= word.span.start);
                    at = word.span.end;
                }
            }
        }
    }

    #[test]
    fn every_word_stands_where_it_says() {
        let script = "a 'b c' <<E\nx\nE\nd\u{e9}\\\n -f";
        let spans: Vec<&str> = commands(script)
            .iter()
            .flat_map(|command| command.words.iter().map(|word| &script[word.span.clone()]))
            .collect();
        assert_eq!(spans, ["a", "'b c'", "E", "x\n", "d\u{e9}\\\n", "-f"]);
    }
}
