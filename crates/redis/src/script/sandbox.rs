//! Interpreter of one run of a script: new for each run, bounded, and isolated.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use helios_proto::Error;
use helios_service::auth::{Identity, Role};
use mlua::{ChunkMode, Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState};

use super::super::error::Refusal;
use super::super::frame::{Frame, Protocol};
use super::meter::{Halt, MAX_MEMORY_BYTES, Meter};
use super::natives::Failure;
use super::shebang::Shebang;
use super::{Host, Program, ScriptCall, World, convert, natives};

const PRELUDE: &str = include_str!("sandbox.lua");
/// Name of the script's chunk; error messages have it in front of the line number, without `@`.
const CHUNK: &str = "@user_script";
/// Number of Lua instructions between two checks of the clock. Small, since one instruction may copy or compare
/// all memory of the script.
const CHECK_EVERY: u32 = 200;
/// Limit on the text of a script in bytes: Lua 5.1 compiles a chain of branches in quadratic time, about a
/// second at this size, and cannot be interrupted there.
pub const MAX_SCRIPT_BYTES: usize = 256 << 10;
/// Limit on the bytes of an error, a status or a big number that a script returns; the rest is cut off.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// Result of a run: the state after it, and the reply.
pub struct Ran {
    pub world: World,
    /// Reply to the client.
    pub frame: Frame,
    /// Whether the script was stopped, so that it must have no effect.
    pub is_void: bool,
}

/// Checks that a text compiles. Compilation may take long: call it from a blocking thread.
pub fn check(text: &[u8]) -> Result<(), Refusal> {
    Shebang::of(text)?;
    let compiled =
        Lua::new_with(StdLib::NONE, LuaOptions::default()).map_err(Failure::from).and_then(|lua| {
            lua.set_memory_limit(MAX_MEMORY_BYTES)?;
            compile(&lua, text, CHUNK).map(drop)
        });
    compiled.map_err(|failure| {
        Refusal::other(format!("ERR Error compiling script (new function): {}", failure.message()))
    })
}

/// Parameters that the scripts of one request share.
pub struct Job {
    /// User: a script may run only commands that the client could send itself.
    pub identity: Identity,
    pub deadline: Instant,
    /// Flag that stops the scripts before the deadline.
    pub halt: Arc<Halt>,
}

/// Runs a script in `world`. May take as long as its deadline: call it from a blocking thread.
pub fn run(program: &Program, call: &ScriptCall, world: World, job: &Job) -> Result<Ran, Error> {
    let internal = |error: mlua::Error| {
        let message = format!("a script could not be run: {}", first_line(&error));
        Error::new(helios_proto::v1::ErrorCode::Internal, message)
    };
    let no_writes = Shebang::of(&program.text).is_ok_and(|shebang| shebang.no_writes);
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS;
    let lua = Lua::new_with(libraries, LuaOptions::default()).map_err(internal)?;
    let meter = Rc::new(Meter::new(job.deadline, job.halt.clone(), world.kept_bytes()));
    meter.limit(&lua);
    let read_only = call.read_only || no_writes;
    let keys = match job.identity.role().includes(Role::ReadWrite) {
        true => Default::default(),
        false => call.keys.iter().cloned().collect(),
    };
    let identity = job.identity.clone();
    let host = Host { world, read_only, identity, keys, protocol: Protocol::Resp2, failure: None };
    lua.set_app_data(host);
    lua.set_app_data(Rc::clone(&meter));
    let frame = watch(&lua, &meter)
        .map_err(Failure::from)
        .and_then(|()| execute(&lua, &meter, program, call))
        .unwrap_or_else(|failure| Frame::error(format!("ERR {}", failure.message())));
    let Some(Host { mut world, failure, .. }) = lua.remove_app_data::<Host>() else {
        return Err(Error::new(helios_proto::v1::ErrorCode::Internal, "a script lost its state"));
    };
    if let Some(error) = failure {
        return Err(error);
    }
    world.bytes = world.bytes.saturating_add(convert::cost(&frame));
    Ok(match meter.stopped() {
        Some(reason) => Ran { world, frame: reason.frame(), is_void: true },
        None => Ran { world, frame, is_void: false },
    })
}

/// Installs a hook that regularly checks whether the script has to stop. Once it has, every instruction fails,
/// so a script that catches the first error does not get far.
fn watch(lua: &Lua, meter: &Rc<Meter>) -> mlua::Result<()> {
    let meter = Rc::clone(meter);
    lua.set_hook(HookTriggers::new().every_nth_instruction(CHECK_EVERY), move |lua, _| {
        let Err(fault) = meter.check() else { return Ok(VmState::Continue) };
        let again = fault.clone();
        lua.set_hook(HookTriggers::new().every_nth_instruction(1), move |_, _| Err(again.clone().into()))?;
        Err(fault.into())
    })
}

/// Compiles a text within the memory limit of `lua`; the limit on its size bounds the time.
pub fn compile(lua: &Lua, text: &[u8], name: &str) -> Result<Function, Failure> {
    if text.len() > MAX_SCRIPT_BYTES {
        return Err(Failure::text(format!(
            "BUDGET_EXCEEDED (4008): a script has {} bytes, more than {MAX_SCRIPT_BYTES} (fixed)",
            text.len()
        )));
    }
    // The first line is kept, emptied, so that line numbers stay.
    let text = if text.starts_with(b"#!") {
        text.iter().position(|byte| *byte == b'\n').map_or(&b""[..], |end| &text[end..])
    } else {
        text
    };
    // The parser of Lua 5.1.5 holds a name that its garbage collector does not know (CVE-2025-49844).
    lua.gc_stop();
    let function = lua.load(text).set_name(name).set_mode(ChunkMode::Text).into_function();
    lua.gc_restart();
    Ok(function?)
}

fn execute(lua: &Lua, meter: &Meter, program: &Program, call: &ScriptCall) -> Result<Frame, Failure> {
    let script = compile(lua, &program.text, CHUNK)?;
    let prelude = lua.load(PRELUDE).set_name("@prelude").into_function()?;
    let (keys, args) = (list(lua, meter, &call.keys)?, list(lua, meter, &call.args)?);
    let protected: Function = prelude.call((natives::table(lua)?, keys, args))?;
    let mut results = protected.call::<MultiValue>(script)?;
    let succeeded = results.pop_front() == Some(Value::Boolean(true));
    let result = results.pop_front().unwrap_or(Value::Nil);
    if !succeeded {
        return failure(&result, program);
    }
    let asked = lua.app_data_ref::<Host>().map_or(Protocol::Resp2, |host| host.protocol);
    convert::to_frame(lua, meter, &result, asked)
}

/// Creates a Lua list, word by word: Rust may refer to 8 000 values of an interpreter at most.
fn list(lua: &Lua, meter: &Meter, words: &[Bytes]) -> Result<Table, Failure> {
    let table = lua.create_table_with_capacity(words.len(), 0)?;
    for (position, word) in words.iter().enumerate() {
        meter.step(1)?;
        table.raw_set(position + 1, lua.create_string(word)?)?;
    }
    Ok(table)
}

/// Returns the error reply of a failed script, with the position of the failure if it is known.
fn failure(error: &Value, program: &Program) -> Result<Frame, Failure> {
    let (message, place) = match error {
        Value::Table(table) => match table.raw_get("err")? {
            Value::String(text) => {
                let place: Value = table.raw_get("place")?;
                let place = place.as_string().map(|place| lossy(place, MAX_TEXT_BYTES)).unwrap_or_default();
                (lossy(&text, MAX_TEXT_BYTES), place)
            }
            _ => ("ERR unknown error".to_owned(), String::new()),
        },
        Value::String(text) => {
            let text = lossy(text, MAX_TEXT_BYTES);
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

/// Returns at most `most` bytes of a Lua string as text.
pub fn lossy(text: &mlua::String, most: usize) -> String {
    let bytes = text.as_bytes();
    String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
}

/// Returns the message of an error without the traceback.
pub fn first_line(error: &mlua::Error) -> String {
    let text = match error {
        mlua::Error::CallbackError { cause, .. } => return first_line(cause),
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().chars().take(MAX_TEXT_BYTES / 4).collect()
}
