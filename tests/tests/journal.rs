//! The journal of a session: what a reader gets who follows, is slow, or comes late.

use std::time::Duration;

use conti_proto::v1::{
    Gap, GetSessionRequest, ReadSessionRequest, StartSessionRequest, WaitSessionRequest,
    read_session_response::Message as Read, stream_response::Message as Receive,
};
use conti_tests::{
    Agent,
    api::{Api, process, session, shell, sleeper},
    wire::{self, Wire},
};

/// Reads the whole journal of a session by the plain call.
async fn read(api: &mut Api, request: ReadSessionRequest) -> (Vec<u8>, Vec<Gap>) {
    let mut responses = api.sessions.read_session(request).await.expect("read").into_inner();
    let (mut stdout, mut gaps) = (Vec::new(), Vec::new());
    while let Some(response) = responses.message().await.expect("the stream goes on") {
        match response.message.expect("a message") {
            Read::Output(output) => stdout.extend_from_slice(&output.data),
            Read::Gap(gap) => gaps.push(gap),
            Read::End(_) => {}
        }
    }
    (stdout, gaps)
}

#[test]
fn reading_follows_until_the_end_when_asked() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let spec = session("c", shell("for i in 1 2 3; do echo $i; sleep 0.2; done"));
        let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
        let started = api.sessions.start_session(request).await.expect("started").into_inner();
        let session_id = started.session.expect("a session").id;
        let request = ReadSessionRequest {
            session_id: session_id.clone(),
            follow: true,
            ..Default::default()
        };
        assert_eq!(read(&mut api, request).await.0, b"1\n2\n3\n");
        let request = ReadSessionRequest { session_id, offset: Some(2), follow: true };
        assert_eq!(read(&mut api, request).await.0, b"2\n3\n");
    });
    agent.finish();
}

#[test]
fn with_a_reader_attached_the_producer_waits_and_nothing_is_lost() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let total = 32 << 20;
        let mut open =
            wire::start(session("c", process(["head", "-c", &total.to_string(), "/dev/zero"])));
        open.output_window = 64 * 1024;
        let mut wire = Wire::open(&mut api, open).await.expect("starts");
        // No acknowledgement: no more than the window may come.
        let mut got = 0;
        while let Ok(next) = tokio::time::timeout(Duration::from_secs(1), wire.next()).await {
            match next.expect("the stream goes on") {
                Some(Receive::Output(output)) => got += output.data.len(),
                other => panic!("{other:?}"),
            }
        }
        assert!(got > 0 && got <= 64 * 1024, "{got} bytes came without acknowledgement");
        wire.opened.output_offset = got as u64;
        wire.ack(got as u64).await;
        let all = wire.collect().await;
        assert!(all.gaps.is_empty());
        assert_eq!(all.end.stdout_bytes, total as u64);
        assert_eq!(all.end.dropped_bytes, 0);
        assert_eq!(all.stdout.len() + got, total);
    });
    agent.finish();
}

#[test]
fn with_nobody_attached_the_oldest_is_dropped_and_a_gap_says_so() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let total: u64 = 32 << 20;
        let spec = session("c", shell(&format!("head -c {total} /dev/zero; printf last")));
        let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
        let started = api.sessions.start_session(request).await.expect("started").into_inner();
        let session_id = started.session.expect("a session").id;
        let wait = WaitSessionRequest { session_id: session_id.clone() };
        let end =
            api.sessions.wait_session(wait).await.expect("nobody reads, it ends all the same");
        let end = end.into_inner().end.expect("an end");
        assert_eq!(end.stdout_bytes, total + 4);

        let request = GetSessionRequest { session_id: session_id.clone() };
        let session = api.sessions.get_session(request).await.expect("there").into_inner().session;
        let retained = session.expect("a session").retained_offset;
        assert!(retained > 0, "32 MiB do not fit the journal");

        let request =
            ReadSessionRequest { session_id: session_id.clone(), offset: Some(0), follow: true };
        let (stdout, gaps) = read(&mut api, request).await;
        assert_eq!(gaps.first().map(|gap| gap.offset), Some(0), "{gaps:?}");
        let missing: u64 = gaps.iter().map(|gap| gap.length).sum();
        assert_eq!(stdout.len() as u64 + missing, total + 4);
        assert!(stdout.ends_with(b"last"), "the newest is kept");
        assert_eq!(end.dropped_bytes, missing);

        let wire =
            Wire::open(&mut api, wire::attach(&session_id, Some(0))).await.expect("attaches");
        let all = wire.collect().await;
        assert_eq!(all.gaps.iter().map(|gap| gap.length).sum::<u64>(), missing);
        assert!(all.stdout.ends_with(b"last"));
    });
    agent.finish();
}
