//! `Expiring`: an ordered map whose entries end, indexed by key and by end.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use tokio::time::Instant;

/// An ordered map whose entries end. An entry that has ended is never shown, and stays in memory
/// only until a sweep or an insertion under its key.
#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// Every entry once, soonest end first.
    ends: BTreeSet<(Instant, K)>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    ends: Instant,
}

impl<K: Ord + Clone, V> Expiring<K, V> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            ends: BTreeSet::new(),
        }
    }

    /// Returns the number of entries, those included that have ended but were not swept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the value under `key` and its end, if that is after `now`.
    pub(super) fn get<Q>(&self, key: &Q, now: Instant) -> Option<(&V, Instant)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let entry = self.entries.get(key)?;
        (entry.ends > now).then_some((&entry.value, entry.ends))
    }

    /// Puts `value` under `key`; returns what was there, ended or not.
    pub(super) fn insert(&mut self, key: K, value: V, ends: Instant) -> Option<V> {
        let before = self.entries.insert(key.clone(), Entry { value, ends });
        if let Some(before) = &before {
            self.ends.remove(&(before.ends, key.clone()));
        }
        self.ends.insert((ends, key));
        before.map(|entry| entry.value)
    }

    /// Moves the end of the entry under `key` and returns its value, if it lasts at `now`.
    pub(super) fn extend(&mut self, key: &K, ends: Instant, now: Instant) -> Option<&mut V> {
        let entry = self.entries.get_mut(key).filter(|entry| entry.ends > now)?;
        self.ends.remove(&(entry.ends, key.clone()));
        self.ends.insert((ends, key.clone()));
        entry.ends = ends;
        Some(&mut entry.value)
    }

    /// Takes out the entry under `key`, ended or not; returns it and its end.
    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<(K, V, Instant)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (key, entry) = self.entries.remove_entry(key)?;
        let index = (entry.ends, key);
        self.ends.remove(&index);
        Some((index.1, entry.value, index.0))
    }

    /// Takes out the entry that ends soonest; returns it and its end.
    pub(super) fn pop_soonest(&mut self) -> Option<(K, V, Instant)> {
        let (ends, key) = self.ends.pop_first()?;
        let entry = self.entries.remove(&key)?;
        Some((key, entry.value, ends))
    }

    /// Takes out one entry that has ended by `now`, if there is one.
    pub(super) fn pop_ended(&mut self, now: Instant) -> Option<(K, V)> {
        if self.ends.first()?.0 > now {
            return None;
        }
        self.pop_soonest().map(|(key, value, _)| (key, value))
    }

    /// Iterates from `start` in the order of keys, over entries that have ended too.
    pub(super) fn range<Q>(&self, start: Bound<&Q>) -> impl Iterator<Item = (&K, &V, Instant)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let range = self.entries.range((start, Bound::Unbounded));
        range.map(|(key, entry)| (key, &entry.value, entry.ends))
    }
}
