//! The program's memory, and its paths as the kernel would follow them: in its root, from its directories, by its links.
//!
//! Nothing is ever opened but directories and names in them, one component at a time (`O_PATH | O_NOFOLLOW`), from the
//! program's root or from what it has open itself; and programs, to see which interpreter they name. What is found so is named by the path that has no links in it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, FsWord, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, fstat, fstatfs, fstatvfs, openat,
    openat2, readlinkat,
};
use rustix::io::Errno;

/// The kernel's `PATH_MAX`, with the NUL.
const PATH_MAX: usize = 4096;
/// How many links the kernel follows on one path.
const MOST_LINKS: usize = 40;
const PAGE: usize = 4096;
const DEVPTS: FsWord = 0x1cd1;
/// The inode of a procfs's root.
const PROC_ROOT: u64 = 1;

const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A thread of the program that waits in a call.
pub(super) struct Thread {
    tid: u32,
    root: OwnedFd,
    /// What the kernel calls its root, seen from here.
    root_name: PathBuf,
}

/// A file that is there.
pub(super) struct Place {
    /// Without links.
    pub path: PathBuf,
    /// What stands for it in a rule, where its own name is another in each run.
    stand_in: Option<PathBuf>,
    pub file: OwnedFd,
    stat: Stat,
}

/// Where a path leads to.
pub(super) enum Found {
    There(Place),
    /// Only the directory is there; its last component is this.
    Missing(Place, OsString),
    /// Nowhere: the call fails; or to what is no file's and needs no rule, a pipe.
    Nothing,
    /// It could not be looked at, or is no path of the sandbox's.
    Unknown,
}

/// Where a path begins.
#[derive(Clone, Copy)]
pub(super) enum From {
    Cwd,
    /// A descriptor of the program's; the path may be empty.
    Fd(i32),
}

impl Place {
    /// The path for a rule about it.
    pub(super) fn subject(&self) -> PathBuf {
        self.stand_in.clone().unwrap_or_else(|| self.path.clone())
    }

    /// The path for a rule about what happens to its name.
    pub(super) fn parent(&self) -> PathBuf {
        let parent = || self.path.parent().unwrap_or(Path::new("/")).to_owned();
        self.stand_in.clone().unwrap_or_else(parent)
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    pub(super) fn is_device(&self) -> bool {
        matches!(self.kind(), FileType::CharacterDevice | FileType::BlockDevice)
    }

    /// A regular file that somebody may execute.
    pub(super) fn is_program(&self) -> bool {
        self.kind() == FileType::RegularFile && self.stat.st_mode & 0o111 != 0
    }

    /// Nothing can be changed in its file system, and every try fails for that.
    pub(super) fn is_read_only(&self) -> bool {
        fstatvfs(&self.file).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Its beginning.
    pub(super) fn head(&self, len: usize) -> Vec<u8> {
        let mut head = vec![0; len];
        let file = File::options().read(true).open(crate::launch::descriptor_path(&self.file));
        let read = file.and_then(|file| file.read_at(&mut head, 0)).unwrap_or(0);
        head.truncate(read);
        head
    }

    /// Some of it.
    pub(super) fn read_at(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let file = File::options().read(true).open(crate::launch::descriptor_path(&self.file)).ok()?;
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

/// The state of a walk.
struct Walk {
    path: PathBuf,
    here: OwnedFd,
    stand_in: Option<PathBuf>,
    /// What is still to come.
    rest: VecDeque<OsString>,
    links: usize,
    /// `..` and absolute paths lead no higher.
    floor: PathBuf,
}

/// Whether a walk goes on.
type Step = ControlFlow<Found>;

impl Thread {
    /// `None`: it cannot be looked at.
    pub(super) fn look_at(tid: u32) -> Option<Self> {
        let root = openat(CWD, format!("/proc/{tid}/root"), HANDLE | OFlags::DIRECTORY, Mode::empty()).ok()?;
        let root_name = std::fs::read_link(format!("/proc/{tid}/root")).ok()?;
        Some(Self { tid, root, root_name })
    }

    /// A string, as the kernel reads a path. `None`: there is none, and the call fails.
    pub(super) fn string(&self, address: u64) -> Result<Option<Vec<u8>>, Errno> {
        let Some(memory) = self.memory()? else { return Ok(None) };
        let mut string = vec![];
        let mut buffer = [0; PAGE];
        while string.len() < PATH_MAX {
            let Some(at) = address.checked_add(string.len() as u64) else { return Ok(None) };
            // What follows a page's end may not be there.
            let len = PAGE - usize::try_from(at % PAGE as u64).unwrap_or(0);
            let Ok(len) = memory.read_at(buffer.get_mut(..len).unwrap_or_default(), at) else { return Ok(None) };
            let read = buffer.get(..len).unwrap_or_default();
            if read.is_empty() {
                return Ok(None);
            }
            match read.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    string.extend_from_slice(read.get(..end).unwrap_or_default());
                    return Ok(Some(string).filter(|string| string.len() < PATH_MAX));
                }
                None => string.extend_from_slice(read),
            }
        }
        Ok(None)
    }

    /// So many bytes, or fewer.
    pub(super) fn bytes(&self, address: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let Some(memory) = self.memory()? else { return Ok(vec![]) };
        let mut bytes = vec![0; len];
        let read = memory.read_at(&mut bytes, address).unwrap_or(0);
        bytes.truncate(read);
        Ok(bytes)
    }

    /// `None`: it has none any more. EACCES: this process may not look.
    fn memory(&self) -> Result<Option<File>, Errno> {
        match openat(CWD, format!("/proc/{}/mem", self.tid), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(memory) => Ok(Some(memory.into())),
            Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The number of its process, as this process sees it, and as its own procfs does.
    pub(super) fn numbers(&self) -> Option<(u32, u32)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.tid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("NStgid:"))?;
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse().ok());
        let outer = numbers.next()?;
        Some((outer, numbers.next_back().unwrap_or(outer)))
    }

    /// Where a descriptor leads to.
    pub(super) fn descriptor(&self, fd: i32) -> Found {
        self.magic(&format!("/proc/{}/fd/{fd}", self.tid))
    }

    /// Where a link of procfs leads to, which is no path to follow.
    fn magic(&self, link: &str) -> Found {
        let Ok(name) = std::fs::read_link(link) else { return Found::Nothing };
        if !name.as_os_str().as_bytes().starts_with(b"/") {
            return Found::Nothing;
        }
        let Ok(file) = openat(CWD, link, HANDLE, Mode::empty()) else { return Found::Unknown };
        self.named(file, &name)
    }

    /// An open file by the name that the kernel has for it, if that leads to it in the program's root.
    fn named(&self, file: OwnedFd, name: &Path) -> Found {
        let Ok(stat) = fstat(&file) else { return Found::Unknown };
        if name.as_os_str().as_bytes().starts_with(b"/memfd:") && stat.st_nlink == 0 {
            return Found::Nothing;
        }
        let root = Path::new("/");
        let inside = if self.root_name == root { Ok(name) } else { name.strip_prefix(&self.root_name) };
        let Ok(inside) = inside else { return Found::Unknown };
        match self.canonical(inside) {
            Found::There(place) if (place.stat.st_dev, place.stat.st_ino) == (stat.st_dev, stat.st_ino) => {
                return Found::There(place);
            }
            _ => {}
        }
        // What was deleted, or had no name to begin with (O_TMPFILE), still has the directory in which it was.
        let Some(name) = inside.as_os_str().as_bytes().strip_suffix(b" (deleted)") else { return Found::Unknown };
        let path = root.join(OsStr::from_bytes(name));
        match path.parent().map(|parent| self.canonical(parent)) {
            Some(Found::There(parent)) => Found::There(Place { stand_in: Some(parent.subject()), path, file, stat }),
            _ => Found::Unknown,
        }
    }

    /// By a path that had no links in it a moment ago.
    fn canonical(&self, path: &Path) -> Found {
        let Some(mut walk) = self.begin(Path::new("/")) else { return Found::Unknown };
        walk.links = MOST_LINKS;
        self.walk(walk, path.as_os_str().as_bytes(), false)
    }

    fn begin(&self, floor: &Path) -> Option<Walk> {
        let here = self.reopen(floor)?;
        Some(Walk {
            path: floor.to_owned(),
            here,
            stand_in: None,
            rest: VecDeque::new(),
            links: 0,
            floor: floor.to_owned(),
        })
    }

    /// A directory by its own name.
    fn reopen(&self, path: &Path) -> Option<OwnedFd> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, inside, HANDLE | OFlags::DIRECTORY, Mode::empty(), resolve).ok()
    }

    /// Follows a path; its last component, if that is a link, only where the call does.
    pub(super) fn find(&self, from: From, path: &[u8], follow: bool) -> Found {
        self.find_below(from, path, follow, false)
    }

    /// The same; the directory where it begins may be a root for it (`RESOLVE_IN_ROOT`).
    pub(super) fn find_below(&self, from: From, path: &[u8], follow: bool, as_root: bool) -> Found {
        if path.starts_with(b"/") && !as_root {
            let Some(walk) = self.begin(Path::new("/")) else { return Found::Unknown };
            return self.walk(walk, path, follow);
        }
        let base = match from {
            From::Cwd => self.magic(&format!("/proc/{}/cwd", self.tid)),
            From::Fd(fd) => self.descriptor(fd),
        };
        let base = match base {
            Found::There(place) if path.is_empty() => return Found::There(place),
            Found::There(place) if place.is_dir() => place,
            Found::There(_) | Found::Missing(..) => return Found::Nothing,
            other => return other,
        };
        let floor = if as_root { base.path.clone() } else { PathBuf::from("/") };
        let Place { path: start, stand_in, file, .. } = base;
        let walk = Walk { path: start, here: file, stand_in, rest: VecDeque::new(), links: 0, floor };
        self.walk(walk, path, follow)
    }

    fn walk(&self, mut walk: Walk, path: &[u8], follow: bool) -> Found {
        walk.push(path);
        loop {
            let Some(name) = walk.rest.pop_front() else {
                let Ok(stat) = fstat(&walk.here) else { return Found::Unknown };
                let Walk { path, stand_in, here, .. } = walk;
                return Found::There(Place { path, stand_in, file: here, stat });
            };
            match self.step(&mut walk, &name, follow) {
                Step::Continue(()) => {}
                Step::Break(found) => return found,
            }
        }
    }

    fn step(&self, walk: &mut Walk, name: &OsStr, follow: bool) -> Step {
        if name == ".." {
            if walk.path != walk.floor {
                walk.path.pop();
                match self.reopen(&walk.path) {
                    Some(here) => walk.here = here,
                    None => return Step::Break(Found::Unknown),
                }
                if walk.stand_in.as_ref().is_some_and(|stand_in| walk.path == *stand_in) {
                    walk.stand_in = None;
                }
            }
            return Step::Continue(());
        }
        let last = walk.rest.is_empty();
        let file = match openat(&walk.here, name, HANDLE | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) if last => {
                let Ok(stat) = fstat(&walk.here) else { return Step::Break(Found::Unknown) };
                if stat.st_nlink == 0 {
                    return Step::Break(Found::Nothing);
                }
                let Ok(here) = walk.here.try_clone() else { return Step::Break(Found::Unknown) };
                let directory = Place { path: walk.path.clone(), stand_in: walk.stand_in.clone(), file: here, stat };
                return Step::Break(Found::Missing(directory, name.to_owned()));
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP) => return Step::Break(Found::Nothing),
            Err(_) => return Step::Break(Found::Unknown),
        };
        let Ok(stat) = fstat(&file) else { return Step::Break(Found::Unknown) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if !last || follow => self.link(walk, name, &file),
            FileType::Directory => {
                walk.enter(name, file);
                Step::Continue(())
            }
            _ if last => {
                walk.enter(name, file);
                Step::Continue(())
            }
            _ => Step::Break(Found::Nothing),
        }
    }

    /// Follows a link.
    fn link(&self, walk: &mut Walk, name: &OsStr, link: &OwnedFd) -> Step {
        walk.links += 1;
        if walk.links > MOST_LINKS {
            return Step::Break(Found::Nothing);
        }
        let in_procfs = is_procfs(&walk.here);
        if in_procfs && is_procfs_root(&walk.here) && (name == "self" || name == "thread-self") {
            // They are different for everybody who looks.
            let Some((_, number)) = self.numbers() else { return Step::Break(Found::Unknown) };
            if name == "thread-self" {
                // Which of the threads does not matter: they stand for one another in a rule.
                walk.rest.push_front(number.to_string().into());
                walk.rest.push_front("task".into());
            }
            walk.rest.push_front(number.to_string().into());
            return Step::Continue(());
        }
        let Ok(target) = readlinkat(link, "", vec![]) else { return Step::Break(Found::Unknown) };
        if in_procfs && is_magic(name) {
            if !target.as_bytes().starts_with(b"/") {
                return Step::Break(Found::Nothing);
            }
            let Ok(file) = openat(&walk.here, name, HANDLE, Mode::empty()) else { return Step::Break(Found::Unknown) };
            return match self.named(file, Path::new(OsStr::from_bytes(target.as_bytes()))) {
                Found::There(place) if walk.rest.is_empty() || place.is_dir() => {
                    (walk.path, walk.here, walk.stand_in) = (place.path, place.file, place.stand_in);
                    Step::Continue(())
                }
                Found::There(_) => Step::Break(Found::Nothing),
                other => Step::Break(other),
            };
        }
        if target.as_bytes().starts_with(b"/") {
            match self.reopen(&walk.floor) {
                Some(here) => walk.here = here,
                None => return Step::Break(Found::Unknown),
            }
            walk.path.clone_from(&walk.floor);
            walk.stand_in = None;
        }
        walk.push(target.as_bytes());
        Step::Continue(())
    }
}

impl Walk {
    /// What is to come before all else.
    fn push(&mut self, path: &[u8]) {
        let components = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        for name in components.rev() {
            self.rest.push_front(OsString::from_vec(name.to_vec()));
        }
    }

    fn enter(&mut self, name: &OsStr, file: OwnedFd) {
        if self.stand_in.is_none() {
            let numbered = name.as_bytes().iter().all(u8::is_ascii_digit);
            // A process's own directory in procfs, a terminal's name: the next run has another.
            if numbered && (is_procfs_root(&self.here) || is_devpts(&self.here)) {
                self.stand_in = Some(self.path.clone());
            }
        }
        self.path.push(name);
        self.here = file;
    }
}

fn is_procfs(directory: &OwnedFd) -> bool {
    fstatfs(directory).is_ok_and(|stat| stat.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn is_procfs_root(directory: &OwnedFd) -> bool {
    is_procfs(directory) && fstat(directory).is_ok_and(|stat| stat.st_ino == PROC_ROOT)
}

fn is_devpts(directory: &OwnedFd) -> bool {
    fstatfs(directory).is_ok_and(|stat| stat.f_type == DEVPTS)
}

/// In procfs, a link whose text is not where it leads to: a process's `exe`, `cwd`, `root`, and those to what it has open.
fn is_magic(name: &OsStr) -> bool {
    !["self", "thread-self", "mounts", "net"].iter().any(|ordinary| name == *ordinary)
}
