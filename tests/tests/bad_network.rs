//! A session between two hosts whose network is bad.

/// The network is made of TUN devices, which not every kernel has.
mod needs_tun {
    use std::{
        ffi::OsString,
        fs,
        io::{Read as _, Write as _},
        process::Stdio,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        thread,
        time::Duration,
    };

    use conti_proto::v1::{KillCause, ListSessionsRequest, SessionState, session_end::Reason};
    use conti_tests::{
        Agent,
        agent::binary,
        ctl::Running,
        network::{Hosts, Side},
        pattern::Pattern,
        wait,
    };

    const MIB: u64 = 1 << 20;

    /// An agent on the far host that listens there with an authority of its own, with a container `c`. The
    /// user of the near host was invited and has joined.
    struct Remote {
        agent: Agent,
        hosts: Hosts,
    }

    impl Remote {
        fn start() -> Remote {
            let hosts = Hosts::new();
            let address = Side::Far.address().to_string();
            let contid = |data: &OsString, words: &[&str]| {
                let mut command = hosts.command(Side::Far, binary("contid"));
                let output = command.arg("--data-dir").arg(data).args(words).output();
                let output = output.expect("contid can be started");
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).expect("text").trim().to_owned()
            };
            let agent = Agent::start_as(
                |_| hosts.prefix(Side::Far),
                |dir| {
                    let data = dir.join("data").into_os_string();
                    contid(&data, &["pki", "init", "--name", &address]);
                    vec!["--listen".into(), format!("tcp://{address}:7443").into()]
                },
            );
            let data = agent.path("data").into_os_string();
            let words = ["invite", "--role", "operator", "--name", "alice", "--address", &address];
            let code = contid(&data, &words);
            fs::create_dir(agent.scratch("config")).expect("a directory can be made");
            let remote = Remote { agent, hosts };
            remote.ok(&["join", &code]);
            remote.ok(&["run", "-d", "--name", "c", "--", "sleep", "1000"]);
            remote
        }

        /// A `contictl` on the near host.
        fn client(&self, args: &[&str]) -> Running {
            let command = self.agent.ctl(args.iter().copied()).into_command();
            let mut command = self.hosts.inside(Side::Near, &command);
            command.env_remove("CONTI_HOST").env("XDG_CONFIG_HOME", self.agent.scratch("config"));
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            Running::new(command.spawn().expect("contictl can be started"))
        }

        /// One that must succeed.
        fn ok(&self, args: &[&str]) {
            let mut client = self.client(args);
            drop(client.stdin());
            let said = client.stderr_text();
            assert_eq!(client.wait(), 0, "{said}");
        }

        /// Sends a pattern through a command of the far host and back while the network has trouble:
        /// `trouble` begins when `begin` bytes are back. Checks every byte and the command's code, and
        /// returns what the client said.
        fn copy(&mut self, total: u64, begin: u64, trouble: impl FnOnce(&mut Remote)) -> String {
            self.copy_by(&["exec", "-i", "c"], total, begin, trouble)
        }

        /// The same by another verb than exec.
        fn copy_by(
            &mut self,
            verb: &[&str],
            total: u64,
            begin: u64,
            trouble: impl FnOnce(&mut Remote),
        ) -> String {
            let (name, rest) = verb.split_first().expect("a verb");
            let patience = ["--disconnect=keep=120s", "--reconnect-timeout=120s"];
            let command = ["--", "sh", "-c", "cat; exit 7"];
            let mut client =
                self.client(&[&[*name][..], &patience[..], rest, &command[..]].concat());
            let (mut stdin, mut stdout) = (client.stdin(), client.stdout());
            let writer = thread::spawn(move || {
                let mut pattern = Pattern::new(11);
                for _ in 0..total / MIB {
                    stdin.write_all(&pattern.take(MIB as usize)).expect("contictl reads on");
                }
            });
            let back = Arc::new(AtomicU64::new(0));
            let counter = back.clone();
            let reader = thread::spawn(move || {
                let (mut pattern, mut piece) = (Pattern::new(11), vec![0; 64 << 10]);
                loop {
                    let n = stdout.read(&mut piece).expect("a pipe can be read");
                    if n == 0 {
                        return pattern.offset();
                    }
                    pattern.check(&piece[..n]);
                    counter.store(pattern.offset(), Ordering::Relaxed);
                }
            });
            wait::until_true("a part is through", || back.load(Ordering::Relaxed) >= begin);
            trouble(self);
            let said = client.stderr_text();
            assert_eq!(client.wait(), 7, "{said}");
            writer.join().expect("all was written");
            assert_eq!(reader.join().expect("all was right"), total, "{said}");
            said
        }
    }

    #[test]
    fn heavy_a_copy_goes_on_after_five_seconds_without_a_link() {
        let mut remote = Remote::start();
        remote.hosts.rate(200);
        remote.copy(64 * MIB, 8 * MIB, |remote| {
            remote.hosts.link_down();
            thread::sleep(Duration::from_secs(5));
            remote.hosts.link_up();
        });
        remote.agent.finish();
    }

    #[test]
    fn heavy_a_copy_over_a_long_and_lossy_way_is_exact() {
        let mut remote = Remote::start();
        remote.hosts.delay(Duration::from_millis(100));
        remote.hosts.loss(5);
        remote.copy(4 * MIB, 0, |_| {});
        remote.agent.finish();
    }

    #[test]
    fn heavy_a_copy_over_a_very_long_way_has_much_under_way() {
        let mut remote = Remote::start();
        remote.hosts.large_buffers();
        remote.hosts.delay(Duration::from_millis(250));
        remote.copy(128 * MIB, 0, |_| {});
        for side in [Side::Near, Side::Far] {
            let most = remote.hosts.most_under_way(side) as u64;
            assert!(most >= 6 * MIB, "no more than {most} bytes from {side:?}");
        }
        remote.agent.finish();
    }

    #[test]
    fn heavy_a_copy_is_resumed_after_resets_of_its_connection() {
        let mut remote = Remote::start();
        remote.hosts.rate(200);
        let said = remote.copy_by(&["run", "--rm", "-i"], 64 * MIB, 8 * MIB, |remote| {
            for side in [Side::Near, Side::Far, Side::Near] {
                remote.hosts.reset_connections(side);
                thread::sleep(Duration::from_millis(500));
            }
        });
        assert!(said.contains("trying to resume"), "{said}");
        remote.agent.finish();
    }

    #[test]
    fn heavy_a_copy_is_resumed_when_the_agent_was_killed_and_is_back() {
        let mut remote = Remote::start();
        remote.hosts.rate(200);
        remote.hosts.delay(Duration::from_millis(20));
        let said = remote.copy(64 * MIB, 8 * MIB, |remote| {
            remote.agent.kill();
            thread::sleep(Duration::from_secs(1));
            remote.agent.restart();
        });
        assert!(said.contains("trying to resume"), "{said}");
        remote.agent.finish();
    }

    #[test]
    fn heavy_a_copy_is_resumed_when_the_agent_was_stopped_and_is_back() {
        let mut remote = Remote::start();
        remote.hosts.rate(200);
        let said = remote.copy(64 * MIB, 8 * MIB, |remote| {
            assert!(remote.agent.terminate().success());
            thread::sleep(Duration::from_secs(1));
            remote.agent.restart();
        });
        assert!(said.contains("trying to resume"), "{said}");
        remote.agent.finish();
    }

    #[test]
    fn heavy_both_ends_find_a_peer_that_is_silent_and_the_copy_is_resumed_later() {
        let mut remote = Remote::start();
        remote.hosts.rate(200);
        let said = remote.copy(64 * MIB, 8 * MIB, |remote| {
            remote.hosts.blackhole(true);
            // Longer than either end waits for a sign of life.
            thread::sleep(Duration::from_secs(45));
            remote.hosts.blackhole(false);
        });
        assert!(said.contains("trying to resume"), "{said}");
        remote.agent.finish();
    }

    #[test]
    fn heavy_a_command_is_killed_when_its_client_has_fallen_silent() {
        let remote = Remote::start();
        let script = "echo ready; exec sleep 1000";
        let mut client =
            remote.client(&["exec", "--disconnect=kill", "c", "--", "sh", "-c", script]);
        client.stdout().read_exact(&mut [0; 6]).expect("it is ready");
        remote.hosts.blackhole(true);
        let end = wait::until("the command has ended", || {
            remote.agent.api(async |mut api| {
                let states = vec![SessionState::Ended as i32];
                let request = ListSessionsRequest { states, ..Default::default() };
                let list = api.sessions.list_sessions(request).await.expect("listed").into_inner();
                list.sessions.into_iter().find_map(|session| session.end)
            })
        });
        match end.reason {
            Some(Reason::Killed(killed)) => assert_eq!(killed.cause(), KillCause::Disconnect),
            other => panic!("{other:?}"),
        }
        drop(client);
        remote.agent.finish();
    }
}
