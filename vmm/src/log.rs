//! Messages on standard error: a line of text for people, or of JSON for machines.

use std::io::{Write, stderr};

use log::{LevelFilter, Log, Metadata, Record};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// "vmm: MESSAGE", only warnings and errors.
    Text,
    /// {"time", "level", "message"}, also what happens in a machine's life.
    Json,
}

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

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = match self.0 {
            Format::Text => format!("vmm: {}\n", record.args()),
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
        // In one piece; a closed standard error must not stop a machine.
        let _ = stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
