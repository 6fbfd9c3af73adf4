//! Long reads on the leader: concurrent writes continue, and the leader keeps its leadership.

use std::time::{Duration, Instant};

use crate::common::{Cluster, Load};

/// Length of the list. `HELIOS_TEST_ELEMENTS=1000000` is the figure of interest, and takes minutes to load in
/// a debug build.
const ELEMENTS: usize = 100_000;
const READS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn long_ranges_on_the_leader_neither_depose_it_nor_delay_writers() {
    let elements = std::env::var("HELIOS_TEST_ELEMENTS").map_or(ELEMENTS, |text| text.parse().unwrap());
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let mut redis = cluster[leader].redis().await;
    for first in (0..elements).step_by(5_000) {
        let chunk: Vec<_> = (first..elements.min(first + 5_000)).map(|n| format!("element {n}")).collect();
        redis::cmd("RPUSH").arg("list").arg(chunk).query_async::<()>(&mut redis).await.unwrap();
    }
    let term = cluster[leader].status().await.term;
    let loads = [0, 1].map(|_| Load::start(&[cluster[leader].ports.client]));
    let begun = Instant::now();
    for _ in 0..READS {
        let range: Vec<redis::Value> =
            redis::cmd("LRANGE").arg("list").arg(0).arg(-1).query_async(&mut redis).await.unwrap();
        assert_eq!(range.len(), elements);
    }
    let taken = begun.elapsed();
    for load in loads {
        let report = load.finish().await;
        println!(
            "{READS} x LRANGE of {elements}: {taken:?}; {} writes by 4 writers, the longest took {:?}",
            report.written.len(),
            report.longest
        );
        assert_eq!(report.failures, 0);
        // Order of magnitude only: the test fails if one read delays every write until it is done.
        assert!(report.longest < taken.max(Duration::from_secs(2)), "{:?}", report.longest);
    }
    assert_eq!(cluster[leader].status().await.term, term, "the leader was deposed");
}
