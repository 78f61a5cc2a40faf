use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::symlink},
    },
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::{
    fs::{
        CWD, FileType, Mode, OFlags, RenameFlags, mkdirat, mkfifoat, mknodat, openat, renameat_with,
    },
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::{Blocked, Dir, remove, remove::LEVELS};

const MODE: Mode = Mode::RWXU;

fn temporary() -> (tempfile::TempDir, Dir) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = Dir::open(temporary.path()).unwrap();
    (temporary, dir)
}

/// Makes a chain of directories called `d`, and returns the last.
fn chain(at: &Dir, name: &str, levels: usize) -> OwnedFd {
    mkdirat(at, name, MODE).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut last = openat(at, name, flags, Mode::empty()).unwrap();
    for _ in 1..levels {
        mkdirat(&last, "d", MODE).unwrap();
        last = openat(&last, "d", flags, Mode::empty()).unwrap();
    }
    last
}

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_hundred_thousand_levels_are_removed_on_a_small_stack() {
    // In memory, where there is such a place: on a disk it would be its speed that is tested.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let temporary = tempfile::tempdir_in(place).unwrap();
    let dir = Dir::open(temporary.path()).unwrap();
    let deepest = chain(&dir, "deep", 100_000);
    mkfifoat(&deepest, "file", MODE).unwrap();
    drop(deepest);
    thread::scope(|scope| {
        let small = thread::Builder::new().stack_size(128 * 1024);
        small.spawn_scoped(scope, || dir.remove("deep")).unwrap().join().unwrap().unwrap();
    });
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_deep_tree_costs_a_bounded_number_of_fds() {
    let (_temporary, dir) = temporary();
    drop(chain(&dir, "deep", 2_000));
    let (done, watching) = (AtomicBool::new(false), Barrier::new(2));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let before = open_fds();
            watching.wait();
            let mut most = before;
            while !done.load(Ordering::Relaxed) {
                most = most.max(open_fds());
            }
            most - before.min(most)
        });
        watching.wait();
        dir.remove("deep").unwrap();
        done.store(true, Ordering::Relaxed);
        // Its own, and a few for the walk itself; other tests of this process have some too.
        assert!(watcher.join().unwrap() < 2_000 / 2);
    });
}

#[test]
fn wide_and_deep_trees_of_everything_are_removed_and_nothing_else() {
    let (_outside, outside) = temporary();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    let (temporary, dir) = temporary();
    let tree = dir.make_dir("tree", 0o755).unwrap();
    for branch in 0..5 {
        let last = chain(&tree, &format!("branch {branch}"), LEVELS * 2 + branch);
        mkfifoat(&last, "fifo", MODE).unwrap();
        mknodat(&last, "null", FileType::CharacterDevice, MODE, 0x103).unwrap();
        mknodat(&last, "socket", FileType::Socket, MODE, 0).unwrap();
        let place = format!("/proc/self/fd/{}", last.as_raw_fd());
        symlink(outside.path(), Path::new(&place).join("link")).unwrap();
        symlink("/dev/zero", Path::new(&place).join("link to a device")).unwrap();
        fs::write(Path::new(&place).join(OsStr::from_bytes(b"\xff\n\x1b[31m")), "x").unwrap();
        for file in 0..700 {
            fs::write(Path::new(&place).join(format!("{file}-{}", "x".repeat(200))), "").unwrap();
        }
        mkdirat(&last, "closed", Mode::empty()).unwrap();
        mkdirat(&last, "closed/below", Mode::empty()).unwrap();
        // What the removal itself would call something.
        mkdirat(&tree, format!(".conti-removed-{branch}"), MODE).unwrap();
        mkdirat(&tree, format!(".conti-removed-{branch}/x"), MODE).unwrap();
    }
    dir.remove("tree").unwrap();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    assert_eq!(fs::read(outside.path().join("kept")).unwrap(), b"kept");
    for one in ["file", "link", "fifo"] {
        match one {
            "file" => fs::write(temporary.path().join(one), "").unwrap(),
            "link" => symlink(outside.path(), temporary.path().join(one)).unwrap(),
            _ => mkfifoat(&dir, one, MODE).unwrap(),
        }
        dir.remove(one).unwrap();
        dir.remove(one).expect("what is not there is removed already");
    }
    remove(&temporary.path().join("nowhere/below")).unwrap();
    for name in ["", ".", "..", "a/b", "/"] {
        assert_eq!(dir.remove(name).unwrap_err().errno, Errno::INVAL, "{name:?}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

/// A tmpfs that goes with the test.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn at(place: &Path) -> Mounted<'_> {
        mount("conti-test", place, "tmpfs", MountFlags::empty(), None).unwrap();
        Mounted(place)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn what_is_in_the_way_is_told_and_the_rest_is_removed() {
    let (temporary, dir) = temporary();
    let tree = dir.make_dir("tree", 0o755).unwrap();
    fs::create_dir_all(tree.path().join("a/point")).unwrap();
    fs::create_dir_all(tree.path().join("b/c")).unwrap();
    drop(chain(&tree, "deep", LEVELS * 3));
    let point = tree.path().join("a/point");
    let mounted = Mounted::at(&point);
    fs::write(point.join("kept"), "kept").unwrap();
    let Blocked { tried, path, errno } = dir.remove("tree").unwrap_err();
    assert_eq!((tried, path.as_path(), errno), ("remove", point.as_path(), Errno::BUSY));
    assert_eq!(fs::read(point.join("kept")).unwrap(), b"kept", "no mount is entered");
    let left: Vec<_> = fs::read_dir(tree.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["a"], "what can be removed is");
    assert_eq!(dir.dir("tree/a/point").unwrap_err().errno, Errno::XDEV);
    drop(mounted);
    dir.remove("tree").expect("and the next try removes the rest");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_removal_never_follows_a_directory_that_becomes_a_link() {
    let (_outside, outside) = temporary();
    for number in 0..200 {
        fs::create_dir_all(outside.path().join(format!("{number}/below"))).unwrap();
        fs::write(outside.path().join(format!("{number}/file")), "").unwrap();
    }
    let (temporary, dir) = temporary();
    let stop = AtomicBool::new(false);
    let swap = || {
        symlink(outside.path(), temporary.path().join("link")).unwrap();
        while !stop.load(Ordering::Relaxed) {
            // Either may be missing at this moment.
            let _ = renameat_with(&dir, "tree", &dir, "link", RenameFlags::EXCHANGE);
            let _ = renameat_with(&dir, "tree/a", &dir, "link", RenameFlags::EXCHANGE);
        }
    };
    thread::scope(|scope| {
        scope.spawn(swap);
        for _ in 0..300 {
            // Where the parts are at this moment is a matter of luck; only what lies outside counts.
            for number in 0..3 {
                let _ = fs::create_dir(temporary.path().join("tree"));
                let _ = mkdirat(&dir, "tree/a", MODE);
                let _ = mkdirat(&dir, format!("tree/a/{number}"), MODE);
            }
            let _ = dir.remove("tree");
            let _ = dir.file("tree/a/file").map(|_| panic!("a file outside was opened"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    // What the test itself has made through the link is no matter.
    for number in 0..200 {
        assert!(outside.path().join(format!("{number}/below")).is_dir(), "{number}");
        assert!(outside.path().join(format!("{number}/file")).is_file(), "{number}");
    }
}

#[test]
fn a_file_takes_the_place_of_links_fifos_and_devices_without_opening_them() {
    let (_outside, outside) = temporary();
    let (temporary, dir) = temporary();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    symlink(outside.path().join("kept"), temporary.path().join("link")).unwrap();
    fs::hard_link(outside.path().join("kept"), temporary.path().join("hard link")).unwrap();
    mkfifoat(&dir, "fifo", MODE).unwrap();
    mknodat(&dir, "device", FileType::CharacterDevice, MODE, 0x103).unwrap();
    symlink("/nowhere", temporary.path().join(".fifo.conti-new")).unwrap();
    for name in ["link", "hard link", "fifo", "device", "new"] {
        assert!(name == "new" || name == "hard link" || dir.file(name).is_err(), "{name}");
        dir.replace(name, b"text", 0o644).unwrap();
        let about = fs::symlink_metadata(temporary.path().join(name)).unwrap();
        assert!(about.is_file(), "{name}");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut dir.file(name).unwrap(), &mut text).unwrap();
        assert_eq!(text, "text", "{name}");
    }
    assert_eq!(fs::read(outside.path().join("kept")).unwrap(), b"kept");
    fs::create_dir(temporary.path().join("dir")).unwrap();
    assert_eq!(dir.replace("dir", b"text", 0o644).unwrap_err().errno, Errno::ISDIR);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 6, "nothing is left of the try");
    // A tree in the place of what is written first would take its time.
    fs::create_dir_all(temporary.path().join(".link.conti-new/below")).unwrap();
    let refused = dir.replace("link", b"other", 0o644).unwrap_err();
    assert_eq!(refused.errno, Errno::ISDIR);
    assert!(refused.path.ends_with(".link.conti-new"), "{refused}");
    assert!(temporary.path().join(".link.conti-new/below").is_dir(), "it is left as it is");
}

#[test]
fn nothing_leads_out_of_a_directory() {
    let (_outside, outside) = temporary();
    let (temporary, dir) = temporary();
    fs::create_dir(outside.path().join("below")).unwrap();
    symlink(outside.path(), temporary.path().join("link")).unwrap();
    for path in ["link", "link/below", "../", "..", "/", "/proc/self/root", "link/../link"] {
        assert!(dir.dir(path).is_err(), "{path}");
        assert!(dir.ensure_dir(path, 0o755).is_err(), "{path}");
        assert!(dir.file(path).is_err(), "{path}");
    }
    for name in ["link/x", "../x", "a/b", ".."] {
        assert!(dir.make_dir(name, 0o755).is_err(), "{name}");
        assert!(dir.make_file(name, 0o644).is_err(), "{name}");
        assert!(dir.make_link("x", name).is_err(), "{name}");
        assert!(dir.replace(name, b"", 0o644).is_err(), "{name}");
        assert!(dir.rename("link", &dir, name).is_err(), "{name}");
    }
    assert_eq!(dir.ensure_dir("new", 0o711).unwrap().path(), temporary.path().join("new"));
    assert!(!dir.is_empty().unwrap() && dir.dir("new").unwrap().is_empty().unwrap());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    let fd = openat(CWD, temporary.path(), OFlags::RDONLY, Mode::empty()).unwrap();
    assert!(Dir::held(fd, "somewhere").as_fd().as_raw_fd() >= 0);
}

#[test]
fn cgroups_that_a_container_has_nested_are_removed_and_busy_ones_are_told() {
    // Nothing but a child of this test is ever in them.
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/freezer"];
    let place = places.iter().map(Path::new).find(|place| place.join("cgroup.procs").exists());
    let place = place.expect("a cgroup hierarchy");
    let top = place.join(format!("conti-beneath-{}", std::process::id()));
    fs::create_dir(&top).unwrap();
    let parent = Dir::open(&top).unwrap();
    // Deeper than directories are held at a time, and cgroups cannot be moved.
    drop(chain(&parent, "deep", LEVELS * 2 + 5));
    drop(chain(&parent, "busy", 2));
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(top.join("busy/d/cgroup.procs"), child.id().to_string()).unwrap();
    let refused = super::remove_cgroup(&top);
    let left: Vec<_> = fs::read_dir(&top).unwrap().flatten().map(|e| e.path()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    super::remove_cgroup(&top).unwrap();
    assert!(!top.exists());
    let Blocked { path, errno, .. } = refused.unwrap_err();
    assert_eq!((path, errno), (top.join("busy/d"), Errno::BUSY));
    assert!(!left.contains(&top.join("deep")), "{left:?}");
    super::remove_cgroup(&top).expect("one that is not there is removed already");
}
