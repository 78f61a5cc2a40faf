//! From a table of rules to classic BPF.
//!
//! The numbers are cut into ranges of one rule each, and the program finds the range by halving: its
//! length grows with the number of ranges, its path with the logarithm of that. Both count when it is
//! loaded: the kernel translates every instruction, and tries every system call number once to learn
//! which are always allowed; those never run the filter again. For that it must be made of nothing but
//! loads of number and architecture and comparisons with constants, which a bit map would not be.
//!
//! ```text
//!  load arch; not ours: kill
//!  load number
//!  a tree of "number >= N"       leaves are jumps into the blocks
//!  blocks: one per check that is used, then allow, EPERM, ENOSYS, kill
//! ```

use super::table::{
    CLONE_NEW, Check, DENIED_FAMILIES, DENIED_IOCTLS, HIGHEST, PERSONALITIES, Rule, rules,
};
use crate::sys::seccomp::Insn;

/// The architecture's AUDIT_ARCH_* number.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The low half of the first argument; both architectures are little-endian.
const ARGUMENT: [u32; 2] = [16, 24];

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The filter for a container with these capabilities (bit N stands for capability N).
pub fn filter(capabilities: u64) -> Vec<Insn> {
    compile(&rules(capabilities))
}

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// An instruction of the tree.
    At(usize),
    /// The block of a rule.
    Block(Rule),
    /// The end of a process that speaks another ABI.
    Kill,
}

/// An instruction whose jumps are not yet distances.
struct Draft {
    code: u16,
    operand: u32,
    /// Where to, if so and if not. `None`: on to the next.
    jumps: [Option<Target>; 2],
}

impl Draft {
    fn plain(code: u16, operand: u32) -> Draft {
        Draft { code, operand, jumps: [None, None] }
    }

    fn jump(code: u16, operand: u32, yes: Option<Target>, no: Option<Target>) -> Draft {
        Draft { code, operand, jumps: [yes, no] }
    }
}

fn compile(rules: &[Rule]) -> Vec<Insn> {
    let mut program = vec![
        Draft::plain(LOAD, ARCHITECTURE),
        Draft::jump(JUMP_EQUAL, ARCH, None, Some(Target::Kill)),
        Draft::plain(LOAD, NUMBER),
    ];
    let ranges = ranges(rules);
    // Never a single range: the table allows some calls and ends before the numbers do.
    tree(&mut program, &ranges);
    let mut blocks = Vec::new();
    for (_, rule) in &ranges {
        if let (Rule::Check(check), false) = (rule, blocks.iter().any(|(_, r)| r == rule)) {
            blocks.push((program.len(), *rule));
            program.extend(check_block(*check));
        }
    }
    for (rule, action) in [
        (Rule::Allow, libc::SECCOMP_RET_ALLOW),
        (Rule::Deny, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        (Rule::Missing, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ] {
        blocks.push((program.len(), rule));
        program.push(Draft::plain(RETURN, action));
    }
    let kill = program.len();
    program.push(Draft::plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS));

    let place = |target| match target {
        Target::At(at) => at,
        Target::Kill => kill,
        Target::Block(rule) => blocks.iter().find(|(_, r)| *r == rule).map_or(kill, |(at, _)| *at),
    };
    let distance = |from: usize, target: Option<Target>| {
        let to = target.map_or(from + 1, place);
        // A jump is 255 instructions at most, and goes forward. The program is far shorter; if it
        // ever were not, a wrong jump would be worse than a filter that the kernel refuses to load.
        u8::try_from(to.wrapping_sub(from + 1)).ok()
    };
    let finished: Option<Vec<Insn>> = program
        .iter()
        .enumerate()
        .map(|(at, draft)| {
            let [jt, jf] = draft.jumps;
            Some(match draft.code {
                LOAD | RETURN => Insn { code: draft.code, jt: 0, jf: 0, k: draft.operand },
                code => {
                    Insn { code, jt: distance(at, jt)?, jf: distance(at, jf)?, k: draft.operand }
                }
            })
        })
        .collect();
    finished.unwrap_or_else(|| vec![Insn { code: u16::MAX, jt: 0, jf: 0, k: 0 }])
}

/// The rules as ranges: where each begins.
fn ranges(rules: &[Rule]) -> Vec<(u32, Rule)> {
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let beyond = (HIGHEST + 1, Rule::Missing);
    for (number, rule) in (0..).zip(rules.iter().copied()).chain([beyond]) {
        if ranges.last().is_none_or(|(_, last)| *last != rule) {
            ranges.push((number, rule));
        }
    }
    ranges
}

/// Appends the search for the range that a number lies in; where the search begins.
fn tree(program: &mut Vec<Draft>, ranges: &[(u32, Rule)]) -> Target {
    match ranges {
        [] => Target::Block(Rule::Deny),
        [(_, rule)] => Target::Block(*rule),
        _ => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let at = program.len();
            program.push(Draft::jump(JUMP_AT_LEAST, above[0].0, None, None));
            let no = tree(program, below);
            let yes = tree(program, above);
            program[at].jumps = [Some(yes), Some(no)];
            Target::At(at)
        }
    }
}

fn check_block(check: Check) -> Vec<Draft> {
    let (allow, deny) = (Target::Block(Rule::Allow), Target::Block(Rule::Deny));
    match check {
        Check::Clone => vec![
            Draft::plain(LOAD, ARGUMENT[0]),
            Draft::jump(JUMP_ANY_BIT, CLONE_NEW, Some(deny), Some(allow)),
        ],
        Check::Ioctl => one_of(ARGUMENT[1], &DENIED_IOCTLS, deny, allow),
        Check::Personality => one_of(ARGUMENT[0], &PERSONALITIES, allow, deny),
        Check::Socket => one_of(ARGUMENT[0], &DENIED_FAMILIES, deny, allow),
    }
}

/// Goes one way where an argument is in a list, and the other where it is not.
fn one_of(argument: u32, list: &[u32], yes: Target, no: Target) -> Vec<Draft> {
    let mut block = vec![Draft::plain(LOAD, argument)];
    for (index, value) in list.iter().enumerate() {
        let last = index + 1 == list.len();
        block.push(Draft::jump(JUMP_EQUAL, *value, Some(yes), last.then_some(no)));
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_CAPABILITIES: u64 = (1 << 41) - 1;
    const DEFAULT: u64 = crate::plan::Confinement::DEFAULT_CAPABILITIES;

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const DENIED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    /// Runs a program as the kernel does; every jump must stay inside.
    fn run(program: &[Insn], arch: u32, number: u32, args: [u64; 2]) -> u32 {
        let (mut at, mut accumulator, mut steps) = (0, 0u32, 0);
        loop {
            let insn = program[at];
            at += 1;
            steps += 1;
            assert!(steps < 30, "a path of more than 30 instructions");
            let holds = match insn.code {
                LOAD => {
                    accumulator = match insn.k {
                        NUMBER => number,
                        ARCHITECTURE => arch,
                        offset => {
                            let index = ARGUMENT.iter().position(|a| *a == offset).unwrap();
                            args[index] as u32
                        }
                    };
                    continue;
                }
                RETURN => return insn.k,
                JUMP_EQUAL => accumulator == insn.k,
                JUMP_AT_LEAST => accumulator >= insn.k,
                JUMP_ANY_BIT => accumulator & insn.k != 0,
                code => panic!("unknown instruction {code:#x}"),
            };
            at += usize::from(if holds { insn.jt } else { insn.jf });
        }
    }

    fn call(capabilities: u64, number: libc::c_long, args: [u64; 2]) -> u32 {
        run(&filter(capabilities), ARCH, number as u32, args)
    }

    #[test]
    fn the_program_does_for_every_number_what_the_table_says() {
        let single = (0..41).map(|bit| DEFAULT | 1 << bit);
        for capabilities in single.chain([0, DEFAULT, ALL_CAPABILITIES, u64::MAX]) {
            let (program, rules) = (filter(capabilities), rules(capabilities));
            assert!(program.len() < 200, "{} instructions", program.len());
            for number in (0..1024).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX]) {
                let got = run(&program, ARCH, number, [0, 0]);
                match rules.get(number as usize) {
                    Some(Rule::Allow) => assert_eq!(got, ALLOWED, "{number}"),
                    Some(Rule::Deny) => assert_eq!(got, DENIED, "{number}"),
                    Some(Rule::Missing) | None => assert_eq!(got, MISSING, "{number}"),
                    // With arguments of 0 each of them is harmless.
                    Some(Rule::Check(_)) => assert_eq!(got, ALLOWED, "{number}"),
                }
            }
        }
    }

    #[test]
    fn another_abi_is_killed() {
        for arch in [0x4000_0003, 0x4000_0028, 0xc000_003e ^ 0xc000_00b7 ^ ARCH, 0, u32::MAX] {
            let got = run(&filter(u64::MAX), arch, 1, [0, 0]);
            assert_eq!(got, libc::SECCOMP_RET_KILL_PROCESS, "{arch:#x}");
        }
    }

    #[test]
    fn arguments_are_checked_in_the_half_that_the_kernel_reads() {
        let high = 0xdead_0000_0000;
        let cases = [
            (libc::SYS_clone, [0x11, 0], ALLOWED),
            (libc::SYS_clone, [0x3d_0f00, 0], ALLOWED),
            (libc::SYS_clone, [0x1000_0011 | high, 0], DENIED),
            (libc::SYS_clone, [0x2_0000, 0], DENIED),
            (libc::SYS_clone3, [0, 0], MISSING),
            (libc::SYS_ioctl, [0, 0x5401], ALLOWED),
            (libc::SYS_ioctl, [0x5412, 0x5413], ALLOWED),
            (libc::SYS_ioctl, [0, 0x5412 | high], DENIED),
            (libc::SYS_ioctl, [0, 0x541c], DENIED),
            (libc::SYS_personality, [0xffff_ffff, 0], ALLOWED),
            (libc::SYS_personality, [0x8 | high, 0], ALLOWED),
            (libc::SYS_personality, [0x40000, 0], DENIED),
            (libc::SYS_socket, [2, 0], ALLOWED),
            (libc::SYS_socket, [39, 0], ALLOWED),
            (libc::SYS_socket, [40 | high, 0], DENIED),
            (libc::SYS_socket, [38, 0], DENIED),
        ];
        for (number, args, wanted) in cases {
            assert_eq!(call(DEFAULT, number, args), wanted, "{number} {args:x?}");
        }
        assert_eq!(call(ALL_CAPABILITIES, libc::SYS_clone, [0x1000_0000, 0]), ALLOWED);
        assert_eq!(call(ALL_CAPABILITIES, libc::SYS_clone3, [0, 0]), ALLOWED);
        assert_eq!(call(ALL_CAPABILITIES, libc::SYS_ioctl, [0, 0x5412]), DENIED);
    }

    #[test]
    fn what_a_container_needs_is_allowed_and_what_breaks_out_is_not() {
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_rseq,
            libc::SYS_futex,
            libc::SYS_setresuid,
            libc::SYS_mknodat,
            libc::SYS_chroot,
            libc::SYS_ptrace,
        ] {
            assert_eq!(call(DEFAULT, number, [0, 0]), ALLOWED, "{number}");
        }
        for number in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_move_mount,
            libc::SYS_perf_event_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_swapon,
        ] {
            assert_eq!(call(DEFAULT, number, [0, 0]), DENIED, "{number}");
        }
    }
}
