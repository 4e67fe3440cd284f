//! neuroshard-benches
