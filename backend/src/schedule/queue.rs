//! Who waits, and whose turn it is: one line for every user, and a turn for the one who holds fewest slots.
//!
//! Between users who hold as many, it goes round: whoever got a slot longest ago is next. So whoever sends sixty-four
//! requests has the same share as whoever sends one, and nobody waits for ever.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Id,
    prefix::{Key, Prefix},
};

/// A request in line.
#[derive(Debug)]
pub struct Waiting {
    pub id: Id,
    /// Position in the order of arrival; kept when a request has to wait again.
    pub arrival: u64,
    /// Tokens known: prompt and generated.
    pub known: usize,
    /// Of those, the prompt's.
    pub prompt: usize,
    pub prefix: Prefix,
    /// It has run already and was preempted.
    pub begun: bool,
}

#[derive(Debug, Default)]
struct User {
    line: VecDeque<Waiting>,
    running: usize,
    /// When it got its last slot, in turns; 0 for one who is new.
    last_turn: u64,
}

/// The lines of all users.
#[derive(Debug, Default)]
pub struct Queue {
    users: BTreeMap<Key, User>,
    fresh: usize,
    all: usize,
    turns: u64,
}

impl Queue {
    /// Puts a request in its user's line: behind all that arrived before it.
    pub fn push(&mut self, request: Waiting) {
        self.all += 1;
        self.fresh += usize::from(!request.begun);
        let line = &mut self.user(request.prefix.asker()).line;
        let at = line.partition_point(|w| w.arrival < request.arrival);
        line.insert(at, request);
    }

    /// Whose turn it is, those in `passed` left out.
    pub fn turn(&self, passed: &[Key]) -> Option<Key> {
        let lines = self.users.iter().filter(|(key, _)| !passed.contains(key));
        let heads =
            lines.filter_map(|(key, user)| Some(((user.running, user.last_turn, user.line.front()?.arrival), key)));
        heads.min().map(|(_, key)| *key)
    }

    /// The first in a user's line.
    pub fn front(&self, user: Key) -> Option<&Waiting> {
        self.users.get(&user)?.line.front()
    }

    /// Takes the first out of a user's line.
    pub fn pop(&mut self, user: Key) -> Option<Waiting> {
        let taken = self.users.get_mut(&user)?.line.pop_front()?;
        self.forget(user, &taken);
        Some(taken)
    }

    /// Takes a request out; None when it does not wait.
    pub fn remove(&mut self, id: Id) -> Option<Waiting> {
        let found = self.users.iter().find_map(|(key, u)| Some((*key, u.line.iter().position(|w| w.id == id)?)));
        let (user, at) = found?;
        let taken = self.users.get_mut(&user)?.line.remove(at)?;
        self.forget(user, &taken);
        Some(taken)
    }

    fn forget(&mut self, user: Key, taken: &Waiting) {
        self.all -= 1;
        self.fresh -= usize::from(!taken.begun);
        self.tidy(user);
    }

    /// The newest request that has never run, of the user who has most of them waiting, if those are at least two more
    /// than `user` has.
    pub fn displaced_by(&self, user: Key) -> Option<Id> {
        let fresh = |u: &User| u.line.iter().filter(|w| !w.begun).count();
        let own = self.users.get(&user).map_or(0, fresh);
        let (count, most) = self.users.values().map(|u| (fresh(u), u)).max_by_key(|(count, _)| *count)?;
        let newest = most.line.iter().rev().find(|w| !w.begun)?;
        (count >= own + 2).then_some(newest.id)
    }

    /// A request of this user has a slot.
    pub fn started(&mut self, user: Key) {
        self.turns += 1;
        let turn = self.turns;
        let user = self.user(user);
        (user.running, user.last_turn) = (user.running + 1, turn);
    }

    /// A request of this user has left its slot.
    pub fn stopped(&mut self, user: Key) {
        if let Some(u) = self.users.get_mut(&user) {
            u.running = u.running.saturating_sub(1);
        }
        self.tidy(user);
    }

    /// Slots a user holds.
    pub fn running(&self, user: Key) -> usize {
        self.users.get(&user).map_or(0, |u| u.running)
    }

    /// The user who holds most slots, and how many.
    pub fn greediest(&self) -> Option<(Key, usize)> {
        self.users.iter().map(|(key, u)| (*key, u.running)).max_by_key(|(_, running)| *running)
    }

    /// Requests that wait and have never run.
    pub fn fresh(&self) -> usize {
        self.fresh
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.all
    }

    fn user(&mut self, key: Key) -> &mut User {
        self.users.entry(key).or_default()
    }

    fn tidy(&mut self, user: Key) {
        if self.users.get(&user).is_some_and(|u| u.line.is_empty() && u.running == 0) {
            self.users.remove(&user);
        }
    }
}
