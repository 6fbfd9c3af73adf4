//! Levels of reads of the replica: that of the sidecar, or the one that the connection has chosen in the words of a
//! member, `HELIOS.READ`, `READONLY` and `READWRITE` (docs/adr/0042-read-levels.md). Pure.

use std::time::Duration;

use bytes::Bytes;

use crate::args::Reads;

/// Requirement on the state that answers a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All that the process has observed; at most as old as the sidecar's limit.
    Session,
    /// All that the connection has observed; at most as old as the sidecar's limit.
    Bounded,
    /// All that the connection has observed; at most as old as this, in a cut as well. `None`: however old.
    Stale(Option<Duration>),
    /// All that was acknowledged before the request arrived.
    Linearizable,
    /// The same by the lease of the leader: a member answers.
    Lease,
}

impl From<Reads> for Level {
    fn from(reads: Reads) -> Self {
        match reads {
            Reads::Session => Self::Session,
            Reads::Bounded => Self::Bounded,
            Reads::Linearizable => Self::Linearizable,
            Reads::Any => Self::Stale(None),
        }
    }
}

impl Level {
    /// Returns the level that a request chooses; `default` is that of the sidecar. `None`: only members know it.
    pub fn chosen(words: &[Bytes], default: Self) -> Option<Self> {
        let is = |at: usize, text: &[u8]| words.get(at).is_some_and(|word| word.eq_ignore_ascii_case(text));
        match words.len() {
            1 if is(0, b"readonly") => Some(Self::Stale(None)),
            1 if is(0, b"readwrite") => Some(default),
            2 if is(1, b"session") => Some(Self::Session),
            2 if is(1, b"linearizable") => Some(Self::Linearizable),
            2 if is(1, b"lease") => Some(Self::Lease),
            2 if is(1, b"stale") => Some(Self::Stale(None)),
            3 if is(1, b"stale") => {
                let age_ms = std::str::from_utf8(&words[2]).ok()?.parse().ok()?;
                Some(Self::Stale(Some(Duration::from_millis(age_ms))))
            }
            _ => None,
        }
    }

    /// Whether a read may be answered from older state while no member answers: a limit that the connection has named
    /// itself is kept.
    pub fn may_serve_stale(self) -> bool {
        matches!(self, Self::Session | Self::Bounded)
    }

    /// Returns the reply to `HELIOS.READ`, in the words of a member where it has some.
    pub fn name(self) -> String {
        match self {
            Self::Session => "session".to_owned(),
            Self::Bounded => "bounded".to_owned(),
            Self::Stale(None) => "stale".to_owned(),
            Self::Stale(Some(age)) => format!("stale {}", age.as_millis()),
            Self::Linearizable => "linearizable".to_owned(),
            Self::Lease => "lease".to_owned(),
        }
    }
}

/// Whether a request chooses the level that members do not have. They are sent [`LINEARIZABLE`] instead.
pub fn is_session(words: &[Bytes]) -> bool {
    words.len() == 2
        && words[0].eq_ignore_ascii_case(b"helios.read")
        && words[1].eq_ignore_ascii_case(b"session")
}

/// Level of a member's connection in Replica mode, unless the client has chosen another one.
pub const LINEARIZABLE: [&[u8]; 2] = [b"HELIOS.READ", b"LINEARIZABLE"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::words;

    #[test]
    fn levels_are_chosen_in_the_words_of_a_member() {
        let default = Level::Bounded;
        let half_a_second = Level::Stale(Some(Duration::from_millis(500)));
        for (line, expected, name) in [
            ("HELIOS.READ LINEARIZABLE", Level::Linearizable, "linearizable"),
            ("helios.read lease", Level::Lease, "lease"),
            ("HELIOS.READ stale", Level::Stale(None), "stale"),
            ("HELIOS.READ STALE 500", half_a_second, "stale 500"),
            ("HELIOS.READ SESSION", Level::Session, "session"),
            ("READONLY", Level::Stale(None), "stale"),
            ("READWRITE", default, "bounded"),
        ] {
            let chosen = Level::chosen(&words(line), default);
            assert_eq!((chosen, chosen.map(Level::name).as_deref()), (Some(expected), Some(name)), "{line}");
        }
        for unknown in ["HELIOS.READ", "HELIOS.READ FUTURE", "HELIOS.READ STALE x", "READONLY x"] {
            assert_eq!(Level::chosen(&words(unknown), default), None, "{unknown}");
        }
        assert!(is_session(&words("helios.read Session")) && !is_session(&words("HELIOS.READ STALE")));
        assert!(Level::Session.may_serve_stale() && !half_a_second.may_serve_stale());
    }
}
