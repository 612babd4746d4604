//! The plan's decoder takes any bytes: it never panics, never reads beyond them, and what it accepts it writes again.
#![no_main]

#[path = "../../src/plan.rs"]
#[allow(dead_code, unused_imports)]
mod plan;

use plan::{Exit, Failure, Hello, Launch, List, Plan, Sink, Start, Wire, decode};

struct Buffer(Vec<u8>);

impl Sink for Buffer {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

fn same<'a, T: Wire<'a>>(bytes: &[u8], value: &T) {
    let mut again = Buffer(vec![]);
    value.encode(&mut again);
    assert_eq!(bytes, again.0, "what was accepted is written as it was");
}

fn walk<'a, T: Wire<'a>>(list: &List<'a, T>) {
    assert_eq!(list.iter().count(), list.len() as usize, "each record of an accepted list can be had");
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(plan) = decode::<Plan<'_>>(bytes) {
        same(bytes, &plan);
        walk(&plan.joins);
        walk(&plan.mounts);
        walk(&plan.landlock);
        for set in plan.landlock.iter() {
            walk(&set.paths);
            walk(&set.ports);
        }
        walk(&plan.rlimits);
        walk(&plan.groups);
    }
    if let Ok(launch) = decode::<Launch<'_>>(bytes) {
        same(bytes, &launch);
        walk(&launch.descriptors);
        walk(&launch.candidates);
        walk(&launch.arguments);
        walk(&launch.environment);
    }
    if let Ok(hello) = decode::<Hello>(bytes) {
        same(bytes, &hello);
    }
    if let Ok(start) = decode::<Start>(bytes) {
        same(bytes, &start);
    }
    if let Ok(failure) = decode::<Failure>(bytes) {
        same(bytes, &failure);
    }
    if let Ok(exit) = decode::<Exit>(bytes) {
        same(bytes, &exit);
    }
});
