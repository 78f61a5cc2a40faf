//! Messages as JSON: names as in the proto files, enums in lower case, times as RFC 3339. Fields
//! are added at times, and never renamed.

use conti_proto::v1::{
    Agent, CgroupVersion, Confinement, Container, ContainerSpec, ContainerState, DisconnectPolicy,
    IdMapping, KillCause, MadeMount, Mount, MountPropagation, Namespace, NamespaceMode, Namespaces,
    ProcessSpec, SeccompMode, Session, SessionEnd, SessionPolicy, SessionState, mount, rootfs,
    session_end::Reason,
};
use conti_shared::text::base64;
use prost_types::Duration;
use serde_json::{Value, json};

use crate::{
    output::text::{bytes, enum_name, rfc3339},
    stream::outcome::outcome,
};

/// Adds names to an object, which may be any bytes. What is UTF-8 is there as it is. What is not is there as a table
/// shows it, and exactly, in base64, as `KEY_bytes`.
pub fn with_names<'a>(
    mut object: Value,
    names: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Value {
    for (key, name) in names {
        object[key] = match name_or(name) {
            Ok(text) => text.into(),
            Err(shown) => {
                object[format!("{key}_bytes")] = base64(name).into();
                shown.into()
            }
        };
    }
    object
}

/// As [`with_names`], for a list of names.
pub fn with_list(mut object: Value, key: &str, names: &[impl AsRef<[u8]>]) -> Value {
    let all = names.iter().map(|name| name_or(name.as_ref()));
    if all.clone().any(|name| name.is_err()) {
        let exact: Vec<String> = names.iter().map(|name| base64(name.as_ref())).collect();
        object[format!("{key}_bytes")] = exact.into();
    }
    let shown: Vec<String> =
        all.map(|name| name.map_or_else(|shown| shown, str::to_owned)).collect();
    object[key] = shown.into();
    object
}

/// A name as text, or else as a table shows it.
fn name_or(name: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(name).map_err(|_| bytes(name))
}

/// Takes fields out of an object.
fn without(mut object: Value, is_unknown: impl Fn(&str, &Value) -> bool) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|name, value| !is_unknown(name, value));
    }
    object
}

/// A container. Of one whose record cannot be read, what is not known is left out.
pub fn container(container: &Container) -> Value {
    let value = json!({
        "id": container.id,
        "name": container.name,
        "state": container_state(container.state()),
        "pid": container.pid,
        "pid_start_ticks": container.pid_start_ticks,
        "create_time": rfc3339(container.create_time.as_ref()),
        "start_time": rfc3339(container.start_time.as_ref()),
        "end_time": rfc3339(container.end_time.as_ref()),
        "end": container.end.as_ref().map(end),
        "session_id": container.session_id,
        "cgroup": container.cgroup,
        "warnings": container.warnings,
        "spec": container.spec.as_ref().map(spec),
    });
    let is_unknown = |value: &Value| value.is_null() || *value == 0 || *value == "";
    without(value, |_, value| container.spec.is_none() && is_unknown(value))
}

/// The state of a container.
pub fn container_state(state: ContainerState) -> String {
    enum_name(state.as_str_name(), "CONTAINER_STATE_")
}

/// A session. Of one whose record cannot be read, what is not known is left out.
pub fn session(session: &Session) -> Value {
    let value = json!({
        "id": session.id,
        "container_id": session.container_id,
        "main": session.main,
        "state": session_state(session.state()),
        "argv": session.argv,
        "terminal": session.terminal,
        "pid": session.pid,
        "start_time": rfc3339(session.start_time.as_ref()),
        "end": session.end.as_ref().map(end),
        "output_offset": session.output_offset,
        "retained_offset": session.retained_offset,
        "input_offset": session.input_offset,
        "attached": session.attached,
        "recorded": session.recorded,
    });
    let unknown = session.argv.is_empty();
    let homeless = unknown && session.container_id.is_empty();
    without(value, |name, _| match name {
        "argv" | "terminal" | "start_time" => unknown,
        "container_id" | "main" => homeless,
        _ => false,
    })
}

/// The state of a session.
pub fn session_state(state: SessionState) -> String {
    enum_name(state.as_str_name(), "SESSION_STATE_")
}

/// The end of a session. `code` is what contictl exits with.
pub fn end(end: &SessionEnd) -> Value {
    let (reason, detail) = match &end.reason {
        None => ("unknown", Value::Null),
        Some(Reason::ExitCode(code)) => ("exit_code", json!(code)),
        Some(Reason::Signal(signal)) => (
            "signal",
            json!({
                "number": signal.number,
                "name": signal.name,
                "core_dumped": signal.core_dumped,
            }),
        ),
        Some(Reason::OutOfMemory(_)) => ("out_of_memory", json!({})),
        Some(Reason::Deadline(_)) => ("deadline", json!({})),
        Some(Reason::Killed(killed)) => (
            "killed",
            json!({
                "signal": killed.signal,
                "cause": enum_name(KillCause::as_str_name(&killed.cause()), "KILL_CAUSE_"),
            }),
        ),
        Some(Reason::ContainerGone(_)) => ("container_gone", json!({})),
        Some(Reason::StartFailed(failed)) => (
            "start_failed",
            json!({
                "step": failed.step,
                "argument": failed.argument,
                "errno": failed.errno,
                "message": failed.message,
            }),
        ),
        Some(Reason::Lost(lost)) => ("lost", json!({ "message": lost.message })),
    };
    let mut value = json!({
        "reason": reason,
        "code": outcome(end).0,
        "time": rfc3339(end.time.as_ref()),
        "stdout_bytes": end.stdout_bytes,
        "stderr_bytes": end.stderr_bytes,
        "dropped_bytes": end.dropped_bytes,
        "drain_timed_out": end.drain_timed_out,
    });
    if !detail.is_null() {
        value[reason] = detail;
    }
    value
}

/// An agent.
pub fn agent(agent: &Agent) -> Value {
    let host = agent.host.as_ref().map(|host| {
        json!({
            "hostname": host.hostname,
            "kernel_release": host.kernel_release,
            "architecture": host.architecture,
            "cgroup_version": cgroup_version(host.cgroup_version()),
            "cgroup_controllers": host.cgroup_controllers,
            "boot_id": host.boot_id,
            "cpu_count": host.cpu_count,
            "memory_bytes": host.memory_bytes,
        })
    });
    let feature = |feature: &conti_proto::v1::Feature| {
        json!({
            "name": feature.name,
            "available": feature.available,
            "detail": feature.detail,
        })
    };
    json!({
        "version": agent.version,
        "instance_id": agent.instance_id,
        "host": host,
        "features": agent.features.iter().map(feature).collect::<Vec<_>>(),
        "state_dir": agent.state_dir,
        "data_dir": agent.data_dir,
    })
}

/// The layout of the cgroups of a host.
pub fn cgroup_version(version: CgroupVersion) -> String {
    enum_name(version.as_str_name(), "CGROUP_VERSION_")
}

fn spec(spec: &ContainerSpec) -> Value {
    let source = match spec.rootfs.as_ref().and_then(|rootfs| rootfs.source.as_ref()) {
        None | Some(rootfs::Source::Host(_)) => json!({ "type": "host" }),
        Some(rootfs::Source::Dir(dir)) => {
            json!({ "type": "dir", "path": dir.path, "overlay": dir.overlay })
        }
    };
    let device = |device: &conti_proto::v1::Device| {
        json!({
            "path": device.path,
            "path_in_container": device.path_in_container,
            "access": device.access,
        })
    };
    json!({
        "name": spec.name,
        "labels": spec.labels,
        "rootfs": source,
        "namespaces": spec.namespaces.as_ref().map(namespaces),
        "mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "process": spec.process.as_ref().map(process),
        "hostname": spec.hostname,
        "domainname": spec.domainname,
        "devices": spec.devices.iter().map(device).collect::<Vec<_>>(),
        "read_only_root": spec.read_only_root,
        "init": spec.init,
        "sysctls": spec.sysctls,
        "auto_remove": spec.auto_remove,
        "session_policy": spec.session_policy.as_ref().map(policy),
    })
}

fn namespaces(namespaces: &Namespaces) -> Value {
    let one = |namespace: &Option<Namespace>| {
        let namespace = namespace.clone().unwrap_or_default();
        match namespace.mode() {
            NamespaceMode::Unspecified => "default".to_owned(),
            NamespaceMode::Container => format!("container:{}", namespace.container),
            mode => enum_name(mode.as_str_name(), "NAMESPACE_MODE_"),
        }
    };
    let map = |mappings: &[IdMapping]| -> Vec<Value> {
        mappings
            .iter()
            .map(|m| json!({ "inside": m.inside, "outside": m.outside, "count": m.count }))
            .collect()
    };
    json!({
        "mount": one(&namespaces.mount),
        "pid": one(&namespaces.pid),
        "uts": one(&namespaces.uts),
        "ipc": one(&namespaces.ipc),
        "net": one(&namespaces.net),
        "cgroup": one(&namespaces.cgroup),
        "user": one(&namespaces.user),
        "time": one(&namespaces.time),
        "uid_mappings": map(&namespaces.uid_mappings),
        "gid_mappings": map(&namespaces.gid_mappings),
    })
}

fn mount(mount: &Mount) -> Value {
    let mut value = match &mount.source {
        None => json!({ "type": "unknown" }),
        Some(mount::Source::Bind(bind)) => json!({
            "type": "bind",
            "source": bind.source,
            "non_recursive": bind.non_recursive,
            "recursive_read_only": bind.recursive_read_only,
            "propagation": propagation(bind.propagation()),
        }),
        Some(mount::Source::Tmpfs(tmpfs)) => json!({
            "type": "tmpfs",
            "size_bytes": tmpfs.size_bytes,
            "mode": tmpfs.mode.map(|mode| format!("{mode:04o}")),
        }),
        Some(mount::Source::Device(device)) => json!({
            "type": "device",
            "source": device.source,
            "fs_type": device.fs_type,
            "options": device.options,
        }),
        Some(mount::Source::Overlay(overlay)) => json!({
            "type": "overlay",
            "lowers": overlay.lowers,
            "upper": overlay.upper,
            "work": overlay.work,
        }),
    };
    value["target"] = json!(mount.target);
    value["read_only"] = json!(mount.read_only);
    value
}

/// A mount that was made in a living target.
pub fn made_mount(made: &MadeMount) -> Value {
    json!({
        "id": made.id,
        "mount": made.mount.as_ref().map(mount),
        "container_id": made.container_id,
        "pid": made.process.map(|process| process.pid),
        "mount_id": made.mount_id,
        "made_by": made.made_by,
        "create_time": rfc3339(made.create_time.as_ref()),
        "source_container_id": made.source_container_id,
    })
}

fn propagation(propagation: MountPropagation) -> String {
    match propagation {
        MountPropagation::Unspecified => "private".to_owned(),
        other => enum_name(other.as_str_name(), "MOUNT_PROPAGATION_"),
    }
}

fn process(process: &ProcessSpec) -> Value {
    let user = process.user.as_ref().map(|user| {
        json!({
            "user": user.user,
            "group": user.group,
            "additional_groups": user.additional_groups,
        })
    });
    let rlimit = |limit: &conti_proto::v1::Rlimit| json!({ "name": limit.name, "soft": limit.soft, "hard": limit.hard });
    let size = process.terminal.as_ref().and_then(|terminal| terminal.size.as_ref());
    json!({
        "argv": process.argv,
        "env": process.env,
        "cwd": process.cwd,
        "user": user,
        "terminal": process.terminal.is_some(),
        "terminal_size": size.map(|size| json!({ "columns": size.columns, "rows": size.rows })),
        "stdin": process.stdin,
        "rlimits": process.rlimits.iter().map(rlimit).collect::<Vec<_>>(),
        "confinement": process.confinement.as_ref().map(confinement),
        "oom_score_adj": process.oom_score_adj,
        "umask": process.umask.map(|umask| format!("{umask:04o}")),
    })
}

fn confinement(confinement: &Confinement) -> Value {
    json!({
        "cap_add": confinement.cap_add,
        "cap_drop": confinement.cap_drop,
        "allow_new_privileges": confinement.allow_new_privileges(),
        "seccomp": match confinement.seccomp() {
            SeccompMode::Unspecified => "default".to_owned(),
            mode => enum_name(mode.as_str_name(), "SECCOMP_MODE_"),
        },
        "privileged": confinement.privileged(),
    })
}

fn policy(policy: &SessionPolicy) -> Value {
    json!({
        "disconnect_policy": match policy.disconnect_policy() {
            DisconnectPolicy::Unspecified => "default".to_owned(),
            other => enum_name(other.as_str_name(), "DISCONNECT_POLICY_"),
        },
        "disconnect_timeout": policy.disconnect_timeout.as_ref().map(seconds),
        "drain_timeout": policy.drain_timeout.as_ref().map(seconds),
        "deadline": policy.deadline.as_ref().map(seconds),
        "record": policy.record,
    })
}

/// A duration as JSON has it in proto3: seconds with the letter.
pub fn seconds(duration: &Duration) -> String {
    let nanos = duration.nanos.unsigned_abs();
    let sign = if duration.seconds < 0 || duration.nanos < 0 { "-" } else { "" };
    let fraction = match nanos {
        0 => String::new(),
        _ => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    format!("{sign}{}{fraction}s", duration.seconds.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use conti_proto::v1::SignalEnd;

    use super::*;

    #[test]
    fn an_end_names_its_reason_and_its_code() {
        let signal = SignalEnd { number: 15, name: "SIGTERM".to_owned(), core_dumped: false };
        let value =
            end(&SessionEnd { reason: Some(Reason::Signal(signal)), ..SessionEnd::default() });
        assert_eq!(value["reason"], "signal");
        assert_eq!(value["signal"]["name"], "SIGTERM");
        assert_eq!(value["code"], 143);
        let value = end(&SessionEnd { reason: Some(Reason::ExitCode(3)), ..SessionEnd::default() });
        assert_eq!(value["exit_code"], 3);
    }

    #[test]
    fn durations_keep_their_fraction() {
        assert_eq!(seconds(&Duration { seconds: 60, nanos: 0 }), "60s");
        assert_eq!(seconds(&Duration { seconds: 0, nanos: 500_000_000 }), "0.5s");
    }

    #[test]
    fn an_empty_container_can_be_shown() {
        let value = container(&Container::default());
        assert_eq!(value["state"], "unspecified");
        assert_eq!(value["spec"], Value::Null);
    }

    #[test]
    fn names_that_are_no_text_are_told_from_those_that_look_like_them() {
        let of = |name: &[u8]| with_names(json!({"size": 1}), [("name", name)]);
        assert_eq!(of(br"x\xff"), json!({"size": 1, "name": r"x\xff"}));
        let raw = json!({"size": 1, "name": r"x\xff", "name_bytes": "eP8="});
        assert_eq!(of(b"x\xff"), raw);
        let all = with_list(json!({}), "argv", &[b"a".to_vec(), b"\xff".to_vec()]);
        assert_eq!(all, json!({"argv": ["a", r"\xff"], "argv_bytes": ["YQ==", "/w=="]}));
        let all = with_list(json!({}), "argv", &[b"a".to_vec()]);
        assert_eq!(all, json!({"argv": ["a"]}));
    }
}
