//! A cluster's certificates over years of a simulated clock, with real keys: no member rejects the certificate of another
//! one, however late each of them uses a changed Secret, and whatever is lost meanwhile.
#![allow(clippy::unwrap_used)]

use helios_operator::plan::CertificateStep::{self, *};
use helios_operator::plan::{SPREAD, next_certificate_step};
use helios_operator::security::certificates::{Data, Existing, Write, admin_of, contents_after};
use helios_operator::security::check::{self, Names, fits, validity};
use helios_operator::security::keys;
use helios_proto::tls::ClientTls;
use helios_proto::tls::issue::Pair;
use jiff::{SignedDuration, Timestamp};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn names() -> Names {
    Names { cluster: "demo".to_owned(), namespace: "team".to_owned(), replicas: 3, for_clients: false }
}

/// The two Secrets, and the certificates that members may hold.
#[derive(Clone)]
struct World {
    now: Timestamp,
    authority: Option<Data>,
    leaf: Option<Data>,
    written_at: Option<Timestamp>,
    fulfilled: Option<String>,
    request: Option<String>,
    /// Each certificate with the authorities of its bundle, and until when some member may hold it.
    held: Vec<(Pair, String, Option<Timestamp>)>,
    steps: Vec<CertificateStep>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            authority: None,
            leaf: None,
            written_at: None,
            fulfilled: None,
            request: None,
            held: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn settled() -> Self {
        let mut world = Self::new();
        world.settle();
        world.after(DAY);
        world.steps.clear();
        world
    }

    fn read(&self) -> Existing {
        let written = (self.written_at, self.fulfilled.clone());
        Existing::read(self.authority.as_ref(), self.leaf.as_ref(), written, &names(), self.now)
    }

    /// One step of the operator, which may crash after it.
    fn step(&mut self) -> Option<CertificateStep> {
        let existing = self.read();
        let step = next_certificate_step(&existing, self.request.as_deref(), self.now)?;
        match contents_after(step, &existing, &names(), self.now).unwrap() {
            Write::Authority(data) => self.authority = Some(data),
            Write::Leaf(data) => self.take_up(data),
        }
        self.steps.push(step);
        Some(step)
    }

    fn take_up(&mut self, data: Data) {
        for (.., until) in &mut self.held {
            until.get_or_insert(self.now + SPREAD);
        }
        let pair = Pair { certificate: data["tls.crt"].clone(), key: data["tls.key"].clone() };
        self.held.push((pair, data["ca.crt"].clone(), None));
        (self.leaf, self.written_at, self.fulfilled) = (Some(data), Some(self.now), self.request.clone());
    }

    #[track_caller]
    fn members_trust_each_other(&mut self) {
        self.held.retain(|(.., until)| until.is_none_or(|until| until > self.now));
        for (shown, ..) in &self.held {
            for (_, trusted, _) in &self.held {
                fits(shown, trusted, &names(), self.now)
                    .unwrap_or_else(|why| panic!("{why}: {:?}", self.steps));
            }
        }
    }

    /// Time passes.
    fn after(&mut self, time: SignedDuration) {
        self.now += time;
    }

    /// The operator at work until there is nothing to do at the moment.
    #[track_caller]
    fn settle(&mut self) {
        for _ in 0..10 {
            if self.step().is_none() {
                return;
            }
            self.members_trust_each_other();
        }
        panic!("no end: {:?}", self.steps);
    }

    /// Days with reconciles every few minutes, as long as something is under way.
    #[track_caller]
    fn live(&mut self, days: i32) {
        for _ in 0..days {
            for _ in 0..5 {
                self.settle();
                self.after(SPREAD + MINUTE);
                self.members_trust_each_other();
            }
            self.after(DAY);
        }
    }

    fn count(&self, step: CertificateStep) -> usize {
        self.steps.iter().filter(|it| **it == step).count()
    }

    fn leaf_pem(&self) -> String {
        self.leaf.as_ref().unwrap()["tls.crt"].clone()
    }

    fn trusted(&self) -> usize {
        check::split(&self.leaf.as_ref().unwrap()["ca.crt"]).len()
    }
}

#[test]
fn new_cluster_has_an_authority_and_a_certificate_that_fits() {
    let mut world = World::new();
    world.settle();
    assert_eq!(world.steps, [CreateAuthority, IssueCertificates]);
    let life = validity(&world.leaf_pem()).unwrap();
    let days = life.not_after.duration_since(world.now).as_hours() / 24;
    assert_eq!(days, 90);
    assert!(
        !world
            .leaf
            .as_ref()
            .unwrap()
            .values()
            .any(|text| *text == world.authority.as_ref().unwrap()["ca.key"])
    );
}

#[test]
fn members_trust_each_other_for_twenty_five_years() {
    let mut world = World::new();
    for _ in 0..25 * 365 / 5 {
        world.live(1);
        world.after(DAY * 4);
        let life = validity(&world.leaf_pem()).unwrap();
        assert!(life.not_after.duration_since(world.now) > DAY * 20, "renewed too late");
    }
    let (issued, rolled) = (world.count(IssueCertificates), world.count(SwitchAuthority));
    assert!((120..170).contains(&issued), "{issued} certificates: two thirds of 90 days each");
    assert_eq!((rolled, world.count(RemoveOldAuthority), world.count(CreateAuthority)), (3, 3, 1));
    assert_eq!(world.trusted(), 1);
}

#[test]
fn certificate_is_issued_by_the_same_authority_when_it_was_deleted() {
    let mut world = World::settled();
    let (before, authority) = (world.leaf_pem(), world.authority.clone());
    (world.leaf, world.written_at) = (None, None);
    world.settle();
    assert_eq!(world.steps, [IssueCertificates]);
    assert!(world.leaf_pem() != before && world.authority == authority);
}

#[test]
fn admin_has_a_certificate_that_no_member_can_use() {
    let mut world = World::settled();
    let leaf = world.leaf.clone().unwrap();
    let (admin, bundle) = (admin_of(&leaf).unwrap(), &leaf["ca.crt"]);
    assert!(!check::is_for_management(&leaf["tls.crt"]));
    assert!(
        fits(&admin, bundle, &Names { replicas: 0, ..names() }, world.now).is_ok(),
        "of another authority"
    );
    assert!(fits(&admin, bundle, &names(), world.now).is_err(), "it would do for a member");
    // A Secret of an earlier operator gets it, with a new certificate of the members.
    world.leaf.as_mut().unwrap().retain(|name, _| !name.starts_with("admin."));
    world.settle();
    assert_eq!(world.steps, [IssueCertificates]);
    assert!(admin_of(world.leaf.as_ref().unwrap()).is_some());
    world.members_trust_each_other();
}

#[test]
fn renewal_request_issues_one_certificate() {
    let mut world = World::settled();
    world.request = Some("today".to_owned());
    world.live(3);
    assert_eq!(world.steps, [IssueCertificates]);
}

#[test]
fn certificate_is_issued_when_a_user_has_damaged_the_secret() {
    for (key, text) in [("tls.crt", "x"), ("tls.key", "x"), ("ca.crt", "x")] {
        let mut world = World::settled();
        world.leaf.as_mut().unwrap().insert(key.to_owned(), text.to_owned());
        world.settle();
        let last = world.held.last().unwrap();
        fits(&last.0, &last.1, &names(), world.now).unwrap_or_else(|why| panic!("{key}: {why}"));
    }
}

/// An authority that is replaced because it is old, and one because its key was lost.
fn replacements() -> [(&'static str, World); 2] {
    let mut old = World::settled();
    while old.count(TrustNextAuthority) == 0 {
        old.after(DAY * 5);
        old.settle();
    }
    let mut lost = World::settled();
    lost.authority = None;
    [("old", old), ("lost", lost)]
}

#[test]
fn authority_is_replaced_while_the_old_one_is_trusted_when_its_key_was_lost() {
    let [_, (_, mut world)] = replacements();
    let before = world.leaf_pem();
    world.settle();
    assert_eq!(world.steps, [TrustNextAuthority, DistributeTrust]);
    assert_eq!(
        (world.leaf_pem(), world.trusted()),
        (before, 2),
        "the next one is not trusted everywhere yet"
    );
    world.live(1);
    let rest = [SwitchAuthority, IssueCertificates, RemoveOldAuthority, DistributeTrust];
    assert_eq!(world.steps[2..], rest);
    assert_eq!(world.trusted(), 1);
}

#[test]
fn replacement_of_an_authority_completes_when_the_operator_crashes_at_any_step() {
    for (what, begin) in replacements() {
        for crashes_after in 0..8 {
            for away in [SignedDuration::ZERO, SPREAD, DAY * 3] {
                let mut world = begin.clone();
                for _ in 0..crashes_after {
                    if world.step().is_none() {
                        world.after(SPREAD);
                    }
                    world.members_trust_each_other();
                }
                world.after(away);
                world.live(2);
                assert_eq!((world.step(), world.trusted()), (None, 1), "{what} {crashes_after} {away:?}");
                assert!(world.count(SwitchAuthority) == 1, "{what} {crashes_after}: {:?}", world.steps);
            }
        }
    }
}

#[test]
fn members_trust_each_other_when_the_authority_is_lost_during_its_replacement() {
    let [(_, begin), _] = replacements();
    for steps in 0..8 {
        let mut world = begin.clone();
        for _ in 0..steps {
            if world.step().is_none() {
                world.after(SPREAD);
            }
        }
        world.authority = None;
        world.live(3);
        assert_eq!((world.step(), world.trusted()), (None, 1), "after {steps}: {:?}", world.steps);
    }
}

#[test]
fn authority_and_certificate_are_created_when_both_secrets_are_gone() {
    let mut world = World::settled();
    (world.authority, world.leaf, world.written_at) = (None, None, None);
    world.held.clear();
    world.settle();
    assert_eq!(world.steps, [CreateAuthority, IssueCertificates]);
}

#[test]
fn certificate_does_not_fit_when_client_names_are_requested_later() {
    let world = World::settled();
    let (pair, bundle, _) = world.held.last().unwrap();
    let with_clients = Names { for_clients: true, ..names() };
    let why = fits(pair, bundle, &with_clients, world.now).unwrap_err();
    assert!(why.contains("demo.team.svc"), "{why}");
}

#[test]
fn supplied_certificate_is_rejected_with_the_reason_when_it_does_not_fit() {
    let now = World::new().now;
    let (authority, life) = keys::authority(&names(), now).unwrap();
    let other = Names { cluster: "other".to_owned(), ..names() };
    let (foreign, _) = keys::authority(&other, now).unwrap();
    let good = keys::member(&authority, life.not_after, &names(), now).unwrap();
    fits(&good, &authority.certificate, &names(), now).unwrap();
    let says = |pair: &Pair, bundle: &str, at, word: &str| {
        let why = fits(pair, bundle, &names(), at).expect_err(word);
        assert!(why.contains(word), "{why}");
    };
    let misnamed = keys::member(&authority, life.not_after, &other, now).unwrap();
    says(&misnamed, &authority.certificate, now, "it is not for demo-0.demo-peers.team.svc; add that name");
    let mixed = Pair { key: foreign.key.clone(), ..good.clone() };
    says(&mixed, &authority.certificate, now, "KeyMismatch");
    says(&good, &foreign.certificate, now, "UnknownIssuer");
    says(&good, &authority.certificate, now + DAY * 91, "expired");
    says(
        &Pair { key: String::new(), ..good.clone() },
        &authority.certificate,
        now,
        "key holds no private key",
    );
    says(&good, "", now, "ca.crt");
}

/// Memory that the operator keeps for each idle cluster, beside its observation.
#[test]
#[ignore = "measures the process, so it runs alone"]
fn memory_of_a_kept_certificate() {
    const CLUSTERS: u64 = 500;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let now = World::new().now;
    let (authority, life) = keys::authority(&names(), now).unwrap();
    let pair = keys::member(&authority, life.not_after, &names(), now).unwrap();
    let keep = || {
        let identity = Some((pair.certificate.as_bytes(), pair.key.as_bytes()));
        ClientTls::from_pem(authority.certificate.as_bytes(), identity).unwrap()
    };
    let _first = keep();
    let before = resident();
    let kept: Vec<_> = (0..CLUSTERS).map(|_| keep()).collect();
    let each = (resident() - before) as f64 / kept.len() as f64;
    println!("{each:.1} KiB for each cluster, {:.1} MiB for {CLUSTERS}", each * CLUSTERS as f64 / 1024.0);
    assert!(each < 16.0, "{each} KiB for each cluster");
}
