//! The policies that are measured, and how a launch is timed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stockade::{Layers, Prepared, Rootfs, Sandbox};

use super::Result;

/// What is bound into the root of the rows that have one, read-only. /proc, a tmpfs and the static program come to it.
pub const BINDS: [&str; 5] = ["/usr", "/bin", "/lib", "/lib64", "/etc"];
pub const TMPFS_BYTES: u64 = 1 << 20;
pub const MEMORY_BYTES: u64 = 256 << 20;
pub const TASKS: u32 = 100;
pub const CORES: u32 = 2;

pub fn all_namespaces() -> Sandbox {
    Sandbox::new().user_ns().pid_ns().mount_ns().net_ns().ipc_ns().uts_ns().cgroup_ns()
}

/// A root of five read-only binds, /proc and a tmpfs.
pub fn rootfs(static_program: &Path) -> Sandbox {
    BINDS
        .into_iter()
        .fold(all_namespaces().rootfs(Rootfs::empty()), |sandbox, path| sandbox.bind_ro(path, path))
        .proc("/proc")
        .tmpfs("/tmp", TMPFS_BYTES)
        .bind_ro(static_program, "/static")
}

/// The same root, with memory, tasks and CPU limited, as far as this host can.
pub fn limits(static_program: &Path) -> Sandbox {
    let limited = rootfs(static_program).memory_limit(MEMORY_BYTES).pids_limit(TASKS).cpu_limit(f64::from(CORES));
    limited.best_effort(Layers::MEMORY | Layers::PIDS | Layers::CPU)
}

/// All isolation on.
pub fn isolated(static_program: &Path) -> Sandbox {
    let sandbox = Sandbox::hardened().bind_ro(static_program, "/static").memory_limit(MEMORY_BYTES).pids_limit(TASKS);
    sandbox.best_effort(Layers::MEMORY | Layers::PIDS)
}

pub fn plain(program: &Path) -> Result<Duration> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let time = start.elapsed();
    if status.success() { Ok(time) } else { Err(format!("{}: {status}", program.display()).into()) }
}

pub fn sandboxed(prepared: &Prepared, program: &Path) -> Result<Duration> {
    timed(prepared.command(program), program)
}

pub fn timed(mut command: stockade::Command, program: &Path) -> Result<Duration> {
    command.stdin(stockade::Stdio::null()).stdout(stockade::Stdio::null()).stderr(stockade::Stdio::null());
    let start = Instant::now();
    let outcome = command.status()?;
    let time = start.elapsed();
    if outcome.success() { Ok(time) } else { Err(format!("{}: {:?}", program.display(), outcome.verdict).into()) }
}

/// The smallest static program that a C compiler makes. With an argument it says a byte, and ends with its standard input.
pub fn build_static(directory: &Path) -> Result<PathBuf> {
    const SOURCE: &str = "#include <unistd.h>\n\
        int main(int argc, char **argv) { char byte = 'r'; if (argc < 2) return 0;\n\
        if (write(1, &byte, 1) != 1) return 1; while (read(0, &byte, 1) > 0); return 0; }\n";
    let (source, program) = (directory.join("static.c"), directory.join("static"));
    std::fs::write(&source, SOURCE)?;
    let built = Command::new("cc").args(["-O2", "-static", "-o"]).args([&program, &source]).status()?;
    if built.success() { Ok(program) } else { Err("cc cannot build a static program".into()) }
}

/// A way to launch; it is told which thread it is in.
pub type Launch<'a> = &'a (dyn Fn(usize) -> Result<Duration> + Sync);

/// How launches go on from several threads, in turns: for each way launches per second, or why one failed.
pub fn rates(ways: &[Launch<'_>], threads: usize, turn: Duration) -> Vec<std::result::Result<f64, String>> {
    const TURNS: u32 = 4;
    let mut counts = vec![Ok((0usize, Duration::ZERO)); ways.len()];
    for _ in 0..TURNS {
        for (launch, counted) in ways.iter().zip(&mut counts) {
            let Ok((count, time)) = counted else { continue };
            let start = Instant::now();
            let run = |thread: usize| {
                let mut launched = 0;
                while start.elapsed() < turn {
                    launch(thread).map_err(|error| error.to_string())?;
                    launched += 1;
                }
                Ok::<usize, String>(launched)
            };
            let launched = std::thread::scope(|scope| {
                let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
                // All are joined, whichever fails.
                let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap_or(Err("it panicked".into()))).collect();
                all.into_iter().sum::<std::result::Result<usize, String>>()
            });
            match launched {
                Ok(launched) => {
                    *count += launched;
                    *time += start.elapsed();
                }
                Err(error) => *counted = Err(error),
            }
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let per_second = |(count, time): (usize, Duration)| count as f64 / time.as_secs_f64();
    counts.into_iter().map(|counted| counted.map(per_second)).collect()
}
