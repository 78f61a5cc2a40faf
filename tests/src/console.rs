//! Commands in the documentation, and what stands below them.

use std::{fs, path::Path, process::Command};

use crate::{Agent, agent::binary};

/// A command, and the lines that it prints.
type Step = (String, Vec<String>);

/// Runs all commands in the console blocks of a file of the repository, as a reader does who has
/// `contictl` in PATH, `$CONTI_HOST` set and `$DIR` empty. Each must print what stands below it: `…` stands
/// for anything, on a line of its own for any number of lines, and blanks count as one. Returns how many.
pub fn run_all(agent: &Agent, file: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text =
        fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let dir = agent.scratch("console");
    fs::create_dir(&dir).expect("a directory");
    let bin = binary("contictl").parent().expect("a directory").to_owned();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    let steps = steps(&text);
    for (command, expected) in &steps {
        let mut shell = Command::new("sh");
        // As in a terminal: both streams in one.
        shell.args(["-c", &format!("exec 2>&1; {command}")]).env("PATH", &path);
        shell.env("CONTI_HOST", agent.url()).env("DIR", &dir);
        let output = shell.output().expect("sh runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed: Vec<String> = printed.lines().map(blanks).collect();
        let dir = dir.display().to_string();
        let expected: Vec<String> =
            expected.iter().map(|line| blanks(&line.replace("$DIR", &dir))).collect();
        assert!(
            lines_match(&expected, &printed),
            "{file}: `{command}` printed {printed:#?}, and not {expected:#?}"
        );
    }
    steps.len()
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    // A block in an item of a list is indented.
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("$ ") {
            _ if line.starts_with("```") => is_inside = line == "```console",
            _ if !is_inside => {}
            Some(command) => steps.push((command.to_owned(), Vec::new())),
            None => steps.last_mut().expect("a command first").1.push(line.to_owned()),
        }
    }
    steps
}

/// Blanks as one: the width of a column depends on what is in it.
fn blanks(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lines_match(wanted: &[String], printed: &[String]) -> bool {
    match (wanted.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((line, rest)), _) if line == "…" => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        (Some((line, rest)), Some((other, others))) => {
            line_matches(line, other) && lines_match(rest, others)
        }
        _ => false,
    }
}

fn line_matches(wanted: &str, printed: &str) -> bool {
    let mut parts = wanted.split('…');
    let Some(mut rest) = printed.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_console_blocks_alone() {
        let text =
            "$ a\n```sh\n$ b\n```\n```console\n$ c\n\nout\n```\n- d\n  ```console\n  $ e\n  ```\n";
        let found = [("c", vec!["".into(), "out".into()]), ("e", Vec::new())];
        assert_eq!(steps(text), found.map(|(command, lines)| (command.to_owned(), lines)));
    }

    #[test]
    fn only_what_is_left_open_may_differ() {
        for (wanted, printed) in [
            ("a", "a"),
            ("…", ""),
            ("a…", "abc"),
            ("…c", "abc"),
            ("a…c…e", "abcde"),
            ("a … c", "a b b c"),
        ] {
            assert!(line_matches(wanted, printed), "{wanted} {printed}");
        }
        for (wanted, printed) in [("a", "ab"), ("a…c", "ab"), ("a…b…c", "acb"), ("…b", "abc")]
        {
            assert!(!line_matches(wanted, printed), "{wanted} {printed}");
        }
        let lines = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        assert!(lines_match(&lines("a|…|d"), &lines("a|b|c|d")));
        assert!(lines_match(&lines("a|…|d"), &lines("a|d")));
        assert!(!lines_match(&lines("a|…|d"), &lines("a|d|e")));
        assert!(!lines_match(&lines("a"), &[]));
    }
}
