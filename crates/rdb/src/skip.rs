//! Values that are walked and not decoded: streams, values of modules, and hashes whose fields expire.

use std::io::Read;

use crate::input::{Input, Result};

impl<R: Read> Input<R> {
    fn skip_lengths(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.length()?;
        }
        Ok(())
    }

    /// Skips a stream; `version` 1 is that of Redis 5, 2 of 7.0, 3 of 7.2.
    pub fn skip_stream(&mut self, version: u8) -> Result<()> {
        // Nodes of the radix tree: the first id and a listpack.
        for _ in 0..self.length()? {
            self.skip_string()?;
            self.skip_string()?;
        }
        // Entries, and the last id; since 2: the first id, the largest deleted one, and entries ever added.
        self.skip_lengths(if version >= 2 { 8 } else { 3 })?;
        for _ in 0..self.length()? {
            self.skip_string()?;
            self.skip_lengths(if version >= 2 { 3 } else { 2 })?;
            // Pending entries of the group: id, time of delivery, count.
            for _ in 0..self.length()? {
                self.skip(16 + 8)?;
                self.length()?;
            }
            for _ in 0..self.length()? {
                self.skip_string()?;
                self.skip(if version >= 3 { 16 } else { 8 })?;
                for _ in 0..self.length()? {
                    self.skip(16)?;
                }
            }
        }
        Ok(())
    }

    /// Skips the value of a module, whose parts carry their types.
    pub fn skip_module(&mut self) -> Result<()> {
        loop {
            match self.length()? {
                0 => return Ok(()),
                1 | 2 => self.skip_lengths(1)?,
                3 => self.skip(4)?,
                4 => self.skip(8)?,
                5 => self.skip_string()?,
                _ => return self.corrupt("a part of a module's value is of an unknown type"),
            }
        }
    }

    /// Skips a hash of Valkey 9 whose fields expire: field, value and expiry.
    pub fn skip_fields_with_expiry(&mut self) -> Result<()> {
        for _ in 0..self.length()? {
            self.skip_string()?;
            self.skip_string()?;
            self.skip(8)?;
        }
        Ok(())
    }

    /// Skips a hash whose fields expire, field by field; `has_minimum`: the first expiry precedes it.
    pub fn skip_expiring_fields(&mut self, has_minimum: bool) -> Result<()> {
        if has_minimum {
            self.skip(8)?;
        }
        for _ in 0..self.length()? {
            self.length()?;
            self.skip_string()?;
            self.skip_string()?;
        }
        Ok(())
    }
}
