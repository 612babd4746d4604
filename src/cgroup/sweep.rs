//! Whose a cgroup is: the names, and the removal of what those have left who are no more.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::locate::hierarchies;
use super::{failed, write};
use crate::error::Error;
use crate::support::Layer;

/// A name that says whose it is: the PID namespace, the process, when that was started, and a number. Without that it
/// could not be told from another's, nor be removed when this process has been killed.
pub(super) fn name() -> io::Result<String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Of one process it is always the same; a fork is another.
    static OWN: Mutex<Option<(u32, String)>> = Mutex::new(None);
    let pid = std::process::id();
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = own.take().filter(|(of, _)| *of == pid).map(|(_, prefix)| prefix);
    let prefix = match known {
        Some(prefix) => prefix,
        None => owner_prefix(pid)?,
    };
    let name = format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed));
    *own = Some((pid, prefix));
    Ok(name)
}

/// Looks at a cgroup below `parent` that is made for that, and removed again.
pub(super) fn attempt<T>(parent: &Path, look: impl FnOnce(&Path) -> T) -> io::Result<T> {
    let below = parent.join(name()?);
    fs::create_dir(&below)?;
    let seen = look(&below);
    fs::remove_dir(&below)?;
    Ok(seen)
}

/// With what the names begin that a process gives.
fn owner_prefix(pid: u32) -> io::Result<String> {
    let namespace = fs::read_link("/proc/self/ns/pid")?;
    let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let started = fields.nth(19).ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("stockade-{namespace}-{pid}-{started}-"))
}

/// Whether a process is no more, with all its threads; one that waits to be reaped owns nothing any more. That it cannot be
/// seen does not mean that: procfs may be mounted with hidepid.
fn is_gone(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&now)) == Ok(1)
        }
        Err(errno) => errno == Errno::SRCH,
    }
}

/// Removes the cgroups that processes which are no more have left, in the caller's own places, and returns how many: what
/// is in them is ended. Those of live processes, and those of other PID namespaces, are not touched. Two programs may do
/// it at once.
///
/// A host process that is killed leaves its cgroups behind, empty. For those that were made elsewhere, by
/// [`cgroup_parent`](crate::Sandbox::cgroup_parent), there is [`sweep_below`].
///
/// ```
/// // Early, in a program that may have been killed when it ran last.
/// let removed = stockade::cgroup::sweep();
/// println!("{removed} cgroups of dead processes");
/// ```
pub fn sweep() -> usize {
    let mut removed = 0;
    for hierarchy in hierarchies() {
        let above = hierarchy.own.parent().filter(|_| hierarchy.own != hierarchy.mount).map(Path::to_owned);
        for parent in [Some(hierarchy.own.clone()), above].into_iter().flatten() {
            removed += sweep_in(&parent);
        }
    }
    removed
}

/// As [`sweep`], of what was made below [`CgroupParent::Path`](crate::CgroupParent::Path), in every hierarchy. A path that is
/// in no cgroup file system has nothing below it.
///
/// ```
/// # use stockade::cgroup;
/// assert_eq!(cgroup::sweep_below("/sys/fs/cgroup/no/such/cgroup"), 0);
/// ```
pub fn sweep_below(parent: impl AsRef<Path>) -> usize {
    let all = hierarchies();
    let mut places: Vec<_> = all.iter().filter_map(|one| one.same_place(parent.as_ref(), &all)).collect();
    places.sort();
    places.dedup();
    places.iter().map(|place| sweep_in(place)).sum()
}

fn sweep_in(parent: &Path) -> usize {
    let Ok(entries) = fs::read_dir(parent) else { return 0 };
    let orphans = entries.flatten().filter(|entry| is_orphan(&entry.file_name().to_string_lossy()));
    let swept = |entry: &fs::DirEntry| {
        empty(&entry.path());
        fs::remove_dir(entry.path()).is_ok()
    };
    orphans.filter(swept).count()
}

/// Ends what is in a cgroup, lets go of what is frozen there, and removes what is below it, as far as that can be done
/// without waiting.
pub(super) fn empty(cgroup: &Path) {
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        empty(&entry.path());
        let _ = fs::remove_dir(entry.path());
    }
    if write(&cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let members = || {
        let list = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect::<Vec<_>>()
    };
    for pid in members() {
        // Who is still a member when it is held is who is meant.
        if let Ok(held) = pidfd_open(pid, PidfdFlags::empty())
            && members().contains(&pid)
        {
            let _ = pidfd_send_signal(&held, Signal::KILL);
        }
    }
    let _ = write(&cgroup.join("freezer.state"), "THAWED");
}

/// Whether a directory's name is one of ours, of an owner that is no more, in this PID namespace.
fn is_orphan(name: &str) -> bool {
    let mut parts = name.strip_prefix("stockade-").unwrap_or_default().split('-');
    let (Some(namespace), Some(pid)) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok())) else {
        return false;
    };
    let Ok(own) = owner_prefix(std::process::id()) else { return false };
    // Of another start: the number was given again.
    let is_another = || owner_prefix(pid).is_ok_and(|prefix| !name.starts_with(&prefix));
    own.starts_with(&format!("stockade-{namespace}-")) && (is_gone(pid) || is_another())
}

/// Moves this process into a new leaf below its own cgroup (version 2), so that its own can give controllers to the
/// sandboxes' cgroups beside that leaf. **This changes the host process**; call it once, early, where the cgroup is this
/// program's alone, as with systemd's `Delegate=yes`.
///
/// ```no_run
/// # use stockade::{Error, Sandbox};
/// // Not run here: it moves the process that calls it.
/// match stockade::cgroup::delegate_self() {
///     Ok(()) | Err(Error::Unsupported { .. }) => {} // version 1 needs no such thing
///     Err(error) => eprintln!("there will be no limits: {error}"),
/// }
/// let prepared = Sandbox::new().memory_limit(64 << 20).prepare()?;
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Cgroup`] with the kernel's answer: EACCES if the cgroup is not delegated to this user.
/// [`Error::Unsupported`] where there is no version 2.
pub fn delegate_self() -> Result<(), Error> {
    let hierarchies = hierarchies();
    let Some(hierarchy) = hierarchies.iter().find(|hierarchy| hierarchy.is_v2()) else {
        return Err(Error::Unsupported {
            layer: Layer::Memory,
            reason: "there is no cgroup hierarchy of version 2 here".into(),
            remedy: "version 1 needs no such thing".into(),
        });
    };
    let leaf = hierarchy.own.join("stockade-host");
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&leaf)(error)),
        _ => {}
    }
    let procs = leaf.join("cgroup.procs");
    write(&procs, "0").map_err(failed(&procs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone() {
        assert!(!is_gone(std::process::id()) && is_gone(0) && is_gone(u32::MAX));
        // It has ended, and waits to be reaped.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !is_gone(child.id()) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(is_gone(child.id()));
        child.wait().unwrap();
    }

    #[test]
    fn an_owner_that_lives_is_no_orphan() {
        let own = name().unwrap();
        assert!(own.starts_with("stockade-") && !is_orphan(&own), "{own}");
        // Of the same number, but another start: a process that is no more.
        let mut parts: Vec<&str> = own.split('-').collect();
        parts[3] = "1";
        assert!(is_orphan(&parts.join("-")));
        parts[1] = "4";
        assert!(!is_orphan(&parts.join("-")), "another PID namespace's");
        for other in ["", "stockade-", "stockade-x", "user.slice", "stockade-host"] {
            assert!(!is_orphan(other), "{other}");
        }
    }
}
