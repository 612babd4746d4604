//! The floor of each row: the namespaces, the root and the cgroups that are asked for, made by nothing but the system calls
//! for them in a process that shares our memory until its exec. No checks, no errors with a name, no agent, no reaping; one
//! mapped id; the loopback device stays down; hardened, there is no Landlock.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use crate::common::Result;
use crate::common::cgroups::Cgroups;
use crate::common::launches::{BINDS, TMPFS_BYTES};
use crate::raw::{Spawn, done};
use crate::ways::{Arguments, Places, Target};

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

// What libc has in other types than the calls take them.
const HERE: u64 = u64::MAX - 99; // AT_FDCWD
const EMPTY_PATH: u64 = 0x1000; // AT_EMPTY_PATH
const RECURSIVE: u64 = 0x8000; // AT_RECURSIVE
const CLONE_TREE: u64 = 0x1 | 0x8_0000; // OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC
const PRIVATE: u64 = 0x4000 | 0x4_0000; // MS_REC, MS_PRIVATE
const DETACH: u64 = 0x2; // MNT_DETACH
const MOVE_FROM_EMPTY: u64 = 0x4; // MOVE_MOUNT_F_EMPTY_PATH
const READ_ONLY: u64 = 0x1 | 0x2 | 0x4; // MOUNT_ATTR_RDONLY, NOSUID, NODEV
const SET_STRING: u64 = 1; // FSCONFIG_SET_STRING
const CREATE: u64 = 6; // FSCONFIG_CMD_CREATE

pub struct Floor {
    uid_map: CString,
    gid_map: CString,
    root: Option<Root>,
    /// To be put on, after all capabilities are gone.
    filter: Option<Vec<u8>>,
}

/// A root like that of the other rows.
struct Root {
    /// What is bound, and where: directories, then a file.
    directories: Vec<(CString, CString)>,
    file: (CString, CString),
    size: CString,
}

impl Floor {
    pub fn new(places: &Places, root: bool, filter: Option<Vec<u8>>) -> Result<Self> {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
        let name = |path: &str| text(Path::new(path.trim_start_matches('/')));
        let bind = |path: &str| Ok((text(&Path::new(path).canonicalize()?)?, name(path)?));
        let made = || {
            let directories = BINDS.into_iter().map(bind).collect::<Result<_>>()?;
            let size = CString::new(TMPFS_BYTES.to_string())?;
            Ok::<_, Box<dyn std::error::Error>>(Root {
                directories,
                file: (text(&places.program)?, name("static")?),
                size,
            })
        };
        // SAFETY: they cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Ok(Self {
            uid_map: CString::new(format!("0 {uid} 1"))?,
            gid_map: CString::new(format!("0 {gid} 1"))?,
            root: root.then(made).transpose()?,
            filter,
        })
    }

    pub fn arguments(&self, places: &Places, target: Target) -> Result<Vec<CString>> {
        Arguments::default().program(places, target, self.root.is_some()).finish()
    }

    /// Starts it, in these cgroups.
    pub fn spawn(&self, arguments: Vec<CString>, streams: [i32; 3], cgroups: Option<&Cgroups>) -> Result<libc::pid_t> {
        let mut doors = vec![];
        let mut into = None;
        match cgroups {
            Some(cgroups) if cgroups.version == "v2" => {
                into = cgroups.directories.first().map(File::open).transpose()?;
            }
            Some(cgroups) => doors = cgroups.doors()?,
            None => {}
        }
        let steps = || {
            if !Cgroups::enter(&doors) {
                return Err(libc::EACCES);
            }
            map_ids(&self.uid_map, &self.gid_map)?;
            self.root.as_ref().map_or(Ok(()), make_root)?;
            self.filter.as_ref().map_or(Ok(()), |filter| confine(filter))
        };
        let mut spawn = Spawn::new(arguments, &steps);
        spawn.namespaces = u64::from(NAMESPACES.unsigned_abs());
        spawn.into = into.as_ref().map(|directory| directory.as_fd());
        spawn.streams = streams;
        Ok(spawn.spawn()?)
    }
}

fn map_ids(uid_map: &CStr, gid_map: &CStr) -> std::result::Result<(), i32> {
    for (file, text) in
        [(c"/proc/self/setgroups", c"deny"), (c"/proc/self/uid_map", uid_map), (c"/proc/self/gid_map", gid_map)]
    {
        // SAFETY: the text is as long as is said.
        unsafe {
            let fd = done(libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
            let fd = i32::try_from(fd).map_err(|_| libc::EBADF)?;
            let written = libc::write(fd, text.as_ptr().cast(), text.count_bytes());
            let written = done(i64::try_from(written).unwrap_or(-1));
            libc::close(fd);
            written?;
        }
    }
    Ok(())
}

/// A system call of up to five arguments.
fn call(number: i64, arguments: [u64; 5]) -> std::result::Result<u64, i32> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: those that are pointers point at what outlives the call.
    let result = done(unsafe { libc::syscall(number, a, b, c, d, e) })?;
    Ok(result.unsigned_abs())
}

fn text(text: &CStr) -> u64 {
    text.as_ptr().addr() as u64
}

fn new_mount(kind: &CStr, options: &[(&CStr, &CStr)]) -> std::result::Result<u64, i32> {
    let context = call(libc::SYS_fsopen, [text(kind), 1, 0, 0, 0])?;
    for (key, value) in options {
        call(libc::SYS_fsconfig, [context, SET_STRING, text(key), text(value), 0])?;
    }
    call(libc::SYS_fsconfig, [context, CREATE, 0, 0, 0])?;
    let mount = call(libc::SYS_fsmount, [context, 1, 0x2 | 0x4, 0, 0])?;
    call(libc::SYS_close, [context, 0, 0, 0, 0])?;
    Ok(mount)
}

fn put(mount: u64, root: u64, name: &CStr) -> std::result::Result<(), i32> {
    call(libc::SYS_move_mount, [mount, text(c""), root, text(name), MOVE_FROM_EMPTY])?;
    call(libc::SYS_close, [mount, 0, 0, 0, 0]).map(drop)
}

fn bind(source: &CStr) -> std::result::Result<u64, i32> {
    let attributes = [READ_ONLY, 0, 0, 0];
    let tree = call(libc::SYS_open_tree, [HERE, text(source), CLONE_TREE | RECURSIVE, 0, 0])?;
    let [pointer, size] = [attributes.as_ptr().addr() as u64, size_of_val(&attributes) as u64];
    call(libc::SYS_mount_setattr, [tree, text(c""), EMPTY_PATH | RECURSIVE, pointer, size])?;
    Ok(tree)
}

fn make_root(root: &Root) -> std::result::Result<(), i32> {
    call(libc::SYS_mount, [0, text(c"/"), 0, PRIVATE, 0])?;
    let new = new_mount(c"tmpfs", &[(c"mode", c"755")])?;
    call(libc::SYS_move_mount, [new, text(c""), HERE, text(c"/"), MOVE_FROM_EMPTY])?;
    for (source, name) in &root.directories {
        let tree = bind(source)?;
        call(libc::SYS_mkdirat, [new, text(name), 0o755, 0, 0])?;
        put(tree, new, name)?;
    }
    let (source, name) = &root.file;
    let tree = bind(source)?;
    call(libc::SYS_mknodat, [new, text(name), u64::from(libc::S_IFREG | 0o644), 0, 0])?;
    put(tree, new, name)?;
    for (name, kind, options) in
        [(c"proc", c"proc", &[][..]), (c"tmp", c"tmpfs", &[(c"size", root.size.as_c_str()), (c"mode", c"1777")])]
    {
        call(libc::SYS_mkdirat, [new, text(name), 0o755, 0, 0])?;
        put(new_mount(kind, options)?, new, name)?;
    }
    call(libc::SYS_fchdir, [new, 0, 0, 0, 0])?;
    call(libc::SYS_pivot_root, [text(c"."), text(c"."), 0, 0, 0])?;
    call(libc::SYS_umount2, [text(c"."), DETACH, 0, 0, 0])?;
    call(libc::SYS_chdir, [text(c"/"), 0, 0, 0, 0]).map(drop)
}

/// No capabilities, in no set; no new privileges; the filter.
fn confine(filter: &[u8]) -> std::result::Result<(), i32> {
    const DROP: u64 = 24; // PR_CAPBSET_DROP
    const NO_NEW_PRIVS: u64 = 38; // PR_SET_NO_NEW_PRIVS
    const SET_FILTER: u64 = 1; // SECCOMP_SET_MODE_FILTER
    let mut capability = 0;
    while call(libc::SYS_prctl, [DROP, capability, 0, 0, 0]).is_ok() {
        capability += 1;
    }
    // _LINUX_CAPABILITY_VERSION_3, and 0 for this process.
    let (header, none) = ([0x2008_0522u32, 0], [0u32; 6]);
    call(libc::SYS_capset, [header.as_ptr().addr() as u64, none.as_ptr().addr() as u64, 0, 0, 0])?;
    call(libc::SYS_prctl, [NO_NEW_PRIVS, 1, 0, 0, 0])?;
    let instructions = u16::try_from(filter.len() / 8).map_err(|_| libc::E2BIG)?;
    let program = libc::sock_fprog { len: instructions, filter: filter.as_ptr().cast_mut().cast() };
    call(libc::SYS_seccomp, [SET_FILTER, 0, (&raw const program).addr() as u64, 0, 0]).map(drop)
}
