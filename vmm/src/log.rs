//! Messages on standard error: a line of text for people, or of JSON for machines.

use std::io::{Write, stderr};
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::plain::plain;

/// How messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// "vmm: MESSAGE", only warnings and errors.
    Text,
    /// {"time", "level", "message"}, also what happens in a machine's life.
    Json,
}

/// How long a message waits for somebody to read the ones before it.
const PATIENCE: Duration = Duration::from_millis(100);

struct Logger(Format);

/// Sends every message of this process to standard error from now on.
pub fn start(format: Format) {
    let most = match format {
        Format::Text => LevelFilter::Warn,
        Format::Json => LevelFilter::Info,
    };
    // Fails only if it was started before.
    if log::set_boxed_logger(Box::new(Logger(format))).is_ok() {
        log::set_max_level(most);
    }
}

/// Whether standard error takes a line, soon at least.
fn is_read() -> bool {
    let wait = Timespec::try_from(PATIENCE).ok();
    let stderr = stderr();
    let mut taken = [PollFd::new(&stderr, PollFlags::OUT)];
    !matches!(poll(&mut taken, wait.as_ref()), Ok(0))
}

/// Whether this program says it. What crates say of a guest's mistakes the guest could have
/// them say without end.
pub fn is_ours(metadata: &Metadata) -> bool {
    metadata.target().split("::").next() == Some("vmm")
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        is_ours(metadata) && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = match self.0 {
            Format::Text => format!("vmm: {}\n", plain(&record.args().to_string())),
            Format::Json => {
                let time = OffsetDateTime::now_utc().format(&Rfc3339);
                let line = json!({
                    "time": time.unwrap_or_default(),
                    "level": record.level().as_str().to_ascii_lowercase(),
                    "message": record.args().to_string(),
                });
                format!("{line}\n")
            }
        };
        // In one piece; a standard error that is closed, or that nobody reads, must not stop
        // a machine.
        if is_read() {
            let _ = stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
