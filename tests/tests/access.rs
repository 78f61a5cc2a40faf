//! Who may call what, from another machine and from this one.

use conti_proto::{
    METHODS,
    v1::{GetCallerRequest, Role},
};
use conti_tests::{
    Agent, api,
    api::reason,
    pki::{Authority, Leaf},
    remote::{Remote, knock},
    user::Common,
    wait,
    wire::{self, Wire},
    world::World,
};
use tonic::Code;

/// Methods of other contracts that are served as well.
const FOREIGN: [(&str, Role); 3] = [
    ("/grpc.health.v1.Health/Check", Role::Viewer),
    ("/grpc.health.v1.Health/Watch", Role::Viewer),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Role::Viewer),
];

#[test]
fn every_method_is_for_its_role_and_those_above_and_for_nobody_else() {
    let world = World::start("");
    let own = METHODS.iter().copied().filter(|(_, role)| *role != Role::Guest);
    let methods: Vec<_> = own.chain(FOREIGN).collect();
    world.agent.block_on(async {
        let roles =
            [("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)];
        for (name, role) in roles {
            let channel = world.as_role(name, name).channel().await.expect("it may connect");
            for (path, least) in &methods {
                let status = knock(channel.clone(), path).await;
                let status = status.unwrap_or_else(|| panic!("{path} as {name} broke off"));
                // Without a target this one shows the whole host.
                let host = path.ends_with("/ListNamespaces") && role != Role::Admin;
                if role < *least || host {
                    assert_eq!(
                        status.code(),
                        Code::PermissionDenied,
                        "{path} as {name}: {status:?}"
                    );
                    assert_eq!(reason(&status), "PERMISSION_DENIED");
                } else {
                    let denied =
                        [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented];
                    assert!(!denied.contains(&status.code()), "{path} as {name}: {status:?}");
                }
            }
            let guest = knock(channel, "/conti.v1.JoinService/Join").await.map(|s| s.code());
            assert_eq!(guest, Some(Code::Unimplemented), "joining is for guests");
        }
        let stranger = world.as_role("eve", "").channel().await.expect("its certificate is good");
        for (path, _) in &methods {
            let status = knock(stranger.clone(), path).await.expect("an answer");
            assert_eq!(status.code(), Code::PermissionDenied, "{path} without a role: {status:?}");
        }
    });
    world.agent.finish();
}

#[test]
fn whoever_has_no_good_certificate_calls_no_method() {
    let world = World::start("");
    let other = Authority::make("others");
    let leaf = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = Leaf::client("alice", "admin");
        change(&mut leaf);
        world.clients.issue(&leaf)
    };
    let revoked = world.clients.client("mallory", "admin");
    world.files.put("crl.pem", &world.clients.revoke(&[&revoked]));
    let refused = [
        ("no certificate", None),
        ("another authority's", Some(other.client("alice", "admin"))),
        ("expired", Some(leaf(&|leaf| leaf.expired = true))),
        ("for servers only", Some(leaf(&|leaf| leaf.server = true))),
        ("without a name", Some(leaf(&|leaf| leaf.name.clear()))),
        ("of a reserved name", Some(leaf(&|leaf| leaf.name = "uid:0".into()))),
        ("revoked", Some(revoked)),
    ];
    world.agent.block_on(async {
        let alice = world.as_role("alice", "admin");
        assert_eq!(alice.knock("/conti.v1.AgentService/GetAgent").await, Some(Code::Ok));
    });
    wait::until_true("the revocation list was read again", || {
        world.agent.log().contains("the certificates were read again")
    });
    world.agent.block_on(async {
        for (what, identity) in &refused {
            let remote = world.remote(identity.as_ref());
            for (path, _) in METHODS {
                assert_eq!(remote.knock(path).await, None, "{path} with a certificate: {what}");
            }
        }
        let other = Remote { alpn: vec![b"http/1.1".to_vec()], ..world.as_role("alice", "admin") };
        assert!(other.shake().await.is_err(), "HTTP/1.1 is not spoken");
    });
    world.agent.finish();
}

#[test]
fn no_version_of_tls_before_1_3_is_spoken() {
    let world = World::start("");
    let script = "import socket, ssl, sys\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n\
        context.check_hostname = False\n\
        context.verify_mode = ssl.CERT_NONE\n\
        context.maximum_version = getattr(ssl.TLSVersion, sys.argv[2])\n\
        stream = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
        print(context.wrap_socket(stream).version())\n";
    let shake = |version: &str| {
        let port = world.agent.port().to_string();
        let python =
            std::process::Command::new("python3").args(["-c", script, &port, version]).output();
        python.expect("python3 can be started")
    };
    let new = shake("TLSv1_3");
    assert_eq!(String::from_utf8_lossy(&new.stdout).trim(), "TLSv1.3", "{new:?}");
    let old = shake("TLSv1_2");
    assert!(
        !old.status.success() && String::from_utf8_lossy(&old.stderr).contains("ALERT"),
        "{old:?}"
    );
    world.agent.finish();
}

#[test]
fn a_path_that_is_not_exactly_a_method_is_never_served() {
    let world = World::start("");
    world.agent.block_on(async {
        let channel = world.as_role("root", "admin").channel().await.expect("it may connect");
        for path in [
            "//conti.v1.AgentService/GetAgent",
            "/conti.v1.AgentService//GetAgent",
            "/conti.v1.AgentService/GetAgent/",
            "/conti.v1.AgentService%2fGetAgent",
            "/conti.v1.AgentService%2FGetAgent",
            "/conti.v1.agentservice/getagent",
            "/CONTI.V1.AGENTSERVICE/GETAGENT",
            "/conti.v1.AgentService/../AgentService/GetAgent",
            "/conti.v1.AgentService/Nothing",
            "/conti.v2.AgentService/GetAgent",
            "/",
        ] {
            let status = knock(channel.clone(), path).await.expect("an answer");
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
            assert_eq!(reason(&status), "METHOD_UNKNOWN", "{path}");
        }
    });
    world.agent.finish();
}

#[test]
fn a_caller_is_told_who_it_is() {
    let world = World::start(
        "[[caller]]\nidentity = \"spiffe://corp/*\"\nrole = \"operator\"\nlabels = { team = \"blue\" }\n",
    );
    let ci = Leaf { uris: vec!["spiffe://corp/ci".into()], ..Leaf::client("ignored", "admin") };
    let ci = world.clients.issue(&ci);
    world.agent.block_on(async {
        let mut api = world.remote(Some(&ci)).api().await.expect("it may look");
        let answer = api.agent.get_caller(GetCallerRequest {}).await.expect("an answer");
        let caller = answer.into_inner().caller.expect("a caller");
        assert_eq!(caller.identity, "spiffe://corp/ci");
        assert_eq!(caller.role(), Role::Operator, "the policy goes before the certificate");
        assert_eq!(caller.labels["team"], "blue");
        assert!(caller.address.starts_with("127.0.0.1:"), "{}", caller.address);
        assert!(caller.certificate_expire_time.is_some() && !caller.certificate_serial.is_empty());
    });
    let caller = world.agent.api(async |mut api| {
        api.agent.get_caller(GetCallerRequest {}).await.expect("an answer").into_inner().caller
    });
    let caller = caller.expect("a caller");
    assert_eq!((caller.identity.as_str(), caller.role()), ("uid:0", Role::Admin));
    world.agent.finish();
}

#[test]
fn a_role_that_the_policy_gives_or_takes_holds_from_the_next_call_on() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("alice", "viewer").api().await.expect("it may look");
        let made = api.create(api::sleeper("a")).await.expect_err("a viewer makes nothing");
        assert_eq!(made.code(), Code::PermissionDenied);
        world.files.put("policy.toml", "[[caller]]\nidentity = \"alice\"\nrole = \"operator\"\n");
        let mut made = Err(made);
        for _ in 0..300 {
            made = api.create(api::sleeper("a")).await;
            if made.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        made.expect("on the same connection, once the policy was read again");
        // One that cannot be used changes nothing.
        world.files.put("policy.toml", "[[caller]]\nidentity = \"alice\"\nrole = \"king\"\n");
    });
    wait::until_true("the bad policy was told", || world.agent.log().contains("goes on holding"));
    world.agent.block_on(async {
        let mut api = world.as_role("alice", "viewer").api().await.expect("it may look");
        api.delete("a").await.expect("the policy before holds");
    });
    world.agent.finish();
}

#[test]
fn a_local_user_has_the_role_that_the_policy_gives_it_and_one_without_is_told_so() {
    const KNOWN: u32 = 64_001;
    const OF_A_GROUP: u32 = 64_002;
    const UNKNOWN: u32 = 64_003;
    let common = Common::default();
    let policy = format!(
        "[[caller]]\nuid = {KNOWN}\nrole = \"viewer\"\n[[caller]]\ngid = {OF_A_GROUP}\nrole = \"operator\"\n"
    );
    let agent = Agent::start_with(|dir| {
        let path = dir.join("policy.toml");
        std::fs::write(&path, policy).expect("a policy");
        let open = format!("unix://{}", common.socket().display());
        vec!["--listen".into(), open.into(), "--policy".into(), path.into_os_string()]
    });
    agent.block_on(async {
        for (id, role) in [(KNOWN, Role::Viewer), (OF_A_GROUP, Role::Operator), (0, Role::Admin)] {
            let channel = common.channel(id).await.expect("it may connect");
            for (path, least) in METHODS.iter().filter(|(_, role)| *role != Role::Guest) {
                let status = knock(channel.clone(), path).await;
                let code = status.unwrap_or_else(|| panic!("{path} as {role:?} broke off")).code();
                let host = path.ends_with("/ListNamespaces") && role != Role::Admin;
                let denied = role < *least || host;
                assert_eq!(code == Code::PermissionDenied, denied, "{path} as {role:?}: {code:?}");
            }
        }
        // Nothing is for it, and it is told why.
        let channel = common.channel(UNKNOWN).await.expect("it may connect");
        for (path, _) in METHODS {
            let refused = knock(channel.clone(), path).await.expect("an answer");
            assert_eq!(refused.code(), Code::PermissionDenied, "{path}: {refused:?}");
            assert!(refused.message().contains("uid:64003 has no role"), "{refused:?}");
        }
    });
    agent.finish();
}

#[test]
fn the_socket_is_for_root_alone_where_no_policy_knows_other_users() {
    let common = Common::default();
    let agent = Agent::start_with(|_| {
        vec!["--listen".into(), format!("unix://{}", common.socket().display()).into()]
    });
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(common.socket()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = agent.block_on(async {
        match common.channel(64_001).await {
            Ok(channel) => knock(channel, "/conti.v1.AgentService/GetAgent").await,
            Err(_) => None,
        }
    });
    assert!(refused.is_none(), "{refused:?}");
    agent.finish();
}

#[test]
fn who_may_do_less_now_loses_what_it_has_open_and_may_come_back_for_the_rest() {
    let policy = |role: &str| format!("[[caller]]\nidentity = \"alice\"\nrole = \"{role}\"\n");
    let world = World::start(&policy("operator"));
    world.agent.block_on(async {
        let remote = world.as_role("alice", "admin");
        let mut api = remote.api().await.expect("it may connect");
        let session_id = api.run(api::sleeper("a")).await.expect("it may").session_id;
        let mut open = Wire::open(&mut api, wire::attach(&session_id, None)).await.expect("it may");
        let mut other = world.as_role("bob", "viewer").api().await.expect("it may connect");
        world.files.put("policy.toml", &policy("viewer"));
        open.next().await.expect_err("the connection is closed");
        let mut api = remote.api().await.expect("it may connect");
        assert_eq!(api.list().await.len(), 1, "a viewer lists");
        let refused = Wire::open(&mut api, wire::attach(&session_id, None)).await;
        assert_eq!(refused.err().expect("it would drive").code(), Code::PermissionDenied);
        assert_eq!(other.list().await.len(), 1, "nobody else is disturbed");
    });
    world.agent.finish();
}
