//! Runs a compiled filter. Only `core`, no allocation and no panic: the stage includes this file.
//!
//! It knows the instructions that the compiler writes; whatever else it meets ends the process, as does a program that
//! runs off its end.

/// `SECCOMP_RET_KILL_PROCESS`
const KILL: u32 = 0x8000_0000;
/// The kernel takes no longer program (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// What the program says of a call: `data` is the kernel's `struct seccomp_data`, 64 bytes.
pub(crate) fn interpret(code: &[u8], data: &[u8]) -> u32 {
    run(code, data).map_or(KILL, |(verdict, _)| verdict)
}

/// The verdict, and how many instructions it took.
pub(crate) fn run(code: &[u8], data: &[u8]) -> Option<(u32, usize)> {
    let mut accumulator = 0;
    let mut next = 0_usize;
    // Jumps only go forward, so no run is longer than the program.
    for steps in 1..=LONGEST {
        let [c0, c1, jt, jf, k0, k1, k2, k3] = *code.get(next.checked_mul(8)?..)?.first_chunk::<8>()?;
        let k = u32::from_ne_bytes([k0, k1, k2, k3]);
        let mut skip = 0;
        let mut branch = |taken: bool| skip = usize::from(if taken { jt } else { jf });
        match u16::from_ne_bytes([c0, c1]) {
            LOAD => accumulator = load(data, k)?,
            AND => accumulator &= k,
            JUMP => skip = usize::try_from(k).ok()?,
            JUMP_EQ => branch(accumulator == k),
            JUMP_GT => branch(accumulator > k),
            JUMP_GE => branch(accumulator >= k),
            JUMP_SET => branch(accumulator & k != 0),
            RETURN => return Some((k, steps)),
            _ => return None,
        }
        next = next.checked_add(skip)?.checked_add(1)?;
    }
    None
}

/// As the kernel does: a word of the 64 bytes, at a multiple of four.
fn load(data: &[u8], offset: u32) -> Option<u32> {
    if !offset.is_multiple_of(4) || offset >= 64 {
        return None;
    }
    data.get(usize::try_from(offset).ok()?..)?.first_chunk::<4>().map(|word| u32::from_ne_bytes(*word))
}
