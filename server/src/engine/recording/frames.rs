//! Pipes as frames: every byte as it was, with its time and its place.
//!
//! ```text
//!   file   = "contirec"  version u32 = 1  header-length u32  header (JSON)  frame*
//!   frame  = kind u8  0 0 0  data-length u32  time u64  offset u64  data
//!   kind     1 stdout  2 stderr  3 input  4 gap (data: how many bytes are missing, u64)
//!            5 full: nothing more is recorded  6 end (data: JSON)
//! ```
//!
//! Numbers are little-endian; times are microseconds since the start of the session, offsets those of its journal.
//! A file that ends within a frame is that of a session that goes on, or of an agent that crashed.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::{About, part::Part};

const MAGIC: &[u8; 8] = b"contirec";
const VERSION: u32 = 1;

/// What stands before the first frame.
pub fn header(about: &About) -> Vec<u8> {
    let since = about.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let header = json!({
        "session": about.session,
        "container": about.container.as_ref().map(|container| &container.name),
        "argv": about.argv,
        "timestamp": since.as_secs(),
    });
    let header = header.to_string();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes
}

/// Adds a part as a frame.
pub fn encode(part: Part<'_>, time: Duration, bytes: &mut Vec<u8>) {
    let missing;
    let (kind, offset, data): (u8, u64, &[u8]) = match part {
        Part::Output { offset, stderr: false, data } => (1, offset, data),
        Part::Output { offset, stderr: true, data } => (2, offset, data),
        Part::Input(data) => (3, 0, data),
        Part::Gap { offset, length } => {
            missing = length.to_le_bytes();
            (4, offset, &missing)
        }
        Part::Full => (5, 0, &[]),
        Part::End(end) => (6, 0, end.as_bytes()),
        // There is no terminal.
        Part::Resize(_) => return,
    };
    bytes.extend([kind, 0, 0, 0]);
    // A part is at most a few hundred KiB.
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend((time.as_micros() as u64).to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend(data);
}
