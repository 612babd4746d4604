//! The project's own rules, checked by machine.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut found = vec![];
    for entry in fs::read_dir(root).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&format!("{directory}/{}", entry.file_name().display())));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "{directory}");
    found
}

/// What comes after `use `, before the `;`, in each import of a file.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    code.split("\nuse ").skip(1).map(|rest| rest.split(';').next().unwrap().to_owned()).collect()
}

#[test]
fn the_stage_imports_only_core_the_plan_and_itself() {
    let allowed = [
        "core::",
        "super::plan::",
        "super::sys::",
        "super::sys",
        "super::enter::",
        "super::setup::",
        "super::setup",
        "super::exec",
        "super::serve",
    ];
    for (path, text) in sources("src/stage") {
        for import in imports(&text) {
            assert!(allowed.iter().any(|allowed| import.starts_with(allowed)), "{}: {import}", path.display());
        }
        for word in ["std::", "alloc::", ".unwrap()", ".expect(", "panic!", "unreachable!", "todo!", "unimplemented!"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
    for import in imports(&fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan.rs")).unwrap()) {
        assert!(import.starts_with("core::"), "the plan is compiled into the stage too: {import}");
    }
}

#[test]
fn the_arrows_of_the_design() {
    // A subject's own file knows neither the launch nor the handle; what judges an end knows nothing else at all.
    let forbidden: &[(&str, &[&str])] = &[
        ("outcome.rs", &["crate::", "rustix::"]),
        ("caps.rs", &["crate::"]),
        ("rlimit.rs", &["crate::launch", "crate::child", "crate::command", "crate::prepare", "crate::sandbox"]),
        ("mount.rs", &["crate::launch", "crate::child", "crate::command", "crate::sandbox"]),
        ("idmap.rs", &["crate::launch", "crate::child", "crate::command", "crate::prepare", "crate::sandbox"]),
        ("sandbox.rs", &["crate::plan", "crate::child::", "rustix::"]),
        ("prepare.rs", &["crate::child"]),
        ("launch.rs", &["crate::child", "crate::command"]),
    ];
    for (file, words) in forbidden {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap();
        for import in imports(&text) {
            for word in *words {
                assert!(!import.starts_with(word), "{file}: use {import}");
            }
        }
    }
}

#[test]
fn unsafe_code_is_where_the_design_allows_it() {
    for (path, text) in sources("src") {
        let allowed = path.ends_with("stage/sys.rs") || path.ends_with("stage/main.rs");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let has = code.filter(|line| line.contains("unsafe ") || line.contains("allow(unsafe_code)")).count() > 0;
        assert_eq!(has, allowed, "{}", path.display());
        let blocks = text.matches("unsafe {").count();
        assert!(text.matches("SAFETY:").count() >= blocks, "{}: {blocks} unsafe blocks", path.display());
    }
}

#[test]
fn the_stage_is_small_and_links_nothing() {
    let stage = fs::read(env!("STOCKADE_STAGE")).unwrap();
    assert!(stage.starts_with(b"\x7fELF"));
    assert!((1000..64 * 1024).contains(&stage.len()), "{} bytes", stage.len());
    // No interpreter, no dynamic section: e_type is EXEC, and no program header is PT_INTERP or PT_DYNAMIC.
    let word = |at: usize| u16::from_le_bytes([stage[at], stage[at + 1]]);
    assert_eq!(word(16), 2, "a static executable");
    let (offset, size, count) = (usize::from(word(32)), usize::from(word(54)), usize::from(word(56)));
    for header in 0..count {
        let kind = word(offset + header * size);
        assert!(kind != 2 && kind != 3, "program header {header} is of type {kind}");
    }
    for word in ["panicked at", "libc", "/rustc/"] {
        assert!(!stage.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
}

#[test]
fn the_readme_lists_the_steps_in_order() {
    // Each of these must come behind the one before, as the steps do.
    let readme = include_str!("../README.md");
    let mut rest = readme.split("## What a launch does, in order").nth(1).unwrap();
    for words in [
        "session of its own",
        "joins existing",
        "user namespace",
        "mapped",
        "clock offsets",
        "agent",
        "mapped id",
        "private",
        "pivots",
        "host and domain name",
        "loopback",
        "bounding set",
        "no_new_privs",
        "its cgroup",
        "a session",
        "cgroup namespace",
        "chroot(2)",
        "descriptors",
        "terminal",
        "working directory",
        "resource limits",
        "groups and ids",
        "capabilities",
        "execve(2)",
    ] {
        let at = rest.find(words).unwrap_or_else(|| panic!("{words} is missing or out of order"));
        rest = &rest[at..];
    }
    assert!(stockade::Step::ALL.windows(2).all(|pair| pair[0] < pair[1]));
}
