//! A supervisor: starts a container, watches what happens in it, stops it for a while, changes its limits, and ends it.
//!
//! ```console
//! $ cargo run --example supervise
//! ```
//!
//! It works with what the host has: where there is no freezer, or memory cannot be limited, it says so and leaves that out.

use std::error::Error;
use std::thread;
use std::time::Duration;

use stockade::{Container, ContainerEvent, Layer, Layers, Rootfs, Sandbox, State, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MEMORY: u64 = 64 << 20;

/// Something to look after.
const WORKER: &str = "trap 'exit 0' TERM; while :; do i=$((i+1)); done";

/// Takes 96 MiB at once, and is satisfied with that.
const HUNGRY: &str = "dd if=/dev/zero of=/dev/null bs=96M count=1 2>/dev/null";

fn main() -> Result<()> {
    let sandbox = Sandbox::new()
        .user_ns()
        .net_ns()
        .ipc_ns()
        .cgroup_ns()
        .rootfs(Rootfs::system())
        .hostname("supervised")
        .freezer()
        .memory_limit(MEMORY)
        .pids_limit(64)
        .best_effort(Layers::FREEZER | Layers::MEMORY | Layers::PIDS);
    let container = sandbox.start()?;
    for missing in container.report().missing() {
        println!("left out: {}: {}", missing.layer, missing.reason);
    }
    println!("state: {}", container.state());

    // They end with the container.
    let events = container.events()?;
    let watching = thread::spawn(move || events.for_each(|event| println!("event: {}", in_words(event))));

    let worker = container.command("sh").args(["-c", WORKER]).stdout(Stdio::null()).spawn()?;
    thread::sleep(Duration::from_millis(100));
    for process in container.processes()? {
        println!(
            "process {} (inside {}), {}: {}",
            process.pid,
            process.inner_pid,
            process.state,
            process.command.join(" ")
        );
    }
    if has(&container, Layer::Freezer) {
        freeze_for_a_while(&container)?;
    }
    if has(&container, Layer::Memory) {
        feed(&container)?;
    }

    let by_itself = container.stop(Duration::from_secs(10))?;
    println!("stopped, {}", if by_itself { "all by itself" } else { "not all of it by itself" });
    let outcome = worker.wait()?;
    println!("worker: {:?}, {:.1?} of CPU", outcome.verdict, outcome.usage.cpu());
    println!("state: {}", container.state());
    watching.join().map_err(|_| "the watching thread panicked".into())
}

fn has(container: &Container, layer: Layer) -> bool {
    container.report().missing().iter().all(|missing| missing.layer != layer)
}

fn freeze_for_a_while(container: &Container) -> Result<()> {
    let cpu = || container.usage().map(|usage| usage.cpu());
    container.freeze()?;
    let before = cpu()?;
    thread::sleep(Duration::from_millis(200));
    println!("{} for 200 ms: {:.1?} of CPU used meanwhile", container.state(), cpu()? - before);
    container.thaw()?;
    thread::sleep(Duration::from_millis(200));
    println!("{} for 200 ms: {:.1?} of CPU used meanwhile", container.state(), cpu()? - before);
    Ok(())
}

/// A program that needs more memory than there is; and again, when there is more.
fn feed(container: &Container) -> Result<()> {
    for limit in [MEMORY, 4 * MEMORY] {
        container.limits().memory(limit)?;
        let outcome = container.command("sh").args(["-c", HUNGRY]).status()?;
        println!("with {} MiB of memory: {:?}", limit >> 20, outcome.verdict);
    }
    let usage = container.usage()?;
    println!("so far: at most {} MiB of memory at once", usage.memory_peak.unwrap_or(0) >> 20);
    Ok(())
}

fn in_words(event: ContainerEvent) -> String {
    match event {
        ContainerEvent::State(State::Stopped) => "it has stopped".into(),
        ContainerEvent::State(state) => format!("state {state}"),
        ContainerEvent::Exited { pid, status } => format!("process {pid} has ended: {status}"),
        ContainerEvent::Limit(event) => format!("{:?}, {} times", event.kind, event.times),
        other => format!("{other:?}"),
    }
}
