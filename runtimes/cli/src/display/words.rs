//! Numbers for people.

use std::path::Path;

/// A count in three or four digits: `1.27 M`.
pub(crate) fn count(number: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M")];
    match units.into_iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", number as f64 / size as f64),
        None => grouped(number),
    }
}

/// A number with its digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in its two largest units.
pub(crate) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} days {} h", s / 86_400, s / 3600 % 24),
    }
}

/// A path with the home directory as `~`.
pub(crate) fn short_path(path: &str) -> String {
    let home = std::env::var("HOME").ok().filter(|home| home.len() > 1);
    match home.and_then(|home| Path::new(path).strip_prefix(home).ok().map(Path::to_owned)) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.to_owned(),
    }
}

/// Eight heights of a bar.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A line of bars as wide as `width`, each the mean of its share of the values; the newest are on the right. What lies far
/// above the rest is cut, so that a steep beginning does not flatten all that follows.
pub(crate) fn sparkline(values: &[f64], width: usize) -> String {
    if values.is_empty() || width == 0 {
        return String::new();
    }
    let width = width.min(values.len());
    let means: Vec<f64> = (0..width)
        .map(|i| {
            let part =
                &values[i * values.len() / width..((i + 1) * values.len() / width).max(i * values.len() / width + 1)];
            part.iter().sum::<f64>() / part.len() as f64
        })
        .collect();
    let mut sorted = means.clone();
    sorted.sort_by(f64::total_cmp);
    let low = sorted[0];
    let middle = sorted[sorted.len() / 2];
    let high = sorted[sorted.len() - 1].min(low + 4.0 * (middle - low).max(1e-9));
    let range = high - low;
    let bar = |mean: &f64| {
        let share = if range > 0.0 { ((mean - low) / range).clamp(0.0, 1.0) } else { 0.0 };
        BARS[(share * 7.0).round() as usize]
    };
    means.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!([count(0), count(999_999), count(1_270_000)], ["0", "999,999", "1.27 M"]);
        assert_eq!([grouped(1), grouped(1234), grouped(1_234_567)], ["1", "1,234", "1,234,567"]);
        assert_eq!(
            [duration(999), duration(61_000), duration(3_700_000), duration(90_000_000)],
            ["0 s", "1 min 1 s", "1 h 1 min", "1 days 1 h"]
        );
    }

    #[test]
    fn a_falling_loss_is_a_falling_line() {
        assert_eq!(sparkline(&[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 8), "█▇▆▅▄▃▂▁");
        assert_eq!(sparkline(&[8.0, 8.0, 1.0, 1.0], 2), "█▁");
        assert_eq!(sparkline(&[3.0; 5], 10), "▁▁▁▁▁");
        assert_eq!(sparkline(&[], 10), "");
        // One value far off leaves the others apart.
        let cut = sparkline(&[100.0, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0], 7);
        assert!(cut.starts_with('█') && cut.ends_with('▁') && cut.chars().nth(1) != Some('▁'), "{cut}");
    }
}
