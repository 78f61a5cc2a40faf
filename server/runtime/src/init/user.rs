//! Who the process runs as, read from the root filesystem's own /etc/passwd and /etc/group.
//!
//! These files belong to the container and may be anything: they are opened inside the root, must be
//! regular, and are read up to a limit. The host's users are never asked.

use std::os::fd::BorrowedFd;

use rustix::{
    fs::{FileType, OFlags, fstat},
    io::{Errno, read, retry_on_intr},
    thread::{Gid, Uid},
};

use super::{failure::Fail, path::open_in};
use crate::plan::{Identity, Step};

/// As much of a file as is read.
const MAX_FILE: usize = 4 << 20;
/// The highest id: the next one, all bits set, means "none" to the kernel.
const MAX_ID: u32 = u32::MAX - 1;

/// The ids of a process, and its home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    pub uid: u32,
    pub gid: u32,
    /// The supplementary groups that were asked for, and those of the user.
    pub groups: Vec<u32>,
    /// The home directory of /etc/passwd, or `/`. Only looked up where it was asked for.
    pub home: Option<Vec<u8>>,
}

impl Ids {
    /// All supplementary groups, with the primary one among them: else a program that sets its group would take
    /// the process out of a group that is kept from something (CVE-2022-36109).
    pub(super) fn kernel_groups(&self) -> Vec<Gid> {
        let mut groups = self.groups.clone();
        if !groups.contains(&self.gid) {
            groups.push(self.gid);
        }
        groups.into_iter().map(Gid::from_raw).collect()
    }

    pub(super) fn kernel_uid(&self) -> Uid {
        Uid::from_raw(self.uid)
    }

    pub(super) fn kernel_gid(&self) -> Gid {
        Gid::from_raw(self.gid)
    }
}

/// Finds the ids, and with `want_home` the home directory, in the filesystem below `root`. `owner`: the
/// user and group that stand for root where nobody is named.
pub(super) fn find(
    identity: &Identity,
    owner: (u32, u32),
    want_home: bool,
    root: BorrowedFd<'_>,
) -> Result<Ids, Fail> {
    let Identity::Lookup { user, group, additional_groups } = identity else {
        let Identity::Ids { uid, gid, groups } = identity else {
            return Err(Fail::unknown(Step::User, 0));
        };
        // To the kernel the id beyond means "leave it as it is", which here would be root.
        if [*uid, *gid].iter().chain(groups).any(|id| *id > MAX_ID) {
            return Err(Fail::new(Step::Credentials, 0, Errno::INVAL));
        }
        let home = want_home.then(|| home_of(&read_file(root, "etc/passwd"), *uid));
        return Ok(Ids { uid: *uid, gid: *gid, groups: groups.clone(), home });
    };
    // Both files are read only where something is to be found in them.
    let passwd = if !user.is_empty() || group.is_empty() || want_home {
        read_file(root, "etc/passwd")
    } else {
        Vec::new()
    };
    let named = |name: &String| !name.is_empty() && !is_number(name);
    let groups_file = if !user.is_empty() || named(group) || additional_groups.iter().any(named) {
        read_file(root, "etc/group")
    } else {
        Vec::new()
    };
    let mut ids = resolve(user, group, additional_groups, &passwd, &groups_file)?;
    if user.is_empty() && owner != (0, 0) {
        ids.uid = owner.0;
        ids.gid = if group.is_empty() { owner.1 } else { ids.gid };
    }
    ids.home = want_home.then(|| home_of(&passwd, ids.uid));
    Ok(ids)
}

pub(super) fn resolve(
    user: &str,
    group: &str,
    additional: &[String],
    passwd: &[u8],
    groups_file: &[u8],
) -> Result<Ids, Fail> {
    let no_user = Fail::unknown(Step::User, 0);
    let (uid, entry) = if user.is_empty() {
        (0, users(passwd).find(|entry| entry.uid == 0))
    } else if is_number(user) {
        let uid = id(user.as_bytes()).ok_or(no_user)?;
        (uid, users(passwd).find(|entry| entry.uid == uid))
    } else {
        let entry = users(passwd).find(|entry| entry.name == user.as_bytes()).ok_or(no_user)?;
        (entry.uid, Some(entry))
    };
    let gid = match group {
        "" => entry.as_ref().map_or(0, |entry| entry.gid),
        name => group_id(name, groups_file).ok_or(Fail::unknown(Step::Group, 0))?,
    };
    let mut groups = Vec::new();
    if let Some(entry) = entry.filter(|_| !user.is_empty()) {
        groups.extend(lists_of(groups_file).filter(|g| g.has(entry.name)).map(|g| g.gid));
    }
    for (index, name) in additional.iter().enumerate() {
        let unknown = Fail::unknown(Step::Group, index as u32 + 1);
        groups.push(group_id(name, groups_file).ok_or(unknown)?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(Ids { uid, gid, groups, home: None })
}

/// A line of /etc/passwd.
struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// The lines of /etc/passwd that are whole.
fn users(file: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let (_comment, home) = (fields.next(), fields.next().unwrap_or_default());
        Some(User { name, uid, gid, home })
    })
}

/// A line of /etc/group.
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl Group<'_> {
    fn has(&self, user: &[u8]) -> bool {
        self.members.split(|byte| *byte == b',').any(|member| member == user)
    }
}

/// The lines of /etc/group that are whole.
fn lists_of(file: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = id(fields.next()?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn group_id(group: &str, file: &[u8]) -> Option<u32> {
    if is_number(group) {
        return id(group.as_bytes());
    }
    lists_of(file).find(|g| !group.is_empty() && g.name == group.as_bytes()).map(|g| g.gid)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A decimal id: digits only, no sign, in the range that the kernel takes.
fn id(text: &[u8]) -> Option<u32> {
    let text = str::from_utf8(text).ok().filter(|text| is_number(text))?;
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

pub(super) fn home_of(passwd: &[u8], uid: u32) -> Vec<u8> {
    users(passwd)
        .find(|user| user.uid == uid && user.home.starts_with(b"/") && !user.home.contains(&0))
        .map_or_else(|| b"/".to_vec(), |user| user.home.to_vec())
}

/// A file's content. One that cannot be read, or is no regular file, has no users in it.
fn read_file(root: BorrowedFd<'_>, path: &str) -> Vec<u8> {
    try_read_file(root, path).unwrap_or_default()
}

fn try_read_file(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, Errno> {
    // NONBLOCK: opening a FIFO would wait for a writer. NOCTTY: a terminal would become ours.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open_in(root, path, flags)?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let size = usize::try_from(stat.st_size).unwrap_or(0).min(MAX_FILE);
    let mut content = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match retry_on_intr(|| read(&file, &mut content[filled..]))? {
            0 => break,
            n => filled += n,
        }
    }
    content.truncate(filled);
    if stat.st_size > MAX_FILE as i64 {
        // The last line is cut off in its middle and could name another id than the whole one.
        content.truncate(content.iter().rposition(|byte| *byte == b'\n').unwrap_or(0));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd as _, os::fd::OwnedFd};

    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken line\n::::::\n\
        daemon:x:1:1::/usr/sbin:/x\nann:x:1000:1001:Ann,,,:/home/ann:/bin/sh\r\nno:x:-1:0::/:\n\
        wrap:x:4294967296:0::/:\nall:x:4294967295:0::/:\nbare:x:7:8\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,ann\naudio:x:29:bob,ann\nann:x:1001:\n";

    fn found(user: &str, group: &str, additional: &[&str]) -> Result<(u32, u32, Vec<u32>), Fail> {
        let additional: Vec<String> = additional.iter().map(|s| (*s).to_owned()).collect();
        resolve(user, group, &additional, PASSWD, GROUP).map(|ids| (ids.uid, ids.gid, ids.groups))
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        assert_eq!(found("", "", &[]), Ok((0, 0, vec![])));
        assert_eq!(found("ann", "", &[]), Ok((1000, 1001, vec![10, 29])));
        assert_eq!(found("1000", "", &[]), Ok((1000, 1001, vec![10, 29])));
        assert_eq!(found("1000", "wheel", &["5"]), Ok((1000, 10, vec![5, 10, 29])));
        assert_eq!(found("4242", "", &[]), Ok((4242, 0, vec![])));
        assert_eq!(
            found("4294967294", "4294967294", &[]),
            Ok((u32::MAX - 1, u32::MAX - 1, vec![]))
        );
        assert_eq!(found("bare", "", &[]), Ok((7, 8, vec![])));
    }

    #[test]
    fn what_is_not_there_or_no_id_is_an_error_of_its_own_item() {
        for user in
            ["nobody", "-1", "+1", "4294967295", "4294967296", "99999999999999", "no", "all"]
        {
            assert_eq!(found(user, "", &[]), Err(Fail::unknown(Step::User, 0)), "{user}");
        }
        assert_eq!(found("ann", "nope", &[]), Err(Fail::unknown(Step::Group, 0)));
        assert_eq!(found("ann", "4294967295", &[]), Err(Fail::unknown(Step::Group, 0)));
        assert_eq!(found("ann", "", &["audio", ""]), Err(Fail::unknown(Step::Group, 2)));
    }

    #[test]
    fn a_home_is_absolute_or_the_root() {
        assert_eq!(home_of(PASSWD, 1000), b"/home/ann");
        assert_eq!(home_of(PASSWD, 7), b"/");
        assert_eq!(home_of(PASSWD, 4242), b"/");
        assert_eq!(home_of(b"x:x:1:1::relative:/bin/sh", 1), b"/");
    }

    #[test]
    fn fifos_links_out_and_directories_hold_no_users_and_a_huge_file_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let root: OwnedFd = fs::File::open(dir.path()).unwrap().into();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = dir.path().join("etc/passwd");
        let read = || read_file(root.as_fd(), "etc/passwd");
        assert!(read().is_empty());
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, mode, 0).unwrap();
        assert!(read().is_empty());
        fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &passwd).unwrap();
        assert!(read().is_empty());
        fs::write(dir.path().join("etc/hostname"), "inside").unwrap();
        assert_eq!(read(), b"inside");
        fs::remove_file(&passwd).unwrap();
        let mut huge = b"a:x:1:1\n".repeat(MAX_FILE / 8 - 1);
        huge.extend(b"evil:x:0123456:0:\n");
        fs::write(&passwd, &huge).unwrap();
        assert_eq!(read().len(), MAX_FILE - 9);
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(passwd: Vec<u8>, group: Vec<u8>, user: String, g: String) {
            let _ = resolve(&user, &g, std::slice::from_ref(&g), &passwd, &group);
            let _ = home_of(&passwd, 0);
        }
    }
}
