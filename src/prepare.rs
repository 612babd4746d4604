//! Every check, once: from the policy to the compiled plan.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::caps::{Capabilities, Securebits};
use crate::command::Command;
use crate::container::Container;
use crate::error::Error;
use crate::launch::{self, Image, Sealed};
use crate::mount::{self, Operation, Source};
use crate::ns::Namespaces;
use crate::plan::{self, Plan, Sink, Wire, flag};
use crate::pool::Pool;
use crate::rlimit::{self, Resource};
use crate::sandbox::Sandbox;
use crate::seccomp::{self, Action, Filter};
use crate::support::{self, Host, Layer, Layers, NAMESPACES, Report};
use crate::{cgroup, idmap, landlock};

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Records, encoded one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    count: u32,
    bytes: Vec<u8>,
}

impl Packed {
    pub(crate) fn push<'a>(&mut self, record: &impl Wire<'a>) {
        record.encode(&mut self.bytes);
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn list<'a, T: Wire<'a>>(&'a self) -> plan::List<'a, T> {
        plan::List::from_encoded(self.count, &self.bytes)
    }

    pub(crate) fn of<'a, T: Wire<'a>>(records: impl IntoIterator<Item = T>) -> Self {
        let mut packed = Self::default();
        for record in records {
            packed.push(&record);
        }
        packed
    }
}

/// A checked and compiled policy, to launch from as often as wanted, from any thread.
///
/// Sources of binds are resolved here; a launch fails if another file has taken the place of one of them since. It holds
/// two descriptors of sealed memory, those of namespaces to join, and on version 2 that of
/// [`device_rules`](Sandbox::device_rules).
///
/// ```
/// use stockade::Sandbox;
///
/// let prepared = Sandbox::new().pid_ns().prepare()?;
/// for _ in 0..3 {
///     assert!(prepared.command("/bin/true").status()?.success());
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) plan: Sealed,
    pub(crate) image: Arc<Image>,
    pub(crate) joins: Vec<Arc<OwnedFd>>,
    pub(crate) trees: Vec<Source>,
    pub(crate) ids: idmap::Compiled,
    pub(crate) namespaces: Namespaces,
    /// What each mount is about, for errors.
    pub(crate) subjects: Vec<String>,
    pub(crate) cgroup: Option<cgroup::Compiled>,
    pub(crate) rlimits: Vec<(Resource, u64)>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) landlock_subjects: Vec<String>,
    /// What is refused is counted.
    pub(crate) records: bool,
    /// Calls are the host's to answer.
    pub(crate) asks_host: bool,
    /// How it answers those that it observes: a filter in the form that can be interpreted.
    pub(crate) observer: Option<Vec<u8>>,
    /// What it was made from.
    pub(crate) policy: Box<Sandbox>,
    pub(crate) joined_pid_ns: bool,
    pub(crate) has_dev: bool,
    pub(crate) program_is_init: bool,
    /// The setting that is for programs only, and why.
    #[cfg_attr(not(feature = "closures"), allow(dead_code))]
    pub(crate) no_closure: Option<(&'static str, &'static str)>,
    /// How many a tree can use at once, at most.
    pub(crate) cpus: u32,
    pub(crate) wall_limit: Option<Duration>,
    pub(crate) output_limit: Option<u64>,
    pub(crate) setup_timeout: Duration,
    pub(crate) tree_kill_accepted: bool,
    pub(crate) tree_kill_named: bool,
    /// The policy, if the network namespace of one run may be given to another.
    pub(crate) recycled: Option<Box<Sandbox>>,
    /// The caller may join the namespaces of others.
    pub(crate) privileged: bool,
    pub(crate) report: Report,
}

impl Prepared {
    /// As [`Sandbox::command`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let prepared = Sandbox::new().pid_ns().prepare()?;
    /// assert!(prepared.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::in_prepared(self.clone(), program.as_ref())
    }

    /// As [`Sandbox::closure`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let prepared = Sandbox::new().pid_ns().prepare()?;
    /// assert_eq!(prepared.closure().result_limit(100).run(|| 6 * 7)?.value, Ok(42));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[cfg(feature = "closures")]
    pub fn closure(&self) -> crate::Closure {
        crate::Closure::in_prepared(self.clone())
    }

    /// As [`Sandbox::run`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let prepared = Sandbox::new().pid_ns().prepare()?;
    /// assert_eq!(prepared.run(std::process::id)?.value, Ok(2));
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

    /// As [`Sandbox::spawn_fn`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let prepared = Sandbox::new().pid_ns().prepare()?;
    /// assert_eq!(prepared.spawn_fn(|| 7)?.wait()?.code(), Some(7));
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

    /// As [`Sandbox::start`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let container = Sandbox::new().pid_ns().prepare()?.start()?;
    /// assert!(container.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] and [`Error::Setup`] if the environment could not be made. Nothing is left then.
    pub fn start(&self) -> Result<Container, Error> {
        Container::start(self)
    }

    /// As [`Sandbox::pool`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let pool = Sandbox::new().pid_ns().prepare()?.pool(1)?;
    /// assert!(pool.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`start`](Prepared::start).
    pub fn pool(&self, size: usize) -> Result<Pool, Error> {
        Pool::new(self, size)
    }

    /// As [`Sandbox::check`].
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let prepared = Sandbox::new().pid_ns().net_ns().prepare()?;
    /// assert!(prepared.check()?.in_force().contains(Layers::PID_NS | Layers::NET_NS));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those that a launch would have, but for the program's own.
    pub fn check(&self) -> Result<Report, Error> {
        launch::stand(self)?;
        Ok(self.report().clone())
    }

    /// What will be in force.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let prepared = Sandbox::new().pid_ns().prepare()?;
    /// assert!(prepared.report().in_force().contains(Layers::PID_NS));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn report(&self) -> &Report {
        &self.inner.report
    }
}

/// The policy as this host will have it: what was implied is in it, what may be missing and is missing is not.
struct Settled<'a> {
    sandbox: &'a Sandbox,
    host: Host,
    namespaces: Namespaces,
    operations: Vec<Operation>,
    rlimits: Vec<(Resource, u64)>,
    cgroup: Option<cgroup::Compiled>,
    report: Report,
}

pub(crate) fn prepare(sandbox: &Sandbox) -> Result<Prepared, Error> {
    check_settings(sandbox)?;
    let mut settled = settle(sandbox)?;
    let namespaces = settled.namespaces;
    let user_ns = namespaces.contains(Namespaces::USER);
    let joined = |kind| sandbox.joins.iter().any(|join| join.kind == kind);
    let host = settled.host;

    // In the order of the steps.
    let joins = sandbox.joins.iter().map(|join| join.compile()).collect::<Result<Vec<_>, _>>()?;
    let joins = Packed::of(joins);
    let ids = sandbox.ids.compile(&host, user_ns)?;
    let time_offsets = sandbox.clocks.compile();
    if joined(Namespaces::MOUNT) && user_ns {
        // Its maps are written by names in /proc, and that would be whatever is mounted there.
        let reason = "a user namespace cannot be made in a joined mount namespace, whose /proc nobody vouches for: join a user \
                      namespace too";
        return Err(Error::invalid("join_ns", reason));
    }
    let mounts = compile_mounts(&settled, &ids)?;
    let chroot = match sandbox.root_directory() {
        Some(path) if !namespaces.contains(Namespaces::MOUNT) => Some(mount::source_of(path, Some(true))?),
        _ => None,
    };
    let chroot_path =
        chroot.as_ref().map(|source| mount::c_path("chroot", &source.path)).transpose()?.unwrap_or_default();
    let hostname = name_of("hostname", sandbox.hostname.as_deref())?;
    let domainname = name_of("domainname", sandbox.domainname.as_deref())?;
    let landlock = compile_landlock(&mut settled)?;
    let keep = capabilities(&settled, user_ns || joined(Namespaces::USER))?;
    let ambient = if ids.uid != 0 { keep } else { sandbox.ambient };
    let securebits = securebits(sandbox, keep, ambient);
    // In a user namespace of its own the capability counts for nothing that was limited outside.
    let may_raise = host.caps.contains(Capabilities::SYS_RESOURCE) && !user_ns;
    let cgroup = settled.cgroup.take();
    let rlimits = settled.rlimits.iter().map(|(resource, value)| rlimit::compile(*resource, *value, may_raise));
    let rlimits = Packed::of(rlimits.collect::<Result<Vec<_>, _>>()?);
    let groups = Packed::of(ids.groups.iter().copied());
    let label = sandbox.labels.compile(|error| settled.report.may_miss(error, sandbox.best_effort))?;
    let (filter, secret) = compile_filter(&settled)?;

    let bounding_set = user_ns || joined(Namespaces::USER) || host.caps.contains(Capabilities::SETPCAP);
    let pid_ns = namespaces.contains(Namespaces::PID);
    let set = |bit: u32, condition: bool| if condition { bit } else { 0 };
    let flags = ids.flags
        | set(flag::TIME_OFFSETS, !time_offsets.is_empty())
        | set(flag::MOUNT_NS, namespaces.contains(Namespaces::MOUNT))
        | set(flag::PIVOT, mounts.has_root)
        | set(flag::ROOT_READ_ONLY, mounts.read_only)
        | set(flag::LOOPBACK, namespaces.contains(Namespaces::NET))
        | set(flag::AGENT_IS_INIT, pid_ns && !sandbox.pid_1)
        | set(flag::PROGRAM_IS_INIT, sandbox.pid_1)
        | set(flag::NO_NEW_PRIVS, !sandbox.new_privileges)
        | set(flag::CGROUP_NS, namespaces.contains(Namespaces::CGROUP))
        | set(flag::BOUNDING_SET, bounding_set)
        | set(flag::NO_USER_NS, sandbox.no_nested && user_ns)
        | set(flag::LISTENER, filter.listener)
        | set(flag::RECORD, filter.listener && sandbox.record)
        | set(flag::OBSERVE, sandbox.observe);
    let mut unshare = namespaces - Namespaces::USER - Namespaces::CGROUP;
    if sandbox.pid_1 {
        unshare -= Namespaces::PID;
    }
    let time_offsets = CString::new(time_offsets).unwrap_or_default();
    let uid_map = CString::new(idmap::lines(&ids.uid_map)).unwrap_or_default();
    let gid_map = CString::new(idmap::lines(&ids.gid_map)).unwrap_or_default();
    let (agent_uid, agent_gid) = ids.agent.unwrap_or((u32::MAX, u32::MAX));
    let mut bytes = vec![];
    Plan {
        flags,
        joins: joins.list(),
        uid_map: &uid_map,
        gid_map: &gid_map,
        unshare: unshare.bits(),
        time_offsets: &time_offsets,
        agent_uid,
        agent_gid,
        inotify: sandbox.inotify.filter(|_| user_ns).unwrap_or(u32::MAX),
        mounts: mounts.mounts.list(),
        chroot: &chroot_path,
        chroot_device: chroot.as_ref().map_or(0, |source| source.device),
        chroot_inode: chroot.as_ref().map_or(0, |source| source.inode),
        hostname: &hostname,
        domainname: &domainname,
        landlock: landlock.rulesets.list(),
        keep: keep.bits(),
        ambient: ambient.bits(),
        securebits: securebits.bits(),
        last_cap: host.last_cap,
        rlimits: rlimits.list(),
        groups: groups.list(),
        uid: ids.uid,
        gid: ids.gid,
        label_file: &label.file,
        label: &label.label,
        filter: &filter.code,
        verdict: &filter.verdict,
        secret_low: secret[0],
        secret_high: secret[1],
    }
    .encode(&mut bytes);

    if !bounding_set && sandbox.new_privileges && ids.uid == 0 {
        return Err(Error::Unsupported {
            layer: Layer::BoundingSet,
            reason:
                "without CAP_SETPCAP the bounding set stays, and without no_new_privs uid 0 gets all of it at its exec"
                    .into(),
            remedy: "add user_ns(), or leave allow_new_privileges() out".into(),
        });
    }
    if bounding_set {
        settled.report.in_force |= Layers::BOUNDING_SET;
    }
    if !label.label.is_empty() {
        settled.report.in_force |= if sandbox.labels.apparmor.is_some() { Layers::APPARMOR } else { Layers::SELINUX };
    }
    if !filter.code.is_empty() {
        settled.report.in_force |= Layers::SECCOMP;
    }
    add_notes(&mut settled, &ids, user_ns);
    let inner = Inner {
        plan: Sealed::new(c"stockade-plan", &bytes)?,
        image: Image::shared()?,
        joins: sandbox.joins.iter().map(|join| join.fd.clone()).collect(),
        trees: mounts.trees,
        ids,
        namespaces,
        subjects: mounts.subjects,
        cgroup,
        rlimits: settled.rlimits,
        directory: sandbox.directory.clone(),
        landlock_subjects: landlock.subjects,
        records: filter.listener && sandbox.record,
        asks_host: filter.asks_host || (filter.listener && sandbox.observe),
        observer: sandbox.observe.then(|| filter.verdict.clone()),
        policy: Box::new(sandbox.clone()),
        joined_pid_ns: joined(Namespaces::PID),
        has_dev: mounts.has_dev,
        program_is_init: sandbox.pid_1,
        no_closure: no_closure(sandbox),
        cpus: cgroup::online_cpus(),
        wall_limit: sandbox.wall_time,
        output_limit: sandbox.output,
        setup_timeout: sandbox.setup_timeout,
        tree_kill_accepted: settled.report.in_force.contains(Layers::TREE_KILL)
            || sandbox.best_effort.contains(Layers::TREE_KILL),
        tree_kill_named: sandbox.best_effort.contains(Layers::TREE_KILL),
        recycled: sandbox.recycle_net.then(|| Box::new(sandbox.clone())),
        privileged: host.caps.contains(Capabilities::SYS_ADMIN),
        report: settled.report,
    };
    Ok(Prepared { inner: Arc::new(inner) })
}

/// What makes sense only where there is an exec, or a process that was not forked from the host.
fn no_closure(sandbox: &Sandbox) -> Option<(&'static str, &'static str)> {
    if sandbox.pid_1 {
        Some(("as_pid_1", "a closure has its agent as PID 1"))
    } else if sandbox.new_privileges {
        Some(("allow_new_privileges", "a closure always has no_new_privs"))
    } else if sandbox.labels.apparmor.is_some() {
        Some(("apparmor_profile", "it takes effect at an exec, and a closure has none"))
    } else if sandbox.labels.selinux.is_some() {
        Some(("selinux_context", "it takes effect at an exec, and a closure has none"))
    } else {
        None
    }
}

/// Of the policy, or of one command.
pub(crate) fn check_ends(wall: Option<Duration>, output: Option<u64>) -> Result<(), Error> {
    if wall.is_some_and(|limit| limit.is_zero()) {
        return Err(Error::invalid("wall_time_limit", "a limit of zero"));
    }
    if output == Some(0) {
        return Err(Error::invalid("output_limit", "a limit of zero; give the program a null stdout instead"));
    }
    Ok(())
}

/// What is wrong with any host.
fn check_settings(sandbox: &Sandbox) -> Result<(), Error> {
    check_ends(sandbox.wall_time, sandbox.output)?;
    if sandbox.setup_timeout.is_zero() {
        return Err(Error::invalid("setup_timeout", "a limit of zero"));
    }
    for (index, join) in sandbox.joins.iter().enumerate() {
        let nested = sandbox.recycled && join.kind == Namespaces::USER;
        if sandbox.namespaces.intersects(join.kind) && !nested {
            let reason = format!("a {} namespace is both to be made and to be joined", join.kind.file_name());
            return Err(Error::invalid("join_ns", reason));
        }
        if sandbox.joins.iter().take(index).any(|other| other.kind == join.kind) {
            let reason = format!("two {} namespaces are to be joined", join.kind.file_name());
            return Err(Error::invalid("join_ns", reason));
        }
        if join.kind == Namespaces::USER && index > 0 {
            return Err(Error::invalid(
                "join_ns",
                "a user namespace must be joined first, for the right to the others",
            ));
        }
    }
    Ok(())
}

fn settle(sandbox: &Sandbox) -> Result<Settled<'_>, Error> {
    let host = Host::look();
    let mut settled = Settled {
        sandbox,
        host,
        namespaces: sandbox.namespaces,
        operations: sandbox.operations.clone(),
        rlimits: sandbox.rlimits.clone(),
        cgroup: None,
        report: Report::default(),
    };
    for (layer, namespace) in NAMESPACES {
        if settled.namespaces.contains(*namespace) && settled.is_missing(*layer) {
            if *layer == Layer::MountNs && (sandbox.root.is_some() || !sandbox.operations.is_empty()) {
                return Err(Error::invalid("best_effort", "without a mount namespace none of the mounts can be made"));
            }
            settled.namespaces -= *namespace;
        }
    }
    let has_proc = |operation: &Operation| matches!(operation, Operation::Proc { .. } | Operation::System);
    if settled.operations.iter().any(has_proc) && settled.is_missing(Layer::Proc) {
        let mut kept = vec![];
        for operation in std::mem::take(&mut settled.operations) {
            match operation {
                Operation::Proc { .. } => {}
                Operation::System => {
                    kept.extend(mount::system().into_iter().filter(|operation| !has_proc(operation)));
                }
                other => kept.push(other),
            }
        }
        settled.operations = kept;
    }

    settled.imply_user_ns();
    settled.cgroup = compile_limits(&mut settled)?;
    if settled.cgroup.is_some() {
        settled.cover_cgroups();
    }
    for (layer, namespace) in NAMESPACES {
        if settled.namespaces.contains(*namespace) {
            settled.report.in_force |= Layers::from(*layer);
        }
    }
    if settled.namespaces.contains(Namespaces::PID) {
        settled.report.in_force |= Layers::TREE_KILL;
    }
    if sandbox.recycled {
        settled.report.in_force |= Layers::NET_NS;
        settled.report.notes.push("the network namespace is one of a pool's, and had other runs in it before".into());
    }
    Ok(settled)
}

impl Settled<'_> {
    /// What the caller may not do is done in a user namespace of the sandbox's own.
    fn imply_user_ns(&mut self) {
        let Self { sandbox, host, .. } = self;
        let needs = |capability| !host.caps.contains(capability);
        let wanting = if !(self.namespaces - Namespaces::USER).is_empty() && needs(Capabilities::SYS_ADMIN) {
            "CAP_SYS_ADMIN"
        } else if sandbox.root.is_some() && needs(Capabilities::SYS_CHROOT) {
            "CAP_SYS_CHROOT"
        } else if sandbox.ids.need_privilege(host) && needs(Capabilities::SETUID | Capabilities::SETGID) {
            "CAP_SETUID and CAP_SETGID"
        } else {
            return;
        };
        let joins_user = sandbox.joins.iter().any(|join| join.kind == Namespaces::USER);
        if !joins_user && !self.namespaces.contains(Namespaces::USER) {
            self.namespaces |= Namespaces::USER;
            self.report.notes.push(format!("user_ns() is implied, for want of {wanting}"));
        }
    }

    /// Who owns a cgroup could lift its limits, where its files are seen: they are made read-only there.
    fn cover_cgroups(&mut self) {
        let (sandbox, host) = (self.sandbox, &self.host);
        let joins = |kind| sandbox.joins.iter().any(|join| join.kind == kind);
        let capable = !(sandbox.capabilities | sandbox.ambient).is_empty();
        let own_user = self.namespaces.contains(Namespaces::USER);
        // What a joined user namespace maps is not known here.
        let may_own = sandbox.ids.may_be_caller(host, own_user) || joins(Namespaces::USER);
        if !may_own && !capable {
            return;
        }
        let (places, root) = (cgroup::locate::seen(), sandbox.root.as_ref());
        let covered = mount::cover(root, &self.operations, &places);
        let covers = covered.len() - self.operations.len();
        if covers == 0 {
            return;
        }
        if !self.namespaces.contains(Namespaces::MOUNT) {
            let privileged = host.caps.contains(Capabilities::SYS_ADMIN) || own_user;
            // In a user namespace of its own root has another user; and it may be that none can be made.
            let rootless = sandbox.joins.is_empty() && host.uid != 0 && support::probe(Layer::MountNs).is_ok();
            if joins(Namespaces::MOUNT) || sandbox.best_effort.contains(Layers::MOUNT_NS) || !(privileged || rootless) {
                self.report.notes.push(
                    "the program may write to its cgroups' files, and so lift its limits, since it has no mount namespace \
                     of its own in which they are read-only"
                        .into(),
                );
                return;
            }
            self.namespaces |= Namespaces::MOUNT;
            self.report
                .notes
                .push("mount_ns() is implied, in which the program cannot write to its cgroups' files".into());
            self.imply_user_ns();
        }
        if covers > mount::cover(root, &[], &places).len() {
            self.report.notes.push("cgroup file systems in what is bound are read-only, since there are limits".into());
        }
        self.operations = covered;
    }

    /// Whether a layer may be missing, and is. Then it is in the report.
    fn is_missing(&mut self, layer: Layer) -> bool {
        if !self.sandbox.best_effort.contains(layer.into()) {
            return false;
        }
        match support::probe(layer) {
            Ok(_) => false,
            Err(missing) => {
                self.report.missing.push(missing);
                true
            }
        }
    }
}

/// The limits of the tree. Where the number of tasks cannot be limited, and something may stand in for that, the kernel
/// counts those of the user, in its own user namespace.
fn compile_limits(settled: &mut Settled<'_>) -> Result<Option<cgroup::Compiled>, Error> {
    let sandbox = settled.sandbox;
    let stands_in = sandbox.stand_ins && settled.namespaces.contains(Namespaces::USER);
    let accepted = if stands_in { sandbox.best_effort | Layers::PIDS } else { sandbox.best_effort };
    let report = &mut settled.report;
    let cgroup = sandbox.limits.compile(|layer: Layer| accepted.contains(layer.into()), &mut report.missing)?;
    if let Some(cgroup) = &cgroup {
        report.notes.extend(cgroup.notes.iter().cloned());
        report.in_force.extend(cgroup.layers.iter().map(|layer| Layers::from(*layer)));
        if cgroup.has_kill() {
            report.in_force |= Layers::TREE_KILL;
        }
    }
    if let (true, Some(tasks)) = (stands_in && !report.in_force.contains(Layers::PIDS), sandbox.limits.pids) {
        let set = settled.rlimits.iter().any(|(resource, _)| *resource == Resource::Processes);
        if !set {
            // The agent may be of the same user.
            settled.rlimits.push((Resource::Processes, u64::from(tasks) + 1));
        }
        report.notes.push("RLIMIT_NPROC, of the user in its user namespace, stands in for the limit of pids".into());
    }
    Ok(cgroup)
}

/// All sets of Landlock's rules: the caller's, those that follow from the mounts, that of no_network().
fn compile_landlock(settled: &mut Settled<'_>) -> Result<landlock::Compiled, Error> {
    let sandbox = settled.sandbox;
    if sandbox.landlock.is_empty() && !sandbox.landlock_mounts && !sandbox.no_network {
        return Ok(landlock::Compiled::default());
    }
    let abi = landlock::abi();
    let lenient = sandbox.best_effort.contains(Layers::LANDLOCK);
    let report = &mut settled.report;
    let mut all = sandbox.landlock.clone();
    if abi.is_none() && !all.is_empty() && lenient {
        all.clear();
        report.may_miss(landlock::unsupported_here(), sandbox.best_effort)?;
    }
    // The kernel's own limit of what it knows is no reason not to run: these stand behind other layers.
    let newer = abi.is_some_and(|abi| abi >= 6);
    if sandbox.landlock_mounts && abi.is_some() {
        all.push(mount::landlock_rules(sandbox.root.as_ref(), &settled.operations, newer));
    } else if sandbox.landlock_mounts {
        report.notes.push("the kernel has no Landlock: mounts and permissions alone say what may be written".into());
    }
    if sandbox.no_network && newer {
        all.push(landlock::Rules::new().scope_abstract_sockets());
    } else if sandbox.no_network && !settled.namespaces.contains(Namespaces::NET) {
        report.notes.push(
            "abstract unix sockets of the host are in reach: closing them takes net_ns(), or Landlock ABI 6".into(),
        );
        if !settled.namespaces.contains(Namespaces::PID) {
            report.notes.push(
                "sockets of the host's processes of its uid are in reach (pidfd_getfd(2)): closing that takes pid_ns(), a \
                 filter, or Landlock ABI 6"
                    .into(),
            );
        }
    }
    if sandbox.landlock_mounts && abi.is_some() && !newer {
        report.notes.push("abstract unix sockets and signals are not scoped: that takes Landlock ABI 6".into());
    }
    let compiled = landlock::compile(&all, abi, lenient)?;
    if compiled.rulesets.count() > 0 {
        report.in_force |= Layers::LANDLOCK;
    }
    report.notes.extend(compiled.notes.iter().cloned());
    Ok(compiled)
}

const ENOSYS: u16 = 38;

fn compile_filter(settled: &Settled<'_>) -> Result<(seccomp::Program, [u64; 2]), Error> {
    let sandbox = settled.sandbox;
    let network = sandbox.no_network.then(Filter::no_network);
    if sandbox.observe {
        // What is logged is asked about too. Without clone3(2), whose flags no filter can read, its place in what is
        // learned is clone(2)'s.
        let all = Filter::deny_list().otherwise(Action::Log).deny("clone3", Action::Errno(ENOSYS));
        let filter = network.map_or(all.clone(), |network| all.and(network));
        return with_secret(&filter, seccomp::How { secret: [0; 2], naming: false, recording: true });
    }
    let filter = match (sandbox.seccomp.clone(), network) {
        (Some(filter), Some(network)) => filter.and(network),
        (filter, network) => match filter.or(network) {
            Some(filter) => filter,
            None => return Ok((seccomp::Program::default(), [0; 2])),
        },
    };
    with_secret(&filter, seccomp::How { secret: [0; 2], naming: true, recording: sandbox.record })
}

/// The program, and what stands in it for the secret of each process, which takes its place: nothing else that the program
/// compares with.
fn with_secret(filter: &Filter, how: seccomp::How) -> Result<(seccomp::Program, [u64; 2]), Error> {
    let is_fit = |secret: &[u64; 2]| {
        let bytes = secret.map(u64::to_ne_bytes).concat();
        let words: Vec<_> = bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let twice = words.iter().enumerate().any(|(index, word)| words.iter().take(index).any(|other| other == word));
        !twice && !words.into_iter().any(|word| filter.compares_with(word))
    };
    for _ in 0..100 {
        let secret = secret()?;
        if is_fit(&secret) {
            return Ok((filter.compile(seccomp::How { secret, ..how })?, secret));
        }
    }
    Err(Error::host("get random bytes")(rustix::io::Errno::IO))
}

/// What nobody can guess.
fn secret() -> Result<[u64; 2], Error> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(Error::host("get random bytes"))?;
    }
    let [low, high] = bytes.as_chunks().0 else { return Ok([0; 2]) };
    Ok([low, high].map(|half| u64::from_ne_bytes(*half)))
}

fn securebits(sandbox: &Sandbox, keep: Capabilities, ambient: Capabilities) -> Securebits {
    let own = if keep.is_empty() { Securebits::NO_CAPABILITIES } else { Securebits::empty() };
    let ambient = !ambient.is_empty();
    sandbox.securebits | if ambient { own - Securebits::NO_CAP_AMBIENT_RAISE } else { own }
}

fn compile_mounts(settled: &Settled<'_>, ids: &idmap::Compiled) -> Result<mount::Compiled, Error> {
    if !settled.namespaces.contains(Namespaces::MOUNT) {
        return Ok(mount::Compiled::default());
    }
    let user_ns = settled.namespaces.contains(Namespaces::USER);
    let context = mount::Context {
        user_ns,
        // As other ids than the caller's, the agent may not get through directories that the caller can.
        host_opens: user_ns && ids.agent.is_some() && settled.host.caps.contains(Capabilities::SYS_ADMIN),
        tty_group: !user_ns
            || ids.gid_map.iter().any(|range| (range.inner..range.inner.saturating_add(range.count)).contains(&5)),
        make_nodes: !user_ns && settled.host.caps.contains(Capabilities::MKNOD),
        // A procfs that is partly covered keeps a sandbox inside from having one of its own.
        hide_keys: settled.sandbox.no_nested && !ids.unused,
    };
    mount::compile(settled.sandbox.root.as_ref(), &settled.operations, context)
}

fn name_of(setting: &'static str, name: Option<&OsStr>) -> Result<CString, Error> {
    let Some(name) = name else { return Ok(CString::default()) };
    if name.is_empty() || name.len() > 64 {
        return Err(Error::invalid(setting, format!("a name of {} bytes; it has 1 to 64", name.len())));
    }
    c_string(setting, name)
}

pub(crate) fn c_string(setting: &'static str, text: &OsStr) -> Result<CString, Error> {
    CString::new(text.as_bytes()).map_err(|_| Error::invalid(setting, "there is a NUL in it"))
}

fn capabilities(settled: &Settled<'_>, own_user_ns: bool) -> Result<Capabilities, Error> {
    let keep = settled.sandbox.capabilities | settled.sandbox.ambient;
    let known = u64::MAX >> (63 - settled.host.last_cap.min(63));
    if keep.bits() & !known != 0 {
        return Err(Error::invalid("keep_capabilities", "this kernel does not know all of them"));
    }
    let missing = keep - settled.host.caps;
    if !own_user_ns && !missing.is_empty() {
        return Err(Error::invalid("keep_capabilities", format!("the caller does not have {missing:?} itself")));
    }
    Ok(keep)
}

fn add_notes(settled: &mut Settled<'_>, ids: &idmap::Compiled, user_ns: bool) {
    let Settled { sandbox, host, namespaces, report, .. } = settled;
    let mut note = |text: &str| report.notes.push(text.to_owned());
    let host_root = if user_ns { sandbox.ids.host_root && host.uid == 0 } else { ids.uid == 0 && host.uid == 0 };
    if host_root {
        note(
            "the program is the host's uid 0, without capabilities: it may still write to files of root's, such as \
             core_pattern; add user_ns(), or uid()",
        );
    }
    if !namespaces.contains(Namespaces::PID) {
        note(
            "without pid_ns() the tree of processes cannot be ended for sure, and the program sees, and may signal, \
             the host's processes of its uid",
        );
    }
    if sandbox.root.is_some() && !namespaces.contains(Namespaces::MOUNT) {
        note("without mount_ns() the root is chroot(2), which hides the host's files but does not take them away");
    }
    if ids.flags & flag::SET_GROUPS == 0 {
        note(
            "the caller's supplementary groups stay: dropping them needs CAP_SETGID, or a map of more than a single id",
        );
    }
    for (setting, asked) in [("no_nested_user_ns", sandbox.no_nested), ("inotify_limit", sandbox.inotify.is_some())] {
        if asked && !user_ns {
            report.notes.push(format!("{setting}() is of a user namespace of the sandbox's own, and there is none"));
        }
    }
    let mut note = |text: &str| report.notes.push(text.to_owned());
    if user_ns && sandbox.capabilities.contains(Capabilities::SYS_ADMIN) {
        note(
            "with CAP_SYS_ADMIN in the user namespace that owns the mounts, the program can undo them: make a read-only \
             bind writable again, or uncover what a mount hides",
        );
    }
    if !report.in_force.contains(Layers::BOUNDING_SET) {
        let why =
            if sandbox.new_privileges { "and no_new_privs was turned off" } else { "no_new_privs makes it inert" };
        report.notes.push(format!("the capability bounding set stays, for want of CAP_SETPCAP; {why}"));
    }
}

/// `PATH` where the caller gives none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The paths at which to look for a program, as execvp(3) does.
pub(crate) fn candidates(program: &OsStr, path: Option<&OsStr>) -> Result<Vec<CString>, Error> {
    // Without a name there is nothing to look for, in any directory.
    if program.is_empty() || program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string("program", program)?]);
    }
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    let in_directory = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        let mut candidate = OsStr::from_bytes(directory).to_owned();
        candidate.push("/");
        candidate.push(program);
        c_string("program", &candidate)
    };
    path.as_bytes().split(|byte| *byte == b':').map(in_directory).collect()
}

/// One `KEY=VALUE`.
pub(crate) fn environment_entry(key: &OsStr, value: &OsStr) -> Result<CString, Error> {
    if key.is_empty() || key.as_bytes().contains(&b'=') {
        return Err(Error::invalid("env", format!("{} is no name of a variable", key.display())));
    }
    let mut entry = OsString::from(key);
    entry.push("=");
    entry.push(value);
    c_string("env", &entry)
}
