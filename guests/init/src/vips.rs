//! VIPS from Debian: the chain that PARSEC's benchmark of that name runs,
//! `im_benchmarkn`, which crops, shrinks by an affine map, changes the white point
//! and the colour space, and sharpens; image after image, with as many threads as
//! vCPUs.
//!
//! VIPS tells each percent of an image that is done; the work in the window is the
//! difference between its two ends, the start of VIPS for each image included. The
//! checksum of every image that comes out has to be the known one.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use crate::protocol::{Go, Outcome};
use crate::shell::Program;
use crate::window::{Counts, Window};
use crate::{Error, Result};

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

/// Runs image after image until one ends after the window.
pub fn run(go: &Go) -> Result<Outcome> {
    let window = Window::new(go);
    fs::write(DRAWN, draw()).map_err(Error::os("write the input"))?;
    Program::start(PROGRAM, &["colourspace", DRAWN, INPUT, "labq"])?.finish()?;
    let (track, stop) = (Track::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let images = scope.spawn(|| {
            (0_u32..)
                .take_while(|_| !stop.load(Ordering::Relaxed))
                .try_for_each(|number| image(number.into(), go, &window, &track))
        });
        window.sleep_until(window.begin);
        let (before, begin) = (Counts::now(), window.go.elapsed());
        window.sleep_until(window.end);
        let (extras, end) = (Counts::now().since(&before), window.go.elapsed());
        stop.store(true, Ordering::Relaxed);
        match images.join() {
            Ok(ended) => ended?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let images = track.at(end) - track.at(begin);
        let window_s = (end - begin).as_secs_f64();
        Ok(Outcome {
            value: images * f64::from(SIDE * SIDE) / 1e6 / window_s,
            unit: "Mpixel/s",
            window_s,
            extras,
        })
    })
}

/// Runs the chain once and checks what comes out.
fn image(number: f64, go: &Go, window: &Window, track: &Track) -> Result<()> {
    let reach = |percent| track.reach(window.go.elapsed(), number + percent / 100.0);
    let mut vips = Command::new(PROGRAM)
        .arg(format!("--vips-concurrency={}", go.clients))
        .args(["--vips-progress", "im_benchmarkn", INPUT, OUTPUT, "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::os(format!("start {PROGRAM}")))?;
    reach(0.0);
    for said in vips.stdout.take().map(BufReader::new).into_iter() {
        // Every percent overwrites the last on the same line.
        for piece in said.split(b'\r').map_while(std::result::Result::ok) {
            if let Some(percent) = percent(&String::from_utf8_lossy(&piece)) {
                reach(percent);
            }
        }
    }
    let status = vips.wait().map_err(Error::os("wait for vips"))?;
    if !status.success() {
        return Err(Error::Workload(format!("vips failed: {status}")));
    }
    reach(100.0);
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

/// How many images were done by when, with parts of the one that ran.
#[derive(Default)]
struct Track(Mutex<Vec<(Duration, f64)>>);

impl Track {
    fn reach(&self, now: Duration, done: f64) {
        let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        points.push((now, done));
    }

    /// How much was done at a time, in a straight line between what is known.
    fn at(&self, time: Duration) -> f64 {
        let points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = points.partition_point(|&(at, _)| at < time);
        let Some(&(after, more)) = points.get(next) else {
            return points.last().map_or(0.0, |&(_, done)| done);
        };
        let Some(&(before, done)) = next.checked_sub(1).and_then(|i| points.get(i)) else {
            return 0.0;
        };
        let share = (time - before).as_secs_f64() / (after - before).as_secs_f64();
        done + (more - done) * share
    }
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

    #[test]
    fn work_between_two_times_is_in_a_straight_line() {
        let track = Track::default();
        assert_eq!(track.at(Duration::from_millis(5)), 0.0);
        for (ms, done) in [(10, 0.0), (20, 0.5), (40, 1.0)] {
            track.reach(Duration::from_millis(ms), done);
        }
        for (ms, done) in [(5, 0.0), (10, 0.0), (15, 0.25), (30, 0.75), (99, 1.0)] {
            assert!(
                (track.at(Duration::from_millis(ms)) - done).abs() < 1e-9,
                "{ms}"
            );
        }
    }
}
