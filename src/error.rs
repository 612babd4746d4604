//! What can go wrong with a sandbox. What goes wrong with the program in it is a [`Verdict`](crate::Verdict).

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::plan::Step;
use crate::support::Layer;

/// A sandbox that could not be made, or not be looked after.
///
/// Whatever the error, nothing is left behind: no process, descriptor, mount or file more than before.
///
/// ```
/// # use stockade::{Error, Sandbox};
/// match Sandbox::new().memory_limit(64 << 20).command("/no/such/program").spawn() {
///     Err(Error::Exec { program, source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::NotFound),
///     Err(Error::Unsupported { layer, reason, remedy, .. }) => println!("{layer}: {reason}; {remedy}"),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting makes no sense, by itself or together with another, or a call makes none as things are; nothing was started.
    #[error("{setting}: {reason}")]
    #[non_exhaustive]
    Invalid {
        /// The method that set it, or was called.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// This host cannot do it, and it was not named in [`best_effort`](crate::Sandbox::best_effort).
    #[error("{layer} is not supported here: {reason}; {remedy}")]
    #[non_exhaustive]
    Unsupported {
        /// What is missing.
        layer: Layer,
        /// Why.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// A step of the launch failed.
    #[error("could not {}{}: {source}", .step.describe(), subject_in_words(.subject))]
    #[non_exhaustive]
    Setup {
        /// The step.
        step: Step,
        /// What it was about, such as a path; empty where the step says it all.
        subject: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program could not be executed (`execve(2)`): it does not exist in the sandbox (ENOENT; its interpreter may be
    /// what is missing), may not be executed (EACCES), is no program (ENOEXEC), or its arguments are too long (E2BIG).
    #[error("could not execute {}: {source}", .program.display())]
    #[non_exhaustive]
    Exec {
        /// As it was given.
        program: OsString,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The host process ran into a limit of its own, such as that of open files (`RLIMIT_NOFILE`) or of processes.
    #[error("could not {what}: {source}")]
    #[non_exhaustive]
    Host {
        /// What it was doing.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A source of a mount, or the root, could not be used.
    #[error("{}: {source}", .path.display())]
    #[non_exhaustive]
    Source {
        /// The path on the host.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A cgroup could not be made, set up, or opened.
    #[error("{}: {source}", .path.display())]
    #[non_exhaustive]
    Cgroup {
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file in a sandbox could not be used by [`Files`](crate::Files), or its counterpart on the host. What is refused for
    /// what it is, such as a link, a FIFO, a device or a file with several names, is [`io::ErrorKind::InvalidInput`]; what
    /// has more than the limit, [`io::ErrorKind::FileTooLarge`].
    #[error("{}: {source}", .path.display())]
    #[non_exhaustive]
    File {
        /// As it was given.
        path: PathBuf,
        /// The kernel's answer, or what was refused.
        source: io::Error,
    },
    /// The sandbox did not stand in time (see [`setup_timeout`](crate::Sandbox::setup_timeout)); it was ended.
    #[error("the sandbox did not stand within {limit:?}")]
    #[non_exhaustive]
    TimedOut {
        /// The time that it had.
        limit: Duration,
    },
    /// A closure runs in a fork of the program, which would have a copy of the locks that other threads hold.
    #[error("a closure cannot run: the program has {threads} threads; call Zygote::start() before there are any")]
    #[non_exhaustive]
    MultiThreaded {
        /// How many there are.
        threads: usize,
    },
    /// The [`Zygote`](crate::Zygote) does not answer any more. What it has started goes on.
    #[error("the zygote is lost: {reason}; start another")]
    #[non_exhaustive]
    ZygoteLost {
        /// What is known.
        reason: String,
    },
    /// The other end of a [`Channel`](crate::Channel) is closed: who had it has dropped it, or has ended.
    #[error("the other end of the channel is closed")]
    ChannelClosed,
    /// Who has the other end of a [`Channel`](crate::Channel) has neither sent nor taken anything in time.
    #[error("the other side of the channel did nothing for {limit:?}")]
    #[non_exhaustive]
    NoAnswer {
        /// The time that it had.
        limit: Duration,
    },
    /// What came from a sandbox is not what it should be: the payload lies, or is of another version.
    #[error("{what} makes no sense: {reason}")]
    #[non_exhaustive]
    Malformed {
        /// What should have come.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The agent, PID 1 of the sandbox, or the program's process on its way, ended without a word: somebody killed it from outside,
    /// or the kernel did for want of memory. All that was in the sandbox is gone where it had a PID namespace; how the program
    /// ended is not known. It is also what a container that has ended says to a command.
    #[error("the sandbox's agent was lost: {reason}")]
    #[non_exhaustive]
    AgentLost {
        /// What is known.
        reason: String,
    },
}

fn subject_in_words(subject: &str) -> String {
    if subject.is_empty() { String::new() } else { format!(" ({subject})") }
}

impl Error {
    pub(crate) fn invalid(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { setting, reason: reason.into() }
    }

    /// For `map_err`: the host could not do this.
    pub(crate) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host { what, source: source.into() }
    }
}
