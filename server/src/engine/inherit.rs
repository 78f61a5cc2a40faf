//! What a command that joins a container has of it: all that its client did not say otherwise, each thing by
//! itself, so that whoever asks for less never gets more.

use conti_runtime::plan::{Confinement, Identity, Process, Rlimit};

use super::{capability::ALL, process::overlay_env};

/// A command as a client asks for it. `None`: nothing was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// Variables, each `NAME=VALUE`.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: Option<String>,
    /// Who runs it.
    pub identity: Identity,
    /// Resource limits, each resource once.
    pub rlimits: Vec<Rlimit>,
    /// What changes of the confinement.
    pub confinement: ConfinementChange,
    /// What the out-of-memory killer adds.
    pub oom_score_adj: Option<i32>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
}

/// What is to change of a confinement. `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConfinementChange {
    /// Capabilities that are taken away first.
    pub drop: u64,
    /// Capabilities that are then added.
    pub add: u64,
    /// Whether no_new_privs is set.
    pub no_new_privs: Option<bool>,
    /// Whether the system call filter is loaded.
    pub seccomp: Option<bool>,
    /// Whether all confinement is lifted, or the default one takes the place of none.
    pub privileged: Option<bool>,
}

/// What is left of the confinement of what is privileged.
const LIFTED: Confinement =
    Confinement { capabilities: ALL, no_new_privs: false, seccomp: false, privileged: true };

impl ConfinementChange {
    /// A confinement with these changes.
    pub fn of(self, present: Confinement) -> Confinement {
        let base = match self.privileged {
            Some(true) => LIFTED,
            Some(false) if present.privileged => Confinement::default(),
            _ => present,
        };
        Confinement {
            capabilities: base.capabilities & !self.drop | self.add,
            no_new_privs: self.no_new_privs.unwrap_or(base.no_new_privs),
            seccomp: self.seccomp.unwrap_or(base.seccomp),
            privileged: base.privileged,
        }
    }
}

impl Command {
    /// What it is where there is nothing to inherit: as the main process of a container, or outside of any.
    pub fn alone(self) -> Process {
        Process {
            argv: self.argv,
            env: self.env,
            raw_env: Vec::new(),
            cwd: self.cwd.unwrap_or_else(|| "/".to_owned()),
            create_cwd: false,
            identity: self.identity,
            rlimits: self.rlimits,
            confinement: self.confinement.of(Confinement::default()),
            oom_score_adj: self.oom_score_adj,
            umask: self.umask.unwrap_or(0o022),
        }
    }

    /// What it is in the container of a main process.
    pub fn inside(&self, main: &Process) -> Process {
        let named = |limit: &&Rlimit| self.rlimits.iter().any(|own| own.resource == limit.resource);
        let kept = main.rlimits.iter().filter(|limit| !named(limit));
        Process {
            env: overlay_env(&main.env, &self.env),
            cwd: self.cwd.as_ref().unwrap_or(&main.cwd).clone(),
            identity: identity(&self.identity, &main.identity),
            rlimits: kept.chain(&self.rlimits).copied().collect(),
            confinement: self.confinement.of(main.confinement),
            oom_score_adj: self.oom_score_adj.or(main.oom_score_adj),
            umask: self.umask.unwrap_or(main.umask),
            ..self.clone().alone()
        }
    }

    /// What it is for one who debugs a container: as confined and limited as in it, and nothing else of the
    /// application. Neither is it its user, nor do its variables tell programs what to load or to read.
    pub fn beside(&self, main: &Process) -> Process {
        let Process { rlimits, confinement, oom_score_adj, .. } = self.inside(main);
        Process { rlimits, confinement, oom_score_adj, ..self.clone().alone() }
    }
}

/// A user of its own has its own groups; a group alone is one of the user that there is.
fn identity(wanted: &Identity, main: &Identity) -> Identity {
    let (
        Identity::Lookup { user, group, additional_groups },
        Identity::Lookup { user: main_user, group: main_group, additional_groups: main_additional },
    ) = (wanted, main)
    else {
        return wanted.clone();
    };
    if !user.is_empty() {
        return wanted.clone();
    }
    let group = if group.is_empty() { main_group } else { group };
    Identity::Lookup {
        user: main_user.clone(),
        group: group.clone(),
        additional_groups: main_additional.iter().chain(additional_groups).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn confinement() -> impl Strategy<Value = Confinement> {
        let parts = (any::<u64>(), any::<bool>(), any::<bool>(), any::<bool>());
        parts.prop_map(|(bits, no_new_privs, seccomp, privileged)| Confinement {
            capabilities: bits & ALL,
            no_new_privs,
            seccomp,
            privileged,
        })
    }

    proptest! {
        #[test]
        fn what_is_not_said_stays(present in confinement()) {
            prop_assert_eq!(ConfinementChange::default().of(present), present);
        }

        #[test]
        fn less_is_never_more(present in confinement(), drop: u64) {
            let change = ConfinementChange {
                drop,
                no_new_privs: Some(true),
                seccomp: Some(true),
                ..Default::default()
            };
            let confined = change.of(present);
            prop_assert_eq!(confined.capabilities, present.capabilities & !drop);
            prop_assert!(confined.no_new_privs && confined.seccomp);
        }

        #[test]
        fn to_be_privileged_no_more_is_the_default(present in confinement()) {
            let change = ConfinementChange { privileged: Some(false), ..Default::default() };
            let wanted = if present.privileged { Confinement::default() } else { present };
            prop_assert_eq!(change.of(present), wanted);
        }
    }
}
