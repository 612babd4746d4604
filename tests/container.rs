//! Live containers: programs that come and go in one environment.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{all_namespaces, alone, directory, eventually, leaves_nothing, marker};
use stockade::{
    Container, ContainerEvent, Error, IoLimit, KilledBy, Layer, Layers, Limit, Rootfs, Sandbox, Signal, State, Stdio,
    Support, Verdict,
};

fn system() -> Sandbox {
    all_namespaces().rootfs(Rootfs::system())
}

fn says(container: &Container, script: &str) -> String {
    let output = container.command("sh").args(["-c", script]).output().unwrap();
    assert!(output.outcome.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn programs_share_what_the_container_has() {
    let container = system().hostname("live").start().unwrap();
    assert_eq!(container.state(), State::Running);
    assert_eq!(says(&container, "echo one > /tmp/file; hostname || cat /proc/sys/kernel/hostname"), "live");
    assert_eq!(says(&container, "cat /tmp/file"), "one");
    let namespaces = "for n in /proc/self/ns/*; do readlink $n; done";
    // A cgroup namespace is each program's own.
    let fixed = |text: String| text.lines().filter(|line| !line.starts_with("cgroup")).collect::<Vec<_>>().join(" ");
    assert_eq!(fixed(says(&container, namespaces)), fixed(says(&container, namespaces)));
    let other = system().start().unwrap();
    assert_eq!(says(&other, "ls /tmp"), "");
    assert!(matches!(container.command("/no/such").spawn(), Err(Error::Exec { .. })));
    assert_eq!(says(&container, "echo still here"), "still here");
}

#[test]
fn many_at_once() {
    let container = system().start().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let container = container.clone();
            scope.spawn(move || {
                for round in 0..i32::try_from(common::scaled(60)).unwrap().max(2) {
                    let text = format!("{thread} {round}");
                    let mut command = container.command("sh");
                    command.args(["-c", "read line; echo \"$line\"; exit $1", "sh", &(round % 7).to_string()]);
                    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                    std::io::Write::write_all(&mut child.take_stdin().unwrap(), format!("{text}\n").as_bytes())
                        .unwrap();
                    let output = child.wait_with_output().unwrap();
                    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), text);
                    assert_eq!(output.outcome.code(), Some(round % 7));
                }
            });
        }
    });
    assert_eq!(container.processes().unwrap(), []);
}

#[test]
fn each_has_its_own_end() {
    let sandbox = system().wall_time_limit(Duration::from_millis(if common::is_slow() { 5000 } else { 600 }));
    let container = sandbox.start().unwrap();
    let long = container.command("sleep").arg("1000").spawn().unwrap();
    let failing = container.command("sh").args(["-c", "exit 3"]).status().unwrap();
    assert_eq!(failing.verdict, Verdict::Exited(3));
    let signalled = container.command("sleep").arg("1000").spawn().unwrap();
    signalled.signal(Signal::USR1).unwrap();
    assert_eq!(signalled.wait().unwrap().verdict, Verdict::Signaled(Signal::USR1));
    let dropped = container.command("sleep").arg("1000").spawn().unwrap();
    let pid = dropped.id();
    drop(dropped);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "what was dropped is gone");
    assert_eq!(long.wait().unwrap().verdict, Verdict::LimitExceeded(Limit::WallTime), "its own deadline");
    assert_eq!(container.state(), State::Running);
}

#[test]
fn dropping_it_ends_all() {
    let container = system().start().unwrap();
    let second = container.clone();
    let child = container.command("sleep").arg("1000").spawn().unwrap();
    drop(container);
    assert_eq!(second.state(), State::Running, "there is another handle");
    let third = child.container();
    drop(second);
    assert_eq!(third.state(), State::Running, "and another");
    drop(third);
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
    let late = child.container();
    assert_eq!(late.state(), State::Stopped);
    assert!(matches!(late.command("true").spawn(), Err(Error::AgentLost { .. })));
    // Dropping a program never ends its container.
    let container = system().start().unwrap();
    drop(container.command("sleep").arg("1000").spawn().unwrap());
    assert_eq!(says(&container, "echo on"), "on");
}

#[test]
fn a_program_alone_has_a_container_too() {
    let child = system().command("sleep").arg("1000").spawn().unwrap();
    let container = child.container();
    assert_eq!(says(&container, "echo beside"), "beside");
    assert!(container.processes().unwrap().iter().any(|process| process.command == ["sleep", "1000"]));
    let beside = container.command("sleep").arg("2000").spawn().unwrap();
    drop(child);
    assert_eq!(container.state(), State::Stopped);
    assert_eq!(beside.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
}

#[test]
fn a_polite_end_and_one_that_is_not() {
    let container = system().start().unwrap();
    let mut command = container.command("sh");
    command.args(["-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"]).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    std::io::Read::read_exact(&mut child.take_stdout().unwrap(), &mut [0; 6]).unwrap();
    assert!(container.stop(Duration::from_secs(20)).unwrap(), "all ended by itself");
    assert_eq!(child.wait().unwrap().verdict, Verdict::Exited(7));
    assert_eq!(container.state(), State::Stopped);

    let container = system().start().unwrap();
    let mut command = container.command("sh");
    command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    std::io::Read::read_exact(&mut child.take_stdout().unwrap(), &mut [0; 6]).unwrap();
    let start = Instant::now();
    assert!(!container.stop(Duration::from_millis(300)).unwrap(), "it would not");
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));

    let container = system().start().unwrap();
    let child = container.command("sleep").arg("1000").spawn().unwrap();
    container.kill();
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
    // With nothing in it there is nothing to wait for.
    let empty = system().start().unwrap();
    assert!(empty.stop(Duration::from_secs(20)).unwrap());
}

#[test]
fn its_processes() {
    let container = system().start().unwrap();
    let child = container.command("sh").args(["-c", "sleep 1000 & sleep 1000"]).spawn().unwrap();
    let sleepers = || container.processes().unwrap().iter().filter(|one| one.command == ["sleep", "1000"]).count();
    assert!(eventually(Duration::from_secs(5), || sleepers() == 2));
    let all = container.processes().unwrap();
    let shell = all.iter().find(|process| process.pid == child.id()).unwrap();
    assert!(shell.inner_pid >= 2 && shell.inner_pid < 100, "{shell:?}");
    assert_eq!(shell.command.first().map(String::as_str), Some("sh"));
    assert_eq!(all.len(), 3);
    assert!(container.usage().unwrap().memory_current.unwrap() > 0);
}

#[test]
fn what_happens_to_it() {
    let container = system().start().unwrap();
    let mut events = container.events().unwrap();
    assert_eq!(container.command("sh").args(["-c", "exit 4"]).status().unwrap().code(), Some(4));
    let first = events.next().unwrap();
    assert!(matches!(first, ContainerEvent::Exited { status, .. } if status.code() == Some(4)), "{first:?}");
    assert_eq!(events.try_next(), None);
    container.kill();
    let rest: Vec<_> = events.collect();
    assert_eq!(rest, [ContainerEvent::State(State::Aborting), ContainerEvent::State(State::Stopped)]);
    // Who does not read holds nobody up.
    let container = system().start().unwrap();
    let unread = container.events().unwrap();
    for _ in 0..common::scaled(400).max(2) {
        assert!(container.command("true").status().unwrap().success());
    }
    drop(unread);
    drop(container);
}

#[test]
fn a_frozen_one() {
    if let Some(missing) = Support::probe().missing(Layer::Freezer) {
        skip!("{}", missing.reason);
    }
    let container = system().freezer().start().unwrap();
    let child = container.command("sh").args(["-c", "while :; do echo; done"]).stdout(Stdio::null()).spawn().unwrap();
    let mut events = container.events().unwrap();
    container.freeze().unwrap();
    assert_eq!(container.state(), State::Frozen);
    let cpu = || container.usage().unwrap().cpu();
    let before = cpu();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(cpu(), before, "it stands still");
    assert!(matches!(container.command("true").spawn(), Err(Error::Invalid { .. })), "nobody comes in");
    container.thaw().unwrap();
    assert!(eventually(Duration::from_secs(5), || cpu() > before));
    assert_eq!(events.next(), Some(ContainerEvent::State(State::Frozen)));
    assert_eq!(events.next(), Some(ContainerEvent::State(State::Running)));
    container.freeze().unwrap();
    let start = Instant::now();
    container.kill();
    assert!(start.elapsed() < Duration::from_secs(10), "what is frozen is killed at once: {:?}", start.elapsed());
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
    // A polite end is one that can be heard.
    let container = system().freezer().start().unwrap();
    let _child = container.command("sleep").arg("1000").spawn().unwrap();
    container.freeze().unwrap();
    assert!(container.stop(Duration::from_secs(20)).unwrap());
}

#[test]
fn each_program_has_its_own_accounts() {
    let support = Support::probe();
    if let Some(missing) = support.missing(Layer::Memory).or(support.missing(Layer::Pids)) {
        skip!("{}", missing.reason);
    }
    let container = system().memory_limit(96 << 20).pids_limit(40).cpu_time_limit(Duration::from_secs(30));
    let container = container.best_effort(Layers::CPU_TIME).start().unwrap();
    let eat = |mib: u32| {
        let script = format!("dd if=/dev/zero of=/dev/null bs={mib}M count=1 2>/dev/null");
        container.command("sh").args(["-c", &script]).status().unwrap()
    };
    let first = eat(60);
    assert!(first.success(), "{first:?}");
    let second = eat(1);
    let (first, second) = (first.usage.memory_peak.unwrap(), second.usage.memory_peak.unwrap());
    assert!(first > 60 << 20 && second < 30 << 20, "{first} {second}");
    // One that has too much ends alone.
    // To change the container's limit changes nothing about that.
    container.limits().memory(100 << 20).unwrap();
    let sleeper = container.command("sleep").arg("1000").spawn().unwrap();
    let over = eat(200);
    assert_eq!(over.verdict, Verdict::LimitExceeded(Limit::Memory), "{over:?}");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sleeper.try_wait().unwrap().map(|outcome| outcome.verdict), None);
    // All that came of one is ended with it, also what has left its session.
    let marker = marker("left-its-session");
    let script = format!("setsid sh -c 'sleep 1000; : {marker}' & sleep 1000");
    let child = container.command("sh").args(["-c", &script]).spawn().unwrap();
    assert!(eventually(Duration::from_secs(5), || !common::alive(&marker).is_empty()));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
    assert!(eventually(Duration::from_secs(5), || common::alive(&marker).is_empty()));
    assert_eq!(sleeper.try_wait().unwrap().map(|outcome| outcome.verdict), None);
    assert!(container.usage().unwrap().memory_current.is_some());
    container.limits().pids(1).unwrap();
    let refused = container.command("sh").args(["-c", "sleep 1 & wait"]).status().unwrap();
    assert_eq!(
        refused.verdict,
        Verdict::LimitExceeded(Limit::Pids),
        "the container has no room for another: {refused:?}"
    );
}

/// All that it does is under the one limit, and on version 1 too, which throttles each cgroup for itself.
#[test]
fn programs_share_what_there_is_of_a_disk() {
    use std::os::unix::fs::MetadataExt as _;
    if let Some(missing) = Support::probe().missing(Layer::Io) {
        skip!("{}", missing.reason);
    }
    let places = [std::env::temp_dir(), "/var/tmp".into(), "/mnt".into()];
    let made =
        places.iter().filter_map(|place| tempfile::Builder::new().prefix("stockade-test-").tempdir_in(place).ok());
    let Some(disk) = made.into_iter().find(|disk| rustix::fs::major(disk.path().metadata().unwrap().dev()) != 0) else {
        skip!("no directory on a block device may be written to")
    };
    common::open(&disk);
    let run = |per_second: u64| {
        let sandbox =
            system().bind_rw(disk.path(), "/disk").io_limit(disk.path(), IoLimit::new().write_bytes(per_second));
        let container = sandbox.start().unwrap();
        let start = Instant::now();
        let children: Vec<_> = (0..2)
            .map(|index| {
                let script = format!("dd if=/dev/zero of=/disk/{index} bs=1M count=4 oflag=direct 2>/dev/null");
                container.command("sh").args(["-c", &script]).spawn().unwrap()
            })
            .collect();
        for child in children {
            let outcome = child.wait().unwrap();
            assert!(outcome.success(), "{outcome:?}");
        }
        let written = container.usage().unwrap().io_write_bytes.unwrap();
        assert!(written >= 8 << 20, "{written}");
        start.elapsed()
    };
    // 8 MiB at 4 MiB a second.
    let took = run(4 << 20);
    assert!(took > Duration::from_millis(1200), "{took:?}");
    // So what concerns one program alone is refused.
    let io = system().io_limit(disk.path(), IoLimit::new().write_bytes(4 << 20)).start().unwrap();
    let child = io.command("sleep").arg("1000").spawn().unwrap();
    let changed = child.limits().io(disk.path(), IoLimit::new().write_bytes(1 << 40));
    if std::path::Path::new("/sys/fs/cgroup/blkio").exists() {
        assert!(matches!(changed, Err(Error::Invalid { setting: "io_limit", .. })), "{changed:?}");
        assert!(matches!(child.kill(), Err(Error::Unsupported { layer: Layer::TreeKill, .. })));
    } else {
        assert!(changed.is_ok() && child.kill().is_ok(), "{changed:?}");
    }
    drop((child, io));
    let free = run(1 << 40);
    assert!(common::is_slow() || free < took, "the control: {free:?}");
}

/// Nobody has waited for it, and its container goes on.
#[test]
fn events_of_a_program_end_with_it() {
    let cpu = system().cpu_limit(1.0);
    let tried = [(Layer::Cpu, cpu), (Layer::Pids, system().pids_limit(20)), (Layer::Freezer, system().freezer())];
    let here = tried.iter().filter(|(layer, _)| Support::probe().missing(*layer).is_none()).collect::<Vec<_>>();
    if here.is_empty() {
        skip!("no cgroup can be made here");
    }
    for (layer, sandbox) in here {
        let container = sandbox.start().unwrap();
        let child = container.command("sleep").arg("0.1").spawn().unwrap();
        let events = child.events().unwrap();
        let (told, over) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(events.count()));
        assert_eq!(over.recv_timeout(Duration::from_secs(20)), Ok(0), "{layer:?}");
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn what_makes_no_sense() {
    assert!(matches!(Sandbox::new().as_pid_1().start(), Err(Error::Invalid { .. })));
    let container = system().start().unwrap();
    assert!(matches!(container.freeze(), Err(Error::Invalid { .. })));
    let child = container.command("sleep").arg("1000").spawn().unwrap();
    assert!(matches!(child.kill(), Err(Error::Unsupported { layer: Layer::TreeKill, .. })), "it has no cgroup");
    let accepted = system().best_effort(Layers::TREE_KILL).start().unwrap();
    let child = accepted.command("sleep").arg("1000").spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
}

#[test]
fn without_a_pid_namespace() {
    let container = Sandbox::new().start().unwrap();
    assert_eq!(says(&container, "echo one"), "one");
    let marker = marker("no-pid-ns");
    let child = container.command("sh").args(["-c", &common::sleeper(&marker)]).spawn().unwrap();
    assert!(eventually(Duration::from_secs(5), || common::alive(&marker).len() == 1));
    assert_eq!(says(&container, "echo two"), "two");
    drop(container);
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
    assert!(eventually(Duration::from_secs(5), || common::alive(&marker).is_empty()));
}

#[test]
fn nothing_is_left() {
    alone("nothing_is_left", || {
        leaves_nothing("containers", || {
            let container = system().start().unwrap();
            let children: Vec<_> = (0..5).map(|_| container.command("sleep").arg("1000").spawn().unwrap()).collect();
            assert!(container.command("true").status().unwrap().success());
            assert!(container.command("/no/such").status().is_err());
            let _events = container.events().unwrap();
            drop(container);
            drop(children);
        });
    });
}

/// Of a host that is killed.
#[test]
fn it_ends_with_its_host() {
    const NAME: &str = "it_ends_with_its_host";
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        let container = system().start().unwrap();
        let _child = container.command("sleep").arg("1000").spawn().unwrap();
        println!("\nready {}", container.processes().unwrap()[0].pid);
        std::thread::sleep(Duration::from_secs(1000));
        return;
    }
    let mut host = common::again(NAME).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(host.stdout.take().unwrap()));
    let ready = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("ready ")?.parse::<u32>().unwrap()));
    let inside = ready.unwrap();
    common::kill(host.id(), libc::SIGKILL);
    host.wait().unwrap();
    assert!(eventually(Duration::from_secs(5), || !std::path::Path::new(&format!("/proc/{inside}")).exists()));
}

/// A payload that does all it can to those that come in after it, as the same user.
#[test]
fn one_inside_cannot_touch_those_on_their_way_in() {
    let directory = directory();
    let intruder = common::compile(
        directory.path(),
        "intruder",
        r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/ptrace.h>
        #include <sys/uio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        // Those that are no program yet: their name is still the stage's.
        static int on_its_way(int pid) {
            char path[64], name[32] = "";
            snprintf(path, sizeof path, "/proc/%d/comm", pid);
            int f = open(path, O_RDONLY);
            if (f < 0) return 0;
            read(f, name, sizeof name - 1); close(f);
            return !strncmp(name, "stockade", 8);
        }
        int main(int argc, char **argv) {
            int stop = argc > 1 && !strcmp(argv[1], "stop");
            long seen = 0;
            int own = getpid();
            puts("ready"); fflush(stdout);
            for (;;) for (int pid = own + 1; pid < own + 400; pid++) {
                if (stop) { if (kill(pid, SIGSTOP) == 0 && on_its_way(pid)) seen++; continue; }
                char byte = 0, path[64];
                if (!on_its_way(pid)) continue;
                seen++;
                struct iovec ours = { &byte, 1 }, theirs = { (void *)0x400000, 1 };
                int got = process_vm_readv(pid, &ours, 1, &theirs, 1, 0) == 1;
                got |= (process_vm_writev(pid, &ours, 1, &theirs, 1, 0) == 1) << 1;
                got |= (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) << 2;
                snprintf(path, sizeof path, "/proc/%d/mem", pid);
                int f = open(path, O_RDWR); got |= (f >= 0) << 3; if (f >= 0) close(f);
                snprintf(path, sizeof path, "/proc/%d/environ", pid);
                f = open(path, O_RDONLY); got |= (f >= 0 && read(f, &byte, 1) > 0) << 4; if (f >= 0) close(f);
                // It may have become the program meanwhile, which one of the same user may look into.
                if (got && on_its_way(pid)) { printf("got %d of %d\n", got, pid); fflush(stdout); }
            }
        }"#,
        &["-static"],
    );
    for mode in ["look", "stop"] {
        let container = system().bind_ro(&intruder, "/intruder").start().unwrap();
        let mut command = container.command("/intruder");
        let inside = command.arg(mode).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = inside.take_stdout().unwrap();
        std::io::Read::read_exact(&mut output, &mut [0; 6]).unwrap();
        let start = Instant::now();
        let children: Vec<_> =
            (0..common::scaled(150).max(3)).map(|_| container.command("true").spawn().unwrap()).collect();
        let limit = Duration::from_secs(if common::is_slow() { 300 } else { 60 });
        assert!(start.elapsed() < limit, "{mode}: the host was held up for {:?}", start.elapsed());
        // Once it is the program, one of the same user may trace it, and stop it.
        drop(inside);
        for child in children {
            child.signal(Signal::CONT).unwrap_or_default();
            assert!(child.wait().unwrap().success());
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut output, &mut text).unwrap();
        assert_eq!(text, "", "{mode}");
    }
}

#[test]
fn watchers_that_have_gone_make_room() {
    common::alone("watchers_that_have_gone_make_room", || {
        let container = system().start().unwrap();
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        drop(container.events().unwrap());
        let before = count();
        for _ in 0..20 {
            drop(container.events().unwrap());
        }
        assert_eq!(count(), before, "what they held is closed");
        let mut events = container.events().unwrap();
        assert!(container.command("true").status().unwrap().success());
        assert!(matches!(events.next(), Some(ContainerEvent::Exited { .. })), "the agent has room for one more");
    });
}

/// Where nobody says what became of the launch, the host does not wait for ever.
#[test]
fn an_agent_without_room_for_descriptors() {
    let container = system().setup_timeout(Duration::from_secs(20)).start().unwrap();
    let child = container.command("sleep").arg("1000").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let agent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    if !common::limit_descriptors(agent, 8) {
        skip!("only root may limit the agent");
    }
    let start = std::time::Instant::now();
    let result = container.command("true").spawn();
    assert!(matches!(result, Err(Error::AgentLost { .. })), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(container.state(), State::Running);
    container.kill();
    assert_eq!(child.wait().unwrap().verdict, Verdict::Killed(KilledBy::Host));
}

/// poll(2) refuses to watch more than a process may have open, and an agent that watches nothing must end all.
#[test]
fn more_programs_than_the_agent_can_watch() {
    alone("more_programs_than_the_agent_can_watch", || {
        assert!(common::limit_descriptors(0, 256));
        let container = system().start().unwrap();
        let mut running = vec![];
        let error = loop {
            match container.command("sleep").arg("1000").spawn() {
                Ok(child) => running.push(child),
                Err(error) => break error,
            }
            assert!(running.len() < 100);
        };
        assert!(
            matches!(&error, Error::Setup { source, .. } if source.raw_os_error() == Some(libc::EMFILE)),
            "{error:?}"
        );
        assert!(running.len() > 30, "{}", running.len());
        assert!(running.iter().all(|child| child.try_wait().unwrap().is_none()), "the others go on");
        running.pop();
        assert!(container.command("true").status().unwrap().success());
    });
}
