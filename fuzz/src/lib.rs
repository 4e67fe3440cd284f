//! neuroshard-fuzz
