//! What a policy says of the whole tree: the settings, their checks, and what becomes of them on this host.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::devices::{self, DeviceRules};
use super::locate::{Hierarchy, hierarchies};
use super::{Cgroup, v1, v2};
use crate::caps::Capabilities;
use crate::error::Error;
use crate::support::{Layer, Missing};

/// Below which cgroup the sandboxes' own are made.
///
/// ```
/// # use stockade::{CgroupParent, Sandbox};
/// assert_eq!(CgroupParent::default(), CgroupParent::Auto);
/// let sandbox = Sandbox::new().pids_limit(5).cgroup_parent(CgroupParent::Path("/sys/fs/cgroup/no/such".into()));
/// assert!(sandbox.prepare().is_err());
/// ```
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
///
/// ```
/// # use stockade::{IoLimit, Sandbox};
/// let limit = IoLimit::new().read_bytes(10 << 20).write_bytes(1 << 20);
/// let sandbox = Sandbox::new().io_limit("/proc", limit);
/// assert!(sandbox.prepare().is_err()); // it is on no block device
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoLimit {
    pub(super) read_bytes: Option<u64>,
    pub(super) write_bytes: Option<u64>,
    pub(super) read_operations: Option<u64>,
    pub(super) write_operations: Option<u64>,
}

impl IoLimit {
    /// No limit yet.
    ///
    /// ```
    /// # use stockade::IoLimit;
    /// assert_eq!(IoLimit::new(), IoLimit::default()); // limits nothing
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes read per second (`io.max` rbps, `blkio.throttle.read_bps_device`).
    ///
    /// ```
    /// # use stockade::IoLimit;
    /// let limit = IoLimit::new().read_bytes(10 << 20); // 10 MiB in a second
    /// assert_ne!(limit, IoLimit::new());
    /// ```
    #[must_use]
    pub fn read_bytes(mut self, per_second: u64) -> Self {
        self.read_bytes = Some(per_second);
        self
    }

    /// Bytes written per second (`io.max` wbps, `blkio.throttle.write_bps_device`).
    ///
    /// ```
    /// # use stockade::IoLimit;
    /// let limit = IoLimit::new().write_bytes(1 << 20);
    /// assert_ne!(limit, IoLimit::new().read_bytes(1 << 20));
    /// ```
    #[must_use]
    pub fn write_bytes(mut self, per_second: u64) -> Self {
        self.write_bytes = Some(per_second);
        self
    }

    /// Read operations per second (`io.max` riops, `blkio.throttle.read_iops_device`).
    ///
    /// ```
    /// # use stockade::IoLimit;
    /// let limit = IoLimit::new().read_operations(100);
    /// assert_ne!(limit, IoLimit::new().read_bytes(100));
    /// ```
    #[must_use]
    pub fn read_operations(mut self, per_second: u64) -> Self {
        self.read_operations = Some(per_second);
        self
    }

    /// Write operations per second (`io.max` wiops, `blkio.throttle.write_iops_device`).
    ///
    /// ```
    /// # use stockade::{Error, IoLimit, Sandbox};
    /// let none = Sandbox::new().io_limit("/", IoLimit::new().write_operations(0));
    /// assert!(matches!(none.prepare(), Err(Error::Invalid { setting: "io_limit", .. })));
    /// ```
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
    pub(crate) devices: Option<DeviceRules>,
    pub(crate) net_class: Option<u32>,
    pub(crate) perf_event: bool,
    pub(crate) freezer: bool,
    pub(crate) parent: CgroupParent,
}

/// The stricter of two limits.
pub(crate) fn lesser<T: PartialOrd>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other < one { other } else { one }),
        (one, other) => one.or(other),
    }
}

const MOUNT: &str = "mount cgroup2 at /sys/fs/cgroup";
const WRITABLE: &str = "run as root, have that directory chowned to this user, or name another by cgroup_parent(); in a \
                        container, mount its cgroups writable";
const READ_ONLY: &str = "mount the container's cgroups writable (Docker 28 and later: --security-opt writable-cgroups=true; \
                         Kubernetes: containerd's cgroup_writable), or name a writable directory by cgroup_parent()";
const DELEGATE: &str = "call cgroup::delegate_self() early, start the program in a delegated cgroup (systemd-run --user \
                        --scope -p Delegate=yes), or name one without processes by cgroup_parent()";

/// No kernel has more tasks than that, and none takes a higher limit.
const MOST_TASKS: u32 = 1 << 22;

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
    /// On version 2 a program of BPF.
    Devices,
    /// Version 1 only.
    NetCls,
    /// On version 2 every cgroup's own.
    PerfEvent,
    /// On version 2 every cgroup's own.
    Freezer,
}

impl Controller {
    pub(super) fn v1(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Io => "blkio",
            Self::Hugetlb => "hugetlb",
            Self::CpuTime => "cpuacct",
            Self::Devices => "devices",
            Self::NetCls => "net_cls",
            Self::PerfEvent => "perf_event",
            Self::Freezer => "freezer",
        }
    }

    fn v2(self) -> Option<&'static str> {
        match self {
            Self::Io => Some("io"),
            Self::CpuTime | Self::Devices | Self::NetCls | Self::PerfEvent | Self::Freezer => None,
            other => Some(other.v1()),
        }
    }

    pub(super) fn missing(self, reason: String, remedy: &str) -> Error {
        Error::Unsupported { layer: self.layer(), reason, remedy: remedy.to_owned() }
    }

    /// It cannot be limited in a cgroup that was made without it.
    pub(super) fn unlimited(self) -> Error {
        let setting = match self {
            Self::Memory => "memory_limit",
            Self::Cpu => "cpu_limit",
            Self::Pids => "pids_limit",
            Self::CpuTime => "cpu_time_limit",
            _ => "limits",
        };
        let reason = format!("the sandbox was made without a limit of {}: give its policy a large one", self.layer());
        Error::invalid(setting, reason)
    }

    pub(super) fn layer(self) -> Layer {
        match self {
            Self::Memory => Layer::Memory,
            Self::Cpu => Layer::Cpu,
            Self::Cpuset => Layer::Cpuset,
            Self::Pids => Layer::Pids,
            Self::Io => Layer::Io,
            Self::Hugetlb => Layer::Hugetlb,
            Self::CpuTime => Layer::CpuTime,
            Self::Devices => Layer::Devices,
            Self::NetCls => Layer::NetCls,
            Self::PerfEvent => Layer::PerfEvent,
            Self::Freezer => Layer::Freezer,
        }
    }
}

/// One file to write in a new cgroup.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
    /// It need not exist: a kernel without swap accounting has no file for it.
    pub(super) optional: bool,
}

impl Setting {
    pub(super) fn new(file: &str, value: String) -> Self {
        Self { file: file.into(), value, optional: false }
    }

    /// With the value that it has in this cgroup.
    pub(super) fn as_it_is(&self, path: &Path) -> Option<Self> {
        let value = std::fs::read_to_string(path.join(&self.file)).ok()?;
        Some(Self { value, ..self.clone() })
    }
}

/// Where a sandbox's cgroup is made in one hierarchy, and what is written there.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) parent: PathBuf,
    pub(super) v2: bool,
    pub(super) controllers: Vec<Controller>,
    pub(super) settings: Vec<Setting>,
    /// Version 2: the program that is asked about devices.
    pub(super) devices: Option<Arc<OwnedFd>>,
}

/// A checked set of limits, to make cgroups from.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(super) places: Vec<Place>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) layers: Vec<Layer>,
    /// What is weaker than it looks.
    pub(crate) notes: Vec<String>,
}

impl Limits {
    pub(super) fn controllers(&self) -> Vec<Controller> {
        let memory = [self.memory, self.swap, self.memory_high, self.memory_low].iter().any(Option::is_some);
        [
            (Controller::Memory, memory),
            (Controller::Cpu, self.cpu.is_some() || self.cpu_weight.is_some()),
            (Controller::Cpuset, self.cpuset.is_some() || self.cpuset_mems.is_some()),
            (Controller::Pids, self.pids.is_some()),
            (Controller::Io, !self.io.is_empty() || self.io_weight.is_some()),
            (Controller::Hugetlb, !self.hugetlb.is_empty()),
            (Controller::CpuTime, self.cpu_time.is_some()),
            (Controller::Devices, self.devices.is_some()),
            (Controller::NetCls, self.net_class.is_some()),
            (Controller::PerfEvent, self.perf_event),
            (Controller::Freezer, self.freezer),
        ]
        .into_iter()
        .filter_map(|(controller, used)| used.then_some(controller))
        .collect()
    }

    /// Of a command's own limits: the stricter of these and the policy's, for what these have.
    pub(crate) fn within(&self, policy: &Limits) -> Limits {
        let memory = self.memory.is_some() || self.swap.is_some();
        // Swap is none unless said.
        let swap = |limits: &Limits| limits.memory.map(|_| limits.swap.unwrap_or(0)).or(limits.swap);
        let cpu = self.cpu.and_then(|_| lesser(self.cpu, policy.cpu));
        Limits {
            memory: lesser(self.memory, policy.memory).filter(|_| memory),
            swap: lesser(swap(self), swap(policy)).filter(|_| memory),
            cpu,
            // The kernel wants a burst to be within the quota.
            cpu_burst: policy
                .cpu_burst
                .and_then(|burst| lesser(Some(burst), Some(Duration::from_micros(v1::quota(cpu?))))),
            cpu_weight: self.cpu_weight,
            pids: self.pids.and_then(|_| lesser(self.pids, policy.pids)),
            cpu_time: self.cpu_time.and_then(|_| lesser(self.cpu_time, policy.cpu_time)),
            ..Limits::default()
        }
    }

    /// The policy of one command: these, and what the command has of its own.
    pub(crate) fn narrowed(&self, own: &Limits) -> Limits {
        let both = own.within(self);
        Limits {
            memory: both.memory.or(self.memory),
            swap: both.swap.or(self.swap),
            cpu: both.cpu.or(self.cpu),
            cpu_burst: both.cpu_burst.or(self.cpu_burst),
            cpu_weight: both.cpu_weight.or(self.cpu_weight),
            pids: both.pids.or(self.pids),
            cpu_time: both.cpu_time.or(self.cpu_time),
            ..self.clone()
        }
    }

    /// Of a command's own limits: those of controllers that its policy has. Those that the policy does without, since they
    /// are missing here, the command does without too.
    pub(crate) fn among(mut self, in_force: &[Layer], missing: &[Missing]) -> Result<Limits, Error> {
        self.check()?;
        for controller in self.controllers() {
            if in_force.contains(&controller.layer()) {
                continue;
            }
            if !missing.iter().any(|missing| missing.layer == controller.layer()) {
                return Err(controller.unlimited());
            }
            match controller {
                Controller::Memory => (self.memory, self.swap) = (None, None),
                Controller::Cpu => (self.cpu, self.cpu_burst, self.cpu_weight) = (None, None, None),
                Controller::Pids => self.pids = None,
                _ => self.cpu_time = None,
            }
        }
        Ok(self)
    }

    /// What to write for a controller in a cgroup below `parent`.
    pub(super) fn settings(&self, controller: Controller, parent: &Path, is_v2: bool) -> Result<Vec<Setting>, Error> {
        let mut all = vec![];
        match controller {
            // These files have one name in both versions.
            Controller::Cpuset => {
                all.extend(self.cpuset.as_ref().map(|list| Setting::new("cpuset.cpus", list.clone())));
                all.extend(self.cpuset_mems.as_ref().map(|list| Setting::new("cpuset.mems", list.clone())));
            }
            Controller::Pids => {
                all.extend(self.pids.map(|count| Setting::new("pids.max", count.min(MOST_TASKS).to_string())));
            }
            Controller::CpuTime | Controller::PerfEvent | Controller::Freezer => {}
            Controller::NetCls => {
                all.extend(self.net_class.map(|class| Setting::new("net_cls.classid", class.to_string())));
            }
            // On version 2 it is no file.
            Controller::Devices if is_v2 => {}
            Controller::Devices => all.extend(self.devices.iter().flat_map(devices::v1)),
            _ if is_v2 => all = v2::settings(self, controller, parent)?,
            _ => all = v1::settings(self, controller, parent)?,
        }
        Ok(all)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
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
        self.devices.as_ref().map_or(Ok(()), DeviceRules::check)
    }

    /// Finds the places, and tries them once. Controllers that may be missing, and are, go into `missing`.
    pub(crate) fn compile(
        &self,
        may_be_missing: impl Fn(Layer) -> bool,
        missing: &mut Vec<Missing>,
    ) -> Result<Option<Compiled>, Error> {
        self.check()?;
        let hierarchies = hierarchies();
        let mut compiled = Compiled { places: vec![], cpu_time: self.cpu_time, layers: vec![], notes: vec![] };
        let wanted = self.controllers();
        let (v2, v1): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|controller| self.is_on_v2(**controller, &hierarchies));
        let v2_parent = if v2.is_empty() { None } else { self.v2_parent(&v2, &hierarchies)? };

        let on_v1 = v1.into_iter().map(|controller| (controller, self.on_v1(controller, &hierarchies)));
        let on_v2 = v2.into_iter().map(|controller| (controller, self.on_v2(controller, v2_parent.as_deref())));
        for (controller, found) in on_v1.chain(on_v2) {
            match found {
                Ok(found) => compiled.add(controller, found),
                Err(Error::Unsupported { layer, reason, remedy }) if may_be_missing(layer) => {
                    missing.push(Missing { layer, reason, remedy });
                    if controller == Controller::CpuTime {
                        compiled.cpu_time = None;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            compiled.layers.push(controller.layer());
        }
        if compiled.places.is_empty() {
            return Ok(None);
        }
        // Whatever the kernel has against it, it says so now.
        let tried = Cgroup::make(&compiled)?;
        if self.memory.is_some() && compiled.layers.contains(&Layer::Memory) && tried.swap().is_none() {
            compiled.notes.push("this kernel does not account for swap: memory_limit() does not limit it".into());
        }
        tried.remove();
        compiled.notes.extend(self.memory_low.and_then(|_| low_above(&compiled.places, &hierarchies)));
        Ok(Some(compiled))
    }

    /// Whether a controller is to be had, if at all, on version 2.
    fn is_on_v2(&self, controller: Controller, hierarchies: &[Hierarchy]) -> bool {
        let is_bound = |controller: Controller| hierarchies.iter().any(|hierarchy| hierarchy.has(controller.v1()));
        if controller != Controller::Freezer || !is_bound(controller) {
            return !is_bound(controller);
        }
        // Both have it: version 2 where it is entered anyway, since to enter it is dear for all but root.
        let goes_there = self.controllers().into_iter().any(|other| other != controller && !is_bound(other));
        goes_there || self.v1_parent(controller, hierarchies).is_err()
    }

    fn on_v1(&self, controller: Controller, hierarchies: &[Hierarchy]) -> Result<Place, Error> {
        if controller == Controller::Devices && !Capabilities::effective().contains(Capabilities::SYS_ADMIN) {
            return Err(controller.missing("to change its rules for devices needs CAP_SYS_ADMIN".into(), devices::ROOT));
        }
        let parent = self.v1_parent(controller, hierarchies)?;
        let settings = self.settings(controller, &parent, false)?;
        Ok(Place { parent, v2: false, controllers: vec![controller], settings, devices: None })
    }

    fn on_v2(&self, controller: Controller, parent: Option<&Path>) -> Result<Place, Error> {
        if controller == Controller::NetCls {
            return Err(controller.missing(
                "classes of network traffic are of version 1, and no such hierarchy is mounted".into(),
                "mount one (mount -t cgroup -o net_cls none /sys/fs/cgroup/net_cls), or match the cgroup's path (iptables \
                 -m cgroup --path, nft socket cgroupv2)",
            ));
        }
        if controller == Controller::PerfEvent && !v2::counts_perf_events() {
            let reason = "this kernel was built without CONFIG_CGROUP_PERF".into();
            return Err(controller.missing(reason, "use a kernel that has it"));
        }
        let Some(parent) = parent else {
            return Err(controller.missing("no cgroup hierarchy with this controller is mounted".into(), MOUNT));
        };
        v2::enable(parent, controller.v2()).map_err(|error| {
            let remedy = if error.kind() == io::ErrorKind::ReadOnlyFilesystem { READ_ONLY } else { DELEGATE };
            controller.missing(format!("{}: {error}", parent.display()), remedy)
        })?;
        let settings = self.settings(controller, parent, true)?;
        let devices = match &self.devices {
            Some(rules) if controller == Controller::Devices => {
                Some(Arc::new(devices::load(rules, parent).map_err(|error| {
                    controller.missing(format!("bpf(2) for {}: {error}", parent.display()), devices::ROOT)
                })?))
            }
            _ => None,
        };
        Ok(Place { parent: parent.to_owned(), v2: true, controllers: vec![controller], settings, devices })
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
        let gives =
            |candidate: &&PathBuf| controllers.iter().all(|controller| v2::enable(candidate, controller.v2()).is_ok());
        Ok(Some(candidates.iter().find(gives).cloned().unwrap_or(parent)))
    }

    /// The parent in one hierarchy.
    fn parent_in(&self, hierarchy: &Hierarchy, all: &[Hierarchy]) -> Result<PathBuf, Error> {
        let CgroupParent::Path(path) = &self.parent else { return Ok(hierarchy.own.clone()) };
        let Some(parent) = hierarchy.same_place(path, all) else {
            return Err(Error::invalid("cgroup_parent", format!("{} is in no cgroup file system", path.display())));
        };
        match parent.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(parent),
            Ok(_) => Err(Error::Cgroup { path: parent, source: io::ErrorKind::NotADirectory.into() }),
            Err(source) => Err(Error::Cgroup { path: parent, source }),
        }
    }
}

/// A guarantee holds as far as those above it have one.
fn low_above(places: &[Place], hierarchies: &[Hierarchy]) -> Option<String> {
    let place = places.iter().find(|place| place.v2 && place.controllers.contains(&Controller::Memory))?;
    let top = &hierarchies.iter().find(|hierarchy| hierarchy.is_v2())?.mount;
    let has_none = |path: &&Path| std::fs::read_to_string(path.join("memory.low")).is_ok_and(|low| low.trim() == "0");
    let above = place.parent.ancestors().take_while(|path| path.starts_with(top)).find(has_none)?;
    let file = above.join("memory.low");
    Some(format!("memory_low() guarantees nothing, since {} is 0: write to it what is to be shared", file.display()))
}

impl Compiled {
    /// All in it can be ended, whatever it does: at once (`cgroup.kill`), or while it is frozen.
    pub(crate) fn has_kill(&self) -> bool {
        self.places.iter().any(|place| place.v2 || place.controllers.contains(&Controller::Freezer))
    }

    fn add(&mut self, controller: Controller, found: Place) {
        match self.places.iter_mut().find(|place| place.parent == found.parent) {
            Some(place) => {
                place.controllers.push(controller);
                place.settings.extend(found.settings);
                place.devices = place.devices.take().or(found.devices);
            }
            None => self.places.push(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that does not account for swap has no such file.
    #[test]
    fn swap_that_is_asked_for_must_be_limited() {
        for (swap, optional) in [(None, true), (Some(0), true), (Some(1), false)] {
            for is_v2 in [false, true] {
                let limits = Limits { memory: Some(1 << 20), swap, ..Limits::default() };
                let settings = limits.settings(Controller::Memory, Path::new("/"), is_v2).unwrap();
                let of_swap = settings.iter().find(|s| s.file.contains("sw")).unwrap();
                assert_eq!(of_swap.optional, optional, "{swap:?}");
            }
        }
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
