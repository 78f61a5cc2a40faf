//! `contictl stop`

use std::time::Duration;

use clap::Args;
use conti_proto::v1::StopContainerRequest;

use crate::{
    error::{Error, Result},
    flags::value::{duration, duration_message, signal},
    output::{self, Format},
    verb::{Context, for_each, missing},
};

/// Stop containers: a signal, a grace, then a kill
#[derive(Debug, Args)]
pub struct Stop {
    /// The signal that is sent first [default: SIGTERM]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal)]
    signal: Option<String>,
    /// How long to wait before everything in it is killed, e.g. 5 or 500ms [default: 10s]
    #[arg(short, long, visible_alias = "grace", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Containers, by id, prefix or name
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Stop {
    /// Stops them, all at once: each may take its grace.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let connection = context.connect().await?;
        let grace = self.time.map(duration_message);
        let signal = self.signal.unwrap_or_default();
        let stops = self.containers.iter().map(|container| {
            let mut client = connection.containers();
            let (container, signal) = (container.clone(), signal.clone());
            let request = StopContainerRequest { container, signal, grace };
            tokio::spawn(async move { client.stop_container(request).await })
        });
        let mut stops = stops.collect::<Vec<_>>().into_iter();
        for_each(&self.containers, async |_| {
            let stop = stops.next().ok_or_else(|| missing("the container"))?;
            let broke = |error| Error::Stream(format!("the call broke off: {error}"));
            let response = stop.await.map_err(broke)??.into_inner();
            match (context.format, response.container) {
                (Format::Json, Some(container)) => {
                    output::json(&output::json::container(&container))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}
