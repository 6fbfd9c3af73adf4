//! A temporary directory, removed when its value is dropped.

use std::io;
use std::path::{Path, PathBuf};

pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Creates the directory in `TMPDIR`. `purpose` is part of its name.
    pub fn new(purpose: &str) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("heliosd-{purpose}-{:08x}", rand::random::<u32>()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
