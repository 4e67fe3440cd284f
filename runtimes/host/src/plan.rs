//! The plan of a quorum as a data directory keeps it: whoever opens the directory later knows which stages lie in it.

use neuroshard_proto::{Hash, Plan, codec};

use crate::directory::Paths;
use crate::files::{self, Access, FileError};

/// Largest file of a plan.
const FILE_BYTES_MAX: u64 = 64 << 10;
const HASH_BYTES: usize = 32;

/// Why a plan cannot be read.
#[derive(Debug)]
pub(crate) enum KeptError {
    File(FileError),
    Damaged { why: String },
}

/// The plan of a data directory, if it has one.
pub(crate) fn read(paths: &Paths) -> Result<Option<Plan>, KeptError> {
    let bytes = match files::read_limited(&paths.plan(), FILE_BYTES_MAX) {
        Err(error) if error.is_missing() => return Ok(None),
        other => other.map_err(KeptError::File)?,
    };
    let damaged = |why: &str| KeptError::Damaged { why: why.to_owned() };
    let (body, stored) = bytes.split_last_chunk::<HASH_BYTES>().ok_or_else(|| damaged("it is cut short"))?;
    if Hash::of_blob(body).as_bytes() != stored {
        return Err(damaged("its bytes do not have the hash they should have"));
    }
    codec::decode(body).map(Some).map_err(|error| damaged(&error.to_string()))
}

/// Keeps a plan.
pub(crate) fn write(paths: &Paths, plan: &Plan) -> Result<(), FileError> {
    let body = codec::encode(plan);
    let hash = Hash::of_blob(&body);
    files::write_durably(&paths.plan(), &[&body[..], hash.as_bytes()].concat(), Access::Default)
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::{LayerRange, Member, NodeId};

    use super::*;
    use crate::directory::DataDirectory;

    #[test]
    fn a_plan_comes_back_as_it_was_and_a_damaged_one_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(scratch.path()).unwrap();
        let paths = directory.paths();
        assert!(matches!(read(paths), Ok(None)));
        let member = Member { node: NodeId::from_bytes([7; 32]), stages: LayerRange { start: 0, end: 5 } };
        let plan = Plan { members: vec![member].try_into().unwrap(), snapshot_steps: 9 };
        write(paths, &plan).unwrap();
        assert_eq!(read(paths).unwrap(), Some(plan));
        let mut bytes = std::fs::read(paths.plan()).unwrap();
        bytes[3] ^= 1;
        for bytes in [&bytes[..], &bytes[..9]] {
            std::fs::write(paths.plan(), bytes).unwrap();
            assert!(matches!(read(paths), Err(KeptError::Damaged { .. })));
        }
    }
}
