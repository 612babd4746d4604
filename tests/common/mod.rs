//! What the tests share: lanes and skips, processes of their own, and counting what is left.
#![allow(dead_code)] // each test binary uses a part of it
#![allow(unsafe_code)] // fork, filters and signal dispositions, which have no safe wrapper
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stockade::{Namespaces, Output, Sandbox};

/// Says that this lane cannot run the test, and why. What is skipped is written to `$STOCKADE_SKIPS`, if that is set, so
/// that CI can see to it that every test ran in some lane.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::common::note_skip(&format!($($reason)*));
        return;
    }};
}

pub fn note_skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let binary =
        std::env::current_exe().ok().and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    let binary = binary.unwrap_or_default();
    let binary = binary.rsplit_once('-').map_or(binary.as_str(), |(name, _)| name);
    println!("skipped: {reason}");
    if let Some(file) = std::env::var_os("STOCKADE_SKIPS") {
        let mut file = fs::File::options().append(true).create(true).open(file).expect("STOCKADE_SKIPS can be written");
        writeln!(file, "{binary} {test}\t{reason}").expect("STOCKADE_SKIPS can be written");
    }
}

/// In a virtual machine under emulation, where a launch takes many times as long.
pub fn is_slow() -> bool {
    std::env::var_os("STOCKADE_SLOW").is_some()
}

/// How often to do something that is done often, on this machine.
pub fn scaled(times: usize) -> usize {
    if is_slow() { times / 30 } else { times }
}

/// Whatever the launch does differently: with an agent inside, outside, with capabilities to give up, without; and the way to
/// a number that the host knows.
pub fn kinds() -> Vec<(&'static str, Sandbox)> {
    let mut kinds = vec![
        ("plain", Sandbox::new()),
        ("pid_ns", Sandbox::new().pid_ns()),
        ("user_ns", Sandbox::new().user_ns().pid_ns()),
        ("pid 1", Sandbox::new().as_pid_1()),
        ("new privileges", Sandbox::new().user_ns().allow_new_privileges()),
        ("all", all_namespaces().uid(1000)),
    ];
    if is_root() {
        kinds.push(("uid", Sandbox::new().uid(1000)));
        kinds.push(("uid, new privileges", Sandbox::new().uid(1000).pid_ns().allow_new_privileges()));
    }
    kinds
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether `/etc/subuid` gives this user ids, and newuidmap is there to map them.
pub fn has_subordinate_ids() -> bool {
    stockade::Support::probe().missing(stockade::Layer::IdRanges).is_none()
}

pub fn all_namespaces() -> Sandbox {
    Sandbox::new().user_ns().pid_ns().mount_ns().net_ns().ipc_ns().uts_ns().cgroup_ns().time_ns()
}

pub const EVERY_NAMESPACE: [Namespaces; 8] = [
    Namespaces::USER,
    Namespaces::PID,
    Namespaces::MOUNT,
    Namespaces::NET,
    Namespaces::IPC,
    Namespaces::UTS,
    Namespaces::CGROUP,
    Namespaces::TIME,
];

pub fn with_namespace(sandbox: Sandbox, namespace: Namespaces) -> Sandbox {
    match namespace {
        Namespaces::USER => sandbox.user_ns(),
        Namespaces::PID => sandbox.pid_ns(),
        Namespaces::MOUNT => sandbox.mount_ns(),
        Namespaces::NET => sandbox.net_ns(),
        Namespaces::IPC => sandbox.ipc_ns(),
        Namespaces::UTS => sandbox.uts_ns(),
        Namespaces::CGROUP => sandbox.cgroup_ns(),
        _ => sandbox.time_ns(),
    }
}

/// Runs a shell script in a sandbox.
pub fn sh(sandbox: &Sandbox, script: &str) -> Output {
    sandbox.command("/bin/sh").args(["-c", script]).output().unwrap_or_else(|error| panic!("{script}: {error}"))
}

/// What a script prints to stdout; it must succeed.
pub fn says(sandbox: &Sandbox, script: &str) -> String {
    let output = sh(sandbox, script);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.outcome.success(), "{script}: {:?}: {stdout}{stderr}", output.outcome.verdict);
    stdout.trim_end().to_owned()
}

/// Whether a script succeeds.
pub fn works(sandbox: &Sandbox, script: &str) -> bool {
    sh(sandbox, script).outcome.success()
}

/// A directory of the test's own, which every user may enter.
pub fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("stockade-test-").tempdir().expect("a directory for the test");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    directory
}

/// Something to find a process by in a process list.
pub fn marker(name: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    format!("stockade-marker-{name}-{}-{}", std::process::id(), now.as_nanos())
}

/// Processes that have the marker in their arguments and are alive; zombies are not.
pub fn alive(marker: &str) -> Vec<u32> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(marker) && !is_zombie(pid) {
            found.push(pid);
        }
    }
    found
}

/// Whether a process has ended, and is not reaped.
pub fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// A script that only sleeps, and can be found by its marker.
pub fn sleeper(marker: &str) -> String {
    format!("sleep 1000 & sleep 1000 & sleep 1000; : {marker}")
}

/// Waits until a condition holds.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    condition()
}

/// What a process has that could leak.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Belongings {
    pub descriptors: Vec<String>,
    pub children: Vec<String>,
    pub mounts: usize,
    pub files: usize,
}

/// Counts, when all is quiet. Only in a test that runs [`alone`].
pub fn belongings() -> Belongings {
    let descriptors = fs::read_dir("/proc/self/fd").expect("procfs");
    let mut descriptors: Vec<String> = descriptors
        .flatten()
        .filter_map(|entry| {
            Some(format!("{} {}", entry.file_name().display(), fs::read_link(entry.path()).ok()?.display()))
        })
        .filter(|entry| !entry.contains("/proc/"))
        .collect();
    descriptors.sort();
    let children = fs::read_dir("/proc/self/task").expect("procfs").flatten().flat_map(|task| {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs").lines().count();
    let files = fs::read_dir(std::env::temp_dir()).expect("a temporary directory").count();
    Belongings { descriptors, children: children.collect(), mounts, files }
}

/// Runs the body in a process of its own, alone, with a private TMPDIR: for tests that count what the process has, or
/// that change it. `name` is the test's.
pub fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(name) {
        return body();
    }
    let temporary = directory();
    let output = again(name).env("TMPDIR", open(&temporary)).output().expect("the test runs itself");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{name} alone: {}\n{text}", output.status);
}

/// A directory that every user may write to.
pub fn open(directory: &tempfile::TempDir) -> &Path {
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    directory.path()
}

/// This test binary again, with nothing but one test, in the role that [`alone`] gives it.
pub fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env("STOCKADE_ALONE", name);
    command.stdin(Stdio::null());
    command
}

/// The same from a mount namespace of its own, after a script of sh(1) that ends with `exec "$0" "$@"` or the like.
pub fn again_in_mounts(name: &str, script: &str) -> Command {
    let again = again(name);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(again.get_program()).args(again.get_args());
    command.env("STOCKADE_ALONE", name).stdin(Stdio::null());
    command
}

/// Whether such a run has passed; what it printed.
pub fn passed(output: &std::process::Output) -> (bool, String) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success() && text.contains("1 passed"), text)
}

/// Nothing is left of what the body did, done twice.
pub fn leaves_nothing(what: &str, mut body: impl FnMut()) {
    body();
    let before = belongings();
    body();
    let after = belongings();
    assert_eq!(before, after, "{what}");
}

/// Forks this process. The child runs the body and is gone.
pub fn fork(body: impl FnOnce()) -> i32 {
    // SAFETY: called where the test has one thread besides the harness's, which holds no lock that the body needs.
    match unsafe { libc::fork() } {
        0 => {
            body();
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
        pid => pid,
    }
}

pub fn kill(pid: u32, signal: i32) {
    // SAFETY: plain numbers; the process is one that the test started.
    unsafe { libc::kill(i32::try_from(pid).expect("a pid"), signal) };
}

/// Limits the descriptors of another process; whether that is allowed.
pub fn limit_descriptors(pid: i32, most: u64) -> bool {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: a live record; the process is one that the test started.
    unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) == 0 }
}

pub fn ignore_sigchld() {
    // SAFETY: sets a disposition, no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Reaps any child, as a host with a loop of its own does.
pub fn reap_any() -> bool {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 }
}

/// Puts a filter on this process, as an outer container's: these system calls are answered with `errno`.
pub fn outer_filter(calls: &[i64], errno: i32) {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![instruction(LOAD_NUMBER, 0, 0, 0)];
    for call in calls {
        program.push(instruction(JUMP_IF_EQUAL, 0, 1, u32::try_from(*call).expect("a number")));
        program.push(instruction(RETURN, 0, 0, 0x0005_0000 | u32::try_from(errno).expect("an errno")));
    }
    program.push(instruction(RETURN, 0, 0, 0x7fff_0000));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).expect("short"), filter: program.as_mut_ptr() };
    // SAFETY: the filter outlives the call, which copies it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, 1, 1, &raw const filter)
    };
    assert_eq!(result, 0, "the filter is in place: {}", std::io::Error::last_os_error());
}

/// Compiles a C program for a test.
pub fn compile(directory: &Path, name: &str, source: &str, options: &[&str]) -> std::path::PathBuf {
    let (file, program) = (directory.join(format!("{name}.c")), directory.join(name));
    fs::write(&file, source).expect("the directory is ours");
    let built = Command::new("cc").args(["-O1", "-o"]).args([&program, &file]).args(options).status().expect("cc");
    assert!(built.success(), "{name}.c");
    program
}

/// Runs the body in a process of its own that has a single thread, which a test's never has.
pub fn single_threaded(name: &str, body: impl FnOnce()) {
    alone(name, || {
        let pid = fork(|| {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(1) }
            }
        });
        let mut status = 0;
        // SAFETY: the status is a local.
        let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!((reaped, status), (pid, 0), "the body, in a process with one thread");
    });
}

/// CPU time that all in a cgroup use meanwhile, by perf_event_open(2), in nanoseconds.
pub fn count_cpu_clock(cgroup: &Path, meanwhile: Duration) -> std::io::Result<u64> {
    use std::io::Read as _;
    use std::os::fd::{AsRawFd as _, FromRawFd as _};
    let directory = fs::File::open(cgroup)?;
    // struct perf_event_attr of version 0: type SOFTWARE, size, config CPU_CLOCK; the rest is zero.
    let mut attributes = [0u32; 16];
    attributes[0] = 1;
    attributes[1] = 64;
    let cpus = std::thread::available_parallelism()?.get();
    let mut counters = vec![];
    for cpu in 0..cpus {
        const PID_CGROUP: u64 = 4;
        // SAFETY: the attributes are as long as they say; the descriptor is new.
        unsafe {
            let fd = libc::syscall(
                libc::SYS_perf_event_open,
                attributes.as_ptr(),
                directory.as_raw_fd(),
                cpu,
                -1,
                PID_CGROUP,
            );
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            counters.push(fs::File::from_raw_fd(i32::try_from(fd).expect("a descriptor")));
        }
    }
    std::thread::sleep(meanwhile);
    let mut sum = 0;
    for mut counter in counters {
        let mut count = [0; 8];
        counter.read_exact(&mut count)?;
        sum += u64::from_ne_bytes(count);
    }
    Ok(sum)
}
