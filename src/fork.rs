//! Closures: a fork of the host goes through the stage's own code, linked into the library, and calls the closure where a
//! program would be executed.
//!
//! All three processes of a launch are forks then, the agent too, and each step is the one that a program's launch takes:
//! nothing enters a sandbox from outside, there is no second way in that would have to be made safe against those who are
//! inside already, and verdicts, limits and the end of the tree are the same. That is why a closure has an environment of its
//! own, and cannot join a [`Container`](crate::Container) that programs live in. The price is a copy of the host's page
//! tables for each fork; a [`Zygote`](crate::Zygote) has few.
//!
//! What an exec does for a program is done by hand: see `exec.rs`, and `Inheritance` for what is left of the host.
#![allow(unsafe_code)] // fork(2), memory that is shared with a fork, and memory that is taken from it

use std::any::Any;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::child::Child;
use crate::codec::{self, Trouble};
use crate::command::{Command, Stdio};
use crate::error::Error;
use crate::launch::{Origin, Started, scratch};
use crate::outcome::Outcome;
use crate::prepare::Prepared;
use crate::sandbox::Sandbox;
#[cfg(not(miri))]
use crate::stage::{enter, sys};

/// What a closure returned, and how it ended.
///
/// ```
/// # use stockade::{Sandbox, Stdio};
/// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
/// let finished = Sandbox::new().pid_ns().closure().stdout(Stdio::piped()).run(|| {
///     print!("thinking");
///     42
/// })?;
/// assert!(finished.outcome.success());
/// assert_eq!((finished.value, finished.stdout), (Ok(42), b"thinking".to_vec()));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finished<T> {
    /// How its process ended: with code 0 if it returned, 101 if it panicked.
    pub outcome: Outcome,
    /// What it returned.
    pub value: Result<T, NoValue>,
    /// What it wrote to stdout, as far as that was piped.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, as far as that was piped.
    pub stderr: Vec<u8>,
}

impl<T> Finished<T> {
    /// The value, if it returned one.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let finished = Sandbox::new().pid_ns().run(|| 42)?;
    /// assert_eq!(finished.ok(), Some(42));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn ok(self) -> Option<T> {
        self.value.ok()
    }
}

/// Why there is no value of a closure. All of it is what the closure's process says of itself.
///
/// ```
/// # use stockade::{NoValue, Sandbox, Stdio};
/// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
/// let finished = Sandbox::new().pid_ns().closure().stderr(Stdio::null()).run(|| -> u8 { panic!("no luck") })?;
/// match finished.value {
///     Err(NoValue::Panicked { message, .. }) => assert_eq!(message, "no luck"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoValue {
    /// It ended without returning: see the [`Outcome`].
    #[error("it ended without returning")]
    Ended,
    /// It panicked.
    #[error("it panicked: {message}")]
    #[non_exhaustive]
    Panicked {
        /// The panic's message, if it is a string, up to 4 KiB of it.
        message: String,
    },
    /// It returned more than [`result_limit`](Closure::result_limit).
    #[error("it returned more than {limit} bytes")]
    #[non_exhaustive]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// What it returned cannot be serialised: its own [`Serialize`] says so, or it is nested more than 128 deep.
    #[error("what it returned cannot be serialised: {reason}")]
    #[non_exhaustive]
    Refused {
        /// What the serialiser says.
        reason: String,
    },
}

/// A closure to run in a sandbox; from [`Sandbox::closure`].
///
/// ```
/// use stockade::Sandbox;
///
/// # fn main() -> Result<(), stockade::Error> {
/// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
/// let finished = Sandbox::hardened().closure().result_limit(100).run(|| 6 * 7)?;
/// assert_eq!(finished.value, Ok(42));
/// # Ok(())
/// # }
/// ```
///
/// It runs in a fork of this program, and so only while that has a single thread: a fork has a copy of every lock, and
/// those that other threads hold would be held for ever ([`Error::MultiThreaded`]). [`Zygote`](crate::Zygote) is for programs
/// with threads.
///
/// # What it inherits
///
/// **All of this program's memory, as a copy**: secrets too. A [`Command`]'s program inherits none of it. Not there are
///
/// - descriptors, but for those that are [handed over](Closure::fd) and the three streams. What its memory still names as
///   such, a captured [`File`] for instance, can be neither read nor written and leads nowhere (EBADF);
/// - memory that was mapped to be shared and written to (`MAP_SHARED`): to touch it ends the closure by SIGSEGV.
///
/// Environment variables are this program's. Signal handlers are gone, nothing runs at its exit, and what lies in C's
/// buffers (`printf`) is lost then; Rust's stdout is flushed. It has no_new_privs always, and its memory cannot be looked at
/// by others of its user.
///
/// A filter holds for what runs around the closure too. Its result needs no system call; its end needs exit_group(2) or
/// exit(2), and without either it is ended by SIGILL.
#[derive(Debug, Clone)]
pub struct Closure {
    command: Command,
    limit: usize,
}

impl Closure {
    pub(crate) fn in_sandbox(sandbox: Sandbox) -> Self {
        Self::new(Command::in_sandbox(sandbox, "".as_ref()))
    }

    pub(crate) fn in_prepared(prepared: Prepared) -> Self {
        Self::new(Command::in_prepared(prepared, "".as_ref()))
    }

    fn new(command: Command) -> Self {
        Self { command, limit: DEFAULT_LIMIT }
    }

    /// Where its stdin comes from; null unless set.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let file = tempfile::tempfile().unwrap();
    /// std::os::unix::fs::FileExt::write_all_at(&file, b"3 4", 0).unwrap();
    /// let closure = Sandbox::new().pid_ns().closure().stdin(file);
    /// let finished = closure.run(|| std::io::read_to_string(std::io::stdin()).unwrap_or_default())?;
    /// assert_eq!(finished.value, Ok("3 4".to_owned()));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stdin(stdio);
        self
    }

    /// Where its stdout goes; inherited unless set.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let finished = Sandbox::new().pid_ns().closure().stdout(Stdio::piped()).run(|| println!("hello"))?;
    /// assert_eq!(finished.stdout, b"hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stdout(stdio);
        self
    }

    /// Where its stderr goes; inherited unless set.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let finished = Sandbox::new().pid_ns().closure().stderr(Stdio::piped()).run(|| eprintln!("oh"))?;
    /// assert_eq!(finished.stderr, b"oh\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stderr(stdio);
        self
    }

    /// Hands a descriptor over, as [`Command::fd`] does. That it is captured does not hand it over.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// use std::os::fd::FromRawFd as _;
    /// let (reader, writer) = std::io::pipe().unwrap();
    /// let closure = Sandbox::new().pid_ns().closure().fd(3, writer);
    /// closure.run(|| {
    ///     // SAFETY: it was handed over as this number, and nobody else here has it.
    ///     let mut pipe = unsafe { std::fs::File::from_raw_fd(3) };
    ///     std::io::Write::write_all(&mut pipe, b"hello").is_ok()
    /// })?;
    /// assert_eq!(std::io::read_to_string(reader).unwrap(), "hello");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn fd(mut self, target: u32, fd: impl Into<OwnedFd>) -> Self {
        self.command.fd(target, fd);
        self
    }

    /// Its working directory; see [`Command::current_dir`].
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let closure = Sandbox::new().pid_ns().closure().current_dir("/usr");
    /// let finished = closure.run(|| std::env::current_dir().ok())?;
    /// assert_eq!(finished.value, Ok(Some("/usr".into())));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// How many bytes its result may have; 1 MiB unless set. As many elements may be in it, whatever their size.
    ///
    /// ```
    /// # use stockade::{NoValue, Sandbox};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let finished = Sandbox::new().pid_ns().closure().result_limit(10).run(|| "x".repeat(100))?;
    /// assert!(matches!(finished.value, Err(NoValue::TooLarge { limit: 10, .. })));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn result_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Runs it to its end.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let words = vec!["every", "word"];
    /// let finished = Sandbox::new().pid_ns().closure().run(|| words.len())?;
    /// assert_eq!(finished.value, Ok(2));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::MultiThreaded`]; [`Error::Malformed`] if what came back is no `T`, which takes a closure that writes over its
    /// own memory; else as for [`Command::spawn`] and [`Child::wait`].
    pub fn run<T: Serialize + DeserializeOwned>(mut self, f: impl FnOnce() -> T) -> Result<Finished<T>, Error> {
        let inheritance = Inheritance::take()?;
        let outbox = Outbox::new(self.limit)?;
        let slot = outbox.slot()?;
        let f = Cell::new(Some(f));
        let child = self.launch(&inheritance, &|| match f.take() {
            Some(f) => slot.fill(|| Ok(f())),
            None => PANICKED,
        })?;
        drop(slot);
        outbox.finish(child)
    }

    /// Starts it; what it returns is its exit code (0 to 255 of it).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let child = Sandbox::new().pid_ns().closure().spawn(|| 7)?;
    /// assert_eq!(child.wait()?.code(), Some(7));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Closure::run).
    pub fn spawn(mut self, f: impl FnOnce() -> i32) -> Result<Child, Error> {
        let inheritance = Inheritance::take()?;
        let f = Cell::new(Some(f));
        self.launch(&inheritance, &|| match f.take() {
            Some(f) => guarded(f).unwrap_or(PANICKED),
            None => PANICKED,
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Starts what the origin goes on to be.
    pub(crate) fn launch_from(&mut self, origin: &Origin<'_>) -> Result<Child, Error> {
        self.command.spawn_from(&Stdio::inherit(), origin)
    }

    fn launch(&mut self, inheritance: &Inheritance, call: &dyn Fn() -> i32) -> Result<Child, Error> {
        let fork = |socket: OwnedFd, _| fork_host(&socket, inheritance, call);
        self.launch_from(&fork)
    }
}

impl From<Sandbox> for Closure {
    fn from(sandbox: Sandbox) -> Self {
        Self::in_sandbox(sandbox)
    }
}
impl From<&Sandbox> for Closure {
    fn from(sandbox: &Sandbox) -> Self {
        Self::in_sandbox(sandbox.clone())
    }
}
impl From<&Prepared> for Closure {
    fn from(prepared: &Prepared) -> Self {
        Self::in_prepared(prepared.clone())
    }
}

/// Bytes of a result, unless said otherwise.
pub(crate) const DEFAULT_LIMIT: usize = 1 << 20;
/// The exit code of what panicked; the same as of a Rust program.
pub(crate) const PANICKED: i32 = 101;
/// Bytes of a panic's message that are kept.
const MESSAGE: usize = 4096;

/// What a fork would have of the host, but must not.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// Numbers of the open descriptors.
    pub(crate) open: Vec<u32>,
    /// Where memory is that both would write to: address and length.
    pub(crate) shared: Vec<(usize, usize)>,
}

impl Inheritance {
    /// Looks at this process, which must have one thread.
    pub(crate) fn take() -> Result<Self, Error> {
        let failed = |error| Error::host("look at this process in procfs")(error);
        let status = std::fs::read_to_string("/proc/self/status").map_err(failed)?;
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
        match threads {
            Some(1) => {}
            Some(threads) => return Err(Error::MultiThreaded { threads }),
            None => return Err(failed(io::ErrorKind::InvalidData.into())),
        }
        Ok(Self { open: open_descriptors().map_err(failed)?, shared: shared_memory().map_err(failed)? })
    }
}

#[cfg(not(miri))]
impl Inheritance {
    /// In a fork: memory that is shared with the host goes.
    pub(crate) fn give_up(&self) {
        for (base, len) in &self.shared {
            // SAFETY: neither the stage nor the zygote has anything there. A closure may have, and is documented to end if it
            // goes there.
            if unsafe { sys::take_away(*base, *len) }.is_err() {
                // Never on with less than that.
                sys::exit(70);
            }
        }
    }
}

fn open_descriptors() -> io::Result<Vec<u32>> {
    let directory = File::open("/proc/self/fd")?;
    let own = directory.as_raw_fd().to_string();
    let mut open = vec![];
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        open.extend(name.parse::<u32>().ok().filter(|_| name != own));
    }
    Ok(open)
}

/// What is mapped shared and can be written to, now or after mprotect(2).
fn shared_memory() -> io::Result<Vec<(usize, usize)>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let read_only = |line: &str| mapping(line).is_some_and(|(_, mode)| mode.starts_with("r-") && mode.ends_with('s'));
    // Whether it can be made writable is told by the list that is dear to read.
    let maps = if maps.lines().any(read_only) { std::fs::read_to_string("/proc/self/smaps")? } else { maps };
    Ok(parse_shared(&maps))
}

fn parse_shared(maps: &str) -> Vec<(usize, usize)> {
    let mut shared = vec![];
    let mut candidate = None;
    for line in maps.lines() {
        if let Some((range, mode)) = mapping(line) {
            candidate = None;
            match mode.as_bytes() {
                [_, b'w', _, b's'] => shared.push(range),
                [.., b's'] => candidate = Some(range),
                _ => {}
            }
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && flags.split_whitespace().any(|flag| flag == "mw")
        {
            shared.extend(candidate);
        }
    }
    shared
}

/// A line of `/proc/PID/maps`: address, length and mode; none of the lines that smaps has in between.
fn mapping(line: &str) -> Option<((usize, usize), &str)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16));
    let (start, end) = (start.ok()?, end.ok()?);
    let mode = words.next().filter(|mode| mode.len() == 4)?;
    Some(((start, end.checked_sub(start)?), mode))
}

/// Where code is that this process can execute.
pub(crate) fn code_ranges() -> Result<Vec<(usize, usize)>, Error> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(Error::host("look at this process in procfs"))?;
    let executable = maps.lines().filter_map(mapping).filter(|(_, mode)| mode.contains('x'));
    Ok(executable.map(|(range, _)| range).collect())
}

/// Calls it, and keeps its panic: nothing may go up into the copy of the host's stack.
pub(crate) fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let value = f();
        let _ = io::stdout().flush();
        value
    }));
    result.map_err(|payload| {
        let message = message_of(&*payload);
        // Its drop could panic in turn.
        std::mem::forget(payload);
        message
    })
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a panic without a message");
    let end = (0..=message.len().min(MESSAGE)).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    message.get(..end).unwrap_or_default().to_owned()
}

/// Forks this process, which must have a single thread. What is called in the fork never comes back.
#[cfg(not(miri))]
pub(crate) fn fork_process(child: impl FnOnce() -> std::convert::Infallible) -> Result<Pid, Error> {
    unsafe extern "C" {
        fn fork() -> core::ffi::c_int;
    }
    // What is written twice otherwise.
    let _ = io::stdout().flush();
    // A handler of the host's must not run in the fork.
    let mask = sys::swap_signal_mask(u64::MAX).map_err(errno("block signals"))?;
    // SAFETY: there is one thread, so that no lock is held by one that the fork has not.
    let pid = unsafe { fork() };
    if pid == 0 {
        // A panic in it, of a check that debug builds have, ends the process like any other.
        let _ = catch_unwind(AssertUnwindSafe(child));
        sys::exit(70);
    }
    let error = io::Error::last_os_error();
    let _ = sys::swap_signal_mask(mask);
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| Error::host("fork")(error))
}

/// Forks this process. The fork becomes the stage, the agent, the closure; what it was never goes on.
#[cfg(not(miri))]
fn fork_host(socket: &OwnedFd, inheritance: &Inheritance, call: &dyn Fn() -> i32) -> Result<Started, Error> {
    let body = enter::Body { call, open: &inheritance.open, tid: thread_number() };
    let pid = fork_process(|| {
        inheritance.give_up();
        become_stage(socket, body)
    })?;
    Ok(Started { pid, pidfd: None })
}

#[cfg(miri)]
fn fork_host(_: &OwnedFd, _: &Inheritance, _: &dyn Fn() -> i32) -> Result<Started, Error> {
    Err(Error::host("fork")(io::Error::from(io::ErrorKind::Unsupported)))
}

/// In a fork: all that follows.
#[cfg(not(miri))]
pub(crate) fn become_stage(socket: &OwnedFd, body: enter::Body<'_>) -> ! {
    let socket = socket.as_raw_fd();
    if socket != 0 && sys::dup3(sys::Fd(socket), 0).is_err() {
        sys::exit(70);
    }
    enter::run(sys::Fd(0), Some(body))
}

#[cfg(not(miri))]
pub(crate) fn errno(what: &'static str) -> impl FnOnce(sys::Errno) -> Error {
    move |errno| Error::host(what)(io::Error::from_raw_os_error(errno.0))
}

/// Where the C library keeps this thread's number, which abort(3) and others go by; as glibc tells the kernel.
#[cfg(not(miri))]
pub(crate) fn thread_number() -> sys::Tid {
    const PR_GET_TID_ADDRESS: u32 = 40;
    let mut address = 0usize;
    let asked = sys::prctl(PR_GET_TID_ADDRESS, (&raw mut address).expose_provenance(), 0);
    let place = std::ptr::with_exposed_provenance::<i32>(address);
    if asked.is_err() || place.is_null() || !place.is_aligned() {
        return sys::Tid::NONE;
    }
    // SAFETY: the kernel writes an `i32` there when this thread ends, as the C library has told it to: it is memory for as
    // long as the thread lives.
    let number = unsafe { place.read_volatile() };
    // Other libraries have something else there.
    if number == rustix::thread::gettid().as_raw_nonzero().get() { sys::Tid(address) } else { sys::Tid::NONE }
}

/// Memory that a closure leaves its result in, without a system call: `Head`, then bytes. Sealed in its size.
#[derive(Debug)]
pub(crate) struct Outbox {
    memory: File,
    limit: usize,
}

/// What stands before the bytes: one of `said`, and their number.
const HEAD: usize = 8;

/// How it went, as the closure's process says.
mod said {
    pub(super) const NOTHING: u32 = 0;
    pub(super) const RETURNED: u32 = 1;
    pub(super) const PANICKED: u32 = 2;
    pub(super) const TOO_LARGE: u32 = 3;
    pub(super) const REFUSED: u32 = 4;
}

impl Outbox {
    pub(crate) fn new(limit: usize) -> Result<Self, Error> {
        if u32::try_from(limit).is_err() {
            return Err(Error::invalid("result_limit", "4 GiB or more"));
        }
        let memory = scratch(c"stockade-result", Self::size(limit) as u64)?;
        Ok(Self { memory, limit })
    }

    /// There is always room for a message.
    fn size(limit: usize) -> usize {
        HEAD + limit.max(MESSAGE)
    }

    pub(crate) fn memory(&self) -> &File {
        &self.memory
    }

    /// For the closure's side.
    pub(crate) fn slot(&self) -> Result<Slot, Error> {
        Slot::map(&self.memory, self.limit)
    }

    /// Waits for the closure and collects what it has left.
    pub(crate) fn finish<T: DeserializeOwned>(self, child: Child) -> Result<Finished<T>, Error> {
        let output = child.wait_with_output()?;
        let value = self.read()?;
        Ok(Finished { outcome: output.outcome, value, stdout: output.stdout, stderr: output.stderr })
    }

    /// Nothing of it is believed; it is copied before it is looked at.
    fn read<T: DeserializeOwned>(&self) -> Result<Result<T, NoValue>, Error> {
        let failed = |error| Error::host("read a closure's result")(error);
        let malformed = |reason: String| Error::Malformed { what: "the closure's result", reason };
        let mut head = [[0; 4]; 2];
        self.memory.read_exact_at(head.as_flattened_mut(), 0).map_err(failed)?;
        let [said, len] = head.map(u32::from_ne_bytes);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > self.limit.max(MESSAGE) {
            return Err(malformed(format!("{len} bytes, of {} at most", self.limit)));
        }
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, HEAD as u64).map_err(failed)?;
        let text = |bytes: &[u8]| {
            let end = bytes.len().min(MESSAGE);
            String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
        };
        Ok(match said {
            said::NOTHING => Err(NoValue::Ended),
            said::RETURNED => Ok(codec::decode(&bytes, self.limit).map_err(|trouble| malformed(trouble.to_string()))?),
            said::PANICKED => Err(NoValue::Panicked { message: text(&bytes) }),
            said::TOO_LARGE => Err(NoValue::TooLarge { limit: self.limit }),
            said::REFUSED => Err(NoValue::Refused { reason: text(&bytes) }),
            said => return Err(malformed(format!("no closure ends as {said}"))),
        })
    }
}

/// The closure's side of an outbox: the same memory, mapped.
pub(crate) struct Slot {
    base: *mut u8,
    limit: usize,
}

impl Slot {
    pub(crate) fn map(memory: &File, limit: usize) -> Result<Self, Error> {
        let len = Outbox::size(limit);
        let found = memory.metadata().map_err(Error::host("map shared memory"))?.len();
        if found < len as u64 {
            return Err(Error::host("map shared memory")(rustix::io::Errno::INVAL));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, which nothing else refers to.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, memory, 0) };
        Ok(Self { base: base.map_err(Error::host("map shared memory"))?.cast(), limit })
    }

    /// Runs it, and leaves what it returns. The exit code.
    pub(crate) fn fill<T: Serialize>(&self, f: impl FnOnce() -> codec::Result<T>) -> i32 {
        let limit = self.limit;
        let (said, bytes) = match guarded(|| codec::encode(&f()?, limit)) {
            Ok(Ok(bytes)) => (said::RETURNED, bytes),
            Ok(Err(Trouble::TooLarge)) => (said::TOO_LARGE, vec![]),
            Ok(Err(Trouble::Other(reason))) => (said::REFUSED, reason.into_bytes()),
            Err(message) => (said::PANICKED, message.into_bytes()),
        };
        let room = if said == said::RETURNED { limit } else { MESSAGE };
        self.put(said, bytes.get(..bytes.len().min(room)).unwrap_or_default());
        if said == said::RETURNED { 0 } else { PANICKED }
    }

    fn put(&self, said: u32, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        // SAFETY: the mapping has room for the head and as many bytes as the limit or a message has, whichever is more; the
        // bytes are no more than that. Nobody has a reference to it.
        unsafe {
            self.base.add(HEAD).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.base.add(4).cast::<[u8; 4]>().write_volatile(len.to_ne_bytes());
            self.base.cast::<[u8; 4]>().write_volatile(said.to_ne_bytes());
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let _ = unsafe { munmap(self.base.cast(), Outbox::size(self.limit)) };
    }
}
