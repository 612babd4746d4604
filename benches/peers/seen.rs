//! What isolation a row really has, as the host sees it: of a program that sleeps in it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::common::{Record, Result, memory};
use crate::rows::Entry;

const NAMESPACES: [&str; 8] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"];

/// What the host sees of one process.
struct Seen {
    namespaces: usize,
    root: bool,
    /// Cgroups of memory and tasks that are not the bench's.
    limited: bool,
    filtered: bool,
    no_new_privs: bool,
    /// None of them in any set that counts.
    no_capabilities: bool,
}

fn cgroups(process: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let parts = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    parts.map(|(names, path)| (names.to_owned(), path.to_owned())).collect()
}

fn see(pid: u32) -> Result<Seen> {
    let process = pid.to_string();
    let inode = |process: &str, what: &str| {
        fs::metadata(format!("/proc/{process}/{what}")).map(|found| (found.dev(), found.ino()))
    };
    let own = |what: &str| -> Result<bool> { Ok(inode(&process, what)? != inode("self", what)?) };
    let mut namespaces = 0;
    for name in NAMESPACES {
        namespaces += usize::from(own(&format!("ns/{name}"))?);
    }
    let (ours, theirs) = (cgroups("self"), cgroups(&process));
    let controllers = if crate::version() == "v2" { vec![""] } else { vec!["memory", "pids"] };
    let differs = |controller: &&str| {
        let of = |all: &[(String, String)]| {
            all.iter().find(|(names, _)| names.split(',').any(|name| name == *controller)).cloned()
        };
        of(&ours) != of(&theirs)
    };
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let empty = |set: &str| !field(set).is_empty() && field(set).chars().all(|digit| digit == '0');
    Ok(Seen {
        namespaces,
        root: own("root/")?,
        limited: controllers.iter().all(differs),
        filtered: field("Seccomp:") == "2",
        no_new_privs: field("NoNewPrivs:") == "1",
        no_capabilities: empty("CapEff:") && empty("CapPrm:") && empty("CapBnd:"),
    })
}

/// What the row's isolation has and this does not.
fn lacking(seen: &Seen, group: &str) -> Vec<String> {
    let mut lacking = vec![];
    if seen.namespaces < 7 {
        lacking.push(format!("{} namespaces", seen.namespaces));
    }
    let (limited, hardened) = (matches!(group, "limits" | "hardened"), group == "hardened");
    for (asked, there, what) in [
        (group != "ns", seen.root, "a root of its own"),
        (limited, seen.limited, "cgroups of memory and tasks"),
        (hardened, seen.filtered, "a filter"),
        (hardened, seen.no_new_privs, "no_new_privs"),
        (hardened, seen.no_capabilities, "no capabilities"),
    ] {
        if asked && !there {
            lacking.push(format!("not {what}"));
        }
    }
    lacking
}

/// Holds a sleeper in it, and looks at that from outside.
pub fn look(entry: &Entry<'_>) -> Option<Result<Record>> {
    let way = entry.way().filter(|_| entry.sleeps && entry.group() != "none")?;
    let looked = || {
        let others = memory::descendants(std::process::id())?;
        let mut held = way.hold(0)?;
        held.ready()?;
        let named = |pid: &u32| fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe"));
        let is_sleeper = |pid: &u32| named(pid).is_ok_and(|program| program.ends_with("static"));
        let found =
            memory::descendants(std::process::id())?.into_iter().find(|pid| !others.contains(pid) && is_sleeper(pid));
        let seen = found.ok_or("the program cannot be seen".into()).and_then(see);
        held.wait()?;
        let seen = seen?;
        let lacking = lacking(&seen, entry.group());
        #[allow(clippy::cast_precision_loss)]
        let record = entry.record(&format!("seen/{}", entry.name)).number("namespaces", seen.namespaces as f64, 0);
        let word = |there: bool| if there { "yes" } else { "no" };
        Ok(record
            .text("own_root", word(seen.root))
            .text("cgroups", word(seen.limited))
            .text("filter", word(seen.filtered))
            .text("no_new_privs", word(seen.no_new_privs))
            .text("no_capabilities", word(seen.no_capabilities))
            .text("lacking", lacking.join(", ")))
    };
    Some(looked())
}
