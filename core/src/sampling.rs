//! Which sequences make a batch: a pure function of the network's seed and the batch's number.
//!
//! A shard of `t` tokens holds `(t - 1) / sequence` windows. Sequences are numbered through all batches; number `s` lies in
//! epoch `s / windows` and takes there the window that a permutation keyed by seed and epoch puts in place `s %
//! windows`, so an epoch reads every window once. The tokens a shard has to spare shift its windows by a draw of
//! their own in each epoch, so window edges move.

use alloc::boxed::Box;
use alloc::vec::Vec;

use neuroshard_proto::{BatchId, Hash, List, MICROBATCHES_MAX, Manifest, Sample, Shard, Stream, TrainSpec, mutant};

/// Sequences for the held-out loss, in batches.
const HELD_OUT_BATCHES: u64 = 4;

/// The sequences of a network's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampler {
    seed: Hash,
    sequence: u32,
    batch: u32,
    training: Windows,
    held_out: Windows,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Windows {
    /// Each shard with the windows in it and in all shards before it.
    shards: Box<[(Shard, u64)]>,
    sequence: u32,
}

impl Windows {
    fn new<'a>(shards: impl Iterator<Item = &'a Shard>, sequence: u32) -> Self {
        let mut before = 0_u64;
        let counted = shards.map(|shard| {
            before = before.saturating_add(u64::from(windows_of(shard, sequence)));
            (*shard, before)
        });
        Self { shards: counted.collect(), sequence }
    }

    fn count(&self) -> u64 {
        self.shards.last().map_or(0, |(_, count)| *count)
    }

    /// The shard with the window of this number, and the window's number in it.
    fn find(&self, window: u64) -> Option<(&Shard, u32)> {
        let place = self.shards.partition_point(|(_, count)| *count <= window);
        let (shard, count) = self.shards.get(place)?;
        let first = count.saturating_sub(u64::from(windows_of(shard, self.sequence)));
        Some((shard, u32::try_from(window.checked_sub(first)?).ok()?))
    }
}

fn windows_of(shard: &Shard, sequence: u32) -> u32 {
    shard.tokens.saturating_sub(1).checked_div(sequence).unwrap_or_default()
}

impl Sampler {
    /// The sequences of checked data: [`neuroshard_proto::Genesis::check`] saw that there are some of both kinds.
    pub fn new(seed: Hash, spec: &TrainSpec, manifest: &Manifest) -> Self {
        let training = Windows::new(manifest.shards(false), spec.sequence);
        let held_out = Windows::new(manifest.shards(true), spec.sequence);
        assert!(training.count() > 0, "the genesis was checked against its manifest");
        assert!(held_out.count() > 0, "the genesis was checked against its manifest");
        Self { seed, sequence: spec.sequence, batch: spec.batch, training, held_out }
    }

    /// Windows to train on: the sequences of an epoch.
    pub fn windows(&self) -> u64 {
        self.training.count()
    }

    /// The sequences of a batch.
    pub fn batch(&self, batch: BatchId) -> List<Sample, MICROBATCHES_MAX> {
        let samples = (0..self.batch).filter_map(|index| self.sample(batch, index));
        List::try_from(samples.collect::<Vec<_>>()).unwrap_or_default()
    }

    /// The sequence of this number in a batch.
    pub fn sample(&self, batch: BatchId, index: u32) -> Option<Sample> {
        let first = batch.0.saturating_mul(u64::from(self.batch));
        self.sequence(first.saturating_add(u64::from(index))).filter(|_| index < self.batch)
    }

    /// The sequences that measure the held-out loss: always the same ones, spread over all held-out data.
    pub fn held_out(&self) -> List<Sample, MICROBATCHES_MAX> {
        let windows = self.held_out.count();
        let wanted = u64::from(self.batch).saturating_mul(HELD_OUT_BATCHES);
        let count = wanted.min(windows).min(u64::from(MICROBATCHES_MAX));
        let places = (0..count).map(|i| i.saturating_mul(windows).checked_div(count).unwrap_or_default());
        let samples = places.filter_map(|window| {
            let (shard, inside) = self.held_out.find(window)?;
            Some(Sample { shard: shard.hash, offset: inside.saturating_mul(self.sequence) })
        });
        List::try_from(samples.collect::<Vec<_>>()).unwrap_or_default()
    }

    fn sequence(&self, number: u64) -> Option<Sample> {
        let windows = self.windows();
        let (epoch, place) = (number.checked_div(windows)?, number.checked_rem(windows)?);
        let window = Permutation::new(&self.seed, epoch, windows).apply(place);
        let (shard, inside) = self.training.find(window)?;
        let spare = shard.tokens.saturating_sub(1).checked_rem(self.sequence)?;
        let mut stream = Stream::new(&shard.hash, "shift", epoch);
        let shift = u32::try_from(stream.below(u64::from(spare).saturating_add(1))).unwrap_or_default();
        Some(Sample { shard: shard.hash, offset: inside.saturating_mul(self.sequence).saturating_add(shift) })
    }
}

/// A keyed permutation of `0..count`: a four-round Feistel network over the next even number of bits, walked until it
/// lands inside.
struct Permutation {
    stream: Stream,
    count: u64,
    /// Bits of one half.
    half: u32,
}

const ROUNDS: u64 = 4;

impl Permutation {
    fn new(seed: &Hash, epoch: u64, count: u64) -> Self {
        let bits = u64::BITS.saturating_sub(count.saturating_sub(1).leading_zeros());
        Self { stream: Stream::new(seed, "epoch", epoch), count, half: bits.div_ceil(2).max(1) }
    }

    fn apply(&self, place: u64) -> u64 {
        let mut value = self.mix(place);
        // Each walk leaves the range with a chance below 3/4 and the network is a permutation, so this ends.
        while value >= self.count && !mutant("windows drawn twice") {
            value = self.mix(value);
        }
        value.checked_rem(self.count).unwrap_or_default()
    }

    fn mix(&self, value: u64) -> u64 {
        let mask = (1_u64 << self.half).saturating_sub(1);
        let (mut left, mut right) = (value >> self.half, value & mask);
        for round in 0..ROUNDS {
            let counter = (right << 2_u32) | round;
            (left, right) = (right, left ^ (self.stream.at(counter) & mask));
        }
        (left << self.half) | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec;

    use neuroshard_proto::Preset;

    use super::*;

    fn shard(name: &[u8], tokens: u32, held_out: bool) -> Shard {
        Shard { hash: Hash::of_blob(name), tokens, held_out }
    }

    fn sampler(shards: Vec<Shard>) -> Sampler {
        let (_, spec) = Preset::Nano.specs();
        let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 1, shards: shards.try_into().unwrap() };
        Sampler::new(Hash::of_blob(b"seed"), &spec, &manifest)
    }

    #[test]
    fn an_epoch_reads_every_window_once_and_the_next_in_another_order() {
        let sampler = sampler(vec![
            shard(b"a", 1000, false),
            shard(b"too short", 128, false),
            shard(b"b", 65_536, false),
            shard(b"h", 500, true),
        ]);
        assert_eq!(sampler.windows(), 7 + 511);
        let epoch = |e: u64| (0..518).map(|i| sampler.sequence(e * 518 + i).unwrap()).collect::<Vec<_>>();
        let first: BTreeSet<_> = epoch(0).iter().map(|s| (s.shard, s.offset / 128)).collect();
        assert_eq!(first.len(), 518);
        let order = |e| epoch(e).iter().map(|s| (s.shard, s.offset / 128)).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
    }

    #[test]
    fn every_sequence_ends_inside_its_shard() {
        let sampler = sampler(vec![shard(b"a", 1000, false), shard(b"b", 129, false), shard(b"h", 130, true)]);
        for number in 0..2000 {
            let sample = sampler.sequence(number).unwrap();
            let tokens = if sample.shard == Hash::of_blob(b"a") { 1000 } else { 129 };
            assert!(sample.offset + 128 < tokens);
        }
        assert_eq!(sampler.held_out().len(), 1);
    }

    #[test]
    fn batches_are_a_function_of_seed_and_number() {
        let sampler = sampler(vec![shard(b"a", 65_536, false), shard(b"h", 65_536, true)]);
        assert_eq!(sampler.batch(BatchId(5)), sampler.batch(BatchId(5)));
        assert_ne!(sampler.batch(BatchId(5)), sampler.batch(BatchId(6)));
        assert_eq!(sampler.batch(BatchId(0)).len(), 8);
        let held_out = sampler.held_out();
        assert_eq!(held_out.len(), 32);
        assert_eq!(held_out.iter().collect::<BTreeSet<_>>().len(), 32);
    }
}
