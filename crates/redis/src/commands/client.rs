//! `CLIENT`: labels that connections set, and the list of connections.

use super::super::clients::Client;
use super::super::codec::parse_integer;
use super::super::error::{Refusal, shown};
use super::super::frame::Frame;
use super::args::is;
use super::local::Context;
use super::{Args, Local, Request, introspect};

#[derive(Debug)]
pub enum ClientRequest {
    Id,
    GetName,
    SetName(String),
    SetLibraryName(String),
    SetLibraryVersion(String),
    Info,
    List(Selection),
}

/// Selection of connections to list.
#[derive(Debug)]
pub enum Selection {
    All,
    Numbered(Vec<i64>),
    Typed(Type),
}

fn request(request: ClientRequest) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Client(request)))
}

pub fn help(args: Args) -> Result<Request, Refusal> {
    Ok(introspect::help_of(args.spec))
}

pub fn id(_: Args) -> Result<Request, Refusal> {
    request(ClientRequest::Id)
}

pub fn getname(_: Args) -> Result<Request, Refusal> {
    request(ClientRequest::GetName)
}

pub fn info(_: Args) -> Result<Request, Refusal> {
    request(ClientRequest::Info)
}

pub fn setname(mut args: Args) -> Result<Request, Refusal> {
    request(ClientRequest::SetName(checked_label(&args.word()?, "Client names")?))
}

pub fn setinfo(mut args: Args) -> Result<Request, Refusal> {
    let (option, value) = (args.word()?, args.word()?);
    if is(&option, "lib-name") {
        request(ClientRequest::SetLibraryName(checked_label(&value, "lib-name")?))
    } else if is(&option, "lib-ver") {
        request(ClientRequest::SetLibraryVersion(checked_label(&value, "lib-ver")?))
    } else {
        Err(Refusal::other(format!("ERR Unrecognized option '{}'", shown(&option, 128))))
    }
}

/// Parses `NO-EVICT` and `NO-TOUCH`: `ON` and `OFF` both describe the fixed behaviour of this server.
pub fn switch(mut args: Args) -> Result<Request, Refusal> {
    let word = args.word()?;
    if is(&word, "on") || is(&word, "off") {
        Ok(Request::Local(Local::Answer(Frame::OK)))
    } else {
        Err(Refusal::Syntax)
    }
}

pub fn list(mut args: Args) -> Result<Request, Refusal> {
    let selection = match args.next() {
        None => Selection::All,
        Some(option) if is(&option, "id") && args.len() > 0 => {
            let ids = args.rest().iter().map(|id| parse_integer(id)).collect::<Option<_>>();
            Selection::Numbered(ids.ok_or(Refusal::other("ERR Invalid client ID"))?)
        }
        Some(option) if is(&option, "type") && args.len() == 1 => {
            Selection::Typed(Type::parse(&args.word()?)?)
        }
        Some(_) => return Err(Refusal::Syntax),
    };
    request(ClientRequest::List(selection))
}

/// Type of a connection in Redis's terms. No connection here is a replica or a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Normal,
    PubSub,
    Other,
}

impl Type {
    pub fn parse(name: &[u8]) -> Result<Self, Refusal> {
        match name {
            name if is(name, "normal") => Ok(Self::Normal),
            name if is(name, "pubsub") => Ok(Self::PubSub),
            name if ["master", "replica", "slave"].iter().any(|known| is(name, known)) => Ok(Self::Other),
            name => Err(Refusal::other(format!("ERR Unknown client type '{}'", shown(name, 128)))),
        }
    }

    pub fn of(client: &Client) -> Self {
        if client.profile().listens() { Self::PubSub } else { Self::Normal }
    }
}

/// Checks that a label fits into one field of `CLIENT LIST`; at most 1 KiB.
pub fn checked_label(label: &[u8], what: &str) -> Result<String, Refusal> {
    match String::from_utf8(label.to_vec()) {
        Ok(text) if text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(text),
        _ => {
            Err(Refusal::other(format!("ERR {what} cannot contain spaces, newlines or special characters.")))
        }
    }
}

impl ClientRequest {
    pub fn execute(self, context: &mut Context<'_>) -> Frame {
        let client = context.client;
        match self {
            Self::Id => return Frame::Integer(client.id.cast_signed()),
            Self::GetName => {
                let name = client.profile().name.clone();
                return if name.is_empty() { Frame::Null } else { Frame::bulk(name) };
            }
            Self::Info => return Frame::verbatim(client.describe()),
            Self::List(selection) => {
                let wanted = |client: &Client| match &selection {
                    Selection::All => true,
                    Selection::Numbered(ids) => ids.contains(&client.id.cast_signed()),
                    Selection::Typed(wanted) => Type::of(client) == *wanted,
                };
                let clients = context.shared.clients.list();
                let lines = clients.iter().filter(|client| wanted(client)).map(|client| client.describe());
                return Frame::verbatim(lines.collect());
            }
            Self::SetName(name) => client.profile().name = name,
            Self::SetLibraryName(name) => client.profile().library_name = name,
            Self::SetLibraryVersion(version) => client.profile().library_version = version,
        }
        Frame::OK
    }
}
