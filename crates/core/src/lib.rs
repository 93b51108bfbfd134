//! Named sockets, workers and engines.
