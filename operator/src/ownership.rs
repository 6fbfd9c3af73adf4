//! Owner of an object that has a name which the operator uses. **What is not of this HeliosCluster is never adopted,
//! changed or deleted**: a name proves nothing, since anybody who may create objects in the namespace can take it
//! first. Pure.

use std::fmt;

use helios_crds::{CLUSTER_LABEL, CLUSTER_UID_LABEL, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::names;
use crate::security::Problem;

/// Named in a message; of more, their number.
const MOST_NAMED: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This HeliosCluster, by UID.
    Us,
    /// A HeliosCluster of this name that was deleted: Kubernetes is about to delete the object, too.
    Predecessor,
    /// Somebody else, as `Kind name`; `None` when no controller owns it.
    Other(Option<String>),
}

/// The owner of the object with this `metadata`, seen from the HeliosCluster that `us` refers to.
pub fn owner(metadata: &ObjectMeta, us: &OwnerReference) -> Owner {
    match controller(metadata) {
        Some(controller) if controller.uid == us.uid => Owner::Us,
        Some(controller) if controller.kind == us.kind && controller.name == us.name => Owner::Predecessor,
        None if is_handed_over(metadata, us) => Owner::Us,
        controller => Owner::other(controller),
    }
}

impl Owner {
    fn other(controller: Option<&OwnerReference>) -> Self {
        Self::Other(controller.map(|owner| format!("{} {}", owner.kind, owner.name)))
    }
}

fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The UID is unknown before the HeliosCluster exists, so the label cannot have been planted for it.
fn is_handed_over(metadata: &ObjectMeta, us: &OwnerReference) -> bool {
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    label(CLUSTER_LABEL) == Some(&us.name) && label(CLUSTER_UID_LABEL) == Some(&us.uid)
}

/// Owner of a pod or claim of this name other than the StatefulSet of `cluster`; `None` when it may belong to that.
/// Without a controller one with the labels is on its way to the StatefulSet, or was kept from an earlier one.
pub fn of_another_workload(metadata: &ObjectMeta, cluster: &str) -> Option<Owner> {
    let labels = metadata.labels.as_ref();
    let is_selected = names::selector(cluster)
        .iter()
        .all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)));
    let controller = controller(metadata);
    let is_ours = controller.is_none_or(|owner| owner.kind == "StatefulSet" && owner.name == cluster);
    (!is_selected || !is_ours).then(|| Owner::other(controller))
}

/// A foreign object under a name that the operator would use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub kind: String,
    pub name: String,
    pub by: Owner,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, by } = self;
        match by {
            Owner::Other(Some(owner)) => write!(f, "{kind} {name} (of {owner})"),
            Owner::Predecessor => write!(f, "{kind} {name} (of an earlier HeliosCluster of this name)"),
            Owner::Us | Owner::Other(None) => write!(f, "{kind} {name}"),
        }
    }
}

impl Taken {
    /// Members cannot run as they should without ours: they would get a configuration, an identity, keys or a volume
    /// that somebody else decides. The others only lack a way in, or a fence.
    fn is_essential(&self, cluster: &str) -> bool {
        match self.kind.as_str() {
            "Service" => self.name == names::peers_service(cluster),
            "PodDisruptionBudget" | "NetworkPolicy" | "Deployment" | "Job" => false,
            _ => true,
        }
    }
}

/// Problem to report for `taken`; `None` when all names are free or ours. `runs`: the StatefulSet is there and
/// ours. Before that nothing is created at all; afterwards only what is essential holds everything else.
pub fn problem(taken: &[Taken], us: &OwnerReference, runs: bool) -> Option<Problem> {
    if taken.is_empty() {
        return None;
    }
    let blocks = !runs || taken.iter().any(|it| it.is_essential(&us.name));
    let mut named: Vec<_> = taken.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if taken.len() > MOST_NAMED {
        named.push(format!("{} more", taken.len() - MOST_NAMED));
    }
    let named = named.join(", ");
    let message = if taken.iter().all(|it| it.by == Owner::Predecessor) {
        format!("waiting until Kubernetes has deleted what is left of an earlier HeliosCluster: {named}")
    } else {
        format!(
            "not of this HeliosCluster, and left alone: {named}. Delete it or give it another name, or recreate this \
             HeliosCluster under another name; to hand it over instead, label it {CLUSTER_LABEL}={} and \
             {CLUSTER_UID_LABEL}={}",
            us.name, us.uid
        )
    };
    Some(match blocks {
        true => Problem::blocking(Reason::NameTaken, message),
        false => Problem::warning(Reason::NameTaken, message),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn reference(kind: &str, name: &str, uid: &str) -> OwnerReference {
        OwnerReference {
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }
    }

    fn us() -> OwnerReference {
        reference("HeliosCluster", "demo", "1")
    }

    fn owned_by(reference: OwnerReference) -> ObjectMeta {
        ObjectMeta { owner_references: Some(vec![reference]), ..ObjectMeta::default() }
    }

    fn labelled(pairs: &[(&str, &str)]) -> ObjectMeta {
        let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ObjectMeta { labels: Some(labels.collect::<BTreeMap<_, _>>()), ..ObjectMeta::default() }
    }

    fn taken(kind: &str, name: &str, by: Owner) -> Taken {
        Taken { kind: kind.to_owned(), name: name.to_owned(), by }
    }

    #[test]
    fn object_is_ours_by_uid_and_not_by_name() {
        assert_eq!(owner(&owned_by(us()), &us()), Owner::Us, "as every operator before this one made it");
        let other = reference("HeliosCluster", "demo-leader", "2");
        let named = Owner::Other(Some("HeliosCluster demo-leader".to_owned()));
        assert_eq!(owner(&owned_by(other), &us()), named);
        assert_eq!(owner(&owned_by(reference("HeliosCluster", "demo", "0")), &us()), Owner::Predecessor);
        assert_eq!(owner(&ObjectMeta::default(), &us()), Owner::Other(None));
        let not_the_controller = OwnerReference { controller: None, ..us() };
        assert_eq!(owner(&owned_by(not_the_controller), &us()), Owner::Other(None));
    }

    #[test]
    fn label_hands_an_object_over_only_with_the_uid_and_without_a_controller() {
        let (cluster, uid) = ((CLUSTER_LABEL, "demo"), (CLUSTER_UID_LABEL, "1"));
        assert_eq!(owner(&labelled(&[cluster]), &us()), Owner::Other(None), "anybody can plant a name");
        assert_eq!(owner(&labelled(&[uid]), &us()), Owner::Other(None));
        assert_eq!(owner(&labelled(&[cluster, (CLUSTER_UID_LABEL, "0")]), &us()), Owner::Other(None));
        let handed_over = labelled(&[cluster, uid]);
        assert_eq!(owner(&handed_over, &us()), Owner::Us);
        let of_another = owned_by(reference("Deployment", "app", "9"));
        let both = ObjectMeta { labels: handed_over.labels, ..of_another };
        assert_eq!(owner(&both, &us()), Owner::Other(Some("Deployment app".to_owned())));
    }

    #[test]
    fn pod_or_claim_is_foreign_when_it_has_another_controller() {
        let labels = Some(names::labels("demo"));
        let of = |controller: Option<OwnerReference>| {
            let owner_references = controller.map(|owner| vec![owner]);
            let claim = ObjectMeta { labels: labels.clone(), owner_references, ..ObjectMeta::default() };
            of_another_workload(&claim, "demo")
        };
        assert_eq!(of(Some(reference("StatefulSet", "demo", "5"))), None);
        assert_eq!(of(None), None, "retained, or just orphaned");
        for (kind, name) in [("StatefulSet", "other"), ("ReplicaSet", "demo")] {
            let other = of(Some(reference(kind, name, "5")));
            assert_eq!(other, Some(Owner::Other(Some(format!("{kind} {name}")))));
        }
        let unlabelled = of_another_workload(&ObjectMeta::default(), "demo");
        assert_eq!(unlabelled, Some(Owner::Other(None)), "the StatefulSet would mount it all the same");
    }

    #[test]
    fn taken_name_blocks_a_new_cluster_and_not_a_running_one() {
        let stranger = |kind: &str, name: &str| [taken(kind, name, Owner::Other(None))];
        let blocks = |taken: &[Taken], runs| problem(taken, &us(), runs).unwrap().blocks;
        assert_eq!(problem(&[], &us(), false), None);
        for (kind, name) in [("Service", "demo"), ("PodDisruptionBudget", "demo"), ("NetworkPolicy", "demo")]
        {
            assert!(blocks(&stranger(kind, name), false), "{kind} {name}");
            assert!(!blocks(&stranger(kind, name), true), "{kind} {name}");
        }
        for (kind, name) in [
            ("Service", "demo-peers"),
            ("ServiceAccount", "demo"),
            ("ConfigMap", "demo"),
            ("Secret", "demo-ca"),
            ("PersistentVolumeClaim", "data-demo-3"),
        ] {
            assert!(blocks(&stranger(kind, name), true), "{kind} {name}");
        }
    }

    #[test]
    fn taken_message_has_the_objects_and_the_remedy() {
        let one = [taken("Service", "demo", Owner::Other(Some("Deployment app".to_owned())))];
        let message = problem(&one, &us(), false).unwrap().message;
        for words in ["Service demo (of Deployment app)", "another name", "heliosdb.io/cluster-uid=1"] {
            assert!(message.contains(words), "{message}");
        }
        let many: Vec<_> = (0..9).map(|n| taken("Secret", &format!("s{n}"), Owner::Other(None))).collect();
        let message = problem(&many, &us(), false).unwrap().message;
        assert!(message.contains("Secret s2, 6 more") && !message.contains("s3"), "{message}");
        let left = [taken("StatefulSet", "demo", Owner::Predecessor)];
        assert!(problem(&left, &us(), false).unwrap().message.starts_with("waiting until Kubernetes"));
    }
}
