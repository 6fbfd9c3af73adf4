//! `cjson`: the functions `encode` and `decode` and the value `null`.
//!
//! No tree is built in between, which would cost many times the text: encoded text is charged as it grows, and
//! decoded text becomes Lua values directly, under Lua's own limit.

use std::fmt;

use mlua::{Lua, MultiValue, Table, Value};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::meter::{Buffer, Meter};
use super::natives::{Failure, text};

/// Maximum nesting of an encoded value, since each level uses thread stack. Decoding has serde_json's limit of
/// 128.
const MAX_DEPTH: usize = 1_000 / 8;
/// Length up to which an array may be sparse; above it, at most half of its elements may be missing. Redis's
/// `cjson` has the same rule.
const SPARSE_SAFE: usize = 10;
const SPARSE_RATIO: usize = 2;

pub fn encode(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    if arguments.len() != 1 {
        return Err(Failure::text("bad argument #1 to 'encode' (expected 1 argument)"));
    }
    let value = arguments.into_iter().next().unwrap_or(Value::Nil);
    let mut writer = Writer { out: Buffer::new(lua, meter)?, meter };
    writer.value(&value, MAX_DEPTH)?;
    let encoded = lua.create_string(writer.out.bytes())?;
    Ok([Value::String(encoded)].into_iter().collect())
}

struct Writer<'a> {
    out: Buffer<'a>,
    meter: &'a Meter,
}

fn cannot(what: &str) -> Failure {
    Failure::text(format!("Cannot serialise {what}"))
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.put(bytes)?)
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Failure> {
        match value {
            Value::Nil => self.put(b"null"),
            value if value.is_null() => self.put(b"null"),
            Value::Boolean(true) => self.put(b"true"),
            Value::Boolean(false) => self.put(b"false"),
            Value::Integer(number) => self.put(number_text(*number as f64).as_bytes()),
            Value::Number(number) if number.is_finite() => self.put(number_text(*number).as_bytes()),
            Value::Number(_) => Err(cannot("number: must not be NaN or Inf")),
            Value::String(text) => self.string(&text.as_bytes()),
            Value::Table(_) if depth == 0 => Err(cannot(&format!(", excessive depth ({})", MAX_DEPTH + 1))),
            Value::Table(table) => self.table(table, depth - 1),
            other => Err(cannot(&format!("{}: type not supported", other.type_name()))),
        }
    }

    fn string(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.put(b"\"")?;
        let mut plain = 0;
        for (position, byte) in text.iter().enumerate() {
            let escaped: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'/' => b"\\/",
                8 => b"\\b",
                9 => b"\\t",
                10 => b"\\n",
                12 => b"\\f",
                13 => b"\\r",
                0..32 | 127 => &format!("\\u{byte:04x}").into_bytes(),
                _ => continue,
            };
            self.put(&text[plain..position])?;
            self.put(escaped)?;
            plain = position + 1;
        }
        self.put(&text[plain..])?;
        self.put(b"\"")
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<(), Failure> {
        if let Some(length) = self.array_length(table)? {
            self.put(b"[")?;
            for position in 1..=length {
                if position > 1 {
                    self.put(b",")?;
                }
                self.value(&table.raw_get(position)?, depth)?;
            }
            return self.put(b"]");
        }
        self.put(b"{")?;
        let mut is_first = true;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            if !std::mem::take(&mut is_first) {
                self.put(b",")?;
            }
            match &key {
                Value::String(text) => self.string(&text.as_bytes())?,
                Value::Integer(number) => {
                    self.put(format!("\"{}\"", number_text(*number as f64)).as_bytes())?
                }
                Value::Number(number) => self.put(format!("\"{}\"", number_text(*number)).as_bytes())?,
                _ => return Err(cannot("table: table key must be a number or string")),
            }
            self.put(b":")?;
            self.value(&value, depth)?;
        }
        self.put(b"}")
    }

    /// Returns the length of an array, a table with keys from 1 up of which not many are missing; `None` for an
    /// object. An empty table is an object.
    fn array_length(&self, table: &Table) -> Result<Option<usize>, Failure> {
        let (mut count, mut length) = (0, 0);
        for pair in table.pairs::<Value, Value>() {
            self.meter.step(1)?;
            match pair?.0 {
                Value::Integer(index) if index > 0 => length = length.max(index as usize),
                _ => return Ok(None),
            }
            count += 1;
        }
        if length > count * SPARSE_RATIO && length > SPARSE_SAFE {
            return Err(cannot("table: excessively sparse array"));
        }
        Ok((length > 0).then_some(length))
    }
}

/// Formats a number as C's `%.14g`.
fn number_text(number: f64) -> String {
    super::calls::general(number, 14)
}

pub fn decode(lua: &Lua, meter: &Meter, arguments: MultiValue) -> Result<MultiValue, Failure> {
    let json = text(lua, &arguments, 1, "decode")?;
    let json = json.as_bytes();
    // Charge for unescaped text, one string at a time.
    let _held = meter.hold(lua, json.len())?;
    let mut reader = serde_json::Deserializer::from_slice(&json);
    let value = Reader { lua, meter }.deserialize(&mut reader);
    let value = value.and_then(|value| reader.end().map(|()| value));
    let value = value.map_err(|error| Failure::text(error.to_string()))?;
    Ok([value].into_iter().collect())
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    lua: &'a Lua,
    meter: &'a Meter,
}

impl Reader<'_> {
    fn step<E: serde::de::Error>(&self) -> Result<(), E> {
        self.meter.step(1).map_err(|fault| E::custom(fault.message()))
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.step()?;
        deserializer.deserialize_any(self)
    }
}

fn failed<E: serde::de::Error>(error: mlua::Error) -> E {
    E::custom(super::sandbox::first_line(&error))
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::NULL)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(self.lua.create_string(text).map_err(failed)?))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let table = self.lua.create_table().map_err(failed)?;
        let mut position = 0;
        while let Some(item) = items.next_element_seed(self)? {
            position += 1;
            table.raw_set(position, item).map_err(failed)?;
        }
        Ok(Value::Table(table))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let table = self.lua.create_table().map_err(failed)?;
        while let Some(name) = fields.next_key_seed(self)? {
            let value = fields.next_value_seed(self)?;
            if name.is_null() {
                return Err(A::Error::custom("an object name is not a string"));
            }
            table.raw_set(name, value).map_err(failed)?;
        }
        Ok(Value::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::super::meter::tests::free_meter;
    use super::super::meter::{MAX_MEMORY_BYTES, Meter};
    use super::*;

    fn encoded(lua: &Lua, meter: &Meter, program: &str) -> Result<String, Failure> {
        let value: Value = lua.load(program).eval().unwrap();
        let mut values = encode(lua, meter, [value].into_iter().collect())?;
        Ok(values.pop_front().unwrap().to_string().unwrap())
    }

    #[test]
    fn json_is_encoded_as_in_redis() {
        let (lua, meter) = (Lua::new(), free_meter());
        for (program, json) in [
            ("{1,2,{a='x'}}", r#"[1,2,{"a":"x"}]"#),
            ("{}", "{}"),
            ("{1,nil,3}", "[1,null,3]"),
            ("{[1.5]=true}", r#"{"1.5":true}"#),
            ("1e100", "1e+100"),
            ("0.1", "0.1"),
            ("'a/b\\\\\"\\n\\1'", r#""a\/b\\\"\n\u0001""#),
        ] {
            assert_eq!(encoded(&lua, &meter, program).ok().as_deref(), Some(json), "{program}");
        }
        assert!(encoded(&lua, &meter, "{[100]=1}").is_err());
        assert!(encoded(&lua, &meter, "(function() local t = {} t[1] = t return t end)()").is_err());
    }

    #[test]
    fn json_over_the_budget_is_rejected_before_it_is_allocated() {
        let (lua, meter) = (Lua::new(), free_meter());
        meter.limit(&lua);
        // 2^40 texts from tables with two references each.
        let program =
            "(function() local t = {('x'):rep(1000)} for _ = 1, 40 do t = {t, t} end return t end)()";
        let failure = encoded(&lua, &meter, program).err().unwrap();
        assert!(matches!(failure, Failure::Fault(super::super::meter::Fault::OverBudget)));
        let many = "[1,".repeat(120) + &"[".repeat(3);
        assert!(
            decode(&lua, &meter, [Value::String(lua.create_string(many).unwrap())].into_iter().collect())
                .is_err()
        );
        let long = format!("[{}1]", "[1],".repeat(MAX_MEMORY_BYTES / 64));
        assert!(
            decode(&lua, &meter, [Value::String(lua.create_string(long).unwrap())].into_iter().collect())
                .is_err()
        );
        assert!(lua.used_memory() <= MAX_MEMORY_BYTES);
    }
}
