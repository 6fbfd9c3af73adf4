//! Memory control group of one process, which counts as the limit of a container does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

pub struct Group {
    dir: PathBuf,
    /// File that has the number of killed processes in its line `oom_kill`.
    events: &'static str,
}

impl Group {
    /// Creates a group below the group of this process or below one of its ancestors, of the version of control groups
    /// that has the memory controller here.
    pub fn new(name: &str, limit_bytes: u64) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("the control group of this process")?;
        let path_of = |wanted: &str| {
            own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|controller| controller == wanted).then_some(path)
            })
        };
        let first = path_of("memory")
            .map(|path| (path, "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"));
        let second = path_of("").map(|path| (path, "/sys/fs/cgroup", "memory.max", "memory.events"));
        let created = first.into_iter().chain(second).find_map(|(path, root, limit, events)| {
            Path::new(path).ancestors().find_map(|above| {
                let dir = Path::new(root).join(above.strip_prefix("/").ok()?).join(name);
                fs::create_dir(&dir).ok()?;
                // Where the controller is not available, the group is dropped, which removes it.
                let group = Self { dir, events };
                fs::write(group.dir.join(limit), limit_bytes.to_string()).ok()?;
                Some(group)
            })
        });
        created.context("no memory control group can be created: this needs root and the memory controller")
    }

    /// Returns the file that a process writes its id to.
    pub fn processes(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Returns the number of its processes that the kernel killed because of its limit.
    pub fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.dir.join(self.events)).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A killed process leaves the group a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
