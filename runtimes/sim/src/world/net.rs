//! Messages between hosts.

use std::rc::Rc;

use neuroshard_core::{Command, Input, Topic};
use neuroshard_proto::{Envelope, Heartbeat, Message, NodeId, Verified};

use super::{Next, World};
use crate::byzantine::{View, twins};
use crate::link::Packet;
use crate::message::Body;
use crate::report::Count;
use crate::workload;

impl World {
    pub(super) fn send(&mut self, host: u32, to: &NodeId, message: &Envelope) {
        let body = Rc::new(self.opened(host, message));
        let receivers: Vec<u32> = self.keys.hosts(to).collect();
        for receiver in receivers {
            self.leave(host, receiver, &body);
        }
    }

    pub(super) fn publish(&mut self, host: u32, topic: Topic, message: &Envelope) {
        let body = self.opened(host, message);
        if topic == Topic::Agreement && !self.mesh.is_direct() {
            return self.publish_to_seats(host, &Rc::new(body));
        }
        let body = if self.mesh.is_direct() { body } else { body.passed_on(self.hosts.len() as u32) };
        let body = Rc::new(body);
        body.reaches(host);
        self.spread(host, host, &body);
    }

    /// What a node's own core sends: everybody must be able to open it, and it must be of the node's network.
    fn opened(&mut self, host: u32, message: &Envelope) -> Body {
        let body = Body::new(message);
        match &body.opened {
            Ok(verified) if verified.network() == self.founding.network => {}
            Ok(verified) => {
                let what = format!("a message for network {:.16}", verified.network());
                self.fail("honest frames open", Some(host), what);
            }
            Err(reject) => {
                let what = format!("a message of kind {} that others refuse: {reject}", message.kind);
                self.fail("honest frames open", Some(host), what);
            }
        }
        body
    }

    /// In a large world the validators follow one another: what they say to each other is passed on by nobody.
    fn publish_to_seats(&mut self, host: u32, body: &Rc<Body>) {
        let Some(core) = &self.hosts[host as usize].core else { return };
        let seats = core.ledger().seats().clone();
        for (name, _) in seats.iter() {
            let bearers: Vec<u32> = self.keys.hosts(name).filter(|other| *other != host).collect();
            bearers.into_iter().for_each(|other| self.leave(host, other, body));
        }
    }

    /// Sends a message to all neighbours but the one that it came from.
    fn spread(&mut self, host: u32, came_from: u32, body: &Rc<Body>) {
        let mesh = self.mesh.clone();
        for node in mesh.neighbours(self.node_of(host)) {
            let second = self.twins.get(&node).copied();
            for receiver in [Some(node), second].into_iter().flatten().filter(|other| *other != came_from) {
                self.leave(host, receiver, body);
            }
        }
    }

    /// A message leaves a host, if its conduct lets it.
    fn leave(&mut self, host: u32, to: u32, body: &Rc<Body>) {
        let Some(mut conduct) = self.hosts[host as usize].conduct.take() else {
            return self.transmit(host, to, body);
        };
        let sent = conduct.outgoing(&self.view(host), to, body);
        self.hosts[host as usize].conduct = Some(conduct);
        let same = sent.iter().filter(|other| Rc::ptr_eq(other, body)).count() as u64;
        self.counts.add(Count::Silenced, 1_u64.saturating_sub(same));
        self.counts.add(Count::Forged, sent.len() as u64 - same);
        for body in sent {
            self.transmit(host, to, &body);
        }
    }

    fn view(&self, host: u32) -> View<'_> {
        let draw = self.draws.conduct.of(u64::from(host)).of(self.now).of(u64::from(self.ordinal));
        View { host, network: self.founding.network, keys: &self.keys, draw }
    }

    /// Whether two hosts see each other: of twins, each sees one at a time.
    pub(super) fn see(&self, from: u32, to: u32) -> bool {
        let hidden = |host: u32, other: u32| {
            let node = self.node_of(host);
            let twin = usize::from(node != host);
            self.twins.contains_key(&node) && twins::seen(self.draws.twins, node, self.node_of(other), self.now) != twin
        };
        self.twins.is_empty() || !(hidden(from, to) || hidden(to, from))
    }

    /// Puts a message on the link.
    fn transmit(&mut self, from: u32, to: u32, body: &Rc<Body>) {
        if !self.see(from, to) {
            return self.counts.add(Count::Hidden, 1);
        }
        self.ordinal += 1;
        self.counts.add(Count::Sent, 1);
        let agrees = matches!(&body.opened, Ok(verified)
            if !matches!(verified.message(), Message::Heartbeat(_) | Message::Forming(_) | Message::Quorum(_)));
        self.counts.add(Count::SentToAgree, u64::from(agrees));
        match body.opened.as_ref().map(Verified::message) {
            Ok(Message::Forming(_)) => self.counts.add(Count::SentToForm, 1),
            Ok(Message::Quorum(_)) => self.counts.add(Count::SentToTrain, 1),
            _ => {}
        }
        let packet = Packet { at: self.now, from, to, ordinal: self.ordinal, bytes: body.bytes };
        let busy = &mut self.hosts[from as usize].line_busy_until;
        let fate = self.network.fate(&packet, &self.weather, busy);
        let happened = [
            (fate.blocked, Count::Blocked, "blocked"),
            (fate.lost && !fate.blocked, Count::Lost, "lost"),
            (fate.arrivals[1].is_some(), Count::Duplicated, "duplicated"),
            (fate.reordered, Count::Reordered, "delayed"),
            (fate.corrupted, Count::Corrupted, "corrupted"),
            (fate.clogged, Count::Clogged, "clogged"),
            (fate.throttled, Count::Throttled, "throttled"),
        ];
        for (_, count, name) in happened.into_iter().filter(|(happened, ..)| *happened) {
            self.counts.add(count, 1);
            self.note(from, format_args!("> {to} {} {name}", body.kind()));
        }
        let draw = self.draws.corrupt.of(u64::from(from)).of(u64::from(to)).of(self.now).of(u64::from(self.ordinal));
        let changed = fate.corrupted.then(|| body.corrupted(draw)).flatten().map(Rc::new);
        for at in fate.arrivals.into_iter().flatten() {
            let body = changed.as_ref().unwrap_or(body);
            self.put_from(at, to, from, Next::Deliver(Rc::clone(body)));
        }
    }

    pub(super) fn deliver(&mut self, host: u32, from: u32, body: &Rc<Body>) {
        if self.hosts[host as usize].core.is_none() {
            return self.counts.add(Count::ToNobody, 1);
        }
        self.counts.add(Count::Delivered, 1);
        let Ok(verified) = &body.opened else {
            return self.counts.add(Count::Refused, 1);
        };
        if let Some(conduct) = &mut self.hosts[host as usize].conduct {
            conduct.incoming(body);
        }
        if body.is_passed_on() {
            if !body.reaches(host) {
                return;
            }
            self.counts.add(Count::Relayed, 1);
            self.spread(host, from, body);
        }
        self.step(host, from, Input::Message(verified.clone()));
    }

    /// Hosts say that their nodes live (PROTOCOL §3); liars add what they please.
    pub(super) fn on_heartbeat(&mut self, host: u32, life: u32) {
        let machine = &mut self.hosts[host as usize];
        if !machine.lives(life) {
            return;
        }
        let Some(core) = &machine.core else { return };
        let step = core.model_step();
        let heartbeat = Heartbeat {
            node: self.keys.name(host),
            time: machine.clock.read(self.now),
            quorum: None,
            queue_depth: 0,
            free_bytes: 0,
            step,
        };
        let message = Message::Heartbeat(heartbeat);
        let body = Rc::new(Body::signed(&self.keys, host, self.founding.network, &message));
        self.spread(host, host, &body);
        self.register(host);
        self.act_up(host);
        self.put(self.now + self.founding.params().heartbeat_ms * 1000, host, Next::Heartbeat { life });
    }

    /// Where nodes train together, one that the ledger does not know asks to be registered, as hosts do.
    fn register(&mut self, host: u32) {
        let Some(core) = self.hosts[host as usize].core.as_ref().filter(|_| self.spec.quorums) else { return };
        let node = self.keys.name(host);
        if core.ledger().node(&node).is_some() {
            return;
        }
        let signed = workload::registration(&self.keys, host, self.founding.network);
        self.step(host, host, Input::Command(Command::Submit(Box::new(signed))));
    }

    /// A user puts a wish before a node that is up, and another one will want something later.
    pub(super) fn on_wish(&mut self) {
        let draw = self.draws.wish.of(self.now);
        let node = draw.of(0).below(u64::from(self.spec.nodes)) as u32;
        let core = self.hosts[node as usize].core.as_ref();
        let wish = core.and_then(|core| {
            let (network, founders) = (self.founding.network, self.founding.founders());
            workload::wish(&self.keys, network, core.ledger(), founders, draw.of(1))
        });
        if let Some(signed) = wish {
            self.counts.add(Count::Wishes, 1);
            self.step(node, node, Input::Command(Command::Submit(Box::new(signed))));
        }
        let after = draw.of(2).between(1, 2 * self.spec.wish_ms * 1000);
        self.put_own(self.now + after, Next::Wish);
    }

    /// What a liar sends unasked.
    fn act_up(&mut self, host: u32) {
        let Some(mut conduct) = self.hosts[host as usize].conduct.take() else { return };
        let mesh = self.mesh.clone();
        for to in mesh.neighbours(self.node_of(host)) {
            let sent = conduct.unbidden(&self.view(host), to);
            self.counts.add(Count::Forged, sent.len() as u64);
            sent.iter().for_each(|body| self.transmit(host, to, body));
        }
        self.hosts[host as usize].conduct = Some(conduct);
    }
}
