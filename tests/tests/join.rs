//! The agent's own authority: who is invited joins once, and nobody else does.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
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
    ctl::ended,
    guest::{guest, join, parts},
    pki::Identity,
    remote::{Remote, knock},
    wait,
};
use rcgen::{CertificateParams, KeyPair};
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::Signal,
};
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
fn an_invitation_by_the_agent_leads_to_where_it_listens() {
    let agent = start();
    let config = agent.scratch("config");
    let invited = agent.ctl(["invite", "--role", "viewer", "--name", "alice"]).run().success();
    let said = String::from_utf8_lossy(&invited.stderr).into_owned();
    assert!(said.contains(&format!("localhost:{}", agent.port())), "{said}");
    let config = config.to_str().expect("text");
    agent.ctl(["join", &invited.text()]).env("XDG_CONFIG_HOME", config).run().success();
    let told = agent.ctl(["context", "ls"]).env("XDG_CONFIG_HOME", config).run().success().text();
    assert!(told.contains(&format!("tcp://localhost:{}", agent.port())), "{told}");
    // What only knows the files says where it leads, and what changes that.
    let words = ["invite", "--role", "viewer", "--name", "bob"];
    let said = contid(&agent.path("data"), &words);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains(":7443") && said.contains("--address"), "{said}");
    let said = contid(&agent.path("data"), &[&words[..], &["--address", "web:1"]].concat());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("leads to web:1\n"), "{said}");
    agent.finish();
}

#[test]
fn what_comes_next_is_said_for_the_same_directory_and_no_name_is_one_of_no_host() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("with a blank");
    for name in ["a b", "web:7443", ""] {
        let refused = contid(&data, &["pki", "init", "--name", name]);
        assert!(!refused.status.success() && !data.exists(), "{name:?}");
    }
    let said = text(&contid(&data, &["pki", "init", "--name", "web.example"]));
    let flag = format!("--data-dir '{}'", data.display());
    assert_eq!(said.matches(&flag).count(), 2, "{said}");
}

#[test]
fn both_programs_write_times_alike_and_in_utc() {
    let agent = start();
    let data = agent.path("data");
    agent.ok(["invite", "--role", "viewer", "--name", "bob"]);
    Joined::as_admin(&agent, "alice");
    let times = |shown: String| -> Vec<String> {
        shown.split_whitespace().filter(|word| word.contains(':')).map(str::to_owned).collect()
    };
    for command in [["invite", "ls"], ["pki", "ls"]] {
        let here = times(text(&contid(&data, &command)));
        assert_eq!(here, times(agent.ok(command)), "{command:?}");
        let [time] = here.as_slice() else { panic!("one time of {command:?}: {here:?}") };
        assert!(time.len() == "2026-01-31T12:00:00Z".len() && time.ends_with('Z'), "{time}");
    }
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

#[test]
fn a_certificate_is_renewed_a_few_times_so_that_a_lost_answer_can_be_repeated_and_no_more() {
    let agent = start();
    let data = agent.path("data");
    let words = ["invite", "--role", "viewer", "--name", "v", "--cert-expires", "2m"];
    let (id, secret) = parts(&text(&contid(&data, &words)));
    agent.block_on(async {
        let (joined, key) = join(&guest(&agent), &id, &secret).await.expect("it was invited");
        let mut holder = (joined, key);
        let (mut renewed, mut refused) = (0, 0);
        // From the first one, and then from the newest of those that came from it.
        while refused < 2 {
            let (joined, key) = &holder;
            let mut api = as_holder(&agent, joined, key).api().await.expect("it may connect");
            let key = KeyPair::generate().expect("a key");
            let request = CertificateParams::default().serialize_request(&key).expect("a request");
            let der = request.der().to_vec().into();
            let message = RenewCertificateRequest { certificate_request: der };
            match api.pki.renew_certificate(message).await.map(tonic::Response::into_inner) {
                Ok(answer) => {
                    renewed += 1;
                    assert!(renewed < 20, "it goes on and on");
                    if renewed == 3 {
                        let joined = JoinResponse {
                            certificate: answer.certificate,
                            certificate_pem: answer.certificate_pem,
                            authority_pem: answer.authority_pem,
                        };
                        holder = (joined, key);
                    }
                }
                Err(status) => {
                    refused += 1;
                    assert_eq!(status.code(), Code::InvalidArgument);
                    assert!(status.message().contains("renewed too often"), "{status:?}");
                }
            }
        }
        assert_eq!(renewed, 7, "eight of one invitation hold");
    });
    let issued = fs::read_dir(data.join("pki/issued")).expect("there").count();
    assert_eq!(issued, 8);
    agent.finish();
}

const GET_AGENT: &str = "/conti.v1.AgentService/GetAgent";

/// A client that has joined.
struct Joined {
    remote: Remote,
    serial: String,
}

impl Joined {
    fn as_admin(agent: &Agent, name: &str) -> Joined {
        let words = ["invite", "--role", "admin", "--name", name];
        let (id, secret) = parts(&text(&contid(&agent.path("data"), &words)));
        let (joined, key) = agent.block_on(join(&guest(agent), &id, &secret)).expect("invited");
        let remote = as_holder(agent, &joined, &key);
        Joined { remote, serial: joined.certificate.expect("a certificate").serial }
    }

    /// Whether the agent lets it in, which may be another one by now.
    fn is_let_in(&self, agent: &Agent) -> bool {
        let remote = Remote { port: agent.port(), ..self.remote.clone() };
        agent.block_on(remote.knock(GET_AGENT)).is_some()
    }

    fn record(&self, agent: &Agent) -> PathBuf {
        agent.path(&format!("data/pki/issued/{}.json", self.serial))
    }

    /// Revokes it, and waits until the agent knows.
    fn revoke(&self, agent: &Agent) {
        text(&contid(&agent.path("data"), &["pki", "revoke", &self.serial]));
        self.is_shut_out(agent);
    }

    fn is_shut_out(&self, agent: &Agent) {
        wait::until_true("it is out", || !self.is_let_in(agent));
    }
}

/// Ways in which a file can come to say nothing any more.
const DAMAGES: [fn(&Path); 4] = [
    |path| fs::write(path, "{\"serial\": \"").expect("written"),
    |path| {
        fs::remove_file(path).expect("removed");
        fs::create_dir(path).expect("a directory");
    },
    |path| {
        let _ = fs::remove_file(path);
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    },
    |path| {
        fs::remove_file(path).expect("removed");
        std::os::unix::fs::symlink("/dev/zero", path).expect("a link");
    },
];

#[test]
fn who_was_revoked_stays_so_whatever_becomes_of_its_record() {
    let mut agent = start();
    let data = agent.path("data");
    let stays = Joined::as_admin(&agent, "stays");
    for (number, damage) in DAMAGES.into_iter().enumerate() {
        let alice = Joined::as_admin(&agent, &format!("alice{number}"));
        let bob = Joined::as_admin(&agent, &format!("bob{number}"));
        alice.revoke(&agent);
        damage(&alice.record(&agent));
        bob.revoke(&agent);
        assert!(!alice.is_let_in(&agent), "with the list that was written for another");
        let shown = text(&contid(&data, &["pki", "ls"]));
        assert!(shown.contains(&alice.serial), "what is damaged is listed: {shown}");
        agent.kill();
        agent.restart();
        assert!(!alice.is_let_in(&agent) && !bob.is_let_in(&agent));
        assert!(stays.is_let_in(&agent), "nobody else is out");
    }
    agent.finish();
}

#[test]
fn a_list_that_is_gone_or_damaged_lets_nobody_in_whom_the_records_call_revoked() {
    let mut agent = start();
    let list = agent.path("data/pki/crl.pem");
    let stays = Joined::as_admin(&agent, "stays");
    let alice = Joined::as_admin(&agent, "alice");
    alice.revoke(&agent);
    let good = fs::read(&list).expect("a list");
    let gone: fn(&Path) = |path| fs::remove_file(path).expect("removed");
    for damage in [gone].into_iter().chain(DAMAGES) {
        // While the agent runs, and when it is started.
        let told = agent.log().matches("were read again").count();
        damage(&list);
        agent.signal(Signal::HUP);
        wait::until_true("it was read", || {
            agent.log().matches("were read again").count() > told || !stays.is_let_in(&agent)
        });
        for _ in 0..2 {
            assert!(!alice.is_let_in(&agent) && stays.is_let_in(&agent));
            agent.kill();
            agent.restart();
        }
        // Without the authority's key nothing can be signed, and it is no different.
        let (key, away) = (agent.path("data/pki/ca.key"), agent.path("ca.key"));
        fs::rename(&key, &away).expect("moved");
        agent.kill();
        agent.restart();
        assert!(!alice.is_let_in(&agent) && stays.is_let_in(&agent));
        fs::rename(&away, &key).expect("moved");
        // Whoever is revoked next is so beside those before.
        let next = Joined::as_admin(&agent, "next");
        if list.is_dir() {
            fs::remove_dir(&list).expect("removed");
        }
        next.revoke(&agent);
        agent.kill();
        agent.restart();
        assert!(!alice.is_let_in(&agent) && !next.is_let_in(&agent));
        assert!(stays.is_let_in(&agent));
        fs::write(&list, &good).expect("written");
    }
    agent.finish();
}

#[test]
fn a_revocation_counts_that_was_cut_off_half_way() {
    let mut agent = start();
    let list = agent.path("data/pki/crl.pem");
    let (alice, bob) = (Joined::as_admin(&agent, "alice"), Joined::as_admin(&agent, "bob"));
    let before = fs::read(&list).ok();
    let record = fs::read(alice.record(&agent)).expect("a record");
    alice.revoke(&agent);
    let after = fs::read(&list).expect("a list");
    let revoked = fs::read(alice.record(&agent)).expect("a record");
    agent.kill();
    // The list without the record, and the record without the list.
    for (list_is, record_is) in [(Some(&after), &record), (before.as_ref(), &revoked)] {
        match list_is {
            Some(bytes) => fs::write(&list, bytes).expect("written"),
            None => fs::remove_file(&list).expect("removed"),
        }
        fs::write(alice.record(&agent), record_is).expect("written");
        agent.restart();
        assert!(!alice.is_let_in(&agent) && bob.is_let_in(&agent));
        let shown = text(&contid(&agent.path("data"), &["pki", "ls"]));
        let line = shown.lines().find(|line| line.contains(&alice.serial)).expect("its line");
        assert_eq!(line.matches('Z').count(), 2, "it is shown as revoked: {line}");
        agent.kill();
    }
    agent.restart();
    agent.finish();
}

#[test]
fn nobody_of_whom_nothing_is_known_is_let_in() {
    let mut agent = start();
    let (alice, bob) = (Joined::as_admin(&agent, "alice"), Joined::as_admin(&agent, "bob"));
    agent.kill();
    fs::write(alice.record(&agent), "{").expect("written");
    agent.restart();
    assert!(alice.is_let_in(&agent), "the list says that it was not revoked");
    // To revoke by name may miss it, which is said.
    let data = agent.path("data");
    let said = contid(&data, &["pki", "revoke", "bob"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains(&alice.serial), "{said}");
    bob.is_shut_out(&agent);
    agent.kill();
    fs::remove_file(agent.path("data/pki/crl.pem")).expect("removed");
    agent.restart();
    assert!(!alice.is_let_in(&agent), "neither record nor list says that it was not");
    // By its serial it is revoked all the same, and that is not forgotten with a new list.
    text(&contid(&data, &["pki", "revoke", &alice.serial]));
    let carol = Joined::as_admin(&agent, "carol");
    carol.revoke(&agent);
    assert!(!alice.is_let_in(&agent));
    agent.finish();
}

#[test]
fn a_certificate_without_a_record_is_refused_once_the_list_was_lost() {
    let mut agent = start();
    let list = agent.path("data/pki/crl.pem");
    let (stays, alice) = (Joined::as_admin(&agent, "stays"), Joined::as_admin(&agent, "alice"));
    alice.revoke(&agent);
    agent.kill();
    fs::remove_file(alice.record(&agent)).expect("removed");
    fs::write(&list, "").expect("written");
    agent.restart();
    assert!(!alice.is_let_in(&agent), "nothing says that it was not revoked");
    assert!(stays.is_let_in(&agent));
    // Whoever joins now has a record, and is in at once.
    let bob = Joined::as_admin(&agent, "bob");
    assert!(bob.is_let_in(&agent));
    // The list that is written next has not forgotten that one was lost.
    bob.revoke(&agent);
    agent.kill();
    agent.restart();
    assert!(!alice.is_let_in(&agent) && !bob.is_let_in(&agent) && stays.is_let_in(&agent));
    // Without any record nobody is known.
    fs::remove_dir_all(agent.path("data/pki/issued")).expect("removed");
    fs::remove_file(&list).expect("removed");
    agent.kill();
    agent.restart();
    assert!(!alice.is_let_in(&agent) && !stays.is_let_in(&agent));
    agent.finish();
}

#[test]
fn a_revocation_that_cannot_be_signed_changes_nothing() {
    let mut agent = start();
    let alice = Joined::as_admin(&agent, "alice");
    let (key, away) = (agent.path("data/pki/ca.key"), agent.path("ca.key"));
    fs::rename(&key, &away).expect("moved");
    let said = contid(&agent.path("data"), &["pki", "revoke", "alice"]);
    assert!(!said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("ca.key"), "{said:?}");
    agent.kill();
    agent.restart();
    assert!(alice.is_let_in(&agent), "nobody was told that it is revoked");
    fs::rename(&away, &key).expect("moved");
    alice.revoke(&agent);
    agent.finish();
}

#[test]
fn calls_that_wait_for_the_authority_take_no_threads_from_others() {
    const CALLS: usize = 80;
    let agent = start();
    let lock = fs::File::create(agent.path("data/pki/lock")).expect("a lock");
    lock.lock().expect("locked");
    let threads = || {
        let tasks = format!("/proc/{}/task", agent.pid());
        fs::read_dir(tasks).expect("the agent is there").count()
    };
    let before = threads();
    agent.api(async |api| {
        let call = |_| {
            let mut pki = api.pki.clone();
            tokio::spawn(
                async move { pki.list_certificates(ListCertificatesRequest::default()).await },
            )
        };
        let calls: Vec<_> = (0..CALLS).map(call).collect();
        let mut most = 0;
        while !calls.iter().all(|call| call.is_finished()) {
            most = most.max(threads());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for call in calls {
            let refused = call.await.expect("no panic").expect_err("another has the lock");
            assert!(refused.message().contains("pki/lock"), "{refused:?}");
        }
        assert!(most < before + CALLS / 2, "{most} threads, {before} before");
    });
    agent.finish();
}

#[test]
fn a_process_that_holds_the_authority_keeps_nobody_waiting_for_ever() {
    let agent = start();
    let lock = fs::File::create(agent.path("data/pki/lock")).expect("a lock");
    lock.lock().expect("locked");
    let listing = || {
        let mut command = Command::new(binary("contid"));
        command.arg("--data-dir").arg(agent.path("data")).args(["pki", "ls"]);
        ended(command)
    };
    let (code, said) = listing();
    assert!(code > 0 && said.contains("pki/lock"), "{said}");
    drop(lock);
    assert_eq!(listing().0, 0);
    // Nor does what is no file.
    DAMAGES[2](&agent.path("data/pki/lock"));
    let (code, said) = listing();
    assert!(code > 0 && said.contains("no regular file"), "{said}");
    agent.finish();
}
