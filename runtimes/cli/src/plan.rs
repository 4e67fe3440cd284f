//! `--plan`: a file in which operators who know each other write down who runs which stages.
//!
//! ```toml
//! snapshot-steps = 100        # every member saves its stages after so many steps
//!
//! [[member]]                  # the first member draws the batches ...
//! node = "64 hexadecimal digits of `neuroshard keys show`"
//! stages = "0..3"
//!
//! [[member]]                  # ... and the last one computes the loss
//! node = "..."
//! stages = "3..5"
//! ```

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use neuroshard_proto::{Hash, LayerRange, MEMBERS_MAX, Member, ModelSpec, NodeId, Plan};
use serde::{Deserialize, Deserializer, de};

use crate::failure::Failure;

/// Largest plan file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Steps between two snapshots, unless the file says otherwise.
const SNAPSHOT_STEPS: u32 = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PlanFile {
    #[serde(default = "snapshot_steps")]
    snapshot_steps: u32,
    #[serde(default)]
    member: Vec<MemberLine>,
}

const fn snapshot_steps() -> u32 {
    SNAPSHOT_STEPS
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MemberLine {
    #[serde(deserialize_with = "from_text")]
    node: NodeName,
    #[serde(deserialize_with = "from_text")]
    stages: Stages,
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[derive(Debug)]
struct NodeName(NodeId);

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = Hash::from_hex(text).ok_or_else(|| {
            format!("`{text}` is no node; `neuroshard keys show` prints this machine's: 64 hexadecimal digits")
        })?;
        Ok(Self(NodeId::from_bytes(*name.as_bytes())))
    }
}

#[derive(Debug)]
struct Stages(LayerRange);

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once("..").and_then(|(start, end)| {
            Some(LayerRange { start: start.trim().parse().ok()?, end: end.trim().parse().ok()? })
        });
        range.map(Self).ok_or_else(|| {
            format!("`{text}` are no stages; \"0..3\" are the first three, and the next member goes on from 3")
        })
    }
}

/// Reads a plan and checks it against a model; this node must have a part in it.
pub(crate) fn read(path: &Path, model: &ModelSpec, me: NodeId) -> Result<Plan, Failure> {
    let plan = load(path).and_then(|text| parse(&text, model, me));
    plan.map_err(|why| Failure::usage(format!("the plan {}: {why}", path.display())))
}

fn load(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("it has {length} bytes, at most {FILE_BYTES_MAX} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn parse(text: &str, model: &ModelSpec, me: NodeId) -> Result<Plan, String> {
    let PlanFile { snapshot_steps, member } = toml::from_str(text).map_err(|error| error.to_string())?;
    let members = member.iter().map(|line| Member { node: line.node.0, stages: line.stages.0 });
    let members: Vec<Member> = members.collect();
    let count = members.len();
    let members = members.try_into().map_err(|_| format!("it has {count} members, at most {MEMBERS_MAX} can be"))?;
    let plan = Plan { members, snapshot_steps };
    plan.check(model).map_err(|error| {
        let all = model.all_layers();
        format!(
            "{error}. This network's model has the stages {all}: stage 0 carries the embedding, stage {} is the head, and each \
             stage belongs to one member, in order.",
            model.layers
        )
    })?;
    if plan.place(&me).is_none() {
        return Err(format!(
            "this node, {me}, has no stages in it. The name of each member is what `neuroshard keys show` prints there."
        ));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Preset;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn parsed(text: &str) -> Result<Plan, String> {
        parse(text, &Preset::Nano.specs().0, node(2))
    }

    fn member(number: u8, stages: &str) -> String {
        format!("[[member]]\nnode = '{}'\nstages = '{stages}'\n", node(number))
    }

    #[test]
    fn a_plan_is_read_as_it_is_written() {
        let plan = parsed(&format!("snapshot-steps = 7\n{}{}", member(1, "0..2"), member(2, "2 .. 5"))).unwrap();
        let expected = [(1, 0, 2), (2, 2, 5)];
        let expected =
            expected.map(|(number, start, end)| Member { node: node(number), stages: LayerRange { start, end } });
        assert_eq!((plan.members.to_vec(), plan.snapshot_steps), (expected.to_vec(), 7));
        assert_eq!(parsed(&member(2, "0..5")).unwrap().snapshot_steps, SNAPSHOT_STEPS);
    }

    #[test]
    fn a_mistake_in_a_plan_is_told_with_what_would_be_right() {
        let wrong = |text: &str, words: &[&str]| {
            let why = parsed(text).unwrap_err();
            words.iter().for_each(|word| assert!(why.contains(word), "`{word}` is missing in: {why}"));
        };
        wrong("", &["no members", "0..5", "stage 4 is the head"]);
        wrong(&(member(1, "0..2") + &member(2, "3..5")), &["member 1 begins with stage 3", "before stage 2"]);
        wrong(&(member(1, "0..2") + &member(2, "2..4")), &["ends before stage 4, the model before 5"]);
        wrong(&(member(1, "0..2") + &member(1, "2..5")), &["stands in the plan twice"]);
        wrong(&(member(1, "0..2") + &member(3, "2..5")), &["this node, 0202", "keys show"]);
        wrong(&member(2, "0-5"), &["line 3", "`0-5` are no stages", "\"0..3\""]);
        wrong("[[member]]\nnode = 'me'\nstages = '0..5'\n", &["line 2", "`me` is no node", "keys show"]);
        wrong(&format!("snapshot-steps = 0\n{}", member(2, "0..5")), &["never persists"]);
        wrong("[[members]]\n", &["unknown field `members`"]);
        wrong(&(0..17).map(|number| member(number, "0..1")).collect::<String>(), &["17 members, at most 16"]);
    }
}
