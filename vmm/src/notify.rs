//! Tells the service manager that started this process, if one did: sd_notify(3).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const READY: &[u8] = b"READY=1\nSTATUS=the guest runs\n";

/// The service manager that wants to hear of this process, if one does.
#[derive(Debug)]
pub struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Connects with it: to be called before system calls are given up. What fails is told, and
    /// stops nobody: the manager gives up by itself.
    pub fn find() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|socket| {
            let failed =
                |error| log::warn!("cannot reach the service manager that started this: {error}");
            connect(&socket).map_err(failed).ok()
        });
        Self(socket)
    }

    /// Says that the machine runs.
    pub fn ready(self) {
        let said = self.0.map(|socket| socket.send(READY));
        if let Some(Err(error)) = said {
            log::warn!("cannot tell the service manager that the guest runs: {error}");
        }
    }
}

fn connect(socket: &OsStr) -> io::Result<UnixDatagram> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let connected = UnixDatagram::unbound()?;
    connected.connect_addr(&address)?;
    Ok(connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_it_by_either_kind_of_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("vmm-notify-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (manager, socket) in [
            (by_path, path.into_os_string()),
            (by_name, format!("@{name}").into()),
        ] {
            Manager(connect(&socket).ok()).ready();
            let mut said = [0; 64];
            let size = manager.recv(&mut said).unwrap();
            assert_eq!(&said[..size], READY);
        }
        assert!(connect(OsStr::new("/nowhere/at/all")).is_err());
    }
}
