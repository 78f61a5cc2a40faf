//! Fuzz targets: what callers send before and after they are known, and the kernel's messages on their way to them.

use bytes::Bytes;
use conti_fuzz::target;
use conti_proto::{METHODS, v1};
use http::{HeaderMap, HeaderValue};
use prost::Message;

use super::{
    access, audit,
    convert::{Field, checked, container, network as told, session},
    page::Place,
    traceparent::Traceparent,
};
use crate::{
    engine::network::{NetworkPart, SocketProtocol, SocketsPart, part, socket},
    redact::Arguments,
};

#[test]
fn fuzz_page_token() {
    let token = "00000000000000000000000000000001f0123456789abcdef0123456789abcde";
    target("page_token").seeds(|| vec![token.as_bytes().to_vec()]).check(|bytes| {
        let token = String::from_utf8_lossy(bytes);
        if let Some(place) = Place::parse(&token) {
            assert_eq!(place.token(), token);
        }
    });
}

#[test]
fn fuzz_headers() {
    let samples = || {
        vec![
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_vec(),
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later".to_vec(),
            b"YmVjYXVzZQ==".to_vec(),
        ]
    };
    target("headers").seeds(samples).check(|bytes| {
        if let Some(trace) = Traceparent::parse(bytes) {
            let again = format!("00-{}-{}-00", trace.trace_id, trace.span_id);
            let again = Traceparent::parse(again.as_bytes());
            assert_eq!(again, Some(Traceparent { sampled: false, ..trace }));
        }
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        let mut headers = HeaderMap::new();
        headers.insert("conti-reason-bin", value);
        if let Ok(Some(reason)) = audit::reason(&headers) {
            assert!(!reason.is_empty() && reason.len() <= bytes.len());
        }
    });
}

/// A request of a stream and of a container, with much in them.
fn requests() -> Vec<Vec<u8>> {
    use v1::{mount::Source, stream_request::Message as Sent};
    let mount = v1::Mount {
        target: "/x".into(),
        source: Some(Source::Bind(v1::BindMount { source: "/srv".into(), ..Default::default() })),
        ..Default::default()
    };
    let process = v1::ProcessSpec {
        argv: vec!["sh".into(), "-c".into(), "x --token y".into()],
        env: [("A".into(), "b".into())].into(),
        ..Default::default()
    };
    let container = v1::ContainerSpec {
        name: "box".into(),
        process: Some(process.clone()),
        mounts: vec![mount.clone()],
        labels: [("team".into(), "a".into())].into(),
        ..Default::default()
    };
    let session = v1::SessionSpec { process: Some(process), ..Default::default() };
    let open = v1::StreamOpen {
        open: Some(v1::stream_open::Open::Start(session.clone())),
        ..Default::default()
    };
    vec![
        container.encode_to_vec(),
        session.encode_to_vec(),
        v1::CreateContainerRequest { spec: Some(container), ..Default::default() }.encode_to_vec(),
        v1::StreamRequest { message: Some(Sent::Open(open)) }.encode_to_vec(),
        v1::CreateMountRequest { mount: Some(mount), ..Default::default() }.encode_to_vec(),
    ]
}

/// The audit log reads requests before anybody else does, whatever they are said to be.
#[test]
fn fuzz_audited_request() {
    target("audited_request").seeds(requests).runs(300).memory(8192).fixed_memory(16 << 20).check(
        |bytes| {
            for (path, _) in METHODS {
                let known = audit::known(path, access::least(path));
                let (subject, _) = audit::subject_of(path, bytes, known, Arguments::Redacted);
                let line = serde_json::to_vec(&subject).expect("plain data");
                assert!(!line.contains(&b'\n'));
            }
        },
    );
}

#[test]
fn fuzz_request() {
    target("request").seeds(requests).memory(512).fixed_memory(256 << 10).check(|bytes| {
        if let Ok(message) = v1::ContainerSpec::decode(bytes) {
            let spec = checked(|v| container::container(v, Field::root("spec"), Some(message)));
            match spec {
                // No text of a plan holds a NUL: execve(2) and mount(2) would end it there.
                Ok(spec) => {
                    assert!(!serde_json::to_string(&spec).expect("plain data").contains("\\u0000"));
                }
                Err(problems) => assert!(problems.total() > 0 && !problems.named().is_empty()),
            }
        }
        if let Ok(message) = v1::SessionSpec::decode(bytes) {
            let spec = checked(|v| session::session(v, Field::root("spec"), Some(message)));
            assert!(spec.err().is_none_or(|problems| !problems.named().is_empty()));
        }
    });
}

/// The head of a message in HTTP/2, before its caller is known to be allowed anything.
#[test]
fn fuzz_first_message() {
    let samples = || vec![b"\0\0\0\0\x03abcdef".to_vec(), b"\x01\0\0\0\x01a".to_vec(), vec![0; 5]];
    target("first_message").seeds(samples).check(|bytes| {
        let content = audit::content(Bytes::copy_from_slice(bytes));
        assert!(content.is_empty() || bytes[5..].starts_with(&content));
    });
}

/// Names and addresses in it are chosen by whoever administers a network namespace.
#[test]
fn fuzz_netlink_route() {
    target("netlink_route").seeds(samples::routes).memory(256).fixed_memory(256 << 10).check(
        |bytes| match part(bytes) {
            Some(NetworkPart::Link(link)) => drop(told::link(link).encode_to_vec()),
            Some(NetworkPart::Address(address)) => drop(told::address(address).encode_to_vec()),
            Some(NetworkPart::Route(route)) => drop(told::route(route).encode_to_vec()),
            Some(NetworkPart::Neighbour(one)) => drop(told::neighbour(one).encode_to_vec()),
            Some(NetworkPart::Disturbed) | None => {}
        },
    );
}

#[test]
fn fuzz_netlink_sockets() {
    target("netlink_sockets").seeds(samples::sockets).memory(256).fixed_memory(256 << 10).check(
        |bytes| {
            let asked = [SocketProtocol::Tcp, SocketProtocol::Udp, SocketProtocol::Unix];
            if let Some(SocketsPart::Socket(found, owners)) = socket(bytes, &asked, |_| Vec::new())
            {
                drop(told::socket(found, owners).encode_to_vec());
            }
        },
    );
}

/// Real answers of the kernel about a network namespace of their own.
mod samples {
    use std::num::NonZeroU32;

    use rustix::net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
        socket_with,
    };

    use crate::engine::network::{SocketProtocol, route_requests, socket_requests};

    pub fn routes() -> Vec<Vec<u8>> {
        route_requests()
            .iter()
            .flat_map(|question| dump(None, question).into_iter().take(2))
            .collect()
    }

    pub fn sockets() -> Vec<Vec<u8>> {
        // Something to be found: a socket of each kind.
        let _tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let _udp = std::net::UdpSocket::bind("[::1]:0")
            .or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0"));
        let _unix = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        let protocol = NonZeroU32::new(4).map(Protocol::from_raw);
        let asked = SocketProtocol::ALL.into_iter().zip(0..);
        let asked = asked.flat_map(|(protocol, n)| socket_requests(protocol, false, n));
        asked
            .collect::<Vec<_>>()
            .iter()
            .flat_map(|question| dump(protocol, question).into_iter().take(2))
            .collect()
    }

    /// The messages of a dump, without the one that ends it.
    fn dump(protocol: Option<Protocol>, question: &[u8]) -> Vec<Vec<u8>> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol);
        let socket = socket.expect("a netlink socket");
        send(&socket, question, SendFlags::empty()).expect("asked");
        let mut buffer = vec![0; 256 * 1024];
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).expect("an answer");
        let (mut rest, mut messages) = (&buffer[..length], Vec::new());
        while rest.len() >= 16 {
            let total = u32::from_ne_bytes(rest[..4].try_into().expect("four bytes")) as usize;
            // NLMSG_ERROR and NLMSG_DONE
            if !matches!(u16::from_ne_bytes([rest[4], rest[5]]), 2 | 3) {
                messages.push(rest[..total].to_vec());
            }
            rest = rest.get(total.next_multiple_of(4)..).unwrap_or_default();
        }
        messages
    }
}
