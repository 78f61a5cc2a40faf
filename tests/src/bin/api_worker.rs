//! Times calls of the API for the benchmark, as scripts/bench/worker.py times commands: each line of stdin
//! is a JSON list, `["namespaces"]` or `["mounts", "PID"]`; the answer is `[seconds, code]`. What is
//! timed is the call with all of its answer, on a connection that is there already.

use std::{
    io::{BufRead as _, Write as _},
    path::PathBuf,
    time::Instant,
};

use conti_proto::v1::{ListMountsRequest, ListNamespacesRequest, ProcessId, Target, target};
use conti_tests::api::Api;

fn main() -> Result<(), String> {
    let socket = PathBuf::from(std::env::args().nth(1).ok_or("give the agent's socket")?);
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut api = Api::connect(&socket).await?;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| error.to_string())?;
            let call: Vec<String> = serde_json::from_str(&line).map_err(|e| e.to_string())?;
            let call: Vec<&str> = call.iter().map(String::as_str).collect();
            let begin = Instant::now();
            let count = match call[..] {
                ["namespaces"] => namespaces(&mut api).await,
                ["mounts", pid] => mounts(&mut api, pid.parse().unwrap_or(0)).await,
                _ => return Err(format!("unknown: {line}")),
            };
            let seconds = begin.elapsed().as_secs_f64();
            let count = count.map_err(|status| status.to_string())?;
            // An answer without anything in it measures nothing.
            let answer = format!("[{seconds}, {}]\n", u8::from(count == 0));
            std::io::stdout().write_all(answer.as_bytes()).map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

async fn namespaces(api: &mut Api) -> Result<usize, tonic::Status> {
    let request = ListNamespacesRequest::default();
    let mut stream = api.namespaces.list_namespaces(request).await?.into_inner();
    let mut count = 0;
    while let Some(part) = stream.message().await? {
        count += part.namespaces.len();
    }
    Ok(count)
}

async fn mounts(api: &mut Api, pid: u32) -> Result<usize, tonic::Status> {
    let process = target::Target::Process(ProcessId { pid, start_ticks: 0 });
    let target = Some(Target { target: Some(process) });
    let request = ListMountsRequest { target, skip_usage: true, ..Default::default() };
    let mut stream = api.mounts.list_mounts(request).await?.into_inner();
    let mut count = 0;
    while let Some(part) = stream.message().await? {
        count += part.mounts.len();
    }
    Ok(count)
}
