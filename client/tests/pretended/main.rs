//! The client against an agent that only pretends, so that no root is needed and connections can be cut at
//! any byte.
//!
//! - [`agent`]: the agent, over a unix socket; [`tls`]: the same behind mutual TLS;
//! - [`stream`]: streams of sessions;
//! - [`secure`]: who talks to whom over TLS, and what is said where they do not;
//! - [`join`]: invitations, and the contexts that come of them;
//! - [`context`]: which agent is meant;
//! - [`proxy`]: the connection over ssh.

mod agent;
mod context;
mod join;
mod proxy;
mod secure;
mod stream;
mod tls;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// What a command said on stderr.
fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command said on stdout.
fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A person with a configuration directory of their own.
struct Person {
    home: TempDir,
}

impl Person {
    fn new() -> Person {
        Person { home: tempfile::tempdir().unwrap() }
    }

    /// Where their contexts are.
    fn directory(&self) -> std::path::PathBuf {
        self.home.path().join("conti")
    }

    fn contictl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contictl"));
        command.args(args).env("XDG_CONFIG_HOME", self.home.path());
        for name in ["CONTI_HOST", "CONTI_CONTEXT", "CONTI_REASON", "CONTI_SSH", "TRACEPARENT"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.contictl(args).output().unwrap()
    }

    /// Runs what must work, and returns what it writes to stdout.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// Runs what must fail in Conti's own name, and returns the sentence.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {text}");
        assert!(text.starts_with("contictl: "), "{text}");
        text
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.ok(&[&["-o", "json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A path as an argument.
fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}
