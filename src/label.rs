//! Labels of security modules, taken on at the exec: AppArmor profiles and SELinux contexts.

use std::ffi::CString;
use std::path::Path;

use crate::error::Error;
use crate::support::Layer;

/// What a policy says of labels.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Option<String>,
}

/// A file below `/proc/thread-self/attr`, and what to write there.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) file: CString,
    pub(crate) label: CString,
}

impl Labels {
    /// What the kernel has no module for goes to `missing`, which decides whether that is an error.
    pub(crate) fn compile(&self, mut missing: impl FnMut(Error) -> Result<(), Error>) -> Result<Compiled, Error> {
        if self.apparmor.is_some() && self.selinux.is_some() {
            return Err(Error::invalid("selinux_context", "a process has an AppArmor profile or a SELinux context"));
        }
        if let Some(profile) = &self.apparmor {
            let text = text("apparmor_profile", profile)?;
            match apparmor() {
                Ok(file) => return Ok(Compiled { file, label: c_string("apparmor_profile", format!("exec {text}"))? }),
                Err(error) => missing(error)?,
            }
        }
        if let Some(context) = &self.selinux {
            let text = text("selinux_context", context)?;
            match selinux() {
                Ok(file) => return Ok(Compiled { file, label: c_string("selinux_context", text.to_owned())? }),
                Err(error) => missing(error)?,
            }
        }
        Ok(Compiled::default())
    }
}

fn text<'a>(setting: &'static str, label: &'a str) -> Result<&'a str, Error> {
    if label.is_empty() || label.len() > 4000 || label.contains(['\n', '\0']) {
        return Err(Error::invalid(setting, "a label is one line of 1 to 4000 bytes"));
    }
    Ok(label)
}

fn c_string(setting: &'static str, text: String) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::invalid(setting, "there is a NUL in it"))
}

/// The file that takes a profile.
pub(crate) fn apparmor() -> Result<CString, Error> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.trim() == "Y") {
        return Err(Error::Unsupported {
            layer: Layer::AppArmor,
            reason: "AppArmor is not built into this kernel, or not enabled".into(),
            remedy: "boot with apparmor=1 security=apparmor, or leave apparmor_profile() out".into(),
        });
    }
    // Its own directory is there from Linux 5.8 on; beside other modules the common file may be another's.
    let own = Path::new("/proc/self/attr/apparmor/exec").exists();
    Ok(if own { c"thread-self/attr/apparmor/exec" } else { c"thread-self/attr/exec" }.to_owned())
}

/// The file that takes a context.
pub(crate) fn selinux() -> Result<CString, Error> {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return Ok(c"thread-self/attr/exec".to_owned());
    }
    Err(Error::Unsupported {
        layer: Layer::SeLinux,
        reason: "SELinux is not built into this kernel, or not enabled".into(),
        remedy: "boot with selinux=1 security=selinux and a policy, or leave selinux_context() out".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_make_no_sense() {
        let compile = |labels: Labels| labels.compile(|_| Ok(()));
        for bad in ["", "a\nb", "a\0b"] {
            assert!(compile(Labels { apparmor: Some(bad.into()), selinux: None }).is_err(), "{bad:?}");
        }
        assert!(compile(Labels { apparmor: Some("a".into()), selinux: Some("b".into()) }).is_err());
        assert!(compile(Labels::default()).unwrap().file.is_empty());
    }
}
