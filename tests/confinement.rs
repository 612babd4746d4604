//! Confinement, against the kernel: filters of system calls, Landlock, labels, capabilities, and what is made of them.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "confinement/capabilities.rs"]
mod capabilities;
mod common;
#[path = "confinement/hardened.rs"]
mod hardened;
#[path = "confinement/labels.rs"]
mod labels;
#[path = "confinement/landlock.rs"]
mod landlock;
#[path = "confinement/network.rs"]
mod network;
#[path = "confinement/programs.rs"]
mod programs;
#[path = "confinement/runtimes.rs"]
mod runtimes;
#[path = "confinement/seccomp.rs"]
mod seccomp;
