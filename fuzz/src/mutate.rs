//! Changes inputs. The same number always gives the same change.

/// The longest input that is made, in bytes.
const LENGTH_MAX: usize = 64 << 10;

/// Numbers at which arithmetic goes wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    1 << 16,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Texts that mean something to one parser or another.
const TEXTS: [&[u8]; 16] = [
    b"[",
    b"{\"",
    b"\\",
    b"\"",
    b"'",
    b"$(",
    b"\n",
    b":",
    b" - ",
    b"-1",
    b"1e999",
    b"\x1b[2J",
    "\u{202e}".as_bytes(),
    b"\xff",
    b"\xc3",
    b"/../",
];

/// One of these inputs, which is chosen by `index`, with one to eight changes.
pub fn mutated(kept: &[&[u8]], index: u64) -> Vec<u8> {
    let mut dice = Dice(index);
    let mut bytes = kept[dice.below(kept.len())].to_vec();
    for _ in 0..1 + dice.below(8) {
        change(&mut bytes, kept, &mut dice);
        bytes.truncate(LENGTH_MAX);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, kept: &[&[u8]], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    match dice.below(10) {
        0 => flip(bytes, at, dice),
        1 => overwrite(bytes, at, &[dice.next() as u8]),
        2 => overwrite(bytes, at, &dice.number()),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..at + dice.below(bytes.len() - at + 1).min(64))),
        5 => insert(bytes, at, TEXTS[dice.below(TEXTS.len())]),
        6 => decimal(bytes, at, dice),
        7 => {
            // A part of it, many times over: long lists and deep nesting.
            let part = bytes[at..].iter().take(1 + dice.below(40)).copied().collect::<Vec<_>>();
            insert(bytes, at, &part.repeat(1 + dice.below(200)));
        }
        8 => {
            let other = kept[dice.below(kept.len())];
            let from = dice.below(other.len() + 1);
            let part = &other[from..from + dice.below(other.len() - from + 1)];
            if dice.below(2) == 0 { insert(bytes, at, part) } else { overwrite(bytes, at, part) }
        }
        _ => {
            let other = dice.below(bytes.len().max(1));
            if at < bytes.len() {
                bytes.swap(at, other);
            }
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << dice.below(8);
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..].iter_mut().zip(with).for_each(|(byte, new)| *byte = *new);
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    bytes.splice(at..at, part.iter().copied());
}

/// Puts another number in the place of the next one that is written in decimal digits.
fn decimal(bytes: &mut Vec<u8>, from: usize, dice: &mut Dice) {
    let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit) else { return };
    let start = from + start;
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = NUMBERS[dice.below(NUMBERS.len())].to_string();
    bytes.splice(start..start + length, number.into_bytes());
}

/// Numbers without an order that matters (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `end`, 0 where there is none.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A number as bytes of some width and order.
    fn number(&mut self) -> Vec<u8> {
        let number = NUMBERS[self.below(NUMBERS.len())];
        let number = number.wrapping_add(self.next() % 3).wrapping_sub(1);
        let width = [1, 2, 4, 8][self.below(4)];
        match self.below(2) {
            0 => number.to_le_bytes()[..width].to_vec(),
            _ => number.to_be_bytes()[8 - width..].to_vec(),
        }
    }
}
