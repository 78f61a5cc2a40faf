//! Namespaces: `--ns TYPE=MODE`, `--uid-map` and `--gid-map`.

use conti_proto::v1::{IdMapping, Namespace, NamespaceMode, Namespaces};

/// A type of namespace with whose it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    kind: Kind,
    namespace: Namespace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mount,
    Pid,
    Uts,
    Ipc,
    Net,
    Cgroup,
    User,
    Time,
}

/// Reads `TYPE=private`, `TYPE=host` or `TYPE=container:NAME`.
pub fn choice(text: &str) -> Result<Choice, String> {
    let (kind, mode) = text.split_once('=').ok_or("write TYPE=host, e.g. net=host")?;
    let kind = match kind {
        "mount" | "mnt" => Kind::Mount,
        "pid" => Kind::Pid,
        "uts" => Kind::Uts,
        "ipc" => Kind::Ipc,
        "net" | "network" => Kind::Net,
        "cgroup" => Kind::Cgroup,
        "user" => Kind::User,
        "time" => Kind::Time,
        _ => {
            return Err(format!(
                "there is no type of namespace {kind:?}; the types are mount, pid, uts, ipc, net, \
                 cgroup, user and time"
            ));
        }
    };
    let (mode, container) = match (mode, mode.strip_prefix("container:")) {
        ("private", _) => (NamespaceMode::Private, ""),
        ("host", _) => (NamespaceMode::Host, ""),
        (_, Some(container)) if !container.is_empty() => (NamespaceMode::Container, container),
        _ => {
            return Err(format!("{mode:?} is none of private, host and container:NAME"));
        }
    };
    let namespace = Namespace { mode: mode.into(), container: container.to_owned() };
    Ok(Choice { kind, namespace })
}

impl Choice {
    /// Whether it is about the user namespace.
    pub fn is_of_users(&self) -> bool {
        self.kind == Kind::User
    }
}

/// Reads `auto`, `host` or `container:NAME`.
pub fn userns(text: &str) -> Result<Choice, String> {
    match text {
        "auto" => choice("user=private"),
        "host" => choice("user=host"),
        _ if text.starts_with("container:") => choice(&format!("user={text}")),
        _ => Err("write auto, host or container:NAME".to_owned()),
    }
}

/// Reads `INSIDE:OUTSIDE:COUNT`.
pub fn id_map(text: &str) -> Result<IdMapping, String> {
    let wrong = || "write INSIDE:OUTSIDE:COUNT, e.g. 0:100000:65536".to_owned();
    let numbers: Vec<u32> =
        text.split(':').map(|n| n.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    match numbers[..] {
        [inside, outside, count] => Ok(IdMapping { inside, outside, count }),
        _ => Err(wrong()),
    }
}

/// All choices together. None where nothing was chosen.
pub fn namespaces(
    choices: Vec<Choice>,
    uid_mappings: Vec<IdMapping>,
    gid_mappings: Vec<IdMapping>,
) -> Option<Namespaces> {
    if choices.is_empty() && uid_mappings.is_empty() && gid_mappings.is_empty() {
        return None;
    }
    let mut all = Namespaces { uid_mappings, gid_mappings, ..Namespaces::default() };
    for Choice { kind, namespace } in choices {
        let place = match kind {
            Kind::Mount => &mut all.mount,
            Kind::Pid => &mut all.pid,
            Kind::Uts => &mut all.uts,
            Kind::Ipc => &mut all.ipc,
            Kind::Net => &mut all.net,
            Kind::Cgroup => &mut all.cgroup,
            Kind::User => &mut all.user,
            Kind::Time => &mut all.time,
        };
        *place = Some(namespace);
    }
    if all.user.is_none() && !(all.uid_mappings.is_empty() && all.gid_mappings.is_empty()) {
        all.user = Some(Namespace { mode: NamespaceMode::Private.into(), ..Namespace::default() });
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_type_can_be_chosen() {
        for kind in ["mount", "pid", "uts", "ipc", "net", "cgroup", "user", "time"] {
            assert!(choice(&format!("{kind}=host")).is_ok());
        }
        let joined = choice("net=container:web").unwrap();
        assert_eq!(joined.namespace.container, "web");
        for text in ["", "net", "net=", "net=container:", "net=other", "disk=host", "=host"] {
            assert!(choice(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_private_user_namespace_has_the_map_that_is_given_or_leaves_it_to_the_agent() {
        let all = namespaces(vec![choice("user=private").unwrap()], vec![], vec![]).unwrap();
        assert_eq!((all.uid_mappings, all.gid_mappings), (vec![], vec![]));
        let own = id_map("0:5:1").unwrap();
        let all = namespaces(vec![choice("user=private").unwrap()], vec![own], vec![own]).unwrap();
        assert_eq!(all.uid_mappings, [own]);
        // A map says that there is to be one.
        let all = namespaces(vec![], vec![own], vec![own]).unwrap();
        assert_eq!(all.user.unwrap().mode(), NamespaceMode::Private);
        assert_eq!(namespaces(vec![], vec![], vec![]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = (choice(&text), id_map(&text), choice(&format!("net={text}")));
        }
    }
}
