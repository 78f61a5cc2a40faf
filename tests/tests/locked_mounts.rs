//! What a container with ids of its own gets of the host stays as it was given, also where root in it may mount.

use std::{fs, path::Path};

use conti_tests::{Agent, host_mount::HostMount, rootfs};

/// Tries to write to a directory of the container, and to get the right to do so.
const WRITE: &str = "try() { touch $1/written && echo written; \
     mount -o remount,bind,rw $1 && echo remounted; touch $1/written && echo written; }; ";

/// What root in a container says that may mount, having tried `script`.
fn said(agent: &Agent, verb: &[&str], script: &str) -> String {
    // It may mount at all.
    let may = "mkdir -p /n && mount -t tmpfs none /n && umount /n && echo may; ";
    let script = format!("{WRITE}{may}{{ {script}; }} 2>/dev/null; echo end");
    let rest = ["--security", "seccomp=unconfined", "--cap-add", "SYS_ADMIN"];
    let (verb, name) = verb.split_at(verb.len() - usize::from(verb[0] == "exec"));
    let all = agent.ok([verb, &rest, name, &["--", "sh", "-c", &script]].concat());
    all.strip_prefix("may\n").unwrap_or_else(|| panic!("it cannot mount: {all}")).to_owned()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
    fs::write(path, text).expect("written");
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn a_mount_that_is_read_only_stays_so_for_root_in_the_container() {
        let agent = Agent::start();
        let (asked, host) = (agent.scratch("asked"), agent.scratch("host"));
        for dir in [&asked, &host] {
            fs::create_dir(dir).expect("a directory");
        }
        let mounted = HostMount::read_only(&host);
        let volumes =
            [format!("{}:/asked:ro", asked.display()), format!("{}:/host", host.display())];
        let file = asked.join("file");
        fs::write(&file, "given").expect("written");
        let of_file = format!("{}:/file:ro", file.display());
        let run = ["run", "--rm", "--userns", "auto"];
        let run = [&run[..], &["-v", &volumes[0], "-v", &volumes[1], "-v", &of_file]].concat();
        let script = "try /asked; try /host; mount -o remount,bind,rw /file; echo x >/file";
        assert_eq!(said(&agent, &run, script), "end");
        // What is unmounted is the whole, and what is mounted anew is the container's own.
        let script = "umount /asked && touch /asked/written && echo free";
        assert_eq!(said(&agent, &run, script), "free\nend");
        assert_eq!(fs::read_to_string(&file).expect("there"), "given");
        let written = [&asked, &host].map(|dir| dir.join("written").exists());
        assert_eq!(written, [false, false]);
        drop(mounted);
        agent.finish();
    }

    #[test]
    fn what_a_mount_of_the_host_covers_stays_covered() {
        let agent = Agent::start();
        let source = agent.scratch("source");
        write(&source.join("secret/under"), "hidden");
        let cover = HostMount::tmpfs(&source.join("secret"));
        fs::write(cover.path().join("over"), "shown\n").expect("written");
        let volume = format!("{}:/s", source.display());
        let run = ["run", "--rm", "--userns", "auto", "-v", &volume];
        let script = "cat /s/secret/*; umount /s/secret && cat /s/secret/*; \
                      mkdir /one && mount --bind /s /one && cat /one/secret/*";
        assert_eq!(said(&agent, &run, script), "shown\nend");
        drop(cover);
        agent.finish();
    }

    #[test]
    fn a_root_of_the_host_keeps_what_the_host_has_made_of_it() {
        let agent = Agent::start();
        let root = agent.scratch("root");
        rootfs::build(&root);
        for program in ["mount", "umount", "mkdir", "touch"] {
            if !root.join("usr/bin").join(program).exists() {
                rootfs::copy_named(program, &root, &format!("/usr/bin/{program}"));
            }
        }
        write(&root.join("kept/file"), "given");
        write(&root.join("secret/under"), "hidden");
        let kept = HostMount::read_only(&root.join("kept"));
        let cover = HostMount::tmpfs(&root.join("secret"));
        let dir = format!("dir:{}", root.display());
        let run = ["run", "--rm", "--userns", "auto", "--rootfs", &dir];
        let script = "try /kept; umount /kept; umount /secret; cat /secret/under";
        assert_eq!(said(&agent, &run, script), "end");
        assert!(!root.join("kept/written").exists());
        drop((kept, cover));
        agent.finish();
    }

    #[test]
    fn what_is_mounted_later_stays_as_it_was_mounted() {
        let agent = Agent::start();
        let source = agent.scratch("source");
        write(&source.join("secret/under"), "hidden");
        let cover = HostMount::tmpfs(&source.join("secret"));
        let host = agent.scratch("host");
        fs::create_dir(&host).expect("a directory");
        let mounted = HostMount::read_only(&host);
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        agent.ok(["mount", "c", &format!("{}:/s:ro", source.display()), "--mkdir"]);
        agent.ok(["mount", "c", &format!("{}:/h", host.display()), "--mkdir"]);
        let script = "try /s; try /h; umount /s/secret; cat /s/secret/under";
        assert_eq!(said(&agent, &["exec", "c"], script), "end");
        assert!(!source.join("written").exists() && !host.join("written").exists());
        // As a whole it goes, by either side.
        assert_eq!(said(&agent, &["exec", "c"], "umount -l /h && echo gone"), "gone\nend");
        agent.ok(["umount", "c", "/s", "--lazy"]);
        agent.ok(["rm", "-f", "c"]);
        drop((cover, mounted));
        agent.finish();
    }

    #[test]
    fn no_mount_is_passed_on_to_or_from_a_user_namespace_of_its_own() {
        let agent = Agent::start();
        let source = agent.scratch("source");
        fs::create_dir(&source).expect("a directory");
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        for (propagation, why) in [("shared", "appear on the host"), ("slave", "no id map")] {
            let source = source.display();
            let flag = format!("type=bind,src={source},dst=/s,propagation={propagation}");
            let run = ["run", "--rm", "--userns", "auto", "--mount", &flag, "--", "true"];
            let mount = ["mount", "c", &flag, "--mkdir"];
            for refused in [agent.ctl(run).run(), agent.ctl(mount).run()] {
                let refused = refused.exits(125).errors();
                assert!(refused.contains(why) && refused.contains("--userns host"), "{refused}");
            }
        }
        agent.ok(["rm", "-f", "c"]);
        agent.finish();
    }

    #[test]
    fn the_tools_of_a_debugger_cannot_be_made_writable() {
        let agent = Agent::start();
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        let script = "mount -o remount,bind,rw /usr && echo remounted; echo end";
        let debug = ["debug", "--privileged", "c", "--", "sh", "-c", script];
        assert_eq!(agent.ok(debug), "end");
        agent.ok(["rm", "-f", "c"]);
        agent.finish();
    }
}
