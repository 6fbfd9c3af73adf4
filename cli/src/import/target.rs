//! The cluster that data is imported into.
//!
//! Each batch is a transaction that also moves a marker, a key of the target, from one number to the next, and that is guarded
//! by WATCH of the marker. After an answer that is lost the marker is read: it says whether the batch was applied. If it was
//! not and is sent again, the guard refuses the first copy, should it arrive late.

use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, RedisError, ServerError, Value, cmd};

use super::args::ImportArgs;
use super::content::{Unit, Words, shown};
use super::progress::note;
use crate::args::Cli;
use crate::error::Error;
use crate::kv::Connection;
use crate::lock::User;
use crate::place::Place;

/// Key of the marker.
pub const MARKER: &str = "heliosctl:import";
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Every target takes a write of so many bytes.
const SMALLEST_LIMIT_BYTES: usize = 900 << 10;
/// Bytes of a transaction beside the largest value: its key, and the marker.
const PROBE_MARGIN_BYTES: usize = 65 << 10;
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// Smallest timeout of a response: a batch waits for an election, too.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request failed.
enum Trouble {
    /// It may succeed if it is sent again.
    Passing(String),
    /// It would cost more than a transaction or script may; nothing was changed.
    Costly(String),
    Lasting(Error),
}

pub struct Target {
    places: Vec<Place>,
    /// The place that is used.
    at: usize,
    user: User,
    timeout: Duration,
    patience: Duration,
    replaces: bool,
    takes_existing: bool,
    connection: Option<Connection>,
    /// Whether the connection watches the marker, which was read and has `sequence`.
    is_armed: bool,
    /// Name of this import in the marker.
    run: String,
    sequence: u64,
    pub retries: u64,
}

impl Target {
    /// # Errors
    /// When a file of the command line cannot be read.
    pub fn new(cli: &Cli, args: &ImportArgs) -> Result<Self, Error> {
        let lock = cli.target.certificates.lock()?.unwrap_or_default();
        Ok(Self {
            places: args.to.iter().map(|address| Place::address(address.clone(), lock.clone())).collect(),
            at: 0,
            user: User::new(args.user.clone(), args.password.clone(), args.password_file.as_deref())?,
            timeout: cli.target.request_timeout.max(SHORTEST_TIMEOUT),
            patience: args.patience,
            replaces: args.replace,
            takes_existing: args.into_existing,
            connection: None,
            is_armed: false,
            run: format!("{}-{}", super::now_ms(), std::process::id()),
            sequence: 0,
            retries: 0,
        })
    }

    fn marker(&self, sequence: u64) -> Vec<u8> {
        format!("{} {sequence}", self.run).into_bytes()
    }

    /// Adds to an error during the import how to start again.
    pub fn interrupted(&self, error: Error) -> Error {
        if self.sequence == 0 {
            return error;
        }
        let again = if self.takes_existing {
            "start it again with --into-existing after DEL heliosctl:import"
        } else {
            "start it again with --replace, which removes all keys of the target first"
        };
        Error::Impossible(format!("{error}; the import is incomplete: {again}"))
    }

    /// # Errors
    /// When the target has keys and the command line does not say what to do about them.
    pub async fn check_empty(&mut self) -> Result<(), Error> {
        let mut pipe = Pipeline::new();
        pipe.add_command(cmd("DBSIZE")).add_command(cmd("GET").arg(MARKER).clone());
        let answers = self.patiently("read the number of keys", &pipe).await?;
        let [Value::Int(keys), marker] = answers.as_slice() else {
            return Err(Error::Output(format!("DBSIZE and GET were answered with {answers:?}")));
        };
        if self.replaces || (*keys == 0 && *marker == Value::Nil) {
            return Ok(());
        }
        Err(Error::Impossible(match marker {
            Value::Nil if self.takes_existing => return Ok(()),
            Value::Nil => format!(
                "the target has {keys} keys: import into an empty cluster, or with --replace, which removes them, or with \
                 --into-existing, which overwrites those of the same names"
            ),
            _ if self.takes_existing => format!(
                "the target has the marker of an import that runs or did not end: DEL {MARKER} if none runs, then start again"
            ),
            _ => "the target has an import that runs or did not end: if none runs, start again with --replace, which \
                  removes all its keys first"
                .to_owned(),
        }))
    }

    /// Begins the import: checks that the target takes a value as large as `largest`, removes all keys if that was requested,
    /// and sets the marker.
    ///
    /// # Errors
    /// When the target does not take writes, or not such large ones.
    pub async fn begin(&mut self, largest: &(usize, String)) -> Result<(), Error> {
        let (bytes, key) = largest;
        if *bytes > SMALLEST_LIMIT_BYTES {
            let mut probe = Pipeline::new();
            probe.add_command(cmd("SET").arg(MARKER).arg(vec![0_u8; bytes + PROBE_MARGIN_BYTES]).clone());
            if let Err(message) = self.affordably("write a large value", &probe).await? {
                return Err(Error::Impossible(format!(
                    "the value of {key} has {bytes} bytes, which the target does not take: {message} (a quarter of \
                     raft.segment_bytes); nothing was written"
                )));
            }
        }
        let mut pipe = Pipeline::new();
        pipe.add_command(cmd("MULTI"));
        if self.replaces {
            pipe.add_command(cmd("FLUSHALL"));
        }
        pipe.add_command(cmd("SET").arg(MARKER).arg(self.marker(0)).clone());
        pipe.add_command(cmd("EXEC"));
        self.patiently("begin the import", &pipe).await?;
        Ok(())
    }

    /// Removes the marker.
    ///
    /// # Errors
    /// When the target does not take writes.
    pub async fn finish(&mut self) -> Result<(), Error> {
        let mut pipe = Pipeline::new();
        pipe.add_command(cmd("DEL").arg(MARKER).clone());
        self.patiently("end the import", &pipe).await?;
        Ok(())
    }

    /// Applies the units once, in their order: as one transaction, or as several if that costs too much.
    ///
    /// # Errors
    /// When a command is refused, or the target does not answer for longer than the patience.
    pub async fn apply(&mut self, units: &[Unit]) -> Result<(), Error> {
        let mut pending = vec![units];
        while let Some(units) = pending.pop() {
            if units.is_empty() {
                continue;
            }
            match self.apply_at_once(units).await? {
                Ok(()) => {}
                Err(_) if units.len() > 1 => {
                    let (first, rest) = units.split_at(units.len() / 2);
                    pending.extend([rest, first]);
                }
                Err(message) => {
                    let command = units[0].first().map_or_else(String::new, described);
                    return Err(Error::Impossible(format!("the target refuses {command}: {message}")));
                }
            }
        }
        Ok(())
    }

    /// Applies the units as one transaction; the inner error is that it costs too much.
    async fn apply_at_once(&mut self, units: &[Unit]) -> Result<Result<(), String>, Error> {
        let mut pipe = Pipeline::with_capacity(units.len() + 5);
        pipe.add_command(cmd("MULTI"));
        for words in units.iter().flatten() {
            pipe.add_command(command(words));
        }
        pipe.add_command(cmd("SET").arg(MARKER).arg(self.marker(self.sequence + 1)).clone());
        pipe.add_command(cmd("EXEC"));
        pipe.add_command(cmd("WATCH").arg(MARKER).clone());
        pipe.add_command(cmd("GET").arg(MARKER).clone());
        let mut retry = Retry::new(self.patience);
        loop {
            match self.try_apply(&pipe, units).await {
                Ok(()) => {
                    self.sequence += 1;
                    return Ok(Ok(()));
                }
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Costly(message)) => {
                    self.is_armed = false;
                    return Ok(Err(message));
                }
                Err(Trouble::Passing(message)) => {
                    self.is_armed = false;
                    self.retries += 1;
                    retry.pause("apply a batch", message).await?;
                }
            }
        }
    }

    async fn try_apply(&mut self, pipe: &Pipeline, units: &[Unit]) -> Result<(), Trouble> {
        if !self.is_armed && self.arm().await? {
            return Ok(());
        }
        self.is_armed = false;
        let mut answers = self.query(pipe).await?;
        let [marker, watched] = [answers.pop(), answers.pop()];
        let executed = answers.pop();
        check_executed(units, &answers, executed)?;
        let next = self.marker(self.sequence + 1);
        let is_watched = watched == Some(Value::Okay);
        self.is_armed = is_watched && marker == Some(Value::BulkString(next));
        Ok(())
    }

    /// Watches and reads the marker; returns whether the batch was applied before.
    async fn arm(&mut self) -> Result<bool, Trouble> {
        let mut pipe = Pipeline::new();
        pipe.add_command(cmd("WATCH").arg(MARKER).clone()).add_command(cmd("GET").arg(MARKER).clone());
        let answers = self.query(&pipe).await?;
        if let Some(error) = answers.iter().find_map(error_of) {
            return Err(sort(error));
        }
        match answers.last() {
            Some(Value::BulkString(found)) if *found == self.marker(self.sequence) => Ok(false),
            Some(Value::BulkString(found)) if *found == self.marker(self.sequence + 1) => Ok(true),
            other => Err(Trouble::Lasting(Error::Impossible(format!(
                "the key {MARKER} of the target was changed by another client, perhaps another import: {}",
                match other {
                    Some(Value::BulkString(found)) => shown(found),
                    _ => "it is gone".to_owned(),
                }
            )))),
        }
    }

    /// Number of the target's keys but the marker; those that have expired and are not purged count.
    ///
    /// # Errors
    /// When the target does not answer.
    pub async fn count(&mut self) -> Result<u64, Error> {
        let mut pipe = Pipeline::new();
        pipe.add_command(cmd("DBSIZE"));
        match self.patiently("count the keys", &pipe).await?.as_slice() {
            [Value::Int(keys)] => Ok(keys.unsigned_abs().saturating_sub(1)),
            other => Err(Error::Output(format!("DBSIZE was answered with {other:?}"))),
        }
    }

    /// Sends commands that change nothing, or may be repeated, until they have answers.
    ///
    /// # Errors
    /// When one is refused, or the target does not answer for longer than the patience.
    pub async fn patiently(&mut self, doing: &str, pipe: &Pipeline) -> Result<Vec<Value>, Error> {
        match self.affordably(doing, pipe).await? {
            Ok(answers) => Ok(answers),
            Err(message) => Err(Error::Impossible(format!("the target refuses to {doing}: {message}"))),
        }
    }

    /// As [`Self::patiently`]; the inner error is that it costs too much.
    ///
    /// # Errors
    /// As [`Self::patiently`].
    pub async fn affordably(
        &mut self,
        doing: &str,
        pipe: &Pipeline,
    ) -> Result<Result<Vec<Value>, String>, Error> {
        let mut retry = Retry::new(self.patience);
        loop {
            let answered =
                self.query(pipe).await.and_then(|answers| match answers.iter().find_map(error_of) {
                    Some(error) => Err(sort(error)),
                    None => Ok(answers),
                });
            match answered {
                Ok(answers) => return Ok(Ok(answers)),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Costly(message)) => return Ok(Err(message)),
                Err(Trouble::Passing(message)) => retry.pause(doing, message).await?,
            }
        }
    }

    async fn query(&mut self, pipe: &Pipeline) -> Result<Vec<Value>, Trouble> {
        if self.connection.is_none() {
            self.is_armed = false;
            let place = &self.places[self.at];
            let opened = Connection::open(place, &self.user, "import", self.timeout).await;
            match opened {
                Ok(connection) => self.connection = Some(connection),
                Err(error @ Error::Refused { .. }) if is_about_user(&error.to_string()) => {
                    return Err(Trouble::Lasting(error));
                }
                Err(Error::Unreachable { place, message, .. }) => {
                    return Err(self.failed(format!(
                        "cannot reach {place}: {message}; is it the Redis port of a member (6379 by default)?"
                    )));
                }
                Err(error) => return Err(self.failed(error.to_string())),
            }
        }
        let Some(connection) = &mut self.connection else {
            return Err(Trouble::Passing("no connection".to_owned()));
        };
        let answered = connection.commands.send_packed_commands(pipe, 0, pipe.len()).await;
        answered.map_err(|error: RedisError| {
            let message = format!("{}: {error}", self.places[self.at].name());
            self.failed(message)
        })
    }

    /// Drops the connection and turns to the next member.
    fn failed(&mut self, message: String) -> Trouble {
        self.connection = None;
        self.is_armed = false;
        self.at = (self.at + 1) % self.places.len();
        Trouble::Passing(message)
    }
}

fn command(words: &Words) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word.as_slice());
    }
    command
}

fn error_of(value: &Value) -> Option<&ServerError> {
    match value {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

/// Parts of the errors of a write or script that is too large or exceeds its budget.
const COSTLY: [&str; 3] = ["split it into smaller ones", "BUDGET_EXCEEDED", "bytes, more than"];

fn is_about_user(message: &str) -> bool {
    ["NOAUTH", "NOPERM", "WRONGPASS", "DENIED"].iter().any(|code| message.contains(code))
}

/// Whether an answer other than that of EXEC ends the import.
fn sort(error: &ServerError) -> Trouble {
    let message = error.to_string();
    let is_costly = COSTLY.iter().any(|text| message.contains(text));
    match is_about_user(&message) {
        true => Trouble::Lasting(Error::Impossible(format!(
            "the target refuses: {message}; give --user and --password-file of a user who may read and write"
        ))),
        false if is_costly => Trouble::Costly(message),
        false => Trouble::Passing(message),
    }
}

/// Returns whether all commands took effect. `queued`: the answers to MULTI, the commands, and SET.
fn check_executed(units: &[Unit], queued: &[Value], executed: Option<Value>) -> Result<(), Trouble> {
    match executed {
        Some(Value::Array(answers)) => match units.iter().flatten().zip(&answers).find_map(refused) {
            Some((words, error)) => Err(Trouble::Lasting(refusal(words, error))),
            None => Ok(()),
        },
        // The guard: the marker is no longer what this connection read.
        Some(Value::Nil) => Err(Trouble::Passing("the batch may have been applied before".to_owned())),
        Some(Value::ServerError(aborted)) if aborted.code() == "EXECABORT" => {
            let queued = queued.get(1..).unwrap_or_default();
            let commands = units.iter().flatten();
            let found = commands.zip(queued).find_map(|(words, answer)| Some((words, error_of(answer)?)));
            match found {
                Some((words, error)) if !is_passing(error) => Err(Trouble::Lasting(refusal(words, error))),
                _ => Err(Trouble::Passing(aborted.to_string())),
            }
        }
        Some(Value::ServerError(error)) => Err(sort(&error)),
        other => Err(Trouble::Lasting(Error::Output(format!("EXEC was answered with {other:?}")))),
    }
}

fn is_passing(error: &ServerError) -> bool {
    ["LOADING", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF", "READONLY", "NOREPLICAS"]
        .contains(&error.code())
}

fn refused<'a>((words, answer): (&'a Words, &'a Value)) -> Option<(&'a Words, &'a ServerError)> {
    let error = error_of(answer)?;
    // The answers of the transaction together are too large, and this one is left out.
    let has_effect = error.details().is_some_and(|text| text.contains("what it wrote stands"));
    (!has_effect).then_some((words, error))
}

fn refusal(words: &Words, error: &ServerError) -> Error {
    Error::Impossible(format!("the target refuses {}: {error}", described(words)))
}

fn described(words: &Words) -> String {
    let name = words.first().map_or_else(String::new, |name| String::from_utf8_lossy(name).to_uppercase());
    let key = words.get(1).map_or_else(String::new, |key| format!(" {}", shown(key)));
    name + &key
}

/// Pauses that grow, until the patience ends.
pub struct Retry {
    deadline: Instant,
    patience: Duration,
    pause: Duration,
    noted: Instant,
}

impl Retry {
    pub fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self { deadline: now + patience, patience, pause: FIRST_PAUSE, noted: now }
    }

    /// # Errors
    /// When the patience has ended.
    pub async fn pause(&mut self, doing: &str, message: String) -> Result<(), Error> {
        if Instant::now() >= self.deadline {
            return Err(Error::Timeout {
                what: format!("cannot {doing}"),
                last: message,
                limit: self.patience,
            });
        }
        if self.noted.elapsed() >= NOTE_EVERY {
            self.noted = Instant::now();
            note(&format!("retrying to {doing}: {message}"));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
