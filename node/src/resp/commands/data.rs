//! Commands on keys that go to the state as the words they came in.

use bytes::Bytes;
use helios_proto::v1::Call;
use helios_proto::v1::command::Op;

use super::super::error::Refusal;
use super::args::is;
use super::strings::{expiry_option, set_expiry_ms};
use super::{Args, Read, Request, Write};

/// Under its own name.
pub fn call(args: Args) -> Result<Request, Refusal> {
    let name = args.spec.name;
    call_as(name, args)
}

/// `SUBSTR`, which is what `GETRANGE` once was called.
pub fn substr(args: Args) -> Result<Request, Refusal> {
    call_as("getrange", args)
}

fn call_as(name: &str, args: Args) -> Result<Request, Refusal> {
    let writes = args.spec.has_flag("write");
    let call = Call { name: name.to_owned(), args: args.checked()? };
    Ok(if writes { Write::plain(Op::Call(call)) } else { Request::Read(Read::Query(call)) })
}

/// The time is made absolute here, so that it counts from when the client asked.
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
