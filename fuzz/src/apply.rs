//! Any blocks on a ledger: what is drafted applies, what is bent is refused, a refusal changes nothing, and money is
//! conserved. Bytes are a schedule of wishes, blocks and lies.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::ledger::sync::{Assembly, Chunk};
use neuroshard_core::ledger::{Ledger, Receipt, Refusal};
use neuroshard_proto::chain::{
    Action, Author, Block, Certificate, Evidence, PublicKey, SignedTransaction, SignedVote, Statement, Subject,
    Transaction, Vote, consent_digest, random_commitment,
};
use neuroshard_proto::{
    Allocation, Amount, Founder, Genesis, Hash, LayerBlobs, LayerIndex, LayerRange, Member, NodeId, OwnerId, Params,
    Plan, Position, Preset, QuorumId, Signature, Step, Terms, Tier, codec,
};

/// Most operations of a schedule.
const OPERATIONS_MAX: usize = 96;
const NAMES: u8 = 6;
/// Stages of the model.
const STAGES: u32 = 5;

/// Bytes that are read one after the other; behind the last one there is nothing.
struct Schedule<'a>(&'a [u8]);

impl Schedule<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// An amount of any size: some digits and how far they are shifted.
    fn amount(&mut self) -> Amount {
        let (digits, shift) = (self.byte(), self.byte());
        Amount::from_units(
            u64::from(digits)
                .checked_shl(u32::from(if shift < 224 { shift % 32 } else { shift % 64 }))
                .unwrap_or(u64::MAX),
        )
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// A name's key: nodes and owners share them, so a founder's node can hold its account.
fn public(name: u8) -> [u8; 32] {
    SigningKey::from_bytes(&[name % NAMES + 1; 32]).verifying_key().to_bytes()
}

fn node(name: u8) -> NodeId {
    NodeId::from_bytes(public(name))
}

fn owner(name: u8) -> OwnerId {
    OwnerId::from_bytes(public(name))
}

fn genesis() -> Genesis {
    let mut params = Params::DEFAULT;
    (params.epoch_ms, params.money.unbonding_ms, params.nodes.puzzle_bits) = (15_000, 60_000, 0);
    (params.validators.voters_max, params.validators.seats, params.validators.seats_quorum) = (2, 8, 6);
    (params.validators.committee_epochs, params.validators.silence_epochs) = (3, 4);
    params.phases.iter_mut().for_each(|row| row.session_s = 12);
    (params.quorums.active_max, params.quorums.lifetime_ms) = (2, 30_000);
    let (model, training) = Preset::Nano.specs();
    let rich = (2..5).map(|name| Allocation { owner: owner(name), amount: Amount::from_units(900 * Amount::NEURO) });
    Genesis {
        created_unix_ms: 0,
        seed: Hash::default(),
        model,
        training,
        params,
        manifest: Hash::default(),
        founders: [0, 1].map(|name| Founder::alone(node(name))).to_vec().try_into().expect("two"),
        allocations: rich.collect::<Vec<_>>().try_into().expect("three"),
        first: None,
    }
}

struct World {
    ledger: Ledger,
    finality: Option<Certificate>,
    waiting: Vec<SignedTransaction>,
    /// How many wishes of each account may apply with the next block.
    queued: BTreeMap<OwnerId, u64>,
    applied: u64,
}

/// The target: operations, each a byte and what it needs.
pub fn run(bytes: &[u8]) {
    play(bytes);
}

/// Plays a schedule.
fn play(bytes: &[u8]) -> World {
    let mut schedule = Schedule(bytes);
    let mut world = World {
        ledger: Ledger::genesis(&genesis()),
        finality: None,
        waiting: vec![],
        queued: BTreeMap::new(),
        applied: 0,
    };
    for _ in 0..OPERATIONS_MAX {
        if schedule.0.is_empty() {
            break;
        }
        match schedule.byte() % 8 {
            0..4 => {
                let wish = wish(&world, &mut schedule);
                world.queue(wish);
            }
            4 | 5 => world.block(&mut schedule),
            6 => world.lie(&mut schedule),
            _ => world.anything(&mut schedule),
        }
    }
    world
}

fn wish(world: &World, schedule: &mut Schedule) -> SignedTransaction {
    let (who, other) = (schedule.byte(), schedule.byte());
    let by_account = schedule.byte().is_multiple_of(2);
    let epoch = world.ledger.epoch();
    let author = if by_account {
        let known = world.ledger.account(&owner(who)).map_or(0, |account| account.sequence);
        let waiting = world.queued.get(&owner(who)).copied().unwrap_or_default();
        Author::Account { owner: owner(who), key: PublicKey(public(who)), sequence: known + waiting }
    } else {
        Author::Node { node: node(who), epoch }
    };
    // Mostly what such an author may wish.
    let choice = schedule.byte();
    let fitting = if by_account { choice % 7 } else { 7 + choice % 8 };
    let action = match if choice < 240 { fitting } else { choice % 15 } {
        0 => Action::Transfer { to: owner(other), amount: schedule.amount() },
        1 => Action::Bond { amount: schedule.amount() },
        2 => Action::Unbond { amount: schedule.amount() },
        3 => Action::RotateKey { new: PublicKey(public(other)) },
        4 => Action::Nominate { node: node(other) },
        5 => Action::RevokeNode { node: node(other) },
        6 => Action::RegisterNode { node: node(other), consent: consent(world, who, other), puzzle: Some(0) },
        7 => Action::Attest { subject: node(other) },
        8 => {
            let (start, end) = (u32::from(schedule.byte()), u32::from(schedule.byte()));
            let held = if end % 2 == 0 { LayerRange { start: 0, end: STAGES } } else { LayerRange { start, end } };
            Action::DescribeNode { memory_bytes: 1, storage_bytes: 2, tier: Tier::T1, held }
        }
        9 => Action::CommitRandom { commitment: random_commitment(node(who), epoch, &Hash::default()) },
        10 => Action::RevealRandom { value: Hash::default() },
        12 => formation(world, schedule, who, other),
        13 => Action::EndQuorum { quorum: quorum_of(world, other) },
        14 => posts(world, schedule, who),
        _ => {
            let said = |byte: u8| Vote {
                validator: node(other),
                statement: Statement::Finalize { height: 1, view: 0, block: Hash::of_blob(&[byte]) },
            };
            let vote = |byte| SignedVote { vote: said(byte), signature: Signature([byte; 64]) };
            let evidence = Evidence { first: vote(schedule.byte()), second: vote(schedule.byte()) };
            Action::ReportEquivocation { evidence: Box::new(evidence) }
        }
    };
    SignedTransaction { transaction: Transaction { author, action }, signature: Signature([0; 64]) }
}

/// The quorum that a node is taken by, or one that there is not.
fn quorum_of(world: &World, name: u8) -> QuorumId {
    world.ledger.quorum_of(&node(name)).map_or(QuorumId(Hash::default()), |(id, _)| id)
}

/// Terms for one node or two, ending what they are taken by or not, under their signatures or others'.
fn formation(world: &World, schedule: &mut Schedule, who: u8, other: u8) -> Action {
    let (cut, bits) = (u32::from(schedule.byte()) % STAGES, schedule.byte());
    let names = if cut == 0 { vec![who] } else { vec![who, other] };
    let ranges =
        [LayerRange { start: 0, end: if cut == 0 { STAGES } else { cut } }, LayerRange { start: cut, end: STAGES }];
    let members = names.iter().zip(ranges).map(|(name, stages)| Member { node: node(*name), stages });
    let plan = Plan { members: members.collect::<Vec<_>>().try_into().expect("two"), snapshot_steps: 1 };
    let ends = if bits.is_multiple_of(2) { vec![] } else { vec![quorum_of(world, other)] };
    let valid_until = world.ledger.head().time.after_ms(1000 * u64::from(bits / 4));
    let terms = Terms { plan, batches: u32::from(bits % 8), ends: ends.try_into().expect("one"), valid_until };
    let digest = terms.digest(world.ledger.network());
    let signer = |name: &u8| if bits == 77 { other } else { *name };
    let sign = |name: &u8| SigningKey::from_bytes(&[signer(name) % NAMES + 1; 32]).sign(digest.as_bytes());
    let acceptances = names.iter().map(|name| Signature(sign(name).to_bytes())).collect::<Vec<_>>();
    Action::FormQuorum { terms, acceptances: acceptances.try_into().expect("two") }
}

/// Where stages of a node lie, by and large those that it runs.
fn posts(world: &World, schedule: &mut Schedule, who: u8) -> Action {
    let own = world.ledger.quorum_of(&node(who)).and_then(|(_, quorum)| {
        let member = quorum.plan.members.iter().find(|member| member.node == node(who))?;
        Some(member.stages)
    });
    let LayerRange { start, end } = own.unwrap_or(LayerRange { start: 0, end: STAGES });
    let (bent, step) = (schedule.byte(), Step(u64::from(schedule.byte())));
    let first = LayerIndex(if bent < 240 { start } else { u32::from(bent) });
    let blobs = LayerBlobs { root: Hash::default(), weights: Hash::default(), moments: Hash::default() };
    let stages = (start..end).map(|_| blobs).collect::<Vec<_>>().try_into().expect("few");
    Action::PostStages { quorum: quorum_of(world, who), step, position: Position::default(), first, stages }
}

/// A node's consent to belong to an owner.
fn consent(world: &World, who: u8, other: u8) -> Signature {
    let digest = consent_digest(world.ledger.network(), owner(who), node(other));
    Signature(SigningKey::from_bytes(&[other % NAMES + 1; 32]).sign(digest.as_bytes()).to_bytes())
}

impl World {
    fn queue(&mut self, wish: SignedTransaction) {
        let admitted = self.ledger.admits(&wish);
        if let Author::Account { owner, .. } = wish.transaction.author
            && admitted.err().is_none_or(|refusal| matches!(refusal, Refusal::Sequence { .. }))
        {
            *self.queued.entry(owner).or_default() += 1;
        }
        self.waiting.push(wish);
    }

    /// A block of what waits, if one can be made.
    fn draft(&self, schedule: &mut Schedule) -> Option<Block> {
        let seats: Vec<NodeId> = self.ledger.seats().iter().map(|(node, _)| *node).collect();
        let proposer = *seats.get(usize::from(schedule.byte()) % seats.len()).expect("somebody decides");
        let wait = [1, 900, 10_000, 86_400_000][usize::from(schedule.byte() % 4)];
        let time = self.ledger.head().time.after_ms(wait);
        let draft = self.ledger.draft(proposer, time, self.finality.as_ref(), &self.waiting).ok()?;
        assert_eq!(draft.refused.len() + draft.block.transactions.len(), self.waiting.len());
        let bytes = codec::encode(&draft.block);
        assert_eq!(codec::decode::<Block>(&bytes).as_ref(), Ok(&draft.block), "what was drafted can be sent");
        Some(draft.block)
    }

    fn block(&mut self, schedule: &mut Schedule) {
        let Some(block) = self.draft(schedule) else { return };
        let (next, receipts) = self.ledger.apply(&block).expect("what was drafted applies");
        check_money(&self.ledger, &next, &receipts);
        let Block { header, .. } = &block;
        let (height, id) = (header.height, header.id());
        let statement = Statement::Finalize { height, view: 0, block: id };
        let votes = self.ledger.seats().iter().map(|(validator, _)| SignedVote {
            vote: Vote { validator: *validator, statement },
            signature: Signature([0; 64]),
        });
        self.finality = Some(Certificate::gather(Subject::Finalized { height, view: 0, block: id }, votes));
        check_quorums(&next);
        self.ledger = next;
        self.applied += receipts.len() as u64;
        self.waiting.clear();
        self.queued.clear();
    }

    /// A good block in which a byte was changed is no good block.
    fn lie(&mut self, schedule: &mut Schedule) {
        let Some(block) = self.draft(schedule) else { return };
        let mut bytes = codec::encode(&block);
        let place = usize::from(schedule.byte()) * 256 + usize::from(schedule.byte());
        let len = bytes.len();
        bytes[place % len] ^= schedule.byte().max(1);
        if let Ok(bent) = codec::decode::<Block>(&bytes) {
            assert_ne!(bent, block);
            let root = self.ledger.root();
            // A certificate's signatures are checked when a message is opened, and bound by the header's hash.
            assert!(self.ledger.apply(&bent).is_err(), "a bent block applies");
            assert_eq!(self.ledger.root(), root);
        }
    }

    /// Bytes as a block, and as a chunk of a state.
    fn anything(&mut self, schedule: &mut Schedule) {
        let len = usize::from(schedule.byte() % 64) * usize::from(schedule.byte() % 16);
        let bytes = schedule.take(len);
        if let Ok(block) = codec::decode::<Block>(&bytes) {
            let _ = self.ledger.apply(&block);
        }
        let Some(block) = self.draft(schedule) else { return };
        let (next, _) = self.ledger.apply(&block).expect("what was drafted applies");
        let mut assembly = Assembly::new(block.header);
        let foreign = codec::decode::<Chunk>(&bytes).ok();
        for chunk in next.chunks() {
            assembly.accept(&chunk).expect("an honest chunk");
            if let Some(foreign) = &foreign
                && assembly.accept(foreign).is_ok()
            {
                assert!(next.chunks().any(|honest| honest == *foreign), "a foreign chunk is taken up");
            }
        }
        assert_eq!(assembly.finish().expect("all chunks came").root(), next.root());
    }
}

/// Who is taken by an active quorum is taken by no other, and every anchor is whole.
fn check_quorums(ledger: &Ledger) {
    let mut members = BTreeSet::new();
    for (id, quorum) in ledger.active_quorums() {
        for member in &quorum.plan.members {
            assert!(members.insert(member.node), "a node is taken twice");
            assert_eq!(ledger.quorum_of(&member.node), Some((id, quorum)));
        }
    }
    let taken = (0..NAMES).filter(|name| ledger.quorum_of(&node(*name)).is_some()).count();
    assert_eq!(taken, members.len());
    let whole = if ledger.anchor().is_some() { STAGES as usize } else { 0 };
    assert_eq!(ledger.anchored(LayerRange { start: 0, end: STAGES }).count(), whole);
}

/// Money as seen from outside: what burned is what the receipts say.
fn check_money(before: &Ledger, after: &Ledger, receipts: &[Receipt]) {
    let ((minted, burned), (minted_after, burned_after)) = (before.supply(), after.supply());
    assert_eq!(minted, minted_after);
    let said: u64 = receipts.iter().map(|receipt| receipt.burned.units()).sum();
    assert_eq!(burned_after.units() - burned.units(), said);
    let held: u64 = (0..NAMES)
        .filter_map(|name| after.account(&owner(name)))
        .map(|account| account.balance.units() + account.bonds().units())
        .sum();
    assert_eq!(held, minted_after.units() - burned_after.units());
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Stream;

    use super::*;
    use crate::seeds;

    #[test]
    fn random_schedules_hold() {
        let mut applied = 0;
        for seed in 0..300 {
            let mut bytes = vec![0; 700];
            Stream::new(&Hash::of_blob(b"apply"), "fuzz", seed).fill(0, &mut bytes);
            applied += play(&bytes).applied;
        }
        assert!(applied > 400, "{applied} transactions applied");
    }

    #[test]
    fn a_seed_leads_through_the_life_of_quorums() {
        let (_, schedule) = seeds::histories().into_iter().find(|(name, _)| *name == "quorums").expect("a seed");
        let World { ledger, applied, .. } = play(&schedule);
        assert_eq!(applied, 8, "descriptions, a pair, its posts, a successor, its post and its end");
        assert_eq!(ledger.anchor().map(|anchor| anchor.step), Some(Step(10)));
        assert_eq!(ledger.active_quorums().count(), 0);
    }
}
