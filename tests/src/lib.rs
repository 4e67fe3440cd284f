//! neuroshard-tests
