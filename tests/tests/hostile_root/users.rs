//! Who a command runs as is looked up in files that the author of a root filesystem has written.

use std::{fs, path::Path};

use conti_tests::{Agent, host, rootfs};

const LARGE: usize = 64 << 20;

/// A name, what stands in /etc/passwd, who is asked for, and the id that it must be: without one, the call is
/// refused.
type Row = (&'static str, Option<Vec<u8>>, &'static str, Option<&'static str>);

fn table() -> Vec<Row> {
    let alice = |rest: &str| Some(format!("root:x:0:0::/:/bin/sh\nalice:x:{rest}\n").into_bytes());
    let mut large_line = vec![b'a'; LARGE];
    let all_one_line = Some(large_line.clone());
    large_line.extend(b"\nalice:x:1000:1000::/:/bin/sh\n");
    vec![
        ("a plain file", alice("1000:1000::/:/bin/sh"), "alice", Some("1000")),
        ("no file, a name", None, "alice", None),
        ("no file, a number", None, "1000", Some("1000")),
        ("a NUL in a name", Some(b"al\0ice:x:1000:1000::/:\n".to_vec()), "alice", None),
        (
            "bytes that are no text before",
            Some(b"\xff\xfe:x:1:1::/:\nalice:x:1000:1000::/:/bin/sh\n".to_vec()),
            "alice",
            Some("1000"),
        ),
        ("below 0", alice("-1:1000::/:"), "alice", None),
        ("-1 as the kernel writes it", alice("4294967295:1000::/:"), "alice", None),
        ("2^32, which would be 0", alice("4294967296:4294967296::/:"), "alice", None),
        ("2^64, which would be 0", alice("18446744073709551616:0::/:"), "alice", None),
        ("a group of 2^32", alice("1000:4294967296::/:"), "alice", None),
        ("a group of -1", alice("1000:4294967295::/:"), "alice", None),
        ("no id", alice(":::/:"), "alice", None),
        ("fields missing", alice("1000"), "alice", None),
        ("hexadecimal", alice("0x0:0x0::/:"), "alice", None),
        ("the first line counts", alice("1000:1000::/:\nalice:x:0:0::/:"), "alice", Some("1000")),
        ("64 MiB of one line", all_one_line, "alice", None),
        ("a line of 64 MiB before", Some(large_line), "alice", None),
        ("a number that would be 0", alice("1000:1000::/:"), "4294967296", None),
        ("a number that is nobody", alice("1000:1000::/:"), "4294967295", None),
        ("a number below 0", alice("1000:1000::/:"), "-1", None),
        ("a group that would be 0", alice("1000:1000::/:"), "1000:4294967296", None),
    ]
}

fn set(root: &Path, passwd: Option<&Vec<u8>>) {
    let path = root.join("etc/passwd");
    match passwd {
        Some(bytes) => fs::write(path, bytes).expect("a file"),
        None => fs::remove_file(path).expect("it was there"),
    }
}

#[test]
fn nobody_becomes_another_by_what_stands_in_a_passwd_file() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build(&root);
    let rootfs = format!("dir:{}", root.display());
    let before = host::anonymous_kib(agent.pid());
    agent.ok(["run", "-d", "--name", "c", "--rootfs", &rootfs, "--", "/bin/sleep", "100000"]);
    for (what, passwd, user, wanted) in table() {
        set(&root, passwd.as_ref());
        let user = format!("--user={user}");
        for args in [
            vec!["run", "--rm", "--rootfs", &rootfs, "--overlay", &user, "--", "/bin/id", "-u"],
            vec!["exec", &user, "c", "--", "/bin/id", "-u"],
        ] {
            let outcome = agent.ctl(&args).run();
            match wanted {
                Some(id) => assert_eq!(outcome.success().text(), id, "{what}: {args:?}"),
                None => {
                    // Said in words, and not by a command that ran as somebody.
                    let said = outcome.exits(125);
                    assert_eq!(said.text(), "", "{what}: {args:?}");
                    assert!(!said.errors().is_empty(), "{what}: {args:?}");
                }
            }
        }
        if passwd.is_none() {
            set(&root, Some(&Vec::new()));
        }
    }
    let growth = host::anonymous_kib(agent.pid()).saturating_sub(before);
    assert!(growth < 48 << 10, "the agent has taken {growth} KiB for files of {LARGE} bytes");
    agent.finish();
}
