//! How handles and the worker meet at an inbox.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::mailbox::{Mailbox, mailbox};
use crate::tickets::Kind;

/// Delivers what is there. Returns how many pushes and ends.
fn deliver(mailbox: &Mailbox, handle: &Handle) -> usize {
    while mailbox.next().is_some() {}
    let mut items = Vec::new();
    assert!(!handle.shared.take(&mut items, 1000));
    items.len()
}

/// That of a connection of its own, to which 1000 bytes may be pushed.
fn handle(post: &Post) -> Handle {
    let id = ConnectionId {
        worker: 0,
        generation: 0,
        slot: 0,
    };
    let handles = Handles {
        post: post.clone(),
        memory: Memory::new(1000, 1),
    };
    handles.handle(id, 1000, &OnceCell::new(), None)
}

/// So many connections are given away, each while another thread acts on it, a little earlier or later. Returns how many
/// acts were accepted, which must be those whose mail was delivered before.
fn give_away_while_another_thread_acts(
    count: usize,
    act: impl Fn(&Handle) -> Result<(), PushError> + Sync,
) -> usize {
    let (post, mailbox) = mailbox().unwrap();
    let rounds: Vec<Handle> = (0..count).map(|_| handle(&post)).collect();
    // The round that may begin, and the one that the other thread has ended.
    let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wait_for = |counter: &AtomicUsize, round: usize| {
        let mut looks = 0;
        while counter.load(Ordering::Acquire) < round {
            looks += 1;
            // The other one may need this CPU.
            match looks % 1000 {
                0 => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    };
    let accepted = std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let act = |(round, handle): (usize, &Handle)| {
                wait_for(&begun, round + 1);
                (0..round % 7).for_each(|_| std::hint::spin_loop());
                let accepted = act(handle).is_ok();
                ended.store(round + 1, Ordering::Release);
                usize::from(accepted)
            };
            rounds.iter().enumerate().map(act).collect::<Vec<_>>()
        });
        let mut delivered = Vec::with_capacity(count);
        for (round, handle) in rounds.iter().enumerate() {
            // Now and then one of them comes first for certain.
            if round % 10 == 1 {
                handle.shared.part();
            }
            begun.store(round + 1, Ordering::Release);
            match round % 10 {
                0 => wait_for(&ended, round + 1),
                _ => (0..round % 31).for_each(|_| std::hint::spin_loop()),
            }
            handle.shared.part();
            delivered.push(deliver(&mailbox, handle));
            wait_for(&ended, round + 1);
            assert_eq!(deliver(&mailbox, handle), 0);
        }
        let accepted = acting.join().unwrap();
        assert!(accepted == delivered);
        accepted
    });
    accepted.iter().sum()
}

fn is_delivered_or_refused(act: impl Fn(&Handle) -> Result<(), PushError> + Sync) {
    // On a machine with much else to do, fewer must do.
    let start = std::time::Instant::now();
    for _ in (0..30).take_while(|_| start.elapsed().as_secs() < 3) {
        let accepted = give_away_while_another_thread_acts(1000, &act);
        assert!((100..=900).contains(&accepted), "{accepted}");
    }
}

#[test]
fn a_push_is_delivered_before_the_connection_is_given_away_or_refused() {
    let event = Bytes::from_static(&[1]);
    is_delivered_or_refused(|handle| handle.push_shared(&event));
}

#[test]
fn a_close_is_delivered_before_the_connection_is_given_away_or_refused() {
    is_delivered_or_refused(|handle| handle.close("on purpose"));
}

#[test]
fn a_cut_is_delivered_before_the_connection_is_given_away_or_refused() {
    is_delivered_or_refused(|handle| handle.cut("on purpose"));
    // Of one that is ending, too.
    is_delivered_or_refused(|handle| {
        handle.shared.end(PushError::Gone);
        handle.cut("on purpose")
    });
}

/// Delivers what comes while there is room for so much mail of others. Returns the first byte of each push and answer, and the
/// number of each ticket that is dropped.
fn arrivals(mailbox: &Mailbox, handles: &[&Handle], room: usize) -> Vec<u8> {
    let mut quota = mailbox.quota(room);
    let mut arrived = Vec::new();
    let of = |id| handles.iter().find(|handle| handle.id == id).unwrap();
    while let Some(mail) = mailbox.next_within(&mut quota) {
        match mail {
            Mail::Push { to, bytes } => {
                of(to).shared.arrived(bytes.len());
                arrived.push(bytes[0]);
            }
            Mail::Inbox { of: id } | Mail::Called { of: id } => {
                if matches!(mail, Mail::Inbox { .. }) {
                    of(id).shared.posted();
                }
                let mut items = Vec::new();
                assert!(!of(id).shared.take(&mut items, usize::MAX));
                arrived.extend(items.iter().map(|item| match item {
                    Item::Push { bytes, here, .. } => {
                        if *here {
                            of(id).shared.arrived(bytes.len());
                        }
                        bytes[0]
                    }
                    Item::Answer {
                        pieces: Pieces::One(bytes),
                        ..
                    } => bytes[0],
                    Item::Dropped { serial } => *serial as u8,
                    Item::Answer { .. } | Item::End(_) => panic!("nobody does that"),
                }));
            }
            _ => panic!("nothing else is posted"),
        }
    }
    arrived
}

/// Or who reads the numbers that several workers count would see them go back.
#[test]
fn what_several_threads_leave_arrives_in_the_order_in_which_they_do() {
    let (post, mailbox) = mailbox().unwrap();
    mailbox.adopt();
    let (handle, mut other) = (handle(&post), handle(&post));
    other.id.slot = 1;
    let elsewhere = |act: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            scope.spawn(act);
        });
    };
    let push = |number: u8| handle.push(vec![number]).unwrap();
    let answer = |number: u8| {
        let bytes = vec![number].into();
        let pieces = Pieces::One(bytes);
        handle.leave(Item::Answer { serial: 0, pieces }, false);
    };
    let drop = |number: u64| handle.leave(Item::Dropped { serial: number }, false);
    for _ in 0..2 {
        push(0);
        elsewhere(&|| push(1));
        push(2);
        other.push(vec![100]).unwrap();
        answer(3);
        elsewhere(&|| push(4));
        drop(5);
        // To another connection nothing is under way.
        assert_eq!(
            arrivals(&mailbox, &[&handle, &other], 9),
            [0, 100, 1, 2, 3, 4, 5]
        );
        elsewhere(&|| answer(1));
        push(2);
        elsewhere(&|| drop(3));
        drop(4);
        push(5);
        assert_eq!(arrivals(&mailbox, &[&handle], 9), [1, 2, 3, 4, 5]);
        assert!(handle.shared.is_delivered() && other.shared.is_delivered());
    }
}

/// Or a worker that pushes more in a turn than it takes mail of others would never come to the end of it, since what it pushes
/// waits behind what others have pushed.
#[test]
fn what_a_worker_leaves_behind_others_takes_no_room_of_theirs() {
    let (post, mailbox) = mailbox().unwrap();
    mailbox.adopt();
    let handle = handle(&post);
    let events = Bytes::from_static(&[1, 2, 3]);
    for limit in 0..2 {
        std::thread::scope(|scope| {
            scope.spawn(|| handle.push(events.slice(..1)).unwrap());
        });
        handle.push(events.slice(1..)).unwrap();
        handle.push(events.slice(2..)).unwrap();
        assert_eq!(arrivals(&mailbox, &[&handle], limit), [1, 2, 3]);
        assert!(handle.shared.is_delivered());
    }
}

/// Or they would pile up: what the worker's own pushes make it take leaves the mail of others in the queue.
#[test]
fn one_mail_of_others_is_under_way_for_a_connection() {
    let (post, mailbox) = mailbox().unwrap();
    mailbox.adopt();
    let handle = handle(&post);
    let elsewhere = |byte| {
        std::thread::scope(|scope| {
            scope.spawn(|| handle.push(vec![byte]).unwrap());
        });
    };
    for _ in 0..3 {
        for _ in 0..3 {
            elsewhere(1);
            handle.push(vec![2]).unwrap();
            assert_eq!(arrivals(&mailbox, &[&handle], 0), [1, 2]);
        }
        elsewhere(3);
        assert_eq!(arrivals(&mailbox, &[&handle], 1), [3]);
        assert!(mailbox.next().is_none());
        // What comes now is told of again.
        elsewhere(4);
        assert_eq!(arrivals(&mailbox, &[&handle], 1), [4]);
    }
}

/// What other threads have pushed takes memory besides its bytes until then.
#[test]
fn a_worker_pushes_as_many_bytes_behind_others_as_without_them() {
    let (post, mailbox) = mailbox().unwrap();
    mailbox.adopt();
    let handle = handle(&post);
    std::thread::scope(|scope| {
        scope.spawn(|| handle.push(vec![1; 10]).unwrap());
    });
    let most = 1000 - 10 - crate::transit::ITEM_BYTES;
    for _ in 0..most {
        handle.push(vec![2]).unwrap();
    }
    assert_eq!(handle.push(vec![2]), Err(PushError::Overflow));
    let mut items = Vec::new();
    assert!(handle.shared.take(&mut items, 3));
    assert_eq!(items.len(), 3);
    items.clear();
    assert!(!handle.shared.take(&mut items, usize::MAX));
    assert!(matches!(items.pop(), Some(Item::End(_))));
    assert_eq!(items.len(), most - 2);
}

#[test]
fn nothing_waits_for_a_connection_that_is_gone() {
    let (post, mailbox) = mailbox().unwrap();
    mailbox.adopt();
    let handle = handle(&post);
    handle.push(vec![1; 10]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| handle.push(vec![1; 20]).unwrap());
    });
    handle.shared.note_unsent(30);
    let each = crate::transit::ITEM_BYTES;
    assert_eq!(handle.unsent_bytes(), 10 + 20 + each + 30);
    handle.shared.forget();
    assert_eq!(handle.unsent_bytes(), 0);
}

#[test]
fn answers_that_were_given_up_are_not_wanted_again() {
    let (post, _mailbox) = mailbox().unwrap();
    let handle = handle(&post);
    assert!(handle.wants_answer(1, false));
    assert_eq!(handle.shared.give_up(3, Kind::Any), []);
    assert_eq!(handle.shared.give_up(1, Kind::Any), []);
    assert!(!handle.wants_answer(1, false) && !handle.wants_answer(3, false));
    assert!(handle.wants_answer(4, false));
}

/// Another thread's mail had it taken, or the fence of an end, before the thread that left it has told the worker.
#[test]
fn an_answer_that_was_taken_is_not_refused_when_the_worker_has_ended_since() {
    for is_taken in [true, false] {
        let (post, mailbox) = mailbox().unwrap();
        let handle = handle(&post);
        let left = handle
            .shared
            .leave_wanted(1, Pieces::One(Bytes::new()), true);
        assert_eq!(left, Ok(()));
        if is_taken {
            assert!(!handle.shared.take(&mut Vec::new(), usize::MAX));
            handle.shared.forget();
        }
        drop(mailbox);
        let told = handle.tell_of_answer(1);
        assert_eq!(told.is_ok(), is_taken);
    }
}

/// The thread has found the connection open before that.
#[test]
fn who_pushes_too_much_to_what_is_not_open_any_more_is_told_so() {
    let (post, _mailbox) = mailbox().unwrap();
    let befalls: [fn(&Handle); 4] = [
        |handle| handle.shared.part(),
        |handle| handle.shared.end(PushError::Gone),
        |handle| handle.close("kicked").unwrap(),
        |_| (),
    ];
    for (number, befall) in befalls.into_iter().enumerate() {
        let handle = handle(&post);
        befall(&handle);
        let (expected, error) = match number {
            3 => (Pushed::Overflowed, PushError::Overflow),
            _ => (Pushed::Refused(PushError::Gone), PushError::Gone),
        };
        let pushed = handle.shared.push(&Bytes::from(vec![1; 1001]), false);
        assert_eq!(pushed, expected);
        assert_eq!(handle.push(vec![1]), Err(error));
    }
}

/// Its engine has failed while something waited.
#[test]
fn a_worker_that_has_ended_takes_nothing() {
    let (post, mailbox) = mailbox().unwrap();
    let handle = handle(&post);
    handle.push(vec![1]).unwrap();
    drop(mailbox);
    assert!(handle.is_open(), "nobody can know yet");
    assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
    assert!(!handle.is_open());
}
