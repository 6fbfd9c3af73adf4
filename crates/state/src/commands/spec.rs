//! Description of one command: everything that the log, the state and the Redis protocol know of it.

use bytes::Bytes;
use helios_proto::v1::Call;

use super::super::command::{Outcome, invalid};
use super::super::events::Name;
use super::super::sizes::{self, Made};
use super::super::txn::Txn;
use super::prepare::Misuse;
use super::words::Words;
use super::{Flags, Keys};
use helios_proto::Error;

pub(crate) type Apply = fn(&mut Txn<'_>, Words<'_>) -> Outcome;
/// Turns the arguments of a request into the call to log. `now_ms`: the clock that relative times count from.
pub(crate) type Prepare = fn(args: Vec<Bytes>, now_ms: u64) -> Result<Call, Misuse>;

/// One command or subcommand, in the terms of `COMMAND INFO`.
#[derive(Debug)]
pub struct Spec {
    /// Number of the command in the log; never used again for another. 0: logged as another command.
    pub id: u16,
    /// Name in lower case; for a subcommand `container|name`.
    pub name: &'static str,
    /// Number of words of a request, with the name (for a subcommand: both names); negative: a minimum.
    pub arity: i32,
    pub keys: Keys,
    pub flags: Flags,
    /// Access flags of the first key and of the other keys, in Redis's terms: RO, RW, OW (overwrites), RM.
    pub access: [&'static str; 2],
    /// Redis version that introduced the command with this meaning; HeliosDB's own commands have none.
    pub since: &'static str,
    pub group: Group,
    pub summary: &'static str,
    /// Complexity as Redis documents it; where it differs, Redis's behind it.
    pub cost: &'static str,
    /// First log format in which members read the command: below [`super::WITH_IDS`] by its name.
    pub(crate) format: fn(args: &[Bytes]) -> u32,
    /// Keys that the command may create.
    pub(crate) made: Made,
    /// Checks the sizes of the elements that the command may create.
    pub(crate) elements: fn(args: &[Bytes]) -> Result<(), Error>,
    pub(crate) prepare: Option<Prepare>,
    pub(crate) apply: Apply,
    pub(crate) events: Events,
}

/// Keyspace events of the keys that a command changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Events {
    /// None but `new` and `del`.
    None,
    /// The command's name, in the class of its group.
    Own,
    One(&'static str, char),
    /// At most two, by arguments and changed key.
    Of(fn(args: &[Bytes], key: &Bytes) -> [Option<Name>; 2]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    String,
    Hash,
    Set,
    List,
    SortedSet,
    Generic,
    Transactions,
    PubSub,
    Scripting,
    Connection,
    Server,
    Cluster,
}

impl Group {
    pub const ALL: [Group; 12] = [
        Self::String,
        Self::Hash,
        Self::Set,
        Self::List,
        Self::SortedSet,
        Self::Generic,
        Self::Transactions,
        Self::PubSub,
        Self::Scripting,
        Self::Connection,
        Self::Server,
        Self::Cluster,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::Set => "set",
            Self::List => "list",
            Self::SortedSet => "sorted-set",
            Self::Transactions => "transactions",
            Self::PubSub => "pubsub",
            Self::Scripting => "scripting",
            Self::Generic => "generic",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Cluster => "cluster",
        }
    }

    /// Returns the letter of its events in `notify-keyspace-events`.
    fn class(self) -> char {
        match self {
            Self::String => '$',
            Self::Hash => 'h',
            Self::Set => 's',
            Self::List => 'l',
            Self::SortedSet => 'z',
            _ => 'g',
        }
    }
}

impl Spec {
    pub(crate) const fn new(
        (id, name, arity, keys): (u16, &'static str, i32, Keys),
        flags: Flags,
        (since, group, summary, cost): (&'static str, Group, &'static str, &'static str),
        apply: Apply,
    ) -> Self {
        let access = if flags.has(Flags::WRITE) { "RW access update" } else { "RO access" };
        Self {
            id,
            name,
            arity,
            keys,
            flags,
            access: [access; 2],
            since,
            group,
            summary,
            cost,
            format: |_| 2,
            made: Made::First,
            elements: sizes::no_elements,
            prepare: None,
            apply,
            events: Events::Own,
        }
    }

    /// Whether the command writes, so that it goes through the log.
    pub fn writes(&self) -> bool {
        self.flags.has(Flags::WRITE)
    }

    /// Whether the command may make the state grow.
    pub fn grows(&self) -> bool {
        self.flags.has(Flags::DENYOOM)
    }

    /// Returns the call to log, or to query, for the arguments of a request.
    pub fn prepare(&self, args: Vec<Bytes>, now_ms: u64) -> Result<Call, Misuse> {
        match self.prepare {
            Some(prepare) => prepare(args, now_ms),
            None => Ok(self.call(args)),
        }
    }

    pub(crate) fn call(&self, args: Vec<Bytes>) -> Call {
        Call { command: self.id.into(), args, ..Call::default() }
    }

    /// Returns the names of the events of `key`: at most two.
    pub(crate) fn events(&self, args: &[Bytes], key: &Bytes) -> [Option<Name>; 2] {
        match self.events {
            Events::None => [None; 2],
            Events::Own => [Some((self.name, self.group.class())), None],
            Events::One(name, class) => [Some((name, class)), None],
            Events::Of(events) => events(args, key),
        }
    }
}

/// Function of a command that is logged as another one ([`Spec::prepare`]).
pub(crate) fn other(_: &mut Txn<'_>, _: Words<'_>) -> Outcome {
    Err(invalid("the command is logged as another one"))
}

/// The commands of a group: id, name, arity, keys, flags, Redis version, function, summary and cost; then what
/// differs from [`Spec::new`].
macro_rules! commands {
    ($group:ident: $($id:literal $name:literal $arity:literal $keys:ident [$($flag:ident)*] $since:literal
        $apply:expr, $summary:literal, $cost:literal $({ $($field:ident: $value:expr),* })?;)*) => {
        &[$($crate::commands::Spec {
            $($($field: $value,)*)?
            ..$crate::commands::Spec::new(
                ($id, $name, $arity, $crate::commands::keys_of::$keys),
                $crate::commands::Flags::NONE$(.with($crate::commands::Flags::$flag))*,
                ($since, $crate::commands::Group::$group, $summary, $cost),
                $apply,
            )
        }),*]
    };
}
pub(crate) use commands;
