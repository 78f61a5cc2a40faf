//! Which namespaces of a process are joined, and which are refused.
//!
//! Root of a user namespace decides what lies in the mount namespaces that belong to it, and so what is run there by
//! any name. A command that came into those mounts with the rights of another user namespace would lend them to that
//! root. So mounts are entered only in the user namespace that they belong to, or in one below it:
//!
//! ```text
//!  user namespace of the target   its mounts belong to   the command is in   its mounts are
//!  -----------------------------  ---------------------  ------------------  --------------
//!  the agent's                    the agent's            the agent's         entered
//!  one of its own                 that one               that one            entered
//!  one of its own                 that one               the agent's         refused
//!  one of its own                 the agent's            either              entered
//!  any                            any other              either              refused
//! ```
//!
//! A root directory is chosen by whoever has CAP_SYS_CHROOT: it is taken only in the target's user namespace.

use std::os::fd::AsFd as _;

use conti_runtime::{
    host,
    inspect::held_namespaces::{HeldNamespaces, OwnNamespaces},
    plan::{IdMap, JoinPlan, JoinedNamespace, NsType},
};

use super::{
    error::{Error, Result},
    io_error,
    process::Pinned,
    sources::FdList,
};

/// A process that is to be entered, and its namespaces as they were when it was looked at.
#[derive(Debug)]
pub struct Joining {
    pinned: Pinned,
    held: HeldNamespaces,
    /// Those that are joined.
    kinds: Vec<NsType>,
    /// The id maps of users and of groups in the user namespace that is joined.
    maps: Option<(Vec<IdMap>, Vec<IdMap>)>,
}

impl Joining {
    /// Looks at a process of which these namespaces are wanted. Joining the agent's own is not needed, and for the user
    /// namespace not possible (setns(2), EINVAL): those are left out.
    pub fn look(pinned: Pinned, own: &OwnNamespaces, wanted: &[NsType]) -> Result<Joining> {
        let held = pinned.namespaces(own)?;
        // The launcher has left the agent's mount namespace: that one must always be joined.
        let is_foreign = |kind: NsType| kind == NsType::Mount || !held.is_own(kind);
        let joined = |kind: &NsType| wanted.contains(kind) && is_foreign(*kind);
        let kinds: Vec<_> = NsType::to_join().filter(joined).collect();
        let joins_user = kinds.contains(&NsType::User);
        let maps = if joins_user { Some(pinned.id_maps()?) } else { None };
        let joining = Joining { pinned, held, kinds, maps };
        if let Some((users, groups)) = joining.maps()
            && (users.is_empty() || groups.is_empty())
        {
            let missing = if users.is_empty() { "users" } else { "groups" };
            let tried = format!(
                "its user namespace has no map of {missing} yet, so that a command in it could be none of them: cannot \
                 enter process"
            );
            return Err(joining.refused(&tried, 0));
        }
        if joining.takes(NsType::Mount) {
            joining.check_mounts()?;
        }
        Ok(joining)
    }

    /// Whether a namespace of this type is joined.
    pub fn takes(&self, kind: NsType) -> bool {
        self.kinds.contains(&kind)
    }

    /// The id maps of users and of groups in the user namespace that is joined; `None` without one.
    pub fn maps(&self) -> Option<(&[IdMap], &[IdMap])> {
        self.maps.as_ref().map(|(users, groups)| (users.as_slice(), groups.as_slice()))
    }

    /// Whether the command is in the sight of the processes of a container, in their pid namespace or in one below it, and
    /// in their user namespace or in one below it, so that they may trace it. `is_containers`: whether a container is in
    /// the pid namespace of this number.
    pub fn is_beside(&self, is_containers: impl Fn(u64) -> bool) -> bool {
        let shares_user = self.takes(NsType::User) || self.held.is_own(NsType::User);
        let shares = self.takes(NsType::Pid) && shares_user;
        shares && self.held.sees_pid_namespace(is_containers)
    }

    /// Refuses to have a command beside the processes of a container with something of the host's that they do not
    /// have: whoever traces it has that too, as by /proc/PID/root.
    pub fn check_reach(&self) -> Result<()> {
        let kinds = [(NsType::Mount, "-m"), (NsType::Net, "-n"), (NsType::Ipc, "-i")];
        let missing =
            kinds.iter().filter(|(kind, _)| !self.takes(*kind) && !self.held.is_own(*kind));
        let missing: Vec<_> = missing.map(|(_, flag)| *flag).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let tried = format!(
            "the container could take over the command and what it has of the host; enter these namespaces too ({}), or \
             not its pid namespace: cannot enter the pid namespace of process",
            missing.join(" ")
        );
        Err(self.refused(&tried, 0))
    }

    /// Refuses the root directory of a process whose user namespace is not joined.
    pub fn check_root(&self) -> Result<()> {
        match self.takes(NsType::User) || self.held.is_own(NsType::User) {
            true => Ok(()),
            false => Err(self.refused(
                "its user namespace is not entered, whose root chooses what is run below that directory; \
                 enter it too (-U): cannot take the root directory of process",
                0,
            )),
        }
    }

    /// The plan for the namespaces. Whatever was read of the process since it was looked at is true of it in these,
    /// or it is an error.
    pub fn settle(mut self, fds: &mut FdList) -> Result<JoinPlan> {
        self.pinned.still_in(&self.held)?;
        let mut namespaces = Vec::with_capacity(self.kinds.len());
        for kind in self.kinds {
            let held = self.held.take(kind);
            namespaces.extend(held.map(|fd| JoinedNamespace { kind, fd: fds.add(fd) }));
        }
        let (uid_maps, gid_maps) = self.maps.unwrap_or_default();
        Ok(JoinPlan {
            pidfd: fds.add(self.pinned.into_fd()),
            namespaces,
            uid_maps,
            gid_maps,
            host_mount_ns: None,
            root: None,
            cwd: None,
            tools: None,
        })
    }

    fn check_mounts(&self) -> Result<()> {
        let failed = |errno: rustix::io::Errno| {
            self.refused("cannot look at the mounts of process", errno.raw_os_error())
        };
        let belong_to_its_own = match self.held.fd(NsType::User) {
            Some(user) => self.held.mounts_belong_to(user).map_err(failed)?,
            None => false,
        };
        if !belong_to_its_own {
            return Err(self.refused(
                "its mounts belong to a user namespace that it is not in, whose root chooses what is run there: \
                 cannot enter the mount namespace of process",
                0,
            ));
        }
        if self.takes(NsType::User) || self.held.is_own(NsType::User) {
            return Ok(());
        }
        let agents = host::open("/proc/self/ns/user")
            .map_err(io_error("cannot open the agent's user namespace"))?;
        match self.held.mounts_belong_to(agents.as_fd()).map_err(failed)? {
            true => Ok(()),
            false => Err(self.refused(
                "its mounts belong to its user namespace, whose root chooses what is run there; enter that too (-U): \
                 cannot enter the mount namespace of process",
                0,
            )),
        }
    }

    fn refused(&self, tried: &str, errno: i32) -> Error {
        let argument = self.pinned.id().pid.to_string();
        Error::Refused { tried: tried.to_owned(), argument: argument.into(), errno }
    }
}
