//! Guests that look at tokens: one instance per stream and filter, capped in number, driven beside the stream.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use anyhow::{Context as _, anyhow};
use futures::{
    Stream, StreamExt,
    channel::{mpsc, oneshot},
    stream::BoxStream,
};
use littoral_proto::v1::{self, Event};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use wasmtime::{
    Engine, Store, StoreContextMut, StoreLimits, UpdateDeadline,
    component::{Destination, Linker, Source, StreamConsumer, StreamProducer, StreamReader, StreamResult},
};
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};

use super::{
    GuestConfig, GuestError,
    bindings::filter::{FilterPre, littoral::edge::events as wit},
    engine,
    limits::{self, Overrun, TICK},
};

/// Ticks a filter may compute for between two events it takes or gives.
const TICKS: u32 = 4;
/// Events that wait between a filter and what reads it.
const WINDOW: usize = 32;

/// The compiled filters.
pub struct Filters {
    engine: Engine,
    by_name: HashMap<String, FilterPre<State>>,
    config: GuestConfig,
    slots: Arc<Semaphore>,
    live: Arc<AtomicUsize>,
}

struct State {
    ticks: u32,
    limits: StoreLimits,
    table: ResourceTable,
    wasi: WasiCtx,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Filters {
    pub fn load(config: &GuestConfig) -> anyhow::Result<Self> {
        let engine = engine::engine(config, true, config.filter_instances)?;
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(|e| anyhow!(e))?;
        let mut by_name = HashMap::new();
        for (name, component) in &config.filters {
            let path = config.file(component);
            let component = engine::load(&engine, &path, config.artifacts())?;
            let linked = linker.instantiate_pre(&component).and_then(FilterPre::new);
            let pre = linked.map_err(|e| anyhow!(e)).with_context(|| {
                format!("filter '{name}': {} is not a filter (world littoral:edge/filter)", path.display())
            })?;
            by_name.insert(name.clone(), pre);
        }
        let slots = Arc::new(Semaphore::new(config.filter_instances as usize));
        Ok(Self { engine, by_name, config: config.clone(), slots, live: Arc::default() })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }

    /// Runs `events` through the named filters, in order. Must be called on a thread with a local task set.
    pub fn run(
        &self,
        names: &[String],
        events: impl Stream<Item = Event> + Send + 'static,
    ) -> Result<FilteredEvents, GuestError> {
        let filters = names.iter().map(|name| {
            let pre = self.by_name.get(name).ok_or_else(|| GuestError::UnknownFilter(name.clone()))?;
            Ok((name, pre.clone()))
        });
        let filters = filters.collect::<Result<Vec<_>, GuestError>>()?;
        let slots = self.slots.clone().try_acquire_many_owned(filters.len() as u32);
        let slots = slots.map_err(|_| GuestError::FiltersBusy(self.config.filter_instances))?;
        let mut tasks = Vec::new();
        let mut events = events.boxed();
        for (name, pre) in filters {
            let (output, filtered) = mpsc::channel(WINDOW);
            let run = Run { name: name.clone(), pre, limits: limits::memory(&self.config), live: self.live.clone() };
            tasks.push(tokio::task::spawn_local(run.finish(events, output)));
            events = filtered.boxed();
        }
        Ok(FilteredEvents { events, tasks, _slots: slots })
    }
}

/// What came out of the last filter. Dropping it ends the filters and drops what they read from.
pub struct FilteredEvents {
    events: BoxStream<'static, Event>,
    tasks: Vec<JoinHandle<()>>,
    _slots: OwnedSemaphorePermit,
}

impl Stream for FilteredEvents {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_next_unpin(cx)
    }
}

impl Drop for FilteredEvents {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One filter on one stream.
struct Run {
    name: String,
    pre: FilterPre<State>,
    limits: StoreLimits,
    live: Arc<AtomicUsize>,
}

impl Run {
    async fn finish(self, events: BoxStream<'static, Event>, mut output: mpsc::Sender<Event>) {
        let name = self.name.clone();
        if let Err(error) = self.drive(events, output.clone()).await {
            let why = match error.downcast_ref::<Overrun>() {
                Some(overrun) => overrun.to_string(),
                None => format!("{error:#}"),
            };
            tracing::warn!(filter = name, error = why, "a token filter failed");
            let message = format!("the token filter '{name}' failed; the rest of the answer is withheld");
            let failure = v1::Error { code: "internal_error".into(), message, retryable: false };
            let event = Event { kind: Some(v1::event::Kind::Error(failure)) };
            // Nobody listens any more when this fails.
            let _ = futures::SinkExt::send(&mut output, event).await;
        }
    }

    async fn drive(self, events: BoxStream<'static, Event>, output: mpsc::Sender<Event>) -> wasmtime::Result<()> {
        let wasi = WasiCtx::builder().build();
        let state = State { ticks: 0, limits: self.limits, table: ResourceTable::new(), wasi };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.epoch_deadline_callback(|mut context| {
            let ticks = &mut context.data_mut().ticks;
            *ticks += 1;
            if *ticks > TICKS {
                return Err(Overrun(TICK * TICKS).into());
            }
            Ok(UpdateDeadline::Yield(1))
        });
        store.set_epoch_deadline(1);
        let _alive = Alive::new(self.live);
        let filter = self.pre.instantiate_async(&mut store).await?;
        store
            .run_concurrent(async |accessor| {
                let input = accessor.with(|store| StreamReader::new(store, Input(events)))?;
                let filtered = filter.littoral_edge_filtering().call_filter(accessor, input).await?;
                let (ended, end) = oneshot::channel();
                accessor.with(|store| filtered.pipe(store, Output { events: output, _ended: ended }))?;
                // The sender goes when the guest drops its end of the stream, or the reader of `output` is gone.
                let _ = end.await;
                Ok(())
            })
            .await?
    }
}

struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(live: Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Relaxed);
        Self(live)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Hands node events to the guest, as many as are ready.
struct Input(BoxStream<'static, Event>);

impl StreamProducer<State> for Input {
    type Item = wit::Event;
    type Buffer = wasmtime::component::VecBuffer<wit::Event>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, State>,
        mut destination: Destination<'a, wit::Event, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut batch = Vec::new();
        let result = loop {
            match self.0.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => batch.extend(to_wit(event)),
                Poll::Ready(None) => break StreamResult::Dropped,
                Poll::Pending if !batch.is_empty() => break StreamResult::Completed,
                Poll::Pending if finish => break StreamResult::Cancelled,
                Poll::Pending => return Poll::Pending,
            }
            if batch.len() == WINDOW {
                break StreamResult::Completed;
            }
        };
        store.data_mut().ticks = 0;
        destination.set_buffer(batch.into());
        Poll::Ready(Ok(result))
    }
}

/// Takes events from the guest, as many as the reader has room for.
struct Output {
    events: mpsc::Sender<Event>,
    _ended: oneshot::Sender<()>,
}

impl StreamConsumer<State> for Output {
    type Item = wit::Event;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<State>,
        mut source: Source<'_, wit::Event>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut taken = false;
        loop {
            match self.events.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(StreamResult::Dropped)),
                Poll::Pending if taken => return Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            }
            let mut event = None;
            source.read(&mut store, &mut event)?;
            let Some(event) = event else { return Poll::Ready(Ok(StreamResult::Completed)) };
            store.data_mut().ticks = 0;
            taken = true;
            if self.events.start_send(from_wit(event)).is_err() {
                return Poll::Ready(Ok(StreamResult::Dropped));
            }
        }
    }
}

/// A node event as a filter sees it. Log probabilities stay outside: they would tell what a filter hides.
fn to_wit(event: Event) -> Option<wit::Event> {
    use v1::{delta::Part, event::Kind};
    Some(match event.kind? {
        Kind::Started(v1::Started { node, prompt_tokens, cached_tokens, seed }) => {
            wit::Event::Started(wit::Started { node, prompt_tokens, cached_tokens, seed })
        }
        Kind::Delta(v1::Delta { choice, index, token_ids, part, .. }) => {
            let part = match part? {
                Part::Text(text) => wit::Part::Text(text),
                Part::Reasoning(text) => wit::Part::Reasoning(text),
                Part::ToolCall(v1::ToolCallFragment { index, id, name, arguments }) => {
                    wit::Part::ToolCall(wit::ToolCall { index, id, name, arguments })
                }
            };
            wit::Event::Delta(wit::Delta { choice, index, token_ids, part, extra: Vec::new() })
        }
        Kind::Finished(v1::Finished { choice, reason }) => wit::Event::Finished(wit::Finished { choice, reason }),
        Kind::Usage(v1::Usage { prompt_tokens, completion_tokens, prompt_cache_hit_tokens, reasoning_tokens }) => {
            let usage = wit::Usage { prompt_tokens, completion_tokens, prompt_cache_hit_tokens, reasoning_tokens };
            wit::Event::Usage(usage)
        }
        Kind::Error(v1::Error { code, message, retryable }) => {
            wit::Event::Error(wit::Failure { code, message, retryable, extra: Vec::new() })
        }
    })
}

fn from_wit(event: wit::Event) -> Event {
    use v1::{delta::Part, event::Kind};
    let kind = match event {
        wit::Event::Started(wit::Started { node, prompt_tokens, cached_tokens, seed }) => {
            Kind::Started(v1::Started { node, prompt_tokens, cached_tokens, seed })
        }
        wit::Event::Delta(wit::Delta { choice, index, token_ids, part, .. }) => {
            let part = Some(match part {
                wit::Part::Text(text) => Part::Text(text),
                wit::Part::Reasoning(text) => Part::Reasoning(text),
                wit::Part::ToolCall(wit::ToolCall { index, id, name, arguments }) => {
                    Part::ToolCall(v1::ToolCallFragment { index, id, name, arguments })
                }
            });
            Kind::Delta(v1::Delta { choice, index, token_ids, part, logprobs: Vec::new() })
        }
        wit::Event::Finished(wit::Finished { choice, reason }) => Kind::Finished(v1::Finished { choice, reason }),
        wit::Event::Usage(wit::Usage {
            prompt_tokens,
            completion_tokens,
            prompt_cache_hit_tokens,
            reasoning_tokens,
        }) => Kind::Usage(v1::Usage { prompt_tokens, completion_tokens, prompt_cache_hit_tokens, reasoning_tokens }),
        wit::Event::Error(wit::Failure { code, message, retryable, .. }) => {
            Kind::Error(v1::Error { code, message, retryable })
        }
    };
    Event { kind: Some(kind) }
}
