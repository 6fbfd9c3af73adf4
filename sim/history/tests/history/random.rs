//! Thousands of random histories.

use helios_history::{History, Verdict, check};
use proptest::prelude::*;

use crate::every_order;
use crate::made::{Shape, damaged, legal};

/// Small enough for an exhaustive search.
const SMALL: Shape = Shape { operations: 7, keys: 1, overlap: 3, unknown_percent: 25, values: 3 };
const LARGE: Shape = Shape { operations: 200, keys: 3, overlap: 6, unknown_percent: 10, values: 5 };

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sequential_execution_spread_over_time_is_legal(seed: u64) {
        let verdict = check(&legal(seed, LARGE));
        prop_assert!(verdict.is_legal(), "{verdict}");
    }

    #[test]
    fn history_reads_back_from_json(seed: u64) {
        let history = damaged(seed, LARGE);
        prop_assert_eq!(History::from_json(&history.to_porcupine_json()).unwrap(), history);
    }
}

#[test]
fn small_histories_get_the_verdict_of_an_exhaustive_search() {
    let mut illegal = 0;
    for seed in 0..6_000_u64 {
        // With many values most are unique, with few they are ambiguous.
        let values = if seed.is_multiple_of(3) { 50 } else { 3 };
        let shape = Shape { keys: 1 + seed % 2, overlap: 1 + seed % 5, values, ..SMALL };
        let history = damaged(seed, shape);
        let verdict = check(&history);
        let expected = every_order::is_legal(&history);
        assert_eq!(verdict.is_legal(), expected, "seed {seed}: {verdict}\n{}", history.to_porcupine_json());
        assert!(!matches!(verdict, Verdict::Unknown { .. }), "seed {seed}");
        illegal += u32::from(!expected);
    }
    assert!((1_000..5_000).contains(&illegal), "{illegal} of 6000 are illegal: not a fair sample");
}
