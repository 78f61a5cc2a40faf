//! What of the host is given to another user namespace, so that root there cannot change it.

use std::os::fd::OwnedFd;

use conti_runtime::{
    inspect::question::{Answer, Question},
    plan::Fd,
};

use super::{
    Engine,
    error::{Error, Result},
    sources::FdList,
};

/// How many trees go along with one question; unix(7) takes 253 fds in a packet.
const AT_ONCE: usize = 64;

impl Engine {
    /// Locks detached trees (mount_namespaces(7)): their attributes, and what mounts in them cover, stay as they
    /// are, whatever root of another user namespace does. Each is unmounted by it only as a whole.
    pub(super) async fn lock_trees(&self, trees: &[OwnedFd]) -> Result<Vec<OwnedFd>> {
        let mut locked = Vec::with_capacity(trees.len());
        for some in trees.chunks(AT_ONCE) {
            let mut inspection = self.inspect(&Question::Locked, some).await?;
            while let Some(answers) = inspection.next().await? {
                let trees = answers.iter().filter(|answer| matches!(answer, Answer::Tree { .. }));
                locked.extend(trees.filter_map(|_| inspection.take_fd()));
            }
        }
        match locked.len() == trees.len() {
            true => Ok(locked),
            false => Err(Error::Internal("the inspector sent not all mounts along".to_owned())),
        }
    }

    /// Locks the trees at some places of a list.
    pub(super) async fn lock_in(&self, fds: &mut FdList, places: &[Fd]) -> Result<()> {
        let trees = places.iter().filter_map(|place| fds.get(*place)).map(OwnedFd::try_clone);
        let trees = trees
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(super::io_error("cannot duplicate a file descriptor"))?;
        for (place, locked) in places.iter().zip(self.lock_trees(&trees).await?) {
            fds.replace(*place, locked);
        }
        Ok(())
    }
}
