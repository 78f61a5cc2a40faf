//! Many commands in a row and at once: right codes, right bytes, and nothing left.

use std::{collections::BTreeSet, thread};

use conti_tests::{
    Agent,
    api::{exit_code, session, shell, sleeper},
    host, wait,
    wire::{self, Wire},
};

#[test]
fn heavy_a_thousand_execs_in_a_row_give_their_codes_and_bytes_and_leak_nothing() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut one = async |n: i32| {
            let script = format!("echo line {n}; echo error {n} >&2; exit {}", n % 256);
            let wire = Wire::open(&mut api, wire::start(session("c", shell(&script)))).await;
            let all = wire.unwrap_or_else(|e| panic!("exec {n}: {e:?}")).collect().await;
            assert_eq!(all.stdout, format!("line {n}\n").into_bytes());
            assert_eq!(all.stderr, format!("error {n}\n").into_bytes());
            assert_eq!(exit_code(&all.end), n % 256);
        };
        // The first ones warm up what the agent keeps prepared.
        for n in 0..20 {
            one(n).await;
        }
        let before = (host::open_files(agent.pid()), host::descendants(agent.pid()).len());
        let memory = host::anonymous_kib(agent.pid());
        for n in 0..1000 {
            one(n).await;
        }
        // The last monitors may still be on their way out.
        wait::until_true("files and processes are as many as before", || {
            host::open_files(agent.pid()) <= before.0 + 8
                && host::descendants(agent.pid()).len() <= before.1 + 4
        });
        // The last 100 sessions are kept, with a bounded part of what they wrote.
        let grown = host::anonymous_kib(agent.pid()).saturating_sub(memory);
        assert!(grown < 32 * 1024, "the agent grew by {grown} KiB");
    });
    agent.finish();
}

#[test]
fn heavy_fifty_execs_at_once_give_their_codes_and_bytes() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    for round in 0..3 {
        thread::scope(|scope| {
            for n in 0..50 {
                let agent = &agent;
                scope.spawn(move || {
                    let script = format!("cat; echo end {n}; exit {n}");
                    let input: Vec<u8> = vec![b'a' + (n % 26) as u8; 100_000 + n];
                    let args = ["exec", "-i", "c", "--", "sh", "-c", &script];
                    let out = agent.ctl(args).stdin(input.clone()).run();
                    assert_eq!(out.code, n as i32, "round {round}: {}", out.errors());
                    let expected = [input, format!("end {n}\n").into_bytes()].concat();
                    assert!(out.stdout == expected, "round {round}: exec {n} lost bytes");
                });
            }
        });
    }
    agent.finish();
}

#[test]
fn heavy_containers_come_and_go_in_numbers() {
    let agent = Agent::start();
    agent.ok(["run", "--rm", "--", "true"]);
    let before = host::open_files(agent.pid());
    thread::scope(|scope| {
        for worker in 0..8 {
            let agent = &agent;
            scope.spawn(move || {
                for n in 0..25 {
                    let script = format!("echo {worker}-{n}; exit {n}");
                    let out = agent.ctl(["run", "--rm", "--", "sh", "-c", &script]).run();
                    assert_eq!(
                        (out.code, out.text()),
                        (n, format!("{worker}-{n}")),
                        "{}",
                        out.errors()
                    );
                }
            });
        }
    });
    agent.api(async |mut api| assert!(api.list().await.is_empty()));
    wait::until_true("files are as many as before", || host::open_files(agent.pid()) <= before + 8);
    agent.finish();
}

#[test]
fn many_containers_run_at_once_and_all_are_found() {
    let agent = Agent::start();
    let names: BTreeSet<String> = (0..30).map(|n| format!("c{n}")).collect();
    for name in &names {
        agent.ok(["run", "-d", "--name", name, "--", "sleep", "100000"]);
    }
    agent.api(async |mut api| {
        let found: BTreeSet<String> = api.list().await.into_iter().map(|c| c.name).collect();
        assert_eq!(found, names);
    });
    for name in &names {
        assert_eq!(agent.ok(["exec", name, "--", "echo", name]), *name);
    }
    agent.finish();
}
