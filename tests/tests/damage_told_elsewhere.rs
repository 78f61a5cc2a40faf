//! Records that are gone, or damaged together with others that tell the same. That nothing is told is not that there is
//! nothing: what the kernel shows still, or another record, keeps strangers out, and what runs running.

use std::{fs, path::Path, process::Command};

use conti_proto::v1::{self, StartContainerRequest};
use conti_tests::{
    api::{self, Api, sleeper},
    damage::{denied, enter, files, of, stop},
    world::World,
};

async fn mount(api: &mut Api, source: &Path) {
    let mount = Some(api::bind(source, "/mnt"));
    let request = v1::CreateMountRequest { target: of("own"), mount, ..Default::default() };
    api.mounts.create_mount(request).await.expect("an admin may");
}

#[test]
fn a_mount_whose_record_is_gone_is_an_admins_in_its_container() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let mounts = world.agent.path("state/mounts");
    let gone: [(&str, fn(&Path)); 5] = [
        ("record", |record| fs::remove_file(record).expect("removed")),
        ("directory", |record| fs::remove_dir_all(record.parent().expect("one")).expect("removed")),
        ("renamed", |record| fs::rename(record, record.with_extension("bak")).expect("renamed")),
        ("of another", |record| {
            fs::remove_file(record).expect("removed");
            let name = record.file_name().expect("a name").to_string_lossy();
            let (id, _) = name.split_once('.').expect("an id");
            let other = format!("{id}.{}.json", "f".repeat(32));
            fs::write(record.with_file_name(other), "{").expect("written");
        }),
        ("record, and the main session's", |record| {
            fs::remove_file(record).expect("removed");
            let state = record.ancestors().nth(2).expect("a directory");
            for dir in fs::read_dir(state.join("sessions")).expect("a directory") {
                let record = dir.expect("an entry").path().join("session.json");
                fs::write(record, "").expect("emptied");
            }
        }),
    ];
    for (what, lose) in gone {
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            olga.run(sleeper("own")).await.expect("it may");
            olga.run(sleeper("other")).await.expect("it may");
            mount(&mut admin, &secret).await;
        });
        world.agent.kill();
        lose(&files(&mounts, ".json")[0]);
        // The next agent knows no more.
        for _ in 0..2 {
            world.agent.restart();
            world.agent.block_on(async {
                let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
                denied(&mut olga, "own", what).await;
                enter(&mut olga, "other").await.expect("the other is not concerned");
                let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
                enter(&mut admin, "own").await.expect("an admin may");
            });
            world.agent.kill();
        }
        world.agent.restart();
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            stop(&mut olga, "own").await;
            let request = StartContainerRequest { container: "own".into(), ..Default::default() };
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            admin.containers.start_container(request).await.expect("it starts");
            enter(&mut olga, "own").await.expect("what was mounted has gone with its processes");
            for name in ["own", "other"] {
                olga.delete(name).await.expect("its own");
            }
        });
        // The agent removes nothing that it does not know.
        for put_aside in files(&mounts, ".bak") {
            fs::remove_file(put_aside).expect("removed");
        }
    }
    world.agent.finish();
}

#[test]
fn a_mount_that_was_taken_away_keeps_nobody_out_of_its_container() {
    let mut world = World::start("");
    let source = world.agent.scratch("source");
    fs::create_dir(&source).expect("a directory");
    let own = world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let own = olga.run(sleeper("own")).await.expect("it may");
        mount(&mut admin, &source).await;
        mount(&mut admin, &source).await;
        own
    });
    world.agent.ok(["umount", "own", "/mnt"]);
    world.agent.kill();
    // The other by what is in there.
    let pid = own.pid.to_string();
    let unmount = ["--target", &pid, "--mount", "umount", "/mnt"];
    assert!(Command::new("nsenter").args(unmount).status().expect("it runs").success());
    // What the first agent has found the next one does not find again.
    for _ in 0..2 {
        world.agent.restart();
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            enter(&mut olga, "own").await.expect("nothing is mounted there any more");
        });
        world.agent.kill();
    }
    world.agent.restart();
    world.agent.finish();
}
