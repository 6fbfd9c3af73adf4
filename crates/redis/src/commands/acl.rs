//! `ACL`, and the role that a command requires.

use bytes::Bytes;
use helios_service::auth::{Role, User};

use super::super::error::{Refusal, shown};
use super::super::frame::Frame;
use super::super::table::{COMMANDS, Flags, Spec};
use super::local::Context;
use super::{Args, Local, Request};

/// Categories of commands, and the flag of each; `slow` are the commands without `fast`.
const CATEGORIES: [(&str, &str); 6] = [
    ("admin", "admin"),
    ("fast", "fast"),
    ("pubsub", "pubsub"),
    ("read", "readonly"),
    ("slow", ""),
    ("write", "write"),
];

/// Commands that remove all keys require the role admin.
const FLUSHES: [&str; 2] = ["flushall", "flushdb"];
/// Commands that write by their scripts, or remove or stop scripts of other users.
const SCRIPTS: [&str; 4] = ["eval", "evalsha", "script|flush", "script|kill"];

#[derive(Debug)]
pub enum AclRequest {
    WhoAmI,
    Users,
    List,
}

/// Returns the least role that may run the command.
pub fn role_for(spec: &Spec) -> Role {
    if spec.has(Flags::ADMIN) || FLUSHES.contains(&spec.name) {
        Role::Admin
    } else if spec.has(Flags::WRITE) || SCRIPTS.contains(&spec.name) {
        Role::ReadWrite
    } else {
        Role::ReadOnly
    }
}

pub fn whoami(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Acl(AclRequest::WhoAmI)))
}

pub fn users(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Acl(AclRequest::Users)))
}

pub fn list(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Acl(AclRequest::List)))
}

pub fn cat(mut args: Args) -> Result<Request, Refusal> {
    let names: Vec<&str> = match args.next() {
        None => CATEGORIES.iter().map(|(name, _)| *name).collect(),
        Some(category) => {
            args.end()?;
            members(&category)?
        }
    };
    let names = names.into_iter().map(|name| Frame::Bulk(Bytes::from_static(name.as_bytes()))).collect();
    Ok(Request::Local(Local::Answer(Frame::Array(names))))
}

fn members(category: &[u8]) -> Result<Vec<&'static str>, Refusal> {
    let known = CATEGORIES.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(category));
    let Some((name, flag)) = known else {
        return Err(Refusal::other(format!("ERR Unknown category '{}'", shown(category, 128))));
    };
    let is_member = |spec: &&Spec| match *name {
        "slow" => !spec.has(Flags::FAST),
        _ => Flags::named(flag).is_some_and(|flag| spec.has(flag)),
    };
    let all = COMMANDS.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands));
    Ok(all.filter(is_member).map(|spec| spec.name).collect())
}

/// Returns the rights of a role in the syntax of Redis's ACL rules.
fn rules(role: Role) -> &'static str {
    match role {
        Role::ReadOnly | Role::Backup => "+@all -@write -@admin -eval -evalsha",
        Role::ReadWrite => "+@all -@admin -flushall -flushdb",
        Role::Admin => "+@all",
    }
}

/// Returns the rule of a user in the syntax of Redis.
fn rule_of(user: &User) -> String {
    let User { name, role, prefixes, .. } = user;
    let patterns = |sign: char| match prefixes.is_limited() {
        true => {
            prefixes.iter().map(|prefix| format!("{sign}{}* ", String::from_utf8_lossy(prefix))).collect()
        }
        false => format!("{sign}* "),
    };
    format!("user {name} on {}{}{}", patterns('~'), patterns('&'), rules(*role))
}

impl AclRequest {
    pub fn execute(self, context: &Context<'_>) -> Frame {
        let users = || context.shared.access.users().into_iter();
        match self {
            Self::WhoAmI => Frame::bulk(
                context.session.identity.as_ref().map_or("", |identity| identity.name()).to_owned(),
            ),
            Self::Users => Frame::Array(users().map(|user| Frame::bulk(user.name.clone())).collect()),
            Self::List => Frame::Array(users().map(|user| Frame::bulk(rule_of(&user))).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::find;

    #[test]
    fn commands_require_their_roles() {
        let role = |name: &str| role_for(find(name.as_bytes()).unwrap());
        for name in ["get", "scan", "ping", "subscribe", "publish", "multi", "info", "helios.read"] {
            assert_eq!(role(name), Role::ReadOnly, "{name}");
        }
        for name in ["set", "del", "incr", "lpush", "expire"] {
            assert_eq!(role(name), Role::ReadWrite, "{name}");
        }
        for name in ["flushall", "flushdb"] {
            assert_eq!(role(name), Role::Admin, "{name}");
        }
        for (container, name) in [("config", "config|set"), ("client", "client|list"), ("acl", "acl|list")] {
            let spec = find(container.as_bytes()).unwrap();
            let spec = spec.subcommands.iter().find(|spec| spec.name == name).unwrap();
            assert_eq!(role_for(spec), Role::Admin, "{name}");
        }
    }
}
