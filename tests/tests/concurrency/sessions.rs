//! One session.

use std::collections::BTreeMap;

use conti_proto::v1::{self, SessionEnd};
use conti_tests::{
    api::{self, Api, session, sleeper},
    wire::{self, Wire},
};
use tonic::{Code, Status};

use crate::{AT_ONCE, Call, at_once, pairs, slowed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Close,
    Resize,
    Hangup,
    Kill,
    Drive,
}

/// A line that says who wrote it, long enough that two writers could mix.
fn line(number: usize) -> String {
    format!("{}\n", format!("{number:04}").repeat(2000))
}

/// The number of the writer, where its line was taken.
fn call(api: &Api, id: &str, kind: Kind, number: usize) -> Call<Option<usize>> {
    let (mut api, session_id) = (api.clone(), id.to_owned());
    Box::pin(async move {
        match kind {
            Kind::Write => {
                let data = line(number).into();
                let request = v1::WriteSessionRequest { session_id, data, offset: None };
                return api.sessions.write_session(request).await.map(|_| Some(number));
            }
            Kind::Close => {
                let request = v1::CloseSessionInputRequest { session_id };
                api.sessions.close_session_input(request).await.map(drop)
            }
            Kind::Resize => {
                let size = Some(v1::TerminalSize { columns: 80, rows: 20 + number as u32 });
                let request = v1::ResizeSessionRequest { session_id, size };
                api.sessions.resize_session(request).await.map(drop)
            }
            Kind::Hangup | Kind::Kill => {
                let signal = if kind == Kind::Kill { "KILL" } else { "HUP" }.to_owned();
                let request = v1::SignalSessionRequest { session_id, signal };
                api.sessions.signal_session(request).await.map(drop)
            }
            Kind::Drive => drive(&mut api, &session_id).await,
        }
        .map(|()| None)
    })
}

async fn drive(api: &mut Api, id: &str) -> Result<(), Status> {
    Wire::open(api, wire::attach(id, None)).await.map(drop)
}

async fn end(api: &mut Api, id: &str) -> SessionEnd {
    let request = v1::WaitSessionRequest { session_id: id.to_owned() };
    let answer = api.sessions.wait_session(request).await.expect("it ends").into_inner();
    answer.end.expect("an end")
}

#[test]
fn calls_to_one_session_mix_no_input_and_lead_to_one_end() {
    let agent = slowed();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("it runs");
        let kinds = [Kind::Write, Kind::Close, Kind::Resize, Kind::Hangup, Kind::Kill, Kind::Drive];
        for (one, other) in pairs(&kinds) {
            let mut cat = api::process(["cat"]);
            cat.stdin = true;
            let policy = v1::SessionPolicy {
                disconnect_policy: v1::DisconnectPolicy::Detach.into(),
                ..Default::default()
            };
            let spec = v1::SessionSpec { policy: Some(policy), ..session("c", cat) };
            let request = v1::StartSessionRequest { spec: Some(spec), ..Default::default() };
            let started = api.sessions.start_session(request).await.expect("it runs").into_inner();
            let id = started.session.expect("a session").id;
            let calls = (0..AT_ONCE)
                .map(|number| call(&api, &id, if number % 2 == 0 { one } else { other }, number));
            let answers = at_once(calls.collect()).await;
            let what = format!("{one:?} and {other:?}: {:?}", answers.codes);
            // It has ended, or its input is closed, or it has no terminal.
            let taken: Vec<usize> = answers
                .only(&[Code::FailedPrecondition, Code::Aborted])
                .into_iter()
                .flatten()
                .collect();
            let closed = v1::CloseSessionInputRequest { session_id: id.clone() };
            api.sessions.close_session_input(closed).await.expect("it may be closed twice");
            // All who ask are told the same end.
            let first = end(&mut api, &id).await;
            assert_eq!(end(&mut api, &id).await, first, "{what}");
            let killed = [one, other].iter().any(|k| [Kind::Hangup, Kind::Kill].contains(k));
            if killed {
                continue;
            }
            assert_eq!(api::exit_code(&first), 0, "{what}");
            let wire = Wire::open(&mut api, wire::view(&id)).await.expect("it can be looked at");
            let all = String::from_utf8(wire.collect().await.stdout).expect("text");
            let mut lines: BTreeMap<String, usize> = BTreeMap::new();
            for line in all.lines() {
                *lines.entry(format!("{line}\n")).or_insert(0) += 1;
            }
            let wanted = taken.iter().map(|number| (line(*number), 1)).collect();
            assert_eq!(lines, wanted, "{what}: what was taken is there once and whole");
        }
    });
    agent.finish();
}
