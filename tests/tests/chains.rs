//! How many authorities may stand between a certificate and the one that is trusted.

use conti_tests::{
    pki::{Authority, Identity},
    world::World,
};

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
    conti_tests::wait::until_true("both are trusted", || let_in(&world, &known));
    let deep = open.below("sub", None).below("deeper", None);
    assert!(let_in(&world, &deep.client_with_chain("alice", "admin")));
    let sub = closed.below("sub", None);
    assert!(!let_in(&world, &sub.client_with_chain("mallory", "admin")));
    world.agent.finish();
}
