//! Workers that wait for each other, in the orders in which they can come to that.

use loom::thread;

use super::*;
use crate::mailbox::{Mailbox, mailbox};
use crate::sync::check;

fn crew(workers: usize) -> (Arc<Crew>, Vec<Mailbox>) {
    let mailboxes = (0..workers).map(|_| mailbox().unwrap());
    let (posts, mailboxes): (Vec<_>, Vec<_>) = mailboxes.unzip();
    let crew = Crew::new(
        posts,
        Arc::new([]),
        Dealer::new(workers, 1, [(0..workers).collect::<Vec<_>>()]),
        Memory::new(1, workers),
        Arc::new(Metrics::new(Vec::new(), workers, Memory::new(1, workers))),
        vec![1; workers],
    );
    (crew, mailboxes)
}

/// Each worker acts and says whether it goes on. Who does not has mail then, and finds that it may.
fn all_go_on(
    preemptions: usize,
    workers: usize,
    begin: fn(&Crew),
    act: fn(&Crew, usize) -> bool,
    may_go_on: fn(&Crew) -> bool,
) {
    check(preemptions, move || {
        let (crew, mailboxes) = crew(workers);
        begin(&crew);
        let others = (1..workers).map(|worker| {
            let crew = crew.clone();
            thread::spawn(move || act(&crew, worker))
        });
        let others: Vec<_> = others.collect();
        let mut go_on = vec![act(&crew, 0)];
        go_on.extend(others.into_iter().map(|it| it.join().unwrap()));
        for (mailbox, goes_on) in mailboxes.iter().zip(go_on) {
            assert!(goes_on || mailbox.next().is_some(), "it sleeps");
        }
        assert!(may_go_on(&crew));
    });
}

#[test]
fn the_last_that_comes_to_a_step_wakes_the_others() {
    for (preemptions, workers) in [(3, 2), (2, 3)] {
        all_go_on(
            preemptions,
            workers,
            |_| {},
            |crew, worker| {
                crew.reach(worker, Step::Kept);
                crew.have_all_reached(Step::Kept)
            },
            |crew| crew.have_all_reached(Step::Kept),
        );
    }
}

#[test]
fn who_waits_for_tickets_is_woken_by_the_last() {
    all_go_on(
        2,
        3,
        |crew| (0..3).for_each(|worker| crew.open_tickets.opened(worker)),
        |crew, worker| {
            // The first one alone waits.
            if worker == 0 {
                crew.begin_stop();
            }
            crew.ticket_closed(worker, false);
            worker != 0 || crew.open_tickets.count() == 0
        },
        |crew| crew.open_tickets.count() == 0,
    );
}

#[test]
fn a_handover_goes_on_when_the_last_ending_is_over_or_its_worker_is_left_behind() {
    all_go_on(
        2,
        3,
        |crew| {
            [1, 2]
                .iter()
                .for_each(|worker| crew.endings.opened(*worker))
        },
        |crew, worker| {
            crew.begin_stop();
            if worker == 2 {
                crew.leave_behind(worker);
                return true;
            }
            crew.reach(worker, Step::Asked);
            let goes_on = crew.may_part();
            if worker == 1 {
                crew.ending_over(worker);
            }
            goes_on
        },
        Crew::may_part,
    );
}

#[test]
fn who_can_be_dealt_no_more_has_what_it_was_dealt() {
    check(2, || {
        let (crew, mailboxes) = crew(3);
        let dealing = [1, 2].map(|worker| {
            let crew = crew.clone();
            thread::spawn(move || {
                let _ = crew.posts[0].send(Mail::Room);
                crew.acceptor_ended(worker);
            })
        });
        crew.acceptor_ended(0);
        let is_over = crew.is_dealt_no_more(0);
        let mail = std::iter::from_fn(|| is_over.then(|| mailboxes[0].next()).flatten());
        let dealt = mail.filter(|mail| matches!(mail, Mail::Room)).count();
        assert!(!is_over || dealt == 2);
        dealing.into_iter().for_each(|it| it.join().unwrap());
        let mut mail = std::iter::from_fn(|| mailboxes[0].next());
        assert!(
            is_over || mail.any(|mail| matches!(mail, Mail::Look)),
            "it sleeps"
        );
    });
}
