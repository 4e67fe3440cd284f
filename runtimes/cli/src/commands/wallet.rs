//! `neuroshard wallet`: the agreed world as it concerns an account, asked of the node that runs, or read from the journal of one
//! that does not.

use std::time::{Duration, Instant};

use neuroshard_core::ledger::{Account, StateProof};
use neuroshard_host::agreed::{AccountInfo, Fate, NetworkInfo, account_info, from_hex};
use neuroshard_host::api::{Client, ClientError};
use neuroshard_host::directory::Paths;
use neuroshard_host::history::{self, Entry, HISTORY_MAX};
use neuroshard_host::home::Visit;
use neuroshard_host::keys::Keys;
use neuroshard_proto::chain::{Action, Author, Header, PublicKey, SignedTransaction, Transaction};
use neuroshard_proto::{Amount, Hash, NetworkId, OwnerId};
use serde_json::json;

use crate::args::WalletCommand;
use crate::display::{count, duration};
use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;

/// How long a transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn wallet(settings: &Settings, command: &WalletCommand) -> Result<(), Failure> {
    let purse = Purse::open(settings)?;
    match command {
        WalletCommand::Balance { account } => purse.balance(account.as_ref().map(|name| name.0)),
        WalletCommand::History { account, before } => {
            purse.history(account.as_ref().map(|name| name.0), before.unwrap_or(u64::MAX))
        }
        WalletCommand::Transfer { to, amount, no_wait } => {
            purse.wish(Action::Transfer { to: to.0, amount: amount.0 }, *no_wait)
        }
        WalletCommand::Bond { amount, no_wait } => purse.wish(Action::Bond { amount: amount.0 }, *no_wait),
        WalletCommand::Unbond { amount, no_wait } => purse.wish(Action::Unbond { amount: amount.0 }, *no_wait),
    }
}

/// An owner's keys, and the node that knows the account.
struct Purse {
    keys: Keys,
    network: NetworkId,
    client: Option<Client>,
    settings: Settings,
}

impl Purse {
    fn open(settings: &Settings) -> Result<Self, Failure> {
        let paths = Paths::of_existing(&settings.data_dir()?)?;
        let keys = Keys::open(&paths.keys()).map_err(Failure::new)?;
        let client = Client::find(&paths).ok().filter(|client| client.get::<NetworkInfo>("/network").is_ok());
        let network = match &client {
            Some(client) => client.get::<NetworkInfo>("/network").map_err(Failure::new)?.network,
            None => Visit::open(paths.root())?.core.network().to_string(),
        };
        let network = Hash::from_hex(&network).map(NetworkId).ok_or_else(|| Failure::new(ClientError::Answer))?;
        Ok(Self { keys, network, client, settings: settings.clone() })
    }

    fn is_json(&self) -> bool {
        self.settings.json.unwrap_or(false)
    }

    fn client(&self) -> Result<&Client, Failure> {
        self.client.as_ref().ok_or_else(|| Failure::new(ClientError::NotRunning))
    }

    /// An account, after its proof was followed to the header's state.
    fn account(&self, owner: &OwnerId) -> Result<AccountInfo, Failure> {
        let Some(client) = &self.client else {
            let visit = Visit::open(&self.settings.data_dir()?)?;
            return Ok(account_info(visit.core.ledger(), None, owner));
        };
        let info: AccountInfo = client.get(&format!("/accounts/{owner}")).map_err(Failure::new)?;
        if let Some(header) = &info.header {
            let unproved = || Failure::new("the node's answer does not prove what it says");
            let header: Header = from_hex(header).ok_or_else(unproved)?;
            let proof: StateProof<OwnerId, Account> = from_hex(&info.proof).ok_or_else(unproved)?;
            let proved = proof.check(&header.state, owner).map_err(|_| unproved())?;
            let (sequence, bond) = proved.map_or((0, 0), |account| (account.sequence, account.bond.units()));
            if (sequence, bond, header.height) != (info.sequence, info.bond_units, info.height) {
                return Err(unproved());
            }
        }
        Ok(info)
    }

    fn balance(&self, owner: Option<OwnerId>) -> Result<(), Failure> {
        let info = self.account(&owner.unwrap_or_else(|| self.keys.owner_id()))?;
        if self.is_json() {
            out!("{}", serde_json::to_string(&info).unwrap_or_default());
            return Ok(());
        }
        let money = |units| Amount::from_units(units).to_string();
        out!("account   {}", info.owner);
        out!("balance   {}", money(info.spendable_units));
        out!("bonded    {}", money(info.bond_units));
        for (name, units) in [("locked", info.locked_units), ("unbonding", info.unbonding_units)] {
            if units > 0 {
                out!("{name:<9} {}", money(units));
            }
        }
        out!("at        height {}, {} transactions made", count(info.height), count(info.sequence));
        Ok(())
    }

    /// An account's transactions below a height, from the node, or from what it left.
    fn entries(&self, owner: &OwnerId, before: u64) -> Result<Vec<Entry>, Failure> {
        if let Some(client) = &self.client {
            return client.get(&format!("/accounts/{owner}/history/{before}")).map_err(Failure::new);
        }
        let visit = Visit::open(&self.settings.data_dir()?)?;
        let mut blocks: Vec<_> = visit.core.decided_since(0).collect();
        blocks.reverse();
        let remembered = (*owner == self.keys.owner_id()).then_some(&visit.store);
        history::history(blocks.into_iter().map(|decided| &**decided), remembered, owner, before).map_err(Failure::new)
    }

    fn history(&self, owner: Option<OwnerId>, before: u64) -> Result<(), Failure> {
        let own = self.keys.owner_id();
        let owner = owner.unwrap_or(own);
        let entries = self.entries(&owner, before)?;
        for entry in &entries {
            let (signed, _) = entry.check().map_err(Failure::new)?;
            if self.is_json() {
                out!("{}", serde_json::to_string(entry).unwrap_or_default());
            } else {
                let words = action_text(&signed.transaction.action, &owner);
                out!("{:>8}  {:>9}  {:.16}  {words}", count(entry.height), duration(entry.time_ms), entry.id);
            }
        }
        if self.is_json() {
            return Ok(());
        }
        match entries.last() {
            None if owner == own => out!("none"),
            None => out!("none in the blocks that the node keeps"),
            Some(oldest) if entries.len() >= HISTORY_MAX => {
                out!("older ones: neuroshard wallet history --before {}", oldest.height);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Signs a wish with the owner's key, hands it over, and waits until it is decided.
    fn wish(&self, action: Action, no_wait: bool) -> Result<(), Failure> {
        let (client, owner) = (self.client()?, self.keys.owner_id());
        let account = self.account(&owner)?;
        let key = PublicKey(*owner.as_bytes());
        if account.key != key.to_string() {
            return Err(Failure::new("another key signs for this account now; this data directory has the old one"));
        }
        let author = Author::Account { owner, key, sequence: account.sequence };
        let transaction = Transaction { author, action };
        let signature = self.keys.sign_for_account(&transaction.digest(self.network));
        let id = client.submit(&SignedTransaction { transaction, signature }).map_err(Failure::new)?;
        if no_wait {
            self.tell(&id, None);
            return Ok(());
        }
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match client.get(&format!("/transactions/{id}")).map_err(Failure::new)? {
                Fate::Decided { height } => {
                    self.tell(&id, Some(height));
                    return Ok(());
                }
                Fate::Dropped { why } => return Err(Failure::new(format!("the transaction was dropped: {why}"))),
                Fate::Unknown => std::thread::sleep(PAUSE),
            }
        }
        Err(Failure::new(format!(
            "transaction {id:.16} is not decided after {} s. It may still be: see `neuroshard wallet history`.",
            PATIENCE.as_secs()
        )))
    }

    fn tell(&self, id: &Hash, height: Option<u64>) {
        match (self.is_json(), height) {
            (true, _) => out!("{}", json!({ "event": "transaction", "id": id.to_string(), "height": height })),
            (false, Some(height)) => out!("decided   {id:.16} at height {}", count(height)),
            (false, None) => out!("sent      {id:.16}"),
        }
    }
}

/// A wish in words, as the owner sees it.
fn action_text(action: &Action, owner: &OwnerId) -> String {
    match action {
        Action::Transfer { to, amount } if to == owner => format!("received {amount}"),
        Action::Transfer { to, amount } => format!("paid {amount} to {to:.16}"),
        Action::Bond { amount } => format!("bonded {amount}"),
        Action::Unbond { amount } => format!("took back {amount}"),
        Action::RotateKey { .. } => "changed the key".to_owned(),
        Action::RegisterNode { node, .. } => format!("registered node {node:.16}"),
        Action::RevokeNode { node } => format!("revoked node {node:.16}"),
        Action::Nominate { node } => format!("votes through node {node:.16}"),
        Action::FormQuorum { terms, .. } => format!("forms a quorum of {}", terms.plan.members.len()),
        Action::EndQuorum { quorum } => format!("ends quorum {quorum:.16}"),
        Action::PostStages { step, first, stages, .. } => {
            format!("posts {} stages from {first} on, at step {step}", stages.len())
        }
        Action::DescribeNode { .. }
        | Action::Attest { .. }
        | Action::CommitRandom { .. }
        | Action::RevealRandom { .. }
        | Action::ReportEquivocation { .. } => "a node's message".to_owned(),
    }
}
