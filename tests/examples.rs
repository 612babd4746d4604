//! The examples, each run for real.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use stockade::{Layer, Support};

/// The program of an example. Where CI has copied the tests for another user it lies beside them; else cargo builds it,
/// which it has done already if all tests are run.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let beside = tests.with_file_name(format!("example-{name}"));
    if beside.exists() {
        return beside;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let release = if cfg!(debug_assertions) { &[][..] } else { &["--release"][..] };
    // As cargo has built this.
    let features = if cfg!(feature = "tokio") { &["--features", "tokio"][..] } else { &[][..] };
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--example", name])
        .args(features)
        .args(release)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    tests.parent().unwrap().with_file_name("examples").join(name)
}

fn run(name: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> (Output, String) {
    let output = Command::new(example(name)).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn hello() {
    let (output, text) = run("hello", &[""; 0]);
    assert!(output.status.success() && text.contains("hello from box, process 2 of 2"), "{text}");
}

#[test]
fn host() {
    let (output, text) = run("host", &[""; 0]);
    assert!(output.status.success(), "{text}");
    assert!(text.lines().any(|line| line.starts_with("PID namespace") && line.contains("yes")), "{text}");
    assert!(text.contains("in force  PID namespace"), "{text}");
}

/// The problems, where this lane can read them.
fn problems() -> PathBuf {
    let beside = std::env::current_exe().unwrap().with_file_name("judge-problems");
    if beside.exists() { beside } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/judge") }
}

#[test]
fn judge() {
    let (output, text) = run("judge", &[problems()]);
    assert!(output.status.success(), "{text}");
    for verdict in ["AC", "WA", "TLE", "RE", "OLE", "RF", "CE"] {
        assert!(text.lines().any(|line| line.contains(&format!("  {verdict}  "))), "{verdict} in {text}");
    }
    let every =
        ["LimitExceeded(WallTime)", "LimitExceeded(CpuTime)", "LimitExceeded(Output)", "LimitExceeded(FileSize)"];
    for evidence in every.into_iter().chain(["SIGSEGV", "exit code"]) {
        assert!(text.contains(evidence), "{evidence} in {text}");
    }
    // Where memory can be limited there is that verdict too, and where it cannot the judge says so.
    let limited = Support::probe().missing(Layer::Memory).is_none();
    assert_eq!(text.lines().any(|line| line.contains("  MLE  ")), limited, "{text}");
    assert_eq!(text.contains("left out: memory is not limited here"), !limited, "{text}");
    assert_eq!(text.contains("LimitExceeded(Memory)"), limited, "{text}");
    let limited = Support::probe().missing(Layer::Pids).is_none();
    assert_eq!(text.contains("LimitExceeded(Pids)"), limited, "{text}");
    // Each line tells what it cost.
    for line in text.lines().filter(|line| line.contains("  test ")) {
        assert!(line.contains("wall ") && line.contains("cpu ") && line.contains("peak "), "{line}");
    }
}

#[test]
fn judge_says_when_a_verdict_is_not_as_expected() {
    let directory = tempfile::tempdir().unwrap();
    let problem = directory.path().join("problem");
    for part in ["tests", "submissions"] {
        std::fs::create_dir_all(problem.join(part)).unwrap();
    }
    std::fs::write(problem.join("limits"), "wall_ms 1000\ncpu_ms 1000\nmemory_bytes 33554432\noutput_bytes 100\n")
        .unwrap();
    std::fs::write(problem.join("tests/1.in"), "").unwrap();
    std::fs::write(problem.join("tests/1.out"), "right").unwrap();
    let source = "// expect: AC\n#include <stdio.h>\nint main(void) { puts(\"wrong\"); return 0; }\n";
    std::fs::write(problem.join("submissions/a.c"), source).unwrap();
    let (output, text) = run("judge", &[directory.path()]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("WA"), "{text}");
}

/// Ten seconds of it.
#[test]
fn soak() {
    if common::is_slow() {
        skip!("a mixed load from six threads takes too long in an emulated machine");
    }
    let output = Command::new(example("soak")).args(["--minutes", "0.167"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("unexpected outcomes: 0") && text.contains("descriptors"), "{text}");
}

#[test]
fn plugin_host() {
    let (output, text) = run("plugin_host", &[""; 0]);
    assert!(output.status.success(), "{text}");
    for line in [
        "the sum of 1 to 100: Number(5050)",
        "the last byte is 250",
        "without a sandbox, a file of the host's: works",
        "without a sandbox, the network: works",
        "a file of the host's: refused",
        "the network: refused",
        "a descriptor of the host's: refused: Bad file descriptor",
        "another program: ended for execve",
        "a fork bomb: ",
        "all of the memory: ",
        "never to answer: stopped by its limit (WallTime)",
        "nonsense in its answer: given up",
        "to flood the host: given up",
        "to crash: ended by SIGSEGV",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("WORKED"), "{text}");
}

#[test]
fn pool() {
    let (output, text) = run("pool", &["--threads", "3", "--runs", if common::is_slow() { "40" } else { "80" }]);
    assert!(output.status.success(), "{text}");
    for way in ["std", "cold", "pool", "pool, recycling"] {
        let line =
            text.lines().find(|line| line.starts_with(&format!("{way:<16} "))).unwrap_or_else(|| panic!("{text}"));
        let rate = line[16..].split_whitespace().next().unwrap();
        assert!(rate.parse::<f64>().is_ok_and(|rate| rate > 0.0), "{line}");
        assert!(line.contains("launches/s") && line.contains("of std"), "{line}");
    }
    assert!(text.lines().any(|line| line.starts_with("verdicts: ") && line.contains("\"WA\": ")), "{text}");
    let (output, text) = run("pool", &["--threads", "none"]);
    assert!(output.status.code() == Some(2) && text.contains("usage"), "{text}");
}

#[test]
fn supervise() {
    let (output, text) = run("supervise", &[""; 0]);
    assert!(output.status.success(), "{text}");
    let says = |words: &str| text.contains(words);
    for words in ["state: Running", "sh -c trap", "event: state Stopping", "all by itself", "event: it has stopped"] {
        assert!(says(words), "{words} in {text}");
    }
    assert!(says("worker: Exited(0)") && says("state: Stopped"), "{text}");
    let support = Support::probe();
    // It works with what there is, and says what there is not.
    let freezer = support.missing(Layer::Freezer).is_none();
    assert_eq!(says("Frozen for 200 ms: 0.0ns"), freezer, "{text}");
    assert_eq!(says("event: state Frozen"), freezer, "{text}");
    assert_eq!(says("left out: freezer"), !freezer, "{text}");
    let memory = support.missing(Layer::Memory).is_none();
    assert_eq!(says("with 64 MiB of memory: LimitExceeded(Memory)"), memory, "{text}");
    assert_eq!(says("with 256 MiB of memory: Exited(0)"), memory, "{text}");
    assert_eq!(says("left out: memory limits"), !memory, "{text}");
}

const ROLE: &str = "RUST_TEST_ROLE";

/// What [`test_runner`] runs: this very program, in a role. Without one it has nothing to do.
#[test]
fn inside() {
    match std::env::var(ROLE).as_deref() {
        Ok("look") => look(),
        Ok("exit") => std::process::exit(41),
        Ok("abort") => std::process::abort(),
        Ok("fail") => panic!("as it should"),
        Ok("eat") => {
            let bytes = vec![1u8; 200 << 20];
            assert_eq!(std::hint::black_box(&bytes)[100 << 20], 1);
        }
        Ok("sleep") => std::thread::sleep(std::time::Duration::from_secs(1000)),
        Ok("write") => fs::write("written", "by the test").unwrap(),
        _ => {}
    }
}

fn look() {
    let mut text = String::new();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let here = std::env::current_dir().unwrap();
    writeln!(text, "package {} in {}", variable("CARGO_PKG_NAME"), here.display()).unwrap();
    writeln!(text, "home {}, secret <{}>, named <{}>", variable("HOME"), variable("SECRET"), variable("NAMED"))
        .unwrap();
    writeln!(text, "reads {}", fs::read_to_string("data").unwrap().trim()).unwrap();
    writeln!(text, "writes {}", fs::write("new", "").is_ok()).unwrap();
    writeln!(text, "has a /tmp {}", fs::write("/tmp/new", "").is_ok()).unwrap();
    writeln!(text, "sees the host's {}", Path::new(&variable("RUST_HOST_FILE")).exists()).unwrap();
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    let devices: Vec<_> = devices.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    writeln!(text, "devices {}", devices.join(" ")).unwrap();
    let line = std::io::read_to_string(std::io::stdin()).unwrap();
    writeln!(text, "stdin {}", line.trim()).unwrap();
    print!("{text}");
}

/// The runner, with this program in a role, in a package of its own.
fn runner(package: &Path, options: &[&str], role: &str) -> (Output, String) {
    let mut command = Command::new(example("test_runner"));
    command.args(options).arg(std::env::current_exe().unwrap()).args(["inside", "--exact", "--nocapture"]);
    command
        .current_dir(package)
        .env("CARGO_MANIFEST_DIR", package)
        .env("CARGO_PKG_NAME", "some-package")
        .env(ROLE, role);
    command
        .env("SECRET", "secret")
        .env("NAMED", "named")
        .env("RUST_HOST_FILE", package.parent().unwrap().join("beside"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"a line\n");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn test_runner() {
    let directory = common::directory();
    let package = directory.path().join("package");
    fs::create_dir(&package).unwrap();
    fs::write(package.join("data"), "data of the package").unwrap();
    fs::write(directory.path().join("beside"), "").unwrap();

    let (output, text) = runner(&package, &["--env", "NAMED"], "look");
    assert!(output.status.success(), "{text}");
    for line in [
        &format!("package some-package in {}", package.display()),
        "home /tmp, secret <>, named <named>",
        "reads data of the package",
        "writes false",
        "has a /tmp true",
        "sees the host's false",
        "devices lo",
        "stdin a line",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
    assert!(!Path::new("/tmp/new").exists());

    // Its exit codes are those of the program.
    for (role, code) in [("exit", 41), ("abort", 128 + 6), ("fail", 101), ("none", 0)] {
        let (output, text) = runner(&package, &[], role);
        assert_eq!(output.status.code(), Some(code), "{role}: {text}");
        assert!(!text.contains("limit exceeded"), "{text}");
    }
    let (output, text) = runner(&package, &["--seconds", "1"], "sleep");
    assert_eq!(output.status.code(), Some(128 + 9), "{text}");
    assert!(text.contains("limit exceeded: wall time"), "{text}");
    let (output, text) = runner(&package, &["--memory-mib", "100"], "eat");
    match Support::probe().missing(Layer::Memory) {
        None => {
            assert_eq!(output.status.code(), Some(128 + 9), "{text}");
            assert!(text.contains("limit exceeded: memory"), "{text}");
        }
        Some(_) => assert!(output.status.success() && text.contains("test_runner: without memory limits: "), "{text}"),
    }
    let (output, _) = runner(&package, &["--memory-mib", "1000"], "eat");
    assert!(output.status.success(), "the control");

    let (output, text) = runner(&package, &[], "write");
    assert_eq!(output.status.code(), Some(101), "{text}");
    let (output, text) = runner(&package, &["--writable-package"], "write");
    assert!(output.status.success(), "{text}");
    assert_eq!(fs::read(package.join("written")).unwrap(), b"by the test");
    assert_eq!(text.contains("has the host's root in it"), common::is_root(), "{text}");

    for wrong in [&["--no-such-option"][..], &["--tasks", "many"], &["--writable", "/no/such/directory"]] {
        let (output, text) = runner(&package, wrong, "none");
        assert!(output.status.code() == Some(125) && text.contains("test_runner: "), "{text}");
    }
}

/// Those of a crate from the registry, by cargo, where cargo has downloaded it: it is one of those that our tests need.
#[test]
fn test_runner_with_a_third_party_crate() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    if !Command::new(&cargo).arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip!("there is no cargo here");
    }
    let Some(sources) = in_registry("tempfile-") else { skip!("cargo's registry has no copy of tempfile here") };
    let directory = common::directory();
    let copy = directory.path().join("tempfile");
    let copied = Command::new("cp").arg("-r").args([&sources, &copy]).status().unwrap();
    assert!(copied.success());
    // The one thing that it needs for its tests and we do not have is what puts its README into them.
    let edit = |file: &str, change: &dyn Fn(String) -> String| {
        let path = copy.join(file);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    };
    let entry = "\n[[test]]\nname = \"sandboxed\"\npath = \"tests/sandboxed.rs\"\n";
    edit("Cargo.toml", &|text| text.replace("[dev-dependencies.doc-comment]\nversion = \"0.3\"\n", "") + entry);
    edit("src/lib.rs", &|text| text.replace("#[cfg(doctest)]\ndoc_comment::doctest!(\"../README.md\");", ""));
    // And it is where it should be.
    let looks = "#[test] fn sandboxed() { assert_eq!(std::fs::read_to_string(\"/proc/net/dev\").unwrap().lines().count(), 3); }";
    fs::write(copy.join("tests/sandboxed.rs"), looks).unwrap();
    let locked = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    fs::copy(locked, copy.join("Cargo.lock")).unwrap();

    let test = |what: &[&str], options: &str| {
        let arch = std::env::consts::ARCH.to_uppercase();
        let runner = format!("{} {options}", example("test_runner").display());
        let mut command = Command::new(&cargo);
        command.args(["test", "--offline", "-j2", "--color", "never", "--target-dir"]);
        command.arg(directory.path().join("target")).args(what).current_dir(&copy);
        command.env(format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER"), runner);
        for variable in ["CARGO_TARGET_DIR", "RUSTFLAGS", "RUSTC_WRAPPER"] {
            command.env_remove(variable);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let passed = |line: &str| line.split("ok. ").nth(1)?.split(' ').next()?.parse::<u32>().ok();
        let passed: u32 = text.lines().filter_map(passed).sum();
        (output.status.success(), passed, text)
    };
    // Its unit tests and five programs, and our own.
    let (success, passed, text) = test(&["--lib", "--tests"], "--memory-mib 512");
    assert!(success && passed >= 60 && text.contains("test sandboxed ... ok"), "{passed}: {text}");
    // Of its documentation, some write to where they are.
    if common::is_root() {
        let owned = Command::new("chown").args(["-R", "1000:1000"]).arg(&copy).status().unwrap();
        assert!(owned.success());
    }
    let (success, passed, text) = test(&["--doc", "--", "in"], "--writable-package");
    assert!(success && passed >= 8, "{passed}: {text}");
    let (success, _, text) = test(&["--doc", "--", "tempdir_in"], "");
    assert!(!success && text.contains("Read-only file system"), "{text}");
}

/// A crate's sources, as cargo has unpacked them.
fn in_registry(prefix: &str) -> Option<PathBuf> {
    let home =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?.flatten();
    let crates = registries.filter_map(|registry| fs::read_dir(registry.path()).ok()).flat_map(Iterator::flatten);
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    crates.filter(named).map(|entry| entry.path()).filter(|path| path.join("tests").is_dir()).max()
}
