//! Holds up other processes of a container, as an attacker in there would, and the victims of it.
//!
//! - `escape hold trace`: traces each process that comes and never waits for it: what ends stays a zombie;
//! - `escape hold trace-threads`: the same, but for the first thread of each;
//! - `escape hold trace-exit`: traces each process, and keeps it before its end (PTRACE_EVENT_EXIT);
//! - `escape hold trace-one PID`: as `trace`, one process alone, on the host;
//! - `escape hold stop`: stops each process that comes, as soon as it is there, and once;
//! - `escape hold victim CODE [thread]`: with a second thread or without, waits until it is traced, and exits;
//! - `escape hold victim never [thread]`: says `traced` then, and waits for its end.
//!
//! All but the victims print `holds` when they begin, and leave alone who is there by then.

use std::{collections::HashSet, fs, process, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::sys::call;

/// A fixed point in time that does not come.
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

pub fn run(args: &[&str]) {
    match *args {
        ["trace"] => hold(|pid| trace(pid, 0)),
        ["trace-threads"] => hold(|pid| {
            let threads = numbers(&format!("/proc/{pid}/task"));
            threads.filter(|tid| *tid != pid).filter(|tid| trace(*tid, 0)).count() > 0
        }),
        ["trace-exit"] => hold(|pid| trace(pid, libc::PTRACE_O_TRACEEXIT)),
        ["stop"] => hold(|pid| {
            Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::STOP).is_ok())
        }),
        ["victim", code] => victim(code, false),
        ["victim", code, "thread"] => victim(code, true),
        _ => panic!("see the source for how to call this"),
    }
}

/// Traces one process, and never waits for it.
pub fn trace_one(pid: &str) {
    assert!(trace(pid.parse().expect("a pid"), 0), "it cannot be traced");
    println!("holds");
    thread::sleep(FOR_EVER);
}

/// Does something to each process that comes, until it has worked.
fn hold(mut act: impl FnMut(i32) -> bool) {
    let mut done: HashSet<i32> = numbers("/proc").collect();
    println!("holds");
    loop {
        for pid in numbers("/proc") {
            if !done.contains(&pid) && act(pid) {
                done.insert(pid);
            }
        }
    }
}

/// The names in a directory that are numbers. None, where it is gone.
fn numbers(directory: &str) -> impl Iterator<Item = i32> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn trace(pid: i32, options: i32) -> bool {
    call!(libc::SYS_ptrace, libc::PTRACE_SEIZE as usize, pid, 0, options).is_ok()
}

fn victim(code: &str, with_thread: bool) {
    if with_thread {
        thread::spawn(|| thread::sleep(FOR_EVER));
    }
    while !is_traced() {
        thread::sleep(Duration::from_millis(5));
    }
    if let Ok(code) = code.parse() {
        process::exit(code);
    }
    println!("traced");
    thread::sleep(FOR_EVER);
}

/// Whether any thread of this process is traced.
fn is_traced() -> bool {
    numbers("/proc/self/task").any(|tid| {
        let status =
            fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|pid| pid.trim() != "0")
    })
}
