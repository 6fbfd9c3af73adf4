//! `COMMAND`: what the table says, in the shapes clients expect.

use bytes::Bytes;

use super::super::error::Refusal;
use super::super::frame::Frame;
use super::super::table::{COMMANDS, Keys, Spec, find, resolve};
use super::{Args, Local, Request};

fn answer(frame: Frame) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Answer(frame)))
}

/// A container without a subcommand.
pub fn container(args: Args) -> Result<Request, Refusal> {
    Err(Refusal::Arity(args.spec.name))
}

pub fn all(_: Args) -> Result<Request, Refusal> {
    answer(Frame::Array(COMMANDS.iter().map(|spec| describe(spec)).collect()))
}

pub fn count(_: Args) -> Result<Request, Refusal> {
    answer(Frame::Integer(COMMANDS.len() as i64))
}

pub fn info(args: Args) -> Result<Request, Refusal> {
    if args.len() == 0 {
        return all(args);
    }
    let names = args.rest();
    answer(Frame::Array(names.iter().map(|name| find(name).map_or(Frame::NullArray, describe)).collect()))
}

pub fn docs(args: Args) -> Result<Request, Refusal> {
    let names = args.rest();
    let specs: Vec<&Spec> = match names.as_slice() {
        [] => COMMANDS.to_vec(),
        names => names.iter().filter_map(|name| find(name)).collect(),
    };
    answer(Frame::Map(specs.into_iter().map(document).collect()))
}

pub fn getkeys(args: Args) -> Result<Request, Refusal> {
    let words = args.rest();
    let spec = match resolve(&words) {
        Ok(spec) => spec,
        Err(Refusal::Arity(_)) => {
            return Err(Refusal::other("ERR Invalid number of arguments specified for command"));
        }
        Err(_) => return Err(Refusal::other("ERR Invalid command specified")),
    };
    let keys: Vec<Bytes> = spec.keys.positions(words.len()).map(|position| words[position].clone()).collect();
    if keys.is_empty() {
        return Err(Refusal::other("ERR The command has no key arguments"));
    }
    answer(Frame::Array(keys.into_iter().map(Frame::Bulk).collect()))
}

pub fn help(args: Args) -> Result<Request, Refusal> {
    Ok(help_of(args.spec))
}

/// The subcommands beside `help` itself, from the table.
pub fn help_of(help: &Spec) -> Request {
    let container = help.name.split('|').next().unwrap_or_default();
    let subcommands = find(container.as_bytes()).map_or(&[][..], |spec| spec.subcommands);
    let title = format!("{} <subcommand>. Subcommands are:", container.to_ascii_uppercase());
    let lines = subcommands.iter().flat_map(|spec| {
        let (_, own) = spec.name.split_once('|').unwrap_or_default();
        [own.to_ascii_uppercase(), format!("    {}", spec.summary)]
    });
    let lines = std::iter::once(title).chain(lines).map(|line| Frame::Simple(line.into()));
    Request::Local(Local::Answer(Frame::Array(lines.collect())))
}

/// The ten fields of `COMMAND INFO`.
fn describe(spec: &Spec) -> Frame {
    let words =
        |words: Vec<String>| Frame::Set(words.into_iter().map(|word| Frame::Simple(word.into())).collect());
    let Keys { first, last, step } = spec.keys;
    Frame::Array(vec![
        Frame::bulk(spec.name),
        Frame::Integer(spec.arity.into()),
        words(spec.flags.split_ascii_whitespace().map(str::to_owned).collect()),
        Frame::Integer(first.into()),
        Frame::Integer(last.into()),
        Frame::Integer(step.into()),
        words(categories(spec)),
        Frame::Array(vec![]),
        Frame::Array(key_specification(spec).into_iter().collect()),
        Frame::Array(spec.subcommands.iter().map(describe).collect()),
    ])
}

/// Categories as Redis derives them from the flags.
fn categories(spec: &Spec) -> Vec<String> {
    let derived = [
        ("write", "@write"),
        ("readonly", "@read"),
        ("admin", "@admin"),
        ("admin", "@dangerous"),
        ("blocking", "@blocking"),
    ];
    let speed = if spec.has_flag("fast") { "@fast" } else { "@slow" };
    let flags = derived.into_iter().filter(|(flag, _)| spec.has_flag(flag)).map(|(_, category)| category);
    let group = match spec.group.name() {
        "generic" => Some("@keyspace".to_owned()),
        "sorted-set" => Some("@sortedset".to_owned()),
        name @ ("string" | "connection" | "hash" | "set" | "list" | "pubsub") => Some(format!("@{name}")),
        "transactions" => Some("@transaction".to_owned()),
        _ => None,
    };
    flags.chain([speed]).map(str::to_owned).chain(group).collect()
}

fn key_specification(spec: &Spec) -> Option<Frame> {
    let Keys { first, last, step } = spec.keys;
    let text = Frame::text;
    let number = |number: i32| Frame::Integer(number.into());
    // Relative to the first key, as in Redis.
    let last = if last < 0 { last } else { last - first };
    let access = if spec.has_flag("write") { "RW" } else { "RO" };
    (first > 0).then(|| {
        Frame::Map(vec![
            (text("flags"), Frame::Set(vec![Frame::Simple(access.into())])),
            (
                text("begin_search"),
                Frame::Map(vec![
                    (text("type"), text("index")),
                    (text("spec"), Frame::Map(vec![(text("index"), number(first))])),
                ]),
            ),
            (
                text("find_keys"),
                Frame::Map(vec![
                    (text("type"), text("range")),
                    (
                        text("spec"),
                        Frame::Map(vec![
                            (text("lastkey"), number(last)),
                            (text("keystep"), number(step)),
                            (text("limit"), number(0)),
                        ]),
                    ),
                ]),
            ),
        ])
    })
}

fn document(spec: &Spec) -> (Frame, Frame) {
    let text = Frame::text;
    let mut fields = vec![
        (text("summary"), text(spec.summary)),
        (text("since"), text(spec.since)),
        (text("group"), text(spec.group.name())),
    ];
    if !spec.subcommands.is_empty() {
        fields.push((text("subcommands"), Frame::Map(spec.subcommands.iter().map(document).collect())));
    }
    (text(spec.name), Frame::Map(fields))
}
