//! A view of overlays and engine as one ordered map.

use std::cmp::Ordering;
use std::iter::Peekable;

use bytes::Bytes;

use super::engines::{EngineError, Pair, StateEngine};
use super::overlay::{Overlay, Slot};

#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// Changes of the entry in execution so far.
    pub top: Option<&'a Overlay>,
    pub active: &'a Overlay,
    /// The overlay that a checkpoint is writing to the engine.
    pub frozen: Option<&'a Overlay>,
    pub engine: &'a dyn StateEngine,
}

type Found = Result<(Bytes, Slot), EngineError>;

impl<'a> View<'a> {
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        for overlay in self.overlays() {
            if let Some(slot) = overlay.get(key) {
                return Ok(slot);
            }
        }
        self.engine.get(key)
    }

    /// Returns the pairs in key order from `start` (inclusive) to `end` (exclusive; `None`: to the last key).
    pub fn range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair, EngineError>> + use<'a> {
        let mut merged: Box<dyn Iterator<Item = Found> + 'a> = if self.overlays().any(Overlay::is_cleared) {
            Box::new(std::iter::empty())
        } else {
            Box::new(self.engine.range(start, end).map(|pair| pair.map(|(key, value)| (key, Some(value)))))
        };
        for overlay in self.frozen.into_iter().chain([self.active]).chain(self.top) {
            if overlay.is_cleared() {
                merged = Box::new(std::iter::empty());
            }
            let slots = overlay.range(start, end).map(|(key, slot)| Ok((key.clone(), slot.clone())));
            merged = Box::new(Merge { upper: slots.peekable(), lower: merged.peekable() });
        }
        merged.filter_map(|found| match found {
            Ok((key, Some(value))) => Some(Ok((key, value))),
            Ok((_, None)) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// Returns the overlays, newest first.
    fn overlays(&self) -> impl Iterator<Item = &'a Overlay> + use<'a> {
        self.top.into_iter().chain([self.active]).chain(self.frozen)
    }
}

/// A merge of two ordered sources; for equal keys the item of `upper` is used.
struct Merge<U: Iterator, L: Iterator> {
    upper: Peekable<U>,
    lower: Peekable<L>,
}

impl<U: Iterator<Item = Found>, L: Iterator<Item = Found>> Iterator for Merge<U, L> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let order = match (self.upper.peek(), self.lower.peek()) {
            (Some(Ok((upper, _))), Some(Ok((lower, _)))) => upper.cmp(lower),
            (_, Some(Err(_))) | (None, Some(_)) => Ordering::Greater,
            (Some(_), _) | (None, None) => Ordering::Less,
        };
        match order {
            Ordering::Less => self.upper.next(),
            Ordering::Equal => {
                self.lower.next();
                self.upper.next()
            }
            Ordering::Greater => self.lower.next(),
        }
    }
}
