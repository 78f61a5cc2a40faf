//! What the kernel says of a network, as messages.

use std::net::IpAddr;

use conti_proto::v1::{
    self, NeighbourState, OperationalState, RouteType, SocketProtocol, SocketState,
};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{self, LinkAttribute, LinkInfo, LinkMessage, Prop, Stats64},
    neighbour::{self, NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{self, RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteVia},
};
use netlink_packet_sock_diag::{
    SOCK_DGRAM, SOCK_SEQPACKET,
    inet::InetResponse,
    unix::{UnixResponse, nlas::UnixDiagName},
};

use super::info::{duration, pid};
use crate::engine::network::{self, Owner, Socket};

/// IFF_UP of netdevice(7).
const UP: u32 = 1;
/// A lifetime that never ends (RFC 4861).
const FOR_EVER: u32 = u32::MAX;

/// A link as a message.
pub fn link(found: LinkMessage) -> v1::Link {
    let flags = found.header.flags.bits();
    let mut link = v1::Link {
        index: found.header.index,
        hardware_type: u16::from(found.header.link_layer_type).into(),
        flags,
        up: flags & UP != 0,
        ..v1::Link::default()
    };
    for attribute in found.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::PropList(list) => {
                link.alternative_names = list.into_iter().filter_map(alternative_name).collect();
            }
            LinkAttribute::LinkInfo(list) => {
                link.kind = list.into_iter().find_map(kind).unwrap_or_default();
            }
            LinkAttribute::OperState(state) => link.operational_state = operational(state).into(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.hardware_address = bytes.into(),
            LinkAttribute::Broadcast(bytes) => link.broadcast_address = bytes.into(),
            LinkAttribute::Controller(index) => link.master_index = index,
            LinkAttribute::Link(index) => link.link_index = index,
            LinkAttribute::LinkNetNsId(id) => link.link_namespace_id = Some(id),
            LinkAttribute::Qdisc(name) => link.queueing = name,
            LinkAttribute::TxQueueLen(length) => link.queue_length = length,
            LinkAttribute::Stats64(stats) => link.statistics = Some(statistics(&stats)),
            _ => {}
        }
    }
    link
}

fn alternative_name(property: Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name),
        _ => None,
    }
}

fn kind(info: LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn operational(state: link::State) -> OperationalState {
    match state {
        link::State::Unknown => OperationalState::Unknown,
        link::State::NotPresent => OperationalState::NotPresent,
        link::State::Down => OperationalState::Down,
        link::State::LowerLayerDown => OperationalState::LowerLayerDown,
        link::State::Testing => OperationalState::Testing,
        link::State::Dormant => OperationalState::Dormant,
        link::State::Up => OperationalState::Up,
        _ => OperationalState::Unspecified,
    }
}

fn statistics(stats: &Stats64) -> v1::LinkStatistics {
    v1::LinkStatistics {
        received_bytes: stats.rx_bytes,
        received_packets: stats.rx_packets,
        received_errors: stats.rx_errors,
        received_dropped: stats.rx_dropped,
        sent_bytes: stats.tx_bytes,
        sent_packets: stats.tx_packets,
        sent_errors: stats.tx_errors,
        sent_dropped: stats.tx_dropped,
    }
}

/// An address as a message.
pub fn address(found: AddressMessage) -> v1::Address {
    let mut address = v1::Address {
        link_index: found.header.index,
        prefix_length: found.header.prefix_len.into(),
        scope: u8::from(found.header.scope).into(),
        flags: found.header.flags.bits().into(),
        ..v1::Address::default()
    };
    let (mut local, mut other): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let lifetime = |seconds: u32| {
        let time = std::time::Duration::from_secs(seconds.into());
        (seconds != FOR_EVER).then(|| duration(time))
    };
    for attribute in found.attributes {
        match attribute {
            AddressAttribute::Address(ip) => other = Some(ip),
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Broadcast(ip) => address.broadcast = ip.to_string(),
            AddressAttribute::Label(label) => address.label = label,
            AddressAttribute::Flags(flags) => address.flags = flags.bits(),
            AddressAttribute::CacheInfo(info) => {
                address.valid_lifetime = lifetime(info.ifa_valid);
                address.preferred_lifetime = lifetime(info.ifa_preferred);
            }
            _ => {}
        }
    }
    // Where both are there, IFA_LOCAL is the address itself and IFA_ADDRESS the other end
    // (include/uapi/linux/if_addr.h).
    if let Some(own) = local.or(other) {
        address.address = own.to_string();
        address.peer = other.filter(|ip| *ip != own).map(|ip| ip.to_string()).unwrap_or_default();
    }
    address
}

/// A route as a message.
pub fn route(found: RouteMessage) -> v1::Route {
    let header = &found.header;
    let mut route = v1::Route {
        ip_version: if header.address_family == AddressFamily::Inet6 { 6 } else { 4 },
        r#type: route_type(header.kind).into(),
        prefix_length: header.destination_prefix_length.into(),
        table: header.table.into(),
        protocol: u8::from(header.protocol).into(),
        scope: u8::from(header.scope).into(),
        flags: header.flags.bits(),
        ..v1::Route::default()
    };
    let mut hop = v1::NextHop::default();
    for attribute in found.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => route.destination = ip_text(ip),
            RouteAttribute::PrefSource(ip) => route.preferred_source = ip_text(ip),
            RouteAttribute::Table(table) => route.table = table,
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Oif(index) => hop.link_index = index,
            RouteAttribute::Gateway(ip) => hop.gateway = ip_text(ip),
            RouteAttribute::Via(via) => hop.gateway = via_text(&via),
            RouteAttribute::MultiPath(hops) => {
                route.next_hops = hops.into_iter().map(next_hop).collect();
            }
            _ => {}
        }
    }
    if route.next_hops.is_empty() && hop != v1::NextHop::default() {
        route.next_hops.push(hop);
    }
    route
}

fn next_hop(found: RouteNextHop) -> v1::NextHop {
    let mut hop = v1::NextHop {
        link_index: found.interface_index,
        // Told as one less (rtnetlink(7)).
        weight: u32::from(found.hops) + 1,
        flags: found.flags.bits().into(),
        ..v1::NextHop::default()
    };
    for attribute in found.attributes {
        match attribute {
            RouteAttribute::Gateway(ip) => hop.gateway = ip_text(ip),
            RouteAttribute::Via(via) => hop.gateway = via_text(&via),
            _ => {}
        }
    }
    hop
}

fn ip_text(ip: RouteAddress) -> String {
    match ip {
        RouteAddress::Inet(ip) => ip.to_string(),
        RouteAddress::Inet6(ip) => ip.to_string(),
        _ => String::new(),
    }
}

fn via_text(via: &RouteVia) -> String {
    match via {
        RouteVia::Inet(ip) => ip.to_string(),
        RouteVia::Inet6(ip) => ip.to_string(),
        _ => String::new(),
    }
}

fn route_type(kind: route::RouteType) -> RouteType {
    match kind {
        route::RouteType::Unicast => RouteType::Unicast,
        route::RouteType::Local => RouteType::Local,
        route::RouteType::Broadcast => RouteType::Broadcast,
        route::RouteType::Anycast => RouteType::Anycast,
        route::RouteType::Multicast => RouteType::Multicast,
        route::RouteType::BlackHole => RouteType::Blackhole,
        route::RouteType::Unreachable => RouteType::Unreachable,
        route::RouteType::Prohibit => RouteType::Prohibit,
        route::RouteType::Throw => RouteType::Throw,
        route::RouteType::Nat => RouteType::Nat,
        route::RouteType::ExternalResolve => RouteType::ExternalResolve,
        _ => RouteType::Unspecified,
    }
}

/// A neighbour as a message.
pub fn neighbour(found: NeighbourMessage) -> v1::Neighbour {
    let mut neighbour = v1::Neighbour {
        link_index: found.header.ifindex,
        state: neighbour_state(found.header.state).into(),
        flags: found.header.flags.bits().into(),
        ..v1::Neighbour::default()
    };
    for attribute in found.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                neighbour.address = ip.to_string();
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                neighbour.address = ip.to_string();
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                neighbour.hardware_address = bytes.into();
            }
            _ => {}
        }
    }
    neighbour
}

fn neighbour_state(state: neighbour::NeighbourState) -> NeighbourState {
    match state {
        neighbour::NeighbourState::Incomplete => NeighbourState::Incomplete,
        neighbour::NeighbourState::Reachable => NeighbourState::Reachable,
        neighbour::NeighbourState::Stale => NeighbourState::Stale,
        neighbour::NeighbourState::Delay => NeighbourState::Delay,
        neighbour::NeighbourState::Probe => NeighbourState::Probe,
        neighbour::NeighbourState::Failed => NeighbourState::Failed,
        neighbour::NeighbourState::Noarp => NeighbourState::Noarp,
        neighbour::NeighbourState::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::Unspecified,
    }
}

/// What the kernel is asked for, for the sockets of a protocol.
pub fn family(protocol: SocketProtocol) -> network::SocketProtocol {
    match protocol {
        SocketProtocol::Tcp => network::SocketProtocol::Tcp,
        SocketProtocol::Udp => network::SocketProtocol::Udp,
        _ => network::SocketProtocol::Unix,
    }
}

/// A socket as a message.
pub fn socket(found: Socket, owners: Vec<Owner>) -> v1::SocketInfo {
    let mut socket = match found {
        Socket::Inet(protocol, found) => inet_socket(protocol, &found),
        Socket::Unix(found) => unix_socket(&found),
    };
    socket.owners = owners.into_iter().map(owner).collect();
    socket
}

fn owner(owner: Owner) -> v1::SocketOwner {
    v1::SocketOwner { pid: pid(owner.pid), name: owner.name.to_vec().into(), fd: pid(owner.fd) }
}

fn inet_socket(protocol: network::SocketProtocol, found: &InetResponse) -> v1::SocketInfo {
    let (header, id) = (&found.header, &found.header.socket_id);
    let protocol = match protocol {
        network::SocketProtocol::Tcp => SocketProtocol::Tcp,
        _ => SocketProtocol::Udp,
    };
    let of =
        |ip: IpAddr, port: u16| v1::SocketAddress { address: ip.to_string(), port: port.into() };
    let is_connected = id.destination_port != 0 || !id.destination_address.is_unspecified();
    v1::SocketInfo {
        protocol: protocol.into(),
        state: socket_state(header.state).into(),
        inode: header.inode.into(),
        local: Some(of(id.source_address, id.source_port)),
        remote: is_connected.then(|| of(id.destination_address, id.destination_port)),
        link_index: id.interface_id,
        receive_queue: header.recv_queue,
        send_queue: header.send_queue,
        uid: Some(header.uid),
        ..v1::SocketInfo::default()
    }
}

fn unix_socket(found: &UnixResponse) -> v1::SocketInfo {
    let protocol = match found.header.kind {
        SOCK_DGRAM => SocketProtocol::UnixDatagram,
        SOCK_SEQPACKET => SocketProtocol::UnixSeqpacket,
        _ => SocketProtocol::UnixStream,
    };
    let (path, is_abstract) = match found.name() {
        Some(UnixDiagName::Pathname(path)) => (path.as_encoded_bytes().to_vec(), false),
        Some(UnixDiagName::Abstract(name)) => (name.clone(), true),
        None => (Vec::new(), false),
    };
    let (receive_queue, send_queue) = found
        .nlas
        .iter()
        .find_map(|nla| match nla {
            netlink_packet_sock_diag::unix::nlas::Nla::ReceiveQueueLength(read, write) => {
                Some((*read, *write))
            }
            _ => None,
        })
        .unwrap_or_default();
    v1::SocketInfo {
        protocol: protocol.into(),
        state: socket_state(found.header.state).into(),
        inode: found.header.inode.into(),
        path: path.into(),
        r#abstract: is_abstract,
        peer_inode: found.peer().unwrap_or(0).into(),
        receive_queue,
        send_queue,
        ..v1::SocketInfo::default()
    }
}

/// The states of include/net/tcp_states.h; 12 is a connection that was asked for and has no socket yet.
fn socket_state(state: u8) -> SocketState {
    match state {
        1 => SocketState::Established,
        2 => SocketState::SynSent,
        3 | 12 => SocketState::SynReceived,
        4 => SocketState::FinWait1,
        5 => SocketState::FinWait2,
        6 => SocketState::TimeWait,
        7 => SocketState::Closed,
        8 => SocketState::CloseWait,
        9 => SocketState::LastAck,
        10 => SocketState::Listening,
        11 => SocketState::Closing,
        _ => SocketState::Unspecified,
    }
}
