//! Capabilities by name, ambient ones, secure bits, and user namespaces inside.

use stockade::{Capabilities, Error, Sandbox, Securebits};

use crate::common::{self, is_root, says, works};
use crate::programs::{PROBE, attempt};

const NEWUSER: i32 = 0x1000_0000;

/// Inheritable, permitted, effective, bounding, ambient, of the shell and of what it executes.
fn sets(sandbox: &Sandbox) -> [u64; 5] {
    let text = says(sandbox, "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status");
    let sets: Vec<u64> =
        text.lines().map(|line| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()).collect();
    sets.try_into().unwrap()
}

fn securebits(sandbox: &Sandbox) -> u64 {
    u64::try_from(attempt(sandbox, PROBE.to_str().unwrap(), "securebits")).unwrap()
}

/// Those that the caller has outside, and all kinds of sandbox that have them inside.
fn kinds(uid: u32) -> Vec<Sandbox> {
    let mut kinds = vec![Sandbox::new().user_ns().uid(uid), common::all_namespaces().uid(uid)];
    kinds.push(Sandbox::new().user_ns().uid(uid).as_pid_1());
    kinds.push(Sandbox::new().user_ns().uid(uid).allow_new_privileges());
    if is_root() {
        kinds.push(Sandbox::new().uid(uid));
        kinds.push(Sandbox::new().uid(uid).pid_ns().allow_new_privileges());
    }
    kinds
}

#[test]
fn kept_by_name() {
    let keep = Capabilities::NET_BIND_SERVICE | Capabilities::CHOWN;
    let bits = keep.bits();
    for sandbox in kinds(0) {
        assert_eq!(sets(&sandbox), [0; 5], "{sandbox:?}");
        let kept = sandbox.keep_capabilities(keep);
        assert_eq!(sets(&kept), [0, bits, bits, bits, 0], "uid 0 has them without: {kept:?}");
    }
    for sandbox in kinds(7) {
        assert_eq!(sets(&sandbox), [0; 5], "{sandbox:?}");
        let kept = sandbox.keep_capabilities(keep);
        assert_eq!(sets(&kept), [bits; 5], "another needs them ambient, to have them past an exec: {kept:?}");
    }
}

#[test]
fn ambient_on_request() {
    let (keep, ambient) = (Capabilities::CHOWN, Capabilities::NET_BIND_SERVICE);
    let (both, ambient_bits) = ((keep | ambient).bits(), ambient.bits());
    for sandbox in kinds(0) {
        let sandbox = sandbox.keep_capabilities(keep).ambient_capabilities(ambient);
        let [_, permitted, effective, bounding, found] = sets(&sandbox);
        assert_eq!(found, ambient_bits, "{sandbox:?}");
        assert_eq!(bounding, both, "{sandbox:?}");
        assert_eq!((permitted, effective), (both, both), "{sandbox:?}");
    }
    for sandbox in kinds(7) {
        let sandbox = sandbox.ambient_capabilities(ambient);
        assert_eq!(sets(&sandbox), [ambient_bits; 5], "{sandbox:?}");
    }
    let error = Sandbox::new().user_ns().uid(0).ambient_capabilities(Capabilities::from_bits_retain(1 << 60));
    assert!(matches!(error.prepare(), Err(Error::Invalid { .. })));
}

#[test]
fn secure_bits() {
    let plain = u64::from((Securebits::NOROOT | Securebits::NOROOT_LOCKED).bits());
    let no_ambient = u64::from((Securebits::NO_CAP_AMBIENT_RAISE | Securebits::NO_CAP_AMBIENT_RAISE_LOCKED).bits());
    let asked = Securebits::NO_SETUID_FIXUP | Securebits::NO_SETUID_FIXUP_LOCKED;
    let asked_bits = u64::from(asked.bits());
    for uid in [0, 7] {
        for sandbox in kinds(uid) {
            // KEEP_CAPS, bit 4, is gone with the exec.
            assert_eq!(securebits(&sandbox), plain | no_ambient, "{sandbox:?}");
            let asking = sandbox.clone().securebits(asked);
            assert_eq!(securebits(&asking), plain | no_ambient | asked_bits, "{sandbox:?}");
        }
    }
    for sandbox in kinds(0) {
        // uid 0 gets what it keeps by being uid 0.
        let keeping = sandbox.clone().keep_capabilities(Capabilities::CHOWN);
        assert_eq!(securebits(&keeping), 0, "{sandbox:?}");
        assert_eq!(securebits(&keeping.securebits(asked)), asked_bits, "{sandbox:?}");
    }
}

#[test]
fn a_capability_counts_where_it_is_kept() {
    // In a user namespace: to bind a low port of its own network.
    let bind = |sandbox: &Sandbox| attempt(sandbox, PROBE.to_str().unwrap(), "bind,80");
    for uid in [0, 7] {
        let sandbox = Sandbox::new().user_ns().net_ns().uid(uid);
        assert_eq!(bind(&sandbox), libc::EACCES, "uid {uid}");
        assert_eq!(bind(&sandbox.keep_capabilities(Capabilities::NET_BIND_SERVICE)), 0, "uid {uid}");
    }
    if is_root() {
        for uid in [0, 7] {
            let sandbox = Sandbox::new().net_ns().uid(uid);
            assert_eq!(bind(&sandbox), libc::EACCES, "uid {uid}");
            assert_eq!(bind(&sandbox.keep_capabilities(Capabilities::NET_BIND_SERVICE)), 0, "uid {uid}");
        }
    }
}

#[test]
fn no_user_namespaces_inside() {
    let make = |sandbox: &Sandbox| attempt(sandbox, PROBE.to_str().unwrap(), &format!("unshare,{NEWUSER}"));
    let mut sandboxes =
        vec![Sandbox::new(), Sandbox::new().user_ns(), common::all_namespaces(), Sandbox::new().as_pid_1()];
    sandboxes.push(common::all_namespaces().uid(0).keep_capabilities(Capabilities::all() - Capabilities::SYS_RESOURCE));
    for sandbox in sandboxes {
        assert_eq!(make(&sandbox), 0, "the twin: {sandbox:?}");
        let sandbox = sandbox.no_nested_user_ns();
        assert_eq!(make(&sandbox), libc::ENOSPC, "{sandbox:?}");
        // It cannot be raised again: the file belongs to nobody inside, or its mount is read-only.
        let sandbox = sandbox.pid_ns().mount_ns();
        assert!(!works(&sandbox, "echo 100 > /proc/sys/user/max_user_namespaces"), "{sandbox:?}");
    }
}
