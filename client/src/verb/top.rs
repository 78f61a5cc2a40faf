//! `contictl top`

use std::time::Duration;

use clap::{Args, ValueEnum};
use conti_proto::v1::{ProcessInfo, WatchProcessesRequest};
use serde_json::Value;

use crate::{
    error::Result,
    flags::target::Target,
    output::{self, Format, processes, text},
    terminal,
    verb::Context,
};

/// Show the processes of a target, refreshed regularly
///
/// On a terminal each snapshot is drawn over the one before; ctrl-c ends it. Elsewhere they follow one
/// another. JSON is one list a line.
#[derive(Debug, Args)]
pub struct Top {
    /// The seconds between two snapshots
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    delay: Duration,
    /// End after this many snapshots
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// What stands first
    #[arg(short, long, value_enum, default_value = "cpu")]
    sort: Sort,
    /// CONTAINER, pid:PID or host
    target: Target,
}

/// An order of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// What takes most of a CPU
    Cpu,
    /// What has most memory in RAM
    Mem,
    /// What was started last
    Start,
    /// What has taken most CPU time
    Time,
    /// The lowest pid
    Pid,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    let wanted = Duration::try_from_secs_f64(seconds).ok();
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    wanted.filter(|wanted| range.contains(wanted)).ok_or_else(|| "give 0.1 to 3600".to_owned())
}

impl Top {
    /// Shows snapshots until the target ends, enough were shown or nobody looks any more.
    pub async fn run(self, context: &Context) -> Result<u8> {
        // A second at least, and below 1,000,000,000 nanoseconds.
        let interval = prost_types::Duration {
            seconds: self.delay.as_secs() as i64,
            nanos: self.delay.subsec_nanos() as i32,
        };
        let request = WatchProcessesRequest {
            target: Some(self.target.clone().into()),
            interval: Some(interval),
        };
        let mut client = context.connect().await?.processes();
        let mut stream = client.watch_processes(request).await?.into_inner();
        let (mut found, mut shown): (Vec<ProcessInfo>, u64) = (Vec::new(), 0);
        while self.count.is_none_or(|count| shown < count) {
            let Some(part) = stream.message().await? else { break };
            found.extend(part.processes);
            if part.complete {
                self.show(context.format, std::mem::take(&mut found), shown == 0)?;
                shown += 1;
            }
        }
        Ok(0)
    }

    fn show(&self, format: Format, mut found: Vec<ProcessInfo>, first: bool) -> Result<()> {
        let time = |process: &ProcessInfo| {
            let part = |time: Option<prost_types::Duration>| {
                time.map_or(0, |time| {
                    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
                })
            };
            part(process.user_time) + part(process.system_time)
        };
        found.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Cpu => b.cpu.total_cmp(&a.cpu),
                Sort::Mem => b.resident_bytes.cmp(&a.resident_bytes),
                Sort::Start => b.start_ticks.cmp(&a.start_ticks),
                Sort::Time => time(b).cmp(&time(a)),
                Sort::Pid => a.pid.cmp(&b.pid),
            };
            order.then(a.pid.cmp(&b.pid))
        });
        if format == Format::Json {
            let all = Value::from(found.iter().map(processes::object).collect::<Vec<_>>());
            return output::json_line(&all);
        }
        let threads: u64 = found.iter().map(|process| u64::from(process.threads)).sum();
        let cpu: f64 = found.iter().map(|process| process.cpu).sum();
        let memory = found.iter().fold(0_u64, |sum, one| sum.saturating_add(one.resident_bytes));
        let several = |count: u64, one: &str, more: &str| {
            format!("{count} {}", if count == 1 { one } else { more })
        };
        let summary = format!(
            "{}, {}, {:.1}% of a CPU, {} resident",
            several(found.len() as u64, "process", "processes"),
            several(threads, "thread", "threads"),
            cpu * 100.0,
            text::size(memory)
        );
        let screen = terminal::size().filter(|_| terminal::stdout_is_terminal());
        let Some(screen) = screen else {
            let gap = if first { "" } else { "\n" };
            output::line(&format!("{gap}{summary}"))?;
            return output::table(processes::HEADER, processes::list(&found));
        };
        // The summary and the header take two lines, the cursor stands on another.
        found.truncate((screen.rows as usize).saturating_sub(3));
        let table = output::lines(processes::HEADER, processes::list(&found));
        let lines = std::iter::once(summary).chain(table);
        let columns = screen.columns as usize;
        // Each line is cleared behind its end and all below the last: nothing flickers.
        let text: String = lines
            .map(|line| format!("{}\x1b[K\n", line.chars().take(columns).collect::<String>()))
            .collect();
        let begin = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" };
        output::print(&format!("{begin}{text}\x1b[J"))
    }
}
