//! The operands of the operation table in host memory: what self-tests, audits and the reference engine work on.

use std::collections::BTreeMap;

use neuroshard_proto::ModelSpec;
use neuroshard_proto::ops::{Dim, Slot};

/// A value of a layer step. bfloat16 values are held as the singles they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Float(Vec<f32>),
    Int(Vec<i32>),
}

impl Value {
    /// The singles.
    ///
    /// # Panics
    /// If the slot holds integers: the operation table says which does.
    pub fn float(&self) -> &[f32] {
        match self {
            Self::Float(values) => values,
            Self::Int(_) => panic!("the operation table gives this slot a float type"),
        }
    }

    /// The integers.
    ///
    /// # Panics
    /// If the slot holds singles.
    pub fn int(&self) -> &[i32] {
        match self {
            Self::Int(values) => values,
            Self::Float(_) => panic!("the operation table gives this slot an integer type"),
        }
    }
}

/// The values of one layer step by name.
pub type Values = BTreeMap<Slot, Value>;

/// The shape and constants that operations need beside their operands.
#[derive(Clone, Debug)]
pub struct Shape {
    pub model: ModelSpec,
    /// Tokens in a sequence.
    pub sequence: usize,
    /// Tokens in all sequences.
    pub tokens: usize,
    /// Cosine and sine, `[context][head_width / 2]`.
    pub rotary: Vec<[f32; 2]>,
}

impl Shape {
    pub fn new(model: &ModelSpec, sequence: u32, tokens: usize) -> Self {
        let wide = |half: u16| f32::from_bits(u32::from(half) << 16);
        let rotary = model.rotary_table().into_iter().map(|[cosine, sine]| [wide(cosine), wide(sine)]).collect();
        Self { model: *model, sequence: sequence as usize, tokens, rotary }
    }

    /// What a dimension measures here.
    pub fn dim(&self, dim: Dim) -> usize {
        let model = &self.model;
        match dim {
            Dim::One => 1,
            Dim::Tokens => self.tokens,
            Dim::Hidden => model.hidden as usize,
            Dim::Qkv => model.qkv_width() as usize,
            Dim::Heads => model.heads as usize,
            Dim::Ffn => model.ffn as usize,
            Dim::GateUp => 2 * model.ffn as usize,
            Dim::Vocab => model.vocab as usize,
        }
    }
}
