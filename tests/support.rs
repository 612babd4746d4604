//! What a host can do, what is in force, and what may be missing.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{all_namespaces, alone, is_root, outer_filter, says, works};
use stockade::{Error, Layer, Layers, Rootfs, Sandbox, Support};

#[test]
fn probing_tells_what_works() {
    let support = Support::probe();
    for layer in [
        Layer::UserNs,
        Layer::PidNs,
        Layer::MountNs,
        Layer::NetNs,
        Layer::IpcNs,
        Layer::UtsNs,
        Layer::CgroupNs,
        Layer::TimeNs,
        Layer::Mounts,
        Layer::Proc,
        Layer::Stage,
    ] {
        // What is said to work works, and what is said not to does not.
        let works = match layer {
            Layer::UserNs => Sandbox::new().user_ns(),
            Layer::PidNs | Layer::Stage => Sandbox::new().pid_ns(),
            Layer::MountNs | Layer::Mounts => Sandbox::new().mount_ns(),
            Layer::NetNs => Sandbox::new().net_ns(),
            Layer::IpcNs => Sandbox::new().ipc_ns(),
            Layer::UtsNs => Sandbox::new().uts_ns(),
            Layer::CgroupNs => Sandbox::new().cgroup_ns(),
            Layer::TimeNs => Sandbox::new().time_ns(),
            _ => Sandbox::new().rootfs(Rootfs::system()),
        };
        assert_eq!(support.missing(layer).is_none(), works.command("true").status().is_ok(), "{layer}");
        assert_eq!(support.available().contains(layer.into()), support.missing(layer).is_none());
    }
    assert_eq!(support.layers().count(), Layer::ALL.len());
}

#[test]
fn probing_leaves_nothing() {
    alone("probing_leaves_nothing", || common::leaves_nothing("probing", || drop(Support::probe())));
}

#[test]
fn a_report_says_what_is_in_force() {
    let report = Sandbox::new().pid_ns().net_ns().check().unwrap();
    assert!(report.in_force().contains(Layers::PID_NS | Layers::NET_NS | Layers::TREE_KILL));
    assert!(!report.in_force().intersects(Layers::MOUNT_NS | Layers::IPC_NS));
    assert_eq!(report.in_force().contains(Layers::USER_NS), !is_root(), "{report}");
    assert!(report.missing().is_empty());
    let child = all_namespaces().command("true").spawn().unwrap();
    assert!(child.report().in_force().contains(Layers::USER_NS | Layers::TIME_NS | Layers::CGROUP_NS));
    if is_root() {
        let warned =
            |sandbox: Sandbox| sandbox.check().unwrap().notes().iter().any(|note| note.contains("host's uid 0"));
        assert!(warned(Sandbox::new()) && warned(Sandbox::new().pid_ns()));
        assert!(!warned(Sandbox::new().user_ns()) && !warned(Sandbox::new().uid(1000)));
    }
}

#[test]
fn checking_runs_nothing_but_makes_everything() {
    let rootfs = Sandbox::new().rootfs(Rootfs::system());
    assert!(rootfs.check().is_ok());
    let error = rootfs.mask("/not/there").check().unwrap_err();
    assert!(matches!(error, Error::Setup { step: stockade::Step::MountTarget, .. }), "{error}");
}

#[test]
fn what_is_missing_is_an_error_unless_named() {
    alone("what_is_missing_is_an_error_unless_named", || {
        let sandbox = Sandbox::new().user_ns().uts_ns();
        assert_ne!(says(&sandbox, "readlink /proc/self/ns/uts"), own_uts());
        // An outer filter that allows nothing of it, as Docker's default does.
        outer_filter(&[libc::SYS_unshare], libc::EPERM);
        let error = sandbox.command("true").status().unwrap_err();
        let Error::Unsupported { layer: Layer::UserNs, remedy, .. } = &error else { panic!("{error:?}") };
        assert!(remedy.contains("securityContext"), "{remedy}");
        // One of two is not enough: the other is still required.
        let error = sandbox.clone().best_effort(Layers::UTS_NS).command("true").status().unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let lenient = sandbox.best_effort(Layers::UTS_NS | Layers::USER_NS);
        assert_eq!(says(&lenient, "readlink /proc/self/ns/uts"), own_uts());
        let report = lenient.prepare().unwrap().report().clone();
        let missing: Vec<Layer> = report.missing().iter().map(|missing| missing.layer).collect();
        assert_eq!(missing, [Layer::UserNs, Layer::UtsNs]);
        assert!(!report.in_force().intersects(Layers::UTS_NS | Layers::USER_NS), "{report}");
        assert!(report.to_string().contains("missing   UTS namespace"), "{report}");
        let support = Support::probe();
        assert!(support.missing(Layer::UserNs).is_some() && support.missing(Layer::NetNs).is_some());
    });
}

#[test]
fn a_source_that_a_filter_keeps_closed() {
    alone("a_source_that_a_filter_keeps_closed", || {
        let sandboxes = [Sandbox::new().bind_ro("/usr", "/mnt"), Sandbox::new().user_ns().bind_ro("/usr", "/mnt")];
        assert!(sandboxes.iter().all(|sandbox| works(sandbox, "test -d /mnt/bin")));
        outer_filter(&[libc::SYS_open_tree], libc::EPERM);
        for sandbox in &sandboxes {
            let error = sandbox.command("true").status().unwrap_err();
            let Error::Unsupported { layer: Layer::Mounts, reason, remedy, .. } = &error else { panic!("{error:?}") };
            assert!(reason.contains("open a mount's source") && remedy.contains("mount calls"), "{error}");
        }
    });
}

fn own_uts() -> String {
    std::fs::read_link("/proc/self/ns/uts").unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_covered_procfs_is_named() {
    // As an outer container's: something is mounted over a part of /proc, and in a user namespace the kernel refuses a
    // fresh one then. The outer container is a sandbox of our own, and in it this test runs again.
    const NAME: &str = "a_covered_procfs_is_named";
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        let error = Sandbox::new().rootfs(Rootfs::system()).command("true").status().unwrap_err();
        let Error::Unsupported { layer: Layer::Proc, remedy, .. } = &error else { panic!("{error:?}") };
        assert!(remedy.contains("procMount"), "{remedy}");
        let lenient = Sandbox::new().rootfs(Rootfs::system()).best_effort(Layers::PROC);
        assert_eq!(says(&lenient, "echo works; test -e /proc/self || echo without"), "works\nwithout");
        assert_eq!(lenient.prepare().unwrap().report().missing().len(), 1);
        return;
    }
    // Whether this kernel refuses it at all is asked by other means.
    let plain = "mount --bind /dev/null /proc/version && unshare -Urmpf mount -t proc proc /proc";
    let plain = std::process::Command::new("unshare").args(["-Urmpf", "sh", "-c", plain]).output().unwrap();
    if plain.status.success() {
        skip!("this host's kernel mounts a fresh procfs all the same");
    }
    // With a root of its own, so that no other procfs is left for the kernel to go by.
    let program = std::env::current_exe().unwrap();
    let directory = program.parent().unwrap();
    let outer = |covered: bool| {
        let sandbox = Sandbox::new().user_ns().uid(1000).rootfs(Rootfs::system()).bind_ro(directory, directory);
        let sandbox = if covered { sandbox.mask("/proc/version") } else { sandbox };
        let mut command = sandbox.command(&program);
        command.args([NAME, "--exact", "--nocapture"]).env("STOCKADE_ALONE", NAME).output().unwrap()
    };
    let output = outer(true);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success() && text.contains("1 passed"), "{text}");
    // The control: with all of /proc to be seen there is no such error.
    let output = outer(false);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("called `Result::unwrap_err()` on an `Ok` value"), "{text}");
}

#[test]
fn sealed_memory_that_may_not_be_executed_is_worked_around() {
    // The sysctl belongs to the PID namespace: this test runs again in a sandbox, sets it there, and launches.
    const NAME: &str = "sealed_memory_that_may_not_be_executed_is_worked_around";
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        // Through the host's procfs, but for the PID namespace of whoever writes.
        std::fs::write("/proc/sys/vm/memfd_noexec", "2").unwrap();
        assert_eq!(says(&Sandbox::new().pid_ns(), "echo works"), "works");
        let left = std::fs::read_dir(std::env::temp_dir())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("stage"));
        assert_eq!(left.count(), 0);
        return;
    }
    if !is_root() {
        skip!("only root may set vm.memfd_noexec, even in a PID namespace of one's own");
    }
    let sandbox = Sandbox::new().pid_ns().keep_capabilities(stockade::Capabilities::SYS_ADMIN);
    let program = std::env::current_exe().unwrap();
    let output =
        sandbox.command(program).args([NAME, "--exact", "--nocapture"]).env("STOCKADE_ALONE", NAME).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success() && text.contains("1 passed"), "{text}");
}
