//! Who would make a good pipeline, and which stages each would run (PROTOCOL §4): a greedy choice of members, and the cut of
//! the model among them whose slowest member is as fast as can be. All in integers, so that everybody who asks the same finds
//! the same.

use alloc::vec;
use alloc::vec::Vec;

use neuroshard_proto::{LayerRange, Member, ModelSpec, NodeId, Tier};
use serde::Serialize;

use crate::count::{narrow, place, wide};

/// Most members of a quorum.
const MEMBERS_MAX: usize = 16;
/// A backward pass takes twice as long as a forward pass.
const PASSES: u64 = 3;

/// What a node can do for a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Skill {
    pub(crate) node: NodeId,
    /// Stages that it has room for.
    pub(crate) held: LayerRange,
    /// Microseconds of one layer's forward pass.
    pub(crate) layer_us: u64,
    /// Milliseconds to it and back, as the one who asks sees it.
    pub(crate) latency_ms: u64,
    pub(crate) tier: Tier,
}

/// A pipeline that could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crew {
    pub(crate) members: Vec<Member>,
    /// How long a batch would take, in microseconds, as far as can be told beforehand.
    pub(crate) batch_us: u64,
}

/// What is to be shared out.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) model: &'a ModelSpec,
    /// Sequences in a batch.
    pub(crate) sequences: u32,
    /// Fewest members.
    pub(crate) members_min: usize,
}

impl Task<'_> {
    /// The best pipeline that `own` can make with others; `None` if the model cannot be covered, or by too few.
    pub(crate) fn choose(&self, own: Skill, others: &[Skill]) -> Option<Crew> {
        let mut chosen = self.cover(own, others)?;
        while chosen.len() < self.members_min {
            let more = self.more(&chosen, others).min_by_key(|skill| (skill.layer_us, skill.latency_ms, skill.node))?;
            chosen.push(more);
        }
        let mut best = self.cut(own.node, &chosen)?;
        // Who covers nothing new is of use where the others have less to do for it.
        while chosen.len() < MEMBERS_MAX {
            let with = |more: Skill| {
                let mut with = chosen.clone();
                with.push(more);
                self.cut(own.node, &with).map(|crew| (crew, more))
            };
            let better = self.more(&chosen, others).filter_map(with);
            let Some((crew, more)) = better.min_by_key(|(crew, more)| (crew.batch_us, more.node)) else { break };
            if crew.batch_us >= best.batch_us {
                break;
            }
            best = crew;
            chosen.push(more);
        }
        Some(best)
    }

    /// How long a batch takes these members with these stages; `None` if one of them is not known.
    pub(crate) fn batch_us(&self, members: &[Member], skills: &[Skill]) -> Option<u64> {
        let (mut slowest, mut apart) = (0, 0_u64);
        for member in members {
            let skill = skills.iter().find(|skill| skill.node == member.node)?;
            slowest = slowest.max(self.stages_us(skill, member.stages));
            apart = apart.saturating_add(skill.latency_ms);
        }
        Some(self.estimate(members.len(), slowest, apart))
    }

    /// Takes whoever brings the most that is new for its distance, until nothing is missing.
    fn cover(&self, own: Skill, others: &[Skill]) -> Option<Vec<Skill>> {
        let all = self.model.all_layers();
        let mut chosen = vec![own];
        loop {
            let missing = |stage: u32| chosen.iter().all(|skill| !(skill.held.start..skill.held.end).contains(&stage));
            let missing: Vec<u32> = (all.start..all.end).filter(|stage| missing(*stage)).collect();
            if missing.is_empty() {
                return Some(chosen);
            }
            let news = |skill: &Skill| {
                let held = skill.held.start..skill.held.end;
                wide(missing.iter().filter(|stage| held.contains(stage)).count())
            };
            // a / (1 + x / 100) against b / (1 + y / 100), without fractions.
            let next = self.more(&chosen, others).max_by(|a, b| {
                let (left, right) = (
                    news(a).saturating_mul(b.latency_ms.saturating_add(100)),
                    news(b).saturating_mul(a.latency_ms.saturating_add(100)),
                );
                left.cmp(&right).then(b.node.cmp(&a.node))
            })?;
            if news(&next) == 0 || chosen.len() == MEMBERS_MAX {
                return None;
            }
            chosen.push(next);
        }
    }

    /// Those who are not chosen yet and match the speed of all who are.
    fn more<'a>(&self, chosen: &'a [Skill], others: &'a [Skill]) -> impl Iterator<Item = Skill> {
        let new = |skill: &&Skill| chosen.iter().all(|one| one.node != skill.node);
        let matches = |skill: &&Skill| chosen.iter().all(|one| one.tier.compatible(skill.tier));
        others.iter().filter(new).filter(matches).copied()
    }

    /// Cuts the model among members so that the slowest takes as short as can be. Each runs at least one stage.
    fn cut(&self, first: NodeId, chosen: &[Skill]) -> Option<Crew> {
        let mut order = chosen.to_vec();
        order.sort_by_key(|skill| (skill.held.start, skill.node != first, skill.held.end, skill.node));
        let all = self.model.all_layers();
        let stages = place(all.end.saturating_sub(all.start));
        // best[i][s]: the slowest of the first i members when they run the first s stages, and where the last of them begins.
        let mut best: Vec<Vec<Option<(u64, usize)>>> =
            vec![vec![None; stages.saturating_add(1)]; order.len().saturating_add(1)];
        *best.first_mut()?.first_mut()? = Some((0, 0));
        for (place, skill) in order.iter().enumerate() {
            for end in 1..=stages {
                let begin = |begin: usize| {
                    let (slowest, _) = (*best.get(place)?.get(begin)?)?;
                    let range = LayerRange {
                        start: all.start.saturating_add(narrow(begin)),
                        end: all.start.saturating_add(narrow(end)),
                    };
                    let holds = skill.held.start <= range.start && range.end <= skill.held.end;
                    holds.then(|| (slowest.max(self.stages_us(skill, range)), begin))
                };
                let found = (0..end).filter_map(begin).min();
                if let Some(slot) = best.get_mut(place.saturating_add(1)).and_then(|row| row.get_mut(end)) {
                    *slot = found;
                }
            }
        }
        let (slowest, _) = (*best.get(order.len())?.get(stages)?)?;
        let (mut members, mut end) = (Vec::new(), stages);
        for (place, skill) in order.iter().enumerate().rev() {
            let (_, begin) = (*best.get(place.saturating_add(1))?.get(end)?)?;
            let (start, stop) = (all.start.saturating_add(narrow(begin)), all.start.saturating_add(narrow(end)));
            members.push(Member { node: skill.node, stages: LayerRange { start, end: stop } });
            end = begin;
        }
        members.reverse();
        let apart = order.iter().map(|skill| skill.latency_ms).fold(0, u64::saturating_add);
        Some(Crew { batch_us: self.estimate(members.len(), slowest, apart), members })
    }

    /// A pipeline fills and empties once a batch, and what passes travels between its members both ways.
    fn estimate(&self, members: usize, slowest: u64, apart_ms: u64) -> u64 {
        let rounds = u64::from(self.sequences).saturating_add(wide(members)).saturating_sub(1);
        let apart = if members > 1 { apart_ms.saturating_mul(1000) } else { 0 };
        slowest.saturating_mul(PASSES).saturating_mul(rounds).saturating_add(apart)
    }

    /// Microseconds of a forward pass through these stages: a layer's, by the weights that they have in relation to one.
    fn stages_us(&self, skill: &Skill, range: LayerRange) -> u64 {
        let one = self.model.layer_parameters(neuroshard_proto::LayerIndex(1)).max(1);
        let weights = range.iter().map(|stage| self.model.layer_parameters(stage)).fold(0, u64::saturating_add);
        let us = u128::from(weights).saturating_mul(u128::from(skill.layer_us)).div_ceil(u128::from(one));
        u64::try_from(us).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Preset;

    use super::*;

    fn skill(name: u8, held: (u32, u32), layer_us: u64, latency_ms: u64) -> Skill {
        let (held, node) = (LayerRange { start: held.0, end: held.1 }, NodeId::from_bytes([name; 32]));
        Skill { node, held, layer_us, latency_ms, tier: Tier::T1 }
    }

    fn choose(members_min: usize, skills: &[Skill]) -> Option<Crew> {
        let (model, training) = Preset::Micro.specs();
        let task = Task { model: &model, sequences: training.batch, members_min };
        let crew = task.choose(skills[0], &skills[1..])?;
        let mut next = 0;
        for member in &crew.members {
            let held = skills.iter().find(|skill| skill.node == member.node).unwrap().held;
            assert!(member.stages.start == next && member.stages.end > next, "{crew:?}");
            assert!(held.start <= member.stages.start && member.stages.end <= held.end, "{crew:?}");
            next = member.stages.end;
        }
        assert_eq!(next, model.layers + 1);
        assert_eq!(task.batch_us(&crew.members, skills), Some(crew.batch_us));
        Some(crew)
    }

    fn all() -> (u32, u32) {
        (0, Preset::Micro.specs().0.layers + 1)
    }

    #[test]
    fn who_lacks_stages_takes_the_nearest_that_bring_the_most() {
        let end = all().1;
        let far = skill(2, (1, end), 1000, 400);
        let near = skill(3, (1, end), 1000, 10);
        let crew = choose(1, &[skill(1, (0, 2), 1000, 0), far, near]).unwrap();
        assert!(crew.members.iter().any(|member| member.node == near.node), "{crew:?}");
        assert!(crew.members.iter().all(|member| member.node != far.node), "{crew:?}");
        assert_eq!(choose(1, &[skill(1, (0, 2), 1000, 0), skill(2, (3, end), 1000, 1)]), None, "stage 2 is missing");
    }

    #[test]
    fn the_fast_run_more_stages_than_the_slow() {
        let crew = choose(2, &[skill(1, all(), 9000, 0), skill(2, all(), 3000, 1)]).unwrap();
        let stages = |member: &Member| member.stages.end - member.stages.start;
        assert_eq!(crew.members.len(), 2);
        assert!(stages(&crew.members[0]) < stages(&crew.members[1]), "{crew:?}");
    }

    #[test]
    fn more_members_are_taken_where_they_make_batches_shorter() {
        let near: Vec<Skill> = (1..=3).map(|name| skill(name, all(), 5000, 1)).collect();
        assert_eq!(choose(1, &near).unwrap().members.len(), 3);
        let far: Vec<Skill> = (1..=3).map(|name| skill(name, all(), 5000, u64::from(name - 1) * 5000)).collect();
        assert_eq!(choose(1, &far).unwrap().members.len(), 1, "distance costs more than it brings");
        assert_eq!(choose(2, &far).unwrap().members.len(), 2, "unless there must be two");
        assert_eq!(choose(4, &far), None);
    }

    #[test]
    fn nobody_is_matched_with_who_is_too_slow() {
        let slow = Skill { tier: Tier::T3, ..skill(2, all(), 90_000, 1) };
        assert_eq!(choose(2, &[skill(1, all(), 5000, 0), slow]), None);
    }
}
