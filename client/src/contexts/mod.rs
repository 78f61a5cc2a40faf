//! Contexts: the agents that this user knows by a name.
//!
//! `config.toml` in the user's own configuration directory says where each of them is and which files
//! prove who is who; [`files`] keeps it, and what `join` got, in a directory that is nobody else's.
//! [`certificate`] reads what a certificate says, and [`request`] asks for one.

pub mod certificate;
pub mod files;
pub mod request;

use std::{collections::BTreeMap, path::PathBuf};

use conti_shared::endpoint::{Endpoint, Place};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    connect::tls::Material,
    contexts::files::Store,
    error::{Error, Result},
};

/// The longest name of a context: that of a file, with room for what is put around it.
const NAME_MAX: usize = 200;

/// All contexts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Contexts {
    /// The one that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The contexts by their names.
    #[serde(default)]
    pub contexts: BTreeMap<String, Entry>,
}

/// One context. Paths are absolute, or relative to the directory of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where the agent is.
    #[serde(serialize_with = "write_endpoint", deserialize_with = "read_endpoint")]
    pub host: Endpoint,
    /// The name that the agent's certificate must have. `None`: the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// The certificates of the authorities that agents' certificates come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// This client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

fn write_endpoint<S: Serializer>(endpoint: &Endpoint, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(endpoint)
}

fn read_endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

impl Entry {
    /// An agent without any files.
    pub fn new(host: Endpoint) -> Entry {
        Entry { host, tls_server_name: None, ca: None, certificate: None, key: None }
    }

    /// The files, by their absolute paths.
    pub fn material(&self, store: &Store) -> Material {
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(|path| store.path(path));
        Material {
            authorities: absolute(&self.ca),
            certificate: absolute(&self.certificate),
            key: absolute(&self.key),
            server_name: self.tls_server_name.clone(),
        }
    }
}

impl Contexts {
    /// The context of a name.
    pub fn get(&self, name: &str) -> Result<&Entry> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            Error::Usage(match known.as_slice() {
                [] => format!(
                    "there is no context {name:?}, and no other: `contictl join` and `contictl \
                     context add` make them"
                ),
                _ => format!("there is no context {name:?}; there are {}", known.join(", ")),
            })
        })
    }

    /// Complains of a name that is taken.
    pub fn check_free(&self, name: &str) -> Result<()> {
        if self.contexts.contains_key(name) {
            return Err(Error::Usage(format!(
                "there is a context {name:?} already: `contictl context rm {name}` removes it, \
                 --context names the new one otherwise"
            )));
        }
        Ok(())
    }
}

/// Where the agent of a context is, and the files that belong to it; without a name those of the current
/// one, where there is one.
pub fn find(name: Option<&str>) -> Result<Option<(Endpoint, Material)>> {
    let store = match Store::of_user() {
        Ok(store) => store,
        // Who has no home has no contexts.
        Err(_) if name.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    let contexts = store.load()?;
    let Some(name) = name.or(contexts.current.as_deref()) else { return Ok(None) };
    let entry = contexts.get(name)?;
    Ok(Some((entry.host.clone(), entry.material(&store))))
}

/// Checks the name of a context, which is also that of a directory.
pub fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    let first = name.chars().next();
    if !first.is_some_and(|c| c.is_ascii_alphanumeric())
        || name.len() > NAME_MAX
        || !name.chars().all(good)
    {
        return Err(Error::Usage(format!(
            "{name:?} cannot be the name of a context: it needs 1 to {NAME_MAX} characters of \
             `a-z A-Z 0-9 _ . @ -`, the first a letter or a digit"
        )));
    }
    Ok(())
}

/// The name of a context for a host: its own, as far as a context can be called so. A machine has but a number.
pub fn name_for(place: &Place) -> String {
    let host = match place {
        Place::Tcp(place) => &place.host,
        Place::Vsock { cid, .. } => &format!("vsock-{cid}"),
    };
    let name: String = host.chars().map(|c| if c == ':' { '-' } else { c }).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    name.chars().take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_gives_a_name_that_a_context_can_have() {
        for (place, name) in [
            ("web", "web"),
            ("10.0.0.1", "10.0.0.1"),
            ("[::1]", "1"),
            ("vsock://3:7443", "vsock-3"),
        ] {
            assert_eq!(name_for(&place.parse().unwrap()), name);
            check_name(name).unwrap();
        }
        for name in ["", "a/b", "../x", ".", "-x", "a b", "a:b", "ä", &"x".repeat(201)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let entry = Entry {
            host: "tcp://web:7443".parse().unwrap(),
            tls_server_name: None,
            ca: Some("certificates/web/authority.pem".into()),
            certificate: Some("/own/cert.pem".into()),
            key: None,
        };
        let contexts = Contexts {
            current: Some("web".to_owned()),
            contexts: [("web.example".to_owned(), entry)].into(),
        };
        let text = toml::to_string(&contexts).unwrap();
        let back: Contexts = toml::from_str(&text).unwrap();
        assert_eq!(back.current, contexts.current);
        assert_eq!(back.contexts, contexts.contexts);
        assert!(toml::from_str::<Contexts>("[contexts.a]\nhost = 'nowhere'").is_err());
    }
}
