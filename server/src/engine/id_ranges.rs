//! Ranges of ids for the user namespaces of containers: each container that asks for one has its own, so
//! that what gets out of one container is nobody on the host and in every other container.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use conti_runtime::plan::IdMap;

use super::{
    error::{Error, Result},
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

    /// Which of its ranges a map is. `None`: none of them.
    pub fn index(self, map: &[IdMap]) -> Option<u32> {
        let [IdMap { inside: 0, outside, count: SIZE }] = map else { return None };
        let offset = outside.checked_sub(self.first)?;
        (offset % SIZE == 0 && offset / SIZE < self.ranges()).then_some(offset / SIZE)
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

/// Which ranges of a pool are taken.
#[derive(Debug)]
pub struct IdRanges {
    pool: Pool,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// By how many containers: those that join a user namespace have its ids as well.
    taken: BTreeMap<u32, usize>,
    /// Where the search begins: a range that was given back rests as long as possible.
    next: u32,
}

/// A range that is taken until this, and all others of it, are dropped.
#[derive(Debug)]
pub struct IdRange {
    ranges: Arc<IdRanges>,
    index: u32,
}

impl IdRanges {
    /// All of a pool, free.
    pub fn new(pool: Pool) -> Arc<IdRanges> {
        Arc::new(IdRanges { pool, used: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free range.
    pub fn take(self: &Arc<Self>) -> Result<IdRange> {
        let mut used = self.lock();
        let count = self.pool.ranges();
        let free = (0..count).map(|step| (used.next + step) % count);
        let index = free.into_iter().find(|index| !used.taken.contains_key(index));
        let index = index.ok_or_else(|| Error::Exhausted {
            what: format!(
                "all {count} ranges of ids for user namespaces are taken; remove containers, or give the \
                 agent a larger --userns-pool than {}",
                self.pool
            ),
            errno: libc::EAGAIN,
        })?;
        used.taken.insert(index, 1);
        used.next = (index + 1) % count;
        Ok(IdRange { ranges: self.clone(), index })
    }

    /// Takes the range that a container has already: one that joins its user namespace, or that an earlier
    /// agent gave it to. `None` where the map is no range of this pool.
    pub fn claim(self: &Arc<Self>, map: &[IdMap]) -> Option<IdRange> {
        let index = self.pool.index(map)?;
        *self.lock().taken.entry(index).or_default() += 1;
        Some(IdRange { ranges: self.clone(), index })
    }

    /// Where they come from.
    pub fn pool(&self) -> Pool {
        self.pool
    }
}

impl IdRange {
    /// As the map of a user namespace.
    pub fn map(&self) -> IdMap {
        let outside = self.ranges.pool.first + self.index * SIZE;
        IdMap { inside: 0, outside, count: SIZE }
    }
}

impl Drop for IdRange {
    fn drop(&mut self) {
        let mut used = self.ranges.lock();
        match used.taken.get_mut(&self.index) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(used.taken.remove(&self.index)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_rest_and_come_back() {
        let ranges = IdRanges::new("200000:200000".parse().expect("a pool"));
        let one = ranges.take().expect("the first");
        let two = ranges.take().expect("the second");
        assert_eq!((one.map().outside, two.map().outside), (200_000, 265_536));
        let map = one.map();
        drop(one);
        // The third before the first one again.
        let three = ranges.take().expect("the third");
        assert_eq!(three.map().outside, 331_072);
        let again = ranges.claim(&[map]).expect("it is free");
        assert_eq!(again.map(), map);
        // One that joins it has it as well, for as long as it is there.
        let shared = ranges.claim(&[map]).expect("it is shared");
        drop(again);
        let full = ranges.take().expect_err("none is left");
        assert!(full.to_string().contains("--userns-pool"), "{full}");
        drop(shared);
        assert_eq!(ranges.take().expect("it came back").map(), map);
        drop(two);
        assert_eq!(ranges.take().expect("it came back").map().outside, 265_536);
    }

    #[test]
    fn what_is_no_range_of_the_pool_is_not_claimed() {
        let ranges = IdRanges::new(Pool::default());
        for (inside, outside, count) in [
            (0, 1 << 30, 1),
            (1, 1 << 30, SIZE),
            (0, (1 << 30) + 1, SIZE),
            (0, 100_000, SIZE),
            (0, u32::MAX - SIZE, SIZE),
        ] {
            assert!(ranges.claim(&[IdMap { inside, outside, count }]).is_none());
        }
        assert!(ranges.claim(&[]).is_none());
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
