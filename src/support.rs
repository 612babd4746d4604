//! What this host can do, what a sandbox has of it, and why not.

use std::fmt;
use std::io;

use bitflags::bitflags;
use rustix::io::Errno;

use crate::caps::Capabilities;
use crate::error::Error;
use crate::idmap::Range;
use crate::landlock;
use crate::ns::Namespaces;
use crate::plan::Step;
use crate::sandbox::Sandbox;
use crate::seccomp::{Action, Filter};

macro_rules! layers {
    ($($(#[doc = $doc:literal])* $name:ident $constant:ident = $bit:literal $text:literal,)*) => {
        /// One kind of isolation, or of what it is built from.
        ///
        /// ```
        /// # use stockade::Layer;
        /// let layer = Layer::NetNs;
        /// assert_eq!(layer.to_string(), "network namespace");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Layer { $($(#[doc = $doc])* $name,)* }

        bitflags! {
            /// A set of layers.
            ///
            /// ```
            /// # use stockade::{Layer, Layers};
            /// let wanted = Layers::PID_NS | Layers::NET_NS;
            /// assert!(wanted.contains(Layers::from(Layer::PidNs)));
            /// ```
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
            pub struct Layers: u64 { $($(#[doc = $doc])* const $constant = 1 << $bit;)* }
        }

        impl Layer {
            /// Every layer that this version knows.
            ///
            /// ```
            /// # use stockade::{Layer, Layers};
            /// let all: Layers = Layer::ALL.iter().copied().map(Layers::from).collect();
            /// assert_eq!(all, Layers::all());
            /// ```
            pub const ALL: &'static [Layer] = &[$(Layer::$name,)*];

            /// Its name in a report.
            ///
            /// ```
            /// # use stockade::Layer;
            /// assert_eq!(Layer::Memory.name(), "memory limits");
            /// ```
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
    /// All that came of a program can be ended at once, whatever it does: by a PID namespace, a cgroup of version 2, or a
    /// freezer.
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
    /// Filters of system calls (seccomp(2)), and the agent's answers to them.
    Seccomp SECCOMP = 32 "system call filter",
    /// AppArmor profiles.
    AppArmor APPARMOR = 33 "AppArmor profile",
    /// SELinux contexts.
    SeLinux SELINUX = 34 "SELinux context",
    /// Lists of the devices that may be used (the cgroup controller `devices`, or a BPF program).
    Devices DEVICES = 28 "device rules",
    /// Classes of network traffic (the cgroup controller `net_cls`, version 1).
    NetCls NET_CLS = 29 "network classes",
    /// Performance events of the whole tree can be counted (the cgroup controller `perf_event`).
    PerfEvent PERF_EVENT = 30 "performance events",
    /// The whole tree can be stopped for a while (`cgroup.freeze`, or the cgroup controller `freezer`).
    Freezer FREEZER = 31 "freezer",
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
///
/// ```
/// # use stockade::{Error, Layers, Sandbox};
/// let sandbox = Sandbox::new().selinux_context("plugin_t").apparmor_profile("plugin"); // no host has both
/// let sandbox = sandbox.best_effort(Layers::SELINUX | Layers::APPARMOR);
/// assert!(matches!(sandbox.prepare(), Err(Error::Invalid { .. })));
/// for missing in Sandbox::new().memory_limit(1 << 30).best_effort(Layers::MEMORY).prepare()?.report().missing() {
///     println!("{}: {}; {}", missing.layer, missing.reason, missing.remedy);
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
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
///
/// ```
/// # use stockade::Sandbox;
/// let report = Sandbox::hardened().check()?;
/// assert!(report.to_string().starts_with("in force  user namespace\n"));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub(crate) in_force: Layers,
    pub(crate) missing: Vec<Missing>,
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// What cannot be had goes on record, if it may be missing; else it is the error that it was.
    pub(crate) fn may_miss(&mut self, error: Error, accepted: Layers) -> Result<(), Error> {
        match error {
            Error::Unsupported { layer, reason, remedy } if accepted.contains(layer.into()) => {
                self.missing.push(Missing { layer, reason, remedy });
                Ok(())
            }
            error => Err(error),
        }
    }

    /// The layers that isolate.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let report = Sandbox::new().pid_ns().check()?;
    /// assert!(report.in_force().contains(Layers::PID_NS | Layers::TREE_KILL));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn in_force(&self) -> Layers {
        self.in_force
    }

    /// What was asked for, named in [`best_effort`](crate::Sandbox::best_effort), and is not to be had.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let report = Sandbox::new().pid_ns().check()?;
    /// assert_eq!(report.missing(), []); // all is required
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// What else there is to know: what was implied, what stands in for what, what is weaker than it may look.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let report = Sandbox::new().check()?;
    /// assert!(report.notes().iter().any(|note| note.contains("without pid_ns()")));
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
    /// Tries each layer in a throw-away sandbox, or asks the kernel where a layer is no more than that (Landlock, AppArmor,
    /// SELinux). That takes tenths of a second; nothing is left behind. It is about this process as it is now: its user, its
    /// capabilities, its cgroup.
    ///
    /// ```
    /// # use stockade::{Layers, Support};
    /// let support = Support::probe();
    /// assert!(support.available().contains(Layers::STAGE));
    /// ```
    pub fn probe() -> Support {
        Support { found: Layer::ALL.iter().map(|layer| (*layer, probe(*layer))).collect() }
    }

    /// Why a layer is not to be had, and what to do; `None` if it is.
    ///
    /// ```
    /// # use stockade::{Layer, Support};
    /// match Support::probe().missing(Layer::AppArmor) {
    ///     None => println!("there is AppArmor"),
    ///     Some(missing) => assert!(missing.remedy.contains("apparmor=1")),
    /// }
    /// ```
    pub fn missing(&self, layer: Layer) -> Option<&Missing> {
        self.found.iter().find(|(found, _)| *found == layer).and_then(|(_, result)| result.as_ref().err())
    }

    /// The layers that are to be had.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox, Support};
    /// let available = Support::probe().available();
    /// let sandbox = if available.contains(Layers::MEMORY) { Sandbox::new().memory_limit(64 << 20) } else { Sandbox::new() };
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn available(&self) -> Layers {
        self.found.iter().filter(|(_, result)| result.is_ok()).map(|(layer, _)| Layers::from(*layer)).collect()
    }

    /// Every layer, with a remark on what there is, or with what is missing.
    ///
    /// ```
    /// # use stockade::{Layer, Support};
    /// for (layer, found) in Support::probe().layers() {
    ///     println!("{layer:20} {}", if found.is_ok() { "yes" } else { "no" });
    /// }
    /// assert_eq!(Support::probe().layers().count(), Layer::ALL.len());
    /// ```
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
        Layer::Seccomp => Sandbox::new().seccomp(Filter::deny_list().deny("kexec_load", Action::Kill)),
        Layer::AppArmor => {
            return crate::label::apparmor().map(|_| String::new()).map_err(missing_of);
        }
        Layer::SeLinux => {
            return crate::label::selinux().map(|_| String::new()).map_err(missing_of);
        }
        Layer::Devices => Sandbox::new().device_rules(crate::DeviceRules::standard()),
        Layer::NetCls => Sandbox::new().net_class(0x10001),
        Layer::PerfEvent => Sandbox::new().perf_event(),
        Layer::Freezer => Sandbox::new().freezer(),
        Layer::Landlock => {
            return landlock::abi().map(|abi| format!("ABI {abi}")).ok_or_else(|| {
                missing("the kernel has no Landlock, or it is not enabled".into(), "boot with lsm=landlock,...".into())
            });
        }
    };
    match sandbox.probe() {
        Ok(_) => Ok(String::new()),
        Err(error) => Err(Missing { layer, ..missing_of(error) }),
    }
}

fn missing_of(error: Error) -> Missing {
    match error {
        Error::Unsupported { layer, reason, remedy } => Missing { layer, reason, remedy },
        other => Missing { layer: Layer::Stage, reason: other.to_string(), remedy: "see the error".into() },
    }
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

/// Of `kind`, "uid" or "gid".
pub(crate) fn no_ids_of_callers(kind: &str, needed: u32, callers: &[Range]) -> Error {
    let ends =
        |range: &Range| format!("{} to {}", range.outer, range.outer.saturating_add(range.count.saturating_sub(1)));
    let has = if callers.is_empty() { "none".into() } else { callers.iter().map(ends).collect::<Vec<_>>().join(", ") };
    Error::Unsupported {
        layer: Layer::IdRanges,
        reason: format!("of the caller's own user namespace's {kind}s ({has}) no {needed} in a row are nobody's"),
        remedy:
            "name some that it has with uid_map() and gid_map(), or run as another user than the outer container's \
                 root"
                .into(),
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
    /// The sandbox has a user namespace of its own.
    pub(crate) user_ns: bool,
    pub(crate) subject: &'a str,
}

/// The calling process is confined by AppArmor or SELinux: by this profile, or in this context.
fn confinement() -> Option<String> {
    let label = std::fs::read_to_string("/proc/self/attr/current").ok()?;
    let label = label.trim_end_matches(['\n', '\0']);
    (!label.is_empty() && !label.starts_with("unconfined")).then(|| label.to_owned())
}

/// Where the kernel itself does not answer so, or the process is known to be confined.
fn may_be_a_security_modules(symptom: &Symptom<'_>) -> bool {
    let certain = symptom.errno == Errno::ACCESS || symptom.step == Step::Propagation;
    match symptom.step {
        _ if symptom.layer == Layer::Overlay => false,
        Step::UserNamespaceLimit | Step::Propagation | Step::Root | Step::MountMake | Step::MountMove | Step::Pivot => {
            certain || confinement().is_some()
        }
        _ => false,
    }
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
        Errno::ROFS if symptom.step == Step::UserNamespaceLimit => {
            return unsupported(
                "/proc/sys is read-only, as in an outer container: what is counted for each user namespace cannot be \
                 limited"
                    .into(),
                "let the outer container leave /proc/sys writable (Docker: --security-opt systempaths=unconfined; \
                 Kubernetes: securityContext.procMount: Unmasked, which takes hostUsers: false), or leave out \
                 no_nested_user_ns() and inotify_limit(), which hardened() has",
            );
        }
        Errno::NODEV if symptom.step == Step::MountMake => {
            return unsupported(
                format!("Linux {} has no such file system ({})", kernel(), symptom.subject),
                "load its module",
            );
        }
        Errno::BUSY if symptom.step == Step::Seccomp => {
            return unsupported(
                "this process is under a filter that has a listener, and the kernel takes no second one".into(),
                "run it outside of that supervisor, or leave out the rules that need one: Kill, Notify, record_denials(), \
                 and on x86-64 all deny lists, for x32",
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
        Step::Loopback if !symptom.user_ns => unsupported(
            "to bring its loopback device up needs CAP_NET_ADMIN".into(),
            "add user_ns(), or give the process CAP_NET_ADMIN",
        ),
        Step::Hostname if filtered() => unsupported(
            format!("to {call} is answered {}, and a seccomp filter is on this process", symptom.errno),
            "let the outer container's seccomp profile allow sethostname(2), and setdomainname(2) for domainname()",
        ),
        _ if may_be_a_security_modules(symptom) && (symptom.errno == Errno::ACCESS || !filtered()) => {
            let label = confinement().map(|label| format!("; this process is under {label}")).unwrap_or_default();
            unsupported(
                format!(
                    "to {call} is answered {}, maybe by a security module, as AppArmor does by Docker's profile \
                     docker-default, and SELinux by container_t{label}",
                    symptom.errno
                ),
                "let the profile that confines the program allow mounts, and writes to /proc/sys/user (Docker: \
                 --security-opt apparmor=unconfined, or label=disable for SELinux; Kubernetes: \
                 securityContext.appArmorProfile.type: Unconfined)",
            )
        }
        Step::MountMake if symptom.layer == Layer::Proc => unsupported(
            "the kernel refuses a fresh procfs where the present one is partly covered, as in an outer container"
                .into(),
            "let the outer container show all of /proc (Docker: --security-opt systempaths=unconfined; Kubernetes: \
             securityContext.procMount: Unmasked, which takes hostUsers: false)",
        ),
        Step::Seccomp => unsupported(
            "the kernel refuses a filter of system calls, or its supervision".into(),
            "let the outer container's seccomp profile allow seccomp(2), or leave seccomp() out",
        ),
        Step::Landlock | Step::LandlockRules if filtered() => unsupported(
            "Landlock's calls are refused, and a seccomp filter is on this process".into(),
            "let the outer container's seccomp profile allow landlock_create_ruleset(2) and its like",
        ),
        // Where a source is opened, EACCES is of a directory on the way.
        Step::MountSource if symptom.errno == Errno::ACCESS => None,
        Step::Propagation | Step::Root | Step::MountSource | Step::MountMake | Step::MountMove | Step::Pivot
            if filtered() =>
        {
            unsupported(
                format!("to {call} is answered {}, and a seccomp filter is on this process", symptom.errno),
                "let the outer container's seccomp profile allow the mount calls",
            )
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_security_module_may_deny() {
        let said = |step, errno, layer| {
            let error = diagnose(&Symptom { step, errno, layer, user_ns: true, subject: "" });
            error.map(|error| error.to_string()).unwrap_or_default()
        };
        let maybe = |text: &str| text.contains("maybe by a security module") && text.contains("apparmor=unconfined");
        assert!(maybe(&said(Step::Propagation, Errno::ACCESS, Layer::Mounts)));
        assert!(maybe(&said(Step::UserNamespaceLimit, Errno::ACCESS, Layer::Proc)));
        assert!(maybe(&said(Step::MountMake, Errno::ACCESS, Layer::Proc)));
        // A directory on the way that this user may not search, and a layer.
        assert!(!maybe(&said(Step::MountSource, Errno::ACCESS, Layer::Mounts)));
        assert!(!maybe(&said(Step::MountMake, Errno::ACCESS, Layer::Overlay)));
        if !filtered() {
            assert!(maybe(&said(Step::Propagation, Errno::PERM, Layer::Mounts)));
            assert_eq!(maybe(&said(Step::MountMove, Errno::PERM, Layer::Mounts)), confinement().is_some());
        }
    }
}
