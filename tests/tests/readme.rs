//! README and documentation tell the truth: each of their commands is run, and prints what stands below it.

use std::{fs, path::Path, process::Command};

use conti_tests::{Agent, agent::binary, console};

#[test]
fn every_command_of_the_readme_prints_what_stands_there() {
    let agent = Agent::start();
    let count = console::run_all(&agent, "README.md");
    assert!(count >= 16, "the README has {count} steps");
    agent.finish();
}

#[test]
fn every_command_of_the_tutorial_prints_what_stands_there() {
    let agent = Agent::start();
    let count = console::run_all(&agent, "docs/tutorial.md");
    assert!(count >= 25, "the tutorial has {count} steps");
    agent.finish();
}

#[test]
fn the_unit_for_systemd_lets_containers_go_on_and_each_of_its_lines_is_explained() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let unit = fs::read_to_string(docs.join("contid.service")).expect("a unit");
    let page = fs::read_to_string(docs.join("service.md")).expect("a page");
    for line in ["KillMode=process", "Delegate=yes", "RuntimeDirectoryPreserve=yes"] {
        assert!(unit.lines().any(|one| one == line), "{line}");
    }
    let service = unit.split("[Service]\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    for line in service.expect("a section").lines().filter(|line| !line.starts_with("ExecStart=")) {
        assert!(page.contains(&format!("`{line}`")), "nothing says why {line}");
    }
    // It names its program where it is installed.
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("contid.service");
    let here = binary("contid").canonicalize().expect("a path");
    let unit = unit.replace("/usr/local/bin/contid", here.to_str().expect("text"));
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let help = Command::new(&here).args(command.split(' ').skip(1)).arg("--help").output();
    assert!(help.expect("contid runs").status.success(), "{command}");
    fs::write(&file, unit).expect("written");
    let Ok(told) = Command::new("systemd-analyze").arg("verify").arg(&file).output() else {
        eprintln!("skipped in part: there is no systemd-analyze here");
        return;
    };
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    // Versions before 254 do not know it, which the page says.
    let complaints: Vec<_> =
        told.lines().filter(|line| !line.contains("'DelegateSubgroup'")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
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

mod needs_veth {
    use super::*;

    #[test]
    fn the_way_from_another_machine_is_what_the_demo_does_and_every_claim_of_it_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let bin = binary("contictl").parent().expect("a directory").to_owned();
        let dir = tempfile::tempdir().expect("a directory");
        let outcome = Command::new("scripts/demo-remote.sh")
            .current_dir(&root)
            .env("CONTI_BIN_DIR", bin)
            .env("TMPDIR", dir.path())
            .output()
            .expect("the demo can be started");
        let shown = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let errors = String::from_utf8_lossy(&outcome.stderr);
        assert!(outcome.status.success(), "{shown}\n{errors}");
        let readme = fs::read_to_string(root.join("README.md")).expect("a README");
        let section = readme.split("## From another machine").nth(1).expect("the section");
        let section = section.split("\n## ").next().expect("the section");
        let blocks = section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
        assert!((6..=10).contains(&commands.len()), "{commands:?}");
        for command in commands {
            let typed = |line: &str| {
                line.strip_prefix("web# ").or(line.strip_prefix("laptop$ ")) == Some(command)
            };
            assert!(shown.lines().any(typed), "the demo does not run `{command}`:\n{shown}");
        }
        let left: Vec<_> = fs::read_dir(dir.path()).expect("it is there").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
