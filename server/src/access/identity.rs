//! Who is at the other end of a connection.

use std::time::{Duration, SystemTime};

use conti_shared::text::is_deceptive;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::Role;

/// The longest name of an identity, in bytes.
const NAME_MAX: usize = 256;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Where it is: an address and port, or `unix`.
    pub address: String,
}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A process of this machine, as the kernel tells it (SO_PEERCRED, unix(7)).
    Local {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its pid, where it has one in the agent's pid namespace.
        pid: Option<i32>,
    },
    /// The holder of a certificate's key.
    Certificate(Certificate),
    /// Somebody who wants to join.
    Guest,
}

/// What a leaf certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its SPIFFE id, or else its common name.
    pub name: String,
    /// The role that its organisational unit names.
    pub role: Option<Role>,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// When it expires.
    pub not_after: SystemTime,
}

impl Identity {
    /// Its name: `uid:N`, or what the certificate says. Identities of two kinds never have the same name: no
    /// certificate with the name of a user or of guests is let in. Whose a container is depends on that.
    pub fn name(&self) -> String {
        match self {
            Identity::Local { uid, .. } => format!("uid:{uid}"),
            Identity::Certificate(certificate) => certificate.name.clone(),
            Identity::Guest => "guest".to_owned(),
        }
    }

    /// The certificate, where it is known by one.
    pub fn certificate(&self) -> Option<&Certificate> {
        match self {
            Identity::Certificate(certificate) => Some(certificate),
            _ => None,
        }
    }
}

impl Certificate {
    /// Reads a leaf certificate that was verified. An error says what it lacks.
    pub fn read(der: &CertificateDer<'_>) -> Result<Certificate, String> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let subject = certificate.subject();
        let texts = |parts: Vec<Result<&str, _>>| -> Option<Vec<String>> {
            parts.into_iter().map(|part| part.ok().map(str::to_owned)).collect()
        };
        let units = texts(subject.iter_organizational_unit().map(|unit| unit.as_str()).collect());
        let mut roles: Vec<Role> =
            units.unwrap_or_default().iter().filter_map(|unit| Role::parse(unit)).collect();
        roles.dedup();
        let names = texts(subject.iter_common_name().map(|name| name.as_str()).collect());
        let common_name = match names.unwrap_or_default().as_slice() {
            [name] => Some(name.clone()),
            _ => None,
        };
        let name = match spiffe_ids(&certificate)?.as_slice() {
            [] => common_name
                .filter(|name| !is_spiffe(name))
                .ok_or("the certificate has neither a SPIFFE id nor a common name")?,
            [id] => id.clone(),
            _ => return Err("the certificate has more than one SPIFFE id".to_owned()),
        };
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(is_deceptive) {
            let problem = "is empty, too long, or has characters that are not seen";
            return Err(format!("the certificate's name {problem}: {name:?}"));
        }
        // Names that stand for somebody of another kind.
        if name.starts_with("uid:") || name == "guest" {
            return Err(format!("the certificate's name {name:?} is reserved"));
        }
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Certificate {
            name,
            // Two answers to one question are none.
            role: match roles.as_slice() {
                [role] => Some(*role),
                _ => None,
            },
            serial: serial(certificate.raw_serial()),
            not_after: SystemTime::UNIX_EPOCH
                + Duration::from_secs(u64::try_from(not_after).unwrap_or(0)),
        })
    }
}

/// A serial number as text: hexadecimal, without the sign's leading zeros.
pub fn serial(bytes: &[u8]) -> String {
    let bytes = bytes.iter().skip_while(|byte| **byte == 0);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Schemes are written in either case (RFC 3986).
fn is_spiffe(text: &str) -> bool {
    text.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("spiffe://"))
}

fn spiffe_ids(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| format!("the certificate's alternative names cannot be read: {error}"))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if is_spiffe(uri) => Some(uri.to_string()),
        _ => None,
    });
    Ok(uris.collect())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn read(name: Option<&str>, units: &[&str], uris: &[&str]) -> Result<Certificate, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        for unit in units {
            params.distinguished_name.push(DnType::OrganizationalUnitName, *unit);
        }
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::read(certificate.der())
    }

    #[test]
    fn a_certificate_names_its_holder_and_its_role() {
        let alice = read(Some("alice"), &["operator"], &[]).unwrap();
        assert_eq!((alice.name.as_str(), alice.role), ("alice", Some(Role::Operator)));
        let ci = read(Some("x"), &[], &["spiffe://corp/ci", "https://corp"]).unwrap();
        assert_eq!((ci.name.as_str(), ci.role), ("spiffe://corp/ci", None));
        assert!(ci.not_after > SystemTime::now() && !ci.serial.is_empty());
    }

    #[test]
    fn a_unit_that_is_no_role_gives_none() {
        for unit in ["", "Operators", "ADMIN", "root", "admin "] {
            assert_eq!(read(Some("a"), &[unit], &[]).unwrap().role, None, "{unit:?}");
        }
    }

    #[test]
    fn a_certificate_that_does_not_say_who_it_is_is_refused() {
        assert!(read(None, &["admin"], &[]).is_err());
        assert!(read(Some(""), &["admin"], &[]).is_err());
        for reserved in ["uid:0", "uid:1000", "guest"] {
            assert!(read(Some(reserved), &["admin"], &[]).is_err(), "{reserved}");
        }
        for hidden in ['\n', '\u{9b}', '\u{202e}', '\u{200b}', '\u{2066}', '\u{feff}', '\u{2028}'] {
            assert!(read(Some(&format!("a{hidden}b")), &[], &[]).is_err(), "{hidden:?}");
        }
        assert!(read(Some("spiffe://corp/ci"), &[], &[]).is_err());
        assert!(read(Some("SPIFFE://corp/ci"), &[], &[]).is_err());
        assert!(read(Some("a"), &[], &["spiffe://a/b", "spiffe://a/c"]).is_err());
        assert!(Certificate::read(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }
}
