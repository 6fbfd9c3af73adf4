//! The decisions of one reconcile about all HeliosClients of a cluster: their Secrets, the members' list of users once, and
//! their statuses. Pure.

use std::collections::{BTreeMap, BTreeSet};

use helios_crds::ConditionStatus::{False, True};
use helios_crds::{ConditionStatus, ConditionType, HeliosClient, HeliosClientStatus, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::grant::Rights;
use super::password::{Decision, Passwords, Rotation, User, decide, duration};
use crate::backups::set_condition;
use crate::security::users::ClientLine;

/// Size of all lines of HeliosClients in the list, which is in one Secret of at most 1 MiB.
pub const MAX_LIST_BYTES: usize = 512 << 10;

/// A member, as far as the list of users is concerned.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    /// Clients may be connected to it.
    pub is_ready: bool,
    /// Digest of the list that it uses; `None`: it does not answer, empty: its version does not report it.
    pub digest: Option<String>,
}

/// A HeliosClient with what was read for it.
pub struct Seen<'a> {
    pub client: &'a HeliosClient,
    pub granted: Result<Rights, (Reason, String)>,
    /// Its Secret: the passwords in it, or why it cannot be used.
    pub passwords: Result<Passwords, (Reason, String)>,
}

/// The members' list of users, as read.
pub struct List<'a> {
    pub lines: &'a [ClientLine],
    /// Names of the users that are not of HeliosClients.
    pub others: &'a [String],
    pub digest: String,
}

/// Decision about one HeliosClient.
#[derive(Debug)]
pub struct Outcome {
    /// Passwords that its Secret is to have; `None`: it stays.
    pub passwords: Option<Passwords>,
    pub line: Option<ClientLine>,
    pub granted: (ConditionStatus, Reason, String),
    pub ready: (ConditionStatus, Reason, String),
    pub rotation: Option<Rotation>,
    pub due: Option<Timestamp>,
    /// It waits for the members.
    pub is_waiting: bool,
}

/// Name of the user of a HeliosClient. Neither part has a dot, so no two have the same.
pub fn user(client: &HeliosClient) -> String {
    format!("{}.{}", client.namespace().unwrap_or_default(), client.name_any())
}

/// Whether all members that serve clients use the list with this digest.
pub fn have_members(members: &[Member], digest: &str) -> bool {
    let mut serving = members.iter().filter(|member| member.is_ready).peekable();
    serving.peek().is_some() && serving.all(|member| member.digest.as_deref() == Some(digest))
}

/// Reason why the list may have no HeliosClients yet. A member of an earlier version would not start with them.
fn unsuited(list: &List<'_>, members: &[Member]) -> Option<(Reason, String)> {
    if !list.lines.is_empty() {
        return None;
    }
    let of = |digest: Option<&str>| {
        let found = members.iter().filter(|member| member.digest.as_deref() == digest);
        found.map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (old, silent) = (of(Some("")), of(None));
    if members.is_empty() || !silent.is_empty() {
        let message = format!(
            "waiting for all members to answer: {}",
            if silent.is_empty() { "there are none" } else { &silent }
        );
        return Some((Reason::ClusterNotReady, message));
    }
    let message = format!(
        "{old}: these members run a version without HeliosClients; upgrade spec.image of the HeliosCluster"
    );
    (!old.is_empty()).then_some((Reason::MembersTooOld, message))
}

/// Decides for all HeliosClients of a cluster, the oldest first.
pub fn plan(
    seen: &[Seen<'_>],
    list: &List<'_>,
    members: &[Member],
    now: Timestamp,
    mut draw: impl FnMut() -> Result<String, String>,
) -> Vec<Outcome> {
    let unsuited = unsuited(list, members);
    let have = have_members(members, &list.digest);
    let lines: BTreeMap<_, _> = list.lines.iter().map(|line| (line.name.as_str(), line)).collect();
    let others: BTreeSet<_> = list.others.iter().map(String::as_str).collect();
    let mut bytes = 0;
    let decided = seen.iter().map(|seen| {
        let user = user(seen.client);
        let rights = match &seen.granted {
            Ok(rights) => rights,
            Err((reason, message)) => return Outcome::refused(*reason, message),
        };
        if others.contains(user.as_str()) {
            let message = format!("the list of users has another user {user}; rename that one");
            return Outcome::refused(Reason::NameTaken, &message);
        }
        bytes += line_bytes(&user, rights);
        if bytes > MAX_LIST_BYTES {
            let message = format!("the users of older HeliosClients fill the {MAX_LIST_BYTES} bytes of the list; delete some, or use fewer prefixes");
            return Outcome::refused(Reason::UsersFull, &message);
        }
        let line = lines.get(user.as_str()).copied();
        let waits = |(reason, message): (Reason, String)| Outcome::waits(line.cloned(), reason, message);
        if let Some(unsuited) = unsuited.clone() {
            return waits(unsuited);
        }
        let found = match &seen.passwords {
            Ok(found) => found,
            Err(why) => return waits(why.clone()),
        };
        let times = &seen.client.spec.password_rotation;
        let rotation = duration(&times.interval).and_then(|interval| {
            Ok(Rotation { interval, overlap: duration(&times.overlap)?.unwrap_or_default() })
        });
        let rotation = match rotation {
            Ok(rotation) => rotation,
            Err(why) => return waits((Reason::InvalidSpec, format!("spec.passwordRotation: {why}"))),
        };
        match decide(User { name: &user, rights, rotation }, found, line, have, now, &mut draw) {
            Ok(decision) => Outcome::of(decision, rotation, found, line, have),
            Err(why) => waits((Reason::SecretsRefused, why)),
        }
    });
    decided.collect()
}

/// About the size of a line in the list.
fn line_bytes(user: &str, rights: &Rights) -> usize {
    let prefixes: usize = rights.prefixes.iter().map(|prefix| prefix.len() + 8).sum();
    user.len() + prefixes + 256
}

impl Outcome {
    fn refused(reason: Reason, message: &str) -> Self {
        let refused = (False, reason, message.to_owned());
        Self { granted: refused.clone(), ..Self::waits(None, refused.1, refused.2) }
    }

    /// The HeliosClient keeps the line that it has.
    pub fn waits(line: Option<ClientLine>, reason: Reason, message: String) -> Self {
        let granted = (True, Reason::Granted, "the cluster grants this user".to_owned());
        Self {
            passwords: None,
            line,
            granted,
            ready: (False, reason, message),
            rotation: None,
            due: None,
            is_waiting: false,
        }
    }

    fn of(
        decision: Decision,
        rotation: Rotation,
        found: &Passwords,
        line: Option<&ClientLine>,
        have: bool,
    ) -> Self {
        let Decision { passwords, line: wanted, is_usable, due } = decision;
        let is_spread = have && line == Some(&wanted) && passwords.next.is_none();
        let ready = match is_usable {
            true => (True, Reason::UserActive, "all members accept the password in the Secret".to_owned()),
            false => (
                False,
                Reason::MembersNotUpdated,
                "waiting for all members to reload the list of users, which takes up to two minutes"
                    .to_owned(),
            ),
        };
        let granted = (True, Reason::Granted, "the cluster grants this user".to_owned());
        let changed = (passwords != *found).then_some(passwords);
        Self {
            passwords: changed,
            line: Some(wanted),
            granted,
            ready,
            rotation: Some(rotation),
            due,
            is_waiting: !is_spread && due.is_none(),
        }
    }

    /// The status of `client` with this outcome, and the passwords that its Secret has now.
    pub fn status(
        &self,
        client: &HeliosClient,
        now_held: Option<&Passwords>,
        now: Timestamp,
    ) -> HeliosClientStatus {
        let (old, generation) = (client.status.clone().unwrap_or_default(), client.metadata.generation);
        let rotated_at =
            now_held.and_then(|held| held.rotated_at).or(old.rotated_at.as_ref().map(|time| time.0));
        let interval = self.rotation.and_then(|rotation| rotation.interval);
        let mut status = HeliosClientStatus {
            observed_generation: generation,
            user: Some(user(client)),
            secret_name: Some(helios_crds::client_secret(&client.name_any())),
            rotated_at: rotated_at.map(Time),
            next_rotation: rotated_at.zip(interval).map(|(at, interval)| Time(at + interval)),
            conditions: old.conditions,
        };
        for (type_, finding) in [(ConditionType::Granted, &self.granted), (ConditionType::Ready, &self.ready)]
        {
            set_condition(&mut status.conditions, type_, finding.clone(), generation, now);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use helios_crds::ClientRole;
    use serde_json::json;

    use super::*;

    fn client(name: &str) -> HeliosClient {
        let mut client =
            HeliosClient::new(name, serde_json::from_value(json!({"cluster": {"name": "demo"}})).unwrap());
        client.metadata.namespace = Some("shop".to_owned());
        client
    }

    fn granted() -> Result<Rights, (Reason, String)> {
        Ok(Rights { role: ClientRole::ReadWrite, prefixes: Vec::new() })
    }

    fn member(digest: Option<&str>) -> Member {
        Member { name: "demo-0".to_owned(), is_ready: true, digest: digest.map(str::to_owned) }
    }

    fn reasons(
        clients: &[HeliosClient],
        granted: &Result<Rights, (Reason, String)>,
        others: &[String],
        members: &[Member],
    ) -> Vec<Reason> {
        let seen: Vec<_> = clients
            .iter()
            .map(|client| Seen { client, granted: granted.clone(), passwords: Ok(Passwords::default()) })
            .collect();
        let list = List { lines: &[], others, digest: "d".to_owned() };
        let outcomes = plan(&seen, &list, members, Timestamp::UNIX_EPOCH, || Ok("drawn".to_owned()));
        outcomes.into_iter().map(|outcome| outcome.ready.1).collect()
    }

    #[test]
    fn client_is_not_ready_for_the_first_reason_that_holds() {
        let one = [client("a")];
        let ready = [member(Some("d"))];
        assert_eq!(reasons(&one, &granted(), &[], &ready), [Reason::MembersNotUpdated]);
        assert_eq!(reasons(&one, &granted(), &[], &[]), [Reason::ClusterNotReady]);
        assert_eq!(
            reasons(&one, &granted(), &[], &[member(Some("d")), member(None)]),
            [Reason::ClusterNotReady]
        );
        assert_eq!(
            reasons(&one, &granted(), &[], &[member(Some("d")), member(Some(""))]),
            [Reason::MembersTooOld]
        );
        assert_eq!(reasons(&one, &granted(), &["shop.a".to_owned()], &ready), [Reason::NameTaken]);
        let refused = Err((Reason::NamespaceNotAllowed, String::new()));
        assert_eq!(reasons(&one, &refused, &[], &ready), [Reason::NamespaceNotAllowed]);
    }

    #[test]
    fn clients_beyond_the_size_of_the_list_are_refused() {
        let clients: Vec<_> = (0..500).map(|number| client(&format!("client-{number:03}"))).collect();
        let small = reasons(&clients, &granted(), &[], &[member(Some("d"))]);
        assert!(
            small.iter().all(|reason| *reason == Reason::MembersNotUpdated),
            "500 clients without prefixes fit"
        );
        let long = Ok(Rights { role: ClientRole::ReadOnly, prefixes: vec!["p".repeat(256); 16] });
        let large = reasons(&clients, &long, &[], &[member(Some("d"))]);
        assert_eq!((large[0], large[499]), (Reason::MembersNotUpdated, Reason::UsersFull));
    }

    #[test]
    fn members_have_the_list_when_all_that_serve_report_it() {
        let away = Member { is_ready: false, ..member(None) };
        assert!(have_members(&[member(Some("d")), away.clone()], "d"));
        assert!(!have_members(&[member(Some("d")), member(None)], "d"));
        assert!(!have_members(&[member(Some("d")), member(Some("e"))], "d"));
        assert!(!have_members(&[away], "d"));
    }
}
