//! The table of a safetensors file: a length, a JSON header, then the tensors, one behind the other.
//!
//! The `safetensors` crate checks it: offsets that leave no gap and do not overlap, sizes that fit shapes and types, a file
//! that ends where the last tensor does. Its errors rarely name the tensor; [`explain`] looks for it.

use std::ops::Range;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use super::tensor::Kind;

/// Bytes of the header's length.
const LENGTH: usize = 8;
/// No header is longer, bytes. (The crate's limit; the largest known has a hundredth of it.)
const MOST: u64 = 100_000_000;

/// A tensor of the file: where its bytes lie, and of what kind they are. The shape comes outermost first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    pub kind: Kind,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// The tensors of a file, in the order of their bytes, and the length of all that stands before them. An error says what is
/// wrong, without the file's name.
pub(super) fn read(bytes: &[u8]) -> Result<(usize, Vec<Entry>), String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| explain(bytes, &e.to_string()))?;
    let data = LENGTH + header;
    let mut entries: Vec<Entry> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Entry {
            name,
            kind: kind(info.dtype),
            shape: info.shape.clone(),
            range: data + info.data_offsets.0..data + info.data_offsets.1,
        })
        .collect();
    entries.sort_by(|a, b| (a.range.start, &a.name).cmp(&(b.range.start, &b.name)));
    Ok((data, entries))
}

fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::F32,
        Dtype::F16 => Kind::F16,
        Dtype::BF16 => Kind::BF16,
        Dtype::F8_E4M3 => Kind::F8E4M3,
        Dtype::F8_E8M0 => Kind::F8E8M0,
        Dtype::I8 => Kind::I8,
        Dtype::U8 => Kind::U8,
        Dtype::I32 => Kind::I32,
        Dtype::I64 => Kind::I64,
        Dtype::BOOL => Kind::Other("BOOL"),
        Dtype::F64 => Kind::Other("F64"),
        Dtype::F8_E5M2 => Kind::Other("F8_E5M2"),
        Dtype::F4 => Kind::Other("F4"),
        Dtype::I16 => Kind::Other("I16"),
        Dtype::U16 => Kind::Other("U16"),
        Dtype::U32 => Kind::Other("U32"),
        Dtype::U64 => Kind::Other("U64"),
        _ => Kind::Other("of a rare type"),
    }
}

/// What is wrong with a file that the crate refused, in words that help; its own words where nothing else is found.
fn explain(bytes: &[u8], refused: &str) -> String {
    if bytes.starts_with(b"version https://git-lfs") {
        return "a Git LFS pointer, not the file itself: `git lfs pull` fetches it".into();
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return format!("cut short: {} bytes, less than a header's length; fetch the file again", bytes.len());
    };
    let (length, there) = (u64::from_le_bytes(*length), rest.len() as u64);
    if length > MOST {
        return format!("not a safetensors file: its header would be {length} bytes long");
    }
    if length > there {
        return format!("cut short: the header needs {length} bytes and {there} are there; fetch the file again");
    }
    let (header, data) = rest.split_at(length as usize);
    let table: Map<String, Value> = match serde_json::from_slice(header) {
        Ok(table) => table,
        Err(e) => return format!("not a safetensors file, or damaged: the header is no JSON object: {e}"),
    };
    culprit(&table, data.len() as u64).unwrap_or_else(|| format!("damaged: {refused}"))
}

/// The first tensor whose entry cannot be.
fn culprit(table: &Map<String, Value>, data: u64) -> Option<String> {
    let mut placed = Vec::new();
    for (name, entry) in table.iter().filter(|(name, _)| *name != "__metadata__") {
        let dtype = &entry["dtype"];
        let Ok(known) = serde_json::from_value::<Dtype>(dtype.clone()) else {
            return Some(format!("tensor '{name}': the element type {dtype} is not known"));
        };
        let shape: Option<Vec<u64>> = entry["shape"].as_array().and_then(|s| s.iter().map(Value::as_u64).collect());
        let Some(shape) = shape else {
            return Some(format!("tensor '{name}': its shape {} is no list of whole numbers", entry["shape"]));
        };
        let offsets = (entry["data_offsets"][0].as_u64(), entry["data_offsets"][1].as_u64());
        let (Some(begin), Some(end)) = offsets else {
            return Some(format!("tensor '{name}': its offsets {} are not two numbers", entry["data_offsets"]));
        };
        let bits = shape.iter().try_fold(known.bitsize() as u64, |n, d| n.checked_mul(*d));
        let Some(bytes) = bits.map(|bits| bits.div_ceil(8)) else {
            return Some(format!("tensor '{name}': impossible dimensions {shape:?}"));
        };
        if end.checked_sub(begin) != Some(bytes) {
            return Some(format!(
                "tensor '{name}': {dtype} of shape {shape:?} is {bytes} bytes long, and its offsets are {begin} to {end}"
            ));
        }
        placed.push((begin, end, name));
    }
    placed.sort_unstable();
    let mut before = (0, "the header");
    for (begin, end, name) in placed {
        if begin != before.0 {
            let how = if begin < before.0 { "overlaps" } else { "leaves a gap after" };
            return Some(format!("tensor '{name}' {how} {}: it begins at {begin}, not at {}", before.1, before.0));
        }
        before = (end, name);
    }
    match before.0.cmp(&data) {
        std::cmp::Ordering::Greater => Some(format!(
            "cut short: the tensors are {} bytes long and {data} are there; fetch the file again",
            before.0
        )),
        std::cmp::Ordering::Less => Some(format!("damaged: {} bytes follow the last tensor", data - before.0)),
        std::cmp::Ordering::Equal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.resize(out.len() + data, 1);
        out
    }

    const WHOLE: &str = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},
        "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "c":{"dtype":"F8_E8M0","shape":[],"data_offsets":[20,21]}}"#;

    fn wrong(header: &str, data: usize) -> String {
        read(&file(header, data)).unwrap_err()
    }

    #[test]
    fn a_whole_file_is_read_in_the_order_of_its_bytes() {
        let bytes = file(WHOLE, 21);
        let (header, entries) = read(&bytes).unwrap();
        assert_eq!(header, bytes.len() - 21);
        let summary: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.kind, e.range.len())).collect();
        assert_eq!(summary, [("a", Kind::F32, 8), ("b", Kind::BF16, 12), ("c", Kind::F8E8M0, 1)]);
        assert_eq!(entries[1].shape, [2, 3]);
    }

    #[test]
    fn what_is_wrong_is_said_by_name() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        assert!(wrong(&one("F32", "[2]", "[0,9]"), 9).contains("tensor 'w': \"F32\" of shape [2] is 8 bytes long"));
        assert!(wrong(&one("F99", "[2]", "[0,8]"), 8).contains("element type \"F99\" is not known"));
        assert!(wrong(&one("F32", "[2]", "[0,8]"), 7).contains("cut short: the tensors are 8 bytes long and 7"));
        assert!(wrong(&one("F32", "[2]", "[0,8]"), 11).contains("3 bytes follow"));
        assert!(wrong(&one("F32", "[-2]", "[0,8]"), 8).contains("no list of whole numbers"));
        assert!(wrong(&one("F32", "[2]", "[8,0]"), 8).contains("offsets are 8 to 0"));
        assert!(wrong(&one("F32", "[2]", "[4,12]"), 12).contains("gap after the header"));
        assert!(wrong(&one("F32", "[4294967296,4294967296,4]", "[0,8]"), 8).contains("impossible dimensions"));
        let two = r#"{"v":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"w":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}"#;
        assert!(wrong(two, 12).contains("tensor 'w' overlaps v"));
        assert!(wrong("[]", 0).contains("no JSON object"));
        assert!(wrong("{", 0).contains("no JSON object"));
        assert!(read(&[1, 2]).unwrap_err().contains("cut short"));
        assert!(read(&[200, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap_err().contains("needs 200 bytes and 1"));
        assert!(read(b"version https://git-lfs.example/spec/v1\n").unwrap_err().contains("git lfs pull"));
        assert!(read(&[0xff; 64]).unwrap_err().contains("not a safetensors file"));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = file(WHOLE, 21);
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
        }
    }
}
