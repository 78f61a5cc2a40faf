//! What is to be mounted into a target: made or copied, and attached nowhere yet.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use conti_runtime::{
    inspect::{
        process,
        question::{Answer, Question},
    },
    plan::NsType,
    protocol::ProcessId,
    sys::mount,
};
use rustix::io::Errno;

use super::live::{Site, Wanted};
use crate::engine::{
    Engine, bounds,
    container::Container,
    error::{Error, Result},
    explain,
    sources::{
        bind::{self, Bind, HostPath},
        requested,
    },
    spec::{Mount, MountSource, Target},
};

impl Engine {
    /// Makes what is to be mounted, attached nowhere yet.
    pub(super) async fn prepare(&self, wanted: &Wanted, to: &Site) -> Result<Bind> {
        let Mount { source, read_only, .. } = wanted.mount.clone();
        // As with the mounts that a container is made with.
        let container = matches!(wanted.target, Target::Container(_));
        let source_user = match &wanted.source_container {
            Some(id) => {
                let process = self.registry.container(id)?.running_process("bind from")?;
                user_of(process.pid)
            }
            None => user_of(std::process::id() as i32),
        };
        let other_user = !to.held.is_own(NsType::User);
        if other_user {
            requested::check_propagation(&wanted.mount, "mount")?;
        }
        let nodev = container && !self.cgroups.enforces_devices();
        let guarded = wanted.within.is_some();
        let recursive = matches!(&source, MountSource::Bind { recursive: true, .. });
        let prepared = match (&wanted.source_container, source) {
            (None, source) => {
                // Filesystems are made by reading devices, which takes its time.
                let within = wanted.within.clone();
                let owner = to.root_ids.filter(|_| container).unwrap_or((0, 0));
                let make =
                    move || requested::make(&source, read_only, owner, nodev, within.as_deref());
                bounds::foreign(bounds::SOURCES, "cannot open or mount a source", make)
                    .await
                    .flatten()
            }
            (
                Some(container),
                MountSource::Bind { source, recursive, recursive_read_only, propagation },
            ) => {
                let options =
                    bind::Options { recursive, read_only, recursive_read_only, nodev, propagation };
                self.clone_of_container(container, source, options, guarded).await
            }
            (Some(_), _) => Err(Error::Invalid {
                field: "source_container".to_owned(),
                problem: "only a bind mount has a source in a container".to_owned(),
            }),
        }?;
        let prepared = match guarded && recursive && prepared.dir {
            true => Bind { sources: prepared.sources, ..self.plain(prepared.fd).await? },
            false => prepared,
        };
        let has_owners = !matches!(wanted.mount.source, MountSource::Tmpfs { .. });
        if wanted.idmapped && !other_user {
            return Err(Error::Invalid {
                field: "idmapped".to_owned(),
                problem: "the target has no user namespace of its own".to_owned(),
            });
        }
        // As with the mounts that a container is made with. What another container has is mapped already.
        let foreign = other_user && has_owners && source_user != to.held.inode(NsType::User);
        if foreign && source_user != user_of(std::process::id() as i32) {
            return Err(Error::Invalid {
                field: "source_container".to_owned(),
                problem: "has other ids than the target, so that nothing of it would belong to anybody there; \
                          make one of them with the user namespace of the other (--userns container:NAME)"
                    .to_owned(),
            });
        }
        if wanted.idmapped || foreign && self.is_container(to.process, &wanted.target) {
            requested::check_mappable(&wanted.mount, "mount")?;
            map_ids(&prepared.fd, to, wanted).await?;
        }
        if !other_user {
            return Ok(prepared);
        }
        let mut locked = self.lock_trees(&[prepared.fd]).await?;
        let fd = locked.pop().ok_or_else(|| Error::Internal("no mount was locked".to_owned()))?;
        Ok(Bind { fd, ..prepared })
    }

    /// Whether a process is a container's main process, or a container was named.
    fn is_container(&self, to: ProcessId, target: &Target) -> bool {
        let main = |container: &Arc<Container>| container.process() == Some(to);
        matches!(target, Target::Container(_)) || self.registry.containers().iter().any(main)
    }

    /// A copy of a detached tree, which holds no filesystem of the kernel's own.
    async fn plain(&self, tree: OwnedFd) -> Result<Bind> {
        self.tree(&Question::Plain, &[tree]).await
    }

    async fn clone_of_container(
        &self,
        container: &str,
        path: PathBuf,
        options: bind::Options,
        plain: bool,
    ) -> Result<Bind> {
        let of = self.registry.container(container)?.running_process("bind from")?;
        let path = path.into_os_string().into_encoded_bytes();
        let question =
            Question::Tree { of, path: path.clone(), recursive: options.recursive, plain };
        let found = self.tree(&question, &[]).await?;
        bind::restrict(&found, options).map_err(|errno| Error::Refused {
            tried: "cannot set the attributes of a bind mount of".to_owned(),
            argument: path.clone(),
            errno: errno.raw_os_error(),
        })?;
        Ok(found)
    }

    /// The tree that a question is answered by.
    async fn tree(&self, question: &Question, fds: &[OwnedFd]) -> Result<Bind> {
        let mut inspection = self.inspect(question, fds).await?;
        let mut found = None;
        while let Some(answers) = inspection.next().await? {
            for answer in answers {
                if let Answer::Tree { dir } = answer {
                    found = inspection.take_fd().map(|fd| Bind { fd, dir, sources: Vec::new() });
                }
            }
        }
        found.ok_or_else(|| Error::Internal("the inspector sent no mount along".to_owned()))
    }
}

/// What names the user namespace of a process.
fn user_of(pid: i32) -> Option<u64> {
    let directory = process::directory(pid).ok()?;
    process::namespace_of(process::namespaces(directory).ok()?, NsType::User.file_name())
}

/// Has the ids of a mount be those of the user namespace of where it goes.
async fn map_ids(mounted: &OwnedFd, to: &Site, wanted: &Wanted) -> Result<()> {
    let user = to.held.fd(NsType::User).ok_or(Errno::NOENT);
    let Err(errno) = user.and_then(|user| mount::set_id_map(mounted.as_fd(), user)) else {
        return Ok(());
    };
    let (source, part) = match &wanted.mount.source {
        MountSource::Bind { source, recursive, .. } if wanted.source_container.is_none() => {
            let (of, recursive, within) = (source.clone(), *recursive, wanted.within.clone());
            let user = to.held.fd(NsType::User).and_then(|user| user.try_clone_to_owned().ok());
            let part = bounds::foreign(bounds::SOURCES, "cannot look at a mount", move || {
                let source = HostPath { path: &of, within: within.as_deref() };
                explain::unmappable_part(source, recursive, user?.as_fd())
            });
            (source.clone(), part.await.ok().flatten())
        }
        MountSource::Bind { source, .. } => (source.clone(), None),
        MountSource::Device { source, fs_type, .. } => {
            (source.clone(), Some((source.clone(), explain::takes_none(fs_type))))
        }
        // Refused before, and without owners.
        MountSource::Overlay { .. } | MountSource::Tmpfs { .. } => Default::default(),
    };
    Err(Error::Invalid {
        field: "mount.source".to_owned(),
        problem: format!(
            "cannot be mounted on {} of a container with ids of its own ({errno}): {}; {}",
            wanted.mount.target,
            explain::source_words(&source, part.as_ref(), errno.raw_os_error()),
            explain::WITHOUT
        ),
    })
}
