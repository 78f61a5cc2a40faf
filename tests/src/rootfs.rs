//! A small root filesystem made from the host's programs and the libraries they need.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// The programs of [`build`].
const PROGRAMS: [&str; 24] = [
    "sh",
    "cat",
    "echo",
    "true",
    "false",
    "sleep",
    "head",
    "ls",
    "id",
    "env",
    "touch",
    "stat",
    "mkdir",
    "rm",
    "grep",
    "wc",
    "stty",
    "dd",
    "chmod",
    "pwd",
    "sha256sum",
    "printf",
    "mknod",
    "kill",
];

/// Makes a root filesystem in a directory that is not there yet: /usr/bin with a few programs,
/// /bin and the library directories as links into /usr, and an /etc with the users root and
/// alice (1000:1000, also in the groups 2000 `wheel` and 3000 `media`).
pub fn build(root: &Path) {
    fs::create_dir_all(root.join("usr/bin")).expect("a directory can be made");
    symlink("usr/bin", root.join("bin")).expect("a link can be made");
    for dir in ["lib", "lib64"] {
        if Path::new("/").join(dir).is_symlink() {
            fs::create_dir_all(root.join("usr").join(dir)).expect("a directory can be made");
            symlink(Path::new("usr").join(dir), root.join(dir)).expect("a link can be made");
        }
    }
    fill(root, "/usr/bin");
}

/// Makes a root filesystem that holds a single program, /pause, which is linked statically and sleeps.
pub fn build_empty(root: &Path) {
    fs::create_dir_all(root).expect("a directory can be made");
    let mut cc = std::process::Command::new("cc")
        .args(["-static", "-Os", "-x", "c", "-", "-o"])
        .arg(root.join("pause"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("cc can be started");
    let source = b"#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
    let mut stdin = cc.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, source).expect("cc reads");
    drop(stdin);
    assert!(cc.wait().expect("cc ends").success(), "cc -static");
}

/// As [`build`], with /bin and the library directories as directories of their own, as they were
/// before /usr was merged: /usr/bin has only `env` and `head`.
pub fn build_unmerged(root: &Path) {
    fs::create_dir_all(root.join("usr/bin")).expect("a directory can be made");
    fill(root, "/bin");
    for name in ["env", "head"] {
        fs::rename(root.join("bin").join(name), root.join("usr/bin").join(name)).expect("moved");
    }
}

/// Copies a program of the host into a root filesystem.
pub fn copy_named(name: &str, root: &Path, target: &str) {
    copy_program(&find_program(name), root, target);
}

fn fill(root: &Path, programs: &str) {
    for dir in ["etc", "proc", "sys", "dev", "tmp", "root", "home/alice", "var"] {
        fs::create_dir_all(root.join(dir)).expect("a directory can be made");
    }
    for name in PROGRAMS {
        copy_named(name, root, &format!("{programs}/{name}"));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n";
    write(root, "etc/passwd", passwd);
    write(
        root,
        "etc/group",
        "root:x:0:\nalice:x:1000:\nwheel:x:2000:alice\nmedia:x:3000:bob,alice\n",
    );
}

/// Copies a program and the libraries that it needs to a path inside a root filesystem.
pub fn copy_program(program: &Path, root: &Path, target: &str) {
    copy(program, &root.join(target.trim_start_matches('/')));
    for library in libraries(program) {
        let inside = root.join(library.strip_prefix("/").expect("ldd gives absolute paths"));
        if !inside.exists() {
            copy(&library, &inside);
        }
    }
}

fn write(root: &Path, path: &str, text: &str) {
    fs::write(root.join(path), text).expect("a file can be written");
}

fn copy(from: &Path, to: &Path) {
    let parent = to.parent().expect("a file has a directory");
    let copied = fs::create_dir_all(parent).and_then(|()| fs::copy(from, to));
    copied.unwrap_or_else(|e: io::Error| panic!("{} to {}: {e}", from.display(), to.display()));
}

fn find_program(name: &str) -> PathBuf {
    let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().map(|d| Path::new(d).join(name));
    let found = found.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("the host has no {name}"))
}

/// The shared libraries of a program, as ldd(1) finds them. None for a static one.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    // `libc.so.6 => /lib/.../libc.so.6 (0x...)` or `/lib64/ld-linux-x86-64.so.2 (0x...)`.
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(|word| PathBuf::from(word.trim_end_matches(':'))).filter(|p| p.is_file()).collect()
}
