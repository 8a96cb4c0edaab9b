//! Whole model repositories of the hub, in the cache that all of the hub's clients share: `$HF_HOME/hub`, or
//! `~/.cache/huggingface/hub`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context, Result, bail};
use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress as HubProgress,
        sync::{Api, ApiBuilder, ApiRepo},
    },
};
use serde::Deserialize;

use crate::{Progress, folder};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What a model needs beside its weights, as far as the repository has it.
const SMALL: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// A repository of models at a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    id: String,
    revision: String,
}

impl Repository {
    /// `owner/name`, or `owner/name@revision`; None for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = id.split_once('/')?;
        let word = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
        };
        let whole = word(owner) && word(name) && revision.split('/').all(word);
        whole.then(|| Self { id: id.into(), revision: revision.into() })
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, revision.into())
    }
}

/// The folder of a repository's files, with what is not in the cache yet pulled into it. Where the hub cannot be reached, a
/// snapshot that is whole will do. `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` are honoured.
pub fn snapshot(repository: &Repository, progress: &(dyn Progress + Sync)) -> Result<PathBuf> {
    let mut builder = ApiBuilder::from_env().with_progress(false);
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
        builder = builder.with_token(Some(token));
    }
    pull(repository, &builder.build()?, &Cache::from_env(), progress)
}

/// What the hub says of a repository.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

fn pull(repository: &Repository, api: &Api, cache: &Cache, progress: &(dyn Progress + Sync)) -> Result<PathBuf> {
    let id = &repository.id;
    let info = match info(&api.repo(repository.at(&repository.revision))) {
        Ok(info) => info,
        Err(error) if error.contains("status: 4") => {
            bail!(
                "the hub gives no model {id} at '{}' ({error}); is the name right? A private one needs HF_TOKEN",
                repository.revision
            )
        }
        Err(error) => {
            let kept = kept(repository, cache);
            return kept.with_context(|| {
                format!(
                    "{id} is no folder here, and the hub cannot be reached to pull it ({error}); name a folder with the model's files"
                )
            });
        }
    };
    if !info.sha.bytes().all(|b| b.is_ascii_hexdigit()) || info.sha.is_empty() {
        bail!("the hub names '{}' as the commit of {id}, which is none", info.sha);
    }
    let pinned = repository.at(&info.sha);
    let dir = cache.repo(pinned.clone()).pointer_path(&info.sha);
    let source = Source { files: api.repo(pinned), dir: &dir, id };
    let mut names = small(&info);
    names.iter().try_for_each(|name| source.fetch(name, &Sum::silent()))?;
    names = weights(&info, &dir, id)?;
    names.retain(|name| !dir.join(name).exists());
    let total = names.iter().filter_map(|name| info.siblings.iter().find(|s| s.rfilename == *name)?.size).sum();
    if total > 0 {
        let above = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(&dir);
        folder::require_space(above, total, "the model")?;
    }
    let sum = Sum { progress: Some(progress), done: AtomicU64::new(0), total };
    names.iter().try_for_each(|name| source.fetch(name, &sum))?;
    cache.repo(repository.at(&repository.revision)).create_ref(&info.sha)?;
    Ok(dir)
}

fn info(files: &ApiRepo) -> Result<Info, String> {
    let mut response = files.info_request().query("blobs", "true").call().map_err(|e| e.to_string())?;
    response.body_mut().read_json().map_err(|e| e.to_string())
}

/// Names of files in the repository's own folder; others are never asked for.
fn plain(info: &Info) -> impl Iterator<Item = &str> {
    let odd = |name: &str| name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']);
    info.siblings.iter().map(|s| s.rfilename.as_str()).filter(move |name| !odd(name))
}

fn small(info: &Info) -> Vec<String> {
    let single = plain(info).any(|name| name == SINGLE);
    let wanted = |name: &&str| SMALL.contains(name) || (*name == INDEX && !single);
    plain(info).filter(wanted).map(str::to_owned).collect()
}

/// The files with the weights: one, those of the index, or whatever safetensors there are.
fn weights(info: &Info, dir: &Path, id: &str) -> Result<Vec<String>> {
    let ending = |ending: &str| plain(info).find(|name| name.ends_with(ending)).map(str::to_owned);
    if plain(info).any(|name| name == SINGLE) {
        return Ok(vec![SINGLE.into()]);
    }
    if dir.join(INDEX).is_file() {
        return shards(dir).with_context(|| format!("{id}: {INDEX} is no index of shards"));
    }
    let all: Vec<String> = plain(info).filter(|name| name.ends_with(".safetensors")).map(str::to_owned).collect();
    if !all.is_empty() {
        return Ok(all);
    }
    match (ending(".gguf"), ending(".bin").or_else(|| ending(".pth"))) {
        (Some(file), _) => bail!("{id} holds GGUF files; name one of them, as in {id}/{file}"),
        (None, Some(_)) => {
            bail!("{id} holds pickled weights alone, which can run code and are not read; take safetensors")
        }
        (None, None) => bail!("{id} holds no *.safetensors"),
    }
}

/// The shards that a folder's index names.
fn shards(dir: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(&fs::read(dir.join(INDEX))?)?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    match names.iter().find(|name| name.contains(['/', '\\', '\0']) || name.starts_with('.')) {
        Some(odd) => bail!("'{odd}' is no file's name"),
        None => Ok(names),
    }
}

/// The snapshot of an earlier pull, if all of it is there.
fn kept(repository: &Repository, cache: &Cache) -> Option<PathBuf> {
    let config = cache.repo(repository.at(&repository.revision)).get(SMALL[0])?;
    let dir = config.parent()?.to_owned();
    let shards = shards(&dir).unwrap_or_else(|_| vec![SINGLE.into()]);
    let whole = dir.join(SINGLE).is_file() || shards.iter().all(|name| dir.join(name).is_file());
    whole.then_some(dir)
}

/// Where files come from and go to.
struct Source<'a> {
    files: ApiRepo,
    dir: &'a Path,
    id: &'a str,
}

impl Source<'_> {
    fn fetch(&self, name: &str, sum: &Sum) -> Result<()> {
        if self.dir.join(name).exists() {
            return Ok(());
        }
        let told = AtomicU64::new(0);
        let got = self.files.download_with_progress(name, Each { sum, told: &told }).with_context(|| {
            format!("{}/{name} could not be pulled. What has arrived is kept: the same command goes on", self.id)
        })?;
        let (there, said) = (fs::metadata(&got)?.len(), told.load(Relaxed));
        if there != said {
            fs::remove_file(fs::canonicalize(&got)?)?;
            fs::remove_file(&got)?;
            bail!("{}/{name} arrived with {there} of {said} bytes and was deleted; try again", self.id);
        }
        Ok(())
    }
}

/// The progress of several files.
struct Sum<'a> {
    progress: Option<&'a (dyn Progress + Sync)>,
    done: AtomicU64,
    total: u64,
}

impl Sum<'_> {
    fn silent() -> Self {
        Self { progress: None, done: AtomicU64::new(0), total: 0 }
    }
}

/// The progress of one of them; `told` is its length, as the hub says.
struct Each<'a> {
    sum: &'a Sum<'a>,
    told: &'a AtomicU64,
}

impl HubProgress for Each<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.told.store(size as u64, Relaxed);
    }

    fn update(&mut self, size: usize) {
        let done = self.sum.done.fetch_add(size as u64, Relaxed) + size as u64;
        if let Some(progress) = self.sum.progress {
            progress.bytes(done, self.sum.total.max(done));
        }
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::Mutex,
        thread,
    };

    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A server that speaks as much of the hub's protocol as its client does. It answers until the process ends.
    fn hub(files: Vec<(&'static str, &'static str)>) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let Some(request) = lines.next() else { continue };
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let range = head.iter().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let (status, headers, body) = answer(&files, path, range.as_deref());
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n{body}"
                );
            }
        });
        Ok(format!("http://{address}"))
    }

    fn answer(files: &[(&str, &str)], path: &str, range: Option<&str>) -> (&'static str, String, String) {
        if let Some(rest) = path.strip_prefix("/api/models/o/n/revision/") {
            if rest.split('?').next() != Some("main") {
                return ("404 Not Found", String::new(), "{}".into());
            }
            let list: Vec<_> =
                files.iter().map(|(n, b)| serde_json::json!({ "rfilename": n, "size": b.len() })).collect();
            return ("200 OK", String::new(), serde_json::json!({ "sha": SHA, "siblings": list }).to_string());
        }
        let name = path.strip_prefix(&format!("/o/n/resolve/{SHA}/")).unwrap_or_default();
        let Some((_, body)) = files.iter().find(|(n, _)| *n == name) else {
            return ("404 Not Found", String::new(), String::new());
        };
        let (from, to) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
        let from = from.parse().unwrap_or(0).min(body.len());
        let to = to.parse::<usize>().map_or(body.len(), |t| t + 1).min(body.len());
        let headers = format!(
            "etag: \"tag-{name}\"\r\nx-repo-commit: {SHA}\r\ncontent-range: bytes {from}-{}/{}\r\n",
            to.max(1) - 1,
            body.len()
        );
        ("206 Partial Content", headers, body[from..to].to_owned())
    }

    fn client(endpoint: &str, dir: &Path) -> Result<(Api, Cache)> {
        let builder = ApiBuilder::from_cache(Cache::new(dir.into())).with_endpoint(endpoint.into());
        Ok((builder.with_progress(false).build()?, Cache::new(dir.into())))
    }

    #[derive(Default)]
    struct Seen(Mutex<Vec<(u64, u64)>>);

    impl Progress for Seen {
        fn bytes(&self, done: u64, total: u64) {
            if let Ok(mut seen) = self.0.lock() {
                seen.push((done, total));
            }
        }
    }

    const SHARDED: &[(&str, &str)] = &[
        ("README.md", "# not wanted"),
        ("config.json", "{}"),
        ("tokenizer.json", "{\"t\": 1}"),
        ("model.safetensors.index.json", r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#),
        ("one.safetensors", "first shard"),
        ("two.safetensors", "second shard!"),
        ("other.safetensors", "not in the index"),
        ("sub/three.safetensors", "elsewhere"),
    ];

    #[test]
    fn what_a_model_needs_is_pulled_once_and_found_again_without_the_hub() -> Result<()> {
        let draft = folder::Draft::new(&std::env::temp_dir().join("littoral-snapshot-test"))?;
        let repository = Repository::parse("o/n").context("no repository")?;
        let (api, cache) = client(&hub(SHARDED.to_vec())?, draft.path())?;
        let seen = Seen::default();
        let dir = pull(&repository, &api, &cache, &seen)?;
        let mut names: Vec<_> = fs::read_dir(&dir)?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        let expected =
            ["config.json", "model.safetensors.index.json", "one.safetensors", "tokenizer.json", "two.safetensors"];
        assert_eq!(names, expected);
        assert_eq!(fs::read_to_string(dir.join("two.safetensors"))?, "second shard!");
        assert_eq!(seen.0.lock().map(|s| s.last().copied()).ok().flatten(), Some((24, 24)));
        // Nobody listens on port 1.
        let (api, cache) = client("http://127.0.0.1:1", draft.path())?;
        assert_eq!(pull(&repository, &api, &cache, &())?, dir);
        fs::remove_file(dir.join("two.safetensors"))?;
        let error = format!("{:#}", pull(&repository, &api, &cache, &()).unwrap_err());
        assert!(error.contains("cannot be reached") && error.contains("name a folder"), "{error}");
        Ok(())
    }

    #[test]
    fn repositories_without_a_model_say_what_they_hold() -> Result<()> {
        let draft = folder::Draft::new(&std::env::temp_dir().join("littoral-snapshot-none-test"))?;
        let table: [(&[(&str, &str)], &str); 4] = [
            (&[("config.json", "{}"), ("m.Q4.gguf", "GGUF")], "o/n/m.Q4.gguf"),
            (&[("config.json", "{}"), ("pytorch_model.bin", "x")], "pickled"),
            (&[("config.json", "{}"), ("../model.safetensors", "x")], "no *.safetensors"),
            (&[("model.safetensors.index.json", r#"{"weight_map": {"a": "../x"}}"#)], "no file's name"),
        ];
        for (i, (files, expected)) in table.into_iter().enumerate() {
            let (api, cache) = client(&hub(files.to_vec())?, &draft.path().join(i.to_string()))?;
            let repository = Repository::parse("o/n@main").context("no repository")?;
            let error = format!("{:#}", pull(&repository, &api, &cache, &()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        let (api, cache) = client(&hub(SHARDED.to_vec())?, draft.path())?;
        let repository = Repository::parse("o/n@nothing-like-this").context("no repository")?;
        let error = format!("{:#}", pull(&repository, &api, &cache, &()).unwrap_err());
        assert!(error.contains("no model o/n at 'nothing-like-this'"), "{error}");
        Ok(())
    }

    #[test]
    fn ids_are_told_from_paths() {
        for good in ["deepseek-ai/DeepSeek-V3", "o/n@v1.0", "o/n@refs/pr/3"] {
            assert!(Repository::parse(good).is_some(), "{good}");
        }
        for bad in ["", "model", "/model", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a b/c", "./models"] {
            assert!(Repository::parse(bad).is_none(), "{bad}");
        }
    }
}
