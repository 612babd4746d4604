//! The file system: the root, and what is mounted in it, in the caller's order.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{major, minor};

use crate::error::Error;
use crate::landlock::{Access, Rules};
use crate::plan::{self, mount};
use crate::prepare::Packed;

/// Bytes that a private `/tmp` or `/dev/shm` may hold where nothing else is said.
const DEFAULT_BYTES: u64 = 64 << 20;

/// The most lower layers of an overlay: their names must fit into one option of the kernel's.
const MAX_LOWERS: usize = 64;

/// What the root is.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    /// A directory of the host.
    Directory(PathBuf),
    /// Made for the sandbox.
    Private(Rootfs),
}

/// One operation on the file system.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Bind {
        source: PathBuf,
        target: PathBuf,
        read_only: bool,
    },
    Tmpfs {
        target: PathBuf,
        bytes: u64,
    },
    Proc {
        target: PathBuf,
    },
    Dev {
        target: PathBuf,
    },
    Overlay {
        target: PathBuf,
        overlay: Overlay,
    },
    Mask {
        target: PathBuf,
    },
    Symlink {
        target: PathBuf,
        to: PathBuf,
    },
    Directory {
        target: PathBuf,
    },
    /// What a host's programs need to run, see [`Rootfs::system`].
    System,
}

/// A root that is made for the sandbox and gone with it.
///
/// ```
/// use stockade::{Rootfs, Sandbox};
///
/// let sandbox = Sandbox::new().rootfs(Rootfs::system().read_only()).tmpfs("/work", 16 << 20);
/// assert!(sandbox.command("touch").arg("/work/file").status()?.success());
/// assert!(!sandbox.command("touch").arg("/file").output()?.outcome.success());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rootfs {
    bytes: u64,
    read_only: bool,
    pub(crate) system: bool,
    overlay: Option<Overlay>,
}

impl Rootfs {
    /// An empty tmpfs of 16 MiB. What is mounted in it gets its target made.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::empty()).bind_ro("/", "/host");
    /// assert!(sandbox.command("/no/program").spawn().is_err()); // there is nothing but /host
    /// ```
    pub fn empty() -> Self {
        Self { bytes: 16 << 20, read_only: false, system: false, overlay: None }
    }

    /// An empty tmpfs with what the host's programs need to run: `/usr` read-only; `/bin`, `/lib` and their like, as the
    /// host has them (links, or directories bound read-only); the dynamic linker's cache and the `alternatives` of
    /// `/etc`; `/proc`, `/dev`, and a private `/tmp`. No users, no network configuration, no home.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system());
    /// let output = sandbox.command("ls").arg("/").output()?;
    /// let names = String::from_utf8_lossy(&output.stdout);
    /// assert!(names.contains("usr\n") && !names.contains("home\n"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn system() -> Self {
        Self { system: true, ..Self::empty() }
    }

    /// The overlay as the root: its lowers are not changed, what is written is gone in the end (overlayfs).
    ///
    /// ```
    /// # use stockade::{Overlay, Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::overlay(Overlay::new("/usr")));
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("/bin/touch").arg("/new").status()?.success());
    /// assert!(!std::path::Path::new("/usr/new").exists());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn overlay(overlay: Overlay) -> Self {
        Self { overlay: Some(overlay), ..Self::empty() }
    }

    /// How many bytes may be written to it (tmpfs's `size`); 16 MiB unless said. Zero is [`Error::Invalid`] when the policy is
    /// prepared. Of an overlay it is [`Overlay::size`] that counts.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system().size(1 << 20));
    /// let script = "head -c 2M /dev/zero > /file";
    /// assert!(!sandbox.command("sh").args(["-c", script]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Nothing can be written to the root itself, once all is mounted; what is mounted in it is as it was asked for.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system().read_only());
    /// assert!(!sandbox.command("touch").arg("/file").output()?.outcome.success());
    /// assert!(sandbox.command("touch").arg("/tmp/file").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// Layers: directories of the host, seen as one, with a private layer above for what is written (overlayfs).
///
/// The private layer is a tmpfs; on kernels before 6.6 that needs user namespaces to be off, since a tmpfs has no user
/// attributes there.
///
/// ```
/// # use stockade::{Overlay, Rootfs, Sandbox};
/// let overlay = Overlay::new("/usr").size(1 << 20);
/// let sandbox = Sandbox::new().rootfs(Rootfs::system()).overlay("/box", overlay);
/// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
/// assert!(sandbox.command("touch").arg("/box/new").status()?.success());
/// assert!(!std::path::Path::new("/usr/new").exists());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Overlay {
    lowers: Vec<PathBuf>,
    bytes: u64,
}

impl Overlay {
    /// Over one directory. One that is not there is [`Error::Source`] when the policy is prepared.
    ///
    /// ```
    /// # use stockade::{Error, Overlay, Rootfs, Sandbox};
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).overlay("/box", Overlay::new("/no/such"));
    /// assert!(matches!(sandbox.prepare(), Err(Error::Source { .. })));
    /// ```
    pub fn new(lower: impl AsRef<Path>) -> Self {
        Self { lowers: vec![lower.as_ref().to_owned()], bytes: DEFAULT_BYTES }
    }

    /// Adds a directory below all those so far (`lowerdir`). 64 is the most.
    ///
    /// ```
    /// # use stockade::{Overlay, Rootfs, Sandbox};
    /// let above = tempfile::tempdir().unwrap();
    /// std::fs::write(above.path().join("mine"), "").unwrap();
    /// let overlay = Overlay::new(above.path()).lower("/usr");
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).overlay("/box", overlay);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("ls").args(["/box/mine", "/box/bin"]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn lower(mut self, lower: impl AsRef<Path>) -> Self {
        self.lowers.push(lower.as_ref().to_owned());
        self
    }

    /// How many bytes may be written (64 MiB unless said). Zero is [`Error::Invalid`] when the policy is prepared.
    ///
    /// ```
    /// # use stockade::{Overlay, Rootfs, Sandbox};
    /// let overlay = Overlay::new("/usr").size(1 << 20);
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).overlay("/box", overlay);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let script = "head -c 2M /dev/zero > /box/file";
    /// assert!(!sandbox.command("sh").args(["-c", script]).output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }
}

/// A file or directory of the host, as it was when the policy was prepared.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// How a device's number is written in a plan.
pub(crate) fn device_number(device: u64) -> u64 {
    u64::from(major(device)) << 32 | u64::from(minor(device))
}

/// What depends on the other layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    /// There is a user namespace of the sandbox's own.
    pub(crate) user_ns: bool,
    /// The host opens the sources, since the agent could not reach them.
    pub(crate) host_opens: bool,
    /// Group 5 is mapped, or all groups are the host's.
    pub(crate) tty_group: bool,
    /// Only the host's superuser may make device nodes.
    pub(crate) make_nodes: bool,
    /// The program has a user of the host's, whose keys procfs would tell of.
    pub(crate) hide_keys: bool,
}

/// What a plan says of the file system.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) mounts: Packed,
    /// Those to be opened by the host, in order.
    pub(crate) trees: Vec<Source>,
    /// What each mount is about, for errors.
    pub(crate) subjects: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) has_dev: bool,
    pub(crate) has_root: bool,
}

pub(crate) fn compile(root: Option<&Root>, operations: &[Operation], context: Context) -> Result<Compiled, Error> {
    let mut compiled = Compiled::default();
    match root {
        None => {}
        Some(Root::Directory(path)) => {
            let source = source_of(path, Some(true))?;
            // What is unpacked there may hold device nodes of anybody's making; dev() has those that a program needs.
            let devices = if source.path == Path::new("/") { 0 } else { mount::NO_DEV };
            let entry = Entry { kind: mount::BIND, flags: mount::SOURCE_DIR | devices, ..Entry::default() };
            compiled.add_bind(entry, source, context, Path::new("/"))?;
        }
        Some(Root::Private(Rootfs { overlay: Some(overlay), .. })) => {
            compiled.add_overlay(overlay, Path::new("/"), context)?;
        }
        Some(Root::Private(rootfs)) => {
            let size = size_of("rootfs", rootfs.bytes)?;
            let entry = Entry { kind: mount::TMPFS, flags: mount::NO_DEV, size, mode: 0o755, ..Entry::default() };
            compiled.add(&entry, c"", "/")?;
        }
    }
    compiled.has_root = root.is_some();
    compiled.read_only = matches!(root, Some(Root::Private(Rootfs { read_only: true, .. })));
    for operation in operations {
        compiled.add_operation(operation, context)?;
    }
    Ok(compiled)
}

/// The operations, and between them those that make each of these directories read-only where the program would see it: in
/// the host's root, a directory of the host that is its root, or a bind that may be written to.
pub(crate) fn cover(root: Option<&Root>, operations: &[Operation], directories: &[PathBuf]) -> Vec<Operation> {
    let covers = |source: &Path, target: &Path| {
        let source = source.canonicalize().unwrap_or_else(|_| source.to_owned());
        let cover = |directory: &PathBuf| {
            let (inner, target) = match directory.strip_prefix(&source) {
                Ok(below) if below.as_os_str().is_empty() => (directory.clone(), target.to_owned()),
                Ok(below) => (directory.clone(), target.join(below)),
                Err(_) if source.starts_with(directory) => (source.clone(), target.to_owned()),
                Err(_) => return None,
            };
            (target != Path::new("/")).then_some(Operation::Bind { source: inner, target, read_only: true })
        };
        directories.iter().filter_map(cover).collect::<Vec<_>>()
    };
    let mut all = match root {
        None => covers(Path::new("/"), Path::new("/")),
        Some(Root::Directory(path)) => covers(path, Path::new("/")),
        Some(Root::Private(_)) => vec![],
    };
    for operation in operations {
        all.push(operation.clone());
        if let Operation::Bind { source, target, read_only: false } = operation {
            all.extend(covers(source, target));
        }
    }
    all
}

/// A [`plan::Mount`] in the making.
#[derive(Debug, Clone, Default)]
struct Entry {
    kind: u32,
    flags: u32,
    size: u64,
    mode: u32,
    device: u64,
    inode: u64,
    source: CString,
}

impl Compiled {
    fn add(&mut self, entry: &Entry, target: &std::ffi::CStr, subject: impl Into<String>) -> Result<(), Error> {
        if self.mounts.count() >= plan::MAX_MOUNTS {
            return Err(Error::invalid("bind_ro", format!("more than {} mounts", plan::MAX_MOUNTS)));
        }
        self.mounts.push(&plan::Mount {
            kind: entry.kind,
            flags: entry.flags,
            size: entry.size,
            mode: entry.mode,
            device: entry.device,
            inode: entry.inode,
            source: &entry.source,
            target,
        });
        self.subjects.push(subject.into());
        Ok(())
    }

    fn add_bind(&mut self, entry: Entry, source: Source, context: Context, target: &Path) -> Result<(), Error> {
        let subject = format!("{} at {}", source.path.display(), target.display());
        let path = c_path("bind_ro", &source.path)?;
        let target = target_of("bind_ro", target, true)?;
        let handed = if context.host_opens { mount::SOURCE_FD } else { 0 };
        let entry =
            Entry { flags: entry.flags | handed, device: source.device, inode: source.inode, source: path, ..entry };
        if context.host_opens {
            self.trees.push(source);
        }
        self.add(&entry, &target, subject)
    }

    fn add_overlay(&mut self, overlay: &Overlay, target: &Path, context: Context) -> Result<(), Error> {
        if overlay.lowers.len() > MAX_LOWERS {
            return Err(Error::invalid(
                "overlay",
                format!("{} layers; {MAX_LOWERS} is the most", overlay.lowers.len()),
            ));
        }
        for lower in &overlay.lowers {
            let entry = Entry { kind: mount::LOWER, flags: mount::READ_ONLY | mount::SOURCE_DIR, ..Entry::default() };
            self.add_bind(entry, source_of(lower, Some(true))?, context, Path::new("/"))?;
        }
        let size = size_of("overlay", overlay.bytes)?;
        let entry = Entry { kind: mount::OVERLAY, size, flags: mount::NO_DEV, ..Entry::default() };
        let is_root = target == Path::new("/");
        self.add(&entry, &target_of("overlay", target, is_root)?, format!("overlay at {}", target.display()))
    }

    fn add_operation(&mut self, operation: &Operation, context: Context) -> Result<(), Error> {
        match operation {
            Operation::Bind { source, target, read_only } => {
                let source = source_of(source, None)?;
                let metadata = std::fs::metadata(&source.path).map_err(source_error(&source.path))?;
                // As in bubblewrap, devices are not to be had by a bind of something else.
                let devices = !metadata.is_dir() || source.path.starts_with("/dev");
                let flags = if metadata.is_dir() { mount::SOURCE_DIR } else { 0 }
                    | if *read_only { mount::READ_ONLY } else { 0 }
                    | if devices { 0 } else { mount::NO_DEV };
                target_of(if *read_only { "bind_ro" } else { "bind_rw" }, target, false)?;
                let entry = Entry { kind: mount::BIND, flags, ..Entry::default() };
                self.add_bind(entry, source, context, target)
            }
            Operation::Tmpfs { target, bytes } => {
                let size = size_of("tmpfs", *bytes)?;
                let entry = Entry { kind: mount::TMPFS, flags: mount::NO_DEV, size, mode: 0o1777, ..Entry::default() };
                self.add(&entry, &target_of("tmpfs", target, false)?, format!("tmpfs at {}", target.display()))
            }
            Operation::Proc { target } => {
                let flags = if context.user_ns { 0 } else { mount::COVER }
                    | if context.hide_keys { mount::HIDE_KEYS } else { 0 };
                let entry = Entry { kind: mount::PROC, flags, ..Entry::default() };
                self.add(&entry, &target_of("proc", target, false)?, format!("proc at {}", target.display()))
            }
            Operation::Dev { target } => {
                self.has_dev = true;
                let flags = if context.make_nodes { mount::MAKE_NODES } else { 0 }
                    | if context.tty_group { mount::TTY_GROUP } else { 0 };
                let entry = Entry { kind: mount::DEV, flags, size: DEFAULT_BYTES, ..Entry::default() };
                self.add(&entry, &target_of("dev", target, false)?, format!("dev at {}", target.display()))
            }
            Operation::Overlay { target, overlay } => self.add_overlay(overlay, target, context),
            Operation::Mask { target } => {
                let entry = Entry { kind: mount::MASK, ..Entry::default() };
                self.add(&entry, &target_of("mask", target, false)?, format!("mask of {}", target.display()))
            }
            Operation::Symlink { target, to } => {
                let entry = Entry { kind: mount::SYMLINK, source: c_path("symlink", to)?, ..Entry::default() };
                self.add(&entry, &target_of("symlink", target, false)?, format!("link at {}", target.display()))
            }
            Operation::Directory { target } => {
                let entry = Entry { kind: mount::DIRECTORY, ..Entry::default() };
                self.add(&entry, &target_of("dir", target, false)?, format!("directory {}", target.display()))
            }
            Operation::System => {
                for operation in system() {
                    self.add_operation(&operation, context)?;
                }
                Ok(())
            }
        }
    }
}

/// Landlock's rules to the same end: all is read and executed, and only what a mount of the sandbox's own makes writable is
/// written to.
pub(crate) fn landlock_rules(root: Option<&Root>, operations: &[Operation], scopes: bool) -> Rules {
    let (read, all) = (Access::READ | Access::EXECUTE, Access::all());
    // A shell opens what it writes to by `>` with O_TRUNC.
    let process = read | Access::WRITE_FILE | Access::TRUNCATE;
    let everywhere = match root {
        Some(Root::Private(rootfs)) if rootfs.read_only => read,
        _ => all,
    };
    let mut rules = Rules::new().path("/", everywhere);
    for operation in operations {
        rules = match operation {
            Operation::Bind { target, read_only: false, .. }
            | Operation::Tmpfs { target, .. }
            | Operation::Overlay { target, .. } => rules.path(target, all),
            Operation::Dev { target } => rules.path(target, all),
            // A process's own entries can be written to, as far as they are its own.
            Operation::Proc { target } => rules.path(target, process),
            Operation::System => rules.path("/tmp", all).path("/dev", all).optional_path("/proc", process),
            _ => rules,
        };
    }
    if scopes { rules.scope_abstract_sockets().scope_signals() } else { rules }
}

/// See [`Rootfs::system`].
pub(crate) fn system() -> Vec<Operation> {
    let mut all = vec![];
    for name in ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store"] {
        let path = Path::new("/").join(name);
        match std::fs::read_link(&path) {
            Ok(to) => all.push(Operation::Symlink { target: path, to }),
            Err(_) if path.is_dir() => {
                all.push(Operation::Bind { source: path.clone(), target: path, read_only: true });
            }
            Err(_) => {}
        }
    }
    for name in ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"] {
        let path = Path::new("/etc").join(name);
        if path.exists() {
            all.push(Operation::Bind { source: path.clone(), target: path, read_only: true });
        }
    }
    all.push(Operation::Proc { target: "/proc".into() });
    all.push(Operation::Dev { target: "/dev".into() });
    all.push(Operation::Tmpfs { target: "/tmp".into(), bytes: DEFAULT_BYTES });
    all
}

fn source_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Source { path, source }
}

/// Links are followed now, so that what is mounted later is what was seen here.
pub(crate) fn source_of(path: &Path, directory: Option<bool>) -> Result<Source, Error> {
    let real = path.canonicalize().map_err(source_error(path))?;
    let metadata = real.symlink_metadata().map_err(source_error(path))?;
    if directory == Some(true) && !metadata.is_dir() {
        return Err(Error::Source { path: path.to_owned(), source: std::io::ErrorKind::NotADirectory.into() });
    }
    Ok(Source { path: real, device: device_number(metadata.dev()), inode: metadata.ino() })
}

fn size_of(setting: &'static str, bytes: u64) -> Result<u64, Error> {
    // To tmpfs 0 is no limit at all, and what is rounded up to pages must not overflow.
    if bytes == 0 || bytes > i64::MAX.unsigned_abs() {
        return Err(Error::invalid(setting, format!("a size of {bytes} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn c_path(setting: &'static str, path: &Path) -> Result<CString, Error> {
    if path.as_os_str().len() > 4095 {
        return Err(Error::invalid(setting, "the path is longer than 4095 bytes"));
    }
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::invalid(setting, "the path has a NUL in it"))
}

/// Relative to the root, and plainly below it.
pub(crate) fn target_of(setting: &'static str, target: &Path, may_be_root: bool) -> Result<CString, Error> {
    let mut inside = PathBuf::new();
    for component in target.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::invalid(setting, format!("the target {} has a .. in it", target.display())));
            }
        }
    }
    if inside.as_os_str().is_empty() && !may_be_root {
        return Err(Error::invalid(setting, "the target is the root itself: that is chroot()'s, or rootfs()'s"));
    }
    c_path(setting, &inside)
}
