//! The processes of a target.

use std::{sync::Arc, time::Duration};

use conti_proto::v1::{
    self, ListProcessesRequest, ListProcessesResponse, ProcessState, WatchProcessesRequest,
    WatchProcessesResponse, process_service_server::ProcessService,
};
use tonic::{Request, Response, Status};

use super::{
    call::Call,
    convert::{Field, info, target::target, text},
    parts::{self, PartStream, Parts},
    status::{self, valid},
    stopping::Stopping,
};
use crate::engine::{
    Engine,
    processes::{self, ProcessInfo, Watch},
};

/// The time between two snapshots where nothing was said.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Serves `conti.v1.ProcessService`.
#[derive(Debug)]
pub struct Processes {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Processes {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Processes {
        Processes { engine, stopping }
    }
}

#[tonic::async_trait]
impl ProcessService for Processes {
    type ListProcessesStream = PartStream<ListProcessesResponse>;
    type WatchProcessesStream = PartStream<WatchProcessesResponse>;

    async fn list_processes(
        &self,
        request: Request<ListProcessesRequest>,
    ) -> Result<Response<Self::ListProcessesStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let of = valid(|v| target(v, Field::root("target"), request.target))?;
        let of = call.target(&self.engine, of).await?;
        let found = self.engine.processes(&call.caller.scope, &of).await.map_err(status::of)?;
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }

    async fn watch_processes(
        &self,
        request: Request<WatchProcessesRequest>,
    ) -> Result<Response<Self::WatchProcessesStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let (of, interval) = valid(|v| {
            let at = Field::root("interval");
            let interval = match request.interval {
                None => INTERVAL,
                Some(wanted) => text::duration(v, at, wanted),
            };
            if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
                v.add(at, "is not 100 ms to 1 hour");
            }
            (target(v, Field::root("target"), request.target), interval)
        })?;
        let of = call.target(&self.engine, of).await?;
        let found = self
            .engine
            .watch_processes(call.caller.scope.clone(), of.clone(), interval)
            .await
            .map_err(status::of)?;
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }
}

impl Parts for processes::Processes {
    type Message = ListProcessesResponse;

    async fn next(&mut self) -> Result<Option<ListProcessesResponse>, Status> {
        let found = self.more().await.map_err(status::of)?;
        Ok(found.map(|found| ListProcessesResponse {
            processes: found.into_iter().map(message).collect(),
        }))
    }
}

impl Parts for Watch {
    type Message = WatchProcessesResponse;

    async fn next(&mut self) -> Result<Option<WatchProcessesResponse>, Status> {
        let (found, complete) = self.more().await.map_err(status::of)?;
        let processes = found.into_iter().map(message).collect();
        Ok(Some(WatchProcessesResponse { processes, complete }))
    }
}

fn message(found: ProcessInfo) -> v1::ProcessInfo {
    let process = found.process;
    let (container_id, container_name) =
        found.container.map(|container| (container.id, container.name)).unwrap_or_default();
    v1::ProcessInfo {
        pid: info::pid(process.id.pid),
        start_ticks: process.id.start_ticks,
        parent_pid: info::pid(process.parent),
        target_pid: info::pid(process.target_pid),
        own_pid: info::pid(process.own_pid),
        uid: process.uid,
        user: found.user,
        state: state(process.state).into(),
        cpu: found.cpu,
        user_time: Some(info::duration(found.user_time)),
        system_time: Some(info::duration(found.system_time)),
        resident_bytes: process.resident,
        virtual_bytes: process.total,
        swap_bytes: process.swap,
        threads: process.threads,
        nice: process.nice,
        start_time: Some(info::timestamp(found.start_time)),
        name: process.name.into(),
        argv: arguments(&process.argv),
        container_id,
        container_name,
    }
}

/// Arguments that are parted by NUL bytes; the last may have been cut before its own.
fn arguments(text: &[u8]) -> Vec<prost::bytes::Bytes> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == 0).map(|argument| argument.to_vec().into()).collect()
}

/// The letters of proc_pid_stat(5).
fn state(letter: u8) -> ProcessState {
    match letter {
        b'R' => ProcessState::Running,
        b'S' => ProcessState::Sleeping,
        b'D' => ProcessState::Uninterruptible,
        b'T' => ProcessState::Stopped,
        b't' => ProcessState::Traced,
        b'Z' | b'X' | b'x' => ProcessState::Zombie,
        b'I' => ProcessState::Idle,
        _ => ProcessState::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::arguments;

    #[test]
    fn arguments_are_parted_also_where_they_are_empty_or_cut() {
        let list = |text: &[u8]| -> Vec<Vec<u8>> {
            arguments(text).iter().map(|argument| argument.to_vec()).collect()
        };
        assert_eq!(list(b""), [b""; 0]);
        assert_eq!(list(b"a\0b c\0"), [&b"a"[..], b"b c"]);
        assert_eq!(list(b"a\0\0\0"), [&b"a"[..], b"", b""]);
        assert_eq!(list(b"a\0cu"), [&b"a"[..], b"cu"]);
    }
}
