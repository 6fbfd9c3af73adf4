//! A story: a test in its own namespace, with a cluster and measured figures.

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

/// Longest deletion of a namespace: members end within their grace period of a minute after the signal.
const DELETE_TIMEOUT: &str = "--timeout=150s";

/// Size of volumes that a story does not fill.
pub const SMALL: &str = "256Mi";

pub struct Story {
    pub kubectl: Kubectl,
    pub images: Images,
    name: &'static str,
}

impl Story {
    /// Returns the namespace of the story `name`.
    pub fn namespace(name: &str) -> String {
        format!("story-{}", name.replace('_', "-"))
    }

    /// Creates the namespace, runs the story, and deletes the namespace. When the story fails, it first
    /// prints the cluster's state and logs.
    ///
    /// # Errors
    /// Errors of `body`, and of creating and deleting the namespace.
    pub fn run(name: &'static str, body: impl FnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        // The harness has printed the story's name without a line end.
        println!();
        let began = Instant::now();
        let kubectl = Kubectl::new(Self::namespace(name));
        let story = Self { kubectl, images: Images::from_environment()?, name };
        story.make_namespace()?;
        let logs = Logs::follow(&story.kubectl)?;
        let result = body(&story);
        if let Err(error) = &result {
            println!("{error:#}\n{}{logs}", story.diagnosis());
        }
        drop(logs);
        // Kubernetes takes long to delete a namespace, and the next story does not need this one.
        let removed = story.remove_namespace("--wait=false");
        result?;
        removed?;
        story.say(&format!("done in {:.0} s", began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Prints a line of the story's result.
    pub fn say(&self, text: &str) {
        println!("    {text}");
    }

    /// Prints the duration until `what` and adds it to the table at the end.
    pub fn took(&self, what: &str, time: Duration) {
        self.say(&format!("{what}: {:.1} s", time.as_secs_f64()));
        table::note_time(self.name, what, time);
    }

    /// Creates a ready cluster `demo` of three members with small volumes and the fields of `spec`.
    ///
    /// # Errors
    /// As [`Cluster::create`].
    pub fn cluster(&self, spec: Value) -> anyhow::Result<Cluster> {
        self.cluster_named("demo", spec)
    }

    /// As [`Self::cluster`], with another name.
    ///
    /// # Errors
    /// As [`Cluster::create`].
    pub fn cluster_named(&self, name: &str, mut spec: Value) -> anyhow::Result<Cluster> {
        if spec.get("storage").is_none() {
            spec["storage"] = json!({"size": SMALL});
        }
        Cluster::create(&self.kubectl, name, spec)
    }

    /// Starts a steady load on the cluster's Service.
    ///
    /// # Errors
    /// As [`Writer::start`].
    pub fn writer(&self, cluster: &Cluster) -> anyhow::Result<Writer> {
        Writer::start(&self.kubectl, &self.images.writer, &cluster.name)
    }

    /// Starts a steady load on one member at its own address, from the node that `beside` runs on.
    ///
    /// # Errors
    /// As [`Writer::start`].
    pub fn writer_to(&self, cluster: &Cluster, member: &str, beside: &Writer) -> anyhow::Result<Writer> {
        let host = format!("{member}.{}-peers", cluster.name);
        beside.start_beside(&self.images.writer, member, &cluster.name, &host)
    }

    /// Ends a part of the story: returns the writes since the previous part.
    ///
    /// # Errors
    /// When the writer does not answer.
    pub fn part(&self, part: &str, writer: &Writer) -> anyhow::Result<Window> {
        // Waits for the first writes after the part, or else a gap would end only in the next part.
        writer.await_writes(100)?;
        let window = writer.mark()?;
        self.say(&format!("{part}: {}", describe(&window)));
        for (text, count) in &window.errors {
            self.say(&format!("    {count} x {text}"));
        }
        table::note_writes(self.name, part, window.clone());
        Ok(window)
    }

    /// As [`Self::part`], for a part in which no write may fail.
    ///
    /// # Errors
    /// When a write failed.
    pub fn part_without_failure(&self, part: &str, writer: &Writer) -> anyhow::Result<Window> {
        let window = self.part(part, writer)?;
        ensure!(
            window.failed == 0,
            "{part}: {} writes failed for a client that retries for a second",
            window.failed
        );
        Ok(window)
    }

    /// Ends the load and checks that no acknowledged write is missing and that all answers are linearizable.
    ///
    /// # Errors
    /// When the check fails.
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
        // The namespace may be left over from an interrupted run, or still be terminating.
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
        let mut show = |title: &str, arguments: &[&str]| {
            let found = self.kubectl.run(arguments).unwrap_or_else(|error| error.to_string());
            text += &format!("--- {title}\n{found}\n");
        };
        show("pods and volumes", &["get", "pods,pvc", "--output=wide"]);
        show("events", &["get", "events", "--sort-by=.lastTimestamp"]);
        show("HeliosClusters", &["get", "hc", "--output=yaml"]);
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

/// Checks a time limit.
///
/// # Errors
/// When `took` exceeds `limit`.
pub fn within(what: &str, took: Duration, limit: Duration) -> anyhow::Result<()> {
    ensure!(took <= limit, "{what} took {:.1} s, more than {:.1} s", took.as_secs_f64(), limit.as_secs_f64());
    Ok(())
}
