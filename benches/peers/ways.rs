//! What is run, and the ways to run it: `std`'s, ours, the floor, and a peer's program. A peer that is a library is in
//! [`crates`](crate::crates).

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, pipe};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stockade::{Pool, Prepared};

use crate::common::Result;
use crate::common::cgroups::Cgroups;
use crate::common::launches::{plain, timed};
use crate::floor::Floor;
use crate::raw::{self, Spawn, done};

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// /bin/true
    Dynamic,
    /// A static program that ends at once.
    Static,
    /// The same, which says a byte and ends with its standard input.
    Sleeper,
}

/// The bench's directory, and what is in it.
pub struct Places {
    pub directory: PathBuf,
    pub program: PathBuf,
    pub null: File,
}

impl Places {
    /// The target's path, where there is a root of its own and where there is not.
    pub fn path(&self, target: Target, root: bool) -> &Path {
        match target {
            Target::Dynamic => Path::new("/bin/true"),
            Target::Static | Target::Sleeper if root => Path::new("/static"),
            Target::Static | Target::Sleeper => &self.program,
        }
    }

    pub fn nowhere(&self) -> [RawFd; 3] {
        [self.null.as_raw_fd(); 3]
    }
}

/// The name of what no two that run at once share.
pub fn unique(slot: usize) -> String {
    format!("stockade-peers-{}-{slot}", std::process::id())
}

/// Whether there is a cgroup made by hand around it, and what it limits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    None,
    MemoryAndTasks,
    All,
}

/// One way to run a target. No two at once have the same slot.
pub trait Way: Sync {
    /// Runs it, and waits for its end.
    fn run(&self, target: Target, slot: usize) -> Result<Duration>;
    /// Starts a sleeper.
    fn hold(&self, slot: usize) -> Result<Held>;
    /// Waits until it has nothing to do in the background.
    fn settle(&self) -> Result<()> {
        Ok(())
    }
}

/// A sleeper.
pub struct Held {
    ready: Box<dyn FnMut() -> Result<()> + Send>,
    close: Box<dyn FnMut() + Send>,
    end: Box<dyn FnOnce() -> Result<()> + Send>,
}

impl Held {
    pub fn new(
        ready: impl FnMut() -> Result<()> + Send + 'static,
        close: impl FnMut() + Send + 'static,
        end: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Self {
        Self { ready: Box::new(ready), close: Box::new(close), end: Box::new(end) }
    }

    fn piped(
        input: impl Into<OwnedFd>,
        output: impl Into<OwnedFd>,
        end: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Self {
        let (mut input, mut output) = (Some(input.into()), File::from(output.into()));
        Self::new(move || Ok(output.read_exact(&mut [0])?), move || drop(input.take()), end)
    }

    /// Waits until it runs.
    pub fn ready(&mut self) -> Result<()> {
        (self.ready)()
    }

    /// Lets it end.
    pub fn close(&mut self) {
        (self.close)();
    }

    pub fn wait(mut self) -> Result<()> {
        self.close();
        (self.end)()
    }
}

/// No isolation.
pub struct Plain<'a>(pub &'a Places);

impl Way for Plain<'_> {
    fn run(&self, target: Target, _: usize) -> Result<Duration> {
        plain(self.0.path(target, false))
    }

    fn hold(&self, _: usize) -> Result<Held> {
        let mut command = Command::new(self.0.path(Target::Sleeper, false));
        let command = command.arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        Ok(Held::piped(input, output, move || succeeded(child.wait()?.success())))
    }
}

pub fn succeeded(success: bool) -> Result<()> {
    if success { Ok(()) } else { Err("it did not exit with 0".into()) }
}

/// This crate.
pub struct Ours<'a> {
    pub places: &'a Places,
    pub prepared: Prepared,
    pub pool: Option<Pool>,
    /// It has a root of its own.
    pub root: bool,
}

impl Ours<'_> {
    fn command(&self, target: Target) -> stockade::Command {
        let program = self.places.path(target, self.root);
        match &self.pool {
            Some(pool) => pool.command(program),
            None => self.prepared.command(program),
        }
    }
}

impl Way for Ours<'_> {
    fn run(&self, target: Target, _: usize) -> Result<Duration> {
        timed(self.command(target), self.places.path(target, self.root))
    }

    fn hold(&self, _: usize) -> Result<Held> {
        let mut command = self.command(Target::Sleeper);
        let piped = stockade::Stdio::piped;
        let child = command.arg("hold").stdin(piped()).stdout(piped()).stderr(stockade::Stdio::null()).spawn()?;
        let (input, output) = (child.take_stdin().ok_or("no stdin")?, child.take_stdout().ok_or("no stdout")?);
        Ok(Held::piped(input, output, move || succeeded(child.wait()?.success())))
    }

    fn settle(&self) -> Result<()> {
        match &self.pool {
            Some(pool) if !pool.wait_ready(Duration::from_secs(60)) => Err("the pool does not get ready".into()),
            _ => Ok(()),
        }
    }
}

/// The system calls, and nothing else.
pub struct Bare<'a> {
    pub places: &'a Places,
    pub floor: Floor,
    pub limits: Limits,
}

impl Way for Bare<'_> {
    fn run(&self, target: Target, slot: usize) -> Result<Duration> {
        let arguments = self.floor.arguments(self.places, target)?;
        let cgroups = limited(self.limits, slot)?;
        within(cgroups.as_ref(), || {
            let pid = self.floor.spawn(arguments, self.places.nowhere(), cgroups.as_ref())?;
            succeeded(raw::wait(pid)?)
        })
    }

    fn hold(&self, slot: usize) -> Result<Held> {
        let arguments = self.floor.arguments(self.places, Target::Sleeper)?;
        let cgroups = limited(self.limits, slot)?;
        hold(self.places, cgroups, |streams, cgroups| self.floor.spawn(arguments, streams, cgroups))
    }
}

/// Cgroups that are made for one launch, by hand.
fn limited(limits: Limits, slot: usize) -> Result<Option<Cgroups>> {
    if limits == Limits::None {
        return Ok(None);
    }
    let cgroups = crate::cgroups().ok_or("no cgroups with limits can be made")?.renamed(&unique(slot));
    Ok(Some(if limits == Limits::All { cgroups } else { cgroups.without_cpu() }))
}

/// How long a run takes, with the cgroups that it is in made before and removed after it.
fn within(cgroups: Option<&Cgroups>, run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    if let Some(cgroups) = cgroups {
        cgroups.make()?;
        cgroups.limit()?;
    }
    let ran = run();
    if let Some(cgroups) = cgroups {
        cgroups.remove()?;
    }
    let time = start.elapsed();
    ran.map(|()| time)
}

/// Starts a sleeper in such cgroups.
fn hold(
    places: &Places,
    cgroups: Option<Cgroups>,
    spawn: impl FnOnce([RawFd; 3], Option<&Cgroups>) -> Result<libc::pid_t>,
) -> Result<Held> {
    let (inner, input) = pipe()?;
    let (output, outer) = pipe()?;
    if let Some(cgroups) = &cgroups {
        cgroups.make()?;
        cgroups.limit()?;
    }
    let pid = spawn([inner.as_raw_fd(), outer.as_raw_fd(), places.null.as_raw_fd()], cgroups.as_ref())?;
    Ok(Held::piped(input, output, move || {
        let success = raw::wait(pid)?;
        cgroups.map_or(Ok(()), |cgroups| cgroups.remove())?;
        succeeded(success)
    }))
}

/// A command line.
#[derive(Default, Clone)]
pub struct Arguments(Vec<OsString>);

impl Arguments {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self::default().of([program])
    }

    pub fn of(mut self, more: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.extend(more.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn words(self, text: &str) -> Self {
        self.of(text.split_whitespace())
    }

    /// What is run in the end.
    pub fn program(self, places: &Places, target: Target, root: bool) -> Self {
        let arguments = self.of([places.path(target, root)]);
        if target == Target::Sleeper { arguments.words("hold") } else { arguments }
    }

    pub fn finish(self) -> Result<Vec<CString>> {
        let all = self.0.into_iter().map(|argument| CString::new(argument.into_encoded_bytes()));
        Ok(all.collect::<std::result::Result<_, _>>()?)
    }
}

/// How the command line of a peer's program is made.
pub type MakeArguments<'a> = Box<dyn Fn(Target, usize) -> Result<Arguments> + Sync + 'a>;

/// A peer that is a program.
pub struct Tool<'a> {
    pub places: &'a Places,
    pub arguments: MakeArguments<'a>,
    /// It cannot limit what it runs: a cgroup is made for it, in which it is started.
    pub limits: Limits,
    /// Limits of resources that it is started with, since it has no option for them.
    pub rlimits: &'static [(u32, u64)],
    /// A file that it reads from descriptor 10.
    pub filter: Option<CString>,
    /// A mount namespace that it is started in.
    pub mounts: Option<File>,
}

impl<'a> Tool<'a> {
    pub fn new(places: &'a Places, arguments: impl Fn(Target, usize) -> Result<Arguments> + Sync + 'a) -> Self {
        let arguments = Box::new(arguments);
        Self { places, arguments, limits: Limits::None, rlimits: &[], filter: None, mounts: None }
    }

    fn spawn(&self, arguments: Vec<CString>, streams: [RawFd; 3], cgroups: Option<&Cgroups>) -> Result<libc::pid_t> {
        let doors = cgroups.map_or(Ok(vec![]), Cgroups::doors)?;
        let steps = || {
            if !Cgroups::enter(&doors) {
                return Err(libc::EACCES);
            }
            // SAFETY: no memory is touched; the path ends.
            unsafe {
                if let Some(mounts) = &self.mounts {
                    done(libc::setns(mounts.as_raw_fd(), libc::CLONE_NEWNS))?;
                }
                if let Some(filter) = &self.filter {
                    // Read to its end: each has an open file of its own.
                    let fd = done(libc::open(filter.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?;
                    let fd = i32::try_from(fd).map_err(|_| libc::EBADF)?;
                    done(libc::dup2(fd, 10))?;
                }
                for (resource, limit) in self.rlimits {
                    let limit = libc::rlimit { rlim_cur: *limit, rlim_max: *limit };
                    done(libc::setrlimit(*resource, &raw const limit))?;
                }
            }
            Ok(())
        };
        let mut spawn = Spawn::new(arguments, &steps);
        spawn.streams = streams;
        Ok(spawn.spawn()?)
    }

    /// Why it does not work here, in its own words.
    pub fn trial(&self) -> Result<()> {
        let errors = self.places.directory.join("errors");
        for target in [Target::Dynamic, Target::Static] {
            let arguments = (self.arguments)(target, 0)?.finish()?;
            let cgroups = limited(self.limits, 0)?;
            let log = File::create(&errors)?;
            let null = self.places.null.as_raw_fd();
            let ran = within(cgroups.as_ref(), || {
                let pid = self.spawn(arguments, [null, null, log.as_raw_fd()], cgroups.as_ref())?;
                succeeded(raw::wait(pid)?)
            });
            if let Err(error) = ran {
                let text = std::fs::read_to_string(&errors).unwrap_or_default();
                // What comes after it is mostly of what follows from it.
                let line = text.lines().map(str::trim).find(|line| !line.is_empty());
                return Err(line.map_or_else(|| error.to_string(), str::to_owned).into());
            }
        }
        Ok(())
    }
}

impl Way for Tool<'_> {
    fn run(&self, target: Target, slot: usize) -> Result<Duration> {
        let arguments = (self.arguments)(target, slot)?.finish()?;
        let cgroups = limited(self.limits, slot)?;
        within(cgroups.as_ref(), || {
            let pid = self.spawn(arguments, self.places.nowhere(), cgroups.as_ref())?;
            succeeded(raw::wait(pid)?)
        })
    }

    fn hold(&self, slot: usize) -> Result<Held> {
        let arguments = (self.arguments)(Target::Sleeper, slot)?.finish()?;
        let cgroups = limited(self.limits, slot)?;
        hold(self.places, cgroups, |streams, cgroups| self.spawn(arguments, streams, cgroups))
    }
}
