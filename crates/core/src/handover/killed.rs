//! Children that were killed and did not end: one that waits for a disk or for another machine does not until that has answered, and
//! the main thread has more to do than to wait for it. Until it is looked whether they have ended, they stay in the table of processes.
//!
//! A process that replaces itself has the same children as before, and is told in a variable of its environment which those are.

use std::ffi::OsString;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitOptions, waitpid};

/// Where they are: whose children, and their numbers. It stays there, so a child of the application's may have it, too.
pub(crate) const VARIABLE: &str = "RINGHOLD_KILLED";

static KILLED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn killed() -> MutexGuard<'static, Vec<Pid>> {
    KILLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes one that has not ended.
pub(super) fn add(child: &Child) {
    killed().extend(Pid::from_raw(child.id().cast_signed()));
}

/// Looks which have ended.
pub(crate) fn reap() {
    // One that is no child any more was waited for by somebody else.
    killed().retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
}

/// Goes on with those of the predecessor. To be called once, before this process has children of its own.
pub(crate) fn take_over() {
    if let Ok(said) = std::env::var(VARIABLE) {
        killed().extend(of(std::process::id(), &said));
    }
}

/// The variable for the program that replaces this one, if it has any to go on with.
pub(super) fn announcement() -> Option<(OsString, OsString)> {
    let said = said(std::process::id(), &killed())?;
    Some((VARIABLE.into(), said.into()))
}

fn said(parent: u32, killed: &[Pid]) -> Option<String> {
    let numbers: Vec<String> = killed.iter().map(Pid::to_string).collect();
    (!numbers.is_empty()).then(|| format!("{parent}:{}", numbers.join(",")))
}

/// Those of this parent.
fn of(parent: u32, said: &str) -> Vec<Pid> {
    match said.split_once(':') {
        Some((of, numbers)) if of.parse() == Ok(parent) => {
            let numbers = numbers.split(',').filter_map(|it| it.parse().ok());
            numbers
                .filter(|it| *it > 0)
                .filter_map(Pid::from_raw)
                .collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_to_who_has_them_and_to_nobody_else() {
        let killed = [7, 300].map(|number| Pid::from_raw(number).unwrap());
        let told = said(12, &killed).unwrap();
        assert_eq!(of(12, &told), killed);
        assert_eq!(of(13, &told), []);
        assert_eq!(said(12, &[]), None);
        for spoilt in ["", "12", "12:", "12:-1,0,x", ":7"] {
            assert_eq!(of(12, spoilt), [], "{spoilt:?}");
        }
    }
}
