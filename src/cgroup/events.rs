//! What happens in a cgroup, as it happens.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::limits::Controller;
use super::{Cgroup, Directory, entry, text_of, v1, v2};
use crate::error::Error;

/// Something that happens to a whole sandbox.
///
/// ```
/// # use stockade::{EventKind, Sandbox};
/// let sandbox = Sandbox::new().pid_ns().memory_limit(16 << 20);
/// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
/// let child = sandbox.command("tail").arg("/dev/zero").spawn()?;
/// let kinds: Vec<_> = child.events()?.map(|event| event.kind).collect();
/// assert!(kinds.contains(&EventKind::OomKill));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// Its memory had run out, and nothing could be reclaimed (`memory.events` oom). Version 1 does not count that by
    /// itself: there it comes with [`OomKill`](EventKind::OomKill).
    Oom,
    /// The kernel ended a process for that (`memory.events` oom_kill, `memory.oom_control` oom_kill).
    OomKill,
    /// It had more than [`memory_high`](crate::Sandbox::memory_high) and was slowed down (`memory.events` high). Version
    /// 2 only.
    High,
    /// It came to its limit of memory, and some had to be reclaimed (`memory.events` max). Version 1 does not count that:
    /// there it is told when reclaiming is under way (`memory.pressure_level`), which memory that cannot be reclaimed
    /// never leads to.
    Max,
    /// A fork was refused by its limit of tasks (`pids.events` max). Some kernels say nothing of it on version 1: there it
    /// is looked for every 50 ms.
    PidsMax,
    /// Its tasks waited for memory for another 200 ms all together (`memory.pressure` some). The kernel tells that where it
    /// was within two seconds; slower it comes with another event. On version 1, memory became hard to reclaim
    /// (`memory.pressure_level` medium). A kernel without pressure stall information tells nothing.
    MemoryPressure,
}

/// See [`Events`].
///
/// ```
/// # use stockade::{EventKind, Sandbox};
/// let sandbox = Sandbox::new().pid_ns().memory_limit(16 << 20);
/// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
/// let child = sandbox.command("tail").arg("/dev/zero").spawn()?;
/// let killed = child.events()?.find(|event| event.kind == EventKind::OomKill);
/// assert!(killed.is_some_and(|event| event.times >= 1));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Event {
    /// What has happened.
    pub kind: EventKind,
    /// How often, since it was told last, or since the beginning. The kernel tells of many at once.
    pub times: u64,
}

/// How often what has happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    oom: u64,
    oom_kill: u64,
    high: u64,
    max: u64,
    pids_max: u64,
    pressure: u64,
}

/// What counts as one time of waiting.
const STALL: Duration = Duration::from_millis(200);

/// What the kernel has counted. What cannot be read counts as nothing.
pub(super) fn counts(directories: &[Directory]) -> Counts {
    let mut counts = Counts::default();
    for directory in directories {
        let text = |file: &str| text_of(&directory.path.join(file)).unwrap_or_default();
        let count = |file: &str, name: &str| entry(&text(file), name).unwrap_or(0);
        if directory.has(Controller::Memory) {
            if directory.v2 {
                counts.oom = count("memory.events", "oom");
                counts.oom_kill = count("memory.events", "oom_kill");
                counts.high = count("memory.events", "high");
                counts.max = count("memory.events", "max");
            } else {
                counts.oom_kill = count("memory.oom_control", "oom_kill");
                counts.oom = counts.oom_kill;
            }
        }
        if directory.v2 {
            let waited = v2::waited(&text(v2::PRESSURE)).unwrap_or_default();
            counts.pressure = u64::try_from(waited.as_micros() / STALL.as_micros()).unwrap_or(u64::MAX);
        }
        if directory.has(Controller::Pids) {
            counts.pids_max = count("pids.events", "max");
        }
    }
    counts
}

/// What happens to a running sandbox by its limits, as it happens; from [`Child::events`](crate::Child::events).
///
/// The iterator waits for the next one, and ends when the run is over. What has happened before it was asked for comes
/// first. For an event loop there is its descriptor ([`AsFd`], readable when there may be something) with
/// [`try_next`](Events::try_next). It may go to another thread.
///
/// ```
/// use stockade::{Sandbox, Stdio};
///
/// let sandbox = Sandbox::new().pid_ns().pids_limit(2);
/// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
/// let forks = "sleep 0.1 & sleep 0.1 & sleep 0.1 & wait";
/// let child = sandbox.command("sh").args(["-c", forks]).stderr(Stdio::null()).spawn()?;
/// for event in child.events()? {
///     println!("{:?}, {} times", event.kind, event.times);
/// }
/// assert!(child.wait()?.code().is_none());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct Events {
    all: OwnedFd,
    changes: OwnedFd,
    /// Version 1: of a lack of memory, and when to look again.
    signals: Vec<OwnedFd>,
    /// Version 1: of memory that is reclaimed, and of memory that hardly can be, and how often that was.
    pressure: [Option<OwnedFd>; 2],
    reclaimed: [u64; 2],
    /// Version 2: held open for what the kernel tells by it, which is told to whoever polls first. What there is to know
    /// is in the counts.
    _stalls: Vec<File>,
    end: OwnedFd,
    directories: Vec<Directory>,
    last: Arc<OnceLock<Counts>>,
    told: Counts,
    waiting: VecDeque<Event>,
    over: bool,
}

impl Cgroup {
    /// `end` becomes readable when all is over.
    pub(crate) fn events(&self, end: OwnedFd) -> Result<Events, Error> {
        let failed = |errno: Errno| Error::host("watch for events")(errno);
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
        let (mut signals, mut pressure, mut stalls) = (vec![], [None, None], vec![]);
        for directory in &self.directories {
            let files: &[&str] =
                match (directory.v2, directory.has(Controller::Memory), directory.has(Controller::Pids)) {
                    (true, true, true) => &["memory.events", "pids.events"],
                    (true, true, false) => &["memory.events"],
                    (_, _, true) => &["pids.events"],
                    _ => &[],
                };
            for file in files {
                // Older kernels have no such file on version 1.
                match inotify::add_watch(&changes, directory.path.join(file), inotify::WatchFlags::MODIFY) {
                    Ok(_) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
            if !directory.v2 && directory.has(Controller::Memory) {
                let watch = |file, arguments| {
                    v1::watch(&directory.path, file, arguments).map_err(Error::host("watch for events"))
                };
                signals.extend(watch("memory.oom_control", "")?);
                pressure = [watch("memory.pressure_level", " low")?, watch("memory.pressure_level", " medium")?];
            }
            if directory.v2 {
                stalls.extend(v2::watch_pressure(&directory.path, STALL).map_err(Error::host("watch for events"))?);
            }
            if !directory.v2 && directory.has(Controller::Pids) {
                signals.push(ticks().map_err(failed)?);
            }
        }
        let all = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        for fd in signals.iter().chain(pressure.iter().flatten()).chain([&changes, &end]) {
            epoll::add(&all, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(failed)?;
        }
        for fd in &stalls {
            epoll::add(&all, fd, epoll::EventData::new_u64(0), epoll::EventFlags::PRI).map_err(failed)?;
        }
        Ok(Events {
            all,
            changes,
            signals,
            pressure,
            reclaimed: [0; 2],
            _stalls: stalls,
            end,
            directories: self.directories.clone(),
            last: Arc::clone(&self.last),
            told: Counts::default(),
            waiting: VecDeque::new(),
            over: false,
        })
    }
}

/// A descriptor that becomes readable again and again.
fn ticks() -> Result<OwnedFd, Errno> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let period = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: period, it_value: period })?;
    Ok(timer)
}

impl Events {
    /// The next one, if there is one already. `None` is also what comes when all is over; see
    /// [`is_over`](Events::is_over).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().pids_limit(10);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("60").spawn()?;
    /// assert_eq!(child.events()?.try_next(), None); // nothing has happened yet
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn try_next(&mut self) -> Option<Event> {
        if self.waiting.is_empty() && !self.over {
            self.look();
        }
        self.waiting.pop_front()
    }

    /// Whether the run is over, and all that happened has been told.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let sandbox = Sandbox::new().pid_ns().pids_limit(10);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let child = sandbox.command("sleep").arg("0.01").spawn()?;
    /// let mut events = child.events()?;
    /// while events.next().is_some() {}
    /// assert!(events.is_over());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn is_over(&self) -> bool {
        self.over && self.waiting.is_empty()
    }

    /// Reads what makes the descriptor readable, and only then the counts: what is counted later makes it so again.
    fn look(&mut self) {
        let mut end = [PollFd::new(&self.end, PollFlags::IN)];
        let over = poll(&mut end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0);
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.changes, &mut buffer).is_ok_and(|len| len > 0) {}
        for signal in &self.signals {
            let _ = rustix::io::read(signal, &mut buffer);
        }
        for (pressure, times) in self.pressure.iter().zip(&mut self.reclaimed) {
            let mut signals = [0; 8];
            let told = pressure.as_ref().and_then(|pressure| rustix::io::read(pressure, &mut signals).ok());
            // It becomes readable when the cgroup is removed, too, which is not this.
            if told.is_some() && self.directories.iter().all(|directory| directory.path.exists()) {
                *times = times.saturating_add(u64::from_ne_bytes(signals));
            }
        }
        let now = counts(&self.directories);
        // Looked at last: it is there before the first directory is gone.
        let removed = self.last.get().copied();
        let mut now = removed.unwrap_or(now);
        let [reclaimed, hardly] = self.reclaimed;
        now.max = now.max.saturating_add(reclaimed);
        now.pressure = now.pressure.saturating_add(hardly);
        let told = &mut self.told;
        // As one leads to the other: of what is seen in one look nobody can tell what came first.
        for (kind, told, now) in [
            (EventKind::High, &mut told.high, now.high),
            (EventKind::Max, &mut told.max, now.max),
            (EventKind::MemoryPressure, &mut told.pressure, now.pressure),
            (EventKind::Oom, &mut told.oom, now.oom),
            (EventKind::OomKill, &mut told.oom_kill, now.oom_kill),
            (EventKind::PidsMax, &mut told.pids_max, now.pids_max),
        ] {
            // What could not be read just now is none.
            if now > *told {
                self.waiting.push_back(Event { kind, times: now - *told });
                *told = now;
            }
        }
        self.over = removed.is_some() || over;
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match poll(&mut [PollFd::new(&self.all, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Events {
    /// Readable when something may have happened, and when all is over.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.all.as_fd()
    }
}
