//! The engine `runs`: see [`helios_runs`].

use bytes::Bytes;
use helios_runs::{Stats, View};

use super::{EngineError, PairIter, StateEngine};

impl StateEngine for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.get(key)?)
    }

    fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.range(start, end).map(|pair| pair.map_err(EngineError::from)))
    }

    fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.range_back(start, end).map(|pair| pair.map_err(EngineError::from)))
    }

    fn all(&self) -> PairIter<'_> {
        Box::new(self.all().map(|pair| pair.map_err(EngineError::from)))
    }

    fn size_bytes(&self) -> u64 {
        self.bytes()
    }

    fn stats(&self) -> Stats {
        self.stats()
    }
}

impl From<helios_runs::Error> for EngineError {
    fn from(error: helios_runs::Error) -> Self {
        let text = error.to_string();
        match error {
            helios_runs::Error::Io { source, .. } => Self::Disk(std::io::Error::new(source.kind(), text)),
            helios_runs::Error::Corrupt { .. } => Self::Corrupt(text),
            helios_runs::Error::Newer { .. } => Self::Newer(text),
        }
    }
}
