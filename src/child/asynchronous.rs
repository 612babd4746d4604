//! The handle for a host that is asynchronous: futures on the same descriptors that the blocking methods poll.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::{Child, Drain, Output, Remains, lock};
use crate::error::Error;
use crate::launch::wait_for;
use crate::outcome::Outcome;

/// With the feature `tokio`: the same as their blocking namesakes, and they go together with them.
///
/// Each must be called within a tokio runtime that has its I/O enabled. Without a runtime they are [`Error::Invalid`]; one
/// without I/O makes tokio panic. To spawn blocks for the time of a launch, and to drop a program that still runs for that
/// of its end: where that is too long for the runtime's threads there are `tokio::task::spawn_blocking`, and
/// [`kill`](Child::kill) with [`wait_async`](Child::wait_async).
impl Child {
    /// As [`wait`](Child::wait), without blocking the thread.
    ///
    /// It can be cancelled: if the future is dropped the program goes on, and how it ends is told to whoever waits next, by
    /// this or by any other way. Any number of tasks and threads may wait at once.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    /// # runtime.block_on(async {
    /// let child = stockade::Sandbox::new().pid_ns().command("true").spawn()?;
    /// assert!(child.wait_async().await?.success());
    /// # Ok::<(), stockade::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait); [`Error::Host`] if the host may not open two descriptors more.
    pub async fn wait_async(&self) -> Result<Outcome, Error> {
        self.let_go();
        let watches = [watch(&self.running.socket)?, watch(&self.running.live.agent.pidfd)?];
        loop {
            // The lock is not to be held while this waits.
            let end = lock(&self.end).clone();
            if let Some(end) = end {
                return end.result();
            }
            let [_, agent_ended] = readable(watches.each_ref()).await?;
            if let Some(remains) = self.take_last_word(agent_ended)? {
                end_in_background(remains, agent_ended).await;
            }
        }
    }

    /// As [`wait_with_output`](Child::wait_with_output), without blocking the thread. The child goes with the future: if that
    /// is dropped, the program is ended.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    /// # runtime.block_on(async {
    /// let child = Sandbox::new().pid_ns().command("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
    /// assert_eq!(child.wait_with_output_async().await?.stdout, b"hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`wait_async`](Child::wait_async); [`Error::Host`] if reading fails.
    pub async fn wait_with_output_async(self) -> Result<Output, Error> {
        self.let_go();
        let (pipes, limit) = {
            let mut pipes = lock(&self.pipes);
            ([pipes.stdout.take(), pipes.stderr.take()], pipes.limit.unwrap_or(u64::MAX))
        };
        let agent = watch(&self.running.live.agent.pidfd)?;
        let [stdout, stderr] = pipes.each_ref().map(|pipe| pipe.as_ref().map(watch).transpose());
        let watches = [stdout?, stderr?];
        let [stdout, stderr] = pipes.map(Drain::new);
        let mut drains = [stdout?, stderr?];
        let mut left = limit;
        while drains.iter().any(|drain| drain.pipe.is_some()) {
            let [stdout, stderr] = [0, 1].map(|number| {
                let open = drains.get(number).is_some_and(|drain| drain.pipe.is_some());
                watches.get(number).and_then(Option::as_ref).filter(|_| open).unwrap_or(&agent)
            });
            let [_, _, ended] = readable([stdout, stderr, &agent]).await?;
            for drain in &mut drains {
                left = drain.read(left, limit)?;
            }
            if self.is_over_limit(&drains)? {
                break;
            }
            // All is over; whoever holds a writing end still is nobody of the sandbox's.
            if ended {
                break;
            }
        }
        drop(watches);
        let outcome = self.wait_async().await?;
        let [stdout, stderr] = drains.map(|drain| drain.bytes);
        Ok(Output { outcome, stdout, stderr })
    }

    /// As [`take_stdin`](Child::take_stdin), to be written to by tasks. Its end is the end of the program's input.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// use tokio::io::AsyncWriteExt as _;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    /// # runtime.block_on(async {
    /// let child = Sandbox::new().pid_ns().command("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    /// let mut input = child.take_stdin_async()?.unwrap();
    /// input.write_all(b"hello").await.unwrap();
    /// drop(input);
    /// assert_eq!(child.wait_with_output_async().await?.stdout, b"hello");
    /// # Ok::<(), stockade::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] without a runtime; [`Error::Host`] if that cannot watch it.
    pub fn take_stdin_async(&self) -> Result<Option<pipe::Sender>, Error> {
        check_runtime()?;
        let pipe = self.take_stdin().map(|pipe| pipe::Sender::from_owned_fd(pipe.into()));
        pipe.transpose().map_err(Error::host("watch the program's input"))
    }

    /// As [`take_stdout`](Child::take_stdout), to be read by tasks. No [`output_limit`](crate::Sandbox::output_limit) holds for
    /// what is read here.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// use tokio::io::AsyncReadExt as _;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    /// # runtime.block_on(async {
    /// let child = Sandbox::new().pid_ns().command("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
    /// let mut text = String::new();
    /// child.take_stdout_async()?.unwrap().read_to_string(&mut text).await.unwrap();
    /// assert_eq!(text, "hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`take_stdin_async`](Child::take_stdin_async).
    pub fn take_stdout_async(&self) -> Result<Option<pipe::Receiver>, Error> {
        check_runtime()?;
        receiver(self.take_stdout().map(OwnedFd::from))
    }

    /// As [`take_stderr`](Child::take_stderr); see [`take_stdout_async`](Child::take_stdout_async).
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// use tokio::io::AsyncReadExt as _;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    /// # runtime.block_on(async {
    /// let mut command = Sandbox::new().pid_ns().command("sh");
    /// let child = command.args(["-c", "echo oh >&2"]).stderr(Stdio::piped()).spawn()?;
    /// let mut text = String::new();
    /// child.take_stderr_async()?.unwrap().read_to_string(&mut text).await.unwrap();
    /// assert_eq!(text, "oh\n");
    /// # Ok::<(), stockade::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`take_stdin_async`](Child::take_stdin_async).
    pub fn take_stderr_async(&self) -> Result<Option<pipe::Receiver>, Error> {
        check_runtime()?;
        receiver(self.take_stderr().map(OwnedFd::from))
    }
}

fn receiver(pipe: Option<OwnedFd>) -> Result<Option<pipe::Receiver>, Error> {
    let pipe = pipe.map(pipe::Receiver::from_owned_fd);
    pipe.transpose().map_err(Error::host("watch the program's output"))
}

fn check_runtime() -> Result<(), Error> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::invalid("async", format!("{error}: call it from within a tokio runtime"))),
    }
}

/// A descriptor of its own: a runtime watches each only once, and there may be many who wait.
// The constructor is deprecated for types whose descriptor may change or be closed meanwhile; an OwnedFd's is the same for as
// long as it lives. Its successor is unsafe, and too new for many hosts.
#[allow(deprecated)]
fn watch(fd: &impl AsFd) -> Result<AsyncFd<OwnedFd>, Error> {
    check_runtime()?;
    let copy = fd.as_fd().try_clone_to_owned();
    let watched = copy.and_then(|copy| AsyncFd::with_interest(copy, Interest::READABLE));
    watched.map_err(Error::host("watch the program"))
}

/// Waits until one of them is readable, and says which are. The runtime tells what has changed only; what is asked here is how
/// it is.
async fn readable<const N: usize>(watches: [&AsyncFd<OwnedFd>; N]) -> Result<[bool; N], Error> {
    poll_fn(|context| {
        loop {
            let mut changed = vec![];
            for watch in watches {
                if let Poll::Ready(guard) = watch.poll_read_ready(context) {
                    changed.push(guard.map_err(Error::host::<io::Error>("watch the program"))?);
                }
            }
            let fds: [BorrowedFd<'_>; N] = watches.map(|watch| watch.get_ref().as_fd());
            if let Some(ready) = wait_for(fds, Some(Instant::now()))? {
                return Poll::Ready(Ok(ready));
            }
            if changed.is_empty() {
                return Poll::Pending;
            }
            // What comes between the look and this is a change of its own, and stays.
            changed.iter_mut().for_each(|guard| guard.clear_ready());
        }
    })
    .await
}

/// The tear-down waits for the agent's end, and for cgroups to be empty. It goes on if the one who waits for it does not.
async fn end_in_background(remains: Remains, agent_ended: bool) {
    let at_once = agent_ended && matches!(&remains, Remains::Own { cgroup: None, .. });
    let nothing = matches!(&remains, Remains::Own { live: None, cgroup: None });
    if at_once || nothing {
        return remains.end();
    }
    // It fails only with the runtime, and what is dropped then is ended by that.
    let _ = spawn_blocking(move || remains.end()).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// An agent that is slow to end holds up who waits for that, and no other task.
    #[test]
    fn a_tear_down_that_takes_long() {
        let container = crate::Sandbox::new().pid_ns().start().unwrap();
        let live = Arc::clone(&container.inner().live);
        let slow = {
            let live = Arc::clone(&live);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(400));
                live.end();
            })
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let remains = Remains::Own { live: Some(Arc::clone(&live)), cgroup: None };
            let waiting = tokio::spawn(end_in_background(remains, false));
            let mut turns = 0;
            while !waiting.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                turns += 1;
            }
            assert!(turns > 10, "{turns}");
        });
        assert!(live.has_ended());
        slow.join().unwrap();
    }
}
