//! How a process has ended that isn't a child of this one.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use vmm::api::types::Ended;

/// `_IOWR(0xFF, 11, struct pidfd_info)` with its first 64 bytes: Linux's uapi/linux/pidfd.h.
const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
/// The status of a process that has ended (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// The status is there once its parent has asked for it, which may take a moment.
const LOOKS: u32 = 100;
const BETWEEN: Duration = Duration::from_millis(10);

/// struct pidfd_info.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// What the shell sees of a machine's end, in words: as the kernel tells, else as the machine
/// `said`; only that it has ended where neither does.
pub fn how(process: &OwnedFd, said: Option<Ended>) -> String {
    // Who knows already doesn't wait for a parent.
    let looks = if said.is_some() { 1 } else { LOOKS };
    how_of(status(process, looks), said)
}

fn how_of(status: Option<i32>, said: Option<Ended>) -> String {
    match (status, said) {
        (Some(status), _) => words(status),
        (None, Some(ended)) => words(i32::from(ended.status) << 8),
        (None, None) => "has ended".into(),
    }
}

/// The status as of wait(2), where the kernel tells strangers.
fn status(process: &OwnedFd, looks: u32) -> Option<i32> {
    for _ in 0..looks {
        let mut info = PidfdInfo {
            mask: PIDFD_INFO_EXIT,
            ..PidfdInfo::default()
        };
        // SAFETY: the kernel writes at most the 64 bytes that the request's number has.
        let done = unsafe { libc::ioctl(process.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        if done == 0 && info.mask & PIDFD_INFO_EXIT != 0 {
            return Some(info.exit_code);
        }
        if done < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH) {
            break;
        }
        thread::sleep(BETWEEN);
    }
    None
}

/// A status as of wait(2).
fn words(status: i32) -> String {
    if !libc::WIFEXITED(status) {
        return format!("was killed by signal {}", libc::WTERMSIG(status));
    }
    match libc::WEXITSTATUS(status) {
        0 => "powered off".into(),
        3 => "ended by a reboot of its guest's".into(),
        4 => "ended by a crash of its guest's".into(),
        5 => "ended by a panic of its guest's kernel".into(),
        6 => "was cut: its guest did not power off in time".into(),
        code @ 128.. => format!("was cut by signal {}", code - 128),
        code => format!("has ended with status {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_words() {
        assert_eq!(words(0), "powered off");
        assert!(words(6 << 8).contains("did not power off in time"));
        assert!(words(143 << 8).contains("signal 15"));
        assert!(words(9).contains("killed by signal 9"));
    }

    /// A machine may have been killed after it said how it ends.
    #[test]
    fn the_machines_word_counts_where_the_kernel_says_nothing() {
        let said = |status| Some(Ended { status });
        assert_eq!(how_of(None, said(0)), "powered off");
        assert!(how_of(None, said(6)).contains("did not power off in time"));
        assert!(how_of(None, said(143)).contains("signal 15"));
        assert_eq!(how_of(None, None), "has ended");
        assert!(how_of(Some(9), said(0)).contains("killed by signal 9"));
    }
}
