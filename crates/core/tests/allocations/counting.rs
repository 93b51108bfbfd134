//! An allocator that counts what chosen threads ask of it, and clients to keep those threads busy.
//!
//! Of the crates for this, `stats_alloc` counts the whole process, clients included, and `dhat` records where each
//! allocation came from, which is far more than is needed here; the four calls of the trait are soon passed on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::Address;
use ringhold_core::{Running, Server};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

thread_local! {
    /// What counts this thread's allocations.
    static COUNTER: Cell<Option<&'static AtomicUsize>> = const { Cell::new(None) };
    /// Bytes that this thread has allocated, less those that it has freed.
    static BALANCE: Cell<isize> = const { Cell::new(0) };
}

/// Counts what the calling thread allocates from now on.
pub(crate) fn count_this_thread(counter: &'static AtomicUsize) {
    COUNTER.set(Some(counter));
}

/// Bytes that the calling thread has allocated, less those that it has freed: meaningful where it does both.
pub(crate) fn balance_of_this_thread() -> isize {
    BALANCE.get()
}

fn balance(allocated: usize, freed: usize) {
    let _ = BALANCE.try_with(|balance| {
        balance.set(balance.get() + allocated as isize - freed as isize);
    });
}

fn count() {
    // Reading the counter allocates nothing: it has neither an initializer to run nor a destructor.
    if let Ok(Some(counter)) = COUNTER.try_with(Cell::get) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
#[expect(unsafe_code, reason = "the trait of allocators is unsafe")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        balance(layout.size(), 0);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        balance(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        balance(new_size, layout.size());
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        balance(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What the clients do: each sends the requests at once and reads the replies, again and again.
pub(crate) struct Load<'a> {
    pub(crate) connections: usize,
    pub(crate) requests: &'a [u8],
    pub(crate) replies: &'a [u8],
    /// How often before allocations are counted. By then all memory that is kept for reuse is there.
    pub(crate) warm_up: usize,
    /// How often while they are.
    pub(crate) rounds: usize,
}

/// No read or write takes so long unless something hangs.
const SAFETY_NET: Duration = Duration::from_secs(180);

/// Serves the service `echo` that `services` adds on the ring engine, and counts what its workers, who must have called
/// [`count_this_thread`], allocate under this load after the warm-up. `None` where the ring engine does not work.
pub(crate) fn allocations(
    counter: &AtomicUsize,
    services: impl FnOnce(Server) -> Server,
    load: &Load<'_>,
) -> Option<usize> {
    if let Some(why) = ringhold_core::probe::probe().unavailable {
        eprintln!("SKIPPED: {why}");
        return None;
    }
    let text = "engine = \"ring\"\nworkers = 2\n[sockets.echo]\nlisten = [\"127.0.0.1:0\"]\n";
    let config = Config::parse(text, "test").unwrap();
    let server = services(Server::new(config).inherited(Inherited::none()));
    let running = server.start().unwrap();
    let address = tcp(&running);

    let barrier = Barrier::new(load.connections + 1);
    let during = std::thread::scope(|scope| {
        for _ in 0..load.connections {
            scope.spawn(|| client(address, load, &barrier));
        }
        barrier.wait();
        let before = counter.load(Ordering::SeqCst);
        barrier.wait();
        barrier.wait();
        counter.load(Ordering::SeqCst) - before
    });
    running.stop();
    running.join().unwrap();
    Some(during)
}

fn tcp(running: &Running) -> SocketAddr {
    match running.listeners().next().unwrap().address {
        Address::Tcp(address) => address,
        ref other => panic!("{other} is not TCP"),
    }
}

fn client(address: SocketAddr, load: &Load<'_>, barrier: &Barrier) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SAFETY_NET)).unwrap();
    stream.set_write_timeout(Some(SAFETY_NET)).unwrap();
    let mut replies = vec![0; load.replies.len()];
    let mut repeat = |times: usize| {
        for _ in 0..times {
            stream.write_all(load.requests).unwrap();
            stream.read_exact(&mut replies).unwrap();
            assert!(replies == load.replies);
        }
        barrier.wait();
    };
    repeat(load.warm_up);
    barrier.wait();
    repeat(load.rounds);
}
