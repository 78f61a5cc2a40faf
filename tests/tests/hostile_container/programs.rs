//! CVE-2019-5736: the program that becomes a container's process is seen there for a moment, and whoever writes it
//! has the host.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
};

use crate::world::World;

const ROUNDS: usize = 6;

#[test]
fn the_program_that_puts_a_process_into_a_container_cannot_be_written_from_inside() {
    let world = World::start();
    let agent = &world.agent;
    // A script whose interpreter is whatever runs it.
    let script = agent.scratch("itself");
    fs::write(&script, "#!/proc/self/exe\n").expect("a file");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
    let (volume, itself) = (world.volume(), format!("{}:/itself:ro", script.display()));
    let make = ["run", "-i", "--name", "w", "--userns", "host", "--cap-add", "SYS_PTRACE"];
    let watch = ["-v", &volume, "-v", &itself, "--", "/escape", "watch"];
    let mut watcher = agent.ctl([&make[..], &watch[..]].concat()).spawn();
    let mut lines = BufReader::new(watcher.stdout()).lines().map(|line| line.expect("text"));
    assert_eq!(lines.next().as_deref(), Some("watching ok"));
    for _ in 0..ROUNDS {
        agent.ok(["exec", "w", "--", "true"]);
        agent.ok(["enter", "w", "--", "true"]);
        agent.ok(["debug", "w", "--", "true"]);
        agent.ok(["run", "--rm", "--userns", "host", "--ns", "pid=container:w", "--", "true"]);
        for path in ["/itself", "/proc/self/exe"] {
            // Whatever it is that runs then, it runs in there and ends.
            agent.ctl(["exec", "w", "--", path]).run();
        }
    }
    drop(watcher.stdin());
    let lines: Vec<String> = lines.collect();
    let programs: Vec<(&str, &str)> =
        lines.iter().filter_map(|line| line.strip_prefix("program:")?.rsplit_once(' ')).collect();
    let of_container = |path: &str| path.starts_with("/usr/") || path.starts_with("/bin/");
    for (program, written) in &programs {
        assert!(*written != "ok" || of_container(program), "{program} can be written: {lines:?}");
    }
    let seen = lines.iter().find_map(|line| line.strip_prefix("seen ")?.parse::<usize>().ok());
    assert!(seen.expect("a count") > ROUNDS, "{lines:?}");
    assert_eq!(watcher.wait(), 0);
    world.finish();
}
