//! `HSCAN`, `SSCAN` and `ZSCAN`: walks over the elements of one key, in the order of the elements' names.
//!
//! Their cursors are those of `SCAN`, made from the name of an element in place of a key.

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::Replies;
use helios_proto::v1::reply::Kind;
use helios_service::glob::{Pattern, Steps};
use helios_state::commands;

use super::super::cursor::cursor_of;
use super::super::error::Refusal;
use super::super::frame::Frame;
use super::read::{Read, Snapshot};
use super::scan::{Options, cursor};
use super::{Args, Request};

/// Elements read at once during the search for the element that a cursor names.
const SEARCH_PAGE: usize = 1_024;

#[derive(Debug)]
pub struct ElementScan {
    command: &'static str,
    key: Bytes,
    cursor: u64,
    options: Options,
    /// Whether the reply has the data of each element (value or score) after its name.
    with_data: bool,
}

pub fn hscan(args: Args) -> Result<Request, Refusal> {
    parse(args, true)
}

pub fn sscan(args: Args) -> Result<Request, Refusal> {
    parse(args, false)
}

pub fn zscan(args: Args) -> Result<Request, Refusal> {
    parse(args, true)
}

fn parse(mut args: Args, with_data: bool) -> Result<Request, Refusal> {
    let command = args.spec.name;
    let (key, cursor) = (args.key()?, cursor(&args.word()?)?);
    let options = Options::parse(args, |_, _| false)?;
    Ok(Request::Read(Read::Elements(ElementScan { command, key, cursor, options, with_data })))
}

/// Elements in order, and the name of the element after them.
struct Page {
    elements: Vec<(Bytes, Bytes)>,
    next: Option<Bytes>,
}

impl ElementScan {
    pub fn pattern(&self) -> Option<&Pattern> {
        self.options.pattern.as_ref()
    }

    pub async fn execute(self, at: &Snapshot<'_>) -> Result<Frame, Error> {
        let key = self.key.clone();
        let first = match self.cursor {
            0 => Some(Bytes::new()),
            cursor => match at.cursors.element(&self.key, cursor) {
                Some(name) => Some(name),
                None => self.search(at).await?,
            },
        };
        // As in Redis, a cursor without an element ends the walk.
        let page = match first {
            Some(first) => self.page(first, self.options.count, at).await?,
            None => Page { elements: Vec::new(), next: None },
        };
        let next = page.next.map_or(0, |name| at.cursors.issue_element(&key, &name));
        let (mut parts, mut steps) = (Vec::new(), Steps::default());
        for (name, data) in page.elements {
            if self.options.selects(&name, &mut steps)? {
                parts.extend([Some(name), self.with_data.then_some(data)]);
            }
        }
        let parts = parts.into_iter().flatten().map(Frame::Bulk).collect();
        Ok(Frame::Array(vec![Frame::bulk(next.to_string()), Frame::Array(parts)]))
    }

    /// Searches the name that the cursor was issued for, by another member or long ago.
    async fn search(&self, at: &Snapshot<'_>) -> Result<Option<Bytes>, Error> {
        let mut next = Some(Bytes::new());
        while let Some(first) = next {
            let page = self.page(first, SEARCH_PAGE, at).await?;
            let mut names = page.elements.into_iter().map(|(name, _)| name);
            if let Some(found) = names.find(|name| cursor_of(name) == self.cursor) {
                return Ok(Some(found));
            }
            next = page.next;
            tokio::task::yield_now().await;
        }
        Ok(None)
    }

    async fn page(&self, first: Bytes, count: usize, at: &Snapshot<'_>) -> Result<Page, Error> {
        let args = vec![self.key.clone(), count.to_string().into(), first];
        let answer = at.query(commands::call(self.command, args)).await?;
        let mut parts = items(answer);
        let (next, elements) = (parts.next(), parts.next());
        let next = next.and_then(bytes);
        let mut elements = elements.into_iter().flat_map(items).filter_map(bytes);
        let elements = std::iter::from_fn(|| Some((elements.next()?, elements.next()?)));
        Ok(Page { elements: elements.collect(), next })
    }
}

fn items(kind: Kind) -> impl Iterator<Item = Kind> {
    let Replies { items } = match kind {
        Kind::List(list) => list,
        _ => Replies::default(),
    };
    items.into_iter().filter_map(|reply| reply.kind)
}

fn bytes(kind: Kind) -> Option<Bytes> {
    match kind {
        Kind::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}
