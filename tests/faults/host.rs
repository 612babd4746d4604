//! What the traced host does, and how it judges what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stockade::seccomp::{Action, Filter};
use stockade::{Child, Error, Pool, Prepared, Resource, Sandbox, Signal, Stdio, Verdict};

use super::trace::mark;
use crate::common;

/// What goes on while the calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Cold,
    Container,
    Pool,
}

pub struct Scenario {
    pub name: &'static str,
    pub kind: Kind,
    pub prepared: Prepared,
    pub program: String,
}

/// What was seen of a program that ran.
#[derive(Debug)]
pub struct Seen {
    pub verdict: Verdict,
    pub facts: String,
}

pub fn limited(sandbox: Sandbox) -> Sandbox {
    let support = stockade::Support::probe();
    let has = |layer| support.missing(layer).is_none();
    let mut sandbox = sandbox.setup_timeout(Duration::from_secs(4)).wall_time_limit(Duration::from_secs(20));
    if has(stockade::Layer::Memory) {
        sandbox = sandbox.memory_limit(64 << 20);
    }
    if has(stockade::Layer::Cpu) {
        sandbox = sandbox.cpu_limit(1.5);
    }
    if has(stockade::Layer::CpuTime) {
        sandbox = sandbox.cpu_time_limit(Duration::from_secs(10));
    }
    if has(stockade::Layer::Freezer) {
        sandbox = sandbox.freezer();
    }
    sandbox
}

/// All scenarios, for this host.
pub fn scenarios(program: &Path) -> Vec<Scenario> {
    let hardened = limited(Sandbox::hardened().bind_ro(program, FACTS_INSIDE));
    let make = |name, kind, sandbox: &Sandbox, program: &str| Scenario {
        name,
        kind,
        prepared: sandbox.prepare().unwrap(),
        program: program.to_owned(),
    };
    let guardian = Sandbox::new()
        .best_effort(stockade::Layers::TREE_KILL)
        .rlimit(Resource::OpenFiles, 512)
        .rlimit(Resource::Core, 0);
    let guardian =
        if common::is_root() { guardian.uid(12345).gid(12346).groups([12347]).chroot("/") } else { guardian.user_ns() };
    let guardian = limited(guardian);
    let path = program.to_str().unwrap();
    // With a listener, which the host gets too.
    let asking = hardened.clone().seccomp(Filter::deny_list().deny("getrusage", Action::Notify));
    vec![
        make("cold", Kind::Cold, &hardened, FACTS_INSIDE),
        make("container", Kind::Container, &hardened, FACTS_INSIDE),
        make("pool", Kind::Pool, &hardened, FACTS_INSIDE),
        make("as-pid-1", Kind::Cold, &hardened.clone().as_pid_1(), FACTS_INSIDE),
        make("guardian", Kind::Cold, &guardian, path),
        make("asking", Kind::Cold, &asking, FACTS_INSIDE),
        make("asking-pool", Kind::Pool, &asking, FACTS_INSIDE),
    ]
}

/// Where hardened programs find it.
const FACTS_INSIDE: &str = "/facts";

/// What the facts must tell apart: a sandbox without one of its layers.
pub fn are_not_blind(program: &Path, facts: &str) {
    let hardened = || limited(Sandbox::hardened().bind_ro(program, FACTS_INSIDE));
    let weaker: [(&str, Sandbox); 7] = [
        ("Landlock", hardened().without_landlock()),
        ("a filter", hardened().without_seccomp()),
        ("a bounding set", hardened().keep_capabilities(stockade::Capabilities::NET_RAW)),
        ("a limit of memory", hardened().memory_limit(128 << 20)),
        ("a limit of tasks", hardened().pids_limit(300)),
        ("a limit of files", hardened().rlimit(Resource::OpenFiles, 2048)),
        ("a read-only directory", hardened().bind_rw("/usr", "/usr2")),
    ];
    for (what, sandbox) in weaker {
        // Not every host can limit everything.
        let Ok(prepared) = sandbox.prepare() else { continue };
        let scenario = Scenario { name: what, kind: Kind::Cold, prepared, program: FACTS_INSIDE.to_owned() };
        assert_ne!(scenario.go().unwrap().facts, facts, "the facts do not show that {what} is missing");
    }
}

impl Scenario {
    pub fn go(&self) -> Result<Seen, Error> {
        match self.kind {
            Kind::Cold => self.seen(self.prepared.command(&self.program)),
            Kind::Container => {
                let container = self.prepared.start()?;
                self.seen(container.command(&self.program))
            }
            Kind::Pool => {
                let pool: Pool = self.prepared.pool(1)?;
                self.seen(pool.command(&self.program))
            }
        }
    }

    fn seen(&self, mut command: stockade::Command) -> Result<Seen, Error> {
        command.arg("one").env("ONE", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn()?;
        let mut facts = uncounted(|| from_outside(&child));
        let output = child.wait_with_output()?;
        facts.push_str(&String::from_utf8_lossy(&output.stdout));
        Ok(Seen { verdict: output.outcome.verdict, facts: plain(&facts) })
    }
}

/// Whether calls are counted now.
static COUNTED: AtomicBool = AtomicBool::new(false);

fn count(on: bool) {
    COUNTED.store(on, Ordering::Relaxed);
    mark(on);
}

fn uncounted<T>(body: impl FnOnce() -> T) -> T {
    let counted = COUNTED.load(Ordering::Relaxed);
    mark(false);
    let result = body();
    mark(counted);
    result
}

/// What the host can see: the limits in its cgroups, and how the agent stands.
fn from_outside(child: &Child) -> String {
    let mut facts = String::new();
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap_or_default();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let mounts =
            names.split(',').flat_map(|name| [name.to_owned(), format!("unified{name}"), format!("../cgroup{name}")]);
        for mount in mounts {
            let directory = PathBuf::from(format!("/sys/fs/cgroup/{mount}{path}"));
            if !path.contains("stockade-") {
                continue;
            }
            for file in [
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.max",
                "memory.swap.max",
                "memory.oom.group",
                "pids.max",
                "cpu.cfs_quota_us",
                "cpu.max",
            ] {
                if let Ok(text) = fs::read_to_string(directory.join(file)) {
                    let _ = write!(facts, "{file}: {text}");
                }
            }
        }
    }
    // The program's parent.
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    if let Some(agent) = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) {
        let status = fs::read_to_string(format!("/proc/{agent}/status")).unwrap_or_default();
        for line in status.lines() {
            if ["Uid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "SigBlk"]
                .iter()
                .any(|word| line.starts_with(word))
            {
                let _ = writeln!(facts, "agent {line}");
            }
        }
        // Who may not be looked into belongs to root, of the host or of the namespace.
        if let Ok(found) = fs::metadata(format!("/proc/{agent}/fd")) {
            let _ = writeln!(facts, "agent's owner {}", found.uid());
        }
        if common::is_root() {
            let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
            for entry in fs::read_dir(format!("/proc/{agent}/fd")).into_iter().flatten().flatten() {
                let link = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
                // What comes and goes is not for comparison.
                if link.starts_with("/sys/fs/cgroup") || link.contains("eventfd") {
                    *kinds.entry(link).or_default() += 1;
                }
            }
            for (kind, count) in kinds {
                let _ = writeln!(facts, "agent has {count} {kind}");
            }
        }
    }
    facts
}

pub fn children() -> Vec<u32> {
    let mut found = vec![];
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

/// Without what differs from one sandbox to the next.
fn plain(facts: &str) -> String {
    let mut text = String::new();
    let keyring = format!("keyring {}", session_keyring());
    for line in facts.lines() {
        let mut line = line.to_owned();
        if line == keyring {
            line = "keyring: the host's".into();
        } else if line.starts_with("keyring ") {
            line = "keyring: own".into();
        }
        if let Some((space, inode)) = line.strip_prefix("ns ").and_then(|rest| rest.split_once(' ')) {
            let own = fs::read_link(format!("/proc/self/ns/{space}")).unwrap_or_default();
            let whose = if own.to_string_lossy() == inode { "the host's" } else { "own" };
            line = format!("ns {space} {whose}");
        }
        if let Some(at) = line.find("stockade-") {
            let end = line[at..].find('/').map_or(line.len(), |len| at + len);
            line.replace_range(at..end, "stockade-X");
        }
        if let Some(at) = line.find("/run-") {
            let end = line[at + 1..].find('/').map_or(line.len(), |len| at + 1 + len);
            line.replace_range(at..end, "/run-X");
        }
        let _ = writeln!(text, "{line}");
    }
    text
}

fn session_keyring() -> i64 {
    // SAFETY: asks for a number.
    unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }
}

/// What a host has to say of one run.
#[derive(Debug, Default)]
pub struct Said {
    /// In few words.
    pub outcome: String,
    /// What should not be.
    pub wrong: Vec<String>,
}

impl Said {
    pub fn write(&self) -> String {
        let mut text = self.outcome.clone();
        for wrong in &self.wrong {
            let _ = write!(text, "\u{1}{wrong}");
        }
        text
    }

    pub fn read(text: &str) -> Said {
        let mut parts = text.split('\u{1}').map(str::to_owned);
        Said { outcome: parts.next().unwrap_or_default(), wrong: parts.collect() }
    }
}

/// The first difference.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).take(3).collect();
    let new: Vec<_> = found.iter().filter(|line| !expected.contains(line)).take(3).collect();
    format!("expected {missing:?}, found {new:?}")
}

fn belongings() -> Vec<String> {
    let mut all = common::belongings();
    all.descriptors.push(format!("{} mounts, {} files", all.mounts, all.files));
    all.descriptors
}

/// The host's life under a fault, which may be that a process of the stage's is killed.
pub fn live(scenario: &Scenario, expected: &str, kills: bool) -> Said {
    let mut said = Said::default();
    let before = belongings();
    count(true);
    let first = scenario.go();
    count(false);
    if !children().is_empty() {
        let names: Vec<_> =
            children().iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()).collect();
        said.wrong.push(format!("children are left: {names:?}"));
    }
    said.outcome = match &first {
        Ok(Seen { verdict: Verdict::Exited(0), facts }) if facts == expected => "works".into(),
        Ok(Seen { verdict: Verdict::Exited(0), facts }) => {
            said.wrong.push(format!("confined in another way: {}", difference(expected, facts)));
            "works otherwise".into()
        }
        Ok(Seen { verdict: Verdict::Killed(by), .. }) => format!("killed by {by:?}"),
        // It had said that the exec is next.
        Ok(Seen { verdict: Verdict::Signaled(Signal::KILL), .. }) if kills => "killed by somebody".into(),
        Ok(Seen { verdict, .. }) => {
            said.wrong.push(format!("the verdict is {verdict:?}"));
            "another verdict".into()
        }
        Err(error) => describe(error),
    };
    match scenario.go() {
        Ok(Seen { verdict: Verdict::Exited(0), facts }) if facts == expected => {}
        Ok(Seen { facts, .. }) if !facts.is_empty() => {
            said.wrong.push(format!("the next launch: {}", difference(expected, &facts)));
        }
        other => said.wrong.push(format!("the next launch: {other:?}")),
    }
    let after = belongings();
    if before != after {
        let [new, gone] = [(&after, &before), (&before, &after)]
            .map(|(a, b)| a.iter().filter(|entry| !b.contains(entry)).cloned().collect::<Vec<_>>());
        said.wrong.push(format!("the host has {new:?} more, {gone:?} less"));
    }
    said
}

/// The error, with what tells where it was.
fn describe(error: &Error) -> String {
    match error {
        Error::Setup { step, .. } => format!("Setup({step:?})"),
        Error::Host { what, .. } => format!("Host({what})"),
        Error::Unsupported { layer, .. } => format!("Unsupported({layer:?})"),
        Error::Exec { .. } => "Exec".into(),
        Error::Cgroup { path, .. } => format!(
            "Cgroup({})",
            path.file_name().unwrap_or_default().to_string_lossy().split('-').next().unwrap_or_default()
        ),
        Error::Source { .. } => "Source".into(),
        Error::TimedOut { .. } => "TimedOut".into(),
        Error::AgentLost { reason, .. } => format!("AgentLost({reason})"),
        Error::Invalid { setting, reason, .. } => format!("Invalid({setting}: {reason})"),
        other => format!("{other:?}"),
    }
}
