//! What the default profile costs as a filter of system calls, compiled by this crate into a tree, and by `seccompiler` into
//! a chain.
//!
//! `cargo bench --bench filter [-- --rounds N]`. The chain has one action for what it refuses, so that it answers EPERM
//! where the tree answers ENOSYS; it does not look for x32.
#![allow(unsafe_code)]

mod common;

use std::collections::BTreeMap;
use std::time::Instant;

#[path = "common/error.rs"]
mod error;
#[path = "../src/seccomp/mod.rs"]
#[allow(dead_code, unused_imports, missing_docs)]
mod seccomp;

use common::{Options, Result};
use seccomp::{Action, Condition, Filter, How, Syscall, Test, compile};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The calls of a CPython program that imports, writes files and starts processes, and of one compilation by gcc.
#[rustfmt::skip]
const TYPICAL: &[(&str, usize)] = &[
    ("newfstatat", 1445), ("readlink", 1363), ("lseek", 1200), ("read", 744), ("openat", 667), ("close", 464),
    ("mmap", 342), ("rt_sigaction", 168), ("ioctl", 160), ("brk", 100), ("futex", 87), ("write", 80), ("mprotect", 76),
    ("access", 62), ("fcntl", 55), ("getdents64", 36), ("getpid", 26), ("munmap", 25), ("rt_sigprocmask", 20),
    ("gettid", 18), ("getrandom", 17), ("clone", 16), ("unlink", 13), ("wait4", 10), ("pipe2", 10), ("poll", 9),
    ("epoll_wait", 8), ("set_robust_list", 8), ("execve", 6), ("exit_group", 6), ("socketpair", 2), ("socket", 1),
];

fn number(call: &Syscall) -> Option<u32> {
    compile::resolve(call, true).ok().flatten()
}

/// The profile's rules as `seccompiler` takes them.
fn chain(filter: &Filter) -> Result<BpfProgram> {
    let mut rules = BTreeMap::<i64, Vec<SeccompRule>>::new();
    for rule in filter.rules.iter().filter(|rule| rule.action == Action::Allow) {
        let Some(number) = number(&rule.call) else { continue };
        let conditions = rule.conditions.iter().map(condition).collect::<Result<Vec<_>>>()?;
        let rules = rules.entry(number.into()).or_default();
        if !conditions.is_empty() {
            rules.push(SeccompRule::new(conditions)?);
        }
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, arch)?.try_into()?)
}

fn condition(condition: &Condition) -> Result<SeccompCondition> {
    let width = if condition.argument.low32 { SeccompCmpArgLen::Dword } else { SeccompCmpArgLen::Qword };
    let (test, value) = match condition.test {
        Test::Eq(value) => (SeccompCmpOp::Eq, value),
        Test::Ne(value) => (SeccompCmpOp::Ne, value),
        Test::Lt(value) => (SeccompCmpOp::Lt, value),
        Test::Le(value) => (SeccompCmpOp::Le, value),
        Test::Gt(value) => (SeccompCmpOp::Gt, value),
        Test::Ge(value) => (SeccompCmpOp::Ge, value),
        Test::MaskedEq(mask, value) => (SeccompCmpOp::MaskedEq(mask), value),
    };
    Ok(SeccompCondition::new(condition.argument.index, width, test, value)?)
}

/// How many instructions the kernel runs for each call of the typical program, on average, and at most.
fn executed(code: &[u8]) -> Result<(f64, usize)> {
    let (mut calls, mut steps, mut most) = (0, 0, 0);
    for (name, count) in TYPICAL {
        let Some(number) = number(&Syscall::from(*name)) else { continue };
        let mut data = [0; 64];
        data[..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&compile::ARCH.to_ne_bytes());
        data[16] = 17; // for clone: SIGCHLD; for socket: a family
        let (verdict, took) = seccomp::interpret::run(code, &data).ok_or("the program is malformed")?;
        if verdict != 0x7fff_0000 {
            return Err(format!("{name} is answered {verdict:#x}").into());
        }
        calls += count;
        steps += took * count;
        most = most.max(took);
    }
    #[allow(clippy::cast_precision_loss)]
    Ok((steps as f64 / calls as f64, most))
}

/// What a forked child measured, in nanoseconds: the filter's installation; then one of the calls that the kernel knows to
/// be allowed whatever the arguments (getppid), and one whose argument the filter looks at (personality).
fn child(code: &[u8]) -> Result<[u64; 3]> {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: this program has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let times = measure(code);
        // SAFETY: the times are as long as said.
        unsafe {
            libc::write(pipe[1], times.as_ptr().cast(), size_of_val(&times));
            libc::_exit(0);
        }
    }
    let mut times = [0; 3];
    let mut status = 0;
    // SAFETY: the buffer is as long as said, and the child is ours.
    let read = unsafe {
        libc::close(pipe[1]);
        let read = libc::read(pipe[0], times.as_mut_ptr().cast(), size_of_val(&times));
        libc::close(pipe[0]);
        libc::waitpid(child, &raw mut status, 0);
        read
    };
    if usize::try_from(read) != Ok(size_of_val(&times)) || status != 0 {
        return Err(format!("a child ended with {status:#x}: {}", std::io::Error::last_os_error()).into());
    }
    Ok(times)
}

fn measure(code: &[u8]) -> [u64; 3] {
    const CALLS: u32 = 2000;
    let nanoseconds = |start: Instant| u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let program =
        libc::sock_fprog { len: u16::try_from(code.len() / 8).unwrap_or(0), filter: code.as_ptr().cast_mut().cast() };
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let start = Instant::now();
    if !code.is_empty() {
        // SAFETY: the program is as long as said.
        let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if done != 0 {
            // SAFETY: it ends the child.
            unsafe { libc::_exit(1) };
        }
    }
    let install = nanoseconds(start);
    let each = |number, argument: u64| {
        let start = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: neither call takes a pointer.
            unsafe { libc::syscall(number, argument) };
        }
        nanoseconds(start) / u64::from(CALLS)
    };
    [install, each(libc::SYS_getppid, 0), each(libc::SYS_personality, 0xffff_ffff)]
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn main() -> Result<()> {
    let rounds = Options::read(300, &[])?.rounds;
    let filter = Filter::default_profile();
    let how = How { secret: [1, 2], naming: false, recording: false };
    let compile = |filter: &Filter| filter.compile(how).map_err(|error| format!("{error:?}"));
    let tree = compile(&filter)?.code;
    let chain_code = |program: &BpfProgram| {
        let bytes =
            |i: &seccompiler::sock_filter| [&i.code.to_ne_bytes()[..], &[i.jt, i.jf], &i.k.to_ne_bytes()].concat();
        program.iter().flat_map(bytes).collect::<Vec<_>>()
    };
    let chained = chain_code(&chain(&filter)?);
    let rows: [(&str, &[u8]); 3] = [("none", &[]), ("stockade", &tree), ("seccompiler", &chained)];

    let mut times = vec![vec![]; rows.len()];
    let mut compiling = [vec![], vec![]];
    for _ in 0..rounds {
        for ((_, code), times) in rows.iter().zip(&mut times) {
            times.push(child(code)?);
        }
        let start = Instant::now();
        compile(&filter)?;
        compiling[0].push(u64::try_from(start.elapsed().as_nanos())?);
        let start = Instant::now();
        chain(&filter)?;
        compiling[1].push(u64::try_from(start.elapsed().as_nanos())?);
    }
    println!(
        "{:<12} {:>12} {:>10} {:>6} {:>11} {:>11} {:>11} {:>14}",
        "filter", "instructions", "run, mean", "most", "compile us", "install us", "getppid ns", "personality ns"
    );
    let mut installs = vec![];
    for (row, ((name, code), times)) in rows.iter().zip(&times).enumerate() {
        let of = |index: usize| median(times.iter().map(|time| time[index]).collect());
        let (mean, most) = if code.is_empty() { (0.0, 0) } else { executed(code)? };
        let compile = row.checked_sub(1).map_or(0, |row| median(compiling[row].clone()) / 1000);
        installs.push(of(0));
        println!(
            "{name:<12} {:>12} {mean:>10.1} {most:>6} {compile:>11} {:>11} {:>11} {:>14}",
            code.len() / 8,
            of(0) / 1000,
            of(1),
            of(2)
        );
    }
    #[allow(clippy::cast_precision_loss)]
    if let [_, tree, chain] = installs[..] {
        println!("install, chain / tree: {:.1}", chain as f64 / tree as f64);
    }
    for (name, filter) in [
        ("hardened", Filter::hardened()),
        ("hardened and no_network", Filter::hardened().and(Filter::no_network())),
        ("judge", Filter::judge()),
        ("pure_compute", Filter::pure_compute()),
        ("no_network", Filter::no_network()),
    ] {
        println!("{name}: {} instructions", compile(&filter)?.code.len() / 8);
    }
    Ok(())
}
