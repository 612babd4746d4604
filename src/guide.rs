//! The guide: how to choose a policy, where it runs, and what it does not do.
//!
//! The reference is on the types; what is here takes the other way, from the task to the setter.
//!
//! | page | for whom |
//! |---|---|
//! | [`threat_model`] | everybody: what is held back, by what, and where that ends |
//! | [`when_not`] | before anything else, where the payload may be somebody's attack on you |
//! | [`layers`] | who writes a policy |
//! | [`launch`] | who wants to know what happens, in which order |
//! | [`rootless`] | who runs it as an ordinary user |
//! | [`cgroups`] | who wants limits of memory, CPU and tasks |
//! | [`in_containers`] | who runs it in Docker, or in a pod of Kubernetes |
//! | [`verdicts`] | who has to say why a run ended |
//! | [`judges`] | online judges, graders |
//! | [`plugins`] | hosts of plugins: closures, the zygote, channels |
//! | [`test_harnesses`] | runners of tests |
//! | [`ai_code`] | agents and whoever runs code that a model wrote |
//!
//! The shortest program that is of use:
//!
//! ```
//! use stockade::{Sandbox, Verdict};
//! use std::time::Duration;
//!
//! let sandbox = Sandbox::hardened().wall_time_limit(Duration::from_secs(5));
//! let output = sandbox.command("sh").args(["-c", "echo $((6 * 7))"]).output()?;
//! assert_eq!(output.outcome.verdict, Verdict::Exited(0));
//! assert_eq!(output.stdout, b"42\n");
//! # Ok::<(), stockade::Error>(())
//! ```
//!
//! [`Support::probe`](crate::Support::probe), or `cargo run --example host`, says what this machine can do, and what to do about
//! what it cannot.

/// What is held back, by what, and where that ends.
pub mod threat_model {
    #![doc = include_str!("../docs/guide/threat_model.md")]
}

/// Which setters, for what.
pub mod layers {
    #![doc = include_str!("../docs/guide/layers.md")]
}

/// What a launch does, in order.
pub mod launch {
    #![doc = include_str!("../docs/guide/launch.md")]
}

/// As an ordinary user.
pub mod rootless {
    #![doc = include_str!("../docs/guide/rootless.md")]
}

/// Limits of the whole tree, and where their cgroups come from.
pub mod cgroups {
    #![doc = include_str!("../docs/guide/cgroups.md")]
}

/// In Docker, and in a pod of Kubernetes.
pub mod in_containers {
    #![doc = include_str!("../docs/guide/in_containers.md")]
}

/// Reading a verdict.
pub mod verdicts {
    #![doc = include_str!("../docs/guide/verdicts.md")]
}

/// Judging submissions.
pub mod judges {
    #![doc = include_str!("../docs/guide/judges.md")]
}

/// Hosts of plugins.
pub mod plugins {
    #![doc = include_str!("../docs/guide/plugins.md")]
}

/// Runners of tests.
pub mod test_harnesses {
    #![doc = include_str!("../docs/guide/test_harnesses.md")]
}

/// Running code that an AI wrote.
pub mod ai_code {
    #![doc = include_str!("../docs/guide/ai_code.md")]
}

/// When something else is the right thing.
pub mod when_not {
    #![doc = include_str!("../docs/guide/when_not.md")]
}
