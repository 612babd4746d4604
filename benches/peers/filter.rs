//! The hardened filter in the forms in which the peers take one.

use std::fmt::Write as _;

use crate::common::Result;
use crate::seccomp::{Action, Condition, Filter, How, Rule, Syscall, Test};

/// What the peers' languages can say of the filter: an allow list with errors besides. A condition that refuses only some
/// arguments of a call that is allowed (ioctl's terminal tricks) is not among that.
pub struct Rules(Vec<(String, Answer)>);

enum Answer {
    Allow,
    Errno(u16),
    /// If one of these holds in all its parts.
    AllowIf(Vec<Vec<Condition>>),
}

const EPERM: u16 = 1;

impl Rules {
    pub fn hardened() -> Self {
        let mut rules = Self(vec![]);
        for rule in Filter::hardened().rules {
            rules.add(&rule);
        }
        // The rest is what is answered anyway.
        rules.0.retain(|(_, answer)| !matches!(answer, Answer::Errno(EPERM)));
        rules
    }

    fn add(&mut self, rule: &Rule) {
        let Syscall::Name(name) = &rule.call else { return };
        let place = self.0.iter().position(|(known, _)| known == name);
        match (rule.action, rule.conditions.as_slice()) {
            (Action::Allow, []) => self.set(place, name, Answer::Allow),
            (Action::Errno(errno), []) => self.set(place, name, Answer::Errno(errno)),
            (Action::Allow, conditions) => {
                let more = conditions.to_vec();
                match place.and_then(|place| self.0.get_mut(place)) {
                    Some((_, Answer::AllowIf(all))) => all.push(more),
                    Some((_, Answer::Allow)) => {}
                    _ => self.set(place, name, Answer::AllowIf(vec![more])),
                }
            }
            _ => {}
        }
    }

    fn set(&mut self, place: Option<usize>, name: &str, answer: Answer) {
        match place.and_then(|place| self.0.get_mut(place)) {
            Some((_, old)) => *old = answer,
            None => self.0.push((name.to_owned(), answer)),
        }
    }

    /// The object `seccomp` of an OCI bundle.
    pub fn oci(&self) -> String {
        let mut calls = vec![];
        for (name, answer) in &self.0 {
            let begin = format!(r#"{{"names": ["{name}"], "action": "#);
            match answer {
                Answer::Allow => calls.push(format!(r#"{begin}"SCMP_ACT_ALLOW"}}"#)),
                Answer::Errno(errno) => {
                    calls.push(format!(r#"{begin}"SCMP_ACT_ERRNO", "errnoRet": {errno}}}"#));
                }
                Answer::AllowIf(all) => calls.extend(all.iter().map(|conditions| {
                    let conditions: Vec<_> = conditions
                        .iter()
                        .map(|condition| {
                            let (op, value, second) = comparison(condition);
                            let index = condition.argument.index;
                            format!(
                                r#"{{"index": {index}, "value": {value}, "valueTwo": {second}, "op": "SCMP_CMP_{op}"}}"#
                            )
                        })
                        .collect();
                    format!(r#"{begin}"SCMP_ACT_ALLOW", "args": [{}]}}"#, conditions.join(", "))
                })),
            }
        }
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": {EPERM}, "syscalls": [{}]}}"#,
            calls.join(",\n")
        )
    }

    /// The file that `lxc.seccomp.profile` names.
    pub fn lxc(&self) -> String {
        let mut text = format!("2\nallowlist errno {EPERM}\n[all]\n");
        for (name, answer) in &self.0 {
            // A String takes all that is written to it.
            let _ = match answer {
                Answer::Allow => writeln!(text, "{name}"),
                Answer::Errno(errno) => writeln!(text, "{name} errno {errno}"),
                Answer::AllowIf(all) => all.iter().try_for_each(|conditions| {
                    let conditions: Vec<_> = conditions
                        .iter()
                        .map(|condition| {
                            let (op, value, second) = comparison(condition);
                            let index = condition.argument.index;
                            // A masked comparison has the mask last.
                            let (value, mask) = if op == "MASKED_EQ" { (second, Some(value)) } else { (value, None) };
                            let mask = mask.map(|mask| format!(",{mask}")).unwrap_or_default();
                            format!("[{index},{value},SCMP_CMP_{op}{mask}]")
                        })
                        .collect();
                    writeln!(text, "{name} allow {}", conditions.join(","))
                }),
            };
        }
        text
    }

    /// One rule a line, in words: the helper that has the crates reads that.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (name, answer) in &self.0 {
            let _ = match answer {
                Answer::Allow => writeln!(text, "{name} allow"),
                Answer::Errno(errno) => writeln!(text, "{name} errno {errno}"),
                Answer::AllowIf(all) => all.iter().try_for_each(|conditions| {
                    write!(text, "{name} if")?;
                    for condition in conditions {
                        let (op, value, second) = comparison(condition);
                        write!(text, " {} {op} {value} {second}", condition.argument.index)?;
                    }
                    writeln!(text)
                }),
            };
        }
        text
    }
}

/// As libseccomp has it: for a masked comparison the mask, and what must be left of it.
fn comparison(condition: &Condition) -> (&'static str, u64, u64) {
    match condition.test {
        Test::Eq(value) => ("EQ", value, 0),
        Test::Ne(value) => ("NE", value, 0),
        Test::Lt(value) => ("LT", value, 0),
        Test::Le(value) => ("LE", value, 0),
        Test::Gt(value) => ("GT", value, 0),
        Test::Ge(value) => ("GE", value, 0),
        Test::MaskedEq(mask, value) => ("MASKED_EQ", mask, value),
    }
}

/// The filter itself, for those who take one that is compiled.
pub fn compiled() -> Result<Vec<u8>> {
    let how = How { secret: [1, 2], naming: false, recording: false };
    let program = Filter::hardened().compile(how).map_err(|error| format!("{error:?}"))?;
    Ok(program.code)
}
