//! `HELLO`, `AUTH` and the other commands about the connection itself.

use bytes::Bytes;
use helios_service::auth::DEFAULT_USER;
use helios_service::database::Freshness;

use super::super::codec::parse_integer;
use super::super::error::{Refusal, shown};
use super::super::frame::{Frame, Protocol};
use super::super::session::Session;
use super::args::is;
use super::client::checked_label;
use super::local::Context;
use super::{Args, Local, Request, status};

#[derive(Debug)]
pub struct Credentials {
    /// User name; `None` in the form of Redis before 6, `AUTH password`.
    user: Option<Bytes>,
    password: Bytes,
}

#[derive(Debug, Default)]
pub struct Hello {
    protocol: Option<Protocol>,
    credentials: Option<Credentials>,
    name: Option<String>,
}

pub fn ping(mut args: Args) -> Result<Request, Refusal> {
    let text = args.next();
    if args.len() > 0 {
        return Err(Refusal::Arity(args.spec.name));
    }
    Ok(Request::Local(Local::Ping(text)))
}

/// Returns the reply to `PING`; a RESP2 client with subscriptions gets it in the shape of a message.
pub fn pong(text: Option<Bytes>, session: &Session) -> Frame {
    let listens = session.subscriber.as_ref().is_some_and(|subscriber| subscriber.count() > 0);
    match text {
        text if listens && session.protocol == Protocol::Resp2 => {
            Frame::Array(vec![Frame::text("pong"), Frame::Bulk(text.unwrap_or_default())])
        }
        Some(text) => Frame::Bulk(text),
        None => Frame::Simple("PONG".into()),
    }
}

pub fn echo(mut args: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Answer(Frame::Bulk(args.word()?))))
}

pub fn quit(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Quit))
}

pub fn reset(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Reset))
}

pub fn readonly(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Read(Some(Freshness::Stale(None)))))
}

pub fn readwrite(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Read(Some(Freshness::Linearizable))))
}

pub fn select(mut args: Args) -> Result<Request, Refusal> {
    match args.integer()? {
        0 => Ok(Request::Local(Local::Answer(Frame::OK))),
        _ => Err(Refusal::other("ERR DB index is out of range")),
    }
}

pub fn auth(mut args: Args) -> Result<Request, Refusal> {
    let first = args.word()?;
    let credentials = match args.next() {
        None => Credentials { user: None, password: first },
        Some(password) => Credentials { user: Some(first), password },
    };
    args.end()?;
    Ok(Request::Local(Local::Auth(credentials)))
}

pub fn hello(mut args: Args) -> Result<Request, Refusal> {
    let mut hello = Hello::default();
    if let Some(version) = args.next() {
        hello.protocol = Some(protocol(&version)?);
    }
    while let Some(option) = args.next() {
        let wrong = || Refusal::other(format!("ERR Syntax error in HELLO option '{}'", shown(&option, 128)));
        if is(&option, "auth") {
            let user = Some(args.next().ok_or_else(wrong)?);
            hello.credentials = Some(Credentials { user, password: args.next().ok_or_else(wrong)? });
        } else if is(&option, "setname") {
            hello.name = Some(checked_label(&args.next().ok_or_else(wrong)?, "Client names")?);
        } else {
            return Err(wrong());
        }
    }
    Ok(Request::Local(Local::Hello(hello)))
}

fn protocol(version: &[u8]) -> Result<Protocol, Refusal> {
    match parse_integer(version) {
        Some(2) => Ok(Protocol::Resp2),
        Some(3) => Ok(Protocol::Resp3),
        Some(_) => Err(Refusal::other("NOPROTO unsupported protocol version")),
        None => Err(Refusal::other("ERR Protocol version is not an integer or out of range")),
    }
}

/// Authenticates the session, or returns an error and leaves the session unchanged.
pub fn authenticate(credentials: &Credentials, context: &mut Context<'_>) -> Result<(), Refusal> {
    let (access, user) = (&context.shared.access, credentials.user.as_deref());
    if access.is_open() && user.is_none() {
        return Err(Refusal::other(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ));
    }
    let user = user.unwrap_or(DEFAULT_USER.as_bytes());
    let found = match access.anyone() {
        Some(anyone) => (user == DEFAULT_USER.as_bytes()).then_some(anyone),
        None => access.authenticate(user, &credentials.password),
    };
    let Some(identity) = found else {
        context.shared.access.failed("client", context.client.address, context.shared.metrics.rejections());
        return Err(Refusal::other("WRONGPASS invalid username-password pair or user is disabled."));
    };
    identity.name().clone_into(&mut context.client.profile().user);
    context.session.identity = Some(identity);
    Ok(())
}

impl Hello {
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    pub fn execute(self, context: &mut Context<'_>) -> Result<Frame, Refusal> {
        if let Some(credentials) = &self.credentials {
            authenticate(credentials, context)?;
        }
        if context.session.identity.is_none() {
            return Err(Refusal::other(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> \
                 AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
                 version at the same time",
            ));
        }
        if let Some(name) = self.name {
            context.client.profile().name = name;
        }
        if let Some(protocol) = self.protocol {
            context.session.protocol = protocol;
            context.client.profile().protocol = protocol;
        }
        Ok(greeting(context))
    }
}

fn greeting(context: &Context<'_>) -> Frame {
    let text = Frame::text;
    let role = if status::is_master(&(context.status)(), context) { "master" } else { "replica" };
    Frame::Map(vec![
        (text("server"), text("redis")),
        (text("version"), text(status::REDIS_VERSION)),
        (text("proto"), Frame::Integer(context.session.protocol.version())),
        (text("id"), Frame::Integer(context.client.id.cast_signed())),
        (text("mode"), text("standalone")),
        (text("role"), text(role)),
        (text("modules"), Frame::Array(vec![])),
    ])
}
