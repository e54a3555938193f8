//! What is said on the console.
//!
//! | line | from | meaning |
//! |---|---|---|
//! | `VMFIRST READY` | guest | booted, disk mounted, workload prepared |
//! | `VMFIRST GO {json}` | harness | run this |
//! | `VMFIRST END poweroff` | harness | end without running anything; also `reboot`, `panic` |
//! | `VMFIRST RESULT {json}` | guest | what was measured |
//! | `VMFIRST FAILED text` | guest | why there is no result |

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const PREFIX: &str = "VMFIRST";

/// An order to run a workload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Go {
    /// Its name.
    pub workload: String,
    /// Threads, processes or clients: as many as vCPUs.
    pub clients: u32,
    /// From GO to the window's begin, in ms.
    pub warmup_ms: u64,
    /// The window's length in ms.
    pub window_ms: u64,
    /// For the workload's own random numbers.
    pub seed: u64,
}

/// What the harness may ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    Go(Go),
    PowerOff,
    Reboot,
    Panic,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Work per second in the window.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The window's length as measured, in s.
    pub window_s: f64,
    /// More about the run: counts and their changes over the window.
    pub extras: BTreeMap<String, f64>,
}

/// Tells the harness that the guest has booted and can begin.
pub fn ready() {
    println!("{PREFIX} READY");
}

/// Tells the harness what was measured.
pub fn result(outcome: &Outcome) {
    match serde_json::to_string(outcome) {
        Ok(json) => println!("{PREFIX} RESULT {json}"),
        Err(error) => failed(&error.to_string()),
    }
}

/// Tells the harness why there is no result.
pub fn failed(why: &str) {
    println!("{PREFIX} FAILED {why}");
}

/// Waits for a line that is an order; others are noise on the line.
pub fn wait_for_order(input: impl BufRead) -> Result<Order> {
    for line in input.lines() {
        let line = line.map_err(Error::os("read the console"))?;
        if let Some(order) = line.trim().strip_prefix(PREFIX) {
            return parse(order.trim());
        }
    }
    Err(Error::Workload(
        "the console closed before an order came".into(),
    ))
}

fn parse(order: &str) -> Result<Order> {
    if let Some(json) = order.strip_prefix("GO ") {
        return serde_json::from_str(json)
            .map(Order::Go)
            .map_err(|e| Error::Workload(format!("order not understood: {e}")));
    }
    match order {
        "END poweroff" => Ok(Order::PowerOff),
        "END reboot" => Ok(Order::Reboot),
        "END panic" => Ok(Order::Panic),
        _ => Err(Error::Workload(format!("order not understood: {order}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_found_between_noise() {
        let text = b"noise\nVMFIRST GO {\"workload\":\"dbench\",\"clients\":4,\
            \"warmup_ms\":1000,\"window_ms\":2000,\"seed\":1}\n";
        let go = Go {
            workload: "dbench".into(),
            clients: 4,
            warmup_ms: 1000,
            window_ms: 2000,
            seed: 1,
        };
        assert_eq!(wait_for_order(&text[..]).unwrap(), Order::Go(go));
        assert_eq!(
            wait_for_order(&b"VMFIRST END reboot\r\n"[..]).unwrap(),
            Order::Reboot
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "VMFIRST GO {}\n", "VMFIRST GO\n", "VMFIRST END\n"] {
            assert!(wait_for_order(text.as_bytes()).is_err(), "{text}");
        }
    }
}
