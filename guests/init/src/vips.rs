//! VIPS from Debian: the chain that PARSEC's benchmark of that name runs,
//! `im_benchmarkn`, which crops, shrinks by an affine map, changes the white point
//! and the colour space, and sharpens; image after image, with as many threads as
//! vCPUs.
//!
//! VIPS tells each percent of an image that is done; the start of VIPS for each
//! image is counted with it. The checksum of every image that comes out has to be
//! the known one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::protocol::{Go, Outcome};
use crate::shell::Program;
use crate::{Error, Result, repeat};

const PROGRAM: &str = "/usr/bin/vips";
const DRAWN: &str = "/tmp/drawn.ppm";
const INPUT: &str = "/tmp/in.v";
const OUTPUT: &str = "/tmp/out.v";
/// Width and height in pixels.
const SIDE: u32 = 1000;
/// CRC-32 of the pixels that come out; the same with any number of threads.
/// Made with libvips 8.14.1.
const CHECKSUM: u32 = 0xc365_3142;
/// VIPS's own file format: a header, the pixels in bytes of red, green and blue,
/// then text that tells when it was made.
const HEADER: usize = 64;
const PIXELS: usize = (SIDE * SIDE * 3) as usize;

/// Draws the picture; the workload then counts pixels.
pub fn prepare() -> Result<impl FnOnce(&Go) -> Result<Outcome>> {
    fs::write(DRAWN, draw()).map_err(Error::os("write the input"))?;
    Program::start(PROGRAM, &["colourspace", DRAWN, INPUT, "labq"])?.finish()?;
    let size = f64::from(SIDE * SIDE) / 1e6;
    Ok(move |go: &Go| repeat::run(go, (size, "Mpixel/s"), |_, reach| image(go.clients, reach)))
}

/// Runs the chain once and checks what comes out.
fn image(threads: u32, reach: &dyn Fn(f64)) -> Result<()> {
    let mut vips = Command::new(PROGRAM)
        .arg(format!("--vips-concurrency={threads}"))
        .args(["--vips-progress", "im_benchmarkn", INPUT, OUTPUT, "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::os(format!("start {PROGRAM}")))?;
    if let Some(said) = vips.stdout.take().map(BufReader::new) {
        // Every percent overwrites the last on the same line.
        for piece in said.split(b'\r').map_while(std::result::Result::ok) {
            if let Some(percent) = percent(&String::from_utf8_lossy(&piece)) {
                reach(percent / 100.0);
            }
        }
    }
    let status = vips.wait().map_err(Error::os("wait for vips"))?;
    if !status.success() {
        return Err(Error::Workload(format!("vips failed: {status}")));
    }
    check()
}

fn check() -> Result<()> {
    let output = fs::read(OUTPUT).map_err(Error::os("read the image"))?;
    let pixels = output.get(HEADER..HEADER + PIXELS);
    let checksum = pixels.map(crc32fast::hash);
    if checksum == Some(CHECKSUM) {
        return Ok(());
    }
    Err(Error::Workload(format!(
        "the image has checksum {:#010x}, not {CHECKSUM:#010x}",
        checksum.unwrap_or_default()
    )))
}

/// Reads `vips /tmp/out.v: 23% complete`.
fn percent(said: &str) -> Option<f64> {
    let (before, _) = said.split_once("% complete")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// A picture with fine and coarse structure, as a PPM file.
fn draw() -> Vec<u8> {
    let mut file = format!("P6\n{SIDE} {SIDE}\n255\n").into_bytes();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let colours = [(x * y) >> 8, (x * x + y * 3) >> 9, ((x ^ y) * 5) >> 3];
            file.extend(colours.map(|colour| colour as u8));
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_read() {
        assert_eq!(percent("vips /tmp/out.v: 23% complete"), Some(23.0));
        assert_eq!(percent("vips /tmp/out.v: done in 0.509s"), None);
        assert_eq!(percent(""), None);
    }
}
