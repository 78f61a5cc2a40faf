//! The network of a target.

use std::sync::Arc;

use conti_proto::v1::{
    self, ListNetworkRequest, ListNetworkResponse, ListSocketsRequest, ListSocketsResponse,
    network_service_server::NetworkService,
};
use tonic::{Request, Response, Status};

use super::{
    call::Call,
    convert::{Field, network as convert, target::target, text},
    parts::{self, PartStream, Parts},
    status::{self, valid},
    stopping::Stopping,
};
use crate::engine::{
    Engine,
    network::{self, NetworkPart, SocketFilter, SocketProtocol, Sockets, SocketsPart},
};

/// Serves `conti.v1.NetworkService`.
#[derive(Debug)]
pub struct Network {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Network {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Network {
        Network { engine, stopping }
    }
}

#[tonic::async_trait]
impl NetworkService for Network {
    type ListNetworkStream = PartStream<ListNetworkResponse>;
    type ListSocketsStream = PartStream<ListSocketsResponse>;

    async fn list_network(
        &self,
        request: Request<ListNetworkRequest>,
    ) -> Result<Response<Self::ListNetworkStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let of = valid(|v| target(v, Field::root("target"), request.target))?;
        let of = call.target(&self.engine, of).await?;
        let found = self.engine.network(&of).await.map_err(status::of)?;
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }

    async fn list_sockets(
        &self,
        request: Request<ListSocketsRequest>,
    ) -> Result<Response<Self::ListSocketsStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let (of, wanted) = valid(|v| {
            let root = Field::root("protocols");
            let mut wanted = Vec::new();
            for (index, protocol) in request.protocols.iter().enumerate() {
                let at = root.index(index);
                match text::known(v, at, *protocol) {
                    v1::SocketProtocol::Unspecified if *protocol == 0 => v.add(at, "is not said"),
                    protocol => wanted.push(protocol),
                }
            }
            (target(v, Field::root("target"), request.target), wanted)
        })?;
        let of = call.target(&self.engine, of).await?;
        let is_wanted = |protocol: &SocketProtocol| {
            wanted.is_empty() || wanted.iter().any(|wanted| convert::family(*wanted) == *protocol)
        };
        let filter = SocketFilter {
            protocols: SocketProtocol::ALL.into_iter().filter(is_wanted).collect(),
            listening_only: request.listening_only,
            owners: !request.skip_owners,
        };
        let sockets = self.engine.sockets(&of, filter).await.map_err(status::of)?;
        let found = Wanted { sockets, wanted };
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }
}

impl Parts for network::Network {
    type Message = ListNetworkResponse;

    async fn next(&mut self) -> Result<Option<ListNetworkResponse>, Status> {
        let Some(parts) = self.more().await.map_err(status::of)? else { return Ok(None) };
        let mut message = ListNetworkResponse::default();
        for part in parts {
            match part {
                NetworkPart::Link(link) => message.links.push(convert::link(link)),
                NetworkPart::Address(one) => message.addresses.push(convert::address(one)),
                NetworkPart::Route(route) => message.routes.push(convert::route(route)),
                NetworkPart::Neighbour(one) => message.neighbours.push(convert::neighbour(one)),
                NetworkPart::Disturbed => message.disturbed = true,
            }
        }
        Ok(Some(message))
    }
}

/// Sockets of the protocols that were asked for.
struct Wanted {
    sockets: Sockets,
    /// Empty: all.
    wanted: Vec<v1::SocketProtocol>,
}

impl Parts for Wanted {
    type Message = ListSocketsResponse;

    async fn next(&mut self) -> Result<Option<ListSocketsResponse>, Status> {
        let Some(parts) = self.sockets.more().await.map_err(status::of)? else { return Ok(None) };
        let mut message = ListSocketsResponse::default();
        for part in parts {
            match part {
                SocketsPart::Socket(socket, owners) => {
                    let socket = convert::socket(socket, owners);
                    if self.wanted.is_empty() || self.wanted.contains(&socket.protocol()) {
                        message.sockets.push(socket);
                    }
                }
                SocketsPart::Disturbed => message.disturbed = true,
            }
        }
        Ok(Some(message))
    }
}
