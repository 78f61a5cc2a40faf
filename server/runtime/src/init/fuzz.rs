//! Fuzz targets: files of a container and of /proc that init reads, and what it tells its monitor.

use conti_fuzz::target;

use super::{
    id_map::map_text,
    status::Status,
    user::{home_of, resolve},
};
use crate::{inspect::process::id_map_in, plan::Step};

/// Two files, parted by a NUL byte, which is in neither.
fn files(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..at], bytes.get(at + 1..).unwrap_or_default())
}

#[test]
fn fuzz_passwd_and_group() {
    let samples = || {
        let host = ["/etc/passwd", "/etc/group"].map(|path| {
            let file = std::fs::read_to_string(path).expect("a file of the host");
            // What every Debian has.
            file.split_inclusive('\n').take(16).collect::<String>().into_bytes()
        });
        let small =
            b"ann:x:7:8::/home/ann:/bin/sh\r\nroot:x:0:0\n+:::\n\0wheel:x:9:ann,bob\n:x:1:\n";
        vec![host.join(&0), small.to_vec()]
    };
    target("passwd_and_group").seeds(samples).check(|bytes| {
        let (passwd, group) = files(bytes);
        for name in ["", "root", "ann", "0", "4294967295", "99999999999"] {
            if let Ok(ids) = resolve(name, "", &["wheel".to_owned()], passwd, group) {
                // All bits set would be "leave it as it is" to the kernel: root.
                let all = [ids.uid, ids.gid].into_iter().chain(ids.groups.iter().copied());
                assert!(all.into_iter().all(|id| id != u32::MAX));
                assert!(ids.groups.is_sorted_by(|a, b| a < b), "sorted, each once");
            }
        }
        let home = home_of(passwd, 0);
        assert!(home.starts_with(b"/") && !home.contains(&0) && !home.contains(&b'\n'));
    });
}

#[test]
fn fuzz_init_status() {
    let failed = Status::Failed { step: Step::Exec, index: u32::MAX, errno: libc::ENOENT };
    let samples = || [Status::Ready, Status::Executing, failed].map(|s| s.encode().to_vec()).into();
    target("init_status").seeds(samples).check(|bytes| {
        if let Some(status) = Status::decode(bytes) {
            assert_eq!(status.encode(), *bytes);
        }
    });
}

#[test]
fn fuzz_id_map() {
    let samples = || {
        let own = std::fs::read("/proc/self/uid_map").expect("own id map");
        vec![own, b"0 100000 65536\n 65536 0 4294967295\n".to_vec()]
    };
    target("id_map").seeds(samples).check(|bytes| {
        let maps = id_map_in(bytes);
        assert_eq!(id_map_in(map_text(&maps).as_bytes()), maps);
    });
}
