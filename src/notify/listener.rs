//! Calls that wait for an answer (seccomp_unotify(2)), of which rustix knows nothing.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Setter, Updater};

const RECEIVE: Opcode = 0xc050_2100; // SECCOMP_IOCTL_NOTIF_RECV
const SEND: Opcode = 0xc018_2101; // SECCOMP_IOCTL_NOTIF_SEND
const ID_VALID: Opcode = 0x4008_2102; // SECCOMP_IOCTL_NOTIF_ID_VALID
const ADD_FD: Opcode = 0x4018_2103; // SECCOMP_IOCTL_NOTIF_ADDFD

/// The kernel's `struct seccomp_notif`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Call {
    pub id: u64,
    /// The thread, as this process sees it; 0 if it does not.
    pub tid: u32,
    pub flags: u32,
    pub nr: u32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

/// The kernel's `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// The kernel's `struct seccomp_notif_addfd`.
#[repr(C)]
struct Added {
    id: u64,
    flags: u32,
    fd: u32,
    number: u32,
    number_flags: u32,
}

const _: () = assert!(size_of::<Call>() == 80 && size_of::<Response>() == 24 && size_of::<Added>() == 24);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is made.
    Go,
    /// It is not made, and returns this.
    Value(i64),
    /// It fails with this error number.
    Refuse(i32),
}

impl Call {
    /// The kernel's `struct seccomp_data`.
    pub(crate) fn data(&self) -> Vec<u8> {
        let words = [self.nr, self.arch].into_iter().flat_map(u32::to_ne_bytes);
        let long = std::iter::once(self.ip).chain(self.args).flat_map(u64::to_ne_bytes);
        words.chain(long).collect()
    }
}

/// Takes a call that waits. ENOENT: its thread is no more.
pub(crate) fn receive(listener: impl AsFd) -> Result<Call, Errno> {
    // The kernel wants it zeroed.
    let mut call = Call::default();
    // SAFETY: the opcode is that of SECCOMP_IOCTL_NOTIF_RECV, which fills a `struct seccomp_notif`; any bytes make one.
    unsafe { ioctl::ioctl(listener, Updater::<RECEIVE, Call>::new(&mut call)) }.map(|()| call)
}

/// ENOENT: its thread is no more.
pub(crate) fn answer(listener: impl AsFd, id: u64, answer: Answer) -> Result<(), Errno> {
    const CONTINUE: u32 = 1;
    let (value, error, flags) = match answer {
        Answer::Go => (0, 0, CONTINUE),
        Answer::Value(value) => (value, 0, 0),
        Answer::Refuse(errno) => (0, -errno, 0),
    };
    let mut response = Response { id, value, error, flags };
    // SAFETY: the opcode is that of SECCOMP_IOCTL_NOTIF_SEND, which reads a `struct seccomp_notif_resp`.
    uninterrupted(|| unsafe { ioctl::ioctl(listener.as_fd(), Updater::<SEND, Response>::new(&mut response)) })
}

/// Whether the call still waits: what was read of its thread by number was that thread's.
pub(crate) fn is_valid(listener: impl AsFd, id: u64) -> bool {
    // SAFETY: the opcode is that of SECCOMP_IOCTL_NOTIF_ID_VALID, which reads a `u64`.
    uninterrupted(|| unsafe { ioctl::ioctl(listener.as_fd(), Setter::<ID_VALID, u64>::new(id)) }).is_ok()
}

/// Gives the caller a descriptor: its number there, which is to be the answer. ENOENT: its thread is no more. What else fails
/// is what the caller would have got from open(2), as EMFILE.
pub(crate) fn add_fd(listener: impl AsFd, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> Result<i64, Errno> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let source = u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let flags = if close_on_exec { O_CLOEXEC } else { 0 };
    let added = || Added { id, flags: 0, fd: source, number: 0, number_flags: flags };
    // SAFETY: the opcode is that of SECCOMP_IOCTL_NOTIF_ADDFD, which reads a `struct seccomp_notif_addfd`.
    uninterrupted(|| unsafe { ioctl::ioctl(listener.as_fd(), Adder(added())) })
}

/// Every one of these can be interrupted by a signal before it has done anything.
fn uninterrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// It returns a number, of which rustix's own patterns know nothing.
struct Adder(Added);

// SAFETY: the kernel reads a `struct seccomp_notif_addfd` and writes nothing.
unsafe impl ioctl::Ioctl for Adder {
    type Output = i64;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        ADD_FD
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        number: ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(i64::from(number))
    }
}
