//! What a system call that a filter refuses leads to: a line with its number, and the
//! program's end by SIGSYS.

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::register_signal_handler;

use crate::run::terminal;

/// The beginning of `siginfo_t` for SIGSYS on x86-64, as <asm-generic/siginfo.h> has it.
#[repr(C)]
struct Refusal {
    _signal: [c_int; 4],
    _call_address: *const c_void,
    call: c_int,
}

/// Has refused calls told from now on.
pub fn tell() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(libc::SIGSYS, on_refused)
}

/// Does nothing that a filter could refuse but the last call.
extern "C" fn on_refused(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    terminal::restore();
    // SAFETY: the kernel gives a valid siginfo, which for SIGSYS begins like this.
    let call = unsafe { (*info.cast::<Refusal>()).call };
    let mut digits = [0; 10];
    for text in [
        b"vmm: a fault of this program: its filter refuses system call ".as_slice(),
        decimal(call.unsigned_abs(), &mut digits),
        b"; --seccomp off goes without\n",
    ] {
        // SAFETY: the pointer and the length are those of a slice. Nothing can be done
        // about a failure.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: there is no such call. Refused with its signal blocked, it is the end.
    unsafe { libc::syscall(-1) };
}

/// The number's digits; nothing here may allocate.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[first..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn numbers_are_written_without_an_allocator() {
        for number in [0, 7, 10, 435, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }
}
