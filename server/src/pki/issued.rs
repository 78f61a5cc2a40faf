//! Who has joined, and revoking it.
//!
//! Who was revoked stands in each one's record, and in a signed list of them all, `crl.pem`. Either may be damaged or gone,
//! or behind the other because the revocation was cut off half way. So both are read whenever that matters: whom one of
//! them calls revoked is revoked. If a record cannot be read, the list tells; if that cannot be read either, nothing is
//! known of that certificate, and it counts as revoked. A record that is missing says no more than a damaged one: while
//! the list cannot be read, a certificate without a record is refused, and so it is later, because the list that is
//! written next has [`LOST`] in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use conti_runtime::own;
use conti_shared::tls::revocation_lists_in;
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use serde::{Deserialize, Serialize};
use tracing::warn;
use x509_parser::parse_x509_crl;

use super::{Error, Pki, Result, authority::Issued, invitations::LIFETIME_MAX, records};
use crate::{
    access::{Certificate, Role, identity},
    engine::store::{self, Durability},
};

/// Until when a list is said to hold. The agent does not mind its age: it is the one who writes it.
const LIST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long what has expired is kept in mind: as long as clocks may differ.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// Stands among the serial numbers of a list that was written after one was lost, with the time of the loss: who was in
/// that one without a record is not known. No certificate has this number (they have 16 bytes). It goes as the others do,
/// when none that was issued before holds any more.
const LOST: &str = "01";
/// How many certificates hold at a time that come from one invitation, by renewals: some more than are ever needed, as
/// each is renewed after half of its time, so that an answer that was lost can be asked for again.
const FAMILY_MAX: usize = 8;
/// The name of a certificate whose record cannot be read.
const UNREAD: &str = "(its record cannot be read)";

/// What is kept of a certificate that was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Whom it names.
    pub name: String,
    /// The role that it gives.
    pub role: String,
    /// From when on it holds. [`SystemTime::UNIX_EPOCH`]: it is not known.
    pub not_before: SystemTime,
    /// When it expires. [`SystemTime::UNIX_EPOCH`]: it is not known.
    pub not_after: SystemTime,
    /// For how long it was asked for.
    pub lifetime: Duration,
    /// When it was revoked.
    pub revoked: Option<SystemTime>,
    /// The serial number of the one that it was renewed from.
    #[serde(default)]
    pub renewed_from: Option<String>,
    /// The serial number of the one that an invitation gave, where this one comes from it by renewals.
    #[serde(default)]
    pub first: Option<String>,
}

/// Which certificates are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one with this serial number.
    Serial(String),
    /// All that name this client.
    Name(String),
}

/// Whose certificates are refused.
#[derive(Debug, Default)]
pub struct Revocations {
    /// The serial numbers of those that were revoked.
    serials: BTreeSet<String>,
    /// Where a list was lost: the authority, of whose certificates none holds without a record.
    lost: Option<Pki>,
}

impl Revocations {
    /// Whether the certificate with a serial number is refused.
    pub fn has(&self, serial: &str) -> bool {
        self.serials.contains(serial) || self.lost.as_ref().is_some_and(|pki| !pki.knows(serial))
    }
}

/// What is known of all that was issued.
struct Known {
    /// The records, with the revocations that the list has.
    records: Vec<Record>,
    /// The serial numbers of those whose records cannot be read.
    unread: Vec<String>,
    /// Whose certificates were revoked, and when.
    revoked: BTreeMap<String, SystemTime>,
}

impl Record {
    /// A certificate whose record cannot be read.
    fn unread(serial: &str, revoked: Option<SystemTime>) -> Record {
        Record {
            serial: serial.to_owned(),
            name: UNREAD.to_owned(),
            role: String::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            lifetime: Duration::ZERO,
            revoked,
            renewed_from: None,
            first: None,
        }
    }

    /// The serial number that it has in common with all that come from the same invitation.
    pub(super) fn family(&self) -> &str {
        self.first.as_deref().unwrap_or(&self.serial)
    }

    /// Whether nobody can use it any more.
    fn is_gone(&self, now: SystemTime) -> bool {
        self.not_after + FORGOTTEN <= now
    }
}

impl Pki {
    /// The list of those that were revoked.
    pub fn list(&self) -> PathBuf {
        self.path("crl.pem")
    }

    /// Whose certificates are refused.
    pub fn revoked(&self) -> Result<Revocations> {
        let revoked = self.known()?.revoked;
        let lost = revoked.contains_key(LOST).then(|| self.clone());
        Ok(Revocations { serials: revoked.into_keys().collect(), lost })
    }

    /// Whether a certificate has a record that can be read and does not call it revoked. It is looked up at each
    /// handshake: others join meanwhile.
    fn knows(&self, serial: &str) -> bool {
        let path = self.path("issued").join(format!("{serial}.json"));
        let known = store::read(&path);
        known.is_ok_and(|record: Record| record.serial == serial && record.revoked.is_none())
    }

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
        let Known { records, unread, revoked } = self.known()?;
        // The others go when the list is written without them.
        self.sweep_issued(records.iter().filter(|one| one.is_gone(now) && one.revoked.is_none()));
        let mut all: Vec<Record> = records.into_iter().filter(|one| one.not_after > now).collect();
        all.extend(
            unread.iter().map(|serial| Record::unread(serial, revoked.get(serial).copied())),
        );
        all.sort_by(|a, b| a.serial.cmp(&b.serial));
        Ok(all)
    }

    /// Reads the records and the list.
    fn known(&self) -> Result<Known> {
        // No list is one that was lost just now.
        let lost_now = || BTreeMap::from([(LOST.to_owned(), SystemTime::now())]);
        let mut revoked = self.listed().unwrap_or_else(lost_now);
        let lost = revoked.contains_key(LOST);
        let (mut all, mut unread) = (Vec::new(), Vec::new());
        for (serial, record) in records::<Record>(&self.path("issued"))? {
            match record.ok().filter(|record| record.serial == serial) {
                Some(record) => {
                    if let Some(time) = record.revoked {
                        revoked.entry(serial).or_insert(time);
                    }
                    all.push(record);
                }
                None => {
                    if lost {
                        warn!(
                            serial,
                            "neither a record nor a list tells whether a certificate was revoked: it counts as if it were"
                        );
                        revoked.entry(serial.clone()).or_insert_with(SystemTime::now);
                    }
                    unread.push(serial);
                }
            }
        }
        for record in &mut all {
            record.revoked = revoked.get(&record.serial).copied();
        }
        Ok(Known { records: all, unread, revoked })
    }

    /// What the list says. `None`: it cannot be read.
    fn listed(&self) -> Option<BTreeMap<String, SystemTime>> {
        let path = self.list();
        let read = || -> std::result::Result<BTreeMap<String, SystemTime>, String> {
            let bytes = own::read(&path).map_err(|error| error.to_string())?;
            let mut all = BTreeMap::new();
            for list in revocation_lists_in(&bytes)? {
                let (_, list) = parse_x509_crl(&list).map_err(|error| error.to_string())?;
                all.extend(list.iter_revoked_certificates().map(|entry| {
                    let seconds = u64::try_from(entry.revocation_date.timestamp()).unwrap_or(0);
                    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                    (identity::serial(entry.raw_serial()), time)
                }));
            }
            Ok(all)
        };
        read()
            .inspect_err(|problem| {
                warn!(path = %path.display(), problem, "the list of revoked certificates cannot be read: the records tell");
            })
            .ok()
    }

    /// Removes records that nobody needs any more.
    fn sweep_issued<'a>(&self, gone: impl Iterator<Item = &'a Record>) {
        for record in gone {
            // One that stays is looked at again the next time.
            let _ = own::remove_file(self.path("issued").join(format!("{}.json", record.serial)));
        }
    }

    /// Revokes certificates: the agent refuses them from now on, and closes their connections.
    pub fn revoke(&self, which: &Which) -> Result<Vec<Record>> {
        let _lock = self.lock()?;
        // What cannot be signed is not begun.
        let issuer = self.issuer()?;
        let now = SystemTime::now();
        let Known { records, unread, mut revoked } = self.known()?;
        let (gone, mut records): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| record.is_gone(now));
        let mut serials = meant_by(which, &records);
        if let Which::Serial(serial) = which
            && unread.contains(serial)
        {
            serials.insert(serial.clone());
        }
        let in_doubt =
            |serial: &&String| !revoked.contains_key(*serial) && !serials.contains(*serial);
        let in_doubt: Vec<String> = unread.iter().filter(in_doubt).cloned().collect();
        match which {
            Which::Name(_) if serials.is_empty() && !in_doubt.is_empty() => {
                return Err(Error::Unread { known: 0, serials: in_doubt });
            }
            Which::Serial(text) | Which::Name(text) if serials.is_empty() => {
                return Err(Error::NoCertificate(text.clone()));
            }
            _ => {}
        }
        for serial in &serials {
            revoked.entry(serial.clone()).or_insert(now);
        }
        for record in &gone {
            revoked.remove(&record.serial);
        }
        // Those without a record: none holds for longer.
        revoked.retain(|_, time| *time + LIFETIME_MAX + FORGOTTEN > now);
        // The list first: the agent sees it.
        self.write_list(&revoked, &issuer)?;
        let mut meant = Vec::new();
        for record in records.iter_mut().filter(|record| serials.contains(&record.serial)) {
            record.revoked = revoked.get(&record.serial).copied();
            self.keep_issued(record)?;
            meant.push(record.clone());
        }
        let time_of = |serial: &String| revoked.get(serial).copied();
        let damaged = unread.iter().filter(|serial| serials.contains(*serial));
        meant.extend(damaged.map(|serial| Record::unread(serial, time_of(serial))));
        self.sweep_issued(gone.iter());
        match in_doubt.is_empty() {
            true => Ok(meant),
            false => Err(Error::Unread { known: meant.len(), serials: in_doubt }),
        }
    }

    pub(super) fn write_list(
        &self,
        revoked: &BTreeMap<String, SystemTime>,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<()> {
        let now = SystemTime::now();
        let failed = |error: rcgen::Error| Error::Certificate {
            what: "cannot write the revocation list",
            problem: error.to_string(),
        };
        let entry = |(serial, time): (&String, &SystemTime)| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes(serial)?),
                revocation_time: (*time).into(),
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
            revoked_certs: revoked.iter().filter_map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(issuer).map_err(failed)?;
        self.write("crl.pem", &list.pem().map_err(failed)?, 0o644)
    }

    /// Issues another certificate to the holder of one that was issued here.
    pub fn renew(&self, holder: &Certificate, request: &[u8]) -> Result<Issued> {
        let _lock = self.lock()?;
        let all = self.known()?.records;
        let record = all.iter().find(|record| record.serial == holder.serial);
        let record = record.ok_or_else(|| Error::NoCertificate(holder.name.clone()))?;
        let refused = |problem| Error::Invalid { field: "the certificate", problem };
        let now = SystemTime::now();
        let half = record.not_after.duration_since(record.not_before).unwrap_or_default() / 2;
        if now < record.not_before + half {
            let from = humantime::format_rfc3339_seconds(record.not_before + half);
            return Err(refused(format!(
                "holds for more than half of its time yet: renew it from {from} on"
            )));
        }
        let role = Role::parse(&record.role);
        let (Some(role), true) = (role, record.name == holder.name && record.revoked.is_none())
        else {
            return Err(Error::NoCertificate(holder.name.clone()));
        };
        let family = all.iter().filter(|one| one.family() == record.family());
        let hold: Vec<SystemTime> =
            family.map(|one| one.not_after).filter(|until| *until > now).collect();
        if let (FAMILY_MAX.., Some(first)) = (hold.len(), hold.iter().min()) {
            let from = humantime::format_rfc3339_seconds(*first);
            return Err(refused(format!(
                "was renewed too often: {} hold already that come from the same invitation; use the newest of them, or renew it from {from} on",
                hold.len()
            )));
        }
        self.issue(&record.name, role, record.lifetime, Some(record), request)
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
