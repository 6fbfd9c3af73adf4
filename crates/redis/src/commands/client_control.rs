//! `CLIENT KILL`, `PAUSE`, `REPLY` and `UNBLOCK`: commands that control other connections, and the one that sends them.

use std::time::Duration;

use bytes::Bytes;
use helios_service::auth::DEFAULT_USER;

use super::super::clients::{Client, Unblock};
use super::super::codec::parse_integer;
use super::super::error::{Refusal, shown};
use super::super::frame::Frame;
use super::super::pause::Whom;
use super::super::session::Silence;
use super::args::is;
use super::client::Type;
use super::local::Context;
use super::{Args, Local, Request};

#[derive(Debug)]
pub enum Control {
    /// Kills one connection by address, the form before Redis 2.8.12; an error if there is none.
    KillOne(Bytes),
    /// Kills all connections that match; returns their number.
    Kill(Victims),
    Unblock(i64, Unblock),
    Reply(Silence),
    Pause(Duration, Whom),
    Unpause,
}

/// Filters of `CLIENT KILL`; a connection must match all that are set.
#[derive(Debug, Default)]
pub struct Victims {
    id: Option<i64>,
    address: Option<Bytes>,
    local_address: Option<Bytes>,
    of_type: Option<Type>,
    user: Option<Bytes>,
    /// Whether the connection that sends the command is killed, too (`SKIPME no`).
    includes_own: bool,
}

fn request(control: Control) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Control(control)))
}

pub fn kill(mut args: Args) -> Result<Request, Refusal> {
    if args.len() == 1 {
        return request(Control::KillOne(args.word()?));
    }
    let mut victims = Victims::default();
    while let Some(option) = args.next() {
        let argument = args.word()?;
        match option {
            word if is(&word, "id") => victims.id = Some(client_id(&argument)?),
            word if is(&word, "addr") => victims.address = Some(argument),
            word if is(&word, "laddr") => victims.local_address = Some(argument),
            word if is(&word, "type") => victims.of_type = Some(Type::parse(&argument)?),
            word if is(&word, "user") => victims.user = Some(argument),
            word if is(&word, "skipme") && is(&argument, "yes") => victims.includes_own = false,
            word if is(&word, "skipme") && is(&argument, "no") => victims.includes_own = true,
            _ => return Err(Refusal::Syntax),
        }
    }
    request(Control::Kill(victims))
}

fn client_id(word: &[u8]) -> Result<i64, Refusal> {
    let id = parse_integer(word).filter(|id| *id > 0);
    id.ok_or(Refusal::other("ERR client-id should be greater than 0"))
}

pub fn unblock(mut args: Args) -> Result<Request, Refusal> {
    let id = args.integer()?;
    let unblock = match args.next() {
        None => Unblock::Timeout,
        Some(word) if is(&word, "timeout") => Unblock::Timeout,
        Some(word) if is(&word, "error") => Unblock::Error,
        Some(_) => {
            return Err(Refusal::other("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"));
        }
    };
    args.end()?;
    request(Control::Unblock(id, unblock))
}

pub fn reply(mut args: Args) -> Result<Request, Refusal> {
    request(Control::Reply(match args.word()? {
        word if is(&word, "on") => Silence::Never,
        // The reply to `SKIP` itself, and the one after it.
        word if is(&word, "skip") => Silence::Next(2),
        word if is(&word, "off") => Silence::Always,
        _ => return Err(Refusal::Syntax),
    }))
}

/// Parses `timeout [WRITE|ALL]`; the timeout is in milliseconds.
pub fn pause(mut args: Args) -> Result<Request, Refusal> {
    let timeout_ms = parse_integer(&args.word()?);
    let timeout_ms = timeout_ms.ok_or(Refusal::other("ERR timeout is not an integer or out of range"))?;
    let timeout_ms = u64::try_from(timeout_ms).map_err(|_| Refusal::other("ERR timeout is negative"))?;
    let whom = match args.next() {
        None => Whom::All,
        Some(word) if is(&word, "all") => Whom::All,
        Some(word) if is(&word, "write") => Whom::Writers,
        Some(_) => return Err(Refusal::other("ERR CLIENT PAUSE mode must be WRITE or ALL")),
    };
    args.end()?;
    request(Control::Pause(Duration::from_millis(timeout_ms), whom))
}

pub fn unpause(_: Args) -> Result<Request, Refusal> {
    request(Control::Unpause)
}

/// Parses `CLIENT TRACKING`. `ON` is rejected: it would need this node to remember what each client has read.
pub fn tracking(mut args: Args) -> Result<Request, Refusal> {
    match args.word()? {
        word if is(&word, "off") => Ok(Request::Local(Local::Answer(Frame::OK))),
        word if is(&word, "on") => Err(Refusal::other(
            "ERR client tracking is not supported: subscribe to keyspace notifications, or watch keys over gRPC",
        )),
        _ => Err(Refusal::Syntax),
    }
}

pub fn getredir(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Answer(Frame::Integer(-1))))
}

impl Control {
    pub fn execute(self, context: &mut Context<'_>) -> Frame {
        match self {
            Self::KillOne(address) => {
                let victims = Victims { address: Some(address), includes_own: true, ..Victims::default() };
                match victims.kill(context) {
                    0 => Frame::error("ERR No such client"),
                    _ => Frame::OK,
                }
            }
            Self::Kill(victims) => match victims.unknown_user(context) {
                Some(name) => Frame::error(format!("ERR No such user '{}'", shown(name, 128))),
                None => Frame::Integer(victims.kill(context)),
            },
            Self::Unblock(id, unblock) => {
                let clients = context.shared.clients.list();
                let client = clients.iter().find(|client| client.id.cast_signed() == id);
                Frame::Integer(client.is_some_and(|client| client.unblock(unblock)).into())
            }
            Self::Pause(length, whom) => {
                context.shared.pause.begin(length, whom);
                Frame::OK
            }
            Self::Unpause => {
                context.shared.pause.end();
                Frame::OK
            }
            Self::Reply(silence) => {
                let session = &mut context.session;
                let stays = session.silence == Silence::Always && silence != Silence::Never;
                session.silence = if stays { Silence::Always } else { silence };
                Frame::OK
            }
        }
    }
}

impl Victims {
    fn unknown_user(&self, context: &Context<'_>) -> Option<&Bytes> {
        let name = self.user.as_ref().filter(|name| name[..] != *DEFAULT_USER.as_bytes())?;
        let users = context.shared.access.users();
        (!users.iter().any(|known| known.name.as_bytes() == name)).then_some(name)
    }

    fn kill(&self, context: &mut Context<'_>) -> i64 {
        let mut count = 0;
        for client in context.shared.clients.list().iter().filter(|client| self.matches(client)) {
            if client.id == context.client.id {
                if !self.includes_own {
                    continue;
                }
                // Closed after its reply is sent.
                context.session.closing = true;
            } else {
                client.cut.cancel();
            }
            count += 1;
        }
        count
    }

    fn matches(&self, client: &Client) -> bool {
        let is_at = |wanted: &Option<Bytes>, address: std::net::SocketAddr| {
            wanted.as_ref().is_none_or(|wanted| wanted[..] == *address.to_string().as_bytes())
        };
        self.id.is_none_or(|id| client.id.cast_signed() == id)
            && is_at(&self.address, client.address)
            && is_at(&self.local_address, client.local_address)
            && self.of_type.is_none_or(|wanted| Type::of(client) == wanted)
            && self.user.as_ref().is_none_or(|user| user[..] == *client.profile().user().as_bytes())
    }
}
