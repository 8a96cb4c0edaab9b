//! Server-sent events as any server may write them: LF, CRLF or CR, comments, fields that do not matter, an event cut
//! anywhere.

/// An event longer than this is none, bytes.
const MAX_EVENT: usize = 4 << 20;

/// Takes a stream of bytes apart.
#[derive(Debug, Default)]
pub struct Parser {
    /// A line that is not whole yet.
    line: Vec<u8>,
    /// The `data` of the event that is being read.
    data: Option<Vec<u8>>,
    /// The last byte was a CR: a LF now belongs to it.
    after_cr: bool,
    /// A line has been read: the first may begin with a byte order mark.
    begun: bool,
}

/// An event, or a line, that does not end.
#[derive(Debug, PartialEq)]
pub struct TooLong;

impl Parser {
    /// Takes bytes in; `take` is shown the data of each event that they complete.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), TooLong> {
        for &byte in bytes {
            let ends = match byte {
                b'\n' if self.after_cr => {
                    self.after_cr = false;
                    continue;
                }
                b'\n' | b'\r' => true,
                _ => false,
            };
            self.after_cr = byte == b'\r';
            if !ends {
                if self.line.len() + self.data.as_ref().map_or(0, Vec::len) >= MAX_EVENT {
                    return Err(TooLong);
                }
                self.line.push(byte);
                continue;
            }
            if self.line.is_empty() {
                if let Some(data) = self.data.take() {
                    take(&data);
                }
                continue;
            }
            self.field();
            self.line.clear();
        }
        Ok(())
    }

    /// The end of the stream: some servers forget the empty line after their last event.
    pub fn end(mut self, mut take: impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            self.field();
        }
        if let Some(data) = self.data.take() {
            take(&data);
        }
    }

    fn field(&mut self) {
        let begins = !std::mem::replace(&mut self.begun, true);
        let line = self.line.strip_prefix(b"\xef\xbb\xbf").filter(|_| begins).unwrap_or(&self.line);
        let Some(value) = line.strip_prefix(b"data") else { return };
        let value = match value {
            [] => value,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            _ => return,
        };
        match &mut self.data {
            None => self.data = Some(value.to_vec()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        let mut take = |data: &[u8]| out.push(String::from_utf8_lossy(data).into_owned());
        pieces.iter().for_each(|piece| parser.push(piece, &mut take).unwrap());
        parser.end(take);
        out
    }

    #[test]
    fn every_way_to_write_events_is_read_and_wherever_they_are_cut() {
        let text =
            b": hello\n\ndata: a\n\nevent: x\r\ndata:b\r\ndata: c\r\n\r\nid: 7\rdata\r\rdatum: no\n\ndata: [DONE]";
        let expected = ["a", "b\nc", "", "[DONE]"];
        assert_eq!(events(&[text]), expected);
        for at in 0..text.len() {
            assert_eq!(events(&[&text[..at], &text[at..]]), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(events(&bytes), expected);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_field() {
        let text = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n";
        for at in 0..text.len() {
            assert_eq!(events(&[&text[..at], &text[at..]]), ["a"], "cut at {at}");
        }
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let mut given_up = false;
        for _ in 0..8 {
            given_up |= parser.push(&piece, |_| ()) == Err(TooLong);
        }
        assert!(given_up);
    }
}
