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

/// A simple command. One without words stands for what a group of commands reads, or writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// Its words in the order of the script.
    pub words: Vec<Word>,
    /// Of what a group writes: the one that stands for what it reads.
    pub reads: Option<usize>,
}

/// A script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Its commands, in the order in which they begin.
    pub commands: Vec<Command>,
    /// Which of them reads what another one writes: first who writes.
    pub gives: Vec<(usize, usize)>,
}

/// Cuts a script into its commands.
///
/// A substitution is a part of its word: in the word's text only `$()`, `<()` or `>()` stands for it. The commands
/// in it are commands like others.
pub fn read(script: &str) -> Script {
    let mut reader = Reader {
        script,
        at: 0,
        read: Script::default(),
        frames: vec![Frame::new(Until::End)],
        brackets: 0,
        backquotes: 0,
        bodies: Vec::new(),
    };
    while let Some(byte) = script.as_bytes().get(reader.at) {
        reader.step(*byte);
    }
    while reader.close() {}
    reader.read
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

/// What ends commands that stand in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    Bracket,
    Backquote,
    /// The word that closes what a word like `{` has opened.
    Word(&'static str),
}

/// Commands that stand in one another.
struct Frame {
    until: Until,
    /// The command that goes on.
    command: Option<usize>,
    next: Next,
    /// A word in which there is a substitution: where it begins, and its text so far.
    word: Option<(usize, String)>,
    /// The command whose output the next one gets.
    piped: Option<usize>,
    /// Whose input the commands read.
    input: Option<usize>,
    /// Who gets what they write.
    output: Option<usize>,
}

impl Frame {
    fn new(until: Until) -> Frame {
        Frame {
            until,
            command: None,
            next: Next::Argument,
            word: None,
            piped: None,
            input: None,
            output: None,
        }
    }
}

struct Reader<'a> {
    script: &'a str,
    at: usize,
    read: Script,
    /// The innermost is the last. There is always one.
    frames: Vec<Frame>,
    /// How many of them end with a bracket.
    brackets: usize,
    /// How many of them end with a backquote.
    backquotes: usize,
    /// Here-documents that begin behind this line: the index of their command, and the line that ends them.
    bodies: Vec<(usize, String)>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.script[self.at..]
    }

    fn frame(&mut self) -> &mut Frame {
        // The outermost is taken away last, when nothing is read any more.
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    fn step(&mut self, byte: u8) {
        if self.frame().word.is_some() {
            return self.word();
        }
        match byte {
            b'\n' => {
                self.at += 1;
                self.end_command(false);
                self.read_bodies();
            }
            b';' => {
                self.at += 1;
                self.end_command(false);
            }
            b'(' => {
                self.at += 1;
                self.group(Until::Bracket);
            }
            b')' => {
                self.at += 1;
                // In `case` it ends a pattern.
                let until = self.frame().until;
                match until {
                    Until::Word("esac") => self.end_command(false),
                    _ if self.brackets == 0 => self.end_command(false),
                    _ => self.close_to(Until::Bracket),
                }
            }
            b'`' if self.backquotes > 0 => {
                self.at += 1;
                self.close_to(Until::Backquote);
            }
            b'&' | b'|' => {
                let piped = byte == b'|' && !self.rest().starts_with("||");
                self.at += 1 + usize::from(self.rest()[1..].starts_with(['|', '&']));
                self.end_command(piped);
            }
            b'<' | b'>' if !self.rest()[1..].starts_with('(') => {
                let (length, next) = match self.rest() {
                    rest if rest.starts_with("<<<") => (3, Next::HereString),
                    rest if rest.starts_with("<<-") => (3, Next::Delimiter),
                    rest if rest.starts_with("<<") => (2, Next::Delimiter),
                    rest if rest[1..].starts_with(['>', '&', '|']) => (2, Next::Redirection),
                    _ => (1, Next::Redirection),
                };
                self.at += length;
                self.frame().next = next;
            }
            b'\\' if self.rest().starts_with("\\\n") => self.at += 2,
            _ if byte.is_ascii_whitespace() => self.at += 1,
            _ => self.word(),
        }
    }

    /// Reads a word, or what comes behind a substitution in it.
    fn word(&mut self) {
        let begun = self.frame().word.take();
        // A byte that begins no word was taken care of by `step`; that each step moves on is what ends the loop.
        let least = usize::from(begun.is_none());
        let (begin, mut text) = begun.unwrap_or_else(|| (self.at, String::new()));
        let rest = self.rest();
        let (mut quote, mut nested) = (None, 0_usize);
        let mut characters = rest.char_indices().peekable();
        let mut length = rest.len();
        while let Some((index, c)) = characters.next() {
            let opens = characters.peek().is_some_and(|(_, next)| *next == '(');
            match (quote, c) {
                (None, '$' | '<' | '>') if opens => {
                    self.at += index + 2;
                    text.extend([c, '(', ')']);
                    return self.substitution(c, (begin, text));
                }
                (None, '`') if self.backquotes == 0 => {
                    self.at += index + 1;
                    text.push_str("$()");
                    return self.substitution(c, (begin, text));
                }
                (None, c) if c.is_ascii_whitespace() || ";()`&|<>".contains(c) => {
                    length = index;
                    break;
                }
                (None, '\'' | '"') => quote = Some(c),
                // Quotes in a substitution do not end those around it.
                (Some('"'), '$') if opens => {
                    characters.next();
                    nested += 1;
                    text.push_str("$(");
                }
                (Some('"'), _) if nested > 0 && c != '\\' => {
                    nested = nested + usize::from(c == '(') - usize::from(c == ')');
                    text.push(c);
                }
                (Some(open), c) if c == open => quote = None,
                (None | Some('"'), '\\') => match characters.next() {
                    Some((_, '\n')) | None => {}
                    Some((_, escaped)) => text.push(escaped),
                },
                (_, c) => text.push(c),
            }
        }
        self.at += length.max(least);
        self.end_word(begin, text);
    }

    fn end_word(&mut self, begin: usize, text: String) {
        let span = begin..self.at;
        let kind = match std::mem::replace(&mut self.frame().next, Next::Argument) {
            Next::Argument if self.keyword(&self.script[span.clone()]) => return,
            Next::Argument => Kind::Argument,
            Next::Redirection => Kind::Redirection,
            Next::HereString => Kind::Input,
            Next::Delimiter => {
                let command = self.command();
                self.bodies.push((command, text.clone()));
                Kind::Redirection
            }
        };
        let command = self.command();
        self.read.commands[command].words.push(Word { span, text, kind });
    }

    /// Opens or closes a group, where this word does so as the first one of a command. `true`: it belongs to no
    /// command.
    fn keyword(&mut self, word: &str) -> bool {
        let words = self.frame().command.map(|command| &self.read.commands[command].words);
        if words.is_some_and(|words| words.iter().any(|word| word.kind == Kind::Argument)) {
            return false;
        }
        let end = match word {
            "{" => "}",
            "if" => "fi",
            "case" => "esac",
            "for" | "while" | "until" | "select" => "done",
            word if self.frame().until == Until::Word("}") && word == "}" => "",
            word if self.frame().until == Until::Word("fi") && word == "fi" => "",
            word if self.frame().until == Until::Word("esac") && word == "esac" => "",
            word if self.frame().until == Until::Word("done") && word == "done" => "",
            _ => return false,
        };
        if end.is_empty() {
            self.close();
            return true;
        }
        self.group(Until::Word(end));
        word == "{"
    }

    /// The command that goes on; a new one where there is none.
    fn command(&mut self) -> usize {
        if let Some(command) = self.frame().command {
            return command;
        }
        let command = self.add(Command::default());
        let frame = self.frame();
        frame.command = Some(command);
        let from = frame.piped.take().or(frame.input);
        self.read.gives.extend(from.map(|from| (from, command)));
        command
    }

    fn add(&mut self, command: Command) -> usize {
        self.read.commands.push(command);
        self.read.commands.len() - 1
    }

    fn end_command(&mut self, piped: bool) {
        let frame = self.frame();
        frame.next = Next::Argument;
        let ended = frame.command.take();
        frame.piped = ended.filter(|_| piped);
        let gives = ended.zip(frame.output).filter(|_| !piped);
        self.read.gives.extend(gives);
    }

    /// Begins a group: what is piped into it is for all its commands, and what they write goes on behind it.
    fn group(&mut self, until: Until) {
        if self.frame().command.is_some() {
            self.end_command(false);
        }
        let input = self.command();
        let output = self.add(Command { reads: Some(input), ..Command::default() });
        self.frame().command = Some(output);
        let frame = Frame { input: Some(input), output: Some(output), ..Frame::new(until) };
        self.push(frame);
    }

    /// Begins a substitution in a word that goes on behind it.
    fn substitution(&mut self, mark: char, word: (usize, String)) {
        let until = if mark == '`' { Until::Backquote } else { Until::Bracket };
        let mut frame = Frame::new(until);
        let command = self.command();
        match mark {
            '<' => frame.output = Some(command),
            '>' => frame.input = Some(command),
            _ => {}
        }
        self.frame().word = Some(word);
        self.push(frame);
    }

    fn push(&mut self, frame: Frame) {
        self.brackets += usize::from(frame.until == Until::Bracket);
        self.backquotes += usize::from(frame.until == Until::Backquote);
        self.frames.push(frame);
    }

    /// Ends the innermost commands. `false`: there were none.
    fn close(&mut self) -> bool {
        if self.frames.is_empty() {
            return false;
        }
        if let Some((begin, text)) = self.frame().word.take() {
            self.end_word(begin, text);
        }
        self.end_command(false);
        if let Some(frame) = self.frames.pop() {
            self.brackets -= usize::from(frame.until == Until::Bracket);
            self.backquotes -= usize::from(frame.until == Until::Backquote);
        }
        true
    }

    /// Ends commands up to those that end so. There are some.
    fn close_to(&mut self, until: Until) {
        while self.frame().until != until {
            self.close();
        }
        self.close();
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
            if let Some(command) = self.read.commands.get_mut(command) {
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
        let all: Vec<Vec<String>> = read(script).commands.into_iter().map(text).collect();
        all.into_iter().filter(|words| !words.is_empty()).collect()
    }

    #[test]
    fn a_script_is_cut_where_a_shell_cuts_it() {
        assert_eq!(words("a b; c&&d|e"), [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]);
        assert_eq!(words("a 'b c'\"d $e\"f \\g"), [["a", "b cd $ef", "g"]]);
        assert_eq!(
            words("x=$(a b)y `c` d"),
            [vec!["x=$()y", "$()", "d"], vec!["a", "b"], vec!["c"]]
        );
        assert_eq!(
            words("a -f=<(b $(c)) d"),
            [vec!["a", "-f=<()", "d"], vec!["b", "$()"], vec!["c"]]
        );
        assert_eq!(words("a \"$(b \"c d\")\" e"), [["a", "$(b \"c d\")", "e"]]);
        assert_eq!(words("{ a; (b); } >f"), [vec!["f"], vec!["a"], vec!["b"]]);
        assert_eq!(words("a >f 2>&1 <<< 'x y'"), [["a", "f", "2", "1", "x y"]]);
        assert_eq!(words("a <<E b\nx 'y\nE\nc"), [vec!["a", "E", "b", "x 'y\n"], vec!["c"]]);
        assert_eq!(words("a 'never closed"), [["a", "never closed"]]);
    }

    /// Which commands give what they write to which, by their first words.
    fn gives(script: &str) -> Vec<String> {
        let read = read(script);
        let name = |index: usize| match read.commands[index].words.first() {
            Some(word) => word.text.clone(),
            None => if read.commands[index].reads.is_some() { "out" } else { "in" }.to_owned(),
        };
        read.gives.iter().map(|(from, to)| format!("{} {}", name(*from), name(*to))).collect()
    }

    #[test]
    fn what_a_command_writes_goes_where_a_shell_sends_it() {
        assert_eq!(gives("a | b || c"), ["a b"]);
        assert_eq!(gives("a <(b; c) >(d) $(e)"), ["b a", "c a", "a d"]);
        assert_eq!(gives("(a; b) | c"), ["in a", "a out", "in b", "b out", "out c"]);
        assert_eq!(gives("a | { b; }"), ["a in", "in b", "b out"]);
        assert_eq!(gives("case a in b) c;; esac | d").last().unwrap(), "out d");
    }

    proptest! {
        #[test]
        fn no_script_is_too_odd(script in r#"[a\u{e9}'"\\<>|&;()$ \n`#-]{0,80}"#) {
            for word in read(&script).commands.iter().flat_map(|command| &command.words) {
                prop_assert!(script.get(word.span.clone()).is_some());
            }
        }
    }

    #[test]
    fn every_word_stands_where_it_says() {
        let script = "a 'b c' <<E\nx\nE\nd\u{e9}\\\n -f";
        let spans: Vec<&str> = read(script)
            .commands
            .iter()
            .flat_map(|command| command.words.iter().map(|word| &script[word.span.clone()]))
            .collect();
        assert_eq!(spans, ["a", "'b c'", "E", "x\n", "d\u{e9}\\\n", "-f"]);
    }
}
