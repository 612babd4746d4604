//! What a program in a sandbox, of the same user as the agent, can try against the agent and against what protects the
//! host. Each with a control that shows that the attempt is real.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{alive, all_namespaces, alone, directory, eventually, is_root, marker, says, sh, works};
use stockade::{Error, KilledBy, Namespaces, Rootfs, Sandbox, Stdio, Verdict};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn the_agent_cannot_be_signalled_or_looked_into() {
    for sandbox in [all_namespaces(), all_namespaces().uid(0), Sandbox::new().pid_ns()] {
        let sandbox = sandbox.rootfs(Rootfs::system());
        for signal in ["KILL", "STOP", "TERM", "SEGV", "USR1"] {
            assert!(works(&sandbox, &format!("kill -{signal} 1; sleep 0.01; test -e /proc/1/comm")), "{signal}");
        }
        for file in ["mem", "environ", "root/", "fd/0", "cwd/", "maps"] {
            assert!(!works(&sandbox, &format!("head -c 1 /proc/1/{file}")), "{file}");
            // The control: of a process of its own the same is to be had.
            assert!(file == "mem" || works(&sandbox, &format!("sleep 1 & ls /proc/$!/{file} >/dev/null")), "{file}");
        }
        assert!(!works(&sandbox, "readlink /proc/1/fd/0"));
    }
}

#[test]
fn an_agent_that_is_blinded_ends_the_sandbox() {
    // prlimit(2) asks for the same ids and nothing else: the payload takes the descriptors away that the agent polls.
    let marker = marker("blinded");
    let script = format!("prlimit --pid 1 --nofile=0:0 || exit 77; (sleep 0.05 &); {}", common::sleeper(&marker));
    let child = all_namespaces().rootfs(Rootfs::system()).command("sh").args(["-c", &script]).spawn().unwrap();
    let outcome = child.wait_timeout(SOON).unwrap().expect("it ends");
    assert_eq!(outcome.verdict, Verdict::Killed(KilledBy::Agent));
    assert_eq!(alive(&marker), []);
}

#[test]
fn what_is_mounted_over_holds_for_the_working_directory_too() {
    alone("what_is_mounted_over_holds_for_the_working_directory_too", || {
        let host = directory();
        fs::write(host.path().join("secret"), "x").unwrap();
        common::open(&host);
        std::env::set_current_dir(host.path()).unwrap();
        let base = Sandbox::new().pid_ns().mount_ns();
        assert!(works(&base, "cat secret && touch new && rm new"), "the control");
        assert!(!works(&base.clone().mask(host.path()), "cat secret"));
        assert!(!works(&base.clone().tmpfs(host.path(), 4096), "cat secret"));
        assert!(!works(&base.bind_ro(host.path(), host.path()), "touch new"));
        std::env::set_current_dir("/").unwrap();
    });
}

#[test]
fn mounts_do_not_go_out_or_come_in_where_the_host_shares_them() {
    // On a machine with systemd all mounts are shared. So this test runs again in a mount namespace where they are.
    const NAME: &str = "mounts_do_not_go_out_or_come_in_where_the_host_shares_them";
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        return among_shared_mounts();
    }
    if !is_root() {
        skip!("only root can share mounts for the test");
    }
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "shared",
            "--",
            "sh",
            "-c",
            "mount --make-rprivate / && mount --make-rshared / && exec \"$@\"",
            "sh",
        ])
        .arg(program)
        .args([NAME, "--exact", "--nocapture"])
        .env("STOCKADE_ALONE", NAME)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn among_shared_mounts() {
    let host = directory();
    for name in ["sub", "later", "usr", "lib", "lib64", "bin", "proc"] {
        fs::create_dir(host.path().join(name)).unwrap();
    }
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(table().contains(" shared:"), "the host shares its mounts");
    for sandbox in [Sandbox::new().pid_ns(), Sandbox::new().user_ns().pid_ns()] {
        let before = table();
        let rooted = sandbox.clone().rootfs(Rootfs::system());
        let below = rooted.clone().bind_ro(host.path(), "/data").tmpfs("/data/sub", 4096);
        assert!(works(&below, "touch /data/sub/inside"));
        assert!(!host.path().join("sub/inside").exists());
        let root = ["/usr", "/lib", "/lib64", "/bin"]
            .into_iter()
            .fold(sandbox.mount_ns().chroot(host.path()), |s, p| s.bind_ro(p, p));
        assert!(works(&root.proc("/proc"), "test -e /proc/self"));
        assert_eq!(before, table());
        // What the host mounts later does not appear inside.
        let child = rooted
            .bind_ro(host.path(), "/data")
            .command("sh")
            .args(["-c", "read x; grep -c /data/later /proc/self/mounts"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let later = host.path().join("later");
        assert!(
            std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&later).status().unwrap().success()
        );
        std::io::Write::write_all(&mut child.take_stdin().unwrap(), b"go\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(std::process::Command::new("umount").arg(&later).status().unwrap().success());
        assert_eq!(output.stdout, b"0\n");
    }
}

#[test]
fn a_guardian_that_is_killed_takes_the_program_along() {
    for script in ["kill -KILL $PPID", "kill -STOP $PPID"] {
        let marker = marker("guardian");
        // The program itself: what it had forked would be out of everybody's reach without a guardian.
        let mut command = Sandbox::new().command("bash");
        command.args(["-c", &format!("sleep 0.2; {script}; exec -a {marker} sleep 1000")]);
        let child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        if script.contains("KILL") {
            assert!(matches!(child.wait(), Err(Error::AgentLost { .. })));
        }
        drop(child);
        assert!(start.elapsed() < SOON);
        assert!(eventually(SOON, || alive(&marker).is_empty()), "{script}: {:?}", alive(&marker));
    }
}

#[test]
fn an_end_and_a_kill_at_the_same_time() {
    let prepared = Sandbox::new().pid_ns().prepare().unwrap();
    for round in 0..common::scaled(500) as u64 {
        let child = prepared.command("true").spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round % 50 * 20));
        child.kill().unwrap();
        let verdict = child.wait().unwrap().verdict;
        assert!(matches!(verdict, Verdict::Exited(0) | Verdict::Killed(KilledBy::Host)), "{verdict:?}");
    }
}

#[test]
fn a_pipe_that_somebody_else_keeps_open() {
    // A process outside of the agent's reach has the writing end: the host itself, which gives it away twice.
    let (reader, writer) = std::io::pipe().unwrap();
    let child = all_namespaces()
        .command("sh")
        .args(["-c", "echo out; echo more >&3"])
        .fd(3, writer.try_clone().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"out\n");
    drop((reader, writer));
    // With one stream piped and the other not, nobody spins meanwhile.
    let before = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let child = all_namespaces().command("sleep").arg("0.5").stdout(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap();
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    assert!((after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec) < 200_000_000);
}

#[test]
fn the_hosts_session_keyring_is_not_handed_on() {
    alone("the_hosts_session_keyring_is_not_handed_on", || {
        let tools = directory();
        let source = r#"
            #define _GNU_SOURCE
            #include <stdio.h>
            #include <stdlib.h>
            #include <unistd.h>
            #include <sys/syscall.h>
            int main(int argc, char **argv) { /* 11 is KEYCTL_READ */
                char text[64] = {0};
                long n = syscall(SYS_keyctl, 11L, atol(argv[1]), text, 63L, 0L);
                if (n < 0) return 1;
                puts(text);
                return 0; }"#;
        let read = common::compile(tools.path(), "read-key", source, &[]);
        // SAFETY: the strings end with NUL, and the payload's length is as given. -3 is this session's keyring.
        #[allow(unsafe_code)]
        let key = unsafe {
            libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<u8>());
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                c"stockade-test".as_ptr(),
                c"secret".as_ptr(),
                6usize,
                -3,
            )
        };
        assert!(key > 0, "{}", std::io::Error::last_os_error());
        // Possessed through the session keyring it can be read; a child of the host does.
        let plain = std::process::Command::new(&read).arg(key.to_string()).output().unwrap();
        assert_eq!(plain.stdout, b"secret\n", "the control");
        for sandbox in [Sandbox::new().user_ns(), all_namespaces()] {
            let inside = sandbox.command(&read).arg(key.to_string()).output().unwrap();
            assert_eq!(inside.outcome.verdict, Verdict::Exited(1), "{inside:?}");
        }
    });
}

#[test]
fn a_closed_stream_of_the_host_is_null_inside() {
    alone("a_closed_stream_of_the_host_is_null_inside", || {
        // SAFETY: the harness writes to 1 and 2 when the test is over; it is put back before.
        #[allow(unsafe_code)]
        let saved = unsafe {
            let saved = libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 100);
            libc::close(2);
            saved
        };
        let sandbox = all_namespaces();
        let mut command = sandbox.command("readlink");
        let child = command.arg("/proc/self/fd/2").stdout(Stdio::piped()).spawn();
        let output = child.and_then(|child| child.wait_with_output());
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            libc::dup2(saved, 2);
            libc::close(saved);
        }
        assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout), "/dev/null\n");
    });
}

#[test]
fn a_guardian_in_a_joined_pid_namespace_ends_the_right_processes() {
    if !is_root() {
        skip!("an ordinary user may not join the PID namespace of another sandbox");
    }
    let other = Sandbox::new().pid_ns().command("sleep").arg("1000").spawn().unwrap();
    let namespace = fs::File::open(format!("/proc/{}/ns/pid", other.id())).unwrap();
    let marker = marker("joined");
    let sandbox = Sandbox::new().join_ns(Namespaces::PID, namespace).wall_time_limit(SOON);
    let start = Instant::now();
    let output = sh(&sandbox, &format!("setsid sh -c 'sleep 100; : {marker}' & exit 3"));
    assert_eq!(output.outcome.verdict, Verdict::Exited(3));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(eventually(SOON, || alive(&marker).is_empty()));
    assert!(other.try_wait().unwrap().is_none(), "a stranger in that namespace is not touched");
}

#[test]
fn more_file_systems_than_descriptors() {
    // Each is closed when it is in its place: the agent needs no more descriptors than one has by default.
    alone("more_file_systems_than_descriptors", || {
        let few = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
        let many = (0..200).fold(Sandbox::new().rootfs(Rootfs::system()), |s, n| s.tmpfs(format!("/many/{n}"), 4096));
        assert_eq!(says(&many, "ls /many | wc -l"), "200");
    });
}

#[test]
fn the_terminal_can_be_opened_by_its_name() {
    for uid in [0, 1000] {
        let sandbox = Sandbox::new().user_ns().uid(uid).rootfs(Rootfs::system());
        let mut command = sandbox.command("sh");
        let child = command.args(["-c", ": <>$(tty)"]).stdin(Stdio::pty()).stdout(Stdio::pty()).spawn().unwrap();
        let _master = child.take_pty().unwrap();
        assert!(child.wait().unwrap().success(), "{uid}");
    }
}
