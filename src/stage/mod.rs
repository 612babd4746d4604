//! The stage's code once more, as a part of the library: what a fork of the host goes through on its way into a sandbox.
//!
//! `main.rs` is the same as a program of its own. A fork of the host runs it up to the closure, by raw system calls alone.
#![allow(dead_code)] // much of it is the program's
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_lossless)] // as in the program: numbers of the kernel's

use crate::plan;
use crate::seccomp::interpret;

pub(crate) mod enter;
mod exec;
mod program;
mod serve;
mod setup;
pub(crate) mod sys;
