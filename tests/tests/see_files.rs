//! `ls`, `cat` and `du`, against find(1), du(1) and what was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::{Command, Stdio},
};

use conti_proto::v1::{
    ListDirectoryRequest, MeasureUsageRequest, ProcessId, ReadFileRequest, Target, target,
};
use conti_tests::{Agent, api, ctl::Running, host, plain::Plain, wait};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

/// Runs a shell script in a directory that it makes.
fn script(dir: &Path, script: &str) {
    fs::create_dir_all(dir).expect("a directory");
    let status = Command::new("sh").args(["-ec", script]).current_dir(dir).status();
    assert!(status.expect("sh(1)").success());
}

/// 10,000 files, and what counts otherwise than its size says.
const TREE: &str = r#"
    mkdir many deep names links
    cd many; seq -f 'file%g' 1 10000 | xargs touch; cd ..
    head -c 100000 /dev/zero > big
    truncate -s 1G sparse
    head -c 50000 /dev/zero > links/a; ln links/a links/b; ln links/a deep/c; ln -s /etc links/out
    mkdir -p deep/1/2/3/4; head -c 5000 /dev/zero > deep/1/2/3/4/bottom
    cd names; echo 1 > 'a b'; echo 2 > 'new
line'; echo 3 > "$(printf 'bad\377')"; mkfifo pipe; mknod null c 1 3; cd ..
    chmod 4711 big
"#;

/// A container of one static program that sees a tree of files at /data.
fn container(agent: &Agent) -> std::path::PathBuf {
    let (root, tree) = (agent.scratch("root"), agent.scratch("tree"));
    conti_tests::rootfs::build_empty(&root);
    script(&tree, TREE);
    let rootfs = format!("dir:{}", root.display());
    let volume = format!("{}:/data", tree.display());
    agent.ok(["run", "-d", "--name", "c", "--rootfs", &rootfs, "-v", &volume, "--", "/pause"]);
    tree
}

fn of(container: &str) -> Option<Target> {
    Some(Target { target: Some(target::Target::Container(container.to_owned())) })
}

fn list(agent: &Agent, args: &[&str]) -> Vec<Value> {
    let json = agent.ctl([&["-o", "json"], args].concat()).run().success().json();
    json.as_array().expect("a list").clone()
}

/// Lines of NUL-separated fields that find(1) wrote about a tree, each with an empty field behind.
fn find(dir: &Path, args: &[&str], format: &str) -> Vec<Vec<String>> {
    let output = Command::new("find")
        .env("TZ", "UTC")
        .arg(dir)
        .args(args)
        .args(["-printf", format])
        .output();
    let output = output.expect("find(1)").stdout;
    let field = |bytes: &[u8]| -> String {
        bytes
            .utf8_chunks()
            .map(|c| {
                let bad: String = c.invalid().iter().map(|b| format!("\\x{b:02x}")).collect();
                c.valid().to_owned() + &bad
            })
            .collect()
    };
    let fields: Vec<String> = output.split(|byte| *byte == 0).map(field).collect();
    let lines = fields.split(|field| field == "\u{1}");
    lines.filter(|line| line.len() > 1).map(<[String]>::to_vec).collect()
}

#[test]
fn directories_are_those_that_find_lists_field_by_field() {
    let agent = Agent::start();
    let tree = container(&agent);
    let fields = r"%f\0%y\0%04m\0%n\0%U\0%G\0%s\0%b\0%i\0%l\0%TY-%Tm-%TdT%TT\0\1\0";
    for dir in ["", "many", "names", "links", "deep"] {
        let ours = list(&agent, &["ls", "c", &format!("/data/{dir}")]);
        let one = |entry: &Value| (entry["name"].as_str().unwrap_or("?").to_owned(), entry.clone());
        let ours: BTreeMap<_, _> = ours.iter().map(one).collect();
        let theirs = find(&tree.join(dir), &["-mindepth", "1", "-maxdepth", "1"], fields);
        assert_eq!(ours.len(), theirs.len(), "{dir}");
        for line in theirs {
            let entry = &ours[&line[0]];
            let why = format!("{entry}\n{line:?}");
            let kind = match entry["type"].as_str().expect("a type") {
                "regular" => "f",
                "directory" => "d",
                "symlink" => "l",
                "fifo" => "p",
                "character_device" => "c",
                other => other,
            };
            assert_eq!(kind, line[1], "{why}");
            assert_eq!(entry["mode"], line[2], "{why}");
            for (field, theirs) in [("links", 3), ("uid", 4), ("gid", 5), ("size_bytes", 6)] {
                assert_eq!(entry[field].to_string(), line[theirs], "{field}: {why}");
            }
            let blocks = entry["allocated_bytes"].as_u64().expect("a number") / 512;
            assert_eq!(blocks.to_string(), line[7], "{why}");
            assert_eq!(entry["inode"].to_string(), line[8], "{why}");
            assert_eq!(entry["link_target"].as_str().unwrap_or_default(), line[9], "{why}");
            // One digit more, and no Z.
            let time = entry["modify_time"].as_str().expect("a time").trim_end_matches('Z');
            assert_eq!(format!("{time}0"), line[10], "{why}");
        }
    }
    let names = agent.ok(["ls", "c", "/data/names"]);
    assert!(names.contains(r"new\nline") && names.contains(r"bad\xff"), "{names}");
    assert!(names.contains("1, 3 "), "{names}");
    assert!(agent.ok(["ls", "c", "/data"]).contains("-rws--x--x"));
    // A single file has the name by which it was asked for.
    let single = list(&agent, &["ls", "c", "/data/links/a"]);
    assert_eq!(single[0]["name"], "/data/links/a");
    assert_eq!(single[0]["links"], 3);
    agent.finish();
}

#[test]
fn what_a_tree_holds_is_what_du_says() {
    let agent = Agent::start();
    let tree = container(&agent);
    let ours = list(&agent, &["du", "--max-depth", "2", "c", "/data"]);
    let output = Command::new("du").args(["-B1", "--max-depth", "2"]).arg(&tree).output();
    let text = String::from_utf8(output.expect("du(1)").stdout).expect("text");
    let theirs: BTreeMap<String, u64> = text
        .lines()
        .map(|line| {
            let (size, path) = line.split_once('\t').expect("two columns");
            let path = path.replacen(&tree.display().to_string(), "/data", 1);
            (path, size.parse().expect("a number"))
        })
        .collect();
    let all: BTreeMap<_, _> = ours
        .iter()
        .map(|one| (one["path"].as_str().unwrap_or("?").to_owned(), one.clone()))
        .collect();
    assert_eq!(all.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    // Which of its directories a hard link counts for is the order of the filesystem.
    for exact in ["/data", "/data/many", "/data/names", "/data/deep/1"] {
        assert_eq!(all[exact]["allocated_bytes"], theirs[exact], "{exact}");
    }
    let whole = &all["/data"];
    let links = find(&tree, &["-type", "l"], r"%i\0%s\0\1\0");
    let files = find(&tree, &["-type", "f"], r"%i\0%s\0\1\0");
    let once: BTreeMap<String, u64> = files
        .into_iter()
        .chain(links)
        .map(|line| (line[0].clone(), line[1].parse().expect("a number")))
        .collect();
    assert_eq!(whole["apparent_bytes"], once.values().sum::<u64>());
    assert!(whole["apparent_bytes"].as_u64() > Some(1 << 30));
    assert!(whole["allocated_bytes"].as_u64() < Some(1 << 28), "the sparse file takes nothing");
    // The pipe and the device as well.
    assert_eq!(whole["files"], once.len() + 2);
    assert_eq!(whole["directories"], find(&tree, &["-type", "d"], r"%i\0.\0\1\0").len());
    assert_eq!(whole["unreadable"], 0);
    // Asked for twice, it counts once.
    let twice = list(&agent, &["du", "c", "/data/links/a", "/data/links/b"]);
    assert_eq!(twice[0]["apparent_bytes"], 50000);
    assert_eq!(twice[1]["apparent_bytes"], 0);
    agent.finish();
}

#[test]
fn the_largest_are_told_in_their_order() {
    let agent = Agent::start();
    container(&agent);
    let ours = list(&agent, &["du", "--top", "3", "c", "/data"]);
    let top: Vec<&Value> = ours.iter().filter(|one| one["top"] == true).collect();
    assert_eq!(top.len(), 3);
    let sizes: Vec<u64> = top.iter().filter_map(|one| one["allocated_bytes"].as_u64()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    assert!(top.iter().any(|one| one["path"] == "/data/many"), "{top:?}");
    assert!(top.iter().any(|one| one["path"] == "/data/big"), "{top:?}");
    let shown = agent.ok(["du", "--top", "3", "c", "/data"]);
    assert!(shown.contains("LARGEST"), "{shown}");
    agent.finish();
}

#[test]
fn other_filesystems_and_circles_are_not_walked() {
    let agent = Agent::start();
    let dir = agent.scratch("dir");
    let setup = format!(
        "mkdir -p {0}/other {0}/circle/in; mount --bind {0} {0}/circle/in; mount -t tmpfs t {0}/other; head -c 1000000 /dev/zero > {0}/other/file",
        dir.display()
    );
    let plain = Plain::after(&setup, &["--propagation", "private"]);
    let path = dir.display().to_string();
    let sizes = |args: &[&str]| {
        let one = &list(&agent, &[&["du"], args, &[&plain.target(), &path]].concat())[0];
        (one["apparent_bytes"].as_u64().expect("a size"), one["directories"].as_u64())
    };
    assert_eq!(sizes(&[]), (1_000_000, Some(3)));
    assert_eq!(sizes(&["-x"]).0, 0);
    drop(plain);
    agent.finish();
}

#[test]
fn a_tree_deeper_than_any_path_is_measured() {
    let agent = Agent::start();
    let dir = agent.scratch("dir");
    fs::create_dir(&dir).expect("a directory");
    // Deeper than PATH_MAX: no path leads to the bottom.
    let mut at = rustix::fs::open(&dir, OFlags::PATH, Mode::empty()).expect("opened");
    for _ in 0..50 {
        let name = "0".repeat(200);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("a directory");
        at = rustix::fs::openat(&at, &name, OFlags::PATH, Mode::empty()).expect("opened");
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    rustix::fs::openat(&at, "bottom", flags, Mode::RUSR).expect("a file");
    let one = &list(&agent, &["du", "host", &dir.display().to_string()])[0];
    assert_eq!(one["directories"], 51);
    assert_eq!(one["files"], 1);
    agent.finish();
}

#[test]
fn files_are_read_as_they_are_and_in_parts() {
    let agent = Agent::start();
    let tree = container(&agent);
    let random: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(tree.join("random"), &random).expect("it is written");
    let cat = |args: &[&str]| agent.ctl([&["cat"], args].concat()).run().success().stdout;
    assert!(cat(&["c", "/data/random"]) == random, "another content");
    assert!(cat(&["--offset", "11999990", "c", "/data/random"]) == random[11_999_990..]);
    assert!(cat(&["--offset", "7", "--limit", "5", "c", "/data/random"]) == random[7..12]);
    assert!(cat(&["--limit", "0", "c", "/data/random"]).is_empty());
    assert!(cat(&["--offset", "99999999", "c", "/data/random"]).is_empty());
    // A link is followed below the target's root, wherever it says that it leads.
    fs::write(agent.scratch("root").join("secret"), "the target's").expect("it is written");
    fs::write(agent.path("secret"), "the host's").expect("it is written");
    symlink(format!("../../../../../..{}", agent.path("secret").display()), tree.join("up"))
        .expect("a link");
    symlink("/../../secret", tree.join("root")).expect("a link");
    assert_eq!(cat(&["c", "/data/root"]), b"the target's");
    let error = agent.ctl(["cat", "c", "/data/up"]).run().exits(125).errors();
    assert!(error.contains("No such file"), "{error}");
    // A file of proc says that it is empty, and is not. It is that of the target.
    assert!(String::from_utf8_lossy(&cat(&["c", "/proc/1/cmdline"])).starts_with("/pause"));
    assert!(agent.ok(["cat", "c", "/etc/hosts"]).contains("localhost"));
    assert_eq!(cat(&["host", "/etc/hostname"]), fs::read("/etc/hostname").expect("the host's"));
    // 1 MiB where nothing is said, and names that are no text.
    agent.api(async |mut api| {
        let request = ReadFileRequest {
            target: of("c"),
            path: b"/data/random".to_vec().into(),
            ..Default::default()
        };
        let mut stream = api.files.read_file(request).await.expect("it is read").into_inner();
        let mut data = Vec::new();
        let first = stream.message().await.expect("a message").expect("the first");
        assert_eq!(first.size_bytes, random.len() as u64);
        data.extend(first.data);
        while let Some(part) = stream.message().await.expect("a message") {
            data.extend(part.data);
        }
        assert!(data == random[..1 << 20]);
        let path = b"/data/names/bad\xff".to_vec().into();
        let request = ReadFileRequest { target: of("c"), path, ..Default::default() };
        let mut stream = api.files.read_file(request).await.expect("it is read").into_inner();
        let mut data = Vec::new();
        while let Some(part) = stream.message().await.expect("a message") {
            data.extend(part.data);
        }
        assert_eq!(data, b"3\n");
    });
    agent.finish();
}

#[test]
fn looking_at_files_leaves_no_trace() {
    let agent = Agent::start();
    let tree = container(&agent);
    // With strictatime a read shows: the times of access are compared behind all that is asked.
    let watched = [tree.join("big"), tree.clone(), tree.join("deep/1/2"), tree.join("links/out")];
    let times = || {
        watched.each_ref().map(|path| {
            let about = fs::symlink_metadata(path).expect("it is there");
            (about.atime(), about.atime_nsec())
        })
    };
    let old = Command::new("touch").args(["-h", "-a", "-d", "2001-01-01"]).args(&watched).status();
    assert!(old.expect("touch(1)").success());
    let before = times();
    agent.ok(["cat", "c", "/data/big"]);
    agent.ok(["ls", "c", "/data"]);
    agent.ok(["du", "c", "/data"]);
    assert_eq!(times(), before);
    // The proof that it would show: a plain read is one.
    let mut sink = std::io::sink();
    std::io::copy(&mut File::open(&watched[0]).expect("opened"), &mut sink).expect("read");
    assert_ne!(times()[0], before[0], "this filesystem keeps no times of access");
    agent.finish();
}

#[test]
fn what_is_no_file_or_directory_is_refused_and_never_opened() {
    let agent = Agent::start();
    container(&agent);
    let error = |args: &[&str]| agent.ctl(args.to_vec()).run().exits(125).errors();
    // A reader of the pipe would wait for a writer, and a device may do anything.
    for (path, why) in [
        ("/data/names/pipe", "not a regular file"),
        ("/data/names/null", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("/data", "directory"),
        ("/data/nothing", "No such file"),
        ("/data/big/x", "Not a directory"),
    ] {
        let text = error(&["cat", "c", path]);
        assert!(text.contains(why) && text.contains(path), "{path}: {text}");
    }
    assert!(error(&["ls", "c", "/data/nothing"]).contains("No such file"));
    assert!(error(&["du", "c", "/data/nothing"]).contains("No such file"));
    assert!(error(&["ls", "nobody"]).contains("there is no container"));
    assert!(error(&["ls", "c", "data"]).contains("absolute"), "{}", error(&["ls", "c", "data"]));
    agent.api(async |mut api| {
        let path = |bytes: &[u8]| bytes.to_vec().into();
        let list = |bytes: &[u8]| ListDirectoryRequest { target: of("c"), path: path(bytes) };
        for bad in [&b"/a/../b"[..], b"a", b"/a\0b", &[b'/'; 5000]] {
            let error = api.files.list_directory(list(bad)).await.expect_err("it is refused");
            assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
            assert_eq!(api::faulty_fields(&error), ["path"]);
        }
        let read = |offset, limit_bytes| ReadFileRequest {
            target: of("c"),
            path: path(b"/data/big"),
            offset,
            limit_bytes,
        };
        for (request, field) in [(read(u64::MAX, 1), "offset"), (read(0, 1 << 40), "limit_bytes")] {
            let error = api.files.read_file(request).await.expect_err("it is refused");
            assert_eq!(api::faulty_fields(&error), [field]);
        }
        let measure = |paths: usize, top| MeasureUsageRequest {
            target: of("c"),
            paths: vec![path(b"/data"); paths],
            top,
            ..Default::default()
        };
        for (request, field) in
            [(measure(0, 0), "paths"), (measure(65, 0), "paths"), (measure(1, 5000), "top")]
        {
            let error = api.files.measure_usage(request).await.expect_err("it is refused");
            assert_eq!(api::faulty_fields(&error), [field]);
        }
    });
    agent.finish();
}

/// The walk never leads out, whatever is renamed around it.
#[test]
fn a_tree_that_changes_under_the_walk_does_not_lead_out_of_it() {
    let agent = Agent::start();
    let dir = agent.scratch("dir");
    script(&dir, "mkdir -p in/a out; for i in $(seq 200); do mkdir in/a/$i; done; ln -s / in/link");
    let churn = format!(
        "cd {}; while :; do mv in/a out/a; mv out/a in/a; mv in/a/7 out/7; ln -s / in/a/7; rm in/a/7; mv out/7 in/a/7; done",
        dir.display()
    );
    let mut sh = Command::new("sh");
    sh.args(["-c", &churn]).stderr(Stdio::null());
    let churning = Running::new(sh.spawn().expect("sh(1)"));
    for _ in 0..100 {
        let outcome =
            agent.ctl(["-o", "json", "du", "host", &dir.join("in").display().to_string()]).run();
        let json = outcome.success().json();
        let count = json[0]["directories"].as_u64().expect("a number");
        assert!(count <= 203, "{count} directories: it went out");
    }
    drop(churning);
    agent.finish();
}

#[test]
fn a_measurement_ends_with_its_call_or_its_target() {
    let agent = Agent::start();
    container(&agent);
    // The whole host may take long; nobody waits for it.
    let before = host::descendants(agent.pid()).len();
    agent.api(async |mut api| {
        let host = Some(Target { target: Some(target::Target::Host(Default::default())) });
        let request = MeasureUsageRequest {
            target: host,
            paths: vec![b"/".to_vec().into()],
            ..Default::default()
        };
        for _ in 0..20 {
            drop(api.files.measure_usage(request.clone()).await.expect("it is begun"));
        }
    });
    wait::until_true("nothing is left of it", || {
        host::descendants(agent.pid()).len() <= before + 8
    });
    agent.finish();
}

/// What it read until then was its own, but nobody is to take it for all there was.
#[test]
fn a_target_that_ends_in_the_middle_of_an_answer_is_an_error() {
    let agent = Agent::start();
    let dir = agent.scratch("dir");
    let setup = format!(
        "mkdir -p {0}; mount -t tmpfs t {0}; head -c 60000000 /dev/zero > {0}/file",
        dir.display()
    );
    let plain = Plain::after(&setup, &["--propagation", "private"]);
    let path = dir.join("file").display().to_string().into_bytes();
    agent.api(async |mut api| {
        let process = ProcessId { pid: plain.pid, start_ticks: 0 };
        let target = Some(Target { target: Some(target::Target::Process(process)) });
        let request =
            ReadFileRequest { target, path: path.into(), limit_bytes: 64 << 20, offset: 0 };
        // Nobody reads on, so that the answer stands still.
        let mut stream = api.files.read_file(request).await.expect("it is read").into_inner();
        stream.message().await.expect("a message").expect("the first");
        drop(plain);
        let error = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended as if all was well"),
                Err(error) => break error,
            }
        };
        assert_eq!(api::reason(&error), "PROCESS_GONE", "{error}");
    });
    agent.finish();
}

#[test]
fn names_that_look_alike_are_told_apart_and_can_be_typed() {
    use std::os::unix::ffi::OsStringExt as _;

    let agent = Agent::start();
    let script =
        r#"mkdir /d; echo raw > "/d/$(printf 'x\377')"; echo lit > '/d/x\xff'; exec sleep 1000"#;
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", script]);
    let cat = |name: &[u8]| {
        let path = OsString::from_vec([b"/d/", name].concat());
        agent.ctl([OsString::from("cat"), "c".into(), path]).run()
    };
    conti_tests::wait::until_true("both are there", || cat(br"x\xff").text() == "lit");
    assert_eq!(cat(b"x\xff").success().text(), "raw");

    let json = agent.ctl(["-o", "json", "ls", "c", "/d"]).run().success().json();
    let exact: BTreeSet<(&str, Option<&str>)> = json
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["name"].as_str().expect("a name"), one["name_bytes"].as_str()))
        .collect();
    assert_eq!(exact, BTreeSet::from([(r"x\xff", None), (r"x\xff", Some("eP8="))]));
    let listed = agent.ok(["ls", "c", "/d"]);
    let names: Vec<&str> =
        listed.lines().skip(1).filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, [r"x\\xff", r"x\xff"], "{listed}");
    for verb in ["ls", "du"] {
        let path = OsString::from_vec(b"/d/x\xff".to_vec());
        agent.ctl([OsString::from(verb), "c".into(), path]).run().success();
    }
    agent.finish();
}
