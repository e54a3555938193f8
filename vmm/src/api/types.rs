//! What the API takes, and how it says no; what it tells of a machine is in [`crate::observe`].

use serde::{Deserialize, Serialize};

use crate::Kind;

/// The body of `stop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How long the guest may take to power off; absent: as --stop-timeout says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

/// How a machine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The exit status of its process.
    pub status: u8,
}

/// What is answered instead when something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is to be done about it.
    pub code: Kind,
    /// What was tried, why it failed, what to do.
    pub error: String,
}
