//! The messages between the host and what it has started: one packet each, with the descriptors that come along.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::error::Error;
use crate::plan::{self, Sink as _, Wire as _, message};

/// The two ends of a door.
pub(crate) fn door() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Error::host("make a control socket"))
}

pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Sends a message with all its descriptors, in as many packets as it takes. All of them wait in the socket until they are
/// read, so that the host need not have them open at once.
pub(super) fn hand_over(control: &OwnedFd, number: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let (first, rest) = fds.split_at(fds.len().min(plan::FDS_PER_MESSAGE as usize));
    send(control, number, body, first)?;
    rest.chunks(plan::FDS_PER_MESSAGE as usize).try_for_each(|fds| send(control, message::DESCRIPTORS, &[], fds))
}

pub(crate) fn send(control: &OwnedFd, number: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let mut packet = vec![];
    number.encode(&mut packet);
    packet.put(body);
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(control, &[IoSlice::new(&packet)], &mut ancillary, flags) {
        // Its end is what there is to know then, and that is heard elsewhere.
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        Err(errno) => Err(Error::host("hand over descriptors")(errno)),
    }
}

/// What came.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) number: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    /// The process in whose name it was sent.
    pub(crate) sender: Option<u32>,
    /// Descriptors came along that this process has no room for.
    pub(super) truncated: bool,
}

impl Packet {
    fn end() -> Self {
        Self { number: message::EOF, body: vec![], fds: vec![], sender: None, truncated: false }
    }
}

/// Takes one packet, if there is one. The end of the other side is [`message::EOF`].
pub(crate) fn receive(control: &OwnedFd) -> Result<Option<Packet>, Error> {
    receive_raw(control).map_err(Error::host("hear from the sandbox"))
}

pub(super) fn receive_raw(control: &OwnedFd) -> Result<Option<Packet>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0u8; 256];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(control, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            // The other side ended with something of ours unread. That is told once, ahead of what it had sent before.
            Err(Errno::CONNRESET) => {}
            result => break result?,
        }
    };
    let mut packet = Packet { truncated: received.flags.contains(ReturnFlags::CTRUNC), ..Packet::end() };
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(fds) => packet.fds.extend(fds),
            RecvAncillaryMessage::ScmCredentials(sender) => {
                packet.sender = u32::try_from(sender.pid.as_raw_nonzero().get()).ok();
            }
            _ => {}
        }
    }
    if let Some((number, body)) = buffer.get(..received.bytes).and_then(|bytes| bytes.split_first_chunk::<4>()) {
        packet.number = u32::from_ne_bytes(*number);
        packet.body = body.to_vec();
    }
    Ok(Some(packet))
}

/// Waits until one of them is ready; `None` when the time is over.
pub(crate) fn wait_for<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> Result<Option<[bool; N]>, Error> {
    let mut set = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut set, left.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(set.map(|entry| !entry.revents().is_empty()))),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::host("wait")(errno)),
        }
    }
}
