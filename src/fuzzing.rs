//! What the fuzz targets (`fuzz/`) call, and nobody else: it is there only where `cfg(fuzzing)` is.

use crate::prepare::Prepared;
use crate::{cgroup, child, idmap};

/// The plan, as the stage gets it.
pub fn plan(prepared: &Prepared) -> Vec<u8> {
    prepared.inner.plan.bytes()
}

/// How many hierarchies there are.
pub fn hierarchies(mountinfo: &str, cgroup: &str) -> usize {
    let found = cgroup::locate::parse(mountinfo, cgroup);
    assert!(found.iter().all(|hierarchy| hierarchy.own.starts_with(&hierarchy.mount)), "nobody is outside: {found:?}");
    found.len()
}

/// CPU time and memory of a process.
pub fn usage(stat: &str, statm: &str) {
    let _ = child::parse_usage(stat, statm);
}

/// The ranges that a file like `/etc/subuid` gives a user; those that make a map are one that the kernel takes.
pub fn subordinate_ids(text: &str, user: &str, uid: u32) {
    idmap::check_subordinate(text, user, uid);
}
