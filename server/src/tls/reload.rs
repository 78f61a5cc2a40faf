//! Files that are exchanged while the agent runs.

use std::{
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conti_runtime::own;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::{CurrentTls, Material};
use crate::{
    access::{Peer, Policy, policy::CurrentPolicy},
    listen::open::Open,
    metrics::Certificates,
};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the certificates of open connections are checked, whatever files say: they expire.
const RECHECK: Duration = Duration::from_secs(60);
/// How often an expiry that is near is told.
const REMIND: Duration = Duration::from_secs(24 * 3600);
/// How near an expiry is told.
const NEAR: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is read again when it changes.
#[derive(Debug)]
pub struct Reload {
    /// The policy and its file.
    pub policy: Option<(CurrentPolicy, PathBuf)>,
    /// TLS and its files.
    pub tls: Option<(CurrentTls, Material)>,
    /// The connections whose certificates are checked again.
    pub open: Open,
    /// The connections of users of this machine.
    pub local: Open,
    /// Where it is told when the agent's certificate expires.
    pub certificates: Certificates,
}

/// What is seen of a file without reading it. An exchanged link is another inode.
type Seen = Vec<Option<(u64, u64, i64, i64, u64)>>;

fn look(files: &[PathBuf]) -> Seen {
    let seen = |path: &PathBuf| {
        own::metadata(path).ok().map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size()))
    };
    files.iter().map(seen).collect()
}

impl Reload {
    /// Reads files again when they have changed or on SIGHUP. What cannot be used is told, and what held
    /// before goes on holding. Never ends.
    pub async fn run(self) {
        let policy_file: Vec<PathBuf> = self.policy.iter().map(|(_, path)| path.clone()).collect();
        let tls_files = self.tls.as_ref().map(|(_, material)| material.files()).unwrap_or_default();
        let (mut policy_seen, mut tls_seen) = (look(&policy_file), look(&tls_files));
        let mut hang_up = match signal(SignalKind::hangup()) {
            Ok(hang_up) => hang_up,
            Err(problem) => return error!(%problem, "cannot listen to SIGHUP: nothing is reloaded"),
        };
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What has changed between its first reading and this look would not be seen as a change.
        self.read_policy(true);
        self.read_tls(true);
        let (mut checked, mut reminded) = (SystemTime::now(), SystemTime::UNIX_EPOCH);
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                _ = hang_up.recv() => true,
            };
            let now = (look(&policy_file), look(&tls_files));
            if asked || now.0 != policy_seen {
                policy_seen = now.0;
                self.read_policy(false);
            }
            if asked || now.1 != tls_seen {
                tls_seen = now.1;
                self.read_tls(false);
                checked = SystemTime::now();
            }
            if since(checked) >= RECHECK {
                checked = SystemTime::now();
                self.recheck();
            }
            if since(reminded) >= REMIND {
                reminded = SystemTime::now();
                self.remind();
            }
        }
    }

    /// Closes the connections of those who may do less now: what they have open was let in by another policy.
    fn cut_shrunk(&self, before: &Policy, now: &Policy) {
        let shrunk = |peer: &Arc<Peer>| match (before.caller(peer), now.caller(peer)) {
            (Some(before), Some(now)) => now.is_less_than(&before),
            (Some(_), None) => true,
            (None, _) => false,
        };
        for open in [&self.open, &self.local] {
            open.cut_shrunk(shrunk);
        }
    }

    /// `first`: that it was read is no news.
    fn read_policy(&self, first: bool) {
        let Some((policy, path)) = &self.policy else { return };
        match Policy::load(path) {
            Ok(new) => {
                for warning in new.warnings() {
                    warn!(path = %path.display(), "the policy: {warning}");
                }
                let before = policy.now();
                policy.replace(new);
                self.cut_shrunk(&before, &policy.now());
                if first {
                    return;
                }
                info!(path = %path.display(), "the policy was read again");
            }
            Err(problem) => error!(%problem, "the policy before goes on holding"),
        }
    }

    fn read_tls(&self, first: bool) {
        let Some((tls, material)) = &self.tls else { return };
        match material.load() {
            Ok(new) => {
                tls.replace(new);
                self.tell_expiry();
                if !first {
                    info!("the certificates were read again");
                }
            }
            // Key and certificate may be written one after the other: the next change comes at once.
            Err(problem) => error!(%problem, "the certificates before go on holding"),
        }
        self.recheck();
    }

    fn recheck(&self) {
        if let Some((tls, _)) = &self.tls {
            let tls = tls.now();
            self.open.recheck(|chain| tls.passes(chain));
            if let Some(not_after) = self.open.first_expiry() {
                self.certificates.first_client(not_after);
            }
        }
    }

    fn tell_expiry(&self) {
        if let Some((tls, _)) = &self.tls {
            let tls = tls.now();
            self.certificates.server(tls.not_after);
            if let Some(not_after) = tls.clients_not_after {
                self.certificates.client_ca(not_after);
            }
        }
    }

    fn remind(&self) {
        let Some((tls, _)) = &self.tls else { return };
        let tls = tls.now();
        match tls.not_after.duration_since(SystemTime::now()) {
            Ok(left) if left > NEAR => {}
            Ok(left) => warn!(
                name = tls.name,
                days = left.as_secs() / 86_400,
                "the agent's certificate expires soon; `contid pki renew` makes another"
            ),
            Err(_) => error!(
                name = tls.name,
                "the agent's certificate has expired: clients refuse it; `contid pki renew` makes another"
            ),
        }
    }
}

fn since(then: SystemTime) -> Duration {
    // A clock that was set back counts as time that has passed.
    SystemTime::now().duration_since(then).unwrap_or(Duration::MAX)
}
