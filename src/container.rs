//! A live environment, and the programs in it.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use crate::cgroup::{self, Cgroup, Event, Events, Limits, LiveLimits};
use crate::command::Command;
use crate::error::Error;
use crate::files::Files;
use crate::launch::{self, Live};
use crate::outcome::Usage;
use crate::plan::{End, decode, message};
use crate::prepare::Prepared;
use crate::support::Report;

/// A live environment that outlives one program: its namespaces, mounts and limits, held by its agent.
///
/// Programs run in it as often and as concurrently as wanted, each with its own handle, streams, deadline and verdict, in a
/// cgroup of its own below the container's, if the policy has limits. Handles can be cloned; when the last one is dropped
/// all that runs in it is ended, and nothing is left. What a [`Child`](crate::Child) of it that still runs then sees is
/// [`KilledBy::Host`](crate::KilledBy::Host).
///
/// 1024 programs may run in it at once; one more is [`Error::Setup`] (EAGAIN). A container that was started with
/// [`as_pid_1`](crate::Sandbox::as_pid_1) is [`Error::Invalid`].
///
/// A program on its way in cannot be looked at, written to, traced or held up by one that is inside already, even of the
/// same user: it has memory of its own, which nobody may look into, and holds on to its capabilities until its exec.
///
/// ```
/// use stockade::{Rootfs, Sandbox};
///
/// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
/// assert!(container.command("sh").args(["-c", "echo hello > /tmp/file"]).status()?.success());
/// assert_eq!(container.command("cat").arg("/tmp/file").output()?.stdout, b"hello\n");
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Container {
    inner: Arc<Inner>,
    /// Ends it when the last handle is dropped; none where a program's own handle does.
    owner: Option<Arc<Owner>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) live: Arc<Live>,
    /// The container's; each program's is below it.
    cgroup: Mutex<Option<Cgroup>>,
    state: AtomicU8,
    started: Instant,
    /// Where watchers are told of changes of state.
    watchers: Mutex<Vec<OwnedFd>>,
}

#[derive(Debug)]
struct Owner {
    inner: Arc<Inner>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.inner.end(State::Stopping);
    }
}

/// How a container is.
///
/// ```
/// # use stockade::{Sandbox, State};
/// let container = Sandbox::new().pid_ns().start()?;
/// assert_eq!(container.state(), State::Running);
/// container.kill();
/// assert_eq!(container.state(), State::Stopped);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum State {
    /// It is being made; one that was handed out is past that.
    Starting,
    /// Programs can run in it.
    Running,
    /// All that runs in it stands still.
    Frozen,
    /// It was told to stop, and has time for it.
    Stopping,
    /// All in it is being killed.
    Aborting,
    /// It has ended.
    Stopped,
}

impl State {
    const ALL: [State; 6] =
        [State::Starting, State::Running, State::Frozen, State::Stopping, State::Aborting, State::Stopped];

    fn from_number(number: u8) -> State {
        Self::ALL.into_iter().find(|state| *state as u8 == number).unwrap_or(State::Stopped)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A process in a container.
///
/// ```
/// # use stockade::Sandbox;
/// let container = Sandbox::new().pid_ns().start()?;
/// let child = container.command("sleep").arg("60").spawn()?;
/// let process = container.processes().unwrap().remove(0);
/// assert_eq!((process.pid, process.inner_pid), (child.id(), 2));
/// assert_eq!(process.command, ["sleep", "60"]);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its number on the host.
    pub pid: u32,
    /// Its number inside; the same without a PID namespace.
    pub inner_pid: u32,
    /// The kernel's letter: `R`unning, `S`leeping, `D`isk, s`T`opped, `Z`ombie (proc(5)).
    pub state: char,
    /// Its arguments, the name first; only the name, if it has none to show.
    pub command: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn new(live: Arc<Live>, cgroup: Option<Cgroup>) -> Self {
        Self {
            live,
            cgroup: Mutex::new(cgroup),
            state: AtomicU8::new(State::Running as u8),
            started: Instant::now(),
            watchers: Mutex::default(),
        }
    }

    fn state(&self) -> State {
        if self.live.has_ended() { State::Stopped } else { State::from_number(self.state.load(Ordering::Acquire)) }
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
        let number = (state as u8).to_ne_bytes();
        lock(&self.watchers).retain(|watcher| {
            send(watcher, &number, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok_and(|_| state != State::Stopped)
        });
    }

    /// Kills all in it and waits for that.
    fn end(&self, by: State) {
        if self.state.load(Ordering::Acquire) == State::Stopped as u8 {
            return;
        }
        self.set(by);
        self.live.hang_up();
        // On version 1 what is frozen is killed when it is let go; the agent knows of the programs' cgroups only.
        let freezer = lock(&self.cgroup).as_ref().and_then(|cgroup| cgroup.freezer().ok());
        let _ = freezer.map(|freezer| freezer.set(false));
        self.live.end();
        // The programs' cgroups are removed by their handles, or with this one.
        drop(lock(&self.cgroup).take());
        self.set(State::Stopped);
    }

    /// A program's own, below the container's.
    pub(crate) fn cgroup_for_program(&self, own: &Limits) -> Result<Option<Cgroup>, Error> {
        let policy = self.live.prepared.inner.cgroup.as_ref();
        match &*lock(&self.cgroup) {
            Some(cgroup) => cgroup.child_for(policy, own).map(Some),
            None => Ok(None),
        }
    }

    /// Whether programs may start in it.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match self.state() {
            State::Starting | State::Running => Ok(()),
            State::Frozen => Err(Error::invalid("command", "the container is frozen: thaw() it first")),
            state => Err(Error::AgentLost { reason: format!("the container is {state}") }),
        }
    }
}

impl Container {
    pub(crate) fn start(prepared: &Prepared) -> Result<Self, Error> {
        if prepared.inner.program_is_init {
            return Err(Error::invalid("as_pid_1", "a container's PID 1 is its agent; as_pid_1() is for one program"));
        }
        let cgroup = prepared.inner.cgroup.as_ref().map(Cgroup::make).transpose()?;
        let live = Arc::new(launch::start(prepared)?);
        let inner = Arc::new(Inner::new(live, cgroup));
        Ok(Self { owner: Some(Arc::new(Owner { inner: Arc::clone(&inner) })), inner })
    }

    /// Of a program's handle.
    pub(crate) fn of(inner: &Arc<Inner>, owner: Option<&WeakOwner>) -> Self {
        Self { inner: Arc::clone(inner), owner: owner.and_then(|owner| owner.0.upgrade()) }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn weak_owner(&self) -> Option<WeakOwner> {
        self.owner.as_ref().map(|owner| WeakOwner(Arc::downgrade(owner)))
    }

    /// A command to run in it; see [`Sandbox::command`](crate::Sandbox::command). The policy's limits of time and output hold
    /// for each command, those of memory, CPU and tasks for all of them together.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// let writer = container.command("sh").args(["-c", "echo hello > /tmp/file"]).spawn()?;
    /// writer.wait()?;
    /// assert_eq!(container.command("cat").arg("/tmp/file").output()?.stdout, b"hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        Command::in_container(self.clone(), program.as_ref())
    }

    /// How it is.
    ///
    /// ```
    /// # use stockade::{Sandbox, State};
    /// let container = Sandbox::new().pid_ns().start()?;
    /// assert_eq!(container.state(), State::Running);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn state(&self) -> State {
        self.inner.state()
    }

    /// What is in force in it.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let container = Sandbox::new().pid_ns().start()?;
    /// assert!(container.report().in_force().contains(Layers::PID_NS));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn report(&self) -> &Report {
        self.inner.live.prepared.report()
    }

    /// Stops all that runs in it, and returns when it stands still. No program can be started until it is thawed.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// let sandbox = Sandbox::new().pid_ns().freezer();
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let container = sandbox.start()?;
    /// container.freeze()?;
    /// assert!(matches!(container.command("true").spawn(), Err(Error::Invalid { .. })));
    /// container.thaw()?;
    /// assert!(container.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Child::freeze`](crate::Child::freeze): the policy must have [`freezer`](crate::Sandbox::freezer).
    pub fn freeze(&self) -> Result<(), Error> {
        cgroup::with(&self.inner.cgroup, "freeze", Cgroup::freezer)?.set(true)?;
        self.inner.set(State::Frozen);
        Ok(())
    }

    /// Lets it go on.
    ///
    /// ```
    /// # use stockade::{Sandbox, State};
    /// let sandbox = Sandbox::new().pid_ns().freezer();
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let container = sandbox.start()?;
    /// container.freeze()?;
    /// container.thaw()?;
    /// assert_eq!(container.state(), State::Running);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`freeze`](Container::freeze).
    pub fn thaw(&self) -> Result<(), Error> {
        cgroup::with(&self.inner.cgroup, "thaw", Cgroup::freezer)?.set(false)?;
        self.inner.set(State::Running);
        Ok(())
    }

    /// Its limits, to be changed while it lives; see [`Child::limits`](crate::Child::limits).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pids_limit(10);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let container = sandbox.start()?;
    /// container.limits().pids(20)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn limits(&self) -> LiveLimits<'_> {
        LiveLimits { cgroup: &self.inner.cgroup }
    }

    /// All processes in it, the agent not among them: what the agent has forked, and what came of that. It is a snapshot;
    /// without privilege a procfs that hides others' processes shows none.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let container = Sandbox::new().pid_ns().start()?;
    /// let children = [container.command("sleep").arg("60").spawn()?, container.command("sleep").arg("60").spawn()?];
    /// assert_eq!(container.processes().unwrap().len(), children.len());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If procfs cannot be read.
    pub fn processes(&self) -> io::Result<Vec<Process>> {
        let Some(agent) = self.inner.live.agent_pid() else { return Ok(vec![]) };
        let mut all: Vec<(u32, u32)> = vec![];
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
            all.extend(parent.map(|parent| (pid, parent)));
        }
        let mut found = vec![agent];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        Ok(found.into_iter().skip(1).filter_map(process).collect())
    }

    /// What all programs in it have cost together: of its cgroup, with limits; else what procfs says of its processes that
    /// live, which is neither peaks nor what has ended.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let container = Sandbox::new().pid_ns().start()?;
    /// let child = container.command("sleep").arg("60").spawn()?;
    /// assert!(container.usage().unwrap().memory_current.is_some_and(|bytes| bytes > 0));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If procfs cannot be read.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage { wall: self.inner.started.elapsed(), ..Usage::default() };
        for process in self.processes()? {
            // It may have ended meanwhile.
            let Ok(one) = crate::child::live_usage(process.pid, Duration::ZERO) else { continue };
            usage.cpu_user += one.cpu_user;
            usage.cpu_system += one.cpu_system;
            usage.memory_current = Some(usage.memory_current.unwrap_or(0) + one.memory_current.unwrap_or(0));
        }
        if let Some(cgroup) = &*lock(&self.inner.cgroup) {
            usage.take_accounts(&cgroup.accounts(true));
        }
        Ok(usage)
    }

    /// What happens to it: see [`ContainerEvents`]. Eight at once are told of the ends of processes; one more hears of states and
    /// limits only.
    ///
    /// ```
    /// # use stockade::{ContainerEvent, Sandbox};
    /// let container = Sandbox::new().pid_ns().start()?;
    /// let mut events = container.events()?;
    /// container.command("sh").args(["-c", "exit 3"]).status()?;
    /// let ended = events.find(|event| matches!(event, ContainerEvent::Exited { .. }));
    /// assert!(matches!(ended, Some(ContainerEvent::Exited { status, .. }) if status.code() == Some(3)));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the host may not open more descriptors.
    pub fn events(&self) -> Result<ContainerEvents, Error> {
        let failed = |errno: rustix::io::Errno| Error::host("watch a container")(errno);
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, None).map_err(failed)?;
        let agent = self.inner.live.agent_fd().map_err(Error::host("watch a container"))?;
        let limits = match &*lock(&self.inner.cgroup) {
            Some(cgroup) => {
                let agent = agent.try_clone().map_err(Error::host("watch a container"))?;
                Some(cgroup.events(agent)?)
            }
            None => None,
        };
        let all = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let watched = [Some(ours.as_fd()), Some(agent.as_fd()), limits.as_ref().map(AsFd::as_fd)];
        for fd in watched.into_iter().flatten() {
            epoll::add(&all, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(failed)?;
        }
        self.inner.live.tell(message::WATCH, &[theirs.as_fd()])?;
        let mut watchers = lock(&self.inner.watchers);
        // Nobody ever writes there: what there is to hear is that a watcher has gone.
        watchers.retain(|watcher| matches!(launch::wait_for([watcher.as_fd()], Some(Instant::now())), Ok(None)));
        watchers.push(theirs);
        drop(watchers);
        Ok(ContainerEvents { all, messages: ours, agent, limits, over: false })
    }

    /// The files in it, for the host to read and write: see [`Files`], which can be kept longer than the container.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// let files = container.files()?;
    /// files.write("/tmp/input", "3 4\n")?;
    /// assert_eq!(container.command("cat").arg("/tmp/input").output()?.stdout, b"3 4\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::AgentLost`] if it has ended: what is to be read then must be asked for while it lives. [`Error::Invalid`] for
    /// that of a program that is PID 1 itself. [`Error::Host`] if the host may not open more descriptors.
    pub fn files(&self) -> Result<Files, Error> {
        Files::of(&self.inner.live)
    }

    /// A polite end: SIGTERM to all that runs in it, and after so long SIGKILL to what is left. Returns when nothing is left;
    /// whether all ended by itself.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::{Sandbox, State};
    /// let container = Sandbox::new().pid_ns().start()?;
    /// let child = container.command("sleep").arg("60").spawn()?;
    /// assert!(container.stop(Duration::from_secs(5))?); // sleep ends at SIGTERM
    /// assert_eq!(container.state(), State::Stopped);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the agent cannot be told; it is killed then. As for [`thaw`](Container::thaw), if it is frozen.
    pub fn stop(&self, grace: Duration) -> Result<bool, Error> {
        if self.state() == State::Frozen {
            // Nobody hears a signal in there.
            self.thaw()?;
        }
        self.inner.set(State::Stopping);
        let told = self.inner.live.tell(message::STOP, &[]);
        let ended = told.and_then(|()| self.inner.live.wait(Instant::now().checked_add(grace)));
        self.inner.end(State::Aborting);
        ended
    }

    /// Kills all that runs in it, and returns when nothing is left. It has ended then: no program can be started any more.
    ///
    /// ```
    /// # use stockade::{KilledBy, Sandbox, Verdict};
    /// let container = Sandbox::new().pid_ns().start()?;
    /// let child = container.command("sleep").arg("60").spawn()?;
    /// container.kill();
    /// assert_eq!(child.wait()?.verdict, Verdict::Killed(KilledBy::Host));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn kill(&self) {
        self.inner.end(State::Aborting);
    }
}

/// A way to a handle that does not keep the container.
#[derive(Debug, Clone)]
pub(crate) struct WeakOwner(Weak<Owner>);

/// From `/proc/PID`; none if it has ended.
fn process(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let inner_pid = field("NSpid:").and_then(|pids| pids.split_whitespace().last()?.parse().ok()).unwrap_or(pid);
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut command: Vec<String> =
        line.strip_suffix(&[0]).unwrap_or(&line).split(|byte| *byte == 0).map(text).collect();
    if command.iter().all(String::is_empty) {
        command = vec![field("Name:")?.to_owned()];
    }
    Some(Process { pid, inner_pid, state: field("State:")?.chars().next()?, command })
}

/// Something that has happened to a container.
///
/// ```
/// # use stockade::{ContainerEvent, Sandbox, State};
/// let container = Sandbox::new().pid_ns().start()?;
/// let events = container.events()?;
/// container.kill();
/// assert_eq!(events.last(), Some(ContainerEvent::State(State::Stopped)));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContainerEvent {
    /// Its state has changed.
    State(State),
    /// A process in it has ended, and its agent has reaped it: a program, or what was orphaned.
    Exited {
        /// Its number inside.
        pid: u32,
        /// As wait4(2) gives it.
        status: std::process::ExitStatus,
    },
    /// Something that comes of its limits.
    Limit(Event),
}

/// What happens to a container, as it happens; from [`Container::events`].
///
/// The iterator waits for the next one, and ends when the container has: [`State::Stopped`] is the last. Whoever reads too
/// slowly misses ends of processes. For an event loop there is its descriptor ([`AsFd`], readable when there may be
/// something) with [`try_next`](ContainerEvents::try_next).
///
/// ```
/// # use stockade::Sandbox;
/// let container = Sandbox::new().pid_ns().start()?;
/// let events = container.events()?;
/// let watching = std::thread::spawn(move || events.count());
/// container.command("true").status()?;
/// container.kill();
/// assert!(watching.join().unwrap() >= 2); // an end, and that of the container
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct ContainerEvents {
    all: OwnedFd,
    messages: OwnedFd,
    agent: OwnedFd,
    limits: Option<Events>,
    over: bool,
}

impl ContainerEvents {
    /// The next one, if there is one already.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let container = Sandbox::new().pid_ns().start()?;
    /// let mut events = container.events()?;
    /// assert_eq!(events.try_next(), None);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn try_next(&mut self) -> Option<ContainerEvent> {
        if self.over {
            return None;
        }
        // First, so that what was there before its end is not missed.
        let ended = matches!(launch::wait_for([self.agent.as_fd()], Some(Instant::now())), Ok(Some(_)));
        if let Some(event) = self.message() {
            self.over = event == ContainerEvent::State(State::Stopped);
            return Some(event);
        }
        if let Some(event) = self.limits.as_mut().and_then(Events::try_next) {
            return Some(ContainerEvent::Limit(event));
        }
        self.over = ended;
        ended.then_some(ContainerEvent::State(State::Stopped))
    }

    fn message(&self) -> Option<ContainerEvent> {
        use std::os::unix::process::ExitStatusExt as _;
        let mut buffer = [0; 32];
        let (len, _) = rustix::net::recv(&self.messages, &mut buffer[..], rustix::net::RecvFlags::DONTWAIT).ok()?;
        match buffer.get(..len)? {
            [state] => Some(ContainerEvent::State(State::from_number(*state))),
            packet => {
                let End { pid, status } = decode(packet.get(4..)?).ok()?;
                Some(ContainerEvent::Exited { pid, status: std::process::ExitStatus::from_raw(status) })
            }
        }
    }
}

impl Iterator for ContainerEvents {
    type Item = ContainerEvent;

    fn next(&mut self) -> Option<ContainerEvent> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if self.over || launch::wait_for([self.all.as_fd()], None).is_err() {
                return None;
            }
        }
    }
}

impl AsFd for ContainerEvents {
    /// Readable when something may have happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.all.as_fd()
    }
}
