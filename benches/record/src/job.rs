//! What the emulated host is booted for, and its answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cost::{Cost, CostSpec};
use crate::measured::CellOutput;
use crate::spec::CellSpec;

/// What the emulated host is booted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// A cell of the benchmark.
    Cell(Box<CellSpec>),
    /// A cell while everything around it changes, as its seed says.
    Storm(Box<CellSpec>),
    /// Runs of the VMM, one after another.
    Launches(Vec<Launch>),
    /// What VMMs cost by themselves.
    Cost(CostSpec),
}

/// What came out of a [`Job`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// Of a cell.
    Cell(CellOutput),
    /// Of each launch.
    Launches(Vec<Launched>),
    /// Of each VMM, by its name.
    Cost(BTreeMap<String, Vec<Cost>>),
    /// The job could not be done at all.
    Failed(String),
}

/// One run of the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What its console gets once the guest has said READY.
    pub input: String,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launched {
    /// Its exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub console: Vec<String>,
}
