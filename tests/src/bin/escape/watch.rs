//! CVE-2019-5736: whoever starts a program in a container is itself a program there for a moment. It is opened as
//! soon as it is seen, and opened again for writing when it runs no more.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{files::pids, say, sys::told_io};

static DONE: AtomicBool = AtomicBool::new(false);

/// Watches until stdin ends.
pub fn run() {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        DONE.store(true, Ordering::Relaxed);
    });
    say("watching", "ok");
    let mut programs: BTreeMap<(u64, u64), (File, String)> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    while !DONE.load(Ordering::Relaxed) {
        for pid in pids() {
            let path = format!("/proc/{pid}/exe");
            let Ok(file) = File::open(&path) else { continue };
            seen.insert(pid);
            let Ok(meta) = file.metadata() else { continue };
            let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let link = link.map_or("?".to_owned(), |link| link.display().to_string());
            programs.entry((meta.dev(), meta.ino())).or_insert((file, link));
        }
    }
    for (file, link) in programs.values() {
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened = OpenOptions::new().write(true).open(again);
        say(&format!("program:{}", link.replace(' ', "_")), &told_io(opened));
    }
    say("seen", &seen.len().to_string());
}
