//! What the machine's owner grants to whom: a TOML file.
//!
//! ```toml
//! [operator]                        # what every operator may have of the host
//! mounts = ["/srv/shared"]          # directories that may be mounted, with all below them
//! rootfs = ["/srv/roots"]           # directories whose directories may be root filesystems
//! capabilities = ["NET_ADMIN"]      # beyond the default set
//! devices = ["/dev/fuse"]
//! host_user_namespace = true        # containers without a user namespace of their own
//!
//! [[caller]]                        # the first one that fits counts
//! identity = "alice"                # a common name or SPIFFE id; a final * stands for any rest
//! role = "operator"
//! labels = { team = "blue" }        # it sees and makes only containers with these
//! mounts = ["/srv/blue"]            # in place of those of all operators
//!
//! [[caller]]
//! uid = 1000                        # a local user, or `gid` for a primary group
//! role = "viewer"
//!
//! [certificates]
//! roles = false                     # the organisational unit of a certificate gives no role
//!
//! [audit]
//! calls = "all"                     # every call; else what changes something or looks at the host
//! arguments = "hashed"              # of a command its program and a hash; else without what looks like a secret
//! on_failure = "allow"              # what cannot be recorded is carried out all the same
//! max_bytes = 67108864              # of one file
//! keep = 10                         # full files
//!
//! [reason]
//! required_for = ["operator"]       # who has to give a reason (`contictl --reason`) to do more than look
//!
//! [recording]
//! sessions = "terminal"             # or "all", or "none": only those whose client asks for it
//! input = true                      # what is typed too, passwords and all
//! ```
//!
//! Root and the agent's own user are admins whatever stands in it: they could change it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use conti_runtime::own;
use conti_shared::{name, text::is_deceptive};
use serde::Deserialize;

use super::{
    Caller, Identity, Peer, Role, powers,
    records::{Audit, Reasons, Recording},
};
use crate::engine::{
    capability,
    scope::{Bounds, Scope},
};

/// The largest policy that is read.
const FILE_MAX: u64 = 1 << 20;

/// What the machine's owner grants to whom.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What every operator may have of the host.
    #[serde(default)]
    operator: Granted,
    /// Who is who. The first that fits counts.
    #[serde(default, rename = "caller")]
    callers: Vec<Entry>,
    #[serde(default)]
    certificates: Certificates,
    /// What stands in the audit log.
    #[serde(default)]
    pub audit: Audit,
    #[serde(default)]
    reason: Reasons,
    /// Which sessions are recorded.
    #[serde(default)]
    pub recording: Recording,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Granted {
    mounts: Option<Vec<PathBuf>>,
    rootfs: Option<Vec<PathBuf>>,
    capabilities: Option<Vec<String>>,
    devices: Option<Vec<PathBuf>>,
    host_user_namespace: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    identity: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    role: Option<Role>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    mounts: Option<Vec<PathBuf>>,
    rootfs: Option<Vec<PathBuf>>,
    capabilities: Option<Vec<String>>,
    devices: Option<Vec<PathBuf>>,
    host_user_namespace: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificates {
    roles: bool,
}

impl Default for Certificates {
    fn default() -> Self {
        Certificates { roles: true }
    }
}

/// What a caller that is no admin may have of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// The directories that sources of mounts and root filesystems lie in.
    pub bounds: Bounds,
    /// Capabilities beyond the default set: bit N stands for capability N.
    pub capabilities: u64,
    /// Device nodes.
    pub devices: Vec<PathBuf>,
    /// Whether its containers may have the ids of the host.
    pub host_user_namespace: bool,
}

/// The policy as it is now. Clones share it.
#[derive(Debug, Clone)]
pub struct CurrentPolicy(Arc<RwLock<Arc<Policy>>>);

impl CurrentPolicy {
    /// Begins with a policy.
    pub fn new(policy: Policy) -> CurrentPolicy {
        CurrentPolicy(Arc::new(RwLock::new(Arc::new(policy))))
    }

    /// The policy at this moment.
    pub fn now(&self) -> Arc<Policy> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in its place: the next call is decided by it.
    pub fn replace(&self, policy: Policy) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the policy {}: {problem}", path.display())]
pub struct PolicyError {
    /// The file.
    path: PathBuf,
    /// What is wrong.
    problem: String,
}

impl Policy {
    /// Reads a policy.
    pub fn load(path: &Path) -> Result<Policy, PolicyError> {
        let read = || -> Result<Policy, String> {
            let text = own::read_named_to_string(path, FILE_MAX);
            Policy::parse(&text.map_err(|error| error.to_string())?)
        };
        read().map_err(|problem| PolicyError { path: path.to_owned(), problem })
    }

    /// Reads a policy from its text.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = toml::from_str(text).map_err(|error| error.to_string())?;
        policy.operator.check().map_err(|problem| format!("[operator]: {problem}"))?;
        for (index, entry) in policy.callers.iter().enumerate() {
            entry.check().map_err(|problem| format!("[[caller]] {}: {problem}", index + 1))?;
        }
        policy.check_devices()?;
        policy.audit.check().map_err(|problem| format!("[audit]: {problem}"))?;
        Ok(policy)
    }

    /// Refuses a device below a granted directory: whoever has the directory could replace it.
    fn check_devices(&self) -> Result<(), String> {
        let Granted { mounts, rootfs, devices, .. } = &self.operator;
        let (mut directories, mut all) = (vec![mounts, rootfs], vec![devices]);
        for Entry { mounts, rootfs, devices, .. } in &self.callers {
            directories.extend([mounts, rootfs]);
            all.push(devices);
        }
        let directories: Vec<&PathBuf> = directories.into_iter().flatten().flatten().collect();
        for device in all.into_iter().flatten().flatten() {
            if let Some(directory) = directories.iter().find(|one| device.starts_with(one)) {
                return Err(format!(
                    "the device {} lies in {}, which is granted as a directory: another device could be put in its place",
                    device.display(),
                    directory.display()
                ));
            }
        }
        Ok(())
    }

    /// What the machine's owner should know of this policy: grants that make whoever has them root of the host.
    pub fn warnings(&self) -> Vec<String> {
        let callers = self.callers.iter().enumerate().map(|(index, entry)| {
            (format!("[[caller]] {}", index + 1), entry.role, &entry.capabilities)
        });
        let operators = ("[operator]".to_owned(), None, &self.operator.capabilities);
        let granted = std::iter::once(operators).chain(callers);
        let warn = |(place, role, capabilities): (String, Option<Role>, &Option<Vec<String>>)| {
            // What an admin is granted adds nothing to what it is.
            let set = match role {
                Some(Role::Admin) => 0,
                _ => set_of(capabilities.as_deref()),
            };
            powers::warnings(set).into_iter().map(move |text| format!("{place}: {text}"))
        };
        granted.flat_map(warn).collect()
    }

    /// Whether a caller of this role has to say why it does more than look.
    pub fn requires_reason(&self, role: Role) -> bool {
        self.reason.required_for.contains(&role)
    }

    /// Whether local users but root and the agent's own may connect.
    pub fn knows_local_users(&self) -> bool {
        self.callers.iter().any(|entry| entry.uid.is_some() || entry.gid.is_some())
    }

    /// Who a peer is to this policy. `None`: it may do nothing.
    pub fn caller(&self, peer: &Arc<Peer>) -> Option<Caller> {
        let own = rustix::process::geteuid().as_raw();
        let entry = self.callers.iter().find(|entry| entry.fits(&peer.identity));
        let role = match &peer.identity {
            Identity::Local { uid, .. } if *uid == 0 || *uid == own => {
                return Some(Caller {
                    peer: peer.clone(),
                    role: Role::Admin,
                    scope: Scope::default(),
                    grants: Arc::default(),
                    recording: self.recording,
                });
            }
            Identity::Local { .. } => entry?.role?,
            Identity::Certificate(certificate) => entry
                .and_then(|entry| entry.role)
                .or(certificate.role.filter(|_| self.certificates.roles))?,
            Identity::Guest => return None,
        };
        let scope = entry.map(|entry| Scope(entry.labels.clone())).unwrap_or_default();
        let grants = Arc::new(self.grants(entry));
        Some(Caller { peer: peer.clone(), role, scope, grants, recording: self.recording })
    }

    fn grants(&self, entry: Option<&Entry>) -> Grants {
        let operator = &self.operator;
        let paths = |own: Option<&Vec<PathBuf>>, all: &Option<Vec<PathBuf>>| {
            own.or(all.as_ref()).cloned().unwrap_or_default()
        };
        let capabilities = entry.and_then(|e| e.capabilities.as_ref());
        let capabilities = capabilities.or(operator.capabilities.as_ref());
        Grants {
            bounds: Bounds {
                mounts: paths(entry.and_then(|e| e.mounts.as_ref()), &operator.mounts),
                rootfs: paths(entry.and_then(|e| e.rootfs.as_ref()), &operator.rootfs),
            },
            capabilities: set_of(capabilities.map(Vec::as_slice)),
            devices: paths(entry.and_then(|e| e.devices.as_ref()), &operator.devices),
            host_user_namespace: entry
                .and_then(|e| e.host_user_namespace)
                .or(operator.host_user_namespace)
                .unwrap_or(false),
        }
    }
}

/// The capabilities that are named, all of which are known.
fn set_of(names: Option<&[String]>) -> u64 {
    let known = names.unwrap_or_default().iter().filter_map(|name| capability::parse(name));
    known.fold(0, |set, one| set | one)
}

impl Granted {
    fn check(&self) -> Result<(), String> {
        check(&self.mounts, &self.rootfs, &self.devices, &self.capabilities)
    }
}

impl Entry {
    fn check(&self) -> Result<(), String> {
        let said = [self.identity.is_some(), self.uid.is_some(), self.gid.is_some()];
        if said.iter().filter(|said| **said).count() != 1 {
            return Err("give exactly one of `identity`, `uid` and `gid`".to_owned());
        }
        if self.identity.as_deref().is_some_and(|name| name.chars().any(is_deceptive)) {
            return Err(format!("`identity` {:?} has characters that are not seen", self.identity));
        }
        if self.role.is_none() && self.identity.is_none() {
            return Err("a local user or group needs a `role`".to_owned());
        }
        if self.role == Some(Role::Admin) && !self.labels.is_empty() {
            return Err("an admin sees all containers: `labels` cannot limit it".to_owned());
        }
        for (label, value) in &self.labels {
            name::check_label_name(label)
                .map_err(|problem| format!("label {label:?} {problem}"))?;
            name::check_label_value(value)
                .map_err(|problem| format!("the value of label {label:?} {problem}"))?;
        }
        check(&self.mounts, &self.rootfs, &self.devices, &self.capabilities)
    }

    fn fits(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Local { uid, gid, .. } => self.uid == Some(*uid) || self.gid == Some(*gid),
            Identity::Certificate(certificate) => {
                self.identity.as_deref().is_some_and(|wanted| match wanted.strip_suffix('*') {
                    Some(start) => certificate.name.starts_with(start),
                    None => certificate.name == wanted,
                })
            }
            Identity::Guest => false,
        }
    }
}

fn check(
    mounts: &Option<Vec<PathBuf>>,
    rootfs: &Option<Vec<PathBuf>>,
    devices: &Option<Vec<PathBuf>>,
    capabilities: &Option<Vec<String>>,
) -> Result<(), String> {
    for path in [mounts, rootfs, devices].into_iter().flatten().flatten() {
        let plain = path.components().all(|part| {
            !matches!(part, std::path::Component::ParentDir | std::path::Component::CurDir)
        });
        if !path.is_absolute() || !plain || path == Path::new("/") {
            return Err(format!(
                "{} is no absolute path without `..`, or it is `/`, which would grant all",
                path.display()
            ));
        }
        // Devices are opened by their names; /dev is the host's own.
        if let Ok(real) = own::canonicalize(path)
            && real != *path
            && !path.starts_with("/dev")
        {
            let (path, real) = (path.display(), real.display());
            return Err(format!("{path} leads through a link to {real}: name that"));
        }
    }
    match capabilities.iter().flatten().find(|name| capability::parse(name).is_none()) {
        Some(name) => Err(format!("{name:?} is no capability")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::access::{
        Certificate,
        records::{AuditedArguments, AuditedCalls, OnAuditFailure},
    };

    fn local(uid: u32, gid: u32) -> Arc<Peer> {
        let identity = Identity::Local { uid, gid, pid: None };
        Arc::new(Peer { identity, address: "unix".into() })
    }

    fn certificate(name: &str, role: Option<Role>) -> Arc<Peer> {
        let (name, serial) = (name.to_owned(), "01".to_owned());
        let identity =
            Identity::Certificate(Certificate { name, role, serial, not_after: SystemTime::now() });
        Arc::new(Peer { identity, address: "10.0.0.1:1".into() })
    }

    #[test]
    fn without_a_policy_root_is_admin_a_certificate_has_its_role_and_nobody_else_has_any() {
        let policy = Policy::default();
        let role = |peer| policy.caller(&peer).map(|caller| caller.role);
        assert_eq!(role(local(0, 5)), Some(Role::Admin));
        assert_eq!(role(local(1000, 0)), None);
        assert_eq!(role(certificate("a", Some(Role::Viewer))), Some(Role::Viewer));
        assert_eq!(role(certificate("a", None)), None);
    }

    #[test]
    fn the_first_entry_that_fits_counts_and_its_grants_go_before_those_of_all() {
        let policy = Policy::parse(
            r#"
            [operator]
            mounts = ["/srv/shared"]
            capabilities = ["NET_ADMIN"]
            [[caller]]
            identity = "spiffe://corp/blue/*"
            role = "operator"
            labels = { team = "blue" }
            mounts = ["/srv/blue"]
            [[caller]]
            identity = "spiffe://corp/*"
            role = "viewer"
            [[caller]]
            gid = 7
            role = "viewer"
            "#,
        )
        .unwrap();
        let blue = policy.caller(&certificate("spiffe://corp/blue/a", Some(Role::Admin))).unwrap();
        assert_eq!(blue.role, Role::Operator);
        assert_eq!(blue.scope.0["team"], "blue");
        assert_eq!(blue.grants.bounds.mounts, [Path::new("/srv/blue")]);
        assert_eq!(blue.grants.capabilities, 1 << 12);
        let other = policy.caller(&certificate("spiffe://corp/x", None)).unwrap();
        assert_eq!(other.role, Role::Viewer);
        assert_eq!(policy.caller(&local(1000, 7)).unwrap().role, Role::Viewer);
        assert!(policy.caller(&certificate("uid 7", None)).is_none());
        assert!(policy.knows_local_users());
    }

    #[test]
    fn roles_in_certificates_can_be_left_out_of_account() {
        let policy = Policy::parse("[certificates]\nroles = false").unwrap();
        assert!(policy.caller(&certificate("a", Some(Role::Admin))).is_none());
    }

    #[test]
    fn what_is_recorded_and_asked_for_can_be_chosen() {
        let policy = Policy::parse(
            r#"
            [audit]
            calls = "all"
            arguments = "hashed"
            on_failure = "allow"
            keep = 3
            [reason]
            required_for = ["operator", "admin"]
            [recording]
            sessions = "terminal"
            "#,
        )
        .unwrap();
        let wanted = Audit {
            calls: AuditedCalls::All,
            arguments: AuditedArguments::Hashed,
            on_failure: OnAuditFailure::Allow,
            keep: 3,
            ..Audit::default()
        };
        assert_eq!(policy.audit, wanted);
        assert!(policy.requires_reason(Role::Admin) && !policy.requires_reason(Role::Viewer));
        assert!(policy.recording.wants(true) && !policy.recording.wants(false));
        let default = Policy::default();
        assert_eq!(default.audit.on_failure, OnAuditFailure::Refuse);
        assert!(!default.requires_reason(Role::Operator) && !default.recording.wants(true));
    }

    #[test]
    fn grants_that_lead_to_root_are_told_with_their_place() {
        let policy = Policy::parse(
            r#"
            [operator]
            capabilities = ["NET_ADMIN", "CAP_SYS_ADMIN"]
            [[caller]]
            identity = "a"
            capabilities = ["bpf", "NET_RAW"]
            [[caller]]
            identity = "b"
            role = "admin"
            capabilities = ["ALL"]
            "#,
        );
        let warnings = policy.unwrap().warnings();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("[operator]: SYS_ADMIN makes"), "{warnings:?}");
        assert!(warnings[1].starts_with("[[caller]] 1: BPF makes"), "{warnings:?}");
        assert!(Policy::default().warnings().is_empty());
    }

    #[test]
    fn a_policy_that_may_mean_something_else_is_refused() {
        for text in [
            "[audit]\nmax_bytes = 10",
            "[audit]\nkeep = 0",
            "[audit]\ncalls = \"some\"",
            "[audit]\narguments = \"all\"",
            "[reason]\nrequired_for = [\"root\"]",
            "[recording]\nsession = \"all\"",
            "[operators]",
            "[operator]\nmounts = [\"/\"]",
            "[operator]\nmounts = [\"/srv/a\"]\ndevices = [\"/srv/a/b/device\"]",
            "[operator]\nmounts = [\"/srv/a\"]\n[[caller]]\nidentity = \"b\"\ndevices = [\"/srv/a/device\"]",
            "[operator]\ndevices = [\"/srv/a\"]\n[[caller]]\nidentity = \"b\"\nrootfs = [\"/srv\"]",
            "[operator]\nmounts = [\"srv\"]",
            "[operator]\nmounts = [\"/srv/../etc\"]",
            "[operator]\ncapabilities = [\"NET\"]",
            "[[caller]]\nrole = \"admin\"",
            "[[caller]]\nidentity = \"a\"\nuid = 1\nrole = \"admin\"",
            "[[caller]]\nuid = 1",
            "[[caller]]\nidentity = \"a\"\nrole = \"root\"",
            "[[caller]]\nidentity = \"a\"\nrole = \"admin\"\nlabels = { a = \"b\" }",
            "[[caller]]\nidentity = \"a\"\nrole = \"viewer\"\nlabels = { \"a b\" = \"b\" }",
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
    }
}
