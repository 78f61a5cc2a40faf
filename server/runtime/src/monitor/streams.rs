//! Between the process's stdio and the journal.

use std::{io, os::fd::OwnedFd, rc::Rc};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionread,
    termios::{SpecialCodeIndex, tcgetattr, tcsetwinsize},
};

use super::stdio::{self, Ends};
use crate::journal::{Stream, Writer};

/// The most that is read at once, so that no stream starves the others.
const CHUNK: u64 = 256 << 10;

/// What is read from.
#[derive(Debug)]
struct Output {
    file: Rc<OwnedFd>,
    /// How many bytes are still taken, once the time for it is over.
    left: Option<u64>,
}

/// The streams of one session.
#[derive(Debug)]
pub struct Streams {
    pub journal: Writer,
    outputs: [Option<Output>; 2],
    input: Option<Rc<OwnedFd>>,
    /// The master of the terminal, where the session has one.
    terminal: Option<Rc<OwnedFd>>,
    /// The last write to the input found no room.
    input_full: bool,
    /// Some output was given up before its end.
    cut_off: bool,
}

/// Which stream, as an index.
pub const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Streams {
    /// Streams without a process.
    pub fn new(journal: Writer) -> Streams {
        Streams {
            journal,
            outputs: [None, None],
            input: None,
            terminal: None,
            input_full: false,
            cut_off: false,
        }
    }

    /// Takes over the monitor's ends.
    pub fn connect(&mut self, ends: Ends) {
        let output = |file| Some(Output { file, left: None });
        match ends {
            Ends::Pipes { stdin, stdout, stderr } => {
                self.input = stdin.map(Rc::new);
                self.outputs = [output(Rc::new(stdout)), output(Rc::new(stderr))];
            }
            Ends::Terminal(master) => {
                self.input = Some(master.clone());
                self.outputs = [output(master.clone()), None];
                self.terminal = Some(master);
            }
        }
        if self.input.is_none() {
            self.journal.break_input();
        }
    }

    /// Closes everything: nothing more is read or written.
    pub fn disconnect(&mut self) {
        self.outputs = [None, None];
        self.terminal = None;
        self.break_input();
    }

    /// The output to wait on: open, and with room in the journal.
    pub fn readable(&self, index: usize) -> Option<&OwnedFd> {
        let output = self.outputs[index].as_ref()?;
        (self.journal.room(OUTPUTS[index]) > 0).then_some(&*output.file)
    }

    /// The input to wait on: it was full when last written to.
    pub fn writable(&self) -> Option<&OwnedFd> {
        self.input.as_deref().filter(|_| self.input_full)
    }

    /// Whether all output has been read.
    pub fn ended(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// Whether output was given up before its end.
    pub fn cut_off(&self) -> bool {
        self.cut_off
    }

    /// Reads once from an output. Tells whether the journal has more than before.
    pub fn read(&mut self, index: usize) -> bool {
        let Some(output) = &mut self.outputs[index] else { return false };
        let limit = output.left.map_or(CHUNK, |left| left.min(CHUNK));
        match self.journal.fill(&*output.file, OUTPUTS[index], limit) {
            Ok(n) if n > 0 => {
                if let Some(left) = &mut output.left {
                    *left -= n.min(*left);
                    if *left == 0 {
                        self.cut(index);
                    }
                }
                return true;
            }
            Err(error) if keeps_on(&error) => {}
            // The end. A terminal without a process at its other side reads as EIO.
            Ok(_) | Err(_) => self.outputs[index] = None,
        }
        false
    }

    /// The time to wait for the end of the output is over: only what is there now is still taken.
    pub fn limit_to_present(&mut self) {
        for index in 0..OUTPUTS.len() {
            let Some(output) = &mut self.outputs[index] else { continue };
            match ioctl_fionread(&*output.file) {
                Ok(present) if present > 0 => output.left = Some(present),
                // Empty: at its end, which a full journal kept from being read, or held by somebody.
                _ if hung_up(&output.file) => self.outputs[index] = None,
                _ => self.cut(index),
            }
        }
    }

    fn cut(&mut self, index: usize) {
        self.outputs[index] = None;
        self.cut_off = true;
    }

    /// Writes what input there is, until the process's end of it is full.
    pub fn write(&mut self) -> bool {
        let Some(input) = self.input.clone() else { return false };
        self.input_full = false;
        let mut taken = false;
        while self.journal.input_waiting() > 0 {
            match self.journal.drain_input(&*input) {
                Ok(_) => taken = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.input_full = true;
                    return taken;
                }
                Err(_) => {
                    self.break_input();
                    return true;
                }
            }
        }
        if self.journal.input_ended() {
            self.end_input(&input);
        }
        taken
    }

    /// The input's end: a pipe is closed; a terminal is sent its end-of-file character, and stays.
    fn end_input(&mut self, input: &OwnedFd) {
        if self.terminal.is_some() {
            let code = tcgetattr(input).map(|modes| modes.special_codes[SpecialCodeIndex::VEOF]);
            // Any other failure says that nobody is there who could be told.
            if rustix::io::write(input, &[code.unwrap_or(4)]) == Err(rustix::io::Errno::AGAIN) {
                self.input_full = true;
                return;
            }
        }
        self.input = None;
    }

    fn break_input(&mut self) {
        self.input = None;
        self.input_full = false;
        self.journal.break_input();
    }

    /// Changes the size of the terminal, where there is one.
    pub fn resize(&self, columns: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            // One that has hung up has no size to change.
            let _ = tcsetwinsize(&**terminal, stdio::size(columns, rows));
        }
    }
}

/// Whether nobody is at the other side any more.
fn hung_up(file: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    fds[0].revents().contains(PollFlags::HUP)
}

fn keeps_on(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
