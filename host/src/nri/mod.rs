//! `vmfirst nri`: a pod of Kubernetes has its priority before its containers start.
//!
//! [`pods`] knows a pod's group by its path and what a pod asks for, [`groups`] writes what
//! its priority means, by the agent's table, journal and audit log. [`plugin`] answers the
//! container runtime's questions, [`messages`] and [`wire`] are how these travel, and
//! [`watch`] sees what kubelet does where no runtime asks. [`service`] is all of it at work.

pub mod groups;
pub mod messages;
pub mod plugin;
pub mod pods;
pub mod service;
mod watch;
pub mod wire;
