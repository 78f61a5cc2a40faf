//! Launcher and monitor as the agent sees them: real processes over the real protocol. Needs root.

#![allow(clippy::disallowed_methods)]
#![allow(clippy::print_stderr)]

mod agent;

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use agent::{Agent, Session, eventually, is_root, plan, receive, shell, wait_readable};
use conti_runtime::{
    journal::{Mode, ReadResult, Saved, Sizes},
    plan::{Fd, Stdio, Step},
    protocol::{End, FromMonitor, KillCause, LauncherReply, MonitorState, ToMonitor, WaitStatus},
    sys::socket::{Wait, recv_packet, send_packet},
};

use rustix::process::{Pid, Signal, kill_process};

const NO_STDIN: Stdio = Stdio::Pipes { stdin: false };
const TERMINAL: Stdio = Stdio::Terminal { devpts: Fd(2), columns: 80, rows: 24 };

/// A test of this file: it gets a fresh launcher, and none of its processes stays.
fn with_agent(test: impl FnOnce(&Agent)) {
    if !is_root() {
        return;
    }
    let agent = Agent::start();
    test(&agent);
    assert!(agent.launcher.wait().unwrap().success());
}

/// Bytes that tell where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n ^ (n >> 8) ^ (n >> 16) ^ (n >> 20)) as u8).collect()
}

fn recorded(directory: &Path) -> End {
    serde_json::from_slice(&fs::read(directory.join("end.json")).unwrap()).unwrap()
}

#[test]
fn a_command_runs_with_its_streams_apart_and_its_end_recorded() {
    with_agent(|agent| {
        let session = agent.run(&shell("echo out; echo err >&2; exit 7"));
        let (out, err, end) = session.stream(b"");
        assert_eq!((&out[..], &err[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!((end.wait, end.cause), (WaitStatus::Exited(7), None));
        assert_eq!((end.stdout_bytes, end.stderr_bytes, end.dropped_bytes), (4, 4, 0));
        assert!(!end.drain_timed_out && end.time_ms > 0);
        let directory = session.release();
        assert_eq!(recorded(directory.path()), end);
        let saved =
            Saved::load(&mut File::open(directory.path().join("journal")).unwrap()).unwrap();
        let first = ReadResult::Data { offset: 0, stderr: false, bytes: b"out\n".to_vec() };
        assert_eq!((saved.read(0, 100), saved.head()), (first, 8));
    });
}

#[test]
fn without_output_no_journal_is_left() {
    with_agent(|agent| {
        let session = agent.run(&plan(&["true"], NO_STDIN));
        let (_, _, end) = session.stream(b"");
        assert_eq!(end.wait, WaitStatus::Exited(0));
        let directory = session.release();
        let names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name == "end.json" || name == "socket"), "{names:?}");
    });
}

#[test]
fn cat_returns_64_mib_byte_by_byte() {
    with_agent(|agent| {
        let session = agent.run(&plan(&["cat"], Stdio::Pipes { stdin: true }));
        let input = pattern(64 << 20);
        let (out, _, end) = session.stream(&input);
        assert!(out == input, "{} bytes came back", out.len());
        assert_eq!((end.wait, end.stdout_bytes), (WaitStatus::Exited(0), 64 << 20));
        session.release();
    });
}

#[test]
fn ends_are_told_as_they_were() {
    with_agent(|agent| {
        for code in [0, 1, 127, 255] {
            let session = agent.run(&shell(&format!("exit {code}")));
            assert_eq!(session.stream(b"").2.wait, WaitStatus::Exited(code));
            session.release();
        }
        let session = agent.run(&shell("kill -SEGV $$"));
        let end = session.stream(b"").2;
        assert!(matches!(end.wait, WaitStatus::Signaled { signal: 11, .. }), "{end:?}");
        session.release();
    });
}

#[test]
fn a_kill_is_attributed_only_where_it_ended_the_process() {
    with_agent(|agent| {
        let session = agent.run(&plan(&["sleep", "1000"], NO_STDIN));
        session.expect_start();
        session.signal(15, Some(KillCause::Client));
        let end = session.stream(b"").2;
        assert_eq!(end.wait, WaitStatus::Signaled { signal: 15, core: false });
        assert_eq!(end.cause, Some(KillCause::Client));
        session.release();

        let session =
            agent.run(&shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"));
        session.expect_start();
        eventually("the trap is set", || session.reader.head() > 0);
        session.signal(15, Some(KillCause::Client));
        let end = session.stream(b"").2;
        assert_eq!((end.wait, end.cause), (WaitStatus::Exited(3), None));
        session.release();
    });
}

#[test]
fn a_deadline_kills_and_says_so() {
    with_agent(|agent| {
        let mut sleep = plan(&["sleep", "1000"], NO_STDIN);
        sleep.deadline_ms = Some(50);
        let session = agent.run(&sleep);
        let end = session.stream(b"").2;
        assert_eq!(end.cause, Some(KillCause::Deadline));
        session.release();
    });
}

#[test]
fn a_paused_session_waits_for_its_start() {
    with_agent(|agent| {
        let mut paused = shell("echo ran");
        paused.paused = true;
        let session = agent.run(&paused);
        assert!(matches!(receive(&session.control).0, FromMonitor::Created(_)));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(session.reader.head(), 0);
        session.tell(&ToMonitor::Start);
        let (out, _, end) = session.stream(b"");
        assert_eq!((&out[..], end.wait), (&b"ran\n"[..], WaitStatus::Exited(0)));
        session.release();

        // An init that is killed before its command is a set-up that failed, unless a client has ended it.
        for cause in [None, Some(KillCause::ContainerGone), Some(KillCause::Client)] {
            let session = agent.run(&paused);
            assert!(matches!(receive(&session.control).0, FromMonitor::Created(_)));
            session.signal(9, cause);
            match cause {
                Some(KillCause::Client) => assert_eq!(session.stream(b"").2.cause, cause),
                _ => assert_eq!(session.expect_failure().step, Step::Init),
            }
            session.release();
        }
    });
}

#[test]
fn a_command_that_is_not_there_fails_at_exec() {
    with_agent(|agent| {
        let session = agent.run(&plan(&["/no/such/command"], NO_STDIN));
        let failure = session.expect_failure();
        assert_eq!((failure.step, failure.errno), (Step::Exec, 2));
        assert!(failure.argument.contains("/no/such/command"), "{failure:?}");
        let (session, state) = session.reconnect();
        assert!(matches!(state, MonitorState::Failed(f) if f == failure));
        session.release();
    });
}

/// How much output a journal holds.
fn ring() -> u64 {
    Sizes::default().output
}

#[test]
fn a_reader_that_does_not_acknowledge_makes_the_producer_wait() {
    with_agent(|agent| {
        let session = agent.run(&shell("head -c 5000000 /dev/zero"));
        eventually("the journal is full", || session.reader.head() == ring());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((session.reader.head(), session.reader.tail()), (ring(), 0));
        let (out, _, end) = session.stream(b"");
        assert_eq!((out.len(), end.dropped_bytes), (5_000_000, 0));
        session.release();
    });
}

#[test]
fn a_detached_session_drops_the_oldest_and_counts_it() {
    with_agent(|agent| {
        let session = agent.run(&shell("read x; head -c 5000000 /dev/zero; printf end"));
        session.expect_start();
        session.reader.set_mode(Mode::Drop);
        session.reader.push_input(b"go\n");
        session.wake_monitor();
        let FromMonitor::Ended(end) = receive(&session.control).0 else { panic!("no end") };
        let (head, tail) = (5_000_003, 5_000_003 - ring());
        assert_eq!((end.stdout_bytes, end.dropped_bytes), (head, tail));
        assert_eq!(session.reader.read(0, 9), ReadResult::Gap { offset: 0, length: tail });
        let last = ReadResult::Data { offset: head - 3, stderr: false, bytes: b"end".to_vec() };
        assert_eq!(session.reader.read(head - 3, 9), last);
        let directory = session.release();
        let saved =
            Saved::load(&mut File::open(directory.path().join("journal")).unwrap()).unwrap();
        assert_eq!((saved.read(head - 3, 9), saved.totals().dropped), (last, tail));
    });
}

#[test]
fn output_held_by_a_grandchild_is_drained_for_a_bounded_time() {
    with_agent(|agent| {
        let mut held = shell("sleep 1000 & echo $!");
        held.drain_ms = 100;
        let session = agent.run(&held);
        let begun = Instant::now();
        let (out, _, end) = session.stream(b"");
        assert!(end.drain_timed_out && end.wait == WaitStatus::Exited(0), "{end:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        let pid: i32 = String::from_utf8(out).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        session.release();
    });
}

#[test]
fn a_grandchild_that_never_stops_writing_does_not_keep_the_session() {
    with_agent(|agent| {
        let mut held = shell("yes & echo $! >&2");
        held.drain_ms = 100;
        let session = agent.run(&held);
        let (_, err, end) = session.stream(b"");
        assert!(end.drain_timed_out, "{end:?}");
        // With its stdout closed the grandchild ends of itself.
        let pid: i32 = String::from_utf8(err).unwrap().trim().parse().unwrap();
        eventually("the grandchild is gone", || !Path::new(&format!("/proc/{pid}")).exists());
        session.release();
    });
}

#[test]
fn an_agent_that_comes_back_finds_the_session_and_its_streams() {
    with_agent(|agent| {
        let session = agent.run(&shell("read a; echo $a; read b; echo $b; exit 5"));
        session.expect_start();
        session.reader.push_input(b"one\n");
        session.wake_monitor();
        eventually("the first answer is there", || session.reader.head() == 4);
        let (session, state) = session.reconnect();
        assert!(matches!(state, MonitorState::Running(id) if id.pid > 0));
        assert_eq!((session.reader.input_head(), session.reader.input_taken()), (4, 4));
        let (out, _, end) = session.stream(b"two\n");
        assert_eq!((&out[..], end.wait), (&b"one\ntwo\n"[..], WaitStatus::Exited(5)));
        session.release();
    });
}

#[test]
fn an_end_without_an_agent_or_a_launcher_is_kept_until_one_comes() {
    if !is_root() {
        return;
    }
    let agent = Agent::start();
    let mut session = agent.run(&shell("read a; echo $a; exit 6"));
    session.expect_start();
    let (_, unconnected) = conti_runtime::sys::socket::pair().unwrap();
    session.control = unconnected;
    assert!(agent.launcher.wait().unwrap().success());
    session.reader.push_input(b"alone\n");
    session.wake_monitor();
    eventually("the end is recorded", || session.directory.path().join("end.json").exists());
    let (session, state) = session.reconnect();
    let MonitorState::Ended(end) = state else { panic!("{state:?}") };
    assert_eq!((end.wait, end.stdout_bytes), (WaitStatus::Exited(6), 6));
    assert_eq!(end, recorded(session.directory.path()));
    // A new connection takes the place of the one before.
    let before = session.control.try_clone().unwrap();
    let (session, _) = session.reconnect();
    assert_eq!(recv_packet(&before, &mut [0; 8], Wait::Yes).unwrap().len, 0);
    session.release();
}

#[test]
fn a_terminal_has_its_size_echoes_and_takes_an_end_of_file() {
    with_agent(|agent| {
        let session = agent.run(&plan(&["sh", "-c", "stty size; cat; stty size"], TERMINAL));
        session.expect_start();
        eventually("the size is printed", || session.reader.head() >= 7);
        session.tell(&ToMonitor::Resize { columns: 100, rows: 50 });
        let (out, _, end) = session.stream(b"hello\n");
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "24 80\r\nhello\r\nhello\r\n50 100\r\n");
        assert_eq!((end.wait, end.drain_timed_out), (WaitStatus::Exited(0), false));
        session.release();
    });
}

#[test]
fn a_reader_that_is_gone_breaks_the_input() {
    with_agent(|agent| {
        let session = agent.run(&shell("exec <&-; echo closed; exec sleep 1000"));
        eventually("stdin is closed", || session.reader.head() > 0);
        session.reader.push_input(b"lost");
        session.wake_monitor();
        eventually("the input is broken", || session.reader.input_broken());
        session.expect_start();
        session.signal(9, None);
        session.stream(b"");
        session.release();
    });
}

#[test]
fn a_forker_is_attached_to_the_cgroup_and_clones_from_there() {
    with_agent(|agent| {
        let Some(cgroup) = Cgroup::make() else { return };
        let procs = || {
            let path = cgroup.0.join("cgroup.procs");
            OwnedFd::from(File::options().write(true).open(path).unwrap())
        };
        let (control, pid, forker) = agent.monitor(&[procs()]);
        let listed = fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
        assert_eq!(listed.trim(), forker.to_string());
        let session = Session::order(control, pid, &shell("cat /proc/self/cgroup; exit 9"));
        let (out, _, end) = session.stream(b"");
        let name = cgroup.0.file_name().unwrap().to_str().unwrap();
        assert!(String::from_utf8(out).unwrap().contains(name));
        assert_eq!(end.wait, WaitStatus::Exited(9));
        eventually("the forker is gone", || !Path::new(&format!("/proc/{forker}")).exists());
        session.release();

        // What fails beyond the forker arrives as well.
        let (control, pid, _) = agent.monitor(&[procs()]);
        let session = Session::order(control, pid, &plan(&["/no/such"], NO_STDIN));
        assert_eq!(session.expect_failure().step, Step::Exec);
        session.release();

        // Without a plan both go when the agent does.
        let (control, pid, forker) = agent.monitor(&[procs()]);
        drop(control);
        for pid in [pid, forker] {
            eventually("it is gone", || !Path::new(&format!("/proc/{pid}")).exists());
        }
    });
}

#[test]
fn a_forker_that_is_stopped_holds_up_neither_deadline_nor_agent() {
    with_agent(|agent| {
        let Some(cgroup) = Cgroup::make() else { return };
        let procs = || {
            let path = cgroup.0.join("cgroup.procs");
            OwnedFd::from(File::options().write(true).open(path).unwrap())
        };
        let stopped = || {
            let (control, pid, forker) = agent.monitor(&[procs()]);
            kill_process(Pid::from_raw(forker).unwrap(), Signal::STOP).unwrap();
            (control, pid, forker)
        };
        // The deadline counts from the order, although nothing was born by then.
        let (control, pid, forker) = stopped();
        let mut late = shell("echo ran");
        late.deadline_ms = Some(50);
        let session = Session::order(control, pid, &late);
        let (out, _, end) = session.stream(b"");
        assert_eq!((&out[..], end.cause), (&b""[..], Some(KillCause::Deadline)));
        session.release();
        eventually("the forker is gone", || !Path::new(&format!("/proc/{forker}")).exists());

        // A client's kill is heard as well.
        let (control, pid, _) = stopped();
        let session = Session::order(control, pid, &shell("echo ran"));
        session.signal(9, Some(KillCause::Client));
        let (out, _, end) = session.stream(b"");
        assert_eq!((&out[..], end.cause), (&b""[..], Some(KillCause::Client)));
        session.release();
        // What the agent gives up has failed.
        let (control, pid, _) = stopped();
        let session = Session::order(control, pid, &shell("echo ran"));
        session.signal(9, Some(KillCause::ContainerGone));
        assert_eq!(session.expect_failure().step, Step::Clone);
        assert_eq!(session.reader.head(), 0);
        session.release();
    });
}

#[test]
fn what_a_command_has_started_ends_with_it_where_that_is_meant() {
    with_agent(|agent| {
        let alive = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let terminal = plan(&["/bin/sh", "-c", "set -m; sleep 1000 & echo $!; wait"], TERMINAL);
        for plan in [shell("sleep 1000 & echo $!; wait"), terminal] {
            let session = agent.run(&plan);
            session.expect_start();
            let mut text = String::new();
            eventually("it has said a pid", || session.reader.head() > 0);
            if let ReadResult::Data { bytes, .. } = session.reader.read(0, 100) {
                text.push_str(std::str::from_utf8(&bytes).unwrap().trim());
            }
            assert!(alive(&text), "{text}");
            session.signal(9, Some(KillCause::Disconnect));
            assert_eq!(session.stream(b"").2.cause, Some(KillCause::Disconnect));
            eventually("what it has started is gone", || !alive(&text));
            session.release();
        }
    });
}

/// A version 1 cgroup of the test's own.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn make() -> Option<Cgroup> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("conti-runtime-test-{}-{number}", std::process::id());
        let path = Path::new("/sys/fs/cgroup/pids").join(name);
        if fs::create_dir(&path).is_err() {
            eprintln!("SKIPPED: there is no version 1 pids hierarchy");
            return None;
        }
        Some(Cgroup(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        eventually("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn malformed_packets_end_the_connection_and_nothing_else() {
    with_agent(|agent| {
        // To the launcher: refused, and it goes on.
        send_packet(agent.launcher.socket().unwrap(), b"garbage", &[], Wait::Yes).unwrap();
        let mut buffer = [0; 256];
        let packet = recv_packet(agent.launcher.socket().unwrap(), &mut buffer, Wait::Yes).unwrap();
        let reply: LauncherReply = serde_json::from_slice(&buffer[..packet.len]).unwrap();
        assert!(matches!(reply, LauncherReply::Failed { errno: libc::EINVAL }));

        // To a monitor without a plan: it exits.
        for packet in [&b"garbage"[..], &[0; 4000], br#"{"Run":{"plan_fds":4294967295}}"#] {
            let (control, pid, _) = agent.monitor(&[]);
            send_packet(&control, packet, &[], Wait::Yes).unwrap();
            eventually("it is gone", || !Path::new(&format!("/proc/{pid}")).exists());
        }

        // To one with a session: it waits for another agent.
        let session = agent.run(&shell("read a; exit 4"));
        session.expect_start();
        send_packet(&session.control, &[b'['; 900], &[], Wait::Yes).unwrap();
        wait_readable(&session.control);
        let (session, state) = session.reconnect();
        assert!(matches!(state, MonitorState::Running(_)));
        assert_eq!(session.stream(b"\n").2.wait, WaitStatus::Exited(4));
        session.release();
    });
}

#[test]
fn a_plan_that_could_still_change_is_refused() {
    with_agent(|agent| {
        let (control, pid, _) = agent.monitor(&[]);
        let file = tempfile::tempfile().unwrap();
        let null = File::open("/dev/null").unwrap();
        let journal = conti_runtime::journal::create(Default::default()).unwrap();
        let wakeup = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let opened = File::open(directory.path()).unwrap();
        let listener =
            conti_runtime::sys::socket::listen(&opened, std::ffi::OsStr::new("s")).unwrap();
        let fds = [
            file.as_fd(),
            journal.as_fd(),
            wakeup.as_fd(),
            wakeup.as_fd(),
            listener.as_fd(),
            null.as_fd(),
        ];
        let run = serde_json::to_vec(&ToMonitor::Run { plan_fds: 0 }).unwrap();
        send_packet(&control, &run, &fds, Wait::Yes).unwrap();
        let FromMonitor::Failed(failure) = receive(&control).0 else { panic!("not refused") };
        assert_eq!((failure.step, failure.errno), (Step::Plan, libc::EPERM));
        let release = serde_json::to_vec(&ToMonitor::Release).unwrap();
        send_packet(&control, &release, &[], Wait::Yes).unwrap();
        eventually("it is gone", || !Path::new(&format!("/proc/{pid}")).exists());
    });
}
