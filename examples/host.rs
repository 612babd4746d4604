//! What this host can do, as a table: `cargo run --example host`.

use stockade::{Sandbox, Support};

fn main() -> Result<(), stockade::Error> {
    for (layer, found) in Support::probe().layers() {
        match found {
            Ok(remark) => println!("{layer:<18} yes   {remark}"),
            Err(missing) => println!("{layer:<18} NO    {}\n{:24} -> {}", missing.reason, "", missing.remedy),
        }
    }
    println!("\nin force for Sandbox::new().pid_ns().net_ns():\n{}", Sandbox::new().pid_ns().net_ns().check()?);
    Ok(())
}
