//! Which agent is meant.

use std::{sync::Arc, time::SystemTime};

use crate::{
    Person,
    agent::{Agent, access::Access},
    arg, stderr, stdout,
    tls::{Authority, DAY, Subject},
};

#[test]
fn what_is_said_most_directly_says_which_agent_is_meant() {
    let person = Person::new();
    let place = |name: &str| format!("unix:///nowhere/{name}");
    for name in ["flag", "env", "current"] {
        person.ok(&["context", "add", name, "--host", &place(name)]);
    }
    let tried = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = person.contictl(&[args, &["whoami"]].concat());
        let output = command.envs(env.iter().copied()).output().unwrap();
        let said = stderr(&output);
        said.strip_prefix("contictl: cannot connect to ").unwrap_or(&said).to_owned()
    };
    let host = ("CONTI_HOST", "unix:///nowhere/host");
    let context = ("CONTI_CONTEXT", "env");
    assert!(tried(&[], &[]).starts_with("unix:///run/conti/contid.sock"));
    person.ok(&["context", "use", "current"]);
    assert!(tried(&[], &[]).starts_with(&place("current")));
    assert!(tried(&[], &[context]).starts_with(&place("env")));
    assert!(tried(&[], &[host, context]).starts_with(host.1));
    assert!(tried(&["--context", "flag"], &[host, context]).starts_with(&place("flag")));
    let both = ["--host", "unix:///nowhere/x", "--context", "flag"];
    assert!(tried(&both, &[host]).starts_with("unix:///nowhere/x"));
    assert!(tried(&["--context", "nobody"], &[]).contains("there are current, env, flag"));
    person.ok(&["context", "use", "--none"]);
    assert!(tried(&[], &[("CONTI_HOST", ""), ("CONTI_CONTEXT", "")]).contains("contid.sock"));
}

#[test]
fn contexts_are_added_listed_and_removed() {
    let person = Person::new();
    assert_eq!(person.json(&["context", "ls"]).as_array().unwrap().len(), 0);
    person.ok(&["context", "add", "a", "--host", "ssh://me@web:22", "--use"]);
    person.ok(&["context", "add", "b", "--host", "unix:///run/b.sock"]);
    let all = person.json(&["context", "ls"]);
    assert_eq!(all[0]["name"], "a");
    assert_eq!(all[0]["host"], "ssh://me@web:22");
    assert_eq!(all[0]["current"], true);
    assert_eq!(all[1]["current"], false);
    assert!(person.fails(&["context", "add", "a", "--host", "ssh://x"]).contains("already"));
    assert!(person.fails(&["context", "add", "../x", "--host", "ssh://x"]).contains("name"));
    assert!(person.fails(&["context", "add", "c"]).contains("--host"));
    assert!(person.fails(&["context", "use", "c"]).contains("there are a, b"));
    person.ok(&["context", "rm", "a"]);
    assert!(person.fails(&["context", "rm", "a"]).contains("no context"));
    assert!(person.fails(&["context", "show"]).contains("no current context"));
    let table = person.ok(&["context", "ls"]);
    assert!(table.contains("unix:///run/b.sock") && !table.contains("ssh://"), "{table}");
}

#[test]
fn files_that_cannot_work_make_no_context() {
    let person = Person::new();
    let authority = Authority::new();
    let (ca, files) = (authority.file(), authority.client(&Subject::default()));
    let add = ["context", "add", "web", "--host", "tcp://web"];
    let with = |more: &[&str]| person.fails(&[&add[..], more].concat());
    assert!(with(&[]).contains("--tls-ca"));
    assert!(with(&["--ca", arg(&ca)]).contains("--tls-cert"));
    let swapped = ["--ca", arg(&ca), "--cert", arg(&files.key), "--key", arg(&files.certificate)];
    assert!(with(&swapped).contains("cannot use the certificate in"));
    let none = ["--ca", "/nowhere/ca.pem", "--cert", "c", "--key", "k"];
    assert!(with(&none).contains("cannot read the certificates of authorities in /nowhere/ca.pem"));
    assert_eq!(person.json(&["context", "ls"]).as_array().unwrap().len(), 0);
}

#[test]
fn a_certificate_that_soon_expires_is_complained_of() {
    let authority = Arc::new(Authority::new());
    let agent = Agent::with(Access::new(Arc::clone(&authority)));
    let front = agent.behind_tls(&authority, &Subject::agent(&["127.0.0.1"]));
    let person = Person::new();
    let ca = authority.file();
    for (name, days) in [("soon", 3), ("later", 30)] {
        let until = SystemTime::now() + days * DAY + DAY / 2;
        let files = authority.client(&Subject { until, ..Subject::default() });
        let add = ["context", "add", name, "--host", &front.host(), "--ca", arg(&ca)];
        let own = ["--cert", arg(&files.certificate), "--key", arg(&files.key)];
        person.ok(&[&add[..], &own].concat());
    }
    let output = person.run(&["context", "show", "soon"]);
    assert!(stdout(&output).contains("knows you as alice, role operator"), "{}", stdout(&output));
    assert!(stderr(&output).contains("warning"), "{}", stderr(&output));
    assert!(stderr(&output).contains("expires in 3 days: `contictl context renew soon`"));
    let output = person.run(&["context", "show", "later"]);
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_context_whose_agent_is_not_there_is_shown_all_the_same() {
    let person = Person::new();
    person.ok(&["context", "add", "gone", "--host", "unix:///nowhere/x"]);
    let shown = person.json(&["context", "show", "gone"]);
    assert_eq!(shown["host"], "unix:///nowhere/x");
    assert!(shown["agent_error"].as_str().unwrap().contains("cannot connect"), "{shown}");
}

#[test]
fn a_configuration_that_cannot_be_read_does_not_keep_from_a_host_that_is_named() {
    let agent = Agent::start();
    let person = Person::new();
    std::fs::create_dir(person.directory()).unwrap();
    std::fs::write(person.directory().join("config.toml"), "current = [").unwrap();
    let said = person.fails(&["whoami"]);
    assert!(said.contains("config.toml cannot be understood"), "{said}");
    person.ok(&["--host", &agent.host(), "whoami"]);
    person.ok(&["completion", "bash"]);
}
