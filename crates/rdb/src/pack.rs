//! The packed encodings: ziplist, listpack, intset and zipmap. Each is one string, walked entry by entry.

use crate::input::decimal;

/// Entries of a packed string; an error is the reason why it is damaged.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<Vec<u8>, &'static str>> + 'a>;

/// Bytes that are consumed from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn string(&mut self, length: usize) -> Option<Vec<u8>> {
        self.take(length).map(<[u8]>::to_vec)
    }

    fn int16(&mut self) -> Option<Vec<u8>> {
        self.array().map(|bytes| decimal(i64::from(i16::from_le_bytes(bytes))))
    }

    fn int24(&mut self) -> Option<Vec<u8>> {
        self.array().map(|[a, b, c]| decimal(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)))
    }

    fn int32(&mut self) -> Option<Vec<u8>> {
        self.array().map(|bytes| decimal(i64::from(i32::from_le_bytes(bytes))))
    }

    fn int64(&mut self) -> Option<Vec<u8>> {
        self.array().map(|bytes| decimal(i64::from_le_bytes(bytes)))
    }
}

/// Walks entries until the byte 255, which must be the last one.
fn walk<'a>(
    bytes: Option<Bytes<'a>>,
    damaged: &'static str,
    mut entry: impl FnMut(&mut Bytes<'a>) -> Option<Vec<u8>> + 'a,
) -> Entries<'a> {
    let mut state = Some(bytes);
    Box::new(std::iter::from_fn(move || {
        let Some(mut bytes) = state.take()? else { return Some(Err(damaged)) };
        match bytes.0 {
            [0xff] => None,
            [] | [0xff, ..] => Some(Err(damaged)),
            _ => match entry(&mut bytes) {
                Some(value) => {
                    state = Some(Some(bytes));
                    Some(Ok(value))
                }
                None => Some(Err(damaged)),
            },
        }
    }))
}

/// Entries after a header of `N` bytes that begins with the length of the whole.
fn after_header<const N: usize>(packed: &[u8]) -> Option<Bytes<'_>> {
    let mut bytes = Bytes(packed);
    let header = bytes.array::<N>()?;
    let length = u32::from_le_bytes(*header.first_chunk()?);
    (length as usize == packed.len()).then_some(bytes)
}

pub fn ziplist(packed: &[u8]) -> Entries<'_> {
    walk(after_header::<10>(packed), "a ziplist is malformed", |bytes| {
        // Length of the entry before.
        if bytes.byte()? == 0xfe {
            bytes.take(4)?;
        }
        let first = bytes.byte()?;
        match first {
            0x00..=0x3f => bytes.string(usize::from(first)),
            0x40..=0x7f => {
                let length = usize::from(first & 0x3f) << 8 | usize::from(bytes.byte()?);
                bytes.string(length)
            }
            0x80..=0xbf => {
                let length = u32::from_be_bytes(bytes.array()?);
                bytes.string(length as usize)
            }
            0xc0 => bytes.int16(),
            0xd0 => bytes.int32(),
            0xe0 => bytes.int64(),
            0xf0 => bytes.int24(),
            0xfe => bytes.byte().map(|byte| decimal(i64::from(byte.cast_signed()))),
            0xf1..=0xfd => Some(decimal(i64::from(first & 0x0f) - 1)),
            _ => None,
        }
    })
}

pub fn listpack(packed: &[u8]) -> Entries<'_> {
    walk(after_header::<6>(packed), "a listpack is malformed", |bytes| {
        let before = bytes.0.len();
        let first = bytes.byte()?;
        let value = match first {
            0x00..=0x7f => decimal(i64::from(first)),
            0x80..=0xbf => bytes.string(usize::from(first & 0x3f))?,
            0xc0..=0xdf => {
                let raw = u16::from(first & 0x1f) << 8 | u16::from(bytes.byte()?);
                decimal(i64::from((raw << 3).cast_signed() >> 3))
            }
            0xe0..=0xef => {
                let length = usize::from(first & 0x0f) << 8 | usize::from(bytes.byte()?);
                bytes.string(length)?
            }
            0xf0 => {
                let length = u32::from_le_bytes(bytes.array()?);
                bytes.string(length as usize)?
            }
            0xf1 => bytes.int16()?,
            0xf2 => bytes.int24()?,
            0xf3 => bytes.int32()?,
            0xf4 => bytes.int64()?,
            _ => return None,
        };
        // The length of the entry again, for a walk backwards, in 7 bits each.
        bytes.take(match before - bytes.0.len() {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        })?;
        Some(value)
    })
}

pub fn intset(packed: &[u8]) -> Entries<'_> {
    let mut bytes = Bytes(packed);
    let header = bytes.array::<8>();
    let (width, count) = header.map_or((0, 0), |header| {
        let [a, b, c, d, e, f, g, h] = header;
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    });
    let fits = matches!(width, 2 | 4 | 8) && u64::from(width) * u64::from(count) == bytes.0.len() as u64;
    if !fits {
        return Box::new(std::iter::once(Err("an intset is malformed")));
    }
    Box::new(std::iter::from_fn(move || {
        let value = match width {
            2 => bytes.int16(),
            4 => bytes.int32(),
            _ => bytes.int64(),
        };
        value.map(Ok)
    }))
}

/// Fields and values in turns (Redis before 2.6).
pub fn zipmap(packed: &[u8]) -> Entries<'_> {
    let mut bytes = Bytes(packed);
    let header = bytes.byte();
    let mut is_value = false;
    walk(header.map(|_| bytes), "a zipmap is malformed", move |bytes| {
        let length = match bytes.byte()? {
            254 => u32::from_le_bytes(bytes.array()?) as usize,
            255 => return None,
            short => usize::from(short),
        };
        let unused = if is_value { usize::from(bytes.byte()?) } else { 0 };
        let value = bytes.string(length)?;
        bytes.take(unused)?;
        is_value = !is_value;
        Some(value)
    })
}
