//! The manifest: a log of the lists of live runs.
//!
//! `CURRENT` names a file `MANIFEST-<number>`:
//! ```text
//! magic "HELIOSMF" | format u32 | number u64 | CRC32C u32
//! length u32 | CRC32C u32 | content                        once per frame
//! record | number of uppers, of bottom runs (varints) | runs            the content of a frame
//! id u64 | length u64 | CRC32C u32 | first key that is left             once per run
//! ```
//! A frame has the whole list, so that reading needs the last one only. Each checksum continues the one before: a frame
//! is valid only at its place. A file is made current after its first frame is durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use crate::error::{Error, Result};
use crate::faults;
use crate::format::{FORMAT, put_bytes, put_varint, take, take_bytes, take_u32, take_u64, take_varint};
use crate::run::RunId;
use helios_storage::disk::{Disk, DiskFile};

/// Name of the file that names the manifest in use; it exists in every directory of this engine.
pub const CURRENT: &str = "CURRENT";
const CURRENT_TMP: &str = "CURRENT.tmp";
const MAGIC: &[u8; 8] = b"HELIOSMF";
const HEADER_BYTES: usize = 8 + 4 + 8 + 4;
const FRAME_HEAD_BYTES: usize = 4 + 4;
/// A manifest is replaced once it has this size and 16 times that of a frame, bytes.
const MAX_BYTES: u64 = 1 << 20;
const MAX_FRAMES: u64 = 16;

/// A live run in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub run: RunId,
    /// See [`crate::view::Slice::from`].
    pub from: Bytes,
}

/// The content of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// The record of the caller, not interpreted.
    pub record: Bytes,
    /// Newest first.
    pub uppers: Vec<Listed>,
    /// In key order.
    pub bottom: Vec<Listed>,
}

impl Frame {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, &self.record);
        put_varint(&mut out, self.uppers.len() as u64);
        put_varint(&mut out, self.bottom.len() as u64);
        for Listed { run: RunId { id, len, crc }, from } in self.uppers.iter().chain(&self.bottom) {
            out.put_u64(*id);
            out.put_u64(*len);
            out.put_u32(*crc);
            put_bytes(&mut out, from);
        }
        out
    }

    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        let record = Bytes::copy_from_slice(take_bytes(rest)?);
        let (uppers, bottom) = (take_varint(rest)?, take_varint(rest)?);
        let mut listed = |count: u64| {
            (0..count)
                .map(|_| {
                    let run = RunId { id: take_u64(rest)?, len: take_u64(rest)?, crc: take_u32(rest)? };
                    Some(Listed { run, from: Bytes::copy_from_slice(take_bytes(rest)?) })
                })
                .collect::<Option<Vec<_>>>()
        };
        let (uppers, bottom) = (listed(uppers)?, listed(bottom)?);
        rest.is_empty().then_some(Self { record, uppers, bottom })
    }
}

/// Reads the last frame, and the number of its file; `None` if the directory has no manifest.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<(u64, Frame)>> {
    let current = dir.join(CURRENT);
    let name = match disk.read(&current) {
        Ok(name) => name,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &current)(error)),
    };
    let number = std::str::from_utf8(&name).ok().and_then(|name| number_of(name.trim_end()));
    let number = number.ok_or_else(|| Error::corrupt(&current, "it does not name a manifest"))?;
    let path = path(dir, number);
    let content = disk.read(&path).map_err(Error::io("read", &path))?;
    let mut rest = content.as_slice();
    let mut crc = check_header(&path, number, &mut rest)?;
    let mut last = None;
    while let Some((content, next)) = take_frame(&mut rest, crc) {
        last = Some(content);
        crc = next;
    }
    let last = last.ok_or_else(|| Error::corrupt(&path, "it has no complete frame"))?;
    let frame = Frame::decode(last);
    Ok(Some((number, frame.ok_or_else(|| Error::corrupt(&path, "a frame cannot be decoded"))?)))
}

/// Checks the header and removes it from the front of `bytes`. Returns its checksum.
fn check_header(path: &Path, number: u64, bytes: &mut &[u8]) -> Result<u32> {
    let header = take(bytes, HEADER_BYTES).ok_or_else(|| Error::corrupt(path, "it is truncated"))?;
    let (mut fields, mut crc) = header.split_at(HEADER_BYTES - 4);
    let expected = crc32c::crc32c(fields);
    let is_manifest = take(&mut fields, MAGIC.len()) == Some(MAGIC.as_slice());
    if !is_manifest || take_u32(&mut crc) != Some(expected) {
        return Err(Error::corrupt(path, "its header is not that of a manifest"));
    }
    let format = take_u32(&mut fields).unwrap_or_default();
    if format != FORMAT {
        return Err(Error::Newer { path: path.to_owned(), found: format, known: FORMAT });
    }
    if take_u64(&mut fields) != Some(number) {
        return Err(Error::corrupt(path, "its header is that of another manifest"));
    }
    Ok(expected)
}

/// Returns the content of the next frame and its checksum, and removes it from the front of `bytes`; `None` if it is
/// incomplete.
fn take_frame<'a>(bytes: &mut &'a [u8], crc: u32) -> Option<(&'a [u8], u32)> {
    let mut rest = *bytes;
    let len = take(&mut rest, 4)?;
    let found = take_u32(&mut rest)?;
    let content = take(&mut rest, u32::from_be_bytes(len.try_into().ok()?) as usize)?;
    let expected = crc32c::crc32c_append(crc32c::crc32c_append(crc, len), content);
    if faults::is_frame_damaged(expected != found) {
        return None;
    }
    *bytes = rest;
    Some((content, expected))
}

/// The end of the manifest in use.
pub struct Manifest {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    end: u64,
    crc: u32,
}

impl Manifest {
    /// Makes a new manifest with one frame the current one; durable when it returns.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, number: u64, frame: &Frame) -> Result<Self> {
        let path = path(dir, number);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put_slice(MAGIC);
        header.put_u32(FORMAT);
        header.put_u64(number);
        let crc = crc32c::crc32c(&header);
        header.put_u32(crc);
        let file = disk.create(&path).map_err(Error::io("create", &path))?;
        file.write_all_at(&header, 0).map_err(Error::io("write", &path))?;
        let mut manifest = Self { path, file, end: HEADER_BYTES as u64, crc };
        manifest.append(frame)?;
        manifest.file.sync_all().map_err(Error::io("sync", &manifest.path))?;
        make_current(disk.as_ref(), dir, number)?;
        Ok(manifest)
    }

    /// Appends a frame; durable when it returns.
    pub fn append(&mut self, frame: &Frame) -> Result<()> {
        let content = frame.encode();
        let len = (content.len() as u32).to_be_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, &len), &content);
        let bytes = [&len[..], &crc.to_be_bytes(), &content].concat();
        self.file.write_all_at(&bytes, self.end).map_err(Error::io("write", &self.path))?;
        faults::sync_manifest(|| self.file.sync_data()).map_err(Error::io("sync", &self.path))?;
        self.end += bytes.len() as u64;
        self.crc = crc;
        Ok(())
    }

    /// Whether the file is large enough to be replaced by one with a single frame like `frame`.
    pub fn is_full(&self, frame: &Frame) -> bool {
        let runs = (frame.uppers.len() + frame.bottom.len()) as u64;
        let frame_bytes = FRAME_HEAD_BYTES as u64 + frame.record.len() as u64 + 64 * runs;
        self.end > MAX_BYTES.max(MAX_FRAMES * frame_bytes)
    }
}

fn make_current(disk: &dyn Disk, dir: &Path, number: u64) -> Result<()> {
    let (temporary, current) = (dir.join(CURRENT_TMP), dir.join(CURRENT));
    let file = disk.create(&temporary).map_err(Error::io("create", &temporary))?;
    file.write_all_at(format!("{}\n", name(number)).as_bytes(), 0).map_err(Error::io("write", &temporary))?;
    file.sync_all().map_err(Error::io("sync", &temporary))?;
    disk.rename(&temporary, &current).map_err(Error::io("rename", &temporary))?;
    faults::sync_names(|| disk.sync_dir(dir)).map_err(Error::io("sync", dir))
}

fn name(number: u64) -> String {
    format!("MANIFEST-{number:08}")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("MANIFEST-")?.parse().ok()
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(name(number))
}

/// Removes the files in `dir` that the frame `live` of manifest `number` does not need: those of interrupted
/// checkpoints and merges, and of earlier manifests.
pub fn remove_others(disk: &dyn Disk, dir: &Path, number: u64, live: &Frame) -> Result<()> {
    let is_live = |name: &str| {
        let mut runs = live.uppers.iter().chain(&live.bottom);
        name == CURRENT
            || number_of(name) == Some(number)
            || faults::is_live(runs.any(|listed| listed.run.file_name() == name))
    };
    for entry in disk.list(dir).map_err(Error::io("list", dir))? {
        let name = entry.name.to_string_lossy();
        let is_ours = name.ends_with(".run") || name.starts_with("MANIFEST-") || name == CURRENT_TMP;
        if is_ours && !is_live(&name) {
            let path = dir.join(&*name);
            disk.remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes the manifest `number`, which is not current any more.
pub fn remove(disk: &dyn Disk, dir: &Path, number: u64) {
    let path = path(dir, number);
    if let Err(error) = disk.remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a replaced manifest; the next start does");
    }
}
