//! Linearizability by its definition, as an exhaustive search: whether any order of the operations of all
//! keys respects the times and explains the answers of a database without replicas. No cache, no rules, no
//! split by key.

use helios_history::{History, Operation, Outcome};

use crate::made::{Database, execute};

pub fn is_legal(history: &History) -> bool {
    let happened = |operation: &&Operation| operation.outcome != Outcome::Failed;
    try_all(&Database::new(), &history.operations().iter().filter(happened).collect::<Vec<_>>())
}

fn try_all(database: &Database, left: &[&Operation]) -> bool {
    let end = |operation: &Operation| match operation.outcome {
        Outcome::Ok { returned, .. } => returned,
        _ => u64::MAX,
    };
    left.iter().all(|operation| operation.outcome == Outcome::Maybe)
        || left.iter().enumerate().any(|(index, operation)| {
            let is_first = left.iter().all(|other| operation.invoked <= end(other));
            let mut after = database.clone();
            let actual = execute(&mut after, &operation.key, &operation.op);
            let is_answer = match &operation.outcome {
                Outcome::Ok { answer, .. } => actual.as_ref() == Some(answer),
                _ => true,
            };
            is_first && is_answer && try_all(&after, &[&left[..index], &left[index + 1..]].concat())
        })
}
