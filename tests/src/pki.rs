//! Certificates of all kinds, good and bad, made without Conti.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};

const HOUR: Duration = Duration::from_secs(3600);

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate: PEM.
    pub pem: String,
}

/// A certificate with its key: PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
    serial: Vec<u8>,
}

impl Identity {
    /// One that was issued elsewhere: PEM.
    pub fn of(certificate: &str, key: &str) -> Identity {
        Identity { certificate: certificate.to_owned(), key: key.to_owned(), serial: Vec::new() }
    }
}

/// What a certificate is to be like.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Its common name. Empty: none.
    pub name: String,
    /// Its organisational unit. Empty: none.
    pub unit: String,
    /// Its alternative names that are URIs.
    pub uris: Vec<String>,
    /// For servers and not for clients.
    pub server: bool,
    /// Whether it has expired an hour ago.
    pub expired: bool,
}

impl Leaf {
    /// That of a client with a name and the unit that names its role.
    pub fn client(name: &str, unit: &str) -> Leaf {
        Leaf { name: name.into(), unit: unit.into(), uris: vec![], server: false, expired: false }
    }
}

impl Authority {
    /// Makes one, below which there may be any number of others.
    pub fn make(name: &str) -> Authority {
        Authority::root(name, None)
    }

    /// Makes one, below which there may be so many others.
    pub fn root(name: &str, others: Option<u8>) -> Authority {
        let (key, params) = Authority::params(name, others);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Makes one that this one has signed, whether it may or not. Its PEM has what leads to this one.
    pub fn below(&self, name: &str, others: Option<u8>) -> Authority {
        let (key, params) = Authority::params(name, others);
        let own = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem: format!("{own}{}", self.pem) }
    }

    /// Takes over the authority of a certificate and its key: PEM.
    pub fn of(certificate: &str, key: &str) -> Authority {
        let key = KeyPair::from_pem(key).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(certificate, key).expect("an authority");
        Authority { issuer, pem: certificate.to_owned() }
    }

    fn params(name: &str, others: Option<u8>) -> (KeyPair, CertificateParams) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(match others {
            Some(others) => BasicConstraints::Constrained(others),
            None => BasicConstraints::Unconstrained,
        });
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (KeyPair::generate().expect("a key"), params)
    }

    /// Issues a certificate.
    pub fn issue(&self, leaf: &Leaf) -> Identity {
        let names =
            if leaf.server { vec!["localhost".to_owned(), "127.0.0.1".to_owned()] } else { vec![] };
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !leaf.name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, leaf.name.as_str());
        }
        if !leaf.unit.is_empty() {
            params.distinguished_name.push(DnType::OrganizationalUnitName, leaf.unit.as_str());
        }
        for uri in &leaf.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().expect("a URI")));
        }
        params.extended_key_usages = vec![match leaf.server {
            true => ExtendedKeyUsagePurpose::ServerAuth,
            false => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let now = SystemTime::now();
        params.not_before = (now - 2 * HOUR).into();
        params.not_after = if leaf.expired { now - HOUR } else { now + HOUR }.into();
        let nanos = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos();
        let serial = nanos.to_be_bytes()[4..].to_vec();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { certificate, key: key.serialize_pem(), serial }
    }

    /// Issues a certificate to a client.
    pub fn client(&self, name: &str, unit: &str) -> Identity {
        self.issue(&Leaf::client(name, unit))
    }

    /// Issues a certificate to a server on this machine.
    pub fn server(&self) -> Identity {
        self.issue(&Leaf { server: true, ..Leaf::client("agent", "") })
    }

    /// The same as [`Authority::client`], shown with all that leads to the root.
    pub fn client_with_chain(&self, name: &str, unit: &str) -> Identity {
        let identity = self.client(name, unit);
        Identity { certificate: format!("{}{}", identity.certificate, self.pem), ..identity }
    }

    /// A list that revokes certificates: PEM.
    pub fn revoke(&self, revoked: &[&Identity]) -> String {
        let now = SystemTime::now();
        let entry = |identity: &&Identity| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&identity.serial),
            revocation_time: (now - HOUR).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + HOUR).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

/// The files of an agent's TLS, in a directory.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Writes them: a server's certificate of `server`, the authority of clients, and a list that revokes
    /// nothing.
    pub fn write(dir: &Path, server: &Authority, clients: &Authority) -> Files {
        fs::create_dir_all(dir).expect("a directory can be made");
        let files = Files { dir: dir.to_owned() };
        files.put_server(&server.server(), &server.pem);
        files.put("ca.pem", &clients.pem);
        files.put("crl.pem", &clients.revoke(&[]));
        files
    }

    /// Exchanges the server's certificate and key.
    pub fn put_server(&self, server: &Identity, authority: &str) {
        self.put("server.key", &server.key);
        self.put("server.pem", &format!("{}{authority}", server.certificate));
    }

    /// Exchanges a file at once.
    pub fn put(&self, name: &str, text: &str) {
        let new = self.dir.join(format!(".{name}.new"));
        fs::write(&new, text).expect("a file can be written");
        fs::rename(new, self.dir.join(name)).expect("a file can be renamed");
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The flags of contid that name them.
    pub fn flags(&self) -> Vec<std::ffi::OsString> {
        [
            ("--tls-cert", "server.pem"),
            ("--tls-key", "server.key"),
            ("--tls-client-ca", "ca.pem"),
            ("--tls-crl", "crl.pem"),
        ]
        .into_iter()
        .flat_map(|(flag, name)| [flag.into(), self.path(name).into_os_string()])
        .collect()
    }
}
