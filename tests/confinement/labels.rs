//! Labels: taken on where the kernel has the module, and an error with its reason where it has not.

use std::path::Path;
use std::process::Command;

use stockade::{Error, Layer, Layers, Rootfs, Sandbox, Step, Support};

use crate::common::{self, is_root, says, works};
use crate::skip;

#[test]
fn without_the_module_it_is_an_error_with_the_reason() {
    for (layer, layers, sandbox) in [
        (Layer::AppArmor, Layers::APPARMOR, Sandbox::new().apparmor_profile("some-profile")),
        (Layer::SeLinux, Layers::SELINUX, Sandbox::new().selinux_context("user_u:role_r:type_t:s0")),
    ] {
        if Support::probe().missing(layer).is_none() {
            continue;
        }
        let error = sandbox.command("true").status().unwrap_err();
        match &error {
            Error::Unsupported { layer: found, reason, remedy, .. } => {
                assert_eq!(*found, layer, "{error}");
                assert!(reason.contains("not built into this kernel, or not enabled") && remedy.contains("boot with"));
            }
            _ => panic!("{error:?}"),
        }
        let accepted = sandbox.best_effort(layers);
        assert!(works(&accepted, "true"));
        let report = accepted.check().unwrap();
        assert!(!report.in_force().contains(layers), "{report}");
        assert!(report.missing().iter().any(|missing| missing.layer == layer), "{report}");
    }
    let both = Sandbox::new().apparmor_profile("a").selinux_context("b").prepare();
    assert!(matches!(both, Err(Error::Invalid { setting: "selinux_context", .. })), "{both:?}");
}

/// Loads a profile, and removes it in the end.
struct Profile;

const NAME: &str = "stockade-test";
const SECURITY: &str = "/sys/kernel/security/apparmor";

impl Profile {
    fn load(directory: &Path) -> Option<Self> {
        let (text, binary) = (directory.join("profile"), directory.join("binary"));
        // All but one file.
        let rules = "file, capability, network, signal, ptrace, unix, mount, pivot_root, deny /etc/hostname r,";
        std::fs::write(&text, format!("profile {NAME} flags=(attach_disconnected) {{ {rules} }}\n")).unwrap();
        let parser = Path::new("/usr/sbin/apparmor_parser");
        let built = Command::new(parser).arg("-QKo").arg(&binary).arg(&text).output().ok()?;
        assert!(built.status.success(), "{built:?}");
        std::fs::write(Path::new(SECURITY).join(".replace"), std::fs::read(binary).unwrap()).unwrap();
        Some(Self)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        std::fs::write(Path::new(SECURITY).join(".remove"), NAME).unwrap();
    }
}

#[test]
fn an_apparmor_profile_confines_the_program() {
    if let Some(missing) = Support::probe().missing(Layer::AppArmor) {
        skip!("{}", missing.reason);
    }
    if !is_root() {
        skip!("only root can load a profile for the test");
    }
    let directory = common::directory();
    let Some(_profile) = Profile::load(directory.path()) else { skip!("there is no apparmor_parser here") };
    let label = "cat /proc/self/attr/current";
    let read = "cat /etc/hostname";
    for sandbox in [
        Sandbox::new(),
        Sandbox::new().uid(1000),
        Sandbox::new().as_pid_1(),
        common::all_namespaces(),
        common::all_namespaces().rootfs(Rootfs::system()).bind_ro("/etc/hostname", "/etc/hostname"),
        Sandbox::new().seccomp(stockade::seccomp::Filter::hardened()).landlock_mounts(),
    ] {
        assert!(works(&sandbox, read), "the twin: {sandbox:?}");
        assert!(!says(&sandbox, label).contains(NAME), "the twin: {sandbox:?}");
        let sandbox = sandbox.apparmor_profile(NAME);
        assert_eq!(says(&sandbox, label), format!("{NAME} (enforce)"), "{sandbox:?}");
        assert!(!works(&sandbox, read), "{sandbox:?}");
        assert!(sandbox.check().unwrap().in_force().contains(Layers::APPARMOR));
    }
    let error = Sandbox::new().apparmor_profile("stockade-no-such-profile").command("true").status().unwrap_err();
    match &error {
        Error::Setup { step: Step::Label | Step::Exec, source, .. } => {
            assert_eq!(source.raw_os_error(), Some(libc::ENOENT), "{error}");
        }
        Error::Exec { .. } => {}
        _ => panic!("{error:?}"),
    }
}
