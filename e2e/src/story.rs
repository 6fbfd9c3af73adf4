//! A story: a namespace of its own, a cluster in it, and what it has to say in figures.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::images::Images;
use crate::kubectl::Kubectl;
use crate::logs::Logs;
use crate::operator::Operator;
use crate::report::Window;
use crate::table;
use crate::writer::Writer;

/// Members end by themselves after a signal, at most after their grace period of a minute.
const DELETE_TIMEOUT: &str = "--timeout=150s";

/// Size of volumes that no story fills.
pub const SMALL: &str = "256Mi";

pub struct Story {
    pub kubectl: Kubectl,
    pub images: Images,
    name: &'static str,
}

impl Story {
    /// The namespace of the story `name`.
    pub fn namespace(name: &str) -> String {
        format!("story-{}", name.replace('_', "-"))
    }

    /// Makes the namespace, tells the story, and removes the namespace. Of a story that failed it first
    /// prints all there is to know.
    ///
    /// # Errors
    /// Those of `tell`, and of making and removing the namespace.
    pub fn run(name: &'static str, tell: impl FnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        // The harness has begun a line with the story's name.
        println!();
        let began = Instant::now();
        let kubectl = Kubectl::new(Self::namespace(name));
        let story = Self { kubectl, images: Images::from_environment()?, name };
        story.make_namespace()?;
        let logs = Logs::follow(&story.kubectl)?;
        let told = tell(&story);
        if let Err(error) = &told {
            println!("{error:#}\n{}{logs}", story.diagnosis());
        }
        drop(logs);
        // Kubernetes takes its time to find a namespace empty, and the next story needs none of this one's.
        let removed = story.remove_namespace("--wait=false");
        told?;
        removed?;
        story.say(&format!("told in {:.0} s", began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// A line of the story's result.
    pub fn say(&self, text: &str) {
        println!("    {text}");
    }

    /// A line of the story's result, and of the table at the end: how long it was until `what`.
    pub fn took(&self, what: &str, time: Duration) {
        self.say(&format!("{what}: {:.1} s", time.as_secs_f64()));
        table::note_time(self.name, what, time);
    }

    /// A ready cluster `demo` of three members with small volumes and, beside that, `spec`.
    ///
    /// # Errors
    /// As [`Cluster::create`].
    pub fn cluster(&self, spec: Value) -> anyhow::Result<Cluster> {
        self.cluster_named("demo", spec)
    }

    /// As [`Self::cluster`], by another name.
    ///
    /// # Errors
    /// As [`Cluster::create`].
    pub fn cluster_named(&self, name: &str, mut spec: Value) -> anyhow::Result<Cluster> {
        if spec.get("storage").is_none() {
            spec["storage"] = json!({"size": SMALL});
        }
        Cluster::create(&self.kubectl, name, spec)
    }

    /// A steady load on the cluster's Service.
    ///
    /// # Errors
    /// As [`Writer::start`].
    pub fn writer(&self, cluster: &Cluster) -> anyhow::Result<Writer> {
        Writer::start(&self.kubectl, &self.images.writer, &cluster.name)
    }

    /// A steady load on one member by its own address, from the node that `beside` runs on.
    ///
    /// # Errors
    /// As [`Writer::start`].
    pub fn writer_to(&self, cluster: &Cluster, member: &str, beside: &Writer) -> anyhow::Result<Writer> {
        let host = format!("{member}.{}-peers", cluster.name);
        beside.start_beside(&self.images.writer, member, &cluster.name, &host)
    }

    /// Ends a part of the story: what became of the writes since the part before.
    ///
    /// # Errors
    /// When the writer does not answer.
    pub fn part(&self, part: &str, writer: &Writer) -> anyhow::Result<Window> {
        // With the first writes after it, or else a gap would end only in the next part.
        writer.await_writes(100)?;
        let window = writer.mark()?;
        self.say(&format!("{part}: {}", describe(&window)));
        for (text, count) in &window.errors {
            self.say(&format!("    {count} x {text}"));
        }
        table::note_writes(self.name, part, window.clone());
        Ok(window)
    }

    /// As [`Self::part`], of a part in which no write may fail.
    ///
    /// # Errors
    /// When one did.
    pub fn part_without_failure(&self, part: &str, writer: &Writer) -> anyhow::Result<Window> {
        let window = self.part(part, writer)?;
        ensure!(
            window.failed == 0,
            "{part}: {} writes failed for a client that retries for a second",
            window.failed
        );
        Ok(window)
    }

    /// Ends the load; no acknowledged write may be missing, and no answer may contradict another.
    ///
    /// # Errors
    /// When one is.
    pub fn nothing_is_lost(&self, writer: Writer) -> anyhow::Result<()> {
        let report = writer.stop()?;
        ensure!(
            report.is_intact(),
            "of {} acknowledged writes {} are missing, {} wrong, {} unreadable, for instance {}; answers: {}",
            report.window.acknowledged,
            report.missing,
            report.wrong,
            report.unread,
            report.examples.join(" "),
            report.witnessed.objection.as_deref().unwrap_or("in order")
        );
        let (writes, witnessed) = (report.window.acknowledged, report.witnessed);
        self.say(&format!(
            "all {writes} acknowledged writes are there; {} answers are linearizable ({} unknown)",
            witnessed.operations, witnessed.unknown
        ));
        Ok(())
    }

    fn make_namespace(&self) -> anyhow::Result<()> {
        // One of a run that was broken off, or that still goes.
        self.remove_namespace(DELETE_TIMEOUT)?;
        self.kubectl.apply(&json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.kubectl.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }))?;
        Ok(())
    }

    fn remove_namespace(&self, how: &str) -> anyhow::Result<()> {
        self.kubectl.run(&["delete", "namespace", &self.kubectl.namespace, "--ignore-not-found", how])?;
        Ok(())
    }

    fn diagnosis(&self) -> String {
        let mut text = String::new();
        let mut look = |title: &str, arguments: &[&str]| {
            let found = self.kubectl.run(arguments).unwrap_or_else(|error| error.to_string());
            text += &format!("--- {title}\n{found}\n");
        };
        look("pods and volumes", &["get", "pods,pvc", "--output=wide"]);
        look("events", &["get", "events", "--sort-by=.lastTimestamp"]);
        look("HeliosClusters", &["get", "hc", "--output=yaml"]);
        text + "--- operator\n"
            + &Operator::installed().map_or_else(|error| error.to_string(), |operator| operator.log())
    }
}

fn describe(window: &Window) -> String {
    let Window { acknowledged, retried, failed, longest_gap_ms, p99_ms, longest_gap_at, .. } = window;
    let since = longest_gap_at.map_or_else(String::new, |at| format!("{at:.3}"));
    format!(
        "{acknowledged} acknowledged, {retried} retried, {failed} failed, longest gap {longest_gap_ms:.0} ms from {since}, p99 {p99_ms:.1} ms"
    )
}

/// A limit in a story's own words.
///
/// # Errors
/// When `took` is longer.
pub fn within(what: &str, took: Duration, limit: Duration) -> anyhow::Result<()> {
    ensure!(took <= limit, "{what} took {:.1} s, more than {:.1} s", took.as_secs_f64(), limit.as_secs_f64());
    Ok(())
}
