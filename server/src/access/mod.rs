//! Who calls, and what they may do. Knows neither gRPC nor TLS.
//!
//! - [`identity`]: who is at the other end of a connection;
//! - [`policy`]: what the machine's owner grants to whom, from a file;
//! - [`powers`]: grants that are worth more than they look;
//! - [`records`]: what of it all is recorded;
//! - [`rules`]: what a container must be like so that an operator may have it; [`reached`]: what it was started from
//!   in fact;
//! - [`Caller`]: one who calls, with what the policy says of it at this moment.

#[cfg(test)]
mod fuzz;
pub mod identity;
pub mod policy;
pub mod powers;
pub mod reached;
pub mod records;
pub mod rules;

use std::sync::Arc;

pub use identity::{Certificate, Identity, Peer};
pub use policy::{Grants, Policy};
use serde::Deserialize;

use crate::engine::scope::Scope;

/// What a caller may do. Each may do all that those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Has containers and sessions, within its grants.
    Operator,
    /// Does everything.
    Admin,
}

impl Role {
    /// Its name, as policies and certificates write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Role> {
        [Role::Viewer, Role::Operator, Role::Admin].into_iter().find(|role| role.as_str() == name)
    }
}

/// One who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who is at the other end.
    pub peer: Arc<Peer>,
    /// What it may do.
    pub role: Role,
    /// Which containers it sees.
    pub scope: Scope,
    /// What it may have of the host.
    pub grants: Arc<Grants>,
    /// Which of the sessions that it starts are recorded.
    pub recording: records::Recording,
}

impl Caller {
    /// Whether it may do less than it might before.
    pub fn is_less_than(&self, before: &Caller) -> bool {
        let same = self.scope == before.scope && self.grants == before.grants;
        self.role < before.role || (self.role != Role::Admin && self.role == before.role && !same)
    }

    /// Its name, for people and logs.
    pub fn name(&self) -> String {
        self.peer.identity.name()
    }

    /// The id of a request of this caller among those of all: what two callers choose are not the same, so that
    /// none gets what another made.
    pub fn request_key(&self, id: &str) -> String {
        match &self.peer.identity {
            Identity::Local { .. } if self.role == Role::Admin => id.to_owned(),
            _ => format!("{}\0{id}", self.name()),
        }
    }
}
