//! The agent as a process: the names are those that Prometheus gives them for every program.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use conti_runtime::{host, own};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// Reads this process.
#[derive(Debug)]
pub struct ProcessCollector {
    /// Seconds since 1970.
    started: f64,
}

impl ProcessCollector {
    /// For a process that starts now.
    pub fn new() -> ProcessCollector {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ProcessCollector { started: since.as_secs_f64() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let metric = encoder.encode_descriptor(
            "process_cpu",
            "CPU time of the agent itself.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        ConstCounter::new(cpu).encode(metric)?;
        let metric = encoder.encode_descriptor(
            "process_start_time",
            "When the agent was started, in seconds since 1970.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.started).encode(metric)?;
        let mut gauge = |name, help, unit: Option<&Unit>, value: u64| {
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        let memory = resident_bytes();
        gauge("process_resident_memory", "Memory of the agent.", Some(&Unit::Bytes), memory)?;
        gauge("process_open_fds", "Files that the agent has open.", None, open_fds())?;
        // No limit is shown as the largest number.
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        gauge("process_max_fds", "Files that the agent may have open.", None, most)
    }
}

fn resident_bytes() -> u64 {
    let text = host::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn open_fds() -> u64 {
    // One of them is the directory that is being read.
    own::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    #[test]
    fn a_process_shows_what_it_uses() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector::new()));
        let mut shown = String::new();
        text::encode(&mut shown, &registry).unwrap();
        for name in [
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            let line = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value: f64 = line.unwrap_or_else(|| panic!("{name} in\n{shown}")).parse().unwrap();
            assert!(value > 0.0, "{name} is {value}");
        }
    }
}
