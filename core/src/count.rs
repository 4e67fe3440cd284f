//! Counts from one width to another: what does not fit is the most that does.

pub(crate) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub(crate) fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(crate) fn place(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
