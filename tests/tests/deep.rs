//! What is nested without end costs nobody the stack: neither messages, nor records, nor mounts.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use conti_proto::METHODS;
use conti_tests::{Agent, plain::Plain};
use prost::bytes::{Buf, BufMut};
use rustix::{
    fs::{Mode, OFlags, mkdirat, open, openat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

const LEVELS: usize = 100_000;

/// Sends bytes as they are, and looks at no answer.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

/// Calls a method with one message that it must not answer, and tells how the call ended.
async fn refused(channel: &Channel, path: &str, message: &[u8]) -> Status {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("the agent is there");
    let messages = Request::new(tokio_stream::iter([message.to_vec()]));
    let answer = grpc.streaming(messages, path.parse().expect("a path"), Raw).await;
    let mut answers = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    match answers.message().await {
        Ok(Some(())) => panic!("{path} answers"),
        Ok(None) => Status::ok(""),
        Err(status) => status,
    }
}

/// Messages of field 1 in one another, the innermost empty.
fn nested_messages() -> Vec<u8> {
    let mut reversed = Vec::new();
    for _ in 0..LEVELS {
        let mut head = vec![0x0a];
        prost::encoding::encode_varint(reversed.len() as u64, &mut head);
        reversed.extend(head.iter().rev());
    }
    reversed.reverse();
    reversed
}

#[test]
fn a_message_of_a_hundred_thousand_levels_is_an_error_to_every_method() {
    let agent = Agent::start();
    let pid = agent.pid();
    // Field 15 as a group: no message has it, so that it is passed over.
    let groups = [[0x7b].repeat(LEVELS), [0x7c].repeat(LEVELS)].concat();
    let open = [0x7b].repeat(LEVELS);
    let others = [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ];
    let socket = format!("unix:{}", agent.path("contid.sock").display());
    agent.block_on(async {
        let endpoint = Endpoint::from_shared(socket).expect("an address");
        let channel = endpoint.connect().await.expect("the agent listens");
        for path in METHODS.iter().map(|(path, _)| *path).chain(others) {
            for (what, message) in [("groups", &groups), ("open groups", &open)] {
                let status = refused(&channel, path, message).await;
                // Reflection ends its stream where it cannot read it, without saying so.
                let silent = path.contains("reflection") && status.code() == Code::Ok;
                assert!(silent || status.code() != Code::Ok, "{path} takes {what}");
                let broken = std::error::Error::source(&status);
                assert!(broken.is_none(), "{path} with {what} breaks the connection: {broken:?}");
            }
        }
        // Each method knows a few levels of it at most; what is deeper is a text to it, or too deep.
        let nested = nested_messages();
        for path in METHODS.iter().map(|(path, _)| *path).filter(|path| path.contains("Create")) {
            let status = refused(&channel, path, &nested).await;
            assert_ne!(status.code(), Code::Ok, "{path} takes nested messages");
        }
    });
    assert_eq!(agent.ok(["ps", "-a", "-q"]), "");
    assert_eq!(agent.pid(), pid);
    agent.finish();
}

/// Writes 100,000 levels into each record of a container below a directory; tells how many there were.
fn deepen(dir: &Path, id: &str, text: &str) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            count += deepen(&path, id, text);
        } else if path.to_string_lossy().contains(id)
            && path.extension().is_some_and(|extension| extension == "json")
        {
            fs::write(&path, text).expect("the record is replaced");
            count += 1;
        }
    }
    count
}

#[test]
fn a_record_of_a_hundred_thousand_levels_is_a_damaged_one_to_the_next_agent() {
    for text in ["[", "{\"id\":"] {
        let mut agent = Agent::start();
        let id = agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]).trim().to_owned();
        agent.ctl(["stop", "-t", "0", "c"]).run().success();
        agent.kill();
        let text = text.repeat(LEVELS);
        let count =
            deepen(&agent.path("data"), &id, &text) + deepen(&agent.path("state"), &id, &text);
        assert!(count > 0, "there is a record");
        agent.restart();
        let shown = agent.ok(["ps", "-a"]);
        assert!(shown.contains("quarantined"), "{shown}");
        let refused = agent.ctl(["exec", &id, "--", "true"]).run();
        let told =
            refused.errors().contains("cannot be read") && refused.errors().contains("rm -f");
        assert!(told, "it says what is wrong and what can be done: {}", refused.errors());
        agent.ok(["rm", &id]);
        agent.finish();
    }
}

/// Mounts a tmpfs on itself again and again: each lies on the one before. Glibc has no functions for these calls.
const STACK: &str = r#"
import ctypes, os
call = ctypes.CDLL(None, use_errno=True).syscall
def check(number):
    if number < 0: raise OSError(ctypes.get_errno(), "syscall")
    return number
last = os.open("/mnt", os.O_PATH)
for _ in range(5000):
    context = check(call(430, b"tmpfs", 0))
    check(call(431, context, 6, None, None, 0))
    mount = check(call(432, context, 0, 0))
    check(call(429, mount, b"", last, b"", 0x44))
    os.close(context)
    os.close(last)
    last = mount
"#;

/// The kernel takes 100,000 mounts in a namespace (`fs.mount-max`); for each, it goes through all below it. The parser and
/// the tree are tested with as many, here it is less so that the machine is not kept busy by that.
#[test]
fn mounts_on_one_another_are_all_shown() {
    let agent = Agent::start();
    let script = agent.scratch("stack.py");
    fs::write(&script, STACK).expect("a script");
    let after = format!("python3 {}; cd /usr", script.display());
    let plain = Plain::after(&after, &["--propagation", "private"]);
    let shown = agent.ok(["mounts", "--no-usage", &plain.target()]);
    let stacked = shown.lines().filter(|line| line.contains("/mnt ")).count();
    assert_eq!(stacked, 5000);
    let longest = shown.lines().map(|line| line.chars().count()).max();
    assert!(longest.is_some_and(|longest| longest < 4000), "{longest:?}");
    assert!(
        shown.contains("… 4999:/mnt") || shown.contains("… 5000:/mnt"),
        "it says how deep they lie"
    );
    drop(plain);
    agent.finish();
}

/// A tmpfs: with it goes whatever lies on it, however deep.
struct Tmpfs(PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_directory_of_a_hundred_thousand_levels_is_measured_as_far_as_fds_reach() {
    let agent = Agent::start();
    let place = agent.scratch("deep");
    fs::create_dir(&place).expect("a directory");
    mount("conti-test", &place, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
    let place = Tmpfs(place);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut last: OwnedFd = open(&place.0, flags, Mode::empty()).expect("it is there");
    for _ in 0..LEVELS {
        mkdirat(&last, "d", Mode::RWXU).expect("a directory");
        last = openat(&last, "d", flags, Mode::empty()).expect("it is there");
    }
    drop(last);
    let path = place.0.display().to_string();
    let held = agent.ctl(["-o", "json", "du", "-n", "3", "host", &path]).run().success().json();
    let all = held.as_array().expect("a list");
    let whole = all.iter().find(|one| one["top"] == false).expect("the directory itself");
    assert_eq!(whole["unreadable"], 1, "it is told that there is more: {whole}");
    assert!(whole["directories"].as_u64().is_some_and(|count| count >= 500), "{whole}");
    drop(place);
    agent.finish();
}
