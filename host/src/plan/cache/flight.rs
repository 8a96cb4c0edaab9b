//! A generation that several requests listen to: one pilot writes its events into a log, each listener reads them from
//! the first one at its own pace.
//!
//! The pilot is told to stop when the last listener has left. The log holds the whole answer as long as that may still
//! be kept; an answer too large for that is trimmed behind its slowest listener, and its pilot waits for that one.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use futures::{Stream, StreamExt};
use littoral_proto::{
    finish,
    v1::{Event, event::Kind},
};
use tokio_util::sync::CancellationToken;

use super::{
    AnswerCache,
    answer::{Answer, Place, size},
    purge::{Mark, Point},
};
use crate::{error::Error, store::Stored, telemetry::Tally};

/// One generation under way.
pub struct Flight {
    cache: AnswerCache,
    place: Place,
    /// When it began, in purges.
    mark: Mark,
    state: Mutex<State>,
    /// Cancelled when nobody listens any more.
    stop: CancellationToken,
}

struct State {
    log: Log,
    end: Option<End>,
    seats: Vec<Option<Seat>>,
    /// There is a pilot who flies it, or has.
    departed: bool,
    /// The last who listened has left; who comes now starts anew.
    abandoned: bool,
    /// The whole answer was kept.
    keeps: bool,
    /// The pilot, while it waits for room.
    pilot: Option<Waker>,
}

/// A listener's place in the log.
struct Seat {
    /// Number of the next event.
    next: usize,
    waker: Option<Waker>,
    /// Does not count as one who listens.
    silent: bool,
}

enum Log {
    /// `first` is the number of the first event that is still held.
    Growing { events: VecDeque<Event>, first: usize, size: usize, large: bool, failed: bool },
    /// `answer` says the same in fewer events.
    Whole { events: Vec<Event>, answer: Arc<Answer> },
}

enum End {
    /// No further events come.
    Over,
    /// There will be none at all.
    Failed(Arc<Error>),
}

impl Flight {
    pub(super) fn new(cache: AnswerCache, place: Place, mark: Mark) -> Arc<Self> {
        let log = Log::Growing { events: VecDeque::new(), first: 0, size: 0, large: false, failed: false };
        let state =
            State { log, end: None, seats: Vec::new(), departed: false, abandoned: false, keeps: false, pilot: None };
        Arc::new(Self { cache, place, mark, state: Mutex::new(state), stop: CancellationToken::new() })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A seat at the first event; none when that is gone, or nobody flies any more.
    pub(super) fn join(self: &Arc<Self>) -> Option<Listener> {
        self.seat(false)
    }

    fn seat(self: &Arc<Self>, silent: bool) -> Option<Listener> {
        let mut state = self.lock();
        let joinable = match (&state.end, &state.log) {
            _ if state.abandoned && !silent => false,
            (Some(End::Failed(_)), _) => false,
            (_, Log::Growing { large, failed, .. }) => !large && !failed,
            (_, Log::Whole { .. }) => true,
        };
        if !joinable {
            return None;
        }
        let seat = Seat { next: 0, waker: None, silent };
        let at = match state.seats.iter().position(Option::is_none) {
            Some(free) => {
                state.seats[free] = Some(seat);
                free
            }
            None => {
                state.seats.push(Some(seat));
                state.seats.len() - 1
            }
        };
        Some(Listener { flight: self.clone(), seat: at, told: None })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        let wakers = {
            let mut state = self.lock();
            state.end.get_or_insert(end);
            state.wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn wakers(&mut self) -> Vec<Waker> {
        self.seats.iter_mut().flatten().filter_map(|seat| seat.waker.take()).collect()
    }

    /// Lets go of what every listener of a large answer has read; the pilot's waker if there is room again.
    fn trim(&mut self, max: usize) -> Option<Waker> {
        let Log::Growing { events, first, size: held, large: true, .. } = &mut self.log else { return None };
        let heard = self.seats.iter().flatten().filter(|seat| !seat.silent);
        let read = heard.map(|seat| seat.next).min().unwrap_or(*first);
        while *first < read {
            let Some(event) = events.pop_front() else { break };
            *held -= size(&event);
            *first += 1;
        }
        if *held <= max { self.pilot.take() } else { None }
    }
}

/// The one who writes. Dropping it before the end tells the listeners that the answer broke off; dropping it before it
/// flies, that they have to look for another.
pub struct Pilot {
    flight: Arc<Flight>,
}

impl Pilot {
    pub(super) fn new(flight: Arc<Flight>) -> Self {
        Self { flight }
    }

    /// Opens the generation and writes its events until they end, or until nobody listens and `elsewhere` says that
    /// nobody does elsewhere.
    pub async fn fly<S: Stream<Item = Event> + Unpin>(
        &self,
        opening: impl Future<Output = Result<S, Error>>,
        elsewhere: impl Future<Output = ()>,
    ) {
        self.depart();
        let unheard = async {
            self.flight.stop.cancelled().await;
            elsewhere.await;
        };
        tokio::select! {
            biased;
            () = self.write(opening) => {}
            // Who reads along without listening is told that it is over.
            () = unheard => self.flight.end(End::Over),
        }
    }

    fn depart(&self) {
        let wakers = {
            let mut state = self.flight.lock();
            state.departed = true;
            state.wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What other edges call this generation: those that know of different purges do not share one.
    pub fn flight(&self) -> String {
        let Point { epoch, number } = self.flight.mark.point;
        format!("{}.{epoch:x}.{number}", self.key())
    }

    /// What other edges call this answer.
    pub fn key(&self) -> &str {
        // The scope before it is part of what the key was made of.
        self.flight.place.key.rsplit('\0').next().unwrap_or_default()
    }

    /// The answer, if it was kept, as other edges may have it.
    pub fn kept(&self) -> Option<Stored> {
        let state = self.flight.lock();
        match &state.log {
            Log::Whole { answer, .. } if state.keeps => Some(answer.to_store(self.flight.mark.point)),
            _ => None,
        }
    }

    /// Reads along without being one who listens; none for an answer that is trimmed.
    pub fn overhear(&self) -> Option<Listener> {
        self.flight.seat(true)
    }

    async fn write<S: Stream<Item = Event> + Unpin>(&self, opening: impl Future<Output = Result<S, Error>>) {
        let mut events = match opening.await {
            Ok(events) => events,
            Err(error) => {
                // A request that comes now starts anew.
                self.flight.cache.landed(&self.flight);
                return self.flight.end(End::Failed(Arc::new(error)));
            }
        };
        while let Some(event) = events.next().await {
            let is_last = matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_)));
            self.push(event);
            if is_last {
                break;
            }
            poll_fn(|cx| self.poll_room(cx)).await;
        }
        self.flight.cache.landed(&self.flight);
        self.flight.end(End::Over);
    }

    fn push(&self, event: Event) {
        let flight = &self.flight;
        let is_complete = matches!(event.kind, Some(Kind::Usage(_)));
        let mut became_large = false;
        let wakers = {
            let mut state = flight.lock();
            if let Log::Growing { events, size: held, large, failed, .. } = &mut state.log {
                *failed |= is_failure(&event);
                *held += size(&event);
                became_large = !*large && *held > flight.cache.max_answer_bytes();
                *large |= became_large;
                events.push_back(event);
                if is_complete && !*large && !*failed {
                    let events = Vec::from(std::mem::take(events));
                    let answer = Arc::new(Answer::new(&events, flight.place.clone()));
                    state.log = Log::Whole { events, answer: answer.clone() };
                    state.keeps = flight.cache.keep(answer, flight.mark);
                }
            }
            state.wakers()
        };
        if became_large {
            flight.cache.landed(flight);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.flight.lock();
        state.trim(self.flight.cache.max_answer_bytes());
        match &state.log {
            Log::Growing { size, large: true, .. } if *size > self.flight.cache.max_answer_bytes() => {
                state.pilot = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.flight.cache.landed(&self.flight);
        let lost = Error::NoNode("the generation was broken off; please try again".into());
        self.flight.end(End::Failed(Arc::new(lost)));
    }
}

/// Whether an answer with this event is not one to give again.
fn is_failure(event: &Event) -> bool {
    match &event.kind {
        Some(Kind::Error(_)) => true,
        Some(Kind::Finished(finished)) => finished.reason == finish::INSUFFICIENT_SYSTEM_RESOURCE,
        _ => false,
    }
}

/// One who reads. Dropping it leaves.
pub struct Listener {
    flight: Arc<Flight>,
    seat: usize,
    /// What is told of the events; the generation tells its own tally.
    told: Option<(Arc<Tally>, Instant)>,
}

impl Listener {
    /// Tells `tally` of the events; `received` is when the listener's request came.
    pub fn telling(mut self, tally: Arc<Tally>, received: Instant) -> Self {
        self.told = Some((tally, received));
        self
    }

    /// Waits until somebody flies; false when who was to does not, because it may not pay for it or has left.
    pub async fn departs(&self) -> bool {
        poll_fn(|cx| {
            let mut state = self.flight.lock();
            if state.departed || state.end.is_some() {
                return Poll::Ready(state.departed);
            }
            state.wait(self.seat, cx);
            Poll::Pending
        })
        .await
    }

    /// Waits until there is an event, or says why there will be none.
    pub async fn opened(&mut self) -> Result<(), Error> {
        poll_fn(|cx| {
            let mut state = self.flight.lock();
            if state.event(0).is_some() {
                return Poll::Ready(Ok(()));
            }
            match &state.end {
                Some(End::Failed(error)) => Poll::Ready(Err(Error::Shared(error.clone()))),
                Some(End::Over) => Poll::Ready(Ok(())),
                None => {
                    state.wait(self.seat, cx);
                    Poll::Pending
                }
            }
        })
        .await?;
        if let Some((tally, _)) = &self.told
            && let Some(Event { kind: Some(Kind::Started(started)) }) = self.flight.lock().event(0)
        {
            tally.started(&started.node, started.prompt_tokens, started.cached_tokens);
        }
        Ok(())
    }

    /// Shows the next event to `take`; false at the end.
    pub fn poll_with(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&Event)) -> Poll<bool> {
        let mut state = self.flight.lock();
        let Some(next) = state.seats[self.seat].as_ref().map(|seat| seat.next) else { return Poll::Ready(false) };
        let Some(event) = state.event(next) else {
            if let Some(end) = &state.end {
                // What broke off after it had begun ends in an error event; the reader knows a last event when it sees
                // one, and asks no further.
                if let End::Failed(error) = end {
                    let event = error.event();
                    drop(state);
                    take(&event);
                    self.leave();
                    return Poll::Ready(true);
                }
                return Poll::Ready(false);
            }
            state.wait(self.seat, cx);
            return Poll::Pending;
        };
        if let Some((tally, received)) = &self.told {
            tally.tell(event, *received);
        }
        take(event);
        if let Some(seat) = &mut state.seats[self.seat] {
            seat.next += 1;
        }
        let waker = state.trim(self.flight.cache.max_answer_bytes());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Poll::Ready(true)
    }

    fn leave(&mut self) {
        let (last, waker) = {
            let mut state = self.flight.lock();
            if state.seats[self.seat].take().is_none() {
                return;
            }
            let unheard = state.seats.iter().flatten().all(|seat| seat.silent);
            let last = state.end.is_none() && !state.abandoned && unheard;
            state.abandoned |= last;
            (last, state.trim(self.flight.cache.max_answer_bytes()))
        };
        if last {
            self.flight.cache.landed(&self.flight);
            self.flight.stop.cancel();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    /// Event number `n`, if it has come.
    fn event(&self, n: usize) -> Option<&Event> {
        match &self.log {
            // A silent reader of a trimmed answer finds what it wanted gone, and no more.
            Log::Growing { events, first, .. } => events.get(n.checked_sub(*first)?),
            Log::Whole { events, .. } => events.get(n),
        }
    }

    fn wait(&mut self, seat: usize, cx: &mut Context<'_>) {
        if let Some(seat) = &mut self.seats[seat] {
            seat.waker = Some(cx.waker().clone());
        }
    }
}

impl Listener {
    /// Every event up to the last one.
    pub async fn take_until_last(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            let is_last = matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_)));
            events.push(event);
            if is_last {
                break;
            }
        }
        events
    }
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut taken = None;
        self.poll_with(cx, |event| taken = Some(event.clone())).map(|_| taken)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.leave();
    }
}
