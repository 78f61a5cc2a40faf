//! The network of a target. The inspector carries the kernel's messages; here they are understood.

use std::{collections::HashMap, sync::Arc};

use conti_runtime::inspect::question::{Answer, Netlink, Question, SocketsOf};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    neighbour::NeighbourMessage,
    route::{RouteFlags, RouteMessage},
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SockDiagMessage, TCP_CLOSE, TCP_LISTEN,
    inet::{self, ExtensionFlags, InetRequest, InetResponse, SocketId},
    unix::{self, ShowFlags, UnixRequest, UnixResponse},
};

use super::{Engine, error::Result, inspect::Inspection, spec::Target};

/// include/uapi/linux/netlink.h
const NETLINK_ROUTE: u8 = 0;
const NETLINK_SOCK_DIAG: u8 = 4;

/// How many owners are told of one socket, and remembered in all: a process may have as many files open as it
/// likes, and share them with as many others.
const OWNERS_MAX: usize = 64;
const OWNED_MAX: usize = 200_000;

/// A network namespace as it is told.
#[derive(Debug)]
pub struct Network(Inspection);

/// A part of a network namespace.
#[derive(Debug)]
pub enum NetworkPart {
    /// An interface.
    Link(LinkMessage),
    /// An address of an interface.
    Address(AddressMessage),
    /// A route.
    Route(RouteMessage),
    /// A neighbour on an interface.
    Neighbour(NeighbourMessage),
    /// Something may be missing: it changed too often, or was not understood.
    Disturbed,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Unix sockets of all types.
    Unix,
}

impl SocketProtocol {
    /// All of them.
    pub const ALL: [SocketProtocol; 3] =
        [SocketProtocol::Tcp, SocketProtocol::Udp, SocketProtocol::Unix];
}

/// Which sockets are wanted.
#[derive(Debug)]
pub struct SocketFilter {
    /// Those of these protocols.
    pub protocols: Vec<SocketProtocol>,
    /// Only those that wait for anybody.
    pub listening_only: bool,
    /// Whether those who have them open are looked for.
    pub owners: bool,
}

/// Sockets as they are found.
#[derive(Debug)]
pub struct Sockets {
    inspection: Inspection,
    owners: HashMap<u64, Vec<Owner>>,
    /// How many of them there are.
    owned: usize,
    /// What each request was for, by the number that its answers carry.
    asked: Vec<SocketProtocol>,
}

/// A process that has a socket open.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its pid.
    pub pid: i32,
    /// Its name.
    pub name: Arc<[u8]>,
    /// The number of the file descriptor.
    pub fd: i32,
}

/// A part of the sockets.
#[derive(Debug)]
pub enum SocketsPart {
    /// A socket, and who has it open.
    Socket(Socket, Vec<Owner>),
    /// Something may be missing: they changed too often, were too many or not understood.
    Disturbed,
}

/// A socket.
#[derive(Debug)]
pub enum Socket {
    /// Of TCP or UDP.
    Inet(SocketProtocol, Box<InetResponse>),
    /// A unix socket.
    Unix(Box<UnixResponse>),
}

impl Engine {
    /// Asks for links, addresses, routes and neighbours.
    pub async fn network(&self, target: &Target) -> Result<Network> {
        let requests = route_requests().map(|request| (NETLINK_ROUTE, request)).into();
        let of = self.process_of(target, "look into")?;
        let netlink = Netlink { of, requests, owners: false };
        Ok(Network(self.look_into(target, &Question::Netlink(netlink)).await?))
    }

    /// Asks for sockets.
    pub async fn sockets(&self, target: &Target, filter: SocketFilter) -> Result<Sockets> {
        let of = self.process_of(target, "look into")?;
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for protocol in filter.protocols {
            for request in socket_requests(protocol, filter.listening_only, asked.len() as u32) {
                requests.push((NETLINK_SOCK_DIAG, request));
                asked.push(protocol);
            }
        }
        let netlink = Netlink { of, requests, owners: filter.owners };
        let inspection = self.look_into(target, &Question::Netlink(netlink)).await?;
        Ok(Sockets { inspection, owners: HashMap::new(), owned: 0, asked })
    }
}

/// The requests for links, addresses, routes and neighbours.
pub(crate) fn route_requests() -> [Vec<u8>; 5] {
    let mut routes = [RouteMessage::default(), RouteMessage::default()];
    routes[0].header.address_family = AddressFamily::Inet;
    routes[1].header.address_family = AddressFamily::Inet6;
    let [v4, v6] = routes;
    [
        request(0, RouteNetlinkMessage::GetLink(LinkMessage::default())),
        request(1, RouteNetlinkMessage::GetAddress(AddressMessage::default())),
        request(2, RouteNetlinkMessage::GetRoute(v4)),
        request(3, RouteNetlinkMessage::GetRoute(v6)),
        request(4, RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())),
    ]
}

/// The requests for the sockets of a protocol, numbered from `first` on.
pub(crate) fn socket_requests(
    protocol: SocketProtocol,
    listening_only: bool,
    first: u32,
) -> Vec<Vec<u8>> {
    let all = (first..).zip(questions(protocol, listening_only));
    all.map(|(number, question)| request(number, question)).collect()
}

/// The questions for the sockets of a protocol.
fn questions(protocol: SocketProtocol, listening_only: bool) -> Vec<SockDiagMessage> {
    // A datagram socket that waits for anybody is "closed", as ss(8) has it too.
    let states = if listening_only { 1 << TCP_LISTEN | 1 << TCP_CLOSE } else { u32::MAX };
    let inet = |number| {
        let of = |family, socket_id| {
            SockDiagMessage::InetRequest(InetRequest {
                family,
                protocol: number,
                extensions: ExtensionFlags::empty(),
                states: inet::StateFlags::from_bits_retain(states),
                socket_id,
            })
        };
        vec![of(AF_INET, SocketId::new_v4()), of(AF_INET6, SocketId::new_v6())]
    };
    match protocol {
        SocketProtocol::Tcp => inet(IPPROTO_TCP),
        SocketProtocol::Udp => inet(IPPROTO_UDP),
        SocketProtocol::Unix => vec![SockDiagMessage::UnixRequest(UnixRequest {
            state_flags: unix::StateFlags::from_bits_retain(states),
            inode: 0,
            show_flags: ShowFlags::NAME | ShowFlags::PEER | ShowFlags::RQLEN,
            cookie: [0xff; 8],
        })],
    }
}

/// A request for a dump, whose answers carry its number.
fn request<T: NetlinkSerializable>(number: u32, question: T) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = number;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// What a message of the kernel is.
enum Said<T> {
    /// What was asked for, and the number of the request.
    Answer(u32, T),
    /// Nothing that anybody asked for.
    Nothing,
    /// Something newer than this agent: one message is not to hide all others.
    Unknown,
}

fn understand<T: NetlinkDeserializable>(bytes: &[u8]) -> Said<T> {
    match NetlinkMessage::<T>::deserialize(bytes) {
        Ok(message) => match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                Said::Answer(message.header.sequence_number, inner)
            }
            _ => Said::Nothing,
        },
        Err(error) => {
            tracing::warn!(%error, "what the kernel says of a network is not understood");
            Said::Unknown
        }
    }
}

impl Network {
    /// The next parts. `None`: that was all.
    pub async fn more(&mut self) -> Result<Option<Vec<NetworkPart>>> {
        let Some(answers) = self.0.next().await? else { return Ok(None) };
        let mut parts = Vec::with_capacity(answers.len());
        for answer in answers {
            match answer {
                Answer::Netlink(bytes) => parts.extend(part(&bytes)),
                Answer::Disturbed => parts.push(NetworkPart::Disturbed),
                _ => {}
            }
        }
        Ok(Some(parts))
    }
}

pub(crate) fn part(bytes: &[u8]) -> Option<NetworkPart> {
    let message = match understand(bytes) {
        Said::Answer(_, message) => message,
        Said::Nothing => return None,
        Said::Unknown => return Some(NetworkPart::Disturbed),
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(NetworkPart::Link(link)),
        RouteNetlinkMessage::NewAddress(address) => Some(NetworkPart::Address(address)),
        // What was learned of single destinations is no route of its own.
        RouteNetlinkMessage::NewRoute(route) if route.header.flags.contains(RouteFlags::Cloned) => {
            None
        }
        RouteNetlinkMessage::NewRoute(route) => Some(NetworkPart::Route(route)),
        RouteNetlinkMessage::NewNeighbour(neighbour) => Some(NetworkPart::Neighbour(neighbour)),
        _ => None,
    }
}

impl Sockets {
    /// The next parts. `None`: that was all.
    pub async fn more(&mut self) -> Result<Option<Vec<SocketsPart>>> {
        while let Some(answers) = self.inspection.next().await? {
            let mut parts = Vec::with_capacity(answers.len());
            for answer in answers {
                match answer {
                    Answer::SocketsOf(found) if !self.own(&found) => {
                        parts.push(SocketsPart::Disturbed);
                    }
                    Answer::Netlink(bytes) => parts.extend(self.socket(&bytes)),
                    Answer::Disturbed => parts.push(SocketsPart::Disturbed),
                    _ => {}
                }
            }
            if !parts.is_empty() {
                return Ok(Some(parts));
            }
        }
        Ok(None)
    }

    /// Notes who has sockets open, up to a bound. Whether there was room.
    fn own(&mut self, found: &SocketsOf) -> bool {
        let name: Arc<[u8]> = found.name.as_slice().into();
        for &(fd, inode) in &found.sockets {
            if self.owned >= OWNED_MAX {
                return false;
            }
            let owners = self.owners.entry(inode).or_default();
            if owners.len() < OWNERS_MAX {
                owners.push(Owner { pid: found.pid, name: name.clone(), fd });
                self.owned += 1;
            }
        }
        true
    }

    fn socket(&self, bytes: &[u8]) -> Option<SocketsPart> {
        socket(bytes, &self.asked, |inode| self.owners.get(&inode).cloned().unwrap_or_default())
    }
}

/// The socket in an answer to one of the requests, which were for these protocols.
pub(crate) fn socket(
    bytes: &[u8],
    asked: &[SocketProtocol],
    owners: impl FnOnce(u64) -> Vec<Owner>,
) -> Option<SocketsPart> {
    let (number, message) = match understand(bytes) {
        Said::Answer(number, message) => (number, message),
        Said::Nothing => return None,
        Said::Unknown => return Some(SocketsPart::Disturbed),
    };
    let protocol = asked.get(number as usize).copied();
    let (socket, inode) = match (message, protocol) {
        (SockDiagMessage::InetResponse(socket), Some(protocol)) => {
            let inode = socket.header.inode;
            (Socket::Inet(protocol, socket), inode)
        }
        (SockDiagMessage::UnixResponse(socket), _) => {
            let inode = socket.header.inode;
            (Socket::Unix(socket), inode)
        }
        _ => return None,
    };
    Some(SocketsPart::Socket(socket, owners(inode.into())))
}
