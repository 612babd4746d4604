//! What the kernel and the machine's files say in text: whatever is in them, it is read without a panic, and what comes of
//! it makes sense.
#![no_main]

use stockade::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = bytes.split_first() else { return };
    // procfs's names may hold any bytes, and are read as text.
    let text = String::from_utf8_lossy(rest);
    let (first, second) = text.split_once('\0').unwrap_or((&text, ""));
    match which % 4 {
        0 => drop(fuzzing::hierarchies(first, second)),
        1 => fuzzing::usage(first, second),
        2 => fuzzing::subordinate_ids(first, second, u32::from(*which)),
        _ => {
            // Most of what makes it an entry is there already.
            let mountinfo = format!("1 2 0:3 {first} rw - cgroup x rw,{second}\n4 5 0:6 / {second} rw - cgroup2 y rw\n");
            fuzzing::hierarchies(&mountinfo, &format!("3:{second}:{first}\n0::{first}\n"));
            fuzzing::usage(&format!("1 ({first}) {second}"), second);
            fuzzing::subordinate_ids(&format!("a:{first}\na:{second}\n7:{second}:{first}\n"), "a", 7);
        }
    }
});
