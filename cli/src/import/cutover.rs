//! The cut-over: writes at the source are paused, the rest is applied, both sides are compared.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, RedisError, Value, cmd};

use super::source::Source;
use super::target::Target;
use crate::error::Error;
use crate::kv::Connection;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A collection with more elements is compared by its size only.
const MAX_COMPARED: i64 = 10_000;
/// Keys whose values are read at once.
const COMPARED_AT_ONCE: usize = 16;
/// Replicas that no source has, so that it refuses writes.
const FENCE: &str = "1000000";
const SCAN_COUNT: u32 = 1000;

/// A connection to the source for questions, beside that of the replica.
pub struct Control {
    connection: Connection,
    name: String,
}

impl Control {
    /// # Errors
    /// When the source cannot be reached.
    pub async fn open(source: &Source, database: u64) -> Result<Self, Error> {
        let database = i64::try_from(database).unwrap_or(i64::MAX);
        let opened =
            Connection::of_database(&source.place, &source.user, "be copied", TIMEOUT, database).await;
        let connection = opened.map_err(|error| source.unreachable(error))?;
        Ok(Self { connection, name: source.place.name().to_owned() })
    }

    async fn ask(&mut self, words: &[&[u8]]) -> Result<Value, Error> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let doing =
            words.iter().take(2).map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ");
        let answer: Result<Value, RedisError> = command.query_async(&mut self.connection.commands).await;
        answer.map_err(|error| Error::Refused {
            member: format!("the source {}", self.name),
            doing,
            message: error.to_string(),
            hint: String::new(),
            retryable: false,
        })
    }

    /// Position after the last write of the source.
    ///
    /// # Errors
    /// When the source does not answer.
    pub async fn offset(&mut self) -> Result<u64, Error> {
        let info = match self.ask(&[b"INFO", b"replication"]).await? {
            Value::BulkString(info) => String::from_utf8_lossy(&info).into_owned(),
            Value::VerbatimString { text, .. } => text,
            other => return Err(Error::Output(format!("INFO was answered with {other:?}"))),
        };
        let offset =
            info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.trim().parse().ok());
        offset.ok_or_else(|| Error::Output("INFO replication has no master_repl_offset".to_owned()))
    }

    /// Pauses writes for at most `limit`.
    ///
    /// # Errors
    /// When the source does not pause.
    pub async fn pause(&mut self, limit: Duration) -> Result<(), Error> {
        let ms = limit.as_millis().to_string();
        self.ask(&[b"CLIENT", b"PAUSE", ms.as_bytes(), b"WRITE"]).await.map_err(|error| {
            Error::Impossible(format!(
                "{error}; Redis before 6.2 cannot pause writes only: stop its writers, wait for lag 0, then press Ctrl-C here"
            ))
        })?;
        Ok(())
    }

    /// # Errors
    /// When the source does not answer; the pause then ends at its limit.
    pub async fn unpause(&mut self) -> Result<(), Error> {
        self.ask(&[b"CLIENT", b"UNPAUSE"]).await.map(drop)
    }

    /// Makes the source refuse writes.
    ///
    /// # Errors
    /// When its user may not change its configuration.
    pub async fn fence(&mut self) -> Result<(), Error> {
        self.ask(&[b"CONFIG", b"SET", b"min-replicas-to-write", FENCE.as_bytes()]).await.map(drop)
    }

    async fn keys(&mut self) -> Result<u64, Error> {
        match self.ask(&[b"DBSIZE"]).await? {
            Value::Int(keys) => Ok(keys.unsigned_abs()),
            other => Err(Error::Output(format!("DBSIZE was answered with {other:?}"))),
        }
    }

    /// Answers to commands that cannot fail.
    async fn ask_all(&mut self, pipe: &Pipeline) -> Result<Vec<Value>, Error> {
        let answers = self.connection.commands.send_packed_commands(pipe, 0, pipe.len()).await;
        answers.map_err(|error| Error::Unreachable {
            place: format!("the source {}", self.name),
            message: error.to_string(),
            advice: "does it run?".to_owned(),
        })
    }

    async fn exists(&mut self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.ask(&[b"EXISTS", key]).await? == Value::Int(1))
    }

    async fn scan(&mut self, cursor: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>), Error> {
        let count = SCAN_COUNT.to_string();
        let answer = self.ask(&[b"SCAN", cursor, b"COUNT", count.as_bytes()]).await?;
        redis::from_redis_value(answer)
            .map_err(|error| Error::Output(format!("SCAN was answered with {error}")))
    }
}

/// Result of a comparison in which no difference was found.
pub struct Compared {
    pub source_keys: u64,
    pub target_keys: u64,
    pub values: u64,
}

/// Compares the number of keys, and the values of a sample.
///
/// # Errors
/// When there is a difference.
pub async fn compare(
    control: &mut Control,
    target: &mut Target,
    sample: u32,
    is_shared: bool,
) -> Result<Compared, Error> {
    let (source_keys, target_keys) = (control.keys().await?, target.count().await?);
    // Keys that have expired are counted until they are purged, by each side at its own time.
    if source_keys != target_keys && !is_shared {
        find_missing(control, target, source_keys, target_keys).await?;
    }
    let values = compare_sample(control, target, sample).await?;
    Ok(Compared { source_keys, target_keys, values })
}

/// Checks that the target has each key of the source that has not expired.
async fn find_missing(
    control: &mut Control,
    target: &mut Target,
    source_keys: u64,
    target_keys: u64,
) -> Result<(), Error> {
    if target_keys > source_keys {
        return Err(different(format!("the target has {target_keys} keys, the source {source_keys}")));
    }
    let mut cursor = b"0".to_vec();
    loop {
        let (next, names) = control.scan(&cursor).await?;
        let mut pipe = Pipeline::new();
        for name in &names {
            pipe.add_command(cmd("EXISTS").arg(name.as_slice()).clone());
        }
        if !names.is_empty() {
            let found = target.patiently("look for keys", &pipe).await?;
            for (name, _) in names.iter().zip(found).filter(|(_, found)| *found != Value::Int(1)) {
                if control.exists(name).await? {
                    return Err(different(format!("the target has no key {}", super::content::shown(name))));
                }
            }
        }
        if next == b"0" {
            return Ok(());
        }
        cursor = next;
    }
}

fn different(what: String) -> Error {
    Error::Impossible(format!("{what} (please report it)"))
}

/// A question about a key, which both sides have to answer alike.
struct Question {
    name: Vec<u8>,
    kind: String,
    size: Cmd,
    value: Cmd,
}

fn question(name: Vec<u8>, kind: &Value) -> Option<Question> {
    let Value::SimpleString(kind) = kind else { return None };
    let (size, read, rest): (_, _, &[&str]) = match kind.as_str() {
        "string" => ("STRLEN", "GET", &[]),
        "list" => ("LLEN", "LRANGE", &["0", "-1"]),
        "set" => ("SCARD", "SMEMBERS", &[]),
        "hash" => ("HLEN", "HGETALL", &[]),
        "zset" => ("ZCARD", "ZRANGE", &["0", "-1", "WITHSCORES"]),
        // It has expired, or is of a type that was left out.
        _ => return None,
    };
    let size = cmd(size).arg(name.as_slice()).clone();
    let value = cmd(read).arg(name.as_slice()).arg(rest).clone();
    Some(Question { name, kind: kind.clone(), size, value })
}

fn pipe_of(commands: impl Iterator<Item = Cmd>) -> Pipeline {
    let mut pipe = Pipeline::new();
    for command in commands {
        pipe.add_command(command);
    }
    pipe
}

/// Compares the values of random keys; returns of how many.
async fn compare_sample(control: &mut Control, target: &mut Target, sample: u32) -> Result<u64, Error> {
    let drawn = control.ask_all(&pipe_of((0..sample).map(|_| cmd("RANDOMKEY")))).await?;
    let names: BTreeSet<Vec<u8>> = drawn
        .into_iter()
        .filter_map(|value| match value {
            Value::BulkString(name) => Some(name),
            _ => None,
        })
        .collect();
    let kinds = names.iter().map(|name| cmd("TYPE").arg(name.as_slice()).clone());
    let kinds = control.ask_all(&pipe_of(kinds)).await?;
    let questions: Vec<_> =
        names.into_iter().zip(&kinds).filter_map(|(name, kind)| question(name, kind)).collect();
    for some in questions.chunks(COMPARED_AT_ONCE) {
        let sizes = pipe_of(some.iter().map(|question| question.size.clone()));
        let ours = control.ask_all(&sizes).await?;
        let theirs = target.patiently("read keys", &sizes).await?;
        let is_small = |size: &Value| matches!(size, Value::Int(size) if *size <= MAX_COMPARED);
        let whole: Vec<_> = some
            .iter()
            .zip(&ours)
            .filter(|(question, size)| question.kind == "string" || is_small(size))
            .map(|(question, _)| question)
            .collect();
        find_difference(control, some.iter(), ours, theirs).await?;
        let expiries =
            pipe_of(some.iter().map(|question| cmd("PEXPIRETIME").arg(question.name.as_slice()).clone()));
        let ours = control.ask_all(&expiries).await?;
        // Redis before 7 does not have the command.
        if !ours.iter().any(|answer| matches!(answer, Value::ServerError(_))) {
            let theirs = target.patiently("read keys", &expiries).await?;
            find_difference(control, some.iter(), ours, theirs).await?;
        }
        let values = pipe_of(whole.iter().map(|question| question.value.clone()));
        if !whole.is_empty() {
            let ours = control.ask_all(&values).await?;
            let theirs = target.patiently("read keys", &values).await?;
            find_difference(control, whole.into_iter(), ours, theirs).await?;
        }
    }
    Ok(questions.len() as u64)
}

async fn find_difference(
    control: &mut Control,
    questions: impl Iterator<Item = &Question>,
    ours: Vec<Value>,
    theirs: Vec<Value>,
) -> Result<(), Error> {
    for (Question { name, kind, .. }, (ours, theirs)) in questions.zip(ours.into_iter().zip(theirs)) {
        // A key that expired meanwhile is equal on both sides.
        if normal(kind, ours) != normal(kind, theirs) && control.exists(name).await? {
            return Err(different(format!(
                "the values or expiries of the key {} differ",
                super::content::shown(name)
            )));
        }
    }
    Ok(())
}

/// The answer in an order that both sides have, and with scores as numbers.
fn normal(kind: &str, value: Value) -> Vec<Vec<u8>> {
    let Value::Array(values) = value else { return vec![format!("{value:?}").into_bytes()] };
    let words: Vec<Vec<u8>> = values
        .into_iter()
        .map(|value| match value {
            Value::BulkString(bytes) => bytes,
            other => format!("{other:?}").into_bytes(),
        })
        .collect();
    let mut words: Vec<Vec<u8>> = match kind {
        "hash" => {
            words.chunks(2).map(|pair| [&pair[0].len().to_be_bytes()[..], &pair.concat()].concat()).collect()
        }
        "zset" => {
            let number =
                |word: &[u8]| std::str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok());
            let odd = |(at, word): (usize, Vec<u8>)| match number(&word) {
                Some(score) if at % 2 == 1 => format!("{score:?}").into_bytes(),
                _ => word,
            };
            words.into_iter().enumerate().map(odd).collect()
        }
        _ => words,
    };
    if kind == "set" || kind == "hash" {
        words.sort_unstable();
    }
    words
}

/// Time since an instant in whole milliseconds.
pub fn ms_since(begun: Instant) -> u64 {
    begun.elapsed().as_millis() as u64
}
