//! The trace of a caller: every line that is logged for its call carries the trace's id.

use conti_proto::v1::{
    ContainerSpec, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
};
use conti_tests::{
    Agent,
    api::{container, process, sleeper},
};
use serde_json::Value;
use tonic::{Request, metadata::MetadataValue};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "00f067aa0ba902b7";

fn traced<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(traceparent).expect("it can be sent");
    request.metadata_mut().insert("traceparent", value);
    request
}

fn create(spec: ContainerSpec) -> CreateContainerRequest {
    CreateContainerRequest { spec: Some(spec), start: true, ..Default::default() }
}

/// The lines of the log with this message, in order.
fn lines(agent: &Agent, message: &str) -> Vec<Value> {
    let log = agent.log();
    let lines =
        log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    lines.filter(|line| line["message"] == message).collect()
}

#[test]
fn what_a_call_logs_carries_the_trace_of_its_caller_and_that_of_no_other() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let traceparent = format!("00-{TRACE}-{SPAN}-01");
        let run = traced(create(sleeper("traced")), &traceparent);
        api.containers.create_container(run).await.expect("runs");
        api.run(sleeper("other")).await.expect("runs");
        // A set-up that fails is refused, and the line that says it is part of the call.
        let bad = traced(create(container("bad", process(["nonesuch"]))), &traceparent);
        api.containers.create_container(bad).await.unwrap_err();
        let absent = GetContainerRequest { container: "absent".into() };
        api.containers.get_container(absent.clone()).await.unwrap_err();
        api.containers.get_container(traced(absent, &traceparent)).await.unwrap_err();
        for name in ["traced", "other"] {
            let delete = DeleteContainerRequest {
                container: name.into(),
                force: true,
                ..Default::default()
            };
            let delete = match name {
                "traced" => traced(delete, &traceparent),
                _ => Request::new(delete),
            };
            api.containers.delete_container(delete).await.expect("is deleted");
        }
    });
    for (message, expected) in [
        ("created", vec![true, false]),
        ("refused", vec![true, false, true]),
        ("deleted", vec![true, false]),
    ] {
        let lines = lines(&agent, message);
        let traced: Vec<bool> =
            lines.iter().map(|line| line["span"]["trace_id"] == TRACE).collect();
        assert_eq!(traced, expected, "{message}: {lines:?}");
        for line in lines.iter().filter(|line| line["span"]["trace_id"] == TRACE) {
            assert_eq!(line["span"]["parent_span_id"], SPAN, "{line}");
            assert!(line["span"]["method"].as_str().is_some_and(|m| m.starts_with("/conti.v1.")));
        }
    }
    agent.finish();
}

#[test]
fn a_trace_that_cannot_be_understood_is_ignored_and_reaches_no_log() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        for traceparent in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-0AF7651916CD43DD8448EB211C80319C-00f067aa0ba902b7-01",
            "ff-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
            "\",\"level\":\"ERROR\",\"forged\":\"",
        ] {
            let absent = GetContainerRequest { container: "absent".into() };
            let call = api.containers.get_container(traced(absent, traceparent)).await;
            assert_eq!(call.unwrap_err().code(), tonic::Code::NotFound, "{traceparent:?}");
        }
    });
    assert_eq!(lines(&agent, "refused").len(), 6);
    let log = agent.log();
    for word in ["trace_id", "forged", TRACE] {
        assert!(!log.contains(word), "{word} in {log}");
    }
    agent.finish();
}
