//! Version 1: the files of each controller's own hierarchy.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::limits::{Controller, Limits, Setting};
use super::{Accounts, entry, failed, number, page_size, sweep, write};
use crate::error::Error;
use crate::support::Layer;

/// Microseconds of a period of `cpu.cfs_quota_us`.
pub(super) const PERIOD: u64 = 100_000;

/// Those of these files that a weight for disks can be written to. The root of a hierarchy has none, and gives them to those
/// below it.
pub(super) fn weight_files(parent: &Path, names: [&'static str; 2]) -> Result<Vec<&'static str>, Error> {
    let of = |directory: &Path| names.into_iter().filter(|file| directory.join(file).exists()).collect::<Vec<_>>();
    let mut found = of(parent);
    if found.is_empty() {
        found = sweep::attempt(parent, of).map_err(failed(parent))?;
    }
    if found.is_empty() {
        return Err(Error::Unsupported {
            layer: Layer::Io,
            reason: "no I/O scheduler with weights is built into this kernel, or loaded".into(),
            remedy: "use a kernel with BFQ or io.cost, or leave io_weight() out".into(),
        });
    }
    Ok(found)
}

pub(super) fn settings(limits: &Limits, controller: Controller, parent: &Path) -> Result<Vec<Setting>, Error> {
    let set = Setting::new;
    let mut all = vec![];
    match controller {
        Controller::Memory => {
            if limits.memory_high.is_some() || limits.memory_low.is_some() {
                return Err(Error::Unsupported {
                    layer: Layer::Memory,
                    reason: "version 1 of the memory controller has neither memory.high nor memory.low".into(),
                    remedy: "boot with cgroup_no_v1=memory, or leave memory_high() and memory_low() out".into(),
                });
            }
            if let Some(bytes) = limits.memory {
                all.push(set("memory.limit_in_bytes", bytes.min(i64::MAX.unsigned_abs()).to_string()));
                // Memory and swap together; swap is none unless said. The file is missing without swap accounting.
                let both = bytes.saturating_add(limits.swap.unwrap_or(0)).min(i64::MAX.unsigned_abs());
                let optional = limits.swap.unwrap_or(0) == 0;
                all.push(Setting { optional, ..set("memory.memsw.limit_in_bytes", both.to_string()) });
            }
        }
        Controller::Cpu => {
            if let Some(cores) = limits.cpu {
                all.push(set("cpu.cfs_period_us", PERIOD.to_string()));
                all.push(set("cpu.cfs_quota_us", quota(cores).to_string()));
            }
            all.extend(limits.cpu_burst.map(|burst| set("cpu.cfs_burst_us", burst.as_micros().to_string())));
            if let Some(weight) = limits.cpu_weight {
                // 100 is 1024 shares.
                all.push(set("cpu.shares", (u64::from(weight) * 1024 / 100).max(2).to_string()));
            }
        }
        Controller::Io => {
            for (device, limit) in &limits.io {
                let device = device_of(device)?;
                for (file, value) in [
                    ("blkio.throttle.read_bps_device", limit.read_bytes),
                    ("blkio.throttle.write_bps_device", limit.write_bytes),
                    ("blkio.throttle.read_iops_device", limit.read_operations),
                    ("blkio.throttle.write_iops_device", limit.write_operations),
                ] {
                    all.extend(value.map(|value| set(file, format!("{device} {value}"))));
                }
            }
            if let Some(weight) = limits.io_weight {
                let files = weight_files(parent, ["blkio.bfq.weight", "blkio.weight"])?;
                // These take 10 to 1000.
                all.extend(files.first().map(|file| set(file, weight.clamp(10, 1000).to_string())));
            }
        }
        Controller::Hugetlb => {
            for (size, bytes) in &limits.hugetlb {
                all.push(set(&format!("hugetlb.{}.limit_in_bytes", page_size(*size)), bytes.to_string()));
            }
        }
        _ => {}
    }
    Ok(all)
}

/// Microseconds of CPU time in a period.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub(super) fn quota(cores: f64) -> u64 {
    // Checked to be 0.01 to a million, so that it fits.
    ((cores * PERIOD as f64).round() as u64).max(1000)
}

/// `major:minor` of a block device, or of the device that a file or directory is on.
pub(super) fn device_of(path: &Path) -> Result<String, Error> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let source = |source| Error::Source { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(source)?;
    let device = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    if rustix::fs::major(device) == 0 {
        return Err(Error::invalid("io_limit", format!("{} is on no block device", path.display())));
    }
    Ok(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
}

/// A new cpuset has no CPUs and no memory nodes, and can be entered by nobody.
pub(super) fn inherit_cpuset(parent: &Path, path: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let from = parent.join(file);
        let value = fs::read_to_string(&from).map_err(failed(&from))?;
        let to = path.join(file);
        write(&to, value).map_err(failed(&to))?;
    }
    Ok(())
}

/// A descriptor that becomes readable when the limit is hit and nothing can be reclaimed. The kernel then ends one process
/// only; the agent ends the others.
pub(super) fn watch_oom(path: &Path) -> io::Result<Option<OwnedFd>> {
    watch(path, "memory.oom_control", "")
}

/// A descriptor that becomes readable when the kernel has something to tell of a file (`cgroup.event_control`), and when
/// the cgroup is removed. None where the kernel tells nothing of it: a real-time kernel, or one without that file.
pub(super) fn watch(path: &Path, file: &str, arguments: &str) -> io::Result<Option<OwnedFd>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let told = File::open(path.join(file)).and_then(|file| {
        let line = format!("{} {}{arguments}", event.as_raw_fd(), file.as_raw_fd());
        write(&path.join("cgroup.event_control"), line)
    });
    match told {
        Ok(()) => Ok(Some(event)),
        Err(error)
            if [Errno::NOENT, Errno::OPNOTSUPP, Errno::INVAL]
                .map(Errno::raw_os_error)
                .map(Some)
                .contains(&error.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `read` gives the text of a file of this cgroup's.
pub(super) fn accounts(
    read: &dyn Fn(&'static str) -> Option<String>,
    controllers: &[Controller],
    accounts: &mut Accounts,
) {
    let number = |name| number(&read(name)?);
    let entry = |name, key| entry(&read(name)?, key);
    for controller in controllers {
        match controller {
            Controller::Memory => {
                accounts.memory_peak = number("memory.max_usage_in_bytes");
                accounts.oom_kills = entry("memory.oom_control", "oom_kill");
            }
            Controller::Pids => {
                accounts.pids_peak = number("pids.peak");
                accounts.pids_refused = entry("pids.events", "max");
            }
            Controller::CpuTime => accounts.cpu = number("cpuacct.usage").map(Duration::from_nanos),
            Controller::Cpu => {
                accounts.throttled = entry("cpu.stat", "throttled_time").map(Duration::from_nanos);
                // Where both are mounted as one, as systemd does, this comes for nothing.
                accounts.cpu = accounts.cpu.or(number("cpuacct.usage").map(Duration::from_nanos));
            }
            Controller::Io => {
                let text = read("blkio.throttle.io_service_bytes");
                accounts.io_read_bytes = text.as_deref().map(|text| sum(text, " Read "));
                accounts.io_write_bytes = text.as_deref().map(|text| sum(text, " Write "));
            }
            _ => {}
        }
    }
}

/// Over all devices.
fn sum(text: &str, word: &str) -> u64 {
    text.lines().filter_map(|line| line.split_once(word)?.1.trim().parse::<u64>().ok()).sum()
}
