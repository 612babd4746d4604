//! The zygote: a small process, forked early, that closures are forked from however many threads the program has by then.
//!
//! It does nothing but wait for requests. Each is one packet: what to call and its arguments in sealed memory, the control
//! socket of the stage that the fork becomes, memory for the result, and a socket for the answer, so that many threads can
//! ask at once. Its forks are children of the host (`CLONE_PARENT`), as every other stage and agent is: a handle has no use
//! for the zygote any more, and outlives it.
#![allow(unsafe_code)] // functions by their address, in a copy of the same memory

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::child::Child;
use crate::codec::{self, Trouble};
use crate::error::Error;
use crate::fork::{self, Closure, DEFAULT_LIMIT, Finished, Inheritance, Outbox, PANICKED, Slot};
use crate::launch::{Sealed, Started, above_streams, wait_for};
#[cfg(not(miri))]
use crate::stage::{enter, sys};

/// A small process, forked early, to run closures from any thread at any time.
///
/// What it runs is a `fn` with serialised arguments, in any [`Sandbox`](crate::Sandbox), and that has what a
/// [`Closure`] has, but of the memory that this program had when the zygote was started: nothing of later is in it, and it
/// costs the same however large the program has grown.
///
/// ```
/// use stockade::{Sandbox, Zygote};
///
/// fn longest(lines: Vec<String>) -> usize {
///     lines.iter().map(String::len).max().unwrap_or(0)
/// }
///
/// # fn main() -> Result<(), stockade::Error> {
/// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
/// let zygote = Zygote::start()?; // first of all
/// std::thread::spawn(move || {
///     let finished = zygote.run(&Sandbox::new().pid_ns(), longest, vec!["a".into(), "bcd".into()])?;
///     assert_eq!(finished.value, Ok(3));
///     Ok(())
/// }).join().unwrap()
/// # }
/// ```
///
/// Handles can be cloned; the process ends with the last of them, or with this program. What it has started goes on then, and
/// has its own [`Child`]. If somebody kills it, whoever asks gets [`Error::ZygoteLost`], at once.
#[derive(Debug, Clone)]
pub struct Zygote {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: OwnedFd,
    pidfd: OwnedFd,
    /// Of whom it is a child.
    owner: Pid,
    /// Where code was when it was forked.
    code: Arc<[(usize, usize)]>,
}

/// What a packet asks for.
mod ask {
    /// With it come the control socket, the socket for the answer, the job, and memory for a result if there is to be one.
    pub(super) const CALL: u32 = 1;
    /// With it come the new one's socket, and the socket for the answer.
    pub(super) const ANOTHER: u32 = 2;
}

/// What to call, in the sealed memory of a job; the arguments follow.
#[derive(Clone, Copy)]
struct Job {
    /// A [`Shim`] that knows the types.
    shim: usize,
    function: usize,
    limit: usize,
}

type Shim = fn(usize, &[u8], Option<&Slot>) -> i32;

impl Job {
    const LEN: usize = 3 * size_of::<usize>();

    fn encode(self, arguments: &[u8]) -> Vec<u8> {
        let mut bytes = [self.shim, self.function, self.limit].map(usize::to_ne_bytes).concat();
        bytes.extend_from_slice(arguments);
        bytes
    }
    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, arguments) = bytes.split_at_checked(Self::LEN)?;
        let [shim, function, limit] = head.as_chunks().0 else { return None };
        let [shim, function, limit] = [shim, function, limit].map(|word| usize::from_ne_bytes(*word));
        Some((Self { shim, function, limit }, arguments))
    }
}

/// In the closure's process: the function's value into the slot.
fn call_for_value<A: DeserializeOwned, T: Serialize>(function: usize, arguments: &[u8], slot: Option<&Slot>) -> i32 {
    let Some(slot) = slot else { return PANICKED };
    slot.fill(|| {
        let arguments = codec::decode::<A>(arguments, DEFAULT_LIMIT);
        // SAFETY: the host has made this number of a `fn(A) -> T`, in the memory that this process has a copy of: the zygote
        // was there when it had the code, and code is not moved.
        let function =
            unsafe { std::mem::transmute::<*const (), fn(A) -> T>(std::ptr::with_exposed_provenance(function)) };
        arguments.map(function)
    })
}

/// The same for an exit code.
fn call_for_code<A: DeserializeOwned>(function: usize, arguments: &[u8], _: Option<&Slot>) -> i32 {
    let call = || {
        let arguments = codec::decode::<A>(arguments, DEFAULT_LIMIT);
        // SAFETY: as above, for a `fn(A) -> i32`.
        let function =
            unsafe { std::mem::transmute::<*const (), fn(A) -> i32>(std::ptr::with_exposed_provenance(function)) };
        arguments.map(function)
    };
    fork::guarded(call).ok().and_then(Result::ok).unwrap_or(PANICKED)
}

impl Zygote {
    /// Forks it. To be called early, while the program has a single thread and is small.
    ///
    /// ```
    /// # use stockade::Zygote;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let zygote = Zygote::start()?; // before there are threads
    /// assert!(zygote.id().is_some());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::MultiThreaded`]; [`Error::Host`] if the program may not have another process or descriptor.
    pub fn start() -> Result<Zygote, Error> {
        let inheritance = Inheritance::take()?;
        let code = fork::code_ranges()?.into();
        let (ours, theirs) = pair()?;
        let pid = begin(&theirs, inheritance)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::host("watch the zygote"))?;
        Ok(Self::new(ours, pidfd, code))
    }

    fn new(socket: OwnedFd, pidfd: OwnedFd, code: Arc<[(usize, usize)]>) -> Self {
        Self { inner: Arc::new(Inner { socket, pidfd, owner: getpid(), code }) }
    }

    /// One more, forked from this one, from any thread: to have one left if this one is lost.
    ///
    /// ```
    /// # use stockade::{Sandbox, Zygote};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let zygote = Zygote::start()?;
    /// let spare = zygote.another()?;
    /// drop(zygote);
    /// assert_eq!(spare.run(&Sandbox::new().pid_ns(), |n: u32| n + 1, 1)?.value, Ok(2));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ZygoteLost`]; [`Error::Host`] as for [`start`](Zygote::start).
    pub fn another(&self) -> Result<Zygote, Error> {
        let (ours, theirs) = pair()?;
        let deadline = Instant::now().checked_add(PATIENCE);
        let started = self.inner.ask(ask::ANOTHER, &[theirs.as_fd()], deadline)?;
        match started.pidfd {
            Some(pidfd) => Ok(Self::new(ours, pidfd, self.inner.code.clone())),
            None => Err(lost("it does not make sense")),
        }
    }

    /// Runs a function in a sandbox to its end, and returns what it returned.
    ///
    /// ```
    /// # use stockade::{Sandbox, Zygote};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// fn sum(numbers: Vec<i64>) -> i64 {
    ///     numbers.iter().sum()
    /// }
    /// let zygote = Zygote::start()?;
    /// let finished = zygote.run(Sandbox::hardened(), sum, vec![3, 4])?;
    /// assert_eq!(finished.value, Ok(7));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ZygoteLost`]; [`Error::Invalid`] if the function is in a library that was loaded after the zygote was started,
    /// or the arguments have more than 1 MiB; [`Error::Malformed`] as for [`Closure::run`]; else as for
    /// [`Command::spawn`](crate::Command::spawn) and [`Child::wait`].
    pub fn run<A, T>(
        &self,
        closure: impl Into<Closure>,
        function: fn(A) -> T,
        arguments: A,
    ) -> Result<Finished<T>, Error>
    where
        A: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
    {
        let mut closure = closure.into();
        let outbox = Outbox::new(closure.limit())?;
        let shim: Shim = call_for_value::<A, T>;
        let job = self.inner.job(shim, (function as *const ()).expose_provenance(), closure.limit(), &arguments)?;
        let child = self.inner.launch(&mut closure, &job, Some(outbox.memory()))?;
        outbox.finish(child)
    }

    /// Starts a function in a sandbox; what it returns is its exit code (0 to 255 of it).
    ///
    /// ```
    /// # use stockade::{Sandbox, Zygote};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let zygote = Zygote::start()?;
    /// let child = zygote.spawn(Sandbox::new().pid_ns(), |code: i32| code, 7)?;
    /// assert_eq!(child.wait()?.code(), Some(7));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Zygote::run).
    pub fn spawn<A>(&self, closure: impl Into<Closure>, function: fn(A) -> i32, arguments: A) -> Result<Child, Error>
    where
        A: Serialize + DeserializeOwned,
    {
        let mut closure = closure.into();
        let shim: Shim = call_for_code::<A>;
        let job = self.inner.job(shim, (function as *const ()).expose_provenance(), 0, &arguments)?;
        self.inner.launch(&mut closure, &job, None)
    }

    /// Its process, as the host sees it.
    ///
    /// ```
    /// # use stockade::Zygote;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let zygote = Zygote::start()?;
    /// let id = zygote.id().unwrap();
    /// assert!(std::path::Path::new(&format!("/proc/{id}")).exists());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn id(&self) -> Option<u32> {
        crate::launch::pid_of(&self.inner.pidfd)
    }
}

impl AsFd for Zygote {
    /// The zygote's pidfd: readable when it is lost.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.pidfd.as_fd()
    }
}

/// How long it may take to answer where no policy says so, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

fn lost(reason: &str) -> Error {
    Error::ZygoteLost { reason: reason.into() }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let failed = |errno| Error::host("make a socket")(errno);
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
    let [ours, theirs] = [ours, theirs].map(|socket| above_streams(socket).map_err(Error::host("make a socket")));
    Ok((ours?, theirs?))
}

impl Inner {
    fn job(&self, shim: Shim, function: usize, limit: usize, arguments: &impl Serialize) -> Result<Sealed, Error> {
        let shim = (shim as *const ()).expose_provenance();
        for address in [shim, function] {
            if !self.code.iter().any(|(base, len)| address.wrapping_sub(*base) < *len) {
                let reason = "the function is in a library that was loaded after the zygote was started";
                return Err(Error::invalid("function", reason));
            }
        }
        let arguments = codec::encode(arguments, DEFAULT_LIMIT).map_err(|trouble| match trouble {
            Trouble::TooLarge => Error::invalid("arguments", format!("more than {DEFAULT_LIMIT} bytes")),
            Trouble::Other(reason) => Error::invalid("arguments", reason),
        })?;
        Sealed::new(c"stockade-job", &Job { shim, function, limit }.encode(&arguments))
    }

    fn launch(&self, closure: &mut Closure, job: &Sealed, result: Option<&File>) -> Result<Child, Error> {
        let origin = |socket: OwnedFd, deadline| {
            let mut fds = vec![socket.as_fd(), job.as_fd()];
            fds.extend(result.map(AsFd::as_fd));
            self.ask(ask::CALL, &fds, deadline)
        };
        closure.launch_from(&origin)
    }

    /// Sends a request, and waits for the answer to it.
    fn ask(&self, what: u32, fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Result<Started, Error> {
        if getpid() != self.owner {
            return Err(lost("it belongs to the process that this one was forked from"));
        }
        let (answer, theirs) = pair()?;
        let mut all = vec![theirs.as_fd()];
        all.extend_from_slice(fds);
        self.send(what, &all, deadline)?;
        drop(theirs);
        let Some([_, ended]) = wait_for([answer.as_fd(), self.pidfd.as_fd()], deadline)? else {
            return Err(lost("it does not answer"));
        };
        let mut number = [0; 4];
        match receive(&answer, &mut number) {
            Ok((4, mut fds)) => match i32::from_ne_bytes(number) {
                errno @ ..0 => Err(Error::host("fork")(io::Error::from_raw_os_error(-errno))),
                pid => match Pid::from_raw(pid) {
                    Some(pid) => Ok(Started { pid, pidfd: fds.pop() }),
                    None => Err(lost("it does not make sense")),
                },
            },
            _ if ended => Err(lost("it has ended")),
            Ok(_) => Err(lost("it does not make sense")),
            Err(errno) => Err(lost(&format!("it does not answer: {errno}"))),
        }
    }

    fn send(&self, what: u32, fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Result<(), Error> {
        let packet = what.to_ne_bytes();
        loop {
            match send(&self.socket, &packet, fds) {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(lost("it has ended")),
                Err(errno) => return Err(Error::host("ask the zygote")(errno)),
            }
            // Others ask too; there is room again when it has taken what they want.
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut set = [PollFd::new(&self.socket, PollFlags::OUT), PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut set, left.as_ref()) {
                Ok(0) => return Err(lost("it does not take requests")),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::host("ask the zygote")(errno)),
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if getpid() != self.owner {
            return;
        }
        // It reads the end of its socket, unless a fork of this process holds that too.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        if !matches!(wait_for([self.pidfd.as_fd()], Instant::now().checked_add(PATIENCE)), Ok(Some(_))) {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
        while matches!(waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED), Err(Errno::INTR)) {}
    }
}

fn send(socket: &impl AsFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

fn receive(socket: &impl AsFd, packet: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(packet)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut fds = vec![];
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}

#[cfg(not(miri))]
fn begin(socket: &OwnedFd, inheritance: Inheritance) -> Result<Pid, Error> {
    let host = pidfd_open(getpid(), PidfdFlags::empty()).map_err(Error::host("watch this process"))?;
    let host = above_streams(host).map_err(Error::host("watch this process"))?;
    fork::fork_process(|| {
        inheritance.give_up();
        let _ = sys::setsid();
        // Its forks do so again, and hear if it fails.
        let _ = sys::default_signals();
        let kept = [socket.as_raw_fd(), host.as_raw_fd()].map(i32::cast_unsigned);
        for number in inheritance.open.iter().filter(|number| !kept.contains(number)) {
            sys::close(sys::Fd(number.cast_signed()));
        }
        serve(socket, &host, &inheritance.open)
    })
}

#[cfg(miri)]
fn begin(_: &OwnedFd, _: Inheritance) -> Result<Pid, Error> {
    Err(Error::host("fork")(io::Error::from(io::ErrorKind::Unsupported)))
}

/// The zygote's whole life. All signals stay blocked; its forks have them as the stage sets them.
#[cfg(not(miri))]
fn serve(socket: &OwnedFd, host: &OwnedFd, open: &[u32]) -> ! {
    sys::set_name(c"stockade-zygote");
    // The socket may be held open by another fork of the host: the pidfd cannot.
    while let Ok(Some([_, false])) = wait_for([socket.as_fd(), host.as_fd()], None) {
        let mut packet = [0; 4];
        match receive(socket, &mut packet) {
            Ok((4, fds)) => attend(u32::from_ne_bytes(packet), fds, [socket, host], open),
            Ok((0, _)) => break,
            // It has no room for the descriptors: whoever asked hears the end of his socket.
            Ok(_) | Err(_) => {}
        }
    }
    sys::exit(0)
}

#[cfg(not(miri))]
fn attend(what: u32, fds: Vec<OwnedFd>, [own, host]: [&OwnedFd; 2], open: &[u32]) {
    let mut fds = fds.into_iter();
    let Some(answer) = fds.next() else { return };
    // Who does not wait any more could not reap what is forked for him.
    let gone = PollFlags::HUP | PollFlags::ERR;
    let mut set = [PollFd::new(&answer, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut set, Some(&now)).is_err() || set.iter().any(|entry| entry.revents().intersects(gone)) {
        return;
    }
    let (number, pidfd) = match sys::fork(sys::CLONE_PARENT, fork::thread_number()) {
        Ok(sys::Fork::Child) => {
            drop(answer);
            match (what, fds.next(), fds.next()) {
                (ask::CALL, Some(control), Some(job)) => call(&control, &job, fds.next().map(File::from), open),
                (ask::ANOTHER, Some(socket), None) => {
                    // This one's, which would not end with it.
                    sys::close(sys::Fd(own.as_raw_fd()));
                    serve(&socket, host, open)
                }
                _ => sys::exit(70),
            }
        }
        Ok(sys::Fork::Parent { pid, pidfd }) => (pid, Some(pidfd)),
        Err(errno) => (-errno.0, None),
    };
    // SAFETY: the kernel has just made it, and nobody else knows it.
    let pidfd = pidfd.map(|pidfd| unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(pidfd.0) });
    let with: Vec<_> = pidfd.iter().map(AsFd::as_fd).collect();
    if send(&answer, &number.to_ne_bytes(), &with).is_err() {
        // Without room for the descriptor the number must do.
        let _ = send(&answer, &number.to_ne_bytes(), &[]);
    }
}

/// In a fork of the zygote: all that follows.
#[cfg(not(miri))]
fn call(control: &OwnedFd, job: &OwnedFd, result: Option<File>, open: &[u32]) -> ! {
    let body = || -> Option<(Job, Vec<u8>, Option<Slot>)> {
        let job = File::from(job.try_clone().ok()?);
        let mut bytes = vec![0; usize::try_from(job.metadata().ok()?.len()).ok()?];
        job.read_exact_at(&mut bytes, 0).ok()?;
        let (job, arguments) = Job::decode(&bytes)?;
        let slot = result.map(|memory| Slot::map(&memory, job.limit)).transpose().ok()?;
        Some((job, arguments.to_vec(), slot))
    };
    let Some((job, arguments, slot)) = body() else { sys::exit(70) };
    let shim = std::ptr::with_exposed_provenance::<()>(job.shim);
    // SAFETY: the host has made this number of a `Shim`, in the memory that this process has a copy of.
    let shim = unsafe { std::mem::transmute::<*const (), Shim>(shim) };
    let call = || shim(job.function, &arguments, slot.as_ref());
    fork::become_stage(control, enter::Body { call: &call, open, tid: fork::thread_number() })
}
