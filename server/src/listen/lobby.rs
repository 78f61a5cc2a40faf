//! Those who have connected and are not known yet: few at a time, and the oldest of where most come from go
//! first.
//!
//! Whoever opens connections and says nothing would otherwise take the place of those who have something to
//! say. A client that means it is through in a few round trips; when its place is needed before,
//! it is that of the one who has waited longest of those from the same address, or from the one with most.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// How many wait at a time, and what part of the files that the agent may have open that is at most.
const PLACES: usize = 512;
const OF_FILES: usize = 8;
/// What part of them comes from one address.
const OF_PLACES: usize = 4;

/// The places. Clones share them.
#[derive(Debug, Clone)]
pub struct Lobby(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    max: usize,
    next: u64,
    /// The oldest has the lowest number.
    all: BTreeMap<u64, (IpAddr, CancellationToken)>,
    per_address: HashMap<IpAddr, BTreeSet<u64>>,
}

/// A place, for as long as it lives.
#[derive(Debug)]
pub struct Place {
    lobby: Lobby,
    number: u64,
    /// Cancelled when another needs the place.
    pub taken: CancellationToken,
}

impl Lobby {
    /// An empty one, for an agent that may have so many files open.
    pub fn new(files: usize) -> Lobby {
        let max = PLACES.min(files / OF_FILES).max(OF_PLACES);
        let (all, per_address) = (BTreeMap::new(), HashMap::new());
        Lobby(Arc::new(Mutex::new(Places { max, next: 0, all, per_address })))
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for somebody at an address.
    pub fn enter(&self, address: IpAddr) -> Place {
        let mut places = self.places();
        let address = network(address);
        let same = places.per_address.get(&address);
        let of_address = same.filter(|own| own.len() >= places.max / OF_PLACES);
        let oldest = match of_address.and_then(|own| own.first().copied()) {
            None if places.all.len() >= places.max => places.of_most(),
            oldest => oldest,
        };
        if let Some(oldest) = oldest {
            places.remove(oldest);
        }
        let number = places.next;
        places.next += 1;
        let taken = CancellationToken::new();
        places.all.insert(number, (address, taken.clone()));
        places.per_address.entry(address).or_default().insert(number);
        drop(places);
        Place { lobby: self.clone(), number, taken }
    }
}

/// What one attacker has all addresses of: with IPv6 that is a network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

impl Places {
    /// The oldest of the address that has most places: however many there are of an attacker, one who comes
    /// from elsewhere keeps its own.
    fn of_most(&self) -> Option<u64> {
        let most = self.per_address.values().max_by_key(|own| (own.len(), Reverse(own.first())));
        most.and_then(|own| own.first().copied())
    }

    fn remove(&mut self, number: u64) {
        let Some((address, taken)) = self.all.remove(&number) else { return };
        taken.cancel();
        if let Some(own) = self.per_address.get_mut(&address) {
            own.remove(&number);
            if own.is_empty() {
                self.per_address.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.places().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    #[test]
    fn the_oldest_of_an_address_makes_room_for_the_next_of_it() {
        let lobby = Lobby::new(1 << 20);
        let other = lobby.enter(address(1));
        let held: Vec<_> = (0..PLACES / OF_PLACES + 3).map(|_| lobby.enter(address(2))).collect();
        let gone = |place: &Place| place.taken.is_cancelled();
        assert!(held[..3].iter().all(gone) && !held[3..].iter().any(gone) && !gone(&other));
    }

    #[test]
    fn whoever_comes_alone_keeps_its_place_when_others_come_in_numbers() {
        let lobby = Lobby::new(256);
        let alone = lobby.enter(address(1));
        let held: Vec<_> = (0..1000).map(|n| lobby.enter(address(2 + n % 8))).collect();
        assert!(!alone.taken.is_cancelled());
        assert_eq!(held.iter().filter(|place| !place.taken.is_cancelled()).count(), 31);
        let of = |last| network(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]));
        assert_eq!(of(1), of(2));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), IpAddr::from([10, 0, 0, 1]));
    }

    #[test]
    fn there_are_fewer_places_where_files_are_few() {
        let lobby = Lobby::new(256);
        let held: Vec<_> = (0..40).map(|n| lobby.enter(address(n))).collect();
        assert_eq!(held.iter().filter(|place| place.taken.is_cancelled()).count(), 40 - 32);
    }

    #[test]
    fn the_oldest_of_all_makes_room_when_there_is_none_left() {
        let lobby = Lobby::new(1 << 20);
        let held: Vec<_> = (0..PLACES as u16 + 1).map(|n| lobby.enter(address(n))).collect();
        assert!(held[0].taken.is_cancelled() && !held[1].taken.is_cancelled());
        drop(held);
        let places = lobby.places();
        assert!(places.all.is_empty() && places.per_address.is_empty());
    }
}
