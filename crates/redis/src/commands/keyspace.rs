//! Commands on keys of any type: deletion and expiry.

use helios_proto::v1::{Delete, Expire, ExpireCondition, Persist, command::Op};

use super::super::error::{Refusal, shown};
use super::args::is;
use super::{Args, Request, Write};

pub fn del(mut args: Args) -> Result<Request, Refusal> {
    Ok(Write::plain(Op::Delete(Delete { keys: args.keys()? })))
}

pub fn persist(mut args: Args) -> Result<Request, Refusal> {
    Ok(Write::flag(Op::Persist(Persist { key: args.key()? })))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Millis,
}

/// Returns `base_ms + time` in milliseconds; times before the Unix epoch become the epoch. `None` on overflow
/// of Redis's range, `i64`.
pub fn absolute_expiry_ms(time: i64, unit: TimeUnit, base_ms: u64) -> Option<u64> {
    let time_ms = match unit {
        TimeUnit::Seconds => time.checked_mul(1000)?,
        TimeUnit::Millis => time,
    };
    let at_ms = time_ms.checked_add_unsigned(base_ms)?;
    Some(u64::try_from(at_ms).unwrap_or(0))
}

pub fn expire(args: Args) -> Result<Request, Refusal> {
    expire_from_now(args, TimeUnit::Seconds)
}

pub fn pexpire(args: Args) -> Result<Request, Refusal> {
    expire_from_now(args, TimeUnit::Millis)
}

pub fn expireat(args: Args) -> Result<Request, Refusal> {
    expire_counting_from(args, TimeUnit::Seconds, 0)
}

pub fn pexpireat(args: Args) -> Result<Request, Refusal> {
    expire_counting_from(args, TimeUnit::Millis, 0)
}

fn expire_from_now(args: Args, unit: TimeUnit) -> Result<Request, Refusal> {
    let now_ms = args.now_ms;
    expire_counting_from(args, unit, now_ms)
}

fn expire_counting_from(mut args: Args, unit: TimeUnit, base_ms: u64) -> Result<Request, Refusal> {
    let name = args.spec.name;
    let (key, time) = (args.key()?, args.word()?);
    let condition = expire_condition(args)?.into();
    let time = super::super::codec::parse_integer(&time).ok_or(Refusal::NotAnInteger)?;
    let at_ms = absolute_expiry_ms(time, unit, base_ms).ok_or(Refusal::InvalidExpire(name))?;
    Ok(Write::flag(Op::Expire(Expire { key, at_ms, condition })))
}

fn expire_condition(mut args: Args) -> Result<ExpireCondition, Refusal> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    while let Some(word) = args.next() {
        let option = match word {
            word if is(&word, "nx") => &mut nx,
            word if is(&word, "xx") => &mut xx,
            word if is(&word, "gt") => &mut gt,
            word if is(&word, "lt") => &mut lt,
            word => return Err(Refusal::other(format!("ERR Unsupported option {}", shown(&word, 128)))),
        };
        *option = true;
    }
    match (nx, xx, gt, lt) {
        (true, true, ..) | (true, _, true, _) | (true, _, _, true) => {
            Err(Refusal::other("ERR NX and XX, GT or LT options at the same time are not compatible"))
        }
        (_, _, true, true) => {
            Err(Refusal::other("ERR GT and LT options at the same time are not compatible"))
        }
        // LT alone also sets an expiry on a key that has none.
        (_, true, _, true) => Ok(ExpireCondition::ExpireXxLt),
        (true, ..) => Ok(ExpireCondition::ExpireNx),
        // A key without an expiry never passes GT, so GT implies XX.
        (_, _, true, _) => Ok(ExpireCondition::ExpireGt),
        (_, _, _, true) => Ok(ExpireCondition::ExpireLt),
        (_, true, ..) => Ok(ExpireCondition::ExpireXx),
        _ => Ok(ExpireCondition::ExpireAlways),
    }
}
