//! The audit log of an agent, and agents with a policy of what it holds.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Agent, wait};

/// All files of the log, the oldest first.
pub fn files(agent: &Agent) -> Vec<PathBuf> {
    let entries = fs::read_dir(agent.path("audit")).expect("a directory");
    let entries = entries.map(|entry| entry.expect("an entry"));
    // What begins with a dot is not a part of the log.
    let own = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let mut files: Vec<PathBuf> = own.map(|entry| entry.path()).collect();
    files.sort();
    // Those with a number are older than the one without.
    files.rotate_left(1);
    files
}

/// All that stands in the log. Each line is whole.
pub fn entries(agent: &Agent) -> Vec<Value> {
    files(agent).iter().flat_map(|file| read(file)).collect()
}

/// The begin and the end of the last call of a method. The end is awaited.
pub fn last(agent: &Agent, method: &str) -> (Value, Value) {
    wait::until("the end of the call is in the log", || {
        let all = entries(agent);
        let begin = all.iter().rfind(|e| e["event"] == "begin" && e["method"] == method)?;
        let end = all.iter().find(|e| e["event"] != "begin" && e["call"] == begin["call"])?;
        Some((begin.clone(), end.clone()))
    })
}

/// An agent with a policy.
pub fn with_policy(policy: &str) -> Agent {
    behind("true", policy)
}

/// An agent with a policy, after a script in a mount namespace of its own.
pub fn behind(script: &str, policy: &str) -> Agent {
    Agent::start_behind(|dir: &Path| {
        fs::write(dir.join("policy.toml"), policy).expect("a policy can be written");
        let script =
            format!("set -e; dir=$1; shift; {script}; exec \"$@\" --policy $dir/policy.toml");
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
        words.iter().map(OsString::from).chain([dir.into()]).collect()
    })
}

/// A script for [`behind`]: the log has a disk of its own, with room for a few records.
pub const SMALL_DISK: &str = "mkdir -p $dir/audit; mount -t tmpfs -o size=64k none $dir/audit";

/// The directory of [`SMALL_DISK`], as it is seen from here.
pub fn disk_of(agent: &Agent) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", agent.pid()))
        .join(agent.path("audit").strip_prefix("/").expect("absolute"))
}

/// Fills the disk of [`SMALL_DISK`]: its directory, and the file to remove so that there is room again.
pub fn fill(agent: &Agent) -> (PathBuf, PathBuf) {
    let inside = disk_of(agent);
    let filler = inside.join("filler");
    let mut file = fs::File::create(&filler).expect("a file");
    let zeros = [0; 4096];
    while file.write_all(&zeros).is_ok() {}
    (inside, filler)
}

/// What stands in one file of the log. Each line is whole.
pub fn read(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is one object")).collect()
}

/// How many records are missing, as the log tells. A short one may find room where others did not.
pub fn lost(all: &[Value]) -> u64 {
    all.iter().filter_map(|entry| entry["lost"].as_u64()).sum()
}
