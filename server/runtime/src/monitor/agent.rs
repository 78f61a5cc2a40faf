//! The connection to the agent: the one that started the session, or one that came later.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::order::MAX_MESSAGE;
use crate::{
    protocol::{FromMonitor, MonitorState, ToMonitor, VERSION},
    sys::socket::{self, Packet, Wait, recv_packet, send_packet},
};

/// The fds by which agent and monitor reach each other.
#[derive(Debug)]
pub struct Links {
    /// The eventfd that tells the agent of data.
    pub agent_wakeup: OwnedFd,
    /// The eventfd that tells the monitor of room or input.
    pub own_wakeup: OwnedFd,
    /// Where later agents connect.
    pub listener: OwnedFd,
    /// The session's directory.
    pub directory: OwnedFd,
}

/// The agent, whether it is there or not.
#[derive(Debug)]
pub struct Agent {
    control: Option<OwnedFd>,
    pub links: Links,
    /// The devpts root of the container that began with this session, kept for the agents to come.
    pub devpts: Option<OwnedFd>,
}

impl Agent {
    pub fn new(control: OwnedFd, links: Links) -> Agent {
        // The event loop never waits on one of them alone. Where this fails, a connection that is given up
        // at the wrong moment delays the loop until the next one.
        for fd in [&links.listener, &links.own_wakeup, &links.agent_wakeup] {
            let _ = fcntl_getfl(fd).and_then(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK));
        }
        Agent { control: Some(control), links, devpts: None }
    }

    /// Its socket, while it is connected.
    pub fn control(&self) -> Option<&OwnedFd> {
        self.control.as_ref()
    }

    /// Tells the agent, if there is one. One that cannot be told is given up: it may connect again and
    /// gets the state then.
    pub fn tell(&mut self, message: &FromMonitor) {
        if self.send(message, &[]).is_err() {
            self.control = None;
        }
    }

    /// Tells the agent that there is something in the journal.
    pub fn wake(&self) {
        // A full counter has woken it already.
        let _ = rustix::io::write(&self.links.agent_wakeup, &1u64.to_ne_bytes());
    }

    /// Takes back what the agent wrote to wake the monitor.
    pub fn awake(&self) {
        // Empty after all: nothing to take.
        let _ = rustix::io::read(&self.links.own_wakeup, &mut [0; 8]);
    }

    /// The next message, if there is one. Whoever closes, or sends what makes no sense, is given up.
    pub fn receive(&mut self) -> Option<ToMonitor> {
        let mut buffer = [0; MAX_MESSAGE];
        match recv_packet(self.control.as_ref()?, &mut buffer, Wait::No) {
            Ok(Packet { len, .. }) if len > 0 => match serde_json::from_slice(&buffer[..len]) {
                Ok(ToMonitor::Run { .. } | ToMonitor::MoreFds) | Err(_) => {}
                Ok(message) => return Some(message),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Ok(_) | Err(_) => {}
        }
        self.control = None;
        None
    }

    /// Takes a new agent in place of the one before, and tells it where the session stands.
    pub fn accept(&mut self, state: &MonitorState, journal: BorrowedFd<'_>) {
        // Who may not connect, or has gone again, is no agent.
        let Ok(control) = socket::accept(&self.links.listener) else { return };
        self.control = Some(control);
        let state = FromMonitor::State { version: VERSION, state: state.clone() };
        let mut fds = vec![journal, self.links.agent_wakeup.as_fd(), self.links.own_wakeup.as_fd()];
        fds.extend(self.devpts.as_ref().map(AsFd::as_fd));
        if self.send(&state, &fds).is_err() {
            self.control = None;
        }
    }

    /// Never waits: a queue that is full is that of an agent which reads nothing.
    fn send(&self, message: &FromMonitor, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        send_packet(control, &serde_json::to_vec(message)?, fds, Wait::No)
    }

    /// Whether no agent can ever ask for the session again: none is there, and the session's
    /// directory, in which it would look, was removed.
    pub fn never_returns(&self) -> bool {
        let removed = rustix::fs::fstat(&self.links.directory).is_ok_and(|stat| stat.st_nlink == 0);
        self.control.is_none() && removed
    }
}
