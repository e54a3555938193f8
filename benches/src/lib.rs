//! The dense-VM benchmark: [`plan`] lists cells, [`session`] keeps what came out of them,
//! [`run`] measures them on this host.

pub mod plan;
pub mod preflight;
pub mod run;
pub mod session;
