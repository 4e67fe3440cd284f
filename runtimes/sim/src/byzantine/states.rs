//! Lies about the state, to those who are far behind: steps to headers that nobody decided, pieces that are changed, that stand
//! elsewhere or belong to an older state, and silence in the middle of it.

use std::rc::Rc;

use neuroshard_proto::chain::{StatePiece, Steps};
use neuroshard_proto::{Message, Verified};

use super::{Conduct, View};
use crate::message::Body;

#[derive(Debug, Default)]
pub(super) struct States {
    /// A piece that it gave before.
    older: Option<Box<StatePiece>>,
}

impl Conduct for States {
    fn outgoing(&mut self, view: &View<'_>, to: u32, body: &Rc<Body>) -> Vec<Rc<Body>> {
        let draw = view.draw.of(u64::from(to));
        let lie = match body.opened.as_ref().map(Verified::message) {
            Ok(Message::Steps(steps)) => bend_steps(steps, draw.below(4)),
            Ok(Message::StatePiece(given)) => {
                let older = self.older.replace(given.clone());
                bend_piece(given, older.as_deref(), draw.below(5))
            }
            _ => return vec![Rc::clone(body)],
        };
        lie.map(|message| Rc::new(Body::signed(view.keys, view.host, view.network, &message))).into_iter().collect()
    }
}

/// Steps that lead nowhere; `None` where it keeps silent.
fn bend_steps(steps: &Steps, how: u64) -> Option<Message> {
    let mut bent = steps.clone();
    let mut list = bent.steps.clone().into_vec();
    match how {
        0 => return None,
        1 => list.iter_mut().for_each(|step| step.header.height += 1),
        2 => list.iter_mut().for_each(|step| step.certificate.endorsements = Default::default()),
        _ => bent.arrives = !bent.arrives,
    }
    bent.steps = list.try_into().unwrap_or_default();
    Some(Message::Steps(Box::new(bent)))
}

fn bend_piece(given: &StatePiece, older: Option<&StatePiece>, how: u64) -> Option<Message> {
    let mut bent = given.clone();
    match how {
        0 => return None,
        1 => bent.piece = None,
        2 => bent.piece = older.and_then(|older| older.piece.clone()),
        3 => bent.height += 1,
        _ => {
            let mut bytes = given.piece.clone().map(neuroshard_proto::Bytes::into_vec).unwrap_or_default();
            let middle = bytes.len() / 2;
            bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
            bent.piece = bytes.try_into().ok();
        }
    }
    Some(Message::StatePiece(Box::new(bent)))
}
