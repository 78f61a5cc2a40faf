//! Tells what a process sees from inside, as JSON. Mounted into containers by the tests.
//!
//! - `probe`: all facts;
//! - `probe open PATH…`: for each path, whether it can be opened for reading: `ok` or the errno;
//! - `probe mknod c|b MAJOR MINOR`: makes a device node in /tmp and opens it: two results;
//! - `probe write PATH…`: for each path, whether it can be opened for writing;
//! - `probe network`: whether a port below 1024 and a socket to ping with can be opened;
//! - `probe syscalls`: what some system calls answer that a container has no business with.

// What it prints is what it is for.
#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{
        getegid, geteuid, getgid, getgroups, getpgid, getpid, getppid, getsid, getuid, umask,
    },
    system::uname,
    termios::{isatty, tcgetwinsize},
};
use serde_json::{Map, Value, json};

fn main() {
    let args: Vec<String> = env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let answer = match args.get(1).copied() {
        None => facts(),
        Some("open") => each(&args[2..], |path| File::open(path).map(drop)),
        Some("write") => {
            each(&args[2..], |path| OpenOptions::new().append(true).open(path).map(drop))
        }
        Some("mknod") => make_node(&args[2..]),
        Some("network") => network(),
        Some("syscalls") => system_calls(),
        Some(other) => json!({ "error": format!("there is no {other:?}") }),
    };
    println!("{answer}");
}

fn result(answer: io::Result<()>) -> Value {
    match answer {
        Ok(()) => json!("ok"),
        Err(error) => json!(errno_name(error.raw_os_error().unwrap_or(0))),
    }
}

/// The names of the errors that the tests ask for; the others by number.
fn errno_name(errno: i32) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NXIO, "ENXIO"),
        (Errno::NODEV, "ENODEV"),
        (Errno::ROFS, "EROFS"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::INVAL, "EINVAL"),
        (Errno::BUSY, "EBUSY"),
    ];
    let name = known.iter().find(|(e, _)| e.raw_os_error() == errno);
    name.map_or_else(|| errno.to_string(), |(_, name)| (*name).to_owned())
}

fn each(paths: &[&str], act: impl Fn(&str) -> io::Result<()>) -> Value {
    let answers = paths.iter().map(|path| ((*path).to_owned(), result(act(path))));
    Value::Object(answers.collect())
}

fn make_node(args: &[&str]) -> Value {
    let number = |at: usize| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
    let kind =
        if args.first() == Some(&"b") { FileType::BlockDevice } else { FileType::CharacterDevice };
    let path = "/tmp/probe-node";
    let mode = Mode::from_raw_mode(0o600);
    let made = mknodat(CWD, path, kind, mode, makedev(number(1), number(2)));
    let opened = File::open(path).map(drop);
    let _ = fs::remove_file(path);
    json!({ "mknod": result(made.map_err(io::Error::from)), "open": result(opened) })
}

/// What the kernel keeps for root in a network of the host.
fn network() -> Value {
    let port = TcpListener::bind("127.0.0.1:80").map(drop);
    let ping = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        Some(rustix::net::ipproto::ICMP),
    );
    json!({ "port": result(port), "ping": result(ping.map(drop).map_err(io::Error::from)) })
}

/// Calls that fail for an unprivileged container. Each is undone where it succeeds.
fn system_calls() -> Value {
    let mounted = mount("none", "/tmp", "tmpfs", MountFlags::empty(), None);
    if mounted.is_ok() {
        let _ = unmount("/tmp", UnmountFlags::DETACH);
    }
    let host_name = uname().nodename().to_string_lossy().into_owned();
    let renamed = rustix::system::sethostname(host_name.as_bytes());
    json!({
        "mount": result(mounted.map_err(io::Error::from)),
        "sethostname": result(renamed.map_err(io::Error::from)),
    })
}

fn facts() -> Value {
    let uname = uname();
    // Reading the mask means setting it.
    let mask = umask(Mode::empty());
    umask(mask);
    json!({
        "namespaces": links("/proc/self/ns"),
        "pid": getpid().as_raw_nonzero().get(),
        "ppid": getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
        "pgid": getpgid(None).map_or(0, |pid| pid.as_raw_nonzero().get()),
        "sid": getsid(None).map_or(0, |pid| pid.as_raw_nonzero().get()),
        "uid": [getuid().as_raw(), geteuid().as_raw()],
        "gid": [getgid().as_raw(), getegid().as_raw()],
        "groups": getgroups().unwrap_or_default().iter().map(|g| g.as_raw()).collect::<Vec<_>>(),
        "umask": mask.as_raw_mode(),
        "status": status(),
        "limits": text("/proc/self/limits"),
        "oom_score_adj": text("/proc/self/oom_score_adj"),
        "uid_map": text("/proc/self/uid_map"),
        "gid_map": text("/proc/self/gid_map"),
        "cgroup": text("/proc/self/cgroup"),
        "mounts": mounts(),
        "fds": links("/proc/self/fd"),
        "hostname": uname.nodename().to_string_lossy(),
        "domainname": uname.domainname().to_string_lossy(),
        "cwd": env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default(),
        "env": env::vars().collect::<BTreeMap<_, _>>(),
        "argv": env::args().collect::<Vec<_>>(),
        "processes": names("/proc").into_iter().filter(|n| n.parse::<u32>().is_ok()).count(),
        "root": names("/"),
        "dev": devices(),
        "interfaces": names("/sys/class/net"),
        "loopback": loopback().map_or_else(|e| e.to_string(), |()| "ok".to_owned()),
        "tty": terminal(),
    })
}

fn text(path: &str) -> String {
    fs::read_to_string(path).map(|t| t.trim_end().to_owned()).unwrap_or_default()
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The links of a directory. The one that reading the directory itself needs is gone by then.
fn links(dir: &str) -> Value {
    let links = names(dir).into_iter().filter_map(|name| {
        let target = fs::read_link(Path::new(dir).join(&name)).ok()?;
        Some((name, json!(target.to_string_lossy())))
    });
    Value::Object(links.collect())
}

fn status() -> Value {
    let status = text("/proc/self/status");
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let lines = lines.map(|(name, value)| (name.to_owned(), json!(value.trim())));
    Value::Object(lines.collect::<Map<_, _>>())
}

fn mounts() -> Value {
    let table = text("/proc/self/mountinfo");
    let lines = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        Some(json!({
            "root": left.get(3), "point": left.get(4), "options": left.get(5),
            "propagation": left.get(6..).unwrap_or_default(),
            "type": right.first(), "source": right.get(1), "super": right.get(2),
        }))
    });
    lines.collect()
}

fn devices() -> Value {
    let nodes = names("/dev").into_iter().filter_map(|name| {
        let meta = fs::symlink_metadata(Path::new("/dev").join(&name)).ok()?;
        let kind = match meta.file_type() {
            t if t.is_char_device() => "char",
            t if t.is_block_device() => "block",
            t if t.is_dir() => "dir",
            t if t.is_symlink() => "link",
            _ => "file",
        };
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        Some((
            name,
            json!({ "kind": kind, "major": major, "minor": minor, "mode": meta.mode() & 0o7777 }),
        ))
    });
    Value::Object(nodes.collect())
}

/// Whether two ends can talk to each other over 127.0.0.1.
fn loopback() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    client.write_all(b"x")?;
    let (mut server, _) = listener.accept()?;
    server.read_exact(&mut [0])
}

fn terminal() -> Value {
    let size = tcgetwinsize(io::stdin()).map(|size| json!([size.ws_col, size.ws_row]));
    json!({
        "stdin": isatty(io::stdin()), "stdout": isatty(io::stdout()), "stderr": isatty(io::stderr()),
        "size": size.unwrap_or(Value::Null),
        "controlling": File::open("/dev/tty").is_ok(),
    })
}
