//! A tracer (ptrace(2)) of a host process and of all that comes of it: it lists their system calls, and makes one fail.
//!
//! A call that fails is not made, but for close(2), which lets go of the descriptor whatever it answers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libc::{c_int, c_long, pid_t};

/// Whose call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The host's thread that calls the library.
    Host,
    /// Another thread of the host.
    Thread,
    /// The host's child on its way to the stage: it is the standard library's.
    Spawn,
    Stage,
    Agent,
    /// The program's process, before its exec.
    Entry,
    /// The program, and what comes of it. Its calls do not count.
    Program,
}

/// One call: the nth of its kind that a process makes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Point {
    pub role: Role,
    /// Which process of that role.
    pub instance: u32,
    pub number: u64,
    pub nth: u32,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}:{}:{}", self.role, self.instance, name(self.number), self.nth)
    }
}

pub fn name(number: u64) -> &'static str {
    usize::try_from(number).ok().and_then(syscalls::x86_64::Sysno::new).map_or("?", |call| call.name())
}

/// The errors that are injected, by name.
macro_rules! errors {
    ($($name:ident)*) => {
        pub fn error_name(number: i32) -> &'static str {
            match number { $(libc::$name => stringify!($name),)* _ => "?" }
        }
    };
}

errors!(
    E2BIG EACCES EAGAIN EBADF EBUSY EDQUOT EFAULT EINTR EINVAL EIO EMFILE ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOSYS EPERM
    EPIPE ESRCH ETOOMANYREFS ETXTBSY
);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with this.
    Errno(i32),
    /// The host is killed just before the call.
    KillHost,
    /// Whoever makes the call is.
    KillCaller,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => f.write_str(error_name(*errno)),
            Self::KillHost => f.write_str("the host is killed"),
            Self::KillCaller => f.write_str("the caller is killed"),
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Run {
    pub host: i32,
    /// How the host ended, as wait(2) gives it.
    pub status: i32,
    /// All calls between the marks, in order, each with its first argument.
    pub calls: Vec<(Point, u64)>,
    /// The fault came to be.
    pub injected: bool,
    /// Processes that were still there long after the host's end, and were killed.
    pub left: Vec<String>,
    /// The host itself did not come to an end.
    pub hung: bool,
}

/// What the host says to its tracer: a call that fails, with a number that nobody else uses.
const MARK: u64 = 0x5354_4f43;

/// From here on the calls count, or do not.
pub fn mark(on: bool) {
    // SAFETY: prctl(2) refuses an option that it does not know.
    unsafe { libc::prctl(c_int::try_from(MARK).unwrap_or(0), c_long::from(on), 0, 0, 0) };
}

struct Tracee {
    role: Role,
    instance: u32,
    counts: HashMap<u64, u32>,
    /// It is in the call that is to fail.
    failing: Option<i32>,
    /// A filter is on it, which would look at a call with another number.
    filtered: bool,
}

impl Tracee {
    fn new(role: Role, instance: u32) -> Self {
        Self { role, instance, counts: HashMap::new(), failing: None, filtered: false }
    }
}

/// How long a run may take, and how long it may take all others to end after the host.
const PATIENCE: Duration = Duration::from_secs(60);
const AFTERWARDS: Duration = Duration::from_secs(15);

/// What the watchdog looks after.
#[derive(Default)]
struct Watched {
    pids: HashSet<pid_t>,
    deadline: Option<Instant>,
    killed: Vec<pid_t>,
}

/// One for all runs, which come one after the other.
pub struct Tracer {
    watched: Arc<Mutex<Watched>>,
}

/// Where a run is.
struct State {
    host: pid_t,
    tracees: HashMap<pid_t, Tracee>,
    /// Those that came to be before their parent said so.
    early: HashSet<pid_t>,
    instances: HashMap<Role, u32>,
    counting: bool,
    run: Run,
    /// What is to fail; nothing to list all calls.
    wanted: Option<(Point, Fault)>,
}

impl Tracer {
    /// Must be called by the thread that traces, in a process whose other children nobody waits for.
    pub fn new() -> Self {
        // SAFETY: plain numbers. What the host leaves behind comes to this process.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
        let watched = Arc::new(Mutex::new(Watched::default()));
        let seen = Arc::clone(&watched);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(20));
                let mut watched = seen.lock().unwrap();
                if watched.deadline.is_some_and(|deadline| Instant::now() > deadline) {
                    let pids: Vec<_> = watched.pids.iter().copied().collect();
                    for pid in pids {
                        // SAFETY: plain numbers; tracees, which keep their numbers until the tracer has reaped them.
                        unsafe { libc::kill(pid, libc::SIGKILL) };
                        if !watched.killed.contains(&pid) {
                            watched.killed.push(pid);
                        }
                    }
                }
            }
        });
        Self { watched }
    }

    /// Forks a host that runs the body, and traces it until all that came of it has ended.
    pub fn run(&self, wanted: Option<(Point, Fault)>, body: impl FnOnce()) -> Run {
        let (mut gate, mut opener) = std::io::pipe().unwrap();
        *self.watched.lock().unwrap() = Watched::default();
        let host = crate::common::fork(|| {
            // Nothing of the harness may go on in here.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _ = std::io::Read::read(&mut gate, &mut [0]);
                drop(gate);
                body();
            }));
            if done.is_err() {
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(99) }
            }
        });
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_EXITKILL;
        // SAFETY: a child of this thread's, which waits at the gate.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, host, 0, options) };
        assert_eq!(seized, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, host, 0, 0) };
        {
            let mut watched = self.watched.lock().unwrap();
            watched.pids.insert(host);
            watched.deadline = Some(Instant::now() + PATIENCE);
        }
        let mut state = State {
            host,
            tracees: HashMap::from([(host, Tracee::new(Role::Host, 0))]),
            early: HashSet::new(),
            instances: HashMap::new(),
            counting: false,
            run: Run { host, ..Run::default() },
            wanted,
        };
        std::io::Write::write_all(&mut opener, b"x").unwrap();
        while self.step(&mut state) {}
        let watched = self.watched.lock().unwrap();
        state.run.hung = watched.killed.contains(&host);
        state.run
    }

    /// Takes one event. False: nothing is left.
    fn step(&self, state: &mut State) -> bool {
        let mut status = 0;
        let flags = libc::__WALL | if state.early.is_empty() { 0 } else { libc::WNOHANG };
        // SAFETY: a live place for the status.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
        match pid {
            0 => {
                // A parent that was killed will not say whose child this is.
                std::thread::sleep(Duration::from_millis(20));
                for pid in std::mem::take(&mut state.early) {
                    resume(pid, false, 0);
                }
                return true;
            }
            ..0 => return std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR),
            _ => {}
        }
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            let known = state.tracees.remove(&pid);
            state.early.remove(&pid);
            let mut watched = self.watched.lock().unwrap();
            watched.pids.remove(&pid);
            if pid == state.host {
                state.run.status = status;
                watched.deadline = Some(Instant::now() + AFTERWARDS);
            } else if let (true, Some(tracee)) = (watched.killed.contains(&pid), known) {
                state.run.left.push(format!("{:?} {pid}", tracee.role));
            }
            return true;
        }
        if !libc::WIFSTOPPED(status) {
            return true;
        }
        self.stopped(state, pid, status);
        true
    }

    fn stopped(&self, state: &mut State, pid: pid_t, status: c_int) {
        let (event, signal) = (status >> 16, libc::WSTOPSIG(status));
        if !state.tracees.contains_key(&pid) {
            state.early.insert(pid);
            self.watched.lock().unwrap().pids.insert(pid);
            return;
        }
        let mut deliver = 0;
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                let mut message: libc::c_ulong = 0;
                // SAFETY: a live place for the number.
                unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid, 0, &raw mut message) };
                let child = pid_t::try_from(message).unwrap();
                let role = match state.tracees[&pid].role {
                    Role::Host | Role::Thread if event == libc::PTRACE_EVENT_VFORK => Role::Spawn,
                    Role::Host | Role::Thread => Role::Thread,
                    Role::Stage => Role::Agent,
                    Role::Agent => Role::Entry,
                    Role::Spawn | Role::Entry | Role::Program => Role::Program,
                };
                let tracee = state.tracee(role);
                state.tracees.insert(child, tracee);
                self.watched.lock().unwrap().pids.insert(child);
                if state.early.remove(&child) {
                    resume(child, state.follows(child), 0);
                }
            }
            libc::PTRACE_EVENT_EXEC => {
                let role = match state.tracees[&pid].role {
                    Role::Spawn => Role::Stage,
                    _ => Role::Program,
                };
                let tracee = state.tracee(role);
                state.tracees.insert(pid, tracee);
            }
            libc::PTRACE_EVENT_STOP => {
                if [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal) {
                    // SAFETY: it stays stopped, as it should.
                    unsafe { libc::ptrace(libc::PTRACE_LISTEN, pid, 0, 0) };
                    return;
                }
            }
            _ if signal == libc::SIGTRAP | 0x80 => state.call(pid),
            _ => deliver = signal,
        }
        resume(pid, state.follows(pid), deliver);
    }
}

fn resume(pid: pid_t, to_call: bool, signal: c_int) {
    let request = if to_call { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
    // SAFETY: a tracee that is stopped, or was killed, which the kernel says.
    unsafe { libc::ptrace(request, pid, 0, signal) };
}

/// x86-64's `struct user_regs_struct`, in words.
mod register {
    pub const ORIG_RAX: usize = 15;
    pub const RAX: usize = 10;
    pub const RDI: usize = 14;
}

fn set(pid: pid_t, register: usize, value: i64) {
    // SAFETY: a stopped tracee's registers.
    unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid, register * 8, value) };
}

impl State {
    fn tracee(&mut self, role: Role) -> Tracee {
        let count = self.instances.entry(role).or_default();
        let tracee = Tracee::new(role, *count);
        *count += 1;
        tracee
    }

    /// Whether its calls are to be seen.
    fn follows(&self, pid: pid_t) -> bool {
        let Some(tracee) = self.tracees.get(&pid) else { return false };
        if tracee.failing.is_some() || tracee.role == Role::Host {
            return tracee.failing.is_some() || !self.run.injected;
        }
        match &self.wanted {
            None => tracee.role != Role::Program,
            Some((point, _)) => !self.run.injected && tracee.role == point.role && tracee.instance == point.instance,
        }
    }

    /// It is at the beginning or the end of a call.
    fn call(&mut self, pid: pid_t) {
        let mut info = std::mem::MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let size = size_of_val(&info);
        // SAFETY: a place of that size. All zeroes is a valid value of this record of numbers.
        let info = unsafe {
            if libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, info.as_mut_ptr()) <= 0 {
                return;
            }
            info.assume_init()
        };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                // SAFETY: the record says that it is one of an entry.
                let entry = unsafe { info.u.entry };
                self.entry(pid, entry.nr, entry.args);
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => {
                if let Some(errno) = self.tracees.get_mut(&pid).and_then(|tracee| tracee.failing.take()) {
                    set(pid, register::RAX, -i64::from(errno));
                }
            }
            _ => {}
        }
    }

    fn entry(&mut self, pid: pid_t, number: u64, args: [u64; 6]) {
        let Some(tracee) = self.tracees.get_mut(&pid) else { return };
        if number == libc::SYS_prctl.cast_unsigned() && args[0] == MARK {
            self.counting = args[1] != 0;
            return;
        }
        if !self.counting {
            return;
        }
        let nth = tracee.counts.entry(number).or_default();
        let point = Point { role: tracee.role, instance: tracee.instance, number, nth: *nth };
        *nth += 1;
        let filtered = tracee.filtered;
        if number == libc::SYS_seccomp.cast_unsigned() {
            tracee.filtered = true;
        }
        let Some((_, fault)) = self.wanted.clone().filter(|(wanted, _)| *wanted == point && !self.run.injected) else {
            if self.wanted.is_none() {
                self.run.calls.push((point, args[0]));
            }
            return;
        };
        self.run.injected = true;
        match fault {
            Fault::Errno(errno) => {
                tracee.failing = Some(errno);
                if number == libc::SYS_close.cast_unsigned() {
                    // It is made, whatever it answers.
                } else if filtered {
                    // The filter must not see another number: what it gets makes no sense instead.
                    set(pid, register::RDI, -1);
                } else {
                    set(pid, register::ORIG_RAX, -1);
                }
            }
            // SAFETY: plain numbers; a process that this one traces.
            Fault::KillHost => unsafe {
                libc::kill(self.host, libc::SIGKILL);
            },
            // SAFETY: as above.
            Fault::KillCaller => unsafe {
                libc::kill(pid, libc::SIGKILL);
            },
        }
    }
}
