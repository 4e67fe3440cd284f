//! Single calls.
use super::pass::Crew;
use crate::values::{Shape, Values};
use neuroshard_proto::Fault;
use neuroshard_proto::ops::Call;

pub(crate) fn apply(_: &mut Crew, _: &Call, _: &Shape, _: &mut Values) -> Result<bool, Fault> {
    Err(Fault::device("later"))
}
