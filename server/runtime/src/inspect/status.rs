//! /proc/PID/status, see proc_pid_status(5). Names in it are bytes: a process gives itself any it likes.

use std::{io, os::fd::AsFd};

use rustix::thread::CapabilitySet;

use super::process;

/// Far more than any has: the longest line lists up to 65,536 groups.
const STATUS_MAX: usize = 1 << 20;

/// What /proc says of a process. The kernel writes a newline in its name as `\n`, so that each field is a line.
#[derive(Debug)]
pub struct Status(pub(super) Vec<u8>);

impl Status {
    /// Reads that of the process that a directory below /proc is of.
    pub fn read(directory: impl AsFd) -> io::Result<Status> {
        Ok(Status(process::read(directory, "status", STATUS_MAX)?))
    }

    /// A field by its name with the colon, without blanks around it.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut lines = self.0.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name.as_bytes())).map(<[u8]>::trim_ascii)
    }

    /// The numbers in a field; what is none is left out.
    pub fn numbers(&self, name: &str) -> Vec<u32> {
        let words = self.field(name).unwrap_or_default().split(u8::is_ascii_whitespace);
        words.filter_map(number).collect()
    }

    /// The effective one of the ids in a field.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.numbers(name).get(1).copied()
    }

    /// Its effective capabilities.
    pub fn capabilities(&self) -> CapabilitySet {
        let digits = self.field("CapEff:").and_then(|digits| str::from_utf8(digits).ok());
        let bits = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        CapabilitySet::from_bits_retain(bits.unwrap_or(0))
    }
}

/// A decimal number.
pub fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name_is() {
        let text = b"Name:\t\xff\xfe) \\nUid:\nUid:\t1\t2\t3\t4\nGroups:\t5 6 \nNSpid:\t7\t1\nCapEff:\t0000000000000003\n";
        let status = Status(text.to_vec());
        assert_eq!(status.field("Name:"), Some(&b"\xff\xfe) \\nUid:"[..]));
        assert_eq!(status.id("Uid:"), Some(2));
        assert_eq!(status.numbers("Groups:"), [5, 6]);
        assert_eq!(status.numbers("NSpid:"), [7, 1]);
        assert_eq!(status.capabilities().bits(), 3);
        assert_eq!((status.field("Gid:"), status.numbers("Gid:")), (None, vec![]));
    }
}
