//! The host's way to a sandbox's files: whatever lies there, nothing else is read or written.
//!
//! Every link in here leads to something that the test itself has made, so that code that is broken fails the test and
//! harms nothing else.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{all_namespaces, alone, directory, eventually, is_root, leaves_nothing};
use stockade::files::FileKind;
use stockade::{Capabilities, Child, Container, Error, Files, Overlay, Rootfs, Sandbox, Stdio};

/// Far more than any call may take that does not wait for the program.
const SOON: Duration = Duration::from_secs(30);
const SECRET: &[u8] = b"the host's own";

fn system() -> Sandbox {
    all_namespaces().rootfs(Rootfs::system())
}

fn says(container: &Container, script: &str) -> String {
    let output = container.command("sh").args(["-c", script]).stderr(Stdio::piped()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    assert!(output.outcome.success(), "{script}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A program that runs, for the controls: what plain std::fs does to the same files is tried by way of its root.
struct Inside {
    child: Child,
}

impl Inside {
    fn of(container: &Container) -> Self {
        Self { child: container.command("sleep").arg("1000").spawn().unwrap() }
    }
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.child.id()))
    }
}

fn kind(error: &Error) -> ErrorKind {
    match error {
        Error::File { source, .. } => source.kind(),
        other => panic!("{other}"),
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    kind(&result.unwrap_err())
}

/// What a hostile program does that a shell cannot.
fn hostile(directory: &Path) -> PathBuf {
    common::compile(
        directory,
        "hostile",
        r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/socket.h>
        #include <sys/stat.h>
        #include <sys/un.h>
        #include <unistd.h>
        static void ready(void) { puts("ready"); fflush(stdout); }
        int main(int argc, char **argv) {
            const char *what = argv[1], *a = argv[2], *b = argc > 3 ? argv[3] : "";
            if (!strcmp(what, "socket")) {
                struct sockaddr_un name = { AF_UNIX };
                strcpy(name.sun_path, a);
                return bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name, sizeof name);
            }
            if (!strcmp(what, "lease")) {
                signal(SIGIO, SIG_IGN);
                if (fcntl(open(a, O_RDWR | O_CREAT, 0644), F_SETLEASE, F_WRLCK)) return 1;
                ready();
                for (;;) pause();
            }
            if (!strcmp(what, "swap")) {
                ready();
                for (;;) renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
            }
            if (!strcmp(what, "grow")) {
                int f = open(a, O_WRONLY | O_CREAT | O_APPEND, 0644);
                static char block[4096];
                ready();
                for (;;) if (write(f, block, sizeof block) < 0) ftruncate(f, 0);
            }
            if (!strcmp(what, "fill")) {
                char name[64];
                ready();
                for (long i = 0;; i++) { snprintf(name, sizeof name, "%s/%ld", a, i); mkdir(name, 0755); }
            }
            if (!strcmp(what, "many")) {
                char name[64];
                for (long i = 0; i < atol(b); i++) {
                    snprintf(name, sizeof name, "%s/%ld", a, i);
                    if (i % 10 ? close(open(name, O_WRONLY | O_CREAT, 0644)) : mkdir(name, 0755)) return 1;
                }
                return 0;
            }
            if (!strcmp(what, "deep")) {
                for (long i = 0; i < atol(b); i++) {
                    if (mkdir("a-directory", 0755) || chdir("a-directory")) return 1;
                    close(open("file", O_WRONLY | O_CREAT, 0644));
                }
                return 0;
            }
            return 2;
        }"#,
        &["-static"],
    )
}

/// Runs it until the child is dropped; it says when it is at it.
fn at_work(container: &Container, arguments: &[&str]) -> Child {
    let mut command = container.command("/hostile");
    let child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    child.take_stdout().unwrap().read_exact(&mut [0; 6]).unwrap();
    child
}

/// The roots that there are, each with the right to write to it.
fn kinds_of_sandbox(lower: &Path) -> Vec<(&'static str, Sandbox)> {
    let mut all = vec![
        ("all namespaces", system()),
        ("another user", system().uid(7)),
        ("uid 0", system().uid(0)),
        ("no user namespace unless it must be", Sandbox::new().rootfs(Rootfs::system())),
    ];
    if is_root() {
        all.push(("another user of the host", Sandbox::new().rootfs(Rootfs::system()).uid(1234)));
    }
    if overlays() {
        let layers = ["/usr", "/bin", "/lib", "/lib64"].iter().filter(|path| Path::new(path).exists());
        // What the host's root has is nobody's in a user namespace, and cannot be written to there.
        let base = if is_root() { Sandbox::new() } else { all_namespaces() };
        let overlay = base.rootfs(Rootfs::overlay(Overlay::new(lower)));
        all.push(("an overlay", layers.fold(overlay, |sandbox, path| sandbox.bind_ro(path, path))));
    }
    all
}

fn overlays() -> bool {
    stockade::Support::probe().missing(stockade::Layer::Overlay).is_none()
}

/// A lower layer with the mount points of a system.
fn lower() -> tempfile::TempDir {
    let lower = directory();
    for name in ["usr", "bin", "lib", "lib64", "tmp", "below"] {
        fs::create_dir(lower.path().join(name)).unwrap();
    }
    fs::set_permissions(lower.path().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(lower.path().join("below/file"), "lower").unwrap();
    lower
}

#[test]
fn in_and_out() {
    let (host, lower) = (directory(), lower());
    let source = host.path().join("source");
    fs::write(&source, "#!/bin/sh\necho \"it runs: $1\"\n").unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, sandbox) in kinds_of_sandbox(lower.path()) {
        let container = sandbox.start().unwrap();
        let files = container.files().unwrap();
        files.write("/tmp/input", "one\n").unwrap();
        assert_eq!(says(&container, "cat /tmp/input"), "one", "{name}");
        // It is the program's own, and what is written again takes its place.
        says(&container, "test -O /tmp/input && test -G /tmp/input && echo two >> /tmp/input");
        assert_eq!(files.read("tmp/input", 100).unwrap(), b"one\ntwo\n", "{name}");
        files.write("/tmp/input", "three\n").unwrap();
        assert_eq!(says(&container, "cat /tmp/input; stat -c %a /tmp/input"), "three\n644", "{name}");
        files.write_with_mode("/tmp/shut", "", 0o600).unwrap();
        assert_eq!(says(&container, "stat -c %a /tmp/shut"), "600");
        assert!(matches!(files.write_with_mode("/tmp/bits", "", 0o4755), Err(Error::Invalid { .. })));

        assert_eq!(files.copy_in(&source, "/tmp/program").unwrap(), 29);
        assert_eq!(says(&container, "/tmp/program yes"), "it runs: yes", "{name}");
        let target = host.path().join(format!("out of {name}"));
        assert_eq!(files.copy_out("/tmp/program", &target, 29).unwrap(), 29);
        assert_eq!(fs::read(&target).unwrap(), fs::read(&source).unwrap());
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o600);
        // Also where the program itself may not write.
        let wide_open = files.write("/host-was-here", "x");
        assert!(wide_open.is_ok(), "{name}: {wide_open:?}");

        files.create_dir("/tmp/dir").unwrap();
        says(&container, "test -O /tmp/dir && touch /tmp/dir/file && mkdir /tmp/dir/below");
        assert_eq!(refused(files.create_dir("/tmp/dir")), ErrorKind::AlreadyExists);
        assert_eq!(refused(files.create_dir("/tmp/no/dir")), ErrorKind::NotFound);
        let found: Vec<_> = files.list("/tmp/dir", 2).unwrap().into_iter().map(|e| (e.name, e.kind)).collect();
        assert_eq!(found, [("below".into(), FileKind::Directory), ("file".into(), FileKind::File)]);
        assert_eq!(files.metadata("/tmp/input").unwrap().size, 6);
        assert_eq!(files.metadata("/").unwrap().kind, FileKind::Directory);
        assert_eq!(refused(files.remove_file("/tmp/dir")), ErrorKind::IsADirectory);
        assert_eq!(refused(files.write("/tmp/dir", "")), ErrorKind::IsADirectory);
        files.remove_file("/tmp/dir/file").unwrap();
        assert_eq!(refused(files.remove_file("/tmp/dir/file")), ErrorKind::NotFound);
        files.remove_dir_all("/tmp/dir").unwrap();
        let left: Vec<_> = files.list("/tmp", 100).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(left, ["input", "program", "shut"], "{name}: no temporary file is left");
    }
    assert_eq!(fs::read_dir(lower.path()).unwrap().count(), 6, "nothing was written to the lower layer");
}

/// A writer at whose every word the program adds to the file.
struct Appending<'a> {
    container: &'a Container,
    path: &'a str,
}

impl std::io::Write for Appending<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        says(self.container, &format!("printf 6 >> {}", self.path));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn limits_hold() {
    let programs = directory();
    let container = system().bind_ro(hostile(programs.path()), "/hostile").start().unwrap();
    let files = container.files().unwrap();
    says(&container, "printf 12345 > /tmp/five; truncate -s 1T /tmp/sparse; : > /tmp/empty");
    assert_eq!(files.read("/tmp/five", 5).unwrap(), b"12345");
    assert_eq!(refused(files.read("/tmp/five", 4)), ErrorKind::FileTooLarge);
    assert_eq!(files.read("/tmp/empty", 0).unwrap(), b"");
    assert_eq!(refused(files.read("/tmp/sparse", 1 << 30)), ErrorKind::FileTooLarge);
    assert_eq!(files.metadata("/tmp/sparse").unwrap().size, 1 << 40);
    let out = programs.path().join("out");
    assert_eq!(refused(files.copy_out("/tmp/five", &out, 4)), ErrorKind::FileTooLarge);
    assert!(!out.exists(), "nothing is left of it");
    fs::write(&out, "").unwrap();
    assert_eq!(refused(files.copy_out("/tmp/five", &out, 5)), ErrorKind::AlreadyExists);
    symlink("elsewhere", programs.path().join("link")).unwrap();
    assert_eq!(refused(files.copy_out("/tmp/five", programs.path().join("link"), 5)), ErrorKind::AlreadyExists);
    // What is too large already is not begun with; what becomes it is noticed.
    let mut taken = vec![];
    assert_eq!(refused(files.read_to("/tmp/five", 4, &mut taken)), ErrorKind::FileTooLarge);
    assert_eq!(taken, b"");
    let mut appending = Appending { container: &container, path: "/tmp/five" };
    assert_eq!(refused(files.read_to("/tmp/five", 5, &mut appending)), ErrorKind::FileTooLarge);
    assert_eq!(files.read("/tmp/five", 6).unwrap(), b"123456");
    // One that grows all the time.
    let _growing = at_work(&container, &["grow", "/tmp/growing"]);
    let limit = 1 << 20;
    let (mut over, start) = (false, Instant::now());
    while !over && start.elapsed() < SOON {
        match files.read("/tmp/growing", limit) {
            Ok(bytes) => assert!(bytes.len() as u64 <= limit),
            Err(error) => {
                assert_eq!(kind(&error), ErrorKind::FileTooLarge);
                over = true;
            }
        }
    }
    assert!(over);
}

/// What lies in the way, and is not what a host expects: each with what plain std::fs does to it.
#[test]
fn what_is_planted_is_not_read() {
    let host = directory();
    let secret = host.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    common::open(&host);
    let shown = secret.display();
    let container = system().bind_ro(hostile(host.path()), "/hostile").bind_rw(host.path(), "/shared").start().unwrap();
    says(
        &container,
        &format!(
            "cd /tmp; ln -s {shown} absolute; ln -s .././../../..{shown} relative; ln -s absolute chain; ln -s {} root
             mkdir real; echo plain > real/file; ln -s real directory; ln -s /nowhere dangling; ln -s loop loop
             ln -s /proc/self/root magic; ln -s /proc/self/fd/0 descriptor
             ln /shared/secret /shared/hard; mkfifo fifo; /hostile socket socket",
            host.path().display()
        ),
    );
    let (files, inside) = (container.files().unwrap(), Inside::of(&container));
    let start = Instant::now();
    let plants = ["absolute", "relative", "chain", "dangling", "loop", "magic", "descriptor", "root", "fifo", "socket"];
    for plant in plants {
        assert_eq!(refused(files.read(format!("/tmp/{plant}"), 100)), ErrorKind::InvalidInput, "{plant}");
        let out = host.path().join("out");
        assert_eq!(refused(files.copy_out(format!("/tmp/{plant}"), &out, 100)), ErrorKind::InvalidInput, "{plant}");
        assert!(!out.exists());
    }
    // All that these could reach, if they were followed, is the test's own.
    let by_magic = format!("magic{shown}");
    for through in ["directory/file", "root/secret", &by_magic, "absolute/x"] {
        let path = format!("/tmp/{through}");
        let refusals =
            [refused(files.read(&path, 100)), refused(files.metadata(&path)), refused(files.write(&path, ""))];
        for kind in refusals.into_iter().chain([refused(files.remove_file(&path)), refused(files.list(&path, 9))]) {
            assert!(matches!(kind, ErrorKind::InvalidInput | ErrorKind::NotADirectory), "{through}: {kind:?}");
        }
    }
    assert!(refused(files.list("/tmp/root", 1000)) != ErrorKind::NotFound);
    assert_eq!(refused(files.read("/shared/hard", 100)), ErrorKind::InvalidInput, "a hard link");
    assert_eq!(refused(files.read("/tmp/real", 100)), ErrorKind::InvalidInput, "a directory");
    assert_eq!(refused(files.read("/dev/zero", 100)), ErrorKind::InvalidInput, "a device");
    let of_the_kernel = format!("/proc/{}/environ", 1);
    assert_eq!(refused(files.read(of_the_kernel, 1 << 20)), ErrorKind::InvalidInput, "procfs");
    for outside in ["..", "/../tmp/real/file", "/tmp/../tmp/real/file", "/tmp/.."] {
        assert!(matches!(files.read(outside, 100), Err(Error::Invalid { .. })), "{outside}");
    }
    assert_eq!(files.read("/tmp/real/file", 100).unwrap(), b"plain\n");
    assert_eq!(files.metadata("/tmp/absolute").unwrap().kind, FileKind::Symlink);
    assert!(start.elapsed() < SOON, "nothing waits");

    // The controls: plain std::fs follows, and waits.
    for plant in ["/tmp/absolute", "/tmp/chain", "/shared/hard"] {
        assert_eq!(fs::read(inside.path(plant)).unwrap(), SECRET, "{plant}");
    }
    assert_eq!(fs::read(inside.path("/tmp/root/secret")).unwrap(), SECRET, "the host's");
    assert_eq!(fs::read(inside.path("/tmp/directory/file")).unwrap(), b"plain\n");
    let fifo = inside.path("/tmp/fifo");
    let waiting = std::thread::spawn(move || fs::read(fifo));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished(), "plain std::fs waits for the other end of the FIFO");
    fs::write(inside.path("/tmp/fifo"), "").unwrap();
    waiting.join().unwrap().unwrap();
}

/// judge0, CVE-2024-28185 and CVE-2024-28189: the host writes to, or gives away, what a link made inside leads to.
#[test]
fn what_is_planted_is_not_written_to() {
    let host = directory();
    let secret = host.path().join("secret");
    let restore = || {
        fs::write(&secret, SECRET).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    };
    restore();
    common::open(&host);
    let owner = fs::metadata(&secret).unwrap().uid();
    let container = system().bind_ro(hostile(host.path()), "/hostile").bind_rw(host.path(), "/shared").start().unwrap();
    let files = container.files().unwrap();
    let plant = || {
        says(
            &container,
            &format!(
                "cd /tmp; rm -rf * /shared/hard; ln -s {} script; ln -s script chain; mkfifo fifo; /hostile socket socket
                 ln -s /nowhere/at/all dangling; ln /shared/secret /shared/hard",
                secret.display()
            ),
        );
    };
    plant();
    let start = Instant::now();
    for place in ["/tmp/chain", "/tmp/script", "/tmp/fifo", "/tmp/socket", "/tmp/dangling", "/shared/hard"] {
        files.write(place, "the program's").unwrap();
        assert_eq!(files.read(place, 100).unwrap(), b"the program's", "{place}");
        let now = fs::metadata(&secret).unwrap();
        assert_eq!((fs::read(&secret).unwrap().as_slice(), now.uid(), now.mode() & 0o777), (SECRET, owner, 0o666));
        says(&container, &format!("test -f {place} && test ! -L {place} && test -O {place}"));
    }
    assert!(start.elapsed() < SOON, "nothing waits");
    plant();
    for place in ["/tmp/script", "/tmp/fifo", "/shared/hard"] {
        files.remove_file(place).unwrap();
        assert_eq!(fs::read(&secret).unwrap(), SECRET, "{place}");
    }
    // The controls.
    plant();
    let inside = Inside::of(&container);
    for place in ["/tmp/script", "/tmp/chain", "/shared/hard"] {
        fs::write(inside.path(place), "overwritten").unwrap();
        assert_eq!(fs::read(&secret).unwrap(), b"overwritten", "{place}");
        restore();
    }
}

#[test]
fn devices_are_not_opened() {
    if !is_root() {
        skip!("only root can make device nodes for the test");
    }
    let host = directory();
    // Where there is no mount namespace, nothing but the look at it keeps the host from opening it.
    let nodes = |directory: &str| {
        format!("mknod {directory}/zero c 1 5 && mknod {directory}/disk b 250 250 && mknod {directory}/gone c 250 250")
    };
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &nodes(host.path().to_str().unwrap())])
            .status()
            .unwrap()
            .success()
    );
    let mut containers = vec![Sandbox::new().chroot(host.path()).start().unwrap()];
    let keeping = Sandbox::new().rootfs(Rootfs::system()).keep_capabilities(Capabilities::MKNOD);
    let container = keeping.start().unwrap();
    says(&container, &nodes(""));
    containers.push(container);
    for container in containers {
        let files = container.files().unwrap();
        for (device, kind) in
            [("zero", FileKind::CharDevice), ("disk", FileKind::BlockDevice), ("gone", FileKind::CharDevice)]
        {
            assert_eq!(files.metadata(device).unwrap().kind, kind);
            let error = files.read(device, 16).unwrap_err();
            assert!(error.to_string().contains("device"), "seen before it was opened: {error}");
            files.write(device, "plain").unwrap();
            assert_eq!(files.read(device, 16).unwrap(), b"plain");
        }
    }
}

#[test]
fn a_lease_holds_nobody_up() {
    let programs = directory();
    let container = system().bind_ro(hostile(programs.path()), "/hostile").start().unwrap();
    let files = container.files().unwrap();
    let _holder = at_work(&container, &["lease", "/tmp/leased"]);
    let start = Instant::now();
    assert_eq!(refused(files.read("/tmp/leased", 100)), ErrorKind::WouldBlock);
    files.write("/tmp/leased", "new").unwrap();
    assert_eq!(files.read("/tmp/leased", 100).unwrap(), b"new");
    assert!(start.elapsed() < Duration::from_secs(10), "the kernel's lease-break-time is 45 seconds");
}

/// A directory that is a link every other moment, while the host reads, writes, lists and removes.
#[test]
fn a_directory_that_is_swapped_for_a_link() {
    let host = directory();
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["file", "new", "victim"] {
        fs::write(outside.join(name), SECRET).unwrap();
        fs::set_permissions(outside.join(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let container = system().bind_ro(hostile(host.path()), "/hostile").start().unwrap();
    says(&container, &format!("mkdir /tmp/box; echo inside > /tmp/box/file; ln -s {} /tmp/link", outside.display()));
    let files = container.files().unwrap();
    let _swapping = at_work(&container, &["swap", "/tmp/box", "/tmp/link"]);
    let rounds = common::scaled(2000);
    let (mut worked, mut not) = (0, 0);
    // On a machine with one thread the two may seldom meet.
    for round in 0..rounds * 20 {
        if round >= rounds && worked > 0 && not > 0 {
            break;
        }
        let text = format!("round {round}");
        match files.read("/tmp/box/file", 100) {
            Ok(bytes) => assert_eq!(bytes, b"inside\n"),
            Err(_) => not += 1,
        }
        worked += usize::from(files.write("/tmp/box/new", &text).is_ok());
        let _ = files.write("/tmp/box/victim", &text);
        let _ = files.remove_file("/tmp/box/victim");
        let _ = files.create_dir("/tmp/box/dir");
        if let Ok(entries) = files.list("/tmp/box", 100) {
            assert!(entries.iter().all(|entry| entry.size != SECRET.len() as u64), "{entries:?}");
        }
        if round % 8 == 0 {
            let _ = files.remove_dir_all("/tmp/box/dir");
        }
    }
    assert!(worked > 0 && not > 0, "both came up: {worked} {not}");
    for name in ["file", "new", "victim"] {
        assert_eq!(fs::read(outside.join(name)).unwrap(), SECRET, "{name}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 3);
    // The control.
    let inside = Inside::of(&container);
    let got_out = || fs::read(inside.path("/tmp/box/file")).is_ok_and(|bytes| bytes == SECRET);
    assert!(eventually(SOON, got_out), "plain std::fs is led outside");
    let written = || {
        let _ = fs::write(inside.path("/tmp/box/new"), "overwritten");
        fs::read(outside.join("new")).unwrap() == b"overwritten"
    };
    assert!(eventually(SOON, written), "plain std::fs writes outside");
}

/// The same, while all of a directory is removed.
#[test]
fn a_removal_is_not_led_outside() {
    let host = directory();
    let outside = host.path().join("outside");
    fs::create_dir_all(outside.join("deep/er")).unwrap();
    fs::write(outside.join("deep/file"), SECRET).unwrap();
    for place in ["", "deep", "deep/er"] {
        fs::set_permissions(outside.join(place), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let container = system().bind_ro(hostile(host.path()), "/hostile").start().unwrap();
    let files = container.files().unwrap();
    let script = "mkdir -p /tmp/box/a/deep/er /tmp/box/b; touch /tmp/box/a/deep/file";
    says(&container, &format!("mkdir /tmp/box; ln -s {} /tmp/link", outside.display()));
    let swapping = at_work(&container, &["swap", "/tmp/box/a", "/tmp/link"]);
    for _ in 0..common::scaled(60).max(4) {
        let _ = container.command("sh").args(["-c", script]).stderr(Stdio::null()).status().unwrap();
        for _ in 0..4 {
            let _ = files.remove_dir_all("/tmp/box/a");
        }
        let _ = files.remove_dir_all("/tmp/box");
    }
    assert_eq!(fs::read(outside.join("deep/file")).unwrap(), SECRET);
    assert!(outside.join("deep/er").exists());
    drop(swapping);
    // One that is filled as fast as it is emptied: with the filling the removal ends, if it has not given up before.
    says(&container, "mkdir /tmp/filled");
    let filling = at_work(&container, &["fill", "/tmp/filled"]);
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| files.remove_dir_all("/tmp/filled"));
        std::thread::sleep(Duration::from_millis(200));
        drop(filling);
        let result = removing.join().unwrap();
        assert!(result.is_ok() || refused(result) == ErrorKind::DirectoryNotEmpty);
    });
}

#[test]
fn large_and_deep() {
    let programs = directory();
    let container = system().bind_ro(hostile(programs.path()), "/hostile").tmpfs("/work", 512 << 20).start().unwrap();
    let files = container.files().unwrap();
    let count = if common::is_slow() { 5000 } else { 100_000 };
    says(&container, &format!("mkdir /work/many /work/deep; /hostile many /work/many {count}"));
    assert_eq!(files.list("/work/many", count).unwrap().len(), count);
    assert_eq!(refused(files.list("/work/many", count - 1)), ErrorKind::FileTooLarge);
    files.remove_dir_all("/work/many").unwrap();
    let depth = if common::is_slow() { 400 } else { 3000 };
    says(&container, &format!("cd /work/deep && /hostile deep . {depth}"));
    files.remove_dir_all("/work/deep").unwrap();
    assert_eq!(files.list("/work", 10).unwrap(), []);
    // Names that are no text, and directories that are shut.
    says(
        &container,
        r#"mkdir /work/odd; cd /work/odd; touch "$(printf 'a\nb')" "$(printf '\377\376')" -- '-rf' '...' ' '"#,
    );
    let mut names: Vec<_> = files.list("/work/odd", 10).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    let expected: [&[u8]; 5] = [b" ", b"-rf", b"...", b"a\nb", b"\xff\xfe"];
    assert_eq!(names, expected.map(OsStr::from_bytes));
    files.write(Path::new("/work/odd").join(OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
    says(
        &container,
        "mkdir -p /work/odd/shut/below; touch /work/odd/shut/below/file; chmod 0 /work/odd/shut/below /work/odd/shut",
    );
    files.remove_dir_all("/work/odd").unwrap();
    assert_eq!(files.list("/work", 10).unwrap(), []);
    assert_eq!(refused(files.remove_dir_all("/work/odd")), ErrorKind::NotFound);
    files.write("/work/file", "").unwrap();
    assert_eq!(refused(files.remove_dir_all("/work/file")), ErrorKind::NotADirectory);
    assert_eq!(refused(files.write(format!("/work/{}", "x".repeat(300)), "")), ErrorKind::InvalidFilename);
}

#[test]
fn a_full_file_system() {
    let container = system().tmpfs("/small", 64 << 10).start().unwrap();
    let files = container.files().unwrap();
    files.write("/small/file", "old").unwrap();
    assert_eq!(refused(files.write("/small/file", vec![1; 1 << 20])), ErrorKind::StorageFull);
    assert_eq!(files.read("/small/file", 10).unwrap(), b"old", "what was there is still there");
    assert_eq!(files.list("/small", 10).unwrap().len(), 1, "nothing is left of the attempt");
}

#[test]
fn mounts_inside() {
    let host = directory();
    fs::create_dir_all(host.path().join("dir/below")).unwrap();
    fs::write(host.path().join("dir/file"), "host\n").unwrap();
    fs::write(host.path().join("one"), "one\n").unwrap();
    for place in ["dir", "dir/below"] {
        fs::set_permissions(host.path().join(place), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let container = system()
        .bind_ro(host.path().join("dir"), "/ro")
        .bind_rw(host.path().join("dir"), "/rw")
        .bind_ro(host.path().join("one"), "/tree/one")
        .tmpfs("/tree/tmp", 1 << 20)
        .bind_rw(host.path().join("dir"), "/masked")
        .mask("/masked/file")
        .start()
        .unwrap();
    let files = container.files().unwrap();
    assert_eq!(files.read("/ro/file", 100).unwrap(), b"host\n");
    assert_eq!(refused(files.write("/ro/file", "x")), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(refused(files.remove_file("/ro/file")), ErrorKind::ReadOnlyFilesystem);
    files.write("/rw/new", "inside\n").unwrap();
    assert_eq!(fs::read(host.path().join("dir/new")).unwrap(), b"inside\n");
    assert_eq!(files.read("/tree/one", 100).unwrap(), b"one\n");
    // What a mount hides stays hidden, and the mount stays.
    assert!(files.read("/masked/file", 100).is_err());
    for mounted in ["/masked/file", "/tree/one", "/tree/tmp", "/tmp", "/proc"] {
        for result in [files.write(mounted, "x"), files.remove_file(mounted), files.remove_dir_all(mounted)] {
            assert_eq!(refused(result), ErrorKind::InvalidInput, "{mounted}");
        }
    }
    assert_eq!(refused(files.remove_dir_all("/tree")), ErrorKind::InvalidInput);
    says(&container, "test \"$(cat /tree/one)\" = one && ! grep -q . /masked/file && touch /tree/tmp/file");
    assert_eq!(fs::read(host.path().join("dir/file")).unwrap(), b"host\n");
    assert!(matches!(files.write("/", ""), Err(Error::Invalid { .. })));
    assert!(matches!(files.remove_dir_all("/"), Err(Error::Invalid { .. })));
}

#[test]
fn after_the_end() {
    let lower = lower();
    type Way = fn(Container);
    let ways: [(&str, Way); 3] = [
        ("kill", |container| container.kill()),
        ("stop", |container| assert!(container.stop(Duration::from_secs(20)).unwrap())),
        ("drop", drop),
    ];
    for (name, sandbox) in kinds_of_sandbox(lower.path()) {
        for (way, end) in ways {
            let container = sandbox.clone().tmpfs("/more", 1 << 20).start().unwrap();
            let files = container.files().unwrap();
            says(&container, "echo late > /tmp/file");
            let early = files.clone();
            files.write("/top", "top").unwrap();
            end(container.clone());
            drop(container);
            assert_eq!(early.read("/tmp/file", 100).unwrap(), b"late\n", "{name} {way}");
            // A mount of its own goes on being there, as its root does.
            files.write("/more/file", "later").unwrap();
            assert_eq!(files.read("/more/file", 100).unwrap(), b"later");
            assert_eq!(files.read("/top", 100).unwrap(), b"top");
            files.remove_dir_all("/tmp/file").unwrap_err();
            files.remove_file("/tmp/file").unwrap();
            if name == "an overlay" {
                assert_eq!(files.read("/below/file", 100).unwrap(), b"lower");
                files.write("/below/file", "upper").unwrap();
                assert_eq!(files.read("/below/file", 100).unwrap(), b"upper");
                assert_eq!(fs::read(lower.path().join("below/file")).unwrap(), b"lower");
            }
        }
    }
}

#[test]
fn whom_it_can_be_had_of() {
    let container = system().start().unwrap();
    container.kill();
    assert!(matches!(container.files(), Err(Error::AgentLost { .. })));
    let child = system().command("sh").args(["-c", "echo x > /tmp/file; sleep 1000"]).spawn().unwrap();
    let files = child.container().files().unwrap();
    assert!(eventually(SOON, || files.read("/tmp/file", 10).is_ok_and(|bytes| bytes == b"x\n")));
    drop(child);
    assert_eq!(files.read("/tmp/file", 10).unwrap(), b"x\n");
    let init = system().as_pid_1().command("sleep").arg("1000").spawn().unwrap();
    assert!(matches!(init.container().files(), Err(Error::Invalid { .. })));
    // Many at once.
    let container = system().start().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let container = container.clone();
            scope.spawn(move || {
                for round in 0..20 {
                    let (files, path) = (container.files().unwrap(), format!("/tmp/{thread}"));
                    files.write(&path, format!("{round}")).unwrap();
                    assert_eq!(files.read(&path, 10).unwrap(), round.to_string().as_bytes());
                }
            });
        }
    });
}

#[test]
fn without_a_mount_namespace() {
    let host = directory();
    fs::create_dir(host.path().join("dir")).unwrap();
    fs::write(host.path().join("dir/file"), "plain\n").unwrap();
    fs::write(host.path().join("two"), "x").unwrap();
    fs::hard_link(host.path().join("two"), host.path().join("names")).unwrap();
    let outside = directory();
    fs::write(outside.path().join("file"), SECRET).unwrap();
    symlink(outside.path().join("file"), host.path().join("link")).unwrap();
    let base = if is_root() { Sandbox::new() } else { Sandbox::new().user_ns() };
    let container = base.chroot(host.path()).start().unwrap();
    assert!(!container.report().in_force().contains(stockade::Layers::MOUNT_NS));
    let files = container.files().unwrap();
    assert_eq!(files.read("/dir/file", 100).unwrap(), b"plain\n");
    assert_eq!(refused(files.read("/link", 1 << 20)), ErrorKind::InvalidInput);
    assert_eq!(refused(files.read("/names", 10)), ErrorKind::InvalidInput);
    // Here nothing but the way it goes keeps a removal in.
    symlink(outside.path(), host.path().join("way-out")).unwrap();
    fs::create_dir(host.path().join("tree")).unwrap();
    symlink(outside.path(), host.path().join("tree/way-out")).unwrap();
    assert_eq!(refused(files.remove_dir_all("/way-out")), ErrorKind::NotADirectory);
    files.remove_dir_all("/tree").unwrap();
    assert_eq!(fs::read(outside.path().join("file")).unwrap(), SECRET);
    assert!(!host.path().join("tree").exists());
    files.write("/link", "replaced").unwrap();
    container.kill();
    assert!(fs::symlink_metadata(host.path().join("link")).unwrap().is_file(), "not what it led to");
    assert_eq!(fs::read(host.path().join("link")).unwrap(), b"replaced");
    assert_eq!(fs::read(outside.path().join("file")).unwrap(), SECRET);
    files.remove_dir_all("/dir").unwrap();
    assert!(!host.path().join("dir").exists());
}

/// An outer container's filter may not know the call.
#[test]
fn without_openat2() {
    alone("without_openat2", || {
        common::outer_filter(&[libc::SYS_openat2], libc::ENOSYS);
        let host = directory();
        fs::create_dir(host.path().join("dir")).unwrap();
        fs::write(host.path().join("dir/file"), "plain\n").unwrap();
        symlink("dir", host.path().join("link")).unwrap();
        symlink("dir/file", host.path().join("file")).unwrap();
        let base = if is_root() { Sandbox::new() } else { Sandbox::new().user_ns() };
        // Once where the mounts forbid links, once where nothing but the walk does.
        for sandbox in [base.clone().chroot(host.path()), base.mount_ns().chroot(host.path())] {
            let container = sandbox.start().unwrap();
            let files = container.files().unwrap();
            assert_eq!(files.read("/dir/file", 100).unwrap(), b"plain\n");
            assert_eq!(files.list("/dir", 10).unwrap().len(), 1);
            assert_eq!(files.metadata("/link").unwrap().kind, FileKind::Symlink);
            for (path, reason) in [("/link/file", ErrorKind::NotADirectory), ("/file", ErrorKind::InvalidInput)] {
                assert_eq!(refused(files.read(path, 100)), reason, "{path}");
            }
            assert_eq!(refused(files.write("/link/new", "x")), ErrorKind::NotADirectory);
            assert!(files.list("/link", 10).is_err());
            files.write("/dir/new", "x").unwrap();
            files.remove_file("/dir/new").unwrap();
        }
    });
}

/// Making files for another user is done by a thread that takes on its ids.
#[test]
fn the_host_process_stays_as_it_was() {
    alone("the_host_process_stays_as_it_was", || {
        let status = || {
            let text = fs::read_to_string("/proc/thread-self/status").unwrap();
            let kept = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"];
            text.lines().filter(|line| kept.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
        };
        let before: Vec<String> = status();
        let dumpable = || rustix::process::dumpable_behavior().unwrap();
        for sandbox in [system(), system().uid(7)] {
            let container = sandbox.start().unwrap();
            let files = container.files().unwrap();
            let dumped = dumpable();
            files.write("/tmp/file", "x").unwrap();
            files.create_dir("/tmp/dir").unwrap();
            files.create_dir("/tmp/dir").unwrap_err();
            assert_eq!(status(), before);
            assert_eq!(dumpable(), dumped);
        }
        assert_eq!(fs::metadata("/proc/self").unwrap().uid(), rustix::process::geteuid().as_raw());
    });
}

#[test]
fn nothing_is_left() {
    alone("nothing_is_left", || {
        leaves_nothing("files", || {
            let container = system().start().unwrap();
            let files: Vec<Files> = (0..20).map(|_| container.files().unwrap()).collect();
            files.iter().for_each(|files| files.write("/tmp/file", "x").unwrap());
            assert!(files.iter().all(|files| files.read("/proc/1/environ", 10).is_err()));
            container.kill();
            container.files().unwrap_err();
            assert_eq!(files.first().unwrap().read("/tmp/file", 10).unwrap(), b"x");
        });
        file_systems_are_freed();
    });
}

/// Whoever watches a file hears of the end of its file system.
fn file_systems_are_freed() {
    use rustix::fs::inotify;
    let container = system().start().unwrap();
    let files = container.files().unwrap();
    files.write("/tmp/file", "x").unwrap();
    files.write("/file", "x").unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    {
        let inside = Inside::of(&container);
        for path in ["/tmp/file", "/file"] {
            inotify::add_watch(&watch, inside.path(path), inotify::WatchFlags::ATTRIB).unwrap();
        }
    }
    let unmounted = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        let mut seen = 0;
        while let Ok(event) = reader.next() {
            seen += usize::from(event.events().contains(inotify::ReadFlags::UNMOUNT));
        }
        seen
    };
    container.kill();
    drop(container);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(unmounted(), 0, "they are there for as long as the files are");
    assert_eq!(files.read("/tmp/file", 10).unwrap(), b"x");
    drop(files);
    let mut seen = 0;
    assert!(eventually(Duration::from_secs(10), || {
        seen += unmounted();
        seen == 2
    }));
}
