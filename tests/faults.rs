//! Faults: each system call of a launch, a container's start, a pool's take and a tear-down fails in turn, with each of
//! its plausible errors, in the host and in the stage's processes; and the host is killed at each. Then the launch is as
//! confined as ever or a typed error, nothing is left, and the next launch works.
//!
//! `STOCKADE_FAULTS=text` runs those only whose name has that text in it, such as `cold Agent0:prctl:3`; `-- --nocapture`
//! shows what came of each.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)] // ptrace, which has no safe wrapper
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // times

mod common;
#[path = "faults/host.rs"]
mod host;
#[path = "faults/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, Write as _};
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use host::{Kind, Said, Scenario};
use trace::{Fault, Point, Role, Tracer, name};

/// What a run of all may take. What is beyond that is left out, evenly, and that is said.
const BUDGET: Duration = Duration::from_secs(220);

/// What a call may be answered.
fn errors(number: u64, role: Role) -> Vec<i32> {
    use libc::{
        E2BIG, EACCES, EAGAIN, EBADF, EBUSY, EDQUOT, EFAULT, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENODEV, ENOENT,
        ENOMEM, ENOSPC, ENOSYS, EPERM, EPIPE, ESRCH, ETOOMANYREFS, ETXTBSY,
    };
    let in_host = matches!(role, Role::Host | Role::Thread | Role::Spawn);
    match name(number) {
        // Memory of the host's own: the standard library ends the process, as if it were killed. Its locks, its clocks,
        // its ends; and what cannot fail.
        "mmap" | "munmap" | "brk" | "mprotect" | "madvise" | "mremap" if in_host => vec![],
        "futex" | "sched_yield" | "clock_nanosleep" | "nanosleep" | "exit" | "exit_group" | "rt_sigreturn"
        | "getpid" | "restart_syscall" | "rseq" | "set_robust_list" | "gettid" | "getrandom" | "sigaltstack"
        | "umask" | "geteuid" | "getegid" | "getuid" | "getgid" | "clock_gettime" | "set_tid_address"
        | "sched_getaffinity" => vec![],
        // What the kernel never refuses for its own ends.
        "shutdown" | "munmap" => vec![],
        "close" => vec![EINTR, EIO],
        "openat" | "open" | "openat2" if in_host => vec![EMFILE, ENOMEM, EACCES],
        "openat" => vec![ENOMEM, EMFILE, ENOENT, EACCES],
        "openat2" => vec![ENOSYS, EPERM, ENOMEM, EAGAIN, ENOENT],
        "read" | "pread64" => vec![EIO, EINTR],
        "write" | "pwrite64" => vec![EIO, ENOSPC, EBUSY, EPERM, EINTR],
        "poll" | "ppoll" if in_host => vec![EINTR, ENOMEM],
        "poll" | "ppoll" => vec![ENOMEM],
        "recvmsg" | "recvfrom" => vec![EINTR, ENOMEM],
        "sendmsg" | "sendto" => vec![ENOMEM, EPIPE, ETOOMANYREFS, EAGAIN],
        "socketpair" | "socket" | "pipe2" | "memfd_create" | "eventfd2" | "epoll_create1" | "signalfd4" | "dup3"
        | "dup2" => {
            vec![EMFILE, ENFILE, ENOMEM]
        }
        "fcntl" => vec![EMFILE, EBUSY],
        "clone" | "clone3" | "vfork" | "fork" => vec![EAGAIN, ENOMEM, ENOSYS, EPERM],
        "execve" => vec![ENOMEM, EACCES, ENOENT, E2BIG, ETXTBSY],
        "wait4" | "waitid" => vec![EINTR],
        "pidfd_open" => vec![EMFILE, ENOSYS, ENOMEM],
        "pidfd_send_signal" => vec![EPERM, ESRCH, ENOSYS],
        "kill" => vec![EPERM, ESRCH],
        "mkdir" | "mkdirat" => vec![EACCES, ENOMEM, ENOSPC, EAGAIN],
        "rmdir" | "unlinkat" => vec![EBUSY],
        "unshare" | "setns" => vec![EPERM, ENOSPC, EINVAL, ENOMEM],
        "keyctl" => vec![EPERM, ENOSYS, EDQUOT, ENOMEM],
        "close_range" => vec![ENOSYS, EPERM, ENOMEM],
        "mount_setattr" | "open_tree" | "move_mount" | "fsopen" | "fsmount" => vec![ENOSYS, EPERM, EINVAL, ENOMEM],
        "fsconfig" => vec![EINVAL, ENOMEM, EBUSY],
        "mount" | "umount2" | "pivot_root" => vec![EPERM, EINVAL, EBUSY, ENOMEM],
        "landlock_create_ruleset" | "landlock_add_rule" | "landlock_restrict_self" => {
            vec![ENOSYS, EPERM, ENOMEM, EINVAL]
        }
        "seccomp" => vec![EPERM, EINVAL, ENOMEM, EACCES, ENOSYS],
        "prctl" | "capset" | "capget" | "setgroups" | "setresuid" | "setresgid" | "setsid" => {
            vec![EPERM, EINVAL, EAGAIN]
        }
        "prlimit64" => vec![EPERM, EINVAL],
        "statx" | "stat" | "fstat" | "newfstatat" if in_host => vec![EACCES, ENOENT, ENOMEM],
        // Of what is open already.
        "statx" => vec![EACCES, ENOMEM],
        "ioctl" => vec![ENODEV, EPERM, EFAULT],
        "setsockopt" | "getsockopt" => vec![ENOMEM, EBADF],
        "rt_sigprocmask" | "rt_sigaction" => vec![EINVAL],
        _ => vec![EPERM, ENOMEM],
    }
}

/// Where a fault stands.
struct Planned {
    scenario: usize,
    point: Point,
    fault: Fault,
}

/// Of many alike, a few: all signals' dispositions, all capabilities of the bounding set.
fn is_like_the_one_before(calls: &[(Point, u64)], index: usize) -> bool {
    let (point, argument) = &calls[index];
    let alike = |other: usize| {
        calls.get(other).is_some_and(|(before, of)| {
            (before.role, before.instance, before.number) == (point.role, point.instance, point.number)
                && (of == argument || point.number == libc::SYS_rt_sigaction.cast_unsigned())
        })
    };
    let many = [libc::SYS_prctl, libc::SYS_rt_sigaction].contains(&point.number.cast_signed());
    many && index > 0 && alike(index - 1) && alike(index + 1) && point.nth % 16 != 3
}

/// All that is to be tried of one scenario.
fn plan(index: usize, scenario: &Scenario, calls: &[(Point, u64)]) -> Vec<Planned> {
    let mut planned = vec![];
    // The same processes make the same calls in each: once is enough.
    let ready =
        |at: usize| calls[..at].iter().any(|(point, _)| point.role == Role::Agent && name(point.number) == "ppoll");
    for (at, (point, _)) in calls.iter().enumerate() {
        let known = match (scenario.kind, point.role) {
            _ if scenario.name == "guardian" => matches!(point.role, Role::Host | Role::Spawn),
            _ if scenario.name.starts_with("asking") => {
                !["seccomp", "sendmsg", "recvmsg", "socketpair", "setsockopt"].contains(&name(point.number))
            }
            _ if scenario.name == "as-pid-1" => !matches!(point.role, Role::Agent | Role::Entry),
            (Kind::Cold, _) | (_, Role::Thread) => false,
            (Kind::Container, Role::Host) | (Kind::Pool, Role::Host | Role::Entry) => point.instance > 0,
            (_, Role::Agent) => !ready(at) || point.instance > 0,
            _ => true,
        };
        if is_like_the_one_before(calls, at) || known {
            continue;
        }
        let mut faults: Vec<_> = errors(point.number, point.role).into_iter().map(Fault::Errno).collect();
        faults.push(Fault::KillHost);
        if matches!(point.role, Role::Spawn | Role::Stage | Role::Agent | Role::Entry) {
            faults.push(Fault::KillCaller);
        }
        planned.extend(faults.into_iter().map(|fault| Planned { scenario: index, point: point.clone(), fault }));
    }
    planned
}

/// A file that a host leaves its words in.
struct Slate(fs::File);

impl Slate {
    fn new() -> Self {
        // SAFETY: a name with its terminator; the descriptor is new.
        unsafe { Self(fs::File::from_raw_fd(libc::memfd_create(c"slate".as_ptr(), libc::MFD_CLOEXEC))) }
    }

    fn write(&self, text: &str) {
        self.0.set_len(0).unwrap();
        self.0.write_all_at(text.as_bytes(), 0).unwrap();
    }

    fn take(&self) -> String {
        let len = usize::try_from(self.0.metadata().unwrap().len()).unwrap();
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, 0).unwrap();
        self.0.set_len(0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The directories of cgroups that a host of ours has left.
fn cgroups(host: i32) -> Vec<String> {
    fn look(directory: &std::path::Path, depth: u32, owner: &str, found: &mut Vec<String>) {
        let below = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.file_name().to_string_lossy().contains(owner) {
                found.push(entry.path().display().to_string());
            }
            if depth > 0 {
                look(&entry.path(), depth - 1, owner, found);
            }
        }
    }
    let mut found = vec![];
    look(std::path::Path::new("/sys/fs/cgroup"), 6, &format!("-{host}-"), &mut found);
    found
}

/// Who says what has failed speaks by these; if they fail the word may not come through.
fn is_speech(point: &Point) -> bool {
    match point.role {
        Role::Host | Role::Thread => name(point.number) == "sendmsg",
        Role::Agent => ["sendmsg", "recvmsg", "ppoll"].contains(&name(point.number)),
        // Its filter is on: a call that a tracer takes away is one that it refuses.
        Role::Entry => name(point.number) == "recvmsg",
        _ => false,
    }
}

fn judge(planned: &Planned, run: &trace::Run, said: &str) -> Said {
    let mut said = Said::read(said);
    let fault = planned.fault;
    let is_vague = said.outcome.starts_with("AgentLost") || said.outcome.starts_with("TimedOut");
    if is_vague && matches!(fault, Fault::Errno(_)) && !is_speech(&planned.point) {
        said.wrong.push("the error does not name the step".into());
    }
    let killed =
        fault == Fault::KillHost && libc::WIFSIGNALED(run.status) && libc::WTERMSIG(run.status) == libc::SIGKILL;
    if run.hung {
        said.wrong.push("the host does not come to an end".into());
    } else if killed {
        said.outcome = "all ends with it".into();
    } else if said.outcome.is_empty() {
        said.wrong.push(format!("the host ended with {:#x}", run.status));
    }
    if !run.left.is_empty() {
        said.wrong.push(format!("processes are left: {:?}", run.left));
    }
    said
}

/// What came of many.
#[derive(Default)]
struct Tally {
    injected: usize,
    clean: usize,
    /// Calls that were not made again.
    missed: usize,
    left_out: usize,
    outcomes: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

/// What a worker's line begins with that is for the one who counts.
const RECORD: char = '\u{2}';

impl Tally {
    fn print(&self) {
        println!("{RECORD}sum\t{}\t{}\t{}\t{}", self.injected, self.clean, self.missed, self.left_out);
        for (outcome, count) in &self.outcomes {
            println!("{RECORD}outcome\t{count}\t{outcome}");
        }
        for wrong in &self.wrong {
            println!("{RECORD}wrong\t{}", wrong.replace(['\n', '\t'], " "));
        }
    }

    fn add(&mut self, record: &str) {
        let fields: Vec<_> = record.split('\t').collect();
        let number = |index: usize| fields[index].parse::<usize>().unwrap();
        match fields[0] {
            "sum" => {
                self.injected += number(1);
                self.clean += number(2);
                self.missed += number(3);
                self.left_out += number(4);
            }
            "outcome" => *self.outcomes.entry(fields[2].to_owned()).or_default() += number(1),
            _ => self.wrong.push(fields[1].to_owned()),
        }
    }
}

/// Past the harness, which keeps to itself what a test prints that succeeds.
macro_rules! say {
    ($($words:tt)*) => {
        writeln!(std::io::stdout(), $($words)*).unwrap()
    };
}

#[test]
fn every_call_of_a_launch() {
    if common::is_slow() {
        skip!("thousands of launches under ptrace take too long in an emulated machine");
    }
    let name = "every_call_of_a_launch";
    if let Some(part) = std::env::var("STOCKADE_FAULTS_PART").ok().filter(|_| std::env::var("STOCKADE_ALONE").is_ok()) {
        let (part, parts) = part.split_once('/').unwrap();
        return work(part.parse().unwrap(), parts.parse().unwrap()).print();
    }
    // Each is a process of its own, all of whose children are its tracer's.
    let began = Instant::now();
    let parts = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4));
    let temporary: Vec<_> = (0..parts).map(|_| common::directory()).collect();
    let worker = |part: usize| {
        let mut command = common::again(name);
        command.env("TMPDIR", common::open(&temporary[part])).env("STOCKADE_FAULTS_PART", format!("{part}/{parts}"));
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let mut workers: Vec<_> = (0..parts).map(worker).collect();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let readers: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let stdout = std::io::BufReader::new(worker.stdout.take().unwrap());
                scope.spawn(move || {
                    let mut records = vec![];
                    for line in stdout.lines().map_while(Result::ok) {
                        match line.split_once(RECORD) {
                            Some((_, record)) => records.push(record.to_owned()),
                            None => say!("{line}"),
                        }
                    }
                    records
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap().iter().for_each(|record| tally.add(record));
        }
    });
    for mut worker in workers {
        let status = worker.wait().unwrap();
        assert!(status.success(), "{status}");
    }
    for (outcome, count) in &tally.outcomes {
        say!("{count:6}  {outcome}");
    }
    let Tally { injected, clean, missed, left_out, wrong, .. } = tally;
    say!("{missed} calls did not come again; {left_out} faults were left out, evenly, for want of time");
    say!("faults: {injected} injected, {clean} clean, in {:?}", began.elapsed());
    assert!(wrong.is_empty(), "{} are not clean:\n{}", wrong.len(), wrong.join("\n"));
    assert!(injected > 0);
}

/// One worker's life: every so-manieth of all that is planned.
fn work(part: usize, parts: usize) -> Tally {
    let directory = common::directory();
    let program = common::compile(directory.path(), "facts", include_str!("faults/facts.c"), &["-static"]);
    let scenarios = host::scenarios(&program);
    let tracer = Tracer::new();
    let slate = Slate::new();
    let only = std::env::var("STOCKADE_FAULTS").unwrap_or_default();

    let mut planned = vec![];
    let mut expected = vec![];
    for (index, scenario) in scenarios.iter().enumerate() {
        let seen = scenario.go().unwrap();
        assert_eq!(seen.verdict, stockade::Verdict::Exited(0), "{}", scenario.name);
        let again = scenario.go().unwrap();
        assert_eq!(seen.facts, again.facts, "{}: the facts are always the same", scenario.name);
        let listed = tracer.run(None, || slate.write(&host::live(scenario, &seen.facts, false).write()));
        let said = Said::read(&slate.take());
        assert!(said.outcome == "works" && said.wrong.is_empty(), "{}: {said:?} {}", scenario.name, listed.status);
        let faults = plan(index, scenario, &listed.calls);
        if part == 0 {
            println!("{}: {} calls, {} faults", scenario.name, listed.calls.len(), faults.len());
            if only == "list" {
                listed.calls.iter().for_each(|(point, argument)| println!("  {point} {argument:#x}"));
            }
        }
        planned.extend(faults);
        expected.push(seen.facts);
    }
    if part == 0 {
        host::are_not_blind(&program, &expected[0]);
    }
    planned.retain(|planned| title(&scenarios, planned).contains(&only));
    let mut planned: Vec<_> = planned.into_iter().skip(part).step_by(parts).collect();

    let mut tally = Tally::default();
    let run = |planned: &Planned, tally: &mut Tally| {
        let scenario = &scenarios[planned.scenario];
        let start = Instant::now();
        let run = tracer.run(Some((planned.point.clone(), planned.fault)), || {
            let kills = planned.fault == Fault::KillCaller;
            slate.write(&host::live(scenario, &expected[planned.scenario], kills).write());
        });
        let mut said = judge(planned, &run, &slate.take());
        if planned.fault == Fault::KillHost {
            stockade::cgroup::sweep();
        }
        let left = cgroups(run.host);
        if !left.is_empty() {
            said.wrong.push(format!("cgroups are left: {left:?}"));
            stockade::cgroup::sweep();
        }
        if !run.injected {
            tally.missed += 1;
            return;
        }
        tally.injected += 1;
        *tally.outcomes.entry(said.outcome.clone()).or_default() += 1;
        let line = format!("{}: {} [{:?}] {:?}", title(&scenarios, planned), said.outcome, start.elapsed(), said.wrong);
        if !only.is_empty() {
            println!("{line}");
        }
        if said.wrong.is_empty() {
            tally.clean += 1;
        } else {
            tally.wrong.push(line);
        }
    };
    // A few tell how long one takes; if all would take too long it is each second, or third.
    let all = planned.len();
    if only.is_empty() {
        const FEW: usize = 40;
        let mut times: Vec<_> = planned
            .iter()
            .step_by(all.div_ceil(FEW))
            .map(|planned| {
                let began = Instant::now();
                run(planned, &mut Tally::default());
                began.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let needed = 1.2 * times[times.len() / 2] * all as f64;
        let step = (needed / BUDGET.as_secs_f64()).ceil().max(1.0);
        planned = planned.into_iter().step_by(step as usize).collect();
    }
    tally.left_out = all - planned.len();
    planned.iter().for_each(|planned| run(planned, &mut tally));
    tally
}

fn title(scenarios: &[Scenario], planned: &Planned) -> String {
    format!("{} {} {}", scenarios[planned.scenario].name, planned.point, planned.fault)
}
