//! Namespaces: which to make, which to join.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bitflags::bitflags;

use crate::error::Error;
use crate::plan;

bitflags! {
    /// A set of namespaces, by the kernel's `CLONE_NEW*` (namespaces(7)).
    ///
    /// ```
    /// # use stockade::Namespaces;
    /// assert_eq!(Namespaces::NET.bits(), 0x4000_0000); // CLONE_NEWNET
    /// assert_eq!(Namespaces::all().iter().count(), 8);
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Namespaces: u32 {
        /// Clock offsets (time_namespaces(7), `CLONE_NEWTIME`).
        const TIME = 0x80;
        /// The mounts (mount_namespaces(7), `CLONE_NEWNS`).
        const MOUNT = 0x2_0000;
        /// The cgroup root that is seen (cgroup_namespaces(7), `CLONE_NEWCGROUP`).
        const CGROUP = 0x200_0000;
        /// Host and domain name (uts_namespaces(7), `CLONE_NEWUTS`).
        const UTS = 0x400_0000;
        /// System V and POSIX message queues, semaphores, shared memory (ipc_namespaces(7), `CLONE_NEWIPC`).
        const IPC = 0x800_0000;
        /// User and group ids, and capabilities (user_namespaces(7), `CLONE_NEWUSER`).
        const USER = 0x1000_0000;
        /// Process numbers (pid_namespaces(7), `CLONE_NEWPID`).
        const PID = 0x2000_0000;
        /// Network devices, addresses, ports (network_namespaces(7), `CLONE_NEWNET`).
        const NET = 0x4000_0000;
    }
}

/// An existing namespace to enter.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) kind: Namespaces,
    pub(crate) fd: Arc<OwnedFd>,
}

impl Join {
    pub(crate) fn compile(&self) -> Result<plan::Join, Error> {
        let invalid = |reason: String| Error::invalid("join_ns", reason);
        if self.kind.iter().count() != 1 {
            return Err(invalid(format!("exactly one kind of namespace is joined at a time, not {:?}", self.kind)));
        }
        let name = self.kind.file_name();
        match link_of(&self.fd) {
            Ok(link) if link.starts_with(&format!("{name}:[")) => Ok(plan::Join { kind: self.kind.bits() }),
            Ok(link) => Err(invalid(format!("the descriptor is {link}, not a {name} namespace"))),
            Err(error) => Err(invalid(format!("the descriptor cannot be looked at: {error}"))),
        }
    }
}

fn link_of(fd: &impl AsFd) -> io::Result<String> {
    let path = crate::launch::descriptor_path(fd);
    Ok(std::fs::read_link(path)?.to_string_lossy().into_owned())
}

impl Namespaces {
    /// The name in `/proc/PID/ns`.
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::TIME => "time",
            Self::MOUNT => "mnt",
            Self::CGROUP => "cgroup",
            Self::UTS => "uts",
            Self::IPC => "ipc",
            Self::USER => "user",
            Self::PID => "pid",
            _ => "net",
        }
    }
}

/// Offsets of the clocks in a time namespace, in nanoseconds (`/proc/PID/timens_offsets`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClockOffsets {
    pub(crate) monotonic: Option<i64>,
    pub(crate) boottime: Option<i64>,
}

impl ClockOffsets {
    /// The file's lines; empty if there is nothing to write.
    pub(crate) fn compile(self) -> String {
        let line = |clock: &str, offset: Option<i64>| {
            // The kernel takes seconds of either sign, and nanoseconds that count upwards.
            offset.map_or(String::new(), |ns| {
                format!("{clock} {} {}\n", ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000))
            })
        };
        line("monotonic", self.monotonic) + &line("boottime", self.boottime)
    }
}
