//! The `host` root filesystem: the programs of the host, and nothing else of it.
//!
//! A template directory, made once at the agent's start, holds everything but the programs: an
//! /etc of its own without anything that is private to the host, and empty directories. A
//! container's root is an overlay over the template; each of the host's program directories is an
//! overlay of its own on top (an overlay over `/` itself would have its upper below its lower).

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use conti_runtime::{
    beneath, host, kernel_fs,
    mountinfo::{self, unescape},
    own,
};

use rustix::mount::MountAttrFlags;

use super::{
    bind::{self, Bind},
    filesystem,
};
use crate::engine::{
    error::{Error, Result},
    id,
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
    /// Makes the template in `dir`, or finds it as an agent before made it: containers that go on stand on it. A host
    /// that looks otherwise by now gets another template, and so does one whose template was damaged; that one is put
    /// aside, because containers may stand on it.
    pub fn make(dir: &Path) -> Result<HostView> {
        let programs = PROGRAMS.into_iter().filter(|name| {
            own::symlink_metadata(Path::new("/").join(name)).is_ok_and(|meta| meta.is_dir())
        });
        let programs: Vec<&'static str> = programs.collect();
        let template = dir.join(fingerprint());
        let failed = |path: &Path| {
            let what = format!("cannot make the host view {}", path.display());
            move |error: io::Error| Error::Exhausted {
                what,
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            }
        };
        let parts = parts().map_err(failed(&template))?;
        if let Err(damaged) = parts.iter().try_for_each(|part| part.check(&template)) {
            if own::symlink_metadata(&template).is_ok() {
                let aside = template.with_extension(&id::new()[..12]);
                tracing::warn!(
                    damaged = %damaged.display(),
                    aside = %aside.display(),
                    "the host view is not as it was made: it is put aside and made anew"
                );
                own::rename(&template, &aside).map_err(failed(&template))?;
            }
            let unfinished = dir.join("unfinished");
            beneath::remove(&unfinished).map_err(io::Error::from).map_err(failed(&unfinished))?;
            parts
                .iter()
                .try_for_each(|part| part.make(&unfinished))
                .map_err(failed(&unfinished))?;
            own::rename(&unfinished, &template).map_err(failed(&template))?;
        }
        Ok(HostView { template, programs })
    }
}

/// The mounts of the host below a program directory, each alone and read-only, with its place, those above before those
/// below: by itself the directory would show empty ones there. What the kernel shows of itself, a proc of a root filesystem
/// that somebody has there say, would come without its covers: an empty directory or /dev/null is in its place, and nothing
/// of what is mounted below it. The same where a mount cannot be bound: it may hide what lies there.
///
/// Best effort: a mount that came or went meanwhile is not shown, nor is one whose place has no name in a plan.
pub fn mounts_below(program: &str) -> Vec<(String, Bind)> {
    let prefix = format!("/{program}/");
    let text = host::read("/proc/self/mountinfo").unwrap_or_default();
    let all = mountinfo::Entry::all(&text);
    let mut points: Vec<(String, bool)> = all
        .filter_map(|entry| {
            let hidden = kernel_fs::is_type(entry.fs_type) || entry.unbindable;
            Some((String::from_utf8(unescape(entry.point)).ok()?, hidden))
        })
        .filter(|(point, _)| point.starts_with(&prefix))
        .collect();
    // By parts, so that what lies below a place follows it at once. Of several mounts at one place a hidden one comes first.
    points.sort_by(|(a, a_hidden), (b, b_hidden)| {
        Path::new(a).cmp(Path::new(b)).then(b_hidden.cmp(a_hidden))
    });
    points.dedup_by(|next, first| next.0 == first.0);
    let mut covered: Option<String> = None;
    let bound = points.into_iter().filter_map(|(point, hidden)| {
        if covered.as_ref().is_some_and(|covered| point.starts_with(covered)) {
            return None;
        }
        let bound = match hidden {
            true => None,
            // By then something else may lie there.
            false => bind::clone(Path::new(&point), bind::Options::ONE)
                .ok()
                .filter(|bound| kernel_fs::holds(&bound.fd).is_ok_and(|kernel| !kernel)),
        };
        if let Some(bound) = bound {
            return Some((point, bound));
        }
        covered = Some(format!("{point}/"));
        Some((point.clone(), cover(Path::new(&point))?))
    });
    bound.collect()
}

/// What is put in the place of something that is not shown. `None`: there is nothing.
fn cover(place: &Path) -> Option<Bind> {
    match own::symlink_metadata(place).ok()?.is_dir() {
        false => bind::clone(Path::new("/dev/null"), bind::Options::ONE).ok(),
        true => {
            let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
            let fd = filesystem::tmpfs(COVER_BYTES, 0o555, (0, 0), attributes).ok()?;
            Some(Bind { fd, dir: true, sources: Vec::new() })
        }
    }
}

/// A filesystem in which nothing is ever written.
const COVER_BYTES: u64 = 4096;

/// A part of a template, by its path in there.
struct Part {
    path: PathBuf,
    is: Is,
}

enum Is {
    /// A directory with these permissions.
    Directory(u32),
    /// A link to there.
    Link(PathBuf),
    /// A file.
    File(&'static str),
    /// A file whose text changes on the host while the template stays.
    Varying(Vec<u8>),
    /// What the host has there, see [`copy`].
    Copy(PathBuf),
}

/// The parts of a template, each after the directory that it lies in.
fn parts() -> io::Result<Vec<Part>> {
    let part = |path: &str, is| Part { path: path.into(), is };
    let mut all = vec![part("", Is::Directory(0o755))];
    all.extend(DIRECTORIES.map(|(name, mode)| part(name, Is::Directory(mode))));
    for name in PROGRAMS {
        let on_host = Path::new("/").join(name);
        let Ok(meta) = own::symlink_metadata(&on_host) else { continue };
        if meta.is_symlink() {
            all.push(part(name, Is::Link(own::read_link(&on_host)?)));
        } else if meta.is_dir() {
            all.push(part(name, Is::Directory(0o755)));
        }
    }
    let etc = |name: &str| Path::new("etc").join(name);
    all.extend(
        COPIED.map(|name| Part { path: etc(name), is: Is::Copy(Path::new("/etc").join(name)) }),
    );
    for (name, text) in
        [("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", NSSWITCH), ("hosts", HOSTS)]
    {
        all.push(Part { path: etc(name), is: Is::File(text) });
    }
    // For tools; containers have their own. Often it is a link to where it is made at the boot.
    let resolv = host::read("/etc/resolv.conf").unwrap_or_default();
    all.push(part("etc/resolv.conf", Is::Varying(resolv)));
    let links = [
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
        ("etc/os-release", "../usr/lib/os-release"),
        ("etc/mtab", "/proc/self/mounts"),
    ];
    all.extend(links.map(|(name, target)| part(name, Is::Link(target.into()))));
    Ok(all)
}

impl Part {
    /// Where it is in a template. That of the template itself has no slash at its end, which would follow a link.
    fn path_in(&self, template: &Path) -> PathBuf {
        template.components().chain(self.path.components()).collect()
    }

    fn make(&self, template: &Path) -> io::Result<()> {
        let path = self.path_in(template);
        match &self.is {
            Is::Directory(mode) => make_dir(&path, *mode),
            Is::Link(target) => own::symlink(target, path),
            Is::File(text) => own::write(path, text),
            Is::Varying(text) => own::write(path, text),
            Is::Copy(from) => {
                // What the host has not, the container has not.
                if let Err(error) = copy(from, &path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(from = %from.display(), %error, "not copied into the host view");
                }
                Ok(())
            }
        }
    }

    /// Whether a template has it as it was made. An error is its path.
    fn check(&self, template: &Path) -> std::result::Result<(), PathBuf> {
        let path = self.path_in(template);
        let found = own::symlink_metadata(&path).ok();
        let is_link_to = |target: &Path| own::read_link(&path).is_ok_and(|found| found == target);
        let good = match (&self.is, &found) {
            (Is::Directory(mode), Some(found)) => {
                found.is_dir() && found.permissions().mode() & 0o7777 == *mode
            }
            (Is::Link(target), _) => is_link_to(target),
            (Is::File(text), _) => own::read(&path).is_ok_and(|found| found == text.as_bytes()),
            (Is::Varying(_), Some(found)) => found.is_file(),
            (Is::Copy(from), found) => match (own::symlink_metadata(from), found) {
                (Ok(host), _) if host.is_symlink() => {
                    own::read_link(from).is_ok_and(|target| is_link_to(&target))
                }
                (Ok(host), Some(found)) if host.is_dir() => found.is_dir(),
                (Ok(host), Some(found)) if is_for_all(&host) => {
                    found.is_file() && found.len() == host.len()
                }
                (Ok(host), None) => !host.is_dir() && !is_for_all(&host),
                _ => true,
            },
            (_, None) => false,
        };
        if good { Ok(()) } else { Err(path) }
    }
}

/// Whether a file is one that everybody may read.
fn is_for_all(meta: &fs::Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o004 != 0
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
        } else if is_for_all(&meta) {
            host::copy(&from, &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_template_has_no_shadow_file_and_the_links_of_the_host() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let view = HostView::make(dir.path()).expect("made");
        assert!(!view.template.join("etc/shadow").exists());
        assert!(view.programs.contains(&"usr"));
        for name in PROGRAMS {
            let host = fs::read_link(Path::new("/").join(name)).ok();
            assert_eq!(host, fs::read_link(view.template.join(name)).ok(), "{name}");
        }
        let before = fs::metadata(&view.template).expect("there").ino();
        let again = HostView::make(dir.path()).expect("found again");
        assert_eq!(view.template, again.template);
        assert_eq!(before, fs::metadata(&again.template).expect("there").ino(), "it is the same");
    }

    #[test]
    fn a_damaged_template_is_put_aside_and_made_anew() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let template = HostView::make(dir.path()).expect("made").template;
        let whole = |name: &str| {
            let part = parts().expect("known").into_iter().find(|p| p.path == Path::new(name));
            part.expect("a part").check(&template).is_ok()
        };
        let gone = |path: &Path| beneath::remove(path).expect("removed");
        for name in
            ["", "usr", "dev", "proc", "tmp", "etc", "etc/passwd", "etc/mtab", "etc/resolv.conf"]
        {
            let part = Part { path: name.into(), is: Is::Directory(0o755) };
            let path = part.path_in(&template);
            let replaced: [&dyn Fn(); 3] = [
                &|| gone(&path),
                &|| {
                    gone(&path);
                    fs::write(&path, "").expect("written");
                },
                &|| {
                    gone(&path);
                    std::os::unix::fs::symlink("/var", &path).expect("a link");
                },
            ];
            for (number, damage) in replaced.iter().enumerate() {
                // Any text is a resolv.conf.
                if (name, number) == ("etc/resolv.conf", 1) {
                    continue;
                }
                damage();
                assert!(!whole(name), "{name} {number}");
                let again = HostView::make(dir.path()).expect("made anew");
                assert!(again.template == template && whole(name), "{name} {number}");
            }
        }
    }
}
