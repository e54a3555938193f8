//! What can go wrong before and while a machine runs.

use std::path::{Path, PathBuf};

/// An error on the host's side. What a guest does wrong is never one of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that the user named can't be used.
    #[error("cannot {action} {what} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// What the file is for.
        what: &'static str,
        /// The path that the user gave.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// An option has a value that makes no machine.
    #[error("{0}")]
    Config(String),
    /// KVM refused something.
    #[error("KVM cannot {action}: {source}{}", kvm_hint(source))]
    Kvm {
        /// What was asked of it.
        action: &'static str,
        /// Its answer.
        source: kvm_ioctls::Error,
    },
    /// The guest's memory could not be set up or does not hold something.
    #[error("guest memory: {0}")]
    Memory(String),
    /// The kernel image is not one that can be booted.
    #[error("kernel {}: {reason}", path.display())]
    Kernel {
        /// The path that the user gave.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused something that every machine needs.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err` on an operation on the user's file.
    pub fn file(
        action: &'static str,
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File {
            action,
            what,
            path,
            source,
        }
    }

    /// For `map_err` on a call of KVM.
    pub fn kvm(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { action, source }
    }

    /// For `map_err` on a system call.
    pub fn system<E: Into<std::io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }
}

fn kvm_hint(source: &kvm_ioctls::Error) -> &'static str {
    match source.errno() {
        libc::ENOENT => "; is KVM loaded (modprobe kvm_amd or kvm_intel)?",
        libc::EACCES | libc::EPERM => "; run as root or join the group kvm",
        _ => "",
    }
}
