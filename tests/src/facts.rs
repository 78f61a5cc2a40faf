//! What the probe found inside a container.

use std::{env, path::PathBuf};

use conti_proto::v1::{Mount, ProcessSpec};
use serde_json::Value;

use crate::{
    Agent,
    api::{Api, bind, exit_code, process},
    ctl::Outcome,
    wire::{self, Wire},
};

/// The facts of one process, see `src/bin/probe.rs` for their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts(pub Value);

/// Where the tests mount the probe inside.
pub const PROBE: &str = "/probe";

/// The probe on the host. It is built with the tests, beside them.
pub fn probe() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/TEST
    let path = test.ancestors().nth(2).expect("a test lies in deps").join("probe");
    assert!(path.is_file(), "there is no {}: `cargo nextest run` builds it", path.display());
    path
}

/// The mount that brings the probe into a container.
pub fn probe_mount() -> Mount {
    bind(&probe(), PROBE)
}

/// The same as a value of `contictl run -v`.
pub fn probe_volume() -> String {
    format!("{}:{PROBE}:ro", probe().display())
}

/// A process that prints its facts.
pub fn probe_process() -> ProcessSpec {
    process([PROBE])
}

impl Facts {
    /// Reads what the probe wrote.
    pub fn parse(bytes: &[u8]) -> Facts {
        let text = String::from_utf8_lossy(bytes);
        Facts(serde_json::from_str(&text).unwrap_or_else(|e| panic!("no facts ({e}): {text}")))
    }

    /// The facts of a `contictl` call that ran the probe.
    pub fn of(outcome: Outcome) -> Facts {
        Facts::parse(&outcome.success().stdout)
    }

    /// The facts of the main process of `contictl run --rm FLAGS -- /probe`.
    pub fn of_run(agent: &Agent, flags: &[&str]) -> Facts {
        let volume = probe_volume();
        let mut args = vec!["run", "--rm", "-v", &volume];
        args.extend(flags);
        args.extend(["--", PROBE]);
        Facts::of(agent.ctl(args).run())
    }

    /// The facts of a session that is opened over the raw API.
    pub async fn of_stream(api: &mut Api, open: conti_proto::v1::StreamOpen) -> Facts {
        let wire = Wire::open(api, open).await;
        let all = wire.unwrap_or_else(|e| panic!("the probe was not started: {e:?}"));
        let all = all.collect().await;
        assert_eq!(exit_code(&all.end), 0, "{}", String::from_utf8_lossy(&all.stderr));
        Facts::parse(&all.stdout)
    }

    /// The facts of the main process of a new container.
    pub async fn of_container(api: &mut Api, mut spec: conti_proto::v1::ContainerSpec) -> Facts {
        spec.mounts.insert(0, probe_mount());
        spec.auto_remove = true;
        Facts::of_stream(api, wire::run(spec)).await
    }

    /// A namespace, as its link reads, e.g. `mnt:[4026531841]`.
    pub fn namespace(&self, kind: &str) -> String {
        self.0["namespaces"][kind].as_str().unwrap_or_default().to_owned()
    }

    /// A line of /proc/self/status.
    pub fn status(&self, name: &str) -> String {
        self.0["status"][name].as_str().unwrap_or_default().to_owned()
    }

    /// A capability set of /proc/self/status, e.g. `CapEff`.
    pub fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(&self.status(set), 16).expect("a capability set is hexadecimal")
    }

    /// A fact that is text.
    pub fn text(&self, name: &str) -> String {
        self.0[name].as_str().unwrap_or_else(|| panic!("{name} in {}", self.0)).to_owned()
    }

    /// The mount at a path.
    pub fn mount(&self, point: &str) -> Option<&Value> {
        let mounts = self.0["mounts"].as_array().expect("mounts are a list");
        // The last one is on top.
        mounts.iter().rev().find(|mount| mount["point"] == point)
    }

    /// Whether the mount at a path has an option, e.g. `ro`.
    pub fn mount_has(&self, point: &str, option: &str) -> bool {
        let mount = self.mount(point).unwrap_or_else(|| panic!("{point} is no mount point"));
        let options = mount["options"].as_str().expect("options are text");
        options.split(',').any(|o| o == option)
    }
}
