//! Results files, and what they say: what was measured, with its spread, what differs, and
//! what the kernel counted meanwhile, as tables and as a page with pictures.

use std::fs;
use std::path::Path;

use crate::results::Results;
use dense_record::{Error, Result};

mod ablation;
mod around;
pub mod compare;
mod contention;
mod figures;
mod html;
mod matrix;
pub mod md;
mod picture;
pub mod results;
mod scheduling;
pub mod stats;
mod summary;
mod table;
mod truth;
mod vmm_cost;
pub mod words;

pub use ablation::ablation;
pub use contention::contention;
pub use html::page;
pub use matrix::matrix;
pub use summary::summary;
pub use table::{cost, table};
pub use truth::truth;
pub use vmm_cost::vmm_cost;

/// Writes `report.html` and `report.md`.
pub fn write_all(results: &Results, folder: &Path) -> Result<()> {
    for (name, text) in [
        ("report.html", page(results)),
        ("report.md", table(results)),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
