//! Sockets of this machine.
//!
//! Who connects is known by its user and group (SO_PEERCRED, unix(7)). Where the policy knows nobody but
//! root and the agent's own user, nobody else can even connect: the socket is 0600.

use std::{
    fs::{Metadata, Permissions},
    io,
    net::Ipv4Addr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use conti_runtime::own;
use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::{net::UnixListener, time::sleep};
use tracing::warn;

use super::{Error, REST, connection::Connection, guests::Guests, open::Open};
use crate::{
    access::{Identity, Peer, Role, policy::CurrentPolicy},
    audit::{Log, Who},
    metrics::Connections,
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// How long somebody without a role may stay: it is told so when it calls.
const STRANGER_STAY: Duration = Duration::from_secs(10);

/// A socket of the agent.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    /// The few of those without a role that are told so at a time.
    strangers: Guests,
    path: PathBuf,
    /// Device and inode: the file is removed at the end only while it is still ours.
    file: (u64, u64),
}

impl Socket {
    /// Makes a socket at `path`, in the place of one that nobody answers on; `everybody`: all users may
    /// connect, and the policy decides. Needs a runtime.
    pub fn open(path: &Path, everybody: bool) -> Result<Socket, Error> {
        let at = |what: &'static str| {
            move |source: io::Error| Error::Io { what, path: path.to_owned(), source }
        };
        if let Some(parent) = path.parent() {
            let mode = if everybody { 0o755 } else { 0o700 };
            own::make_dirs(parent, mode).map_err(at("make the directory of"))?;
        }
        let listener = match bound(path, everybody) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                clear(path)?;
                bound(path, everybody)
            }
            other => other,
        };
        let listener = listener.map_err(at("make"))?;
        let listener = UnixListener::from_std(listener).map_err(at("watch"))?;
        let metadata = own::symlink_metadata(path).map_err(at("look at"))?;
        let file = (metadata.dev(), metadata.ino());
        Ok(Socket { listener, strangers: Guests::default(), path: path.to_owned(), file })
    }

    /// The next connection of a client that may call, or that is to be told that it may not.
    /// Those of users that are no administrators are counted in `open`.
    pub async fn accept(
        &self,
        policy: &CurrentPolicy,
        open: &Open,
        log: &Log,
        counts: &Connections,
    ) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) => {
                        let (uid, gid, pid) = (peer.uid(), peer.gid(), peer.pid());
                        let identity = Identity::Local { uid, gid, pid };
                        let peer = Arc::new(Peer { identity, address: "unix".to_owned() });
                        let Some(caller) = policy.now().caller(&peer) else {
                            counts.rejected("unix", "peer");
                            log.refused(Who::nobody(&peer), "this user has no role here");
                            warn!(uid, pid, "refused a connection: this user has no role here");
                            // Each user has its own places, as each address has elsewhere.
                            match self.strangers.enter(Ipv4Addr::from(uid).into()) {
                                Some(place) => {
                                    return Connection::guest(stream, peer, place, STRANGER_STAY);
                                }
                                None => continue,
                            }
                        };
                        if caller.role == Role::Admin {
                            return Connection::counted(stream, peer, counts.opened("unix"));
                        }
                        if let Some(registered) = open.add(&peer, Vec::new()) {
                            let opened = counts.opened("unix");
                            return Connection::registered(stream, peer, opened, registered);
                        }
                        counts.rejected("unix", "too_many");
                        warn!(uid, pid, "refused a connection: too many");
                    }
                    Err(error) => warn!(%error, "refused a connection: its user is not known"),
                },
                // Of one connection only: it is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Without a rest this would turn at full speed until a file is closed.
                Err(error) => {
                    warn!(%error, "cannot accept connections; trying again");
                    sleep(REST).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |m: Metadata| (m.dev(), m.ino()) == self.file;
        if own::symlink_metadata(&self.path).is_ok_and(ours) {
            // Where it cannot be removed the next agent finds that nobody answers on it.
            let _ = own::remove_file(&self.path);
        }
    }
}

fn bound(path: &Path, everybody: bool) -> io::Result<StdListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it has a name: there is no moment at which others could connect.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    if everybody {
        // By its name, which the umask had a say in.
        own::set_permissions(path, Permissions::from_mode(0o666))?;
    }
    listen(&fd, BACKLOG)?;
    Ok(StdListener::from(fd))
}

/// Removes a socket that nobody answers on.
fn clear(path: &Path) -> Result<(), Error> {
    let at = |what| move |source: io::Error| Error::Io { what, path: path.to_owned(), source };
    let kind = own::symlink_metadata(path).map_err(at("look at"))?.file_type();
    if !kind.is_socket() {
        return Err(Error::NoSocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            own::remove_file(path).map_err(at("remove the stale"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::Answered(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn the_socket_and_its_directory_are_for_the_owner_only_and_go_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/contid.sock");
        let socket = Socket::open(&path, false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contid.sock");
        drop(StdListener::bind(&path).unwrap());
        let socket = Socket::open(&path, false).unwrap();
        assert!(matches!(Socket::open(&path, false), Err(Error::Answered(_))));
        drop(socket);
        fs::write(&path, "not a socket").unwrap();
        assert!(matches!(Socket::open(&path, false), Err(Error::NoSocket(_))));
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contid.sock");
        let first = Socket::open(&path, false).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Socket::open(&path, false).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }
}
