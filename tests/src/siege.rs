//! An agent under attack, and somebody who wants to work meanwhile.
//!
//! How long that takes is no test's business, since it depends on the machine. Where `CONTI_SIEGE_TIMES` names a
//! file, a line for each attack is added to it, for a benchmark.

use std::{
    cell::Cell,
    env,
    fs::File,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{
    api::{exit_code, process, session, sleeper},
    host,
    remote::Remote,
    wait::PATIENCE,
    wire::{self, Wire},
    world::World,
};

/// How many commands are done during an attack.
const COMMANDS: usize = 4;

/// An agent with a container `c`, an attacker `mallory` and a client `bob`.
pub struct Siege {
    /// The agent.
    pub world: World,
    /// Who attacks: an operator.
    pub mallory: Remote,
    /// Who works: an operator.
    pub bob: Remote,
    /// How long a command takes while there is peace.
    quiet: Duration,
}

/// An attack with a name, for a message.
pub struct Attack<'a> {
    siege: &'a Siege,
    name: String,
}

impl Siege {
    /// Starts an agent and the container.
    pub fn start() -> Siege {
        Siege::of(World::start(""))
    }

    /// Takes an agent and starts the container.
    pub fn of(world: World) -> Siege {
        let (mallory, bob) =
            (world.as_role("mallory", "operator"), world.as_role("bob", "operator"));
        let mut siege = Siege { world, mallory, bob, quiet: Duration::MAX };
        siege.world.agent.api(async |mut api| {
            api.run(sleeper("c")).await.expect("it runs");
        });
        // What the agent keeps from then on.
        for _ in 0..3 {
            let took = siege.world.agent.block_on(siege.command());
            siege.quiet = siege.quiet.min(took);
        }
        siege
    }

    /// Mallory without a certificate, at the door of those who want to join.
    pub fn guest(&self) -> Remote {
        Remote { identity: None, alpn: vec![b"conti-join/1".to_vec()], ..self.mallory.clone() }
    }

    /// Names the next attack.
    pub fn named(&self, name: &str) -> Attack<'_> {
        Attack { siege: self, name: name.to_owned() }
    }

    /// See [`Attack::under`].
    pub fn under<A>(&self, grown_kib: u64, attack: A)
    where
        A: AsyncFnOnce(Remote, Arc<AtomicBool>),
    {
        self.named("the attack").under(grown_kib, attack);
    }

    /// Bob connects, does one command in the container, and leaves. Returns how long that took.
    pub async fn command(&self) -> Duration {
        let begin = Instant::now();
        let work = async {
            let mut api = self.bob.api().await?;
            let open = wire::start(session("c", process(["true"])));
            let wire = Wire::open(&mut api, open).await.map_err(|status| format!("{status:?}"))?;
            Ok::<_, String>(exit_code(&wire.collect().await.end))
        };
        let done = timeout(PATIENCE, work).await.expect("a command is done within a minute");
        assert_eq!(done, Ok(0), "a command of another client");
        begin.elapsed()
    }

    /// Deletes the container and stops the agent.
    pub fn finish(self) {
        self.world.agent.finish();
    }
}

impl Attack<'_> {
    /// Attacks until Bob has done some commands on connections of their own, then tells the attacker to stop
    /// and waits until it has. The agent has not grown by more than this meanwhile, in KiB of memory of its
    /// own.
    pub fn under<A>(self, grown_kib: u64, attack: A)
    where
        A: AsyncFnOnce(Remote, Arc<AtomicBool>),
    {
        let Attack { siege, name } = self;
        let pid = siege.world.agent.pid();
        let before = host::anonymous_kib(pid);
        let goes_on = Arc::new(AtomicBool::new(true));
        let work = async {
            let mut longest = Duration::ZERO;
            for _ in 0..COMMANDS {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let took = siege.command().await;
                longest = longest.max(took);
            }
            goes_on.store(false, Ordering::Relaxed);
            longest
        };
        let most = Cell::new(0);
        let look = || most.set(most.get().max(host::anonymous_kib(pid)));
        let watch = async {
            loop {
                look();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let attack = attack(siege.mallory.clone(), goes_on.clone());
        let longest = siege.world.agent.block_on(async {
            let both = async {
                tokio::select! {
                    (longest, ()) = async { tokio::join!(work, attack) } => longest,
                    () = watch => unreachable!("it has no end"),
                }
            };
            let ended = timeout(2 * PATIENCE, both).await;
            ended.unwrap_or_else(|_| panic!("{name} does not come to its end"))
        });
        look();
        note_times(&name, siege.quiet, longest);
        let grown = most.get().saturating_sub(before);
        assert!(grown <= grown_kib, "{name} made the agent grow by {grown} KiB of {grown_kib}");
    }
}

/// Waits until an attacker is told to stop, with what it holds.
pub async fn hold_on(goes_on: &AtomicBool) {
    while goes_on.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Adds a line of tab-separated fields: the test, the attack, and milliseconds of a command before it and of the
/// longest during it.
fn note_times(attack: &str, quiet: Duration, longest: Duration) {
    let Some(path) = env::var_os("CONTI_SIEGE_TIMES") else { return };
    let thread = thread::current();
    let test = thread.name().unwrap_or_default();
    let [quiet, longest] = [quiet, longest].map(|took| took.as_secs_f64() * 1000.0);
    let line = format!("{test}\t{attack}\t{quiet:.1}\t{longest:.1}\n");
    let file = File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the times can be noted");
}
