//! The API: HTTP with JSON on a machine's Unix socket; docs/vmm-api.json describes it.

pub mod client;
mod connection;
pub mod http;
pub mod peer;
pub mod routes;
pub mod server;
pub mod types;
