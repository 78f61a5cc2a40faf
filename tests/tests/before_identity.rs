//! What is said before anybody is known: handshakes of TLS, and HTTP/2 of guests, who need no certificate. The parsers
//! are libraries; what is around them is not.

use std::{ffi::OsString, path::Path, process::Command, time::Duration};

use conti_fuzz::mutated;
use conti_tests::{
    Agent,
    agent::binary,
    frames::{PREFACE, data, flag, frame, kind, open, reset, settings},
    guest::guest,
    remote::Remote,
};
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

/// How many mutations are tried of each kind.
const RUNS: u64 = 400;
/// What one of them may cost, if nothing of it were given back, in bytes.
const COST: u64 = 256 << 10;
const JOIN: &str = "/conti.v1.JoinService/Join";

fn start() -> Agent {
    Agent::start_with(|dir: &Path| {
        let mut init = Command::new(binary("contid"));
        init.arg("--data-dir").arg(dir.join("data")).args(["pki", "init"]);
        assert!(init.output().expect("contid can be started").status.success());
        vec![OsString::from("--listen"), "tcp://127.0.0.1:0".into()]
    })
}

/// Says something, and hears what comes of it. How long that is waited for is no matter: who said half of something is
/// not answered.
async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    if stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok() {
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_millis(20), stream.read_to_end(&mut answer)).await;
    }
}

/// The agent is well: it has taken little, has met no defect, and knows what a guest may do.
async fn is_well(agent: &Agent, guest: &Remote, before: u64) {
    assert_eq!(guest.knock(JOIN).await, Some(Code::InvalidArgument));
    assert_eq!(
        guest.knock("/conti.v1.ContainerService/ListContainers").await,
        Some(Code::Unimplemented)
    );
    let taken = resident(agent).saturating_sub(before);
    assert!(taken < RUNS * COST, "{taken} bytes");
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

/// What an agent takes of the memory, in bytes.
fn resident(agent: &Agent) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn handshakes_that_are_none_do_no_harm() {
    let agent = start();
    let guest = guest(&agent);
    let before = resident(&agent);
    let mut hello = Vec::new();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(guest.config().into(), name).expect("a client");
    client.write_tls(&mut hello).expect("a greeting");
    let kept = [&hello[..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", PREFACE];
    agent.block_on(async {
        for index in 0..RUNS {
            let stream = TcpStream::connect(("127.0.0.1", guest.port)).await.expect("it listens");
            say(stream, &mutated(&kept, index)).await;
        }
        is_well(&agent, &guest, before).await;
    });
    agent.finish();
}

#[test]
fn what_guests_say_in_place_of_http_2_does_no_harm() {
    let agent = start();
    let guest = guest(&agent);
    let before = resident(&agent);
    let begin = [PREFACE, &settings(&[(1, 0), (3, 100), (4, 1 << 20)])].concat();
    let message = data(1, &[0, 0, 0, 0, 4, 0x0a, 2, b'x', b'y']);
    let kept = [
        [&begin[..], &open(JOIN, 1), &message, &reset(1)].concat(),
        [&begin[..], &open(JOIN, 1), &open(JOIN, 3), &message].concat(),
        [&begin[..], &frame(kind::PING, flag::NONE, 0, &[7; 8]), &open(JOIN, 1)].concat(),
        [&begin[..], &frame(kind::WINDOW_UPDATE, flag::NONE, 0, &[0, 0, 0, 9])].concat(),
    ];
    let kept: Vec<_> = kept.iter().map(Vec::as_slice).collect();
    agent.block_on(async {
        for index in 0..RUNS {
            let stream = guest.shake().await.expect("a guest may connect");
            say(stream, &mutated(&kept, index)).await;
        }
        is_well(&agent, &guest, before).await;
    });
    agent.finish();
}
