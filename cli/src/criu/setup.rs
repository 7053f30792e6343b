//! What dump and restore need alike: directories, settings, logs.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use restow::chain;
use restow::host::journal::Journal;
use restow::policy::maps::Origin;
use restow::policy::{ANNOTATION_PREFIX, NODE_CONFIG, NodeConfig, Policy};
use restow::stage;

use super::options::{CommandLine, config_words};

/// Names another file than [`NODE_CONFIG`].
const CONFIG_VARIABLE: &str = "RESTOW_CONFIG";

/// criu's configuration file for the node.
const CRIU_CONFIG: &str = "/etc/criu/default.conf";

/// The same for a user, below the home directory.
const CRIU_USER_CONFIG: &str = ".criu/default.conf";

/// One dump or restore.
#[derive(Debug)]
pub(super) struct Setup {
    /// The command line, with criu's configuration files before it.
    pub(super) line: CommandLine,
    /// The image directory as criu is told it.
    pub(super) images_path: PathBuf,
    /// The same, open.
    pub(super) images: OwnedFd,
    /// Where criu writes its log.
    pub(super) work: OwnedFd,
    /// What the user asks for.
    pub(super) policy: Policy,
    /// Where staging directories are made.
    pub(super) staging: PathBuf,
}

impl Setup {
    /// What the command line and all configuration files say; `None` when this is nothing for Restow, or criu has
    /// something to say first (no image directory, for example).
    ///
    /// # Errors
    /// In words, when an option of ours is wrong.
    pub(super) fn of(line: &CommandLine, config: &NodeConfig) -> Result<Option<Self>, String> {
        if !matches!(line.command(), Some("dump" | "restore")) {
            return Ok(None);
        }
        let line = line.clone().with_defaults(criu_configs(line));
        let mut settings = BTreeMap::from([(format!("{ANNOTATION_PREFIX}enabled"), "true".into())]);
        let mut staging = PathBuf::from(stage::ROOT);
        let mut maps = Vec::new();
        for (name, value) in line.ours() {
            match name {
                "set" => {
                    let text = value.to_string_lossy();
                    let (name, value) = text
                        .split_once('=')
                        .ok_or_else(|| format!("--restow-set {text} is not NAME=VALUE"))?;
                    settings.insert(format!("{ANNOTATION_PREFIX}{name}"), value.to_owned());
                }
                "map" => maps.push(value.to_string_lossy()),
                "staging" => staging = PathBuf::from(value),
                _ => {
                    return Err(format!(
                        "--restow-{name} does not exist; see restow criu --help"
                    ));
                }
            }
        }
        // Who runs criu may do anything; what pods may set is no matter here.
        let config = NodeConfig {
            allowed_annotations: None,
            ..config.clone()
        };
        let mut policy = config
            .policy_for(&settings)
            .map_err(|error| format!("--restow-set: {}", chain(&error)))?
            .unwrap_or_default();
        for map in maps {
            let added = policy.maps.add(&map, Origin::Command, "--restow-map");
            added.map_err(|error| error.to_string())?;
        }
        let path = |name| line.value(name).map(PathBuf::from);
        // criu's own defaults (`criu/crtools.c`).
        let images_path = path("images-dir").unwrap_or_else(|| ".".into());
        let work_path = path("work-dir").unwrap_or_else(|| images_path.clone());
        let (Ok(images), Ok(work)) = (open_dir(&images_path), open_dir(&work_path)) else {
            return Ok(None);
        };
        // With a streamer in between the directory holds no images.
        if line.has("stream") {
            eprintln!("restow: images are streamed, so Restow takes no part in this");
            return Ok(None);
        }
        Ok(Some(Self {
            line,
            images_path,
            images,
            work,
            policy,
            staging,
        }))
    }

    /// The logs.
    ///
    /// # Errors
    /// In words, when descriptors run out.
    pub(super) fn journal(&self, label: &str) -> Result<Journal, String> {
        // Without a name criu logs to standard error.
        let log = self.line.value("log-file").unwrap_or_default();
        let label = format!("{label}[{}]", std::process::id());
        Journal::open(&self.work, &log.to_string_lossy(), &label).map_err(|error| chain(&error))
    }
}

fn open_dir(path: &Path) -> std::io::Result<OwnedFd> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(path, flags, nix::sys::stat::Mode::empty())?)
}

/// The node's configuration of Restow.
///
/// # Errors
/// In words, when it cannot be used.
pub(super) fn node_config() -> Result<NodeConfig, String> {
    let path = env::var_os(CONFIG_VARIABLE).map_or_else(|| NODE_CONFIG.into(), PathBuf::from);
    NodeConfig::read(&path).map_err(|error| chain(&error))
}

/// What criu's configuration files say, in the order in which criu reads them (`criu/config.c`, `next_config`). One that
/// cannot be read counts for nothing there either.
fn criu_configs(line: &CommandLine) -> Vec<CommandLine> {
    let named = line.value("config").map(PathBuf::from);
    let mut files = Vec::new();
    if named.is_none() && !line.has("no-default-config") {
        files.push(PathBuf::from(CRIU_CONFIG));
        files.extend(env::var_os("HOME").map(|home| Path::new(&home).join(CRIU_USER_CONFIG)));
    }
    files.extend(env::var_os("CRIU_CONFIG_FILE").map(PathBuf::from));
    files.extend(named);
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    texts
        .filter_map(|text| CommandLine::parse(config_words(&text)).ok())
        .collect()
}

/// An option with its value, as criu's command line has it.
pub(super) fn option(name: &str, value: impl AsRef<OsStr>) -> [OsString; 2] {
    [format!("--{name}").into(), value.as_ref().to_owned()]
}

/// criu's words with our action script before all others: criu runs the one that was named last first
/// (`criu/action-scripts.c`, `add_script`), and we want to see what the user's have done.
pub(super) fn with_script(mut words: Vec<OsString>, script: &Path) -> Vec<OsString> {
    words.splice(0..0, option("action-script", script));
    words
}

/// A descriptor for what the companion has to tell the user.
pub(super) fn standard_error() -> Option<File> {
    use std::os::fd::AsFd;
    let copy = std::io::stderr().as_fd().try_clone_to_owned();
    copy.ok().map(File::from)
}
