//! Odd and unlucky hosts: busy threads, killed, stopped, forked; outer filters; closed streams.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Child as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{again, alive, all_namespaces, alone, eventually, kill, marker, outer_filter, sleeper};
use stockade::seccomp::{Action, Filter};
use stockade::{Error, Layer, Limit, Rootfs, Sandbox, Verdict};

const SECOND: Duration = Duration::from_secs(1);

/// In the role of the host: launches a sleeper and waits, until it is killed.
fn be_a_host(sandbox: &Sandbox, before: impl FnOnce()) {
    let marker = std::env::var("STOCKADE_MARKER").unwrap();
    let child = sandbox.command("sh").args(["-c", &sleeper(&marker)]).stdout(stockade::Stdio::null()).spawn().unwrap();
    before();
    println!("\nready");
    let _ = child.wait();
    std::thread::sleep(1000 * SECOND);
}

fn is_host(name: &str) -> bool {
    std::env::var("STOCKADE_ALONE").as_deref() == Ok(name)
}

/// Starts this test again in the role of the host, and waits until its sandbox runs.
fn host(name: &str, marker: &str) -> Process {
    let mut host = again(name).env("STOCKADE_MARKER", marker).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "the host is ready");
    assert!(eventually(SECOND, || !alive(marker).is_empty()));
    host
}

fn sandboxes() -> Vec<Sandbox> {
    vec![all_namespaces(), Sandbox::new(), Sandbox::new().as_pid_1()]
}

fn chosen() -> Sandbox {
    sandboxes().swap_remove(std::env::var("STOCKADE_CHOICE").unwrap().parse().unwrap())
}

#[test]
fn ten_thousand_launches_from_a_busy_program() {
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut kept: Vec<Vec<u8>> = vec![];
                let mut size = 1;
                while !stop.load(Ordering::Relaxed) {
                    size = size * 7 % 9973 + 1;
                    kept.push(vec![1; size]);
                    kept.truncate(100 - size % 50);
                }
            })
        })
        .collect();
    let (left, many) = (Arc::new(AtomicUsize::new(0)), common::scaled(10_000));
    let sandboxes = [Sandbox::new().pid_ns(), Sandbox::new(), Sandbox::new().user_ns().mount_ns()];
    let prepared = Arc::new(sandboxes.map(|sandbox| sandbox.prepare().unwrap()));
    let launchers: Vec<_> = (0..4)
        .map(|_| {
            let (left, prepared) = (left.clone(), prepared.clone());
            std::thread::spawn(move || {
                loop {
                    let number = left.fetch_add(1, Ordering::Relaxed);
                    if number >= many {
                        return;
                    }
                    let child = prepared[number % 3].command("/bin/true").spawn().unwrap();
                    let outcome = child.wait_timeout(60 * SECOND).unwrap().expect("no hang");
                    assert!(outcome.success());
                }
            })
        })
        .collect();
    for launcher in launchers {
        launcher.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
}

#[test]
fn a_killed_host_leaves_nothing_alive() {
    const NAME: &str = "a_killed_host_leaves_nothing_alive";
    if is_host(NAME) {
        return be_a_host(&chosen(), || {});
    }
    for choice in 0..sandboxes().len() {
        let marker = marker("killed");
        let mut host = {
            set_choice(choice);
            host(NAME, &marker)
        };
        host.kill().unwrap();
        host.wait().unwrap();
        assert!(eventually(SECOND, || alive(&marker).is_empty()), "{choice}: {:?}", alive(&marker));
    }
}

fn set_choice(choice: usize) {
    // SAFETY: of the tests of this binary only those set it that also read it back in another process, one at a time
    // each; a mix-up would only change which sandbox is tried.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("STOCKADE_CHOICE", choice.to_string());
    }
}

#[test]
fn a_fork_of_the_host_does_not_keep_it_alive() {
    const NAME: &str = "a_fork_of_the_host_does_not_keep_it_alive";
    if is_host(NAME) {
        return be_a_host(&all_namespaces(), || {
            // It has a copy of every descriptor, the control socket among them.
            common::fork(|| std::thread::sleep(20 * SECOND));
        });
    }
    let marker = marker("forked");
    let mut host = host(NAME, &marker);
    let fork: Vec<u32> = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.id()))
        .into_iter()
        .chain(
            std::fs::read_dir(format!("/proc/{}/task", host.id()))
                .unwrap()
                .flatten()
                .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()),
        )
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(eventually(SECOND, || alive(&marker).is_empty()), "{:?}", alive(&marker));
    // The fork was alive all the time.
    let mut forks = fork.into_iter().filter(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        !name.is_empty() && name != "stockade\n"
    });
    let fork = forks.next().expect("the fork is still there");
    kill(fork, libc::SIGKILL);
}

#[test]
fn a_stopped_hosts_child_dies_at_its_deadline() {
    const NAME: &str = "a_stopped_hosts_child_dies_at_its_deadline";
    if is_host(NAME) {
        return be_a_host(&all_namespaces().wall_time_limit(SECOND), || {});
    }
    let marker = marker("stopped");
    let mut host = host(NAME, &marker);
    kill(host.id(), libc::SIGSTOP);
    assert!(eventually(4 * SECOND, || alive(&marker).is_empty()), "{:?}", alive(&marker));
    kill(host.id(), libc::SIGCONT);
    host.kill().unwrap();
    host.wait().unwrap();
}

#[test]
fn a_thread_that_ends_does_not_take_its_child_along() {
    for sandbox in sandboxes() {
        let child = std::thread::spawn(move || sandbox.command("sleep").arg("0.5").spawn().unwrap()).join().unwrap();
        std::thread::sleep(SECOND / 5);
        assert!(child.try_wait().unwrap().is_none());
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_host_without_streams() {
    alone("a_host_without_streams", || {
        for descriptor in [0, 1, 2] {
            // SAFETY: the harness prints to 1 and 2 only when the test is over; they are put back before that.
            #[allow(unsafe_code)]
            let saved = unsafe {
                let saved = libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 100);
                libc::close(descriptor);
                saved
            };
            let mut command = all_namespaces().command("echo");
            let result = command.arg("here").stdin(stockade::Stdio::null()).output();
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                libc::dup2(saved, descriptor);
                libc::close(saved);
            }
            assert_eq!(result.unwrap().stdout, b"here\n", "{descriptor}");
        }
    });
}

#[test]
fn an_outer_filter_that_does_not_know_newer_calls_is_worked_around() {
    alone("an_outer_filter_that_does_not_know_newer_calls_is_worked_around", || {
        // As Docker's profile answers clone3; and openat2 and close_range by runtimes that are older than the calls.
        outer_filter(&[libc::SYS_clone3, libc::SYS_openat2, libc::SYS_close_range], libc::ENOSYS);
        let sandbox = all_namespaces().rootfs(Rootfs::system()).bind_ro("/etc", "/a/b/etc");
        assert_eq!(common::says(&sandbox, "ls -d /a/b/etc; pwd"), "/a/b/etc\n/");
        let output = sandbox.command("pwd").current_dir("/a/b").output().unwrap();
        assert_eq!(output.stdout, b"/a/b\n");
        // Where the filter comes before the directory, it has to let that be found. (dash(1) makes no statx(2) itself.)
        let strict = Filter::default_profile().deny("statx", Action::Kill);
        let pool = sandbox.clone().seccomp(strict).pool(1).unwrap();
        let output = pool.command("sh").args(["-c", "pwd"]).current_dir("/a/b").output().unwrap();
        assert_eq!(output.stdout, b"/a/b\n", "{output:?}");
        let open =
            common::says(&sandbox, "for fd in /proc/self/fd/*; do echo ${fd##*/}; done | sort -n | tr '\\n' ' '");
        assert!(open == "0 1 2" || open == "0 1 2 3", "{open}");
        // No link is followed without openat2: an error, never a guess.
        let error = sandbox.symlink("a", "/link").bind_ro("/etc", "/link/b/etc").command("true").status().unwrap_err();
        assert!(error.to_string().contains("seccomp"), "{error}");
    });
}

fn refused_by_an_outer_filter(name: &str, call: i64, errno: i32, sandbox: impl Fn() -> Sandbox, layer: Layer) {
    alone(name, || {
        assert!(sandbox().command("true").status().unwrap().success(), "the control: it works without the filter");
        outer_filter(&[call], errno);
        let before = common::belongings();
        let error = sandbox().command("true").status().unwrap_err();
        match &error {
            Error::Unsupported { layer: found, reason, .. } => {
                assert!(*found == layer && reason.contains("seccomp"), "{error}");
            }
            _ => panic!("{error:?}"),
        }
        assert_eq!(before, common::belongings());
    });
}

#[test]
fn an_outer_filter_on_unshare_is_named() {
    let name = "an_outer_filter_on_unshare_is_named";
    let only = || Sandbox::new().user_ns().net_ns();
    refused_by_an_outer_filter(name, libc::SYS_unshare, libc::EPERM, only, Layer::UserNs);
}

#[test]
fn an_outer_filter_on_mounts_is_named() {
    let name = "an_outer_filter_on_mounts_is_named";
    let rootfs = || Sandbox::new().user_ns().rootfs(Rootfs::system());
    refused_by_an_outer_filter(name, libc::SYS_move_mount, libc::ENOSYS, rootfs, Layer::Mounts);
}

#[test]
fn an_outer_filter_on_mount_attributes_is_named() {
    let name = "an_outer_filter_on_mount_attributes_is_named";
    let rootfs = || Sandbox::new().user_ns().rootfs(Rootfs::system());
    refused_by_an_outer_filter(name, libc::SYS_mount_setattr, libc::EPERM, rootfs, Layer::Mounts);
}

#[test]
fn an_outer_filter_on_pidfds_is_named() {
    let name = "an_outer_filter_on_pidfds_is_named";
    refused_by_an_outer_filter(name, libc::SYS_pidfd_open, libc::ENOSYS, Sandbox::new, Layer::Stage);
}

#[test]
fn a_fast_program_is_never_lost() {
    // One that has ended before the host has heard that it began.
    let directory = common::directory();
    let program = common::compile(directory.path(), "fast", "int main(void){return 3;}", &["-static"]);
    for sandbox in sandboxes() {
        let prepared = sandbox.prepare().unwrap();
        for _ in 0..common::scaled(300) {
            assert_eq!(prepared.command(&program).status().unwrap().verdict, Verdict::Exited(3));
        }
    }
}

#[test]
fn deadlines_hold_among_many() {
    let sandbox = Sandbox::new().pid_ns().wall_time_limit(SECOND / 2).prepare().unwrap();
    let children: Vec<_> = (0..50).map(|_| sandbox.command("sleep").arg("1000").spawn().unwrap()).collect();
    for child in children {
        assert_eq!(child.wait().unwrap().verdict, Verdict::LimitExceeded(Limit::WallTime));
    }
}
