//! What a launch costs, as a ratio to `std::process::Command`, from one interleaved run.
//!
//! `cargo bench --bench launch [-- [--rounds N] [--json FILE]]`. Each round runs every row once, in turn, so that the
//! machine's moods hit all rows alike. A time is that from before the spawn until the program has been waited for.
//!
//! The rows `cgroup-*` are what the row `limits` is made of, done by hand: to make the cgroups of version 1 (`v1`) or the one
//! of version 2 (`v2`), to enter them from within, to remove them; and to fork a process that ends at once, which is not in
//! a cgroup of its own (`fork-none`), is forked into it (`fork-into`), or enters it by itself (`fork-enter`). They are left
//! out where no such cgroup can be made.
//!
//! The rows `enter`, `pool` and `recycle` have all isolation on ([`Sandbox::hardened`] with limits of memory and tasks, as far
//! as this host can): a second command in a live container; taking one of a pool that is ready, and running a program in it;
//! and the same with network namespaces that are used again. That the pool gets ready again is not in the time.
//!
//! Then there are launches per second from several threads, and what an idle container takes: the resident sets of the agents,
//! and what the kernel says it needs for itself (slab, stacks, page tables, per-CPU memory), from 100 live ones.
#![allow(unsafe_code)] // clone3(2), which has no safe wrapper

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::cgroups::Cgroups;
use common::host::{self, Host};
use common::launches::{all_namespaces, build_static, isolated, limits, plain, rates, rootfs, sandboxed, timed};
use common::{Options, Record, Result, Row, memory, to_json};
use stockade::{Container, Pool, Sandbox};

/// The rows but for std's, in the order in which they are printed.
fn sandboxes(static_program: &Path) -> Vec<(&'static str, Sandbox)> {
    let new = Sandbox::new;
    vec![
        ("none", new()),
        ("ns-user", new().user_ns()),
        ("ns-pid", new().pid_ns()),
        ("ns-mount", new().mount_ns()),
        ("ns-net", new().net_ns()),
        ("ns-ipc", new().ipc_ns()),
        ("ns-uts", new().uts_ns()),
        ("ns-cgroup", new().cgroup_ns()),
        ("ns-time", new().time_ns()),
        ("ns-all", all_namespaces()),
        ("rootfs", rootfs(static_program)),
        ("limits", limits(static_program)),
    ]
}

/// What is there before its programs are.
struct Warm {
    container: Container,
    pools: [Pool; 2],
}

impl Warm {
    const NAMES: [&str; 3] = ["enter", "pool", "recycle"];

    fn new(sandbox: &Sandbox) -> Result<Self> {
        let pools = [sandbox.pool(2)?, sandbox.clone().recycle_net_ns().pool(2)?];
        Ok(Self { container: sandbox.start()?, pools })
    }

    /// One launch of each.
    fn round(&self, programs: &[&Path]) -> Result<Vec<Duration>> {
        let mut times = vec![];
        for program in programs {
            times.push(timed(self.container.command(program), program)?);
        }
        for pool in &self.pools {
            for program in programs {
                let ready = || if pool.wait_ready(Duration::from_secs(60)) { Ok(()) } else { Err("no pool") };
                ready()?;
                times.push(timed(pool.command(program), program)?);
                // Nor is it to disturb the next row.
                ready()?;
            }
        }
        Ok(times)
    }
}

const THREADS: [usize; 4] = [1, 2, 4, 8];

/// How launches go on from several threads, in turns: the name of each way, how many threads, launches per second.
fn all_rates(sandbox: &Sandbox, rounds: usize) -> Result<Vec<(&'static str, usize, f64)>> {
    let turn = Duration::from_millis(u64::try_from(rounds)?.min(200) * 2);
    let prepared = sandbox.prepare()?;
    let pools = [sandbox.pool(8)?, sandbox.clone().recycle_net_ns().pool(8)?];
    let program = Path::new("/bin/true");
    let plain = |_| plain(program);
    let cold = |_| sandboxed(&prepared, program);
    let [pool, recycle] = pools.each_ref().map(|pool| move |_| timed(pool.command(program), program));
    let mut rows = vec![];
    for threads in THREADS {
        let per_second = rates(&[&plain, &cold, &pool, &recycle], threads, turn);
        for (name, rate) in ["std", "cold", "pool", "recycle"].into_iter().zip(per_second) {
            rows.push((name, threads, rate.map_err(|error| format!("{name}, {threads} threads: {error}"))?));
        }
    }
    Ok(rows)
}

/// What an idle container takes: KiB of the agent's resident set, and of the kernel.
fn idle(sandbox: &Sandbox) -> Result<(f64, f64)> {
    const LIVE: usize = 100;
    let prepared = sandbox.prepare()?;
    // What is torn down late by the kernel is not to count.
    drop(prepared.start()?);
    std::thread::sleep(Duration::from_millis(500));
    let others = memory::descendants(std::process::id())?;
    let before = memory::kernel()?;
    let live = (0..LIVE).map(|_| prepared.start()).collect::<std::result::Result<Vec<_>, _>>()?;
    let after = memory::kernel()?;
    let agents = memory::descendants(std::process::id())?.into_iter().filter(|pid| !others.contains(pid));
    let resident = agents.map(|pid| memory::fields(&format!("/proc/{pid}/status"), &["VmRSS:"]));
    let resident = resident.sum::<std::io::Result<u64>>()?;
    drop(live);
    #[allow(clippy::cast_precision_loss)]
    let each = |kib: u64| kib as f64 / LIVE as f64;
    Ok((each(resident), each(after.saturating_sub(before))))
}

/// A host with so many MiB resident, in a process of its own: one launch for each line that it reads.
fn host_of(mebibytes: usize, program: &str) -> Result<()> {
    let prepared = rootfs(Path::new(program)).prepare()?;
    let answers = File::options().write(true).open("/proc/self/fd/1")?;
    host::serve(mebibytes, std::io::stdin().lock(), answers, |line| {
        sandboxed(&prepared, Path::new(if line == "true" { "/bin/true" } else { "/static" }))
    })
}

fn start_host(mebibytes: usize, program: &Path) -> Result<Host> {
    let mut command = Command::new(std::env::current_exe()?);
    Host::start(command.args(["--host", &mebibytes.to_string()]).arg(program))
}

/// The parts of what the row `limits` does, by hand.
struct Parts(Cgroups);

impl Parts {
    /// Those that this host lets us make.
    fn all() -> Vec<Self> {
        let all = Cgroups::named(&format!("stockade-bench-{}", std::process::id())).map(Self);
        all.into_iter().filter(|parts| !parts.0.directories.is_empty() && parts.work()).collect()
    }

    fn work(&self) -> bool {
        let works = self.0.make().is_ok() && self.enter().is_ok();
        self.0.remove().is_ok() && works
    }

    /// How long a process takes to enter all of them from within. It is one that ends with that.
    fn enter(&self) -> Result<Duration> {
        let doors = self.0.doors()?;
        let (mut reader, writer) = std::io::pipe()?;
        // SAFETY: this process has one thread, and what the new one does allocates nothing and ends it.
        let pid = unsafe { fork(None)? };
        if pid == 0 {
            let start = Instant::now();
            let entered = Cgroups::enter(&doors);
            let time = if entered { u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX) } else { u64::MAX };
            let _ = (&writer).write_all(&time.to_ne_bytes());
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
        let mut bytes = [0; 8];
        reader.read_exact(&mut bytes)?;
        reap(pid)?;
        match u64::from_ne_bytes(bytes) {
            u64::MAX => Err("the cgroup cannot be entered".into()),
            nanoseconds => Ok(Duration::from_nanos(nanoseconds)),
        }
    }

    /// How long a process lives that does nothing: where it is, forked into the cgroup of version 2, or entering it.
    fn fork(&self, way: &str) -> Result<Duration> {
        let doors = self.0.doors()?;
        let into = File::open(self.0.directories.first().ok_or("no cgroup")?)?;
        let start = Instant::now();
        // SAFETY: as above.
        let pid = unsafe { fork(Some(&into).filter(|_| way == "into"))? };
        if pid == 0 {
            if way == "enter" {
                Cgroups::enter(&doors);
            }
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
        reap(pid)?;
        Ok(start.elapsed())
    }

    /// One round: the name of each row and its time.
    fn round(&self) -> Result<Vec<(String, Duration)>> {
        let timed = |action: &dyn Fn() -> std::io::Result<()>| {
            let start = Instant::now();
            action().map(|()| start.elapsed())
        };
        // What was in it has just ended, or been moved: what the kernel does about that later is no part of what comes next,
        // and what is moved soon after another is moved for less.
        let rest = || std::thread::sleep(Duration::from_millis(30));
        let mut times = vec![("make", timed(&|| self.0.make())?)];
        if self.0.version == "v2" {
            times.extend([("fork-none", self.fork("none")?), ("fork-into", self.fork("into")?)]);
            rest();
            times.push(("fork-enter", self.fork("enter")?));
            rest();
        }
        times.push(("enter", self.enter()?));
        rest();
        times.push(("remove", timed(&|| self.0.remove())?));
        Ok(times.into_iter().map(|(what, time)| (format!("cgroup-{what}/{}", self.0.version), time)).collect())
    }
}

/// fork(2), into a cgroup of version 2 if one is given. 0 is in the new process.
///
/// # Safety
///
/// The new process has the memory of this one, in the state in which other threads had it.
unsafe fn fork(cgroup: Option<&File>) -> Result<libc::pid_t> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // struct clone_args: flags first, the signal fifth, the cgroup last.
    let mut arguments = [0u64; 11];
    arguments[4] = u64::try_from(libc::SIGCHLD)?;
    if let Some(cgroup) = cgroup {
        arguments[0] = CLONE_INTO_CGROUP;
        arguments[10] = u64::try_from(cgroup.as_raw_fd())?;
    }
    // SAFETY: without CLONE_VM it is a fork; the arguments are as long as is said.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    if pid < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(libc::pid_t::try_from(pid)?) }
}

fn reap(pid: libc::pid_t) -> Result<()> {
    // SAFETY: a null status is allowed.
    let reaped = unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    if reaped == pid { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, mebibytes, program] = arguments.as_slice()
        && flag == "--host"
    {
        return host_of(mebibytes.parse()?, program);
    }
    let options = Options::read(200, &["--json"])?;
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let program = build_static(directory.path())?;
    let programs = [("true", Path::new("/bin/true").to_owned()), ("static", program.clone())];

    let sandboxes = sandboxes(&program);
    let prepared = sandboxes.iter().map(|(name, sandbox)| Ok((*name, sandbox.prepare()?)));
    let prepared = prepared.collect::<Result<Vec<_>>>()?;
    let sizes = [0, 1024, 4096];
    let mut hosts = sizes.iter().map(|size| start_host(*size, &program)).collect::<Result<Vec<_>>>()?;

    let mut rows: Vec<Row> = vec![];
    let mut names: Vec<String> = vec!["std".into()];
    names.extend(prepared.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(sizes.iter().map(|size| format!("rss-{size}")));
    names.extend(Warm::NAMES.map(str::to_owned));
    for name in &names {
        rows.extend(programs.iter().map(|(kind, _)| Row::new(format!("{name}/{kind}"))));
    }
    let sandbox = isolated(&program);
    let warm = Warm::new(&sandbox)?;
    let parts = Parts::all();
    for round in 0..options.rounds + 5 {
        let mut times = vec![];
        // The first launch after all others finds nothing in the caches, and is not to be std's.
        plain(Path::new("/bin/true"))?;
        for (_, path) in &programs {
            times.push(plain(path)?);
        }
        for (name, prepared) in &prepared {
            for (kind, path) in &programs {
                let inside =
                    if matches!(*name, "rootfs" | "limits") && *kind == "static" { Path::new("/static") } else { path };
                times.push(sandboxed(prepared, inside)?);
            }
        }
        for host in &mut hosts {
            for (kind, _) in &programs {
                times.push(host.launch(kind)?);
            }
        }
        times.extend(warm.round(&[Path::new("/bin/true"), Path::new("/static")])?);
        for parts in &parts {
            for (name, time) in parts.round()? {
                if round == 0 {
                    rows.push(Row::new(name));
                }
                times.push(time);
            }
        }
        // The first rounds warm the caches.
        if round >= 5 {
            for (row, time) in rows.iter_mut().zip(times) {
                row.push(time);
            }
        }
    }
    drop(hosts);
    drop(warm);
    let (rates, idle) = (all_rates(&sandbox, options.rounds)?, idle(&sandbox)?);
    report(&rows, &rates, idle, &options)
}

fn report(rows: &[Row], rates: &[(&str, usize, f64)], idle: (f64, f64), options: &Options) -> Result<()> {
    let median_of = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, Row::median);
    println!("{:<20} {:>10} {:>10} {:>10} {:>8}", "row", "median us", "min us", "p99 us", "x std");
    let mut records = vec![];
    for row in rows {
        let kind = row.name.rsplit('/').next().unwrap_or_default();
        // Parts of a launch, to a whole one.
        let kind = if matches!(kind, "v1" | "v2") { "true" } else { kind };
        let (median, min, p99) = (row.median(), row.quantile(0.0), row.quantile(0.99));
        let ratio = median / median_of(&format!("std/{kind}"));
        println!("{:<20} {median:>10.0} {min:>10.0} {p99:>10.0} {ratio:>8.2}", row.name);
        records.push(row.record().number("ratio_std", ratio, 3));
    }
    let plain = |threads: usize| {
        rates.iter().find(|(name, of, _)| *name == "std" && *of == threads).map_or(f64::NAN, |row| row.2)
    };
    println!("{:<20} {:>10} {:>30}", "threads", "per second", "x std");
    for (name, threads, rate) in rates {
        let ratio = rate / plain(*threads);
        let name = format!("rate-{threads}/{name}");
        println!("{name:<20} {rate:>10.0} {ratio:>30.2}");
        records.push(Record::new(&name).number("per_second", *rate, 1).number("ratio_std", ratio, 3));
    }
    let (resident, kernel) = idle;
    println!("an idle container: {resident:.0} KiB of its agent, {kernel:.0} KiB of the kernel");
    records.push(Record::new("idle").number("resident_kib", resident, 1).number("kernel_kib", kernel, 1));
    let flat = median_of("rss-4096/true") / median_of("rss-0/true");
    println!("rss-4096 / rss-0: {flat:.2} (goal: at most 1.10)");
    println!("rootfs/true / std: {:.2} (goal: at most 3.00)", median_of("rootfs/true") / median_of("std/true"));
    for (name, goal) in [("enter/true", 1.25), ("pool/true", 1.25), ("pool/static", 2.0)] {
        let plain = median_of(&format!("std/{}", name.rsplit('/').next().unwrap_or_default()));
        println!("{name} / std: {:.2} (goal: at most {goal:.2})", median_of(name) / plain);
    }
    let recycling =
        rates.iter().find(|(name, threads, _)| *name == "recycle" && *threads == 4).map_or(f64::NAN, |row| row.2);
    println!("launches per second, recycling, 4 threads / std: {:.2} (goal: at least 0.60)", recycling / plain(4));
    if let Some(file) = options.value("--json") {
        std::fs::write(file, to_json(&records))?;
    }
    Ok(())
}
