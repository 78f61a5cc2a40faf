//! Sessions with a terminal: size, raw mode, detach keys, and what is left of it all afterwards.

use conti_tests::{
    Agent,
    api::{session, sleeper},
    facts::{Facts, PROBE, probe_volume},
    host,
    terminal::{Terminal, Window},
    wait,
    wire::{self, Wire},
};
use rustix::process::{Pid, Signal, kill_process};

fn with_container() -> Agent {
    let agent = Agent::start();
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "c", "-v", &volume, "--", "sleep", "100000"]);
    agent
}

#[test]
fn a_terminal_starts_with_the_size_of_the_users() {
    let agent = with_container();
    for args in [vec!["exec", "-it", "c"], vec!["run", "--rm", "-it"]] {
        let mut args = args;
        args.extend(["--", "stty", "size"]);
        let mut terminal = Terminal::spawn(agent.ctl(args), 123, 45);
        terminal.expect("45 123");
        assert_eq!(terminal.wait(), 0);
    }
    agent.finish();
}

#[test]
fn a_resize_reaches_the_command() {
    let agent = with_container();
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut terminal =
        Terminal::spawn(agent.ctl(["exec", "-it", "c", "--", "sh", "-c", script]), 80, 24);
    terminal.expect("ready");
    terminal.resize(101, 33);
    terminal.expect("33 101");
    terminal.resize(40, 10);
    terminal.expect("10 40");
    terminal.send("\x03");
    assert_eq!(terminal.wait(), 130, "ctrl-c is the remote terminal's");
    agent.finish();
}

#[test]
fn a_shell_is_used_as_at_the_keyboard() {
    let agent = Agent::start();
    let mut terminal = Terminal::spawn(agent.ctl(["run", "--rm", "-it", "--", "sh"]), 80, 24);
    terminal.send("echo $((6*7)); tty\r");
    terminal.expect("42");
    terminal.expect("/dev/pts/");
    // ctrl-c ends the command and not the shell.
    // The command itself says that it runs: before that, ctrl-c would be the shell's.
    terminal.send("sh -c \"echo st''arts; exec sleep 1000\"\r");
    terminal.expect("starts");
    terminal.send("\x03");
    terminal.send("echo a''live\r");
    terminal.expect("alive");
    // ctrl-d on an empty line ends the shell.
    terminal.send("sh -c 'exit 5'\r\x04");
    assert_eq!(terminal.wait(), 5);
    agent.finish();
}

#[test]
fn raw_mode_is_taken_and_given_back_on_every_way_out() {
    let agent = with_container();
    let raw = |script: &str| {
        let call = agent.ctl(["exec", "-it", "c", "--", "sh", "-c", script]);
        let mut terminal = Terminal::spawn(call, 80, 24);
        terminal.expect("ready");
        wait::until_true("the terminal is raw", || terminal.is_raw());
        terminal
    };
    let restored = |mut terminal: Terminal| {
        let code = terminal.wait();
        assert!(!terminal.is_raw(), "raw mode was left behind after exit {code}");
        code
    };
    let mut terminal = raw("echo ready; read x; exit 3");
    terminal.send("\r");
    assert_eq!(restored(terminal), 3, "a normal end");
    let mut terminal = raw("echo ready; sleep 1000");
    terminal.send("\x10\x11");
    restored(terminal);
    for signal in [Signal::TERM, Signal::HUP] {
        let mut terminal = raw("echo ready; sleep 1000");
        terminal.client().signal(signal);
        restored(terminal);
    }
    // A command that is not there.
    let mut terminal = Terminal::spawn(agent.ctl(["exec", "-it", "c", "--", "no-such"]), 80, 24);
    assert_eq!(terminal.wait(), 127);
    assert!(!terminal.is_raw());
    agent.finish();
}

#[test]
fn detach_keys_leave_the_command_running_and_attach_finds_it_again() {
    let agent = Agent::start();
    let script = "echo ready; while read line; do echo \"<$line>\"; done";
    let mut terminal =
        Terminal::spawn(agent.ctl(["run", "-it", "--name", "c", "--", "sh", "-c", script]), 80, 24);
    terminal.expect("ready");
    terminal.send("one\r");
    terminal.expect("<one>");
    // The first key alone goes through with what follows it.
    terminal.send("\x10two\r");
    terminal.expect("two>");
    terminal.send("\x10\x11");
    terminal.wait();
    agent.api(async |mut api| {
        let state = conti_tests::api::state(&api.get("c").await.expect("it is there"));
        assert_eq!(state, conti_proto::v1::ContainerState::Running);
    });

    let attach = agent.ctl(["attach", "--detach-keys", "ctrl-a,x", "c"]);
    let mut terminal = Terminal::spawn(attach, 80, 24);
    wait::until_true("the terminal is raw", || terminal.is_raw());
    terminal.send("three\r");
    terminal.expect("<three>");
    terminal.send("\x01x");
    terminal.wait();
    agent.api(async |mut api| {
        let state = conti_tests::api::state(&api.get("c").await.expect("it is there"));
        assert_eq!(state, conti_proto::v1::ContainerState::Running);
    });
    agent.finish();
}

#[test]
fn the_command_has_a_controlling_terminal_of_its_own() {
    let agent = with_container();
    let script = format!("{PROBE}; tty; echo the-end");
    let call = agent.ctl(["exec", "-it", "c", "--", "sh", "-c", &script]);
    let mut terminal = Terminal::spawn(call, 90, 30);
    let shown = terminal.expect("the-end");
    terminal.wait();
    assert!(shown.contains("/dev/pts/"), "tty(1) names it: {shown}");
    let json = shown.trim_start_matches(|c| c != '{');
    let end = json.rfind('}').expect("facts");
    let facts = Facts::parse(&json.as_bytes()[..=end]);
    for name in ["stdin", "stdout", "stderr", "controlling"] {
        assert_eq!(facts.0["tty"][name], true, "{name}");
    }
    assert_eq!(facts.0["tty"]["size"], serde_json::json!([90, 30]));
    assert_eq!(facts.0["fds"].as_object().expect("fds").len(), 3, "{}", facts.0["fds"]);
    agent.finish();
}

#[test]
fn a_container_with_a_terminal_has_a_console() {
    let agent = Agent::start();
    let call = agent.ctl(["run", "--rm", "-t", "--", "sh", "-c", "echo to-console > /dev/console"]);
    let mut terminal = Terminal::spawn(call, 80, 24);
    terminal.expect("to-console");
    assert_eq!(terminal.wait(), 0);
    agent.finish();
}

#[test]
fn a_terminal_over_the_raw_api_echoes_resizes_and_ends_on_eof() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut spec = session("c", conti_tests::api::process(["cat"]));
        let process = spec.process.as_mut().expect("a process");
        process.terminal = Some(conti_proto::v1::Terminal::default());
        let mut wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        assert!(wire.session().terminal);
        wire.write("hi\n").await;
        let shown = wire.read_until("hi\r\nhi\r\n").await;
        assert_eq!(shown, "hi\r\nhi\r\n", "the echo and what cat wrote");
        wire.resize(100, 50).await;
        wire.close_input().await;
        let end = loop {
            match wire.next().await.expect("the stream goes on") {
                Some(conti_proto::v1::stream_response::Message::End(end)) => break end,
                Some(_) => {}
                None => panic!("the stream closed without an end"),
            }
        };
        assert_eq!(conti_tests::api::exit_code(&end), 0);
        assert_eq!(end.stderr_bytes, 0);
    });
    agent.finish();
}

#[test]
fn without_a_size_a_terminal_has_80_columns_and_24_rows() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut spec = session("c", conti_tests::api::process(["stty", "size"]));
        let process = spec.process.as_mut().expect("a process");
        process.terminal = Some(conti_proto::v1::Terminal::default());
        let wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        assert_eq!(wire.collect().await.stdout, b"24 80\r\n");
    });
    agent.finish();
}

#[test]
fn a_session_without_terminal_cannot_be_resized() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let made = api.run(sleeper("c")).await.expect("runs");
        let request = conti_proto::v1::ResizeSessionRequest {
            session_id: made.session_id,
            size: Some(conti_proto::v1::TerminalSize { columns: 10, rows: 10 }),
        };
        let error = api.sessions.resize_session(request).await.expect_err("it has none");
        assert_eq!(error.code(), tonic::Code::FailedPrecondition);
        assert_eq!(conti_tests::api::reason(&error), "SESSION_WRONG_STATE");
    });
    agent.finish();
}

/// Root of a container opens every terminal that it has a node of.
#[test]
fn the_terminal_of_a_command_with_more_rights_is_none_of_its_containers() {
    let agent = with_container();
    let script = "tty; stty size; echo ready; read line; echo \"<$line>\"";
    let terminals = || agent.ok(["exec", "c", "--", "ls", "/dev/pts"]);
    for (call, name, shown) in [
        (&["exec", "-it"][..], "/dev/pts/0", "0\nptmx"),
        (&["exec", "-it", "--cap-add", "SYS_ADMIN"], "not a tty", "ptmx"),
        (&["exec", "-it", "--privileged"], "not a tty", "ptmx"),
        (&["debug"], "/dev/pts/0", "0\nptmx"),
        (&["debug", "--privileged"], "/dev/pts/0", "ptmx"),
    ] {
        let call = [call, &["c", "--", "sh", "-c", script]].concat();
        let mut terminal = Terminal::spawn(agent.ctl(call.clone()), 80, 24);
        terminal.expect(name);
        terminal.expect("24 80");
        terminal.expect("ready");
        assert_eq!(terminals(), shown, "{call:?}");
        terminal.send("typed\r");
        terminal.expect("<typed>");
        assert_eq!(terminal.wait(), 0, "{call:?}");
    }
    agent.finish();
}

#[test]
fn terminals_are_the_containers_own_after_a_restart_of_the_agent() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "plain", "--", "sleep", "100000"]);
    agent.ok(["create", "--name", "created", "--", "sleep", "100000"]);
    agent.terminate();
    agent.restart();
    agent.ok(["start", "created"]);
    for name in ["plain", "created"] {
        let call =
            ["exec", "-it", name, "--", "sh", "-c", "tty && test -O $(tty) && echo i''ts own"];
        let mut terminal = Terminal::spawn(agent.ctl(call), 80, 24);
        terminal.expect("/dev/pts/");
        terminal.expect("its own");
        assert_eq!(terminal.wait(), 0, "{name}");
    }
    agent.finish();
}

#[test]
fn a_terminal_that_is_closed_ends_no_command_that_its_client_was_attached_to() {
    let agent = Agent::start();
    let script = "while read line; do echo \"<$line>\"; done; echo over";
    agent.ok(["run", "-d", "-it", "--name", "tty", "--", "sh", "-c", script]);
    agent.ok(["run", "-d", "-i", "--name", "pipe", "--", "sh", "-c", script]);
    for round in 0..20 {
        for name in ["tty", "pipe"] {
            // One that is not the controlling terminal tells of its end by nothing but a read of it.
            let mut window = Window::open(agent.ctl(["attach", name]), round % 2 == 0);
            window.send(&format!("{round}\n"));
            window.expect(&format!("<{round}>"));
            assert_eq!(window.close(), 128 + Signal::HUP.as_raw(), "{name}, {round}");
        }
    }
    for name in ["tty", "pipe"] {
        let mut terminal = Terminal::spawn(agent.ctl(["attach", name]), 80, 24);
        terminal.send("at last\n");
        terminal.expect("<at last>");
    }
    agent.finish();
}

#[test]
fn a_terminal_that_is_closed_ends_what_reads_it_on() {
    let agent = with_container();
    let script = "trap '' HUP; echo ready; cat > /dev/null";
    for controlling in [true, false] {
        for verb in [vec!["run", "--rm", "-i"], vec!["exec", "-i", "c"]] {
            let call = verb.into_iter().chain(["--", "sh", "-c", script]);
            let mut window = Window::open(agent.ctl(call), controlling);
            window.expect("ready");
            window.close();
        }
    }
    wait::until_true("all of it has ended", || {
        agent.ok(["sessions"]).matches("running").count() == 1
            && agent.ok(["ps", "-aq"]).lines().count() == 1
    });
    agent.finish();
}

#[test]
fn whoever_detaches_from_what_has_ended_is_told_its_end() {
    let agent = with_container();
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let mut terminal =
        Terminal::spawn(agent.ctl(["exec", "-it", "c", "--", "sh", "-c", script]), 80, 24);
    terminal.expect("ready");
    let pid = agent.api(async |mut api| {
        let request = conti_proto::v1::ListSessionsRequest::default();
        let all = api.sessions.list_sessions(request).await.expect("it may").into_inner();
        all.sessions.into_iter().find(|one| one.terminal).expect("the session").pid
    });
    let process = host::pinned(pid).expect("it runs");
    agent.signal(Signal::STOP);
    terminal.send("\x10\x11");
    kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::TERM).expect("it is there");
    process.wait_gone();
    agent.signal(Signal::CONT);
    assert_eq!(terminal.wait(), 42);
    agent.finish();
}

#[test]
fn ctrl_d_of_a_terminal_that_is_not_raw_ends_the_input() {
    let agent = with_container();
    let mut terminal = Terminal::spawn(agent.ctl(["exec", "-i", "c", "--", "wc", "-c"]), 80, 24);
    terminal.send("abc\n\x04");
    terminal.expect("4");
    assert_eq!(terminal.wait(), 0);
    agent.finish();
}

#[test]
fn detach_keys_while_the_agent_is_away_detach_once_it_answers() {
    let mut agent = Agent::start();
    let script = "echo ready; until [ -e /go ]; do sleep 0.05; done; exit 5";
    let run = ["run", "-it", "--name", "c", "--disconnect", "keep=10s", "--", "sh", "-c", script];
    let mut terminal = Terminal::spawn(agent.ctl(run), 80, 24);
    terminal.expect("ready");
    agent.kill();
    terminal.expect("trying to resume");
    terminal.send("\x10\x11");
    terminal.expect("detaching once the agent answers");
    agent.restart();
    terminal.expect("detached;");
    assert_eq!(terminal.wait(), 0);
    // A policy that has begun has time to end it.
    std::thread::sleep(std::time::Duration::from_secs(11));
    agent.ok(["exec", "c", "--", "touch", "/go"]);
    agent.ctl(["wait", "c"]).run().exits(5);
    agent.finish();
}

#[test]
fn who_could_not_detach_is_told_so() {
    let mut agent = with_container();
    let exec = ["exec", "-it", "c", "--", "sh", "-c", "echo ready; exec sleep 1000"];
    let begin = |agent: &Agent| {
        let mut terminal = Terminal::spawn(agent.ctl(exec), 80, 24);
        terminal.expect("ready");
        terminal
    };
    let keys = "\x10\x11";

    let mut terminal = begin(&agent);
    agent.signal(Signal::STOP);
    terminal.send(keys);
    terminal.expect("the agent does not answer");
    terminal.send(keys);
    terminal.expect("not detached");
    assert_eq!(terminal.wait(), 125, "an agent that is stopped");
    agent.signal(Signal::CONT);

    let mut terminal = begin(&agent);
    agent.kill();
    terminal.expect("trying to resume");
    terminal.send(keys);
    terminal.expect("detaching once the agent answers");
    terminal.send(keys);
    terminal.expect("not detached");
    assert_eq!(terminal.wait(), 125, "an agent that is away");
    agent.restart();
    agent.finish();
}

/// Opens terminals until there are no more of them, or far more than a container should get, and gives them all back.
const TAKE_ALL: &str = r#"
import os, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
taken = []
try:
    while len(taken) < 1200:
        taken.append(os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY))
    print(len(taken))
except OSError as error:
    print(len(taken), error.strerror)
"#;

#[test]
fn a_container_does_not_take_all_terminals_of_the_host() {
    let agent = Agent::start();
    let script = ["--", "python3", "-c", TAKE_ALL];
    for call in [&["run", "--rm", "-u", "1000"][..], &["run", "--rm", "--privileged"]] {
        let taken = agent.ok([call, &script].concat());
        assert_eq!(taken, "1024 No space left on device", "{call:?}");
    }
    agent.finish();
}

#[test]
fn what_was_mounted_on_ptmx_in_a_container_is_no_terminal_of_an_exec() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--cap-add", "SYS_ADMIN", "--", "sleep", "100000"]);
    let mount = |script: &str| {
        agent.ok(["exec", "--cap-add", "SYS_ADMIN", "c", "--", "sh", "-c", script]);
    };
    for make in ["touch /tmp/f", "mkfifo /tmp/f", "ln -sf /dev/null /tmp/f"] {
        mount(&format!("rm -f /tmp/f && {make} && mount --bind /tmp/f /dev/pts/ptmx"));
        let mut terminal = Terminal::spawn(agent.ctl(["exec", "-it", "c", "--", "true"]), 80, 24);
        terminal.expect("something is mounted on it in the container");
        assert_eq!(terminal.wait(), 125, "{make}");
        mount("umount /dev/pts/ptmx");
    }
    let mut terminal = Terminal::spawn(agent.ctl(["exec", "-it", "c", "--", "tty"]), 80, 24);
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.wait(), 0);
    agent.finish();
}
