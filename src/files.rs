//! The files of a sandbox, as the host may use them.
//!
//! A program that ran in a sandbox may have left anything there: links to the host's files, FIFOs that nobody writes to,
//! devices, further names of somebody else's file. So no path is resolved by way of a link, and no file is used that is
//! not a plain one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::CapabilitySet;

use crate::error::Error;
use crate::launch::{self, Live};
use crate::plan::{Failure, decode, message};

/// What one call of [`Files::remove_dir_all`] may remove, so that a program that makes files meanwhile cannot hold it up.
const MOST_REMOVED: usize = 1 << 20;

/// How many names of directories are kept at once while one is emptied.
const BATCH: usize = 1024;

/// The files in a sandbox, from its root on; from [`Container::files`](crate::Container::files).
///
/// What lies there is the work of a program that nobody trusts, and it may still run. Therefore
///
/// - no symbolic link is followed, wherever in the path (`openat2(2)` with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
///   `RESOLVE_NO_MAGICLINKS`), and a path with `..` is [`Error::Invalid`];
/// - only plain files are read: no FIFO, device, socket, directory, no file of procfs, sysfs or a cgroup, and none that has
///   several names (a hard link may be to somebody else's file in a directory that both can reach);
/// - what is read has a limit, also if it grows meanwhile; more than that is an error, never a part;
/// - a file is written as a new one that takes the place of what had its name, whatever that was: nothing that is there
///   is ever opened for writing;
/// - nothing waits for the program: not for a FIFO's other end, not for a lease (`fcntl(2)`) to be given up.
///
/// Paths are the sandbox's; with or without the leading slash they begin at its root. They lead through its mounts, also
/// into directories of the host that were bound there: what is bound read-only can only be read. A mount point itself is
/// neither replaced nor removed. Without a mount namespace the root is the directory of [`chroot`](crate::Sandbox::chroot);
/// without that, it is the host's own.
///
/// What is made belongs to the user and group that programs in the sandbox run as, if the host process may give files to
/// others (`CAP_SETUID` and `CAP_SETGID`): a short-lived thread of it takes on their ids, and meanwhile the process cannot
/// dump core. Else it belongs to the host process's user. The host process needs the right to what it reads as well, so
/// that an ordinary user cannot read what a program of its own has shut with `chmod 000`.
///
/// The value stays usable when the container has ended, and so the writable layers (tmpfs, overlay) are still there to be
/// read; they are freed with the last clone of it. What a program has mounted itself (it needs `CAP_SYS_ADMIN`) is seen as
/// it was when [`Container::files`](crate::Container::files) was called.
///
/// It does not lock anything: two that write the same file, or a program that moves directories about, can make each
/// other's calls fail.
///
/// ```
/// use stockade::{Rootfs, Sandbox};
///
/// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
/// let files = container.files()?;
/// files.write("/tmp/input", "3 4\n")?;
/// let script = "read a b < /tmp/input; echo $((a + b)) > /tmp/answer; ln -s /proc/self/status /tmp/trap";
/// assert!(container.command("sh").args(["-c", script]).status()?.success());
/// container.kill();
/// assert_eq!(files.read("/tmp/answer", 1024)?, b"7\n");
/// assert!(files.read("/tmp/trap", 1 << 20).is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Files {
    root: Arc<OwnedFd>,
    /// Whom new files belong to, if not to this process's user.
    owner: Option<Owner>,
}

/// What kind of file something is (`S_IFMT`).
///
/// ```
/// # use stockade::{Rootfs, Sandbox};
/// # use stockade::files::FileKind;
/// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
/// assert_eq!(container.files()?.metadata("/tmp")?.kind, FileKind::Directory);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A plain one.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device of blocks.
    BlockDevice,
    /// A device of characters.
    CharDevice,
    /// Nothing that this library knows.
    Unknown,
}

impl FileKind {
    fn of(mode: u32) -> Self {
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::BlockDevice => "a block device",
            Self::CharDevice => "a character device",
            Self::Unknown => "something unknown",
        })
    }
}

/// What a directory holds.
///
/// ```
/// # use stockade::{Rootfs, Sandbox};
/// # use stockade::files::FileKind;
/// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
/// let files = container.files()?;
/// files.write("/tmp/input", "3 4\n")?;
/// let entry = files.list("/tmp", 10)?.remove(0);
/// assert_eq!((entry.name.to_str(), entry.kind, entry.size), (Some("input"), FileKind::File, 4));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its name: any bytes but a slash.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes, as the file system has it; a sparse file holds less.
    pub size: u64,
}

/// About one file; from [`Files::metadata`].
///
/// ```
/// # use stockade::{Rootfs, Sandbox};
/// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
/// let files = container.files()?;
/// files.write("/tmp/input", "3 4\n")?;
/// let found = files.metadata("/tmp/input")?;
/// assert_eq!((found.size, found.mode, found.links), (4, 0o644, 1));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes, as the file system has it; a sparse file holds less.
    pub size: u64,
    /// The permission bits, with set-user-ID, set-group-ID and the sticky bit (`07777`).
    pub mode: u32,
    /// How many names it has.
    pub links: u64,
    /// When it was last changed; the program can set that to anything.
    pub modified: Option<SystemTime>,
}

/// For `map_err`: it is about this path.
fn at<E: Into<io::Error>>(path: &Path) -> impl Fn(E) -> Error + '_ {
    |source| Error::File { path: path.to_owned(), source: source.into() }
}

fn refused(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.into())
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes"))
}

impl Files {
    pub(crate) fn of(live: &Live) -> Result<Self, Error> {
        let inner = &live.prepared.inner;
        if inner.program_is_init {
            return Err(Error::invalid("as_pid_1", "the agent is not inside, and cannot hand over the root"));
        }
        let gone = || Error::AgentLost { reason: "the sandbox has ended".into() };
        if live.has_ended() {
            return Err(gone());
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::host("make a socket"))?;
        live.tell(message::ROOT, &[theirs.as_fd()])?;
        drop(theirs);
        let limit = inner.setup_timeout;
        let deadline = Instant::now().checked_add(limit);
        launch::wait_for([ours.as_fd(), live.agent.pidfd.as_fd()], deadline)?.ok_or(Error::TimedOut { limit })?;
        let Some(mut packet) = launch::receive(&ours)? else { return Err(gone()) };
        match packet.number {
            message::ROOT_IS => {
                let root = packet.fds.pop().ok_or_else(|| Error::host("receive the root")(Errno::MFILE))?;
                Ok(Self { root: Arc::new(root), owner: Owner::of(live) })
            }
            message::FAILED => {
                let errno =
                    decode::<Failure>(&packet.body).map_or(Errno::PROTO.raw_os_error(), |failure| failure.errno);
                Err(at(Path::new("/"))(io::Error::from_raw_os_error(errno)))
            }
            _ => Err(gone()),
        }
    }

    /// The whole of a file, of no more than so many bytes.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.command("sh").args(["-c", "echo 7 > /tmp/answer; ln -s /etc/shadow /tmp/trap"]).status()?;
    /// let files = container.files()?;
    /// assert_eq!(files.read("/tmp/answer", 1024)?, b"7\n");
    /// assert!(files.read("/tmp/answer", 1).is_err()); // it has more
    /// assert!(files.read("/tmp/trap", 1024).is_err()); // a link
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]: it is not there, it is nothing that is read (see above), or it has more than `limit` bytes. Where a
    /// program holds a lease on it, [`io::ErrorKind::WouldBlock`]; a second attempt may then find it given up.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![];
        self.read_to(path, limit, &mut bytes)?;
        Ok(bytes)
    }

    /// The same, to a writer; returns how many bytes it was. After an error some may have been written.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.command("sh").args(["-c", "echo 7 > /tmp/answer"]).status()?;
    /// let mut answer = vec![];
    /// assert_eq!(container.files()?.read_to("/tmp/answer", 1024, &mut answer)?, 2);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`read`](Files::read), and those of the writer.
    pub fn read_to(&self, path: impl AsRef<Path>, limit: u64, to: &mut impl Write) -> Result<u64, Error> {
        let path = path.as_ref();
        let file = self.open(path)?;
        copy_limited(&file, limit, to).map_err(at(path))
    }

    /// Copies a file to a new one on the host, with mode 0600; it must not exist there. Returns how many bytes it was. After
    /// an error no file is left there.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// # let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// # let directory = tempfile::tempdir().expect("a directory");
    /// # let result = directory.path().join("result");
    /// container.command("sh").args(["-c", "echo done > /tmp/result"]).status()?;
    /// container.files()?.copy_out("/tmp/result", &result, 1 << 20)?;
    /// assert_eq!(std::fs::read(&result).expect("it is there"), b"done\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`read`](Files::read), and for the file on the host: it exists ([`io::ErrorKind::AlreadyExists`]), or cannot be
    /// written.
    pub fn copy_out(&self, path: impl AsRef<Path>, host: impl AsRef<Path>, limit: u64) -> Result<u64, Error> {
        let (path, host) = (path.as_ref(), host.as_ref());
        let file = self.open(path)?;
        let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut options = File::options();
        let mut to =
            options.write(true).create_new(true).mode(0o600).custom_flags(no_links).open(host).map_err(at(host))?;
        copy_limited(&file, limit, &mut to).map_err(|error| {
            let _ = fs::remove_file(host);
            at(path)(error)
        })
    }

    /// Writes a file, with mode 0644. It takes the place of what had the name, at once (`rename(2)`): of a file, a link
    /// (not of what that leads to), a FIFO; not of a directory. Until then it is beside it, as `.stockade-` and 32 digits.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.files()?.write("/tmp/input", "3 4\n")?;
    /// assert_eq!(container.command("cat").arg("/tmp/input").output()?.stdout, b"3 4\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]: its directory is not there, is not writable (EROFS) or is full (ENOSPC); there is a directory of
    /// that name, or a mount ([`io::ErrorKind::InvalidInput`]).
    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write_with_mode(path, bytes, 0o644)
    }

    /// The same, with other permission bits (`0777` at most).
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// # let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.files()?.write_with_mode("/tmp/run", "#!/bin/sh\necho it runs\n", 0o755)?;
    /// assert_eq!(container.command("/tmp/run").output()?.stdout, b"it runs\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`write`](Files::write); [`Error::Invalid`] for other bits.
    pub fn write_with_mode(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>, mode: u32) -> Result<(), Error> {
        if mode > 0o777 {
            return Err(Error::invalid("write_with_mode", format!("{mode:o} has more than permission bits")));
        }
        self.put(path.as_ref(), mode, &mut bytes.as_ref()).map(drop)
    }

    /// Copies a file of the host into the sandbox, with its permission bits (not set-user-ID and its like), as
    /// [`write`](Files::write) does. Links in the host's path are followed. Returns how many bytes it was.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// # let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// # let directory = tempfile::tempdir().expect("a directory");
    /// # let problem = directory.path().join("problem");
    /// # std::fs::write(&problem, "3 4\n").expect("it is ours");
    /// container.files()?.copy_in(&problem, "/tmp/input")?;
    /// assert_eq!(container.command("cat").arg("/tmp/input").output()?.stdout, b"3 4\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`write`](Files::write), and for the file on the host: it cannot be read, or is not a plain one.
    pub fn copy_in(&self, host: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<u64, Error> {
        let host = host.as_ref();
        let no_wait = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let mut from = File::options().read(true).custom_flags(no_wait).open(host).map_err(at(host))?;
        let metadata = from.metadata().map_err(at(host))?;
        if !metadata.is_file() {
            return Err(at(host)(refused("it is not a plain file")));
        }
        self.put(path.as_ref(), metadata.permissions().mode() & 0o777, &mut from)
    }

    /// What is in a directory, of no more than so many entries, in the order of their names. What comes or goes meanwhile
    /// may be there or not.
    ///
    /// ```
    /// # use stockade::{files::FileKind, Rootfs, Sandbox};
    /// # let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.command("sh").args(["-c", "mkfifo /tmp/pipe; echo x > /tmp/file"]).status()?;
    /// let found: Vec<_> = container.files()?.list("/tmp", 100)?.into_iter().map(|entry| (entry.name, entry.kind)).collect();
    /// assert_eq!(found, [("file".into(), FileKind::File), ("pipe".into(), FileKind::Fifo)]);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]: it is not there, not a directory, or has more entries ([`io::ErrorKind::FileTooLarge`]).
    pub fn list(&self, path: impl AsRef<Path>, limit: usize) -> Result<Vec<Entry>, Error> {
        let path = path.as_ref();
        let directory = self.directory(&names(path)?).map_err(at(path))?;
        list(directory, limit).map_err(at(path))
    }

    /// About one file; of a link, about itself.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// # use stockade::files::FileKind;
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.command("ln").args(["-s", "/", "/tmp/link"]).status()?;
    /// assert_eq!(container.files()?.metadata("/tmp/link")?.kind, FileKind::Symlink);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]: it is not there, or a link is in the way.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, Error> {
        let path = path.as_ref();
        let place = self.place(&names(path)?, OFlags::empty()).map_err(at(path))?;
        let stat = rustix::fs::fstat(&place).map_err(at(path))?;
        let seconds = u64::try_from(stat.st_mtime).ok().map(Duration::from_secs);
        Ok(Metadata {
            kind: FileKind::of(stat.st_mode),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: stat.st_mode & 0o7777,
            #[allow(clippy::useless_conversion)] // its width differs between architectures
            links: stat.st_nlink.into(),
            modified: seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(seconds)),
        })
    }

    /// Makes a directory, with mode 0755 less the host process's umask, in one that exists.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.files()?.create_dir("/tmp/work")?;
    /// assert!(container.command("touch").arg("/tmp/work/file").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]: there is something of that name, or the directory it belongs in is missing or not writable.
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        let make = || rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755));
        self.as_owner(make).map_err(at(path))
    }

    /// Removes a file: a link itself, not what it leads to; not a directory.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.command("ln").args(["-s", "/usr/bin/true", "/tmp/link"]).status()?;
    /// let files = container.files()?;
    /// files.remove_file("/tmp/link")?; // not what it leads to
    /// assert_eq!(files.list("/tmp", 10)?, []);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]: it is not there, its directory is not writable, it is a directory, or a mount.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        let remove = || {
            no_mount(&parent, name)?;
            Ok(rustix::fs::unlinkat(&parent, name, AtFlags::empty())?)
        };
        remove().map_err(at::<io::Error>(path))
    }

    /// Removes a directory with all that is in it, however deep; links themselves, never what they lead to. Directories
    /// that their owner has shut are opened first. It goes by descriptors, so that a program that moves things about
    /// meanwhile can make it fail, and no more than that.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// # let container = Sandbox::new().rootfs(Rootfs::system()).start()?;
    /// container.command("sh").args(["-c", "mkdir -p /tmp/a/b/c; ln -s / /tmp/a/b/root"]).status()?;
    /// let files = container.files()?;
    /// files.remove_dir_all("/tmp/a")?;
    /// assert_eq!(files.list("/tmp", 10)?, []);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]: it is not a directory; there is a mount in it ([`io::ErrorKind::InvalidInput`]); it has more than a
    /// million entries, or is filled as fast as it is emptied. Some of it may be gone then.
    pub fn remove_dir_all(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        Removal { left: MOST_REMOVED }.run(parent, name).map_err(at(path))
    }

    /// A file to read, that was seen to be a plain one before it was opened: to open a device can be an act.
    fn open(&self, path: &Path) -> Result<File, Error> {
        let place = self.place(&names(path)?, OFlags::empty()).map_err(at(path))?;
        check_plain(&place).map_err(at(path))?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(launch::descriptor_path(&place), flags, Mode::empty()).map_err(at(path))?;
        check_plain(&file).map_err(at(path))?;
        Ok(file.into())
    }

    /// Opens a path as a mere place.
    fn place(&self, names: &[&OsStr], flags: OFlags) -> io::Result<OwnedFd> {
        let path: PathBuf = if names.is_empty() { ".".into() } else { names.iter().collect() };
        let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, &path, flags, Mode::empty(), resolve) {
            // An outer filter that does not know the call. Name by name it comes to the same.
            Err(Errno::NOSYS | Errno::PERM) => self.place_by_names(names, flags),
            Err(Errno::LOOP) => Err(refused("there is a symbolic link in the way")),
            place => Ok(place?),
        }
    }

    fn place_by_names(&self, names: &[&OsStr], flags: OFlags) -> io::Result<OwnedFd> {
        let mut place = self.root.try_clone()?;
        let mut rest = names.iter().peekable();
        while let Some(name) = rest.next() {
            let flags = if rest.peek().is_some() { flags | OFlags::DIRECTORY } else { flags };
            place = rustix::fs::openat(&place, *name, flags, Mode::empty())?;
        }
        Ok(place)
    }

    /// A directory to list.
    fn directory(&self, names: &[&OsStr]) -> io::Result<OwnedFd> {
        let place = self.place(names, OFlags::DIRECTORY)?;
        Ok(rustix::fs::openat(&place, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// The directory that a path's last name is in.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Error> {
        let names = names(path)?;
        let Some((name, directories)) = names.split_last() else {
            return Err(Error::invalid("files", "the root itself is neither made nor removed"));
        };
        Ok((self.place(directories, OFlags::DIRECTORY).map_err(at(path))?, name))
    }

    fn put(&self, path: &Path, mode: u32, from: &mut impl Read) -> Result<u64, Error> {
        let (parent, name) = self.parent(path)?;
        self.put_in(&parent, name, mode, from).map_err(at(path))
    }

    /// Writes a file beside its place, and puts it there.
    fn put_in(&self, parent: &OwnedFd, name: &OsStr, mode: u32, from: &mut impl Read) -> io::Result<u64> {
        no_mount(parent, name)?;
        let temporary = temporary_name()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File =
            self.as_owner(|| rustix::fs::openat(parent, &temporary, flags, Mode::RUSR | Mode::WUSR)).map(File::from)?;
        let done = io::copy(from, &mut file).and_then(|len| {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            self.as_owner(|| rustix::fs::renameat(parent, &temporary, parent, name))?;
            Ok(len)
        });
        if done.is_err() {
            let _ = rustix::fs::unlinkat(parent, &temporary, AtFlags::empty());
        }
        done
    }

    /// Does what makes something, in the name of those who are to have it.
    fn as_owner<T: Send>(&self, body: impl FnOnce() -> rustix::io::Result<T> + Send) -> io::Result<T> {
        match &self.owner {
            Some(owner) => owner.act(body),
            None => Ok(body()?),
        }
    }
}

/// The names that a path is made of.
fn names(path: &Path) -> Result<Vec<&OsStr>, Error> {
    let mut names = vec![];
    for component in path.components() {
        match component {
            Component::Normal(name) if name.as_bytes().contains(&0) => {
                return Err(Error::invalid("files", format!("{} has a NUL in it", path.display())));
            }
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::invalid("files", format!("{} has a `..` in it", path.display())));
            }
        }
    }
    Ok(names)
}

/// A name that nobody has, and that a program cannot guess.
fn temporary_name() -> io::Result<String> {
    let mut random = [0u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".stockade-{:032x}", u128::from_ne_bytes(random)))
}

/// Files that are the kernel's own speech: to read them may tell what the host process may know, and no program has
/// written them.
const OF_THE_KERNEL: [(&str, rustix::fs::FsWord); 4] =
    [("procfs", 0x9fa0), ("sysfs", 0x6265_6572), ("a cgroup", 0x0027_e0eb), ("a cgroup", 0x6367_7270)];

/// A file of one name and of no special kind.
fn check_plain(file: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let kind = FileKind::of(stat.st_mode);
    if kind != FileKind::File {
        return Err(refused(format!("it is {kind}")));
    }
    if stat.st_nlink > 1 {
        return Err(refused(format!("it has {} names; one may be outside", stat.st_nlink)));
    }
    let system = rustix::fs::fstatfs(file)?.f_type;
    match OF_THE_KERNEL.iter().find(|(_, magic)| *magic == system) {
        Some((what, _)) => Err(refused(format!("it is a file of {what}"))),
        None => Ok(()),
    }
}

fn copy_limited(file: &File, limit: u64, to: &mut impl Write) -> io::Result<u64> {
    if file.metadata()?.len() > limit {
        return Err(too_large(limit));
    }
    let len = io::copy(&mut file.take(limit), to)?;
    let mut reader = file;
    // It may have grown.
    if len == limit && reader.read(&mut [0])? > 0 {
        return Err(too_large(limit));
    }
    Ok(len)
}

/// A mount there is not in the host's own namespace, and so the kernel would let the host take the place away below it.
fn no_mount(directory: &OwnedFd, name: impl rustix::path::Arg) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(directory, name, flags, StatxFlags::TYPE) {
        Ok(stat) if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => Err(refused("it is a mount")),
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn list(directory: OwnedFd, limit: usize) -> io::Result<Vec<Entry>> {
    let mut found = BTreeMap::new();
    let mut entries = Dir::new(directory)?;
    while let Some(entry) = entries.read().transpose()? {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match rustix::fs::statat(entries.fd()?, name, flags) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        // The same may come twice, where it was made anew.
        let (kind, size) = (FileKind::of(stat.st_mode), u64::try_from(stat.st_size).unwrap_or_default());
        found.insert(OsStr::from_bytes(name.to_bytes()).to_owned(), (kind, size));
        if found.len() > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} entries")));
        }
    }
    Ok(found.into_iter().map(|(name, (kind, size))| Entry { name, kind, size }).collect())
}

/// The emptying of a directory. One descriptor is open at a time, however deep it is.
struct Removal {
    /// How many more may be removed.
    left: usize,
}

/// A directory on the way down.
struct Level {
    /// Its name in the one above.
    name: OsString,
    device: u64,
    inode: u64,
    /// Directories in it that are still to be removed.
    pending: Vec<OsString>,
    /// There may be more than those.
    more: bool,
}

impl Removal {
    fn run(mut self, parent: OwnedFd, name: &OsStr) -> io::Result<()> {
        let mut here = enter(&parent, name)?;
        let mut levels = vec![self.level(&here, name)?];
        while let Some(mut level) = levels.pop() {
            if let Some(name) = level.pending.pop() {
                levels.push(level);
                match enter(&here, &name) {
                    Ok(below) => {
                        here = below;
                        levels.push(self.level(&here, &name)?);
                    }
                    // It is no directory any more, or gone.
                    Err(error) if is_other(&error) => self.remove_file(&here, &name)?,
                    Err(error) => return Err(error),
                }
            } else if level.more {
                self.sweep(&here, &mut level)?;
                levels.push(level);
            } else {
                let above = match levels.last() {
                    Some(above) => back(&here, above)?,
                    None => parent.try_clone()?,
                };
                self.count()?;
                match rustix::fs::unlinkat(&above, &level.name, AtFlags::REMOVEDIR) {
                    // Something was put there meanwhile.
                    Err(Errno::NOTEMPTY) => {
                        level.more = true;
                        levels.push(level);
                    }
                    Ok(()) | Err(Errno::NOENT) => here = above,
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(Errno::NOTEMPTY)?;
        Ok(())
    }

    fn level(&mut self, directory: &OwnedFd, name: &OsStr) -> io::Result<Level> {
        let stat = rustix::fs::fstat(directory)?;
        let (device, inode) = (stat.st_dev, stat.st_ino);
        let mut level = Level { name: name.to_owned(), device, inode, pending: vec![], more: false };
        self.sweep(directory, &mut level)?;
        Ok(level)
    }

    /// Removes all but directories, and takes the names of those.
    fn sweep(&mut self, directory: &OwnedFd, level: &mut Level) -> io::Result<()> {
        level.more = false;
        let mut entries = Dir::read_from(directory)?;
        while let Some(entry) = entries.read().transpose()? {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if entry.file_type() != FileType::Directory {
                match self.remove_file(directory, name) {
                    Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
                    result => {
                        result?;
                        continue;
                    }
                }
            }
            if level.pending.len() == BATCH {
                level.more = true;
                break;
            }
            self.count()?;
            level.pending.push(name.to_owned());
        }
        Ok(())
    }

    fn remove_file(&mut self, directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
        self.count()?;
        no_mount(directory, name)?;
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn is_other(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].map(|errno| Some(errno.raw_os_error())).contains(&error.raw_os_error())
}

/// Opens a directory in another, which is no mount. If its owner has shut it, it is opened to the owner.
fn enter(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    no_mount(directory, name)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(directory, name, flags | OFlags::PATH, Mode::empty())?;
    let stat = rustix::fs::fstat(&place)?;
    let shut = !Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU);
    if shut && rustix::process::geteuid().as_raw() == stat.st_uid {
        rustix::fs::chmod(launch::descriptor_path(&place), Mode::RWXU)?;
    }
    Ok(rustix::fs::openat(&place, ".", flags | OFlags::RDONLY, Mode::empty())?)
}

/// The directory above, if it is still the one that this was entered from.
fn back(directory: &OwnedFd, above: &Level) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(directory, "..", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&parent)?;
    if (stat.st_dev, stat.st_ino) == (above.device, above.inode) {
        Ok(parent)
    } else {
        Err(io::Error::other("it was moved elsewhere while it was removed"))
    }
}

/// Whom new files belong to.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// Only one thread at a time has another's ids.
static TURN: Mutex<()> = Mutex::new(());

impl Owner {
    /// The ids of the sandbox's programs as the host has them, if they are not its own and it can take them on.
    fn of(live: &Live) -> Option<Self> {
        let held = rustix::thread::capabilities(None).ok()?.effective;
        if !held.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
            return None;
        }
        let agent = live.agent_pid()?;
        let ids = &live.prepared.inner.ids;
        let (uid, gid) = (outer(agent, "uid_map", ids.uid)?, outer(agent, "gid_map", ids.gid)?);
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Some(Self { uid, gid }).filter(|_| (uid, gid) != own)
    }

    fn act<T: Send>(self, body: impl FnOnce() -> rustix::io::Result<T> + Send) -> io::Result<T> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // The kernel takes it from the whole process. It is given back when nobody has those ids any more, since with it
        // they could write to some of that thread's files in procfs.
        let dumpable = rustix::process::dumpable_behavior()?;
        let result = thread::scope(|scope| {
            let act = || {
                self.become_it()?;
                Ok(body()?)
            };
            let thread = thread::Builder::new().name("stockade-files".into()).spawn_scoped(scope, act)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended without a word")))
        });
        if dumpable == DumpableBehavior::Dumpable {
            let _ = rustix::process::set_dumpable_behavior(dumpable);
        }
        result
    }

    /// This thread's effective ids, for good. It keeps the right to write where the owner may not.
    fn become_it(self) -> rustix::io::Result<()> {
        rustix::thread::set_thread_res_gid(None, Some(Gid::from_raw(self.gid)), None)?;
        rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(self.uid)), None)?;
        let mut sets = rustix::thread::capabilities(None)?;
        let needed = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER;
        sets.effective = sets.permitted & needed;
        rustix::thread::set_capabilities(None, sets)
    }
}

/// What an id of the sandbox is on the host.
fn outer(agent: u32, map: &str, inner: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{agent}/{map}")).ok()?;
    text.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(from)), Some(Ok(to)), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return None;
        };
        let offset = inner.checked_sub(from).filter(|offset| *offset < count)?;
        to.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_root() {
        let split = |path: &str| names(Path::new(path)).map(|names| names.join(OsStr::new("|"))).ok();
        assert_eq!(split("/a//b/./c/").as_deref(), Some(OsStr::new("a|b|c")));
        assert_eq!(split("a").as_deref(), Some(OsStr::new("a")));
        assert_eq!(split("/").as_deref(), Some(OsStr::new("")));
        for bad in ["..", "/..", "a/../b", "/a/..", "a\0b"] {
            assert!(matches!(names(Path::new(bad)), Err(Error::Invalid { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_removal_ends() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for number in 0..10 {
            fs::write(tree.join(number.to_string()), "").unwrap();
        }
        let parent = || OwnedFd::from(File::open(directory.path()).unwrap());
        let error = Removal { left: 5 }.run(parent(), OsStr::new("tree")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 5);
        Removal { left: 6 }.run(parent(), OsStr::new("tree")).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn the_way_back_is_the_one_it_came() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("tree/below")).unwrap();
        fs::create_dir(at("other")).unwrap();
        let open = |path: &str| OwnedFd::from(File::open(at(path)).unwrap());
        let level = Removal { left: 9 }.level(&open("tree"), OsStr::new("tree")).unwrap();
        assert_eq!(level.pending, ["below"]);
        let below = open("tree/below");
        back(&below, &level).unwrap();
        fs::rename(at("tree/below"), at("other/below")).unwrap();
        back(&below, &level).unwrap_err();
    }
}
