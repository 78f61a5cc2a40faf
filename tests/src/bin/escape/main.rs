//! Tries the known ways out of a container, from inside, and prints a line for each: its name, and what the kernel
//! answered. `ok` means that the kernel did it, and so, for most of them, that it is a way out.
//!
//! - `escape CANARY SOCKET DEVICE…`: all attempts. CANARY is a file of the host, SOCKET the name of an abstract
//!   socket there and of keys, each DEVICE one of its device nodes as `b:MAJOR:MINOR` or `c:MAJOR:MINOR`;
//! - `escape plant KEY SECRET DIR COMMAND…`: for the host: runs a command with everything that it must not pass on:
//!   a secret in its environment and its keyrings as KEY, open directories, groups, inheritable capabilities;
//! - `escape hold …`: traces or stops what comes into the container, or is the victim of that, see `hold`;
//! - `escape watch`: opens the program of every process that comes, and tells whether it can be written.
//!
//! No attempt does harm where it succeeds: files are opened and not written, structures are such that the kernel
//! finds fault with them after it has asked for rights, and whatever changes the caller is done by a child.

// What it prints is what it is for.
#![allow(clippy::print_stdout)]

mod devices;
mod files;
mod hold;
mod kernel;
mod keys;
mod mounts;
mod plant;
mod processes;
mod sys;
mod watch;

use std::env;

use rustix::process::{Resource, Rlimit};

/// What the host has that nobody inside should reach.
pub struct Host {
    /// A file.
    pub canary: String,
    /// An abstract socket.
    pub socket: String,
    /// Device nodes: kind, major, minor.
    pub devices: Vec<(char, u32, u32)>,
}

/// Prints an answer.
pub fn say(name: &str, answer: &str) {
    println!("{name} {answer}");
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["plant", name, secret, dir, ref command @ ..] => plant::run(name, secret, dir, command),
        // That one alone, wherever it is.
        ["hold", "trace-one", pid] => hold::trace_one(pid),
        ["hold", ref how @ ..] => {
            assert_inside();
            hold::run(how);
        }
        ["watch"] => {
            assert_inside();
            watch::run();
        }
        ["euid"] => processes::print_rights(),
        [canary, socket, ref devices @ ..] => {
            assert_inside();
            let devices = devices.iter().filter_map(|text| device(text)).collect();
            all(&Host { canary: canary.to_owned(), socket: socket.to_owned(), devices });
        }
        _ => panic!("see the source for how to call this"),
    }
}

/// The initial pid namespace: PROC_PID_INIT_INO of the kernel.
const OF_THE_HOST: &str = "pid:[4026531836]";

/// Refuses to work on the host itself, where everything would be reached.
fn assert_inside() {
    let own = std::fs::read_link("/proc/self/ns/pid").expect("proc shows namespaces");
    assert!(own.as_os_str() != OF_THE_HOST, "this is the host, and no container");
    let limit = Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) };
    rustix::process::setrlimit(Resource::As, limit).expect("a limit of its memory");
}

fn device(text: &str) -> Option<(char, u32, u32)> {
    let mut parts = text.split(':');
    let kind = parts.next()?.chars().next()?;
    Some((kind, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn all(host: &Host) {
    files::attempts(host);
    devices::attempts(host);
    processes::attempts();
    keys::attempts(&host.socket);
    kernel::attempts(host);
    mounts::attempts(host);
    // The test knows by this that nothing ended it early.
    say("end", "ok");
}

/// The strings that look like a secret of the host in some bytes.
pub fn secrets(bytes: &[u8]) -> Vec<String> {
    // Put together here, so that this program's own text does not look like one.
    let mark = ["conti", "canary", ""].join("-").into_bytes();
    let mut found = Vec::new();
    for at in 0..bytes.len().saturating_sub(mark.len() + 16) {
        let end = at + mark.len();
        if bytes[at..end] == mark[..] && bytes[end..end + 16].iter().all(u8::is_ascii_hexdigit) {
            found.push(String::from_utf8_lossy(&bytes[at..end + 16]).into_owned());
        }
    }
    found.sort();
    found.dedup();
    found
}

/// `none`, or what was found.
pub fn list(mut found: Vec<String>) -> String {
    found.sort();
    found.dedup();
    if found.is_empty() { "none".to_owned() } else { found.join(",") }
}
