//! What models have in place of std's.

pub(crate) use loom::sync::{Mutex, MutexGuard};

/// Runs a model in every order that differs, with no more than so many switches of threads that were not necessary.
pub(crate) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Those of loom, with what it lacks:
/// - It leaves out orders when a thread loads before it stores (loom's issues 166 and 392), but none of exchanges. So there is one, of
///   something that nobody looks at, before each access.
/// - A sequentially consistent load may find what was there first, whatever was stored since. An exchange finds the newest. So a model
///   does not show what goes wrong if only some of the accesses that need that order have it.
pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::Ordering;

    macro_rules! atomic {
        ($name:ident, $value:ty, $zero:literal) => {
            #[derive(Debug)]
            pub(crate) struct $name {
                value: loom::sync::atomic::$name,
                accesses: loom::sync::atomic::AtomicUsize,
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new($zero)
                }
            }

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self {
                        value: loom::sync::atomic::$name::new(value),
                        accesses: loom::sync::atomic::AtomicUsize::new(0),
                    }
                }

                fn access(&self) -> &loom::sync::atomic::$name {
                    self.accesses.fetch_add(1, Ordering::Relaxed);
                    &self.value
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    match order {
                        Ordering::SeqCst => self.access().fetch_or($zero, Ordering::Acquire),
                        _ => self.access().load(order),
                    }
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    match order {
                        Ordering::SeqCst => drop(self.access().swap(value, Ordering::Release)),
                        _ => self.access().store(value, order),
                    }
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.access().swap(value, order)
                }

                pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.access().fetch_or(value, order)
                }
            }
        };
        ($name:ident, $value:ty) => {
            atomic!($name, $value, 0);

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.access().fetch_add(value, order)
                }

                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.access().fetch_sub(value, order)
                }

                pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    self.access().fetch_max(value, order)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.access()
                        .compare_exchange(current, new, success, failure)
                }

                pub(crate) fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    self.access().fetch_update(set, fetch, update)
                }
            }
        };
    }

    atomic!(AtomicBool, bool, false);
    atomic!(AtomicU8, u8);
    atomic!(AtomicU64, u64);
    atomic!(AtomicUsize, usize);
}

/// A queue that finds what was sent before it is asked, as std's does. Who finds it empty synchronizes with nobody.
pub(crate) mod queue {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::mpsc::{SendError, TryRecvError};

    use super::Mutex;
    use super::atomic::{AtomicUsize, Ordering};

    struct Queue<T> {
        /// `None` when the receiver is gone.
        values: Mutex<Option<VecDeque<T>>>,
        /// How many there have been.
        sent: AtomicUsize,
    }

    pub(crate) struct Sender<T>(Arc<Queue<T>>);

    pub(crate) struct Receiver<T> {
        queue: Arc<Queue<T>>,
        taken: Cell<usize>,
    }

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Queue {
            values: Mutex::new(Some(VecDeque::new())),
            sent: AtomicUsize::new(0),
        });
        let taken = Cell::new(0);
        (Sender(queue.clone()), Receiver { queue, taken })
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Sender(self.0.clone())
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, value: T) -> Result<(), SendError<T>> {
            let mut values = self.0.values.lock().unwrap();
            match &mut *values {
                Some(values) => values.push_back(value),
                None => return Err(SendError(value)),
            }
            // Under the lock, or the receiver could take another's value on this account, and leave this one.
            self.0.sent.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            if self.queue.sent.load(Ordering::Relaxed) == self.taken.get() {
                return Err(TryRecvError::Empty);
            }
            let mut values = self.queue.values.lock().unwrap();
            let first = values.as_mut().and_then(VecDeque::pop_front);
            let first = first.ok_or(TryRecvError::Empty)?;
            self.taken.set(self.taken.get() + 1);
            Ok(first)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let left = self.queue.values.lock().unwrap().take();
            drop(left);
        }
    }
}
