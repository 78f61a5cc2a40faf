//! How many authorities may stand between a certificate and the one that is trusted.

use conti_tests::{
    ctl::Outcome,
    pki::{Authority, Identity},
    remote::Remote,
    wait,
    world::World,
};

/// What `contictl` says to an agent on TCP that it trusts by this authority.
fn whoami(world: &World, authority: &str) -> Outcome {
    let client = world.clients.client("alice", "admin");
    world.files.put("client.pem", &format!("{}{}", client.certificate, client.key));
    world.files.put("agents.pem", authority);
    let path = |name: &str| world.files.path(name).display().to_string();
    let host = format!("tcp://localhost:{}", world.agent.port());
    let files = [path("agents.pem"), path("client.pem"), path("client.pem")];
    let [ca, certificate, key] = &files;
    let words = ["--host", &host, "--tls-ca", ca, "--tls-cert", certificate, "--tls-key", key];
    world.agent.ctl(words.into_iter().chain(["whoami"])).run()
}

/// A world that trusts this authority of clients.
fn trusting(clients: &Authority) -> World {
    let world = World::start("");
    world.files.put("ca.pem", &clients.pem);
    world.files.put("crl.pem", &clients.revoke(&[]));
    // The next handshake is done with it when one is that only it lets in.
    let known = clients.client_with_chain("known", "viewer");
    world.agent.block_on(async {
        loop {
            match world.remote(Some(&known)).api().await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    });
    world
}

fn let_in(world: &World, identity: &Identity) -> bool {
    world.agent.block_on(async { world.remote(Some(identity)).api().await.is_ok() })
}

#[test]
fn below_an_authority_that_allows_no_other_none_is_accepted() {
    let root = Authority::root("root", Some(0));
    let world = trusting(&root);
    let sub = root.below("sub", None);
    assert!(let_in(&world, &root.client("alice", "admin")));
    assert!(let_in(&world, &root.client_with_chain("alice", "admin")));
    assert!(!let_in(&world, &sub.client_with_chain("mallory", "admin")));
    let deeper = sub.below("deeper", None).client_with_chain("mallory", "admin");
    assert!(!let_in(&world, &deeper));
    assert!(world.agent.log().contains("pathLenConstraint"), "{}", world.agent.log());
    world.agent.finish();
}

#[test]
fn an_authority_that_allows_some_others_is_taken_at_its_word() {
    let root = Authority::root("root", Some(1));
    let world = trusting(&root);
    let sub = root.below("sub", None);
    assert!(let_in(&world, &sub.client_with_chain("alice", "admin")));
    let deeper = sub.below("deeper", None).client_with_chain("mallory", "admin");
    assert!(!let_in(&world, &deeper));
    world.agent.finish();
}

#[test]
fn an_authority_that_allows_any_other_goes_on_working_beside_one_that_allows_none() {
    let (open, closed) = (Authority::make("open"), Authority::root("closed", Some(0)));
    let world = trusting(&open);
    world.files.put("ca.pem", &format!("{}{}", open.pem, closed.pem));
    let known = closed.client("bob", "viewer");
    wait::until_true("both are trusted", || let_in(&world, &known));
    let deep = open.below("sub", None).below("deeper", None);
    assert!(let_in(&world, &deep.client_with_chain("alice", "admin")));
    let sub = closed.below("sub", None);
    assert!(!let_in(&world, &sub.client_with_chain("mallory", "admin")));
    world.agent.finish();
}

#[test]
fn a_client_does_not_talk_to_an_agent_below_an_authority_that_allows_no_other() {
    let world = World::start("");
    let root = Authority::root("root", Some(0));
    let sub = root.below("sub", None);
    let alice = world.clients.client("alice", "admin");
    // One that looks at no more than webpki sees when the agent has read its certificate again.
    let reached = |authority: &Authority| {
        let remote = Remote::new(world.agent.port(), &root.pem, Some(&alice));
        world.files.put_server(&authority.server(), &authority.pem);
        wait::until_true("the agent shows its new certificate", || {
            world.agent.block_on(async { remote.api().await.is_ok() })
        });
    };
    reached(&sub);
    let refused = whoami(&world, &root.pem);
    assert!(refused.code != 0, "{refused:?}");
    // As at first, so that what comes next is told from it.
    world.files.put_server(&world.server.server(), &world.server.pem);
    wait::until_true("the agent shows its first certificate", || {
        whoami(&world, &world.server.pem).code == 0
    });
    reached(&root);
    assert_eq!(whoami(&world, &root.pem).code, 0);
    world.agent.finish();
}
