//! The stage: the freestanding program that every sandbox is entered through.
//!
//! No std, no libc, no allocator, no panic that matters. It starts with the control socket as descriptor 0 and goes
//! through `enter` (process S), `setup` and `serve` (process A, the agent) and `exec` (process B, the program).
#![no_std]
#![no_main]
#![no_builtins]
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(unsafe_code)] // entry, and the four functions that the compiler calls by name

#[path = "../plan.rs"]
#[allow(dead_code)]
mod plan;

#[path = "../seccomp/interpret.rs"]
#[allow(dead_code)]
mod interpret;

mod enter;
mod exec;
mod program;
mod serve;
mod setup;
mod sys;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym main);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x30, xzr", "bl {main}", "brk 1", main = sym main);
#[cfg(target_arch = "riscv64")]
core::arch::global_asm!(
    ".globl _start", "_start:", ".option push", ".option norelax", "la gp, __global_pointer$", ".option pop",
    "mv fp, zero", "andi sp, sp, -16", "call {main}", "ebreak", main = sym main
);

extern "C" fn main() -> ! {
    enter::run(sys::Fd(0), None)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(70)
}

/// Named by the unwind tables of the ready-made `core`; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// # Safety
///
/// As `memcpy(3)`: both are valid for `len` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    for i in 0..len {
        // SAFETY: `i` is below `len`, and the caller vouches for that many bytes.
        unsafe { to.add(i).write(from.add(i).read()) };
    }
    to
}

/// # Safety
///
/// As `memmove(3)`: both are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr() <= from.addr() {
        // SAFETY: copying forwards reads each byte before it is overwritten, as `to` is not behind `from`.
        return unsafe { memcpy(to, from, len) };
    }
    for i in (0..len).rev() {
        // SAFETY: `i` is below `len`, and the caller vouches for that many bytes.
        unsafe { to.add(i).write(from.add(i).read()) };
    }
    to
}

/// # Safety
///
/// As `memset(3)`: `to` is valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    for i in 0..len {
        // SAFETY: `i` is below `len`, and the caller vouches for that many bytes.
        unsafe { to.add(i).write(byte as u8) };
    }
    to
}

/// # Safety
///
/// As `memcmp(3)`: both are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: `i` is below `len`, and the caller vouches for that many bytes.
        let (x, y) = unsafe { (a.add(i).read(), b.add(i).read()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
///
/// As `bcmp(3)`: both are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller vouches for the same.
    unsafe { memcmp(a, b, len) }
}
