//! The handle: waiting, signals, deadlines, the tree's end, dropping; from several threads, and from odd hosts.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{alive, all_namespaces, alone, eventually, marker, sleeper};
use stockade::{Child, Command, Error, KilledBy, Layers, Limit, Sandbox, Signal, Stdio, Verdict};

const SOON: Duration = Duration::from_secs(30);

fn sleeping(sandbox: &Sandbox, marker: &str) -> Child {
    let child = sandbox.command("/bin/sh").args(["-c", &sleeper(marker)]).stdout(Stdio::null()).spawn().unwrap();
    assert!(eventually(SOON, || !alive(marker).is_empty()), "the sleeper runs");
    child
}

#[test]
fn waits() {
    let child = all_namespaces().command("sleep").arg("0.3").spawn().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    assert!(child.wait_timeout(Duration::from_millis(20)).unwrap().is_none());
    let outcome = child.wait_timeout(SOON).unwrap().expect("it has ended");
    assert!(outcome.success());
    assert!(outcome.usage.wall >= Duration::from_millis(300) && outcome.usage.wall < SOON, "{:?}", outcome.usage.wall);
    // Again, by any way.
    assert!(child.wait().unwrap().success() && child.try_wait().unwrap().unwrap().success());
}

#[test]
fn many_threads_wait_for_one() {
    let child = Arc::new(all_namespaces().command("sleep").arg("0.2").spawn().unwrap());
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let child = child.clone();
            std::thread::spawn(move || match n % 3 {
                0 => child.wait().unwrap().verdict,
                1 => child.wait_timeout(SOON).unwrap().unwrap().verdict,
                _ => loop {
                    if let Some(outcome) = child.try_wait().unwrap() {
                        break outcome.verdict;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                },
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Verdict::Exited(0));
    }
}

#[test]
fn a_thread_that_waits_does_not_keep_others_from_killing() {
    let child = Arc::new(all_namespaces().command("sleep").arg("1000").spawn().unwrap());
    let waiting = {
        let child = child.clone();
        std::thread::spawn(move || child.wait().unwrap().verdict)
    };
    std::thread::sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none());
    child.usage().unwrap();
    child.kill().unwrap();
    assert_eq!(waiting.join().unwrap(), Verdict::Killed(KilledBy::Host));
}

#[test]
fn an_event_loop_can_poll_it() {
    let child = all_namespaces().command("sleep").arg("0.1").spawn().unwrap();
    let mut set = [rustix::event::PollFd::new(&child, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut set, None).unwrap(), 1);
    // Then the answer is there, though the tear-down may not be through.
    assert!(child.try_wait().unwrap().expect("an answer").success());
}

#[test]
fn signals_reach_the_program() {
    let trap = "trap 'exit 7' USR1; trap 'exit 8' TERM; echo ready; while :; do sleep 0.01; done";
    for (signal, code) in [(Signal::USR1, 7), (Signal::TERM, 8)] {
        let child = all_namespaces().command("sh").args(["-c", trap]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(&mut child.take_stdout().unwrap(), &mut ready).unwrap();
        child.signal(signal).unwrap();
        assert_eq!(child.wait().unwrap().verdict, Verdict::Exited(code));
        assert!(child.signal(signal).is_err(), "it has ended");
    }
    // A real-time one goes by the agent.
    let child = all_namespaces().command("sleep").arg("1000").spawn().unwrap();
    child.signal(Signal::from_number(40).unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().verdict, Verdict::Signaled(Signal::from_number(40).unwrap()));
    assert!(Signal::from_number(0).is_none() && Signal::from_number(65).is_none());
}

#[test]
fn stop_and_continue() {
    let child = all_namespaces().command("sleep").arg("0.1").spawn().unwrap();
    child.signal(Signal::STOP).unwrap();
    assert!(child.wait_timeout(Duration::from_millis(300)).unwrap().is_none());
    child.signal(Signal::CONT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn kill_ends_the_whole_tree() {
    let marker = marker("kill");
    let child = sleeping(&all_namespaces(), &marker);
    let script =
        format!("setsid sh -c '{}' & setsid setsid sh -c '{}' & sleep 1000", sleeper(&marker), sleeper(&marker));
    let second = all_namespaces().command("sh").args(["-c", &script]).spawn().unwrap();
    assert!(eventually(SOON, || alive(&marker).len() >= 3));
    for child in [child, second] {
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
        child.kill().unwrap();
    }
    assert_eq!(alive(&marker), []);
}

#[test]
fn without_a_pid_namespace_kill_is_accepted_by_name_only() {
    let marker = marker("guardian");
    let plain = sleeping(&Sandbox::new(), &marker);
    assert!(matches!(plain.kill(), Err(Error::Unsupported { layer: stockade::Layer::TreeKill, .. })));
    assert!(!plain.report().in_force().contains(Layers::TREE_KILL));
    // Dropping ends what can be found, and that is all of an honest tree: daemons too.
    let script = format!(
        "setsid sh -c '{}' & setsid setsid sh -c '{} ' & exec sh -c '{}'",
        sleeper(&marker),
        sleeper(&marker),
        sleeper(&marker)
    );
    let accepting = Sandbox::new().best_effort(Layers::TREE_KILL);
    let child = accepting.command("sh").args(["-c", &script]).spawn().unwrap();
    assert!(eventually(SOON, || alive(&marker).len() >= 4), "{:?}", alive(&marker));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
    assert_eq!(alive(&marker).len(), 1, "the first");
    drop(plain);
    assert_eq!(alive(&marker), []);
}

#[test]
fn what_is_left_behind_ends_with_the_program() {
    for sandbox in [Sandbox::new(), Sandbox::new().pid_ns(), all_namespaces(), Sandbox::new().as_pid_1()] {
        let marker = marker("left");
        let script = format!(
            "setsid sh -c '{}' & (setsid sh -c '{}' &) ; sleep 0.1; exit 5",
            sleeper(&marker),
            sleeper(&marker)
        );
        let outcome = sandbox.command("sh").args(["-c", &script]).stdout(Stdio::null()).status().unwrap();
        assert_eq!(outcome.verdict, Verdict::Exited(5));
        assert_eq!(alive(&marker), []);
    }
}

#[test]
fn wall_time() {
    for sandbox in [Sandbox::new(), all_namespaces(), Sandbox::new().as_pid_1()] {
        let marker = marker("wall");
        let sandbox = sandbox.wall_time_limit(Duration::from_millis(200));
        let start = Instant::now();
        let outcome = sandbox.command("sh").args(["-c", &sleeper(&marker)]).status().unwrap();
        assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::WallTime));
        assert!(outcome.usage.wall >= Duration::from_millis(200), "{:?}", outcome.usage);
        assert!(start.elapsed() < SOON);
        assert_eq!(alive(&marker), []);
        // In time is in time.
        let ample = sandbox.clone().wall_time_limit(SOON);
        assert!(ample.command("true").status().unwrap().success());
        // Also when nobody waits.
        let child = sleeping(&sandbox, &marker);
        assert!(eventually(SOON, || alive(&marker).is_empty()));
        assert_eq!(child.wait().unwrap().verdict, Verdict::LimitExceeded(Limit::WallTime));
    }
}

#[test]
fn dropping_ends_it_at_once() {
    for sandbox in [Sandbox::new(), all_namespaces(), Sandbox::new().as_pid_1()] {
        let marker = marker("drop");
        let child = sleeping(&sandbox, &marker);
        let pid = child.id();
        drop(child);
        assert_eq!(alive(&marker), []);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not even a zombie");
    }
}

#[test]
fn detached_it_runs_on() {
    let marker = marker("detached");
    let child = sleeping(&all_namespaces().wall_time_limit(Duration::from_millis(1500)), &marker);
    child.detach_until_host_exits().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!alive(&marker).is_empty());
    // Its deadline holds all the same.
    assert!(eventually(SOON, || alive(&marker).is_empty()));
}

#[test]
fn the_id_is_the_hosts() {
    let marker = marker("id");
    for sandbox in [Sandbox::new(), all_namespaces(), Sandbox::new().as_pid_1()] {
        let child = sandbox.command("sh").args(["-c", &format!("sleep 1000; : {marker}")]).spawn().unwrap();
        assert!(eventually(SOON, || alive(&marker).contains(&child.id())), "{} {:?}", child.id(), alive(&marker));
    }
}

#[test]
fn usage_is_live_and_final() {
    let busy = "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done; sleep 1000";
    let child = all_namespaces().command("sh").args(["-c", busy]).spawn().unwrap();
    assert!(eventually(Duration::from_secs(20), || child.usage().unwrap().cpu() >= Duration::from_millis(50)));
    let usage = child.usage().unwrap();
    assert!(usage.wall > Duration::ZERO && usage.memory_current.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
    assert_eq!(usage.memory_peak, None);
    child.kill().unwrap();
    let last = child.wait().unwrap().usage;
    assert!(last.cpu() >= usage.cpu().saturating_sub(Duration::from_millis(20)), "{last:?} {usage:?}");
    assert!(last.memory_peak.is_some_and(|bytes| bytes > 100_000));
    assert_eq!(child.usage().unwrap(), last);
    // What its children used counts, waited for or not.
    let script = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done' & wait; :";
    let whole = common::sh(&all_namespaces(), script).outcome.usage;
    assert!(whole.cpu() > Duration::from_millis(20), "{whole:?}");
}

#[test]
fn a_lost_agent_is_an_error() {
    let child = all_namespaces().command("sleep").arg("1000").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let agent: u32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    common::kill(agent, libc::SIGKILL);
    assert!(matches!(child.wait(), Err(Error::AgentLost { .. })));
    assert!(eventually(SOON, || !std::path::Path::new(&format!("/proc/{}", child.id())).exists()));
}

#[test]
fn a_host_that_reaps_everything_itself() {
    alone("a_host_that_reaps_everything_itself", || {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reaper = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    common::reap_any();
                }
            })
        };
        for round in 0..i32::try_from(common::scaled(200)).unwrap() {
            let sandbox = if round % 2 == 0 { all_namespaces() } else { Sandbox::new() };
            let verdict = common::sh(&sandbox, &format!("exit {}", round % 100)).outcome.verdict;
            assert_eq!(verdict, Verdict::Exited(round % 100));
            let error = sandbox.command("/nowhere").status().unwrap_err();
            assert!(matches!(error, Error::Exec { .. }), "{error}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reaper.join().unwrap();
    });
}

#[test]
fn a_host_that_ignores_sigchld() {
    alone("a_host_that_ignores_sigchld", || {
        common::ignore_sigchld();
        for round in 0..50 {
            assert_eq!(common::sh(&all_namespaces(), &format!("exit {round}")).outcome.verdict, Verdict::Exited(round));
            assert_eq!(common::sh(&Sandbox::new(), &format!("exit {round}")).outcome.verdict, Verdict::Exited(round));
        }
        // And the program inside does not inherit that: it can wait for its own.
        assert!(common::works(
            &all_namespaces(),
            "sleep 0.01 & wait $!; grep -q 'SigIgn:.*0000000000000000' /proc/self/status"
        ));
    });
}

#[test]
fn the_types_go_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Sandbox>();
    check::<stockade::Prepared>();
    check::<Command>();
    check::<Child>();
    check::<Error>();
    let child = Sandbox::new().pid_ns().command("true").spawn().unwrap();
    let _ = child.as_fd();
    std::thread::spawn(move || assert!(child.wait().unwrap().success())).join().unwrap();
}
