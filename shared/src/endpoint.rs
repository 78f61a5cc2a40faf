//! How the address of an agent is written.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where an agent listens and a client connects unless told otherwise.
pub const DEFAULT: &str = "unix:///run/conti/contid.sock";

/// The port of an agent where none is given.
pub const DEFAULT_PORT: u16 = 7443;

/// The longest path of a socket in bytes: `sun_path` without its closing NUL, see unix(7).
pub const SOCKET_PATH_MAX: usize = 107;

/// The longest name of a host in characters, RFC 1035.
const HOST_MAX: usize = 253;

/// The address of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket, by its absolute path.
    Unix(PathBuf),
    /// Mutual TLS over TCP.
    Tcp(HostPort),
    /// Mutual TLS over a socket between a virtual machine and its host, vsock(7).
    Vsock {
        /// The machine; `u32::MAX` stands for any (VMADDR_CID_ANY).
        cid: u32,
        /// The port.
        port: u32,
    },
    /// `contictl proxy` on the other side, started over the system's ssh. For clients only.
    Ssh {
        /// The user there. `None`: ssh decides.
        user: Option<String>,
        /// The host, or what ssh's own configuration calls it.
        host: String,
        /// The port. `None`: ssh decides.
        port: Option<u16>,
        /// The agent's socket there. `None`: the default.
        socket: Option<PathBuf>,
    },
}

/// A host by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port. To listen on 0 lets the kernel choose one.
    pub port: u16,
}

/// Where an agent is reached from another machine: what an invitation says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// Over TCP.
    Tcp(HostPort),
    /// Over vsock(7).
    Vsock {
        /// The machine, never `any`.
        cid: u32,
        /// The port.
        port: u32,
    },
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is no address of ours.
    #[error(
        "{0:?} is no address of an agent; write unix:///PATH, tcp://HOST[:PORT], vsock://CID:PORT \
         or ssh://[USER@]HOST[:PORT]"
    )]
    Unknown(String),
    /// A part of it cannot be used.
    #[error("{text:?}: {problem}")]
    Part {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Endpoint {
    /// The path of the socket, where it is one.
    pub fn socket_path(&self) -> Option<&Path> {
        match self {
            Endpoint::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// The default socket.
    pub fn default_socket() -> PathBuf {
        PathBuf::from(DEFAULT.trim_start_matches("unix://"))
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Endpoint::Unix(Endpoint::default_socket())
    }
}

impl FromStr for Endpoint {
    type Err = ParseError;

    /// Understands `unix:///absolute/path`, `unix:/absolute/path`, `tcp://HOST[:PORT]`,
    /// `vsock://CID:PORT` and `ssh://[USER@]HOST[:PORT][/absolute/path]`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let part = |problem| ParseError::Part { text: text.to_owned(), problem };
        let unknown = || ParseError::Unknown(text.to_owned());
        let (scheme, rest) = text.split_once(':').ok_or_else(unknown)?;
        let after = || rest.strip_prefix("//").ok_or_else(unknown);
        match scheme {
            "unix" => {
                socket(rest.strip_prefix("//").unwrap_or(rest)).map(Endpoint::Unix).map_err(part)
            }
            "tcp" => after()?.parse().map(Endpoint::Tcp).map_err(part),
            "vsock" => {
                let (cid, port) = vsock(after()?).map_err(part)?;
                Ok(Endpoint::Vsock { cid, port })
            }
            "ssh" => ssh(after()?).map_err(part),
            _ => Err(unknown()),
        }
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    /// Understands `HOST`, `HOST:PORT`, `[IPV6]` and `[IPV6]:PORT`.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (host, port) = split_port(text)?;
        Ok(HostPort { host, port: port.unwrap_or(DEFAULT_PORT) })
    }
}

impl FromStr for Place {
    type Err = &'static str;

    /// Understands what [`HostPort`] does, also behind `tcp://`, and `vsock://CID:PORT`.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix("vsock://").map(vsock) {
            None => match text.strip_prefix("tcp://").unwrap_or(text) {
                place if place.contains("://") => {
                    Err("write HOST[:PORT], tcp://HOST[:PORT] or vsock://CID:PORT")
                }
                place => place.parse().map(Place::Tcp),
            },
            Some(Ok((u32::MAX, _))) => {
                Err("`any` is for who listens: write the CID of one machine")
            }
            Some(parts) => parts.map(|(cid, port)| Place::Vsock { cid, port }),
        }
    }
}

impl From<Place> for Endpoint {
    fn from(place: Place) -> Endpoint {
        match place {
            Place::Tcp(place) => Endpoint::Tcp(place),
            Place::Vsock { cid, port } => Endpoint::Vsock { cid, port },
        }
    }
}

fn socket(path: &str) -> Result<PathBuf, &'static str> {
    if !path.starts_with('/') {
        Err("the path of the socket is not absolute: write unix:///PATH with three slashes")
    } else if path.ends_with('/') {
        Err("the path of the socket names a directory")
    } else if path.contains('\0') {
        Err("the path of the socket holds a NUL byte")
    } else if path.len() > SOCKET_PATH_MAX {
        Err("the path of the socket is longer than the 107 bytes that the kernel allows")
    } else {
        Ok(PathBuf::from(path))
    }
}

fn vsock(text: &str) -> Result<(u32, u32), &'static str> {
    let problem = "write it as vsock://CID:PORT, both numbers; `any` stands for every CID";
    let (cid, port) = text.split_once(':').ok_or(problem)?;
    let cid = if cid == "any" { u32::MAX } else { number(cid).ok_or(problem)? };
    Ok((cid, number(port).ok_or(problem)?))
}

fn ssh(text: &str) -> Result<Endpoint, &'static str> {
    let (place, socket_path) = match text.find('/') {
        Some(at) => (&text[..at], Some(socket(&text[at..])?)),
        None => (text, None),
    };
    let (user, place) = match place.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, place),
    };
    let (host, port) = split_port(place)?;
    // What begins with a dash would be an option to ssh.
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-+".contains(c);
    if user.is_some_and(|user| user.is_empty() || user.starts_with('-') || !user.chars().all(good))
    {
        return Err("the user holds what no user's name holds");
    }
    Ok(Endpoint::Ssh { user: user.map(str::to_owned), host, port, socket: socket_path })
}

/// Takes a host and a port apart.
fn split_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let bracketed = text.strip_prefix('[').map(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some(Some((host, rest))) if host.parse::<std::net::Ipv6Addr>().is_ok() => match rest {
            "" => (host, None),
            rest => (host, Some(rest.strip_prefix(':').ok_or("what follows `]` is no port")?)),
        },
        Some(_) => return Err("what stands in brackets is no IPv6 address"),
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address needs brackets: [ADDRESS]:PORT");
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if host.is_empty() {
        return Err("the host is missing");
    } else if host.len() > HOST_MAX {
        return Err("the host is longer than a name can be");
    } else if bracketed.is_none() && (host.starts_with('-') || !host.chars().all(good)) {
        return Err("the host holds what no name holds");
    }
    let port = match port.map(number::<u16>) {
        Some(None) => return Err("the port is no number from 0 to 65535"),
        Some(port) => port,
        None => None,
    };
    Ok((host.to_owned(), port))
}

/// A decimal number without a sign, which `parse` would take.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bracketed(f, &self.host)?;
        write!(f, ":{}", self.port)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(place) => place.fmt(f),
            Place::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
        }
    }
}

fn bracketed(f: &mut fmt::Formatter<'_>, host: &str) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]") } else { f.write_str(host) }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(place) => write!(f, "tcp://{place}"),
            Endpoint::Vsock { cid: u32::MAX, port } => write!(f, "vsock://any:{port}"),
            Endpoint::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Endpoint::Ssh { user, host, port, socket } => {
                f.write_str("ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                bracketed(f, host)?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                match socket {
                    Some(path) => write!(f, "{}", path.display()),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_is_an_address() {
        assert_eq!(DEFAULT.parse(), Ok(Endpoint::default()));
        assert_eq!(Endpoint::default().to_string(), DEFAULT);
    }

    #[test]
    fn both_ways_to_write_a_socket_mean_the_same() {
        let endpoint: Endpoint = "unix:/run/a.sock".parse().unwrap();
        assert_eq!(endpoint.socket_path(), Some(Path::new("/run/a.sock")));
        assert_eq!(Ok(endpoint), "unix:///run/a.sock".parse());
    }

    #[test]
    fn a_host_has_a_port_by_default_and_an_ipv6_address_has_brackets() {
        let tcp = |host: &str, port| Endpoint::Tcp(HostPort { host: host.to_owned(), port });
        assert_eq!("tcp://web".parse(), Ok(tcp("web", 7443)));
        assert_eq!("tcp://10.0.0.1:1".parse(), Ok(tcp("10.0.0.1", 1)));
        assert_eq!("tcp://[::1]:2".parse(), Ok(tcp("::1", 2)));
        assert_eq!(tcp("::1", 2).to_string(), "tcp://[::1]:2");
    }

    #[test]
    fn ssh_is_written_as_docker_writes_it() {
        let ssh = |user: Option<&str>, port, socket: Option<&str>| Endpoint::Ssh {
            user: user.map(str::to_owned),
            host: "web".into(),
            port,
            socket: socket.map(PathBuf::from),
        };
        assert_eq!("ssh://web".parse(), Ok(ssh(None, None, None)));
        assert_eq!("ssh://me@web:22".parse(), Ok(ssh(Some("me"), Some(22), None)));
        assert_eq!(
            "ssh://me@web/run/a.sock".parse(),
            Ok(ssh(Some("me"), None, Some("/run/a.sock")))
        );
    }

    #[test]
    fn a_place_is_a_host_or_one_machine() {
        for text in ["web:7443", "[::1]:2", "vsock://3:7443"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("vsock://3:1".parse(), Ok(Place::Vsock { cid: 3, port: 1 }));
        // As it is given to `--listen`, and printed by it.
        for (text, place) in
            [("tcp://web:1", "web:1"), ("tcp://[::1]:2", "[::1]:2"), ("tcp://a", "a:7443")]
        {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), place);
        }
        for text in
            ["vsock://any:1", "vsock://4294967295:1", "vsock://3", "tcp://", "tcp://tcp://a"]
        {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
        for text in ["unix:///a", "ssh://web", "https://web:1"] {
            assert!(text.parse::<Place>().unwrap_err().contains("tcp://HOST"), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("unix:///{}", "a".repeat(107));
        for text in [
            "",
            "/run/a.sock",
            "unix:",
            "unix://",
            "unix:a",
            "unix:///",
            "http://a",
            &long,
            "tcp:a",
            "tcp://",
            "tcp://:1",
            "tcp://a:65536",
            "tcp://a:+1",
            "tcp://a:",
            "tcp://a/b",
            "tcp://::1",
            "tcp://[a]:1",
            "tcp://[::1]1",
            "tcp://me@a",
            "vsock://",
            "vsock://1",
            "vsock://a:1",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-x@a",
            "ssh://@a",
            "ssh://a b",
            "ssh://a:b",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            text in "(unix://(/[a-zA-Z0-9._-]{1,10}){1,8})|(tcp://[a-z0-9][a-z0-9.-]{0,9}:[1-9][0-9]{0,3})\
                |(vsock://[0-9]:[0-9]{1,4})|(ssh://([a-z]{1,4}@)?[a-z]{1,8}(:[1-9][0-9]{0,3})?(/[a-z]{1,4})?)"
        ) {
            let endpoint: Endpoint = text.parse().unwrap();
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            for scheme in ["", "unix:", "tcp://", "ssh://", "vsock://", "tcp://["] {
                let _ = format!("{scheme}{text}").parse::<Endpoint>();
            }
        }
    }
}
