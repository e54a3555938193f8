//! `cargo xtask report`: puts the table of a results file into README.md.

use std::fs;
use std::path::Path;

use dense_bench::report::table;
use dense_bench::results::Results;

use crate::Error;
use crate::parts::repo;

/// The results that README.md shows.
pub const PUBLISHED: &str = "benches/results/quick.json";
const BEGIN: &str = "<!-- table: made by `cargo xtask report`, don't edit -->\n";
const END: &str = "<!-- end of table -->\n";

/// Publishes `results`, if given, and writes the table into README.md.
pub fn run(results: Option<&Path>) -> Result<(), Error> {
    let published = repo().join(PUBLISHED);
    if let Some(path) = results {
        let folder = published.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(testbed::Error::io("create", folder))?;
        load(path)?
            .save(&published)
            .map_err(|e| Error::Usage(e.to_string()))?;
    }
    let readme = repo().join("README.md");
    let text = fs::read_to_string(&readme).map_err(testbed::Error::io("read", &readme))?;
    let text = with_table(&text, &load(&published)?)?;
    fs::write(&readme, text).map_err(testbed::Error::io("write", &readme))?;
    Ok(())
}

fn load(path: &Path) -> Result<Results, Error> {
    Results::load(path).map_err(|e| Error::Usage(e.to_string()))
}

/// `text` with the table of `results` between the marks.
pub fn with_table(text: &str, results: &Results) -> Result<String, Error> {
    let missing = || Error::Usage(format!("README.md has no lines {BEGIN}and {END}"));
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", table(results)))
}
