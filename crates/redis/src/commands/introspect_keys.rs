//! Keys in `COMMAND`: those of a request, and the key specifications of a command.

use bytes::Bytes;

use super::super::error::Refusal;
use super::super::frame::Frame;
use super::super::table::{Keys, Spec, find, resolve};
use super::introspect::bounded;
use super::{Args, Local, Request};

pub fn getkeys(args: Args) -> Result<Request, Refusal> {
    let keys = keys_of(args)?;
    Ok(Request::Local(Local::Answer(Frame::Array(
        keys.into_iter().map(|(key, _)| Frame::Bulk(key)).collect(),
    ))))
}

pub fn getkeys_and_flags(args: Args) -> Result<Request, Refusal> {
    let keys = keys_of(args)?;
    let pairs = keys.into_iter().map(|(key, access)| Frame::Array(vec![Frame::Bulk(key), flags(access)]));
    Ok(Request::Local(Local::Answer(Frame::Array(bounded(pairs, Frame::cost)?))))
}

/// Returns the keys of a request, each with its access flags.
fn keys_of(args: Args) -> Result<Vec<(Bytes, &'static str)>, Refusal> {
    let words = args.rest();
    let spec = match resolve(&words) {
        Ok(spec) => spec,
        Err(Refusal::Arity(name)) if takes_no_keys(name) => return Err(no_keys()),
        Err(Refusal::Arity(_)) => {
            return Err(Refusal::other("ERR Invalid number of arguments specified for command"));
        }
        Err(_) => return Err(Refusal::other("ERR Invalid command specified")),
    };
    if spec.keys.is_none() {
        return Err(no_keys());
    }
    let positions = spec.key_positions(&words).filter(|keys| !keys.is_empty() || spec.may_lack_keys());
    let positions = positions.ok_or(Refusal::other("ERR Invalid arguments specified for command"))?;
    let [first, others] = match spec.key_access() {
        [_, others] if spec.name == "set" && gets(&words) => ["RW access update", others],
        access => access,
    };
    let keys = positions.into_iter().enumerate();
    let keys = keys.map(|(number, at)| (words[at].clone(), if number == 0 { first } else { others }));
    Ok(keys.collect())
}

fn takes_no_keys(name: &str) -> bool {
    find(name.as_bytes()).is_some_and(|spec| spec.keys.is_none())
}

fn no_keys() -> Refusal {
    Refusal::other("ERR The command has no key arguments")
}

/// Whether a `SET` has the option `GET`, which returns the previous value.
fn gets(words: &[Bytes]) -> bool {
    words.iter().skip(3).any(|option| option.eq_ignore_ascii_case(b"get"))
}

fn flags(access: &str) -> Frame {
    Frame::Set(access.split(' ').map(|flag| Frame::Simple(flag.to_owned().into())).collect())
}

/// Returns the key specifications of `COMMAND INFO`.
pub fn specifications(spec: &Spec) -> Vec<Frame> {
    let Keys { first, last, step, counted_at } = spec.keys;
    let [of_first, of_others] = spec.key_access();
    let mut all = Vec::new();
    if first > 0 {
        // Relative to the first key, as in Redis.
        let last = if last < 0 { last } else { last - first };
        let found = [("lastkey", last), ("keystep", step), ("limit", 0)];
        all.push(specification(of_first, first, "range", &found));
    }
    if counted_at > 0 {
        let access = if first > 0 { of_others } else { of_first };
        let found = [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)];
        all.push(specification(access, counted_at as i32, "keynum", &found));
    }
    all
}

fn specification(access: &str, index: i32, kind: &'static str, found: &[(&'static str, i32)]) -> Frame {
    let text = Frame::text;
    let numbers = |pairs: &[(&'static str, i32)]| {
        Frame::Map(
            pairs.iter().map(|(name, number)| (text(name), Frame::Integer((*number).into()))).collect(),
        )
    };
    let typed = |kind, spec| Frame::Map(vec![(text("type"), text(kind)), (text("spec"), spec)]);
    Frame::Map(vec![
        (text("flags"), flags(access)),
        (text("begin_search"), typed("index", numbers(&[("index", index)]))),
        (text("find_keys"), typed(kind, numbers(found))),
    ])
}
