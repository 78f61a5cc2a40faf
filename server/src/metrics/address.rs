//! Where metrics may be served: only to this machine, because they ask nobody who they are.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use conti_shared::endpoint::Endpoint;

/// An address that nobody from elsewhere can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, by its absolute path. For root and the agent's own user.
    Unix(PathBuf),
    /// A loopback address and a port; 0: any port that is free. For every user of the machine.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    /// Understands `unix:///PATH` and `tcp://ADDRESS:PORT`, the address in numbers.
    fn from_str(text: &str) -> Result<Address, String> {
        let Some(place) = text.strip_prefix("tcp://") else {
            return match text.parse() {
                Ok(Endpoint::Unix(path)) => Ok(Address::Unix(path)),
                Ok(_) => Err(format!("{text:?}: {ONLY}")),
                Err(_) if !text.starts_with("unix:") => Err(format!("{text:?}: {ONLY}")),
                Err(error) => Err(error.to_string()),
            };
        };
        match place.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Address::Tcp(address)),
            // A name may come to mean another address.
            _ => Err(format!("{text:?}: {ONLY}")),
        }
    }
}

/// What can be given.
const ONLY: &str = "whoever reaches metrics may read them, so that only unix:///PATH, tcp://127.0.0.1:PORT \
                    or tcp://[::1]:PORT can be given";

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_taken_and_written_as_they_were() {
        for text in
            ["unix:///run/m.sock", "tcp://127.0.0.1:9100", "tcp://127.8.0.1:0", "tcp://[::1]:1"]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_others_could_reach_is_refused_with_what_can_be_given() {
        for text in [
            "tcp://0.0.0.0:9100",
            "tcp://[::]:9100",
            "tcp://10.0.0.1:9100",
            // An address of version 4 in the clothes of version 6: not what is_loopback means.
            "tcp://[::ffff:10.0.0.1]:1",
            "tcp://localhost:9100",
            "tcp://127.0.0.1",
            "tcp://",
            "vsock://2:1",
            "ssh://host",
            "127.0.0.1:9100",
            "http://127.0.0.1:9100",
            "",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("tcp://127.0.0.1:PORT"), "{text:?}: {error}");
        }
        let error = "unix://relative".parse::<Address>().unwrap_err();
        assert!(error.contains("not absolute"), "{error}");
    }
}
