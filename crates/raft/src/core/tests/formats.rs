//! Tests that a leader proposes only entries that all members can read (docs/design/node.md, pitfall 31).

use helios_proto::v1::Command;
use helios_state::commands::{self, WITH_IDS, legacy};
use prost::Message as _;

use super::*;
use crate::format::{self, FORMAT, Formats, OLDEST};

const NEWER: u32 = FORMAT + 1;

/// Proposes an entry of a format that this build does not have yet.
fn propose_newer(core: &mut Core) -> (Turn, oneshot::Receiver<Result<Reply, Error>>) {
    let (proposal, answer) = proposal(b"newer");
    core.handle(Input::Propose(vec![Proposal { format: NEWER, ..proposal }]), Instant::now());
    (turn(core), answer)
}

#[test]
fn an_entry_that_a_member_cannot_read_is_rejected_until_that_member_is_upgraded() {
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
    // The other member has reported no format since the start of the process.
    assert_eq!((status.last_index, status.lowest_format), (last, OLDEST));

    core.handle(Input::PeerFormat { id: others[1], format: NEWER }, Instant::now());
    let (_, mut answer) = propose_newer(core);
    assert!(answer.try_recv().is_err(), "refused although all can read it");
    let status = core.status(Instant::now());
    assert_eq!((status.last_index, status.lowest_format), (last + 1, NEWER));
}

#[test]
fn entry_names_the_budget_of_chunks_once_the_last_member_reads_log_format_8() {
    let mut mesh = Mesh::new(1);
    let leader = mesh.elect();
    let others = [(leader + 1) % 3, (leader + 2) % 3].map(|at| at as u64 + 1);
    let core = &mut mesh.cores[leader];
    let mut budget_with = |format: u32| {
        core.handle(Input::PeerFormat { id: others[0], format: FORMAT }, Instant::now());
        core.handle(Input::PeerFormat { id: others[1], format }, Instant::now());
        let command = Command { op: Some(commands::persist("k".into())), ..Command::default() };
        let (proposal, _answer) = proposal(&command.encode_to_vec());
        core.handle(Input::Propose(vec![proposal]), Instant::now());
        let appended = turn(core).appended;
        let data = &appended.last().unwrap().data;
        (Command::decode(data.as_slice()).unwrap().budget, format::needs_mark(data))
    };
    assert_eq!(budget_with(format::CHUNKS - 1), (helios_state::FEWEST_VISITS, false));
    assert_eq!(budget_with(format::CHUNKS), (helios_state::CHUNKS, true));
    // A member of an earlier build has joined, or one was replaced by it.
    assert_eq!(budget_with(format::CHUNKS - 1), (helios_state::FEWEST_VISITS, false));
}

#[test]
fn a_call_by_id_is_rejected_while_a_member_reads_no_ids_and_its_older_form_is_not() {
    let mut mesh = Mesh::new(1);
    let leader = mesh.elect();
    let others = [(leader + 1) % 3, (leader + 2) % 3].map(|at| at as u64 + 1);
    let core = &mut mesh.cores[leader];
    core.handle(Input::PeerFormat { id: others[0], format: WITH_IDS }, Instant::now());
    core.handle(Input::PeerFormat { id: others[1], format: WITH_IDS - 1 }, Instant::now());
    let command = Command { op: Some(commands::persist("k".into())), ..Command::default() };
    let propose = |core: &mut Core, command: &Command| {
        let (proposal, mut answer) = proposal(&command.encode_to_vec());
        let format = format::of(command).unwrap();
        core.handle(Input::Propose(vec![Proposal { format, ..proposal }]), Instant::now());
        turn(core);
        answer.try_recv().ok().map(|outcome| outcome.unwrap_err().code)
    };
    assert_eq!(propose(core, &command), Some(ErrorCode::UpgradeInProgress));
    let mut lowered = command.clone();
    legacy::lower(&mut lowered, core.status(Instant::now()).lowest_format);
    assert_eq!(propose(core, &lowered), None);

    core.handle(Input::PeerFormat { id: others[1], format: WITH_IDS }, Instant::now());
    assert_eq!(propose(core, &command), None);
}
