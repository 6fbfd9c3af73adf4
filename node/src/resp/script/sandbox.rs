//! The interpreter of one run of a script: fresh, bounded, and without a way out.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use mlua::{ChunkMode, Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState};

use super::super::commands::status::REDIS_VERSION;
use super::super::error::Refusal;
use super::super::frame::{Frame, Protocol};
use super::{Host, MAX_TIME, Program, ScriptCall, World, calls, convert, json};
use crate::auth::Role;
use crate::error::Error;

const PRELUDE: &str = include_str!("sandbox.lua");
/// Of its name an error message has what is in front of the line.
const CHUNK: &str = "@user_script";
/// What one script may have in memory.
const MAX_MEMORY_BYTES: usize = 64 << 20;
/// Instructions of Lua between two looks at the clock.
const LOOK_EVERY: u32 = 10_000;

/// Why a script did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    TooLong,
    Killed,
}

/// A script that ran, and what it left behind.
pub struct Ran {
    pub world: World,
    /// What its client is told.
    pub frame: Frame,
    /// Nothing of what it did may count.
    pub is_void: bool,
}

/// What the first line of a script may say: `#!lua flags=no-writes`.
struct Shebang {
    no_writes: bool,
}

/// Refuses what is no Lua.
pub fn check(text: &[u8]) -> Result<(), Refusal> {
    Shebang::of(text)?;
    let compiled =
        Lua::new_with(StdLib::NONE, LuaOptions::default()).and_then(|lua| compile(&lua, text).map(drop));
    compiled.map_err(|error| {
        Refusal::other(format!("ERR Error compiling script (new function): {}", first_line(&error)))
    })
}

/// What the scripts of one client's request have in common.
pub struct Job {
    /// That the client speaks.
    pub client: Protocol,
    /// Of its user: no command may be one that the client could not send itself.
    pub role: Role,
    pub deadline: Instant,
    /// Stops them, too.
    pub killed: Arc<AtomicBool>,
}

/// Runs a script in `world`. To be called where it may take its time.
pub fn run(program: &Program, call: &ScriptCall, world: World, job: &Job) -> Result<Ran, Error> {
    let internal = |error: mlua::Error| {
        let message = format!("a script could not be run: {}", first_line(&error));
        Error::new(helios_proto::v1::ErrorCode::Internal, message)
    };
    let no_writes = Shebang::of(&program.text).is_ok_and(|shebang| shebang.no_writes);
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS;
    let lua = Lua::new_with(libraries, LuaOptions::default()).map_err(internal)?;
    lua.set_memory_limit(MAX_MEMORY_BYTES).map_err(internal)?;
    let read_only = call.read_only || no_writes;
    let host = Host { world, read_only, role: job.role, protocol: Protocol::Resp2, failure: None };
    lua.set_app_data(host);
    let stopped = Rc::new(Cell::new(None));
    let frame = watch(&lua, job, stopped.clone())
        .and_then(|()| execute(&lua, program, call, job.client))
        .unwrap_or_else(|error| Frame::error(format!("ERR {}", first_line(&error))));
    let Some(Host { world, failure, .. }) = lua.remove_app_data::<Host>() else {
        return Err(Error::new(helios_proto::v1::ErrorCode::Internal, "a script lost its state"));
    };
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(match stopped.get() {
        Some(reason) => Ran { world, frame: reason.frame(), is_void: true },
        None => Ran { world, frame, is_void: false },
    })
}

impl Stopped {
    fn frame(self) -> Frame {
        Frame::error(match self {
            Self::TooLong => format!(
                "ERR the script was stopped after {} seconds and nothing of it was done: make several of it",
                MAX_TIME.as_secs()
            ),
            Self::Killed => {
                "ERR Error running script: Script killed by user with SCRIPT KILL... nothing of it was done"
                    .to_owned()
            }
        })
    }
}

/// Looks at the clock now and then. Once the time is up every instruction fails: a script that catches the
/// first error does not get far.
fn watch(lua: &Lua, job: &Job, stopped: Rc<Cell<Option<Stopped>>>) -> mlua::Result<()> {
    let (deadline, killed) = (job.deadline, job.killed.clone());
    lua.set_hook(HookTriggers::new().every_nth_instruction(LOOK_EVERY), move |lua, _| {
        if stopped.get().is_none() {
            if killed.load(Ordering::Relaxed) {
                stopped.set(Some(Stopped::Killed));
            } else if Instant::now() >= deadline {
                stopped.set(Some(Stopped::TooLong));
            } else {
                return Ok(VmState::Continue);
            }
            lua.set_hook(HookTriggers::new().every_nth_instruction(1), |_, _| Err(stop()))?;
        }
        Err(stop())
    })
}

fn stop() -> mlua::Error {
    mlua::Error::runtime("the script was stopped")
}

fn compile(lua: &Lua, text: &[u8]) -> mlua::Result<Function> {
    // The first line stays, empty, so that lines keep their numbers.
    let text = if text.starts_with(b"#!") {
        text.iter().position(|byte| *byte == b'\n').map_or(&b""[..], |end| &text[end..])
    } else {
        text
    };
    lua.load(text).set_name(CHUNK).set_mode(ChunkMode::Text).into_function()
}

fn execute(lua: &Lua, program: &Program, call: &ScriptCall, client: Protocol) -> mlua::Result<Frame> {
    let words = |words: &[Bytes]| {
        let words = words.iter().map(|word| lua.create_string(word)).collect::<mlua::Result<Vec<_>>>()?;
        lua.create_sequence_from(words)
    };
    let script = compile(lua, &program.text)?;
    let prelude = lua.load(PRELUDE).set_name("@prelude").into_function()?;
    let protected: Function = prelude.call((natives(lua)?, words(&call.keys)?, words(&call.args)?))?;
    let mut results = protected.call::<MultiValue>(script)?;
    let succeeded = results.pop_front() == Some(Value::Boolean(true));
    let result = results.pop_front().unwrap_or(Value::Nil);
    if succeeded { convert::to_frame(&result, client) } else { failure(&result, program) }
}

/// The functions that are not written in Lua.
fn natives(lua: &Lua) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    redis.set(
        "sha1hex",
        lua.create_function(|_, text: mlua::String| Ok(super::digest_of(&text.as_bytes())))?,
    )?;
    redis.set("log", lua.create_function(log)?)?;
    redis.set("setresp", lua.create_function(set_protocol)?)?;
    for (level, name) in ["LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"].into_iter().enumerate() {
        redis.set(name, level)?;
    }
    for (name, value) in
        [("REPL_NONE", 0), ("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3)]
    {
        redis.set(name, value)?;
    }
    redis.set("REDIS_VERSION", REDIS_VERSION)?;
    redis.set("REDIS_VERSION_NUM", version_number())?;
    let natives = lua.create_table()?;
    natives.set("redis", redis)?;
    natives.set("call", lua.create_function(calls::pcall)?)?;
    natives.set("cjson", json::library(lua)?)?;
    Ok(natives)
}

fn version_number() -> u32 {
    REDIS_VERSION.split('.').fold(0, |number, part| number << 8 | part.parse::<u32>().unwrap_or(0))
}

fn log(_: &Lua, (level, words): (i64, mlua::Variadic<mlua::String>)) -> mlua::Result<()> {
    let text = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    match level {
        0 | 1 => tracing::debug!(target: "script", "{text}"),
        2 => tracing::info!(target: "script", "{text}"),
        3 => tracing::warn!(target: "script", "{text}"),
        _ => return Err(mlua::Error::runtime("Invalid debug level.")),
    }
    Ok(())
}

fn set_protocol(lua: &Lua, version: i64) -> mlua::Result<()> {
    let protocol = match version {
        2 => Protocol::Resp2,
        3 => Protocol::Resp3,
        _ => return Err(mlua::Error::runtime("RESP version must be 2 or 3.")),
    };
    if let Some(mut host) = lua.app_data_mut::<Host>() {
        host.protocol = protocol;
    }
    Ok(())
}

/// The error reply of a script that failed, with the place of the failure as far as it is known.
fn failure(error: &Value, program: &Program) -> mlua::Result<Frame> {
    let (message, place) = match error {
        Value::Table(table) => match table.raw_get("err")? {
            Value::String(text) => {
                let place: Value = table.raw_get("place")?;
                let place = place.as_string().map(|place| place.to_string_lossy()).unwrap_or_default();
                (text.to_string_lossy(), place)
            }
            _ => ("ERR unknown error".to_owned(), String::new()),
        },
        Value::String(text) => {
            let text = text.to_string_lossy();
            (format!("ERR {text}"), text)
        }
        Value::Error(error) => {
            let text = first_line(error);
            (format!("ERR {text}"), text)
        }
        other => (format!("ERR {}", other.to_string()?), String::new()),
    };
    let line = place.strip_prefix(&CHUNK[1..]).and_then(|rest| rest.strip_prefix(':')?.split(':').next());
    let is_one_line = !program.text.trim_ascii().contains(&b'\n');
    let on = match line.or(is_one_line.then_some("1")) {
        Some(line) => format!(" script: {}, on {CHUNK}:{line}.", program.digest),
        None => format!(" script: {}.", program.digest),
    };
    Ok(Frame::error(message + &on))
}

/// Without the traceback.
fn first_line(error: &mlua::Error) -> String {
    let text = match error {
        mlua::Error::CallbackError { cause, .. } => return first_line(cause),
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}

impl Shebang {
    fn of(text: &[u8]) -> Result<Self, Refusal> {
        let mut shebang = Self { no_writes: false };
        let Some(line) = text.strip_prefix(b"#!") else { return Ok(shebang) };
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut parts = line.split_ascii_whitespace();
        let engine = parts.next().unwrap_or_default();
        if engine != "lua" {
            return Err(Refusal::other(format!("ERR Unexpected engine in script shebang: {engine}")));
        }
        for part in parts {
            let flags = part.strip_prefix("flags=");
            let flags =
                flags.ok_or_else(|| Refusal::other(format!("ERR Unknown lua shebang option: {part}")))?;
            for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
                match flag {
                    "no-writes" => shebang.no_writes = true,
                    "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                    _ => {
                        return Err(Refusal::other(format!("ERR Unexpected flag in script shebang: {flag}")));
                    }
                }
            }
        }
        Ok(shebang)
    }
}
