//! The ways in which a process comes to be in a container.

use conti_tests::ctl::Outcome;

use crate::{answers::Rights, world::World};

/// How a process is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Run,
    Exec,
    Enter,
    Debug,
}

const KINDS: [Kind; 4] = [Kind::Run, Kind::Exec, Kind::Enter, Kind::Debug];

/// A way to start a process, in a container that was made in some way.
pub struct Place {
    pub name: String,
    pub kind: Kind,
    pub rights: Rights,
    /// Whether the container has ids of its own.
    pub own_ids: bool,
    pub tty: bool,
    pub init: bool,
}

/// Confined containers: a list for each container, in which one place comes after the other.
pub fn confined() -> Vec<Vec<Place>> {
    let of = |own_ids, init| {
        let kinds = KINDS.iter().flat_map(|kind| [(*kind, false), (*kind, true)]);
        kinds.map(|(kind, tty)| Place::new(kind, Rights::Confined, own_ids, tty, init)).collect()
    };
    vec![of(true, false), of(true, true), of(false, false), of(false, true)]
}

/// The same for containers without confinement.
pub fn privileged() -> Vec<Vec<Place>> {
    let of = |own_ids| {
        let place =
            |kind: &Kind| Place::new(*kind, Rights::Privileged, own_ids, *kind == Kind::Run, false);
        KINDS.iter().map(place).collect()
    };
    vec![of(true), of(false)]
}

impl Place {
    fn new(kind: Kind, rights: Rights, own_ids: bool, tty: bool, init: bool) -> Place {
        let words = [
            Some(format!("{kind:?}").to_lowercase()),
            (rights == Rights::Privileged).then(|| "privileged".into()),
            Some(if own_ids { "own-ids" } else { "host-ids" }.into()),
            tty.then(|| "tty".into()),
            init.then(|| "init".into()),
        ];
        let name = words.into_iter().flatten().collect::<Vec<String>>().join("-");
        Place { name, kind, rights, own_ids, tty, init }
    }

    /// Runs the probe there: what it printed.
    pub fn run(&self, world: &World) -> String {
        let volume = world.volume();
        let mut make = vec!["run", "-v", &volume];
        make.extend(["--userns", if self.own_ids { "auto" } else { "host" }]);
        make.extend(self.init.then_some("--init"));
        let privileged = (self.rights == Rights::Privileged).then_some("--privileged");
        make.extend(privileged);
        if self.kind == Kind::Run {
            make.extend(self.tty.then_some("-t"));
            make.push("--rm");
            return self.probe(world, make, "/escape");
        }
        // One container for all that is started in it the same way later.
        let name = format!("c-{}-{}", self.own_ids, self.init);
        let there = world.agent.api(async |mut api| api.get(&name).await.is_ok());
        if !there {
            make.extend(["-d", "--name", &name, "--", "sleep", "100000"]);
            world.agent.ok(make);
        }
        let (verb, program) = match self.kind {
            Kind::Exec => (["exec", "-t"], "/escape"),
            Kind::Enter => (["enter", "--tty"], "/escape"),
            _ => (["debug", "--tty"], "/target/escape"),
        };
        let mut args = verb[..if self.tty { 2 } else { 1 }].to_vec();
        args.extend(privileged.filter(|_| self.kind != Kind::Exec));
        args.push(&name);
        let output = self.probe(world, args, program);
        let state = world.agent.api(async |mut api| api.get(&name).await.expect("it is there"));
        assert_eq!(
            conti_tests::api::state(&state),
            conti_proto::v1::ContainerState::Running,
            "the container outlives {}",
            self.name
        );
        output
    }

    fn probe<'a>(&self, world: &'a World, mut args: Vec<&'a str>, program: &'a str) -> String {
        args.extend(["--", program]);
        args.extend(world.arguments.iter().map(String::as_str));
        let outcome: Outcome = world.agent.ctl(args).run();
        let text = String::from_utf8_lossy(&outcome.stdout).replace('\r', "");
        if outcome.code == 0 { text } else { format!("{text}\n{}", outcome.errors()) }
    }
}
