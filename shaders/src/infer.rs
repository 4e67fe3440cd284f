//! Text from weights: a forward pass that keeps what attention needs of earlier tokens (PROTOCOL §9).
//!
//! Every number is made by the kernels that training uses, in the same order, so the logits at a position are to the bit
//! those of a training batch that holds the same tokens up to there, whether the tokens came at once or one by one.
//!
//! ```
//! use neuroshard_proto::{Hash, LayerIndex, Preset};
//! use neuroshard_shaders::infer::Generator;
//! use neuroshard_shaders::layout::LayerLayout;
//! use neuroshard_shaders::sample::{Sampler, Sampling};
//!
//! let (model, _) = Preset::Nano.specs();
//! let mut weights = Vec::new();
//! for layer in model.all_layers().iter() {
//!     let layout = LayerLayout::new(&model, layer);
//!     let mut bits = vec![0; layout.elements];
//!     for tensor in &layout.tensors {
//!         tensor.spec.fill_init(&model, &Hash::default(), layer, 0, &mut bits[tensor.range.clone()]);
//!     }
//!     weights.push(bits.into_iter().map(f32::from_bits).collect());
//! }
//! let mut generator = Generator::new(&model, &weights)?;
//! let mut sampler = Sampler::new(Sampling { temperature: 0.8, top_p: 0.9, seed: 7 })?;
//! let mut token = sampler.sample(generator.feed(&[1, 80, 90])?);
//! for _ in 0..4 {
//!     token = sampler.sample(generator.feed(&[token])?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;

use neuroshard_proto::{Fault, ModelSpec, TensorKind};

use crate::canon::z;
use crate::cpu::Isa;
use crate::cpu::decode::{Decoder, LayerWeights};
use crate::layout::LayerLayout;

/// Why tokens could not be fed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GenerateError {
    /// The tokens do not fit behind those that were fed: `fed + more > context`. Nothing was fed.
    Context { fed: usize, more: usize, context: usize },
    /// The vocabulary has no such token. Nothing was fed.
    Token { token: u32, vocab: u32 },
    /// There were no tokens.
    Nothing,
    /// A value left the range in which arithmetic agrees on every machine; the weights are not a trained model's.
    OutOfRange,
    /// The weights are not the model's, or there is no memory for them.
    Weights(Fault),
}

impl fmt::Display for GenerateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context { fed, more, context } => write!(
                f,
                "the model's context holds {context} tokens; {fed} are in it and {more} more do not fit: use a shorter \
                 prompt or ask for fewer tokens"
            ),
            Self::Token { token, vocab } => write!(f, "there is no token {token} in a vocabulary of {vocab}"),
            Self::Nothing => write!(f, "no tokens were given; a prompt has at least one"),
            Self::OutOfRange => {
                write!(f, "a value left the range of the model's arithmetic: the weights are damaged or diverged")
            }
            Self::Weights(fault) => write!(f, "the weights cannot be used: {fault}"),
        }
    }
}

impl std::error::Error for GenerateError {}

impl From<Fault> for GenerateError {
    fn from(fault: Fault) -> Self {
        Self::Weights(fault)
    }
}

/// One sequence in the making.
#[derive(Debug)]
pub struct Generator {
    model: ModelSpec,
    decoder: Decoder,
    embedding: Vec<f32>,
    bias: Vec<f32>,
    fed: usize,
    logits: Vec<f32>,
}

impl Generator {
    /// A generator with one vector of weights for each stage, tensors in canonical order ([`LayerLayout`]), on the fastest
    /// instructions of this machine.
    ///
    /// # Errors
    /// [`GenerateError::Weights`] if the vectors are not the model's, [`GenerateError::OutOfRange`] if a weight cannot be an
    /// operand.
    pub fn new(model: &ModelSpec, weights: &[Vec<f32>]) -> Result<Self, GenerateError> {
        Self::with_isa(model, weights, Isa::best())
    }

    /// As [`Self::new`], on given instructions.
    ///
    /// # Errors
    /// As [`Self::new`], and [`GenerateError::Weights`] if this machine lacks the instructions.
    pub fn with_isa(model: &ModelSpec, weights: &[Vec<f32>], isa: Isa) -> Result<Self, GenerateError> {
        model.check().map_err(|error| Fault::bad_job(&error.to_string()))?;
        if !isa.is_available() {
            return Err(Fault::device(&format!("this machine has no {isa} instructions")).into());
        }
        let layouts: Vec<LayerLayout> = model.all_layers().iter().map(|layer| LayerLayout::new(model, layer)).collect();
        let lengths = layouts.iter().map(|layout| layout.elements);
        if !lengths.eq(weights.iter().map(Vec::len)) {
            return Err(Fault::bad_job("there is not one vector of the right length for each stage").into());
        }
        let stages: Vec<LayerWeights<'_>> =
            layouts.iter().zip(weights).map(|(layout, values)| LayerWeights { layout, values }).collect();
        let decoder = Decoder::new(model, &stages, isa)?.ok_or(GenerateError::OutOfRange)?;
        let tensor = |stage: &LayerWeights<'_>, kind| stage.tensor(kind).map(<[f32]>::to_vec).unwrap_or_default();
        let (first, last) = (&stages[0], &stages[stages.len() - 1]);
        Ok(Self {
            model: *model,
            decoder,
            embedding: tensor(first, TensorKind::Embedding),
            bias: tensor(last, TensorKind::HeadBias),
            fed: 0,
            logits: vec![0.0; model.vocab as usize],
        })
    }

    /// Tokens in the context.
    pub fn len(&self) -> usize {
        self.fed
    }

    /// Whether nothing was fed yet.
    pub fn is_empty(&self) -> bool {
        self.fed == 0
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.fed = 0;
        self.decoder.clear();
    }

    /// Adds tokens to the sequence; the logits, bias included, of what comes after the last of them.
    ///
    /// # Errors
    /// See [`GenerateError`]. After [`GenerateError::OutOfRange`] the sequence is forgotten.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], GenerateError> {
        let (fed, more, context) = (self.fed, tokens.len(), self.model.context as usize);
        if more == 0 {
            return Err(GenerateError::Nothing);
        }
        if more > context - fed {
            return Err(GenerateError::Context { fed, more, context });
        }
        if let Some(token) = tokens.iter().find(|token| **token >= self.model.vocab) {
            return Err(GenerateError::Token { token: *token, vocab: self.model.vocab });
        }
        let fits = self.decoder.feed(&self.embedding, tokens, fed, &mut self.logits);
        let fits = fits && self.logits.iter().all(|logit| logit.is_finite());
        if !fits {
            self.clear();
            return Err(GenerateError::OutOfRange);
        }
        self.fed += more;
        for (logit, bias) in self.logits.iter_mut().zip(&self.bias) {
            *logit = z(*logit + bias);
        }
        Ok(&self.logits)
    }
}
