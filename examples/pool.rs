//! A judge's loop over a pool: submissions come one after the other, from several threads, and each is run in a container of
//! its own that was made beforehand.
//!
//! ```console
//! $ cargo run --release --example pool -- --threads 4 --runs 400
//! ```
//!
//! A submission adds two numbers. Most are right, some are wrong or crash; the counts of verdicts are checked
//! against that. The same is done without a sandbox (`std::process::Command`), with one made for each run, with a pool, and
//! with a pool that uses network namespaces again ([`Sandbox::recycle_net_ns`], which says what that costs), turn by turn,
//! so that the machine's moods hit all alike. Printed are launches per second, and the ratio to those without a sandbox.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stockade::{Layers, Limit, Output, Pool, Prepared, Sandbox, Stdio, Verdict};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How often each way has its turn.
const TURNS: usize = 4;

/// One in so many submissions is not as it should be.
const FAULTY: usize = 10;

/// What a submission is, by what is to come of it.
const SUBMISSIONS: [(&str, &str); 3] = [
    ("AC", "read a b; echo $((a + b))"),
    ("WA", "read a b; echo $((a - b))"),
    ("RE", "read a b; kill -SEGV $$; echo $((a + b))"),
];

fn main() -> ExitCode {
    match options().and_then(|options| judge(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pool: {error}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    threads: usize,
    runs: usize,
}

fn options() -> Result<Options> {
    let mut options = Options { threads: 4, runs: 400 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
        match (argument.as_str(), value) {
            ("--threads", Some(value)) => options.threads = value,
            ("--runs", Some(value)) => options.runs = value,
            _ => return Err("usage: pool [--threads N] [--runs N]".into()),
        }
    }
    Ok(options)
}

/// How a submission is run.
enum Way {
    Plain,
    Cold(Prepared),
    Pool(Pool),
}

fn judge(options: &Options) -> Result<bool> {
    // hardened() is every layer that needs no configuration.
    let sandbox = Sandbox::hardened()
        .wall_time_limit(Duration::from_secs(20))
        .memory_limit(64 << 20)
        .best_effort(Layers::MEMORY | Layers::PIDS)
        .output_limit(1 << 10);
    let size = 2 * options.threads;
    let ways = [
        ("std", Way::Plain),
        ("cold", Way::Cold(sandbox.prepare()?)),
        ("pool", Way::Pool(sandbox.pool(size)?)),
        ("pool, recycling", Way::Pool(sandbox.clone().recycle_net_ns().pool(size)?)),
    ];
    let mut times = [Duration::ZERO; 4];
    let mut verdicts = BTreeMap::new();
    for _ in 0..TURNS {
        for ((_, way), time) in ways.iter().zip(&mut times) {
            *time += turn(way, options, &mut verdicts)?;
        }
    }

    let launches = options.runs.div_ceil(TURNS) * TURNS;
    println!("{} threads, {launches} launches each:", options.threads);
    let per_second = times.map(|time| launches as f64 / time.as_secs_f64());
    for ((name, way), rate) in ways.iter().zip(per_second) {
        let ratio = per_second.first().map_or(f64::NAN, |plain| rate / plain);
        print!("{name:<16} {rate:>8.0} launches/s   {ratio:.2} of std");
        match way {
            Way::Pool(pool) => println!("   {:?}", pool.figures()),
            _ => println!(),
        }
    }

    let faulty = (0..launches / TURNS).filter(|number| number % FAULTY == FAULTY - 1).count();
    let turns = ways.len() * TURNS;
    let right = (launches / TURNS - faulty) * turns;
    println!("verdicts: {verdicts:?}, of which AC are to be {right}");
    Ok(verdicts.get("AC") == Some(&right) && verdicts.values().sum::<usize>() == launches * ways.len())
}

/// All submissions of one turn, from all threads; how long that took.
fn turn(way: &Way, options: &Options, verdicts: &mut BTreeMap<&str, usize>) -> Result<Duration> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(verdicts);
    let runs = options.runs.div_ceil(TURNS);
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= runs {
                return Ok(());
            }
            let kind = if number % FAULTY == FAULTY - 1 { 1 + number / FAULTY % 2 } else { 0 };
            let (expected, script) = SUBMISSIONS.get(kind).ok_or("no such submission")?;
            let (a, b) = (number, number % 7 + 1);
            let verdict = run(way, script, &format!("{a} {b}\n"), &format!("{}\n", a + b))?;
            if verdict != *expected {
                return Err(format!("{script:?} is {verdict}, not {expected}").into());
            }
            if let Ok(mut verdicts) = verdicts.lock() {
                *verdicts.entry(verdict).or_default() += 1;
            }
        }
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(start.elapsed())
}

fn run(way: &Way, script: &str, input: &str, answer: &str) -> Result<&'static str> {
    let mut command = match way {
        Way::Plain => return plain(script, input, answer),
        Way::Cold(prepared) => prepared.command("/bin/sh"),
        Way::Pool(pool) => pool.command("/bin/sh"),
    };
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn()?;
    // So short an input fits into the pipe, whether it is read or not; that it is not read is the program's own affair.
    let _ = child.take_stdin().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let Output { outcome, stdout, .. } = child.wait_with_output()?;
    Ok(match outcome.verdict {
        Verdict::Exited(0) if stdout == answer.as_bytes() => "AC",
        Verdict::Exited(0) => "WA",
        Verdict::LimitExceeded(Limit::WallTime | Limit::CpuTime) => "TLE",
        Verdict::LimitExceeded(Limit::Memory) => "MLE",
        _ => "RE",
    })
}

/// Without a sandbox: these submissions are our own.
fn plain(script: &str, input: &str, answer: &str) -> Result<&'static str> {
    use std::process::{Command, Stdio};
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let mut output = String::new();
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_string(&mut output)?;
    }
    Ok(match child.wait()?.code() {
        Some(0) if output == answer => "AC",
        Some(0) => "WA",
        _ => "RE",
    })
}
