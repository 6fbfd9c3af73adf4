//! Replies as Lua values and back, by the rules of Redis (`EVAL`, "data type conversion").

use bytes::Bytes;
use mlua::{Lua, Table, Value};

use super::super::frame::{Frame, Protocol};

/// Tables in tables that an answer may have: each costs the stack of a thread a little.
const MAX_DEPTH: usize = 128;

/// What a script gets for a reply; `protocol` is the one it asked for with `redis.setresp`.
pub fn to_lua(lua: &Lua, frame: Frame, protocol: Protocol) -> mlua::Result<Value> {
    let resp3 = protocol == Protocol::Resp3;
    Ok(match frame {
        Frame::Simple(text) => field(lua, "ok", lua.create_string(text.as_bytes())?)?,
        Frame::Error(text) => field(lua, "err", lua.create_string(text.as_bytes())?)?,
        Frame::Integer(number) => Value::Number(number as f64),
        Frame::Bulk(bytes) => Value::String(lua.create_string(&bytes)?),
        Frame::Null | Frame::NullArray if resp3 => Value::Nil,
        Frame::Null | Frame::NullArray => Value::Boolean(false),
        Frame::Array(items) | Frame::Push(items) | Frame::Sequence(items) => array(lua, items, protocol)?,
        Frame::Map(pairs) if resp3 => {
            let map = lua.create_table()?;
            for (key, value) in pairs {
                map.raw_set(to_lua(lua, key, protocol)?, to_lua(lua, value, protocol)?)?;
            }
            field(lua, "map", map)?
        }
        Frame::Pairs(pairs) if resp3 => {
            let pairs = pairs.into_iter().map(|(key, value)| Frame::Array(vec![key, value]));
            array(lua, pairs.collect(), protocol)?
        }
        Frame::Map(pairs) | Frame::Pairs(pairs) => {
            array(lua, pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(), protocol)?
        }
        Frame::Set(items) if resp3 => {
            let set = lua.create_table()?;
            for item in items {
                set.raw_set(to_lua(lua, item, protocol)?, true)?;
            }
            field(lua, "set", set)?
        }
        Frame::Set(items) => array(lua, items, protocol)?,
        Frame::Double(number) if resp3 => field(lua, "double", number)?,
        Frame::Double(number) => {
            Value::String(lua.create_string(crate::state::calls::double_text(number).as_bytes())?)
        }
        Frame::Boolean(value) if resp3 => Value::Boolean(value),
        Frame::Boolean(value) => Value::Number(u8::from(value).into()),
        Frame::BigNumber(digits) if resp3 => field(lua, "big_number", digits)?,
        Frame::Verbatim(text) if resp3 => {
            let parts = lua.create_table()?;
            parts.raw_set("format", "txt")?;
            parts.raw_set("string", text)?;
            field(lua, "verbatim_string", parts)?
        }
        Frame::BigNumber(text) | Frame::Verbatim(text) => Value::String(lua.create_string(text.as_bytes())?),
    })
}

fn array(lua: &Lua, items: Vec<Frame>, protocol: Protocol) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(items.len(), 0)?;
    for (position, item) in items.into_iter().enumerate() {
        table.raw_set(position + 1, to_lua(lua, item, protocol)?)?;
    }
    Ok(Value::Table(table))
}

fn field(lua: &Lua, name: &str, value: impl mlua::IntoLua) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}

/// What the client gets for what a script returned; `protocol` is the client's.
pub fn to_frame(value: &Value, protocol: Protocol) -> mlua::Result<Frame> {
    nested(value, protocol, MAX_DEPTH)
}

fn nested(value: &Value, protocol: Protocol, depth: usize) -> mlua::Result<Frame> {
    if depth == 0 {
        return Ok(Frame::error("ERR reached lua stack limit"));
    }
    Ok(match value {
        Value::String(text) => Frame::Bulk(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Boolean(value) if protocol == Protocol::Resp3 => Frame::Boolean(*value),
        Value::Boolean(true) => Frame::Integer(1),
        Value::Integer(number) => Frame::Integer(*number),
        // Towards zero; as in Rust, what does not fit is the nearest that does.
        Value::Number(number) => Frame::Integer(*number as i64),
        Value::Table(table) => from_table(table, protocol, depth - 1)?,
        _ => Frame::Null,
    })
}

fn from_table(table: &Table, protocol: Protocol, depth: usize) -> mlua::Result<Frame> {
    if let Value::String(text) = table.raw_get("err")? {
        return Ok(Frame::error(text.to_string_lossy()));
    }
    if let Value::String(text) = table.raw_get("ok")? {
        return Ok(Frame::Simple(text.to_string_lossy().into()));
    }
    match table.raw_get("double")? {
        Value::Number(number) => return Ok(Frame::Double(number)),
        Value::Integer(number) => return Ok(Frame::Double(number as f64)),
        _ => {}
    }
    if let Value::String(digits) = table.raw_get("big_number")? {
        return Ok(Frame::BigNumber(digits.to_string_lossy()));
    }
    if let Value::Table(parts) = table.raw_get("verbatim_string")?
        && let (Value::String(_), Value::String(text)) = (parts.raw_get("format")?, parts.raw_get("string")?)
    {
        return Ok(Frame::Verbatim(text.to_string_lossy()));
    }
    if let Value::Table(map) = table.raw_get("map")? {
        let mut pairs = Vec::new();
        for pair in map.pairs::<Value, Value>() {
            let (key, value) = pair?;
            pairs.push((nested(&key, protocol, depth)?, nested(&value, protocol, depth)?));
        }
        return Ok(Frame::Map(pairs));
    }
    if let Value::Table(set) = table.raw_get("set")? {
        let mut items = Vec::new();
        for pair in set.pairs::<Value, Value>() {
            items.push(nested(&pair?.0, protocol, depth)?);
        }
        return Ok(Frame::Set(items));
    }
    let mut items = Vec::new();
    loop {
        // Up to the first hole, as in Redis.
        match table.raw_get(items.len() + 1)? {
            Value::Nil => return Ok(Frame::Array(items)),
            item => items.push(nested(&item, protocol, depth)?),
        }
    }
}
