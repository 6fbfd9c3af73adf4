//! Budget of the scripts of one request, charged before it is spent, and the check whether they may still run.
//!
//! One budget covers what Lua has allocated and what this node holds for the scripts outside of Lua (replies,
//! messages, buffers): together at most [`MAX_MEMORY_BYTES`]. Lua's own limit is the rest of it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use helios_proto::Error;
use helios_proto::v1::ErrorCode;
use mlua::Lua;

use super::super::frame::Frame;

/// Memory limit of the scripts of one request, inside and outside of Lua, in bytes.
pub const MAX_MEMORY_BYTES: usize = 64 << 20;
/// Time limit of a script with all its tries; a script that is stopped has no effect.
pub const MAX_TIME: Duration = Duration::from_secs(5);
/// Bytes charged for one element of a reply beside its content.
pub const ELEMENT_BYTES: usize = 64;
/// Number of steps of this node's loops between two checks of the clock.
const CHECK_EVERY: usize = 4_096;

/// Bytes that a buffer is charged at once.
const BLOCK_BYTES: usize = 16 << 10;

/// Reason why a script was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stopped {
    TooLong = 1,
    Killed,
    ClientGone,
    ShuttingDown,
    OverBudget,
}

/// Flag that stops a script from outside; the first reason counts.
#[derive(Debug, Default)]
pub struct Halt(AtomicU8);

/// Meter of the scripts of one request.
pub struct Meter {
    deadline: Instant,
    halt: Arc<Halt>,
    stopped: Cell<Option<Stopped>>,
    /// Bytes held outside of Lua.
    held: Cell<usize>,
    steps: Cell<usize>,
}

/// Reason why a native function ends without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Stopped,
    OverBudget,
    /// Message in the wording of Lua or Redis.
    Message(String),
}

/// Charge for bytes outside of Lua; released on drop.
pub struct Held<'a> {
    meter: &'a Meter,
    lua: &'a Lua,
    bytes: usize,
}

/// Growing buffer outside of Lua, charged before it grows.
pub struct Buffer<'a> {
    bytes: Vec<u8>,
    /// Bytes that are charged for `bytes`, at least its length.
    charged: usize,
    held: Held<'a>,
}

impl Stopped {
    pub fn frame(self) -> Frame {
        Frame::error(match self {
            Self::OverBudget => return over_budget().into(),
            Self::TooLong => format!(
                "ERR the script was stopped after {} seconds and had no effect: split it into several",
                MAX_TIME.as_secs()
            ),
            Self::Killed => {
                "ERR Error running script: Script killed by user with SCRIPT KILL... it had no effect"
                    .to_owned()
            }
            Self::ClientGone => {
                "ERR the client of the script disconnected; the script had no effect".to_owned()
            }
            Self::ShuttingDown => {
                "TRYAGAIN the script was stopped because this node shuts down; it had no effect".to_owned()
            }
        })
    }
}

impl Halt {
    pub fn ask(&self, reason: Stopped) {
        // Fails if a reason was set before.
        let _ = self.0.compare_exchange(0, reason as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn asked(&self) -> Option<Stopped> {
        use Stopped::{ClientGone, Killed, ShuttingDown, TooLong};
        let reason = self.0.load(Ordering::Relaxed);
        [TooLong, Killed, ClientGone, ShuttingDown].into_iter().find(|each| *each as u8 == reason)
    }
}

impl Meter {
    /// Creates a meter. `held`: bytes that are held outside of Lua already.
    pub fn new(deadline: Instant, halt: Arc<Halt>, held: usize) -> Self {
        Self { deadline, halt, stopped: Cell::new(None), held: Cell::new(held), steps: Cell::new(0) }
    }

    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.get()
    }

    /// Stops the script from within; it has no effect.
    pub fn stop(&self, reason: Stopped) {
        self.stopped.set(self.stopped.get().or(Some(reason)));
    }

    /// Checks the deadline and the halt flag; fails from then on once the script has to stop.
    pub fn check(&self) -> Result<(), Fault> {
        if self.stopped.get().is_none() {
            let late = || (Instant::now() >= self.deadline).then_some(Stopped::TooLong);
            self.stopped.set(self.halt.asked().or_else(late));
        }
        if self.stopped.get().is_some() { Err(Fault::Stopped) } else { Ok(()) }
    }

    /// Counts steps of a loop of this node, and checks every [`CHECK_EVERY`] steps whether the script has to
    /// stop.
    pub fn step(&self, count: usize) -> Result<(), Fault> {
        let steps = self.steps.get().saturating_add(count);
        if steps < CHECK_EVERY {
            self.steps.set(steps);
            return Ok(());
        }
        self.steps.set(0);
        self.check()
    }

    /// Charges bytes outside of Lua until the end of the request.
    pub fn spend(&self, lua: &Lua, bytes: usize) -> Result<(), Fault> {
        self.step(1)?;
        let held = self.held.get().saturating_add(bytes);
        if held.saturating_add(lua.used_memory()) > MAX_MEMORY_BYTES {
            self.collect(lua, held)?;
        }
        self.held.set(held);
        Ok(())
    }

    /// Charges bytes outside of Lua while the result exists, and reduces Lua's limit to the rest.
    pub fn hold<'a>(&'a self, lua: &'a Lua, bytes: usize) -> Result<Held<'a>, Fault> {
        self.spend(lua, bytes)?;
        self.limit(lua);
        Ok(Held { meter: self, lua, bytes })
    }

    /// Sets Lua's limit to the rest of the budget, never below what Lua has allocated: its allocator could not
    /// even shrink a block then.
    pub fn limit(&self, lua: &Lua) {
        let left = MAX_MEMORY_BYTES.saturating_sub(self.held.get()).max(lua.used_memory());
        // Fails only for interpreters without a limit.
        let _ = lua.set_memory_limit(left);
    }

    /// Collects garbage; fails if the budget is exceeded even then.
    fn collect(&self, lua: &Lua, held: usize) -> Result<(), Fault> {
        let _ = lua.gc_collect();
        if held.saturating_add(lua.used_memory()) > MAX_MEMORY_BYTES {
            Err(Fault::OverBudget)
        } else {
            Ok(())
        }
    }

    fn release(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_sub(bytes));
    }
}

impl Held<'_> {
    /// Charges further bytes, before the held memory grows.
    fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        self.meter.spend(self.lua, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Keeps the charge until the end of the request.
    pub fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.meter.release(self.bytes);
        self.meter.limit(self.lua);
    }
}

impl<'a> Buffer<'a> {
    pub fn new(lua: &'a Lua, meter: &'a Meter) -> Result<Self, Fault> {
        Ok(Self { bytes: Vec::new(), charged: 0, held: meter.hold(lua, 0)? })
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.held.meter.step(1)?;
        let needed = self.bytes.len() + bytes.len();
        if needed > self.charged {
            let block = (needed - self.charged).max(BLOCK_BYTES);
            self.held.grow(block)?;
            self.charged += block;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Fault {
    pub fn message(&self) -> String {
        match self {
            Self::Stopped => "the script was stopped".to_owned(),
            Self::OverBudget => over_budget().message,
            Self::Message(text) => text.clone(),
        }
    }
}

/// Returns the error for scripts of a request that together cost more than their budget.
pub fn over_budget() -> Error {
    Error::new(
        ErrorCode::BudgetExceeded,
        format!(
            "BUDGET_EXCEEDED (4008): not enough memory: the script, its answer and its messages need more than \
             {MAX_MEMORY_BYTES} bytes (fixed): split it into several"
        ),
    )
}

impl From<Fault> for mlua::Error {
    fn from(fault: Fault) -> Self {
        mlua::Error::runtime(fault.message())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn free_meter() -> Meter {
        Meter::new(Instant::now() + Duration::from_secs(60), Arc::default(), 0)
    }

    #[test]
    fn lua_and_memory_outside_of_lua_share_one_budget() {
        let (lua, meter) = (Lua::new(), free_meter());
        meter.limit(&lua);
        let held = meter.hold(&lua, MAX_MEMORY_BYTES / 2).unwrap();
        assert!(meter.spend(&lua, MAX_MEMORY_BYTES / 2).is_err());
        assert!(lua.create_string(vec![0; MAX_MEMORY_BYTES / 2]).is_err());
        drop(held);
        assert_eq!(meter.held.get(), 0);
        lua.create_string(vec![0; MAX_MEMORY_BYTES / 2]).unwrap();
        // Garbage is collected before a charge is rejected.
        meter.hold(&lua, MAX_MEMORY_BYTES / 4 * 3).unwrap().keep();
        assert_eq!(meter.held.get(), MAX_MEMORY_BYTES / 4 * 3);
    }

    #[test]
    fn meter_stops_at_the_deadline_or_on_halt_with_the_first_reason() {
        let late = Meter::new(Instant::now(), Arc::default(), 0);
        assert_eq!((late.check(), late.stopped()), (Err(Fault::Stopped), Some(Stopped::TooLong)));
        let halt = Arc::new(Halt::default());
        let meter = Meter::new(Instant::now() + MAX_TIME, halt.clone(), 0);
        meter.check().unwrap();
        halt.ask(Stopped::ClientGone);
        halt.ask(Stopped::Killed);
        assert!((0..CHECK_EVERY).any(|_| meter.step(1).is_err()));
        assert_eq!(meter.stopped(), Some(Stopped::ClientGone));
    }
}
