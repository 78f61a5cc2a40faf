//! The way of answers back to the agent.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::question::{Answer, Failure, MAX_PACKET};
use crate::sys::socket::{Wait, send_packet};

/// Sends answers, as many in a packet as fit.
#[derive(Debug)]
pub struct Answers<'a> {
    socket: BorrowedFd<'a>,
    packet: Vec<u8>,
}

impl<'a> Answers<'a> {
    /// Says that the inspector runs.
    pub fn begin(socket: &'a OwnedFd, pidfd: OwnedFd) -> Result<Answers<'a>, Failure> {
        let answers = Answers { socket: socket.as_fd(), packet: Vec::with_capacity(MAX_PACKET) };
        let began = encode(&Answer::Began)?;
        send_packet(answers.socket, &began, &[pidfd.as_fd()], Wait::Yes).map_err(unheard)?;
        Ok(answers)
    }

    /// Adds an answer. It fails where nobody listens any more, so that the work ends.
    pub fn add(&mut self, answer: &Answer) -> Result<(), Failure> {
        let encoded = encode(answer)?;
        if self.packet.len() + encoded.len() > MAX_PACKET {
            self.flush()?;
        }
        self.packet.extend_from_slice(&encoded);
        Ok(())
    }

    /// Sends an answer with an fd beside it, and all before it.
    pub fn add_with_fd(&mut self, answer: &Answer, fd: BorrowedFd<'_>) -> Result<(), Failure> {
        self.flush()?;
        send_packet(self.socket, &encode(answer)?, &[fd], Wait::Yes).map_err(unheard)
    }

    /// Sends what was added.
    pub fn flush(&mut self) -> Result<(), Failure> {
        if !self.packet.is_empty() {
            send_packet(self.socket, &self.packet, &[], Wait::Yes).map_err(unheard)?;
            self.packet.clear();
        }
        Ok(())
    }

    /// Sends the last answer.
    pub fn end(mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        self.add(&match result {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        })?;
        self.flush()
    }
}

fn encode(answer: &Answer) -> Result<Vec<u8>, Failure> {
    match postcard::to_allocvec(answer) {
        Ok(encoded) if encoded.len() <= MAX_PACKET => Ok(encoded),
        _ => Err(Failure::refused("cannot send", "an answer", Errno::MSGSIZE)),
    }
}

fn unheard(error: std::io::Error) -> Failure {
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::PIPE);
    Failure::refused("cannot answer", "the agent", errno)
}

impl Failure {
    /// What makes no sense on what was found, without the kernel having been asked.
    pub fn unfit(problem: &str, argument: impl AsRef<[u8]>) -> Failure {
        let (tried, argument) = (problem.to_owned(), argument.as_ref().to_owned());
        Failure::Refused { tried, argument, errno: 0 }
    }

    /// What the kernel refused.
    pub fn refused(tried: &str, argument: impl AsRef<[u8]>, errno: Errno) -> Failure {
        Failure::Refused {
            tried: tried.to_owned(),
            argument: argument.as_ref().to_owned(),
            errno: errno.raw_os_error(),
        }
    }
}
