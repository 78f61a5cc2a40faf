//! What the kernel says of a network namespace, by netlink(7).
//!
//! The inspector carries questions and answers as they are: it knows how a dump ends, and nothing of what
//! is in it.

use std::{
    collections::HashSet,
    num::NonZeroU32,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::{
    fs::{Dir, Mode, OFlags, openat, readlinkat_raw},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink, recvfrom, send, socket_with,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    answers::Answers,
    keep_capabilities,
    process::{self, Pinned},
    question::{Answer, Failure, Netlink, SocketsOf},
};
use crate::{plan::NsType, protocol::ProcessId};

/// What is received at once: the kernel fills up to 32 KiB, and more where a message is larger.
const BUFFER: usize = 256 * 1024;
/// How much of a dump is held back, in bytes, so that it can be made again.
const HELD_MAX: usize = 16 << 20;
/// How often a dump that was disturbed by a change is made again.
const TRIES: u32 = 16;
/// How many sockets of a process are told in one answer.
const SOCKETS: usize = 2000;
/// How many sockets of one process are told.
const SOCKETS_MAX: usize = 20_000;

/// include/uapi/linux/netlink.h: a header is 16 bytes, and messages begin at multiples of 4.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The port of the kernel itself.
const KERNEL: u32 = 0;

/// Answers [`super::question::Question::Netlink`].
pub fn answer(question: &Netlink, answers: &mut Answers<'_>) -> Result<(), Failure> {
    let pinned = Pinned::same(question.of)?;
    enter(question.of)?;
    pinned.still_there()?;
    keep_capabilities(super::READ)?;
    // First, so that whoever puts both together need not hold the sockets back.
    if question.owners {
        owners(answers)?;
    }
    question.requests.iter().try_for_each(|(protocol, request)| dump(*protocol, request, answers))
}

/// Enters the network namespace of a process. Nothing runs in there; only netlink sockets are made.
fn enter(of: ProcessId) -> Result<(), Failure> {
    let gone = |errno: Errno| process::gone(of.pid, &errno.into());
    let links = process::namespaces(process::directory(of.pid)?).map_err(gone)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = openat(links, NsType::Net.file_name(), flags, Mode::empty()).map_err(gone)?;
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), kind)
        .map_err(|errno| Failure::refused("cannot enter", "the network namespace", errno))
}

fn dump(protocol: u8, request: &[u8], answers: &mut Answers<'_>) -> Result<(), Failure> {
    let refused = |errno| Failure::refused("cannot ask", "the network namespace", errno);
    let mut tries = 0;
    loop {
        tries += 1;
        // NETLINK_ROUTE is 0, which stands for no protocol.
        let protocol = NonZeroU32::new(protocol.into()).map(Protocol::from_raw);
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .map_err(refused)?;
        send(&socket, request, SendFlags::empty()).map_err(refused)?;
        match receive(socket.as_fd(), answers, tries == TRIES)? {
            Dump::Complete => return Ok(()),
            Dump::Disturbed => {}
        }
    }
}

enum Dump {
    Complete,
    /// Something changed in the middle, and nothing was told yet.
    Disturbed,
}

/// Tells the messages of a dump. Where something changed meanwhile it is made again, but not `anyway`.
fn receive(
    socket: BorrowedFd<'_>,
    answers: &mut Answers<'_>,
    anyway: bool,
) -> Result<Dump, Failure> {
    let refused = |errno| Failure::refused("cannot hear", "the network namespace", errno);
    let broken = || refused(Errno::BADMSG);
    let mut buffer = vec![0; BUFFER];
    let (mut held, mut size, mut disturbed) = (Vec::new(), 0, false);
    loop {
        let (length, whole, sender) = match recvfrom(socket, &mut buffer[..], RecvFlags::TRUNC) {
            Ok(received) => received,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(refused(errno)),
        };
        // Whoever administers the namespace can send messages to this socket too (netlink(7)).
        let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
        if sender.is_none_or(|sender| sender.pid() != KERNEL) {
            continue;
        }
        if whole > length {
            return Err(refused(Errno::MSGSIZE));
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let (message, behind) = take_message(rest).ok_or_else(broken)?;
            rest = behind;
            disturbed |= message.disturbed;
            match message.end {
                Some(end) => {
                    match end {
                        // Or this kernel has none of that kind.
                        None | Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT) => {}
                        Some(errno) => return Err(refused(errno)),
                    }
                    if disturbed && !anyway && size <= HELD_MAX {
                        return Ok(Dump::Disturbed);
                    }
                    held.drain(..).try_for_each(|message| answers.add(&message))?;
                    if disturbed {
                        answers.add(&Answer::Disturbed)?;
                    }
                    return Ok(Dump::Complete);
                }
                None => {
                    size += message.bytes.len();
                    held.push(Answer::Netlink(message.bytes.to_owned()));
                    if size > HELD_MAX {
                        held.drain(..).try_for_each(|message| answers.add(&message))?;
                    }
                }
            }
        }
    }
}

/// A message of a dump.
#[derive(Debug)]
pub(super) struct Message<'a> {
    /// With its header.
    pub bytes: &'a [u8],
    /// Whether something changed while the dump was made.
    pub disturbed: bool,
    /// Set where the dump ends with it: why, where it failed.
    pub end: Option<Option<Errno>>,
}

/// Takes the first message off what was received, and tells what lies behind it. `None`: there is none.
pub(super) fn take_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let header = bytes.get(..HEADER)?;
    let total = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let flags = u16::from_ne_bytes([header[6], header[7]]);
    let message = bytes.get(..total).filter(|message| message.len() >= HEADER)?;
    let behind = bytes.get(total.next_multiple_of(4)..).unwrap_or_default();
    let end = match kind {
        NLMSG_DONE | NLMSG_ERROR => {
            let code = i32::from_ne_bytes(message.get(HEADER..HEADER + 4)?.try_into().ok()?);
            // Negative error numbers, 4095 at most (include/linux/err.h), or 0.
            let failed = (-4095..0).contains(&code);
            Some(failed.then(|| Errno::from_raw_os_error(-code)))
        }
        _ => None,
    };
    Some((Message { bytes: message, disturbed: flags & NLM_F_DUMP_INTR != 0, end }, behind))
}

/// Tells which processes of the host have sockets open. One that is gone meanwhile has none.
fn owners(answers: &mut Answers<'_>) -> Result<(), Failure> {
    for (pid, directory) in process::all()? {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(files) = openat(&directory, "fd", flags, Mode::empty()) else { continue };
        let Ok(entries) = Dir::read_from(&files) else { continue };
        // Each once, by whatever number.
        let (mut sockets, mut seen) = (Vec::new(), HashSet::new());
        for entry in entries.filter_map(Result::ok) {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
            let name = entry.file_name();
            let Ok((link, _)) = readlinkat_raw(&files, name, &mut buffer) else { continue };
            let Some(inode) = socket_inode(link) else { continue };
            if let Some(fd) = name.to_str().ok().and_then(|name| name.parse().ok())
                && sockets.len() < SOCKETS_MAX
                && seen.insert(inode)
            {
                sockets.push((fd, inode));
            }
        }
        if sockets.is_empty() {
            continue;
        }
        let name = process::read(&directory, "comm", 64).unwrap_or_default();
        let name = name.strip_suffix(b"\n").unwrap_or(&name).to_owned();
        for sockets in sockets.chunks(SOCKETS) {
            let (name, sockets) = (name.clone(), sockets.to_vec());
            answers.add(&Answer::SocketsOf(SocketsOf { pid, name, sockets }))?;
        }
    }
    Ok(())
}

/// The inode number in a link like `socket:[1234]`.
pub(super) fn socket_inode(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}
