//! Targets: `CONTAINER`, `pid:PID[@TICKS]` and `host`.

use std::str::FromStr;

use conti_proto::v1;

/// What is looked at or changed, as it is written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A container, by id, prefix or name.
    Container(String),
    /// A process of the agent's host, and when it started where that was given.
    Process(u32, u64),
    /// The agent's host.
    Host,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let Some((kind, name)) = text.split_once(':') else {
            return match text {
                "" => Err("give a container, pid:PID or host".to_owned()),
                "host" => Ok(Target::Host),
                container => Ok(Target::Container(container.to_owned())),
            };
        };
        match kind {
            "container" if !name.is_empty() => Ok(Target::Container(name.to_owned())),
            "pid" => {
                let (pid, ticks) = name.split_once('@').unwrap_or((name, "0"));
                let pid = pid.parse().ok().filter(|&pid| pid > 0);
                match (pid, ticks.parse()) {
                    (Some(pid), Ok(ticks)) => Ok(Target::Process(pid, ticks)),
                    _ => Err(format!("{name:?} is no pid: write pid:PID or pid:PID@START_TICKS")),
                }
            }
            _ => Err("write CONTAINER, container:NAME, pid:PID or host".to_owned()),
        }
    }
}

impl From<Target> for v1::Target {
    fn from(target: Target) -> v1::Target {
        let target = match target {
            Target::Container(key) => v1::target::Target::Container(key),
            Target::Process(pid, start_ticks) => {
                v1::target::Target::Process(v1::ProcessId { pid, start_ticks })
            }
            Target::Host => v1::target::Target::Host(v1::HostTarget {}),
        };
        v1::Target { target: Some(target) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("web"), Ok(Target::Container("web".to_owned())));
        assert_eq!(target("container:host"), Ok(Target::Container("host".to_owned())));
        assert_eq!(target("host"), Ok(Target::Host));
        assert_eq!(target("pid:12"), Ok(Target::Process(12, 0)));
        assert_eq!(target("pid:12@345"), Ok(Target::Process(12, 345)));
        for bad in ["", "pid:", "pid:0", "pid:-1", "pid:x", "pid:1@", "box:a", "container:"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
