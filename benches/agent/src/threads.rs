//! The threads of a VMM.

use std::fs;
use std::path::PathBuf;

use dense_record::{Error, Result};

/// A thread of a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thread {
    pub tid: u32,
    /// Which vCPU it runs, if any.
    pub vcpu: Option<u32>,
}

/// The threads of a VMM.
pub(crate) fn threads_of(pid: u32) -> Result<Vec<Thread>> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let tasks = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
    let mut threads = Vec::new();
    for task in tasks.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if let Ok(tid) = task.file_name().to_string_lossy().parse() {
            let vcpu = name
                .trim()
                .strip_prefix("vcpu")
                .and_then(|n| n.parse().ok());
            threads.push(Thread { tid, vcpu });
        }
    }
    threads.sort_by_key(|t| t.tid);
    Ok(threads)
}
