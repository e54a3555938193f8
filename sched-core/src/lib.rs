//! The policies of vmfirst as pure integer arithmetic: how much a yielding vCPU hands
//! over, whom it yields to, and how vCPUs queue in a class of their own.
//!
//! The crate is the specification. The kernel series implements the same functions in C,
//! and the tests of this crate compile that C and compare bit for bit. Nothing here
//! allocates, locks or reads a clock: whoever calls brings the state and the time.
//!
//! Read in this order:
//!
//! | module | question |
//! |---|---|
//! | [`weight`] | how does a nice value or a cgroup's share scale time? |
//! | [`eevdf`] | who is owed CPU time, and who runs next? |
//! | [`debooster`] | what does a directed yield cost, and what does it buy? |
//! | [`ipi`] | which vCPU has to answer whose interrupt? |
//! | [`cascade`] | whom does a spinning vCPU yield to? |
//! | [`scan`] | and if nothing is known? |
//! | [`vmf`] | how do vCPUs queue in a class above fair? |
//! | [`ext`] | and in a sched_ext scheduler, on a kernel as it comes? |
//!
//! # Units
//!
//! | name | unit |
//! |---|---|
//! | service | ns of CPU time that an entity has run, is owed or hands over |
//! | virtual | ns of vruntime: service * 1024 / weight |
//! | weight | 1024 for nice 0; see [`weight::LoadWeight::weight`] |
//! | clock | ns since some start, wraps at 2^64 |
//!
//! Differences of clocks and of virtual times are signed and wrap, as in the kernel.
//! "Kernel" means Linux 6.12.117 on a 64-bit host; functions are named as there.
#![no_std]
#![forbid(unsafe_code)]

pub mod cascade;
pub mod debooster;
pub mod eevdf;
pub mod ext;
pub mod ipi;
pub mod scan;
pub mod vmf;
pub mod weight;
