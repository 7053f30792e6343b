//! The part of protobuf's language that CRIU's schema uses.

/// Everything the schema defines.
#[derive(Default)]
pub(crate) struct Schema {
    pub(crate) messages: Vec<Message>,
    pub(crate) enums: Vec<Enum>,
}

/// A message.
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

/// A field of a message.
pub(crate) struct Field {
    pub(crate) label: &'static str,
    pub(crate) typ: String,
    pub(crate) name: String,
    pub(crate) number: u32,
    /// The `(criu).*` options: name and value.
    pub(crate) options: Vec<(String, String)>,
}

/// An enum; one inside a message is called `message.enum`.
pub(crate) struct Enum {
    pub(crate) name: String,
    pub(crate) values: Vec<(String, i32)>,
}

/// Adds what a file defines.
pub(crate) fn file(text: &str, schema: &mut Schema) -> Result<(), String> {
    let mut tokens = Tokens {
        all: tokens(text),
        at: 0,
    };
    while let Some(token) = tokens.next() {
        match token.as_str() {
            "syntax" | "import" | "package" | "option" => tokens.skip_statement(),
            "message" => message(&mut tokens, schema)?,
            "enum" => {
                let item = enumeration(&mut tokens, None)?;
                schema.enums.push(item);
            }
            ";" => {}
            other => return Err(format!("{other:?} is not expected here")),
        }
    }
    Ok(())
}

fn message(tokens: &mut Tokens, schema: &mut Schema) -> Result<(), String> {
    let name = tokens.word()?;
    tokens.expect("{")?;
    let mut fields = Vec::new();
    loop {
        let label = match tokens.word()?.as_str() {
            "}" => break,
            ";" => continue,
            "enum" => {
                let item = enumeration(tokens, Some(&name))?;
                schema.enums.push(item);
                continue;
            }
            "required" => "Required",
            "optional" => "Optional",
            "repeated" => "Repeated",
            other => return Err(format!("{name}: {other:?} is not expected here")),
        };
        fields.push(field(tokens, label)?);
    }
    schema.messages.push(Message { name, fields });
    Ok(())
}

fn field(tokens: &mut Tokens, label: &'static str) -> Result<Field, String> {
    let (typ, name) = (tokens.word()?, tokens.word()?);
    tokens.expect("=")?;
    let number = tokens
        .word()?
        .parse()
        .map_err(|error| format!("{name}: {error}"))?;
    let mut options = Vec::new();
    match tokens.word()?.as_str() {
        ";" => {}
        "[" => {
            // (criu).hex = true, default = -1
            let mut words = Vec::new();
            loop {
                match tokens.word()?.as_str() {
                    "]" => break,
                    "," => option(&mut words, &mut options),
                    word => words.push(word.to_owned()),
                }
            }
            option(&mut words, &mut options);
            tokens.expect(";")?;
        }
        other => return Err(format!("{name}: {other:?} instead of a semicolon")),
    }
    Ok(Field {
        label,
        typ,
        name,
        number,
        options,
    })
}

fn option(words: &mut Vec<String>, options: &mut Vec<(String, String)>) {
    let words = std::mem::take(words);
    if let [open, criu, close, option, equals, value] = words.as_slice()
        && (
            open.as_str(),
            criu.as_str(),
            close.as_str(),
            equals.as_str(),
        ) == ("(", "criu", ")", "=")
    {
        options.push((
            option.trim_start_matches('.').to_owned(),
            value.trim_matches('"').to_owned(),
        ));
    }
}

fn enumeration(tokens: &mut Tokens, message: Option<&str>) -> Result<Enum, String> {
    let name = tokens.word()?;
    tokens.expect("{")?;
    let mut values = Vec::new();
    loop {
        let value = tokens.word()?;
        match value.as_str() {
            "}" => break,
            ";" => continue,
            _ => {}
        }
        tokens.expect("=")?;
        values.push((
            value,
            tokens
                .word()?
                .parse()
                .map_err(|error| format!("{name}: {error}"))?,
        ));
        tokens.expect(";")?;
    }
    let name = message.map_or_else(|| name.clone(), |message| format!("{message}.{name}"));
    Ok(Enum { name, values })
}

struct Tokens {
    all: Vec<String>,
    at: usize,
}

impl Tokens {
    fn next(&mut self) -> Option<String> {
        self.at += 1;
        self.all.get(self.at - 1).cloned()
    }

    fn word(&mut self) -> Result<String, String> {
        self.next()
            .ok_or_else(|| "the file ends too early".to_owned())
    }

    fn expect(&mut self, expected: &str) -> Result<(), String> {
        let found = self.word()?;
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?} instead of {expected:?}"))
        }
    }

    fn skip_statement(&mut self) {
        while self.next().is_some_and(|token| token != ";") {}
    }
}

/// Splits into words, texts in quotes and signs, without comments.
fn tokens(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
            continue;
        } else if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
            continue;
        } else if first == '"' {
            rest[1..].find('"').map_or(rest.len(), |end| end + 2)
        } else if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        all.push(rest[..length].to_owned());
        rest = &rest[length..];
    }
    all
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}
