//! Fuzz targets: what inspectors read of /proc and hear by netlink, and what they are asked and answer.

use conti_fuzz::target;

use super::{
    netlink::{socket_inode, take_message},
    process::{id_map_in, name_and_fields, parse_namespace, start_time_in},
    processes::{described, group_in},
    question::{Answer, Failure, Held, Netlink, Question, SocketsOf},
    status::Status,
};
use crate::protocol::ProcessId;

fn own(file: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/self/{file}")).expect("a file of /proc")
}

#[test]
fn fuzz_proc_stat() {
    let samples = || vec![own("stat"), b"7 (a) S (b\n) R 1 2 3".to_vec()];
    target("proc_stat").seeds(samples).check(|bytes| {
        let Some((name, fields)) = name_and_fields(bytes) else {
            return assert_eq!(start_time_in(bytes), None);
        };
        assert!(name.len() + fields.len() <= bytes.len());
        let status = Status(b"Uid:\t1\t2\t3\t4\nNSpid:\t9\t1\n".to_vec());
        if let Some(process) = described(7, bytes, &status, 1) {
            assert_eq!(Some(process.id.start_ticks), start_time_in(bytes));
            assert_eq!((process.uid, process.target_pid, process.name.as_slice()), (2, 1, name));
        }
    });
}

#[test]
fn fuzz_proc_status() {
    target("proc_status").seeds(|| vec![own("status")]).check(|bytes| {
        let status = Status(bytes.to_vec());
        for name in ["Name:", "Uid:", "Groups:", "NSpid:", "CapEff:", "VmRSS:"] {
            if let Some(field) = status.field(name) {
                assert!(!field.contains(&b'\n') && field.len() <= bytes.len());
            }
            assert!(status.numbers(name).len() <= bytes.len());
        }
        assert_eq!(status.id("Uid:"), status.numbers("Uid:").get(1).copied());
        status.capabilities();
        let stat = b"7 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23";
        described(7, stat, &status, 0);
    });
}

#[test]
fn fuzz_proc_texts() {
    let samples = || {
        vec![
            b"12:pids:/\n4:memory:/user.slice/a b\n1:name=systemd:/init.scope\n0::/\n".to_vec(),
            own("uid_map"),
            b"12:pids:/conti/box/a\n0::/conti/box\n".to_vec(),
            b"0 100000 65536\n65536 0 4294967295\n".to_vec(),
            b"mnt:[4026531841]".to_vec(),
            b"socket:[1234]".to_vec(),
        ]
    };
    target("proc_texts").seeds(samples).check(|bytes| {
        if let Some(group) = group_in(bytes, "/conti/") {
            assert!(!group.contains(['/', '\n']));
        }
        assert!(id_map_in(bytes).len() <= bytes.len());
        if let Some((kind, inode)) = parse_namespace(bytes) {
            let link = format!("{}:[{inode}]", kind.file_name());
            assert_eq!(parse_namespace(link.as_bytes()), Some((kind, inode)));
        }
        socket_inode(bytes);
    });
}

#[test]
fn fuzz_netlink_dump() {
    // A message of 20 bytes, one that ends the dump with an error, and one that says it was disturbed.
    let message = |kind: u16, flags: u16, code: i32| {
        let head = [&20_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
        [head.concat(), code.to_ne_bytes().to_vec()].concat()
    };
    let samples = || {
        vec![
            [message(16, 2, 1), message(16, 0x12, 7), message(3, 2, 0)].concat(),
            [message(2, 0, -95), message(2, 0, -1)].concat(),
        ]
    };
    target("netlink_dump").seeds(samples).check(|bytes| {
        let mut rest = bytes;
        while let Some((message, behind)) = take_message(rest) {
            assert!(message.bytes.len() >= 16 && behind.len() + message.bytes.len() <= rest.len());
            rest = behind;
        }
    });
}

fn encoded<T: serde::Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).expect("plain data")
}

#[test]
fn fuzz_question() {
    let of = ProcessId { pid: 7, start_ticks: 4242 };
    let netlink = Netlink { of, requests: vec![(0, vec![20, 0, 0, 0])], owners: true };
    let samples = || {
        vec![
            encoded(&Question::Namespaces { of: Some(of) }),
            encoded(&Question::Mounts { of, usage: true }),
            encoded(&Question::Netlink(netlink)),
            encoded(&Question::Read { of, path: b"/etc".to_vec(), offset: 1, limit: u64::MAX }),
        ]
    };
    target("question").seeds(samples).check(|bytes| {
        if let Ok(question) = postcard::from_bytes::<Question>(bytes) {
            assert_eq!(postcard::from_bytes(&encoded(&question)), Ok(question));
        }
    });
}

/// An inspector has entered what a container may have made: its answers are not trusted to be well-formed.
#[test]
fn fuzz_answers() {
    let sockets = SocketsOf { pid: 3, name: b"sh".to_vec(), sockets: vec![(0, 1), (1, 2)] };
    let failure = Failure::Refused { tried: "open".into(), argument: b"/x".to_vec(), errno: 2 };
    let samples = || {
        vec![
            [encoded(&Answer::Began), encoded(&Answer::Netlink(vec![1, 2, 3]))].concat(),
            [encoded(&Answer::SocketsOf(sockets)), encoded(&Answer::Failed(failure))].concat(),
            [encoded(&Answer::Held(Held::default())), encoded(&Answer::Done)].concat(),
        ]
    };
    target("answers").seeds(samples).check(|bytes| {
        let mut rest = bytes;
        while let Ok((answer, behind)) = postcard::take_from_bytes::<Answer>(rest) {
            assert!(behind.len() < rest.len(), "an answer takes at least a byte");
            assert_eq!(postcard::from_bytes(&encoded(&answer)), Ok(answer));
            rest = behind;
        }
    });
}
