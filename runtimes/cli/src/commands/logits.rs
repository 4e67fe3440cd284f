//! `neuroshard logits`: what a checkpoint's model makes of given tokens, in a file. `benches/peers/check_export.py` compares it
//! with what another program makes of them.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use neuroshard_host::exchange::Checkpoint;
use neuroshard_shaders::infer::Generator;

use crate::failure::Failure;

pub(crate) fn logits(dir: &Path, tokens: &Path, out: &Path, sequence: Option<u32>) -> Result<(), Failure> {
    let bytes = fs::read(tokens).map_err(|error| failed("read", tokens, &error))?;
    let (pairs, rest) = bytes.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(Failure::new(format!("{} does not hold 16-bit numbers", tokens.display())));
    }
    let tokens: Vec<u32> = pairs.iter().map(|pair| u32::from(u16::from_le_bytes(*pair))).collect();
    let mut checkpoint = Checkpoint::open(dir)?;
    let sequence = sequence.unwrap_or(checkpoint.training().sequence).max(1) as usize;
    let weights = checkpoint.weights()?;
    let mut generator = Generator::new(checkpoint.model(), &weights).map_err(Failure::new)?;
    let mut file = File::create_new(out).map(BufWriter::new).map_err(|error| failed("create", out, &error))?;
    for sequence in tokens.chunks(sequence) {
        generator.clear();
        for token in sequence {
            let row: Vec<u8> =
                generator.feed(&[*token]).map_err(Failure::new)?.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            file.write_all(&row).map_err(|error| failed("write", out, &error))?;
        }
    }
    file.flush().map_err(|error| failed("write", out, &error))
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {doing} {}: {error}", path.display()))
}
