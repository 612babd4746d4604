//! Chaos: agents and hosts that are killed at any point, hosts that can make no more, and handles that many threads use at
//! once. What comes of it is a clear error, and nothing is left.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use common::{all_namespaces, alone, eventually, scaled};
use stockade::{Child, Error, KilledBy, Layer, Layers, Pool, Rootfs, Sandbox, Signal, State, Stdio, Support, Verdict};

const SOON: Duration = Duration::from_secs(60);

fn system() -> Sandbox {
    all_namespaces().rootfs(Rootfs::system())
}

/// With cgroups, where there are some.
fn limited() -> Sandbox {
    let limited = system().freezer().memory_limit(256 << 20).pids_limit(60);
    limited.best_effort(Layers::FREEZER | Layers::MEMORY | Layers::PIDS | Layers::TREE_KILL)
}

/// Numbers without an order (xorshift); the seed is printed, for a failure to be told with.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = now.as_secs() << 20 | u64::from(now.subsec_nanos()) | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn micros(&mut self, bound: u64) -> Duration {
        Duration::from_micros(self.below(bound))
    }
}

/// All children of this process, zombies among them.
fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The cgroups that a process has made and that are still there.
fn cgroups_of(pids: &[u32]) -> Vec<String> {
    fn walk(directory: &Path, pids: &[u32], found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let owner = name.strip_prefix("stockade-").and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
                if owner.is_some_and(|owner| pids.contains(&owner)) {
                    found.push(entry.path().display().to_string());
                }
                walk(&entry.path(), pids, found);
            }
        }
    }
    let mut found = vec![];
    walk(Path::new("/sys/fs/cgroup"), pids, &mut found);
    found
}

/// What may become of a launch whose agent, or whose stage, is killed.
#[derive(Default)]
struct Ends(Mutex<BTreeMap<String, usize>>);

impl Ends {
    fn count(&self, end: Result<Verdict, Error>) {
        let words = match end {
            Ok(Verdict::Exited(0)) => "exited".to_owned(),
            Err(Error::AgentLost { .. }) => "lost".to_owned(),
            other => panic!("neither right nor a clear error: {other:?}"),
        };
        *self.0.lock().unwrap().entry(words).or_default() += 1;
    }

    /// Both have happened, or the chaos was none.
    fn check(&self) {
        let counts = self.0.lock().unwrap();
        println!("{counts:?}");
        assert!(counts.contains_key("exited") && counts.contains_key("lost"), "{counts:?}");
    }
}

fn run(command: &mut stockade::Command) -> Result<Verdict, Error> {
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?.wait()?.verdict)
}

#[test]
fn agents_killed_while_programs_enter() {
    alone("agents_killed_while_programs_enter", || {
        let (mut random, ends) = (Random::new(), Ends::default());
        for _ in 0..scaled(60).max(4) {
            let container = limited().start().unwrap();
            let [agent] = children()[..] else { panic!("{:?}", children()) };
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        loop {
                            let end = run(&mut container.command("true"));
                            let over = end.is_err();
                            ends.count(end);
                            if over {
                                break;
                            }
                        }
                    });
                }
                std::thread::sleep(random.micros(12_000 * if common::is_slow() { 200 } else { 1 }));
                common::kill(agent, libc::SIGKILL);
            });
            assert!(eventually(SOON, || container.state() == State::Stopped));
            // Also for those who come later.
            assert!(matches!(container.command("true").spawn(), Err(Error::AgentLost { .. })));
            drop(container);
            assert_eq!(children(), []);
        }
        assert_eq!(cgroups_of(&[process::id()]), [""; 0]);
        ends.check();
    });
}

/// The children of the host are stages and agents; some are killed in the midst of a launch.
#[test]
fn agents_killed_while_sandboxes_are_made() {
    alone("agents_killed_while_sandboxes_are_made", || {
        let (mut random, ends) = (Random::new(), Ends::default());
        let rounds = scaled(150).max(8);
        let prepared = limited().prepare().unwrap();
        for pool in [None, Some(limited().pool(3).unwrap())] {
            let left = AtomicUsize::new(rounds);
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| {
                            while left
                                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                                .is_ok()
                            {
                                ends.count(run(&mut match &pool {
                                    Some(pool) => pool.command("true"),
                                    None => prepared.command("true"),
                                }));
                            }
                        })
                    })
                    .collect();
                let killing = scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::thread::sleep(random.micros(6_000 * if common::is_slow() { 50 } else { 1 }));
                        let children = children();
                        let chosen = usize::try_from(random.below(children.len().max(1) as u64)).unwrap();
                        // One that is known to live, since this process has not reaped it yet; or one reaped just now, whose
                        // number is nobody's.
                        children.get(chosen).into_iter().for_each(|pid| common::kill(*pid, libc::SIGKILL));
                    }
                });
                let failed = threads.into_iter().any(|thread| thread.join().is_err());
                over.store(true, Ordering::Relaxed);
                killing.join().unwrap();
                assert!(!failed);
            });
            if let Some(pool) = &pool {
                println!("{:?}", pool.figures());
                assert!(pool.wait_ready(SOON));
                // It goes on; what was killed last may not yet be dead when it is taken.
                assert!(eventually(SOON, || run(&mut pool.command("true")).is_ok_and(|end| end == Verdict::Exited(0))));
            }
        }
        assert!(eventually(SOON, || children().is_empty()), "{:?}", children());
        assert_eq!(cgroups_of(&[process::id()]), [""; 0]);
        ends.check();
    });
}

/// Where there is no PID namespace, the end of the agent ends nothing by itself.
#[test]
fn a_guardian_that_is_killed() {
    alone("a_guardian_that_is_killed", || {
        for _ in 0..scaled(20).max(2) {
            let child = Sandbox::new().command("sleep").arg("1000").spawn().unwrap();
            let [guardian] = children()[..] else { panic!("{:?}", children()) };
            common::kill(guardian, libc::SIGKILL);
            assert!(matches!(child.wait(), Err(Error::AgentLost { .. })));
            assert!(eventually(SOON, || !Path::new(&format!("/proc/{}", child.id())).exists()));
        }
        assert_eq!(children(), []);
    });
}

/// The host, which is killed at any point of any launch.
#[test]
fn hosts_killed_at_any_point() {
    const NAME: &str = "hosts_killed_at_any_point";
    if let Ok(kind) = std::env::var("STOCKADE_CHAOS") {
        return launch_for_ever(&kind);
    }
    alone(NAME, || {
        // What a host leaves behind becomes ours, and can be counted.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let mut random = Random::new();
        let mut hosts = vec![];
        let before = common::belongings();
        let mut launches = 0;
        for round in 0..scaled(500).max(12) {
            let kind = ["cold", "container", "pool", "bare"][round % 4];
            let mut host =
                common::again(NAME).env("STOCKADE_CHAOS", kind).stdout(process::Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map_while(Result::ok);
            assert!(lines.any(|line| line == "ready"), "{kind}");
            std::thread::sleep(random.micros(20_000 * if common::is_slow() { 30 } else { 1 }));
            common::kill(host.id(), libc::SIGKILL);
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&host.wait().unwrap()), Some(libc::SIGKILL));
            launches += lines.filter(|line| line == "launched").count();
            hosts.push(host.id());
            let gone = eventually(SOON, || {
                while common::reap_any() {}
                children().is_empty()
            });
            let left: Vec<_> =
                children().iter().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat"))).collect();
            assert!(gone, "{kind}, round {round}: {left:?}");
        }
        println!("{} hosts killed, {launches} of their programs had run", hosts.len());
        assert!(launches > 0);
        // Their cgroups are removed by whoever sweeps next.
        let swept = || {
            stockade::cgroup::sweep();
            cgroups_of(&hosts).is_empty()
        };
        assert!(eventually(SOON, swept), "{:?}", cgroups_of(&hosts));
        let after = common::belongings();
        assert_eq!((before.mounts, before.files, before.children), (after.mounts, after.files, after.children));
    });
}

/// Until it is killed.
fn launch_for_ever(kind: &str) {
    let sandbox = if kind == "bare" { Sandbox::new().best_effort(Layers::TREE_KILL) } else { limited() };
    let prepared = sandbox.prepare().unwrap();
    println!("\nready");
    let mut sleepers = vec![];
    loop {
        let launched = |command: &mut stockade::Command| {
            if run(command).unwrap() == Verdict::Exited(0) {
                println!("launched");
            }
        };
        match kind {
            "container" => {
                let container = prepared.start().unwrap();
                sleepers.push(container.command("sleep").arg("1000").spawn().unwrap());
                (0..5).for_each(|_| launched(&mut container.command("true")));
                std::mem::forget(container);
            }
            "pool" => {
                let pool = prepared.pool(2).unwrap();
                sleepers.push(pool.command("sh").args(["-c", &common::sleeper("")]).spawn().unwrap());
                (0..5).for_each(|_| launched(&mut pool.command("true")));
                std::mem::forget(pool);
            }
            _ => {
                launched(&mut prepared.command("true"));
                let script = format!("setsid sleep 1000 & {}", common::sleeper(""));
                sleepers.push(prepared.command("sh").args(["-c", &script]).spawn().unwrap());
            }
        }
    }
}

/// For as long as the process may make no more, what it already has works, and the rest is a clear error.
#[test]
fn a_host_that_may_have_no_more_processes() {
    if common::is_root() {
        skip!("root is not bound by RLIMIT_NPROC");
    }
    alone("a_host_that_may_have_no_more_processes", || {
        let kind = rustix::process::Resource::Nproc;
        let old = rustix::process::getrlimit(kind);
        let set = |current| rustix::process::setrlimit(kind, rustix::process::Rlimit { current, ..old }).unwrap();
        let pool = system().pool(2).unwrap();
        let prepared = system().prepare().unwrap();
        let container = system().start().unwrap();
        assert!(pool.wait_ready(SOON));
        set(Some(1));
        let ready =
            (0..2).map(|_| run(&mut pool.command("true"))).filter(|end| matches!(end, Ok(Verdict::Exited(0)))).count();
        let mut errors = vec![];
        for _ in 0..3 {
            errors.extend([
                run(&mut pool.command("true")).unwrap_err(),
                run(&mut prepared.command("true")).unwrap_err(),
                prepared.start().unwrap_err(),
                prepared.pool(2).unwrap_err(),
            ]);
        }
        assert!(eventually(SOON, || pool.figures().failed > 3), "{:?}", pool.figures());
        assert_eq!(ready, 2, "what is parked needs no process more");
        // Its agent is of another user namespace, or not: it may have one, or says why not.
        let inside = run(&mut container.command("true"));
        set(old.current);
        assert!(matches!(inside, Ok(Verdict::Exited(0)) | Err(Error::Setup { .. } | Error::Host { .. })), "{inside:?}");
        for error in errors {
            let text = error.to_string();
            let clear = matches!(error, Error::Host { .. } | Error::Setup { .. } | Error::Unsupported { .. });
            assert!(clear && text.contains("Resource temporarily unavailable"), "{error:?}: {text}");
        }
        // It recovers by itself.
        assert!(pool.wait_ready(SOON), "{:?}", pool.figures());
        assert_eq!(run(&mut pool.command("true")).unwrap(), Verdict::Exited(0));
        assert_eq!(run(&mut container.command("true")).unwrap(), Verdict::Exited(0));
        drop((pool, container));
        assert_eq!(children(), []);
    });
}

type Launch<'a> = &'a dyn Fn() -> Result<Verdict, Error>;

/// At every number of descriptors that are still free: it works, or is a clear error, and leaks none.
#[test]
fn a_host_that_may_have_no_more_descriptors() {
    alone("a_host_that_may_have_no_more_descriptors", || {
        let kind = rustix::process::Resource::Nofile;
        let old = rustix::process::getrlimit(kind);
        let set = |current| rustix::process::setrlimit(kind, rustix::process::Rlimit { current, ..old }).unwrap();
        let prepared = limited().prepare().unwrap();
        let container = limited().start().unwrap();
        let pool = limited().pool(1).unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let settled = || assert!(eventually(SOON, || pool.figures().ready == 1), "{:?}", pool.figures());
        assert!(run(&mut container.command("true")).is_ok() && run(&mut pool.command("true")).is_ok());
        settled();
        let before = open();
        let ways: [(&str, Launch<'_>); 4] = [
            ("cold", &|| run(&mut prepared.command("true"))),
            ("container", &|| run(&mut container.command("true"))),
            ("start", &|| prepared.start().map(|_| Verdict::Exited(0))),
            ("pool", &|| run(&mut pool.command("true"))),
        ];
        for (name, way) in ways {
            let (mut worked, mut refused) = (0, 0);
            for free in 0..60 {
                if common::is_slow() && free % 6 != 0 {
                    continue;
                }
                settled();
                // The limit is one of numbers: the lowest below which so many are not in use.
                let used = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
                let mut used: Vec<u64> = used.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
                // Not that by which they were listed, which is one more that a pooled program can do with.
                used.retain(|number| Path::new(&format!("/proc/self/fd/{number}")).exists());
                let limit = (0..).filter(|number| !used.contains(number)).nth(free).unwrap();
                set(Some(limit));
                let end = way();
                set(old.current);
                match end {
                    Ok(Verdict::Exited(0)) => worked += 1,
                    Err(Error::Host { .. } | Error::Setup { .. } | Error::Cgroup { .. } | Error::Source { .. }) => {
                        refused += 1
                    }
                    other => panic!("{name}, {free} free: {other:?}"),
                }
            }
            println!("{name}: worked {worked} times, refused {refused} times");
            assert!(worked > 0 && refused > 0, "{name}: {worked} {refused}");
        }
        settled();
        // A place that was made when there were few has its accounts' files not open yet.
        assert!(eventually(Duration::from_secs(5), || open() <= before), "{} descriptors, {before} before", open());
        drop((pool, container));
        assert_eq!(children(), []);
    });
}

/// Every way to use a handle, from many threads at once: all of them come to the same end.
#[test]
fn a_handle_that_many_use_at_once() {
    alone("a_handle_that_many_use_at_once", || {
        let freezer = Support::probe().missing(Layer::Freezer).is_none();
        let mut random = Random::new();
        let sandbox = limited();
        let container = sandbox.start().unwrap();
        let pool = sandbox.pool(2).unwrap();
        for round in 0..scaled(90).max(6) {
            let script = format!("trap '' USR2; sleep 0.0{}; exit 5", random.below(4));
            let mut command = match round % 3 {
                0 => sandbox.command("sh"),
                1 => container.command("sh"),
                _ => pool.command("sh"),
            };
            let child = Arc::new(command.args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap());
            let ends = use_at_once(&child, random.micros(40_000), freezer && round % 3 != 1, round % 2 == 0);
            let last = child.wait().unwrap();
            assert!(ends.iter().all(|end| *end == last.verdict), "round {round}: {ends:?}, {last:?}");
            let allowed = [Verdict::Exited(5), Verdict::Killed(KilledBy::Host), Verdict::Signaled(Signal::USR2)];
            assert!(allowed.contains(&last.verdict), "round {round}: {last:?}");
            assert_eq!(child.usage().unwrap(), last.usage);
        }
        drop((container, pool));
        assert!(eventually(SOON, || children().is_empty()), "{:?}", children());
        assert_eq!(cgroups_of(&[process::id()]), [""; 0]);
    });
}

fn use_at_once(child: &Arc<Child>, after: Duration, freezes: bool, kills: bool) -> Vec<Verdict> {
    let barrier = Barrier::new(8);
    let over = || child.try_wait().unwrap().is_some();
    let start = |body: &(dyn Fn() + Sync)| {
        barrier.wait();
        body();
    };
    std::thread::scope(|scope| {
        let waiting = [
            scope.spawn(|| {
                barrier.wait();
                child.wait().unwrap().verdict
            }),
            scope.spawn(|| {
                barrier.wait();
                loop {
                    if let Some(outcome) = child.wait_timeout(Duration::from_millis(1)).unwrap() {
                        break outcome.verdict;
                    }
                }
            }),
            scope.spawn(|| {
                barrier.wait();
                loop {
                    if let Some(outcome) = child.try_wait().unwrap() {
                        break outcome.verdict;
                    }
                    std::thread::yield_now();
                }
            }),
        ];
        scope.spawn(|| {
            start(&|| {
                while !over() {
                    // Either it is there, or has just gone.
                    drop(child.usage());
                    let _ = (child.id(), child.as_fd(), child.report());
                }
            });
        });
        scope.spawn(|| {
            start(&|| {
                while !over() {
                    let _ = child.signal(Signal::USR2);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        });
        scope.spawn(|| {
            start(&|| {
                while !over() {
                    if freezes {
                        let _ = child.freeze();
                        let _ = child.thaw();
                    }
                    let _ = child.limits().pids(50);
                    drop(child.events());
                }
            });
        });
        scope.spawn(|| {
            start(&|| {
                while !over() {
                    let container = child.container();
                    let _ = (container.state(), container.processes(), container.usage());
                    drop(child.take_stdin());
                }
            });
        });
        scope.spawn(|| {
            start(&|| {
                std::thread::sleep(after);
                if kills {
                    child.kill().unwrap();
                    child.kill().unwrap();
                }
            });
        });
        waiting.map(|thread| thread.join().unwrap()).to_vec()
    })
}

/// A pool that grows and shrinks, with commands that are dropped, fail and are killed, from many threads.
#[test]
fn a_pool_that_many_use_at_once() {
    alone("a_pool_that_many_use_at_once", || {
        let mut random = Random::new();
        let pool: Pool = limited().pool(2).unwrap();
        let deadline = Instant::now() + Duration::from_secs(if common::is_slow() { 10 } else { 4 });
        let (done, missing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (pool, done, missing) = (pool.clone(), &done, &missing);
                scope.spawn(move || {
                    for turn in number.. {
                        match turn % 5 {
                            0 => drop(pool.command("sleep").arg("1000").spawn().unwrap()),
                            1 => {
                                assert!(matches!(pool.command("/no/such").spawn(), Err(Error::Exec { .. })));
                                missing.fetch_add(1, Ordering::Relaxed);
                            }
                            2 => {
                                let child = pool.command("sleep").arg("1000").spawn().unwrap();
                                child.kill().unwrap();
                                assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
                            }
                            _ => assert_eq!(run(&mut pool.command("true")).unwrap(), Verdict::Exited(0)),
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                        if Instant::now() > deadline {
                            break;
                        }
                    }
                });
            }
            while Instant::now() < deadline {
                pool.resize(usize::try_from(random.below(6)).unwrap());
                std::thread::sleep(random.micros(10_000));
                let figures = pool.figures();
                assert_eq!((figures.failed, figures.broken), (0, 0), "{figures:?}");
            }
        });
        let done = done.into_inner();
        println!("{done} commands, {} of which there are not; {:?}", missing.into_inner(), pool.figures());
        assert_eq!(pool.figures().taken, done as u64);
        pool.resize(3);
        assert!(eventually(SOON, || pool.figures().ready == 3), "{:?}", pool.figures());
        drop(pool);
        assert!(eventually(SOON, || children().is_empty()), "{:?}", children());
        assert_eq!(cgroups_of(&[process::id()]), [""; 0]);
    });
}
