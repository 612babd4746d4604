//! Changes to a cgroup that is in use.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::limits::{Controller, IoLimit, Limits};
use super::{Cgroup, failed, granted, number, text_of, with, write, write_all};
use crate::error::Error;

/// The limits of a live sandbox, to be changed while it runs; see [`Child::limits`](crate::Child::limits). What can be
/// changed is what the sandbox was made with.
///
/// ```
/// # use stockade::{Error, Sandbox};
/// let sandbox = Sandbox::new().pid_ns().pids_limit(10);
/// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
/// let child = sandbox.command("sleep").arg("60").spawn()?;
/// child.limits().pids(20)?;
/// let other = child.limits().memory(64 << 20); // it was made without
/// assert!(matches!(other, Err(Error::Invalid { .. })));
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// # Errors
///
/// Of each method: [`Error::Invalid`] for a value that makes no sense, and for a limit that the sandbox was made without;
/// [`Error::Cgroup`] with the kernel's answer, EBUSY for instance for a limit of memory below what cannot be reclaimed on
/// version 1.
#[derive(Debug, Clone, Copy)]
pub struct LiveLimits<'a> {
    pub(crate) cgroup: &'a Mutex<Option<Cgroup>>,
}

impl LiveLimits<'_> {
    fn change(&self, limits: &Limits) -> Result<(), Error> {
        with(self.cgroup, "limits", |cgroup| cgroup.change(limits))
    }

    /// As [`Sandbox::memory_limit`](crate::Sandbox::memory_limit). What it may use of swap stays as it is.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().memory_limit(16 << 20);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().memory(64 << 20)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn memory(&self, bytes: u64) -> Result<(), Error> {
        with(self.cgroup, "limits", |cgroup| {
            cgroup.change(&Limits { memory: Some(bytes), swap: cgroup.swap(), ..Limits::default() })
        })
    }

    /// As [`Sandbox::memory_low`](crate::Sandbox::memory_low).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().memory_low(16 << 20);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().memory_low(8 << 20)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn memory_low(&self, bytes: u64) -> Result<(), Error> {
        self.change(&Limits { memory_low: Some(bytes), ..Limits::default() })
    }

    /// As [`Sandbox::memory_high`](crate::Sandbox::memory_high).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().memory_high(16 << 20);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().memory_high(64 << 20)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn memory_high(&self, bytes: u64) -> Result<(), Error> {
        self.change(&Limits { memory_high: Some(bytes), ..Limits::default() })
    }

    /// As [`Sandbox::pids_limit`](crate::Sandbox::pids_limit).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().pids_limit(10);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().pids(20)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn pids(&self, tasks: u32) -> Result<(), Error> {
        self.change(&Limits { pids: Some(tasks), ..Limits::default() })
    }

    /// As [`Sandbox::cpu_limit`](crate::Sandbox::cpu_limit).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().cpu_limit(0.5);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().cpu(1.5)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn cpu(&self, cores: f64) -> Result<(), Error> {
        self.change(&Limits { cpu: Some(cores), ..Limits::default() })
    }

    /// As [`Sandbox::cpu_weight`](crate::Sandbox::cpu_weight).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().cpu_weight(50);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().cpu_weight(200)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn cpu_weight(&self, weight: u32) -> Result<(), Error> {
        self.change(&Limits { cpu_weight: Some(weight), ..Limits::default() })
    }

    /// As [`Sandbox::cpuset`](crate::Sandbox::cpuset).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().cpuset("0");
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().cpuset("0")?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn cpuset(&self, cpus: impl Into<String>) -> Result<(), Error> {
        self.change(&Limits { cpuset: Some(cpus.into()), ..Limits::default() })
    }

    /// As [`Sandbox::io_limit`](crate::Sandbox::io_limit). What this says nothing of stays as it is.
    ///
    /// ```
    /// # use stockade::{IoLimit, Sandbox};
    /// let sandbox = Sandbox::new().pid_ns().io_limit("/", IoLimit::new().read_bytes(10 << 20));
    /// # if sandbox.prepare().is_err() { return Ok(()) } // on no block device
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().io("/", IoLimit::new().read_bytes(1 << 20))?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn io(&self, device: impl AsRef<Path>, limit: IoLimit) -> Result<(), Error> {
        self.change(&Limits { io: vec![(device.as_ref().to_owned(), limit)], ..Limits::default() })
    }

    /// As [`Sandbox::io_weight`](crate::Sandbox::io_weight).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().io_weight(100);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().io_weight(50)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn io_weight(&self, weight: u32) -> Result<(), Error> {
        self.change(&Limits { io_weight: Some(weight), ..Limits::default() })
    }

    /// As [`Sandbox::hugetlb_limit`](crate::Sandbox::hugetlb_limit).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().hugetlb_limit(2 << 20, 0);
    /// # if sandbox.prepare().is_err() { return Ok(()) } // no pages of that size
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// child.limits().hugetlb(2 << 20, 4 << 20)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn hugetlb(&self, page_size: u64, bytes: u64) -> Result<(), Error> {
        self.change(&Limits { hugetlb: vec![(page_size, bytes)], ..Limits::default() })
    }
}

/// How long all tasks may take to stop, or to go on.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Sets limits of controllers that it has; one that it has not is an error, before any is set.
    pub(crate) fn change(&self, limits: &Limits) -> Result<(), Error> {
        limits.check()?;
        if let Some(controller) = limits.controllers().into_iter().find(|controller| !self.has(*controller)) {
            return Err(controller.unlimited());
        }
        for controller in limits.controllers() {
            let Some(directory) = self.directories.iter().find(|directory| directory.has(controller)) else { continue };
            if directory.shared {
                let reason = "on version 1 the programs of a container share its limit of a disk: change that";
                return Err(Error::invalid("io_limit", reason));
            }
            let path = &directory.path;
            let settings = limits.settings(controller, path, directory.v2)?;
            let before: Vec<_> = match controller {
                Controller::Cpuset => settings.iter().filter_map(|setting| setting.as_it_is(path)).collect(),
                _ => vec![],
            };
            // Memory's limit must never be above that of memory and swap together: which comes first depends on whether
            // they go up or down.
            if write_all(path, settings.iter()).is_err() {
                write_all(path, settings.iter().rev())?;
            }
            if let Err(error) = granted(path, &settings) {
                write_all(path, before.iter())?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// How many bytes of swap it may use, where swap is accounted for.
    pub(super) fn swap(&self) -> Option<u64> {
        let directory = self.directories.iter().find(|directory| directory.has(Controller::Memory))?;
        let path = |file: &str| directory.path.join(file);
        if !directory.v2 {
            let number = |file| number(&text_of(&path(file))?);
            return Some(number("memory.memsw.limit_in_bytes")?.saturating_sub(number("memory.limit_in_bytes")?));
        }
        let most = fs::read_to_string(path("memory.swap.max")).ok()?;
        Some(most.trim().parse().unwrap_or(u64::MAX))
    }

    /// What stops all its tasks.
    pub(crate) fn freezer(&self) -> Result<Freezer, Error> {
        let by = |directory: &&super::Directory| directory.v2 || directory.has(Controller::Freezer);
        // At most one of the two is there.
        match self.directories.iter().find(by) {
            Some(directory) => {
                Ok(Freezer { path: directory.path.clone(), v2: directory.v2, turn: Arc::clone(&self.freezing) })
            }
            None => Err(Error::invalid("freeze", "this sandbox was made without freezer()")),
        }
    }
}

/// Stops all that is in a cgroup. It is apart from that, since nobody should have to wait for a cgroup until it stands still.
pub(crate) struct Freezer {
    path: PathBuf,
    v2: bool,
    turn: Arc<Mutex<()>>,
}

impl Freezer {
    /// Stops all tasks, or lets them go on, and waits until that is so.
    pub(crate) fn set(&self, frozen: bool) -> Result<(), Error> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, on, off) = if self.v2 { ("cgroup.freeze", "1", "0") } else { ("freezer.state", "FROZEN", "THAWED") };
        let file = self.path.join(file);
        let write = |frozen: bool| write(&file, if frozen { on } else { off }).map_err(failed(&file));
        write(frozen)?;
        let settled = if self.v2 {
            wait_for(&self.path.join("cgroup.events"), if frozen { "frozen 1" } else { "frozen 0" })
        } else {
            insist(&file, frozen, write)
        };
        if settled.is_err() && frozen {
            write(false)?;
        }
        settled
    }
}

/// Version 1: what forks just then may be missed, so that it is told again, and now and then from the beginning.
fn insist(file: &Path, frozen: bool, write: impl Fn(bool) -> Result<(), Error>) -> Result<(), Error> {
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let deadline = Instant::now() + PATIENCE;
    for count in 1u32.. {
        if fs::read_to_string(file).map_err(failed(file))?.trim() == wanted {
            return Ok(());
        }
        if Instant::now() >= deadline {
            break;
        }
        if count % 20 == 0 {
            write(!frozen)?;
        }
        write(frozen)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(failed(file)(io::ErrorKind::TimedOut.into()))
}

/// Version 2: waits until there is such a line in a file of which the kernel says when it changes.
fn wait_for(path: &Path, line: &str) -> Result<(), Error> {
    let mut file = File::open(path).map_err(failed(path))?;
    let deadline = Instant::now() + PATIENCE;
    let mut text = String::new();
    loop {
        text.clear();
        file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(failed(path))?;
        if text.lines().any(|found| found == line) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(failed(path)(io::ErrorKind::TimedOut.into()));
        }
        let nap = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let _ = poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&nap));
    }
}
