//! What is looked at or changed.

use conti_proto::v1;

use super::{Field, Violations, text};
use crate::engine::spec::Target;

/// Checks a target that must be there.
pub fn target(v: &mut Violations, at: Field<'_>, message: Option<v1::Target>) -> Target {
    match message.and_then(|target| target.target) {
        None => {
            v.add(at, "is missing: give a container, a process or the host");
            Target::Host
        }
        Some(v1::target::Target::Container(key)) => {
            text::container_key(v, at.name("container"), &key);
            Target::Container(key)
        }
        Some(v1::target::Target::Process(process)) => {
            let at = at.name("process");
            Target::Process {
                pid: pid(v, at.name("pid"), process.pid),
                start_ticks: Some(process.start_ticks).filter(|&ticks| ticks != 0),
            }
        }
        Some(v1::target::Target::Host(v1::HostTarget {})) => Target::Host,
    }
}

/// Checks an absolute path of a target, which may not be UTF-8.
pub fn path(v: &mut Violations, at: Field<'_>, path: Vec<u8>) -> Vec<u8> {
    if !path.starts_with(b"/") {
        v.add(at, "is no absolute path: it must begin with `/`");
    } else if path.contains(&0) {
        v.add(at, "holds a NUL byte");
    } else if path.len() >= PATH_MAX {
        v.add(at, format_args!("has {} bytes, a path has at most {}", path.len(), PATH_MAX - 1));
    } else if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
        v.add(at, "has a part `..`");
    }
    path
}

/// limits.h, with the NUL at the end.
const PATH_MAX: usize = 4096;

/// Checks a pid.
pub fn pid(v: &mut Violations, at: Field<'_>, value: u32) -> i32 {
    match i32::try_from(value) {
        Ok(pid @ 1..) => pid,
        _ => {
            v.add(at, format_args!("is {value}, which is no pid"));
            1
        }
    }
}
