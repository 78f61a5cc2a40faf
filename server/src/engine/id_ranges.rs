//! Ranges of ids for the user namespaces of containers: each container that asks for one has its own, so
//! that what gets out of one container is nobody on the host and in every other container.

use std::{
    collections::{BTreeSet, HashMap},
    ops::{Range, RangeInclusive},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use conti_runtime::plan::IdMap;

use super::{
    error::{Error, Result},
    spec::{ContainerSpec, Ids},
    subordinate_ids,
};

/// How many ids a container gets: all that 16 bits can name, as on every system with files.
pub const SIZE: u32 = 1 << 16;

/// The ids that ranges are taken from: `first` and the `count` that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    first: u32,
    count: u32,
}

impl Pool {
    /// How many ranges there are.
    fn ranges(self) -> u32 {
        self.count / SIZE
    }

    /// Whether a map is one of its ranges.
    pub fn has(self, map: &[IdMap]) -> bool {
        let [IdMap { inside: 0, outside, count: SIZE }] = map else { return false };
        let offset = outside.checked_sub(self.first);
        offset.is_some_and(|offset| offset % SIZE == 0 && offset / SIZE < self.ranges())
    }

    /// Which of its ranges have some of these ids.
    fn overlapped(self, ids: &RangeInclusive<u32>) -> Range<u32> {
        let end = self.first + self.ranges() * SIZE;
        let (from, to) = ((*ids.start()).max(self.first), (*ids.end()).min(end - 1));
        match from <= to {
            true => (from - self.first) / SIZE..(to - self.first) / SIZE + 1,
            false => 0..0,
        }
    }
}

impl Default for Pool {
    /// 4096 ranges from 2^30 on: far above what useradd(8) gives to users and subuid(5) to theirs, within
    /// what systemd leaves to containers (its "Users, Groups, UIDs and GIDs": 524288 to 1879048191).
    fn default() -> Pool {
        Pool { first: 1 << 30, count: 1 << 28 }
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.first, self.count)
    }
}

impl FromStr for Pool {
    type Err = String;

    /// Reads `FIRST:COUNT`, or the name of a user whose ids in subuid(5) and subgid(5) are meant.
    fn from_str(text: &str) -> std::result::Result<Pool, String> {
        let hint =
            "write FIRST:COUNT, e.g. 1073741824:268435456, or the name of a user in /etc/subuid";
        let (first, count) = match text.split_once(':') {
            Some((first, count)) => (first.parse().ok(), count.parse().ok()),
            None if text.is_empty() => (None, None),
            None => {
                let (first, count) = subordinate_ids::of(text)?;
                (Some(first), Some(count))
            }
        };
        let pool = first.zip(count).map(|(first, count)| Pool { first, count }).ok_or(hint)?;
        if pool.first < SIZE {
            return Err(format!("must not begin below {SIZE}: ids of the host's own users"));
        }
        // The last id, 4294967295, stands for "none".
        if pool.count < SIZE || pool.first.checked_add(pool.count).is_none() {
            return Err(format!("must hold {SIZE} ids at least, and none above 4294967294"));
        }
        Ok(pool)
    }
}

/// Ids that containers have: ranges of a pool that the agent gave, and what makers of containers chose.
#[derive(Debug)]
pub struct IdRanges {
    pool: Pool,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// What each container has: those that join a user namespace have its ids as well.
    held: HashMap<u64, Held>,
    /// The number of the next one.
    number: u64,
    /// Where the search begins: a range that was given back rests as long as possible.
    next: u32,
}

/// What one container has.
#[derive(Debug)]
struct Held {
    ids: Vec<RangeInclusive<u32>>,
    /// Whether the agent gave them. They may be of a pool that it had before.
    given: bool,
    /// Whoever made the container.
    maker: Option<String>,
}

/// Ids that are taken until this, and all others of them, are dropped.
#[derive(Debug)]
pub struct IdRange {
    ranges: Arc<IdRanges>,
    number: u64,
}

impl IdRanges {
    /// All of a pool, free.
    pub fn new(pool: Pool) -> Arc<IdRanges> {
        Arc::new(IdRanges { pool, used: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(self: &Arc<Self>, used: &mut Used, held: Held) -> IdRange {
        let number = used.number;
        used.number += 1;
        used.held.insert(number, held);
        IdRange { ranges: self.clone(), number }
    }

    /// Takes a free range, for users and groups alike. `sharing`: its maker may not have more ranges than are left
    /// for others, so that nobody takes all of them.
    pub fn take(self: &Arc<Self>, maker: Option<&str>, sharing: bool) -> Result<(IdRange, IdMap)> {
        let mut used = self.lock();
        let count = self.pool.ranges();
        let taken = self.taken(&used, |_| true);
        let left = count as usize - taken.len();
        let own = self.taken(&used, |held| held.maker.as_deref() == maker).len();
        if sharing && left > 0 && own >= left {
            let name = maker.unwrap_or_default();
            return Err(Error::Exhausted {
                what: format!(
                    "containers of {name} have {own} ranges of ids for user namespaces, and {left} are left for all \
                     others; remove containers, or have the agent given a larger --userns-pool than {}",
                    self.pool
                ),
                errno: libc::EAGAIN,
            });
        }
        let mut in_turn = (0..count).map(|step| (used.next + step) % count);
        let index = in_turn.find(|index| !taken.contains(index));
        let index = index.ok_or_else(|| Error::Exhausted {
            what: format!(
                "all {count} ranges of ids for user namespaces are taken; remove containers, or give the \
                 agent a larger --userns-pool than {}",
                self.pool
            ),
            errno: libc::EAGAIN,
        })?;
        used.next = (index + 1) % count;
        let map = IdMap { inside: 0, outside: self.pool.first + index * SIZE, count: SIZE };
        let maker = maker.map(str::to_owned);
        let held = Held { ids: ids_of(&[map]).collect(), given: true, maker };
        Ok((self.hold(&mut used, held), map))
    }

    /// The ranges of the pool that overlap the ids of some containers.
    fn taken(&self, used: &Used, of: impl Fn(&Held) -> bool) -> BTreeSet<u32> {
        let ids = used.held.values().filter(|held| of(held)).flat_map(|held| &held.ids);
        ids.flat_map(|ids| self.pool.overlapped(ids)).collect()
    }

    /// Takes the ids that a container has already: one that joins its user namespace, or that an earlier agent let
    /// have them, from whatever pool. `None` where it has none of its own.
    pub fn claim(self: &Arc<Self>, spec: &ContainerSpec) -> Option<IdRange> {
        let namespaces = &spec.namespaces;
        let maps = || namespaces.uid_maps.iter().chain(&namespaces.gid_maps);
        maps().next()?;
        let (ids, given) = (ids_of(maps()).collect(), namespaces.ids != Ids::Chosen);
        let held = Held { ids, given, maker: spec.maker.clone() };
        Some(self.hold(&mut self.lock(), held))
    }

    /// Takes the ids that processes have of whose container nothing else is known. Those of the host are no container's.
    pub fn claim_of(self: &Arc<Self>, maps: &[IdMap]) -> Option<IdRange> {
        let given = |map: &&IdMap| map.inside != map.outside;
        let maps: Vec<IdMap> = maps.iter().filter(given).copied().collect();
        let held = Held { ids: ids_of(&maps).collect(), given: true, maker: None };
        (!maps.is_empty()).then(|| self.hold(&mut self.lock(), held))
    }

    /// Takes the ids that the maker of a container chose: none of the pool, and none that another container was
    /// given. With those its processes would be those of that container.
    pub fn choose(self: &Arc<Self>, spec: &ContainerSpec) -> Result<IdRange> {
        let namespaces = &spec.namespaces;
        let mut used = self.lock();
        for (name, maps) in
            [("uid_mappings", &namespaces.uid_maps), ("gid_mappings", &namespaces.gid_maps)]
        {
            for (index, ids) in ids_of(maps).enumerate() {
                let invalid = |problem: String| Error::Invalid {
                    field: format!("spec.namespaces.{name}[{index}].outside"),
                    problem,
                };
                if !self.pool.overlapped(&ids).is_empty() {
                    return Err(invalid(format!(
                        "takes ids that the agent gives to containers, from its --userns-pool {}; choose others, or \
                         none, so that the agent chooses",
                        self.pool
                    )));
                }
                let mut given = used.held.values().filter(|held| held.given);
                if given.any(|held| held.ids.iter().any(|other| overlap(other, &ids))) {
                    let problem = "takes ids that another container was given; choose others";
                    return Err(invalid(problem.to_owned()));
                }
            }
        }
        let maps = namespaces.uid_maps.iter().chain(&namespaces.gid_maps);
        let (ids, maker) = (ids_of(maps).collect(), spec.maker.clone());
        let held = Held { ids, given: false, maker };
        Ok(self.hold(&mut used, held))
    }

    /// Where they come from.
    pub fn pool(&self) -> Pool {
        self.pool
    }
}

/// The ids outside of some maps. What is empty has none.
fn ids_of<'a>(
    maps: impl IntoIterator<Item = &'a IdMap>,
) -> impl Iterator<Item = RangeInclusive<u32>> {
    let filled = maps.into_iter().filter(|map| map.count > 0);
    filled.map(|map| map.outside..=map.outside.saturating_add(map.count - 1))
}

fn overlap(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

impl Drop for IdRange {
    fn drop(&mut self) {
        self.ranges.lock().held.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::Namespaces;

    fn map(outside: u32, count: u32) -> IdMap {
        IdMap { inside: 0, outside, count }
    }

    /// A container with these ids.
    fn with(maps: &[IdMap], ids: Ids) -> ContainerSpec {
        let (uid_maps, gid_maps) = (maps.to_vec(), maps.to_vec());
        let namespaces = Namespaces { uid_maps, gid_maps, ids, ..Namespaces::default() };
        ContainerSpec { namespaces, ..ContainerSpec::unknown() }
    }

    #[test]
    fn ranges_do_not_overlap_rest_and_come_back() {
        let ranges = IdRanges::new("200000:200000".parse().expect("a pool"));
        let (one, first) = ranges.take(None, false).expect("the first");
        let (two, second) = ranges.take(None, false).expect("the second");
        assert_eq!((first.outside, second.outside), (200_000, 265_536));
        drop(one);
        // The third before the first one again.
        let (three, third) = ranges.take(None, false).expect("the third");
        assert_eq!(third.outside, 331_072);
        let again = ranges.claim(&with(&[first], Ids::Given)).expect("it has ids");
        // One that joins it has it as well, for as long as it is there.
        let shared = ranges.claim(&with(&[first], Ids::Given)).expect("it has ids");
        drop(again);
        let full = ranges.take(None, false).expect_err("none is left");
        assert!(full.to_string().contains("--userns-pool"), "{full}");
        drop(shared);
        let (_one, again) = ranges.take(None, false).expect("it came back");
        assert_eq!(again, first);
        drop(two);
        assert_eq!(ranges.take(None, false).expect("it came back").1, second);
        drop(three);
    }

    #[test]
    fn what_containers_have_from_an_earlier_pool_or_by_choice_is_not_given_again() {
        let ranges = IdRanges::new("200000:262144".parse().expect("a pool"));
        // The end of the first range and the beginning of the second; and one id of the last.
        let earlier = with(&[map(200_000 + SIZE / 2, SIZE)], Ids::Given);
        let chosen = with(&[map(200_000 + 4 * SIZE - 1, 1)], Ids::Chosen);
        let held = [ranges.claim(&earlier).expect("ids"), ranges.claim(&chosen).expect("ids")];
        let (_only, given) = ranges.take(None, false).expect("the third");
        assert_eq!(given.outside, 200_000 + 2 * SIZE);
        ranges.take(None, false).expect_err("none is left");
        drop(held);
        assert_eq!(ranges.take(None, false).expect("the last").1.outside, 200_000 + 3 * SIZE);
    }

    #[test]
    fn neither_ids_of_the_pool_nor_what_others_were_given_can_be_chosen() {
        let ranges = IdRanges::new("200000:131072".parse().expect("a pool"));
        let earlier = ranges.claim(&with(&[map(1_000_000, SIZE)], Ids::Given)).expect("ids");
        let last = 200_000 + 2 * SIZE - 1;
        for (outside, count) in [
            (200_000, SIZE),
            (last, 1),
            (199_999, 2),
            (0, u32::MAX),
            (1_000_000, 1),
            (1_000_000 + SIZE - 1, 1),
            (999_999, 2),
        ] {
            let mut chosen = with(&[map(outside, count)], Ids::Chosen);
            let refused = ranges.choose(&chosen).expect_err("it overlaps");
            assert!(refused.to_string().contains("uid_mappings"), "{outside}: {refused}");
            chosen.namespaces.uid_maps = vec![map(100_000, SIZE)];
            let refused = ranges.choose(&chosen).expect_err("its groups overlap");
            assert!(refused.to_string().contains("gid_mappings"), "{outside}: {refused}");
        }
        // Two may choose the same: whoever may choose may also do that.
        let beside = with(&[map(last + 1, 5), map(199_999, 1), map(999_999, 1)], Ids::Chosen);
        let _both = [ranges.choose(&beside).expect("free"), ranges.choose(&beside).expect("same")];
        drop(earlier);
        drop(ranges.choose(&with(&[map(1_000_000, SIZE)], Ids::Chosen)).expect("it is free"));
    }

    #[test]
    fn nobody_who_shares_has_more_than_is_left_for_others() {
        // Eight ranges.
        let ranges = IdRanges::new("200000:524288".parse().expect("a pool"));
        let all = |maker: &str| -> Vec<_> {
            std::iter::from_fn(|| ranges.take(Some(maker), true).ok()).collect()
        };
        let (first, second, third) = (all("a"), all("b"), all("c"));
        assert_eq!((first.len(), second.len(), third.len()), (4, 2, 1));
        let refused = ranges.take(Some("a"), true).expect_err("it has its share");
        assert!(refused.to_string().contains("containers of a have 4 ranges"), "{refused}");
        // What is left is for those who do not share, and for whoever has none yet.
        let fourth = all("d");
        assert_eq!(fourth.len(), 1);
        drop(second);
        ranges.take(Some("a"), true).expect_err("it has more than the two that are left");
        let admin = ranges.take(Some("a"), false).expect("an admin does not share");
        drop((admin, first));
        // One that joins a user namespace has its range too, also when it is the last to have it.
        let joins = ContainerSpec { maker: Some("e".into()), ..with(&[third[0].1], Ids::Given) };
        let held: Vec<_> = (0..9).map(|_| ranges.claim(&joins).expect("ids")).collect();
        assert_eq!(all("e").len(), 3, "and the one that it joins: four of eight");
        drop(held);
    }

    #[test]
    fn what_is_no_range_of_the_pool_is_none() {
        for (inside, outside, count) in [
            (0, 1 << 30, 1),
            (1, 1 << 30, SIZE),
            (0, (1 << 30) + 1, SIZE),
            (0, 100_000, SIZE),
            (0, u32::MAX - SIZE, SIZE),
        ] {
            assert!(!Pool::default().has(&[IdMap { inside, outside, count }]));
        }
        assert!(!Pool::default().has(&[]));
        assert!(Pool::default().has(&[map(1 << 30, SIZE)]));
        let ranges = IdRanges::new(Pool::default());
        assert!(ranges.claim(&ContainerSpec::unknown()).is_none());
    }

    #[test]
    fn a_pool_has_no_ids_of_users_and_no_end_beyond_the_last() {
        for bad in
            ["", "1", "1:2", "0:65536", "65535:65536", "100000:65535", "4294901760:65536", "a:b"]
        {
            assert!(bad.parse::<Pool>().is_err(), "{bad:?}");
        }
        assert_eq!(Pool::default().to_string().parse(), Ok(Pool::default()));
    }
}
