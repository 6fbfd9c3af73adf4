//! `COMMAND`: the table of commands, in the shapes that clients expect.

use helios_service::glob::{Pattern, Steps};

use super::super::error::Refusal;
use super::super::frame::Frame;
use super::super::table::{COMMANDS, Flags, Keys, Spec, find};
use super::args::is;
use super::{Args, Local, Request, introspect_keys};

/// Limit on a reply about commands and keys that the client names, in bytes.
pub const MAX_ANSWER_BYTES: usize = 4 << 20;

fn answer(frame: Frame) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Answer(frame)))
}

/// Rejects a container command without a subcommand.
pub fn container(args: Args) -> Result<Request, Refusal> {
    Err(Refusal::Arity(args.spec.name))
}

pub fn all(_: Args) -> Result<Request, Refusal> {
    answer(Frame::Array(COMMANDS.iter().map(|spec| describe(spec)).collect()))
}

pub fn count(_: Args) -> Result<Request, Refusal> {
    answer(Frame::Integer(COMMANDS.len() as i64))
}

/// Collects the parts of a reply up to [`MAX_ANSWER_BYTES`]; the client may name the same command many times.
pub fn bounded<T>(parts: impl Iterator<Item = T>, cost: impl Fn(&T) -> usize) -> Result<Vec<T>, Refusal> {
    let mut bytes = 0;
    parts
        .map(|part| {
            bytes += cost(&part);
            if bytes <= MAX_ANSWER_BYTES { Ok(part) } else { Err(too_much()) }
        })
        .collect()
}

fn too_much() -> Refusal {
    Refusal::other(format!(
        "ERR the answer would have more than {MAX_ANSWER_BYTES} bytes (the limit is fixed): name fewer commands or keys"
    ))
}

pub fn info(args: Args) -> Result<Request, Refusal> {
    if args.len() == 0 {
        return all(args);
    }
    let names = args.rest();
    let described = names.iter().map(|name| find_any(name).map_or(Frame::NullArray, describe));
    answer(Frame::Array(bounded(described, Frame::cost)?))
}

/// Finds a command or subcommand; a subcommand is named with its container: `client|id`.
fn find_any(name: &[u8]) -> Option<&'static Spec> {
    let container = find(name.split(|byte| *byte == b'|').next()?)?;
    if !name.contains(&b'|') {
        return Some(container);
    }
    container.subcommands.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

pub fn docs(args: Args) -> Result<Request, Refusal> {
    let names = args.rest();
    let specs: Vec<&Spec> = match names.as_slice() {
        [] => COMMANDS.to_vec(),
        names => names.iter().filter_map(|name| find_any(name)).collect(),
    };
    let documents = specs.into_iter().map(document);
    answer(Frame::Map(bounded(documents, |(name, document)| name.cost() + document.cost())?))
}

/// Parses `[FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`; there are no modules.
pub fn list(mut args: Args) -> Result<Request, Refusal> {
    let (mut category, mut pattern, mut no_modules) = (None, None, false);
    if args.len() > 0 {
        if !is(&args.word()?, "filterby") {
            return Err(Refusal::Syntax);
        }
        let (by, what) = (args.word()?, args.word()?);
        match by {
            by if is(&by, "module") => no_modules = true,
            by if is(&by, "aclcat") => category = Some(String::from_utf8_lossy(&what).to_ascii_lowercase()),
            by if is(&by, "pattern") => pattern = Some(Pattern::ignoring_case(&what)?),
            _ => return Err(Refusal::Syntax),
        }
        args.end()?;
    }
    let fits = |spec: &&Spec| {
        let is_of = |category: &String| categories(spec).iter().any(|own| own[1..] == **category);
        !no_modules
            && category.as_ref().is_none_or(is_of)
            && pattern.as_ref().is_none_or(|pattern| {
                pattern.matches(spec.name.as_bytes(), &mut Steps::default()) == Ok(true)
            })
    };
    let all = COMMANDS.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands));
    answer(Frame::Array(all.filter(fits).map(|spec| Frame::bulk(spec.name)).collect()))
}

pub fn help(args: Args) -> Result<Request, Refusal> {
    Ok(help_of(args.spec))
}

/// Returns the reply to `HELP`: the subcommands beside `help` itself, from the table.
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

/// Returns the ten fields of `COMMAND INFO`.
fn describe(spec: &Spec) -> Frame {
    let words =
        |words: Vec<String>| Frame::Set(words.into_iter().map(|word| Frame::Simple(word.into())).collect());
    let Keys { first, last, step, .. } = spec.keys;
    Frame::Array(vec![
        Frame::bulk(spec.name),
        Frame::Integer(spec.arity.into()),
        words(spec.flags.names().map(str::to_owned).collect()),
        Frame::Integer(first.into()),
        Frame::Integer(last.into()),
        Frame::Integer(step.into()),
        words(categories(spec)),
        Frame::Array(vec![]),
        Frame::Array(introspect_keys::specifications(spec)),
        Frame::Array(spec.subcommands.iter().map(describe).collect()),
    ])
}

/// Returns the categories as Redis derives them from the flags.
fn categories(spec: &Spec) -> Vec<String> {
    let derived = [
        (Flags::WRITE, "@write"),
        (Flags::READONLY, "@read"),
        (Flags::ADMIN, "@admin"),
        (Flags::ADMIN, "@dangerous"),
        (Flags::BLOCKING, "@blocking"),
    ];
    let speed = if spec.has(Flags::FAST) { "@fast" } else { "@slow" };
    let flags = derived.into_iter().filter(|(flag, _)| spec.has(*flag)).map(|(_, category)| category);
    let group = match spec.group.name() {
        "generic" => Some("@keyspace".to_owned()),
        "sorted-set" => Some("@sortedset".to_owned()),
        name @ ("string" | "connection" | "hash" | "set" | "list" | "pubsub" | "scripting") => {
            Some(format!("@{name}"))
        }
        "transactions" => Some("@transaction".to_owned()),
        _ => None,
    };
    flags.chain([speed]).map(str::to_owned).chain(group).collect()
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
