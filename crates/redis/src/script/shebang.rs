//! First line of a script with its flags: `#!lua flags=no-writes`.

use super::super::error::{Refusal, shown};

/// Limit on the bytes of the client's text that an error quotes.
const SHOWN_BYTES: usize = 128;

pub struct Shebang {
    pub no_writes: bool,
}

impl Shebang {
    pub fn of(text: &[u8]) -> Result<Self, Refusal> {
        let mut shebang = Self { no_writes: false };
        let Some(line) = text.strip_prefix(b"#!") else { return Ok(shebang) };
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut parts = line.split_ascii_whitespace();
        let engine = parts.next().unwrap_or_default();
        if engine != "lua" {
            return Err(Refusal::other(format!(
                "ERR Unexpected engine in script shebang: {}",
                shown(engine.as_bytes(), SHOWN_BYTES)
            )));
        }
        for part in parts {
            let flags = part.strip_prefix("flags=");
            let flags = flags.ok_or_else(|| {
                Refusal::other(format!(
                    "ERR Unknown lua shebang option: {}",
                    shown(part.as_bytes(), SHOWN_BYTES)
                ))
            })?;
            for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
                match flag {
                    "no-writes" => shebang.no_writes = true,
                    "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                    _ => {
                        return Err(Refusal::other(format!(
                            "ERR Unexpected flag in script shebang: {}",
                            shown(flag.as_bytes(), SHOWN_BYTES)
                        )));
                    }
                }
            }
        }
        Ok(shebang)
    }
}
