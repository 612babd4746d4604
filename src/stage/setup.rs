//! The environment: mounts, root, host name, loopback, and what every program in it inherits.
//!
//! Done by the agent, PID 1 of the sandbox; by the program's own process where that is PID 1, since a procfs shows the
//! PID namespace of whoever mounts it.

use core::ffi::CStr;

use super::enter::{At, Failed};
use super::plan::{MAX_RULESETS, Mount, Plan, Step, flag, mount};
use super::sys::{self, AT_FDCWD, Errno, Fd};

/// What outlives the set-up.
#[derive(Default)]
pub struct Environment {
    /// The sandbox's own devpts.
    pub devpts: Option<Fd>,
    /// The Landlock rules, set by set, to be put into force by each program's process.
    pub rulesets: [Option<Fd>; MAX_RULESETS],
    /// A procfs that nobody inside can have put something over, for labels.
    pub labels: Option<Fd>,
}

/// Goes through the steps.
pub fn run(plan: &Plan<'static>, tree_fds: u32) -> Result<Environment, Failed> {
    let mut environment = Environment::default();
    if plan.flags & flag::NO_USER_NS != 0 {
        // The number is one of the user namespace that looks at it, whatever procfs it is read in: the host's, still.
        sys::write_file(c"/proc/sys/user/max_user_namespaces", c"0").at(Step::UserNamespaceLimit)?;
    }
    if plan.inotify != u32::MAX {
        let mut number = Number::default();
        let most = number.write(u64::from(plan.inotify), 10);
        sys::write_file(c"/proc/sys/user/max_inotify_instances", most).at(Step::UserNamespaceLimit)?;
    }
    if !plan.label.is_empty() {
        environment.labels = Some(procfs().at(Step::Label)?);
    }
    if plan.flags & flag::MOUNT_NS != 0 {
        sys::make_private().at(Step::Propagation)?;
    }
    if !plan.mounts.is_empty() {
        mounts(plan, tree_fds, &mut environment)?;
    }
    if !plan.hostname.is_empty() {
        sys::sethostname(plan.hostname).at(Step::Hostname)?;
    }
    if !plan.domainname.is_empty() {
        sys::setdomainname(plan.domainname).at(Step::Hostname)?;
    }
    if plan.flags & flag::LOOPBACK != 0 {
        sys::loopback_up().at(Step::Loopback)?;
    }
    if !plan.landlock.is_empty() {
        rules(plan, &mut environment)?;
    }
    Ok(environment)
}

/// A procfs of one's own, detached; else the one that is there, if it is one.
fn procfs() -> sys::Result<Fd> {
    let own = sys::new_mount(c"proc", &[], sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV | sys::MOUNT_NO_EXEC);
    let proc = own.or_else(|_| sys::openat(AT_FDCWD, c"/proc", sys::O_PATH | sys::O_DIRECTORY, 0))?;
    if sys::is_procfs(proc)? { Ok(proc) } else { Err(Errno::STALE) }
}

/// The Landlock rules, in the sandbox's own paths.
fn rules(plan: &Plan<'static>, environment: &mut Environment) -> Result<(), Failed> {
    let root = if plan.chroot.is_empty() {
        sys::openat(AT_FDCWD, c"/", sys::O_PATH | sys::O_DIRECTORY, 0)
    } else {
        chroot_directory(plan)
    };
    let root = root.at(Step::LandlockRules)?;
    let mut index = 0;
    for (slot, set) in environment.rulesets.iter_mut().zip(plan.landlock.iter()) {
        let made = sys::landlock_ruleset(set.files, set.net, set.scopes);
        let ruleset = made.at_index(Step::LandlockRules, index)?;
        for rule in set.paths.iter() {
            match lookup(root, rule.path) {
                Err(Errno::NOENT) if rule.optional != 0 => {}
                found => {
                    found.and_then(|path| allow(ruleset, rule.access, path)).at_index(Step::LandlockRules, index)?
                }
            }
            index += 1;
        }
        for rule in set.ports.iter() {
            sys::landlock_allow_port(ruleset, rule.access, rule.port).at_index(Step::LandlockRules, index)?;
            index += 1;
        }
        *slot = Some(ruleset);
    }
    sys::close(root);
    Ok(())
}

/// The root without a mount namespace: the directory that was checked, and no other.
pub fn chroot_directory(plan: &Plan<'static>) -> sys::Result<Fd> {
    let root = sys::openat(AT_FDCWD, plan.chroot, sys::O_PATH | sys::O_DIRECTORY, 0)?;
    let found = sys::stat(root, c"")?;
    if (found.device, found.inode) == (plan.chroot_device, plan.chroot_inode) { Ok(root) } else { Err(Errno::STALE) }
}

/// The root as the host may look into it: a copy of the mounts, of which nothing can be executed or followed, and which
/// stays when the sandbox has ended. Without mounts of its own, the directory.
pub fn root_for_host(plan: &Plan<'static>) -> sys::Result<Fd> {
    let joined = plan.joins.iter().any(|join| join.kind == sys::CLONE_NEWNS);
    if plan.flags & flag::MOUNT_NS == 0 && !joined {
        if !plan.chroot.is_empty() {
            return chroot_directory(plan);
        }
        return sys::openat(AT_FDCWD, c"/", sys::O_PATH | sys::O_DIRECTORY, 0);
    }
    let tree = sys::open_tree(AT_FDCWD, c"/")?;
    let inert = sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV | sys::MOUNT_NO_EXEC | sys::MOUNT_NO_SYMLINKS;
    match sys::set_mount_attributes(tree, inert, true) {
        Ok(()) => Ok(tree),
        Err(errno) => {
            sys::close(tree);
            Err(errno)
        }
    }
}

/// What counts for directories only does not count for a file.
fn allow(ruleset: Fd, access: u64, path: Fd) -> sys::Result<()> {
    /// Execute, write, read, truncate, ioctl on a device.
    const OF_FILES: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15;
    let access = if sys::stat(path, c"")?.is_dir() { access } else { access & OF_FILES };
    let allowed = if access == 0 { Ok(()) } else { sys::landlock_allow_path(ruleset, access, path) };
    sys::close(path);
    allowed
}

/// What the program inherits from the process that forks it, and so need not be done for each.
pub fn confine(plan: &Plan<'static>) -> Result<(), Failed> {
    if plan.flags & flag::BOUNDING_SET != 0 {
        for capability in (0..=plan.last_cap.min(63)).filter(|capability| plan.keep & 1 << capability == 0) {
            sys::prctl(sys::PR_CAPBSET_DROP, capability as usize, 0).at_index(Step::BoundingSet, capability)?;
        }
        if plan.securebits != 0 {
            let bits = sys::prctl(sys::PR_GET_SECUREBITS, 0, 0).at(Step::BoundingSet)?;
            sys::prctl(sys::PR_SET_SECUREBITS, bits | plan.securebits as usize, 0).at(Step::BoundingSet)?;
        }
    }
    sys::prctl(sys::PR_CAP_AMBIENT, sys::PR_CAP_AMBIENT_CLEAR_ALL, 0).at(Step::AgentCapabilities)?;
    let permitted = sys::permitted().at(Step::AgentCapabilities)?;
    let permitted = permitted & (AGENT_NEEDS | plan.keep);
    sys::capset(permitted, permitted, 0).at(Step::AgentCapabilities)?;
    if plan.flags & flag::NO_NEW_PRIVS != 0 {
        sys::prctl(sys::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::NoNewPrivileges)?;
    }
    Ok(())
}

/// What the agent needs to enter programs, whatever the policy: CAP_CHOWN (of terminals), KILL, SETGID, SETUID, SETPCAP,
/// SYS_CHROOT, SYS_ADMIN (cgroup namespace, credentials of its messages), SYS_RESOURCE.
const AGENT_NEEDS: u64 = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 18 | 1 << 21 | 1 << 24;

/// The state of the walk through the plan's mounts.
struct Walk {
    root: Fd,
    next_tree: u32,
    /// The root is a file system that this launch has made.
    private_root: bool,
    /// Devices of the file systems that this launch has made: only in these may a missing target be created.
    private: Private,
    staging: Staging,
    /// Which mount this is, for the error.
    index: u32,
}

impl Walk {
    /// Makes an entry of a root that was made just now, which most are: nothing can be in its place then. False: it is not
    /// one, or is there already.
    fn makes(&self, path: &CStr, kind: Kind<'_>) -> bool {
        let bytes = path.to_bytes();
        self.private_root && !bytes.is_empty() && !bytes.contains(&b'/') && make(self.root, path, kind).is_ok()
    }

    fn at<T>(&self, result: sys::Result<T>, step: Step) -> Result<T, Failed> {
        result.at_index(step, self.index)
    }
}

fn mounts(plan: &Plan<'static>, tree_fds: u32, environment: &mut Environment) -> Result<(), Failed> {
    let mut walk = Walk {
        root: AT_FDCWD,
        next_tree: tree_fds,
        private_root: false,
        private: Private::default(),
        staging: Staging::default(),
        index: 0,
    };
    let mut list = plan.mounts.iter();
    if plan.flags & flag::PIVOT != 0 {
        walk.root = root(&mut list, &mut walk)?;
        walk.private_root = walk.private.holds(walk.root).at(Step::Root)?;
    } else {
        walk.root = sys::openat(AT_FDCWD, c"/", sys::O_PATH | sys::O_DIRECTORY, 0).at(Step::Root)?;
    }
    for entry in list {
        one(&entry, &mut walk, environment)?;
        walk.index += 1;
    }
    if plan.flags & flag::ROOT_READ_ONLY != 0 {
        sys::set_mount_attributes(walk.root, sys::MOUNT_READ_ONLY, false).at(Step::Root)?;
    }
    if plan.flags & flag::PIVOT != 0 {
        sys::fchdir(walk.root).at(Step::Pivot)?;
        sys::pivot_here().at(Step::Pivot)?;
        sys::chdir(c"/").at(Step::Pivot)?;
    } else {
        // What was mounted over it, or above it, holds for relative paths too. Not the one that a program asks for: 1.
        sys::reenter_directory().at_index(Step::WorkingDirectory, 1)?;
    }
    sys::close(walk.root);
    Ok(())
}

/// The root is mounted over the old one, where only its descriptor leads to it until it is pivoted to.
fn root(list: &mut impl Iterator<Item = Mount<'static>>, walk: &mut Walk) -> Result<Fd, Failed> {
    let tree = loop {
        let Some(entry) = list.next() else { return Err(Errno::PROTO).at(Step::Root) };
        let tree = match entry.kind {
            mount::LOWER => layer(&entry, walk).map(|()| None)?,
            mount::OVERLAY => Some(overlay(&entry, walk)?),
            mount::TMPFS => Some(tmpfs(&entry, walk)?),
            _ => Some(source(&entry, walk)?),
        };
        walk.index += 1;
        if let Some(tree) = tree {
            break tree;
        }
    };
    let old = sys::openat(AT_FDCWD, c"/", sys::O_PATH | sys::O_DIRECTORY, 0).at(Step::Root)?;
    let moved = sys::move_mount(tree, old);
    sys::close(old);
    moved.at(Step::Root)?;
    Ok(tree)
}

fn one(entry: &Mount<'static>, walk: &mut Walk, environment: &mut Environment) -> Result<(), Failed> {
    match entry.kind {
        mount::BIND => {
            let tree = source(entry, walk)?;
            let directory = entry.flags & mount::SOURCE_DIR != 0;
            attach(entry, walk, tree, directory).map(sys::close)
        }
        mount::TMPFS => {
            let tree = tmpfs(entry, walk)?;
            attach(entry, walk, tree, true).map(sys::close)
        }
        mount::PROC => proc(entry, walk),
        mount::DEV => device_directory(entry, walk, environment),
        mount::MASK => mask(entry, walk),
        mount::LOWER => layer(entry, walk),
        mount::OVERLAY => {
            let tree = overlay(entry, walk)?;
            attach(entry, walk, tree, true).map(sys::close)
        }
        mount::SYMLINK | mount::DIRECTORY => node(entry, walk),
        _ => walk.at(Err(Errno::PROTO), Step::MountMake),
    }
}

fn attributes(entry: &Mount<'_>) -> u64 {
    let wanted = |bit: u32, attribute: u64| if entry.flags & bit != 0 { attribute } else { 0 };
    sys::MOUNT_NO_SUID | wanted(mount::READ_ONLY, sys::MOUNT_READ_ONLY) | wanted(mount::NO_DEV, sys::MOUNT_NO_DEV)
}

/// The source as a detached tree with its attributes set, all the way down.
fn source(entry: &Mount<'static>, walk: &mut Walk) -> Result<Fd, Failed> {
    let tree = if entry.flags & mount::SOURCE_FD != 0 {
        let tree = Fd(walk.next_tree as i32);
        walk.next_tree += 1;
        tree
    } else {
        let opened = sys::open_tree(AT_FDCWD, entry.source);
        let tree = walk.at(opened, Step::MountSource)?;
        let found = walk.at(sys::stat(tree, c""), Step::MountSource)?;
        // What was checked is what is mounted.
        if (found.device, found.inode) != (entry.device, entry.inode) {
            return walk.at(Err(Errno::STALE), Step::MountSource);
        }
        tree
    };
    let set = sys::set_mount_attributes(tree, attributes(entry), true);
    walk.at(set, Step::MountMake)?;
    Ok(tree)
}

/// A fresh tmpfs, detached.
fn tmpfs(entry: &Mount<'_>, walk: &mut Walk) -> Result<Fd, Failed> {
    let mut size = Number::default();
    let mut mode = Number::default();
    // With size 0 the kernel means no limit at all; the host never asks for that.
    let mut files = Number::default();
    let options = [
        (c"size", Some(size.write(entry.size, 10))),
        (c"nr_inodes", Some(files.write(most_files(entry.size), 10))),
        (c"mode", Some(mode.write(u64::from(entry.mode), 8))),
    ];
    // The root's own read-only bit comes last: targets are still to be made in it.
    let tree = walk.at(sys::new_mount(c"tmpfs", &options, attributes(entry)), Step::MountMake)?;
    let added = walk.private.add(tree);
    walk.at(added, Step::MountMake)?;
    Ok(tree)
}

/// As many as there are pages, and a few: an empty one costs the kernel memory that no limit in bytes knows of.
fn most_files(bytes: u64) -> u64 {
    (bytes / 4096).saturating_add(64)
}

/// Puts a detached tree at the entry's target; the target is made if it is missing in a private file system.
fn attach(entry: &Mount<'static>, walk: &Walk, tree: Fd, directory: bool) -> Result<Fd, Failed> {
    let kind = if directory { Kind::Directory } else { Kind::File };
    if walk.makes(entry.target, kind) {
        let moved = put(walk.root, entry.target, tree);
        return walk.at(moved, Step::MountMove).map(|()| tree);
    }
    let found = target(entry, walk, kind);
    let target = walk.at(found, Step::MountTarget)?;
    let moved = sys::move_mount(tree, target);
    sys::close(target);
    walk.at(moved, Step::MountMove)?;
    Ok(tree)
}

fn proc(entry: &Mount<'static>, walk: &Walk) -> Result<(), Failed> {
    let made = sys::new_mount(c"proc", &[], sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV | sys::MOUNT_NO_EXEC);
    let proc = attach(entry, walk, walk.at(made, Step::MountMake)?, true)?;
    if entry.flags & mount::COVER != 0 {
        // uid 0 of the host, even without capabilities, may write here.
        for name in COVERED {
            let covered = cover(proc, name);
            walk.at(covered, Step::MountMake)?;
        }
    }
    if entry.flags & mount::HIDE_KEYS != 0 {
        for name in [c"keys", c"key-users"] {
            let hidden = hide(proc, name);
            walk.at(hidden, Step::MountMake)?;
        }
    }
    sys::close(proc);
    Ok(())
}

/// Nothing can be read there any more; it need not be there.
fn hide(dir: Fd, name: &CStr) -> sys::Result<()> {
    let null = device(AT_FDCWD, c"/dev/null", 1, 3)?;
    let hidden = match sys::move_mount_onto(null, dir, name) {
        Err(Errno::NOENT) => Ok(()),
        moved => moved,
    };
    sys::close(null);
    hidden
}

/// What of procfs speaks for the whole machine, and is not there for everybody to write.
const COVERED: [&CStr; 11] = [
    c"sys",
    c"sysrq-trigger",
    c"irq",
    c"bus",
    c"scsi",
    c"fs",
    c"acpi",
    c"driver",
    c"mtrr",
    c"dynamic_debug",
    c"pressure",
];

/// Makes what is there read-only, by mounting it over itself.
fn cover(dir: Fd, name: &CStr) -> sys::Result<()> {
    let tree = match sys::open_tree(dir, name) {
        Err(Errno::NOENT) => return Ok(()),
        tree => tree?,
    };
    let attributes = sys::MOUNT_READ_ONLY | sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV | sys::MOUNT_NO_EXEC;
    sys::set_mount_attributes(tree, attributes, true)?;
    let place = sys::openat(dir, name, sys::O_PATH | sys::O_NOFOLLOW, 0)?;
    sys::move_mount(tree, place)?;
    sys::close(place);
    sys::close(tree);
    Ok(())
}

/// A private `/dev`: a small tmpfs with the harmless nodes, a devpts and an shm of its own. Read-only in the end, so that
/// a payload cannot put something else in their place.
fn device_directory(entry: &Mount<'static>, walk: &Walk, environment: &mut Environment) -> Result<(), Failed> {
    // First of all: without a root of its own, what is mounted here lies over it.
    let host = match entry.flags & mount::MAKE_NODES {
        0 => Some(walk.at(sys::openat(AT_FDCWD, c"/dev", sys::O_PATH | sys::O_DIRECTORY, 0), Step::MountMake)?),
        _ => None,
    };
    let options = [(c"size", Some(c"65536")), (c"mode", Some(c"755")), (c"nr_inodes", Some(c"64"))];
    let made = sys::new_mount(c"tmpfs", &options, sys::MOUNT_NO_SUID | sys::MOUNT_NO_EXEC);
    let dev = attach(entry, walk, walk.at(made, Step::MountMake)?, true)?;
    let filled = fill_device_directory(entry, dev, host);
    environment.devpts = Some(walk.at(filled, Step::MountMake)?);
    let sealed = sys::set_mount_attributes(dev, sys::MOUNT_READ_ONLY, false);
    walk.at(sealed, Step::MountMake)?;
    sys::close(dev);
    Ok(())
}

/// The nodes are the host's, or made.
fn fill_device_directory(entry: &Mount<'static>, dev: Fd, host: Option<Fd>) -> sys::Result<Fd> {
    let nodes =
        [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];
    sys::umask(0);
    for (name, major, minor) in nodes {
        match host {
            None => sys::mknodat(dev, name, major, minor)?,
            // A node may be missing on the host, as in a chroot; then it is missing here too.
            Some(host) => match device(host, name, major, minor) {
                Err(Errno::NOENT) => {}
                tree => bind_node(dev, name, tree?)?,
            },
        }
    }
    if let Some(host) = host {
        sys::close(host);
    }
    for (name, target) in [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
        (c"ptmx", c"pts/ptmx"),
    ] {
        sys::symlinkat(target, dev, name)?;
    }
    sys::mkdirat(dev, c"pts", 0o755)?;
    sys::mkdirat(dev, c"shm", 0o1777)?;
    sys::umask(0o022);

    // The machine has so many in all (kernel.pty.max).
    let all = [(c"max", Some(c"64")), (c"ptmxmode", Some(c"0666")), (c"mode", Some(c"0620")), (c"gid", Some(c"5"))];
    let options = if entry.flags & mount::TTY_GROUP != 0 { &all[..] } else { &all[..3] };
    let devpts = sys::new_mount(c"devpts", options, sys::MOUNT_NO_SUID | sys::MOUNT_NO_EXEC)?;
    put(dev, c"pts", devpts)?;
    let (mut size, mut files) = (Number::default(), Number::default());
    let options = [
        (c"size", Some(size.write(entry.size, 10))),
        (c"nr_inodes", Some(files.write(most_files(entry.size), 10))),
        (c"mode", Some(c"1777")),
    ];
    let shm = sys::new_mount(c"tmpfs", &options, sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV | sys::MOUNT_NO_EXEC)?;
    put(dev, c"shm", shm)?;
    sys::close(shm);
    Ok(devpts)
}

/// A device of the host as a detached tree, verified to be what its name says.
fn device(dir: Fd, path: &CStr, major: u32, minor: u32) -> sys::Result<Fd> {
    let tree = sys::open_tree(dir, path)?;
    if !sys::stat(tree, c"")?.is_char_device(major, minor) {
        return Err(Errno::STALE);
    }
    // The device can be written to all the same; its node's owner and mode cannot.
    sys::set_mount_attributes(tree, sys::MOUNT_READ_ONLY | sys::MOUNT_NO_SUID | sys::MOUNT_NO_EXEC, true)?;
    Ok(tree)
}

fn bind_node(dir: Fd, name: &CStr, tree: Fd) -> sys::Result<()> {
    sys::make_file(dir, name, 0o666)?;
    put(dir, name, tree)?;
    sys::close(tree);
    Ok(())
}

/// Puts a detached tree onto an entry of a directory of our own.
fn put(dir: Fd, name: &CStr, tree: Fd) -> sys::Result<()> {
    sys::move_mount_onto(tree, dir, name)
}

/// An empty directory, or the null device, over what is there.
fn mask(entry: &Mount<'static>, walk: &Walk) -> Result<(), Failed> {
    let found = target(entry, walk, Kind::Existing);
    let place = walk.at(found, Step::MountTarget)?;
    let tree = sys::stat(place, c"").and_then(|stat| {
        if stat.is_dir() {
            let options = [(c"size", Some(c"4096")), (c"nr_inodes", Some(c"2")), (c"mode", Some(c"000"))];
            sys::new_mount(c"tmpfs", &options, sys::MOUNT_READ_ONLY | sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV)
        } else {
            device(AT_FDCWD, c"/dev/null", 1, 3)
        }
    });
    let tree = walk.at(tree, Step::MountMake)?;
    let moved = sys::move_mount(tree, place);
    sys::close(tree);
    sys::close(place);
    walk.at(moved, Step::MountMove)
}

fn layer(entry: &Mount<'static>, walk: &mut Walk) -> Result<(), Failed> {
    let tree = source(entry, walk)?;
    let staged = walk.staging.add(tree);
    walk.at(staged, Step::MountMake)
}

/// The layers are mounted in a private directory, which becomes the current one, and are named by number there: no path
/// of the host is parsed as an option, and no layer can be swapped. The writable layer is a tmpfs of our own, and so what
/// is missing may be made in the overlay.
fn overlay(entry: &Mount<'static>, walk: &mut Walk) -> Result<Fd, Failed> {
    let (mut size, mut files) = (Number::default(), Number::default());
    let (size, files) = (size.write(entry.size, 10), files.write(most_files(entry.size), 10));
    let made = core::mem::take(&mut walk.staging).overlay(size, files, attributes(entry));
    let tree = walk.at(made, Step::MountMake)?;
    let added = walk.private.add(tree);
    walk.at(added, Step::MountMake)?;
    Ok(tree)
}

/// A symbolic link or a directory, where it does not exist yet.
fn node(entry: &Mount<'static>, walk: &Walk) -> Result<(), Failed> {
    let kind = if entry.kind == mount::DIRECTORY { Kind::Directory } else { Kind::Link(entry.source) };
    if walk.makes(entry.target, kind) {
        return Ok(());
    }
    let made = target(entry, walk, kind).map(sys::close);
    walk.at(made, Step::MountTarget)
}

/// Layers of an overlay to come.
#[derive(Default)]
struct Staging {
    dir: Option<Fd>,
    lowers: u32,
}

impl Staging {
    /// A private directory to mount the layers in; it is mounted over the old root, and let go of afterwards.
    fn dir(&mut self) -> sys::Result<Fd> {
        if let Some(dir) = self.dir {
            return Ok(dir);
        }
        let dir = sys::new_mount(c"tmpfs", &[(c"mode", Some(c"700"))], sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV)?;
        let root = sys::openat(AT_FDCWD, c"/", sys::O_PATH | sys::O_DIRECTORY, 0)?;
        sys::move_mount(dir, root)?;
        sys::close(root);
        self.dir = Some(dir);
        Ok(dir)
    }

    fn add(&mut self, tree: Fd) -> sys::Result<()> {
        let dir = self.dir()?;
        let mut number = Number::default();
        let name = number.write(u64::from(self.lowers), 10);
        sys::mkdirat(dir, name, 0o700)?;
        put(dir, name, tree)?;
        sys::close(tree);
        self.lowers += 1;
        Ok(())
    }

    fn overlay(mut self, size: &CStr, files: &CStr, attributes: u64) -> sys::Result<Fd> {
        let dir = self.dir()?;
        sys::mkdirat(dir, c"upper", 0o755)?;
        let options = [(c"size", Some(size)), (c"nr_inodes", Some(files)), (c"mode", Some(c"755"))];
        let upper = sys::new_mount(c"tmpfs", &options, sys::MOUNT_NO_SUID | sys::MOUNT_NO_DEV)?;
        put(dir, c"upper", upper)?;
        sys::mkdirat(upper, c"upper", 0o755)?;
        sys::mkdirat(upper, c"work", 0o700)?;
        sys::close(upper);
        // "0:1:2", the uppermost first. The kernel takes 255 bytes, which the host has checked.
        let mut lowers = Text::<256>::default();
        for lower in 0..self.lowers {
            let mut number = Number::default();
            if lower > 0 {
                lowers.push(b":")?;
            }
            lowers.push(number.write(u64::from(lower), 10).to_bytes())?;
        }
        let here = sys::openat(AT_FDCWD, c".", sys::O_PATH | sys::O_DIRECTORY, 0)?;
        sys::fchdir(dir)?;
        let layers = [
            (c"lowerdir", Some(lowers.as_c_str()?)),
            (c"upperdir", Some(c"upper/upper")),
            (c"workdir", Some(c"upper/work")),
            (c"userxattr", None),
        ];
        let made = sys::new_mount(c"overlay", &layers, attributes);
        // The overlay holds its layers; nobody else needs the way to them.
        sys::detach_mount(c".")?;
        sys::fchdir(here)?;
        sys::close(here);
        sys::close(dir);
        made
    }
}

/// What a target is to be if it does not exist yet.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Directory,
    File,
    Link(&'a CStr),
    /// It must exist.
    Existing,
}

/// Opens the entry's target inside the root. Links are followed inside the root only, magic links never.
fn target(entry: &Mount<'static>, walk: &Walk, kind: Kind<'_>) -> sys::Result<Fd> {
    match lookup(walk.root, entry.target) {
        Err(Errno::NOENT) if !matches!(kind, Kind::Existing) => create(walk, entry.target, kind),
        Ok(_) if matches!(kind, Kind::Link(_)) => Err(Errno::EXIST),
        found => found,
    }
}

fn make(dir: Fd, name: &CStr, kind: Kind<'_>) -> sys::Result<()> {
    match kind {
        Kind::Directory | Kind::Existing => sys::mkdirat(dir, name, 0o755),
        Kind::Link(to) => sys::symlinkat(to, dir, name),
        Kind::File => sys::make_file(dir, name, 0o644),
    }
}

/// Walks down from the root; what is missing is made if the directory that it is missing in is private.
fn create(walk: &Walk, path: &CStr, kind: Kind<'_>) -> sys::Result<Fd> {
    let mut so_far = Text::<4096>::default();
    let mut parent = lookup(walk.root, c".")?;
    let mut names = path.to_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        if so_far.len > 0 {
            so_far.push(b"/")?;
        }
        so_far.push(name)?;
        let found = match lookup(walk.root, so_far.as_c_str()?) {
            Err(Errno::NOENT) => {
                if !walk.private.holds(parent)? {
                    return Err(Errno::NOENT);
                }
                let mut text = Text::<256>::default();
                text.push(name)?;
                let name = text.as_c_str()?;
                let kind = if names.peek().is_some() { Kind::Directory } else { kind };
                make(parent, name, kind)?;
                if matches!(kind, Kind::Link(_)) {
                    return Ok(parent);
                }
                // Made just now, in a directory that is nobody else's: no link can be in its place.
                sys::openat(parent, name, sys::O_PATH | sys::O_NOFOLLOW, 0)?
            }
            found => found?,
        };
        sys::close(parent);
        parent = found;
    }
    Ok(parent)
}

/// Opens a path inside a root, as a mere place.
fn lookup(root: Fd, path: &CStr) -> sys::Result<Fd> {
    lookup_as(root, path, 0)
}

/// The same for a directory. All that this calls can have the pass.
pub fn lookup_directory(root: Fd, path: &CStr) -> sys::Result<Fd> {
    lookup_as(root, path, sys::O_DIRECTORY)
}

fn lookup_as(root: Fd, path: &CStr, kind: u32) -> sys::Result<Fd> {
    let path = if path.is_empty() { c"." } else { path };
    match sys::openat2(root, path, sys::O_PATH | kind, sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_MAGICLINKS) {
        // An outer filter that does not know the call. Name by name then, and no link is followed at all.
        Err(Errno::NOSYS | Errno::PERM) => lookup_by_names(root, path, kind),
        found => found,
    }
}

fn lookup_by_names(root: Fd, path: &CStr, kind: u32) -> sys::Result<Fd> {
    let mut dir = sys::openat(root, c".", sys::O_PATH | sys::O_DIRECTORY, 0)?;
    for name in path.to_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        if name == b".." {
            return Err(Errno::XDEV);
        }
        let mut text = Text::<256>::default();
        text.push(name)?;
        // With O_DIRECTORY a link is ENOTDIR.
        let next = sys::openat(dir, text.as_c_str()?, sys::O_PATH | sys::O_NOFOLLOW | kind, 0)?;
        sys::close(dir);
        dir = next;
        if kind == 0 && sys::stat(dir, c"")?.mode & 0o170_000 == 0o120_000 {
            return Err(Errno::NOSYS);
        }
    }
    Ok(dir)
}

/// The devices of the file systems that this launch has made.
struct Private {
    devices: [u64; 64],
    used: usize,
}

impl Default for Private {
    fn default() -> Self {
        Self { devices: [0; 64], used: 0 }
    }
}

impl Private {
    /// Beyond the 64th, targets must be made by hand: nothing is created where that was not checked.
    fn add(&mut self, tree: Fd) -> sys::Result<()> {
        let device = sys::stat(tree, c"")?.device;
        if let Some(slot) = self.devices.get_mut(self.used) {
            *slot = device;
            self.used += 1;
        }
        Ok(())
    }
    fn holds(&self, dir: Fd) -> sys::Result<bool> {
        let device = sys::stat(dir, c"")?.device;
        Ok(self.devices.iter().take(self.used).any(|known| *known == device))
    }
}

/// A short string under construction.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Text<N> {
    pub fn push(&mut self, bytes: &[u8]) -> sys::Result<()> {
        // One byte stays zero: the terminator.
        let place = self.bytes.get_mut(self.len..N - 1).and_then(|rest| rest.get_mut(..bytes.len()));
        place.ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }
    pub fn as_c_str(&self) -> sys::Result<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::NAMETOOLONG)
    }
}

/// A number in text.
#[derive(Default)]
pub struct Number {
    digits: [u8; 24],
}

impl Number {
    pub fn write(&mut self, mut value: u64, base: u64) -> &CStr {
        self.digits = [0; 24];
        // 22 digits hold any u64 in base 8; the last byte stays zero.
        let mut first = 23;
        for (place, digit) in self.digits.iter_mut().enumerate().take(23).rev() {
            *digit = b'0' + (value % base) as u8;
            value /= base;
            first = place;
            if value == 0 {
                break;
            }
        }
        self.digits.get(first..).and_then(|digits| CStr::from_bytes_with_nul(digits).ok()).unwrap_or(c"0")
    }
}
