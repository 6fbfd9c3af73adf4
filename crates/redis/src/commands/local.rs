//! Commands that access no data: about the connection, the node, the table of commands.

use std::borrow::Cow;

use bytes::Bytes;
use helios_proto::v1::{StatusResponse, Token};
use helios_service::database::{Ack, Freshness};
use helios_service::glob::Pattern;
use helios_service::pubsub::Broker;
use helios_service::token;
use helios_state::Store;

use super::super::clients::Client;
use super::super::frame::{Frame, Protocol};
use super::super::server::Shared;
use super::super::session::Session;
use super::super::transaction::Queue;
use super::acl::AclRequest;
use super::client::ClientRequest;
use super::client_control::Control;
use super::config::{self, Setting};
use super::connection::{self, Credentials, Hello};
use super::pubsub::Census;
use super::scripting::ScriptRequest;
use super::{consistency, status};

#[derive(Debug)]
pub enum Local {
    /// Reply that depends on the request alone.
    Answer(Frame),
    Ping(Option<Bytes>),
    Census(Census),
    Auth(Credentials),
    Hello(Hello),
    /// `HELIOS.READ`, `READONLY` and `READWRITE`; `None` queries the level.
    Read(Option<Freshness>),
    /// `HELIOS.TOKEN`; `None` queries the token.
    Token(Option<Token>),
    /// `HELIOS.TOKEN SEEN`.
    Seen,
    /// `HELIOS.ACK`; `None` queries the level.
    Ack(Option<Ack>),
    Reset,
    Quit,
    Multi,
    Discard,
    Unwatch,
    Client(ClientRequest),
    Control(Control),
    Script(ScriptRequest),
    Acl(AclRequest),
    /// Names of sections in lower case; all sections if there are none.
    Info(Vec<String>),
    Role,
    MemoryStats,
    ConfigGet(Vec<Pattern>),
    ConfigSet(Vec<Setting>),
    ResetStats,
}

/// State that a local command may read and change.
pub struct Context<'a> {
    pub session: &'a mut Session,
    pub client: &'a Client,
    pub shared: &'a Shared,
    pub store: &'a Store,
    pub broker: &'a Broker,
    pub status: &'a dyn Fn() -> StatusResponse,
    pub cluster_id: &'a dyn Fn() -> String,
    /// Whether a member that is not the leader is shown as a master (`client.reported_role`).
    pub followers_are_masters: bool,
}

impl Local {
    /// Whether the command has credentials, which may be a guess.
    pub fn authenticates(&self) -> bool {
        match self {
            Self::Auth(_) => true,
            Self::Hello(hello) => hello.has_credentials(),
            _ => false,
        }
    }

    /// Whether later reads may need a newer state, so that the read barrier of the round ends.
    pub fn changes_reads(&self) -> bool {
        matches!(self, Self::Read(Some(_)) | Self::Token(Some(_)) | Self::Reset)
    }

    pub fn execute(self, context: &mut Context<'_>) -> Frame {
        match self {
            Self::Answer(frame) => frame,
            Self::Ping(text) => connection::pong(text, context.session),
            Self::Census(census) => census.execute(context),
            Self::Auth(credentials) => match connection::authenticate(&credentials, context) {
                Ok(()) => Frame::OK,
                Err(refusal) => refusal.into(),
            },
            Self::Hello(hello) => hello.execute(context).unwrap_or_else(Frame::from),
            Self::Read(None) => Frame::bulk(consistency::describe(context.session.freshness)),
            Self::Read(Some(freshness)) => {
                context.session.freshness = freshness;
                Frame::OK
            }
            Self::Token(None) => {
                context.session.after.as_ref().map_or(Frame::Null, |after| Frame::bulk(token::print(after)))
            }
            Self::Token(Some(token)) => consistency::follow(token, context).unwrap_or_else(Frame::from),
            Self::Seen => Frame::bulk(token::print(&consistency::seen(context))),
            Self::Ack(None) => Frame::text(context.session.ack.name()),
            Self::Ack(Some(ack)) => {
                context.session.ack = ack;
                Frame::OK
            }
            Self::Reset => {
                *context.session = Session::new(context.shared.access.anyone());
                context.client.profile().user.clear();
                context.client.profile().name.clear();
                let mut profile = context.client.profile();
                profile.protocol = Protocol::default();
                (profile.channels, profile.patterns) = (0, 0);
                Frame::Simple(Cow::Borrowed("RESET"))
            }
            Self::Quit => {
                context.session.closing = true;
                Frame::OK
            }
            Self::Multi if context.session.queue.is_some() => {
                Frame::error("ERR MULTI calls can not be nested")
            }
            Self::Multi => {
                context.session.queue = Some(Queue::default());
                Frame::OK
            }
            Self::Discard => match context.session.queue.take() {
                Some(_) => {
                    context.session.unwatch();
                    Frame::OK
                }
                None => Frame::error("ERR DISCARD without MULTI"),
            },
            Self::Unwatch => {
                context.session.unwatch();
                Frame::OK
            }
            Self::Client(request) => request.execute(context),
            Self::Control(control) => control.execute(context),
            Self::Script(request) => request.execute(&context.shared.scripts),
            Self::Acl(request) => request.execute(context),
            Self::Info(sections) => Frame::verbatim(status::info(&sections, context)),
            Self::Role => status::role(context),
            Self::MemoryStats => status::memory_stats(context),
            Self::ConfigGet(patterns) => config::matching(&patterns, context.shared),
            Self::ConfigSet(settings) => {
                settings.into_iter().for_each(|setting| setting.apply(context));
                Frame::OK
            }
            Self::ResetStats => {
                context.shared.stats.reset();
                Frame::OK
            }
        }
    }
}
