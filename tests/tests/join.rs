//! The agent's own authority: who is invited joins once, and nobody else does.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use conti_proto::v1::{
    CreateInvitationRequest, GetCallerRequest, JoinRequest, JoinResponse, ListCertificatesRequest,
    ListInvitationsRequest, RenewCertificateRequest, RevokeCertificateRequest, Role,
    join_service_client::JoinServiceClient, revoke_certificate_request::Which,
};
use conti_tests::{
    Agent,
    agent::binary,
    api::reason,
    guest::{guest, join, parts},
    pki::Identity,
    remote::{Remote, knock},
    wait,
};
use rcgen::{CertificateParams, KeyPair};
use tonic::Code;

/// Runs a command of contid on the authority in a directory.
fn contid(data: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(binary("contid"));
    command.arg("--data-dir").arg(data).args(words).output().expect("contid can be started")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text").trim().to_owned()
}

/// An agent with an authority of its own.
fn start() -> Agent {
    Agent::start_with(|dir: &Path| {
        text(&contid(&dir.join("data"), &["pki", "init"]));
        vec![OsString::from("--listen"), "tcp://127.0.0.1:0".into()]
    })
}

fn as_holder(agent: &Agent, joined: &JoinResponse, key: &KeyPair) -> Remote {
    let identity = Identity::of(&joined.certificate_pem, &key.serialize_pem());
    Remote::new(agent.port(), &joined.authority_pem, Some(&identity))
}

#[test]
fn an_invitation_becomes_a_certificate_of_its_name_and_role_once() {
    let agent = start();
    let data = agent.path("data");
    let code = text(&contid(&data, &["invite", "--role", "operator", "--name", "alice"]));
    let (id, secret) = parts(&code);
    agent.block_on(async {
        let (joined, key) = join(&guest(&agent), &id, &secret).await.expect("it was invited");
        let certificate = joined.certificate.clone().expect("a certificate");
        assert_eq!((certificate.name.as_str(), certificate.role()), ("alice", Role::Operator));
        let mut api = as_holder(&agent, &joined, &key).api().await.expect("it may connect");
        let caller = api.agent.get_caller(GetCallerRequest {}).await.expect("an answer");
        let caller = caller.into_inner().caller.expect("a caller");
        assert_eq!((caller.identity.as_str(), caller.role()), ("alice", Role::Operator));
        assert_eq!(caller.certificate_serial, certificate.serial);
        let again = join(&guest(&agent), &id, &secret).await.expect_err("it was used");
        assert_eq!(
            (again.code(), reason(&again).as_str()),
            (Code::PermissionDenied, "INVITATION_REFUSED")
        );
    });
    assert!(text(&contid(&data, &["pki", "ls"])).contains("alice"));
    agent.finish();
}

#[test]
fn codes_that_are_wrong_expired_or_withdrawn_are_all_refused_alike() {
    let agent = start();
    let data = agent.path("data");
    let invite = |expires: &str| {
        let words = ["invite", "--role", "admin", "--name", "bob", "--expires", expires];
        parts(&text(&contid(&data, &words)))
    };
    let (good, wrong, late, gone) = (invite("1h"), invite("1h"), invite("1s"), invite("1h"));
    text(&contid(&data, &["invite", "rm", &gone.0]));
    std::thread::sleep(Duration::from_millis(1500));
    agent.block_on(async {
        let mut changed = wrong.1.clone();
        changed[0] ^= 1;
        let mut told = Vec::new();
        for (id, secret) in [
            (wrong.0.as_str(), changed),
            (wrong.0.as_str(), Vec::new()),
            (late.0.as_str(), late.1),
            (gone.0.as_str(), gone.1),
            ("0123456789abcdef", good.1.clone()),
            ("../../../etc/passwd", good.1.clone()),
            ("", good.1.clone()),
        ] {
            let refused = join(&guest(&agent), id, &secret)
                .await
                .err()
                .unwrap_or_else(|| panic!("{id} was taken"));
            assert_eq!(refused.code(), Code::PermissionDenied, "{id}: {refused:?}");
            told.push(refused.message().to_owned());
        }
        told.dedup();
        assert_eq!(told.len(), 1, "nothing is learned by trying: {told:?}");
        join(&guest(&agent), &good.0, &good.1).await.expect("the good one is still good");
        join(&guest(&agent), &wrong.0, &wrong.1)
            .await
            .expect("and so is one that was tried with a wrong secret");
    });
    let log = agent.log();
    for why in ["its secret is wrong", "there is no such invitation", "its id is none"] {
        assert!(log.contains(why), "the log says why: {why}");
    }
    agent.finish();
}

#[test]
fn a_guest_reaches_nothing_but_joining() {
    let agent = start();
    agent.block_on(async {
        let channel = guest(&agent).channel().await.expect("a guest may connect");
        for (path, _) in conti_proto::METHODS.iter().filter(|(path, _)| !path.ends_with("/Join")) {
            let status = knock(channel.clone(), path).await.expect("an answer");
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        }
        let bad = JoinRequest { invitation_id: "0".repeat(16), ..Default::default() };
        let refused =
            JoinServiceClient::new(channel).join(bad).await.expect_err("no request in it");
        assert_eq!(refused.code(), Code::InvalidArgument);
        // And without the application protocol of guests a certificate is asked for.
        let api = Remote { alpn: vec![b"h2".to_vec()], ..guest(&agent) };
        assert_eq!(api.knock("/conti.v1.JoinService/Join").await, None);
    });
    agent.finish();
}

#[test]
fn an_admin_invites_and_revokes_from_elsewhere() {
    let agent = start();
    let code = text(&contid(&agent.path("data"), &["invite", "--role", "admin", "--name", "root"]));
    let (id, secret) = parts(&code);
    agent.block_on(async {
        let (joined, key) = join(&guest(&agent), &id, &secret).await.expect("it was invited");
        let mut admin = as_holder(&agent, &joined, &key).api().await.expect("it may connect");
        let wanted = CreateInvitationRequest {
            name: "carol".into(),
            role: Role::Viewer.into(),
            addresses: vec!["web.example".into()],
            ..Default::default()
        };
        let invited =
            admin.pki.create_invitation(wanted).await.expect("an admin invites").into_inner();
        let listed = admin.pki.list_invitations(ListInvitationsRequest::default()).await;
        assert_eq!(listed.expect("a list").into_inner().invitations.len(), 1);
        let (id, secret) = parts(&invited.code);
        let (joined, key) = join(&guest(&agent), &id, &secret).await.expect("it was invited");
        let carol = as_holder(&agent, &joined, &key);
        let mut api = carol.api().await.expect("it may connect");
        let denied = api.pki.list_certificates(ListCertificatesRequest::default()).await;
        assert_eq!(denied.expect_err("a viewer").code(), Code::PermissionDenied);
        let which = Some(Which::Name("carol".into()));
        let revoked = admin.pki.revoke_certificate(RevokeCertificateRequest { which }).await;
        assert_eq!(revoked.expect("an admin revokes").into_inner().certificates.len(), 1);
        for _ in 0..600 {
            if api.agent.get_caller(GetCallerRequest {}).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(carol.knock("/conti.v1.AgentService/GetAgent").await, None, "it is out");
        let which = Some(Which::Name("nobody".into()));
        let absent = admin.pki.revoke_certificate(RevokeCertificateRequest { which }).await;
        assert_eq!(absent.expect_err("there is none").code(), Code::NotFound);
    });
    agent.finish();
}

#[test]
fn without_certificates_the_agent_refuses_to_listen_and_says_what_makes_them() {
    let agent = Agent::start();
    let data = agent.path("other");
    let output = contid(&data, &["--listen", "tcp://127.0.0.1:0"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("will not listen") && said.contains("contid pki init"), "{said}");
    assert!(!data.exists(), "and touches nothing");
    text(&contid(&data, &["pki", "init"]));
    let again = contid(&data, &["pki", "init"]);
    assert!(!again.status.success(), "what was signed would be lost");
    wait::until_true("the key is for its owner only", || {
        use std::os::unix::fs::PermissionsExt as _;
        let mode =
            |name: &str| std::fs::metadata(data.join(name)).map(|m| m.permissions().mode() & 0o777);
        mode("pki/ca.key").is_ok_and(|mode| mode == 0o600)
            && mode("pki/server.key").is_ok_and(|mode| mode == 0o600)
            && mode("pki").is_ok_and(|mode| mode == 0o700)
    });
    agent.finish();
}

#[test]
fn a_certificate_is_renewed_late_and_revoked_with_what_was_renewed_from_it() {
    let agent = start();
    let data = agent.path("data");
    let invite = |name: &str, lifetime: &str| {
        let words = ["invite", "--role", "viewer", "--name", name, "--cert-expires", lifetime];
        parts(&text(&contid(&data, &words)))
    };
    let (fresh, old) = (invite("fresh", "90days"), invite("old", "2m"));
    let (renewed, key) = agent.block_on(async {
        let renew = async |id: &str, secret: &[u8]| {
            let (joined, key) = join(&guest(&agent), id, secret).await.expect("it was invited");
            let mut api = as_holder(&agent, &joined, &key).api().await.expect("it may connect");
            let key = KeyPair::generate().expect("a key");
            let request = CertificateParams::default().serialize_request(&key).expect("a request");
            let der = request.der().to_vec().into();
            let message = RenewCertificateRequest { certificate_request: der };
            let answer = api.pki.renew_certificate(message).await;
            (answer.map(tonic::Response::into_inner), joined, key)
        };
        let (early, ..) = renew(&fresh.0, &fresh.1).await;
        assert_eq!(early.expect_err("it is too early").code(), Code::InvalidArgument);
        // Made as if some minutes ago, so that this one is past its half at once.
        let (renewed, before, key) = renew(&old.0, &old.1).await;
        let renewed = renewed.expect("it is late enough");
        let serial = before.certificate.expect("a certificate").serial;
        assert_ne!(renewed.certificate.as_ref().expect("a certificate").serial, serial);
        let joined = JoinResponse {
            certificate: renewed.certificate,
            certificate_pem: renewed.certificate_pem,
            authority_pem: renewed.authority_pem,
        };
        as_holder(&agent, &joined, &key).api().await.expect("the new one is good");
        text(&contid(&data, &["pki", "revoke", &serial]));
        (joined, key)
    });
    wait::until_true("what was renewed from it is refused too", || {
        agent
            .block_on(as_holder(&agent, &renewed, &key).knock("/conti.v1.AgentService/GetAgent"))
            .is_none()
    });
    agent.finish();
}
