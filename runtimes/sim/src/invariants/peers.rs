//! Who is called live was heard, and in the calm every node hears all its honest neighbours.

use neuroshard_core::{Event, Input, Output};
use neuroshard_proto::NodeId;

use super::{Calm, Checker, Started, Stepped};

/// The peers that each host has up, in order, by the beginnings of their names.
#[derive(Debug)]
pub(super) struct Peers {
    up: Vec<Vec<u64>>,
}

impl Peers {
    pub(super) fn new(hosts: u32) -> Self {
        Self { up: vec![Vec::new(); hosts as usize] }
    }
}

impl Checker for Peers {
    fn name(&self) -> &'static str {
        "peers"
    }

    fn stepped(&mut self, step: &Stepped<'_>) -> Result<(), String> {
        for output in step.outputs {
            let up = &mut self.up[step.host as usize];
            match output {
                Output::Event(Event::PeerUp { node }) => {
                    let heard = match step.input {
                        Input::Message(message) => message.message().signer() == *node,
                        _ => false,
                    };
                    if !heard {
                        return Err(format!("{node:.16} is called up, and nothing was heard from it"));
                    }
                    match up.binary_search(&short(node)) {
                        Ok(_) => return Err(format!("{node:.16} came up twice")),
                        Err(place) => up.insert(place, short(node)),
                    }
                }
                Output::Event(Event::PeerDown { node }) => match up.binary_search(&short(node)) {
                    Ok(place) => drop(up.remove(place)),
                    Err(_) => return Err(format!("{node:.16} went down without having been up")),
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn started(&mut self, start: &Started<'_>) -> Result<(), String> {
        self.up[start.host as usize] = Vec::new();
        Ok(())
    }

    fn missing(&self, calm: &Calm<'_>) -> Option<String> {
        let name = |host: u32| calm.nodes.binary_search_by_key(&host, |node| node.host).ok();
        calm.nodes.iter().find_map(|node| {
            let up = &self.up[node.host as usize];
            let unheard = calm.mesh.neighbours(node.host).filter_map(name).map(|place| &calm.nodes[place]);
            let unheard = unheard.filter(|other| up.binary_search(&short(&other.core.config().node)).is_err());
            unheard.map(|other| format!("node {} does not hear node {}", node.host, other.host)).next()
        })
    }
}

/// Enough of a name to tell nodes of one world apart.
fn short(node: &NodeId) -> u64 {
    let (first, _) = node.as_bytes().split_first_chunk().expect("a name is longer");
    u64::from_le_bytes(*first)
}
