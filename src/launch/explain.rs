//! Words for what a launch could not do.

use std::ffi::OsStr;
use std::io;

use rustix::io::Errno;

use super::Request;
use crate::error::Error;
use crate::idmap::Writer;
use crate::ns::Namespaces;
use crate::plan::{self, Failure, Step, decode, reason};
use crate::prepare::Prepared;
use crate::sandbox::Sandbox;
use crate::support::{self, Layer, NAMESPACES, Symptom};

pub(super) enum Trouble {
    Error(Error),
    Failed(Failure),
    TimedOut,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Trouble {
    pub(super) fn into_error(self, prepared: &Prepared, request: Option<&Request<'_>>) -> Error {
        match self {
            Trouble::Error(error) => error,
            Trouble::TimedOut => Error::TimedOut { limit: prepared.inner.setup_timeout },
            Trouble::Failed(failure) => explain(prepared, request, failure),
        }
    }
}

pub(super) fn gone(reason: &str) -> Error {
    Error::AgentLost { reason: reason.into() }
}

pub(super) fn missing_call(call: &'static str, step: Step, errno: Errno) -> Error {
    let layer = if step == Step::MountSource { Layer::Mounts } else { Layer::Stage };
    let symptom = Symptom { step, errno, layer, user_ns: false, subject: call };
    support::diagnose(&symptom).unwrap_or(Error::Host { what: call, source: errno.into() })
}

pub(super) fn map_error(prepared: &Prepared, error: io::Error) -> Error {
    let helpers = matches!(prepared.inner.ids.writer, Writer::Helpers);
    let unsupported =
        |remedy: &str| Error::Unsupported { layer: Layer::IdRanges, reason: error.to_string(), remedy: remedy.into() };
    match error.kind() {
        io::ErrorKind::NotFound if helpers => unsupported("install newuidmap and newgidmap (Debian's package uidmap)"),
        io::ErrorKind::PermissionDenied if helpers => {
            unsupported("give the user these ids in /etc/subuid and /etc/subgid, or map fewer")
        }
        io::ErrorKind::PermissionDenied => unsupported("map only ids that the caller's own user namespace has"),
        _ => Error::Setup { step: Step::IdMap, subject: String::new(), source: error },
    }
}

/// Words for a failed step.
fn explain(prepared: &Prepared, request: Option<&Request<'_>>, failure: Failure) -> Error {
    let inner = &prepared.inner;
    let step = Step::from_number(failure.step).unwrap_or(Step::Agent);
    let index = usize::try_from(failure.index).unwrap_or(usize::MAX);
    if failure.errno == 0 {
        // What it was ended by, where it was the agent that did it.
        let by = match failure.index {
            reason::CPU_TIME => " by its limit of CPU time",
            reason::MEMORY => " by its limit of memory",
            _ => "",
        };
        let reason = format!("the program's process was killed{by} before it could become the program");
        return Error::AgentLost { reason };
    }
    let source = io::Error::from_raw_os_error(failure.errno);
    if step == Step::Exec {
        let program = request.map_or(OsStr::new(""), |request| request.program);
        return Error::Exec { program: program.to_owned(), source };
    }
    let subject = match step {
        Step::MountSource | Step::MountTarget | Step::MountMake | Step::MountMove | Step::Root => {
            inner.subjects.get(index).cloned().unwrap_or_default()
        }
        Step::Session if failure.errno == Errno::DQUOT.raw_os_error() => {
            "no keyring of its own: the user has used up its quota of keys, kernel.keys.maxkeys".into()
        }
        Step::LandlockRules => inner.landlock_subjects.get(index).cloned().unwrap_or_default(),
        Step::WorkingDirectory => directory_of(request.filter(|_| index == 0)),
        Step::Rlimit => inner.rlimits.get(index).map(|(resource, _)| format!("{resource:?}")).unwrap_or_default(),
        _ => String::new(),
    };
    let layer = match step {
        Step::UserNamespace => Layer::UserNs,
        Step::IdMap if matches!(inner.ids.writer, Writer::Stage) => Layer::UserNs,
        Step::IdMap => Layer::IdRanges,
        Step::Namespaces => culprit(inner.namespaces),
        Step::CgroupNamespace => Layer::CgroupNs,
        Step::PidNamespace => Layer::PidNs,
        Step::Loopback => Layer::NetNs,
        Step::Hostname => Layer::UtsNs,
        Step::TimeOffsets => Layer::TimeNs,
        Step::LandlockRules | Step::Landlock => Layer::Landlock,
        Step::Seccomp => Layer::Seccomp,
        Step::UserNamespaceLimit => Layer::Proc,
        _ if subject.starts_with("proc ") => Layer::Proc,
        _ if subject.starts_with("overlay ") => Layer::Overlay,
        _ => Layer::Mounts,
    };
    let errno = Errno::from_raw_os_error(failure.errno);
    let user_ns = inner.namespaces.contains(Namespaces::USER);
    let symptom = Symptom { step, errno, layer, user_ns, subject: &subject };
    support::diagnose(&symptom).unwrap_or(Error::Setup { step, subject, source })
}

/// The directory that a request asks for; else this process's own, which is what every program gets without one.
fn directory_of(request: Option<&Request<'_>>) -> String {
    let launch = request.and_then(|request| decode::<plan::Launch<'_>>(request.bytes).ok());
    match launch.map(|launch| launch.directory).filter(|directory| !directory.is_empty()) {
        Some(directory) => directory.to_string_lossy().into_owned(),
        None => std::env::current_dir()
            .map_or_else(|_| "the host program's own".into(), |directory| directory.display().to_string()),
    }
}

/// All namespaces are made by one call; which one could not is found by making each alone.
fn culprit(namespaces: Namespaces) -> Layer {
    let alone = |namespace: &Namespaces| {
        let mut sandbox = Sandbox::new();
        sandbox.namespaces = *namespace;
        sandbox
    };
    let made = |namespace: Namespaces| namespaces.contains(namespace);
    let candidates =
        NAMESPACES.iter().filter(|(_, ns)| made(*ns) && *ns != Namespaces::USER && *ns != Namespaces::CGROUP);
    let mut layers = candidates.clone().map(|(layer, _)| *layer);
    if candidates.clone().count() == 1 {
        return layers.next().unwrap_or(Layer::UserNs);
    }
    let fails = |entry: &&(Layer, Namespaces)| alone(&entry.1).probe().is_err();
    candidates.clone().find(fails).map_or(Layer::UserNs, |(layer, _)| *layer)
}
