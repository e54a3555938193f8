//! The pages show the tables of the published results, and no others.

use std::collections::BTreeMap;
use std::fs;

use sched_sim::docs;
use testbed::kernel::{Kernel, Variant};
use testbed::workshop::repo;
use xtask::report::{older_kernels, tables};

#[test]
fn the_tables_in_the_pages_are_those_of_the_results() {
    for table in tables().unwrap() {
        let text = fs::read_to_string(repo().join(table.page)).unwrap();
        assert!(
            text == table.put_into(&text).unwrap(),
            "{}: table {}: run `cargo xtask report`",
            table.page,
            table.name
        );
    }
}

/// A page says of each table whether it is of this tree's kernels: figures of others may
/// stand there, but not unsaid.
#[test]
fn results_of_another_series_are_called_so() {
    let folder = repo().join("benches/results");
    let mut checked = 0;
    for table in tables().unwrap() {
        if [docs::PAGE, docs::COST_PAGE].contains(&table.page) {
            continue; // They are of no kernel.
        }
        let path = folder.join(format!("{}.json", table.name));
        let text = fs::read_to_string(&path).unwrap();
        let results: serde_json::Value = serde_json::from_str(&text).unwrap();
        let Some(versions) = results["versions"].as_object() else {
            continue;
        };
        let text = |v: &serde_json::Value| v.as_str().unwrap().to_string();
        let versions: BTreeMap<String, String> =
            versions.iter().map(|(n, v)| (n.clone(), text(v))).collect();
        if !versions.keys().any(|name| name.starts_with("kernel")) {
            continue;
        }
        let older = !older_kernels(&versions, &repo()).unwrap().is_empty();
        let page = fs::read_to_string(repo().join(table.page)).unwrap();
        let begin = format!("<!-- {} table: made by", table.name);
        let (_, shown) = page.split_once(&begin).unwrap();
        let (shown, _) = shown.split_once("<!-- end of").unwrap();
        assert_eq!(
            shown.contains("**Of an older series**"),
            older,
            "{}: table {}: run `cargo xtask report`",
            table.page,
            table.name
        );
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn kernels_of_other_patches_sources_and_compilers_are_older() {
    let (source, compiler) = (
        "6.12.117-1~deb12u1",
        "gcc (Debian 12.2.0-14+deb12u1) 12.2.0",
    );
    let now = |variant| Kernel::name(variant, &repo(), source, compiler).unwrap();
    let versions = |kernel: &str, compiler: &str| {
        BTreeMap::from([
            ("linux-source-6.12".to_string(), source.to_string()),
            ("gcc".into(), compiler.into()),
            ("kernel_patched".into(), kernel.into()),
        ])
    };
    let older = |versions| older_kernels(&versions, &repo()).unwrap();
    let patched = now(Variant::Patched);
    assert_eq!(older(versions(&patched, compiler)), [""; 0]);
    assert_eq!(
        older(versions("kernel-patched-0123", compiler)),
        ["patched 0123"]
    );
    assert_eq!(older(versions(&patched, "gcc 13")).len(), 1);
    assert_ne!(
        patched.rsplit('-').next(),
        now(Variant::Compare).rsplit('-').next()
    );
}
