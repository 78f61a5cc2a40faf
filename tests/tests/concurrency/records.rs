//! Invitations, certificates and recordings.

use std::{collections::BTreeSet, ffi::OsString, process::Command};

use conti_proto::v1;
use conti_tests::{
    Agent,
    agent::binary,
    api::{self, Api, session, shell, sleeper},
    guest,
    wire::{self, Wire},
};
use tonic::Code;

use crate::{AT_ONCE, Call, at_once, slowed};

/// An agent with an authority of its own.
fn with_authority() -> Agent {
    Agent::start_as(
        |_| ["env", "CONTI_TEST_DELAYS=20"].map(Into::into).to_vec(),
        |dir| {
            let mut init = Command::new(binary("contid"));
            init.arg("--data-dir").arg(dir.join("data")).args(["pki", "init"]);
            assert!(init.output().expect("contid can be started").status.success());
            vec![OsString::from("--listen"), "tcp://127.0.0.1:0".into()]
        },
    )
}

async fn invite(api: &mut Api, name: &str) -> (String, Vec<u8>) {
    let request = v1::CreateInvitationRequest {
        name: name.to_owned(),
        role: v1::Role::Viewer.into(),
        addresses: vec!["localhost:1".to_owned()],
        ..Default::default()
    };
    let made = api.pki.create_invitation(request).await.expect("it is made").into_inner();
    guest::parts(&made.code)
}

fn withdraw(api: &Api, id: &str) -> Call<bool> {
    let (mut api, id) = (api.clone(), id.to_owned());
    Box::pin(async move {
        let request = v1::DeleteInvitationRequest { id };
        api.pki.delete_invitation(request).await.map(|_| false)
    })
}

async fn certificates(api: &mut Api, name: &str) -> Vec<v1::Certificate> {
    let request = v1::ListCertificatesRequest { page_size: 1000, ..Default::default() };
    let all = api.pki.list_certificates(request).await.expect("they are listed").into_inner();
    all.certificates.into_iter().filter(|one| one.name == name).collect()
}

#[test]
fn an_invitation_is_used_or_withdrawn_once_whoever_is_first() {
    let agent = with_authority();
    let guests = guest::guest(&agent);
    agent.api(async |mut api| {
        for round in 0..8 {
            let name = format!("guest-{round}");
            let (id, secret) = invite(&mut api, &name).await;
            // No more guests than one address may have at a time.
            let mut calls: Vec<Call<bool>> =
                (0..AT_ONCE - 4).map(|_| withdraw(&api, &id)).collect();
            for _ in 0..4 {
                let (guests, id, secret) = (guests.clone(), id.clone(), secret.clone());
                calls.push(Box::pin(async move {
                    guest::join(&guests, &id, &secret).await.map(|_| true)
                }));
            }
            let answers = at_once(calls).await;
            let done = answers.only(&[Code::NotFound, Code::PermissionDenied]);
            assert_eq!(done.len(), 1, "round {round}");
            // A certificate is there exactly where somebody has joined.
            assert_eq!(certificates(&mut api, &name).await.len(), usize::from(done[0]));
            if done[0] {
                // Revoked many times at once, it is revoked, and once.
                let calls = (0..AT_ONCE).map(|_| -> Call<usize> {
                    let (mut api, name) = (api.clone(), name.clone());
                    Box::pin(async move {
                        let which = Some(v1::revoke_certificate_request::Which::Name(name));
                        let request = v1::RevokeCertificateRequest { which };
                        let answer = api.pki.revoke_certificate(request).await?;
                        Ok(answer.into_inner().certificates.len())
                    })
                });
                at_once(calls.collect()).await.only(&[Code::NotFound, Code::FailedPrecondition]);
                let after = certificates(&mut api, &name).await;
                assert!(after.iter().all(|one| one.revoke_time.is_some()) && after.len() == 1);
            }
        }
    });
    agent.finish();
}

#[test]
fn sessions_that_begin_at_once_are_all_recorded() {
    let agent = slowed();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("it runs");
        let calls = (0..AT_ONCE).map(|number| -> Call<String> {
            let mut api = api.clone();
            Box::pin(async move {
                let policy = v1::SessionPolicy { record: true, ..Default::default() };
                let process = shell(&format!("echo this is {number}"));
                let spec = v1::SessionSpec { policy: Some(policy), ..session("c", process) };
                let wire = Wire::open(&mut api, wire::start(spec)).await?;
                let id = wire.opened.session.as_ref().expect("a session").id.clone();
                let all = wire.collect().await;
                assert_eq!(api::exit_code(&all.end), 0);
                Ok(id)
            })
        });
        let started = at_once(calls.collect()).await.only(&[]);
        let request = v1::ListRecordingsRequest { page_size: 1000, ..Default::default() };
        let listed = api.sessions.list_recordings(request).await.expect("they are listed");
        let listed = listed.into_inner().recordings;
        let ids = |all: Vec<String>| all.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(ids(listed.into_iter().map(|one| one.session_id).collect()), ids(started));
    });
    agent.finish();
}
