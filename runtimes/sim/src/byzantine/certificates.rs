//! Bad certificates: it gathers the votes that it hears and makes of them proofs that are none. Too few signers, a signer twice,
//! signatures under another subject, blocks decided by nobody, all sent under its own good name.

use std::collections::VecDeque;
use std::rc::Rc;

use neuroshard_proto::chain::{Certificate, Decided, SignedVote, Statement, Subject, Vote};
use neuroshard_proto::{Carried, Hash, Message, Shared, Verified};

use super::{Conduct, View};
use crate::message::Body;

/// Votes that it keeps.
const VOTES_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Certificates {
    votes: VecDeque<SignedVote>,
    /// The newest decided block it heard of.
    decided: Option<Shared<Decided>>,
}

impl Conduct for Certificates {
    fn outgoing(&mut self, view: &View<'_>, to: u32, body: &Rc<Body>) -> Vec<Rc<Body>> {
        self.incoming(body);
        let draw = view.draw.of(u64::from(to));
        let forged = match body.opened.as_ref().map(Verified::message) {
            Ok(Message::Certificate(carried)) => Some(spoil(&carried.what, view, draw.below(4))),
            Ok(Message::Decided(carried)) => Some(spoil(&carried.what.certificate, view, draw.below(4))),
            _ => None,
        };
        let forged = forged.map(|certificate| carry(view, certificate));
        [Some(Rc::clone(body)), forged].into_iter().flatten().collect()
    }

    fn incoming(&mut self, body: &Rc<Body>) {
        match body.opened.as_ref().map(|verified| (verified.message(), verified.signature())) {
            Ok((Message::Vote(vote), signature)) => {
                self.votes.truncate(VOTES_MAX - 1);
                self.votes.push_front(SignedVote { vote: *vote, signature });
            }
            Ok((Message::Decided(carried), _)) => self.decided = Some(carried.what.clone()),
            _ => {}
        }
    }

    fn unbidden(&mut self, view: &View<'_>, to: u32) -> Vec<Rc<Body>> {
        let draw = view.draw.of(u64::from(to));
        let height = self.votes.front().map_or(1, |vote| vote.vote.statement.height());
        let block = Hash::from_bytes(crate::keys::seed_bytes(draw.bits(), "no block", 0));
        let view_number = draw.of(1).below(3);
        let subject = Subject::Finalized { height, view: view_number, block };
        // Alone it may say what it likes; that is no quorum.
        let alone = own_vote(view, Statement::Finalize { height, view: view_number, block });
        let mut sent = vec![carry(view, Certificate::gather(subject, [alone]))];
        if let Some(decided) = &self.decided {
            // A decided block under a certificate that is not its own.
            let mut decided = decided.clone();
            decided.certificate = Certificate::gather(subject, [alone]);
            let message = Message::Decided(Box::new(Carried { node: view.keys.name(view.host), what: decided }));
            sent.push(Rc::new(Body::signed(view.keys, view.host, view.network, &message)));
        }
        if let Some(vote) = self.votes.front() {
            // One honest vote and its own: fewer than a quorum wherever there are more than two.
            let honest = vote.vote.statement;
            let own = own_vote(view, honest);
            let of = |statement: Statement| match statement {
                Statement::Notarize { height, view, block } => Subject::Notarized { height, view, block },
                Statement::Nullify { height, view, .. } => Subject::Nullified { height, view },
                Statement::Finalize { height, view, block } => Subject::Finalized { height, view, block },
            };
            sent.push(carry(view, Certificate::gather(of(honest), [*vote, own])));
        }
        sent
    }
}

fn own_vote(view: &View<'_>, statement: Statement) -> SignedVote {
    let vote = Vote { validator: view.keys.name(view.host), statement };
    SignedVote { vote, signature: view.keys.sign(view.host, &vote.digest(view.network)) }
}

/// A certificate that no longer proves what it says.
fn spoil(certificate: &Certificate, view: &View<'_>, how: u64) -> Certificate {
    let mut spoiled = certificate.clone();
    let mut endorsements = spoiled.endorsements.clone().into_vec();
    match how {
        0 => endorsements.truncate(endorsements.len() / 2),
        1 => endorsements.extend(endorsements.first().copied()),
        2 => {
            let other = Hash::from_bytes(crate::keys::seed_bytes(view.draw.bits(), "another block", 0));
            spoiled.subject = match spoiled.subject {
                Subject::Notarized { height, view, .. } => Subject::Finalized { height, view, block: other },
                Subject::Nullified { height, view } => Subject::Finalized { height, view, block: other },
                Subject::Finalized { height, view, .. } => Subject::Nullified { height, view },
            };
        }
        _ => endorsements.clear(),
    }
    spoiled.endorsements = endorsements.try_into().unwrap_or_default();
    spoiled
}

fn carry(view: &View<'_>, what: Certificate) -> Rc<Body> {
    let message = Message::Certificate(Box::new(Carried { node: view.keys.name(view.host), what }));
    Rc::new(Body::signed(view.keys, view.host, view.network, &message))
}
