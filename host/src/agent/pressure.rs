//! Time that a group's tasks waited: pressure stall information.

use std::io;
use std::path::Path;

/// The time since the group's start in which some task of it waited, in us, of a file as
/// cpu.pressure.
pub fn some_usec(file: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    total(&text, "some").ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn total(text: &str, kind: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(kind))?;
    let total = line
        .split(' ')
        .find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_of_its_line() {
        let text = "some avg10=0.12 avg60=0.00 avg300=0.00 total=1234\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=99\n";
        assert_eq!(total(text, "some"), Some(1234));
        assert_eq!(total(text, "full"), Some(99));
        for bad in ["", "some", "some total=", "some total=-1"] {
            assert_eq!(total(bad, "some"), None, "{bad}");
        }
    }
}
