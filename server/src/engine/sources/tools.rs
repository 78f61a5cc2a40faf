//! Tools for debugging: the entries of a root directory, as they are put on top of a target's view.

use std::path::Path;

use conti_runtime::{
    own,
    plan::{Tool, ToolKind},
};
use rustix::io::Errno;

use super::{FdList, bind, failed, host_view::PROGRAMS};
use crate::engine::{error::Result, spec::Tools};

/// How many entries of a directory of tools are taken: each is an fd of the plan.
const ENTRIES_MAX: usize = 64;

/// What is the target's in any case, or made by the kernel for it.
const TARGETS_OWN: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "target", "lost+found"];

/// Opens tools.
pub fn prepare(tools: &Tools, fds: &mut FdList) -> Result<Vec<Tool>> {
    match tools {
        Tools::Host => {
            // Nothing else of the host: the rest of it is private.
            let names = PROGRAMS.iter().filter(|name| is_there(&Path::new("/").join(name)));
            names.map(|name| entry(Path::new("/"), name, fds)).collect()
        }
        Tools::Dir(root) => {
            let refused = |errno| {
                let hint = "it must be a directory of the agent's host, the root of the tools";
                failed("mount", "cannot read the tools", root.to_string_lossy(), errno, hint)
            };
            let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let mut names = Vec::new();
            for found in own::read_dir(root).map_err(|error| refused(errno(error)))? {
                let name = found.map_err(|error| refused(errno(error)))?.file_name();
                // A name that is no text is none that a program is found by.
                names.extend(name.into_string().ok());
            }
            names.retain(|name| !TARGETS_OWN.contains(&name.as_str()));
            names.sort();
            if names.len() > ENTRIES_MAX {
                return Err(refused(Errno::TOOBIG));
            }
            names.iter().map(|name| entry(root, name, fds)).collect()
        }
    }
}

fn is_there(path: &Path) -> bool {
    own::symlink_metadata(path).is_ok()
}

fn entry(root: &Path, name: &str, fds: &mut FdList) -> Result<Tool> {
    let path = root.join(name);
    let kind = match own::read_link(&path) {
        Ok(text) => ToolKind::Link(text.to_string_lossy().into_owned()),
        Err(_) => {
            let bound = bind::clone(&path, bind::Options::VIEW)?;
            ToolKind::Mount { fd: fds.add(bound.fd), dir: bound.dir }
        }
    };
    Ok(Tool { name: name.to_owned(), kind, always: PROGRAMS.contains(&name) })
}
