//! Processes made by the barest means: clone3(2) that shares the memory until the exec, as vfork(2) does. What a row's floor
//! is made of, and what the peers' programs are started by, so that nobody pays for more.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a process is to do before its exec. It has the memory of this one, in which it must leave no trace: system calls only.
pub type Steps<'a> = dyn Fn() -> Result<(), i32> + 'a;

pub struct Spawn<'a> {
    arguments: Vec<CString>,
    /// `CLONE_NEW*`
    pub namespaces: u64,
    pub steps: &'a Steps<'a>,
    /// A cgroup of version 2 to be born in.
    pub into: Option<BorrowedFd<'a>>,
    pub streams: [RawFd; 3],
    /// A soft limit of descriptors.
    pub descriptors: u64,
}

/// What the new process has in hand.
struct Child<'a> {
    steps: &'a Steps<'a>,
    streams: [RawFd; 3],
    descriptors: u64,
    program: *const c_char,
    arguments: *const *const c_char,
    failure: &'a AtomicI32,
}

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// The result of a system call.
pub fn done(result: impl Into<i64>) -> Result<i64, i32> {
    let result = result.into();
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

impl<'a> Spawn<'a> {
    pub fn new(arguments: Vec<CString>, steps: &'a Steps<'a>) -> Self {
        let descriptors = super::soft_limit();
        Self { arguments, namespaces: 0, steps, into: None, streams: [0, 1, 2], descriptors }
    }

    /// The number of the new process, which has executed its program.
    pub fn spawn(&self) -> io::Result<libc::pid_t> {
        const STACK: usize = 64 << 10;
        let mut arguments: Vec<*const c_char> = self.arguments.iter().map(|argument| argument.as_ptr()).collect();
        let program = arguments.first().copied().ok_or(io::ErrorKind::InvalidInput)?;
        arguments.push(std::ptr::null());
        let failure = AtomicI32::new(0);
        let child = Child {
            steps: self.steps,
            streams: self.streams,
            descriptors: self.descriptors,
            program,
            arguments: arguments.as_ptr(),
            failure: &failure,
        };
        let mut stack = vec![0u128; STACK / size_of::<u128>()];
        // SAFETY: the child runs on a stack of its own, and this thread waits until it has executed or ended: until then all
        // that it points at is there.
        let pid = unsafe { clone(self.namespaces, self.into, &mut stack, (&raw const child).cast()) }?;
        match failure.load(Ordering::Relaxed) {
            0 => Ok(pid),
            errno => {
                wait(pid)?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }
}

/// Waits for its end: whether it has exited with 0.
pub fn wait(pid: libc::pid_t) -> io::Result<bool> {
    let mut status = 0;
    loop {
        // SAFETY: there is room for a status.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The new process's life until its exec.
extern "C" fn live(child: *const c_void) -> ! {
    // SAFETY: it is what `spawn` has made, and `spawn` waits.
    let child = unsafe { &*child.cast::<Child<'_>>() };
    child.failure.store(prepare(child).err().unwrap_or(0), Ordering::Relaxed);
    if child.failure.load(Ordering::Relaxed) == 0 {
        // SAFETY: both lists end with a null pointer.
        unsafe { libc::execve(child.program, child.arguments, environ) };
        child.failure.store(errno(), Ordering::Relaxed);
    }
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(127) }
}

fn prepare(child: &Child<'_>) -> Result<(), i32> {
    // SAFETY: no memory is touched but the limit here.
    unsafe {
        // What Rust ignores, others expect to end by.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        for (target, stream) in (0..).zip(child.streams) {
            if stream != target {
                done(libc::dup2(stream, target))?;
            }
        }
    }
    (child.steps)()?;
    // Last: a process that inherits more than it may open can open nothing.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as above.
    unsafe {
        done(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        if limit.rlim_cur > child.descriptors {
            limit.rlim_cur = child.descriptors;
            done(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
unsafe fn clone(
    namespaces: u64,
    into: Option<BorrowedFd<'_>>,
    stack: &mut [u128],
    child: *const c_void,
) -> io::Result<libc::pid_t> {
    let flags = |flags: c_int| u64::from(flags.unsigned_abs());
    let address = |pointer: *const c_void| pointer.addr() as u64;
    let mut arguments = libc::clone_args {
        flags: flags(libc::CLONE_VM | libc::CLONE_VFORK) | namespaces,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: flags(libc::SIGCHLD),
        stack: address(stack.as_mut_ptr().cast()),
        stack_size: size_of_val(stack) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = into {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let result: i64;
    // SAFETY: the parent goes on behind the block, with what the kernel keeps for it. The child has its own stack, on which it
    // calls what never returns.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of_val(&arguments),
            in("r12") child,
            in("r13") live as extern "C" fn(*const c_void) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidData);
    if result < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-result).map_err(out_of_range)?));
    }
    libc::pid_t::try_from(result).map_err(out_of_range)
}

/// clone(2), which the C library knows, and which cannot do as much.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone(
    namespaces: u64,
    into: Option<BorrowedFd<'_>>,
    stack: &mut [u128],
    child: *const c_void,
) -> io::Result<libc::pid_t> {
    extern "C" fn begin(child: *mut c_void) -> c_int {
        live(child)
    }
    if into.is_some() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let namespaces = c_int::try_from(namespaces).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | namespaces;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the stack is the child's own, and its end is aligned.
    let pid = unsafe { libc::clone(begin, top.cast(), flags, child.cast_mut()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// Does it in a mount namespace like ours, in which an empty file system is over one directory.
pub fn apart<T: Send>(directory: &CStr, action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let leave = || {
        let root = c"/".as_ptr();
        // SAFETY: all strings end, and null stands where nothing is said. This thread leaves the others' namespace.
        unsafe {
            done(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            done(libc::mount(std::ptr::null(), root, std::ptr::null(), private, std::ptr::null()))?;
            done(libc::mount(c"none".as_ptr(), directory.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()))
        }
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| leave().map_err(io::Error::from_raw_os_error).and_then(|_| action()));
        thread.join().map_err(|_| io::Error::from(io::ErrorKind::Other))?
    })
}

/// Such a namespace, to start others in.
pub fn mount_namespace_without(directory: &CStr) -> io::Result<File> {
    apart(directory, || File::open("/proc/thread-self/ns/mnt"))
}
