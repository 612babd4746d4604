//! Process A, the agent: PID 1 of the sandbox, or its guardian where there is no PID namespace.
//!
//! It starts programs, watches the host, the clock and its children, and ends one program, or everything, when one of them
//! says so.

use super::enter::{self, At, Control, Failed, Received};
use super::exec;
use super::interpret;
use super::plan::{
    Args, End, Failure, INLINE, Launch, MAX_LAUNCH_FDS, NO_NUMBER, Notice, Plan, START, Start, Step, decode, flag,
    launch as launch_flag, message, reason,
};
use super::program::{Budget, Freezer, OF_PROGRAM, Program, count, kill_listed, obey};
use super::setup::{self, Environment};
use super::sys::{self, Errno, Fd, Poll, Table, Tid};

/// The agent's whole life.
pub fn run(control: Control, received: Received<'_>) -> ! {
    match agent(control, &received) {
        Ok(()) => sys::exit(0),
        Err(failed) => {
            control.fail(&failed);
            sys::exit(1)
        }
    }
}

fn agent(control: Control, received: &Received<'_>) -> Result<(), Failed> {
    let plan = &received.plan;
    sys::block_signals(true).at(Step::Agent)?;
    let is_init = plan.flags & flag::AGENT_IS_INIT != 0;
    let children = if is_init {
        None
    } else {
        sys::prctl(sys::PR_SET_CHILD_SUBREAPER, 1, 0).at(Step::Agent)?;
        list_of_children(plan)
    };
    take_ids(plan).at(Step::AgentIds)?;
    let environment = if plan.flags & flag::PROGRAM_IS_INIT != 0 {
        Environment::default()
    } else {
        let environment = setup::run(plan, received.tree_fds)?;
        setup::confine(plan)?;
        environment
    };
    let signals = sys::child_signals().at(Step::Agent)?;
    let programs = Table::new(MAX_PROGRAMS).at(Step::Agent)?;
    let watched = Table::new(OF_AGENT + MAX_PROGRAMS * OF_PROGRAM).at(Step::Agent)?;
    if !received.launch {
        control.send(message::READY, &0u32, &[], None).at(Step::Agent)?;
    }
    let mut agent = Agent {
        control,
        received,
        plan,
        environment,
        is_init,
        children,
        signals,
        detached: false,
        stopping: false,
        watchers: [None; MAX_WATCHERS],
        programs,
        watched,
    };
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

/// How many programs may run at once in one sandbox.
const MAX_PROGRAMS: usize = 1024;
/// What is watched besides programs: the control socket, the host, signals.
const OF_AGENT: usize = 3;

/// How many may want to know of ends.
const MAX_WATCHERS: usize = 8;

/// How often a guardian looks for what is left, and how long: nanoseconds.
const LOOK_AGAIN: u64 = 5_000_000;
const PATIENCE: u64 = 3_000_000_000;

struct Agent<'a> {
    control: Control,
    received: &'a Received<'a>,
    plan: &'a Plan<'static>,
    environment: Environment,
    is_init: bool,
    /// The list of this process's children, where it is not PID 1.
    children: Option<Fd>,
    signals: Fd,
    detached: bool,
    /// It is to end when nothing is left.
    stopping: bool,
    /// Who wants to know of ends.
    watchers: [Option<Fd>; MAX_WATCHERS],
    programs: Table<Program>,
    watched: Table<Poll>,
}

/// What a guardian does not need once its program is on its way.
fn give_up() -> sys::Result<()> {
    const CAP_KILL: u64 = 1 << 5;
    let permitted = sys::permitted()? & CAP_KILL;
    sys::capset(permitted, permitted, 0)
}

fn close_all(fds: Option<&[Fd; 2]>) {
    fds.into_iter().flatten().for_each(|fd| sys::close(*fd));
}

/// Two halves in place of a failure's numbers.
fn number(low: u32, high: i32) -> u64 {
    u64::from(high as u32) << 32 | u64::from(low)
}

/// What came with a launch.
struct Handed {
    fds: [Fd; MAX_LAUNCH_FDS],
    count: usize,
}

impl Handed {
    fn all(&self) -> &[Fd] {
        self.fds.get(..self.count).unwrap_or_default()
    }
    fn close_but(&self, kept: &[Option<Fd>]) {
        for fd in self.all().iter().filter(|fd| !kept.contains(&Some(**fd))) {
            sys::close(*fd);
        }
    }
}

impl Agent<'_> {
    /// Receives the rest of a launch, and starts it. What goes wrong is told to its own socket.
    fn launch(&mut self, start: &Start, inline: &[u8], mut handed: Handed) {
        while handed.count < start.fds as usize {
            match self.more(&mut handed) {
                Ok(count) if count > 0 => handed.count += count,
                // Without all of it, not even its socket may be there.
                _ => return handed.close_but(&[]),
            }
        }
        let Some(socket) = handed.all().first().copied() else { return };
        if let Err(failed) = self.start(start, inline, &handed, socket) {
            let failure = Failure { step: failed.step as u32, index: failed.index, errno: failed.errno.0 };
            let _ = enter::send(socket, message::FAILED, &failure, &[], None);
            handed.close_but(&[]);
        }
    }

    /// Those that did not fit into one message. The host sends all of them at once, or is gone.
    fn more(&self, handed: &mut Handed) -> sys::Result<usize> {
        let mut set = [self.control.socket, self.control.host].map(|fd| Poll::input(Some(fd)));
        sys::poll(&mut set, None)?;
        let room = handed.fds.get_mut(handed.count..).unwrap_or_default();
        Ok(sys::receive(self.control.socket, &mut [0; 16], room, false)?.1)
    }

    fn start(&mut self, start: &Start, inline: &[u8], handed: &Handed, socket: Fd) -> Result<(), Failed> {
        let mut fork = |bytes: &[u8]| {
            let launch = decode::<Launch<'_>>(bytes).map_err(|_| Errno::PROTO).at(Step::Spawn)?;
            self.fork(&launch, handed, socket)
        };
        match handed.all().last() {
            Some(file) if start.file_len != 0 => sys::with_file(*file, start.file_len, fork).at(Step::Spawn)?,
            _ => fork(inline),
        }
    }

    fn fork(&mut self, launch: &Launch<'_>, handed: &Handed, socket: Fd) -> Result<(), Failed> {
        let program_is_init = self.plan.flags & flag::PROGRAM_IS_INIT != 0;
        let running = self.programs.view().len();
        if running >= if program_is_init { 1 } else { MAX_PROGRAMS } {
            return Err(Errno::AGAIN).at(Step::Spawn);
        }
        // poll(2) watches no more than the process may have open.
        let [_, most] = self.received.nofile;
        if (OF_AGENT + (running + 1) * OF_PROGRAM) as u64 > most {
            return Err(Errno::MFILE).at(Step::Spawn);
        }
        let terminal = match self.environment.devpts {
            Some(devpts) if launch.flags & launch_flag::OPEN_TERMINAL != 0 => {
                Some(self.terminal(devpts).at(Step::Terminal)?)
            }
            _ => None,
        };
        let pair = sys::socket_pair().at(Step::Spawn);
        let [report, theirs] = pair.inspect_err(|_| close_all(terminal.as_ref()))?;
        // What was opened for it is closed, if it does not come to be.
        let undo = |_: &Failed| {
            close_all(terminal.as_ref());
            close_all(Some(&[report, theirs]));
        };
        if program_is_init {
            sys::unshare(sys::CLONE_NEWPID).at(Step::PidNamespace).inspect_err(undo)?;
        }
        let place = |place: u32| handed.all().get(place as usize).copied().filter(|_| place != u32::MAX);
        // Where that is refused, as to another user's, its process enters by itself.
        let tid = self.received.body.map_or(Tid::NONE, |body| body.tid);
        let forked = place(launch.into).and_then(|cgroup| sys::fork_into(cgroup, tid).ok());
        let in_cgroup = forked.is_some();
        let forked = match forked {
            Some(forked) => forked,
            None => sys::fork(0, tid).at(Step::Spawn).inspect_err(undo)?,
        };
        let (pid, pidfd) = match forked {
            sys::Fork::Child => exec::run(&exec::Entry {
                received: self.received,
                launch,
                handed: handed.all(),
                environment: &self.environment,
                report: theirs,
                terminal: terminal.map(|[_, slave]| slave),
                set_up: program_is_init,
                in_cgroup,
            }),
            sys::Fork::Parent { pid, pidfd } => (pid, pidfd),
        };
        sys::close(theirs);
        if let Some([_, slave]) = terminal {
            sys::close(slave);
        }
        let Launch { oom, oom_count, cpu, kill, record, freezer, members, notices, .. } = *launch;
        let keep = [oom, oom_count, cpu, kill, record, freezer, members, notices].map(place);
        let [oom, oom_count, cpu, kill, record, freezer, members, notices] = keep;
        handed.close_but(&[Some(socket), oom, oom_count, cpu, kill, record, freezer, members, notices]);
        // All the rest is the program's own to do where it is PID 1.
        let failed = if program_is_init { give_up().err() } else { None };
        let failed = failed.map(|errno| Failure { step: Step::AgentCapabilities as u32, index: 0, errno: errno.0 });
        let _ = self.programs.push(Program {
            pid,
            pidfd,
            socket,
            detached: false,
            last: launch.flags & launch_flag::LAST != 0,
            terminal: terminal.map(|[master, _]| master),
            report: Some(report),
            is_parked: false,
            announced: false,
            failed,
            started: sys::now(),
            ended: 0,
            limit: Some(launch.wall_limit).filter(|limit| *limit != 0),
            deadline: None,
            oom,
            oom_count,
            out_of_memory: None,
            kill,
            freezer: freezer.zip(members).map(|(state, members)| Freezer { state, members }),
            budget: cpu.map(|account| Budget { account, limit: launch.cpu_limit, cpus: launch.cpus, next: 0 }),
            listener: None,
            notices,
            record,
            denied: None,
            status: None,
            reason: if failed.is_some() { reason::AGENT } else { reason::NONE },
            user_us: 0,
            system_us: 0,
            max_rss: 0,
            in_blocks: 0,
            out_blocks: 0,
        });
        Ok(())
    }

    /// A terminal that the program can open by its name.
    fn terminal(&self, devpts: Fd) -> sys::Result<[Fd; 2]> {
        let [master, slave] = sys::open_terminal(devpts)?;
        if self.plan.flags & flag::SET_IDS != 0 {
            sys::fchown(slave, self.plan.uid)?;
        }
        Ok([master, slave])
    }

    /// Until the host, the last program or the clock ends it.
    fn serve(&mut self) -> Result<(), Failed> {
        loop {
            let timeout = self.watch();
            if let Err(errno) = sys::poll(self.watched.items(), timeout) {
                // Blind to the host and the clock it must not go on.
                self.end_all(reason::AGENT);
                return Err(errno).at(Step::Agent);
            }
            let ready = |watched: &Table<Poll>, index: usize| watched.view().get(index).is_some_and(Poll::ready);
            let [control, host, signals] = [0, 1, 2].map(|index| ready(&self.watched, index));

            // Before anybody is reaped: the kernel names the program to the host by its number, which must still be its own.
            for index in 0..self.programs.view().len() {
                if signals || ready(&self.watched, OF_AGENT + index * OF_PROGRAM + 1) {
                    self.hear(index);
                }
            }
            if signals {
                let mut information = [0; 128];
                let _ = sys::read(self.signals, &mut information);
                self.reap();
            }
            let count = self.programs.view().len();
            for index in 0..count {
                let [socket, _, oom, listener] =
                    [0, 1, 2, 3].map(|which| ready(&self.watched, OF_AGENT + index * OF_PROGRAM + which));
                if listener {
                    let poll = self.watched.view().get(OF_AGENT + index * OF_PROGRAM + 3);
                    self.answer(index, poll.is_some_and(Poll::is_over));
                }
                if let Some(program) = self.programs.items().get_mut(index) {
                    if socket {
                        obey(program);
                    }
                    if program.status.is_none() && program.reason == reason::NONE {
                        program.check_limits(oom);
                    }
                }
            }
            let mut over = host || self.finish();
            if control && !over {
                over = match self.obey() {
                    Ok(gone) => gone,
                    Err(errno) => {
                        self.end_all(reason::AGENT);
                        return Err(errno).at(Step::Agent);
                    }
                };
            }
            if over || (self.stopping && self.is_empty()) {
                self.end_all(reason::HOST);
                return Ok(());
            }
        }
    }

    fn reap(&mut self) {
        loop {
            // Heard to its last word first: the kernel names it to the host by its number, which must still be its own.
            if let Some(pid) = sys::ended()
                && let Some(index) = self.programs.view().iter().position(|program| program.pid == pid)
            {
                self.hear(index);
            }
            match sys::wait(false) {
                Ok(Some(reaped)) => self.account(&reaped),
                _ => return,
            }
        }
    }

    /// No process is left, and all that there was has been told of.
    fn is_empty(&mut self) -> bool {
        self.reap();
        self.finish();
        self.programs.view().is_empty() && sys::wait(false).is_err()
    }

    /// A polite end.
    fn stop(&mut self) {
        self.stopping = true;
        if self.is_init {
            let _ = sys::kill(-1, sys::SIGTERM);
            return;
        }
        for program in self.programs.view().iter().filter(|program| program.status.is_none()) {
            let _ = sys::pidfd_send_signal(program.pidfd, sys::SIGTERM);
            let _ = sys::kill(-program.pid, sys::SIGTERM);
        }
    }

    /// What to wait for, and how long.
    fn watch(&mut self) -> Option<u64> {
        self.watched.clear();
        let control = Some(self.control.socket).filter(|_| !self.detached);
        for fd in [control, Some(self.control.host), Some(self.signals)] {
            let _ = self.watched.push(Poll::input(fd));
        }
        let mut moment = None;
        for program in self.programs.view() {
            for fd in program.watches() {
                let _ = self.watched.push(Poll::input(fd));
            }
            let next = match program.reason {
                _ if program.status.is_some() => None,
                reason::NONE => program.next_look(),
                // It has been killed, but the host may freeze it before it dies of that.
                _ => program.freezer.map(|_| sys::now().saturating_add(LOOK_AGAIN)),
            };
            moment = [moment, next].into_iter().flatten().min();
        }
        moment.map(|moment| moment.saturating_sub(sys::now()))
    }

    /// Reads what the process says on its way; its end of the pair closes with the exec, or with the process.
    fn hear(&mut self, index: usize) {
        let observed = self.plan.flags & flag::OBSERVE != 0;
        let Some(program) = self.programs.items().get_mut(index) else { return };
        let Some(report) = program.report else { return };
        let mut record = [0; 12];
        loop {
            let mut fds = [Fd(-1)];
            match sys::receive(report, &mut record, &mut fds, false) {
                Ok((12, count)) => match decode::<Failure>(&record) {
                    Ok(Failure { step: exec::ANNOUNCE, index, errno }) => {
                        program.announced = true;
                        program.started = number(index, errno);
                        program.take_listener(fds, count, observed);
                        if program.is_parked {
                            program.deadline = program.limit.map(|limit| program.started.saturating_add(limit));
                        }
                    }
                    Ok(Failure { step: exec::WALL_LIMIT, index, errno }) => {
                        program.limit = Some(number(index, errno)).filter(|limit| *limit != 0);
                    }
                    Ok(Failure { step: exec::CPU_LIMIT, index, errno }) => {
                        if let Some(budget) = &mut program.budget {
                            budget.limit = number(index, errno);
                            budget.next = 0;
                        }
                    }
                    Ok(Failure { step: exec::PARKED, .. }) => {
                        program.is_parked = true;
                        program.take_listener(fds, count, observed);
                        return self.introduce(index, message::PARKED);
                    }
                    Ok(failure) => program.failed = Some(failure),
                    Err(_) => {}
                },
                Err(Errno::AGAIN) => return,
                Ok(_) => break,
                // It may have become the program all the same, which nobody would know of.
                Err(errno) => {
                    program.failed = Some(Failure { step: Step::Agent as u32, index: 0, errno: errno.0 });
                    program.reason = reason::AGENT;
                    break;
                }
            }
        }
        sys::close(report);
        program.report = None;
        // Who was parked is known to the host, which sees its door close.
        if program.announced && program.failed.is_none() && !program.is_parked {
            self.introduce(index, message::STARTED);
        }
    }

    /// Tells the host that the program runs, or that its process waits for it.
    fn introduce(&mut self, index: usize, number: u32) {
        let Some(program) = self.programs.view().get(index) else { return };
        let (pid, credentials) = self.name_to_host(program.pid);
        let Some(program) = self.programs.items().get_mut(index) else { return };
        if number == message::STARTED {
            program.deadline = program.limit.map(|limit| program.started.saturating_add(limit));
        }
        let fds = [program.pidfd, program.terminal.unwrap_or(program.pidfd)];
        let fds = fds.get(..1 + usize::from(program.terminal.is_some())).unwrap_or_default();
        let told = match enter::send(program.socket, number, &pid, fds, credentials) {
            // It has ended between two looks, and was reaped with others: its number is nobody's any more.
            Err(Errno::SRCH) => enter::send(program.socket, number, &NO_NUMBER, fds, None),
            told => told,
        };
        if let Err(errno) = told {
            // A host that cannot be told has no handle: the program ends, and what can be sent says why.
            program.failed = Some(Failure { step: Step::Agent as u32, index: 0, errno: errno.0 });
            program.reason = reason::HOST;
        }
        if let Some(terminal) = program.terminal.take() {
            sys::close(terminal);
        }
    }

    /// A process or thread by a number that means something to the host. From a PID namespace of our own ours means nothing
    /// to it, and the kernel translates credentials. From one that was joined there is none, and the host finds out a
    /// program's by the pidfd.
    fn name_to_host(&self, pid: i32) -> (u32, Option<(i32, u32, u32)>) {
        if self.is_init {
            let (uid, gid) = sys::effective_ids();
            return (0, Some((pid, uid, gid)));
        }
        let joined = self.plan.joins.iter().any(|join| join.kind == sys::CLONE_NEWPID);
        (if joined { 0 } else { pid as u32 }, None)
    }

    /// Does what the host says. True: the host has let go.
    fn obey(&mut self) -> sys::Result<bool> {
        let mut buffer = [0; 4 + START + INLINE];
        let mut handed = Handed { fds: [Fd(-1); MAX_LAUNCH_FDS], count: 0 };
        let len = match sys::receive(self.control.socket, &mut buffer, &mut handed.fds, false) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(true),
            Ok((len, count)) => {
                handed.count = count;
                len
            }
            Err(Errno::AGAIN) => return Ok(false),
            // This one could not be received; the host hears of it by the end of its socket, which was closed.
            Err(Errno::MFILE) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let packet = buffer.get(..len).and_then(|packet| packet.split_first_chunk::<4>());
        match packet.map(|(number, body)| (u32::from_ne_bytes(*number), body)) {
            Some((message::LAUNCH, body)) => match body.split_first_chunk::<START>() {
                Some((start, inline)) => match decode::<Start>(start) {
                    Ok(start) => self.launch(&start, inline, handed),
                    Err(_) => handed.close_but(&[]),
                },
                None => handed.close_but(&[]),
            },
            Some((message::DETACH, _)) => self.detached = true,
            Some((message::STOP, _)) => self.stop(),
            Some((message::WATCH, _)) => {
                let watcher = handed.all().first().copied();
                self.forget_watchers();
                match self.watchers.iter_mut().find(|slot| slot.is_none()) {
                    Some(slot) => *slot = watcher,
                    None => handed.close_but(&[]),
                }
            }
            Some((message::NAMESPACES, _)) => {
                if let Some(socket) = handed.all().first() {
                    let _ = namespaces(*socket);
                }
                handed.close_but(&[]);
            }
            Some((message::ROOT, _)) => {
                if let Some(socket) = handed.all().first().copied() {
                    self.show_root(socket);
                }
                handed.close_but(&[]);
            }
            _ => handed.close_but(&[]),
        }
        Ok(false)
    }

    /// Hands the root over. Whether it can be is the host's to hear.
    fn show_root(&self, socket: Fd) {
        let sent = setup::root_for_host(self.plan).and_then(|root| {
            let sent = enter::send(socket, message::ROOT_IS, &0u32, &[root], None);
            sys::close(root);
            sent
        });
        if let Err(errno) = sent {
            let failure = Failure { step: Step::Root as u32, index: 0, errno: errno.0 };
            let _ = enter::send(socket, message::FAILED, &failure, &[], None);
        }
    }

    /// A call waits that the program's filter refuses, or leaves to the host.
    fn answer(&mut self, index: usize, over: bool) {
        /// `SECCOMP_RET_*`.
        const TRAP: u32 = 0x3_0000;
        const ERRNO: u32 = 0x5_0000;
        const NOTIFY: u32 = 0x7fc0_0000;
        const LOG: u32 = 0x7ffc_0000;
        const ALLOW: u32 = 0x7fff_0000;
        let verdict = self.plan.verdict;
        let recording = self.plan.flags & flag::RECORD != 0;
        let Some(program) = self.programs.items().get_mut(index) else { return };
        let (Some(listener), notices) = (program.listener, program.notices) else { return };
        let call = match sys::next_notification(listener) {
            Ok(call) => call,
            // The process is no more; there may be others under its filter.
            Err(Errno::NOENT | Errno::INTR) if !over => return,
            Err(_) => {
                sys::close(listener);
                program.listener = None;
                return;
            }
        };
        let verdict = interpret::interpret(verdict, &call.data());
        // The host has a copy of the listener, and the kernel does not care who answers.
        let told = verdict & 0xffff_0000 == NOTIFY && notices.is_some_and(|notices| self.tell_host(notices, &call));
        let Some(program) = self.programs.items().get_mut(index) else { return };
        if let (true, false, Some(record)) = (recording, told, program.record) {
            count(record, call.nr);
        }
        match verdict & 0xffff_0000 {
            NOTIFY if told => {}
            // As from a kernel whose listener has been closed.
            NOTIFY => drop(sys::answer(listener, call.id, sys::Answer::Refuse(Errno::NOSYS.0))),
            ALLOW | LOG => drop(sys::answer(listener, call.id, sys::Answer::Go)),
            ERRNO => drop(sys::answer(listener, call.id, sys::Answer::Refuse((verdict & 0xffff) as i32))),
            TRAP => {
                let _ = sys::kill(call.pid as i32, sys::SIGSYS);
                let _ = sys::answer(listener, call.id, sys::Answer::Refuse(Errno::NOSYS.0));
            }
            // It stays where it is until it is ended.
            _ => {
                program.denied = program.denied.or(Some((call.nr as u32, call.args)));
                if program.reason == reason::NONE {
                    program.reason = reason::SYSCALL;
                }
            }
        }
    }

    /// Whether the host will hear of a call. It may be slow to, or have no use for it, and nobody may wait for that here.
    fn tell_host(&self, notices: Fd, call: &sys::Notification) -> bool {
        let (thread, credentials) = self.name_to_host(call.pid as i32);
        let [a, b, c, d, e, f] = call.args;
        let args = Args { a, b, c, d, e, f };
        let notice = Notice { id: call.id, thread, nr: call.nr as u32, instruction: call.ip, args };
        enter::send_at_once(notices, message::NOTICE, &notice, credentials).is_ok()
    }

    fn account(&mut self, reaped: &sys::Reaped) {
        if !reaped.is_stopped() {
            self.tell_watchers(reaped);
        }
        let alone = self.programs.view().len() == 1;
        let mine = |program: &&mut Program| reaped.pid == program.pid || (alone && !reaped.is_stopped());
        let Some(program) = self.programs.items().iter_mut().find(mine) else { return };
        if reaped.is_stopped() {
            if program.report.is_some() {
                // Not the program yet: one that is inside already and has the same uid would hold up its start.
                let _ = sys::pidfd_send_signal(program.pidfd, sys::SIGCONT);
            }
            return;
        }
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

    /// Those that have gone make room for others.
    fn forget_watchers(&mut self) {
        for slot in &mut self.watchers {
            let Some(watcher) = *slot else { continue };
            // Nobody ever writes there: what there is to hear is its end.
            let mut set = [Poll::input(Some(watcher))];
            let _ = sys::poll(&mut set, Some(0));
            let [end] = set;
            if end.ready() {
                sys::close(watcher);
                *slot = None;
            }
        }
    }

    /// Whoever is too slow to read misses some; whoever has gone is forgotten.
    fn tell_watchers(&mut self, reaped: &sys::Reaped) {
        let end = End { pid: reaped.pid as u32, status: reaped.status };
        for slot in &mut self.watchers {
            let Some(watcher) = *slot else { continue };
            match enter::send_at_once(watcher, message::END, &end, None) {
                Ok(()) | Err(Errno::AGAIN) => {}
                Err(_) => {
                    sys::close(watcher);
                    *slot = None;
                }
            }
        }
    }

    /// Ends the programs whose time has come, and tells how those went that are over. True: it was the last.
    fn finish(&mut self) -> bool {
        let mut index = 0;
        while let Some(program) = self.programs.items().get_mut(index) {
            let doomed = program.reason != reason::NONE;
            if program.last && (doomed || program.is_over()) {
                return true;
            }
            if doomed && program.status.is_none() {
                program.kill();
            }
            if program.is_over() {
                // What came of it and is in its cgroup.
                program.kill();
                program.tell();
                program.close();
                self.programs.remove(index);
                // The last one has taken its place, and with that its watches are another's.
                self.watched.clear();
            } else {
                index += 1;
            }
        }
        false
    }

    /// Kills and reaps everything, and tells each program's handle how it went: those that still ran were ended by `reason`.
    fn end_all(&mut self, reason: u32) {
        for program in self.programs.items() {
            if program.status.is_none() && program.reason == reason::NONE {
                program.reason = reason;
            }
        }
        self.hear_all();
        self.reap_all();
        // One may have been killed in its exec, and the host has not heard that it was there.
        self.hear_all();
        for program in self.programs.view() {
            program.tell();
        }
        // The host may have been woken on this very CPU, and the end of all mounts takes its time.
        sys::give_way();
    }

    fn hear_all(&mut self) {
        for index in 0..self.programs.view().len() {
            self.hear(index);
        }
    }

    fn reap_all(&mut self) {
        let limit = sys::now().saturating_add(PATIENCE);
        loop {
            match sys::wait(false) {
                Ok(Some(reaped)) => self.account(&reaped),
                Ok(None) => {
                    self.kill_all();
                    self.hear_all();
                    // What is frozen meanwhile must be let go again.
                    if self.is_init && !self.has_freezer() {
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
            for freezer in self.programs.view().iter().filter_map(|program| program.freezer) {
                freezer.thaw();
            }
            return;
        }
        for program in self.programs.view() {
            program.kill();
        }
        // A child that ended stays a zombie until it is reaped here, so that its number cannot be another's.
        if let Some(children) = self.children {
            kill_listed(children, b' ');
        }
    }

    fn has_freezer(&self) -> bool {
        self.programs.view().iter().any(|program| program.freezer.is_some())
    }
}

/// Sends descriptors of this process's own.
fn namespaces(socket: Fd) -> sys::Result<()> {
    let net = sys::openat(sys::AT_FDCWD, c"/proc/self/ns/net", 0, 0)?;
    let user = sys::openat(sys::AT_FDCWD, c"/proc/self/ns/user", 0, 0);
    let sent = user.and_then(|user| {
        let sent = enter::send(socket, message::NAMESPACES, &0u32, &[net, user], None);
        sys::close(user);
        sent
    });
    sys::close(net);
    sent
}
