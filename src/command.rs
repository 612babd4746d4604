//! What to run: a command, in the shape of `std::process::Command`.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::cgroup::Cgroup;
use crate::child::{Child, Output, Pipes};
use crate::error::Error;
use crate::launch::{self, Request};
use crate::outcome::Outcome;
use crate::plan::{self, Descriptor, Wire as _, launch as flag};
use crate::prepare::{self, DEFAULT_PATH, Packed, Prepared};
use crate::sandbox::Sandbox;

/// Where one of the program's standard streams leads.
#[derive(Debug, Clone)]
pub struct Stdio {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Null,
    Inherit,
    Piped,
    Pty,
    Given(Arc<OwnedFd>),
}

impl Stdio {
    /// `/dev/null` of the host.
    pub fn null() -> Self {
        Self { kind: Kind::Null }
    }

    /// The host program's own stream. If that is a terminal the program can read what is typed there; it cannot type, as
    /// it has a session of its own.
    pub fn inherit() -> Self {
        Self { kind: Kind::Inherit }
    }

    /// A pipe; its other end is on the [`Child`].
    pub fn piped() -> Self {
        Self { kind: Kind::Piped }
    }

    /// A terminal of the sandbox's own, one for all of the streams that are set to it; its master is
    /// [`Child::take_pty`]. It becomes the program's controlling terminal if stdin is one of them. Where the sandbox has a
    /// [`dev`](Sandbox::dev), it is one of its devpts.
    pub fn pty() -> Self {
        Self { kind: Kind::Pty }
    }
}

/// A descriptor of the caller's. What leads to a file of the host by name can be opened again by a program of the same
/// user, for writing too if its mode allows that (`/proc/self/fd/0`), however it was opened here; a pipe or a sealed memfd
/// cannot.
impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self { kind: Kind::Given(Arc::new(fd)) }
    }
}
impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}
impl From<PipeReader> for Stdio {
    fn from(pipe: PipeReader) -> Self {
        OwnedFd::from(pipe).into()
    }
}
impl From<PipeWriter> for Stdio {
    fn from(pipe: PipeWriter) -> Self {
        OwnedFd::from(pipe).into()
    }
}

#[derive(Debug, Clone)]
enum Place {
    Sandbox(Box<Sandbox>),
    Prepared(Prepared),
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
}

impl Command {
    pub(crate) fn in_sandbox(sandbox: Sandbox, program: &OsStr) -> Self {
        Self::new(Place::Sandbox(Box::new(sandbox)), program)
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
        }
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment. `PATH` is also where the program is looked up.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.environment.insert(key.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets variables of the environment.
    pub fn envs(&mut self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> &mut Self {
        for (key, value) in variables {
            self.env(key, value);
        }
        self
    }

    /// Takes a variable out of the environment.
    pub fn env_remove(&mut self, key: impl AsRef<OsStr>) -> &mut Self {
        self.environment.remove(key.as_ref());
        self
    }

    /// Empties the environment: no `PATH` either. The program is then looked up in the default one.
    pub fn env_clear(&mut self) -> &mut Self {
        self.environment.clear();
        self
    }

    /// The working directory inside; relative to `/`. Without it, `/` where the sandbox has a root of its own, else the
    /// host program's. Links are followed inside the root only, and a directory outside is refused.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Where stdin comes from; null unless set.
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stream(0, stdio.into())
    }

    /// Where stdout goes; inherited unless set, piped for [`output`](Command::output).
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stream(1, stdio.into())
    }

    /// Where stderr goes; as for [`stdout`](Command::stdout).
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stream(2, stdio.into())
    }

    fn stream(&mut self, number: usize, stdio: Stdio) -> &mut Self {
        if let Some(slot) = self.streams.get_mut(number) {
            *slot = Some(stdio);
        }
        self
    }

    /// Hands a descriptor over, as number `target` (3 or more; 0 to 2 are the streams). Two of the same number are
    /// [`Error::Invalid`]. It gives all that the descriptor can be used for: a directory is a way to all that is below and
    /// above it, and a file may be opened again for writing if its mode allows that.
    pub fn fd(&mut self, target: u32, fd: impl Into<OwnedFd>) -> &mut Self {
        self.descriptors.push((target, Arc::new(fd.into())));
        self
    }

    /// Starts it, and returns when it has been executed.
    ///
    /// # Errors
    ///
    /// [`Error::Exec`] if the program cannot be executed; those of [`Sandbox::prepare`]; [`Error::Unsupported`] and
    /// [`Error::Setup`] if the sandbox could not be made. Nothing is left then.
    pub fn spawn(&mut self) -> Result<Child, Error> {
        self.spawn_with(Stdio::inherit())
    }

    /// Runs it to its end.
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
    /// # Errors
    ///
    /// As for [`spawn`](Command::spawn) and [`Child::wait`].
    pub fn output(&mut self) -> Result<Output, Error> {
        self.spawn_with(Stdio::piped())?.wait_with_output()
    }

    fn spawn_with(&mut self, unset: Stdio) -> Result<Child, Error> {
        let prepared = match &self.place {
            Place::Prepared(prepared) => prepared.clone(),
            Place::Sandbox(sandbox) => {
                let prepared = sandbox.prepare()?;
                self.place = Place::Prepared(prepared.clone());
                prepared
            }
        };
        let mut wiring = Wiring::default();
        let inside = prepared.inner.has_dev && !prepared.inner.program_is_init;
        for (number, stream) in (0..).zip(&self.streams) {
            let unset = if number == 0 { Stdio::null() } else { unset.clone() };
            wiring.stream(number, &stream.as_ref().unwrap_or(&unset).kind, inside)?;
        }
        for (target, fd) in &self.descriptors {
            wiring.extra(*target, fd)?;
        }
        let cgroup = prepared.inner.cgroup.as_ref().map(Cgroup::make).transpose()?;
        if let Some(cgroup) = &cgroup {
            wiring.cgroup(cgroup)?;
        }
        let bytes = self.compile(&prepared, &wiring)?;
        let fds: Vec<_> = wiring.fds.iter().map(Handed::as_fd).collect();
        let running = launch::launch(&prepared, &Request { bytes: &bytes, fds: &fds, program: &self.program })?;
        drop(fds);
        Ok(Child::new(running, prepared, wiring.pipes, cgroup))
    }

    fn compile(&self, prepared: &Prepared, wiring: &Wiring) -> Result<Vec<u8>, Error> {
        let directory = match &self.directory {
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
        let nanoseconds =
            |limit: Option<Duration>| limit.map_or(0, |l| u64::try_from(l.as_nanos()).unwrap_or(u64::MAX));
        let wall_limit = nanoseconds(prepared.inner.wall_limit);
        let cpu_limit = nanoseconds(prepared.inner.cgroup.as_ref().and_then(|cgroup| cgroup.cpu_time));
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        let mut bytes = vec![];
        plan::Launch {
            flags: wiring.flags,
            wall_limit,
            cpu_limit,
            cpus,
            enter: wiring.enter.list(),
            into: wiring.into.unwrap_or(u32::MAX),
            procs: wiring.procs.unwrap_or(u32::MAX),
            oom: wiring.oom.unwrap_or(u32::MAX),
            cpu: wiring.cpu.unwrap_or(u32::MAX),
            kill: wiring.kill.unwrap_or(u32::MAX),
            descriptors: wiring.table.list(),
            directory: &directory,
            candidates: candidates.list(),
            arguments: arguments.list(),
            environment: environment.list(),
        }
        .encode(&mut bytes);
        Ok(bytes)
    }
}

/// A descriptor on its way.
#[derive(Debug)]
enum Handed {
    Own(OwnedFd),
    Shared(Arc<OwnedFd>),
}

impl Handed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Shared(fd) => fd.as_fd(),
        }
    }
}

/// The program's descriptors, and the host's ends of them.
#[derive(Debug, Default)]
struct Wiring {
    table: Packed,
    targets: Vec<u32>,
    fds: Vec<Handed>,
    pipes: Pipes,
    flags: u32,
    /// Which of `fds` is the terminal's slave; `u32::MAX` where the agent will open it.
    terminal: Option<u32>,
    null: Option<u32>,
    // Of the cgroup, which the program does not see.
    enter: Packed,
    into: Option<u32>,
    procs: Option<u32>,
    oom: Option<u32>,
    cpu: Option<u32>,
    kill: Option<u32>,
}

impl Wiring {
    fn add(&mut self, target: u32, fd: Handed) -> u32 {
        let place = u32::try_from(self.fds.len()).unwrap_or(u32::MAX);
        self.fds.push(fd);
        self.refer(target, place);
        place
    }

    /// For the stage only.
    fn hand(&mut self, fd: impl Into<OwnedFd>) -> u32 {
        let place = u32::try_from(self.fds.len()).unwrap_or(u32::MAX);
        self.fds.push(Handed::Own(fd.into()));
        place
    }

    fn cgroup(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        let handles = cgroup.handles()?;
        for file in handles.enter {
            let place = self.hand(file);
            self.enter.push(&place);
        }
        self.into = handles.into.map(|file| self.hand(file));
        self.procs = handles.procs.map(|file| self.hand(file));
        self.cpu = handles.cpu.map(|file| self.hand(file));
        self.kill = handles.kill.map(|file| self.hand(file));
        self.oom = match cgroup.oom().map(|oom| oom.try_clone_to_owned()).transpose() {
            Ok(oom) => oom.map(|oom| self.hand(oom)),
            Err(error) => return Err(Error::host("watch for a lack of memory")(error)),
        };
        Ok(())
    }

    fn refer(&mut self, target: u32, source: u32) {
        self.table.push(&Descriptor { target, source });
        self.targets.push(target);
    }

    fn stream(&mut self, number: u32, kind: &Kind, terminal_inside: bool) -> Result<(), Error> {
        match kind {
            Kind::Null => match self.null {
                Some(place) => self.refer(number, place),
                None => {
                    let null = File::options().read(true).write(true).open("/dev/null");
                    let null = null.map_err(Error::host("open /dev/null"))?;
                    self.null = Some(self.add(number, Handed::Own(null.into())));
                }
            },
            Kind::Inherit => match inherited(number) {
                Ok(stream) => drop(self.add(number, Handed::Own(stream))),
                // The host has none: what a program is given then by the standard library too.
                Err(rustix::io::Errno::BADF) => self.stream(number, &Kind::Null, terminal_inside)?,
                Err(errno) => return Err(Error::host("inherit a stream")(errno)),
            },
            Kind::Given(fd) => drop(self.add(number, Handed::Shared(fd.clone()))),
            Kind::Piped => {
                let (reader, writer) = std::io::pipe().map_err(Error::host("make a pipe"))?;
                match number {
                    0 => {
                        self.pipes.stdin = Some(writer);
                        self.add(number, Handed::Own(reader.into()));
                    }
                    1 => {
                        self.pipes.stdout = Some(reader);
                        self.add(number, Handed::Own(writer.into()));
                    }
                    _ => {
                        self.pipes.stderr = Some(reader);
                        self.add(number, Handed::Own(writer.into()));
                    }
                }
            }
            Kind::Pty => {
                if number == 0 {
                    self.flags |= flag::TERMINAL;
                }
                match self.terminal {
                    Some(place) => self.refer(number, place),
                    None if terminal_inside => {
                        self.flags |= flag::OPEN_TERMINAL;
                        self.terminal = Some(u32::MAX);
                        self.refer(number, u32::MAX);
                    }
                    None => {
                        let (master, slave) = open_terminal().map_err(Error::host("open a terminal"))?;
                        self.pipes.pty = Some(master);
                        self.terminal = Some(self.add(number, Handed::Own(slave)));
                    }
                }
            }
        }
        Ok(())
    }

    fn extra(&mut self, target: u32, fd: &Arc<OwnedFd>) -> Result<(), Error> {
        let invalid = |reason| Err(Error::invalid("fd", reason));
        if target < 3 {
            return invalid(format!("{target} is a standard stream: set it by stdin(), stdout() or stderr()"));
        }
        if self.targets.contains(&target) {
            return invalid(format!("{target} is given twice"));
        }
        if self.targets.len() >= plan::MAX_DESCRIPTORS as usize {
            return invalid(format!("more than {} descriptors", plan::MAX_DESCRIPTORS));
        }
        // The kernel's own ceiling, fs.nr_open, is 2^20 unless raised.
        if target >= 1 << 20 {
            return invalid(format!("no process can have a descriptor {target}"));
        }
        self.add(target, Handed::Shared(fd.clone()));
        Ok(())
    }
}

/// A stream of the host's own, as it is now: a number that is free could be another descriptor's a moment later.
fn inherited(number: u32) -> rustix::io::Result<OwnedFd> {
    let stream = match number {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    };
    rustix::io::fcntl_dupfd_cloexec(stream, 3)
}

/// A terminal of the host's devpts.
fn open_terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}
