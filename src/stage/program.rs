//! One program of the agent's: what is known of it, what it may still use, how it is ended and told of.

use super::enter;
use super::plan::{Args, Exit, Failure, RECORDED_CALLS, Step, decode, message, reason};
use super::sys::{self, Errno, Fd};

/// What is watched for each: its socket, its report, its memory, its filter.
pub const OF_PROGRAM: usize = 4;

/// How often to look whether all stand still, and how long to wait in between: nanoseconds.
const FREEZING: u32 = 20;
const A_MOMENT: u64 = 500_000;

/// How long the kernel may take to end one process for want of memory: nanoseconds.
const OTHERS_TURN: u64 = 20_000_000;

#[derive(Clone, Copy)]
pub struct Program {
    pub pid: i32,
    pub pidfd: Fd,
    /// Its handle's.
    pub socket: Fd,
    /// Goes on without the handle.
    pub detached: bool,
    /// When it ends, everything does.
    pub last: bool,
    /// The terminal's master, until it is handed over.
    pub terminal: Option<Fd>,
    /// What the process says on its way to the exec; `None` once it is through.
    pub report: Option<Fd>,
    /// It has no program yet, or had none for a while.
    pub is_parked: bool,
    /// It said that the exec is next.
    pub announced: bool,
    pub failed: Option<Failure>,
    pub started: u64,
    pub ended: u64,
    pub limit: Option<u64>,
    pub deadline: Option<u64>,
    pub oom: Option<Fd>,
    pub oom_count: Option<Fd>,
    /// When to end the others after the kernel has ended one for want of memory.
    pub out_of_memory: Option<u64>,
    pub kill: Option<Fd>,
    pub freezer: Option<Freezer>,
    pub budget: Option<Budget>,
    /// Where the calls wait that its filter asks about.
    pub listener: Option<Fd>,
    /// Where the host is told of those that are its to answer.
    pub notices: Option<Fd>,
    pub record: Option<Fd>,
    /// The call that it was ended for.
    pub denied: Option<(u32, [u64; 6])>,
    pub status: Option<i32>,
    pub reason: u32,
    pub user_us: u64,
    pub system_us: u64,
    pub max_rss: u64,
    pub in_blocks: u64,
    pub out_blocks: u64,
}

impl Program {
    /// When something may be over.
    pub fn next_look(&self) -> Option<u64> {
        // What is parked uses nothing.
        let budget = self.budget.as_ref().filter(|_| self.announced || !self.is_parked).map(|budget| budget.next);
        [self.deadline, budget, self.out_of_memory].into_iter().flatten().min()
    }

    pub fn check_limits(&mut self, oom: bool) {
        let over = |moment: Option<u64>| moment.is_some_and(|moment| sys::now() >= moment);
        if let (true, Some(event)) = (oom, self.oom) {
            let _ = sys::read(event, &mut [0; 8]);
            // It is told just before it ends one of them, and counts that; then it is our turn.
            self.out_of_memory = self.out_of_memory.or(Some(sys::now().saturating_add(OTHERS_TURN)));
        }
        if over(self.out_of_memory) {
            self.out_of_memory = None;
            // Above it memory may have run out as well, and others were ended for that.
            if self.oom_count.is_none_or(has_killed) {
                self.reason = reason::MEMORY;
            }
        }
        if self.reason != reason::NONE {
            return;
        }
        if self.budget.as_mut().is_some_and(Budget::look) {
            self.reason = reason::CPU_TIME;
        } else if over(self.deadline) {
            self.reason = reason::WALL_TIME;
        }
    }

    /// Its process has ended and been reaped, and has said all that it had to say.
    pub fn is_over(&self) -> bool {
        self.status.is_some() && self.report.is_none()
    }

    pub fn watches(&self) -> [Option<Fd>; OF_PROGRAM] {
        [Some(self.socket).filter(|_| !self.detached), self.report, self.oom, self.listener]
    }

    pub fn close(&self) {
        let own = [Some(self.socket), Some(self.pidfd), self.terminal, self.report];
        let all = own.into_iter().chain([self.oom, self.oom_count, self.kill]);
        let budget = self.budget.map(|budget| budget.account);
        let freezer = self.freezer.map(|freezer| [freezer.state, freezer.members].map(Some)).unwrap_or_default();
        for fd in all.chain([budget, self.listener, self.notices, self.record]).chain(freezer).flatten() {
            sys::close(fd);
        }
    }

    /// Gives the host the listener, if calls are its to answer; all of it, if all are.
    pub fn share_listener(&mut self, all: bool) {
        let (Some(notices), Some(listener)) = (self.notices, self.listener) else { return };
        match enter::send(notices, message::LISTENER, &0u32, &[listener], None) {
            // Nobody is there any more, and the calls fail for that.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => {
                self.failed = Some(Failure { step: Step::Agent as u32, index: 0, errno: errno.0 });
                self.reason = reason::HOST;
            }
        }
        if all {
            for fd in [self.listener.take(), self.notices.take()].into_iter().flatten() {
                sys::close(fd);
            }
        }
    }

    /// It comes with what the process says first when its filter is on.
    pub fn take_listener(&mut self, fds: [Fd; 1], count: usize, observed: bool) {
        if count == 1 {
            let [listener] = fds;
            self.listener = Some(listener);
            self.share_listener(observed);
        }
    }

    /// The kernel's own way to end all in its cgroup, its process, and its session's first process group.
    pub fn kill(&self) {
        if let Some(kill) = self.kill {
            let _ = sys::write(kill, b"1");
        }
        if let Some(freezer) = self.freezer {
            freezer.kill_all();
        }
        if self.status.is_none() {
            let _ = sys::pidfd_send_signal(self.pidfd, sys::SIGKILL);
            let _ = sys::kill(-self.pid, sys::SIGKILL);
        }
    }

    /// Says how it went.
    pub fn tell(&self) {
        // One that was killed on its way, by a limit of memory for instance.
        let killed = Failure { step: Step::Spawn as u32, index: self.reason, errno: 0 };
        let killed = (!self.announced).then_some(killed);
        if let Some(failure) = self.failed.or(killed) {
            let _ = enter::send(self.socket, message::FAILED, &failure, &[], None);
            return;
        }
        let (syscall, [a, b, c, d, e, f]) = self.denied.unwrap_or_default();
        let exit = Exit {
            status: self.status.unwrap_or_default(),
            reason: self.reason,
            wall_ns: self.ended.saturating_sub(self.started),
            user_us: self.user_us,
            system_us: self.system_us,
            max_rss_kib: self.max_rss,
            in_blocks: self.in_blocks,
            out_blocks: self.out_blocks,
            syscall,
            args: Args { a, b, c, d, e, f },
        };
        let _ = enter::send(self.socket, message::EXITED, &exit, &[], None);
    }
}

/// The program's cgroup in version 1's hierarchy of that name.
#[derive(Clone, Copy)]
pub struct Freezer {
    pub state: Fd,
    pub members: Fd,
}

impl Freezer {
    /// Ends all that is in it. What is frozen cannot fork, so that none escapes; and dies when it is let go.
    pub fn kill_all(&self) {
        for _ in 0..FREEZING {
            // Again and again: what forks just then may be missed. To look is what makes the kernel see that all stand still.
            let _ = sys::write(self.state, b"FROZEN");
            let mut state = [0; 6];
            if sys::pread(self.state, &mut state, 0) == Ok(6) && state == *b"FROZEN" {
                break;
            }
            let _ = sys::poll(&mut [], Some(A_MOMENT));
        }
        kill_listed(self.members, b'\n');
        self.thaw();
    }

    pub fn thaw(&self) {
        let _ = sys::write(self.state, b"THAWED");
    }
}

/// Kills the processes of a list, in each of which numbers stand with such a byte behind them. What has no room in the
/// buffer comes next time.
pub fn kill_listed(list: Fd, end: u8) {
    let mut text = [0; 4096];
    let len = sys::pread(list, &mut text, 0).unwrap_or(0);
    let text = text.get(..len).unwrap_or_default();
    // The last number may be cut short where the buffer ends.
    let whole = text.iter().rposition(|byte| *byte == end).unwrap_or(0);
    for pid in text.get(..whole).unwrap_or_default().split(|byte| *byte == end) {
        let pid = pid.iter().try_fold(0i32, |pid, digit| {
            let digit = i32::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
            pid.checked_mul(10)?.checked_add(digit)
        });
        if let Some(pid) = pid.filter(|pid| *pid > 1) {
            let _ = sys::kill(pid, sys::SIGKILL);
        }
    }
}

/// CPU time for the whole tree.
#[derive(Clone, Copy)]
pub struct Budget {
    pub account: Fd,
    pub limit: u64,
    pub cpus: u32,
    /// When to look again, at the earliest moment at which it can be used up.
    pub next: u64,
}

impl Budget {
    /// Whether it is used up.
    pub fn look(&mut self) -> bool {
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

/// Whether `memory.oom_control` tells of one that was ended; `oom_kill` is its last line.
pub fn has_killed(count: Fd) -> bool {
    let mut text = [0; 128];
    let len = sys::pread(count, &mut text, 0).unwrap_or(0);
    let last =
        text.get(..len).unwrap_or_default().split(|byte| *byte == b'\n').find_map(|l| l.strip_prefix(b"oom_kill "));
    last != Some(b"0".as_slice())
}

/// Nanoseconds, from version 1's `cpuacct.usage`, or from version 2's `cpu.stat`, which begins with microseconds.
pub fn cpu_time(text: &[u8]) -> u64 {
    let (digits, unit) = match text.strip_prefix(b"usage_usec ") {
        Some(rest) => (rest, 1000),
        None => (text, 1),
    };
    let number = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number = number.fold(0u64, |sum, byte| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')));
    number.saturating_mul(unit)
}

/// Does what a program's handle says.
pub fn obey(program: &mut Program) {
    let mut buffer = [0; 16];
    let len = match sys::receive(program.socket, &mut buffer, &mut [], false) {
        Ok((len, _)) => len,
        Err(Errno::AGAIN) => return,
        Err(_) => 0,
    };
    let number = buffer.get(..len).and_then(|packet| packet.first_chunk::<4>()).map(|n| u32::from_ne_bytes(*n));
    match number {
        // Without a word: the handle is gone.
        Some(message::KILL) | None if program.status.is_none() && program.reason == reason::NONE => {
            program.reason = reason::HOST;
        }
        Some(message::SIGNAL) => {
            if let Some(Ok(signal)) = buffer.get(4..len).map(decode::<u32>) {
                let _ = sys::pidfd_send_signal(program.pidfd, signal);
            }
        }
        Some(message::DETACH) => program.detached = true,
        _ => {}
    }
}

/// One more call of this number.
pub fn count(record: Fd, nr: i32) {
    let place = usize::try_from(nr).map_or(RECORDED_CALLS - 1, |nr| nr.min(RECORDED_CALLS - 1)) * 8;
    let mut number = [0; 8];
    if sys::pread(record, &mut number, place) == Ok(8) {
        let _ = sys::pwrite(record, &u64::from_ne_bytes(number).saturating_add(1).to_ne_bytes(), place);
    }
}
