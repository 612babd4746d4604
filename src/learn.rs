//! What a program needs, found by watching it: a policy to start from.

mod observe;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::child::{Child, Output};
use crate::error::Error;
use crate::landlock::{Access, Rules};
use crate::outcome::Outcome;
use crate::seccomp::{self, Filter};

/// What a call needs of Landlock.
#[derive(Debug)]
enum Need {
    Path(PathBuf, Access),
    /// It came to be in this run, and need not be there when the next one begins.
    Made(PathBuf),
    /// What is in one directory comes into another.
    Move {
        from: PathBuf,
        to: PathBuf,
        directories: bool,
    },
    /// ioctl(2) on a device, if the program has opened it itself.
    Device(PathBuf),
    Bind(u16),
    Connect(u16),
    /// It could not be seen.
    Unknown,
}

#[derive(Debug, Clone, Default)]
struct Needs {
    calls: BTreeSet<u32>,
    paths: BTreeMap<PathBuf, Access>,
    made: BTreeSet<PathBuf>,
    moves: BTreeSet<(PathBuf, PathBuf, bool)>,
    bind: BTreeSet<u16>,
    connect: BTreeSet<u16>,
    unknown: u64,
}

/// Where the first is called, the second is called or not by mere chance of timing: a thread waits for another, or was stopped
/// while it slept.
const COMPANIONS: &[(&str, &str)] = &[
    ("clone", "futex"),
    ("futex", "restart_syscall"),
    ("nanosleep", "restart_syscall"),
    ("clock_nanosleep", "restart_syscall"),
    ("poll", "restart_syscall"),
    ("ppoll", "restart_syscall"),
];

/// What is kept of a program that goes on without end.
const MOST_PATHS: usize = 1 << 16;
const MOST_MOVES: usize = 1 << 10;

/// What can be done to a file, as against a directory.
const OF_FILES: Access =
    Access::EXECUTE.union(Access::WRITE_FILE).union(Access::READ_FILE).union(Access::TRUNCATE).union(Access::IOCTL_DEV);

impl Needs {
    fn call(&mut self, number: u32) {
        self.calls.insert(number);
    }

    fn take(&mut self, need: Need) {
        match need {
            Need::Path(path, access) => {
                let holder = self.holder(&path);
                let full = self.paths.len() >= MOST_PATHS;
                match self.paths.get_mut(&holder) {
                    Some(known) => *known |= access,
                    None if full => self.unknown += 1,
                    None => drop(self.paths.insert(holder, access)),
                }
            }
            // What is in something that was made has its holder already.
            Need::Made(path) if self.holder(&path) != path => {}
            Need::Made(_) if self.made.len() >= MOST_PATHS => self.unknown += 1,
            Need::Made(path) => {
                self.made.insert(path);
            }
            Need::Move { .. } if self.moves.len() >= MOST_MOVES => self.unknown += 1,
            Need::Move { from, to, directories } => {
                self.moves.insert((self.holder(&from), self.holder(&to), directories));
            }
            Need::Device(path) => {
                let holder = self.holder(&path);
                if let Some(access) = self.paths.get_mut(&holder) {
                    *access |= Access::IOCTL_DEV;
                }
            }
            Need::Bind(port) => {
                self.bind.insert(port);
            }
            Need::Connect(port) => {
                self.connect.insert(port);
            }
            Need::Unknown => self.unknown += 1,
        }
    }

    /// What a rule about a path can name: itself, or the directory that was there before what was made in it.
    fn holder(&self, path: &Path) -> PathBuf {
        let made = path.ancestors().filter(|path| self.made.contains(*path)).last();
        made.and_then(Path::parent).unwrap_or(path).to_owned()
    }

    fn merge(&mut self, other: Self) {
        self.calls.extend(other.calls);
        self.moves.extend(other.moves);
        self.made.extend(other.made);
        self.bind.extend(other.bind);
        self.connect.extend(other.connect);
        self.unknown = self.unknown.saturating_add(other.unknown);
        for (path, access) in other.paths {
            *self.paths.entry(path).or_default() |= access;
        }
    }

    fn fold(&mut self, directory: &Path) {
        let folded = |path: PathBuf| if path.starts_with(directory) { directory.to_owned() } else { path };
        for (path, access) in std::mem::take(&mut self.paths) {
            *self.paths.entry(folded(path)).or_default() |= access;
        }
        let moves = std::mem::take(&mut self.moves);
        self.moves = moves.into_iter().map(|(from, to, directories)| (folded(from), folded(to), directories)).collect();
    }

    /// All that is allowed at a path, by the rules for it and for what it is in.
    fn allowed(paths: &BTreeMap<PathBuf, Access>, path: &Path) -> Access {
        path.ancestors().filter_map(|path| paths.get(path)).fold(Access::empty(), |all, access| all | *access)
    }

    /// One entry for each path. None says what those above it say already.
    fn paths(&self) -> BTreeMap<PathBuf, Access> {
        let mut paths = self.paths.clone();
        loop {
            let before = paths.clone();
            for (from, to, directories) in &self.moves {
                // Landlock refuses a move by which anything more is allowed than before.
                let gained = Self::allowed(&paths, to) & if *directories { Access::all() } else { OF_FILES };
                let missing = gained - Self::allowed(&paths, from);
                if !missing.is_empty() {
                    *paths.entry(from.clone()).or_default() |= missing;
                }
            }
            if paths == before {
                break;
            }
        }
        let above = |path: &Path| path.parent().map_or(Access::empty(), |parent| Self::allowed(&paths, parent));
        paths.iter().filter(|(path, access)| !above(path).contains(**access)).map(|(p, a)| (p.clone(), *a)).collect()
    }
}

/// What a program needed, as [`Command::learn`](crate::Command::learn) has seen it.
///
/// ```
/// use stockade::{Layers, Rootfs, Sandbox};
///
/// let sandbox = Sandbox::new().rootfs(Rootfs::system()).best_effort(Layers::LANDLOCK);
/// let learned = sandbox.command("true").learn()?;
/// println!("{}", learned.to_rust());
/// let strict = sandbox.seccomp(learned.filter()).landlock(learned.rules());
/// assert!(strict.command("true").status()?.success());
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// One run does not see everything: [`merge`](Self::merge) those with other inputs, and read what comes out. What it does
/// not tell:
///
/// - arguments of calls: the filter allows each call that was made, or none;
/// - which calls failed. What is not there, or is on a read-only mount, gets no rule, but what permissions alone refused does;
/// - what is opened by io_uring(7), by handle, or through a directory that was handed over from outside of the sandbox
///   (the last is counted by [`unknown`](Self::unknown));
/// - interpreters of binfmt_misc.
///
/// What the run itself made is covered by a rule for the directory in which it made it. Paths below a process's own
/// directory in procfs, and terminals by number, differ from run to run: a rule for all of `/proc` or `/dev/pts` stands for
/// them.
#[derive(Debug, Clone)]
pub struct Learned {
    output: Output,
    needs: Needs,
}

impl Learned {
    /// How the program ended.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let learned = Sandbox::new().command("false").learn()?;
    /// assert_eq!(learned.outcome().code(), Some(1));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn outcome(&self) -> &Outcome {
        &self.output.outcome
    }

    /// The same, with what it wrote to the streams that were piped.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let learned = Sandbox::new().command("echo").arg("hello").stdout(Stdio::piped()).learn()?;
    /// assert_eq!(learned.output().stdout, b"hello\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// An allow list of the calls that it made, up to its end; its own exec is not among them, which every filter lets through.
    /// `clone3(2)` is not among them: it is refused with ENOSYS, so
    /// that libraries use `clone(2)`. Two are added that are made or not by mere chance of timing: `futex(2)` to `clone(2)`, and
    /// to calls that sleep `restart_syscall(2)`, by which the kernel goes on with them after a stop.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let learned = Sandbox::new().command("true").learn()?;
    /// let strict = Sandbox::new().seccomp(learned.filter());
    /// assert!(strict.command("true").status()?.success());
    /// assert!(!strict.command("ls").output()?.outcome.success()); // it does more than `true` did
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn filter(&self) -> Filter {
        self.calls().into_iter().fold(Filter::allow_list(), |filter, (name, number)| match name {
            Some(name) => filter.allow(name),
            None => filter.allow(number),
        })
    }

    /// By name; those without one come last.
    fn calls(&self) -> Vec<(Option<&'static str>, u32)> {
        let mut numbers = self.needs.calls.clone();
        for (cause, companion) in COMPANIONS {
            if seccomp::number(cause).is_some_and(|cause| numbers.contains(&cause)) {
                numbers.extend(seccomp::number(companion));
            }
        }
        let mut calls: Vec<_> = numbers.into_iter().map(|number| (seccomp::known_name(number), number)).collect();
        calls.sort_by_key(|(name, number)| (name.is_none(), *name, *number));
        calls
    }

    /// Rules of Landlock for what it opened, executed, made and removed; and for the TCP ports that it used, if it made a
    /// socket at all. One entry for each file, with all that was done to it.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let learned = Sandbox::new().command("cat").arg("/etc/passwd").stdout(Stdio::null()).learn()?;
    /// assert!(learned.rules().to_rust().contains("/etc/passwd"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn rules(&self) -> Rules {
        let mut rules = Rules::new().no_files();
        for (path, access) in self.needs.paths() {
            rules = rules.path(path, access);
        }
        if self.needs.calls.iter().any(|number| seccomp::name(*number) == "socket") {
            rules = rules.no_tcp();
        }
        for port in &self.needs.bind {
            rules = rules.tcp_bind(*port);
        }
        for port in &self.needs.connect {
            rules = rules.tcp_connect(*port);
        }
        rules
    }

    /// How many calls there were whose paths could not be seen: in the memory of a process that this one may not look into
    /// (another user's, or one that is not dumpable), or outside of the sandbox; or what was beyond 65536 paths. There is no
    /// rule for them.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let learned = Sandbox::new().command("true").learn()?;
    /// assert_eq!(learned.unknown(), 0);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn unknown(&self) -> u64 {
        self.needs.unknown
    }

    /// Adds what another run needed. How that ended is forgotten.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let learn = |file| Sandbox::new().command("cat").arg(file).stdout(Stdio::null()).learn();
    /// let both = learn("/etc/passwd")?.merge(learn("/etc/group")?);
    /// let rules = both.rules().to_rust();
    /// assert!(rules.contains("/etc/passwd") && rules.contains("/etc/group"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn merge(mut self, other: Learned) -> Self {
        self.needs.merge(other.needs);
        self
    }

    /// Replaces the rules for what is in a directory by one for the directory, with all that was done to any of it; nothing, if
    /// there is none. A wider rule, which outlives an update of a library.
    ///
    /// ```
    /// # use stockade::{Sandbox, Stdio};
    /// let learned = Sandbox::new().command("cat").arg("/etc/passwd").stdout(Stdio::null()).learn()?;
    /// let rules = learned.fold("/etc").rules().to_rust();
    /// assert!(rules.contains("\"/etc\"") && !rules.contains("/etc/passwd"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn fold(mut self, directory: impl AsRef<Path>) -> Self {
        self.needs.fold(directory.as_ref());
        self
    }

    /// Filter and rules as two functions in Rust, to be pasted into a program or included by it.
    ///
    /// ```
    /// # use stockade::Sandbox;
    /// let source = Sandbox::new().command("true").learn()?.to_rust();
    /// assert!(source.contains("pub fn filter() -> Filter") && source.contains(".allow(\"mmap\")"));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn to_rust(&self) -> String {
        let mut filter = String::from("Filter::allow_list()");
        for (name, number) in self.calls() {
            let _ = match name {
                Some(name) => write!(filter, "\n    .allow({name:?})"),
                None => write!(filter, "\n    .allow({number}_u32)"),
            };
        }
        let (filter, rules) = (indent(&filter), indent(&self.rules().to_rust()));
        let access = if rules.contains("Access::") { "{Access, Rules}" } else { "Rules" };
        format!(
            "use stockade::landlock::{access};\nuse stockade::seccomp::Filter;\n\n\
             pub fn filter() -> Filter {{\n{filter}\n}}\n\npub fn rules() -> Rules {{\n{rules}\n}}\n"
        )
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Waits for the program, while a thread looks at what it calls.
pub(crate) fn observe(child: Child, verdict: Vec<u8>, candidates: Vec<CString>) -> Result<Learned, Error> {
    let failed = Error::host("observe the program");
    let listener = child.take_notifications().and_then(|notifications| notifications.listener());
    let Some(listener) = listener else { return Err(failed(io::Error::other("nobody was handed its calls"))) };
    let (stop, running) = io::pipe().map_err(Error::host("make a pipe"))?;
    let observer = observe::Observer { listener, stop, verdict, candidates };
    let thread = std::thread::Builder::new().name("stockade-learn".into()).spawn(move || observer.run());
    let thread = thread.map_err(Error::host("start a thread"))?;
    let output = child.wait_with_output();
    drop(running);
    let needs = thread.join().map_err(|_| failed(io::Error::other("the observing thread panicked")))?;
    Ok(Learned { output: output?, needs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(list: impl IntoIterator<Item = Need>) -> Needs {
        let mut needs = Needs::default();
        list.into_iter().for_each(|need| needs.take(need));
        needs
    }

    fn path(path: &str, access: Access) -> Need {
        Need::Path(path.into(), access)
    }

    fn paths(needs: &Needs) -> Vec<(String, Access)> {
        needs.paths().into_iter().map(|(path, access)| (path.display().to_string(), access)).collect()
    }

    #[test]
    fn one_entry_for_each_file() {
        let all = needs([
            path("/a/b", Access::READ_FILE),
            path("/a/b", Access::WRITE_FILE),
            path("/a/c", Access::READ_FILE),
            path("/a", Access::READ_FILE | Access::READ_DIR),
        ]);
        let expected = [
            ("/a".to_owned(), Access::READ_FILE | Access::READ_DIR),
            ("/a/b".to_owned(), Access::READ_FILE | Access::WRITE_FILE),
        ];
        assert_eq!(paths(&all), expected);
    }

    #[test]
    fn what_was_made_counts_for_where() {
        let all = needs([
            path("/t", Access::MAKE_DIR),
            Need::Made("/t/d".into()),
            path("/t/d", Access::MAKE_REG),
            Need::Made("/t/d/f".into()),
            path("/t/d/f", Access::WRITE_FILE),
            path("/t/dd", Access::READ_FILE),
        ]);
        let expected = [
            ("/t".to_owned(), Access::MAKE_DIR | Access::MAKE_REG | Access::WRITE_FILE),
            ("/t/dd".to_owned(), Access::READ_FILE),
        ];
        assert_eq!(paths(&all), expected);
        assert_eq!(all.made.len(), 1);
    }

    #[test]
    fn nothing_is_gained_by_a_move() {
        let mut all = needs([
            path("/a", Access::REFER),
            path("/b", Access::REFER | Access::MAKE_REG | Access::READ_FILE),
            Need::Move { from: "/a".into(), to: "/b".into(), directories: false },
            // And on.
            Need::Move { from: "/c".into(), to: "/a".into(), directories: true },
        ]);
        let moved = Access::REFER | Access::READ_FILE;
        let expected =
            [("/a".to_owned(), moved), ("/b".to_owned(), moved | Access::MAKE_REG), ("/c".to_owned(), moved)];
        assert_eq!(paths(&all), expected);
        all.fold(Path::new("/"));
        assert_eq!(paths(&all), [("/".to_owned(), moved | Access::MAKE_REG)]);
    }

    #[test]
    fn what_never_ends_is_bounded() {
        let made = (0..MOST_PATHS + 10).map(|number| Need::Made(format!("/t/{number}").into()));
        let all =
            needs(made.chain((0..MOST_PATHS + 10).map(|number| path(&format!("/u/{number}"), Access::READ_FILE))));
        assert_eq!((all.made.len(), all.paths.len(), all.unknown), (MOST_PATHS, MOST_PATHS, 20));
    }

    #[test]
    fn a_device_is_one_that_was_opened() {
        let all = needs([
            Need::Device("/dev/null".into()),
            path("/dev/tty", Access::READ_FILE),
            Need::Device("/dev/tty".into()),
        ]);
        assert_eq!(paths(&all), [("/dev/tty".to_owned(), Access::READ_FILE | Access::IOCTL_DEV)]);
    }

    #[test]
    fn runs_add_up() {
        let mut one = needs([path("/a", Access::READ_FILE), Need::Bind(1)]);
        one.call(1);
        let mut other = needs([path("/a", Access::WRITE_FILE), Need::Connect(2), Need::Unknown]);
        other.call(2);
        one.merge(other);
        assert_eq!(paths(&one), [("/a".to_owned(), Access::READ_FILE | Access::WRITE_FILE)]);
        assert_eq!((one.calls.len(), one.bind.len(), one.connect.len(), one.unknown), (2, 1, 1, 1));
    }
}
