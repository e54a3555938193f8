//! Tells the service manager that started this process, if one did: sd_notify(3).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the machine runs. To be called before system calls are given up. What fails
/// is told, and stops nobody: the manager gives up by itself.
pub fn ready() {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, "READY=1\nSTATUS=the guest runs\n") {
        log::warn!("cannot tell the service manager that the guest runs: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
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
            send(&socket, "READY=1\n").unwrap();
            let mut said = [0; 32];
            let size = manager.recv(&mut said).unwrap();
            assert_eq!(&said[..size], b"READY=1\n");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "").is_err());
    }
}
