//! Landlock (landlock(7)): rules that the program cannot get rid of, on top of what users and mounts allow.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bitflags::bitflags;

use crate::error::Error;
use crate::mount;
use crate::plan;
use crate::prepare::Packed;
use crate::support::Layer;

bitflags! {
    /// What may be done below a path: the kernel's `LANDLOCK_ACCESS_FS_*`.
    ///
    /// What can be done by a path alone is not among it: `chdir`, `stat`, `chmod`, `chown`, `setxattr`, `utime`, `access`.
    ///
    /// ```
    /// # use stockade::landlock::Access;
    /// assert_eq!(Access::READ, Access::READ_FILE | Access::READ_DIR);
    /// assert!(Access::WRITE.contains(Access::TRUNCATE) && !Access::WRITE.contains(Access::MAKE_BLOCK));
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Access: u64 {
        /// Execute a file (`EXECUTE`); since the kernel opens it for reading, that takes `READ_FILE` too.
        const EXECUTE = 1 << 0;
        /// Open a file for writing (`WRITE_FILE`).
        const WRITE_FILE = 1 << 1;
        /// Open a file for reading (`READ_FILE`).
        const READ_FILE = 1 << 2;
        /// Open a directory, or list it (`READ_DIR`).
        const READ_DIR = 1 << 3;
        /// Remove an empty directory, or rename one (`REMOVE_DIR`).
        const REMOVE_DIR = 1 << 4;
        /// Unlink a file, or rename one (`REMOVE_FILE`).
        const REMOVE_FILE = 1 << 5;
        /// Make a character device (`MAKE_CHAR`).
        const MAKE_CHAR = 1 << 6;
        /// Make a directory (`MAKE_DIR`).
        const MAKE_DIR = 1 << 7;
        /// Make a regular file, or link one (`MAKE_REG`).
        const MAKE_REG = 1 << 8;
        /// Make a socket (`MAKE_SOCK`).
        const MAKE_SOCK = 1 << 9;
        /// Make a named pipe (`MAKE_FIFO`).
        const MAKE_FIFO = 1 << 10;
        /// Make a block device (`MAKE_BLOCK`).
        const MAKE_BLOCK = 1 << 11;
        /// Make a symbolic link (`MAKE_SYM`).
        const MAKE_SYM = 1 << 12;
        /// Link or rename a file from one directory to another (`REFER`; ABI 2, and always refused before).
        const REFER = 1 << 13;
        /// Cut a file short (`TRUNCATE`; not restricted before ABI 3).
        const TRUNCATE = 1 << 14;
        /// Call ioctl(2) on a device (`IOCTL_DEV`; not restricted before ABI 5).
        const IOCTL_DEV = 1 << 15;

        /// Read files and list directories.
        const READ = Self::READ_FILE.bits() | Self::READ_DIR.bits();
        /// All that changes files or directories, but for making devices.
        const WRITE = Self::WRITE_FILE.bits() | Self::REMOVE_DIR.bits() | Self::REMOVE_FILE.bits() | Self::MAKE_DIR.bits()
            | Self::MAKE_REG.bits() | Self::MAKE_SOCK.bits() | Self::MAKE_FIFO.bits() | Self::MAKE_SYM.bits()
            | Self::REFER.bits() | Self::TRUNCATE.bits();
    }
}

const BIND_TCP: u64 = 1 << 0;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// The most sets of rules for one sandbox; the kernel stacks 16.
const MOST: usize = plan::MAX_RULESETS;

#[derive(Debug, Clone, PartialEq, Eq)]
struct PathRule {
    path: PathBuf,
    access: Access,
    optional: bool,
}

/// What the program may do, of what Landlock knows: the rest is refused with EACCES.
///
/// Once a path is named, files everywhere else are out of reach; once a port is named, so are all others, for TCP. Paths
/// are the sandbox's own, and are looked up when its root stands, so that they may be on what was mounted for it. They must
/// be there: one that is not is [`Error::Setup`] at the step `LandlockRules`, and one with `..` is [`Error::Invalid`].
///
/// ```
/// use stockade::landlock::{Access, Rules};
/// use stockade::{Layers, Rootfs, Sandbox};
///
/// let rules = Rules::new().path("/", Access::READ | Access::EXECUTE).path("/tmp", Access::READ | Access::WRITE);
/// let sandbox = Sandbox::new().rootfs(Rootfs::system()).landlock(rules).best_effort(Layers::LANDLOCK);
/// assert!(sandbox.command("touch").arg("/tmp/file").status()?.success());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    restrict_files: bool,
    paths: Vec<PathRule>,
    net: u64,
    ports: Vec<(u16, u64)>,
    scopes: u64,
}

impl Rules {
    /// Restricts nothing yet.
    ///
    /// ```
    /// # use stockade::landlock::Rules;
    /// let rules = Rules::new(); // restricts nothing
    /// assert_eq!(rules.to_rust(), "Rules::new()");
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows this at a path, and below it if that is a directory; of rules that meet, all count together.
    ///
    /// ```
    /// # use stockade::{Rootfs, Sandbox};
    /// # use stockade::landlock::{Access, Rules};
    /// let rules = Rules::new().path("/", Access::READ | Access::EXECUTE).path("/tmp", Access::READ | Access::WRITE);
    /// let sandbox = Sandbox::new().rootfs(Rootfs::system()).landlock(rules);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("touch").arg("/tmp/file").status()?.success());
    /// assert!(!sandbox.command("touch").arg("/file").output()?.outcome.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[doc(alias = "LANDLOCK_RULE_PATH_BENEATH")]
    #[must_use]
    pub fn path(self, path: impl AsRef<Path>, access: Access) -> Self {
        self.rule(path.as_ref(), access, false)
    }

    /// As [`path`](Rules::path), but it need not be there; if it is made later it is not allowed.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::landlock::{Access, Rules};
    /// let rules = Rules::new().path("/", Access::READ | Access::EXECUTE).optional_path("/no/such", Access::WRITE);
    /// let sandbox = Sandbox::new().landlock(rules);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn optional_path(self, path: impl AsRef<Path>, access: Access) -> Self {
        self.rule(path.as_ref(), access, true)
    }

    fn rule(mut self, path: &Path, access: Access, optional: bool) -> Self {
        self.paths.push(PathRule { path: path.to_owned(), access, optional });
        self.no_files()
    }

    /// Files are out of reach, but for what [`path`](Rules::path) allows.
    ///
    /// ```
    /// # use stockade::{Error, Sandbox};
    /// # use stockade::landlock::Rules;
    /// let sandbox = Sandbox::new().landlock(Rules::new().no_files());
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(matches!(sandbox.command("true").spawn(), Err(Error::Exec { .. }))); // not even that
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn no_files(mut self) -> Self {
        self.restrict_files = true;
        self
    }

    /// Allows to bind a TCP socket to a port; others are refused (`LANDLOCK_ACCESS_NET_BIND_TCP`, ABI 4).
    ///
    /// ```
    /// # use stockade::landlock::Rules;
    /// let rules = Rules::new().tcp_bind(8080);
    /// assert_eq!(rules.to_rust(), "Rules::new()\n    .tcp_bind(8080)");
    /// ```
    #[must_use]
    pub fn tcp_bind(self, port: u16) -> Self {
        self.port(port, BIND_TCP)
    }

    /// Allows to connect a TCP socket to a port; others are refused (`LANDLOCK_ACCESS_NET_CONNECT_TCP`, ABI 4).
    ///
    /// ```
    /// # use stockade::landlock::Rules;
    /// let rules = Rules::new().tcp_connect(443);
    /// assert_eq!(rules.to_rust(), "Rules::new()\n    .tcp_connect(443)");
    /// ```
    #[must_use]
    pub fn tcp_connect(self, port: u16) -> Self {
        self.port(port, CONNECT_TCP)
    }

    fn port(mut self, port: u16, access: u64) -> Self {
        self.ports.push((port, access));
        self.net |= access;
        self
    }

    /// Refuses TCP altogether, but for the ports of [`tcp_bind`](Rules::tcp_bind) and
    /// [`tcp_connect`](Rules::tcp_connect). Other protocols are not Landlock's.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::landlock::Rules;
    /// let sandbox = Sandbox::new().landlock(Rules::new().no_tcp().tcp_connect(443));
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn no_tcp(mut self) -> Self {
        self.net = BIND_TCP | CONNECT_TCP;
        self
    }

    /// No abstract unix sockets but those of its own (`LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`, ABI 6).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::landlock::Rules;
    /// let sandbox = Sandbox::new().landlock(Rules::new().scope_abstract_sockets());
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// assert!(sandbox.command("true").status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn scope_abstract_sockets(mut self) -> Self {
        self.scopes |= SCOPE_ABSTRACT_UNIX_SOCKET;
        self
    }

    /// No signals but to processes of its own (`LANDLOCK_SCOPE_SIGNAL`, ABI 6).
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// # use stockade::landlock::Rules;
    /// let rules = Rules::new().scope_signals();
    /// let sandbox = Sandbox::new().landlock(rules);
    /// # if let Err(stockade::Error::Unsupported { .. }) = sandbox.prepare() { return Ok(()) }
    /// let script = format!("kill -0 {} 2>/dev/null", std::process::id());
    /// assert!(!sandbox.command("sh").args(["-c", &script]).status()?.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn scope_signals(mut self) -> Self {
        self.scopes |= SCOPE_SIGNAL;
        self
    }

    /// The rules in Rust, to be pasted into a program.
    ///
    /// ```
    /// # use stockade::landlock::{Access, Rules};
    /// let rules = Rules::new().path("/usr", Access::READ_FILE | Access::EXECUTE);
    /// assert_eq!(rules.to_rust(), "Rules::new()\n    .path(\"/usr\", Access::EXECUTE | Access::READ_FILE)");
    /// ```
    pub fn to_rust(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("Rules::new()");
        for rule in &self.paths {
            let names: Vec<_> = rule.access.iter_names().map(|(name, _)| format!("Access::{name}")).collect();
            let names = if names.is_empty() { "Access::empty()".into() } else { names.join(" | ") };
            let method = if rule.optional { "optional_path" } else { "path" };
            let _ = write!(text, "\n    .{method}({}, {names})", path_in_rust(&rule.path));
        }
        let mut method = |wanted: bool, name: &str| {
            if wanted {
                let _ = write!(text, "\n    .{name}()");
            }
        };
        method(self.restrict_files && self.paths.is_empty(), "no_files");
        method(self.net == BIND_TCP | CONNECT_TCP, "no_tcp");
        method(self.scopes & SCOPE_ABSTRACT_UNIX_SOCKET != 0, "scope_abstract_sockets");
        method(self.scopes & SCOPE_SIGNAL != 0, "scope_signals");
        for (port, access) in &self.ports {
            let method = if *access == BIND_TCP { "tcp_bind" } else { "tcp_connect" };
            let _ = write!(text, "\n    .{method}({port})");
        }
        text
    }
}

/// A name that is no UTF-8 cannot be a string.
fn path_in_rust(path: &Path) -> String {
    match path.to_str() {
        Some(path) => format!("{path:?}"),
        None => format!(
            "<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b\"{}\")",
            path.as_os_str().as_bytes().escape_ascii()
        ),
    }
}

/// What a plan says of Landlock.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) rulesets: Packed,
    /// What each rule is about, for errors; set by set.
    pub(crate) subjects: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// For a kernel of this ABI; without one there is none. With `lenient`, what it does not know is left out and noted.
pub(crate) fn compile(all: &[Rules], abi: Option<u32>, lenient: bool) -> Result<Compiled, Error> {
    let mut compiled = Compiled::default();
    if all.is_empty() {
        return Ok(compiled);
    }
    let Some(abi) = abi else { return Err(unsupported_here()) };
    compiled.notes.push(format!("Landlock ABI {abi}"));
    if all.len() > MOST {
        return Err(Error::invalid("landlock", format!("{} sets of rules; {MOST} is the most", all.len())));
    }
    for rules in all {
        rules.compile(abi, lenient, &mut compiled)?;
    }
    Ok(compiled)
}

pub(crate) fn unsupported_here() -> Error {
    let reason = "the kernel has no Landlock, or it is not enabled".into();
    unsupported(reason, "boot with lsm=landlock,... or accept it by best_effort(Layers::LANDLOCK)")
}

fn unsupported(reason: String, remedy: &str) -> Error {
    Error::Unsupported { layer: Layer::Landlock, reason, remedy: remedy.into() }
}

impl Rules {
    fn compile(&self, abi: u32, lenient: bool, to: &mut Compiled) -> Result<(), Error> {
        let files = if self.restrict_files { known_access(abi) } else { Access::empty() };
        let wanted = self.paths.iter().fold(Access::empty(), |all, rule| all | rule.access);
        for (access, what) in [(Access::TRUNCATE, "truncation"), (Access::IOCTL_DEV, "ioctl(2) on devices")] {
            if self.restrict_files && !files.contains(access) {
                to.notes.push(format!("Landlock ABI {abi} does not restrict {what}"));
            }
        }
        if wanted.contains(Access::REFER) && !files.contains(Access::REFER) && self.restrict_files {
            to.notes.push(format!("Landlock ABI {abi} refuses every link or rename between directories"));
        }
        let mut known = |wanted: u64, needed: u32, what: &str| {
            if wanted == 0 || abi >= needed {
                return Ok(wanted);
            }
            if lenient {
                to.notes.push(format!("Landlock ABI {abi} cannot restrict {what}; ABI {needed} can"));
                return Ok(0);
            }
            let reason = format!("Landlock ABI {abi} cannot restrict {what}; ABI {needed} can");
            Err(unsupported(reason, "run a newer kernel, or accept it by best_effort(Layers::LANDLOCK)"))
        };
        let net = known(self.net, 4, "TCP ports")?;
        let scopes = known(self.scopes, 6, "abstract sockets and signals")?;
        if files.is_empty() && net == 0 && scopes == 0 {
            return Ok(());
        }
        let mut paths = Packed::default();
        for rule in &self.paths {
            let path: CString = mount::target_of("landlock", &rule.path, true)?;
            let access = (rule.access & files).bits();
            paths.push(&plan::PathRule { access, optional: u32::from(rule.optional), path: &path });
            to.subjects.push(format!("Landlock rule for {}", rule.path.display()));
        }
        let mut ports = Packed::default();
        for (port, access) in self.ports.iter().filter(|_| net != 0) {
            ports.push(&plan::PortRule { access: *access, port: u64::from(*port) });
            to.subjects.push(format!("Landlock rule for port {port}"));
        }
        to.rulesets.push(&plan::Ruleset { files: files.bits(), net, scopes, paths: paths.list(), ports: ports.list() });
        Ok(())
    }
}

/// What this ABI can restrict.
fn known_access(abi: u32) -> Access {
    use landlock::{ABI, Access as _, AccessFs};
    let abi = match abi {
        1 => ABI::V1,
        2 => ABI::V2,
        3 | 4 => ABI::V3,
        _ => ABI::V5,
    };
    Access::from_bits_truncate(AccessFs::from_all(abi).bits())
}

/// The highest ABI that both the kernel and the `landlock` crate know. Nothing is restricted by asking.
pub(crate) fn abi() -> Option<u32> {
    use landlock::{ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    let known = [(1, ABI::V1), (2, ABI::V2), (3, ABI::V3), (4, ABI::V4), (5, ABI::V5), (6, ABI::V6)];
    let works = |number: u32, abi: ABI| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let handled = rules.handle_access(AccessFs::from_all(abi)).and_then(|rules| match number {
            ..4 => Ok(rules),
            _ => rules.handle_access(AccessNet::from_all(abi)),
        });
        let scoped = handled.and_then(|rules| match number {
            ..6 => Ok(rules),
            _ => rules.scope(Scope::from_all(abi)),
        });
        scoped.is_ok_and(|rules| rules.create().is_ok())
    };
    known.into_iter().rev().find(|(number, abi)| works(*number, *abi)).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_old_kernel_does_not_know() {
        let tcp = [Rules::new().no_tcp()];
        assert!(matches!(compile(&tcp, Some(3), false), Err(Error::Unsupported { layer: Layer::Landlock, .. })));
        assert_eq!(compile(&tcp, Some(3), true).unwrap().rulesets.count(), 0);
        assert_eq!(compile(&tcp, Some(4), false).unwrap().rulesets.count(), 1);
        let files = [Rules::new().path("/", Access::READ)];
        assert!(compile(&files, Some(2), false).unwrap().notes.iter().any(|note| note.contains("truncation")));
        assert!(matches!(compile(&files, None, false), Err(Error::Unsupported { .. })));
        assert!(compile(&[], None, false).is_ok());
        assert_eq!(known_access(1).bits(), 0x1fff);
        assert_eq!(known_access(6), Access::all());
    }

    #[test]
    fn rules_in_rust() {
        let rules = Rules::new().path("/usr", Access::READ_FILE | Access::EXECUTE).tcp_connect(80);
        assert_eq!(
            rules.to_rust(),
            "Rules::new()\n    .path(\"/usr\", Access::EXECUTE | Access::READ_FILE)\n    .tcp_connect(80)"
        );
        let rules = Rules::new().no_files().no_tcp().tcp_bind(1).scope_abstract_sockets().scope_signals();
        let calls = ["no_files()", "no_tcp()", "scope_abstract_sockets()", "scope_signals()", "tcp_bind(1)"];
        assert_eq!(rules.to_rust(), format!("Rules::new()\n    .{}", calls.join("\n    .")));
        let odd = std::ffi::OsStr::from_bytes(b"/a\n\"\xff");
        let rules = Rules::new().optional_path(odd, Access::READ_FILE).path("/a\n\"", Access::empty()).to_rust();
        assert!(rules.contains(
            r#".optional_path(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/a\n\"\xff"), "#
        ));
        assert!(rules.contains(r#".path("/a\n\"", Access::empty())"#));
    }
}
