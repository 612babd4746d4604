//! The peers that are programs of the distribution, each with the options for the isolation of its row.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Result;
use crate::common::cgroups::{own, unified};
use crate::common::launches::{BINDS, CORES, MEMORY_BYTES, TASKS, TMPFS_BYTES};
use crate::filter::{self, Rules};
use crate::raw::{apart, mount_namespace_without};
use crate::ways::{Arguments, Limits, Places, Target, Tool, unique};

/// What `Sandbox::hardened` limits besides memory and tasks.
const RLIMITS: &[(u32, u64)] = &[(libc::RLIMIT_NOFILE, 1024), (libc::RLIMIT_FSIZE, 256 << 20), (libc::RLIMIT_CORE, 1)];
const HARDENED_TMPFS: u64 = 64 << 20;
/// Ids of the host's that nobody has.
const FIRST_ID: u32 = 1_000_000_000;

/// A program of a peer's, found on this machine.
pub struct Found {
    pub path: PathBuf,
    pub version: String,
}

pub fn find(name: &str) -> Option<Found> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let path =
        std::env::split_paths(&path).chain(more).map(|directory| directory.join(name)).find(|path| path.exists())?;
    let ask = || Command::new(&path).arg("--version").stdin(Stdio::null()).output();
    // Even that leaves something of firejail's.
    let output = if name == "firejail" { apart(c"/run", ask) } else { ask() };
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let is_version = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let first = text.lines().next().unwrap_or_default();
    let version = first.split_whitespace().rev().find(is_version).unwrap_or_default().to_owned();
    Some(Found { path, version })
}

/// What a hardened root has of the host's /etc.
fn etc() -> impl Iterator<Item = PathBuf> {
    let names = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"];
    names.into_iter().map(|name| Path::new("/etc").join(name)).filter(|path| path.exists())
}

/// Directories of the host's root that are links, and where to; the others.
fn system() -> (Vec<(PathBuf, PathBuf)>, Vec<PathBuf>) {
    let mut found = (vec![], vec![]);
    for name in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
        let path = PathBuf::from(name);
        match path.read_link() {
            Ok(to) => found.0.push((path, to)),
            Err(_) if path.is_dir() => found.1.push(path),
            Err(_) => {}
        }
    }
    found
}

pub fn unshare<'a>(found: &Found, places: &'a Places) -> Tool<'a> {
    let base =
        Arguments::new(&found.path).words("--user --map-root-user --pid --fork --mount --net --ipc --uts --cgroup --");
    Tool::new(places, move |target, _| Ok(base.clone().program(places, target, false)))
}

fn bwrap_namespaces(found: &Found) -> Arguments {
    Arguments::new(&found.path)
        .words("--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup --new-session")
}

pub fn bwrap<'a>(found: &Found, places: &'a Places, limits: Limits) -> Tool<'a> {
    let mut base = bwrap_namespaces(found);
    for path in BINDS {
        base = base.of(["--ro-bind", path, path]);
    }
    let base = base
        .words(&format!("--proc /proc --size {TMPFS_BYTES} --tmpfs /tmp --ro-bind"))
        .of([places.program.as_path(), Path::new("/static")]);
    let tool = Tool::new(places, move |target, _| Ok(base.clone().program(places, target, true)));
    Tool { limits, ..tool }
}

pub fn bwrap_hardened<'a>(found: &Found, places: &'a Places, limits: Limits) -> Result<Tool<'a>> {
    let mut base = bwrap_namespaces(found).words("--uid 1000 --gid 1000 --hostname sandbox --cap-drop ALL");
    let (links, directories) = system();
    for path in directories.iter().map(PathBuf::as_path).chain(etc().collect::<Vec<_>>().iter().map(PathBuf::as_path)) {
        base = base.words("--ro-bind").of([path, path]);
    }
    for (path, to) in &links {
        base = base.words("--symlink").of([to, path]);
    }
    let size = HARDENED_TMPFS;
    let base = base
        .words(&format!("--proc /proc --dev /dev --size {size} --tmpfs /tmp --size {size} --tmpfs /work --ro-bind"))
        .of([places.program.as_path(), Path::new("/static")])
        .words("--remount-ro / --chdir /work --seccomp 10");
    let file = places.directory.join("filter.bpf");
    fs::write(&file, filter::compiled()?)?;
    let tool = Tool::new(places, move |target, _| Ok(base.clone().program(places, target, true)));
    let filter = Some(CString::new(file.into_os_string().into_encoded_bytes())?);
    Ok(Tool { limits, rlimits: RLIMITS, filter, ..tool })
}

pub fn firejail<'a>(found: &Found, places: &'a Places, limits: Limits) -> Result<Tool<'a>> {
    let base = Arguments::new(&found.path).words(
        "--quiet --noprofile --net=none --ipc-namespace --hostname=sandbox --read-only=/ --private-dev --caps.drop=all \
         --nonewprivs --seccomp --rlimit-nofile=1024 --rlimit-fsize=268435456 --",
    );
    // It leaves mounts in /run, for good.
    let mounts = mount_namespace_without(c"/run");
    let mounts = mounts.map_err(|error| format!("no mount namespace to keep its mounts in: {error}"))?;
    let tool = Tool::new(places, move |target, _| Ok(base.clone().program(places, target, false)));
    Ok(Tool { limits, mounts: Some(mounts), ..tool })
}

/// A directory to be the root: what is mounted must have a place in it.
fn root_directory(directory: &Path, hardened: bool) -> Result<()> {
    let (links, directories) = system();
    let mounts: Vec<_> = ["proc", "dev", "sys", "tmp", "work", "etc"].map(PathBuf::from).to_vec();
    let binds: Vec<_> = if hardened { directories } else { BINDS.iter().map(PathBuf::from).collect() };
    for path in binds.iter().chain(&mounts) {
        fs::create_dir_all(directory.join(path.strip_prefix("/").unwrap_or(path)))?;
    }
    fs::write(directory.join("static"), "")?;
    if hardened {
        for (path, to) in links {
            symlink(to, directory.join(path.strip_prefix("/")?))?;
        }
        for path in etc() {
            let place = directory.join(path.strip_prefix("/")?);
            if path.is_dir() { fs::create_dir_all(place)? } else { fs::write(place, "")? }
        }
    }
    Ok(())
}

/// What is bound in such a root.
fn binds(places: &Places, hardened: bool) -> Vec<(PathBuf, PathBuf)> {
    let same = |path: PathBuf| (path.clone(), path);
    let mut all: Vec<_> = if hardened {
        system().1.into_iter().chain(etc()).map(same).collect()
    } else {
        BINDS.iter().map(|path| same(PathBuf::from(path))).collect()
    };
    all.push((places.program.clone(), "/static".into()));
    all
}

/// One of the runtimes of the OCI, and what it is to do.
#[derive(Clone)]
pub struct Runtime {
    path: PathBuf,
    options: &'static str,
    limits: bool,
    hardened: bool,
    /// Of the cgroup that it makes, but for the container's name.
    cgroup: String,
    /// The bundles.
    directory: PathBuf,
    filter: String,
}

pub fn runtime<'a>(found: &Found, name: &str, places: &'a Places, limits: bool, hardened: bool) -> Result<Tool<'a>> {
    let directory = places.directory.join(format!("{name}-{limits}-{hardened}"));
    root_directory(&directory.join("root"), hardened)?;
    fs::create_dir_all(directory.join("state"))?;
    let crun = name == "crun";
    let options = match (crun, limits) {
        (true, false) => "--cgroup-manager=disabled",
        (true, true) => "--cgroup-manager=cgroupfs",
        _ => "",
    };
    let runtime = Runtime {
        path: found.path.clone(),
        options,
        limits,
        hardened,
        // To crun all paths begin at the root of a hierarchy.
        cgroup: if crun { deepest_cgroup()? } else { String::new() },
        directory,
        filter: Rules::hardened().oci(),
    };
    let tool = Tool::new(places, move |target, slot| runtime.arguments(places, target, slot));
    // crun refuses a hybrid hierarchy that has controllers in its part of version 2.
    let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    let hybrid = crun && !controllers.trim().is_empty();
    let mounts = hybrid.then(|| mount_namespace_without(c"/sys/fs/cgroup/unified")).transpose()?;
    Ok(Tool { mounts, ..tool })
}

/// Our own cgroup, in all hierarchies by one name: the others' are above it.
fn deepest_cgroup() -> Result<String> {
    if let Some(cgroups) = crate::cgroups().filter(|cgroups| cgroups.version == "v2") {
        let above = cgroups.directories.first().and_then(|directory| directory.parent());
        let path = above.and_then(|above| above.strip_prefix(unified()).ok()).ok_or("no cgroup")?.display().to_string();
        return Ok(if path.is_empty() { "/".to_owned() } else { format!("/{path}/") });
    }
    let own = own();
    let deepest = own.iter().map(|(_, path)| path.as_str()).max_by_key(|path| path.len()).unwrap_or("/");
    if own.iter().any(|(_, path)| !Path::new(deepest).starts_with(path)) {
        return Err("our cgroups have different names in different hierarchies, and it takes one name".into());
    }
    Ok(format!("{}/", deepest.trim_end_matches('/')))
}

impl Runtime {
    /// It has the command in its bundle.
    fn arguments(&self, places: &Places, target: Target, slot: usize) -> Result<Arguments> {
        let kind = match target {
            Target::Dynamic => "true",
            Target::Static => "static",
            Target::Sleeper => "sleeper",
        };
        let bundle = self.directory.join(format!("{kind}-{slot}"));
        if !bundle.exists() {
            fs::create_dir(&bundle)?;
            fs::write(bundle.join("config.json"), self.config(places, target, slot))?;
        }
        Ok(Arguments::new(&self.path)
            .words("--root")
            .of([self.directory.join("state")])
            .words(self.options)
            // A user may have 200 keyrings, and all of these belong to one.
            .words("run --no-new-keyring --bundle")
            .of([bundle])
            .of([unique(slot)]))
    }

    fn config(&self, places: &Places, target: Target, slot: usize) -> String {
        let program = places.path(target, true).display();
        let hold = if target == Target::Sleeper { r#", "hold""# } else { "" };
        let mut mounts = vec![
            mount("/proc", "proc", "proc", &["nosuid", "nodev", "noexec"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
        ];
        for (source, target) in binds(places, self.hardened) {
            // crun takes what is to be so with all below it for a directory.
            let read_only = if source.is_dir() { "rro" } else { "ro" };
            mounts.push(mount(
                &target.display().to_string(),
                "none",
                &source.display().to_string(),
                &["rbind", read_only, "nosuid", "nodev"],
            ));
        }
        let (user, work, hostname, process, linux);
        if self.hardened {
            let size = format!("size={HARDENED_TMPFS}");
            for target in ["/tmp", "/work", "/dev/shm"] {
                mounts.push(mount(target, "tmpfs", "tmpfs", &["nosuid", "nodev", &size]));
            }
            mounts.push(mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            ));
            let limits = [("NOFILE", 1024), ("FSIZE", 256 << 20), ("CORE", 1)];
            let limits =
                limits.map(|(name, value)| format!(r#"{{"type": "RLIMIT_{name}", "hard": {value}, "soft": {value}}}"#));
            (user, work, hostname) = (1000, "/work", r#""hostname": "sandbox","#);
            process = format!(r#", "rlimits": [{}]"#, limits.join(", "));
            linux = format!(r#", "seccomp": {}"#, self.filter);
        } else {
            let size = format!("size={TMPFS_BYTES}");
            mounts.push(mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", &size]));
            (user, work, hostname) = (0, "/", "");
            (process, linux) = (String::new(), String::new());
        }
        let name = unique(slot);
        let resources = if self.limits {
            let cpu = format!(r#", "cpu": {{"quota": {}, "period": 100000}}"#, CORES * 100_000);
            let cpu = if self.hardened { "" } else { cpu.as_str() };
            format!(
                r#", "cgroupsPath": "{}{name}", "resources": {{"memory": {{"limit": {MEMORY_BYTES}}}, "pids": {{"limit": {TASKS}}}{cpu}}}"#,
                self.cgroup
            )
        } else {
            String::new()
        };
        let readonly = self.hardened;
        let namespaces =
            ["user", "pid", "network", "ipc", "uts", "mount", "cgroup"].map(|name| format!(r#"{{"type": "{name}"}}"#));
        let ids = format!(r#"[{{"containerID": 0, "hostID": {FIRST_ID}, "size": 65536}}]"#);
        format!(
            r#"{{"ociVersion": "1.0.2", {hostname}
"root": {{"path": "{root}", "readonly": {readonly}}},
"process": {{"terminal": false, "user": {{"uid": {user}, "gid": {user}}}, "args": ["{program}"{hold}],
  "env": ["PATH=/usr/bin:/bin"], "cwd": "{work}", "noNewPrivileges": true,
  "capabilities": {{"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []}}{process}}},
"mounts": [{mounts}],
"linux": {{"namespaces": [{namespaces}], "uidMappings": {ids}, "gidMappings": {ids}{resources}{linux}}}}}"#,
            root = self.directory.join("root").display(),
            mounts = mounts.join(",\n"),
            namespaces = namespaces.join(", "),
        )
    }
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> String {
    let options: Vec<_> = options.iter().map(|option| format!("\"{option}\"")).collect();
    format!(
        r#"{{"destination": "{target}", "type": "{kind}", "source": "{source}", "options": [{}]}}"#,
        options.join(", ")
    )
}

/// The cgroup that all of lxc's are below.
pub fn lxc_cgroup() -> String {
    format!("stockade-peers-{}-lxc", std::process::id())
}

pub fn lxc<'a>(found: &Found, places: &'a Places, hardened: bool) -> Result<Tool<'a>> {
    let directory = places.directory.join(format!("lxc-{hardened}"));
    let root = directory.join("root");
    root_directory(&root, hardened)?;
    let containers = directory.join("containers");
    fs::create_dir_all(&containers)?;
    let mut config = format!(
        "lxc.rootfs.path = dir:{}\nlxc.net.0.type = empty\nlxc.idmap = u 0 {FIRST_ID} 65536\nlxc.idmap = g 0 {FIRST_ID} 65536\n\
         lxc.cgroup.relative = 1\nlxc.cap.keep = none\nlxc.no_new_privs = 1\nlxc.mount.entry = proc proc proc nosuid,nodev,noexec 0 0\n",
        root.display()
    );
    let mut add = |line: String| {
        config.push_str(&line);
        config.push('\n');
    };
    for (source, target) in binds(places, hardened) {
        let target = target.strip_prefix("/")?.display().to_string();
        add(format!("lxc.mount.entry = {} {target} none rbind,ro,nosuid,nodev 0 0", source.display()));
    }
    if crate::version() == "v1" {
        add(format!("lxc.cgroup.memory.limit_in_bytes = {MEMORY_BYTES}\nlxc.cgroup.pids.max = {TASKS}"));
    } else {
        add(format!("lxc.cgroup2.memory.max = {MEMORY_BYTES}\nlxc.cgroup2.pids.max = {TASKS}"));
    }
    if hardened {
        let filter = directory.join("filter");
        fs::write(&filter, Rules::hardened().lxc())?;
        add(format!("lxc.seccomp.profile = {}\nlxc.rootfs.options = ro\nlxc.uts.name = sandbox", filter.display()));
        add("lxc.init.uid = 1000\nlxc.init.gid = 1000\nlxc.init.cwd = /work".to_owned());
        add("lxc.prlimit.nofile = 1024\nlxc.prlimit.fsize = 268435456\nlxc.prlimit.core = 1".to_owned());
        for target in ["tmp", "work"] {
            add(format!("lxc.mount.entry = tmpfs {target} tmpfs nosuid,nodev,size={HARDENED_TMPFS} 0 0"));
        }
    } else {
        add(format!("lxc.mount.entry = tmpfs tmp tmpfs nosuid,nodev,size={TMPFS_BYTES} 0 0"));
        if crate::version() == "v1" {
            add(format!("lxc.cgroup.cpu.cfs_quota_us = {}", CORES * 100_000));
        } else {
            add(format!("lxc.cgroup2.cpu.max = {} 100000", CORES * 100_000));
        }
    }
    let file = directory.join("config");
    fs::write(&file, config)?;
    let base = Arguments::new(&found.path).words("-P").of([containers]).words("-f").of([file]).words("-n");
    Ok(Tool::new(places, move |target, slot| {
        let mut arguments = base.clone().of([unique(slot)]);
        let above = lxc_cgroup();
        for (key, name) in [("monitor", "monitor"), ("container", "container"), ("monitor.pivot", "pivot")] {
            let name = if name == "pivot" { name.to_owned() } else { format!("{name}-{slot}") };
            arguments = arguments.words("-s").of([format!("lxc.cgroup.dir.{key}={above}/{name}")]);
        }
        Ok(arguments.words("--").program(places, target, true))
    }))
}
