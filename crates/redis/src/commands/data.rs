//! Commands on keys: the tables of the state describe them.

use helios_proto::v1::command::Op;
use helios_state::commands::{self, Spec};

use super::super::error::Refusal;
use super::write::Answer;
use super::{Args, Read, Request, Write};

/// Prepares the call of the state's command in the row of the request.
pub fn call(args: Args) -> Result<Request, Refusal> {
    let now_ms = args.now_ms;
    let spec = args.spec.state.ok_or(Refusal::Syntax)?;
    let call = spec.prepare(args.checked()?, now_ms)?;
    if !commands::of(&call).is_some_and(Spec::writes) {
        return Ok(Request::Read(Read::Query(call)));
    }
    let answer = if spec.name == "restore" { Answer::UnlessBusy } else { Answer::Plain };
    Ok(Request::Write(Write { op: Op::Call(call), answer }))
}
