//! A mixed load for a while, from several threads, and then a look at what is left: `soak --minutes 2` (fractions too).
//! Programs that succeed, fail, fork without end, want too much memory, time or output, call what they may not, are killed,
//! or are dropped at odd moments; in sandboxes of their own, in containers, from a pool. What this process had before and
//! has afterwards is printed as a table, and the exit code is 1 if something has leaked.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stockade::{Container, Error, Layer, Pool, Prepared, Rootfs, Sandbox, Signal, Stdio, Support, Verdict};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let minutes = match arguments.get(1..).unwrap_or_default() {
        [option, minutes] if option == "--minutes" => minutes.parse().ok(),
        [] => Some(1.0),
        _ => None,
    };
    let time = minutes.and_then(|minutes: f64| Duration::try_from_secs_f64(minutes * 60.0).ok());
    let Some(time) = time else {
        eprintln!("usage: soak [--minutes M]");
        return ExitCode::from(2);
    };
    // In a process of its own, so that its temporary files are its own too.
    if std::env::var_os("STOCKADE_SOAK").is_none() {
        return again(&arguments);
    }
    match soak(time) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn again(arguments: &[String]) -> ExitCode {
    let run = || -> std::io::Result<ExitCode> {
        let directory = tempfile::tempdir()?;
        let status = std::process::Command::new(std::env::current_exe()?)
            .args(arguments.get(1..).unwrap_or_default())
            .env("STOCKADE_SOAK", "1")
            .env("TMPDIR", directory.path())
            .status()?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    };
    run().unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn soak(time: Duration) -> Result<bool, Error> {
    // What is orphaned comes here, and is seen.
    let _ = rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1));
    let policies = Policies::new()?;
    // Caches, arenas and the like are filled first.
    let warm_up = load(&policies, (time / 5).min(Duration::from_secs(20)))?;
    let before = settle(None);
    let tally = load(&policies, time)?;
    let after = settle(Some(&before));
    println!("{} runs in {time:?}, after {} to warm up", tally.total(), warm_up.total());
    for (name, count) in ACTIONS.iter().map(|(name, _)| name).zip(&tally.counts) {
        println!("  {:>7}  {name}", count.load(Ordering::Relaxed));
    }
    let unexpected = tally.unexpected.load(Ordering::Relaxed);
    println!("unexpected outcomes: {unexpected}");
    Ok(compare(&before, &after) && unexpected == 0)
}

/// What the load runs in.
struct Policies {
    plain: Prepared,
    hardened: Prepared,
    /// With a short time.
    hasty: Prepared,
    /// With little memory, where that can be limited.
    small: Option<Prepared>,
    /// With few tasks.
    crowded: Prepared,
    /// With little to say.
    terse: Prepared,
    freezer: bool,
}

impl Policies {
    fn new() -> Result<Self, Error> {
        let support = Support::probe();
        let has = |layer| support.missing(layer).is_none();
        let system = || Sandbox::new().rootfs(Rootfs::system()).pid_ns().wall_time_limit(Duration::from_secs(30));
        let mut plain = system();
        if has(Layer::Freezer) {
            plain = plain.freezer();
        }
        let mut crowded = Sandbox::hardened().wall_time_limit(Duration::from_millis(300));
        if has(Layer::Pids) {
            crowded = crowded.pids_limit(24);
        }
        Ok(Self {
            plain: plain.prepare()?,
            hardened: Sandbox::hardened().wall_time_limit(Duration::from_secs(30)).prepare()?,
            hasty: system().wall_time_limit(Duration::from_millis(40)).prepare()?,
            small: has(Layer::Memory).then(|| system().memory_limit(16 << 20).prepare()).transpose()?,
            crowded: crowded.prepare()?,
            terse: system().output_limit(10_000).prepare()?,
            freezer: has(Layer::Freezer),
        })
    }
}

#[derive(Default)]
struct Tally {
    counts: [AtomicU64; ACTIONS.len()],
    unexpected: AtomicU64,
}

impl Tally {
    fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// What the threads of one load share.
struct Shared<'a> {
    policies: &'a Policies,
    container: Container,
    pool: Pool,
}

fn load(policies: &Policies, time: Duration) -> Result<Tally, Error> {
    let shared = Shared { policies, container: policies.plain.start()?, pool: policies.hardened.pool(3)? };
    let tally = Tally::default();
    let deadline = Instant::now() + time;
    std::thread::scope(|scope| {
        for seed in 0..6u64 {
            let (shared, tally) = (&shared, &tally);
            scope.spawn(move || {
                let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                while Instant::now() < deadline {
                    // xorshift: the same order in each run.
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let index = usize::try_from(random % ACTIONS.len() as u64).unwrap_or(0);
                    let Some((name, action)) = ACTIONS.get(index) else { continue };
                    if let Some(count) = tally.counts.get(index) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    match action(shared) {
                        Ok(true) => {}
                        Ok(false) => {
                            tally.unexpected.fetch_add(1, Ordering::Relaxed);
                            println!("{name}: not what was expected");
                        }
                        Err(error) => {
                            tally.unexpected.fetch_add(1, Ordering::Relaxed);
                            println!("{name}: {error}");
                        }
                    }
                }
            });
        }
    });
    Ok(tally)
}

/// Does one thing; whether it ended as it should.
type Action = fn(&Shared<'_>) -> Result<bool, Error>;

const ACTIONS: [(&str, Action); 18] = [
    ("cold", |shared| Ok(shared.policies.plain.command("true").status()?.success())),
    ("cold, hardened", |shared| Ok(shared.policies.hardened.command("true").status()?.success())),
    ("in a container", |shared| {
        let output = shared.container.command("sh").args(["-c", "echo a; exit 3"]).output()?;
        Ok(output.outcome.verdict == Verdict::Exited(3) && output.stdout == b"a\n")
    }),
    ("from a pool", |shared| Ok(shared.pool.command("true").status()?.success())),
    ("from a pool, killed", |shared| {
        let child = shared.pool.command("sleep").arg("1000").spawn()?;
        child.kill()?;
        Ok(matches!(child.wait()?.verdict, Verdict::Killed(_)))
    }),
    ("from a pool, dropped", |shared| shared.pool.command("sleep").arg("1000").spawn().map(|_| true)),
    ("out of memory", |shared| {
        let Some(small) = &shared.policies.small else { return Ok(true) };
        let mut command = small.command("sh");
        command.args(["-c", "head -c 100000000 /dev/zero | tail"]).stderr(Stdio::null());
        Ok(!command.output()?.outcome.success())
    }),
    ("out of time", |shared| {
        let outcome = shared.policies.hasty.command("sh").args(["-c", "sleep 1000 & sleep 1000"]).status()?;
        Ok(matches!(outcome.verdict, Verdict::LimitExceeded(_)))
    }),
    ("fork bomb", |shared| {
        let mut command = shared.policies.crowded.command("sh");
        command.args(["-c", "f() { f | f & }; f; sleep 1000"]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(!command.status()?.success())
    }),
    ("killed by another thread", |shared| {
        let child = Arc::new(shared.policies.plain.command("sleep").arg("1000").spawn()?);
        let other = Arc::clone(&child);
        let killer = std::thread::spawn(move || other.kill());
        let outcome = child.wait()?;
        let _ = killer.join();
        Ok(matches!(outcome.verdict, Verdict::Killed(_)))
    }),
    ("dropped at once", |shared| shared.policies.plain.command("sleep").arg("1000").spawn().map(|_| true)),
    ("killed by a signal, and dropped", |shared| {
        let child = shared.policies.hardened.command("sleep").arg("1000").spawn()?;
        Ok(child.signal(Signal::KILL).is_ok())
    }),
    ("dropped in a container", |shared| {
        shared.container.command("sh").args(["-c", "sleep 1000 & sleep 1000"]).spawn().map(|_| true)
    }),
    ("a container that is dropped before its program", |shared| {
        let container = shared.policies.plain.start()?;
        let events = container.events()?;
        let child = container.command("sleep").arg("1000").spawn()?;
        drop(container);
        let ended = child.wait().is_ok();
        drop(events);
        Ok(ended)
    }),
    ("denied calls", |shared| {
        let outcome =
            shared.policies.hardened.command("unshare").args(["-r", "true"]).stderr(Stdio::null()).status()?;
        Ok(!outcome.success())
    }),
    ("a flood of output", |shared| {
        let output = shared.policies.terse.command("yes").output()?;
        Ok(matches!(output.outcome.verdict, Verdict::LimitExceeded(_)) && output.stdout.len() <= 10_000)
    }),
    ("no such program", |shared| {
        let one = shared.policies.hardened.command("/no/such/program").spawn();
        let other = shared.container.command("/no/such/program").spawn();
        let third = shared.pool.command("/no/such/program").spawn();
        Ok([one, other, third].iter().all(|result| matches!(result, Err(Error::Exec { .. }))))
    }),
    ("stopped, frozen, with a terminal", |shared| {
        let container = shared.policies.plain.start()?;
        let child = container.command("cat").stdin(Stdio::pty()).stdout(Stdio::pty()).stderr(Stdio::pty()).spawn()?;
        if shared.policies.freezer {
            container.freeze()?;
            container.thaw()?;
        }
        container.stop(Duration::from_millis(100))?;
        Ok(!child.wait()?.success())
    }),
];

/// What a process could leak. Descendants are all there are: orphans come to this process.
#[derive(Debug, Clone, Default, PartialEq)]
struct Belongings {
    descriptors: u64,
    threads: u64,
    processes: u64,
    namespaces: u64,
    mounts: u64,
    cgroups: u64,
    files: u64,
    resident: u64,
    slab: u64,
}

impl Belongings {
    fn now() -> Self {
        let count = |path: &Path| fs::read_dir(path).map_or(0, |entries| entries.count() as u64);
        let descendants = descendants();
        let mut namespaces = BTreeSet::new();
        for pid in &descendants {
            for entry in fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten() {
                namespaces.extend(fs::read_link(entry.path()).ok());
            }
        }
        // Held open, without a process in it.
        for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
            namespaces
                .extend(fs::read_link(entry.path()).ok().filter(|link| link.to_string_lossy().contains(":[4026")));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count() as u64;
        Self {
            descriptors: count(Path::new("/proc/self/fd")),
            threads: count(Path::new("/proc/self/task")),
            processes: descendants.len() as u64,
            namespaces: namespaces.len() as u64,
            mounts,
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), &format!("-{}-", std::process::id()), 6),
            files: count(&std::env::temp_dir()),
            resident: kilobytes("/proc/self/status", "VmRSS:"),
            slab: kilobytes("/proc/meminfo", "SUnreclaim:") + kilobytes("/proc/meminfo", "KernelStack:"),
        }
    }

    /// What must be exactly as before.
    fn exact(&self) -> [(&'static str, u64); 7] {
        [
            ("descriptors", self.descriptors),
            ("threads", self.threads),
            ("processes", self.processes),
            ("namespaces", self.namespaces),
            ("mounts", self.mounts),
            ("cgroups", self.cgroups),
            ("temporary files", self.files),
        ]
    }
}

fn descendants() -> BTreeSet<u32> {
    let mut all = vec![];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        all.extend(parent.map(|parent| (pid, parent)));
    }
    let mut found = BTreeSet::new();
    let mut next = vec![std::process::id()];
    while let Some(parent) = next.pop() {
        for (pid, _) in all.iter().filter(|(_, of)| *of == parent) {
            if found.insert(*pid) {
                next.push(*pid);
            }
        }
    }
    found
}

fn cgroups(directory: &Path, owner: &str, depth: u32) -> u64 {
    let mut found = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let ours = entry.file_name().to_string_lossy().contains(owner);
            found += u64::from(ours) + if depth > 0 { cgroups(&entry.path(), owner, depth - 1) } else { 0 };
        }
    }
    found
}

fn kilobytes(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// More of it than this is a leak: of the host's memory, and of the kernel's, which is the whole machine's.
const RESIDENT: u64 = 8 << 10;
const SLAB: u64 = 64 << 10;

/// Waits until all is as it was, or until it does not change any more; the kernel takes its time to let go of namespaces.
fn settle(wanted: Option<&Belongings>) -> Belongings {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = Belongings::now();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = Belongings::now();
        let settled = match wanted {
            Some(wanted) => wanted.exact() == now.exact() && now.slab <= wanted.slab + SLAB / 2,
            None => last == now,
        };
        if settled || Instant::now() > deadline {
            return now;
        }
        last = now;
    }
}

fn compare(before: &Belongings, after: &Belongings) -> bool {
    let mut clean = true;
    println!("{:<22}{:>10}{:>10}", "", "before", "after");
    for ((name, before), (_, after)) in before.exact().iter().zip(after.exact()) {
        let leak = *before != after;
        clean &= !leak;
        println!("{name:<22}{before:>10}{after:>10}{}", if leak { "  LEAK" } else { "" });
    }
    let sizes = [
        ("resident (KiB)", before.resident, after.resident, RESIDENT),
        ("kernel memory (KiB)", before.slab, after.slab, SLAB),
    ];
    for (name, before, after, most) in sizes {
        let leak = after > before + most;
        clean &= !leak;
        println!("{name:<22}{before:>10}{after:>10}{}", if leak { "  LEAK" } else { "" });
    }
    clean
}
