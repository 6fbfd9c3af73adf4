//! `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH`.

use super::super::error::Refusal;
use super::{Args, Local, Request};

pub fn multi(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Multi))
}

pub fn discard(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Discard))
}

pub fn unwatch(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Unwatch))
}

pub fn exec(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Exec)
}

pub fn watch(mut args: Args) -> Result<Request, Refusal> {
    Ok(Request::Watch(args.keys()?))
}
