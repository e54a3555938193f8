//! What can go wrong before and while a machine runs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    /// What was asked for makes no sense: ask for something else.
    #[error("{0}")]
    Usage(String),
    /// The kernel or the host's administrator has it otherwise: change that, or do without.
    #[error("{0}")]
    Refused(String),
    /// Somebody else has it: wait, or stop that one.
    #[error("{0}")]
    Busy(String),
    /// The machine is not there any more, or never was.
    #[error("{0}")]
    Gone(String),
    /// A thread or a control group could not be given what it was to have.
    #[error(transparent)]
    Sched(#[from] vmfirst_host::Error),
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

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Ask for something else.
    Usage,
    /// Change the host, or do without.
    Refused,
    /// Wait, or stop who has it.
    Busy,
    /// Look for another machine.
    Gone,
    /// Find out what is wrong with the host.
    Host,
}

impl Error {
    /// An error of this kind, as a machine told it.
    pub fn of(kind: Kind, message: String) -> Self {
        match kind {
            Kind::Usage => Self::Usage(message),
            Kind::Refused => Self::Refused(message),
            Kind::Busy => Self::Busy(message),
            Kind::Gone => Self::Gone(message),
            Kind::Host => Self::System {
                action: "do what the machine was asked for",
                source: std::io::Error::other(message),
            },
        }
    }

    /// What is to be done about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Usage(_) | Self::Kernel { .. } => Kind::Usage,
            Self::Refused(_) => Kind::Refused,
            Self::Busy(_) => Kind::Busy,
            Self::Gone(_) => Kind::Gone,
            Self::Sched(error) => match error {
                vmfirst_host::Error::Usage(_) => Kind::Usage,
                vmfirst_host::Error::Gone(_) => Kind::Gone,
                _ => Kind::Refused,
            },
            Self::File { .. } | Self::Kvm { .. } | Self::Memory(_) | Self::System { .. } => {
                Kind::Host
            }
        }
    }

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
    pub fn system<E: Into<std::io::Error>>(action: &'static str) -> impl Fn(E) -> Self + Copy {
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
