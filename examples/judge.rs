//! An online judge: it compiles submissions in C, runs them against a problem's tests, and says what each is worth.
//!
//! ```console
//! $ cargo run --release --example judge -- examples/judge/
//! ```
//!
//! A submission is a stranger's program, and so is what it makes of the compiler (`#include "/etc/passwd"`). Both run
//! in a sandbox: there is no network, no process but its own, and of the host's files only programs and libraries,
//! read-only. Nothing is left of a submission when its verdict is out. The judge needs gcc, and works as root and as an
//! ordinary user.
//!
//! A problem is a directory:
//!
//! ```text
//! sum/limits               wall_ms, cpu_ms, memory_bytes, output_bytes, each with its number on a line of its own
//! sum/tests/1.in, 1.out    what goes in, and what is to come out, up to white space
//! sum/submissions/wa.c     its first line says what is expected of it, test by test: // expect: AC WA
//! ```
//!
//! The verdicts are AC (accepted), WA (wrong answer), TLE (time limit exceeded), MLE (memory limit exceeded), RE (run-time
//! error), OLE (output limit exceeded, on stdout or in a file), and CE (compile error, for all tests at once). If one is not as expected, the
//! judge exits with 1.
//!
//! Memory, CPU time and tasks are limited for all of a submission's processes together. For that an ordinary user needs a
//! delegated cgroup; without one the judge says so, and a submission that is to be MLE is left out.

use std::borrow::Cow;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use stockade::seccomp::Filter;
use stockade::{Layer, Layers, Limit, Outcome, Output, Prepared, Resource, Rootfs, Sandbox, Stdio, Verdict};
use tempfile::{NamedTempFile, TempPath};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the compiler may take, and how large a program it may make.
const COMPILE_TIME: Duration = Duration::from_secs(20);
const PROGRAM_BYTES: u64 = 16 << 20;

/// How many processes and threads a submission may have at once.
const TASKS: u32 = 32;

/// The program leaves the sandbox by stdout: so there is no file that both sides write to, and its size has a limit.
const COMPILE: &str = "gcc -O2 -o /tmp/program /submission.c -lm >&2 && exec cat /tmp/program";

/// What a shell exits with if there is no such command.
const NOT_FOUND: i32 = 127;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: judge DIRECTORY-OF-PROBLEMS");
        return ExitCode::from(2);
    };
    match judge(Path::new(&directory), io::stdout().lock()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(unexpected) => {
            eprintln!("judge: {unexpected} not as expected");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("judge: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Judges every submission to every problem, and counts the verdicts that are not as expected. All that is in the
/// directory is read, and complained of, before the first submission is compiled.
fn judge(directory: &Path, out: impl Write) -> Result<usize> {
    let directories = entries(directory)?.into_iter().filter(|path| path.is_dir());
    let problems = directories.map(|path| Problem::load(&path)).collect::<Result<Vec<_>>>()?;
    let mut report = Report { out, verdicts: 0, as_expected: 0 };
    for problem in &problems {
        for submission in &problem.submissions {
            judge_submission(problem, submission, &mut report)
                .map_err(|error| format!("{}: {error}", submission.name))?;
        }
    }
    report.finish()
}

fn judge_submission(problem: &Problem, submission: &Submission, report: &mut Report<impl Write>) -> Result<()> {
    let what = &submission.name;
    let program = match compile(&submission.source)? {
        Compiled::Program(program) => program,
        Compiled::Not { outcome, complaint } => {
            let line = Line { what, test: None, grade: Grade::Ce, outcome: &outcome, note: complaint };
            return Ok(report.add(&line, submission.expected.first())?);
        }
    };
    let prepared = running(&problem.limits, &program).prepare()?;
    let unlimited = prepared.report().missing().iter().find(|missing| missing.layer == Layer::Memory);
    if let (Some(missing), true) = (unlimited, submission.expected.contains(&Grade::Mle)) {
        return Ok(report.leave_out(what, &missing.reason)?);
    }
    for (test, expected) in problem.tests.iter().zip(&submission.expected) {
        let Output { outcome, stdout, .. } = run(&prepared, &test.input)?;
        let grade = grade(&outcome.verdict, &stdout, &test.answer);
        let line = Line { what, test: Some(test.number), grade, outcome: &outcome, note: note(&outcome.verdict) };
        report.add(&line, Some(expected))?;
    }
    Ok(())
}

/// What compiling and running have in common.
fn isolated() -> Sandbox {
    Sandbox::new()
        .user_ns()
        .pid_ns()
        .mount_ns()
        .net_ns()
        .ipc_ns()
        .uts_ns()
        .cgroup_ns()
        .uid(1000)
        .hostname("judge")
        .rootfs(Rootfs::system().read_only())
}

fn compiling(source: &Path) -> Sandbox {
    isolated()
        .bind_ro(source, "/submission.c")
        .wall_time_limit(COMPILE_TIME)
        .rlimit(Resource::Cpu, COMPILE_TIME.as_secs())
        .rlimit(Resource::FileSize, PROGRAM_BYTES)
        .output_limit(PROGRAM_BYTES)
}

fn running(limits: &Limits, program: &Path) -> Sandbox {
    isolated()
        .bind_ro(program, "/program")
        .seccomp(Filter::judge())
        .wall_time_limit(limits.wall)
        .cpu_time_limit(limits.cpu)
        .rlimit(Resource::Cpu, limits.cpu.as_secs() + 1)
        .memory_limit(limits.memory_bytes)
        .pids_limit(TASKS)
        // Where there is no cgroup: for all that is the sandbox's user in its own user namespace, which is some more.
        .rlimit(Resource::Processes, u64::from(TASKS) + 8)
        .best_effort(Layers::CPU_TIME | Layers::MEMORY | Layers::PIDS)
        .output_limit(limits.output_bytes)
        .rlimit(Resource::FileSize, limits.output_bytes)
}

enum Compiled {
    Program(TempPath),
    Not { outcome: Box<Outcome>, complaint: String },
}

fn compile(source: &str) -> Result<Compiled> {
    let source = published(source.as_bytes(), 0o444)?;
    let output = compiling(&source).command("sh").args(["-c", COMPILE]).output()?;
    match output.outcome.code() {
        Some(0) => Ok(Compiled::Program(published(&output.stdout, 0o555)?)),
        Some(NOT_FOUND) => Err("there is no gcc here".into()),
        _ => Ok(Compiled::Not { complaint: complaint(&output), outcome: Box::new(output.outcome) }),
    }
}

/// Runs a compiled submission on one input.
///
/// The input is written to a pipe. If the file itself were its stdin, a submission that runs as the judge's own user
/// could open `/proc/self/fd/0` anew, for writing, and change the test for all who come after.
fn run(prepared: &Prepared, input: &[u8]) -> Result<Output> {
    let mut command = prepared.command("/program");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdin = child.take_stdin();
    thread::scope(|scope| {
        // It fails if the program ends before it has read all of it, which is the program's own affair.
        let feed = move || stdin.map(|mut stdin| stdin.write_all(input));
        thread::Builder::new().spawn_scoped(scope, feed)?;
        Ok(child.wait_with_output()?)
    })
}

/// A file that can be bound into a sandbox, whose user may be another than the file's. It is closed, since what is open
/// for writing cannot be executed; it is removed when it is dropped.
fn published(bytes: &[u8], mode: u32) -> io::Result<TempPath> {
    let mut file = NamedTempFile::new()?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    Ok(file.into_temp_path())
}

/// What a submission is worth on a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Ac,
    Wa,
    Tle,
    Mle,
    Re,
    Ole,
    Rf,
    Ce,
}

impl Grade {
    const ALL: [Self; 8] = [Self::Ac, Self::Wa, Self::Tle, Self::Mle, Self::Re, Self::Ole, Self::Rf, Self::Ce];

    fn name(self) -> &'static str {
        match self {
            Self::Ac => "AC",
            Self::Wa => "WA",
            Self::Tle => "TLE",
            Self::Mle => "MLE",
            Self::Re => "RE",
            Self::Ole => "OLE",
            // A restricted function: a system call that no submission needs.
            Self::Rf => "RF",
            Self::Ce => "CE",
        }
    }
}

impl FromStr for Grade {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|grade| grade.name() == name).ok_or_else(|| format!("{name:?} is no verdict"))
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn grade(verdict: &Verdict, stdout: &[u8], answer: &[u8]) -> Grade {
    match verdict {
        Verdict::Exited(0) if tokens(stdout).eq(tokens(answer)) => Grade::Ac,
        Verdict::Exited(0) => Grade::Wa,
        Verdict::LimitExceeded(Limit::WallTime | Limit::CpuTime) => Grade::Tle,
        Verdict::LimitExceeded(Limit::Memory) => Grade::Mle,
        Verdict::LimitExceeded(Limit::Output | Limit::FileSize) => Grade::Ole,
        Verdict::SyscallDenied(_) => Grade::Rf,
        _ => Grade::Re,
    }
}

fn tokens(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|token| !token.is_empty())
}

/// What there is to say about an end.
fn note(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Exited(0) => String::new(),
        Verdict::Exited(code) => format!("exit code {code}"),
        Verdict::Signaled(signal) => signal.to_string(),
        Verdict::SyscallDenied(call) => call.to_string(),
        other => format!("{other:?}"),
    }
}

/// The compiler's first error, or how it ended if it had none. The text is the submission's as much as the compiler's,
/// so nothing of it may reach a terminal but what can be printed.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let error = text.lines().find(|line| line.contains("error:"));
    error.map_or_else(|| note(&output.outcome.verdict), |line| line.chars().filter(|c| !c.is_control()).collect())
}

/// One verdict, as it is printed.
struct Line<'a> {
    what: &'a str,
    /// None for all of them.
    test: Option<u32>,
    grade: Grade,
    outcome: &'a Outcome,
    note: String,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let test = self.test.map_or("compile".into(), |number| format!("test {number}"));
        let usage = &self.outcome.usage;
        let [wall, cpu] = [usage.wall, usage.cpu_time.unwrap_or(usage.cpu())].map(|time| time.as_secs_f64());
        write!(f, "{:<14}  {test:<7}  {:<3}  wall {wall:.2}s cpu {cpu:.2}s", self.what, self.grade)?;
        if let Some(peak) = usage.memory_peak {
            write!(f, "  peak {:>4.1} MiB", peak as f64 / f64::from(1 << 20))?;
        }
        if !self.note.is_empty() {
            write!(f, "  {}", self.note)?;
        }
        Ok(())
    }
}

struct Report<W> {
    out: W,
    verdicts: usize,
    as_expected: usize,
}

impl<W: Write> Report<W> {
    fn add(&mut self, line: &Line<'_>, expected: Option<&Grade>) -> io::Result<()> {
        self.verdicts += 1;
        if expected == Some(&line.grade) {
            self.as_expected += 1;
            return writeln!(self.out, "{line}");
        }
        writeln!(self.out, "{line}  (expected: {})", expected.map_or("nothing", |grade| grade.name()))
    }

    fn leave_out(&mut self, what: &str, why: &str) -> io::Result<()> {
        writeln!(self.out, "{what:<14}  left out: memory is not limited here: {why}")
    }

    fn finish(mut self) -> Result<usize> {
        writeln!(self.out, "judge: {} verdicts, {} as expected", self.verdicts, self.as_expected)?;
        Ok(self.verdicts - self.as_expected)
    }
}

struct Problem {
    limits: Limits,
    tests: Vec<Test>,
    submissions: Vec<Submission>,
}

struct Test {
    number: u32,
    input: Vec<u8>,
    answer: Vec<u8>,
}

struct Submission {
    /// `problem/file.c`.
    name: String,
    source: String,
    /// One for each test.
    expected: Vec<Grade>,
}

struct Limits {
    wall: Duration,
    cpu: Duration,
    memory_bytes: u64,
    output_bytes: u64,
}

impl Problem {
    fn load(directory: &Path) -> Result<Self> {
        let limits = directory.join("limits");
        let limits = read_text(&limits)?.parse().map_err(about(&limits))?;
        let tests = directory.join("tests");
        let inputs = entries(&tests)?.into_iter().filter(|path| has_extension(path, "in"));
        let mut tests = inputs.map(|path| Test::load(&path)).collect::<Result<Vec<_>>>()?;
        tests.sort_by_key(|test| test.number);
        if tests.is_empty() {
            return Err(about(directory)("there are no tests"));
        }
        let sources = entries(&directory.join("submissions"))?.into_iter().filter(|path| has_extension(path, "c"));
        let problem = file_name(directory);
        let submissions = sources.map(|path| Submission::load(&problem, &path, tests.len()));
        let submissions = submissions.collect::<Result<Vec<_>>>()?;
        Ok(Self { limits, tests, submissions })
    }
}

impl Test {
    fn load(input: &Path) -> Result<Self> {
        let number = input.file_stem().unwrap_or_default().to_string_lossy().parse();
        let number = number.map_err(|_| about(input)("a test's name is its number"))?;
        let answer = input.with_extension("out");
        Ok(Self {
            number,
            input: fs::read(input).map_err(about(input))?,
            answer: fs::read(&answer).map_err(about(&answer))?,
        })
    }
}

impl Submission {
    fn load(problem: &str, path: &Path, tests: usize) -> Result<Self> {
        let source = read_text(path)?;
        let expected = expectation(&source, tests).map_err(about(path))?;
        Ok(Self { name: format!("{problem}/{}", file_name(path)), source, expected })
    }
}

/// The verdicts in a submission's first line: one for each test, or CE for all of them.
fn expectation(source: &str, tests: usize) -> std::result::Result<Vec<Grade>, String> {
    let first = source.lines().next().unwrap_or_default();
    let names = first.strip_prefix("// expect: ").ok_or("the first line is not: // expect: VERDICT...")?;
    let grades = names.split(' ').map(Grade::from_str).collect::<std::result::Result<Vec<_>, _>>()?;
    match grades.as_slice() {
        [Grade::Ce] => Ok(vec![Grade::Ce; tests]),
        [..] if grades.contains(&Grade::Ce) => Err("CE is for all tests, and stands alone".into()),
        [..] if grades.len() != tests => Err(format!("{} verdicts for {tests} tests", grades.len())),
        [..] => Ok(grades),
    }
}

impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let [mut wall_ms, mut cpu_ms, mut memory_bytes, mut output_bytes] = [None; 4];
        for line in text.lines() {
            let (key, value) = line.split_once(' ').ok_or_else(|| format!("{line:?} is not a limit and its value"))?;
            let limit = match key {
                "wall_ms" => &mut wall_ms,
                "cpu_ms" => &mut cpu_ms,
                "memory_bytes" => &mut memory_bytes,
                "output_bytes" => &mut output_bytes,
                _ => return Err(format!("{key:?} is no limit")),
            };
            let value: NonZeroU64 = value.parse().map_err(|error| format!("{line:?}: {error}"))?;
            if limit.replace(value.get()).is_some() {
                return Err(format!("{key} is there twice"));
            }
        }
        Ok(Self {
            wall: Duration::from_millis(wall_ms.ok_or("wall_ms is missing")?),
            cpu: Duration::from_millis(cpu_ms.ok_or("cpu_ms is missing")?),
            memory_bytes: memory_bytes.ok_or("memory_bytes is missing")?,
            output_bytes: output_bytes.ok_or("output_bytes is missing")?,
        })
    }
}

/// What is in a directory, in the order of the names.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listing = fs::read_dir(directory).map_err(about(directory))?;
    let mut paths = listing.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(about(directory))?;
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension() == Some(OsStr::new(extension))
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(about(path))
}

/// For `map_err`: says which path an error is about.
fn about<E: fmt::Display>(path: &Path) -> impl FnOnce(E) -> Box<dyn Error> {
    move |error| format!("{}: {error}", path.display()).into()
}
