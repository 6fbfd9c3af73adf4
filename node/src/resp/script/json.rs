//! `cjson`: JSON in scripts, as far as its `encode`, `decode` and `null` go.

use mlua::{Lua, Table, Value};
use serde_json::{Map, Number, Value as Json};

/// Arrays in arrays, both ways; as in Redis's.
const MAX_DEPTH: usize = 1_000 / 8;

pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.set("encode", lua.create_function(|lua, value: Value| lua.create_string(encode(&value)?))?)?;
    library.set("decode", lua.create_function(|lua, text: mlua::String| decode(lua, &text.as_bytes()))?)?;
    library.set("null", Value::NULL)?;
    Ok(library)
}

fn encode(value: &Value) -> mlua::Result<String> {
    to_json(value, MAX_DEPTH).map(|json| json.to_string())
}

fn to_json(value: &Value, depth: usize) -> mlua::Result<Json> {
    let cannot = |what: &str| mlua::Error::runtime(format!("Cannot serialise {what}"));
    Ok(match value {
        Value::Nil => Json::Null,
        value if value.is_null() => Json::Null,
        Value::Boolean(value) => Json::Bool(*value),
        Value::Integer(number) => Json::Number((*number).into()),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            Json::Number((*number as i64).into())
        }
        Value::Number(number) => {
            Json::Number(Number::from_f64(*number).ok_or_else(|| cannot("number: must not be NaN or Inf"))?)
        }
        Value::String(text) => Json::String(text.to_string_lossy()),
        Value::Table(_) if depth == 0 => return Err(cannot("table, excessive depth")),
        Value::Table(table) => from_table(table, depth - 1)?,
        other => return Err(cannot(&format!("{}: type not supported", other.type_name()))),
    })
}

/// An array if its keys are 1 and up; an empty table is an object, as in Redis.
fn from_table(table: &Table, depth: usize) -> mlua::Result<Json> {
    let (mut count, mut length) = (0, table.raw_len());
    for pair in table.pairs::<Value, Value>() {
        count += 1;
        if !matches!(pair?.0, Value::Integer(_) | Value::Number(_)) {
            length = 0;
        }
    }
    if length > 0 && length == count {
        let items = (1..=length).map(|position| to_json(&table.raw_get(position)?, depth));
        return Ok(Json::Array(items.collect::<mlua::Result<_>>()?));
    }
    let mut object = Map::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let key = match &key {
            Value::String(text) => text.to_string_lossy(),
            Value::Integer(_) | Value::Number(_) => key.to_string()?,
            _ => {
                return Err(mlua::Error::runtime(
                    "Cannot serialise table: table key must be a number or string",
                ));
            }
        };
        object.insert(key, to_json(&value, depth)?);
    }
    Ok(Json::Object(object))
}

fn decode(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    let json: Json = serde_json::from_slice(text).map_err(|error| mlua::Error::runtime(error.to_string()))?;
    to_lua(lua, json)
}

/// Not deeper than serde_json reads, which is 128.
fn to_lua(lua: &Lua, json: Json) -> mlua::Result<Value> {
    Ok(match json {
        Json::Null => Value::NULL,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (position, item) in items.into_iter().enumerate() {
                table.raw_set(position + 1, to_lua(lua, item)?)?;
            }
            Value::Table(table)
        }
        Json::Object(fields) => {
            let table = lua.create_table_with_capacity(0, fields.len())?;
            for (name, value) in fields {
                table.raw_set(name, to_lua(lua, value)?)?;
            }
            Value::Table(table)
        }
    })
}
