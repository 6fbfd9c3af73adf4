//! `EVAL`, `EVALSHA`, their read-only variants, and `SCRIPT`.

use bytes::Bytes;

use super::super::error::Refusal;
use super::super::frame::Frame;
use super::super::script::{Body, Purpose, ScriptCall, Scripts};
use super::args::is;
use super::{Args, Local, Request};

#[derive(Debug)]
pub enum ScriptRequest {
    Exists(Vec<Bytes>),
    Flush,
    Kill,
}

pub fn eval(args: Args) -> Result<Request, Refusal> {
    call(args, Body::Text, false)
}

pub fn eval_ro(args: Args) -> Result<Request, Refusal> {
    call(args, Body::Text, true)
}

pub fn evalsha(args: Args) -> Result<Request, Refusal> {
    call(args, Body::Digest, false)
}

pub fn evalsha_ro(args: Args) -> Result<Request, Refusal> {
    call(args, Body::Digest, true)
}

/// Parses `script numkeys [key ...] [arg ...]`.
fn call(mut args: Args, body: fn(Bytes) -> Body, read_only: bool) -> Result<Request, Refusal> {
    let body = body(args.word()?);
    let count = args.integer()?;
    if count > args.len() as i64 {
        return Err(Refusal::other("ERR Number of keys can't be greater than number of args"));
    }
    let count = usize::try_from(count).map_err(|_| Refusal::other("ERR Number of keys can't be negative"))?;
    let keys = (0..count).map(|_| args.key()).collect::<Result<_, _>>()?;
    Ok(Request::Script(ScriptCall { body, keys, args: args.rest(), read_only, purpose: Purpose::Run }))
}

fn request(request: ScriptRequest) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Script(request)))
}

pub fn load(mut args: Args) -> Result<Request, Refusal> {
    let body = Body::Text(args.word()?);
    let (keys, args) = Default::default();
    Ok(Request::Script(ScriptCall { body, keys, args, read_only: true, purpose: Purpose::Load }))
}

pub fn exists(args: Args) -> Result<Request, Refusal> {
    request(ScriptRequest::Exists(args.rest()))
}

/// Parses `SCRIPT FLUSH`; `ASYNC` and `SYNC` are the same here.
pub fn flush(mut args: Args) -> Result<Request, Refusal> {
    let option = args.next();
    if option.is_some_and(|option| !(is(&option, "async") || is(&option, "sync"))) || args.len() > 0 {
        return Err(Refusal::other("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
    }
    request(ScriptRequest::Flush)
}

pub fn kill(_: Args) -> Result<Request, Refusal> {
    request(ScriptRequest::Kill)
}

impl ScriptRequest {
    pub fn execute(self, scripts: &Scripts) -> Frame {
        match self {
            Self::Exists(digests) => {
                let kept = digests.iter().map(|digest| Frame::Integer(scripts.is_kept(digest).into()));
                Frame::Array(kept.collect())
            }
            Self::Flush => {
                scripts.forget_all();
                Frame::OK
            }
            Self::Kill if scripts.kill_all() => Frame::OK,
            Self::Kill => Frame::error("NOTBUSY No scripts in execution right now."),
        }
    }
}
