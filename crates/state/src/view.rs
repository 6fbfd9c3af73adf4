//! A view of overlays and engine as one ordered map.

use std::cmp::Ordering;
use std::iter::Peekable;

use bytes::Bytes;

use super::engines::{EngineError, Pair, PairIter, StateEngine};
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
        let engine = self.reaches_engine().then(|| self.engine.range(start, end));
        let slots = |overlay: &'a Overlay| overlay.range(start, end);
        pairs(self.layers(engine, slots, |upper, lower| upper.cmp(lower)))
    }

    /// Returns the pairs of [`View::range`] in descending order.
    pub fn range_back(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair, EngineError>> + use<'a> {
        let engine = self.reaches_engine().then(|| self.engine.range_back(start, end));
        let slots = |overlay: &'a Overlay| overlay.range(start, end).rev();
        pairs(self.layers(engine, slots, |upper, lower| lower.cmp(upper)))
    }

    fn reaches_engine(&self) -> bool {
        !self.overlays().any(Overlay::is_cleared)
    }

    /// Merges the pairs of the engine and the `slots` of each overlay, all sorted by `order`.
    fn layers<I: Iterator<Item = (&'a Bytes, &'a Slot)> + 'a>(
        &self,
        engine: Option<PairIter<'a>>,
        slots: impl Fn(&'a Overlay) -> I,
        order: fn(&Bytes, &Bytes) -> Ordering,
    ) -> Box<dyn Iterator<Item = Found> + 'a> {
        let mut merged: Box<dyn Iterator<Item = Found> + 'a> =
            Box::new(engine.into_iter().flatten().map(|pair| pair.map(|(key, value)| (key, Some(value)))));
        for overlay in self.frozen.into_iter().chain([self.active]).chain(self.top) {
            if overlay.is_cleared() {
                merged = Box::new(std::iter::empty());
            }
            let upper = slots(overlay).map(|(key, slot)| Ok((key.clone(), slot.clone())));
            merged = Box::new(Merge { upper: upper.peekable(), lower: merged.peekable(), order });
        }
        merged
    }

    /// Returns the overlays, newest first.
    fn overlays(&self) -> impl Iterator<Item = &'a Overlay> + use<'a> {
        self.top.into_iter().chain([self.active]).chain(self.frozen)
    }
}

/// Returns the pairs of `slots`: removed keys have none.
fn pairs<'a>(
    slots: Box<dyn Iterator<Item = Found> + 'a>,
) -> impl Iterator<Item = Result<Pair, EngineError>> + use<'a> {
    slots.filter_map(|found| match found {
        Ok((key, Some(value))) => Some(Ok((key, value))),
        Ok((_, None)) => None,
        Err(error) => Some(Err(error)),
    })
}

/// A merge of two ordered sources; for equal keys the item of `upper` is used.
struct Merge<U: Iterator, L: Iterator> {
    upper: Peekable<U>,
    lower: Peekable<L>,
    order: fn(&Bytes, &Bytes) -> Ordering,
}

impl<U: Iterator<Item = Found>, L: Iterator<Item = Found>> Iterator for Merge<U, L> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let order = match (self.upper.peek(), self.lower.peek()) {
            (Some(Ok((upper, _))), Some(Ok((lower, _)))) => (self.order)(upper, lower),
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
