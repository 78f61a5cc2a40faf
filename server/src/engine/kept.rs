//! What is kept of things that are over, so many of all identities together: whoever has the most loses its oldest
//! first. Nobody pushes out what others have as long as it has more itself.

use std::collections::{HashMap, VecDeque};

/// The keys of what is kept.
#[derive(Debug)]
pub struct Kept {
    most: usize,
    count: usize,
    /// Those of each identity that has any, the oldest first.
    each: HashMap<String, VecDeque<String>>,
}

impl Kept {
    /// Keeps so many at most.
    pub fn new(most: usize) -> Kept {
        Kept { most, count: 0, each: HashMap::new() }
    }

    /// Keeps one more of an identity. Returns the one that makes room for it, where there is none.
    pub fn push(&mut self, owner: &str, key: String) -> Option<String> {
        match self.each.get_mut(owner) {
            Some(own) => own.push_back(key),
            None => drop(self.each.insert(owner.to_owned(), VecDeque::from([key]))),
        }
        self.count += 1;
        if self.count <= self.most {
            return None;
        }
        // Of those with equally many, whoever is at it.
        let most = self.each.iter().max_by_key(|(name, own)| (own.len(), *name == owner));
        let most = most.map(|(name, _)| name.clone())?;
        self.pop(&most, 0)
    }

    /// Keeps one no longer.
    pub fn remove(&mut self, owner: &str, key: &str) {
        let place = self.each.get(owner).and_then(|own| own.iter().position(|one| one == key));
        if let Some(place) = place {
            self.pop(owner, place);
        }
    }

    fn pop(&mut self, owner: &str, place: usize) -> Option<String> {
        let own = self.each.get_mut(owner)?;
        let key = own.remove(place)?;
        self.count -= 1;
        if own.is_empty() {
            self.each.remove(owner);
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(kept: &mut Kept, owner: &str, from: usize, to: usize) -> Vec<String> {
        (from..to).filter_map(|n| kept.push(owner, format!("{owner}{n}"))).collect()
    }

    #[test]
    fn whoever_has_most_loses_its_oldest() {
        let mut kept = Kept::new(6);
        assert!(push(&mut kept, "a", 0, 2).is_empty());
        assert_eq!(push(&mut kept, "b", 0, 7), ["b0", "b1", "b2"]);
        // Down to as many as each may have of all.
        assert_eq!(push(&mut kept, "a", 2, 3), ["b3"]);
        assert_eq!(push(&mut kept, "a", 3, 4), ["a0"]);
        assert_eq!(push(&mut kept, "c", 0, 3).len(), 3);
        let each: Vec<_> = ["a", "b", "c"].map(|name| kept.each[name].len()).into();
        assert_eq!(each, [2, 2, 2]);
        assert_eq!(kept.count, 6);
    }

    #[test]
    fn what_is_removed_leaves_nothing() {
        let mut kept = Kept::new(2);
        push(&mut kept, "a", 0, 2);
        kept.remove("a", "a0");
        kept.remove("a", "b0");
        kept.remove("b", "a1");
        assert!(push(&mut kept, "b", 0, 1).is_empty());
        assert_eq!(push(&mut kept, "b", 1, 2), ["b0"]);
        kept.remove("a", "a1");
        kept.remove("b", "b1");
        assert_eq!((kept.count, kept.each.len()), (0, 0));
    }
}
