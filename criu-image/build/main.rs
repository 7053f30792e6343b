//! Turns CRIU's schema (`proto/*.proto`) into the tables that `src/schema.rs` includes.
//!
//! The schema needs little of protobuf: messages, enums, required, optional and repeated fields, and one group of
//! options of its own. So it is read here in 200 lines, without `protoc` and without dependencies.

mod parse;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, error, fs};

use parse::{Enum, Field, Message, Schema};

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
    let mut files: Vec<PathBuf> = fs::read_dir("proto")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "proto")
    });
    files.sort();
    let mut schema = Schema::default();
    for path in files {
        parse::file(&fs::read_to_string(&path)?, &mut schema)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let out = env::var_os("OUT_DIR").ok_or("Cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("schema.rs"), tables(&schema)?)?;
    Ok(())
}

fn tables(schema: &Schema) -> Result<String, Box<dyn error::Error>> {
    let mut out = String::new();
    let enums: BTreeMap<&str, &Enum> = schema
        .enums
        .iter()
        .map(|item| (item.name.as_str(), item))
        .collect();
    let messages: BTreeMap<&str, &Message> = schema
        .messages
        .iter()
        .map(|item| (item.name.as_str(), item))
        .collect();
    for (name, item) in &enums {
        let values = item
            .values
            .iter()
            .map(|(name, number)| format!("({number}, {name:?})"))
            .collect::<Vec<_>>();
        writeln!(
            out,
            "static E_{}: EnumDef = EnumDef {{ values: &[{}] }};",
            constant(name),
            values.join(", ")
        )?;
    }
    let all = enums
        .keys()
        .map(|name| format!("({name:?}, &E_{})", constant(name)))
        .collect::<Vec<_>>();
    writeln!(
        out,
        "/// Every enum, sorted by name.\nstatic ENUMS: &[(&str, &EnumDef)] = &[{}];",
        all.join(", ")
    )?;
    for (name, item) in &messages {
        let mut fields: Vec<&Field> = item.fields.iter().collect();
        fields.sort_by_key(|field| field.number);
        writeln!(
            out,
            "static M_{}: MessageDef = MessageDef {{ name: {name:?}, fields: &[",
            constant(name)
        )?;
        for field in fields {
            let typ = typ(name, field, &enums, &messages)
                .ok_or_else(|| format!("{name}: no type {}", field.typ))?;
            writeln!(
                out,
                "    FieldDef {{ number: {}, name: {:?}, typ: {typ}, label: Label::{}, style: {} }},",
                field.number,
                field.name,
                field.label,
                style(field)
            )?;
        }
        writeln!(out, "] }};")?;
    }
    let all = messages
        .keys()
        .map(|name| format!("&M_{}", constant(name)))
        .collect::<Vec<_>>();
    writeln!(
        out,
        "/// Every message, sorted by name.\nstatic MESSAGES: &[&MessageDef] = &[{}];",
        all.join(", ")
    )?;
    Ok(out)
}

fn typ(
    message: &str,
    field: &Field,
    enums: &BTreeMap<&str, &Enum>,
    messages: &BTreeMap<&str, &Message>,
) -> Option<String> {
    let scalar = match field.typ.as_str() {
        "uint32" => "U32",
        "uint64" => "U64",
        "int32" => "I32",
        "int64" => "I64",
        "sint32" => "S32",
        "sint64" => "S64",
        "fixed32" => "Fixed32",
        "fixed64" => "Fixed64",
        "bool" => "Bool",
        "string" => "String",
        "bytes" => "Bytes",
        name => {
            let nested = format!("{message}.{name}");
            return if let Some((name, _)) = enums
                .get_key_value(nested.as_str())
                .or_else(|| enums.get_key_value(name))
            {
                Some(format!("Type::Enum(&E_{})", constant(name)))
            } else {
                messages
                    .get_key_value(name)
                    .map(|(name, _)| format!("Type::Message(&M_{})", constant(name)))
            };
        }
    };
    Some(format!("Type::{scalar}"))
}

/// How `crit --pretty` shows the field.
fn style(field: &Field) -> String {
    let option = |name: &str| {
        field
            .options
            .iter()
            .find(|(option, _)| option == name)
            .map(|(_, value)| value.as_str())
    };
    if option("hex").is_some() {
        "Style::Hex".into()
    } else if option("dev").is_some() {
        if option("odev").is_some() {
            "Style::OldDevice"
        } else {
            "Style::Device"
        }
        .into()
    } else if option("ipadd").is_some() {
        "Style::Address".into()
    } else if let Some(flags) = option("flags") {
        format!("Style::Flags({flags:?})")
    } else if let Some(dict) = option("dict") {
        format!("Style::Dict({dict:?})")
    } else if option("conv").is_some() {
        "Style::UnixName".into()
    } else {
        "Style::Plain".into()
    }
}

fn constant(name: &str) -> String {
    name.replace('.', "_").to_uppercase()
}
