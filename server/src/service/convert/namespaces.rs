//! The namespaces of a container, and the id maps of a user namespace.

use conti_proto::v1::{self, NamespaceMode};
use conti_runtime::plan::IdMap;

use super::{Field, Violations, text};
use crate::engine::spec::{Ids, Namespace, Namespaces};

/// The most ranges that the kernel takes (user_namespaces(7)).
const RANGES_MAX: usize = 340;

/// The most bytes of a map's text: it is written at once, and what the kernel takes so is shorter than a page, of
/// which the smallest have 4 KiB.
const TEXT_MAX: usize = 4095;

/// Checks the namespaces of a container. Absent: the default ones.
pub fn namespaces(
    v: &mut Violations,
    at: Field<'_>,
    message: Option<v1::Namespaces>,
) -> Namespaces {
    let Some(message) = message else { return Namespaces::default() };
    let default = Namespaces::default();
    let mount = choose(v, at.name("mount"), message.mount, Namespace::Private);
    if mount != Namespace::Private {
        v.add(at.name("mount").name("mode"), "can only be PRIVATE: a container has its own mounts");
    }
    let user = choose(v, at.name("user"), message.user, default.user);
    let private = user == Namespace::Private;
    // Without any map the agent chooses.
    let chosen = private && message.uid_mappings.is_empty() && message.gid_mappings.is_empty();
    let mut maps = |name, ranges| match chosen {
        true => Vec::new(),
        false => id_maps(v, at.name(name), ranges, private),
    };
    let uid_maps = maps("uid_mappings", message.uid_mappings);
    let gid_maps = maps("gid_mappings", message.gid_mappings);
    Namespaces {
        pid: choose(v, at.name("pid"), message.pid, default.pid),
        uts: choose(v, at.name("uts"), message.uts, default.uts),
        ipc: choose(v, at.name("ipc"), message.ipc, default.ipc),
        net: choose(v, at.name("net"), message.net, default.net),
        cgroup: choose(v, at.name("cgroup"), message.cgroup, default.cgroup),
        time: choose(v, at.name("time"), message.time, default.time),
        user,
        uid_maps,
        gid_maps,
        ids: Ids::Unknown,
    }
}

/// Checks an id map, which a new user namespace needs and nothing else may have.
pub fn id_maps(
    v: &mut Violations,
    at: Field<'_>,
    ranges: Vec<v1::IdMapping>,
    new_user_namespace: bool,
) -> Vec<IdMap> {
    match (new_user_namespace, ranges.is_empty()) {
        (true, true) => v.add(at, "is empty: a private user namespace needs an id map"),
        (false, false) => v.add(at, "needs a private user namespace"),
        _ => {}
    }
    if new_user_namespace { id_map(v, at, &ranges) } else { Vec::new() }
}

/// Namespaces as a message.
pub fn namespaces_back(namespaces: Namespaces) -> v1::Namespaces {
    let ranges = |maps: Vec<IdMap>| {
        let range = |map: IdMap| v1::IdMapping {
            inside: map.inside,
            outside: map.outside,
            count: map.count,
        };
        maps.into_iter().map(range).collect()
    };
    v1::Namespaces {
        mount: Some(namespace_back(Namespace::Private)),
        pid: Some(namespace_back(namespaces.pid)),
        uts: Some(namespace_back(namespaces.uts)),
        ipc: Some(namespace_back(namespaces.ipc)),
        net: Some(namespace_back(namespaces.net)),
        cgroup: Some(namespace_back(namespaces.cgroup)),
        user: Some(namespace_back(namespaces.user)),
        time: Some(namespace_back(namespaces.time)),
        uid_mappings: ranges(namespaces.uid_maps),
        gid_mappings: ranges(namespaces.gid_maps),
    }
}

fn choose(
    v: &mut Violations,
    at: Field<'_>,
    message: Option<v1::Namespace>,
    default: Namespace,
) -> Namespace {
    let v1::Namespace { mode, container } = message.unwrap_or_default();
    let mode = text::known(v, at.name("mode"), mode);
    if mode == NamespaceMode::Container {
        text::container_key(v, at.name("container"), &container);
        return Namespace::Container(container);
    }
    if !container.is_empty() {
        v.add(at.name("container"), "needs mode CONTAINER");
    }
    match mode {
        NamespaceMode::Private => Namespace::Private,
        NamespaceMode::Host => Namespace::Host,
        NamespaceMode::Container | NamespaceMode::Unspecified => default,
    }
}

fn namespace_back(namespace: Namespace) -> v1::Namespace {
    let (mode, container) = match namespace {
        Namespace::Private => (NamespaceMode::Private, String::new()),
        Namespace::Host => (NamespaceMode::Host, String::new()),
        Namespace::Container(key) => (NamespaceMode::Container, key),
        Namespace::Unspecified => (NamespaceMode::Unspecified, String::new()),
    };
    v1::Namespace { mode: mode.into(), container }
}

/// Checks an id map as the kernel will, so that the fault has a name.
fn id_map(v: &mut Violations, at: Field<'_>, ranges: &[v1::IdMapping]) -> Vec<IdMap> {
    if ranges.len() > RANGES_MAX {
        v.add(at, format_args!("has {} ranges, at most {RANGES_MAX} are allowed", ranges.len()));
        return Vec::new();
    }
    let line = |r: &v1::IdMapping| format!("{} {} {}\n", r.inside, r.outside, r.count).len();
    let (length, max) = (ranges.iter().map(line).sum::<usize>(), TEXT_MAX);
    if length > max {
        let count = ranges.len();
        v.add(
            at,
            format_args!(
                "has {count} ranges, which take {length} bytes as text: the kernel takes at most {max} of one map"
            ),
        );
        return Vec::new();
    }
    let before = v.total();
    for (index, range) in ranges.iter().enumerate() {
        let at = at.index(index);
        if range.count == 0 {
            v.add(at.name("count"), "is 0, a range has at least one id");
        }
        for (name, first) in [("inside", range.inside), ("outside", range.outside)] {
            // The last id, 4294967295, stands for "none".
            if first.checked_add(range.count).is_none() {
                v.add(
                    at.name(name),
                    format_args!(
                        "is {first}: with count {} the range goes beyond 4294967294",
                        range.count
                    ),
                );
            }
        }
    }
    if v.total() == before {
        no_overlap(v, at, "inside", ranges, |range| range.inside);
        no_overlap(v, at, "outside", ranges, |range| range.outside);
    }
    let map = |r: &v1::IdMapping| IdMap { inside: r.inside, outside: r.outside, count: r.count };
    ranges.iter().map(map).collect()
}

fn no_overlap(
    v: &mut Violations,
    at: Field<'_>,
    name: &str,
    ranges: &[v1::IdMapping],
    first: impl Fn(&v1::IdMapping) -> u32,
) {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&index| first(&ranges[index]));
    for pair in order.windows(2) {
        let (low, high) = (&ranges[pair[0]], &ranges[pair[1]]);
        if first(high) - first(low) < low.count {
            let (one, other) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
            v.add(at.index(other).name(name), format_args!("overlaps with range {one}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(maps: &[(u32, u32, u32)]) -> Vec<String> {
        let ranges: Vec<_> = maps
            .iter()
            .map(|&(inside, outside, count)| v1::IdMapping { inside, outside, count })
            .collect();
        let mut v = Violations::default();
        id_map(&mut v, Field::root("m"), &ranges);
        v.named().iter().map(|(field, _)| field.clone()).collect()
    }

    #[test]
    fn id_maps_are_checked_as_the_kernel_does() {
        assert!(faults(&[(0, 100_000, 65_536)]).is_empty());
        assert!(faults(&[(0, 0, u32::MAX)]).is_empty());
        assert!(faults(&[(10, 0, 10), (0, 10, 10)]).is_empty());
        assert_eq!(faults(&[(0, 0, 0)]), ["m[0].count"]);
        assert_eq!(faults(&[(0, u32::MAX - 1, 2)]), ["m[0].outside"]);
        assert_eq!(faults(&[(1, 0, u32::MAX)]), ["m[0].inside"]);
        assert_eq!(faults(&[(0, 0, 10), (9, 100, 1)]), ["m[1].inside"]);
        assert_eq!(faults(&[(100, 5, 1), (0, 0, 10)]), ["m[1].outside"]);
        let many: Vec<_> = (0..341).map(|n| (n, n, 1)).collect();
        assert_eq!(faults(&many), ["m"]);
        assert!(faults(&many[1..]).is_empty());
    }

    #[test]
    fn an_id_map_whose_text_is_longer_than_the_kernel_takes_is_refused_with_the_reason() {
        // Each is a line of the same length.
        let range =
            |n: u32| v1::IdMapping { inside: 100 + n, outside: 1_000_000_000 + 2 * n, count: 1 };
        let fit = TEXT_MAX / "100 1000000000 1\n".len();
        let checked = |count: usize| {
            let ranges: Vec<_> = (0..u32::try_from(count).unwrap()).map(range).collect();
            let mut v = Violations::default();
            id_map(&mut v, Field::root("m"), &ranges);
            v.named().iter().map(|(field, why)| format!("{field} {why}")).collect::<Vec<_>>()
        };
        assert!(fit < RANGES_MAX && checked(fit).is_empty());
        let refused = checked(fit + 1);
        assert!(refused.len() == 1 && refused[0].contains("of one map"), "{refused:?}");
        assert!(refused[0].starts_with("m "), "{refused:?}");
    }

    fn user(mode: NamespaceMode, map: &[v1::IdMapping]) -> usize {
        let message = v1::Namespaces {
            user: Some(v1::Namespace { mode: mode.into(), ..Default::default() }),
            uid_mappings: map.to_vec(),
            gid_mappings: map.to_vec(),
            ..Default::default()
        };
        let mut v = Violations::default();
        namespaces(&mut v, Field::root("n"), Some(message));
        v.total()
    }

    #[test]
    fn id_maps_need_a_private_user_namespace_which_else_gets_those_that_the_agent_chooses() {
        let map = [v1::IdMapping { inside: 0, outside: 1, count: 1 }];
        assert_eq!(user(NamespaceMode::Private, &map), 0);
        assert_eq!(user(NamespaceMode::Private, &[]), 0);
        assert_eq!(user(NamespaceMode::Unspecified, &map), 2);
        assert_eq!(user(NamespaceMode::Unspecified, &[]), 0);
    }

    #[test]
    fn the_mount_namespace_is_private_and_containers_go_with_their_mode() {
        let of = |mode: NamespaceMode, container: &str| {
            Some(v1::Namespace { mode: mode.into(), container: container.to_owned() })
        };
        let faults = |message: v1::Namespaces| {
            let mut v = Violations::default();
            namespaces(&mut v, Field::root("n"), Some(message));
            v.named().iter().map(|(field, _)| field.clone()).collect::<Vec<_>>()
        };
        let mount = |namespace| v1::Namespaces { mount: namespace, ..Default::default() };
        let net = |namespace| v1::Namespaces { net: namespace, ..Default::default() };
        assert!(faults(mount(of(NamespaceMode::Private, ""))).is_empty());
        assert_eq!(faults(mount(of(NamespaceMode::Host, ""))), ["n.mount.mode"]);
        assert_eq!(faults(mount(of(NamespaceMode::Container, "a"))), ["n.mount.mode"]);
        assert!(faults(net(of(NamespaceMode::Container, "a"))).is_empty());
        assert_eq!(faults(net(of(NamespaceMode::Container, ""))), ["n.net.container"]);
        assert_eq!(faults(net(of(NamespaceMode::Host, "a"))), ["n.net.container"]);
        let unknown = Some(v1::Namespace { mode: 77, container: String::new() });
        assert_eq!(faults(net(unknown)), ["n.net.mode"]);
    }
}
