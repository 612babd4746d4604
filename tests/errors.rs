//! Bad input: a typed error before anything is started, or after everything is cleaned up. Each is tried twice, and what
//! is left is counted: processes, descriptors, mounts, files.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use common::{all_namespaces, alone, directory, leaves_nothing};
use stockade::{Command, Error, Overlay, Resource, Rootfs, Sandbox, Step};

/// The error of a launch that must fail, and leave nothing.
fn error(what: &str, command: impl Fn() -> Command) -> Error {
    let mut last = None;
    leaves_nothing(what, || last = Some(command().output().map(|output| output.outcome).expect_err(what)));
    last.unwrap()
}

fn invalid(what: &str, sandbox: &Sandbox) {
    let error = error(what, || sandbox.command("/bin/true"));
    assert!(matches!(error, Error::Invalid { .. }), "{what}: {error:?}");
    // And before anything was started.
    assert!(matches!(sandbox.prepare(), Err(Error::Invalid { .. })), "{what}");
}

fn exec_errno(what: &str, command: impl Fn() -> Command) -> i32 {
    match error(what, command) {
        Error::Exec { source, .. } => source.raw_os_error().unwrap(),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn programs_that_cannot_be_executed() {
    alone("programs_that_cannot_be_executed", || {
        let directory = directory();
        let file = |name: &str, mode: u32, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        let text = file("text", 0o644, "#!/bin/sh\n");
        let noise = file("noise", 0o755, "\x01\x02 no program");
        let orphan = file("orphan", 0o755, "#!/no/such/interpreter\n");
        for sandbox in [Sandbox::new(), all_namespaces(), Sandbox::new().as_pid_1()] {
            assert_eq!(exec_errno("it does not exist", || sandbox.command("/no/such/program")), libc::ENOENT);
            assert_eq!(exec_errno("not in the PATH", || sandbox.command("no-such-program")), libc::ENOENT);
            assert_eq!(exec_errno("an empty name", || sandbox.command("")), libc::ENOENT);
            assert_eq!(exec_errno("not executable", || sandbox.command(&text)), libc::EACCES);
            assert_eq!(exec_errno("a directory", || sandbox.command(directory.path())), libc::EACCES);
            assert_eq!(exec_errno("no program", || sandbox.command(&noise)), libc::ENOEXEC);
            assert_eq!(exec_errno("its interpreter is missing", || sandbox.command(&orphan)), libc::ENOENT);
            assert_eq!(exec_errno("below a file", || sandbox.command(text.join("x"))), libc::ENOENT);
            let long = "x".repeat(2 << 20);
            assert_eq!(
                exec_errno("a 2 MiB argument", || {
                    let mut c = sandbox.command("/bin/true");
                    c.arg(&long);
                    c
                }),
                libc::E2BIG
            );
        }
        let nul = error("a NUL in the program", || Sandbox::new().command("a\0b"));
        assert!(matches!(nul, Error::Invalid { setting: "program", .. }), "{nul}");
        let nul = error("a NUL in an argument", || {
            let mut c = Sandbox::new().command("true");
            c.arg("a\0b");
            c
        });
        assert!(matches!(nul, Error::Invalid { setting: "arg", .. }), "{nul}");
        for (key, value) in [("A\0", "x"), ("A", "x\0"), ("", "x"), ("A=B", "x")] {
            let bad = error("a bad variable", || {
                let mut c = Sandbox::new().command("true");
                c.env(key, value);
                c
            });
            assert!(matches!(bad, Error::Invalid { setting: "env", .. }), "{bad}");
        }
    });
}

#[test]
fn roots_and_sources_that_are_not_there() {
    alone("roots_and_sources_that_are_not_there", || {
        let directory = directory();
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        let gone = directory.path().join("gone");
        symlink(&gone, directory.path().join("dangling")).unwrap();
        let source = |what: &str, sandbox: Sandbox| {
            let error = error(what, || sandbox.command("/bin/true"));
            assert!(matches!(error, Error::Source { .. }), "{what}: {error:?}");
        };
        for base in [Sandbox::new(), Sandbox::new().mount_ns()] {
            source("a root that is a file", base.clone().chroot(&file));
            source("a root that is gone", base.clone().chroot(&gone));
        }
        source("a source that is gone", Sandbox::new().bind_ro(&gone, "/mnt"));
        source("a dangling link", Sandbox::new().bind_ro(directory.path().join("dangling"), "/mnt"));
        source("a lower layer that is a file", Sandbox::new().overlay("/mnt", Overlay::new(&file)));
        // Of the wrong kind for its target.
        let rootfs = Sandbox::new().rootfs(Rootfs::system());
        let error = error("a file onto a directory", || rootfs.clone().dir("/d").bind_ro(&file, "/d").command("true"));
        assert!(matches!(error, Error::Setup { step: Step::MountMove, .. }), "{error:?}");
    });
}

#[test]
fn targets_that_will_not_do() {
    alone("targets_that_will_not_do", || {
        let rootfs = Sandbox::new().rootfs(Rootfs::system());
        invalid("the root", &rootfs.clone().bind_ro("/etc", "/"));
        invalid("upwards", &rootfs.clone().bind_ro("/etc", "/a/../../b"));
        invalid("a NUL", &rootfs.clone().tmpfs("/a\0b", 4096));
        invalid("too long", &rootfs.clone().tmpfs(format!("/{}", "a/".repeat(3000)), 4096));
        let error =
            error("a name too long", || rootfs.clone().tmpfs(format!("/{}", "a".repeat(300)), 4096).command("true"));
        assert!(matches!(error, Error::Setup { step: Step::MountTarget, .. }), "{error:?}");
    });
}

#[test]
fn numbers_that_make_no_sense() {
    alone("numbers_that_make_no_sense", || {
        let new = Sandbox::new;
        invalid("no time", &new().wall_time_limit(Duration::ZERO));
        invalid("no output", &new().output_limit(0));
        invalid("no time to stand", &new().setup_timeout(Duration::ZERO));
        invalid("an empty tmpfs", &new().tmpfs("/tmp", 0));
        invalid("an absurd tmpfs", &new().tmpfs("/tmp", u64::MAX));
        invalid("an empty root", &new().rootfs(Rootfs::empty().size(0)));
        invalid("no name", &new().hostname(""));
        invalid("a long name", &new().hostname("x".repeat(65)));
        invalid("a NUL in a name", &new().hostname("a\0b"));
        invalid("the id that is none", &new().uid(u32::MAX));
        invalid("a map of nothing", &new().uid_map(0, 100_000, 0));
        invalid("a map beyond the end", &new().uid_map(0, u32::MAX, 2));
        invalid("a user that is not mapped", &new().uid_map(0, 100_000, 10).gid_map(0, 100_000, 10).uid(10).gid(0));
        invalid(
            "too many layers",
            &(0..70).fold(new(), |s, _| s).overlay("/mnt", (0..70).fold(Overlay::new("/etc"), |o, _| o.lower("/etc"))),
        );
        // Absurdly large ones are no limit.
        let sandbox =
            new().pid_ns().wall_time_limit(Duration::MAX).output_limit(u64::MAX).rlimit(Resource::Stack, 1 << 40);
        let outcome = sandbox.command("/bin/true").status();
        assert!(outcome.is_ok_and(|outcome| outcome.success()) || sandbox.prepare().is_err());
    });
}

#[test]
fn descriptors_that_clash() {
    alone("descriptors_that_clash", || {
        let null = || fs::File::open("/dev/null").unwrap();
        for targets in [vec![0], vec![2], vec![5, 5], vec![1 << 20], vec![u32::MAX], (3..300).collect()] {
            let error = error("a clash", || {
                let mut command = Sandbox::new().command("/bin/true");
                for target in &targets {
                    command.fd(*target, null());
                }
                command
            });
            assert!(matches!(error, Error::Invalid { setting: "fd", .. }), "{error:?}");
        }
        // More than this process may have open: the kernel says so, of that step.
        let error = error("a target above the limit", || {
            let mut c = Sandbox::new().command("/bin/true");
            c.fd((1 << 20) - 1, null());
            c
        });
        assert!(matches!(error, Error::Setup { step: Step::Descriptors, .. }), "{error:?}");
    });
}

fn is_about(error: &Error, directory: &str) -> bool {
    matches!(error, Error::Setup { step: Step::WorkingDirectory, subject, .. } if subject == directory)
}

#[test]
fn working_directories_that_are_not_there() {
    alone("working_directories_that_are_not_there", || {
        for sandbox in [Sandbox::new(), Sandbox::new().rootfs(Rootfs::system())] {
            for directory in ["/no/such", "/usr/bin/env", "/proc/self/fd/0/x"] {
                let error = error("no directory", || {
                    let mut c = sandbox.command("/bin/true");
                    c.current_dir(directory);
                    c
                });
                assert!(is_about(&error, directory), "{error:?}");
            }
        }
        // As the sandbox has it, and in a live container.
        let sandbox = Sandbox::new().pid_ns().current_dir("/no/such");
        assert!(is_about(&sandbox.command("true").status().unwrap_err(), "/no/such"));
        let container = sandbox.start().unwrap();
        assert!(is_about(&container.command("true").status().unwrap_err(), "/no/such"));
        let error = container.command("true").current_dir("/nor/this").status().unwrap_err();
        assert!(is_about(&error, "/nor/this"), "{error:?}");
        drop(container);
        // Its own, which is gone.
        let gone = directory();
        std::env::set_current_dir(gone.path()).unwrap();
        drop(gone);
        let error = Sandbox::new().mount_ns().tmpfs("/mnt", 4096).command("true").status().unwrap_err();
        assert!(is_about(&error, "the host program's own"), "{error:?}");
    });
}

#[test]
fn a_host_out_of_descriptors() {
    alone("a_host_out_of_descriptors", || {
        // One more is allowed each time, until it works: every place that opens one has failed once.
        assert!(all_namespaces().rootfs(Rootfs::system()).command("true").status().unwrap().success());
        let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let mut failed = 0;
        for more in 0..60 {
            let limit = rustix::process::Rlimit { current: Some(open - 1 + more), maximum: Some(4096) };
            let sandbox = all_namespaces().rootfs(Rootfs::system());
            let mut command = sandbox.command("true");
            command.stdin(stockade::Stdio::null()).stdout(stockade::Stdio::piped());
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            let result = command.spawn().and_then(|child| child.wait());
            let wide = rustix::process::Rlimit { current: Some(4096), maximum: Some(4096) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, wide).unwrap();
            drop(command);
            assert_eq!(fs::read_dir("/proc/self/fd").unwrap().count() as u64, open, "{more}: {result:?}");
            assert_eq!(common::belongings().children, Vec::<String>::new(), "{more}: {result:?}");
            match result {
                Ok(outcome) => {
                    assert!(outcome.success());
                    assert!(failed >= 5, "{failed}");
                    return;
                }
                Err(Error::Host { .. } | Error::Setup { .. } | Error::Source { .. }) => failed += 1,
                Err(other) => panic!("{more}: {other:?}"),
            }
        }
        panic!("it never worked");
    });
}

#[test]
fn a_host_out_of_processes() {
    if common::is_root() {
        skip!("root has no limit of processes");
    }
    alone("a_host_out_of_processes", || {
        let none = rustix::process::Rlimit { current: Some(0), maximum: None };
        let before = common::belongings();
        let (soft, hard) = {
            let l = rustix::process::getrlimit(rustix::process::Resource::Nproc);
            (l.current, l.maximum)
        };
        rustix::process::setrlimit(rustix::process::Resource::Nproc, rustix::process::Rlimit { maximum: hard, ..none })
            .unwrap();
        for sandbox in [Sandbox::new(), all_namespaces()] {
            let result = sandbox.command("true").status();
            assert!(
                matches!(result, Err(Error::Setup { step: Step::Stage | Step::Agent | Step::Spawn, .. })),
                "{result:?}"
            );
        }
        rustix::process::setrlimit(
            rustix::process::Resource::Nproc,
            rustix::process::Rlimit { current: soft, maximum: hard },
        )
        .unwrap();
        assert_eq!(before, common::belongings());
        assert!(all_namespaces().command("true").status().unwrap().success());
    });
}

#[test]
fn a_sandbox_that_does_not_stand_in_time() {
    alone("a_sandbox_that_does_not_stand_in_time", || {
        for sandbox in [Sandbox::new(), all_namespaces().rootfs(Rootfs::system()), Sandbox::new().as_pid_1()] {
            // At whatever point it is then.
            for nanoseconds in [1, 100_000, 300_000, 600_000, 1_000_000, 2_000_000] {
                leaves_nothing("too late", || {
                    let limited = sandbox.clone().setup_timeout(Duration::from_nanos(nanoseconds));
                    match limited.command("sleep").arg("1000").spawn() {
                        Err(Error::TimedOut { limit, .. }) => assert_eq!(limit, Duration::from_nanos(nanoseconds)),
                        Err(other) => panic!("{other:?}"),
                        Ok(child) => drop(child),
                    }
                });
            }
        }
        let never = Sandbox::new().pid_ns().setup_timeout(Duration::MAX);
        assert!(never.command("true").status().unwrap().success());
    });
}

#[test]
fn launches_leave_nothing() {
    alone("launches_leave_nothing", || {
        let run = |sandbox: &Sandbox| {
            for _ in 0..20 {
                assert!(sandbox.command("true").output().unwrap().outcome.success());
                drop(sandbox.command("sleep").arg("1000").spawn().unwrap());
                let child = sandbox.command("sleep").arg("1000").spawn().unwrap();
                child.signal(stockade::Signal::KILL).unwrap();
                child.wait().unwrap();
            }
        };
        for sandbox in
            [Sandbox::new(), all_namespaces(), all_namespaces().rootfs(Rootfs::system()), Sandbox::new().as_pid_1()]
        {
            leaves_nothing("launches", || run(&sandbox));
        }
        // Namespaces too: the kernel counts them for the user; it drops them in its own time.
        let host = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name == "stockade\n"));
        let ours = host.filter(|entry| {
            fs::read_to_string(entry.path().join("stat"))
                .is_ok_and(|stat| stat.contains(&format!(" {} ", std::process::id())))
        });
        assert_eq!(ours.count(), 0);
    });
}
