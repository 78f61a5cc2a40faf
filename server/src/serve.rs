//! The agent as a whole: from its command line until it is told to stop.

use std::{error::Error, path::Path, time::Duration};

use conti_shared::endpoint::Endpoint;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, timeout},
};
use tracing::{info, warn};

use crate::{
    access::{Policy, policy::CurrentPolicy, records::Audit},
    audit::{Limits, Log, key},
    cli::Args,
    engine::{Config, Engine},
    listen::{self, Connection, door::Door, lobby::Lobby, open::Open, tcp, unix},
    metrics::{self, Metrics},
    pki::Pki,
    privileges, reserve,
    service::{
        access::AccessLayer,
        audit::{self, AuditLayer},
        edge::{self, Passage},
        pki::Pki as PkiService,
        share::ShareLayer,
        stopping::Stopping,
    },
    tls::{CurrentTls, Material, reload::Reload},
};

/// How long clients have to take leave.
const DRAIN: Duration = Duration::from_secs(3);
/// How long the engine has to let go.
const LET_GO: Duration = Duration::from_secs(20);
/// How long the last lines of the audit log may take.
const LOG_CLOSE: Duration = Duration::from_secs(5);
/// How many connections may wait to be served.
const WAITING: usize = 64;

/// Serves until SIGTERM or SIGINT. Containers and sessions stay.
pub async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    // First of all: a signal while the engine starts must not end it half way.
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);

    privileges::check()?;
    let runtime = args
        .runtime()
        .map_err(|e| format!("cannot find conti-runtime beside contid: {e}; give --runtime"))?;
    let pki = Pki::of(&args.data_dir);
    let policy = args.policy.as_deref().map_or_else(|| Ok(Policy::default()), Policy::load)?;
    let policy = CurrentPolicy::new(policy);
    // What cannot be served is told before anything is touched.
    let tls = remote(&args, &pki)?;

    let audit_log = args.audit_log()?;
    let (open_files, files) = raise_open_files();
    let (state_dir, data_dir) = (args.state_dir, args.data_dir.clone());
    let reserve_bytes = args.reserve_bytes;
    let (userns, userns_pool) = (args.userns, args.userns_pool);
    let config =
        Config { state_dir, data_dir, reserve_bytes, runtime, open_files, userns, userns_pool };
    // It takes its directories before anything of an agent that runs there is touched.
    let engine = Engine::start(config).await?;

    let log = match &audit_log {
        Some(path) => open_log(path, &policy, reserve_bytes)?,
        None => Log::none(),
    };
    let metrics = Metrics::new(engine.clone());
    let scraped = match &args.metrics_listen {
        Some(address) => Some(metrics::Server::start(address, metrics.clone()).await?),
        None => None,
    };

    let (mut local, mut far) = (Vec::new(), Vec::new());
    #[cfg(feature = "vsock")]
    let mut machines = Vec::new();
    for endpoint in &args.listen {
        match endpoint {
            Endpoint::Unix(path) => {
                local.push(unix::Socket::open(path, policy.now().knows_local_users())?);
                info!(%endpoint, version = env!("CARGO_PKG_VERSION"), "listening");
            }
            Endpoint::Tcp(place) => {
                let socket = tcp::Socket::open(place).await?;
                let endpoint = format!("tcp://{}", socket.address);
                info!(endpoint, version = env!("CARGO_PKG_VERSION"), "listening");
                far.push(socket);
            }
            #[cfg(feature = "vsock")]
            Endpoint::Vsock { cid, port } => {
                machines.push(listen::vsock::Socket::open(*cid, *port)?);
                info!(%endpoint, version = env!("CARGO_PKG_VERSION"), "listening");
            }
            // The command line takes none of them.
            #[cfg(not(feature = "vsock"))]
            Endpoint::Vsock { .. } => {}
            Endpoint::Ssh { .. } => {}
        }
    }

    audit::resume(&log, &engine);
    let stopping = Stopping::default();
    let failures = metrics.audit_failures.clone();
    let audit = AuditLayer::new(
        policy.clone(),
        log.clone(),
        stopping.clone(),
        failures,
        key::of(&args.data_dir),
    );
    tokio::spawn(keep_reserves());
    let pki = PkiService::new(pki, far.iter().map(|socket| socket.address).collect());
    let (api, connections) = mpsc::channel::<Connection>(WAITING);
    let (join, guests) = mpsc::channel::<Connection>(WAITING);
    let open = Open::new(files);
    if let Some((tls, _)) = &tls {
        let counts = metrics.connections.clone();
        let (tls, lobby, log) = (tls.clone(), Lobby::new(files), log.clone());
        let door = Door::new(tls, lobby, open.clone(), log, counts, api, join);
        for socket in far {
            tokio::spawn(socket.serve(door.clone()));
        }
        #[cfg(feature = "vsock")]
        for socket in machines {
            tokio::spawn(socket.serve(door.clone()));
        }
        let guests = listen::connections(guests);
        let guests = edge::guests(pki.clone(), &metrics.calls, audit.clone())
            .serve_with_incoming_shutdown(guests, stopping.wait());
        tokio::spawn(guests);
    }
    let users = Open::new(files);
    let reload = Reload {
        policy: args.policy.map(|path| (policy.clone(), path)),
        tls,
        open,
        local: users.clone(),
        certificates: metrics.certificates.clone(),
    };
    tokio::spawn(reload.run());

    let passage = Passage {
        calls: metrics.calls.clone(),
        access: AccessLayer::new(policy.clone(), audit.log().clone()),
        share: ShareLayer::new(),
        audit,
    };
    let (narrow, narrows) = mpsc::channel::<Connection>(WAITING);
    let further =
        edge::router(&engine, &stopping, pki.clone(), passage.clone(), edge::NARROW).await?;
    let further =
        further.serve_with_incoming_shutdown(listen::connections(narrows), stopping.wait());
    let router = edge::router(&engine, &stopping, pki, passage, edge::WIDE).await?;
    let counts = metrics.connections.clone();
    let incoming = listen::all(local, policy, users, log.clone(), counts, connections);
    let incoming = listen::set_apart(incoming, narrow);
    let serve = router.serve_with_incoming_shutdown(incoming, stopping.wait());
    let serve = async { tokio::try_join!(serve, further) };
    tokio::pin!(serve);

    tokio::select! {
        result = &mut serve => drop(result?),
        name = async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        } => {
            info!(signal = name, "stopping; containers and sessions go on");
            stopping.begin();
            match timeout(DRAIN, serve).await {
                Ok(result) => drop(result?),
                Err(_) => warn!("some clients did not take leave in time"),
            }
        }
    }
    if let Some(server) = scraped {
        server.stop().await;
    }
    if timeout(LET_GO, engine.shutdown()).await.is_err() {
        warn!("the engine did not let go in time; the next agent will clean up");
    }
    let closed = tokio::task::spawn_blocking(move || log.close());
    if timeout(LOG_CLOSE, closed).await.is_err() {
        warn!("the audit log could not be closed in time; its disk may hang");
    }
    info!("stopped");
    Ok(())
}

/// Opens the audit log.
fn open_log(
    path: &Path,
    policy: &CurrentPolicy,
    reserve_bytes: u64,
) -> Result<Log, Box<dyn Error>> {
    let Audit { max_bytes, keep, .. } = policy.now().audit;
    let log = Log::open(path, Limits { max_bytes, keep }).map_err(|problem| {
        let path = path.display();
        format!("cannot open the audit log {path}: {problem}; choose another with --audit-log, or `none`")
    })?;
    if let Some(dir) = path.parent() {
        reserve::keep(dir, reserve_bytes);
    }
    Ok(log)
}

/// Makes again what was given up of the room for records. Never ends.
async fn keep_reserves() {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // It may wait for a disk.
        let _ = tokio::task::spawn_blocking(reserve::refill).await;
    }
}

/// Lets the agent have as many files open as it may. Returns the limit that was there, for what it starts, and how
/// many that is now.
fn raise_open_files() -> (Rlimit, usize) {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            warn!(%error, "cannot raise the limit of open files");
            found.current
        }
    };
    (found, limit.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX))
}

/// TLS, where something listens to other machines.
fn remote(args: &Args, pki: &Pki) -> Result<Option<(CurrentTls, Material)>, Box<dyn Error>> {
    let Some(endpoint) = args.listen.iter().find(|one| !matches!(one, Endpoint::Unix(_))) else {
        return Ok(None);
    };
    let material = args.tls.material(pki).ok_or_else(|| {
        format!(
            "will not listen on {endpoint}: that needs a certificate and an authority of clients, and there is \
             neither; `contid pki init` makes both in {}, or give --tls-cert, --tls-key and --tls-client-ca",
            pki.dir().display()
        )
    })?;
    let tls = material.load().map_err(|error| format!("will not listen on {endpoint}: {error}"))?;
    Ok(Some((CurrentTls::new(tls), material)))
}
