//! Side by side with what would be used instead, in one run: launches, launches per second, memory, many at once.
//!
//! `cargo bench --bench peers [-- OPTIONS]`, as root or as a user:
//!
//! - `--rounds N` (200): in each, every row is run once, in an order that changes from round to round;
//! - `--only ROW,…`: the rows whose names have one of these in them;
//! - `--repeat ROW`: nothing but launches of /bin/true in that row, as many as there are rounds: for a profiler to look at;
//! - `--rates MS` (400): how long each way has for each of four turns of as many launches as it can; 0 for none;
//! - `--idle N` (50): how many sleep at once for the figures of memory; `--live N` (500): how many are live at once; 0 for
//!   neither;
//! - `--json FILE`: all figures, and next to it, as FILE with `.svg`, a chart of the launches;
//! - `--table FILE`: prints such a file as the tables of the README, and `--chart FILE` draws its chart again. Nothing is
//!   measured then.
//!
//! What isolation each row has is looked at from outside, and what it lacks of its group's is printed.
//!
//! A row is named by its isolation, who provides it, and the program. All rows of one isolation do the same, as far as the
//! peer can; what differs is in `isolation`. What is not on this machine is named as absent, with the reason.
//!
//! - `none`: std's `Command`.
//! - `ns`: seven namespaces (user, PID, mount, network, IPC, UTS, cgroup).
//! - `root`: and a pivoted root, with five read-only binds, /proc and a tmpfs.
//! - `limits`: and memory, tasks and CPU limited by cgroups.
//! - `hardened`: all that `Sandbox::hardened` has, with memory and tasks limited.
//! - `rss-N`: as `root`, from a host process that has touched N MiB (`std`: no isolation; the crate `unshare`: as `ns`).
//!
//! The floor is the same set of system calls with nothing around it (`floor.rs`). A peer's program is started in the way that
//! costs least (`raw.rs`). All have the null device for their streams, and a time is that from before the start until the end
//! has been waited for, cgroups made and removed where the row has them. A ratio is that of medians, with a 95 % confidence
//! interval by bootstrap over rounds.
//!
//! Packages of Debian's: bubblewrap, util-linux, firejail, crun, runc, lxc; libseccomp-dev for the crate `hakoniwa`. The crates
//! are linked into a program of their own, in `benches/crates`.
#![allow(unsafe_code)] // clone3(2) and what its child does

#[path = "../common/mod.rs"]
mod common;

mod chart;
mod crates;
mod crowd;
#[path = "../common/error.rs"]
mod error;
mod filter;
mod floor;
mod raw;
mod report;
mod rows;
#[path = "../../src/seccomp/mod.rs"]
#[allow(dead_code, unused_imports, missing_docs)]
mod seccomp;
mod seen;
mod tools;
mod ways;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use common::cgroups::{Cgroups, own, unified};
use common::host;
use common::launches::{build_static, plain, rootfs, sandboxed};
use common::{Dice, Options, Record, Result, Row, from_json, to_json};
use rows::{Entry, State};
use ways::{Places, Target, Way};

const WARM_UP: usize = 3;

/// The cgroups in which limits can be set here, of the first slot.
static CGROUPS: OnceLock<Option<Cgroups>> = OnceLock::new();

fn cgroups() -> Option<&'static Cgroups> {
    CGROUPS.get_or_init(|| Cgroups::limited(&ways::unique(0))).as_ref()
}

fn version() -> &'static str {
    cgroups().map_or("none", |cgroups| cgroups.version)
}

/// The soft limit of descriptors that this process was started with. Its children have it, however high ours is.
fn soft_limit() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: there is room for a limit.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
        limit.rlim_cur
    })
}

/// Hundreds of sandboxes at once need more than the usual.
fn raise_limit() {
    soft_limit();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: there is room for a limit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, mebibytes, program] = arguments.as_slice()
        && flag == "--host"
    {
        return host_of(mebibytes.parse()?, Path::new(program));
    }
    let options =
        Options::read(200, &["--only", "--repeat", "--rates", "--idle", "--live", "--json", "--table", "--chart"])?;
    if let Some(file) = options.value("--table") {
        return report::tables(&from_json(&fs::read_to_string(file)?)?);
    }
    if let Some(file) = options.value("--chart") {
        return chart::write(file, &from_json(&fs::read_to_string(file)?)?);
    }
    if let Some(row) = options.value("--repeat") {
        return repeat(row, options.rounds);
    }
    let records = measure(&options)?;
    report::print(&records);
    if let Some(file) = options.value("--json") {
        fs::write(file, to_json(&records))?;
        chart::write(file, &records)?;
    }
    Ok(())
}

/// A host with so many MiB resident, in a process of its own: one launch for each line that it reads.
fn host_of(mebibytes: usize, program: &Path) -> Result<()> {
    let prepared = rootfs(program).prepare()?;
    let answers = File::options().write(true).open("/proc/self/fd/1")?;
    host::serve(mebibytes, std::io::stdin().lock(), answers, |line| {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["run", "std", program] => plain(Path::new(program)),
            ["run", "stockade", program] => sandboxed(&prepared, Path::new(program)),
            _ => Err(format!("what is: {line}").into()),
        }
    })
}

fn make_places(directory: &Path) -> Result<Places> {
    fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    Ok(Places { program: build_static(directory)?, directory: directory.to_owned(), null })
}

/// One row, again and again.
fn repeat(name: &str, rounds: usize) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let places = make_places(directory.path())?;
    let _leftovers = Leftovers::before(directory.path());
    let entries = rows::all(&places, &|row| row == name)?;
    let entry = entries.first().ok_or("no row has such a name")?;
    let way = entry.way().ok_or_else(|| entry.absent().to_owned())?;
    let mut row = Row::new(name);
    for _ in 0..rounds {
        way.settle()?;
        row.push(way.run(Target::Dynamic, 0)?);
    }
    println!("{name}: {rounds} launches of /bin/true, median {:.0} us", row.median());
    Ok(())
}

fn measure(options: &Options) -> Result<Vec<Record>> {
    let directory = tempfile::tempdir()?;
    let places = make_places(directory.path())?;
    let _leftovers = Leftovers::before(directory.path());
    let only: Vec<_> = options.value("--only").map(|rows| rows.split(',').collect()).unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part));
    let mut entries = rows::all(&places, &wanted)?;
    let times = time(&mut entries, options.rounds)?;
    let mut records = report::machine(options.rounds);
    records.extend(report::launches(&entries, &times));
    for entry in &entries {
        match seen::look(entry) {
            Some(Err(error)) if entry.ours => return Err(format!("{}: {error}", entry.name).into()),
            Some(seen) => records.push(seen.unwrap_or_else(|error| {
                let record = entry.record(&format!("seen/{}", entry.name));
                record.text("lacking", format!("it could not be looked at: {error}"))
            })),
            None => {}
        }
    }
    raise_limit();
    records.extend(rate(&entries, options.number("--rates", options.rounds.min(200) * 2)?)?);
    let idle = |way: &dyn Way, count: usize, record: Record| crowd::idle(way, count, record);
    let live = |way: &dyn Way, count: usize, record: Record| crowd::live(way, count, record);
    records.extend(crowds("idle", &entries, options.number("--idle", 50)?, idle));
    records.extend(crowds("live", &entries, options.number("--live", 500)?, live));
    records.extend(report::goals(&entries, &times, &records));
    Ok(records)
}

/// All rounds: for each entry, the times of both programs. An entry that fails is one that is absent, unless it is ours.
fn time(entries: &mut [Entry<'_>], rounds: usize) -> Result<Vec<[Row; 2]>> {
    const TARGETS: [Target; 2] = [Target::Dynamic, Target::Static];
    let mut rows: Vec<_> = entries
        .iter()
        .map(|entry| ["true", "static"].map(|program| Row::new(format!("{}/{program}", entry.name))))
        .collect();
    let mut order: Vec<_> = (0..entries.len()).flat_map(|entry| [(entry, 0), (entry, 1)]).collect();
    let mut dice = Dice::new();
    for round in 0..rounds + WARM_UP {
        dice.shuffle(&mut order);
        for (index, program) in &order {
            let (Some(entry), Some(target)) = (entries.get_mut(*index), TARGETS.get(*program)) else { continue };
            let State::Here(way) = &entry.state else { continue };
            if *target == Target::Static && entry.dynamic_only {
                continue;
            }
            way.settle()?;
            let ran = way.run(*target, 0);
            // Nor is what it does afterwards to be in the next one's time.
            way.settle()?;
            match ran {
                // The first rounds warm the caches.
                Ok(time) if round >= WARM_UP => {
                    if let Some(row) = rows.get_mut(*index).and_then(|rows| rows.get_mut(*program)) {
                        row.push(time);
                    }
                }
                Ok(_) => {}
                Err(error) if entry.ours => return Err(format!("{}: {error}", entry.name).into()),
                Err(error) => entry.state = State::Absent(format!("it failed: {error}")),
            }
        }
    }
    Ok(rows)
}

/// Launches per second with one, two and four threads, in turns. What fails is named as that, unless it is ours.
fn rate(entries: &[Entry<'_>], milliseconds: usize) -> Result<Vec<Record>> {
    let turn = Duration::from_millis(u64::try_from(milliseconds)?);
    if turn.is_zero() {
        return Ok(vec![]);
    }
    let rated: Vec<_> = entries.iter().filter(|entry| entry.rated && entry.way().is_some()).collect();
    let ways: Vec<_> = rated.iter().filter_map(|entry| entry.way()).collect();
    let mut records = vec![];
    for threads in [1, 2, 4] {
        let rates = crowd::per_second(&ways, threads, turn);
        let plain = rated.iter().zip(&rates).find(|(entry, _)| entry.name == "none/std");
        let plain = plain.and_then(|(_, rate)| rate.clone().ok()).unwrap_or(f64::NAN);
        for (entry, rate) in rated.iter().zip(rates) {
            let record = entry.record(&format!("rate-{threads}/{}", entry.name));
            records.push(match rate {
                Ok(rate) => record.number("per_second", rate, 1).number("ratio_std", rate / plain, 3),
                Err(error) if entry.ours => return Err(format!("{}, {threads} threads: {error}", entry.name).into()),
                Err(error) => record.text("absent", format!("it failed: {error}")),
            });
        }
    }
    Ok(records)
}

/// One figure of each entry that can sleep; what fails is named as that.
fn crowds(
    kind: &str,
    entries: &[Entry<'_>],
    count: usize,
    measure: impl Fn(&dyn Way, usize, Record) -> Result<Record>,
) -> Vec<Record> {
    let sleepers = entries.iter().filter(|entry| entry.sleeps && count > 0);
    let one = |entry: &Entry<'_>| {
        let record = entry.record(&format!("{kind}/{}", entry.name));
        match entry.way() {
            Some(way) => {
                measure(way, count, record.clone()).unwrap_or_else(|error| record.text("absent", error.to_string()))
            }
            None => record.text("absent", entry.absent()),
        }
    };
    sleepers.map(one).collect()
}

/// What the peers leave on the machine is removed in the end, however that comes; what there was before stays.
struct Leftovers {
    /// Directories that were not there.
    missing: Vec<PathBuf>,
    /// Of lxc's locks.
    locks: PathBuf,
}

impl Leftovers {
    fn before(directory: &Path) -> Self {
        let mut missing = vec![];
        let own = own();
        let deepest = own.iter().map(|(_, path)| path.as_str()).max_by_key(|path| path.len()).unwrap_or("/");
        for hierarchy in hierarchies() {
            // crun has the same path in all hierarchies, and leaves what it made above its own.
            let above = Path::new(deepest).ancestors().map(|path| path.strip_prefix("/").unwrap_or(path));
            missing.extend(above.map(|path| hierarchy.join(path)));
        }
        missing.push("/run/lxc".into());
        missing.retain(|path| !path.exists());
        let locks = Path::new("/run/lxc/lock").join(directory.strip_prefix("/").unwrap_or(directory));
        Self { missing, locks }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let prefix = format!("stockade-peers-{}-", std::process::id());
        let own = own();
        let places = hierarchies().into_iter().flat_map(|hierarchy| {
            own.iter().map(move |(_, path)| hierarchy.join(path.trim_start_matches('/'))).collect::<Vec<_>>()
        });
        let made = cgroups().into_iter().flat_map(|cgroups| &cgroups.directories);
        let places = places.chain(made.filter_map(|directory| Some(directory.parent()?.to_owned())));
        for place in places {
            let all = fs::read_dir(place).into_iter().flatten().flatten();
            let ours = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
            ours.for_each(|entry| remove_cgroups(&entry.path()));
        }
        for path in &self.missing {
            if path.starts_with("/sys") {
                let _ = fs::remove_dir(path);
            } else if path.exists() {
                let _ = fs::remove_dir_all(path);
            }
        }
        let _ = fs::remove_dir_all(&self.locks);
    }
}

fn hierarchies() -> Vec<PathBuf> {
    if unified().join("cgroup.procs").exists() && !unified().ends_with("unified") {
        return vec![unified().to_owned()];
    }
    let directories = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    directories.filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// From the innermost.
fn remove_cgroups(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(top);
}
