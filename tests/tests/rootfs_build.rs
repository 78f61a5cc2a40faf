//! `rootfs build`, against ld.so(8) and by running what was built.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use conti_proto::v1::BuildRootfsRequest;
use conti_tests::{Agent, api};
use serde_json::Value;

fn build(agent: &Agent, programs: &str, out: &Path) -> Value {
    let out = out.display().to_string();
    agent
        .ctl(["-o", "json", "rootfs", "build", "--from-host", programs, "--out", &out])
        .run()
        .success()
        .json()
}

/// The libraries that the loader itself says it would load, by their real paths.
fn loaded(program: &str) -> BTreeSet<String> {
    let output = Command::new("ldd").arg(program).output().expect("ldd(1)");
    let text = String::from_utf8(output.stdout).expect("text");
    let paths = text.lines().filter_map(|line| line.split(" => ").nth(1)?.split(' ').next());
    paths.map(real).collect()
}

fn real(path: &str) -> String {
    fs::canonicalize(path).unwrap_or_else(|e| panic!("{path}: {e}")).display().to_string()
}

#[test]
fn libraries_are_those_that_the_loader_loads() {
    let agent = Agent::start();
    // All programs of the host that are dynamically linked, as far as the loader finds their libraries.
    let mut programs = BTreeSet::new();
    for dir in ["/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            let Ok(meta) = fs::metadata(&path) else { continue };
            let is_elf = fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
            // All of them are copied: the largest would say no more than others.
            if meta.is_file() && meta.mode() & 0o111 != 0 && meta.len() < 300_000 && is_elf {
                programs.insert(path.display().to_string());
            }
        }
    }
    assert!(programs.len() > 100, "{programs:?}");
    let mut known: Vec<(String, BTreeSet<String>)> = Vec::new();
    for program in programs {
        let output = Command::new("ldd").arg(&program).output().expect("ldd(1)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && !text.contains("not found") {
            known.push((program.clone(), loaded(&program)));
        }
    }
    assert!(known.len() > 100, "{}", known.len());
    let names: Vec<&str> = known.iter().map(|(program, _)| program.as_str()).collect();
    let built = build(&agent, &names.join(","), &agent.scratch("root"));
    let found = built["programs"].as_array().expect("a list");
    assert_eq!(found.len(), known.len());
    for (one, (program, theirs)) in found.iter().zip(&known) {
        assert_eq!(one["name"], *program);
        let libraries = one["libraries"].as_array().expect("a list").iter();
        // The loader itself comes along in any case; ldd(1) does not tell it as a library.
        let ours: BTreeSet<String> = libraries
            .filter_map(Value::as_str)
            .filter(|path| !path.contains("/ld-linux"))
            .map(real)
            .collect();
        assert_eq!(ours, *theirs, "{program}");
    }
    agent.finish();
}

#[test]
fn what_was_built_runs_and_holds_nothing_else() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    fs::create_dir(&root).expect("an empty directory");
    let built = build(&agent, "bash,ls,ps,sh,ldd,id,cat", &root);
    let files = built["files"].as_u64().expect("a number");
    assert!((10..100).contains(&files), "{built}");
    let rootfs = format!("dir:{}", root.display());
    let run = |argv: &[&str]| {
        agent.ok([&["run", "--rm", "--rootfs", &rootfs, "-e", "TERM=xterm", "--"], argv].concat())
    };
    assert_eq!(run(&["bash", "-c", "echo $((6 * 7))"]).trim(), "42");
    assert_eq!(run(&["sh", "-c", "echo from sh"]).trim(), "from sh");
    assert!(run(&["ls", "-l", "/"]).contains("usr"));
    assert!(run(&["ps", "aux"]).contains("ps aux"));
    assert_eq!(run(&["id", "-un"]).trim(), "root");
    // A script: its interpreter came along.
    assert!(run(&["ldd", "--version"]).contains("ldd"));
    assert!(run(&["cat", "/etc/passwd"]).starts_with("root:x:0:0"));
    let terminfo =
        agent.ok(["du", &format!("pid:{}", std::process::id()), &root.display().to_string()]);
    assert!(terminfo.contains("M"), "{terminfo}");
    // Nothing private of the host, and no other program.
    for absent in ["etc/shadow", "etc/ssh", "root/.bashrc", "usr/bin/find", "home/user"] {
        assert!(!root.join(absent).exists(), "{absent}");
    }
    let mode =
        |path: &str| fs::metadata(root.join(path)).expect(path).permissions().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("root"), mode("usr/bin/bash")), (0o1777, 0o700, 0o755));
    // Links of the host are links here.
    for link in ["/bin", "/lib64", "/usr/bin/sh"] {
        let there = fs::read_link(link).ok();
        assert_eq!(fs::read_link(root.join(&link[1..])).ok(), there, "{link}");
    }
    agent.finish();
}

#[test]
fn archives_are_the_same_each_time_and_hold_what_the_directory_holds() {
    let agent = Agent::start();
    let (one, two) = (agent.path("one.tar"), agent.path("two.tar"));
    for out in [&one, &two] {
        let out = out.display().to_string();
        agent.ok(["rootfs", "build", "--from-host", "bash,ls", "--out", &out]);
    }
    let bytes = fs::read(&one).expect("the archive");
    assert!(bytes == fs::read(&two).expect("the archive"), "they differ");
    let stdout =
        agent.ctl(["rootfs", "build", "--from-host", "bash,ls", "--out", "-"]).run().success();
    assert!(stdout.stdout == bytes, "stdout differs");
    // The order in which programs are named makes no difference to what is in it.
    let other =
        agent.ctl(["rootfs", "build", "--from-host", "ls,bash", "--out", "-"]).run().success();
    assert!(other.stdout == bytes, "the order counts");
    let (root, unpacked) = (agent.scratch("root"), agent.scratch("unpacked"));
    build(&agent, "bash,ls", &root);
    fs::create_dir(&unpacked).expect("a directory");
    let tar = Command::new("tar").arg("-xpf").arg(&one).arg("-C").arg(&unpacked).status();
    assert!(tar.expect("tar(1)").success());
    let diff =
        Command::new("diff").args(["-r", "--no-dereference"]).arg(&root).arg(&unpacked).output();
    let diff = diff.expect("diff(1)");
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    let list = Command::new("tar").env("TZ", "UTC").arg("-tvf").arg(&one).output().expect("tar(1)");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.lines().all(|line| line.contains("1970-01-01 00:00") && line.contains(" 0/0 ")),
        "{list}"
    );
    assert!(!agent.path("one.tar.unfinished").exists());
    agent.finish();
}

#[test]
fn libraries_beside_the_program_and_those_of_another_machine() {
    let agent = Agent::start();
    let dir = agent.scratch("app");
    fs::create_dir_all(dir.join("lib")).expect("directories");
    fs::create_dir_all(dir.join("bin")).expect("directories");
    let cc = |args: &[&str], code: &str| {
        fs::write(dir.join("code.c"), code).expect("written");
        let status = Command::new("cc")
            .current_dir(&dir)
            .args(args)
            .arg("code.c")
            .args(["-Llib", "-Wl,-rpath-link,lib"])
            .args(args.iter().filter(|a| a.starts_with("-l")))
            .status();
        assert!(status.expect("cc(1)").success());
    };
    // A library that needs another one, found by $ORIGIN.
    cc(&["-shared", "-fPIC", "-o", "lib/libinner.so"], "int inner(void) { return 5; }");
    cc(
        &["-shared", "-fPIC", "-Wl,-rpath,$ORIGIN", "-o", "lib/libouter.so", "-linner"],
        "int inner(void); int outer(void) { return inner() + 1; }",
    );
    cc(
        &["-Wl,-rpath,$ORIGIN/../lib", "-o", "bin/app", "-louter"],
        "int outer(void); int main(void) { return outer(); }",
    );
    symlink("app", dir.join("bin/alias")).expect("a link");
    let alias = dir.join("bin/alias").display().to_string();
    let root = agent.scratch("root");
    let built = build(&agent, &alias, &root);
    let libraries = built["programs"][0]["libraries"].to_string();
    assert!(libraries.contains("libouter.so") && libraries.contains("libinner.so"), "{libraries}");
    let rootfs = format!("dir:{}", root.display());
    agent.ctl(["run", "--rm", "--rootfs", &rootfs, "--", &alias]).run().exits(6);
    // One that is missing is named, and nothing is left.
    fs::remove_file(dir.join("lib/libinner.so")).expect("removed");
    let again = agent.scratch("again");
    let out = again.display().to_string();
    let error = agent.ctl(["rootfs", "build", "--from-host", &alias, "--out", &out]).run();
    let error = error.exits(125).errors();
    assert!(error.contains("libinner.so") && error.contains("libouter.so"), "{error}");
    assert!(!again.exists());
    agent.finish();
}

#[test]
fn only_an_elf_interpreter_is_copied_as_one() {
    let agent = Agent::start();
    let secret = agent.path("secret");
    fs::write(&secret, "root:hash\n").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its mode");
    let object = agent.path("object.o");
    cc(&["-c", "-o", &object.display().to_string()], "int x;");
    let fifo = agent.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    for (name, interpreter) in [("a", &secret), ("b", &object), ("c", &fifo)] {
        let program = agent.path(name).display().to_string();
        let loader = format!("-Wl,--dynamic-linker={}", interpreter.display());
        cc(&["-o", &program, &loader], "int main(void) { return 0; }");
        let root = agent.scratch(name);
        let out = root.display().to_string();
        let build = ["rootfs", "build", "--from-host", &program, "--out", &out];
        let error = agent.ctl(build).run().exits(125).errors();
        assert!(error.contains(&interpreter.display().to_string()), "{error}");
        assert!(error.contains(&program), "{error}");
        assert!(!root.exists());
        let tar = format!("{out}.tar");
        agent.ctl(["rootfs", "build", "--from-host", &program, "--out", &tar]).run().exits(125);
    }
    agent.finish();
}

/// Compiles a program.
fn cc(arguments: &[&str], source: &str) {
    use std::{io::Write as _, process::Stdio};
    let cc =
        Command::new("cc").args(["-x", "c", "-"]).args(arguments).stdin(Stdio::piped()).spawn();
    let mut cc = cc.expect("cc(1)");
    cc.stdin.take().expect("a pipe").write_all(source.as_bytes()).expect("written");
    assert!(cc.wait().expect("cc ends").success());
}

#[test]
fn nothing_is_built_through_what_takes_the_place_of_its_directory() {
    let agent = Agent::start();
    let outside = agent.path("outside");
    fs::create_dir(&outside).expect("a directory");
    let taken = agent.scratch("taken");
    symlink(&outside, &taken).expect("a link");
    let out = taken.display().to_string();
    agent.ctl(["rootfs", "build", "--from-host", "true", "--out", &out]).run().exits(125);
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 0);
    let names = fs::read_dir(agent.scratch("")).expect("there");
    assert_eq!(names.count(), 1, "nothing is left of the try");
    agent.finish();
}

#[test]
fn what_cannot_be_built_is_said_and_leaves_nothing() {
    let agent = Agent::start();
    let full = agent.scratch("full");
    fs::create_dir_all(full.join("something")).expect("a directory");
    let error = |programs: &str, out: &Path| {
        let out = out.display().to_string();
        agent
            .ctl(["rootfs", "build", "--from-host", programs, "--out", &out])
            .run()
            .exits(125)
            .errors()
    };
    let absent = agent.scratch("absent");
    assert!(error("nonesuch", &absent).contains("nonesuch"));
    let text = agent.path("text");
    fs::write(&text, "no program").expect("a file");
    let text = text.display().to_string();
    assert!(error(&text, &absent).contains(&text));
    let taken = error("ls", &full);
    assert!(taken.contains("not empty") && taken.contains("full"), "{taken}");
    assert!(error("ls", &absent.join("below")).contains("No such file"));
    let tar = agent.path("nowhere/x.tar");
    assert!(error("ls", &tar).contains("cannot write the archive"));
    let entries = fs::read_dir(full.parent().expect("a parent")).expect("a directory");
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["full"]);
    agent.api(async |mut api| {
        for (programs, directory, field) in [
            (vec![], "/x", "programs"),
            (vec!["a"; 1001], "/x", "programs"),
            (vec!["a/b"], "/x", "programs[0]"),
            (vec![""], "/x", "programs[0]"),
            (vec!["/a/../b"], "/x", "programs[0]"),
            (vec!["ls"], "x", "directory"),
        ] {
            let programs = programs.into_iter().map(str::to_owned).collect();
            let request = BuildRootfsRequest { programs, directory: directory.to_owned() };
            let error = api.rootfs.build_rootfs(request).await.expect_err("it is refused");
            assert_eq!(api::faulty_fields(&error), [field]);
        }
    });
    agent.finish();
}
