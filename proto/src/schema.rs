//! The wire schema as data (PROTOCOL §1): every type that is sent, signed, stored or recorded, by name.
//!
//! `cargo xtask golden` writes it to `proto/schema.json`; a test holds that file to the code. The file is one object: a
//! type's name to its shape. A shape is the name of another type or of a primitive, or an object with one key:
//! `struct` (fields in order), `enum` (variants in order, numbered from 0), `tuple`, `seq`, `array`, `option`,
//! `newtype`. What each encodes to is postcard's wire format.

#![expect(clippy::wildcard_enum_match_arm, reason = "the schema's own primitives need no list here")]

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use postcard_schema::Schema;
use postcard_schema::schema::{DataModelType, DataModelVariant, NamedType, NamedValue};

use crate::chain::{BlocksWanted, Certificate, Decided, Proposal, Transaction, Vote};
use crate::envelope::Envelope;
use crate::genesis::{Genesis, Manifest};
use crate::job::{Commitment, Fault, Job};
use crate::message::Heartbeat;
use crate::params::Params;

/// The schemas of this crate's top-level types.
pub fn types() -> Vec<&'static NamedType> {
    vec![
        Envelope::SCHEMA,
        Heartbeat::SCHEMA,
        Genesis::SCHEMA,
        Manifest::SCHEMA,
        Params::SCHEMA,
        Job::SCHEMA,
        Commitment::SCHEMA,
        Fault::SCHEMA,
        Transaction::SCHEMA,
        Vote::SCHEMA,
        Certificate::SCHEMA,
        Proposal::SCHEMA,
        Decided::SCHEMA,
        BlocksWanted::SCHEMA,
    ]
}

/// These types and all they are made of, as JSON, in order of their names.
///
/// # Panics
/// If two different types have the same name: a reader could not tell them apart.
pub fn json(types: &[&'static NamedType]) -> String {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    let mut open: Vec<&'static NamedType> = types.into();
    while let Some(ty) = open.pop() {
        let shape = shape(ty.ty, &mut open);
        let earlier = known.insert(ty.name, shape.clone());
        assert!(earlier.is_none_or(|earlier| earlier == shape), "two types are named {}", ty.name);
    }
    let lines: Vec<String> = known.iter().map(|(name, shape)| format!("  \"{name}\": {shape}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// How a type is referred to: by name if it has one of its own, else by its shape.
fn reference(ty: &'static NamedType, open: &mut Vec<&'static NamedType>) -> String {
    match ty.ty {
        DataModelType::Struct(_)
        | DataModelType::Enum(_)
        | DataModelType::NewtypeStruct(_)
        | DataModelType::TupleStruct(_)
        | DataModelType::UnitStruct
            // All results and all boxes have one name, whatever they hold.
            if !ty.name.starts_with("Result<") && !ty.name.starts_with("Box<") =>
        {
            open.push(ty);
            format!("\"{}\"", ty.name)
        }
        other => shape(other, open),
    }
}

fn shape(ty: &'static DataModelType, open: &mut Vec<&'static NamedType>) -> String {
    match ty {
        DataModelType::Option(inner) => format!("{{\"option\": {}}}", reference(inner, open)),
        DataModelType::NewtypeStruct(inner) => format!("{{\"newtype\": {}}}", reference(inner, open)),
        DataModelType::Seq(inner) => format!("{{\"seq\": {}}}", reference(inner, open)),
        DataModelType::Tuple(items) | DataModelType::TupleStruct(items) => tuple(items, open),
        DataModelType::Map { key, val } => {
            format!("{{\"map\": [{}, {}]}}", reference(key, open), reference(val, open))
        }
        DataModelType::Struct(fields) => format!("{{\"struct\": {}}}", struct_fields(fields, open)),
        DataModelType::Enum(variants) => {
            let variants: Vec<String> = variants
                .iter()
                .map(|variant| match variant.ty {
                    DataModelVariant::UnitVariant => format!("{{\"{}\": \"unit\"}}", variant.name),
                    DataModelVariant::NewtypeVariant(inner) => {
                        format!("{{\"{}\": {}}}", variant.name, reference(inner, open))
                    }
                    DataModelVariant::TupleVariant(items) => {
                        format!("{{\"{}\": {}}}", variant.name, tuple(items, open))
                    }
                    DataModelVariant::StructVariant(fields) => {
                        format!("{{\"{}\": {{\"struct\": {}}}}}", variant.name, struct_fields(fields, open))
                    }
                })
                .collect();
            format!("{{\"enum\": [{}]}}", variants.join(", "))
        }
        primitive => format!("\"{}\"", primitive_name(primitive)),
    }
}

fn struct_fields(fields: &[&'static NamedValue], open: &mut Vec<&'static NamedType>) -> String {
    let fields: Vec<String> =
        fields.iter().map(|field| format!("{{\"{}\": {}}}", field.name, reference(field.ty, open))).collect();
    format!("[{}]", fields.join(", "))
}

/// Tuples of one type repeated are arrays.
fn tuple(items: &[&'static NamedType], open: &mut Vec<&'static NamedType>) -> String {
    match items {
        [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|item| item == first) => {
            format!("{{\"array\": [{}, {}]}}", reference(first, open), items.len())
        }
        _ => {
            let items: Vec<String> = items.iter().map(|item| reference(item, open)).collect();
            format!("{{\"tuple\": [{}]}}", items.join(", "))
        }
    }
}

fn primitive_name(ty: &DataModelType) -> String {
    format!("{ty:?}").to_lowercase()
}
