//! What a node answers to those who would have it as a member: what it can do, and whether it agrees to their terms.

use neuroshard_proto::{Decline, FormingWord, NodeId, QuorumId, Terms, Time};

use super::{Forming, GOOD_MS, RESERVED_MS, State, say};
use crate::cx::{Cx, Local};
use crate::ledger::Ledger;

impl Forming {
    pub(super) fn offer(&self, cx: &mut Cx<'_>, ledger: &Ledger, to: NodeId, question: u64) {
        let Some((layer_us, _)) = self.layer_us else { return };
        let declines = if self.skill(cx, ledger).is_none() {
            Some(Decline::Unwilling)
        } else if self.reached.ahead {
            Some(Decline::Ahead)
        } else {
            self.is_reserved(cx.now, None).then_some(Decline::Reserved)
        };
        say(cx, to, FormingWord::Offer { question, layer_us, declines });
    }

    pub(super) fn is_reserved(&self, now: Time, but: Option<QuorumId>) -> bool {
        self.reserved.is_some_and(|(quorum, until)| now < until && Some(quorum) != but)
    }

    /// Another node proposes terms.
    pub(super) fn on_proposal(&mut self, cx: &mut Cx<'_>, ledger: &Ledger, from: NodeId, terms: &Terms) {
        let network = cx.config.genesis.network();
        let quorum = terms.id(network);
        match self.judge(cx, ledger, from, quorum, terms) {
            Err(why) => say(cx, from, FormingWord::Decline { quorum, why }),
            Ok(()) => {
                if matches!(self.state, State::Proposing(_) | State::Asking(_)) {
                    self.rest(cx);
                }
                self.reserved = Some((quorum, cx.now.after_ms(RESERVED_MS)));
                cx.tell(Local::Consent { quorum, digest: terms.digest(network), to: from });
            }
        }
    }

    fn judge(
        &self,
        cx: &Cx<'_>,
        ledger: &Ledger,
        from: NodeId,
        quorum: QuorumId,
        terms: &Terms,
    ) -> Result<(), Decline> {
        let skill = self.skill(cx, ledger).ok_or(Decline::Unwilling)?;
        if terms.valid_until <= cx.now || terms.valid_until.ms_since(cx.now) > 2 * GOOD_MS {
            return Err(Decline::Lapsed);
        }
        let own = terms.plan.members.iter().find(|member| member.node == cx.config.node);
        let fits = own.is_some_and(|own| skill.held.start <= own.stages.start && own.stages.end <= skill.held.end);
        if !fits || terms.plan.check(&cx.config.genesis.model).is_err() || terms.plan.place(&from).is_none() {
            return Err(Decline::Stages);
        }
        if self.reached.ahead {
            return Err(Decline::Ahead);
        }
        if ledger.quorum_of(&cx.config.node).is_some_and(|(id, _)| !terms.ends.contains(&id)) {
            return Err(Decline::Taken);
        }
        if self.is_reserved(cx.now, Some(quorum)) {
            return Err(Decline::Reserved);
        }
        match &self.state {
            State::Proposing(proposal) if proposal.quorum < quorum => Err(Decline::Precedence),
            State::Publishing { .. } => Err(Decline::Reserved),
            State::Resting | State::Asking(_) | State::Proposing(_) => Ok(()),
        }
    }
}
