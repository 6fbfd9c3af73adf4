//! Channels: subscriptions, messages, and counts of subscribers.

use bytes::Bytes;
use helios_proto::Error;
use helios_service::glob::Pattern;
use helios_service::pubsub::{MAX_TOPICS, Topic};

use super::super::error::Refusal;
use super::super::frame::Frame;
use super::local::Context;
use super::{Args, Local, Request};

/// Query of `PUBSUB` about the clients of this node.
#[derive(Debug)]
pub enum Census {
    Channels(Option<Pattern>),
    Listeners(Vec<Bytes>),
    Patterns,
}

/// Takes channels or patterns. No connection may have more subscriptions, so a longer request repeats itself.
fn topics(mut args: Args) -> Result<Vec<Bytes>, Refusal> {
    if args.len() > MAX_TOPICS {
        return Err(Refusal::other(format!("ERR a request takes at most {MAX_TOPICS} channels or patterns")));
    }
    args.keys()
}

pub fn subscribe(args: Args) -> Result<Request, Refusal> {
    Ok(Request::Subscribe { topic: Topic::Channel, names: topics(args)? })
}

pub fn psubscribe(args: Args) -> Result<Request, Refusal> {
    let names = topics(args)?;
    names.iter().try_for_each(|name| Pattern::new(name).map(drop))?;
    Ok(Request::Subscribe { topic: Topic::Pattern, names })
}

pub fn unsubscribe(args: Args) -> Result<Request, Refusal> {
    Ok(Request::Unsubscribe { topic: Topic::Channel, names: topics(args)? })
}

pub fn punsubscribe(args: Args) -> Result<Request, Refusal> {
    Ok(Request::Unsubscribe { topic: Topic::Pattern, names: topics(args)? })
}

pub fn publish(mut args: Args) -> Result<Request, Refusal> {
    Ok(Request::Publish { channel: args.key()?, payload: args.value()? })
}

pub fn channels(mut args: Args) -> Result<Request, Refusal> {
    let pattern = if args.len() > 0 { Some(args.pattern()?) } else { None };
    args.end()?;
    Ok(Request::Local(Local::Census(Census::Channels(pattern))))
}

pub fn numsub(args: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Census(Census::Listeners(args.rest()))))
}

pub fn numpat(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Census(Census::Patterns)))
}

impl Census {
    pub fn execute(self, context: &Context<'_>) -> Frame {
        let broker = context.broker;
        match self {
            Self::Channels(pattern) => match broker.channels(pattern.as_ref()) {
                Ok(channels) => Frame::Array(channels.into_iter().map(Frame::Bulk).collect()),
                Err(exhausted) => Error::from(exhausted).into(),
            },
            Self::Listeners(channels) => {
                let counted = channels.into_iter().flat_map(|channel| {
                    let count = broker.listeners(&channel) as i64;
                    [Frame::Bulk(channel), Frame::Integer(count)]
                });
                Frame::Array(counted.collect())
            }
            Self::Patterns => Frame::Integer(broker.pattern_count() as i64),
        }
    }
}
