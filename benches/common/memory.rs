//! What processes and the kernel take.

use std::collections::BTreeMap;

/// The sum of these fields, in KiB, of a file in the form of /proc/meminfo.
pub fn fields(file: &str, names: &[&str]) -> std::io::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let value = |name: &&str| {
        text.lines().find_map(|line| line.strip_prefix(*name)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    Ok(names.iter().filter_map(value).sum())
}

/// What the kernel says it needs for itself, in KiB.
pub fn kernel() -> std::io::Result<u64> {
    fields("/proc/meminfo", &["Slab:", "KernelStack:", "PageTables:", "SecPageTables:", "Percpu:"])
}

/// All that comes of a process, itself not included.
pub fn descendants(of: u32) -> std::io::Result<Vec<u32>> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // "pid (name) state parent": the name may have anything in it.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![];
    let mut next = vec![of];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            found.push(*child);
            next.push(*child);
        }
    }
    Ok(found)
}
