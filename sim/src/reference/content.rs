//! The values of keys, and the effects of commands on them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{
    Call, Done, ErrorCode, ErrorDetail, Expire, Nil, Replies, Reply, Set, SetCondition, Transaction,
};

use helios_state::commands;

use super::{Reference, words};

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Text(Bytes),
    Hash(BTreeMap<Bytes, Bytes>),
    List(VecDeque<Bytes>),
    Set(BTreeSet<Bytes>),
    /// Members with their scores, which are whole numbers here.
    Sorted(BTreeMap<Bytes, i64>),
}

#[derive(Debug, Clone)]
pub struct Held {
    content: Content,
    /// Index of the entry that changed it last.
    revision: u64,
    expire_at_ms: Option<u64>,
}

impl Content {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Hash(hash) => hash.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Sorted(set) => set.is_empty(),
        }
    }
}

/// The state at the index `base`, with changes over it.
pub struct Scratch<'a> {
    reference: &'a Reference,
    base: u64,
    index: u64,
    now_ms: u64,
    /// Clock that decides which keys of the base have expired, ms.
    found_ms: u64,
    changes: BTreeMap<Bytes, Option<Held>>,
    is_flushed: bool,
}

/// Error that a command is rejected with.
type Refused = Kind;

impl<'a> Scratch<'a> {
    pub fn new(reference: &'a Reference, base: u64, index: u64, now_ms: u64) -> Self {
        Self { reference, base, index, now_ms, found_ms: now_ms, changes: BTreeMap::new(), is_flushed: false }
    }

    pub fn found_at(self, found_ms: u64) -> Self {
        Self { found_ms, ..self }
    }

    pub fn into_changes(mut self) -> BTreeMap<Bytes, Option<Held>> {
        if self.is_flushed {
            for key in self.reference.keys() {
                self.changes.entry(key.clone()).or_insert(None);
            }
        }
        self.changes
    }

    fn load(&self, key: &[u8]) -> Option<Held> {
        let (held, now_ms) = match self.changes.get(key) {
            Some(held) => (held.as_ref(), self.now_ms),
            None if self.is_flushed => (None, self.now_ms),
            None => (self.reference.version(key, self.base), self.found_ms),
        };
        held.filter(|held| held.expire_at_ms.is_none_or(|at_ms| at_ms > now_ms)).cloned()
    }

    fn put(&mut self, key: &Bytes, content: Content, expire_at_ms: Option<u64>) {
        let is_gone = content.is_empty() || expire_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
        let held = Held { content, revision: self.index, expire_at_ms };
        self.changes.insert(key.clone(), (!is_gone).then_some(held));
    }

    /// Executes a command as [`Scratch::run`] does. A random result is the one that was `seen`, if that is possible.
    pub fn run_as(&mut self, op: &Op, seen: &Kind) -> Option<Kind> {
        match (op, seen) {
            (Op::Call(call), Kind::Bytes(member)) if commands::name_of(call) == "spop" => {
                let args = vec![call.args[0].clone(), member.clone()];
                let removed = self.run(&Op::Call(commands::call("srem", args)));
                Some(if removed == Some(Kind::Integer(1)) { seen.clone() } else { nil() })
            }
            _ => self.run(op),
        }
    }

    /// Executes a command and returns its answer; `None` if that depends on something that the reference does not
    /// model.
    pub fn run(&mut self, op: &Op) -> Option<Kind> {
        let outcome = match op {
            Op::Set(op) => self.set(op),
            Op::Delete(op) => {
                let removed = op.keys.iter().filter(|key| self.remove(key)).count();
                Ok(Kind::Integer(removed as i64))
            }
            Op::Expire(op) => Ok(self.expire(op)),
            Op::Persist(op) => Ok(self.persist(&op.key)),
            Op::Increment(op) => self.increment(&op.key, op.delta),
            Op::MultiSet(op) => {
                for pair in &op.pairs {
                    self.put(&pair.key, Content::Text(pair.value.clone()), None);
                }
                Ok(done())
            }
            Op::FlushAll(_) => {
                self.changes.clear();
                self.is_flushed = true;
                Ok(done())
            }
            Op::Call(call) => match words::operation(&commands::name_of(call), call) {
                Some(op) => return self.run(&op),
                None => self.call(call),
            },
            Op::Transaction(transaction) => Ok(self.transaction(transaction)),
            // Their answers depend on the membership, on expired keys that no read sees, or on an application's state
            // machine, which the simulation does not have.
            Op::RegisterMember(_) | Op::PurgeExpired(_) | Op::SkipEntry(_) | Op::Apply(_) => return None,
        };
        Some(outcome.unwrap_or_else(|refused| refused))
    }

    fn transaction(&mut self, transaction: &Transaction) -> Kind {
        for guard in &transaction.guards {
            if self.load(&guard.key).map_or(0, |held| held.revision) != guard.revision {
                return Kind::NilList(Nil {});
            }
        }
        let steps = transaction.steps.iter().filter_map(|step| step.op.as_ref());
        list(steps.map(|op| self.run(op).unwrap_or_else(nil)).collect::<Vec<_>>())
    }

    fn set(&mut self, op: &Set) -> Result<Kind, Refused> {
        let old = self.load(&op.key);
        let is_met = match SetCondition::try_from(op.condition).unwrap_or_default() {
            SetCondition::Always => true,
            SetCondition::IfAbsent => old.is_none(),
            SetCondition::IfPresent => old.is_some(),
        };
        if !is_met {
            return Ok(nil());
        }
        let kept = old.and_then(|old| old.expire_at_ms).filter(|_| op.keep_ttl);
        self.put(&op.key, Content::Text(op.value.clone()), op.expire_at_ms.or(kept));
        Ok(done())
    }

    fn remove(&mut self, key: &Bytes) -> bool {
        let existed = self.load(key).is_some();
        if existed {
            self.changes.insert(key.clone(), None);
        }
        existed
    }

    fn expire(&mut self, op: &Expire) -> Kind {
        let Some(old) = self.load(&op.key) else { return Kind::Integer(0) };
        self.put(&op.key, old.content, Some(op.at_ms));
        Kind::Integer(1)
    }

    fn persist(&mut self, key: &Bytes) -> Kind {
        match self.load(key) {
            Some(old) if old.expire_at_ms.is_some() => {
                self.put(key, old.content, None);
                Kind::Integer(1)
            }
            _ => Kind::Integer(0),
        }
    }

    fn increment(&mut self, key: &Bytes, delta: i64) -> Result<Kind, Refused> {
        let old = self.load(key);
        let expire_at_ms = old.as_ref().and_then(|old| old.expire_at_ms);
        let current = match old.map(|old| old.content) {
            None => 0,
            Some(Content::Text(text)) => number(&text)?,
            Some(_) => return Err(refused(ErrorCode::WrongType)),
        };
        let sum = current.checked_add(delta).ok_or_else(|| refused(ErrorCode::NotAnInteger))?;
        self.put(key, Content::Text(sum.to_string().into()), expire_at_ms);
        Ok(Kind::Integer(sum))
    }

    fn call(&mut self, call: &Call) -> Result<Kind, Refused> {
        let args = &call.args;
        let key = &args[0];
        let old = self.load(key);
        let expiry = old.as_ref().and_then(|old| old.expire_at_ms);
        let content = old.map(|old| old.content);
        let name = commands::name_of(call);
        match name.as_str() {
            "pexpiretime" => {
                Ok(Kind::Integer(content.map_or(-2, |_| expiry.map_or(-1, |at_ms| at_ms as i64))))
            }
            "get" => match content {
                None => Ok(nil()),
                Some(Content::Text(text)) => Ok(Kind::Bytes(text)),
                Some(_) => Err(refused(ErrorCode::WrongType)),
            },
            // The reference does not know the random member, only that there is one.
            "spop" => match content {
                None => Ok(nil()),
                Some(Content::Set(_)) => Ok(Kind::Status("a member".to_owned())),
                Some(_) => Err(refused(ErrorCode::WrongType)),
            },
            "type" => Ok(Kind::Status(kind_of(content.as_ref()).to_owned())),
            name if name.starts_with('h') => self.hash(name, key, content, expiry, &args[1..]),
            "sadd" | "srem" | "smembers" => self.members(&name, key, content, expiry, &args[1..]),
            name if name.starts_with('z') => self.sorted(name, key, content, expiry, &args[1..]),
            name => self.list(name, key, content, expiry, &args[1..]),
        }
    }

    fn hash(
        &mut self,
        name: &str,
        key: &Bytes,
        content: Option<Content>,
        expiry: Option<u64>,
        args: &[Bytes],
    ) -> Result<Kind, Refused> {
        let mut hash = collection(content, |content| match content {
            Content::Hash(hash) => Some(hash),
            _ => None,
        })?;
        let answer = match name {
            "hgetall" => {
                return Ok(Kind::Map(replies(hash.into_iter().flat_map(|(f, v)| [f, v]).map(Kind::Bytes))));
            }
            "hset" => {
                let added =
                    args.chunks(2).filter(|pair| hash.insert(pair[0].clone(), pair[1].clone()).is_none());
                Kind::Integer(added.count() as i64)
            }
            "hincrby" => {
                let old = hash.get(&args[0]).map_or(Ok(0), |text| number(text))?;
                let sum = old + number(&args[1])?;
                hash.insert(args[0].clone(), sum.to_string().into());
                Kind::Integer(sum)
            }
            _ => {
                let removed = args.iter().filter(|field| hash.remove(*field).is_some()).count();
                if removed == 0 {
                    return Ok(Kind::Integer(0));
                }
                Kind::Integer(removed as i64)
            }
        };
        self.put(key, Content::Hash(hash), expiry);
        Ok(answer)
    }

    fn members(
        &mut self,
        name: &str,
        key: &Bytes,
        content: Option<Content>,
        expiry: Option<u64>,
        args: &[Bytes],
    ) -> Result<Kind, Refused> {
        let mut set = collection(content, |content| match content {
            Content::Set(set) => Some(set),
            _ => None,
        })?;
        let changed = match name {
            "smembers" => return Ok(Kind::Set(replies(set.into_iter().map(Kind::Bytes)))),
            "sadd" => args.iter().filter(|member| set.insert((*member).clone())).count(),
            _ => args.iter().filter(|member| set.remove(*member)).count(),
        };
        if changed > 0 {
            self.put(key, Content::Set(set), expiry);
        }
        Ok(Kind::Integer(changed as i64))
    }

    fn sorted(
        &mut self,
        name: &str,
        key: &Bytes,
        content: Option<Content>,
        expiry: Option<u64>,
        args: &[Bytes],
    ) -> Result<Kind, Refused> {
        let mut set = collection(content, |content| match content {
            Content::Sorted(set) => Some(set),
            _ => None,
        })?;
        let answer = match name {
            "zrange" => {
                let mut all: Vec<_> = set.into_iter().map(|(member, score)| (score, member)).collect();
                all.sort();
                let pairs = all
                    .into_iter()
                    .flat_map(|(score, member)| [Kind::Bytes(member), Kind::Double(score as f64)]);
                return Ok(Kind::Pairs(replies(pairs)));
            }
            "zincrby" => {
                let score = set.entry(args[1].clone()).or_default();
                *score += number(&args[0])?;
                Kind::Double(*score as f64)
            }
            _ => {
                let removed = args.iter().filter(|member| set.remove(*member).is_some()).count();
                if removed == 0 {
                    return Ok(Kind::Integer(0));
                }
                Kind::Integer(removed as i64)
            }
        };
        self.put(key, Content::Sorted(set), expiry);
        Ok(answer)
    }

    fn list(
        &mut self,
        name: &str,
        key: &Bytes,
        content: Option<Content>,
        expiry: Option<u64>,
        args: &[Bytes],
    ) -> Result<Kind, Refused> {
        let mut items = collection(content, |content| match content {
            Content::List(items) => Some(items),
            _ => None,
        })?;
        let answer = match name {
            "lrange" => return Ok(list(items.into_iter().map(Kind::Bytes))),
            "rpush" => {
                items.extend(args.iter().cloned());
                Kind::Integer(items.len() as i64)
            }
            "lpush" => {
                args.iter().for_each(|item| items.push_front(item.clone()));
                Kind::Integer(items.len() as i64)
            }
            _ => {
                let popped = if name == "lpop" { items.pop_front() } else { items.pop_back() };
                let Some(popped) = popped else { return Ok(nil()) };
                Kind::Bytes(popped)
            }
        };
        self.put(key, Content::List(items), expiry);
        Ok(answer)
    }
}

/// The collection that a key holds; an empty one if the key is missing.
fn collection<T: Default>(content: Option<Content>, of_kind: fn(Content) -> Option<T>) -> Result<T, Refused> {
    content.map_or_else(
        || Ok(T::default()),
        |content| of_kind(content).ok_or_else(|| refused(ErrorCode::WrongType)),
    )
}

fn kind_of(content: Option<&Content>) -> &'static str {
    match content {
        None => "none",
        Some(Content::Text(_)) => "string",
        Some(Content::Hash(_)) => "hash",
        Some(Content::List(_)) => "list",
        Some(Content::Set(_)) => "set",
        Some(Content::Sorted(_)) => "zset",
    }
}

fn number(text: &[u8]) -> Result<i64, Refused> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| refused(ErrorCode::NotAnInteger))
}

fn refused(code: ErrorCode) -> Refused {
    Kind::Error(ErrorDetail { code: code.into(), ..ErrorDetail::default() })
}

fn done() -> Kind {
    Kind::Done(Done {})
}

fn nil() -> Kind {
    Kind::Nil(Nil {})
}

fn replies(items: impl IntoIterator<Item = Kind>) -> Replies {
    let items = items.into_iter().map(|kind| Reply { kind: Some(kind), ..Reply::default() });
    Replies { items: items.collect() }
}

fn list(items: impl IntoIterator<Item = Kind>) -> Kind {
    Kind::List(replies(items))
}

/// Whether two answers are equal, apart from the texts of errors.
pub fn is_same(one: &Kind, other: &Kind) -> bool {
    match (one, other) {
        (Kind::Error(one), Kind::Error(other)) => one.code == other.code,
        (Kind::List(one), Kind::List(other)) => {
            let kinds =
                |replies: &Replies| replies.items.iter().map(|item| item.kind.clone()).collect::<Vec<_>>();
            let (one, other) = (kinds(one), kinds(other));
            one.len() == other.len()
                && one.iter().zip(&other).all(|pair| match pair {
                    (Some(one), Some(other)) => is_same(one, other),
                    (one, other) => one == other,
                })
        }
        (one, other) => one == other,
    }
}
