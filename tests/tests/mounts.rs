//! Mounts and devices that a container is given at its creation.

use std::{fs, path::Path};

use conti_tests::{
    Agent,
    facts::{Facts, PROBE, probe_volume},
    host,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn directory(agent: &Agent, name: &str) -> String {
    let path = agent.scratch(name);
    fs::create_dir(&path).expect("a directory");
    fs::write(path.join("file"), "from the host\n").expect("a file");
    path.display().to_string()
}

/// A tmpfs of the test's own on a directory, unmounted when dropped.
struct Tmpfs(String);

impl Tmpfs {
    fn on(path: &Path) -> Tmpfs {
        fs::create_dir_all(path).expect("a directory");
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).expect("a tmpfs can be mounted");
        Tmpfs(path.display().to_string())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(self.0.as_str(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_bind_mount_shows_the_hosts_directory_and_takes_writes() {
    let agent = Agent::start();
    let source = directory(&agent, "shared");
    let volume = format!("{source}:/data/deep/er");
    let script = "cat /data/deep/er/file; echo back > /data/deep/er/answer";
    let out = agent.ok(["run", "--rm", "-v", &volume, "--", "sh", "-c", script]);
    assert_eq!(out, "from the host");
    assert_eq!(fs::read_to_string(agent.scratch("shared/answer")).expect("written"), "back\n");
    agent.finish();
}

#[test]
fn a_single_file_can_be_bound() {
    let agent = Agent::start();
    let source = directory(&agent, "shared");
    let volume = format!("{source}/file:/etc/motd-of-test:ro");
    let out = agent.ok(["run", "--rm", "-v", &volume, "--", "cat", "/etc/motd-of-test"]);
    assert_eq!(out, "from the host");
    agent.finish();
}

#[test]
fn a_read_only_bind_takes_no_writes() {
    let agent = Agent::start();
    let source = directory(&agent, "shared");
    let volume = format!("{source}:/data:ro");
    let out = agent.ctl(["run", "--rm", "-v", &volume, "--", "touch", "/data/x"]).run();
    assert_ne!(out.code, 0);
    assert!(out.errors().contains("Read-only file system"), "{}", out.errors());
    agent.finish();
}

#[test]
fn read_only_holds_for_the_mounts_below_unless_said_otherwise() {
    let agent = Agent::start();
    let source = directory(&agent, "shared");
    let below = Tmpfs::on(&agent.scratch("shared/below"));
    let write = "touch /data/x; touch /data/below/x && echo wrote";
    let bind = format!("type=bind,src={source},dst=/data,ro");
    let run = |flags: &[&str]| {
        let ran = agent.ctl([&["run", "--rm"], flags, &["--", "sh", "-c", write]].concat()).run();
        assert!(ran.errors().contains("/data/x': Read-only file system"), "{flags:?}");
        ran.text()
    };
    let volume = format!("{source}:/data:ro");
    assert_eq!(run(&["-v", &volume]), "");
    assert_eq!(run(&["-v", &format!("{source}:/data:rro")]), "");
    assert_eq!(run(&["--userns", "host", "-v", &volume]), "");
    assert_eq!(run(&["--mount", &bind]), "");
    assert_eq!(run(&["--mount", &format!("{bind},recursive-ro")]), "");
    assert_eq!(run(&["--mount", &format!("{bind},recursive-ro=false")]), "wrote");
    // The same of what is mounted into a container that lives.
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    for (mount, wanted) in
        [(&volume, ""), (&bind, ""), (&format!("{bind},recursive-ro=false"), "wrote")]
    {
        agent.ok(["mount", "--mkdir", "c", mount]);
        let ran = agent.ctl(["exec", "c", "--", "sh", "-c", write]).run();
        assert!(ran.errors().contains("/data/x': Read-only file system"), "{mount}");
        assert_eq!(ran.text(), wanted, "{mount}");
        agent.ok(["umount", "--lazy", "c", "/data"]);
    }
    drop(below);
    agent.finish();
}

#[test]
fn a_private_bind_passes_no_later_mount_on_in_either_direction() {
    let agent = Agent::start();
    let source = directory(&agent, "shared");
    let volume = format!("{source}:/data");
    agent.ok([
        "run",
        "-d",
        "--name",
        "c",
        "--cap-add",
        "SYS_ADMIN",
        "--security",
        "seccomp=unconfined",
        "-v",
        &volume,
        "--",
        "sleep",
        "1000",
    ]);
    agent.ok([
        "exec",
        "--cap-add",
        "SYS_ADMIN",
        "--security",
        "seccomp=unconfined",
        "c",
        "--",
        "sh",
        "-c",
        "mkdir /data/inner && mount -t tmpfs none /data/inner && touch /data/inner/seen",
    ]);
    assert!(agent.scratch("shared/inner").is_dir());
    assert!(!agent.scratch("shared/inner/seen").exists(), "a mount made inside reached the host");
    let outer = Tmpfs::on(&agent.scratch("shared/outer"));
    fs::write(agent.scratch("shared/outer/seen"), "").expect("a file");
    assert_eq!(agent.ok(["exec", "c", "--", "ls", "/data/outer"]), "");
    drop(outer);
    agent.finish();
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    let agent = Agent::start();
    let flag = "type=tmpfs,dst=/scratch,size=1m,mode=0750";
    let script = "stat -c %a /scratch; dd if=/dev/zero of=/scratch/x bs=64k count=32 2>/dev/null; \
                  stat -c %s /scratch/x";
    let out = agent.ok(["run", "--rm", "--mount", flag, "--", "sh", "-c", script]);
    assert_eq!(out, format!("750\n{}", 1 << 20), "it is full at its size");
    agent.finish();
}

#[test]
fn mounts_are_made_in_order() {
    let agent = Agent::start();
    let source = directory(&agent, "shared");
    let bind = format!("type=bind,src={source},dst=/a/b");
    let out = agent.ok([
        "run",
        "--rm",
        "--mount",
        "type=tmpfs,dst=/a",
        "--mount",
        &bind,
        "--",
        "cat",
        "/a/b/file",
    ]);
    assert_eq!(out, "from the host");
    agent.finish();
}

/// A device that is there, opens for root, and that no container has by default.
const DEVICES: [&str; 3] = ["/dev/loop-control", "/dev/fuse", "/dev/net/tun"];

mod needs_device {
    use super::*;

    #[test]
    fn devices_are_denied_even_to_who_can_make_their_nodes() {
        let agent = Agent::start();
        let device = host::openable_device(&DEVICES);
        let rdev = rustix::fs::stat(device).expect("it is there").st_rdev;
        let (major, minor) =
            (rustix::fs::major(rdev).to_string(), rustix::fs::minor(rdev).to_string());
        let volume = probe_volume();
        for extra in [&[][..], &["--cap-add", "SYS_ADMIN"]] {
            let mut args = vec!["run", "--rm", "-v", &volume];
            args.extend(extra);
            args.extend(["--", PROBE, "mknod", "c", &major, &minor]);
            let answer = agent.ctl(args).run().success().json();
            assert_ne!(answer["open"], "ok", "{device} was opened: {answer}");
        }
        agent.finish();
    }

    #[test]
    fn a_device_that_was_allowed_can_be_used_in_the_container_and_by_exec() {
        let agent = Agent::start();
        let device = host::openable_device(&DEVICES);
        let volume = probe_volume();
        let expected = format!(r#"{{"{device}":"ok"}}"#);
        let out = agent
            .ok(["run", "--rm", "-v", &volume, "--device", device, "--", PROBE, "open", device]);
        assert_eq!(out, expected);
        agent.ok([
            "run", "-d", "--name", "c", "-v", &volume, "--device", device, "--", "sleep", "1000",
        ]);
        assert_eq!(agent.ok(["exec", "c", "--", PROBE, "open", device]), expected);
        agent.finish();
    }

    #[test]
    fn a_device_can_have_another_path_inside() {
        let agent = Agent::start();
        let device = host::openable_device(&DEVICES);
        let volume = probe_volume();
        let flag = format!("{device}:/dev/of/test:r");
        let out = agent.ok([
            "run",
            "--rm",
            "-v",
            &volume,
            "--device",
            &flag,
            "--",
            PROBE,
            "open",
            "/dev/of/test",
        ]);
        assert_eq!(out, r#"{"/dev/of/test":"ok"}"#);
        agent.finish();
    }

    #[test]
    fn a_privileged_container_may_open_devices() {
        let agent = Agent::start();
        let device = host::openable_device(&DEVICES);
        let rdev = rustix::fs::stat(device).expect("it is there").st_rdev;
        let (major, minor) =
            (rustix::fs::major(rdev).to_string(), rustix::fs::minor(rdev).to_string());
        let volume = probe_volume();
        let args = [
            "run",
            "--rm",
            "--privileged",
            "-v",
            &volume,
            "--",
            PROBE,
            "mknod",
            "c",
            &major,
            &minor,
        ];
        let answer = agent.ctl(args).run().success().json();
        assert_eq!(answer["open"], "ok", "{answer}");
        agent.finish();
    }
}

#[test]
fn no_node_that_a_container_makes_is_the_hosts_console_or_another_terminal() {
    let agent = Agent::start();
    let volume = probe_volume();
    let open = |minor: &str| {
        // In a user namespace none can be made at all.
        let of_host = ["run", "--rm", "--userns", "host", "-v", &volume];
        let args = [&of_host[..], &["--", PROBE, "mknod", "c", "5", minor]].concat();
        agent.ctl(args).run().success().json()["open"].clone()
    };
    // Without a terminal of its own there is none behind /dev/tty, and that is not the policy's answer.
    assert_eq!(open("0"), "ENXIO");
    for console in ["1", "3", "4"] {
        assert_eq!(open(console), "EPERM", "c 5 {console}");
    }
    // A ptmx must lie beside a devpts: one in /tmp leads nowhere, but it is not denied.
    assert_ne!(open("2"), "EPERM");
    let script = "test -c /dev/console && echo works > /dev/console && test -w /dev/tty \
                  && stat -c %t /dev/console";
    let out = agent.ctl(["run", "--rm", "-t", "--", "sh", "-c", script]).run().success().text();
    // Its console is a pseudo-terminal: major 136 in hexadecimal.
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["works", "88"]);
    agent.finish();
}

#[test]
fn the_standard_nodes_work() {
    let agent = Agent::start();
    let script = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x > /dev/null; \
                  echo x > /dev/full || echo full; ls /dev/pts; echo y > /dev/shm/y && cat /dev/shm/y";
    let out = agent.ctl(["run", "--rm", "--", "sh", "-c", script]).run().success().text();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["4", "4", "full", "ptmx", "y"]);
    agent.finish();
}

/// Loop devices and ext4 are not everywhere.
mod needs_loop_device {
    use std::process::Command;

    use super::*;

    fn image(agent: &Agent) -> String {
        let path = agent.scratch("disk.img");
        fs::File::create(&path).and_then(|f| f.set_len(16 << 20)).expect("an image");
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&path).status();
        assert!(made.expect("mkfs.ext4 can be started").success());
        path.display().to_string()
    }

    #[test]
    fn an_image_file_is_mounted_with_its_filesystem() {
        let agent = Agent::start();
        let flag = format!("type=device,src={},dst=/disk,fs=ext4,opt=noatime", image(&agent));
        let script = "ls /disk; echo kept > /disk/kept";
        let out = agent.ok(["run", "--rm", "--mount", &flag, "--", "sh", "-c", script]);
        assert!(out.contains("lost+found"), "{out}");
        let out = agent.ok(["run", "--rm", "--mount", &flag, "--", "cat", "/disk/kept"]);
        assert_eq!(out, "kept", "what was written is in the image");
        agent.finish();
    }

    #[test]
    fn an_image_can_be_mounted_read_only() {
        let agent = Agent::start();
        let flag = format!("type=device,src={},dst=/disk,fs=ext4,ro", image(&agent));
        let facts = Facts::of_run(&agent, &["--mount", &flag]);
        assert!(facts.mount_has("/disk", "ro"));
        agent.finish();
    }

    fn device_flag(image: &str, more: &str) -> String {
        format!("type=device,src={image},dst=/disk,fs=ext4{more}")
    }

    /// Starts a container with the image; returns what was said when it failed.
    fn with_disk(agent: &Agent, name: &str, image: &str, more: &str) -> Result<(), String> {
        let flag = device_flag(image, more);
        let run = ["run", "-d", "--name", name, "--mount", &flag, "--", "sleep", "100000"];
        let outcome = agent.ctl(run).run();
        if outcome.code == 0 { Ok(()) } else { Err(outcome.errors()) }
    }

    fn is_sound(image: &str) {
        let check = Command::new("e2fsck").args(["-f", "-n", image]).output().expect("e2fsck");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }

    fn unmounted(agent: &Agent) {
        conti_tests::wait::until_true("the loop device is gone", || {
            host::loop_devices_of(&agent.scratch("")).is_empty()
        });
    }

    #[test]
    fn an_image_that_is_mounted_twice_is_one_filesystem() {
        let mut agent = Agent::start();
        let image = image(&agent);
        // The same file by another name.
        let other = agent.scratch("other.img").display().to_string();
        fs::hard_link(&image, &other).expect("a link");
        with_disk(&agent, "a", &image, "").expect("mounted");
        agent.kill();
        agent.restart();
        with_disk(&agent, "b", &other, "").expect("mounted again");
        assert_eq!(host::loop_devices_of(&agent.scratch("")).len(), 1);
        let shell = |name: &str, script: &str| agent.ok(["exec", name, "--", "sh", "-c", script]);
        for number in 0..20 {
            let (one, two) = if number % 2 == 0 { ("a", "b") } else { ("b", "a") };
            shell(one, &format!("echo {number} > /disk/{number}; cp /disk/{number} /disk/{one}"));
            assert_eq!(
                shell(two, &format!("cat /disk/{number} /disk/{one}")),
                format!("{number}\n{number}")
            );
        }
        // To read it as well, though the kernel's filesystem can be written.
        with_disk(&agent, "c", &image, ",ro").expect("mounted to be read");
        assert_eq!(shell("c", "cat /disk/7"), "7");
        agent.ctl(["exec", "c", "--", "touch", "/disk/new"]).run().exits(1);
        assert_eq!(host::loop_devices_of(&agent.scratch("")).len(), 1);
        agent.ok(["rm", "-f", "a", "b", "c"]);
        unmounted(&agent);
        is_sound(&image);
        agent.finish();
    }

    #[test]
    fn an_image_that_is_mounted_by_many_at_once_gets_one_loop_device() {
        let agent = Agent::start();
        let image = image(&agent);
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (agent, image) = (&agent, &image);
                scope.spawn(move || {
                    with_disk(agent, &format!("c{number}"), image, "").expect("mounted");
                });
            }
        });
        assert_eq!(host::loop_devices_of(&agent.scratch("")).len(), 1);
        for number in 0..6 {
            agent.ok(["exec", &format!("c{number}"), "--", "touch", &format!("/disk/{number}")]);
        }
        for number in 0..6 {
            agent.ok(["rm", "-f", &format!("c{number}")]);
        }
        unmounted(&agent);
        is_sound(&image);
        agent.finish();
    }

    #[test]
    fn what_would_damage_an_image_is_refused_with_the_reason() {
        let agent = Agent::start();
        let image = image(&agent);
        with_disk(&agent, "a", &image, ",ro").expect("mounted");
        with_disk(&agent, "b", &image, ",ro").expect("mounted again");
        assert_eq!(host::loop_devices_of(&agent.scratch("")).len(), 1);
        let refused = with_disk(&agent, "c", &image, "").expect_err("others rely on it");
        assert!(refused.contains("read-only already") && refused.contains(&image), "{refused}");
        agent.ok(["rm", "-f", "a", "b"]);
        unmounted(&agent);
        // A device of a part of it, made by somebody else.
        let made = Command::new("losetup").args(["--show", "-f", "-o", "4096", &image]).output();
        let device = String::from_utf8(made.expect("losetup").stdout).expect("text");
        let refused = with_disk(&agent, "d", &image, "").expect_err("a part of it is in use");
        let gone = Command::new("losetup").args(["-d", device.trim()]).status();
        assert!(gone.expect("losetup").success());
        assert!(refused.contains("a part of it"), "{refused}");
        unmounted(&agent);
        with_disk(&agent, "e", &image, "").expect("mounted at last");
        agent.finish();
    }

    #[test]
    fn a_wrong_filesystem_type_leaves_no_loop_device() {
        let agent = Agent::start();
        let flag = format!("type=device,src={},dst=/disk,fs=xfs-that-is-none", image(&agent));
        agent.ctl(["run", "--rm", "--mount", &flag, "--", "true"]).run().exits(125);
        assert_eq!(host::loop_devices_of(&agent.path("")), Vec::<String>::new());
        agent.finish();
    }
}
