//! Metrics: what they count is what was done, and only this machine is answered.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
};

use conti_proto::v1::ProcessSpec;
use conti_tests::{
    Agent,
    api::{container, exit_code, process, session, shell, sleeper},
    host, wait,
    wire::{self, Wire},
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

/// An agent that serves metrics at the address that `url` gives for its directory.
fn measured(url: impl FnOnce(&Path) -> String) -> Agent {
    Agent::start_behind(|dir| {
        let script = format!("exec \"$@\" --metrics-listen {}", url(dir));
        ["sh", "-c", &script, "sh"].map(Into::into).into()
    })
}

/// An agent that serves metrics at a socket, and the socket.
fn on_socket() -> (Agent, PathBuf) {
    let agent = measured(|dir| format!("unix://{}/metrics.sock", dir.display()));
    let socket = agent.path("metrics.sock");
    (agent, socket)
}

/// An agent that serves metrics at a port that was free, and its address.
fn on_port() -> (Agent, String) {
    let agent = measured(|_| "tcp://127.0.0.1:0".into());
    let log = agent.log();
    let lines =
        log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let mut told = lines.filter(|line| line["message"] == "metrics are served");
    let told = told.next().expect("the address is logged");
    let address = told["address"].as_str().expect("an address").trim_start_matches("tcp://");
    let address = address.to_owned();
    (agent, address)
}

/// Sends a request as it is, and reads what comes until the agent closes.
fn ask(mut connection: impl Read + Write, request: &str) -> String {
    // The agent may answer and close before it has read all of it.
    let _ = connection.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8(answer).expect("an answer is text")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n")
}

/// What a socket answers to a scrape.
fn scrape(socket: &Path) -> Shown {
    let connection = UnixStream::connect(socket).expect("metrics are served");
    let answer = ask(connection, &get("/metrics"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "all of it came");
    Shown(body.to_owned())
}

/// The text of a scrape.
struct Shown(String);

impl Shown {
    /// The number of a metric with its labels as they are written; 0, where there is none.
    fn of(&self, name: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap_or_else(|e| panic!("{name} is {value}: {e}")))
    }

    fn calls(&self, method: &str, code: &str) -> u64 {
        self.of(&format!("conti_calls_total{{method=\"conti.v1.{method}\",code=\"{code}\"}}"))
    }

    fn ended(&self, reason: &str) -> u64 {
        self.of(&format!("conti_sessions_ended_total{{reason=\"{reason}\"}}"))
    }

    fn containers(&self, state: &str) -> u64 {
        self.of(&format!("conti_containers{{state=\"{state}\"}}"))
    }
}

const STREAM: &str = "conti_calls_in_flight{method=\"conti.v1.SessionService/Stream\"}";

#[test]
fn what_was_done_is_counted_exactly() {
    let (agent, socket) = on_socket();
    agent.api(async |mut api| {
        let none = scrape(&socket);
        assert_eq!((none.containers("running"), none.of("conti_sessions_running")), (0, 0));
        assert_eq!(
            none.of(&format!("conti_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))),
            1
        );

        api.run(sleeper("c")).await.expect("runs");
        api.create(container("paused", process(["true"]))).await.expect("is created");
        let script = "head -c 3 >/dev/null; printf 12345; printf 678 >&2; exit 4";
        let command = ProcessSpec { stdin: true, ..shell(script) };
        let start = wire::start(session("c", command));
        let mut wire = Wire::open(&mut api, start).await.expect("starts");
        assert_eq!(scrape(&socket).of(STREAM), 1);
        assert_eq!(scrape(&socket).of("conti_sessions_running"), 2);
        wire.write(*b"abc").await;
        assert_eq!(exit_code(&wire.collect().await.end), 4);

        let failed = api.run(container("bad", process(["nonesuch"]))).await.unwrap_err();
        assert_eq!(failed.code(), Code::FailedPrecondition);
        for _ in 0..3 {
            assert_eq!(api.get("absent").await.unwrap_err().code(), Code::NotFound);
        }

        let shown = scrape(&socket);
        assert_eq!(shown.calls("ContainerService/CreateContainer", "OK"), 2);
        assert_eq!(shown.calls("ContainerService/CreateContainer", "FAILED_PRECONDITION"), 1);
        assert_eq!(shown.calls("ContainerService/GetContainer", "NOT_FOUND"), 3);
        assert_eq!(shown.calls("SessionService/Stream", "OK"), 1);
        assert_eq!(shown.of(STREAM), 0);
        let count = |name: &str, method: &str| {
            shown
                .of(&format!("conti_{name}_duration_seconds_count{{method=\"conti.v1.{method}\"}}"))
        };
        assert_eq!(count("call", "ContainerService/CreateContainer"), 3);
        assert_eq!(count("stream", "SessionService/Stream"), 1);
        assert_eq!(count("call", "SessionService/Stream"), 0);
        assert_eq!(shown.of("conti_sessions_started_total"), 2);
        assert_eq!(shown.of("conti_sessions_running"), 1);
        assert_eq!((shown.ended("exit"), shown.ended("start_failed")), (1, 1));
        assert_eq!(shown.of("conti_setup_failures_total{step=\"exec\"}"), 1);
        assert_eq!(shown.of("conti_session_bytes_total{direction=\"in\"}"), 3);
        assert_eq!(shown.of("conti_session_bytes_total{direction=\"out\"}"), 8);
        assert_eq!((shown.containers("running"), shown.containers("created")), (1, 1));

        api.delete("c").await.expect("is deleted");
        let shown = scrape(&socket);
        assert_eq!((shown.containers("running"), shown.ended("killed")), (0, 1));
        assert_eq!(shown.of("conti_sessions_running"), 0);
        wait::until_true("slots are ready", || scrape(&socket).of("conti_spare_slots") > 0);
    });
    agent.finish();
}

#[test]
fn a_client_that_goes_in_the_middle_is_counted_as_cancelled_and_not_as_in_flight() {
    let (agent, socket) = on_socket();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let spec = session("c", process(["sleep", "1000"]));
        let wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        assert_eq!(scrape(&socket).of(STREAM), 1);
        drop(wire);
        wait::until_true("the stream is not in flight", || scrape(&socket).of(STREAM) == 0);
        assert_eq!(scrape(&socket).calls("SessionService/Stream", "CANCELLED"), 1);
    });
    agent.finish();
}

#[test]
fn a_lost_monitor_a_restarted_launcher_and_dropped_output_are_counted() {
    let (agent, socket) = on_socket();
    let kill = |pid: u32| {
        kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL).expect("killed");
    };
    agent.api(async |mut api| {
        let started = api.run(sleeper("c")).await.expect("runs");
        let status = fs::read_to_string(format!("/proc/{}/status", started.pid)).expect("a status");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
        kill(parent.trim().parse().expect("a number"));
        wait::until_true("the monitor is told as lost", || {
            scrape(&socket).of("conti_monitors_lost_total") == 1
        });
        assert_eq!(scrape(&socket).ended("lost"), 1);

        let launcher = host::descendants(agent.pid())
            .into_iter()
            .find(|process| host::command_line(process.pid).contains("launcher"))
            .expect("a launcher");
        kill(launcher.pid);
        launcher.wait_gone();
        for n in 0..5 {
            api.run(sleeper(&format!("c{n}"))).await.expect("runs");
        }
        assert_eq!(scrape(&socket).of("conti_launcher_restarts_total"), 1);

        // Nobody reads it, and it is more than any journal holds.
        let much = shell("head -c 20000000 /dev/zero");
        api.run(container("much", much)).await.expect("runs");
        let end = wait::until("it has ended", || {
            let found = tokio::task::block_in_place(|| agent.ctl(["inspect", "much"]).run().json());
            let text = found.to_string();
            text.contains("dropped").then_some(text)
        });
        let dropped = wait::until("what was dropped is counted", || {
            Some(scrape(&socket).of("conti_journal_dropped_bytes_total")).filter(|n| *n > 0)
        });
        assert!(end.contains(&dropped.to_string()), "{dropped} in {end}");
    });
    agent.finish();
}

#[test]
fn the_socket_is_for_root_goes_with_the_agent_and_a_stale_one_is_replaced() {
    let (mut agent, socket) = on_socket();
    let mode = fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    agent.kill();
    assert!(socket.exists(), "a crash leaves it");
    agent.restart();
    scrape(&socket);
    agent.terminate();
    assert!(!socket.exists());
    agent.restart();
    agent.finish();
}

#[test]
fn over_tcp_only_what_is_served_is_answered_and_only_to_get() {
    let (agent, address) = on_port();
    let ask = |request: &str| ask(TcpStream::connect(&address).expect("a port"), request);
    let health = ask(&get("/healthz"));
    assert!(health.starts_with("HTTP/1.1 200 OK") && health.ends_with("\r\n\r\nok\n"), "{health}");
    assert!(ask(&get("/metrics")).contains("\nprocess_open_fds "));
    assert!(ask(&get("/metrics?name[]=x")).contains("\n# EOF"));
    for path in ["/", "/metrics/", "//metrics", "/metrics/../metrics", "/METRICS", "/%6detrics"] {
        let answer = ask(&get(path));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"] {
        let request =
            format!("{method} /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        let answer = ask(&request);
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(!answer.contains("conti_"), "{method}: {answer}");
    }
    // What is no HTTP, or the API's own.
    for request in ["\r\n\r\n\0\0\0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /metrics\r\n\r\n"] {
        let answer = ask(request);
        assert!(!answer.contains("conti_"), "{request:?}: {answer}");
    }
    agent.finish();
}

#[test]
fn hostile_clients_of_metrics_disturb_neither_calls_nor_the_next_scrape() {
    let (agent, address) = on_port();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let connect = || TcpStream::connect(&address).expect("a port");
    for header in [format!("X: {}", "a".repeat(1 << 20)), "X: a\r\n".repeat(1000)] {
        let answer =
            ask(connect(), &format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n"));
        assert!(!answer.contains("conti_"), "{answer}");
    }
    let memory = host::anonymous_kib(agent.pid());
    let files = host::open_files(agent.pid());
    // More than are served at one time, and none of them ever says all that it wants.
    let mut slow: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    for connection in &mut slow {
        connection.write_all(b"GET /metrics HT").expect("sent");
    }
    for n in 0..20 {
        assert_eq!(agent.ok(["exec", "c", "--", "echo", &n.to_string()]), n.to_string());
    }
    let held = host::open_files(agent.pid()).saturating_sub(files);
    assert!(held <= 40, "the agent holds {held} more files");
    let grown = host::anonymous_kib(agent.pid()).saturating_sub(memory);
    assert!(grown < 16 * 1024, "the agent grew by {grown} KiB");
    drop(slow);
    assert!(ask(connect(), &get("/metrics")).ends_with("# EOF\n"));
    // As many as are served at one time, all silent: each is let go, and the next one has its turn.
    let mut silent: Vec<TcpStream> = (0..16).map(|_| connect()).collect();
    assert!(ask(connect(), &get("/metrics")).ends_with("# EOF\n"));
    for connection in &mut silent {
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
    }
    agent.finish();
}

#[test]
fn an_address_that_others_could_reach_is_refused_with_what_can_be_given() {
    let agent = Agent::start();
    for url in
        ["tcp://0.0.0.0:9100", "tcp://[::]:9100", "tcp://192.0.2.1:9100", "tcp://localhost:9100"]
    {
        let output = agent.command("second.sock").args(["--metrics-listen", url]).output();
        let output = output.expect("contid can be started");
        assert_eq!(output.status.code(), Some(2), "{url}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(url) && said.contains("tcp://127.0.0.1:PORT"), "{said}");
    }
    agent.finish();
}
