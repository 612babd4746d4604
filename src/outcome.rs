//! How a program ended: pure data, and the pure function that decides.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

/// A signal (signal(7)), by its number; those without a name here, the real-time ones among them, are there as well.
///
/// ```
/// # use stockade::Signal;
/// assert_eq!(Signal::KILL.to_string(), "SIGKILL");
/// assert_eq!(Signal::from_number(34).unwrap().to_string(), "signal 34");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u32);

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! signals {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl Signal {
            $($(#[$doc])* pub const $name: Signal = Signal($number);)*

            fn name(self) -> Option<&'static str> {
                match self { $(Signal::$name => Some(concat!("SIG", stringify!($name))),)* _ => None }
            }
        }
    };
}

// The numbers of x86, arm and riscv.
signals! {
    /// Hang-up.
    HUP = 1,
    /// Interrupt from the keyboard.
    INT = 2,
    /// Quit from the keyboard.
    QUIT = 3,
    /// Illegal instruction.
    ILL = 4,
    /// Breakpoint.
    TRAP = 5,
    /// abort(3).
    ABRT = 6,
    /// Bus error.
    BUS = 7,
    /// Arithmetic.
    FPE = 8,
    /// Killed: it cannot be caught.
    KILL = 9,
    /// For the program's own use.
    USR1 = 10,
    /// Invalid memory reference.
    SEGV = 11,
    /// For the program's own use.
    USR2 = 12,
    /// A pipe without a reader.
    PIPE = 13,
    /// alarm(2).
    ALRM = 14,
    /// A polite end.
    TERM = 15,
    /// A child has ended or stopped.
    CHLD = 17,
    /// Go on.
    CONT = 18,
    /// Stop: it cannot be caught.
    STOP = 19,
    /// Stop from the terminal.
    TSTP = 20,
    /// A window's size has changed.
    WINCH = 28,
    /// `RLIMIT_CPU` is used up.
    XCPU = 24,
    /// `RLIMIT_FSIZE` is used up.
    XFSZ = 25,
    /// A bad system call; seccomp's.
    SYS = 31,
}

impl Signal {
    /// The signal of this number, if there can be one (1 to 64).
    ///
    /// ```
    /// # use stockade::Signal;
    /// assert_eq!(Signal::from_number(15), Some(Signal::TERM));
    /// assert_eq!(Signal::from_number(0), None);
    /// ```
    pub fn from_number(number: u32) -> Option<Signal> {
        (1..=64).contains(&number).then_some(Signal(number))
    }

    /// Its number.
    ///
    /// ```
    /// # use stockade::Signal;
    /// assert_eq!(Signal::SEGV.number(), 11);
    /// ```
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// A limit that a program can run into.
///
/// ```
/// # use stockade::{Limit, Resource, Sandbox, Verdict};
/// let sandbox = Sandbox::new().rlimit(Resource::FileSize, 1000);
/// let verdict = sandbox.command("dd").args(["if=/dev/zero", "of=/tmp/stockade-doc", "bs=2000", "count=2"]).output()?.outcome.verdict;
/// let _ = std::fs::remove_file("/tmp/stockade-doc");
/// assert_eq!(verdict, Verdict::LimitExceeded(Limit::FileSize));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// Memory, of the whole tree ([`memory_limit`](crate::Sandbox::memory_limit)).
    Memory,
    /// CPU time: of the whole tree ([`cpu_time_limit`](crate::Sandbox::cpu_time_limit)), or of one process
    /// ([`Resource::Cpu`](crate::Resource::Cpu)).
    CpuTime,
    /// Time by the clock on the wall ([`wall_time_limit`](crate::Sandbox::wall_time_limit)).
    WallTime,
    /// Bytes on stdout and stderr together ([`output_limit`](crate::Sandbox::output_limit)).
    Output,
    /// Number of tasks ([`pids_limit`](crate::Sandbox::pids_limit)).
    Pids,
    /// Bytes in one file ([`Resource::FileSize`](crate::Resource::FileSize)).
    FileSize,
}

/// Who ended a program.
///
/// ```
/// # use stockade::{KilledBy, Sandbox, Verdict};
/// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
/// child.kill()?;
/// assert_eq!(child.wait()?.verdict, Verdict::Killed(KilledBy::Host));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KilledBy {
    /// The host program: by [`Child::kill`](crate::Child::kill), or by the end of the [`Container`](crate::Container) that it ran in.
    Host,
    /// The sandbox's own agent, since it could not go on: a payload of its user has taken away what it needs (prlimit(2)
    /// asks for nothing but the same ids).
    Agent,
}

/// What became of a program, with what it is concluded from.
///
/// ```
/// # use stockade::{Sandbox, Signal, Verdict};
/// let sandbox = Sandbox::new().pid_ns();
/// let verdict = |script: &str| Ok::<_, stockade::Error>(sandbox.command("sh").args(["-c", script]).status()?.verdict);
/// assert_eq!(verdict("exit 3")?, Verdict::Exited(3));
/// assert_eq!(verdict("kill -SEGV $$")?, Verdict::Signaled(Signal::SEGV));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It ended by itself, with this code.
    Exited(i32),
    /// A signal ended it, and none of the limits did.
    Signaled(Signal),
    /// It ran into a limit.
    LimitExceeded(Limit),
    /// It made a system call that its filter answers with [`Action::Kill`](crate::seccomp::Action::Kill).
    SyscallDenied(SyscallDenied),
    /// It was ended from outside.
    Killed(KilledBy),
}

/// The system call that a program was ended for, as it was made (`struct seccomp_data`).
///
/// ```
/// # use stockade::{Sandbox, Verdict};
/// # use stockade::seccomp::{Action, Filter};
/// let sandbox = Sandbox::new().seccomp(Filter::deny_list().deny("sched_setaffinity", Action::Kill));
/// match sandbox.command("taskset").args(["1", "true"]).output()?.outcome.verdict {
///     Verdict::SyscallDenied(call) => assert!(call.to_string().starts_with("sched_setaffinity(0x")),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SyscallDenied {
    /// The kernel's name for it; `unknown` where the number has none.
    pub syscall: &'static str,
    /// Its number.
    pub nr: u32,
    /// Its arguments, as they were in the registers.
    pub args: [u64; 6],
}

impl fmt::Display for SyscallDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.args;
        write!(f, "{}({a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, {g:#x})", self.syscall)
    }
}

/// What a run cost. `None` is: the kernel cannot tell here.
///
/// ```
/// # use std::time::Duration;
/// # use stockade::Sandbox;
/// let usage = Sandbox::new().pid_ns().command("true").status()?.usage;
/// assert!(usage.wall > Duration::ZERO && usage.memory_peak.is_some_and(|bytes| bytes > 100_000));
/// assert_eq!(usage.pids_peak, None); // nobody has counted: there is no limit of pids
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// From the exec to the end (or to now), by CLOCK_MONOTONIC.
    pub wall: Duration,
    /// CPU time in user mode: the `rusage` of all that the agent reaped (wait4(2)); live, of the program and of those of
    /// its children that it has waited for (`/proc/PID/stat`).
    pub cpu_user: Duration,
    /// CPU time in the kernel; source as for `cpu_user`.
    pub cpu_system: Duration,
    /// CPU time of the whole tree by its cgroup: with any limit on version 2 (`cpu.stat` usage_usec); on version 1 with
    /// [`cpu_time_limit`](crate::Sandbox::cpu_time_limit), and with [`cpu_limit`](crate::Sandbox::cpu_limit) where both
    /// controllers are mounted as one (`cpuacct.usage`).
    pub cpu_time: Option<Duration>,
    /// Bytes of memory in use. Live only: of the whole tree with a limit of memory (`memory.current`,
    /// `memory.usage_in_bytes`), else the program's resident set (`/proc/PID/statm`).
    pub memory_current: Option<u64>,
    /// Most bytes of memory that were in use: of the whole tree with a limit of memory (`memory.peak`,
    /// Linux 5.19; `memory.max_usage_in_bytes`); else, and known at the end only, the largest resident set that one of the processes
    /// had (`ru_maxrss`).
    pub memory_peak: Option<u64>,
    /// Most bytes of swap that were in use (`memory.swap.peak`, Linux 6.5; version 2).
    pub swap_peak: Option<u64>,
    /// Most tasks that there were at once (`pids.peak`; Linux 6.1), with a limit of pids.
    pub pids_peak: Option<u64>,
    /// Bytes read from block devices: of the whole tree with an I/O limit (`io.stat`,
    /// `blkio.throttle.io_service_bytes`), else `ru_inblock`, known at the end.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices; sources as for `io_read_bytes`, else `ru_oublock`.
    pub io_write_bytes: Option<u64>,
    /// Processes that the kernel ended for want of memory (`memory.events`, `memory.oom_control`), with a limit of memory.
    pub oom_kills: Option<u64>,
    /// How long it was kept from running by its limit of CPU (`cpu.stat`), with one. Of a program in a
    /// [`Container`](crate::Container) that is its own limit; what the container's does is in the container's usage.
    pub throttled: Option<Duration>,
    /// How long something in it waited for a resource (`*.pressure`; version 2).
    pub pressure: Option<crate::Pressure>,
}

impl Usage {
    /// CPU time in all: `cpu_user` and `cpu_system`. What was not reaped by the agent is not in it; see `cpu_time`.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let usage = Sandbox::new().command("true").status()?.usage;
    /// assert_eq!(usage.cpu(), usage.cpu_user + usage.cpu_system);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn cpu(&self) -> Duration {
        self.cpu_user + self.cpu_system
    }
}

/// How a program ended.
///
/// ```
/// # use stockade::{Sandbox, Verdict};
/// let outcome = Sandbox::new().command("sh").args(["-c", "exit 3"]).status()?;
/// assert_eq!((outcome.verdict, outcome.status.code()), (Verdict::Exited(3), Some(3)));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// As `wait4(2)` gave it to the agent.
    pub status: ExitStatus,
    /// What it means.
    pub verdict: Verdict,
    /// What it cost.
    pub usage: Usage,
}

impl Outcome {
    /// It exited by itself, with code 0.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// assert!(Sandbox::new().command("true").status()?.success());
    /// assert!(!Sandbox::new().command("false").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn success(&self) -> bool {
        self.verdict == Verdict::Exited(0)
    }

    /// The code, 0 to 255, if it exited by itself. None after a signal, a limit, or a kill: `status` has the raw one.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let outcome = Sandbox::new().command("sh").args(["-c", "kill -9 $$"]).status()?;
    /// assert_eq!(outcome.code(), None); // it did not exit
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn code(&self) -> Option<i32> {
        match self.verdict {
            Verdict::Exited(code) => Some(code),
            _ => None,
        }
    }
}

/// What is known of an end.
///
/// ```
/// # use stockade::{Evidence, Limit, Verdict, judge};
/// let mut evidence = Evidence::default(); // exit code 0, and nothing special
/// evidence.status = 9; // SIGKILL
/// evidence.oom_kills = 1;
/// assert_eq!(judge(&evidence), Verdict::LimitExceeded(Limit::Memory));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// The raw status of `wait4(2)`.
    pub status: i32,
    /// The agent ended it since its time was over.
    pub wall_time_over: bool,
    /// More was written than may be.
    pub output_exceeded: bool,
    /// The host said that it be ended.
    pub killed_by_host: bool,
    /// The agent could not go on.
    pub killed_by_agent: bool,
    /// Processes that the kernel ended for want of memory, in this run's own cgroup.
    pub oom_kills: u64,
    /// The kernel told the agent that memory had run out.
    pub out_of_memory: bool,
    /// Forks that were refused by the limit of pids.
    pub pids_refused: u64,
    /// The agent ended it since the tree had used up its CPU time.
    pub cpu_time_over: bool,
    /// The `RLIMIT_CPU` that was set.
    pub cpu_limit: Option<Duration>,
    /// CPU time used.
    pub cpu: Duration,
    /// An `RLIMIT_FSIZE` was set.
    pub file_size_limited: bool,
    /// The agent ended it for a system call that it made.
    pub denied: Option<SyscallDenied>,
}

/// Decides what an end means. The first that holds counts:
///
/// 1. it wrote more than it may: [`Limit::Output`];
/// 2. memory ran out, and the kernel ended a process of it for that: [`Limit::Memory`];
/// 3. the host ended it: [`KilledBy::Host`]; or the agent: [`KilledBy::Agent`];
/// 4. it was ended for a system call: [`Verdict::SyscallDenied`];
/// 5. a fork was refused, and it did not end with code 0 all the same: [`Limit::Pids`];
/// 6. it had used up its CPU time: [`Limit::CpuTime`]; or its time was over while it still ran: [`Limit::WallTime`];
/// 7. SIGXCPU or SIGKILL, with an `RLIMIT_CPU` set and three quarters of that much CPU time used (the kernel compares by the
///    ticks of its clock, and accounts more finely): [`Limit::CpuTime`];
/// 8. SIGXFSZ, with an `RLIMIT_FSIZE` set: [`Limit::FileSize`];
/// 9. any signal: [`Verdict::Signaled`];
/// 10. its own code: [`Verdict::Exited`].
///
/// ```
/// # use stockade::{Evidence, Limit, Signal, Verdict, judge};
/// let mut evidence = Evidence::default();
/// evidence.status = 9; // SIGKILL, for whatever reason
/// assert_eq!(judge(&evidence), Verdict::Signaled(Signal::KILL));
/// evidence.wall_time_over = true;
/// assert_eq!(judge(&evidence), Verdict::LimitExceeded(Limit::WallTime));
/// ```
pub fn judge(evidence: &Evidence) -> Verdict {
    let signal = u32::try_from(evidence.status & 0x7f).ok().and_then(Signal::from_number);
    let out_of_cpu = || evidence.cpu_limit.is_some_and(|limit| evidence.cpu >= limit - limit / 4);
    match signal {
        _ if evidence.output_exceeded => Verdict::LimitExceeded(Limit::Output),
        _ if evidence.oom_kills > 0 || evidence.out_of_memory => Verdict::LimitExceeded(Limit::Memory),
        _ if evidence.killed_by_host => Verdict::Killed(KilledBy::Host),
        _ if evidence.killed_by_agent => Verdict::Killed(KilledBy::Agent),
        _ if let Some(denied) = evidence.denied => Verdict::SyscallDenied(denied),
        _ if evidence.pids_refused > 0 && evidence.status != 0 => Verdict::LimitExceeded(Limit::Pids),
        _ if evidence.cpu_time_over => Verdict::LimitExceeded(Limit::CpuTime),
        _ if evidence.wall_time_over => Verdict::LimitExceeded(Limit::WallTime),
        Some(Signal::XCPU | Signal::KILL) if out_of_cpu() => Verdict::LimitExceeded(Limit::CpuTime),
        Some(Signal::XFSZ) if evidence.file_size_limited => Verdict::LimitExceeded(Limit::FileSize),
        Some(signal) => Verdict::Signaled(signal),
        None => Verdict::Exited(evidence.status >> 8 & 0xff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence() {
        let second = Duration::from_secs(1);
        let denied = SyscallDenied { syscall: "ptrace", nr: 101, args: [0; 6] };
        let killed = Evidence { status: 9, ..Evidence::default() };
        let table = [
            (Evidence::default(), Verdict::Exited(0)),
            (Evidence { status: 3 << 8, ..Evidence::default() }, Verdict::Exited(3)),
            (Evidence { status: 255 << 8, ..Evidence::default() }, Verdict::Exited(255)),
            (Evidence { status: 11, ..Evidence::default() }, Verdict::Signaled(Signal::SEGV)),
            // With a core dump.
            (Evidence { status: 0x80 | 6, ..Evidence::default() }, Verdict::Signaled(Signal::ABRT)),
            (killed, Verdict::Signaled(Signal::KILL)),
            (Evidence { killed_by_host: true, ..killed }, Verdict::Killed(KilledBy::Host)),
            (Evidence { wall_time_over: true, ..killed }, Verdict::LimitExceeded(Limit::WallTime)),
            (Evidence { cpu_time_over: true, ..killed }, Verdict::LimitExceeded(Limit::CpuTime)),
            (Evidence { oom_kills: 1, ..killed }, Verdict::LimitExceeded(Limit::Memory)),
            (Evidence { oom_kills: 1, wall_time_over: true, ..killed }, Verdict::LimitExceeded(Limit::Memory)),
            // The kernel ended a helper; the program itself went on to its own end.
            (Evidence { oom_kills: 1, ..Evidence::default() }, Verdict::LimitExceeded(Limit::Memory)),
            (Evidence { denied: Some(denied), pids_refused: 5, ..killed }, Verdict::SyscallDenied(denied)),
            (Evidence { denied: Some(denied), oom_kills: 1, ..killed }, Verdict::LimitExceeded(Limit::Memory)),
            (Evidence { pids_refused: 5, wall_time_over: true, ..killed }, Verdict::LimitExceeded(Limit::Pids)),
            (Evidence { pids_refused: 5, status: 1 << 8, ..Evidence::default() }, Verdict::LimitExceeded(Limit::Pids)),
            (Evidence { pids_refused: 5, ..Evidence::default() }, Verdict::Exited(0)),
            (Evidence { output_exceeded: true, wall_time_over: true, ..killed }, Verdict::LimitExceeded(Limit::Output)),
            (Evidence { cpu_limit: Some(second), cpu: second, ..killed }, Verdict::LimitExceeded(Limit::CpuTime)),
            (
                Evidence { cpu_limit: Some(second), cpu: second * 80 / 100, ..killed },
                Verdict::LimitExceeded(Limit::CpuTime),
            ),
            (Evidence { cpu_limit: Some(second), cpu: second * 7 / 10, ..killed }, Verdict::Signaled(Signal::KILL)),
            // It raised the signal itself.
            (Evidence { status: 24, ..Evidence::default() }, Verdict::Signaled(Signal::XCPU)),
            (Evidence { status: 25, ..Evidence::default() }, Verdict::Signaled(Signal::XFSZ)),
            (
                Evidence { status: 25, file_size_limited: true, ..Evidence::default() },
                Verdict::LimitExceeded(Limit::FileSize),
            ),
            // Each before the next.
            (
                Evidence { output_exceeded: true, out_of_memory: true, oom_kills: 1, ..killed },
                Verdict::LimitExceeded(Limit::Output),
            ),
            (Evidence { out_of_memory: true, killed_by_host: true, ..killed }, Verdict::LimitExceeded(Limit::Memory)),
            (Evidence { oom_kills: 1, killed_by_host: true, ..killed }, Verdict::LimitExceeded(Limit::Memory)),
            (Evidence { killed_by_host: true, killed_by_agent: true, ..killed }, Verdict::Killed(KilledBy::Host)),
            (Evidence { killed_by_agent: true, denied: Some(denied), ..killed }, Verdict::Killed(KilledBy::Agent)),
            (Evidence { killed_by_host: true, denied: Some(denied), ..killed }, Verdict::Killed(KilledBy::Host)),
            (Evidence { pids_refused: 1, cpu_time_over: true, ..killed }, Verdict::LimitExceeded(Limit::Pids)),
            (Evidence { cpu_time_over: true, wall_time_over: true, ..killed }, Verdict::LimitExceeded(Limit::CpuTime)),
            (
                Evidence { wall_time_over: true, cpu_limit: Some(second), cpu: second, ..killed },
                Verdict::LimitExceeded(Limit::WallTime),
            ),
            // It used its CPU time up, and exited all the same.
            (Evidence { cpu_limit: Some(second), cpu: second, ..Evidence::default() }, Verdict::Exited(0)),
        ];
        for (evidence, verdict) in table {
            assert_eq!(judge(&evidence), verdict, "{evidence:?}");
        }
    }
}
