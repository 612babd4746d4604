//! The same filters, asked by the kernel.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{PLAIN, SECRET, nr};
use crate::seccomp::{Action, Condition, Filter};

/// Only system calls: it is for between fork and execve.
fn install(code: &[u8]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(code.len() / 8).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: code.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel reads the program, which is as long as it says, and keeps no pointer to it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Executes it under the filter, by the launch's way: with the secret.
fn run(filter: &Filter, program: &Path, arguments: &[&str]) -> Output {
    let code = filter.compile(PLAIN).unwrap().code;
    let path = CString::new(program.as_os_str().as_bytes()).unwrap();
    let arguments = std::iter::once(path.as_c_str().to_owned())
        .chain(arguments.iter().map(|argument| CString::new(*argument).unwrap()))
        .collect::<Vec<_>>();
    let environment = [c"PATH=/usr/local/bin:/usr/bin:/bin", c"HOME=/tmp", c"GOCACHE=/tmp", c"LC_ALL=C"];
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    let execute = move || {
        let mut argv = [std::ptr::null(); 16];
        argv.iter_mut().zip(&arguments).for_each(|(slot, argument)| *slot = argument.as_ptr());
        let mut envp = [std::ptr::null(); 8];
        envp.iter_mut().zip(&environment).for_each(|(slot, variable)| *slot = variable.as_ptr());
        install(&code)?;
        // SAFETY: strings and arrays end with a zero and live until the program is replaced.
        unsafe {
            libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr(), 0, SECRET[0], SECRET[1])
        };
        Err(io::Error::last_os_error())
    };
    // SAFETY: nothing in it allocates or locks.
    unsafe { command.pre_exec(execute) };
    command.output().unwrap()
}

/// What each call answers under the filter (an error as its negative number), or the signal that ended the child.
fn answers<const N: usize>(filter: &Filter, calls: [(u32, [u64; 6]); N]) -> Result<[i64; N], i32> {
    let code = filter.compile(PLAIN).unwrap().code;
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    let [reader, writer] = pipe;
    // SAFETY: the child makes system calls only, and ends with one.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut results = [0_i64; N];
        let installed = install(&code).is_ok();
        for (result, (number, [a, b, c, d, e, f])) in results.iter_mut().zip(calls) {
            // SAFETY: the tests call what takes no pointer, or an invalid one.
            *result = unsafe {
                let value = libc::syscall(libc::c_long::from(number), a, b, c, d, e, f);
                if value == -1 { -i64::from(*libc::__errno_location()) } else { value }
            };
        }
        // SAFETY: the results are as long as said; both are the launch's last calls.
        unsafe {
            let size = size_of_val(&results);
            libc::syscall(libc::SYS_write, writer, results.as_ptr(), size, 0, SECRET[0], SECRET[1]);
            libc::syscall(libc::SYS_exit_group, i32::from(!installed), 0, 0, 0, SECRET[0], SECRET[1]);
        }
        std::process::abort();
    }
    assert!(child > 0);
    let (mut status, mut results) = (0, [0_i64; N]);
    // SAFETY: the child is this test's own; the buffer is as long as said.
    let read = unsafe {
        libc::close(writer);
        let read = libc::read(reader, results.as_mut_ptr().cast(), size_of_val(&results));
        libc::close(reader);
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        read
    };
    let status = std::process::ExitStatus::from_raw(status);
    match status.signal() {
        Some(signal) => Err(signal),
        None => {
            assert!(status.success() && usize::try_from(read).unwrap() == size_of_val(&results), "{status}");
            Ok(results)
        }
    }
}

fn call(name: &str, arguments: &[u64]) -> (u32, [u64; 6]) {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    (nr(name), all)
}

const SIGSYS: i32 = libc::SIGSYS;

#[test]
fn rules_hold_in_the_kernel() {
    const WIDE: u64 = 1 << 33 | 1000;
    // close(2) of what is no descriptor tells a call that was made (EBADF) from one that was not.
    let close = |argument| call("close", &[argument]);
    let argument = Condition::arg(0);
    let bad = i64::from(-libc::EBADF);
    for (condition, yes, no) in [
        (argument.eq(1000), 1000, 1001),
        (argument.eq(1 << 40 | 1000), 1 << 40 | 1000, 1000),
        (argument.low32().eq(1000), 1 << 40 | 1000, 1001),
        (argument.ne(1000), 1000 | 1 << 50, 1000),
        (argument.gt(WIDE), WIDE + 1, WIDE),
        (argument.ge(WIDE), WIDE, WIDE - 1),
        (argument.lt(WIDE), WIDE - 1, WIDE),
        (argument.le(WIDE), WIDE, WIDE + 1),
        (argument.masked_eq(0xff00, 0x1200), 0x1234, 0x1334),
        (argument.masked_eq(1 << 40, 1 << 40), 1 << 40 | 1000, 1000),
    ] {
        let filter = Filter::deny_list().rule("close", [condition], Action::Errno(77));
        assert_eq!(answers(&filter, [close(yes), close(no)]), Ok([-77, bad]), "{condition:?}");
    }
    assert_eq!(answers(&Filter::deny_list(), [close(1000)]), Ok([bad]));
    for action in [Action::Kill, Action::Trap] {
        assert_eq!(answers(&Filter::deny_list().deny("close", action), [close(1000)]), Err(SIGSYS));
    }
    assert_eq!(answers(&Filter::deny_list().deny("close", Action::Log), [close(1000)]), Ok([bad]));
}

#[test]
fn presets_hold_in_the_kernel() {
    let calls = [call("unshare", &[0]), call("clone3", &[0, 0]), call("keyctl", &[0, 0]), call("getppid", &[])];
    let parent = i64::from(std::process::id());
    assert_eq!(answers(&Filter::default_profile(), calls), Ok([-1, -38, -1, parent]));
    assert_eq!(answers(&Filter::hardened(), calls), Ok([-1, -38, -1, parent]));
    assert_eq!(answers(&Filter::judge(), calls), Err(SIGSYS));
    assert_eq!(answers(&Filter::pure_compute(), [call("getppid", &[])]), Err(SIGSYS));
    // Without a filter: nothing to unshare, no struct, a keyring.
    let bare = answers(&Filter::deny_list(), [calls[0], calls[1]]).unwrap();
    assert_eq!(bare, [0, i64::from(-libc::EINVAL)]);

    let unix = |kind| call("socket", &[1, kind, 0]);
    let closed = answers(&Filter::no_network(), [call("socket", &[2, 1, 0]), call("socket", &[16, 3, 0]), unix(5)]);
    assert!(matches!(closed, Ok([-97, -97, descriptor]) if descriptor > 2), "{closed:?}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_calls_do_not_reach_the_kernel() {
    let x32_getppid = (0x4000_0000 | nr("getppid"), [0; 6]);
    assert_eq!(answers(&Filter::deny_list(), [x32_getppid]), Err(SIGSYS));
    assert_eq!(answers(&Filter::hardened(), [x32_getppid]), Ok([-38]));
    assert_eq!(answers(&Filter::deny_list(), [(u32::MAX, [0; 6])]), Ok([-38]));
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

#[test]
fn ordinary_programs_run_under_the_presets() {
    let script = "import asyncio, subprocess, threading\nasyncio.run(asyncio.sleep(0))\n\
                  t = threading.Thread(target=print, args=('hello',)); t.start(); t.join()\n\
                  subprocess.run(['/bin/true'], check=True)";
    let node = "new (require('worker_threads').Worker)('', {eval: true}); console.log('hello')";
    let shell = "x=$(echo hello | cat); for i in 1 2; do test -d /tmp && ls -la / >/dev/null; done; echo $x";
    for (program, arguments) in [
        ("sh", &["-c", shell] as &[&str]),
        ("python3", &["-c", script]),
        ("node", &["-e", node]),
        ("java", &["-XX:+UseParallelGC", "-Xlog:disable", "-version"]),
        ("java", &["-XX:+UseG1GC", "-version"]),
        ("gcc", &["-E", "-x", "c", "/dev/null"]),
        ("go", &["version"]),
    ] {
        let Some(path) = find(program) else {
            eprintln!("skipped: no {program} here");
            continue;
        };
        let both = Filter::hardened().and(Filter::no_network());
        for (name, filter) in [
            ("none", Filter::deny_list()),
            ("default_profile", Filter::default_profile()),
            ("hardened", Filter::hardened()),
            ("hardened and no_network", both),
            ("judge", Filter::judge()),
        ] {
            let output = run(&filter, &path, arguments);
            assert!(output.status.success(), "{program} under {name}: {output:?}");
        }
    }
}

/// It is the secret that lets the program start, and it starts no other.
#[test]
fn a_program_that_computes() {
    let Some(gcc) = find("gcc") else {
        eprintln!("skipped: no gcc here");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let build = |name: &str, source: &str| {
        let (program, text) = (directory.path().join(name), directory.path().join(format!("{name}.c")));
        std::fs::write(&text, source).unwrap();
        let built = Command::new(&gcc).args(["-static", "-o"]).args([&program, &text]).status().unwrap();
        built.success().then_some(program)
    };
    let sum = "#include <stdio.h>\n#include <stdlib.h>\nint main(void) { char *p = malloc(1 << 24); p[9] = 42;\n\
               int c = getchar(); printf(\"%d %d\\n\", p[9], c); free(p); return 7; }";
    let other = "#include <unistd.h>\nint main(void) { execl(\"/bin/true\", \"true\", (char *)0); return 1; }";
    let (Some(sum), Some(other)) = (build("sum", sum), build("other", other)) else {
        eprintln!("skipped: no static libc here");
        return;
    };
    let output = run(&Filter::pure_compute(), &sum, &[]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"42 -1\n".as_slice()), "{output:?}");
    assert_eq!(run(&Filter::pure_compute(), &other, &[]).status.signal(), Some(SIGSYS));
    assert!(run(&Filter::deny_list(), &other, &[]).status.success());
}
