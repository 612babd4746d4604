//! Namespaces: each alone, all, every subset; joining; ids; clocks.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::File;
use std::os::fd::AsFd as _;

use common::{EVERY_NAMESPACE, all_namespaces, is_root, says, with_namespace, works};
use stockade::{Error, Layers, Namespaces, Sandbox, Stdio};

fn own(namespace: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap().to_string_lossy().into_owned()
}

fn name(namespace: Namespaces) -> &'static str {
    match namespace {
        Namespaces::USER => "user",
        Namespaces::PID => "pid",
        Namespaces::MOUNT => "mnt",
        Namespaces::NET => "net",
        Namespaces::IPC => "ipc",
        Namespaces::UTS => "uts",
        Namespaces::CGROUP => "cgroup",
        _ => "time",
    }
}

/// What the program is in, by the links of procfs.
fn inside(sandbox: &Sandbox) -> Vec<(Namespaces, String)> {
    let links = EVERY_NAMESPACE.map(|namespace| format!("/proc/self/ns/{}", name(namespace)));
    // The host's procfs shows it by its number there, wherever it is itself: so the host looks.
    let child = sandbox.command("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
    let links = links.map(|link| link.replace("self", &child.id().to_string()));
    let found = EVERY_NAMESPACE.into_iter().zip(links);
    let found = found
        .map(|(namespace, link)| (namespace, std::fs::read_link(link).map(|link| link.to_string_lossy().into_owned())));
    let found: Vec<_> = found.map(|(namespace, link)| (namespace, link.unwrap_or_default())).collect();
    drop(child);
    found
}

#[test]
fn every_subset() {
    // A stride that meets every namespace alone and all of them, where each launch takes long.
    for bits in (0u32..256).filter(|bits| !common::is_slow() || bits.count_ones() <= 1 || bits.count_ones() >= 7) {
        let chosen = EVERY_NAMESPACE.into_iter().enumerate().filter(|(index, _)| bits & 1 << index != 0);
        let chosen: Namespaces = chosen.map(|(_, namespace)| namespace).collect();
        let sandbox = chosen.iter().fold(Sandbox::new(), with_namespace);
        // Rootless, whatever needs a capability implies a user namespace, and the report says so.
        let expected = if is_root() || chosen.is_empty() { chosen } else { chosen | Namespaces::USER };
        if is_root() || bits % 8 == 7 {
            // Rootless, the host may not look at processes of another user namespace: all there is to see is inside.
            let outcome = sandbox.command("/bin/true").status().unwrap();
            assert!(outcome.success(), "{chosen:?}");
        }
        if is_root() {
            for (namespace, link) in inside(&sandbox) {
                let differs = link != own(name(namespace));
                assert_eq!(differs, expected.contains(namespace), "{chosen:?}: {namespace:?} is {link}");
            }
        } else {
            let links = says(
                &sandbox,
                "for n in user mnt net ipc uts cgroup time; do readlink /proc/thread-self/ns/$n || readlink /proc/self/ns/$n || echo hidden; done",
            );
            for (line, kind) in links.lines().zip(["user", "mnt", "net", "ipc", "uts", "cgroup", "time"]) {
                let namespace = EVERY_NAMESPACE.into_iter().find(|namespace| name(*namespace) == kind).unwrap();
                assert_eq!(line != own(kind), expected.contains(namespace), "{chosen:?}: {kind} is {line}");
            }
        }
    }
}

#[test]
fn processes_of_its_own() {
    let sandbox = all_namespaces().rootfs(stockade::Rootfs::system());
    // The agent is PID 1, the program PID 2, and that is all.
    assert_eq!(says(&sandbox, "echo $$; cd /proc; echo [0-9]*"), "2\n1 2");
    let sandbox = sandbox.as_pid_1();
    assert_eq!(says(&sandbox, "echo $$; cd /proc; echo [0-9]*"), "1\n1");
}

#[test]
fn loopback_is_up_and_alone() {
    let sandbox = all_namespaces().rootfs(stockade::Rootfs::system());
    assert_eq!(says(&sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo");
    // Up: its own address answers at once, with a refusal and not with an unreachable network.
    let connect = "exec 2>&1; : </dev/tcp/127.0.0.1/9";
    let output = sandbox.command("/bin/bash").args(["-c", connect]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("refused"), "{output:?}");
    // A service of the host's loopback is out of reach; without the layer it is not.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = format!(": </dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
    let reaches =
        |sandbox: Sandbox| sandbox.command("/bin/bash").args(["-c", &connect]).output().unwrap().outcome.success();
    assert!(!reaches(Sandbox::new().net_ns()));
    assert!(reaches(Sandbox::new().pid_ns()));
}

#[test]
fn host_name_is_its_own() {
    let before = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let sandbox = Sandbox::new().hostname("inside").domainname("example");
    assert_eq!(says(&sandbox, "uname -n; cat /proc/sys/kernel/domainname"), "inside\nexample");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn ipc_objects_are_its_own() {
    let create = "ipcmk -M 4096 >/dev/null && ipcs -m | grep -c '^0x'";
    assert_eq!(says(&Sandbox::new().ipc_ns(), create), "1");
    assert_eq!(says(&Sandbox::new().ipc_ns(), "ipcs -m | grep -c '^0x' || true"), "0");
}

#[test]
fn clocks_have_their_offsets() {
    let uptime = |sandbox: &Sandbox| says(sandbox, "cut -d. -f1 /proc/uptime").parse::<i64>().unwrap();
    let host = uptime(&Sandbox::new());
    let ahead = uptime(&Sandbox::new().boottime_offset(1_000_000_000_000));
    assert!((ahead - host - 1000).abs() <= 2, "{host} {ahead}");
    // Both clocks, and back: no further than to zero, which the kernel refuses with a typed error here.
    let sandbox = Sandbox::new().monotonic_offset(5_500_000_000).boottime_offset(-1_500_000_000);
    let offsets = says(&sandbox, "cat /proc/self/timens_offsets");
    let words: Vec<&str> = offsets.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "5", "500000000", "boottime", "-2", "500000000"]);
    let error = Sandbox::new().monotonic_offset(i64::MIN).command("/bin/true").status().unwrap_err();
    assert!(matches!(error, Error::Setup { step: stockade::Step::TimeOffsets, .. }), "{error}");
}

#[test]
fn joins_existing_namespaces() {
    // Another sandbox is the one who has them. Rootless, its user namespace comes first.
    let other = all_namespaces().hostname("other").command("sleep").arg("1000").spawn().unwrap();
    let open = |kind: Namespaces| File::open(format!("/proc/{}/ns/{}", other.id(), name(kind)));
    let kinds = [Namespaces::USER, Namespaces::UTS, Namespaces::NET, Namespaces::IPC, Namespaces::PID];
    let Ok(files) = kinds.map(open).into_iter().collect::<Result<Vec<_>, _>>() else {
        skip!("an ordinary user may not open the namespaces of a program that lives in another user namespace");
    };
    let mut sandbox = Sandbox::new();
    for (kind, file) in kinds.into_iter().zip(files) {
        sandbox = sandbox.join_ns(kind, file);
    }
    assert_eq!(says(&sandbox, "uname -n"), "other");
    assert_eq!(
        says(&sandbox, "readlink /proc/self/ns/net"),
        std::fs::read_link(format!("/proc/{}/ns/net", other.id())).unwrap().to_string_lossy()
    );
    drop(other);
}

#[test]
fn joining_is_checked() {
    let open = |kind| File::open(format!("/proc/self/ns/{kind}")).unwrap();
    let refused = |sandbox: Sandbox| match sandbox.prepare() {
        Err(Error::Invalid { setting: "join_ns", reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let wrong = refused(Sandbox::new().join_ns(Namespaces::NET, open("uts")));
    assert!(wrong.contains("not a net namespace"), "{wrong}");
    refused(Sandbox::new().join_ns(Namespaces::NET, File::open("/dev/null").unwrap()));
    refused(Sandbox::new().join_ns(Namespaces::NET | Namespaces::UTS, open("net")));
    refused(Sandbox::new().join_ns(Namespaces::NET, open("net")).net_ns());
    refused(Sandbox::new().join_ns(Namespaces::NET, open("net")).join_ns(Namespaces::NET, open("net")));
    refused(Sandbox::new().join_ns(Namespaces::NET, open("net")).join_ns(Namespaces::USER, open("user")));
    // What is mounted at /proc there would get what is to be written to the kernel.
    let wrong = refused(Sandbox::new().join_ns(Namespaces::MOUNT, open("mnt")).user_ns());
    assert!(wrong.contains("/proc"), "{wrong}");
}

#[test]
fn what_only_a_user_namespace_has_is_missed_without() {
    const NAME: &str = "what_only_a_user_namespace_has_is_missed_without";
    let lenient = Sandbox::new().no_nested_user_ns().inotify_limit(5).best_effort(Layers::USER_NS);
    let report = lenient.prepare().unwrap().report().to_string();
    let noted = ["no_nested_user_ns() is of", "inotify_limit() is of"].map(|note| report.contains(note));
    if std::env::var("STOCKADE_ALONE").as_deref() == Ok(NAME) {
        assert_eq!(noted, [true; 2], "{report}");
        return;
    }
    assert_eq!(noted, [false; 2], "{report}");
    // Where none can be made.
    let again = common::again(NAME);
    let mut command = std::process::Command::new("unshare");
    let script = "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$0\" \"$@\"";
    command.args(["--user", "--map-root-user", "sh", "-c", script]).arg(again.get_program()).args(again.get_args());
    let (passed, text) = common::passed(&command.env("STOCKADE_ALONE", NAME).output().unwrap());
    assert!(passed, "{text}");
}

#[test]
fn one_id_is_mapped_rootless() {
    if is_root() {
        skip!("root maps ranges");
    }
    assert_eq!(
        says(&Sandbox::new().user_ns(), "echo $(id -u) $(id -g)"),
        format!("{} {}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    );
    let sandbox = Sandbox::new().uid(0).gid(5);
    assert_eq!(says(&sandbox, "echo $(id -u) $(id -g)"), "0 5");
    assert_eq!(says(&Sandbox::new().uid(42), "echo $(id -u) $(id -g)"), "42 42");
    let report = sandbox.prepare().unwrap().report().clone();
    assert!(report.in_force().contains(Layers::USER_NS));
    assert!(report.notes().iter().any(|note| note.contains("user_ns() is implied")), "{report}");
    let error = Sandbox::new().user_ns().groups([7]).prepare().unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. } | Error::Invalid { .. }), "{error}");
}

#[test]
fn ids_of_root_are_nobodys() {
    if !is_root() {
        skip!("only root maps ranges by itself");
    }
    let map = says(&Sandbox::new().user_ns(), "cat /proc/self/uid_map");
    let numbers: Vec<u32> = map.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert!(matches!(numbers[..], [0, outer, 65536] if outer >= 0x6000_0000), "{map}");
    let sandbox = Sandbox::new().user_ns().uid(1234).gid(77).groups([5, 6]);
    assert_eq!(says(&sandbox, "echo $(id -u) $(id -g) $(id -G)"), "1234 77 77 5 6");
    // Without a user namespace they are the host's own.
    let sandbox = Sandbox::new().uid(1234).groups([9]);
    assert_eq!(says(&sandbox, "echo $(id -u) $(id -g) $(id -G)"), "1234 1234 1234 9");
    assert_eq!(says(&Sandbox::new().uid(1234), "id -G"), "1234");
    // As they are asked for.
    let sandbox =
        Sandbox::new().uid_map(0, 200_000, 10).uid_map(100, 300_000, 5).gid_map(0, 200_000, 10).uid(102).gid(3);
    assert_eq!(says(&sandbox, "tr -s ' ' </proc/self/uid_map; id -u"), " 0 200000 10\n 100 300000 5\n102");
    // The host's root only by name.
    let zero = Sandbox::new().uid_map(0, 0, 1).gid_map(0, 0, 1);
    assert!(matches!(zero.prepare(), Err(Error::Invalid { setting: "uid_map", .. })));
    assert_eq!(says(&zero.map_host_root(), "tr -s ' ' </proc/self/uid_map"), " 0 0 1");
}

#[test]
fn subordinate_ids() {
    let sandbox = Sandbox::new().map_subordinate_ids();
    if !common::has_subordinate_ids()
        || is_root() && std::fs::read_to_string("/etc/subuid").is_ok_and(|text| !text.contains("root:"))
    {
        // Then it is an error that says what to do.
        let error = sandbox.command("/bin/true").status().unwrap_err();
        assert!(matches!(&error, Error::Unsupported { remedy, .. } if remedy.contains("sub")), "{error}");
        skip!("/etc/subuid gives this user nothing, or newuidmap is not installed");
    }
    let sandbox = sandbox.uid(1).groups([2]);
    assert_eq!(says(&sandbox, "echo $(id -u) $(id -G)"), "1 1 2");
    let map = says(&sandbox, "cat /proc/self/uid_map");
    assert!(is_root() || map.lines().count() == 2, "{map}");
}

#[test]
fn a_user_namespace_of_roots_is_powerless_outside() {
    // Files that only root may read stay closed, though the program is uid 0 inside.
    if !is_root() {
        skip!("an ordinary user cannot read them anyway");
    }
    let read = "cat /etc/shadow >/dev/null";
    assert!(!works(&Sandbox::new().user_ns(), read));
    assert!(works(&Sandbox::new(), read));
}

#[test]
fn the_pidfd_is_the_programs() {
    let child = all_namespaces().command("sleep").arg("1000").spawn().unwrap();
    rustix::process::pidfd_send_signal(child.as_fd(), rustix::process::Signal::TERM).unwrap();
    assert!(matches!(child.wait().unwrap().verdict, stockade::Verdict::Signaled(stockade::Signal::TERM)));
}
