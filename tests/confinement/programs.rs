//! The C programs that the tests run inside: compiled once, static.

use std::path::PathBuf;
use std::sync::LazyLock;

use stockade::Sandbox;

use crate::common;

/// Makes the system calls that its arguments name (`call.c`).
pub static CALLER: LazyLock<PathBuf> =
    LazyLock::new(|| compile("call", include_str!("call.c"), &["-nostdlib", "-static", "-fno-stack-protector"]));

/// Tries what its arguments say (`probe.c`).
pub static PROBE: LazyLock<PathBuf> = LazyLock::new(|| compile("probe", include_str!("probe.c"), &["-static"]));

fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("stockade-test-programs-{}", std::process::id()))
}

/// In a directory that is removed when the test binary ends: what a static holds is not dropped.
fn compile(name: &str, source: &str, options: &[&str]) -> PathBuf {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        extern "C" fn remove() {
            let _ = std::fs::remove_dir_all(directory());
        }
        std::fs::create_dir_all(directory()).unwrap();
        std::fs::set_permissions(directory(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // SAFETY: the function takes nothing and only removes the directory.
        #[allow(unsafe_code)]
        unsafe {
            libc::atexit(remove);
        }
        directory()
    });
    common::compile(&MADE, name, source, options)
}

/// What came of each attempt: its word, and the error number. The program is at `/probe` where the sandbox has a root.
#[track_caller]
pub fn probe(sandbox: &Sandbox, program: &str, attempts: &[impl AsRef<std::ffi::OsStr>]) -> Vec<(String, i32)> {
    let mut command = sandbox.command(program);
    let output = command.args(attempts).output().unwrap_or_else(|error| panic!("{error}"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.outcome.success(), "{:?}: {text}", output.outcome.verdict);
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    lines.map(|(word, errno)| (word.to_owned(), errno.parse().unwrap())).collect()
}

/// The error number of one attempt.
#[track_caller]
pub fn attempt(sandbox: &Sandbox, program: &str, what: &str) -> i32 {
    probe(sandbox, program, &[what])[0].1
}
