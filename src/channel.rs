//! The typed channel between the host and a plugin, and memory that both see.
//!
//! A message is one packet of a SEQPACKET socket: `Head`, then the value as `codec` writes it; one that is too large for a
//! packet lies in a sealed memfd that comes along. So there is never a part of a message to wait for, and a receiver that
//! has got nonsense is at the beginning of the next one. Nothing that comes is believed: see `Incoming`.
#![allow(unsafe_code)] // shared memory, and descriptors that are inherited by their number

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair,
    sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, Trouble};
use crate::error::Error;
use crate::fork::DEFAULT_LIMIT;
use crate::launch::{Sealed, above_streams};

/// A channel to a plugin, or to the host: what is sent is an `Out`, what comes is an `In`.
///
/// The other end belongs to a closure, or to a program that was executed, which inherits its descriptor. The host need not
/// trust it: whatever comes is either an `In` of at most [`limit`](Channel::limit) bytes, or an error, after
/// [`timeout`](Channel::timeout) at the latest. With an error the channel stays as it is; whoever has sent nonsense
/// once is best [killed](crate::Child::kill).
///
/// ```
/// use stockade::{Channel, Sandbox};
///
/// # fn main() -> Result<(), stockade::Error> {
/// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
/// let (ours, theirs) = Channel::<String, usize>::pair()?;
/// let plugin = Sandbox::new().pid_ns().closure().fd(3, theirs.into_fd()).spawn(|| {
///     let Ok(host) = Channel::<usize, String>::inherited(3) else { return 1 };
///     while let Ok(text) = host.receive() {
///         let _ = host.send(&text.len());
///     }
///     0
/// })?;
/// assert_eq!(ours.call(&"four".to_owned())?, 4);
/// drop(ours);
/// assert!(plugin.wait()?.success());
/// # Ok(())
/// # }
/// ```
///
/// Several threads may send and receive at once; which of them gets which message is not said.
#[derive(Debug)]
pub struct Channel<Out, In> {
    socket: Socket,
    limit: usize,
    timeout: Option<Duration>,
    of: PhantomData<fn(Out) -> In>,
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    ending: Option<Ending>,
}

/// Of one of two descriptors that this process has for the same end: the other side must hear of its drop all the same.
#[derive(Debug)]
struct Ending {
    copy: Option<OwnedFd>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            let _ = shutdown(copy, Shutdown::Both);
        }
    }
}

/// How long the other side may take, unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most descriptors that may come with a message.
const MOST_FDS: usize = 16;
/// Bytes of a value that go into the packet itself.
const IN_PACKET: usize = 16 << 10;

/// What stands before a value.
#[derive(Clone, Copy)]
struct Head {
    /// One of the next two.
    place: u32,
    /// Of the value.
    len: u32,
    /// Descriptors of the caller's.
    fds: u32,
}

impl Head {
    /// The value follows.
    const HERE: u32 = 1;
    /// It lies in the first of the descriptors.
    const THERE: u32 = 2;
    const LEN: usize = 12;

    fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (slot, word) in bytes.as_chunks_mut().0.iter_mut().zip([self.place, self.len, self.fds]) {
            *slot = word.to_ne_bytes();
        }
        bytes
    }
    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(Self::LEN)?;
        let [place, len, fds] = head.as_chunks().0 else { return None };
        let [place, len, fds] = [place, len, fds].map(|word| u32::from_ne_bytes(*word));
        Some((Self { place, len, fds }, rest))
    }
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { what: "a message", reason: reason.into() }
}

impl<Out, In> Channel<Out, In> {
    /// Both ends: the host's, and the one to hand over by its [descriptor](Channel::into_fd).
    ///
    /// ```
    /// # use stockade::Channel;
    /// let (host, plugin) = Channel::<String, usize>::pair()?;
    /// host.send(&"four".to_owned())?;
    /// assert_eq!(plugin.receive()?, "four");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the host may not open more descriptors.
    #[allow(clippy::type_complexity)] // each end with its own name says more
    pub fn pair() -> Result<(Channel<Out, In>, Channel<In, Out>), Error> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::host("make a channel"))?;
        let [one, other] = [one, other].map(|fd| above_streams(fd).map_err(Error::host("make a channel")));
        Ok((Channel::new(one?, None), Channel::new(other?, None)))
    }

    fn new(fd: OwnedFd, ending: Option<Ending>) -> Self {
        let socket = Socket { fd, ending };
        Self { socket, limit: DEFAULT_LIMIT, timeout: Some(PATIENCE), of: PhantomData }
    }

    /// From a descriptor: an end that came as one.
    ///
    /// ```
    /// # use stockade::{Channel, Error};
    /// let (ours, theirs) = Channel::<u32, u32>::pair()?;
    /// let again = Channel::<u32, u32>::from_fd(theirs.into_fd())?;
    /// again.send(&7)?;
    /// assert_eq!(ours.receive()?, 7);
    /// let file = tempfile::tempfile().unwrap();
    /// assert!(matches!(Channel::<u32, u32>::from_fd(file), Err(Error::Invalid { .. })));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is no end of a channel.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        let fd = fd.into();
        Self::check(fd.as_fd())?;
        Ok(Self::new(fd, None))
    }

    /// In a plugin: the end that it was handed as this number ([`Closure::fd`](crate::Closure::fd),
    /// [`Command::fd`](crate::Command::fd)). It waits for the host as long as that takes, without a
    /// [`timeout`](Channel::timeout). The number stays open as well; when this is dropped the channel ends all the same.
    ///
    /// ```
    /// # use stockade::{Channel, Sandbox};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// let (ours, theirs) = Channel::<u32, u32>::pair()?;
    /// let plugin = Sandbox::new().pid_ns().closure().fd(3, theirs.into_fd()).spawn(|| {
    ///     let host = Channel::<u32, u32>::inherited(3);
    ///     host.and_then(|host| host.send(&(host.receive()? + 1))).map_or(1, |()| 0)
    /// })?;
    /// assert_eq!(ours.call(&1)?, 2);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is no end of a channel; [`Error::Host`] if nothing has that number.
    pub fn inherited(number: u32) -> Result<Self, Error> {
        let fd = copy_of(number)?;
        Self::check(fd.as_fd())?;
        let copy = fd.try_clone().map_err(Error::host("take an inherited descriptor"))?;
        Ok(Self::new(fd, Some(Ending { copy: Some(copy) })).timeout(None))
    }

    fn check(fd: BorrowedFd<'_>) -> Result<(), Error> {
        let local = sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX);
        if local && sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET) {
            Ok(())
        } else {
            Err(Error::invalid("channel", "the descriptor is no end of a channel"))
        }
    }

    /// Its descriptor, to be handed over. The channel goes with it.
    ///
    /// ```
    /// # use stockade::{Channel, Sandbox};
    /// let (ours, theirs) = Channel::<String, String>::pair()?;
    /// let mut command = Sandbox::new().command("true");
    /// command.fd(3, theirs.into_fd());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn into_fd(self) -> OwnedFd {
        let Socket { fd, ending } = self.socket;
        if let Some(mut ending) = ending {
            ending.copy = None;
        }
        fd
    }

    /// How many bytes a message may have, sent or received; 1 MiB unless set. As many elements may be in it, whatever their
    /// size.
    ///
    /// ```
    /// # use stockade::{Channel, Error};
    /// let (ours, _theirs) = Channel::<String, String>::pair()?;
    /// let ours = ours.limit(10);
    /// assert!(matches!(ours.send(&"more than ten".to_owned()), Err(Error::Invalid { .. })));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// How long to wait for room to send, and for a message: each time anew. Unless set it is 30 s, and without end for one
    /// that was [inherited](Channel::inherited).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use stockade::{Channel, Error};
    /// let (ours, _theirs) = Channel::<u32, u32>::pair()?;
    /// let ours = ours.timeout(Duration::from_millis(10));
    /// assert!(matches!(ours.receive(), Err(Error::NoAnswer { .. })));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.timeout = limit.into();
        self
    }

    fn put(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let deadline = self.deadline();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS + 1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(fds));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket.fd, &[IoSlice::new(packet)], &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::ChannelClosed),
                Err(errno) => return Err(Error::host("send a message")(errno)),
            }
        }
    }

    fn take(&self) -> Result<Incoming, Error> {
        let deadline = self.deadline();
        let mut buffer = vec![0; Head::LEN + IN_PACKET + 1];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS + 1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(&self.socket.fd, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags) {
                Ok(received) => received,
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::IN, deadline)?;
                    continue;
                }
                // The other side ended with something of ours unread. That is told once, ahead of what it had sent before.
                Err(Errno::INTR | Errno::CONNRESET) => continue,
                Err(errno) => return Err(Error::host("receive a message")(errno)),
            };
            let mut fds = vec![];
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(malformed(format!("more than {MOST_FDS} descriptors, or than this process may open")));
            }
            if received.bytes == 0 {
                return Err(Error::ChannelClosed);
            }
            buffer.truncate(received.bytes);
            return Ok(Incoming { packet: buffer, fds });
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    fn wait(&self, what: PollFlags, deadline: Option<Instant>) -> Result<(), Error> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&self.socket.fd, what)], left.as_ref()) {
            Ok(0) => Err(Error::NoAnswer { limit: self.timeout.unwrap_or_default() }),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::host("wait for the other side")(errno)),
        }
    }
}

impl<Out: Serialize, In> Channel<Out, In> {
    /// Sends a message.
    ///
    /// ```
    /// # use stockade::{Channel, Error};
    /// let (ours, theirs) = Channel::<u32, u32>::pair()?;
    /// ours.send(&7)?;
    /// drop(theirs);
    /// assert!(matches!(ours.send(&8), Err(Error::ChannelClosed)));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ChannelClosed`] if the other end is; [`Error::NoAnswer`] if the other side does not take what was sent
    /// before; [`Error::Invalid`] if the message is too large.
    pub fn send(&self, message: &Out) -> Result<(), Error> {
        self.send_with(message, &[])
    }

    /// Sends a message and up to 16 descriptors, of which the other side gets copies.
    ///
    /// ```
    /// # use stockade::Channel;
    /// use std::os::fd::AsFd as _;
    /// let (ours, theirs) = Channel::<u32, u32>::pair()?;
    /// let (_reader, writer) = std::io::pipe().unwrap();
    /// ours.send_with(&7, &[writer.as_fd()])?;
    /// assert_eq!(theirs.receive_with()?.1.len(), 1);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`send`](Channel::send).
    pub fn send_with(&self, message: &Out, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        if fds.len() > MOST_FDS {
            return Err(Error::invalid("fds", format!("more than {MOST_FDS} descriptors")));
        }
        let bytes = codec::encode(message, self.limit).map_err(|trouble| match trouble {
            Trouble::TooLarge => Error::invalid("message", format!("more than {} bytes", self.limit)),
            Trouble::Other(reason) => Error::invalid("message", reason),
        })?;
        let head = |place| Head {
            place,
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            fds: u32::try_from(fds.len()).unwrap_or(u32::MAX),
        };
        if bytes.len() <= IN_PACKET {
            let packet = [&head(Head::HERE).encode()[..], &bytes].concat();
            return self.put(&packet, fds);
        }
        let memory = Sealed::new(c"stockade-message", &bytes)?;
        let all: Vec<_> = std::iter::once(memory.as_fd()).chain(fds.iter().copied()).collect();
        self.put(&head(Head::THERE).encode(), &all)
    }
}

impl<Out, In: DeserializeOwned> Channel<Out, In> {
    /// Waits for a message. Descriptors that come along are closed.
    ///
    /// ```
    /// # use stockade::{Channel, Error};
    /// let (ours, theirs) = Channel::<u32, String>::pair()?;
    /// let liar = Channel::<u8, u8>::from_fd(theirs.into_fd())?; // the other side has its own idea of what is sent
    /// liar.send(&255)?;
    /// assert!(matches!(ours.receive(), Err(Error::Malformed { .. })));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ChannelClosed`] if the other end is; [`Error::NoAnswer`] if none comes in time; [`Error::Malformed`] if what
    /// comes is no `In`, or too large, or has too many descriptors with it.
    pub fn receive(&self) -> Result<In, Error> {
        self.receive_with().map(|(message, _)| message)
    }

    /// Waits for a message, and takes the descriptors that come along: 16 at most, close-on-exec. They may be anything; to read
    /// one that a plugin has made up can take for ever.
    ///
    /// ```
    /// # use stockade::{Channel, Region};
    /// use std::os::fd::AsFd as _;
    /// let (ours, theirs) = Channel::<u32, u32>::pair()?;
    /// let region = Region::read_write(4096)?;
    /// ours.send_with(&1, &[region.as_fd()])?;
    /// let (_, fds) = theirs.receive_with()?;
    /// assert_eq!(Region::open(fds.into_iter().next().unwrap(), 4096)?.len(), 4096);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`receive`](Channel::receive).
    pub fn receive_with(&self) -> Result<(In, Vec<OwnedFd>), Error> {
        self.take()?.open(self.limit)
    }
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// Sends a message, and waits for one.
    ///
    /// ```
    /// # use stockade::Channel;
    /// let (ours, theirs) = Channel::<u32, u32>::pair()?;
    /// let other = std::thread::spawn(move || theirs.receive().and_then(|n| theirs.send(&(n * 2))));
    /// assert_eq!(ours.call(&21)?, 42);
    /// other.join().unwrap()?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`send`](Channel::send) and [`receive`](Channel::receive).
    pub fn call(&self, message: &Out) -> Result<In, Error> {
        self.send(message)?;
        self.receive()
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    /// Readable when a message waits, or the other end is closed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }
}

/// The seals of what never changes.
const SEALED: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// What came in one packet, as it is.
struct Incoming {
    packet: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Incoming {
    /// What it says must be what is there, to the byte and the descriptor.
    fn open<In: DeserializeOwned>(mut self, limit: usize) -> Result<(In, Vec<OwnedFd>), Error> {
        let Some((head, rest)) = Head::decode(&self.packet) else { return Err(malformed("it is too short")) };
        let len = usize::try_from(head.len).unwrap_or(usize::MAX);
        if len > limit {
            return Err(malformed(format!("it has {len} bytes, of {limit} at most")));
        }
        let of_memory = usize::from(head.place == Head::THERE);
        if self.fds.len().checked_sub(of_memory) != usize::try_from(head.fds).ok()
            || self.fds.len() > MOST_FDS + of_memory
        {
            return Err(malformed("it has not as many descriptors as it says"));
        }
        let message = match head.place {
            Head::HERE if rest.len() == len => codec::decode(rest, limit),
            Head::THERE if rest.is_empty() => codec::decode(&read_sealed(self.fds.remove(0), len)?, limit),
            _ => return Err(malformed("it is not as long as it says")),
        };
        Ok((message.map_err(|trouble| malformed(trouble.to_string()))?, self.fds))
    }
}

/// Reads memory that can change no more. Whatever else came could keep the reader waiting, or change under its eyes.
fn read_sealed(memory: OwnedFd, len: usize) -> Result<Vec<u8>, Error> {
    let seals = seals_of(&memory).ok_or_else(|| malformed("it lies in something that is no memory"))?;
    let found = fstat(&memory).map_err(Error::host("receive a message"))?.st_size;
    if !seals.contains(SEALED) || usize::try_from(found) != Ok(len) {
        return Err(malformed("it lies in memory that is not sealed, or not as long as it says"));
    }
    let mut bytes = vec![0; len];
    File::from(memory).read_exact_at(&mut bytes, 0).map_err(|error| malformed(error.to_string()))?;
    Ok(bytes)
}

/// None of anything but a memfd of ordinary pages. Those of huge ones may run out, which is SIGBUS for whoever looks.
fn seals_of(memory: &OwnedFd) -> Option<SealFlags> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let seals = fcntl_get_seals(memory).ok()?;
    let kind = u64::try_from(fstatfs(memory).ok()?.f_type).ok()?;
    (kind == TMPFS_MAGIC).then_some(seals)
}

/// One more descriptor of what has this number.
fn copy_of(number: u32) -> Result<OwnedFd, Error> {
    let raw = i32::try_from(number).ok().filter(|raw| *raw >= 0);
    let raw = raw.ok_or_else(|| Error::invalid("inherited", format!("no descriptor has the number {number}")))?;
    // SAFETY: only for this one call, which says so if nothing has the number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    rustix::io::fcntl_dupfd_cloexec(borrowed, 3).map_err(Error::host("take an inherited descriptor"))
}

/// Memory that host and plugin both see, for what is too much to be sent: it is mapped on both sides, and not copied on its
/// way.
///
/// Its size is sealed, so that the other side cannot cut it off under the reader's eyes, which would end him by SIGBUS; one
/// that comes from the other side is checked for that. What is in it can change at any time, and is no Rust reference
/// therefore: it is copied out and in, or reached by a raw [pointer](Region::as_ptr). Check a copy, never the region.
///
/// It is handed over by its descriptor ([`AsFd`]), with a message ([`Channel::send_with`]) or at the start
/// ([`Closure::fd`](crate::Closure::fd)).
///
/// ```
/// use std::os::fd::AsFd as _;
/// use stockade::Region;
///
/// let ours = Region::read_only(1 << 20)?;
/// ours.write(100, b"for all to see")?;
/// let theirs = Region::open(ours.as_fd().try_clone_to_owned().unwrap(), 1 << 20)?;
/// let mut seen = [0; 14];
/// theirs.read(100, &mut seen)?;
/// assert_eq!(&seen, b"for all to see");
/// assert!(theirs.write(0, b"x").is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct Region {
    memory: OwnedFd,
    base: *mut u8,
    len: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all that is done to it by shared references are volatile
// accesses, which are made for memory that others change.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Memory of so many bytes that both sides may write to, all zero.
    ///
    /// ```
    /// # use stockade::Region;
    /// let region = Region::read_write(4096)?;
    /// region.write(0, b"hello")?;
    /// assert!(region.is_writable());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for none at all; [`Error::Host`] if there is no room for it.
    pub fn read_write(len: usize) -> Result<Region, Error> {
        let region = Self::make(len)?;
        region.seal(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(region)
    }

    /// The same, but only through this value it can be written to: whoever else has its descriptor can read it
    /// (`F_SEAL_FUTURE_WRITE`).
    ///
    /// ```
    /// # use stockade::Region;
    /// use std::os::fd::AsFd as _;
    /// let ours = Region::read_only(4096)?;
    /// let theirs = Region::open(ours.as_fd().try_clone_to_owned().unwrap(), 4096)?;
    /// assert!(ours.is_writable() && !theirs.is_writable());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`read_write`](Region::read_write).
    pub fn read_only(len: usize) -> Result<Region, Error> {
        let region = Self::make(len)?;
        region.seal(SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
        Ok(region)
    }

    fn make(len: usize) -> Result<Region, Error> {
        let size = u64::try_from(len).ok().filter(|size| *size > 0 && i64::try_from(*size).is_ok());
        let size = size.ok_or_else(|| Error::invalid("region", format!("{len} bytes")))?;
        let memory = memfd_create(c"stockade-region", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let memory = above_streams(memory.map_err(failed)?).map_err(failed)?;
        ftruncate(&memory, size).map_err(failed)?;
        Self::map(memory, len, true)
    }

    fn seal(&self, seals: SealFlags) -> Result<(), Error> {
        fcntl_add_seals(&self.memory, seals).map_err(Error::host("seal shared memory"))
    }

    /// From the other side's descriptor. It is checked to be memory whose size is sealed, of at most `limit` bytes; whether it
    /// can be written to is as the other side has it.
    ///
    /// ```
    /// # use stockade::{Error, Region};
    /// let file = tempfile::tempfile().unwrap(); // its size could change under the reader's eyes
    /// assert!(matches!(Region::open(file, 4096), Err(Error::Malformed { .. })));
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if it is anything else; [`Error::Host`] if there is no room for it.
    pub fn open(memory: impl Into<OwnedFd>, limit: usize) -> Result<Region, Error> {
        let memory = memory.into();
        let malformed = |reason: String| Error::Malformed { what: "a region", reason };
        let seals = seals_of(&memory).ok_or_else(|| malformed("it is no memory".into()))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(malformed("its size is not sealed: whoever looks at it could be ended by SIGBUS".into()));
        }
        let size = fstat(&memory).map_err(failed)?.st_size;
        let len = usize::try_from(size).ok().filter(|len| (1..=limit).contains(len));
        let len = len.ok_or_else(|| malformed(format!("it has {size} bytes, of {limit} at most")))?;
        match Self::map(memory.try_clone().map_err(failed)?, len, true) {
            // Sealed, or open for reading only.
            Err(Error::Host { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::map(memory, len, false)
            }
            result => result,
        }
    }

    /// In a plugin: the region that it was handed as this number, of at most `limit` bytes.
    ///
    /// ```
    /// # use stockade::{Region, Sandbox};
    /// # if std::fs::read_dir("/proc/self/task").unwrap().count() > 1 { return Ok(()) }
    /// use std::os::fd::AsFd as _;
    /// let region = Region::read_write(4096)?;
    /// let closure = Sandbox::new().pid_ns().closure().fd(4, region.as_fd().try_clone_to_owned().unwrap());
    /// closure.run(|| Region::inherited(4, 4096).and_then(|shared| shared.write(0, b"done")).is_ok())?;
    /// let mut seen = [0; 4];
    /// region.read(0, &mut seen)?;
    /// assert_eq!(&seen, b"done");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`open`](Region::open); [`Error::Host`] if nothing has that number.
    pub fn inherited(number: u32, limit: usize) -> Result<Region, Error> {
        Self::open(copy_of(number)?, limit)
    }

    fn map(memory: OwnedFd, len: usize, writable: bool) -> Result<Region, Error> {
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping, which nothing else refers to.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, &memory, 0) };
        let base = base.map_err(failed)?.cast();
        Ok(Region { memory, base, len, writable })
    }

    /// How many bytes it has: 1 or more.
    ///
    /// ```
    /// # use stockade::Region;
    /// assert_eq!(Region::read_write(100)?.len(), 100);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[allow(clippy::len_without_is_empty)] // never
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether this side may write to it.
    ///
    /// ```
    /// # use stockade::Region;
    /// assert!(Region::read_only(100)?.is_writable()); // here; not for who is handed its descriptor
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Copies out of it. What others write meanwhile may be in the copy in part.
    ///
    /// ```
    /// # use stockade::Region;
    /// let region = Region::read_write(8)?;
    /// let mut bytes = [1; 8];
    /// region.read(0, &mut bytes)?;
    /// assert_eq!(bytes, [0; 8]);
    /// assert!(region.read(1, &mut bytes).is_err()); // beyond its end
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it does not have that many bytes.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        let from = self.place(offset, to.len())?;
        let (head, words) = split(from, to.len());
        let (head, rest) = to.split_at_mut(head);
        let (middle, tail) = rest.split_at_mut(words * WORD);
        // SAFETY: `place` has found all of it to be inside the mapping, and `split` where words are aligned; whatever is there
        // is a byte, or eight. Volatile, since others may write to it.
        unsafe {
            for (i, slot) in head.iter_mut().enumerate() {
                *slot = from.add(i).read_volatile();
            }
            let from = from.add(head.len());
            for (i, slot) in middle.as_chunks_mut().0.iter_mut().enumerate() {
                *slot = from.cast::<u64>().add(i).read_volatile().to_ne_bytes();
            }
            for (i, slot) in tail.iter_mut().enumerate() {
                *slot = from.add(words * WORD + i).read_volatile();
            }
        }
        Ok(())
    }

    /// Copies into it.
    ///
    /// ```
    /// # use stockade::Region;
    /// let region = Region::read_write(8)?;
    /// region.write(6, b"ab")?;
    /// assert!(region.write(7, b"ab").is_err()); // beyond its end
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it does not have that many bytes, or is only to be read.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        if !self.writable {
            return Err(Error::invalid("region", "it is only to be read here"));
        }
        let to = self.place(offset, from.len())?;
        let (head, words) = split(to, from.len());
        let (head, rest) = from.split_at(head);
        let (middle, tail) = rest.split_at(words * WORD);
        // SAFETY: as above, and it was mapped to be written to.
        unsafe {
            for (i, byte) in head.iter().enumerate() {
                to.add(i).write_volatile(*byte);
            }
            let to = to.add(head.len());
            for (i, word) in middle.as_chunks().0.iter().enumerate() {
                to.cast::<u64>().add(i).write_volatile(u64::from_ne_bytes(*word));
            }
            for (i, byte) in tail.iter().enumerate() {
                to.add(words * WORD + i).write_volatile(*byte);
            }
        }
        Ok(())
    }

    fn place(&self, offset: usize, len: usize) -> Result<*mut u8, Error> {
        match offset.checked_add(len) {
            // SAFETY: inside the mapping, or just at its end.
            Some(end) if end <= self.len => Ok(unsafe { self.base.add(offset) }),
            _ => Err(Error::invalid("region", format!("it has {} bytes: there are no {len} at {offset}", self.len))),
        }
    }

    /// Where it is mapped, for as long as this value lives. Others may write to it at any time: no reference may be made of it,
    /// and what is read must be read once.
    ///
    /// ```
    /// # use stockade::Region;
    /// let region = Region::read_write(8)?;
    /// region.write(0, &[7])?;
    /// // SAFETY: inside of it, and a byte is a byte whatever others write.
    /// assert_eq!(unsafe { region.as_ptr().read_volatile() }, 7);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }
}

const WORD: usize = size_of::<u64>();

/// How many of so many bytes come before the first aligned word, and how many words there are.
fn split(place: *mut u8, len: usize) -> (usize, usize) {
    let head = place.align_offset(WORD).min(len);
    (head, (len - head) / WORD)
}

fn failed(error: impl Into<std::io::Error>) -> Error {
    Error::host("make shared memory")(error.into())
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

impl AsFd for Region {
    /// To be handed over: with it the other side has the region.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}
