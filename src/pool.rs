//! Containers that are made before they are needed.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use std::os::fd::{AsFd, OwnedFd};

use crate::cgroup::Cgroup;
use crate::command::{self, Command};
use crate::error::Error;
use crate::launch::{Live, Parked};
use crate::ns::Namespaces;
use crate::prepare::Prepared;
use crate::sandbox::Sandbox;
use crate::support::Report;

/// Containers of one policy, kept warm by a background thread. Each runs one program and is replaced: no two programs ever
/// share one.
///
/// In each, a process waits that has done all that needs no program: it is in its cgroup, has its ids, limits, rules and
/// filter. What is left when a program comes is to hand over its descriptors, and the exec. What would have been an error at a
/// launch is the same error when a command is spawned; but the program's directory is entered with the program's own rights
/// here, and it takes no more than 262144 arguments or variables. Each that waits holds some six of the host's descriptors, and up to
/// ten more if the policy has limits: the files of its accounts are open already.
///
/// It can be used from many threads at once. When the last clone and the last [`Command`] of it are dropped, all that waits is
/// ended; programs that run go on with their handles.
///
/// ```
/// use stockade::Sandbox;
///
/// let pool = Sandbox::new().pid_ns().pool(2)?;
/// for _ in 0..4 {
///     assert!(pool.command("true").status()?.success());
/// }
/// assert_eq!(pool.figures().taken, 4);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Pool {
    owner: Arc<Owner>,
}

/// What a pool has done so far.
///
/// ```
/// # use stockade::Sandbox;
/// let pool = Sandbox::new().pid_ns().pool(1)?;
/// pool.command("true").status()?;
/// let figures = pool.figures();
/// assert_eq!((figures.taken, figures.failed, figures.broken), (1, 0, 0));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Containers that wait now.
    pub ready: usize,
    /// Programs that were started.
    pub taken: u64,
    /// Of these, those for which none was ready, so that theirs was made on the spot.
    pub missed: u64,
    /// Containers that were made.
    pub made: u64,
    /// Containers that could not be made.
    pub failed: u64,
    /// Containers that had ended by themselves before they were taken, as when somebody killed their agent.
    pub broken: u64,
}

/// A container with its process, waiting.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) parked: Parked,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) record: Option<File>,
    /// Where the agent will tell of calls that the host is to answer.
    pub(crate) notices: Option<OwnedFd>,
    /// To be given to another when its program has ended.
    pub(crate) network: Option<OwnedFd>,
}

/// What is left of a run, to be torn down.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) live: Arc<Live>,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) network: Option<OwnedFd>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) prepared: Prepared,
    state: Mutex<State>,
    /// There is something to do for the thread, or something ready.
    changed: Condvar,
    networks: Option<Networks>,
}

#[derive(Debug, Default)]
struct State {
    size: usize,
    places: VecDeque<Place>,
    /// Environments whose programs have ended, to be torn down by the thread.
    ended: Vec<Ended>,
    figures: Figures,
    closing: bool,
    /// Programs on their way to their exec, and when the last one came there. While half of the places are ready, the thread
    /// leaves the machine to these: to make a place beside a launch slows that by half.
    launching: usize,
    launched: Option<Instant>,
    /// The last attempts failed: wait a little before the next.
    pause: Option<Duration>,
}

/// After a failure, and at most.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// For how long after a launch, which is what a short program takes.
const QUIET: Duration = Duration::from_millis(2);

impl State {
    /// For how long nothing is to be made.
    fn quiet(&self) -> Option<Duration> {
        if self.places.is_empty() || self.places.len() * 2 < self.size {
            return None;
        }
        if self.launching > 0 {
            return Some(LONGEST_PAUSE);
        }
        let left = QUIET.checked_sub(self.launched?.elapsed())?;
        Some(left).filter(|left| !left.is_zero())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that waits, or a new one; and what is to be kept until its program runs.
    pub(crate) fn take(&self) -> Result<(Place, Launching<'_>), Error> {
        let mut state = self.lock();
        state.launching += 1;
        let launching = Launching { shared: self };
        while let Some(place) = state.places.pop_front() {
            state.figures.taken += 1;
            if !place.parked.has_ended() {
                if state.places.len() * 2 < state.size {
                    self.changed.notify_all();
                }
                return Ok((place, launching));
            }
            state.figures.taken -= 1;
            state.figures.broken += 1;
            // Torn down by the thread: that can take its time.
            let Place { parked, cgroup, network, .. } = place;
            state.ended.push(Ended { live: parked.live, cgroup, network });
        }
        self.changed.notify_all();
        drop(state);
        let made = self.make();
        let mut state = self.lock();
        match &made {
            Ok(_) => {
                state.figures.made += 1;
                state.figures.taken += 1;
                state.figures.missed += 1;
            }
            Err(_) => state.figures.failed += 1,
        }
        drop(state);
        Ok((made?, launching))
    }

    fn make(&self) -> Result<Place, Error> {
        match &self.networks {
            Some(networks) => networks.place(),
            None => command::park(&self.prepared, None),
        }
    }

    fn tear_down(&self, ended: Ended) {
        let Ended { live, cgroup, network } = ended;
        live.end();
        drop(cgroup);
        // With its PID 1 all that could hold something of the network open is gone.
        if let (Some(networks), Some(network), true) = (&self.networks, network, live.has_ended()) {
            networks.give_back(network);
        }
    }

    /// Of a program that has ended; torn down in the background, but not without bound.
    pub(crate) fn leave(&self, ended: Ended) {
        let mut state = self.lock();
        if state.closing || state.ended.len() > 2 * state.size + 8 {
            drop(state);
            return self.tear_down(ended);
        }
        state.ended.push(ended);
        self.changed.notify_all();
    }

    /// The thread's life: tears down what has ended, and makes what is missing.
    fn tend(&self) {
        let mut state = self.lock();
        loop {
            if !state.ended.is_empty() {
                let ended = std::mem::take(&mut state.ended);
                drop(state);
                ended.into_iter().for_each(|ended| self.tear_down(ended));
                state = self.lock();
                continue;
            }
            if state.closing {
                let places = std::mem::take(&mut state.places);
                drop(state);
                return drop(places);
            }
            if state.places.len() > state.size {
                let surplus = state.places.pop_back();
                drop(state);
                drop(surplus);
                state = self.lock();
                continue;
            }
            let wanting = state.places.len() < state.size;
            if let Some(quiet) = state.quiet().filter(|_| wanting && state.pause.is_none()) {
                let waited = self.changed.wait_timeout(state, quiet);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            match state.pause.filter(|_| wanting) {
                Some(pause) => {
                    let waited = self.changed.wait_timeout_while(state, pause, |state| !state.closing);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    if state.closing {
                        continue;
                    }
                }
                None if !wanting => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                None => {}
            }
            drop(state);
            let made = self.make();
            state = self.lock();
            match made {
                Ok(place) => {
                    state.figures.made += 1;
                    state.pause = None;
                    state.places.push_back(place);
                    self.changed.notify_all();
                }
                Err(_) => {
                    state.figures.failed += 1;
                    let pause = state.pause.map_or(PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
                    state.pause = Some(pause);
                }
            }
        }
    }
}

/// A program is on its way.
#[derive(Debug)]
pub(crate) struct Launching<'a> {
    shared: &'a Shared,
}

impl Drop for Launching<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.launching -= 1;
        state.launched = Some(Instant::now());
        drop(state);
        self.shared.changed.notify_all();
    }
}

/// Network namespaces that go from one run to the next; see [`Sandbox::recycle_net_ns`](crate::Sandbox::recycle_net_ns).
#[derive(Debug)]
struct Networks {
    /// The policy, with a network that is joined.
    prepared: Prepared,
    /// Makes one more.
    maker: Prepared,
    /// The user namespace that owns them, where the caller has no right to others.
    owner: Option<OwnedFd>,
    free: Mutex<Vec<OwnedFd>>,
}

impl Networks {
    fn new(sandbox: &Sandbox, prepared: &Prepared) -> Result<Self, Error> {
        check_recycled(sandbox, prepared)?;
        let maker = Sandbox::new().user_ns().net_ns().prepare()?;
        let [network, user] = maker.start()?.inner().live.namespaces()?;
        let privileged = prepared.inner.privileged;
        let joined = sandbox.clone().with_recycled(&network, Some(&user).filter(|_| !privileged))?.prepare()?;
        let (maker, owner) = if privileged {
            (maker, None)
        } else {
            let again = user.try_clone().map_err(Error::host("hold a user namespace"))?;
            (Sandbox::new().join_ns(Namespaces::USER, again).net_ns().prepare()?, Some(user))
        };
        Ok(Self { prepared: joined, maker, owner, free: Mutex::new(vec![network]) })
    }

    fn place(&self) -> Result<Place, Error> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let network = match free {
            Some(network) => network,
            None => {
                let [network, _] = self.maker.start()?.inner().live.namespaces()?;
                network
            }
        };
        let joins: Vec<_> = self.owner.iter().chain([&network]).map(AsFd::as_fd).collect();
        let place = command::park(&self.prepared, Some(&joins))?;
        drop(joins);
        Ok(Place { network: Some(network), ..place })
    }

    fn give_back(&self, network: OwnedFd) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(network);
    }
}

/// Only what a program could not have changed may be given to another.
fn check_recycled(sandbox: &Sandbox, prepared: &Prepared) -> Result<(), Error> {
    let invalid = |reason| Err(Error::invalid("recycle_net_ns", reason));
    let has = |namespaces| prepared.inner.namespaces.contains(namespaces);
    if !has(Namespaces::NET | Namespaces::USER | Namespaces::PID) {
        return invalid("it takes user_ns(), pid_ns() and net_ns()");
    }
    if !(sandbox.capabilities | sandbox.ambient).is_empty() {
        return invalid("a program with capabilities could change it: keep none");
    }
    if sandbox.ids.host_root {
        return invalid("the host's uid 0 could change it: leave map_host_root() out");
    }
    Ok(())
}

impl Pool {
    pub(crate) fn new(prepared: &Prepared, size: usize) -> Result<Self, Error> {
        if prepared.inner.program_is_init {
            return Err(Error::invalid("as_pid_1", "a pool's PID 1 is an agent; as_pid_1() is for one program"));
        }
        // The first one is made here, so that a policy that cannot be had is an error now.
        let networks =
            prepared.inner.recycled.as_deref().map(|sandbox| Networks::new(sandbox, prepared)).transpose()?;
        let first = match &networks {
            Some(networks) => networks.place()?,
            None => command::park(prepared, None)?,
        };
        let figures = Figures { made: 1, ..Figures::default() };
        let state = State { size, places: VecDeque::from([first]), figures, ..State::default() };
        let shared = Arc::new(Shared {
            prepared: prepared.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            networks,
        });
        let tended = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("stockade-pool".into()).spawn(move || tended.tend());
        let thread = thread.map_err(Error::host("start the pool's thread"))?;
        Ok(Self { owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) }) })
    }

    /// A command to run in a container of its own; see [`Sandbox::command`](crate::Sandbox::command). Each time that it is
    /// spawned it takes another.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let pool = Sandbox::new().pid_ns().pool(1)?;
    /// let mut command = pool.command("sh");
    /// command.args(["-c", "echo $$"]);
    /// assert_eq!(command.output()?.stdout, command.output()?.stdout); // each in a PID namespace of its own
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::in_pool(self.clone(), program.as_ref())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// How many are kept ready from now on. With 0 each is made when it is needed.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use stockade::Sandbox;
    /// let pool = Sandbox::new().pid_ns().pool(1)?;
    /// pool.resize(3);
    /// assert!(pool.wait_ready(Duration::from_secs(10)));
    /// assert_eq!(pool.figures().ready, 3);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn resize(&self, size: usize) {
        self.owner.shared.lock().size = size;
        self.owner.shared.changed.notify_all();
    }

    /// Waits until as many are ready as there should be, for at most so long: whether they are.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use stockade::Sandbox;
    /// let pool = Sandbox::new().pid_ns().pool(2)?;
    /// assert!(pool.wait_ready(Duration::from_secs(10)));
    /// assert_eq!(pool.figures().ready, 2);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn wait_ready(&self, limit: Duration) -> bool {
        let shared = &self.owner.shared;
        let short = |state: &mut State| state.places.len() < state.size;
        let waited = shared.changed.wait_timeout_while(shared.lock(), limit, short);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// What it has done so far.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let pool = Sandbox::new().pid_ns().pool(1)?;
    /// assert_eq!((pool.figures().made, pool.figures().taken), (1, 0));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn figures(&self) -> Figures {
        let state = self.owner.shared.lock();
        Figures { ready: state.places.len(), ..state.figures }
    }

    /// What is in force in each of its containers.
    ///
    /// ```
    /// # use stockade::{Layers, Sandbox};
    /// let pool = Sandbox::new().pid_ns().pool(1)?;
    /// assert!(pool.report().in_force().contains(Layers::PID_NS));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn report(&self) -> &Report {
        self.owner.shared.prepared.report()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It panics at nothing; and if it did there would be nobody to tell.
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}
