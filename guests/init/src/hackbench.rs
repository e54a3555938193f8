//! hackbench from Debian's rt-tests: as many senders as vCPUs, each of which sends
//! messages to each of as many receivers over pipes. Every message wakes somebody.

use crate::protocol::{Go, Outcome};
use crate::shell::quiet;
use crate::{Error, Result, repeat};

const PROGRAM: &str = "/usr/bin/hackbench";
/// Messages from each sender to each receiver in one run: some 10 ms.
const LOOPS: u32 = 50;

/// Counts messages.
pub fn run(go: &Go) -> Result<Outcome> {
    let messages = f64::from(go.clients) * f64::from(go.clients) * f64::from(LOOPS);
    repeat::run(go, (messages / 1e3, "k messages/s"), |_, _| {
        let (fds, loops) = (go.clients.to_string(), LOOPS.to_string());
        let args = ["--pipe", "--groups=1", "--fds", &fds, "--loops", &loops];
        let said = quiet(PROGRAM, &args)?;
        // It says so at the end, when every receiver has got all that it expects.
        if said.lines().any(|line| line.starts_with("Time: ")) {
            return Ok(());
        }
        Err(Error::Workload(format!("hackbench said: {said}")))
    })
}
