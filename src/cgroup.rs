//! Limits and accounts of a whole tree of processes (cgroups(7)), on version 1, hybrid and version 2 hosts.
//!
//! The program and what comes of it are in a cgroup of their own in each hierarchy that a limit needs; the stage and the
//! agent are not. The host makes it, opens it, and removes it; the program's process enters it through the host's open
//! files, before it gives anything up.

mod bpf;
mod devices;
mod events;
mod limits;
mod live;
pub(crate) mod locate;
mod sweep;
mod v1;
mod v2;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;

pub use devices::{DeviceAccess, DeviceKind, DeviceRule, DeviceRules};
pub use events::{Event, EventKind, Events};
pub use limits::{CgroupParent, IoLimit};
pub use live::LiveLimits;
pub use sweep::{delegate_self, sweep, sweep_below};

pub(crate) use limits::{Compiled, Limits, lesser};

use events::Counts;
use limits::{Controller, Place, Setting};

/// A sandbox's cgroup, in each hierarchy. It is removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directories: Vec<Directory>,
    /// Version 1: readable when memory has run out.
    oom: Option<OwnedFd>,
    /// Its CPU time is limited, so that the agent must read the account.
    cpu_time: bool,
    /// Files of accounts that are open already: of which directory, and their names.
    open: Vec<(usize, &'static str, File)>,
    /// Version 2, of a program in a container: where the forks are counted that the container's own limit refused, whosever
    /// they were, and how many there had been.
    above: Option<(PathBuf, u64)>,
    /// One at a time stops what is in it, or lets it go on.
    freezing: Arc<Mutex<()>>,
    /// How often what had happened when it was removed, for those who still want to know.
    last: Arc<OnceLock<Counts>>,
}

/// It, in one hierarchy.
#[derive(Debug, Clone)]
struct Directory {
    path: PathBuf,
    v2: bool,
    controllers: Vec<Controller>,
    /// It is another's, which removes it: that of a container, for one of its programs.
    shared: bool,
}

impl Directory {
    fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    fn accounts(&self, read: &dyn Fn(&'static str) -> Option<String>, accounts: &mut Accounts) {
        // What another's counts is not this one's.
        if self.shared {
            return;
        }
        let read_all = if self.v2 { v2::accounts } else { v1::accounts };
        read_all(read, &self.controllers, accounts);
    }
}

/// What the accounts say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub(crate) cpu: Option<Duration>,
    pub(crate) memory_current: Option<u64>,
    pub(crate) memory_peak: Option<u64>,
    pub(crate) swap_peak: Option<u64>,
    pub(crate) pids_peak: Option<u64>,
    pub(crate) pids_refused: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
    pub(crate) throttled: Option<Duration>,
    pub(crate) io_read_bytes: Option<u64>,
    pub(crate) io_write_bytes: Option<u64>,
    pub(crate) pressure: Option<Pressure>,
}

/// How long something waited for a resource (`memory.pressure`, `cpu.pressure`, `io.pressure`): the `some` totals.
///
/// ```
/// # use std::time::Duration;
/// # use stockade::{Layers, Sandbox};
/// let usage = Sandbox::new().freezer().best_effort(Layers::FREEZER).command("true").status()?.usage;
/// match usage.pressure {
///     Some(waited) => assert!(waited.cpu < Duration::from_secs(10)),
///     None => println!("no cgroup of version 2"),
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pressure {
    /// For the CPU.
    pub cpu: Duration,
    /// For memory.
    pub memory: Duration,
    /// For block devices.
    pub io: Duration,
}

/// What the stage is handed of a cgroup.
pub(crate) struct Handles {
    /// Those of version 1, to be entered by writing "0" to them.
    pub(crate) enter: Vec<File>,
    /// That of version 2, to be entered by clone3(2).
    pub(crate) into: Option<File>,
    /// The same, to be entered by writing "0" where that is refused. The kernel lets everybody wait for that.
    pub(crate) procs: Option<File>,
    /// The account of CPU time.
    pub(crate) cpu: Option<File>,
    /// "1" written here ends everything in it.
    pub(crate) kill: Option<File>,
    /// Version 1: what is in it is stopped and let go by writing here, to be ended meanwhile: `freezer.state`.
    pub(crate) freezer: Option<File>,
    /// The processes that are in that one: `cgroup.procs`.
    pub(crate) members: Option<File>,
    /// Version 1: `memory.oom_control`, which counts the processes that were ended for want of memory.
    pub(crate) oom_count: Option<File>,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Cgroup { path: path.to_owned(), source }
}

/// Writes to a file that is there: none is made, of which cgroup file systems and others say different things.
fn write(file: &Path, value: impl AsRef<[u8]>) -> io::Result<()> {
    File::options().write(true).open(file)?.write_all(value.as_ref())
}

fn write_all<'a>(path: &Path, settings: impl Iterator<Item = &'a Setting>) -> Result<(), Error> {
    for setting in settings {
        let file = path.join(&setting.file);
        match write(&file, &setting.value) {
            Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed(&file))?,
        }
    }
    Ok(())
}

/// Version 2 takes a set of CPUs or memory nodes that it does not grant, and grants others then: those of the parent.
fn granted(path: &Path, settings: &[Setting]) -> Result<(), Error> {
    for setting in settings.iter().filter(|setting| ["cpuset.cpus", "cpuset.mems"].contains(&setting.file.as_str())) {
        let Some(granted) = text_of(&path.join(format!("{}.effective", setting.file))) else { continue };
        if members(&granted) != members(&setting.value) {
            let reason = format!("of {} the kernel grants {}", setting.value, granted.trim());
            let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(Error::Cgroup { path: path.join(&setting.file), source });
        }
    }
    Ok(())
}

impl Cgroup {
    pub(crate) fn make(compiled: &Compiled) -> Result<Self, Error> {
        remove_left();
        let name = sweep::name().map_err(Error::host("tell whose a cgroup is (/proc/self)"))?;
        let mut cgroup = Self::empty(compiled.cpu_time.is_some());
        for place in &compiled.places {
            cgroup.add(&place.parent, &name, place.v2, place.controllers.clone())?;
            cgroup.set_up(&place.parent, Some(place))?;
        }
        Ok(cgroup)
    }

    /// For one command, which may have limits of its own.
    pub(crate) fn make_with(compiled: &Compiled, own: &Limits) -> Result<Self, Error> {
        let cgroup = Self::make(compiled)?;
        cgroup.change(own)?;
        Ok(cgroup)
    }

    fn empty(cpu_time: bool) -> Self {
        let (freezing, last) = (Arc::default(), Arc::default());
        Self { directories: vec![], oom: None, cpu_time, open: vec![], above: None, freezing, last }
    }

    /// Since Linux 6.11 a refusal is counted where the limit is, not where the fork was.
    fn refusals_of(container: &Directory) -> Option<(PathBuf, u64)> {
        let file = container.path.join("pids.events.local");
        let refused = entry(&text_of(&file)?, "max")?;
        Some((file, refused))
    }

    /// One directory more. From here on it is removed with the rest if something fails.
    fn add(&mut self, parent: &Path, name: &str, v2: bool, controllers: Vec<Controller>) -> Result<(), Error> {
        let path = parent.join(name);
        fs::create_dir(&path).map_err(failed(&path))?;
        self.directories.push(Directory { path, v2, controllers, shared: false });
        Ok(())
    }

    /// Writes the settings of its place, if it has one of its own, to the directory that was added last.
    fn set_up(&mut self, parent: &Path, place: Option<&Place>) -> Result<(), Error> {
        let Some(directory) = self.directories.last() else { return Ok(()) };
        let path = &directory.path;
        if !directory.v2 && directory.has(Controller::Cpuset) {
            v1::inherit_cpuset(parent, path)?;
        }
        if let Some(place) = place {
            write_all(path, place.settings.iter())?;
            granted(path, &place.settings)?;
            if let Some(program) = &place.devices {
                let attached = File::open(path).and_then(|cgroup| bpf::attach(program, &cgroup));
                attached.map_err(failed(path))?;
            }
        }
        if directory.v2 && directory.has(Controller::Memory) {
            // A lack of memory ends all that is in it. In a container that is each command's: see `v2::give_all`.
            write_all(path, [Setting::new("memory.oom.group", "1".into())].iter())?;
        }
        if !directory.v2 && directory.has(Controller::Memory) {
            self.oom = v1::watch_oom(path).map_err(failed(path))?;
        }
        Ok(())
    }

    /// A cgroup below this one, in each of its hierarchies, with accounts of its own; what it is limited to besides is to be
    /// said by [`change`](Self::change). Nothing may be in this one itself. It can be ended alone, and is to be removed first.
    fn child(&self) -> Result<Self, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("run-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        remove_left();
        let mut child = Self::empty(false);
        for directory in &self.directories {
            if directory.v2 {
                v2::give_all(&directory.path)?;
                child.above = Self::refusals_of(directory);
            }
            // Version 1 throttles each cgroup for itself: all programs are in the one that has the limit.
            if !directory.v2 && directory.controllers == [Controller::Io] {
                child.directories.push(Directory { shared: true, ..directory.clone() });
                continue;
            }
            child.add(&directory.path, &name, directory.v2, directory.controllers.clone())?;
            child.set_up(&directory.path, None)?;
        }
        Ok(child)
    }

    /// For a program in a container, which has the policy's limits: the program's own, its accounts, and its CPU time.
    pub(crate) fn child_for(&self, policy: Option<&Compiled>, own: &Limits) -> Result<Self, Error> {
        let mut child = self.child()?;
        child.change(own)?;
        child.cpu_time = policy.is_some_and(|compiled| compiled.cpu_time.is_some());
        Ok(child)
    }

    /// Nothing but what this program made is in it.
    pub(crate) fn is_own(&self) -> bool {
        self.directories.iter().any(|directory| !directory.shared)
    }

    fn has(&self, controller: Controller) -> bool {
        self.directories.iter().any(|directory| directory.has(controller))
    }

    pub(crate) fn oom(&self) -> Option<BorrowedFd<'_>> {
        self.oom.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn handles(&self) -> Result<Handles, Error> {
        let write = |path: PathBuf| File::options().write(true).open(&path).map_err(failed(&path));
        let read = |path: PathBuf| File::open(&path).map_err(failed(&path));
        let mut handles = Handles {
            enter: vec![],
            into: None,
            procs: None,
            cpu: None,
            kill: None,
            freezer: None,
            members: None,
            oom_count: None,
        };
        for directory in &self.directories {
            let Directory { path, v2, .. } = directory;
            if *v2 {
                handles.into = Some(read(path.clone())?);
                handles.procs = Some(write(path.join("cgroup.procs"))?);
                handles.kill = Some(write(path.join("cgroup.kill"))?);
            } else {
                handles.enter.push(write(path.join("tasks"))?);
                if directory.has(Controller::Memory) && self.oom.is_some() {
                    handles.oom_count = Some(read(path.join("memory.oom_control"))?);
                }
                if directory.has(Controller::Freezer) {
                    let file = path.join("freezer.state");
                    let state = File::options().read(true).write(true).open(&file);
                    handles.freezer = Some(state.map_err(failed(&file))?);
                    handles.members = Some(read(path.join("cgroup.procs"))?);
                }
            }
            if self.cpu_time && directory.has(Controller::CpuTime) {
                handles.cpu = Some(read(path.join(if *v2 { "cpu.stat" } else { "cpuacct.usage" }))?);
            }
        }
        Ok(handles)
    }

    /// Of what still runs, or of what has ended and uses nothing any more.
    pub(crate) fn accounts(&self, live: bool) -> Accounts {
        let mut accounts = Accounts::default();
        for (index, directory) in self.directories.iter().enumerate() {
            let open = |name| self.open.iter().find(|(of, file, _)| (*of, *file) == (index, name));
            let read = |name: &'static str| match open(name) {
                Some((_, _, file)) => text(file),
                None => text_of(&directory.path.join(name)),
            };
            directory.accounts(&read, &mut accounts);
            if live && directory.has(Controller::Memory) {
                let file = if directory.v2 { "memory.current" } else { "memory.usage_in_bytes" };
                accounts.memory_current = read(file).as_deref().and_then(number);
            }
        }
        if let (Some((file, before)), Some(refused)) = (&self.above, &mut accounts.pids_refused) {
            let all = text_of(file).and_then(|text| entry(&text, "max")).unwrap_or(*before);
            *refused = refused.saturating_add(all.saturating_sub(*before));
        }
        accounts
    }

    /// Opens the files that the accounts will be read from, where that is not on anybody's way.
    pub(crate) fn open_accounts(&mut self) {
        for (index, directory) in self.directories.iter().enumerate() {
            let open = RefCell::new(vec![]);
            let read = |name: &'static str| {
                open.borrow_mut().extend(File::open(directory.path.join(name)).map(|file| (index, name, file)));
                None
            };
            directory.accounts(&read, &mut Accounts::default());
            self.open.append(&mut open.into_inner());
        }
    }

    /// Removes it. What was in it has ended; the kernel may need a moment to see that.
    pub(crate) fn remove(self) {
        drop(self);
    }

    /// The same, while something else ends.
    pub(crate) fn remove_beside(mut self, end: impl FnOnce()) {
        self.keep_counts();
        self.try_remove();
        end();
    }

    fn keep_counts(&self) {
        if Arc::strong_count(&self.last) > 1 {
            let _ = self.last.set(events::counts(&self.directories));
        }
    }

    fn remove_all(&mut self) {
        self.keep_counts();
        let start = Instant::now();
        while !self.try_remove() && start.elapsed() < Duration::from_secs(2) {
            let mut nap = Duration::from_micros(200);
            if start.elapsed() > Duration::from_millis(20) {
                // It is not the kernel: something is there still.
                self.directories.iter().for_each(|directory| sweep::empty(&directory.path));
                nap = Duration::from_millis(2);
            }
            std::thread::sleep(nap);
        }
    }

    /// Removes what can be removed now. True: that was all.
    fn try_remove(&mut self) -> bool {
        self.directories.retain(|directory| {
            let busy = |error: io::Error| error.kind() == io::ErrorKind::ResourceBusy;
            !directory.shared && fs::remove_dir(&directory.path).is_err_and(busy)
        });
        self.directories.is_empty()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.directories.is_empty() {
            self.remove_all();
        }
        // Something in it does not end: a task that waits for a disk. It is tried again at the next occasion.
        if !self.directories.is_empty() {
            let mut rest = Self::empty(false);
            rest.directories = std::mem::take(&mut self.directories);
            leave(rest);
        }
    }
}

/// Those of programs without a handle.
static LEFT: Mutex<Vec<Cgroup>> = Mutex::new(vec![]);

/// Its program runs on without a handle: it is removed when that has ended, at the next occasion.
pub(crate) fn leave(cgroup: Cgroup) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(cgroup);
}

fn remove_left() {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|cgroup| !cgroup.try_remove());
}

/// The members of a list like `0-3,8`.
fn members(list: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // No kernel has as many.
        if last >= 1 << 16 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// How many CPUs a tree can use at once, at most: its program may leave the set that this process is bound to.
pub(crate) fn online_cpus() -> u32 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|list| members(&list));
    let ours = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(online.map_or(ours, |online| online.len().max(ours))).unwrap_or(u32::MAX)
}

/// A size of pages, as the names of files have it: `64KB`, `2MB`, `1GB`.
fn page_size(bytes: u64) -> String {
    match bytes {
        ..0x10_0000 => format!("{}KB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{}MB", bytes >> 20),
        _ => format!("{}GB", bytes >> 30),
    }
}

/// What a cgroup's handle still has.
pub(crate) fn with<T>(
    cgroup: &Mutex<Option<Cgroup>>,
    what: &'static str,
    body: impl FnOnce(&Cgroup) -> Result<T, Error>,
) -> Result<T, Error> {
    match &*cgroup.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(cgroup) => body(cgroup),
        None => Err(Error::invalid(what, "it was made without a cgroup, or it has ended")),
    }
}

/// The text of a file, mostly by one read: this is on the way of each launch.
fn text(file: &File) -> Option<String> {
    let (mut bytes, mut block) = (vec![], [0; 1024]);
    loop {
        let len = file.read_at(&mut block, bytes.len() as u64).ok()?;
        bytes.extend_from_slice(block.get(..len)?);
        if len < block.len() {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

fn text_of(path: &Path) -> Option<String> {
    text(&File::open(path).ok()?)
}

/// A number that is all of a text.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A number behind its name, in a text of such lines.
fn entry(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = |text| members(text).map(Vec::from_iter);
        assert_eq!(list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(list("2,1,1-2"), Some(vec![1, 2]));
        assert_eq!(list("\n"), Some(vec![]));
        for odd in ["a", "1-", "-1", "0-4294967295", "1-2-3"] {
            assert_eq!(list(odd), None, "{odd}");
        }
        assert!(online_cpus() >= 1);
    }

    #[test]
    fn sizes_of_pages() {
        assert_eq!(
            [64 << 10, 2 << 20, 32 << 20, 1 << 30, 16 << 30].map(page_size),
            ["64KB", "2MB", "32MB", "1GB", "16GB"]
        );
    }

    /// A process in a cgroup, that waits for a line before it does anything.
    fn enter(cgroup: &Cgroup, script: &str) -> std::process::Child {
        let mut command = std::process::Command::new("sh");
        let child = command.args(["-c", &format!("read line; {script}")]).stdin(std::process::Stdio::piped());
        let child = child.stderr(std::process::Stdio::null()).spawn().unwrap();
        for directory in &cgroup.directories {
            let file = if directory.v2 { "cgroup.procs" } else { "tasks" };
            fs::write(directory.path.join(file), child.id().to_string()).unwrap();
        }
        child
    }

    fn end(mut child: std::process::Child) -> std::process::ExitStatus {
        io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        child.wait().unwrap()
    }

    #[test]
    fn cgroups_in_a_cgroup() {
        let missing = &mut vec![];
        let all = |_| true;
        // Version 1 lets nobody into a set of no CPUs.
        let cpuset = Some("0".into());
        let (memory, cpu_time) = (Some(1 << 30), Some(Duration::from_secs(1000)));
        let container = Limits { memory, pids: Some(20), cpuset, cpu_time, freezer: true, ..Limits::default() };
        let Ok(Some(container)) = container.compile(all, missing) else {
            println!("skipped: no cgroup can be made here");
            return;
        };
        let container = Cgroup::make(&container).unwrap();
        // Each has limits of its own, within those of the container, and accounts of its own.
        let one = container.child().unwrap();
        one.change(&Limits { pids: Some(2), ..Limits::default() }).unwrap();
        let other = container.child().unwrap();
        let forks = "a=$(echo 1); for i in 1 2 3 4 5; do sleep 0.2 & done; wait; exit 0";
        let [mut in_one, in_other] = [enter(&one, forks), enter(&other, forks)];
        assert!(end(in_other).success());
        let spent = other.accounts(true);
        assert!(spent.cpu.is_some_and(|cpu| cpu > Duration::ZERO), "{spent:?}");
        assert_eq!(spent.pids_refused.unwrap_or(0), 0, "{spent:?}");
        assert!(spent.pids_peak.is_none_or(|peak| peak >= 6), "{spent:?}");
        io::Write::write_all(&mut in_one.stdin.take().unwrap(), b"go\n").unwrap();
        let _ = in_one.wait();
        let accounts = one.accounts(true);
        assert!(accounts.pids_refused.is_some_and(|refused| refused > 0), "{accounts:?}");
        if let Some(peak) = accounts.memory_peak {
            assert!(peak > 0 && peak < 64 << 20, "{accounts:?}");
        }
        // A third one does not see what those have used.
        let third = container.child().unwrap();
        let fresh = third.accounts(true);
        assert!(fresh.cpu < spent.cpu && fresh.pids_peak.unwrap_or(0) == 0, "{fresh:?}");

        // One is ended, the others go on; frozen, all stand still.
        let [mut ended, goes_on] = [enter(&third, "sleep 1000"), enter(&other, "exit 7")];
        container.freezer().unwrap().set(true).unwrap();
        container.freezer().unwrap().set(false).unwrap();
        for directory in third.directories.iter().filter(|directory| directory.v2) {
            fs::write(directory.path.join("cgroup.kill"), "1").unwrap();
        }
        ended.kill().unwrap();
        assert!(!ended.wait().unwrap().success());
        assert_eq!(end(goes_on).code(), Some(7));

        // What a child has not been given a place for is an error, and leaves nothing.
        let weight = Limits { cpu_weight: Some(50), ..Limits::default() };
        assert!(matches!(container.child_for(None, &weight), Err(Error::Invalid { .. })));
        let paths: Vec<_> = container.directories.iter().map(|directory| directory.path.clone()).collect();
        drop((one, other));
        assert!(paths.iter().all(|path| path.exists()));
        // The last one is removed with its parent, and may be dropped after it.
        drop(container);
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
        drop(third);
    }

    #[test]
    fn a_lack_of_memory_in_one_of_them() {
        let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
        let Ok(Some(container)) = limits.compile(|_| false, &mut vec![]) else {
            println!("skipped: memory cannot be limited here");
            return;
        };
        let container = Cgroup::make(&container).unwrap();
        let small = Limits { memory: Some(16 << 20), ..Limits::default() };
        let [one, other] = [container.child().unwrap(), container.child().unwrap()];
        one.change(&small).unwrap();
        let eat = "head -c 30000000 /dev/zero | tail >/dev/null; sleep 0.1";
        let [eater, bystander] = [enter(&one, eat), enter(&other, eat)];
        let _ = end(eater);
        assert!(end(bystander).success());
        let (one, other) = (one.accounts(true), other.accounts(true));
        assert!(one.oom_kills.is_some_and(|kills| kills > 0), "{one:?}");
        assert!(one.memory_peak.is_none_or(|peak| peak <= 16 << 20), "{one:?}");
        assert_eq!(other.oom_kills, Some(0), "{other:?}");
        assert!(other.memory_peak.is_none_or(|peak| peak > 20 << 20), "{other:?}");
    }
}
