//! A disk whose fsyncs fail (docs/design/node.md, pitfall 4). strace injects the errors, so the tested
//! program is the shipped one. Needs strace and the right to trace.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use crate::common::{Cluster, Load, Node, eventually};

const EX_IOERR: i32 = 74;

/// A tracer that makes every fsync of a process fail until dropped.
struct FailingSyncs(Child);

impl FailingSyncs {
    /// Attaches to `node`; `None` where processes cannot be traced. Returns once every thread is traced or
    /// the process has ended, because under load its first failed fsync follows at once. strace exits with an
    /// error only when it cannot attach.
    async fn of(node: &Node) -> Option<Self> {
        let pid = node.pid().load(Ordering::Relaxed);
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()])
            .args(["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO"])
            .stderr(Stdio::null())
            .spawn();
        let mut tracer = Self(child.ok()?);
        eventually("every thread is traced, or none can be", async || match tracer.0.try_wait().unwrap() {
            Some(status) => Some(status.success().then_some(())),
            None => is_traced(pid).then_some(Some(())),
        })
        .await
        .map(|()| tracer)
    }
}

impl Drop for FailingSyncs {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn is_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("status"))).all(|status| {
        // A thread that ended meanwhile needs no tracer.
        status.map_or(true, |status| !status.contains("TracerPid:\t0\n"))
    })
}

fn skip() {
    helios_testing::skip_or_fail("strace", "no process can be traced here; install strace and run as root");
}

#[tokio::test]
async fn failed_fsync_ends_the_process_and_acknowledges_nothing() {
    let mut cluster = Cluster::fixed(1);
    cluster.start_all();
    cluster.wait_ready().await;
    let mut client = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("before").arg("kept").query_async(&mut client).await.unwrap();
    let Some(failing) = FailingSyncs::of(&cluster[0]).await else { return skip() };
    let answer = redis::cmd("SET").arg("after").arg("x").query_async::<String>(&mut client).await;
    assert!(answer.is_err(), "acknowledged without a sync: {answer:?}");
    let status = cluster[0].ended().await;
    assert_eq!(status.code(), Some(EX_IOERR), "{status}");
    assert!(cluster[0].log().contains("this node cannot go on"));
    drop(failing);

    cluster.start_all();
    cluster.wait_ready().await;
    let mut client = cluster[0].redis().await;
    let kept: String = redis::cmd("GET").arg("before").query_async(&mut client).await.unwrap();
    assert_eq!(kept, "kept");
}

#[tokio::test]
async fn leader_with_failing_fsyncs_is_replaced_without_losing_acknowledged_writes() {
    let mut cluster = Cluster::of_three().await;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(100).await;
    let leader = cluster.leader().await;
    let Some(failing) = FailingSyncs::of(&cluster[leader]).await else { return skip() };
    assert_eq!(cluster[leader].ended().await.code(), Some(EX_IOERR));
    drop(failing);
    load.wait_for(100).await;
    cluster[leader].start();
    cluster[leader].wait_ready().await;
    load.finish().await.assert_kept(&cluster.agreed_data().await);
}
