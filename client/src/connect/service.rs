//! The services of an agent, each over one connection.

use conti_proto::v1::{
    agent_service_client::AgentServiceClient, container_service_client::ContainerServiceClient,
    file_service_client::FileServiceClient, join_service_client::JoinServiceClient,
    mount_service_client::MountServiceClient, namespace_service_client::NamespaceServiceClient,
    network_service_client::NetworkServiceClient, pki_service_client::PkiServiceClient,
    process_service_client::ProcessServiceClient, rootfs_service_client::RootfsServiceClient,
    session_service_client::SessionServiceClient,
};

use crate::connect::Connection;

/// The largest message of a stream: 1 MiB of output and what is around it, with room to spare.
const STREAM_MESSAGE_MAX: usize = 8 << 20;
/// The largest list: a page of containers, each with an environment of up to 1 MiB.
const LIST_MESSAGE_MAX: usize = 128 << 20;

impl Connection {
    /// The agent's description.
    pub fn agent(&self) -> AgentServiceClient<Connection> {
        AgentServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Containers.
    pub fn containers(&self) -> ContainerServiceClient<Connection> {
        ContainerServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Sessions, but for their streams.
    pub fn sessions(&self) -> SessionServiceClient<Connection> {
        SessionServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Namespaces.
    pub fn namespaces(&self) -> NamespaceServiceClient<Connection> {
        NamespaceServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Mounts.
    pub fn mounts(&self) -> MountServiceClient<Connection> {
        MountServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Files.
    pub fn files(&self) -> FileServiceClient<Connection> {
        FileServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Processes.
    pub fn processes(&self) -> ProcessServiceClient<Connection> {
        ProcessServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Networks.
    pub fn network(&self) -> NetworkServiceClient<Connection> {
        NetworkServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Who may connect.
    pub fn pki(&self) -> PkiServiceClient<Connection> {
        PkiServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Root filesystems.
    pub fn rootfs(&self) -> RootfsServiceClient<Connection> {
        RootfsServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// The way in for who is not known yet.
    pub fn join(&self) -> JoinServiceClient<Connection> {
        JoinServiceClient::with_origin(self.clone(), self.origin())
    }

    /// The stream of a session.
    pub fn stream(&self) -> SessionServiceClient<Connection> {
        SessionServiceClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(STREAM_MESSAGE_MAX)
    }
}
