//! Compiles the stage, the freestanding program in `src/stage/`, for the target that the crate is built for.
//!
//! It needs nothing but the compiler that builds the crate: no network, no C compiler where the toolchain brings
//! `rust-lld`. What it makes is embedded into the library by `src/launch/image.rs`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/stage");
    println!("cargo::rerun-if-changed=src/plan.rs");
    println!("cargo::rerun-if-changed=src/seccomp/interpret.rs");
    println!("cargo::rerun-if-changed=build.rs");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("stage");
    println!("cargo::rustc-env=STOCKADE_STAGE={}", out.display());
    // Miri interprets the host's side only: nothing can be executed there.
    if env::var_os("CARGO_CFG_MIRI").is_some() {
        std::fs::write(&out, b"").expect("OUT_DIR is writable");
        return;
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if os != "linux" || !["x86_64", "aarch64", "riscv64"].contains(&arch.as_str()) {
        println!("cargo::error=stockade runs on Linux, on x86_64, aarch64 and riscv64; the target is {arch} with {os}");
        return;
    }
    let by_lld = compile(
        &out,
        &[
            "-Clinker=rust-lld",
            "-Clink-arg=--build-id=none",
            "-Clink-arg=--no-eh-frame-hdr",
            "-Clink-arg=-znoseparate-code",
        ],
    );
    let Err(lld) = by_lld else { return };
    // A toolchain without rust-lld, as distributions package it: through the C compiler then.
    let linker = env::var("RUSTC_LINKER").map(|linker| format!("-Clinker={linker}"));
    let mut options =
        vec!["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-Wl,--build-id=none,--no-eh-frame-hdr"];
    options.extend(linker.as_deref());
    if let Err(cc) = compile(&out, &options) {
        println!("cargo::error=the stage, stockade's freestanding program, could not be compiled for this target");
        for line in format!("with rust-lld: {lld}\nwith the C compiler: {cc}").lines() {
            println!("cargo::error={line}");
        }
    }
}

fn compile(out: &Path, linking: &[&str]) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stage/main.rs");
    let run = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2024", "--crate-type=bin", "--crate-name=stage", "--color=never"])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Ccodegen-units=1", "-Clto=fat", "-Cstrip=symbols", "-Cdebuginfo=0"])
        .args(["-Coverflow-checks=off", "-Cdebug-assertions=off", "-Cforce-unwind-tables=no"])
        .args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static", "-Clink-arg=-static"])
        .args(linking)
        .arg("--target")
        .arg(env::var_os("TARGET").unwrap_or_default())
        .arg("-o")
        .arg(out)
        .arg(source)
        // What is set for the crate (instrumentation, a sanitizer) would bring in what the stage cannot link.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .map_err(|error| error.to_string())?;
    if run.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&run.stderr).into_owned()) }
}
