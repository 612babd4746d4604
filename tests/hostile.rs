//! The hostile suite: what a stranger's program may try, from the table of known escapes and from what attackers do. Each
//! attack is a small C program (`tests/hostile/attacks/`), and runs in twins: it must be refused in
//! `Sandbox::hardened()`, and the same program must succeed in a control run without that layer, or the test proves nothing.
//!
//! Only what the test itself has made is ever changed: a file, a socket, a process. Knobs of the whole machine are opened
//! at most, and what would harm is called with arguments that the kernel refuses after the permission check.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "hostile/channels.rs"]
mod channels;
mod common;
#[path = "hostile/files.rs"]
mod files;
#[path = "hostile/kernel.rs"]
mod kernel;
#[path = "hostile/lab.rs"]
mod lab;
#[path = "hostile/limits.rs"]
mod limits;
#[path = "hostile/network.rs"]
mod network;
#[path = "hostile/processes.rs"]
mod processes;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lab::{Lab, Pair, Ran};

/// How many pairs run at once: most of them wait for a process or a deadline.
const WORKERS: usize = 6;

#[derive(Default)]
struct Tally {
    tried: usize,
    controls: usize,
    /// Not possible in this lane, with the reason.
    elsewhere: BTreeMap<&'static str, String>,
    /// What succeeds, and is not yet decided on.
    open: Vec<String>,
    /// Escapes, and broken tests.
    wrong: Vec<String>,
    escaped: usize,
    times: Vec<(u128, &'static str)>,
}

#[test]
fn nothing_escapes() {
    let lab = Lab::new();
    let pairs: Vec<Pair> =
        [kernel::pairs(), processes::pairs(), files::pairs(), network::pairs(), channels::pairs(), limits::pairs()]
            .into_iter()
            .flatten()
            .filter(|pair| std::env::var("STOCKADE_HOSTILE").map_or(true, |only| only == pair.name))
            .collect();
    let names: std::collections::BTreeSet<_> = pairs.iter().map(|pair| pair.name).collect();
    assert_eq!(names.len(), pairs.len(), "each pair has a name of its own");

    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A thread of its own, with its name: keyrings and capabilities are the thread's.
                    let worker = std::thread::Builder::new().name(pair.name.to_owned());
                    let one = std::thread::scope(|inner| {
                        worker.spawn_scoped(inner, || run(&lab, pair, &tally)).unwrap().join()
                    });
                    assert!(one.is_ok());
                }
            });
        }
    });

    let mut tally = tally.into_inner().unwrap();
    tally.times.sort_unstable();
    let total = tally.controls + tally.elsewhere.len();
    let mut text = String::new();
    for wrong in &tally.wrong {
        text += &format!("hostile: {wrong}\n");
    }
    for open in &tally.open {
        text += &format!("hostile: {open}\n");
    }
    for (name, reason) in &tally.elsewhere {
        text += &format!("hostile: {name}: the control is for another lane: {reason}\n");
    }
    if common::is_slow() || std::env::var_os("STOCKADE_HOSTILE_TIMES").is_some() {
        text += &format!("hostile: the slowest: {:?}\n", tally.times.iter().rev().take(8).collect::<Vec<_>>());
    }
    text += &format!(
        "hostile: {} tried, {} held, {} escaped, controls {}/{total}\n",
        tally.tried,
        tally.tried - tally.escaped,
        tally.escaped,
        tally.controls,
    );
    // Past the harness, which keeps what a passing test prints.
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(tally.wrong.is_empty(), "{text}");
    let least = if std::env::var_os("STOCKADE_HOSTILE").is_some() { 1 } else { 100 };
    assert!(tally.tried + tally.open.len() >= least, "{text}");
}

fn run(lab: &Lab, pair: &Pair, tally: &Mutex<Tally>) {
    let start = Instant::now();
    let twins = catch_unwind(AssertUnwindSafe(|| (pair.run)(lab)));
    let mut tally = tally.lock().unwrap();
    tally.times.push((start.elapsed().as_millis(), pair.name));
    let twins = match twins {
        Ok(twins) => twins,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            tally.wrong.push(format!("{}: broken: {}", pair.name, text.unwrap_or_default()));
            return;
        }
    };
    if let Some(what) = pair.undecided {
        if let Some(open) = twins.inside.iter().find(|ran| matches!(ran, Ran::Succeeded(_))) {
            tally.open.push(format!("{}: open: {what}: {open:?}", pair.name));
        }
    } else if !twins.inside.is_empty() {
        tally.tried += 1;
        let mut held = true;
        for inside in &twins.inside {
            match inside {
                Ran::Refused(_) | Ran::Absent(_) => {}
                Ran::Succeeded(text) => {
                    held = false;
                    tally.wrong.push(format!("{}: ESCAPED: {text}", pair.name));
                }
                Ran::Broken(text) => tally.wrong.push(format!("{}: broken: {text}", pair.name)),
            }
        }
        tally.escaped += usize::from(!held);
    }
    match twins.control {
        Ran::Succeeded(_) => tally.controls += 1,
        Ran::Absent(text) => {
            common::note_skip(&format!("no control here: {text}"));
            tally.elsewhere.insert(pair.name, text);
        }
        Ran::Refused(text) if pair.root_shows && !common::is_root() => {
            let text = format!("only root can show it: {text}");
            common::note_skip(&text);
            tally.elsewhere.insert(pair.name, text);
        }
        ran => tally.wrong.push(format!("{}: the control does not show it: {ran:?}", pair.name)),
    }
}
