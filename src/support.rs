//! What this host can do, what a sandbox has of it, and why not.

use std::fmt;
use std::io;

use bitflags::bitflags;
use rustix::io::Errno;

use crate::caps::Capabilities;
use crate::error::Error;
use crate::ns::Namespaces;
use crate::plan::Step;
use crate::sandbox::Sandbox;

macro_rules! layers {
    ($($(#[doc = $doc:literal])* $name:ident $constant:ident = $bit:literal $text:literal,)*) => {
        /// One kind of isolation, or of what it is built from.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Layer { $($(#[doc = $doc])* $name,)* }

        bitflags! {
            /// A set of layers.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
            pub struct Layers: u64 { $($(#[doc = $doc])* const $constant = 1 << $bit;)* }
        }

        impl Layer {
            /// Every layer.
            pub const ALL: &'static [Layer] = &[$(Layer::$name,)*];

            /// Its name in a report.
            pub const fn name(self) -> &'static str {
                match self { $(Layer::$name => $text,)* }
            }
        }

        impl From<Layer> for Layers {
            fn from(layer: Layer) -> Layers {
                match layer { $(Layer::$name => Layers::$constant,)* }
            }
        }
    };
}

layers! {
    /// A user namespace (`CLONE_NEWUSER`).
    UserNs USER_NS = 0 "user namespace",
    /// A PID namespace (`CLONE_NEWPID`).
    PidNs PID_NS = 1 "PID namespace",
    /// A mount namespace (`CLONE_NEWNS`).
    MountNs MOUNT_NS = 2 "mount namespace",
    /// A network namespace (`CLONE_NEWNET`).
    NetNs NET_NS = 3 "network namespace",
    /// An IPC namespace (`CLONE_NEWIPC`).
    IpcNs IPC_NS = 4 "IPC namespace",
    /// A UTS namespace (`CLONE_NEWUTS`).
    UtsNs UTS_NS = 5 "UTS namespace",
    /// A cgroup namespace (`CLONE_NEWCGROUP`).
    CgroupNs CGROUP_NS = 6 "cgroup namespace",
    /// A time namespace (`CLONE_NEWTIME`).
    TimeNs TIME_NS = 7 "time namespace",
    /// Maps of more ids than one's own (newuidmap(1), or CAP_SETUID).
    IdRanges ID_RANGES = 8 "ranges of ids",
    /// Mounts by descriptor (`open_tree(2)`, `fsmount(2)`, `move_mount(2)`, `mount_setattr(2)`).
    Mounts MOUNTS = 9 "mounts",
    /// A procfs of the sandbox's own.
    Proc PROC = 10 "procfs",
    /// Overlays (overlayfs) with a private upper layer.
    Overlay OVERLAY = 11 "overlay",
    /// All that came of a program can be ended at once, whatever it does: by a PID namespace.
    TreeKill TREE_KILL = 12 "tree kill",
    /// The capability bounding set can be cut down.
    BoundingSet BOUNDING_SET = 13 "bounding set",
    /// Landlock.
    Landlock LANDLOCK = 14 "Landlock",
    /// Limits and accounts of memory (the cgroup controller `memory`).
    Memory MEMORY = 16 "memory limits",
    /// Limits of CPU bandwidth, and weights (the cgroup controller `cpu`).
    Cpu CPU = 17 "CPU limits",
    /// Sets of CPUs (the cgroup controller `cpuset`).
    Cpuset CPUSET = 18 "CPU sets",
    /// Limits on the number of tasks (the cgroup controller `pids`).
    Pids PIDS = 19 "pids limits",
    /// Limits of block device bandwidth, and weights (the cgroup controller `io`, or `blkio`).
    Io IO = 20 "I/O limits",
    /// Limits of huge pages (the cgroup controller `hugetlb`).
    Hugetlb HUGETLB = 22 "huge page limits",
    /// Limits of the whole tree's CPU time (the accounts of version 2, or the controller `cpuacct`).
    CpuTime CPU_TIME = 21 "CPU time limits",
    /// The stage can be started: sealed memory can be executed, and processes are held by descriptors.
    Stage STAGE = 15 "stage",
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the library has to know of the calling process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) caps: Capabilities,
    pub(crate) last_cap: u32,
    /// It lives in the initial user namespace, where uid 0 owns the machine; in a container's it owns the container.
    pub(crate) initial: bool,
}

impl Host {
    pub(crate) fn look() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            caps: Capabilities::effective(),
            last_cap: Capabilities::last(),
            initial: std::fs::read_to_string("/proc/self/uid_map")
                .map_or(true, |map| map.split_whitespace().eq(["0", "0", "4294967295"])),
        }
    }
}

/// A layer that is not in force although it was asked for, since
/// [`best_effort`](crate::Sandbox::best_effort) named it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The layer.
    pub layer: Layer,
    /// Why it is missing.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// What is in force for a sandbox, or would be.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub(crate) in_force: Layers,
    pub(crate) missing: Vec<Missing>,
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// The layers that isolate.
    pub fn in_force(&self) -> Layers {
        self.in_force
    }

    /// What was asked for, named in [`best_effort`](crate::Sandbox::best_effort), and is not to be had.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// What else there is to know: what was implied, what stands in for what, what is weaker than it may look.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for layer in Layer::ALL.iter().filter(|layer| self.in_force.contains(Layers::from(**layer))) {
            writeln!(f, "in force  {layer}")?;
        }
        for Missing { layer, reason, remedy } in &self.missing {
            writeln!(f, "missing   {layer}: {reason}; {remedy}")?;
        }
        for note in &self.notes {
            writeln!(f, "note      {note}")?;
        }
        Ok(())
    }
}

/// What this host can do, layer by layer.
///
/// ```
/// use stockade::{Layer, Support};
///
/// let support = Support::probe();
/// match support.missing(Layer::UserNs) {
///     None => println!("user namespaces work here"),
///     Some(missing) => println!("{}: {}", missing.reason, missing.remedy),
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Support {
    found: Vec<(Layer, Result<String, Missing>)>,
}

impl Support {
    /// Tries each layer in a throw-away child. That takes some milliseconds; nothing is left behind.
    pub fn probe() -> Support {
        Support { found: Layer::ALL.iter().map(|layer| (*layer, probe(*layer))).collect() }
    }

    /// Why a layer is not to be had, and what to do; `None` if it is.
    pub fn missing(&self, layer: Layer) -> Option<&Missing> {
        self.found.iter().find(|(found, _)| *found == layer).and_then(|(_, result)| result.as_ref().err())
    }

    /// The layers that are to be had.
    pub fn available(&self) -> Layers {
        self.found.iter().filter(|(_, result)| result.is_ok()).map(|(layer, _)| Layers::from(*layer)).collect()
    }

    /// Every layer, with a remark on what there is, or with what is missing.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, Result<&str, &Missing>)> {
        self.found.iter().map(|(layer, result)| (*layer, result.as_ref().map(String::as_str)))
    }
}

/// Tries one layer, for real. `Ok` holds a remark.
pub(crate) fn probe(layer: Layer) -> Result<String, Missing> {
    let missing = |reason: String, remedy: String| Missing { layer, reason, remedy };
    let sandbox = match layer {
        Layer::UserNs => Sandbox::new().user_ns(),
        Layer::PidNs => Sandbox::new().pid_ns(),
        Layer::MountNs => Sandbox::new().mount_ns(),
        Layer::NetNs => Sandbox::new().net_ns(),
        Layer::IpcNs => Sandbox::new().ipc_ns(),
        Layer::UtsNs => Sandbox::new().uts_ns(),
        Layer::CgroupNs => Sandbox::new().cgroup_ns().user_ns(),
        Layer::TimeNs => Sandbox::new().time_ns(),
        Layer::IdRanges if Host::look().caps.contains(Capabilities::SETUID | Capabilities::SETGID) => {
            Sandbox::new().user_ns()
        }
        Layer::IdRanges => Sandbox::new().user_ns().map_subordinate_ids(),
        Layer::Mounts => Sandbox::new().rootfs(crate::Rootfs::empty()).bind_ro("/", "/host"),
        Layer::Proc => Sandbox::new().rootfs(crate::Rootfs::empty()).proc("/proc"),
        Layer::Overlay => Sandbox::new().rootfs(crate::Rootfs::overlay(crate::Overlay::new("/usr"))),
        Layer::TreeKill => Sandbox::new().pid_ns(),
        Layer::Stage => Sandbox::new(),
        Layer::BoundingSet => Sandbox::new().user_ns(),
        Layer::Memory => Sandbox::new().memory_limit(1 << 30),
        Layer::Cpu => Sandbox::new().cpu_limit(1.0),
        Layer::Cpuset => Sandbox::new().cpuset("0"),
        Layer::Pids => Sandbox::new().pids_limit(1000),
        Layer::Io => Sandbox::new().io_weight(100),
        Layer::Hugetlb => Sandbox::new().hugetlb_limit(2 << 20, 0),
        Layer::CpuTime => Sandbox::new().cpu_time_limit(std::time::Duration::from_secs(1000)),
        Layer::Landlock => {
            return landlock_abi().map(|abi| format!("ABI {abi}")).ok_or_else(|| {
                missing("the kernel has no Landlock, or it is not enabled".into(), "boot with lsm=landlock,...".into())
            });
        }
    };
    match sandbox.probe() {
        Ok(_) => Ok(String::new()),
        Err(Error::Unsupported { reason, remedy, .. }) => Err(missing(reason, remedy)),
        Err(other) => Err(missing(other.to_string(), "see the error".into())),
    }
}

/// The highest ABI that both the kernel and the `landlock` crate know. Nothing is restricted by asking.
fn landlock_abi() -> Option<u32> {
    use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
    let known = [(1, ABI::V1), (2, ABI::V2), (3, ABI::V3), (4, ABI::V4), (5, ABI::V5), (6, ABI::V6)];
    let works = |abi: ABI| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let handled = rules.handle_access(AccessFs::from_all(abi)).and_then(|rules| match abi {
            ABI::V1 | ABI::V2 | ABI::V3 => Ok(rules),
            _ => rules.handle_access(landlock::AccessNet::from_all(abi)),
        });
        let scoped = handled.and_then(|rules| match abi {
            ABI::V6 => rules.scope(landlock::Scope::from_all(abi)),
            _ => Ok(rules),
        });
        scoped.is_ok_and(|rules| rules.create().is_ok())
    };
    known.into_iter().rev().find(|(_, abi)| works(*abi)).map(|(number, _)| number)
}

fn sysctl(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

/// A seccomp filter is on the calling process: an outer container's.
fn filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// AppArmor lets anybody make a user namespace, but nobody do anything in it (Ubuntu 23.10 and later).
fn apparmor_restricts() -> bool {
    sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1)
        && !Capabilities::effective().contains(Capabilities::SYS_ADMIN)
}

pub(crate) fn no_unused_ids() -> Error {
    Error::Unsupported {
        layer: Layer::IdRanges,
        reason: "all host ids from 0x70000000 to 0x7ffeffff belong to somebody".into(),
        remedy: "name a range with uid_map() and gid_map()".into(),
    }
}

/// The namespaces that one layer each stands for.
pub(crate) const NAMESPACES: &[(Layer, Namespaces)] = &[
    (Layer::UserNs, Namespaces::USER),
    (Layer::PidNs, Namespaces::PID),
    (Layer::MountNs, Namespaces::MOUNT),
    (Layer::NetNs, Namespaces::NET),
    (Layer::IpcNs, Namespaces::IPC),
    (Layer::UtsNs, Namespaces::UTS),
    (Layer::CgroupNs, Namespaces::CGROUP),
    (Layer::TimeNs, Namespaces::TIME),
];

/// A failed step, as the host sees it.
pub(crate) struct Symptom<'a> {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    /// The layer that the step was about.
    pub(crate) layer: Layer,
    pub(crate) subject: &'a str,
}

/// The reason and the remedy, where the errno is one that says: not on this host.
pub(crate) fn diagnose(symptom: &Symptom<'_>) -> Option<Error> {
    let unsupported = |reason: String, remedy: &str| {
        Some(Error::Unsupported { layer: symptom.layer, reason, remedy: remedy.to_owned() })
    };
    let call = symptom.step.describe();
    let denied = matches!(symptom.errno, Errno::PERM | Errno::ACCESS);
    match symptom.errno {
        Errno::NOSYS if filtered() => {
            return unsupported(
                format!("to {call} is answered ENOSYS, and a seccomp filter is on this process"),
                "let the outer container's seccomp profile allow it (Docker: --security-opt seccomp=...; Kubernetes: \
                 securityContext.seccompProfile)",
            );
        }
        Errno::NOSYS => {
            return unsupported(format!("Linux {} cannot {call}", kernel()), "run Linux 5.15 or newer");
        }
        Errno::NOSPC if matches!(symptom.step, Step::UserNamespace | Step::Namespaces) => {
            return unsupported(
                "the limit on namespaces is reached, or namespaces are nested 32 deep".into(),
                "raise /proc/sys/user/max_*_namespaces",
            );
        }
        Errno::NODEV if symptom.step == Step::MountMake => {
            return unsupported(
                format!("Linux {} has no such file system ({})", kernel(), symptom.subject),
                "load its module",
            );
        }
        Errno::INVAL if symptom.layer == Layer::Overlay => {
            return unsupported(
                "the kernel takes these layers for no overlay: one has mounts below it, which a user namespace locks, or \
                 a tmpfs has no user attributes (Linux 6.6)"
                    .into(),
                "take lower layers without mounts below them, or Linux 6.6, or leave user_ns() out as root",
            );
        }
        Errno::INVAL if matches!(symptom.step, Step::UserNamespace | Step::Namespaces) => {
            return unsupported(format!("Linux {} was built without it", kernel()), "use a kernel that has it");
        }
        _ if !denied => return None,
        _ => {}
    }
    match symptom.step {
        Step::UserNamespace if sysctl("kernel/unprivileged_userns_clone") == Some(0) => {
            unsupported("the sysctl kernel.unprivileged_userns_clone is 0".into(), "set it to 1, or run as root")
        }
        _ if apparmor_restricts() => unsupported(
            "AppArmor restricts unprivileged user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)"
                .into(),
            "give the program an AppArmor profile with 'userns,', or set the sysctl to 0",
        ),
        Step::UserNamespace | Step::Namespaces if filtered() => unsupported(
            "it is answered EPERM, and a seccomp filter is on this process".into(),
            "let the outer container's seccomp profile allow unshare(2) (Docker: --security-opt seccomp=...; Kubernetes: \
             securityContext.seccompProfile)",
        ),
        Step::IdMap => unsupported(
            "the kernel refuses the id map: to map the uid 0 of an outer user namespace takes CAP_SETFCAP in it".into(),
            "run as another user than the outer container's root, or leave it CAP_SETFCAP",
        ),
        Step::UserNamespace => unsupported(
            "the kernel refuses a user namespace (EPERM), as it does to a process in a chroot".into(),
            "run outside the chroot, or as root without user_ns()",
        ),
        Step::Namespaces => {
            unsupported("it needs CAP_SYS_ADMIN".into(), "add user_ns(), or give the process CAP_SYS_ADMIN")
        }
        Step::MountMake if symptom.layer == Layer::Proc => unsupported(
            "the kernel refuses a fresh procfs where the present one is partly covered, as in an outer container"
                .into(),
            "let the outer container show all of /proc (Docker: --security-opt systempaths=unconfined; Kubernetes: \
             securityContext.procMount: Unmasked)",
        ),
        Step::Propagation | Step::Root | Step::MountMake | Step::MountMove | Step::Pivot if filtered() => unsupported(
            format!("to {call} is answered {}, and a seccomp filter is on this process", symptom.errno),
            "let the outer container's seccomp profile allow the mount calls",
        ),
        _ => None,
    }
}

/// The stage could not even be started.
pub(crate) fn diagnose_start(error: io::Error) -> Error {
    let unsupported = |reason: &str, remedy: &str| Error::Unsupported {
        layer: Layer::Stage,
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => unsupported("there is no /proc here to start the stage from", "mount procfs at /proc"),
        Some(Errno::ACCESS) if sysctl("vm/memfd_noexec").is_some_and(|level| level > 0) => unsupported(
            "the sysctl vm.memfd_noexec forbids to execute sealed memory, and no temporary directory allows it either",
            "set it to 0, or set TMPDIR to a directory on a file system without noexec",
        ),
        _ => Error::Setup { step: Step::Stage, subject: String::new(), source: error },
    }
}
