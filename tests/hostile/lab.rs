//! What the pairs share: the program of all attacks, where it runs, and what came of it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stockade::{Capabilities, Child, Command, Output, Rootfs, Sandbox, Signal, Stdio, Verdict};

use crate::common;

/// What came of one run.
#[derive(Debug)]
pub enum Ran {
    Succeeded(String),
    Refused(String),
    /// There is no such thing on this machine.
    Absent(String),
    /// Neither: the test is at fault.
    Broken(String),
}

impl Ran {
    fn of(code: Option<i32>, signal: Option<i32>, text: String) -> Ran {
        match (code, signal) {
            (Some(42), _) => Ran::Succeeded(text),
            (Some(0), _) => Ran::Refused(text),
            (Some(77), _) => Ran::Absent(text),
            (_, Some(31)) => Ran::Refused(format!("SIGSYS; {text}")),
            _ => Ran::Broken(format!("exit code {code:?}, signal {signal:?}; {text}")),
        }
    }

    /// What the test itself has seen.
    pub fn seen(escaped: bool, text: impl Into<String>) -> Ran {
        if escaped { Ran::Succeeded(text.into()) } else { Ran::Refused(text.into()) }
    }

    /// A control that something else than a sandbox of ours may refuse, such as the container that the test runs in: another
    /// lane must show it then.
    pub fn or_elsewhere(self, reason: &str) -> Ran {
        match self {
            Ran::Refused(text) => Ran::Absent(format!("{reason}: {text}")),
            ran => ran,
        }
    }

    /// An attack may also say that nothing came of it, and the test sees that something did.
    pub fn unless(self, escaped: bool, text: &str) -> Ran {
        if escaped { Ran::Succeeded(text.to_owned()) } else { self }
    }
}

/// An attack's two sides. There may be several sandboxes that must hold.
pub struct Twins {
    pub inside: Vec<Ran>,
    pub control: Ran,
}

pub type Body = Box<dyn Fn(&Lab) -> Twins + Send + Sync>;

pub struct Pair {
    pub name: &'static str,
    /// It is open whether this is to be refused at all: said, and not counted.
    pub undecided: Option<&'static str>,
    /// On some machines the control works for root only; elsewhere it is left to another lane then.
    pub root_shows: bool,
    pub run: Body,
}

impl Pair {
    pub fn new(name: &'static str, run: impl Fn(&Lab) -> Twins + Send + Sync + 'static) -> Pair {
        Pair { name, undecided: None, root_shows: false, run: Box::new(run) }
    }

    pub fn undecided(self, what: &'static str) -> Pair {
        Pair { undecided: Some(what), ..self }
    }

    pub fn root_shows(self) -> Pair {
        Pair { root_shows: true, ..self }
    }

    /// An attack that needs nothing but to be tried. Namespaces, ids and capabilities refuse it, with a filter and without.
    pub fn simple(attack: &'static str, control: Control) -> Pair {
        Self::of(attack, attack, &[], control)
    }

    pub fn of(name: &'static str, attack: &'static str, args: &'static [&'static str], control: Control) -> Pair {
        Self::new(name, move |lab| {
            let args: Vec<&str> = std::iter::once(attack).chain(args.iter().copied()).collect();
            // As root of its own, too.
            let root = lab.hardened().uid(0).gid(0);
            let inside = [lab.hardened(), lab.unfiltered(), root].map(|sandbox| lab.inside(&sandbox, &args));
            Twins { inside: inside.into(), control: lab.control(control, &args) }
        })
    }

    /// The same in a sandbox that has one layer alone. The control has none.
    pub fn alone(
        name: &'static str,
        layer: fn() -> Sandbox,
        attempt: impl Fn(&Lab) -> (Vec<String>, Option<Holder>) + Send + Sync + 'static,
    ) -> Pair {
        Self::new(name, move |lab| {
            let run = |sandbox: Sandbox| {
                let (args, _keep) = attempt(lab);
                lab.unrooted(&sandbox, &args)
            };
            Twins { inside: vec![run(layer())], control: run(Sandbox::new()) }
        })
    }

    /// An attack that only the filter refuses.
    pub fn filtered(attack: &'static str, control: Control) -> Pair {
        Self::new(attack, move |lab| Twins {
            inside: vec![lab.inside(&lab.hardened(), &[attack])],
            control: lab.control(control, &[attack]),
        })
    }
}

/// Where a control runs.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// Outside.
    Host,
    /// In a sandbox that isolates nothing.
    Plain,
    /// In the sandbox under test, but for its filter.
    NoFilter,
    /// In all namespaces, with the same root, and neither a filter nor Landlock.
    Unfiltered,
    /// In all namespaces, with every capability in them.
    Capable,
}

pub struct Lab {
    directory: tempfile::TempDir,
    /// The attacks, as the host sees them.
    pub program: PathBuf,
}

/// Where the attacks are in a root of its own.
const INSIDE: &str = "/lab/attacks";

impl Lab {
    pub fn new() -> Lab {
        let directory = common::directory();
        let source = [
            include_str!("attacks/attacks.h"),
            include_str!("attacks/kernel.c"),
            include_str!("attacks/processes.c"),
            include_str!("attacks/files.c"),
            include_str!("attacks/network.c"),
            include_str!("attacks/channels.c"),
            include_str!("attacks/limits.c"),
            include_str!("attacks/main.c"),
        ];
        let program = common::compile(directory.path(), "attacks", &source.concat(), &["-Wall", "-static"]);
        Lab { directory, program }
    }

    /// The sandbox under test, with the attacks in it.
    pub fn hardened(&self) -> Sandbox {
        self.furnish(Sandbox::hardened())
    }

    /// The same without a filter, Landlock and limits: what is refused by these alone works here.
    pub fn unfiltered(&self) -> Sandbox {
        let root = Rootfs::system().read_only();
        self.furnish(common::all_namespaces().rootfs(root).tmpfs("/work", 64 << 20).hostname("sandbox"))
    }

    /// The same root and namespaces, and every capability.
    pub fn capable(&self) -> Sandbox {
        let all = common::all_namespaces().uid(0).keep_capabilities(Capabilities::all());
        self.furnish(all.rootfs(Rootfs::system()))
    }

    pub fn furnish(&self, sandbox: Sandbox) -> Sandbox {
        sandbox.bind_ro(self.directory.path(), "/lab")
    }

    /// An attack, in a sandbox with a root of its own.
    pub fn command(sandbox: &Sandbox, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = sandbox.command(INSIDE);
        command.args(args);
        command
    }

    pub fn inside(&self, sandbox: &Sandbox, args: &[impl AsRef<OsStr>]) -> Ran {
        Self::ran(Self::command(sandbox, args).output())
    }

    /// An attack, in a sandbox that has the host's files.
    pub fn unrooted(&self, sandbox: &Sandbox, args: &[impl AsRef<OsStr>]) -> Ran {
        Self::ran(sandbox.command(&self.program).args(args).output())
    }

    /// An attack without any sandbox.
    pub fn outside(&self, args: &[impl AsRef<OsStr>]) -> Ran {
        Self::ran_outside(self.plain(args).output().unwrap())
    }

    pub fn plain(&self, args: &[impl AsRef<OsStr>]) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(args).stdin(process::Stdio::null());
        command
    }

    pub fn control(&self, control: Control, args: &[impl AsRef<OsStr>]) -> Ran {
        match control {
            Control::Host => self.outside(args),
            Control::Unfiltered => self.inside(&self.unfiltered(), args),
            Control::NoFilter => self.inside(&self.hardened().without_seccomp(), args),
            Control::Plain => self.unrooted(&Sandbox::new(), args),
            Control::Capable => self.inside(&self.capable(), args),
        }
    }

    pub fn ran(output: Result<Output, stockade::Error>) -> Ran {
        match output {
            Err(error) => Ran::Broken(format!("not launched: {error}")),
            Ok(output) => {
                let text = text_of(&output.stdout, &output.stderr);
                match output.outcome.verdict {
                    Verdict::Exited(code) => Ran::of(Some(code), None, text),
                    Verdict::Signaled(signal) => Ran::of(None, i32::try_from(signal.number()).ok(), text),
                    verdict if format!("{verdict:?}").starts_with("SyscallDenied") => {
                        Ran::Refused(format!("{verdict:?}; {text}"))
                    }
                    verdict => Ran::Broken(format!("{verdict:?}; {text}")),
                }
            }
        }
    }

    /// As [`ran`](Self::ran), where running into that limit is the refusal.
    pub fn ran_into(output: Result<Output, stockade::Error>, limit: stockade::Limit) -> Ran {
        match output {
            Ok(output) if output.outcome.verdict == Verdict::LimitExceeded(limit) => Ran::Refused(format!("{limit:?}")),
            output => Self::ran(output),
        }
    }

    pub fn ran_outside(output: process::Output) -> Ran {
        Ran::of(output.status.code(), output.status.signal(), text_of(&output.stdout, &output.stderr))
    }

    /// A process of the host's that does something and holds it.
    pub fn holder(&self, args: &[impl AsRef<OsStr>]) -> Holder {
        let mut command = self.plain(args);
        command.stdin(process::Stdio::piped()).stdout(process::Stdio::piped()).stderr(process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut holder = Holder { side: Side::Host(child), input: Some(Box::new(input)), output: Box::new(output) };
        holder.wait_ready();
        holder
    }

    /// The same in a sandbox.
    pub fn holder_in(&self, command: &mut Command) -> Holder {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self::held(command.spawn().unwrap())
    }

    /// The same, of an executable in memory, as the stage's is; and it may be looked into.
    pub fn holder_in_memory(&self) -> Holder {
        let program = || {
            let file = memfd::MemfdOptions::default().create("hostile").unwrap().into_file();
            (&file).write_all(&std::fs::read(&self.program).unwrap()).unwrap();
            // Open for writing it cannot be run.
            std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
        };
        // A child of another thread's may hold it open for writing a moment longer.
        for _ in 0..100 {
            let mut command = Sandbox::new().command("/proc/self/fd/3");
            command.arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).fd(3, program());
            if let Ok(child) = command.spawn() {
                return Self::held(child);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no program in memory can be run")
    }

    fn held(child: Child) -> Holder {
        let (input, output) = (child.take_stdin().unwrap(), child.take_stdout().unwrap());
        let mut holder =
            Holder { side: Side::Inside(Box::new(child)), input: Some(Box::new(input)), output: Box::new(output) };
        holder.wait_ready();
        holder
    }

    /// A copy of the attacks. Not written by this process, whose other threads fork: a child may hold the file open for
    /// writing a moment too long, and then it cannot be run.
    pub fn copy_to(&self, path: &Path) {
        let copied = process::Command::new("cp").args([&self.program, path]).status().unwrap();
        assert!(copied.success());
    }

    /// Nobody else has this number or name.
    pub fn unique(&self) -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        std::process::id() * 1000 + NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

fn text_of(stdout: &[u8], stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stdout).into_owned() + &String::from_utf8_lossy(stderr);
    text.chars().take(600).collect::<String>().trim().replace('\n', "; ")
}

enum Side {
    Host(process::Child),
    Inside(Box<Child>),
}

/// A process that holds something until it is told to end. It cleans up then.
pub struct Holder {
    side: Side,
    input: Option<Box<dyn std::io::Write + Send>>,
    output: Box<dyn std::io::Read + Send>,
}

impl Holder {
    fn wait_ready(&mut self) {
        let mut line = [0; 6];
        if self.output.read_exact(&mut line).is_err() || &line != b"ready\n" {
            let code = match &mut self.side {
                Side::Host(child) => child.wait().unwrap().code(),
                Side::Inside(child) => match child.wait().unwrap().verdict {
                    Verdict::Exited(code) => Some(code),
                    _ => None,
                },
            };
            panic!("it does not hold: exit code {code:?}, {:?}", String::from_utf8_lossy(&line));
        }
    }

    /// Its number, as the host sees it.
    pub fn id(&self) -> u32 {
        match &self.side {
            Side::Host(child) => child.id(),
            Side::Inside(child) => child.id(),
        }
    }

    pub fn is_alive(&mut self) -> bool {
        match &mut self.side {
            Side::Host(child) => child.try_wait().unwrap().is_none(),
            Side::Inside(child) => child.try_wait().unwrap().is_none(),
        }
    }

    /// Tells it to go on.
    pub fn go_on(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// A line that it says on stderr; of the host's only.
    pub fn says(&mut self) -> String {
        let Side::Host(child) = &mut self.side else { panic!("it is in a sandbox") };
        let mut line = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// How it ends.
    pub fn end(mut self) -> Ran {
        self.input = None;
        match &mut self.side {
            Side::Host(child) => {
                let status = child.wait().unwrap();
                Ran::of(status.code(), status.signal(), String::new())
            }
            Side::Inside(child) => match child.wait().unwrap().verdict {
                Verdict::Exited(code) => Ran::of(Some(code), None, String::new()),
                Verdict::Signaled(signal) => Ran::of(None, i32::try_from(signal.number()).ok(), String::new()),
                verdict => Ran::Broken(format!("{verdict:?}")),
            },
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.input = None;
        match &mut self.side {
            Side::Host(child) => {
                if !common::eventually(Duration::from_secs(5), || child.try_wait().is_ok_and(|status| status.is_some()))
                {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
            Side::Inside(child) => {
                if child.wait_timeout(Duration::from_secs(5)).ok().flatten().is_none() {
                    let _ = child.signal(Signal::KILL);
                }
            }
        }
    }
}

/// A directory with a file "marker" in it, with a text of its own.
pub struct Marker {
    pub directory: tempfile::TempDir,
    pub text: String,
}

impl Marker {
    pub fn new() -> Marker {
        let (directory, text) = (common::directory(), common::marker("hostile"));
        common::open(&directory);
        std::fs::write(directory.path().join("marker"), &text).unwrap();
        Marker { directory, text }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self) -> String {
        self.path().join("marker").to_str().unwrap().to_owned()
    }

    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        path
    }
}
