//! Choices out of an input's bytes.

/// Takes numbers off the front of an input; zeros when it is used up, so that every input means something.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Bytes<'a> {
        Bytes(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    pub(crate) fn half(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from(self.half()) << 16 | u32::from(self.half())
    }

    pub(crate) fn long(&mut self) -> u64 {
        u64::from(self.word()) << 32 | u64::from(self.word())
    }

    /// One of so many; 0 of none.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        if count <= 256 { usize::from(self.byte()) % count.max(1) } else { self.word() as usize % count }
    }

    /// One of these.
    pub(crate) fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// Up to so many bytes as they stand there; fewer at the end.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Fewer than so many, as they stand there.
    pub(crate) fn some(&mut self, end: usize) -> &'a [u8] {
        let count = self.below(end);
        self.take(count)
    }

    /// Numbers by which arithmetic goes wrong: mostly small, sometimes next to a power of two, now and then anything.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            0..160 => self.byte().into(),
            160..200 => self.half().into(),
            200..240 => {
                let bit = self.byte() % 65;
                let power = if bit == 64 { 0 } else { 1u64 << bit };
                power.wrapping_add_signed(i64::from(self.byte() as i8 % 9))
            }
            _ => self.long(),
        }
    }
}
