//! The `host` root filesystem: the programs of the host, and nothing else of it.
//!
//! A template directory, made once at the agent's start, holds everything but the programs: an
//! /etc of its own without anything that is private to the host, and empty directories. A
//! container's root is an overlay over the template; each of the host's program directories is an
//! overlay of its own on top (an overlay over `/` itself would have its upper below its lower).

use std::{
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use conti_runtime::{
    beneath, host,
    mountinfo::{self, unescape},
    own,
};

/// The directories of programs: where one of them is a link on the host (merged /usr), it
/// is the same link in the container.
pub const PROGRAMS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Directories of a root filesystem beside those of programs, and their permissions.
pub const DIRECTORIES: [(&str, u32); 20] = [
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
    ("mnt", 0o755),
    ("media", 0o755),
    ("opt", 0o755),
    ("srv", 0o755),
    ("etc", 0o755),
    ("etc/ssl", 0o755),
    ("etc/ssl/certs", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// Files of the host's /etc that programs need and that hold no secret: how the loader finds
/// libraries, which program an alternative is, public certificates, names of services.
const COPIED: [&str; 10] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "services",
    "protocols",
    "shells",
    "inputrc",
    "ssl/certs/ca-certificates.crt",
];

/// The users of a root filesystem.
pub const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";

/// The groups of a root filesystem.
pub const GROUP: &str = "\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
www-data:x:33:
utmp:x:43:
staff:x:50:
users:x:100:
nogroup:x:65534:
";

/// Where names come from in a root filesystem.
pub const NSSWITCH: &str =
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n";

/// The names of this machine in a root filesystem, where nothing else is written there.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The template and the program directories of this host.
#[derive(Debug)]
pub struct HostView {
    /// The template directory.
    pub template: PathBuf,
    /// The names of those program directories that are real directories.
    pub programs: Vec<&'static str>,
}

impl HostView {
    /// Makes the template below `dir`, or finds it as an agent before made it: containers that go on
    /// stand on it. A host that looks otherwise by now gets another template.
    pub fn make(dir: &Path) -> io::Result<HostView> {
        let programs = PROGRAMS.into_iter().filter(|name| {
            own::symlink_metadata(Path::new("/").join(name)).is_ok_and(|meta| meta.is_dir())
        });
        let programs: Vec<&'static str> = programs.collect();
        let template = dir.join(fingerprint());
        if !own::is_dir(&template) {
            own::make_dirs(dir, 0o777)?;
            let unfinished = dir.join("unfinished");
            beneath::remove(&unfinished)?;
            fill(&unfinished)?;
            own::rename(&unfinished, &template)?;
        }
        Ok(HostView { template, programs })
    }

    /// Mounts of the host below a program directory: an overlay would show empty directories there.
    pub fn mounts_below(&self, program: &str) -> Vec<PathBuf> {
        let prefix = format!("/{program}/");
        let text = host::read("/proc/self/mountinfo").unwrap_or_default();
        let points = mountinfo::Entry::all(&text).map(|entry| unescape(entry.point));
        points
            .filter(|point| point.starts_with(prefix.as_bytes()))
            .map(|point| PathBuf::from(OsString::from_vec(point)))
            .collect()
    }
}

/// Fills a new template directory.
fn fill(template: &Path) -> io::Result<()> {
    make_dir(template, 0o755)?;
    for (name, mode) in DIRECTORIES {
        make_dir(&template.join(name), mode)?;
    }
    own::symlink("/run", template.join("var/run"))?;
    own::symlink("/run/lock", template.join("var/lock"))?;
    for name in PROGRAMS {
        let on_host = Path::new("/").join(name);
        let Ok(meta) = own::symlink_metadata(&on_host) else { continue };
        if meta.is_symlink() {
            own::symlink(own::read_link(&on_host)?, template.join(name))?;
        } else if meta.is_dir() {
            make_dir(&template.join(name), 0o755)?;
        }
    }
    let etc = template.join("etc");
    for name in COPIED {
        // What the host has not, the container has not.
        if let Err(error) = copy(&Path::new("/etc").join(name), &etc.join(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(name, %error, "not copied into the host view");
        }
    }
    for (name, text) in
        [("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", NSSWITCH), ("hosts", HOSTS)]
    {
        own::write(etc.join(name), text)?;
    }
    // For tools; containers have their own. Often it is a link to where it is made at the boot.
    own::write(etc.join("resolv.conf"), host::read("/etc/resolv.conf").unwrap_or_default())?;
    own::symlink("../usr/lib/os-release", etc.join("os-release"))?;
    own::symlink("/proc/self/mounts", etc.join("mtab"))?;
    Ok(())
}

/// Names what a template depends on: the host's program directories and the files that are copied.
fn fingerprint() -> String {
    let mut hasher = DefaultHasher::new();
    for name in PROGRAMS {
        own::read_link(Path::new("/").join(name)).ok().hash(&mut hasher);
        own::is_dir(Path::new("/").join(name)).hash(&mut hasher);
    }
    for name in COPIED {
        let meta = own::symlink_metadata(Path::new("/etc").join(name));
        meta.ok().map(|meta| (meta.len(), meta.modified().ok())).hash(&mut hasher);
    }
    (env!("CARGO_PKG_VERSION"), HOSTS).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    own::make_dir(path, mode)?;
    // mkdir is subject to the umask.
    own::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Copies a file, a directory of files and links, or a link. Only what everybody may read.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut open = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        let meta = own::symlink_metadata(&from)?;
        if meta.is_symlink() {
            own::symlink(own::read_link(&from)?, &to)?;
        } else if meta.is_dir() {
            make_dir(&to, 0o755)?;
            for entry in own::read_dir(&from)? {
                let entry = entry?;
                open.push((entry.path(), to.join(entry.file_name())));
            }
        } else if meta.is_file() && meta.permissions().mode() & 0o004 != 0 {
            host::copy(&from, &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_has_no_shadow_file_and_the_links_of_the_host() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let view = HostView::make(&dir.path().join("view")).expect("made");
        assert!(!view.template.join("etc/shadow").exists());
        assert!(view.programs.contains(&"usr"));
        for name in PROGRAMS {
            let host = fs::read_link(Path::new("/").join(name)).ok();
            assert_eq!(host, fs::read_link(view.template.join(name)).ok(), "{name}");
        }
        let again = HostView::make(&dir.path().join("view")).expect("found again");
        assert_eq!(view.template, again.template);
    }
}
