//! neuroshard-cli
