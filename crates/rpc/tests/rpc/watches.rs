//! What a router does when there is something to read.

use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;

use ringhold_core::Watch;
use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_rpc::{Router, Rpc};

#[test]
fn each_descriptor_has_its_reader() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let pairs = [(); 2].map(|()| UnixDatagram::pair().unwrap());
    let pairs = pairs.map(|(sender, receiver)| (sender, Rc::new(receiver)));
    let mut router = Router::new();
    for (name, (_, receiver)) in ["a", "b"].into_iter().zip(&pairs) {
        let (socket, log) = (receiver.clone(), log.clone());
        router = router.watch(receiver.clone(), move || {
            let mut byte = [0];
            socket.recv(&mut byte)?;
            log.borrow_mut().push((name, byte[0]));
            match byte[0] {
                0 => Ok(Watch::End),
                1 => Err(io::Error::other("on purpose")),
                _ => Ok(Watch::Continue),
            }
        });
    }
    let make = |worker: &_| Rpc::new(worker, router);
    let mut exchange = Exchange::with_worker(make, Limits::default());
    let send = |index: usize, byte| pairs[index].0.send(&[byte]).unwrap();
    for (index, byte) in [(1, 5), (0, 6), (0, 1), (1, 0), (0, 7), (1, 8)] {
        send(index, byte);
        exchange.deliver();
    }
    assert_eq!(
        *log.borrow(),
        [("b", 5), ("a", 6), ("a", 1), ("b", 0), ("a", 7)]
    );
}
