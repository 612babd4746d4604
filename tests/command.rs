//! Commands: what the program gets, and how it is found.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use common::{all_namespaces, directory, says, sh};
use stockade::{Error, Limit, Rootfs, Sandbox, Stdio, Verdict};

#[test]
fn runs_a_program() {
    let outcome = Sandbox::new().command("/bin/true").status().unwrap();
    assert_eq!(outcome.verdict, Verdict::Exited(0));
    assert!(outcome.success() && outcome.status.success());
    let outcome = Sandbox::new().command("/bin/false").status().unwrap();
    assert_eq!((outcome.verdict.clone(), outcome.code()), (Verdict::Exited(1), Some(1)));
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let sandbox = all_namespaces();
    for code in [1, 2, 125, 126, 127, 137, 255] {
        assert_eq!(sh(&sandbox, &format!("exit {code}")).outcome.verdict, Verdict::Exited(code));
    }
    for (name, number) in [("SEGV", 11), ("KILL", 9), ("TERM", 15), ("ABRT", 6)] {
        let verdict = sh(&sandbox, &format!("kill -{name} $$")).outcome.verdict;
        assert!(matches!(verdict, Verdict::Signaled(signal) if signal.number() == number), "{name}: {verdict:?}");
    }
}

#[test]
fn the_environment_is_empty_but_for_path() {
    let output = Sandbox::new().command("/usr/bin/env").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PATH=/usr/local/bin:/usr/bin:/bin\n");
    let output =
        Sandbox::new().command("/usr/bin/env").env_clear().env("A", "1").envs([("B", "x=y")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "A=1\nB=x=y\n");
    let output =
        Sandbox::new().command("/usr/bin/env").env("A", "1").env_remove("A").env_remove("PATH").output().unwrap();
    assert_eq!(output.stdout, b"");
}

#[test]
fn arguments_arrive_as_they_are() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"\xff\x01 'quoted' $x\n");
    let output = Sandbox::new().command("printf").arg("%s|%s|%s").args(["", "two words"]).arg(odd).output().unwrap();
    assert_eq!(output.stdout, b"|two words|\xff\x01 'quoted' $x\n");
    // Many and long ones, beyond any buffer of the launch itself.
    let many = vec!["x".repeat(100); 5000];
    let output = Sandbox::new().command("sh").args(["-c", "echo $#", "sh"]).args(&many).output().unwrap();
    assert_eq!(output.stdout, b"5000\n");
}

#[test]
fn the_program_is_looked_up_in_the_sandboxes_path() {
    let directory = directory();
    std::fs::create_dir_all(directory.path().join("first")).unwrap();
    std::fs::create_dir_all(directory.path().join("second")).unwrap();
    for (place, text) in [("first/tool", "not executable"), ("second/tool", "#!/bin/sh\necho second\n")] {
        std::fs::write(directory.path().join(place), text).unwrap();
    }
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path().join("second/tool"), executable).unwrap();
    let sandbox = Sandbox::new().rootfs(Rootfs::system()).bind_ro(directory.path(), "/opt/tools");
    // One that may not be executed is passed over, as execvp does.
    let path = "/nowhere:/opt/tools/first:/opt/tools/second";
    let output = sandbox.command("tool").env("PATH", path).output().unwrap();
    assert_eq!(output.stdout, b"second\n");
    // If it is the only one, that is what there is to say.
    let error = sandbox.command("tool").env("PATH", "/nowhere:/opt/tools/first").status().unwrap_err();
    assert!(matches!(&error, Error::Exec { source, .. } if source.raw_os_error() == Some(libc::EACCES)), "{error}");
    // The host's PATH counts for nothing.
    let error = sandbox.command("tool").status().unwrap_err();
    assert!(matches!(&error, Error::Exec { source, .. } if source.raw_os_error() == Some(libc::ENOENT)), "{error}");
}

#[test]
fn working_directory() {
    let sandbox = all_namespaces().rootfs(Rootfs::system()).dir("/work/deep");
    let pwd =
        |directory: &str| sandbox.command("pwd").env_remove("PWD").arg("-P").current_dir(directory).output().unwrap();
    assert_eq!(pwd("/work/deep").stdout, b"/work/deep\n");
    assert_eq!(pwd("work").stdout, b"/work\n");
    assert_eq!(pwd("/../../work").stdout, b"/work\n");
    assert_eq!(says(&sandbox, "pwd -P"), "/");
    // Without a root of its own, the host's.
    let here = std::env::current_dir().unwrap();
    assert_eq!(says(&Sandbox::new().pid_ns(), "pwd -P"), here.to_string_lossy());
    let output = Sandbox::new().pid_ns().command("pwd").arg("-P").current_dir("/usr/bin").output().unwrap();
    assert_eq!(output.stdout, b"/usr/bin\n");
}

#[test]
fn streams() {
    // Null unless set.
    assert_eq!(says(&Sandbox::new(), "cat; readlink /proc/self/fd/0"), "/dev/null");
    // Files.
    let mut file = tempfile::tempfile().unwrap();
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(b"from a file").unwrap();
    input.rewind().unwrap();
    let outcome = Sandbox::new().command("cat").stdin(input).stdout(file.try_clone().unwrap()).status().unwrap();
    assert!(outcome.success());
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from a file");
    // Pipes, both ways.
    let child = all_namespaces()
        .command("tr")
        .args(["a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.take_stdin().unwrap(), child.take_stdout().unwrap());
    assert!(child.take_stdin().is_none() && child.take_stderr().is_none() && child.take_pty().is_none());
    stdin.write_all(b"through").unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "THROUGH");
    assert!(child.wait().unwrap().success());
}

#[test]
fn wait_closes_a_piped_stdin() {
    let child = Sandbox::new().pid_ns().command("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn only_what_was_handed_over_is_open() {
    // Not close-on-exec, as a careless host has them.
    let leak = File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let count = "for fd in /proc/self/fd/*; do echo ${fd##*/}; done | sort -n | tr '\\n' ' '";
    for sandbox in [Sandbox::new(), all_namespaces(), all_namespaces().rootfs(Rootfs::system())] {
        // 3 is the shell's glob of the directory, if it is open at all at that moment.
        let open = says(&sandbox, count);
        assert!(open == "0 1 2" || open == "0 1 2 3", "{open}");
    }
    drop(leak);
}

#[test]
fn extra_descriptors() {
    let file = |text: &str| -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file.into()
    };
    let script = "cat <&7; cat <&3; cat <&200; for fd in /proc/self/fd/*; do echo ${fd##*/}; done | sort -n | tail -1";
    let output = all_namespaces()
        .command("/bin/bash")
        .args(["-c", script])
        .fd(200, file("c"))
        .fd(7, file("a"))
        .fd(3, file("b"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().next(), Some("abc200"), "{output:?}");
    // Targets that are the numbers at which they arrive, in every order.
    let mut command = Sandbox::new().command("/bin/bash");
    command.args(["-c", "for n in 3 4 5 6 7 8 9 10 11 12; do read -u $n x; echo -n $x; done"]);
    for target in [12, 3, 11, 4, 10, 5, 9, 6, 8, 7] {
        command.fd(target, file(&format!("{target},\n")));
    }
    assert_eq!(command.output().unwrap().stdout, b"3,4,5,6,7,8,9,10,11,12,");
}

#[test]
fn output_does_not_deadlock_on_two_full_pipes() {
    let script = "head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2";
    let output = sh(&all_namespaces(), script);
    assert!(output.outcome.success());
    assert_eq!((output.stdout.len(), output.stderr.len()), (1_000_000, 2_000_000));
}

#[test]
fn output_limit() {
    let sandbox = all_namespaces().output_limit(1000);
    let output = sh(&sandbox, "yes");
    assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::Output));
    assert_eq!(output.stdout.len(), 1000);
    // Both streams count together; exactly as much is allowed.
    let output = sh(&sandbox, "head -c 400 /dev/zero; head -c 600 /dev/zero >&2");
    assert!(output.outcome.success());
    assert_eq!((output.stdout.len(), output.stderr.len()), (400, 600));
    let output = sh(&sandbox, "head -c 400 /dev/zero; head -c 601 /dev/zero >&2; sleep 100");
    assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::Output));
    assert_eq!(output.stdout.len() + output.stderr.len(), 1000);
}

#[test]
fn output_ends_with_the_program_whatever_it_leaves_running() {
    let start = std::time::Instant::now();
    let output = sh(&all_namespaces(), "sleep 1000 & echo done");
    assert_eq!(output.stdout, b"done\n");
    assert!(start.elapsed().as_secs() < 100);
}

#[test]
fn a_terminal_of_its_own() {
    // In the sandbox's devpts, where there is one; else of the host's.
    for (sandbox, name) in [(all_namespaces().rootfs(Rootfs::system()), Some("/dev/pts/0")), (all_namespaces(), None)] {
        let mut command = sandbox.command("/bin/sh");
        command.args(["-c", "tty; test -t 0 && test -t 1 && test -t 2 && echo three; read x; echo got $x; : >/dev/tty && echo controlling"]);
        let child = command.stdin(Stdio::pty()).stdout(Stdio::pty()).stderr(Stdio::pty()).spawn().unwrap();
        let mut pty = child.take_pty().unwrap();
        assert!(child.take_pty().is_none());
        pty.write_all(b"typed\n").unwrap();
        assert!(child.wait().unwrap().success());
        let mut text = vec![0; 4096];
        let mut said = String::new();
        // A master without a slave reads what is left, and then EIO.
        while let Ok(len) = pty.read(&mut text) {
            said.push_str(&String::from_utf8_lossy(&text[..len]));
        }
        let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
        for line in ["three", "got typed", "controlling"] {
            assert!(lines.contains(&line), "{line} in {said:?}");
        }
        if let Some(name) = name {
            assert!(lines.contains(&name), "{name} in {said:?}");
        }
    }
}

#[test]
fn its_own_session_without_a_terminal() {
    // Session and process group are its own: the pid of the shell, as field 6 and 5 of its stat.
    let said = says(&Sandbox::new(), "read -r p c s pp g sid rest </proc/self/stat; echo $((g == p)) $((sid == p))");
    assert_eq!(said, "1 1");
    assert!(!common::works(&Sandbox::new(), ": </dev/tty"));
}

#[test]
fn a_command_can_be_spawned_again() {
    let mut command = Sandbox::new().pid_ns().command("echo");
    command.arg("again");
    for _ in 0..3 {
        assert_eq!(command.output().unwrap().stdout, b"again\n");
    }
}
