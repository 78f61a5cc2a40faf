//! The console, files and signals of Windows.

mod signals;

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::windows::io::AsHandle as _,
};

use conti_proto::v1::TerminalSize;
use crossterm_winapi::{ConsoleMode, Handle, ScreenBuffer};

pub use signals::Signals;

use crate::terminal::Stdio;

// Of consoleapi.h. Keys come as they do on other systems: ctrl-c as a byte, arrows as escape sequences.
const ENABLE_PROCESSED_INPUT: u32 = 0x1;
const ENABLE_LINE_INPUT: u32 = 0x2;
const ENABLE_ECHO_INPUT: u32 = 0x4;
const ENABLE_VIRTUAL_TERMINAL_INPUT: u32 = 0x200;
// What a command writes is shown as a terminal shows it.
const ENABLE_PROCESSED_OUTPUT: u32 = 0x1;
const ENABLE_VIRTUAL_TERMINAL_PROCESSING: u32 = 0x4;
const DISABLE_NEWLINE_AUTO_RETURN: u32 = 0x8;

/// The modes of the console.
#[derive(Debug)]
pub struct Modes {
    input: u32,
    output: u32,
}

fn input() -> io::Result<ConsoleMode> {
    Ok(ConsoleMode::from(Handle::current_in_handle()?))
}

fn output() -> io::Result<ConsoleMode> {
    Ok(ConsoleMode::from(Handle::current_out_handle()?))
}

impl Modes {
    /// As they are.
    pub fn current() -> io::Result<Modes> {
        Ok(Modes { input: input()?.mode()?, output: output()?.mode()? })
    }

    /// With everything that is typed passed on as it is.
    pub fn raw(&self) -> Modes {
        let cooked = ENABLE_PROCESSED_INPUT | ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT;
        let drawn = ENABLE_PROCESSED_OUTPUT
            | ENABLE_VIRTUAL_TERMINAL_PROCESSING
            | DISABLE_NEWLINE_AUTO_RETURN;
        Modes {
            input: self.input & !cooked | ENABLE_VIRTUAL_TERMINAL_INPUT,
            output: self.output | drawn,
        }
    }

    /// Sets them.
    pub fn apply(&self) -> io::Result<()> {
        input()?.set_mode(self.input)?;
        output()?.set_mode(self.output)
    }
}

/// The size of the console that the user looks at, where there is one.
pub fn size() -> Option<TerminalSize> {
    let size = ScreenBuffer::current().ok()?.info().ok()?.terminal_size();
    let length = |length: i16| u32::try_from(length).ok().filter(|&length| length > 0);
    Some(TerminalSize { columns: length(size.width)?, rows: length(size.height)? })
}

/// The file behind it, without the buffer and the conversions of the standard library.
fn file(stdio: Stdio) -> io::Result<File> {
    let handle = match stdio {
        Stdio::In => io::stdin().as_handle().try_clone_to_owned(),
        Stdio::Out => io::stdout().as_handle().try_clone_to_owned(),
        Stdio::Err => io::stderr().as_handle().try_clone_to_owned(),
    };
    handle.map(File::from)
}

/// Whether writing to it never has to wait for a reader.
pub fn is_regular_file(stdio: Stdio) -> bool {
    file(stdio).and_then(|file| file.metadata()).is_ok_and(|found| found.is_file())
}

/// This system cannot tell.
pub fn is_writable_now(_: Stdio) -> bool {
    false
}

/// This system cannot tell.
pub fn write_at_once(_: Stdio, _: &[u8]) -> Option<io::Result<usize>> {
    None
}

/// Nothing here is non-blocking.
pub fn wait_until_writable(_: Stdio) {}

/// Pipes of this system have no size to be set.
pub fn widen_pipe(_: Stdio) {}

/// A console that is closed ends its processes.
pub fn stdin_hung_up(_was_terminal: bool) -> bool {
    false
}

/// Reads from stdin behind what a buffer holds, as much as it has room for; waits until there is something.
/// 0: the end.
pub fn read_stdin(buffer: &mut Vec<u8>) -> io::Result<usize> {
    let begin = buffer.len();
    buffer.resize(buffer.capacity(), 0);
    let read = file(Stdio::In).and_then(|mut file| file.read(&mut buffer[begin..]));
    buffer.truncate(begin + read.as_ref().map_or(0, |n| *n));
    read
}

/// Writes a part of the data.
pub fn write(stdio: Stdio, data: &[u8]) -> io::Result<usize> {
    file(stdio)?.write(data)
}
