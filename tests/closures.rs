//! Closures: what comes back, what they have of the host, and what they have not.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)] // small numbers
#![allow(clippy::useless_vec)] // on the heap is what is meant

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::time::Duration;

use common::{all_namespaces, directory, leaves_nothing, single_threaded};
use serde::{Deserialize, Serialize};
use stockade::seccomp::{Action, Filter};
use stockade::{Capabilities, Error, Finished, Layer, Limit, NoValue, Sandbox, Signal, Stdio, Support, Verdict};

#[test]
fn a_value_comes_back() {
    single_threaded("a_value_comes_back", || {
        let captured = vec![1u64, 2, 3];
        for sandbox in [Sandbox::new(), Sandbox::new().pid_ns(), all_namespaces(), Sandbox::hardened()] {
            let finished = sandbox.run(|| (captured.iter().sum::<u64>(), std::process::id())).unwrap();
            assert_eq!(finished.outcome.verdict, Verdict::Exited(0), "{finished:?}");
            let (sum, pid) = finished.value.unwrap();
            assert_eq!(sum, 6);
            assert_ne!(pid, std::process::id());
        }
        let finished = Sandbox::new().pid_ns().run(|| -> u8 { panic!("on {}", "purpose") }).unwrap();
        assert_eq!(finished.outcome.verdict, Verdict::Exited(101));
        assert!(matches!(finished.value, Err(NoValue::Panicked { message, .. }) if message == "on purpose"));
        let child = Sandbox::new().pid_ns().spawn_fn(|| 7).unwrap();
        assert_eq!(child.wait().unwrap().verdict, Verdict::Exited(7));
    });
}

#[test]
fn not_among_threads() {
    let refused = Sandbox::new().run(|| 1);
    assert!(matches!(&refused, Err(Error::MultiThreaded { threads, .. }) if *threads > 1), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("Zygote::start()"));
}

fn ended<T: Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(finished: Finished<T>) -> Verdict {
    assert!(matches!(finished.value, Err(NoValue::Ended)), "{finished:?}");
    finished.outcome.verdict
}

#[derive(Debug, Serialize, Deserialize)]
enum Nest {
    End,
    Deeper(Box<Nest>),
}

/// As a value, without the memory.
#[derive(Debug, Deserialize)]
struct TwoGib;

impl Serialize for TwoGib {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(std::iter::repeat_n(0u64, 1 << 28))
    }
}

#[test]
fn every_end_has_its_name() {
    single_threaded("every_end_has_its_name", || {
        let sandbox = Sandbox::new().pid_ns();
        assert_eq!(ended(sandbox.run(|| -> u8 { std::process::exit(5) }).unwrap()), Verdict::Exited(5));
        assert_eq!(ended(sandbox.run(|| -> u8 { std::process::abort() }).unwrap()), Verdict::Signaled(Signal::ABRT));
        fn deep(n: u64) -> u64 {
            std::hint::black_box([n; 100]);
            if n == u64::MAX { 0 } else { deep(n + 1) + 1 }
        }
        assert_eq!(ended(sandbox.run(|| deep(0)).unwrap()), Verdict::Signaled(Signal::SEGV));
        let hasty = sandbox.clone().wall_time_limit(Duration::from_millis(200));
        #[allow(clippy::empty_loop)]
        let endless = hasty
            .run(|| -> u8 {
                loop {}
            })
            .unwrap();
        assert_eq!(ended(endless), Verdict::LimitExceeded(Limit::WallTime));

        let finished = sandbox.run(|| TwoGib).unwrap();
        assert!(matches!(finished.value, Err(NoValue::TooLarge { limit, .. }) if limit == 1 << 20));
        let exactly = |len: usize| sandbox.closure().result_limit(100).run(|| "x".repeat(len)).unwrap().value;
        assert_eq!(exactly(96), Ok("x".repeat(96)));
        assert!(matches!(exactly(97), Err(NoValue::TooLarge { limit: 100, .. })));
        let large = sandbox.closure().result_limit(64 << 20).run(|| "y".repeat(50 << 20)).unwrap();
        assert_eq!(large.value.unwrap().len(), 50 << 20);
        let nested = sandbox.run(|| (0..10_000).fold(Nest::End, |nest, _| Nest::Deeper(Box::new(nest)))).unwrap();
        assert!(matches!(&nested.value, Err(NoValue::Refused { reason, .. }) if reason.contains("deep")));
        // So does the drop of one that is nested a million deep: by the stack.
        std::mem::forget(nested);
        let finished = sandbox.run(|| -> u8 { std::panic::panic_any(7u8) }).unwrap();
        assert!(matches!(finished.value, Err(NoValue::Panicked { .. })));
        let finished = sandbox.run(|| -> u8 { panic!("{}", "ü".repeat(10_000)) }).unwrap();
        assert!(matches!(finished.value, Err(NoValue::Panicked { message, .. }) if message == "ü".repeat(2048)));
        assert_eq!(sandbox.spawn_fn(|| panic!("no")).unwrap().wait().unwrap().verdict, Verdict::Exited(101));
    });
}

#[test]
fn limits_hold() {
    single_threaded("limits_hold", || {
        let support = Support::probe();
        if support.missing(Layer::Memory).is_none() {
            let sandbox = all_namespaces().memory_limit(32 << 20);
            let eats = sandbox.run(|| vec![1u8; 256 << 20].iter().map(|n| u64::from(*n)).sum::<u64>()).unwrap();
            assert_eq!(ended(eats), Verdict::LimitExceeded(Limit::Memory));
        }
        if support.missing(Layer::Pids).is_none() {
            let sandbox = all_namespaces().pids_limit(4);
            let threads = sandbox.run(|| {
                let spawn = |_| std::thread::Builder::new().spawn(|| std::thread::sleep(Duration::from_millis(300)));
                let threads: Vec<_> = (0..10).map(spawn).collect();
                threads.iter().filter(|thread| thread.is_ok()).count()
            });
            assert_eq!(threads.unwrap().value, Ok(3));
        }
        let limited = Sandbox::new().output_limit(10).closure().stdout(Stdio::piped());
        let finished = limited.run(|| println!("more than ten bytes")).unwrap();
        assert_eq!(finished.outcome.verdict, Verdict::LimitExceeded(Limit::Output));
        assert_eq!(finished.stdout, b"more than ");
        // What it starts ends with it.
        let marker = common::marker("of-closure");
        let finished = Sandbox::new().pid_ns().run(|| {
            let script = common::sleeper(&marker);
            std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap().id()
        });
        assert!(finished.unwrap().value.unwrap() > 1);
        assert_eq!(common::alive(&marker), []);
    });
}

/// What procfs says of this process's privileges.
fn privileges() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let names = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp", "Sig", "Shd", "Umask"];
    status.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).fold(String::new(), |text, line| {
        // How many are queued, and of how many, is not its own.
        if line.starts_with("SigQ") || line.starts_with("SigCgt") { text } else { text + line + "\n" }
    })
}

#[test]
fn no_more_privileges_than_a_program() {
    single_threaded("no_more_privileges_than_a_program", || {
        let sandboxes = [
            Sandbox::new(),
            Sandbox::new().user_ns(),
            all_namespaces().uid(1000).proc("/proc"),
            Sandbox::hardened(),
            Sandbox::new().user_ns().keep_capabilities(Capabilities::NET_BIND_SERVICE),
            Sandbox::new().user_ns().uid(5).keep_capabilities(Capabilities::CHOWN | Capabilities::KILL),
            Sandbox::new().seccomp(Filter::default_profile()),
        ];
        for sandbox in sandboxes {
            let program = sandbox.command("cat").arg("/proc/self/status").output().unwrap();
            let program = String::from_utf8(program.stdout).unwrap();
            let closure = sandbox.run(privileges).unwrap().value.unwrap();
            assert!(closure.contains("CapEff") && closure.contains("NoNewPrivs:\t1"), "{closure}");
            for line in closure.lines() {
                assert!(program.lines().any(|other| other == line), "{sandbox:?}\n{line} in\n{program}");
            }
            let limits = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            let program = sandbox.command("cat").arg("/proc/self/limits").output().unwrap().stdout;
            let closure = sandbox.run(|| fs::read_to_string("/proc/self/limits").unwrap()).unwrap().value.unwrap();
            assert_eq!(limits(&closure), limits(&String::from_utf8(program).unwrap()));
        }
        // And the namespaces are the same kinds of new ones.
        let sandbox = all_namespaces().proc("/proc");
        let names = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"];
        let look = || names.map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
        let inside = sandbox.run(look).unwrap().value.unwrap();
        for (inside, outside) in inside.iter().zip(look()) {
            assert_ne!(*inside, outside);
        }
    });
}

#[test]
fn what_was_captured_leads_nowhere() {
    single_threaded("what_was_captured_leads_nowhere", || {
        let host = directory();
        let path = host.path().join("secret");
        fs::write(&path, "secret").unwrap();
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        let dir = File::open(host.path()).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let running = Sandbox::new().pid_ns().command("sleep").arg("1000").spawn().unwrap();
        let tries = |mut file: &File, dir: &File, writer: &std::io::PipeWriter| {
            let mut buffer = [0; 6];
            // SAFETY: plain numbers and strings that end with NUL.
            #[allow(unsafe_code)]
            let (listed, below) = unsafe {
                let own = File::from_raw_fd(libc::dup(dir.as_raw_fd()));
                (
                    libc::lseek(own.as_raw_fd(), 0, libc::SEEK_SET) >= 0,
                    libc::openat(dir.as_raw_fd(), c"secret".as_ptr(), 0) >= 0,
                )
            };
            [
                file.rewind().is_ok(),
                file.read(&mut buffer).is_ok(),
                file.write(b"x").is_ok(),
                file.set_len(0).is_ok(),
                file.metadata().is_ok_and(|metadata| metadata.len() == 6),
                (&mut &*writer).write(b"x").is_ok(),
                listed,
                below,
                fs::read("/proc/self/fd/".to_owned() + &file.as_raw_fd().to_string())
                    .is_ok_and(|text| text == b"secret"),
            ]
        };
        for sandbox in [Sandbox::new(), Sandbox::new().pid_ns(), all_namespaces()] {
            let captured = sandbox.run(|| tries(&file, &dir, &writer)).unwrap();
            assert_eq!(captured.value, Ok([false; 9]), "{sandbox:?}");
        }
        // The control: handed over, under the same numbers.
        let copies =
            [file.try_clone().unwrap().into(), dir.try_clone().unwrap().into(), writer.try_clone().unwrap().into()];
        let numbers = [file.as_raw_fd(), dir.as_raw_fd(), writer.as_raw_fd()];
        let pairs = numbers.into_iter().zip(copies as [std::os::fd::OwnedFd; 3]);
        let handed = pairs.fold(Sandbox::new().closure(), |closure, (number, fd)| closure.fd(number as u32, fd));
        let [rewound, read, written, cut, seen, piped, listed, below, _] =
            handed.run(|| tries(&file, &dir, &writer)).unwrap().value.unwrap();
        assert!(rewound && read && written && cut && piped && listed && below && !seen);
        fs::write(&path, "secret").unwrap();

        // Their drops close nothing else, and end nobody.
        let mut moved = Some((file.try_clone().unwrap(), running));
        let finished = Sandbox::new().run(|| {
            drop(moved.take());
            fs::read_dir("/proc/self/fd").unwrap().count()
        });
        assert!(finished.unwrap().value.unwrap() > 3);
        let (_, running) = moved.unwrap();
        assert!(running.try_wait().unwrap().is_none(), "the host's program still runs");
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "secret");
        drop((reader, running));

        // All that leads anywhere is the three streams and what was handed over.
        let finished = Sandbox::new().closure().fd(77, dir).run(|| {
            let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let fds = fds.filter_map(|fd| Some((fd.file_name(), fs::read_link(fd.path()).ok()?)));
            let fds = fds.filter(|(_, to)| !to.to_string_lossy().contains("memfd:stockade-empty"));
            let mut numbers: Vec<u32> = fds.map(|(name, _)| name.to_string_lossy().parse().unwrap()).collect();
            numbers.sort();
            numbers
        });
        let numbers = finished.unwrap().value.unwrap();
        // And the directory that is being read, which is closed by now.
        assert!(numbers.starts_with(&[0, 1, 2]) && numbers.contains(&77) && numbers.len() <= 5, "{numbers:?}");
    });
}

/// Memory that is shared with whoever is forked, or a copy of it.
#[allow(unsafe_code)]
fn pages(flags: i32, file: i32, protection: i32) -> *mut u8 {
    // SAFETY: a fresh mapping.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, file, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    base.cast()
}

#[test]
#[allow(unsafe_code)]
fn shared_memory_is_not_inherited() {
    single_threaded("shared_memory_is_not_inherited", || {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let read_only = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let shared = pages(libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, both);
        let of_file = pages(libc::MAP_SHARED, file.as_raw_fd(), both);
        let writable_later = pages(libc::MAP_SHARED, file.as_raw_fd(), libc::PROT_READ);
        let readable = pages(libc::MAP_SHARED, read_only.as_raw_fd(), libc::PROT_READ);
        let private = pages(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, both);
        // SAFETY: mapped above. In the closure it may be gone, which is the point.
        let touch = |page: *mut u8| unsafe { page.read_volatile() };
        for page in [shared, of_file, writable_later] {
            assert_eq!(ended(Sandbox::new().run(|| touch(page)).unwrap()), Verdict::Signaled(Signal::SEGV));
        }
        for page in [readable, private] {
            assert_eq!(Sandbox::new().run(|| touch(page)).unwrap().value, Ok(0));
        }
        // The control: a plain fork writes to the host's memory. And private memory is a copy.
        // SAFETY: mapped above, and writable.
        let write = |page: *mut u8| unsafe { page.write_volatile(7) };
        let pid = common::fork(|| write(shared));
        // SAFETY: a null status is allowed.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } != pid {}
        assert_eq!(touch(shared), 7);
        Sandbox::new().run(|| write(private)).unwrap();
        assert_eq!(touch(private), 0);
    });
}

/// The bytes of the mapping of this process that has such a name.
#[allow(unsafe_code)]
fn mapped(name: &str) -> &'static mut [u8] {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {maps}"));
    let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
    // SAFETY: it is mapped, and stays; the test is about who writes there.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(start), end - start) }
}

#[test]
fn a_result_that_lies_is_an_error() {
    single_threaded("a_result_that_lies_is_an_error", || {
        // Its own end, before the library has anything to say.
        let lie = |said: u32, len: u32, bytes: &[u8]| {
            let finished = Sandbox::new().run(|| -> Vec<String> {
                let memory = mapped("memfd:stockade-result");
                memory[..4].copy_from_slice(&said.to_ne_bytes());
                memory[4..8].copy_from_slice(&len.to_ne_bytes());
                memory[8..8 + bytes.len()].copy_from_slice(bytes);
                std::process::exit(0)
            });
            finished.map(|finished| finished.value)
        };
        // The control: what the library itself would have written.
        assert_eq!(lie(1, 9, &[1, 0, 0, 0, 1, 0, 0, 0, b'x']).unwrap(), Ok(vec!["x".to_owned()]));
        let malformed = [
            (1, 0, &[][..]),
            (1, 9, &[1, 0, 0, 0, 1, 0, 0, 0, 0xff]),
            (1, 10, &[1, 0, 0, 0, 1, 0, 0, 0, b'x', 0]),
            (1, 4, &[0xff; 4]),
            (1, 8, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]),
            (1, u32::MAX, &[]),
            (1, (1 << 20) + 1, &[]),
            (2, u32::MAX, &[]),
            (5, 0, &[]),
            (u32::MAX, 0, &[]),
        ];
        for (said, len, bytes) in malformed {
            let error = lie(said, len, bytes).unwrap_err();
            assert!(matches!(error, Error::Malformed { what: "the closure's result", .. }), "{said} {len}: {error}");
        }
        assert!(matches!(lie(2, 3, b"\xff\xfe!").unwrap(), Err(NoValue::Panicked { .. })));
        assert!(
            matches!(lie(2, 1 << 20, b"!").unwrap(), Err(NoValue::Panicked { message, .. }) if message.len() <= 4096)
        );
        assert!(matches!(lie(3, 0, b"").unwrap(), Err(NoValue::TooLarge { .. })));
    });
}

#[test]
fn a_filter_holds_for_the_closure() {
    single_threaded("a_filter_holds_for_the_closure", || {
        let make = || fs::create_dir("/tmp/never").is_ok();
        let plain = all_namespaces().tmpfs("/tmp", 4096);
        assert_eq!(plain.run(make).unwrap().value, Ok(true), "the control");
        let refused = plain.clone().seccomp(Filter::deny_list().deny("mkdir", Action::Errno(1)));
        assert_eq!(refused.run(make).unwrap().value, Ok(false));
        let killed = plain.clone().seccomp(Filter::deny_list().deny("mkdir", Action::Kill));
        let verdict = ended(killed.run(make).unwrap());
        assert!(matches!(&verdict, Verdict::SyscallDenied(denied) if denied.syscall == "mkdir"), "{verdict:?}");
        // The result needs no call but its end, and not even that.
        let nothing =
            |end: Action| Sandbox::new().seccomp(Filter::allow_list().allow("munmap").deny("exit_group", end));
        let bare = nothing(Action::Allow).run(|| 6 * 7).unwrap();
        assert_eq!((bare.value, bare.outcome.verdict), (Ok(42), Verdict::Exited(0)));
        let endless = nothing(Action::Errno(1)).seccomp(Filter::deny_list().deny("exit", Action::Errno(1)));
        let endless = endless.run(|| 6 * 7).unwrap();
        let verdict = endless.outcome.verdict;
        assert!(matches!(verdict, Verdict::SyscallDenied(_) | Verdict::Signaled(Signal::ILL)), "{verdict:?}");
    });
}

#[test]
#[allow(unsafe_code)]
fn the_launchs_pass_is_no_use_to_a_closure() {
    single_threaded("the_launchs_pass_is_no_use_to_a_closure", || {
        // What lets the last calls of a program's launch through lies in the plan, which the closure has mapped.
        const PERMISSION: i32 = 1;
        let filter = Filter::deny_list().deny("execve", Action::Errno(PERMISSION as u16));
        let sandbox = Sandbox::new().seccomp(filter);
        let finished = sandbox.run(|| {
            let plan = mapped("memfd:stockade-plan");
            let instruction = |at: usize| plan.get(at..at + 8).unwrap_or(&[0; 8]);
            let constant = |offset: u8| {
                let load = [0x20, 0, 0, 0, offset, 0, 0, 0];
                let at = (0..plan.len()).find(|at| instruction(*at) == load && instruction(at + 8)[0] == 0x15);
                u32::from_ne_bytes(instruction(at.unwrap() + 8)[4..].try_into().unwrap())
            };
            let secret = [48, 56].map(|at| u64::from(constant(at)) | u64::from(constant(at + 4)) << 32);
            assert!(secret.iter().all(|half| *half > u64::from(u32::MAX)), "{secret:x?}");
            let exec = |[fifth, sixth]: [u64; 2]| {
                // SAFETY: the kernel finds no path there, and says so.
                unsafe { libc::syscall(libc::SYS_execve, 0, 0, 0, 0, fifth, sixth) };
                std::io::Error::last_os_error().raw_os_error().unwrap()
            };
            (exec(secret), exec([0; 2]))
        });
        assert_eq!(finished.unwrap().value, Ok((PERMISSION, PERMISSION)));
    });
}

#[test]
#[allow(unsafe_code)]
fn its_memory_is_closed_to_others_of_its_user() {
    single_threaded("its_memory_is_closed_to_others_of_its_user", || {
        if fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0") {
            skip!("Yama keeps everybody from everybody");
        }
        let secret = 0x5ec_5ec_u64;
        let address = &raw const secret;
        let look = |dumpable: bool| {
            let sandbox = Sandbox::new().user_ns().pid_ns().uid(7);
            let finished = sandbox.run(|| {
                // SAFETY: plain numbers; what is read is a local's place in the parent.
                unsafe {
                    if dumpable {
                        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
                    }
                    let pid = libc::fork();
                    if pid == 0 {
                        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
                        let mut found = 0u64;
                        let local = libc::iovec { iov_base: (&raw mut found).cast(), iov_len: 8 };
                        let remote = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: 8 };
                        let read =
                            libc::process_vm_readv(libc::getppid(), &raw const local, 1, &raw const remote, 1, 0);
                        libc::_exit(i32::from(read == 8 && found == 0x5ec_5ec));
                    }
                    let mut status = 0;
                    libc::waitpid(pid, &raw mut status, 0);
                    libc::WEXITSTATUS(status) == 1
                }
            });
            finished.unwrap().value.unwrap()
        };
        assert!(!look(false));
        assert!(look(true), "the control: a closure may open itself");
    });
}

#[test]
#[allow(unsafe_code)]
fn nothing_of_the_host_runs_in_it() {
    single_threaded("nothing_of_the_host_runs_in_it", || {
        static MARK: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);
        extern "C" fn handler(_: i32) {}
        extern "C" fn at_exit() {
            // SAFETY: a constant string, and a descriptor that is handed over.
            unsafe { libc::write(MARK.load(std::sync::atomic::Ordering::Relaxed), c"at exit".as_ptr().cast(), 7) };
        }
        let (mut reader, writer) = std::io::pipe().unwrap();
        MARK.store(50, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: handlers that do next to nothing.
        unsafe {
            libc::atexit(at_exit);
            libc::signal(libc::SIGTERM, handler as *const () as usize);
        }
        let handed = || Sandbox::new().closure().fd(50, writer.try_clone().unwrap());
        assert_eq!(handed().run(|| 1).unwrap().value, Ok(1));
        assert!(handed().run(|| -> u8 { panic!() }).unwrap().value.is_err());
        // The control: the closure's own exit(3) runs its copy of the handlers.
        ended(handed().run(|| -> u8 { std::process::exit(0) }).unwrap());
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "at exit", "once");
        let child = Sandbox::new()
            .pid_ns()
            .spawn_fn(|| {
                loop {
                    std::thread::sleep(Duration::from_secs(1))
                }
            })
            .unwrap();
        child.signal(Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().verdict, Verdict::Signaled(Signal::TERM));
        // What the host had not yet written is not written twice.
        let sandbox = Sandbox::new();
        let outer = sandbox.closure().stdout(Stdio::piped()).run(|| {
            print!("once ");
            let inner = Sandbox::new().run(|| print!("inner ")).map(|inner| inner.outcome.success());
            print!("end");
            inner.unwrap_or(false)
        });
        let outer = outer.unwrap();
        assert_eq!(outer.value, Ok(true));
        assert_eq!(String::from_utf8(outer.stdout).unwrap(), "once inner end");
    });
}

#[test]
fn threads_work_inside() {
    single_threaded("threads_work_inside", || {
        let finished = Sandbox::hardened().run(|| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let threads: Vec<_> = (0..4u64)
                .map(|n| {
                    let sender = sender.clone();
                    std::thread::spawn(move || sender.send(n).unwrap())
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            drop(sender);
            receiver.iter().sum::<u64>()
        });
        assert_eq!(finished.unwrap().value, Ok(6));
    });
}

#[test]
fn what_is_for_programs_only() {
    single_threaded("what_is_for_programs_only", || {
        let cases =
            [(Sandbox::new().as_pid_1(), "as_pid_1"), (Sandbox::new().allow_new_privileges(), "allow_new_privileges")];
        for (sandbox, setting) in cases {
            let refused = sandbox.run(|| 1);
            assert!(matches!(&refused, Err(Error::Invalid { setting: named, .. }) if *named == setting), "{refused:?}");
            assert!(sandbox.command("true").status().unwrap().success(), "the control: a program");
        }
    });
}

#[test]
fn a_thousand_leave_nothing() {
    single_threaded("a_thousand_leave_nothing", || {
        let prepared = all_namespaces().prepare().unwrap();
        let resident = || {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
        };
        let run = |times: usize| {
            for round in 0..times as u64 {
                assert_eq!(prepared.run(|| round).unwrap().value, Ok(round));
            }
        };
        run(20);
        let before = resident();
        leaves_nothing("closures", || run(common::scaled(500).max(2)));
        let after = resident();
        assert!(after <= before + before / 20 + 64, "{before} and {after} pages");
        leaves_nothing("closures that end otherwise", || {
            let _ = prepared.run(|| -> u8 { panic!("quietly") });
            let _ = prepared.run(|| -> u8 { std::process::abort() });
            drop(prepared.spawn_fn(|| {
                loop {
                    std::thread::sleep(Duration::from_secs(1))
                }
            }));
            let impossible = Sandbox::new().mount_ns().pid_ns().tmpfs("/proc/no/such", 4096);
            assert!(matches!(impossible.run(|| 1), Err(Error::Setup { .. } | Error::Source { .. })));
        });
    });
}
