//! Process B: from the agent's fork to the program.
//!
//! The order matters: what needs a capability comes before the ids change, and what limits the process comes late enough
//! not to hinder the set-up itself. It stays non-dumpable and keeps its permitted capabilities until the exec takes them
//! away, so that a payload of the same uid that is already inside cannot trace it.

use super::enter::{At, Body, Buffer, Failed, Received};
use super::plan::{
    Failure, Launch, MAX_LAUNCH_FDS, MAX_RULESETS, Plan, Rlimit, START, Start, Step, Wire, decode, flag,
    launch as launch_flag,
};
use super::setup::{self, Environment};
use super::sys::{self, AT_FDCWD, Errno, Fd, Pass, Pointers, Secrets};

/// In place of a step: the next thing is the exec. The other two numbers are the time (CLOCK_MONOTONIC), low half first.
pub const ANNOUNCE: u32 = u32::MAX;

/// In place of a step: it is parked.
pub const PARKED: u32 = u32::MAX - 1;

/// In place of a step: the program's own limit of time in nanoseconds, low half first, 0 for none.
pub const WALL_LIMIT: u32 = u32::MAX - 2;
pub const CPU_LIMIT: u32 = u32::MAX - 3;

/// What the process is given.
pub struct Entry<'a> {
    pub received: &'a Received<'a>,
    pub launch: &'a Launch<'a>,
    /// The descriptors that came with the launch, the program's socket first.
    pub handed: &'a [Fd],
    pub environment: &'a Environment,
    /// Where to say what failed.
    pub report: Fd,
    /// The slave of a terminal that the agent has opened.
    pub terminal: Option<Fd>,
    /// The environment is still to be made: this process is PID 1.
    pub set_up: bool,
    /// It was forked into its cgroup of version 2.
    pub in_cgroup: bool,
}

impl Entry<'_> {
    /// A descriptor by its place among those of the launch.
    pub fn handed(&self, place: u32) -> Result<Fd, Errno> {
        self.handed.get(place as usize).copied().ok_or(Errno::PROTO)
    }
}

/// What must outlive the placing of the program's descriptors, and is gone with the exec.
struct Kept {
    report: Fd,
    /// What takes the place of the host's descriptors.
    empty: Option<Fd>,
    rulesets: [Option<Fd>; MAX_RULESETS],
    labels: Option<Fd>,
    /// Where a parked process is told of its program, and the host of its failure.
    door: Option<Fd>,
}

impl Kept {
    fn all(&mut self) -> impl Iterator<Item = &mut Fd> {
        let others = self.rulesets.iter_mut().chain([&mut self.labels, &mut self.door, &mut self.empty]).flatten();
        core::iter::once(&mut self.report).chain(others)
    }

    /// The lowest of them from a number on.
    fn next(&mut self, from: u32) -> Option<u32> {
        self.all().map(|fd| fd.0 as u32).filter(|number| *number >= from).min()
    }
}

fn say(report: Fd, failure: &Failure, listener: Option<Fd>) -> sys::Result<()> {
    let mut record = Buffer::<12>::new();
    failure.encode(&mut record);
    match listener {
        Some(listener) => sys::send(report, record.bytes(), &[listener], None),
        None => sys::send(report, record.bytes(), &[], None),
    }
}

/// A number of 64 bits, in place of a failure.
fn number(step: u32, number: u64) -> Failure {
    Failure { step, index: number as u32, errno: (number >> 32) as i32 }
}

/// Never returns: the program takes over, or the process ends.
pub fn run(entry: &Entry<'_>) -> ! {
    let Environment { rulesets, labels, .. } = *entry.environment;
    let empty = entry.received.body.and_then(|_| entry.handed(entry.launch.empty).ok());
    let mut kept = Kept { report: entry.report, empty, rulesets, labels, door: None };
    let result = if entry.launch.flags & launch_flag::PARKED == 0 {
        straight(entry, &mut kept)
    } else {
        parked(entry, &mut kept)
    };
    if let Err(failed) = result {
        let failure = Failure { step: failed.step as u32, index: failed.index, errno: failed.errno.0 };
        let _ = say(kept.report, &failure, None);
        if let Some(door) = kept.door {
            let _ = say(door, &failure, None);
        }
    }
    sys::exit(1)
}

/// From the fork to the program, in the order of the steps.
fn straight(entry: &Entry<'_>, kept: &mut Kept) -> Result<(), Failed> {
    arrive(entry, kept)?;
    take_place(entry.received, entry.launch, entry.handed, entry.terminal, kept)?;
    limits(entry.received, |_| true)?;
    confine(entry, kept)?;
    let plan = &entry.received.plan;
    if let Some(body) = &entry.received.body {
        return call(plan, kept, body);
    }
    let launch = entry.launch;
    let arguments = Pointers::new(launch.arguments.len() as usize).at(Step::Exec)?;
    let environment = Pointers::new(launch.environment.len() as usize).at(Step::Exec)?;
    let now = sys::now();
    let listener = filter(plan).at(Step::Seccomp)?;
    become_program(launch, [arguments, environment], kept, now, listener)
}

/// How large a launch may be that comes to a parked process, and how many strings it may have of each kind: its memory is
/// there before the filter is. No exec takes more than 6 MiB.
const ROOM: usize = 8 << 20;
const MOST_STRINGS: usize = 1 << 18;

/// All that needs no program comes first, the filter too: what comes after it is among the calls that have the pass. Only the
/// limit of descriptors must wait until they are in their places.
fn parked(entry: &Entry<'_>, kept: &mut Kept) -> Result<(), Failed> {
    let received = entry.received;
    kept.door = Some(entry.handed(entry.launch.door).at(Step::Spawn)?);
    let room = sys::room(ROOM).at(Step::Spawn)?;
    let arguments = Pointers::new(MOST_STRINGS).at(Step::Spawn)?;
    let environment = Pointers::new(MOST_STRINGS).at(Step::Spawn)?;
    arrive(entry, kept)?;
    limits(received, |resource| resource != sys::RLIMIT_NOFILE)?;
    // As another user it could not raise that later.
    let [_, hard] = received.nofile;
    if let Some((index, limit)) = descriptors(&received.plan).filter(|(_, limit)| limit.hard > hard) {
        sys::set_rlimit(limit.resource, hard, limit.hard).at_index(Step::Rlimit, index)?;
    }
    confine(entry, kept)?;
    let listener = filter(&received.plan).at(Step::Seccomp)?;
    say(kept.report, &number(PARKED, 0), listener).at(Step::Spawn)?;

    let door = entry.handed(entry.launch.door).at(Step::Spawn)?;
    let mut handed = [door; MAX_LAUNCH_FDS];
    let arrived = match wait_for_program(door, room, &mut handed) {
        Err(Errno::TOOBIG) => Err(Errno::TOOBIG).at(Step::Exec)?,
        arrived => arrived.at(Step::Spawn)?,
    };
    let launch = decode::<Launch<'_>>(arrived.bytes).map_err(|_| Errno::PROTO).at(Step::Spawn)?;
    if launch.arguments.len().max(launch.environment.len()) as usize > MOST_STRINGS {
        return Err(Errno::TOOBIG).at(Step::Exec);
    }
    take_place(received, &launch, handed.get(..arrived.fds).unwrap_or_default(), None, kept)?;
    limits(received, |resource| resource == sys::RLIMIT_NOFILE)?;
    if launch.flags & launch_flag::OWN_LIMITS != 0 {
        for (step, limit) in [(WALL_LIMIT, launch.wall_limit), (CPU_LIMIT, launch.cpu_limit)] {
            say(kept.report, &number(step, limit), None).at(Step::Spawn)?;
        }
    }
    become_program(&launch, [arguments, environment], kept, sys::now(), None)
}

/// What came through the door.
struct Arrived<'a> {
    bytes: &'a [u8],
    fds: usize,
}

/// The launch's descriptors, behind the door's own, which stands for the program's socket.
fn wait_for_program<'a>(door: Fd, room: &'a mut [u8], handed: &mut [Fd; MAX_LAUNCH_FDS]) -> sys::Result<Arrived<'a>> {
    let more = handed.get_mut(1..).unwrap_or_default();
    let (len, mut count) = sys::receive(door, room, more, true)?;
    // Its end is the host's: there will be no program.
    let (head, _) = room.get(4..len).and_then(|body| body.split_first_chunk::<START>()).ok_or(Errno::PROTO)?;
    let start = decode::<Start>(head).map_err(|_| Errno::PROTO)?;
    while count < start.fds as usize {
        let more = handed.get_mut(1 + count..).unwrap_or_default();
        match sys::receive(door, &mut [0; 32], more, true)?.1 {
            0 => return Err(Errno::PROTO),
            more => count += more,
        }
    }
    let bytes = match start.file_len {
        0 => room.get(4 + START..len).ok_or(Errno::PROTO)?,
        file_len => {
            let file = handed.get(count).copied().ok_or(Errno::PROTO)?;
            let wanted = usize::try_from(file_len).ok().and_then(|len| room.get_mut(..len)).ok_or(Errno::TOOBIG)?;
            read_all(file, wanted)?
        }
    };
    Ok(Arrived { bytes, fds: count + 1 })
}

/// A file's first bytes; it is sealed, and has them.
fn read_all(file: Fd, bytes: &mut [u8]) -> sys::Result<&[u8]> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match sys::pread(file, rest, done)? {
            0 => return Err(Errno::PROTO),
            len => done += len,
        }
    }
    Ok(bytes)
}

/// Where the program is to be: its cgroup, its session, its root.
fn arrive(entry: &Entry<'_>, kept: &mut Kept) -> Result<(), Failed> {
    let plan = &entry.received.plan;
    enter_cgroups(entry)?;
    if entry.set_up {
        // No terminal is opened in its devpts: the master would have to come out of here, so that the host hands one in.
        let environment = setup::run(plan, entry.received.tree_fds)?;
        setup::confine(plan)?;
        (kept.rulesets, kept.labels) = (environment.rulesets, environment.labels);
    }
    sys::setsid().at(Step::Session)?;
    if plan.flags & flag::CGROUP_NS != 0 {
        sys::unshare(sys::CLONE_NEWCGROUP).at(Step::CgroupNamespace)?;
    }
    if !plan.chroot.is_empty() {
        chroot(plan).at(Step::Chroot)?;
    }
    Ok(())
}

/// Its descriptors, its terminal, its working directory.
fn take_place(
    received: &Received<'_>,
    launch: &Launch<'_>,
    handed: &[Fd],
    terminal: Option<Fd>,
    kept: &mut Kept,
) -> Result<(), Failed> {
    place_descriptors(received, launch, handed, terminal, kept)?;
    if launch.flags & launch_flag::TERMINAL != 0 {
        sys::take_terminal().at(Step::Terminal)?;
    }
    directory(&received.plan, launch).at(Step::WorkingDirectory)
}

fn limits(received: &Received<'_>, now: impl Fn(u32) -> bool) -> Result<(), Failed> {
    let [soft, hard] = received.nofile;
    if soft < hard && now(sys::RLIMIT_NOFILE) && descriptors(&received.plan).is_none() {
        sys::set_rlimit(sys::RLIMIT_NOFILE, soft, hard).at(Step::Rlimit)?;
    }
    for (index, limit) in received.plan.rlimits.iter().enumerate().filter(|(_, limit)| now(limit.resource)) {
        sys::set_rlimit(limit.resource, limit.soft, limit.hard).at_index(Step::Rlimit, index as u32)?;
    }
    Ok(())
}

/// The policy's own limit of descriptors, and its place among all.
fn descriptors(plan: &Plan<'static>) -> Option<(u32, Rlimit)> {
    (0..).zip(plan.rlimits.iter()).find(|(_, limit)| limit.resource == sys::RLIMIT_NOFILE)
}

/// Who the program is, and what it may do; but for the filter.
fn confine(entry: &Entry<'_>, kept: &Kept) -> Result<(), Failed> {
    let plan = &entry.received.plan;
    ids(plan)?;
    capabilities(plan).at(Step::Capabilities)?;
    if plan.flags & flag::AGENT_IS_INIT == 0 {
        // The agent has one thread, so that its end is what this is tied to. In its own namespace the kernel sees to it.
        sys::prctl(sys::PR_SET_PDEATHSIG, sys::SIGKILL as usize, 0).at(Step::Exec)?;
    }
    if let Some(labels) = kept.labels {
        label(plan, labels).at(Step::Label)?;
    }
    for (index, ruleset) in kept.rulesets.iter().flatten().enumerate() {
        sys::landlock_restrict(*ruleset).at_index(Step::Landlock, index as u32)?;
    }
    Ok(())
}

/// Its listener, if there is to be one. All that the filter must let through stands after it, and has a secret of this
/// process's own, in place of that in the plan: what one program might find out is nothing to another.
fn filter(plan: &Plan<'static>) -> sys::Result<Option<Fd>> {
    if plan.filter.is_empty() {
        return Ok(None);
    }
    let pass = Pass(sys::random()?);
    let mut filter = Secrets::copy_of(plan.filter)?;
    replace(filter.bytes(), Pass([plan.secret_low, plan.secret_high]), pass);
    sys::set_pass(pass);
    sys::filter(filter.bytes(), plan.flags & flag::LISTENER != 0)
}

/// What is said to the agent, the signal mask, the exec.
fn become_program<'a>(
    launch: &Launch<'a>,
    strings: [Pointers<'a>; 2],
    kept: &Kept,
    now: u64,
    listener: Option<Fd>,
) -> Result<(), Failed> {
    let [mut arguments, mut environment] = strings;
    launch.arguments.iter().for_each(|string| arguments.push(string));
    launch.environment.iter().for_each(|string| environment.push(string));
    // Nobody reads it: the agent has ended before its end could be tied to ours.
    say(kept.report, &number(ANNOUNCE, now), listener).at(Step::Exec)?;
    execute(launch, &arguments, &environment)
}

/// In place of the exec, in a fork of the host. What an exec would do is done here: capabilities that are not kept are given
/// up, descriptors closed. The memory is still the host's own, and stays closed to everybody else.
fn call(plan: &Plan<'static>, kept: &Kept, body: &Body<'_>) -> Result<(), Failed> {
    let permitted = sys::permitted().at(Step::Capabilities)? & plan.keep;
    sys::capset(permitted, permitted, plan.ambient & permitted).at(Step::Capabilities)?;
    sys::prctl(sys::PR_SET_KEEPCAPS, 0, 0).at(Step::Capabilities)?;
    sys::prctl(sys::PR_SET_DUMPABLE, 0, 0).at(Step::Capabilities)?;
    for ruleset in kept.rulesets.iter().flatten() {
        sys::close(*ruleset);
    }
    last_calls(plan, kept.report).at(Step::Seccomp)?;
    sys::forget_stack();
    sys::end((body.call)())
}

/// The filter, what is said to the agent, the signal mask. A program cannot look for the secret in memory: an exec has taken
/// that away. Here nothing is left of it.
#[inline(never)]
fn last_calls(plan: &Plan<'static>, report: Fd) -> sys::Result<()> {
    let now = sys::now();
    let listener = filter(plan)?;
    say(report, &number(ANNOUNCE, now), listener)?;
    if let Some(listener) = listener {
        sys::close(listener);
    }
    sys::block_signals(false)?;
    sys::close_last(report);
    Ok(())
}

/// In what the filter compares with: a 64-bit value is compared half by half.
fn replace(filter: &mut [u8], old: Pass, new: Pass) {
    const JUMP_IF_EQUAL: [u8; 2] = 0x15u16.to_ne_bytes();
    for instruction in filter.as_chunks_mut::<8>().0 {
        let [c0, c1, _, _, k @ ..] = instruction;
        if [*c0, *c1] != JUMP_IF_EQUAL {
            continue;
        }
        let mut halves = old
            .0
            .iter()
            .zip(new.0)
            .flat_map(|(old, new)| [(*old as u32, new as u32), ((old >> 32) as u32, (new >> 32) as u32)]);
        if let Some((_, new)) = halves.find(|(old, _)| *k == old.to_ne_bytes()) {
            *k = new.to_ne_bytes();
        }
    }
}

/// For the exec that comes next, in this thread only.
fn label(plan: &Plan<'static>, attributes: Fd) -> sys::Result<()> {
    let file = sys::openat2(attributes, plan.label_file, sys::O_WRONLY, sys::RESOLVE_NO_XDEV)?;
    let written = sys::write(file, plan.label.to_bytes());
    sys::close(file);
    written.map(drop)
}

/// Through files that the host has opened: its right to do so counts, not this process's.
fn enter_cgroups(entry: &Entry<'_>) -> Result<(), Failed> {
    let launch = entry.launch;
    let procs = Some(launch.procs).filter(|place| *place != u32::MAX && !entry.in_cgroup);
    for (index, place) in launch.enter.iter().chain(procs).enumerate() {
        let file = entry.handed(place).at_index(Step::Cgroup, index as u32)?;
        sys::write(file, b"0").at_index(Step::Cgroup, index as u32)?;
    }
    Ok(())
}

fn chroot(plan: &Plan<'static>) -> sys::Result<()> {
    let root = setup::chroot_directory(plan)?;
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
    if plan.ambient != 0 {
        let permitted = sys::permitted()?;
        sys::capset(plan.keep & permitted, permitted, plan.ambient & permitted)?;
        for capability in (0..64).filter(|capability| plan.ambient & 1 << capability != 0) {
            sys::prctl(sys::PR_CAP_AMBIENT, sys::PR_CAP_AMBIENT_RAISE, capability)?;
        }
    }
    if plan.flags & flag::NO_NEW_PRIVS == 0 {
        // Landlock and a filter are then for those that have CAP_SYS_ADMIN, which a change of ids has made ineffective.
        let permitted = sys::permitted()?;
        sys::capset(permitted, permitted, plan.ambient & permitted)?;
    }
    Ok(())
}

/// Puts each descriptor where the program expects it, and closes all else but what is kept.
fn place_descriptors(
    received: &Received<'_>,
    launch: &Launch<'_>,
    handed: &[Fd],
    terminal: Option<Fd>,
    kept: &mut Kept,
) -> Result<(), Failed> {
    let list = &launch.descriptors;
    let open = received.body.map_or(&[][..], |body| body.open);
    let targets = list.iter().map(|descriptor| descriptor.target);
    let above = targets.chain(open.iter().copied()).max().unwrap_or(0).saturating_add(1);
    // Out of the way of the targets first; the usual three need not move.
    let clash = |fd: Fd| fd.0 < above as i32;
    for fd in kept.all().filter(|fd| clash(**fd)) {
        *fd = sys::dup_above(*fd, above).at(Step::Descriptors)?;
    }
    let source = |place: u32| {
        let fd = if place == u32::MAX { terminal } else { handed.get(place as usize).copied() };
        fd.ok_or(Errno::PROTO)
    };
    let mut moved = [Fd(-1); 256];
    for (index, (slot, descriptor)) in moved.iter_mut().zip(list.iter()).enumerate() {
        let fd = source(descriptor.source).at_index(Step::Descriptors, index as u32)?;
        *slot = if clash(fd) { sys::dup_above(fd, above).at_index(Step::Descriptors, index as u32)? } else { fd };
    }
    for (index, (slot, descriptor)) in moved.iter().zip(list.iter()).enumerate() {
        sys::dup3(*slot, descriptor.target).at_index(Step::Descriptors, index as u32)?;
    }
    // Where they must be closed one by one: no other is open far above what the agent has.
    let trees = received.tree_fds.saturating_add(received.plan.mounts.len());
    let bound = trees.max(above).saturating_add(8192);
    // The gaps: from one that stays to the next, in order.
    let mut from = 0;
    loop {
        // What is kept is above all targets.
        let targets = list.iter().map(|descriptor| descriptor.target).filter(|target| *target >= from).min();
        let Some(next) = targets.or_else(|| kept.next(from)) else {
            sys::close_range(from, u32::MAX, bound).at(Step::Descriptors)?;
            return stand_in(launch, kept, open).at(Step::Descriptors);
        };
        if next > from {
            sys::close_range(from, next - 1, bound).at(Step::Descriptors)?;
        }
        from = next.saturating_add(1);
    }
}

/// What the host's memory names as its descriptors leads nowhere, and closes nothing else.
fn stand_in(launch: &Launch<'_>, kept: &mut Kept, open: &[u32]) -> sys::Result<()> {
    let Some(empty) = kept.empty.take() else { return Ok(()) };
    for number in open {
        if launch.descriptors.iter().all(|descriptor| descriptor.target != *number) {
            sys::stand_in(empty, *number)?;
        }
    }
    sys::close(empty);
    Ok(())
}

fn directory(plan: &Plan<'static>, launch: &Launch<'_>) -> sys::Result<()> {
    if launch.directory.is_empty() {
        return Ok(());
    }
    if plan.flags & flag::PIVOT == 0 && plan.chroot.is_empty() {
        return sys::chdir(launch.directory);
    }
    let root = sys::openat(AT_FDCWD, c"/", sys::O_PATH | sys::O_DIRECTORY, 0)?;
    let directory = setup::lookup_directory(root, launch.directory)?;
    sys::close(root);
    sys::fchdir(directory)?;
    sys::close(directory);
    if sys::inside()? { Ok(()) } else { Err(Errno::XDEV) }
}

/// Tries each candidate, as execvp(3) does, but never a shell.
fn execute(launch: &Launch<'_>, arguments: &Pointers<'_>, environment: &Pointers<'_>) -> Result<(), Failed> {
    // Last of all: until here a SIGPIPE had to be an error.
    sys::block_signals(false).at(Step::Exec)?;
    let mut worst = Errno::NOENT;
    for candidate in launch.candidates.iter() {
        match sys::execve(candidate, arguments, environment) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCES => worst = Errno::ACCES,
            errno => return Err(errno).at(Step::Exec),
        }
    }
    Err(worst).at(Step::Exec)
}
