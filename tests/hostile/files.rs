//! Files: the host's, knobs of the machine, ways out of the root, and traps laid for whoever makes the mounts.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use stockade::{Capabilities, Overlay, Sandbox, Stdio};

use crate::common;
use crate::lab::{Control, Lab, Marker, Pair, Ran, Twins};

pub fn pairs() -> Vec<Pair> {
    use Control::{Host, Plain};
    vec![
        // Of the machine as a whole: opened at most.
        Pair::of("core_pattern", "open-write", &["/proc/sys/kernel/core_pattern"], Plain).root_shows(),
        Pair::of("sysrq", "open-write", &["/proc/sysrq-trigger"], Plain).root_shows(),
        Pair::of(
            "kernel-helpers",
            "open-write",
            &[
                "/proc/sys/kernel/modprobe",
                "/sys/kernel/uevent_helper",
                "/proc/sys/kernel/poweroff_cmd",
                "/proc/sys/fs/binfmt_misc/register",
                "/proc/sys/kernel/hotplug",
            ],
            Plain,
        )
        .root_shows(),
        Pair::of(
            "proc-writes",
            "open-write",
            &[
                "/proc/sys/kernel/hostname",
                "/proc/sys/kernel/randomize_va_space",
                "/proc/sys/vm/drop_caches",
                "/proc/sys/vm/overcommit_memory",
                "/proc/sys/fs/file-max",
                "/proc/irq/default_smp_affinity",
                "/proc/mtrr",
                "/proc/timer_list",
            ],
            Plain,
        )
        .root_shows(),
        Pair::of(
            "proc-sys-net",
            "open-write",
            &["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/net/core/somaxconn"],
            Control::Capable,
        ),
        Pair::of(
            "sys-writes",
            "open-write",
            &["/sys/power/state", "/sys/kernel/profiling", "/sys/kernel/mm/ksm/run", "/sys/bus/pci/rescan"],
            Plain,
        )
        .root_shows(),
        Pair::of("kcore", "open-read", &["/proc/kcore"], Host).root_shows(),
        Pair::of("kmsg", "open-write", &["/dev/kmsg", "/proc/kmsg"], Plain).root_shows(),
        Pair::of("memory-devices", "open-read", &["/dev/mem", "/dev/port", "/dev/kmem", "/dev/nvram"], Host)
            .root_shows(),
        Pair::new("raw-disk", raw_disk).root_shows(),
        Pair::new("disk-node", disk_node).root_shows(),
        Pair::new("mknod", |lab| Twins {
            inside: vec![
                lab.inside(&lab.hardened(), &["mknod", "/tmp/node"]),
                lab.inside(&lab.capable(), &["mknod", "/tmp/node"]),
            ],
            control: lab.outside(&["mknod", Marker::new().path().join("node").to_str().unwrap()]),
        })
        .root_shows(),
        Pair::new("device-in-a-bind", device_in_a_bind).root_shows(),
        Pair::new("cgroup-files", cgroup_files).root_shows(),
        // The host's files.
        Pair::new("host-file", host_file),
        Pair::new("host-directory", host_directory),
        Pair::new("read-only-bind", read_only_bind),
        Pair::new("usr", usr).root_shows(),
        Pair::new("overlay", overlay),
        Pair::new("file-of-root", file_of_root).root_shows(),
        Pair::new("set-uid-left", set_uid_left).root_shows(),
        Pair::new("double-chroot", |lab| chroot(lab, "double-chroot")),
        Pair::new("fd-chroot", |lab| chroot(lab, "fd-chroot")),
        Pair::new("renamed-away", renamed_away),
        Pair::new("overlong", overlong),
        Pair::new("file-handle", file_handle).root_shows(),
        // What the host had open.
        Pair::new("descriptors", descriptors),
        Pair::new("cwd", working_directory),
        Pair::new("cwd-by-descriptor", working_directory_by_descriptor),
        Pair::new("reopen", reopen),
        Pair::new("handed-directory", handed_directory),
        Pair::new("handed-file", handed_file).undecided(
            "rootless, a payload owns its user's files: of one that is handed over to be read it can change the mode",
        ),
        Pair::of("nested-limit", "open-write", &["/proc/sys/user/max_user_namespaces"], Control::Capable),
        // Traps in a root that somebody else writes to.
        Pair::new("swapped-target", swapped_target),
        Pair::new("link-as-target", link_as_target),
        Pair::new("directories-made", directories_made),
        Pair::new("false-mask", false_mask),
        Pair::new("false-proc", false_proc),
        Pair::new("false-dev", false_dev),
    ]
}

const DEVICES: &str = "the cgroup that the test runs in has no disks";

fn raw_disk(lab: &Lab) -> Twins {
    let partitions = std::fs::read_to_string("/proc/partitions").unwrap();
    // The first that has something in it.
    let disk = partitions.lines().skip(2).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let disk = disk.into_iter().find(|words| words.get(2).is_some_and(|blocks| *blocks != "0"));
    let Some(disk) = disk else {
        return Twins { inside: vec![], control: Ran::Absent("no disk".into()) };
    };
    let marker = Marker::new();
    let node = marker.path().join("node");
    Twins {
        inside: vec![
            lab.inside(&lab.hardened(), &["raw-disk", "/tmp/node", disk[0], disk[1]]),
            lab.inside(&lab.capable(), &["raw-disk", "/tmp/node", disk[0], disk[1]]),
        ],
        control: lab.outside(&["raw-disk", node.to_str().unwrap(), disk[0], disk[1]]).or_elsewhere(DEVICES),
    }
}

/// The nodes that the host has.
fn disk_node(lab: &Lab) -> Twins {
    let partitions = std::fs::read_to_string("/proc/partitions").unwrap();
    let nodes = partitions.lines().skip(2).filter_map(|line| line.split_whitespace().nth(3));
    let nodes: Vec<String> = nodes.map(|name| format!("/dev/{name}")).collect();
    let args: Vec<&str> = std::iter::once("open-read").chain(nodes.iter().map(String::as_str)).collect();
    Twins { inside: vec![lab.inside(&lab.hardened(), &args)], control: lab.outside(&args).or_elsewhere(DEVICES) }
}

/// A node that somebody has left in a directory that is shared.
fn device_in_a_bind(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let node = marker.path().join("zero");
    let made = std::process::Command::new("mknod").arg("-m666").arg(&node).args(["c", "1", "5"]).output().unwrap();
    if !made.status.success() {
        std::fs::write(&node, "").unwrap();
    }
    let sandbox = lab.hardened().bind_rw(marker.path(), "/data");
    let host = lab.unrooted(&Sandbox::new(), &["open-read", node.to_str().unwrap()]);
    let control = if made.status.success() { host } else { Ran::Refused("mknod".into()) };
    let inside = lab.inside(&sandbox, &["open-read", if made.status.success() { "/data/zero" } else { "/data/none" }]);
    Twins { inside: vec![inside], control }
}

/// CVE-2022-0492, and any other file of cgroups: of one that the test's own sandbox has.
fn cgroup_files(lab: &Lab) -> Twins {
    let sandbox = lab.hardened().pids_limit(64);
    let neighbour = lab.holder_in(&mut Lab::command(&sandbox, &["hold"]));
    let list = std::fs::read_to_string(format!("/proc/{}/cgroup", neighbour.id())).unwrap();
    let own = list.lines().find(|line| line.contains("stockade-")).map(|line| {
        let mut words = line.splitn(3, ':').skip(1);
        (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
    });
    let Some((controllers, path)) = own else {
        let inside =
            lab.inside(&sandbox, &["open-write", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/release_agent"]);
        return Twins { inside: vec![inside], control: Ran::Absent("no cgroup can be made".into()) };
    };
    let places = ["", "/unified", &format!("/{controllers}")].map(|place| format!("/sys/fs/cgroup{place}{path}"));
    let mut args = vec!["open-write".to_owned()];
    for place in &places {
        args.extend(["cgroup.procs", "tasks", "notify_on_release"].map(|file| format!("{place}/{file}")));
    }
    Twins { inside: vec![lab.inside(&sandbox, &args)], control: lab.unrooted(&Sandbox::new(), &args) }
}

fn host_file(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let attempt = ["read".to_owned(), marker.file(), marker.text.clone()];
    Twins { inside: vec![lab.inside(&lab.hardened(), &attempt)], control: lab.unrooted(&Sandbox::new(), &attempt) }
}

/// Writing where every user may write.
fn host_directory(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let made = marker.path().join("made");
    let attempt = ["create", made.to_str().unwrap()];
    let inside = lab.inside(&lab.hardened(), &attempt).unless(made.exists(), "it is there");
    Twins { inside: vec![inside], control: lab.unrooted(&Sandbox::new(), &attempt) }
}

fn read_only_bind(lab: &Lab) -> Twins {
    let marker = Marker::new();
    common::open(&marker.directory);
    std::fs::set_permissions(marker.file(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let sandbox = lab.hardened();
    let read_only = sandbox.clone().bind_ro(marker.path(), "/data");
    let inside =
        vec![lab.inside(&read_only, &["create", "/data/made"]), lab.inside(&read_only, &["change", "/data/marker"])];
    Twins { inside, control: lab.inside(&sandbox.bind_rw(marker.path(), "/data"), &["create", "/data/made"]) }
}

/// The programs themselves. The control makes a file with a name of its own, and removes it.
fn usr(lab: &Lab) -> Twins {
    let path = format!("/usr/bin/stockade-hostile-{}", lab.unique());
    let root = lab.inside(&lab.hardened(), &["create", "/made"]);
    let inside = lab.inside(&lab.hardened(), &["create", &path]).unless(Path::new(&path).exists(), "it is there");
    let control = lab.unrooted(&Sandbox::new(), &["create", &path]);
    let _ = std::fs::remove_file(&path);
    Twins { inside: vec![inside, root], control }
}

/// What is below a private layer.
fn overlay(lab: &Lab) -> Twins {
    let marker = Marker::new();
    std::fs::set_permissions(marker.file(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let attempt = |sandbox: Sandbox| {
        let _ = lab.inside(&sandbox, &["create", "/data/made"]);
        let _ = lab.inside(&sandbox, &["change", "/data/marker"]);
        let text = std::fs::read_to_string(marker.file()).unwrap_or_default();
        Ran::seen(marker.path().join("made").exists() || text != marker.text, "it is changed")
    };
    let inside = vec![attempt(lab.hardened().overlay("/data", Overlay::new(marker.path())))];
    Twins { inside, control: attempt(lab.hardened().bind_rw(marker.path(), "/data")) }
}

/// The machine's root needs no capability for what is root's.
fn file_of_root(lab: &Lab) -> Twins {
    let marker = Marker::new();
    std::fs::set_permissions(marker.file(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    if !common::is_root() {
        // The nearest that there is: an ordinary user has no file of root's.
        std::fs::remove_file(marker.file()).unwrap();
    }
    let sandbox = lab.hardened().bind_rw(marker.path(), "/data");
    Twins {
        inside: vec![lab.inside(&sandbox, &["read", "/data/marker", &marker.text])],
        control: lab.unrooted(&Sandbox::new(), &["read", &marker.file(), &marker.text]),
    }
}

/// A set-uid program that is left behind, for somebody of the host's.
fn set_uid_left(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let made = marker.path().join("made");
    let root_left_it = || {
        let metadata = std::fs::metadata(&made).unwrap();
        (metadata.uid() == 0 || metadata.gid() == 0) && metadata.mode() & 0o6000 != 0
    };
    let sandbox = lab.hardened().bind_rw(marker.path(), "/data");
    let inside = lab.inside(&sandbox, &["leave-set-uid", "/data/made"]).unless(root_left_it(), "it is root's");
    std::fs::remove_file(&made).unwrap();
    let control = lab.unrooted(&Sandbox::new(), &["leave-set-uid", made.to_str().unwrap()]);
    Twins { inside: vec![inside], control: control.unless(root_left_it(), "it is root's") }
}

/// A root that is left by one who may call chroot(2). Where it was pivoted to there is no other.
fn chroot(lab: &Lab, attack: &'static str) -> Twins {
    let marker = Marker::new();
    let root = marker.make("root");
    for name in ["tmp", "lab"] {
        marker.make(&format!("root/{name}"));
    }
    lab.copy_to(&root.join("lab/attacks"));
    let attempt = [attack.to_owned(), marker.file(), marker.text.clone()];
    let mut weak = Sandbox::new().chroot(&root).keep_capabilities(Capabilities::SYS_CHROOT);
    if !common::is_root() {
        weak = weak.user_ns();
    }
    let pivoted = Sandbox::new().user_ns().mount_ns().chroot(&root).keep_capabilities(Capabilities::all());
    let inside = vec![
        lab.inside(&lab.hardened(), &attempt),
        lab.inside(&lab.capable(), &attempt),
        Lab::ran(Lab::command(&pivoted, &attempt).output()),
    ];
    Twins { inside, control: Lab::ran(Lab::command(&weak, &attempt).output()) }
}

/// A directory that the payload is in is moved out of what it was given.
fn renamed_away(lab: &Lab) -> Twins {
    let attempt = |sandbox: &dyn Fn(&Marker) -> Sandbox, directory: &str| {
        let marker = Marker::new();
        for name in ["root", "root/inner", "root/lab", "root/tmp"] {
            marker.make(name);
        }
        lab.copy_to(&marker.path().join("root/lab/attacks"));
        let args = ["renamed-away".to_owned(), directory.to_owned(), marker.file(), marker.text.clone()];
        let mut holder = lab.holder_in(&mut Lab::command(&sandbox(&marker), &args));
        std::fs::rename(marker.path().join("root/inner"), marker.path().join("outer")).unwrap();
        holder.go_on();
        holder.end()
    };
    let bound = |marker: &Marker| lab.hardened().bind_rw(marker.path().join("root"), "/data");
    let pivoted = |marker: &Marker| Sandbox::new().user_ns().mount_ns().chroot(marker.path().join("root"));
    let weak = |marker: &Marker| {
        let sandbox = Sandbox::new().chroot(marker.path().join("root"));
        if common::is_root() { sandbox } else { sandbox.user_ns() }
    };
    Twins {
        inside: vec![attempt(&bound, "/data/inner"), attempt(&pivoted, "/inner")],
        control: attempt(&weak, "/inner"),
    }
}

fn overlong(lab: &Lab) -> Twins {
    let (marker, deep) = (Marker::new(), common::directory());
    let attempt = |directory: &str| ["overlong".to_owned(), directory.to_owned(), marker.file(), marker.text.clone()];
    let shared = common::directory();
    common::open(&shared);
    let sandbox = lab.hardened().bind_rw(shared.path(), "/data");
    let inside = vec![lab.inside(&sandbox, &attempt("/tmp")), lab.inside(&sandbox, &attempt("/data"))];
    Twins { inside, control: lab.outside(&attempt(deep.path().to_str().unwrap())) }
}

fn file_handle(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let shared = marker.make("shared");
    let said = lab.plain(&["handle-of", &marker.file()]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let Some((kind, bytes)) = said.trim().split_once(' ') else {
        return Twins { inside: vec![], control: Ran::Absent("no handles on this file system".into()) };
    };
    let attempt = |directory: &str| ["file-handle", directory, kind, bytes, &marker.text].map(str::to_owned);
    let inside = [lab.hardened(), lab.capable()]
        .map(|sandbox| lab.inside(&sandbox.bind_rw(&shared, "/data"), &attempt("/data")));
    Twins { inside: inside.into(), control: lab.outside(&attempt(shared.to_str().unwrap())) }
}

/// Descriptors of a file and a directory, which an exec keeps.
fn kept(marker: &Marker) -> [OwnedFd; 2] {
    [marker.file().as_str(), marker.path().to_str().unwrap()].map(|path| {
        let file = std::fs::File::open(path).unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        file.into()
    })
}

fn descriptors(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let _kept = kept(&marker);
    let attempt = ["descriptors", &marker.text];
    let inside = vec![lab.inside(&lab.hardened(), &attempt), lab.unrooted(&Sandbox::new(), &attempt)];
    Twins { inside, control: lab.outside(&attempt) }
}

/// CVE-2024-21626 begins where the program starts.
fn working_directory(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let attempt = ["cwd".to_owned(), marker.file(), marker.text.clone()];
    let mut plain = lab.plain(&attempt);
    Twins {
        inside: vec![lab.inside(&lab.hardened(), &attempt)],
        control: Lab::ran_outside(plain.current_dir(marker.path()).output().unwrap()),
    }
}

/// The directory is asked for by the number that a leaked descriptor has.
fn working_directory_by_descriptor(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let kept = kept(&marker);
    let attempt = ["cwd".to_owned(), marker.file(), marker.text.clone()];
    let root = marker.make("root");
    for name in ["lab", "proc"] {
        marker.make(&format!("root/{name}"));
    }
    let mut inside = vec![];
    for number in (3..8).chain([kept[1].as_raw_fd()]) {
        let _ = std::fs::remove_file(root.join("work"));
        symlink(format!("/proc/self/fd/{number}"), root.join("work")).unwrap();
        let linked = lab.furnish(Sandbox::new().pid_ns().chroot(&root).proc("/proc"));
        for (sandbox, directory) in [(lab.hardened(), format!("/proc/self/fd/{number}")), (linked, "/work".to_owned())]
        {
            // It need not come so far.
            match Lab::command(&sandbox, &attempt).current_dir(directory).output() {
                Err(_) => inside.push(Ran::Refused("not launched".into())),
                output => inside.push(Lab::ran(output)),
            }
        }
    }
    let mut plain = lab.plain(&attempt);
    let leaked = format!("/proc/self/fd/{}", kept[1].as_raw_fd());
    Twins { inside, control: Lab::ran_outside(plain.current_dir(leaked).output().unwrap()) }
}

/// A file that was handed over to be read.
fn reopen(lab: &Lab) -> Twins {
    let marker = Marker::new();
    std::fs::set_permissions(marker.file(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let input = || Stdio::from(OwnedFd::from(std::fs::File::open(marker.file()).unwrap()));
    let [inside, control] = [lab.hardened(), lab.hardened().without_landlock()]
        .map(|sandbox| Lab::ran(Lab::command(&sandbox, &["reopen"]).stdin(input()).output()));
    Twins { inside: vec![inside], control }
}

/// A file that was handed over to be read: its mode and times.
fn handed_file(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let input = || Stdio::from(OwnedFd::from(std::fs::File::open(marker.file()).unwrap()));
    let mut plain = Sandbox::new().command(&lab.program);
    Twins {
        inside: vec![Lab::ran(Lab::command(&lab.hardened(), &["handed-file"]).stdin(input()).output())],
        control: Lab::ran(plain.arg("handed-file").stdin(input()).output()),
    }
}

/// A directory that was handed over to be read.
fn handed_directory(lab: &Lab) -> Twins {
    let marker = Marker::new();
    let [inside, control] = [lab.hardened(), lab.hardened().without_landlock()].map(|sandbox| {
        let directory = OwnedFd::from(std::fs::File::open(marker.path()).unwrap());
        Lab::ran(Lab::command(&sandbox, &["create", "/proc/self/fd/3/made"]).fd(3, directory).output())
    });
    Twins { inside: vec![inside], control }
}

/// A root of somebody else's, and a directory outside of it.
struct Trap {
    marker: Marker,
    root: std::path::PathBuf,
    outside: std::path::PathBuf,
    /// What is bound: it has a file "inner".
    source: tempfile::TempDir,
}

impl Trap {
    fn new(lab: &Lab) -> Trap {
        let marker = Marker::new();
        let (root, outside) = (marker.make("root"), marker.make("outside"));
        for name in ["lab", "tmp", "proc", "dev"] {
            marker.make(&format!("root/{name}"));
        }
        lab.copy_to(&root.join("lab/attacks"));
        let source = common::directory();
        common::open(&source);
        std::fs::write(source.path().join("inner"), "x").unwrap();
        Trap { marker, root, outside, source }
    }

    fn sandbox(&self) -> Sandbox {
        common::all_namespaces().chroot(&self.root)
    }

    /// By path, as it must not be done: it is seen at the link's other end.
    fn naively(&self, lab: &Lab, target: &Path) -> Ran {
        let mut naive = Sandbox::new().mount_ns().keep_capabilities(Capabilities::SYS_ADMIN);
        if !common::is_root() {
            naive = naive.user_ns();
        }
        let seen = self.outside.join("inner");
        lab.unrooted(
            &naive,
            &["mount-by-path", self.source.path().to_str().unwrap(), target.to_str().unwrap(), seen.to_str().unwrap()],
        )
    }
}

/// CVE-2021-30465: the target is a directory when it is looked at, and a link when it is mounted to.
fn swapped_target(lab: &Lab) -> Twins {
    let trap = Trap::new(lab);
    let (data, spare) = (trap.root.join("data"), trap.root.join("spare"));
    std::fs::create_dir(&data).unwrap();
    symlink(&trap.outside, &spare).unwrap();
    let control = trap.naively(lab, &spare);
    let done = AtomicBool::new(false);
    let mut inside = vec![];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, &data, rustix::fs::CWD, &spare, flags);
            }
        });
        let sandbox = trap.sandbox().bind_rw(trap.source.path(), "/data");
        let (mut launched, mut round) = (0, 0);
        // The swap must not stand in the way of the test itself: until it comes in, too.
        while round < common::scaled(60).max(5) || (launched == 0 && round < 300) {
            round += 1;
            // What is written must be written to the source, through whichever of the two names.
            match Lab::command(&sandbox, &["create", &format!("/data/new-{round}")]).output() {
                Err(error) => inside.push(Ran::Refused(error.to_string())),
                Ok(_) => launched += 1,
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(launched > 0, "{inside:?}");
    });
    let written = std::fs::read_dir(&trap.outside).unwrap().count();
    inside.push(Ran::seen(written > 0, format!("{written} files outside")));
    Twins { inside, control }
}

/// CVE-2015-1335: the target is a link, out by its absolute path or by `..`.
fn link_as_target(lab: &Lab) -> Twins {
    let trap = Trap::new(lab);
    let target = trap.root.join("data");
    let mut inside = vec![];
    for to in [
        trap.outside.to_str().unwrap(),
        "../outside",
        "../../../../../../../../outside",
        "/proc/self/root",
        "/proc/self/cwd",
    ] {
        let _ = std::fs::remove_file(&target);
        symlink(to, &target).unwrap();
        for sandbox in [trap.sandbox().bind_rw(trap.source.path(), "/data"), trap.sandbox().tmpfs("/data", 4096)] {
            match Lab::command(&sandbox, &["create", "/data/new"]).output() {
                Err(error) => inside.push(Ran::Refused(error.to_string())),
                Ok(_) => inside.push(Ran::seen(trap.outside.join("new").exists(), to)),
            }
        }
        let _ = std::fs::remove_file(trap.source.path().join("new"));
    }
    std::fs::remove_file(&target).unwrap();
    symlink(&trap.outside, &target).unwrap();
    Twins { inside, control: trap.naively(lab, &target) }
}

/// CVE-2024-45310: directories are made on the way to a target.
fn directories_made(lab: &Lab) -> Twins {
    let trap = Trap::new(lab);
    symlink(&trap.outside, trap.root.join("data")).unwrap();
    let made = trap.outside.join("new");
    let mut inside = vec![];
    for sandbox in [
        trap.sandbox().bind_rw(trap.source.path(), "/data/new/deep"),
        trap.sandbox().tmpfs("/data/new", 4096),
        trap.sandbox().dir("/data/new"),
        trap.sandbox().symlink("x", "/data/new"),
    ] {
        let launched = Lab::command(&sandbox, &["hold"]).output();
        inside.push(Ran::seen(made.symlink_metadata().is_ok(), format!("{:?}", launched.is_ok())));
    }
    std::fs::create_dir_all(trap.root.join("data/new/deep")).unwrap();
    Twins { inside, control: Ran::seen(made.exists(), "by path it is made") }
}

/// CVE-2025-31133: the null device that masks something is a link of the payload's.
fn false_mask(lab: &Lab) -> Twins {
    let trap = Trap::new(lab);
    for name in ["secret", "bait"] {
        std::fs::write(trap.root.join(name), &trap.marker.text).unwrap();
    }
    symlink("/bait", trap.root.join("dev/null")).unwrap();
    let attempt = ["read", "/secret", &trap.marker.text];
    let masked = trap.sandbox().mask("/secret");
    Twins {
        inside: vec![lab.inside(&masked, &attempt), lab.inside(&masked.dev("/dev"), &attempt)],
        control: lab.inside(&trap.sandbox(), &attempt),
    }
}

/// CVE-2019-19921: procfs is a directory of the payload's.
fn false_proc(lab: &Lab) -> Twins {
    let trap = Trap::new(lab);
    std::fs::create_dir_all(trap.root.join("other/self")).unwrap();
    std::fs::write(trap.root.join("other/self/fake"), "").unwrap();
    std::fs::remove_dir(trap.root.join("proc")).unwrap();
    symlink("/other", trap.root.join("proc")).unwrap();
    Twins {
        inside: vec![lab.inside(&trap.sandbox().proc("/proc"), &["false-proc"])],
        control: lab.inside(&trap.sandbox(), &["false-proc"]),
    }
}

/// CVE-2025-52565: the devices' directory leads elsewhere.
fn false_dev(lab: &Lab) -> Twins {
    let trap = Trap::new(lab);
    std::fs::remove_dir(trap.root.join("dev")).unwrap();
    symlink(&trap.outside, trap.root.join("dev")).unwrap();
    let before = std::fs::read_dir(&trap.outside).unwrap().count();
    let launched = Lab::command(&trap.sandbox().dev("/dev"), &["hold"]).output();
    let after = std::fs::read_dir(&trap.outside).unwrap().count();
    let inside = Ran::seen(before != after, format!("launched: {}", launched.is_ok()));
    Twins { inside: vec![inside], control: trap.naively(lab, &trap.root.join("dev")) }
}
