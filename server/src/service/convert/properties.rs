//! What holds for every message that enters validation.

use conti_proto::v1;
use proptest::prelude::*;
use prost::Message;

use super::{Field, Violations, arbitrary, back, checked, container, session};
use crate::engine::spec::ContainerSpec;

fn convert(message: v1::ContainerSpec) -> Result<ContainerSpec, Violations> {
    checked(|v| container::container(v, Field::root("spec"), Some(message)))
}

/// A refusal names at least one field and what is wrong with it.
fn names_its_faults<T>(result: &Result<T, Violations>) -> bool {
    match result {
        Ok(_) => true,
        Err(v) => {
            v.total() > 0
                && !v.named().is_empty()
                && v.named().iter().all(|(f, p)| !f.is_empty() && !p.is_empty())
        }
    }
}

/// No text of a plan holds a NUL: execve(2) and mount(2) would end it there.
fn without_nul(spec: &ContainerSpec) -> bool {
    !serde_json::to_string(spec).expect("plain data").contains("\\u0000")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_container_is_taken_or_its_faults_are_named(message in arbitrary::container()) {
        let result = convert(message);
        prop_assert!(names_its_faults(&result));
        if let Ok(spec) = result {
            prop_assert!(without_nul(&spec));
        }
    }

    #[test]
    fn any_session_is_taken_or_its_faults_are_named(message in arbitrary::session()) {
        let result =
            checked(|v| session::session(v, Field::root("spec"), Some(message)));
        prop_assert!(names_its_faults(&result));
    }

    #[test]
    fn any_bytes_that_decode_are_taken_or_their_faults_are_named(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        message in arbitrary::container(),
        cut in any::<prop::sample::Index>(),
        flip in any::<u8>(),
    ) {
        if let Ok(message) = v1::ContainerSpec::decode(&bytes[..]) {
            prop_assert!(names_its_faults(&convert(message)));
        }
        // A message that was damaged on its way.
        let mut bytes = message.encode_to_vec();
        if !bytes.is_empty() {
            let at = cut.index(bytes.len());
            bytes[at] ^= flip;
        }
        if let Ok(message) = v1::ContainerSpec::decode(&bytes[..]) {
            prop_assert!(names_its_faults(&convert(message)));
        }
    }

    #[test]
    fn what_is_shown_of_a_container_makes_the_same_container(message in arbitrary::container()) {
        let spec = convert(arbitrary::mend(message));
        prop_assert!(spec.is_ok(), "{:?}", spec);
        let spec = spec.unwrap();
        prop_assert_eq!(convert(back::container(spec.clone())), Ok(spec));
    }
}

#[test]
fn an_empty_request_says_what_is_missing() {
    let result = checked(|v| container::container(v, Field::root("spec"), None));
    let faults = result.unwrap_err();
    let fields: Vec<&str> = faults.named().iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["spec", "spec.process", "spec.process.argv"]);
    let result = checked(|v| session::session(v, Field::root("spec"), None));
    assert!(result.unwrap_err().named().iter().any(|(field, _)| field == "spec.target"));
}

#[test]
fn an_environment_of_ten_megabytes_is_refused() {
    let process = v1::ProcessSpec {
        argv: vec!["true".into()],
        env: (0..100).map(|n| (format!("E{n}"), "x".repeat(100_000))).collect(),
        ..Default::default()
    };
    let message = v1::ContainerSpec { process: Some(process), ..Default::default() };
    let faults = convert(message).unwrap_err();
    assert_eq!(faults.named()[0].0, "spec.process.env");
}

#[test]
fn an_identity_is_a_name_or_an_id() {
    let with = |user: &str| {
        let user = v1::User { user: user.into(), ..Default::default() };
        let process =
            v1::ProcessSpec { argv: vec!["true".into()], user: Some(user), ..Default::default() };
        convert(v1::ContainerSpec { process: Some(process), ..Default::default() })
    };
    for user in ["", "root", "0", "4294967294", "www-data", "a b", "+x"] {
        assert!(with(user).is_ok(), "{user:?}");
    }
    for user in ["4294967295", "99999999999999999999", "a:b", "a\nb", "a\0", &"a".repeat(300)] {
        assert!(with(user).is_err(), "{user:?}");
    }
}
