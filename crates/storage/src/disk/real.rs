//! The machine's own file system.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::{DirEntry, Disk, DiskFile, DiskLock, Kind, LockMode};

/// Pause between two attempts to open a file while no descriptor is free.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);
/// Attempts per log line: one every 10 s.
const LOGGED_TRIES: u32 = 200;

#[derive(Debug, Default)]
pub struct RealDisk {
    set_apart: AtomicU64,
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        boxed(retry_open(|| File::options().create(true).truncate(true).read(true).write(true).open(path)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        boxed(retry_open(|| File::open(path)))
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        boxed(retry_open(|| File::options().read(true).write(true).open(path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        use io::ErrorKind::{AlreadyExists, NotFound, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match fs::hard_link(from, to) {
            Err(error)
                if !matches!(
                    error.kind(),
                    AlreadyExists | NotFound | QuotaExceeded | ReadOnlyFilesystem | StorageFull
                ) =>
            {
                fs::copy(from, to)?;
                File::open(to)?.sync_all()
            }
            linked => linked,
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok(DirEntry { name: entry.file_name(), kind: kind_of(entry.file_type()?.is_dir()) })
        };
        retry_open(|| fs::read_dir(dir))?.map(entry).collect()
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        fs::metadata(path).ok().map(|metadata| kind_of(metadata.is_dir()))
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        fs::metadata(path)?.modified()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // The parent of a relative path with one component is the working directory.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        retry_open(|| File::open(dir))?.sync_all()
    }

    fn try_lock(&self, path: &Path, mode: LockMode) -> Result<DiskLock, TryLockError> {
        let file = retry_open(|| match mode {
            LockMode::Exclusive if !path.is_dir() => {
                File::options().create(true).truncate(false).write(true).open(path)
            }
            LockMode::Exclusive | LockMode::Shared => File::open(path),
        });
        let file = file.map_err(TryLockError::Error)?;
        match mode {
            LockMode::Exclusive => file.try_lock()?,
            LockMode::Shared => file.try_lock_shared()?,
        }
        Ok(DiskLock::new(file))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let volume = rustix::fs::statvfs(path)?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        Ok(free.saturating_sub(self.set_apart.load(Ordering::Relaxed)))
    }

    fn volume_bytes(&self, path: &Path) -> io::Result<u64> {
        let volume = rustix::fs::statvfs(path)?;
        Ok(volume.f_blocks.saturating_mul(volume.f_frsize))
    }

    /// From the kernel's random id of the boot, which containers see too.
    fn boot_id(&self) -> u64 {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        u64::from_str_radix(&digits, 16).unwrap_or(0)
    }

    fn set_apart(&self, bytes: u64) {
        self.set_apart.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        self.set_apart.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Calls `open` until it fails for another reason than a lack of file descriptors. Descriptors become free
/// when connections end, and a delayed log or checkpoint costs less than a member that exits. Blocks the
/// thread: files are opened on dedicated threads only.
fn retry_open<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0_u32;
    loop {
        match open() {
            Err(error) if is_out_of_descriptors(&error) => {
                if tries.is_multiple_of(LOGGED_TRIES) {
                    tracing::error!(%error, "no file can be opened: out of file descriptors; retrying");
                }
                tries = tries.wrapping_add(1);
                std::thread::sleep(DESCRIPTOR_PAUSE);
            }
            result => return result,
        }
    }
}

/// Whether `error` reports that this process (EMFILE) or this machine (ENFILE) has no free file descriptor.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| exhausted.contains(&code))
}

fn boxed(file: io::Result<File>) -> io::Result<Box<dyn DiskFile>> {
    file.map(|file| Box::new(file) as Box<dyn DiskFile>)
}

fn kind_of(is_dir: bool) -> Kind {
    if is_dir { Kind::Dir } else { Kind::File }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
