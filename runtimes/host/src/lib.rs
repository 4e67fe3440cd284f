//! neuroshard-host
