//! How many connections each client has, over all workers, where the configuration limits that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::peer::{Credentials, PeerAddress};

/// Who counts as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    V4(Ipv4Addr),
    /// The first half of the address, since a host may choose the second (RFC 4291, 2.5.4), and as many as it likes.
    V6(u64),
    /// Of a unix socket: the effective user of who connected.
    User(u32),
}

impl Party {
    /// Who is at the other end, of which the kernel says the address and, over a unix socket, the user. `None` if it has reset the
    /// connection by now.
    pub(crate) fn of(
        address: impl FnOnce() -> io::Result<PeerAddress>,
        credentials: impl FnOnce() -> io::Result<Option<Credentials>>,
    ) -> Option<Self> {
        match address().ok()? {
            PeerAddress::Unix => Some(Party::User(credentials().ok()??.uid)),
            address => Party::at(&address),
        }
    }

    /// Who is at an address. Over a unix socket that is not said by it.
    pub(crate) fn at(address: &PeerAddress) -> Option<Self> {
        let PeerAddress::Tcp(address) = address else {
            return None;
        };
        // A listener that takes both families says ::ffff:192.0.2.7.
        Some(match address.ip().to_canonical() {
            IpAddr::V4(ip) => Party::V4(ip),
            IpAddr::V6(ip) => Party::V6((ip.to_bits() >> 64) as u64),
        })
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::V4(ip) => ip.fmt(f),
            Party::V6(half) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*half) << 64)),
            Party::User(uid) => write!(f, "user {uid}"),
        }
    }
}

/// Counts the connections of clients on the socket names that limit them. One value is shared by all workers; no other name takes
/// the lock.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// By name; 0 is none.
    limits: Vec<u32>,
    /// By number of the name. Nobody is in there who has no connection.
    counts: Mutex<HashMap<(u16, Party), u32>>,
}

/// A connection's place among those of its client, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    key: (u16, Party),
}

/// This client has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Crowded(pub(crate) Party);

impl Crowd {
    /// With these limits, by name; 0 is none.
    pub(crate) fn new(limits: impl IntoIterator<Item = u32>) -> Arc<Self> {
        Arc::new(Crowd {
            limits: limits.into_iter().collect(),
            counts: Mutex::default(),
        })
    }

    /// Takes a place for a new connection of `name`. `None` if it is not counted: because there is no limit, and then `whose` is not
    /// asked, or because nobody knows whose it is.
    ///
    /// # Errors
    ///
    /// That there is none.
    pub(crate) fn enter(
        self: &Arc<Self>,
        name: u16,
        whose: impl FnOnce() -> Option<Party>,
    ) -> Result<Option<Place>, Crowded> {
        self.take(name, self.limit(name), whose)
    }

    /// Takes a place even above the limit: for connections that exist already, such as those that a predecessor handed over.
    pub(crate) fn hold(
        self: &Arc<Self>,
        name: u16,
        whose: impl FnOnce() -> Option<Party>,
    ) -> Option<Place> {
        let limit = match self.limit(name) {
            0 => 0,
            _ => u32::MAX,
        };
        self.take(name, limit, whose).ok().flatten()
    }

    /// How many connections of `name` a client may have; 0 is any number.
    pub(crate) fn limit(&self, name: u16) -> u32 {
        self.limits.get(name as usize).copied().unwrap_or(0)
    }

    fn take(
        self: &Arc<Self>,
        name: u16,
        limit: u32,
        whose: impl FnOnce() -> Option<Party>,
    ) -> Result<Option<Place>, Crowded> {
        if limit == 0 {
            return Ok(None);
        }
        let Some(party) = whose() else {
            return Ok(None);
        };
        let key = (name, party);
        let mut counts = self.lock();
        let count = counts.entry(key).or_default();
        if *count >= limit {
            return Err(Crowded(party));
        }
        *count += 1;
        let crowd = self.clone();
        Ok(Some(Place { crowd, key }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u16, Party), u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.crowd.lock().entry(self.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str) -> Option<Party> {
        Party::at(&PeerAddress::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into()))
    }

    fn enter(crowd: &Arc<Crowd>, name: u16, ip: &str) -> Option<Place> {
        crowd.enter(name, || at(ip)).ok().flatten()
    }

    #[test]
    fn a_client_is_an_address_half_of_one_or_a_user() {
        let text = |ip| at(ip).unwrap().to_string();
        assert_eq!(text("192.0.2.7"), "192.0.2.7");
        assert_eq!(text("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(at("::ffff:192.0.2.7"), at("192.0.2.7"));
        assert_ne!(at("::ffff:192.0.2.7"), at("::ffff:192.0.2.8"));
        assert_eq!(text("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(at("2001:db8:1:2:3:4:5:6"), at("2001:db8:1:2::1"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(Party::at(&PeerAddress::Unix), None);
        assert_eq!(Party::User(1000).to_string(), "user 1000");
    }

    #[test]
    fn each_client_has_its_places_on_each_name_and_gets_them_back() {
        let crowd = Crowd::new([2, 0, 1]);
        let mut places: Vec<Place> = (0..2)
            .filter_map(|_| enter(&crowd, 0, "192.0.2.7"))
            .collect();
        assert_eq!(places.len(), 2);
        let refused = crowd.enter(0, || at("192.0.2.7"));
        assert_eq!(refused.unwrap_err(), Crowded(at("192.0.2.7").unwrap()));
        // Others, and the same one elsewhere, are not affected.
        let other = enter(&crowd, 0, "192.0.2.8").unwrap();
        let elsewhere = enter(&crowd, 2, "192.0.2.7").unwrap();
        assert!(enter(&crowd, 2, "192.0.2.7").is_none());
        assert_eq!(crowd.lock().len(), 3);

        places.pop();
        places.extend(enter(&crowd, 0, "192.0.2.7"));
        assert_eq!(places.len(), 2);
        assert!(enter(&crowd, 0, "192.0.2.7").is_none());
        drop((places, other, elsewhere));
        assert!(crowd.lock().is_empty(), "who has gone is forgotten");
    }

    #[test]
    fn nobody_is_asked_where_there_is_no_limit_or_counted_who_is_not_known() {
        let crowd = Crowd::new([0, 1]);
        for name in [0, 2] {
            let ask = || unreachable!("it does not matter");
            assert!(crowd.enter(name, ask).unwrap().is_none());
            assert!(crowd.hold(name, ask).is_none());
        }
        for _ in 0..3 {
            assert!(crowd.enter(1, || None).unwrap().is_none());
        }
        assert!(crowd.lock().is_empty());
    }

    #[test]
    fn who_is_there_already_is_counted_above_the_limit() {
        let crowd = Crowd::new([2]);
        let hold = |_| crowd.hold(0, || Some(Party::User(0))).unwrap();
        let mut held: Vec<Place> = (0..4).map(hold).collect();
        let mut comes = |left| {
            held.truncate(left);
            crowd.enter(0, || Some(Party::User(0))).is_ok()
        };
        assert_eq!([4, 3, 2, 1].map(&mut comes), [false, false, false, true]);
    }
}
