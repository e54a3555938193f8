//! The port as a driver sees it.

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

const DATA: u64 = 0;
const INTERRUPTS: u64 = 1;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const LOOPBACK: u8 = 1 << 4;

struct Bench {
    port: SerialPort,
    output: File,
    irq: EventFd,
    drained: EventFd,
}

fn bench() -> Bench {
    let event = || EventFd::new(EFD_NONBLOCK).unwrap();
    let (irq, drained) = (event(), event());
    let output = tempfile::tempfile().unwrap();
    let sink = Sink::from(output.try_clone().unwrap());
    let line = Arc::new(Mutex::new(Line::new(sink, None, event(), Arc::default())));
    Bench {
        port: SerialPort::new(irq.try_clone().unwrap(), &drained, line).unwrap(),
        output,
        irq,
        drained,
    }
}

impl Bench {
    fn read(&mut self, register: u64) -> u8 {
        let mut byte = [0];
        self.port.read(register, &mut byte);
        byte[0]
    }

    fn printed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.output.rewind().unwrap();
        self.output.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn what_the_guest_writes_is_printed() {
    let mut bench = bench();
    for byte in b"ok" {
        bench.port.write(DATA, &[*byte]);
    }
    assert_eq!(bench.printed(), b"ok");
}

#[test]
fn input_interrupts_and_is_asked_for_again_when_all_is_read() {
    let mut bench = bench();
    bench.port.write(INTERRUPTS, &[1]);
    assert!(bench.port.room() > 2);
    assert_eq!(bench.port.input(b"ab"), 2);
    assert_eq!(bench.irq.read().unwrap(), 1);
    assert_eq!(bench.read(DATA), b'a');
    assert!(bench.drained.read().is_err());
    assert_eq!(bench.read(DATA), b'b');
    assert_eq!(bench.drained.read().unwrap(), 1);
    assert_eq!(bench.read(LINE_STATUS) & 1, 0);
}

#[test]
fn a_port_in_loopback_takes_no_input_and_prints_nothing() {
    let mut bench = bench();
    bench.port.write(MODEM_CONTROL, &[LOOPBACK]);
    assert_eq!(bench.port.input(b"a"), 0);
    bench.port.write(DATA, b"b");
    assert_eq!(bench.printed(), b"");
    assert_eq!(bench.read(DATA), b'b');
}

#[test]
fn accesses_that_no_driver_makes_change_nothing() {
    let mut bench = bench();
    let mut four = [7; 4];
    for register in [DATA, SIZE, 1 << 40] {
        bench.port.write(register, b"abcd");
        bench.port.read(register, &mut four);
    }
    assert_eq!(four, [7; 4]);
    assert_eq!(bench.printed(), b"");
}
