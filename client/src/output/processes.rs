//! Processes, as tables and as JSON.

use conti_proto::v1::{ProcessInfo, ProcessState};
use prost_types::Duration;
use serde_json::{Value, json};

use super::{text, tree};

/// The columns of a table.
pub const HEADER: [&str; 11] = [
    "PID", "INSIDE", "PARENT", "USER", "STATE", "CPU%", "MEM", "THREADS", "TIME", "STARTED",
    "COMMAND",
];

/// A line for each, as they come.
pub fn list(found: &[ProcessInfo]) -> Vec<[String; 11]> {
    found.iter().map(|process| row(process, "")).collect()
}

/// A line for each, below its parent.
pub fn tree(found: &[ProcessInfo]) -> Vec<[String; 11]> {
    let rows = tree::rows(found, |process| process.pid, |process| Some(process.parent_pid), " ");
    rows.into_iter().map(|(branch, process)| row(process, &branch)).collect()
}

fn row(process: &ProcessInfo, branch: &str) -> [String; 11] {
    let user = Some(&process.user).filter(|name| !name.is_empty());
    [
        process.pid.to_string(),
        text::pid(process.target_pid),
        text::pid(process.parent_pid),
        user.cloned().unwrap_or_else(|| process.uid.to_string()),
        state(process),
        format!("{:.1}", process.cpu * 100.0),
        text::size(process.resident_bytes),
        process.threads.to_string(),
        time(&[process.user_time, process.system_time]),
        text::date(process.start_time.as_ref()),
        format!("{branch}{}", text::cut(&command(process))),
    ]
}

/// The arguments, or the name in brackets as ps(1) has it.
fn command(process: &ProcessInfo) -> String {
    if process.argv.is_empty() {
        let ended = if process.state() == ProcessState::Zombie { " <defunct>" } else { "" };
        return format!("[{}]{ended}", text::bytes(&process.name));
    }
    let all: Vec<String> = process.argv.iter().map(|argument| text::bytes(argument)).collect();
    all.join(" ")
}

fn state(process: &ProcessInfo) -> String {
    text::enum_name(process.state().as_str_name(), "PROCESS_STATE_")
}

/// CPU time as top(1) writes it: minutes, seconds and hundredths.
fn time(parts: &[Option<Duration>]) -> String {
    let hundredth = |time: &Duration| {
        time.seconds.saturating_mul(100).saturating_add(i64::from(time.nanos) / 10_000_000)
    };
    let all = parts.iter().flatten().map(hundredth).fold(0_i64, i64::saturating_add);
    format!("{}:{:02}.{:02}", all / 6000, all / 100 % 60, all % 100)
}

/// A process as JSON.
pub fn object(process: &ProcessInfo) -> Value {
    let seconds = |time: Option<Duration>| {
        time.map_or(0.0, |time| time.seconds as f64 + f64::from(time.nanos) / 1e9)
    };
    let name = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let object = json!({
        "pid": process.pid,
        "start_ticks": process.start_ticks,
        "parent_pid": process.parent_pid,
        "target_pid": process.target_pid,
        "own_pid": process.own_pid,
        "uid": process.uid,
        "user": name(&process.user),
        "state": state(process),
        "cpu": process.cpu,
        "user_seconds": seconds(process.user_time),
        "system_seconds": seconds(process.system_time),
        "resident_bytes": process.resident_bytes,
        "virtual_bytes": process.virtual_bytes,
        "swap_bytes": process.swap_bytes,
        "threads": process.threads,
        "nice": process.nice,
        "start_time": text::rfc3339(process.start_time.as_ref()),
        "name": null,
        "argv": null,
        "container_id": name(&process.container_id),
        "container_name": name(&process.container_name),
    });
    let object = super::json::with_names(object, [("name", &process.name[..])]);
    super::json::with_list(object, "argv", &process.argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_top() {
        let time = |seconds, nanos| super::time(&[Some(Duration { seconds, nanos }), None]);
        assert_eq!(time(0, 0), "0:00.00");
        assert_eq!(time(61, 990_000_000), "1:01.99");
        assert_eq!(time(7200, 10_000_000), "120:00.01");
        let _ = time(i64::MAX, i32::MAX);
    }

    #[test]
    fn a_tree_holds_each_once_also_where_parents_go_in_circles() {
        let process = |pid, parent_pid| ProcessInfo { pid, parent_pid, ..ProcessInfo::default() };
        let rows =
            tree(&[process(1, 0), process(2, 1), process(3, 2), process(4, 1), process(9, 7)]);
        let commands: Vec<String> = rows.into_iter().map(|row| row[10].clone()).collect();
        assert_eq!(commands, ["[]", "├─ []", "│  └─ []", "└─ []", "[]"]);
        assert_eq!(tree(&[process(5, 6), process(6, 5), process(7, 7)]).len(), 3);
    }
}
