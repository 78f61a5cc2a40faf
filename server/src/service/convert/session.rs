//! A session that is to be started: where, and what happens to its streams.

use std::time::Duration;

use conti_proto::v1::{self, DisconnectPolicy, NamespaceType};
use conti_runtime::plan::NsType;

use super::{
    Field, Violations, info, mounts,
    namespaces::id_maps,
    process,
    target::{self, pid},
    text,
};
use crate::engine::{
    recording,
    spec::{OnDisconnect, Policy, ProcessTarget, SessionSpec, SessionTarget, Tools, UnshareTarget},
};

/// How long output is read on after the end, where nothing was said.
const DRAIN: Duration = Duration::from_millis(500);

/// Checks a session.
pub fn session(v: &mut Violations, at: Field<'_>, message: Option<v1::SessionSpec>) -> SessionSpec {
    let message = message.unwrap_or_else(|| {
        v.add(at, "is missing");
        v1::SessionSpec::default()
    });
    let wanted = message.process.unwrap_or_else(|| {
        v.add(at.name("process"), "is missing");
        v1::ProcessSpec::default()
    });
    let place = message.target.and_then(|target| target.target);
    let target = target(v, at.name("target"), place, &wanted, at.name("process"));
    let io = process::io(v, at.name("process"), &wanted, at.name("policy"), message.policy);
    let process = process::command(v, at.name("process"), wanted);
    SessionSpec { target, process, io, maker: None }
}

/// Checks what happens to the streams of a session.
pub fn policy(v: &mut Violations, at: Field<'_>, message: Option<v1::SessionPolicy>) -> Policy {
    let message = message.unwrap_or_default();
    let mut time = |name, duration: Option<prost_types::Duration>| {
        duration.map(|duration| text::duration(v, at.name(name), duration))
    };
    let keep = time("disconnect_timeout", message.disconnect_timeout);
    let drain = time("drain_timeout", message.drain_timeout).unwrap_or(DRAIN);
    let deadline = time("deadline", message.deadline);
    if message.deadline == Some(prost_types::Duration::default()) {
        v.add(at.name("deadline"), "is zero: the session would end before it began");
    }
    let chosen = text::known(v, at.name("disconnect_policy"), message.disconnect_policy);
    let on_disconnect = match chosen {
        DisconnectPolicy::Unspecified => None,
        DisconnectPolicy::Kill => Some(OnDisconnect::Kill),
        DisconnectPolicy::HangUp => Some(OnDisconnect::HangUp),
        DisconnectPolicy::Keep => Some(OnDisconnect::Keep(keep.unwrap_or(Policy::KEEP))),
        DisconnectPolicy::Detach => Some(OnDisconnect::Detach),
    };
    if keep.is_some() && !matches!(on_disconnect, None | Some(OnDisconnect::Keep(_))) {
        v.add(at.name("disconnect_timeout"), "needs disconnect_policy KEEP, or none");
    }
    let keep = keep.filter(|_| on_disconnect.is_none());
    let record = message.record.then_some(recording::Wanted::DEFAULT);
    Policy { on_disconnect, keep, drain, deadline, record }
}

/// A policy as a message.
pub fn policy_back(policy: &Policy) -> v1::SessionPolicy {
    let (chosen, keep) = match policy.on_disconnect {
        None => (DisconnectPolicy::Unspecified, policy.keep),
        Some(OnDisconnect::Kill) => (DisconnectPolicy::Kill, None),
        Some(OnDisconnect::HangUp) => (DisconnectPolicy::HangUp, None),
        Some(OnDisconnect::Detach) => (DisconnectPolicy::Detach, None),
        Some(OnDisconnect::Keep(time)) => (DisconnectPolicy::Keep, Some(time)),
    };
    v1::SessionPolicy {
        disconnect_policy: chosen.into(),
        disconnect_timeout: keep.map(info::duration),
        drain_timeout: Some(info::duration(policy.drain)),
        deadline: policy.deadline.map(info::duration),
        record: policy.record.is_some(),
    }
}

fn target(
    v: &mut Violations,
    at: Field<'_>,
    message: Option<v1::session_target::Target>,
    process: &v1::ProcessSpec,
    process_at: Field<'_>,
) -> SessionTarget {
    match message {
        None => {
            v.add(at, "is missing: give a container or a process");
            SessionTarget::Container(String::new())
        }
        Some(v1::session_target::Target::Container(key)) => {
            text::container_key(v, at.name("container"), &key);
            SessionTarget::Container(key)
        }
        Some(v1::session_target::Target::Process(message)) => {
            // Two answers to one question: which of them counts would be a guess.
            if message.cwd && !process.cwd.is_empty() {
                v.add(process_at.name("cwd"), "cannot be combined with the target's own directory");
            }
            if (message.user || message.groups)
                && process.user.as_ref().is_some_and(|u| *u != v1::User::default())
            {
                v.add(
                    process_at.name("user"),
                    "cannot be combined with the target's user or groups",
                );
            }
            SessionTarget::Process(process_target(v, at.name("process"), message))
        }
        Some(v1::session_target::Target::Unshare(message)) => {
            SessionTarget::Unshare(unshare_target(v, at.name("unshare"), message))
        }
        Some(v1::session_target::Target::Debug(message)) => {
            debug_target(v, at.name("debug"), message)
        }
    }
}

fn process_target(v: &mut Violations, at: Field<'_>, message: v1::ProcessTarget) -> ProcessTarget {
    let pid = pid(v, at.name("pid"), message.pid);
    let namespaces = namespace_types(v, at.name("namespaces"), &message.namespaces);
    ProcessTarget {
        pid,
        start_ticks: Some(message.start_ticks).filter(|&ticks| ticks != 0),
        namespaces,
        cgroup: message.cgroup,
        root: message.root,
        cwd: message.cwd,
        env: message.env,
        user: message.user,
        groups: message.groups,
    }
}

fn unshare_target(v: &mut Violations, at: Field<'_>, message: v1::UnshareTarget) -> UnshareTarget {
    let namespaces = namespace_types(v, at.name("namespaces"), &message.namespaces);
    let user = namespaces.contains(&NsType::User);
    let mut maps = |name, ranges| id_maps(v, at.name(name), ranges, user);
    let uid_maps = maps("uid_mappings", message.uid_mappings);
    let gid_maps = maps("gid_mappings", message.gid_mappings);
    let mut needs_mounts = |name, given| {
        if given && !namespaces.contains(&NsType::Mount) {
            v.add(at.name(name), "needs a new mount namespace: add it to `namespaces`");
        }
    };
    needs_mounts("mount_proc", message.mount_proc);
    needs_mounts("propagation", message.propagation != 0);
    let propagation = mounts::propagation(v, at.name("propagation"), message.propagation);
    if message.keep_propagation && message.propagation != 0 {
        v.add(at.name("keep_propagation"), "and propagation exclude one another");
    }
    UnshareTarget {
        namespaces,
        uid_maps,
        gid_maps,
        propagation: (!message.keep_propagation).then_some(propagation),
        mount_proc: message.mount_proc,
    }
}

fn debug_target(v: &mut Violations, at: Field<'_>, message: v1::DebugTarget) -> SessionTarget {
    let tools = match message.tools {
        Some(v1::debug_target::Tools::Directory(path)) => {
            text::absolute_path(v, at.name("directory"), &path);
            Tools::Dir(path.into())
        }
        Some(v1::debug_target::Tools::Host(v1::HostTools {})) => Tools::Host,
        None => {
            v.add(at.name("tools"), "are missing: give a directory or the host");
            Tools::Host
        }
    };
    SessionTarget::Debug(target::target(v, at.name("target"), message.target), tools)
}

/// Checks types of namespaces; what is named twice counts once.
pub fn namespace_types(v: &mut Violations, at: Field<'_>, values: &[i32]) -> Vec<NsType> {
    let mut types = Vec::new();
    for (index, &value) in values.iter().enumerate() {
        match namespace_type(value) {
            Some(kind) if types.contains(&kind) => {}
            Some(kind) => types.push(kind),
            None => {
                v.add(at.index(index), format_args!("is {value}, which is no type of namespace"));
            }
        }
    }
    types
}

/// A type of namespace; `None`: there is no such type.
fn namespace_type(value: i32) -> Option<NsType> {
    Some(match NamespaceType::try_from(value).ok()? {
        NamespaceType::Unspecified => return None,
        NamespaceType::Mount => NsType::Mount,
        NamespaceType::Uts => NsType::Uts,
        NamespaceType::Ipc => NsType::Ipc,
        NamespaceType::Net => NsType::Net,
        NamespaceType::Pid => NsType::Pid,
        NamespaceType::Cgroup => NsType::Cgroup,
        NamespaceType::User => NsType::User,
        NamespaceType::Time => NsType::Time,
    })
}

/// A type of namespace as a message.
pub fn namespace_type_back(kind: NsType) -> NamespaceType {
    match kind {
        NsType::Mount => NamespaceType::Mount,
        NsType::Uts => NamespaceType::Uts,
        NsType::Ipc => NamespaceType::Ipc,
        NsType::Net => NamespaceType::Net,
        NsType::Pid => NamespaceType::Pid,
        NsType::Cgroup => NamespaceType::Cgroup,
        NsType::User => NamespaceType::User,
        NsType::Time => NamespaceType::Time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(message: v1::SessionPolicy) -> Result<Policy, Violations> {
        super::super::checked(|v| policy(v, Field::root("policy"), Some(message)))
    }

    #[test]
    fn without_a_choice_only_what_a_client_streams_from_its_start_ends_with_that_client() {
        let policy = convert(v1::SessionPolicy::default()).unwrap();
        assert_eq!(policy.on_disconnect(true, true), OnDisconnect::Keep(Policy::KEEP));
        assert_eq!(policy.on_disconnect(true, false), OnDisconnect::Kill);
        for terminal in [false, true] {
            assert_eq!(policy.on_disconnect(false, terminal), OnDisconnect::Detach);
        }
        let kill = DisconnectPolicy::Kill.into();
        let chosen = v1::SessionPolicy { disconnect_policy: kill, ..Default::default() };
        let chosen = convert(chosen).unwrap();
        assert_eq!(chosen.on_disconnect(false, true), OnDisconnect::Kill);
    }

    #[test]
    fn a_time_to_keep_goes_with_the_policy_that_keeps_or_none() {
        let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let of = |policy: DisconnectPolicy| {
            convert(v1::SessionPolicy {
                disconnect_policy: policy.into(),
                disconnect_timeout: second,
                ..Default::default()
            })
        };
        let kept = OnDisconnect::Keep(Duration::from_secs(1));
        for streamed in [false, true] {
            let keep = of(DisconnectPolicy::Keep).unwrap();
            assert_eq!(keep.on_disconnect(streamed, false), kept);
        }
        let none = of(DisconnectPolicy::Unspecified).unwrap();
        assert_eq!(none.on_disconnect(true, false), kept);
        assert_eq!(none.on_disconnect(false, false), OnDisconnect::Detach);
        assert_eq!(policy_back(&none).disconnect_timeout, second);
        for other in [DisconnectPolicy::Kill, DisconnectPolicy::HangUp, DisconnectPolicy::Detach] {
            assert!(of(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_deadline_is_not_zero() {
        let zero = Some(prost_types::Duration::default());
        assert!(convert(v1::SessionPolicy { deadline: zero, ..Default::default() }).is_err());
        let drain = v1::SessionPolicy { drain_timeout: zero, ..Default::default() };
        assert!(convert(drain).is_ok());
    }
}
