//! Mutations of inputs, as libFuzzer makes them, for where there is no libFuzzer: without an eye on what they reach.
use fastrand::Rng;

/// Numbers by which arithmetic goes wrong.
const NUMBERS: [u64; 12] = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, u32::MAX as u64, u64::MAX];

/// Makes inputs of seeds.
pub struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    words: Vec<Vec<u8>>,
    len_max: usize,
    rng: Rng,
}

impl<'a> Mutator<'a> {
    /// Of these seeds, with the words of a dictionary in libFuzzer's form. Which ones come is another matter each time, but with
    /// `VONIC_FUZZ_SEED`.
    pub fn new(seeds: &'a [Vec<u8>], dictionary: &str, len_max: usize) -> Mutator<'a> {
        let seed = std::env::var("VONIC_FUZZ_SEED").ok().map(|seed| seed.parse().unwrap());
        let rng = Rng::with_seed(seed.unwrap_or_else(|| fastrand::u64(..)));
        Mutator { seeds, words: dictionary.lines().filter_map(word).collect(), len_max, rng }
    }

    fn seed(&mut self) -> &'a [u8] {
        let which = self.rng.usize(..self.seeds.len());
        &self.seeds[which]
    }

    /// The next input.
    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed().to_vec();
        let most = 1 << self.rng.u32(..5);
        for _ in 0..1 + self.rng.usize(..most) {
            self.change(&mut input);
        }
        input.truncate(self.len_max);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.usize(..=input.len());
        let end = (at + self.rng.usize(..64)).min(input.len());
        match self.rng.u32(..9) {
            0 if at < input.len() => input[at] ^= 1 << self.rng.u32(..8),
            1 if at < input.len() => input[at] = self.rng.u8(..),
            2 => drop(input.drain(at..end)),
            3 => {
                let part = input[at..end].to_vec();
                let to = self.rng.usize(..=input.len());
                input.splice(to..to, part);
            }
            4 if !self.words.is_empty() => {
                let word = self.words[self.rng.usize(..self.words.len())].clone();
                let over = if self.rng.bool() { (at + word.len()).min(input.len()) } else { at };
                input.splice(at..over, word);
            }
            5 => {
                let other = self.seed();
                let from = self.rng.usize(..=other.len());
                let to = (from + self.rng.usize(..200)).min(other.len());
                let over = if self.rng.bool() { end } else { at };
                input.splice(at..over, other[from..to].iter().copied());
            }
            6 => {
                let number = NUMBERS[self.rng.usize(..NUMBERS.len())].wrapping_add_signed(self.rng.i64(-1..=1));
                let width = 1 << self.rng.u32(..4);
                let mut bytes = number.to_le_bytes()[..width].to_vec();
                if self.rng.bool() {
                    bytes.reverse();
                }
                let over = (at + width).min(input.len());
                input.splice(at..over, bytes);
            }
            7 if at < input.len() => input[at] = input[at].wrapping_add_signed(self.rng.i8(-16..=16)),
            _ => {
                let byte = self.rng.u8(..);
                let count = self.rng.usize(..9);
                input.splice(at..at, std::iter::repeat_n(byte, count));
            }
        }
    }
}

/// A line of a dictionary: `name="bytes"`, in which `\xNN`, `\\` and `\"` stand for bytes.
fn word(line: &str) -> Option<Vec<u8>> {
    let text = line.trim().split_once('"').filter(|(name, _)| !name.starts_with('#'))?.1.strip_suffix('"')?;
    let (mut out, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        let escaped = if byte == b'\\' { Some(rest.next()?) } else { None };
        match escaped {
            Some(b'x') => {
                let digits = [rest.next()?, rest.next()?];
                out.push(u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => out.push(other.unwrap_or(byte)),
        }
    }
    Some(out)
}
