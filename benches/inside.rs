//! What confinement costs the program inside: system calls in a loop, and a workload, from one interleaved run.
//!
//! `cargo bench --bench inside [-- [--rounds N] [--json FILE]]`. The loops are a C program's, which prints nanoseconds per
//! call. Each round runs every row once, in turn, so that the machine's moods hit all alike; the workload runs in pairs,
//! bare and hardened, and what is compared is the ratio within each pair.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Options, Record, Result, median, to_json};
use stockade::landlock::{Access, Rules};
use stockade::seccomp::Filter;
use stockade::{Prepared, Sandbox};

const SOURCE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Integers, doubles, and memory far beyond the caches, touched anew each time: its pages are the kernel's work. */
static double work(long rounds)
{
    enum { SIZE = 16 << 20 };
    double sum = 0;
    unsigned long seed = 1;
    while (rounds--) {
        unsigned long *memory = malloc(SIZE);
        for (long i = 0; i < SIZE / 8; i++) memory[i] = seed = seed * 6364136223846793005 + 1442695040888963407;
        for (long i = 0; i < 400000; i++) sum += memory[(memory[i] >> 20) % (SIZE / 8)] / 1e19;
        for (long i = 1; i < 3000000; i++) sum += 1.0 / i;
        free(memory);
    }
    return sum;
}

int main(int argc, char **argv)
{
    long count = argc > 2 ? atol(argv[2]) : 1;
    char byte;
    double start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    if (!strcmp(argv[1], "getppid")) {
        for (long i = 0; i < count; i++) syscall(SYS_getppid);
    } else if (!strcmp(argv[1], "open")) {
        for (long i = 0; i < count; i++) {
            int fd = open(argv[3], O_RDONLY);
            if (fd < 0 || read(fd, &byte, 1) != 1 || close(fd)) return 2;
        }
    } else {
        if (work(count) == 0) return 3;
    }
    start = now(CLOCK_MONOTONIC) - start;
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%.3f %.3f\n", start / count, cpu / count);
    return 0;
}
"#;

/// The program, and the file that it opens, in a directory that is at the same place inside.
struct Desk {
    directory: tempfile::TempDir,
    program: PathBuf,
    file: PathBuf,
}

impl Desk {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let [source, program, file] = ["inside.c", "inside", "file"].map(|name| directory.path().join(name));
        std::fs::write(&source, SOURCE)?;
        std::fs::write(&file, "content")?;
        let built = Command::new("cc").args(["-O2", "-static", "-o"]).args([&program, &source]).status()?;
        if built.success() { Ok(Self { directory, program, file }) } else { Err("cc cannot build the program".into()) }
    }

    fn arguments(&self, what: &str, count: usize) -> [std::ffi::OsString; 3] {
        [what.into(), count.to_string().into(), self.file.clone().into()]
    }

    fn bare(&self, what: &str, count: usize) -> Result<Times> {
        let output = Command::new(&self.program).args(self.arguments(what, count)).output()?;
        Times::read(&output.stdout)
    }

    fn inside(&self, prepared: &Prepared, what: &str, count: usize) -> Result<Times> {
        let output = prepared.command(&self.program).args(self.arguments(what, count)).output()?;
        if !output.outcome.success() {
            return Err(format!("{what}: {:?}", output.outcome.verdict).into());
        }
        Times::read(&output.stdout)
    }
}

/// Nanoseconds per call, or per round, as the program says.
struct Times {
    wall: f64,
    cpu: f64,
}

impl Times {
    fn read(text: &[u8]) -> Result<Self> {
        let (wall, cpu) = std::str::from_utf8(text)?.trim().split_once(' ').ok_or("two times")?;
        Ok(Self { wall: wall.parse()?, cpu: cpu.parse()? })
    }
}

fn rules(directory: &Path) -> Rules {
    Rules::new().path("/", Access::READ | Access::EXECUTE).path(directory, Access::all()).path("/tmp", Access::all())
}

fn main() -> Result<()> {
    const LOOPS: [(&str, usize); 2] = [("getppid", 300_000), ("open", 60_000)];
    /// Rounds of the workload in two seconds, about.
    const WORK: f64 = 2e9;
    let options = Options::read(30, &["--json"])?;
    let desk = Desk::new()?;
    let rules = rules(desk.directory.path());
    let profile = Filter::default_profile;
    let hardened = Sandbox::hardened().bind_ro(desk.directory.path(), desk.directory.path());
    let sandboxes = [
        // An agent and a program, and nothing that the calls would feel.
        ("none", Sandbox::new()),
        ("default profile", Sandbox::new().seccomp(profile())),
        ("Landlock", Sandbox::new().landlock(rules.clone())),
        ("both", Sandbox::new().seccomp(profile()).landlock(rules)),
        ("hardened", hardened.clone()),
    ];
    let prepared = sandboxes.into_iter().map(|(name, sandbox)| Ok((name, sandbox.prepare()?)));
    let prepared = prepared.collect::<Result<Vec<_>>>()?;
    let mut rows: Vec<(String, Vec<f64>)> = vec![];
    for (what, _) in LOOPS {
        rows.push((format!("bare/{what}"), vec![]));
        rows.extend(prepared.iter().map(|(name, _)| (format!("{name}/{what}"), vec![])));
    }
    for _ in 0..options.rounds {
        let mut row = rows.iter_mut();
        let mut put = |time: Times| row.next().map(|(_, times)| times.push(time.wall)).ok_or("more times than rows");
        for (what, count) in LOOPS {
            put(desk.bare(what, count)?)?;
            for (_, prepared) in &prepared {
                put(desk.inside(prepared, what, count)?)?;
            }
        }
    }

    println!("{:<24} {:>10} {:>8}", "row", "ns", "x bare");
    let mut records = vec![];
    let of = |name: &str| rows.iter().find(|(row, _)| row == name).map_or(f64::NAN, |(_, times)| median(times));
    for (name, times) in &rows {
        let bare = of(&format!("bare/{}", name.rsplit('/').next().unwrap_or_default()));
        let (time, ratio) = (median(times), median(times) / bare);
        println!("{name:<24} {time:>10.1} {ratio:>8.2}");
        records.push(Record::new(name).number("median_ns", time, 1).number("ratio_bare", ratio, 3));
    }

    let hardened = hardened.prepare()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let count = (WORK / desk.bare("work", 5)?.cpu).max(1.0) as usize;
    let (mut wall, mut cpu) = (vec![], vec![]);
    for round in 0..options.rounds {
        // In turn the first of the pair.
        let (bare, inside) = if round % 2 == 0 {
            let bare = desk.bare("work", count)?;
            (bare, desk.inside(&hardened, "work", count)?)
        } else {
            let inside = desk.inside(&hardened, "work", count)?;
            (desk.bare("work", count)?, inside)
        };
        wall.push(inside.wall / bare.wall);
        cpu.push(inside.cpu / bare.cpu);
    }
    println!("workload of two seconds, hardened / bare, in {} pairs (goal: at most 1.01)", wall.len());
    for (name, ratios) in [("wall", &wall), ("cpu", &cpu)] {
        let low = ratios.iter().copied().fold(f64::MAX, f64::min);
        let high = ratios.iter().copied().fold(f64::MIN, f64::max);
        println!("  {name:<5} {:.4}  from {low:.3} to {high:.3}", median(ratios));
    }
    let (wall, cpu) = (median(&wall), median(&cpu));
    records.push(Record::new("hardened/work").number("ratio_bare", wall, 4).number("ratio_bare_cpu", cpu, 4));
    if let Some(file) = options.value("--json") {
        std::fs::write(file, to_json(&records))?;
    }
    Ok(())
}
