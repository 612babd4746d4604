//! The examples, each run for real.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--example", name])
        .args(release)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    tests.parent().unwrap().with_file_name("examples").join(name)
}

fn run(name: &str, arguments: &[&Path]) -> (Output, String) {
    let output = Command::new(example(name)).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn hello() {
    let (output, text) = run("hello", &[]);
    assert!(output.status.success() && text.contains("hello from box, process 2 of 2"), "{text}");
}

#[test]
fn host() {
    let (output, text) = run("host", &[]);
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
    let (output, text) = run("judge", &[&problems()]);
    assert!(output.status.success(), "{text}");
    for verdict in ["AC", "WA", "TLE", "RE", "OLE", "CE"] {
        assert!(text.lines().any(|line| line.contains(&format!("  {verdict}  "))), "{verdict} in {text}");
    }
    for evidence in ["LimitExceeded(WallTime)", "LimitExceeded(CpuTime)", "SIGSEGV"] {
        assert!(text.contains(evidence), "{evidence} in {text}");
    }
    // Where memory can be limited there is that verdict too, and where it cannot the judge says so.
    let limited = stockade::Support::probe().missing(stockade::Layer::Memory).is_none();
    assert_eq!(text.lines().any(|line| line.contains("  MLE  ")), limited, "{text}");
    assert_eq!(text.contains("left out: memory is not limited here"), !limited, "{text}");
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
