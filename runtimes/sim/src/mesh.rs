//! Who passes published messages on to whom.
//!
//! In a small world everybody hears a publisher directly. In a large one each node has eight neighbours: the nodes at four drawn
//! distances on a ring, on both sides. That is a pure function, the same seen from both ends, connected because one
//! distance is 1, and as wide as the logarithm of the world because the others are drawn over all scales.

use crate::draw::Draw;

/// Up to so many nodes, everybody hears everybody.
pub(crate) const DIRECT_MAX: u32 = 64;

/// The neighbourhoods of a world.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    nodes: u32,
    /// Distances on the ring; empty in a small world.
    steps: Vec<u32>,
}

impl Mesh {
    pub(crate) fn new(seed: u64, nodes: u32) -> Self {
        let mut steps = Vec::new();
        if nodes > DIRECT_MAX {
            let draw = Draw::new(seed, "mesh");
            steps.push(1);
            // One step of each scale: the n^(1/4)s, drawn within a factor of two.
            let root = (1..).take_while(|root: &u64| root.pow(4) <= u64::from(nodes)).last().unwrap_or(1);
            for scale in 1..4_u32 {
                let wide = root.pow(scale);
                let mut step = draw.of(u64::from(scale)).between(wide, 2 * wide) as u32;
                while steps.contains(&step) || step >= nodes / 2 {
                    step = if step >= nodes / 2 { 2 } else { step + 1 };
                }
                steps.push(step);
            }
        }
        Self { nodes, steps }
    }

    /// Whether messages reach everybody in one hop.
    pub(crate) fn is_direct(&self) -> bool {
        self.steps.is_empty()
    }

    /// The nodes that hear a node directly.
    pub(crate) fn neighbours(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let direct = if self.is_direct() { self.nodes } else { 0 };
        let around = self.steps.iter().flat_map(move |step| {
            let (n, node, step) = (u64::from(self.nodes), u64::from(node), u64::from(*step));
            [((node + step) % n) as u32, ((node + n - step) % n) as u32]
        });
        (0..direct).filter(move |other| *other != node).chain(around)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(mesh: &Mesh, nodes: u32) -> Vec<u32> {
        let mut hops = vec![u32::MAX; nodes as usize];
        let (mut front, mut distance) = (vec![0], 0);
        hops[0] = 0;
        while !front.is_empty() {
            distance += 1;
            let mut next = Vec::new();
            for node in front {
                for other in mesh.neighbours(node) {
                    if hops[other as usize] == u32::MAX {
                        hops[other as usize] = distance;
                        next.push(other);
                    }
                }
            }
            front = next;
        }
        hops
    }

    #[test]
    fn in_a_small_world_everybody_hears_everybody() {
        let mesh = Mesh::new(1, 7);
        assert!(mesh.is_direct());
        assert_eq!(mesh.neighbours(3).collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6]);
        assert_eq!(Mesh::new(1, 1).neighbours(0).count(), 0);
    }

    #[test]
    fn a_large_mesh_is_symmetric_without_doubles_and_narrow() {
        for (nodes, widest) in [(65, 12), (1000, 20), (10_000, 40)] {
            for seed in 0..5 {
                let mesh = Mesh::new(seed, nodes);
                for node in [0, 1, nodes / 2, nodes - 1] {
                    let mut around: Vec<u32> = mesh.neighbours(node).collect();
                    assert!(around.iter().all(|other| mesh.neighbours(*other).any(|back| back == node)));
                    around.sort_unstable();
                    around.dedup();
                    assert_eq!(around.len(), 8, "{nodes} {seed}");
                    assert!(!around.contains(&node));
                }
                let far = hops(&mesh, nodes).into_iter().max();
                assert!(far.is_some_and(|far| far <= widest), "{nodes} nodes, {far:?} hops");
            }
        }
    }
}
