//! The host's side: an agent that has what it must not pass on.

use std::{
    env,
    fs::File,
    os::{fd::IntoRawFd as _, unix::process::CommandExt as _},
    process::Command,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    thread::{
        CapabilitySet, CapabilitySets, Gid, capabilities, configure_capability_in_ambient_set,
        set_capabilities, set_thread_groups,
    },
};

use crate::keys;

/// A group that no container has. The test knows it.
const GROUP: u32 = 424_242;

/// Runs a command with a secret in its environment and keyrings, directories open, a group, and capabilities that
/// are inherited.
pub fn run(name: &str, secret: &str, dir: &str, command: &[&str]) {
    keys::plant(name, secret);
    for path in [dir, "/", dir, "/proc/self/ns"] {
        let file = File::open(path).expect("a directory of the host");
        fcntl_setfd(&file, FdFlags::empty()).expect("an fd that is passed on");
        let _ = file.into_raw_fd();
    }
    set_thread_groups(&[Gid::from_raw(GROUP)]).expect("a group");
    let sets = capabilities(None).expect("capabilities");
    let all = CapabilitySets { inheritable: sets.permitted, ..sets };
    set_capabilities(None, all).expect("capabilities that are inherited");
    configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true).expect("an ambient one");
    env::set_current_dir(dir).expect("a working directory of the host");
    let (program, arguments) = command.split_first().expect("a command");
    let error = Command::new(program).args(arguments).env("CANARY", secret).exec();
    panic!("{program}: {error}");
}
