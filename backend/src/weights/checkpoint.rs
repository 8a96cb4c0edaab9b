//! A model's files as one: tensors by name, configuration, and what text needs.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    FileError, Generation, Kind, Tensor, TensorInfo,
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
    tensors: BTreeMap<String, Entry>,
    files: Files,
}

/// A tensor of the table.
struct Entry {
    kind: Kind,
    shape: Vec<usize>,
    place: Place,
}

/// Where a tensor lies.
enum Place {
    /// In a file, at an entry of its table.
    At { file: usize, entry: usize },
    /// In two pieces: see [`gguf::join`].
    Pieces(Box<[Entry; 2]>),
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
        let mut config = json::object(&path.join(folder::CONFIG))?.ok_or_else(|| folder::nothing(path))?;
        let generation = path.join(folder::GENERATION);
        let said = json::object(&generation)?.unwrap_or_default();
        let generation = Generation::of_folder(&generation, &said, &config)?;
        let shards = folder::shards(path)?;
        let mut tensors = BTreeMap::new();
        for (file, shard) in shards.iter().enumerate() {
            for (entry, e) in shard.entries.iter().enumerate() {
                let place = Place::At { file, entry };
                tensors.insert(e.name.clone(), Entry { kind: e.kind, shape: e.shape.clone(), place });
            }
        }
        if without_head(&mut tensors) {
            config.insert("tie_word_embeddings".into(), true.into());
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
                let of = Entry { kind: Kind::of_gguf(info.kind), shape, place: Place::At { file, entry } };
                if tensors.insert(gguf::hugging_face(&info.name), of).is_some() {
                    return Err(FileError::gguf(path)(GgufError::Twice { name: info.name.clone() }));
                }
            }
        }
        join_pieces(&mut tensors);
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
            Some(_) => {
                ". The repository brings Python code of its own for it ('auto_map'), and none of that is ever run"
            }
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
        Some(self.view(name, self.tensors.get(name)?))
    }

    fn view(&self, name: &str, entry: &Entry) -> Tensor<'_> {
        let bytes = match &entry.place {
            Place::At { file, entry } => Cow::Borrowed(self.bytes_of(*file, *entry)),
            Place::Pieces(pieces) => {
                let [keys, values] = pieces.each_ref().map(|piece| self.view(name, piece));
                Cow::Owned(gguf::join(&keys, &values))
            }
        };
        Tensor { name: name.into(), kind: entry.kind, shape: entry.shape.clone(), bytes }
    }

    fn bytes_of(&self, file: usize, entry: usize) -> &[u8] {
        match &self.files {
            Files::Folder { shards, .. } => &shards[file].bytes[shards[file].entries[entry].range.clone()],
            Files::Gguf(parts) => parts[file].data(&parts[file].tensors()[entry]),
        }
    }

    /// Tells the system that a tensor will not be looked at again, so that loading a model never holds two copies of it.
    /// (It may be looked at: it is read from the file again.)
    pub fn forget(&self, tensor: &Tensor) {
        if let Some(entry) = self.tensors.get(&tensor.name) {
            self.forget_entry(entry);
        }
    }

    fn forget_entry(&self, entry: &Entry) {
        match (&entry.place, &self.files) {
            (Place::Pieces(pieces), _) => pieces.iter().for_each(|piece| self.forget_entry(piece)),
            (Place::At { file, entry }, Files::Folder { shards, .. }) => {
                shards[*file].bytes.forget(shards[*file].entries[*entry].range.clone());
            }
            (Place::At { file, entry }, Files::Gguf(parts)) => parts[*file].forget(&parts[*file].tensors()[*entry]),
        }
    }

    /// What the table of tensors says, by name: much less work than [`Self::tensor`] where a tensor is in pieces.
    pub fn table(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, entry)| TensorInfo {
            name,
            kind: entry.kind,
            shape: &entry.shape,
            bytes: self.stored(entry),
        })
    }

    fn stored(&self, entry: &Entry) -> usize {
        match &entry.place {
            Place::At { file, entry } => self.bytes_of(*file, *entry).len(),
            Place::Pieces(pieces) => pieces.iter().map(|piece| self.stored(piece)).sum(),
        }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|entry| self.stored(entry) as u64).sum()
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
        if let Some(modules) = text.read(crate::model::MODULES)? {
            print.add(&modules);
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

/// Gives the tensors of a bare model (`Qwen2Model`) the names that they have below a head. True when there is no head:
/// the embedding stands for it.
fn without_head(tensors: &mut BTreeMap<String, Entry>) -> bool {
    const EMBEDDING: &str = "embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";
    if !tensors.contains_key(EMBEDDING) || tensors.keys().any(|name| name.starts_with("model.")) {
        return false;
    }
    let named = |name: String| if name == HEAD { name } else { format!("model.{name}") };
    *tensors = std::mem::take(tensors).into_iter().map(|(name, entry)| (named(name), entry)).collect();
    !tensors.contains_key(HEAD)
}

/// Replaces the two pieces of a projection by the whole, where they fit together; where not, they keep their names, and no
/// model takes them.
fn join_pieces(tensors: &mut BTreeMap<String, Entry>) {
    const PIECES: [&str; 2] = ["self_attn.k_b_proj.weight", "self_attn.v_b_proj.weight"];
    let prefixes: Vec<String> = tensors.keys().filter_map(|n| n.strip_suffix(PIECES[0]).map(str::to_owned)).collect();
    for prefix in prefixes {
        let names = PIECES.map(|piece| format!("{prefix}{piece}"));
        let [Some(keys), Some(values)] = names.each_ref().map(|name| tensors.get(name)) else { continue };
        let Some(whole) = gguf::joined((keys.kind, &keys.shape), (values.kind, &values.shape)) else { continue };
        let [Some(keys), Some(values)] = names.each_ref().map(|name| tensors.remove(name)) else { continue };
        let place = Place::Pieces(Box::new([keys, values]));
        let entry = Entry { kind: whole.kind, shape: whole.shape.to_vec(), place };
        tensors.insert(format!("{prefix}self_attn.kv_b_proj.weight"), entry);
    }
}
