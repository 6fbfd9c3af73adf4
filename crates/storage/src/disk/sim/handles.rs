//! Open files and held locks of a simulated disk; invalid once the process that holds them died.

use std::io;
use std::sync::MutexGuard;

use super::names::Id;
use super::{Held, SimDisk, State};
use crate::disk::DiskFile;

pub struct SimLock {
    pub disk: SimDisk,
    pub id: Id,
    pub epoch: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.epoch != self.epoch {
            return;
        }
        match state.locks.get_mut(&self.id) {
            Some(Held::Shared(readers)) if *readers > 1 => *readers -= 1,
            _ => drop(state.locks.remove(&self.id)),
        }
    }
}

pub struct SimFile {
    pub disk: SimDisk,
    pub id: Id,
    pub epoch: u64,
}

impl SimFile {
    fn check<'a>(&self, state: MutexGuard<'a, State>) -> io::Result<MutexGuard<'a, State>> {
        if state.epoch == self.epoch {
            Ok(state)
        } else {
            Err(io::Error::other("opened by a process that died"))
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.epoch == self.epoch
            && let Some(handles) = state.open.get_mut(&self.id)
        {
            *handles -= 1;
            if *handles == 0 {
                state.open.remove(&self.id);
            }
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.check(self.disk.inspect()?)?.tree.file(self.id)?.read(buffer, offset as usize))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check(self.disk.operate()?)?.write(self.id, bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check(self.disk.operate()?)?.set_len(self.id, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check(self.disk.operate()?)?.sync(self.id)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.check(self.disk.inspect()?)?.tree.file(self.id)?.seen.len() as u64)
    }
}
