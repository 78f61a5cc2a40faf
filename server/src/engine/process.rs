//! Processes of the host: pinning one, and what a new one gets where nothing was said.

use std::{io, os::fd::OwnedFd};

use conti_runtime::{
    host,
    inspect::{
        held_namespaces::{HeldNamespaces, OwnNamespaces},
        process,
    },
    plan::{IdMap, NsType, Process},
    protocol::ProcessId,
};
use rustix::process::{Signal, pidfd_send_signal};

use super::{
    error::{Error, Result},
    spec::SessionIo,
};

/// Bit 27 of a capability set.
const CAP_MKNOD: u64 = 1 << 27;

/// Where nothing enforces a container's device policy, nobody in it makes device nodes, unless it is
/// privileged.
pub fn withhold_mknod(process: &mut Process) {
    if !process.confinement.privileged {
        process.confinement.capabilities &= !CAP_MKNOD;
    }
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Adds what an environment must have: PATH, and TERM with a terminal. HOME is added by init, who reads
/// the container's /etc/passwd.
pub fn complete(process: &mut Process, io: &SessionIo) {
    let missing =
        |name: &str, env: &[String]| !env.iter().any(|e| e.split('=').next() == Some(name));
    if missing("PATH", &process.env) && !process.raw_env.iter().any(|e| e.starts_with(b"PATH=")) {
        process.env.push(PATH.to_owned());
    }
    if io.terminal.is_some() && missing("TERM", &process.env) {
        process.env.push("TERM=xterm".to_owned());
    }
}

/// Lays the environment of a process over that of another, as /proc/PID/environ has it: bytes, each entry ended by
/// NUL. What has no name is left out.
pub fn lay_over(process: &mut Process, below: &[u8]) {
    fn name(entry: &[u8]) -> Option<&[u8]> {
        let at = entry.iter().position(|byte| *byte == b'=')?;
        (at > 0).then_some(&entry[..at])
    }
    let named: Vec<_> = process.env.iter().map(|entry| name(entry.as_bytes())).collect();
    let (mut text, mut raw) = (Vec::new(), Vec::new());
    for entry in below.split(|byte| *byte == 0) {
        let at = name(entry);
        if at.is_none() || named.contains(&at) {
            continue;
        }
        match str::from_utf8(entry) {
            Ok(entry) => text.push(entry.to_owned()),
            Err(_) => raw.push(entry.to_vec()),
        }
    }
    text.append(&mut process.env);
    (process.env, process.raw_env) = (text, raw);
}

/// Lays one environment over another.
pub fn overlay_env(below: &[String], above: &[String]) -> Vec<String> {
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    let named: Vec<String> = above.iter().map(|e| name(e)).collect();
    let mut env: Vec<String> =
        below.iter().filter(|e| !named.contains(&name(e))).cloned().collect();
    env.extend_from_slice(above);
    env
}

/// A process that cannot be exchanged for another while this is held.
#[derive(Debug)]
pub struct Pinned(process::Pinned);

impl Pinned {
    /// Pins a process, which must have been started at `start_ticks` where that is known.
    pub fn open(pid: i32, start_ticks: Option<u64>) -> Result<Pinned> {
        Ok(Pinned(process::Pinned::open(pid, start_ticks)?))
    }

    /// Checks that it has not been reaped, so that all that was read below /proc/PID is its own.
    pub fn still_there(&self) -> Result<()> {
        Ok(self.0.still_there()?)
    }

    /// The namespaces that it is in.
    pub fn namespaces(&self, own: &OwnNamespaces) -> Result<HeldNamespaces> {
        Ok(HeldNamespaces::of(&self.0, own)?)
    }

    /// Checks that it is alive and in these namespaces still.
    pub fn still_in(&self, namespaces: &HeldNamespaces) -> Result<()> {
        Ok(namespaces.still_of(&self.0)?)
    }

    /// The id maps of users and of groups in its user namespace.
    pub fn id_maps(&self) -> Result<(Vec<IdMap>, Vec<IdMap>)> {
        let directory = process::directory(self.0.pid())?;
        let map = |file| process::id_map(&directory, file).map_err(|e| gone(self.0.pid(), &e));
        Ok((map("uid_map")?, map("gid_map")?))
    }

    /// What names it for good.
    pub fn id(&self) -> ProcessId {
        self.0.id()
    }

    /// The pidfd itself.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into_fd()
    }
}

/// The number of the pid namespace that a process is in.
pub fn pid_namespace(pid: i32) -> Option<u64> {
    let links = process::namespaces(process::directory(pid).ok()?).ok()?;
    process::namespace_of(&links, NsType::Pid.file_name())
}

/// Kills a process, if it is still the one that is meant.
pub fn kill(process: ProcessId) {
    if let Ok(pinned) = Pinned::open(process.pid, Some(process.start_ticks)) {
        // Where it has ended meanwhile there is nothing to be done.
        let _ = pidfd_send_signal(pinned.into_fd(), Signal::KILL);
    }
}

/// The parent of a process, if it has this name.
pub fn parent_named(of: ProcessId, name: &[u8]) -> Option<ProcessId> {
    let stat = |pid: i32| host::read_line(format!("/proc/{pid}/stat")).ok();
    let pinned = process::Pinned::same(of).ok()?;
    let own = stat(of.pid)?;
    let (_, fields) = process::name_and_fields(&own)?;
    let pid = str::from_utf8(fields.get(1)?).ok()?.parse().ok()?;
    let parents = stat(pid)?;
    let (found, _) = process::name_and_fields(&parents)?;
    let start_ticks = process::start_time_in(&parents)?;
    // As long as it has not gone, neither has its parent been exchanged.
    pinned.still_there().ok()?;
    (found == name).then_some(ProcessId { pid, start_ticks })
}

/// The name of a process.
pub fn name(pid: i32) -> Option<Vec<u8>> {
    let stat = host::read_line(format!("/proc/{pid}/stat")).ok()?;
    process::name_and_fields(&stat).map(|(name, _)| name.to_owned())
}

/// The error for a process that is not there.
pub fn gone(pid: i32, error: &io::Error) -> Error {
    process::gone(pid, error).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::ContainerSpec;

    #[test]
    fn an_environment_is_laid_over_another_by_name() {
        let below = ["A=1".to_owned(), "B=2".to_owned()];
        let above = ["B=3".to_owned(), "C=".to_owned()];
        assert_eq!(overlay_env(&below, &above), ["A=1", "B=3", "C="]);
    }

    #[test]
    fn the_environment_of_another_process_may_be_any_bytes() {
        let mut process = ContainerSpec::unknown().process;
        process.env = vec!["B=3".to_owned(), "C=".to_owned()];
        lay_over(&mut process, b"A=1\0B=\xff\0\xff=x\0D=\xfe\0nothing\0=none\0B=2\0");
        assert_eq!(process.env, ["A=1", "B=3", "C="]);
        assert_eq!(process.raw_env, [b"\xff=x", b"D=\xfe"]);
    }
}
