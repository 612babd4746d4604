//! Process B: from the agent's fork to the program.
//!
//! The order matters: what needs a capability comes before the ids change, and what limits the process comes late enough
//! not to hinder the set-up itself. It stays non-dumpable and keeps its permitted capabilities until the exec takes them
//! away, so that a payload of the same uid that is already inside cannot trace it.

use core::ffi::CStr;

use super::enter::{At, Buffer, Failed, Received};
use super::plan::{Failure, Launch, Plan, Step, Wire, flag, launch as launch_flag};
use super::setup;
use super::sys::{self, AT_FDCWD, Errno, Fd, Pointers};

/// In place of a step: the next thing is the exec. The other two numbers are the time (CLOCK_MONOTONIC), low half first.
pub const ANNOUNCE: u32 = u32::MAX;

/// What the process is given.
pub struct Entry<'a> {
    pub received: &'a Received,
    pub launch: &'a Launch<'static>,
    /// Where to say what failed.
    pub report: Fd,
    /// The slave of a terminal that the agent has opened.
    pub terminal: Option<Fd>,
    /// The environment is still to be made: this process is PID 1.
    pub set_up: bool,
    /// It was forked into its cgroup of version 2.
    pub in_cgroup: bool,
}

fn say(report: Fd, failure: &Failure) -> sys::Result<usize> {
    let mut record = Buffer::<12>::new();
    failure.encode(&mut record);
    sys::write(report, record.bytes())
}

/// Never returns: the program takes over, or the process ends.
pub fn run(entry: &Entry<'_>) -> ! {
    let mut report = entry.report;
    if let Err(failed) = steps(entry, &mut report) {
        let _ = say(report, &Failure { step: failed.step as u32, index: failed.index, errno: failed.errno.0 });
    }
    sys::exit(1)
}

fn steps(entry: &Entry<'_>, report: &mut Fd) -> Result<(), Failed> {
    let (plan, launch) = (&entry.received.plan, entry.launch);
    enter_cgroups(entry)?;
    if entry.set_up {
        // No terminal is opened in its devpts: the master would have to come out of here, so that the host hands one in.
        setup::run(plan, entry.received.tree_fds)?;
        setup::confine(plan)?;
    }
    sys::setsid().at(Step::Session)?;
    if plan.flags & flag::CGROUP_NS != 0 {
        sys::unshare(sys::CLONE_NEWCGROUP).at(Step::CgroupNamespace)?;
    }
    if !plan.chroot.is_empty() {
        chroot(plan).at(Step::Chroot)?;
    }
    place_descriptors(entry, report)?;
    if launch.flags & launch_flag::TERMINAL != 0 {
        sys::take_terminal().at(Step::Terminal)?;
    }
    directory(plan, launch).at(Step::WorkingDirectory)?;
    if let Some([soft, hard]) = entry.received.nofile {
        sys::set_rlimit(sys::RLIMIT_NOFILE, soft, hard).at(Step::Rlimit)?;
    }
    for (index, limit) in plan.rlimits.iter().enumerate() {
        sys::set_rlimit(limit.resource, limit.soft, limit.hard).at_index(Step::Rlimit, index as u32)?;
    }
    ids(plan)?;
    capabilities(plan).at(Step::Capabilities)?;
    if plan.flags & flag::AGENT_IS_INIT == 0 {
        // The agent has one thread, so that its end is what this is tied to. In its own namespace the kernel sees to it.
        sys::prctl(sys::PR_SET_PDEATHSIG, sys::SIGKILL as usize, 0).at(Step::Exec)?;
    }
    execute(launch, *report)
}

/// Through files that the host has opened: its right to do so counts, not this process's.
fn enter_cgroups(entry: &Entry<'_>) -> Result<(), Failed> {
    let launch = entry.launch;
    let procs = Some(launch.procs).filter(|place| *place != u32::MAX && !entry.in_cgroup);
    for (index, place) in launch.enter.iter().chain(procs).enumerate() {
        let file = Fd(entry.received.launch_fds.saturating_add(place) as i32);
        sys::write(file, b"0").at_index(Step::Cgroup, index as u32)?;
    }
    Ok(())
}

/// Into the directory that was checked, and no other.
fn chroot(plan: &Plan<'static>) -> sys::Result<()> {
    let root = sys::openat(AT_FDCWD, plan.chroot, sys::O_PATH | sys::O_DIRECTORY, 0)?;
    let found = sys::stat(root, c"")?;
    if (found.device, found.inode) != (plan.chroot_device, plan.chroot_inode) {
        return Err(Errno::STALE);
    }
    sys::fchdir(root)?;
    sys::close(root);
    sys::chroot(c".")
}

fn ids(plan: &Plan<'static>) -> Result<(), Failed> {
    if plan.flags & flag::SET_GROUPS != 0 {
        let mut groups = [0u32; 1024];
        for (slot, group) in groups.iter_mut().zip(plan.groups.iter()) {
            *slot = group;
        }
        let groups = groups.get(..plan.groups.len() as usize).ok_or(Errno::INVAL).at(Step::Groups)?;
        sys::setgroups(groups).at(Step::Groups)?;
    }
    if plan.flags & flag::SET_IDS != 0 {
        sys::prctl(sys::PR_SET_KEEPCAPS, 1, 0).at(Step::Ids)?;
        sys::setresgid(plan.gid).at(Step::Ids)?;
        sys::setresuid(plan.uid).at(Step::Ids)?;
        sys::prctl(sys::PR_SET_DUMPABLE, 0, 0).at(Step::Ids)?;
    }
    Ok(())
}

fn capabilities(plan: &Plan<'static>) -> sys::Result<()> {
    if plan.flags & flag::BOUNDING_SET == 0 {
        // The bounding set could not be cut. With no_new_privs an exec gives nothing that is not permitted before it.
        let permitted = sys::permitted()? & plan.keep;
        sys::capset(permitted, permitted, 0)?;
    }
    if plan.keep != 0 && plan.flags & flag::AMBIENT != 0 {
        let permitted = sys::permitted()?;
        sys::capset(plan.keep & permitted, permitted, plan.keep & permitted)?;
        for capability in (0..64).filter(|capability| plan.keep & 1 << capability != 0) {
            sys::prctl(sys::PR_CAP_AMBIENT, sys::PR_CAP_AMBIENT_RAISE, capability)?;
        }
    }
    Ok(())
}

/// Puts each descriptor where the program expects it, and closes all else but the report.
fn place_descriptors(entry: &Entry<'_>, report: &mut Fd) -> Result<(), Failed> {
    let list = &entry.launch.descriptors;
    let first = entry.received.launch_fds;
    let highest = list.iter().map(|descriptor| descriptor.target).max().unwrap_or(0);
    let above = highest.saturating_add(1);
    // Out of the way of the targets first; the usual three need not move.
    let clash = |fd: Fd| fd.0 < above as i32;
    if clash(*report) {
        *report = sys::dup_above(*report, above).at(Step::Descriptors)?;
    }
    let source = |place: u32| {
        if place == u32::MAX { entry.terminal.ok_or(Errno::PROTO) } else { Ok(Fd(first.saturating_add(place) as i32)) }
    };
    let mut moved = [Fd(-1); 256];
    for (index, (slot, descriptor)) in moved.iter_mut().zip(list.iter()).enumerate() {
        let fd = source(descriptor.source).at_index(Step::Descriptors, index as u32)?;
        *slot = if clash(fd) { sys::dup_above(fd, above).at_index(Step::Descriptors, index as u32)? } else { fd };
    }
    for (index, (slot, descriptor)) in moved.iter().zip(list.iter()).enumerate() {
        sys::dup3(*slot, descriptor.target).at_index(Step::Descriptors, index as u32)?;
    }
    // Numbers are given out from the lowest on, so that no other can be open far above what was received.
    let received = entry.received.tree_fds.saturating_add(entry.received.plan.mounts.len());
    let bound = received.max(above).saturating_add(1024);
    // The gaps: from one target to the next in order, then around the report.
    let mut from = 0;
    while from < above {
        let next = list.iter().map(|descriptor| descriptor.target).filter(|target| *target >= from).min();
        let next = next.unwrap_or(above);
        if next > from {
            sys::close_range(from, next - 1, bound).at(Step::Descriptors)?;
        }
        from = if next == above { above } else { next + 1 };
    }
    let report = report.0 as u32;
    if report > from {
        sys::close_range(from, report - 1, bound).at(Step::Descriptors)?;
    }
    sys::close_range(report + 1, u32::MAX, bound).at(Step::Descriptors)
}

fn directory(plan: &Plan<'static>, launch: &Launch<'static>) -> sys::Result<()> {
    if launch.directory.is_empty() {
        return Ok(());
    }
    if plan.flags & flag::PIVOT == 0 && plan.chroot.is_empty() {
        return sys::chdir(launch.directory);
    }
    let root = sys::openat(AT_FDCWD, c"/", sys::O_PATH | sys::O_DIRECTORY, 0)?;
    let directory = setup::lookup(root, launch.directory)?;
    sys::close(root);
    sys::fchdir(directory)?;
    sys::close(directory);
    if sys::inside()? { Ok(()) } else { Err(Errno::XDEV) }
}

/// Tries each candidate, as execvp(3) does, but never a shell.
fn execute(launch: &Launch<'static>, report: Fd) -> Result<(), Failed> {
    let arguments = pointers(launch.arguments.len(), launch.arguments.iter()).at(Step::Exec)?;
    let environment = pointers(launch.environment.len(), launch.environment.iter()).at(Step::Exec)?;
    let now = sys::now();
    let announced = say(report, &Failure { step: ANNOUNCE, index: now as u32, errno: (now >> 32) as i32 });
    // Nobody reads it: the agent has ended before its end could be tied to ours.
    announced.at(Step::Exec)?;
    // Last of all: until here a SIGPIPE had to be an error.
    sys::block_signals(false).at(Step::Exec)?;
    let mut worst = Errno::NOENT;
    for candidate in launch.candidates.iter() {
        match sys::execve(candidate, &arguments, &environment) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCES => worst = Errno::ACCES,
            errno => return Err(errno).at(Step::Exec),
        }
    }
    Err(worst).at(Step::Exec)
}

fn pointers(count: u32, strings: impl Iterator<Item = &'static CStr>) -> sys::Result<Pointers> {
    let mut pointers = Pointers::new(count)?;
    for string in strings {
        pointers.push(string);
    }
    Ok(pointers)
}
