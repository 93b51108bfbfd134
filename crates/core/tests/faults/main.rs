//! What goes wrong between a server and its peers, on purpose: too few buffers, cut frames, resets, slow readers,
//! descriptors running out, stops in the middle of everything.
//!
//! Each test runs in a process of its own, so that it can count descriptors, threads and limits, and is written for
//! any engine: the list at the end of this file says which engines run it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// mod accepting;
mod bed;
mod client;
// mod cuts;
// mod ends;
mod frames;
// mod leases;
// mod pushes;
// mod sends;
mod services;
mod sizes;
// mod slots;
// mod stopping;
// mod tickets;
// mod timeouts;

macro_rules! tests {
    ($($module:ident { $($test:ident,)+ })+) => {
        /// With the ring engine.
        mod ring {
            $($(
                #[test]
                fn $test() {
                    let name = concat!("ring::", stringify!($test));
                    crate::bed::isolated(name, crate::bed::Engine::Ring, crate::$module::$test);
                }
            )+)+
        }
    };
}

tests! {
    sizes {
        the_smallest_ring_loses_nothing_and_keeps_the_order,
        a_burst_of_a_thousand_connections_shares_sixteen_buffers,
        a_fast_sender_leaves_room_for_the_others,
        a_full_socket_does_not_come_before_others,
    }
}
