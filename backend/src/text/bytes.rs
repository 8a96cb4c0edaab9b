//! The byte alphabet of byte-level BPE (GPT-2's `bytes_to_unicode`): every byte has a printable character.

/// The byte a character of the alphabet stands for.
pub fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        // Printable characters stand for themselves.
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        // The other bytes follow from U+0100 on, in their order.
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes of a token written in the alphabet; None if it holds a character that is not of it.
pub fn decode(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [false; 256];
        for byte in (0..0x200).filter_map(char::from_u32).filter_map(byte_of) {
            assert!(!seen[usize::from(byte)], "{byte:#x} twice");
            seen[usize::from(byte)] = true;
        }
        assert!(seen.iter().all(|s| *s));
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('a')), (Some(b' '), Some(b'\n'), Some(b'a')));
        assert_eq!(byte_of('中'), None);
    }
}
