//! The third party: a host task that computes beside the VMs, to see what their
//! yields cost somebody who takes no part in them.

use std::fs;
use std::process::{Child, Command, Stdio};

use dense_record::{Error, Result};

/// The argument by which this program becomes that task.
pub const ARGUMENT: &str = "third-party";

/// The running task; it ends when this is dropped.
#[derive(Debug)]
pub struct ThirdParty(Child);

impl ThirdParty {
    /// Starts this program once more, as the task.
    pub fn start() -> Result<Self> {
        Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            // Closed when we end, however: the task then ends too.
            .stdin(Stdio::piped())
            .spawn()
            .map(Self)
            .map_err(Error::io("start", "/proc/self/exe"))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// CPU time that it got so far, in ns.
    pub fn run_ns(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid())).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for ThirdParty {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the task does: computes until its standard input closes.
pub fn main() -> ! {
    std::thread::spawn(|| {
        let mut nothing = [0];
        while std::io::Read::read(&mut std::io::stdin(), &mut nothing).is_ok_and(|n| n > 0) {}
        std::process::exit(0);
    });
    let mut x = 1_u64;
    loop {
        x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}
