//! `neuroshard run`: founds a network or finds it again, and trains until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use futures_lite::future;
use neuroshard_core::{Command, Core};
use neuroshard_host::api::Api;
use neuroshard_host::clock::Clock;
use neuroshard_host::directory::Paths;
use neuroshard_host::home::Home;
use neuroshard_host::keys::entropy;
use neuroshard_host::net::join::{Target, join as enter};
use neuroshard_host::net::lan::{self, Found};
use neuroshard_host::net::{Facts, Net, Wishes};
use neuroshard_host::network::{Expected, Founding, Network, Source};
use neuroshard_host::node::{Cause, Ended, Handle, Node, NodeError, Report, Setup};
use neuroshard_host::peers::Link;
use neuroshard_host::registration;
use neuroshard_host::runtime::Runtime;
use neuroshard_host::status::{Follower, LossScale, Status};
use neuroshard_proto::Hash;
use neuroshard_replay::Detail;

use crate::args::version;
use crate::book::book;
use crate::display::{self, Display, News, Opened, TICK};
use crate::engine::{self, Chosen};
use crate::failure::Failure;
use crate::log::Log;
use crate::plan;
use crate::recording::recording;
use crate::say::aside;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::values::{Address, Door};

/// How a node comes to its network, where its data directory has none yet.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// It founds one.
    Own,
    Door(Door),
    /// It looks for one on the local network.
    Near,
}

/// Runs a node, one that founds or joins a network first if it has none.
pub(crate) fn run(runtime: &impl Runtime, settings: &Settings, way: &Way, log: &Log) -> Result<(), Failure> {
    let signals = Signals::listen().map_err(|error| Failure::new(format!("signals cannot be heard: {error}")))?;
    if settings.until_stdin_closes.unwrap_or(false) {
        signals.stop_when_stdin_closes().map_err(|error| Failure::new(format!("no thread can be had: {error}")))?;
    }
    let chosen = engine::choose(&settings.adapter.clone().unwrap_or_default(), settings.threads)?;
    let (home, network) = Home::open(&settings.data_dir()?, settings.disk_bytes())?;
    let mut display = display::choose(settings.json.unwrap_or(false));
    let opened = Opened {
        version: version().to_owned(),
        data_dir: home.paths().root().display().to_string(),
        node: home.keys.node_id().to_string(),
        adapter: chosen.description.clone(),
        adapter_reason: chosen.reason.clone(),
    };
    show(&mut *display, &News::Opened(&opened))?;
    let door = match (way, &network) {
        (Way::Door(door), _) => Some(door.clone()),
        (Way::Near, None) => Some(near(runtime)?),
        (Way::Near, Some(_)) | (Way::Own, _) => None,
    };
    let door = door.as_ref();
    let network = match (network, door) {
        (Some(network), door) => {
            network.check(home.paths(), &expected(settings)).map_err(Failure::new)?;
            leads_to(door, &network, home.paths())?;
            network
        }
        (None, Some(door)) => join(runtime, &home, door, &mut *display)?,
        (None, None) => found(&home, settings, &mut *display)?,
    };
    if let Some(path) = &settings.plan {
        let plan = plan::read(path, &network.genesis.model, home.keys.node_id())?;
        home.take_plan(&network, plan)?;
    }
    let data_bytes = 2 * network.manifest.tokens();
    let (core, start) = home.restore(&network, settings.operator(data_bytes))?;
    let follower = follower(&home, &network, &core, settings, &chosen);
    let clock = Clock::start(network.genesis.created_unix_ms);
    let inputs_only = settings.record_inputs_only.unwrap_or(false);
    let detail = if inputs_only { Detail::Inputs } else { Detail::Outputs };
    let record = |path| recording(path, detail, &core, &start, clock.now());
    let tap = settings.record.as_deref().map(record).transpose()?;
    let (net, link) = neighbours(runtime, &home, &network, settings, door)?;
    let setup = Setup {
        core,
        clock,
        store: Arc::clone(&home.store),
        engine: chosen.engine,
        factory: chosen.factory,
        throttle: settings.throttle.unwrap_or_default(),
        tap,
        follower,
        owner: home.keys.owner_id(),
        signer: Box::new(home.keys.signer()),
        link,
    };
    let (node, handle, reports) = Node::new(setup)?;
    registration::start(&handle, &home.keys, &network.genesis).map_err(Failure::new)?;
    let port = settings.api_port.unwrap_or(0);
    let api = Api::start(runtime, home.paths(), port, handle.clone()).map_err(Failure::new)?;
    show(&mut *display, &News::Started { network: &network, api: api.address().to_string() })?;
    signals.attach(handle.clone());
    let watcher = Watcher {
        runtime: runtime.clone(),
        display,
        follower: handle.live.snapshot(),
        handle,
        reports,
        signals,
        log: log.clone(),
        stopping: 0,
        unseen: false,
    };
    let ended = watcher.watch_while(|| {
        let ended = runtime.block_on(node.run(runtime));
        if let Some(net) = net {
            runtime.block_on(net.shut_down());
        }
        ended
    })?;
    drop(api);
    verdict(&ended)
}

/// What the operator asks of a network that is there already.
pub(crate) fn expected(settings: &Settings) -> Expected {
    Expected {
        model: settings.wanted_specs(),
        seed: settings.seed.as_ref().map(crate::values::Seed::hash),
        source: settings.data.as_ref().map(|_| source(settings).to_string()),
    }
}

/// Where the data of a new network comes from.
pub(crate) fn source(settings: &Settings) -> Source<'static> {
    let Some(paths) = &settings.data else { return Source::Book(book()) };
    match &paths[..] {
        [one] if one.as_os_str() == "book" => Source::Book(book()),
        [one] if one.as_os_str() == "synthetic" => Source::Synthetic,
        _ => Source::Paths(paths.clone()),
    }
}

/// The seed that was asked for, or one that nobody knows yet.
pub(crate) fn seed(settings: &Settings) -> Result<Hash, Failure> {
    settings.seed.as_ref().map_or_else(|| entropy().map_err(Failure::new), |seed| Ok(seed.hash()))
}

/// Starts the node's part in its network; a node that knows of nobody and listens nowhere stays alone.
fn neighbours(
    runtime: &impl Runtime,
    home: &Home,
    network: &Network,
    settings: &Settings,
    door: Option<&Door>,
) -> Result<(Option<Net>, Link), Failure> {
    let all = |addresses: &Option<Vec<Address>>| -> Vec<_> {
        addresses.iter().flatten().map(|address| address.0.clone()).collect()
    };
    let mut wishes = Wishes {
        listen: all(&settings.listen),
        connect: all(&settings.connect),
        announce: all(&settings.announce),
        lan: settings.lan.unwrap_or(true),
        relay: settings.relay.unwrap_or(true),
        peers_file: Some(home.paths().peers()),
    };
    match door {
        Some(Door::Invite(invite)) => wishes.connect.extend(invite.addresses.iter().cloned()),
        Some(Door::Address(address)) => wishes.connect.push(address.0.clone()),
        Some(Door::Near { addresses, .. }) => wishes.connect.extend(addresses.iter().cloned()),
        None => {}
    }
    if wishes.listen.is_empty() && wishes.connect.is_empty() && !home.paths().peers().exists() {
        let founders = network.genesis.founders.len();
        if home.plan()?.is_some_and(|plan| plan.members.len() > 1) {
            aside!(
                "neuroshard: this node trains with others by a plan, and it neither listens nor knows an address: it will wait. Say \
                 --listen 0.0.0.0:4700, or --connect with the address of another member."
            );
        } else if founders > 1 {
            aside!(
                "neuroshard: this network has {founders} founders, and this node neither listens nor knows an address: \
                 nothing can be decided. Say --listen 0.0.0.0:4700, or --connect with the address of another one."
            );
        }
        return Ok((None, Link::nobody_else()));
    }
    let facts = Facts::new(network, Arc::clone(&home.store), home.plan()?.as_ref());
    let (net, link) = Net::start(runtime, &home.keys, facts, &wishes).map_err(Failure::new)?;
    Ok((Some(net), link))
}

/// The network on the local network, if there is one and not several.
fn near(runtime: &impl Runtime) -> Result<Door, Failure> {
    let (group, port) = (lan::GROUP, lan::PORT);
    aside!("Listening for a network on the local network (multicast {group}, UDP port {port}).");
    let cannot = |error| {
        Failure::new(format!("nothing can be heard on UDP port {port}: {error}. Name a node: neuroshard join ADDRESS."))
    };
    let mut found = runtime.block_on(lan::look()).map_err(cannot)?;
    let Some(last) = found.pop() else {
        return Err(Failure::new(format!(
            "no network was heard on the local network in {} s. Nodes call there if they run with --listen and without \
             --no-lan; a firewall may keep UDP port {port} out, and some wireless networks drop multicast. With a node's \
             address or an invite it goes without: neuroshard join ADDRESS.",
            lan::LOOKING_MOST.as_secs()
        )));
    };
    if found.is_empty() {
        let (nodes, network) = (last.nodes.len(), last.network);
        aside!("Heard network {network:.16}: {nodes} {}.", if nodes == 1 { "node" } else { "nodes" });
        return Ok(Door::Near { network, addresses: last.nodes.into_values().flatten().collect() });
    }
    let mut text = "several networks are near. Say which one:".to_owned();
    for Found { network, nodes } in found.into_iter().chain([last]) {
        let count = nodes.len();
        let address = nodes.into_values().flatten().next().map(|one| one.to_string()).unwrap_or_default();
        text += &format!("\n  neuroshard join {address}    network {network:.16}, {count} heard");
    }
    Err(Failure::new(text))
}

/// Becomes a node of the network behind a door.
fn join(runtime: &impl Runtime, home: &Home, door: &Door, display: &mut dyn Display) -> Result<Network, Failure> {
    let target = match door {
        Door::Invite(invite) => Target { network: Some(invite.network), addresses: invite.addresses.clone() },
        Door::Address(address) => Target { network: None, addresses: vec![address.0.clone()] },
        Door::Near { network, addresses } => Target { network: Some(*network), addresses: addresses.clone() },
    };
    let mut unseen = None;
    let mut progress = |done, of| unseen = display.show(&News::Fetching { done, of }, None).err();
    let network = runtime.block_on(enter(runtime, home, &target, &mut progress)).map_err(Failure::new)?;
    if let Some(error) = unseen {
        return Err(unwatched(&error));
    }
    show(display, &News::Joined { network: &network, trusted: target.network.is_none() })?;
    Ok(network)
}

/// Whether a door leads to the network that is here already.
fn leads_to(door: Option<&Door>, network: &Network, paths: &Paths) -> Result<(), Failure> {
    let Some(Door::Invite(invite)) = door else { return Ok(()) };
    let here = network.genesis.network();
    if invite.network == here {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the invite is to network {:.16}, and {} holds a node of network {here:.16}. A node stays with its network: name a \
         new directory with --data-dir to join another one.",
        invite.network,
        paths.root().display()
    )))
}

/// Founds a network as the settings want it.
pub(crate) fn found(home: &Home, settings: &Settings, display: &mut dyn Display) -> Result<Network, Failure> {
    let (model, training) = settings.specs();
    let seed = seed(settings)?;
    let me = home.founder();
    let (params, source) = (settings.params(), source(settings));
    let allocations = settings.allocations(me.owner).map_err(Failure::usage)?;
    let founders = settings.founders(me).map_err(Failure::usage)?;
    let founding = Founding { model, training, params, seed, source, founders, allocations, first: None };
    let mut unseen = None;
    let mut progress = |done, of| unseen = display.show(&News::Packing { done, of }, None).err();
    let (network, skipped) = home.found(&founding, &mut progress)?;
    if let Some(error) = unseen {
        return Err(unwatched(&error));
    }
    show(display, &News::Founded { network: &network, skipped })?;
    Ok(network)
}

fn follower(home: &Home, network: &Network, core: &Core, settings: &Settings, chosen: &Chosen) -> Follower {
    let data_dir = home.paths().root().display().to_string();
    let mut status = Status::new(network, home.keys.node_id().to_string(), data_dir);
    status.on_restored(core.saved_states().last());
    status.on_plan(core.config());
    status.process = Some(std::process::id());
    status.steps_limit = settings.steps;
    status.adapter = Some(chosen.description.clone());
    status.adapter_reason = Some(chosen.reason.clone());
    Follower::new(status, LossScale::new(&network.manifest))
}

fn show(display: &mut dyn Display, news: &News<'_>) -> Result<(), Failure> {
    display.show(news, None).map_err(|error| unwatched(&error))
}

fn unwatched(error: &std::io::Error) -> Failure {
    Failure::new(format!("standard output cannot be written: {error}"))
}

/// Shows what the loop tells, on a thread of its own: a terminal that stands still must not hold up the node.
struct Watcher<R> {
    runtime: R,
    display: Box<dyn Display>,
    /// As of the last report that was shown.
    follower: Follower,
    handle: Handle,
    reports: async_channel::Receiver<Report>,
    signals: Signals,
    log: Log,
    /// How often the operator asked to stop, as far as it was shown.
    stopping: u32,
    /// Nobody looks any more.
    unseen: bool,
}

impl<R: Runtime> Watcher<R> {
    /// Does `work` and shows what it tells.
    fn watch_while(mut self, work: impl FnOnce() -> Result<Ended, NodeError>) -> Result<Ended, Failure> {
        let log = self.log.clone();
        if self.display.owns_terminal() {
            log.hold();
        }
        let done = AtomicBool::new(false);
        let ended = thread::scope(|scope| {
            scope.spawn(|| {
                // Looked at before the reports are, so that the last of them is shown.
                while !done.load(Ordering::Acquire) {
                    self.look();
                }
                self.look();
            });
            let ended = work();
            done.store(true, Ordering::Release);
            ended
        });
        if let Ok(ended) = &ended {
            self.show(&News::Ended(ended));
        }
        log.release();
        Ok(ended?)
    }

    /// Waits a moment for reports and shows them.
    fn look(&mut self) {
        let tick = async {
            self.runtime.sleep(TICK).await;
            None
        };
        let first = self.runtime.block_on(future::or(async { self.reports.recv().await.ok() }, tick));
        let mut next = first;
        while let Some(report) = next {
            if let Report::Event { at, event, progress } = &report {
                self.follower.on_event(*at, event, progress);
            }
            self.show(&News::Report(&report));
            next = self.reports.try_recv().ok();
        }
        for line in self.log.take() {
            self.show(&News::Log(&line));
        }
        let times = self.signals.times();
        if times > self.stopping {
            self.stopping = times;
            self.show(&News::Stopping { times });
        }
        self.follower.on_time(self.handle.live.now());
        if !self.unseen && self.display.tick(&self.follower).is_err() {
            self.leave();
        }
    }

    fn show(&mut self, news: &News<'_>) {
        if !self.unseen && self.display.show(news, Some(&self.follower)).is_err() {
            self.leave();
        }
    }

    /// Standard output is closed: whoever started the node is gone, so it saves and stops.
    fn leave(&mut self) {
        self.unseen = true;
        self.handle.command(Command::Stop);
    }
}

/// A node that ended because it could not go on has failed.
fn verdict(ended: &Ended) -> Result<(), Failure> {
    let saved = match ended.saved {
        Some(step) => format!("Step {step} is the last one that is safe."),
        None => "Nothing was saved.".to_owned(),
    };
    match ended.cause {
        Cause::Failed => Err(Failure::new(format!("the node cannot go on; the last fault above says why. {saved}"))),
        Cause::Diverged => Err(Failure::new(format!(
            "training diverged: batch after batch left the range of numbers. {saved} A lower learning rate may help."
        ))),
        Cause::Done if ended.saved != Some(ended.step) && ended.step.0 > 0 => {
            Err(Failure::new(format!("step {} could not be saved. {saved}", ended.step)))
        }
        Cause::Done => Ok(()),
    }
}
