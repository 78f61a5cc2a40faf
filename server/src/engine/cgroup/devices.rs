//! Which devices the processes of a cgroup may use.
//!
//! A policy is a list of what is allowed; all else is denied. It is enforced by a BPF program on
//! the unified hierarchy. Without one, containers get no CAP_MKNOD, and only /dev holds devices.

use std::{io, os::fd::OwnedFd};

use conti_runtime::sys::bpf::{self, Insn};

/// One thing that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// A block device, or else a character device.
    pub block: bool,
    /// The major number; `None`: any.
    pub major: Option<u32>,
    /// The minor number; `None`: any.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made with mknod(2).
    pub mknod: bool,
}

impl Rule {
    const fn char(major: u32, minor: Option<u32>) -> Rule {
        Rule { block: false, major: Some(major), minor, read: true, write: true, mknod: true }
    }

    const fn mknod_of_any(block: bool) -> Rule {
        Rule { block, major: None, minor: None, read: false, write: false, mknod: true }
    }
}

/// What every container may use: the standard nodes, its terminals, and making nodes that it then
/// cannot open.
pub const STANDARD: [Rule; 10] = [
    Rule::mknod_of_any(false),
    Rule::mknod_of_any(true),
    Rule::char(1, Some(3)), // null
    Rule::char(1, Some(5)), // zero
    Rule::char(1, Some(7)), // full
    Rule::char(1, Some(8)), // random
    Rule::char(1, Some(9)), // urandom
    Rule::char(5, Some(0)), // tty
    Rule::char(5, Some(2)), // ptmx; not 5:1, which is the host's console, nor its serial lines
    Rule::char(136, None),  // pts, and so a container's own console
];

// linux/bpf_common.h and linux/bpf.h
const LDX_W: u8 = 0x61;
const MOV_K: u8 = 0xb7;
const MOV_X: u8 = 0xbf;
const AND_K: u8 = 0x57;
const RSH_K: u8 = 0x77;
const JNE_K: u8 = 0x55;
const EXIT: u8 = 0x95;

/// BPF_DEVCG_ACC_* and BPF_DEVCG_DEV_* of linux/bpf.h.
const ACC_MKNOD: i32 = 1;
const ACC_READ: i32 = 2;
const ACC_WRITE: i32 = 4;
const DEV_BLOCK: i32 = 1;
const DEV_CHAR: i32 = 2;

/// Compiles rules: the program returns 1 where one of them allows the access, else 0.
fn compile(rules: &[Rule]) -> Vec<Insn> {
    let insn = |code, dst: u8, src: u8, off, imm| Insn { code, regs: dst | src << 4, off, imm };
    // struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | type), major, minor } in r1
    let mut program = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
        insn(MOV_X, 3, 2, 0, 0),
        insn(RSH_K, 3, 0, 0, 16),
        insn(AND_K, 2, 0, 0, 0xffff),
    ];
    for rule in rules {
        // Each test jumps behind the rule where it does not hold; the distance is known at the end.
        let mut tests = vec![insn(JNE_K, 2, 0, 0, if rule.block { DEV_BLOCK } else { DEV_CHAR })];
        let mut allowed = 0;
        for (flag, bit) in [(rule.read, ACC_READ), (rule.write, ACC_WRITE), (rule.mknod, ACC_MKNOD)]
        {
            if flag {
                allowed |= bit;
            }
        }
        tests.push(insn(MOV_X, 6, 3, 0, 0));
        tests.push(insn(AND_K, 6, 0, 0, !allowed & (ACC_READ | ACC_WRITE | ACC_MKNOD)));
        tests.push(insn(JNE_K, 6, 0, 0, 0));
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push(insn(JNE_K, register, 0, 0, number as i32));
            }
        }
        let len = tests.len() + 2;
        for (at, mut test) in tests.into_iter().enumerate() {
            if test.code == JNE_K {
                test.off = (len - at - 1) as i16;
            }
            program.push(test);
        }
        program.push(insn(MOV_K, 0, 0, 0, 1));
        program.push(insn(EXIT, 0, 0, 0, 0));
    }
    program.push(insn(MOV_K, 0, 0, 0, 0));
    program.push(insn(EXIT, 0, 0, 0, 0));
    program
}

/// Loads a policy into the kernel, ready to be attached to any number of cgroups.
pub fn load(rules: &[Rule]) -> io::Result<OwnedFd> {
    bpf::load_cgroup_device(&compile(rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets a program as the kernel would, for one access.
    fn allows(program: &[Insn], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let ctx = [(access << 16 | kind) as u32, major, minor];
        let mut regs = [0u64; 11];
        let mut at = 0usize;
        loop {
            let Insn { code, regs: r, off, imm } = program[at];
            let (dst, src) = ((r & 15) as usize, (r >> 4) as usize);
            at += 1;
            match code {
                LDX_W => regs[dst] = u64::from(ctx[off as usize / 4]),
                MOV_K => regs[dst] = imm as u64,
                MOV_X => regs[dst] = regs[src],
                AND_K => regs[dst] &= imm as i64 as u64,
                RSH_K => regs[dst] >>= imm,
                JNE_K if regs[dst] != imm as i64 as u64 => at += off as usize,
                JNE_K => {}
                EXIT => return regs[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_standard_policy_allows_null_and_denies_disks_but_lets_nodes_be_made() {
        let program = compile(&STANDARD);
        assert!(allows(&program, DEV_CHAR, ACC_READ | ACC_WRITE, 1, 3));
        assert!(allows(&program, DEV_CHAR, ACC_READ, 136, 7));
        assert!(allows(&program, DEV_BLOCK, ACC_MKNOD, 8, 0));
        assert!(!allows(&program, DEV_BLOCK, ACC_READ, 8, 0));
        assert!(!allows(&program, DEV_CHAR, ACC_READ, 1, 1));
        assert!(allows(&program, DEV_CHAR, ACC_READ | ACC_WRITE, 5, 0));
        assert!(allows(&program, DEV_CHAR, ACC_READ | ACC_WRITE, 5, 2));
        for console in [1, 3, 4, 64] {
            assert!(!allows(&program, DEV_CHAR, ACC_READ, 5, console));
            assert!(!allows(&program, DEV_CHAR, ACC_WRITE, 5, console));
        }
        assert!(!allows(&program, DEV_CHAR, ACC_READ | ACC_MKNOD, 10, 200));
    }

    #[test]
    fn a_read_only_rule_denies_writes() {
        let rule = Rule {
            block: true,
            major: Some(7),
            minor: Some(1),
            read: true,
            write: false,
            mknod: false,
        };
        let program = compile(&[rule]);
        assert!(allows(&program, DEV_BLOCK, ACC_READ, 7, 1));
        assert!(!allows(&program, DEV_BLOCK, ACC_WRITE, 7, 1));
        assert!(!allows(&program, DEV_BLOCK, ACC_READ | ACC_WRITE, 7, 1));
        assert!(!allows(&program, DEV_BLOCK, ACC_READ, 7, 2));
    }
}
