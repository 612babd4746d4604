//! Version 2: one hierarchy, whose controllers are given from parent to child.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::v1::{PERIOD, device_of, quota};
use super::{Accounts, Controller, Limits, Pressure, Setting, entry, number, page_size};
use crate::error::Error;

/// Sees to it that children of this cgroup can be made, and have the controller.
pub(super) fn enable(parent: &Path, controller: Option<&str>) -> io::Result<()> {
    rustix::fs::access(parent, rustix::fs::Access::WRITE_OK)?;
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
    fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))
}

pub(super) fn settings(limits: &Limits, controller: Controller) -> Result<Vec<Setting>, Error> {
    let set = Setting::new;
    let mut all = vec![];
    match controller {
        Controller::Memory => {
            if let Some(bytes) = limits.memory {
                all.push(set("memory.max", bytes.to_string()));
                all.push(set("memory.oom.group", "1".into()));
                let swap = limits.swap.unwrap_or(0).to_string();
                all.push(Setting { optional: true, ..set("memory.swap.max", swap) });
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
            all.extend(limits.io_weight.map(|weight| set("io.weight", weight.to_string())));
        }
        Controller::Hugetlb => {
            for (size, bytes) in &limits.hugetlb {
                all.push(set(&format!("hugetlb.{}.max", page_size(*size)), bytes.to_string()));
            }
        }
        Controller::Cpuset | Controller::Pids | Controller::CpuTime => {}
    }
    Ok(all)
}

pub(super) fn accounts(path: &Path, controllers: &[Controller], accounts: &mut Accounts) {
    let file = |name: &str| path.join(name);
    accounts.cpu = entry(&file("cpu.stat"), "usage_usec").map(Duration::from_micros);
    if let [Some(cpu), Some(memory), Some(io)] =
        ["cpu.pressure", "memory.pressure", "io.pressure"].map(|name| waited(&file(name)))
    {
        accounts.pressure = Some(Pressure { cpu, memory, io });
    }
    for controller in controllers {
        match controller {
            Controller::Memory => {
                accounts.memory_current = number(&file("memory.current"));
                accounts.memory_peak = number(&file("memory.peak"));
                accounts.swap_peak = number(&file("memory.swap.peak"));
                accounts.oom_kills = entry(&file("memory.events"), "oom_kill");
            }
            Controller::Pids => {
                accounts.pids_peak = number(&file("pids.peak"));
                accounts.pids_refused = entry(&file("pids.events"), "max");
            }
            Controller::Cpu => {
                accounts.throttled = entry(&file("cpu.stat"), "throttled_usec").map(Duration::from_micros);
            }
            Controller::Io => {
                accounts.io_read_bytes = sum(&file("io.stat"), "rbytes=");
                accounts.io_write_bytes = sum(&file("io.stat"), "wbytes=");
            }
            Controller::Cpuset | Controller::Hugetlb | Controller::CpuTime => {}
        }
    }
}

/// The total of the line `some`, in microseconds.
fn waited(path: &Path) -> Option<Duration> {
    let text = fs::read_to_string(path).ok()?;
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.trim().parse().ok().map(Duration::from_micros)
}

/// Over all devices.
fn sum(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let values = text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
    Some(values.sum())
}
