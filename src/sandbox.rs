//! The policy: plain data, and the setters. Nothing here makes a system call or can fail.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::caps::{Capabilities, Securebits};
use crate::cgroup::{CgroupParent, DeviceRules, IoLimit, Limits};
use crate::command::Command;
use crate::container::Container;
use crate::error::Error;
use crate::idmap::{Ids, Range};
use crate::label::Labels;
use crate::landlock;
use crate::mount::{Operation, Overlay, Root, Rootfs};
use crate::ns::{ClockOffsets, Join, Namespaces};
use crate::pool::Pool;
use crate::prepare::{self, Prepared};
use crate::rlimit::Resource;
use crate::seccomp::Filter;
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
/// A limit of the tree implies [`mount_ns`](Sandbox::mount_ns) where the program could else write to the files of its own
/// cgroup: see the guide's page on [cgroups](crate::guide::cgroups).
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
    pub(crate) no_nested: bool,
    pub(crate) inotify: Option<u32>,
    pub(crate) landlock: Vec<landlock::Rules>,
    pub(crate) landlock_mounts: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) ambient: Capabilities,
    pub(crate) securebits: Securebits,
    pub(crate) new_privileges: bool,
    pub(crate) limits: Limits,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) rlimits: Vec<(Resource, u64)>,
    pub(crate) labels: Labels,
    pub(crate) seccomp: Option<Filter>,
    pub(crate) no_network: bool,
    pub(crate) record: bool,
    /// Calls are observed, not judged ([`Command::learn`]).
    pub(crate) observe: bool,
    pub(crate) wall_time: Option<Duration>,
    pub(crate) output: Option<u64>,
    pub(crate) setup_timeout: Duration,
    pub(crate) best_effort: Layers,
    /// What is missing of some layers may be made up for by others ([`hardened`](Sandbox::hardened)).
    pub(crate) stand_ins: bool,
    /// A pool may give the network namespace of one run to another.
    pub(crate) recycle_net: bool,
    /// It is joined, and that was made for such a run: the user namespace that owns it may be joined before one is made.
    pub(crate) recycled: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// Isolates nothing yet, but for what holds always (see [`Sandbox`]).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let outcome = Sandbox::new().command("true").status()?;
    /// assert!(outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
            no_nested: false,
            inotify: None,
            landlock: vec![],
            landlock_mounts: false,
            capabilities: Capabilities::empty(),
            ambient: Capabilities::empty(),
            securebits: Securebits::empty(),
            new_privileges: false,
            limits: Limits::default(),
            directory: None,
            rlimits: vec![],
            labels: Labels::default(),
            seccomp: None,
            no_network: false,
            record: false,
            observe: false,
            wall_time: None,
            output: None,
            setup_timeout: Duration::from_secs(30),
            best_effort: Layers::empty(),
            stand_ins: false,
            recycle_net: false,
            recycled: false,
        }
    }

    /// For untrusted code: every layer that needs no configuration. As root and rootless alike; what stands in for what is in
    /// the [`Report`].
    ///
    /// It is the same as these setters, and each can be followed by others, which change what it has set:
    ///
    /// - all eight namespaces: no network but a loopback device of its own, host name `sandbox`; no user namespaces
    ///   inside; user and group 1000, as root mapped to host ids that nobody has;
    /// - a root of [`Rootfs::system`], read-only, with `/tmp` and `/work` to write to, 64 MiB each, gone with the sandbox; it
    ///   starts in `/work`;
    /// - Landlock: only what the mounts let be written may be written
    ///   ([`landlock_mounts`](Sandbox::landlock_mounts)), and no signals or abstract sockets beyond the sandbox, as far as
    ///   the kernel knows how;
    /// - no capabilities, and [`Filter::hardened`](crate::seccomp::Filter::hardened): what container engines refuse, and keyrings,
    ///   io_uring, odd socket families, ptrace, perf, bpf, userfaultfd, namespaces, mounts;
    /// - 256 tasks (a cgroup's, else `RLIMIT_NPROC` in its user namespace), 1024 descriptors, files of 256 MiB, 16 inotify
    ///   instances, no core dumps.
    ///
    /// What it leaves open: two sandboxes see each other's locks on files of `/usr`, which they share, and can be told when such a
    /// file is opened (inotify(7)); an overlay as the root has files of its own. As root all sandboxes have the same ids, of which
    /// the kernel counts some things together, such as pages of pipes: give each a map of its own
    /// ([`uid_map`](Sandbox::uid_map)) where one must not use up what another needs. Rootless, a file that is handed over belongs to the program's user, who may change its mode. POSIX
    /// message queues are refused by Landlock, which knows no path to them.
    ///
    /// It has no limits of memory or time, since there is no size that fits all: see
    /// [`memory_limit`](Sandbox::memory_limit) and [`wall_time_limit`](Sandbox::wall_time_limit).
    ///
    /// ```
    /// use stockade::Sandbox;
    ///
    /// let output = Sandbox::hardened().command("id").arg("-u").output()?;
    /// assert_eq!(output.stdout, b"1000\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn hardened() -> Sandbox {
        let mut sandbox = Sandbox::new()
            .user_ns()
            .no_nested_user_ns()
            .inotify_limit(16)
            .net_ns()
            .ipc_ns()
            .cgroup_ns()
            .time_ns()
            .uid(1000)
            .gid(1000)
            .rootfs(Rootfs::system().read_only())
            .tmpfs("/work", 64 << 20)
            .current_dir("/work")
            .hostname("sandbox")
            .landlock_mounts()
            .pids_limit(256)
            .rlimit(Resource::OpenFiles, 1024)
            .rlimit(Resource::FileSize, 256 << 20)
            // 0 would still let a kernel that pipes cores to a program do so.
            .rlimit(Resource::Core, 1)
            .seccomp(Filter::hardened());
        sandbox.stand_ins = true;
        sandbox
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
    /// what the program should write to must be open to all, or to the ids of [`uid_map`](Sandbox::uid_map). The root of an outer
    /// container's user namespace has only that one's ids to give: of those it maps as many in a row as are nobody's, above
    /// 60000 if that is enough for the policy's own, else below; all its sandboxes share them.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let inside = Sandbox::new().user_ns().command("readlink").arg("/proc/self/ns/user").output()?.stdout;
    /// let outside = std::fs::read_link("/proc/self/ns/user").unwrap();
    /// assert_ne!(String::from_utf8_lossy(&inside).trim_end(), outside.to_str().unwrap());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWUSER")]
    pub fn user_ns(self) -> Self {
        self.namespace(Namespaces::USER)
    }

    /// A PID namespace (pid_namespaces(7)): it sees its own processes only, and when its PID 1 (the agent) ends, the
    /// kernel ends all of them.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().pid_ns().command("sh").args(["-c", "echo $$"]).output()?;
    /// assert_eq!(output.stdout, b"2\n"); // 1 is the agent
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWPID")]
    pub fn pid_ns(self) -> Self {
        self.namespace(Namespaces::PID)
    }

    /// A mount namespace (mount_namespaces(7)), cut off from the host's: mounts of either are not seen by the other.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().mount_ns().tmpfs("/tmp", 1 << 20);
    /// assert!(sandbox.command("touch").arg("/tmp/seen-inside-only").status()?.success());
    /// assert!(!std::path::Path::new("/tmp/seen-inside-only").exists());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWNS")]
    pub fn mount_ns(self) -> Self {
        self.namespace(Namespaces::MOUNT)
    }

    /// A network namespace (network_namespaces(7)) with nothing but a loopback device, which is up.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let routes = "tail -n +2 /proc/net/route";
    /// let output = Sandbox::new().net_ns().command("sh").args(["-c", routes]).output()?;
    /// assert_eq!(output.stdout, b"");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWNET")]
    pub fn net_ns(self) -> Self {
        self.namespace(Namespaces::NET)
    }

    /// An IPC namespace (ipc_namespaces(7)): System V objects and POSIX message queues of its own.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let segments = "tail -n +2 /proc/sysvipc/shm";
    /// let output = Sandbox::new().ipc_ns().command("sh").args(["-c", segments]).output()?;
    /// assert_eq!(output.stdout, b"");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWIPC")]
    pub fn ipc_ns(self) -> Self {
        self.namespace(Namespaces::IPC)
    }

    /// A UTS namespace (uts_namespaces(7)): host name and domain name of its own.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().uts_ns();
    /// let output = sandbox.command("uname").arg("-n").output()?;
    /// assert!(output.outcome.success()); // the host's name, until hostname() sets another
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWUTS")]
    pub fn uts_ns(self) -> Self {
        self.namespace(Namespaces::UTS)
    }

    /// A cgroup namespace (cgroup_namespaces(7)): the program sees its own cgroup as `/`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let elsewhere = "! grep -v ':/$' /proc/self/cgroup";
    /// let outcome = Sandbox::new().cgroup_ns().command("sh").args(["-c", elsewhere]).status()?;
    /// assert!(outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWCGROUP")]
    pub fn cgroup_ns(self) -> Self {
        self.namespace(Namespaces::CGROUP)
    }

    /// A time namespace (time_namespaces(7)): its monotonic and boot clocks may have an offset.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let report = Sandbox::new().time_ns().check()?;
    /// assert!(report.in_force().contains(Layers::TIME_NS));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "CLONE_NEWTIME")]
    pub fn time_ns(self) -> Self {
        self.namespace(Namespaces::TIME)
    }

    /// In a [`Pool`], the network namespace of one run may be given to another, which saves the dearest part of a sandbox and
    /// its tear-down. **This weakens the isolation of two runs from each other**: a later one sees what the kernel has counted
    /// for an earlier one (`/proc/net`), ports in TIME_WAIT, cached routes and TCP metrics. Addresses, devices, routes and
    /// settings it cannot have changed: that takes a capability in the user namespace that owns it, which no program of the
    /// pool is in. Implies `net_ns`; needs `user_ns` and `pid_ns`, and no capabilities kept. Nothing but a pool looks at it.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let pool = Sandbox::new().user_ns().pid_ns().recycle_net_ns().pool(1)?;
    /// assert!(pool.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn recycle_net_ns(mut self) -> Self {
        self.recycle_net = true;
        self.net_ns()
    }

    /// The policy with a network that is joined, and the user namespace that owns it.
    pub(crate) fn with_recycled(mut self, network: &OwnedFd, owner: Option<&OwnedFd>) -> Result<Self, Error> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(Error::host("hold a namespace"));
        let mut joins = vec![];
        for (kind, fd) in [(Namespaces::USER, owner), (Namespaces::NET, Some(network))] {
            if let Some(fd) = fd {
                joins.push(Join { kind, fd: Arc::new(copy(fd)?) });
            }
        }
        joins.append(&mut self.joins);
        self.joins = joins;
        self.namespaces = (self.namespaces | Namespaces::USER) - Namespaces::NET;
        (self.recycle_net, self.recycled) = (false, true);
        Ok(self)
    }

    /// How far the sandbox's CLOCK_MONOTONIC is ahead, in nanoseconds (negative: behind); 0 unless said. One by which the clock
    /// would come before zero is [`Error::Setup`] (ERANGE). Implies `time_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let day = 86_400_000_000_000;
    /// let output = Sandbox::new().monotonic_offset(day).command("cat").arg("/proc/self/timens_offsets").output()?;
    /// assert!(String::from_utf8_lossy(&output.stdout).contains("86400"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "timens_offsets")]
    pub fn monotonic_offset(mut self, nanoseconds: i64) -> Self {
        self.clocks.monotonic = Some(nanoseconds);
        self.time_ns()
    }

    /// How far the sandbox's CLOCK_BOOTTIME is ahead, in nanoseconds (negative: behind); 0 unless said. Errors as for
    /// [`monotonic_offset`](Sandbox::monotonic_offset). Implies `time_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let year = 31_536_000_000_000_000;
    /// let output = Sandbox::new().boottime_offset(year).command("cat").arg("/proc/uptime").output()?;
    /// let text = String::from_utf8_lossy(&output.stdout);
    /// let up: f64 = text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap();
    /// assert!(up > 31_536_000.0);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "timens_offsets")]
    pub fn boottime_offset(mut self, nanoseconds: i64) -> Self {
        self.clocks.boottime = Some(nanoseconds);
        self.time_ns()
    }

    /// Enters an existing namespace of that one kind (setns(2)), such as one opened from `/proc/PID/ns/net`, instead of
    /// making one. Joined in the order of the calls, before a user namespace is made; entering needs CAP_SYS_ADMIN in the
    /// user namespace that owns it. A descriptor of another kind is [`Error::Invalid`], and so are two of one kind, one of a kind
    /// that is also to be made, and a user namespace that is not the first.
    ///
    /// ```
    /// # use stockade::{Namespaces, Sandbox};
    /// # if !rustix::process::geteuid().is_root() { return Ok(()) }
    /// let network = std::fs::File::open("/proc/self/ns/net").unwrap();
    /// let sandbox = Sandbox::new().join_ns(Namespaces::NET, network);
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "setns")]
    pub fn join_ns(mut self, kind: Namespaces, namespace: impl Into<OwnedFd>) -> Self {
        self.joins.push(Join { kind, fd: Arc::new(namespace.into()) });
        self
    }

    /// The program's user, as it sees itself. Its group follows unless [`gid`](Sandbox::gid) says otherwise. Without it
    /// the caller's id. One that the map of the user namespace does not have is [`Error::Invalid`]. Without CAP_SETUID and
    /// CAP_SETGID another id than the caller's implies `user_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().uid(1234).command("id").arg("-u").output()?;
    /// assert_eq!(output.stdout, b"1234\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "setresuid")]
    pub fn uid(mut self, uid: u32) -> Self {
        self.ids.uid = Some(uid);
        self
    }

    /// The program's group, as it sees itself; that of [`uid`](Sandbox::uid), else the caller's, unless set. Errors as there.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().uid(1234).gid(56).command("id").arg("-g").output()?;
    /// assert_eq!(output.stdout, b"56\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "setresgid")]
    pub fn gid(mut self, gid: u32) -> Self {
        self.ids.gid = Some(gid);
        self
    }

    /// The program's supplementary groups; none unless said. 1024 is the most. An unprivileged map of a single id cannot
    /// set or clear them: there the caller's stay, and asking for others is [`Error::Unsupported`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if !rustix::process::geteuid().is_root() { return Ok(()) }
    /// let output = Sandbox::new().uid(1234).groups([7, 8]).command("id").arg("-G").output()?;
    /// assert_eq!(output.stdout, b"1234 7 8\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "setgroups")]
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.ids.groups = groups.into_iter().collect();
        self
    }

    /// Maps `count` user ids from `inner` on to those of the host from `outer` on (`/proc/PID/uid_map`). Implies
    /// `user_ns`. As root it is written as it is; for others by newuidmap(1), within `/etc/subuid`. It is for both kinds of ids
    /// or none: see [`gid_map`](Sandbox::gid_map). Ranges that are empty or overlap, and more than 340, are [`Error::Invalid`].
    ///
    /// The host's uid 0 cannot be mapped, unless [`map_host_root`](Sandbox::map_host_root) accepts that.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if !rustix::process::geteuid().is_root() { return Ok(()) }
    /// let sandbox = Sandbox::new().uid_map(0, 100_000, 1000).gid_map(0, 100_000, 1000).uid(0);
    /// let output = sandbox.command("cat").arg("/proc/self/uid_map").output()?;
    /// let map = String::from_utf8_lossy(&output.stdout);
    /// assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn uid_map(mut self, inner: u32, outer: u32, count: u32) -> Self {
        self.ids.uid_map.push(Range { inner, outer, count });
        self.user_ns()
    }

    /// Maps group ids, as [`uid_map`](Sandbox::uid_map) does user ids.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if !rustix::process::geteuid().is_root() { return Ok(()) }
    /// let sandbox = Sandbox::new().uid_map(0, 100_000, 10).gid_map(0, 200_000, 10).uid(0).gid(5);
    /// let output = sandbox.command("id").arg("-g").output()?;
    /// assert_eq!(output.stdout, b"5\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn gid_map(mut self, inner: u32, outer: u32, count: u32) -> Self {
        self.ids.gid_map.push(Range { inner, outer, count });
        self.user_ns()
    }

    /// Maps the caller to 0 and all the ids that `/etc/subuid` and `/etc/subgid` give it to 1 and up, by newuidmap(1).
    /// Implies `user_ns`. For root: only those ids, from 0 on. Without such ids, or the program, it is [`Error::Unsupported`] with
    /// the line or the package that is missing.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// match Sandbox::new().map_subordinate_ids().uid(1).command("id").arg("-u").output() {
    ///     Ok(output) => assert_eq!(output.stdout, b"1\n"),
    ///     Err(Error::Unsupported { remedy, .. }) => println!("{remedy}"), // a line for /etc/subuid, or a package to install
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "newuidmap")]
    #[doc(alias = "subuid")]
    pub fn map_subordinate_ids(mut self) -> Self {
        self.ids.subordinate = true;
        self.user_ns()
    }

    /// Accepts that a map has the host's uid 0 in it. **This weakens the sandbox**: even without capabilities, a process
    /// of that id may write to files of root's, among them those of `/proc/sys`.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// # if !rustix::process::geteuid().is_root() { return Ok(()) }
    /// let sandbox = Sandbox::new().uid_map(0, 0, 1).gid_map(0, 0, 1).uid(0).gid(0);
    /// assert!(matches!(sandbox.prepare(), Err(Error::Invalid { setting: "uid_map", .. })));
    /// assert!(sandbox.map_host_root().command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn map_host_root(mut self) -> Self {
        self.ids.host_root = true;
        self
    }

    /// The program is PID 1 itself, without the agent as its parent inside; the agent stays outside. Implies `pid_ns`.
    /// A PID 1 gets no signal that it has no handler for, and must reap what it inherits. It is for one program: a container, a
    /// pool or a closure with it is [`Error::Invalid`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().as_pid_1().command("sh").args(["-c", "echo $$"]).output()?;
    /// assert_eq!(output.stdout, b"1\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn as_pid_1(mut self) -> Self {
        self.pid_1 = true;
        self.pid_ns()
    }

    /// The root directory. With a mount namespace it is pivoted to, and nothing of the old root is left (pivot_root(2));
    /// without one it is chroot(2), which hides but does not remove. Follows a link in the host's path.
    ///
    /// It stays writable as far as its permissions go. In a directory of the host no mount point is ever made: a target
    /// that is missing there is an error; see [`rootfs`](Sandbox::rootfs) for a root where it is made.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().mount_ns().chroot("/usr").command("/bin/ls").arg("/").output()?;
    /// assert!(String::from_utf8_lossy(&output.stdout).contains("share\n")); // /usr/share of the host
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "pivot_root")]
    pub fn chroot(self, root: impl AsRef<Path>) -> Self {
        self.replace_root(Root::Directory(root.as_ref().to_owned()))
    }

    /// What the root before it was made of goes with it.
    fn replace_root(mut self, root: Root) -> Self {
        self.operations.retain(|operation| !matches!(operation, Operation::System));
        self.root = Some(root);
        self
    }

    /// A root made for the sandbox, instead of a directory of the host. Implies `mount_ns`, and for
    /// [`Rootfs::system`] `pid_ns`. The last root that is set counts, and what was mounted elsewhere stays.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system());
    /// assert_eq!(sandbox.command("test").args(["-e", "/home"]).status()?.code(), Some(1));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn rootfs(self, rootfs: Rootfs) -> Self {
        let system = rootfs.system;
        let sandbox = self.replace_root(Root::Private(rootfs));
        if system { sandbox.operation(Operation::System).pid_ns() } else { sandbox.mount_ns() }
    }

    /// Shows a file or directory of the host, read-only with all that is mounted below it, without set-uid and, unless
    /// it is below `/dev`, without devices. Implies `mount_ns`.
    ///
    /// A link in `source` is followed when the policy is prepared; what is there then must still be there at the launch.
    /// Links in `target` are followed inside the root only. A source that is not there is [`Error::Source`]; a target that is not
    /// there is made in a private root, and in a directory of the host it is [`Error::Setup`].
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let data = tempfile::tempdir().unwrap();
    /// std::fs::write(data.path().join("in"), "3 4\n").unwrap();
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).bind_ro(data.path(), "/data");
    /// assert_eq!(sandbox.command("cat").arg("/data/in").output()?.stdout, b"3 4\n");
    /// assert!(!sandbox.command("sh").args(["-c", "echo > /data/in"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "mount_setattr")]
    pub fn bind_ro(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.bind(source.as_ref(), target.as_ref(), true)
    }

    /// As [`bind_ro`](Sandbox::bind_ro), but what is writable on the host stays so.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let data = tempfile::tempdir().unwrap();
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).bind_rw(data.path(), "/data");
    /// sandbox.command("sh").args(["-c", "echo done > /data/out"]).status()?;
    /// assert_eq!(std::fs::read(data.path().join("out")).unwrap(), b"done\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn bind_rw(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.bind(source.as_ref(), target.as_ref(), false)
    }

    fn bind(self, source: &Path, target: &Path, read_only: bool) -> Self {
        self.operation(Operation::Bind { source: source.to_owned(), target: target.to_owned(), read_only })
    }

    /// A private, empty tmpfs that anybody inside may write to, of at most so many bytes, and as many files as that is pages.
    /// Zero bytes are [`Error::Invalid`]. What is written counts as memory of who writes. Implies `mount_ns`.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).tmpfs("/work", 1 << 20);
    /// let script = "head -c 2M /dev/zero > /work/file";
    /// assert!(!sandbox.command("sh").args(["-c", script]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn tmpfs(self, target: impl AsRef<Path>, bytes: u64) -> Self {
        self.operation(Operation::Tmpfs { target: target.as_ref().to_owned(), bytes })
    }

    /// A fresh procfs, of the sandbox's own processes. Implies `mount_ns` and `pid_ns`. Without a user namespace, what only
    /// the host's root may write to is read-only.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().proc("/proc").command("sh").args(["-c", "ls -d /proc/[0-9]*"]).output()?;
    /// assert!(output.stdout.starts_with(b"/proc/1\n/proc/2\n"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn proc(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Proc { target: target.as_ref().to_owned() }).pid_ns()
    }

    /// A private, read-only directory of devices: null, zero, full, random, urandom, tty, ptmx; a devpts, for up to 64 terminals at
    /// once, and a writable `shm` of its own, 64 MiB; the links fd, stdin, stdout, stderr. Implies `mount_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().mount_ns().chroot("/").dev("/dev").command("ls").arg("/dev").output()?;
    /// let found: Vec<_> = output.stdout.split(|byte| *byte == b'\n').collect();
    /// assert!(found.contains(&&b"null"[..]) && !found.contains(&&b"kmsg"[..]));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn dev(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Dev { target: target.as_ref().to_owned() })
    }

    /// Layers of the host with a private layer above (overlayfs). Implies `mount_ns`.
    ///
    /// ```
    /// # use stockade::{Overlay, Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).overlay("/box", Overlay::new("/usr"));
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("touch").arg("/box/new").status()?.success());
    /// assert!(!std::path::Path::new("/usr/new").exists());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn overlay(self, target: impl AsRef<Path>, overlay: Overlay) -> Self {
        self.operation(Operation::Overlay { target: target.as_ref().to_owned(), overlay })
    }

    /// Nothing of what is there can be read any more: an empty directory or the null device is put over it. It must
    /// exist: else it is [`Error::Setup`]. Implies `mount_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().mask("/etc/passwd").command("cat").arg("/etc/passwd").output()?;
    /// assert_eq!(output.stdout, b"");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn mask(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Mask { target: target.as_ref().to_owned() })
    }

    /// A symbolic link, in a private file system; in a directory of the host it is [`Error::Setup`]. Implies `mount_ns`.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).symlink("/usr/bin", "/tools");
    /// assert!(sandbox.command("/tools/true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn symlink(self, to: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Symlink { target: target.as_ref().to_owned(), to: to.as_ref().to_owned() })
    }

    /// A directory, with those above it; what is missing is made, in a private file system. In a directory of the host what is
    /// missing is [`Error::Setup`]. Implies `mount_ns`.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).dir("/srv/data");
    /// assert!(sandbox.command("test").args(["-d", "/srv/data"]).status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn dir(self, target: impl AsRef<Path>) -> Self {
        self.operation(Operation::Directory { target: target.as_ref().to_owned() })
    }

    /// The host name (sethostname(2)), 1 to 64 bytes; others are [`Error::Invalid`]. Implies `uts_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().hostname("box").command("uname").arg("-n").output()?;
    /// assert_eq!(output.stdout, b"box\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn hostname(mut self, name: impl Into<OsString>) -> Self {
        self.hostname = Some(name.into());
        self.uts_ns()
    }

    /// The NIS domain name (setdomainname(2)), 1 to 64 bytes; others are [`Error::Invalid`]. Implies `uts_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().domainname("example");
    /// let output = sandbox.command("cat").arg("/proc/sys/kernel/domainname").output()?;
    /// assert_eq!(output.stdout, b"example\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn domainname(mut self, name: impl Into<OsString>) -> Self {
        self.domainname = Some(name.into());
        self.uts_ns()
    }

    /// No user namespace can be made inside (`/proc/sys/user/max_user_namespaces`), whatever the filter of system calls says:
    /// much of the kernel's surface is open only to who has capabilities in one. Implies `user_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let try_it = |sandbox: Sandbox| sandbox.command("unshare").args(["--user", "true"]).output();
    /// assert!(try_it(Sandbox::new().user_ns())?.outcome.success());
    /// assert!(!try_it(Sandbox::new().no_nested_user_ns())?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "max_user_namespaces")]
    pub fn no_nested_user_ns(mut self) -> Self {
        self.no_nested = true;
        self.user_ns()
    }

    /// How many inotify instances there may be inside (`/proc/sys/user/max_inotify_instances`). They count for the user who
    /// makes the sandbox too, who has 128 unless `fs.inotify.max_user_instances` says otherwise. Implies `user_ns`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().inotify_limit(16);
    /// let output = sandbox.command("cat").arg("/proc/sys/user/max_inotify_instances").output()?;
    /// assert_eq!(output.stdout, b"16\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "max_inotify_instances")]
    pub fn inotify_limit(mut self, instances: u32) -> Self {
        self.inotify = Some(instances);
        self.user_ns()
    }

    /// Rules of Landlock (landlock(7)), which hold in addition to those that are there already; four sets are the most, of which
    /// [`landlock_mounts`](Sandbox::landlock_mounts) and [`no_network`](Sandbox::no_network) are one each.
    /// Needs Linux 5.13, and more for some rules: what this kernel's Landlock does not know is [`Error::Unsupported`],
    /// unless `best_effort` names [`Layers::LANDLOCK`]. The ABI is in the [`Report`].
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// # use stockade::landlock::{Access, Rules};
    /// let rules = Rules::new().path("/", Access::READ | Access::EXECUTE);
    /// let prepared = Sandbox::new().landlock(rules).best_effort(Layers::LANDLOCK).prepare()?;
    /// let written = prepared.command("sh").args(["-c", ": > /dev/null"]).output()?.outcome.success();
    /// assert_eq!(written, prepared.report().missing().iter().any(|missing| missing.layer == stockade::Layer::Landlock));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "landlock_restrict_self")]
    pub fn landlock(mut self, rules: landlock::Rules) -> Self {
        self.landlock.push(rules);
        self
    }

    /// Rules of Landlock that follow from the mounts: all may be read and executed, and only those may be written to that
    /// are writable by a mount of the sandbox's own (`bind_rw`, `tmpfs`, `overlay`, `dev`, a writable root). With ABI 6,
    /// neither signals nor abstract sockets reach out of the sandbox. As far as the kernel knows them, without an error. Without a
    /// private root, all of the root counts as writable.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system().read_only()).landlock_mounts();
    /// assert!(sandbox.command("touch").arg("/tmp/file").status()?.success());
    /// assert!(!sandbox.command("touch").arg("/file").output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn landlock_mounts(mut self) -> Self {
        self.landlock_mounts = true;
        self
    }

    /// None of Landlock's rules so far. **This weakens the sandbox**.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let prepared = Sandbox::hardened().without_landlock().prepare()?;
    /// assert!(!prepared.report().in_force().contains(Layers::LANDLOCK));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn without_landlock(mut self) -> Self {
        self.landlock = vec![];
        self.landlock_mounts = false;
        self
    }

    /// Capabilities that the program keeps; all others are cleared from all five sets. In a user namespace they count
    /// inside it only; without one, those that the caller itself does not have are [`Error::Invalid`]. For a program that is not
    /// uid 0 they are ambient, since nothing else outlives its exec.
    ///
    /// ```
    /// # use stockade::{Capabilities, Sandbox};
    /// let sandbox = Sandbox::new().user_ns().keep_capabilities(Capabilities::NET_BIND_SERVICE);
    /// let output = sandbox.command("grep").args(["CapEff", "/proc/self/status"]).output()?;
    /// assert_eq!(output.stdout, b"CapEff:\t0000000000000400\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "capset")]
    pub fn keep_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Capabilities that the program keeps and that are ambient, so that all that it executes has them too, whatever its user
    /// (capabilities(7)). What [`keep_capabilities`](Sandbox::keep_capabilities) names for a program that is not uid 0 is
    /// ambient in any case.
    ///
    /// ```
    /// # use stockade::{Capabilities, Sandbox};
    /// let sandbox = Sandbox::new().user_ns().ambient_capabilities(Capabilities::NET_RAW);
    /// let output = sandbox.command("grep").args(["CapAmb", "/proc/self/status"]).output()?;
    /// assert_eq!(output.stdout, b"CapAmb:\t0000000000002000\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "PR_CAP_AMBIENT")]
    pub fn ambient_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.ambient = capabilities;
        self
    }

    /// Secure bits (`PR_SET_SECUREBITS`) that are set in addition to those that the capabilities call for: without any
    /// capability kept, uid 0 gets none by an exec, for good. Needs CAP_SETPCAP, or a user namespace.
    ///
    /// ```
    /// # use stockade::{Sandbox, Securebits};
    /// let sandbox = Sandbox::new().user_ns().securebits(Securebits::NO_SETUID_FIXUP);
    /// let output = sandbox.command("setpriv").arg("--dump").output()?;
    /// assert!(String::from_utf8_lossy(&output.stdout).contains("no_setuid_fixup"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "PR_SET_SECUREBITS")]
    pub fn securebits(mut self, bits: Securebits) -> Self {
        self.securebits = bits;
        self
    }

    /// Lets an exec give new privileges: `no_new_privs` is not set. **This weakens the sandbox**: set-uid programs and
    /// file capabilities work again, where mounts allow them. For uid 0 it takes CAP_SETPCAP or a user namespace, to empty the
    /// bounding set; without, it is [`Error::Unsupported`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let flag = |sandbox: Sandbox| sandbox.command("grep").args(["NoNewPrivs", "/proc/self/status"]).output();
    /// assert_eq!(flag(Sandbox::new().user_ns())?.stdout, b"NoNewPrivs:\t1\n");
    /// assert_eq!(flag(Sandbox::new().user_ns().allow_new_privileges())?.stdout, b"NoNewPrivs:\t0\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
    /// rounds down to pages; zero is [`Error::Invalid`]. Where there is no such thing nothing takes its place: a limit of address
    /// space ([`Resource::AddressSpace`]) measures something else, for each process by itself, and must be asked for.
    ///
    /// ```
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let sandbox = Sandbox::new().pid_ns().memory_limit(16 << 20);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let outcome = sandbox.command("tail").arg("/dev/zero").status()?; // keeps all of it
    /// assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::Memory));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "memory.max")]
    #[doc(alias = "memory.limit_in_bytes")]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.limits.memory = Some(bytes);
        self
    }

    /// How many bytes of swap it may use beyond its memory (`memory.swap.max`, `memory.memsw.limit_in_bytes`); 0 unless
    /// said. Needs [`memory_limit`](Sandbox::memory_limit). Where the kernel does not account for swap, swap is
    /// not limited, and more than 0 is [`Error::Cgroup`](crate::Error::Cgroup).
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// let alone = Sandbox::new().swap_limit(1 << 20);
    /// assert!(matches!(alone.prepare(), Err(Error::Invalid { setting: "swap_limit", .. })));
    /// let sandbox = alone.memory_limit(16 << 20);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "memory.swap.max")]
    pub fn swap_limit(mut self, bytes: u64) -> Self {
        self.limits.swap = Some(bytes);
        self
    }

    /// From how many bytes on it is slowed down and its memory reclaimed (`memory.high`). It ends nothing. Version 2 only: on
    /// version 1 it is [`Error::Unsupported`].
    ///
    /// ```
    /// # use stockade::{Error, Layers, Sandbox};
    /// match Sandbox::new().memory_high(16 << 20).prepare() {
    ///     Ok(prepared) => assert!(prepared.report().in_force().contains(Layers::MEMORY)),
    ///     Err(Error::Unsupported { layer, .. }) => assert_eq!(layer, stockade::Layer::Memory), // version 1
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "memory.high")]
    pub fn memory_high(mut self, bytes: u64) -> Self {
        self.limits.memory_high = Some(bytes);
        self
    }

    /// How many bytes are not taken from it while others have some to reclaim (`memory.low`). Version 2 only: on version 1 it is
    /// [`Error::Unsupported`].
    ///
    /// ```
    /// # use stockade::{Error, Layers, Sandbox};
    /// match Sandbox::new().memory_low(16 << 20).prepare() {
    ///     Ok(prepared) => assert!(prepared.report().in_force().contains(Layers::MEMORY)),
    ///     Err(Error::Unsupported { layer, .. }) => assert_eq!(layer, stockade::Layer::Memory), // version 1
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "memory.low")]
    pub fn memory_low(mut self, bytes: u64) -> Self {
        self.limits.memory_low = Some(bytes);
        self
    }

    /// How many cores' worth of CPU it may use, 0.01 or more (`cpu.max`, `cpu.cfs_quota_us` in periods of 100 ms).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().cpu_limit(0.1);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done";
    /// let usage = sandbox.command("sh").args(["-c", spin]).status()?.usage;
    /// assert!(usage.throttled.is_some_and(|time| !time.is_zero()));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpu.max")]
    pub fn cpu_limit(mut self, cores: f64) -> Self {
        self.limits.cpu = Some(cores);
        self
    }

    /// How much CPU time that it has left unused it may use later in one go, beyond its limit; at most what it has in one
    /// period of 100 ms (`cpu.max.burst`, `cpu.cfs_burst_us`). Needs [`cpu_limit`](Sandbox::cpu_limit).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::{Error, Sandbox};
    /// let sandbox = Sandbox::new().cpu_limit(0.5).cpu_burst(Duration::from_millis(60));
    /// assert!(matches!(sandbox.prepare(), Err(Error::Invalid { setting: "cpu_burst", .. }))); // one period has 50 ms
    /// let sandbox = sandbox.cpu_burst(Duration::from_millis(40));
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpu.max.burst")]
    pub fn cpu_burst(mut self, burst: Duration) -> Self {
        self.limits.cpu_burst = Some(burst);
        self
    }

    /// Its share of a busy CPU, 1 to 10000, where everybody has 100 (`cpu.weight`, `cpu.shares`).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().cpu_weight(50); // half as much as others
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpu.weight")]
    pub fn cpu_weight(mut self, weight: u32) -> Self {
        self.limits.cpu_weight = Some(weight);
        self
    }

    /// The CPUs that it may run on, like `0-3,8` (`cpuset.cpus`); the caller's unless said. Another form is [`Error::Invalid`], a CPU
    /// that is not there [`Error::Cgroup`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().cpuset("0");
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert_eq!(sandbox.command("nproc").output()?.stdout, b"1\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpuset.cpus")]
    pub fn cpuset(mut self, cpus: impl Into<String>) -> Self {
        self.limits.cpuset = Some(cpus.into());
        self
    }

    /// The memory nodes that it may use, like `0-1` (`cpuset.mems`); the caller's unless said. Errors as for
    /// [`cpuset`](Sandbox::cpuset).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().cpuset_mems("0");
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let output = sandbox.command("grep").args(["Mems_allowed_list", "/proc/self/status"]).output()?;
    /// assert_eq!(output.stdout, b"Mems_allowed_list:\t0\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpuset.mems")]
    pub fn cpuset_mems(mut self, nodes: impl Into<String>) -> Self {
        self.limits.cpuset_mems = Some(nodes.into());
        self
    }

    /// How many bytes in huge pages of one size it may use, 0 for none (`hugetlb.2MB.max`, `hugetlb.2MB.limit_in_bytes`).
    /// A size that this machine does not have is [`Error::Cgroup`].
    ///
    /// ```
    /// # use stockade::{Error, Layers, Sandbox};
    /// let odd = Sandbox::new().hugetlb_limit(3000, 0);
    /// assert!(matches!(odd.prepare(), Err(Error::Invalid { setting: "hugetlb_limit", .. })));
    /// let sandbox = Sandbox::new().hugetlb_limit(2 << 20, 0).best_effort(Layers::HUGETLB);
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "hugetlb")]
    pub fn hugetlb_limit(mut self, page_size: u64, bytes: u64) -> Self {
        self.limits.hugetlb.push((page_size, bytes));
        self
    }

    /// How many tasks, that is processes and threads, it may have at once, itself included (`pids.max`). The agent is not
    /// counted. A fork beyond that is EAGAIN, and if the program then ends with anything but code 0 the verdict is
    /// [`Limit::Pids`](crate::Limit::Pids). Zero is [`Error::Invalid`].
    ///
    /// ```
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let sandbox = Sandbox::new().pids_limit(3);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let forks = "for i in 1 2 3 4; do sleep 0.1 & done; wait";
    /// let output = sandbox.command("sh").args(["-c", forks]).output()?;
    /// assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::Pids));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "pids.max")]
    pub fn pids_limit(mut self, tasks: u32) -> Self {
        self.limits.pids = Some(tasks);
        self
    }

    /// Bandwidth and operations of a block device: the one of that node, or the one that the file or directory is on
    /// (`io.max`, `blkio.throttle.*`). A file that is on none, such as one on a tmpfs, and a limit of zero are
    /// [`Error::Invalid`]. On version 1 writes by way of the page cache are not slowed down.
    ///
    /// ```
    /// # use stockade::{Error, IoLimit, Layers, Sandbox};
    /// let limit = IoLimit::new().read_bytes(10 << 20).write_operations(100);
    /// match Sandbox::new().io_limit("/", limit).prepare() {
    ///     Ok(prepared) => assert!(prepared.report().in_force().contains(Layers::IO)),
    ///     Err(Error::Invalid { reason, .. }) => assert_eq!(reason, "/ is on no block device"),
    ///     Err(error) => println!("{error}"),
    /// }
    /// ```
    #[doc(alias = "io.max")]
    pub fn io_limit(mut self, device: impl AsRef<Path>, limit: IoLimit) -> Self {
        self.limits.io.push((device.as_ref().to_owned(), limit));
        self
    }

    /// Its share of a busy block device, 1 to 10000, where everybody has 100 (`io.weight`, `blkio.weight`). Version 1 has 10 to
    /// 1000 only, and takes the nearest. A kernel without a scheduler that has weights (BFQ) is [`Error::Unsupported`].
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// let wrong = Sandbox::new().io_weight(0);
    /// assert!(matches!(wrong.prepare(), Err(Error::Invalid { setting: "io_weight", .. })));
    /// let sandbox = Sandbox::new().io_weight(50);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "io.weight")]
    pub fn io_weight(mut self, weight: u32) -> Self {
        self.limits.io_weight = Some(weight);
        self
    }

    /// How much CPU time the program and all that comes of it may use together. The agent sees to it, by the account of
    /// their cgroup, also while the host is stopped: [`Limit::CpuTime`](crate::Limit::CpuTime). What forks to dodge
    /// `RLIMIT_CPU` does not dodge this. It looks a millisecond apart at the closest, so that on several CPUs some more may be
    /// used. What the program's process uses on its way to the exec counts too, under a millisecond as a rule. Zero is
    /// [`Error::Invalid`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let sandbox = Sandbox::new().pid_ns().cpu_time_limit(Duration::from_millis(100));
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let outcome = sandbox.command("sh").args(["-c", "while :; do :; done"]).status()?;
    /// assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::CpuTime));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpuacct.usage")]
    pub fn cpu_time_limit(mut self, limit: Duration) -> Self {
        self.limits.cpu_time = Some(limit);
        self
    }

    /// Which devices the program and all that comes of it may open, or make nodes for (`devices.allow`, `devices.deny`; on
    /// version 2 a BPF program of the type `BPF_PROG_TYPE_CGROUP_DEVICE`). Everything else is EPERM. What it is handed open
    /// stays open. Only root can have it; without it, what a program can open is what nodes it can see and make, and a
    /// private [`dev`](Sandbox::dev) has the harmless ones only. 300 rules are the most.
    ///
    /// ```
    /// # use stockade::{DeviceRule, DeviceRules, Sandbox};
    /// let sandbox = Sandbox::new().device_rules(DeviceRules::deny([DeviceRule::char().major(1).minor(5)]));
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(!sandbox.command("head").args(["-c1", "/dev/zero"]).output()?.outcome.success());
    /// assert!(sandbox.command("head").args(["-c1", "/dev/full"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "devices.allow")]
    #[doc(alias = "BPF_PROG_TYPE_CGROUP_DEVICE")]
    pub fn device_rules(mut self, rules: DeviceRules) -> Self {
        self.limits.devices = Some(rules);
        self
    }

    /// The class of what it sends, as tc(8) and iptables know it: `0xAAAABBBB` is AAAA:BBBB (`net_cls.classid`). Version 1
    /// only, where that is mounted.
    ///
    /// ```
    /// # use stockade::{Error, Layers, Sandbox};
    /// match Sandbox::new().net_class(0x0010_0001).prepare() {
    ///     Ok(prepared) => assert!(prepared.report().in_force().contains(Layers::NET_CLS)),
    ///     Err(Error::Unsupported { remedy, .. }) => assert!(remedy.contains("mount") || remedy.contains("root")),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "net_cls.classid")]
    pub fn net_class(mut self, class: u32) -> Self {
        self.limits.net_class = Some(class);
        self
    }

    /// It is in a cgroup whose performance events can be counted, by `perf stat -a -G` or perf_event_open(2) with
    /// `PERF_FLAG_PID_CGROUP`: one of the hierarchy `perf_event` of version 1, else one of version 2. Its path is in
    /// `/proc/PID/cgroup`, where PID is [`Child::id`](crate::Child::id). Nothing is counted by itself.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().perf_event();
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("10").spawn()?;
    /// let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    /// assert!(cgroups.contains("stockade-"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "PERF_FLAG_PID_CGROUP")]
    pub fn perf_event(mut self) -> Self {
        self.limits.perf_event = true;
        self
    }

    /// It can be stopped for a while, all of it, by [`Child::freeze`](crate::Child::freeze): it is in a cgroup of the
    /// hierarchy `freezer` of version 1 (`freezer.state`), or of version 2 (`cgroup.freeze`). Both also make it sure that
    /// the tree can be ended ([`Layer::TreeKill`](crate::Layer::TreeKill)) without a PID namespace.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().freezer();
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("10").spawn()?;
    /// child.freeze()?;
    /// child.thaw()?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cgroup.freeze")]
    #[doc(alias = "freezer.state")]
    pub fn freezer(mut self) -> Self {
        self.limits.freezer = true;
        self
    }

    /// Below which cgroup the sandbox's own is made; [`CgroupParent::Auto`] unless said. A path that is in no cgroup file system is
    /// [`Error::Invalid`], one that is not there [`Error::Cgroup`].
    ///
    /// ```
    /// # use stockade::{CgroupParent, Error, Sandbox};
    /// let elsewhere = CgroupParent::Path("/home".into());
    /// let sandbox = Sandbox::new().pids_limit(5).cgroup_parent(elsewhere);
    /// assert!(matches!(sandbox.prepare(), Err(Error::Invalid { setting: "cgroup_parent", .. })));
    /// ```
    pub fn cgroup_parent(mut self, parent: CgroupParent) -> Self {
        self.limits.parent = parent;
        self
    }

    /// The working directory of commands that do not set [theirs](Command::current_dir), inside; relative to `/`.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).current_dir("/usr/bin");
    /// assert_eq!(sandbox.command("pwd").output()?.stdout, b"/usr/bin\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// A resource limit of each process (setrlimit(2)), soft and hard, in the unit of the [`Resource`]; `u64::MAX` is none. Of CPU
    /// time the hard limit is a second more, so that SIGXCPU comes first. The last one for a resource counts. One above the
    /// caller's own hard limit is [`Error::Invalid`], unless the caller has CAP_SYS_RESOURCE and there is no `user_ns`.
    ///
    /// ```
    /// # use stockade::{Resource, Sandbox};
    /// let sandbox = Sandbox::new().rlimit(Resource::OpenFiles, 64);
    /// assert_eq!(sandbox.command("sh").args(["-c", "ulimit -n"]).output()?.stdout, b"64\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "setrlimit")]
    pub fn rlimit(mut self, resource: Resource, value: u64) -> Self {
        self.rlimits.retain(|(set, _)| *set != resource);
        self.rlimits.push((resource, value));
        self
    }

    /// The AppArmor profile that the program is executed under (`/proc/thread-self/attr/apparmor/exec`); it must be loaded, and
    /// the caller's own profile must allow the change. [`Error::Unsupported`] where the kernel has no AppArmor.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let sandbox = Sandbox::new().apparmor_profile("plugin").best_effort(Layers::APPARMOR);
    /// for missing in sandbox.prepare()?.report().missing() {
    ///     println!("{}: {}", missing.reason, missing.remedy); // where the kernel has no AppArmor
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "aa_change_onexec")]
    pub fn apparmor_profile(mut self, profile: impl Into<String>) -> Self {
        self.labels.apparmor = Some(profile.into());
        self
    }

    /// The SELinux context that the program is executed under (`/proc/thread-self/attr/exec`); the policy must allow the
    /// transition. [`Error::Unsupported`] where the kernel has no SELinux.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let sandbox = Sandbox::new().selinux_context("system_u:system_r:plugin_t:s0").best_effort(Layers::SELINUX);
    /// for missing in sandbox.prepare()?.report().missing() {
    ///     println!("{}: {}", missing.reason, missing.remedy); // where the kernel has no SELinux
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "setexeccon")]
    pub fn selinux_context(mut self, context: impl Into<String>) -> Self {
        self.labels.selinux = Some(context.into());
        self
    }

    /// A filter of system calls (seccomp(2)); together with what is there already, as
    /// [`Filter::and`](crate::seccomp::Filter::and) puts them. The launch's own last calls, up to the exec of the program, are let
    /// through.
    ///
    /// A call that is answered with [`Action::Kill`](crate::seccomp::Action::Kill) ends the run, with
    /// [`Verdict::SyscallDenied`](crate::Verdict::SyscallDenied). The agent is asked for that, once; calls that are allowed,
    /// or refused with an error number, cost what the kernel takes to go down a tree. What is answered with
    /// [`Action::Notify`](crate::seccomp::Action::Notify) is the host's to answer:
    /// [`Child::take_notifications`](crate::Child::take_notifications).
    ///
    /// ```
    /// # use stockade::{Sandbox, Verdict};
    /// # use stockade::seccomp::{Action, Filter};
    /// let filter = Filter::deny_list().deny("symlink", Action::Kill).deny("symlinkat", Action::Kill);
    /// let sandbox = Sandbox::new().seccomp(filter);
    /// match sandbox.command("ln").args(["-s", "/", "/tmp/link"]).status()?.verdict {
    ///     Verdict::SyscallDenied(call) => assert!(call.syscall.starts_with("symlink")),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "SECCOMP_SET_MODE_FILTER")]
    pub fn seccomp(mut self, filter: Filter) -> Self {
        self.seccomp = Some(match self.seccomp {
            Some(others) => others.and(filter),
            None => filter,
        });
        self
    }

    /// None of the filters so far. **This weakens the sandbox**.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let prepared = Sandbox::hardened().without_seccomp().prepare()?;
    /// assert!(!prepared.report().in_force().contains(Layers::SECCOMP));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn without_seccomp(mut self) -> Self {
        self.seccomp = None;
        self
    }

    /// No sockets but those of AF_UNIX, by a filter, without the price of a network namespace
    /// ([`Filter::no_network`](crate::seccomp::Filter::no_network)); `io_uring_setup(2)` is refused too, as it could make others.
    ///
    /// It does not take away what is handed over: an inherited socket works. Abstract sockets of the host are in reach without
    /// [`net_ns`](Sandbox::net_ns): Landlock closes them where the kernel has its ABI 6, and the [`Report`] says where it
    /// has not. Sockets that are files are a matter of mounts and permissions.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let prepared = Sandbox::new().no_network().prepare()?;
    /// assert!(prepared.report().in_force().contains(Layers::SECCOMP));
    /// assert!(prepared.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn no_network(mut self) -> Self {
        self.no_network = true;
        self
    }

    /// Counts the system calls that the filter refuses, for [`Child::denials`](crate::Child::denials). The agent is asked for
    /// each of them then, which takes some microseconds. What the filter leaves to the host
    /// ([`Action::Notify`](crate::seccomp::Action::Notify)) is not counted, however it is answered, unless there was nobody to
    /// tell.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let filter = Filter::deny_list().deny("mkdir", Action::Errno(1)).deny("mkdirat", Action::Errno(1));
    /// let child = Sandbox::new().seccomp(filter).record_denials().command("mkdir").arg("/tmp/x").spawn()?;
    /// assert!(!child.wait()?.success());
    /// assert_eq!(child.denials().unwrap().len(), 1);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn record_denials(mut self) -> Self {
        self.record = true;
        self
    }

    /// How long a program may run, from its exec on, by the clock on the wall. Then it and all that came of it is ended,
    /// whether or not anybody waits, and also while the host is stopped. Zero is an error.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let sandbox = Sandbox::new().pid_ns().wall_time_limit(Duration::from_millis(20));
    /// let outcome = sandbox.command("sleep").arg("60").status()?;
    /// assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::WallTime));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn wall_time_limit(mut self, limit: Duration) -> Self {
        self.wall_time = Some(limit);
        self
    }

    /// How many bytes a program may write to its piped stdout and stderr together, as far as they are read by
    /// [`Command::output`] or [`Child::wait_with_output`](crate::Child::wait_with_output); one more ends it. Zero is an
    /// error.
    ///
    /// ```
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let output = Sandbox::new().pid_ns().output_limit(1000).command("yes").output()?;
    /// assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::Output));
    /// assert_eq!(output.stdout.len(), 1000);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.output = Some(bytes);
        self
    }

    /// How long the sandbox may take to stand before it is given up ([`Error::TimedOut`]); 30 s unless said. Zero is
    /// [`Error::Invalid`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().setup_timeout(Duration::from_secs(5));
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn setup_timeout(mut self, limit: Duration) -> Self {
        self.setup_timeout = limit;
        self
    }

    /// What may be missing on this host without an error. Everything else is required. What is missing is in the
    /// [`Report`]. [`Layers::TREE_KILL`] accepts that, without a PID namespace, [`Child::kill`](crate::Child::kill)
    /// reaches what can be found by its parents, which a program that forks fast enough can outrun.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let sandbox = Sandbox::new().memory_limit(64 << 20).best_effort(Layers::MEMORY);
    /// let prepared = sandbox.prepare()?; // with the limit, or with a word on why there is none
    /// let there = prepared.report().in_force().contains(Layers::MEMORY);
    /// assert_eq!(there, prepared.report().missing().is_empty());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn best_effort(mut self, layers: Layers) -> Self {
        self.best_effort |= layers;
        self
    }

    /// Checks and compiles the policy, once for many launches.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// let wrong = Sandbox::new().cpu_limit(-1.0);
    /// assert!(matches!(wrong.prepare(), Err(Error::Invalid { setting: "cpu_limit", .. })));
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what makes no sense, [`Error::Source`] for a root or a bind's source that is not there,
    /// [`Error::Unsupported`] for what this host is known not to have.
    pub fn prepare(&self) -> Result<Prepared, Error> {
        prepare::prepare(self)
    }

    /// A command to run in it. `program` is looked up in the sandbox's `PATH`, inside its root, if there is no slash in it.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("echo").arg("hello").output()?;
    /// assert_eq!(output.stdout, b"hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::in_sandbox(self.clone(), program.as_ref())
    }

    /// A closure to run in it, with streams, descriptors or a limit of its own.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let finished = Sandbox::new().closure().stdout(Stdio::piped()).run(|| println!("hello"))?;
    /// assert_eq!(finished.stdout, b"hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[cfg(feature = "closures")]
    pub fn closure(&self) -> crate::Closure {
        crate::Closure::in_sandbox(self.clone())
    }

    /// Runs a closure in it to its end, and returns what that returned. It has a copy of all of this program's memory; see
    /// [`Closure`](crate::Closure) for what else it has, and has not. Only while the program has a single thread.
    ///
    /// ```
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let words = String::from("every word of it");
    /// let finished = stockade::Sandbox::new().pid_ns().run(|| words.split(' ').count())?;
    /// assert_eq!(finished.value, Ok(4));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Closure::run`](crate::Closure::run).
    #[cfg(feature = "closures")]
    pub fn run<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        f: impl FnOnce() -> T,
    ) -> Result<crate::Finished<T>, Error> {
        self.closure().run(f)
    }

    /// Starts a closure in it, which returns its exit code. Only while the program has a single thread; see
    /// [`Closure`](crate::Closure).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let child = Sandbox::new().pid_ns().spawn_fn(|| 7)?;
    /// assert_eq!(child.wait()?.code(), Some(7));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Closure::spawn`](crate::Closure::spawn).
    #[cfg(feature = "closures")]
    pub fn spawn_fn(&self, f: impl FnOnce() -> i32) -> Result<crate::Child, Error> {
        self.closure().spawn(f)
    }

    /// Makes a live environment, for programs to come.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.command("touch").arg("/tmp/file").status()?;
    /// assert!(container.command("test").args(["-e", "/tmp/file"]).status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`prepare`](Sandbox::prepare); [`Error::Unsupported`] and [`Error::Setup`] if the environment could not be
    /// made. Nothing is left then.
    pub fn start(&self) -> Result<Container, Error> {
        self.prepare()?.start()
    }

    /// Containers of this policy, of which so many are kept ready by a background thread, each for one program.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let pool = Sandbox::new().pid_ns().pool(1)?;
    /// assert!(pool.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`start`](Sandbox::start): the first one is made at once.
    pub fn pool(&self, size: usize) -> Result<Pool, Error> {
        self.prepare()?.pool(size)
    }

    /// What would be in force here: makes the whole environment, runs nothing in it, and ends it again.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let report = Sandbox::hardened().check()?;
    /// assert!(report.in_force().contains(Layers::PID_NS | Layers::NET_NS | Layers::SECCOMP));
    /// println!("{report}");
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
