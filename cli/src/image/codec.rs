//! `show`, `decode` and `encode`: one image as JSON and back.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use criu_image::json::{self, Options};
use criu_image::{Named, Reader};

use crate::Failure;
use crate::input::Input;
use crate::output::Style;

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Image file, image directory or checkpoint archive
    input: PathBuf,

    /// Image in the directory or archive, for example files.img
    name: Option<String>,

    /// Show payloads (contents of pipes, sockets' queues, ...) as well
    #[arg(long)]
    payload: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Decode {
    /// Image file, image directory or checkpoint archive; `-` is standard input
    #[arg(default_value = "-")]
    input: PathBuf,

    /// Image in the directory or archive, for example files.img
    name: Option<String>,

    /// Indent, and write flags, devices and addresses as text
    #[arg(long)]
    pretty: bool,

    /// Leave payloads (contents of pipes, sockets' queues, ...) out; such JSON cannot be encoded
    #[arg(long)]
    nopl: bool,

    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Encode {
    /// JSON file; `-` is standard input
    #[arg(default_value = "-")]
    input: PathBuf,

    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn show(args: &Show, style: Style) -> Result<ExitCode, Failure> {
    if args.name.is_none() && matches!(Input::open(&args.input)?, Input::Set(_)) {
        return super::info::run(&args.input, false, style);
    }
    let options = Options {
        pretty: true,
        no_payload: !args.payload,
    };
    write_json(&args.input, args.name.as_deref(), options, None)
}

pub(super) fn decode(args: &Decode) -> Result<ExitCode, Failure> {
    let options = Options {
        pretty: args.pretty,
        no_payload: args.nopl,
    };
    write_json(
        &args.input,
        args.name.as_deref(),
        options,
        args.output.as_deref(),
    )
}

pub(super) fn encode(args: &Encode) -> Result<ExitCode, Failure> {
    let input: Box<dyn Read> = if args.input.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(open(&args.input)?)
    };
    write_whole(args.output.as_deref(), |out| {
        json::encode(&args.input, input, out).map(|_| ())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("{} cannot be opened", path.display()))
}

fn write_json(
    input: &Path,
    name: Option<&str>,
    options: Options,
    output: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let to = |reader: &mut Reader<Box<dyn Read + '_>>| {
        write_whole(output, |out| {
            json::decode(reader, &mut *out, options)?;
            out.write_all(b"\n")
                .map_err(|error| criu_image::Error::output(reader.name(), error))
        })
    };
    if input.as_os_str() == "-" {
        to(&mut Reader::new(
            "standard input",
            Box::new(io::stdin().lock()) as Box<dyn Read>,
            None,
        )?)?;
        return Ok(ExitCode::SUCCESS);
    }
    match (Input::open(input)?, name) {
        (Input::Image(path), None) => {
            if path
                .file_name()
                .is_some_and(|name| Named::of(&name.to_string_lossy()) == Named::Raw)
            {
                return Err(anyhow!(
                    "{} holds no records: it is memory, or another program's format",
                    path.display()
                )
                .into());
            }
            to(&mut Reader::new(
                &path,
                Box::new(open(&path)?) as Box<dyn Read>,
                None,
            )?)?;
        }
        (Input::Image(path), Some(_)) => {
            return Err(Failure::Usage(anyhow!(
                "{} is one file, it has no images by name",
                path.display()
            )));
        }
        (Input::Set(set), Some(name)) => {
            let Some((path, bytes)) = set.stream(name)? else {
                let why = match Named::of(name) {
                    Named::Raw => "it holds no records: it is memory, or another program's format",
                    _ => "there is no such image",
                };
                return Err(anyhow!("{}: {name}: {why}", set.origin().display()).into());
            };
            to(&mut Reader::new(path, bytes, None)?)?;
        }
        (Input::Set(set), None) => {
            return Err(Failure::Usage(anyhow!(
                "{} holds many images, name one of them",
                set.origin().display()
            )));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output or to a file, which comes to be only when it is whole.
fn write_whole(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), criu_image::Error>,
) -> Result<(), Failure> {
    let split = |error: criu_image::Error| match error.into_output() {
        Ok(error) => Failure::Output(error),
        Err(error) => Failure::Input(error.into()),
    };
    let Some(path) = path else {
        let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
        write(&mut out).map_err(split)?;
        return Ok(out.flush()?);
    };
    // A device or a pipe is written to; a file is replaced.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let mut out = BufWriter::with_capacity(1 << 16, File::options().write(true).open(path)?);
        write(&mut out).map_err(split)?;
        return Ok(out.flush()?);
    }
    let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let mut out = BufWriter::with_capacity(1 << 16, File::create_new(&new)?);
    let done = write(&mut out)
        .map_err(split)
        .and_then(|()| Ok(out.flush()?))
        .and_then(|()| Ok(std::fs::rename(&new, path)?));
    if done.is_err() {
        // The first error counts.
        let _ = std::fs::remove_file(&new);
    }
    done
}
