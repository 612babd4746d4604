//! What the guide says of hosts in containers, tried: this library around a host program, as Docker and Kubernetes are.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{has_subordinate_ids, is_root};
use stockade::seccomp::Filter;
use stockade::{Capabilities, Error, Layers, Rootfs, Sandbox};

/// This program again, in a container; the role is in the environment.
const ROLE: &str = "STOCKADE_GUIDE_ROLE";

fn container() -> Sandbox {
    Sandbox::new()
        .user_ns()
        .ipc_ns()
        .net_ns()
        .uid(1000)
        .gid(1000)
        .rootfs(Rootfs::system())
        .bind_ro(std::env::current_exe().unwrap(), "/host-program")
}

/// What the host program says in it.
fn says(container: &Sandbox, test: &str) -> String {
    let mut command = container.command("/host-program");
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, test);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.outcome.success(),
        "{:?}\n{text}{}",
        output.outcome.verdict,
        String::from_utf8_lossy(&output.stderr)
    );
    let said = text.lines().find_map(|line| line.split_once("SAYS ").map(|(_, said)| said.to_owned()));
    said.unwrap_or_else(|| panic!("{text}"))
}

/// In the container: prints how it went with a sandbox, and ends the test there.
fn in_the_container(test: &str, sandbox: impl FnOnce() -> Sandbox) -> bool {
    if std::env::var(ROLE).as_deref() != Ok(test) {
        return false;
    }
    let how = match sandbox().command("true").status() {
        Ok(outcome) => format!("{:?}", outcome.verdict),
        Err(Error::Setup { step, source, .. }) => format!("{step:?} {source}"),
        Err(error) => error.to_string(),
    };
    println!("\nSAYS {how}");
    true
}

/// The calls of the guide's list, as it stands there.
fn list() -> Vec<String> {
    let page = include_str!("../docs/guide/in_containers.md");
    let line = page.lines().find(|line| line.starts_with("unshare mount ")).unwrap();
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_calls_that_a_containers_filter_must_allow() {
    let name = "the_calls_that_a_containers_filter_must_allow";
    // The filter inside is not what this is about.
    if in_the_container(name, || Sandbox::hardened().without_seccomp()) {
        return;
    }
    let allowing = |calls: &[String]| {
        let filter = calls.iter().fold(Filter::default_profile(), |filter, call| filter.allow(call.clone()));
        says(&container().seccomp(filter), name)
    };
    let all = list();
    assert_eq!(allowing(&all), "Exited(0)");
    for call in &all {
        let others: Vec<_> = all.iter().filter(|other| *other != call).cloned().collect();
        let said = allowing(&others);
        assert!(!said.starts_with("Exited"), "{call} is not needed");
        assert!(said.contains("let the outer container's seccomp profile allow"), "without {call}: {said}");
    }
    assert!(allowing(&[]).contains("let the outer container's seccomp profile allow unshare(2)"));
}

#[test]
fn a_procfs_that_is_partly_covered() {
    let name = "a_procfs_that_is_partly_covered";
    if in_the_container(name, || Sandbox::new().user_ns().proc("/proc")) {
        return;
    }
    assert_eq!(says(&container(), name), "Exited(0)");
    let covered = container().mask("/proc/interrupts");
    // What the kernel says to others.
    let args = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "mount", "-t", "proc", "proc", "/tmp"];
    if covered.command("unshare").args(args).output().unwrap().outcome.success() {
        skip!("another procfs is mounted below the root, where nobody sees it but the kernel");
    }
    let said = says(&covered, name);
    assert!(said.contains("partly covered"), "{said}");
    assert!(said.contains("procMount: Unmasked, which takes hostUsers: false"), "{said}");
}

#[test]
fn a_procfs_that_is_partly_read_only() {
    let name = "a_procfs_that_is_partly_read_only";
    if in_the_container(name, Sandbox::hardened) {
        return;
    }
    let said = says(&container().bind_ro("/proc/sys", "/proc/sys"), name);
    assert!(said.starts_with("procfs is not supported here: /proc/sys is read-only"), "{said}");
    for remedy in ["systempaths=unconfined", "procMount: Unmasked, which takes hostUsers: false", "no_nested_user_ns()"]
    {
        assert!(said.contains(remedy), "{said}");
    }
}

#[test]
fn mounts_that_a_security_module_denies() {
    use stockade::seccomp::Action;
    let name = "mounts_that_a_security_module_denies";
    if in_the_container(name, || Sandbox::new().user_ns().mount_ns()) {
        return;
    }
    // AppArmor answers EACCES; a filter stands in for it.
    let denied = |errno: i32| {
        let filter = Filter::deny_list().deny("mount", Action::Errno(u16::try_from(errno).unwrap()));
        says(&container().seccomp(filter), name)
    };
    let said = denied(libc::EACCES);
    assert!(said.contains("maybe by a security module") && said.contains("apparmor=unconfined"), "{said}");
    assert!(denied(libc::EPERM).contains("let the outer container's seccomp profile allow the mount calls"));
    assert_eq!(says(&container(), name), "Exited(0)");
}

#[test]
fn root_without_the_right_to_a_loopback_device() {
    let name = "root_without_the_right_to_a_loopback_device";
    if in_the_container(name, || Sandbox::new().net_ns()) {
        return;
    }
    if !is_root() {
        skip!("root of the machine only has CAP_SYS_ADMIN outside of a user namespace");
    }
    let docker = |more| Sandbox::new().keep_capabilities(capabilities_of_docker() | Capabilities::SYS_ADMIN | more);
    let host =
        |sandbox: Sandbox| sandbox.rootfs(Rootfs::system()).bind_ro(std::env::current_exe().unwrap(), "/host-program");
    let said = says(&host(docker(Capabilities::empty())), name);
    assert!(said.starts_with("network namespace is not supported here") && said.contains("CAP_NET_ADMIN"), "{said}");
    assert!(said.contains("add user_ns()"), "{said}");
    assert_eq!(says(&host(docker(Capabilities::NET_ADMIN)), name), "Exited(0)");
}

#[test]
fn cgroups_that_are_mounted_read_only() {
    let name = "cgroups_that_are_mounted_read_only";
    if in_the_container(name, || Sandbox::new().memory_limit(64 << 20)) {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some(v2) = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4))
    else {
        skip!("no hierarchy of version 2 is mounted");
    };
    // For root of the container, and for another.
    for container in [container(), container().uid(0).gid(0)] {
        let said = says(&container.bind_ro(v2, "/sys/fs/cgroup"), name);
        assert!(said.starts_with("memory limits is not supported here: /sys/fs/cgroup"), "{said}");
        assert!(
            said.contains("Read-only file system") && said.contains("mount the container's cgroups writable"),
            "{said}"
        );
    }
}

/// What Docker leaves to root.
fn capabilities_of_docker() -> Capabilities {
    use Capabilities as C;
    C::CHOWN
        | C::DAC_OVERRIDE
        | C::FSETID
        | C::FOWNER
        | C::MKNOD
        | C::NET_RAW
        | C::SETGID
        | C::SETUID
        | C::SETFCAP
        | C::SETPCAP
        | C::NET_BIND_SERVICE
        | C::SYS_CHROOT
        | C::KILL
        | C::AUDIT_WRITE
}

fn pod() -> Sandbox {
    let sandbox = container().uid(0).gid(0);
    if is_root() {
        sandbox.uid_map(0, 1_000_000_000, 65536).gid_map(0, 1_000_000_000, 65536)
    } else {
        sandbox.map_subordinate_ids()
    }
}

#[test]
fn root_of_a_pod() {
    let name = "root_of_a_pod";
    if in_the_container(name, Sandbox::hardened) {
        return;
    }
    if !is_root() && !has_subordinate_ids() {
        skip!("a pod has many ids");
    }
    assert_eq!(says(&pod().keep_capabilities(capabilities_of_docker()), name), "Exited(0)");
    let said = says(&pod(), name);
    assert!(said.contains("CAP_SETFCAP"), "{said}");
    // An ordinary user of it needs none of that.
    assert_eq!(says(&pod().uid(1000).gid(1000), name), "Exited(0)");
}

#[test]
fn root_of_a_container_with_one_id() {
    let name = "root_of_a_container_with_one_id";
    if in_the_container(name, Sandbox::hardened) {
        return;
    }
    let container = container().uid(0).gid(0).keep_capabilities(capabilities_of_docker());
    let container =
        if is_root() { container.uid_map(0, 1_000_000_000, 1).gid_map(0, 1_000_000_000, 1) } else { container };
    let said = says(&container, name);
    assert!(
        said.starts_with("ranges of ids is not supported here: of the caller's own user namespace's uids"),
        "{said}"
    );
    assert!(said.contains("name some that it has with uid_map() and gid_map(), or run as another user"), "{said}");
}

#[test]
fn root_of_a_pod_by_ids_of_its_own() {
    let name = "root_of_a_pod_by_ids_of_its_own";
    if in_the_container(name, || Sandbox::hardened().uid_map(1000, 1000, 1).gid_map(1000, 1000, 1)) {
        return;
    }
    if !is_root() && !has_subordinate_ids() {
        skip!("a pod has many ids");
    }
    assert_eq!(says(&pod().keep_capabilities(capabilities_of_docker()), name), "Exited(0)");
}

#[test]
fn filters_that_ask_cannot_be_nested() {
    use stockade::seccomp::Action;
    let name = "filters_that_ask_cannot_be_nested";
    let asking = || Filter::deny_list().deny("kexec_load", Action::Kill);
    if in_the_container(name, || Sandbox::new().seccomp(asking()).best_effort(Layers::TREE_KILL)) {
        return;
    }
    let silent = Filter::default_profile();
    assert_eq!(says(&container().seccomp(silent), name), "Exited(0)");
    let said = says(&container().seccomp(asking()), name);
    assert!(said.contains("this process is under a filter that has a listener"), "{said}");
}
