//! Where a program's streams and other descriptors lead, and what else is handed over with its launch.

use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::cgroup::Cgroup;
use crate::child::Pipes;
use crate::error::Error;
use crate::launch::{self, Running};
use crate::notify::Notifications;
use crate::plan::{self, Descriptor, launch as flag};
use crate::prepare::{Packed, Prepared};

/// Where one of the program's standard streams leads.
///
/// ```
/// # use stockade::{Sandbox, Stdio};
/// let mut command = Sandbox::new().command("tr");
/// let child = command.args(["a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
/// std::io::Write::write_all(&mut child.take_stdin().unwrap(), b"hello").unwrap();
/// assert_eq!(child.wait_with_output()?.stdout, b"HELLO");
/// # Ok::<(), stockade::Error>(())
/// ```
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
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let output = Sandbox::new().command("cat").stdin(Stdio::null()).output()?;
    /// assert_eq!(output.stdout, b"");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn null() -> Self {
        Self { kind: Kind::Null }
    }

    /// The host program's own stream. If that is a terminal the program can read what is typed there; it cannot type, as
    /// it has a session of its own.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let outcome = Sandbox::new().command("true").stdout(Stdio::inherit()).status()?;
    /// assert!(outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn inherit() -> Self {
        Self { kind: Kind::Inherit }
    }

    /// A pipe; its other end is on the [`Child`](crate::Child).
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let child = Sandbox::new().command("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
    /// let mut text = String::new();
    /// std::io::Read::read_to_string(&mut child.take_stdout().unwrap(), &mut text).unwrap();
    /// assert_eq!(text, "hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn piped() -> Self {
        Self { kind: Kind::Piped }
    }

    /// A terminal of the sandbox's own, one for all of the streams that are set to it; its master is
    /// [`Child::take_pty`](crate::Child::take_pty). It becomes the program's controlling terminal if stdin is one of them. Where the sandbox has a
    /// [`dev`](crate::Sandbox::dev), it is one of its devpts, so that the program can open it by its name; in a [`Pool`](crate::Pool) and with
    /// [`as_pid_1`](crate::Sandbox::as_pid_1) it is one of the host's.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let child = Sandbox::new().pid_ns().command("tty").stdin(Stdio::pty()).stdout(Stdio::pty()).spawn()?;
    /// let terminal = child.take_pty();
    /// assert!(terminal.is_some() && child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
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

/// A descriptor on its way.
#[derive(Debug)]
pub(super) enum Handed {
    Own(OwnedFd),
    Shared(Arc<OwnedFd>),
}

impl Handed {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Shared(fd) => fd.as_fd(),
        }
    }
}

/// The program's descriptors, and the host's ends of them.
#[derive(Debug, Default)]
pub(super) struct Wiring {
    pub(super) table: Packed,
    targets: Vec<u32>,
    pub(super) fds: Vec<Handed>,
    pub(super) pipes: Pipes,
    pub(super) flags: u32,
    /// Which of `fds` is the terminal's slave; `u32::MAX` where the agent will open it.
    terminal: Option<u32>,
    null: Option<u32>,
    // Of the cgroup, which the program does not see.
    pub(super) enter: Packed,
    pub(super) into: Option<u32>,
    pub(super) procs: Option<u32>,
    pub(super) oom: Option<u32>,
    pub(super) oom_count: Option<u32>,
    pub(super) cpu: Option<u32>,
    pub(super) kill: Option<u32>,
    pub(super) record: Option<u32>,
    pub(super) freezer: Option<u32>,
    pub(super) members: Option<u32>,
    /// Of a closure.
    pub(super) empty: Option<u32>,
    pub(super) door: Option<u32>,
    pub(super) notices: Option<u32>,
    /// The host's end of that.
    pub(super) hears: Option<OwnedFd>,
}

impl Wiring {
    fn add(&mut self, target: u32, fd: Handed) -> u32 {
        let place = self.place(fd);
        self.refer(target, place);
        place
    }

    /// For the stage only.
    pub(super) fn hand(&mut self, fd: impl Into<OwnedFd>) -> u32 {
        self.place(Handed::Own(fd.into()))
    }

    /// The program's socket comes before all others.
    fn place(&mut self, fd: Handed) -> u32 {
        self.fds.push(fd);
        u32::try_from(self.fds.len()).unwrap_or(u32::MAX)
    }

    /// What a process has whatever its program is: its cgroup, and where the agent counts what is refused and tells of what
    /// the host is to answer.
    pub(super) fn belongings(&mut self, prepared: &Prepared, cgroup: Option<&Cgroup>) -> Result<Option<File>, Error> {
        if let Some(cgroup) = cgroup {
            self.cgroup(cgroup)?;
        }
        if prepared.inner.asks_host {
            let (ours, theirs) = launch::news(prepared)?;
            // What every host allows (net.core.wmem_max), of which the kernel makes twice that; else there is half as much room.
            let _ = set_socket_send_buffer_size(&theirs, 212_992);
            self.notices = Some(self.hand(theirs));
            self.hears = Some(ours);
        }
        if !prepared.inner.records {
            return Ok(None);
        }
        let record = launch::scratch(c"stockade-denials", plan::RECORDED_CALLS as u64 * 8)?;
        self.record = Some(self.hand(record.try_clone().map_err(Error::host("hand over a descriptor"))?));
        Ok(Some(record))
    }

    /// The host's ends, of a program that runs.
    pub(super) fn complete(mut self, running: &Running) -> Result<Pipes, Error> {
        // The other ends are others' now.
        self.fds.clear();
        if let Some(socket) = self.hears.take() {
            self.pipes.notifications = Some(Notifications::meet(socket, &running.live)?);
        }
        Ok(self.pipes)
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
        self.freezer = handles.freezer.map(|file| self.hand(file));
        self.members = handles.members.map(|file| self.hand(file));
        self.oom_count = handles.oom_count.map(|file| self.hand(file));
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

    pub(super) fn stream(&mut self, number: u32, stdio: &Stdio, terminal_inside: bool) -> Result<(), Error> {
        self.stream_of(number, &stdio.kind, terminal_inside)
    }

    fn stream_of(&mut self, number: u32, kind: &Kind, terminal_inside: bool) -> Result<(), Error> {
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
                Err(rustix::io::Errno::BADF) => self.stream_of(number, &Kind::Null, terminal_inside)?,
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

    pub(super) fn extra(&mut self, target: u32, fd: &Arc<OwnedFd>) -> Result<(), Error> {
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
