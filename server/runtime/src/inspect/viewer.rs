//! As whom the files of a target are looked at.
//!
//! ```text
//!  filesystem           user                                capabilities in the target's user namespace
//!  -------------------  ----------------------------------  -------------------------------------------
//!  one of the kernel's  that of the target's main process   the effective ones of that process
//!  any other            root of that user namespace         CAP_DAC_READ_SEARCH, CAP_FOWNER
//! ```
//!
//! What proc and sysfs show, and of whom, is decided by the rights and the namespaces of whoever looks: with
//! the launcher's, an inspector would read the memory of every process, and would show the host's network
//! for the target's. So it joins the namespaces of the main process, all but two: no process in the target's
//! pid namespace sees the inspector, and no path of its mount namespace is looked up but below its root.
//!
//! The kernel decides by the effective capabilities and the ids for files (PTRACE_MODE_FSCREDS in ptrace(2),
//! credentials(7)), which can be exchanged: one question may lead to files of both kinds.

use std::{fs::File, os::fd::OwnedFd, os::unix::fs::FileExt as _};

use rustix::{
    io::Errno,
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities,
        set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{
    held_namespaces::{HeldNamespaces, OwnNamespaces},
    process::{self, Pinned, Root},
    question::Failure,
    status::Status,
    walk::{Walk, Walked},
};
use crate::{
    fault,
    plan::{IdMap, NsType},
    sys::cred::{new_session_keyring, set_file_ids},
};

/// Rights over ordinary files: reading any, without a trace (O_NOATIME).
const ROOT: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::FOWNER);
/// What exchanging the ids for files needs.
const EXCHANGE: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);
/// The namespaces that what the kernel shows depends on. See above for the two that are missing.
const JOINED: [NsType; 6] =
    [NsType::User, NsType::Uts, NsType::Ipc, NsType::Net, NsType::Cgroup, NsType::Time];

/// One who looks at the files of a target.
#[derive(Debug)]
pub struct Viewer {
    main: Main,
    root: Root,
    is_main: bool,
    /// Of the main process, in the user namespace that was joined; `None`: in there it, or root, has none,
    /// so that they are not exchanged.
    ids: Option<(u32, u32)>,
    effective: CapabilitySet,
    permitted: CapabilitySet,
}

/// The main process of a target, as far as it must be found again in a proc.
#[derive(Debug)]
pub struct Main {
    /// Its pids, from the inspector's pid namespace down to its own.
    pub pids: Vec<i32>,
    stat: File,
}

impl Viewer {
    /// Becomes one. The rights that this process had before are gone then.
    pub fn of(main: &Pinned) -> Result<Viewer, Failure> {
        let gone = |error| process::gone(main.pid(), &error);
        let directory = process::directory(main.pid())?;
        let namespaces = HeldNamespaces::of(main, &OwnNamespaces::look()?)?;
        let root = process::root(&directory).map_err(|errno| gone(errno.into()))?;
        let status = Status::read(&directory).map_err(gone)?;
        let stat = process::open(&directory, "stat").map_err(gone)?;
        let (uid, gid) = (status.id("Uid:"), status.id("Gid:"));
        let (Some(uid), Some(gid)) = (uid, gid) else { return Err(gone(unreadable())) };
        let ids = match namespaces.is_own(NsType::User) {
            false => mapped(&directory, uid, gid).map_err(gone)?,
            true => Some((uid, gid)),
        };
        let groups = status.numbers("Groups:").into_iter().map(Gid::from_raw).collect::<Vec<_>>();
        namespaces.still_of(main)?;
        fault::point("viewer.looked");
        let pids = status.numbers("NSpid:").into_iter().filter_map(|pid| pid.try_into().ok());
        let mut viewer = Viewer {
            main: Main { pids: pids.collect(), stat },
            root,
            is_main: true,
            ids,
            effective: status.capabilities(),
            permitted: CapabilitySet::empty(),
        };
        let become_it = || -> Result<CapabilitySet, Errno> {
            // Outside, where every id can be taken, also one that the user namespace does not know.
            set_keep_capabilities(true)?;
            set_thread_groups(&groups)?;
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
            let own = capabilities(None)?.permitted;
            set(own, own)?;
            namespaces.join(&JOINED)?;
            Ok(capabilities(None)?.permitted)
        };
        let refused =
            |errno| Failure::refused("cannot become like process", main.pid().to_string(), errno);
        let own = become_it().map_err(refused)?;
        viewer.effective &= own;
        viewer.permitted = (viewer.effective | ROOT | EXCHANGE) & own;
        // /proc/keys tells what the reader possesses.
        match new_session_keyring() {
            Ok(()) | Err(Errno::NOSYS) => {}
            Err(errno) => return Err(refused(errno)),
        }
        viewer.as_root()?;
        Ok(viewer)
    }

    /// What a path leads to. Links are followed below the target's root, but for the magic ones of proc. From
    /// here on it is looked at as what was found asks for.
    pub fn find(&mut self, path: &[u8]) -> Result<OwnedFd, Failure> {
        if self.is_main {
            self.as_root()?;
        }
        let walk = |viewer: &Viewer| {
            Walk::new(&viewer.root, &viewer.main, path, viewer.is_main)
                .and_then(Walk::run)
                .map_err(|errno| viewer.refused("cannot open", path, errno))
        };
        let mut walked = walk(self)?;
        if matches!(walked, Walked::Kernel) {
            // All of the path, not only the rest: nothing is reached by more rights than those.
            self.as_main()?;
            walked = walk(self)?;
        }
        match walked {
            Walked::Found(found) => Ok(found),
            Walked::Magic => Err(Failure::unfit(
                "a magic link of proc, which could lead out of the target, is not followed:",
                path,
            )),
            Walked::Kernel => Err(self.refused("cannot open", path, Errno::AGAIN)),
        }
    }

    /// What was refused, and to whom.
    pub fn refused(&self, tried: &str, path: &[u8], errno: Errno) -> Failure {
        match (self.is_main, errno) {
            (true, Errno::ACCESS | Errno::PERM) => {
                let whom = "with the rights of the target's main process";
                Failure::refused(&format!("{whom}, {tried}"), path, errno)
            }
            _ => Failure::refused(tried, path, errno),
        }
    }

    fn as_root(&mut self) -> Result<(), Failure> {
        self.is_main = false;
        self.change(|viewer| {
            if viewer.ids.is_some() {
                set(viewer.permitted, viewer.permitted)?;
                set_file_ids((0, 0));
            }
            set(ROOT & viewer.permitted, viewer.permitted)
        })
    }

    fn as_main(&mut self) -> Result<(), Failure> {
        self.is_main = true;
        self.change(|viewer| {
            viewer.ids.into_iter().for_each(set_file_ids);
            set(viewer.effective, viewer.permitted)
        })
    }

    fn change(&self, change: impl FnOnce(&Viewer) -> Result<(), Errno>) -> Result<(), Failure> {
        // Changed ids may make a process dumpable again (the sysctl fs.suid_dumpable).
        let changed =
            change(self).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
        changed.map_err(|errno| Failure::refused("cannot change rights", "", errno))
    }
}

impl Main {
    /// When it was started, as the time namespace of this process has it.
    pub fn start_time(&self) -> Option<u64> {
        let mut text = vec![0; 4096];
        let length = self.stat.read_at(&mut text, 0).ok()?;
        process::start_time_in(text.get(..length)?)
    }
}

fn set(effective: CapabilitySet, permitted: CapabilitySet) -> Result<(), Errno> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable })
}

fn unreadable() -> std::io::Error {
    std::io::ErrorKind::InvalidData.into()
}

/// The ids as a process's own user namespace has them. `None` where it does not know one, or has no root.
fn mapped(directory: &OwnedFd, uid: u32, gid: u32) -> std::io::Result<Option<(u32, u32)>> {
    let users = process::id_map(directory, "uid_map")?;
    let groups = process::id_map(directory, "gid_map")?;
    let has_root = |map: &[IdMap]| map.iter().any(|range| range.inside == 0 && range.count > 0);
    let ids = IdMap::inside(&users, uid).zip(IdMap::inside(&groups, gid));
    Ok(ids.filter(|_| has_root(&users) && has_root(&groups)))
}
