//! Commands on strings as functions of plain bytes, and random requests of them.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;

use super::*;

const KEYS: [&str; 3] = ["a", "b", "c"];
const LATER_MS: i64 = 1_000_000;

#[derive(Debug, Default)]
pub struct Model {
    pub keys: BTreeMap<Bytes, (Vec<u8>, Option<i64>)>,
    /// Content of the last payload of DUMP.
    pub dump: Option<Vec<u8>>,
}

impl Model {
    pub fn text(&self, key: &Bytes) -> &[u8] {
        self.keys.get(key).map_or(&[], |(data, _)| data)
    }

    fn edit(&mut self, key: &Bytes, offset: usize, piece: &[u8]) -> usize {
        let (data, _) = self.keys.entry(key.clone()).or_default();
        data.resize(data.len().max(offset + piece.len()), 0);
        data[offset..offset + piece.len()].copy_from_slice(piece);
        data.len()
    }

    fn put(&mut self, key: &Bytes, data: &[u8], expiry: Option<i64>) {
        self.keys.insert(key.clone(), (data.to_vec(), expiry));
    }

    fn bulk(&self, key: &Bytes) -> Answer {
        self.keys.get(key).map_or_else(nil, |(data, _)| Answer::Bytes(data.clone().into()))
    }

    /// Executes a command; returns its answer, or `None` for a refusal.
    pub fn run(&mut self, words: &[Bytes]) -> Option<Answer> {
        let number = |at: usize| std::str::from_utf8(&words[at]).unwrap().parse::<i64>().unwrap();
        let key = &words[1];
        let count = |count: usize| Some(int(count as i64));
        match std::str::from_utf8(&words[0]).unwrap() {
            "set" => {
                let kept = self.keys.get(key).and_then(|(_, expiry)| *expiry).filter(|_| words.len() > 3);
                self.put(key, &words[2], kept);
                Some(done())
            }
            "getset" => {
                let previous = self.bulk(key);
                self.put(key, &words[2], None);
                Some(previous)
            }
            "mset" => {
                words[1..].chunks(2).for_each(|pair| self.put(&pair[0], &pair[1], None));
                Some(done())
            }
            "append" => count(self.edit(key, self.text(key).len(), &words[2])),
            "setrange" if words[3].is_empty() => count(self.text(key).len()),
            "setrange" => count(self.edit(key, number(2) as usize, &words[3])),
            "setbit" => {
                let (at, shift) = (number(2) as usize / 8, 7 - number(2) as usize % 8);
                let byte = self.text(key).get(at).copied().unwrap_or(0);
                self.edit(key, at, &[byte & !(1 << shift) | (number(3) as u8) << shift]);
                Some(int((byte >> shift & 1).into()))
            }
            "getbit" => {
                let byte = self.text(key).get(number(2) as usize / 8).copied().unwrap_or(0);
                Some(int((byte >> (7 - number(2) % 8) & 1).into()))
            }
            "getrange" => {
                let data = self.text(key);
                let end = (number(3) as usize + 1).min(data.len());
                let found = data.get(number(2) as usize..end).unwrap_or_default();
                Some(Answer::Bytes(Bytes::copy_from_slice(found)))
            }
            "bitcount" => {
                let data = self.text(key);
                let end = (number(3) as usize + 1).min(data.len());
                let found = data.get(number(2) as usize..end).unwrap_or_default();
                count(found.iter().map(|byte| byte.count_ones() as usize).sum())
            }
            "bitpos" if self.keys.contains_key(key) => {
                let data = self.text(key);
                let mut bits = number(3) as usize * 8..data.len() * 8;
                Some(int(bits.find(|at| data[at / 8] >> (7 - at % 8) & 1 == 1).map_or(-1, |at| at as i64)))
            }
            "bitpos" => Some(int(-1)),
            "bitop" => {
                let (left, right) = (self.text(&words[3]).to_vec(), self.text(&words[4]));
                let byte = |data: &[u8], at: usize| data.get(at).copied().unwrap_or(0);
                let length = left.len().max(right.len());
                let result: Vec<u8> = (0..length).map(|at| byte(&left, at) ^ byte(right, at)).collect();
                match length {
                    0 => drop(self.keys.remove(&words[2])),
                    _ => self.put(&words[2], &result, None),
                }
                count(length)
            }
            "strlen" => count(self.text(key).len()),
            "get" => Some(self.bulk(key)),
            "getdel" => {
                let held = self.bulk(key);
                self.keys.remove(key);
                Some(held)
            }
            "del" => count(self.keys.remove(key).is_some().into()),
            "type" => {
                let name = if self.keys.contains_key(key) { "string" } else { "none" };
                Some(Answer::Status(name.to_owned()))
            }
            "incrby" => {
                let held = self
                    .keys
                    .get(key)
                    .map_or(Some(0), |_| std::str::from_utf8(self.text(key)).ok()?.parse::<i64>().ok());
                let (sum, expiry) = (held? + number(2), self.keys.get(key).and_then(|(_, expiry)| *expiry));
                self.put(key, sum.to_string().as_bytes(), expiry);
                Some(int(sum))
            }
            "rename" => {
                let (data, expiry) = self.keys.remove(key)?;
                self.put(&words[2], &data, expiry);
                Some(done())
            }
            "copy" if *key == words[2] => None,
            "copy" => {
                let copied = self.keys.get(key).cloned();
                let was_copied = copied.is_some();
                copied.map(|copied| self.keys.insert(words[2].clone(), copied));
                count(was_copied.into())
            }
            "getex" => {
                let held = self.bulk(key);
                self.expire(key, number(3));
                Some(held)
            }
            "pexpireat" => count(self.expire(key, number(2)).into()),
            "persist" => {
                let expiry = self.keys.get_mut(key).and_then(|(_, expiry)| expiry.take());
                count(expiry.is_some().into())
            }
            "restore" => {
                self.put(key, &self.dump.clone().unwrap(), None);
                Some(done())
            }
            name => panic!("{name}"),
        }
    }

    fn expire(&mut self, key: &Bytes, at_ms: i64) -> bool {
        let Some((_, expiry)) = self.keys.get_mut(key) else { return false };
        *expiry = Some(at_ms);
        if at_ms <= NOW_MS as i64 {
            self.keys.remove(key);
        }
        true
    }
}

/// Returns a length on either side of the limits of a chunk.
fn length(random: &mut StdRng) -> usize {
    let chunks = random.random_range(0..4) * CHUNK_BYTES;
    match random.random_range(0..4) {
        0 => random.random_range(0..40),
        1 => (chunks + random.random_range(0..3)).saturating_sub(1),
        _ => random.random_range(0..4 * CHUNK_BYTES),
    }
}

/// Returns a request of a random command.
pub fn random_words(random: &mut StdRng) -> Vec<Bytes> {
    let key = |random: &mut StdRng| bytes(KEYS[random.random_range(0..KEYS.len())]);
    let number = |number: usize| bytes(&number.to_string());
    let piece = |random: &mut StdRng| {
        let length = if random.random_ratio(1, 2) { random.random_range(0..9) } else { length(random) };
        pattern(length, random.random())
    };
    let names = [
        "set",
        "set",
        "getset",
        "mset",
        "append",
        "append",
        "setrange",
        "setrange",
        "setrange",
        "setbit",
        "setbit",
        "getbit",
        "getrange",
        "getrange",
        "bitcount",
        "bitpos",
        "bitop",
        "strlen",
        "get",
        "getdel",
        "del",
        "type",
        "incrby",
        "rename",
        "copy",
        "getex",
        "pexpireat",
        "persist",
    ];
    let name = names[random.random_range(0..names.len())];
    let at = length(random);
    let (one, other) = (key(random), key(random));
    let mut words = vec![bytes(name), one];
    match name {
        "set" => {
            words.push(pattern(at, random.random()));
            words.extend(random.random_ratio(1, 3).then(|| bytes("KEEPTTL")));
        }
        "getset" => words.push(pattern(at, random.random())),
        "append" => words.push(piece(random)),
        "mset" => words.extend([piece(random), other, piece(random)]),
        "setrange" => words.extend([number(at), piece(random)]),
        "setbit" => words.extend([number(at * 8 + 3), number(random.random_range(0..2))]),
        "getbit" => words.push(number(at * 8 + 3)),
        "getrange" | "bitcount" => words.extend([number(at), number(at + length(random))]),
        "bitpos" => words.extend([number(1), number(at)]),
        "bitop" => words = vec![bytes("bitop"), bytes("xor"), words[1].clone(), other, key(random)],
        "incrby" => words.push(number(5)),
        "rename" => words.push(other),
        "copy" => words.extend([other, bytes("REPLACE")]),
        "getex" => words.extend([bytes("PXAT"), bytes(&LATER_MS.to_string())]),
        "pexpireat" => {
            let at_ms = if random.random_ratio(1, 4) { 1 } else { LATER_MS };
            words.push(bytes(&at_ms.to_string()));
        }
        _ => {}
    }
    words
}
