//! Talks to an agent through the API alone.

use std::{collections::BTreeMap, path::Path, time::Duration};

use conti_proto::v1::{
    BindMount, Container, ContainerSpec, ContainerState, CreateContainerRequest,
    DeleteContainerRequest, GetAgentRequest, GetContainerRequest, ListContainersRequest,
    ListSessionsRequest, Mount, ProcessSpec, SessionEnd, SessionSpec, SessionTarget,
    agent_service_client::AgentServiceClient, container_service_client::ContainerServiceClient,
    file_service_client::FileServiceClient, mount, mount_service_client::MountServiceClient,
    namespace_service_client::NamespaceServiceClient, network_service_client::NetworkServiceClient,
    pki_service_client::PkiServiceClient, process_service_client::ProcessServiceClient,
    rootfs_service_client::RootfsServiceClient, session_end,
    session_service_client::SessionServiceClient, session_target,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// The clients of an agent, on one connection.
#[derive(Clone)]
pub struct Api {
    /// The agent itself.
    pub agent: AgentServiceClient<Channel>,
    /// Containers.
    pub containers: ContainerServiceClient<Channel>,
    /// Namespaces.
    pub namespaces: NamespaceServiceClient<Channel>,
    /// Mounts.
    pub mounts: MountServiceClient<Channel>,
    /// Files.
    pub files: FileServiceClient<Channel>,
    /// Processes.
    pub processes: ProcessServiceClient<Channel>,
    /// Networks.
    pub network: NetworkServiceClient<Channel>,
    /// Root filesystems.
    pub rootfs: RootfsServiceClient<Channel>,
    /// Invitations and certificates.
    pub pki: PkiServiceClient<Channel>,
    /// Sessions.
    pub sessions: SessionServiceClient<Channel>,
}

impl Api {
    /// Connects to a socket and asks the agent for its description.
    pub async fn connect(socket: &Path) -> Result<Api, String> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
            .map_err(|e| e.to_string())?
            .connect_timeout(Duration::from_secs(10))
            // A stream that is not read must not hold up the others of this connection.
            .initial_connection_window_size(256 << 20);
        let channel = endpoint.connect().await.map_err(|e| format!("{e}: {e:?}"))?;
        Api::over(channel).await
    }

    /// Takes a connection that is there and asks the agent for its description.
    pub async fn over(channel: Channel) -> Result<Api, String> {
        let mut api = Api {
            agent: AgentServiceClient::new(channel.clone()),
            containers: ContainerServiceClient::new(channel.clone())
                .max_encoding_message_size(64 << 20),
            namespaces: NamespaceServiceClient::new(channel.clone()),
            mounts: MountServiceClient::new(channel.clone()),
            files: FileServiceClient::new(channel.clone()),
            processes: ProcessServiceClient::new(channel.clone()),
            network: NetworkServiceClient::new(channel.clone()),
            rootfs: RootfsServiceClient::new(channel.clone()),
            pki: PkiServiceClient::new(channel.clone()),
            sessions: SessionServiceClient::new(channel)
                .max_decoding_message_size(16 << 20)
                .max_encoding_message_size(64 << 20),
        };
        api.agent.get_agent(GetAgentRequest {}).await.map_err(|e| format!("{e:?}"))?;
        Ok(api)
    }

    /// Creates a container and starts it.
    pub async fn run(&mut self, spec: ContainerSpec) -> Result<Container, Status> {
        let request =
            CreateContainerRequest { spec: Some(spec), start: true, ..Default::default() };
        let answer = self.containers.create_container(request).await?.into_inner();
        Ok(answer.container.expect("the answer carries a container"))
    }

    /// Creates a container and leaves it paused.
    pub async fn create(&mut self, spec: ContainerSpec) -> Result<Container, Status> {
        let request = CreateContainerRequest { spec: Some(spec), ..Default::default() };
        let answer = self.containers.create_container(request).await?.into_inner();
        Ok(answer.container.expect("the answer carries a container"))
    }

    /// One container.
    pub async fn get(&mut self, name: &str) -> Result<Container, Status> {
        let request = GetContainerRequest { container: name.to_owned() };
        let answer = self.containers.get_container(request).await?.into_inner();
        Ok(answer.container.expect("the answer carries a container"))
    }

    /// All containers.
    pub async fn list(&mut self) -> Vec<Container> {
        let request = ListContainersRequest { page_size: 1000, ..Default::default() };
        let answer = self.containers.list_containers(request).await.expect("containers are listed");
        answer.into_inner().containers
    }

    /// The ids of all containers and sessions.
    pub async fn all_ids(&mut self) -> Vec<String> {
        let request = ListSessionsRequest { page_size: 1000, ..Default::default() };
        let sessions = self.sessions.list_sessions(request).await;
        let sessions = sessions.map(|s| s.into_inner().sessions).unwrap_or_default();
        let containers = self.list().await;
        let ids = containers.into_iter().map(|c| c.id).chain(sessions.into_iter().map(|s| s.id));
        ids.collect()
    }

    /// Deletes a container, running or not.
    pub async fn delete(&mut self, name: &str) -> Result<(), Status> {
        let request =
            DeleteContainerRequest { container: name.to_owned(), force: true, allow_missing: true };
        self.containers.delete_container(request).await.map(|_| ())
    }

    /// Deletes all containers.
    pub async fn delete_all(&mut self) -> Result<(), Status> {
        for container in self.list().await {
            self.delete(&container.id).await?;
        }
        Ok(())
    }
}

/// A process as most tests want it.
pub fn process<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> ProcessSpec {
    ProcessSpec { argv: argv.into_iter().map(Into::into).collect(), ..Default::default() }
}

/// A shell command.
pub fn shell(script: &str) -> ProcessSpec {
    process(["sh", "-c", script])
}

/// A container with defaults and a name.
pub fn container(name: &str, process: ProcessSpec) -> ContainerSpec {
    ContainerSpec { name: name.to_owned(), process: Some(process), ..Default::default() }
}

/// A container that does nothing until it is stopped.
pub fn sleeper(name: &str) -> ContainerSpec {
    container(name, process(["sleep", "100000"]))
}

/// The target that a container is.
pub fn inside(container: &str) -> SessionTarget {
    SessionTarget { target: Some(session_target::Target::Container(container.to_owned())) }
}

/// A session in a container.
pub fn session(container: &str, process: ProcessSpec) -> SessionSpec {
    SessionSpec { target: Some(inside(container)), process: Some(process), policy: None }
}

/// A read-only bind mount.
pub fn bind(source: &Path, target: &str) -> Mount {
    let source = source.to_string_lossy().into_owned();
    Mount {
        target: target.to_owned(),
        source: Some(mount::Source::Bind(BindMount { source, ..Default::default() })),
        read_only: true,
    }
}

/// The state of a container as a value.
pub fn state(container: &Container) -> ContainerState {
    ContainerState::try_from(container.state).expect("a state that the API has")
}

/// The exit code of an end. Panics where it ended otherwise.
pub fn exit_code(end: &SessionEnd) -> i32 {
    match end.reason {
        Some(session_end::Reason::ExitCode(code)) => code,
        ref other => panic!("it did not exit, it ended with {other:?}"),
    }
}

/// The number of the signal that ended it, whoever sent it.
pub fn end_signal(end: &SessionEnd) -> i32 {
    match end.reason {
        Some(session_end::Reason::Signal(ref signal)) => signal.number,
        Some(session_end::Reason::Killed(ref killed)) => killed.signal,
        ref other => panic!("no signal ended it, but {other:?}"),
    }
}

/// The reason (google.rpc.ErrorInfo) of an error.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    let info = info.unwrap_or_else(|| panic!("the error has no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "conti.v1", "domain of {status:?}");
    info.reason.clone()
}

/// The metadata (google.rpc.ErrorInfo) of an error.
pub fn metadata(status: &Status) -> BTreeMap<String, String> {
    let details = status.get_error_details();
    let info = details.error_info().expect("the error has an ErrorInfo");
    info.metadata.clone().into_iter().collect()
}

/// The fields that an error finds fault with (google.rpc.BadRequest).
pub fn faulty_fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|b| b.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|v| v.field).collect()
}
