//! The handle of a running program.

#[cfg(feature = "tokio")]
mod asynchronous;

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::pidfd_send_signal;

use crate::cgroup::{self, Accounts, Cgroup, Events, LiveLimits};
use crate::container::{self, Container, WeakOwner};
use crate::error::Error;
use crate::launch::{self, Live, Packet, Running, wait_for};
use crate::notify::Notifications;
use crate::outcome::{Evidence, Outcome, Signal, SyscallDenied, Usage, judge};
use crate::plan::{Args, Exit, RECORDED_CALLS, decode, message, reason};
use crate::pool;
use crate::prepare::Prepared;
use crate::rlimit::Resource;
use crate::seccomp;
use crate::support::{Layer, Report};

/// The host's ends of the program's streams.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
    pub(crate) pty: Option<OwnedFd>,
    /// How many bytes may come through stdout and stderr together.
    pub(crate) limit: Option<u64>,
    /// The calls that are the host's to answer.
    pub(crate) notifications: Option<Notifications>,
}

/// What a program wrote, and how it ended.
///
/// ```
/// # use stockade::Sandbox;
/// let output = Sandbox::new().command("sh").args(["-c", "echo half; exit 1"]).output()?;
/// assert_eq!((output.outcome.code(), output.stdout), (Some(1), b"half\n".to_vec()));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output {
    /// How it ended, and what it cost.
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
///
/// ```
/// # use stockade::Sandbox;
/// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
/// assert_eq!(child.try_wait()?.map(|outcome| outcome.verdict), None);
/// drop(child); // ends it
/// # Ok::<(), stockade::Error>(())
/// ```
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
    /// Its environment was made for it, and ends with it.
    alone: bool,
    container: Arc<container::Inner>,
    owner: Option<WeakOwner>,
    /// Whose it was made by, and who tears it down.
    pool: Option<(Arc<pool::Shared>, Mutex<Option<OwnedFd>>)>,
    /// Where the agent counts what is refused.
    record: Option<File>,
}

/// Where a program runs.
pub(crate) enum Home {
    /// In an environment that was made for it.
    Own,
    /// In one that it may share with others.
    Container(Container),
    /// In one that a pool has made, and tears down; with the network namespace that it gave it.
    Pool(Arc<pool::Shared>, Option<OwnedFd>),
}

/// A system call that was refused, and how often.
///
/// ```
/// # use stockade::{Sandbox, Stdio};
/// # use stockade::seccomp::{Action, Filter};
/// let filter = Filter::deny_list().deny("chdir", Action::Errno(1));
/// let sandbox = Sandbox::new().seccomp(filter).record_denials();
/// let child = sandbox.command("sh").args(["-c", "cd /usr; cd /tmp"]).stderr(Stdio::null()).spawn()?;
/// child.wait()?;
/// let denial = child.denials().unwrap()[0];
/// assert_eq!((denial.syscall, denial.count), ("chdir", 2));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denial {
    /// The kernel's name for it; `unknown` where the number has none.
    pub syscall: &'static str,
    /// Its number. All from 1023 on are counted as that.
    pub nr: u32,
    /// How often.
    pub count: u64,
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

/// What there is to end when a program has ended. If it is dropped instead, the environment ends with the handle.
#[derive(Debug)]
enum Remains {
    /// An environment that was made for it alone, if it was, and its cgroup.
    Own {
        live: Option<Arc<Live>>,
        cgroup: Option<Cgroup>,
    },
    Pool(Arc<pool::Shared>, pool::Ended),
}

impl Remains {
    fn end(self) {
        match self {
            Self::Own { live, cgroup } => {
                let end = || live.iter().for_each(|live| live.agent.end());
                match cgroup {
                    // The agent, which was never in it, needs as long for its own end.
                    Some(cgroup) => cgroup.remove_beside(end),
                    None => end(),
                }
            }
            Self::Pool(pool, ended) => pool.leave(ended),
        }
    }
}

/// How long the agent may take to end a program.
const END: Duration = Duration::from_secs(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Child {
    pub(crate) fn new(
        mut running: Running,
        mut pipes: Pipes,
        cgroup: Option<Cgroup>,
        record: Option<File>,
        home: Home,
    ) -> Self {
        let live = Arc::clone(&running.live);
        let prepared = live.prepared.clone();
        let own = || Arc::new(container::Inner::new(live, None));
        let (alone, container, owner, pool) = match home {
            Home::Own => (true, own(), None, None),
            Home::Container(shared) => (false, Arc::clone(shared.inner()), shared.weak_owner(), None),
            Home::Pool(pool, network) => (true, own(), None, Some((pool, Mutex::new(network)))),
        };
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
            alone,
            container,
            owner,
            pool,
            record,
        };
        if let Some(packet) = last {
            *lock(&child.end) = Some(child.conclude(&packet));
            child.remains().end();
        }
        child
    }

    /// The program's number as the host sees it; 0 if the host cannot see it, as in a PID namespace that was joined, or if
    /// it had ended already when it was started.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
    /// assert!(std::path::Path::new(&format!("/proc/{}", child.id())).exists());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn id(&self) -> u32 {
        self.running.pid
    }

    /// Waits until the program has ended, and all that came of it. Any number of threads may wait, and again later.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let child = Sandbox::new().command("sh").args(["-c", "exit 3"]).spawn()?;
    /// assert_eq!(child.wait()?.code(), Some(3));
    /// assert_eq!(child.wait()?.code(), Some(3)); // as often as one likes
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::AgentLost`] if somebody outside killed the agent.
    pub fn wait(&self) -> Result<Outcome, Error> {
        self.let_go();
        loop {
            if let Some(outcome) = self.wait_until(None)? {
                return Ok(outcome);
            }
        }
    }

    /// How the program ended, if it has. When the pidfd ([`AsFd`]) is readable, this may wait for the little that the
    /// tear-down takes, so that an event loop gets its answer.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
    /// assert!(child.try_wait()?.is_none());
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::Sandbox;
    /// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
    /// assert!(child.wait_timeout(Duration::from_millis(10))?.is_none());
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
            let fds = [self.running.socket.as_fd(), self.running.live.agent.pidfd.as_fd()];
            let Some([_, agent_ended]) = wait_for(fds, deadline)? else { return Ok(None) };
            self.collect(agent_ended)?;
        }
    }

    /// Takes the agent's last word, if another thread has not, and ends what is left.
    fn collect(&self, agent_ended: bool) -> Result<(), Error> {
        if let Some(remains) = self.take_last_word(agent_ended)? {
            remains.end();
        }
        Ok(())
    }

    /// Whoever takes the last word has to see to what is left.
    fn take_last_word(&self, agent_ended: bool) -> Result<Option<Remains>, Error> {
        let mut end = lock(&self.end);
        if end.is_some() {
            return Ok(None);
        }
        *end = match launch::receive(&self.running.socket)? {
            Some(packet) if packet.number == message::EXITED => Some(self.conclude(&packet)),
            // It was killed on its way, when its door had closed already.
            Some(packet) if packet.number == message::FAILED => Some(End::Lost),
            Some(packet) if packet.number != message::EOF => None,
            Some(_) => Some(End::Lost),
            None if agent_ended => Some(End::Lost),
            None => None,
        };
        let (ended, lost) = (end.is_some(), matches!(*end, Some(End::Lost)));
        drop(end);
        if lost {
            // Without its agent the program would go on where there is no PID namespace.
            let _ = pidfd_send_signal(&self.running.program, rustix::process::Signal::KILL);
        }
        Ok(ended.then(|| self.remains()))
    }

    fn remains(&self) -> Remains {
        let cgroup = lock(&self.cgroup).take();
        let live = || Arc::clone(&self.running.live);
        match &self.pool {
            Some((pool, network)) => {
                let ended = pool::Ended { live: live(), cgroup, network: lock(network).take() };
                Remains::Pool(Arc::clone(pool), ended)
            }
            None => Remains::Own { live: self.alone.then(live), cgroup },
        }
    }

    fn conclude(&self, packet: &Packet) -> End {
        let Ok(exit) = decode::<Exit>(&packet.body) else { return End::Lost };
        let accounts = lock(&self.cgroup).as_ref().map(|cgroup| cgroup.accounts(false)).unwrap_or_default();
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
            denied: (exit.reason == reason::SYSCALL).then(|| {
                let Args { a, b, c, d, e, f } = exit.args;
                SyscallDenied { syscall: seccomp::name(exit.syscall), nr: exit.syscall, args: [a, b, c, d, e, f] }
            }),
        };
        End::Known(Box::new(Outcome { status: ExitStatus::from_raw(exit.status), verdict: judge(&evidence), usage }))
    }

    /// Waits, and meanwhile collects what the program writes to its pipes. Both are read at once. If there is an
    /// [`output_limit`](crate::Sandbox::output_limit), no more than that is kept, and one byte more ends the program.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let child = Sandbox::new().command("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
    /// assert_eq!(child.wait_with_output()?.stdout, b"hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait); [`Error::Host`] if reading fails.
    pub fn wait_with_output(self) -> Result<Output, Error> {
        self.let_go();
        let (stdout, stderr) = {
            let mut pipes = lock(&self.pipes);
            (pipes.stdout.take(), pipes.stderr.take())
        };
        let limit = lock(&self.pipes).limit.unwrap_or(u64::MAX);
        let mut drains = [Drain::new(stdout)?, Drain::new(stderr)?];
        let mut left = limit;
        while drains.iter().any(|drain| drain.pipe.is_some()) {
            let agent = self.running.live.agent.pidfd.as_fd();
            let [first, second] = drains.each_ref().map(|drain| drain.pipe.as_ref().map_or(agent, AsFd::as_fd));
            let ready = wait_for([first, second, agent], None)?;
            for drain in &mut drains {
                left = drain.read(left, limit)?;
            }
            if self.is_over_limit(&drains)? {
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

    /// Whether it has written more than it may. Then it is told to end.
    fn is_over_limit(&self, drains: &[Drain]) -> Result<bool, Error> {
        let over = drains.iter().any(|drain| drain.exceeded);
        if over {
            self.output_exceeded.store(true, Ordering::Relaxed);
            self.tell_to_end()?;
        }
        Ok(over)
    }

    /// The writing end of the program's stdin, if it is piped; once. [`wait`](Child::wait) closes it if it is still here.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let child = Sandbox::new().command("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    /// let mut input = child.take_stdin().unwrap();
    /// std::io::Write::write_all(&mut input, b"hello").unwrap();
    /// drop(input); // the end of its input
    /// assert_eq!(child.wait_with_output()?.stdout, b"hello");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn take_stdin(&self) -> Option<PipeWriter> {
        lock(&self.pipes).stdin.take()
    }

    /// The reading end of the program's stdout, if it is piped; once.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let child = Sandbox::new().command("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
    /// let text = std::io::read_to_string(child.take_stdout().unwrap()).unwrap();
    /// assert_eq!(text, "hello\n");
    /// assert!(child.take_stdout().is_none());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn take_stdout(&self) -> Option<PipeReader> {
        lock(&self.pipes).stdout.take()
    }

    /// The reading end of the program's stderr, if it is piped; once.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let child = Sandbox::new().command("sh").args(["-c", "echo oh >&2"]).stderr(Stdio::piped()).spawn()?;
    /// assert_eq!(std::io::read_to_string(child.take_stderr().unwrap()).unwrap(), "oh\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn take_stderr(&self) -> Option<PipeReader> {
        lock(&self.pipes).stderr.take()
    }

    /// The master of the program's terminal, if it has [`Stdio::pty`](crate::Stdio::pty); once.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let child = Sandbox::new().pid_ns().command("echo").arg("hello").stdout(Stdio::pty()).spawn()?;
    /// let mut text = [0; 7];
    /// std::io::Read::read_exact(&mut child.take_pty().unwrap(), &mut text).unwrap();
    /// assert_eq!(&text, b"hello\r\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn take_pty(&self) -> Option<File> {
        lock(&self.pipes).pty.take().map(File::from)
    }

    /// The calls that its filter leaves to the host ([`Action::Notify`](seccomp::Action::Notify)); once. None if there can be
    /// none. Until it is taken they wait; if it is still here when [`wait`](Child::wait) is called, or one of its kind, they
    /// fail with ENOSYS from then on, as they do when it is dropped.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /no/such/directory"]).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// calls.next().unwrap().succeed(0)?; // as if it had been there
    /// assert!(child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn take_notifications(&self) -> Option<Notifications> {
        lock(&self.pipes).notifications.take()
    }

    /// What nobody has taken: a program that waits for the end of its input, or for an answer, would wait for ever.
    fn let_go(&self) {
        let mut pipes = lock(&self.pipes);
        let left = (pipes.stdin.take(), pipes.notifications.take());
        drop(pipes);
        drop(left);
    }

    /// Sends a signal to the main program (`pidfd_send_signal(2)`), not to what came of it. It does not change the verdict: a program
    /// that dies of it is [`Verdict::Signaled`](crate::Verdict::Signaled), not killed.
    ///
    /// ```
    /// # use stockade::{Sandbox, Signal, Verdict};
    /// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
    /// child.signal(Signal::TERM).unwrap();
    /// assert_eq!(child.wait()?.verdict, Verdict::Signaled(Signal::TERM));
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
                launch::send(&self.running.socket, message::SIGNAL, &number, &[]).map_err(io::Error::other)
            }
            Some(Err(errno)) => Err(errno.into()),
        }
    }

    /// Ends the program and all that came of it. It does not wait for that; the verdict will be
    /// [`Verdict::Killed`](crate::Verdict::Killed). In a [`Container`] with other programs, what came of it is found by its
    /// cgroup; without one, only the program and its process group are ended.
    ///
    /// ```
    /// # use stockade::{Error, KilledBy, Layer, Sandbox, Verdict};
    /// let child = Sandbox::new().pid_ns().command("sh").args(["-c", "sleep 60 & sleep 60"]).spawn()?;
    /// child.kill()?;
    /// assert_eq!(child.wait()?.verdict, Verdict::Killed(KilledBy::Host));
    ///
    /// let child = Sandbox::new().command("sleep").arg("60").spawn()?; // with neither a PID namespace nor a cgroup
    /// assert!(matches!(child.kill(), Err(Error::Unsupported { layer: Layer::TreeKill, .. })));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] without a PID namespace and without a cgroup that can be ended or frozen
    /// ([`freezer`](crate::Sandbox::freezer)), since a program that forks fast enough could escape, unless
    /// [`best_effort`](crate::Sandbox::best_effort) accepts that by [`Layers::TREE_KILL`](crate::Layers::TREE_KILL).
    pub fn kill(&self) -> Result<(), Error> {
        let is_found = lock(&self.cgroup).as_ref().is_some_and(Cgroup::is_own);
        if !self.alone && !is_found && !self.prepared.inner.tree_kill_named {
            return Err(Error::Unsupported {
                layer: Layer::TreeKill,
                reason: "in a container, what came of one program is found by its cgroup, and this one has none".into(),
                remedy: "add freezer() or a limit to the policy, or accept it by best_effort(Layers::TREE_KILL)".into(),
            });
        }
        if !self.prepared.inner.tree_kill_accepted {
            return Err(Error::Unsupported {
                layer: Layer::TreeKill,
                reason: "without a PID namespace the whole tree cannot be ended for sure".into(),
                remedy: "add pid_ns() or freezer(), or accept it by best_effort(Layers::TREE_KILL)".into(),
            });
        }
        self.tell_to_end()
    }

    fn tell_to_end(&self) -> Result<(), Error> {
        launch::send(&self.running.socket, message::KILL, &[], &[])
    }

    /// What it has cost so far; at the end, what it cost in all. See [`Usage`] for the sources.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
    /// assert!(child.usage().unwrap().memory_current.is_some_and(|bytes| bytes > 0));
    /// # Ok::<(), stockade::Error>(())
    /// ```
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
                usage.take_accounts(&cgroup.accounts(true));
            }
            usage
        });
        // If it has ended meanwhile the number may be another's.
        if let Some(outcome) = self.try_wait().map_err(io::Error::other)? {
            return Ok(outcome.usage);
        }
        found
    }

    /// The limits of its cgroup, to be changed while it runs.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pids_limit(10);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().pids(20)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn limits(&self) -> LiveLimits<'_> {
        LiveLimits { cgroup: &self.cgroup }
    }

    /// The system calls that its filter has refused so far, if the policy has
    /// [`record_denials`](crate::Sandbox::record_denials); the most frequent first. What Landlock refuses is not among them:
    /// the kernel tells that to its audit log only.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let filter = Filter::deny_list().deny("chdir", Action::Errno(1));
    /// let sandbox = Sandbox::new().seccomp(filter).record_denials();
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// child.wait()?;
    /// assert_eq!(child.denials().unwrap()[0].syscall, "chdir");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the counts cannot be read.
    pub fn denials(&self) -> io::Result<Vec<Denial>> {
        let Some(record) = &self.record else { return Ok(vec![]) };
        let mut counts = vec![0; RECORDED_CALLS * 8];
        record.read_exact_at(&mut counts, 0)?;
        let mut found: Vec<_> = (0..)
            .zip(counts.as_chunks().0)
            .map(|(nr, count)| Denial { syscall: seccomp::name(nr), nr, count: u64::from_ne_bytes(*count) })
            .filter(|denial| denial.count > 0)
            .collect();
        found.sort_by_key(|denial| std::cmp::Reverse(denial.count));
        Ok(found)
    }

    /// Stops all of it, and returns when it stands still (`cgroup.freeze`; `freezer.state` of version 1). Its clocks go on:
    /// a frozen program comes to its [`wall_time_limit`](crate::Sandbox::wall_time_limit) and is ended, as it is by
    /// [`kill`](Child::kill) and when this is dropped. On version 1, a signal that is sent to it by others takes effect when
    /// it is thawed.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().freezer();
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("0.01").spawn()?;
    /// child.freeze()?;
    /// assert!(child.wait_timeout(Duration::from_millis(50))?.is_none());
    /// child.thaw()?;
    /// assert!(child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it was made without [`freezer`](crate::Sandbox::freezer) and has no cgroup of version 2 for
    /// another reason, or has ended. [`Error::Cgroup`] if it does not stand still within five seconds, as where a task waits
    /// for a device; it goes on then.
    pub fn freeze(&self) -> Result<(), Error> {
        cgroup::with(&self.cgroup, "freeze", Cgroup::freezer)?.set(true)
    }

    /// Lets it go on. What is not frozen goes on anyway.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().freezer();
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("true").spawn()?;
    /// let _ = child.freeze();
    /// let _ = child.thaw(); // an error, if it has ended already
    /// assert!(child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`freeze`](Child::freeze).
    pub fn thaw(&self) -> Result<(), Error> {
        cgroup::with(&self.cgroup, "thaw", Cgroup::freezer)?.set(false)
    }

    /// What happens to it by its limits of memory and tasks: see [`Events`]. Each call gives all there is, from the
    /// beginning.
    ///
    /// ```
    /// # use stockade::{EventKind, Sandbox, Stdio};
    /// let sandbox = Sandbox::new().pids_limit(2);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let forks = "sleep 0.2 & sleep 0.2 & sleep 0.2 & wait";
    /// let child = sandbox.command("sh").args(["-c", forks]).stderr(Stdio::null()).spawn()?;
    /// let events: Vec<_> = child.events()?.collect();
    /// assert!(events.iter().all(|event| event.kind == EventKind::PidsMax));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it was made without limits, or has ended. [`Error::Host`] where the host's user may watch no
    /// more (`fs.inotify.max_user_instances`).
    pub fn events(&self) -> Result<Events, Error> {
        // A container's agent goes on; what it has to say of this one last is its end.
        let end = if self.alone { &self.running.live.agent.pidfd } else { &self.running.socket };
        let end = end.try_clone().map_err(Error::host("watch for events"))?;
        cgroup::with(&self.cgroup, "events", |cgroup| cgroup.events(end))
    }

    /// The container that it runs in. One that was made for it alone ends with it; of one that was
    /// [started](crate::Sandbox::start) this is one more handle, unless its last one has been dropped: then it has ended.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox, State};
    /// let child = Sandbox::new().rootfs(Rootfs::system()).command("sleep").arg("60").spawn()?;
    /// assert_eq!(child.container().state(), State::Running);
    /// assert!(child.container().files()?.metadata("/usr/bin").is_ok());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn container(&self) -> Container {
        Container::of(&self.container, self.owner.as_ref())
    }

    /// What is in force for it.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let child = Sandbox::new().pid_ns().command("true").spawn()?;
    /// assert!(child.report().in_force().contains(Layers::PID_NS));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn report(&self) -> &Report {
        self.prepared.report()
    }

    /// Lets it go: it runs on without a handle, and ends at its deadline, or when the host process ends.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let child = Sandbox::new().pid_ns().command("sleep").arg("0.1").spawn()?;
    /// let process = format!("/proc/{}", child.id());
    /// child.detach_until_host_exits()?;
    /// assert!(std::path::Path::new(&process).exists()); // it goes on
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the agent cannot be told; the program is ended then.
    pub fn detach_until_host_exits(mut self) -> Result<(), Error> {
        launch::send(&self.running.socket, message::DETACH, &[], &[])?;
        if self.alone {
            self.running.live.detach()?;
        }
        if let Some(cgroup) = lock(&self.cgroup).take() {
            cgroup::leave(cgroup);
        }
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
        let _ = rustix::net::shutdown(&self.running.socket, rustix::net::Shutdown::Write);
        if self.alone {
            self.running.live.end();
        } else {
            // What came of it is gone, and its cgroup can be removed, when the agent has said so.
            let _ = self.wait_until(Some(Instant::now() + END));
        }
        // Where the agent could not do it.
        let _ = pidfd_send_signal(&self.running.program, rustix::process::Signal::KILL);
    }
}

impl Usage {
    /// What a cgroup knows counts for the whole tree, and so more than what a process's own accounts say.
    pub(crate) fn take_accounts(&mut self, accounts: &Accounts) {
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
pub(crate) fn live_usage(pid: u32, wall: Duration) -> io::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    Ok(Usage { wall, ..parse_usage(&stat, &statm) })
}

pub(crate) fn parse_usage(stat: &str, statm: &str) -> Usage {
    // The name, in brackets, may hold anything; what follows the last one is numbers, from field 3 on.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    let time = |own: usize, children: usize| {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_nanos(ticks(own).saturating_add(ticks(children)).saturating_mul(1_000_000_000 / per_second))
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
