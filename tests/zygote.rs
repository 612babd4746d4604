//! The zygote: closures from a program with threads.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::needless_borrows_for_generic_args)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{all_namespaces, eventually, leaves_nothing, single_threaded};
use stockade::{Error, KilledBy, Limit, NoValue, Sandbox, Stdio, Verdict, Zygote};

const SOON: Duration = Duration::from_secs(20);

fn square(n: u64) -> u64 {
    n * n
}

fn code(n: i32) -> i32 {
    n
}

fn sleep(seconds: u64) -> i32 {
    std::thread::sleep(Duration::from_secs(seconds));
    0
}

#[test]
fn from_many_threads_at_once() {
    single_threaded("from_many_threads_at_once", || {
        let zygote = Zygote::start().unwrap();
        // Threads that hold the locks a fork of this program would hang on.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let text = format!("{:?}", vec![vec![1u8; 100]; 50]);
                        assert!(std::env::var("no such").is_err() && !text.is_empty());
                    }
                });
            }
            let prepared = Sandbox::hardened().prepare().unwrap();
            let workers: Vec<_> = (0..8u64)
                .map(|thread| {
                    let (zygote, prepared) = (zygote.clone(), prepared.clone());
                    scope.spawn(move || {
                        for round in 0..common::scaled(25).max(2) as u64 {
                            let finished = zygote.run(&prepared, square, thread * 1000 + round).unwrap();
                            assert_eq!(finished.value, Ok((thread * 1000 + round).pow(2)));
                            let child = zygote.spawn(&prepared, code, round as i32).unwrap();
                            assert_eq!(child.wait().unwrap().verdict, Verdict::Exited(round as i32));
                        }
                    })
                })
                .collect();
            assert!(matches!(Sandbox::new().run(|| 0), Err(Error::MultiThreaded { .. })), "the control");
            for worker in workers {
                worker.join().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn the_same_handle_as_any_other() {
    single_threaded("the_same_handle_as_any_other", || {
        let zygote = Zygote::start().unwrap();
        let limited = all_namespaces().wall_time_limit(Duration::from_millis(300));
        let child = zygote.spawn(&limited, sleep, 1000).unwrap();
        assert_eq!(child.wait().unwrap().verdict, Verdict::LimitExceeded(Limit::WallTime));
        let child = zygote.spawn(&all_namespaces(), sleep, 1000).unwrap();
        assert!(child.id() > 0);
        assert!(child.usage().unwrap().memory_current.is_some());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
        fn speaks(words: String) -> usize {
            print!("{words}");
            words.len()
        }
        let closure = all_namespaces().closure().stdout(Stdio::piped());
        let finished = zygote.run(closure, speaks, "no newline".to_owned()).unwrap();
        assert_eq!((finished.value, &finished.stdout[..]), (Ok(10), &b"no newline"[..]));
        // They outlive the zygote.
        let child = zygote.spawn(&all_namespaces(), sleep, 1).unwrap();
        drop(zygote);
        assert_eq!(child.wait().unwrap().verdict, Verdict::Exited(0));
    });
}

static LATER: AtomicU64 = AtomicU64::new(0);

#[test]
fn it_has_the_memory_of_its_start() {
    single_threaded("it_has_the_memory_of_its_start", || {
        fn look(_: ()) -> u64 {
            LATER.load(Ordering::Relaxed)
        }
        LATER.store(1, Ordering::Relaxed);
        let zygote = Zygote::start().unwrap();
        LATER.store(2, Ordering::Relaxed);
        assert_eq!(zygote.run(&Sandbox::new(), look, ()).unwrap().value, Ok(1));
        assert_eq!(Sandbox::new().run(|| look(())).unwrap().value, Ok(2), "a fork of now");
    });
}

#[test]
fn the_hosts_growth_costs_nothing() {
    if common::is_slow() {
        skip!("a GiB is all that this machine has");
    }
    single_threaded("the_hosts_growth_costs_nothing", || {
        let zygote = Zygote::start().unwrap();
        let prepared = Sandbox::new().pid_ns().prepare().unwrap();
        let quickest = |times: usize, run: &dyn Fn()| {
            let time = || {
                let start = Instant::now();
                run();
                start.elapsed()
            };
            (0..times).map(|_| time()).min().unwrap()
        };
        let by_zygote = || assert_eq!(zygote.run(&prepared, square, 3).unwrap().value, Ok(9));
        let by_fork = || assert_eq!(prepared.run(|| 9).unwrap().value, Ok(9));
        let small = quickest(40, &by_zygote);
        let mut grown = vec![0u8; 1 << 30];
        for page in grown.iter_mut().step_by(4096) {
            *page = 1;
        }
        // Once more if the machine had others to do at the time.
        let large = (0..4).map(|_| quickest(40, &by_zygote)).find(|large| *large < small * 3 / 2);
        let large = large.unwrap_or_else(|| panic!("a zygote takes {small:?}, and with a GiB more half as much again"));
        let fork = quickest(4, &by_fork);
        println!("by a zygote: {small:?}, with a GiB more {large:?}; by a fork {fork:?}");
        assert!(fork > large * 4, "the control: a fork of all that takes {fork:?}, the zygote {large:?}");
        drop(grown);
    });
}

#[test]
fn it_is_lost() {
    single_threaded("it_is_lost", || {
        let zygote = Zygote::start().unwrap();
        let spare = zygote.another().unwrap();
        let running = zygote.spawn(&all_namespaces(), sleep, 1).unwrap();
        common::kill(zygote.id().unwrap(), libc::SIGKILL);
        assert!(eventually(SOON, || matches!(zygote.run(&Sandbox::new(), square, 2), Err(Error::ZygoteLost { .. }))));
        let error = zygote.run(&Sandbox::new(), square, 2).unwrap_err();
        assert!(error.to_string().contains("start another"), "{error}");
        assert!(matches!(zygote.another(), Err(Error::ZygoteLost { .. })));
        assert_eq!(running.wait().unwrap().verdict, Verdict::Exited(0), "what it had started goes on");
        assert_eq!(spare.run(&Sandbox::new(), square, 3).unwrap().value, Ok(9), "one that was forked from it");
        let restarted = Zygote::start().unwrap();
        assert_eq!(restarted.run(&Sandbox::new(), square, 4).unwrap().value, Ok(16));
        // One that is only stopped: whoever asks does not wait for ever.
        common::kill(restarted.id().unwrap(), libc::SIGSTOP);
        let start = Instant::now();
        let hasty = Sandbox::new().setup_timeout(Duration::from_millis(200));
        assert!(matches!(restarted.run(&hasty, square, 4), Err(Error::ZygoteLost { .. })));
        assert!(start.elapsed() < SOON);
        common::kill(restarted.id().unwrap(), libc::SIGCONT);
        assert_eq!(restarted.run(&Sandbox::new(), square, 5).unwrap().value, Ok(25));
    });
}

#[test]
fn it_dies_with_the_host() {
    single_threaded("it_dies_with_the_host", || {
        let (reader, writer) = std::io::pipe().unwrap();
        let host = common::fork(|| {
            let zygote = Zygote::start().unwrap();
            let child = zygote.spawn(&Sandbox::new().pid_ns(), sleep, 1000).unwrap();
            // A fork of the host holds its ends of the sockets open, and must not keep the zygote alive by that.
            let fork = common::fork(|| std::thread::sleep(Duration::from_secs(3)));
            let said = format!("{} {} {fork}\n", zygote.id().unwrap(), child.id());
            std::io::Write::write_all(&mut &writer, said.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_secs(1000));
        });
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(&reader), &mut line).unwrap();
        let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        let there = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists() && !common::is_zombie(pid);
        assert!(pids.iter().all(|pid| there(*pid)), "{line}");
        common::kill(host as u32, libc::SIGKILL);
        assert!(eventually(Duration::from_secs(2), || !there(pids[0])), "the zygote");
        assert!(eventually(Duration::from_secs(2), || !there(pids[1])), "the closure");
        assert!(there(pids[2]), "the control: the fork is still there");
        while common::reap_any() {}
    });
}

#[test]
fn nothing_is_left() {
    single_threaded("nothing_is_left", || {
        let zygote = Zygote::start().unwrap();
        let prepared = all_namespaces().prepare().unwrap();
        let _ = zygote.run(&prepared, square, 1).unwrap();
        leaves_nothing("runs by a zygote", || {
            for round in 0..common::scaled(100).max(4) as u64 {
                assert_eq!(zygote.run(&prepared, square, round).unwrap().value, Ok(round * round));
                drop(zygote.spawn(&prepared, sleep, 1000).unwrap());
            }
            let refused = Sandbox::new().as_pid_1();
            assert!(zygote.run(&refused, square, 1).is_err());
            let impossible = Sandbox::new().mount_ns().pid_ns().tmpfs("/proc/no/such", 4096);
            assert!(zygote.run(&impossible, square, 1).is_err());
        });
        leaves_nothing("zygotes", || {
            let first = Zygote::start().unwrap();
            let second = first.another().unwrap();
            drop(first);
            assert_eq!(second.run(&prepared, square, 2).unwrap().value, Ok(4));
        });
    });
}

#[test]
fn what_it_cannot_call() {
    single_threaded("what_it_cannot_call", || {
        let zygote = Zygote::start().unwrap();
        fn take(bytes: Vec<u8>) -> usize {
            bytes.len()
        }
        assert_eq!(zygote.run(&Sandbox::new(), take, vec![0; 1 << 19]).unwrap().value, Ok(1 << 19));
        let error = zygote.run(&Sandbox::new(), take, vec![0; 1 << 20]).unwrap_err();
        assert!(matches!(&error, Error::Invalid { setting: "arguments", .. }), "{error}");
        fn too_much(_: ()) -> Vec<u64> {
            vec![0; 1 << 20]
        }
        let finished = zygote.run(&Sandbox::new(), too_much, ()).unwrap();
        assert!(matches!(finished.value, Err(NoValue::TooLarge { limit, .. }) if limit == 1 << 20));
        fn panics(text: String) -> u8 {
            panic!("{text}")
        }
        let finished = zygote.run(&Sandbox::new(), panics, "so it goes".to_owned()).unwrap();
        assert!(matches!(finished.value, Err(NoValue::Panicked { message, .. }) if message == "so it goes"));
        assert_eq!(zygote.run(&Sandbox::new(), square, 2).unwrap().value, Ok(4), "it is none the worse for it");
    });
}
