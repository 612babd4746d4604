//! Where cgroups can be made: the hierarchies that are mounted, and the caller's own place in each.

use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// Of the caller.
    pub(crate) own: PathBuf,
    /// `None` is version 2, whose controllers differ by place.
    pub(crate) controllers: Option<Vec<String>>,
}

impl Hierarchy {
    pub(crate) fn is_v2(&self) -> bool {
        self.controllers.is_none()
    }

    /// The directory of this hierarchy that has the name which `path` has in its own. None: it is in no hierarchy, or may
    /// lead out of it.
    pub(crate) fn same_place(&self, path: &Path, all: &[Hierarchy]) -> Option<PathBuf> {
        let below = all.iter().filter_map(|hierarchy| path.strip_prefix(&hierarchy.mount).ok());
        let below = below.min_by_key(|below| below.as_os_str().len())?;
        join(&self.mount, below)
    }

    /// Whether a controller is bound to this hierarchy of version 1.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.as_ref().is_some_and(|all| all.iter().any(|name| name == controller))
    }
}

/// All of this host.
pub(crate) fn hierarchies() -> Vec<Hierarchy> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

/// Where cgroup file systems are seen: the usual place as a whole, others one by one.
pub(crate) fn seen() -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut all = seen_in(&mountinfo);
    // What is mounted over is not seen.
    all.retain(|path| path.is_dir());
    all
}

fn seen_in(mountinfo: &str) -> Vec<PathBuf> {
    const USUAL: &str = "/sys/fs/cgroup";
    let paths = mounts(mountinfo).map(|(_, mount, _)| mount);
    let mut all: Vec<_> = paths.map(|path| if path.starts_with(USUAL) { USUAL.into() } else { path }).collect();
    all.sort();
    all.dedup();
    all
}

/// From the contents of mountinfo (proc(5)) and of `/proc/PID/cgroup` (cgroups(7)).
pub(crate) fn parse(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = vec![];
    for (root, mount, options) in mounts(mountinfo) {
        let controllers = options.map(|options| {
            options.split(',').filter(|option| !is_option(option)).map(str::to_owned).collect::<Vec<_>>()
        });
        // The first mount of a hierarchy counts; it may be bound elsewhere again.
        if found.iter().any(|other| other.controllers == controllers) {
            continue;
        }
        let own = own_path(cgroup, controllers.as_deref());
        let own = place(&mount, &root, own.as_deref());
        found.push(Hierarchy { mount, own, controllers });
    }
    found
}

/// All mounts of cgroup file systems: what of it is shown, where, and on version 1 with which options.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (String, PathBuf, Option<&str>)> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, mount) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let options = match kind {
            "cgroup2" => None,
            "cgroup" => Some(options),
            _ => return None,
        };
        Some((unescape(root), unescape(mount).into(), options))
    })
}

/// Options of a version 1 mount that are no controllers.
fn is_option(word: &str) -> bool {
    ["rw", "ro", "noprefix", "clone_children", "xattr", "cpuset_v2_mode", "favordynmods"].contains(&word)
        || word.contains('=')
}

/// The caller's path in a hierarchy, as `/proc/self/cgroup` gives it.
fn own_path(cgroup: &str, controllers: Option<&[String]>) -> Option<String> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match controllers {
            None => names.is_empty(),
            Some(wanted) => names.split(',').any(|name| wanted.iter().any(|controller| controller == name)),
        };
        matches.then(|| path.to_owned())
    })
}

/// A path of a hierarchy as seen below a mount that shows it from `root` on. What the mount does not show is not there:
/// its top it is then.
fn place(mount: &Path, root: &str, own: Option<&str>) -> PathBuf {
    let below = own.and_then(|own| Path::new(own).strip_prefix(root).ok()).unwrap_or(Path::new(""));
    join(mount, below).unwrap_or_else(|| mount.to_owned())
}

/// What is below a mount; none of what may lead out of it.
fn join(mount: &Path, below: &Path) -> Option<PathBuf> {
    let is_below = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    // `join("")` would leave a slash at the end.
    is_below.then(|| if below.as_os_str().is_empty() { mount.to_owned() } else { mount.join(below) })
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    let mut pieces = text.split('\\');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_at_checked(3).and_then(|(code, rest)| Some((u8::from_str_radix(code, 8).ok()?, rest))) {
            Some((byte, rest)) => {
                out.push(char::from(byte));
                out.push_str(rest);
            }
            None => {
                out.push('\\');
                out.push_str(piece);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owns(mountinfo: &str, cgroup: &str) -> Vec<(String, bool)> {
        let all = parse(mountinfo, cgroup);
        all.iter().map(|hierarchy| (hierarchy.own.to_string_lossy().into_owned(), hierarchy.is_v2())).collect()
    }

    #[test]
    fn version_2() {
        let mounts = "24 30 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(owns(mounts, "0::/user.slice/a.scope\n"), [("/sys/fs/cgroup/user.slice/a.scope".into(), true)]);
        // In a cgroup namespace, outside of its root.
        assert_eq!(owns(mounts, "0::/../other\n"), [("/sys/fs/cgroup".into(), true)]);
        assert_eq!(owns(mounts, "0::/\n"), [("/sys/fs/cgroup".into(), true)]);
    }

    #[test]
    fn hybrid() {
        let mounts = "33 32 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      34 32 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      35 32 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      36 32 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "4:cpu,cpuacct:/a\n3:memory:/b/c\n1:name=systemd:/\n0::/d\n";
        let all = parse(mounts, own);
        assert_eq!(all.len(), 4);
        assert!(all[0].has("cpu") && all[0].has("cpuacct") && !all[0].has("memory"));
        assert_eq!(all[0].own, Path::new("/sys/fs/cgroup/cpu,cpuacct/a"));
        assert_eq!(all[1].own, Path::new("/sys/fs/cgroup/memory/b/c"));
        assert!(all[3].is_v2());
        assert_eq!(all[3].own, Path::new("/sys/fs/cgroup/unified/d"));
    }

    #[test]
    fn where_they_are_seen() {
        let mounts = "33 32 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      36 32 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      37 32 0:30 / /mnt/my\\040own rw - cgroup2 none rw\n\
                      38 32 0:31 / /sys/fs/cgroupish rw - tmpfs cgroup rw\n";
        assert_eq!(seen_in(mounts), ["/mnt/my own", "/sys/fs/cgroup"].map(PathBuf::from));
        assert_eq!(seen_in(""), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn the_same_place_in_each() {
        let mounts = "33 32 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      36 32 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let all = parse(mounts, "4:pids:/a\n0::/d\n");
        let places = |path: &str| all.iter().map(|h| h.same_place(Path::new(path), &all)).collect::<Vec<_>>();
        let found = ["/sys/fs/cgroup/pids/x/y", "/sys/fs/cgroup/unified/x/y"].map(|path| Some(PathBuf::from(path)));
        assert_eq!(places("/sys/fs/cgroup/pids/x/y"), found);
        assert_eq!(places("/sys/fs/cgroup/unified/x/y/"), found);
        for outside in ["/tmp", "/sys/fs/cgroup", "/sys/fs/cgroup/pids/../../../../tmp", "/sys/fs/cgroup/pids/a/.."] {
            assert_eq!(places(outside), [None, None], "{outside}");
        }
    }

    #[test]
    fn a_container_sees_a_part() {
        let mounts = "34 32 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(owns(mounts, "3:memory:/docker/abc/x\n"), [("/sys/fs/cgroup/memory/x".into(), false)]);
        assert_eq!(owns(mounts, "3:memory:/elsewhere\n"), [("/sys/fs/cgroup/memory".into(), false)]);
    }

    #[test]
    fn odd_paths() {
        let mounts = "24 30 0:22 / /mnt/my\\040cgroups rw - cgroup2 none rw\n";
        assert_eq!(owns(mounts, "0::/a b\n"), [("/mnt/my cgroups/a b".into(), true)]);
        assert_eq!(unescape("a\\134b\\x"), "a\\b\\x");
        // No kernel writes an empty root; to join what is left of the path then would leave the mount.
        assert_eq!(owns("24 30 0:22  /mnt rw - cgroup2 none rw\n", "0::/a\n"), [("/mnt".into(), true)]);
        assert!(parse("garbage\n1 2 3\n - \n", "::\n\n:").is_empty());
    }
}
