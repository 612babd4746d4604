//! Pools: containers made before they are needed, each for one program.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use common::{all_namespaces, alone, eventually, leaves_nothing, scaled};
use stockade::{
    Error, KilledBy, Layer, Layers, Limit, Pool, Resource, Rootfs, Sandbox, Signal, Stdio, Support, Verdict, seccomp,
};

fn system() -> Sandbox {
    all_namespaces().rootfs(Rootfs::system())
}

fn says(pool: &Pool, script: &str) -> String {
    let output = pool.command("sh").args(["-c", script]).output().unwrap();
    assert!(output.outcome.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn each_program_has_one_to_itself() {
    let pool = system().hostname("pooled").pool(2).unwrap();
    assert!(pool.wait_ready(Duration::from_secs(30)));
    for _ in 0..5 {
        let names = says(&pool, "echo x >> /tmp/mark; cat /tmp/mark; cat /proc/sys/kernel/hostname; echo $$");
        let lines: Vec<_> = names.lines().collect();
        // The namespaces' own numbers are given to others again.
        assert_eq!(lines, ["x", "pooled", "2"], "nothing of another run");
    }
    let figures = pool.figures();
    assert_eq!((figures.taken, figures.failed, figures.broken), (5, 0, 0));
    assert!(figures.made >= 5, "{figures:?}");
}

/// All that a command can have.
#[test]
fn a_pooled_program_is_like_any_other() {
    let pool = Sandbox::hardened().best_effort(Layers::all()).output_limit(100).pool(2).unwrap();
    let mut command = pool.command("sh");
    command.args(["-c", "read line; echo \"$line $VALUE $(pwd)\" >&3; echo err >&2; cat <&5; exit 9"]);
    let (mut three, theirs) = std::io::pipe().unwrap();
    let (five, mut ours) = std::io::pipe().unwrap();
    command.env("VALUE", "set").current_dir("/tmp").fd(3, theirs).fd(5, five).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    assert!(child.id() > 0);
    child.take_stdin().unwrap().write_all(b"hello\n").unwrap();
    ours.write_all(b"five").unwrap();
    drop(ours);
    let output = child.wait_with_output().unwrap();
    let mut text = String::new();
    three.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello set /tmp\n");
    assert_eq!((output.stdout, output.stderr, output.outcome.code()), (b"five".to_vec(), b"err\n".to_vec(), Some(9)));

    let too_much = pool.command("sh").args(["-c", "yes"]).output().unwrap();
    assert_eq!(too_much.outcome.verdict, Verdict::LimitExceeded(Limit::Output));
    let killed = pool.command("sleep").arg("1000").spawn().unwrap();
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
    let signalled = pool.command("sleep").arg("1000").spawn().unwrap();
    signalled.signal(Signal::TERM).unwrap();
    assert_eq!(signalled.wait().unwrap().verdict, Verdict::Signaled(Signal::TERM));
    let beside = pool.command("sleep").arg("1000").spawn().unwrap();
    assert!(beside.container().command("true").status().unwrap().success());
    drop(beside);
    let terminal =
        pool.command("sh").args(["-c", "test -t 0 && test -t 1"]).stdin(Stdio::pty()).stdout(Stdio::pty()).status();
    assert!(terminal.unwrap().success());
}

/// Only the superuser may raise a limit, and what is parked is the superuser's no more when its program comes.
#[test]
fn descriptors_beyond_the_hosts_own_limit_for_another_user() {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let Some(more) = most.and_then(|most| most.checked_add(10)) else { skip!("there is no limit") };
    // Nobody has more than that.
    let ceiling = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap().trim().parse().unwrap_or(u64::MAX);
    let sandbox = Sandbox::new().pid_ns().uid(1000).rlimit(Resource::OpenFiles, more);
    if more > ceiling || !common::is_root() || sandbox.prepare().is_err() {
        skip!("it takes the superuser, with CAP_SYS_RESOURCE, and a limit below fs.nr_open");
    }
    assert_eq!(says(&sandbox.pool(1).unwrap(), "id -u; ulimit -Hn"), format!("1000\n{more}"));
    let output = sandbox.command("sh").args(["-c", "ulimit -Hn"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), more.to_string());
}

#[test]
fn limits_hold_from_the_program_on() {
    let wall = Duration::from_millis(if common::is_slow() { 5000 } else { 300 });
    let pool = system().wall_time_limit(wall).rlimit(Resource::OpenFiles, 9).pool(1).unwrap();
    // It may wait for as long as it likes.
    std::thread::sleep(wall + wall / 4);
    assert!(pool.command("true").status().unwrap().success());
    assert_eq!(pool.command("sleep").arg("1000").status().unwrap().verdict, Verdict::LimitExceeded(Limit::WallTime));
    assert_eq!(says(&pool, "ulimit -n"), "9");
    let support = Support::probe();
    if let Some(missing) = support.missing(Layer::Memory) {
        skip!("{}", missing.reason);
    }
    let cpu = Duration::from_millis(if common::is_slow() { 4000 } else { 400 });
    let pool = system().memory_limit(48 << 20).cpu_time_limit(cpu).best_effort(Layers::CPU_TIME);
    let pool = pool.pool(1).unwrap();
    let eat = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    assert_eq!(pool.command("sh").args(["-c", eat]).status().unwrap().verdict, Verdict::LimitExceeded(Limit::Memory));
    let small = pool.command("true").status().unwrap();
    assert!(small.success() && small.usage.memory_peak.unwrap() < 16 << 20, "{small:?}");
    if support.missing(Layer::CpuTime).is_none() {
        let hog = pool.command("sh").args(["-c", "while :; do :; done"]).status().unwrap();
        assert_eq!(hog.verdict, Verdict::LimitExceeded(Limit::CpuTime), "{hog:?}");
    }
}

#[test]
fn errors_are_those_of_a_launch() {
    let pool = system().pool(1).unwrap();
    assert!(matches!(pool.command("/no/such").spawn(), Err(Error::Exec { .. })));
    assert!(matches!(pool.command("/etc").spawn(), Err(Error::Exec { .. })));
    let error = pool.command("true").current_dir("/no/such").spawn().unwrap_err();
    let Error::Setup { step: stockade::Step::WorkingDirectory, subject, .. } = &error else { panic!("{error:?}") };
    assert_eq!(subject, "/no/such");
    assert!(matches!(pool.command("a\0b").spawn(), Err(Error::Invalid { .. })));
    assert!(pool.command("true").status().unwrap().success(), "and the next one works");
    assert!(matches!(Sandbox::new().as_pid_1().pool(1), Err(Error::Invalid { .. })));
    let nowhere = Sandbox::new().chroot("/no/such/root").pool(1);
    assert!(matches!(nowhere, Err(Error::Source { .. })), "{nowhere:?}");
    // A filter that refuses even what the last steps take.
    let strict = Sandbox::new().pid_ns().seccomp(seccomp::Filter::allow_list()).pool(1).unwrap();
    assert!(matches!(strict.command("true").status().unwrap().verdict, Verdict::SyscallDenied(_)));
}

#[test]
fn a_broken_one_is_discarded() {
    alone("a_broken_one_is_discarded", || {
        let pool = system().pool(3).unwrap();
        assert!(pool.wait_ready(Duration::from_secs(60)));
        let agents = || -> Vec<u32> {
            let text = std::fs::read_dir("/proc/self/task")
                .unwrap()
                .flatten()
                .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
            text.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
        };
        for agent in agents() {
            common::kill(agent, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(pool.command("true").status().unwrap().success());
        let figures = pool.figures();
        assert!(figures.broken >= 1, "{figures:?}");
        assert!(pool.wait_ready(Duration::from_secs(60)));
    });
}

#[test]
fn it_grows_and_shrinks() {
    let pool = system().pool(1).unwrap();
    pool.resize(4);
    assert!(eventually(Duration::from_secs(30), || pool.figures().ready == 4));
    pool.resize(1);
    assert!(eventually(Duration::from_secs(30), || pool.figures().ready == 1));
    pool.resize(0);
    assert!(eventually(Duration::from_secs(30), || pool.figures().ready == 0));
    assert!(pool.command("true").status().unwrap().success(), "it is made on the spot");
    assert_eq!(pool.figures().missed, 1);
}

#[test]
fn dropping_it_drains_it() {
    alone("dropping_it_drains_it", || {
        leaves_nothing("pools", || {
            let pool = system().pool(3).unwrap();
            let outlives = pool.command("sleep").arg("1000").spawn().unwrap();
            assert!(pool.command("true").status().unwrap().success());
            assert!(pool.command("/no/such").status().is_err());
            drop(pool);
            assert!(outlives.try_wait().unwrap().is_none(), "a program goes on with its handle");
            outlives.kill().unwrap();
            outlives.wait().unwrap();
            drop(outlives);
            // What is taken and never spawned.
            let command = system().pool(2).unwrap().command("true");
            drop(command);
        });
    });
}

/// The host cannot make more: that is an error, and it goes on when it can again.
#[test]
fn a_refill_that_fails() {
    alone("a_refill_that_fails", || {
        let pool = system().pool(1).unwrap();
        assert!(pool.wait_ready(Duration::from_secs(60)));
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let old = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let tight = rustix::process::Rlimit { current: Some(open + 1), maximum: old.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, tight).unwrap();
        let refused = (0..3).map(|_| pool.command("true").status()).find(Result::is_err);
        rustix::process::setrlimit(rustix::process::Resource::Nofile, old).unwrap();
        assert!(refused.is_some_and(|result| matches!(result, Err(Error::Host { .. } | Error::Setup { .. }))));
        assert!(eventually(Duration::from_secs(30), || pool.command("true").status().is_ok_and(|o| o.success())));
    });
}

/// Many runs from many threads: every outcome right, none sees another's.
#[test]
fn many_from_many_threads() {
    alone("many_from_many_threads", || {
        let pool = system().ipc_ns().pool(8).unwrap();
        let namespaces = Mutex::new(HashSet::new());
        let runs = |count: i32| {
            std::thread::scope(|scope| {
                for thread in 0..8i32 {
                    let (pool, namespaces) = (&pool, &namespaces);
                    scope.spawn(move || {
                        for round in 0..count {
                            let code = (thread * 31 + round) % 97;
                            let script = "ls /tmp /dev/shm | wc -l; ls -d /proc/[0-9]* | wc -l; touch /tmp/$1 /dev/shm/$1; \
                                          readlink /proc/self/ns/pid; exit $1";
                            let output =
                                pool.command("sh").args(["-c", script, "sh", &code.to_string()]).output().unwrap();
                            assert_eq!(output.outcome.code(), Some(code));
                            let text = String::from_utf8_lossy(&output.stdout).into_owned();
                            let lines: Vec<_> = text.lines().collect();
                            // The two directories' names and the line between.
                            assert_eq!(lines[0], "3", "{text}");
                            // The agent, the shell, and those of its pipe that are there already.
                            assert!(lines[1].trim().parse::<u32>().unwrap() <= 4, "{text}");
                            // A number is used again once its namespace is gone.
                            namespaces.lock().unwrap().insert(lines[2].to_owned());
                        }
                    });
                }
            });
        };
        runs(i32::try_from(scaled(40)).unwrap().max(1));
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        assert!(pool.wait_ready(Duration::from_secs(60)));
        let settled = || pool.figures().ready == 8;
        assert!(eventually(Duration::from_secs(60), settled));
        // What has ended is torn down by then too.
        std::thread::sleep(Duration::from_millis(200));
        let (before, memory) = (common::belongings(), resident());
        // With STOCKADE_LONG, ten thousand.
        let count =
            if std::env::var_os("STOCKADE_LONG").is_some() { 1250 } else { i32::try_from(scaled(60)).unwrap().max(1) };
        runs(count);
        assert!(eventually(Duration::from_secs(60), settled));
        std::thread::sleep(Duration::from_millis(200));
        let after = common::belongings();
        assert_eq!(before.descriptors.len(), after.descriptors.len());
        assert_eq!(
            (before.children.len(), before.mounts, before.files),
            (after.children.len(), after.mounts, after.files)
        );
        assert!(resident() <= memory + memory / 20 + 64, "{memory} pages before, {} after", resident());
        assert!(namespaces.lock().unwrap().len() > 1);
    });
}

/// By name only: the network namespace of one run goes to another.
#[test]
fn networks_that_are_used_again() {
    let pool = Sandbox::hardened().recycle_net_ns().pool(1).unwrap();
    assert!(pool.report().in_force().contains(Layers::NET_NS));
    // One after the other, so that there is one to be used again.
    let run = |script: &str| {
        let text = says(&pool, script);
        assert!(eventually(Duration::from_secs(30), || pool.figures().ready == 1));
        text
    };
    let seen: HashSet<_> = (0..6).map(|_| run("readlink /proc/self/ns/net")).collect();
    assert!(seen.len() < 6, "some are used again: {seen:?}");
    let fresh = Sandbox::hardened().pool(1).unwrap();
    let host = std::fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy().into_owned();
    assert!(!seen.contains(&host) && !seen.contains(&says(&fresh, "readlink /proc/self/ns/net")));
    // It has its loopback device, and nothing else; and no right to change it.
    assert_eq!(run("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo");
    let python = "import socket as s\na = s.socket(); a.bind(('127.0.0.1', 0)); a.listen(); b = s.create_connection(a.getsockname()); print('ok')";
    assert_eq!(run(&format!("python3 -c \"{python}\" || echo no python")).lines().last(), Some("ok"));
    assert_ne!(run("echo 1 > /proc/sys/net/ipv4/ip_forward 2>/dev/null && echo changed; echo end"), "changed\nend");
    // What is told of it: what the kernel has counted for those before.
    let counters = "grep ^Tcp: /proc/net/snmp | tail -1 | cut -d' ' -f6";
    let sees = (0..10).any(|_| run(counters).parse::<u32>().unwrap() >= 1);
    assert!(sees, "a later run sees that an earlier one has connected");
    assert_eq!(says(&fresh, counters), "0", "the control: a network of its own has counted nothing");
    for bad in [
        Sandbox::new().recycle_net_ns(),
        Sandbox::new().user_ns().recycle_net_ns(),
        Sandbox::hardened().keep_capabilities(stockade::Capabilities::NET_ADMIN).recycle_net_ns(),
        Sandbox::hardened().map_host_root().recycle_net_ns(),
    ] {
        assert!(matches!(bad.pool(1), Err(Error::Invalid { setting: "recycle_net_ns", .. })));
    }
}

/// What is handed over in one message, in a file of its own, with descriptors in several messages; and what no exec takes.
#[test]
fn launches_of_any_size() {
    let sandbox = system();
    let (prepared, container, pool) = (sandbox.prepare().unwrap(), sandbox.start().unwrap(), sandbox.pool(1).unwrap());
    for len in [10, 3_000, 3_990, 4_000, 5_000, 100_000] {
        let text = "x".repeat(len);
        for mut command in [prepared.command("sh"), container.command("sh"), pool.command("sh")] {
            let output =
                command.args(["-c", "echo ${#VALUE} ${#1}", "sh", &text]).env("VALUE", &text).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("{len} {len}"));
        }
    }
    for size in ["", &"x".repeat(5_000)] {
        // dash(1) knows descriptors of one digit only.
        for mut command in [prepared.command("bash"), container.command("bash"), pool.command("bash")] {
            command.args(["-c", "cat <&200", size]).stdin(Stdio::null());
            for number in 3..=200 {
                let (reader, mut writer) = std::io::pipe().unwrap();
                write!(writer, "{number}").unwrap();
                command.fd(number, reader);
            }
            assert_eq!(command.output().unwrap().stdout, b"200");
        }
    }
    // The kernel takes no string of more than 128 KiB, and no more than 6 MiB in all.
    for (count, len) in [(1, 200_000), (80, 120_000), (300_000, 1)] {
        for mut command in [prepared.command("true"), container.command("true"), pool.command("true")] {
            let result = command.args(std::iter::repeat_n("x".repeat(len), count)).spawn();
            assert!(
                matches!(&result, Err(Error::Exec { source, .. }) if source.raw_os_error() == Some(7)),
                "{count} of {len}: {result:?}"
            );
        }
    }
    assert_eq!(says(&pool, "echo still here"), "still here");
}
