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
