//! Watches from inside of a pid namespace which processes become visible there, and tells of each that has
//! more than its neighbours should: what a container with CAP_SYS_PTRACE could take over.
//!
//! `watcher CAPS [same-root]`: the capabilities that a process may have, hexadecimal, and whether its root
//! must be the watcher's own. Prints `watching`, then a line for each finding, until its stdin ends; then
//! how many processes it has seen.

// What it prints is what it is for.
#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

static DONE: AtomicBool = AtomicBool::new(false);

fn main() {
    let args: Vec<String> = env::args().collect();
    let most = args.get(1).and_then(|a| u64::from_str_radix(a, 16).ok()).unwrap_or(0);
    let same_root = args.get(2).is_some_and(|a| a == "same-root");
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        DONE.store(true, Ordering::Relaxed);
    });
    let root = fs::metadata("/").map(|m| (m.dev(), m.ino())).ok().filter(|_| same_root);
    println!("watching");
    let (mut seen, mut told) = (BTreeSet::new(), BTreeSet::new());
    while !DONE.load(Ordering::Relaxed) {
        let Ok(entries) = fs::read_dir("/proc") else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            seen.insert(name.clone());
            for finding in look(&name, most, root) {
                if told.insert(finding.clone()) {
                    println!("FOUND {finding}");
                }
            }
        }
    }
    println!("seen {}", seen.len());
}

/// What a process has that it should not have.
fn look(pid: &str, most: u64, root: Option<(u64, u64)>) -> Vec<String> {
    let mut findings = Vec::new();
    let Ok(status) = fs::read(format!("/proc/{pid}/status")) else { return findings };
    let status = String::from_utf8_lossy(&status).into_owned();
    let field = |name: &str, radix| {
        let value = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|v| u64::from_str_radix(v.trim(), radix).ok())
    };
    // One that has ended has no rights; its fields say nothing.
    if status.contains("State:\tZ") || status.contains("State:\tX") {
        return findings;
    }
    for set in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
        if let Some(has) = field(set, 16).filter(|has| has & !most != 0) {
            findings.push(format!("{set} {has:x}"));
        }
    }
    if field("Seccomp", 10) == Some(0) {
        findings.push("no filter".to_owned());
    }
    // Both follow the links of /proc, which tracers may.
    if let Ok(theirs) = fs::metadata(format!("/proc/{pid}/root"))
        && root.is_some_and(|own| own != (theirs.dev(), theirs.ino()))
    {
        findings.push("another root".to_owned());
    }
    if let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) {
        for fd in fds.flatten() {
            let to = fs::read_link(fd.path()).unwrap_or_default();
            let to = to.to_string_lossy();
            // Its programs' own files are its own; directories are not, but for what the watcher reads.
            let dir = fs::metadata(fd.path()).is_ok_and(|meta| meta.is_dir());
            let foreign = !to.is_empty() && !to.starts_with('/') && !to.starts_with("pipe:");
            if foreign || to.starts_with("/memfd") || dir && !to.starts_with("/proc") {
                findings.push(format!("holds {}", to.split('[').next().unwrap_or_default()));
            }
        }
    }
    findings
}
