//! Calls that wait for the host's answer: what a filter answers with `Action::Notify`.
//!
//! The agent takes each call from the program's listener, since it alone knows which of them are the filter's to end, and
//! passes on what is the host's. The answer goes straight to the kernel, by the host's own copy of the listener.

pub(crate) mod listener;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use crate::error::Error;
use crate::launch::{self, Live};
use crate::plan::{Args, Notice, decode, message};
use crate::seccomp;
use listener::Answer;

/// The kernel's `PATH_MAX`, with the NUL.
const PATH_MAX: usize = 4096;
const MAX_ERRNO: u16 = 4095;

/// The calls of a program that its filter leaves to the host ([`Action::Notify`](seccomp::Action::Notify)), as they come; from
/// [`Child::take_notifications`](crate::Child::take_notifications).
///
/// The iterator waits for the next one, and ends when the program has ended, and all that came of it as far as that is
/// [ended with it](crate::Child::kill). For an event loop there is its descriptor ([`AsFd`], readable when there may be
/// something) with [`try_next`](Notifications::try_next).
///
/// Some 500 calls can wait to be taken here. Of a program that has more at once, those beyond fail with ENOSYS at once, and so
/// do all when this is dropped: nothing of the sandbox ever waits for a host that does not listen, and the host keeps nothing
/// for a program that floods it. What has been taken waits for as long as its [`Notification`] is kept.
///
/// A program that opens a file which is not in its root, by a host that has it:
///
/// ```
/// use std::fs::File;
/// use stockade::seccomp::{Action, Filter};
/// use stockade::{Sandbox, Stdio};
///
/// let filter = Filter::deny_list().deny("openat", Action::Notify);
/// let sandbox = Sandbox::new().pid_ns().seccomp(filter);
/// let child = sandbox.command("cat").arg("/not/there").stdout(Stdio::piped()).spawn()?;
/// let notifications = child.take_notifications();
/// let broker = std::thread::spawn(move || {
///     for call in notifications.into_iter().flatten() {
///         let [_, path, ..] = call.args();
///         match call.read_string(path) {
///             Ok(path) if path.as_c_str() == c"/not/there" => call.give_fd(File::open("/etc/hostname").unwrap(), true)?,
///             _ => call.allow()?,
///         };
///     }
///     Ok::<(), stockade::Error>(())
/// });
/// let output = child.wait_with_output()?;
/// broker.join().unwrap()?;
/// assert_eq!(output.stdout, std::fs::read("/etc/hostname").unwrap());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct Notifications {
    socket: OwnedFd,
    /// Until there will be no more: what has the filter and outlives the program is then not to wait for an answer.
    listener: Option<Arc<OwnedFd>>,
}

/// A call that waits for its answer. Each of the answers takes it; without one, when it is dropped, the call fails with ENOSYS.
///
/// It may go to another thread, and be answered at any time. The clocks of the program's limits go on meanwhile, and a program
/// that is ended while it waits is ended: then the answer comes to nothing, and is `false`. Signals that the caller handles
/// wait for the answer; on Linux before 5.19 they take the call away instead, as they interrupt a slow call, and it may come
/// again as another.
///
/// ```
/// # use stockade::Sandbox;
/// # use stockade::seccomp::{Action, Filter};
/// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
/// let child = sandbox.command("sh").args(["-c", "cd /usr"]).spawn()?;
/// let call = child.take_notifications().unwrap().next().unwrap();
/// assert_eq!(call.syscall(), "chdir");
/// drop(call); // fails with ENOSYS
/// assert!(!child.wait()?.success());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a call whose notification is dropped fails with ENOSYS"]
pub struct Notification {
    listener: Arc<OwnedFd>,
    id: u64,
    pid: u32,
    nr: u32,
    args: [u64; 6],
    instruction_pointer: u64,
    answered: bool,
}

impl Notifications {
    /// The agent hands the listener over about when the program starts.
    pub(crate) fn meet(socket: OwnedFd, live: &Live) -> Result<Self, Error> {
        let limit = live.prepared.inner.setup_timeout;
        let deadline = Instant::now().checked_add(limit);
        let lost = || Error::AgentLost { reason: "it ended before it could hand over the filter's listener".into() };
        loop {
            let ready = launch::wait_for([socket.as_fd(), live.agent.pidfd.as_fd()], deadline)?;
            let [_, ended] = ready.ok_or(Error::TimedOut { limit })?;
            match launch::receive(&socket)? {
                Some(mut packet) if packet.number == message::LISTENER => {
                    let listener = packet.fds.pop().ok_or(Errno::MFILE).map_err(Error::host("receive descriptors"))?;
                    return Ok(Self { socket, listener: Some(Arc::new(listener)) });
                }
                Some(_) => return Err(lost()),
                None if ended => return Err(lost()),
                None => {}
            }
        }
    }

    /// Where the calls wait, for who takes them there.
    pub(crate) fn listener(&self) -> Option<Arc<OwnedFd>> {
        self.listener.clone()
    }

    /// The next one, if one waits already.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// assert!(child.take_notifications().unwrap().try_next().is_none());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn try_next(&mut self) -> Option<Notification> {
        while let Some(listener) = &self.listener {
            let packet = match launch::receive(&self.socket) {
                Ok(Some(packet)) if packet.number != message::EOF => packet,
                Ok(None) => return None,
                Ok(Some(_)) | Err(_) => {
                    self.listener = None;
                    // Where it could not be heard the agent must know.
                    let _ = shutdown(&self.socket, Shutdown::Read);
                    return None;
                }
            };
            let Ok(notice) = decode::<Notice>(&packet.body) else { continue };
            let Notice { id, thread, nr, instruction: instruction_pointer, args: Args { a, b, c, d, e, f } } = notice;
            let pid = if thread == 0 { packet.sender.unwrap_or(0) } else { thread };
            let (listener, args) = (Arc::clone(listener), [a, b, c, d, e, f]);
            let found = Notification { listener, id, pid, nr, args, instruction_pointer, answered: false };
            if found.is_alive() {
                return Some(found);
            }
        }
        None
    }

    /// Waits for the next one, for at most so long. `None` is that, or the [end](Notifications::has_ended).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// assert!(calls.next_timeout(Duration::from_millis(10)).is_none() && !calls.has_ended());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn next_timeout(&mut self, limit: Duration) -> Option<Notification> {
        self.next_until(Instant::now().checked_add(limit))
    }

    /// There will be no more.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("true").spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// assert!(calls.next().is_none() && calls.has_ended());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn has_ended(&self) -> bool {
        self.listener.is_none()
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Notification> {
        loop {
            if let Some(found) = self.try_next() {
                return Some(found);
            }
            if self.has_ended() || !matches!(launch::wait_for([self.socket.as_fd()], deadline), Ok(Some(_))) {
                return None;
            }
        }
    }
}

impl Iterator for Notifications {
    type Item = Notification;

    fn next(&mut self) -> Option<Notification> {
        self.next_until(None)
    }
}

impl AsFd for Notifications {
    /// Readable when a call waits, or when there will be no more.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Notifications {
    /// All that still waits fails with ENOSYS.
    fn drop(&mut self) {
        // From here on the agent knows that nobody listens. What it has sent before can be read, up to an end.
        let _ = shutdown(&self.socket, Shutdown::Read);
        while let Some(unanswered) = self.try_next() {
            drop(unanswered);
        }
    }
}

impl Notification {
    /// What the kernel knows it by.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert_ne!(call.id(), 0);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The kernel's name for the call; `unknown` where the number has none.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert_eq!(call.syscall(), "chdir");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn syscall(&self) -> &'static str {
        seccomp::name(self.nr)
    }

    /// Its number.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert_ne!(call.nr(), 0);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn nr(&self) -> u32 {
        self.nr
    }

    /// Its arguments, as they are in the registers. The kernel looks at the low 32 bits only of what it takes for an `int`.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert_ne!(call.args()[0], 0); // where the path is
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn args(&self) -> [u64; 6] {
        self.args
    }

    /// Where in the caller's memory it was made.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert_ne!(call.instruction_pointer(), 0);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn instruction_pointer(&self) -> u64 {
        self.instruction_pointer
    }

    /// The thread that makes it, by its number as the host sees it (gettid(2)); 0 if the host cannot see it, as in a PID
    /// namespace that was joined. It is another's once the caller [has gone](Notification::is_alive).
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert_eq!(call.pid(), child.id());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the caller still waits (`SECCOMP_IOCTL_NOTIF_ID_VALID`). What was found out by its number before was its own
    /// then.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert!(call.is_alive());
    /// child.kill()?;
    /// child.wait()?;
    /// assert!(!call.is_alive());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn is_alive(&self) -> bool {
        listener::is_valid(&self.listener, self.id)
    }

    /// Reads the caller's memory (`/proc/PID/mem`), up to where nothing is mapped: how many bytes. What is read is the
    /// caller's; it is not what the kernel will see, if the call is [allowed](Notification::allow).
    ///
    /// The host needs the right to trace the program (ptrace(2)). It has that, without any privilege, for what it runs as its
    /// own user or in a user namespace of its own making, as all rootless sandboxes are. A hostile program that may make
    /// memory whose pages it provides itself (userfaultfd(2), FUSE) can let the host wait for them; in
    /// [`hardened`](crate::Sandbox::hardened) it may not.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// let mut path = [0; 4];
    /// call.read_memory(call.args()[0], &mut path).unwrap();
    /// assert_eq!(&path, b"/usr");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// EFAULT if nothing is mapped at the address; ESRCH if the caller has gone. `PermissionDenied`, unless the host has
    /// CAP_SYS_PTRACE, for a closure, which keeps the host's memory closed to all others, for a program of another user, with
    /// capabilities that the host has not, or whose file cannot be read, and where Yama forbids it
    /// (`kernel.yama.ptrace_scope` 2 or more). `Unsupported` where the host cannot see the caller.
    pub fn read_memory(&self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pid == 0 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the caller is in a PID namespace that was joined"));
        }
        let read = File::open(format!("/proc/{}/mem", self.pid)).and_then(|memory| memory.read_at(buffer, address));
        if !self.is_alive() {
            return Err(Errno::SRCH.into());
        }
        read.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::IO | Errno::INVAL) => Errno::FAULT.into(),
            _ => error,
        })
    }

    /// Reads a string from the caller's memory, as the kernel reads a path: up to a NUL, which is among the first 4096 bytes.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// let path = call.read_string(call.args()[0]).unwrap();
    /// assert_eq!(path.as_c_str(), c"/usr");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`read_memory`](Notification::read_memory); ENAMETOOLONG if it is longer.
    pub fn read_string(&self, address: u64) -> io::Result<CString> {
        let mut buffer = vec![0; PATH_MAX];
        let len = self.read_memory(address, &mut buffer)?;
        let end = if len < PATH_MAX { Errno::FAULT } else { Errno::NAMETOOLONG };
        let string = CStr::from_bytes_until_nul(buffer.get(..len).unwrap_or_default()).map_err(|_| end)?;
        Ok(string.to_owned())
    }

    /// The call is made, as if the filter had allowed it (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`). Whether the caller was still
    /// there.
    ///
    /// **This must not be how a policy is enforced on anything but numbers.** The kernel reads what an argument points at when it
    /// makes the call, after the host has looked: another thread of the program, or whoever shares its memory, can have
    /// changed a path, an address, a whole structure by then (seccomp_unotify(2)). What the registers hold cannot change.
    /// Allow what would be harmless with any memory, and do the rest in the caller's place:
    /// [`give_fd`](Notification::give_fd), [`succeed`](Notification::succeed).
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert!(call.allow()?);
    /// assert!(child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the kernel refuses the answer.
    pub fn allow(self) -> Result<bool, Error> {
        self.answer(Answer::Go)
    }

    /// The call is not made, and fails with this error number. Whether the caller was still there.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert!(call.deny(13)?); // EACCES
    /// assert!(!child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is not from 1 to 4095: the call fails with ENOSYS then. [`Error::Host`] if the kernel refuses
    /// the answer.
    pub fn deny(self, errno: u16) -> Result<bool, Error> {
        if errno == 0 || errno > MAX_ERRNO {
            return Err(Error::invalid("deny", format!("{errno} is no error number: they are from 1 to {MAX_ERRNO}")));
        }
        self.answer(Answer::Refuse(i32::from(errno)))
    }

    /// The call is not made, and returns this. Whether the caller was still there. Values from -4095 to -1 are what C libraries
    /// take for an error.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("chdir", Action::Notify));
    /// let child = sandbox.command("sh").args(["-c", "cd /usr"]).stderr(Stdio::null()).spawn()?;
    /// let mut calls = child.take_notifications().unwrap();
    /// let call = calls.next().unwrap();
    /// assert!(call.succeed(0)?); // nothing was done, and it does not know
    /// assert!(child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the kernel refuses the answer.
    pub fn succeed(self, value: i64) -> Result<bool, Error> {
        self.answer(Answer::Value(value))
    }

    /// The call is not made, and returns a descriptor (`SECCOMP_IOCTL_NOTIF_ADDFD`): a copy of this one, with the lowest number
    /// that is free in the caller's process, as from open(2). Whether the caller was still there.
    ///
    /// It gives all that the descriptor can be used for, as [`Command::fd`](crate::Command::fd) does. A caller that may have no
    /// more gets the errno for that, such as EMFILE.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::seccomp::{Action, Filter};
    /// let sandbox = Sandbox::new().pid_ns().seccomp(Filter::deny_list().deny("memfd_create", Action::Notify));
    /// let child = sandbox.command("true").spawn()?;
    /// for call in child.take_notifications().unwrap() {
    ///     call.give_fd(std::fs::File::open("/dev/null").unwrap(), true)?; // if it asked for one
    /// }
    /// assert!(child.wait()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the kernel refuses the answer.
    pub fn give_fd(self, fd: impl AsFd, close_on_exec: bool) -> Result<bool, Error> {
        // In two steps, though the kernel could do both at once (SECCOMP_ADDFD_FLAG_SEND): when a signal interrupts the host in
        // that the call returns 0, which is another descriptor. A caller that was ended in between takes it along.
        let answer = match listener::add_fd(&self.listener, self.id, fd.as_fd(), close_on_exec) {
            Ok(number) => Answer::Value(number),
            Err(errno) => Answer::Refuse(errno.raw_os_error()),
        };
        self.answer(answer)
    }

    fn answer(mut self, answer: Answer) -> Result<bool, Error> {
        self.answered = true;
        match listener::answer(&self.listener, self.id, answer) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::host("answer a call")(errno)),
        }
    }
}

impl Drop for Notification {
    fn drop(&mut self) {
        if !self.answered {
            let _ = listener::answer(&self.listener, self.id, Answer::Refuse(Errno::NOSYS.raw_os_error()));
        }
    }
}
