//! A mailbox, in the orders in which threads can come to it.

use loom::thread;

use super::*;
use crate::sync::check;

fn is_woken(mailbox: &Mailbox) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let event = mailbox.event();
    let mut fds = [PollFd::new(&event, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

fn take_all(mailbox: &Mailbox) -> usize {
    std::iter::from_fn(|| mailbox.next()).count()
}

/// So many threads post so much each, while the worker takes so many turns. It sleeps after each, and something else than mail wakes it
/// but for the last time.
fn posts(preemptions: usize, posters: usize, each: usize, turns: usize) {
    check(preemptions, move || {
        let (post, mailbox) = mailbox().unwrap();
        let posting = (0..posters).map(|_| {
            let post = post.clone();
            let send = move |_| post.send(Mail::Look).ok().unwrap();
            thread::spawn(move || (0..each).for_each(send))
        });
        let posting: Vec<_> = posting.collect();
        let mut taken = 0;
        let mut sleeps = false;
        for _ in 0..turns {
            mailbox.awake();
            taken += take_all(&mailbox);
            let found = mailbox.prepare_sleep();
            sleeps = found.is_none();
            taken += usize::from(!sleeps);
        }
        for poster in posting {
            poster.join().unwrap();
        }
        let left = take_all(&mailbox);
        assert_eq!(taken + left, posters * each);
        assert!(
            left == 0 || !sleeps || is_woken(&mailbox),
            "it sleeps and has mail"
        );
    });
}

#[test]
fn a_worker_that_goes_to_sleep_sees_its_mail_or_is_woken() {
    posts(4, 1, 1, 2);
    posts(3, 1, 2, 3);
    posts(3, 2, 1, 2);
}
