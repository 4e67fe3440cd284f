//! Accounts: balances, sequence numbers, keys and stakes (PROTOCOL §1, §8, §11).
//!
//! Every wish of an account costs at least the least fee, which is burned, so that no account can fill blocks for nothing;
//! a registration may pay with a puzzle instead. A wish carries the account's sequence number and is good once.

use neuroshard_proto::chain::PublicKey;
use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Amount, List, NodeId, OwnerId, is_usable, mutant};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::part::Module;
use super::tree::{Tree, TreeRoot};
use super::{Refusal, State, money};

/// Most sums of an account that are on their way back from being bonded at one time.
pub const UNBONDINGS_MAX: u32 = 8;

/// An owner's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Account {
    /// What it can spend. Sums whose [`Unbonding::free_at_ms`] has passed count too; see [`Account::spendable`].
    pub balance: Amount,
    /// What it has at stake and votes with.
    pub bond: Amount,
    /// Stake that neither votes nor can be taken back yet (PROTOCOL §8).
    pub locked: Amount,
    /// Stake on its way back, oldest first.
    pub unbonding: List<Unbonding, UNBONDINGS_MAX>,
    /// Wishes made so far; the next one carries this number.
    pub sequence: u64,
    /// Signs for the account.
    pub key: PublicKey,
    /// Registered nodes that were not revoked.
    pub nodes: u32,
    /// The node that votes with the bond.
    pub validator: Option<NodeId>,
}

/// Stake on its way back: free from a moment of protocol time on, and at stake until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Unbonding {
    pub amount: Amount,
    pub free_at_ms: u64,
}

impl Account {
    /// The account of an owner that nobody has paid yet: the owner's own key signs for it.
    pub const fn new(owner: OwnerId) -> Self {
        Self {
            balance: Amount::ZERO,
            bond: Amount::ZERO,
            locked: Amount::ZERO,
            unbonding: List::new(),
            sequence: 0,
            key: PublicKey(*owner.as_bytes()),
            nodes: 0,
            validator: None,
        }
    }

    /// What it can spend at a moment of protocol time.
    pub fn spendable(&self, protocol_ms: u64) -> Amount {
        let free = self.unbonding.iter().filter(|one| one.free_at_ms <= protocol_ms).map(|one| one.amount);
        free.fold(self.balance, Amount::saturating_add)
    }

    /// Everything that a slash can reach or could have reached until it was free.
    pub fn bonds(&self) -> Amount {
        let returning = self.unbonding.iter().map(|one| one.amount);
        returning.fold(self.bond.saturating_add(self.locked), Amount::saturating_add)
    }

    /// Moves what is free by now to the balance.
    fn settle(&mut self, protocol_ms: u64) {
        self.balance = self.spendable(protocol_ms);
        let rest = self.unbonding.iter().filter(|one| one.free_at_ms > protocol_ms).copied();
        let rest = List::try_from(rest.collect::<alloc::vec::Vec<_>>());
        assert!(rest.is_ok(), "fewer than before");
        self.unbonding = rest.unwrap_or_default();
    }

    /// Takes from the balance.
    pub(super) fn pay(&mut self, amount: Amount) -> Result<(), Refusal> {
        let refusal = Refusal::Funds { needed: amount, balance: self.balance };
        self.balance = self.balance.checked_sub(amount).ok_or(refusal)?;
        Ok(())
    }

    /// Takes everything at stake, and returns how much it was.
    pub(super) fn slash(&mut self, protocol_ms: u64) -> Amount {
        self.settle(protocol_ms);
        let all = if mutant("slash spares unbonding") { self.bond.saturating_add(self.locked) } else { self.bonds() };
        (self.bond, self.locked) = (Amount::ZERO, Amount::ZERO);
        if !mutant("slash spares unbonding") {
            self.unbonding = List::new();
        }
        all
    }
}

/// All accounts, and the sums of what they hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Accounts {
    root: TreeRoot,
    pub(super) balances: Amount,
    pub(super) bonds: Amount,
    #[serde(skip)]
    pub(super) tree: Tree<OwnerId, Account>,
}

impl Canonical for Accounts {}

impl Module for Accounts {
    const NAME: &'static str = "accounts";
    const PLACE: u64 = 3;

    fn seal(&mut self) {
        self.tree.seal();
        self.root = self.tree.commitment();
    }
}

impl Accounts {
    /// The account of an owner; that of an owner nobody knows is empty.
    pub(super) fn get(&self, owner: &OwnerId) -> Account {
        self.tree.get(owner).cloned().unwrap_or_else(|| Account::new(*owner))
    }

    pub(super) fn put(&mut self, owner: OwnerId, account: Account) {
        let (balance, bonds) = (account.balance, account.bonds());
        let old = self.tree.insert(owner, account);
        let (old_balance, old_bonds) = old.map_or_else(Default::default, |old| (old.balance, old.bonds()));
        self.balances = moved(self.balances, old_balance, balance);
        self.bonds = moved(self.bonds, old_bonds, bonds);
    }

    /// The sums, counted anew.
    pub(super) fn recount(&self) -> (Amount, Amount) {
        self.tree.iter().fold((Amount::ZERO, Amount::ZERO), |(balances, bonds), (_, account)| {
            (balances.saturating_add(account.balance), bonds.saturating_add(account.bonds()))
        })
    }

    /// What the trees must be to fit the digest.
    pub(super) const fn root(&self) -> TreeRoot {
        self.root
    }
}

fn moved(sum: Amount, old: Amount, new: Amount) -> Amount {
    let moved = sum.checked_sub(old).and_then(|rest| rest.checked_add(new));
    assert!(moved.is_some(), "no sum of the accounts is more than all money");
    moved.unwrap_or_default()
}

/// Opens an account for a wish: checks key and sequence, settles what is free by now, and counts the wish.
pub(super) fn open(state: &State, owner: OwnerId, key: PublicKey, sequence: u64) -> Result<Account, Refusal> {
    let mut account = state.accounts.get(&owner);
    if account.key != key {
        return Err(Refusal::Key { owner });
    }
    if account.sequence != sequence && !mutant("sequence not checked") {
        return Err(Refusal::Sequence { expected: account.sequence, found: sequence });
    }
    account.settle(state.clock.protocol_ms);
    account.sequence = account.sequence.saturating_add(1);
    Ok(account)
}

/// Pays another account, and burns the fee.
pub(super) fn transfer(
    state: &mut State,
    owner: OwnerId,
    mut account: Account,
    to: OwnerId,
    amount: Amount,
) -> Result<Amount, Refusal> {
    if amount == Amount::ZERO {
        return Err(Refusal::Nothing);
    }
    let fee = money::transfer_fee(state, amount);
    // A sum that cannot be counted cannot be paid either.
    account.pay(amount.saturating_add(fee))?;
    if to == owner {
        account.balance = account.balance.saturating_add(amount);
    } else {
        let mut other = state.accounts.get(&to);
        other.balance = other.balance.saturating_add(amount);
        state.accounts.edit().put(to, other);
    }
    state.accounts.edit().put(owner, account);
    state.money.edit().burn(fee);
    Ok(fee)
}

/// Lets another key sign for the account.
pub(super) fn rotate(
    state: &mut State,
    owner: OwnerId,
    mut account: Account,
    new: PublicKey,
) -> Result<Amount, Refusal> {
    if !is_usable(&NodeId::from_bytes(new.0)) {
        return Err(Refusal::WeakKey);
    }
    let fee = state.rules.params.money.fee_min;
    account.pay(fee)?;
    account.key = new;
    state.accounts.edit().put(owner, account);
    state.money.edit().burn(fee);
    Ok(fee)
}
