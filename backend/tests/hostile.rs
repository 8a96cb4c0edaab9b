//! Files that were damaged or made to do harm: every one is read or refused, none panics, and none makes the node take
//! more memory than a file of its size deserves.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use littoral_node::{
    text::{ChatTemplate, Tokenizer},
    weights::{Checkpoint, FileError},
};

/// The system's allocator, which remembers the largest piece that was asked for.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// No single piece may be larger, bytes: the files here have a few KiB.
const MOST: usize = 8 << 20;
const ROUNDS: usize = 6000;

/// Numbers that look random, always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    /// The bytes with one to three wounds: cut short, changed, counts and lengths blown up, pieces moved or repeated.
    fn wound(&mut self, whole: &[u8]) -> Vec<u8> {
        const NUMBERS: [u64; 9] = [0, 1, 7, 255, 1 << 20, 1 << 31, 1 << 40, u64::MAX / 2, u64::MAX];
        let mut bytes = whole.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(7) {
                0 => bytes.truncate(at),
                1 | 2 => bytes[at..].iter_mut().take(1).for_each(|b| *b = self.below(256) as u8),
                3 | 4 => {
                    let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                    let width = [1, 4, 8][self.below(3)];
                    bytes[at..].iter_mut().zip(&number[..width]).for_each(|(b, n)| *b = *n);
                }
                5 => {
                    let piece = bytes[at..(at + self.below(40)).min(bytes.len())].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => {
                    let digits = ["99999999999999999999", "-1", "0", "1e400", "\"", "}", "[[[[", "null"];
                    let to = (at + self.below(9)).min(bytes.len());
                    bytes.splice(at..to, digits[self.below(digits.len())].bytes());
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }
}

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("littoral-hostile-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        // Another file each time: the one before may still be mapped.
        let path = self.0.join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens a model and looks at everything in it. Whether it could be opened.
fn look(path: &Path) -> Result<(), FileError> {
    let checkpoint = Checkpoint::open(path)?;
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).unwrap();
        assert!(tensor.bytes.len() < MOST);
        checkpoint.forget(&tensor);
    }
    checkpoint.fingerprint()?;
    if let Some(tokenizer) = Tokenizer::open(&checkpoint)? {
        tokenizer.decode(&tokenizer.encode("some text <s>"));
        ChatTemplate::open(&checkpoint, &tokenizer)?;
    }
    Ok(())
}

/// Wounds a file of a model again and again. Gives how many could still be opened.
fn survive(seed: u64, whole: &[u8], write: impl Fn(&[u8]) -> PathBuf) -> usize {
    let mut dice = Dice(seed);
    let mut opened = 0;
    look(&write(whole)).unwrap();
    for round in 0..ROUNDS {
        let bytes = dice.wound(whole);
        let path = write(&bytes);
        LARGEST.store(0, Relaxed);
        let looked = catch_unwind(AssertUnwindSafe(|| look(&path)));
        let largest = LARGEST.load(Relaxed);
        match looked {
            Ok(Ok(())) => opened += 1,
            Ok(Err(error)) => assert!(!error.to_string().is_empty()),
            Err(_) => panic!("round {round}: it panics over these bytes: {bytes:?}"),
        }
        assert!(largest < MOST, "round {round}: {largest} bytes at once for a file of {}: {bytes:?}", bytes.len());
    }
    opened
}

/// A small GGUF file of the llama architecture with a tokenizer and a template.
fn gguf() -> Vec<u8> {
    let string = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    let entry = |key: &str, kind: u32, value: &[u8]| [&string(key)[..], &kind.to_le_bytes(), value].concat();
    let text = |key: &str, value: &str| entry(key, 8, &string(value));
    let number = |key: &str, value: u32| entry(key, 4, &value.to_le_bytes());
    let strings = |key: &str, items: &[&str]| {
        let mut value = 8u32.to_le_bytes().to_vec();
        value.extend((items.len() as u64).to_le_bytes());
        items.iter().for_each(|item| value.extend(string(item)));
        entry(key, 9, &value)
    };
    let metadata = [
        text("general.architecture", "llama"),
        number("llama.embedding_length", 8),
        number("llama.block_count", 1),
        number("llama.attention.head_count", 2),
        number("llama.context_length", 64),
        number("llama.feed_forward_length", 16),
        entry("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes()),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "gpt-2"),
        strings("tokenizer.ggml.tokens", &["a", "b", "ab", "<s>", "Ġ"]),
        strings("tokenizer.ggml.merges", &["a b"]),
        number("tokenizer.ggml.eos_token_id", 3),
        text("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ];
    let tensors = [("token_embd.weight", &[8u64, 5][..], 0u32, 160usize), ("blk.0.attn_q.weight", &[32, 2], 3, 40)];
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    metadata.iter().for_each(|entry| out.extend(entry));
    let mut offset = 0u64;
    for (name, dims, kind, bytes) in tensors {
        out.extend(string(name));
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + bytes as u64).next_multiple_of(32);
    }
    out.resize(out.len().next_multiple_of(32) + offset as usize, 1);
    out
}

/// A small safetensors file.
fn safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"model.embed_tokens.weight":{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]},"a.weight":{"dtype":"BF16","shape":[2,8],"data_offsets":[128,160]},"b.weight":{"dtype":"F8_E4M3","shape":[16,16],"data_offsets":[160,416]}}"#;
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    out.resize(out.len() + 416, 1);
    out
}

#[test]
fn wounded_files_are_read_or_refused() {
    // One test, not four: the largest allocation is counted for the process.
    let folder = Folder::new("gguf");
    let opened = survive(1, &gguf(), |bytes| folder.write("model.gguf", bytes));
    assert!((ROUNDS / 100..ROUNDS / 2).contains(&opened), "{opened} wounded GGUF files were read");

    let folder = Folder::new("safetensors");
    folder.write("config.json", r#"{"model_type":"llama","eos_token_id":[1,2]}"#);
    let weights = |bytes: &[u8]| {
        folder.write("model.safetensors", bytes);
        folder.0.clone()
    };
    let opened = survive(2, &safetensors(), weights);
    assert!((ROUNDS / 100..ROUNDS / 2).contains(&opened), "{opened} wounded safetensors files were read");

    let index = r#"{"metadata":{"total_size":416},"weight_map":{"model.embed_tokens.weight":"one.safetensors","a.weight":"one.safetensors","b.weight":"one.safetensors"}}"#;
    fs::rename(folder.0.join("model.safetensors"), folder.0.join("one.safetensors")).unwrap();
    folder.write("one.safetensors", safetensors());
    survive(3, index.as_bytes(), |bytes| {
        folder.write("model.safetensors.index.json", bytes);
        folder.0.clone()
    });
    folder.write("model.safetensors.index.json", index);
    let config = r#"{"bos_token":{"content":"<s>"},"eos_token":"</s>","chat_template":[{"name":"default","template":"{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"}],"added_tokens_decoder":{"7":{"content":"<x>","special":true}}}"#;
    folder.write("tokenizer.json", r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"<unk>":1},"unk_token":"<unk>"}}"#);
    survive(4, config.as_bytes(), |bytes| {
        folder.write("tokenizer_config.json", bytes);
        folder.0.clone()
    });
}

/// A header may claim sizes that would fit into a large file: it is sparse here, and takes no room on the disk.
#[test]
fn absurd_counts_in_a_large_file_cost_nothing() {
    let folder = Folder::new("sparse");
    for (tensors, entries) in [(u64::MAX, 1), (1 << 30, 1), (1, 1 << 31), (0, u64::MAX)] {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        let path = folder.write("model.gguf", &bytes);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64 << 30).unwrap();
        let error = look(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(LARGEST.load(Relaxed) < MOST, "{} bytes at once", LARGEST.load(Relaxed));
    }
}
