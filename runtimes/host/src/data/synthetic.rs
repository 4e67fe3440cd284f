//! A language whose entropy is known: what a model can reach at best is a number, so a test can say how close it came.
//!
//! A Markov source of second order over eight letters. After any two letters, five different letters can follow, with the
//! probabilities 8, 4, 2, 1 and 1 sixteenths; which ones is drawn from the seed. The weights are the same everywhere, so the
//! entropy is that of one draw whatever the source does: 8/16 * 1 + 4/16 * 2 + 2/16 * 3 + 2 * 1/16 * 4 = 1.875 bits a
//! letter, exactly.

use neuroshard_proto::{Hash, Stream};

use super::{DataError, Measure, OnDocument, Skipped, Text};

const LETTERS: &[u8; 8] = b"abcdefgh";
const CONTEXTS: usize = LETTERS.len() * LETTERS.len();
/// The weights of what may follow, in sixteenths; powers of two, so that their logarithms are whole numbers.
const WEIGHTS: [u32; 5] = [8, 4, 2, 1, 1];
const WEIGHT_SUM: u32 = 16;

const DOCUMENTS: u64 = 512;
const DOCUMENT_LETTERS: usize = 4096;

/// The synthetic language of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synthetic {
    seed: Hash,
    /// What may follow each two letters, as indices of letters, the likeliest first.
    followers: Vec<[u8; WEIGHTS.len()]>,
}

impl Synthetic {
    pub fn new(seed: Hash) -> Self {
        let followers = (0..CONTEXTS as u64).map(|context| {
            let mut stream = Stream::new(&seed, "synthetic language", context);
            let mut letters: Vec<u8> = (0..LETTERS.len() as u8).collect();
            std::array::from_fn(|_| letters.swap_remove(stream.below(letters.len() as u64) as usize))
        });
        Self { seed, followers: followers.collect() }
    }

    /// The entropy of a letter given all before it, in thousandths of a bit: exact.
    pub const fn entropy_millibits() -> u64 {
        let (mut sum, mut i) = (0, 0);
        while i < WEIGHTS.len() {
            // weight / 16 * log2(16 / weight)
            sum += WEIGHTS[i] * (WEIGHT_SUM / WEIGHTS[i]).ilog2();
            i += 1;
        }
        sum as u64 * 1000 / WEIGHT_SUM as u64
    }

    fn document(&self, number: u64) -> Vec<u8> {
        // Half a byte chooses a letter: sixteenths need no more.
        let mut draws = vec![0; DOCUMENT_LETTERS / 2];
        Stream::new(&self.seed, "synthetic text", number).fill(0, &mut draws);
        let mut context = (number % CONTEXTS as u64) as usize;
        let mut text = Vec::with_capacity(DOCUMENT_LETTERS);
        for draw in draws.iter().flat_map(|byte| [byte & 15, byte >> 4]) {
            let follower = match draw {
                0..8 => 0,
                8..12 => 1,
                12..14 => 2,
                14 => 3,
                _ => 4,
            };
            let letter = self.followers[context][follower];
            text.push(LETTERS[usize::from(letter)]);
            context = context % LETTERS.len() * LETTERS.len() + usize::from(letter);
        }
        text
    }
}

const _: () = assert!(Synthetic::entropy_millibits() == 1875);

impl Text for Synthetic {
    fn measure(&self) -> Result<Measure, DataError> {
        let bytes = DOCUMENTS * DOCUMENT_LETTERS as u64;
        Ok(Measure { documents: DOCUMENTS, bytes, skipped: Skipped::default() })
    }

    fn read(&self, document: &mut OnDocument<'_>) -> Result<(), DataError> {
        (0..DOCUMENTS).try_for_each(|number| document("the synthetic language", &mut &self.document(number)[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        let language = Synthetic::new(Hash::of_blob(b"seed"));
        let mut text = Vec::new();
        let collect = &mut |_: &str, document: &mut dyn std::io::Read| {
            document.read_to_end(&mut text).unwrap();
            Ok(())
        };
        language.read(collect).unwrap();
        assert_eq!(text.len() as u64, language.measure().unwrap().bytes);
        text
    }

    #[test]
    fn the_text_has_the_entropy_that_is_claimed() {
        let text = text();
        let index = |byte: u8| LETTERS.iter().position(|letter| *letter == byte).unwrap();
        let mut counts = vec![[0_u32; 8]; CONTEXTS];
        for triple in text.windows(3) {
            counts[index(triple[0]) * 8 + index(triple[1])][index(triple[2])] += 1;
        }
        let mut bits = 0.0;
        for row in &counts {
            let sum: u32 = row.iter().sum();
            for count in row.iter().filter(|count| **count > 0) {
                bits -= f64::from(*count) * (f64::from(*count) / f64::from(sum)).log2();
            }
        }
        let entropy = bits / (text.len() - 2) as f64;
        // Document ends add a little: their first letters follow nothing.
        assert!((entropy - 1.875).abs() < 0.01, "{entropy}");
        // Knowing one letter instead of two is worth much less, so a model has to use both.
        let mut pairs = [[0_u32; 8]; 8];
        text.windows(2).for_each(|pair| pairs[index(pair[0])][index(pair[1])] += 1);
        let sums: Vec<u32> = pairs.iter().map(|row| row.iter().sum()).collect();
        let first_order: f64 = pairs
            .iter()
            .zip(&sums)
            .flat_map(|(row, sum)| row.iter().map(move |n| (f64::from(*n), f64::from(*sum))))
            .map(|(n, sum)| -n * (n / sum).log2())
            .sum::<f64>()
            / text.len() as f64;
        assert!(first_order > 2.5, "{first_order}");
    }

    #[test]
    fn each_seed_has_a_language_of_its_own() {
        let (one, other) = (Synthetic::new(Hash::of_blob(b"1")), Synthetic::new(Hash::of_blob(b"2")));
        assert_eq!(one.document(3), Synthetic::new(Hash::of_blob(b"1")).document(3));
        assert_ne!(one.followers, other.followers);
        assert_ne!(one.document(3), one.document(4));
    }
}
