//! Commands that touch no data: the connection, the node, the table of commands.

use std::borrow::Cow;

use bytes::Bytes;
use helios_proto::v1::StatusResponse;

use super::super::clients::Client;
use super::super::frame::{Frame, Protocol};
use super::super::server::Shared;
use super::super::session::Session;
use super::client::ClientRequest;
use super::connection::{self, Credentials, Hello};
use super::{server, status};
use crate::database::Ack;
use crate::state::Store;

#[derive(Debug)]
pub enum Local {
    /// An answer that depends on the request alone.
    Answer(Frame),
    Auth(Credentials),
    Hello(Hello),
    StaleReads(bool),
    /// `HELIOS.ACK`; `None` asks.
    Ack(Option<Ack>),
    Reset,
    Quit,
    Client(ClientRequest),
    /// Names of sections in lower case; none: all.
    Info(Vec<String>),
    Role,
    ConfigGet(Vec<Bytes>),
    ResetStats,
}

/// What a local command may see and change.
pub struct Context<'a> {
    pub session: &'a mut Session,
    pub client: &'a Client,
    pub shared: &'a Shared,
    pub store: &'a Store,
    pub status: &'a dyn Fn() -> StatusResponse,
}

impl Local {
    pub fn execute(self, context: &mut Context<'_>) -> Frame {
        match self {
            Self::Answer(frame) => frame,
            Self::Auth(credentials) => match connection::authenticate(&credentials, context) {
                Ok(()) => Frame::OK,
                Err(refusal) => refusal.into(),
            },
            Self::Hello(hello) => hello.execute(context).unwrap_or_else(Frame::from),
            Self::StaleReads(stale) => {
                context.session.stale_reads = stale;
                Frame::OK
            }
            Self::Ack(None) => Frame::text(context.session.ack.name()),
            Self::Ack(Some(ack)) => {
                context.session.ack = ack;
                Frame::OK
            }
            Self::Reset => {
                *context.session = Session::new(context.shared.password.is_none());
                context.client.profile().name.clear();
                context.client.profile().protocol = Protocol::default();
                Frame::Simple(Cow::Borrowed("RESET"))
            }
            Self::Quit => {
                context.session.closing = true;
                Frame::OK
            }
            Self::Client(request) => request.execute(context),
            Self::Info(sections) => Frame::Verbatim(status::info(&sections, context)),
            Self::Role => status::role(&(context.status)()),
            Self::ConfigGet(patterns) => server::settings(&patterns, context.shared),
            Self::ResetStats => {
                context.shared.stats.reset();
                Frame::OK
            }
        }
    }
}
