//! A load that runs while the service is restarted.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ringhold_client::Address;
use ringhold_client::load::{self, LoadError, LoadPlan, LoadReport};

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<LoadReport, LoadError>>,
}

impl Load {
    /// Persistent connections with a few requests under way each, and others that come and go.
    pub(crate) fn start(address: &Address, connections: usize, short_lived: usize) -> Self {
        Self::with(LoadPlan {
            connections,
            short_lived,
            requests_per_connection: 3,
            depth: 3,
            payload: 300,
            // Enough that every connection has something under way most of the time, and something is left of the
            // machine for the service.
            rate: Some(6000.0),
            ..LoadPlan::new(address.clone())
        })
    }

    /// Any load; when it ends is its caller's matter. The connections that stay have been made.
    pub(crate) fn with(plan: LoadPlan) -> Self {
        let plan = LoadPlan {
            duration: Duration::from_secs(300),
            drain: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(120),
            ..plan
        };
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let (says, begun) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            load::run(&plan, |_| {
                // Nobody listens the second time.
                let _ = says.send(());
                if asked.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        // Not if it could not begin, which its end tells.
        let _ = begun.recv();
        Load { stop, thread }
    }

    /// Ends it. It must have gone without a fault.
    pub(crate) fn end(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let report = self.thread.join().unwrap().unwrap();
        let counts = &report.counts;
        assert!(counts.is_clean(), "{report}\n{:#?}", report.problems);
        assert_eq!(counts.answered, counts.sent, "{report}");
        report
    }
}
