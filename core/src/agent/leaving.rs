//! Leaving for good (PROTOCOL §4): a member that its operator takes away lets the others go on without it.
//!
//! Others can go on from the newest step of which all stages were posted. So the member trains on until there is a new one,
//! which a quorum of one makes at once; then it ends its quorum, and stays for as long as those who take its stages up need to
//! fetch them; then it stops. It takes part in nothing new from the beginning. Each of these waits has an end, for nobody is held
//! by others who are gone.

use alloc::boxed::Box;

use neuroshard_proto::chain::Action;
use neuroshard_proto::{Step, Time};
use serde::Serialize;

use crate::cx::{Cx, Local};
use crate::io::Command;
use crate::ledger::Ledger;

/// How long the next common step is waited for, and that of a quorum of one.
const HAND_OVER_MS: u64 = 120_000;
const ALONE_MS: u64 = 20_000;
/// A step that was posted so recently is as good as the next one.
const FRESH_MS: u64 = 3000;
/// An end that is not on the ledger after so long was lost.
const AGAIN_MS: u64 = 10_000;
/// How long the ledger may take for it; then the quorum ends without, by its members' patience.
const END_MS: u64 = 60_000;
/// How long those who take over may fetch.
const STAY_MS: u64 = 20_000;

/// How far a node has come with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Leaving {
    /// It waits for a step after this one that all members posted.
    HandsOver { after: Step, until: Time },
    /// It wishes for its quorum's end.
    Ends { again: Time, until: Time },
    /// It gives its stages to whoever takes them up.
    Stays { until: Time },
    /// It was told to stop.
    Gone,
}

impl Leaving {
    /// Begins. `anchor` is the newest step that all members posted, and when that was heard of.
    pub(crate) fn begin(cx: &mut Cx<'_>, ledger: &Ledger, (anchor, heard): (Step, Time)) -> Self {
        let Some((_, quorum)) = ledger.quorum_of(&cx.config.node) else { return Self::stop(cx) };
        if anchor > Step(0) && cx.now.ms_since(heard) < FRESH_MS {
            return Self::ends(cx);
        }
        let alone = quorum.plan.members.len() == 1;
        if alone {
            cx.tell(Local::Command(Command::Save));
        }
        let patience = if alone { ALONE_MS } else { HAND_OVER_MS };
        Self::HandsOver { after: anchor, until: cx.now.after_ms(patience) }
    }

    /// Looks how things stand: the ledger moved on, or a wait is over. `heard` says whether there are others.
    pub(crate) fn look(self, cx: &mut Cx<'_>, ledger: &Ledger, heard: bool) -> Self {
        let mine = ledger.quorum_of(&cx.config.node).map(|(id, _)| id);
        match (self, mine) {
            (Self::Gone, _) => self,
            (Self::HandsOver { .. } | Self::Ends { .. }, None) if heard => {
                Self::Stays { until: cx.now.after_ms(STAY_MS) }
            }
            (Self::HandsOver { .. } | Self::Ends { .. }, None) => Self::stop(cx),
            (Self::HandsOver { after, until }, Some(_)) => {
                let posted = ledger.anchor().is_some_and(|anchor| anchor.step > after);
                if posted || cx.now >= until { Self::ends(cx) } else { self }
            }
            (Self::Ends { until, .. }, Some(_)) if cx.now >= until => Self::stop(cx),
            (Self::Ends { again, until }, Some(quorum)) if cx.now >= again => {
                cx.tell(Local::Act { action: Box::new(Action::EndQuorum { quorum }), after: None });
                Self::Ends { again: cx.now.after_ms(AGAIN_MS), until }
            }
            (Self::Stays { until }, _) if cx.now >= until || !heard => Self::stop(cx),
            (Self::Ends { .. } | Self::Stays { .. }, _) => self,
        }
    }

    /// When to look again even if nothing happens.
    pub(crate) fn wakes(self) -> Option<Time> {
        match self {
            Self::HandsOver { until, .. } | Self::Stays { until } => Some(until),
            Self::Ends { again, until } => Some(again.min(until)),
            Self::Gone => None,
        }
    }

    fn ends(cx: &Cx<'_>) -> Self {
        Self::Ends { again: cx.now, until: cx.now.after_ms(END_MS) }
    }

    fn stop(cx: &mut Cx<'_>) -> Self {
        cx.tell(Local::Command(Command::Stop));
        Self::Gone
    }
}
