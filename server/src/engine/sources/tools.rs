//! Tools for debugging: the entries of a root directory, as they are put on top of a target's
//! view.

use std::path::Path;

use conti_runtime::{
    own,
    plan::{Tool, ToolKind},
};
use rustix::io::Errno;

use super::{
    FdList, bind, failed,
    host_view::{self, HostView, PROGRAMS},
};
use crate::engine::{error::Result, spec::Tools};

/// How many entries of a directory of tools are taken: each is an fd of the plan.
const ENTRIES_MAX: usize = 64;

/// What is made for the session in any case.
const MADE: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "target", "lost+found"];

/// Opens tools.
pub fn prepare(tools: &Tools, view: &HostView, fds: &mut FdList) -> Result<Vec<Tool>> {
    match tools {
        Tools::Host => {
            // Nothing else of the host: the rest of it is private. Its /etc is what containers begin with.
            let mut all = Vec::new();
            for name in PROGRAMS.iter().filter(|name| is_there(&Path::new("/").join(name))) {
                all.push(entry(Path::new("/"), name, bind::Options::ONE, fds)?);
                all.extend(host_view::mounts_below(name).into_iter().map(|(point, bound)| {
                    let kind = ToolKind::Mount { fd: fds.add(bound.fd), dir: bound.dir };
                    Tool { name: point.trim_start_matches('/').to_owned(), kind }
                }));
            }
            all.push(entry(&view.template, "etc", bind::Options::ONE, fds)?);
            Ok(all)
        }
        Tools::Dir(root) => {
            let refused = |errno| {
                let hint = "it must be a directory of the agent's host, the root of the tools";
                failed("mount", "cannot read the tools", root.to_string_lossy(), errno, hint)
            };
            let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let mut names = Vec::new();
            for found in own::read_named_dir(root).map_err(|error| refused(errno(error)))? {
                let name = found.map_err(|error| refused(errno(error)))?.file_name();
                // A name that is no text is none that a program is found by.
                names.extend(name.into_string().ok());
            }
            names.retain(|name| !MADE.contains(&name.as_str()));
            names.sort();
            if names.len() > ENTRIES_MAX {
                return Err(refused(Errno::TOOBIG));
            }
            names.iter().map(|name| entry(root, name, bind::Options::VIEW, fds)).collect()
        }
    }
}

fn is_there(path: &Path) -> bool {
    own::symlink_metadata(path).is_ok()
}

fn entry(root: &Path, name: &str, options: bind::Options, fds: &mut FdList) -> Result<Tool> {
    let path = root.join(name);
    let kind = match own::read_link(&path) {
        Ok(text) => ToolKind::Link(text.to_string_lossy().into_owned()),
        Err(_) => {
            let bound = bind::clone(&path, options)?;
            ToolKind::Mount { fd: fds.add(bound.fd), dir: bound.dir }
        }
    };
    Ok(Tool { name: name.to_owned(), kind })
}
