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
        "super::enter",
        "super::interpret",
        "super::program::",
        "super::serve",
    ];
    for (path, text) in sources("src/stage") {
        // As a part of the library it has the plan and the interpreter from there.
        let library = path.ends_with("stage/mod.rs").then_some(["crate::plan", "crate::seccomp::interpret"]);
        let allowed: Vec<&str> = allowed.into_iter().chain(library.into_iter().flatten()).collect();
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
fn the_guide_has_all_its_pages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("src/guide.rs")).unwrap();
    let pages: Vec<_> =
        fs::read_dir(root.join("docs/guide")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(pages.len() > 5, "{pages:?}");
    for page in pages {
        let name = page.to_str().unwrap().strip_suffix(".md").unwrap().to_owned();
        assert!(guide.contains(&format!("include_str!(\"../docs/guide/{name}.md\")")), "{name}");
        assert!(guide.contains(&format!("[`{name}`]")), "{name} is not in the list");
    }
}

#[test]
fn the_arrows_of_the_design() {
    // A subject's own file knows neither the launch nor the handle; what judges an end knows nothing else at all.
    const OF_LAUNCH: &[&str] = &["crate::child", "crate::command"];
    let forbidden: &[(&str, &[&str])] = &[
        ("outcome.rs", &["crate::", "rustix::"]),
        ("caps.rs", &["crate::"]),
        ("rlimit.rs", &["crate::launch", "crate::child", "crate::command", "crate::prepare", "crate::sandbox"]),
        ("mount.rs", &["crate::launch", "crate::child", "crate::command", "crate::sandbox"]),
        ("idmap.rs", &["crate::launch", "crate::child", "crate::command", "crate::prepare", "crate::sandbox"]),
        ("sandbox.rs", &["crate::plan", "crate::child::", "rustix::"]),
        ("prepare.rs", &["crate::child"]),
        ("launch.rs", OF_LAUNCH),
        ("launch/agent.rs", OF_LAUNCH),
        ("launch/birth.rs", OF_LAUNCH),
        ("launch/explain.rs", OF_LAUNCH),
        ("launch/image.rs", OF_LAUNCH),
        ("launch/packet.rs", OF_LAUNCH),
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
        let allowed = [
            "stage/sys.rs",
            "stage/main.rs",
            "cgroup/bpf.rs",
            "notify/listener.rs",
            "seccomp/tests/kernel.rs",
            "src/fork.rs",
            "src/zygote.rs",
            "src/channel.rs",
        ];
        let allowed = allowed.iter().any(|file| path.ends_with(file));
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
    assert!((1000..72 * 1024).contains(&stage.len()), "{} bytes", stage.len());
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
fn the_guide_lists_the_steps_in_order() {
    // Each of these must come behind the one before, as the steps do.
    let mut rest = include_str!("../docs/guide/launch.md");
    for words in [
        "session of its own",
        "joins existing",
        "user namespace",
        "mapped",
        "clock offsets",
        "agent",
        "mapped id",
        "counted for its user namespace",
        "private",
        "pivots",
        "host and domain name",
        "loopback",
        "Landlock rules",
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
        "the label",
        "Landlock",
        "filter of system calls",
        "execve(2)",
    ] {
        let at = rest.find(words).unwrap_or_else(|| panic!("{words} is missing or out of order"));
        rest = &rest[at..];
    }
    assert!(stockade::Step::ALL.windows(2).all(|pair| pair[0] < pair[1]));
}

/// What the crate's documentation shows: the names that `lib.rs` has in `pub use`, and those of its public modules.
fn reachable_names() -> Vec<String> {
    let read = |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap();
    let mut names = vec![];
    for text in [read("lib.rs"), read("cgroup.rs")] {
        for list in text.split("\npub use ").skip(1) {
            let list = list.split(';').next().unwrap();
            let list = list.rsplit("::").next().unwrap();
            names.extend(list.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
        }
    }
    for file in ["files.rs", "landlock.rs", "seccomp/mod.rs"] {
        let text = read(file);
        let declared = text.lines().filter_map(|line| {
            let rest = line.trim_start().strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "))?;
            rest.split(|c: char| !c.is_alphanumeric()).next()
        });
        names.extend(declared.map(str::to_owned));
    }
    names.retain(|name| !name.is_empty());
    assert!(
        names.len() > 60 && names.contains(&"Rules".to_owned()) && names.contains(&"sweep".to_owned()),
        "{names:?}"
    );
    names
}

/// The public functions, methods, types and constants of a file, each with its documentation.
fn documented_items(text: &str, reachable: &[String]) -> Vec<(String, String)> {
    let word =
        |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
    let is_public = |name: &String| reachable.contains(name);
    let mut found = vec![];
    // Whose `impl` it is, and what ends that: a brace as far to the right as the beginning.
    let mut of: Option<(String, String)> = None;
    let mut documentation = String::new();
    for whole in text.lines() {
        let line = whole.trim_start();
        let indent = whole.len() - line.len();
        if line.starts_with("mod tests {") {
            break;
        }
        if of.as_ref().is_some_and(|(_, end)| whole == end) {
            of = None;
        } else if let (Some(rest), false) = (line.strip_prefix("impl"), line.ends_with('}')) {
            let generics = if rest.starts_with('<') { rest.find("> ").map_or(0, |at| at + 1) } else { 0 };
            let name = word(rest[generics..].trim_start().split(" for ").last().unwrap_or_default());
            of = Some((name, format!("{}}}", " ".repeat(indent))));
        }
        if let Some(more) = line.strip_prefix("///") {
            documentation.push_str(more);
            documentation.push('\n');
            continue;
        }
        if line.starts_with("#[") {
            continue;
        }
        // What is written by a program has its braces twice.
        let item = line
            .strip_prefix("pub ")
            .filter(|item| !item.contains("{{"))
            .map(|item| item.trim_start_matches("async ").replace("const fn ", "fn "));
        if let Some((kind, rest)) = item.as_deref().and_then(|item| item.split_once(' ')) {
            let name = word(rest);
            let name = match (kind, &of) {
                ("struct" | "enum", _) => Some(name).filter(is_public),
                ("fn" | "const", None) => Some(name).filter(is_public),
                ("fn" | "const", Some((of, _))) if is_public(of) => Some(format!("{of}::{name}")),
                _ => None,
            };
            // Of a macro, `$name` has no word.
            let name = name.filter(|name| !name.is_empty() && !name.ends_with(':'));
            found.extend(name.map(|name| (name, documentation.clone())));
        }
        documentation.clear();
    }
    found
}

#[test]
fn every_public_item_has_an_example() {
    let reachable = reachable_names();
    let mut count = 0;
    let mut without = vec![];
    for (path, text) in sources("src") {
        // The stage's own are nobody's; what the fuzzer calls is not shown.
        if path.components().any(|part| part.as_os_str() == "stage") || path.ends_with("fuzzing.rs") {
            continue;
        }
        for (name, documentation) in documented_items(&text, &reachable) {
            count += 1;
            // To run this one changes the process that runs it.
            let not_run = ["```no_run", "```ignore", "```text"].iter().any(|fence| documentation.contains(fence));
            if !documentation.contains("```") || (not_run && name != "delegate_self") {
                without.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(count > 200, "{count}");
    assert!(without.is_empty(), "of {count} public items these have no example that is run:\n{}", without.join("\n"));
}

/// What the page for contributors names must be there: files, and functions by `module::name` or `Type::name`.
#[test]
fn the_architecture_names_what_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/ARCHITECTURE.md")).unwrap();
    let code: String = sources("src").into_iter().map(|(_, text)| text).collect();
    let places = ["", "src/", "src/cgroup/", "src/seccomp/", "src/stage/", "tests/"];
    let mut count = 0;
    for (index, token) in page.split('`').enumerate() {
        // Between two of them is code; the page has none over several lines but for its drawings.
        if index % 2 == 0 || token.contains(['\n', ' ', '{', '(', '#', '=']) {
            continue;
        }
        if token.ends_with(".rs") || token.ends_with('/') {
            count += 1;
            assert!(places.iter().any(|place| root.join(format!("{place}{token}")).exists()), "there is no {token}");
        } else if let Some((_, name)) = token.rsplit_once("::") {
            count += 1;
            let declared = ["fn", "struct", "enum", "const", "mod"].map(|kind| format!("{kind} {name}"));
            let field = [format!(" {name}: "), format!(" {name},"), format!(" {name} = ")];
            assert!(declared.iter().chain(&field).any(|text| code.contains(text)), "there is no {token}");
        }
    }
    assert!(count > 60, "{count}");
}
