//! A PostgreSQL server from Debian, with a new database on the disk.
//!
//! The database is made in the guest: one made with the image would differ from build
//! to build, as it has the time and random bytes in it. The server refuses to be root,
//! so it and all its programs run as a user of their own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::shell::said;
use crate::{DISK, Error, Result};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const USER: &str = "postgres";
/// There from the beginning.
pub const DATABASE: &str = "postgres";
const USER_ID: u32 = 100;
const LOG: &str = "/tmp/postgres.log";
/// The folder of the server's socket; the guests have no TCP.
const SOCKETS: &str = "/tmp";
/// What differs from Debian's defaults: for a guest with little memory, and no
/// checkpoint in a window.
const SETTINGS: &str = "
listen_addresses = ''
unix_socket_directories = '/tmp'
shared_buffers = 32MB
checkpoint_timeout = 1h
";

/// A running server.
pub struct Server {
    data: String,
}

impl Server {
    /// Makes a database and starts its server; returns when that takes connections.
    pub fn start() -> Result<Self> {
        if !fs::exists("/dev/vda").unwrap_or(false) {
            let why = "PostgreSQL needs a disk: start the guest with one";
            return Err(Error::Workload(why.into()));
        }
        let data = format!("{DISK}/{USER}");
        make_user(&data).map_err(Error::os("make the server's user"))?;
        said(command("initdb").args(["-D", &data, "-U", USER]).args([
            "--auth=trust",
            "--encoding=SQL_ASCII",
            "--locale=C",
            "--no-sync",
        ]))?;
        OpenOptions::new()
            .append(true)
            .open(format!("{data}/postgresql.conf"))
            .and_then(|mut file| file.write_all(SETTINGS.as_bytes()))
            .map_err(Error::os("write the server's settings"))?;
        let start = ["start", "--wait", "-D", &data, "-l", LOG];
        said(command("pg_ctl").args(start)).map_err(with_log)?;
        Ok(Self { data })
    }

    /// A client program, told where the server is.
    pub fn client(&self, program: &str) -> Command {
        let mut client = command(program);
        client.args(["-h", SOCKETS, "-U", USER]);
        client
    }

    /// The one row of numbers that a query gives.
    pub fn query(&self, sql: &str) -> Result<Vec<i64>> {
        let answer = said(self.client("psql").args(["-A", "-t", "-c", sql, DATABASE]))?;
        numbers(&answer).ok_or_else(|| Error::Workload(format!("psql said: {answer}")))
    }

    /// Stops it at once: its disk is thrown away.
    pub fn stop(self) -> Result<()> {
        let stop = ["stop", "--wait", "--mode=immediate", "-D", &self.data];
        said(command("pg_ctl").args(stop)).map_err(with_log)?;
        Ok(())
    }
}

/// Gives the server's user a name and a folder.
fn make_user(folder: &str) -> std::io::Result<()> {
    fs::create_dir_all("/etc")?;
    let user = format!("{USER}:x:{USER_ID}:{USER_ID}::/tmp:/bin/sh\n");
    fs::write("/etc/passwd", user)?;
    fs::create_dir_all(folder)?;
    chown(folder, Some(USER_ID), Some(USER_ID))
}

/// One of its programs, to run as its user.
fn command(program: &str) -> Command {
    let mut command = Command::new(format!("{PROGRAMS}/{program}"));
    // A guest has no files of time zones; of this one PostgreSQL knows by itself.
    command.uid(USER_ID).gid(USER_ID).env("TZ", "GMT");
    command
}

/// Says what the server has logged, too.
fn with_log(error: Error) -> Error {
    let log = fs::read_to_string(LOG).unwrap_or_default();
    let log = log.lines().collect::<Vec<_>>().join(" / ");
    Error::Workload(format!("{error}; the server said: {log}"))
}

/// Reads a row such as `12|-3`.
fn numbers(row: &str) -> Option<Vec<i64>> {
    row.trim().split('|').map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_numbers_or_nothing() {
        assert_eq!(numbers("12|-3\n"), Some(vec![12, -3]));
        assert_eq!(numbers("12|\n"), None);
        assert_eq!(numbers("12\n3\n"), None);
        assert_eq!(numbers(""), None);
    }
}
