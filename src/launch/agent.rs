//! The agent's process as the host's child: how it is ended, and reaped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use super::packet::wait_for;

/// How long an end may take before it is helped along.
const END: Duration = Duration::from_secs(10);

/// The agent's process, A, a child of the host.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) pidfd: OwnedFd,
    /// There is nothing to wait for any more.
    pub(super) reaped: AtomicBool,
}

impl Agent {
    /// Waits until it has ended and reaps it; helps along if that takes long. With it, everything in its PID namespace ends.
    pub(crate) fn end(&self) {
        if self.reaped.load(Ordering::Acquire) {
            return;
        }
        // A payload of the same user may have stopped a guardian.
        let _ = pidfd_send_signal(&self.pidfd, Signal::CONT);
        let has_ended =
            |patience| matches!(wait_for([self.pidfd.as_fd()], Some(Instant::now() + patience)), Ok(Some(_)));
        let ended = [END, END, Duration::ZERO].into_iter().any(|patience| {
            let ended = has_ended(patience);
            if !ended {
                let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
            ended
        });
        if ended {
            reap(&self.pidfd);
            self.reaped.store(true, Ordering::Release);
        } else {
            // Something in it cannot be interrupted in the kernel: it is reaped when that lets go.
            leave(self.pidfd.try_clone());
        }
    }
}

/// Agents without a handle: they are reaped when they have ended, at the next occasion.
static DETACHED: Mutex<Vec<OwnedFd>> = Mutex::new(vec![]);

/// Gives up a handle.
pub(crate) fn leave(agent: io::Result<OwnedFd>) {
    if let Ok(agent) = agent {
        DETACHED.lock().unwrap_or_else(PoisonError::into_inner).push(agent);
    }
}

pub(super) fn reap_detached() {
    let mut detached = DETACHED.lock().unwrap_or_else(PoisonError::into_inner);
    detached.retain(|agent| {
        let ended = matches!(wait_for([agent.as_fd()], Some(Instant::now())), Ok(Some(_)));
        if ended {
            reap(agent);
        }
        !ended
    });
}

/// Reaps a child. If the host reaps everything itself (`waitpid(-1)`), or ignores SIGCHLD, there is nothing to do.
pub(super) fn reap(pidfd: &OwnedFd) {
    while matches!(waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED), Err(Errno::INTR)) {}
}

/// Reaps an agent that has no pidfd. It ends by itself, with its socket.
pub(super) fn reap_orphan(which: WaitId<'_>) {
    let deadline = Instant::now() + END;
    while Instant::now() < deadline {
        match waitid(which.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => std::thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
}

/// How a child stands, without reaping it.
pub(super) fn look_at(pidfd: &OwnedFd) -> Result<Option<WaitIdStatus>, Errno> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd.as_fd()), look)
}

/// For the error that nobody expects.
pub(super) fn how_it_ended(pidfd: &OwnedFd) -> String {
    match look_at(pidfd) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (_, Some(signal)) => format!("was killed by signal {signal}"),
            _ => "ended".into(),
        },
        Ok(None) => "fell silent".into(),
        Err(_) => "ended".into(),
    }
}

/// The number behind a pidfd, as `/proc/self/fdinfo` gives it.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok())
}
