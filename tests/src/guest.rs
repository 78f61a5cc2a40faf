//! Guests: those who have an invitation, and join with it.

use std::process::Command;

use conti_proto::v1::{JoinRequest, JoinResponse, join_service_client::JoinServiceClient};
use rcgen::{CertificateParams, KeyPair};
use tonic::Status;

use crate::{Agent, remote::Remote};

/// The authority of an agent that has one of its own.
pub fn authority(agent: &Agent) -> String {
    std::fs::read_to_string(agent.path("data/pki/ca.pem")).expect("an authority")
}

/// The parts of a code, taken apart without Conti: see shared/src/invitation.rs.
pub fn parts(code: &str) -> (String, Vec<u8>) {
    let script = "import base64, sys\n\
        data = sys.argv[1].removeprefix('conti-')\n\
        raw = base64.urlsafe_b64decode(data + '=' * (-len(data) % 4))\n\
        print(raw[33:41].hex(), raw[41:57].hex())";
    let python = Command::new("python3").args(["-c", script, code]).output().expect("python3");
    assert!(python.status.success(), "{python:?}");
    let shown = String::from_utf8(python.stdout).expect("text");
    let (id, secret) = shown.trim().split_once(' ').expect("two parts");
    let byte = |at| u8::from_str_radix(&secret[at..at + 2], 16).expect("hexadecimal");
    (id.to_owned(), (0..secret.len()).step_by(2).map(byte).collect())
}

/// A guest of the agent.
pub fn guest(agent: &Agent) -> Remote {
    let alpn = vec![b"conti-join/1".to_vec()];
    Remote { alpn, ..Remote::new(agent.port(), &authority(agent), None) }
}

/// Joins: a certificate and its key.
pub async fn join(
    guest: &Remote,
    id: &str,
    secret: &[u8],
) -> Result<(JoinResponse, KeyPair), Status> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    // What a request says of its subject counts for nothing.
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "admin");
    let request = params.serialize_request(&key).expect("a request");
    let channel = guest.channel().await.expect("a guest may connect");
    let message = JoinRequest {
        invitation_id: id.to_owned(),
        secret: secret.to_vec().into(),
        certificate_request: request.der().to_vec().into(),
    };
    let answer = JoinServiceClient::new(channel).join(message).await?.into_inner();
    Ok((answer, key))
}
