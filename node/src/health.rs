//! The health checker: judges the other members by their last contact. The leader hears all of them, a follower hears
//! the leader only. Pure.

use std::time::Duration;

use helios_proto::v1::{Health, PeerHealth, Progress};

use crate::metrics::Heard;
use crate::raft::RaftStatus;

/// Lag behind the leader's log, in entries, above which a member that answers is degraded.
const DEGRADED_LAG: u64 = 1_000;

/// Health of each peer of `own`, from the time of its last contact relative to the minimum election timeout.
pub fn of_peers(status: &RaftStatus, own: u64, heard: &[Heard], election_min: Duration) -> Vec<PeerHealth> {
    let others = status.membership.members.iter().filter(|member| member.id != own);
    let one = |member: &helios_proto::v1::Member| {
        let heard = heard.iter().find(|heard| heard.id == member.id);
        let silence = heard.and_then(|heard| heard.silence);
        let progress = status.progress.iter().find(|progress| progress.id == member.id);
        let lag = progress.map(|progress| status.last_index.saturating_sub(progress.match_index));
        let is_heard_of = progress.is_some() || member.id == status.leader_id;
        let health = if is_heard_of { judge(silence, lag, progress, election_min) } else { Health::Unknown };
        PeerHealth {
            id: member.id,
            health: health.into(),
            last_contact_ms: silence.map(helios_service::time::whole_ms),
            consecutive_errors: heard.map_or(0, |heard| heard.consecutive_errors),
            lag_entries: lag,
        }
    };
    others.map(one).collect()
}

fn judge(
    silence: Option<Duration>,
    lag: Option<u64>,
    progress: Option<&Progress>,
    election_min: Duration,
) -> Health {
    let receives = progress.is_some_and(|progress| progress.snapshotting);
    let lags = lag.is_some_and(|lag| lag > DEGRADED_LAG);
    match silence {
        Some(silence) if silence < election_min && !lags && !receives => Health::Healthy,
        Some(silence) if silence < 2 * election_min => Health::Degraded,
        _ => Health::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use helios_proto::v1::{Member, Membership};

    use super::*;

    const ELECTION_MIN: Duration = Duration::from_millis(300);
    const LAST: u64 = 5_000;

    fn of_three(leader_id: u64, progress: Vec<Progress>) -> RaftStatus {
        let members = (1..=3).map(|id| Member { id, ..Member::default() }).collect();
        let membership = Arc::new(Membership { members, ..Membership::default() });
        RaftStatus { leader_id, last_index: LAST, membership, progress, ..RaftStatus::default() }
    }

    /// Returns the health of member 2 as the leader, member 1, judges it.
    fn judged(silence_ms: Option<u64>, lag: u64, snapshotting: bool) -> Health {
        let progress = Progress { id: 2, match_index: LAST - lag, snapshotting, ..Progress::default() };
        let heard = Heard { id: 2, silence: silence_ms.map(Duration::from_millis), consecutive_errors: 0 };
        of_peers(&of_three(1, vec![progress]), 1, &[heard], ELECTION_MIN)[0].health()
    }

    #[test]
    fn health_of_a_peer_depends_on_silence_lag_and_snapshot_transfer() {
        assert_eq!(judged(Some(299), 1_000, false), Health::Healthy);
        assert_eq!(judged(Some(300), 0, false), Health::Degraded);
        assert_eq!(judged(Some(0), 1_001, false), Health::Degraded);
        assert_eq!(judged(Some(0), 0, true), Health::Degraded);
        assert_eq!(judged(Some(599), 0, false), Health::Degraded);
        assert_eq!(judged(Some(600), 0, false), Health::Unreachable);
        assert_eq!(judged(None, 0, false), Health::Unreachable);
    }

    #[test]
    fn a_follower_judges_its_leader_only() {
        let heard =
            [1, 3].map(|id| Heard { id, silence: Some(Duration::from_millis(100)), consecutive_errors: id });
        let peers = of_peers(&of_three(1, Vec::new()), 2, &heard, ELECTION_MIN);
        let of = |index: usize| (peers[index].id, peers[index].health(), peers[index].consecutive_errors);
        assert_eq!((of(0), of(1)), ((1, Health::Healthy, 1), (3, Health::Unknown, 3)));
        assert_eq!((peers[0].last_contact_ms, peers[0].lag_entries), (Some(100), None));
    }
}
