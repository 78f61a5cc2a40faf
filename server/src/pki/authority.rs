//! Making and signing certificates.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use conti_shared::tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::CertificateSigningRequestDer;

use super::{Error, Pki, Result, issued::Record, names};
use crate::access::{Role, identity::serial};

/// How long the authority's certificate holds.
const AUTHORITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long the agent's certificate holds.
const SERVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks differ: certificates hold from a little before they were made.
const EARLIER: Duration = Duration::from_secs(5 * 60);

/// A certificate that was issued, as its holder gets it.
#[derive(Debug)]
pub struct Issued {
    /// What is kept of it.
    pub record: Record,
    /// The certificate: PEM.
    pub certificate: String,
    /// The authority: PEM.
    pub authority: String,
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Certificate { what, problem: error.to_string() }
}

impl Pki {
    /// Makes an authority, and the agent's certificate for these names and those of the machine.
    pub fn init(&self, given: &[String]) -> Result<Vec<String>> {
        let names = names::of_host(given);
        self.sub_dir("")?;
        let _lock = self.take_lock()?;
        if self.is_there() {
            return Err(Error::Exists(self.dir().to_owned()));
        }
        let what = "cannot make the authority's certificate";
        let key = KeyPair::generate().map_err(failed(what))?;
        let mut params = params(&format!("Conti authority of {}", names::host_name()), AUTHORITY);
        // It signs leaves, and nobody whom it signs may sign others.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed(what))?;
        self.write("ca.key", &key.serialize_pem(), 0o600)?;
        let issuer = Issuer::new(params, key);
        self.make_server(&issuer, &certificate.pem(), &names)?;
        self.write_list(&BTreeMap::new(), &issuer)?;
        // Last: with it there is an authority, whole.
        self.write("ca.pem", &certificate.pem(), 0o644)?;
        Ok(names)
    }

    /// Makes another certificate for the agent: for these names before those of the machine.
    pub fn renew_server(&self, given: &[String]) -> Result<Vec<String>> {
        let _lock = self.lock()?;
        let names = names::of_host(given);
        let authority = self.read("ca.pem")?;
        self.make_server(&self.issuer()?, &authority, &names)?;
        Ok(names)
    }

    fn make_server(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        authority: &str,
        names: &[String],
    ) -> Result<()> {
        let what = "cannot make the agent's certificate";
        let key = KeyPair::generate().map_err(failed(what))?;
        let mut params = params(&names::host_name(), SERVER);
        params.subject_alt_names =
            CertificateParams::new(names).map_err(failed(what))?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, issuer).map_err(failed(what))?;
        self.write("server.key", &key.serialize_pem(), 0o600)?;
        // Those who join know the authority by its fingerprint: they must see its certificate.
        self.write("server.pem", &format!("{}{authority}", certificate.pem()), 0o644)
    }

    /// What signs.
    pub(super) fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::from_pem(&self.read("ca.key")?);
        let key = key.map_err(failed("cannot use the authority's key"))?;
        Issuer::from_ca_cert_pem(&self.read("ca.pem")?, key)
            .map_err(failed("cannot use the authority's certificate"))
    }

    /// Issues a certificate to a client. What its request says of its subject counts for nothing.
    pub(super) fn issue(
        &self,
        name: &str,
        role: Role,
        lifetime: Duration,
        renewed_from: Option<&Record>,
        request: &[u8],
    ) -> Result<Issued> {
        let mut request = signing_request(request)?;
        let mut params = params(name, lifetime);
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let number = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let (not_before, not_after) = (params.not_before.into(), params.not_after.into());
        request.params = params;
        let what = "cannot issue the certificate";
        let certificate = request.signed_by(&self.issuer()?).map_err(failed(what))?;
        let record = Record {
            serial: serial(&number),
            name: name.to_owned(),
            role: role.as_str().to_owned(),
            not_before,
            not_after,
            lifetime,
            revoked: None,
            renewed_from: renewed_from.map(|from| from.serial.clone()),
            first: renewed_from.map(|from| from.family().to_owned()),
        };
        self.keep_issued(&record)?;
        Ok(Issued { record, certificate: certificate.pem(), authority: self.read("ca.pem")? })
    }

    /// The names in the agent's certificate.
    pub fn server_names(&self) -> Result<Vec<String>> {
        let what = "cannot read the agent's certificate";
        let chain = tls::certificates_in(self.read("server.pem")?.as_bytes());
        let chain = chain.map_err(failed(what))?;
        let leaf = chain.first().ok_or_else(|| failed(what)("it is empty"))?;
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(failed(what))?;
        let names = leaf.subject_alternative_name().map_err(failed(what))?;
        use x509_parser::extensions::GeneralName;
        let text = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => {
                    <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string())
                }
                _ => {
                    <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string())
                }
            },
            _ => None,
        };
        Ok(names
            .map(|n| n.value.general_names.iter().filter_map(text).collect())
            .unwrap_or_default())
    }
}

/// Reads a client's request for a certificate, and checks that it holds the key.
pub(super) fn signing_request(der: &[u8]) -> Result<CertificateSigningRequestParams> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der)).map_err(
        |error| Error::Invalid {
            field: "certificate_request",
            problem: format!(
                "is no request for a certificate that its own key has signed: {error}"
            ),
        },
    )
}

fn params(name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + lifetime).into();
    let mut number: [u8; 16] = rand::random();
    // A serial number is positive and has no leading zero.
    number[0] = number[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&number));
    params
}
