//! What a launch costs, as a ratio to `std::process::Command`, from one interleaved run.
//!
//! `cargo bench --bench launch [-- [--rounds N] [--json FILE]]`. Each round runs every row once, in turn, so that the
//! machine's moods hit all rows alike. A time is that from before the spawn until the program has been waited for.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stockade::{Layers, Prepared, Rootfs, Sandbox};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Options {
    rounds: usize,
    json: Option<String>,
}

fn options() -> Result<Options> {
    let mut options = Options { rounds: 200, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
        match argument.as_str() {
            "--bench" => {}
            "--rounds" => options.rounds = value()?.parse()?,
            "--json" => options.json = Some(value()?),
            other => return Err(format!("unknown option {other}; there are --rounds N and --json FILE").into()),
        }
    }
    Ok(options)
}

fn all_namespaces() -> Sandbox {
    Sandbox::new().user_ns().pid_ns().mount_ns().net_ns().ipc_ns().uts_ns().cgroup_ns()
}

/// A root of five read-only binds, /proc and a tmpfs.
fn rootfs(extra: &Path) -> Sandbox {
    ["/usr", "/bin", "/lib", "/lib64", "/etc"]
        .into_iter()
        .fold(all_namespaces().rootfs(Rootfs::empty()), |sandbox, path| sandbox.bind_ro(path, path))
        .proc("/proc")
        .tmpfs("/tmp", 1 << 20)
        .bind_ro(extra, "/static")
}

/// The rows but for std's, in the order in which they are printed.
fn sandboxes(static_program: &Path) -> Vec<(&'static str, Sandbox)> {
    let new = Sandbox::new;
    vec![
        ("none", new()),
        ("ns-user", new().user_ns()),
        ("ns-pid", new().pid_ns()),
        ("ns-mount", new().mount_ns()),
        ("ns-net", new().net_ns()),
        ("ns-ipc", new().ipc_ns()),
        ("ns-uts", new().uts_ns()),
        ("ns-cgroup", new().cgroup_ns()),
        ("ns-time", new().time_ns()),
        ("ns-all", all_namespaces()),
        ("rootfs", rootfs(static_program)),
        ("limits", limits(static_program)),
    ]
}

/// The same root, with memory, tasks and CPU limited, as far as this host can.
fn limits(static_program: &Path) -> Sandbox {
    let limited = rootfs(static_program).memory_limit(256 << 20).pids_limit(100).cpu_limit(2.0);
    limited.best_effort(Layers::MEMORY | Layers::PIDS | Layers::CPU)
}

fn plain(program: &Path) -> Result<Duration> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let time = start.elapsed();
    if status.success() { Ok(time) } else { Err(format!("{}: {status}", program.display()).into()) }
}

fn sandboxed(prepared: &Prepared, program: &Path) -> Result<Duration> {
    let mut command = prepared.command(program);
    command.stdout(stockade::Stdio::null()).stderr(stockade::Stdio::null());
    let start = Instant::now();
    let outcome = command.status()?;
    let time = start.elapsed();
    if outcome.success() { Ok(time) } else { Err(format!("{}: {:?}", program.display(), outcome.verdict).into()) }
}

/// A host with so many MiB resident, in a process of its own: one launch for each line that it reads.
fn host_of(mebibytes: usize, program: &str) -> Result<()> {
    let mut ballast = vec![0u8; mebibytes << 20];
    for page in ballast.chunks_mut(4096) {
        if let Some(byte) = page.first_mut() {
            *byte = 1;
        }
    }
    let program = Path::new(program);
    let prepared = rootfs(program).prepare()?;
    for line in std::io::stdin().lines() {
        let path = if line? == "true" { Path::new("/bin/true") } else { Path::new("/static") };
        println!("{}", sandboxed(&prepared, path)?.as_nanos());
    }
    std::hint::black_box(&ballast);
    Ok(())
}

struct Host {
    process: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Host {
    fn start(mebibytes: usize, program: &Path) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--host", &mebibytes.to_string()])
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { process, answers })
    }

    fn launch(&mut self, program: &str) -> Result<Duration> {
        writeln!(self.process.stdin.as_mut().ok_or("no stdin")?, "{program}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse()?))
    }

    fn stop(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

/// The smallest static program that a C compiler makes.
fn build_static(directory: &Path) -> Result<std::path::PathBuf> {
    let (source, program) = (directory.join("static.c"), directory.join("static"));
    std::fs::write(&source, "int main(void) { return 0; }\n")?;
    let built = Command::new("cc").args(["-O2", "-static", "-o"]).args([&program, &source]).status()?;
    if built.success() { Ok(program) } else { Err("cc cannot build a static program".into()) }
}

struct Row {
    name: String,
    times: Vec<Duration>,
}

impl Row {
    fn quantile(&self, q: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((times.len().saturating_sub(1)) as f64 * q).round() as usize;
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, mebibytes, program] = arguments.as_slice()
        && flag == "--host"
    {
        return host_of(mebibytes.parse()?, program);
    }
    let options = options()?;
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let program = build_static(directory.path())?;
    let programs = [("true", Path::new("/bin/true").to_owned()), ("static", program.clone())];

    let sandboxes = sandboxes(&program);
    let prepared = sandboxes.iter().map(|(name, sandbox)| Ok((*name, sandbox.prepare()?)));
    let prepared = prepared.collect::<Result<Vec<_>>>()?;
    let sizes = [0, 1024, 4096];
    let mut hosts = sizes.iter().map(|size| Host::start(*size, &program)).collect::<Result<Vec<_>>>()?;

    let mut rows: Vec<Row> = vec![];
    let mut names: Vec<String> = vec!["std".into()];
    names.extend(prepared.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(sizes.iter().map(|size| format!("rss-{size}")));
    for name in &names {
        rows.extend(programs.iter().map(|(kind, _)| Row { name: format!("{name}/{kind}"), times: vec![] }));
    }
    for round in 0..options.rounds + 5 {
        let mut times = vec![];
        for (_, path) in &programs {
            times.push(plain(path)?);
        }
        for (name, prepared) in &prepared {
            for (kind, path) in &programs {
                let inside =
                    if matches!(*name, "rootfs" | "limits") && *kind == "static" { Path::new("/static") } else { path };
                times.push(sandboxed(prepared, inside)?);
            }
        }
        for host in &mut hosts {
            for (kind, _) in &programs {
                times.push(host.launch(kind)?);
            }
        }
        // The first rounds warm the caches.
        if round >= 5 {
            for (row, time) in rows.iter_mut().zip(times) {
                row.times.push(time);
            }
        }
    }
    for host in hosts {
        host.stop()?;
    }
    report(&rows, &options)
}

fn report(rows: &[Row], options: &Options) -> Result<()> {
    let median_of = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.quantile(0.5));
    println!("{:<20} {:>10} {:>10} {:>10} {:>8}", "row", "median us", "min us", "p99 us", "x std");
    let mut json = String::from("[\n");
    for row in rows {
        let kind = row.name.rsplit('/').next().unwrap_or_default();
        let (median, min, p99) = (row.quantile(0.5), row.quantile(0.0), row.quantile(0.99));
        let ratio = median / median_of(&format!("std/{kind}"));
        println!("{:<20} {median:>10.0} {min:>10.0} {p99:>10.0} {ratio:>8.2}", row.name);
        let comma = if json.len() > 2 { ",\n" } else { "" };
        write!(
            json,
            r#"{comma}  {{"name": "{}", "median_us": {median:.1}, "min_us": {min:.1}, "p99_us": {p99:.1}, "ratio_std": {ratio:.3}}}"#,
            row.name
        )?;
    }
    json.push_str("\n]\n");
    let flat = median_of("rss-4096/true") / median_of("rss-0/true");
    println!("rss-4096 / rss-0: {flat:.2} (goal: at most 1.10)");
    println!("rootfs/true / std: {:.2} (goal: at most 3.00)", median_of("rootfs/true") / median_of("std/true"));
    if let Some(file) = &options.json {
        std::fs::write(file, json)?;
    }
    Ok(())
}
