//! `net` and `sockets`, against ip(8) and ss(8) in the same network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use conti_proto::v1::{ListSocketsRequest, SocketProtocol, Target, target};
use conti_tests::{Agent, api, ctl::Running, host, plain::Plain, rootfs, wait};
use serde_json::Value;

fn ask(agent: &Agent, args: &[&str]) -> Value {
    agent.ctl([&["-o", "json"], args].concat()).run().success().json()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().expect("a list").clone()
}

/// What a tool of iproute2 says in the network namespace of a process; it sees the host's /proc.
fn tool(plain: &Plain, line: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &plain.pid.to_string(), "--"]).args(line.split(' '));
    let output = command.output().expect("nsenter(1)");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    // Names of sockets are not always text.
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ip(plain: &Plain, line: &str) -> Vec<Value> {
    let text = tool(plain, &format!("ip -j -N {line}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
}

/// Links that are there on kernels with and without virtual Ethernet.
mod needs_veth {
    use super::*;

    /// Links, addresses, routes and neighbours of many kinds. Links make no addresses of their own, so
    /// that nothing changes later.
    const MANY: &str = r"
        ip link set lo up
        ip link add ve0 type veth peer name ve1
        ip link add ve2 type veth peer name ve3
        ip link add br0 type bridge
        ip link add mv0 link ve1 type macvlan
        ip link set ve0 master br0
        ip link set ve1 mtu 1300 txqueuelen 77
        ip link property add dev ve1 altname longer-name
        for l in ve0 ve1 ve2 ve3 br0 mv0; do ip link set $l addrgenmode none; done
        for l in ve0 ve1 ve2 ve3 br0; do ip link set $l up; done
        ip addr add 10.1.2.3/24 brd + dev ve1
        ip addr add fd00:7::1/64 dev ve1 nodad
        ip addr add 10.9.0.1 peer 10.9.0.2/32 dev ve3
        ip addr add 10.5.0.1/16 dev ve3 valid_lft 50000 preferred_lft 40000
        ip addr add 10.6.0.1/16 dev ve3 scope link
        ip route add blackhole 10.66.0.0/16
        ip route add 10.77.0.0/16 metric 7 nexthop via 10.1.2.9 dev ve1 weight 2 nexthop via 10.9.0.2 dev ve3 weight 3
        ip route add default via 10.1.2.1 table 1000
        ip route add 10.88.0.0/16 via 10.1.2.1 src 10.1.2.3 proto static
        ip route add fd00:9::/64 via fd00:7::9 metric 5
        ip route add unreachable fd00:8::/64
        ip route add prohibit 10.67.0.0/16; ip route add throw 10.68.0.0/16
        ip neigh add 10.1.2.50 lladdr 02:00:00:00:00:01 dev ve1 nud permanent
        ip neigh add fd00:7::50 lladdr 02:00:00:00:00:02 dev ve1 nud stale
    ";

    fn many(agent: &Agent) -> (Plain, Value) {
        let plain = Plain::after(MANY, &[]);
        let net = ask(agent, &["net", &plain.target()]);
        (plain, net)
    }

    /// The number of a link by its name.
    fn numbers(net: &Value) -> BTreeMap<String, u64> {
        let links = list(&net["links"]).into_iter();
        links
            .filter_map(|one| Some((one["name"].as_str()?.to_owned(), one["index"].as_u64()?)))
            .collect()
    }

    fn number(names: &BTreeMap<String, u64>, name: &Value) -> Value {
        name.as_str().map_or(Value::Null, |name| names[name].into())
    }

    #[test]
    fn links_are_those_that_ip_lists_field_by_field() {
        let agent = Agent::start();
        let (plain, net) = many(&agent);
        let theirs = ip(&plain, "-d -s link show");
        let ours = list(&net["links"]);
        let names = numbers(&net);
        assert_eq!(ours.len(), theirs.len());
        for (one, other) in ours.iter().zip(&theirs) {
            let why = format!("{one}\n{other}");
            for (field, column) in [
                ("index", "ifindex"),
                ("name", "ifname"),
                ("mtu", "mtu"),
                ("queueing", "qdisc"),
                ("queue_length", "txqlen"),
                ("hardware_address", "address"),
                ("broadcast_address", "broadcast"),
            ] {
                assert_eq!(one[field], other[column], "{field}: {why}");
            }
            assert_eq!(one["kind"], other["linkinfo"]["info_kind"], "{why}");
            let state = one["operational_state"].as_str().unwrap_or_default().replace('_', "");
            assert_eq!(state.to_uppercase(), other["operstate"], "{why}");
            assert_eq!(one["master_index"], number(&names, &other["master"]), "{why}");
            assert_eq!(one["link_index"], number(&names, &other["link"]), "{why}");
            let others = if other["altnames"].is_null() {
                Value::Array(Vec::new())
            } else {
                other["altnames"].clone()
            };
            assert_eq!(one["alternative_names"], others, "{why}");
            let up = list(&other["flags"]).contains(&"UP".into());
            assert_eq!(one["up"], up, "{why}");
            let ethernet = if other["link_type"] == "loopback" || other["link_type"] == "[772]" {
                772
            } else {
                1
            };
            assert_eq!(one["hardware_type"], ethernet, "{why}");
        }
        let kinds: BTreeSet<_> = ours.iter().filter_map(|one| one["kind"].as_str()).collect();
        assert_eq!(kinds, ["bridge", "macvlan", "veth"].into());
        // What a bridge sends by itself may come in between.
        wait::until_true("the counters are the same", || {
            let ours = list(&ask(&agent, &["net", &plain.target()])["links"]);
            let theirs = ip(&plain, "-s link show");
            ours.iter().zip(&theirs).all(|(one, other)| {
                ["bytes", "packets", "errors", "dropped"].iter().all(|what| {
                    let stats = &one["statistics"];
                    stats[format!("received_{what}")] == other["stats64"]["rx"][what]
                        && stats[format!("sent_{what}")] == other["stats64"]["tx"][what]
                })
            })
        });
        let shown = agent.ok(["net", "--links", &plain.target()]);
        assert!(shown.contains("ve0@ve1") && shown.contains("10.1.2.3/24"), "{shown}");
        assert!(!shown.contains("DESTINATION"), "{shown}");
        drop(plain);
        agent.finish();
    }

    #[test]
    fn addresses_are_those_that_ip_lists_field_by_field() {
        let agent = Agent::start();
        let (plain, net) = many(&agent);
        let mut theirs = Vec::new();
        for link in ip(&plain, "addr show") {
            for address in list(&link["addr_info"]) {
                theirs.push((link["ifindex"].clone(), address));
            }
        }
        let ours = list(&net["addresses"]);
        assert_eq!(ours.len(), theirs.len(), "{ours:#?}");
        for one in &ours {
            let own = |(index, other): &&(Value, Value)| {
                *index == one["link_index"] && other["local"] == one["address"]
            };
            let (_, other) =
                theirs.iter().find(own).unwrap_or_else(|| panic!("{one} is not there"));
            let why = format!("{one}\n{other}");
            assert_eq!(one["prefix_length"], other["prefixlen"], "{why}");
            assert_eq!(one["peer"], other["address"], "{why}");
            assert_eq!(one["broadcast"], other["broadcast"], "{why}");
            assert_eq!(one["label"], other["label"], "{why}");
            assert_eq!(one["scope"].to_string(), other["scope"].as_str().unwrap_or("?"), "{why}");
            for (field, column) in
                [("valid_seconds", "valid_life_time"), ("preferred_seconds", "preferred_life_time")]
            {
                let theirs = other[column].as_u64().expect("a number");
                match one[field].as_u64() {
                    None => assert_eq!(theirs, u64::from(u32::MAX), "{why}"),
                    Some(ours) => assert!(ours.abs_diff(theirs) <= 60, "{field}: {why}"),
                }
            }
        }
        assert!(ours.iter().any(|one| one["valid_seconds"].is_u64()));
        assert!(ours.iter().any(|one| one["peer"] == "10.9.0.2"));
        drop(plain);
        agent.finish();
    }

    /// A route in a form that both can be brought into.
    fn route_key(names: &BTreeMap<u32, String>, one: &Value) -> String {
        let hops: Vec<String> = list(&one["next_hops"])
            .iter()
            .map(|hop| {
                let name = hop["link_index"].as_u64().and_then(|index| names.get(&(index as u32)));
                let gateway = hop["gateway"].as_str().unwrap_or_default();
                format!("{gateway}@{}", name.map(String::as_str).unwrap_or_default())
            })
            .collect();
        format!(
            "{}/{} table {} by {} source {} metric {} scope {} {hops:?}",
            one["destination"].as_str().unwrap_or("default"),
            one["prefix_length"],
            one["table"],
            one["protocol"],
            one["preferred_source"].as_str().unwrap_or_default(),
            one["metric"],
            one["scope"]
        )
    }

    fn route_key_of_ip(other: &Value, version: u64) -> String {
        let text = |name: &str| other[name].as_str().unwrap_or_default().to_owned();
        let dst = text("dst");
        let whole = if version == 4 { "32" } else { "128" };
        let (network, length) = match dst.split_once('/') {
            Some((network, length)) => (network.to_owned(), length.to_owned()),
            None if dst == "default" => (dst, "0".to_owned()),
            None => (dst, whole.to_owned()),
        };
        let number = |name: &str, otherwise: &str| {
            let text = text(name);
            if text.is_empty() { otherwise.to_owned() } else { text }
        };
        let hop = |one: &Value| {
            let part = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            format!("{}@{}", part("gateway"), part("dev"))
        };
        let mut hops: Vec<String> =
            other["nexthops"].as_array().into_iter().flatten().map(hop).collect();
        if hops.is_empty() && hop(other) != "@" {
            hops.push(hop(other));
        }
        format!(
            "{network}/{length} table {} by {} source {} metric {} scope {} {hops:?}",
            number("table", "254"),
            number("protocol", "3"),
            text("prefsrc"),
            other["metric"].as_u64().unwrap_or(0),
            number("scope", "0"),
        )
    }

    #[test]
    fn routes_are_those_that_ip_lists_field_by_field() {
        let agent = Agent::start();
        let (plain, net) = many(&agent);
        let names: BTreeMap<u32, String> =
            numbers(&net).into_iter().map(|(name, index)| (index as u32, name)).collect();
        let routes = list(&net["routes"]);
        for version in [4, 6] {
            let own = routes.iter().filter(|one| one["ip_version"] == version);
            let ours: BTreeSet<String> = own.clone().map(|one| route_key(&names, one)).collect();
            let theirs = ip(&plain, &format!("-{version} route show table all"));
            assert_eq!(own.count(), theirs.len());
            let theirs: BTreeSet<String> =
                theirs.iter().map(|one| route_key_of_ip(one, version)).collect();
            assert_eq!(ours, theirs);
        }
        let to = |network: &str| {
            let found = routes.iter().find(|one| one["destination"] == network);
            found.unwrap_or_else(|| panic!("{network} is not there")).clone()
        };
        for (network, kind) in [
            ("10.66.0.0", "blackhole"),
            ("10.67.0.0", "prohibit"),
            ("10.68.0.0", "throw"),
            ("10.88.0.0", "unicast"),
            ("fd00:8::", "unreachable"),
            ("127.0.0.1", "local"),
            ("10.1.2.255", "broadcast"),
        ] {
            assert_eq!(to(network)["type"], kind, "{network}");
        }
        let shared = list(&to("10.77.0.0")["next_hops"]);
        assert_eq!(
            (shared[0]["weight"].as_u64(), shared[1]["weight"].as_u64()),
            (Some(2), Some(3))
        );
        let shown = agent.ok(["net", "--routes", &plain.target()]);
        assert!(shown.contains("10.88.0.0/16") && !shown.contains("default"), "{shown}");
        let all = agent.ok(["net", "--all-tables", &plain.target()]);
        assert!(all.contains("default") && all.contains("1000"), "{all}");
        drop(plain);
        agent.finish();
    }

    #[test]
    fn neighbours_are_those_that_ip_lists() {
        let agent = Agent::start();
        let (plain, net) = many(&agent);
        let names = numbers(&net);
        let set = |one: &&Value| matches!(one["state"].as_str(), Some("permanent" | "stale"));
        let ours: Vec<Value> = list(&net["neighbours"]).iter().filter(set).cloned().collect();
        let theirs = ip(&plain, "neigh show");
        assert_eq!((ours.len(), theirs.len()), (2, 2), "{ours:?} {theirs:?}");
        for other in theirs {
            let one = ours.iter().find(|one| one["address"] == other["dst"]).expect("it is there");
            assert_eq!(one["hardware_address"], other["lladdr"]);
            assert_eq!(one["link_index"], number(&names, &other["dev"]));
            let state = one["state"].as_str().unwrap_or_default().to_uppercase();
            assert_eq!(Value::from(vec![state]), other["state"]);
        }
        drop(plain);
        agent.finish();
    }
}

/// Sockets of all kinds and states, some with data that nobody reads.
const SOCKETS: &str = r#"
import os, socket, time
keep = []
def new(family, kind):
    s = socket.socket(family, kind); keep.append(s); return s
I4, I6, U = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
STREAM, DGRAM, SEQ = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
tcp = new(I4, STREAM); tcp.bind(("127.0.0.1", 7001)); tcp.listen(9)
c = new(I4, STREAM); c.connect(("127.0.0.1", 7001)); a, _ = tcp.accept(); keep.append(a)
c.send(b"12345"); a.send(b"123")
w = new(I4, STREAM); w.connect(("127.0.0.1", 7001))
c = new(I4, STREAM); c.connect(("127.0.0.1", 7001)); a, _ = tcp.accept(); keep.append(a); c.close()
six = new(I6, STREAM); six.bind(("::", 7002)); six.listen(5)
u = new(I4, DGRAM); u.bind(("127.0.0.1", 7003))
v = new(I4, DGRAM); v.connect(("127.0.0.1", 7003)); v.send(b"x" * 100)
u6 = new(I6, DGRAM); u6.bind(("::1", 7004))
l = new(U, STREAM); l.bind(os.environ["DIR"] + "/stream"); l.listen(3)
c = new(U, STREAM); c.connect(os.environ["DIR"] + "/stream"); a, _ = l.accept(); keep.append(a)
d = new(U, DGRAM); d.bind(os.environ["DIR"] + "/new\nline")
x = new(U, SEQ); x.bind("\0hidden \xff name".encode("latin-1")); x.listen(1)
keep.append(socket.socketpair(U, STREAM))
open(os.environ["DIR"] + "/ready", "w").close()
time.sleep(100000)
"#;

fn sockets(agent: &Agent) -> Plain {
    let dir = agent.scratch("sockets");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("sockets.py"), SOCKETS).expect("a script");
    let script = format!(
        "ip link set lo up; cd {0}; DIR=. /usr/bin/env python3 sockets.py & while [ ! -e {0}/ready ]; do sleep 0.01; done",
        dir.display()
    );
    Plain::after(&script, &[])
}

#[test]
fn sockets_are_those_that_ss_lists_field_by_field() {
    let agent = Agent::start();
    let plain = sockets(&agent);
    let ours = list(&ask(&agent, &["sockets", "--tcp", "--udp", &plain.target()]));
    let key = |one: &Value| {
        let end = |end: &Value, otherwise: &str| match end["address"].as_str() {
            Some(ip) if ip.contains(':') => format!("[{ip}]:{}", end["port"]).replace("[::]", "*"),
            Some(ip) => format!("{ip}:{}", end["port"]),
            None => otherwise.to_owned(),
        };
        let owners: BTreeSet<String> = list(&one["owners"])
            .iter()
            .map(|one| {
                format!(
                    "(\"{}\",pid={},fd={})",
                    one["name"].as_str().unwrap_or("?"),
                    one["pid"],
                    one["fd"]
                )
            })
            .collect();
        let local = end(&one["local"], "");
        let none = if local.starts_with("127.") {
            "0.0.0.0:*"
        } else if local.starts_with("[::1]") {
            "[::]:*"
        } else {
            "*:*"
        };
        let state = match one["state"].as_str().unwrap_or_default() {
            "listening" => "LISTEN",
            "established" => "ESTAB",
            "closed" => "UNCONN",
            "close_wait" => "CLOSE-WAIT",
            "fin_wait_2" => "FIN-WAIT-2",
            other => other,
        };
        format!(
            "{} {state} {} {} {local} {} {owners:?}",
            one["protocol"].as_str().unwrap_or("?"),
            one["receive_queue"],
            one["send_queue"],
            end(&one["remote"], none)
        )
    };
    let ours: BTreeSet<String> = ours.iter().map(key).collect();
    let text = tool(&plain, "ss -H -n -a -t -u -p -O");
    let theirs: BTreeSet<String> = text
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let owners = fields.get(6).map_or("", |text| text.trim_start_matches("users:("));
            let owners: BTreeSet<String> = owners
                .trim_end_matches(')')
                .split("),(")
                .filter(|owner| !owner.is_empty())
                .map(|owner| format!("({})", owner.trim_start_matches('(')))
                .collect();
            format!("{} {owners:?}", fields[..6].join(" "))
        })
        .collect();
    assert_eq!(ours, theirs, "{text}");
    assert!(ours.len() >= 9, "{ours:#?}");
    for part in ["tcp LISTEN 1 9 127.0.0.1:7001", "tcp ESTAB 5 0 127.0.0.1:7001", "CLOSE-WAIT"] {
        assert!(ours.iter().any(|line| line.contains(part)), "{part}: {ours:#?}");
    }
    drop(plain);
    agent.finish();
}

#[test]
fn unix_sockets_have_names_ends_and_owners() {
    let agent = Agent::start();
    let plain = sockets(&agent);
    let ours = list(&ask(&agent, &["sockets", "--unix", &plain.target()]));
    let named = |path: &str| {
        let found = ours.iter().find(|one| one["path"] == path && one["state"] != "established");
        found.unwrap_or_else(|| panic!("{path:?} is not among {ours:#?}"))
    };
    let stream = named("./stream");
    assert_eq!(
        (&stream["protocol"], &stream["state"]),
        (&"unix_stream".into(), &"listening".into())
    );
    assert_eq!(
        (stream["receive_queue"].as_u64(), stream["send_queue"].as_u64()),
        (Some(0), Some(3))
    );
    assert_eq!(stream["owners"][0]["name"], "python3");
    assert_eq!(named("./new\nline")["protocol"], "unix_datagram");
    let hidden = named(r"hidden \xff name");
    assert_eq!(
        (&hidden["abstract"], &hidden["protocol"]),
        (&true.into(), &"unix_seqpacket".into())
    );
    // Two ends name one another, and ss(8) sees the same ones.
    let inodes: BTreeMap<u64, u64> = ours
        .iter()
        .filter_map(|one| Some((one["inode"].as_u64()?, one["peer_inode"].as_u64()?)))
        .collect();
    assert_eq!(inodes.len(), 4, "{ours:#?}");
    assert!(inodes.iter().all(|(own, peer)| inodes[peer] == *own));
    let text = tool(&plain, "ss -H -n -a -x -e");
    let theirs = text.lines().filter(|line| line.starts_with("u_")).count();
    assert_eq!(ours.len(), theirs, "{text}");
    let shown = agent.ok(["sockets", "-x", &plain.target()]);
    assert!(shown.contains(r"./new\nline") && shown.contains(r"@hidden \xff name"), "{shown}");
    drop(plain);
    agent.finish();
}

#[test]
fn choices_leave_out_what_was_not_asked_for() {
    let agent = Agent::start();
    let plain = sockets(&agent);
    let target = plain.target();
    let found = |args: &[&str]| -> BTreeSet<(String, String)> {
        let all = list(&ask(&agent, &[&["sockets"], args, &[&target]].concat()));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.iter().map(|one| (text(&one["protocol"]), text(&one["state"]))).collect()
    };
    let of = |pairs: &[(&str, &str)]| -> BTreeSet<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert_eq!(found(&["-tl"]), of(&[("tcp", "listening")]));
    assert_eq!(found(&["-u"]), of(&[("udp", "closed"), ("udp", "established")]));
    assert_eq!(
        found(&["-xl"]),
        of(&[
            ("unix_stream", "listening"),
            ("unix_seqpacket", "listening"),
            ("unix_datagram", "closed")
        ])
    );
    let without = list(&ask(&agent, &["sockets", "--no-owners", &target]));
    assert!(without.iter().all(|one| one["owners"] == Value::Array(Vec::new())));
    agent.api(async |mut api| {
        let of = Some(Target {
            target: Some(target::Target::Process(conti_proto::v1::ProcessId {
                pid: plain.pid,
                start_ticks: 0,
            })),
        });
        let request =
            |protocols| ListSocketsRequest { target: of.clone(), protocols, ..Default::default() };
        let one = vec![SocketProtocol::UnixSeqpacket.into()];
        let mut stream = api.network.list_sockets(request(one)).await.expect("listed").into_inner();
        let mut count = 0;
        while let Some(part) = stream.message().await.expect("a message") {
            count += part.sockets.len();
        }
        assert_eq!(count, 1);
        for bad in [0, 99] {
            let error = api.network.list_sockets(request(vec![1, bad])).await.expect_err("refused");
            assert_eq!(api::faulty_fields(&error), ["protocols[1]"]);
        }
    });
    drop(plain);
    agent.finish();
}

/// A root with one static program: there is nothing inside that could help.
#[test]
fn a_container_with_nothing_inside_shows_its_network() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build_empty(&root);
    let rootfs = format!("dir:{}", root.display());
    agent.ok(["run", "-d", "--name", "c", "--rootfs", &rootfs, "--", "/pause"]);
    let net = ask(&agent, &["net", "c"]);
    let links = list(&net["links"]);
    assert_eq!((links.len(), &links[0]["name"], &links[0]["up"]), (1, &"lo".into(), &true.into()));
    let addresses = list(&net["addresses"]);
    assert!(addresses.iter().any(|one| one["address"] == "127.0.0.1"), "{addresses:?}");
    assert_eq!(ask(&agent, &["sockets", "c"]), Value::Array(Vec::new()));
    // It is still the only process, and nothing holds its namespaces beside it.
    let json = ask(&agent, &["inspect", "c"]);
    let pid = json["pid"].to_string();
    let inode = host::namespace(&pid, "net");
    let all = ask(&agent, &["ns", "ls", "--type", "net", "c"]);
    assert!(inode.contains(&all[0]["inode"].to_string()), "{inode} {all}");
    assert_eq!(all[0]["process_count"], 1);
    assert_eq!(all[0]["holders"], Value::Array(Vec::new()));
    // The host's is another.
    let own: BTreeSet<_> = list(&ask(&agent, &["net", "host"])["links"])
        .iter()
        .map(|one| one["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    let text = Command::new("ip").args(["-j", "link"]).output().expect("ip(8)").stdout;
    let theirs: Value = serde_json::from_slice(&text).expect("JSON");
    let theirs: BTreeSet<_> = list(&theirs)
        .iter()
        .map(|one| one["ifname"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(own, theirs);
    let error = agent.ctl(["net", "nobody"]).run().exits(125).errors();
    assert!(error.contains("there is no container"), "{error}");
    agent.finish();
}

/// Sends links that are none to the ports of whoever asks next.
const LIAR: &str = r#"
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
name = b"liar\0"
attribute = struct.pack("HH", 4 + len(name), 3) + name + b"\0" * 3
link = struct.pack("BBHiII", 0, 0, 1, 666, 1, 0) + attribute
message = struct.pack("IHHII", 16 + len(link), 16, 2, 0, 0) + link
print("ready", flush=True)
while True:
    newest = int(open("/proc/loadavg").read().split()[4])
    for port in range(newest - 1, newest + 12):
        try:
            s.sendto(message, (port, 0))
        except OSError:
            pass
"#;

#[test]
fn what_the_target_says_in_the_kernels_name_is_not_heard() {
    let agent = Agent::start();
    let plain = sockets(&agent);
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &plain.pid.to_string(), "--", "python3", "-c", LIAR]);
    let mut liar = Running::new(command.stdout(Stdio::piped()).spawn().expect("nsenter(1)"));
    let mut line = String::new();
    BufReader::new(liar.stdout()).read_line(&mut line).expect("it says that it is ready");
    for _ in 0..100 {
        let links = list(&ask(&agent, &["net", &plain.target()])["links"]);
        let names: Vec<&str> = links.iter().filter_map(|link| link["name"].as_str()).collect();
        assert_eq!(names, ["lo"]);
    }
    assert!(!liar.ended(), "nobody lied");
    drop((liar, plain));
    agent.finish();
}
