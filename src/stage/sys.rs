//! Raw system calls, and the only unsafe code of the stage.
//!
//! Each wrapper is safe: what the kernel writes to is a local or a borrowed buffer of the right size, and strings are
//! `CStr`s. Numbers and layouts are from the kernel's uapi headers. No libc: the stage links none, and a fork of a
//! program with threads must not touch the one it has.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A descriptor. Not owned: the stage's processes end soon, and close what matters by [`close_range`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub i32);

/// The current directory, for the calls that take a directory.
pub const AT_FDCWD: Fd = Fd(-100);

/// An error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const NOENT: Self = Self(2);
    pub const SRCH: Self = Self(3);
    pub const INTR: Self = Self(4);
    pub const ACCES: Self = Self(13);
    pub const NOTDIR: Self = Self(20);
    pub const AGAIN: Self = Self(11);
    pub const EXIST: Self = Self(17);
    pub const INVAL: Self = Self(22);
    pub const MFILE: Self = Self(24);
    pub const NAMETOOLONG: Self = Self(36);
    pub const NOSYS: Self = Self(38);
    pub const TOOBIG: Self = Self(7);
    pub const PROTO: Self = Self(71);
    pub const STALE: Self = Self(116);
    pub const XDEV: Self = Self(18);
    pub const PERM: Self = Self(1);
    pub const PIPE: Self = Self(32);
    pub const NOMEM: Self = Self(12);
    pub const CONNRESET: Self = Self(104);
}

pub type Result<T> = core::result::Result<T, Errno>;

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
mod nr {
    pub const CLOSE: usize = 3; pub const MMAP: usize = 9; pub const SIGACTION: usize = 13;
    pub const SIGPROCMASK: usize = 14; pub const IOCTL: usize = 16; pub const SOCKET: usize = 41;
    pub const SENDMSG: usize = 46; pub const RECVMSG: usize = 47; pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59; pub const WAIT4: usize = 61; pub const KILL: usize = 62;
    pub const FCNTL: usize = 72; pub const GETCWD: usize = 79; pub const CHDIR: usize = 80;
    pub const FCHDIR: usize = 81; pub const UMASK: usize = 95; pub const SETSID: usize = 112;
    pub const SETGROUPS: usize = 116; pub const SETRESUID: usize = 117; pub const SETRESGID: usize = 119;
    pub const CAPGET: usize = 125; pub const CAPSET: usize = 126; pub const PIVOT_ROOT: usize = 155;
    pub const PRCTL: usize = 157; pub const CHROOT: usize = 161; pub const MOUNT: usize = 165;
    pub const UMOUNT2: usize = 166; pub const SETHOSTNAME: usize = 170; pub const SETDOMAINNAME: usize = 171;
    pub const CLOCK_GETTIME: usize = 228; pub const EXIT_GROUP: usize = 231; pub const OPENAT: usize = 257;
    pub const MKDIRAT: usize = 258; pub const MKNODAT: usize = 259; pub const SYMLINKAT: usize = 266;
    pub const PPOLL: usize = 271; pub const UNSHARE: usize = 272; pub const SIGNALFD4: usize = 289;
    pub const DUP3: usize = 292; pub const PIPE2: usize = 293; pub const PRLIMIT64: usize = 302;
    pub const SETNS: usize = 308; pub const STATX: usize = 332; pub const READ: usize = 0; pub const WRITE: usize = 1;
    pub const GETEUID: usize = 107; pub const GETEGID: usize = 108; pub const PREAD: usize = 17;
    pub const KEYCTL: usize = 250; pub const FCHOWN: usize = 93; pub const MUNMAP: usize = 11;
    pub const PWRITE: usize = 18; pub const WAITID: usize = 247; pub const SOCKETPAIR: usize = 53;
    pub const FSTATFS: usize = 138; pub const SECCOMP: usize = 317; pub const GETRANDOM: usize = 318;
    pub const EXIT: usize = 60; pub const SCHED_YIELD: usize = 24;
}
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
#[rustfmt::skip]
mod nr {
    pub const GETCWD: usize = 17; pub const DUP3: usize = 24; pub const FCNTL: usize = 25;
    pub const IOCTL: usize = 29; pub const MKNODAT: usize = 33; pub const MKDIRAT: usize = 34;
    pub const SYMLINKAT: usize = 36; pub const UMOUNT2: usize = 39; pub const MOUNT: usize = 40;
    pub const PIVOT_ROOT: usize = 41; pub const CHDIR: usize = 49; pub const FCHDIR: usize = 50;
    pub const CHROOT: usize = 51; pub const OPENAT: usize = 56; pub const CLOSE: usize = 57;
    pub const PIPE2: usize = 59; pub const READ: usize = 63; pub const WRITE: usize = 64; pub const PPOLL: usize = 73;
    pub const SIGNALFD4: usize = 74; pub const CAPGET: usize = 90; pub const CAPSET: usize = 91;
    pub const EXIT_GROUP: usize = 94; pub const UNSHARE: usize = 97; pub const CLOCK_GETTIME: usize = 113;
    pub const KILL: usize = 129; pub const SIGACTION: usize = 134; pub const SIGPROCMASK: usize = 135;
    pub const SETRESUID: usize = 147; pub const SETRESGID: usize = 149; pub const SETSID: usize = 157;
    pub const SETGROUPS: usize = 159; pub const SETHOSTNAME: usize = 161; pub const SETDOMAINNAME: usize = 162;
    pub const UMASK: usize = 166; pub const PRCTL: usize = 167; pub const GETEUID: usize = 175;
    pub const GETEGID: usize = 177; pub const PREAD: usize = 67; pub const KEYCTL: usize = 219;
    pub const FCHOWN: usize = 55; pub const SOCKET: usize = 198; pub const SENDMSG: usize = 211;
    pub const RECVMSG: usize = 212; pub const CLONE: usize = 220; pub const EXECVE: usize = 221;
    pub const MMAP: usize = 222; pub const FSTATFS: usize = 44; pub const PWRITE: usize = 68;
    pub const SOCKETPAIR: usize = 199; pub const WAITID: usize = 95; pub const MUNMAP: usize = 215;
    pub const SECCOMP: usize = 277; pub const GETRANDOM: usize = 278; pub const EXIT: usize = 93;
    pub const SCHED_YIELD: usize = 124; pub const WAIT4: usize = 260; pub const PRLIMIT64: usize = 261;
    pub const SETNS: usize = 268; pub const STATX: usize = 291;
}
/// The same on every architecture.
#[rustfmt::skip]
mod new {
    pub const PIDFD_SEND_SIGNAL: usize = 424; pub const OPEN_TREE: usize = 428; pub const MOVE_MOUNT: usize = 429; pub const FSOPEN: usize = 430;
    pub const FSCONFIG: usize = 431; pub const FSMOUNT: usize = 432; pub const CLOSE_RANGE: usize = 436; pub const OPENAT2: usize = 437;
    pub const MOUNT_SETATTR: usize = 442; pub const CLONE3: usize = 435;
    pub const LANDLOCK_CREATE_RULESET: usize = 444; pub const LANDLOCK_ADD_RULE: usize = 445; pub const LANDLOCK_RESTRICT_SELF: usize = 446;
}

/// One system call with six arguments.
///
/// # Safety
///
/// The arguments must be what the call `number` expects: pointers that are valid for what it reads and writes.
unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    let [a, b, c, d, e, f] = args;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's calling convention: rcx and r11 are lost, memory may be written; the caller vouches for the arguments.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's calling convention: only x0 changes; the caller vouches for the arguments.
    unsafe {
        core::arch::asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c,
            in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: the kernel's calling convention: only a0 changes; the caller vouches for the arguments.
    unsafe {
        core::arch::asm!("ecall", in("a7") number, inlateout("a0") a as isize => result, in("a1") b, in("a2") c,
            in("a3") d, in("a4") e, in("a5") f, options(nostack));
    }
    result
}

fn check(result: isize) -> Result<usize> {
    // The kernel returns errors as -4095..=-1.
    if (-4095..0).contains(&result) { Err(Errno(-(result as i32))) } else { Ok(result as usize) }
}

/// What is in [`PASS`], and is left there by nothing but a launch's own last calls.
fn pad<const N: usize>(given: [usize; N]) -> [usize; 6] {
    let [e, f] = if N <= 4 { PASS.each_ref().map(|half| half.load(Ordering::Relaxed)) } else { [0; 2] };
    let mut args = [0, 0, 0, 0, e, f];
    if let Some((head, _)) = args.split_at_mut_checked(N) {
        head.copy_from_slice(&given);
    }
    args
}

/// `call!(NR, a, b, ...)`: a checked system call whose missing arguments are 0. What the arguments borrow lives as long as
/// the `match`.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {
        match pad([$($arg),*]) {
            // SAFETY: each use below passes numbers, or pointers to live values of the size that the call needs.
            args => check(unsafe { syscall($number, args) }),
        }
    };
}

const fn fd(fd: Fd) -> usize {
    fd.0 as isize as usize
}
fn text(text: &CStr) -> usize {
    text.as_ptr() as usize
}
fn place<T>(value: &T) -> usize {
    core::ptr::from_ref(value) as usize
}
fn place_mut<T>(value: &mut T) -> usize {
    core::ptr::from_mut(value) as usize
}
fn new_fd(result: usize) -> Fd {
    Fd(result as i32)
}

/// What a filter lets the launch's own last calls through by: values for the fifth and sixth argument, which calls of up to
/// four do not look at.
#[derive(Clone, Copy)]
pub struct Pass(pub [u64; 2]);

/// This process's own: of one thread, on its way to a program.
static PASS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// From here on all calls of up to four arguments have it. Some want what they do not use to be 0; none that is made after
/// that.
pub fn set_pass(pass: Pass) {
    for (half, value) in PASS.iter().zip(pass.0) {
        half.store(value as usize, Ordering::Relaxed);
    }
}

// Processes.

pub fn exit(code: i32) -> ! {
    loop {
        let _ = call!(nr::EXIT_GROUP, code as usize);
    }
}

/// Lets go of the CPU, if somebody waits for it.
pub fn give_way() {
    let _ = call!(nr::SCHED_YIELD);
}

/// Ends a process whose filter may refuse that.
pub fn end(code: i32) -> ! {
    for number in [nr::EXIT_GROUP, nr::EXIT] {
        let _ = call!(number, code as usize);
    }
    loop {
        // SAFETY: an instruction that no machine knows; the kernel ends the process for it, whatever its filter says.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            core::arch::asm!("ud2", options(nostack));
            #[cfg(target_arch = "aarch64")]
            core::arch::asm!("udf 0", options(nostack));
            #[cfg(target_arch = "riscv64")]
            core::arch::asm!("unimp", options(nostack));
        }
    }
}

/// The effective user and group.
pub fn effective_ids() -> (u32, u32) {
    let id = |result: Result<usize>| result.map_or(u32::MAX, |id| id as u32);
    (id(call!(nr::GETEUID)), id(call!(nr::GETEGID)))
}

pub const CLONE_PARENT: u32 = 0x8000;
const CLONE_PIDFD: u32 = 0x1000;
const SIGCHLD: u32 = 17;

/// What [`fork`] returns: twice.
pub enum Fork {
    Child,
    Parent { pid: i32, pidfd: Fd },
}

/// Where the C library keeps a thread's number, for a fork that goes on with it: the kernel writes the new one there.
#[derive(Clone, Copy)]
pub struct Tid(pub usize);

impl Tid {
    pub const NONE: Self = Self(0);

    fn flags(self) -> u32 {
        const CLONE_CHILD_CLEARTID: u32 = 0x20_0000;
        const CLONE_CHILD_SETTID: u32 = 0x100_0000;
        if self.0 == 0 { 0 } else { CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID }
    }
}

/// Forks, with a pidfd for the parent. The old `clone(2)`: outer containers answer `clone3(2)` with ENOSYS.
pub fn fork(flags: u32, tid: Tid) -> Result<Fork> {
    let mut pidfd = -1i32;
    // A child of one's parent reports to it as its sibling does; the kernel ignores the signal's number there.
    let signal = if flags & CLONE_PARENT == 0 { SIGCHLD } else { 0 };
    let flags = (flags | CLONE_PIDFD | signal | tid.flags()) as usize;
    // The last two are the other way round on x86-64.
    let [fourth, fifth] = if cfg!(target_arch = "x86_64") { [tid.0, 0] } else { [0, tid.0] };
    let pid = call!(nr::CLONE, flags, 0, place_mut(&mut pidfd), fourth, fifth)?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent { pid: pid as i32, pidfd: Fd(pidfd) } })
}

/// Forks into a cgroup of version 2.
pub fn fork_into(cgroup: Fd, tid: Tid) -> Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    /// The kernel's `struct clone_args`.
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        tids: [u64; 2],
        exit_signal: u64,
        rest: [u64; 5],
        cgroup: u64,
    }
    let mut pidfd = -1i32;
    let arguments = Arguments {
        flags: CLONE_INTO_CGROUP | u64::from(CLONE_PIDFD | tid.flags()),
        pidfd: place_mut(&mut pidfd) as u64,
        tids: [tid.0 as u64, 0],
        exit_signal: u64::from(SIGCHLD),
        cgroup: cgroup.0 as u64,
        ..Arguments::default()
    };
    let pid = call!(new::CLONE3, place(&arguments), size_of::<Arguments>())?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent { pid: pid as i32, pidfd: Fd(pidfd) } })
}

/// Executes. Returns only if it failed.
pub fn execve(path: &CStr, arguments: &Pointers<'_>, environment: &Pointers<'_>) -> Errno {
    // On riscv64 the program would find the secret in its registers; there the policy itself must allow the exec.
    let [e, f] =
        if cfg!(target_arch = "riscv64") { [0; 2] } else { PASS.each_ref().map(|half| half.load(Ordering::Relaxed)) };
    match call!(nr::EXECVE, text(path), arguments.base, environment.base, 0, e, f) {
        Err(errno) => errno,
        Ok(_) => Errno::INVAL,
    }
}

/// A NULL-terminated array of string pointers, in memory of its own, as execve takes it.
pub struct Pointers<'a> {
    base: usize,
    len: usize,
    used: usize,
    of: PhantomData<&'a CStr>,
}

impl<'a> Pointers<'a> {
    pub fn new(capacity: usize) -> Result<Self> {
        let len = capacity + 1;
        // Anonymous memory is zero: the terminator is there already.
        Ok(Self { base: map(None, len * size_of::<usize>(), PROT_READ | PROT_WRITE)?, len, used: 0, of: PhantomData })
    }

    /// Adds a string, which must stay where it is until the exec. One too many is left out.
    pub fn push(&mut self, string: &'a CStr) {
        if self.used + 1 < self.len {
            // SAFETY: `base` is a private writable mapping of `len` words, and `used` is below `len - 1`.
            unsafe { (self.base as *mut usize).add(self.used).write(text(string)) };
            self.used += 1;
        }
    }
}

pub struct Reaped {
    pub pid: i32,
    pub status: i32,
    pub usage: Usage,
}

/// The kernel's `struct rusage`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Usage {
    user: [i64; 2],
    system: [i64; 2],
    pub max_rss: i64,
    _unused: [i64; 5],
    _swaps: i64,
    pub in_blocks: i64,
    pub out_blocks: i64,
    _rest: [i64; 5],
}

impl Usage {
    pub fn user_us(&self) -> u64 {
        micros(self.user)
    }
    pub fn system_us(&self) -> u64 {
        micros(self.system)
    }
}

fn micros([seconds, micros]: [i64; 2]) -> u64 {
    (seconds as u64).wrapping_mul(1_000_000).wrapping_add(micros as u64)
}

impl Reaped {
    /// It has not ended: a signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        self.status & 0xff == 0x7f
    }
}

/// Reaps one child, or tells that one was stopped. With `block` false, `None` is: none has ended yet. ECHILD is: there is
/// none.
pub fn wait(block: bool) -> Result<Option<Reaped>> {
    const WNOHANG: usize = 1;
    const WUNTRACED: usize = 2;
    const WALL: usize = 0x4000_0000;
    let mut status = 0i32;
    let mut usage = Usage::default();
    let flags = WALL | WUNTRACED | if block { 0 } else { WNOHANG };
    loop {
        match call!(nr::WAIT4, usize::MAX, place_mut(&mut status), flags, place_mut(&mut usage)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(0) => return Ok(None),
            Ok(pid) => return Ok(Some(Reaped { pid: pid as i32, status, usage })),
        }
    }
}

/// A child that has ended and is not reaped yet: its number.
pub fn ended() -> Option<i32> {
    const P_ALL: usize = 0;
    const OPTIONS: usize = 0x4000_0000 | 0x100_0000 | 4 | 1; // __WALL, WNOWAIT, WEXITED, WNOHANG
    let mut information = [0i32; 32];
    call!(nr::WAITID, P_ALL, 0, place_mut(&mut information), OPTIONS, 0).ok()?;
    // `si_pid`; zero where there is none.
    information.get(4).copied().filter(|pid| *pid != 0)
}

pub const SIGKILL: u32 = 9;
pub const SIGTERM: u32 = 15;
pub const SIGCONT: u32 = 18;
pub const SIGSYS: u32 = 31;

pub fn kill(pid: i32, signal: u32) -> Result<()> {
    call!(nr::KILL, pid as isize as usize, signal as usize).map(drop)
}

pub fn pidfd_send_signal(pidfd: Fd, signal: u32) -> Result<()> {
    call!(new::PIDFD_SEND_SIGNAL, fd(pidfd), signal as usize).map(drop)
}

pub fn setsid() -> Result<()> {
    call!(nr::SETSID).map(drop)
}

/// A session keyring of its own, empty (keyrings(7)).
pub fn new_session_keyring() -> Result<()> {
    const GET_KEYRING_ID: usize = 0;
    const JOIN_SESSION_KEYRING: usize = 1;
    const SESSION_KEYRING: usize = -3isize as usize;
    match call!(nr::KEYCTL, JOIN_SESSION_KEYRING, 0) {
        // No keyrings in this kernel, or an outer filter that keeps everybody from them; if that is so, from the host's
        // too.
        Err(errno @ (Errno::NOSYS | Errno::PERM)) => match call!(nr::KEYCTL, GET_KEYRING_ID, SESSION_KEYRING, 0) {
            Err(Errno::NOSYS | Errno::PERM) => Ok(()),
            _ => Err(errno),
        },
        result => result.map(drop),
    }
}

pub fn umask(mask: u32) {
    let _ = call!(nr::UMASK, mask as usize);
}

/// Sets every signal's disposition to the default. Those of SIGKILL and SIGSTOP are nothing else.
pub fn default_signals() -> Result<()> {
    const SIGSTOP: u32 = 19;
    let none = [0u64; 4];
    for signal in (1..=64).filter(|signal| ![SIGKILL, SIGSTOP].contains(signal)) {
        call!(nr::SIGACTION, signal as usize, place(&none), 0, 8)?;
    }
    Ok(())
}

/// Blocks all signals, or none.
pub fn block_signals(all: bool) -> Result<()> {
    const SIG_SETMASK: usize = 2;
    let mask = if all { u64::MAX } else { 0 };
    call!(nr::SIGPROCMASK, SIG_SETMASK, place(&mask), 0, 8).map(drop)
}

/// A descriptor that is readable when a child has ended.
pub fn child_signals() -> Result<Fd> {
    let mask = 1u64 << (SIGCHLD - 1);
    call!(nr::SIGNALFD4, usize::MAX, place(&mask), 8, (O_CLOEXEC | O_NONBLOCK) as usize).map(new_fd)
}

/// Sets the signals that are blocked; which were before.
pub fn swap_signal_mask(mask: u64) -> Result<u64> {
    const SIG_SETMASK: usize = 2;
    let mut before = 0u64;
    call!(nr::SIGPROCMASK, SIG_SETMASK, place(&mask), place_mut(&mut before), 8)?;
    Ok(before)
}

/// What nobody can guess.
pub fn random() -> Result<[u64; 2]> {
    let mut bytes = [0u64; 2];
    match call!(nr::GETRANDOM, place_mut(&mut bytes), size_of_val(&bytes), 0)? {
        16 => Ok(bytes),
        _ => Err(Errno::AGAIN),
    }
}

pub fn prctl(option: u32, a: usize, b: usize) -> Result<usize> {
    call!(nr::PRCTL, option as usize, a, b)
}
pub const PR_SET_DUMPABLE: u32 = 4;
pub const PR_SET_KEEPCAPS: u32 = 8;
pub const PR_SET_NAME: u32 = 15;
pub const PR_CAPBSET_DROP: u32 = 24;
pub const PR_SET_PDEATHSIG: u32 = 1;
pub const PR_GET_SECUREBITS: u32 = 27;
pub const PR_SET_SECUREBITS: u32 = 28;
pub const PR_SET_CHILD_SUBREAPER: u32 = 36;
pub const PR_SET_NO_NEW_PRIVS: u32 = 38;
pub const PR_CAP_AMBIENT: u32 = 47;
pub const PR_CAP_AMBIENT_RAISE: usize = 2;
pub const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;

/// Names this thread, for people who look at a process list.
pub fn set_name(name: &CStr) {
    let _ = call!(nr::PRCTL, PR_SET_NAME as usize, text(name));
}

pub fn fchown(file: Fd, uid: u32) -> Result<()> {
    call!(nr::FCHOWN, fd(file), uid as usize, usize::MAX).map(drop)
}

pub fn setgroups(ids: &[u32]) -> Result<()> {
    call!(nr::SETGROUPS, ids.len(), ids.as_ptr() as usize).map(drop)
}
pub fn setresuid(uid: u32) -> Result<()> {
    call!(nr::SETRESUID, uid as usize, uid as usize, uid as usize).map(drop)
}
pub fn setresgid(gid: u32) -> Result<()> {
    call!(nr::SETRESGID, gid as usize, gid as usize, gid as usize).map(drop)
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// The calling thread's permitted capabilities.
pub fn permitted() -> Result<u64> {
    let header = [CAP_VERSION_3, 0];
    let mut data = [0u32; 6];
    call!(nr::CAPGET, place(&header), place_mut(&mut data))?;
    let [_, low, _, _, high, _] = data;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// Sets the effective, permitted and inheritable sets.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [CAP_VERSION_3, 0];
    let [low, high] = [0, 32].map(|shift| [effective, permitted, inheritable].map(|set| (set >> shift) as u32));
    call!(nr::CAPSET, place(&header), place(&[low, high])).map(drop)
}

pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    call!(nr::PRLIMIT64, 0, resource as usize, place(&[soft, hard])).map(drop)
}
pub fn get_rlimit(resource: u32) -> Result<[u64; 2]> {
    let mut limit = [0u64; 2];
    call!(nr::PRLIMIT64, 0, resource as usize, 0, place_mut(&mut limit))?;
    Ok(limit)
}
pub const RLIMIT_NOFILE: u32 = 7;

// Namespaces.

pub const CLONE_NEWCGROUP: u32 = 0x200_0000;
pub const CLONE_NEWUSER: u32 = 0x1000_0000;
pub const CLONE_NEWNS: u32 = 0x2_0000;
pub const CLONE_NEWPID: u32 = 0x2000_0000;

pub fn unshare(flags: u32) -> Result<()> {
    call!(nr::UNSHARE, flags as usize).map(drop)
}
pub fn setns(namespace: Fd, kind: u32) -> Result<()> {
    call!(nr::SETNS, fd(namespace), kind as usize).map(drop)
}
pub fn sethostname(name: &CStr) -> Result<()> {
    call!(nr::SETHOSTNAME, text(name), name.count_bytes()).map(drop)
}
pub fn setdomainname(name: &CStr) -> Result<()> {
    call!(nr::SETDOMAINNAME, text(name), name.count_bytes()).map(drop)
}

/// Sets the `IFF_UP` of `lo`.
pub fn loopback_up() -> Result<()> {
    const AF_INET: usize = 2;
    const SOCK_DGRAM: usize = 2;
    const SIOCSIFFLAGS: u32 = 0x8914;
    /// The kernel's `struct ifreq`.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let mut request = Request { name: [0; 16], flags: 1, rest: [0; 22] };
    if let Some(name) = request.name.first_chunk_mut() {
        *name = *b"lo";
    }
    let socket = new_fd(call!(nr::SOCKET, AF_INET, SOCK_DGRAM | O_CLOEXEC as usize, 0)?);
    let result = ioctl(socket, SIOCSIFFLAGS, place(&request));
    close(socket);
    result.map(drop)
}

// Descriptors.

pub const O_RDWR: u32 = 2;
pub const O_CREAT: u32 = 0o100;
pub const O_EXCL: u32 = 0o200;
pub const O_NOCTTY: u32 = 0o400;
pub const O_NONBLOCK: u32 = 0o4000;
#[cfg(any(target_arch = "x86_64", target_arch = "riscv64"))]
pub const O_DIRECTORY: u32 = 0o200_000;
#[cfg(any(target_arch = "x86_64", target_arch = "riscv64"))]
pub const O_NOFOLLOW: u32 = 0o400_000;
#[cfg(target_arch = "aarch64")]
pub const O_DIRECTORY: u32 = 0o40_000;
#[cfg(target_arch = "aarch64")]
pub const O_NOFOLLOW: u32 = 0o100_000;
pub const O_CLOEXEC: u32 = 0o2_000_000;
pub const O_PATH: u32 = 0o10_000_000;
pub const O_WRONLY: u32 = 1;

pub fn close(file: Fd) {
    let _ = call!(nr::CLOSE, fd(file));
}
/// The same for the last call that has the pass, of which nothing is left in memory.
pub fn close_last(file: Fd) {
    let [e, f] = PASS.each_ref().map(|half| half.swap(0, Ordering::Relaxed));
    let _ = call!(nr::CLOSE, fd(file), 0, 0, 0, e, f);
}

/// Closes all descriptors from `first` to `last`, both included. None is open from `bound` on: that counts only where they
/// must be closed one by one.
pub fn close_range(first: u32, last: u32, bound: u32) -> Result<()> {
    if first > last {
        return Ok(());
    }
    match call!(new::CLOSE_RANGE, first as usize, last as usize, 0) {
        // An outer filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            for number in first..=last.min(bound) {
                close(Fd(number as i32));
            }
            Ok(())
        }
        result => result.map(drop),
    }
}

pub fn openat(dir: Fd, path: &CStr, flags: u32, mode: u32) -> Result<Fd> {
    call!(nr::OPENAT, fd(dir), text(path), (flags | O_CLOEXEC) as usize, mode as usize).map(new_fd)
}

pub const RESOLVE_NO_XDEV: u64 = 1;
pub const RESOLVE_NO_MAGICLINKS: u64 = 2;
pub const RESOLVE_IN_ROOT: u64 = 0x10;

pub fn openat2(dir: Fd, path: &CStr, flags: u32, resolve: u64) -> Result<Fd> {
    let how = [u64::from(flags | O_CLOEXEC), 0, resolve];
    for _ in 0..100 {
        match call!(new::OPENAT2, fd(dir), text(path), place(&how), size_of_val(&how)) {
            // A rename elsewhere came in between.
            Err(Errno::AGAIN) => {}
            result => return result.map(new_fd),
        }
    }
    Err(Errno::AGAIN)
}

pub fn dup_above(file: Fd, least: u32) -> Result<Fd> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    call!(nr::FCNTL, fd(file), F_DUPFD_CLOEXEC, least as usize).map(new_fd)
}
pub fn dup3(file: Fd, target: u32) -> Result<()> {
    call!(nr::DUP3, fd(file), target as usize).map(drop)
}
/// The same, close-on-exec.
pub fn stand_in(file: Fd, target: u32) -> Result<()> {
    call!(nr::DUP3, fd(file), target as usize, O_CLOEXEC as usize).map(drop)
}
/// Two connected sockets that keep packets apart. Close-on-exec.
pub fn socket_pair() -> Result<[Fd; 2]> {
    const AF_UNIX: usize = 1;
    const SOCK_SEQPACKET: usize = 5;
    let mut ends = [-1i32; 2];
    let kind = SOCK_SEQPACKET | (O_CLOEXEC | O_NONBLOCK) as usize;
    call!(nr::SOCKETPAIR, AF_UNIX, kind, 0, place_mut(&mut ends))?;
    Ok(ends.map(Fd))
}
pub fn read(file: Fd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match call!(nr::READ, fd(file), buffer.as_mut_ptr() as usize, buffer.len()) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
pub fn pread(file: Fd, buffer: &mut [u8], offset: usize) -> Result<usize> {
    call!(nr::PREAD, fd(file), buffer.as_mut_ptr() as usize, buffer.len(), offset)
}
pub fn pwrite(file: Fd, bytes: &[u8], offset: usize) -> Result<usize> {
    call!(nr::PWRITE, fd(file), bytes.as_ptr() as usize, bytes.len(), offset)
}
pub fn write(file: Fd, bytes: &[u8]) -> Result<usize> {
    loop {
        match call!(nr::WRITE, fd(file), bytes.as_ptr() as usize, bytes.len()) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
fn ioctl(file: Fd, request: u32, argument: usize) -> Result<usize> {
    call!(nr::IOCTL, fd(file), request as usize, argument)
}

/// Opens a terminal in a devpts: the master, the slave.
pub fn open_terminal(devpts: Fd) -> Result<[Fd; 2]> {
    const TIOCSPTLCK: u32 = 0x4004_5431;
    const TIOCGPTPEER: u32 = 0x5441;
    let master = openat(devpts, c"ptmx", O_RDWR | O_NOCTTY, 0)?;
    ioctl(master, TIOCSPTLCK, place(&0i32))?;
    let slave = ioctl(master, TIOCGPTPEER, (O_RDWR | O_NOCTTY | O_CLOEXEC) as usize)?;
    Ok([master, new_fd(slave)])
}

/// Makes descriptor 0 the session's controlling terminal.
pub fn take_terminal() -> Result<()> {
    const TIOCSCTTY: u32 = 0x540E;
    ioctl(Fd(0), TIOCSCTTY, 0).map(drop)
}

/// Takes what is mapped somewhere out of the process, for good. Nothing else comes there: to touch it is SIGSEGV.
///
/// # Safety
///
/// Nobody may count on what is there.
pub unsafe fn take_away(base: usize, len: usize) -> Result<()> {
    const PROT_NONE: usize = 0;
    /// MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE.
    const FLAGS: usize = 0x2 | 0x10 | 0x20 | 0x4000;
    call!(nr::MMAP, base, len, PROT_NONE, FLAGS, usize::MAX, 0).map(drop)
}

/// Bytes in memory of their own, which are not to be found there when this is dropped.
pub struct Secrets {
    base: *mut u8,
    len: usize,
}

impl Secrets {
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let secrets =
            Self { base: map(None, bytes.len().max(1), PROT_READ | PROT_WRITE)? as *mut u8, len: bytes.len() };
        // SAFETY: a fresh private mapping of that many bytes.
        unsafe { secrets.base.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(secrets)
    }
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this value's own, and was written in full.
        unsafe { core::slice::from_raw_parts_mut(self.base, self.len) }
    }
}

impl Drop for Secrets {
    /// Without a system call: a filter may refuse it by now.
    fn drop(&mut self) {
        for i in 0..self.len {
            // SAFETY: `i` is below the mapping's length. Volatile, so that it is not left out.
            unsafe { self.base.add(i).write_volatile(0) };
        }
    }
}

/// Forgets what calls before have left in registers and below on the stack.
#[inline(never)]
pub fn forget_stack() {
    let mut space = [0u8; 16384];
    for i in 0..space.len() {
        // SAFETY: `i` is below the length. Volatile, so that it is not left out.
        unsafe { space.as_mut_ptr().add(i).write_volatile(0) };
    }
    // SAFETY: only sets registers that hold nothing here: those of a system call's arguments.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d", "xor esi, esi", "xor edi, edi", "xor edx, edx",
            out("r8") _, out("r9") _, out("r10") _, out("rsi") _, out("rdi") _, out("rdx") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!("mov x4, xzr", "mov x5, xzr", out("x4") _, out("x5") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        core::arch::asm!("mv a4, zero", "mv a5, zero", out("a4") _, out("a5") _, options(nostack));
    }
}

/// A list that grows up to a fixed capacity, in memory of its own that is touched only as far as it is used.
pub struct Table<T: Copy + 'static> {
    base: *mut T,
    len: usize,
    capacity: usize,
}

impl<T: Copy + 'static> Table<T> {
    pub fn new(capacity: usize) -> Result<Self> {
        let base = map(None, capacity * size_of::<T>(), PROT_READ | PROT_WRITE)?;
        Ok(Self { base: base as *mut T, len: 0, capacity })
    }
    pub fn push(&mut self, value: T) -> Result<()> {
        if self.len >= self.capacity {
            return Err(Errno::NOMEM);
        }
        // SAFETY: a private writable mapping of `capacity` values, aligned to pages; `len` is below that.
        unsafe { self.base.add(self.len).write(value) };
        self.len += 1;
        Ok(())
    }
    pub fn items(&mut self) -> &mut [T] {
        // SAFETY: the first `len` values were written, and nobody else has the mapping.
        unsafe { core::slice::from_raw_parts_mut(self.base, self.len) }
    }
    pub fn view(&self) -> &[T] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts(self.base, self.len) }
    }
    pub fn clear(&mut self) {
        self.len = 0;
    }
    /// Takes one out; the last one takes its place.
    pub fn remove(&mut self, index: usize) {
        let last = self.items().last().copied();
        if let (Some(last), Some(slot)) = (last, self.items().get_mut(index)) {
            *slot = last;
            self.len -= 1;
        }
    }
}

/// Maps a file read-only for as long as `f` looks at it.
pub fn with_file<R>(file: Fd, len: u64, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let bytes = map_file(file, len)?;
    // `f` is good for any lifetime, so that nothing of the bytes is in what it returns.
    let result = f(bytes);
    let _ = call!(nr::MUNMAP, bytes.as_ptr() as usize, bytes.len());
    Ok(result)
}

/// Maps a file read-only, for good.
pub fn map_file(file: Fd, len: u64) -> Result<&'static [u8]> {
    let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
    if len == 0 || len > isize::MAX as usize || stat(file, c"")?.size < len as u64 {
        return Err(Errno::PROTO);
    }
    let base = map(Some(file), len, PROT_READ)?;
    // SAFETY: a fresh read-only mapping of `len` bytes that is never unmapped; the file is sealed, so it neither shrinks
    // nor changes (and it is the host's, whom the stage serves).
    Ok(unsafe { core::slice::from_raw_parts(base as *const u8, len) })
}

/// Memory that is zero, for good. What is not touched takes none.
pub fn room(len: usize) -> Result<&'static mut [u8]> {
    let base = map(None, len, PROT_READ | PROT_WRITE)?;
    // SAFETY: a fresh writable mapping of `len` bytes that nobody else knows of and that is never unmapped.
    Ok(unsafe { core::slice::from_raw_parts_mut(base as *mut u8, len) })
}

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;

fn map(file: Option<Fd>, len: usize, protection: u32) -> Result<usize> {
    const MAP_PRIVATE: usize = 2;
    const MAP_ANONYMOUS: usize = 0x20;
    let (flags, file) = match file {
        Some(file) => (MAP_PRIVATE, fd(file)),
        None => (MAP_PRIVATE | MAP_ANONYMOUS, usize::MAX),
    };
    call!(nr::MMAP, 0, len, protection as usize, flags, file, 0)
}

// Polling and time.

/// The kernel's `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Poll {
    fd: i32,
    events: i16,
    returned: i16,
}

impl Poll {
    /// Waits for nothing.
    pub const NONE: Self = Self { fd: -1, events: 0, returned: 0 };

    /// Waits for something to read; for nothing, without a descriptor.
    pub fn input(file: Option<Fd>) -> Self {
        Self { fd: file.map_or(-1, |file| file.0), events: 1, returned: 0 }
    }
    /// Whether there is something to read, an end, or an error.
    pub fn ready(&self) -> bool {
        self.returned != 0
    }
    /// Whether there is nothing to read, and never will be.
    pub fn is_over(&self) -> bool {
        const POLLIN: i16 = 1;
        self.returned != 0 && self.returned & POLLIN == 0
    }
}

/// Waits until one is ready, or for so many nanoseconds.
pub fn poll(set: &mut [Poll], timeout: Option<u64>) -> Result<()> {
    let mut time = timeout.map(|ns| [ns / 1_000_000_000, ns % 1_000_000_000]);
    let time = time.as_mut().map_or(0, place_mut);
    let result = call!(nr::PPOLL, set.as_mut_ptr() as usize, set.len(), time, 0, 8);
    if result.is_err() {
        for entry in set {
            entry.returned = 0;
        }
    }
    match result {
        // A wake-up like any other: every caller looks again.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0u64; 2];
    let _ = call!(nr::CLOCK_GETTIME, CLOCK_MONOTONIC, place_mut(&mut time));
    let [seconds, nanos] = time;
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}

// The control socket.

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
const MSG_CTRUNC: i32 = 8;

/// The kernel's `struct msghdr`.
#[repr(C)]
struct Header {
    name: usize,
    name_len: u32,
    vectors: usize,
    vectors_len: usize,
    control: usize,
    control_len: usize,
    flags: i32,
}

/// The kernel's `struct cmsghdr` and what follows it: descriptors, or one set of credentials.
#[repr(C)]
struct Control<const N: usize> {
    len: usize,
    level: i32,
    kind: i32,
    data: [i32; N],
}

const CONTROL_HEAD: usize = size_of::<usize>() + 8;

/// Receives one packet, and up to 252 descriptors into `fds`: how many bytes, how many descriptors.
pub fn receive(socket: Fd, buffer: &mut [u8], fds: &mut [Fd], block: bool) -> Result<(usize, usize)> {
    let mut control = Control::<252> { len: 0, level: 0, kind: 0, data: [0; 252] };
    let vector = [buffer.as_mut_ptr() as usize, buffer.len()];
    let mut header = Header {
        name: 0,
        name_len: 0,
        vectors: place(&vector),
        vectors_len: 1,
        control: place_mut(&mut control),
        control_len: size_of_val(&control),
        flags: 0,
    };
    let flags = MSG_CMSG_CLOEXEC | if block { 0 } else { MSG_DONTWAIT };
    let len = loop {
        match call!(nr::RECVMSG, fd(socket), place_mut(&mut header), flags as usize) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    let rights = header.control_len >= CONTROL_HEAD && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    let count = if rights { control.len.saturating_sub(CONTROL_HEAD) / 4 } else { 0 };
    let received = control.data.get(..count).ok_or(Errno::PROTO)?;
    for (slot, number) in fds.iter_mut().zip(received) {
        *slot = Fd(*number);
    }
    // Some did not fit, into this process's limit or into the caller's list.
    if header.flags & MSG_CTRUNC != 0 || count > fds.len() {
        for number in received {
            close(Fd(*number));
        }
        return Err(Errno::MFILE);
    }
    Ok((len, count))
}

/// Sends one packet with up to two descriptors, and in the name of process `pid` if one is given.
pub fn send(socket: Fd, bytes: &[u8], fds: &[Fd], pid: Option<(i32, u32, u32)>) -> Result<()> {
    transmit(socket, bytes, fds, pid, MSG_NOSIGNAL)
}

/// The same without descriptors, and only if there is room for it. EAGAIN: there is none.
pub fn send_at_once(socket: Fd, bytes: &[u8], pid: Option<(i32, u32, u32)>) -> Result<()> {
    transmit(socket, bytes, &[], pid, MSG_NOSIGNAL | MSG_DONTWAIT)
}

fn transmit(socket: Fd, bytes: &[u8], fds: &[Fd], pid: Option<(i32, u32, u32)>, flags: u32) -> Result<()> {
    /// Two control messages, each padded to the kernel's alignment.
    #[repr(C)]
    struct Both {
        credentials: Control<4>,
        rights: Control<2>,
    }
    let mut numbers = [0i32; 2];
    for (slot, file) in numbers.iter_mut().zip(fds) {
        *slot = file.0;
    }
    let (pid, uid, gid) = pid.unwrap_or_default();
    let both = Both {
        credentials: Control {
            len: CONTROL_HEAD + 12,
            level: SOL_SOCKET,
            kind: SCM_CREDENTIALS,
            data: [pid, uid as i32, gid as i32, 0],
        },
        rights: Control {
            len: CONTROL_HEAD + 4 * fds.len().min(2),
            level: SOL_SOCKET,
            kind: SCM_RIGHTS,
            data: numbers,
        },
    };
    let (control, control_len) = match (pid != 0, fds.is_empty()) {
        (false, true) => (0, 0),
        (false, false) => (place(&both.rights), size_of_val(&both.rights)),
        (true, true) => (place(&both.credentials), size_of_val(&both.credentials)),
        (true, false) => (place(&both), size_of_val(&both)),
    };
    let vector = [bytes.as_ptr() as usize, bytes.len()];
    let header =
        Header { name: 0, name_len: 0, vectors: place(&vector), vectors_len: 1, control, control_len, flags: 0 };
    loop {
        match call!(nr::SENDMSG, fd(socket), place(&header), flags as usize) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

// Files and mounts.

pub struct Stat {
    pub mode: u32,
    pub inode: u64,
    pub size: u64,
    /// `major << 32 | minor` of the file system.
    pub device: u64,
    /// `major << 32 | minor` of a device node.
    pub node: u64,
}

impl Stat {
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
    pub fn is_char_device(&self, major: u32, minor: u32) -> bool {
        self.mode & 0o170_000 == 0o020_000 && self.node == u64::from(major) << 32 | u64::from(minor)
    }
}

/// Of the descriptor itself with an empty path.
pub fn stat(dir: Fd, path: &CStr) -> Result<Stat> {
    const AT_EMPTY_PATH: usize = 0x1000;
    const AT_SYMLINK_NOFOLLOW: usize = 0x100;
    const STATX_BASIC: usize = 0x7ff;
    /// The kernel's `struct statx`.
    #[repr(C)]
    #[derive(Default)]
    struct Statx {
        head: [u32; 7],
        mode: u16,
        pad: u16,
        inode: u64,
        size: u64,
        middle: [u64; 10],
        node: [u32; 2],
        device: [u32; 2],
        rest: [u64; 14],
    }
    let mut x = Statx::default();
    call!(nr::STATX, fd(dir), text(path), AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC, place_mut(&mut x))?;
    let joined = |[major, minor]: [u32; 2]| u64::from(major) << 32 | u64::from(minor);
    Ok(Stat { mode: u32::from(x.mode), inode: x.inode, size: x.size, device: joined(x.device), node: joined(x.node) })
}

pub fn mkdirat(dir: Fd, path: &CStr, mode: u32) -> Result<()> {
    call!(nr::MKDIRAT, fd(dir), text(path), mode as usize).map(drop)
}
pub fn symlinkat(target: &CStr, dir: Fd, path: &CStr) -> Result<()> {
    call!(nr::SYMLINKAT, text(target), fd(dir), text(path)).map(drop)
}
/// Makes a character device.
pub fn mknodat(dir: Fd, path: &CStr, major: u32, minor: u32) -> Result<()> {
    const S_IFCHR: usize = 0o020_000;
    call!(nr::MKNODAT, fd(dir), text(path), S_IFCHR | 0o666, (major << 8 | minor) as usize).map(drop)
}
/// Makes an empty regular file.
pub fn make_file(dir: Fd, path: &CStr, mode: u32) -> Result<()> {
    const S_IFREG: usize = 0o100_000;
    call!(nr::MKNODAT, fd(dir), text(path), S_IFREG | mode as usize, 0).map(drop)
}
pub fn chdir(path: &CStr) -> Result<()> {
    call!(nr::CHDIR, text(path)).map(drop)
}
pub fn fchdir(dir: Fd) -> Result<()> {
    call!(nr::FCHDIR, fd(dir)).map(drop)
}
pub fn chroot(path: &CStr) -> Result<()> {
    call!(nr::CHROOT, text(path)).map(drop)
}
/// Goes to where the current directory's path leads now; to the root if it leads nowhere.
pub fn reenter_directory() -> Result<()> {
    let mut path = [0u8; 4096];
    call!(nr::GETCWD, path.as_mut_ptr() as usize, path.len())?;
    match chdir(CStr::from_bytes_until_nul(&path).unwrap_or(c"/")) {
        Err(Errno::NOENT | Errno::ACCES) => chdir(c"/"),
        done => done,
    }
}
/// Whether the current directory is below the root; the kernel says `(unreachable)` otherwise.
pub fn inside() -> Result<bool> {
    let mut path = [0u8; 4096];
    call!(nr::GETCWD, path.as_mut_ptr() as usize, path.len())?;
    Ok(path.first() == Some(&b'/'))
}
/// Makes the current directory the root, and lets go of the old one.
pub fn pivot_here() -> Result<()> {
    const MNT_DETACH: usize = 2;
    call!(nr::PIVOT_ROOT, text(c"."), text(c"."))?;
    call!(nr::UMOUNT2, text(c"."), MNT_DETACH)?;
    Ok(())
}
pub fn detach_mount(path: &CStr) -> Result<()> {
    const MNT_DETACH: usize = 2;
    call!(nr::UMOUNT2, text(path), MNT_DETACH).map(drop)
}
/// Makes all mounts private, recursively.
pub fn make_private() -> Result<()> {
    const MS_REC: usize = 0x4000;
    const MS_PRIVATE: usize = 0x4_0000;
    call!(nr::MOUNT, text(c"none"), text(c"/"), 0, MS_REC | MS_PRIVATE, 0).map(drop)
}
/// A recursive copy of the mounts below a path, detached.
pub fn open_tree(dir: Fd, path: &CStr) -> Result<Fd> {
    const OPEN_TREE_CLONE: u32 = 1;
    const AT_RECURSIVE: u32 = 0x8000;
    const AT_EMPTY_PATH: u32 = 0x1000;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH | O_CLOEXEC;
    call!(new::OPEN_TREE, fd(dir), text(path), flags as usize).map(new_fd)
}
/// Puts a detached mount onto a directory or file that is open.
pub fn move_mount(tree: Fd, target: Fd) -> Result<()> {
    const EMPTY_BOTH: usize = 0x4 | 0x40;
    call!(new::MOVE_MOUNT, fd(tree), text(c""), fd(target), text(c""), EMPTY_BOTH).map(drop)
}

/// Puts a detached mount onto an entry of a directory, which is no link.
pub fn move_mount_onto(tree: Fd, dir: Fd, name: &CStr) -> Result<()> {
    const FROM_EMPTY: usize = 0x4;
    call!(new::MOVE_MOUNT, fd(tree), text(c""), fd(dir), text(name), FROM_EMPTY).map(drop)
}

pub const MOUNT_READ_ONLY: u64 = 1;
pub const MOUNT_NO_SUID: u64 = 2;
pub const MOUNT_NO_DEV: u64 = 4;
pub const MOUNT_NO_EXEC: u64 = 8;
pub const MOUNT_NO_SYMLINKS: u64 = 0x20_0000;

/// Adds attributes to a mount. With all below it, they are also cut off from the mounts that they are copies of: else
/// what is mounted on either would appear on the other.
pub fn set_mount_attributes(tree: Fd, attributes: u64, recursive: bool) -> Result<()> {
    const AT_EMPTY_PATH: usize = 0x1000;
    const AT_RECURSIVE: usize = 0x8000;
    const MS_PRIVATE: u64 = 1 << 18;
    let (flags, propagation) = if recursive { (AT_EMPTY_PATH | AT_RECURSIVE, MS_PRIVATE) } else { (AT_EMPTY_PATH, 0) };
    let set = [attributes, 0, propagation, 0];
    call!(new::MOUNT_SETATTR, fd(tree), text(c""), flags, place(&set), size_of_val(&set)).map(drop)
}

/// A new file system, with string options, as a detached mount.
pub fn new_mount(kind: &CStr, options: &[(&CStr, Option<&CStr>)], attributes: u64) -> Result<Fd> {
    const FSCONFIG_SET_FLAG: usize = 0;
    const FSCONFIG_SET_STRING: usize = 1;
    const FSCONFIG_CMD_CREATE: usize = 6;
    const CLOEXEC: usize = 1;
    let context = new_fd(call!(new::FSOPEN, text(kind), CLOEXEC)?);
    let made = (|| {
        for (key, value) in options {
            match value {
                Some(value) => call!(new::FSCONFIG, fd(context), FSCONFIG_SET_STRING, text(key), text(value))?,
                None => call!(new::FSCONFIG, fd(context), FSCONFIG_SET_FLAG, text(key))?,
            };
        }
        call!(new::FSCONFIG, fd(context), FSCONFIG_CMD_CREATE)?;
        call!(new::FSMOUNT, fd(context), CLOEXEC, attributes as usize).map(new_fd)
    })();
    close(context);
    made
}

/// Whether this is the root of a procfs.
pub fn is_procfs(dir: Fd) -> Result<bool> {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    const PROC_ROOT_INODE: u64 = 1;
    let mut stat = [0u64; 16];
    call!(nr::FSTATFS, fd(dir), place_mut(&mut stat))?;
    Ok(stat.first() == Some(&PROC_SUPER_MAGIC) && self::stat(dir, c"")?.inode == PROC_ROOT_INODE)
}

// Landlock and seccomp.

/// A set of rules about these kinds of access.
pub fn landlock_ruleset(files: u64, net: u64, scopes: u64) -> Result<Fd> {
    let attributes = [files, net, scopes];
    // A kernel that does not know the later ones takes only a shorter record.
    let known = if scopes != 0 {
        3
    } else if net != 0 {
        2
    } else {
        1
    };
    call!(new::LANDLOCK_CREATE_RULESET, place(&attributes), known * size_of::<u64>(), 0).map(new_fd)
}
/// Allows what is below an open path.
pub fn landlock_allow_path(ruleset: Fd, access: u64, path: Fd) -> Result<()> {
    const PATH_BENEATH: usize = 1;
    #[repr(C, packed)]
    struct Rule {
        access: u64,
        path: i32,
    }
    let rule = Rule { access, path: path.0 };
    call!(new::LANDLOCK_ADD_RULE, fd(ruleset), PATH_BENEATH, place(&rule), 0).map(drop)
}
/// Allows a port.
pub fn landlock_allow_port(ruleset: Fd, access: u64, port: u64) -> Result<()> {
    const NET_PORT: usize = 2;
    call!(new::LANDLOCK_ADD_RULE, fd(ruleset), NET_PORT, place(&[access, port]), 0).map(drop)
}
pub fn landlock_restrict(ruleset: Fd) -> Result<()> {
    call!(new::LANDLOCK_RESTRICT_SELF, fd(ruleset), 0).map(drop)
}

/// Puts a filter on this process: all that it calls from now on goes through it. With `listen` a descriptor comes back, on
/// which the calls wait that the filter asks about.
pub fn filter(program: &[u8], listen: bool) -> Result<Option<Fd>> {
    const SET_MODE_FILTER: usize = 1;
    const NEW_LISTENER: usize = 8;
    /// A call that the agent has been told of is not taken back, and made again, for a signal's sake. Linux 5.19.
    const WAIT_KILLABLE: usize = 32;
    /// The kernel's `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        len: u16,
        instructions: usize,
    }
    let len = u16::try_from(program.len() / 8).map_err(|_| Errno::INVAL)?;
    let program = Program { len, instructions: program.as_ptr() as usize };
    let install = |flags: usize| call!(nr::SECCOMP, SET_MODE_FILTER, flags, place(&program));
    if !listen {
        return install(0).map(|_| None);
    }
    let listener = match install(NEW_LISTENER | WAIT_KILLABLE) {
        Err(Errno::INVAL) => install(NEW_LISTENER),
        other => other,
    };
    listener.map(|fd| Some(new_fd(fd)))
}

/// The kernel's `struct seccomp_notif`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Notification {
    pub id: u64,
    pub pid: u32,
    pub flags: u32,
    pub nr: i32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

impl Notification {
    /// The kernel's `struct seccomp_data`.
    pub fn data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        let (words, long) = ([self.nr as u32, self.arch], core::iter::once(self.ip).chain(self.args));
        let words = words.into_iter().flat_map(u32::to_ne_bytes);
        for (slot, byte) in data.iter_mut().zip(words.chain(long.flat_map(u64::to_ne_bytes))) {
            *slot = byte;
        }
        data
    }
}

/// What becomes of a call that waits.
pub enum Answer {
    /// It is made.
    Go,
    Refuse(i32),
}

/// Takes a call that waits. ENOENT: its process is no more.
pub fn next_notification(listener: Fd) -> Result<Notification> {
    const NOTIF_RECV: u32 = 0xc050_2100;
    let mut notification = Notification::default();
    ioctl(listener, NOTIF_RECV, place_mut(&mut notification))?;
    Ok(notification)
}
pub fn answer(listener: Fd, id: u64, answer: Answer) -> Result<()> {
    const NOTIF_SEND: u32 = 0xc018_2101;
    const CONTINUE: u32 = 1;
    /// The kernel's `struct seccomp_notif_resp`.
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    let (error, flags) = match answer {
        Answer::Go => (0, CONTINUE),
        Answer::Refuse(errno) => (-errno, 0),
    };
    let mut response = Response { id, value: 0, error, flags };
    ioctl(listener, NOTIF_SEND, place_mut(&mut response)).map(drop)
}

/// Writes a small file of procfs in one go.
pub fn write_file(path: &CStr, content: &CStr) -> Result<()> {
    let file = openat(AT_FDCWD, path, O_WRONLY, 0)?;
    let written = write(file, content.to_bytes());
    close(file);
    written.map(drop)
}

const _: () = assert!(
    size_of::<Usage>() == 144 && size_of::<Poll>() == 8 && size_of::<Header>() == 56 && size_of::<Notification>() == 80
);
