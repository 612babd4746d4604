//! The handle of a running program.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::pidfd_send_signal;

use crate::cgroup::{Accounts, Cgroup, LiveLimits};
use crate::error::Error;
use crate::launch::{self, Packet, Running, wait_for};
use crate::outcome::{Evidence, Outcome, Signal, Usage, judge};
use crate::plan::{Exit, decode, message, reason};
use crate::prepare::Prepared;
use crate::rlimit::Resource;
use crate::support::{Layer, Report};

/// The host's ends of the program's streams.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
    pub(crate) pty: Option<OwnedFd>,
}

/// What a program wrote, and how it ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub outcome: Outcome,
    /// What it wrote to stdout, as far as that was piped.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, as far as that was piped.
    pub stderr: Vec<u8>,
}

/// A running program.
///
/// It may be used from several threads at once. Dropping it ends the program and all that came of it, waits until that
/// is done, and leaves nothing behind; [`detach_until_host_exits`](Child::detach_until_host_exits) is the way not to.
///
/// Its status comes from the sandbox's own agent. A host program that reaps all its children by itself (`waitpid(-1)`),
/// or ignores SIGCHLD, loses nothing by that.
#[derive(Debug)]
pub struct Child {
    running: Running,
    /// Dropped, and with that removed, when all in it has ended.
    cgroup: Mutex<Option<Cgroup>>,
    prepared: Prepared,
    pipes: Mutex<Pipes>,
    end: Mutex<Option<End>>,
    output_exceeded: AtomicBool,
    detached: bool,
}

/// How it ended, as far as is known.
#[derive(Debug, Clone)]
enum End {
    Known(Box<Outcome>),
    Lost,
}

impl End {
    fn result(&self) -> Result<Outcome, Error> {
        match self {
            End::Known(outcome) => Ok(Outcome::clone(outcome)),
            End::Lost => Err(Error::AgentLost { reason: "it was killed from outside".into() }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Child {
    pub(crate) fn new(mut running: Running, prepared: Prepared, mut pipes: Pipes, cgroup: Option<Cgroup>) -> Self {
        pipes.pty = pipes.pty.or_else(|| running.terminal.take());
        let last = running.last.take();
        let child = Self {
            running,
            cgroup: Mutex::new(cgroup),
            prepared,
            pipes: Mutex::new(pipes),
            end: Mutex::new(None),
            output_exceeded: AtomicBool::new(false),
            detached: false,
        };
        if let Some(packet) = last {
            *lock(&child.end) = Some(child.conclude(&packet));
            child.running.agent.end();
        }
        child
    }

    /// The program's number as the host sees it; 0 if the host cannot see it, as in a PID namespace that was joined.
    pub fn id(&self) -> u32 {
        self.running.pid
    }

    /// Waits until the program has ended, and all that came of it. Any number of threads may wait, and again later.
    ///
    /// # Errors
    ///
    /// [`Error::AgentLost`] if somebody outside killed the agent.
    pub fn wait(&self) -> Result<Outcome, Error> {
        // A program that waits for the end of its input would wait for ever.
        drop(lock(&self.pipes).stdin.take());
        loop {
            if let Some(outcome) = self.wait_until(None)? {
                return Ok(outcome);
            }
        }
    }

    /// How the program ended, if it has. When the pidfd ([`AsFd`]) is readable, this may wait for the little that the
    /// tear-down takes, so that an event loop gets its answer.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait).
    pub fn try_wait(&self) -> Result<Option<Outcome>, Error> {
        let ended = wait_for([self.running.program.as_fd()], Some(Instant::now()))?.is_some();
        let patience = if ended { Duration::from_millis(200) } else { Duration::ZERO };
        self.wait_until(Some(Instant::now() + patience))
    }

    /// Waits until the program has ended, for at most so long; `None` if it still runs then.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<Outcome>, Error> {
        self.wait_until(Instant::now().checked_add(limit))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<Outcome>, Error> {
        loop {
            if let Some(end) = &*lock(&self.end) {
                return end.result().map(Some);
            }
            let fds = [self.running.control.as_fd(), self.running.agent.pidfd.as_fd()];
            let Some([_, agent_ended]) = wait_for(fds, deadline)? else { return Ok(None) };
            self.collect(agent_ended)?;
        }
    }

    /// Takes the agent's last word, if another thread has not.
    fn collect(&self, agent_ended: bool) -> Result<(), Error> {
        let mut end = lock(&self.end);
        if end.is_some() {
            return Ok(());
        }
        *end = match launch::receive(&self.running.control)? {
            Some(packet) if packet.number == message::EXITED => Some(self.conclude(&packet)),
            Some(packet) if packet.number != message::EOF => None,
            Some(_) => Some(End::Lost),
            None if agent_ended => Some(End::Lost),
            None => None,
        };
        let (ended, lost) = (end.is_some(), matches!(*end, Some(End::Lost)));
        drop(end);
        if ended {
            self.end_agent(lost);
        }
        Ok(())
    }

    /// Without its agent the program would go on where there is no PID namespace.
    fn end_agent(&self, lost: bool) {
        if lost {
            let _ = pidfd_send_signal(&self.running.program, rustix::process::Signal::KILL);
        }
        self.running.agent.end();
    }

    fn conclude(&self, packet: &Packet) -> End {
        let Ok(exit) = decode::<Exit>(&packet.body) else { return End::Lost };
        let accounts = lock(&self.cgroup).take().map(|cgroup| cgroup.accounts()).unwrap_or_default();
        let mut usage = Usage {
            wall: Duration::from_nanos(exit.wall_ns),
            cpu_user: Duration::from_micros(exit.user_us),
            cpu_system: Duration::from_micros(exit.system_us),
            memory_peak: Some(exit.max_rss_kib.saturating_mul(1024)),
            io_read_bytes: Some(exit.in_blocks.saturating_mul(512)),
            io_write_bytes: Some(exit.out_blocks.saturating_mul(512)),
            ..Usage::default()
        };
        usage.take_accounts(&accounts);
        usage.memory_current = None;
        let limit = |wanted| {
            let set = self.prepared.inner.rlimits.iter().find(|(resource, _)| *resource == wanted);
            set.map(|(_, value)| *value).filter(|value| *value != u64::MAX)
        };
        let evidence = Evidence {
            status: exit.status,
            wall_time_over: exit.reason == reason::WALL_TIME,
            output_exceeded: self.output_exceeded.load(Ordering::Relaxed),
            killed_by_host: exit.reason == reason::HOST,
            killed_by_agent: exit.reason == reason::AGENT,
            oom_kills: accounts.oom_kills.unwrap_or(0),
            out_of_memory: exit.reason == reason::MEMORY,
            pids_refused: accounts.pids_refused.unwrap_or(0),
            cpu_time_over: exit.reason == reason::CPU_TIME,
            cpu_limit: limit(Resource::Cpu).map(Duration::from_secs),
            cpu: usage.cpu(),
            file_size_limited: limit(Resource::FileSize).is_some(),
        };
        End::Known(Box::new(Outcome { status: ExitStatus::from_raw(exit.status), verdict: judge(&evidence), usage }))
    }

    /// Waits, and meanwhile collects what the program writes to its pipes. Both are read at once. If there is an
    /// [`output_limit`](crate::Sandbox::output_limit), no more than that is kept, and one byte more ends the program.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait); [`Error::Host`] if reading fails.
    pub fn wait_with_output(self) -> Result<Output, Error> {
        drop(lock(&self.pipes).stdin.take());
        let (stdout, stderr) = {
            let mut pipes = lock(&self.pipes);
            (pipes.stdout.take(), pipes.stderr.take())
        };
        let limit = self.prepared.inner.output_limit.unwrap_or(u64::MAX);
        let mut drains = [Drain::new(stdout)?, Drain::new(stderr)?];
        let mut left = limit;
        while drains.iter().any(|drain| drain.pipe.is_some()) {
            let agent = self.running.agent.pidfd.as_fd();
            let [first, second] = drains.each_ref().map(|drain| drain.pipe.as_ref().map_or(agent, AsFd::as_fd));
            let ready = wait_for([first, second, agent], None)?;
            for drain in &mut drains {
                left = drain.read(left, limit)?;
            }
            if drains.iter().any(|drain| drain.exceeded) {
                self.output_exceeded.store(true, Ordering::Relaxed);
                self.tell_to_end()?;
                break;
            }
            // All is over; whoever holds a writing end still is nobody of the sandbox's.
            if let Some([_, _, true]) = ready {
                break;
            }
        }
        let outcome = self.wait()?;
        let [stdout, stderr] = drains.map(|drain| drain.bytes);
        Ok(Output { outcome, stdout, stderr })
    }

    /// The writing end of the program's stdin, if it is piped; once. [`wait`](Child::wait) closes it if it is still here.
    pub fn take_stdin(&self) -> Option<PipeWriter> {
        lock(&self.pipes).stdin.take()
    }

    /// The reading end of the program's stdout, if it is piped; once.
    pub fn take_stdout(&self) -> Option<PipeReader> {
        lock(&self.pipes).stdout.take()
    }

    /// The reading end of the program's stderr, if it is piped; once.
    pub fn take_stderr(&self) -> Option<PipeReader> {
        lock(&self.pipes).stderr.take()
    }

    /// The master of the program's terminal, if it has [`Stdio::pty`](crate::Stdio::pty); once.
    pub fn take_pty(&self) -> Option<File> {
        lock(&self.pipes).pty.take().map(File::from)
    }

    /// Sends a signal to the main program (`pidfd_send_signal(2)`), not to what came of it.
    ///
    /// # Errors
    ///
    /// ESRCH if it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let named = i32::try_from(signal.number()).ok().and_then(rustix::process::Signal::from_named_raw);
        let sent = named.map(|signal| pidfd_send_signal(&self.running.program, signal));
        match sent {
            Some(Ok(())) => Ok(()),
            // Its user may not be ours; and rustix knows no real-time signals. The agent may and does.
            None | Some(Err(rustix::io::Errno::PERM)) => {
                let number = signal.number().to_ne_bytes();
                launch::send(&self.running.control, message::SIGNAL, &number, &[]).map_err(io::Error::other)
            }
            Some(Err(errno)) => Err(errno.into()),
        }
    }

    /// Ends the program and all that came of it. It does not wait for that; the verdict will be
    /// [`Verdict::Killed`](crate::Verdict::Killed).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] without a PID namespace, since a program that forks fast enough could escape, unless
    /// [`best_effort`](crate::Sandbox::best_effort) accepts that by [`Layers::TREE_KILL`](crate::Layers::TREE_KILL).
    pub fn kill(&self) -> Result<(), Error> {
        if !self.prepared.inner.tree_kill_accepted {
            return Err(Error::Unsupported {
                layer: Layer::TreeKill,
                reason: "without a PID namespace the whole tree cannot be ended for sure".into(),
                remedy: "add pid_ns(), or accept it by best_effort(Layers::TREE_KILL)".into(),
            });
        }
        self.tell_to_end()
    }

    fn tell_to_end(&self) -> Result<(), Error> {
        launch::send(&self.running.control, message::KILL, &[], &[])
    }

    /// What it has cost so far; at the end, what it cost in all. See [`Usage`] for the sources.
    ///
    /// # Errors
    ///
    /// If procfs cannot be read.
    pub fn usage(&self) -> io::Result<Usage> {
        if let Some(outcome) = self.try_wait().map_err(io::Error::other)? {
            return Ok(outcome.usage);
        }
        let wall = self.running.started.elapsed();
        let found = live_usage(self.running.pid, wall).map(|mut usage| {
            if let Some(cgroup) = &*lock(&self.cgroup) {
                usage.take_accounts(&cgroup.accounts());
            }
            usage
        });
        // If it has ended meanwhile the number may be another's.
        if let Some(outcome) = self.try_wait().map_err(io::Error::other)? {
            return Ok(outcome.usage);
        }
        found
    }

    /// Changes the limits of its cgroup while it runs, by way of a closure, which is given those.
    ///
    /// ```no_run
    /// # let child = stockade::Sandbox::new().memory_limit(1 << 20).command("prog").spawn()?;
    /// child.limits(|limits| limits.memory(64 << 20))?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The closure's; see [`LiveLimits`].
    pub fn limits<T>(&self, change: impl FnOnce(LiveLimits<'_>) -> Result<T, Error>) -> Result<T, Error> {
        change(LiveLimits { cgroup: lock(&self.cgroup).as_ref() })
    }

    /// What is in force for it.
    pub fn report(&self) -> &Report {
        self.prepared.report()
    }

    /// Lets it go: it runs on without a handle, and ends at its deadline, or when the host process ends.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the agent cannot be told; the program is ended then.
    pub fn detach_until_host_exits(mut self) -> Result<(), Error> {
        launch::send(&self.running.control, message::DETACH, &[], &[])?;
        launch::leave(self.running.agent.pidfd.try_clone());
        self.detached = true;
        Ok(())
    }
}

impl AsFd for Child {
    /// The program's pidfd: readable when it has ended. Any event loop can poll it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.running.program.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.detached || lock(&self.end).is_some() {
            return;
        }
        let _ = rustix::net::shutdown(&self.running.control, rustix::net::Shutdown::Both);
        self.running.agent.end();
        // Where the agent could not do it.
        let _ = pidfd_send_signal(&self.running.program, rustix::process::Signal::KILL);
    }
}

impl Usage {
    /// What a cgroup knows counts for the whole tree, and so more than what a process's own accounts say.
    fn take_accounts(&mut self, accounts: &Accounts) {
        self.cpu_time = accounts.cpu;
        self.memory_current = accounts.memory_current.or(self.memory_current);
        self.memory_peak = accounts.memory_peak.or(self.memory_peak);
        self.swap_peak = accounts.swap_peak;
        self.pids_peak = accounts.pids_peak;
        self.io_read_bytes = accounts.io_read_bytes.or(self.io_read_bytes);
        self.io_write_bytes = accounts.io_write_bytes.or(self.io_write_bytes);
        self.oom_kills = accounts.oom_kills;
        self.throttled = accounts.throttled;
        self.pressure = accounts.pressure;
    }
}

/// One stream's reader.
struct Drain {
    pipe: Option<PipeReader>,
    bytes: Vec<u8>,
    exceeded: bool,
}

impl Drain {
    fn new(pipe: Option<PipeReader>) -> Result<Self, Error> {
        if let Some(pipe) = &pipe {
            let flags = fcntl_getfl(pipe).map_err(Error::host("read the program's output"))?;
            fcntl_setfl(pipe, flags | OFlags::NONBLOCK).map_err(Error::host("read the program's output"))?;
        }
        Ok(Self { pipe, bytes: vec![], exceeded: false })
    }

    /// Reads what there is. Returns how much more may be kept.
    fn read(&mut self, mut left: u64, limit: u64) -> Result<u64, Error> {
        let Some(pipe) = &mut self.pipe else { return Ok(left) };
        let mut buffer = [0; 65536];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.pipe = None;
                    return Ok(left);
                }
                Ok(len) => {
                    let kept = usize::try_from(left).unwrap_or(usize::MAX).min(len);
                    self.bytes.extend_from_slice(buffer.get(..kept).unwrap_or_default());
                    self.exceeded = kept < len;
                    if limit != u64::MAX {
                        left -= kept as u64;
                    }
                    if self.exceeded {
                        return Ok(left);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(left),
                Err(error) => return Err(Error::host("read the program's output")(error)),
            }
        }
    }
}

/// From `/proc/PID/stat` and `statm` (proc(5)).
fn live_usage(pid: u32, wall: Duration) -> io::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    Ok(Usage { wall, ..parse_usage(&stat, &statm) })
}

fn parse_usage(stat: &str, statm: &str) -> Usage {
    // The name, in brackets, may hold anything; what follows the last one is numbers, from field 3 on.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    let time = |own: usize, children: usize| {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_nanos((ticks(own) + ticks(children)).saturating_mul(1_000_000_000 / per_second))
    };
    let resident = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Usage {
        cpu_user: time(14, 16),
        cpu_system: time(15, 17),
        memory_current: resident.map(|pages| pages.saturating_mul(rustix::param::page_size() as u64)),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procfs_numbers() {
        let stat = "42 (a) b) R 1 2 3 4 5 6 7 8 9 10 100 200 300 400 20 0 1 0 5";
        let usage = parse_usage(stat, "1000 25 3 4 5 6 7");
        let tick = Duration::from_nanos(1_000_000_000 / rustix::param::clock_ticks_per_second());
        assert_eq!(usage.cpu_user, tick * 400);
        assert_eq!(usage.cpu_system, tick * 600);
        assert_eq!(usage.memory_current, Some(25 * rustix::param::page_size() as u64));
        assert_eq!(parse_usage("", "").memory_current, None);
    }
}
