//! The host's side of a launch: it starts the stage, hands it the plan, and hears from it and from the agent.

mod image;

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};

use crate::error::Error;
use crate::idmap::Writer;
use crate::mount::{Source, device_number};
use crate::ns::Namespaces;
use crate::plan::{self, Failure, Hello, Sink as _, Step, Wire as _, decode, message};
use crate::prepare::{Packed, Prepared};
use crate::sandbox::Sandbox;
use crate::support::{self, Layer, NAMESPACES, Symptom};

pub(crate) use image::{Image, Sealed};

/// How long an end may take before it is helped along.
const END: Duration = Duration::from_secs(10);

/// The way to an open file, whatever it is.
pub(crate) fn descriptor_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) control: OwnedFd,
    pub(crate) agent: Agent,
    /// The program's pidfd.
    pub(crate) program: OwnedFd,
    /// Its number as the host sees it.
    pub(crate) pid: u32,
    /// The master of the terminal that the agent has opened.
    pub(crate) terminal: Option<OwnedFd>,
    /// The agent's last word, where the program ended before the stage had introduced the agent.
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

/// Starts a program.
pub(crate) fn launch(prepared: &Prepared, request: &Request<'_>) -> Result<Running, Error> {
    reap_detached();
    let limit = prepared.inner.setup_timeout;
    let mut birth = Birth::begin(prepared, request)?;
    let running = birth.attend(prepared, Instant::now().checked_add(limit));
    match running {
        Ok(()) => birth.complete(),
        Err(trouble) => {
            birth.abort(matches!(trouble, Trouble::TimedOut));
            Err(match trouble {
                Trouble::Error(error) => error,
                Trouble::TimedOut => Error::TimedOut { limit },
                Trouble::Failed(failure) => explain(prepared, request.program, failure),
            })
        }
    }
}

/// Makes the whole environment, goes through all that a program would, and ends it: there is nothing to execute.
pub(crate) fn stand(prepared: &Prepared) -> Result<(), Error> {
    let none = Packed::default();
    let mut bytes = vec![];
    plan::Launch {
        flags: 0,
        wall_limit: 0,
        cpu_limit: 0,
        cpus: 1,
        enter: none.list(),
        into: u32::MAX,
        procs: u32::MAX,
        oom: u32::MAX,
        cpu: u32::MAX,
        kill: u32::MAX,
        descriptors: none.list(),
        directory: c"",
        candidates: none.list(),
        arguments: none.list(),
        environment: none.list(),
    }
    .encode(&mut bytes);
    match launch(prepared, &Request { bytes: &bytes, fds: &[], program: OsStr::new("") }) {
        Err(Error::Exec { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// A launch under way.
struct Birth {
    control: OwnedFd,
    stage: Stage,
    agent: Option<Agent>,
    /// The agent, a child of the host, if its pidfd could not be received.
    orphan: Option<Pid>,
    program: Option<OwnedFd>,
    pid: u32,
    terminal: Option<OwnedFd>,
    last: Option<Packet>,
}

enum Trouble {
    Error(Error),
    Failed(Failure),
    TimedOut,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Birth {
    fn begin(prepared: &Prepared, request: &Request<'_>) -> Result<Self, Error> {
        let inner = &prepared.inner;
        let host = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|errno| missing_call("pidfd_open(2)", errno))?;
        let launch = Sealed::new(c"stockade-launch", request.bytes)?;
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::host("make a control socket"))?;
        if !inner.joined_pid_ns {
            // The kernel translates the program's pid for us.
            sockopt::set_socket_passcred(&control, true).map_err(Error::host("set up the control socket"))?;
        }
        let mut fds = vec![inner.plan.as_fd(), host.as_fd(), launch.as_fd()];
        fds.extend_from_slice(request.fds);
        fds.extend(inner.joins.iter().map(|join| join.as_fd()));
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let hello = Hello {
            plan_len: inner.plan.len(),
            launch_len: launch.len(),
            launch_fds: count(request.fds.len()),
            fds: count(fds.len() + inner.trees.len()),
        };
        hand_over(&control, &hello, &fds, &inner.trees)?;
        let stage = Stage::spawn(inner.image.path()?, theirs)?;
        Ok(Self { control, stage, agent: None, orphan: None, program: None, pid: 0, terminal: None, last: None })
    }

    /// Hears what comes until the program runs.
    fn attend(&mut self, prepared: &Prepared, deadline: Option<Instant>) -> Result<(), Trouble> {
        if let Some(errno) = self.stage.trouble {
            return Err(Error::host("watch the stage")(errno).into());
        }
        while self.program.is_none() || self.agent.is_none() {
            let watched = self.agent.as_ref().map(|agent| &agent.pidfd).or(self.stage.pidfd.as_ref());
            let fds = [self.control.as_fd(), watched.unwrap_or(&self.control).as_fd()];
            let [_, ended] = wait_for(fds, deadline)?.ok_or(Trouble::TimedOut)?;
            match receive(&self.control)? {
                Some(packet) => self.hear(prepared, packet)?,
                // The stage's end is the normal thing once the agent is known; anything else is not.
                None if ended => match receive(&self.control)? {
                    Some(packet) => self.hear(prepared, packet)?,
                    None => return Err(self.lost().into()),
                },
                None => {}
            }
        }
        Ok(())
    }

    fn hear(&mut self, prepared: &Prepared, mut packet: Packet) -> Result<(), Trouble> {
        let truncated = packet.truncated;
        match packet.number {
            message::MAP => {
                prepared.inner.ids.write(self.stage.child.id()).map_err(|error| map_error(prepared, error))?;
                send(&self.control, message::MAPPED, &[], &[])?;
            }
            message::AGENT => self.meet_agent(&mut packet),
            message::READY => {}
            message::STARTED => {
                let number = decode::<u32>(&packet.body).unwrap_or(0);
                self.terminal = if packet.fds.len() > 1 { packet.fds.pop() } else { None };
                self.program = packet.fds.pop();
                self.pid = if number != 0 { number } else { self.program_pid(packet.sender) };
            }
            message::FAILED => {
                let failure = decode::<Failure>(&packet.body);
                return Err(failure.map_or_else(|_| self.lost().into(), Trouble::Failed));
            }
            message::EXITED => self.last = Some(packet),
            message::EOF => return Err(self.lost().into()),
            _ => {}
        }
        if truncated {
            return Err(Error::host("receive descriptors")(Errno::MFILE).into());
        }
        Ok(())
    }

    fn meet_agent(&mut self, packet: &mut Packet) {
        self.agent = packet.fds.pop().map(|pidfd| Agent { pidfd });
        if self.agent.is_none() {
            let pid = decode::<u32>(&packet.body).ok().and_then(|pid| i32::try_from(pid).ok());
            self.orphan = pid.and_then(Pid::from_raw);
        }
    }

    /// The kernel's translation, or, if the sandbox is in a PID namespace that the host cannot see into, nothing.
    fn program_pid(&self, sender: Option<u32>) -> u32 {
        sender.or_else(|| pid_of(self.program.as_ref()?)).unwrap_or(0)
    }

    fn lost(&self) -> Error {
        let (who, pidfd) = match &self.agent {
            Some(agent) => ("the agent", Some(&agent.pidfd)),
            None => ("the stage", self.stage.pidfd.as_ref()),
        };
        let how = pidfd.map_or_else(|| "ended".into(), how_it_ended);
        Error::AgentLost { reason: format!("{who} {how} while the sandbox was set up") }
    }

    fn complete(mut self) -> Result<Running, Error> {
        self.stage.reap();
        match (self.agent, self.program) {
            (Some(agent), Some(program)) => Ok(Running {
                control: self.control,
                agent,
                program,
                pid: self.pid,
                terminal: self.terminal,
                last: self.last,
                started: Instant::now(),
            }),
            _ => Err(Error::AgentLost { reason: "it never came".into() }),
        }
    }

    /// Ends what there is. The agent ends everything else when its socket does.
    fn abort(mut self, stuck: bool) {
        // They read our end; what they still have to say can be heard.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Write);
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
            reap_orphan(pid);
        }
    }
}

/// The stage's process, S.
struct Stage {
    child: std::process::Child,
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
        let (pidfd, trouble) = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            // Not our child: its number was another's in no time.
            Ok(pidfd) if matches!(look_at(&pidfd), Err(Errno::CHILD)) => (None, None),
            Ok(pidfd) => (Some(pidfd), None),
            // It has ended and been reaped, or is just being.
            Err(Errno::SRCH | Errno::INVAL) => (None, None),
            Err(errno) => (None, Some(errno)),
        };
        Ok(Self { child, pidfd, trouble })
    }

    /// It has ended, or is just about to.
    fn reap(&mut self) {
        match &self.pidfd {
            Some(pidfd) => reap(pidfd),
            // Not yet reaped by anybody: it could not be watched.
            None if self.trouble.is_some() => drop(self.child.wait()),
            None => {}
        }
    }
}

/// The agent's process, A, a child of the host.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) pidfd: OwnedFd,
}

impl Agent {
    /// Waits until it has ended and reaps it; helps along if that takes long. With it, everything in its PID namespace ends.
    pub(crate) fn end(&self) {
        // A payload of the same user may have stopped a guardian.
        let _ = pidfd_send_signal(&self.pidfd, Signal::CONT);
        for patience in [END, END] {
            if matches!(wait_for([self.pidfd.as_fd()], Some(Instant::now() + patience)), Ok(Some(_))) {
                break;
            }
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
        if matches!(wait_for([self.pidfd.as_fd()], Some(Instant::now())), Ok(Some(_))) {
            reap(&self.pidfd);
        } else {
            // Something in it cannot be interrupted in the kernel: it is reaped when that lets go.
            leave(self.pidfd.try_clone());
        }
    }
}

/// Agents without a handle: they are reaped when they have ended, at the next occasion.
static DETACHED: Mutex<Vec<OwnedFd>> = Mutex::new(vec![]);

/// Gives up a handle.
pub(crate) fn leave(agent: io::Result<OwnedFd>) {
    if let Ok(agent) = agent {
        DETACHED.lock().unwrap_or_else(PoisonError::into_inner).push(agent);
    }
}

fn reap_detached() {
    let mut detached = DETACHED.lock().unwrap_or_else(PoisonError::into_inner);
    detached.retain(|agent| {
        let ended = matches!(wait_for([agent.as_fd()], Some(Instant::now())), Ok(Some(_)));
        if ended {
            reap(agent);
        }
        !ended
    });
}

/// Reaps a child. If the host reaps everything itself (`waitpid(-1)`), or ignores SIGCHLD, there is nothing to do.
fn reap(pidfd: &OwnedFd) {
    while matches!(waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED), Err(Errno::INTR)) {}
}

/// Reaps an agent that has no pidfd. It ends by itself, with its socket.
fn reap_orphan(pid: Pid) {
    let deadline = Instant::now() + END;
    while Instant::now() < deadline {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => std::thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
}

/// How a child stands, without reaping it.
fn look_at(pidfd: &OwnedFd) -> Result<Option<WaitIdStatus>, Errno> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd.as_fd()), look)
}

/// For the error that nobody expects.
fn how_it_ended(pidfd: &OwnedFd) -> String {
    match look_at(pidfd) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (_, Some(signal)) => format!("was killed by signal {signal}"),
            _ => "ended".into(),
        },
        Ok(None) => "fell silent".into(),
        Err(_) => "ended".into(),
    }
}

/// The number behind a pidfd, as `/proc/self/fdinfo` gives it.
fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok())
}

/// Sends the hello and all descriptors, in as many packets as it takes. All of them wait in the socket until the stage
/// reads them, so that the host need not have them open at once.
fn hand_over(control: &OwnedFd, hello: &Hello, fds: &[BorrowedFd<'_>], trees: &[Source]) -> Result<(), Error> {
    let batch = plan::FDS_PER_MESSAGE as usize;
    let mut body = vec![];
    hello.encode(&mut body);
    let mut number = message::HELLO;
    for fds in fds.chunks(batch) {
        send(control, number, &body, fds)?;
        number = message::DESCRIPTORS;
        body.clear();
    }
    for sources in trees.chunks(batch) {
        let opened = sources.iter().map(open_tree).collect::<Result<Vec<_>, _>>()?;
        let borrowed: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        send(control, number, &body, &borrowed)?;
    }
    Ok(())
}

/// A copy of what is mounted at a source, as it was when it was checked.
fn open_tree(source: &Source) -> Result<OwnedFd, Error> {
    use rustix::mount::OpenTreeFlags;
    let failed = |error: io::Error| Error::Source { path: source.path.clone(), source: error };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, &source.path, flags).map_err(|errno| match errno {
        Errno::NOSYS | Errno::PERM => missing_call("open_tree(2)", errno),
        errno => failed(errno.into()),
    })?;
    let stat = rustix::fs::fstat(&tree).map_err(|errno| failed(errno.into()))?;
    if (device_number(stat.st_dev), stat.st_ino) == (source.device, source.inode) {
        Ok(tree)
    } else {
        Err(failed(Errno::STALE.into()))
    }
}

fn missing_call(call: &'static str, errno: Errno) -> Error {
    let symptom = Symptom { step: Step::Stage, errno, layer: Layer::Stage, subject: call };
    support::diagnose(&symptom).unwrap_or(Error::Host { what: call, source: errno.into() })
}

pub(crate) fn send(control: &OwnedFd, number: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let mut packet = vec![];
    number.encode(&mut packet);
    packet.put(body);
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(control, &[IoSlice::new(&packet)], &mut ancillary, flags) {
        // Its end is what there is to know then, and that is heard elsewhere.
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        Err(errno) => Err(Error::host("hand over descriptors")(errno)),
    }
}

/// What came.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) number: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    /// The process in whose name it was sent.
    pub(crate) sender: Option<u32>,
    /// Descriptors came along that this process has no room for.
    truncated: bool,
}

impl Packet {
    fn end() -> Self {
        Self { number: message::EOF, body: vec![], fds: vec![], sender: None, truncated: false }
    }
}

/// Takes one packet, if there is one. The end of the other side is [`message::EOF`].
pub(crate) fn receive(control: &OwnedFd) -> Result<Option<Packet>, Error> {
    receive_raw(control).map_err(Error::host("hear from the sandbox"))
}

fn receive_raw(control: &OwnedFd) -> Result<Option<Packet>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0u8; 128];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(control, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            // The other side ended with something of ours unread. That is told once, ahead of what it had sent before.
            Err(Errno::CONNRESET) => {}
            result => break result?,
        }
    };
    let mut packet = Packet { truncated: received.flags.contains(ReturnFlags::CTRUNC), ..Packet::end() };
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(fds) => packet.fds.extend(fds),
            RecvAncillaryMessage::ScmCredentials(sender) => {
                packet.sender = u32::try_from(sender.pid.as_raw_nonzero().get()).ok();
            }
            _ => {}
        }
    }
    if let Some((number, body)) = buffer.get(..received.bytes).and_then(|bytes| bytes.split_first_chunk::<4>()) {
        packet.number = u32::from_ne_bytes(*number);
        packet.body = body.to_vec();
    }
    Ok(Some(packet))
}

/// Waits until one of them is ready; `None` when the time is over.
pub(crate) fn wait_for<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> Result<Option<[bool; N]>, Error> {
    let mut set = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut set, left.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(set.map(|entry| !entry.revents().is_empty()))),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::host("wait")(errno)),
        }
    }
}

fn map_error(prepared: &Prepared, error: io::Error) -> Error {
    let helpers = matches!(prepared.inner.ids.writer, Writer::Helpers);
    let unsupported =
        |remedy: &str| Error::Unsupported { layer: Layer::IdRanges, reason: error.to_string(), remedy: remedy.into() };
    match error.kind() {
        io::ErrorKind::NotFound if helpers => unsupported("install newuidmap and newgidmap (Debian's package uidmap)"),
        io::ErrorKind::PermissionDenied if helpers => {
            unsupported("give the user these ids in /etc/subuid and /etc/subgid, or map fewer")
        }
        io::ErrorKind::PermissionDenied => unsupported("map only ids that the caller's own user namespace has"),
        _ => Error::Setup { step: Step::IdMap, subject: String::new(), source: error },
    }
}

/// Words for a failed step.
fn explain(prepared: &Prepared, program: &OsStr, failure: Failure) -> Error {
    let inner = &prepared.inner;
    let step = Step::from_number(failure.step).unwrap_or(Step::Agent);
    let index = usize::try_from(failure.index).unwrap_or(usize::MAX);
    if failure.errno == 0 {
        return Error::AgentLost {
            reason: "the program's process was killed before it could become the program".into(),
        };
    }
    let source = io::Error::from_raw_os_error(failure.errno);
    if step == Step::Exec {
        return Error::Exec { program: program.to_owned(), source };
    }
    let subject = match step {
        Step::MountSource | Step::MountTarget | Step::MountMake | Step::MountMove | Step::Root => {
            inner.subjects.get(index).cloned().unwrap_or_default()
        }
        Step::Session if failure.errno == Errno::DQUOT.raw_os_error() => {
            "no keyring of its own: the user has used up its quota of keys, kernel.keys.maxkeys".into()
        }
        Step::Rlimit => inner.rlimits.get(index).map(|(resource, _)| format!("{resource:?}")).unwrap_or_default(),
        _ => String::new(),
    };
    let layer = match step {
        Step::UserNamespace => Layer::UserNs,
        Step::IdMap if matches!(inner.ids.writer, Writer::Stage) => Layer::UserNs,
        Step::IdMap => Layer::IdRanges,
        Step::Namespaces => culprit(inner.namespaces),
        Step::CgroupNamespace => Layer::CgroupNs,
        Step::PidNamespace => Layer::PidNs,
        Step::Loopback => Layer::NetNs,
        Step::Hostname => Layer::UtsNs,
        Step::TimeOffsets => Layer::TimeNs,
        _ if subject.starts_with("proc ") => Layer::Proc,
        _ if subject.starts_with("overlay ") => Layer::Overlay,
        _ => Layer::Mounts,
    };
    let symptom = Symptom { step, errno: Errno::from_raw_os_error(failure.errno), layer, subject: &subject };
    support::diagnose(&symptom).unwrap_or(Error::Setup { step, subject, source })
}

/// All namespaces are made by one call; which one could not is found by making each alone.
fn culprit(namespaces: Namespaces) -> Layer {
    let alone = |namespace: &Namespaces| {
        let mut sandbox = Sandbox::new();
        sandbox.namespaces = *namespace;
        sandbox
    };
    let made = |namespace: Namespaces| namespaces.contains(namespace);
    let candidates =
        NAMESPACES.iter().filter(|(_, ns)| made(*ns) && *ns != Namespaces::USER && *ns != Namespaces::CGROUP);
    let mut layers = candidates.clone().map(|(layer, _)| *layer);
    if candidates.clone().count() == 1 {
        return layers.next().unwrap_or(Layer::UserNs);
    }
    let fails = |entry: &&(Layer, Namespaces)| alone(&entry.1).probe().is_err();
    candidates.clone().find(fails).map_or(Layer::UserNs, |(layer, _)| *layer)
}
