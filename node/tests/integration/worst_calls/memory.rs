//! Memory and disk use of the member, counted as a pod's limits do.

use std::path::{Path, PathBuf};

/// A memory control group that a member is started in. Where none can be created (no root, no controller),
/// only the peak of the resident set is asserted.
pub struct Group(PathBuf);

impl Group {
    /// Creates a group below the group of this process or below one of its ancestors, of cgroup version 1 or
    /// 2, whichever has the memory controller.
    pub fn make(limit_bytes: u64) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path_of = |wanted: &str| {
            own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|controller| controller == wanted).then(|| path.to_owned())
            })
        };
        let v1 = path_of("memory").map(|path| ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"));
        let v2 = path_of("").map(|path| ("/sys/fs/cgroup", path, "memory.max"));
        let name = format!("helios-test-{}", std::process::id());
        v1.into_iter().chain(v2).find_map(|(root, path, file)| {
            Path::new(&path).ancestors().find_map(|above| {
                let group = Self(Path::new(root).join(above.strip_prefix("/").ok()?).join(&name));
                std::fs::create_dir(&group.0).ok()?;
                // Where the controller is not available, the group is dropped, which removes it.
                std::fs::write(group.0.join(file), limit_bytes.to_string()).ok()?;
                Some(group)
            })
        })
    }

    pub fn processes(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A killed process leaves the group a moment later.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Resident set of a process in bytes, at present and at its peak since [`Resident::reset`].
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    pub now: u64,
    pub peak: u64,
}

impl Resident {
    /// Returns `None` when the process is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
        };
        Some(Self { now: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }

    /// Resets the peak, where the kernel supports that; else the peak is the one since the start.
    pub fn reset(pid: u32) {
        drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
    }
}

/// Returns the disk space of all files below `dir`, in bytes.
pub fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
