//! Who may do what: random histories, after which each caller makes each call on each thing, and is answered as
//! docs/authorization.md says. The seed is printed; `CONTI_SEED` gives another.

mod calls;
mod history;
mod model;
mod table;

use std::{
    collections::BTreeSet,
    env, fs,
    hash::{BuildHasher as _, RandomState},
    os::unix::fs::symlink,
};

use conti_proto::v1;
use conti_tests::{api::Api, world::World};
use history::{Chance, PLACES};
use model::{CALLERS, Kind, Verdict};
use prost_reflect::DescriptorPool;

const ROUNDS: usize = 2;
const STEPS: usize = 18;

/// The methods of the contract, but for the one that only guests may call.
fn methods() -> Vec<String> {
    let pool = DescriptorPool::decode(conti_proto::DESCRIPTORS).expect("descriptors");
    let services = pool.services().filter(|service| service.package_name() == "conti.v1");
    let all = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    all.map(|method| method.name().to_owned()).filter(|name| name != "Join").collect()
}

/// Whether a method makes containers.
fn making(method: &str) -> bool {
    ["CreateContainer", "Stream"].contains(&method)
}

async fn connect(world: &World) -> Vec<Api> {
    let mut apis = Vec::new();
    for caller in CALLERS {
        let role = match caller.role {
            v1::Role::Viewer => "viewer",
            v1::Role::Operator => "operator",
            _ => "admin",
        };
        apis.push(world.as_role(caller.name, role).api().await.expect("it may connect"));
    }
    apis
}

/// Makes some calls as each caller: what was answered otherwise than it may be.
async fn audit(
    apis: &mut [Api],
    model: &mut model::World,
    methods: &[&str],
    wrong: &mut Vec<String>,
) {
    let mut admin = apis[3].clone();
    for method in methods {
        for (caller, api) in CALLERS.iter().zip(apis.iter_mut()) {
            let cases = |model: &model::World| {
                let cases = calls::cases(model, caller, method);
                cases.unwrap_or_else(|| panic!("there is no rule for {method}"))
            };
            let mut all = cases(model);
            for index in 0..all.len() {
                let (thing, may) = all[index].clone();
                let answer = calls::call(api, method, model, &thing).await;
                let done = answer.is_ok();
                if calls::verdict(&answer) != may {
                    let (caller, answer) = (
                        caller.name,
                        answer.map_err(|status| (status.code(), status.message().to_owned())),
                    );
                    wrong.push(format!(
                        "{method} of {thing:?} as {caller}: {may:?}, not {answer:?}"
                    ));
                }
                let (calls::Thing::Container(index), true) = (&thing, done) else { continue };
                match *method {
                    "StopContainer" if !model.containers[*index].auto_remove => {
                        model.stopped(*index);
                    }
                    "StopContainer" | "DeleteContainer" => model.gone(*index),
                    _ => continue,
                }
                history::ended(&mut admin, model).await;
                // What has joined it is not what it was.
                all = cases(model);
            }
        }
    }
    lists(apis, model, wrong).await;
}

/// Compares what each caller is shown in lists.
async fn lists(apis: &mut [Api], model: &model::World, wrong: &mut Vec<String>) {
    for (caller, api) in CALLERS.iter().zip(apis) {
        let of = |rule: &dyn Fn(usize) -> Verdict, count: usize| -> BTreeSet<usize> {
            (0..count).filter(|one| rule(*one) == Verdict::Done).collect()
        };
        let sessions = |shown: BTreeSet<String>| -> BTreeSet<usize> {
            let all = model.sessions.iter().enumerate();
            all.filter(|(_, one)| shown.contains(&one.id)).map(|(index, _)| index).collect()
        };
        let shown: BTreeSet<String> = api.list().await.into_iter().map(|one| one.id).collect();
        let all = model.containers.iter().enumerate();
        let shown: BTreeSet<usize> =
            all.filter(|(_, one)| shown.contains(&one.id)).map(|(index, _)| index).collect();
        let may = of(&|one| model.see(caller, one), model.containers.len());
        if shown != may {
            wrong.push(format!("ListContainers as {}: {may:?}, not {shown:?}", caller.name));
        }
        let request = v1::ListSessionsRequest { page_size: 1000, ..Default::default() };
        let answer = api.sessions.list_sessions(request).await.expect("a list").into_inner();
        let shown = sessions(answer.sessions.into_iter().map(|one| one.id).collect());
        let may = of(&|one| model.see_session(caller, one), model.sessions.len());
        if shown != may {
            wrong.push(format!("ListSessions as {}: {may:?}, not {shown:?}", caller.name));
        }
        if caller.role < v1::Role::Operator {
            continue;
        }
        let request = v1::ListRecordingsRequest { page_size: 1000, ..Default::default() };
        let answer = api.sessions.list_recordings(request).await.expect("a list").into_inner();
        let shown = sessions(answer.recordings.into_iter().map(|one| one.session_id).collect());
        let may = of(&|one| model.recording(caller, one), model.sessions.len());
        if shown != may {
            wrong.push(format!("ListRecordings as {}: {may:?}, not {shown:?}", caller.name));
        }
    }
}

#[test]
fn each_call_of_each_caller_is_answered_as_the_table_says_after_any_history() {
    let seed =
        env::var("CONTI_SEED").ok().map(|seed| seed.parse().expect("CONTI_SEED is a number"));
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("CONTI_SEED={seed}");
    let mut chance = Chance(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let places = ["granted", "secret"].map(|name| directory.path().join(name));
    places.iter().for_each(|place| fs::create_dir(place).expect("a directory"));
    symlink(&places[1], places[0].join(history::LINK)).expect("a link");
    let policy = model::policy(&places[0].display().to_string());
    PLACES.set(places).expect("once");
    let mut world = World::start(&policy);
    let mut model = model::World::default();
    let methods = methods();
    let (ending, others): (Vec<&str>, Vec<&str>) =
        methods.iter().map(String::as_str).partition(|method| calls::ENDING.contains(method));
    assert_eq!(ending.len(), calls::ENDING.len());
    for _ in 0..ROUNDS {
        model.first = model.containers.len();
        // It has the name that no other container gets.
        world.agent.block_on(async {
            let mut apis = connect(&world).await;
            let taken = (3, Kind::Plain, None);
            history::create(&mut apis, &mut model, taken, "taken".into(), false).await;
            for _ in 0..STEPS {
                eprintln!("{}", history::step(&mut apis, &mut model, &mut chance).await);
            }
        });
        let mut restart = |model: &mut model::World| {
            if chance.once_in(2) {
                eprintln!("the agent is killed");
                world.agent.kill();
            } else {
                eprintln!("the agent is stopped");
                world.agent.terminate();
            }
            world.agent.restart();
            model.restarted();
        };
        restart(&mut model);
        let mut wrong = Vec::new();
        world.agent.block_on(async {
            let mut apis = connect(&world).await;
            audit(&mut apis, &mut model, &others, &mut wrong).await;
            // All is stopped first, so that what waits for an end is answered.
            audit(&mut apis, &mut model, &calls::ENDING, &mut wrong).await;
            // What is left of it is decided by what was stored.
            // But nothing is made: there is no name any more that is taken.
            let left: Vec<&str> = others.iter().copied().filter(|one| !making(one)).collect();
            audit(&mut apis, &mut model, &left, &mut wrong).await;
        });
        assert!(
            wrong.is_empty(),
            "{}\n{:#?}\n{:#?}",
            wrong.join("\n"),
            model.containers,
            model.sessions
        );
    }
    world.agent.finish();
}
