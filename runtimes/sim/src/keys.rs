//! The keys of a world's nodes and owners, made from its seed, and who has which.

#[cfg(not(feature = "sim-signatures"))]
use ed25519_dalek::{Signer, SigningKey};
use neuroshard_proto::{Hash, NodeId, REAL_SIGNATURES, Signature};

// A build in which somebody else turned simulated signatures on could not open what this world signs.
const _: () = assert!(REAL_SIGNATURES != cfg!(feature = "sim-signatures"), "turn sim-signatures on by this crate");

/// The keys of all nodes, by number.
#[derive(Debug)]
pub(crate) struct Keys {
    #[cfg(not(feature = "sim-signatures"))]
    secrets: Vec<SigningKey>,
    names: Vec<NodeId>,
    /// Names in order, with the numbers that bear them.
    by_name: Vec<(NodeId, u32)>,
}

/// 32 bytes for one purpose and number.
pub(crate) fn seed_bytes(seed: u64, purpose: &str, number: u64) -> [u8; 32] {
    let text = [purpose.as_bytes(), &seed.to_le_bytes(), &number.to_le_bytes()].concat();
    *Hash::of_blob(&text).as_bytes()
}

impl Keys {
    /// Keys for `bearers`: the number of the key that each host has. Twins have one key.
    pub(crate) fn new(seed: u64, bearers: impl Iterator<Item = u32>) -> Self {
        let bearers: Vec<u32> = bearers.collect();
        #[cfg(not(feature = "sim-signatures"))]
        let secrets: Vec<SigningKey> = bearers.iter().map(|key| secret(seed, *key)).collect();
        #[cfg(not(feature = "sim-signatures"))]
        let names: Vec<NodeId> = secrets.iter().map(|key| NodeId::from_bytes(key.verifying_key().to_bytes())).collect();
        #[cfg(feature = "sim-signatures")]
        let names: Vec<NodeId> =
            bearers.iter().map(|key| NodeId::from_bytes(seed_bytes(seed, "node", u64::from(*key)))).collect();
        let mut by_name: Vec<(NodeId, u32)> = names.iter().copied().zip(0..).collect();
        by_name.sort_unstable();
        Self {
            #[cfg(not(feature = "sim-signatures"))]
            secrets,
            names,
            by_name,
        }
    }

    /// Hosts, twins counted twice.
    pub(crate) fn len(&self) -> u32 {
        self.names.len() as u32
    }

    /// The name of a host.
    pub(crate) fn name(&self, host: u32) -> NodeId {
        self.names[host as usize]
    }

    /// The hosts that bear a name.
    pub(crate) fn hosts(&self, name: &NodeId) -> impl Iterator<Item = u32> {
        let first = self.by_name.partition_point(|(other, _)| other < name);
        self.by_name[first..].iter().take_while(move |(other, _)| other == name).map(|(_, host)| *host)
    }

    /// A host's signature.
    pub(crate) fn sign(&self, host: u32, digest: &Hash) -> Signature {
        #[cfg(not(feature = "sim-signatures"))]
        return Signature(self.secrets[host as usize].sign(digest.as_bytes()).to_bytes());
        #[cfg(feature = "sim-signatures")]
        return neuroshard_proto::sim_sign(&self.names[host as usize], digest);
    }
}

#[cfg(not(feature = "sim-signatures"))]
fn secret(seed: u64, number: u32) -> SigningKey {
    SigningKey::from_bytes(&seed_bytes(seed, "node", u64::from(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_signs_holds_under_its_name_and_no_other() {
        let keys = Keys::new(1, 0..3);
        let digest = Hash::of_blob(b"statement");
        let signature = keys.sign(1, &digest);
        assert!(neuroshard_proto::verify(&keys.name(1), &digest, &signature));
        assert!(!neuroshard_proto::verify(&keys.name(2), &digest, &signature));
    }

    #[test]
    fn twins_bear_one_name() {
        let keys = Keys::new(1, [0, 1, 2, 1].into_iter());
        assert_eq!(keys.name(1), keys.name(3));
        assert_eq!(keys.hosts(&keys.name(1)).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(keys.hosts(&keys.name(0)).collect::<Vec<_>>(), [0]);
        assert_eq!(keys.hosts(&NodeId::from_bytes([9; 32])).count(), 0);
    }
}
