//! How the address of an agent is written.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where an agent listens and a client connects unless told otherwise.
pub const DEFAULT: &str = "unix:///run/conti/contid.sock";

/// The longest path of a socket in bytes: `sun_path` without its closing NUL, see unix(7).
pub const SOCKET_PATH_MAX: usize = 107;

/// The address of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket, by its absolute path.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The scheme is known, but not yet served.
    #[error(
        "{text:?}: {scheme}:// is not there yet; use unix:///PATH, and for another machine \
         forward its socket, e.g. with `ssh -L`"
    )]
    NotYet {
        /// What was given.
        text: String,
        /// Its scheme.
        scheme: &'static str,
    },
    /// It is no address of ours.
    #[error("{0:?} is no address of an agent; write it as unix:///absolute/path")]
    Unknown(String),
    /// The path of the socket cannot be used.
    #[error("{text:?}: the path of the socket {problem}")]
    Path {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Endpoint {
    /// The path of the socket.
    pub fn socket_path(&self) -> &Path {
        let Endpoint::Unix(path) = self;
        path
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Endpoint::Unix(PathBuf::from(DEFAULT.trim_start_matches("unix://")))
    }
}

impl FromStr for Endpoint {
    type Err = ParseError;

    /// Understands `unix:///absolute/path` and `unix:/absolute/path`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        for scheme in ["tcp", "ssh", "vsock"] {
            if text.strip_prefix(scheme).is_some_and(|rest| rest.starts_with("://")) {
                return Err(ParseError::NotYet { text: text.to_owned(), scheme });
            }
        }
        let rest =
            text.strip_prefix("unix:").ok_or_else(|| ParseError::Unknown(text.to_owned()))?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let problem = |problem| Err(ParseError::Path { text: text.to_owned(), problem });
        if !path.starts_with('/') {
            problem("is not absolute: write unix:///PATH with three slashes")
        } else if path.ends_with('/') {
            problem("names a directory")
        } else if path.contains('\0') {
            problem("holds a NUL byte")
        } else if path.len() > SOCKET_PATH_MAX {
            problem("is longer than the 107 bytes that the kernel allows")
        } else {
            Ok(Endpoint::Unix(PathBuf::from(path)))
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint::Unix(path) = self;
        write!(f, "unix://{}", path.display())
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
        assert_eq!(endpoint.socket_path(), Path::new("/run/a.sock"));
        assert_eq!(Ok(endpoint), "unix:///run/a.sock".parse());
    }

    #[test]
    fn other_schemes_say_that_they_are_not_there_yet() {
        for text in ["tcp://host:1", "ssh://me@host", "vsock://3:1"] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains("not there yet"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("unix:///{}", "a".repeat(107));
        for text in ["", "/run/a.sock", "unix:", "unix://", "unix:a", "unix:///", "http://a", &long]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(path in "(/[a-zA-Z0-9._-]{1,10}){1,8}") {
            let endpoint = Endpoint::Unix(PathBuf::from(path));
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = text.parse::<Endpoint>();
            let _ = format!("unix:{text}").parse::<Endpoint>();
        }
    }
}
