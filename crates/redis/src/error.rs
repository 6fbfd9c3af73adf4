//! Error replies in Redis's wording; clients match on the first word.

use std::borrow::Cow;

use helios_proto::Error;
use helios_proto::v1::ErrorCode;
use helios_service::glob::TooLong;
use helios_state::commands::Misuse;

use super::frame::Frame;

/// Command rejected before it accessed the database. The text is the whole error reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("ERR unknown command '{name}', with args beginning with: {arguments}")]
    UnknownCommand { name: String, arguments: String },
    #[error("ERR unknown subcommand '{name}'. Try {container} HELP.")]
    UnknownSubcommand { container: String, name: String },
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(&'static str),
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    #[error("ERR string exceeds maximum allowed size ({0} bytes)")]
    ValueTooLarge(usize),
    #[error("ERR key exceeds maximum allowed size ({0} bytes)")]
    KeyTooLarge(usize),
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    #[error("NOPERM this user has no permissions to run the '{0}' command")]
    NoPermission(&'static str),
    #[error("NOPERM {0}")]
    OutsidePrefixes(String),
    /// Text that only one command uses.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

impl Refusal {
    pub fn other(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Other(text.into())
    }

    /// Returns the error for an unknown command, which quotes the request as Redis does: at most 128 bytes of
    /// its name, and about as many of its arguments.
    pub fn unknown_command(request: &[impl AsRef<[u8]>]) -> Self {
        const SHOWN_BYTES: usize = 128;
        let mut words = request.iter().map(AsRef::as_ref);
        let name = shown(words.next().unwrap_or_default(), SHOWN_BYTES);
        let mut arguments = String::new();
        for word in words {
            if arguments.len() >= SHOWN_BYTES {
                break;
            }
            arguments += &format!("'{}' ", shown(word, SHOWN_BYTES - arguments.len()));
        }
        Self::UnknownCommand { name, arguments }
    }

    /// Whether the request is rejected for its form or its user, before its arguments are parsed: a transaction
    /// that it was sent in fails.
    pub fn is_of_form(&self) -> bool {
        matches!(
            self,
            Self::UnknownCommand { .. }
                | Self::UnknownSubcommand { .. }
                | Self::Arity(_)
                | Self::NoAuth
                | Self::NoPermission(_)
                | Self::OutsidePrefixes(_)
        )
    }

    pub fn unknown_subcommand(container: &str, name: &[u8]) -> Self {
        Self::UnknownSubcommand { container: container.to_ascii_uppercase(), name: shown(name, 128) }
    }
}

impl From<Misuse> for Refusal {
    fn from(misuse: Misuse) -> Self {
        match misuse {
            Misuse::Arity(name) => Self::Arity(name),
            Misuse::Syntax => Self::Syntax,
            Misuse::NotAnInteger => Self::NotAnInteger,
            Misuse::InvalidExpire(name) => Self::InvalidExpire(name),
            Misuse::Other(text) => Self::other(format!("ERR {text}")),
        }
    }
}

impl From<TooLong> for Refusal {
    fn from(too_long: TooLong) -> Self {
        Self::other(format!("ERR {too_long}"))
    }
}

impl From<Refusal> for Frame {
    fn from(refusal: Refusal) -> Self {
        Frame::error(refusal.to_string())
    }
}

/// Returns at most `limit` bytes of `word` as text.
pub fn shown(word: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&word[..word.len().min(limit)]).into_owned()
}

impl From<Error> for Frame {
    fn from(error: Error) -> Self {
        use ErrorCode::*;
        let message = error.message;
        let text = match error.code {
            NoLeader | NoQuorum => format!("CLUSTERDOWN The cluster is down: {message}"),
            NotStarted => format!("LOADING {message}"),
            NotLeader => format!("READONLY You can't write against a read only replica: {message}"),
            Overloaded => format!("BUSY {message}"),
            DiskFull => format!("MISCONF {message}"),
            InsufficientReplicas => format!("NOREPLICAS {message}"),
            Unauthenticated => format!("NOAUTH {message}"),
            Forbidden => format!("NOPERM {message}"),
            ProtectedMode => format!("DENIED {message}"),
            WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value".to_owned(),
            OutcomeUnknown if !message.starts_with("outcome unknown") => {
                format!("ERR outcome unknown: {message}")
            }
            code if code.is_retryable() => format!("TRYAGAIN {message}"),
            _ => format!("ERR {message}"),
        };
        Frame::error(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_code_has_the_first_word_that_clients_match() {
        let cases = [
            (ErrorCode::NoLeader, "CLUSTERDOWN The cluster is down: m"),
            (ErrorCode::NoQuorum, "CLUSTERDOWN The cluster is down: m"),
            (ErrorCode::NotLeader, "READONLY You can't write against a read only replica: m"),
            (ErrorCode::PeerUnreachable, "TRYAGAIN m"),
            (ErrorCode::NotStarted, "LOADING m"),
            (ErrorCode::Overloaded, "BUSY m"),
            (ErrorCode::DiskFull, "MISCONF m"),
            (ErrorCode::InsufficientReplicas, "NOREPLICAS m"),
            (ErrorCode::ReplicationShortfall, "ERR m"),
            (ErrorCode::OutcomeUnknown, "ERR outcome unknown: m"),
            (ErrorCode::NotAnInteger, "ERR m"),
            (ErrorCode::TooLarge, "ERR m"),
            (ErrorCode::Corruption, "ERR m"),
            (ErrorCode::Fenced, "ERR m"),
            (ErrorCode::WrongType, "WRONGTYPE Operation against a key holding the wrong kind of value"),
        ];
        for (code, expected) in cases {
            assert_eq!(Frame::from(Error::new(code, "m")), Frame::error(expected), "{code:?}");
        }
        let Frame::Error(text) = Frame::from(Error::outcome_unknown()) else { panic!("not an error") };
        assert!(text.starts_with("ERR outcome unknown: the write was proposed"), "{text}");
    }

    #[test]
    fn unknown_command_error_quotes_a_bounded_part() {
        let refusal = Refusal::unknown_command(&["nope", "a", "b"]);
        assert_eq!(refusal.to_string(), "ERR unknown command 'nope', with args beginning with: 'a' 'b' ");
        let long = "x".repeat(1000);
        assert!(Refusal::unknown_command(&[&long, &long, &long]).to_string().len() < 400);
    }
}
