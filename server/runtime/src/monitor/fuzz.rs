//! Fuzz target: what a monitor and its forker say to one another.

use conti_fuzz::target;

use super::forker::{FromForker, ToForker};

#[test]
fn fuzz_forker_protocol() {
    let samples = || {
        let json = |text: &str| text.as_bytes().to_vec();
        vec![
            serde_json::to_vec(&ToForker::Spawn { terminal: true, plan_fds: 3 })
                .expect("plain data"),
            serde_json::to_vec(&FromForker::Spawned { pid: 7 }).expect("plain data"),
            json(r#"{"Failed":{"step":"Exec","argument":"/bin/sh","errno":2}}"#),
            json(r#""Attached""#),
        ]
    };
    target("forker_protocol").seeds(samples).check(|bytes| {
        if let Ok(message) = serde_json::from_slice::<ToForker>(bytes) {
            let again = serde_json::to_vec(&message).expect("plain data");
            let again: ToForker = serde_json::from_slice(&again).expect("what was written is read");
            assert_eq!(format!("{again:?}"), format!("{message:?}"));
        }
        if let Ok(message) = serde_json::from_slice::<FromForker>(bytes) {
            let again = serde_json::to_vec(&message).expect("plain data");
            let again: FromForker =
                serde_json::from_slice(&again).expect("what was written is read");
            assert_eq!(format!("{again:?}"), format!("{message:?}"));
        }
    });
}
