//! Embeddable sandboxing for Linux.
#![doc = include_str!("../README.md")]

mod caps;
pub mod cgroup;
mod child;
mod command;
mod error;
mod idmap;
mod launch;
mod mount;
mod ns;
mod outcome;
#[allow(dead_code)] // the stage has a use for what the host has not
mod plan;
mod prepare;
mod rlimit;
mod sandbox;
mod support;

pub use caps::Capabilities;
pub use cgroup::{CgroupParent, IoLimit, LiveLimits, Pressure};
pub use child::{Child, Output};
pub use command::{Command, Stdio};
pub use error::Error;
pub use mount::{Overlay, Rootfs};
pub use ns::Namespaces;
pub use outcome::{Evidence, KilledBy, Limit, Outcome, Signal, Usage, Verdict, judge};
pub use plan::Step;
pub use prepare::Prepared;
pub use rlimit::Resource;
pub use sandbox::Sandbox;
pub use support::{Layer, Layers, Missing, Report, Support};
