//! HTTP/2 of clients with a good certificate that mean harm: each is stopped or bounded, the agent's memory
//! stays flat, and another client gets its commands done meanwhile.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use conti_tests::{
    frames::{
        self, Duplex, Raw, code, data, flag, frame, kind, literal, open, reset, settings, streams,
    },
    siege::{Siege, hold_on},
    user::Common,
    world::World,
};

const STREAM: &str = "/conti.v1.SessionService/Stream";
const GET: &str = "/conti.v1.AgentService/GetAgent";

/// A user of the machine who is not root.
const LOCAL: u32 = 4711;

/// What all frames of one client may make the agent grow by, in KiB.
const FLAT: u64 = 48 * 1024;

#[test]
fn heavy_a_hundred_thousand_streams_that_are_reset_at_once_end_the_connection() {
    let siege = Siege::start();
    let burst: Vec<u8> = streams()
        .take(100_000)
        .flat_map(|stream| [open(STREAM, stream), reset(stream)].concat())
        .collect();
    siege.under(FLAT, async |mallory, goes_on| {
        while goes_on.load(Ordering::Relaxed) {
            let mut raw = Raw::connect(&mallory, &[]).await;
            for part in burst.chunks(1 << 16) {
                if raw.answers().over() || !raw.send(part).await {
                    break;
                }
            }
            let answers = raw.until("the connection is over", |answers| answers.over()).await;
            assert!(answers.goaway.is_none_or(|it| it == code::ENHANCE_YOUR_CALM), "{answers:?}");
        }
    });
    siege.finish();
}

#[test]
fn calls_that_are_given_up_as_soon_as_they_are_taken_leave_nothing() {
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, goes_on| {
        let mut raw = Raw::connect(&mallory, &[]).await;
        for (turn, stream) in streams().enumerate() {
            // The answer to the ping comes after the stream was taken.
            let ping = frame(kind::PING, flag::NONE, 0, &[0; 8]);
            assert!(raw.send(&[open(STREAM, stream), ping].concat()).await, "it takes part");
            raw.until("the stream was taken", |answers| answers.acks > turn as u64).await;
            raw.send(&reset(stream)).await;
            if !goes_on.load(Ordering::Relaxed) {
                break;
            }
        }
    });
    siege.finish();
}

/// Sends the same bytes after a beginning again and again, on one connection after the other, whose answers are
/// read or not.
async fn flood(
    connect: impl AsyncFn() -> io::Result<Box<dyn Duplex>>,
    goes_on: &AtomicBool,
    beginning: &[u8],
    again: &[u8],
    reads: bool,
) {
    let many = again.repeat(((1 << 16) / again.len()).max(1));
    while goes_on.load(Ordering::Relaxed) {
        let mut raw = Raw::begin(connect().await.expect("it may connect"), &[]).await;
        if !reads {
            raw.stop_reading();
        }
        if raw.send(beginning).await {
            while goes_on.load(Ordering::Relaxed) && !raw.answers().over() {
                if !raw.send(&many).await {
                    // It is held back: that is as good as closed, and it tries with another.
                    break;
                }
            }
        }
    }
}

/// Floods an agent with small frames of all kinds over connections that are made so.
fn floods(siege: &Siege, connect: impl AsyncFn() -> io::Result<Box<dyn Duplex>>) {
    let begun = frame(kind::HEADERS, flag::NONE, 1, &frames::call(STREAM));
    let empty_headers = frame(kind::HEADERS, flag::END_HEADERS, 1, &[]);
    let floods: [(&str, Vec<u8>, Vec<u8>); 10] = [
        ("PING", vec![], frame(kind::PING, flag::NONE, 0, &[7; 8])),
        ("SETTINGS", vec![], settings(&[])),
        ("SETTINGS that change windows", open(STREAM, 1), settings(&[(4, 1 << 20)])),
        ("PRIORITY", vec![], frame(kind::PRIORITY, flag::NONE, 3, &[0, 0, 0, 0, 9])),
        ("WINDOW_UPDATE", vec![], frame(kind::WINDOW_UPDATE, flag::NONE, 0, &[0, 0, 0, 1])),
        ("empty DATA", open(STREAM, 1), data(1, &[])),
        ("DATA of one byte", open(STREAM, 1), data(1, &[0])),
        ("empty CONTINUATION", begun.clone(), frame(kind::CONTINUATION, flag::NONE, 1, &[])),
        ("empty HEADERS", open(STREAM, 1), empty_headers),
        ("unknown frames", vec![], frame(0x77, 0xff, 0, &[1; 32])),
    ];
    for (name, beginning, again) in floods {
        for reads in [true, false] {
            siege.named(&format!("{name}, reads: {reads}")).under(FLAT, async |_, goes_on| {
                flood(&connect, &goes_on, &beginning, &again, reads).await;
            });
        }
    }
}

#[test]
fn heavy_floods_of_small_frames_hold_up_nobody_and_are_not_kept() {
    let siege = Siege::start();
    floods(&siege, async || Ok(Box::new(siege.mallory.shake().await?) as _));
    siege.finish();
}

#[test]
fn heavy_floods_of_guests_hold_up_nobody_and_are_not_kept() {
    let siege = Siege::start();
    let guest = siege.guest();
    floods(&siege, async || Ok(Box::new(guest.shake().await?) as _));
    siege.finish();
}

#[test]
fn heavy_floods_of_another_user_of_the_machine_hold_up_nobody_and_are_not_kept() {
    let common = Common::default();
    let policy = format!("[[caller]]\nuid = {LOCAL}\nrole = \"operator\"\n");
    let siege = Siege::of(World::start_with(&policy, |_| {
        vec!["--listen".into(), format!("unix://{}", common.socket().display()).into()]
    }));
    floods(&siege, async || Ok(Box::new(common.connect(LOCAL).await?) as _));
    siege.finish();
}

#[test]
fn a_header_block_without_an_end_ends_the_connection() {
    let siege = Siege::start();
    let mut block = Vec::new();
    for n in 0..1000 {
        literal(&mut block, &format!("x-{n}"), "v");
    }
    siege.under(FLAT, async |mallory, goes_on| {
        while goes_on.load(Ordering::Relaxed) {
            let mut raw = Raw::connect(&mallory, &[]).await;
            raw.send(&frame(kind::HEADERS, flag::NONE, 1, &frames::call(GET))).await;
            let part = frame(kind::CONTINUATION, flag::NONE, 1, &block);
            for _ in 0..10_000 {
                if raw.answers().over() || !raw.send(&part).await {
                    break;
                }
            }
            let answers = raw.until("the connection is over", |answers| answers.over()).await;
            assert!(answers.headers.is_empty(), "{answers:?}");
        }
    });
    siege.finish();
}

#[test]
fn headers_that_are_small_on_the_wire_and_large_when_read_reach_no_method() {
    let siege = Siege::start();
    let mut planted = frames::call(GET);
    frames::kept(&mut planted, "x-bomb", &"b".repeat(3900));
    let mut bomb = frames::call(GET);
    bomb.extend([0x80 | 62; 16_000]);
    let mut long = frames::call(GET);
    for n in 0..16 {
        literal(&mut long, &format!("x-{n}"), &"v".repeat(8000));
    }
    siege.under(FLAT, async |mallory, goes_on| {
        while goes_on.load(Ordering::Relaxed) {
            for block in [&bomb, &long] {
                let mut raw = Raw::connect(&mallory, &[]).await;
                let flags = flag::END_HEADERS | flag::END_STREAM;
                raw.send(&frame(kind::HEADERS, flags, 1, &planted)).await;
                for stream in streams().skip(1).take(200) {
                    if raw.answers().over()
                        || !raw.send(&frame(kind::HEADERS, flags, stream, block)).await
                    {
                        break;
                    }
                }
                let answers = raw.until("they were refused", |it| it.over() || it.ended(401)).await;
                // The last is refused with a status of HTTP or with the connection.
                assert!(answers.over() || answers.headers.contains(&(401, true)), "{answers:?}");
            }
        }
    });
    siege.finish();
}

#[test]
fn streams_beyond_what_a_connection_may_have_are_refused_one_by_one() {
    let siege = Siege::start();
    siege.under(FLAT, async |mallory, goes_on| {
        let mut raw = Raw::connect(&mallory, &[]).await;
        raw.settle().await;
        for stream in streams().take(1024 + 20) {
            assert!(raw.send(&open(STREAM, stream)).await, "the connection stays");
        }
        let answers = raw.until("20 were refused", |it| it.resets.len() >= 20 || it.over()).await;
        assert_eq!(answers.resets.len(), 20, "{answers:?}");
        assert!(
            answers
                .resets
                .iter()
                .all(|(stream, reason)| { *stream > 2048 && *reason == code::REFUSED_STREAM })
        );
        hold_on(&goes_on).await;
    });
    siege.finish();
}
