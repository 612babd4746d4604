//! The README's program: what `id` and `ip` see of the host in a sandbox.

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
        .hostname("box");
    let output = sandbox
        .command("sh")
        .args([
            "-c",
            "echo hello from $(hostname), process $$ of:; ls /proc | grep -c '^[0-9]'; id; ls /; cat /proc/mounts",
        ])
        .output()?;
    print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{:?}", output.outcome);
    Ok(())
}
