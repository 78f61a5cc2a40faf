//! Connections that are open: how many each identity has, and closing those that may be no more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustls::pki_types::CertificateDer;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::warn;

use crate::access::Peer;

/// How many connections there are at most, and what part of the files that the agent may have open that is at
/// most: sessions need files too.
const CONNECTIONS: usize = 2048;
const OF_FILES: usize = 4;
/// What part of them one identity has at most.
const OF_CONNECTIONS: usize = 16;
/// And how many where the agent may have few files open.
const EACH_MIN: usize = 16;
/// How many of an identity's connections may have much input under way.
const WIDE_EACH: usize = 4;

/// The connections that are open and counted. Clones share them.
#[derive(Debug, Clone)]
pub struct Open(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    max: usize,
    each_max: usize,
    next: u64,
    all: HashMap<u64, Entry>,
    per_identity: HashMap<String, usize>,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    chain: Vec<CertificateDer<'static>>,
    cut: CancellationToken,
}

/// Counts one connection as long as it lives.
#[derive(Debug)]
pub struct Registered {
    open: Open,
    number: u64,
    cut: CancellationToken,
    /// Whether its identity had many connections before it.
    pub is_further: bool,
}

impl Open {
    /// None yet, for an agent that may have so many files open.
    pub fn new(files: usize) -> Open {
        let max = CONNECTIONS.min(files / OF_FILES).max(EACH_MIN);
        let each_max = (max / OF_CONNECTIONS).max(EACH_MIN);
        let (all, per_identity) = (HashMap::new(), HashMap::new());
        Open(Arc::new(Mutex::new(Table { max, each_max, next: 0, all, per_identity })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection, with the certificates that its client has shown. `None`: there are too many.
    pub fn add(&self, peer: &Arc<Peer>, chain: Vec<CertificateDer<'static>>) -> Option<Registered> {
        let mut table = self.table();
        let name = peer.identity.name();
        let own = table.per_identity.get(&name).copied().unwrap_or(0);
        if table.all.len() >= table.max || own >= table.each_max {
            return None;
        }
        table.per_identity.insert(name, own + 1);
        let number = table.next;
        table.next += 1;
        let cut = CancellationToken::new();
        table.all.insert(number, Entry { peer: peer.clone(), chain, cut: cut.clone() });
        drop(table);
        Some(Registered { open: self.clone(), number, cut, is_further: own >= WIDE_EACH })
    }

    /// Closes the connections whose certificates do not pass any more. To check them takes its time, during which
    /// others connect and go.
    pub fn recheck(&self, passes: impl Fn(&[CertificateDer<'static>]) -> Result<(), String>) {
        let copy = |entry: &Entry| (entry.peer.clone(), entry.chain.clone(), entry.cut.clone());
        let all: Vec<_> = self.table().all.values().map(copy).collect();
        for (peer, chain, cut) in all.into_iter().filter(|(_, chain, _)| !chain.is_empty()) {
            if let Err(problem) = passes(&chain) {
                let (identity, address) = (peer.identity.name(), &peer.address);
                warn!(identity, %address, problem, "closing a connection: its certificate holds no more");
                cut.cancel();
            }
        }
    }
}

impl Open {
    /// Closes the connections of those whose rights have shrunk. What they do goes on as if they had gone away.
    pub fn cut_shrunk(&self, shrunk: impl Fn(&Arc<Peer>) -> bool) {
        for entry in self.table().all.values().filter(|entry| shrunk(&entry.peer)) {
            let (identity, address) = (entry.peer.identity.name(), &entry.peer.address);
            warn!(identity, %address, "closing a connection: the policy gives its caller less now");
            entry.cut.cancel();
        }
    }

    /// When the first certificate of those that are connected expires.
    pub fn first_expiry(&self) -> Option<SystemTime> {
        let table = self.table();
        let certificates = table.all.values().filter_map(|e| e.peer.identity.certificate());
        certificates.map(|certificate| certificate.not_after).min()
    }
}

impl Registered {
    /// Resolves when the connection is to be closed.
    pub fn cut(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut table = self.open.table();
        let Some(entry) = table.all.remove(&self.number) else { return };
        let name = entry.peer.identity.name();
        if let Some(count) = table.per_identity.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                table.per_identity.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Identity;

    fn peer(uid: u32) -> Arc<Peer> {
        let identity = Identity::Local { uid, gid: 0, pid: None };
        Arc::new(Peer { identity, address: "10.0.0.1:1".into() })
    }

    #[test]
    fn one_identity_does_not_take_all_connections() {
        let open = Open::new(1 << 20);
        let each = CONNECTIONS / OF_CONNECTIONS;
        let mut held: Vec<_> = (0..each).filter_map(|_| open.add(&peer(1), vec![])).collect();
        assert_eq!(held.len(), each);
        assert!(held[..WIDE_EACH].iter().all(|one| !one.is_further));
        assert!(held[WIDE_EACH..].iter().all(|one| one.is_further));
        assert!(open.add(&peer(1), vec![]).is_none());
        let other = open.add(&peer(2), vec![]);
        assert!(other.as_ref().is_some_and(|one| !one.is_further));
        held.pop();
        let again = open.add(&peer(1), vec![]);
        assert!(again.is_some());
        drop((held, other, again));
        let table = open.table();
        assert!(table.all.is_empty() && table.per_identity.is_empty());
    }

    #[tokio::test]
    async fn connections_that_do_not_pass_are_cut_and_others_are_not() {
        let open = Open::new(1 << 20);
        let good = open.add(&peer(1), vec![CertificateDer::from(vec![1])]).unwrap();
        let bad = open.add(&peer(2), vec![CertificateDer::from(vec![2])]).unwrap();
        open.recheck(|chain| if *chain[0] == [2] { Err("revoked".into()) } else { Ok(()) });
        bad.cut().await;
        assert!(!good.cut.is_cancelled());
    }
}
