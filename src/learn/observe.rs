//! The thread that looks at each call of the program, and lets it go on.

use std::ffi::{CString, OsStr};
use std::io::PipeReader;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::{SocketType, ipproto, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};

use super::walk::{Found, From, Place, Thread};
use super::{Need, Needs};
use crate::landlock::Access;
use crate::notify::listener::{self, Answer, Call};
use crate::seccomp::{self, interpret};

/// `SECCOMP_RET_*`.
const ERRNO: u32 = 0x5_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: i32 = 38;

/// How deep `#!` may lead to `#!`.
const MOST_INTERPRETERS: usize = 5;
/// The kernel's `BINPRM_BUF_SIZE`.
const HEAD: usize = 256;

pub(super) struct Observer {
    pub(super) listener: Arc<OwnedFd>,
    /// Its other end is closed when all is over.
    pub(super) stop: PipeReader,
    /// What becomes of each call, in a form that can be interpreted.
    pub(super) verdict: Vec<u8>,
    /// Where the program was looked for.
    pub(super) candidates: Vec<CString>,
}

impl Observer {
    /// Until all is over.
    pub(super) fn run(self) -> Needs {
        let mut needs = Needs::default();
        let mut candidates = self.candidates.as_slice();
        loop {
            let mut set = [
                PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            ];
            match poll(&mut set, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return needs,
            }
            let [calls, stop] = set.map(|entry| entry.revents());
            if !calls.contains(PollFlags::IN) {
                // No process has the filter any more, or nobody waits for what they do.
                if !calls.is_empty() || !stop.is_empty() {
                    return needs;
                }
                continue;
            }
            match listener::receive(&self.listener) {
                Ok(call) => {
                    self.attend(&call, candidates, &mut needs);
                    candidates = &[];
                }
                // Its thread has ended meanwhile.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(_) => return needs,
            }
        }
    }

    fn attend(&self, call: &Call, candidates: &[CString], needs: &mut Needs) {
        let verdict = interpret::interpret(&self.verdict, &call.data());
        let answer = match verdict & 0xffff_0000 {
            LOG | ALLOW => Answer::Go,
            ERRNO => Answer::Refuse((verdict & 0xffff).cast_signed()),
            _ => {
                end(call.tid);
                Answer::Refuse(ENOSYS)
            }
        };
        if answer == Answer::Go {
            let mut found = vec![];
            look(call, candidates, &mut found);
            // What was read was this call's if its thread still waits in it. If not, it will not be made.
            if listener::is_valid(&self.listener, call.id) {
                needs.call(call.nr);
                found.into_iter().for_each(|need| needs.take(need));
            }
        }
        let _ = listener::answer(&self.listener, call.id, answer);
    }
}

/// A call of x32, which nothing may allow.
fn end(tid: u32) {
    let process = Thread::look_at(tid).and_then(|thread| process(&thread));
    let _ = process.map(|process| pidfd_send_signal(process, Signal::KILL));
}

fn process(thread: &Thread) -> Option<OwnedFd> {
    let (number, _) = thread.numbers()?;
    pidfd_open(Pid::from_raw(i32::try_from(number).ok()?)?, PidfdFlags::empty()).ok()
}

/// What a call needs of Landlock. The first of all is the program's own: how it was executed is found out before.
fn look(call: &Call, candidates: &[CString], found: &mut Vec<Need>) {
    let name = seccomp::name(call.nr);
    if candidates.is_empty() && !CONCERNED.contains(&name) {
        return;
    }
    let Some(thread) = Thread::look_at(call.tid) else { return found.push(Need::Unknown) };
    let mut look = Look { thread, found };
    let executed = candidates.iter().find_map(|candidate| {
        let place = look.place(From::Cwd, candidate.as_bytes(), true)?;
        place.is_program().then_some(place)
    });
    if let Some(program) = executed {
        look.execute(&program, MOST_INTERPRETERS);
    } else if !candidates.is_empty() {
        look.found.push(Need::Unknown);
    }
    if CONCERNED.contains(&name) {
        look.call(name, call.args);
    }
}

/// The calls that Landlock may have a say in.
const CONCERNED: &[&str] = &[
    "open",
    "creat",
    "openat",
    "openat2",
    "execve",
    "execveat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "truncate",
    "ftruncate",
    "ioctl",
    "bind",
    "connect",
];

struct Look<'a> {
    thread: Thread,
    found: &'a mut Vec<Need>,
}

impl Look<'_> {
    fn call(&mut self, name: &str, args: [u64; 6]) {
        let [a, b, c, d, e, _] = args;
        let cwd = From::Cwd;
        match name {
            "open" => self.open(cwd, a, low(b), false),
            "creat" => self.open(cwd, a, (OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC).bits(), false),
            "openat" => self.open(base(a), b, low(c), false),
            "openat2" => self.openat2(base(a), b, c, d),
            "execve" => self.exec(cwd, a, 0),
            "execveat" => self.exec(base(a), b, low(e)),
            "mkdir" => self.make(cwd, a, Access::MAKE_DIR),
            "mkdirat" => self.make(base(a), b, Access::MAKE_DIR),
            "mknod" => self.make(cwd, a, node(low(b))),
            "mknodat" => self.make(base(a), b, node(low(c))),
            "symlink" => self.make(cwd, b, Access::MAKE_SYM),
            "symlinkat" => self.make(base(b), c, Access::MAKE_SYM),
            "unlink" => self.remove(cwd, a, false),
            "rmdir" => self.remove(cwd, a, true),
            "unlinkat" => self.remove(base(a), b, low(c) & AT_REMOVEDIR != 0),
            "rename" => self.rename((cwd, a), (cwd, b), 0),
            "renameat" => self.rename((base(a), b), (base(c), d), 0),
            "renameat2" => self.rename((base(a), b), (base(c), d), low(e)),
            "link" => self.link((cwd, a), (cwd, b), 0),
            "linkat" => self.link((base(a), b), (base(c), d), low(e)),
            "truncate" => {
                let place = self.path(a).and_then(|path| self.place(cwd, &path, true));
                self.truncate(place);
            }
            "ftruncate" => {
                let found = self.thread.descriptor(low(a).cast_signed());
                let place = self.there(found);
                self.truncate(place);
            }
            "ioctl" => self.ioctl(low(a).cast_signed(), low(b)),
            "bind" | "connect" => self.address(low(a).cast_signed(), b, low(c), name == "bind"),
            _ => {}
        }
    }

    fn need(&mut self, path: PathBuf, access: Access) {
        if !access.is_empty() {
            self.found.push(Need::Path(path, access));
        }
    }

    /// A path out of the program's memory; without one the call fails.
    fn path(&mut self, address: u64) -> Option<Vec<u8>> {
        self.thread.string(address).unwrap_or_else(|_| {
            self.found.push(Need::Unknown);
            None
        })
    }

    fn there(&mut self, found: Found) -> Option<Place> {
        match found {
            Found::There(place) => return Some(place),
            Found::Unknown => self.found.push(Need::Unknown),
            Found::Missing(..) | Found::Nothing => {}
        }
        None
    }

    fn place(&mut self, from: From, path: &[u8], follow: bool) -> Option<Place> {
        if path.is_empty() {
            return None;
        }
        let found = self.thread.find(from, path, follow);
        self.there(found)
    }

    fn open(&mut self, from: From, address: u64, flags: u32, as_root: bool) {
        let flags = OFlags::from_bits_retain(flags);
        if flags.contains(OFlags::PATH) {
            return;
        }
        let Some(path) = self.path(address).filter(|path| !path.is_empty()) else { return };
        let create = flags.contains(OFlags::CREATE);
        let exclusive = create && flags.contains(OFlags::EXCL);
        let follow = !(exclusive || flags.contains(OFlags::NOFOLLOW));
        match self.thread.find_below(from, &path, follow, as_root) {
            Found::There(place) => self.open_there(&place, flags),
            Found::Missing(directory, name) if create && !path.ends_with(b"/") => {
                if !directory.is_read_only() {
                    self.made(&directory, &name, Access::MAKE_REG);
                    self.need(directory.path.join(name), opened(flags));
                }
            }
            Found::Missing(..) | Found::Nothing => {}
            Found::Unknown => self.found.push(Need::Unknown),
        }
    }

    fn open_there(&mut self, place: &Place, flags: OFlags) {
        let create = flags.contains(OFlags::CREATE);
        let access = opened(flags);
        if flags.contains(OFlags::TMPFILE) {
            if place.is_dir() && !place.is_read_only() {
                self.need(place.subject(), access);
            }
            return;
        }
        match place.kind() {
            // It is there already, or is not to be followed.
            _ if create && flags.contains(OFlags::EXCL) => {}
            FileType::Symlink | FileType::Socket => {}
            FileType::Directory if create || access.intersects(Access::WRITE) => {}
            FileType::Directory => self.need(place.subject(), Access::READ_DIR),
            _ if flags.contains(OFlags::DIRECTORY) => {}
            FileType::RegularFile if access.intersects(Access::WRITE) && place.is_read_only() => {}
            FileType::RegularFile => self.need(place.subject(), access),
            // Only a regular file can be cut short.
            _ => self.need(place.subject(), access - Access::TRUNCATE),
        }
    }

    fn openat2(&mut self, from: From, path: u64, how: u64, size: u64) {
        const RESOLVE_IN_ROOT: u64 = 0x10;
        let len = usize::try_from(size.min(24)).unwrap_or(0);
        let Ok(how) = self.thread.bytes(how, len) else { return self.found.push(Need::Unknown) };
        let (words, _) = how.as_chunks::<8>();
        let [flags, _, resolve] = words else { return };
        let [flags, resolve] = [flags, resolve].map(|word| u64::from_ne_bytes(*word));
        self.open(from, path, low(flags), resolve & RESOLVE_IN_ROOT != 0);
    }

    /// Something comes to be in a directory.
    fn made(&mut self, directory: &Place, name: &OsStr, access: Access) {
        self.need(directory.subject(), access);
        self.found.push(Need::Made(directory.path.join(name)));
    }

    fn make(&mut self, from: From, address: u64, access: Access) {
        let Some(path) = self.path(address) else { return };
        self.make_path(from, &path, access);
    }

    fn make_path(&mut self, from: From, path: &[u8], access: Access) {
        if let Some((directory, name)) = self.missing(from, path) {
            self.made(&directory, &name, access);
        }
    }

    /// Where something can be made.
    fn missing(&mut self, from: From, path: &[u8]) -> Option<(Place, std::ffi::OsString)> {
        if path.is_empty() {
            return None;
        }
        match self.thread.find(from, path, false) {
            Found::Missing(directory, name) if !directory.is_read_only() => return Some((directory, name)),
            Found::Unknown => self.found.push(Need::Unknown),
            _ => {}
        }
        None
    }

    fn remove(&mut self, from: From, address: u64, directory: bool) {
        let Some(path) = self.path(address) else { return };
        let Some(place) = self.place(from, &path, false) else { return };
        if place.is_dir() == directory && place.path != Path::new("/") && !place.is_read_only() {
            self.need(place.parent(), removal(&place));
        }
    }

    fn rename(&mut self, old: (From, u64), new: (From, u64), flags: u32) {
        const NO_REPLACE: u32 = 1;
        const EXCHANGE: u32 = 2;
        let (Some(old_path), Some(new_path)) = (self.path(old.1), self.path(new.1)) else { return };
        let Some(source) = self.place(old.0, &old_path, false).filter(|place| !place.is_read_only()) else { return };
        let (target, name, replaced) = match self.thread.find(new.0, &new_path, false) {
            Found::There(place) if flags & NO_REPLACE == 0 => (place.parent(), place.path.clone(), Some(place)),
            Found::Missing(directory, name) if flags & EXCHANGE == 0 => {
                (directory.subject(), directory.path.join(name), None)
            }
            Found::Unknown => return self.found.push(Need::Unknown),
            _ => return,
        };
        let (mut from, mut to) = (removal(&source), creation(&source));
        if let Some(replaced) = &replaced {
            to |= removal(replaced);
            if flags & EXCHANGE != 0 {
                from |= creation(replaced);
            }
        }
        let directories = source.is_dir() || replaced.as_ref().is_some_and(Place::is_dir);
        self.refer((source.parent(), from), (target.clone(), to), directories);
        self.found.push(Need::Made(name));
        if flags & EXCHANGE != 0 {
            self.refer((target, Access::empty()), (source.parent(), Access::empty()), directories);
            self.found.push(Need::Made(source.path));
        }
    }

    /// From one directory to another, what is moved may not gain anything by it.
    fn refer(&mut self, from: (PathBuf, Access), to: (PathBuf, Access), directories: bool) {
        let across = if from.0 == to.0 { Access::empty() } else { Access::REFER };
        self.need(from.0.clone(), from.1 | across);
        self.need(to.0.clone(), to.1 | across);
        if !across.is_empty() {
            self.found.push(Need::Move { from: from.0, to: to.0, directories });
        }
    }

    fn link(&mut self, old: (From, u64), new: (From, u64), flags: u32) {
        let (Some(old_path), Some(new_path)) = (self.path(old.1), self.path(new.1)) else { return };
        let source = if old_path.is_empty() && flags & AT_EMPTY_PATH == 0 {
            return;
        } else {
            self.thread.find(old.0, &old_path, flags & AT_SYMLINK_FOLLOW != 0)
        };
        let (from, made) = match source {
            Found::There(place) if !place.is_dir() => (place.parent(), creation(&place)),
            Found::Unknown => return self.found.push(Need::Unknown),
            _ => return,
        };
        if let Some((directory, name)) = self.missing(new.0, &new_path) {
            self.refer((from, Access::empty()), (directory.subject(), made), false);
            self.found.push(Need::Made(directory.path.join(name)));
        }
    }

    fn truncate(&mut self, place: Option<Place>) {
        if let Some(place) = place
            && place.kind() == FileType::RegularFile
            && !place.is_read_only()
        {
            self.need(place.subject(), Access::TRUNCATE);
        }
    }

    fn ioctl(&mut self, fd: i32, request: u32) {
        /// FIONCLEX, FIOCLEX, FIONBIO, FIOASYNC, which are about the descriptor and always allowed.
        const OF_DESCRIPTORS: [u32; 4] = [0x5450, 0x5451, 0x5421, 0x5452];
        if OF_DESCRIPTORS.contains(&request) {
            return;
        }
        // Most are about terminals and pipes that it was given, on which Landlock has no say.
        if let Found::There(place) = self.thread.descriptor(fd)
            && place.is_device()
        {
            self.found.push(Need::Device(place.subject()));
        }
    }

    fn address(&mut self, fd: i32, address: u64, len: u32, bind: bool) {
        const UNIX: u16 = 1;
        const INET: u16 = 2;
        const INET6: u16 = 10;
        let len = usize::try_from(len.min(128)).unwrap_or(0);
        let Ok(bytes) = self.thread.bytes(address, len) else { return self.found.push(Need::Unknown) };
        let [a, b, rest @ ..] = bytes.as_slice() else { return };
        match (u16::from_ne_bytes([*a, *b]), rest) {
            (INET | INET6, [high, low, ..]) if self.is_tcp(fd) => {
                let port = u16::from_be_bytes([*high, *low]);
                self.found.push(if bind { Need::Bind(port) } else { Need::Connect(port) });
            }
            (UNIX, [first, ..]) if bind && *first != 0 => {
                let path = rest.split(|byte| *byte == 0).next().unwrap_or_default();
                self.make_path(From::Cwd, path, Access::MAKE_SOCK);
            }
            _ => {}
        }
    }

    /// Where that cannot be told, it may be.
    fn is_tcp(&self, fd: i32) -> bool {
        let socket = process(&self.thread).and_then(|process| pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok());
        let Some(socket) = socket else { return true };
        let stream = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM);
        stream && sockopt::socket_protocol(&socket).is_ok_and(|protocol| protocol == Some(ipproto::TCP))
    }

    fn exec(&mut self, from: From, address: u64, flags: u32) {
        let Some(path) = self.path(address) else { return };
        if path.is_empty() && flags & AT_EMPTY_PATH == 0 {
            return;
        }
        let found = self.thread.find(from, &path, flags & AT_SYMLINK_NOFOLLOW == 0);
        if let Some(place) = self.there(found).filter(Place::is_program) {
            self.execute(&place, MOST_INTERPRETERS);
        }
    }

    /// It, and what the kernel opens to run it.
    fn execute(&mut self, program: &Place, deeper: usize) {
        self.need(program.subject(), Access::EXECUTE | Access::READ_FILE);
        let head = program.head(HEAD);
        let script = interpreter_of_script(&head);
        let is_script = script.is_some();
        let Some(interpreter) = script.or_else(|| interpreter_of_elf(&head, program)) else { return };
        if let Some(interpreter) = self.place(From::Cwd, &interpreter, true).filter(Place::is_program) {
            if is_script && deeper > 0 {
                self.execute(&interpreter, deeper - 1);
            } else {
                self.need(interpreter.subject(), Access::EXECUTE | Access::READ_FILE);
            }
        }
    }
}

const AT_REMOVEDIR: u32 = 0x200;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_SYMLINK_FOLLOW: u32 = 0x400;
const AT_EMPTY_PATH: u32 = 0x1000;

/// Of an argument that the kernel takes for an `int`.
fn low(argument: u64) -> u32 {
    let [.., a, b, c, d] = argument.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

fn base(argument: u64) -> From {
    const AT_FDCWD: i32 = -100;
    match low(argument).cast_signed() {
        AT_FDCWD => From::Cwd,
        fd => From::Fd(fd),
    }
}

/// What a file is opened for.
fn opened(flags: OFlags) -> Access {
    let access = match flags.bits() & 3 {
        0 => Access::READ_FILE,
        1 => Access::WRITE_FILE,
        2 => Access::READ_FILE | Access::WRITE_FILE,
        // For ioctl(2) only.
        _ => Access::empty(),
    };
    if flags.contains(OFlags::TRUNC) { access | Access::TRUNCATE } else { access }
}

/// What is made by mknod(2).
fn node(mode: u32) -> Access {
    match FileType::from_raw_mode(mode) {
        FileType::CharacterDevice => Access::MAKE_CHAR,
        FileType::BlockDevice => Access::MAKE_BLOCK,
        FileType::Fifo => Access::MAKE_FIFO,
        FileType::Socket => Access::MAKE_SOCK,
        _ => Access::MAKE_REG,
    }
}

fn removal(place: &Place) -> Access {
    if place.is_dir() { Access::REMOVE_DIR } else { Access::REMOVE_FILE }
}

fn creation(place: &Place) -> Access {
    match place.kind() {
        FileType::Directory => Access::MAKE_DIR,
        FileType::Symlink => Access::MAKE_SYM,
        FileType::CharacterDevice => Access::MAKE_CHAR,
        FileType::BlockDevice => Access::MAKE_BLOCK,
        FileType::Fifo => Access::MAKE_FIFO,
        FileType::Socket => Access::MAKE_SOCK,
        _ => Access::MAKE_REG,
    }
}

/// What stands behind `#!`.
fn interpreter_of_script(head: &[u8]) -> Option<Vec<u8>> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
    let path = line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).next()?;
    Some(path.to_vec()).filter(|path| !path.is_empty())
}

/// The `PT_INTERP` of an ELF file of 64 bits and this machine's byte order.
fn interpreter_of_elf(head: &[u8], file: &Place) -> Option<Vec<u8>> {
    const PT_INTERP: u32 = 3;
    const CLASS_64: u8 = 2;
    let number = |bytes: &[u8], at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let half = |at: usize| Some(usize::from(u16::from_ne_bytes(*head.get(at..)?.first_chunk()?)));
    if head.strip_prefix(b"\x7fELF")?.first() != Some(&CLASS_64) {
        return None;
    }
    let (offset, size, count) = (number(head, 32)?, half(54)?, half(56)?);
    if size != 56 {
        return None;
    }
    let headers = file.read_at(offset, size * count.min(512))?;
    let header = headers
        .chunks_exact(size)
        .find(|header| header.first_chunk().is_some_and(|kind| u32::from_ne_bytes(*kind) == PT_INTERP))?;
    let len = usize::try_from(number(header, 32)?).ok()?;
    let path = file.read_at(number(header, 8)?, len.min(4096))?;
    Some(path.split(|byte| *byte == 0).next()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        assert_eq!(interpreter_of_script(b"#!/bin/sh -e\necho"), Some(b"/bin/sh".to_vec()));
        assert_eq!(interpreter_of_script(b"#! \t/usr/bin/env python3"), Some(b"/usr/bin/env".to_vec()));
        assert_eq!(interpreter_of_script(b"#!\n"), None);
        assert_eq!(interpreter_of_script(b"\x7fELF"), None);
    }

    #[test]
    fn flags() {
        assert_eq!(opened(OFlags::RDWR | OFlags::TRUNC), Access::READ_FILE | Access::WRITE_FILE | Access::TRUNCATE);
        assert_eq!(node(0o644), Access::MAKE_REG);
        assert_eq!(node(0o010_644), Access::MAKE_FIFO);
    }
}
