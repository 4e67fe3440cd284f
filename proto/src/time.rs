//! Time as the protocol counts it (PROTOCOL §0.2).

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// Milliseconds since the network's genesis. The core never reads a clock; the host hands the time in with each input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct Time(u64);

impl Time {
    pub const ZERO: Self = Self(0);

    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The moment `ms` later; saturates at the end of time, which no network reaches.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`, 0 if `earlier` is later.
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.checked_div(1000).unwrap_or_default();
        let rest = self.0.checked_rem(1000).unwrap_or_default();
        write!(f, "{seconds}.{rest:03}s")
    }
}
