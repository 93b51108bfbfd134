//! The bound on memory, in the orders in which workers can come to it.

use loom::thread;

use super::*;
use crate::sync::check;

#[test]
fn who_was_told_to_cut_sees_that_there_is_too_much_or_is_told_again() {
    check(4, || {
        let memory = Memory::new(1000, 2);
        let [mut told, mut grows] = [0, 1].map(|worker| Meter::new(memory.clone(), worker));
        told.change(0, 600);
        told.publish();
        grows.change(0, 390);
        grows.publish();
        // It was too much a moment ago.
        assert!(grows.tell(0));
        let other = thread::spawn(move || {
            grows.change(390, 410);
            let tells = grows.publish() == Some(0) && grows.tell(0);
            (grows, tells)
        });
        told.hear();
        let cuts = told.must_cut(600);
        let (_grows, tells) = other.join().unwrap();
        assert!(cuts || tells, "nobody cuts");
    });
}
