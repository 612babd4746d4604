//! Runs each test program in a fresh sandbox of its own: a runner for cargo (`target.<triple>.runner`).
//!
//! ```console
//! $ cargo build --release --example test_runner
//! $ export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/target/release/examples/test_runner --memory-mib 512"
//! $ cd ../some-crate && cargo test
//! ```
//!
//! What a test program has:
//!
//! - its arguments, its standard streams, and of the environment what cargo and Rust look at (`CARGO*`, `RUST*`,
//!   `NEXTEST*`, `LD_LIBRARY_PATH`, `TERM`, and the names given by `--env`); HOME and TMPDIR are `/tmp`;
//! - the package's directory, read-only, and where cargo puts what it builds, read-only too, at the paths that they have on
//!   the host; it starts in the directory that cargo has given it;
//! - a `/tmp` of its own, gone with it;
//! - [`Sandbox::hardened`] for the rest: no network but a loopback device, no processes but its own, no files but the system's.
//!
//! Its exit code is that of the runner. A signal is 128 and its number, as with a shell; and if it has run into a limit, or
//! was ended for a system call, there is a line on stderr that says so. What the host cannot limit is said there, too. If the
//! sandbox cannot be made nothing is run, and the exit code is 125.
//!
//! Options come before the program, each with its value as the next argument: `--memory-mib` (1024), `--tasks` (512, threads
//! included), `--seconds` of wall time (600), `--tmp-mib` (512), `--env NAME`, `--writable PATH`, or as flags:
//! `--writable-package`.
//!
//! What is writable is so for the owner of the directory, whose id the test program then has on the host; if that is root, the
//! host's root is mapped into the sandbox, which weakens it, and is said on stderr.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use stockade::{Layers, Limit, Outcome, Resource, Sandbox, Stdio, Verdict};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a shell, too, exits with for what is no exit code of the program's.
const NO_SANDBOX: u8 = 125;
const SIGNAL: i32 = 128;

fn main() -> ExitCode {
    let run = || -> Result<u8> {
        let options = Options::parse(std::env::args_os().skip(1))?;
        let outcome = run(&options)?;
        if let Some(why) = remark(&outcome.verdict) {
            eprintln!("test_runner: {}: {why}", options.program.display());
        }
        Ok(exit_code(&outcome))
    };
    match run() {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("test_runner: {error}");
            NO_SANDBOX.into()
        }
    }
}

struct Options {
    memory_mib: u64,
    tasks: u32,
    seconds: u64,
    tmp_mib: u64,
    environment: Vec<OsString>,
    writable: Vec<PathBuf>,
    writable_package: bool,
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut options = Self {
            memory_mib: 1024,
            tasks: 512,
            seconds: 600,
            tmp_mib: 512,
            environment: vec![],
            writable: vec![],
            writable_package: false,
            program: PathBuf::new(),
            arguments: vec![],
        };
        loop {
            let argument = arguments.next().ok_or("usage: test_runner [OPTIONS] PROGRAM [ARGUMENTS]")?;
            let mut value = || arguments.next().ok_or_else(|| format!("{} takes a value", argument.display()));
            match argument.to_str() {
                Some("--memory-mib") => options.memory_mib = number(&value()?)?,
                Some("--tasks") => options.tasks = number(&value()?)?,
                Some("--seconds") => options.seconds = number(&value()?)?,
                Some("--tmp-mib") => options.tmp_mib = number(&value()?)?,
                Some("--env") => options.environment.push(value()?),
                Some("--writable") => options.writable.push(std::path::absolute(value()?)?),
                Some("--writable-package") => options.writable_package = true,
                Some(other) if other.starts_with("--") => return Err(format!("unknown option {other}").into()),
                _ => {
                    options.program = std::path::absolute(&argument)?;
                    options.arguments = arguments.collect();
                    return Ok(options);
                }
            }
        }
    }
}

fn number<T: std::str::FromStr>(text: &OsStr) -> Result<T> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{} is no number that can be used here", text.display()).into())
}

fn run(options: &Options) -> Result<Outcome> {
    let directory = std::env::current_dir()?;
    let prepared = sandbox(options, &directory)?.prepare()?;
    for missing in prepared.report().missing() {
        eprintln!("test_runner: without {}: {}", missing.layer, missing.reason);
    }
    let mut command = prepared.command(&options.program);
    command.args(&options.arguments).current_dir(&directory).stdin(Stdio::inherit());
    let passed = std::env::vars_os().filter(|(name, _)| is_passed(name) || options.environment.contains(name));
    command.envs(passed).env("HOME", "/tmp").env("TMPDIR", "/tmp");
    Ok(command.status()?)
}

fn is_passed(name: &OsStr) -> bool {
    let name = name.as_bytes();
    ["CARGO", "RUST", "NEXTEST"].iter().any(|prefix| name.starts_with(prefix.as_bytes()))
        || name == b"LD_LIBRARY_PATH"
        || name == b"TERM"
}

fn sandbox(options: &Options, directory: &Path) -> Result<Sandbox> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| directory.to_owned(), PathBuf::from);
    let mut writable = options.writable.clone();
    if options.writable_package {
        writable.push(package.clone());
    }
    let mut sandbox = Sandbox::hardened()
        .tmpfs("/tmp", options.tmp_mib << 20)
        .memory_limit(options.memory_mib << 20)
        .pids_limit(options.tasks)
        .best_effort(Layers::MEMORY | Layers::PIDS)
        .wall_time_limit(Duration::from_secs(options.seconds))
        .rlimit(Resource::FileSize, options.tmp_mib << 20);
    for path in readable(options, &package, directory) {
        sandbox = sandbox.bind_ro(&path, &path);
    }
    for path in &writable {
        sandbox = sandbox.bind_rw(path, path);
    }
    owned(sandbox, &writable)
}

/// What it may read besides the system: outermost first, and nothing that lies in another one.
fn readable(options: &Options, package: &Path, directory: &Path) -> BTreeSet<PathBuf> {
    // target/debug/deps/name-hash: beside deps there are the package's programs, and what build scripts have made. Another
    // program, as of a documentation test, is shown by itself: the directory that it lies in may be closed to others.
    let beside = options.program.parent().filter(|beside| beside.ends_with("deps"));
    let built = beside.and_then(Path::parent).unwrap_or(&options.program);
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let paths = [package, directory, built].into_iter().map(Path::to_owned);
    let paths: BTreeSet<_> = paths.chain(std::env::split_paths(&libraries)).filter(|path| path.exists()).collect();
    // Its own contents, or another's of the system's, are never put over a whole root.
    let inner = |path: &PathBuf| path.ancestors().skip(1).any(|above| paths.contains(above));
    paths.iter().filter(|path| path.parent().is_some() && !inner(path)).cloned().collect()
}

/// The program gets the id of what it is to write to. An ordinary user's has that already.
fn owned(sandbox: Sandbox, writable: &[PathBuf]) -> Result<Sandbox> {
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(sandbox);
    }
    let mut owners = BTreeSet::new();
    for path in writable {
        let directory = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        owners.insert((directory.uid(), directory.gid()));
    }
    let mut owners = owners.into_iter();
    let Some((user, group)) = owners.next() else { return Ok(sandbox) };
    if owners.next().is_some() {
        return Err("what is to be writable belongs to several users, and a program is one".into());
    }
    let sandbox = sandbox.uid_map(1000, user, 1).gid_map(1000, group, 1);
    if user != 0 && group != 0 {
        return Ok(sandbox);
    }
    eprintln!("test_runner: what is to be writable is root's: so the sandbox has the host's root in it");
    Ok(sandbox.map_host_root())
}

/// What an exit code cannot tell.
fn remark(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::LimitExceeded(Limit::Memory) => Some("limit exceeded: memory (--memory-mib)".into()),
        Verdict::LimitExceeded(Limit::Pids) => Some("limit exceeded: tasks (--tasks)".into()),
        Verdict::LimitExceeded(Limit::WallTime) => Some("limit exceeded: wall time (--seconds)".into()),
        Verdict::LimitExceeded(limit) => Some(format!("limit exceeded: {limit:?}")),
        Verdict::SyscallDenied(call) => Some(format!("ended for a system call: {call}")),
        Verdict::Killed(by) => Some(format!("ended by the {by:?}")),
        _ => None,
    }
}

fn exit_code(outcome: &Outcome) -> u8 {
    let code = outcome.status.code().or(outcome.status.signal().map(|signal| SIGNAL + signal));
    let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
    // Not all of it was well, though its main process says so.
    if code == 0 && !outcome.success() { 1 } else { code }
}
