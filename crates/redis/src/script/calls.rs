//! `redis.call`: a command of a script, tried on the state with the script's writes so far.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::executor::block_on;
use helios_proto::Error;
use helios_proto::v1::{Call, Reply, command::Op};
use helios_service::auth::{Identity, Role};
use helios_state::{Store, Trial};
use mlua::{Lua, MultiValue, Value};

use super::super::commands::acl::role_for;
use super::super::commands::read::Snapshot;
use super::super::commands::write::Answer;
use super::super::commands::{self, Local, Read, Request};
use super::super::error::Refusal;
use super::super::frame::{Frame, Protocol};
use super::super::prefixes;
use super::super::server::Shared;
use super::super::table::{Flags, Spec, resolve};
use super::convert;
use super::meter::{ELEMENT_BYTES, Meter, Stopped};
use super::natives::{Failure, MAX_LOG_BYTES};

/// Limit on the messages that the scripts of one request publish.
pub const MAX_MESSAGES: usize = 10_000;
const UNDECLARED: &str =
    "NOPERM a script of a read-only user may access only the keys that are declared in KEYS";

/// State that the commands of one `EVAL`, or one `EXEC`, are tried on.
pub struct World {
    pub store: Store,
    pub shared: Arc<Shared>,
    pub trial: Trial,
    /// Clock that the commands see, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Channel and payload of each message; sent if the transaction takes effect.
    pub messages: Vec<(Bytes, Bytes)>,
    /// Bytes of `messages` and of the replies so far.
    pub bytes: usize,
    /// Bytes left for `redis.log`.
    pub log_bytes: usize,
}

/// Host side of one running script.
pub struct Host {
    pub world: World,
    pub read_only: bool,
    /// User that runs the script.
    pub identity: Identity,
    /// Keys declared in the request: the only ones that a user who may not write may access.
    pub keys: HashSet<Bytes>,
    /// Protocol version of the replies that the script gets (`redis.setresp`).
    pub protocol: Protocol,
    /// Failure of this node, not caused by the script: the script has no effect.
    pub failure: Option<Error>,
}

impl World {
    pub fn new(store: Store, shared: Arc<Shared>, now_ms: u64) -> Self {
        let trial = Trial::new(store.read_limits());
        Self { store, shared, trial, now_ms, messages: Vec::new(), bytes: 0, log_bytes: MAX_LOG_BYTES }
    }

    /// Returns the bytes that are held until the end of the request.
    pub fn kept_bytes(&self) -> usize {
        self.trial.bytes().saturating_add(self.bytes)
    }

    /// Tries one operation; returns its reply, or this node's failure, which ends the script.
    pub fn step(&mut self, op: Op, answer: Answer) -> Result<Frame, Error> {
        let kind = self.trial.run(&self.store, op, self.now_ms)?;
        Ok(answer.frame(Reply { kind: Some(kind), ..Reply::default() }))
    }

    fn read(&mut self, read: Read) -> Result<Frame, Error> {
        let call = match read {
            Read::Query(call) => call,
            walk => return self.walk(walk),
        };
        self.step(Op::Call(call), Answer::Plain)
    }

    /// Executes `SCAN`, `KEYS` or a scan of elements. Scans of elements see the script's writes, scans of keys
    /// do not.
    fn walk(&mut self, walk: Read) -> Result<Frame, Error> {
        let trial = Mutex::new(std::mem::take(&mut self.trial));
        let query = |call: &Call| {
            let mut trial = trial.lock().unwrap_or_else(PoisonError::into_inner);
            trial.run(&self.store, Op::Call(call.clone()), self.now_ms)
        };
        let Shared { cursors, stats, .. } = &*self.shared;
        let snapshot =
            Snapshot { store: &self.store, wall_ms: self.now_ms, cursors, stats, tried: Some(&query) };
        let answer = block_on(walk.execute(&snapshot));
        self.trial = trial.into_inner().unwrap_or_else(PoisonError::into_inner);
        answer
    }
}

impl Host {
    fn call(&mut self, words: Vec<Bytes>) -> Frame {
        let understood = resolve(&words)
            .map_err(|refusal| match refusal {
                Refusal::UnknownCommand { .. } | Refusal::UnknownSubcommand { .. } => {
                    Refusal::other("ERR Unknown Redis command called from script")
                }
                Refusal::Arity(_) => {
                    Refusal::other("ERR Wrong number of args calling Redis command from script")
                }
                refusal => refusal,
            })
            .and_then(|spec| self.understand(spec, words));
        match understood {
            Ok(request) => self.execute(request).unwrap_or_else(|error| {
                let frame = Frame::from(error.clone());
                self.failure.get_or_insert(error);
                frame
            }),
            Err(refusal) => refusal.into(),
        }
    }

    fn understand(&self, spec: &'static Spec, words: Vec<Bytes>) -> Result<Request, Refusal> {
        if spec.has(Flags::NOSCRIPT) {
            return Err(not_allowed());
        }
        let role = self.identity.role();
        if !role.includes(role_for(spec)) {
            return Err(Refusal::NoPermission(spec.name));
        }
        if self.read_only && (spec.has(Flags::WRITE) || spec.name == "publish") {
            return Err(Refusal::other("ERR Write commands are not allowed from read-only scripts."));
        }
        if !role.includes(Role::ReadWrite) {
            self.check_declared(spec, &words)?;
        }
        prefixes::check(spec, &words, &self.identity)?;
        let request = commands::understand(spec, words, self.world.now_ms, &self.world.shared.limits)?;
        prefixes::restrict(request, &self.identity)
    }

    /// Checks that a user who may not write accesses only keys that are declared in KEYS.
    fn check_declared(&self, spec: &Spec, words: &[Bytes]) -> Result<(), Refusal> {
        let walks = ["keys", "scan", "randomkey", "dbsize"].contains(&spec.name);
        let undeclared = match spec.key_positions(words) {
            Some(positions) => positions.into_iter().any(|at| !self.keys.contains(&words[at])),
            // The parser of the command rejects it.
            None => false,
        };
        // BY and GET derive the names of further keys.
        let is_option = |word: &Bytes| word.eq_ignore_ascii_case(b"by") || word.eq_ignore_ascii_case(b"get");
        let sorts = spec.name.starts_with("sort") && words.iter().skip(2).any(is_option);
        if walks || undeclared || sorts {
            return Err(Refusal::other(UNDECLARED));
        }
        Ok(())
    }

    fn execute(&mut self, request: Request) -> Result<Frame, Error> {
        match request {
            Request::Write(write) => self.world.step(write.op, write.answer),
            // As in Redis, a blocking command does not wait inside a script.
            Request::Block(blocking) => self.world.step(blocking.op(&blocking.keys), blocking.answer),
            Request::Read(read) => self.world.read(read),
            Request::Local(Local::Answer(frame)) => Ok(frame),
            Request::Local(Local::Ping(text)) => Ok(text.map_or(Frame::Simple("PONG".into()), Frame::Bulk)),
            Request::Publish { .. } if self.world.messages.len() >= MAX_MESSAGES => {
                Ok(Frame::error(format!("ERR a script may publish {MAX_MESSAGES} messages (fixed)")))
            }
            Request::Publish { channel, payload } => {
                self.world.bytes += channel.len() + payload.len() + ELEMENT_BYTES;
                self.world.messages.push((channel, payload));
                // The message is sent after the script has taken effect, so the number of receivers is not
                // known yet.
                Ok(Frame::Integer(0))
            }
            _ => Ok(not_allowed().into()),
        }
    }
}

fn not_allowed() -> Refusal {
    Refusal::other("ERR This Redis command is not allowed from script")
}

/// Executes `redis.pcall`: an error becomes a table with `err`.
pub fn pcall(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<Value, Failure> {
    let (frame, protocol, held) = {
        let Some(mut host) = lua.app_data_mut::<Host>() else {
            return Err(Failure::text("redis.call is for scripts"));
        };
        let protocol = host.protocol;
        let kept = host.world.kept_bytes();
        let held = meter.hold(lua, cost_of_words(&arguments))?;
        let frame = match words(&arguments) {
            Ok(words) => host.call(words),
            Err(text) => Frame::error(text),
        };
        // Its writes and messages are held until the end of the request.
        match meter.hold(lua, host.world.kept_bytes().saturating_sub(kept)) {
            Ok(held) => held.keep(),
            Err(fault) => {
                meter.stop(Stopped::OverBudget);
                return Err(fault.into());
            }
        }
        (frame, protocol, held)
    };
    drop(held);
    let _held = meter.hold(lua, convert::cost(&frame))?;
    convert::to_lua(lua, meter, frame, protocol)
}

fn cost_of_words(arguments: &MultiValue) -> usize {
    let cost = |value: &Value| value.as_string().map_or(0, |text| text.as_bytes().len()) + ELEMENT_BYTES;
    arguments.iter().map(cost).sum()
}

fn words(arguments: &MultiValue) -> Result<Vec<Bytes>, &'static str> {
    if arguments.is_empty() {
        return Err("ERR Please specify at least one argument for this redis lib call");
    }
    let words = arguments.iter().map(|value| match value {
        Value::String(text) => Some(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(number) => Some(number_text(*number as f64).into()),
        Value::Number(number) => Some(number_text(*number).into()),
        _ => None,
    });
    words.collect::<Option<_>>().ok_or("ERR Lua redis lib command arguments must be strings or integers")
}

/// Formats a number as C's `%.17g`.
fn number_text(number: f64) -> String {
    general(number, 17)
}

/// Formats a number as C's `%.{digits}g`.
pub fn general(number: f64, digits: usize) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "nan".to_owned() } else { helios_state::commands::double_text(number) };
    }
    let scientific = format!("{number:.*e}", digits - 1);
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let shortened = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if (-4..digits as i32).contains(&exponent) {
        let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
        return shortened(&format!("{number:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", shortened(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_as_in_c() {
        for (number, text) in [
            (1.0, "1"),
            (-3.5, "-3.5"),
            (0.1, "0.10000000000000001"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1e300, "1.0000000000000001e+300"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number_text(number), text);
        }
    }
}
