//! Very many connections: none keeps others out, and what they hold is given back.

use std::{
    ffi::OsString,
    net::SocketAddr,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use conti_tests::{
    frames::{PREFACE, Raw},
    remote::Remote,
    siege::{Siege, hold_on},
    wait,
    world::World,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::sleep,
};

/// How many connections an attacker holds at a time.
const MANY: usize = 5000;
/// What they may make the agent grow by, in KiB.
const FLAT: u64 = 48 * 1024;
/// How many connections one identity may have.
const EACH: usize = 128;

/// Lets this process have as many files open as it may.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the limit of open files can be raised");
    let enough = limit.maximum.is_none_or(|limit| limit >= MANY as u64 + 1000);
    assert!(enough, "this test needs a hard limit of {MANY} open files and some (ulimit -Hn)");
}

/// Connects from one of eight other addresses of this machine.
async fn elsewhere(remote: &Remote, n: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 2 + (n % 8) as u8], 0)))?;
    socket.connect(SocketAddr::from(([127, 0, 0, 1], remote.port))).await
}

/// Holds very many connections that have said only this, and makes new ones in the place of those that the agent
/// closes.
async fn hold(remote: Remote, goes_on: Arc<AtomicBool>, said: &[u8]) {
    let mut held = Vec::with_capacity(MANY);
    let mut made = 0;
    while goes_on.load(Ordering::Relaxed) || made < MANY {
        if held.len() >= MANY {
            // The oldest are those that the agent has let go.
            held.drain(..MANY / 10);
        }
        let mut stream = elsewhere(&remote, made).await.expect("the kernel takes it");
        // It may be closed already.
        let _ = stream.write_all(said).await;
        held.push(stream);
        made += 1;
        if made % 50 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn heavy_thousands_of_connections_that_say_nothing_keep_nobody_out() {
    raise_open_files();
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, goes_on| hold(mallory, goes_on, b"").await);
    siege.finish();
}

#[test]
fn heavy_thousands_of_connections_with_half_a_client_hello_keep_nobody_out() {
    raise_open_files();
    let siege = Siege::start();
    // A record of a handshake of 512 bytes, of which some are there.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 100]].concat();
    siege.under(FLAT, async |mallory, goes_on| hold(mallory, goes_on, &hello).await);
    siege.finish();
}

#[test]
fn heavy_a_handshake_that_drips_is_given_up() {
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, _| {
        let mut stream = elsewhere(&mallory, 0).await.expect("the kernel takes it");
        let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 400]].concat();
        let mut answer = [0; 64];
        for byte in hello {
            let gone = stream.write_all(&[byte]).await.is_err();
            let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer));
            if gone || matches!(read.await, Ok(Ok(0) | Err(_))) {
                return;
            }
        }
        panic!("it was listened to for minutes");
    });
    siege.finish();
}

/// Opens as many connections as an identity may have, each with these bytes, and waits until the agent has closed all of
/// them.
async fn wait_to_be_let_go(mallory: &Remote, said: &[u8]) {
    let mut held = Vec::new();
    for _ in 0..EACH {
        let mut stream = mallory.shake().await.expect("it may connect");
        stream.write_all(said).await.expect("it may begin");
        stream.flush().await.expect("it may begin");
        held.push(stream);
    }
    for mut stream in held {
        let mut all = Vec::new();
        let end = tokio::time::timeout(wait::PATIENCE, stream.read_to_end(&mut all)).await;
        end.expect("it is closed in time").ok();
    }
}

#[test]
fn heavy_clients_that_never_begin_or_never_end_their_preface_are_let_go() {
    let siege = Siege::start();
    for said in [&b""[..], &PREFACE[..10], &PREFACE[..24]] {
        siege.named(&format!("{} bytes", said.len())).under(FLAT, async |mallory, _| {
            wait_to_be_let_go(&mallory, said).await;
        });
    }
    siege.finish();
}

#[test]
fn heavy_thousands_of_clients_that_never_begin_keep_nobody_out() {
    raise_open_files();
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, goes_on| {
        // Who they are is known. Half a preface each, while the agent lets go of those beyond its limit.
        let (mut held, mut let_in) = (Vec::with_capacity(MANY), 0);
        while held.len() < MANY || goes_on.load(Ordering::Relaxed) {
            if held.len() >= MANY {
                held.drain(..MANY / 10);
            }
            let mut stream = mallory.shake().await.expect("TLS alone");
            let_in += usize::from(stream.write_all(&PREFACE[..10]).await.is_ok());
            held.push(stream);
        }
        assert!(let_in >= EACH, "{let_in}");
    });
    siege.finish();
}

#[test]
fn an_identity_has_so_many_connections_and_the_next_one_of_another_is_let_in() {
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, goes_on| {
        let mut held = Vec::new();
        for _ in 0..EACH {
            let mut raw = Raw::connect(&mallory, &[]).await;
            raw.settle().await;
            held.push(raw);
        }
        let mut raw = Raw::begin(mallory.shake().await.expect("TLS alone"), &[]).await;
        raw.until("it is one too many", |answers| answers.closed).await;
        assert!(held.iter().all(|raw| !raw.answers().over()), "the others stay");
        hold_on(&goes_on).await;
    });
    siege.finish();
}

/// A world whose agent may have few files open.
fn few_files() -> World {
    let limited = ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"];
    World::start_behind(|_| limited.map(OsString::from).to_vec(), "")
}

#[test]
fn heavy_an_agent_with_few_files_is_not_kept_busy_by_those_that_are_not_known() {
    raise_open_files();
    let siege = Siege::of(few_files());
    siege.under(FLAT, async |mallory, goes_on| hold(mallory, goes_on, b"").await);
    siege.finish();
}

#[test]
fn an_agent_that_has_run_out_of_files_recovers_when_they_are_given_back() {
    let siege = Siege::of(few_files());
    let path = siege.world.agent.path("contid.sock");
    // Root's own connections are not counted.
    let held: Vec<_> = (0..400).map_while(|_| StdUnixStream::connect(&path).ok()).collect();
    // It says so itself; how many it has open at a moment is another matter.
    wait::until_true("the agent is out of files", || {
        let log = siege.world.agent.log();
        let mut told = log.lines().filter(|line| line.contains("cannot accept connections"));
        told.any(|line| line.contains("os error 24"))
    });
    drop(held);
    siege.world.agent.block_on(siege.command());
    siege.finish();
}

#[test]
fn a_container_has_the_limit_of_open_files_that_the_agent_was_started_with() {
    let limited = ["sh", "-c", "ulimit -S -n 300; exec \"$@\"", "sh"];
    let agent = conti_tests::Agent::start_behind(|_| limited.map(OsString::from).to_vec());
    let raised = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid()));
    let raised = raised.expect("the agent's limits can be read");
    let line = raised.lines().find(|line| line.starts_with("Max open files"));
    let fields: Vec<&str> = line.expect("a line").split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "the agent's own is as high as it may be");
    assert_eq!(agent.ok(["run", "--rm", "--", "sh", "-c", "ulimit -S -n"]), "300");
    agent.finish();
}
