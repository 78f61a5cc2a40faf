//! What the agent must be allowed to do on its host.

use rustix::thread::{CapabilitySet, capabilities};

/// Without one of these no container can be made and none can be entered.
const NEEDED: [(&str, CapabilitySet); 10] = [
    ("CHOWN", CapabilitySet::CHOWN),
    ("DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("FOWNER", CapabilitySet::FOWNER),
    ("KILL", CapabilitySet::KILL),
    ("SETGID", CapabilitySet::SETGID),
    ("SETPCAP", CapabilitySet::SETPCAP),
    ("SETUID", CapabilitySet::SETUID),
    ("SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("SYS_CHROOT", CapabilitySet::SYS_CHROOT),
    ("SYS_PTRACE", CapabilitySet::SYS_PTRACE),
];

/// Why the agent cannot work here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It was started by somebody else than root.
    #[error(
        "contid must be started by root, not by user {0}: it makes namespaces, mounts and cgroups; `sudo contid`, or a \
         system service, starts it so"
    )]
    User(u32),
    /// Root lacks rights here, as in a container.
    #[error(
        "contid lacks {0}, without which it can neither make nor enter a container; start it outside of containers, \
         or give it these capabilities"
    )]
    Capabilities(String),
    /// The kernel does not tell.
    #[error("contid cannot find out what it is allowed to do: {0}")]
    Unknown(rustix::io::Errno),
}

/// Checks that the agent can work at all: else each call would fail by itself.
pub fn check() -> Result<(), Error> {
    let effective = capabilities(None).map_err(Error::Unknown)?.effective;
    judge(rustix::process::geteuid().as_raw(), effective)
}

fn judge(user: u32, effective: CapabilitySet) -> Result<(), Error> {
    if user != 0 {
        return Err(Error::User(user));
    }
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(_, capability)| !effective.contains(*capability))
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Capabilities(missing.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_with_its_rights_is_enough_and_all_else_is_not() {
        let all = CapabilitySet::all();
        assert_eq!(judge(0, all), Ok(()));
        assert_eq!(judge(0, all - CapabilitySet::SYS_RESOURCE), Ok(()));
        assert_eq!(judge(1000, all), Err(Error::User(1000)));
        let problem = judge(0, all - CapabilitySet::SYS_ADMIN).unwrap_err().to_string();
        assert!(problem.contains("lacks CAP_SYS_ADMIN, without"), "{problem}");
    }
}
