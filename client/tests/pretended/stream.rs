//! Streams: what is typed arrives once, what is written arrives whole, wherever the connection is cut.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use crate::{
    agent::{Agent, pattern},
    stderr,
};

fn contictl(host: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contictl"));
    command.args(args).env("CONTI_HOST", host).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn exec(host: &str, argv: &[&str]) -> Output {
    contictl(host, &[&["exec", "c", "--"], argv].concat()).output().unwrap()
}

/// Gives it the input from a thread and takes its output meanwhile.
fn feed(mut command: Command, input: Vec<u8>) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

fn wait_for_session(agent: &Agent) {
    while agent.session_count() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    // The session is there a little before the client has read that it is.
    thread::sleep(Duration::from_millis(200));
}

#[test]
fn it_exits_with_the_code_of_the_command() {
    let agent = Agent::start();
    for code in [0, 1, 7, 255] {
        let output = exec(&agent.host(), &["exit", &code.to_string()]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn output_is_whole_to_a_pipe_and_to_a_file() {
    let agent = Agent::start();
    let size = 9_000_000;
    let wanted: Vec<u8> = (0..size).map(pattern).collect();
    let output = exec(&agent.host(), &["out", &size.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == wanted);
    let mut file = tempfile::tempfile().unwrap();
    let mut command = contictl(&agent.host(), &["exec", "c", "out", &size.to_string()]);
    let status = command.stdout(file.try_clone().unwrap()).status().unwrap();
    assert!(status.success());
    let mut written = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut written).unwrap();
    assert!(written == wanted);
}

#[test]
fn input_and_output_at_once_do_not_block_each_other() {
    let agent = Agent::start();
    let input: Vec<u8> = (0..12_000_000).map(pattern).collect();
    let output = feed(contictl(&agent.host(), &["exec", "-i", "c", "cat"]), input.clone());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == input);
}

#[test]
fn a_connection_that_is_cut_anywhere_loses_and_repeats_nothing() {
    let agent = Agent::start();
    let host = agent.cut_after(vec![40, 300, 100_000, 1_234_567, 777, 3_000_000, 2_000_001]);
    let input: Vec<u8> = (0..8_000_000).map(pattern).collect();
    let output = feed(contictl(&host, &["exec", "-i", "c", "cat"]), input.clone());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == input, "{} bytes: {}", output.stdout.len(), stderr(&output));
    assert!(stderr(&output).contains("resumed at byte"), "{}", stderr(&output));
    assert_eq!(agent.session_count(), 1, "a repeated start is the same session");
}

#[test]
fn a_connection_that_stays_away_is_given_up_after_the_timeout() {
    let agent = Agent::start();
    let host =
        agent.cut_after(vec![600_000, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    let args = ["exec", "--reconnect-timeout=300ms", "c", "out", "9000000"];
    let output = contictl(&host, &args).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("was not restored within 300ms"), "{}", stderr(&output));
    assert!(stderr(&output).contains("contictl attach --session"), "{}", stderr(&output));
}

#[test]
fn output_that_is_not_complete_is_a_failure() {
    let agent = Agent::start();
    let output = exec(&agent.host(), &["liar", "10"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(output.stdout, [b'x'; 10]);
    assert!(stderr(&output).contains("not complete"), "{}", stderr(&output));
}

#[test]
fn what_was_dropped_is_said() {
    let agent = Agent::start();
    let output = exec(&agent.host(), &["gap", "100"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(output.stdout, [0; 3]);
    assert!(stderr(&output).contains("100 bytes of output were dropped"), "{}", stderr(&output));
}

#[test]
fn a_signal_is_passed_on_without_a_terminal() {
    let agent = Agent::start();
    let child = contictl(&agent.host(), &["exec", "c", "wait"]).spawn().unwrap();
    wait_for_session(&agent);
    signal(&child, rustix::process::Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
    assert_eq!(agent.signals(), ["SIGTERM"]);
}

#[test]
fn it_does_not_wait_for_a_stdin_that_never_ends() {
    let agent = Agent::start();
    let mut command = contictl(&agent.host(), &["exec", "-i", "c", "exit", "3"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let _held_open = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_closed_stdout_ends_it_quietly() {
    let agent = Agent::start();
    let mut child = contictl(&agent.host(), &["exec", "c", "out", "9000000"]).spawn().unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 13));
    assert_eq!(stderr(&output), "");
}

/// Runs a shell line in a terminal of its own, types into it, and returns what it shows.
fn in_terminal(agent: &Agent, line: &str, typed: &'static [u8]) -> String {
    let line = line.replace("contictl exec", concat!(env!("CARGO_BIN_EXE_contictl"), " exec"));
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("CONTI_HOST", agent.host())
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    wait_for_session(agent);
    stdin.write_all(typed).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_terminal_is_raw_as_long_as_the_session_and_then_as_before() {
    let agent = Agent::start();
    let line = "contictl exec -it c tty; echo code=$?; stty -a";
    // ctrl-c is typed, not a signal; ctrl-d is not the end; the keys detach.
    let shown = in_terminal(&agent, line, b"\x03\x04abc\x10\x11");
    assert_eq!(agent.taken(), [b"\x03\x04abc"], "{shown:?}");
    assert!(shown.contains("detached; `contictl attach --session"), "{shown:?}");
    assert!(shown.contains("code=0"), "{shown:?}");
    assert!(shown.contains(" icanon") && shown.contains(" echo "), "{shown:?}");
    assert!(agent.signals().is_empty());
}

#[test]
fn a_signal_restores_the_terminal() {
    let agent = Agent::start();
    let line = "(sleep 1; pkill -TERM -P $$ contictl) & contictl exec -it c tty; \
                echo code=$?; stty -a";
    let shown = in_terminal(&agent, line, b"x");
    assert!(shown.contains("code=143"), "{shown:?}");
    assert!(shown.contains(" icanon") && shown.contains(" echo "), "{shown:?}");
}

#[test]
fn detach_keys_can_be_chosen() {
    let agent = Agent::start();
    let line = "contictl exec -it --detach-keys=ctrl-a,d c tty; echo code=$?";
    let shown = in_terminal(&agent, line, b"\x10\x11\x01\x01d");
    assert_eq!(agent.taken(), [b"\x10\x11\x01"], "{shown:?}");
    assert!(shown.contains("code=0"), "{shown:?}");
}

#[test]
fn an_agent_that_is_not_there_is_named() {
    let output = contictl("unix:///nowhere/contid.sock", &["ps"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let text = stderr(&output);
    assert!(text.starts_with("contictl: cannot connect to unix:///nowhere/contid.sock"), "{text}");
    assert_eq!(text.lines().count(), 1);
    let output = contictl("tcp://x:y", &["ps"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("$CONTI_HOST"), "{}", stderr(&output));
}
