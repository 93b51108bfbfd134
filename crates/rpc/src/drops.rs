//! What of users' is dropped one by one.

use std::mem::{forget, replace, take};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// Values that are dropped one after the other, each even if one before it panics. Of the panics the last goes on, unless another one
/// unwinds already: a second one would end the process.
pub(crate) struct OneByOne<T>(Vec<T>);

impl<T> Default for OneByOne<T> {
    fn default() -> Self {
        OneByOne(Vec::new())
    }
}

impl<T> Deref for OneByOne<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> DerefMut for OneByOne<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T> Drop for OneByOne<T> {
    fn drop(&mut self) {
        let mut left = Ok(());
        for value in take(&mut self.0) {
            // Unwind safety: nothing is left of it.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
                drop_unheard(replace(&mut left, Err(panic)));
            }
        }
        match left {
            Err(panic) if thread::panicking() => drop_unheard(panic),
            Err(panic) => resume_unwind(panic),
            Ok(()) => {}
        }
    }
}

/// Drops what a panic was about, which may panic as it goes: nobody learns of that but the panic hook.
pub(crate) fn drop_unheard<T>(value: T) {
    // Unwind safety: nothing is left of it.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // That one may do the same.
        forget(panic);
    }
}
