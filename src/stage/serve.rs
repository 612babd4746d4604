//! Process A, the agent: PID 1 of the sandbox, or its guardian where there is no PID namespace.
//!
//! It starts the program, watches the host, the clock and its children, and ends everything when one of them says so.

use super::enter::{At, Control, Failed, Received};
use super::exec;
use super::plan::{Exit, Failure, Launch, Plan, Step, decode, flag, launch as launch_flag, message, reason};
use super::setup::{self, Environment};
use super::sys::{self, Errno, Fd, Poll};

/// The agent's whole life.
pub fn run(control: Control, received: Received) -> ! {
    match agent(control, &received) {
        Ok(()) => sys::exit(0),
        Err(failed) => {
            control.fail(&failed);
            sys::exit(1)
        }
    }
}

fn agent(control: Control, received: &Received) -> Result<(), Failed> {
    let plan = &received.plan;
    sys::block_signals(true).at(Step::Agent)?;
    let is_init = plan.flags & flag::AGENT_IS_INIT != 0;
    let program_is_init = plan.flags & flag::PROGRAM_IS_INIT != 0;
    let children = if is_init {
        None
    } else {
        sys::prctl(sys::PR_SET_CHILD_SUBREAPER, 1, 0).at(Step::Agent)?;
        list_of_children(plan)
    };
    take_ids(plan).at(Step::AgentIds)?;
    let environment = if program_is_init {
        Environment::default()
    } else {
        let environment = setup::run(plan, received.tree_fds)?;
        setup::confine(plan)?;
        environment
    };
    let signals = sys::child_signals().at(Step::Agent)?;
    control.send(message::READY, &0u32, &[], None).at(Step::Agent)?;

    let mut agent = Agent { control, plan, is_init, children, signals, detached: false, program: None };
    if let Some(launch) = &received.launch {
        agent.start(received, launch, &environment)?;
    }
    agent.serve()
}

/// The list of this process's children, with their numbers in its own PID namespace. Missing where procfs is, or the
/// kernel's CONFIG_PROC_CHILDREN.
fn list_of_children(plan: &Plan<'_>) -> Option<Fd> {
    const LIST: &core::ffi::CStr = c"thread-self/children";
    if plan.joins.iter().any(|join| join.kind == sys::CLONE_NEWPID) {
        // The host's procfs has other numbers.
        let proc = sys::new_mount(c"proc", &[], sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV | sys::MOUNT_NO_EXEC).ok()?;
        let list = sys::openat(proc, LIST, 0, 0);
        sys::close(proc);
        return list.ok();
    }
    sys::openat(sys::AT_FDCWD, c"/proc/thread-self/children", 0, 0).ok()
}

/// An id of the new user namespace: as an unmapped one the agent could make no file.
fn take_ids(plan: &Plan<'_>) -> sys::Result<()> {
    if plan.agent_uid != u32::MAX {
        if plan.flags & flag::SET_GROUPS != 0 {
            sys::setgroups(&[])?;
        }
        sys::setresgid(plan.agent_gid)?;
        sys::setresuid(plan.agent_uid)?;
        // Changing ids may have given the process back to those of the same uid.
        sys::prctl(sys::PR_SET_DUMPABLE, 0, 0)?;
    }
    Ok(())
}

/// How often a guardian looks for what is left, and how long: nanoseconds.
const LOOK_AGAIN: u64 = 5_000_000;
const PATIENCE: u64 = 3_000_000_000;

/// How long the kernel may take to end one process for want of memory: nanoseconds.
const OTHERS_TURN: u64 = 20_000_000;

struct Agent<'a> {
    control: Control,
    plan: &'a Plan<'static>,
    is_init: bool,
    /// The list of this process's children, where it is not PID 1.
    children: Option<Fd>,
    signals: Fd,
    detached: bool,
    program: Option<Program>,
}

struct Program {
    pid: i32,
    pidfd: Fd,
    /// The terminal's master, until it is handed over.
    terminal: Option<Fd>,
    /// What the process says on its way to the exec; `None` once it is through.
    errors: Option<Fd>,
    /// It said that the exec is next.
    announced: bool,
    failed: Option<Failure>,
    started: u64,
    ended: u64,
    limit: Option<u64>,
    deadline: Option<u64>,
    oom: Option<Fd>,
    /// When to end the others after the kernel has ended one for want of memory.
    out_of_memory: Option<u64>,
    kill: Option<Fd>,
    budget: Option<Budget>,
    status: Option<i32>,
    reason: u32,
    user_us: u64,
    system_us: u64,
    max_rss: u64,
    in_blocks: u64,
    out_blocks: u64,
}

impl Program {
    /// When something may be over.
    fn next_look(&self) -> Option<u64> {
        let budget = self.budget.as_ref().map(|budget| budget.next);
        [self.deadline, budget, self.out_of_memory].into_iter().flatten().min()
    }

    fn check_limits(&mut self, oom: bool) {
        let over = |moment: Option<u64>| moment.is_some_and(|moment| sys::now() >= moment);
        if let (true, Some(event)) = (oom, self.oom) {
            let _ = sys::read(event, &mut [0; 8]);
            // It is told just before it ends one of them, and counts that; then it is our turn.
            self.out_of_memory = self.out_of_memory.or(Some(sys::now().saturating_add(OTHERS_TURN)));
        }
        if over(self.out_of_memory) {
            self.reason = reason::MEMORY;
        } else if self.budget.as_mut().is_some_and(Budget::look) {
            self.reason = reason::CPU_TIME;
        } else if over(self.deadline) {
            self.reason = reason::WALL_TIME;
        }
    }
}

/// CPU time for the whole tree.
struct Budget {
    account: Fd,
    limit: u64,
    cpus: u32,
    /// When to look again, at the earliest moment at which it can be used up.
    next: u64,
}

impl Budget {
    /// Whether it is used up.
    fn look(&mut self) -> bool {
        let now = sys::now();
        if now < self.next {
            return false;
        }
        let mut text = [0; 128];
        let len = sys::pread(self.account, &mut text, 0).unwrap_or(0);
        let used = cpu_time(text.get(..len).unwrap_or_default());
        let left = self.limit.saturating_sub(used);
        // At least a millisecond: to look costs too.
        self.next = now.saturating_add((left / u64::from(self.cpus.max(1))).max(1_000_000));
        left == 0
    }
}

/// Nanoseconds, from version 1's `cpuacct.usage`, or from version 2's `cpu.stat`, which begins with microseconds.
fn cpu_time(text: &[u8]) -> u64 {
    let (digits, unit) = match text.strip_prefix(b"usage_usec ") {
        Some(rest) => (rest, 1000),
        None => (text, 1),
    };
    let number = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number = number.fold(0u64, |sum, byte| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')));
    number.saturating_mul(unit)
}

impl Agent<'_> {
    fn start(
        &mut self,
        received: &Received,
        launch: &Launch<'static>,
        environment: &Environment,
    ) -> Result<(), Failed> {
        let terminal = match environment.devpts {
            Some(devpts) if launch.flags & launch_flag::OPEN_TERMINAL != 0 => {
                let [master, slave] = sys::open_terminal(devpts).at(Step::Terminal)?;
                if self.plan.flags & flag::SET_IDS != 0 {
                    // So that the program can open it by its name.
                    sys::fchown(slave, self.plan.uid).at(Step::Terminal)?;
                }
                Some([master, slave])
            }
            _ => None,
        };
        let [errors, report] = sys::pipe().at(Step::Spawn)?;
        if self.plan.flags & flag::PROGRAM_IS_INIT != 0 {
            sys::unshare(sys::CLONE_NEWPID).at(Step::PidNamespace)?;
        }
        let started = sys::now();
        let place = |place: u32| {
            Some(Fd(received.launch_fds.saturating_add(place) as i32)).filter(|_| place != u32::MAX)
        };
        // Where that is refused, as to another user's, its process enters by itself.
        let forked = place(launch.into).and_then(|cgroup| sys::fork_into(cgroup).ok());
        let in_cgroup = forked.is_some();
        let forked = match forked {
            Some(forked) => forked,
            None => sys::fork(0).at(Step::Spawn)?,
        };
        let (pid, pidfd) = match forked {
            sys::Fork::Child => {
                let entry = exec::Entry {
                    received,
                    launch,
                    report,
                    terminal: terminal.map(|[_, slave]| slave),
                    set_up: self.plan.flags & flag::PROGRAM_IS_INIT != 0,
                    in_cgroup,
                };
                exec::run(&entry)
            }
            sys::Fork::Parent { pid, pidfd } => (pid, pidfd),
        };
        if self.plan.flags & flag::PROGRAM_IS_INIT != 0 {
            // All the rest is the program's own to do.
            const CAP_KILL: u64 = 1 << 5;
            let permitted = sys::permitted().at(Step::AgentCapabilities)? & CAP_KILL;
            sys::capset(permitted, permitted, 0).at(Step::AgentCapabilities)?;
        }
        sys::close(report);
        if let Some([_, slave]) = terminal {
            sys::close(slave);
        }
        let keep = [place(launch.oom), place(launch.cpu), place(launch.kill)];
        for fd in received.launch_fds..received.join_fds {
            let fd = Fd(fd as i32);
            if !keep.contains(&Some(fd)) {
                sys::close(fd);
            }
        }
        let [oom, cpu, kill] = keep;
        self.program = Some(Program {
            pid,
            pidfd,
            terminal: terminal.map(|[master, _]| master),
            errors: Some(errors),
            announced: false,
            failed: None,
            started,
            ended: 0,
            limit: Some(launch.wall_limit).filter(|limit| *limit != 0),
            deadline: None,
            oom,
            out_of_memory: None,
            kill,
            budget: cpu.map(|account| Budget { account, limit: launch.cpu_limit, cpus: launch.cpus, next: 0 }),
            status: None,
            reason: reason::NONE,
            user_us: 0,
            system_us: 0,
            max_rss: 0,
            in_blocks: 0,
            out_blocks: 0,
        });
        Ok(())
    }

    /// Until the host, the program or the clock ends it.
    fn serve(&mut self) -> Result<(), Failed> {
        loop {
            let socket = Some(self.control.socket).filter(|_| !self.detached);
            let errors = self.program.as_ref().and_then(|program| program.errors);
            let oom = self.program.as_ref().and_then(|program| program.oom);
            let deadline = self.program.as_ref().and_then(Program::next_look);
            let mut set = [socket, Some(self.control.host), Some(self.signals), errors, oom].map(Poll::input);
            let timeout = deadline.map(|deadline| deadline.saturating_sub(sys::now()));
            if sys::poll(&mut set, timeout).is_err() {
                // Blind to the host and the clock it must not go on.
                match &mut self.program {
                    Some(program) => program.reason = reason::AGENT,
                    None => return Err(Errno::INVAL).at(Step::Agent),
                }
                return self.finish();
            }
            let [socket, host, signals, errors, oom] = set.map(|entry| entry.ready());

            // Before anybody is reaped: the kernel names the program to the host by its number, which must still be its own.
            if errors || signals {
                self.hear();
            }
            if signals {
                let mut information = [0; 128];
                let _ = sys::read(self.signals, &mut information);
                while let Ok(Some(reaped)) = sys::wait(false) {
                    self.account(&reaped);
                }
            }
            if host || (socket && self.obey()) {
                self.end_all();
                return Ok(());
            }
            if let Some(program) = &mut self.program {
                if program.status.is_none() {
                    program.check_limits(oom);
                }
                let over = program.status.is_some() && program.errors.is_none();
                if over || program.reason != reason::NONE {
                    return self.finish();
                }
            }
        }
    }

    /// Reads what the process says on its way; its end of the pipe closes with the exec, or with the process.
    fn hear(&mut self) {
        let Some(program) = &mut self.program else { return };
        let Some(errors) = program.errors else { return };
        let mut record = [0; 12];
        loop {
            match sys::read(errors, &mut record) {
                Ok(12) => match decode::<Failure>(&record) {
                    Ok(Failure { step: exec::ANNOUNCE, index, errno }) => {
                        program.announced = true;
                        program.started = u64::from(errno as u32) << 32 | u64::from(index);
                    }
                    Ok(failure) => program.failed = Some(failure),
                    Err(_) => {}
                },
                Err(Errno::AGAIN) => return,
                _ => break,
            }
        }
        sys::close(errors);
        program.errors = None;
        if program.announced && program.failed.is_none() {
            self.started();
        }
    }

    /// Tells the host that the program runs.
    fn started(&mut self) {
        let Some(program) = &mut self.program else { return };
        program.deadline = program.limit.map(|limit| program.started.saturating_add(limit));
        // From a PID namespace of our own the number means nothing to the host: the kernel translates credentials.
        // From one that was joined the host finds it out by the pidfd.
        let joined = self.plan.joins.iter().any(|join| join.kind == sys::CLONE_NEWPID);
        let (number, credentials) = if self.is_init {
            let (uid, gid) = sys::effective_ids();
            (0, Some((program.pid, uid, gid)))
        } else {
            (if joined { 0 } else { program.pid as u32 }, None)
        };
        let both = [program.pidfd, program.terminal.unwrap_or(program.pidfd)];
        let fds = if program.terminal.is_some() { &both[..] } else { &both[..1] };
        if let Err(errno) = self.control.send(message::STARTED, &number, fds, credentials) {
            // A host that cannot be told has no handle: the program ends, and what can be sent says why.
            program.failed = Some(Failure { step: Step::Agent as u32, index: 0, errno: errno.0 });
            program.reason = reason::HOST;
        }
        if let Some(master) = program.terminal.take() {
            sys::close(master);
        }
    }

    /// Does what the host says. True: the host has let go.
    fn obey(&mut self) -> bool {
        let mut buffer = [0; 16];
        let len = match sys::receive(self.control.socket, &mut buffer, false) {
            Ok((0, _)) => return true,
            Ok((len, _)) => len,
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        };
        let number = buffer.first_chunk::<4>().map_or(0, |number| u32::from_ne_bytes(*number));
        match (number, &mut self.program) {
            (message::KILL, Some(program)) if program.status.is_none() => program.reason = reason::HOST,
            (message::SIGNAL, Some(program)) => {
                if let Some(Ok(signal)) = buffer.get(4..len).map(decode::<u32>) {
                    let _ = sys::pidfd_send_signal(program.pidfd, signal);
                }
            }
            (message::DETACH, _) => self.detached = true,
            _ => {}
        }
        false
    }

    fn account(&mut self, reaped: &sys::Reaped) {
        let Some(program) = &mut self.program else { return };
        let usage = &reaped.usage;
        program.user_us = program.user_us.saturating_add(usage.user_us());
        program.system_us = program.system_us.saturating_add(usage.system_us());
        program.max_rss = program.max_rss.max(usage.max_rss as u64);
        program.in_blocks = program.in_blocks.saturating_add(usage.in_blocks as u64);
        program.out_blocks = program.out_blocks.saturating_add(usage.out_blocks as u64);
        if reaped.pid == program.pid {
            program.status = Some(reaped.status);
            program.ended = sys::now();
        }
    }

    /// Ends what is left of the program, and says how it went.
    fn finish(&mut self) -> Result<(), Failed> {
        self.end_all();
        let Some(program) = &self.program else { return Ok(()) };
        if let Some(failure) = &program.failed {
            let step = Step::from_number(failure.step).unwrap_or(Step::Spawn);
            return Err(Failed { step, index: failure.index, errno: Errno(failure.errno) });
        }
        if !program.announced && program.reason == reason::NONE {
            // Killed on its way, by a limit of memory for instance.
            return Err(Errno(0)).at(Step::Spawn);
        }
        let exit = Exit {
            status: program.status.unwrap_or_default(),
            reason: program.reason,
            wall_ns: program.ended.saturating_sub(program.started),
            user_us: program.user_us,
            system_us: program.system_us,
            max_rss_kib: program.max_rss,
            in_blocks: program.in_blocks,
            out_blocks: program.out_blocks,
        };
        let _ = self.control.send(message::EXITED, &exit, &[], None);
        Ok(())
    }

    /// Kills and reaps everything.
    fn end_all(&mut self) {
        let limit = sys::now().saturating_add(PATIENCE);
        loop {
            match sys::wait(false) {
                Ok(Some(reaped)) => self.account(&reaped),
                Ok(None) => {
                    self.kill_all();
                    self.hear();
                    if self.is_init {
                        match sys::wait(true) {
                            Ok(Some(reaped)) => self.account(&reaped),
                            _ => return,
                        }
                    } else {
                        // There may be some that it cannot find; it looks again, and not for ever.
                        if sys::now() >= limit {
                            return;
                        }
                        let mut set = [Poll::input(Some(self.signals))];
                        let _ = sys::poll(&mut set, Some(LOOK_AGAIN));
                        let mut information = [0; 128];
                        let _ = sys::read(self.signals, &mut information);
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// PID 1 kills its namespace at once. A guardian kills its children, and theirs become its own.
    fn kill_all(&self) {
        if self.is_init {
            let _ = sys::kill(-1, sys::SIGKILL);
            return;
        }
        if let Some(kill) = self.program.as_ref().and_then(|program| program.kill) {
            let _ = sys::write(kill, b"1");
        }
        if let Some(Program { pidfd, pid, status: None, .. }) = &self.program {
            let _ = sys::pidfd_send_signal(*pidfd, sys::SIGKILL);
            // Its session's first process group: those that stayed in it.
            let _ = sys::kill(-pid, sys::SIGKILL);
        }
        let Some(children) = self.children else { return };
        let mut list = [0; 4096];
        let len = sys::pread(children, &mut list, 0).unwrap_or(0);
        let list = list.get(..len).unwrap_or_default();
        // The last number may be cut short where the buffer ends; each is followed by a space.
        let whole = list.iter().rposition(|byte| *byte == b' ').unwrap_or(0);
        for pid in list.get(..whole).unwrap_or_default().split(|byte| *byte == b' ') {
            let pid = pid.iter().try_fold(0i32, |pid, digit| {
                let digit = i32::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
                pid.checked_mul(10)?.checked_add(digit)
            });
            // A child that ended stays a zombie until it is reaped here, so that its number cannot be another's.
            if let Some(pid) = pid.filter(|pid| *pid > 1) {
                let _ = sys::kill(pid, sys::SIGKILL);
            }
        }
    }
}
