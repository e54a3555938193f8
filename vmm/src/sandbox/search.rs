//! A filter by the calls' numbers alone, which searches.
//!
//! The kernel tries a new filter with each system call that it has. seccompiler's compares a
//! number with one after the other: for the calls of all threads, most of a machine's filters'
//! time at its start.

use std::collections::BTreeSet;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_KILL_PROCESS,
};
use seccompiler::{BpfProgram, sock_filter};

/// Where `struct seccomp_data` has the call's number, and the architecture.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// `AUDIT_ARCH_X86_64` of <linux/audit.h>.
const X86_64: u32 = 0xc000_003e;

/// Lets `calls` pass; for any other, the kernel does as `refused` says.
pub fn program(calls: &BTreeSet<u32>, refused: u32) -> BpfProgram {
    let mut program = vec![
        instruction(BPF_LD | BPF_W | BPF_ABS, ARCHITECTURE),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, X86_64),
        instruction(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        instruction(BPF_LD | BPF_W | BPF_ABS, NUMBER),
    ];
    program[1].jt = 1;
    let action = |number: &u32| match calls.contains(number) {
        true => SECCOMP_RET_ALLOW,
        false => refused,
    };
    // The numbers from which on it is another action than before.
    let mut bounds: Vec<_> = (0..=calls.last().map_or(0, |last| last + 1))
        .map(|number| (number, action(&number)))
        .collect();
    bounds.dedup_by_key(|(_, action)| *action);
    search(&bounds, &mut program);
    program
}

/// Finds the last bound that is not above the number.
fn search(bounds: &[(u32, u32)], program: &mut BpfProgram) {
    if let [(_, action)] = bounds {
        return program.push(instruction(BPF_RET | BPF_K, *action));
    }
    let (low, high) = bounds.split_at(bounds.len() / 2);
    let jump = program.len();
    program.push(instruction(BPF_JMP | BPF_JGE | BPF_K, high[0].0));
    search(low, program);
    let over = program.len() - jump - 1;
    program[jump].jt = u8::try_from(over).expect("the tables have fewer calls than that");
    search(high, program);
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: u32 = libc::SECCOMP_RET_TRAP;

    /// What the kernel would make of a call; also how many instructions that takes.
    fn run(program: &BpfProgram, arch: u32, number: u32) -> (u32, usize) {
        let (mut at, mut value, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            let holds = match u32::from(code) & !BPF_K {
                op if op == BPF_LD | BPF_W | BPF_ABS => {
                    value = [number, arch][(k / 4) as usize];
                    false
                }
                op if op == BPF_JMP | BPF_JEQ => value == k,
                op if op == BPF_JMP | BPF_JGE => value >= k,
                op if op == BPF_RET => return (k, steps),
                op => panic!("{op:#x}"),
            };
            at += 1 + usize::from(if holds { jt } else { jf });
            steps += 1;
        }
    }

    #[test]
    fn calls_of_the_table_pass_and_no_other() {
        // The first, the last of a kernel, neighbours, all of a table's size.
        for calls in [
            vec![],
            vec![0],
            vec![5],
            vec![0, 1, 2, 9, 10, 462],
            (0..100).map(|n| 3 * n).collect(),
        ] {
            let calls: BTreeSet<u32> = calls.into_iter().collect();
            let program = program(&calls, REFUSED);
            let others = [u32::MAX, 1 << 30, 1 << 30 | 1];
            for number in (0..600).chain(others) {
                let (action, steps) = run(&program, X86_64, number);
                let passes = calls.contains(&number);
                let expected = if passes { SECCOMP_RET_ALLOW } else { REFUSED };
                assert_eq!(action, expected, "{number} of {calls:?}");
                assert!(steps <= 12, "{steps}");
            }
            // AUDIT_ARCH_I386.
            assert_eq!(run(&program, 0x4000_0003, 0).0, SECCOMP_RET_KILL_PROCESS);
        }
    }
}
