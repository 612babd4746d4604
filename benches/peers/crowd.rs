//! Many at once: what each takes while it sleeps, how long all take to start and to end, how many a second there are.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::launches::{Launch, rates};
use crate::common::{Record, Result, memory};
use crate::ways::{Held, Target, Way};

/// Slots beyond those of the rows.
const FIRST_SLOT: usize = 100;

/// Starts so many sleepers, by as many threads as there are CPUs, and waits until all of them run. On an error all end.
fn start(way: &dyn Way, count: usize) -> Result<Vec<Held>> {
    let threads = std::thread::available_parallelism()?.get();
    let all = Mutex::new((vec![], None));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let all = &all;
            scope.spawn(move || {
                for slot in (thread..count).step_by(threads) {
                    let held = way.hold(FIRST_SLOT + slot).map_err(|error| error.to_string());
                    let Ok(mut all) = all.lock() else { return };
                    match held {
                        Ok(held) => all.0.push(held),
                        Err(error) => all.1 = Some(error),
                    }
                    if all.1.is_some() {
                        return;
                    }
                }
            });
        }
    });
    let (mut held, mut error) = all.into_inner().map_err(|_| "a thread panicked")?;
    for one in &mut held {
        if error.is_none() {
            error = one.ready().err().map(|error| error.to_string());
        }
    }
    match error {
        None => Ok(held),
        Some(error) => {
            let count = held.len();
            let _ = end(held);
            Err(format!("after {count}: {error}").into())
        }
    }
}

fn end(mut all: Vec<Held>) -> Result<()> {
    all.iter_mut().for_each(Held::close);
    let ended: Vec<_> = all.into_iter().map(Held::wait).collect();
    ended.into_iter().collect()
}

#[allow(clippy::cast_precision_loss)]
fn share(whole: u64, count: usize) -> f64 {
    whole as f64 / count as f64
}

/// What one takes while its program sleeps, of processes' memory and of the kernel's.
pub fn idle(way: &dyn Way, count: usize, record: Record) -> Result<Record> {
    // What comes once, and what is torn down late, is not to count.
    end(start(way, 2)?)?;
    std::thread::sleep(Duration::from_millis(1000));
    let others = memory::descendants(std::process::id())?;
    let before = memory::kernel()?;
    let held = start(way, count)?;
    std::thread::sleep(Duration::from_millis(200));
    let after = memory::kernel()?;
    let processes: Vec<_> =
        memory::descendants(std::process::id())?.into_iter().filter(|pid| !others.contains(pid)).collect();
    // A process that is shared is each one's in part; where that cannot be read, all of it.
    let sum = |file: &str, field: &str| -> Result<u64> {
        let one = |pid: &u32| memory::fields(&format!("/proc/{pid}/{file}"), &[field]);
        Ok(processes.iter().map(one).sum::<std::io::Result<u64>>()?)
    };
    let resident = sum("status", "VmRSS:");
    let proportional = sum("smaps_rollup", "Pss:");
    end(held)?;
    let (resident, kernel) = (resident?, after.saturating_sub(before));
    let total = proportional.as_ref().unwrap_or(&resident) + kernel;
    let mut record = record
        .number("count", share(count as u64, 1), 0)
        .number("processes", share(processes.len() as u64, count), 1)
        .number("resident_kib", share(resident, count), 1);
    if let Ok(proportional) = proportional {
        record = record.number("proportional_kib", share(proportional, count), 1);
    }
    Ok(record.number("kernel_kib", share(kernel, count), 1).number("total_kib", share(total, count), 1))
}

/// How long so many take to start, all running at once in the end, and how long to end.
pub fn live(way: &dyn Way, count: usize, record: Record) -> Result<Record> {
    let begin = Instant::now();
    let held = start(way, count)?;
    let started = begin.elapsed();
    let begin = Instant::now();
    end(held)?;
    let ended = begin.elapsed();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(record.number("count", share(count as u64, 1), 0).number("start_ms", milliseconds(started), 1).number(
        "end_ms",
        milliseconds(ended),
        1,
    ))
}

/// Launches of /bin/true per second, of each way, or why one failed.
pub fn per_second(ways: &[&dyn Way], threads: usize, turn: Duration) -> Vec<std::result::Result<f64, String>> {
    let runs: Vec<_> =
        ways.iter().map(|way| move |thread: usize| way.run(Target::Dynamic, FIRST_SLOT + thread)).collect();
    let runs: Vec<_> = runs.iter().map(|run| run as Launch<'_>).collect();
    rates(&runs, threads, turn)
}
