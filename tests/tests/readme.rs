//! The README's tour tells the truth: each of its commands is run, and prints what stands below it.

use std::{fs, path::Path, process::Command};

use conti_tests::{Agent, agent::binary};

/// The commands of the first console block, each with the lines below it.
fn tour(readme: &str) -> Vec<(String, Vec<String>)> {
    let block = readme.split("```console\n").nth(1).expect("a console block");
    let block = block.split("```").next().expect("its end");
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push((command.to_owned(), Vec::new())),
            None => steps.last_mut().expect("a command first").1.push(line.to_owned()),
        }
    }
    steps
}

#[test]
fn every_command_of_the_tour_prints_what_the_readme_shows() {
    let agent = Agent::start();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let steps = tour(&fs::read_to_string(root.join("README.md")).expect("the README"));
    assert!(steps.len() >= 9, "the tour has {} steps", steps.len());
    let bin = binary("contictl").parent().expect("a directory").to_owned();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    for (command, expected) in steps {
        let mut shell = Command::new("sh");
        // As in a terminal: both streams in one.
        shell.args(["-c", &format!("exec 2>&1; {command}")]).env("PATH", &path);
        shell.env("CONTI_HOST", agent.url());
        let output = shell.output().expect("sh runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed: Vec<&str> = printed.lines().collect();
        assert_eq!(printed.len(), expected.len(), "`{command}` printed {printed:?}");
        for (line, wanted) in printed.iter().zip(&expected) {
            assert!(wanted == "…" || line == wanted, "`{command}` printed {printed:?}");
        }
    }
    agent.finish();
}

#[test]
fn make_shell_leaves_its_user_in_a_shell_and_leaves_nothing_behind() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bin = binary("contictl").parent().expect("a directory").to_owned();
    let dir = tempfile::tempdir().expect("a directory");
    // script(1) gives a terminal to what `make shell` runs; what it reads is what is typed.
    let typed =
        "(sleep 2; printf 'hostname; echo $((6 * 7))\\r'; sleep 1; printf 'exit 3\\r'; sleep 3)";
    let outcome = Command::new("sh")
        .args(["-c", &format!("{typed} | script -qec scripts/shell.sh /dev/null")])
        .current_dir(root)
        .env("CONTI_BIN_DIR", bin)
        .env("TMPDIR", dir.path())
        .output()
        .expect("sh can be started");
    let shown = String::from_utf8_lossy(&outcome.stdout).replace('\r', "");
    assert!(shown.lines().any(|line| line.ends_with("conti")), "{shown}");
    assert!(shown.lines().any(|line| line.ends_with("42")), "{shown}");
    assert_eq!(outcome.status.code(), Some(3), "{shown}");
    let left: Vec<_> = fs::read_dir(dir.path()).expect("it is there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
