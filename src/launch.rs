//! The host's side of a launch: it starts the stage, hands it the plan, and hears from it and from the agent.

mod agent;
mod birth;
mod explain;
mod image;
mod packet;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, shutdown, sockopt};
use rustix::process::Pid;

use crate::error::Error;
use crate::plan::{self, Failure, Wire as _, decode, message};
use crate::prepare::{Packed, Prepared};

use agent::reap_detached;
use birth::{Birth, Entrance, hand_over_launch};
use explain::{Trouble, gone};

pub(crate) use agent::{Agent, leave, pid_of};
#[cfg(feature = "closures")]
pub(crate) use image::above_streams;
pub(crate) use image::{Image, Sealed, empty_file, scratch};
pub(crate) use packet::{Packet, door, receive, send, wait_for};

/// The way to an open file, whatever it is.
pub(crate) fn descriptor_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// A live environment, held by its agent. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Live {
    control: OwnedFd,
    pub(crate) agent: Agent,
    pub(crate) prepared: Prepared,
    /// The messages of one launch stay together.
    turn: Mutex<()>,
    /// It goes on without this.
    detached: AtomicBool,
}

impl Live {
    /// Tells the agent to end it, and all that runs in it.
    pub(crate) fn hang_up(&self) {
        let _ = shutdown(&self.control, Shutdown::Both);
    }

    /// Ends it and all that runs in it, and waits for that.
    pub(crate) fn end(&self) {
        self.hang_up();
        self.agent.end();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.agent.reaped.load(Ordering::Acquire) || matches!(self.wait(Some(Instant::now())), Ok(true))
    }

    /// Waits until the agent has ended: whether it has by then.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Result<bool, Error> {
        Ok(wait_for([self.agent.pidfd.as_fd()], deadline)?.is_some())
    }

    /// The agent's number as the host sees it, while it lives.
    pub(crate) fn agent_pid(&self) -> Option<u32> {
        pid_of(&self.agent.pidfd)
    }

    /// The agent's pidfd, to be kept for itself.
    pub(crate) fn agent_fd(&self) -> io::Result<OwnedFd> {
        self.agent.pidfd.try_clone()
    }

    pub(crate) fn tell(&self, number: u32, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        send(&self.control, number, &[], fds)
    }

    /// Its network namespace, and the user namespace of its agent.
    pub(crate) fn namespaces(&self) -> Result<[OwnedFd; 2], Error> {
        let (ours, theirs) = door()?;
        self.tell(message::NAMESPACES, &[theirs.as_fd()])?;
        drop(theirs);
        let deadline = Instant::now().checked_add(self.prepared.inner.setup_timeout);
        wait_for([ours.as_fd()], deadline)?;
        let packet = receive(&ours)?;
        packet.and_then(|packet| packet.fds.try_into().ok()).ok_or_else(|| gone("it does not know its namespaces"))
    }

    /// It goes on, for as long as the host process lives.
    pub(crate) fn detach(&self) -> Result<(), Error> {
        self.tell(message::DETACH, &[])?;
        leave(self.agent.pidfd.try_clone());
        self.detached.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.detached.load(Ordering::Relaxed) {
            self.end();
        }
    }
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) live: Arc<Live>,
    /// Where its agent tells how it goes, and is told what to do with it.
    pub(crate) socket: OwnedFd,
    /// The program's pidfd.
    pub(crate) program: OwnedFd,
    /// Its number as the host sees it.
    pub(crate) pid: u32,
    /// The master of the terminal that the agent has opened.
    pub(crate) terminal: Option<OwnedFd>,
    /// The agent's last word, where the program ended before all of the launch was heard.
    pub(crate) last: Option<Packet>,
    pub(crate) started: Instant,
}

/// What to run, in the plan's form, and its descriptors.
pub(crate) struct Request<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) fds: &'a [BorrowedFd<'a>],
    /// As it was given, for the error.
    pub(crate) program: &'a OsStr,
}

/// What starts the stage with the socket that it is given: a fork of the host, or of its zygote, which goes on to be a
/// closure.
pub(crate) type Origin<'a> = dyn Fn(OwnedFd, Option<Instant>) -> Result<Started, Error> + 'a;

/// A stage that was started: a child of the host.
pub(crate) struct Started {
    pub(crate) pid: Pid,
    /// If it came along.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// An environment under way, which ends with this unless it comes to stand.
pub(crate) struct Begun<'a> {
    prepared: &'a Prepared,
    deadline: Option<Instant>,
    birth: Option<Birth>,
}

/// Begins to make an environment: its stage makes the namespaces while the caller sees to what the program needs. `joins`
/// are the namespaces to join in place of the policy's, and `origin` is what there is in place of a program.
pub(crate) fn begin<'a>(
    prepared: &'a Prepared,
    joins: Option<&[BorrowedFd<'_>]>,
    origin: Option<&Origin<'_>>,
) -> Result<Begun<'a>, Error> {
    Begun::new(prepared, joins, origin, true)
}

impl<'a> Begun<'a> {
    fn new(
        prepared: &'a Prepared,
        joins: Option<&[BorrowedFd<'_>]>,
        origin: Option<&Origin<'_>>,
        for_program: bool,
    ) -> Result<Self, Error> {
        reap_detached();
        let deadline = Instant::now().checked_add(prepared.inner.setup_timeout);
        let birth = Birth::begin(prepared, joins, origin.map(|origin| (origin, deadline)), for_program)?;
        Ok(Self { prepared, deadline, birth: Some(birth) })
    }

    /// Starts the one program that it is for. What the caller has done meanwhile does not count.
    pub(crate) fn run(mut self, request: &Request<'_>) -> Result<Running, Error> {
        self.deadline = Instant::now().checked_add(self.prepared.inner.setup_timeout);
        let (mut entrance, theirs) = Entrance::new(self.prepared)?;
        let live = self.stand(Some((request, theirs)), Some(&mut entrance))?;
        entrance.complete(Arc::new(live))
    }

    fn stand(
        &mut self,
        first: Option<(&Request<'_>, OwnedFd)>,
        entrance: Option<&mut Entrance>,
    ) -> Result<Live, Error> {
        let Some(mut birth) = self.birth.take() else { return Err(gone("it never came")) };
        let request = first.as_ref().map(|(request, _)| *request);
        match birth.attend(self.prepared, first, entrance, self.deadline) {
            Ok(()) => birth.complete(self.prepared),
            Err(trouble) => {
                birth.abort(matches!(trouble, Trouble::TimedOut));
                Err(trouble.into_error(self.prepared, request))
            }
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(birth) = self.birth.take() {
            // It was told of no program, so that there is nothing that it would have to end.
            birth.abort(true);
        }
    }
}

/// Makes an environment for programs to come.
pub(crate) fn start(prepared: &Prepared) -> Result<Live, Error> {
    Begun::new(prepared, None, None, false)?.stand(None, None)
}

/// A process that waits for its program, in an environment of its own.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) live: Arc<Live>,
    socket: OwnedFd,
    door: OwnedFd,
    program: OwnedFd,
    pid: u32,
}

impl Parked {
    /// It will never run anything.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(wait_for([self.program.as_fd(), self.live.agent.pidfd.as_fd()], Some(Instant::now())), Ok(None))
    }

    /// Gives it its program, and returns when that has been executed.
    pub(crate) fn run(self, request: &Request<'_>) -> Result<Running, Error> {
        let prepared = self.live.prepared.clone();
        hand_over_launch(&self.door, request, None)?;
        let deadline = Instant::now().checked_add(prepared.inner.setup_timeout);
        // The door closes with the exec, or with the process, which says why first.
        let ready = wait_for([self.door.as_fd()], deadline);
        let trouble = match ready {
            Ok(None) => Some(Trouble::TimedOut),
            Err(error) => Some(error.into()),
            Ok(Some(_)) => match receive_failure(&self.door) {
                Ok(failure) => failure.map(Trouble::Failed),
                Err(error) => Some(error.into()),
            },
        };
        match trouble {
            Some(trouble) => {
                let error = trouble.into_error(&prepared, Some(request));
                self.live.end();
                Err(error)
            }
            None => Ok(Running {
                live: self.live,
                socket: self.socket,
                program: self.program,
                pid: self.pid,
                terminal: None,
                last: None,
                started: Instant::now(),
            }),
        }
    }
}

/// What a process says before it ends; nothing if it has become the program.
fn receive_failure(door: &OwnedFd) -> Result<Option<Failure>, Error> {
    let mut buffer = [0; 16];
    let (len, _) = match rustix::net::recv(door, &mut buffer[..], RecvFlags::DONTWAIT) {
        // It ended with its program unread.
        Err(Errno::CONNRESET) => return Err(gone("it was killed before its program came")),
        received => received.map_err(Error::host("hear from the sandbox"))?,
    };
    Ok(buffer.get(..len).and_then(|record| decode(record).ok()))
}

/// The two ends of a socket, by which the agent may name processes to the host.
pub(crate) fn news(prepared: &Prepared) -> Result<(OwnedFd, OwnedFd), Error> {
    let (ours, theirs) = door()?;
    if !prepared.inner.joined_pid_ns {
        // The kernel translates their numbers for us.
        sockopt::set_socket_passcred(&ours, true).map_err(Error::host("set up the control socket"))?;
    }
    Ok((ours, theirs))
}

/// Makes of an environment one in which a process waits for its program at a door, whose other end is given.
pub(crate) fn park(begun: Begun<'_>, request: &Request<'_>, door: OwnedFd) -> Result<Parked, Error> {
    let Running { live, socket, program, pid, .. } = begun.run(request)?;
    Ok(Parked { live, socket, door, program, pid })
}

/// Starts a program in a live environment.
pub(crate) fn enter(live: &Arc<Live>, request: &Request<'_>) -> Result<Running, Error> {
    let prepared = &live.prepared;
    let (mut entrance, theirs) = Entrance::new(prepared)?;
    {
        let _turn = live.turn.lock().unwrap_or_else(PoisonError::into_inner);
        hand_over_launch(&live.control, request, Some(&theirs))?;
    }
    drop(theirs);
    let deadline = Instant::now().checked_add(prepared.inner.setup_timeout);
    // If it fails the end of the socket tells the agent to end what there is of it.
    let attended = entrance.attend(&live.agent, deadline);
    match attended {
        Ok(()) => entrance.complete(live.clone()),
        Err(trouble) => {
            // Why the agent has ended it says to all.
            let why = match (&trouble, receive(&live.control)) {
                (Trouble::Error(Error::AgentLost { .. }), Ok(Some(packet))) if packet.number == message::FAILED => {
                    decode::<Failure>(&packet.body).ok()
                }
                _ => None,
            };
            Err(why.map_or(trouble, Trouble::Failed).into_error(prepared, Some(request)))
        }
    }
}

/// Makes the whole environment, goes through all that a program would, and ends it: there is nothing to execute.
pub(crate) fn stand(prepared: &Prepared) -> Result<(), Error> {
    let none = Packed::default();
    let mut bytes = vec![];
    plan::Launch {
        flags: plan::launch::LAST,
        wall_limit: 0,
        cpu_limit: 0,
        cpus: 1,
        enter: none.list(),
        into: u32::MAX,
        procs: u32::MAX,
        oom: u32::MAX,
        oom_count: u32::MAX,
        cpu: u32::MAX,
        kill: u32::MAX,
        record: u32::MAX,
        freezer: u32::MAX,
        members: u32::MAX,
        empty: u32::MAX,
        door: u32::MAX,
        notices: u32::MAX,
        descriptors: none.list(),
        directory: c"",
        candidates: none.list(),
        arguments: none.list(),
        environment: none.list(),
    }
    .encode(&mut bytes);
    match begin(prepared, None, None)?.run(&Request { bytes: &bytes, fds: &[], program: OsStr::new("") }) {
        Err(Error::Exec { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}
