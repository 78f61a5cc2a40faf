//! Targets that go to other namespaces while a call is at work: what was looked at is what is joined, and a target
//! leads nobody into mounts of its own with more rights than it has itself.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    process::Command,
};

use conti_tests::{
    Agent, host,
    moving::{Moving, meanwhile, stopping_at},
    wait,
};

const ID: [&str; 3] = ["--", "id", "-u"];

#[test]
fn a_process_that_goes_when_it_was_looked_at_takes_no_command_with_it() {
    let agent = Agent::start_behind(|_| stopping_at("enter.looked"));
    for flags in [&["-a"][..], &["-m"], &["-m", "-u", "-U"], &["-r"], &["-a", "-r", "-w", "-S"]] {
        let mut moving = Moving::start();
        let pid = moving.pid().to_string();
        let args = [&["enter", "--target", &pid], flags, &ID].concat();
        let ran = meanwhile(&agent, &args, || moving.go()).success().text();
        let own = if flags.contains(&"-S") { "7002" } else { "0" };
        assert_eq!(ran, own, "{flags:?}");
    }
    let mut moving = Moving::start();
    let target = format!("pid:{}", moving.pid());
    let script =
        "id -u; readlink /proc/self/ns/user; grep -c ' /target.*/id ' /proc/self/mountinfo";
    let ran = meanwhile(&agent, &["debug", &target, "--", "sh", "-c", script], || moving.go());
    assert_eq!(ran.text(), format!("0\n{}\n0", host::namespace("self", "user")));
    agent.finish();
}

#[test]
fn a_process_that_goes_while_it_is_looked_at_is_not_entered() {
    let agent = Agent::start_behind(|_| stopping_at("enter.looking"));
    for flags in [&["-a"][..], &["-m"], &["-r"], &["-n"], &[], &["-S", "-G", "-e", "-w"]] {
        let mut moving = Moving::start();
        let pid = moving.pid().to_string();
        let args = [&["enter", "--target", &pid], flags, &ID].concat();
        let refused = meanwhile(&agent, &args, || moving.go()).exits(125).errors();
        let says =
            format!("process {pid}: it has gone to other namespaces meanwhile; repeat the call");
        assert!(refused.contains(&says), "{flags:?}: {refused}");
        // Where it is now, it is entered as what it is there: its user's own root.
        if flags == ["-a"] {
            let args = [&["enter", "--target", &pid], flags, &ID].concat();
            let ran = meanwhile(&agent, &args, || ()).success().text();
            assert_eq!(ran, format!("taken over in {}", host::namespace(&pid, "user")));
        }
    }
    agent.finish();
}

/// The main process of a container that may make namespaces.
struct Main {
    pid: u32,
    fifo: String,
}

impl Main {
    /// Starts a container `c` of one that goes into a user and a mount namespace of its own when it is told to, where
    /// `id` is a program of its own.
    fn start(agent: &Agent) -> Main {
        let main = "printf '#!/bin/sh\\necho taken over\\n' > /tmp/id; chmod 755 /tmp/id
            mkfifo /tmp/go; read go < /tmp/go
            exec unshare --user --map-root-user --mount sh -c 'mount --bind /tmp/id \"$(readlink -f /usr/bin/id)\"
            exec sleep 100000'";
        let run = ["run", "-d", "--name", "c", "--userns", "host", "--cap-add", "SYS_ADMIN"];
        agent.ok([&run[..], &["--", "sh", "-c", main]].concat());
        let json = agent.ctl(["-o", "json", "inspect", "c"]).run().success().json();
        let pid = json["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        let fifo = format!("/proc/{pid}/root/tmp/go");
        wait::until_true("it waits", || fs::exists(&fifo).unwrap_or(false));
        Main { pid, fifo }
    }

    fn mounts(&self) -> String {
        host::namespace(&self.pid.to_string(), "mnt")
    }

    fn go(&self) {
        let before = self.mounts();
        fs::write(&self.fifo, "go\n").expect("it listens");
        wait::until_true("it has gone", || host::command_line(self.pid).starts_with("sleep"));
        assert_ne!(self.mounts(), before);
    }
}

/// What is run in there with more rights than the container has is not led elsewhere by it.
#[test]
fn a_container_that_goes_when_it_was_looked_at_takes_no_command_with_it() {
    let agent = Agent::start_behind(|_| stopping_at("enter.looked"));
    let main = Main::start(&agent);
    let before = main.mounts();
    let script = "id -u; readlink /proc/self/ns/mnt";
    let args = ["exec", "--privileged", "c", "--", "sh", "-c", script];
    let ran = meanwhile(&agent, &args, || main.go()).success().text();
    assert_eq!(ran, format!("0\n{before}"));
    agent.finish();
}

/// It has a copy of them where it is: who may enter it depends on them all the same.
#[test]
fn a_container_that_goes_away_from_its_mounts_does_not_make_them_forgotten() {
    let mut agent = Agent::start();
    let main = Main::start(&agent);
    let source = agent.scratch("source");
    fs::create_dir(&source).expect("a directory");
    fs::write(source.join("file"), "shown").expect("a file");
    agent.ok(["mount", "c", &format!("{}:/mnt:ro", source.display())]);
    let records = |agent: &Agent| {
        let entries = fs::read_dir(agent.path("state/mounts")).expect("the records").flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "json")).count()
    };
    assert_eq!(records(&agent), 1);
    main.go();
    agent.kill();
    agent.restart();
    assert_eq!(agent.ok(["exec", "c", "--", "cat", "/mnt/file"]), "shown");
    assert_eq!(records(&agent), 1);
    agent.finish();
}

#[test]
fn a_mount_is_taken_away_where_it_was_looked_for() {
    let agent = Agent::start_behind(|_| stopping_at("joined.looked"));
    let mut moving = Moving::start();
    let target = format!("pid:{}", moving.pid());
    meanwhile(&agent, &["umount", &target, "/mnt"], || moving.go()).success();
    let after = File::open(format!("/proc/{}/ns/mnt", moving.pid())).expect("its mounts");
    let is_mounted = |namespace: &File| {
        let file = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={file}")).args(["cat", "/proc/self/mountinfo"]);
        let mounts = command.output().expect("nsenter(1)");
        assert!(mounts.status.success());
        String::from_utf8_lossy(&mounts.stdout).contains(" /mnt ")
    };
    assert_eq!((is_mounted(&moving.before), is_mounted(&after)), (false, true));
    agent.finish();
}

#[test]
fn what_the_kernel_shows_is_read_in_the_namespaces_that_were_looked_at() {
    let agent = Agent::start_behind(|_| stopping_at("viewer.looked"));
    let mut moving = Moving::start();
    let target = format!("pid:{}", moving.pid());
    let args = ["cat", &target, "/proc/sys/kernel/hostname"];
    let read = meanwhile(&agent, &args, || moving.go()).success().text();
    assert_eq!(read, "here");
    agent.finish();
}
