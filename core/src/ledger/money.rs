//! How much money there is (PROTOCOL §0.2).
//!
//! Conservation: `minted - burned = balances + bonds`, where bonds are what is bonded, locked or on its way back. The right
//! side is summed by the accounts as they change and recounted at every epoch's end; the left side is counted here. A
//! difference is a broken invariant, and the ledger stops rather than to go on with it.

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Amount, mutant};
use serde::{Deserialize, Serialize};

use super::State;
use super::part::Module;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Money {
    pub(super) minted: Amount,
    pub(super) burned: Amount,
}

impl Canonical for Money {}

impl Module for Money {
    const NAME: &'static str = "money";
}

impl Money {
    /// Counts money as gone that an account gave.
    pub(super) fn burn(&mut self, amount: Amount) {
        if !mutant("burn forgotten") {
            self.burned = self.burned.saturating_add(amount);
        }
    }
}

/// What a transfer costs on top (PROTOCOL §11).
pub(super) fn transfer_fee(state: &State, amount: Amount) -> Amount {
    let money = &state.rules.params.money;
    let share =
        if mutant("fee rounded down") { money.fee.of(amount.units()) } else { money.fee.of_rounded_up(amount.units()) };
    Amount::from_units(share).max(money.fee_min)
}

/// Asserts conservation.
///
/// # Panics
/// If money came from nowhere or went nowhere: a mistake in the ledger itself, which no block can be blamed for.
pub(super) fn assert_conserved(state: &State) {
    let there = state.money.minted.checked_sub(state.money.burned);
    let held = state.accounts.balances.checked_add(state.accounts.bonds);
    assert!(there.is_some() && there == held, "money is conserved: {there:?} exist, {held:?} are held");
}
