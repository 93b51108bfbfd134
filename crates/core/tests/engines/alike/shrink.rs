//! Making a script that shows a fault smaller.

use std::time::{Duration, Instant};

use super::script::{Event, Script, Split};

/// For so long scripts are tried. Those that hang take their time.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Takes out of `script` whatever it fails without. `fails` tells what is wrong; it is asked twice, since not every fault
/// shows each time.
pub(crate) fn shrink(
    script: &Script,
    fails: impl Fn(&Script) -> Option<String>,
) -> (Script, Option<String>) {
    let mut smallest = script.clone();
    let mut fault = None;
    let start = Instant::now();
    let mut from = 0;
    // From the first candidate on behind the last that failed; over when none of a whole round does.
    let mut in_vain = 0;
    while start.elapsed() < TIME_MAX {
        let candidates = candidates(&smallest);
        if in_vain >= candidates.len() {
            break;
        }
        from %= candidates.len();
        match fails(&candidates[from]).or_else(|| fails(&candidates[from])) {
            Some(found) => {
                smallest = candidates[from].clone();
                fault = Some(found);
                in_vain = 0;
            }
            None => {
                from += 1;
                in_vain += 1;
            }
        }
    }
    (smallest, fault)
}

/// All scripts that are a little smaller.
fn candidates(script: &Script) -> Vec<Script> {
    let mut smaller = Vec::new();
    let mut push = |change: &dyn Fn(&mut Script)| {
        let mut candidate = script.clone();
        change(&mut candidate);
        smaller.push(candidate);
    };
    for client in 0..script.clients.len() {
        if script.mentions(client) {
            push(&|script| script.events.retain(|(number, _)| *number != client));
        }
    }
    for index in 0..script.events.len() {
        push(&|script| drop(script.events.remove(index)));
    }
    for (index, (_, event)) in script.events.iter().enumerate() {
        let Event::Send {
            items,
            split,
            paced,
            held,
        } = event
        else {
            continue;
        };
        for item in 0..items.len() {
            push(&|script| {
                if let Event::Send { items, .. } = &mut script.events[index].1 {
                    items.remove(item);
                }
            });
        }
        if *paced || *held > 0 || matches!(split, Split::Pieces(_)) {
            push(&|script| {
                let event = &mut script.events[index].1;
                if let Event::Send {
                    split, paced, held, ..
                } = event
                {
                    (*split, *paced, *held) = (Split::Whole, false, 0);
                }
            });
        }
    }
    if script.settings.workers > 1 {
        push(&|script| script.settings.workers = 1);
    }
    if script.settings.spins {
        push(&|script| script.settings.spins = false);
    }
    smaller
}
