//! Invitations, and the contexts that come of them.

use std::{
    fs, io::Write as _, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Stdio,
    sync::Arc,
};

use conti_shared::endpoint::{HostPort, Place};

use crate::{
    Person,
    agent::{Agent, access::Access},
    stderr,
    tls::{Authority, Front, Subject},
};

const LOCAL: &[&str] = &["127.0.0.1"];

fn agent() -> (Arc<Authority>, Agent, Front) {
    let authority = Arc::new(Authority::new());
    let agent = Agent::with(Access::new(Arc::clone(&authority)));
    let front = agent.behind_tls(&authority, &Subject::agent(LOCAL));
    (authority, agent, front)
}

fn joins(agent: &Agent) -> usize {
    agent.access.known(|known| known.joins.len())
}

/// The files and directories below the configuration, but for the lock.
fn left(person: &Person) -> Vec<String> {
    fn walk(directory: &std::path::Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            all.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            walk(&path, all);
        }
    }
    let mut all = Vec::new();
    walk(&person.directory(), &mut all);
    all.retain(|name| name != "config.lock" && name != "certificates");
    all
}

#[test]
fn an_invitation_is_all_that_is_needed_to_call_an_agent_from_then_on() {
    let (authority, agent, front) = agent();
    let person = Person::new();
    let code = front.invitation(&authority).to_string();
    let output = person.run(&["join", &code, "--context", "web"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(output.stdout, b"web\n");
    let said = stderr(&output);
    assert!(said.contains("as alice with the role operator"), "{said}");
    assert!(person.ok(&["whoami"]).contains("alice"));
    let shown = person.json(&["context", "show"]);
    assert_eq!(shown["name"], "web");
    assert_eq!(shown["current"], true);
    assert_eq!(shown["client"]["name"], "alice");
    assert_eq!(shown["client"]["role"], "operator");
    assert_eq!(shown["caller"]["identity"], "alice");
    let key = shown["key"].as_str().unwrap();
    assert!(fs::read_to_string(key).unwrap().contains("PRIVATE KEY"));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(key.as_ref()), 0o600);
    assert_eq!(mode(&person.directory()), 0o700);
    assert_eq!(joins(&agent), 1);
}

#[test]
fn an_invitation_works_once_and_a_refusal_leaves_nothing_behind() {
    let (authority, _agent, front) = agent();
    let code = front.invitation(&authority).to_string();
    Person::new().ok(&["join", &code]);
    let second = Person::new();
    let said = second.fails(&["join", &code]);
    assert!(said.contains("the invitation cannot be used"), "{said}");
    assert_eq!(left(&second), Vec::<String>::new());
}

#[test]
fn a_damaged_code_is_told_without_asking_anybody() {
    let (authority, agent, front) = agent();
    let code = front.invitation(&authority).to_string();
    let person = Person::new();
    assert!(person.fails(&["join", &code[..code.len() - 3]]).contains("damaged"));
    assert!(person.fails(&["join", "web:7443"]).contains("no invitation code"));
    assert_eq!(joins(&agent), 0);
    assert_eq!(left(&person), Vec::<String>::new());
}

#[test]
fn the_secret_is_not_told_to_another_agent_than_that_of_the_invitation() {
    let (_, agent, front) = agent();
    // Its certificate is good for the host, and comes from another authority.
    let code = front.invitation(&Authority::new()).to_string();
    let person = Person::new();
    let said = person.fails(&["join", &code]);
    assert!(said.contains("this is not the agent of the invitation"), "{said}");
    assert_eq!(joins(&agent), 0);
    assert_eq!(left(&person), Vec::<String>::new());
}

#[test]
fn the_authority_of_an_invitation_vouches_only_for_the_host_that_is_named() {
    let authority = Arc::new(Authority::new());
    let agent = Agent::with(Access::new(Arc::clone(&authority)));
    let front = agent.behind_tls(&authority, &Subject::agent(&["web.example"]));
    let code = front.invitation(&authority).to_string();
    let person = Person::new();
    let said = person.fails(&["join", &code]);
    assert!(said.contains("is not for 127.0.0.1 but for web.example"), "{said}");
    assert_eq!(joins(&agent), 0);
    person.ok(&["join", &code, "--tls-server-name", "web.example"]);
    // The name goes into the context.
    person.ok(&["whoami"]);
}

#[test]
fn an_agent_that_names_another_authority_than_the_invitation_is_not_kept() {
    let (authority, agent, front) = agent();
    agent.access.known(|known| known.lies = true);
    let person = Person::new();
    let said = person.fails(&["join", &front.invitation(&authority).to_string()]);
    assert!(said.contains("another authority"), "{said}");
    assert_eq!(left(&person), Vec::<String>::new());
}

#[test]
fn the_addresses_of_an_invitation_are_tried_in_turn() {
    let (authority, _agent, front) = agent();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut invitation = front.invitation(&authority);
    let closed = Place::Tcp(HostPort { host: "127.0.0.1".to_owned(), port: closed.port() });
    invitation.addresses = vec![closed.clone(), closed.clone()];
    let person = Person::new();
    let said = person.fails(&["join", &invitation.to_string()]);
    assert!(said.contains("no address of the invitation leads to its agent"), "{said}");
    assert_eq!(said.matches("nobody listens there").count(), 2, "{said}");
    let elsewhere = front.place().to_string();
    invitation.addresses.push(Place::Tcp(front.place()));
    person.ok(&["join", &invitation.to_string(), "--context", "a"]);
    assert_eq!(person.json(&["context", "show"])["host"], front.host());
    // What is used up is refused at the address that is named instead.
    invitation.addresses = vec![closed];
    let code = invitation.to_string();
    let said = person.fails(&["join", &code, "--context", "b", "--address", &elsewhere]);
    assert!(said.contains("cannot be used"), "{said}");
}

#[cfg(not(feature = "vsock"))]
#[test]
fn a_client_without_vsock_says_so_where_an_invitation_leads_over_it() {
    let (authority, agent, front) = agent();
    let mut invitation = front.invitation(&authority);
    invitation.addresses = vec!["vsock://3:7443".parse().unwrap()];
    let person = Person::new();
    let code = invitation.to_string();
    let said = person.fails(&["join", &code]);
    assert!(said.contains("built without the feature `vsock`"), "{said}");
    assert_eq!(joins(&agent), 0);
    assert_eq!(left(&person), Vec::<String>::new());
    person.ok(&["join", &code, "--address", &front.place().to_string()]);
}

#[test]
fn a_code_can_come_from_stdin() {
    let (authority, _agent, front) = agent();
    let person = Person::new();
    let mut child = person.contictl(&["join", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let code = front.invitation(&authority).to_string();
    writeln!(child.stdin.take().unwrap(), "{code}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // Called as its host, where nothing else is said.
    assert_eq!(output.stdout, b"127.0.0.1\n");
}

#[test]
fn a_name_that_is_taken_does_not_cost_the_invitation() {
    let (authority, agent, front) = agent();
    let person = Person::new();
    person.ok(&["context", "add", "web", "--host", "ssh://web"]);
    let code = front.invitation(&authority).to_string();
    let said = person.fails(&["join", &code, "--context", "web"]);
    assert!(said.contains("already"), "{said}");
    assert_eq!(joins(&agent), 0);
    person.ok(&["join", &code, "--context", "other"]);
}

#[test]
fn a_renewal_replaces_certificate_and_key_together() {
    let (authority, _agent, front) = agent();
    let person = Person::new();
    person.ok(&["join", &front.invitation(&authority).to_string(), "--context", "web"]);
    let before = person.json(&["context", "show"]);
    let path = before["key"].as_str().unwrap();
    let old = fs::read_to_string(path).unwrap();
    person.ok(&["context", "renew"]);
    let after = person.json(&["context", "show", "web"]);
    assert_ne!(before["client"]["serial"], after["client"]["serial"]);
    let new = fs::read_to_string(path).unwrap();
    let key = |text: &str| text[text.find("-----BEGIN PRIVATE").unwrap()..].to_owned();
    assert_ne!(key(&old), key(&new), "the key is new as well");
    assert_eq!(after["caller"]["identity"], "alice");
    let mut names = left(&person);
    names.sort();
    assert_eq!(names, ["authority.pem", "client.pem", "config.toml", "web"]);
}

#[test]
fn a_renewal_leaves_files_of_ones_own_alone() {
    let (authority, _agent, front) = agent();
    let person = Person::new();
    let files = authority.client(&Subject::default());
    let ca = authority.file();
    let arg = crate::arg;
    let add = ["context", "add", "own", "--host", &front.host(), "--use", "--ca", arg(&ca)];
    let own = ["--cert", arg(&files.certificate), "--key", arg(&files.key)];
    person.ok(&[&add[..], &own].concat());
    let before = (fs::read(&files.certificate).unwrap(), fs::read(&files.key).unwrap());
    person.ok(&["context", "renew"]);
    assert_eq!((fs::read(&files.certificate).unwrap(), fs::read(&files.key).unwrap()), before);
    let shown = person.json(&["context", "show"]);
    assert!(shown["key"].as_str().unwrap().starts_with(arg(&person.directory())), "{shown}");
    assert!(person.ok(&["whoami"]).contains("alice"));
}

#[test]
fn invitations_are_made_listed_and_taken_back() {
    let agent = Agent::start();
    let person = Person::new();
    let host = agent.host();
    let run = |args: &[&str]| person.ok(&[&["--host", &host], args].concat());
    let invite = ["invite", "--role", "viewer", "--name", "bob", "--expires", "2h"];
    let code = run(&[&invite[..], &["--address", "web", "--address", "10.0.0.1:1"]].concat());
    assert_eq!(code, "conti-web:7443+10.0.0.1:1\n");
    run(&["invite", "--role", "admin", "--name", "eve", "--cert-expires", "1d"]);
    let all = person.json(&["--host", &host, "invite", "ls"]);
    let names: Vec<&str> =
        all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bob", "eve"], "all pages are asked for");
    assert_eq!(all[1]["role"], "admin");
    assert_eq!(all[1]["certificate_lifetime"], "86400s");
    run(&["invite", "rm", all[0]["id"].as_str().unwrap()]);
    let shown = run(&["invite", "ls"]);
    assert!(shown.contains("eve") && !shown.contains("bob"), "{shown}");
    let said = person.fails(&["--host", &host, "invite", "rm", "x"]);
    assert!(said.contains("no invitation"), "{said}");
}

#[test]
fn certificates_are_listed_and_revoked_by_name_or_serial_number() {
    let (authority, agent, front) = agent();
    let person = Person::new();
    person.ok(&["join", &front.invitation(&authority).to_string()]);
    person.ok(&["context", "renew"]);
    let all = person.json(&["pki", "ls"]);
    let serials: Vec<&str> =
        all.as_array().unwrap().iter().map(|one| one["serial"].as_str().unwrap()).collect();
    assert_eq!(serials.len(), 2);
    let revoked = person.json(&["pki", "revoke", serials[1]]);
    assert_eq!(revoked.as_array().unwrap().len(), 1);
    assert_eq!(revoked[0]["serial"], serials[1]);
    assert!(revoked[0]["revoke_time"].is_string());
    assert_eq!(person.json(&["pki", "revoke", "alice"]).as_array().unwrap().len(), 2);
    assert!(person.fails(&["pki", "revoke", "bob"]).contains("no certificate"));
    assert!(agent.access.known(|k| k.certificates.values().all(|c| c.revoke_time.is_some())));
}
