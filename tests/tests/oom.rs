//! Memory runs out: whoever is killed for it is told as out of memory, and nobody else.
//!
//! Containers have no limits yet, so the tests lower those of their containers' own cgroups.

mod needs_memory_cgroup {
    use std::{fs, path::Path};

    use conti_proto::v1::{ContainerState, session_end::Reason};
    use conti_tests::{
        Agent,
        api::{sleeper, state},
        host,
    };

    /// Never writes a newline, so that tail(1) keeps all of it.
    const EATER: [&str; 2] = ["tail", "/dev/zero"];

    /// Limits the memory of a container to 32 MiB.
    fn limit(cgroup: &str) {
        let dirs = host::cgroups_named(&[cgroup.to_owned()].into());
        let files = dirs
            .iter()
            .flat_map(|dir| ["memory.limit_in_bytes", "memory.max"].map(|file| dir.join(file)));
        let limits: Vec<_> = files.filter(|file| file.exists()).collect();
        let [file] = &limits[..] else { panic!("one limit of memory is wanted, not {limits:?}") };
        fs::write(file, "33554432").expect("a limit can be set");
        // Swap would only make it slow.
        for file in ["memory.swappiness", "memory.swap.max"].map(|name| file.with_file_name(name)) {
            if Path::new(&file).exists() {
                fs::write(file, "0").expect("swap can be forbidden");
            }
        }
    }

    #[test]
    fn a_container_whose_main_process_takes_too_much_ends_out_of_memory() {
        let agent = Agent::start();
        let script = "until [ -e /tmp/go ]; do sleep 0.05; done; exec tail /dev/zero";
        for init in [&[][..], &["--init"]] {
            let begin = [&["run", "-d", "--name", "c"], init, &["--", "sh", "-c", script]];
            agent.ok(begin.concat());
            limit(&agent.api(async |mut api| api.get("c").await.expect("there").cgroup));
            agent.ok(["exec", "c", "--", "touch", "/tmp/go"]);
            assert_eq!(agent.ctl(["wait", "c"]).run().text(), "137", "{init:?}");
            let shown = agent.ok(["ps", "-a"]);
            assert!(shown.contains("out of memory"), "{init:?}: {shown}");
            agent.api(async |mut api| {
                let container = api.get("c").await.expect("there");
                assert_eq!(state(&container), ContainerState::Stopped);
                let reason = container.end.and_then(|end| end.reason);
                assert!(matches!(reason, Some(Reason::OutOfMemory(_))), "{init:?}: {reason:?}");
            });
            agent.ok(["rm", "c"]);
        }
        agent.finish();
    }

    #[test]
    fn an_exec_that_takes_too_much_ends_out_of_memory_alone() {
        let agent = Agent::start();
        agent.api(async |mut api| {
            let started = api.run(sleeper("c")).await.expect("runs");
            limit(&started.cgroup);
        });
        let eater = ["exec", "c", "--"].into_iter().chain(EATER);
        let outcome = agent.ctl(eater).run();
        assert_eq!(outcome.code, 137, "{outcome:?}");
        let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert!(said.contains("memory"), "{said}");
        // The others go on, and a plain kill is still a plain kill.
        agent.ok(["exec", "c", "--", "true"]);
        let killed = agent.ctl(["exec", "c", "--", "sh", "-c", "kill -KILL $$"]).run();
        assert_eq!(killed.code, 137, "{killed:?}");
        let said = String::from_utf8_lossy(&killed.stderr).into_owned();
        assert!(!said.contains("memory"), "{said}");
        agent.finish();
    }
}
