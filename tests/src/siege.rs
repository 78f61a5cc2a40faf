//! An agent under attack, and somebody who wants to work meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
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
        let siege = Siege { world, mallory, bob };
        siege.world.agent.api(async |mut api| {
            api.run(sleeper("c")).await.expect("it runs");
        });
        // What the agent keeps from then on.
        siege.world.agent.block_on(async {
            for _ in 0..3 {
                siege.command().await;
            }
        });
        siege
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

    /// Bob connects, does one command in the container, and leaves.
    pub async fn command(&self) {
        let work = async {
            let mut api = self.bob.api().await?;
            let open = wire::start(session("c", process(["true"])));
            let wire = Wire::open(&mut api, open).await.map_err(|status| format!("{status:?}"))?;
            Ok::<_, String>(exit_code(&wire.collect().await.end))
        };
        let done = timeout(PATIENCE, work).await.expect("a command is done within a minute");
        assert_eq!(done, Ok(0), "a command of another client");
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
            let mut most = 0;
            for _ in 0..COMMANDS {
                tokio::time::sleep(Duration::from_millis(100)).await;
                siege.command().await;
                most = most.max(host::anonymous_kib(pid));
            }
            most = most.max(host::anonymous_kib(pid));
            goes_on.store(false, Ordering::Relaxed);
            most
        };
        let attack = attack(siege.mallory.clone(), goes_on.clone());
        let (most, ()) = siege.world.agent.block_on(async {
            timeout(2 * PATIENCE, async { tokio::join!(work, attack) })
                .await
                .unwrap_or_else(|_| panic!("{name} does not come to its end"))
        });
        let most = most.max(host::anonymous_kib(pid));
        let grown = most.saturating_sub(before);
        assert!(grown <= grown_kib, "{name} made the agent grow by {grown} KiB of {grown_kib}");
    }
}
