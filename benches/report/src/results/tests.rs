use super::*;

pub(crate) fn cell(workload: &str, variant: &str, seed: u64, value: f64) -> Cell {
    let chosen = Chosen {
        workload: workload.into(),
        variant: variant.into(),
        guests: 2,
        vcpus: 4,
        pcpus: 4,
        round_ns: 3000,
        seed,
        ..Chosen::default()
    };
    Cell {
        chosen,
        kernel: "6.12.117 #1".into(),
        host: "emulated".into(),
        value,
        unit: "MB/s".into(),
        per_guest: vec![value / 2.0, value / 2.0],
        guest_extras: vec![BTreeMap::new(); 2],
        counters: BTreeMap::from([
            ("spin_exits".into(), 1000),
            ("spin_ns".into(), 400_000_000),
            ("yield_attempts".into(), 800),
            ("yield_hits_kernel".into(), 100),
            ("yield_hits_relaxed".into(), 300),
            ("yield_hits_ipi".into(), 0),
            ("yield_hits_irq".into(), 0),
            ("yield_same_cpu".into(), 100),
            ("yield_other_cpu".into(), 300),
        ]),
        window_s: 2.0,
        virtual_s: 8.0,
        wall_s: 60.0,
        console_sha256: "00".into(),
        commit: None,
        machine: Facts::new(),
        timeline: None,
    }
}

#[test]
fn what_is_saved_is_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let mut results = Results::new("quick", BTreeMap::new());
    results.cells.push(cell("dbench", "stock", 1, 0.1 + 0.2));
    results.save(&path).unwrap();
    assert_eq!(Results::load(&path).unwrap(), results);
    assert!(results.has("dbench/2x4on4/q3000/stock/s1"));
    assert!(!results.has("dbench/2x4on4/q3000/stock/s2"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn shards_become_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, seed: u64, version: &str| {
        let versions = BTreeMap::from([("gcc".to_string(), version.to_string())]);
        let mut results = Results::new("quick", versions);
        results.cells.push(cell("dbench", "stock", seed, 1.0));
        let path = folder.path().join(name);
        results.save(&path).unwrap();
        path
    };
    let (a, b) = (file("results.json", 1, "12"), file("b.json", 2, "12"));
    let all = Results::load_all(&[folder.path().into(), b.clone()]).unwrap();
    assert_eq!(all.cells.len(), 2);
    let twice = Results::load_all(&[a.clone(), a.clone()]).unwrap_err();
    assert!(twice.to_string().contains("s1 is in another file too"));
    let other = Results::load_all(&[b, file("c.json", 1, "13")]).unwrap_err();
    assert!(
        other
            .to_string()
            .contains("c.json: of another plan or other versions")
    );
}

#[test]
fn another_schema_is_refused_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    fs::write(&path, "{\"schema_version\": 99}").unwrap();
    let error = Results::load(&path).unwrap_err().to_string();
    assert!(error.contains("schema version 99"), "{error}");
}

#[test]
fn only_alike_cells_are_added_to_a_run() {
    let version = |v: &str| BTreeMap::from([("gcc".to_string(), v.to_string())]);
    let mut results = Results::new("smoke", version("12"));
    results.cells.push(cell("compute", "stock", 1, 1.0));
    let planned = [results.cells[0].chosen.clone()];
    results.check_resume(&version("12"), &planned).unwrap();

    let other = results.check_resume(&version("13"), &planned);
    let other = other.unwrap_err().to_string();
    assert!(other.contains("another gcc (12, now 13)"), "{other}");
    let none = results.check_resume(&BTreeMap::new(), &planned);
    assert!(none.unwrap_err().to_string().contains("now absent"));

    results.cells[0].chosen.window_ms = 7;
    let options = results.check_resume(&version("12"), &planned);
    let options = options.unwrap_err().to_string();
    assert!(
        options.contains("s1 is there with other values"),
        "{options}"
    );
}

#[test]
fn every_field_is_documented() {
    let doc = include_str!("../../../../docs/results.md");
    let mut results = Results::new("quick", BTreeMap::new());
    results.cells.push(cell("dbench", "stock", 1, 1.0));
    results.cells[0].commit = Some(String::new());
    results.cells[0].timeline = Some(Timeline::default());
    results.failures.push(Failure {
        key: String::new(),
        error: String::new(),
        console: String::new(),
    });
    let value = serde_json::to_value(&results).unwrap();
    let fields = value.as_object().unwrap().keys();
    let cell_fields = value["cells"][0].as_object().unwrap().keys();
    let failure_fields = value["failures"][0].as_object().unwrap().keys();
    for field in fields.chain(cell_fields).chain(failure_fields) {
        assert!(
            doc.contains(&format!("`{field}`")),
            "{field} is not in docs/results.md"
        );
    }
}
