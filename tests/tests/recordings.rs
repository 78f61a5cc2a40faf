//! Recordings of sessions: complete, whatever happens to the agent, and shown again as they were.

use std::{
    fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, thread, time::Duration,
};

use conti_proto::v1::{ListSessionsRequest, ReadRecordingRequest};
use conti_tests::{
    Agent, api,
    ctl::Outcome,
    terminal::Terminal,
    wait,
    wire::{self, Wire},
};

fn with_container() -> Agent {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    agent
}

/// The id of the one recorded session.
fn recorded(agent: &Agent) -> String {
    agent.ok(["sessions", "recordings", "-q"])
}

fn replay(agent: &Agent, session: &str) -> Outcome {
    agent.ctl(["sessions", "replay", "--no-wait", session]).run().success()
}

/// Waits until a session that nobody drives has ended: its end.
fn end_of(agent: &Agent, session: &str) -> conti_proto::v1::SessionEnd {
    agent.api(async |mut api| {
        let request = conti_proto::v1::WaitSessionRequest { session_id: session.to_owned() };
        let answer = api.sessions.wait_session(request).await.expect("waited").into_inner();
        answer.end.expect("an end")
    })
}

/// What a command of the host writes.
fn output_of(script: &str) -> Vec<u8> {
    Command::new("sh").args(["-c", script]).output().expect("sh runs").stdout
}

fn file(agent: &Agent, name: &str) -> PathBuf {
    agent.path("data/recordings").join(name)
}

#[test]
fn a_terminal_is_recorded_and_shown_again_byte_by_byte() {
    let agent = with_container();
    // A character in two pieces, and a size that changes.
    let script = "printf 'caf\\303'; sleep 0.3; printf '\\251\\n'; echo ready; read x; stty size; printf '\\033[1mbold\\033[0m'";
    let call = ["exec", "-it", "--record", "c", "--", "sh", "-c", script, "--token=hunter2"];
    let mut terminal = Terminal::spawn(agent.ctl(call), 90, 30);
    terminal.expect("ready");
    terminal.resize(101, 33);
    // Until the command knows of it.
    thread::sleep(Duration::from_millis(300));
    terminal.send("typed-secret\r");
    terminal.expect("33 101");
    assert_eq!(terminal.wait(), 0);

    let session = recorded(&agent);
    let written = agent.api(async |mut api| {
        let wire = Wire::open(&mut api, wire::attach(&session, Some(0))).await.expect("attaches");
        wire.collect().await.stdout
    });
    assert!(String::from_utf8_lossy(&written).contains("caf\u{e9}"));
    let shown = replay(&agent, &session);
    assert_eq!(shown.stdout, written);
    assert_eq!(shown.errors(), "");

    let path = file(&agent, &format!("{session}.cast"));
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let cast = fs::read_to_string(&path).expect("text");
    let lines: Vec<serde_json::Value> =
        cast.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (&lines[0]["version"], &lines[0]["width"], &lines[0]["height"]),
        (&2.into(), &90.into(), &30.into())
    );
    assert!(lines[1..].iter().any(|event| event[1] == "r" && event[2] == "101x33"));
    assert!(lines[1..].is_sorted_by_key(|event| event[0].as_f64().expect("a time").to_bits()));
    let last = lines.last().expect("a line");
    assert!(last[1] == "m" && last[2].as_str().expect("text").contains("\"Exit\":0"), "{last}");
    assert!(!cast.contains("hunter2"), "a secret of the command line");
    // What is typed is recorded only as far as the terminal echoes it.
    assert!(!lines[1..].iter().any(|event| event[1] == "i"));

    let kept = agent.scratch("kept.cast");
    agent.ok(["sessions", "replay", "--raw-file", &kept.to_string_lossy(), &session]);
    assert_eq!(fs::read_to_string(&kept).expect("kept"), cast);
    agent.finish();
}

#[test]
fn pipes_are_recorded_byte_by_byte_however_much_they_carry() {
    let agent = with_container();
    let script = "seq 1 8600000; echo err >&2";
    let run = agent.ctl(["exec", "--record", "c", "--", "sh", "-c", script]).run().success();
    let wanted = output_of("seq 1 8600000");
    assert!(wanted.len() > 64 << 20);
    assert!(run.stdout == wanted);
    let shown = replay(&agent, &recorded(&agent));
    assert!(shown.stdout == wanted, "{} bytes and not {}", shown.stdout.len(), wanted.len());
    assert_eq!(shown.errors(), "err\n");
    agent.finish();
}

#[test]
fn streams_that_change_with_every_line_keep_their_order() {
    let agent = with_container();
    // More changes than the journal has entries for.
    let script = "i=0; while [ $i -lt 6000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done";
    agent.ok(["exec", "-d", "--record", "c", "--", "sh", "-c", script]);
    let session = recorded(&agent);
    assert_eq!(api::exit_code(&end_of(&agent, &session)), 0);
    let shown = replay(&agent, &session);
    let lines = |mark: &str| (0..6000).map(|n| format!("{mark}{n}\n")).collect::<String>();
    assert!(shown.stdout == lines("o").into_bytes());
    assert!(shown.stderr == lines("e").into_bytes());
    agent.finish();
}

#[test]
fn what_nobody_drives_is_recorded_without_a_gap() {
    let agent = with_container();
    agent.ok(["exec", "-d", "--record", "c", "--", "sh", "-c", "seq 1 2000000; exit 3"]);
    let session = recorded(&agent);
    let end = end_of(&agent, &session);
    assert_eq!((api::exit_code(&end), end.dropped_bytes), (3, 0));
    let shown = replay(&agent, &session);
    assert!(shown.stdout == output_of("seq 1 2000000"));
    assert_eq!(shown.errors(), "");
    // It outlives its container.
    agent.ok(["rm", "-f", "c"]);
    assert!(replay(&agent, &session).stdout.len() > 10 << 20);
    agent.finish();
}

#[test]
fn a_recording_goes_on_where_it_was_when_the_agent_is_killed() {
    let mut agent = with_container();
    let script =
        "n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); seq 1 20000; sleep 0.02; done; echo $n >&2";
    agent.ok(["exec", "-d", "--record", "c", "--", "sh", "-c", script]);
    let session = recorded(&agent);
    let size = |agent: &Agent| {
        fs::metadata(file(agent, &format!("{session}.frames"))).map_or(0, |m| m.len())
    };
    for _ in 0..3 {
        let before = size(&agent);
        wait::until_true("it is recorded on", || size(&agent) > before);
        agent.kill();
        agent.restart();
    }
    agent.ok(["exec", "c", "--", "touch", "/tmp/stop"]);
    let end = end_of(&agent, &session);
    assert_eq!((api::exit_code(&end), end.dropped_bytes), (0, 0));
    let shown = replay(&agent, &session);
    let rounds: usize =
        shown.errors().trim().parse().expect("only the number of rounds, and no gap");
    let wanted = output_of("seq 1 20000").repeat(rounds);
    assert!(shown.stdout == wanted, "{} bytes and not {}", shown.stdout.len(), wanted.len());
    agent.finish();
}

#[test]
fn a_session_goes_on_where_its_recording_finds_no_room() {
    let script = "set -e; dir=$1; shift; mkdir -p $dir/data/recordings
                  mount -t tmpfs -o size=1m none $dir/data/recordings; exec \"$@\"";
    let agent = Agent::start_behind(|dir| {
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
        words.iter().map(Into::into).chain([dir.into()]).collect()
    });
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let run = agent.ctl(["exec", "--record", "c", "--", "seq", "1", "1000000"]).run().success();
    assert!(run.stdout == output_of("seq 1 1000000"), "the session is not touched by it");
    assert!(agent.log().contains("recording cannot be written"));
    // What is there is right, and what is not there is told.
    let session = recorded(&agent);
    let shown = replay(&agent, &session);
    assert!(shown.stdout.len() < 1 << 20);
    let kept = agent.scratch("kept.frames");
    agent.ok(["sessions", "replay", "--raw-file", &kept.to_string_lossy(), &session]);
    let mut at = 0;
    for (kind, offset, data) in frames(&fs::read(&kept).expect("kept")) {
        match kind {
            1 => {
                assert_eq!(offset, at);
                assert!(run.stdout[offset..].starts_with(&data));
                at += data.len();
            }
            4 => {
                assert_eq!(offset, at);
                at += u64::from_le_bytes(data.try_into().expect("a number")) as usize;
            }
            other => assert_eq!(other, 6),
        }
    }
    agent.finish();
}

/// The frames of a recording: kind, offset and data. The last may be cut.
fn frames(mut bytes: &[u8]) -> Vec<(u8, usize, Vec<u8>)> {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
    assert!(bytes.starts_with(b"contirec\x01\0\0\0"));
    bytes = &bytes[16 + number(&bytes[12..16])..];
    let mut frames = Vec::new();
    while bytes.len() >= 24 {
        let (length, offset) = (number(&bytes[4..8]), number(&bytes[16..24]));
        frames.push((bytes[0], offset, bytes[24..24 + length].to_vec()));
        bytes = &bytes[24 + length..];
    }
    frames
}

#[test]
fn what_is_not_recorded_says_so_and_has_no_recording() {
    let agent = with_container();
    agent.ok(["exec", "--record", "c", "--", "true"]);
    agent.ok(["exec", "c", "--", "true"]);
    agent.api(async |mut api| {
        let request = ListSessionsRequest { page_size: 100, ..Default::default() };
        let all = api.sessions.list_sessions(request).await.expect("listed").into_inner().sessions;
        let recorded: Vec<bool> = all.iter().map(|session| session.recorded).collect();
        assert_eq!(recorded, [false, true, false]);
        for id in [all[2].id.as_str(), "../../state/sessions/x", "0"] {
            let request = ReadRecordingRequest { session_id: id.to_owned() };
            let refused = api.sessions.read_recording(request).await.expect_err("refused");
            assert_eq!(api::reason(&refused), "RECORDING_NOT_FOUND", "{id}");
        }
    });
    agent.finish();
}
