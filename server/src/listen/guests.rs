//! Those who want to join: few at a time, and fewer from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many there are at a time.
const GUESTS: usize = 16;
/// How many of them come from one address.
const PER_ADDRESS: usize = 4;

/// The places of guests. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// The place of one guest, for as long as it lives.
#[derive(Debug)]
pub struct GuestPlace {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    fn places(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place. `None`: there is none left, for anybody or for this address.
    pub fn enter(&self, address: IpAddr) -> Option<GuestPlace> {
        let mut places = self.places();
        let own = places.get(&address).copied().unwrap_or(0);
        if own >= PER_ADDRESS || places.values().sum::<usize>() >= GUESTS {
            return None;
        }
        places.insert(address, own + 1);
        drop(places);
        Some(GuestPlace { guests: self.clone(), address })
    }
}

impl Drop for GuestPlace {
    fn drop(&mut self) {
        let mut places = self.guests.places();
        match places.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                places.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_to_others_and_all_are_given_back() {
        let guests = Guests::default();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let enter = |n: u8, times: usize| -> Vec<_> {
            (0..times).filter_map(|_| guests.enter(address(n))).collect()
        };
        let first = enter(1, 10);
        assert_eq!(first.len(), PER_ADDRESS);
        let others: Vec<_> = (2..20).flat_map(|n| enter(n, 1)).collect();
        assert_eq!(first.len() + others.len(), GUESTS);
        drop(first);
        assert_eq!(enter(99, 10).len(), PER_ADDRESS);
        drop(others);
        assert!(guests.places().is_empty());
    }
}
