//! The root, and what is mounted in it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use common::{directory, is_root, says, sh, works};
use stockade::{Error, Overlay, Rootfs, Sandbox, Step};

fn empty() -> Sandbox {
    Sandbox::new().pid_ns().rootfs(Rootfs::system())
}

#[test]
fn a_private_root_has_nothing_of_the_host() {
    let marker = directory();
    fs::write(marker.path().join("secret"), "x").unwrap();
    let sandbox = empty();
    let path = marker.path().join("secret");
    assert!(!works(&sandbox, &format!("test -e {}", path.display())));
    assert!(works(&Sandbox::new(), &format!("test -e {}", path.display())));
    // The old root is gone, not hidden: it is in no mount table, and `..` of the root is the root.
    assert_eq!(says(&sandbox, "test /.. -ef / && grep -c ' / ' /proc/self/mounts"), "1");
    for place in ["home", "root", "srv", "var", "sys", "run", "boot"] {
        assert!(!works(&sandbox, &format!("test -e /{place}")), "{place}");
    }
}

#[test]
fn programs_of_the_host_run_in_it() {
    let script = "echo 'int main(void){return 42;}' >/tmp/a.c && cc -o /tmp/a /tmp/a.c; /tmp/a; echo $?";
    assert_eq!(says(&empty(), script), "42");
}

#[test]
fn binds_are_read_only_recursively() {
    // A mount below the source: only root can make one for the test, in a mount namespace of its own.
    let directory = directory();
    fs::create_dir(directory.path().join("below")).unwrap();
    let outer = Sandbox::new().mount_ns().tmpfs(directory.path().join("below"), 1 << 20);
    assert!(works(&outer, &format!("touch {}/below/new", directory.path().display())));
    // In the sandbox itself the same is made by two operations: the bind takes what is mounted below with it.
    let read_only = empty().bind_ro("/dev", "/host-dev");
    assert!(!works(&read_only, "touch /host-dev/shm/stockade-test-file"), "a mount below a read-only bind is writable");
    let writable = empty().bind_rw("/dev", "/host-dev");
    assert!(works(&writable, "touch /host-dev/shm/stockade-test-file && rm /host-dev/shm/stockade-test-file"));
    assert!(!std::path::Path::new("/dev/shm/stockade-test-file").exists());
}

#[test]
fn binds_of_files_and_directories() {
    let host = directory();
    fs::write(host.path().join("file"), "content\n").unwrap();
    fs::create_dir(host.path().join("dir")).unwrap();
    fs::write(host.path().join("dir/inner"), "inner\n").unwrap();
    open_to_all(host.path());
    symlink("dir", host.path().join("link")).unwrap();
    let at = |name: &str| host.path().join(name);
    let sandbox = empty()
        .bind_ro(at("file"), "/deep/er/file")
        .bind_rw(at("dir"), "/rw")
        .bind_ro(at("dir"), "/ro")
        .bind_ro(at("link"), "/by-link");
    assert_eq!(says(&sandbox, "cat /deep/er/file /ro/inner /by-link/inner"), "content\ninner\ninner");
    assert!(!works(&sandbox, "echo x >/deep/er/file"));
    assert!(!works(&sandbox, "touch /ro/new"));
    assert!(!works(&sandbox, "mount -o remount,rw /ro"));
    assert!(works(&sandbox, "touch /rw/new"));
    assert!(at("dir/new").exists());
    // Devices are not to be had by a bind, but for those of /dev.
    assert!(says(&sandbox, "grep ' /ro ' /proc/self/mounts").contains("nodev"));
    assert_eq!(says(&empty().bind_rw("/dev/null", "/null"), "echo gone >/null; cat /null"), "");
}

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in fs::read_dir(path).unwrap().flatten() {
        let mode = if entry.path().is_dir() { 0o777 } else { 0o666 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_source_that_only_root_can_reach() {
    if !is_root() {
        skip!("an ordinary user has no directories that its sandbox could not reach");
    }
    // The agent has other ids than the host then: the host opens the source for it.
    use std::os::unix::fs::PermissionsExt as _;
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("shown")).unwrap();
    fs::write(host.path().join("shown/file"), "seen\n").unwrap();
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let sandbox = empty().user_ns().bind_ro(host.path().join("shown"), "/shown");
    assert_eq!(says(&sandbox, "cat /shown/file"), "seen");
    let root = Sandbox::new().user_ns().mount_ns().chroot(host.path().join("shown")).bind_ro("/usr", "/usr");
    let error = root.command("/usr/bin/true").status().unwrap_err();
    assert!(matches!(error, Error::Setup { step: Step::MountTarget, .. }), "{error}");
}

#[test]
fn operations_are_done_in_the_callers_order() {
    let sandbox = empty().tmpfs("/x", 1 << 20).dir("/x/under").tmpfs("/x/under", 1 << 20).symlink("under", "/x/link");
    assert_eq!(says(&sandbox, "grep -c ' /x' /proc/self/mounts; readlink /x/link"), "2\nunder");
    // What comes later covers what came before.
    let sandbox = empty().dir("/x/under").tmpfs("/x", 1 << 20);
    assert!(!works(&sandbox, "test -e /x/under"));
}

#[test]
fn tmpfs_has_its_size() {
    let sandbox = empty().tmpfs("/small", 1 << 20);
    assert!(works(&sandbox, "head -c 1000000 /dev/zero >/small/file"));
    assert!(!works(&sandbox, "head -c 1100000 /dev/zero >/small/file"));
    assert_eq!(says(&sandbox, "stat -c %a /small"), "1777");
    // Gone with the sandbox.
    assert_eq!(says(&sandbox, "ls -A /small"), "");
}

#[test]
fn devices() {
    has_its_devices(&empty());
    // Mounted over the host's own, which are bound where none can be made.
    has_its_devices(&Sandbox::new().pid_ns().dev("/dev"));
    has_its_devices(&Sandbox::new().pid_ns().user_ns().dev("/dev"));
    let masked = Sandbox::new().dev("/dev").mask("/etc/passwd");
    assert_eq!(says(&masked, "wc -c </etc/passwd"), "0");
}

fn has_its_devices(sandbox: &Sandbox) {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d && echo $d; done | tr '\\n' ' ';
        head -c 4 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; echo x >/dev/null && echo null-ok;
        (echo x >/dev/full) 2>/dev/null || echo full-ok; echo shm >/dev/shm/a && cat /dev/shm/a; echo fd | cat /dev/fd/0; ls /dev/pts";
    assert_eq!(
        says(sandbox, script),
        "null zero full random urandom tty  00 00 00 00\n8\nnull-ok\nfull-ok\nshm\nfd\nptmx"
    );
    // Nothing can be put in their place.
    assert!(!works(sandbox, "touch /dev/new || rm /dev/null || mv /dev/zero /dev/z"));
    assert_eq!(
        says(sandbox, "ls /dev | tr '\\n' ' '"),
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    // Shared memory is not shared between sandboxes.
    assert_eq!(says(sandbox, "ls -A /dev/shm"), "");
}

#[test]
fn proc_is_fresh_and_of_its_own_processes() {
    let host = std::process::id();
    assert!(!works(
        &empty(),
        &format!("test -e /proc/{host}/status && grep -q {host} /proc/{host}/status && ps -p {host}")
    ));
    assert_eq!(says(&empty(), "cat /proc/1/comm"), "stockade");
    // What only the host's root may write is closed, with a user namespace or without.
    for sandbox in [empty(), empty().user_ns()] {
        for file in ["sys/kernel/core_pattern", "sysrq-trigger", "sys/vm/overcommit_memory"] {
            assert!(!works(&sandbox, &format!("exec 3<>/proc/{file}")), "{file}");
        }
    }
}

#[test]
fn masks() {
    let host = directory();
    fs::write(host.path().join("file"), "secret").unwrap();
    fs::create_dir(host.path().join("dir")).unwrap();
    fs::write(host.path().join("dir/inner"), "secret").unwrap();
    let bound = empty().bind_rw(host.path(), "/shown");
    assert_eq!(says(&bound, "cat /shown/file /shown/dir/inner"), "secretsecret");
    let masked = bound.mask("/shown/file").mask("/shown/dir");
    assert_eq!(says(&masked, "cat /shown/file"), "");
    assert!(!works(&masked, "cat /shown/dir/inner"));
    assert!(!works(&masked, "umount /shown/file"));
    let error = empty().mask("/nothing").command("/bin/true").status().unwrap_err();
    assert!(matches!(error, Error::Setup { step: Step::MountTarget, .. }), "{error}");
}

#[test]
fn overlays() {
    let host = directory();
    for (layer, file) in [("a", "one"), ("b", "one"), ("b", "two"), ("c:,\\odd", "three")] {
        fs::create_dir_all(host.path().join(layer)).unwrap();
        fs::write(host.path().join(layer).join(file), format!("{layer}/{file}\n")).unwrap();
    }
    open_to_all(host.path());
    for layer in ["a", "b", "c:,\\odd"] {
        open_to_all(&host.path().join(layer));
    }
    let at = |name: &str| host.path().join(name);
    let overlay = Overlay::new(at("a")).lower(at("b")).lower(at("c:,\\odd"));
    let sandbox = empty().overlay("/layers", overlay.clone());
    assert_eq!(says(&sandbox, "cat /layers/one /layers/two /layers/three"), "a/one\nb/two\nc:,\\odd/three");
    // What is written is private, and gone.
    assert_eq!(
        says(&sandbox, "rm /layers/two; echo new >/layers/one; cat /layers/one; ls /layers | tr '\\n' ' '"),
        "new\none three"
    );
    assert_eq!(fs::read_to_string(at("a/one")).unwrap(), "a/one\n");
    assert_eq!(says(&sandbox, "ls /layers | tr '\\n' ' '"), "one three two");
    // Its layers are nowhere else to be seen.
    assert_eq!(
        says(
            &sandbox,
            "grep -c ' /layers overlay ' /proc/self/mounts; cut -d' ' -f2 /proc/self/mounts | grep -c upper || true"
        ),
        "1\n0"
    );
    // As a root; targets are made in the private layer, not on the host.
    let root = Sandbox::new()
        .pid_ns()
        .rootfs(Rootfs::overlay(overlay))
        .bind_ro("/usr", "/usr")
        .bind_ro("/lib64", "/lib64")
        .bind_ro("/lib", "/lib");
    assert_eq!(says(&root.clone().symlink("usr/bin", "/bin"), "cat /one; echo x >/written; ls -d /usr"), "a/one\n/usr");
    assert!(!at("a/usr").exists() && !at("a/written").exists());
}

#[test]
fn a_chroot_with_a_mount_namespace_pivots() {
    let root = directory();
    for name in ["usr", "lib", "lib64", "bin", "proc", "own"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let sandbox = ["/usr", "/lib", "/lib64", "/bin"]
        .into_iter()
        .fold(Sandbox::new().mount_ns().pid_ns().chroot(root.path()), |sandbox, path| sandbox.bind_ro(path, path))
        .proc("/proc");
    assert_eq!(says(&sandbox, "ls / | tr '\\n' ' '; test /.. -ef / && pwd"), "bin lib lib64 own proc usr /");
    // A target that is missing is not made in a directory of the host.
    let error = sandbox.clone().bind_ro("/etc", "/etc").command("/bin/true").status().unwrap_err();
    assert!(
        matches!(&error, Error::Setup { step: Step::MountTarget, subject, .. } if subject.contains("/etc")),
        "{error}"
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 6);
    // Nor behind a file system of the sandbox's own on the way.
    let sandbox = sandbox.tmpfs("/own", 1 << 20).bind_ro("/etc", "/own/etc");
    assert!(works(&sandbox, "test -e /own/etc/passwd"));
    assert_eq!(fs::read_dir(root.path().join("own")).unwrap().count(), 0);
}

#[test]
fn a_chroot_without_a_mount_namespace() {
    let root = directory();
    let program = common::compile(
        root.path(),
        "program",
        "#include <unistd.h>\n#include <stdio.h>\nint main(void){char b[99];puts(getcwd(b,99));puts(access(\"/program.c\",0)?\"no\":\"yes\");puts(access(\"/etc/passwd\",0)?\"no\":\"yes\");return 0;}",
        &["-static"],
    );
    let sandbox = Sandbox::new().chroot(root.path());
    let output = sandbox.command("/program").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/\nyes\nno\n");
    assert!(sandbox.prepare().unwrap().report().notes().iter().any(|note| note.contains("chroot(2)")));
    drop(program);
}

#[test]
fn hostile_links_do_not_lead_out() {
    let outside = directory();
    fs::create_dir(outside.path().join("target")).unwrap();
    let root = directory();
    for name in ["usr", "lib", "lib64", "bin", "real"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let out = outside.path().join("target");
    symlink(&out, root.path().join("absolute")).unwrap();
    let up = format!("{}{}", "../".repeat(20), out.display());
    symlink(up, root.path().join("relative")).unwrap();
    symlink("/proc/self/root", root.path().join("magic")).unwrap();
    symlink("real", root.path().join("honest")).unwrap();
    symlink("loop", root.path().join("loop")).unwrap();
    let source = directory();
    fs::write(source.path().join("planted"), "x").unwrap();
    let sandbox = ["/usr", "/lib", "/lib64", "/bin"]
        .into_iter()
        .fold(Sandbox::new().mount_ns().pid_ns().chroot(root.path()), |sandbox, path| sandbox.bind_ro(path, path));
    for link in ["absolute", "relative", "magic", "loop"] {
        for sandbox in [
            sandbox.clone().bind_ro(source.path(), link),
            sandbox.clone().tmpfs(link, 1 << 20),
            sandbox.clone().mask(link),
        ] {
            let error = sandbox.command("/bin/true").status().unwrap_err();
            assert!(matches!(error, Error::Setup { step: Step::MountTarget, .. }), "{link}: {error}");
        }
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    // One that stays inside is followed.
    assert_eq!(says(&sandbox.clone().bind_ro(source.path(), "honest"), "ls /real"), "planted");
    // And the working directory is held inside too.
    let error = sandbox.command("/bin/true").current_dir("/absolute").status().unwrap_err();
    assert!(matches!(error, Error::Setup { step: Step::WorkingDirectory, .. }), "{error}");
}

#[test]
fn mounts_of_the_host_do_not_come_in_nor_go_out() {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(works(&Sandbox::new().mount_ns().tmpfs("/tmp", 1 << 20), "touch /tmp/stockade-test-only-inside"));
    assert!(!std::path::Path::new("/tmp/stockade-test-only-inside").exists());
    assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap());
}

#[test]
fn a_read_only_root() {
    let sandbox = Sandbox::new().rootfs(Rootfs::system().read_only()).tmpfs("/work", 1 << 20);
    assert!(!works(&sandbox, "touch /new"));
    assert!(works(&sandbox, "touch /work/new /tmp/new"));
    assert!(!works(&Sandbox::new().rootfs(Rootfs::system().read_only()), "mkdir /new"));
}

#[test]
fn as_many_mounts_as_there_may_be() {
    let host = directory();
    let file = host.path().join("file");
    fs::write(&file, "x").unwrap();
    // Beyond one message's worth of descriptors, and beyond the usual limit of them.
    let many = (0..1500).fold(empty(), |sandbox, n| sandbox.bind_ro(&file, format!("/many/{n}")));
    for sandbox in [many.clone(), many.user_ns()] {
        assert_eq!(
            says(&sandbox, "ls /many | wc -l; ulimit -n"),
            format!("1500\n{}", says(&Sandbox::new(), "ulimit -n"))
        );
    }
    let error =
        (0..4097).fold(empty(), |sandbox, n| sandbox.bind_ro(&file, format!("/many/{n}"))).prepare().unwrap_err();
    assert!(matches!(&error, Error::Invalid { reason, .. } if reason.contains("4096")), "{error}");
}

#[test]
fn a_source_that_was_swapped_is_noticed() {
    let host = directory();
    let file = host.path().join("file");
    fs::write(&file, "x").unwrap();
    for sandbox in [empty(), empty().user_ns()] {
        let prepared = sandbox.bind_ro(&file, "/file").prepare().unwrap();
        assert!(prepared.command("/bin/true").status().unwrap().success());
        let inode = fs::metadata(&file).unwrap().ino();
        fs::rename(&file, host.path().join("old")).unwrap();
        fs::write(&file, "y").unwrap();
        assert_ne!(inode, fs::metadata(&file).unwrap().ino());
        let error = prepared.command("/bin/true").status().unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
        fs::remove_file(host.path().join("old")).unwrap();
    }
}

#[test]
fn a_root_of_the_callers_own_may_be_slash() {
    assert_eq!(says(&Sandbox::new().mount_ns().pid_ns().chroot("/"), "echo x >/dev/null; ls -d /etc"), "/etc");
    let output = sh(&Sandbox::new().mount_ns().pid_ns().chroot("/").proc("/proc"), "echo $$; cat /proc/1/comm");
    assert_eq!(output.stdout, b"2\nstockade\n");
}
