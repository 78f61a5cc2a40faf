//! What the engine tells of containers, sessions and the host, as messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conti_proto::v1::{self, session_end::Reason};
use conti_shared::signal;
use prost_types::Timestamp;

use super::back;
use crate::{
    access::Role,
    engine::{
        Facts,
        facts::{CgroupVersion, Feature},
        info::{
            ContainerInfo, ContainerState, EndReason, KillCause, SessionEnd, SessionInfo,
            SessionState,
        },
    },
};

/// A container as a message.
pub fn container(info: ContainerInfo) -> v1::Container {
    v1::Container {
        state: container_state(info.state).into(),
        create_time: info.create_time.map(timestamp),
        start_time: info.start_time.map(timestamp),
        end_time: info.end_time.map(timestamp),
        end: info.end.map(session_end),
        name: info.spec.as_ref().map_or_else(String::new, |spec| spec.name.clone()),
        spec: info.spec.map(back::container),
        pid: pid(info.pid),
        pid_start_ticks: info.pid_start_ticks,
        id: info.id,
        session_id: info.session_id,
        cgroup: info.cgroup,
        warnings: info.warnings,
    }
}

/// A container's state as a message.
pub fn container_state(state: ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::Created,
        ContainerState::Running => v1::ContainerState::Running,
        ContainerState::Stopped => v1::ContainerState::Stopped,
        ContainerState::Quarantined => v1::ContainerState::Quarantined,
    }
}

/// A session as a message.
pub fn session(info: SessionInfo) -> v1::Session {
    v1::Session {
        id: info.id,
        container_id: info.container_id.unwrap_or_default(),
        main: info.main,
        state: session_state(info.state).into(),
        argv: info.argv,
        terminal: info.terminal,
        pid: pid(info.pid),
        start_time: info.start_time.map(timestamp),
        end: info.end.map(session_end),
        output_offset: info.output_offset,
        retained_offset: info.retained_offset,
        input_offset: info.input_offset,
        attached: info.attached,
        recorded: info.recorded,
    }
}

/// A session's state as a message.
pub fn session_state(state: SessionState) -> v1::SessionState {
    match state {
        SessionState::Created => v1::SessionState::Created,
        SessionState::Running => v1::SessionState::Running,
        SessionState::Ended => v1::SessionState::Ended,
    }
}

/// How a session ended, as a message.
pub fn session_end(end: SessionEnd) -> v1::SessionEnd {
    let reason = match end.reason {
        EndReason::Exit(code) => Reason::ExitCode(code),
        EndReason::Signal { number, core_dumped } => {
            Reason::Signal(v1::SignalEnd { number, name: signal::name(number), core_dumped })
        }
        EndReason::OutOfMemory => Reason::OutOfMemory(v1::OutOfMemoryEnd {}),
        EndReason::Deadline => Reason::Deadline(v1::DeadlineEnd {}),
        EndReason::Killed { signal, cause } => {
            let cause = match cause {
                KillCause::Client => v1::KillCause::Client,
                KillCause::Disconnect => v1::KillCause::Disconnect,
            };
            Reason::Killed(v1::KilledEnd { signal, cause: cause.into() })
        }
        EndReason::ContainerGone => Reason::ContainerGone(v1::ContainerGoneEnd {}),
        EndReason::StartFailed { step, argument, errno, message } => {
            Reason::StartFailed(v1::StartFailedEnd { step, argument, errno, message })
        }
        EndReason::Lost(message) => Reason::Lost(v1::LostEnd { message }),
    };
    v1::SessionEnd {
        reason: Some(reason),
        time: Some(timestamp(end.time)),
        stdout_bytes: end.stdout_bytes,
        stderr_bytes: end.stderr_bytes,
        dropped_bytes: end.dropped_bytes,
        drain_timed_out: end.drain_timed_out,
    }
}

/// The agent and its host as a message.
pub fn agent(facts: &Facts) -> v1::Agent {
    let version = match facts.cgroup_version {
        CgroupVersion::V1 => v1::CgroupVersion::V1,
        CgroupVersion::V2 => v1::CgroupVersion::V2,
        CgroupVersion::Hybrid => v1::CgroupVersion::Hybrid,
        CgroupVersion::None => v1::CgroupVersion::None,
    };
    let feature = |feature: &Feature| v1::Feature {
        name: feature.name.to_owned(),
        available: feature.available,
        detail: feature.detail.clone(),
    };
    v1::Agent {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance_id: facts.instance_id.clone(),
        host: Some(v1::Host {
            hostname: facts.hostname.clone(),
            kernel_release: facts.kernel_release.clone(),
            architecture: facts.architecture.clone(),
            cgroup_version: version.into(),
            cgroup_controllers: facts.cgroup_controllers.clone(),
            boot_id: facts.boot_id.clone(),
            cpu_count: facts.cpu_count,
            memory_bytes: facts.memory_bytes,
        }),
        features: facts.features.iter().map(feature).collect(),
        state_dir: back::path(facts.state_dir.clone()),
        data_dir: back::path(facts.data_dir.clone()),
    }
}

/// A span of time as a message.
pub fn duration(time: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        // Below 1,000,000,000.
        nanos: time.subsec_nanos() as i32,
    }
}

/// A moment as a message. Before 1970 no clock of a host with containers was right: the epoch.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        // Below 1,000,000,000.
        nanos: since.subsec_nanos() as i32,
    }
}

/// A pid as a message; 0 where there is none.
pub fn pid(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or(0)
}

/// A role as a message.
pub fn role(role: Role) -> v1::Role {
    match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
    }
}
