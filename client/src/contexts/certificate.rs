//! What a client's certificate says, read without asking anybody.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use conti_shared::tls;
use x509_parser::{extensions::GeneralName, prelude::*};

use crate::error::{Error, Result};

/// From how long before its end on a certificate is complained of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it names: its SPIFFE id, or its common name.
    pub name: String,
    /// Its organisational units, which name the role.
    pub role: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// From when on it holds.
    pub not_before: SystemTime,
    /// When it expires.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads the first certificate of a file.
    pub fn read(path: &Path) -> Result<Certificate> {
        let chain = tls::certificates(path).map_err(Error::Files)?;
        let der = chain.first().map_or(&[][..], |first| first);
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| {
            Error::Usage(format!("the certificate in {} is none: {error}", path.display()))
        })?;
        Ok(Certificate::of(&certificate))
    }

    fn of(certificate: &X509Certificate<'_>) -> Certificate {
        let subject = certificate.subject();
        let text = |attribute: &AttributeTypeAndValue<'_>| {
            attribute.as_str().unwrap_or_default().to_owned()
        };
        let roles: Vec<String> = subject.iter_organizational_unit().map(text).collect();
        let common_name = || subject.iter_common_name().next().map(text).unwrap_or_default();
        Certificate {
            name: spiffe_id(certificate).unwrap_or_else(common_name),
            role: roles.join(","),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: time(certificate.validity().not_before),
            not_after: time(certificate.validity().not_after),
        }
    }

    /// What there is to say of its end at a time, where it has come or is near.
    pub fn complaint(&self, now: SystemTime, context: &str) -> Option<String> {
        match self.not_after.duration_since(now) {
            Err(_) => Some(format!(
                "the certificate of context {context} has expired: ask for a new invitation and \
                 `contictl join` again"
            )),
            Ok(left) if left < SOON => {
                let minutes = left.as_secs() / 60;
                let left = match minutes {
                    0..120 => format!("{minutes} minutes"),
                    120..2880 => format!("{} hours", minutes / 60),
                    _ => format!("{} days", minutes / (24 * 60)),
                };
                Some(format!(
                    "the certificate of context {context} expires in {left}: `contictl context \
                     renew {context}` gets another"
                ))
            }
            Ok(_) => None,
        }
    }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
        _ => None,
    })
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_is_near_is_complained_of_from_two_weeks_before_on() {
        let day = Duration::from_secs(24 * 3600);
        let now = SystemTime::now();
        let complaint = |not_after| {
            let certificate = Certificate {
                name: "alice".to_owned(),
                role: "viewer".to_owned(),
                serial: "01".to_owned(),
                not_before: now - day,
                not_after,
            };
            certificate.complaint(now, "web")
        };
        assert_eq!(complaint(now + 15 * day), None);
        assert!(complaint(now + 13 * day).unwrap().contains("expires in 13 days"));
        assert!(complaint(now + day).unwrap().contains("expires in 24 hours"));
        assert!(complaint(now + day / 48).unwrap().contains("expires in 30 minutes"));
        assert!(complaint(now - day).unwrap().contains("has expired"));
    }
}
