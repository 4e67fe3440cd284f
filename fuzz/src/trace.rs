//! Any bytes as a trace: reading, showing, replaying and comparing it end with an answer or a precise error, in bounded
//! memory, and never with a panic.

use std::io::{Cursor, sink};

use neuroshard_proto::Hash;
use neuroshard_replay::{
    At, Filter, Form, Played, ReadError, Reader, ShowError, Steps, Verdict, cat, diff, info, replay, state,
};

use crate::memory::peak;

/// Reading may hold so many bytes for each byte of the file: LZ4 unpacks to 255 times, and a journal of empty records is
/// large.
const BYTES_PER_BYTE_MAX: u64 = 2048;
/// And so many whatever the file holds.
const BYTES_MAX: u64 = 1 << 20;

/// The target: a byte that says whether checksums are to be mended, so that what they guard is reached too, and a file.
pub fn run(bytes: &[u8]) {
    let Some((mend, file)) = bytes.split_first() else { return };
    let mut file = file.to_vec();
    if mend & 1 == 1 {
        mended(&mut file);
    }
    let limit = BYTES_MAX + BYTES_PER_BYTE_MAX * file.len() as u64;
    let (steps, held) = peak(|| steps(&file));
    assert!(held <= limit, "reading {} bytes took {held}", file.len());
    if let Some(steps) = steps {
        show(&file, steps);
        run_again(&file, steps);
    }
}

/// The steps that can be read up to the end or the first fault; `None` if the bytes do not begin as a trace.
fn steps(file: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(Cursor::new(file)).ok()?;
    let (mut steps, mut last) = (0, reader.header().origin);
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                assert_eq!(frame.step, steps + 1, "steps are numbered without a gap");
                assert!(steps == 0 || frame.time >= last, "time does not go back");
                (steps, last) = (frame.step, frame.time);
            }
            Ok(None) => {
                assert!(reader.ending().is_some(), "an end has a reason");
                // An index may lie, but then it leads to an error, not to other steps.
                if let Ok(counted) = reader.count_steps() {
                    assert!(reader.closing().is_some() || counted == steps, "{counted} steps counted, {steps} read");
                }
                return Some(steps);
            }
            Err(ReadError { offset, .. }) => {
                assert!(offset <= file.len() as u64, "a fault lies inside the file");
                return Some(steps);
            }
        }
    }
}

fn show(file: &[u8], steps: u64) {
    let mut reader = Reader::new(Cursor::new(file)).expect("it was read before");
    let filter = Filter { from: Some(At::Step(steps / 2)), ..Filter::default() };
    for form in [Form::Text, Form::Json] {
        for shown in [info(&mut reader, form, &mut sink()), cat(&mut reader, &filter, form, &mut sink())] {
            assert!(matches!(shown, Ok(()) | Err(ShowError::Read(_))), "{shown:?}");
        }
    }
}

fn run_again(file: &[u8], steps: u64) {
    let mut reader = Reader::new(Cursor::new(file)).expect("it was read before");
    let report = replay(&mut reader);
    assert!(report.steps <= steps && !report.to_string().is_empty());
    if let Verdict::Differs(divergence) = &report.verdict {
        // Whatever inputs a file holds, the core survives them.
        assert!(!matches!(divergence.replayed, Played::Panicked(_)), "{report}");
    }
    assert!(!matches!(report.verdict, Verdict::Fell { .. }), "{report}");
    let shown = state(&mut reader, At::Step(report.steps), Form::Json, &mut sink());
    match report.verdict {
        Verdict::NoStart(_) => assert!(matches!(shown, Err(ShowError::Restore(_)))),
        Verdict::OtherStart { .. } => {}
        _ => assert!(matches!(shown, Ok(()) | Err(ShowError::Read(_))), "{shown:?}"),
    }
    let mut other = Reader::new(Cursor::new(file)).expect("it was read before");
    if let Ok(difference) = diff(&mut reader, &mut other) {
        assert!(matches!(difference.steps, Steps::Equal { .. }) && difference.headers.is_empty(), "{difference}");
    }
}

/// Sets every checksum of a file to what its bytes call for, as far as they can be made out: the header's, and each chunk
/// head's two.
fn mended(file: &mut [u8]) {
    const HEADER: usize = 22;
    const HEAD: usize = 74;
    let number = |file: &[u8], at: usize| {
        let bytes = file.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let Some(len) = number(file, 10) else { return };
    let Some(payload) = file.get(HEADER..).and_then(|rest| rest.get(..len)) else { return };
    let sum = Hash::of_blob(payload).short().to_le_bytes();
    file[14..HEADER].copy_from_slice(&sum);
    let mut at = HEADER + len;
    while file.get(at) == Some(&b'C') {
        let Some(stored) = number(file, at + 2) else { return };
        let Some(body) = file.get(at + HEAD..).and_then(|rest| rest.get(..stored)) else { return };
        let sum = Hash::of_blob(body).short().to_le_bytes();
        file[at + 62..at + 70].copy_from_slice(&sum);
        let own = Hash::of_blob(&file[at..at + 70]).short().to_le_bytes();
        file[at + 70..at + HEAD].copy_from_slice(&own[..4]);
        at += HEAD + stored;
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_replay::Detail;

    use super::*;
    use crate::seeds;

    #[test]
    fn mending_changes_nothing_that_is_whole_and_heals_what_is_not() {
        let whole = seeds::trace(40, Detail::Outputs);
        let mut file = whole.clone();
        mended(&mut file);
        assert_eq!(file, whole);
        let chunk = whole.len() - 600;
        for at in [15, 60, chunk] {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            let before = steps(&broken);
            mended(&mut broken);
            assert!(at != 15 || (before.is_none() && broken == whole));
            assert!(Reader::new(Cursor::new(&broken[..])).is_ok() || at == 60);
        }
    }
}
