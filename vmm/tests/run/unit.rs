//! The systemd unit, by systemd's own checks where it is installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::skip;

/// `systemd-analyze` on the unit with the program of this build; none where it isn't there.
fn analyze(options: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().unwrap();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/vmm@.service");
    let text = fs::read_to_string(unit).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/vmm run"));
    let text = text.replace("/usr/bin/vmm", env!("CARGO_BIN_EXE_vmm"));
    fs::write(folder.path().join("vmm@.service"), text).unwrap();
    let output = Command::new("systemd-analyze")
        .args(options)
        .arg("./vmm@web.service")
        .current_dir(folder.path())
        .output();
    if output.is_err() {
        skip("systemd is not installed");
    }
    output.ok()
}

#[test]
fn the_unit_is_one_and_leaves_little_of_the_host() {
    // Of 10; an ordinary service has 9.6.
    let security = ["security", "--offline=yes", "--threshold=40", "--no-pager"];
    for options in [&["verify", "--man=no"][..], &security] {
        let Some(output) = analyze(options) else {
            return;
        };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(options[0] != "verify" || said.is_empty(), "{said}");
    }
}
