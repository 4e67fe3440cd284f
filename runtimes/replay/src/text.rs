//! Inputs and outputs as one dense line each.

use std::fmt;

use neuroshard_core::proto::codec;
use neuroshard_core::{Command, Event, Input, JobKind, JournalFact, Output, PeerFault, Record};
use neuroshard_proto::chain::{Action, StatePiece, StateWanted};
use neuroshard_proto::{
    BatchOutcome, Commitment, Envelope, Fault, FormingMessage, FormingWord, Job, Kind, Message, Passed, Returned,
    Snapshot, Time, Turned,
};

/// Names of all kinds of input.
pub const INPUT_KINDS: [&str; 7] = ["tick", "message", "persisted", "computed", "command", "signed", "fetched"];

/// Shows an input in a line.
#[derive(Clone, Copy, Debug)]
pub struct InputLine<'a>(pub &'a Input);

impl fmt::Display for InputLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())?;
        match self.0 {
            Input::Tick => Ok(()),
            Input::Message(message) => write_message(f, message.message()),
            Input::Signed { id, .. } => write!(f, " #{id}"),
            Input::Persisted { upto } => write!(f, " up to record {upto}"),
            Input::Computed { id, result } => {
                write!(f, " #{id}: ")?;
                match result {
                    Ok(commitment) => write_commitment(f, commitment),
                    Err(fault) => write!(f, "{} fault, {fault}", fault_name(fault)),
                }
            }
            Input::Fetched { id, result: Ok(()) } => write!(f, " #{id}"),
            Input::Fetched { id, result: Err(why) } => write!(f, " #{id} failed: {why:?}"),
            Input::Command(Command::Save) => f.write_str(" save"),
            Input::Command(Command::Stop) => f.write_str(" stop"),
            Input::Command(Command::Leave) => f.write_str(" leave"),
            Input::Command(Command::Submit(signed)) => {
                let transaction = &signed.transaction;
                write!(f, " submit a transaction of {:.8}: {}", transaction.signer(), Wish(&transaction.action))
            }
        }
    }
}

fn write_message(f: &mut fmt::Formatter<'_>, message: &Message) -> fmt::Result {
    match message {
        Message::Heartbeat(heartbeat) => {
            write!(f, " heartbeat of {:.8} at {}, step {}", heartbeat.node, heartbeat.time, heartbeat.step)
        }
        Message::Transaction(transaction) => {
            write!(f, " transaction of {:.8}: {}", message.signer(), Wish(&transaction.action))
        }
        Message::Vote(vote) => write!(f, " vote of {:.8}: {:?}", vote.validator, vote.statement),
        Message::Proposal(proposal) => {
            let header = &proposal.block.header;
            write!(f, " proposal by {:.8}: block {:.8}", proposal.leader, header.id())?;
            write!(f, " at height {}, view {}", header.height, proposal.view)
        }
        Message::Certificate(carried) => write!(f, " certificate from {:.8}: {:?}", carried.node, carried.what.subject),
        Message::BlocksWanted(wanted) => write!(f, " {:.8} wants blocks from height {}", wanted.node, wanted.from),
        Message::Decided(carried) => {
            write!(f, " block at height {} from {:.8}", carried.what.block.header.height, carried.node)
        }
        Message::StepsWanted(wanted) => write!(f, " {:.8} wants steps above height {}", wanted.node, wanted.above),
        Message::Steps(steps) => {
            let last = steps.steps.last().map_or(0, |step| step.header.height);
            let arrives = if steps.arrives { ", to a state" } else { "" };
            write!(f, " {} steps from {:.8} up to height {last}{arrives}", steps.steps.len(), steps.node)
        }
        Message::StateWanted(StateWanted { node, height, place }) => {
            write!(f, " {node:.8} wants the state at height {height}: {place:?}")
        }
        Message::StatePiece(given) => {
            let StatePiece { node, height, place, piece } = &**given;
            match piece {
                Some(piece) => {
                    write!(f, " {} bytes of the state at height {height} from {node:.8}: {place:?}", piece.len())
                }
                None => write!(f, " {node:.8} does not give out the state at height {height}"),
            }
        }
        Message::Forming(said) => write_forming(f, said),
        Message::Beacon(beacon) => write!(f, " {:.8} at {:?}", beacon.node, beacon.addresses),
        Message::Quorum(said) => write!(f, " {:.8} in term {}: {:?}", said.node, said.term, said.word),
    }
}

/// What a transaction wishes; lists of what only hashes and signatures tell are left out.
struct Wish<'a>(&'a Action);

impl fmt::Display for Wish<'_> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are short as they are")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Action::FormQuorum { terms, .. } => {
                write!(f, "forms a quorum, {} batches a step, until {}:", terms.batches, terms.valid_until)?;
                let mut members = terms.plan.members.iter();
                members.try_for_each(|member| write!(f, " {:.8} runs {}", member.node, member.stages))?;
                terms.ends.iter().try_for_each(|ended| write!(f, ", ends {ended:.8}"))
            }
            Action::EndQuorum { quorum } => write!(f, "ends quorum {quorum:.8}"),
            Action::PostStages { quorum, step, position, first, stages } => {
                write!(f, "posts {} stages from {first} on at step {step}", stages.len())?;
                write!(f, ", batch {}, of quorum {quorum:.8}", position.batch)
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// A message that goes out, by its kind.
fn write_envelope(f: &mut fmt::Formatter<'_>, envelope: &Envelope) -> fmt::Result {
    match Kind::from_number(envelope.kind).and_then(|kind| Message::from_payload(kind, &envelope.payload)) {
        Ok(message) => write_message(f, &message),
        Err(error) => write!(f, " {error}"),
    }
}

fn fault_name(fault: &Fault) -> &'static str {
    match fault {
        Fault::BlobMissing { .. } | Fault::BlobDamaged { .. } | Fault::Store { .. } | Fault::DiskFull { .. } => "store",
        Fault::RootMismatch { .. } | Fault::WrongStep { .. } => "state",
        Fault::BadJob { .. } => "job",
        Fault::Device { .. } => "device",
    }
}

fn write_commitment(f: &mut fmt::Formatter<'_>, commitment: &Commitment) -> fmt::Result {
    match commitment {
        Commitment::Ready { step, root } => write!(f, "ready at step {step}, root {root:.8}"),
        Commitment::Benchmark { layer_us } => write!(f, "benchmark {layer_us} us a layer"),
        Commitment::Batch(BatchOutcome::Done { loss_micro, tokens, .. }) => {
            write!(f, "batch of {tokens} tokens, loss {}", Loss(*loss_micro, *tokens))
        }
        Commitment::Batch(BatchOutcome::Void(reason)) => write!(f, "batch void, {reason:?}"),
        Commitment::Step { step, norm } => write!(f, "stepped to {step}, norm {}", f32::from_bits(norm.to_bits())),
        Commitment::Evaluation { step, loss_micro: Some(loss), tokens } => {
            write!(f, "evaluation of step {step}, loss {} over {tokens} tokens", Loss(*loss, *tokens))
        }
        Commitment::Evaluation { step, loss_micro: None, .. } => write!(f, "evaluation of step {step}, out of range"),
        Commitment::Snapshot(snapshot) => write_snapshot(f, snapshot),
        Commitment::Forward(Passed::Done { output }) => write!(f, "forward pass, stream {output:.8}"),
        Commitment::Turn(Turned::Done { loss_micro, tokens, .. }) => {
            write!(f, "turn of {tokens} tokens, loss {}", Loss(*loss_micro, *tokens))
        }
        Commitment::Backward(Returned::Done { .. }) => f.write_str("backward pass"),
        Commitment::Forward(Passed::Void(why))
        | Commitment::Turn(Turned::Void(why))
        | Commitment::Backward(Returned::Void(why)) => write!(f, "sequence void, {why:?}"),
        Commitment::Norms { step, squared_norms } => {
            let state = if squared_norms.is_some() { "" } else { ", out of range" };
            write!(f, "norms at step {step}{state}")
        }
    }
}

fn write_snapshot(f: &mut fmt::Formatter<'_>, snapshot: &Snapshot) -> fmt::Result {
    write!(f, "snapshot of step {}, root {:.8}, {} bytes", snapshot.step, snapshot.root, snapshot.bytes)
}

/// A sum of micro-nats over tokens, as nats per token.
struct Loss(i64, u64);

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0 as f64 / 1e6 / self.1.max(1) as f64)
    }
}

/// Shows an output in a line.
#[derive(Clone, Copy, Debug)]
pub struct OutputLine<'a>(pub &'a Output);

impl fmt::Display for OutputLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())?;
        match self.0 {
            Output::Persist { seq, record } => {
                write!(f, " record {seq}, ")?;
                match codec::decode::<Record>(record) {
                    Ok(record) => write_fact(f, &record.fact),
                    Err(_) => write!(f, "{} bytes", record.len()),
                }
            }
            Output::Compute { id, job, .. } => {
                write!(f, " #{id}: ")?;
                write_job(f, job)
            }
            Output::Cancel { id } => write!(f, " #{id}"),
            Output::Drop { hash } => write!(f, " blob {hash:.8}"),
            Output::Trim { before } => write!(f, " records before {before}"),
            Output::Event(event) => write_event(f, event),
            Output::Sign { id, digest } => write!(f, " #{id}: {digest:.8}"),
            Output::Send { to, message } => {
                write!(f, " to {to:.8}:")?;
                write_envelope(f, message)
            }
            Output::Fetch { id, hash, from, keep } => {
                let purpose = if *keep { ", to keep" } else { "" };
                write!(f, " #{id}: blob {hash:.8} from {from:.8}{purpose}")
            }
            Output::Publish { topic, message } => {
                write!(f, " on {}:", topic.name())?;
                write_envelope(f, message)
            }
        }
    }
}

fn write_forming(f: &mut fmt::Formatter<'_>, said: &FormingMessage) -> fmt::Result {
    write!(f, " {:.8}", said.node)?;
    match &said.word {
        FormingWord::Ask { .. } => f.write_str(" asks what this node can do"),
        FormingWord::Offer { layer_us, declines: None, .. } => write!(f, " offers {layer_us} us a layer"),
        FormingWord::Offer { declines: Some(why), .. } => write!(f, " offers nothing: {why:?}"),
        FormingWord::Propose { terms } => write!(f, " proposes a quorum of {}", terms.plan.members.len()),
        FormingWord::Accept { quorum, .. } => write!(f, " accepts quorum {quorum:.8}"),
        FormingWord::Decline { quorum, why } => write!(f, " declines quorum {quorum:.8}: {why:?}"),
    }
}

fn write_fact(f: &mut fmt::Formatter<'_>, fact: &JournalFact) -> fmt::Result {
    match fact {
        JournalFact::Founded { network, node } => write!(f, "founded network {network:.8} as node {node:.8}"),
        JournalFact::Saved { states, copies } => {
            f.write_str("saved steps")?;
            states.iter().try_for_each(|state| write!(f, " {}", state.snapshot.step))?;
            copies
                .iter()
                .try_for_each(|copy| write!(f, ", copy of stages {} at step {}", copy.range, copy.snapshot.step))
        }
        JournalFact::Proposed { block } => {
            write!(f, "block {:.8} at height {}", block.header.id(), block.header.height)
        }
        JournalFact::Voted { ballot } => write!(f, "voted {:?}", ballot.statement),
        JournalFact::Decided { decided } => {
            let header = &decided.block.header;
            write!(f, "decided block {:.8} at height {}", header.id(), header.height)
        }
        JournalFact::Bound { epoch, .. } => write!(f, "bound to a random value in epoch {epoch}"),
        JournalFact::State { decided, .. } => write!(f, "state at height {}", decided.block.header.height),
        JournalFact::Chunk { .. } => f.write_str("a chunk of it"),
        JournalFact::Step { step } => write!(f, "other seats from height {} on", step.header.height),
        JournalFact::Taking { decided, .. } => {
            write!(f, "taking the state at height {} from others", decided.block.header.height)
        }
    }
}

fn write_job(f: &mut fmt::Formatter<'_>, job: &Job) -> fmt::Result {
    f.write_str(job.name())?;
    match job {
        Job::Init { .. } => Ok(()),
        Job::Load { snapshot, .. } => write!(f, " step {}, root {:.8}", snapshot.step, snapshot.root),
        Job::Benchmark { sequence, .. } => write!(f, " over {sequence} tokens"),
        Job::Train { step, batch, samples, .. } => write!(f, " batch {batch} of {} at step {step}", samples.len()),
        Job::Step { step, .. } | Job::Snapshot { step } => write!(f, " at step {step}"),
        Job::Evaluate { step, samples, .. } => write!(f, " {} sequences at step {step}", samples.len()),
        Job::Forward { step, micro, .. } | Job::Turn { step, micro, .. } | Job::Backward { step, micro, .. } => {
            write!(f, " {micro} at step {step}")
        }
        Job::Norms { step, .. } => write!(f, " at step {step}"),
    }
}

fn write_event(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
    match event {
        Event::Stepped { step, batch, loss_micro, tokens, .. } => {
            write!(f, " stepped to {step} by batch {batch}, loss {}", Loss(*loss_micro, *tokens))
        }
        Event::HeldOut { step, loss_micro, tokens } => {
            write!(f, " held-out loss {} at step {step}", Loss(*loss_micro, *tokens))
        }
        Event::Saved { step, root, bytes } => write!(f, " saved step {step}, root {root:.8}, {bytes} bytes"),
        Event::StateReady { step, root } => write!(f, " state ready at step {step}, root {root:.8}"),
        Event::TierMeasured { layer_us, tier } => write!(f, " tier {tier}, {layer_us} us a layer"),
        Event::ModeChosen { mode, reason } => write!(f, " mode {mode}, {reason:?}"),
        Event::JobFailed { job, fault, then } => write!(f, " {} failed: {fault}; then {then:?}", job_name(*job)),
        Event::JobLate { job } => write!(f, " {} is late", job_name(*job)),
        Event::QuorumProposed { quorum, members, batch_us } => {
            write!(f, " proposed quorum {quorum:.8} of {members}, {batch_us} us a batch")
        }
        Event::QuorumDeclined { quorum, node, why } => write!(f, " {node:.8} declined quorum {quorum:.8}: {why:?}"),
        Event::QuorumJoined { quorum, members, stages } => {
            write!(f, " joined quorum {quorum:.8} of {members}, stages {stages}")
        }
        Event::QuorumLeft => f.write_str(" is in no quorum"),
        Event::Leaving { quorum: Some(quorum) } => write!(f, " leaves quorum {quorum:.8} for good"),
        Event::Leaving { quorum: None } => f.write_str(" leaves for good"),
        Event::QuorumBegan { quorum, term, step } => {
            write!(f, " quorum {quorum:.8} goes on from step {step} in term {term}")
        }
        Event::StagesMissing { step, stages, blob, fault } => {
            write!(f, " nobody gives blob {blob:.8} of stages {stages} at step {step}: {fault:?}")
        }
        Event::PeerUp { node } => write!(f, " peer {node:.8} is up"),
        Event::PeerDown { node } => write!(f, " peer {node:.8} is down"),
        Event::Rejected { reject } => write_reject(f, reject),
        Event::Diverged { step, voids } => write!(f, " diverged at step {step} after {voids} void batches"),
        Event::StepLimit { step } => write!(f, " step limit {step} reached"),
        Event::Stopped { step, saved: Some(saved) } => write!(f, " stopped at step {step}, saved {saved}"),
        Event::Stopped { step, saved: None } => write!(f, " stopped at step {step}, nothing saved"),
        other => write!(f, " {other:?}"),
    }
}

fn write_reject(f: &mut fmt::Formatter<'_>, reject: &PeerFault) -> fmt::Result {
    match reject {
        PeerFault::OtherNetwork { node } => write!(f, " refused {node:.8}: of another network"),
        PeerFault::OwnName => f.write_str(" refused a peer with this node's own name"),
        PeerFault::Clock { node, theirs } => write!(f, " refused {node:.8}: its clock says {theirs}"),
        PeerFault::TooManyPeers { node } => write!(f, " refused {node:.8}: too many peers"),
        PeerFault::Leader { node, view } => {
            write!(f, " refused {node:.8}: no leader of view {view}, or of another's block")
        }
        PeerFault::BlockTime { node, theirs } => write!(f, " refused a block of {node:.8}: it is of {theirs}"),
        PeerFault::Block { node, height } => write!(f, " refused a block of {node:.8} at height {height}: invalid"),
        PeerFault::Undecided { node, height } => {
            write!(f, " refused {node:.8}: block at height {height} is not decided")
        }
        PeerFault::Steps { node, height } => {
            write!(f, " refused {node:.8}: its step to height {height} does not follow")
        }
        PeerFault::State { node, height } => {
            write!(f, " refused {node:.8}: no piece of the state at height {height}")
        }
        PeerFault::OtherQuorum { node } => {
            write!(f, " refused {node:.8}: it speaks of another quorum, or of other stages")
        }
    }
}

fn job_name(job: JobKind) -> &'static str {
    match job {
        JobKind::Init => "init",
        JobKind::Load => "load",
        JobKind::Benchmark => "benchmark",
        JobKind::Train => "train",
        JobKind::Step => "step",
        JobKind::Evaluate => "evaluate",
        JobKind::Snapshot => "snapshot",
        JobKind::Forward => "forward",
        JobKind::Turn => "turn",
        JobKind::Backward => "backward",
        JobKind::Norms => "norms",
    }
}

/// A place in a trace: after a step, or after the last step not later than a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// After so many steps; 0 is the start.
    Step(u64),
    Time(Time),
}

/// Text that is no [`At`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place is a step such as 1200, or a time such as 3.5s")
    }
}

impl std::error::Error for NoPlace {}

impl std::str::FromStr for At {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let Some(seconds) = text.strip_suffix('s') else { return text.parse().map(Self::Step).map_err(|_| NoPlace) };
        let (whole, rest) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let digits = rest.len();
        if digits == 0 || digits > 3 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(NoPlace);
        }
        let (whole, rest): (u64, u64) = (whole.parse().map_err(|_| NoPlace)?, rest.parse().map_err(|_| NoPlace)?);
        let ms = rest * 10_u64.pow(3 - digits as u32);
        whole
            .checked_mul(1000)
            .and_then(|whole| whole.checked_add(ms))
            .map(|ms| Self::Time(Time::from_ms(ms)))
            .ok_or(NoPlace)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(f, "step {step}"),
            Self::Time(time) => time.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::{JournalSeq, RequestId};

    use neuroshard_proto::Signature;

    use super::*;
    use crate::Detail;
    use crate::testing::record;

    #[test]
    fn every_kind_of_input_is_in_the_list() {
        // A new kind fails to compile here, and then must be added to the list.
        let place = |input: &Input| match input {
            Input::Tick => 0,
            Input::Message(_) => 1,
            Input::Persisted { .. } => 2,
            Input::Computed { .. } => 3,
            Input::Command(_) => 4,
            Input::Signed { .. } => 5,
            Input::Fetched { .. } => 6,
        };
        let message = record(40, Detail::Inputs).1.into_iter().map(|logged| logged.input);
        let others = [
            Input::Tick,
            Input::Persisted { upto: JournalSeq(1) },
            Input::Computed { id: RequestId(1), result: Err(Fault::device("gone")) },
            Input::Command(Command::Save),
            Input::Signed { id: RequestId(2), signature: Signature([0; 64]) },
            Input::Fetched { id: RequestId(3), result: Ok(()) },
        ];
        let all: Vec<Input> = message.chain(others).collect();
        assert!(all.iter().all(|input| INPUT_KINDS[place(input)] == input.name()));
        assert!((0..INPUT_KINDS.len()).all(|kind| all.iter().any(|input| place(input) == kind)));
    }

    #[test]
    fn places_are_steps_or_seconds() {
        let time = |ms| Ok(At::Time(Time::from_ms(ms)));
        let cases = [
            ("1200", Ok(At::Step(1200))),
            ("3s", time(3000)),
            ("3.5s", time(3500)),
            ("0.007s", time(7)),
            ("18446744073709551s", time(18_446_744_073_709_551_000)),
            ("18446744073709552s", Err(NoPlace)),
            ("3.s", Err(NoPlace)),
            ("3.0001s", Err(NoPlace)),
            ("3.+1s", Err(NoPlace)),
            ("s", Err(NoPlace)),
            ("-1", Err(NoPlace)),
            ("", Err(NoPlace)),
        ];
        for (text, place) in cases {
            assert_eq!(text.parse(), place, "{text:?}");
        }
    }
}
