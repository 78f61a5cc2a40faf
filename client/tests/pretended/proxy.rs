//! The connection over ssh.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    process::Stdio,
    thread,
};

use tempfile::TempDir;

use crate::{
    Person,
    agent::{Agent, pattern},
    arg, stderr,
};

#[test]
fn a_proxy_copies_both_ways_and_an_end_of_one_is_not_that_of_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    // Answers only when the other side has ended.
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut taken = Vec::new();
        client.read_to_end(&mut taken).unwrap();
        client.write_all(&taken).unwrap();
        client.write_all(b"end").unwrap();
        client.shutdown(Shutdown::Both).unwrap();
    });
    let person = Person::new();
    let host = format!("unix://{}", path.display());
    let mut command = person.contictl(&["proxy", "--host", &host]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let input: Vec<u8> = (0..3_000_000).map(pattern).collect();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == [&input[..], b"end"].concat());
}

#[test]
fn a_proxy_ends_when_the_agent_does_though_its_stdin_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let person = Person::new();
    let host = format!("unix://{}", path.display());
    let mut command = person.contictl(&["proxy", "--host", &host]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    drop(listener.accept().unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_proxy_connects_with_a_socket_of_its_machine_whatever_the_contexts_say() {
    let person = Person::new();
    person.ok(&["context", "add", "web", "--host", "ssh://web", "--use"]);
    assert!(person.fails(&["proxy"]).contains("unix:///run/conti/contid.sock"));
    assert!(person.fails(&["proxy", "--host", "tcp://web"]).contains("unix:///PATH"));
}

/// A program in place of ssh, which gets what ssh would.
fn program(script: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ssh");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

fn over(script: &str, host: &str) -> (Option<i32>, String) {
    let (_dir, ssh) = program(script);
    let person = Person::new();
    let output =
        person.contictl(&["--host", host, "whoami"]).env("CONTI_SSH", ssh).output().unwrap();
    (output.status.code(), stderr(&output))
}

#[test]
fn what_ssh_failed_with_is_said() {
    for (script, wanted) in [
        ("echo no route >&2; exit 255", "ssh could not connect"),
        ("exit 127", "contictl was not found on the other side"),
        ("cat >/dev/null & exit 125", "`contictl proxy` failed on the other side"),
        ("kill -9 $$", "`contictl proxy` failed on the other side"),
    ] {
        let (code, said) = over(script, "ssh://me@web");
        assert_eq!(code, Some(125), "{script}");
        assert!(said.contains(wanted) && said.contains("ssh://me@web"), "{script}: {said}");
    }
    assert!(over("echo no route >&2; exit 255", "ssh://web").1.starts_with("no route\n"));
    let person = Person::new();
    let mut command = person.contictl(&["--host", "ssh://web", "whoami"]);
    let said = stderr(&command.env("CONTI_SSH", "/nowhere/ssh").output().unwrap());
    assert!(
        said.contains("cannot start \"/nowhere/ssh\"") && said.contains("$CONTI_SSH"),
        "{said}"
    );
}

#[test]
fn ssh_is_told_the_host_and_a_command_that_its_shell_reads_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("told");
    let script = format!("printf '%s\\n' \"$@\" >{}; exit 255", arg(&told));
    over(&script, "ssh://me@web:2222/run/it's here.sock");
    let told = fs::read_to_string(told).unwrap();
    let words: Vec<&str> = told.lines().collect();
    let end = words.iter().position(|word| *word == "--").unwrap();
    let command = "contictl proxy --host \"unix:///run/it's here.sock\"";
    assert_eq!(words[end..], ["--", "web", command]);
    for pair in [["-o", "BatchMode=yes"], ["-p", "2222"], ["-l", "me"]] {
        assert!(words[..end].windows(2).any(|two| two == pair), "{words:?}");
    }
    assert!(words[..end].contains(&"-T"));
}

#[test]
fn a_session_through_a_proxy_outlives_it() {
    let agent = Agent::start();
    let host = agent.cut_after(vec![40, 100_000, 1_234_567]);
    let (_dir, ssh) =
        program(&format!("exec {} proxy --host {host}", env!("CARGO_BIN_EXE_contictl")));
    let person = Person::new();
    let mut command = person.contictl(&["--host", "ssh://web", "exec", "-i", "c", "cat"]);
    let mut child = command.env("CONTI_SSH", ssh).stdin(Stdio::piped()).spawn().unwrap();
    let input: Vec<u8> = (0..5_000_000).map(pattern).collect();
    let mut stdin = child.stdin.take().unwrap();
    let copy = input.clone();
    let writer = thread::spawn(move || stdin.write_all(&copy));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == input, "{} bytes: {}", output.stdout.len(), stderr(&output));
    assert!(stderr(&output).contains("resumed at byte"), "{}", stderr(&output));
}
