//! What a container with ids of its own is given belongs to it: terminals, devices, queues, files.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
};

use conti_tests::{Agent, rootfs, terminal::Terminal};

/// What owns a session's terminal, and its mode.
const TERMINAL: &str = "echo \"<$(stat -c %u:%g:%a $(tty))>\"";

/// The last word that a command on a terminal shows in angle brackets.
fn shown(agent: &Agent, args: &[&str]) -> String {
    let mut terminal = Terminal::spawn(agent.ctl(args.iter().copied()), 80, 24);
    let text = terminal.expect(">");
    assert_eq!(terminal.wait(), 0, "{args:?}: {text}");
    let word = text.rsplit_once('<').and_then(|(_, rest)| rest.split('>').next());
    word.unwrap_or_else(|| panic!("{args:?}: {text}")).to_owned()
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn a_terminal_belongs_to_its_user_and_to_the_group_of_terminals() {
        let agent = Agent::start();
        for userns in ["auto", "host"] {
            let c = ["run", "-d", "--name", "c", "--userns", userns, "--", "sleep", "1000"];
            agent.ok(c);
            for (user, owner) in [("0", "0:5:620"), ("1000:2000", "1000:5:620")] {
                let run = ["run", "--rm", "-it", "--userns", userns, "-u", user];
                let exec = ["exec", "-it", "-u", user, "c"];
                for args in [run.as_slice(), &exec] {
                    let args = [args, &["--", "sh", "-c", TERMINAL]].concat();
                    assert_eq!(shown(&agent, &args), owner, "{args:?}");
                }
            }
            for verb in ["enter", "debug"] {
                let args = [verb, "c", "--", "sh", "-c", TERMINAL];
                assert_eq!(shown(&agent, &args), "0:5:620", "{args:?}");
            }
            agent.ok(["rm", "-f", "c"]);
        }
        agent.finish();
    }

    #[test]
    fn where_no_id_stands_for_the_group_of_terminals_no_group_may_write_to_one() {
        let agent = Agent::start();
        let maps = ["--uid-map", "0:1700000000:4", "--gid-map", "0:1700000000:4"];
        let run = ["run", "--rm", "-it"];
        let args = [&run, maps.as_slice(), &["--", "sh", "-c", TERMINAL]].concat();
        assert_eq!(shown(&agent, &args), "0:0:600");
        // The terminal is one of the host's, where the group is known, and the namespace somebody else's.
        let mut other = std::process::Command::new("unshare");
        let mut other = other.args(["-Ur", "sleep", "1000"]).spawn().expect("a process");
        let pid = other.id();
        let mapped = || fs::read_to_string(format!("/proc/{pid}/gid_map"));
        conti_tests::wait::until_true("it has its id map", || {
            mapped().is_ok_and(|map| !map.is_empty())
        });
        let target = format!("pid:{pid}");
        let args = ["debug", &target, "--", "sh", "-c", TERMINAL];
        let seen = shown(&agent, &args);
        other.kill().expect("killed");
        other.wait().expect("reaped");
        assert_eq!(seen, "0:0:600");
        agent.finish();
    }

    #[test]
    fn nothing_in_a_new_container_belongs_to_nobody() {
        let agent = Agent::start();
        let root = agent.scratch("root");
        rootfs::build(&root);
        let dir = format!("dir:{}", root.display());
        let show = "stat -c '%u %g %n' / /* /etc/* /run/* /var/* /dev/* /dev/*/* 2>/dev/null; true";
        let roots = [vec![], vec!["--rootfs", &dir], vec!["--rootfs", &dir, "--overlay"]];
        for flags in
            roots.iter().chain(&[vec!["--read-only"], vec!["--device", "/dev/null:/dev/a/b"]])
        {
            for terminal in [&["-t"][..], &[]] {
                let run = ["run", "--rm", "--userns", "auto"];
                let args = [&run, terminal, flags, &["--", "sh", "-c", show]].concat();
                let all = agent.ok(&args);
                assert!(all.contains("/dev/mqueue") && all.contains("/dev/pts/ptmx"), "{all}");
                // The kernel's own.
                let own = all
                    .lines()
                    .filter(|line| !line.ends_with(" /proc") && !line.ends_with(" /sys"));
                let nobodys = own.filter(|line| line.split(' ').take(2).any(|id| id == "65534"));
                assert_eq!(nobodys.collect::<Vec<_>>(), [""; 0], "{args:?}");
            }
        }
        let mine = "chmod 1755 /dev/mqueue && chown 1:1 /dev/mqueue /dev/pts /dev/pts/ptmx && \
                    chown -h 1:1 /dev/fd && chmod 750 /dev/pts && \
                    stat -c %u:%g:%a /dev/mqueue /dev/pts";
        // One whose user namespace was there before, and one in a pid namespace of others.
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        for flags in [&[][..], &["--userns", "container:c"], &["--ns", "pid=container:c"]] {
            let args = [&["run", "--rm"], flags, &["--", "sh", "-c", mine]].concat();
            assert_eq!(agent.ok(args), "1:1:1755\n1:1:750", "{flags:?}");
        }
        agent.finish();
    }

    #[test]
    fn files_of_ids_beyond_those_of_the_container_are_nobodys_also_to_its_root() {
        let agent = Agent::start();
        let dir = agent.scratch("shared");
        fs::create_dir(&dir).expect("a directory");
        let far = dir.join("far");
        fs::write(&far, "x").expect("a file");
        chown(&far, Some(65_536), Some(65_536)).expect("an owner");
        fs::set_permissions(&far, fs::Permissions::from_mode(0o600)).expect("a mode");
        let volume = format!("{}:/s", dir.display());
        let script = "stat -c %u /s/far; cat /s/far || echo unread; chown 0 /s/far || echo kept; \
                      rm -f /s/far || echo there";
        let run = ["run", "--rm", "--userns", "auto", "-v", &volume, "--", "sh", "-c", script];
        assert_eq!(agent.ok(run), "65534\nunread\nkept\nthere");
        assert!(far.exists());
        agent.finish();
    }

    #[test]
    fn nothing_of_the_host_shows_in_the_names_of_what_runs_inside() {
        // Its launcher has an environment then, which nothing inside is to see.
        let agent = Agent::start_behind(|_| {
            ["env", "CONTI_TEST_DELAYS=no.such.point=1"].map(Into::into).to_vec()
        });
        let show = "tr '\\0' '\\n' < /proc/1/cmdline; cat /proc/1/comm; \
                    tr '\\0' '\\n' < /proc/1/environ 2>/dev/null; true";
        for userns in ["auto", "host"] {
            let args = ["run", "--rm", "--init", "--userns", userns, "--", "sh", "-c", show];
            assert_eq!(agent.ok(args), "conti-init\nconti-init", "{userns}");
        }
        // One that is privileged may look at it with the rights of root.
        let show = "tr -d '\\0' < /proc/1/environ";
        let args = ["run", "--rm", "--init", "--privileged", "--", "sh", "-c", show];
        assert_eq!(agent.ok(args), "");
        agent.finish();
    }
}
