//! A client that follows certificates and checks proofs, and holds no state (PROTOCOL §11).
//!
//! It trusts the seats that decide after some block. A header that a quorum of them finalized is as good as the block
//! itself, however many blocks lie between: seats change at epochs' ends only, so what a client needs is one [`Advance`] for
//! every change of seats it wants to follow, and one to the newest header it wants to use. Proofs of accounts and nodes are
//! checked against that header's state.
//!
//! A client may also skip changes. A header that unknown seats decided is believed if those seats are the ones its parent
//! names, a quorum of them signed, *and* signers hold more than a third of the weight of the seats the client trusts. At
//! least one of these signers is honest, and signed a successor of its own chain's parent, so the parent and the seats it
//! names are real; the quorum does the rest.
//!
//! Both arguments rest on stake that can still be slashed. Validators who took their bonds back may sign anything, so a
//! client skips at most the time that unbonding takes. One that was away for longer may follow every change of seats, which
//! is sound if none of the former validators lies, or begin again from a header that it learns elsewhere
//! ([`LightClient::trusting`]).

use core::fmt;

pub use neuroshard_proto::chain::{Advance, NextSeats};
use neuroshard_proto::chain::{Certificate, CertificateError, Header, Seats, Subject};
use neuroshard_proto::{Genesis, Hash, NetworkId, NodeId, OwnerId, Time, mutant};
use serde::{Deserialize, Serialize};

use super::tree::Disproved;
use super::{Account, Ledger, Node, StateProof};

/// Follows a network by its certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightClient {
    network: NetworkId,
    /// The newest header that is known to be final; `None` before the first.
    header: Option<Header>,
    /// Who decides after it.
    seats: Seats,
    /// The longest step over changes of seats.
    skip_ms_max: u64,
}

/// Why a client does not go a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LightError {
    /// A header of another network.
    Network,
    /// The header is not newer than what the client knows.
    Old {
        known: u64,
        found: u64,
    },
    /// The certificate is not a finalization of the header's block.
    Subject,
    Certificate(CertificateError),
    /// The parent is not the header's, or names other seats than those given.
    Deciders,
    /// Signers hold no more than a third of the trusted seats: some changes of seats must be followed one by one.
    Overlap {
        common: u64,
        total: u64,
    },
    /// The step skips changes over more time than a bond is held.
    TooFar {
        ms: u64,
        max: u64,
    },
    /// The seats that the header names are missing, or are others.
    Next,
}

impl fmt::Display for LightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("the header is of another network"),
            Self::Old { known, found } => write!(f, "height {found} is not newer than {known}"),
            Self::Subject => f.write_str("the certificate is not a finalization of this header"),
            Self::Certificate(error) => error.fmt(f),
            Self::Deciders => f.write_str("the header's parent names other validators than those given"),
            Self::Overlap { common, total } => write!(
                f,
                "the signers hold {common} of the {total} that this client trusts, not more than a third: follow the changes \
                 of validators between"
            ),
            Self::TooFar { ms, max } => write!(
                f,
                "the step skips {ms} ms, a bond is held for {max}: follow every change of validators, or begin from a newer \
                 header that you trust"
            ),
            Self::Next => f.write_str("the validators that the header names are missing, or others were given"),
        }
    }
}

impl core::error::Error for LightError {}

impl LightClient {
    /// Trusts a genesis, and so its founders.
    pub fn genesis(genesis: &Genesis) -> Self {
        let ledger = Ledger::genesis(genesis);
        let skip_ms_max = genesis.params.money.unbonding_ms;
        Self { network: ledger.network(), header: None, seats: Seats::clone(ledger.seats()), skip_ms_max }
    }

    /// Trusts a header that was learnt from somebody who is trusted. `skip_ms_max` is the network's time of unbonding.
    ///
    /// # Errors
    /// [`LightError::Next`] if these are not the seats that the header names.
    pub fn trusting(header: Header, seats: Seats, skip_ms_max: u64) -> Result<Self, LightError> {
        if seats.hash() != header.seats {
            return Err(LightError::Next);
        }
        Ok(Self { network: header.network, header: Some(header), seats, skip_ms_max })
    }

    /// The newest header known to be final; `None` before the first step from a genesis.
    pub const fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Who decides after it.
    pub const fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Goes to a later header.
    ///
    /// # Errors
    /// The first rule that the step breaks; the client stays where it was.
    pub fn advance(&mut self, step: Advance) -> Result<(), LightError> {
        let Advance { header, certificate, deciders, next } = step;
        if header.network != self.network {
            return Err(LightError::Network);
        }
        let known = self.header.as_ref().map_or(0, |known| known.height);
        if header.height <= known {
            return Err(LightError::Old { known, found: header.height });
        }
        let Subject::Finalized { height, block, .. } = certificate.subject else { return Err(LightError::Subject) };
        if (height, block) != (header.height, header.id()) {
            return Err(LightError::Subject);
        }
        // Weights cost nothing, signatures much: a certificate without weight is not worth checking.
        if let Some((parent, seats)) = &deciders {
            self.check_skip(&header, &certificate, parent, seats)?;
        }
        let deciding = deciders.as_ref().map_or(&self.seats, |(_, seats)| seats);
        certificate.check_weight(deciding).map_err(LightError::Certificate)?;
        certificate.check_signatures(self.network).map_err(LightError::Certificate)?;
        let seats = next.after(deciding);
        if seats.hash() != header.seats {
            return Err(LightError::Next);
        }
        (self.header, self.seats) = (Some(header), seats);
        Ok(())
    }

    /// A step that skips changes of seats: see the module's words.
    fn check_skip(
        &self,
        header: &Header,
        certificate: &Certificate,
        parent: &Header,
        seats: &Seats,
    ) -> Result<(), LightError> {
        let follows = parent.height.checked_add(1) == Some(header.height) && parent.id() == header.parent;
        if !follows || parent.network != self.network || seats.hash() != parent.seats {
            return Err(LightError::Deciders);
        }
        let ms = header.time.ms_since(self.header.as_ref().map_or(Time::ZERO, |known| known.time));
        if ms > self.skip_ms_max {
            return Err(LightError::TooFar { ms, max: self.skip_ms_max });
        }
        let weights = certificate.endorsements.iter().map(|one| self.seats.weight(&one.validator));
        let (common, total) = (weights.fold(0, u64::saturating_add), self.seats.total());
        if u128::from(common).saturating_mul(3) <= u128::from(total) && !mutant("light client trusts strangers") {
            return Err(LightError::Overlap { common, total });
        }
        Ok(())
    }

    /// What the state at the newest header holds for an owner.
    ///
    /// # Errors
    /// [`Disproved`] if the proof is not one, or there is no header yet.
    pub fn account<'a>(
        &self,
        owner: &OwnerId,
        proof: &'a StateProof<OwnerId, Account>,
    ) -> Result<Option<&'a Account>, Disproved> {
        proof.check(&self.state()?, owner)
    }

    /// What the state at the newest header holds for a node.
    ///
    /// # Errors
    /// [`Disproved`] if the proof is not one, or there is no header yet.
    pub fn node<'a>(&self, node: &NodeId, proof: &'a StateProof<NodeId, Node>) -> Result<Option<&'a Node>, Disproved> {
        proof.check(&self.state()?, node)
    }

    fn state(&self) -> Result<Hash, Disproved> {
        self.header.as_ref().map(|header| header.state).ok_or(Disproved)
    }
}
