//! Landlock, in twins: refused without the right, working with it.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use stockade::landlock::{Access, Rules};
use stockade::{Error, Layer, Layers, Overlay, Rootfs, Sandbox, Step, Support};

use crate::common::{self, is_root, says, works};
use crate::programs::{PROBE, attempt, probe};
use crate::skip;

const READ: Access = Access::READ.union(Access::EXECUTE);

fn abi() -> u32 {
    let support = Support::probe();
    let remark = support.layers().find(|(layer, _)| *layer == Layer::Landlock).and_then(|(_, result)| result.ok());
    remark.and_then(|remark| remark.strip_prefix("ABI ")?.parse().ok()).unwrap_or(0)
}

/// Skips the test where the kernel's Landlock is not of this ABI.
macro_rules! needs {
    ($abi:expr) => {
        if abi() < $abi {
            skip!("the kernel's Landlock has ABI {}, this needs {}", abi(), $abi);
        }
    };
}

/// A directory with something of each kind.
fn filled() -> tempfile::TempDir {
    let directory = common::directory();
    let path = directory.path();
    for sub in ["full", "other", "empty"] {
        fs::create_dir(path.join(sub)).unwrap();
        fs::set_permissions(path.join(sub), fs::Permissions::from_mode(0o777)).unwrap();
    }
    for file in ["file", "old", "full/file", "long"] {
        fs::write(path.join(file), "content").unwrap();
        fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o666)).unwrap();
    }
    fs::copy("/bin/true", path.join("program")).unwrap();
    directory
}

/// A root with that directory at `/w` and the program at `/probe`.
fn rooted(directory: &Path) -> Sandbox {
    Sandbox::new().rootfs(Rootfs::system()).bind_rw(directory, "/w").bind_ro(&*PROBE, "/probe")
}

#[test]
fn each_right() {
    needs!(5);
    let attempts = [
        (Access::EXECUTE, "exec,/w/program"),
        (Access::WRITE_FILE, "write,/w/file"),
        (Access::READ_FILE, "read,/w/file"),
        (Access::READ_DIR, "readdir,/w/full"),
        (Access::REMOVE_DIR, "rmdir,/w/empty"),
        (Access::REMOVE_FILE, "unlink,/w/old"),
        (Access::MAKE_CHAR, "mkchar,/w/char"),
        (Access::MAKE_DIR, "mkdir,/w/new"),
        (Access::MAKE_REG, "mkreg,/w/fresh"),
        (Access::MAKE_SOCK, "mksock,/w/sock"),
        (Access::MAKE_FIFO, "mkfifo,/w/fifo"),
        (Access::MAKE_BLOCK, "mkblock,/w/block"),
        (Access::MAKE_SYM, "mksym,/w/sym"),
        (Access::REFER, "link,/w/full/file,/w/other/linked"),
        (Access::TRUNCATE, "truncate,/w/long"),
        (Access::IOCTL_DEV, "ioctl,/dev/null"),
    ];
    assert_eq!(attempts.iter().fold(Access::empty(), |all, (access, _)| all | *access), Access::all());
    let run = |access: Access| {
        let directory = filled();
        let rules = Rules::new().path("/", access).path("/probe", READ);
        let sandbox = rooted(directory.path()).landlock(rules);
        probe(&sandbox, "/probe", &attempts.map(|(_, attempt)| attempt))
    };
    let refused = |access: Access, found: &[(String, i32)]| {
        let refused = found.iter().zip(attempts).filter(|((_, errno), (right, _))| {
            *errno == if *right == Access::REFER && access == Access::REFER { libc::EXDEV } else { libc::EACCES }
        });
        refused.fold(Access::empty(), |all, (_, (access, _))| all | access)
    };
    // With all rights everything works, as far as the kernel ever lets it: a block device is for who has CAP_MKNOD, and
    // no device knows that ioctl.
    for (index, (word, errno)) in run(Access::all()).iter().enumerate() {
        let expected = match &**word {
            "mkblock" => libc::EPERM,
            "ioctl" => libc::ENOTTY,
            _ => 0,
        };
        assert_eq!(*errno, expected, "{}", attempts[index].1);
    }
    for (right, what) in attempts {
        let found = run(Access::all() - right);
        let expected = match right {
            // To be linked is to be made in another directory.
            Access::MAKE_REG => right | Access::REFER,
            Access::READ_FILE => {
                // A device that cannot be opened gets no ioctl.
                assert_eq!(found[15].1, libc::EBADF, "{found:?}");
                right | Access::EXECUTE
            }
            right => right,
        };
        assert_eq!(refused(right, &found), expected, "{what}: {found:?}");
    }
}

#[test]
fn rules_count_together_and_below_their_path() {
    needs!(1);
    let directory = filled();
    let rules = Rules::new()
        .path("/", Access::EXECUTE)
        .path("/probe", READ)
        .path("/w/full", Access::READ)
        .path("/w/file", Access::READ_FILE);
    let sandbox = rooted(directory.path()).landlock(rules.clone());
    let attempts = ["read,/w/file", "read,/w/full/file", "readdir,/w/full", "read,/w/old", "readdir,/w"];
    let found: Vec<_> = probe(&sandbox, "/probe", &attempts).iter().map(|(_, errno)| *errno).collect();
    assert_eq!(found, [0, 0, 0, libc::EACCES, libc::EACCES]);
    let without: Vec<_> = probe(&sandbox.without_landlock(), "/probe", &attempts).iter().map(|(_, e)| *e).collect();
    assert_eq!(without, [0; 5], "the twin");
    // Nothing at all, but for the program.
    let rules = Rules::new().no_files().path("/probe", READ);
    let none: Vec<_> =
        probe(&rooted(directory.path()).landlock(rules), "/probe", &attempts).iter().map(|(_, e)| *e).collect();
    assert_eq!(none, [libc::EACCES; 5]);
}

#[test]
fn rules_on_what_is_made_for_the_sandbox() {
    needs!(3);
    let base = || Rules::new().path("/", READ).path("/dev", Access::all());
    let write = Access::READ | Access::WRITE;
    for sandbox in [common::all_namespaces(), Sandbox::new()] {
        let sandbox = sandbox.rootfs(Rootfs::system()).tmpfs("/t", 1 << 20).dir("/t/sub/deep");
        let touch = "touch /t/file";
        assert!(!works(&sandbox.clone().landlock(base()), touch));
        assert!(works(&sandbox.clone().landlock(base().path("/t", write)), touch));
        let deep = sandbox.landlock(base().path("/t/sub/deep", write));
        assert!(!works(&deep, touch));
        assert!(works(&deep, "cd /t/sub/deep && echo > a && mv a b && rm b"));
    }
    if let Some(missing) = Support::probe().missing(Layer::Overlay) {
        skip!("no overlay here: {}", missing.reason);
    }
    let lower = filled();
    common::open(&lower);
    // No user namespace for root: what belongs to no id of it cannot be copied up.
    let sandbox = Sandbox::new().rootfs(Rootfs::system()).overlay("/o", Overlay::new(lower.path()));
    let write_to = "echo more >> /o/file && echo > /o/new";
    assert!(!works(&sandbox.clone().landlock(base()), write_to));
    assert!(works(&sandbox.clone().landlock(base().path("/o", write)), write_to));
    assert!(works(&sandbox, write_to), "the twin");
}

#[test]
fn paths_that_may_be_missing_and_those_that_may_not() {
    needs!(1);
    let sandbox = || Sandbox::new().rootfs(Rootfs::system());
    let rules = || Rules::new().path("/", READ).path("/dev", Access::all());
    let error = sandbox().landlock(rules().path("/no/such", READ)).command("true").status().unwrap_err();
    match &error {
        Error::Setup { step: Step::LandlockRules, subject, source, .. } => {
            assert!(subject.contains("/no/such"), "{error}");
            assert_eq!(source.raw_os_error(), Some(libc::ENOENT));
        }
        _ => panic!("{error:?}"),
    }
    // The right path is named, whichever set it is in.
    let sets = sandbox().landlock(rules()).landlock(rules().path("/tmp", READ).path("/gone", READ));
    assert!(sets.command("true").status().unwrap_err().to_string().contains("/gone"));
    let sandbox =
        sandbox().landlock(rules().optional_path("/no/such", Access::all()).optional_path("/tmp", Access::all()));
    assert!(works(&sandbox, "touch /tmp/file"), "the optional rule that is there counts");
    assert!(!works(&sandbox, "mkdir /no"), "what is made later is not allowed");
    let dots = Sandbox::new().landlock(Rules::new().path("/a/../b", READ)).prepare().unwrap_err();
    assert!(matches!(dots, Error::Invalid { setting: "landlock", .. }), "{dots}");
}

#[test]
fn four_sets_stack() {
    needs!(3);
    let all = || Rules::new().path("/", Access::all());
    let sandbox = Sandbox::new().rootfs(Rootfs::system()).landlock(all()).landlock(all()).landlock(all());
    assert!(works(&sandbox, "touch /tmp/file"));
    let tight = Rules::new().path("/", READ).path("/dev", Access::all());
    let fourth = sandbox.clone().landlock(tight.clone());
    assert!(!works(&fourth, "touch /tmp/file"), "the strictest of them counts");
    assert!(!works(
        &Sandbox::new().rootfs(Rootfs::system()).landlock(tight.clone()).landlock(all()),
        "touch /tmp/file"
    ));
    let error = fourth.landlock(all()).prepare().unwrap_err();
    assert!(matches!(error, Error::Invalid { setting: "landlock", .. }), "{error}");
    // Those that come by themselves count too.
    let implied = sandbox.landlock_mounts().no_network().prepare();
    assert!(abi() < 6 || matches!(implied, Err(Error::Invalid { setting: "landlock", .. })), "{implied:?}");
}

#[test]
fn tcp_ports() {
    needs!(4);
    // The root's mount namespace comes with a user namespace for an ordinary user.
    let sandbox = Sandbox::new().net_ns();
    let program = PROBE.to_str().unwrap();
    let attempts = ["bind,8000", "bind,8001", "connect,8000", "connect,8002"];
    let found = |sandbox: &Sandbox| -> Vec<i32> {
        probe(sandbox, program, &attempts).iter().map(|(_, errno)| *errno).collect()
    };
    const GONE: i32 = libc::ECONNREFUSED;
    const NO: i32 = libc::EACCES;
    assert_eq!(found(&sandbox), [0, 0, GONE, GONE], "the twin");
    let with = |rules: Rules| found(&sandbox.clone().landlock(rules));
    assert_eq!(with(Rules::new().no_tcp()), [NO, NO, NO, NO]);
    assert_eq!(with(Rules::new().tcp_bind(8000)), [0, NO, GONE, GONE], "connecting is not restricted");
    assert_eq!(with(Rules::new().tcp_connect(8002)), [0, 0, NO, GONE]);
    assert_eq!(with(Rules::new().no_tcp().tcp_bind(8000).tcp_connect(8000)), [0, NO, GONE, NO]);
    assert_eq!(with(Rules::new().tcp_bind(8000).tcp_connect(8000).no_tcp()), [0, NO, GONE, NO], "in any order");
    // Files stay free.
    assert!(works(&sandbox.landlock(Rules::new().no_tcp()), "cat /etc/passwd >/dev/null"));
}

/// A process of the host's.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = std::process::Command::new("sleep");
        Self(
            command
                .arg("1000")
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn scopes() {
    needs!(6);
    let program = PROBE.to_str().unwrap();
    let sleeper = Sleeper::start();
    let name = common::marker("abstract");
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let attempts = [
        format!("kill,{}", sleeper.0.id()),
        format!("abstract,{name}"),
        format!("own-abstract,{name}-own"),
        "kill,0".into(),
    ];
    let found = |sandbox: &Sandbox| -> Vec<i32> {
        probe(sandbox, program, &attempts).iter().map(|(_, errno)| *errno).collect()
    };
    let signals = Rules::new().scope_signals();
    let sockets = Rules::new().scope_abstract_sockets();
    let results = [
        found(&Sandbox::new()),
        found(&Sandbox::new().landlock(signals.clone())),
        found(&Sandbox::new().landlock(sockets.clone())),
        found(&Sandbox::new().landlock(sockets.scope_signals())),
    ];
    drop((sleeper, listener));
    assert_eq!(results[0], [0; 4], "the twin");
    assert_eq!(results[1], [libc::EPERM, 0, 0, 0]);
    assert_eq!(results[2], [0, libc::EPERM, 0, 0]);
    assert_eq!(results[3], [libc::EPERM, libc::EPERM, 0, 0]);
}

#[test]
fn the_abi_is_in_the_report() {
    let rules = Rules::new().path("/", Access::all());
    let sandbox = Sandbox::new().landlock(rules.clone());
    match Support::probe().missing(Layer::Landlock) {
        None => {
            let report = sandbox.check().unwrap();
            assert!(report.in_force().contains(Layers::LANDLOCK));
            let note = format!("Landlock ABI {}", abi());
            assert!(report.notes().contains(&note), "{report}");
            assert!(!sandbox.without_landlock().check().unwrap().in_force().contains(Layers::LANDLOCK));
        }
        Some(_) => {
            let error = sandbox.prepare().unwrap_err();
            assert!(matches!(error, Error::Unsupported { layer: Layer::Landlock, .. }), "{error}");
        }
    }
}

/// A host whose own filter has no Landlock: as a kernel without.
#[test]
fn without_landlock_it_is_an_error_unless_accepted() {
    const NAME: &str = "landlock::without_landlock_it_is_an_error_unless_accepted";
    needs!(1);
    common::alone(NAME, || {
        let rules = Rules::new().path("/", READ).path("/dev", Access::all());
        let sandbox = common::all_namespaces().rootfs(Rootfs::system()).landlock(rules);
        assert!(!works(&sandbox, "touch /tmp/file"));
        common::outer_filter(&[libc::SYS_landlock_create_ruleset], libc::ENOSYS);
        let error = sandbox.prepare().unwrap_err();
        assert!(matches!(error, Error::Unsupported { layer: Layer::Landlock, .. }), "{error}");
        let accepted = sandbox.best_effort(Layers::LANDLOCK);
        let report = accepted.check().unwrap();
        assert!(!report.in_force().contains(Layers::LANDLOCK));
        assert!(report.missing().iter().any(|missing| missing.layer == Layer::Landlock), "{report}");
        assert!(works(&accepted, "touch /tmp/file"));
        // hardened() stands on other layers too, and says that this one is not there.
        let report = Sandbox::hardened().check().unwrap();
        assert!(!report.in_force().contains(Layers::LANDLOCK));
        assert!(report.notes().iter().any(|note| note.contains("no Landlock")), "{report}");
        assert!(!works(&Sandbox::hardened(), "touch /usr/file"));
        // A filter that refuses it later is named.
        common::outer_filter(&[libc::SYS_landlock_restrict_self], libc::EPERM);
    });
}

#[test]
fn in_a_chroot_the_paths_are_its_own() {
    needs!(1);
    let directory = filled();
    fs::copy(&*PROBE, directory.path().join("probe")).unwrap();
    // On the host `/full` is not there, and `/etc` is.
    let rules = Rules::new().path("/probe", READ).path("/full", Access::READ);
    let sandbox = Sandbox::new().chroot(directory.path());
    let report = sandbox.check().unwrap();
    assert!(!report.in_force().contains(Layers::MOUNT_NS), "{report}");
    let attempts = ["read,/full/file", "readdir,/full", "read,/file", "readdir,/"];
    let found = |sandbox: &Sandbox| -> Vec<i32> {
        probe(sandbox, "/probe", &attempts).iter().map(|(_, errno)| *errno).collect()
    };
    assert_eq!(found(&sandbox), [0; 4], "the twin");
    assert_eq!(found(&sandbox.clone().landlock(rules.clone())), [0, 0, libc::EACCES, libc::EACCES]);
    let error = sandbox.clone().landlock(rules.path("/etc", READ)).command("/probe").status().unwrap_err();
    assert!(matches!(error, Error::Setup { step: Step::LandlockRules, .. }), "{error}");
    // With a mount namespace, by pivot_root, the same.
    let rules = Rules::new().path("/probe", READ).path("/full", Access::READ);
    assert_eq!(found(&sandbox.mount_ns().landlock(rules)), [0, 0, libc::EACCES, libc::EACCES]);
}

#[test]
fn rules_that_follow_from_the_mounts() {
    needs!(1);
    let directory = common::directory();
    let writable = common::directory();
    common::open(&writable);
    common::open(&directory);
    for sandbox in [common::all_namespaces(), Sandbox::new()] {
        let sandbox = sandbox
            .rootfs(Rootfs::system().read_only())
            .bind_rw(writable.path(), "/rw")
            .bind_ro(directory.path(), "/ro")
            .tmpfs("/t", 1 << 20)
            .landlock_mounts();
        let report = sandbox.check().unwrap();
        assert!(report.in_force().contains(Layers::LANDLOCK), "{report}");
        assert!(works(
            &sandbox,
            "echo > /rw/a && rm /rw/a && mkdir /t/x && echo >/t/x/y && echo >/dev/null && echo > /tmp/z"
        ));
        assert!(works(
            &sandbox,
            "ls /usr >/dev/null && cat /proc/self/status >/dev/null && echo 0 > /proc/self/oom_score_adj"
        ));
        for no in ["echo > /ro/a", "echo > /usr/a", "mkdir /new"] {
            assert!(!works(&sandbox, no), "{no}");
        }
    }
    // Landlock alone refuses it, where the mount would not: a bind that a program with the right has made writable again.
    let sandbox = Sandbox::new().user_ns().uid(0).keep_capabilities(stockade::Capabilities::SYS_ADMIN);
    let sandbox = sandbox.rootfs(Rootfs::system()).bind_ro(directory.path(), "/ro");
    let undo = "mount -o remount,bind,rw /ro && touch /ro/file";
    assert!(works(&sandbox, undo) || !is_root(), "the twin");
    assert!(!works(&sandbox.landlock_mounts(), undo));
}

#[test]
fn the_agent_lives_with_the_rules_and_the_program_cannot_shed_them() {
    needs!(3);
    let rules = Rules::new().path("/", READ).path("/dev", Access::all());
    let sandbox = Sandbox::new().rootfs(Rootfs::system()).landlock(rules);
    // What it executes has them too; and a set of its own adds, not replaces.
    assert!(!works(&sandbox, "sh -c 'sh -c \"touch /tmp/file\"'"));
    assert_eq!(says(&sandbox, "cat /proc/self/status | grep -c NoNewPrivs"), "1");
    let allowed =
        attempt(&Sandbox::new().landlock(Rules::new().path("/", READ)), PROBE.to_str().unwrap(), "write,/dev/null");
    assert_eq!(allowed, libc::EACCES);
}
