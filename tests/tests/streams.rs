//! What goes through a session's stdin, stdout and stderr: all of it, in order, at any size and any
//! speed, in little memory.

use std::{
    io::{Read as _, Write as _},
    process::Stdio,
    thread,
    time::Duration,
};

use conti_proto::v1::OutputStream;
use conti_tests::{
    Agent,
    api::{container, exit_code, process, session, shell, sleeper},
    ctl::Running,
    host,
    pattern::Pattern,
    wait,
    wire::{self, Wire},
};

const MIB: usize = 1 << 20;

/// An agent with a running container `c`.
fn with_container() -> Agent {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    agent
}

/// Sends `total` bytes through `cat` in a container and checks every byte that comes back.
fn through_cat(agent: &Agent, total: usize) {
    let mut client = agent.ctl(["exec", "-i", "c", "--", "cat"]).spawn();
    let mut stdin = client.stdin();
    let writer = thread::spawn(move || {
        let mut pattern = Pattern::new(1);
        let mut left = total;
        while left > 0 {
            let n = left.min(256 * 1024);
            stdin.write_all(&pattern.take(n)).expect("stdin takes all");
            left -= n;
        }
    });
    let mut stdout = client.stdout();
    let mut pattern = Pattern::new(1);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = stdout.read(&mut buffer).expect("stdout can be read");
        if n == 0 {
            break;
        }
        pattern.check(&buffer[..n]);
    }
    writer.join().expect("the writer ends");
    assert_eq!(pattern.offset(), total as u64, "all of it came back");
    assert_eq!(client.wait(), 0);
}

#[test]
fn sixty_four_mib_go_both_ways_at_once_unharmed() {
    let agent = with_container();
    through_cat(&agent, 64 * MIB);
    agent.finish();
}

#[test]
fn heavy_one_gib_goes_both_ways_at_once_unharmed_in_bounded_memory() {
    let agent = with_container();
    let before = Memory::of(&agent);
    let sampler = Sampler::start(&agent);
    through_cat(&agent, 1024 * MIB);
    sampler.finish().assert_bounded_since(&before);
    agent.finish();
}

#[test]
fn redirections_copy_a_file_unharmed() {
    let agent = with_container();
    let (from, to) = (agent.scratch("file"), agent.scratch("copy"));
    let mut pattern = Pattern::new(2);
    std::fs::write(&from, pattern.take(20 * MIB + 12_345)).expect("a file");
    let mut command = agent.ctl(["exec", "-i", "c", "--", "cat"]).into_command();
    command.stdin(std::fs::File::open(&from).expect("the file"));
    command.stdout(std::fs::File::create(&to).expect("a copy")).stderr(Stdio::inherit());
    let status = command.status().expect("contictl can be started");
    assert!(status.success());
    Pattern::new(2).check(&std::fs::read(&to).expect("the copy"));
    assert_eq!(std::fs::metadata(&to).expect("the copy").len(), (20 * MIB + 12_345) as u64);
    agent.finish();
}

/// The memory of the agent and all of its processes that is theirs alone, in KiB.
#[derive(Default, Clone, Copy)]
struct Memory {
    agent: u64,
    others: u64,
}

impl Memory {
    fn of(agent: &Agent) -> Memory {
        let others = host::descendants(agent.pid());
        Memory {
            agent: host::anonymous_kib(agent.pid()),
            others: others.iter().map(|p| host::anonymous_kib(p.pid)).sum(),
        }
    }

    /// A stream of many MiB may cost a few: windows, rings and buffers, never the stream itself.
    fn assert_bounded_since(&self, before: &Memory) {
        let limit = 48 * 1024;
        assert!(
            self.agent < before.agent + limit,
            "the agent grew by {} KiB",
            self.agent - before.agent
        );
        assert!(
            self.others < before.others + limit,
            "monitors grew by {} KiB",
            self.others - before.others
        );
    }
}

/// Takes the highest memory while something runs.
struct Sampler {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: thread::JoinHandle<Memory>,
}

impl Sampler {
    fn start(agent: &Agent) -> Sampler {
        use std::sync::atomic::Ordering::Relaxed;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let pid = agent.pid();
        let thread = thread::spawn(move || {
            let mut most = Memory::default();
            while !stopped.load(Relaxed) {
                most.agent = most.agent.max(host::anonymous_kib(pid));
                let others = host::descendants(pid);
                most.others =
                    most.others.max(others.iter().map(|p| host::anonymous_kib(p.pid)).sum());
                thread::sleep(Duration::from_millis(50));
            }
            most
        });
        Sampler { stop, thread }
    }

    fn finish(self) -> Memory {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().expect("the sampler ends")
    }
}

#[test]
fn a_slow_reader_makes_the_producer_wait_and_costs_no_memory() {
    let agent = with_container();
    let before = Memory::of(&agent);
    let sampler = Sampler::start(&agent);
    let total = 256 * MIB;
    let mut client =
        agent.ctl(["exec", "c", "--", "head", "-c", &total.to_string(), "/dev/zero"]).spawn();
    let mut stdout = client.stdout();
    let mut first = vec![0; MIB];
    stdout.read_exact(&mut first).expect("the first MiB");
    // Nobody reads: the producer must come to rest long before its end.
    let produced = || {
        agent.api(async |mut api| {
            let sessions =
                api.sessions.list_sessions(conti_proto::v1::ListSessionsRequest::default());
            let sessions = sessions.await.expect("listed").into_inner().sessions;
            let session = sessions.iter().find(|s| s.argv[0] == "head").expect("the session");
            session.output_offset
        })
    };
    let mut last = 0;
    wait::until_true("the producer rests", || {
        thread::sleep(Duration::from_millis(500));
        std::mem::replace(&mut last, produced()) == last && last > 0
    });
    assert!(last < (total / 2) as u64, "the producer went on to {last} with nobody reading");
    let memory = host::anonymous_kib(client.pid());
    assert!(memory < 48 * 1024, "the client holds {memory} KiB");
    let rest = std::io::copy(&mut stdout, &mut std::io::sink()).expect("the rest");
    assert_eq!(rest as usize + MIB, total);
    assert_eq!(client.wait(), 0);
    sampler.finish().assert_bounded_since(&before);
    agent.finish();
}

#[test]
fn a_command_that_does_not_read_makes_the_writer_wait_and_costs_no_memory() {
    let agent = with_container();
    let before = Memory::of(&agent);
    let sampler = Sampler::start(&agent);
    let script = "sleep 2; wc -c";
    let mut client = agent.ctl(["exec", "-i", "c", "--", "sh", "-c", script]).spawn();
    let mut stdin = client.stdin();
    let total = 128 * MIB;
    let chunk = vec![7; MIB];
    for _ in 0..total / MIB {
        stdin.write_all(&chunk).expect("stdin takes all in the end");
    }
    drop(stdin);
    let mut count = String::new();
    client.stdout().read_to_string(&mut count).expect("text");
    assert_eq!(count.trim(), total.to_string());
    assert_eq!(client.wait(), 0);
    sampler.finish().assert_bounded_since(&before);
    agent.finish();
}

#[test]
fn end_of_file_on_stdin_closes_the_commands_stdin_and_nothing_else() {
    let agent = with_container();
    let script = "wc -c; sleep 0.5; echo after; exit 5";
    let out =
        agent.ctl(["exec", "-i", "c", "--", "sh", "-c", script]).stdin("12345").run().exits(5);
    assert_eq!(out.text().split_whitespace().collect::<Vec<_>>(), ["5", "after"]);
    agent.finish();
}

#[test]
fn without_i_the_command_reads_end_of_file_at_once() {
    let agent = with_container();
    let out = agent.ctl(["exec", "c", "--", "wc", "-c"]).stdin("not for you").run().success();
    assert_eq!(out.text().trim(), "0");
    let out = agent.ctl(["run", "--rm", "--", "wc", "-c"]).stdin("not for you").run().success();
    assert_eq!(out.text().trim(), "0");
    agent.finish();
}

#[test]
fn the_client_does_not_wait_for_its_own_stdin_after_the_end() {
    let agent = with_container();
    let mut client = agent.ctl(["exec", "-i", "c", "--", "true"]).spawn();
    // Held open, and nothing is written.
    let stdin = client.stdin();
    assert_eq!(client.wait(), 0);
    drop(stdin);
    let mut client = agent.ctl(["run", "--rm", "-i", "--", "sh", "-c", "exit 4"]).spawn();
    let stdin = client.stdin();
    assert_eq!(client.wait(), 4);
    drop(stdin);
    agent.finish();
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let agent = with_container();
    let script = "echo out; echo err >&2; printf 'out\\000\\377'; printf 'err\\000\\376' >&2";
    for args in [vec!["exec", "c"], vec!["run", "--rm"]] {
        let mut args = args;
        args.extend(["--", "sh", "-c", script]);
        let out = agent.ctl(args).run().success();
        assert_eq!(out.stdout, b"out\nout\0\xff");
        assert_eq!(out.stderr, b"err\nerr\0\xfe");
    }
    agent.finish();
}

#[test]
fn the_order_of_stdout_and_stderr_is_kept() {
    let agent = with_container();
    agent.api(async |mut api| {
        let script = "for i in 0 1 2 3; do echo o$i; sleep 0.1; echo e$i >&2; sleep 0.1; done";
        let wire = Wire::open(&mut api, wire::start(session("c", shell(script)))).await;
        let all = wire.expect("starts").collect().await;
        let order: Vec<(OutputStream, String)> = all
            .pieces
            .iter()
            .map(|p| (p.stream(), String::from_utf8_lossy(&p.data).trim().to_owned()))
            .collect();
        let expected: Vec<_> = (0..4)
            .flat_map(|i| {
                [(OutputStream::Stdout, format!("o{i}")), (OutputStream::Stderr, format!("e{i}"))]
            })
            .collect();
        assert_eq!(order, expected);
        assert_eq!((all.end.stdout_bytes, all.end.stderr_bytes), (12, 12));
    });
    agent.finish();
}

#[test]
fn a_grandchild_that_holds_stdout_does_not_hold_the_end() {
    let agent = with_container();
    for args in [vec!["exec", "c"], vec!["run", "--rm", "--init"]] {
        let mut args = args;
        args.extend(["--", "sh", "-c", "sleep 1000 & echo hi"]);
        assert_eq!(agent.ctl(args).run().success().text(), "hi");
    }
    agent.api(async |mut api| {
        let open = wire::start(session("c", shell("sleep 1000 & echo hi")));
        let all = Wire::open(&mut api, open).await.expect("starts").collect().await;
        assert_eq!(all.stdout, b"hi\n");
        assert!(all.end.drain_timed_out, "the end says that stdout was still held");
        let open = wire::start(session("c", shell("echo hi")));
        let all = Wire::open(&mut api, open).await.expect("starts").collect().await;
        assert!(!all.end.drain_timed_out);
    });
    agent.finish();
}

#[test]
fn output_right_before_the_end_is_never_lost() {
    let agent = with_container();
    for size in [1, 4095, 65_536, 65_537, 1 << 20, 3 * MIB + 1] {
        let size = size.to_string();
        let out = agent.ctl(["exec", "c", "--", "head", "-c", &size, "/dev/zero"]).run().success();
        assert_eq!(out.stdout.len().to_string(), size);
    }
    agent.finish();
}

#[test]
fn a_closed_stdout_ends_the_client_quietly() {
    let agent = with_container();
    let mut client = agent.ctl(["exec", "c", "--", "cat", "/dev/zero"]).spawn();
    let mut stdout = client.stdout();
    stdout.read_exact(&mut [0; 100]).expect("it writes");
    drop(stdout);
    let errors = client.stderr_text();
    client.wait();
    assert!(!errors.contains("panic") && errors.lines().count() <= 1, "{errors}");
    // The command does not go on for nobody.
    wait::until_true("the command has ended", || {
        agent.api(async |mut api| {
            let request = conti_proto::v1::ListSessionsRequest {
                states: vec![conti_proto::v1::SessionState::Running as i32],
                ..Default::default()
            };
            let sessions = api.sessions.list_sessions(request).await.expect("listed").into_inner();
            sessions.sessions.iter().all(|s| s.argv[0] != "cat")
        })
    });
    agent.finish();
}

#[test]
fn signals_to_the_client_reach_the_command() {
    let agent = with_container();
    use rustix::process::Signal;
    for (signal, name, code) in
        [(Signal::INT, "INT", 42), (Signal::TERM, "TERM", 43), (Signal::HUP, "HUP", 44)]
    {
        let script = format!("trap 'exit {code}' {name}; echo ready; while :; do sleep 0.05; done");
        let mut client: Running = agent.ctl(["exec", "c", "--", "sh", "-c", &script]).spawn();
        let mut stdout = client.stdout();
        stdout.read_exact(&mut [0; 6]).expect("it is ready");
        client.signal(signal);
        assert_eq!(client.wait(), code, "SIG{name}");
    }
    agent.finish();
}

#[test]
fn input_is_acknowledged_up_to_what_was_written() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut spec = session("c", process(["cat"]));
        spec.process.as_mut().expect("a process").stdin = true;
        let mut wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        for piece in ["one ", "two ", "three"] {
            wire.write(piece).await;
        }
        wire.close_input().await;
        let all = wire.collect().await;
        assert_eq!(all.stdout, b"one two three");
        assert_eq!(all.input_ack.expect("an acknowledgement").offset, 13);
        assert_eq!(exit_code(&all.end), 0);
    });
    agent.finish();
}

#[test]
fn a_run_without_reader_of_its_own_streams_its_main_process() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = container("", process(["cat"]));
        spec.process.as_mut().expect("a process").stdin = true;
        spec.auto_remove = true;
        let mut wire = Wire::open(&mut api, wire::run(spec)).await.expect("runs");
        assert!(wire.session().main);
        assert!(!wire.opened.container_name.is_empty());
        wire.write("to and fro").await;
        wire.close_input().await;
        assert_eq!(wire.collect().await.stdout, b"to and fro");
    });
    agent.finish();
}
