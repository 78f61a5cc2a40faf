//! The order of a session: a plan, its fds, and what the monitor needs for itself.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use super::agent::Links;
use crate::{
    journal::Writer,
    plan::Plan,
    protocol::ToMonitor,
    sys::{
        memfd::read_sealed,
        socket::{Packet, Wait, recv_packet},
    },
};

/// The longest message of an agent; what is longer comes as a file.
pub const MAX_MESSAGE: usize = 1024;

/// The largest plan.
const MAX_PLAN: u64 = 16 << 20;

/// The most fds of a plan.
const MAX_PLAN_FDS: u32 = 16 * 1024;

/// The fds that come before those of the plan.
const OWN_FDS: usize = 6;

/// A whole order.
pub struct Order {
    /// The plan, where it can be read.
    pub plan: io::Result<Plan>,
    /// The plan's file and its fds.
    pub fds: Fds,
    /// Where output goes and input comes from.
    pub journal: Writer,
    /// How the agent is reached.
    pub links: Links,
}

/// What travels with a plan.
pub struct Fds {
    /// The plan itself.
    pub memfd: OwnedFd,
    /// The fds that it speaks of.
    pub plan: Vec<OwnedFd>,
}

/// Waits for the order. `None` where the agent has closed before or lets the monitor go.
pub fn receive(control: &OwnedFd) -> io::Result<Option<Order>> {
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        let Packet { len, fds } = recv_packet(control, &mut buffer, Wait::Yes)?;
        if len == 0 {
            return Ok(None);
        }
        match serde_json::from_slice(&buffer[..len])? {
            ToMonitor::Run { plan_fds } => return assemble(control, plan_fds, fds).map(Some),
            ToMonitor::Release => return Ok(None),
            ToMonitor::MoreFds => return Err(io::ErrorKind::InvalidData.into()),
            // There is nothing yet that they could be meant for.
            ToMonitor::Start | ToMonitor::Signal { .. } | ToMonitor::Resize { .. } => {}
        }
    }
}

fn assemble(control: &OwnedFd, plan_fds: u32, first: Vec<OwnedFd>) -> io::Result<Order> {
    if plan_fds > MAX_PLAN_FDS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let is_more = |bytes: &[u8]| matches!(serde_json::from_slice(bytes), Ok(ToMonitor::MoreFds));
    let mut fds = gather(control, first, OWN_FDS + plan_fds as usize, is_more)?;
    let plan = fds.split_off(OWN_FDS);
    let own: [OwnedFd; OWN_FDS] = fds.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    let [memfd, journal, agent_wakeup, own_wakeup, listener, directory] = own;
    Ok(Order {
        plan: read_plan(memfd.try_clone()?),
        fds: Fds { memfd, plan },
        journal: Writer::map(journal)?,
        links: Links { agent_wakeup, own_wakeup, listener, directory },
    })
}

/// Receives packets until there are `count` fds. More than that, or another message in between, is an
/// error, and so is the end of the socket.
pub fn gather(
    socket: &OwnedFd,
    mut fds: Vec<OwnedFd>,
    count: usize,
    is_more: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<OwnedFd>> {
    let mut buffer = [0; MAX_MESSAGE];
    while fds.len() < count {
        let packet = recv_packet(socket.as_fd(), &mut buffer, Wait::Yes)?;
        if packet.fds.is_empty() || !is_more(&buffer[..packet.len]) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        fds.extend(packet.fds);
    }
    if fds.len() == count { Ok(fds) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Reads a plan from its file.
pub fn read_plan(memfd: OwnedFd) -> io::Result<Plan> {
    Ok(serde_json::from_slice(&read_sealed(memfd, MAX_PLAN)?)?)
}
