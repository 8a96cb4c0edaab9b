//! A host that speaks WASI and nothing of Littoral: wasmtime with wasi:http 0.3, one instance per request.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use wasmtime::{
    Config, Engine, Store,
    component::{Component, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    WasiHttpCtx, WasiHttpCtxView, WasiHttpView, default_hooks,
    p3::{
        Request,
        bindings::{Service, ServicePre},
    },
};

use crate::{artefact, node::Node, process::Process};

/// A component that exports `wasi:http/handler`, and its environment variables.
pub struct WasiHost {
    engine: Engine,
    service: ServicePre<State>,
    imports: Vec<String>,
    environment: Vec<(String, String)>,
}

/// The answer as it arrives.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    body: mpsc::Receiver<Bytes>,
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.body.recv().await
    }

    /// What is left of the body.
    pub async fn rest(mut self) -> String {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await {
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).expect("answers are UTF-8")
    }

    /// A header's value; empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl WasiHost {
    /// Links `file` against WASI alone: fails when it imports anything else.
    pub fn load(file: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let mut config = Config::new();
        config.wasm_component_model_async(true);
        let engine = Engine::new(&config)?;
        let component = read(&engine, file)?;
        let imports = imports(&engine, &component);
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        let service = ServicePre::new(linker.instantiate_pre(&component)?)?;
        let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Ok(Self { engine, service, imports, environment })
    }

    /// Names of what the component imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Calls the handler in a fresh instance; returns with the response head. The instance lives until the body has
    /// been read to its end or the answer is dropped.
    pub async fn send(&self, request: http::Request<&str>) -> Result<Answer> {
        let mut context = WasiCtx::builder();
        context.envs(&self.environment).inherit_stderr();
        let state = State { wasi: context.build(), http: WasiHttpCtx::new(), table: ResourceTable::new() };
        let mut store = Store::new(&self.engine, state);
        let request = request.map(|body| Full::new(Bytes::from(body.to_string())));
        let (request, _sent) = Request::from_http(default_hooks(), request_of(request));
        let service = self.service.instantiate_async(&mut store).await?;
        let (head, received) = oneshot::channel();
        let (pieces, body) = mpsc::channel(1);
        tokio::spawn(async move {
            let served = store.run_concurrent(async |store| serve(&service, store, request, head, pieces).await).await;
            if let Err(error) = served.and_then(|inner| inner) {
                eprintln!("wasi host: {error:?}");
            }
        });
        let (status, headers) = received.await.context("the component gave no answer")?;
        Ok(Answer { status, headers, body })
    }
}

type Head = (u16, http::HeaderMap);

async fn serve(
    service: &Service,
    store: &wasmtime::component::Accessor<State>,
    request: Request,
    head: oneshot::Sender<Head>,
    pieces: mpsc::Sender<Bytes>,
) -> wasmtime::Result<()> {
    let response = service.handle(store, request).await??;
    let response = store.with(|store| response.into_http(store, async { Ok(()) }))?;
    let (parts, mut body) = response.into_parts();
    let _ = head.send((parts.status.as_u16(), parts.headers));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if pieces.send(data).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The request as a server would hand it in: with a scheme and an authority.
fn request_of<B>(mut request: http::Request<B>) -> http::Request<B> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(http::uri::Authority::from_static("edge.test"));
    *request.uri_mut() = http::Uri::from_parts(parts).expect("a path, a scheme and an authority make a URI");
    request
}

/// Names of what the component in `file` imports.
pub fn imports_of(file: &Path) -> Result<Vec<String>> {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    let engine = Engine::new(&config)?;
    let component = read(&engine, file)?;
    Ok(imports(&engine, &component))
}

fn read(engine: &Engine, file: &Path) -> Result<Component> {
    Component::from_file(engine, file)
        .map_err(anyhow::Error::from)
        .with_context(|| format!("{}; `cargo xtask guests` makes it", file.display()))
}

fn imports(engine: &Engine, component: &Component) -> Vec<String> {
    component.component_type().imports(engine).map(|(name, _)| name.to_string()).collect()
}

struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: default_hooks() }
    }
}

/// A component of `target/guests`.
pub fn guest(name: &str) -> PathBuf {
    artefact::guests().join(format!("{name}.wasm"))
}

/// A node with the default model and its side-door open to this secret; and the side-door's address.
pub fn node(secret: &str) -> (Process, SocketAddr) {
    let mut command = Node::command(&["--http", "127.0.0.1:0"]);
    command.env("LITTORAL_NODE_HTTP_SECRET", secret);
    let process = Process::start("node", command);
    let http = process.address("http");
    (process, http)
}
