//! README.md shows the table of the published results, and no other.

use std::fs;

use dense_bench::results::Results;
use xtask::parts::repo;
use xtask::report::{PUBLISHED, with_table};

#[test]
fn the_table_in_the_readme_is_that_of_the_results() {
    let readme = fs::read_to_string(repo().join("README.md")).unwrap();
    let results = Results::load(&repo().join(PUBLISHED)).unwrap();
    assert!(
        readme == with_table(&readme, &results).unwrap(),
        "run `cargo xtask report`"
    );
}
