//! Version 2: one hierarchy, whose controllers are given from parent to child.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::limits::{Controller, Limits, Setting};
use super::v1::{PERIOD, device_of, quota, weight_files};
use super::{Accounts, Pressure, entry, failed, number, page_size, write};
use crate::error::Error;

/// Sees to it that children of this cgroup can be made, and have the controller.
pub(super) fn enable(parent: &Path, controller: Option<&str>) -> io::Result<()> {
    rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).map_err(|errno| {
        // To one whose directory it is not the kernel says EACCES first.
        let read_only =
            rustix::fs::statvfs(parent).is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        if read_only { Errno::ROFS } else { errno }
    })?;
    let Some(controller) = controller else { return Ok(()) };
    let has = |file: &str| -> io::Result<bool> {
        Ok(fs::read_to_string(parent.join(file))?.split_whitespace().any(|name| name == controller))
    };
    // Only the root may have both processes and children with controllers. For some controllers the kernel would not
    // refuse, but make the children useless ("domain invalid").
    let is_root = !parent.join("cgroup.type").exists();
    if !is_root && !fs::read_to_string(parent.join("cgroup.procs"))?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it has processes in it"));
    }
    if has("cgroup.subtree_control")? {
        return Ok(());
    }
    if !has("cgroup.controllers")? {
        let reason = format!("the controller {controller} is not given to this cgroup");
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    write(&parent.join("cgroup.subtree_control"), format!("+{controller}"))
}

/// Gives all controllers that a cgroup has to those below it, and sees to it that a lack of memory of its own ends one of
/// those only, not all. The kernel knows what it has already; so do we.
pub(super) fn give_all(path: &Path) -> Result<(), Error> {
    let read = |file: &str| {
        let file = path.join(file);
        fs::read_to_string(&file).map_err(failed(&file))
    };
    let given = read("cgroup.subtree_control")?;
    let has = read("cgroup.controllers")?;
    let missing: Vec<_> =
        has.split_whitespace().filter(|name| given.split_whitespace().all(|other| other != *name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for name in &missing {
        // One that cannot be given is no loss to the others.
        let _ = write(&path.join("cgroup.subtree_control"), format!("+{name}"));
    }
    if missing.contains(&"memory") {
        let file = path.join("memory.oom.group");
        write(&file, "0").map_err(failed(&file))?;
    }
    Ok(())
}

/// Whether perf_event_open(2) can count a cgroup, on whatever hierarchy.
pub(super) fn counts_perf_events() -> bool {
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    controllers.lines().any(|line| line.starts_with("perf_event\t"))
}

pub(super) fn settings(limits: &Limits, controller: Controller, parent: &Path) -> Result<Vec<Setting>, Error> {
    let set = Setting::new;
    let mut all = vec![];
    match controller {
        Controller::Memory => {
            if let Some(bytes) = limits.memory {
                all.push(set("memory.max", bytes.to_string()));
                let swap = limits.swap.unwrap_or(0);
                all.push(Setting { optional: swap == 0, ..set("memory.swap.max", swap.to_string()) });
            }
            all.extend(limits.memory_high.map(|bytes| set("memory.high", bytes.to_string())));
            all.extend(limits.memory_low.map(|bytes| set("memory.low", bytes.to_string())));
        }
        Controller::Cpu => {
            all.extend(limits.cpu.map(|cores| set("cpu.max", format!("{} {PERIOD}", quota(cores)))));
            all.extend(limits.cpu_burst.map(|burst| set("cpu.max.burst", burst.as_micros().to_string())));
            all.extend(limits.cpu_weight.map(|weight| set("cpu.weight", weight.to_string())));
        }
        Controller::Io => {
            for (device, limit) in &limits.io {
                let mut line = device_of(device)?;
                for (key, value) in [
                    ("rbps", limit.read_bytes),
                    ("wbps", limit.write_bytes),
                    ("riops", limit.read_operations),
                    ("wiops", limit.write_operations),
                ] {
                    if let Some(value) = value {
                        line.push_str(&format!(" {key}={value}"));
                    }
                }
                all.push(set("io.max", line));
            }
            if let Some(weight) = limits.io_weight {
                // Of BFQ, and of io.cost: which of them counts is each disk's scheduler's.
                let files = weight_files(parent, ["io.bfq.weight", "io.weight"])?;
                let most = |file: &str| if file == "io.bfq.weight" { 1000 } else { 10000 };
                all.extend(files.into_iter().map(|file| set(file, weight.min(most(file)).to_string())));
            }
        }
        Controller::Hugetlb => {
            for (size, bytes) in &limits.hugetlb {
                all.push(set(&format!("hugetlb.{}.max", page_size(*size)), bytes.to_string()));
            }
        }
        _ => {}
    }
    Ok(all)
}

/// `read` gives the text of a file of this cgroup's.
pub(super) fn accounts(
    read: &dyn Fn(&'static str) -> Option<String>,
    controllers: &[Controller],
    accounts: &mut Accounts,
) {
    let number = |name| number(&read(name)?);
    let entry = |text: &Option<String>, key| entry(text.as_deref()?, key);
    let cpu = read("cpu.stat");
    accounts.cpu = entry(&cpu, "usage_usec").map(Duration::from_micros);
    if let [Some(cpu), Some(memory), Some(io)] =
        ["cpu.pressure", PRESSURE, "io.pressure"].map(|name| waited(&read(name)?))
    {
        accounts.pressure = Some(Pressure { cpu, memory, io });
    }
    for controller in controllers {
        match controller {
            Controller::Memory => {
                accounts.memory_peak = number("memory.peak");
                accounts.swap_peak = number("memory.swap.peak");
                accounts.oom_kills = entry(&read("memory.events"), "oom_kill");
            }
            Controller::Pids => {
                accounts.pids_peak = number("pids.peak");
                accounts.pids_refused = entry(&read("pids.events"), "max");
            }
            Controller::Cpu => accounts.throttled = entry(&cpu, "throttled_usec").map(Duration::from_micros),
            Controller::Io => {
                let text = read("io.stat");
                accounts.io_read_bytes = text.as_deref().map(|text| sum(text, "rbytes="));
                accounts.io_write_bytes = text.as_deref().map(|text| sum(text, "wbytes="));
            }
            _ => {}
        }
    }
}

pub(super) const PRESSURE: &str = "memory.pressure";

/// A file that is told of by POLLPRI when tasks have waited for memory so long within two seconds, the shortest time that
/// everybody may ask for. None where the kernel has no such figures, or lets only the privileged ask.
pub(super) fn watch_pressure(path: &Path, waited: Duration) -> io::Result<Option<File>> {
    let file = File::options().read(true).write(true).open(path.join(PRESSURE));
    let told = file.and_then(|mut file| {
        // The kernel wants the zero.
        file.write_all(format!("some {} 2000000\0", waited.as_micros()).as_bytes())?;
        Ok(file)
    });
    match told {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The total of the line `some`, in microseconds.
pub(super) fn waited(text: &str) -> Option<Duration> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.trim().parse().ok().map(Duration::from_micros)
}

/// Over all devices.
fn sum(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}
