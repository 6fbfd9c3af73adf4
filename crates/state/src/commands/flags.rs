//! Redis's flags of a command, as a set of bits.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u16);

/// Names, in the order in which they are listed; the position is the bit.
const NAMES: [&str; 12] = [
    "pubsub",
    "write",
    "admin",
    "noscript",
    "loading",
    "stale",
    "readonly",
    "denyoom",
    "fast",
    "no_auth",
    "blocking",
    "movablekeys",
];

impl Flags {
    pub const NONE: Self = Self(0);
    pub const PUBSUB: Self = Self(1);
    pub const WRITE: Self = Self(1 << 1);
    pub const ADMIN: Self = Self(1 << 2);
    pub const NOSCRIPT: Self = Self(1 << 3);
    pub const LOADING: Self = Self(1 << 4);
    pub const STALE: Self = Self(1 << 5);
    pub const READONLY: Self = Self(1 << 6);
    pub const DENYOOM: Self = Self(1 << 7);
    pub const FAST: Self = Self(1 << 8);
    pub const NO_AUTH: Self = Self(1 << 9);
    pub const BLOCKING: Self = Self(1 << 10);
    pub const MOVABLEKEYS: Self = Self(1 << 11);

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// Returns the flag of a name.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| *known == name).map(|bit| Self(1 << bit))
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| name)
    }
}
