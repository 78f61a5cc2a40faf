//! Who talks to whom over TLS, and what is said where they do not.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::Arc,
    thread,
    time::SystemTime,
};

use crate::{
    Person,
    agent::{Agent, access::Access, pattern},
    arg, stderr, stdout,
    tls::{Authority, DAY, Files, Front, Subject},
};

const LOCAL: &[&str] = &["127.0.0.1"];

fn agent() -> (Arc<Authority>, Agent) {
    let authority = Arc::new(Authority::new());
    let agent = Agent::with(Access::new(Arc::clone(&authority)));
    (authority, agent)
}

/// The flags that say who is who, and then what is to be done.
fn flags<'a>(host: &'a str, ca: &'a Authority, files: &'a Files, verb: &[&'a str]) -> Vec<String> {
    let ca = ca.file();
    let mut all: Vec<String> = ["--host", host, "--tls-ca", arg(&ca)].map(str::to_owned).into();
    all.extend(["--tls-cert", arg(&files.certificate)].map(str::to_owned));
    all.extend(["--tls-key", arg(&files.key)].map(str::to_owned));
    all.extend(verb.iter().map(|word| (*word).to_owned()));
    all
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn ask(front: &Front, ca: &Authority, files: &Files) -> String {
    Person::new().fails(&words(&flags(&front.host(), ca, files, &["whoami"])))
}

#[test]
fn files_of_ones_own_are_enough_to_call_an_agent_over_mutual_tls() {
    let (authority, agent) = agent();
    let front = agent.behind_tls(&authority, &Subject::agent(LOCAL));
    let files = authority.client(&Subject::default());
    let shown = Person::new().ok(&words(&flags(&front.host(), &authority, &files, &["whoami"])));
    assert!(shown.contains("alice") && shown.contains("operator"), "{shown}");
    assert!(shown.contains("team=blue"), "{shown}");
}

#[test]
fn an_agent_of_another_authority_is_not_talked_to() {
    let (authority, agent) = agent();
    let front = agent.behind_tls(&authority, &Subject::agent(LOCAL));
    let files = authority.client(&Subject::default());
    let said = ask(&front, &Authority::new(), &files);
    assert!(said.contains("does not come from the authority"), "{said}");
    assert!(said.contains(&front.host()) && said.contains("--tls-ca"), "{said}");
    assert!(agent.access.known(|known| known.calls.is_empty()));
}

#[test]
fn an_agent_whose_certificate_is_too_old_or_too_young_is_named_so() {
    let (authority, agent) = agent();
    let files = authority.client(&Subject::default());
    let now = SystemTime::now();
    let old = Subject { from: now - 9 * DAY, until: now - DAY, ..Subject::agent(LOCAL) };
    let said = ask(&agent.behind_tls(&authority, &old), &authority, &files);
    assert!(said.contains("its certificate expired on 20"), "{said}");
    let young = Subject { from: now + DAY, until: now + 9 * DAY, ..Subject::agent(LOCAL) };
    let said = ask(&agent.behind_tls(&authority, &young), &authority, &files);
    assert!(said.contains("is not valid yet, but only from 20"), "{said}");
}

#[test]
fn an_agent_of_another_name_is_talked_to_only_when_that_name_is_told() {
    let (authority, agent) = agent();
    let hosts = &["web.example", "10.1.2.3"];
    let front = agent.behind_tls(&authority, &Subject::agent(hosts));
    let files = authority.client(&Subject::default());
    let said = ask(&front, &authority, &files);
    assert!(said.contains("is not for 127.0.0.1 but for web.example, 10.1.2.3"), "{said}");
    assert!(said.contains("--tls-server-name"), "{said}");
    let host = front.host();
    for name in hosts {
        let all = flags(&host, &authority, &files, &["--tls-server-name", name, "whoami"]);
        Person::new().ok(&words(&all));
    }
}

#[test]
fn without_a_certificate_it_says_how_to_get_one() {
    let (authority, agent) = agent();
    let front = agent.behind_tls(&authority, &Subject::agent(LOCAL));
    let host = front.host();
    let ca = authority.file();
    let person = Person::new();
    for args in [&["--host", &host][..], &["--host", &host, "--tls-ca", arg(&ca)]] {
        let said = person.fails(&[args, &["whoami"]].concat());
        assert!(said.contains("contictl join CODE") && said.contains("--tls-cert"), "{said}");
    }
    let files = authority.client(&Subject::default());
    let args =
        ["--host", &host, "--tls-ca", arg(&ca), "--tls-cert", arg(&files.certificate), "whoami"];
    assert!(person.fails(&args).contains("--tls-key"));
    let other = authority.client(&Subject::default());
    let mixed = Files { key: other.key, ..files };
    let said = ask(&front, &authority, &mixed);
    assert!(said.contains("does not belong to the certificate"), "{said}");
}

/// An agent refuses after the handshake, by an alert that the first read gets.
#[test]
fn a_client_that_is_refused_is_told_why() {
    let (authority, agent) = agent();
    let front = agent.behind_tls(&authority, &Subject::agent(LOCAL));
    let now = SystemTime::now();
    let old = Subject { from: now - 9 * DAY, until: now - DAY, ..Subject::default() };
    let said = ask(&front, &authority, &authority.client(&old));
    assert!(said.contains("certificate has expired") && said.contains("contictl join"), "{said}");
    let server = Subject { for_clients: false, ..Subject::default() };
    let said = ask(&front, &authority, &authority.client(&server));
    assert!(said.contains("refused this client's certificate"), "{said}");
    let said = ask(&front, &authority, &Authority::new().client(&Subject::default()));
    assert!(said.contains("does not know the authority of this client's"), "{said}");
    let revoked = authority.client(&Subject::default());
    front.revoke(&authority, &Subject::agent(LOCAL), &[revoked.serial]);
    let said = ask(&front, &authority, &revoked);
    assert!(said.contains("certificate was revoked"), "{said}");
    assert!(agent.access.known(|known| known.calls.is_empty()));
}

#[test]
fn a_refusal_is_heard_though_the_connection_is_reset_behind_it() {
    let (authority, agent) = agent();
    let front = agent.behind_tls(&authority, &Subject::agent(LOCAL));
    front.be_rude();
    let now = SystemTime::now();
    let old = Subject { from: now - 9 * DAY, until: now - DAY, ..Subject::default() };
    let files = authority.client(&old);
    for _ in 0..20 {
        let said = ask(&front, &authority, &files);
        assert!(said.contains("certificate has expired"), "{said}");
    }
}

#[test]
fn a_role_that_is_too_low_is_said_in_the_agents_own_words() {
    let (authority, agent) = agent();
    let front = agent.behind_tls(&authority, &Subject::agent(LOCAL));
    let files = authority.client(&Subject::default());
    let said = Person::new().fails(&words(&flags(&front.host(), &authority, &files, &["info"])));
    assert_eq!(said, "contictl: only an admin may\n");
}

#[test]
fn what_answers_and_is_no_agent_is_told_from_one() {
    let authority = Authority::new();
    let files = authority.client(&Subject::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let said = Person::new().fails(&words(&flags(&host, &authority, &files, &["whoami"])));
    assert!(said.contains("is no agent of Conti: it does not speak TLS"), "{said}");
}

#[test]
fn nobody_who_listens_is_told_from_nobody_who_is_found() {
    let authority = Authority::new();
    let files = authority.client(&Subject::default());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let host = format!("tcp://{free}");
    let said = Person::new().fails(&words(&flags(&host, &authority, &files, &["whoami"])));
    assert!(said.contains("nobody listens there"), "{said}");
    let host = "tcp://no-such-host.invalid";
    let said = Person::new().fails(&words(&flags(host, &authority, &files, &["whoami"])));
    assert!(said.contains("no-such-host.invalid"), "{said}");
}

#[test]
fn each_call_carries_its_reason_and_the_trace_it_belongs_to() {
    let agent = Agent::start();
    let person = Person::new();
    let host = agent.host();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut command = person.contictl(&["--host", &host, "--reason", "Störung 4711", "whoami"]);
    assert!(command.env("TRACEPARENT", trace).status().unwrap().success());
    let mut command = person.contictl(&["--host", &host, "whoami"]);
    command.env("CONTI_REASON", "ticket 1").env("TRACEPARENT", "nonsense");
    assert!(command.status().unwrap().success());
    person.ok(&["--host", &host, "whoami"]);
    let calls = agent.access.known(|known| known.calls.clone());
    let text = |text: &str| Some(text.to_owned());
    let first = (text("Störung 4711"), text(trace));
    assert_eq!(calls, [first, (text("ticket 1"), None), (None, None)]);
}

#[test]
fn a_session_over_tls_outlives_its_connections() {
    let (authority, agent) = agent();
    agent.cut_after(vec![300, 100_000, 1_234_567, 3_000_000]);
    let front = agent.behind_tls_and_cut(&authority, &Subject::agent(LOCAL));
    let files = authority.client(&Subject::default());
    let input: Vec<u8> = (0..8_000_000).map(pattern).collect();
    let args = flags(&front.host(), &authority, &files, &["exec", "-i", "c", "cat"]);
    let person = Person::new();
    let mut command = person.contictl(&words(&args));
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let copy = input.clone();
    let writer = thread::spawn(move || stdin.write_all(&copy));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == input, "{} bytes: {}", output.stdout.len(), stderr(&output));
    assert!(stderr(&output).contains("resumed at byte"), "{}", stderr(&output));
    assert_eq!(agent.session_count(), 1);
}

#[test]
fn a_session_whose_certificate_is_revoked_is_given_up_at_once() {
    let (authority, agent) = agent();
    agent.cut_after(vec![3_000_000]);
    let front = agent.behind_tls_and_cut(&authority, &Subject::agent(LOCAL));
    let files = authority.client(&Subject::default());
    let args = ["exec", "--reconnect-timeout=1h", "c", "out", "9000000"];
    let args = flags(&front.host(), &authority, &files, &args);
    let person = Person::new();
    let mut child = person.contictl(&words(&args)).spawn().unwrap();
    // What is not read keeps the session going until the certificate is revoked.
    let mut some = [0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    front.revoke(&authority, &Subject::agent(LOCAL), &[files.serial]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("certificate was revoked"), "{}", stderr(&output));
    assert!(stderr(&output).contains("contictl attach --session"), "{}", stderr(&output));
    assert!(!stdout(&output).is_empty());
}
