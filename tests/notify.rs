//! Calls that wait for the host's answer (`Action::Notify`), in every kind of sandbox, and when nobody answers.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(unsafe_code)] // signals of the host's own

mod common;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio as HostStdio;
use std::time::{Duration, Instant};

use common::{alive, alone, directory, eventually, is_root, leaves_nothing, marker, single_threaded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stockade::seccomp::{Action, Condition, Filter};
use stockade::{
    Child, Error, KilledBy, Layer, Limit, Namespaces, Notification, Notifications, Rootfs, Sandbox, Stdio, Verdict,
    Zygote,
};

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_millis(200);

/// The test's program, in a directory of its own.
struct Program {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Program {
    fn new() -> Self {
        let directory = directory();
        let options = ["-static", "-pthread"];
        let path = common::compile(directory.path(), "program", include_str!("notify/program.c"), &options);
        Self { directory, path }
    }
}

fn asking(call: &str) -> Filter {
    Filter::deny_list().deny(call, Action::Notify)
}

#[track_caller]
fn spawn(sandbox: &Sandbox, program: &Program, what: &[&str]) -> Child {
    sandbox.command(&program.path).args(what).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{error}"))
}

/// Answers all that comes, in a thread, up to the program's end; and what the program said.
#[track_caller]
fn answered(child: Child, mut answer: impl FnMut(Notification) -> bool + Send) -> (String, Verdict) {
    let notifications = child.take_notifications().expect("there is a rule that notifies");
    std::thread::scope(|scope| {
        let broker = scope.spawn(move || {
            let mut count = 0;
            for notification in notifications {
                assert!(answer(notification), "the caller was gone");
                count += 1;
            }
            count
        });
        let output = child.wait_with_output().unwrap();
        assert!(broker.join().unwrap() > 0, "nothing came");
        (String::from_utf8(output.stdout).unwrap().trim_end().to_owned(), output.outcome.verdict)
    })
}

fn double(notification: Notification) -> bool {
    let [number, ..] = notification.args();
    notification.succeed(i64::try_from(number * 2).unwrap()).unwrap()
}

#[track_caller]
fn next(notifications: &mut Notifications) -> Notification {
    notifications.next_timeout(SOON).expect("a call")
}

#[test]
fn the_host_answers() {
    let program = Program::new();
    for (kind, sandbox) in common::kinds() {
        let child = spawn(&sandbox.seccomp(asking("getppid")), &program, &["call=21", "call=1", "call=2", "call=3"]);
        let mut notifications = child.take_notifications().unwrap();
        assert!(child.take_notifications().is_none(), "{kind}: once");

        let first = next(&mut notifications);
        assert_eq!(first.syscall(), "getppid", "{kind}");
        assert_eq!(i64::from(first.nr()), libc::SYS_getppid, "{kind}");
        assert_eq!(first.args()[0], 21, "{kind}");
        assert_ne!(first.instruction_pointer(), 0, "{kind}");
        assert!(first.is_alive(), "{kind}");
        // It is the program's main thread, and the number is one that the host knows it by.
        assert_eq!(first.pid(), child.id(), "{kind}");
        let waiting = fs::read_to_string(format!("/proc/{}/cmdline", first.pid())).unwrap();
        assert!(waiting.contains("call=3"), "{kind}: {waiting}");
        assert!(notifications.try_next().is_none() && !notifications.has_ended(), "{kind}: one at a time");
        assert!(double(first), "{kind}");

        let second = next(&mut notifications);
        assert!(second.deny(77).unwrap(), "{kind}");
        let third = next(&mut notifications);
        assert!(third.allow().unwrap(), "{kind}");
        drop(next(&mut notifications));

        assert!(notifications.next().is_none() && notifications.has_ended(), "{kind}: it ends with the program");
        assert!(notifications.next_timeout(SOON).is_none() && notifications.try_next().is_none(), "{kind}");
        let output = child.wait_with_output().unwrap();
        assert!(output.outcome.success(), "{kind}: {:?}", output.outcome);
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines().collect::<Vec<_>>();
        assert_eq!([lines[0], lines[1], lines[3]], ["42", "-77", "-38"], "{kind}");
        assert!(lines[2].parse::<i64>().unwrap() >= 0, "{kind}: {lines:?}");
    }
}

/// Every call is the host's; those that the launch itself makes, filter or not, are none of them.
#[test]
fn all_that_it_calls() {
    let program = Program::new();
    let all = || Filter::allow_list().otherwise(Action::Notify);
    for (kind, sandbox) in common::kinds() {
        let sandbox = sandbox.seccomp(all());
        let mut places = vec![sandbox.command(&program.path)];
        if kind != "pid 1" {
            places.push(sandbox.start().unwrap().command(&program.path));
            places.push(sandbox.pool(1).unwrap().command(&program.path));
        }
        for mut command in places {
            let child = command.args(["open=/dev/null", "fork=1"]).stdout(Stdio::piped()).spawn().unwrap();
            let mut names = std::collections::BTreeSet::new();
            let (said, verdict) = answered(child, |notification| {
                names.insert(notification.syscall());
                // Its own end it does not outlive.
                let ends = notification.syscall() == "exit_group";
                notification.allow().unwrap() || ends
            });
            assert_eq!(verdict, Verdict::Exited(0), "{kind}: {said}");
            let expected = ["openat", "getppid", "wait4", "write", "exit_group", "read"];
            assert!(expected.iter().all(|name| names.contains(name)), "{kind}: {names:?}");
            assert!(!names.contains("execve") && !names.contains("recvmsg"), "{kind}: {names:?}");
        }
    }
}

#[test]
fn only_what_its_rule_says() {
    let program = Program::new();
    let rule = Filter::deny_list().rule("getppid", [Condition::arg(0).eq(5)], Action::Notify);
    let child = spawn(&Sandbox::new().pid_ns().seccomp(rule), &program, &["call=4", "call=5"]);
    let (said, verdict) = answered(child, |notification| {
        assert_eq!(notification.args()[0], 5);
        double(notification)
    });
    assert_eq!((said.lines().last(), verdict), (Some("10"), Verdict::Exited(0)));
    // Where no rule can notify there is nothing to take.
    for filter in [None, Some(Filter::hardened()), Some(Filter::judge()), Some(asking("kcmp").and(Filter::judge()))] {
        let sandbox = filter.map_or(Sandbox::new(), |filter| Sandbox::new().seccomp(filter));
        let child = sandbox.command("true").spawn().unwrap();
        assert!(child.take_notifications().is_none());
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_file_that_is_not_there() {
    let program = Program::new();
    let root = directory();
    fs::copy(&program.path, root.path().join("program")).unwrap();
    let secret = program.directory.path().join("file");
    fs::write(&secret, "hello\nand more").unwrap();
    let inside = Program { path: "/program".into(), directory: root };
    let sandbox =
        Sandbox::new().pid_ns().rootfs(Rootfs::empty()).bind_ro(inside.directory.path().join("program"), "/program");
    let both = Filter::deny_list().deny("openat", Action::Notify).deny("open", Action::Notify);

    let what = ["open=/not/there", "open=/kept", "open=/other", "many=/not/there"];
    assert_eq!(answered_without(&sandbox, &inside, &what[..1]), "-2", "the twin");
    let child = spawn(&sandbox.seccomp(both), &inside, &what);
    let (said, verdict) = answered(child, |notification| {
        let [_, path, ..] = notification.args();
        let path = notification.read_string(path).unwrap();
        match path.to_str().unwrap() {
            "/not/there" => notification.give_fd(File::open(&secret).unwrap(), true).unwrap(),
            "/kept" => notification.give_fd(File::open(&secret).unwrap(), false).unwrap(),
            _ => notification.deny(13).unwrap(),
        }
    });
    assert_eq!(said.lines().collect::<Vec<_>>(), ["1 hello", "0 hello", "-13", "200"]);
    assert_eq!(verdict, Verdict::Exited(0));
}

/// Without anybody to ask.
#[track_caller]
fn answered_without(sandbox: &Sandbox, program: &Program, what: &[&str]) -> String {
    let output = sandbox.command(&program.path).args(what).output().unwrap();
    assert!(output.outcome.success(), "{:?}", output.outcome);
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_caller_that_may_open_no_more() {
    let program = Program::new();
    let child = spawn(&Sandbox::new().seccomp(asking("openat")), &program, &["most=3", "open=/x", "call=0"]);
    let (said, _) = answered(child, |notification| notification.give_fd(io::stdin(), true).unwrap());
    assert_eq!(said.lines().nth(1), Some("-24"), "{said}");
}

#[test]
fn what_is_in_its_memory() {
    let program = Program::new();
    for (kind, sandbox) in common::kinds() {
        let child = spawn(&sandbox.seccomp(asking("openat")), &program, &["open=/a/path", "path=0", "path=1"]);
        let mut notifications = child.take_notifications().unwrap();
        let first = next(&mut notifications);
        let [_, path, ..] = first.args();
        assert_eq!(first.read_string(path).unwrap().as_c_str(), c"/a/path", "{kind}");
        let mut part = [0; 4];
        assert_eq!(first.read_memory(path + 1, &mut part).unwrap(), 4, "{kind}");
        assert_eq!(&part, b"a/pa", "{kind}");
        for nowhere in [0, 8, 1 << 63, u64::MAX] {
            let error = first.read_memory(nowhere, &mut part).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "{kind}: {nowhere:#x}");
        }
        drop(first);
        let second = next(&mut notifications);
        assert_eq!(second.read_string(second.args()[1]).unwrap_err().raw_os_error(), Some(libc::EFAULT), "{kind}");
        drop(second);
        // Up to where nothing is mapped; then it has no end.
        let third = next(&mut notifications);
        let mut long = [0; 500];
        assert_eq!(third.read_memory(third.args()[1], &mut long).unwrap(), 96, "{kind}");
        assert_eq!(third.read_string(third.args()[1]).unwrap_err().raw_os_error(), Some(libc::EFAULT), "{kind}");
        // What is read of one that has gone is nobody's.
        child.kill().unwrap_or_else(|_| child.signal(stockade::Signal::KILL).unwrap());
        assert!(eventually(SOON, || !third.is_alive()), "{kind}");
        let error = third.read_memory(path, &mut part).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{kind}");
        assert!(!third.give_fd(io::stdin(), true).unwrap(), "{kind}");
    }
}

/// Nobody takes the notifications: while the host may still do so they wait, and no longer.
#[test]
fn a_host_that_does_not_ask() {
    let program = Program::new();
    let sandbox = Sandbox::new().pid_ns().seccomp(asking("getppid"));
    assert_eq!(answered_without(&sandbox, &program, &["call=1", "call=2"]), "-38\n-38");
    let outcome = sandbox.command(&program.path).arg("call=1").stdout(Stdio::null()).status().unwrap();
    assert!(outcome.success());

    let child = spawn(&sandbox, &program, &["call=1"]);
    assert!(child.wait_timeout(A_WHILE).unwrap().is_none(), "it waits");
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.outcome.verdict), (&b"-38\n"[..], Verdict::Exited(0)));

    // Dropped at once.
    let child = spawn(&sandbox, &program, &["call=1", "threads=20"]);
    drop(child.take_notifications());
    assert_eq!(child.wait_with_output().unwrap().stdout, b"-38\n0 20\n");
    // Dropped with many that wait: those that were taken, those that were not, those to come.
    let child = spawn(&sandbox, &program, &["threads=60", "call=1"]);
    let mut notifications = child.take_notifications().unwrap();
    let taken = [next(&mut notifications), next(&mut notifications)];
    drop(notifications);
    std::thread::sleep(A_WHILE);
    assert!(child.try_wait().unwrap().is_none(), "two are still answered");
    assert!(taken.into_iter().all(double));
    assert_eq!(child.wait_with_output().unwrap().stdout, b"2 58\n-38\n");

    // Let go: it runs on, and so does what it says.
    let child = spawn(&sandbox, &program, &["call=1"]);
    let mut stdout = child.take_stdout().unwrap();
    child.detach_until_host_exits().unwrap();
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, "-38\n");
    // With its notifications kept, those are answered.
    let child = spawn(&sandbox, &program, &["call=4"]);
    let (mut stdout, mut notifications) = (child.take_stdout().unwrap(), child.take_notifications().unwrap());
    child.detach_until_host_exits().unwrap();
    assert!(double(next(&mut notifications)));
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!((&*said, notifications.next().is_none()), ("8\n", true));
}

/// What is on its way when the host lets go is answered too.
#[test]
fn let_go_in_the_midst() {
    let program = Program::new();
    let sandbox = Sandbox::new().pid_ns().seccomp(asking("getppid")).prepare().unwrap();
    for round in 0..common::scaled(60).max(5) {
        let child = sandbox.command(&program.path).arg("storm=100").stdout(Stdio::piped()).spawn().unwrap();
        let mut notifications = child.take_notifications().unwrap();
        let answered = round % 40;
        for _ in 0..answered {
            assert!(double(next(&mut notifications)));
        }
        drop(notifications);
        assert!(child.wait_timeout(SOON).unwrap().is_some(), "round {round}: a call waits for nobody");
        let said = child.wait_with_output().unwrap().stdout;
        assert_eq!(String::from_utf8(said).unwrap(), format!("{answered} {}\n", 400 - answered));
    }
}

/// More calls wait than the host takes in: those beyond fail, and the rest is answered when it comes to that.
#[test]
fn a_flood() {
    const THREADS: usize = 1000;
    let program = Program::new();
    let child = spawn(&Sandbox::new().pid_ns().seccomp(asking("getppid")), &program, &["threads=1000", "call=5000"]);
    let mut notifications = child.take_notifications().unwrap();
    // All have called when nothing has changed for a while.
    let threads = || fs::read_dir(format!("/proc/{}/task", child.id())).map_or(0, Iterator::count);
    let mut seen = vec![];
    assert!(eventually(SOON, || {
        std::thread::sleep(A_WHILE);
        seen.push(threads());
        seen.iter().rev().take(5).all(|count| *count > 1 && Some(count) == seen.last()) && seen.len() > 5
    }));
    let mut waiting = 0;
    loop {
        let notification = next(&mut notifications);
        // When all have been answered there is room again.
        let last = notification.args()[0] == 5000;
        assert!(double(notification));
        if last {
            break;
        }
        waiting += 1;
    }
    assert!((250..900).contains(&waiting), "{waiting}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{waiting} {}\n10000\n", THREADS - waiting));

    // As many as there is room for all come, however slowly they are taken, and may be answered in any order.
    let child = spawn(&Sandbox::new().pid_ns().seccomp(asking("getppid")), &program, &["threads=200"]);
    let all = child.take_notifications().unwrap().take(200).collect::<Vec<_>>();
    let mut pids = all.iter().map(Notification::pid).collect::<Vec<_>>();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 200, "each thread has its own number");
    let own = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let own = own.flatten().map(|entry| entry.file_name().to_string_lossy().parse().unwrap()).collect::<Vec<u32>>();
    assert!(pids.iter().all(|pid| own.contains(pid)));
    std::thread::scope(|scope| {
        let mut all = all.into_iter().rev();
        while let Some(notification) = all.next() {
            let others = all.by_ref().take(33).collect::<Vec<_>>();
            scope.spawn(move || assert!(others.into_iter().chain([notification]).all(double)));
        }
    });
    assert_eq!(child.wait_with_output().unwrap().stdout, b"200 0\n");
}

#[test]
fn ended_while_it_waits() {
    let program = Program::new();
    for (kind, sandbox) in common::kinds() {
        let sandbox = sandbox.seccomp(asking("getppid"));
        // On a busy machine a short one may be over before the program has called.
        let limits = [A_WHILE, 10 * A_WHILE, 50 * A_WHILE].into_iter();
        let mut limited = limits.filter_map(|limit| {
            let limited = spawn(&sandbox.clone().wall_time_limit(limit), &program, &["call=1"]);
            let mut notifications = limited.take_notifications().unwrap();
            let waiting = notifications.next_timeout(SOON)?;
            Some((limited, notifications, waiting))
        });
        let (limited, mut notifications, waiting) = limited.next().expect("a call");
        let outcome = limited.wait().unwrap();
        assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::WallTime), "{kind}");
        assert!(!waiting.is_alive() && !waiting.succeed(1).unwrap(), "{kind}: it came too late");
        assert!(notifications.next().is_none(), "{kind}");

        let killed = spawn(&sandbox, &program, &["threads=3"]);
        let mut notifications = killed.take_notifications().unwrap();
        let waiting = [next(&mut notifications), next(&mut notifications)];
        if killed.kill().is_ok() {
            assert_eq!(killed.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host), "{kind}");
        } else {
            drop(killed);
        }
        for notification in waiting {
            assert!(!notification.allow().unwrap(), "{kind}");
        }
        // One more may be there, of a thread that is no more.
        assert!(notifications.next().is_none(), "{kind}");

        let begun = Instant::now();
        let dropped = spawn(&sandbox, &program, &["call=1"]);
        let notifications = dropped.take_notifications();
        drop(dropped);
        assert!(notifications.unwrap().next().is_none(), "{kind}");
        assert!(begun.elapsed() < SOON / 2, "{kind}: {:?}", begun.elapsed());
    }
}

/// The program ends with its host, whatever it waits for.
#[test]
fn a_host_that_is_killed() {
    const NAME: &str = "a_host_that_is_killed";
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        let program = std::env::var_os("STOCKADE_PROGRAM").unwrap();
        let marker = std::env::var("STOCKADE_MARKER").unwrap();
        let sandbox = Sandbox::new().pid_ns().seccomp(asking("getppid"));
        let child = sandbox.command(program).args(["call=1", &*format!("call={marker}")]).spawn().unwrap();
        let mut notifications = child.take_notifications().unwrap();
        let waiting = next(&mut notifications);
        println!("waits {}", waiting.is_alive());
        std::thread::sleep(SOON);
        return drop(waiting);
    }
    let (program, marker) = (Program::new(), marker("notify"));
    let mut host = common::again(NAME);
    host.env("STOCKADE_PROGRAM", &program.path).env("STOCKADE_MARKER", &marker).stdout(HostStdio::piped());
    let mut host = host.spawn().unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("waits true")));
    assert_eq!(alive(&marker).len(), 1);
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(eventually(SOON, || alive(&marker).is_empty()), "{:?}", alive(&marker));
}

#[test]
fn two_programs_in_a_container() {
    let program = Program::new();
    let sandbox = Sandbox::new().pid_ns().seccomp(asking("getppid"));
    let container = sandbox.start().unwrap();
    let start = |what: &[&str]| container.command(&program.path).args(what).stdout(Stdio::piped()).spawn().unwrap();
    let [one, other] = [start(&["call=1", "call=10"]), start(&["call=2", "call=20"])];
    let unheard = start(&["call=3", "call=30"]);
    let mut heard = [&one, &other].map(|child| (child.id(), child.take_notifications().unwrap()));
    drop(unheard.take_notifications());
    assert_eq!(unheard.wait_with_output().unwrap().stdout, b"-38\n-38\n");
    for _ in 0..2 {
        for ((pid, notifications), factor) in heard.iter_mut().zip([100, 1000]) {
            let notification = next(notifications);
            assert_eq!(notification.pid(), *pid);
            let value = notification.args()[0] * factor;
            assert!(notification.succeed(i64::try_from(value).unwrap()).unwrap());
        }
    }
    for (child, said) in [(one, "100\n1000\n"), (other, "2000\n20000\n")] {
        assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), said);
    }
    assert!(heard.into_iter().all(|(_, mut notifications)| notifications.next().is_none()));
    // And one for which nobody is there at all.
    assert_eq!(container.command(&program.path).arg("call=1").output().unwrap().stdout, b"-38\n");
}

#[test]
fn in_a_pool() {
    let program = Program::new();
    let pool = Sandbox::new().pid_ns().seccomp(asking("getppid")).pool(2).unwrap();
    std::thread::scope(|scope| {
        for number in 1..=3 {
            let (pool, program) = (&pool, &program);
            scope.spawn(move || {
                for round in 1..=5_i32 {
                    let what = format!("call={}", number * 100 + round);
                    let child = pool.command(&program.path).arg(what).arg("copies=0").stdout(Stdio::piped()).spawn();
                    let child = child.unwrap();
                    let pid = child.id();
                    let (said, verdict) = answered(child, |notification| {
                        assert_eq!(notification.pid(), pid);
                        double(notification)
                    });
                    // The program has nothing of the way to the host.
                    assert_eq!(said, format!("{}\n0", (number * 100 + round) * 2));
                    assert_eq!(verdict, Verdict::Exited(0));
                }
            });
        }
    });
    assert_eq!(pool.command(&program.path).arg("call=1").output().unwrap().stdout, b"-38\n");
}

#[test]
fn what_the_program_forks() {
    let program = Program::new();
    for (kind, sandbox) in common::kinds() {
        let sandbox = sandbox.seccomp(asking("getppid"));
        let child = spawn(&sandbox, &program, &["fork=7", "call=8", "threads=5", "copies=0"]);
        let (main, mut seen) = (child.id(), vec![]);
        let (said, verdict) = answered(child, |notification| {
            seen.push((notification.args()[0], notification.pid()));
            double(notification)
        });
        assert_eq!((&*said, verdict), ("14\n16\n5 0\n0", Verdict::Exited(0)), "{kind}");
        assert!(seen[0].0 == 7 && seen[0].1 != main && seen[1] == (8, main), "{kind}: {seen:?}");
    }
}

/// While it waits, signals that the program handles do not take its call away.
#[test]
fn signals_of_the_program() {
    let release = rustix::system::uname();
    let release =
        release.release().to_str().unwrap().split('.').map_while(|part| part.parse().ok()).collect::<Vec<u32>>();
    if release < vec![5, 19] {
        skip!("Linux {release:?} takes a call back for a signal");
    }
    let program = Program::new();
    let child = spawn(&Sandbox::new().pid_ns().seccomp(asking("getppid")), &program, &["interrupt=500"]);
    let mut count = 0;
    let (said, _) = answered(child, |notification| {
        count += 1;
        double(notification)
    });
    assert_eq!((&*said, count), ("500", 500));
}

/// Nor do signals of the host's own make an answer another one.
#[test]
fn signals_of_the_host() {
    alone("signals_of_the_host", || {
        extern "C" fn tick(_: i32) {}
        let program = Program::new();
        let child = spawn(&Sandbox::new().pid_ns().seccomp(asking("openat")), &program, &["many=/x", "call=0"]);
        let notifications = child.take_notifications().unwrap();
        let often = libc::timeval { tv_sec: 0, tv_usec: 20 };
        let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let set = |time: libc::timeval| {
            let timer = libc::itimerval { it_interval: time, it_value: time };
            // SAFETY: live records; the handler does nothing.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
        };
        // SAFETY: sets a handler that does nothing, and interrupts calls.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = tick as *const () as usize;
            libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        }
        set(often);
        for notification in notifications.into_iter().take(201) {
            assert!(notification.give_fd(File::open(&program.path).unwrap(), true).unwrap());
        }
        set(never);
        let said = child.wait_with_output().unwrap().stdout;
        assert!(said.starts_with(b"200\n"), "{}", String::from_utf8_lossy(&said));
    });
}

#[test]
fn other_rules_of_the_same_filter() {
    let program = Program::new();
    for (kind, sandbox) in common::kinds() {
        let filter = asking("getppid").deny("kcmp", Action::Kill);
        let child = spawn(&sandbox.clone().seccomp(filter.clone()), &program, &["call=1", "kcmp=0", "call=2"]);
        let (said, verdict) = answered(child, double);
        assert_eq!(said, "2", "{kind}");
        let Verdict::SyscallDenied(denied) = verdict else { panic!("{kind}: {verdict:?}") };
        assert_eq!(denied.syscall, "kcmp", "{kind}");
        // With the same from two filters, and with one that is stricter.
        let strict = Filter::deny_list().deny("getppid", Action::Errno(5));
        for combined in [
            sandbox.clone().seccomp(strict.clone()).seccomp(filter.clone()),
            sandbox.clone().seccomp(filter.clone().and(strict)),
        ] {
            let child = spawn(&combined, &program, &["call=1"]);
            assert!(child.take_notifications().is_none(), "{kind}");
            assert_eq!(child.wait_with_output().unwrap().stdout, b"-5\n", "{kind}");
        }
        let lax = Filter::deny_list().deny("getppid", Action::Log);
        let child = spawn(&sandbox.seccomp(lax.and(filter)), &program, &["call=4"]);
        assert_eq!(answered(child, double).0, "8", "{kind}");
    }
}

#[test]
fn hardened() {
    let program = Program::new();
    let hardened = || Sandbox::hardened().bind_ro(&program.path, "/program");
    let inside = Program { path: "/program".into(), directory: directory() };
    let child = spawn(&hardened().seccomp(asking("getppid")), &inside, &["call=1", "kcmp=0"]);
    assert_eq!(answered(child, double), ("2\n-1".into(), Verdict::Exited(0)));
    // What the preset refuses it refuses, unless the preset itself is changed.
    let child = spawn(&hardened().seccomp(asking("kcmp")), &inside, &["kcmp=0"]);
    assert!(child.take_notifications().is_none());
    assert_eq!(child.wait_with_output().unwrap().stdout, b"-1\n");
    let changed = hardened().without_seccomp().seccomp(Filter::hardened().deny("kcmp", Action::Notify));
    let child = spawn(&changed, &inside, &["kcmp=0"]);
    assert_eq!(answered(child, |notification| notification.deny(99).unwrap()).0, "-99");
}

#[test]
fn what_is_counted() {
    let program = Program::new();
    let filter = asking("getppid").deny("kcmp", Action::Errno(1));
    let sandbox = Sandbox::new().pid_ns().seccomp(filter).record_denials();
    let counted = |child: &Child| {
        let denials = child.denials().unwrap();
        denials.into_iter().map(|denial| (denial.syscall, denial.count)).collect::<Vec<_>>()
    };
    let child = spawn(&sandbox, &program, &["call=1", "kcmp=0", "call=2", "kcmp=0"]);
    let mut notifications = child.take_notifications().unwrap();
    assert!(double(next(&mut notifications)));
    assert!(next(&mut notifications).deny(1).unwrap());
    child.wait().unwrap();
    assert_eq!(counted(&child), [("kcmp", 2)], "what the host was asked it knows");
    let child = spawn(&sandbox, &program, &["call=1", "kcmp=0", "call=2", "call=3"]);
    let mut notifications = child.take_notifications().unwrap();
    let taken = next(&mut notifications);
    drop(notifications);
    assert!(double(taken));
    child.wait().unwrap();
    assert_eq!(counted(&child), [("getppid", 2), ("kcmp", 1)], "nobody was told");
}

/// A program whose filter only answers with errors has no listener, and may have its own.
#[test]
fn who_has_a_listener() {
    let program = Program::new();
    let judge = Filter::judge().allow("seccomp");
    for (filter, expected) in [
        (Filter::default_profile().allow("seccomp"), "0"),
        (Filter::hardened().allow("seccomp"), "0"),
        (judge, "-16"),
        (Filter::hardened().allow("seccomp").and(asking("getppid")), "-16"),
    ] {
        // Whom new privileges are allowed may not install one.
        for (kind, sandbox) in common::kinds().into_iter().filter(|(kind, _)| !kind.contains("privileges")) {
            let said = answered_without(&sandbox.clone().seccomp(filter.clone()), &program, &["listen=0"]);
            assert_eq!(said, expected, "{kind}");
            let said = answered_without(&sandbox.seccomp(filter.clone()).record_denials(), &program, &["listen=0"]);
            assert_eq!(said, "-16", "{kind}, recording");
        }
    }
}

/// There can be one listener only, and who has none needs none.
#[test]
fn under_another_supervisor() {
    alone("under_another_supervisor", || {
        let mut allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 };
        let all = libc::sock_fprog { len: 1, filter: &raw mut allow };
        // SAFETY: the kernel copies the program, which has one instruction.
        let listener = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::syscall(libc::SYS_seccomp, 1, 8, &raw const all)
        };
        assert!(listener > 2);
        assert!(Sandbox::new().seccomp(Filter::hardened()).command("true").status().unwrap().success());
        for filter in [asking("getppid"), Filter::judge()] {
            let refused = Sandbox::new().seccomp(filter).command("true").spawn();
            let Err(Error::Unsupported { layer: Layer::Seccomp, reason, remedy, .. }) = refused else {
                panic!("{refused:?}")
            };
            assert!(reason.contains("listener") && remedy.contains("Notify"), "{reason}: {remedy}");
        }
    });
}

fn asks(number: u64) -> i32 {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_getppid, number) };
    i32::try_from(result).unwrap_or(-1)
}

#[test]
fn closures() {
    single_threaded("closures", || {
        let zygote = Zygote::start().unwrap();
        let sandbox = Sandbox::new().pid_ns().seccomp(asking("getppid"));
        for spawned in [zygote.spawn(&sandbox, asks, 21), sandbox.spawn_fn(|| asks(21))] {
            let child = spawned.unwrap();
            let mut notifications = child.take_notifications().unwrap();
            let notification = next(&mut notifications);
            assert_eq!((notification.pid(), notification.args()[0]), (child.id(), 21));
            // Its memory is the host's own, and closed to others of its user.
            let read = notification.read_memory(notification.instruction_pointer(), &mut [0; 4]);
            if is_root() {
                assert_eq!(read.unwrap(), 4);
            } else {
                assert_eq!(read.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
            assert!(double(notification));
            assert!(notifications.next().is_none());
            assert_eq!(child.wait().unwrap().verdict, Verdict::Exited(42));
        }
        // Who runs one to its end does not answer.
        let finished = sandbox.run(|| asks(21)).unwrap();
        assert_eq!(finished.value, Ok(-1));
    });
}

#[test]
fn a_joined_pid_namespace() {
    if !is_root() {
        skip!("namespaces of others are joined as root");
    }
    let program = Program::new();
    let other = Sandbox::new().pid_ns().command("sleep").arg("1000").spawn().unwrap();
    let namespace = File::open(format!("/proc/{}/ns/pid", other.id())).unwrap();
    let joined = Sandbox::new().join_ns(Namespaces::PID, namespace).seccomp(asking("getppid"));
    let joined = joined.best_effort(stockade::Layers::TREE_KILL);
    let child = spawn(&joined, &program, &["call=1"]);
    let (said, _) = answered(child, |notification| {
        assert_eq!(notification.pid(), 0, "the host cannot tell");
        let error = notification.read_memory(notification.instruction_pointer(), &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        double(notification)
    });
    assert_eq!(said, "2");
}

#[test]
fn what_makes_no_sense() {
    let program = Program::new();
    for errno in [0, 4096, u16::MAX] {
        let child = spawn(&Sandbox::new().seccomp(asking("getppid")), &program, &["call=1"]);
        let mut notifications = child.take_notifications().unwrap();
        let refused = next(&mut notifications).deny(errno);
        assert!(matches!(refused, Err(Error::Invalid { setting: "deny", .. })), "{refused:?}");
        assert_eq!(child.wait_with_output().unwrap().stdout, b"-38\n");
    }
    let child = spawn(&Sandbox::new().seccomp(asking("getppid")), &program, &["call=1", "call=2"]);
    let mut values = [-5, i64::MIN].into_iter();
    let (said, _) = answered(child, |notification| notification.succeed(values.next().unwrap()).unwrap());
    assert_eq!(said.lines().next(), Some("-5"), "what a C library takes for an error");
}

#[test]
fn an_event_loop() {
    let program = Program::new();
    let child = spawn(&Sandbox::new().pid_ns().seccomp(asking("getppid")), &program, &["call=1", "call=2"]);
    let mut notifications = child.take_notifications().unwrap();
    let ready = |notifications: &Notifications, limit: Duration| {
        let mut set = [PollFd::from_borrowed_fd(notifications.as_fd(), PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap();
        poll(&mut set, Some(&limit)).unwrap() > 0
    };
    let mut answered = 0;
    while !notifications.has_ended() {
        assert!(ready(&notifications, SOON));
        while let Some(notification) = notifications.try_next() {
            assert!(!ready(&notifications, Duration::ZERO), "it was the only one");
            assert!(double(notification));
            answered += 1;
        }
    }
    assert_eq!(answered, 2);
    let begun = Instant::now();
    let child = spawn(&Sandbox::new().pid_ns().seccomp(asking("kcmp")), &program, &["stay=0"]);
    let mut notifications = child.take_notifications().unwrap();
    assert!(notifications.next_timeout(A_WHILE).is_none() && !notifications.has_ended());
    assert!(begun.elapsed() >= A_WHILE);
}

#[test]
fn nothing_is_left() {
    alone("nothing_is_left", || {
        let program = Program::new();
        let sandbox = Sandbox::new().pid_ns().seccomp(asking("getppid"));
        leaves_nothing("programs that ask", || {
            let child = spawn(&sandbox, &program, &["threads=30"]);
            let mut notifications = child.take_notifications().unwrap();
            let kept = next(&mut notifications);
            assert!(double(next(&mut notifications)));
            drop((notifications, kept));
            child.wait().unwrap();
            drop(spawn(&sandbox, &program, &["call=1"]));
            let container = sandbox.start().unwrap();
            let child = container.command(&program.path).arg("call=1").spawn().unwrap();
            drop((child.take_notifications().unwrap().next(), child));
            let pool = sandbox.pool(2).unwrap();
            assert!(pool.command(&program.path).arg("call=1").output().unwrap().outcome.success());
            assert!(pool.wait_ready(SOON));
        });
    });
}

/// A file's name is the caller's to change, and what it gets is the host's choice.
#[test]
fn a_descriptor_is_the_same_file() {
    let program = Program::new();
    let mut given = None;
    let child = spawn(&Sandbox::new().pid_ns().seccomp(asking("openat")), &program, &["open=/x", "stay=0"]);
    let mut notifications = child.take_notifications().unwrap();
    let notification = next(&mut notifications);
    let file = File::open(&program.path).unwrap();
    assert!(notification.give_fd(&file, true).unwrap());
    assert!(eventually(SOON, || {
        let there = fs::metadata(Path::new("/proc").join(child.id().to_string()).join("fd/3"));
        given = there.ok();
        given.is_some()
    }));
    let (given, own) = (given.unwrap(), file.metadata().unwrap());
    assert_eq!((given.dev(), given.ino()), (own.dev(), own.ino()));
}
