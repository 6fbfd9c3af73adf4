//! Which hosts a volume can be used on. Its node affinity names labels of hosts, which need not be their names: a label
//! `kubernetes.io/hostname` of `ip-10-0-0-1` on a Node `ip-10-0-0-1.internal`, a zone, a storage pool. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume};

/// A host may lose its Node object, or a label, for as long as it takes to reboot or to be registered again.
pub const GONE_FOR: Duration = Duration::from_secs(60);
/// With more that went or changed within that time, nothing is said to be gone.
const MOST_GONE: usize = 4096;

pub type Labels = BTreeMap<String, String>;

/// A host as it is, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    name: String,
    labels: Labels,
}

/// The hosts that exist, and what was so within the last `GONE_FOR`.
#[derive(Debug, Clone)]
pub struct Homes {
    present: BTreeMap<String, Labels>,
    gone: Vec<(Home, Instant)>,
    /// Since when all changes are known.
    since: Instant,
}

impl Homes {
    pub fn new(present: BTreeMap<String, Labels>, now: Instant) -> Self {
        Self { present, gone: Vec::new(), since: now }
    }

    /// Notes that the host `name` has these `labels` now, or that it is gone; answers whether that was not known.
    pub fn set(&mut self, name: &str, labels: Option<Labels>, now: Instant) -> bool {
        let before = self.present.get(name);
        if before == labels.as_ref() {
            return false;
        }
        if let Some(before) = before.cloned() {
            self.leave(Home { name: name.to_owned(), labels: before }, now);
        }
        match labels {
            Some(labels) => self.present.insert(name.to_owned(), labels),
            None => self.present.remove(name),
        };
        true
    }

    /// Notes that these are all hosts now.
    pub fn replace(&mut self, mut present: BTreeMap<String, Labels>, now: Instant) {
        let names: Vec<String> = self.present.keys().cloned().collect();
        for name in names {
            self.set(&name, present.remove(&name), now);
        }
        self.present.extend(present);
    }

    fn leave(&mut self, home: Home, now: Instant) {
        self.gone.retain(|(other, at)| *other != home && now.duration_since(*at) < GONE_FOR);
        if self.gone.len() == MOST_GONE {
            (self.gone, self.since) = (Vec::new(), now);
        }
        self.gone.push((home, now));
    }

    /// One without node affinity is a network's, and can be used anywhere.
    pub fn fate(&self, volume: &PersistentVolume, now: Instant) -> Fate {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
            return Fate::Usable;
        };
        if self.present.iter().any(|(name, labels)| accepts(required, name, labels)) {
            return Fate::Usable;
        }
        let is_recent = |at: &Instant| now.duration_since(*at) < GONE_FOR;
        let mut gone = self.gone.iter().filter(|(_, at)| is_recent(at));
        match is_recent(&self.since) || gone.any(|(home, _)| accepts(required, &home.name, &home.labels)) {
            true => Fate::Uncertain,
            false => Fate::Stranded,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A host that exists can use it.
    Usable,
    /// None can, but one could within the last [`GONE_FOR`], or that is not known.
    Uncertain,
    Stranded,
}

/// One of the terms must hold.
fn accepts(required: &NodeSelector, name: &str, labels: &Labels) -> bool {
    required.node_selector_terms.iter().any(|term| holds(term, name, labels))
}

/// All that a term requires must hold; an empty one holds nowhere.
fn holds(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let fields = term.match_fields.iter().flatten();
    let expressions = term.match_expressions.iter().flatten();
    let on_field = |wanted: &NodeSelectorRequirement| match wanted.key.as_str() {
        "metadata.name" => is_met(wanted, Some(name)),
        // What this version does not know may hold: nothing is given up for it.
        _ => true,
    };
    let on_label =
        |wanted: &NodeSelectorRequirement| is_met(wanted, labels.get(&wanted.key).map(String::as_str));
    let is_empty = fields.clone().next().is_none() && expressions.clone().next().is_none();
    !is_empty && fields.clone().all(on_field) && expressions.clone().all(on_label)
}

fn is_met(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let is_among = value.is_some_and(|value| values.iter().any(|other| other == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = || value.and_then(number).zip(values.first().and_then(|text| number(text)));
    match wanted.operator.as_str() {
        "In" => is_among,
        "NotIn" => !is_among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// As a cloud names them: the label is not the name.
    fn host() -> (&'static str, Labels) {
        let of =
            [("kubernetes.io/hostname", "ip-10-0-0-1"), ("topology.kubernetes.io/zone", "a"), ("disks", "4")];
        ("ip-10-0-0-1.internal", labels(&of))
    }

    fn with_terms(terms: Value) -> PersistentVolume {
        let spec = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}});
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn on(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
    }

    /// Whether it is stranded, long after `host` was listed as the only one.
    fn strands(terms: Value) -> bool {
        let (name, labels) = host();
        let began = Instant::now();
        let homes = Homes::new(BTreeMap::from([(name.to_owned(), labels)]), began);
        homes.fate(&with_terms(terms), began + GONE_FOR * 10) == Fate::Stranded
    }

    #[test]
    fn a_volume_is_found_by_the_labels_of_hosts_and_not_by_their_names() {
        assert!(!strands(json!([on("kubernetes.io/hostname", "In", &["ip-10-0-0-1"])])));
        assert!(strands(json!([on("kubernetes.io/hostname", "In", &["ip-10-0-0-1.internal"])])));
        assert!(strands(json!([on("kubernetes.io/hostname", "In", &["ip-10-0-0-2"])])));
    }

    #[test]
    fn every_key_and_operator_counts() {
        for (key, operator, values, met) in [
            ("topology.kubernetes.io/zone", "In", &["a", "b"][..], true),
            ("topology.kubernetes.io/zone", "In", &["c"], false),
            ("topology.topolvm.io/node", "In", &["x"], false),
            ("topology.kubernetes.io/zone", "NotIn", &["a"], false),
            ("topology.topolvm.io/node", "NotIn", &["x"], true),
            ("disks", "Exists", &[], true),
            ("ssd", "Exists", &[], false),
            ("ssd", "DoesNotExist", &[], true),
            ("disks", "DoesNotExist", &[], false),
            ("disks", "Gt", &["3"], true),
            ("disks", "Gt", &["4"], false),
            ("disks", "Lt", &["5"], true),
            ("ssd", "Lt", &["5"], false),
            ("ssd", "Unheard", &[], true),
        ] {
            assert_eq!(strands(json!([on(key, operator, values)])), !met, "{key} {operator} {values:?}");
        }
        let by_name = |name: &str| {
            let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
            json!([{"matchFields": [field]}])
        };
        assert!(!strands(by_name("ip-10-0-0-1.internal")));
        assert!(strands(by_name("ip-10-0-0-1")));
    }

    #[test]
    fn all_of_a_term_and_one_of_the_terms_must_hold() {
        let zone =
            |zone: &str| json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]});
        let both = json!({"matchExpressions": [zone("a"), {"key": "ssd", "operator": "Exists"}]});
        assert!(strands(json!([both])));
        assert!(!strands(json!([both, {"matchExpressions": [zone("a")]}])));
        assert!(strands(json!([{}])), "an empty term holds nowhere");
        let nowhere = Homes::new(BTreeMap::new(), Instant::now());
        let of_a_network = nowhere.fate(&PersistentVolume::default(), Instant::now() + GONE_FOR * 2);
        assert_eq!(of_a_network, Fate::Usable);
    }

    #[test]
    fn a_host_is_gone_only_after_a_minute_and_so_is_one_that_was_never_seen() {
        let volume = with_terms(json!([on("topology.kubernetes.io/zone", "In", &["a"])]));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut homes = Homes::new(BTreeMap::new(), began);
        assert_eq!(homes.fate(&volume, after(59)), Fate::Uncertain, "the operator has just begun to look");
        assert_eq!(homes.fate(&volume, after(60)), Fate::Stranded);
        let (name, labels) = host();
        homes.set(name, Some(labels.clone()), after(100));
        assert_eq!(homes.fate(&volume, after(100)), Fate::Usable);
        homes.set(name, None, after(200));
        assert_eq!(homes.fate(&volume, after(259)), Fate::Uncertain, "it reboots, perhaps");
        assert_eq!(homes.fate(&volume, after(260)), Fate::Stranded);
        // Registered again under other labels, and then listed no more while the watch was away.
        homes.set(name, Some(labels), after(300));
        homes.set(name, Some(Labels::new()), after(310));
        assert_eq!(homes.fate(&volume, after(369)), Fate::Uncertain);
        assert_eq!(homes.fate(&volume, after(370)), Fate::Stranded);
        homes.set(name, Some(host().1), after(380));
        homes.replace(BTreeMap::new(), after(400));
        assert_eq!(homes.fate(&volume, after(459)), Fate::Uncertain);
        assert_eq!(homes.fate(&volume, after(460)), Fate::Stranded);
    }

    #[test]
    fn what_is_remembered_of_hosts_that_went_is_bounded() {
        let began = Instant::now();
        let mut homes = Homes::new(BTreeMap::new(), began);
        for number in 0..MOST_GONE + 10 {
            let name = format!("host-{number}");
            homes.set(&name, Some(Labels::new()), began);
            homes.set(&name, None, began + GONE_FOR);
        }
        assert!(homes.gone.len() <= MOST_GONE);
        let volume = with_terms(json!([on("kubernetes.io/hostname", "In", &["x"])]));
        let soon = began + GONE_FOR * 2 - Duration::from_secs(1);
        assert_eq!(homes.fate(&volume, soon), Fate::Uncertain);
    }
}
