//! Dealing connections to workers: even, bounded, and the same from many threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

fn deal(dealer: &Dealer, name: usize) -> Option<usize> {
    dealer.deal(name).worker
}

fn keep(dealer: &Dealer, name: usize, worker: usize) -> bool {
    let kept = dealer.keep(name, worker).worker;
    assert!(kept.is_none_or(|kept| kept == worker));
    kept.is_some()
}

/// A name on these workers, with at most so many connections on each.
fn limited(partition: &[usize], connections: u32) -> Placement {
    Placement {
        partition: partition.to_vec(),
        connections,
    }
}

fn spread(dealer: &Dealer, name: usize, workers: usize) -> u32 {
    let held: Vec<u32> = (0..workers)
        .map(|worker| dealer.held(name, worker))
        .collect();
    held.iter().max().unwrap() - held.iter().min().unwrap()
}

#[test]
fn descriptors_go_round_the_partition() {
    let owners = |partition: &[usize], count| -> Vec<Option<usize>> {
        (0..count).map(|index| owner(partition, index)).collect()
    };
    assert_eq!(owners(&[0, 1], 4), [Some(0), Some(1), Some(0), Some(1)]);
    assert_eq!(
        owners(&[4, 2, 0], 5),
        [Some(4), Some(2), Some(0), Some(4), Some(2)]
    );
    assert_eq!(owners(&[], 1), [None]);
}

#[test]
fn the_next_of_the_partition_that_is_not_stuck_is_the_deputy() {
    let with = |stuck: &[usize], owner| deputy(&[4, 2, 0], owner, |it| stuck.contains(&it));
    assert_eq!(with(&[], 2), Some(2));
    assert_eq!(with(&[4], 4), Some(2));
    assert_eq!(with(&[0], 0), Some(4));
    assert_eq!(with(&[4, 2], 4), Some(0));
    assert_eq!(with(&[0, 4], 0), Some(2));
    assert_eq!(with(&[4], 0), Some(0));
    assert_eq!(with(&[0, 2, 4], 4), None);
}

#[test]
fn a_thousand_deals_over_two_workers_differ_by_at_most_one() {
    let dealer = Dealer::new(2, 10_000, [vec![0, 1]]);
    for count in 1..=1_000 {
        deal(&dealer, 0).unwrap();
        assert!(spread(&dealer, 0, 2) <= 1, "after {count} deals");
    }
    assert_eq!((dealer.total(0), dealer.total(1)), (500, 500));
}

#[test]
fn who_holds_fewest_of_the_name_is_next() {
    let dealer = Dealer::new(3, 100, [vec![0, 1, 2], vec![2, 1]]);
    // Ties of the name go to the worker with fewest in all.
    dealer.hold(1, 1);
    dealer.hold(1, 2);
    assert_eq!(deal(&dealer, 0), Some(0));
    // Ties in all go in turn, so both are met.
    let mut next = [deal(&dealer, 0).unwrap(), deal(&dealer, 0).unwrap()];
    next.sort_unstable();
    assert_eq!(next, [1, 2]);
    // What a worker holds of another name does not matter where the name decides.
    (0..10).for_each(|_| dealer.hold(1, 1));
    dealer.release(0, 1);
    assert_eq!(deal(&dealer, 0), Some(1));
    // Worker 0 is not in the partition of the other name.
    (0..50).for_each(|_| assert_ne!(deal(&dealer, 1), Some(0)));
}

/// It holds fewest, and what it held may still be taken back.
#[test]
fn who_is_left_out_is_dealt_nothing() {
    let dealer = Dealer::new(2, 3, [limited(&[0, 1], 2)]);
    dealer.hold(0, 1);
    dealer.leave_out(1);
    assert!(!dealer.release(0, 1));
    assert_eq!((dealer.room(0, 0), dealer.room(0, 1)), (2, 0));
    let dealt = [(); 3].map(|()| deal(&dealer, 0));
    assert_eq!(dealt, [Some(0), Some(0), None]);
    assert!(!keep(&dealer, 0, 1));
    assert!(dealer.release(0, 0));
    assert_eq!(deal(&dealer, 0), Some(0));
}

/// However few it holds, and whatever the others do.
#[test]
fn who_is_stuck_is_dealt_to_only_if_no_other_has_room() {
    let dealer = Dealer::new(3, 10, [limited(&[0, 1, 2], 2)]);
    dealer.set_stuck(1, true);
    let dealt = [(); 7].map(|()| deal(&dealer, 0));
    assert!(dealt[..4].iter().all(|worker| *worker != Some(1)));
    assert_eq!(dealt[4..], [Some(1), Some(1), None]);
    dealer.release(0, 1);
    dealer.release(0, 1);
    dealer.release(0, 2);
    assert_eq!(deal(&dealer, 0), Some(2));
    dealer.set_stuck(1, false);
    dealer.release(0, 2);
    assert_eq!(deal(&dealer, 0), Some(1), "it holds fewest");
}

#[test]
fn equal_workers_take_turns() {
    let dealer = Dealer::new(4, 100, [vec![0, 1, 2, 3]]);
    let mut first = [0; 4];
    for _ in 0..8 {
        let worker = deal(&dealer, 0).unwrap();
        first[worker] += 1;
        dealer.release(0, worker);
    }
    assert_eq!(first, [2; 4]);
}

#[test]
fn full_workers_get_nothing_and_say_when_they_have_room() {
    let dealer = Dealer::new(2, 2, [vec![0, 1], vec![0]]);
    assert!(keep(&dealer, 1, 0));
    assert!(keep(&dealer, 1, 0));
    assert!(!keep(&dealer, 1, 0), "worker 0 is full");
    assert_eq!((deal(&dealer, 0), deal(&dealer, 0)), (Some(1), Some(1)));
    assert_eq!(deal(&dealer, 0), None, "all are full");
    assert_eq!(
        deal(&dealer, 1),
        None,
        "the only one of the partition is full"
    );
    // What exists already is counted nevertheless.
    dealer.hold(0, 1);
    assert_eq!(dealer.total(1), 3);
    assert!(!dealer.release(0, 1), "it still is at the limit");
    assert!(dealer.release(0, 1), "now it is below");
    assert!(!dealer.release(0, 1), "it was below before");
    assert_eq!(deal(&dealer, 0), Some(1));
    assert_eq!(dealer.held(1, 0), 2);
    assert_eq!(dealer.held(1, 1), 0, "not in the partition");
}

#[test]
fn a_name_at_its_limit_leaves_room_for_the_others() {
    let dealer = Dealer::new(2, 5, [limited(&[0, 1], 3), limited(&[0], u32::MAX)]);
    let dealt: Vec<Option<usize>> = (0..7).map(|_| deal(&dealer, 0)).collect();
    assert_eq!(dealt.iter().flatten().count(), 6);
    assert_eq!(dealt[6], None);
    assert_eq!((dealer.held(0, 0), dealer.held(0, 1)), (3, 3));
    assert!(!keep(&dealer, 0, 0), "nor do those stay that came there");
    for worker in 0..2 {
        assert!(dealer.is_at_limit_of_name(0, worker));
    }
    // The other name has what is left of its worker.
    assert_eq!((deal(&dealer, 1), deal(&dealer, 1)), (Some(0), Some(0)));
    assert_eq!(deal(&dealer, 1), None);
    assert!(
        !dealer.is_at_limit_of_name(0, 0),
        "that worker has no room at all"
    );
    // Either limit may be the one that is over.
    assert!(dealer.release(0, 1), "room for the first name");
    assert!(!dealer.release(0, 1), "there was room");
    assert_eq!((deal(&dealer, 0), deal(&dealer, 0)), (Some(1), Some(1)));
    assert!(dealer.release(1, 0), "room for both");
    assert_eq!((deal(&dealer, 0), deal(&dealer, 1)), (None, Some(0)));
    assert!(dealer.release(0, 0));
    assert!(keep(&dealer, 0, 0));
    assert_eq!((dealer.held(0, 0), dealer.total(0)), (3, 5));
}

#[test]
fn what_must_be_served_is_placed_in_the_partition_whatever_the_limits() {
    let dealer = Dealer::new(4, 6, [limited(&[1, 2], 2), limited(&[3], 9)]);
    let placed: Vec<usize> = (0..10).map(|_| dealer.place(0)).collect();
    assert!(
        placed.iter().all(|worker| [1, 2].contains(worker)),
        "{placed:?}"
    );
    assert_eq!((dealer.held(0, 1), dealer.held(0, 2)), (5, 5));
    assert_eq!(deal(&dealer, 0), None);
    // There is room again when as many are gone as are too many.
    for left in [4, 3, 2] {
        assert!(!dealer.release(0, 1), "{left} are left");
    }
    assert!(dealer.release(0, 1));
    assert_eq!((deal(&dealer, 0), deal(&dealer, 0)), (Some(1), None));
    // Above the limit of the worker, too.
    assert!((0..8).all(|_| dealer.place(1) == 3));
    assert_eq!(dealer.total(3), 8);
}

#[test]
fn deals_from_many_threads_stay_even_and_within_the_limit() {
    let (workers, limit) = (3, 400);
    let dealer = Dealer::new(workers, limit, [vec![0, 1, 2], vec![0, 1, 2]]);
    let none = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (dealer, none) = (&dealer, &none);
            scope.spawn(move || {
                for _ in 0..350 {
                    if deal(dealer, thread % 2).is_none() {
                        none.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    // 1400 were wanted, 1200 have room, and nobody was refused while there was room.
    assert_eq!(none.into_inner(), 200);
    for worker in 0..workers {
        assert_eq!(dealer.total(worker), limit);
        assert_eq!(dealer.held(0, worker) + dealer.held(1, worker), limit);
    }
}

#[test]
fn one_name_dealt_by_many_threads_differs_by_at_most_one() {
    let dealer = Dealer::new(3, 100_000, [vec![0, 1, 2]]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|_| assert!(deal(&dealer, 0).is_some())));
        }
    });
    assert!(spread(&dealer, 0, 3) <= 1);
    assert_eq!(
        (0..3).map(|worker| dealer.total(worker)).sum::<u32>(),
        20_000
    );
}

#[test]
fn deals_and_releases_from_many_threads_add_up() {
    let dealer = Dealer::new(2, 5, [vec![0, 1]]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let worker = deal(&dealer, 0);
                    assert!(dealer.total(0) <= 5 && dealer.total(1) <= 5);
                    worker.map(|worker| dealer.release(0, worker));
                }
            });
        }
    });
    assert_eq!((dealer.total(0), dealer.total(1)), (0, 0));
    assert_eq!((dealer.held(0, 0), dealer.held(0, 1)), (0, 0));
}

/// What happens to a dealer.
#[derive(Clone, Debug)]
enum Step {
    Deal(usize),
    Keep(usize, usize),
    /// Close the connection at this place of the list of open ones.
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Deal),
        1 => (0..3_usize, 0..4_usize).prop_map(|(name, worker)| Step::Keep(name, worker)),
        2 => any::<usize>().prop_map(Step::Close),
    ]
}

proptest! {
    /// Against a plain list of connections: every count is right, every deal goes to a worker that held fewest, and
    /// `None` means that all are full, in all or of the name.
    #[test]
    fn counts_are_those_of_the_open_connections(
        limit in 1..12_u32,
        own in prop::array::uniform3(1..12_u32),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let partitions = [vec![0, 1, 2, 3], vec![2, 1], vec![3]];
        let placements = partitions.iter().zip(own).map(|(partition, own)| limited(partition, own));
        let dealer = Dealer::new(4, limit, placements);
        let mut open: Vec<(usize, usize)> = Vec::new();
        for step in steps {
            let held = |name, worker| open.iter().filter(|connection| **connection == (name, worker)).count() as u32;
            let total = |worker| open.iter().filter(|connection| connection.1 == worker).count() as u32;
            let has_room = |name, worker| total(worker) < limit && held(name, worker) < own[name];
            match step {
                Step::Deal(name) => {
                    let candidates = partitions[name].iter().copied().filter(|&worker| has_room(name, worker));
                    let fewest = candidates.clone().map(|worker| (held(name, worker), total(worker))).min();
                    let dealt = dealer.deal(name);
                    prop_assert!(!dealt.frees, "nobody else deals");
                    let dealt = dealt.worker;
                    prop_assert_eq!(dealt.map(|worker| (held(name, worker), total(worker))), fewest);
                    if let Some(worker) = dealt {
                        prop_assert!(candidates.into_iter().any(|candidate| candidate == worker));
                        open.push((name, worker));
                    }
                }
                Step::Keep(name, worker) if partitions[name].contains(&worker) => {
                    let kept = dealer.keep(name, worker);
                    prop_assert!(!kept.frees, "nobody else deals");
                    prop_assert_eq!(kept.worker, has_room(name, worker).then_some(worker));
                    if kept.worker.is_some() {
                        open.push((name, worker));
                    }
                }
                Step::Keep(..) => {}
                Step::Close(_) if open.is_empty() => {}
                Step::Close(place) => {
                    let (name, worker) = open[place % open.len()];
                    let was_full = !has_room(name, worker) || total(worker) == limit;
                    prop_assert_eq!(dealer.release(name, worker), was_full);
                    open.swap_remove(place % open.len());
                }
            }
            for worker in 0..4 {
                prop_assert_eq!(dealer.total(worker), open.iter().filter(|connection| connection.1 == worker).count() as u32);
                for name in 0..3 {
                    let held = open.iter().filter(|connection| **connection == (name, worker)).count() as u32;
                    prop_assert_eq!(dealer.held(name, worker), held);
                }
            }
        }
    }
}

/// Two limits cannot be looked at in one moment.
#[test]
fn who_was_refused_for_a_count_that_was_taken_back_is_told() {
    let own = Placement {
        partition: vec![0],
        connections: 1,
    };
    let dealer = Dealer::new(1, 1, [own, Placement::from(vec![0])]);
    dealer.hold(1, 0);
    // One dealer has found room for the first name and, meanwhile, none at the worker.
    let name = &dealer.names[0];
    assert!(name.claim(0) && !dealer.admit(0));
    // Now there is some, and everybody is told; but another dealer still sees the name at its limit.
    assert!(dealer.release(1, 0));
    assert_eq!(dealer.deal(0).worker, None);
    assert_eq!(dealer.keep(0, 0).worker, None);
    assert!(name.take_back(0));
    assert_eq!(dealer.deal(0).worker, Some(0));
}
