//! The README's program, in all eight namespaces: `cargo run --example hello`.

use std::time::Duration;

use stockade::{Rootfs, Sandbox};

fn main() -> Result<(), stockade::Error> {
    let sandbox = Sandbox::new()
        .user_ns()
        .pid_ns()
        .net_ns()
        .ipc_ns()
        .uts_ns()
        .cgroup_ns()
        .time_ns()
        .rootfs(Rootfs::system())
        .hostname("box")
        .wall_time_limit(Duration::from_secs(5));
    let script = "cd /proc; set -- [0-9]*; echo hello from $(uname -n), process $$ of $#; ls /";
    let output = sandbox.command("sh").args(["-c", script]).output()?;
    print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{:?}: {:?}", output.outcome.verdict, output.outcome.usage);
    Ok(())
}
