//! How many fans there are, in all and of each address. Does not know who they are.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::config::FanLimits;

/// The places of a front.
#[derive(Debug, Clone)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total_max: usize,
    each_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One fan's place, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
}

impl Places {
    /// Nobody has a place yet.
    pub fn new(limits: &FanLimits) -> Self {
        Self(Arc::new(Shared {
            total_max: limits.fans_max,
            each_max: limits.fans_per_address_max,
            taken: Mutex::default(),
        }))
    }

    /// A place, if one is free.
    pub(super) fn take(&self) -> Option<Place> {
        let mut taken = self.0.lock();
        if taken.total >= self.0.total_max {
            return None;
        }
        taken.total += 1;
        Some(Place {
            shared: self.0.clone(),
            address: None,
        })
    }
}

impl Place {
    /// It is one of this address, from the first time on that this is asked; whether that may have one
    /// more.
    pub(super) fn of(&mut self, address: IpAddr) -> bool {
        if self.address.is_some() {
            return true;
        }
        let mut taken = self.shared.lock();
        let of_address = taken.by_address.get(&address).copied().unwrap_or(0);
        if of_address >= self.shared.each_max {
            return false;
        }
        taken.by_address.insert(address, of_address + 1);
        self.address = Some(address);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shared.lock();
        taken.total -= 1;
        let Some(address) = self.address else {
            return;
        };
        if let Some(of_address) = taken.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        // No code that holds the lock can panic half-way through a change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_by_address_and_are_given_back() {
        let places = Places::new(&FanLimits {
            fans_max: 3,
            fans_per_address_max: 2,
            ..crate::PushArgs::default().fans
        });
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let [mut first, mut second, mut third] = [(); 3].map(|()| places.take().unwrap());
        assert!(places.take().is_none());
        assert!(first.of(one) && first.of(one) && second.of(one));
        assert!(!third.of(one));
        assert!(third.of(other));
        drop(first);
        let mut fourth = places.take().unwrap();
        assert!(fourth.of(one));
        assert!(places.take().is_none());
    }
}
