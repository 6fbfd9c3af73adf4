//! Commands on keys that the state executes from their words.

use bytes::Bytes;
use helios_proto::v1::Call;
use helios_proto::v1::command::Op;

use super::super::error::Refusal;
use super::args::is;
use super::strings::{expiry_option, set_expiry_ms};
use super::write::Answer;
use super::{Args, Read, Request, Write};

/// Passes the words to the state command of the same name.
pub fn call(args: Args) -> Result<Request, Refusal> {
    let name = args.spec.name;
    call_as(name, args)
}

/// Parses `SUBSTR`, the former name of `GETRANGE`.
pub fn substr(args: Args) -> Result<Request, Refusal> {
    call_as("getrange", args)
}

fn call_as(name: &str, args: Args) -> Result<Request, Refusal> {
    let writes = args.spec.has_flag("write");
    let call = Call { name: name.to_owned(), args: args.checked()? };
    Ok(if writes { Write::plain(Op::Call(call)) } else { Request::Read(Read::Query(call)) })
}

/// Parses `GETEX`. The time is made absolute here, so that it counts from the arrival of the request.
pub fn getex(mut args: Args) -> Result<Request, Refusal> {
    let mut words = vec![args.key()?];
    if let Some(option) = args.next() {
        if is(&option, "persist") {
            words.push(option);
        } else {
            let (unit, relative) = expiry_option(&option).ok_or(Refusal::Syntax)?;
            let at_ms = set_expiry_ms(&mut args, unit, relative)?;
            words.extend([Bytes::from_static(b"PXAT"), at_ms.to_string().into()]);
        }
    }
    args.end()?;
    Ok(Write::plain(Op::Call(Call { name: "getex".to_owned(), args: words })))
}

/// Parses `SORT`: with `STORE` it is a write, otherwise a read.
pub fn sort(args: Args) -> Result<Request, Refusal> {
    let words = args.checked()?;
    let writes = has_store(&words);
    let call = Call { name: if writes { "sort" } else { "sort_ro" }.to_owned(), args: words };
    Ok(if writes { Write::plain(Op::Call(call)) } else { Request::Read(Read::Query(call)) })
}

fn has_store(words: &[Bytes]) -> bool {
    let mut options = words.iter().skip(1);
    while let Some(option) = options.next() {
        let skipped = match option {
            word if is(word, "store") => return true,
            word if is(word, "limit") => 2,
            word if is(word, "by") || is(word, "get") => 1,
            _ => 0,
        };
        options.by_ref().take(skipped).for_each(drop);
    }
    false
}

/// Parses `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`; the last two are
/// checked and ignored.
pub fn restore(mut args: Args) -> Result<Request, Refusal> {
    let (key, ttl_ms, payload) = (args.key()?, args.word()?, args.value()?);
    let (mut replaces, mut is_absolute, mut has_use) = (false, false, false);
    while let Some(option) = args.next() {
        match option {
            word if is(&word, "replace") => replaces = true,
            word if is(&word, "absttl") => is_absolute = true,
            word if is(&word, "idletime") && !has_use && args.len() > 0 => {
                has_use = true;
                if args.integer()? < 0 {
                    return Err(Refusal::other("ERR Invalid IDLETIME value, must be >= 0"));
                }
            }
            word if is(&word, "freq") && !has_use && args.len() > 0 => {
                has_use = true;
                if !(0..=255).contains(&args.integer()?) {
                    return Err(Refusal::other("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
            }
            _ => return Err(Refusal::Syntax),
        }
    }
    let ttl_ms = super::super::codec::parse_integer(&ttl_ms).ok_or(Refusal::NotAnInteger)?;
    let ttl_ms = u64::try_from(ttl_ms).map_err(|_| Refusal::other("ERR Invalid TTL value, must be >= 0"))?;
    let at_ms = if ttl_ms == 0 || is_absolute { ttl_ms } else { ttl_ms.saturating_add(args.now_ms) };
    let mut words = vec![key, at_ms.to_string().into(), payload];
    words.extend(replaces.then_some(Bytes::from_static(b"REPLACE")));
    let op = Op::Call(Call { name: "restore".to_owned(), args: words });
    Ok(Request::Write(Write { op, answer: Answer::UnlessBusy }))
}
