//! Limits of one command, within those of its sandbox.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{all_namespaces, alone, leaves_nothing};
use stockade::{Command, Container, Error, Layer, Layers, Limit, Pool, Prepared, Rootfs, Sandbox, Support, Verdict};

const MIB: u64 = 1 << 20;
/// Long, for what is to be ended before.
const SECONDS_20: Duration = Duration::from_secs(20);

macro_rules! needs {
    ($($layer:expr),*) => {
        let support = Support::probe();
        $(if let Some(missing) = support.missing($layer) {
            skip!("{}", missing.reason);
        })*
    };
}

/// The four that a command can be of, made from one policy.
struct Places {
    sandbox: Sandbox,
    prepared: Prepared,
    container: Container,
    pool: Pool,
}

impl Places {
    fn of(sandbox: &Sandbox) -> Self {
        Self {
            sandbox: sandbox.clone(),
            prepared: sandbox.prepare().unwrap(),
            container: sandbox.start().unwrap(),
            pool: sandbox.pool(1).unwrap(),
        }
    }

    /// With the name of each.
    fn commands(&self, script: &str) -> [(&'static str, Command); 4] {
        let mut all = [
            ("sandbox", self.sandbox.command("sh")),
            ("prepared", self.prepared.command("sh")),
            ("container", self.container.command("sh")),
            ("pool", self.pool.command("sh")),
        ];
        for (_, command) in &mut all {
            command.args(["-c", script]);
        }
        all
    }

    /// How a script ends in each, with a command's own limits.
    fn end(&self, script: &str, limit: impl Fn(&mut Command), expected: &Verdict) {
        for (place, mut command) in self.commands(script) {
            limit(&mut command);
            let output = command.output().unwrap();
            assert_eq!(output.outcome.verdict, *expected, "{place}: {script}: {output:?}");
        }
    }
}

fn system() -> Sandbox {
    all_namespaces().rootfs(Rootfs::system())
}

/// Holds 40 MB: tail(1) keeps the last line, and there is only one.
const EATS: &str = "head -c 40000000 /dev/zero | tail | wc -c >/dev/null";

#[test]
fn of_memory() {
    needs!(Layer::Memory);
    alone("of_memory", || {
        leaves_nothing("limits of memory", memory);
    });
}

fn memory() {
    let places = Places::of(&system().memory_limit(200 * MIB));
    let over = Verdict::LimitExceeded(Limit::Memory);
    places.end(EATS, |_| {}, &Verdict::Exited(0));
    places.end(
        EATS,
        |command| {
            command.memory_limit(20 * MIB);
        },
        &over,
    );
    // The last word holds, and the next command has none of it.
    let twice = |command: &mut Command| {
        command.memory_limit(20 * MIB).memory_limit(150 * MIB);
    };
    places.end(EATS, twice, &Verdict::Exited(0));
    places.end(EATS, |_| {}, &Verdict::Exited(0));
    // The policy's is the stricter one.
    let small = Places::of(&system().memory_limit(20 * MIB));
    small.end(
        EATS,
        |command| {
            command.memory_limit(500 * MIB);
        },
        &over,
    );
}

#[test]
fn of_tasks() {
    needs!(Layer::Pids);
    let places = Places::of(&system().pids_limit(50));
    let forks = "for i in 1 2 3 4 5 6; do sleep 0.3 & done; wait";
    places.end(forks, |_| {}, &Verdict::Exited(0));
    let over = Verdict::LimitExceeded(Limit::Pids);
    let few = |command: &mut Command| {
        command.pids_limit(3);
    };
    let many = |command: &mut Command| {
        command.pids_limit(1000);
    };
    places.end(forks, few, &over);
    Places::of(&system().pids_limit(3)).end(forks, many, &over);
}

#[test]
fn of_time_and_output() {
    alone("of_time_and_output", || {
        leaves_nothing("limits of time and output", time_and_output);
    });
}

fn time_and_output() {
    // A policy that says nothing of either.
    let places = Places::of(&system());
    let wall = |limit: u64| {
        move |command: &mut Command| {
            command.wall_time_limit(Duration::from_millis(limit));
        }
    };
    places.end("sleep 20", wall(200), &Verdict::LimitExceeded(Limit::WallTime));
    places.end("sleep 0.01", wall(20_000), &Verdict::Exited(0));
    let output = |command: &mut Command| {
        command.output_limit(10);
    };
    places.end("echo 12345678901234567890; sleep 20", output, &Verdict::LimitExceeded(Limit::Output));
    places.end("echo 123456789", output, &Verdict::Exited(0));
    // One that is stricter.
    let strict = Places::of(&system().wall_time_limit(Duration::from_millis(200)));
    strict.end("sleep 20", wall(20_000), &Verdict::LimitExceeded(Limit::WallTime));
    let strict = Places::of(&system().output_limit(10));
    let more = |command: &mut Command| {
        command.output_limit(1000);
    };
    strict.end("echo 12345678901234567890", more, &Verdict::LimitExceeded(Limit::Output));
}

#[test]
fn of_cpu_time() {
    needs!(Layer::CpuTime);
    let places = Places::of(&system().cpu_time_limit(SECONDS_20).wall_time_limit(SECONDS_20));
    let busy = "(while :; do :; done) & while :; do :; done";
    let limit = |command: &mut Command| {
        command.cpu_time_limit(Duration::from_millis(300));
    };
    places.end(busy, limit, &Verdict::LimitExceeded(Limit::CpuTime));
    let strict = Places::of(&system().cpu_time_limit(Duration::from_millis(300)).wall_time_limit(SECONDS_20));
    let more = |command: &mut Command| {
        command.cpu_time_limit(SECONDS_20);
    };
    strict.end(busy, more, &Verdict::LimitExceeded(Limit::CpuTime));
}

/// A burst is never more than the quota: the kernel would refuse both.
#[test]
fn of_cpu_where_the_policy_has_a_burst() {
    needs!(Layer::Cpu);
    let burst = Duration::from_millis(50);
    let places = Places::of(&system().cpu_limit(1.0).cpu_burst(burst));
    places.end(
        "true",
        |command| {
            command.cpu_limit(0.2);
        },
        &Verdict::Exited(0),
    );
}

/// Two in one container: what one may do is not what the other may.
#[test]
fn each_its_own() {
    needs!(Layer::Memory);
    let container = system().memory_limit(200 * MIB).start().unwrap();
    let with = |limit: u64| {
        let mut command = container.command("sh");
        command.args(["-c", EATS]).memory_limit(limit);
        command
    };
    let (mut small, mut large) = (with(20 * MIB), with(150 * MIB));
    for _ in 0..3 {
        let (one, other) = (small.spawn().unwrap(), large.spawn().unwrap());
        assert_eq!(one.wait().unwrap().verdict, Verdict::LimitExceeded(Limit::Memory));
        assert_eq!(other.wait().unwrap().verdict, Verdict::Exited(0));
    }
    // Each within its own, and together too much for the container.
    let mut both = [(); 2].map(|()| {
        let mut command = container.command("sh");
        let script = "head -c 120000000 /dev/zero | tail | (sleep 2; wc -c >/dev/null)";
        command.args(["-c", script]).memory_limit(190 * MIB);
        command.spawn().unwrap()
    });
    let verdicts = both.each_mut().map(|child| child.wait().unwrap().verdict);
    assert!(verdicts.contains(&Verdict::LimitExceeded(Limit::Memory)), "{verdicts:?}");
}

#[test]
fn a_kind_that_the_policy_has_not() {
    needs!(Layer::Memory);
    let places = Places::of(&system().pid_ns());
    for (place, mut command) in places.commands("exit 3") {
        let result = command.memory_limit(64 * MIB).status();
        match place {
            // Its policy is made for it.
            "sandbox" => assert_eq!(result.unwrap().code(), Some(3)),
            _ => assert!(
                matches!(&result, Err(Error::Invalid { setting: "memory_limit", reason, .. }) if reason.contains("policy")),
                "{place}: {result:?}"
            ),
        }
    }
    // A pool's place is not lost by that.
    assert_eq!(places.pool.figures().taken, 0);
}

#[test]
fn what_makes_no_sense() {
    let places = Places::of(&system());
    let limits: [fn(&mut Command); 5] = [
        |command| {
            command.wall_time_limit(Duration::ZERO);
        },
        |command| {
            command.output_limit(0);
        },
        |command| {
            command.memory_limit(0);
        },
        |command| {
            command.pids_limit(0);
        },
        |command| {
            command.cpu_limit(-1.0);
        },
    ];
    for limit in limits {
        for (place, mut command) in places.commands("true") {
            limit(&mut command);
            let result = command.spawn();
            assert!(matches!(result, Err(Error::Invalid { .. })), "{place}: {result:?}");
        }
    }
}

/// What the policy does without, since it is missing, a command does without too. Alone, in a mount namespace without
/// cgroups.
#[test]
fn best_effort_is_the_policys() {
    const NAME: &str = "best_effort_is_the_policys";
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        let prepared = system().memory_limit(200 * MIB).best_effort(Layers::MEMORY).prepare().unwrap();
        assert!(prepared.report().missing().iter().any(|missing| missing.layer == Layer::Memory));
        assert!(prepared.command("true").memory_limit(20 * MIB).status().unwrap().success());
        assert!(matches!(prepared.command("true").pids_limit(20).status(), Err(Error::Invalid { .. })));
        return;
    }
    if !common::is_root() {
        skip!("only root can make a mount namespace here");
    }
    let script = "umount -l -R /sys/fs/cgroup && exec \"$0\" \"$@\"";
    let (passed, text) = common::passed(&common::again_in_mounts(NAME, script).output().unwrap());
    assert!(passed, "{text}");
}
