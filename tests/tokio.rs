//! The futures of a program's handle, in runtimes of one thread and of several.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use common::{alive, all_namespaces, alone, eventually, leaves_nothing, marker, scaled};
use stockade::{Child, Error, KilledBy, Layer, Limit, Rootfs, Sandbox, Signal, Stdio, Support, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

fn sh(sandbox: &Sandbox, script: &str) -> Child {
    sandbox.command("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn it_waits() {
    for runtime in [one_thread(), threads()] {
        runtime.block_on(async {
            for sandbox in [Sandbox::new(), all_namespaces(), Sandbox::new().as_pid_1()] {
                assert_eq!(sh(&sandbox, "sleep 0.1; exit 7").wait_async().await.unwrap().verdict, Verdict::Exited(7));
                let child = sh(&sandbox, "kill -USR1 $$; sleep 1000");
                // A PID 1 gets nothing that it has no handler for.
                if child.wait_timeout(Duration::from_millis(300)).unwrap().is_none() {
                    child.signal(Signal::KILL).unwrap();
                }
                let verdict = child.wait_async().await.unwrap().verdict;
                assert!(matches!(verdict, Verdict::Signaled(Signal::USR1 | Signal::KILL)), "{verdict:?}");
                // And again, and by the other way.
                assert_eq!(child.wait_async().await.unwrap().verdict, verdict);
                assert_eq!(child.wait().unwrap().verdict, verdict);
            }
        });
    }
}

#[test]
fn its_limits_and_its_kill() {
    let wall = Duration::from_millis(if common::is_slow() { 5000 } else { 300 });
    one_thread().block_on(async {
        let late = sh(&all_namespaces().wall_time_limit(wall), "sleep 1000").wait_async().await.unwrap();
        assert_eq!(late.verdict, Verdict::LimitExceeded(Limit::WallTime));
        let child = sh(&all_namespaces(), "sleep 1000");
        assert!(timeout(Duration::from_millis(50), child.wait_async()).await.is_err());
        child.kill().unwrap();
        assert_eq!(child.wait_async().await.unwrap().verdict, Verdict::Killed(KilledBy::Host));
        // stdin is closed, as by wait().
        let mut command = all_namespaces().command("cat");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        assert!(child.wait_async().await.unwrap().success());
    });
}

/// Dropped at any point, it loses nothing.
#[test]
fn a_future_that_is_dropped() {
    let runtime = one_thread();
    runtime.block_on(async {
        for round in 0..i32::try_from(scaled(120)).unwrap().max(4) {
            let child = sh(&all_namespaces(), &format!("exit {}", round % 50));
            // Polled so many times, each after a while.
            for _ in 0..round % 6 {
                let mut future = pin!(child.wait_async());
                let mut poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
                if poll() {
                    tokio::time::sleep(Duration::from_micros(u64::try_from(round * 37 % 900).unwrap())).await;
                    let _ = poll();
                }
            }
            let verdict = timeout(SOON, child.wait_async()).await.unwrap().unwrap().verdict;
            assert_eq!(verdict, Verdict::Exited(round % 50));
        }
    });
}

#[test]
fn many_wait_for_one() {
    let runtime = threads();
    for _ in 0..scaled(30).max(2) {
        let child = Arc::new(sh(&all_namespaces(), "sleep 0.05; exit 3"));
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                let child = Arc::clone(&child);
                runtime.spawn(async move { child.wait_async().await.unwrap().verdict })
            })
            .collect();
        let blocking = {
            let child = Arc::clone(&child);
            std::thread::spawn(move || child.wait().unwrap().verdict)
        };
        runtime.block_on(async {
            for task in tasks {
                assert_eq!(timeout(SOON, task).await.unwrap().unwrap(), Verdict::Exited(3));
            }
        });
        assert_eq!(blocking.join().unwrap(), Verdict::Exited(3));
    }
}

#[test]
fn many_at_once_on_one_thread() {
    let prepared = all_namespaces().prepare().unwrap();
    one_thread().block_on(async {
        let mut tasks = vec![];
        for number in 0..i32::try_from(scaled(60)).unwrap().max(4) {
            let mut command = prepared.command("sh");
            command.args(["-c", "sleep 0.2; echo $1; exit $1", "sh", &number.to_string()]);
            let child = command.stdout(Stdio::piped()).spawn().unwrap();
            tasks.push((number, tokio::spawn(child.wait_with_output_async())));
        }
        for (number, task) in tasks {
            let output = timeout(SOON, task).await.unwrap().unwrap().unwrap();
            assert_eq!(output.outcome.code(), Some(number));
            assert_eq!(output.stdout, format!("{number}\n").as_bytes());
        }
    });
}

#[test]
fn its_output() {
    threads().block_on(async {
        // Both at once, more than a pipe holds.
        let script = "(yes out | head -c 300000) & (yes err | head -c 400000 >&2); wait";
        let output = sh(&all_namespaces(), script).wait_with_output_async().await.unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 400_000));
        assert!(output.outcome.success());
        let limited = all_namespaces().output_limit(1000);
        let output = sh(&limited, "yes").wait_with_output_async().await.unwrap();
        assert_eq!((output.outcome.verdict, output.stdout.len()), (Verdict::LimitExceeded(Limit::Output), 1000));
        // A command's own, where the policy has none.
        let pool = all_namespaces().pool(1).unwrap();
        let mut command = pool.command("yes");
        let child = command.output_limit(1000).stdout(Stdio::piped()).spawn().unwrap();
        let output = timeout(SOON, child.wait_with_output_async()).await.unwrap().unwrap();
        assert_eq!((output.outcome.verdict, output.stdout.len()), (Verdict::LimitExceeded(Limit::Output), 1000));
        // A stream that is closed early is no reason to spin, nor to stop.
        let output =
            sh(&all_namespaces(), "exec >&-; sleep 0.2; echo late >&2").wait_with_output_async().await.unwrap();
        assert_eq!(output.stderr, b"late\n");
        // Nothing is piped.
        let child = all_namespaces().command("true").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(child.wait_with_output_async().await.unwrap().outcome.success());
    });
    // Dropped, the program goes with it.
    let marker = marker("async-output");
    one_thread().block_on(async {
        let child = sh(&all_namespaces(), &common::sleeper(&marker));
        assert!(eventually(SOON, || !alive(&marker).is_empty()));
        assert!(timeout(Duration::from_millis(50), child.wait_with_output_async()).await.is_err());
    });
    assert_eq!(alive(&marker), []);
}

#[test]
fn its_pipes() {
    one_thread().block_on(async {
        let mut command = all_namespaces().command("sh");
        command.args(["-c", "while read line; do echo \"<$line>\"; echo \"($line)\" >&2; done"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.take_stdin_async().unwrap().unwrap();
        let mut stdout = child.take_stdout_async().unwrap().unwrap();
        let mut stderr = child.take_stderr_async().unwrap().unwrap();
        assert!(child.take_stdout_async().unwrap().is_none(), "once");
        let mut buffer = [0; 16];
        for word in ["one", "two"] {
            stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
            let len = timeout(SOON, stdout.read(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(buffer[..len], *format!("<{word}>\n").as_bytes());
            let len = timeout(SOON, stderr.read(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(buffer[..len], *format!("({word})\n").as_bytes());
        }
        // A read waits without holding the others up.
        assert!(timeout(Duration::from_millis(50), stdout.read(&mut buffer)).await.is_err());
        drop(stdin);
        let mut rest = vec![];
        timeout(SOON, stdout.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"");
        assert!(child.wait_async().await.unwrap().success());
    });
}

/// In containers and pools, with cgroups where there are some.
#[test]
fn in_other_homes() {
    let system = || all_namespaces().rootfs(Rootfs::system());
    threads().block_on(async {
        let container = system().start().unwrap();
        let mut command = container.command("sh");
        assert_eq!(command.args(["-c", "exit 4"]).spawn().unwrap().wait_async().await.unwrap().code(), Some(4));
        let long = container.command("sleep").arg("1000").spawn().unwrap();
        assert!(timeout(Duration::from_millis(50), long.wait_async()).await.is_err());
        container.kill();
        assert_eq!(long.wait_async().await.unwrap().verdict, Verdict::Killed(KilledBy::Host));

        let pool = system().pool(2).unwrap();
        let children: Vec<_> = (0..scaled(40).max(4)).map(|_| pool.command("true").spawn().unwrap()).collect();
        for child in children {
            assert!(timeout(SOON, child.wait_async()).await.unwrap().unwrap().success());
        }
        drop(pool);
        if Support::probe().missing(Layer::Memory).is_some() {
            return;
        }
        let limited = system().memory_limit(48 << 20);
        let eat = sh(&limited, "dd if=/dev/zero of=/dev/null bs=200M count=1");
        let outcome = timeout(SOON, eat.wait_async()).await.unwrap().unwrap();
        assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::Memory), "{outcome:?}");
        let pool = limited.pool(1).unwrap();
        let eat = pool.command("dd").args(["if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]).spawn().unwrap();
        assert_eq!(eat.wait_async().await.unwrap().verdict, Verdict::LimitExceeded(Limit::Memory));
    });
}

/// An agent that is slow to end holds up who waits for it, and no other task.
#[test]
fn the_runtime_is_not_held_up() {
    const NAP: Duration = Duration::from_millis(1);
    one_thread().block_on(async {
        let child = sh(&all_namespaces(), "sleep 0.2");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let agent: u32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ticking = {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let (mut longest, mut last) = (Duration::ZERO, Instant::now());
                while !over.load(Ordering::Relaxed) {
                    tokio::time::sleep(NAP).await;
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                longest
            })
        };
        // It stands still from before the program's end until a while later.
        common::kill(agent, libc::SIGSTOP);
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            common::kill(agent, libc::SIGCONT);
        });
        let start = Instant::now();
        assert!(timeout(SOON, child.wait_async()).await.unwrap().unwrap().success());
        assert!(start.elapsed() >= Duration::from_millis(600));
        over.store(true, Ordering::Relaxed);
        let longest = ticking.await.unwrap();
        let bound = Duration::from_millis(if common::is_slow() { 600 } else { 300 });
        assert!(longest < bound, "{longest:?} without a turn");
        waker.join().unwrap();
    });
}

#[test]
fn a_lost_agent() {
    one_thread().block_on(async {
        let child = sh(&all_namespaces(), "sleep 1000");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let agent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(timeout(Duration::from_millis(20), child.wait_async()).await.is_err());
        common::kill(agent, libc::SIGKILL);
        assert!(matches!(timeout(SOON, child.wait_async()).await.unwrap(), Err(Error::AgentLost { .. })));
    });
}

#[test]
fn without_a_runtime_it_is_an_error() {
    let child = sh(&all_namespaces(), "true");
    let mut future = pin!(child.wait_async());
    let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, std::task::Poll::Ready(Err(Error::Invalid { .. }))), "{polled:?}");
    assert!(matches!(child.take_stdout_async(), Err(Error::Invalid { .. })));
    assert!(child.take_stdout().is_some(), "and nothing is taken");
    assert!(child.wait().unwrap().success());
    fn check<T: Send>(_: T) {}
    check(child.wait_async());
    check(sh(&all_namespaces(), "true").wait_with_output_async());
}

#[test]
fn nothing_is_left() {
    alone("nothing_is_left", || {
        let runtime = threads();
        // Its threads, and what it has open, are there from the beginning.
        runtime.block_on(async { tokio::task::spawn_blocking(|| ()).await.unwrap() });
        leaves_nothing("futures", || {
            runtime.block_on(async {
                let container = all_namespaces().start().unwrap();
                let inside = container.command("true").spawn().unwrap();
                assert!(inside.wait_async().await.unwrap().success());
                let child = sh(&all_namespaces(), "sleep 1000");
                assert!(timeout(Duration::from_millis(20), child.wait_async()).await.is_err());
                assert!(sh(&all_namespaces(), "echo").wait_with_output_async().await.unwrap().outcome.success());
                let waiting = sh(&all_namespaces(), "exit 1");
                assert_eq!(waiting.wait_async().await.unwrap().code(), Some(1));
            });
        });
    });
}
