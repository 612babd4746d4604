//! An environment under way, and the program on its way into it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use super::agent::{Agent, how_it_ended, look_at, pid_of, reap, reap_orphan};
use super::explain::{Trouble, gone, map_error, missing_call};
use super::packet::{Packet, count, door, hand_over, receive, receive_raw, send, wait_for};
use super::{Live, Origin, Request, Running, Sealed, Started, news};
use crate::error::Error;
use crate::mount::{Source, device_number};
use crate::plan::{self, Failure, Hello, Sink as _, Start, Step, Wire as _, decode, message};
use crate::prepare::Prepared;
use crate::support;

/// A program on its way in.
pub(super) struct Entrance {
    socket: OwnedFd,
    program: Option<OwnedFd>,
    pid: u32,
    terminal: Option<OwnedFd>,
    last: Option<Packet>,
    /// The agent has let go of its end: nothing will come any more.
    over: bool,
}

impl Entrance {
    /// And the agent's end of its socket.
    pub(super) fn new(prepared: &Prepared) -> Result<(Self, OwnedFd), Error> {
        let (socket, theirs) = news(prepared)?;
        Ok((Self { socket, program: None, pid: 0, terminal: None, last: None, over: false }, theirs))
    }

    /// Hears what comes until the program runs.
    pub(super) fn attend(&mut self, agent: &Agent, deadline: Option<Instant>) -> Result<(), Trouble> {
        while self.program.is_none() {
            let fds = [self.socket.as_fd(), agent.pidfd.as_fd()];
            let [_, ended] = wait_for(fds, deadline)?.ok_or(Trouble::TimedOut)?;
            if self.hear()? {
                continue;
            }
            // It may be just about to end.
            let soon = Instant::now() + Duration::from_millis(200);
            if ended || (self.over && wait_for([agent.pidfd.as_fd()], Some(soon))?.is_some()) {
                return Err(gone("the sandbox has ended").into());
            }
            if self.over {
                return Err(gone("it could not take the launch: it has no room for more descriptors").into());
            }
        }
        Ok(())
    }

    /// Takes one packet, if there is one.
    fn hear(&mut self) -> Result<bool, Trouble> {
        let Some(mut packet) = receive(&self.socket)? else { return Ok(false) };
        let truncated = packet.truncated;
        match packet.number {
            message::STARTED | message::PARKED => {
                let number = decode::<u32>(&packet.body).unwrap_or(0);
                self.terminal = if packet.fds.len() > 1 { packet.fds.pop() } else { None };
                self.program = packet.fds.pop();
                // The kernel's translation, or, if the sandbox is in a PID namespace that the host cannot see into, nothing.
                let translated = || packet.sender.or_else(|| pid_of(self.program.as_ref()?)).unwrap_or(0);
                self.pid = match number {
                    plan::NO_NUMBER => 0,
                    0 => translated(),
                    number => number,
                };
            }
            message::FAILED => {
                let failure = decode::<Failure>(&packet.body);
                return Err(failure.map_or_else(|_| gone("the agent makes no sense").into(), Trouble::Failed));
            }
            message::EXITED => self.last = Some(packet),
            message::EOF => {
                self.over = true;
                return Ok(false);
            }
            _ => {}
        }
        if truncated {
            return Err(Error::host("receive descriptors")(Errno::MFILE).into());
        }
        Ok(true)
    }

    pub(super) fn complete(self, live: Arc<Live>) -> Result<Running, Error> {
        let Some(program) = self.program else { return Err(gone("the program never came")) };
        Ok(Running {
            live,
            socket: self.socket,
            program,
            pid: self.pid,
            terminal: self.terminal,
            last: self.last,
            started: Instant::now(),
        })
    }
}

/// An environment under way.
pub(super) struct Birth {
    control: OwnedFd,
    stage: Stage,
    agent: Option<Agent>,
    /// The agent, a child of the host, if its pidfd could not be received.
    orphan: Option<Pid>,
    /// The stage reads nothing but the answer that it has asked for, until it has that.
    asks: bool,
    ready: bool,
}

impl Birth {
    /// Hands over the plan, and starts the stage. A launch follows, if it is for a program.
    pub(super) fn begin(
        prepared: &Prepared,
        joins: Option<&[BorrowedFd<'_>]>,
        origin: Option<(&Origin<'_>, Option<Instant>)>,
        for_program: bool,
    ) -> Result<Self, Error> {
        let inner = &prepared.inner;
        let host = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|errno| missing_call("pidfd_open(2)", Step::Stage, errno))?;
        let (control, theirs) = door()?;
        let mut fds = vec![inner.plan.as_fd(), host.as_fd()];
        match joins {
            Some(joins) => fds.extend_from_slice(joins),
            None => fds.extend(inner.joins.iter().map(|join| join.as_fd())),
        }
        let fds_in_all = count(fds.len() + inner.trees.len());
        let hello = Hello { plan_len: inner.plan.len(), fds: fds_in_all, launch: for_program.into() };
        let mut body = vec![];
        hello.encode(&mut body);
        hand_over(&control, message::HELLO, &body, &fds)?;
        let number = message::DESCRIPTORS;
        for sources in inner.trees.chunks(plan::FDS_PER_MESSAGE as usize) {
            let opened = sources.iter().map(open_tree).collect::<Result<Vec<_>, _>>()?;
            let borrowed: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
            hand_over(&control, number, &[], &borrowed)?;
        }
        let stage = match origin {
            Some((origin, deadline)) => Stage::new(origin(theirs, deadline)?),
            None => Stage::spawn(inner.image.path()?, theirs)?,
        };
        let asks = inner.ids.flags & plan::flag::MAP_HOST != 0;
        Ok(Self { control, stage, agent: None, orphan: None, asks, ready: false })
    }

    /// Hands over what is to be launched first of all, with the agent's end of its socket, once it will be read.
    fn hand_over_first(&self, first: &mut Option<(&Request<'_>, OwnedFd)>) -> Result<(), Error> {
        match first.take_if(|_| !self.asks) {
            Some((request, socket)) => hand_over_launch(&self.control, request, Some(&socket)),
            None => Ok(()),
        }
    }

    /// Hears what comes until the environment stands, and the program runs if there is one.
    pub(super) fn attend(
        &mut self,
        prepared: &Prepared,
        mut first: Option<(&Request<'_>, OwnedFd)>,
        mut entrance: Option<&mut Entrance>,
        deadline: Option<Instant>,
    ) -> Result<(), Trouble> {
        if let Some(errno) = self.stage.trouble {
            return Err(Error::host("watch the stage")(errno).into());
        }
        loop {
            self.hand_over_first(&mut first)?;
            let stands = match &entrance {
                Some(entrance) => entrance.program.is_some(),
                None => self.ready,
            };
            if stands && self.agent.is_some() {
                return Ok(());
            }
            let watched = self.agent.as_ref().map(|agent| &agent.pidfd).or(self.stage.pidfd.as_ref());
            let watched = watched.unwrap_or(&self.control).as_fd();
            // A fast program may have ended before the stage has told of the agent.
            let open = entrance.as_ref().filter(|entrance| !entrance.over);
            let socket = open.map_or(self.control.as_fd(), |entrance| entrance.socket.as_fd());
            let ready = wait_for([self.control.as_fd(), socket, watched], deadline)?;
            let [control, socket, ended] = ready.ok_or(Trouble::TimedOut)?;
            // What the set-up has to say comes first.
            let mut heard = control && self.hear(prepared)?;
            if let (true, Some(entrance)) = (socket && !heard, &mut entrance) {
                heard = entrance.hear()?;
            }
            // The stage's end is the normal thing once the agent is known; anything else is not. Nor is it that the agent
            // lets go of the launch.
            let over = entrance.as_ref().is_some_and(|entrance| entrance.over && entrance.program.is_none());
            if !heard && (ended || over) && !self.hear(prepared)? {
                let last = entrance.as_mut().map(|entrance| entrance.hear()).transpose()?;
                if last != Some(true) {
                    return Err(self.lost().into());
                }
            }
        }
    }

    /// Takes one packet, if there is one.
    fn hear(&mut self, prepared: &Prepared) -> Result<bool, Trouble> {
        let Some(mut packet) = receive(&self.control)? else { return Ok(false) };
        match packet.number {
            message::MAP => {
                prepared
                    .inner
                    .ids
                    .write(self.stage.pid.as_raw_nonzero().get().unsigned_abs())
                    .map_err(|error| map_error(prepared, error))?;
                send(&self.control, message::MAPPED, &[], &[])?;
                self.asks = false;
            }
            message::AGENT => self.meet_agent(&mut packet),
            message::READY => self.ready = true,
            message::FAILED => {
                let failure = decode::<Failure>(&packet.body);
                return Err(failure.map_or_else(|_| self.lost().into(), Trouble::Failed));
            }
            message::EOF => return Ok(false),
            _ => {}
        }
        if packet.truncated {
            return Err(Error::host("receive descriptors")(Errno::MFILE).into());
        }
        Ok(true)
    }

    fn meet_agent(&mut self, packet: &mut Packet) {
        self.agent = packet.fds.pop().map(|pidfd| Agent { pidfd, reaped: AtomicBool::new(false) });
        if self.agent.is_none() {
            let pid = decode::<u32>(&packet.body).ok().and_then(|pid| i32::try_from(pid).ok());
            self.orphan = pid.and_then(Pid::from_raw);
        }
    }

    fn lost(&self) -> Error {
        let (who, pidfd) = match &self.agent {
            Some(agent) => ("the agent", Some(&agent.pidfd)),
            None => ("the stage", self.stage.pidfd.as_ref()),
        };
        // It may be just about to end.
        let soon = Instant::now() + Duration::from_millis(200);
        let _ = pidfd.map(|pidfd| wait_for([pidfd.as_fd()], Some(soon)));
        let how = pidfd.map_or_else(|| "ended".into(), how_it_ended);
        gone(&format!("{who} {how} while the sandbox was set up"))
    }

    pub(super) fn complete(mut self, prepared: &Prepared) -> Result<Live, Error> {
        self.stage.reap();
        let Some(agent) = self.agent else { return Err(gone("it never came")) };
        Ok(Live {
            control: self.control,
            agent,
            prepared: prepared.clone(),
            turn: Mutex::new(()),
            detached: AtomicBool::new(false),
        })
    }

    /// Ends what there is. The agent ends everything else when its socket does.
    pub(super) fn abort(mut self, stuck: bool) {
        // They read our end; what they still have to say can be heard.
        let _ = shutdown(&self.control, Shutdown::Write);
        if let Some(stage) = &self.stage.pidfd {
            let _ = wait_for([stage.as_fd()], Some(Instant::now() + Duration::from_millis(500)));
            let _ = pidfd_send_signal(stage, Signal::KILL);
        }
        self.stage.reap();
        // Its pidfd may have come last, behind what made us give up.
        while let (None, None, Ok(Some(mut packet))) = (&self.agent, self.orphan, receive_raw(&self.control)) {
            match packet.number {
                message::AGENT => self.meet_agent(&mut packet),
                message::EOF => break,
                _ => {}
            }
        }
        if let Some(agent) = &self.agent {
            if stuck {
                // It had its time. Whatever it has forked ends with it.
                let _ = pidfd_send_signal(&agent.pidfd, Signal::KILL);
            }
            agent.end();
        } else if let Some(pid) = self.orphan {
            reap_orphan(WaitId::Pid(pid));
        } else {
            // The stage may have been killed when it had forked the agent, and before it said so. It had a group of its own.
            reap_orphan(WaitId::Pgid(Some(self.stage.pid)));
        }
    }
}

/// The stage's process, S.
struct Stage {
    pid: Pid,
    /// None where the host reaps by itself, or ignores SIGCHLD, and it has ended already.
    pidfd: Option<OwnedFd>,
    /// It could not be watched; it may have forked the agent all the same.
    trouble: Option<Errno>,
}

impl Stage {
    fn spawn(path: PathBuf, socket: OwnedFd) -> Result<Self, Error> {
        let mut command = Command::new(path);
        // Whatever it inherits as 1 and 2 it closes first of all.
        command.arg0("stockade").env_clear().stdin(socket).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let mut tries = 0..50;
        let child = loop {
            match command.spawn() {
                // A fork elsewhere in this process still holds the writing end of the image.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries.next().is_some() => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => break result.map_err(support::diagnose_start)?,
            }
        };
        Ok(Self::new(Started { pid: Pid::from_child(&child), pidfd: None }))
    }

    fn new(started: Started) -> Self {
        let Started { pid, pidfd } = started;
        if pidfd.is_some() {
            return Self { pid, pidfd, trouble: None };
        }
        let (pidfd, trouble) = match pidfd_open(pid, PidfdFlags::empty()) {
            // Not our child: its number was another's in no time.
            Ok(pidfd) if matches!(look_at(&pidfd), Err(Errno::CHILD)) => (None, None),
            Ok(pidfd) => (Some(pidfd), None),
            // It has ended and been reaped, or is just being.
            Err(Errno::SRCH | Errno::INVAL) => (None, None),
            Err(errno) => (None, Some(errno)),
        };
        Self { pid, pidfd, trouble }
    }

    /// It has ended, or is just about to.
    fn reap(&mut self) {
        match &self.pidfd {
            Some(pidfd) => reap(pidfd),
            // Not yet reaped by anybody: it could not be watched.
            None if self.trouble.is_some() => {
                while matches!(waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED), Err(Errno::INTR)) {}
            }
            None => {}
        }
    }
}

/// Sends a launch: the program's socket, what to run, its descriptors.
/// A parked process has its socket already.
pub(super) fn hand_over_launch(
    control: &OwnedFd,
    request: &Request<'_>,
    socket: Option<&OwnedFd>,
) -> Result<(), Error> {
    let mut fds: Vec<_> = socket.map(AsFd::as_fd).into_iter().chain(request.fds.iter().copied()).collect();
    let mut body = vec![];
    let file = if request.bytes.len() <= plan::INLINE {
        Start { file_len: 0, fds: count(fds.len()) }.encode(&mut body);
        body.put(request.bytes);
        None
    } else {
        let file = Sealed::new(c"stockade-launch", request.bytes)?;
        Start { file_len: file.len(), fds: count(fds.len() + 1) }.encode(&mut body);
        Some(file)
    };
    fds.extend(file.as_ref().map(AsFd::as_fd));
    hand_over(control, message::LAUNCH, &body, &fds)
}

/// A copy of what is mounted at a source, as it was when it was checked.
fn open_tree(source: &Source) -> Result<OwnedFd, Error> {
    use rustix::mount::OpenTreeFlags;
    let failed = |error: io::Error| Error::Source { path: source.path.clone(), source: error };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, &source.path, flags).map_err(|errno| match errno {
        Errno::NOSYS | Errno::PERM => missing_call("open_tree(2)", Step::MountSource, errno),
        // That is no fault of the source's.
        Errno::MFILE | Errno::NFILE => Error::host("open a source")(errno),
        errno => failed(errno.into()),
    })?;
    let stat = rustix::fs::fstat(&tree).map_err(|errno| failed(errno.into()))?;
    if (device_number(stat.st_dev), stat.st_ino) == (source.device, source.inode) {
        Ok(tree)
    } else {
        Err(failed(Errno::STALE.into()))
    }
}
