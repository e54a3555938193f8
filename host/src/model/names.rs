//! What a VM is called.

use std::collections::BTreeMap;

use super::Vmm;
use crate::read::Root;

/// Text of somebody else for a terminal: control characters are written as escapes.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Marks that turn the direction of writing would disguise a name.
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        match c.is_control() || turns {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// systemd's machines: their names by scope.
pub fn machines(root: &Root) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(root.path("run/systemd/machines"));
    let machines = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().to_str()?.to_string();
        let text = root.text(&format!("run/systemd/machines/{name}")).ok()?;
        let scope = text.lines().find_map(|line| line.strip_prefix("SCOPE="))?;
        // Beside each file there is a link "unit:SCOPE" to it.
        (!name.starts_with("unit:")).then(|| (scope.to_string(), name))
    });
    machines.collect()
}

/// The machine that a control group's path is of: by its scope, libvirt's or another.
pub fn machine(cgroup: &str, machines: &BTreeMap<String, String>) -> Option<String> {
    cgroup.split('/').find_map(|part| {
        if let Some(name) = machines.get(part) {
            return Some(libvirts(name).to_string());
        }
        let scope = part
            .strip_suffix(".scope")
            .and_then(|s| s.strip_prefix("machine-"));
        // Without systemd libvirt makes a group itself.
        let plain = part.strip_suffix(".libvirt-qemu").map(str::to_string);
        let name = scope.map(unescaped).or(plain)?;
        Some(libvirts(&name).to_string())
    })
}

/// Whether a control group's path is in a machine's, systemd's or libvirt's.
pub fn is_machine(cgroup: &str) -> bool {
    machine(cgroup, &BTreeMap::new()).is_some()
}

/// "qemu-3-web", libvirt's form, is the machine web.
fn libvirts(name: &str) -> &str {
    let numbered = name
        .strip_prefix("qemu-")
        .and_then(|rest| rest.split_once('-'));
    match numbered {
        Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => name,
    }
}

/// systemd.unit(5): "\x2d" in a unit's name is "-".
fn unescaped(unit: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = unit.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = rest.strip_prefix(b"\\x").and_then(|code| code.get(..2));
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into()
}

/// The pod's id in a path of Kubernetes' control groups, with either cgroup driver:
/// "kubepods-burstable-pod0b1c_2d.slice" or "kubepods/burstable/pod0b1c-2d".
pub fn pod(cgroup: &str) -> Option<String> {
    if !cgroup.contains("kubepods") {
        return None;
    }
    cgroup.split('/').find_map(|part| {
        let slice = part
            .strip_suffix(".slice")
            .and_then(|s| s.rsplit_once("-pod"))
            .map(|(_, id)| id);
        let id = slice.or_else(|| part.strip_prefix("pod"))?;
        (!id.is_empty()).then(|| id.replace('_', "-"))
    })
}

/// The name that a VM was given in its arguments.
pub fn in_arguments(vmm: Vmm, arguments: &[String]) -> Option<String> {
    let value = |options: &[&str]| {
        arguments.iter().enumerate().find_map(|(at, argument)| {
            if options.contains(&argument.as_str()) {
                return arguments.get(at + 1).cloned();
            }
            let (option, value) = argument.split_once('=')?;
            options.contains(&option).then(|| value.to_string())
        })
    };
    match vmm {
        Vmm::Qemu | Vmm::Libvirt => value(&["-name", "--name"]).map(|text| {
            let parts: Vec<_> = text.split(',').collect();
            let guest = parts.iter().find_map(|part| part.strip_prefix("guest="));
            guest.or(parts.first().copied()).unwrap_or_default().into()
        }),
        Vmm::Firecracker => value(&["--id"]),
        Vmm::Kvmtool => value(&["--name", "-n"]),
        Vmm::Vmm | Vmm::Crosvm => value(&["--name"]),
        // It has no name; its socket's is what tools call it by.
        Vmm::CloudHypervisor => value(&["--api-socket"]).and_then(|socket| {
            let path = socket
                .trim_start_matches("path=")
                .split(',')
                .next()?
                .to_string();
            let file = path.rsplit('/').next()?;
            let stem = file.split('.').next().filter(|stem| !stem.is_empty());
            stem.map(str::to_string)
        }),
        // runc's options of containerd's shim: the sandbox.
        Vmm::Dragonball => value(&["-id", "--id"]),
        Vmm::Other => None,
    }
    .filter(|name| !name.is_empty())
}

/// Whether libvirt made the machine's name `machine` of the domain's name `domain`: it
/// leaves out what a host name can't have, and cuts long ones.
pub fn is_made_of(machine: &str, domain: &str) -> bool {
    let kept: String = domain
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .collect();
    !machine.is_empty() && (kept == machine || kept.starts_with(machine) && machine.len() > 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_names_in_them() {
        let none = BTreeMap::new();
        let some = BTreeMap::from([("libpod-7.scope".to_string(), "qemu-2-db".to_string())]);
        for (path, machines, name) in [
            (
                r"/machine.slice/machine-qemu\x2d3\x2dweb\x2d1.scope/libvirt/emulator",
                &none,
                Some("web-1"),
            ),
            ("/machine/qemu-3-web.libvirt-qemu/vcpu0", &none, Some("web")),
            ("/machine.slice/machine-box.scope", &none, Some("box")),
            ("/a/libpod-7.scope", &some, Some("db")),
            ("/user.slice/session-2.scope", &none, None),
            (r"/machine-\x.scope", &none, Some(r"\x")),
            (r"/machine-a\xzz\x2.scope", &none, Some(r"a\xzz\x2")),
        ] {
            assert_eq!(machine(path, machines).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn pods_are_in_both_drivers_paths() {
        for (path, id) in [
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b1c_2d.slice/cri-containerd-7.scope",
                Some("0b1c-2d"),
            ),
            ("/kubepods/besteffort/pod0b1c-2d/7", Some("0b1c-2d")),
            ("/kubepods.slice", None),
            ("/machine.slice/podman", None),
        ] {
            assert_eq!(pod(path).as_deref(), id, "{path}");
        }
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        assert_eq!(shown("web"), "web");
        assert_eq!(shown("é\u{1b}[2J\n"), "é\\u{1b}[2J\\n");
        assert_eq!(shown("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn libvirt_leaves_out_what_host_names_cannot_have() {
        assert!(is_made_of("web1", "web_1"));
        assert!(!is_made_of("web", "web-forged"));
    }
}
