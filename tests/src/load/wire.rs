//! HTTP/1.1 as a load generator needs it: requests made once, answers counted and not kept.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest head of an answer, bytes.
const MAX_HEAD: usize = 16 << 10;
/// As much of a refusal is kept, bytes.
const MAX_REFUSAL: usize = 500;

/// A keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    reader: Reader,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 16 << 10].into(), reader: Reader::default() })
    }

    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.reader = Reader::default();
        self.stream.write_all(request).await
    }

    /// Reads an answer to its end; `events` hears of server-sent events as they come. One without status 200 is an
    /// error that says what the answer said.
    pub async fn receive(&mut self, mut events: impl FnMut(u64)) -> io::Result<()> {
        while !self.more(&mut events).await? {}
        match self.reader.status {
            200 => Ok(()),
            status => {
                let said = String::from_utf8_lossy(&self.reader.refusal);
                Err(io::Error::other(format!("status {status}: {said}")))
            }
        }
    }

    /// Returns when an event has come; an answer that ends without one is an error.
    pub async fn first_event(&mut self) -> io::Result<()> {
        let mut seen = 0;
        while seen == 0 {
            if self.more(&mut |events| seen += events).await? && seen == 0 {
                return Err(io::Error::other(format!("status {} and no event", self.reader.status)));
            }
        }
        Ok(())
    }

    /// Reads once; true when the answer is whole.
    async fn more(&mut self, events: &mut impl FnMut(u64)) -> io::Result<bool> {
        let count = self.stream.read(&mut self.buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = self.reader.events;
        let whole = self.reader.take(&self.buffer[..count])?;
        events(self.reader.events - before);
        Ok(whole)
    }
}

/// Where in an answer the next byte is.
#[derive(Debug, Default)]
enum At {
    #[default]
    Head,
    /// So many bytes of a body with a length are left.
    Body(usize),
    /// In the line with a chunk's size, which so far is this.
    Size(usize),
    /// After the digits of the size.
    SizeEnd(usize),
    Chunk(usize),
    /// So many bytes of the line end after a chunk are left.
    ChunkEnd(usize),
    /// So many bytes of the line end after the last chunk are left.
    Last(usize),
    End,
}

/// Reads one answer, in pieces as they come.
#[derive(Debug, Default)]
struct Reader {
    at: At,
    head: Vec<u8>,
    status: u16,
    /// The beginning of a body that is not that of a success.
    refusal: Vec<u8>,
    /// Blocks of server-sent events in the body so far.
    events: u64,
    line_ended: bool,
}

impl Reader {
    /// Takes the next bytes; true when the answer is whole.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while let Some(&byte) = bytes.first() {
            let used = match self.at {
                At::Head => self.head(bytes)?,
                At::Body(left) => {
                    let (used, left) = self.body(bytes, left);
                    self.at = if left == 0 { At::End } else { At::Body(left) };
                    used
                }
                At::Size(size) => {
                    self.at = match (byte as char).to_digit(16) {
                        Some(digit) if size < 1 << 28 => At::Size(size * 16 + digit as usize),
                        _ => At::SizeEnd(size),
                    };
                    1
                }
                At::SizeEnd(size) => {
                    if byte == b'\n' {
                        self.at = if size == 0 { At::Last(2) } else { At::Chunk(size) };
                    }
                    1
                }
                At::Chunk(left) => {
                    let (used, left) = self.body(bytes, left);
                    self.at = if left == 0 { At::ChunkEnd(2) } else { At::Chunk(left) };
                    used
                }
                At::ChunkEnd(left) => {
                    self.at = if left == 1 { At::Size(0) } else { At::ChunkEnd(left - 1) };
                    1
                }
                At::Last(left) => {
                    self.at = if left == 1 { At::End } else { At::Last(left - 1) };
                    1
                }
                At::End => return Err(io::Error::other("bytes after the end of an answer")),
            };
            bytes = &bytes[used..];
        }
        Ok(matches!(self.at, At::End))
    }

    /// Reads on in the head; how many bytes were of it.
    fn head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") else {
            let fits = self.head.len() < MAX_HEAD;
            return if fits { Ok(bytes.len()) } else { Err(io::Error::other("the answer's head has no end")) };
        };
        let head = std::str::from_utf8(&self.head[..end]).map_err(io::Error::other)?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        self.status = status.ok_or_else(|| io::Error::other("the answer has no status"))?;
        let value = |name: &str| {
            let mut fields = lines.clone().filter_map(|line| line.split_once(':'));
            fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        self.at = match (value("content-length").and_then(|length| length.parse().ok()), value("transfer-encoding")) {
            (_, Some("chunked")) => At::Size(0),
            (Some(0), _) => At::End,
            (Some(length), _) => At::Body(length),
            (None, _) => return Err(io::Error::other("the answer's body has neither length nor chunks")),
        };
        Ok(end + 4 - before)
    }

    /// Counts in at most `left` bytes of the body; how many were used, and how many are left.
    fn body(&mut self, bytes: &[u8], left: usize) -> (usize, usize) {
        let used = bytes.len().min(left);
        if self.status != 200 {
            let room = MAX_REFUSAL.saturating_sub(self.refusal.len());
            self.refusal.extend_from_slice(&bytes[..used.min(room)]);
        }
        for &byte in &bytes[..used] {
            let ends_line = byte == b'\n';
            self.events += u64::from(ends_line && self.line_ended);
            self.line_ended = ends_line;
        }
        (used, left - used)
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn read(text: &str, piece: usize) -> (bool, u16, u64) {
        let mut reader = Reader::default();
        let mut whole = false;
        for bytes in text.as_bytes().chunks(piece) {
            assert!(!whole);
            whole = reader.take(bytes).unwrap();
        }
        (whole, reader.status, reader.events)
    }

    #[test]
    fn answers_are_read_whatever_pieces_they_come_in() {
        let fixed = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n8\r\ndata: b\n\r\n1\r\n\n\r\n0\r\n\r\n";
        let empty = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(read(fixed, piece), (true, 200, 0), "{piece}");
            assert_eq!(read(chunked, piece), (true, 200, 2), "{piece}");
            assert_eq!(read(empty, piece), (true, 503, 0), "{piece}");
            assert!(!read(&chunked[..chunked.len() - 1], piece).0, "{piece}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in ["HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"] {
            assert!(Reader::default().take(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
