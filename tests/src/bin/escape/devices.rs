//! Devices of the host, and what a terminal can be made to do.

use std::{fs, fs::OpenOptions, os::unix::fs::OpenOptionsExt as _};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::{
    Host, list, say,
    sys::{call, told, told_io},
};

/// Names that would be devices of the host.
const NAMES: [&str; 8] = [
    "/dev/mem",
    "/dev/port",
    "/dev/kmsg",
    "/dev/vda",
    "/dev/sda",
    "/dev/loop-control",
    "/dev/tty0",
    "/dev/kvm",
];

pub fn attempts(host: &Host) {
    for path in NAMES {
        say(&format!("device:{path}"), &told_io(open(path)));
    }
    for (kind, major, minor) in &host.devices {
        say(&format!("node:{kind}:{major}:{minor}"), &node(*kind, *major, *minor));
    }
    let terminals = fs::read_dir("/dev/pts").into_iter().flatten().flatten();
    let names = terminals.map(|entry| entry.file_name().to_string_lossy().into_owned());
    say("terminals", &list(names.filter(|name| name != "ptmx").collect()));
    // Both type for whoever sits at the terminal. What is typed here is for this process, which does not read.
    say("tiocsti", &told(call!(libc::SYS_ioctl, 0, 0x5412, &b"\n"[..])));
    say("tioclinux", &told(call!(libc::SYS_ioctl, 0, 0x541c, &b"\x06"[..])));
    // The upper half of the request is not looked at by the kernel, and must not be by the filter.
    say("tiocsti-high", &told(call!(libc::SYS_ioctl, 0, 0x1_0000_5412usize, &b"\n"[..])));
}

fn open(path: &str) -> std::io::Result<fs::File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Makes a node where it can be made, and opens it: two answers.
fn node(kind: char, major: u32, minor: u32) -> String {
    let of = if kind == 'b' { FileType::BlockDevice } else { FileType::CharacterDevice };
    let mut answers = Vec::new();
    for dir in ["/tmp", "/dev", "/dev/shm", "/run", "/var", "/target/tmp", "/target/var"] {
        let path = format!("{dir}/escape-node");
        let made = mknodat(CWD, &path, of, Mode::RUSR | Mode::WUSR, makedev(major, minor));
        if made.is_ok() {
            answers.push(told_io(open(&path)));
            let _ = fs::remove_file(&path);
        } else {
            answers.push("unmade".to_owned());
        }
    }
    if answers.iter().any(|answer| answer == "ok") {
        return "ok".to_owned();
    }
    list(answers.into_iter().filter(|answer| answer != "unmade").collect())
}
