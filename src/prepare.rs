//! Every check, once: from the policy to the compiled plan.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use crate::caps::Capabilities;
use crate::command::Command;
use crate::error::Error;
use crate::launch::{self, Image, Sealed};
use crate::mount::{self, Operation, Source};
use crate::ns::Namespaces;
use crate::plan::{self, Plan, Sink, Wire, flag};
use crate::rlimit::{self, Resource};
use crate::sandbox::Sandbox;
use crate::support::{self, Host, Layer, Layers, NAMESPACES, Report};
use crate::{cgroup, idmap};

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
/// two descriptors of sealed memory, and those of namespaces to join.
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
    pub(crate) joined_pid_ns: bool,
    pub(crate) has_dev: bool,
    pub(crate) program_is_init: bool,
    pub(crate) wall_limit: Option<Duration>,
    pub(crate) output_limit: Option<u64>,
    pub(crate) setup_timeout: Duration,
    pub(crate) tree_kill_accepted: bool,
    pub(crate) report: Report,
}

impl Prepared {
    /// As [`Sandbox::command`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::in_prepared(self.clone(), program.as_ref())
    }

    /// As [`Sandbox::check`].
    ///
    /// # Errors
    ///
    /// Those that a launch would have, but for the program's own.
    pub fn check(&self) -> Result<Report, Error> {
        launch::stand(self)?;
        Ok(self.report().clone())
    }

    /// What will be in force.
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
    let mounts = compile_mounts(&settled, &ids)?;
    let chroot = match sandbox.root_directory() {
        Some(path) if !namespaces.contains(Namespaces::MOUNT) => Some(mount::source_of(path, Some(true))?),
        _ => None,
    };
    let chroot_path =
        chroot.as_ref().map(|source| mount::c_path("chroot", &source.path)).transpose()?.unwrap_or_default();
    let hostname = name_of("hostname", sandbox.hostname.as_deref())?;
    let domainname = name_of("domainname", sandbox.domainname.as_deref())?;
    let keep = capabilities(&settled, user_ns || joined(Namespaces::USER))?;
    // In a user namespace of its own the capability counts for nothing that was limited outside.
    let may_raise = host.caps.contains(Capabilities::SYS_RESOURCE) && !user_ns;
    let rlimits = sandbox.rlimits.iter().map(|(resource, value)| rlimit::compile(*resource, *value, may_raise));
    let rlimits = Packed::of(rlimits.collect::<Result<Vec<_>, _>>()?);
    let groups = Packed::of(ids.groups.iter().copied());

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
        | set(flag::AMBIENT, ids.uid != 0);
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
        mounts: mounts.mounts.list(),
        chroot: &chroot_path,
        chroot_device: chroot.as_ref().map_or(0, |source| source.device),
        chroot_inode: chroot.as_ref().map_or(0, |source| source.inode),
        hostname: &hostname,
        domainname: &domainname,
        keep: keep.bits(),
        last_cap: host.last_cap,
        rlimits: rlimits.list(),
        groups: groups.list(),
        uid: ids.uid,
        gid: ids.gid,
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
    let best_effort = sandbox.best_effort;
    let may_be_missing = |layer: Layer| best_effort.contains(layer.into());
    let cgroup = sandbox.limits.compile(may_be_missing, &mut settled.report.missing)?;
    if let Some(cgroup) = &cgroup {
        settled.report.in_force.extend(cgroup.layers.iter().map(|layer| Layers::from(*layer)));
        if cgroup.has_kill() {
            settled.report.in_force |= Layers::TREE_KILL;
        }
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
        rlimits: sandbox.rlimits.clone(),
        joined_pid_ns: joined(Namespaces::PID),
        has_dev: mounts.has_dev,
        program_is_init: sandbox.pid_1,
        wall_limit: sandbox.wall_time,
        output_limit: sandbox.output,
        setup_timeout: sandbox.setup_timeout,
        tree_kill_accepted: settled.report.in_force.contains(Layers::TREE_KILL)
            || sandbox.best_effort.contains(Layers::TREE_KILL),
        report: settled.report,
    };
    Ok(Prepared { inner: Arc::new(inner) })
}

/// What is wrong with any host.
fn check_settings(sandbox: &Sandbox) -> Result<(), Error> {
    if sandbox.wall_time.is_some_and(|limit| limit.is_zero()) {
        return Err(Error::invalid("wall_time_limit", "a limit of zero"));
    }
    if sandbox.output == Some(0) {
        return Err(Error::invalid("output_limit", "a limit of zero; give the program a null stdout instead"));
    }
    if sandbox.setup_timeout.is_zero() {
        return Err(Error::invalid("setup_timeout", "a limit of zero"));
    }
    for (index, join) in sandbox.joins.iter().enumerate() {
        if sandbox.namespaces.intersects(join.kind) {
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

    let joins_user = sandbox.joins.iter().any(|join| join.kind == Namespaces::USER);
    let needs = |capability| !host.caps.contains(capability);
    let wanting = if !(settled.namespaces - Namespaces::USER).is_empty() && needs(Capabilities::SYS_ADMIN) {
        Some("CAP_SYS_ADMIN")
    } else if sandbox.root.is_some() && needs(Capabilities::SYS_CHROOT) {
        Some("CAP_SYS_CHROOT")
    } else if sandbox.ids.need_privilege(&host) && needs(Capabilities::SETUID | Capabilities::SETGID) {
        Some("CAP_SETUID and CAP_SETGID")
    } else {
        None
    };
    if let Some(capability) = wanting
        && !joins_user
        && !settled.namespaces.contains(Namespaces::USER)
    {
        settled.namespaces |= Namespaces::USER;
        settled.report.notes.push(format!("user_ns() is implied, for want of {capability}"));
    }
    for (layer, namespace) in NAMESPACES {
        if settled.namespaces.contains(*namespace) {
            settled.report.in_force |= Layers::from(*layer);
        }
    }
    if settled.namespaces.contains(Namespaces::PID) {
        settled.report.in_force |= Layers::TREE_KILL;
    }
    Ok(settled)
}

impl Settled<'_> {
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
    let keep = settled.sandbox.capabilities;
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
