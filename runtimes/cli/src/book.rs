//! The embedded text: what a network trains on if nothing else is named.

use neuroshard_host::data::Embedded;

static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/book.bin"));

/// The project's own book and sources, as they were when this program was built.
pub(crate) fn book() -> Embedded<'static> {
    let mut files = Vec::new();
    let mut rest = BYTES;
    while let Some((name, text)) = part(&mut rest).zip(part(&mut rest)) {
        files.push((std::str::from_utf8(name).unwrap_or_default(), text));
    }
    Embedded(files)
}

/// Takes a length and as many bytes.
fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_holds_this_file_and_nothing_of_the_build() {
        let Embedded(files) = book();
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        assert!(names.is_sorted());
        let this = files.iter().find(|(name, _)| name.ends_with("cli/src/book.rs")).expect("this file");
        assert_eq!(this.1, include_bytes!("book.rs"));
        assert!(!names.iter().any(|name| name.starts_with("target/") || name.starts_with('/')), "{names:?}");
        let bytes: usize = files.iter().map(|(name, text)| 8 + name.len() + text.len()).sum();
        assert_eq!(bytes, BYTES.len());
    }
}
