//! A network so small that the reference engine trains it while one looks, for tests and for the book's examples.

use ed25519_dalek::SigningKey;
use neuroshard_core::proto::{Founder, Genesis, Hash, Manifest, ModelSpec, NodeId, Params, Preset, Shard, TrainSpec};
use neuroshard_core::{Config, Operator};

const SHARD_TOKENS: u32 = 4096;

/// The key of the network's only node.
pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// Two layers, and a language in which each of 64 tokens is followed by one of two. `put` stores a shard's bytes and
/// answers with their hash.
///
/// # Panics
/// Never: the lists are short.
pub fn config(mut put: impl FnMut(&[u8]) -> Hash) -> Config {
    let (model, training) = Preset::Nano.specs();
    let model = ModelSpec { layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 48, context: 32, ..model };
    let training = TrainSpec { batch: 4, sequence: 32, peak_rate_nano: 10_000_000, warmup: 5, ..training };
    let mut draws = 1_u32;
    let mut shard = |held_out| {
        let mut token = 0_u16;
        let tokens = (0..SHARD_TOKENS).map(|_| {
            draws = draws.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            token = (token * 5 + 1 + u16::from(draws >> 31 == 1)) % 64;
            10 + token
        });
        let bytes: Vec<u8> = tokens.flat_map(u16::to_le_bytes).collect();
        Shard { hash: put(&bytes), tokens: SHARD_TOKENS, held_out }
    };
    let shards = vec![shard(false), shard(false), shard(true)].try_into().expect("three shards");
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 3 * u64::from(SHARD_TOKENS), shards };
    let node = NodeId::from_bytes(key().verifying_key().to_bytes());
    let genesis = Genesis {
        created_unix_ms: 0,
        seed: Hash::of_blob(b"toy"),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: vec![Founder::alone(node)].try_into().expect("one founder"),
        allocations: Default::default(),
        first: None,
    };
    Config::new(genesis, manifest, node, Operator::new(1 << 30, 1 << 30))
}
