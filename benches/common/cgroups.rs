//! Cgroups made by hand, below our own.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::launches::{CORES, MEMORY_BYTES, TASKS};

/// The cgroups of one launch, in the hierarchies of one version.
#[derive(Clone)]
pub struct Cgroups {
    pub version: &'static str,
    pub directories: Vec<PathBuf>,
    /// The CPU is limited too.
    pub cpu: bool,
}

/// Our own cgroup in each hierarchy: its controllers (none: version 2), and the path below the mount.
pub fn own() -> Vec<(String, String)> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let parts = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    });
    parts.collect()
}

/// Where the file system of version 2 is mounted.
pub fn unified() -> &'static Path {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.join("cgroup.procs").exists() { hybrid } else { Path::new("/sys/fs/cgroup") }
}

impl Cgroups {
    /// Those of version 1 and of version 2, whether or not they can be made.
    pub fn named(name: &str) -> [Self; 2] {
        let own = own();
        let below = |mount: &Path, path: &str| mount.join(path.trim_start_matches('/')).join(name);
        let v1 = ["memory", "pids", "cpu"].into_iter().filter_map(|controller| {
            let (_, path) = own.iter().find(|(names, _)| names.split(',').any(|name| name == controller))?;
            Some(below(&Path::new("/sys/fs/cgroup").join(controller), path))
        });
        let v2 = own.iter().filter(|(names, _)| names.is_empty()).map(|(_, path)| below(unified(), path));
        [("v1", v1.collect()), ("v2", v2.collect())].map(|(version, directories)| Self {
            version,
            directories,
            cpu: true,
        })
    }

    /// Those in which the limits of these benches can be set. In version 2, where what has processes gives its controllers to
    /// nobody, they may be beside our own.
    pub fn limited(name: &str) -> Option<Self> {
        let [v1, v2] = Self::named(name);
        let beside =
            v2.directories.iter().filter_map(|directory| Some(directory.parent()?.parent()?.join(name))).collect();
        let beside = Self { version: "v2", directories: beside, cpu: true };
        [v1, v2, beside].into_iter().find(|cgroups| {
            let whole = cgroups.directories.len() == if cgroups.version == "v1" { 3 } else { 1 };
            let works = whole && cgroups.make().is_ok() && cgroups.limit().is_ok();
            cgroups.remove().is_ok() && works
        })
    }

    /// The same, by another name.
    #[must_use]
    pub fn renamed(&self, name: &str) -> Self {
        let directories = self.directories.iter().map(|directory| directory.with_file_name(name)).collect();
        Self { directories, ..self.clone() }
    }

    #[must_use]
    pub fn without_cpu(mut self) -> Self {
        self.cpu = false;
        self.directories.truncate(2);
        self
    }

    pub fn make(&self) -> std::io::Result<()> {
        self.directories.iter().try_for_each(std::fs::create_dir)
    }

    /// Memory without swap, tasks, and CPU.
    pub fn limit(&self) -> std::io::Result<()> {
        let set = |directory: &Path, file: &str, value: String| std::fs::write(directory.join(file), value);
        let (period, quota) = (100_000, 100_000 * CORES);
        let [memory, more @ ..] = self.directories.as_slice() else { return Err(std::io::ErrorKind::NotFound.into()) };
        let pids = more.first().unwrap_or(memory);
        set(pids, "pids.max", TASKS.to_string())?;
        let cpu = more.last().unwrap_or(memory);
        if self.version == "v2" {
            set(memory, "memory.max", MEMORY_BYTES.to_string())?;
            set(memory, "memory.swap.max", "0".to_owned())?;
            return if self.cpu { set(cpu, "cpu.max", format!("{quota} {period}")) } else { Ok(()) };
        }
        set(memory, "memory.limit_in_bytes", MEMORY_BYTES.to_string())?;
        if memory.join("memory.memsw.limit_in_bytes").exists() {
            set(memory, "memory.memsw.limit_in_bytes", MEMORY_BYTES.to_string())?;
        }
        if self.cpu {
            set(cpu, "cpu.cfs_period_us", period.to_string())?;
            set(cpu, "cpu.cfs_quota_us", quota.to_string())?;
        }
        Ok(())
    }

    /// The kernel may need a moment to see that nobody is in them any more.
    pub fn remove(&self) -> std::io::Result<()> {
        let start = Instant::now();
        for directory in &self.directories {
            while let Err(error) = std::fs::remove_dir(directory) {
                match error.kind() {
                    std::io::ErrorKind::NotFound => break,
                    std::io::ErrorKind::ResourceBusy if start.elapsed() < Duration::from_secs(10) => {}
                    _ => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// What a process writes 0 to, to be in them.
    pub fn doors(&self) -> std::io::Result<Vec<File>> {
        let door = if self.version == "v1" { "tasks" } else { "cgroup.procs" };
        self.directories.iter().map(|directory| File::options().write(true).open(directory.join(door))).collect()
    }

    /// A process enters all of them from within.
    pub fn enter(doors: &[File]) -> bool {
        doors.iter().all(|mut door| door.write_all(b"0").is_ok())
    }
}
