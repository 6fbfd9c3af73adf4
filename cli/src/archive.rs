//! A .tar.gz archive, written to the disk as a whole or not at all.

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::Error;

/// A file of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the archive's folder, with `/` as separator.
    pub path: String,
    pub content: String,
}

impl Entry {
    pub fn new(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: content.into() }
    }
}

/// Writes `entries` into `folder` within the new archive `path`, which only its owner may read.
///
/// # Errors
/// When the file exists already or cannot be written.
pub fn write(path: &Path, folder: &str, modified: u64, entries: &[Entry]) -> Result<(), Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let packed = pack(folder, modified, entries).map_err(failed)?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    std::io::Write::write_all(&mut file, &packed).map_err(failed)
}

fn pack(folder: &str, modified: u64, entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(modified);
        archive.append_data(&mut header, format!("{folder}/{}", entry.path), entry.content.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn archive_holds_its_entries_and_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.tar.gz");
        let entries = [Entry::new("a.txt", "one"), Entry::new("logs/demo-0.log", "two\n")];
        write(&path, "report", 1_700_000_000, &entries).unwrap();

        let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(&path).unwrap()));
        let found: Vec<Entry> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                Entry::new(entry.path().unwrap().to_str().unwrap(), content)
            })
            .collect();
        assert_eq!(found, [Entry::new("report/a.txt", "one"), Entry::new("report/logs/demo-0.log", "two\n")]);
        assert!(write(&path, "report", 0, &entries).is_err(), "an older report was overwritten");
    }
}
