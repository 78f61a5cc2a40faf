//! An agent that listens to other machines, with certificates that are not its own.

use std::{ffi::OsString, path::Path};

use crate::{
    Agent,
    pki::{Authority, Files, Identity},
    remote::Remote,
    wait,
};

/// An agent that listens on TCP, with a PKI that is not its own.
pub struct World {
    /// The agent.
    pub agent: Agent,
    /// The authority of clients.
    pub clients: Authority,
    /// The authority of the agent.
    pub server: Authority,
    /// The agent's certificates and policy (`policy.toml`).
    pub files: Files,
}

impl World {
    /// Starts an agent with a policy.
    pub fn start(policy: &str) -> World {
        World::start_as(|_| Vec::new(), policy, |_| Vec::new())
    }

    /// Starts an agent on another kind of host ([`Agent::start_behind`]) with a policy.
    pub fn start_behind(prefix: impl FnOnce(&Path) -> Vec<OsString>, policy: &str) -> World {
        World::start_as(prefix, policy, |_| Vec::new())
    }

    /// Starts an agent with a policy and further arguments, made for its directory.
    pub fn start_with(policy: &str, more: impl FnOnce(&Path) -> Vec<OsString>) -> World {
        World::start_as(|_| Vec::new(), policy, more)
    }

    /// Starts an agent on another kind of host with a policy and further arguments.
    pub fn start_with_both(
        prefix: impl FnOnce(&Path) -> Vec<OsString>,
        policy: &str,
        more: impl FnOnce(&Path) -> Vec<OsString>,
    ) -> World {
        World::start_as(prefix, policy, more)
    }

    fn start_as(
        prefix: impl FnOnce(&Path) -> Vec<OsString>,
        policy: &str,
        more: impl FnOnce(&Path) -> Vec<OsString>,
    ) -> World {
        let (server, clients) = (Authority::make("servers"), Authority::make("clients"));
        let mut files = None;
        let agent = Agent::start_as(prefix, |dir: &Path| {
            let written = Files::write(&dir.join("pki"), &server, &clients);
            written.put("policy.toml", policy);
            let mut flags: Vec<OsString> = vec!["--listen".into(), "tcp://127.0.0.1:0".into()];
            flags.extend(written.flags());
            flags.extend(["--policy".into(), written.path("policy.toml").into_os_string()]);
            flags.extend(more(dir));
            files = Some(written);
            flags
        });
        World { agent, clients, server, files: files.expect("the files were written") }
    }

    /// Gives the agent another policy, and waits until it holds.
    pub fn put_policy(&self, policy: &str) {
        let read = || self.agent.log().matches("the policy was read again").count();
        let before = read();
        self.files.put("policy.toml", policy);
        wait::until_true("the policy was read again", || read() > before);
    }

    /// A client with this certificate, or with none.
    pub fn remote(&self, identity: Option<&Identity>) -> Remote {
        Remote::new(self.agent.port(), &self.server.pem, identity)
    }

    /// A client with a certificate that names it and its role.
    pub fn as_role(&self, name: &str, role: &str) -> Remote {
        self.remote(Some(&self.clients.client(name, role)))
    }
}
