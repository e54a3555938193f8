use dense_record::chosen::{HostKernel, Pinning};

use super::*;

#[test]
fn every_plan_expands_to_cells_of_different_keys() {
    for (name, _) in PLANS {
        let cells = cells(name, None, None).unwrap();
        assert!(!cells.is_empty());
        let mut keys: Vec<_> = cells.iter().map(Chosen::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), cells.len(), "{name}");
    }
}

#[test]
fn cells_can_be_chosen() {
    let chosen = cells("quick", Some(2), Some("dbench/*/stock/*")).unwrap();
    let keys: Vec<_> = chosen.iter().map(Chosen::key).collect();
    assert_eq!(
        keys,
        [
            "dbench/2x4on4/q3000/stock/s1",
            "dbench/2x4on4/q3000/stock/s2"
        ]
    );
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let error = cells("nope", None, None).unwrap_err().to_string();
    assert!(error.contains("quick"), "{error}");
    let error = cells("smoke", None, Some("nope*")).unwrap_err().to_string();
    assert!(error.contains("/stock/s1"), "{error}");
}

#[test]
fn a_wrong_plan_is_told_with_its_place() {
    let error = expand("x", "[[group]]\nworkload = 1\n", None).unwrap_err();
    assert!(error.to_string().starts_with("x:2:12: "), "{error}");
    let error = expand("x", "[[group]]\nnonsense = 1\n", None).unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
    let smoke = text("smoke").unwrap();
    for (from, to, words) in [
        (
            "\"stock\"",
            "\"stok\"",
            "no variant is called stok; there are: stock",
        ),
        (
            "guests = 2",
            "guests = 0",
            "x:5:10: 0 is out of range: 1 to 1024",
        ),
        ("guests = 2", "guests = [2, 0]", "x:5:14: 0 is out of range"),
        (
            "guests = 2",
            "guests = [2, 2]",
            "x:5:10: from 1 to 64 different",
        ),
        (
            "guests = 2",
            "guests = []",
            "x:5:10: from 1 to 64 different",
        ),
        ("guests = 2", "guests = -1", "x:5:10: "),
        ("guests = 2", "guests = \"two\"", "x:5:10: "),
        ("seeds = 2", "seeds = 0", "0 is out of range: 1 to 1000"),
        ("[3000]", "[1]", "1 is out of range: 100 to 1000000"),
        ("[3000]", "[3000]\ncgroups = \"libvirt\"", "`libvirt`"),
        ("[3000]", "[3000]\npinning = [\"both\"]", "`both`"),
        ("mem_mib = 128", "mem_mib = 1000000", "at most 1048576"),
        ("= \"compute\"", "= \"../x\"", "x:4:12: workload = \"../x\""),
        (
            "window_ms = 100",
            "window_ms = 9223372036854775807",
            "is out of range: 1 to 3600000",
        ),
    ] {
        assert!(smoke.contains(from), "{from}");
        let error = expand("x", &smoke.replace(from, to), None).unwrap_err();
        assert!(error.to_string().contains(words), "{to}: {error}");
    }
}

#[test]
fn a_plan_can_be_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    fs::write(&path, text("smoke").unwrap()).unwrap();
    let mine = cells(path.to_str().unwrap(), None, None).unwrap();
    assert_eq!(mine, cells("smoke", None, None).unwrap());
    let error = cells("/nowhere/mine.toml", None, None).unwrap_err();
    assert!(error.to_string().contains("/nowhere/mine.toml"), "{error}");
}

#[test]
fn lists_make_all_combinations_with_variants_side_by_side() {
    let text = text("smoke").unwrap();
    let text = text
        .replacen(
            "guests = 2",
            "guests = [2, 3]\ncgroups = [\"flat\", \"vcpu\"]",
            1,
        )
        .replacen(
            "seeds = 2",
            "seeds = 1\npinning = [\"none\", \"one-to-one\"]\npv = \"qemu\"",
            1,
        );
    let cells = expand("x", &text, Some(1)).unwrap();
    let keys: Vec<_> = cells.iter().map(Chosen::key).collect();
    assert_eq!(keys[0], "compute/2x4on4/q3000/pv-qemu/stock/s1");
    assert_eq!(keys[1], "compute/2x4on4/q3000/pv-qemu/vmfirst/s1");
    let last = "compute/3x4on4/q3000/cg-vcpu/pin-one-to-one/pv-qemu/vmfirst-off/s1";
    assert!(keys.iter().any(|k| k == last), "{keys:?}");
    let pinned = cells.iter().find(|c| c.key() == last).unwrap();
    assert_eq!(pinned.pinning, Pinning::OneToOne);
    assert!(!pinned.guest_cmdline.contains("nopv"));
}

const VARIANT: &str = "
[[variant]]
name = \"handoff\"
kernel = \"patched\"
sysfs = { \"/sys/kernel/directed_yield/mode\" = \"off\", \"/proc/sys/kernel/x\" = \"1\" }
";

#[test]
fn a_plan_has_variants_of_its_own() {
    let smoke = text("smoke").unwrap();
    let smoke = smoke.replacen("\"vmfirst\"", "\"handoff\"", 1) + VARIANT;
    let cells = expand("x", &smoke, Some(1)).unwrap();
    let handoff = cells.iter().find(|c| c.variant == "handoff").unwrap();
    assert_eq!(handoff.host_kernel, HostKernel::Patched);
    assert_eq!(handoff.sysfs.len(), 2);
    let mode = Path::new("/sys/kernel/directed_yield/mode");
    assert_eq!(handoff.sysfs[mode], "off");
}

#[test]
fn a_wrong_variant_is_told_with_its_line() {
    let smoke = text("smoke").unwrap();
    let line = |words: &str| {
        let before = smoke.clone() + VARIANT;
        before[..before.find(words).unwrap()].matches('\n').count() + 1
    };
    for (from, to, words) in [
        (
            "/proc/sys/",
            "/etc/",
            "a knob is a file under /sys or /proc/sys",
        ),
        ("/proc/sys/", "/proc/sys/../", "a knob is a file under"),
        ("\"handoff\"", "\"a/b\"", "name = \"a/b\""),
    ] {
        let wrong = smoke.clone() + &VARIANT.replace(from, to);
        let error = expand("x", &wrong, None).unwrap_err().to_string();
        let place = format!("x:{}:", line(from));
        assert!(
            error.starts_with(&place) && error.contains(words),
            "{error}"
        );
    }
    let twice = expand("x", &(smoke.clone() + VARIANT + VARIANT), None).unwrap_err();
    assert!(twice.to_string().contains("handoff is there twice"));
    let kernel = smoke.clone() + &VARIANT.replace("patched", "mine");
    let error = expand("x", &kernel, None).unwrap_err().to_string();
    assert!(error.contains("`mine`"), "{error}");
}
