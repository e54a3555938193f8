//! The worker of a changed `sched_core`: as tests/c/worker.h. Compiled by the tests.

use std::io::{Read, Write};

#[path = "cases.rs"]
mod cases;
#[path = "inputs.rs"]
mod inputs;

const NARGS: usize = 4;
const BLOCK: usize = 512;

fn main() {
    let name = std::env::args().nth(1).unwrap();
    let case = cases::YIELD_MATH
        .iter()
        .chain(cases::IPI_RECORD_WORD)
        .chain(cases::IPI_EOI_WORD)
        .chain(cases::SCX_POLICY)
        .find(|case| case.name == name)
        .unwrap();
    let mut bytes = [0; BLOCK * NARGS * 8];
    loop {
        let n = read_block(&mut bytes);
        let numbers: Vec<u64> = bytes[..n]
            .chunks(8)
            .map(|b| u64::from_ne_bytes(b.try_into().unwrap()))
            .collect();
        let answers: Vec<u8> = numbers
            .chunks(NARGS)
            .flat_map(|row| (case.rust)(row).to_ne_bytes())
            .collect();
        std::io::stdout().write_all(&answers).unwrap();
        std::io::stdout().flush().unwrap();
        if n < bytes.len() {
            return;
        }
    }
}

/// Reads until the block is full or the input ends.
fn read_block(bytes: &mut [u8]) -> usize {
    let mut n = 0;
    while n < bytes.len() {
        match std::io::stdin().read(&mut bytes[n..]).unwrap() {
            0 => break,
            more => n += more,
        }
    }
    n
}
