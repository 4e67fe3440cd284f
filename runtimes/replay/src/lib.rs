//! neuroshard-replay
