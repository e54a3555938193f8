//! The pages show the tables of the published results, and no others.

use std::fs;

use xtask::parts::repo;
use xtask::report::PAGES;

#[test]
fn the_tables_in_the_pages_are_those_of_the_results() {
    for page in PAGES {
        let text = fs::read_to_string(repo().join(page.page)).unwrap();
        assert!(
            text == page.with_table(&text).unwrap(),
            "{}: run `cargo xtask report`",
            page.page
        );
    }
}
