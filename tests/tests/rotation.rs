//! Certificates, authorities and revocation lists that are exchanged while calls are in flight.

use std::time::Duration;

use conti_proto::v1::GetAgentRequest;
use conti_tests::{
    api::{process, session, sleeper},
    pki::Authority,
    wait,
    wire::{self, Wire},
    world::World,
};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

const GET_AGENT: &str = "/conti.v1.AgentService/GetAgent";
const PATIENCE: Duration = Duration::from_secs(60);

/// The certificate that the agent shows now.
async fn shown(world: &World) -> Vec<u8> {
    let stream = world.as_role("looker", "viewer").shake().await.expect("it may connect");
    stream.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
}

#[test]
fn a_new_certificate_is_served_and_no_call_in_flight_is_dropped() {
    let world = World::start("");
    world.agent.block_on(async {
        let remote = world.as_role("alice", "operator");
        let mut api = remote.api().await.expect("it may connect");
        api.run(sleeper("a")).await.expect("it may");
        let mut open = Wire::open(&mut api, wire::start(session("a", stdin(process(["cat"])))))
            .await
            .expect("a stream");
        open.write("before ").await;
        assert_eq!(open.read_until("before").await, "before ");
        let before = shown(&world).await;
        // Other clients go on calling all the time, on connections old and new.
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let calling = tokio::spawn({
            let remote = remote.clone();
            async move {
                let mut calls = 0_u32;
                let mut kept = remote.api().await.expect("it may connect");
                while stopped.has_changed().is_ok_and(|changed| !changed) {
                    remote.api().await.expect("a new connection while certificates are exchanged");
                    kept.agent.get_agent(GetAgentRequest {}).await.expect("a call on an old one");
                    calls += 1;
                }
                let _ = stopped.changed().await;
                calls
            }
        });
        for _ in 0..3 {
            let last = shown(&world).await;
            world.files.put_server(&world.server.server(), &world.server.pem);
            timeout(PATIENCE, async {
                while shown(&world).await == last {
                    sleep(Duration::from_millis(20)).await;
                }
            })
            .await
            .expect("the new certificate is served");
        }
        assert_ne!(shown(&world).await, before);
        stop.send(true).expect("it still calls");
        assert!(calling.await.expect("no call failed") > 0);
        open.write("after").await;
        assert_eq!(open.read_until("after").await, "after");
        open.close_input().await;
        while let Some(message) = open.next().await.expect("the stream goes on until its end") {
            drop(message);
        }
    });
    world.agent.finish();
}

#[test]
fn what_is_revoked_loses_its_open_connections_too_and_others_do_not() {
    let world = World::start("");
    let mallory = world.clients.client("mallory", "operator");
    world.agent.block_on(async {
        let remote = world.remote(Some(&mallory));
        let mut bad = remote.api().await.expect("it may connect");
        bad.run(sleeper("a")).await.expect("it may");
        let view = bad.get("a").await.expect("it is there").session_id;
        let mut bad = Wire::open(&mut bad, wire::view(&view)).await.expect("a stream");
        let mut good = world.as_role("alice", "viewer").api().await.expect("it may connect");
        let mut stays = Wire::open(&mut good, wire::view(&view)).await.expect("a stream");
        world.files.put("crl.pem", &world.clients.revoke(&[&mallory]));
        let cut = timeout(PATIENCE, async {
            loop {
                match bad.next().await {
                    Ok(Some(_)) => {}
                    other => return other,
                }
            }
        });
        cut.await.expect("the connection is closed").expect_err("it is no proper end");
        assert_eq!(remote.knock(GET_AGENT).await, None, "nor can it come back");
        assert!(
            stays.silent_for(Duration::from_millis(200)).await,
            "the stream of another goes on"
        );
        good.agent.get_agent(GetAgentRequest {}).await.expect("and its calls do");
    });
    world.agent.finish();
}

#[test]
fn an_authority_that_is_removed_takes_its_clients_with_it() {
    let world = World::start("");
    let next = Authority::make("next");
    world.agent.block_on(async {
        let old = world.as_role("alice", "viewer");
        let mut api = old.api().await.expect("it may connect");
        let new = world.remote(Some(&next.client("alice", "viewer")));
        assert_eq!(new.knock(GET_AGENT).await, None);
        world.files.put("ca.pem", &format!("{}{}", world.clients.pem, next.pem));
        world.agent.signal(Signal::HUP);
        timeout(PATIENCE, async {
            while new.knock(GET_AGENT).await.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("both are taken");
        api.agent.get_agent(GetAgentRequest {}).await.expect("on the same connection");
        world.files.put("ca.pem", &next.pem);
        timeout(PATIENCE, async {
            while api.agent.get_agent(GetAgentRequest {}).await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the open connection is closed");
        assert_eq!(old.knock(GET_AGENT).await, None);
        assert!(new.knock(GET_AGENT).await.is_some());
    });
    world.agent.finish();
}

#[test]
fn files_that_do_not_go_together_change_nothing_and_are_told() {
    let world = World::start("");
    let before = world.agent.block_on(shown(&world));
    world.files.put("server.key", &world.server.server().key);
    wait::until_true("it is told", || {
        world.agent.log().contains("the certificates before go on holding")
    });
    assert_eq!(world.agent.block_on(shown(&world)), before);
    world.files.put("ca.pem", "nonsense");
    wait::until_true("it is told what is wrong", || {
        world.agent.log().contains("there is none in it")
    });
    assert_eq!(world.agent.block_on(shown(&world)), before);
    world.agent.finish();
}

#[test]
fn an_expiry_that_is_near_is_told_and_exported() {
    let world = World::start_with("", |dir| {
        vec!["--metrics-listen".into(), format!("unix://{}/metrics.sock", dir.display()).into()]
    });
    let log = || world.agent.log();
    // All certificates of these tests hold for an hour.
    wait::until_true("that of the agent", || {
        log().contains("the agent's certificate expires soon")
    });
    world.agent.block_on(async {
        world.as_role("alice", "viewer").api().await.expect("it may connect");
    });
    wait::until_true("that of a client", || {
        log().contains("the certificate of a client expires soon")
    });
    use std::io::{Read as _, Write as _};
    let socket = world.agent.path("metrics.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("metrics");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n").expect("a request");
    let mut shown = String::new();
    stream.read_to_string(&mut shown).expect("an answer");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    for certificate in ["server", "client_ca"] {
        let name =
            format!("conti_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}} ");
        let value = shown.lines().find_map(|line| line.strip_prefix(&name));
        let value: u64 =
            value.unwrap_or_else(|| panic!("{name} in {shown}")).parse().expect("seconds");
        assert!(value > now.as_secs(), "{certificate}: {value}");
    }
    world.agent.finish();
}

fn stdin(process: conti_proto::v1::ProcessSpec) -> conti_proto::v1::ProcessSpec {
    conti_proto::v1::ProcessSpec { stdin: true, ..process }
}
