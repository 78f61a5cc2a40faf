//! Who has joined, and revoking it.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use serde::{Deserialize, Serialize};

use super::{Error, Pki, Result, authority::Issued, records};
use crate::{
    access::{Certificate, Role},
    engine::store::{self, Durability},
};

/// Until when a list is said to hold. The agent does not mind its age: it is the one who writes it.
const LIST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long what has expired is kept in mind: as long as clocks may differ.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// What is kept of a certificate that was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Whom it names.
    pub name: String,
    /// The role that it gives.
    pub role: String,
    /// From when on it holds.
    pub not_before: SystemTime,
    /// When it expires.
    pub not_after: SystemTime,
    /// For how long it was asked for.
    pub lifetime: Duration,
    /// When it was revoked.
    pub revoked: Option<SystemTime>,
    /// The serial number of the one that it was renewed from.
    #[serde(default)]
    pub renewed_from: Option<String>,
}

/// Which certificates are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one with this serial number.
    Serial(String),
    /// All that name this client.
    Name(String),
}

impl Pki {
    pub(super) fn keep_issued(&self, record: &Record) -> Result<()> {
        let dir = self.sub_dir("issued")?;
        let name = format!("{}.json", record.serial);
        store::write(&dir, &name, record, Durability::Durable).map_err(|source| Error::File {
            what: "write",
            path: dir.join(&name),
            source,
        })
    }

    /// What was issued and has not expired, by serial numbers.
    pub fn certificates(&self) -> Result<Vec<Record>> {
        let _lock = self.lock()?;
        let now = SystemTime::now();
        let all = self.issued(now);
        Ok(all.into_iter().filter(|record| record.not_after > now).collect())
    }

    /// All records, without those that nobody can use any more, which go.
    fn issued(&self, now: SystemTime) -> Vec<Record> {
        let dir = self.path("issued");
        let (kept, gone): (Vec<Record>, Vec<Record>) = records::<Record>(&dir)
            .into_iter()
            .partition(|record| record.not_after + FORGOTTEN > now);
        for record in gone {
            // One that stays is looked at again the next time.
            let _ = std::fs::remove_file(dir.join(format!("{}.json", record.serial)));
        }
        kept
    }

    /// Revokes certificates: the agent refuses them from now on, and closes their connections.
    pub fn revoke(&self, which: &Which) -> Result<Vec<Record>> {
        let _lock = self.lock()?;
        let now = SystemTime::now();
        let mut all = self.issued(now);
        let serials = meant_by(which, &all);
        let mut meant = Vec::new();
        for record in &mut all {
            if serials.contains(&record.serial) {
                record.revoked.get_or_insert(now);
                self.keep_issued(record)?;
                meant.push(record.clone());
            }
        }
        if meant.is_empty() {
            let (Which::Serial(text) | Which::Name(text)) = which;
            return Err(Error::NoCertificate(text.clone()));
        }
        self.write_list(&all)?;
        Ok(meant)
    }

    fn write_list(&self, all: &[Record]) -> Result<()> {
        let now = SystemTime::now();
        let failed = |error: rcgen::Error| Error::Certificate {
            what: "cannot write the revocation list",
            problem: error.to_string(),
        };
        let revoked = |record: &Record| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes(&record.serial)?),
                revocation_time: record.revoked?.into(),
                reason_code: Some(RevocationReason::CessationOfOperation),
                invalidity_date: None,
            })
        };
        let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + LIST).into(),
            // It only has to grow.
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: all.iter().filter_map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer()?).map_err(failed)?;
        self.write("crl.pem", &list.pem().map_err(failed)?, 0o644)
    }

    /// Issues another certificate to the holder of one that was issued here.
    pub fn renew(&self, holder: &Certificate, request: &[u8]) -> Result<Issued> {
        let _lock = self.lock()?;
        let path = self.path("issued").join(format!("{}.json", holder.serial));
        let absent = |_| Error::NoCertificate(holder.name.clone());
        let record: Record = store::read(&path).map_err(absent)?;
        let half = record.not_after.duration_since(record.not_before).unwrap_or_default() / 2;
        if SystemTime::now() < record.not_before + half {
            let from = humantime::format_rfc3339_seconds(record.not_before + half);
            let problem =
                format!("holds for more than half of its time yet: renew it from {from} on");
            return Err(Error::Invalid { field: "the certificate", problem });
        }
        match (Role::parse(&record.role), record.name == holder.name && record.revoked.is_none()) {
            (Some(role), true) => self.issue(
                &record.name,
                role,
                record.lifetime,
                Some(record.serial.clone()),
                request,
            ),
            _ => Err(Error::NoCertificate(holder.name.clone())),
        }
    }
}

/// The serial numbers of those that are meant, and of all that were renewed from them: whoever had the key of one
/// may have the keys of the others.
fn meant_by(which: &Which, all: &[Record]) -> HashSet<String> {
    let fits = |record: &&Record| match which {
        Which::Serial(serial) => record.serial == *serial,
        Which::Name(name) => record.name == *name,
    };
    let mut meant: HashSet<String> = all.iter().filter(fits).map(|r| r.serial.clone()).collect();
    loop {
        let more: Vec<String> = all
            .iter()
            .filter(|record| !meant.contains(&record.serial))
            .filter(|record| record.renewed_from.as_ref().is_some_and(|from| meant.contains(from)))
            .map(|record| record.serial.clone())
            .collect();
        if more.is_empty() {
            return meant;
        }
        meant.extend(more);
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}
