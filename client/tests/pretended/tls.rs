//! Mutual TLS in front of the pretended agent, as the real one speaks it, with an authority that can be told
//! to make any certificate.

use std::{
    net::{SocketAddr, TcpListener as Listener},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use conti_shared::{
    endpoint::{HostPort, Place},
    invitation::{Fingerprint, Invitation},
    tls::{ALPN_API, ALPN_JOIN, provider},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
    count: Mutex<u64>,
}

/// Who gets a certificate, and for when.
pub struct Subject<'a> {
    pub name: &'a str,
    pub role: &'a str,
    pub hosts: &'a [&'a str],
    pub from: SystemTime,
    pub until: SystemTime,
    pub for_clients: bool,
}

impl Default for Subject<'_> {
    fn default() -> Self {
        let now = SystemTime::now();
        Subject {
            name: "alice",
            role: "operator",
            hosts: &[],
            from: now - DAY,
            until: now + 90 * DAY,
            for_clients: true,
        }
    }
}

impl Subject<'_> {
    pub fn agent<'a>(hosts: &'a [&'a str]) -> Subject<'a> {
        Subject { name: "agent", role: "", hosts, for_clients: false, ..Subject::default() }
    }

    fn describe(&self, params: &mut CertificateParams, serial: u64) {
        params.distinguished_name.push(DnType::CommonName, self.name);
        if !self.role.is_empty() {
            params.distinguished_name.push(DnType::OrganizationalUnitName, self.role);
        }
        params.not_before = self.from.into();
        params.not_after = self.until.into();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![match self.for_clients {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        }];
    }
}

/// Files of a client: its certificate, and its key.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub serial: u64,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, dir, count: Mutex::new(1) }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.issuer.der())
    }

    fn serial(&self) -> u64 {
        let mut count = self.count.lock().unwrap();
        *count += 1;
        *count
    }

    fn issue(&self, subject: &Subject<'_>) -> (rcgen::Certificate, KeyPair, u64) {
        let hosts: Vec<String> = subject.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        let serial = self.serial();
        params.distinguished_name = rcgen::DistinguishedName::new();
        subject.describe(&mut params, serial);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key, serial)
    }

    /// A certificate and its key in files.
    pub fn client(&self, subject: &Subject<'_>) -> Files {
        let (certificate, key, serial) = self.issue(subject);
        let path = |what: &str| self.dir.path().join(format!("{serial}-{what}.pem"));
        let files = Files { certificate: path("certificate"), key: path("key"), serial };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// Signs a client's own request. Returns the certificate and its serial number.
    pub fn sign(&self, request: &[u8], subject: &Subject<'_>) -> (String, u64) {
        let mut request =
            rcgen::CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let serial = self.serial();
        subject.describe(&mut request.params, serial);
        (request.signed_by(&self.issuer).unwrap().pem(), serial)
    }

    fn verifier(&self, revoked: &[u64]) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let now = SystemTime::now();
        let list = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: (now - DAY).into(),
                    reason_code: Some(RevocationReason::Unspecified),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .with_crls([list.der().clone()])
            .build()
            .unwrap()
    }

    /// What the agent serves with: for clients with a certificate, and for those who want to join.
    fn server(
        &self,
        subject: &Subject<'_>,
        revoked: &[u64],
    ) -> (Arc<ServerConfig>, Arc<ServerConfig>) {
        let (certificate, key, _) = self.issue(subject);
        let chain = vec![certificate.der().clone(), self.issuer.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = || {
            ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&TLS13])
                .unwrap()
        };
        let mut api = builder()
            .with_client_cert_verifier(self.verifier(revoked))
            .with_single_cert(chain.clone(), key.clone_key())
            .unwrap();
        api.alpn_protocols = vec![ALPN_API.to_vec()];
        let mut join = builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        join.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        (Arc::new(api), Arc::new(join))
    }
}

type Configs = (Arc<ServerConfig>, Arc<ServerConfig>);

/// TLS in front of the sockets of an agent.
pub struct Front {
    pub address: SocketAddr,
    configs: Arc<Mutex<Configs>>,
    rude: Arc<AtomicBool>,
}

impl Front {
    /// Serves the API from one socket, and joining from another.
    pub fn start(
        authority: &Authority,
        subject: &Subject<'_>,
        api: PathBuf,
        join: PathBuf,
    ) -> Front {
        Front::with(authority.server(subject, &[]), api, join)
    }

    fn with(configs: Configs, api: PathBuf, join: PathBuf) -> Front {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let configs = Arc::new(Mutex::new(configs));
        let rude = Arc::<AtomicBool>::default();
        let front = Front { address, configs: Arc::clone(&configs), rude: Arc::clone(&rude) };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    let configs = configs.lock().unwrap().clone();
                    let rude = rude.load(Ordering::Acquire);
                    tokio::spawn(serve(client, configs, api.clone(), join.clone(), rude));
                }
            });
        });
        front
    }

    /// From now on connections of some clients are refused.
    pub fn revoke(&self, authority: &Authority, subject: &Subject<'_>, serials: &[u64]) {
        *self.configs.lock().unwrap() = authority.server(subject, serials);
    }

    /// From now on a refused client's connection is closed while what it sent lies unread.
    pub fn be_rude(&self) {
        self.rude.store(true, Ordering::Release);
    }

    pub fn place(&self) -> HostPort {
        HostPort { host: self.address.ip().to_string(), port: self.address.port() }
    }

    pub fn host(&self) -> String {
        format!("tcp://{}", self.place())
    }

    pub fn invitation(&self, authority: &Authority) -> Invitation {
        Invitation {
            authority: authority.fingerprint(),
            id: [1; 8],
            secret: [2; 16],
            addresses: vec![Place::Tcp(self.place())],
        }
    }
}

async fn serve(client: TcpStream, configs: Configs, api: PathBuf, join: PathBuf, rude: bool) {
    let Ok(start) = LazyConfigAcceptor::new(Default::default(), client).await else { return };
    let joins = start.client_hello().alpn().into_iter().flatten().any(|name| name == ALPN_JOIN);
    let (config, socket) = if joins { (configs.1, join) } else { (configs.0, api) };
    match start.into_stream(config).into_fallible().await {
        Ok(mut client) => {
            let mut agent = UnixStream::connect(socket).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut agent).await;
        }
        Err(_) if rude => {}
        // Closing with something unread would reset the connection, and might take the alert with it.
        Err((_, mut client)) => {
            let _ = client.shutdown().await;
            let mut rest = Vec::new();
            let _ = timeout(Duration::from_secs(1), client.read_to_end(&mut rest)).await;
        }
    }
}
