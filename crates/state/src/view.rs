//! A view of overlays and engine as one ordered map.

use std::cmp::Ordering;
use std::iter::Peekable;

use bytes::Bytes;

use super::engines::{EngineError, Pair, PairIter, StateEngine};
use super::overlay::Overlay;
use super::writes::{Slot, Writes};

#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// Changes of the entry in execution so far.
    pub top: Option<&'a Writes>,
    pub active: &'a Overlay,
    /// The overlay that a checkpoint is writing to the engine.
    pub frozen: Option<&'a Overlay>,
    pub engine: &'a dyn StateEngine,
}

type Found = Result<(Bytes, Slot), EngineError>;

/// The slots of a layer, and whether it hides the layers below.
struct Layer<'a> {
    slots: Box<dyn Iterator<Item = (Bytes, Slot)> + 'a>,
    is_cleared: bool,
}

impl<'a> View<'a> {
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(slot) = self.top.and_then(|writes| writes.get(key)) {
            return Ok(slot);
        }
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
        let top = self.top.map(|top| Layer::new(top.range(start, end), top.is_cleared()));
        let overlays =
            self.overlays().map(|overlay| Layer::new(overlay.range(start, end), overlay.is_cleared()));
        pairs(layers(engine, overlays.rev().chain(top), |upper, lower| upper.cmp(lower)))
    }

    /// Returns the pairs of [`View::range`] in descending order.
    pub fn range_back(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair, EngineError>> + use<'a> {
        let engine = self.reaches_engine().then(|| self.engine.range_back(start, end));
        let top = self.top.map(|top| Layer::new(top.range(start, end).rev(), top.is_cleared()));
        let overlays =
            self.overlays().map(|overlay| Layer::new(overlay.range_back(start, end), overlay.is_cleared()));
        pairs(layers(engine, overlays.rev().chain(top), |upper, lower| lower.cmp(upper)))
    }

    fn reaches_engine(&self) -> bool {
        !self.top.is_some_and(Writes::is_cleared) && !self.overlays().any(Overlay::is_cleared)
    }

    /// Returns the overlays, newest first.
    fn overlays(&self) -> impl DoubleEndedIterator<Item = &'a Overlay> + use<'a> {
        [self.active].into_iter().chain(self.frozen)
    }
}

impl<'a> Layer<'a> {
    fn new(slots: impl Iterator<Item = (Bytes, Slot)> + 'a, is_cleared: bool) -> Self {
        Self { slots: Box::new(slots), is_cleared }
    }
}

/// Merges the pairs of the engine and the slots of the layers above it, lowest first, all sorted by `order`.
fn layers<'a>(
    engine: Option<PairIter<'a>>,
    uppers: impl Iterator<Item = Layer<'a>>,
    order: fn(&Bytes, &Bytes) -> Ordering,
) -> Box<dyn Iterator<Item = Found> + 'a> {
    let mut merged: Box<dyn Iterator<Item = Found> + 'a> =
        Box::new(engine.into_iter().flatten().map(|pair| pair.map(|(key, value)| (key, Some(value)))));
    for Layer { slots, is_cleared } in uppers {
        if is_cleared {
            merged = Box::new(std::iter::empty());
        }
        merged = Box::new(Merge { upper: slots.map(Ok).peekable(), lower: merged.peekable(), order });
    }
    merged
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
