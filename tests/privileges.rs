//! Privileges: capabilities, no_new_privs, resource limits.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{all_namespaces, is_root, says, sh, works};
use stockade::{Capabilities, Error, Limit, Resource, Sandbox, Verdict};

const SETS: &str = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";

/// Inheritable, permitted, effective, bounding, ambient.
fn sets(sandbox: &Sandbox) -> Vec<u64> {
    let text = says(sandbox, SETS);
    text.split_whitespace().map(|entry| u64::from_str_radix(entry.rsplit(':').next().unwrap(), 16).unwrap()).collect()
}

#[test]
fn all_five_sets_are_empty() {
    let mut sandboxes = vec![
        all_namespaces(),
        Sandbox::new().user_ns(),
        Sandbox::new().uid(0).user_ns(),
        Sandbox::new().uid(7).user_ns(),
    ];
    if is_root() {
        sandboxes.extend([Sandbox::new(), Sandbox::new().uid(1000), Sandbox::new().as_pid_1()]);
    }
    for sandbox in sandboxes {
        assert_eq!(sets(&sandbox), [0; 5], "{sandbox:?}");
    }
    // Rootless without a user namespace there is nobody to cut the bounding set: the report says so.
    if !is_root() {
        let plain = sets(&Sandbox::new());
        assert_eq!((plain[0], plain[1], plain[2], plain[4]), (0, 0, 0, 0));
        let report = Sandbox::new().check().unwrap();
        assert!(report.notes().iter().any(|note| note.contains("bounding set")), "{report}");
    }
}

#[test]
fn capabilities_are_kept_by_name() {
    let keep = Capabilities::NET_BIND_SERVICE | Capabilities::KILL;
    for uid in [0, 1000] {
        let sandbox = Sandbox::new().user_ns().uid(uid).keep_capabilities(keep);
        let [_, permitted, effective, bounding, ambient] = sets(&sandbox)[..] else { panic!() };
        assert_eq!((permitted, effective, bounding), (keep.bits(), keep.bits(), keep.bits()), "uid {uid}");
        assert_eq!(ambient, if uid == 0 { 0 } else { keep.bits() });
    }
    if is_root() {
        let sandbox = Sandbox::new().keep_capabilities(Capabilities::CHOWN);
        assert_eq!(sets(&sandbox)[2], Capabilities::CHOWN.bits());
        assert!(works(
            &sandbox,
            "touch /tmp/stockade-test-chown && chown 1 /tmp/stockade-test-chown; r=$?; rm /tmp/stockade-test-chown; exit $r"
        ));
        assert!(!works(
            &Sandbox::new(),
            "touch /tmp/stockade-test-chown && chown 1 /tmp/stockade-test-chown; r=$?; rm /tmp/stockade-test-chown; exit $r"
        ));
    }
}

#[test]
fn capabilities_that_cannot_be_kept_are_an_error() {
    let unknown = Capabilities::from_bits_retain(1 << 63);
    assert!(matches!(Sandbox::new().keep_capabilities(unknown).prepare(), Err(Error::Invalid { .. })));
    if !is_root() {
        let error = Sandbox::new().keep_capabilities(Capabilities::KILL).prepare().unwrap_err();
        assert!(matches!(error, Error::Invalid { setting: "keep_capabilities", .. }), "{error}");
    }
}

#[test]
fn no_new_privileges() {
    let flag = "grep NoNewPrivs /proc/self/status | cut -f2";
    for sandbox in [Sandbox::new(), all_namespaces(), Sandbox::new().as_pid_1()] {
        assert_eq!(says(&sandbox, flag), "1");
        assert_eq!(says(&sandbox.allow_new_privileges(), flag), "0");
    }
}

#[test]
fn set_uid_programs_gain_nothing() {
    if !is_root() {
        skip!("only root can make a set-uid program of root's for the test");
    }
    let directory = common::directory();
    let program = common::compile(
        directory.path(),
        "who",
        "#include <stdio.h>\n#include <unistd.h>\nint main(void){printf(\"%d\",geteuid());return 0;}",
        &[],
    );
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    let who =
        |sandbox: Sandbox| String::from_utf8(sandbox.uid(1000).command(&program).output().unwrap().stdout).unwrap();
    assert_eq!(who(Sandbox::new()), "1000");
    assert_eq!(who(Sandbox::new().allow_new_privileges()), "0", "the control: without the layer it does");
}

#[test]
fn every_resource_can_be_limited() {
    for resource in Resource::ALL {
        let value = match resource {
            Resource::AddressSpace | Resource::Data | Resource::Stack | Resource::ResidentSet => 1 << 30,
            Resource::Processes => 500,
            Resource::Nice | Resource::RealtimePriority => 0,
            Resource::MessageQueues | Resource::LockedMemory | Resource::PendingSignals => 1000,
            _ => 50,
        };
        let sandbox = all_namespaces().rlimit(*resource, value);
        let limits = says(&sandbox, "cat /proc/self/limits");
        let name = match resource {
            Resource::Cpu => "Max cpu time",
            Resource::FileSize => "Max file size",
            Resource::Data => "Max data size",
            Resource::Stack => "Max stack size",
            Resource::Core => "Max core file size",
            Resource::ResidentSet => "Max resident set",
            Resource::Processes => "Max processes",
            Resource::OpenFiles => "Max open files",
            Resource::LockedMemory => "Max locked memory",
            Resource::AddressSpace => "Max address space",
            Resource::Locks => "Max file locks",
            Resource::PendingSignals => "Max pending signals",
            Resource::MessageQueues => "Max msgqueue size",
            Resource::Nice => "Max nice priority",
            Resource::RealtimePriority => "Max realtime priority",
            _ => "Max realtime timeout",
        };
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {limits}"));
        let words: Vec<&str> = line.strip_prefix(name).unwrap().split_whitespace().collect();
        let hard = if *resource == Resource::Cpu { value + 1 } else { value };
        assert_eq!(words[..2], [value.to_string(), hard.to_string()], "{resource:?}");
    }
}

#[test]
fn limits_of_a_process_have_their_verdicts() {
    let spin = sh(&all_namespaces().rlimit(Resource::Cpu, 1), "while :; do :; done");
    assert_eq!(spin.outcome.verdict, Verdict::LimitExceeded(Limit::CpuTime));
    // The kernel compares by the ticks of its clock, and accounts more finely: see judge().
    assert!(spin.outcome.usage.cpu().as_millis() >= 750, "{:?}", spin.outcome.usage);
    let big = all_namespaces().rlimit(Resource::FileSize, 1000);
    let directory = common::directory();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let path = directory.path().join("big");
    let output = big
        .command("dd")
        .args(["if=/dev/zero", "bs=4096", "count=1"])
        .arg(format!("of={}", path.display()))
        .output()
        .unwrap();
    assert_eq!(output.outcome.verdict, Verdict::LimitExceeded(Limit::FileSize), "{output:?}");
    assert_eq!(std::fs::metadata(path).unwrap().len(), 1000);
}

#[test]
fn a_limit_above_the_hard_one_is_refused_before_anything_starts() {
    // Lowered for this process first, so that there is something above it, whoever runs the test.
    common::alone("a_limit_above_the_hard_one_is_refused_before_anything_starts", || {
        rustix::process::setrlimit(
            rustix::process::Resource::Core,
            rustix::process::Rlimit { current: Some(5), maximum: Some(5) },
        )
        .unwrap();
        assert_eq!(says(&Sandbox::new().rlimit(Resource::Core, 5), "ulimit -c"), "0");
        let result = Sandbox::new().rlimit(Resource::Core, 6).prepare();
        let may =
            rustix::thread::capabilities(None).unwrap().effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
        assert!(may || matches!(result, Err(Error::Invalid { setting: "rlimit", .. })));
    });
}
