//! IEEE 754 single precision in integers, so that a node without floats can re-execute one element of any operation
//! (ARCHITECTURE §4).
//!
//! Addition and multiplication round to nearest, ties to even, over the whole range with subnormals, infinities and NaN;
//! a NaN result is always [`NAN`]. The canonical lane never leaves the normal numbers, but a referee meets whatever a
//! liar posts.

use neuroshard_proto::F32;

/// The one NaN this module makes.
pub const NAN: F32 = F32::from_bits(0x7fc0_0000);
/// Positive infinity.
pub const INFINITY: F32 = F32::from_bits(INFINITY_BITS);

const INFINITY_BITS: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;
const FRACTION: u32 = 0x007f_ffff;
const HIDDEN: u32 = 0x0080_0000;
/// Exponent of the last place of the smallest numbers.
const EXPONENT_MIN: i32 = -149;
/// Exponent of the last place of the largest numbers.
const EXPONENT_MAX: i32 = 104;

/// A finite number as `±significand * 2^exponent`.
#[derive(Clone, Copy)]
struct Finite {
    negative: bool,
    significand: u64,
    exponent: i32,
}

enum Number {
    Finite(Finite),
    Infinite { negative: bool },
    Nan,
}

fn unpack(x: F32) -> Number {
    let bits = x.to_bits();
    let (negative, fraction) = (bits & SIGN != 0, bits & FRACTION);
    let biased = i32::try_from((bits >> 23) & 0xff).unwrap_or_default();
    match (biased, fraction) {
        (0xff, 0) => Number::Infinite { negative },
        (0xff, _) => Number::Nan,
        (0, _) => Number::Finite(Finite { negative, significand: u64::from(fraction), exponent: EXPONENT_MIN }),
        (_, _) => {
            let exponent = biased.saturating_sub(1).saturating_add(EXPONENT_MIN);
            Number::Finite(Finite { negative, significand: u64::from(fraction | HIDDEN), exponent })
        }
    }
}

fn sign_bit(negative: bool) -> u32 {
    if negative { SIGN } else { 0 }
}

/// Shifts right, keeping in the last bit whether anything was lost.
fn shift_sticky(value: u64, by: u32) -> u64 {
    let kept = value.checked_shr(by).unwrap_or(0);
    let lost = kept.checked_shl(by).unwrap_or(0) != value;
    kept | u64::from(lost)
}

/// Rounds to the nearest single, ties to even.
fn pack(value: Finite) -> F32 {
    let Finite { negative, significand, exponent } = value;
    if significand == 0 {
        return F32::from_bits(sign_bit(negative));
    }
    // The number's last place: 24 bits from its first, but not below the smallest place there is.
    let len = i32::try_from(u64::BITS.saturating_sub(significand.leading_zeros())).unwrap_or_default();
    let place = exponent.saturating_add(len).saturating_sub(24).max(EXPONENT_MIN);
    let rounded = match u32::try_from(place.saturating_sub(exponent)) {
        Ok(0) => significand,
        Ok(drop) => {
            // The bit below decides, with whether anything lies beyond it.
            let beyond = significand.trailing_zeros() < drop.saturating_sub(1);
            let half = significand.checked_shr(drop.saturating_sub(1)).unwrap_or_default() & 1 == 1;
            let kept = significand.checked_shr(drop).unwrap_or_default();
            kept.saturating_add(u64::from(half && (beyond || kept & 1 == 1)))
        }
        Err(_) => significand.checked_shl(exponent.saturating_sub(place).unsigned_abs()).unwrap_or_default(),
    };
    // A carry into a 25th bit is the next power of two.
    let carried = rounded >> 24 != 0;
    let (rounded, place) = if carried { (rounded >> 1, place.saturating_add(1)) } else { (rounded, place) };
    if place > EXPONENT_MAX {
        return F32::from_bits(sign_bit(negative) | INFINITY_BITS);
    }
    let fraction = u32::try_from(rounded).unwrap_or_default();
    let biased = if fraction & HIDDEN == 0 { 0 } else { place.saturating_sub(EXPONENT_MIN).saturating_add(1) };
    let field = u32::try_from(biased).unwrap_or_default() << 23;
    F32::from_bits(sign_bit(negative) | field | (fraction & FRACTION))
}

/// `a * b`.
pub fn mul(a: F32, b: F32) -> F32 {
    match (unpack(a), unpack(b)) {
        (Number::Nan, _) | (_, Number::Nan) => NAN,
        (Number::Infinite { negative }, Number::Finite(x)) | (Number::Finite(x), Number::Infinite { negative }) => {
            if x.significand == 0 {
                return NAN;
            }
            F32::from_bits(sign_bit(negative != x.negative) | INFINITY_BITS)
        }
        (Number::Infinite { negative: a }, Number::Infinite { negative: b }) => {
            F32::from_bits(sign_bit(a != b) | INFINITY_BITS)
        }
        (Number::Finite(a), Number::Finite(b)) => pack(Finite {
            negative: a.negative != b.negative,
            significand: a.significand.saturating_mul(b.significand),
            exponent: a.exponent.saturating_add(b.exponent),
        }),
    }
}

/// `a + b`.
pub fn add(a: F32, b: F32) -> F32 {
    match (unpack(a), unpack(b)) {
        (Number::Nan, _) | (_, Number::Nan) => NAN,
        (Number::Infinite { negative: a }, Number::Infinite { negative: b }) if a != b => NAN,
        (Number::Infinite { negative }, _) | (_, Number::Infinite { negative }) => {
            F32::from_bits(sign_bit(negative) | INFINITY_BITS)
        }
        (Number::Finite(a), Number::Finite(b)) => add_finite(a, b),
    }
}

fn add_finite(a: Finite, b: Finite) -> F32 {
    // A zero has no place of its own to align to.
    match (a.significand, b.significand) {
        (0, 0) => return F32::from_bits(sign_bit(a.negative && b.negative)),
        (0, _) => return pack(b),
        (_, 0) => return pack(a),
        (_, _) => {}
    }
    let (high, low) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
    // 38 bits of room below the higher number hold every bit that can decide the rounding; what lies further down is
    // one sticky bit, which is never the half itself.
    const ROOM: u32 = 38;
    let apart = high.exponent.saturating_sub(low.exponent).unsigned_abs();
    let top = high.significand << ROOM;
    let bottom = shift_sticky(low.significand << ROOM, apart);
    let exponent = high.exponent.saturating_sub(i32::try_from(ROOM).unwrap_or_default());
    let (negative, significand) = if high.negative == low.negative {
        (high.negative, top.saturating_add(bottom))
    } else if top >= bottom {
        (high.negative && top != bottom, top.saturating_sub(bottom))
    } else {
        (low.negative, bottom.saturating_sub(top))
    };
    pack(Finite { negative, significand, exponent })
}

/// The canonical narrowing to bfloat16 (`bf` of the operation table): `None` where it voids.
pub fn bf16(x: F32) -> Option<F32> {
    const LIMIT: u32 = (127 + 50) << 23;
    const TINY: u32 = (127 - 52) << 23;
    let magnitude = x.to_bits() & !SIGN;
    if magnitude > LIMIT {
        return None;
    }
    if magnitude < TINY {
        return Some(F32::ZERO);
    }
    Some(F32::from_bits(u32::from(x.to_bf16()) << 16))
}

/// The canonical flush of small results (`z` of the operation table).
pub fn flush(x: F32) -> F32 {
    const TINY: u32 = (127 - 100) << 23;
    if x.to_bits() & !SIGN < TINY { F32::ZERO } else { x }
}

/// One output of a matrix product: `acc = start; for k ascending: acc = acc + a_k * b_k` (`chain` of the operation
/// table).
pub fn chain(start: F32, factors: impl IntoIterator<Item = (F32, F32)>) -> F32 {
    factors.into_iter().fold(start, |acc, (a, b)| add(acc, mul(a, b)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn float(x: F32) -> f32 {
        f32::from_bits(x.to_bits())
    }

    fn same(ours: F32, hardware: f32) -> bool {
        ours.to_bits() == hardware.to_bits() || (ours == NAN && hardware.is_nan())
    }

    /// Bits from all over the range, with many close exponents and edge cases.
    fn numbers() -> impl Strategy<Value = F32> {
        let edges = [0, 1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x7f80_0000, 0x7fc0_0000, 0x3f80_0000, 0x3f80_0001];
        let edge = (prop::sample::select(edges.to_vec()), any::<bool>()).prop_map(|(bits, sign)| bits | sign_bit(sign));
        let near = (120_u32..135, any::<u32>()).prop_map(|(e, bits)| (e << 23) | (bits & (FRACTION | SIGN)));
        prop_oneof![1 => edge, 3 => near, 2 => any::<u32>()].prop_map(F32::from_bits)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn sums_and_products_are_those_of_the_hardware(a in numbers(), b in numbers()) {
            prop_assert!(same(add(a, b), float(a) + float(b)), "{a:?} + {b:?} = {:?}", add(a, b));
            prop_assert!(same(mul(a, b), float(a) * float(b)), "{a:?} * {b:?} = {:?}", mul(a, b));
        }

        #[test]
        fn halves_round_to_even(fraction in 0_u32..1 << 23, exponent in 100_u32..150, apart in 20_u32..30) {
            let a = F32::from_bits((exponent << 23) | fraction);
            for b in [(exponent - apart) << 23, ((exponent - apart) << 23) | 1, ((exponent - apart) << 23) | SIGN] {
                let b = F32::from_bits(b);
                prop_assert!(same(add(a, b), float(a) + float(b)), "{a:?} + {b:?}");
            }
        }
    }

    #[test]
    fn every_bfloat16_narrows_to_itself() {
        for high in 0..=u16::MAX {
            let x = F32::from_bits(u32::from(high) << 16);
            let magnitude = float(x).abs();
            let want = if magnitude.is_nan() || magnitude > 2_f32.powi(50) {
                None
            } else if magnitude < 2_f32.powi(-52) {
                Some(F32::ZERO)
            } else {
                Some(x)
            };
            assert_eq!(bf16(x), want, "{x:?}");
        }
    }

    #[test]
    fn a_chain_is_the_loop_it_says() {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            F32::from_bits((((state >> 9) % 12 + 121) << 23 | (state & 0x007f_0000)) | (state & SIGN))
        };
        for length in [0, 1, 7, 300] {
            let factors: alloc::vec::Vec<_> = (0..length).map(|_| (next(), next())).collect();
            let want = factors.iter().fold(0.5_f32, |acc, (a, b)| acc + float(*a) * float(*b));
            let start = F32::from_bits(0.5_f32.to_bits());
            assert_eq!(chain(start, factors).to_bits(), want.to_bits());
        }
    }
}
