//! Names that a container chooses: any bytes, and characters that are not seen or steer a terminal.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use conti_proto::v1::{ReadFileRequest, Target, target};
use conti_tests::{Agent, rootfs, terminal::Terminal};

/// No text; a parenthesis, a blank and a newline; a change of direction; a control sequence of one character.
const NAME: &[u8] = b"\xff\xfe) S\n\xe2\x80\xae\xc2\x9b0";
/// What of it must not reach anybody.
const HIDDEN: [char; 2] = ['\u{202e}', '\u{9b}'];

/// A container whose main process, a file, a mount point and a socket have such names.
fn container(agent: &Agent) {
    let (root, data) = (agent.scratch("root"), agent.scratch("data"));
    rootfs::build(&root);
    let name = OsStr::from_bytes(NAME);
    fs::copy(root.join("usr/bin/sleep"), root.join(name)).expect("a program");
    fs::create_dir_all(data.join(Path::new(name).join("below"))).expect("directories");
    fs::create_dir(root.join("mnt")).expect("a directory");
    let rootfs = format!("dir:{}", root.display());
    let volume = format!("{}:/data", data.display());
    // Names reach the shell by a pattern: arguments of the API are text.
    let script = "for n in /*sleep /??\\)*; do test -f \"$n\" && exec \"$n\" 100000; done";
    let start = ["run", "-d", "--name", "c", "--rootfs", &rootfs, "-v", &volume, "--"];
    agent.ok([&start[..], &["sh", "-c", script]].concat());
    conti_tests::wait::until_true("the main process has its name", || {
        let all = agent.ctl(["-o", "json", "procs", "c"]).run();
        all.code == 0 && !String::from_utf8_lossy(&all.stdout).contains("\"sh\"")
    });
}

fn visible(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(!text.contains(HIDDEN), "{what}: {text:?}");
}

#[test]
fn every_verb_knows_a_main_process_of_any_name() {
    let agent = Agent::start();
    container(&agent);
    let json = agent.ctl(["-o", "json", "inspect", "c"]).run().success().json();
    let pid = json["pid"].to_string();
    let of_host = format!("pid:{pid}");
    for args in [
        &["ps"][..],
        &["inspect", "c"],
        &["exec", "c", "--", "true"],
        &["enter", "c", "--", "true"],
        &["enter", "-t", &pid, "--all", "--", "true"],
        &["debug", "c", "--", "true"],
        &["debug", &of_host, "--", "true"],
        &["ns", "ls", "c"],
        &["ns", "show", "c"],
        &["ns", "tree"],
        &["mounts", "c"],
        &["ls", "c", "/"],
        &["ls", &of_host, "/data"],
        &["cat", "c", "/etc/passwd"],
        &["cat", "c", "/proc/self/status"],
        &["cat", &of_host, "/proc/self/stat"],
        &["du", "--max-depth", "3", "c", "/data"],
        &["procs", "c"],
        &["top", "-n", "1", "c"],
        &["net", "c"],
        &["sockets", "c"],
        &["mount", "c", "/usr:/mnt:ro"],
        &["umount", "c", "/mnt"],
        &["ls", "c", "/nothing\u{202e}\u{9b}"],
    ] {
        let fails = args.contains(&"/nothing\u{202e}\u{9b}");
        let outcome = agent.ctl(args.to_vec()).run();
        let outcome = outcome.exits(if fails { 125 } else { 0 });
        // What a file holds is written as it is.
        if args[0] != "cat" {
            visible(&format!("{args:?}"), &outcome.stdout);
        }
        visible(&format!("{args:?} (errors)"), &outcome.stderr);
        if args[0] != "cat" && !fails {
            let outcome = agent.ctl([&["-o", "json"], args].concat()).run();
            visible(&format!("{args:?} (JSON)"), &outcome.stdout);
        }
    }
    agent.ok(["stop", "--grace", "0s", "c"]);
    agent.finish();
}

#[test]
fn listings_show_hostile_names_escaped_and_json_says_them_all_the_same() {
    let agent = Agent::start();
    container(&agent);
    let shown = agent.ok(["ls", "c", "/data"]);
    assert!(shown.contains(r"\xff\xfe) S\n\u{202e}\u{9b}0"), "{shown}");
    let outcome = agent.ctl(["-o", "json", "ls", "c", "/data"]).run().success();
    assert!(String::from_utf8_lossy(&outcome.stdout).contains(r"\u202e\u009b0"));
    assert_eq!(outcome.json()[0]["name"], "\\xff\\xfe) S\n\u{202e}\u{9b}0");
    let procs = agent.ok(["procs", "c"]);
    assert!(procs.contains(r"/\xff\xfe) S\n\u{202e}\u{9b}0 100000"), "{procs}");
    let json = agent.ctl(["-o", "json", "procs", "c"]).run().success();
    let name = json.json()[0]["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("\\xff\\xfe) S\n\u{202e}"), "{name:?}");
    let du = agent.ok(["du", "--max-depth", "3", "c", "/data"]);
    assert!(du.contains(r"/data/\xff\xfe) S\n\u{202e}\u{9b}0/below"), "{du}");
    // On a terminal as well.
    for verb in ["procs", "ls"] {
        let mut terminal = Terminal::spawn(agent.ctl(["-o", "json", verb, "c"]), 200, 50);
        terminal.expect(r"\u202e\u009b");
        assert_eq!(terminal.wait(), 0);
    }
    agent.finish();
}

#[test]
fn an_argument_that_is_no_text_is_named_and_a_name_of_such_bytes_is_told_from_its_escaped_form() {
    let agent = Agent::start();
    container(&agent);
    let bad = OsStr::from_bytes(b"/data/x\xff").to_owned();
    for mut line in [
        vec!["exec", "c", "--", "cat"],
        vec!["run", "--rm", "--", "echo"],
        vec!["mount", "c"],
        vec!["exec", "-w"],
    ]
    .into_iter()
    .map(|words| words.into_iter().map(OsString::from).collect::<Vec<_>>())
    {
        line.push(bad.clone());
        let said = agent.ctl(line).run().exits(125);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains(r#""/data/x\xff""#) && said.contains("UTF-8"), "{said}");
        assert!(!said.contains("--help"), "{said}");
    }
    // What the shell's pattern leads to, and what is typed as it is shown elsewhere, are two files.
    let write = r#"n=$(printf '/data/x\377'); echo bytes > "$n"; echo text > '/data/x\xff'"#;
    agent.ok(["exec", "c", "--", "sh", "-c", write]);
    let shown = agent.ok(["ls", "c", "/data"]);
    assert!(shown.contains(r" x\xff") && shown.contains(r" x\\xff"), "{shown}");
    assert_eq!(agent.ok(["cat", "c", r"/data/x\xff"]), "text");
    assert_eq!(agent.ok([OsString::from("cat"), "c".into(), bad]), "bytes");
    assert_eq!(agent.ok(["exec", "c", "--", "sh", "-c", "cat /data/x?"]), "bytes");
    let json = agent.ctl(["-o", "json", "ls", "c", "/data"]).run().success().json();
    let bytes = json.as_array().expect("a list").iter().map(|one| &one["name_bytes"]);
    // What is on the disk, and never what only looks like it.
    assert_eq!(bytes.filter(|bytes| *bytes == "eP8=").count(), 1, "{json}");
    // Of a path that is refused, by one who can say it in the API, the agent says the same.
    let path = b"/nothing\xff".to_vec();
    let (message, typed) = agent.api(async |mut api| {
        let target = Some(Target { target: Some(target::Target::Container("c".into())) });
        let mut read = async |path: Vec<u8>| {
            let request =
                ReadFileRequest { target: target.clone(), path: path.into(), ..Default::default() };
            match api.files.read_file(request).await {
                Err(status) => status.message().to_owned(),
                Ok(mut answer) => {
                    let status = answer.get_mut().message().await.expect_err("it is not there");
                    status.message().to_owned()
                }
            }
        };
        (read(path).await, read(br"/nothing\xff".to_vec()).await)
    });
    assert!(message.contains(r#""/nothing\xff""#) && !message.contains('\u{fffd}'), "{message}");
    assert!(typed.contains(r#""/nothing\\xff""#), "{typed}");
    agent.finish();
}

#[test]
fn names_that_mislead_are_refused_where_conti_gives_them() {
    let agent = Agent::start();
    for label in ["a\u{202e}b=c", "a\u{200b}b=c", "a=b\u{202e}c", "a=\u{9b}2J", "a=\u{feff}"] {
        let outcome = agent.ctl(["create", "--label", label, "--name", "x", "--", "true"]).run();
        assert_ne!(outcome.code, 0, "{label:?}");
    }
    agent.finish();
}
