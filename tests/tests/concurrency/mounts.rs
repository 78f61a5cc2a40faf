//! The mounts of one container.

use std::{collections::BTreeSet, time::Duration};

use conti_proto::v1;
use conti_tests::{
    Agent,
    api::{Api, sleeper},
    wait,
};
use tonic::{Code, Status};

use crate::{AT_ONCE, Call, at_once, covers_are_in_place, of, pairs, run, slowed};

/// Where something is mounted in these tests: on top of what makes it read-only.
const POINT: &str = "/proc/sys";

async fn mount(api: &mut Api, point: &str) -> Result<String, Status> {
    let source = Some(v1::mount::Source::Tmpfs(v1::TmpfsMount::default()));
    let request = v1::CreateMountRequest {
        target: of("c"),
        mount: Some(v1::Mount { target: point.to_owned(), source, read_only: false }),
        create_point: true,
        ..Default::default()
    };
    let made = api.mounts.create_mount(request).await?.into_inner();
    Ok(made.mount.expect("the mount").id)
}

async fn unmount(api: &mut Api, id: &str, lazy: bool) -> Result<(), Status> {
    let which = Some(v1::delete_mount_request::Which::Id(id.to_owned()));
    let request = v1::DeleteMountRequest { which, lazy, dry_run: false };
    api.mounts.delete_mount(request).await.map(|_| ())
}

/// The mounts of the container: where, and the ids of those that were made by calls.
async fn mounts(api: &mut Api) -> Vec<(String, Option<String>)> {
    let request = v1::ListMountsRequest { target: of("c"), skip_usage: true, ..Default::default() };
    let mut answer = api.mounts.list_mounts(request).await.expect("they are listed").into_inner();
    let mut all = Vec::new();
    while let Some(some) = answer.message().await.expect("they are listed") {
        all.extend(some.mounts.into_iter().map(|mount| {
            let point = String::from_utf8_lossy(&mount.point).into_owned();
            (point, mount.made.map(|made| made.id))
        }));
    }
    all
}

/// The ids of the records on disk, whose names tell the container too.
fn records(agent: &Agent) -> BTreeSet<String> {
    let all = std::fs::read_dir(agent.path("state/mounts")).expect("a directory");
    let names =
        all.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let id = |name: String| Some(name.strip_suffix(".json")?.split('.').next()?.to_owned());
    names.filter_map(id).collect()
}

/// Each mount that is there beside those from before was made by a call and has its record; and no record is
/// without its mount.
async fn check(
    agent: &Agent,
    api: &mut Api,
    before: &[(String, Option<String>)],
) -> BTreeSet<String> {
    let now = mounts(api).await;
    let known = now.iter().filter_map(|(_, id)| id.clone()).collect::<Vec<_>>();
    assert_eq!(now.len(), before.len() + known.len(), "{now:?}");
    let made: BTreeSet<String> = known.iter().cloned().collect();
    assert_eq!(made.len(), known.len(), "one record for one mount: {now:?}");
    assert_eq!(records(agent), made);
    made
}

/// Takes all away that was mounted by calls. In each round one is on top: the list does not tell which.
async fn clear(api: &mut Api) {
    loop {
        let made: Vec<String> = mounts(api).await.into_iter().filter_map(|(_, id)| id).collect();
        let mut gone = made.is_empty();
        for id in &made {
            match unmount(api, id, false).await {
                Ok(()) => gone = true,
                // It is covered, or went meanwhile.
                Err(status) if status.code() == Code::NotFound => gone = true,
                Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}"),
            }
        }
        assert!(gone, "one of those that are listed is on top: {made:?}");
        if made.is_empty() {
            return;
        }
    }
}

#[test]
fn a_mount_that_is_deleted_many_times_at_once_goes_once_and_what_lies_below_stays() {
    let agent = slowed();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("it runs");
        let before = mounts(&mut api).await;
        for round in 0..12 {
            let id = mount(&mut api, POINT).await.expect("it is mounted");
            let lazy = round % 2 == 0;
            let calls = (0..AT_ONCE).map(|_| -> Call<()> {
                let (mut api, id) = (api.clone(), id.clone());
                Box::pin(async move { unmount(&mut api, &id, lazy).await })
            });
            let answers = at_once(calls.collect()).await;
            assert_eq!(answers.done.len(), 1, "round {round}: {:?}", answers.codes);
            answers.only(&[Code::NotFound]);
            assert_eq!(mounts(&mut api).await, before);
        }
        covers_are_in_place(&mut api, "c").await;
    });
    agent.finish();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mount,
    Unmount,
    UnmountLazily,
    /// Its caller goes away half way.
    MountAndGo,
    UnmountAndGo,
}

/// What one call has come to: the id of what it has mounted.
fn call(api: &Api, kind: Kind, id: &str, number: usize) -> Call<Option<String>> {
    let (mut api, id) = (api.clone(), id.to_owned());
    let short = Duration::from_millis(3 * number as u64);
    Box::pin(async move {
        match kind {
            Kind::Mount => mount(&mut api, POINT).await.map(Some),
            Kind::Unmount => unmount(&mut api, &id, false).await.map(|()| None),
            Kind::UnmountLazily => unmount(&mut api, &id, true).await.map(|()| None),
            Kind::MountAndGo => {
                let _ = tokio::time::timeout(short, mount(&mut api, POINT)).await;
                Ok(None)
            }
            Kind::UnmountAndGo => {
                let _ = tokio::time::timeout(short, unmount(&mut api, &id, true)).await;
                Ok(None)
            }
        }
    })
}

#[test]
fn mounts_and_unmounts_at_one_point_leave_each_mount_with_its_record() {
    let agent = slowed();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("it runs");
        let before = mounts(&mut api).await;
        let kinds =
            [Kind::Mount, Kind::Unmount, Kind::UnmountLazily, Kind::MountAndGo, Kind::UnmountAndGo];
        for (one, other) in pairs(&kinds) {
            let first = mount(&mut api, POINT).await.expect("it is mounted");
            let calls = (0..AT_ONCE).map(|number| {
                call(&api, if number % 2 == 0 { one } else { other }, &first, number)
            });
            let answers = at_once(calls.collect()).await;
            // Gone already, or another lies on top.
            let done = answers.only(&[Code::NotFound, Code::FailedPrecondition]);
            // A change of the same mounts waits for those whose callers have gone. Their calls may not have
            // come to it yet: so it is asked again until nothing changes any more.
            let probe = mount(&mut api, "/mnt/probe").await.expect("it is mounted");
            unmount(&mut api, &probe, false).await.expect("it goes");
            let gone_callers =
                [one, other].iter().any(|k| [Kind::MountAndGo, Kind::UnmountAndGo].contains(k));
            if !gone_callers {
                let made = check(&agent, &mut api, &before).await;
                for id in done.into_iter().flatten() {
                    assert!(made.contains(&id), "{one:?}, {other:?}: what was told is there");
                }
            }
            // All of them go, and what was there before is left.
            clear(&mut api).await;
            if !gone_callers {
                assert_eq!(mounts(&mut api).await, before, "{one:?}, {other:?}");
                assert!(records(&agent).is_empty());
            }
        }
        // What the last of those has mounted since goes as well.
        wait_for_calm(&agent, &mut api, &before).await;
        clear(&mut api).await;
        assert_eq!(mounts(&mut api).await, before);
        covers_are_in_place(&mut api, "c").await;
    });
    agent.finish();
}

/// Waits until nothing is under way any more: all mounts have a record, and all records a mount.
async fn wait_for_calm(agent: &Agent, api: &mut Api, before: &[(String, Option<String>)]) {
    let deadline = std::time::Instant::now() + wait::PATIENCE;
    loop {
        let now = mounts(api).await;
        let known: BTreeSet<String> = now.iter().filter_map(|(_, id)| id.clone()).collect();
        if now.len() == before.len() + known.len() && records(agent) == known {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{now:?}, records: {:?}", records(agent));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_agent_that_is_killed_in_the_midst_of_it_finds_each_mount_with_its_record() {
    let mut agent = slowed();
    let before = agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("it runs");
        mounts(&mut api).await
    });
    for round in 0..8 {
        agent.api(async |mut api| {
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(mount(&mut api, POINT).await.expect("it is mounted"));
            }
            // Some of them are under way when it dies.
            for number in 0..AT_ONCE {
                let kind = if number % 2 == 0 { Kind::Mount } else { Kind::UnmountLazily };
                let under_way = call(&api, kind, &ids[2 - number % 3], number);
                tokio::spawn(under_way);
            }
            tokio::time::sleep(Duration::from_millis(7 * round)).await;
        });
        agent.kill();
        agent.restart();
        agent.api(async |mut api| {
            // What an inspector of the old agent was at has come to its end, too: nobody has the lock.
            let probe = mount(&mut api, "/mnt/probe").await.expect("it is mounted");
            unmount(&mut api, &probe, false).await.expect("it goes");
            check(&agent, &mut api, &before).await;
            clear(&mut api).await;
            assert_eq!(mounts(&mut api).await, before, "round {round}");
            covers_are_in_place(&mut api, "c").await;
        });
    }
    agent.finish();
}

#[test]
fn containers_that_end_while_something_is_mounted_in_them_take_it_with_them() {
    let agent = slowed();
    agent.api(async |mut api| {
        for _ in 0..4 {
            api.run(sleeper("c")).await.expect("it runs");
            let first = mount(&mut api, POINT).await.expect("it is mounted");
            let calls = (0..AT_ONCE).map(|number| -> Call<Option<String>> {
                let mut other = api.clone();
                match number % 4 {
                    0 => call(&api, Kind::Mount, &first, number),
                    1 => call(&api, Kind::UnmountLazily, &first, number),
                    2 => Box::pin(async move {
                        let request = v1::StopContainerRequest {
                            container: "c".into(),
                            grace: Some(prost_types::Duration::default()),
                            ..Default::default()
                        };
                        other.containers.stop_container(request).await.map(|_| None)
                    }),
                    _ => Box::pin(async move {
                        let request = v1::StartContainerRequest {
                            container: "c".into(),
                            ..Default::default()
                        };
                        other.containers.start_container(request).await.map(|_| None)
                    }),
                }
            });
            let answers = at_once(calls.collect()).await;
            answers.only(&[Code::NotFound, Code::FailedPrecondition]);
            let start = v1::StartContainerRequest { container: "c".into(), ..Default::default() };
            let _ = api.containers.start_container(start).await;
            covers_are_in_place(&mut api, "c").await;
            assert_eq!(run(&mut api, "c", "true").await.0, 0);
            api.delete("c").await.expect("it is deleted");
            // The next mount into anything forgets what went with it.
            api.run(sleeper("c")).await.expect("it runs");
            let probe = mount(&mut api, "/mnt/probe").await.expect("it is mounted");
            assert_eq!(records(&agent), BTreeSet::from([probe]));
            api.delete("c").await.expect("it is deleted");
        }
    });
    agent.finish();
}
