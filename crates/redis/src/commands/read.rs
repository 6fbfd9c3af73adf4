//! Commands answered from the local state.

use helios_proto::Error;
use helios_proto::v1::Call;
use helios_proto::v1::reply::Kind;
use helios_service::glob::Pattern;
use helios_service::long_reads;
use helios_state::Store;

use super::super::cursor::Cursors;
use super::super::frame::Frame;
use super::super::stats::Stats;
use super::element_scan::ElementScan;
use super::scan::Scan;
use super::write;

#[derive(Debug)]
pub enum Read {
    Query(Call),
    Scan(Scan),
    Elements(ElementScan),
    Keys { pattern: Pattern },
}

/// State that a read may access.
pub struct Snapshot<'a> {
    pub store: &'a Store,
    pub wall_ms: u64,
    pub cursors: &'a Cursors,
    pub stats: &'a Stats,
    /// Query function of a script's trial, which replaces the store.
    pub tried: Option<Tried<'a>>,
}

pub type Tried<'a> = &'a (dyn Fn(&Call) -> Result<Kind, Error> + Sync);

impl Read {
    pub fn pattern(&self) -> Option<&Pattern> {
        match self {
            Self::Query(_) => None,
            Self::Scan(scan) => scan.pattern(),
            Self::Elements(scan) => scan.pattern(),
            Self::Keys { pattern } => Some(pattern),
        }
    }

    pub async fn execute(self, at: &Snapshot<'_>) -> Result<Frame, Error> {
        match self {
            Self::Query(call) => at.query_as(call, write::frame).await,
            Self::Scan(scan) => scan.execute(at).await,
            Self::Elements(scan) => scan.execute(at).await,
            Self::Keys { pattern } => super::scan::all_keys(&pattern, at).await,
        }
    }
}

impl Snapshot<'_> {
    pub async fn query(&self, call: Call) -> Result<Kind, Error> {
        self.query_as(call, |kind| kind).await
    }

    /// Runs a query and converts its answer. `convert` runs on the same thread as the read: for a long answer
    /// it takes as long.
    async fn query_as<T: Send + 'static>(&self, call: Call, convert: fn(Kind) -> T) -> Result<T, Error> {
        if let Some(tried) = self.tried {
            return tried(&call).map(convert);
        }
        let wall_ms = self.wall_ms;
        let read = move |store: &Store, limits| {
            let (answer, lookups) = store.query(&call, wall_ms, limits)?;
            Ok((convert(answer), lookups))
        };
        let (answer, lookups) = long_reads::run(self.store, read).await?;
        self.stats.looked_up(lookups);
        Ok(answer)
    }
}
