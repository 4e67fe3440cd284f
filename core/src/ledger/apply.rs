//! How a block changes the state: one pure function, the same on every node.

use neuroshard_proto::chain::{Action, Author, Block, Certificate, SignedTransaction, Subject, Transaction};
use neuroshard_proto::{Amount, Hash, NodeId, OwnerId, Time};

use super::accounts::{self, Account};
use super::anchors::{self, Anchor};
use super::nodes::{self, Description};
use super::{BlockError, Head, Refusal, State, activity, beacon, evidence, money, quorums, stake, validators};

/// What an epoch's end does, in this order. A block's transactions belong to the epoch that it ends.
const EPOCH_END: [fn(&mut State); 4] =
    [activity::end_epoch, quorums::end_epoch, beacon::end_epoch, validators::end_epoch];

/// Begins a block: moves the clock, and takes up who made the block and who finalized its parent.
pub(super) fn begin(
    state: &mut State,
    head: &Head,
    (proposer, time): (NodeId, Time),
    finality: Option<&Certificate>,
) -> Result<(), BlockError> {
    if time <= head.time {
        return Err(BlockError::Time { head: head.time, found: time });
    }
    if state.validators.seats().weight(&proposer) == 0 {
        return Err(BlockError::Proposer { node: proposer });
    }
    let wanted = wants_finality(state);
    match finality {
        Some(certificate) if wanted => {
            let Subject::Finalized { height, block, .. } = certificate.subject else { return Err(BlockError::Subject) };
            if (height, block) != (head.height, head.id) {
                return Err(BlockError::Subject);
            }
            validators::witness(state, certificate).map_err(BlockError::Certificate)?;
            state.beacon.edit().mix(certificate);
        }
        None if !wanted => {}
        Some(_) | None => return Err(BlockError::Finality { wanted }),
    }
    let params = state.rules.params;
    state.clock.edit().advance(time, &params);
    validators::hear(state, &proposer);
    Ok(())
}

/// Whether the next block begins an epoch and so carries its parent's finalization.
pub(super) fn wants_finality(state: &State) -> bool {
    state.clock.fresh && state.clock.height > 0
}

/// Ends a block: runs the epoch's end if it is due, and asserts conservation.
pub(super) fn finish(state: &mut State) {
    let params = state.rules.params;
    if state.clock.epoch_rest_ms(&params) == 0 {
        EPOCH_END.iter().for_each(|hook| hook(state));
        let clock = state.clock.edit();
        clock.epoch = clock.epoch.saturating_add(1);
        clock.fresh = true;
        let (counted, kept) = (state.accounts.recount(), (state.accounts.balances, state.accounts.bonds));
        assert_eq!(counted, kept, "the sums of the accounts are what their entries come to");
    }
    money::assert_conserved(state);
}

/// Applies a transaction whose signature was checked. A refusal leaves the state as it was; otherwise returns what burned.
pub(super) fn transaction(state: &mut State, signed: &SignedTransaction) -> Result<Amount, Refusal> {
    let Transaction { author, action } = &signed.transaction;
    match *author {
        Author::Account { owner, key, sequence } => {
            let account = accounts::open(state, owner, key, sequence)?;
            account_wish(state, owner, account, action)
        }
        Author::Node { node, epoch } => {
            let now = state.clock.epoch;
            if epoch != now {
                return Err(Refusal::Epoch { now, found: epoch });
            }
            nodes::check_quota(state, &node)?;
            let burned = node_wish(state, node, action)?;
            nodes::count_message(state, &node);
            validators::hear(state, &node);
            Ok(burned)
        }
    }
}

fn account_wish(state: &mut State, owner: OwnerId, account: Account, action: &Action) -> Result<Amount, Refusal> {
    match action {
        Action::Transfer { to, amount } => accounts::transfer(state, owner, account, *to, *amount),
        Action::Bond { amount } => stake::bond(state, owner, account, *amount),
        Action::Unbond { amount } => stake::unbond(state, owner, account, *amount),
        Action::RotateKey { new } => accounts::rotate(state, owner, account, *new),
        Action::RegisterNode { node, consent, puzzle } => {
            nodes::register(state, owner, account, (*node, consent, *puzzle))
        }
        Action::RevokeNode { node } => nodes::revoke(state, owner, account, *node),
        Action::Nominate { node } => stake::nominate(state, owner, account, *node),
        Action::DescribeNode { .. }
        | Action::Attest { .. }
        | Action::CommitRandom { .. }
        | Action::RevealRandom { .. }
        | Action::ReportEquivocation { .. }
        | Action::FormQuorum { .. }
        | Action::EndQuorum { .. }
        | Action::PostStages { .. } => Err(Refusal::Author),
    }
}

fn node_wish(state: &mut State, node: NodeId, action: &Action) -> Result<Amount, Refusal> {
    match action {
        Action::DescribeNode { memory_bytes, storage_bytes, tier, held } => {
            let (memory_bytes, storage_bytes, tier, held) = (*memory_bytes, *storage_bytes, *tier, *held);
            let epoch = state.clock.epoch;
            nodes::describe(state, node, Description { epoch, memory_bytes, storage_bytes, tier, held })?;
        }
        Action::Attest { subject } => activity::attest(state, node, *subject)?,
        Action::CommitRandom { commitment } => beacon::commit(state, node, *commitment)?,
        Action::RevealRandom { value } => beacon::reveal(state, node, *value)?,
        Action::FormQuorum { terms, acceptances } => quorums::form(state, node, terms, acceptances)?,
        Action::EndQuorum { quorum } => quorums::end(state, node, *quorum)?,
        Action::PostStages { quorum, step, position, first, stages } => {
            let anchor = Anchor { quorum: *quorum, step: *step, position: *position };
            anchors::post(state, node, anchor, *first, stages)?;
        }
        Action::ReportEquivocation { evidence } => return evidence::report(state, evidence),
        Action::Transfer { .. }
        | Action::Bond { .. }
        | Action::Unbond { .. }
        | Action::RotateKey { .. }
        | Action::RegisterNode { .. }
        | Action::RevokeNode { .. }
        | Action::Nominate { .. } => return Err(Refusal::Author),
    }
    Ok(Amount::ZERO)
}

/// Checks what of a block needs no state but the head.
pub(super) fn check_header(state: &State, head: &Head, block: &Block) -> Result<(), BlockError> {
    let header = &block.header;
    if header.network != state.rules.network {
        return Err(BlockError::Network);
    }
    let expected = head.height.saturating_add(1);
    if header.height != expected {
        return Err(BlockError::Height { expected, found: header.height });
    }
    if header.parent != head.id {
        return Err(BlockError::Parent { expected: head.id, found: header.parent });
    }
    let due = state.clock.next_due(&state.rules.params);
    if block.transactions.is_empty() && header.time < due {
        return Err(BlockError::Empty { due });
    }
    if header.transactions != Block::transactions_root(&block.transactions) {
        return Err(BlockError::Transactions);
    }
    let carried: Hash = Block::finality_hash(block.finality.as_ref());
    if header.finality != carried {
        return Err(BlockError::Subject);
    }
    Ok(())
}
