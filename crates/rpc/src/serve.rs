//! A router as a service of a server, in one line.

use std::sync::Arc;

use ringhold_core::Server;

use crate::router::Router;
use crate::service::Rpc;

/// Adds services of MessagePack-RPC to a [`Server`].
pub trait ServeRpc {
    /// Adds a service that answers with such a router: `router` is called once on each worker
    /// ([`Server::service`]). It is called before that as well, by [`Server::preflight`], so that a mistake in the names of methods
    /// refuses a reload. So it opens nothing; what the methods need is opened before, and cloned into them.
    ///
    /// ```no_run
    /// # use ringhold_core::{Server, config::Config};
    /// use ringhold_rpc::{Router, ServeRpc};
    ///
    /// # fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    /// Server::new(config)
    ///     .rpc("rpc", || Router::new().method("add", |(a, b): (i64, i64)| Ok(a + b)))
    ///     .run()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A router that needs to know its [`Worker`](ringhold_core::Worker), and an [`Rpc`] that is not as [`Rpc::new`] makes it, take the two
    /// calls.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    #[must_use]
    fn rpc(
        self,
        name: impl Into<String>,
        router: impl Fn() -> Router + Send + Sync + 'static,
    ) -> Self;
}

impl ServeRpc for Server {
    fn rpc(
        self,
        name: impl Into<String>,
        router: impl Fn() -> Router + Send + Sync + 'static,
    ) -> Self {
        let router = Arc::new(router);
        let tried = router.clone();
        self.preflight(move || {
            drop(tried());
            Ok(())
        })
        .service(name, move |worker| Rpc::new(worker, router()))
    }
}
