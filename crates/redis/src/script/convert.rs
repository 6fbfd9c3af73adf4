//! Replies as Lua values and back, by the rules of Redis (`EVAL`, "data type conversion").

use std::ffi::c_void;

use bytes::Bytes;
use mlua::{Lua, Table, Value};

use super::super::frame::{Frame, Protocol};
use super::meter::{ELEMENT_BYTES, Fault, Meter};
use super::natives::Failure;
use super::sandbox;

/// Maximum nesting of tables in a reply, since each level uses thread stack.
pub const MAX_DEPTH: usize = 128;
/// Bytes charged for a table beside its elements, including the lookups of its reply type.
const TABLE_BYTES: usize = 512;

/// Returns the bytes charged for a reply while it is held.
pub fn cost(frame: &Frame) -> usize {
    let of_pairs = |pairs: &[(Frame, Frame)]| pairs.iter().map(|(key, value)| cost(key) + cost(value)).sum();
    let own = match frame {
        Frame::Simple(text) | Frame::Error(text) => text.len(),
        Frame::Bulk(bytes) => bytes.len(),
        Frame::BigNumber(text) => text.len(),
        Frame::Verbatim(_, text) => text.len(),
        Frame::Array(items) | Frame::Set(items) | Frame::Push(items) | Frame::Sequence(items) => {
            items.iter().map(cost).sum()
        }
        Frame::Map(pairs) | Frame::Pairs(pairs) => of_pairs(pairs),
        Frame::Integer(_) | Frame::Null | Frame::NullArray | Frame::Double(_) | Frame::Boolean(_) => 0,
    };
    own + ELEMENT_BYTES
}

/// Converts a reply to the Lua value that a script gets; `protocol` is the one it requested with
/// `redis.setresp`.
pub fn to_lua(lua: &Lua, meter: &Meter, frame: Frame, protocol: Protocol) -> Result<Value, Failure> {
    meter.step(1)?;
    let resp3 = protocol == Protocol::Resp3;
    Ok(match frame {
        Frame::Simple(text) => field(lua, "ok", lua.create_string(text.as_bytes())?)?,
        Frame::Error(text) => field(lua, "err", lua.create_string(text.as_bytes())?)?,
        Frame::Integer(number) => Value::Number(number as f64),
        Frame::Bulk(bytes) => Value::String(lua.create_string(&bytes)?),
        Frame::Null | Frame::NullArray if resp3 => Value::Nil,
        Frame::Null | Frame::NullArray => Value::Boolean(false),
        Frame::Array(items) | Frame::Push(items) | Frame::Sequence(items) => {
            array(lua, meter, items.into_iter(), protocol)?
        }
        Frame::Map(pairs) if resp3 => {
            let map = lua.create_table()?;
            for (key, value) in pairs {
                map.raw_set(to_lua(lua, meter, key, protocol)?, to_lua(lua, meter, value, protocol)?)?;
            }
            field(lua, "map", map)?
        }
        Frame::Pairs(pairs) if resp3 => {
            let pairs = pairs.into_iter().map(|(key, value)| Frame::Array(vec![key, value]));
            array(lua, meter, pairs, protocol)?
        }
        Frame::Map(pairs) | Frame::Pairs(pairs) => {
            array(lua, meter, pairs.into_iter().flat_map(|(key, value)| [key, value]), protocol)?
        }
        Frame::Set(items) if resp3 => {
            let set = lua.create_table()?;
            for item in items {
                set.raw_set(to_lua(lua, meter, item, protocol)?, true)?;
            }
            field(lua, "set", set)?
        }
        Frame::Set(items) => array(lua, meter, items.into_iter(), protocol)?,
        Frame::Double(number) if resp3 => field(lua, "double", number)?,
        Frame::Double(number) => {
            Value::String(lua.create_string(helios_state::commands::double_text(number).as_bytes())?)
        }
        Frame::Boolean(value) if resp3 => Value::Boolean(value),
        Frame::Boolean(value) => Value::Number(u8::from(value).into()),
        Frame::BigNumber(digits) if resp3 => field(lua, "big_number", digits)?,
        Frame::Verbatim(format, text) if resp3 => {
            let parts = lua.create_table()?;
            parts.raw_set("format", lua.create_string(format)?)?;
            parts.raw_set("string", lua.create_string(&text)?)?;
            field(lua, "verbatim_string", parts)?
        }
        Frame::BigNumber(text) => Value::String(lua.create_string(text.as_bytes())?),
        Frame::Verbatim(_, text) => Value::String(lua.create_string(&text)?),
    })
}

fn array(
    lua: &Lua,
    meter: &Meter,
    items: impl Iterator<Item = Frame>,
    protocol: Protocol,
) -> Result<Value, Failure> {
    let table = lua.create_table_with_capacity(items.size_hint().0, 0)?;
    for (position, item) in items.enumerate() {
        table.raw_set(position + 1, to_lua(lua, meter, item, protocol)?)?;
    }
    Ok(Value::Table(table))
}

fn field(lua: &Lua, name: &str, value: impl mlua::IntoLua) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}

/// Converts the value that a script returned to a reply, charged before it is allocated. `asked` is the
/// protocol that the script requested with `redis.setresp`, which determines the type of its booleans; the
/// client's own protocol determines the encoding of all the rest (Redis 7.2, `luaReplyToRedisReply`).
pub fn to_frame(lua: &Lua, meter: &Meter, value: &Value, asked: Protocol) -> Result<Frame, Failure> {
    Converter { lua, meter, asked, within: Vec::new() }.frame(value)
}

struct Converter<'a> {
    lua: &'a Lua,
    meter: &'a Meter,
    asked: Protocol,
    /// Tables around the current one, the outermost first.
    within: Vec<*const c_void>,
}

impl Converter<'_> {
    fn charge(&self, bytes: usize) -> Result<(), Fault> {
        self.meter.spend(self.lua, bytes)
    }

    fn bytes(&self, text: &mlua::String) -> Result<Bytes, Failure> {
        self.charge(text.as_bytes().len())?;
        Ok(Bytes::copy_from_slice(&text.as_bytes()))
    }

    /// Converts a status, an error or a number to text; a byte that is no UTF-8 is replaced by three bytes.
    fn text(&self, text: &mlua::String) -> Result<String, Failure> {
        self.charge(text.as_bytes().len().min(sandbox::MAX_TEXT_BYTES) * 3)?;
        Ok(sandbox::lossy(text, sandbox::MAX_TEXT_BYTES))
    }

    fn frame(&mut self, value: &Value) -> Result<Frame, Failure> {
        self.charge(ELEMENT_BYTES)?;
        Ok(match value {
            Value::String(text) => Frame::Bulk(self.bytes(text)?),
            Value::Boolean(value) if self.asked == Protocol::Resp3 => Frame::Boolean(*value),
            Value::Boolean(true) => Frame::Integer(1),
            Value::Integer(number) => Frame::Integer(*number),
            // Rounded toward zero; out of range becomes the nearest `i64`.
            Value::Number(number) => Frame::Integer(*number as i64),
            Value::Table(table) => {
                let itself = table.to_pointer();
                // A table that contains itself would reach the limit in any case, and double the work with each
                // reference.
                if self.within.len() == MAX_DEPTH || self.within.contains(&itself) {
                    return Ok(Frame::error("ERR reached lua stack limit"));
                }
                self.charge(TABLE_BYTES)?;
                self.within.push(itself);
                let frame = self.table(table)?;
                self.within.pop();
                frame
            }
            _ => Frame::Null,
        })
    }

    fn table(&mut self, table: &Table) -> Result<Frame, Failure> {
        if let Value::String(text) = table.raw_get("err")? {
            return Ok(Frame::error(self.text(&text)?));
        }
        if let Value::String(text) = table.raw_get("ok")? {
            return Ok(Frame::Simple(self.text(&text)?.into()));
        }
        match table.raw_get("double")? {
            Value::Number(number) => return Ok(Frame::Double(number)),
            Value::Integer(number) => return Ok(Frame::Double(number as f64)),
            _ => {}
        }
        if let Value::String(digits) = table.raw_get("big_number")? {
            // The number is sent as a line of the protocol.
            return Ok(Frame::BigNumber(self.text(&digits)?.replace(['\r', '\n'], " ")));
        }
        if let Value::Table(parts) = table.raw_get("verbatim_string")?
            && let (Value::String(format), Value::String(text)) =
                (parts.raw_get("format")?, parts.raw_get("string")?)
        {
            let mut three = *b"   ";
            three.iter_mut().zip(format.as_bytes().iter()).for_each(|(to, from)| *to = *from);
            return Ok(Frame::Verbatim(three, self.bytes(&text)?));
        }
        if let Value::Table(map) = table.raw_get("map")? {
            let mut pairs = Vec::new();
            for pair in map.pairs::<Value, Value>() {
                let (key, value) = pair?;
                pairs.push((self.frame(&key)?, self.frame(&value)?));
            }
            return Ok(Frame::Map(pairs));
        }
        if let Value::Table(set) = table.raw_get("set")? {
            let mut items = Vec::new();
            for pair in set.pairs::<Value, Value>() {
                items.push(self.frame(&pair?.0)?);
            }
            return Ok(Frame::Set(items));
        }
        let mut items = Vec::new();
        loop {
            // Up to the first hole, as in Redis.
            match table.raw_get(items.len() + 1)? {
                Value::Nil => return Ok(Frame::Array(items)),
                item => items.push(self.frame(&item)?),
            }
        }
    }
}
