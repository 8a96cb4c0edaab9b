//! What every token id stands for.

/// The bytes of every id, one behind the other.
pub struct Vocabulary {
    bytes: Vec<u8>,
    /// Id `i` is `bytes[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
}

impl Vocabulary {
    /// From the bytes of each id in turn.
    pub fn new(tokens: impl Iterator<Item = Vec<u8>>) -> Self {
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for token in tokens {
            bytes.extend(token);
            starts.push(bytes.len());
        }
        Self { bytes, starts }
    }

    /// The bytes of a token; none of an id that is not there.
    pub fn bytes(&self, id: u32) -> &[u8] {
        match self.starts.get(id as usize..).and_then(|s| s.get(..2)) {
            Some(range) => &self.bytes[range[0]..range[1]],
            None => &[],
        }
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_bytes_and_others_none() {
        let vocabulary = Vocabulary::new([&b"ab"[..], b"", b"\xff"].map(<[u8]>::to_vec).into_iter());
        assert_eq!(vocabulary.len(), 3);
        assert_eq!([0, 1, 2, 3, u32::MAX].map(|id| vocabulary.bytes(id)), [&b"ab"[..], b"", b"\xff", b"", b""]);
    }
}
