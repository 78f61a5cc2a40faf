//! Fuzz target: policies.

use conti_fuzz::target;

use super::Policy;

#[test]
fn a_policy_that_is_nested_a_hundred_thousand_deep_is_refused() {
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    for text in [
        format!("a = {}", deep("[", "")),
        format!("a = {}", deep("[", "]")),
        format!("a = {}", deep("{a=", "")),
        format!("a = {}1{}", "{a=".repeat(100_000), "}".repeat(100_000)),
        format!("[{}a]", deep("a.", "")),
        format!("[[{}a]]", deep("a.", "")),
        format!("{}a = 1", deep("a.", "")),
        format!("a = {{ {}a = 1 }}", deep("a.", "")),
    ] {
        let problem = Policy::parse(&text).expect_err("it is no policy");
        assert!(!problem.is_empty(), "{}", &text[..20]);
    }
}

#[test]
fn fuzz_policy() {
    let samples = || {
        let whole = include_str!("../../../docs/remote.md");
        let blocks = whole.split("```toml\n").skip(1);
        let blocks =
            blocks.filter_map(|block| Some(block.split_once("```")?.0.as_bytes().to_vec()));
        let own = b"[operator]\nmounts = ['/srv']\ncapabilities = ['NET_ADMIN']\n\
            [[caller]]\nuid = 1000\nrole = 'operator'\nlabels = { team = 'a' }\n\
            [audit]\n[recording]\n[reason]\nrequired_for = ['admin']\n";
        blocks.chain([own.to_vec()]).collect()
    };
    // Most of it is the text of an error, which quotes the line.
    target("policy").seeds(samples).runs(2000).memory(2048).check(|bytes| {
        let Ok(text) = str::from_utf8(bytes) else { return };
        match Policy::parse(text) {
            Ok(policy) => assert!(policy.warnings().iter().all(|warning| !warning.is_empty())),
            Err(problem) => assert!(!problem.is_empty()),
        }
    });
}
