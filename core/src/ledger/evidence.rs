//! Evidence of equivocation (PROTOCOL §8).
//!
//! Two statements of one key that no honest validator makes both: no challenge is needed, the signatures prove it. The whole
//! bond of the node's owner burns, with what is locked and what is still on its way back: the risk of a validator is half
//! its bond, as of everyone else, and fraud costs twice the risk. Nobody is paid for the report, so an accomplice recovers
//! nothing by reporting itself; validators report what they see without being asked. The key is good no longer, which makes
//! the first report the last.

use neuroshard_proto::Amount;
use neuroshard_proto::chain::Evidence;

use super::nodes::{Standing, retire};
use super::{Refusal, State, stake};

/// Convicts who contradicted itself. Returns what burned.
pub(super) fn report(state: &mut State, evidence: &Evidence) -> Result<Amount, Refusal> {
    let node = evidence.first.vote.validator;
    // A key that is gone already is cheaper to find out than what it signed.
    let known = state.nodes.tree.get(&node).filter(|known| known.standing != Standing::Convicted);
    let owner = known.ok_or(Refusal::Node { node })?.owner;
    evidence.convicts(state.rules.network).ok_or(Refusal::Evidence)?;
    let mut account = state.accounts.get(&owner);
    let slashed = account.slash(state.clock.protocol_ms);
    retire(state, &mut account, node, Standing::Convicted);
    stake::put(state, owner, account, slashed);
    Ok(slashed)
}
