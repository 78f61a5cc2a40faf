//! Packets with file descriptors, over AF_UNIX SOCK_SEQPACKET sockets.

use std::{
    ffi::OsStr,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, recvmsg, sendmsg,
    },
};

use crate::protocol::MAX_PACKET_FDS;

/// Whether a call waits until it can be carried out, or fails with `WouldBlock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Waits.
    Yes,
    /// Fails with [`io::ErrorKind::WouldBlock`].
    No,
}

/// A packet as it was received.
#[derive(Debug)]
pub struct Packet {
    /// How many bytes of the buffer it fills. 0: the other side has closed.
    pub len: usize,
    /// The fds that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Sends one packet with up to [`MAX_PACKET_FDS`] fds.
pub fn send_packet(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<()> {
    if fds.len() > MAX_PACKET_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PACKET_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL
        | if wait == Wait::No { SendFlags::DONTWAIT } else { SendFlags::empty() };
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Sends a packet with any number of fds: those that do not fit beside `first` follow beside packets
/// that hold `more`.
pub fn send_with_fds(
    socket: impl AsFd,
    first: &[u8],
    more: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<()> {
    let (head, rest) = fds.split_at(fds.len().min(MAX_PACKET_FDS));
    send_packet(&socket, first, head, wait)?;
    rest.chunks(MAX_PACKET_FDS).try_for_each(|fds| send_packet(&socket, more, fds, wait))
}

/// Receives one packet. One that does not fit into `buffer`, or some of whose fds could not be received,
/// is an error: what was received of it is closed.
pub fn recv_packet(socket: impl AsFd, buffer: &mut [u8], wait: Wait) -> io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PACKET_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC
        | if wait == Wait::No { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => continue,
            other => break other?,
        }
    };
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // The kernel could not install all fds: the limit of open files is reached.
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    if received.flags.contains(ReturnFlags::TRUNC) || received.bytes > buffer.len() {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(Packet { len: received.bytes, fds })
}

/// Two connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A socket that listens as `name` in the directory, with mode 0600. An old socket of this name is
/// replaced. The directory should be closed to others, so that the mode is right from the first moment.
pub fn listen(directory: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let socket = socket()?;
    match rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    rustix::net::bind(&socket, &address(directory.as_fd(), name)?)?;
    rustix::fs::chmodat(&directory, name, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// Connects to the socket `name` in the directory. Never waits: where the other side accepts no connection and
/// its queue is full, it fails with [`io::ErrorKind::WouldBlock`].
pub fn connect(directory: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &address(directory.as_fd(), name)?)?;
    Ok(socket)
}

/// As [`connect`], by path.
pub fn connect_path(path: &Path) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    connect(rustix::fs::open(parent, flags, Mode::empty())?, name)
}

/// Takes the next connection of a listening socket, if there is one, and refuses it where the other
/// side runs as another user than this process.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    if peer.uid != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(socket)
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// A socket's path may have 107 bytes; by its directory's fd it always has few enough.
fn address(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<SocketAddrUnix> {
    let directory = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(SocketAddrUnix::new(Path::new(&directory).join(name))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_carries_bytes_and_as_many_fds_as_the_kernel_takes() {
        let (a, b) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![file.as_fd(); MAX_PACKET_FDS];
        send_packet(&a, b"hello", &fds, Wait::Yes).unwrap();
        let mut buffer = [0; 8];
        let packet = recv_packet(&b, &mut buffer, Wait::Yes).unwrap();
        assert_eq!((&buffer[..packet.len], packet.fds.len()), (&b"hello"[..], MAX_PACKET_FDS));
        assert!(send_packet(&a, b"x", &vec![file.as_fd(); MAX_PACKET_FDS + 1], Wait::Yes).is_err());
    }

    #[test]
    fn a_packet_that_does_not_fit_is_an_error() {
        let (a, b) = pair().unwrap();
        send_packet(&a, &[7; 9], &[], Wait::Yes).unwrap();
        let error = recv_packet(&b, &mut [0; 8], Wait::Yes).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn without_a_packet_it_would_block_and_a_closed_peer_reads_as_empty() {
        let (a, b) = pair().unwrap();
        let error = recv_packet(&b, &mut [0; 8], Wait::No).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(recv_packet(&b, &mut [0; 8], Wait::No).unwrap().len, 0);
    }

    #[test]
    fn a_listener_below_a_very_long_path_is_reached() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("d".repeat(200));
        std::fs::create_dir(&path).unwrap();
        let directory = std::fs::File::open(&path).unwrap();
        for _ in 0..2 {
            let listener = listen(&directory, OsStr::new("socket")).unwrap();
            let client = connect_path(&path.join("socket")).unwrap();
            let server = accept(&listener).unwrap();
            send_packet(&client, b"x", &[], Wait::Yes).unwrap();
            assert_eq!(recv_packet(&server, &mut [0; 1], Wait::Yes).unwrap().len, 1);
        }
    }
}
