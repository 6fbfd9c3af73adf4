//! Native functions of a script's interpreter, called from `sandbox.lua`.
//!
//! Each checks first whether the script has to stop. A failure is returned as a mark and a text, which
//! `sandbox.lua` turns into a Lua error with the position of the caller: `pcall` could not return an error of
//! Rust as text.

use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::super::commands::status::REDIS_VERSION;
use super::super::frame::Protocol;
use super::meter::{Buffer, Fault, Meter};
use super::pattern::{Capture, Matcher};
use super::{Host, calls, json, sandbox};

/// Limit on the bytes that `redis.log` writes for the scripts of one request; the rest is dropped, and that is
/// logged.
pub const MAX_LOG_BYTES: usize = 64 << 10;

type Native = fn(&Lua, &Meter, MultiValue) -> Result<MultiValue, Failure>;

/// Error of a native function.
pub enum Failure {
    Fault(Fault),
    Lua(mlua::Error),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<mlua::Error> for Failure {
    fn from(error: mlua::Error) -> Self {
        Self::Lua(error)
    }
}

impl Failure {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Fault(Fault::Message(text.into()))
    }

    pub fn message(&self) -> String {
        match self {
            Self::Fault(fault) => fault.message(),
            Self::Lua(mlua::Error::MemoryError(_)) => "not enough memory".to_owned(),
            Self::Lua(error) => sandbox::first_line(error),
        }
    }
}

/// Creates the table of native functions and constants for `sandbox.lua`.
pub fn table(lua: &Lua) -> mlua::Result<Table> {
    let natives = lua.create_table()?;
    let mark = lua.create_table()?;
    let add = |name: &str, native: Native| natives.raw_set(name, function(lua, &mark, native)?);
    natives.raw_set("call", lua.create_function(call)?)?;
    add("find", find)?;
    add("match", match_)?;
    add("next", next)?;
    add("gsub", gsub)?;
    add("look", |_, _, _| Ok(MultiValue::new()))?;
    add("loadstring", load)?;
    add("encode", json::encode)?;
    add("decode", json::decode)?;
    add("sha1hex", sha1hex)?;
    add("log", log)?;
    add("setresp", set_protocol)?;
    natives.raw_set("fail", mark)?;
    natives.raw_set("null", Value::NULL)?;
    natives.raw_set("redis", constants(lua)?)?;
    Ok(natives)
}

/// Executes `redis.call` and `redis.pcall`. Returns one value: the stack of a function with 8 000 arguments has
/// no room for a list of values.
fn call(lua: &Lua, arguments: MultiValue) -> mlua::Result<Value> {
    let meter = meter_of(lua)?;
    let result = meter.check().map_err(Failure::from).and_then(|()| calls::pcall(lua, &meter, arguments));
    result.or_else(|failure| {
        let error = lua.create_table()?;
        error.raw_set("err", format!("ERR {}", failure.message()))?;
        Ok(Value::Table(error))
    })
}

fn meter_of(lua: &Lua) -> mlua::Result<Rc<Meter>> {
    let meter = lua.app_data_ref::<Rc<Meter>>().map(|meter| Rc::clone(&meter));
    meter.ok_or_else(|| mlua::Error::runtime("this function is for scripts"))
}

fn function(lua: &Lua, mark: &Table, native: Native) -> mlua::Result<Function> {
    let mark = mark.clone();
    lua.create_function(move |lua, arguments: MultiValue| {
        let meter = meter_of(lua)?;
        let result = meter.check().map_err(Failure::from).and_then(|()| native(lua, &meter, arguments));
        result.or_else(|failure| {
            let text = lua.create_string(failure.message())?;
            Ok([Value::Table(mark.clone()), Value::String(text)].into_iter().collect())
        })
    })
}

fn constants(lua: &Lua) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    for (level, name) in ["LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"].into_iter().enumerate() {
        redis.raw_set(name, level)?;
    }
    for (name, value) in
        [("REPL_NONE", 0), ("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3)]
    {
        redis.raw_set(name, value)?;
    }
    redis.raw_set("REDIS_VERSION", REDIS_VERSION)?;
    redis.raw_set("REDIS_VERSION_NUM", version_number())?;
    Ok(redis)
}

fn version_number() -> u32 {
    REDIS_VERSION.split('.').fold(0, |number, part| number << 8 | part.parse::<u32>().unwrap_or(0))
}

/// Returns argument `number`, counted from 1, as text by Lua's conversion.
pub fn text(lua: &Lua, arguments: &MultiValue, number: usize, of: &str) -> Result<mlua::String, Failure> {
    let value = arguments.get(number - 1).cloned().unwrap_or(Value::Nil);
    let found = match &value {
        Value::String(text) => return Ok(text.clone()),
        Value::Integer(_) | Value::Number(_) => lua.coerce_string(value)?,
        other => {
            let absent = number > arguments.len();
            let got = if absent { "no value" } else { other.type_name() };
            return Err(Failure::text(format!(
                "bad argument #{number} to '{of}' (string expected, got {got})"
            )));
        }
    };
    found.ok_or_else(|| Failure::text(format!("bad argument #{number} to '{of}'")))
}

/// Returns an optional argument as a number, truncated to an integer.
fn number(lua: &Lua, arguments: &MultiValue, number: usize, of: &str) -> Result<Option<i64>, Failure> {
    match arguments.get(number - 1) {
        None | Some(Value::Nil) => Ok(None),
        Some(value) => {
            let got = value.type_name();
            let found = lua.coerce_number(value.clone()).ok().flatten().map(|number| number as i64);
            let bad =
                || Failure::text(format!("bad argument #{number} to '{of}' (number expected, got {got})"));
            found.map(Some).ok_or_else(bad)
        }
    }
}

/// Returns the offset, from 0, at which Lua starts a search with the argument `init`.
fn start(init: Option<i64>, length: usize) -> usize {
    let length = length as i64;
    let init = init.unwrap_or(1);
    let from = if init < 0 { length.saturating_add(init) } else { init.saturating_sub(1) };
    from.clamp(0, length) as usize
}

fn find(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    search(lua, meter, &arguments, "find")
}

fn match_(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    search(lua, meter, &arguments, "match")
}

fn search(lua: &Lua, meter: &Meter, arguments: &MultiValue, name: &str) -> Result<MultiValue, Failure> {
    let (subject, pattern) = (text(lua, arguments, 1, name)?, text(lua, arguments, 2, name)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let from = start(number(lua, arguments, 3, name)?, subject.len());
    let finds = name == "find";
    let is_plain = arguments.get(3).is_some_and(|plain| !matches!(plain, Value::Nil | Value::Boolean(false)));
    if finds
        && (is_plain
            || !pattern.iter().take_while(|byte| **byte != 0).any(|byte| b"^$*+?.([%-".contains(byte)))
    {
        // Linear time for any subject and pattern.
        let found = memchr::memmem::find(&subject[from..], &pattern).map(|at| from + at);
        return Ok(found.map_or_else(nothing, |at| places(at, at + pattern.len())));
    }
    let mut matcher = Matcher::new(&subject, &pattern, meter);
    let Some(whole) = matcher.find(from, true)? else { return Ok(nothing()) };
    let mut values = if finds { places(whole.0, whole.1) } else { MultiValue::new() };
    push_captures(lua, &matcher, whole, !finds, &mut values)?;
    Ok(values)
}

fn nothing() -> MultiValue {
    [Value::Nil].into_iter().collect()
}

/// Returns start and end as Lua counts: from 1, the end included.
fn places(start: usize, end: usize) -> MultiValue {
    [start + 1, end].map(|number| Value::Integer(number as i64)).into_iter().collect()
}

fn push_captures(
    lua: &Lua,
    matcher: &Matcher<'_>,
    whole: (usize, usize),
    or_whole: bool,
    values: &mut MultiValue,
) -> Result<(), Failure> {
    let count = if matcher.count() == 0 && or_whole { 1 } else { matcher.count() };
    for number in 0..count {
        values.push_back(match matcher.capture(number, whole)? {
            Capture::Text(text) => Value::String(lua.create_string(text)?),
            Capture::Position(at) => Value::Integer(at as i64),
        });
    }
    Ok(())
}

/// Finds the next match for `gmatch` from a position, which may be one behind the end: its start and end, and
/// its captures or the whole match.
fn next(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    let (subject, pattern) = (text(lua, &arguments, 1, "gmatch")?, text(lua, &arguments, 2, "gmatch")?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let from = number(lua, &arguments, 3, "gmatch")?.unwrap_or(1).max(1) as usize - 1;
    let may_be_anchored = arguments.get(3).is_some_and(|value| *value == Value::Boolean(true));
    let mut matcher = Matcher::new(&subject, &pattern, meter);
    let Some(whole) = matcher.find(from, may_be_anchored)? else { return Ok(nothing()) };
    let mut values = places(whole.0, whole.1);
    push_captures(lua, &matcher, whole, true, &mut values)?;
    Ok(values)
}

/// Executes `gsub` with a text as replacement; `sandbox.lua` handles functions and tables.
fn gsub(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    let (subject, pattern) = (text(lua, &arguments, 1, "gsub")?, text(lua, &arguments, 2, "gsub")?);
    let replacement = text(lua, &arguments, 3, "gsub")?;
    let (subject, pattern, replacement) = (subject.as_bytes(), pattern.as_bytes(), replacement.as_bytes());
    let most = number(lua, &arguments, 4, "gsub")?.unwrap_or(i64::MAX);
    let mut matcher = Matcher::new(&subject, &pattern, meter);
    let is_anchored = matcher.is_anchored();
    let mut out = Buffer::new(lua, meter)?;
    let (mut count, mut from, mut copied) = (0, 0, 0);
    while count < most && from <= subject.len() {
        let Some((start, end)) = matcher.find(from, true)? else { break };
        count += 1;
        out.put(&subject[copied..start])?;
        replace(&mut out, &replacement, &matcher, (start, end))?;
        copied = end;
        from = if end > start { end } else { start + 1 };
        if is_anchored {
            break;
        }
    }
    out.put(&subject[copied..])?;
    let result = lua.create_string(out.bytes())?;
    Ok([Value::String(result), Value::Integer(count)].into_iter().collect())
}

/// Appends `replacement` with the captures that it refers to.
fn replace(
    out: &mut Buffer<'_>,
    replacement: &[u8],
    matcher: &Matcher<'_>,
    whole: (usize, usize),
) -> Result<(), Failure> {
    let mut rest = replacement;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.put(&rest[..at])?;
        let name = rest.get(at + 1).copied();
        match name {
            Some(digit) if digit.is_ascii_digit() => {
                let capture = match digit {
                    b'0' => matcher.whole(whole),
                    digit => matcher.capture(usize::from(digit - b'1'), whole)?,
                };
                match capture {
                    Capture::Text(text) => out.put(text)?,
                    Capture::Position(at) => out.put(at.to_string().as_bytes())?,
                }
            }
            // Lua 5.1 reads the terminating NUL as a character.
            other => out.put(&[other.unwrap_or(0)])?,
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    Ok(out.put(rest)?)
}

/// Executes `loadstring`: returns the compiled function, or an error, which becomes nil and a message.
fn load(lua: &Lua, _: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    let Some(Value::String(program)) = arguments.front() else {
        return Err(Failure::text("only the text of a program can be loaded"));
    };
    let name = match arguments.get(1) {
        Some(Value::String(name)) => name.to_string_lossy(),
        // As in Lua, the text is the default name.
        _ => sandbox::lossy(program, 80),
    };
    let function = sandbox::compile(lua, &program.as_bytes(), &name)?;
    Ok([Value::Function(function)].into_iter().collect())
}

fn sha1hex(lua: &Lua, _: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    if arguments.len() != 1 {
        return Err(Failure::text("wrong number of arguments"));
    }
    let digest = super::digest_of(&text(lua, &arguments, 1, "sha1hex")?.as_bytes());
    Ok([Value::String(lua.create_string(digest)?)].into_iter().collect())
}

fn log(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    if arguments.len() < 2 {
        return Err(Failure::text("redis.log() requires two arguments or more."));
    }
    let level = match arguments.front() {
        Some(Value::Integer(level @ 0..=3)) => *level,
        Some(Value::Integer(_) | Value::Number(_)) => return Err(Failure::text("Invalid debug level.")),
        _ => return Err(Failure::text("First argument must be a number (log level).")),
    };
    let Some(mut host) = lua.app_data_mut::<Host>() else { return Ok(MultiValue::new()) };
    let (mut words, mut room) = (Vec::new(), host.world.log_bytes);
    let had_room = room > 0;
    for number in 2..=arguments.len() {
        meter.step(1)?;
        if room == 0 {
            break;
        }
        let word = sandbox::lossy(&text(lua, &arguments, number, "log")?, room);
        room = room.saturating_sub(word.len() + 1);
        words.push(word);
    }
    host.world.log_bytes = room;
    let text = words.join(" ");
    match level {
        _ if !had_room => {}
        _ if room == 0 => {
            tracing::warn!(target: "script", limit = MAX_LOG_BYTES, "{text}... further messages of this script are dropped");
        }
        0 | 1 => tracing::debug!(target: "script", "{text}"),
        2 => tracing::info!(target: "script", "{text}"),
        _ => tracing::warn!(target: "script", "{text}"),
    }
    Ok(MultiValue::new())
}

fn set_protocol(lua: &Lua, _: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    if arguments.len() != 1 {
        return Err(Failure::text("redis.setresp() requires one argument."));
    }
    let protocol = match arguments.front() {
        Some(Value::Integer(2)) => Protocol::Resp2,
        Some(Value::Integer(3)) => Protocol::Resp3,
        _ => return Err(Failure::text("RESP version must be 2 or 3.")),
    };
    if let Some(mut host) = lua.app_data_mut::<Host>() {
        host.protocol = protocol;
    }
    Ok(MultiValue::new())
}
