//! `mounts`, against findmnt(8) and df(1) in the same mount namespace.

use std::{collections::BTreeMap, fs};

use conti_tests::{Agent, host, plain::Plain};
use serde_json::Value;

/// What `mounts` says, by mount id.
fn list(agent: &Agent, args: &[&str]) -> BTreeMap<u64, Value> {
    let json = agent.ctl([&["-o", "json", "mounts"], args].concat()).run().success().json();
    let all = json.as_array().expect("a list").iter();
    all.map(|mount| (mount["id"].as_u64().expect("an id"), mount.clone())).collect()
}

/// What findmnt(8) says in a mount namespace, by mount id.
fn findmnt(plain: &Plain) -> BTreeMap<u64, Value> {
    let columns = "ID,PARENT,TARGET,SOURCE,FSTYPE,VFS-OPTIONS,FS-OPTIONS,FSROOT,MAJ:MIN,PROPAGATION,SIZE,USED,AVAIL,OPT-FIELDS";
    let args = ["findmnt", "--json", "--list", "--bytes", "--nofsroot", "-o", columns];
    let output = plain.inside().args(args).output().expect("findmnt(8)");
    // It writes bytes that are no UTF-8 as they are, which JSON does not allow.
    let text: String = output.stdout.utf8_chunks().fold(String::new(), |text, chunk| {
        let bad: String = chunk.invalid().iter().map(|byte| format!("\\\\x{byte:02x}")).collect();
        text + chunk.valid() + &bad
    });
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let all = json["filesystems"].as_array().expect("a list").iter();
    all.map(|mount| (mount["id"].as_u64().expect("an id"), mount.clone())).collect()
}

/// Mounts of many kinds below a directory.
const MANY: &str = r#"
    cd $(dirname "$0" 2>/dev/null || echo /); cd "$DIR"
    mkdir plain 'a b' shared slave covered lower upper work merged unbindable bind 'new
line' "$(printf 'bad\377')" 'back\slash'
    mount -t tmpfs -o size=1m,nr_inodes=100 plain plain
    mount -t tmpfs 'a source' 'a b'
    mount -t tmpfs new 'new
line'
    mount -t tmpfs bad "$(printf 'bad\377')"
    mount -t tmpfs back 'back\slash'
    mount -t tmpfs -o ro,noexec,nosuid,nodev shared shared; mount --make-shared shared
    mount --bind shared slave; mount --make-slave slave
    mount -t tmpfs unbindable unbindable; mount --make-unbindable unbindable
    mount -t tmpfs first covered; mount -t tmpfs second covered
    mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged
    mkdir plain/sub; head -c 100000 /dev/zero > plain/file; mount --bind plain/sub bind
    cd /usr
"#;

fn many(agent: &Agent) -> Plain {
    let dir = agent.scratch("many");
    fs::create_dir(&dir).expect("a directory");
    let script = format!("DIR={}\n{MANY}", dir.display());
    Plain::after(&script, &["--propagation", "private"])
}

#[test]
fn mounts_are_those_that_findmnt_lists_field_by_field() {
    let agent = Agent::start();
    let plain = many(&agent);
    let (ours, theirs) = (list(&agent, &[&plain.target()]), findmnt(&plain));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (id, other) in &theirs {
        let one = &ours[id];
        let why = format!("{one}\n{other}");
        for (field, column) in [
            ("parent_id", "parent"),
            ("point", "target"),
            ("source", "source"),
            ("fs_type", "fstype"),
            ("options", "vfs-options"),
            ("fs_options", "fs-options"),
            ("root", "fsroot"),
            ("device", "maj:min"),
        ] {
            assert_eq!(one[field], other[column], "{field}: {why}");
        }
        let propagation = other["propagation"].as_str().unwrap_or_default();
        assert_eq!(one["peer_group"].is_u64(), propagation.contains("shared"), "{why}");
        assert_eq!(one["master_group"].is_u64(), propagation.contains("slave"), "{why}");
        assert_eq!(one["unbindable"], propagation.contains("unbindable"), "{why}");
        let group = |name: &str| {
            let tags = other["opt-fields"].as_str().unwrap_or_default();
            tags.split(' ').find_map(|tag| tag.strip_prefix(name)?.parse::<u64>().ok())
        };
        assert_eq!(one["peer_group"].as_u64(), group("shared:"), "{why}");
        assert_eq!(one["master_group"].as_u64(), group("master:"), "{why}");
        // A filesystem that others write to has another size a moment later.
        let own = one["point"].as_str().unwrap_or_default().contains("/many/");
        if own && one["fs_type"] == "tmpfs" && one["hidden"] == false {
            for (field, column) in
                [("size_bytes", "size"), ("used_bytes", "used"), ("available_bytes", "avail")]
            {
                assert_eq!(one["usage"][field], other[column], "{field}: {why}");
            }
        }
    }
    // The one below is told, but not as what the path leads to.
    let at = |name: &str| -> Vec<&Value> {
        let ends = |mount: &&Value| {
            mount["point"].as_str().is_some_and(|point| point.ends_with(&format!("/many/{name}")))
        };
        ours.values().filter(ends).collect()
    };
    let covered = at("covered");
    assert_eq!(covered.len(), 2);
    for mount in covered {
        assert_eq!(mount["hidden"], mount["source"] == "first", "{mount}");
        assert_eq!(mount["usage"].is_null(), mount["source"] == "first", "{mount}");
    }
    assert_eq!(at("bad\\xff").len(), 1);
    assert_eq!(at("new\nline").len(), 1);
    assert_eq!(at("back\\slash").len(), 1);
    assert_eq!(at("plain")[0]["usage"]["inodes"], 100);
    drop(plain);
    agent.finish();
}

#[test]
fn how_full_they_are_is_what_df_says() {
    let agent = Agent::start();
    let plain = many(&agent);
    let dir = agent.scratch("many");
    let point = dir.join("plain").display().to_string();
    let columns = "--output=source,fstype,itotal,iused,iavail,size,used,avail,pcent,target";
    let output = plain.inside().args(["df", "-B1", columns, &point]).output().expect("df(1)");
    let text = String::from_utf8(output.stdout).expect("text");
    let df: Vec<&str> = text.lines().nth(1).expect("a line").split_whitespace().collect();
    let found = list(&agent, &["--point", &point, &plain.target()]);
    let mount = found.values().next().expect("it is there");
    assert_eq!(found.len(), 1);
    let number = |field: &str| mount["usage"][field].to_string();
    assert_eq!(number("inodes"), df[2]);
    assert_eq!(number("inodes_used"), df[3]);
    assert_eq!(number("size_bytes"), df[5]);
    assert_eq!(number("used_bytes"), df[6]);
    assert_eq!(number("available_bytes"), df[7]);
    let shown = agent.ok(["mounts", "--point", &point, &plain.target()]);
    assert!(shown.contains(&format!(" {} ", df[8])), "{shown}\n{text}");
    drop(plain);
    agent.finish();
}

#[test]
fn filters_and_the_tree_show_what_they_should() {
    let agent = Agent::start();
    let plain = many(&agent);
    let target = plain.target();
    let sources = |args: &[&str]| -> Vec<String> {
        let found = list(&agent, &[args, &[&target]].concat());
        found.values().map(|m| m["source"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(sources(&["--source", "a source"]), ["a source"]);
    assert!(sources(&["--type", "overlay"]).contains(&"overlay".to_owned()));
    assert!(sources(&["--type", "overlay", "--source", "plain"]).is_empty());
    assert!(list(&agent, &["--no-usage", &target]).values().all(|m| m["usage"].is_null()));
    let tree = agent.ok(["mounts", &target]);
    assert!(tree.contains("├─/") || tree.contains("└─/"), "{tree}");
    // What a name brings along does not steer the terminal.
    assert!(tree.contains(r"new\nline") && tree.contains(r"bad\xff"), "{tree}");
    let flat = agent.ok(["mounts", "--list", &target]);
    assert!(!flat.contains("├─") && flat.lines().count() == tree.lines().count(), "{flat}");
    drop(plain);
    agent.finish();
}

/// A root with one static program: there is nothing inside that could help.
#[test]
fn a_container_with_nothing_inside_shows_its_mounts() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    conti_tests::rootfs::build_empty(&root);
    let rootfs = format!("dir:{}", root.display());
    agent.ok(["run", "-d", "--name", "c", "--rootfs", &rootfs, "--", "/pause"]);
    let pid = agent.ctl(["-o", "json", "inspect", "c"]).run().success().json()["pid"].to_string();
    let found = list(&agent, &["c"]);
    let mountinfo = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
    assert_eq!(found.len(), mountinfo.lines().count());
    assert!(found.values().all(|mount| mount["hidden"] == false), "{found:?}");
    for point in ["/", "/proc", "/sys", "/dev", "/dev/pts"] {
        assert!(found.values().any(|mount| mount["point"] == point), "{point}: {found:?}");
    }
    // Looking has started nothing in there.
    assert_eq!(host::namespace(&pid, "pid"), host::namespace(&pid, "pid_for_children"));
    agent.finish();
}
