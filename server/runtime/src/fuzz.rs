//! Fuzz targets for what is parsed in this crate; further ones lie in the modules whose parsers are private.

use std::{collections::HashSet, fmt::Debug};

use conti_fuzz::target;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    kernel_fs::Tree,
    mountinfo::{Entry, unescape},
    plan::{Plan, SetupFailure, Step},
    protocol::{
        End, FromMonitor, KillCause, LauncherReply, LauncherRequest, MonitorState, ProcessId,
        ToMonitor, WaitStatus,
    },
};

/// A mountinfo of many kinds of lines, from the manual and from this machine.
fn mountinfo_samples() -> Vec<Vec<u8>> {
    let own = std::fs::read("/proc/self/mountinfo").expect("own mountinfo");
    // What every machine has: other paths say something of this one.
    let own: Vec<&[u8]> = own
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| Entry::parse(line).is_some_and(|entry| is_everywhere(entry.point)))
        .take(16)
        .collect();
    vec![
        own.concat(),
        b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 new:7 shared:2 - ext3 /dev/root rw\n".to_vec(),
        b"1 2 0:5 / / rw unbindable propagate_from:3 - tmpfs  rw\n".to_vec(),
        // A ring, and a mount of the kernel's below it.
        b"1 2 0:5 / /a rw - tmpfs t rw\n2 1 0:5 / /b rw - tmpfs t rw\n3 2 0:6 / /proc rw - proc p rw\n"
            .to_vec(),
    ]
}

fn is_everywhere(point: &[u8]) -> bool {
    point == b"/" || [&b"/proc"[..], b"/sys", b"/dev"].iter().any(|place| point.starts_with(place))
}

#[test]
fn fuzz_mountinfo() {
    target("mountinfo").seeds(mountinfo_samples).check(|bytes| {
        let lines = bytes.split(|byte| *byte == b'\n').count();
        assert!(Entry::all(bytes).count() <= lines);
        for entry in Entry::all(bytes) {
            for field in [entry.root, entry.point, entry.source, entry.fs_type, entry.fs_options] {
                let plain = unescape(field);
                assert!(plain.len() <= field.len());
                assert_eq!(unescape(&escape(&plain)), plain);
            }
        }
    });
}

/// As the kernel writes a field (`mangle_path` of fs/seq_file.c).
fn escape(plain: &[u8]) -> Vec<u8> {
    let escaped = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        other => vec![*other],
    };
    plain.iter().flat_map(escaped).collect()
}

#[test]
fn fuzz_mount_tree() {
    // The index of mounts has an entry of some 200 bytes for the shortest line, of some 20 bytes.
    target("mount_tree").seeds(mountinfo_samples).memory(256).check(|bytes| {
        let tree = Tree::of(bytes);
        let ids: HashSet<u64> = tree.ids().collect();
        for id in ids.iter().copied().take(20) {
            assert!(tree.has(id));
            if let Some(point) = tree.kernels_at_or_below(id) {
                assert!(Entry::all(bytes).any(|entry| entry.point == point));
            }
            tree.lies_in_places(id);
        }
        assert!(!tree.has(u64::MAX) || ids.contains(&u64::MAX));
    });
}

fn json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("plain data")
}

/// A packet that is understood says the same when it is sent on.
fn understood<T: Serialize + DeserializeOwned + Debug>(packet: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(packet) {
        let again: T = serde_json::from_slice(&json(&message)).expect("what was written is read");
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
    }
}

#[test]
fn fuzz_launcher_protocol() {
    let samples = || {
        vec![
            json(&LauncherRequest::Spawn),
            json(&LauncherRequest::Inspect),
            json(&LauncherReply::Spawned { pid: 7 }),
            json(&LauncherReply::Failed { errno: -1 }),
        ]
    };
    target("launcher_protocol").seeds(samples).check(|bytes| {
        understood::<LauncherRequest>(bytes);
        understood::<LauncherReply>(bytes);
    });
}

#[test]
fn fuzz_monitor_protocol() {
    let id = ProcessId { pid: 42, start_ticks: 4242 };
    let end = End {
        wait: WaitStatus::Signaled { signal: 9, core: true },
        cause: Some(KillCause::Deadline),
        time_ms: 1,
        stdout_bytes: 2,
        stderr_bytes: 3,
        dropped_bytes: 4,
        drain_timed_out: false,
    };
    let failure = SetupFailure { step: Step::Exec, argument: "/bin/\u{1b}".into(), errno: 2 };
    let samples = || {
        vec![
            json(&ToMonitor::Run { plan_fds: 3 }),
            json(&ToMonitor::Signal { signal: 15, cause: Some(KillCause::Client) }),
            json(&ToMonitor::Resize { columns: 80, rows: 24 }),
            json(&FromMonitor::Prepared { forker: None, monitor: id }),
            json(&FromMonitor::State { version: 1, state: MonitorState::Ended(end.clone()) }),
            json(&FromMonitor::State { version: 1, state: MonitorState::Running(id) }),
            json(&FromMonitor::Failed(failure)),
            json(&end),
        ]
    };
    target("monitor_protocol").seeds(samples).check(|bytes| {
        understood::<ToMonitor>(bytes);
        understood::<FromMonitor>(bytes);
        understood::<End>(bytes);
    });
}

#[test]
fn fuzz_plan() {
    let samples = || vec![json(&crate::init::sample_plan())];
    target("plan").seeds(samples).check(|bytes| {
        understood::<Plan>(bytes);
        if let Ok(plan) = serde_json::from_slice::<Plan>(bytes) {
            // An init may name any step and item.
            for index in [0, 1, u32::MAX] {
                let longest = bytes.len() + 200;
                assert!(plan.argument(Step::Exec, index).len() <= longest);
                assert!(plan.argument(Step::Mount, index).len() <= longest);
            }
        }
    });
}
