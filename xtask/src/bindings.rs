//! Python bindings of the wire types, made from `proto/schema.json` (PROTOCOL §1).
//!
//! What all types share is `bindings.py` beside this file; each type adds a class and its codec. Types stand in an order in
//! which each comes after those it is made of. There is none if a type held itself; so reading never goes deeper than the
//! schema does.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::tree::root;

const SCHEMA: &str = "proto/schema.json";
const BINDINGS: &str = "proto/bindings/python/neuroshard_wire.py";

/// Words that no Python field may be named.
const RESERVED: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// Writes the bindings.
pub(crate) fn write() -> Result<(), String> {
    let path = root().join(BINDINGS);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    std::fs::write(&path, made()?).map_err(|error| format!("{}: {error}", path.display()))
}

/// Wants the bindings to be those of the schema.
pub(crate) fn check() -> Result<(), String> {
    let path = root().join(BINDINGS);
    let found = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if found == made()? {
        Ok(())
    } else {
        Err(format!("{BINDINGS} is not what {SCHEMA} says: run `cargo xtask bindings`"))
    }
}

fn made() -> Result<String, String> {
    let path = root().join(SCHEMA);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    generate(&text).map_err(|error| format!("{SCHEMA}: {error}"))
}

/// The Python module for a schema.
fn generate(schema: &str) -> Result<String, String> {
    let schema: BTreeMap<String, Value> = serde_json::from_str(schema).map_err(|error| error.to_string())?;
    let mut module = include_str!("bindings.py").to_owned();
    let mut limits = String::new();
    for name in ordered(&schema)? {
        let shape = &schema[name];
        module.push_str(&class(name, shape).map_err(|error| format!("{name}: {error}"))?);
        let limit = shape["bytes_max"].as_u64().map_or_else(|| "None".into(), |max| max.to_string());
        let _ = writeln!(limits, "    \"{name}\": (_{name}, {limit}),");
    }
    let _ = write!(
        module,
        "\n\n# Each type's codec, and the most bytes of one that stands on its own.\n_TYPES = {{\n{limits}}}\n"
    );
    let kinds =
        schema.get("Message").and_then(|message| message["kinds"].as_array()).ok_or("there is no table of messages")?;
    module.push_str("\n# What an envelope holds, by its kind: the kind's name and the payload's type.\nKINDS = {\n");
    for kind in kinds {
        let (Some(number), Some(name), Some(payload)) = (kind[0].as_u64(), kind[1].as_str(), kind[2].as_str()) else {
            return Err(format!("{kind} is no kind of message"));
        };
        let _ = writeln!(module, "    {number}: (\"{name}\", \"{payload}\"),");
    }
    module.push_str("}\n");
    Ok(module)
}

/// The types, each after those it is made of.
fn ordered(schema: &BTreeMap<String, Value>) -> Result<Vec<&str>, String> {
    let types: BTreeMap<&str, Vec<&str>> = schema
        .iter()
        .filter(|(_, shape)| shape.get("kinds").is_none())
        .map(|(name, shape)| (&**name, parts(shape, schema)))
        .collect();
    let mut done: Vec<&str> = Vec::new();
    while done.len() < types.len() {
        let ready =
            |(name, parts): &(&&str, &Vec<&str>)| !done.contains(*name) && parts.iter().all(|part| done.contains(part));
        let Some((name, _)) = types.iter().find(ready) else {
            let rest: Vec<&str> = types.keys().copied().filter(|name| !done.contains(name)).collect();
            return Err(format!("of {} some type holds itself", rest.join(", ")));
        };
        done.push(name);
    }
    Ok(done)
}

/// The named types that a shape mentions.
fn parts<'a>(shape: &'a Value, schema: &BTreeMap<String, Value>) -> Vec<&'a str> {
    let (mut open, mut found) = (vec![shape], Vec::new());
    while let Some(shape) = open.pop() {
        match shape {
            Value::String(name) if schema.contains_key(name) => found.push(name.as_str()),
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => open.extend(fields.values()),
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}

/// A type's class, if it has one, and its codec.
fn class(name: &str, shape: &Value) -> Result<String, String> {
    if let Some(inner) = shape.get("newtype") {
        return Ok(format!("\n\n{name} = {}\n_{name} = {}\n", hint(inner)?, codec(inner)?));
    }
    if let Some(fields) = shape.get("struct") {
        let (body, codecs) = members(fields, "    ")?;
        return Ok(format!(
            "\n\n@dataclass(frozen=True)\nclass {name}:\n{body}\n\n_{name} = _Struct({name}{codecs})\n"
        ));
    }
    let variants = shape["enum"].as_array().ok_or_else(|| format!("no binding for {shape}"))?;
    let variants = variants.iter().map(single).collect::<Result<Vec<_>, _>>()?;
    if variants.iter().all(|(_, shape)| *shape == "unit") {
        let lines: Vec<String> =
            (0..).zip(&variants).map(|(number, (one, _)): (u32, _)| format!("    {one} = {number}\n")).collect();
        return Ok(format!("\n\nclass {name}(enum.IntEnum):\n{}\n\n_{name} = _Choice({name})\n", lines.concat()));
    }
    let (mut classes, mut codecs) = (String::new(), String::new());
    for (variant, shape) in variants {
        let (body, inner) = if shape == "unit" {
            ("        pass\n".to_owned(), String::new())
        } else if let Some(fields) = shape.get("struct") {
            members(fields, "        ")?
        } else {
            (format!("        value: {}\n", hint(shape)?), format!(", {}", codec(shape)?))
        };
        let _ = write!(classes, "\n    @dataclass(frozen=True)\n    class {variant}:\n{body}");
        let _ = writeln!(codecs, "    _Struct({name}.{variant}{inner}),");
    }
    Ok(format!(
        "\n\nclass {name}:\n    \"\"\"One of these.\"\"\"\n{classes}\n\n_{name} = _Enum(\n    \"{name}\",\n{codecs})\n"
    ))
}

/// The fields of a struct as a class' body, and their codecs as further arguments.
fn members(fields: &Value, indent: &str) -> Result<(String, String), String> {
    let (mut body, mut codecs) = (String::new(), String::new());
    for field in fields.as_array().ok_or("fields are a list")? {
        let (name, shape) = single(field)?;
        let reserved = if RESERVED.contains(&name) { "_" } else { "" };
        let _ = writeln!(body, "{indent}{name}{reserved}: {}", hint(shape)?);
        let _ = write!(codecs, ", {}", codec(shape)?);
    }
    if body.is_empty() {
        return Err("a struct without a field takes no byte".into());
    }
    Ok((body, codecs))
}

/// The only key of an object and what it stands for.
fn single(object: &Value) -> Result<(&str, &Value), String> {
    let mut entries = object.as_object().into_iter().flatten();
    match (entries.next(), entries.next()) {
        (Some((name, value)), None) => Ok((name, value)),
        _ => Err(format!("{object} is no name with a shape")),
    }
}

/// How many bytes a shape always takes, if it is nothing but bytes.
fn raw(shape: &Value) -> Option<u64> {
    let array = shape.get("array")?;
    let inner = if array[0] == "u8" { Some(1) } else { raw(&array[0]) };
    inner?.checked_mul(array[1].as_u64()?)
}

/// What a Python reader is told of a shape.
fn hint(shape: &Value) -> Result<String, String> {
    if let Some(name) = shape.as_str() {
        let integer = name.trim_start_matches(['u', 'i']).parse::<u32>().is_ok();
        return Ok(if integer { "int" } else { name }.to_owned());
    }
    if raw(shape).is_some() || shape.get("bytes").is_some() {
        return Ok("bytes".into());
    }
    if shape.get("text").is_some() {
        return Ok("str".into());
    }
    if let Some(inner) = shape.get("option") {
        return Ok(format!("Optional[{}]", hint(inner)?));
    }
    if let Some(inner) = shape.get("seq").or_else(|| shape["array"].get(0)) {
        return Ok(format!("Tuple[{}, ...]", hint(inner)?));
    }
    let items = shape["tuple"].as_array().ok_or_else(|| format!("no binding for {shape}"))?;
    Ok(format!("Tuple[{}]", items.iter().map(hint).collect::<Result<Vec<_>, _>>()?.join(", ")))
}

/// The codec of a shape, as a Python expression.
fn codec(shape: &Value) -> Result<String, String> {
    let max = || shape["max"].as_u64().ok_or_else(|| format!("{shape} has no limit"));
    if let Some(name) = shape.as_str() {
        return Ok(match (name, name.split_at_checked(1)) {
            ("bool", _) => "_Flag()".into(),
            (_, Some(("u", bits))) if bits.parse::<u32>().is_ok() => format!("_Uint({bits})"),
            // The wire has no signed bytes.
            (_, Some(("i", bits))) if bits != "8" && bits.parse::<u32>().is_ok() => format!("_Int({bits})"),
            _ if name.starts_with(|c: char| c.is_ascii_uppercase()) => format!("_{name}"),
            _ => return Err(format!("no binding for {shape}")),
        });
    }
    if let Some(count) = raw(shape) {
        return Ok(format!("_Raw({count})"));
    }
    if shape.get("bytes").is_some() {
        return Ok(format!("_Blob({})", max()?));
    }
    if shape.get("text").is_some() {
        return Ok(format!("_Text({})", max()?));
    }
    if let Some(inner) = shape.get("option") {
        return Ok(format!("_Option({})", codec(inner)?));
    }
    if let Some(inner) = shape.get("seq") {
        return Ok(format!("_List({}, {})", codec(inner)?, max()?));
    }
    if let Some(array) = shape.get("array") {
        let count = array[1].as_u64().ok_or_else(|| format!("no binding for {shape}"))?;
        return Ok(format!("_Tuple(*[{}] * {count})", codec(&array[0])?));
    }
    let items = shape["tuple"].as_array().ok_or_else(|| format!("no binding for {shape}"))?;
    Ok(format!("_Tuple({})", items.iter().map(codec).collect::<Result<Vec<_>, _>>()?.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = r#""Message": {"kinds": [[7, "Note", "B"]]}"#;

    #[test]
    fn a_type_comes_after_those_it_is_made_of() {
        let schema = format!(
            r#"{{"A": {{"struct": [{{"from": "B"}}]}}, "B": {{"newtype": {{"seq": "u64", "max": 3}}}}, {MESSAGE}}}"#
        );
        let module = generate(&schema).unwrap();
        let place = |text: &str| module.find(text).unwrap_or_else(|| panic!("{text} is not in {module}"));
        assert!(place("\nB = Tuple[int, ...]\n_B = _List(_Uint(64), 3)\n") < place("class A:\n    from_: B\n"));
        assert!(module.ends_with("    7: (\"Note\", \"B\"),\n}\n"));
    }

    #[test]
    fn a_type_that_holds_itself_is_refused() {
        let schema = format!(r#"{{"A": {{"struct": [{{"a": {{"option": "A"}}}}]}}, {MESSAGE}}}"#);
        assert_eq!(generate(&schema), Err("of A some type holds itself".into()));
    }

    #[test]
    fn a_list_without_a_limit_is_refused() {
        let schema = format!(r#"{{"A": {{"newtype": {{"seq": "u8"}}}}, {MESSAGE}}}"#);
        assert!(generate(&schema).unwrap_err().ends_with("has no limit"));
    }
}
