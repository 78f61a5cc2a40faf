//! An agent behind a real sshd: nothing of it listens, and ssh says who may.

mod needs_sshd {
    use std::{
        io::{Read as _, Write as _},
        path::Path,
        thread,
    };

    use conti_tests::{
        Agent,
        agent::binary,
        ctl::{Ctl, Running},
        pattern::Pattern,
        sshd::Sshd,
    };

    const MIB: usize = 1 << 20;

    /// The PATH of a machine on which contictl is installed.
    fn installed() -> String {
        let contictl = binary("contictl").canonicalize().expect("contictl is there");
        let dir = contictl.parent().expect("it is in a directory");
        format!("{}:/usr/bin:/bin", dir.display())
    }

    fn over<'a>(agent: &Agent, sshd: &Sshd, url: &'a str, args: &[&'a str]) -> Ctl {
        let ssh = sshd.ssh().display().to_string();
        agent.ctl([&["--host", url], args].concat()).env("CONTI_SSH", &ssh)
    }

    fn url(agent: &Agent, sshd: &Sshd) -> String {
        sshd.url(&agent.path("contid.sock"))
    }

    /// Sends bytes through a client and checks all that comes back, calling `midway` once half of it
    /// has.
    fn through(mut client: Running, total: usize, midway: impl FnOnce()) {
        let (mut stdin, mut stdout) = (client.stdin(), client.stdout());
        let writer = thread::spawn(move || {
            let mut pattern = Pattern::new(1);
            // A client that ends early is told below, with what it said.
            (0..total / MIB).try_for_each(|_| stdin.write_all(&pattern.take(MIB)))
        });
        let mut pattern = Pattern::new(1);
        let mut buffer = vec![0; MIB];
        let mut midway = Some(midway);
        loop {
            let n = stdout.read(&mut buffer).expect("stdout can be read");
            if n == 0 {
                break;
            }
            pattern.check(&buffer[..n]);
            if pattern.offset() > total as u64 / 2
                && let Some(midway) = midway.take()
            {
                midway();
            }
        }
        let errors = client.stderr_text();
        let written = writer.join().expect("the writer ends");
        assert!(written.is_ok(), "{errors}");
        assert_eq!(pattern.offset(), total as u64, "{errors}");
        assert_eq!(client.wait(), 0, "{errors}");
    }

    #[test]
    fn a_session_over_ssh_loses_nothing_though_its_connection_is_killed() {
        let agent = Agent::start();
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
        let sshd = Sshd::start(&installed());
        let url = url(&agent, &sshd);
        let args = ["exec", "-i", "c", "--", "cat"];
        through(over(&agent, &sshd, &url, &args).spawn(), 32 * MIB, || {});
        through(over(&agent, &sshd, &url, &args).spawn(), 64 * MIB, || sshd.cut());
        agent.ok(["rm", "-f", "c"]);
        drop(sshd);
        agent.finish();
    }

    #[test]
    fn a_command_over_ssh_ends_as_it_does_without() {
        let agent = Agent::start();
        let sshd = Sshd::start(&installed());
        let url = url(&agent, &sshd);
        let run = ["run", "--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 7"];
        let outcome = over(&agent, &sshd, &url, &run).run().exits(7);
        assert_eq!((outcome.text(), outcome.errors()), ("out".to_owned(), "err\n".to_owned()));
        drop(sshd);
        agent.finish();
    }

    #[test]
    fn what_is_missing_on_the_way_is_said() {
        let agent = Agent::start();
        let sshd = Sshd::start(&installed());
        let nowhere = sshd.url(Path::new("/nowhere/contid.sock"));
        let errors = over(&agent, &sshd, &nowhere, &["ps"]).run().exits(125).errors();
        // The sentence of the proxy, and then that of this client.
        assert!(errors.contains("there is no such socket"), "{errors}");
        assert!(errors.contains("`contictl proxy` failed on the other side"), "{errors}");
        let bare = Sshd::start("/usr/bin:/bin");
        let errors = over(&agent, &bare, &url(&agent, &bare), &["ps"]).run().exits(125).errors();
        assert!(errors.contains("contictl was not found on the other side"), "{errors}");
        let gone = url(&agent, &bare);
        let ssh = sshd.ssh().display().to_string();
        drop(bare);
        let call = agent.ctl(["--host", &gone, "ps"]).env("CONTI_SSH", &ssh);
        let errors = call.run().exits(125).errors();
        assert!(errors.contains("Connection refused"), "{errors}");
        assert!(errors.contains("ssh could not connect"), "{errors}");
        // What tells more asks the same server.
        let port = gone.rsplit(':').next().and_then(|rest| rest.split('/').next()).expect("a port");
        assert!(errors.contains(&format!("`ssh -p {port} ")), "{errors}");
        drop(sshd);
        agent.finish();
    }
}
