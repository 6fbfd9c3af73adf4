//! Wall clocks that a test can set.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Node;

/// The wall clock of one node.
pub struct WallClock {
    file: fs::File,
}

impl WallClock {
    /// Gives `node`, which does not run yet, its own clock. `library` is from `build`.
    pub fn of(node: &mut Node, library: &Path) -> Self {
        let path = node.data_dir().with_extension("clock");
        let file = fs::File::options().create_new(true).write(true).open(&path).unwrap();
        let clock = Self { file };
        clock.set_ahead(0);
        node.set_environment("LD_PRELOAD", library);
        node.set_environment("TEST_CLOCK", &path);
        clock
    }

    /// Sets the clock ahead of the true time by `seconds`, which may be negative.
    pub fn set_ahead(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Compiles the library that shifts clocks, with the C compiler that is also Rust's linker.
    pub fn build(dir: &Path) -> PathBuf {
        let library = dir.join("clock.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/common/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
        assert!(compiler.status().unwrap().success(), "{compiler:?}");
        library
    }
}
