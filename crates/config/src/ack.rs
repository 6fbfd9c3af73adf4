//! The acknowledgement level of writes, `writes.ack`.

use helios_proto::v1::AckLevel;

/// Voters that must hold a write on disk before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Ack {
    #[default]
    Majority,
    All,
}

impl Ack {
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::All => "all",
        }
    }

    /// The level of that name, upper or lower case.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Majority, Self::All].into_iter().find(|ack| ack.name().eq_ignore_ascii_case(name))
    }
}

impl From<AckLevel> for Ack {
    fn from(level: AckLevel) -> Self {
        match level {
            AckLevel::AckDefault | AckLevel::AckMajority => Self::Majority,
            AckLevel::AckAll => Self::All,
        }
    }
}

impl From<Ack> for AckLevel {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Majority => Self::AckMajority,
            Ack::All => Self::AckAll,
        }
    }
}
