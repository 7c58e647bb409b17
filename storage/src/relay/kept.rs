//! The other way to a relay: from an instance that keeps what the store did not take.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::follow::{Copied, Order, Relay};
use crate::intake::Intake;
use crate::kept::SpooledAt;
use crate::peers::{PeerError, RelayAsk, RelayReply, Relayed};
use crate::turn::Wait;
use crate::warmer::Core;

/// The longest that an instance may take to answer for what it has whole; it may have to check it
/// first.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Takes the bytes of `unit` from the instance that keeps them; tells whether all of them are here
/// and verified.
///
/// Whatever goes wrong leaves what clients have been shown to be gone on from.
pub(crate) async fn from_keeper(
    core: &Arc<Core>,
    unit: &str,
    intake: &mut Intake,
    at: &SpooledAt,
) -> bool {
    let is_asked = core.config.relay && core.peers.is_on() && !core.distrusted.contains(&at.token);
    if !is_asked || core.turns.holder.address.as_deref() == Some(&at.address) {
        return false;
    }
    let from = match intake.is_shown() {
        true => intake.received(),
        false => 0,
    };
    let relayed = match open(core, unit, at, from).await {
        Ok(relayed) => relayed,
        Err(end) => {
            core.metrics.count_relay(end);
            return false;
        }
    };
    let (_orders, orders) = watch::channel(Order::Follow);
    let wait = Wait::default();
    let mut relay = Relay {
        core,
        unit,
        intake,
        wait: &wait,
        orders,
    };
    let (end, is_whole) = match relay.copy(relayed, from).await {
        Copied::Whole => ("whole", true),
        Copied::Broken => ("broken", false),
        Copied::Stopped => ("stopped", false),
        Copied::Corrupt => {
            core.distrusted.add(at.token);
            ("corrupt", false)
        }
    };
    core.metrics.count_relay(end);
    is_whole
}

async fn open(core: &Core, unit: &str, at: &SpooledAt, from: u64) -> Result<Relayed, &'static str> {
    let ask = RelayAsk {
        unit: unit.to_owned(),
        token: at.token,
        from,
    };
    let asking = core.peers.open(&at.address, &ask);
    let end = match lease::timeout(&*core.clock, ANSWERED_WITHIN, asking).await {
        Some(Ok(RelayReply::Arriving(relayed))) if relayed.len == Some(at.len) => {
            return Ok(relayed);
        }
        Some(Ok(RelayReply::Arriving(_))) => "corrupt",
        Some(Ok(RelayReply::Nothing | RelayReply::Unknown)) => "unknown",
        Some(Err(PeerError::Refused)) => "refused",
        Some(Err(PeerError::Unreachable { .. })) | None => "unreachable",
    };
    tracing::debug!(
        unit,
        keeper = at.address,
        end,
        "kept bytes are out of reach"
    );
    Err(end)
}
