//! What the policy says of the audit log: which calls stand in it, and what becomes of those that cannot.

use std::fs;

use conti_tests::audit::{SMALL_DISK, behind, entries, fill, last, lost, read, with_policy};
use serde_json::Value;

const STREAM: &str = "/conti.v1.SessionService/Stream";

#[test]
fn looks_at_containers_are_recorded_only_where_the_policy_wants_all_calls() {
    for (policy, wanted) in [("", false), ("[audit]\ncalls = \"all\"", true)] {
        let agent = with_policy(policy);
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
        agent.ok(["ps"]);
        agent.ok(["procs", "c"]);
        // What comes behind them is there: so would they be.
        agent.ok(["exec", "c", "--", "true"]);
        last(&agent, STREAM);
        let all = entries(&agent);
        for (method, target) in [
            ("/conti.v1.ContainerService/ListContainers", Value::Null),
            ("/conti.v1.ProcessService/ListProcesses", "c".into()),
        ] {
            let told: Vec<(&str, &Value)> = all
                .iter()
                .filter(|entry| entry["method"] == method)
                .map(|entry| (entry["event"].as_str().expect("a word"), &entry["target"]))
                .collect();
            let both = vec![("begin", &target), ("end", &target)];
            assert_eq!(told, if wanted { both } else { vec![] }, "{method} with {policy:?}");
        }
        agent.finish();
    }
}

#[test]
fn what_cannot_be_recorded_is_carried_out_where_the_policy_allows_it() {
    const CALLS: usize = 8;
    let agent = behind(SMALL_DISK, "[audit]\non_failure = \"allow\"");
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let (inside, filler) = fill(&agent);
    // What was there before may have left some room in its last page: less than these need.
    let long = "x".repeat(1000);
    for _ in 0..CALLS {
        agent.ok(["exec", "c", "--", "sh", "-c", "echo >> /tmp/ran", &long]);
    }
    fs::remove_file(&filler).expect("removed");
    let ran = agent.ok(["exec", "c", "--", "sh", "-c", "wc -l < /tmp/ran"]);
    assert_eq!(ran, CALLS.to_string());
    let all = read(&inside.join("audit.jsonl"));
    let begun =
        |entry: &&Value| entry["event"] == "begin" && entry["argv"][2] == "echo >> /tmp/ran";
    let missing = CALLS - all.iter().filter(begun).count();
    assert!(missing > 0, "the log could be written all the time");
    assert!(lost(&all) >= missing as u64, "that some are missing is told: {all:?}");
    agent.finish();
}

#[test]
fn a_policy_can_have_arguments_hashed_with_a_key_of_the_agent() {
    let mut agent = with_policy("[audit]\narguments = \"hashed\"");
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let hash = |agent: &conti_tests::Agent, word: &str| {
        agent.ok(["exec", "c", "--", "true", word]);
        let (begin, _) = last(agent, STREAM);
        let argv = begin["argv"].as_array().expect("words").clone();
        assert_eq!((argv.len(), &argv[0]), (2, &"true".into()), "{argv:?}");
        argv[1].as_str().expect("text").to_owned()
    };
    let first = hash(&agent, "hunter2");
    assert!(first.starts_with("hmac-sha256:") && first.len() == 12 + 64, "{first}");
    assert_ne!(hash(&agent, "hunter3"), first);
    agent.terminate();
    agent.restart();
    assert_eq!(hash(&agent, "hunter2"), first, "the key is kept");
    let text = fs::read_to_string(agent.path("audit/audit.jsonl")).expect("text");
    assert!(!text.contains("hunter"), "{text}");
    let key = fs::metadata(agent.path("data/audit.key")).expect("a key");
    assert_eq!(
        (key.len(), std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777),
        (32, 0o600)
    );
    agent.finish();
}
