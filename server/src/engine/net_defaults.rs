//! Kernel parameters that each new network namespace gets.
//!
//! Ports below 1024 and ICMP sockets are root's, since others on the network trust what root answers there. In a
//! network of a container's own nobody does: all its users open them, as in a container of Docker.

use std::sync::OnceLock;

use conti_runtime::{inspect::process, plan::IdMap};

use super::spec::ContainerSpec;

/// The last group that the kernel takes, of whatever user namespace.
const LAST_GROUP: u32 = i32::MAX as u32;

/// The parameters for a container. `mapped`: it has another user namespace than the agent.
pub fn of(spec: &ContainerSpec, mapped: bool) -> Vec<(String, String)> {
    let groups = match mapped {
        true => groups_of(&spec.namespaces.gid_maps),
        false => *own_groups(),
    };
    let groups = groups.map(|(first, last)| ("ping_group_range", format!("{first} {last}")));
    let ports = ("ip_unprivileged_port_start", "0".to_owned());
    let all = groups.into_iter().chain([ports]);
    all.map(|(name, value)| (format!("net.ipv4.{name}"), value)).collect()
}

/// The groups of a user namespace from 0 on, or else from the lowest. The kernel takes one range, and its ends must
/// have ids outside: beyond a part of the map there may be groups of others.
fn groups_of(maps: &[IdMap]) -> Option<(u32, u32)> {
    let lowest = maps.iter().filter(|map| map.count > 0).min_by_key(|map| map.inside)?;
    let last = lowest.inside.saturating_add(lowest.count - 1).min(LAST_GROUP);
    (lowest.inside <= last).then_some((lowest.inside, last))
}

/// The groups of the agent's own user namespace: that of the host mostly, where all ids are.
fn own_groups() -> &'static Option<(u32, u32)> {
    static OWN: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    OWN.get_or_init(|| {
        let own = process::directory(std::process::id() as i32).ok()?;
        let maps = process::id_map(own, "gid_map").ok()?;
        groups_of(&maps)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_that_ping_are_those_of_one_part_of_the_map() {
        let map = |inside, outside, count| IdMap { inside, outside, count };
        assert_eq!(groups_of(&[map(0, 100_000, 65_536)]), Some((0, 65_535)));
        // What lies between 1000 and 100000 on the host is not the container's.
        assert_eq!(groups_of(&[map(1, 100_000, 65_535), map(0, 1000, 1)]), Some((0, 0)));
        assert_eq!(groups_of(&[map(0, 0, u32::MAX)]), Some((0, LAST_GROUP)));
        assert_eq!(groups_of(&[map(5, 7, 3)]), Some((5, 7)));
        assert_eq!(groups_of(&[map(u32::MAX - 1, 7, 1)]), None);
        assert_eq!(groups_of(&[]), None);
    }
}
