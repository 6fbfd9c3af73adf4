//! Nothing is proposed that a member could not read (docs/design/node.md, pitfall 31).

use super::*;
use crate::format::{FORMAT, Formats, OLDEST};

const NEWER: u32 = FORMAT + 1;

/// Proposes an entry of a format that this build does not have yet.
fn propose_newer(core: &mut Core) -> (Turn, oneshot::Receiver<Result<Reply, Error>>) {
    let (proposal, answer) = proposal(b"newer");
    core.handle(Input::Propose(vec![Proposal { format: NEWER, ..proposal }]), Instant::now());
    (turn(core), answer)
}

#[test]
fn entry_of_a_newer_format_is_refused_until_every_member_reads_it() {
    let mut mesh = Mesh::new(1);
    let leader = mesh.elect();
    mesh.cores[leader].members.pretend(Formats::new(NEWER));
    let others = [(leader + 1) % 3, (leader + 2) % 3].map(|at| at as u64 + 1);
    let core = &mut mesh.cores[leader];
    core.handle(Input::PeerFormat { id: others[0], format: NEWER }, Instant::now());
    let last = core.status(Instant::now()).last_index;
    let (_, mut answer) = propose_newer(core);
    assert_eq!(answer.try_recv().unwrap().unwrap_err().code, ErrorCode::UpgradeInProgress);
    let status = core.status(Instant::now());
    // Nobody has heard of the other since the process began.
    assert_eq!((status.last_index, status.lowest_format), (last, OLDEST));

    core.handle(Input::PeerFormat { id: others[1], format: NEWER }, Instant::now());
    let (_, mut answer) = propose_newer(core);
    assert!(answer.try_recv().is_err(), "refused although all can read it");
    let status = core.status(Instant::now());
    assert_eq!((status.last_index, status.lowest_format), (last + 1, NEWER));
}
