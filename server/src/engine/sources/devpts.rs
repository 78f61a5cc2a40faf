//! Instances of devpts: the terminals of a container.
//!
//! The kernel has so many terminals for all (kernel.pty.max) and keeps some of them for the host (kernel.pty.reserve): for
//! the instances that were made in the first mount namespace. That is the agent's, so that one of a container would be
//! counted among them, and what runs in there could leave the host without any. They are made by a thread that has left
//! it, and each has a limit of its own.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use conti_runtime::launcher;
use rustix::{io::Errno, mount::MountAttrFlags};

use super::filesystem::{Refused, give, make};
use crate::engine::error::Result;

/// How many terminals an instance has at most. The kernel has 4096 by default, and keeps 1024 of them for the host.
const MOST: u32 = 1024;
/// The name of the thread that makes them.
const THREAD: &str = "devpts";

/// What is to be made.
#[derive(Debug)]
struct Order {
    owner: (u32, u32),
    tty_group: Option<u32>,
    made: mpsc::Sender<std::result::Result<OwnedFd, Refused>>,
}

/// Where orders go, once the thread is there.
static ORDERS: Mutex<Option<mpsc::Sender<Order>>> = Mutex::new(None);

/// Makes a devpts instance. `owner`: the host's ids of the container's root user; `tty_group`: the group that may
/// write to its terminals, on the host. Without one nobody but their users may.
pub fn devpts(owner: (u32, u32), tty_group: Option<u32>) -> Result<OwnedFd> {
    let order = || {
        let orders = orders()?;
        let (made, answer) = mpsc::channel();
        let made = orders.send(Order { owner, tty_group, made }).is_ok();
        // A thread that died takes no order with it: there is another for the next.
        let made = made.then(|| answer.recv().ok()).flatten();
        if made.is_none() {
            *ORDERS.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(made)
    };
    let made = order().and_then(|made| made.map_or_else(order, |made| Ok(Some(made))));
    let made = made.and_then(|made| made.ok_or_else(|| io::Error::other("its thread died")));
    let refused = |error: io::Error| Refused {
        errno: Errno::from_io_error(&error).unwrap_or(Errno::AGAIN),
        words: error.to_string(),
    };
    made.map_err(refused).flatten().map_err(|refused| {
        refused.on("mount", "cannot make", "devpts", "the kernel needs CONFIG_UNIX98_PTYS")
    })
}

fn orders() -> io::Result<mpsc::Sender<Order>> {
    let mut place = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(orders) = &*place {
        return Ok(orders.clone());
    }
    let (orders, todo) = mpsc::channel();
    let (ready, left) = mpsc::channel();
    thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
        let done = launcher::leave_mounts();
        let failed = done.is_err();
        // Whoever waits for it is there.
        let _ = ready.send(done);
        if !failed {
            serve(&todo);
        }
    })?;
    left.recv().map_err(io::Error::other)??;
    Ok(place.insert(orders).clone())
}

fn serve(todo: &mpsc::Receiver<Order>) {
    for Order { owner, tty_group, made } in todo {
        let _ = made.send(instance(owner, tty_group));
    }
}

fn instance(owner: (u32, u32), tty_group: Option<u32>) -> std::result::Result<OwnedFd, Refused> {
    let (mode, group) = tty_group.map_or(("0600", owner.1), |group| ("0620", group));
    let options = [
        ("ptmxmode", Some("0666".to_owned())),
        ("mode", Some(mode.to_owned())),
        ("gid", Some(group.to_string())),
        ("max", Some(MOST.to_string())),
    ];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let devpts = make("devpts", &options, attributes)?;
    // The options are about terminals only.
    for name in ["", "ptmx"] {
        give(devpts.as_fd(), name, owner)
            .map_err(|errno| Refused { errno, words: String::new() })?;
    }
    Ok(devpts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_died_is_replaced() {
        *ORDERS.lock().expect("nobody died with it") = Some(mpsc::channel().0);
        devpts((0, 0), None).expect("made by another");
    }

    #[test]
    fn they_are_not_made_in_the_mount_namespace_of_the_host() {
        devpts((0, 0), None).expect("made");
        let namespace = |of: &str| {
            let link = rustix::fs::readlink(format!("/proc/{of}/ns/mnt"), Vec::new());
            link.expect("a namespace has a name")
        };
        let tasks = rustix::fs::Dir::new(
            rustix::fs::open(
                "/proc/self/task",
                rustix::fs::OFlags::RDONLY,
                rustix::fs::Mode::empty(),
            )
            .expect("the threads of this process"),
        );
        let makers: Vec<String> = tasks
            .expect("a directory")
            .filter_map(|task| task.ok()?.file_name().to_str().ok().map(str::to_owned))
            .filter(|task| {
                let comm =
                    conti_runtime::host::read_to_string(format!("/proc/self/task/{task}/comm"));
                comm.is_ok_and(|comm| comm.trim() == THREAD)
            })
            .collect();
        assert_eq!(makers.len(), 1, "{makers:?}");
        assert_ne!(namespace(&format!("self/task/{}", makers[0])), namespace("self"));
    }
}
