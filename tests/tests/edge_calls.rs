//! Calls of clients with a good certificate that mean harm, as `edge.rs`: messages that are too large, too slow or
//! never whole, answers that nobody takes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use conti_proto::v1::{
    GetSessionRequest, Input, ProcessSpec, ReadFileRequest, ReadSessionRequest, StreamRequest,
    Target, stream_request, target,
};
use conti_tests::{
    api,
    api::{reason, session},
    frames::{self, Raw, data, flag, frame, kind, message, open, streams},
    host,
    remote::Remote,
    siege::{Siege, hold_on},
    wait,
    wire::{self, Wire},
};
use prost::Message as _;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
use tonic::Code;

const STREAM: &str = "/conti.v1.SessionService/Stream";
const READ: &str = "/conti.v1.SessionService/ReadSession";
const GET_SESSION: &str = "/conti.v1.SessionService/GetSession";
const GET: &str = "/conti.v1.AgentService/GetAgent";
const CREATE: &str = "/conti.v1.ContainerService/CreateContainer";

/// What all frames of one client may make the agent grow by, in KiB.
const FLAT: u64 = 48 * 1024;

#[test]
fn a_message_that_says_it_is_too_large_is_refused_before_it_has_come() {
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, _| {
        for length in [(4 << 20) + 1, u32::MAX] {
            let mut raw = Raw::connect(&mallory, &[]).await;
            let head = data(1, &message(length, &[]));
            raw.send(&[open(CREATE, 1), head].concat()).await;
            let answers = raw.until("it was answered", |answers| answers.ended(1)).await;
            assert!(answers.headers.contains(&(1, true)), "{answers:?}");
        }
    });
    siege.finish();
}

#[test]
fn large_messages_that_never_end_are_refused_before_they_fill_the_memory() {
    let siege = Siege::start();
    // What one identity may have under way of large messages, beside its connection's window.
    siege.under(96 * 1024, async |mallory, goes_on| {
        let mut raw = Raw::connect(&mallory, &[]).await;
        raw.settle().await;
        let piece = data(1, &[7; 16_000]);
        for stream in streams().take(500) {
            let head = data(stream, &message(4 << 20, &[]));
            assert!(raw.send(&[open(CREATE, stream), head].concat()).await, "it takes part");
        }
        let refused = |answers: &frames::Answers| {
            answers.headers.iter().filter(|(_, all)| *all).count() >= 500 - 16
        };
        raw.until("all but 16 were refused", refused).await;
        // Those that were taken are filled up.
        for stream in streams().take(16) {
            for _ in 0..30 {
                let mut piece = piece.clone();
                piece[5..9].copy_from_slice(&stream.to_be_bytes());
                raw.send(&piece).await;
            }
        }
        hold_on(&goes_on).await;
    });
    siege.finish();
}

#[test]
fn heavy_a_message_that_drips_is_given_up_and_its_connection_stays() {
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, _| {
        let mut raw = Raw::connect(&mallory, &[]).await;
        let head = data(1, &message(10_000, &[]));
        raw.send(&[open(CREATE, 1), head, open(GET, 3)].concat()).await;
        while !(raw.answers().ended(1) && raw.answers().ended(3)) {
            assert!(raw.send(&data(1, &[0])).await, "it drips on");
            sleep(Duration::from_secs(1)).await;
        }
        assert!(!raw.answers().over(), "{:?}", raw.answers());
    });
    siege.finish();
}

#[test]
fn heavy_a_stream_may_be_silent_between_its_messages_for_longer_than_a_message_may_take() {
    let siege = Siege::start();
    siege.world.agent.block_on(async {
        let mut api = siege.bob.api().await.expect("it may connect");
        let cat = ProcessSpec { stdin: true, ..api::process(["cat"]) };
        let cat = session("c", cat);
        let mut wire = Wire::open(&mut api, wire::start(cat)).await.expect("it starts");
        wire.write("before\n").await;
        wire.read_until("before\n").await;
        // One whose first message does not come has no such right.
        let mut other = siege.bob.api().await.expect("it may connect");
        let refused = wire::refused(&mut other, vec![]).await;
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert_eq!(reason(&refused), "RESOURCE_EXHAUSTED");
        sleep(Duration::from_secs(2)).await;
        wire.write("after\n").await;
        wire.read_until("after\n").await;
        wire.close_input().await;
    });
    siege.finish();
}

#[test]
fn answers_that_nobody_takes_are_not_kept_without_bound() {
    let siege = Siege::start();
    // A session that has written as much as is kept of it.
    let id = siege.world.agent.block_on(async {
        let mut api = siege.bob.api().await.expect("it may connect");
        let script = "head -c 900000 /dev/zero";
        let start = wire::start(session("c", api::shell(script)));
        let wire = Wire::open(&mut api, start).await.expect("it starts");
        let id = wire.session().id.clone();
        wire.collect().await;
        id
    });
    let request = ReadSessionRequest { session_id: id, offset: Some(0), follow: true };
    let request = request.encode_to_vec();
    let request_of = |stream, bytes: &[u8]| {
        frame(kind::DATA, flag::END_STREAM, stream, &message(bytes.len() as u32, bytes))
    };
    for window in [0, 1, 1 << 20] {
        let named = siege.named(&format!("a window of {window}"));
        named.under(FLAT, async |mallory, goes_on| {
            let mut raw = Raw::connect(&mallory, &[(4, window)]).await;
            raw.settle().await;
            if window > 1 {
                // All of it may come, and is left in the socket.
                let large = (1_u32 << 30).to_be_bytes();
                raw.send(&frame(kind::WINDOW_UPDATE, flag::NONE, 0, &large)).await;
                raw.stop_reading();
            }
            for stream in streams().take(1000) {
                let (path, bytes) = match stream % 4 {
                    1 => (GET, &[][..]),
                    _ => (READ, &request[..]),
                };
                raw.send(&[open(path, stream), request_of(stream, bytes)].concat()).await;
            }
            if window <= 1 {
                raw.until("all were taken", |answers| answers.headers.len() >= 1000).await;
            }
            hold_on(&goes_on).await;
        });
    }
    siege.finish();
}

/// What a client sends who starts a session whose process reads nothing, and has so many bytes of input for it.
fn requests_for_nobody(bytes: usize) -> Vec<StreamRequest> {
    let sleep = ProcessSpec { stdin: true, ..api::process(["sleep", "1000"]) };
    let open = wire::opening(wire::start(session("c", sleep)));
    let data = vec![7; 1 << 16];
    let inputs = (0..bytes >> 16).map(|n| {
        let input = Input { offset: (n << 16) as u64, data: data.clone().into() };
        StreamRequest { message: Some(stream_request::Message::Input(input)) }
    });
    std::iter::once(open).chain(inputs).collect()
}

/// The same as bytes.
fn input_for_nobody(bytes: usize) -> Vec<u8> {
    let all = requests_for_nobody(bytes).into_iter().map(|request| request.encode_to_vec());
    all.map(|bytes| message(bytes.len() as u32, &bytes)).collect::<Vec<_>>().concat()
}

/// Sends on streams in turn, in frames of this size, until all is sent or no more is taken.
async fn feed(raw: &mut Raw, streams: &[u32], all: &[u8], size: usize) {
    raw.settle().await;
    for stream in streams {
        raw.send(&open(STREAM, *stream)).await;
    }
    for part in all.chunks(1 << 16) {
        for stream in streams {
            let frames: Vec<_> = part.chunks(size).map(|it| data(*stream, it)).collect();
            if raw.answers().over() || !raw.send(&frames.concat()).await {
                return;
            }
        }
    }
}

#[test]
fn input_that_no_process_reads_is_bounded_by_windows() {
    let siege = Siege::start();
    // For each connection its window and for each session what waits, and something for the many small pieces.
    let all = input_for_nobody(40 << 20);
    siege.under(2 * (18 + 16 + 8) * 1024 + 16 * 1024, async |mallory, goes_on| {
        let mut held = Vec::new();
        for size in [16_000, 300] {
            let mut raw = Raw::connect(&mallory, &[]).await;
            feed(&mut raw, &[1], &all, size).await;
            raw.until("what is beyond the window is refused", |answers| answers.ended(1)).await;
            held.push(raw);
        }
        hold_on(&goes_on).await;
    });
    siege.finish();
}

/// Feeds a session not more at once than the smallest window: who sends more has the stream reset, and all of it given
/// back.
async fn feed_slowly(raw: &mut Raw, all: &[u8]) {
    raw.settle().await;
    raw.send(&open(STREAM, 1)).await;
    for part in all.chunks(900 << 10) {
        let frames: Vec<_> = part.chunks(16_000).map(|it| data(1, it)).collect();
        if raw.answers().ended(1) || !raw.send(&frames.concat()).await {
            return;
        }
        sleep(Duration::from_millis(30)).await;
    }
}

#[test]
fn heavy_input_that_no_process_reads_is_bounded_for_all_sessions_of_an_identity() {
    let siege = Siege::start();
    // 128 MiB and what was on its way then.
    siege.under((128 + 18 + 32) * 1024, async |mallory, _| {
        let mut feeding = JoinSet::new();
        for _ in 0..12 {
            let mut api = mallory.api().await.expect("it may connect");
            feeding
                .spawn(async move { wire::refused(&mut api, requests_for_nobody(20 << 20)).await });
        }
        // A session with little input goes on.
        let mut api = mallory.api().await.expect("it may connect");
        let cat = ProcessSpec { stdin: true, ..api::process(["cat"]) };
        let open = wire::start(session("c", cat));
        let mut wire = Wire::open(&mut api, open).await.expect("it starts");
        wire.write("little\n").await;
        wire.read_until("little\n").await;
        wire.close_input().await;
        // One of those that wait is told that it is too much.
        let refused = feeding.join_next().await.expect("there are some").expect("no panic");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert_eq!(api::metadata(&refused)["what"], "input that no process reads");
    });
    siege.finish();
}

#[test]
fn heavy_the_windows_of_all_connections_of_an_identity_are_bounded() {
    let siege = Siege::start();
    let all = Arc::new(input_for_nobody(15 << 20));
    // What waits in sessions, 4 windows of 24 MiB and 124 of 2 MiB.
    siege.under((128 + 18 + 4 * 24 + 124 * 2 + 64) * 1024, async |mallory, goes_on| {
        // More at a time would have to wait for each other, and give up.
        let (mut feeding, turns) = (JoinSet::new(), Arc::new(Semaphore::new(12)));
        for _ in 0..128 {
            let mut raw = Raw::connect(&mallory, &[]).await;
            let (all, turns) = (all.clone(), turns.clone());
            feeding.spawn(async move {
                let _turn = turns.acquire().await.expect("nobody closes it");
                feed_slowly(&mut raw, &all).await;
                raw
            });
        }
        let held = feeding.join_all().await;
        hold_on(&goes_on).await;
        drop(held);
    });
    siege.finish();
}

#[test]
fn an_identity_has_so_many_calls_under_way_on_all_of_its_connections() {
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, goes_on| {
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut raw = Raw::connect(&mallory, &[]).await;
            raw.settle().await;
            for stream in streams().take(600) {
                assert!(raw.send(&open(STREAM, stream)).await, "the connection stays");
            }
            held.push(raw);
        }
        // Which of the two has them is open: their calls are taken side by side.
        let refused = |raw: &Raw| raw.answers().headers.iter().filter(|(_, all)| *all).count();
        let mut count = 0;
        while count < 2 * 600 - 1024 {
            sleep(Duration::from_millis(10)).await;
            count = held.iter().map(refused).sum();
        }
        assert_eq!(count, 2 * 600 - 1024, "those beyond 1024 were refused");
        hold_on(&goes_on).await;
    });
    siege.finish();
}

#[test]
fn large_answers_that_nobody_takes_are_counted_until_they_are_taken() {
    let siege = Siege::start();
    // A session whose description is large.
    let (held, request) = siege.world.agent.block_on(async {
        let mut api = siege.bob.api().await.expect("it may connect");
        let words = std::iter::repeat_n("x".repeat(100_000), 8);
        let argv: Vec<String> =
            ["sh", "-c", "sleep 1000"].map(str::to_owned).into_iter().chain(words).collect();
        let start = wire::start(session("c", api::process(argv)));
        let wire = Wire::open(&mut api, start).await.expect("it starts");
        let request = GetSessionRequest { session_id: wire.session().id.clone() };
        (wire, request.encode_to_vec())
    });
    siege.under(FLAT, async |mallory, goes_on| {
        // The head of an answer may come, and one byte of the rest.
        let mut raw = Raw::connect(&mallory, &[(4, 1)]).await;
        raw.settle().await;
        for stream in streams().take(300) {
            let message = message(request.len() as u32, &request);
            let data = frame(kind::DATA, flag::END_STREAM, stream, &message);
            raw.send(&[open(GET_SESSION, stream), data].concat()).await;
        }
        raw.until("some were taken", |answers| answers.headers.len() >= 15).await;
        sleep(Duration::from_millis(500)).await;
        assert_eq!(raw.answers().headers.len(), 15, "the others wait for their turn");
        hold_on(&goes_on).await;
    });
    drop(held);
    siege.finish();
}

#[test]
fn answers_of_one_client_that_are_not_read_hold_up_no_other() {
    let siege = Siege::start();
    let path = "/conti.v1.FileService/ReadFile";
    let file = siege.world.agent.scratch("large");
    std::fs::write(&file, vec![7; 16 << 20]).expect("a file can be written");
    let request = ReadFileRequest {
        target: Some(Target { target: Some(target::Target::Host(Default::default())) }),
        path: file.into_os_string().into_encoded_bytes().into(),
        ..Default::default()
    };
    let bytes = request.encode_to_vec();
    let mallory = siege.world.as_role("root", "admin");
    let held = siege.world.agent.block_on(async {
        // Too little for one message.
        let mut raw = Raw::connect(&mallory, &[(4, 1)]).await;
        raw.settle().await;
        for stream in streams().take(200) {
            let message = message(bytes.len() as u32, &bytes);
            let data = frame(kind::DATA, flag::END_STREAM, stream, &message);
            raw.send(&[open(path, stream), data].concat()).await;
        }
        raw.until("some were taken", |answers| answers.headers.len() >= 8).await;
        let mut api = siege.world.as_role("alice", "admin").api().await.expect("it may connect");
        let mut answer =
            api.files.read_file(request).await.expect("another has its turn").into_inner();
        assert!(answer.message().await.expect("an answer").is_some());
        raw
    });
    drop(held);
    siege.finish();
}

#[test]
fn open_files_are_as_many_after_an_attack_as_before() {
    let siege = Siege::start();
    let before = host::open_files(siege.world.agent.pid());
    siege.under(FLAT, async |mallory, goes_on| {
        while goes_on.load(Ordering::Relaxed) {
            drop(connections(&mallory, 20).await);
        }
    });
    wait::until_true("the files were closed", || {
        host::open_files(siege.world.agent.pid()) <= before + 12
    });
    siege.finish();
}

/// So many connections with one call each.
async fn connections(mallory: &Remote, many: usize) -> Vec<Raw> {
    let mut held = Vec::new();
    for _ in 0..many {
        let mut raw = Raw::connect(mallory, &[]).await;
        raw.send(&open(STREAM, 1)).await;
        held.push(raw);
    }
    held
}
