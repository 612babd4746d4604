//! `hardened()`: what it has, what stands in for what, and that each element can be changed.

use std::fs;

use stockade::seccomp::Filter;
use stockade::{Capabilities, Layer, Layers, Limit, Resource, Rootfs, Sandbox, Stdio, Support, Verdict};

use crate::common::{self, is_root, says, works};
use crate::programs::{PROBE, attempt, probe};
use crate::skip;

fn hardened() -> Sandbox {
    Sandbox::hardened().bind_ro(&*PROBE, "/probe")
}

#[test]
fn what_it_has() {
    let report = Sandbox::hardened().check().unwrap();
    let namespaces = Layers::USER_NS
        | Layers::PID_NS
        | Layers::MOUNT_NS
        | Layers::NET_NS
        | Layers::IPC_NS
        | Layers::UTS_NS
        | Layers::CGROUP_NS
        | Layers::TIME_NS;
    let always = namespaces | Layers::TREE_KILL | Layers::BOUNDING_SET | Layers::SECCOMP;
    assert!(report.in_force().contains(always), "{report}");
    assert_eq!(report.in_force().contains(Layers::LANDLOCK), Support::probe().missing(Layer::Landlock).is_none());
    // Tasks are limited by a cgroup, or it says what stands in for that, and why.
    let stands_in = report.notes().iter().any(|note| note.contains("RLIMIT_NPROC"));
    assert_ne!(report.in_force().contains(Layers::PIDS), stands_in, "{report}");
    assert_eq!(report.missing().iter().any(|missing| missing.layer == Layer::Pids), stands_in, "{report}");
    assert!(report.missing().iter().all(|missing| missing.layer == Layer::Pids), "{report}");
    assert!(!report.notes().iter().any(|note| note.contains("the host's uid 0")), "{report}");

    let sandbox = Sandbox::hardened();
    let status = says(&sandbox, "cat /proc/self/status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {status}"));
        line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid"), "1000 1000 1000 1000");
    assert_eq!(field("Gid"), "1000 1000 1000 1000");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
    assert_eq!(says(&sandbox, "hostname; pwd; ulimit -Hn; ulimit -Hf; cat /proc/self/limits | grep core"), {
        // In blocks of 512 bytes.
        let core = "Max core file size        1                    1                    bytes     ";
        format!("sandbox\n/work\n1024\n{}\n{}", (256 << 20) / 512, core.trim_end())
    });
    // Devices of the network: its own loopback.
    assert_eq!(says(&sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo");
    assert!(works(&sandbox, "echo x > /tmp/a && echo x > /work/a && cat /work/a && echo > /dev/null && rm /work/a"));
    for no in
        ["echo > /usr/a", "echo > /a", "echo > /etc/a", "echo > /dev/a", "echo > /proc/sys/kernel/hostname", "ls /home"]
    {
        assert!(!works(&sandbox, no), "{no}");
    }
}

#[test]
fn as_root_it_is_nobody_of_the_host() {
    let child = Sandbox::hardened().command("sleep").arg("100").spawn().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(|id| id.parse().unwrap()).collect()
    };
    let own = rustix::process::getuid().as_raw();
    for name in ["Uid:", "Gid:"] {
        let ids = ids(name);
        if is_root() {
            assert!(ids.iter().all(|id| *id >= 0x7000_0000), "{name} {ids:?}: ids that nobody has");
        } else {
            assert!(ids.iter().all(|id| *id != 0), "{name} {ids:?}");
        }
    }
    if !is_root() {
        assert_eq!(ids("Uid:"), [own; 4]);
    }
    // The twin: asked for by name.
    if is_root() {
        let root = Sandbox::hardened().uid_map(1000, 0, 1).gid_map(1000, 0, 1);
        assert!(root.prepare().is_err(), "not without the word for it");
        let child = root.map_host_root().command("sleep").arg("100").spawn().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        assert!(status.contains("Uid:\t0\t0\t0\t0"), "{status}");
        assert!(child.report().notes().iter().any(|note| note.contains("the host's uid 0")), "{}", child.report());
    }
}

#[test]
fn a_fork_bomb_is_held() {
    for most in [256, 20] {
        let sandbox = hardened().pids_limit(most);
        let count = attempt(&sandbox, "/probe", "bomb,2000");
        let most = i32::try_from(most).unwrap();
        // Itself is one of them; RLIMIT_NPROC counts the agent too where it is of the same user.
        assert!((most - 2..most).contains(&count), "{count} of {most}");
    }
    // Several at once have a limit each.
    let sandbox = hardened().pids_limit(50).prepare().unwrap();
    let children: Vec<_> =
        (0..3).map(|_| sandbox.command("/probe").arg("bomb,2000").stdout(Stdio::piped()).spawn().unwrap()).collect();
    for child in children {
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let count: u32 = text.trim().strip_prefix("bomb ").unwrap().parse().unwrap();
        assert!((48..50).contains(&count), "{count} of 50");
    }
}

/// On an ordinary machine an ordinary user has no cgroup to put it into.
#[test]
fn without_a_cgroup_rlimit_nproc_stands_in() {
    const NAME: &str = "hardened::without_a_cgroup_rlimit_nproc_stands_in";
    if !is_root() && Support::probe().missing(Layer::Pids).is_none() {
        skip!("this user has cgroups; root tries it as one who has none");
    }
    // Compiled as who may write to the directory.
    let _ = PROBE.as_path();
    common::alone(NAME, || {
        let probe = hardened();
        become_ordinary();
        let report = probe.check().unwrap();
        assert!(report.missing().iter().any(|missing| missing.layer == Layer::Pids), "{report}");
        assert!(report.notes().iter().any(|note| note.contains("RLIMIT_NPROC")), "{report}");
        assert_eq!(says(&probe, "cat /proc/self/limits | grep 'Max processes' | awk '{print $4}'"), "257");
        let count = attempt(&probe, "/probe", "bomb,2000");
        assert!((254..=256).contains(&count), "{count}");
        let free = attempt(&probe.clone().rlimit(Resource::Processes, 400), "/probe", "bomb,380");
        assert_eq!(free, 380, "the twin: another limit");
        // It reads a file, computes and writes all the same.
        assert!(works(&probe, "echo x > /work/a && cat /work/a"));
        // What is not hardened() has no stand-in.
        let plain = Sandbox::new().user_ns().pids_limit(10).prepare();
        assert!(matches!(plain, Err(stockade::Error::Unsupported { layer: Layer::Pids, .. })), "{plain:?}");
    });
}

/// uid 1000 from now on, without groups, with no cgroup that it could write to.
#[allow(unsafe_code)]
fn become_ordinary() {
    if !is_root() {
        return;
    }
    // SAFETY: numbers only. The last makes /proc/self its own again, which a change of ids has taken away.
    let done = unsafe {
        [
            libc::setgroups(0, std::ptr::null()),
            libc::setresgid(1000, 1000, 1000),
            libc::setresuid(1000, 1000, 1000),
            libc::prctl(libc::PR_SET_DUMPABLE, 1),
        ]
    };
    assert_eq!(done, [0; 4]);
}

#[test]
fn every_element_can_be_changed() {
    let directory = common::directory();
    common::open(&directory);
    // Files.
    assert!(works(&hardened().bind_rw(directory.path(), "/data"), "echo x > /data/file"));
    assert_eq!(fs::read_to_string(directory.path().join("file")).unwrap(), "x\n");
    assert!(!works(&hardened().bind_ro(directory.path(), "/data"), "echo x > /data/file"));
    assert!(works(&hardened().tmpfs("/scratch", 1 << 20), "echo x > /scratch/file"));
    assert!(works(&hardened().uid(0).rootfs(Rootfs::system()), "echo x > /file"), "a root that can be written to");
    assert!(!works(&hardened().uid(0), "echo x > /file"), "the twin");
    let own = common::directory();
    fs::create_dir(own.path().join("work")).unwrap();
    fs::copy(&*PROBE, own.path().join("probe")).unwrap();
    assert_eq!(attempt(&Sandbox::hardened().chroot(own.path()), "/probe", "read,/usr"), libc::ENOENT, "another root");
    assert_eq!(says(&hardened().current_dir("/tmp"), "pwd"), "/tmp");
    // Names and ids.
    assert_eq!(says(&hardened().hostname("other"), "hostname"), "other");
    assert_eq!(says(&hardened().uid(7).gid(8), "id -u; id -g"), "7\n8");
    assert_eq!(says(&hardened().uid(0), "id -u; cat /proc/self/uid_map | awk '{print $2 != 0}'"), "0\n1");
    // Limits, up and down.
    assert_eq!(says(&hardened().rlimit(Resource::OpenFiles, 64), "ulimit -Hn"), "64");
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if files >= 2048 {
        assert_eq!(says(&hardened().rlimit(Resource::OpenFiles, 2048), "ulimit -Hn"), "2048");
    }
    let dd = "dd if=/dev/zero of=/tmp/big bs=1M count=2 2>/dev/null";
    assert!(works(&hardened(), dd));
    let output = common::sh(&hardened().rlimit(Resource::FileSize, 1 << 20), dd);
    assert_eq!(output.outcome.verdict, Verdict::Exited(128 + libc::SIGXFSZ), "the shell says how dd ended");
    let direct =
        hardened().rlimit(Resource::FileSize, 1 << 20).command("dd").args(dd.split(' ').skip(1).take(4)).status();
    assert_eq!(direct.unwrap().verdict, Verdict::LimitExceeded(Limit::FileSize));
    // Capabilities by name.
    let ping = hardened().keep_capabilities(Capabilities::NET_BIND_SERVICE);
    assert_eq!(attempt(&hardened(), "/probe", "bind,80"), libc::EACCES);
    assert_eq!(attempt(&ping, "/probe", "bind,80"), 0);
    // The filter: made stricter, and taken away by a name that says so.
    let attempts = ["io_uring", "socket,16,3,15", "pair"];
    let errnos = |sandbox: &Sandbox| -> Vec<i32> { probe(sandbox, "/probe", &attempts).iter().map(|a| a.1).collect() };
    assert_eq!(errnos(&hardened()), [libc::ENOSYS, libc::EAFNOSUPPORT, 0]);
    let strict = Filter::deny_list().deny("socketpair", stockade::seccomp::Action::Errno(77));
    assert_eq!(errnos(&hardened().seccomp(strict.clone())), [libc::ENOSYS, libc::EAFNOSUPPORT, 77]);
    let weak = hardened().without_seccomp();
    assert!(!weak.check().unwrap().in_force().contains(Layers::SECCOMP));
    assert_eq!(errnos(&weak)[1..], [0, 0]);
    assert_eq!(errnos(&weak.seccomp(strict))[1..], [0, 77], "another in its place");
    // Landlock.
    if Support::probe().missing(Layer::Landlock).is_none() {
        let weak = hardened().without_landlock();
        assert!(!weak.check().unwrap().in_force().contains(Layers::LANDLOCK));
        assert!(works(&weak, "echo x > /work/a"));
        let tight = stockade::landlock::Rules::new()
            .path("/", stockade::landlock::Access::READ | stockade::landlock::Access::EXECUTE);
        assert!(!works(&hardened().landlock(tight), "echo x > /work/a"));
    }
}

#[test]
fn no_namespaces_inside_even_without_the_filter() {
    const NEWUSER: &str = "unshare,268435456";
    assert_eq!(attempt(&hardened(), "/probe", NEWUSER), libc::EPERM, "by the filter");
    assert_eq!(attempt(&hardened().without_seccomp(), "/probe", NEWUSER), libc::ENOSPC, "by the kernel's limit");
    assert_eq!(attempt(&common::all_namespaces(), PROBE.to_str().unwrap(), NEWUSER), 0, "the twin");
}

#[test]
fn an_ordinary_user_needs_nothing_of_the_machine() {
    if is_root() {
        skip!("it is about an ordinary user");
    }
    let report = hardened().check().unwrap();
    assert!(report.in_force().contains(Layers::USER_NS | Layers::SECCOMP), "{report}");
    // Nodes are the host's, bound: no mknod.
    assert!(works(&hardened(), "test -c /dev/null && head -c 1 /dev/urandom >/dev/null && echo > /dev/null"));
}
