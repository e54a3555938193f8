//! The modules of a kernel that has KVM and the like as modules, as Debian's does.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use dense_record::{Error, Result};
use rustix::system::{finit_module, uname};

/// Loads what the image has for the running kernel, in the order that stands in a file beside
/// the modules.
pub fn load() -> Result<()> {
    let kernel = uname();
    let dir = Path::new("/lib/modules").join(kernel.release().to_string_lossy().as_ref());
    if !dir.exists() {
        return Ok(());
    }
    let order = dir.join("order");
    let order = fs::read_to_string(&order).map_err(Error::io("read", &order))?;
    let cmdline = "/proc/cmdline";
    let cmdline = fs::read_to_string(cmdline).map_err(Error::io("read", cmdline))?;
    order
        .lines()
        .try_for_each(|name| load_one(&dir, name, &parameters(&cmdline, name)))
}

fn load_one(dir: &Path, name: &str, parameters: &str) -> Result<()> {
    let path = dir.join(format!("{name}.ko"));
    let file = File::open(&path).map_err(Error::io("open", &path))?;
    let parameters = CString::new(parameters)
        .map_err(|_| Error::Invalid("a zero byte on the kernel's command line".into()))?;
    finit_module(file, &parameters, 0).map_err(Error::io("load", &path))
}

/// Of a built-in module the kernel takes them by itself.
fn parameters(cmdline: &str, name: &str) -> String {
    let of_module = cmdline
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(name)?.strip_prefix('.'));
    of_module.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_its_own_parameters() {
        let cmdline = "console=ttyS0 kvm_amd.a=1 kvm.b=2 kvm_amd.c=3\n";
        assert_eq!(parameters(cmdline, "kvm_amd"), "a=1 c=3");
        assert_eq!(parameters(cmdline, "kvm"), "b=2");
        assert_eq!(parameters(cmdline, "tun"), "");
    }
}
