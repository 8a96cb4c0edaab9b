//! Files that are right, and files that are mutilated.

use super::*;

/// Writes small GGUF files.
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn new(tensors: u64, entries: u64) -> Self {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        Self(bytes)
    }
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    pub fn u32(self, n: u32) -> Self {
        self.raw(&n.to_le_bytes())
    }
    pub fn u64(self, n: u64) -> Self {
        self.raw(&n.to_le_bytes())
    }
    pub fn string(self, s: &str) -> Self {
        self.u64(s.len() as u64).raw(s.as_bytes())
    }
    pub fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let named = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(named, |w, d| w.u64(*d)).u32(kind).u64(offset)
    }
    pub fn data(mut self, bytes: usize) -> Self {
        let at = self.0.len().next_multiple_of(32);
        self.0.resize(at + bytes, 7);
        self
    }
    pub fn parse(self) -> Result<Gguf, GgufError> {
        Gguf::parse(Mapped::Owned(self.0))
    }
}

/// One entry of every shape, two tensors.
fn whole() -> Writer {
    Writer::new(2, 4)
        .string("general.name")
        .u32(8)
        .string("小 model")
        .string("a.count")
        .u32(4)
        .u32(42)
        .string("a.flag")
        .u32(7)
        .raw(&[1])
        .string("a.list")
        .u32(9)
        .u32(8)
        .u64(2)
        .string("one")
        .string("zwei")
        .tensor("w", &[32, 2], 3, 0)
        .tensor("b", &[4], 0, 64)
        .data(64 + 16)
}

fn error(writer: Writer) -> String {
    match writer.parse() {
        Ok(_) => panic!("accepted"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_whole_file_is_read() {
    let file = whole().parse().unwrap();
    assert_eq!(file.str("general.name").unwrap(), "小 model");
    assert_eq!(file.u64("a.count").unwrap(), 42);
    assert_eq!(file.get("a.flag").unwrap().as_bool(), Some(true));
    assert_eq!(file.strings("a.list").unwrap(), ["one", "zwei"]);
    assert_eq!(file.tensors().len(), 2);
    assert_eq!(file.data(&file.tensors()[0]).len(), 40);
    assert_eq!(file.data(&file.tensors()[1]), [7; 16]);
}

#[test]
fn every_truncation_is_an_error_and_none_panics() {
    let bytes = whole().0;
    for end in 0..bytes.len() {
        assert!(Gguf::parse(Mapped::Owned(bytes[..end].to_vec())).is_err(), "cut at {end} of {}", bytes.len());
    }
}

#[test]
fn no_changed_byte_panics() {
    let bytes = whole().0;
    for at in 0..bytes.len() - 80 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            if let Ok(file) = Gguf::parse(Mapped::Owned(changed)) {
                for tensor in file.tensors() {
                    file.data(tensor);
                }
                file.fingerprint();
            }
        }
    }
}

#[test]
fn absurd_counts_are_refused_before_allocation() {
    assert!(error(Writer::new(u64::MAX, 0)).contains("tensors cannot be"));
    assert!(error(Writer::new(0, 1 << 60)).contains("metadata entries cannot be"));
    let list = Writer::new(0, 1).string("k").u32(9).u32(8).u64(1 << 62);
    assert!(error(list).contains("elements of 'k' cannot be"));
    let string = Writer::new(0, 1).string("k").u32(8).u64(u64::MAX).data(64);
    assert!(error(string).contains("cut short"));
    let dims = Writer::new(1, 0).tensor("w", &[1 << 40, 1 << 40], 0, 0).data(64);
    assert!(error(dims).contains("impossible dimensions"));
}

#[test]
fn damaged_tables_are_refused_by_name() {
    assert!(error(Writer::new(1, 0).tensor("w", &[32], 0, 0).data(64)).contains("'w'"));
    assert!(error(Writer::new(1, 0).tensor("w", &[16], 0, 32).data(64)).contains("cut short"));
    assert!(error(Writer::new(1, 0).tensor("w", &[16], 0, 7).data(128)).contains("alignment"));
    assert!(error(Writer::new(1, 0).tensor("w", &[30], 3, 0).data(128)).contains("multiple of 32"));
    assert!(error(Writer::new(1, 0).tensor("w", &[32], 77, 0).data(128)).contains("type 77"));
    assert!(error(Writer::new(1, 0).tensor("w", &[], 0, 0).data(128)).contains("0 dimensions"));
    assert!(error(Writer::new(1, 0).tensor("w", &[0], 0, 0).data(128)).contains("impossible"));
    let overlap = Writer::new(2, 0).tensor("w", &[16], 0, 0).tensor("x", &[16], 0, 32).data(128);
    assert!(error(overlap).contains("'x': its bytes overlap those of 'w'"));
    let twice = Writer::new(2, 0).tensor("w", &[8], 0, 0).tensor("w", &[8], 0, 32).data(128);
    assert!(error(twice).contains("'w' is used twice"));
}

#[test]
fn foreign_files_are_told_apart() {
    assert!(error(Writer(b"PK\x03\x04 a zip file".to_vec())).contains("not a GGUF file"));
    assert!(error(Writer(b"GGUF".to_vec()).u32(1)).contains("version 1"));
    assert!(error(Writer::new(0, 1).string("k").u32(99).data(64)).contains("unknown value type 99"));
    assert!(error(Writer::new(0, 1).u64(2).raw(&[0xff, 0xfe]).data(64)).contains("not UTF-8"));
    let deep = (0..9).fold(Writer::new(0, 1).string("k").u32(9), |w, _| w.u32(9).u64(1)).data(64);
    assert!(error(deep).contains("nests arrays"));
}
