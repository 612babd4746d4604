//! The two uses of bpf(2) that rules for devices need on version 2, which rustix has not.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::devices::Instruction;

unsafe extern "C" {
    /// syscall(2).
    fn syscall(number: c_long, ...) -> c_long;
}

#[cfg(target_arch = "x86_64")]
const BPF: c_long = 321;
// The numbers that all younger architectures share.
#[cfg(not(target_arch = "x86_64"))]
const BPF: c_long = 280;

const PROG_LOAD: c_int = 5;
const PROG_ATTACH: c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// Those of the cgroups above, and below, are asked too.
const ALLOW_MULTI: u32 = 2;

/// What `BPF_PROG_LOAD` takes, as far as it is used; the kernel takes what is behind it as zeroes.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// What `BPF_PROG_ATTACH` takes.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    let size = c_uint::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `size` bytes of the attributes, all of which are initialized: the structures have no
    // padding. What they point to lives in the callers for as long as the call.
    let result = unsafe { syscall(BPF, command, std::ptr::from_ref(attributes), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// Has the kernel check a program that is asked about devices.
pub(super) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let address = |bytes: *const u8| bytes.expose_provenance() as u64;
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: address(program.as_ptr().cast()),
        license: address(c"".as_ptr().cast()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"stockade\0\0\0\0\0\0\0\0",
        interface: 0,
        expected_attach_type: CGROUP_DEVICE,
    };
    let fd = c_int::try_from(bpf(PROG_LOAD, &load)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it, close-on-exec, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// From now on the program is asked about devices for all that is in the cgroup. It goes with the cgroup.
pub(super) fn attach(program: &impl AsFd, cgroup: &impl AsFd) -> io::Result<()> {
    let attach = Attach { target: number(cgroup), program: number(program), kind: CGROUP_DEVICE, flags: ALLOW_MULTI };
    bpf(PROG_ATTACH, &attach).map(drop)
}
