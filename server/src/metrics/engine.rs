//! What the engine has counted and what it has, read when somebody asks.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use crate::engine::Engine;

/// Reads an engine.
#[derive(Debug)]
pub struct EngineCollector(pub Arc<Engine>);

impl Collector for EngineCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut show = Show(encoder);
        let counts = self.0.counts();
        let census = self.0.census();
        show.gauges("containers", "Containers, by state.", "state", census.containers)?;
        show.gauge("sessions_running", "Sessions whose command runs.", census.sessions_running)?;
        show.counter(
            "sessions_started",
            "Sessions whose command began to run.",
            None,
            counts.sessions_started.get(),
        )?;
        show.counters(
            "sessions_ended",
            "Sessions that ended, by reason.",
            ("reason", None),
            counts.sessions_ended(),
        )?;
        show.counters(
            "session",
            "Input that sessions took, and output that was read from them.",
            ("direction", Some(Unit::Bytes)),
            [("in", counts.input_bytes.get()), ("out", counts.output_bytes.get())],
        )?;
        show.counter(
            "journal_dropped",
            "Output of ended sessions that was dropped before anybody read it.",
            Some(Unit::Bytes),
            counts.dropped_bytes.get(),
        )?;
        let failed = counts.setups_failed();
        show.counters(
            "setup_failures",
            "Set-ups that failed, by step.",
            ("step", None),
            failed.iter().map(|(step, n)| (step.as_str(), *n)),
        )?;
        let lost = counts.sessions_ended().find(|(reason, _)| *reason == "lost");
        show.counter(
            "monitors_lost",
            "Monitors that died or could not be reached, with their sessions.",
            None,
            lost.map_or(0, |(_, n)| n),
        )?;
        show.counter(
            "launcher_restarts",
            "Launchers that were started in the place of one that had died.",
            None,
            counts.launcher_restarts.get(),
        )?;
        show.gauge("spare_slots", "Slots that are ready for a container.", census.spare_slots)?;
        show.gauge("inspectors", "Inspectors at work.", census.inspectors)?;
        show.gauge(
            "inspections_waiting",
            "Questions that wait for an inspector.",
            census.questions_waiting,
        )
    }
}

/// Writes numbers.
struct Show<'a>(DescriptorEncoder<'a>);

impl Show<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> fmt::Result {
        let unit = unit.as_ref();
        let metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, count) in values {
            let labels = [(label, value)];
            ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        (label, unit): (&str, Option<Unit>),
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let unit = unit.as_ref();
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (value, count) in values {
            let labels = [(label, value)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
