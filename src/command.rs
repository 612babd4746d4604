//! What to run: a command, in the shape of `std::process::Command`.

mod wiring;

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::{Cgroup, Limits, lesser};
use crate::child::{Child, Home, Output};
use crate::container::Container;
use crate::error::Error;
use crate::launch::{self, Request};
use crate::learn::{self, Learned};
use crate::outcome::Outcome;
use crate::plan::{self, Wire as _, launch as flag};
use crate::pool::{self, Pool};
use crate::prepare::{self, DEFAULT_PATH, Packed, Prepared};
use crate::sandbox::Sandbox;

pub use wiring::Stdio;

use wiring::{Handed, Wiring};

/// What one command is held to beyond its sandbox's limits.
#[derive(Debug, Clone, Default)]
struct Own {
    limits: Limits,
    wall: Option<Duration>,
    output: Option<u64>,
}

impl Own {
    /// The policy of one command.
    fn narrow(&self, sandbox: &Sandbox) -> Sandbox {
        let mut sandbox = sandbox.clone();
        sandbox.limits = sandbox.limits.narrowed(&self.limits);
        sandbox.wall_time = lesser(self.wall, sandbox.wall_time);
        sandbox.output = lesser(self.output, sandbox.output);
        sandbox
    }

    /// What is to be written to its cgroup, where the policy is settled.
    fn settle(&self, prepared: &Prepared) -> Result<Limits, Error> {
        prepare::check_ends(self.wall, self.output)?;
        let in_force = prepared.inner.cgroup.as_ref().map_or(&[][..], |compiled| &compiled.layers);
        self.limits.within(&prepared.inner.policy.limits).among(in_force, prepared.report().missing())
    }
}

#[derive(Debug, Clone)]
enum Place {
    /// And what it has become, once it was needed.
    Sandbox(Box<Sandbox>, Option<Prepared>),
    Prepared(Prepared),
    Container(Container),
    Pool(Pool),
}

/// A program to run in a sandbox: names and shape are those of [`std::process::Command`].
///
/// What differs: the environment is empty but for `PATH` (`/usr/local/bin:/usr/bin:/bin`); stdin is null unless set; paths
/// and `PATH` are those of the sandbox; and how it ended is an [`Outcome`].
///
/// ```
/// use stockade::Sandbox;
///
/// let output = Sandbox::new().pid_ns().command("echo").arg("hello").output()?;
/// assert_eq!(output.stdout, b"hello\n");
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Command {
    place: Place,
    program: OsString,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    directory: Option<PathBuf>,
    streams: [Option<Stdio>; 3],
    descriptors: Vec<(u32, Arc<OwnedFd>)>,
    own: Own,
}

impl Command {
    pub(crate) fn in_sandbox(sandbox: Sandbox, program: &OsStr) -> Self {
        Self::new(Place::Sandbox(Box::new(sandbox), None), program)
    }

    pub(crate) fn in_container(container: Container, program: &OsStr) -> Self {
        Self::new(Place::Container(container), program)
    }

    pub(crate) fn in_pool(pool: Pool, program: &OsStr) -> Self {
        Self::new(Place::Pool(pool), program)
    }

    pub(crate) fn in_prepared(prepared: Prepared, program: &OsStr) -> Self {
        Self::new(Place::Prepared(prepared), program)
    }

    fn new(place: Place, program: &OsStr) -> Self {
        Self {
            place,
            program: program.to_owned(),
            arguments: vec![],
            environment: BTreeMap::from([("PATH".into(), DEFAULT_PATH.into())]),
            directory: None,
            streams: [None, None, None],
            descriptors: vec![],
            own: Own::default(),
        }
    }

    /// Adds an argument. One with a NUL in it is [`Error::Invalid`] when it is spawned, as for all text here.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("echo").arg("a").arg("b").output()?;
    /// assert_eq!(output.stdout, b"a b\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("expr").args(["3", "+", "4"]).output()?;
    /// assert_eq!(output.stdout, b"7\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment. `PATH` is also where the program is looked up. A name that is empty or has a `=` in it is
    /// [`Error::Invalid`] when it is spawned.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("sh").args(["-c", "echo $ANSWER"]).env("ANSWER", "42").output()?;
    /// assert_eq!(output.stdout, b"42\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.environment.insert(key.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets variables of the environment.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("env").env_clear().envs([("A", "1"), ("B", "2")]).output()?;
    /// assert_eq!(output.stdout, b"A=1\nB=2\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn envs(&mut self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> &mut Self {
        for (key, value) in variables {
            self.env(key, value);
        }
        self
    }

    /// Takes a variable out of the environment.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("/usr/bin/env").env("A", "1").env_remove("PATH").output()?;
    /// assert_eq!(output.stdout, b"A=1\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn env_remove(&mut self, key: impl AsRef<OsStr>) -> &mut Self {
        self.environment.remove(key.as_ref());
        self
    }

    /// Empties the environment: no `PATH` either. The program is then looked up in the default one.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("env").env_clear().output()?;
    /// assert_eq!(output.stdout, b"");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn env_clear(&mut self) -> &mut Self {
        self.environment.clear();
        self
    }

    /// The working directory inside; relative to `/`. Without it, the [sandbox's](Sandbox::current_dir); else `/` where the sandbox
    /// has a root of its own, else the host program's. Links are followed inside the root only, and a directory outside is refused;
    /// that, and one that is not there, is [`Error::Setup`] when it is spawned.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let output = Sandbox::new().rootfs(Rootfs::system()).command("pwd").current_dir("/usr").output()?;
    /// assert_eq!(output.stdout, b"/usr\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Where stdin comes from; null unless set.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let file = tempfile::tempfile().unwrap();
    /// std::os::unix::fs::FileExt::write_all_at(&file, b"3 4", 0).unwrap();
    /// let output = Sandbox::new().command("cat").stdin(file).output()?;
    /// assert_eq!(output.stdout, b"3 4");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stream(0, stdio.into())
    }

    /// Where stdout goes; inherited unless set, piped for [`output`](Command::output).
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let output = Sandbox::new().command("echo").arg("hello").stdout(Stdio::null()).output()?;
    /// assert_eq!(output.stdout, b"");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stream(1, stdio.into())
    }

    /// Where stderr goes; as for [`stdout`](Command::stdout).
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let output = Sandbox::new().command("sh").args(["-c", "echo oh >&2"]).stderr(Stdio::null()).output()?;
    /// assert_eq!(output.stderr, b"");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stream(2, stdio.into())
    }

    fn stream(&mut self, number: usize, stdio: Stdio) -> &mut Self {
        if let Some(slot) = self.streams.get_mut(number) {
            *slot = Some(stdio);
        }
        self
    }

    /// Hands a descriptor over, as number `target` (3 or more; 0 to 2 are the streams), which the program finds open. Two of the same
    /// number, one of 2^20 or more, and more than 256 with the streams are [`Error::Invalid`] when it is spawned. It gives all that the descriptor can be used for: a directory is a way to all that is below and
    /// above it, and a file may be opened again for writing if its mode allows that.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let (mut reader, writer) = std::io::pipe().unwrap();
    /// Sandbox::new().command("sh").args(["-c", "echo hello >&3"]).fd(3, writer).status()?;
    /// let mut text = String::new();
    /// std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    /// assert_eq!(text, "hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn fd(&mut self, target: u32, fd: impl Into<OwnedFd>) -> &mut Self {
        self.descriptors.push((target, Arc::new(fd.into())));
        self
    }

    /// How many bytes of memory this command may use: as [`Sandbox::memory_limit`], for it and what comes of it alone. The
    /// stricter of this and the sandbox's holds, as for each of the limits that follow; in a [`Container`] that of all
    /// commands together holds besides.
    ///
    /// A command of a [`Sandbox`] can have any of them. One of a [`Prepared`], a [`Container`] or a [`Pool`] has its cgroup
    /// by a policy that is settled: spawning it is [`Error::Invalid`] if the policy has no limit of that kind. A policy
    /// for commands with limits of their own has a large one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use stockade::{Limit, Sandbox, Verdict};
    ///
    /// let container = Sandbox::new().pid_ns().wall_time_limit(Duration::from_secs(60)).start()?;
    /// let outcome = container.command("sleep").arg("9").wall_time_limit(Duration::from_millis(50)).status()?;
    /// assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::WallTime));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "memory.max")]
    pub fn memory_limit(&mut self, bytes: u64) -> &mut Self {
        self.own(|own| own.limits.memory = Some(bytes))
    }

    /// How many bytes of swap it may use: as [`Sandbox::swap_limit`]. None unless said, where it has a
    /// [`memory_limit`](Command::memory_limit).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let policy = Sandbox::new().pid_ns().memory_limit(64 << 20);
    /// # if let Err(stockade::Error::Unsupported { .. }) = policy.prepare() { return Ok(()) }
    /// let outcome = policy.command("true").memory_limit(32 << 20).swap_limit(0).status()?;
    /// assert!(outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "memory.swap.max")]
    pub fn swap_limit(&mut self, bytes: u64) -> &mut Self {
        self.own(|own| own.limits.swap = Some(bytes))
    }

    /// How many cores it may use: as [`Sandbox::cpu_limit`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let policy = Sandbox::new().pid_ns().cpu_limit(2.0);
    /// # if let Err(stockade::Error::Unsupported { .. }) = policy.prepare() { return Ok(()) }
    /// assert!(policy.command("true").cpu_limit(0.5).status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpu.max")]
    pub fn cpu_limit(&mut self, cores: f64) -> &mut Self {
        self.own(|own| own.limits.cpu = Some(cores))
    }

    /// Its share of busy CPUs: as [`Sandbox::cpu_weight`], in place of that; in a [`Container`] among its commands.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let policy = Sandbox::new().pid_ns().cpu_weight(100);
    /// # if let Err(stockade::Error::Unsupported { .. }) = policy.prepare() { return Ok(()) }
    /// assert!(policy.command("true").cpu_weight(50).status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "cpu.weight")]
    pub fn cpu_weight(&mut self, weight: u32) -> &mut Self {
        self.own(|own| own.limits.cpu_weight = Some(weight))
    }

    /// How many tasks it may have at once: as [`Sandbox::pids_limit`].
    ///
    /// ```
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let container = Sandbox::new().pid_ns().pids_limit(100);
    /// # if let Err(stockade::Error::Unsupported { .. }) = container.prepare() { return Ok(()) }
    /// let container = container.start()?;
    /// let forks = "for i in 1 2 3 4; do sleep 0.1 & done; wait";
    /// let output = container.command("sh").args(["-c", forks]).pids_limit(3).output()?;
    /// assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::Pids));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "pids.max")]
    pub fn pids_limit(&mut self, tasks: u32) -> &mut Self {
        self.own(|own| own.limits.pids = Some(tasks))
    }

    /// How much CPU time it and all that comes of it may use together: as [`Sandbox::cpu_time_limit`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let policy = Sandbox::new().pid_ns().cpu_time_limit(Duration::from_secs(10));
    /// # if let Err(stockade::Error::Unsupported { .. }) = policy.prepare() { return Ok(()) }
    /// let spin = "while :; do :; done";
    /// let outcome = policy.command("sh").args(["-c", spin]).cpu_time_limit(Duration::from_millis(100)).status()?;
    /// assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::CpuTime));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn cpu_time_limit(&mut self, limit: Duration) -> &mut Self {
        self.own(|own| own.limits.cpu_time = Some(limit))
    }

    /// How long it may run: as [`Sandbox::wall_time_limit`]. No policy needs to have one for that.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let outcome = Sandbox::new().pid_ns().command("sleep").arg("9").wall_time_limit(Duration::from_millis(20)).status()?;
    /// assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::WallTime));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn wall_time_limit(&mut self, limit: Duration) -> &mut Self {
        self.own(|own| own.wall = Some(limit))
    }

    /// How many bytes it may write to its piped stdout and stderr: as [`Sandbox::output_limit`]. No policy needs to have one
    /// for that.
    ///
    /// ```
    /// # use stockade::{Limit, Sandbox, Verdict};
    /// let output = Sandbox::new().pid_ns().command("yes").output_limit(1000).output()?;
    /// assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::Output));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn output_limit(&mut self, bytes: u64) -> &mut Self {
        self.own(|own| own.output = Some(bytes))
    }

    fn own(&mut self, set: impl FnOnce(&mut Own)) -> &mut Self {
        set(&mut self.own);
        if let Place::Sandbox(_, prepared) = &mut self.place {
            // It was prepared with others.
            *prepared = None;
        }
        self
    }

    /// Starts it, and returns when it has been executed.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox, Verdict};
    /// let child = Sandbox::new().pid_ns().command("sleep").arg("60").spawn()?;
    /// child.kill()?;
    /// assert_eq!(child.wait()?.verdict, Verdict::Killed(stockade::KilledBy::Host));
    /// let missing = Sandbox::new().command("/no/such/program").spawn();
    /// assert!(matches!(missing, Err(Error::Exec { .. })));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Exec`] if the program cannot be executed; those of [`Sandbox::prepare`]; [`Error::Unsupported`],
    /// [`Error::Setup`] and [`Error::Cgroup`] if the sandbox could not be made, [`Error::TimedOut`] if not in time;
    /// [`Error::Host`] if this process may have no more descriptors or processes; [`Error::AgentLost`] if somebody killed what was to
    /// be the sandbox, or for a container that has ended. Nothing is left then.
    pub fn spawn(&mut self) -> Result<Child, Error> {
        self.spawn_with(Stdio::inherit())
    }

    /// Runs it to its end.
    ///
    /// ```
    /// # use stockade::{Sandbox, Verdict};
    /// let outcome = Sandbox::new().command("sh").args(["-c", "exit 3"]).status()?;
    /// assert_eq!(outcome.verdict, Verdict::Exited(3));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Command::spawn) and [`Child::wait`].
    pub fn status(&mut self) -> Result<Outcome, Error> {
        self.spawn()?.wait()
    }

    /// Runs it to its end and collects what it writes to stdout and stderr, unless those are set otherwise. Both are read
    /// at once, so that neither can block the other, and no more than the
    /// [`output_limit`](Sandbox::output_limit) is kept.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let output = Sandbox::new().command("sh").args(["-c", "echo out; echo err >&2"]).output()?;
    /// assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Command::spawn) and [`Child::wait`].
    pub fn output(&mut self) -> Result<Output, Error> {
        self.spawn_with(Stdio::piped())?.wait_with_output()
    }

    /// Runs it to its end, observes what it does, and returns the smallest filter and rules that let it do just that: a
    /// policy to start from, as data and as Rust source ([`Learned`]).
    ///
    /// It runs in its sandbox, with all namespaces, mounts and limits, its time limits too, but without
    /// [`seccomp`](Sandbox::seccomp) and [`landlock`](Sandbox::landlock): what those are to be is the question. Streams are as
    /// for [`spawn`](Command::spawn), and those that are piped are collected as by [`output`](Command::output).
    ///
    /// Every system call waits until a thread of the host program has looked at it: some 10 to 30 microseconds, and 100 or
    /// more where there is a path in it. Time limits count that too. The thread has ended when this returns.
    ///
    /// It is for programs that are trusted. What is observed can be changed by the program before the kernel looks at
    /// it, and a hostile program can keep the observing thread busy, up to its time limit; it gets no more than its sandbox
    /// gives it, but what is learned from it is what it wants.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let learned = Sandbox::new().command("true").learn()?;
    /// assert!(learned.outcome().success());
    /// let strict = Sandbox::new().seccomp(learned.filter());
    /// assert!(strict.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Command::spawn) and [`Child::wait`]; [`Error::Invalid`] for a command of a container or a pool. A
    /// program that fails, or is ended by a limit, is no error: see [`Learned::outcome`].
    pub fn learn(&mut self) -> Result<Learned, Error> {
        let mut policy = match &self.place {
            Place::Prepared(prepared) => (*prepared.inner.policy).clone(),
            Place::Sandbox(sandbox, _) => (**sandbox).clone(),
            // Their filter was settled when they were made.
            Place::Container(_) | Place::Pool(_) => {
                let reason =
                    "it takes a sandbox of its own: use a command of the Sandbox or Prepared that it was made from";
                return Err(Error::invalid("learn", reason));
            }
        };
        policy = self.own.narrow(&policy);
        policy.observe = true;
        policy.record = false;
        policy.seccomp = None;
        policy.landlock.clear();
        let prepared = policy.prepare()?;
        let path = self.environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
        let candidates = prepare::candidates(&self.program, path)?;
        let verdict = prepared.inner.observer.clone().unwrap_or_default();
        let child = self.spawn_alone(&prepared, &Stdio::inherit(), None)?;
        learn::observe(child, verdict, candidates)
    }

    /// Starts what the origin goes on to be, in place of a program.
    #[cfg(feature = "closures")]
    pub(crate) fn spawn_from(&self, unset: &Stdio, origin: &launch::Origin<'_>) -> Result<Child, Error> {
        let prepared = match &self.place {
            Place::Prepared(prepared) => prepared.clone(),
            Place::Sandbox(sandbox, _) => sandbox.prepare()?,
            Place::Container(_) | Place::Pool(_) => {
                return Err(Error::invalid("closure", "a closure has a sandbox of its own"));
            }
        };
        if let Some((setting, reason)) = prepared.inner.no_closure {
            return Err(Error::invalid(setting, reason));
        }
        self.spawn_alone(&prepared, unset, Some(origin))
    }

    fn spawn_with(&mut self, unset: Stdio) -> Result<Child, Error> {
        match &self.place {
            Place::Prepared(prepared) => self.spawn_alone(prepared, &unset, None),
            Place::Sandbox(sandbox, ready) => {
                let prepared = match ready {
                    Some(prepared) => prepared.clone(),
                    None => self.own.narrow(sandbox).prepare()?,
                };
                if let Place::Sandbox(_, ready) = &mut self.place {
                    *ready = Some(prepared.clone());
                }
                self.spawn_alone(&prepared, &unset, None)
            }
            Place::Container(container) => self.spawn_inside(container, &unset),
            Place::Pool(pool) => self.spawn_parked(pool, &unset),
        }
    }

    /// In an environment that is made for it.
    fn spawn_alone(
        &self,
        prepared: &Prepared,
        unset: &Stdio,
        origin: Option<&launch::Origin<'_>>,
    ) -> Result<Child, Error> {
        let words = self.words(prepared)?;
        let mut wiring = self.wire(prepared, unset)?;
        let own = match &self.place {
            // It is in the policy.
            Place::Sandbox(..) => Limits::default(),
            _ => self.own.settle(prepared)?,
        };
        let begun = launch::begin(prepared, None, origin)?;
        if origin.is_some() {
            let empty = launch::empty_file().map_err(Error::host("make an empty descriptor"))?;
            wiring.empty = Some(wiring.hand(empty));
        }
        let cgroup = prepared.inner.cgroup.as_ref().map(|compiled| Cgroup::make_with(compiled, &own)).transpose()?;
        let record = wiring.belongings(prepared, cgroup.as_ref())?;
        wiring.flags |= flag::LAST;
        let running = self.start(prepared, &wiring, &words, |request| begun.run(request))?;
        let pipes = wiring.complete(&running)?;
        Ok(Child::new(running, pipes, cgroup, record, Home::Own))
    }

    /// Beside others, in a container.
    fn spawn_inside(&self, container: &Container, unset: &Stdio) -> Result<Child, Error> {
        let inner = container.inner();
        let prepared = &inner.live.prepared;
        let words = self.words(prepared)?;
        let mut wiring = self.wire(prepared, unset)?;
        inner.check_open()?;
        let cgroup = inner.cgroup_for_program(&self.own.settle(prepared)?)?;
        let record = wiring.belongings(prepared, cgroup.as_ref())?;
        let running = self.start(prepared, &wiring, &words, |request| launch::enter(&inner.live, request))?;
        let pipes = wiring.complete(&running)?;
        Ok(Child::new(running, pipes, cgroup, record, Home::Container(container.clone())))
    }

    /// In one of a pool's, where a process waits for it.
    fn spawn_parked(&self, pool: &Pool, unset: &Stdio) -> Result<Child, Error> {
        let prepared = &pool.shared().prepared;
        let words = self.words(prepared)?;
        let mut wiring = self.wire(prepared, unset)?;
        if self.own.wall.is_some() || self.own.limits.cpu_time.is_some() {
            wiring.flags |= flag::OWN_LIMITS;
        }
        let own = self.own.settle(prepared)?;
        let (place, launching) = pool.shared().take()?;
        place.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.change(&own))?;
        wiring.hears = place.notices;
        let running = self.start(prepared, &wiring, &words, |request| place.parked.run(request))?;
        let pipes = wiring.complete(&running)?;
        drop(launching);
        let home = Home::Pool(Arc::clone(pool.shared()), place.network);
        Ok(Child::new(running, pipes, place.cgroup, place.record, home))
    }

    /// Hands all of it to a launch.
    fn start<T>(
        &self,
        prepared: &Prepared,
        wiring: &Wiring,
        words: &Words,
        launch: impl FnOnce(&Request<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let bytes = self.compile(prepared, wiring, words);
        let fds: Vec<_> = wiring.fds.iter().map(Handed::as_fd).collect();
        launch(&Request { bytes: &bytes, fds: &fds, program: &self.program })
    }

    /// The program's descriptors.
    fn wire(&self, prepared: &Prepared, unset: &Stdio) -> Result<Wiring, Error> {
        let mut wiring = Wiring::default();
        wiring.pipes.limit = lesser(self.own.output, prepared.inner.output_limit);
        // Of those of a pool, the agent knows nothing when they are made.
        let parked = matches!(self.place, Place::Pool(_));
        let inside = prepared.inner.has_dev && !prepared.inner.program_is_init && !parked;
        for (number, stream) in (0..).zip(&self.streams) {
            let unset = if number == 0 { Stdio::null() } else { unset.clone() };
            wiring.stream(number, stream.as_ref().unwrap_or(&unset), inside)?;
        }
        for (target, fd) in &self.descriptors {
            wiring.extra(*target, fd)?;
        }
        Ok(wiring)
    }

    /// What is wrong with the command itself is said before anything is started.
    fn words(&self, prepared: &Prepared) -> Result<Words, Error> {
        let directory = match self.directory.as_ref().or(prepared.inner.directory.as_ref()) {
            Some(directory) => prepare::c_string("current_dir", directory.as_os_str())?,
            None => CString::default(),
        };
        let path = self.environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
        let candidates = prepare::candidates(&self.program, path)?;
        let arguments = std::iter::once(&self.program).chain(&self.arguments);
        let arguments = arguments.map(|argument| prepare::c_string("arg", argument)).collect::<Result<Vec<_>, _>>()?;
        let environment = self.environment.iter().map(|(key, value)| prepare::environment_entry(key, value));
        let environment = environment.collect::<Result<Vec<_>, _>>()?;
        let strings = |list: &[CString]| Packed::of(list.iter().map(CString::as_c_str));
        let [candidates, arguments, environment] = [strings(&candidates), strings(&arguments), strings(&environment)];
        Ok(Words { directory, candidates, arguments, environment })
    }

    fn compile(&self, prepared: &Prepared, wiring: &Wiring, words: &Words) -> Vec<u8> {
        let nanoseconds =
            |limit: Option<Duration>| limit.map_or(0, |l| u64::try_from(l.as_nanos()).unwrap_or(u64::MAX));
        let wall_limit = nanoseconds(lesser(self.own.wall, prepared.inner.wall_limit));
        let of_policy = prepared.inner.cgroup.as_ref().and_then(|cgroup| cgroup.cpu_time);
        let cpu_limit = nanoseconds(of_policy.and_then(|_| lesser(self.own.limits.cpu_time, of_policy)));
        let mut bytes = vec![];
        plan::Launch {
            flags: wiring.flags,
            wall_limit,
            cpu_limit,
            cpus: prepared.inner.cpus,
            enter: wiring.enter.list(),
            into: wiring.into.unwrap_or(u32::MAX),
            procs: wiring.procs.unwrap_or(u32::MAX),
            oom: wiring.oom.unwrap_or(u32::MAX),
            oom_count: wiring.oom_count.unwrap_or(u32::MAX),
            cpu: wiring.cpu.unwrap_or(u32::MAX),
            kill: wiring.kill.unwrap_or(u32::MAX),
            record: wiring.record.unwrap_or(u32::MAX),
            freezer: wiring.freezer.unwrap_or(u32::MAX),
            members: wiring.members.unwrap_or(u32::MAX),
            empty: wiring.empty.unwrap_or(u32::MAX),
            door: wiring.door.unwrap_or(u32::MAX),
            notices: wiring.notices.unwrap_or(u32::MAX),
            descriptors: wiring.table.list(),
            directory: &words.directory,
            candidates: words.candidates.list(),
            arguments: words.arguments.list(),
            environment: words.environment.list(),
        }
        .encode(&mut bytes);
        bytes
    }
}

/// What a program is started with, in the plan's form.
struct Words {
    directory: CString,
    candidates: Packed,
    arguments: Packed,
    environment: Packed,
}

/// Makes a container with a process that waits for its program; `joins` are the namespaces to join in place of the policy's.
pub(crate) fn park(prepared: &Prepared, joins: Option<&[BorrowedFd<'_>]>) -> Result<pool::Place, Error> {
    let command = Command::in_prepared(prepared.clone(), OsStr::new(""));
    let words = command.words(prepared)?;
    let begun = launch::begin(prepared, joins, None)?;
    let mut wiring = Wiring::default();
    let mut cgroup = prepared.inner.cgroup.as_ref().map(Cgroup::make).transpose()?;
    cgroup.iter_mut().for_each(Cgroup::open_accounts);
    let record = wiring.belongings(prepared, cgroup.as_ref())?;
    let (door, theirs) = launch::door()?;
    wiring.door = Some(wiring.hand(theirs));
    wiring.flags |= flag::LAST | flag::PARKED;
    let parked = command.start(prepared, &wiring, &words, |request| launch::park(begun, request, door))?;
    Ok(pool::Place { parked, cgroup, record, notices: wiring.hears, network: None })
}
