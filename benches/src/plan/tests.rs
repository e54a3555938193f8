use super::*;

#[test]
fn every_plan_expands_to_cells_of_different_keys() {
    for (name, _) in PLANS {
        let cells = cells(name, None, None).unwrap();
        assert!(!cells.is_empty());
        let mut keys: Vec<_> = cells.iter().map(Planned::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), cells.len(), "{name}");
    }
}

#[test]
fn cells_can_be_chosen() {
    let chosen = cells("quick", Some(2), Some("dbench/*/stock/*")).unwrap();
    let keys: Vec<_> = chosen.iter().map(Planned::key).collect();
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
    assert!(error.to_string().contains("line 2"), "{error}");
    let error = expand("x", "[[group]]\nnonsense = 1\n", None).unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
    let smoke = text("smoke").unwrap();
    for (from, to, words) in [
        (
            "\"stock\"",
            "\"stok\"",
            "no variant is called stok; there are: stock",
        ),
        ("guests = 2", "guests = 0", "line 5: guests = 0"),
        ("guests = 2", "guests = [2, 0]", "line 5: guests = 0"),
        (
            "guests = 2",
            "guests = [2, 2]",
            "line 5: guests: from 1 to 64 different",
        ),
        (
            "guests = 2",
            "guests = []",
            "line 5: guests: from 1 to 64 different",
        ),
        ("guests = 2", "guests = -1", "line 5"),
        ("guests = 2", "guests = \"two\"", "line 5"),
        ("seeds = 2", "seeds = 0", "seeds = 0: it is from 1"),
        ("[3000]", "[1]", "round_ns = 1:"),
        ("[3000]", "[3000]\ncgroups = \"libvirt\"", "`libvirt`"),
        ("[3000]", "[3000]\npinning = [\"both\"]", "`both`"),
        ("mem_mib = 128", "mem_mib = 1000000", "at most 1048576"),
        ("= \"compute\"", "= \"../x\"", "line 4: workload = \"../x\""),
        (
            "window_ms = 100",
            "window_ms = 9223372036854775807",
            "window_ms",
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
            "seeds = 1\npinning = [\"free\", \"one-to-one\"]\npv = \"qemu\"",
            1,
        );
    let cells = expand("x", &text, Some(1)).unwrap();
    let keys: Vec<_> = cells.iter().map(Planned::key).collect();
    assert_eq!(keys[0], "compute/2x4on4/q3000/pv-qemu/stock/s1");
    assert_eq!(keys[1], "compute/2x4on4/q3000/pv-qemu/vmfirst/s1");
    let last = "compute/3x4on4/q3000/cg-vcpu/pin-one-to-one/pv-qemu/vmfirst-off/s1";
    assert!(keys.iter().any(|k| k == last), "{keys:?}");
    let pinned = cells.iter().find(|c| c.key() == last).unwrap();
    assert_eq!(pinned.spec.pinning, Pinning::OneToOne);
    assert!(!pinned.spec.guest_cmdline.contains("nopv"));
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
    let handoff = cells.iter().find(|c| c.variant.name == "handoff").unwrap();
    assert_eq!(handoff.variant.kernel, HostKernel::Patched);
    assert_eq!(handoff.spec.sysfs.len(), 2);
    let options = handoff.options();
    assert_eq!(options["/sys/kernel/directed_yield/mode"], "off");
    assert_eq!(options["host_kernel"], "patched");
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
        let place = format!("line {}: ", line(from));
        assert!(error.contains(&place) && error.contains(words), "{error}");
    }
    let twice = expand("x", &(smoke.clone() + VARIANT + VARIANT), None).unwrap_err();
    assert!(twice.to_string().contains("handoff is there twice"));
    let kernel = smoke.clone() + &VARIANT.replace("patched", "mine");
    let error = expand("x", &kernel, None).unwrap_err().to_string();
    assert!(error.contains("`mine`"), "{error}");
}
