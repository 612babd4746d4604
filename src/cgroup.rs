//! Limits and accounts of a whole tree of processes (cgroups(7)), on version 1, hybrid and version 2 hosts.
//!
//! The program and what comes of it are in a cgroup of their own in each hierarchy that a limit needs; the stage and the
//! agent are not. The host makes it, opens it, and removes it; the program's process enters it through the host's open
//! files, before it gives anything up.

mod locate;
mod v1;
mod v2;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::support::{Layer, Missing};

use locate::{Hierarchy, hierarchies};

/// Below which cgroup the sandboxes' own are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CgroupParent {
    /// Below the caller's own, in each hierarchy; on version 2, where the caller's own has processes in it and so cannot
    /// give controllers to children, below its parent, if the caller may.
    #[default]
    Auto,
    /// Below this directory of a cgroup file system. The same path is used in every hierarchy.
    Path(PathBuf),
}

/// Bandwidth and operations per second of a block device; what is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoLimit {
    read_bytes: Option<u64>,
    write_bytes: Option<u64>,
    read_operations: Option<u64>,
    write_operations: Option<u64>,
}

impl IoLimit {
    /// No limit yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes read per second (`io.max` rbps, `blkio.throttle.read_bps_device`).
    #[must_use]
    pub fn read_bytes(mut self, per_second: u64) -> Self {
        self.read_bytes = Some(per_second);
        self
    }

    /// Bytes written per second (`io.max` wbps, `blkio.throttle.write_bps_device`).
    #[must_use]
    pub fn write_bytes(mut self, per_second: u64) -> Self {
        self.write_bytes = Some(per_second);
        self
    }

    /// Read operations per second (`io.max` riops, `blkio.throttle.read_iops_device`).
    #[must_use]
    pub fn read_operations(mut self, per_second: u64) -> Self {
        self.read_operations = Some(per_second);
        self
    }

    /// Write operations per second (`io.max` wiops, `blkio.throttle.write_iops_device`).
    #[must_use]
    pub fn write_operations(mut self, per_second: u64) -> Self {
        self.write_operations = Some(per_second);
        self
    }
}

/// What a policy says of the whole tree.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    pub(crate) memory: Option<u64>,
    pub(crate) swap: Option<u64>,
    pub(crate) memory_high: Option<u64>,
    pub(crate) memory_low: Option<u64>,
    pub(crate) cpu: Option<f64>,
    pub(crate) cpu_burst: Option<Duration>,
    pub(crate) cpu_weight: Option<u32>,
    pub(crate) cpuset: Option<String>,
    pub(crate) cpuset_mems: Option<String>,
    pub(crate) hugetlb: Vec<(u64, u64)>,
    pub(crate) pids: Option<u32>,
    pub(crate) io: Vec<(PathBuf, IoLimit)>,
    pub(crate) io_weight: Option<u32>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) parent: CgroupParent,
}

const MOUNT: &str = "mount cgroup2 at /sys/fs/cgroup";
const WRITABLE: &str = "run as root, have that directory chowned to this user, or name another by cgroup_parent(); in a \
                        container, mount its cgroups writable";
const DELEGATE: &str = "call cgroup::delegate_self() early, start the program in a delegated cgroup (systemd-run --user \
                        --scope -p Delegate=yes), or name one without processes by cgroup_parent()";

/// A controller, as the library names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
    Io,
    Hugetlb,
    /// CPU time: cpuacct on version 1, and on version 2 every cgroup's own.
    CpuTime,
}

impl Controller {
    fn v1(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Io => "blkio",
            Self::Hugetlb => "hugetlb",
            Self::CpuTime => "cpuacct",
        }
    }

    fn v2(self) -> Option<&'static str> {
        match self {
            Self::Io => Some("io"),
            Self::CpuTime => None,
            other => Some(other.v1()),
        }
    }

    fn missing(self, reason: String, remedy: &str) -> Error {
        Error::Unsupported { layer: self.layer(), reason, remedy: remedy.to_owned() }
    }

    fn layer(self) -> Layer {
        match self {
            Self::Memory => Layer::Memory,
            Self::Cpu => Layer::Cpu,
            Self::Cpuset => Layer::Cpuset,
            Self::Pids => Layer::Pids,
            Self::Io => Layer::Io,
            Self::Hugetlb => Layer::Hugetlb,
            Self::CpuTime => Layer::CpuTime,
        }
    }
}

/// One file to write in a new cgroup.
#[derive(Debug, Clone)]
struct Setting {
    file: String,
    value: String,
    /// It need not exist: a kernel without swap accounting has no file for it.
    optional: bool,
}

impl Setting {
    fn new(file: &str, value: String) -> Self {
        Self { file: file.into(), value, optional: false }
    }
}

/// Where a sandbox's cgroup is made in one hierarchy, and what is written there.
#[derive(Debug, Clone)]
struct Place {
    parent: PathBuf,
    v2: bool,
    controllers: Vec<Controller>,
    settings: Vec<Setting>,
}

/// A checked set of limits, to make cgroups from.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    places: Vec<Place>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) layers: Vec<Layer>,
}

impl Limits {
    fn controllers(&self) -> Vec<Controller> {
        let memory = [self.memory, self.swap, self.memory_high, self.memory_low].iter().any(Option::is_some);
        [
            (Controller::Memory, memory),
            (Controller::Cpu, self.cpu.is_some() || self.cpu_weight.is_some()),
            (Controller::Cpuset, self.cpuset.is_some() || self.cpuset_mems.is_some()),
            (Controller::Pids, self.pids.is_some()),
            (Controller::Io, !self.io.is_empty() || self.io_weight.is_some()),
            (Controller::Hugetlb, !self.hugetlb.is_empty()),
            (Controller::CpuTime, self.cpu_time.is_some()),
        ]
        .into_iter()
        .filter_map(|(controller, used)| used.then_some(controller))
        .collect()
    }

    /// What to write for a controller in a cgroup below `parent`.
    fn settings(&self, controller: Controller, parent: &Path, is_v2: bool) -> Result<Vec<Setting>, Error> {
        let mut all = vec![];
        match controller {
            // These files have one name in both versions.
            Controller::Cpuset => {
                all.extend(self.cpuset.as_ref().map(|list| Setting::new("cpuset.cpus", list.clone())));
                all.extend(self.cpuset_mems.as_ref().map(|list| Setting::new("cpuset.mems", list.clone())));
            }
            Controller::Pids => all.extend(self.pids.map(|count| Setting::new("pids.max", count.to_string()))),
            _ if is_v2 => all = v2::settings(self, controller)?,
            _ => all = v1::settings(self, controller, parent)?,
        }
        Ok(all)
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |setting, reason: &str| Err(Error::invalid(setting, reason));
        for (setting, value) in
            [("memory_limit", self.memory), ("memory_high", self.memory_high), ("pids_limit", self.pids.map(u64::from))]
        {
            if value == Some(0) {
                return invalid(setting, "a limit of zero");
            }
        }
        if self.swap.is_some() && self.memory.is_none() {
            return invalid("swap_limit", "swap is limited together with memory: add memory_limit()");
        }
        if self.cpu.is_some_and(|cores| !(0.01..=1_000_000.0).contains(&cores)) {
            return invalid(
                "cpu_limit",
                "the cores must be 0.01 to 1000000: the kernel takes no less than 1 ms in 100",
            );
        }
        for (setting, weight) in [("cpu_weight", self.cpu_weight), ("io_weight", self.io_weight)] {
            if weight.is_some_and(|weight| !(1..=10000).contains(&weight)) {
                return invalid(setting, "a weight is 1 to 10000; 100 is everybody's");
            }
        }
        if self.cpu_time.is_some_and(|limit| limit.is_zero()) {
            return invalid("cpu_time_limit", "a limit of zero");
        }
        for (setting, list) in [("cpuset", &self.cpuset), ("cpuset_mems", &self.cpuset_mems)] {
            let is_list = |list: &String| {
                !list.is_empty() && list.bytes().all(|byte| byte.is_ascii_digit() || byte == b',' || byte == b'-')
            };
            if list.as_ref().is_some_and(|list| !is_list(list)) {
                return invalid(setting, "a list is like 0-3,8");
            }
        }
        match (self.cpu, self.cpu_burst) {
            (None, Some(_)) => return invalid("cpu_burst", "a burst goes beyond a limit: add cpu_limit()"),
            (Some(cores), Some(burst)) if burst.as_micros() > u128::from(v1::quota(cores)) => {
                return invalid("cpu_burst", "a burst is at most the CPU time of one period of 100 ms");
            }
            _ => {}
        }
        if self.hugetlb.iter().any(|(size, _)| !size.is_power_of_two() || *size < 1024) {
            return invalid("hugetlb_limit", "a page has a power of two of bytes, from 1024 on");
        }
        if self.io.iter().any(|(_, limit)| {
            [limit.read_bytes, limit.write_bytes, limit.read_operations, limit.write_operations].contains(&Some(0))
        }) {
            return invalid("io_limit", "a limit of zero");
        }
        Ok(())
    }

    /// Finds the places, and tries them once. Controllers that may be missing, and are, go into `missing`.
    pub(crate) fn compile(
        &self,
        may_be_missing: impl Fn(Layer) -> bool,
        missing: &mut Vec<Missing>,
    ) -> Result<Option<Compiled>, Error> {
        self.check()?;
        let hierarchies = hierarchies();
        let mut compiled = Compiled { places: vec![], cpu_time: self.cpu_time, layers: vec![] };
        let wanted = self.controllers();
        let (v1, v2): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|controller| hierarchies.iter().any(|hierarchy| hierarchy.has(controller.v1())));
        let v2_parent = if v2.is_empty() { None } else { Some(self.v2_parent(&v2, &hierarchies)?) };
        let mut settle = |controller: Controller, placed: Result<(PathBuf, Vec<Setting>), Error>, is_v2| match placed {
            Ok((parent, settings)) => {
                compiled.add(controller, parent, is_v2, settings);
                Ok(())
            }
            Err(Error::Unsupported { layer, reason, remedy }) if may_be_missing(layer) => {
                missing.push(Missing { layer, reason, remedy });
                if controller == Controller::CpuTime {
                    compiled.cpu_time = None;
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        for controller in v1 {
            let place = self.v1_parent(controller, &hierarchies);
            settle(
                controller,
                place.and_then(|parent| Ok((parent.clone(), self.settings(controller, &parent, false)?))),
                false,
            )?;
        }
        for controller in v2 {
            let place = match &v2_parent {
                Some(Some(parent)) => v2::enable(parent, controller.v2())
                    .map(|()| parent.clone())
                    .map_err(|error| controller.missing(format!("{}: {error}", parent.display()), DELEGATE)),
                _ => Err(controller.missing("no cgroup hierarchy with this controller is mounted".into(), MOUNT)),
            };
            let place = place.and_then(|parent| Ok((parent.clone(), self.settings(controller, &parent, true)?)));
            settle(controller, place, true)?;
        }
        if compiled.places.is_empty() {
            return Ok(None);
        }
        // Whatever the kernel has against it, it says so now.
        Cgroup::make(&compiled)?.remove();
        Ok(Some(compiled))
    }

    /// The directory of version 1 below which the controller can be had.
    fn v1_parent(&self, controller: Controller, hierarchies: &[Hierarchy]) -> Result<PathBuf, Error> {
        let Some(hierarchy) = hierarchies.iter().find(|hierarchy| hierarchy.has(controller.v1())) else {
            return Err(controller.missing("no such hierarchy is mounted".into(), MOUNT));
        };
        let parent = self.parent_in(hierarchy, hierarchies)?;
        if rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK).is_err() {
            return Err(controller.missing(format!("no cgroup can be made below {}", parent.display()), WRITABLE));
        }
        Ok(parent)
    }

    /// The one directory of version 2 for all these controllers: the first candidate that can give all of them, or else
    /// the first of all. A process is in one cgroup of version 2 only.
    fn v2_parent(&self, controllers: &[Controller], hierarchies: &[Hierarchy]) -> Result<Option<PathBuf>, Error> {
        let Some(hierarchy) = hierarchies.iter().find(|hierarchy| hierarchy.is_v2()) else { return Ok(None) };
        let parent = self.parent_in(hierarchy, hierarchies)?;
        let mut candidates = vec![parent.clone()];
        if self.parent == CgroupParent::Auto && parent != hierarchy.mount {
            candidates.extend(parent.parent().map(Path::to_owned));
        }
        let gives_all =
            |candidate: &&PathBuf| controllers.iter().all(|controller| v2::enable(candidate, controller.v2()).is_ok());
        let found = candidates.iter().find(gives_all).cloned();
        Ok(Some(found.unwrap_or(parent)))
    }

    /// The parent in one hierarchy.
    fn parent_in(&self, hierarchy: &Hierarchy, all: &[Hierarchy]) -> Result<PathBuf, Error> {
        let CgroupParent::Path(path) = &self.parent else { return Ok(hierarchy.own.clone()) };
        let below = all.iter().filter_map(|hierarchy| path.strip_prefix(&hierarchy.mount).ok());
        let Some(below) = below.min_by_key(|below| below.as_os_str().len()) else {
            return Err(Error::invalid("cgroup_parent", format!("{} is in no cgroup file system", path.display())));
        };
        let parent = hierarchy.mount.join(below);
        match parent.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(parent),
            Ok(_) => Err(Error::Cgroup { path: parent, source: io::ErrorKind::NotADirectory.into() }),
            Err(source) => Err(Error::Cgroup { path: parent, source }),
        }
    }
}

impl Compiled {
    /// All in it can be ended at once, whatever it does (`cgroup.kill`).
    pub(crate) fn has_kill(&self) -> bool {
        self.places.iter().any(|place| place.v2)
    }

    fn add(&mut self, controller: Controller, parent: PathBuf, v2: bool, settings: Vec<Setting>) {
        self.layers.push(controller.layer());
        match self.places.iter_mut().find(|place| place.parent == parent) {
            Some(place) => {
                place.controllers.push(controller);
                place.settings.extend(settings);
            }
            None => self.places.push(Place { parent, v2, controllers: vec![controller], settings }),
        }
    }
}

/// A sandbox's cgroup, in each hierarchy. It is removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directories: Vec<Directory>,
    /// Version 1: readable when memory has run out.
    oom: Option<OwnedFd>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    v2: bool,
    controllers: Vec<Controller>,
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
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Cgroup { path: path.to_owned(), source }
}

fn write_all<'a>(path: &Path, settings: impl Iterator<Item = &'a Setting>) -> Result<(), Error> {
    for setting in settings {
        let file = path.join(&setting.file);
        match fs::write(&file, &setting.value) {
            Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed(&file))?,
        }
    }
    Ok(())
}

/// The limits of a live sandbox, to be changed while it runs; see [`Child::limits`](crate::Child::limits). What can be
/// changed is what the sandbox was made with.
///
/// # Errors
///
/// Of each method: [`Error::Invalid`] for a value that makes no sense, and for a limit that the sandbox was made without;
/// [`Error::Cgroup`] with the kernel's answer, EBUSY for instance for a limit of memory below what cannot be reclaimed on
/// version 1.
#[derive(Debug)]
pub struct LiveLimits<'a> {
    pub(crate) cgroup: Option<&'a Cgroup>,
}

impl LiveLimits<'_> {
    fn change(&self, limits: &Limits) -> Result<(), Error> {
        match self.cgroup {
            Some(cgroup) => cgroup.change(limits),
            None => Err(Error::invalid("limits", "this sandbox was made without any, or it has ended")),
        }
    }

    /// As [`Sandbox::memory_limit`](crate::Sandbox::memory_limit).
    pub fn memory(&self, bytes: u64) -> Result<(), Error> {
        self.change(&Limits { memory: Some(bytes), ..Limits::default() })
    }

    /// As [`Sandbox::pids_limit`](crate::Sandbox::pids_limit).
    pub fn pids(&self, tasks: u32) -> Result<(), Error> {
        self.change(&Limits { pids: Some(tasks), ..Limits::default() })
    }

    /// As [`Sandbox::cpu_limit`](crate::Sandbox::cpu_limit).
    pub fn cpu(&self, cores: f64) -> Result<(), Error> {
        self.change(&Limits { cpu: Some(cores), ..Limits::default() })
    }

    /// As [`Sandbox::cpuset`](crate::Sandbox::cpuset).
    pub fn cpuset(&self, cpus: impl Into<String>) -> Result<(), Error> {
        self.change(&Limits { cpuset: Some(cpus.into()), ..Limits::default() })
    }
}

/// A name that says whose it is: the PID namespace, the process, when that was started, and a number.
fn name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}{}", owner_prefix(std::process::id()).unwrap_or_default(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn owner_prefix(pid: u32) -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A zombie owns nothing any more.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    Some(format!("stockade-{namespace}-{pid}-{}-", fields.nth(18)?))
}

impl Cgroup {
    pub(crate) fn make(compiled: &Compiled) -> Result<Self, Error> {
        let name = name();
        let mut cgroup = Self { directories: vec![], oom: None };
        for place in &compiled.places {
            let path = place.parent.join(&name);
            fs::create_dir(&path).map_err(failed(&path))?;
            let directory = Directory { path, v2: place.v2, controllers: place.controllers.clone() };
            let path = directory.path.clone();
            // From here on it is removed with the rest if something fails.
            cgroup.directories.push(directory);
            if !place.v2 && place.controllers.contains(&Controller::Cpuset) {
                v1::inherit_cpuset(&place.parent, &path)?;
            }
            write_all(&path, place.settings.iter())?;
            if !place.v2 && place.controllers.contains(&Controller::Memory) {
                cgroup.oom = v1::watch_oom(&path);
            }
        }
        Ok(cgroup)
    }

    /// Sets limits of controllers that it has; one that it has not is an error, before any is set.
    fn change(&self, limits: &Limits) -> Result<(), Error> {
        limits.check()?;
        for controller in limits.controllers() {
            let Some(directory) = self.directories.iter().find(|dir| dir.controllers.contains(&controller)) else {
                let reason = format!("this sandbox was made without {}", controller.layer());
                return Err(Error::invalid("limits", reason));
            };
            let path = &directory.path;
            let settings = limits.settings(controller, path, directory.v2)?;
            // Memory's limit must never be above that of memory and swap together: which comes first depends on whether
            // they go up or down.
            if write_all(path, settings.iter()).is_err() {
                write_all(path, settings.iter().rev())?;
            }
        }
        Ok(())
    }

    pub(crate) fn oom(&self) -> Option<BorrowedFd<'_>> {
        self.oom.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn handles(&self) -> Result<Handles, Error> {
        let write = |path: PathBuf| File::options().write(true).open(&path).map_err(failed(&path));
        let mut handles = Handles { enter: vec![], into: None, procs: None, cpu: None, kill: None };
        for Directory { path, v2, controllers } in &self.directories {
            if *v2 {
                handles.into = Some(File::open(path).map_err(failed(path))?);
                handles.procs = Some(write(path.join("cgroup.procs"))?);
                handles.kill = Some(write(path.join("cgroup.kill"))?);
            } else {
                handles.enter.push(write(path.join("tasks"))?);
            }
            if controllers.contains(&Controller::CpuTime) {
                let file = path.join(if *v2 { "cpu.stat" } else { "cpuacct.usage" });
                handles.cpu = Some(File::open(&file).map_err(failed(&file))?);
            }
        }
        Ok(handles)
    }

    pub(crate) fn accounts(&self) -> Accounts {
        let mut accounts = Accounts::default();
        for Directory { path, v2, controllers } in &self.directories {
            if *v2 {
                v2::accounts(path, controllers, &mut accounts);
            } else {
                v1::accounts(path, controllers, &mut accounts);
            }
        }
        accounts
    }

    /// Removes it. What was in it has ended; the kernel may need a moment to see that.
    pub(crate) fn remove(mut self) {
        self.remove_all();
    }

    fn remove_all(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        for directory in self.directories.drain(..) {
            while fs::remove_dir(&directory.path).is_err_and(|error| error.raw_os_error() == Some(16)) {
                if Instant::now() >= deadline {
                    break;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove_all();
    }
}

/// A size of pages, as the names of files have it: `64KB`, `2MB`, `1GB`.
fn page_size(bytes: u64) -> String {
    match bytes {
        ..0x10_0000 => format!("{}KB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{}MB", bytes >> 20),
        _ => format!("{}GB", bytes >> 30),
    }
}

/// A number in a file of its own.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A number behind its name, in a file of such lines.
fn entry(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// Removes the cgroups that processes which are no more have left, in the caller's own places, and returns how many: what
/// is in them is ended. Those of live processes, and those of other PID namespaces, are not touched. Two programs may do
/// it at once.
///
/// A host process that is killed leaves its cgroups behind, empty.
pub fn sweep() -> usize {
    let mut removed = 0;
    for hierarchy in hierarchies() {
        let above = hierarchy.own.parent().filter(|_| hierarchy.own != hierarchy.mount).map(Path::to_owned);
        for parent in [Some(hierarchy.own.clone()), above].into_iter().flatten() {
            removed += sweep_below(&parent);
        }
    }
    removed
}

fn sweep_below(parent: &Path) -> usize {
    let Ok(entries) = fs::read_dir(parent) else { return 0 };
    let mut removed = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_orphan(&name) {
            continue;
        }
        let _ = fs::write(entry.path().join("cgroup.kill"), "1");
        if fs::remove_dir(entry.path()).is_ok() {
            removed += 1;
        }
    }
    removed
}

/// Whether a directory's name is one of ours, of an owner that is no more, in this PID namespace.
fn is_orphan(name: &str) -> bool {
    let mut parts = name.strip_prefix("stockade-").unwrap_or_default().split('-');
    let (Some(namespace), Some(pid)) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok())) else {
        return false;
    };
    let Some(own) = owner_prefix(std::process::id()) else { return false };
    own.starts_with(&format!("stockade-{namespace}-"))
        && owner_prefix(pid).is_none_or(|prefix| !name.starts_with(&prefix))
}

/// Moves this process into a new leaf below its own cgroup (version 2), so that its own can give controllers to the
/// sandboxes' cgroups beside that leaf. **This changes the host process**; call it once, early, where the cgroup is this
/// program's alone, as with systemd's `Delegate=yes`.
///
/// # Errors
///
/// [`Error::Cgroup`] with the kernel's answer: EACCES if the cgroup is not delegated to this user.
/// [`Error::Unsupported`] where there is no version 2.
pub fn delegate_self() -> Result<(), Error> {
    let hierarchies = hierarchies();
    let Some(hierarchy) = hierarchies.iter().find(|hierarchy| hierarchy.is_v2()) else {
        return Err(Error::Unsupported {
            layer: Layer::Memory,
            reason: "there is no cgroup hierarchy of version 2 here".into(),
            remedy: "version 1 needs no such thing".into(),
        });
    };
    let leaf = hierarchy.own.join("stockade-host");
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&leaf)(error)),
        _ => {}
    }
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, "0").map_err(failed(&procs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_lives_is_no_orphan() {
        let own = name();
        assert!(own.starts_with("stockade-") && !is_orphan(&own), "{own}");
        // Of the same number, but another start: a process that is no more.
        let mut parts: Vec<&str> = own.split('-').collect();
        parts[3] = "1";
        assert!(is_orphan(&parts.join("-")));
        parts[1] = "4";
        assert!(!is_orphan(&parts.join("-")), "another PID namespace's");
        for other in ["", "stockade-", "stockade-x", "user.slice", "stockade-host"] {
            assert!(!is_orphan(other), "{other}");
        }
    }

    #[test]
    fn sizes_of_pages() {
        assert_eq!(
            [64 << 10, 2 << 20, 32 << 20, 1 << 30, 16 << 30].map(page_size),
            ["64KB", "2MB", "32MB", "1GB", "16GB"]
        );
    }

    #[test]
    fn limits_that_make_no_sense() {
        let check = |limits: Limits| limits.check().is_err();
        assert!(check(Limits { memory: Some(0), ..Limits::default() }));
        assert!(check(Limits { swap: Some(1), ..Limits::default() }));
        for cores in [0.0, -1.0, f64::NAN, f64::INFINITY, 0.001] {
            assert!(check(Limits { cpu: Some(cores), ..Limits::default() }), "{cores}");
        }
        for list in ["", "a", "0 1", "0\n"] {
            assert!(check(Limits { cpuset: Some(list.into()), ..Limits::default() }), "{list}");
        }
        assert!(check(Limits { cpu_weight: Some(0), ..Limits::default() }));
        assert!(check(Limits { cpu_burst: Some(Duration::from_millis(1)), ..Limits::default() }));
        assert!(check(Limits { cpu: Some(0.5), cpu_burst: Some(Duration::from_millis(51)), ..Limits::default() }));
        assert!(check(Limits { hugetlb: vec![(3000, 0)], ..Limits::default() }));
        assert!(!check(Limits { memory: Some(1), cpu: Some(0.5), cpuset: Some("0-1".into()), ..Limits::default() }));
    }
}
