//! What learn() finds lets the same program run again, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command as Host;
use std::time::{Duration, Instant};

use common::{alone, compile, directory, leaves_nothing, open, scaled};
use stockade::{Child, Command, Layer, Layers, Learned, Limit, Output, Rootfs, Sandbox, Stdio, Support, Verdict};

fn has_landlock() -> bool {
    Support::probe().missing(Layer::Landlock).is_none()
}

/// A root of its own, with the test's directory to write to.
fn sandbox(data: &Path) -> Sandbox {
    Sandbox::new().pid_ns().rootfs(Rootfs::system()).bind_rw(data, "/data")
}

fn strict(sandbox: &Sandbox, learned: &Learned) -> Sandbox {
    sandbox.clone().seccomp(learned.filter()).landlock(learned.rules())
}

fn text(output: &Output) -> String {
    format!(
        "{:?}: {}{}",
        output.outcome.verdict,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn learn(command: &mut Command) -> Learned {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).learn().unwrap()
}

/// Learns a command, runs it again under what was learned, and returns both.
fn twice(sandbox: &Sandbox, prepare: impl Fn(), command: impl Fn(&Sandbox) -> Command) -> (Learned, Output) {
    prepare();
    let learned = learn(&mut command(sandbox));
    assert!(learned.outcome().success(), "{}", text(learned.output()));
    assert_eq!(learned.unknown(), 0, "{}", learned.to_rust());
    prepare();
    let again = command(&strict(sandbox, &learned)).output().unwrap();
    assert!(again.outcome.success(), "{}\n{}", text(&again), learned.to_rust());
    assert_eq!(learned.output().stdout, again.stdout);
    (learned, again)
}

fn sh(script: &str) -> impl Fn(&Sandbox) -> Command {
    move |sandbox| {
        let mut command = sandbox.command("sh");
        command.args(["-c", script]);
        command
    }
}

fn python(script: &str) -> impl Fn(&Sandbox) -> Command {
    move |sandbox| {
        let mut command = sandbox.command("python3");
        command.args(["-c", script]);
        command
    }
}

fn has(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists()
}

#[test]
fn a_file_that_was_read_and_no_other() {
    if !has_landlock() {
        skip!("no Landlock");
    }
    let data = directory();
    for name in ["seen", "unseen"] {
        fs::write(data.path().join(name), name).unwrap();
    }
    let sandbox = sandbox(data.path());
    let cat = |name: &'static str| {
        move |sandbox: &Sandbox| {
            let mut command = sandbox.command("cat");
            command.arg(format!("/data/{name}"));
            command
        }
    };
    let (learned, again) = twice(&sandbox, || {}, cat("seen"));
    assert_eq!(again.stdout, b"seen");
    let source = learned.to_rust();
    assert!(source.contains(".path(\"/data/seen\", Access::READ_FILE)"), "{source}");
    assert!(source.contains(".allow(\"read\")") && !source.contains("WRITE_FILE"), "{source}");

    let refused = cat("unseen")(&strict(&sandbox, &learned)).output().unwrap();
    assert!(text(&refused).contains("Exited(1)") && text(&refused).contains("Permission denied"), "{}", text(&refused));
    // The twin, without the rules.
    let allowed = cat("unseen")(&sandbox.clone().seccomp(learned.filter())).output().unwrap();
    assert_eq!(allowed.stdout, b"unseen", "{}", text(&allowed));
}

#[test]
fn a_call_that_was_not_made_is_refused() {
    let data = directory();
    let sandbox = sandbox(data.path());
    let learned = learn(&mut sandbox.command("true"));
    let mkdir = |sandbox: &Sandbox| sandbox.command("mkdir").arg("/tmp/new").output().unwrap().outcome.verdict;
    let filtered = mkdir(&sandbox.clone().seccomp(learned.filter()));
    assert!(matches!(filtered, Verdict::SyscallDenied(_)), "{filtered:?}");
    assert_eq!(mkdir(&sandbox), Verdict::Exited(0));
    // Also where the filter is another's already: it is not in force while learning.
    let pure = sandbox.clone().seccomp(learned.filter());
    let more = learn(pure.command("mkdir").arg("/tmp/new"));
    assert!(more.outcome().success() && more.to_rust().contains("\"mkdir\""), "{}", more.to_rust());
}

#[test]
fn files_that_come_and_go() {
    if !has_landlock() {
        skip!("no Landlock");
    }
    let data = directory();
    open(&data);
    let sandbox = sandbox(data.path());
    let (learned, _) = twice(&sandbox, || {}, sh("echo x > /tmp/y; mv /tmp/y /tmp/z; rm /tmp/z; cat /proc/self/comm"));
    let source = learned.to_rust();
    for (path, access) in [("/tmp", "MAKE_REG"), ("/tmp", "REMOVE_FILE"), ("/proc", "READ_FILE")] {
        let line = source.lines().find(|line| line.contains(&format!("{path:?}"))).unwrap_or_default();
        assert!(line.contains(access), "{path}: {source}");
    }
    assert!(!source.contains("/tmp/"), "what was made has no rule of its own: {source}");
    // Elsewhere nothing can be made.
    let elsewhere = sh("echo x > /data/y")(&strict(&sandbox, &learned)).output().unwrap();
    assert!(!elsewhere.outcome.success() && !data.path().join("y").exists(), "{}", text(&elsewhere));
    let control = sh("echo x > /data/y")(&sandbox).output().unwrap();
    assert!(control.outcome.success() && data.path().join("y").exists(), "{}", text(&control));
}

#[test]
fn from_one_directory_to_another() {
    if !has_landlock() {
        skip!("no Landlock");
    }
    let data = directory();
    open(&data);
    let prepare = || {
        for name in ["in", "out"] {
            let _ = fs::remove_dir_all(data.path().join(name));
            fs::create_dir(data.path().join(name)).unwrap();
        }
        fs::write(data.path().join("in/file"), "1").unwrap();
        fs::write(data.path().join("in/other"), "2").unwrap();
    };
    // More is done where it comes to than where it came from, which Landlock refuses to let anybody gain by a move.
    let script = "mv /data/in/file /data/out/file && echo more >> /data/out/file && cat /data/out/file && \
                  ln /data/in/other /data/out/linked && cat /data/out/linked && rm /data/out/file";
    let (learned, again) = twice(&sandbox(data.path()), prepare, sh(script));
    assert_eq!(again.stdout, b"1more\n2");
    assert!(learned.to_rust().contains("Access::REFER"), "{}", learned.to_rust());
}

#[test]
fn each_way_to_make_and_remove() {
    if !has_landlock() || !has("python3") {
        skip!("no Landlock, or no python3");
    }
    let data = directory();
    open(&data);
    let prepare = || {
        for entry in fs::read_dir(data.path()).unwrap().flatten() {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
        fs::write(data.path().join("old"), "some text").unwrap();
        std::os::unix::fs::symlink("old", data.path().join("to-old")).unwrap();
    };
    let script = r#"
import os, socket
os.chdir("/data")
os.mkdir("dir"); os.rmdir("dir")
os.mkdir("dir"); os.rename("dir", "dir2"); print(os.listdir("dir2")); open("dir2/a", "w").close(); print(os.listdir("dir2"))
os.symlink("dir2/a", "link"); print(open("link").read()); open("link", "w").write("new"); os.remove("link")
os.symlink("dir2/b", "dangling"); open("dangling", "w").close(); print(os.path.exists("dir2/b"))
os.mkfifo("fifo"); os.unlink("fifo")
os.truncate("to-old", 4)
print(open("to-old").read())
fd = os.open("old", os.O_RDWR); os.ftruncate(fd, 2); print(os.read(fd, 10))
fd = os.open("dir2", os.O_RDONLY | os.O_DIRECTORY); print(open("a", opener=lambda p, f: os.open(p, f, dir_fd=fd)).read())
fd = os.open("/tmp", os.O_RDWR | os.O_TMPFILE); os.write(fd, b"nameless")
os.link(f"/proc/self/fd/{fd}", "/tmp/named", src_dir_fd=os.open("/", os.O_PATH), follow_symlinks=True); print(open("/tmp/named").read())
print(open(f"/proc/self/fd/{fd}").read(), open("/dev/fd/%d" % os.open("to-old", os.O_RDONLY)).read())
print(open("/data/../data/./to-old").read(), open("/proc/self/root/data/old").read(), open("/proc/self/cwd/old").read())
s = socket.socket(socket.AF_UNIX); s.bind("/tmp/sock"); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect("/tmp/sock")
try: os.mkdir("/usr/lib/new")
except OSError as e: print("read-only" if e.errno == 30 else e)
try: open("/nowhere")
except FileNotFoundError: print("nowhere")
"#;
    let (learned, _) = twice(&sandbox(data.path()), prepare, python(script));
    let source = learned.to_rust();
    for right in ["MAKE_DIR", "REMOVE_DIR", "MAKE_SYM", "MAKE_FIFO", "MAKE_SOCK", "TRUNCATE"] {
        assert!(source.contains(right), "{right}: {source}");
    }
    assert!(!source.contains("/nowhere") && !source.contains("\"/usr/lib\","), "{source}");
}

#[test]
fn programs_of_every_day() {
    if !has_landlock() || !has("python3") || !has("gcc") {
        skip!("no Landlock, no python3 or no gcc");
    }
    let data = directory();
    open(&data);
    let sandbox = sandbox(data.path());
    let (_, again) = twice(&sandbox, || {}, python("print(sum(range(10)))"));
    assert_eq!(again.stdout, b"45\n");

    fs::write(data.path().join("a.c"), "#include <stdio.h>\nint main(void) { puts(\"built\"); return 0; }\n").unwrap();
    let gcc = |sandbox: &Sandbox| {
        let mut command = sandbox.command("gcc");
        command.args(["-O1", "-o", "/tmp/a", "/data/a.c"]);
        command
    };
    twice(&sandbox, || {}, gcc);
    // And a program that was made by the run itself.
    let (learned, again) = twice(&sandbox, || {}, sh("gcc -o /tmp/a /data/a.c && /tmp/a"));
    assert_eq!(again.stdout, b"built\n", "{}", learned.to_rust());
}

#[test]
fn interpreters() {
    if !has_landlock() {
        skip!("no Landlock");
    }
    use std::os::unix::fs::PermissionsExt as _;
    let data = directory();
    for (name, content) in [("one", "#!/data/two\n"), ("two", "#! /bin/sh -e\necho script\n")] {
        fs::write(data.path().join(name), content).unwrap();
        fs::set_permissions(data.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let sandbox = sandbox(data.path());
    let (learned, _) = twice(&sandbox, || {}, |sandbox| sandbox.command("/data/one"));
    assert!(learned.to_rust().contains("/data/two"), "{}", learned.to_rust());
    // By the shell, and from the working directory.
    twice(&sandbox, || {}, sh("cd /data && ./one"));
    twice(&sandbox.current_dir("/data"), || {}, |sandbox| sandbox.command("./one"));
}

#[test]
fn ports() {
    if !has("python3") {
        skip!("no python3");
    }
    let script = |port: u16| {
        format!(
            "import socket\ns = socket.socket(); s.bind(('127.0.0.1', {port})); s.listen()\n\
             c = socket.create_connection(('127.0.0.1', {port})); print('connected')\n\
             u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 99 + {port}))"
        )
    };
    let data = directory();
    let sandbox = sandbox(data.path()).net_ns().best_effort(Layers::LANDLOCK);
    let (learned, _) = twice(&sandbox, || {}, python(&script(4000)));
    let source = learned.to_rust();
    assert!(source.contains(".tcp_bind(4000)") && source.contains(".tcp_connect(4000)"), "{source}");
    assert!(!source.contains("4099"), "UDP has no rules: {source}");
    let other = python(&script(4001))(&strict(&sandbox, &learned)).output().unwrap();
    let report = strict(&sandbox, &learned).prepare().unwrap();
    let restricted = !report.report().notes().iter().any(|note| note.contains("TCP"));
    assert_eq!(other.outcome.success(), !restricted || !has_landlock(), "{}", text(&other));
}

const THREADS: &str = r#"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void *look(void *number) {
    char path[64];
    sprintf(path, "/data/%ld", (long)number);
    int fd = open(path, O_RDONLY);
    if (fd < 0) _exit(9);
    close(fd);
    return 0;
}
int main(int count, char **args) {
    int threads = atoi(args[1]), forks = atoi(args[2]);
    pthread_t *all = calloc(threads, sizeof *all);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    for (long i = 0; i < threads; i++) if (pthread_create(&all[i], &attributes, look, (void *)i)) return 8;
    for (long i = 0; i < threads; i++) pthread_join(all[i], 0);
    for (long i = 0; i < forks; i++) {
        if (fork() == 0) { look((void *)(threads + i)); _exit(0); }
    }
    int status, failed = 0;
    while (wait(&status) > 0) failed |= status;
    return failed != 0;
}
"#;

#[test]
fn threads_and_forks() {
    if !has_landlock() {
        skip!("no Landlock");
    }
    let data = directory();
    let (threads, forks) = (scaled(1000), scaled(100));
    compile(data.path(), "threads", THREADS, &["-pthread"]);
    for number in 0..threads + forks {
        fs::write(data.path().join(number.to_string()), "").unwrap();
    }
    let run = |sandbox: &Sandbox| {
        let mut command = sandbox.command("/data/threads");
        command.args([threads.to_string(), forks.to_string()]);
        command
    };
    let (learned, _) = twice(&sandbox(data.path()), || {}, run);
    for number in [0, threads - 1, threads, threads + forks - 1] {
        assert!(learned.to_rust().contains(&format!("\"/data/{number}\"")), "{number}");
    }
    // All of them in one rule.
    let folded = learned.clone().fold("/data").fold("/usr");
    let source = folded.to_rust();
    assert_eq!(source.matches("\"/data").count(), 1, "{source}");
    assert!(source.contains(".path(\"/data\", Access::EXECUTE | Access::READ_FILE)"), "{source}");
    let again = run(&strict(&sandbox(data.path()), &folded)).output().unwrap();
    assert!(again.outcome.success(), "{}", text(&again));
}

const HOSTILE: &str = r##"
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
static char path[64] = "/tmp/a/b/file";
static volatile int over;
static void *flip(void *nothing) {
    while (!over) {
        memcpy(path, "/data/paswd\0\0\0", 14);
        rename("/tmp/a", "/tmp/c");
        symlink("/proc/self/root/..", "/tmp/a");
        unlink("/tmp/a");
        rename("/tmp/c", "/tmp/a");
        memcpy(path, "/tmp/a/b/file", 14);
    }
    return 0;
}
int main(void) {
    mkdir("/tmp/a", 0755); mkdir("/tmp/a/b", 0755); close(open("/tmp/a/b/file", O_CREAT | O_WRONLY, 0644));
    pthread_t thread;
    pthread_create(&thread, 0, flip, 0);
    for (int i = 0; i < 2000; i++) {
        int fd = open(path, O_RDONLY);
        if (fd >= 0) { openat(fd, "../../..", O_RDONLY | O_DIRECTORY); close(fd); }
        open("/tmp/a/b/../../../../../../data/paswd", O_RDONLY);
        open("/proc/self/fd/0/../../x", O_RDONLY);
    }
    over = 1;
    pthread_join(thread, 0);
    /* Pointers to nothing. */
    for (long at = -3; at < 3; at++) {
        long where = at * 4096 + (at & 1) * 4095;
        syscall(SYS_openat, AT_FDCWD, where, O_RDWR | O_CREAT, 0644);
        syscall(SYS_openat2, AT_FDCWD, "x", where, 24);
        syscall(SYS_openat2, AT_FDCWD, where, where, ~0UL);
        syscall(SYS_renameat2, where, where, where, where, where);
        syscall(SYS_execveat, where, where, 0, 0, AT_EMPTY_PATH);
        syscall(SYS_execve, where, where, where);
        syscall(SYS_bind, where, where, where);
        syscall(SYS_connect, 0, where, ~0UL);
        syscall(SYS_ioctl, where, where, where);
        syscall(SYS_linkat, where, where, where, where, where);
        syscall(SYS_ftruncate, where, where);
        syscall(SYS_mknodat, where, where, where, where);
    }
    /* A string of 4 GiB, one that ends where the mapping does, and one that does not end there. */
    unsigned long size = 1UL << 32;
    char *long_one = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (long_one == MAP_FAILED) return 3;
    memset(long_one, '/', 1 << 20);
    open(long_one, O_RDONLY);
    char *edge = long_one + size - 12;
    memcpy(edge, "/data/paswd", 12);
    if (open(edge, O_RDONLY) < 0) return 4;
    memset(edge, 'x', 12);
    open(edge, O_RDONLY | O_CREAT, 0644);
    memset(long_one, 0, 1 << 20);
    for (int i = 0; i < 1000; i++) memcpy(long_one + 4 * i, "/../", 4);
    open(long_one, O_RDONLY);
    for (int i = 0; i < 1000; i++) memcpy(long_one + 4 * i, "./a/", 4);
    open(long_one, O_RDONLY | O_CREAT, 0644);
    /* Links to themselves, and a script that is its own interpreter. */
    symlink("loop", "/tmp/loop"); open("/tmp/loop/x", O_RDONLY); open("/tmp/loop", O_RDONLY | O_CREAT, 0644);
    int fd = open("/tmp/self", O_CREAT | O_WRONLY, 0755);
    write(fd, "#!/tmp/self\n", 12); close(fd); execl("/tmp/self", "self", (char *)0);
    fd = open("/tmp/elf", O_CREAT | O_WRONLY, 0755);
    char head[64] = "\177ELF\2\1\1"; memset(head + 32, 0xff, 32);
    head[54] = 56; head[55] = 0;
    write(fd, head, 64); close(fd); execl("/tmp/elf", "elf", (char *)0);
    /* Names that are not meant to be written down. */
    close(open("/data/new\nline \"quoted\" \\ \033[31m", O_RDONLY));
    close(open("/data/\xff\xfe'", O_RDONLY));
    /* A fifo that nobody writes to, executed. */
    mkfifo("/tmp/fifo", 0755); execl("/tmp/fifo", "fifo", (char *)0);
    /* A directory that is no more. */
    mkdir("/tmp/gone", 0755); chdir("/tmp/gone"); rmdir("/tmp/gone");
    open("x", O_RDONLY | O_CREAT, 0644); open("..", O_RDONLY); open(".", O_RDONLY);
    puts("done");
    return 0;
}
"##;

#[test]
fn a_program_that_plays_tricks() {
    let data = directory();
    compile(data.path(), "hostile", HOSTILE, &["-pthread", "-w"]);
    let odd: [&[u8]; 2] = [b"new\nline \"quoted\" \\ \x1b[31m", b"\xff\xfe'"];
    fs::write(data.path().join("paswd"), "").unwrap();
    for name in odd {
        fs::write(data.path().join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
    }
    let sandbox = sandbox(data.path()).wall_time_limit(Duration::from_secs(120));
    let learned = learn(&mut sandbox.command("/data/hostile"));
    assert_eq!(learned.output().stdout, b"done\n", "{}", text(learned.output()));
    let source = learned.to_rust();
    assert!(source.contains(r#".path("/data/new\nline \"quoted\" \\ \u{1b}[31m", Access::READ_FILE)"#), "{source}");
    assert!(source.contains(r#"b"/data/\xff\xfe\'""#), "{source}");
    assert!(source.contains("\"/data/paswd\""), "{source}");
    compiles(&learned);
}

/// Compiles the source that was learned, and compares what it makes with what was learned.
fn compiles(learned: &Learned) {
    let dependencies = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let libraries = fs::read_dir(&dependencies).unwrap().flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libstockade-") && name.ends_with(".rlib")
    });
    let newest: Option<PathBuf> = libraries.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    let Some(library) = newest else {
        return common::note_skip("the library is not beside the tests: what was learned is not compiled");
    };
    let work = directory();
    fs::write(work.path().join("learned.rs"), learned.to_rust()).unwrap();
    let main = "mod learned;\nfn main() { print!(\"{:?}\\n{:?}\", learned::filter(), learned::rules()); }\n";
    fs::write(work.path().join("main.rs"), main).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Host::new(rustc)
        .args(["--edition=2024", "-Dwarnings", "main.rs", "-o", "main", "-L"])
        .arg(format!("dependency={}", dependencies.display()))
        .args(["--extern", &format!("stockade={}", library.display())])
        .current_dir(work.path())
        .output()
        .unwrap();
    assert!(built.status.success(), "{}\n{}", String::from_utf8_lossy(&built.stderr), learned.to_rust());
    let printed = Host::new(work.path().join("main")).output().unwrap();
    let expected = format!("{:?}\n{:?}", learned.filter(), learned.rules());
    assert_eq!(String::from_utf8_lossy(&printed.stdout), expected);
}

#[test]
fn in_rust() {
    let data = directory();
    let sandbox = sandbox(data.path()).net_ns();
    compiles(&learn(&mut sandbox.command("true")));
    if has("python3") {
        compiles(&learn(&mut python("import socket\nsocket.socket().bind(('', 80 * 100))")(&sandbox)));
    }
}

#[test]
fn limits_hold_and_what_was_seen_stays() {
    let data = directory();
    let sandbox = sandbox(data.path());
    let started = Instant::now();
    let learned = learn(sandbox.clone().wall_time_limit(Duration::from_millis(500)).command("sleep").arg("1000"));
    assert_eq!(learned.outcome().verdict, Verdict::LimitExceeded(Limit::WallTime));
    assert!(started.elapsed() < Duration::from_secs(60));
    let source = learned.to_rust();
    assert!(source.contains("nanosleep") && source.contains("restart_syscall"), "{source}");
    assert!(!source.contains("exit_group"), "it never came to that: {source}");
    if !has_landlock() {
        skip!("no Landlock");
    }
    // With its end from another run it is complete.
    let whole = learned.merge(learn(sandbox.command("sleep").arg("0")));
    let again = strict(&sandbox, &whole).command("sleep").arg("0.2").output().unwrap();
    assert!(again.outcome.success(), "{}", text(&again));
}

#[test]
fn in_sandboxes_of_all_kinds() {
    if !has_landlock() {
        skip!("no Landlock");
    }
    let data = directory();
    let system = || Sandbox::new().rootfs(Rootfs::system());
    let kinds = [
        ("nothing", Sandbox::new()),
        ("user namespace", Sandbox::new().user_ns()),
        ("no PID namespace", system()),
        ("PID 1", system().as_pid_1()),
        ("all namespaces", common::all_namespaces()),
        ("hardened", Sandbox::hardened()),
        ("no network", Sandbox::new().pid_ns().no_network()),
        ("read-only", sandbox(data.path()).bind_ro(data.path(), "/data")),
    ];
    for (name, sandbox) in kinds {
        let learned = learn(sandbox.command("ls").arg("/usr"));
        assert!(learned.outcome().success(), "{name}: {}", text(learned.output()));
        assert_eq!(learned.unknown(), 0, "{name}");
        let again = strict(&sandbox, &learned).command("ls").arg("/usr").output().unwrap();
        assert!(again.outcome.success(), "{name}: {}\n{}", text(&again), learned.to_rust());
        let other = strict(&sandbox, &learned).command("ls").arg("/etc").output().unwrap();
        assert!(!other.outcome.success(), "{name}: {}", text(&other));
    }
    // As root without a mount namespace.
    if common::is_root() {
        let root = directory();
        for name in ["usr", "lib", "lib64", "bin"] {
            let _ = fs::create_dir(root.path().join(name));
        }
        compile(
            root.path(),
            "static",
            "#include <fcntl.h>\nint main(void) { return open(\"/usr/a\", 0) < 0; }",
            &["-static"],
        );
        fs::write(root.path().join("usr/a"), "").unwrap();
        let sandbox = Sandbox::new().chroot(root.path());
        let learned = learn(&mut sandbox.command("/static"));
        assert_eq!(learned.outcome().verdict, Verdict::Exited(0), "{}", text(learned.output()));
        let source = learned.to_rust();
        assert!(source.contains("\"/usr/a\"") && source.contains("\"/static\""), "{source}");
        assert!(strict(&sandbox, &learned).command("/static").status().unwrap().success());
    }
}

#[test]
fn no_network_holds_while_learning() {
    if !has("python3") {
        skip!("no python3");
    }
    let script = "import socket\ntry: socket.socket()\nexcept OSError as e: print(e.errno)\nelse: print('made')";
    let run =
        |sandbox: Sandbox| String::from_utf8(learn(&mut python(script)(&sandbox)).output().stdout.clone()).unwrap();
    assert_eq!(run(Sandbox::new().no_network()), "97\n");
    assert_eq!(run(Sandbox::new()), "made\n");
}

#[test]
fn from_what_is_prepared() {
    let prepared = Sandbox::new().pid_ns().prepare().unwrap();
    let learned = learn(&mut prepared.command("true"));
    assert!(learned.outcome().success());
    // The command itself is as it was.
    let mut command = prepared.command("true");
    learn(&mut command);
    let child: Child = command.spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_executed() {
    let sandbox = Sandbox::new().pid_ns();
    let error = sandbox.command("/no/such/program").learn().unwrap_err();
    assert!(matches!(error, stockade::Error::Exec { .. }), "{error}");
}

#[test]
fn nothing_is_left() {
    alone("nothing_is_left", || {
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        leaves_nothing("learn", || {
            let sandbox = Sandbox::new().pid_ns().wall_time_limit(Duration::from_millis(if common::is_slow() {
                6000
            } else {
                400
            }));
            assert!(learn(&mut sandbox.command("true")).outcome().success());
            let learned = learn(sandbox.command("sh").args(["-c", "sleep 1000 & sleep 1000"]));
            assert_eq!(learned.outcome().verdict, Verdict::LimitExceeded(Limit::WallTime));
            sandbox.command("/no/such/program").learn().unwrap_err();
            // Without a PID namespace, what goes on in the background.
            let loose = Sandbox::new();
            assert!(learn(loose.command("sh").args(["-c", "sleep 1000 & true"])).outcome().success());
        });
        assert_eq!(threads(), before);
    });
}

#[test]
fn what_leads_out_of_the_sandbox_is_counted() {
    let data = directory();
    fs::write(data.path().join("outside"), "outside").unwrap();
    let sandbox = Sandbox::new().pid_ns().rootfs(Rootfs::system());
    let mut command = sandbox.command("cat");
    command.arg("/dev/fd/7/outside").fd(7, fs::File::open(data.path()).unwrap());
    let learned = learn(&mut command);
    assert_eq!(learned.output().stdout, b"outside", "{}", text(learned.output()));
    assert!(learned.unknown() > 0 && !learned.to_rust().contains("outside"), "{}", learned.to_rust());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_x32_end_the_program() {
    let data = directory();
    compile(data.path(), "x32", "#include <unistd.h>\nint main(void) { syscall(0x40000000 + 39); return 0; }", &["-w"]);
    let learned = learn(&mut sandbox(data.path()).command("/data/x32"));
    let verdict = &learned.outcome().verdict;
    assert!(matches!(verdict, Verdict::Signaled(signal) if signal.number() == 9), "{verdict:?}");
    assert!(!learned.to_rust().contains("_u32"), "{}", learned.to_rust());
}

#[test]
fn not_in_a_container_that_is_there_already() {
    let container = Sandbox::new().pid_ns().start().unwrap();
    let error = container.command("true").learn().unwrap_err();
    assert!(matches!(error, stockade::Error::Invalid { setting: "learn", .. }), "{error}");
}
