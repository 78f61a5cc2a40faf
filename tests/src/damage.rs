//! Damage to the files of an agent, and what tests ask of one that comes back to them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use conti_proto::v1::{self, GetSessionRequest, Session, StartSessionRequest, target};
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::{Pid, Signal, kill_process},
};
use tonic::{Code, Status};

use crate::{
    api::{self, Api, process, session, shell},
    host::{self, Pinned},
    wait,
    wire::{self, Wire},
};

/// A name, and what puts something that says nothing in the place of a file.
pub type Damage = (&'static str, fn(&Path));

/// All kinds of damage to a file that is there still.
pub const DAMAGES: [Damage; 5] = [
    ("cut", |path| {
        let length = fs::metadata(path).expect("a file").len();
        let file = fs::File::options().write(true).open(path).expect("a file");
        file.set_len(length / 2).expect("cut");
    }),
    ("nonsense", |path| fs::write(path, "\0\0\0\0").expect("written")),
    ("directory", |path| {
        fs::remove_file(path).expect("removed");
        fs::create_dir(path).expect("a directory");
    }),
    ("FIFO", fifo),
    ("link", |path| {
        fs::remove_file(path).expect("removed");
        symlink("/dev/zero", path).expect("a link");
    }),
];

/// Puts a FIFO in the place of a file, or where there is none.
pub fn fifo(path: &Path) {
    let _ = fs::remove_file(path);
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a FIFO");
}

/// A container as a target.
pub fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

/// Starts a session that nobody drives.
pub async fn start(api: &mut Api, container: &str, script: &str) -> Result<Session, Status> {
    let spec = Some(session(container, shell(script)));
    let request = StartSessionRequest { spec, ..Default::default() };
    let started = api.sessions.start_session(request).await?.into_inner();
    Ok(started.session.expect("a session"))
}

/// Runs a command in a container, as one may who may enter it.
pub async fn enter(api: &mut Api, container: &str) -> Result<(), Status> {
    let wire = Wire::open(api, wire::start(session(container, process(["true"])))).await?;
    assert_eq!(api::exit_code(&wire.collect().await.end), 0);
    Ok(())
}

/// Has an attempt to enter a container refused.
pub async fn denied(api: &mut Api, container: &str, what: &str) {
    let refused = enter(api, container).await.expect_err(what);
    assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
}

/// Looks at a session.
pub async fn get_session(api: &mut Api, id: &str) -> Result<Session, Status> {
    let request = GetSessionRequest { session_id: id.to_owned() };
    Ok(api.sessions.get_session(request).await?.into_inner().session.expect("a session"))
}

/// Signals a session.
pub async fn signal(api: &mut Api, id: &str, signal: &str) -> Result<(), Status> {
    let (session_id, signal) = (id.to_owned(), signal.to_owned());
    api.sessions.signal_session(v1::SignalSessionRequest { session_id, signal }).await.map(|_| ())
}

/// Stops a container.
pub async fn stop(api: &mut Api, container: &str) {
    let request =
        v1::StopContainerRequest { container: container.to_owned(), ..Default::default() };
    api.containers.stop_container(request).await.expect("it stops");
}

/// Deletes a container that does not run.
pub async fn delete_stopped(api: &mut Api, container: &str) -> Result<(), Status> {
    let request =
        v1::DeleteContainerRequest { container: container.to_owned(), ..Default::default() };
    api.containers.delete_container(request).await.map(|_| ())
}

/// The files of a directory whose names end like this.
pub fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.retain(|path| path.to_string_lossy().ends_with(end));
    all
}

/// Signals a process.
pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("it can be signalled");
}

/// A process that must be there.
pub fn the_process(pid: u32) -> Pinned {
    host::pinned(pid).expect("a process")
}

/// The pid of a process's monitor.
pub fn monitor_of(pid: u32) -> u32 {
    let parent = status(pid, "PPid:").parse().expect("a parent");
    assert_eq!(status(parent, "Name:"), "conti-monitor");
    parent
}

/// The monitor of a process, stopped until this is dropped.
pub struct Stopped(Pinned);

impl Stopped {
    /// That of a process.
    pub fn monitor_of(pid: u32) -> Stopped {
        let parent = monitor_of(pid);
        let stopped = Stopped(the_process(parent));
        stopped.signal(Signal::STOP);
        wait::until_true("it is stopped", || status(parent, "State:").starts_with('T'));
        stopped
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.pid.cast_signed()).expect("a pid");
        // It may have been killed meanwhile.
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.0.alive() {
            self.signal(Signal::CONT);
        }
    }
}

/// A field of the status of a process.
pub fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default().trim().to_owned()
}
