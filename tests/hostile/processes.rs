//! Processes: the host's, a neighbour's, and the agent.

use std::io::Read as _;
use std::time::Duration;

use stockade::{Error, KilledBy, Limit, Sandbox, Step, Verdict};

use crate::common;
use crate::lab::{Control, Lab, Marker, Pair, Ran, Twins};

pub fn pairs() -> Vec<Pair> {
    let mut pairs = vec![];
    for attack in ["ptrace", "vm-write", "vm-read", "proc-mem", "pidfd-getfd", "proc-files", "setns-pid", "slow-down"] {
        pairs.push(Pair::new(attack, move |lab| against_the_agent(lab, attack)));
    }
    pairs.extend([
        Pair::new("kill-agent", |lab| killing(lab, "kill", true)),
        Pair::new("kill", |lab| killing(lab, "kill", false)),
        Pair::new("pidfd-kill", |lab| killing(lab, "pidfd-kill", false)),
        Pair::new("kill-all", kill_all),
        Pair::new("blind-agent", blind),
        Pair::new("exe-overwrite", overwrite),
        Pair::new("ambush", ambush),
        Pair::new("stop-all", stop_all),
        Pair::new("proc-links", links),
        Pair::new("environ", environment),
        Pair::new("find-process", arguments),
        Pair::new("daemon", daemon),
        Pair::simple("own-environ", Control::Host),
        Pair::alone("landlock-kill", landlock, |lab| {
            let victim = lab.holder(&["hold"]);
            (vec!["kill".into(), victim.id().to_string()], Some(victim))
        }),
        Pair::alone("landlock-ptrace", landlock, |lab| {
            let mut sandbox = Sandbox::new().command(&lab.program);
            let victim = lab.holder_in(sandbox.arg("hold"));
            (vec!["ptrace".into(), victim.id().to_string()], Some(victim))
        }),
        Pair::filtered("ptrace-sibling", Control::NoFilter),
        Pair::filtered("ptrace-me", Control::NoFilter),
    ]);
    pairs
}

/// Nothing but Landlock.
fn landlock() -> Sandbox {
    Sandbox::new().landlock_mounts()
}

/// The agent, and a process of the host's by its number there. The control: a process of the same user.
fn against_the_agent(lab: &Lab, attack: &'static str) -> Twins {
    let host = lab.holder(&["hold"]);
    // Its filter refuses most of these; what it is protected by besides must hold alone.
    let sandboxes = [lab.hardened(), lab.hardened().without_seccomp()];
    let attempt = |sandbox| ["1", &host.id().to_string()].map(|pid| lab.inside(sandbox, &[attack, pid]));
    let inside = sandboxes.iter().flat_map(attempt).collect();
    // To enter namespaces there must be some that are not one's own.
    let neighbour = lab.holder_in(Sandbox::new().user_ns().net_ns().command(&lab.program).arg("hold"));
    let victim = if attack == "setns-pid" { neighbour.id() } else { host.id() };
    Twins { inside, control: lab.outside(&[attack, &victim.to_string()]) }
}

fn killing(lab: &Lab, attack: &'static str, agent: bool) -> Twins {
    let mut host = lab.holder(&["hold"]);
    let mut neighbour = lab.holder_in(&mut Lab::command(&lab.hardened(), &["hold"]));
    let sandbox = lab.hardened();
    let victims = if agent { vec![1] } else { vec![host.id(), neighbour.id()] };
    let mut inside: Vec<Ran> = victims.iter().map(|pid| lab.inside(&sandbox, &[attack, &pid.to_string()])).collect();
    inside.push(Ran::seen(!host.is_alive() || !neighbour.is_alive(), "a process outside has ended"));
    // A namespace's first process is protected by the kernel; without one, nobody is.
    Twins { inside, control: lab.outside(&[attack, &host.id().to_string()]) }
}

fn kill_all(lab: &Lab) -> Twins {
    let mut host = lab.holder(&["hold"]);
    let mut neighbour = lab.holder_in(&mut Lab::command(&lab.hardened(), &["hold"]));
    let inside = lab.inside(&lab.hardened(), &["kill-all"]);
    let seen = Ran::seen(!host.is_alive() || !neighbour.is_alive(), "a process outside has ended");
    // Two in one sandbox.
    let script = format!("sleep 10 & exec {} kill-all", lab.program.display());
    let control = Sandbox::new().pid_ns().command("sh").args(["-c", &script]).output();
    Twins { inside: vec![inside, seen], control: Lab::ran(control) }
}

/// The agent's own limits, which its uid is enough to lower: the deadline must hold all the same.
fn blind(lab: &Lab) -> Twins {
    let wanted = if common::is_slow() { 8000 } else { 1500 };
    let attempt = |pid: &str, which: &str| ["blind", pid, which, &wanted.to_string()].map(str::to_owned);
    let inside = ["files", "others"].map(|which| {
        let sandbox = lab.hardened().wall_time_limit(Duration::from_millis(wanted / 4));
        match Lab::command(&sandbox, &attempt("1", which)).output() {
            Ok(output) if output.outcome.verdict == Verdict::Killed(KilledBy::Agent) => Ran::Refused("ended".into()),
            // It was so fast that the launch was not over: the agent could hand over no descriptor any more.
            Err(Error::AgentLost { .. } | Error::Setup { step: Step::Agent, .. }) => Ran::Refused("ended".into()),
            output => Lab::ran_into(output, Limit::WallTime),
        }
    });
    let host = lab.holder(&["hold"]);
    Twins { inside: inside.into(), control: lab.outside(&attempt(&host.id().to_string(), "others")) }
}

/// CVE-2019-5736: the program that the host runs on the way in.
fn overwrite(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let program = marker.path().join("copy");
    lab.copy_to(&program);
    let mut victim = std::process::Command::new(&program);
    victim.arg("hold").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut victim = victim.spawn().unwrap();
    let _input = victim.stdin.take();
    victim.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    // Reaped at once when it is killed, since a zombie has no executable.
    let pid = victim.id().to_string();
    let control = std::thread::scope(|scope| {
        scope.spawn(|| victim.wait());
        lab.outside(&["exe-overwrite", &pid])
    });
    let inside = ["1", "self"].map(|pid| lab.inside(&lab.hardened(), &["exe-overwrite", pid]));
    Twins { inside: inside.into(), control }
}

/// CVE-2016-9962: processes on their way into a sandbox in which somebody of their uid waits.
fn ambush(lab: &Lab) -> Twins {
    // With the filter the attacker may look all the same; without Landlock and the filter there is nothing but the protocol.
    let inside =
        [lab.hardened(), lab.unfiltered(), lab.hardened().without_seccomp().without_landlock()].map(|sandbox| {
            let container = sandbox.start().unwrap();
            let mut command = container.command("/lab/attacks");
            let attacker = lab.holder_in(command.arg("ambush"));
            for _ in 0..common::scaled(60).max(5) {
                // What it becomes is its own affair: only on the way it must not be looked into.
                assert!(container.command("true").status().unwrap().success());
            }
            attacker.end()
        });
    // A program that is run from memory, as theirs is, and stays that way: it may be looked into by one of its user's.
    let _victim = lab.holder_in_memory();
    let mut attacker = Sandbox::new().command(&lab.program);
    let attacker = lab.holder_in(attacker.arg("ambush"));
    std::thread::sleep(Duration::from_millis(if common::is_slow() { 2000 } else { 300 }));
    Twins { inside: inside.into(), control: attacker.end() }
}

/// Whoever comes in is stopped by somebody of its uid. The host must not wait for it longer than it has said.
fn stop_all(lab: &Lab) -> Twins {
    let limit = Duration::from_secs(if common::is_slow() { 20 } else { 2 });
    // Landlock stands between two programs of one container; the protocol must do without it.
    let container = lab.unfiltered().setup_timeout(limit).start().unwrap();
    let victim = container.command("sleep").arg("100").spawn().unwrap();
    let attacker = lab.holder_in(container.command("/lab/attacks").arg("stop-all"));
    let stat = format!("/proc/{}/stat", victim.id());
    let is_stopped = || std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T "));
    let stopped = common::eventually(Duration::from_secs(10), is_stopped);
    let mut longest = Duration::ZERO;
    for _ in 0..common::scaled(20).max(3) {
        let start = std::time::Instant::now();
        // It may come in or not; what has come in and is stopped then can be ended.
        if let Ok(child) = container.command("true").spawn() {
            let _ = child.kill();
        }
        longest = longest.max(start.elapsed());
    }
    drop(attacker);
    let inside = Ran::seen(longest > limit * 2, format!("the host waited for {longest:?}"));
    Twins { inside: vec![inside], control: Ran::seen(stopped, "one that was inside already is stopped") }
}

struct Victim(std::process::Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn links(lab: &Lab) -> Twins {
    let (marker, host) = (Marker::new(), lab.holder(&["hold"]));
    let attempt = |pid: &str| ["proc-links".to_owned(), pid.to_owned(), marker.file(), marker.text.clone()];
    let inside = ["1", "self", &host.id().to_string()].map(|pid| lab.inside(&lab.hardened(), &attempt(pid)));
    Twins { inside: inside.into(), control: lab.outside(&attempt(&host.id().to_string())) }
}

fn environment(lab: &Lab) -> Twins {
    let secret = common::marker("environment");
    let mut host = lab.plain(&["hold"]);
    host.env("SECRET", &secret).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let _host = Victim(host.spawn().unwrap());
    let mut neighbour = Lab::command(&lab.hardened(), &["hold"]);
    let _neighbour = lab.holder_in(neighbour.env("SECRET", &secret));
    Twins {
        inside: vec![lab.inside(&lab.hardened(), &["environ", &secret])],
        control: lab.outside(&["environ", &secret]),
    }
}

fn arguments(lab: &Lab) -> Twins {
    let secret = common::marker("arguments");
    let _host = lab.holder(&["hold", &secret]);
    let _neighbour = lab.holder_in(&mut Lab::command(&lab.hardened(), &["hold", &secret]));
    Twins {
        inside: vec![lab.inside(&lab.hardened(), &["find-process", &secret])],
        control: lab.unrooted(&Sandbox::new(), &["find-process", &secret]),
    }
}

/// What leaves its session and its parent outlives a program that is not in a sandbox.
fn daemon(lab: &Lab) -> Twins {
    let (inside, outside) = (common::marker("daemon"), common::marker("daemon"));
    let ran = lab.inside(&lab.hardened(), &["daemon", &inside]);
    let ran = ran.unless(!common::alive(&inside).is_empty(), "it lives on");
    let plain = lab.outside(&["daemon", &outside]);
    let left = common::alive(&outside);
    left.iter().for_each(|pid| common::kill(*pid, libc::SIGKILL));
    Twins { inside: vec![ran], control: plain.unless(!left.is_empty(), "it lives on") }
}
