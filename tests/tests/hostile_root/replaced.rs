//! Each place that the agent looks at or mounts on is replaced in turn by each thing that is not what it should
//! be. No call hangs, nothing of the host is read or written, and all of it can be deleted.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use conti_tests::{Agent, rootfs};

use crate::kinds::{GROUPS, KINDS, Kind};

/// What all files of the host's directory hold: a user, for whoever takes them for /etc/passwd.
const SECRET: &str = "4217654";

/// How the root is used, and whose ids it has: all four meet each group and each kind.
const WAYS: [&[&str]; 4] = [
    &["--userns", "auto"],
    &["--userns", "host"],
    &["--userns", "auto", "--overlay"],
    &["--userns", "host", "--overlay"],
];

/// What holds in every container, wherever its links lead.
const CONFINED: &str = "never() { if \"$@\"; then echo wrong: \"$@\"; exit 3; fi; }
    set -e
    test -r /proc/self/status
    test -d /sys/kernel
    for f in /proc/kcore /proc/keys /proc/timer_list; do never test -s $f; done
    for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do never test -w $f; done
    never touch /sys/new 2> /dev/null
    never test -e /dev/kmsg
    test $(stat -c %t:%T /dev/null) = 1:3
    test -c /dev/ptmx
    echo confined";

/// A directory of the host with all that tells of a change.
struct Canary(PathBuf);

impl Canary {
    fn make(dir: PathBuf) -> Canary {
        fs::create_dir_all(dir.join("below")).expect("a directory");
        let named = format!("below/{SECRET}");
        for name in ["file", "passwd", "hosts", "hostname", "null", &named, SECRET] {
            let user = format!("alice:x:{SECRET}:{SECRET}:{SECRET}:/:/bin/sh\n");
            fs::write(dir.join(name), user).expect("a file");
        }
        Canary(dir)
    }

    fn state(&self) -> Vec<String> {
        let mut state = Vec::new();
        let mut queue = vec![self.0.clone()];
        while let Some(path) = queue.pop() {
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let bytes = if meta.is_file() { fs::read(&path).expect("a file") } else { Vec::new() };
            state.push(format!(
                "{} {:o} {}:{} {} {} {} {bytes:?}",
                path.display(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.ino(),
                meta.ctime(),
                meta.ctime_nsec()
            ));
            if meta.is_dir() {
                queue.extend(fs::read_dir(&path).expect("a directory").flatten().map(|e| e.path()));
            }
        }
        state.sort();
        state
    }
}

/// A root filesystem in which something is replaced for a while.
struct Replaced {
    root: PathBuf,
    names: &'static [&'static str],
}

impl Replaced {
    fn put(root: &Path, names: &'static [&'static str], kind: Kind, canary: &Path) -> Replaced {
        for name in names {
            let path = root.join(name);
            if fs::symlink_metadata(&path).is_ok() {
                fs::rename(&path, root.join(kept(name))).expect("put aside");
            }
            kind.put(root, name, canary);
        }
        Replaced { root: root.to_owned(), names }
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        for name in self.names {
            let path = self.root.join(name);
            let _ = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            let _ = fs::rename(self.root.join(kept(name)), &path);
        }
    }
}

fn kept(name: &str) -> String {
    format!("kept-{}", name.replace('/', "-"))
}

/// One container, and what was said by everything that was done with it.
struct Case<'a> {
    agent: &'a Agent,
    name: String,
    root: &'a Path,
    way: &'static [&'static str],
    names: &'static [&'static str],
}

impl Case<'_> {
    /// A call that may fail, but in no other way than calls do.
    fn call(&self, args: &[&str]) -> bool {
        let outcome = self.agent.ctl(args).run();
        let said = format!("{}{}", String::from_utf8_lossy(&outcome.stdout), outcome.errors());
        let what = format!("{}: {args:?}: {}: {said}", self.name, outcome.code);
        assert!(!said.contains(SECRET), "a secret of the host: {what}");
        assert!([0, 1, 2, 125, 126, 127, 137].contains(&outcome.code), "{what}");
        for word in ["panicked", "Internal", "INTERNAL"] {
            assert!(!said.contains(word), "{what}");
        }
        outcome.code == 0
    }

    /// Everything that is done with a container. Whether it ever ran.
    fn live(&self) -> bool {
        let rootfs = format!("dir:{}", self.root.display());
        let mut create = vec!["create", "--name", &self.name, "--rootfs", &rootfs];
        create.extend(self.way);
        create.extend(["--hostname", "box", "--", "/bin/sleep", "100000"]);
        if !self.call(&create) {
            return false;
        }
        let started = self.call(&["start", &self.name]);
        if started {
            self.visit();
            self.call(&["stop", "-t", "0", &self.name]);
            assert!(self.call(&["start", &self.name]), "{}: what has run runs again", self.name);
        }
        assert!(self.call(&["rm", "-f", &self.name]), "{}: it is removed", self.name);
        started
    }

    fn visit(&self) {
        let places: Vec<String> = self.names.iter().map(|name| format!("/{name}")).collect();
        // Nothing that would wait by itself: only regular files are read, and only directories written to.
        let script = format!(
            "for p in {}; do [ -f $p ] && head -c 4096 $p; [ -d $p ] && touch $p/file $p/new; done",
            places.join(" ")
        );
        for verb in ["exec", "enter"] {
            self.call(&[verb, &self.name, "--", "/bin/sh", "-c", &script]);
        }
        let below: Vec<String> = places.iter().map(|p| format!("/target{p}")).collect();
        let script = script.replace(&places.join(" "), &below.join(" "));
        self.call(&["debug", &self.name, "--", "sh", "-c", &script]);
        self.call(&["exec", "-u", "alice", &self.name, "--", "/bin/id"]);
        let confined = ["exec", &self.name, "--", "/bin/sh", "-c", CONFINED];
        assert!(self.call(&confined), "{}: it runs, and is confined as others are", self.name);
        for place in &places {
            // The beginning is enough, and there may be very much of it.
            self.call(&["cat", "--limit", "4096", &self.name, place]);
            self.call(&["ls", &self.name, place]);
        }
        self.call(&["du", "-x", &self.name, "/"]);
        self.call(&["mounts", &self.name]);
    }
}

#[test]
fn each_place_of_a_root_is_replaced_in_turn_and_nothing_of_the_host_is_reached() {
    let agent = Agent::start();
    let canary = Canary::make(agent.scratch("canary"));
    let before = canary.state();
    let model = agent.scratch("root");
    rootfs::build(&model);
    for name in ["run", "dev/pts", "dev/shm"] {
        fs::create_dir_all(model.join(name)).expect("a directory");
    }
    let ran = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (agent, canary, model) = (&agent, &canary, &model);
                scope.spawn(move || work(agent, canary, model, worker))
            })
            .collect();
        let ran = workers.into_iter().map(|worker| worker.join().expect("no worker panics"));
        ran.sum::<usize>()
    });
    assert_eq!(canary.state(), before, "the host's directory is as it was");
    assert_eq!(agent.ok(["ps", "-a", "-q"]), "");
    // What replaces files does not keep a container from running.
    assert!(ran > KINDS.len() * 4, "only {ran} ran");
    agent.finish();
}

/// Every fourth kind, in a copy of the root: how many containers ran.
fn work(agent: &Agent, canary: &Canary, model: &Path, worker: usize) -> usize {
    let root = agent.scratch(&format!("root-{worker}"));
    let copied = Command::new("cp").arg("-a").args([model, &root]).status().expect("cp(1)");
    assert!(copied.success(), "cp");
    let before = canary.state();
    let mut ran = 0;
    for (at, kind) in KINDS.into_iter().enumerate().filter(|(at, _)| at % 4 == worker) {
        for (group, names) in GROUPS.into_iter().enumerate() {
            let replaced = Replaced::put(&root, names, kind, &canary.0);
            let name = format!("{kind:?}-{}", names[0].replace('/', "-")).to_lowercase();
            let way = WAYS[(at / 4 + at + group) % WAYS.len()];
            ran += usize::from(Case { agent, name: name.clone(), root: &root, way, names }.live());
            assert_eq!(canary.state(), before, "the host's directory after {name}");
            drop(replaced);
            clear(&root, &canary.0);
        }
    }
    ran
}

/// Takes away what containers have made in their root where links led to nothing: the next one starts afresh.
fn clear(root: &Path, canary: &Path) {
    let first = canary.components().nth(1).expect("an absolute path");
    for made in [root.join("no"), root.join(first)] {
        let _ = fs::remove_dir_all(made);
    }
    fs::create_dir_all(root.join("tmp")).expect("a directory");
}
