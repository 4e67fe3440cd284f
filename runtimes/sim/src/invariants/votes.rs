//! An honest validator never makes two votes that contradict each other, however often it falls and comes back
//! (PROTOCOL §11): what it published in any of its lives is held together.

use std::collections::BTreeMap;

use neuroshard_core::Output;
use neuroshard_proto::chain::Statement;
use neuroshard_proto::{Kind, Message};

use super::{Checker, Stepped};

/// Heights that are remembered of each host.
const HEIGHTS_MAX: usize = 16;

/// What each host stated, by height.
#[derive(Debug, Default)]
pub(super) struct Votes {
    stated: BTreeMap<u32, BTreeMap<u64, Vec<Statement>>>,
}

impl Votes {
    fn state(&mut self, host: u32, statement: Statement) -> Result<(), String> {
        let heights = self.stated.entry(host).or_default();
        let stated = heights.entry(statement.height()).or_default();
        if let Some(other) = stated.iter().find(|other| other.contradicts(&statement)) {
            return Err(format!("an honest node voted {statement:?} after {other:?}"));
        }
        if !stated.contains(&statement) {
            stated.push(statement);
        }
        while heights.len() > HEIGHTS_MAX {
            heights.pop_first();
        }
        Ok(())
    }
}

impl Checker for Votes {
    fn name(&self) -> &'static str {
        "votes agree"
    }

    fn stepped(&mut self, step: &Stepped<'_>) -> Result<(), String> {
        if !step.honest {
            return Ok(());
        }
        step.outputs.iter().try_for_each(|output| {
            let (Output::Send { message, .. } | Output::Publish { message, .. }) = output else { return Ok(()) };
            if message.kind != Kind::Vote.number() {
                return Ok(());
            }
            match Message::from_payload(Kind::Vote, &message.payload) {
                Ok(Message::Vote(vote)) => self.state(step.host, vote.statement),
                Ok(_) | Err(_) => Err("a vote that cannot be read".to_owned()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Hash;

    use super::*;

    #[test]
    fn two_blocks_in_one_view_contradict_and_the_same_vote_again_does_not() {
        let vote = |view, block: &[u8]| Statement::Notarize { height: 5, view, block: Hash::of_blob(block) };
        let mut votes = Votes::default();
        assert_eq!(votes.state(0, vote(0, b"a")), Ok(()));
        assert_eq!(votes.state(0, vote(0, b"a")), Ok(()));
        assert_eq!(votes.state(1, vote(0, b"b")), Ok(()), "another node");
        assert_eq!(votes.state(0, vote(1, b"b")), Ok(()), "another view");
        assert!(votes.state(0, vote(0, b"b")).unwrap_err().contains("after"));
    }
}
