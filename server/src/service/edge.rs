//! The server: its services, and every limit of it set on purpose.

use std::{sync::Arc, time::Duration};

use conti_proto::{
    DESCRIPTORS,
    v1::{
        agent_service_server::AgentServiceServer, container_service_server::ContainerServiceServer,
        file_service_server::FileServiceServer, join_service_server::JoinServiceServer,
        mount_service_server::MountServiceServer, namespace_service_server::NamespaceServiceServer,
        network_service_server::NetworkServiceServer, pki_service_server::PkiServiceServer,
        process_service_server::ProcessServiceServer, rootfs_service_server::RootfsServiceServer,
    },
};
use tonic::transport::server::{Router, Server};
use tower::layer::util::{Identity, Stack};

use super::{
    access::AccessLayer, agent::Agent, audit::AuditLayer, containers::Containers, files::Files,
    mounts::Mounts, namespaces::Namespaces, network::Network, pki::Pki, processes::Processes,
    rootfs::Rootfs, sessions::Sessions, share::ShareLayer, stopping::Stopping, trace::TraceLayer,
    wire::SessionsOnWire,
};
use crate::{engine::Engine, metrics::Calls};

/// The largest message that is taken.
pub const DECODE_MAX: usize = 4 * 1024 * 1024;
/// The largest message that is sent: a container's description is little more than the request
/// that made it, and a page of a list at most one description more than its own limit.
const ENCODE_MAX: usize = 8 * 1024 * 1024;
/// Calls of one connection at a time. Each may hold a stream's buffers.
const CONCURRENT_STREAMS: u32 = 1024;

/// Input that a client may send ahead, for one stream and for a connection: all that a hostile client can make
/// the agent hold on a connection.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    stream: u32,
    connection: u32,
}

/// Enough for a long fat network.
pub const WIDE: Windows = Windows { stream: 16 << 20, connection: 24 << 20 };
/// For the further connections of who has many.
pub const NARROW: Windows = Windows { stream: 1 << 20, connection: 2 << 20 };

/// Large frames: each costs a header, a wake-up and a write.
const FRAME_MAX: u32 = 1024 * 1024;
const HEADER_LIST_MAX: u32 = 32 * 1024;
/// A dead connection is found within twice this time.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Resets beyond these counts close the connection (rapid reset and its kin).
const PENDING_RESETS_MAX: usize = 32;
const LOCAL_RESETS_MAX: usize = 1024;

/// The largest message that a guest may send, and how many calls it may have under way.
pub const GUEST_DECODE_MAX: usize = 64 * 1024;
const GUEST_STREAMS: u32 = 4;

/// What each call goes through before it reaches its method.
pub type Layers =
    Stack<AuditLayer, Stack<ShareLayer, Stack<AccessLayer, Stack<TraceLayer, Identity>>>>;

/// Makes the server of guests: who has no certificate yet can join, and nothing else.
pub fn guests(
    pki: Pki,
    calls: &Calls,
    audit: AuditLayer,
) -> Router<Stack<AuditLayer, Stack<TraceLayer, Identity>>> {
    let join = JoinServiceServer::new(pki).max_decoding_message_size(GUEST_DECODE_MAX);
    Server::builder()
        .max_concurrent_streams(GUEST_STREAMS)
        .http2_max_header_list_size(HEADER_LIST_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(PENDING_RESETS_MAX))
        .layer(TraceLayer::new(calls.clone()))
        .layer(audit)
        .add_service(join)
}

/// What the calls of all connections go through.
#[derive(Debug, Clone)]
pub struct Passage {
    /// Counts them.
    pub calls: Calls,
    /// Who may.
    pub access: AccessLayer,
    /// How much at a time.
    pub share: ShareLayer,
    /// What is written down of them.
    pub audit: AuditLayer,
}

/// Makes the server of an engine for connections with such windows.
pub async fn router(
    engine: &Arc<Engine>,
    stopping: &Stopping,
    pki: Pki,
    passage: Passage,
    windows: Windows,
) -> Result<Router<Layers>, tonic_reflection::server::Error> {
    let agent = AgentServiceServer::new(Agent::new(engine.clone()))
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let containers = Containers::new(engine.clone(), stopping.clone());
    let containers = ContainerServiceServer::new(containers)
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let namespaces = Namespaces::new(engine.clone(), stopping.clone());
    let namespaces = NamespaceServiceServer::new(namespaces)
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let mounts = Mounts::new(engine.clone(), stopping.clone());
    let mounts = MountServiceServer::new(mounts)
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let files = FileServiceServer::new(Files::new(engine.clone(), stopping.clone()))
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let processes = Processes::new(engine.clone(), stopping.clone());
    let processes = ProcessServiceServer::new(processes)
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let network = Network::new(engine.clone(), stopping.clone());
    let network = NetworkServiceServer::new(network)
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let rootfs = RootfsServiceServer::new(Rootfs::new(engine.clone(), stopping.clone()))
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let pki = PkiServiceServer::new(pki)
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(ENCODE_MAX);
    let sessions = Sessions::new(engine.clone(), stopping.clone());
    let sessions = SessionsOnWire::new(Arc::new(sessions), DECODE_MAX, ENCODE_MAX);

    // As long as the agent answers at all, all of its services do.
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AgentServiceServer<Agent>>().await;
    reporter.set_serving::<ContainerServiceServer<Containers>>().await;
    reporter.set_serving::<SessionsOnWire<Sessions>>().await;
    reporter.set_serving::<NamespaceServiceServer<Namespaces>>().await;
    reporter.set_serving::<MountServiceServer<Mounts>>().await;
    reporter.set_serving::<NetworkServiceServer<Network>>().await;
    reporter.set_serving::<RootfsServiceServer<Rootfs>>().await;
    reporter.set_serving::<ProcessServiceServer<Processes>>().await;
    reporter.set_serving::<FileServiceServer<Files>>().await;
    reporter.set_serving::<PkiServiceServer<Pki>>().await;

    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;

    Ok(Server::builder()
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(FRAME_MAX)
        .http2_max_header_list_size(HEADER_LIST_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .layer(TraceLayer::new(passage.calls))
        .layer(passage.access)
        .layer(passage.share)
        .layer(passage.audit)
        .add_service(health)
        .add_service(reflection)
        .add_service(agent)
        .add_service(containers)
        .add_service(sessions)
        .add_service(namespaces)
        .add_service(mounts)
        .add_service(files)
        .add_service(processes)
        .add_service(network)
        .add_service(rootfs)
        .add_service(pki))
}
