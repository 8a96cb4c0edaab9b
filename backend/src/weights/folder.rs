//! A model folder in the layout of a Hugging Face repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    FileError, json,
    mapped::Mapped,
    safetensors::{self, Entry},
};

pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION: &str = "generation_config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One safetensors file.
pub(super) struct Shard {
    pub bytes: Mapped,
    /// Bytes before the tensors.
    pub header: usize,
    pub entries: Vec<Entry>,
}

/// The files of a folder that hold tensors, opened and checked.
pub(super) fn shards(folder: &Path) -> Result<Vec<Shard>, FileError> {
    let index = folder.join(INDEX);
    // As transformers does: one whole file goes before an index, an index before whatever lies there.
    if folder.join(SINGLE).is_file() {
        return Ok(vec![open(&folder.join(SINGLE))?]);
    }
    if let Some(map) = json::object(&index)? {
        return indexed(folder, &index, &map);
    }
    let names = listed(folder, "safetensors")?;
    if names.is_empty() {
        return Err(nothing(folder));
    }
    let shards = names.iter().map(|name| open(&folder.join(name))).collect::<Result<Vec<_>, _>>()?;
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (shard, file) in shards.iter().zip(&names) {
        for entry in &shard.entries {
            if let Some(other) = seen.insert(&entry.name, file) {
                return Err(FileError::damaged(
                    folder,
                    format!(
                        "the tensor '{}' is in {other} and in {file}, and no {INDEX} says which counts",
                        entry.name
                    ),
                ));
            }
        }
    }
    Ok(shards)
}

/// The shards an index names. A tensor counts where the index says it is.
fn indexed(folder: &Path, index: &Path, map: &Map<String, Value>) -> Result<Vec<Shard>, FileError> {
    let wrong = |what: String| FileError::damaged(index, what);
    let Some(Value::Object(weights)) = map.get("weight_map") else {
        return Err(wrong("there is no 'weight_map' of tensors and files in it".into()));
    };
    let mut place: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, file) in weights {
        let file = file.as_str().filter(|name| plain(name));
        let file = file
            .ok_or_else(|| wrong(format!("tensor '{tensor}' is said to be in {}, no file's name", weights[tensor])))?;
        place.entry(file).or_default().insert(tensor);
    }
    if place.is_empty() {
        return Err(wrong("'weight_map' names no tensor".into()));
    }
    let missing: Vec<&str> = place.keys().copied().filter(|name| !folder.join(name).is_file()).collect();
    if let [first, ..] = missing[..] {
        return Err(FileError::missing(
            folder,
            format!("{} of {} shards are missing, {first} first; fetch the model again", missing.len(), place.len()),
        ));
    }
    let mut shards = Vec::with_capacity(place.len());
    for (file, wanted) in &place {
        let path = folder.join(file);
        let mut shard = open(&path)?;
        let found: BTreeSet<&str> = shard.entries.iter().map(|e| e.name.as_str()).collect();
        if let Some(tensor) = wanted.difference(&found).next() {
            return Err(FileError::damaged(
                &path,
                format!("the tensor '{tensor}' is not in it, though {INDEX} says so"),
            ));
        }
        // What the index puts elsewhere does not count; what it leaves out does.
        shard.entries.retain(|e| weights.get(&e.name).is_none_or(|said| said.as_str() == Some(file)));
        shards.push(shard);
    }
    let mut seen = BTreeSet::new();
    match shards.iter().flat_map(|s| &s.entries).find(|e| !seen.insert(e.name.as_str())) {
        Some(twice) => Err(wrong(format!("the tensor '{}' is in two shards and not in the index", twice.name))),
        None => Ok(shards),
    }
}

/// Whether a name from a file is one of a file in the same folder.
fn plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != ".."
}

fn open(path: &Path) -> Result<Shard, FileError> {
    let bytes = Mapped::open(path).map_err(FileError::io(path))?;
    let (header, entries) = safetensors::read(&bytes).map_err(|what| FileError::damaged(path, what))?;
    Ok(Shard { bytes, header, entries })
}

/// The names of a folder's files with an extension, sorted.
fn listed(folder: &Path, extension: &str) -> Result<Vec<String>, FileError> {
    let entries = fs::read_dir(folder).map_err(FileError::io(folder))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == extension) && entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Why a folder holds no model.
pub(super) fn nothing(folder: &Path) -> FileError {
    let of = |extension: &str| listed(folder, extension).unwrap_or_default();
    if let [first, ..] = &of("gguf")[..] {
        return FileError::missing(folder, format!("a folder of GGUF files: name one of them, {first} perhaps"));
    }
    if !of("bin").is_empty() || !of("pt").is_empty() || !of("pth").is_empty() {
        return FileError::unsupported(
            folder,
            "the weights are pickled Python objects (*.bin, *.pt), which can run code and are not read here; take the model as safetensors",
        );
    }
    FileError::missing(folder, format!("no model here: a model folder holds {CONFIG} and *.safetensors"))
}

/// The text files of a folder, which [`crate::text`] reads.
pub(crate) struct TextFiles {
    folder: PathBuf,
    /// `tokenizer_config.json`, over what `special_tokens_map.json` says.
    pub config: Map<String, Value>,
}

impl TextFiles {
    pub(super) fn of(folder: &Path) -> Result<Self, FileError> {
        let mut config = json::object(&folder.join(SPECIAL_TOKENS))?.unwrap_or_default();
        config.extend(json::object(&folder.join(TOKENIZER_CONFIG))?.unwrap_or_default());
        Ok(Self { folder: folder.into(), config })
    }

    /// The path of one of the folder's files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// One of the folder's files; None if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        json::bytes(&self.path(name))
    }
}
