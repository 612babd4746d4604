//! Limits of the whole tree, accounts, and the verdicts that are drawn from them; with real programs.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{alone, directory, is_root, says, sh};
use stockade::{CgroupParent, Error, IoLimit, Layer, Layers, Limit, Rootfs, Sandbox, Support, Verdict, cgroup};

const MIB: u64 = 1 << 20;

/// Whether the host can do it at all; if not it must say so, and how to get it.
fn missing(layer: Layer) -> Option<String> {
    let support = Support::probe();
    let missing = support.missing(layer)?;
    assert!(!missing.remedy.is_empty());
    Some(missing.reason.clone())
}

macro_rules! needs {
    ($layer:expr) => {
        if let Some(reason) = missing($layer) {
            skip!("{reason}");
        }
    };
}

/// Eats so many MiB in some way, and says so.
const EATER: &str = r#"
    #define _GNU_SOURCE
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/wait.h>
    #include <unistd.h>
    #include <fcntl.h>
    int main(int argc, char **argv) {
        size_t size = atol(argv[2]) << 20;
        if (!strcmp(argv[1], "touch")) { char *p = malloc(size); for (size_t i = 0; i < size; i += 4096) p[i] = 1; }
        if (!strcmp(argv[1], "shared")) {
            char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            if (!fork()) { for (size_t i = 0; i < size; i += 4096) p[i] = 1; _exit(0); }
            int s; wait(&s); if (s) return 9; }
        if (!strcmp(argv[1], "helper")) {
            if (!fork()) { char *p = malloc(size); for (size_t i = 0; i < size; i += 4096) p[i] = 1; _exit(0); }
            int s; wait(&s); usleep(300000); return 5; }
        if (!strcmp(argv[1], "file")) {
            int f = open(argv[3], O_CREAT | O_WRONLY, 0600); char block[65536]; memset(block, 1, sizeof block);
            for (size_t n = 0; n < size; n += sizeof block) if (write(f, block, sizeof block) != sizeof block) return 8; }
        puts("eaten"); return 0; }"#;

struct Tool {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn tool(name: &str, source: &str) -> Tool {
    let directory = directory();
    let path = common::compile(directory.path(), name, source, &["-static"]);
    Tool { _directory: directory, path }
}

fn with(tool: &Tool, sandbox: Sandbox) -> Sandbox {
    sandbox.rootfs(Rootfs::system()).bind_ro(&tool.path, "/tool")
}

/// The cgroups of this process's making that are there now.
fn left() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            if entry.file_name().to_string_lossy().contains(&format!("-{}-", std::process::id())) {
                found.push(entry.path());
            }
            open.push(entry.path());
        }
    }
    found
}

#[test]
fn memory_of_every_kind() {
    needs!(Layer::Memory);
    let eater = tool("eater", EATER);
    for base in [Sandbox::new().pid_ns(), Sandbox::new().user_ns().pid_ns()] {
        let sandbox = with(&eater, base.memory_limit(64 * MIB)).tmpfs("/scratch", 1 << 30).prepare().unwrap();
        let eat = |how: &str, size: u64| {
            let output = sandbox.command("/tool").args([how, &size.to_string(), "/scratch/file"]).output().unwrap();
            let peak = output.outcome.usage.memory_peak.unwrap();
            assert!(peak <= 64 * MIB, "{how}: a peak of {peak}");
            output
        };
        for how in ["touch", "shared", "file"] {
            let over = eat(how, 100);
            assert_eq!(over.outcome.verdict, Verdict::LimitExceeded(Limit::Memory), "{how}: {over:?}");
            assert!(over.outcome.usage.oom_kills.unwrap() > 0);
            let within = eat(how, 57);
            assert!(within.outcome.success(), "{how}, 90 %: {within:?}");
            assert_eq!(within.outcome.usage.oom_kills, Some(0));
            assert!(within.outcome.usage.memory_peak.unwrap() > 50 * MIB, "{how}: {within:?}");
        }
        // A helper that is ended for want of memory takes all the others along.
        let helper = eat("helper", 100);
        assert_eq!(helper.outcome.verdict, Verdict::LimitExceeded(Limit::Memory), "{helper:?}");
    }
}

#[test]
fn a_limit_that_not_even_the_exec_can_live_with() {
    needs!(Layer::Memory);
    for bytes in [1, 4096, 16384, 65536] {
        let sandbox = Sandbox::new().pid_ns().memory_limit(bytes);
        match sandbox.command("/bin/true").status() {
            Ok(outcome) => assert_eq!(outcome.verdict, Verdict::LimitExceeded(Limit::Memory), "{bytes}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(Sandbox::new().memory_limit(u64::MAX).command("true").status().unwrap().success());
}

#[test]
fn being_killed_is_not_a_lack_of_memory() {
    needs!(Layer::Memory);
    let sandbox = Sandbox::new().pid_ns().memory_limit(64 * MIB);
    assert!(matches!(sh(&sandbox, "kill -KILL $$").outcome.verdict, Verdict::Signaled(_)));
}

#[test]
fn exactly_so_many_tasks() {
    needs!(Layer::Pids);
    let bomb = tool(
        "bomb",
        "#include <stdio.h>\n#include <unistd.h>\nint main(void){int n=1;while(n<1000){int p=fork();if(p==0){pause();}if(p<0)break;n++;}printf(\"%d\",n);return 0;}",
    );
    for count in [1, 5, 40] {
        for base in [Sandbox::new().pid_ns(), Sandbox::new().user_ns().pid_ns(), Sandbox::new().as_pid_1()] {
            let output = with(&bomb, base.pids_limit(count)).command("/tool").output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), count.to_string());
            assert_eq!(output.outcome.verdict, Verdict::Exited(0), "it took the refusal well");
        }
    }
    let endless =
        sh(&Sandbox::new().pid_ns().pids_limit(20).wall_time_limit(Duration::from_secs(1)), "f() { f | f & f; }; f");
    assert_eq!(endless.outcome.verdict, Verdict::LimitExceeded(Limit::Pids), "{endless:?}");
}

#[test]
fn cpu_time_of_the_whole_tree() {
    needs!(Layer::CpuTime);
    // Each process uses little; together they use it up.
    let dodger = "while :; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done) & (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done); wait; done";
    let limit = Duration::from_millis(500);
    let prepared =
        Sandbox::new().pid_ns().cpu_time_limit(limit).wall_time_limit(Duration::from_secs(60)).prepare().unwrap();
    let output = prepared.command("sh").args(["-c", dodger]).output().unwrap();
    assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::CpuTime));
    let used = output.outcome.usage.cpu_time.unwrap();
    // An emulated machine takes that long for a single signal.
    let overshoot = Duration::from_millis(if common::is_slow() { 200 } else { 20 });
    assert!(used >= limit && used <= limit + overshoot, "{used:?}");
    // Who sleeps uses none.
    assert!(prepared.command("sleep").arg("1").status().unwrap().success());
}

#[test]
fn accounts_of_cpu_agree_with_rusage() {
    needs!(Layer::CpuTime);
    let sandbox =
        Sandbox::new().pid_ns().cpu_time_limit(Duration::from_secs(100)).wall_time_limit(Duration::from_secs(2));
    let usage = sh(&sandbox, "while :; do :; done").outcome.usage;
    let (cgroup, rusage) = (usage.cpu_time.unwrap().as_secs_f64(), usage.cpu().as_secs_f64());
    assert!((cgroup - rusage).abs() / rusage <= 0.02, "{cgroup} {rusage}");
}

#[test]
fn bandwidth_of_cpu() {
    needs!(Layer::Cpu);
    let sandbox = Sandbox::new().pid_ns().cpu_limit(0.5).wall_time_limit(Duration::from_secs(2));
    let usage = sh(&sandbox, "while :; do :; done").outcome.usage;
    let share = usage.cpu().as_secs_f64() / usage.wall.as_secs_f64();
    assert!((0.0..=0.525).contains(&share), "{share}");
    assert!(usage.throttled.unwrap() > Duration::from_millis(100), "{usage:?}");
    let burst = Sandbox::new().pid_ns().cpu_limit(0.5).cpu_burst(Duration::from_millis(50));
    assert!(burst.command("true").status().unwrap().success());
    assert!(Sandbox::new().cpu_weight(50).command("true").status().unwrap().success());
}

#[test]
fn limits_can_be_changed_while_it_runs() {
    needs!(Layer::Memory);
    needs!(Layer::Pids);
    let eater = tool("eater", EATER);
    let sandbox = with(&eater, Sandbox::new().pid_ns().memory_limit(16 * MIB).pids_limit(5));
    let run = |change: &dyn Fn(&stockade::Child)| {
        let mut command = sandbox.command("sh");
        command
            .args(["-c", "read x; exec /tool touch 40"])
            .stdin(stockade::Stdio::piped())
            .stdout(stockade::Stdio::null());
        let child = command.spawn().unwrap();
        change(&child);
        std::io::Write::write_all(&mut child.take_stdin().unwrap(), b"go\n").unwrap();
        child.wait().unwrap().verdict
    };
    assert_eq!(run(&|_| {}), Verdict::LimitExceeded(Limit::Memory));
    assert_eq!(run(&|child| child.limits(|limits| limits.memory(64 * MIB)).unwrap()), Verdict::Exited(0));
    // Up, and down again.
    let up_and_down = |child: &stockade::Child| {
        child.limits(|limits| limits.memory(64 * MIB).and_then(|()| limits.memory(20 * MIB))).unwrap();
        child.limits(|limits| limits.pids(7)).unwrap();
        assert!(matches!(child.limits(|limits| limits.cpu(1.0)), Err(Error::Invalid { .. })), "made without");
        assert!(matches!(child.limits(|limits| limits.memory(0)), Err(Error::Invalid { .. })));
    };
    assert_eq!(run(&up_and_down), Verdict::LimitExceeded(Limit::Memory));
    let plain = Sandbox::new().command("sleep").arg("100").spawn().unwrap();
    assert!(matches!(plain.limits(|limits| limits.memory(1 << 30)), Err(Error::Invalid { .. })));
}

#[test]
fn huge_pages() {
    needs!(Layer::Hugetlb);
    // On a hybrid host this one is of version 2, beside the others of version 1.
    for base in [Sandbox::new().pid_ns(), Sandbox::new().user_ns().pid_ns()] {
        let sandbox = base.hugetlb_limit(2 << 20, 4 << 20).pids_limit(10).best_effort(Layers::PIDS);
        let places = says(&sandbox, "cat /proc/self/cgroup");
        let own = places.lines().find(|line| line.contains("hugetlb") || line.starts_with("0::")).unwrap();
        assert!(own.contains("stockade-"), "{places}");
    }
    let error = Sandbox::new().hugetlb_limit(4096, 0).prepare().unwrap_err();
    assert!(matches!(error, Error::Cgroup { .. }), "{error:?}");
}

#[test]
fn sets_of_cpus() {
    needs!(Layer::Cpuset);
    assert_eq!(says(&Sandbox::new().pid_ns().cpuset("0"), "nproc"), "1");
    let nodes = Sandbox::new().pid_ns().cpuset_mems("0");
    assert_eq!(says(&nodes, "grep Mems_allowed_list /proc/self/status | cut -f2"), "0");
    let error = Sandbox::new().cpuset_mems("1000").prepare().unwrap_err();
    assert!(matches!(error, Error::Cgroup { .. }), "{error:?}");
    let error = Sandbox::new().cpuset("4000").prepare().unwrap_err();
    assert!(matches!(error, Error::Cgroup { .. }), "{error:?}");
}

#[test]
fn bandwidth_of_a_disk() {
    needs!(Layer::Io);
    let error = Sandbox::new().io_limit("/no/such/device", IoLimit::new().read_bytes(1)).prepare().unwrap_err();
    assert!(matches!(error, Error::Source { .. }), "{error:?}");
    let error = Sandbox::new().io_limit("/proc", IoLimit::new().read_bytes(1)).prepare().unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    let disk = directory();
    let limited = Sandbox::new().pid_ns().io_limit(disk.path(), IoLimit::new().write_bytes(4 * MIB));
    match limited.prepare() {
        // A tmpfs is on no device.
        Err(Error::Invalid { .. }) => skip!("the temporary directory is on no block device"),
        prepared => {
            let file = disk.path().join("file");
            common::open(&disk);
            let start = Instant::now();
            let arguments = [
                format!("of={}", file.display()),
                "if=/dev/zero".into(),
                "bs=1M".into(),
                "count=8".into(),
                "oflag=direct".into(),
            ];
            let output = prepared.unwrap().command("dd").args(arguments).output().unwrap();
            assert!(output.outcome.success(), "{output:?}");
            assert!(start.elapsed() > Duration::from_millis(1200), "{:?}", start.elapsed());
            assert!(output.outcome.usage.io_write_bytes.unwrap() >= 8 * MIB);
        }
    }
}

#[test]
fn what_makes_no_sense() {
    for (what, sandbox) in [
        ("no memory", Sandbox::new().memory_limit(0)),
        ("swap alone", Sandbox::new().swap_limit(1)),
        ("no pids", Sandbox::new().pids_limit(0)),
        ("no cpu", Sandbox::new().cpu_limit(0.0)),
        ("not a number", Sandbox::new().cpu_limit(f64::NAN)),
        ("a bad list", Sandbox::new().cpuset("all")),
        ("a bad weight", Sandbox::new().cpu_weight(0)),
        ("no cpu time", Sandbox::new().cpu_time_limit(Duration::ZERO)),
        ("no bandwidth", Sandbox::new().io_limit("/", IoLimit::new().read_bytes(0))),
        ("a parent elsewhere", Sandbox::new().pids_limit(5).cgroup_parent(CgroupParent::Path("/tmp".into()))),
    ] {
        let result = sandbox.prepare();
        assert!(matches!(result, Err(Error::Invalid { .. } | Error::Unsupported { .. })), "{what}: {result:?}");
    }
}

#[test]
fn a_parent_by_name() {
    needs!(Layer::Pids);
    if !is_root() {
        skip!("an ordinary user makes cgroups only where they are delegated, and Auto finds that");
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mount = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().find(|path| {
        Path::new(path).join("cgroup.procs").exists() && (path.ends_with("pids") || own.starts_with("0::"))
    });
    let Some(mount) = mount else { skip!("no pids controller where it is looked for") };
    let parent = Path::new(mount).join(format!("stockade-test-parent-{}", std::process::id()));
    fs::create_dir(&parent).unwrap();
    let sandbox = Sandbox::new().pid_ns().pids_limit(10).cgroup_parent(CgroupParent::Path(parent.clone()));
    let child = sandbox.command("sleep").arg("100").spawn().unwrap();
    let inside = fs::read_dir(&parent).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(inside, 1);
    drop(child);
    fs::remove_dir(&parent).unwrap();
    // And when it is gone.
    let error = sandbox.prepare().unwrap_err();
    assert!(matches!(error, Error::Cgroup { .. }), "{error:?}");
}

#[test]
fn a_controller_that_is_missing_is_an_error_unless_named() {
    let sandbox = Sandbox::new().pid_ns().memory_limit(64 * MIB);
    let lenient = sandbox.clone().best_effort(Layers::MEMORY);
    if missing(Layer::Memory).is_some() {
        assert!(matches!(sandbox.prepare(), Err(Error::Unsupported { layer: Layer::Memory, .. })));
        assert!(lenient.command("true").status().unwrap().success());
        assert_eq!(lenient.prepare().unwrap().report().missing().len(), 1);
    } else {
        assert!(lenient.prepare().unwrap().report().in_force().contains(Layers::MEMORY));
    }
}

#[test]
fn runs_leave_no_cgroup_behind() {
    needs!(Layer::Pids);
    alone("runs_leave_no_cgroup_behind", || {
        let sandbox = Sandbox::new().pid_ns().pids_limit(50).cpu_limit(1.0).best_effort(Layers::CPU);
        let prepared = sandbox.prepare().unwrap();
        let mut times = vec![];
        for _ in 0..common::scaled(300) {
            let start = Instant::now();
            assert!(prepared.command("true").status().unwrap().success());
            times.push(start.elapsed());
        }
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times[times.len() / 2]
        };
        let (first, last) = (median(&times[..times.len() / 3]), median(&times[times.len() * 2 / 3..]));
        // A few launches under emulation have no median to speak of.
        assert!(common::is_slow() || last.as_secs_f64() <= 1.5 * first.as_secs_f64(), "{first:?} {last:?}");
        let many: Vec<_> = (0..50).map(|_| prepared.command("sleep").arg("1000").spawn().unwrap()).collect();
        assert!(left().len() >= 50);
        drop(many);
        assert!(prepared.command("/no/such").status().is_err());
        assert_eq!(left(), Vec::<PathBuf>::new());
    });
}

#[test]
fn what_a_killed_host_left_is_swept() {
    const NAME: &str = "what_a_killed_host_left_is_swept";
    needs!(Layer::Pids);
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        let child = Sandbox::new().pid_ns().pids_limit(10).command("sleep").arg("1000").spawn().unwrap();
        println!("\nready");
        let _ = child.wait();
        return;
    }
    let mut host = common::again(NAME).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(host.stdout.take().unwrap()));
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
    let of_host = || {
        let find = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("stockade-*-{}-*", host.id())])
            .output()
            .unwrap();
        String::from_utf8_lossy(&find.stdout).lines().count()
    };
    assert!(of_host() > 0);
    // A live owner's are not touched.
    cgroup::sweep();
    assert!(of_host() > 0);
    common::kill(host.id(), libc::SIGKILL);
    let pid = host.id();
    let mut host_gone = host;
    host_gone.wait().unwrap();
    let gone = || {
        cgroup::sweep();
        let find = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("stockade-*-{pid}-*")])
            .output()
            .unwrap();
        find.stdout.is_empty()
    };
    assert!(common::eventually(Duration::from_secs(2), gone));
}

#[test]
fn the_program_sees_its_cgroup_as_the_root() {
    needs!(Layer::Pids);
    let own = |sandbox: Sandbox| says(&sandbox, "grep -E '^[0-9]+:(pids)?:' /proc/self/cgroup | head -1 | cut -d: -f3");
    let limited = Sandbox::new().pid_ns().pids_limit(20);
    assert_eq!(own(limited.clone().cgroup_ns()), "/");
    assert!(own(limited).contains("stockade-"), "the control: without the namespace it sees where it is");
}

#[test]
fn usage_is_live_for_the_whole_tree() {
    needs!(Layer::Memory);
    let eater = tool("eater", EATER);
    let sandbox =
        with(&eater, Sandbox::new().pid_ns().memory_limit(256 * MIB).pids_limit(20).best_effort(Layers::PIDS));
    let child = sandbox
        .command("sh")
        .args(["-c", "/tool touch 1; dd if=/dev/zero of=/tmp/big bs=1M count=40 2>/dev/null; sleep 1000"])
        .spawn()
        .unwrap();
    assert!(common::eventually(Duration::from_secs(10), || child.usage().unwrap().memory_current.unwrap() > 40 * MIB));
    child.kill().unwrap();
    let usage = child.wait().unwrap().usage;
    assert!(usage.memory_peak.unwrap() > 40 * MIB);
}
