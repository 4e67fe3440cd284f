//! The wire schema as data (PROTOCOL §1): every type that is sent, signed, stored or recorded, by name.
//!
//! `cargo xtask golden` writes it to `proto/schema.json`; a test holds that file to the code. The file is one object: a
//! type's name to its shape. A shape is the name of another type or of a primitive, or an object whose first key says what
//! it is: `struct` (fields in order), `enum` (variants in order, numbered from 0), `tuple`, `seq`, `array`, `option`,
//! `newtype`, `bytes`, `text`. Sequences, bytes and text say how many items they hold at most (`max`); a type that stands
//! on its own says how many bytes it takes at most (`bytes_max`). What each encodes to is postcard's wire format. `Message`
//! is no type but a table, `kinds`: an envelope's kind, its name, and the type of its payload.

#![expect(clippy::wildcard_enum_match_arm, reason = "the schema's own primitives need no list here")]

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use postcard_schema::Schema;
use postcard_schema::schema::{DataModelType, DataModelVariant, NamedType, NamedValue, NamedVariant};

use crate::chain::{
    Advance, Block, BlocksWanted, Certificate, Decided, Evidence, Header, Proposal, Seats, SignedTransaction,
    SignedVote, StatePiece, StateWanted, Steps, StepsWanted, Transaction, Vote,
};
use crate::codec::Canonical;
use crate::envelope::Envelope;
use crate::forming::FormingMessage;
use crate::genesis::{Genesis, Manifest};
use crate::job::{Commitment, Fault, Job};
use crate::message::{Beacon, Carried, Heartbeat, Kind};
use crate::params::Params;
use crate::quorum::{Plan, QuorumMessage, Terms};

/// A type of the schema: one that is encoded on its own, or one that has no name of its own.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub name: &'static str,
    ty: &'static NamedType,
    bytes_max: Option<u32>,
}

impl Named {
    /// A type that is encoded on its own.
    pub const fn of<T: Canonical + Schema>() -> Self {
        Self { name: T::SCHEMA.name, ty: T::SCHEMA, bytes_max: Some(T::BYTES_MAX) }
    }

    /// A generic type that is encoded on its own: whatever it holds, Rust calls it the same.
    pub const fn generic<T: Canonical + Schema>(name: &'static str) -> Self {
        Self { name, ..Self::of::<T>() }
    }

    /// A generic type that is a part of others.
    pub const fn part<T: Schema>(name: &'static str) -> Self {
        Self { name, ty: T::SCHEMA, bytes_max: None }
    }
}

/// This crate's types that are encoded on their own.
pub fn types() -> Vec<Named> {
    vec![
        Named::of::<Envelope>(),
        Named::of::<Heartbeat>(),
        Named::of::<Genesis>(),
        Named::of::<Manifest>(),
        Named::of::<Params>(),
        Named::of::<Job>(),
        Named::of::<Commitment>(),
        Named::of::<Fault>(),
        Named::of::<Terms>(),
        Named::of::<Transaction>(),
        Named::of::<SignedTransaction>(),
        Named::of::<Vote>(),
        Named::of::<SignedVote>(),
        Named::of::<Evidence>(),
        Named::of::<Header>(),
        Named::of::<Block>(),
        Named::of::<Seats>(),
        Named::of::<Certificate>(),
        Named::of::<Proposal>(),
        Named::of::<Decided>(),
        Named::of::<BlocksWanted>(),
        Named::of::<Advance>(),
        Named::of::<StepsWanted>(),
        Named::of::<Steps>(),
        Named::of::<StateWanted>(),
        Named::of::<StatePiece>(),
        Named::of::<Plan>(),
        Named::of::<Terms>(),
        Named::of::<QuorumMessage>(),
        Named::of::<FormingMessage>(),
        Named::of::<Beacon>(),
        Named::generic::<Carried<Certificate>>("CarriedCertificate"),
        Named::generic::<Carried<Decided>>("CarriedDecided"),
    ]
}

/// These types and all they are made of, as JSON, in order of their names.
///
/// # Panics
/// If two different types have the same name: a reader could not tell them apart.
pub fn json(types: &[Named]) -> String {
    let mut writer = Writer { types, open: types.to_vec() };
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    while let Some(Named { name, ty, bytes_max }) = writer.open.pop() {
        let mut shape = writer.shape(ty);
        if let Some(max) = types.iter().find(|one| one.name == name).map_or(bytes_max, |one| one.bytes_max) {
            let inner = shape.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            assert!(inner.is_some(), "{name} stands on its own and is no primitive");
            shape = format!("{{{}, \"bytes_max\": {max}}}", inner.unwrap_or_default());
        }
        let earlier = known.insert(name, shape.clone());
        assert!(earlier.is_none_or(|earlier| earlier == shape), "two types are named {name}");
    }
    let kind = |kind: &Kind| {
        let payload = kind.payload_schema();
        let payload = types.iter().find(|one| one.ty.ty == payload.ty);
        assert!(payload.is_some(), "the payload of {kind:?} stands on its own");
        format!("[{}, \"{}\", \"{}\"]", kind.number(), kind.name(), payload.map_or("", |one| one.name))
    };
    let kinds: Vec<String> = Kind::ALL.iter().map(kind).collect();
    known.insert("Message", format!("{{\"kinds\": [{}]}}", kinds.join(", ")));
    let lines: Vec<String> = known.iter().map(|(name, shape)| format!("  \"{name}\": {shape}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// Types that are written, and types that are still to be.
struct Writer<'a> {
    types: &'a [Named],
    open: Vec<Named>,
}

impl Writer<'_> {
    /// How a type is referred to: by name if it has one of its own, else by its shape.
    fn reference(&mut self, ty: &'static NamedType) -> String {
        // A box has the shape of what it holds, and no name of its own.
        let boxed = ty.name.starts_with("Box<");
        if let Some(named) = self.types.iter().find(|one| one.ty == ty || (boxed && one.ty.ty == ty.ty)) {
            return format!("\"{}\"", named.name);
        }
        match ty.ty {
            DataModelType::Struct(_)
            | DataModelType::Enum(_)
            | DataModelType::NewtypeStruct(_)
            | DataModelType::TupleStruct(_)
            | DataModelType::UnitStruct => {
                self.open.push(Named { name: ty.name, ty, bytes_max: None });
                format!("\"{}\"", ty.name)
            }
            _ => self.shape(ty),
        }
    }

    fn shape(&mut self, ty: &'static NamedType) -> String {
        let limit = ty.name.parse::<u32>().map(|max| format!(", \"max\": {max}")).unwrap_or_default();
        match ty.ty {
            DataModelType::Option(inner) => format!("{{\"option\": {}}}", self.reference(inner)),
            DataModelType::NewtypeStruct(inner) => format!("{{\"newtype\": {}}}", self.reference(inner)),
            DataModelType::Seq(inner) => format!("{{\"seq\": {}{limit}}}", self.reference(inner)),
            DataModelType::ByteArray => format!("{{\"bytes\": \"u8\"{limit}}}"),
            DataModelType::String => format!("{{\"text\": \"utf8\"{limit}}}"),
            DataModelType::Tuple(items) | DataModelType::TupleStruct(items) => self.tuple(items),
            DataModelType::Map { key, val } => {
                format!("{{\"map\": [{}, {}]}}", self.reference(key), self.reference(val))
            }
            DataModelType::Struct(fields) => format!("{{\"struct\": {}}}", self.fields(fields)),
            DataModelType::Enum(variants) => {
                let variants: Vec<String> = variants.iter().map(|variant| self.variant(variant)).collect();
                format!("{{\"enum\": [{}]}}", variants.join(", "))
            }
            primitive => format!("\"{}\"", primitive_name(primitive)),
        }
    }

    fn variant(&mut self, variant: &'static NamedVariant) -> String {
        let shape = match variant.ty {
            DataModelVariant::UnitVariant => "\"unit\"".into(),
            DataModelVariant::NewtypeVariant(inner) | DataModelVariant::TupleVariant([inner]) => self.reference(inner),
            DataModelVariant::TupleVariant(items) => self.tuple(items),
            DataModelVariant::StructVariant(fields) => format!("{{\"struct\": {}}}", self.fields(fields)),
        };
        format!("{{\"{}\": {shape}}}", variant.name)
    }

    fn fields(&mut self, fields: &[&'static NamedValue]) -> String {
        let field = |field: &&'static NamedValue| format!("{{\"{}\": {}}}", field.name, self.reference(field.ty));
        let fields: Vec<String> = fields.iter().map(field).collect();
        format!("[{}]", fields.join(", "))
    }

    /// Tuples of one type repeated are arrays.
    fn tuple(&mut self, items: &[&'static NamedType]) -> String {
        match items {
            [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|item| item == first) => {
                format!("{{\"array\": [{}, {}]}}", self.reference(first), items.len())
            }
            _ => {
                let items: Vec<String> = items.iter().map(|item| self.reference(item)).collect();
                format!("{{\"tuple\": [{}]}}", items.join(", "))
            }
        }
    }
}

fn primitive_name(ty: &DataModelType) -> String {
    format!("{ty:?}").to_lowercase()
}
