//! The policy: plain data, and the setters. Nothing here makes a system call or can fail.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::caps::Capabilities;
use crate::cgroup::{CgroupParent, IoLimit, Limits};
use crate::command::Command;
use crate::error::Error;
use crate::idmap::{Ids, Range};
use crate::mount::{Operation, Overlay, Root, Rootfs};
use crate::ns::{ClockOffsets, Join, Namespaces};
use crate::prepare::{self, Prepared};
use crate::rlimit::Resource;
use crate::support::{Layers, Report};

/// The policy: what a program will be isolated from, and by how much.
///
/// It is built by value and is plain data. [`new`](Sandbox::new) isolates nothing yet, and each setter adds one thing; a
/// setter that needs another one implies it. What this host cannot do is an error when the policy is prepared, unless
/// [`best_effort`](Sandbox::best_effort) names it.
///
/// ```
/// use stockade::Sandbox;
///
/// let sandbox = Sandbox::new().user_ns().pid_ns().net_ns();
/// let outcome = sandbox.command("/bin/true").status()?;
/// assert!(outcome.success());
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// Always, whatever is set: `no_new_privs`, no capabilities, only the descriptors 0 to 2 and those handed over, an empty
/// environment but for `PATH`, a session of its own, default signal dispositions, umask 022.
///
/// Without privilege (CAP_SYS_ADMIN), whatever needs it implies [`user_ns`](Sandbox::user_ns), and the [`Report`] says so.
#[derive(Debug, Clone)]
#[must_use = "a policy does nothing until a command is run in it"]
pub struct Sandbox {
    // In the order of the steps.
    pub(crate) joins: Vec<Join>,
    pub(crate) namespaces: Namespaces,
    pub(crate) ids: Ids,
    pub(crate) clocks: ClockOffsets,
    pub(crate) pid_1: bool,
    pub(crate) root: Option<Root>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) hostname: Option<OsString>,
    pub(crate) domainname: Option<OsString>,
    pub(crate) capabilities: Capabilities,
    pub(crate) new_privileges: bool,
    pub(crate) limits: Limits,
    pub(crate) rlimits: Vec<(Resource, u64)>,
    pub(crate) wall_time: Option<Duration>,
    pub(crate) output: Option<u64>,
    pub(crate) setup_timeout: Duration,
    pub(crate) best_effort: Layers,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// Isolates nothing yet, but for what holds always (see [`Sandbox`]).
    pub fn new() -> Sandbox {
        Sandbox {
            joins: vec![],
            namespaces: Namespaces::empty(),
            ids: Ids::default(),
            clocks: ClockOffsets::default(),
            pid_1: false,
            root: None,
            operations: vec![],
            hostname: None,
            domainname: None,
            capabilities: Capabilities::empty(),
            new_privileges: false,
            limits: Limits::default(),
            rlimits: vec![],
            wall_time: None,
            output: None,
            setup_timeout: Duration::from_secs(30),
            best_effort: Layers::empty(),
        }
    }

    fn namespace(mut self, namespace: Namespaces) -> Self {
        self.namespaces |= namespace;
        self
    }

    fn operation(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self.namespace(Namespaces::MOUNT)
    }

    /// A user namespace (user_namespaces(7)): ids of its own, so that no capability inside counts outside.
    ///
    /// An ordinary user's sandbox maps that one user, to itself unless [`uid`](Sandbox::uid) says otherwise. Root's maps
    /// the ids 0 to 65535 to host ids that nobody has (never root to root): files of the host then belong to nobody, and
    /// what the program should write to must be open to all, or to the ids of [`uid_map`](Sandbox::uid_map).
    #[doc(alias = "CLONE_NEWUSER")]
    pub fn user_ns(self) -> Self {
        self.namespace(Namespaces::USER)
    }

    /// A PID namespace (pid_namespaces(7)): it sees its own processes only, and when its PID 1 (the agent) ends, the
    /// kernel ends all of them.
    #[doc(alias = "CLONE_NEWPID")]
    pub fn pid_ns(self) -> Self {
        self.namespace(Namespaces::PID)
    }

    /// A mount namespace (mount_namespaces(7)), cut off from the host's: mounts of either are not seen by the other.
    #[doc(alias = "CLONE_NEWNS")]
    pub fn mount_ns(self) -> Self {
        self.namespace(Namespaces::MOUNT)
    }

    /// A network namespace (network_namespaces(7)) with nothing but a loopback device, which is up.
    #[doc(alias = "CLONE_NEWNET")]
    pub fn net_ns(self) -> Self {
        self.namespace(Namespaces::NET)
    }

    /// An IPC namespace (ipc_namespaces(7)): System V objects and POSIX message queues of its own.
    #[doc(alias = "CLONE_NEWIPC")]
    pub fn ipc_ns(self) -> Self {
        self.namespace(Namespaces::IPC)
    }

    /// A UTS namespace (uts_namespaces(7)): host name and domain name of its own.
    #[doc(alias = "CLONE_NEWUTS")]
    pub fn uts_ns(self) -> Self {
        self.namespace(Namespaces::UTS)
    }

    /// A cgroup namespace (cgroup_namespaces(7)): the program sees its own cgroup as `/`.
    #[doc(alias = "CLONE_NEWCGROUP")]
    pub fn cgroup_ns(self) -> Self {
        self.namespace(Namespaces::CGROUP)
    }

    /// A time namespace (time_namespaces(7)): its monotonic and boot clocks may have an offset.
    #[doc(alias = "CLONE_NEWTIME")]
    pub fn time_ns(self) -> Self {
        self.namespace(Namespaces::TIME)
    }

    /// How far the sandbox's CLOCK_MONOTONIC is ahead, in nanoseconds (negative: behind). Implies `time_ns`.
    #[doc(alias = "timens_offsets")]
    pub fn monotonic_offset(mut self, nanoseconds: i64) -> Self {
        self.clocks.monotonic = Some(nanoseconds);
        self.time_ns()
    }

    /// How far the sandbox's CLOCK_BOOTTIME is ahead, in nanoseconds (negative: behind). Implies `time_ns`.
    #[doc(alias = "timens_offsets")]
    pub fn boottime_offset(mut self, nanoseconds: i64) -> Self {
        self.clocks.boottime = Some(nanoseconds);
        self.time_ns()
    }

    /// Enters an existing namespace of that one kind (setns(2)), such as one opened from `/proc/PID/ns/net`, instead of
    /// making one. Joined in the order of the calls, before a user namespace is made; entering needs CAP_SYS_ADMIN in the
    /// user namespace that owns it. A descriptor of another kind is [`Error::Invalid`].
    #[doc(alias = "setns")]
    pub fn join_ns(mut self, kind: Namespaces, namespace: impl Into<OwnedFd>) -> Self {
        self.joins.push(Join { kind, fd: Arc::new(namespace.into()) });
        self
    }

    /// The program's user, as it sees itself. Its group follows unless [`gid`](Sandbox::gid) says otherwise. Without it
    /// the caller's id.
    #[doc(alias = "setresuid")]
    pub fn uid(mut self, uid: u32) -> Self {
        self.ids.uid = Some(uid);
        self
    }

    /// The program's group, as it sees itself.
    #[doc(alias = "setresgid")]
    pub fn gid(mut self, gid: u32) -> Self {
        self.ids.gid = Some(gid);
        self
    }

    /// The program's supplementary groups; none unless said. 1024 is the most. An unprivileged map of a single id cannot
    /// set or clear them: there the caller's stay, and asking for others is [`Error::Unsupported`].
    #[doc(alias = "setgroups")]
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.ids.groups = groups.into_iter().collect();
        self
    }

    /// Maps `count` user ids from `inner` on to those of the host from `outer` on (`/proc/PID/uid_map`). Implies
    /// `user_ns`. As root it is written as it is; for others by newuidmap(1), within `/etc/subuid`.
    ///
    /// The host's uid 0 cannot be mapped, unless [`map_host_root`](Sandbox::map_host_root) accepts that.
    pub fn uid_map(mut self, inner: u32, outer: u32, count: u32) -> Self {
        self.ids.uid_map.push(Range { inner, outer, count });
        self.user_ns()
    }

    /// Maps group ids, as [`uid_map`](Sandbox::uid_map) does user ids.
    pub fn gid_map(mut self, inner: u32, outer: u32, count: u32) -> Self {
        self.ids.gid_map.push(Range { inner, outer, count });
        self.user_ns()
    }

    /// Maps the caller to 0 and all the ids that `/etc/subuid` and `/etc/subgid` give it to 1 and up, by newuidmap(1).
    /// Implies `user_ns`. For root: only those ids, from 0 on.
    #[doc(alias = "newuidmap")]
    #[doc(alias = "subuid")]
    pub fn map_subordinate_ids(mut self) -> Self {
        self.ids.subordinate = true;
        self.user_ns()
    }

    /// Accepts that a map has the host's uid 0 in it. **This weakens the sandbox**: even without capabilities, a process
    /// of that id may write to files of root's, among them those of `/proc/sys`.
    pub fn map_host_root(mut self) -> Self {
        self.ids.host_root = true;
        self
    }

    /// The program is PID 1 itself, without the agent as its parent inside; the agent stays outside. Implies `pid_ns`.
    /// A PID 1 gets no signal that it has no handler for, and must reap what it inherits.
    pub fn as_pid_1(mut self) -> Self {
        self.pid_1 = true;
        self.pid_ns()
    }

    /// The root directory. With a mount namespace it is pivoted to, and nothing of the old root is left (pivot_root(2));
    /// without one it is chroot(2), which hides but does not remove. Follows a link in the host's path.
    ///
    /// It stays writable as far as its permissions go. In a directory of the host no mount point is ever made: a target
    /// that is missing there is an error; see [`rootfs`](Sandbox::rootfs) for a root where it is made.
    #[doc(alias = "pivot_root")]
    pub fn chroot(mut self, root: impl AsRef<Path>) -> Self {
        self.root = Some(Root::Directory(root.as_ref().to_owned()));
        self
    }

    /// A root made for the sandbox, instead of a directory of the host. Implies `mount_ns`, and for
    /// [`Rootfs::system`] `pid_ns`.
    pub fn rootfs(mut self, rootfs: Rootfs) -> Self {
        let system = rootfs.system;
        self.root = Some(Root::Private(rootfs));
        if system { self.operation(Operation::System).pid_ns() } else { self.mount_ns() }
    }

    /// Shows a file or directory of the host, read-only with all that is mounted below it, without set-uid and, unless
    /// it is below `/dev`, without devices. Implies `mount_ns`.
    ///
    /// A link in `source` is followed when the policy is prepared; what is there then must still be there at the launch.
    /// Links in `target` are followed inside the root only.
    #[doc(alias = "mount_setattr")]
    pub fn bind_ro(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.bind(source.as_ref(), target.as_ref(), true)
    }

    /// As [`bind_ro`](Sandbox::bind_ro), but what is writable on the host stays so.
    pub fn bind_rw(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.bind(source.as_ref(), target.as_ref(), false)
    }

    fn bind(self, source: &Path, target: &Path, read_only: bool) -> Self {
        self.operation(Operation::Bind { source: source.to_owned(), target: target.to_owned(), read_only })
    }

    /// A private, empty tmpfs that anybody inside may write to, of at most so many bytes. Implies `mount_ns`.
    pub fn tmpfs(self, target: impl AsRef<Path>, bytes: u64) -> Self {
        self.operation(Operation::Tmpfs { target: target.as_ref().to_owned(), bytes })
    }

    /// A fresh procfs, of the sandbox's own processes. Implies `mount_ns` and `pid_ns`. Without a user namespace, what only
    /// the host's root may write to is read-only.
    pub fn proc(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Proc { target: target.as_ref().to_owned() }).pid_ns()
    }

    /// A private, read-only directory of devices: null, zero, full, random, urandom, tty; a devpts and a writable `shm` of
    /// its own; the links fd, stdin, stdout, stderr. Implies `mount_ns`.
    pub fn dev(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Dev { target: target.as_ref().to_owned() })
    }

    /// Layers of the host with a private layer above (overlayfs). Implies `mount_ns`.
    pub fn overlay(self, target: impl AsRef<Path>, overlay: Overlay) -> Self {
        self.operation(Operation::Overlay { target: target.as_ref().to_owned(), overlay })
    }

    /// Nothing of what is there can be read any more: an empty directory or the null device is put over it. It must
    /// exist. Implies `mount_ns`.
    pub fn mask(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Mask { target: target.as_ref().to_owned() })
    }

    /// A symbolic link, in a private file system. Implies `mount_ns`.
    pub fn symlink(self, to: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Symlink { target: target.as_ref().to_owned(), to: to.as_ref().to_owned() })
    }

    /// A directory, with those above it; what is missing is made, in a private file system. Implies `mount_ns`.
    pub fn dir(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Directory { target: target.as_ref().to_owned() })
    }

    /// The host name (sethostname(2)), 64 bytes at most. Implies `uts_ns`.
    pub fn hostname(mut self, name: impl Into<OsString>) -> Self {
        self.hostname = Some(name.into());
        self.uts_ns()
    }

    /// The NIS domain name (setdomainname(2)), 64 bytes at most. Implies `uts_ns`.
    pub fn domainname(mut self, name: impl Into<OsString>) -> Self {
        self.domainname = Some(name.into());
        self.uts_ns()
    }

    /// Capabilities that the program keeps; all others are cleared from all five sets. In a user namespace they count
    /// inside it only. For a program that is not uid 0 they are ambient, since nothing else outlives its exec.
    #[doc(alias = "capset")]
    pub fn keep_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Lets an exec give new privileges: `no_new_privs` is not set. **This weakens the sandbox**: set-uid programs and
    /// file capabilities work again, where mounts allow them.
    #[doc(alias = "PR_SET_NO_NEW_PRIVS")]
    pub fn allow_new_privileges(mut self) -> Self {
        self.new_privileges = true;
        self
    }

    /// How many bytes of memory the program and all that comes of it may use together, page cache and tmpfs included
    /// (`memory.max`, `memory.limit_in_bytes`). At the limit the kernel ends it, all of it:
    /// [`Limit::Memory`](crate::Limit::Memory). Swap is none unless [`swap_limit`](Sandbox::swap_limit) gives some.
    ///
    /// Needs the cgroup controller `memory` and a place where a cgroup can be made (see [`CgroupParent`]). The kernel
    /// rounds down to pages.
    #[doc(alias = "memory.max")]
    #[doc(alias = "memory.limit_in_bytes")]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.limits.memory = Some(bytes);
        self
    }

    /// How many bytes of swap it may use beyond its memory (`memory.swap.max`, `memory.memsw.limit_in_bytes`); 0 unless
    /// said. Needs [`memory_limit`](Sandbox::memory_limit).
    #[doc(alias = "memory.swap.max")]
    pub fn swap_limit(mut self, bytes: u64) -> Self {
        self.limits.swap = Some(bytes);
        self
    }

    /// From how many bytes on it is slowed down and its memory reclaimed (`memory.high`). Version 2 only.
    #[doc(alias = "memory.high")]
    pub fn memory_high(mut self, bytes: u64) -> Self {
        self.limits.memory_high = Some(bytes);
        self
    }

    /// How many bytes are not taken from it while others have some to reclaim (`memory.low`). Version 2 only.
    #[doc(alias = "memory.low")]
    pub fn memory_low(mut self, bytes: u64) -> Self {
        self.limits.memory_low = Some(bytes);
        self
    }

    /// How many cores' worth of CPU it may use, 0.01 or more (`cpu.max`, `cpu.cfs_quota_us` in periods of 100 ms).
    #[doc(alias = "cpu.max")]
    pub fn cpu_limit(mut self, cores: f64) -> Self {
        self.limits.cpu = Some(cores);
        self
    }

    /// How much CPU time that it has left unused it may use later in one go, beyond its limit; at most what it has in one
    /// period of 100 ms (`cpu.max.burst`, `cpu.cfs_burst_us`). Needs [`cpu_limit`](Sandbox::cpu_limit).
    #[doc(alias = "cpu.max.burst")]
    pub fn cpu_burst(mut self, burst: Duration) -> Self {
        self.limits.cpu_burst = Some(burst);
        self
    }

    /// Its share of a busy CPU, 1 to 10000, where everybody has 100 (`cpu.weight`, `cpu.shares`).
    #[doc(alias = "cpu.weight")]
    pub fn cpu_weight(mut self, weight: u32) -> Self {
        self.limits.cpu_weight = Some(weight);
        self
    }

    /// The CPUs that it may run on, like `0-3,8` (`cpuset.cpus`).
    #[doc(alias = "cpuset.cpus")]
    pub fn cpuset(mut self, cpus: impl Into<String>) -> Self {
        self.limits.cpuset = Some(cpus.into());
        self
    }

    /// The memory nodes that it may use, like `0-1` (`cpuset.mems`).
    #[doc(alias = "cpuset.mems")]
    pub fn cpuset_mems(mut self, nodes: impl Into<String>) -> Self {
        self.limits.cpuset_mems = Some(nodes.into());
        self
    }

    /// How many bytes in huge pages of one size it may use, 0 for none (`hugetlb.2MB.max`, `hugetlb.2MB.limit_in_bytes`).
    /// A size that this machine does not have is [`Error::Cgroup`].
    #[doc(alias = "hugetlb")]
    pub fn hugetlb_limit(mut self, page_size: u64, bytes: u64) -> Self {
        self.limits.hugetlb.push((page_size, bytes));
        self
    }

    /// How many tasks, that is processes and threads, it may have at once, itself included (`pids.max`). The agent is not
    /// counted. A fork beyond that is EAGAIN.
    #[doc(alias = "pids.max")]
    pub fn pids_limit(mut self, tasks: u32) -> Self {
        self.limits.pids = Some(tasks);
        self
    }

    /// Bandwidth and operations of a block device: the one of that node, or the one that the file or directory is on
    /// (`io.max`, `blkio.throttle.*`).
    #[doc(alias = "io.max")]
    pub fn io_limit(mut self, device: impl AsRef<Path>, limit: IoLimit) -> Self {
        self.limits.io.push((device.as_ref().to_owned(), limit));
        self
    }

    /// Its share of a busy block device, 1 to 10000, where everybody has 100 (`io.weight`, `blkio.weight`).
    #[doc(alias = "io.weight")]
    pub fn io_weight(mut self, weight: u32) -> Self {
        self.limits.io_weight = Some(weight);
        self
    }

    /// How much CPU time the program and all that comes of it may use together. The agent sees to it, by the account of
    /// their cgroup, also while the host is stopped: [`Limit::CpuTime`](crate::Limit::CpuTime). What forks to dodge
    /// `RLIMIT_CPU` does not dodge this.
    #[doc(alias = "cpuacct.usage")]
    pub fn cpu_time_limit(mut self, limit: Duration) -> Self {
        self.limits.cpu_time = Some(limit);
        self
    }

    /// Below which cgroup the sandbox's own is made; [`CgroupParent::Auto`] unless said.
    pub fn cgroup_parent(mut self, parent: CgroupParent) -> Self {
        self.limits.parent = parent;
        self
    }

    /// A resource limit of each process (setrlimit(2)), soft and hard; `u64::MAX` is none. The last one for a resource
    /// counts.
    #[doc(alias = "setrlimit")]
    pub fn rlimit(mut self, resource: Resource, value: u64) -> Self {
        self.rlimits.retain(|(set, _)| *set != resource);
        self.rlimits.push((resource, value));
        self
    }

    /// How long a program may run, from its exec on, by the clock on the wall. Then it and all that came of it is ended,
    /// whether or not anybody waits, and also while the host is stopped. Zero is an error.
    pub fn wall_time_limit(mut self, limit: Duration) -> Self {
        self.wall_time = Some(limit);
        self
    }

    /// How many bytes a program may write to its piped stdout and stderr together, as far as they are read by
    /// [`Command::output`] or [`Child::wait_with_output`](crate::Child::wait_with_output); one more ends it. Zero is an
    /// error.
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.output = Some(bytes);
        self
    }

    /// How long the sandbox may take to stand before it is given up ([`Error::TimedOut`]); 30 s unless said.
    pub fn setup_timeout(mut self, limit: Duration) -> Self {
        self.setup_timeout = limit;
        self
    }

    /// What may be missing on this host without an error. Everything else is required. What is missing is in the
    /// [`Report`]. [`Layers::TREE_KILL`] accepts that, without a PID namespace, [`Child::kill`](crate::Child::kill)
    /// reaches what can be found by its parents, which a program that forks fast enough can outrun.
    pub fn best_effort(mut self, layers: Layers) -> Self {
        self.best_effort |= layers;
        self
    }

    /// Checks and compiles the policy, once for many launches.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what makes no sense, [`Error::Source`] for a root or a bind's source that is not there,
    /// [`Error::Unsupported`] for what this host is known not to have.
    pub fn prepare(&self) -> Result<Prepared, Error> {
        prepare::prepare(self)
    }

    /// A command to run in it. `program` is looked up in the sandbox's `PATH`, inside its root, if there is no slash in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::in_sandbox(self.clone(), program.as_ref())
    }

    /// What would be in force here: makes the whole environment, runs nothing in it, and ends it again.
    ///
    /// # Errors
    ///
    /// Those that a launch would have, but for the program's own.
    pub fn check(&self) -> Result<Report, Error> {
        self.probe()
    }

    pub(crate) fn probe(&self) -> Result<Report, Error> {
        let prepared = self.prepare()?;
        crate::launch::stand(&prepared)?;
        Ok(prepared.report().clone())
    }

    pub(crate) fn root_directory(&self) -> Option<&PathBuf> {
        match &self.root {
            Some(Root::Directory(path)) => Some(path),
            _ => None,
        }
    }
}
