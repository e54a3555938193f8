//! The pages show the tables of the published results, and no others.

use std::fs;

use testbed::workshop::repo;
use xtask::report::tables;

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
