//! Embeddable sandboxing for Linux. The [guide] goes from the task to the setters; [`Sandbox`] is where the reference begins.
#![doc = include_str!("../README.md")]

mod caps;
pub mod cgroup;
#[cfg(feature = "closures")]
mod channel;
mod child;
#[cfg(feature = "closures")]
mod codec;
mod command;
mod container;
mod error;
pub mod files;
#[cfg(feature = "closures")]
mod fork;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod idmap;
mod label;
pub mod landlock;
mod launch;
mod learn;
mod mount;
mod notify;
mod ns;
mod outcome;
#[allow(dead_code)] // the stage has a use for what the host has not
mod plan;
mod pool;
mod prepare;
mod rlimit;
mod sandbox;
pub mod seccomp;
#[cfg(all(feature = "closures", not(miri)))]
mod stage;
mod support;
#[cfg(feature = "closures")]
mod zygote;

pub use caps::{Capabilities, Securebits};
pub use cgroup::{
    CgroupParent, DeviceAccess, DeviceKind, DeviceRule, DeviceRules, Event, EventKind, Events, IoLimit, LiveLimits,
    Pressure,
};
#[cfg(feature = "closures")]
pub use channel::{Channel, Region};
pub use child::{Child, Denial, Output};
pub use command::{Command, Stdio};
pub use container::{Container, ContainerEvent, ContainerEvents, Process, State};
pub use error::Error;
pub use files::Files;
#[cfg(feature = "closures")]
pub use fork::{Closure, Finished, NoValue};
pub use learn::Learned;
pub use mount::{Overlay, Rootfs};
pub use notify::{Notification, Notifications};
pub use ns::Namespaces;
pub use outcome::{Evidence, KilledBy, Limit, Outcome, Signal, SyscallDenied, Usage, Verdict, judge};
pub use plan::Step;
pub use pool::{Figures, Pool};
pub use prepare::Prepared;
pub use rlimit::Resource;
pub use sandbox::Sandbox;
pub use support::{Layer, Layers, Missing, Report, Support};
#[cfg(feature = "closures")]
pub use zygote::Zygote;
