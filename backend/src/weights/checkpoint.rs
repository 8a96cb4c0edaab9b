//! A model's files as one: tensors by name, configuration, and what text needs.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    FileError, Generation, Kind, Tensor,
    fingerprint::Fingerprint,
    folder::{self, Shard, TextFiles},
    gguf::{self, Gguf, GgufError},
    json,
};

/// A model's files, opened and checked; tensors by their Hugging Face names, whatever the file calls them.
pub struct Checkpoint {
    path: PathBuf,
    config: Map<String, Value>,
    generation: Generation,
    tensors: BTreeMap<String, Place>,
    files: Files,
}

/// Where a tensor lies.
struct Place {
    /// Of which file.
    file: usize,
    /// Of which entry of that file's table.
    entry: usize,
    kind: Kind,
    shape: Vec<usize>,
}

enum Files {
    Folder { shards: Vec<Shard>, text: TextFiles },
    Gguf(Vec<Gguf>),
}

/// What the tokenizer and the chat template are read from.
pub(crate) enum TextSource<'a> {
    Folder(&'a TextFiles),
    Gguf(&'a Gguf),
}

impl Checkpoint {
    /// Opens a model folder, or a GGUF file with all of its parts. Tensors are mapped, not read.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let meta = std::fs::metadata(path).map_err(FileError::io(path))?;
        if meta.is_dir() {
            return Self::folder(path);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors" | "json") => {
                Err(FileError::unsupported(path, "a part of a model: name the folder it lies in"))
            }
            _ => Self::gguf(path),
        }
    }

    fn folder(path: &Path) -> Result<Self, FileError> {
        let config = json::object(&path.join(folder::CONFIG))?.ok_or_else(|| folder::nothing(path))?;
        let generation = path.join(folder::GENERATION);
        let said = json::object(&generation)?.unwrap_or_default();
        let generation = Generation::of_folder(&generation, &said, &config)?;
        let shards = folder::shards(path)?;
        let mut tensors = BTreeMap::new();
        for (file, shard) in shards.iter().enumerate() {
            for (entry, e) in shard.entries.iter().enumerate() {
                tensors.insert(e.name.clone(), Place { file, entry, kind: e.kind, shape: e.shape.clone() });
            }
        }
        let files = Files::Folder { shards, text: TextFiles::of(path)? };
        Ok(Self { path: path.into(), config, generation, tensors, files })
    }

    fn gguf(path: &Path) -> Result<Self, FileError> {
        let files = gguf::parts(path)?;
        let config = gguf::config(&files).map_err(FileError::gguf(path))?;
        let generation = Generation::of_gguf(&files[0]);
        let mut tensors = BTreeMap::new();
        for (file, part) in files.iter().enumerate() {
            for (entry, info) in part.tensors().iter().enumerate() {
                let shape = info.dims.iter().rev().map(|d| *d as usize).collect();
                let place = Place { file, entry, kind: Kind::of_gguf(info.kind), shape };
                if let Some(_twice) = tensors.insert(gguf::hugging_face(&info.name), place) {
                    return Err(FileError::gguf(path)(GgufError::Twice { name: info.name.clone() }));
                }
            }
        }
        Ok(Self { path: path.into(), config, generation, tensors, files: Files::Gguf(files) })
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json` as it is; of a GGUF file, its metadata under the same keys.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// How its makers want it to be sampled, and where text ends.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The error for a `model_type` that is none of `known`.
    pub fn unknown_model(&self, known: &[&str]) -> FileError {
        let model = match self.config.get("model_type") {
            Some(Value::String(name)) => format!("the architecture '{name}'"),
            Some(other) => format!("the architecture {other}"),
            None => format!("{} names no 'model_type', and such a model", folder::CONFIG),
        };
        let code = match self.config.get("auto_map") {
            Some(_) => ". The repository brings Python code of its own for it ('auto_map'), and none of that is ever run",
            None => "",
        };
        FileError::unsupported(&self.path, format!("{model} is not run here; {} are{code}", known.join(", ")))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor; None if there is none of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let place = self.tensors.get(name)?;
        let bytes = Cow::Borrowed(self.bytes_of(place));
        Some(Tensor { name: name.into(), kind: place.kind, shape: place.shape.clone(), bytes })
    }

    fn bytes_of(&self, place: &Place) -> &[u8] {
        match &self.files {
            Files::Folder { shards, .. } => {
                let shard = &shards[place.file];
                &shard.bytes[shard.entries[place.entry].range.clone()]
            }
            Files::Gguf(parts) => {
                let part = &parts[place.file];
                part.data(&part.tensors()[place.entry])
            }
        }
    }

    /// Tells the system that a tensor will not be looked at again, so that loading a model never holds two copies of it.
    /// (It may be looked at: it is read from the file again.)
    pub fn forget(&self, tensor: &Tensor) {
        let Some(place) = self.tensors.get(&tensor.name) else { return };
        match &self.files {
            Files::Folder { shards, .. } => {
                let shard = &shards[place.file];
                shard.bytes.forget(shard.entries[place.entry].range.clone());
            }
            Files::Gguf(parts) => {
                let part = &parts[place.file];
                part.forget(&part.tensors()[place.entry]);
            }
        }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|place| self.bytes_of(place).len() as u64).sum()
    }

    /// The model's name: that of the folder (of a hub's snapshot, the repository's) or of the file without its ending.
    pub fn name(&self) -> String {
        super::name(&self.path)
    }

    /// Names what these files compute: SHA-256 over configuration, tokenizer, template, tensor tables and evenly spread
    /// pieces of the tensors, in hex.
    pub fn fingerprint(&self) -> Result<String, FileError> {
        let (shards, text) = match &self.files {
            Files::Folder { shards, text } => (shards, text),
            Files::Gguf(parts) => {
                if let [whole] = &parts[..] {
                    return Ok(whole.fingerprint());
                }
                let mut print = Fingerprint::new(0);
                parts.iter().for_each(|part| print.add(part.fingerprint().as_bytes()));
                return Ok(print.hex());
            }
        };
        let mut print = Fingerprint::new(self.tensors.len());
        let small = [
            folder::CONFIG,
            folder::GENERATION,
            folder::TOKENIZER,
            folder::TOKENIZER_CONFIG,
            folder::SPECIAL_TOKENS,
            folder::CHAT_TEMPLATE,
        ];
        for name in small {
            let bytes = text.read(name)?.unwrap_or_default();
            print.add(&(bytes.len() as u64).to_le_bytes());
            print.add(&bytes);
        }
        for shard in shards {
            print.add(&shard.bytes[..shard.header]);
            let ranges = shard.entries.iter().map(|e| e.range.clone());
            ranges.for_each(|range: Range<usize>| print.add_pieces(&shard.bytes[range]));
        }
        Ok(print.hex())
    }

    /// What the tokenizer and the chat template are read from.
    pub(crate) fn text(&self) -> TextSource<'_> {
        match &self.files {
            Files::Folder { text, .. } => TextSource::Folder(text),
            Files::Gguf(parts) => TextSource::Gguf(&parts[0]),
        }
    }
}
