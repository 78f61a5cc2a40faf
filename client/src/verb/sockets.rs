//! `contictl sockets`

use clap::Args;
use conti_proto::v1::{ListSocketsRequest, SocketAddress, SocketInfo, SocketProtocol, SocketState};
use serde_json::{Value, json};

use crate::{
    error::Result,
    flags::target::Target,
    output::{self, Format, text},
    verb::Context,
};

/// Show the sockets of a target, and who has them open
///
/// Without a choice of protocols sockets of all are shown.
#[derive(Debug, Args)]
pub struct Sockets {
    /// TCP
    #[arg(short, long)]
    tcp: bool,
    /// UDP
    #[arg(short, long)]
    udp: bool,
    /// Unix sockets
    #[arg(short = 'x', long)]
    unix: bool,
    /// Only those that wait for connections or packets of anybody
    #[arg(short, long)]
    listening: bool,
    /// Do not look for the processes that have them open
    #[arg(long)]
    no_owners: bool,
    /// CONTAINER, pid:PID or host
    target: Target,
}

impl Sockets {
    /// Asks, and shows what is found.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let chosen = [
            (self.tcp, SocketProtocol::Tcp),
            (self.udp, SocketProtocol::Udp),
            (self.unix, SocketProtocol::UnixStream),
            (self.unix, SocketProtocol::UnixDatagram),
            (self.unix, SocketProtocol::UnixSeqpacket),
        ];
        let chosen = chosen.into_iter().filter(|(is_chosen, _)| *is_chosen);
        let request = ListSocketsRequest {
            target: Some(self.target.into()),
            protocols: chosen.map(|(_, protocol)| protocol.into()).collect(),
            listening_only: self.listening,
            skip_owners: self.no_owners,
        };
        let mut client = context.connect().await?.network();
        let mut stream = client.list_sockets(request).await?.into_inner();
        let (mut sockets, mut disturbed) = (Vec::new(), false);
        while let Some(part) = stream.message().await? {
            sockets.extend(part.sockets);
            disturbed |= part.disturbed;
        }
        if disturbed {
            output::note(
                "sockets changed meanwhile, or are too many: some may be missing or there twice",
            );
        }
        match context.format {
            Format::Json => {
                output::json(&Value::from(sockets.iter().map(object).collect::<Vec<_>>()))?;
            }
            Format::Table => {
                let header =
                    ["PROTOCOL", "STATE", "RECV-Q", "SEND-Q", "LOCAL", "REMOTE", "PROCESSES"];
                output::table(header, sockets.iter().map(row).collect())?;
            }
        }
        Ok(0)
    }
}

fn protocol(socket: &SocketInfo) -> String {
    text::enum_name(socket.protocol().as_str_name(), "SOCKET_PROTOCOL_")
}

fn state(socket: &SocketInfo) -> String {
    text::enum_name(socket.state().as_str_name(), "SOCKET_STATE_")
}

/// An address and a port, parted so that both can be told apart.
fn address(address: &SocketAddress) -> String {
    if address.address.contains(':') {
        format!("[{}]:{}", address.address, address.port)
    } else {
        format!("{}:{}", address.address, address.port)
    }
}

/// The name of a unix socket; abstract ones begin with @, as ss(8) has it.
fn path(socket: &SocketInfo) -> String {
    let name = text::bytes(&socket.path);
    if socket.r#abstract { format!("@{name}") } else { name }
}

fn row(socket: &SocketInfo) -> [String; 7] {
    let (local, remote) = match &socket.local {
        Some(local) => (address(local), socket.remote.as_ref().map_or("*".to_owned(), address)),
        None => {
            let name = Some(path(socket)).filter(|path| !path.is_empty());
            let peer = Some(socket.peer_inode).filter(|&inode| inode != 0);
            (
                name.unwrap_or_else(|| format!("inode {}", socket.inode)),
                peer.map_or("*".to_owned(), |inode| format!("inode {inode}")),
            )
        }
    };
    let owners = socket.owners.iter();
    let mut owners: Vec<String> =
        owners.map(|one| format!("{}/{}", one.pid, text::bytes(&one.name))).collect();
    owners.dedup();
    // Few mean anything to the reader where it is open as it is: the state of a datagram socket.
    let state = match (socket.protocol(), socket.state()) {
        (SocketProtocol::Udp | SocketProtocol::UnixDatagram, SocketState::Closed) => {
            "unconnected".to_owned()
        }
        _ => state(socket),
    };
    [
        protocol(socket),
        state,
        socket.receive_queue.to_string(),
        socket.send_queue.to_string(),
        local,
        remote,
        if owners.is_empty() { "-".to_owned() } else { owners.join(" ") },
    ]
}

fn object(socket: &SocketInfo) -> Value {
    let some = |number: u64| Some(number).filter(|&number| number != 0);
    let end = |end: &Option<SocketAddress>| {
        end.as_ref().map(|end| json!({"address": end.address, "port": end.port}))
    };
    let object = json!({
        "protocol": protocol(socket),
        "state": state(socket),
        "inode": some(socket.inode),
        "local": end(&socket.local),
        "remote": end(&socket.remote),
        "link_index": some(socket.link_index.into()),
        "path": null,
        "abstract": socket.r#abstract,
        "peer_inode": some(socket.peer_inode),
        "receive_queue": socket.receive_queue,
        "send_queue": socket.send_queue,
        "uid": socket.uid,
        "owners": socket.owners.iter().map(|owner| {
            let object = json!({"pid": owner.pid, "name": null, "fd": owner.fd});
            output::json::with_names(object, [("name", &owner.name[..])])
        }).collect::<Vec<_>>(),
    });
    let path = Some(&socket.path[..]).filter(|path| !path.is_empty());
    output::json::with_names(object, path.map(|path| ("path", path)))
}
