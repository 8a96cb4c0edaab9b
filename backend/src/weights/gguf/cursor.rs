//! Reading little-endian values from bytes that may end anywhere.

use super::GgufError;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at.min(self.bytes.len())) as u64
    }

    /// The next `n` bytes; `what` names them in the error.
    pub fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], GgufError> {
        let left = self.left();
        if n > left {
            return Err(GgufError::Truncated { what: what.into(), at: self.at as u64, need: n, left });
        }
        let taken = &self.bytes[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u8(&mut self, what: &str) -> Result<u8, GgufError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn u16(&mut self, what: &str) -> Result<u16, GgufError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length of 64 bits, then as many bytes of UTF-8.
    pub fn string(&mut self, what: &str) -> Result<&'a str, GgufError> {
        let len = self.u64(what)?;
        let at = self.at as u64;
        std::str::from_utf8(self.take(len, what)?).map_err(|_| GgufError::Utf8 { what: what.into(), at })
    }

    /// Refuses a count whose entries, at `smallest` bytes each, would not fit in what is left.
    pub fn check_count(&self, what: &str, count: u64, smallest: u64) -> Result<(), GgufError> {
        let left = self.left();
        let most = left / smallest;
        if count > most {
            return Err(GgufError::Count { what: what.into(), found: count, most, left });
        }
        Ok(())
    }
}
