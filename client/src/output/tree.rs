//! Trees, as lines.

use std::collections::{BTreeMap, BTreeSet};

/// To how many levels branches are drawn. What lies deeper says how deep it lies: its branches would fill the
/// line, and all of them the memory.
const DRAWN_MAX: usize = 64;

/// All items, each once, behind what hangs above it, and each with the branches that stand before it.
///
/// `id` names an item, `above` the one that it hangs below. What hangs below nothing that is there is a root, and so
/// is the first of those that hang below one another in a ring. `space`: what stands behind a branch.
pub fn rows<'a, T, K: Ord + Copy>(
    items: &'a [T],
    id: impl Fn(&T) -> K,
    above: impl Fn(&T) -> Option<K>,
    space: &str,
) -> Vec<(String, &'a T)> {
    let known: BTreeSet<K> = items.iter().map(&id).collect();
    let mut below: BTreeMap<Option<K>, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let parent = above(item).filter(|parent| known.contains(parent) && *parent != id(item));
        below.entry(parent).or_default().push(index);
    }
    let mut rows = Vec::with_capacity(items.len());
    let mut shown = vec![false; items.len()];
    let roots = below.remove(&None).unwrap_or_default();
    // What is not reached from the roots goes in circles.
    for root in roots.into_iter().chain(0..items.len()) {
        // Without recursion: a tree may be as deep as there are items.
        let mut open = vec![(root, Branches::default())];
        while let Some((index, branches)) = open.pop() {
            if std::mem::replace(&mut shown[index], true) {
                continue;
            }
            let children = below.remove(&Some(id(&items[index]))).unwrap_or_default();
            let last = children.len().saturating_sub(1);
            for (number, child) in children.into_iter().enumerate().rev() {
                open.push((child, branches.child(number == last, space)));
            }
            rows.push((branches.first, &items[index]));
        }
    }
    rows
}

/// What stands before a line, and before those below it.
#[derive(Debug, Default)]
struct Branches {
    first: String,
    rest: String,
    depth: usize,
}

impl Branches {
    fn child(&self, last: bool, space: &str) -> Branches {
        let (depth, rest) = (self.depth + 1, &self.rest);
        if depth > DRAWN_MAX {
            return Branches {
                first: format!("{rest}… {depth}:{space}"),
                rest: rest.clone(),
                depth,
            };
        }
        let (corner, bar) = if last { ("└─", "  ") } else { ("├─", "│ ") };
        let first = format!("{rest}{corner}{space}");
        Branches { first, rest: format!("{rest}{bar}{space}"), depth }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(pairs: &[(u32, u32)]) -> Vec<String> {
        let rows = rows(pairs, |pair| pair.0, |pair| Some(pair.1), " ");
        rows.into_iter().map(|(branches, pair)| format!("{branches}{}", pair.0)).collect()
    }

    #[test]
    fn each_item_stands_once_behind_what_it_hangs_below() {
        assert_eq!(drawn(&[(1, 0), (4, 1), (2, 1), (3, 4)]), ["1", "├─ 4", "│  └─ 3", "└─ 2"]);
        assert_eq!(drawn(&[]), [""; 0]);
    }

    #[test]
    fn rings_are_shown_from_their_first_item_on() {
        assert_eq!(
            drawn(&[(9, 9), (5, 6), (6, 5), (7, 6), (1, 0)]),
            ["9", "1", "5", "└─ 6", "   └─ 7"]
        );
    }

    #[test]
    fn two_items_of_one_name_are_both_shown() {
        assert_eq!(drawn(&[(1, 0), (1, 0), (2, 1)]), ["1", "└─ 2", "1"]);
    }

    #[test]
    fn a_hundred_thousand_levels_are_drawn_in_lines_of_bounded_length() {
        let chain: Vec<(u32, u32)> = (1..=100_000).map(|id| (id, id - 1)).collect();
        let rows = drawn(&chain);
        assert_eq!(rows.len(), chain.len());
        assert!(rows.iter().all(|row| row.chars().count() < 3 * DRAWN_MAX + 32));
        assert!(rows[99_999].ends_with("… 99999: 100000"), "{}", rows[99_999]);
        // A ring of as many.
        let ring: Vec<(u32, u32)> = (0..100_000).map(|id| (id, (id + 1) % 100_000)).collect();
        assert_eq!(drawn(&ring).len(), ring.len());
    }
}
