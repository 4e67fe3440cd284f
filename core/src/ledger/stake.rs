//! Bonds: money at stake (PROTOCOL §8, §11).
//!
//! An owner's bond backs all of the owner's nodes and votes through one of them, the nominated one. What is taken back
//! leaves the vote at the next epoch's end and is free after seven days of protocol time; until then a slash reaches it.

use neuroshard_proto::{Amount, List, NodeId, OwnerId, mutant};

use super::accounts::{Account, UNBONDINGS_MAX, Unbonding};
use super::nodes::Standing;
use super::{Refusal, State, validators};

/// Puts balance at stake.
pub(super) fn bond(state: &mut State, owner: OwnerId, mut account: Account, amount: Amount) -> Result<Amount, Refusal> {
    if amount == Amount::ZERO {
        return Err(Refusal::Nothing);
    }
    let fee = state.rules.params.money.fee_min;
    account.pay(amount.saturating_add(fee))?;
    account.bond = account.bond.saturating_add(amount);
    put(state, owner, account, fee);
    Ok(fee)
}

/// Takes stake back. The fee may come out of what is taken back, so that an owner whose money is all at stake can do it.
pub(super) fn unbond(
    state: &mut State,
    owner: OwnerId,
    mut account: Account,
    amount: Amount,
) -> Result<Amount, Refusal> {
    if amount == Amount::ZERO {
        return Err(Refusal::Nothing);
    }
    let fee = state.rules.params.money.fee_min;
    let refusal = Refusal::Bond { wanted: amount, bonded: account.bond };
    let bond = account.bond.checked_sub(amount);
    account.bond = if mutant("bond not checked") { bond.unwrap_or_default() } else { bond.ok_or(refusal)? };
    let mut returning = amount;
    if account.pay(fee).is_err() {
        let refusal = Refusal::Funds { needed: fee, balance: account.balance };
        returning = amount.checked_sub(fee).filter(|rest| *rest > Amount::ZERO).ok_or(refusal)?;
    }
    let wait = if mutant("unbonding early") { 0 } else { state.rules.params.money.unbonding_ms };
    let free_at_ms = state.clock.protocol_ms.saturating_add(wait);
    let mut unbonding = account.unbonding.into_vec();
    unbonding.push(Unbonding { amount: returning, free_at_ms });
    account.unbonding = List::try_from(unbonding).map_err(|_| Refusal::Unbondings { max: UNBONDINGS_MAX })?;
    put(state, owner, account, fee);
    Ok(fee)
}

/// Lets another of the account's nodes vote with its bond.
pub(super) fn nominate(
    state: &mut State,
    owner: OwnerId,
    mut account: Account,
    node: NodeId,
) -> Result<Amount, Refusal> {
    let known = state.nodes.tree.get(&node).filter(|known| known.standing == Standing::Good);
    let known = known.ok_or(Refusal::Node { node })?;
    if known.owner != owner {
        return Err(Refusal::Owner { node });
    }
    let fee = state.rules.params.money.fee_min;
    account.pay(fee)?;
    let before = account.validator.replace(node);
    if let Some(before) = before.filter(|before| *before != node) {
        state.validators.edit().withdraw(&before);
    }
    put(state, owner, account, fee);
    Ok(fee)
}

/// Stores a changed account, burns what it paid and lets the validators know of its stake.
pub(super) fn put(state: &mut State, owner: OwnerId, account: Account, fee: Amount) {
    validators::follow(state, &account);
    state.accounts.edit().put(owner, account);
    state.money.edit().burn(fee);
}
