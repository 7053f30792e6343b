//! `restow criu restore`: plan and stage before criu starts; place, verify and clean up beside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use restow::chain;
use restow::finding::{self, Severity};
use restow::host::journal::{Journal, PLAN, VERIFIED};
use restow::host::target::{never_soft, of_tree};
use restow::host::{self, Exposure, PidFd, RestoredTree, cgroup, facts};
use restow::ids::{CgroupPath, HostPath, HostPid};
use restow::observed::{Observations, Observed};
use restow::plan::Plan;
use restow::policy::{ManageCgroups, Policy};
use restow::source::images::{Error, ImageDir};
use restow::source::{Hierarchy, Source, pages};
use restow::stage::Staging;
use restow::target::{Target, TargetMount};
use restow::verify::{Restored, verify};

use super::Call;
use super::companion::{self, Next, Work};
use super::options::CommandLine;
use super::setup::{Setup, option, standard_error, with_script};

/// A restore under way.
struct Restore {
    target: Target,
    plan: Plan,
    staging: Option<Staging>,
    /// What the verification saw.
    seen: Option<Observations>,
    journal: Journal,
    stderr: Option<File>,
    /// What criu has restored so far, while it may not go on alone.
    restored: Vec<PidFd>,
    /// The processes of a tree that shares criu's pid namespace: they get the numbers they had.
    numbers: Vec<HostPid>,
    /// When this process was started, which becomes criu.
    since: u64,
}

/// Plans and stages the restore and brings this process to where criu is to be; returns the call of criu.
///
/// # Errors
/// In words; nothing has been started.
pub(super) fn prepare(setup: &Setup) -> Result<Call, String> {
    let mut journal = setup.journal("restore tree")?;
    let images = setup.images.try_clone().map_err(|error| chain(&error))?;
    let images = ImageDir::open(images).map_err(|error| chain(&error))?;
    let source = match Source::read(&images) {
        Ok(source) => source,
        // What has no images at all is criu's to refuse.
        Err(Error::Missing { .. }) => return Ok(Call::alone(&setup.line)),
        Err(error) => return Err(refuse(&mut journal, &chain(&error))),
    };
    // criu would read on and on where memory is missing.
    pages::check(&images).map_err(|error| refuse(&mut journal, &chain(&error)))?;
    // A plan of an earlier restore must not be taken for this one's.
    journal.detach(PLAN);
    journal.detach(VERIFIED);
    let (target, plan) =
        make_plan(&source, setup).map_err(|reason| refuse(&mut journal, &reason))?;
    for finding in &plan.findings {
        journal.line(finding);
        if finding.severity == Severity::Warning {
            eprintln!("restow: {}", crate::output::visible(&finding.to_string()));
        }
    }
    journal.plan(&plan);
    if !plan.possible() {
        let reason = finding::list("The restore is not possible", plan.blockers());
        return Err(refuse(&mut journal, &reason));
    }
    let numbers = numbers(&source);
    launch(setup, &images, target, plan, numbers, journal)
}

/// The numbers that the tree's processes get, when they are known: the first process of a pid namespace is number 1.
fn numbers(source: &Source) -> Vec<HostPid> {
    let pids = source.tasks.iter().map(|task| task.pid.0);
    if pids.clone().next() == Some(1) {
        return Vec::new();
    }
    pids.filter_map(|pid| i32::try_from(pid).ok().map(HostPid))
        .collect()
}

fn refuse(journal: &mut Journal, reason: &str) -> String {
    journal.refusal(reason);
    reason.to_owned()
}

/// Stages, starts the companion, and does what criu has to find done.
fn launch(
    setup: &Setup,
    images: &ImageDir,
    target: Target,
    plan: Plan,
    numbers: Vec<HostPid>,
    mut journal: Journal,
) -> Result<Call, String> {
    let this = std::env::current_exe()
        .map_err(|error| format!("Cannot find out which program this is: {error}"))?;
    // criu opens them through its own root, which is the tree's.
    let handed = host::open_handed(&plan, Exposure::Node)
        .map_err(|error| format!("A file cannot be handed to CRIU: {error}"))
        .map_err(|reason| refuse(&mut journal, &reason))?;
    let staging = Staging::new(&setup.staging)
        .map_err(|error| {
            format!(
                "{}; name a directory that can be written with --restow-staging",
                chain(&error)
            )
        })
        .map_err(|reason| refuse(&mut journal, &reason))?;
    if let Err(error) = staging.fill(images, &plan) {
        let _ = staging.remove();
        return Err(refuse(&mut journal, &chain(&error)));
    }
    let mut more = Vec::new();
    more.extend(option("images-dir", staging.path()));
    if setup.line.value("work-dir").is_none() {
        // Logs stay where they are without us.
        more.extend(option("work-dir", &setup.images_path));
    }
    if !setup.line.has("manage-cgroups") {
        more.push("--manage-cgroups=ignore".into());
    }
    for file in &handed {
        let value = format!("fd[{}]:{}", file.fd.as_raw_fd(), file.key);
        more.extend(option("inherit-fd", value));
    }
    let mut work = Restore {
        target,
        plan,
        staging: Some(staging),
        seen: None,
        journal,
        stderr: standard_error(),
        restored: Vec::new(),
        numbers,
        since: host::start_time(HostPid(nix::unistd::getpid().as_raw())).unwrap_or(u64::MAX),
    };
    let keep = work.descriptors();
    let companion = match companion::start(&keep, &mut work) {
        Ok(companion) => companion,
        Err(error) => {
            work.clean_up();
            let reason = format!("The companion process cannot be started: {error}");
            return Err(refuse(&mut work.journal, &reason));
        }
    };
    // From here the companion cleans up as soon as this process ends.
    work.enter()
        .map_err(|reason| refuse(&mut work.journal, &reason))?;
    // criu's from now on.
    handed
        .into_iter()
        .for_each(|file| std::mem::forget(file.fd));
    // Dropping the staging directory's lock here would unlock it in the companion too.
    let words = with_script(setup.line.with(more), &this);
    std::mem::forget(work);
    Ok(Call {
        words,
        companion: Some(companion),
    })
}

impl Restore {
    fn descriptors(&self) -> Vec<RawFd> {
        let mut fds = self.journal.descriptors();
        fds.extend(
            self.staging
                .as_ref()
                .map(|staging| staging.lock().as_raw_fd()),
        );
        fds.extend(self.stderr.as_ref().map(AsRawFd::as_raw_fd));
        fds
    }

    /// criu is where this process is, and so is every task that it restores.
    fn enter(&self) -> Result<(), String> {
        if self.plan.cgroup.by_criu {
            return Ok(());
        }
        cgroup::make_sub_cgroups(&self.plan.cgroup, &self.target)
            .map_err(|error| format!("Cannot make a sub-cgroup of the tree: {error}"))?;
        if self.plan.cgroup.private_namespace {
            cgroup::unshare_namespace().map_err(|error| {
                format!("Cannot give the tree a cgroup namespace of its own: {error}")
            })?;
        }
        Ok(())
    }

    fn post_restore(&mut self, init: HostPid) -> Result<(), String> {
        let tree = RestoredTree::placed(init, &self.plan.cgroup, &self.target)?;
        let tree = Observed::new(&tree);
        let verdict = verify(&self.plan, &tree);
        self.seen = Some(tree.into_observations());
        self.journal.judge("tree", &verdict)
    }

    /// Holds what there is of the tree, should criu be killed.
    fn hold(&mut self, init: HostPid) {
        let Ok(tree) = RestoredTree::of(init) else {
            return;
        };
        let tasks = tree.tasks().values();
        self.restored = tasks.filter_map(|pid| PidFd::open(pid.0).ok()).collect();
    }

    fn clean_up(&mut self) {
        if let Some(seen) = self.seen.take() {
            self.journal.observations(&seen);
        }
        if let Some(Err(error)) = self.staging.take().map(Staging::remove) {
            self.journal.line(format_args!(
                "{}; it is collected at the next restore",
                chain(&error)
            ));
        }
    }
}

impl Work for Restore {
    fn stage(&mut self, action: &str, init: Option<HostPid>) -> Result<Next, String> {
        if let Some(init) = init {
            self.hold(init);
        }
        match (action, init) {
            ("post-restore", None) => Err("criu did not say which process it restored".into()),
            ("post-restore", Some(init)) => match self.post_restore(init) {
                Ok(()) => Ok(Next::Stay),
                Err(reason) => {
                    self.journal.veto(&reason);
                    if let Some(stderr) = &mut self.stderr {
                        let _ = writeln!(stderr, "restow: {reason}");
                    }
                    Err(reason)
                }
            },
            ("post-resume", _) => {
                self.journal.line("restored");
                self.clean_up();
                Ok(Next::Leave)
            }
            _ => Ok(Next::Stay),
        }
    }

    fn gone(&mut self) {
        // criu kills what it could not restore whole, unless it was killed itself. Before the first stage that names a
        // process, those are known by their numbers; who had one of them before criu came is a stranger.
        let newer = |pid: &&HostPid| host::start_time(**pid).is_ok_and(|start| start >= self.since);
        let known = self.numbers.iter().filter(newer);
        let known: Vec<PidFd> = known.filter_map(|pid| PidFd::open(pid.0).ok()).collect();
        self.restored.extend(known);
        let killed = self
            .restored
            .iter()
            .filter(|task| task.kill().is_ok())
            .count();
        self.journal.line(if killed == 0 {
            "not restored"
        } else {
            "criu is gone before it was done: what it had restored so far was killed"
        });
        cgroup::remove_sub_cgroups(&self.plan.cgroup, &self.target);
        self.clean_up();
    }
}

fn make_plan(source: &Source, setup: &Setup) -> Result<(Target, Plan), String> {
    let words = |what: &'static str| {
        move |error: io::Error| format!("Cannot read the {what} of this process: {error}")
    };
    let own = HostPid(nix::unistd::getpid().as_raw());
    let cgroups = host::cgroups(own).map_err(words("cgroups"))?;
    let mounts = host::mountinfo(own).map_err(words("mounts"))?;
    let mut policy = setup.policy.clone();
    let by_criu = !ignores_cgroups(&setup.line);
    policy.manage_cgroups = if by_criu {
        ManageCgroups::Soft
    } else {
        never_soft(policy.manage_cgroups)
    };
    let here = of_tree(cgroups.clone(), &mounts);
    let mut target = Target {
        mounts: external_mounts(&setup.line),
        inherited: setup
            .line
            .values("inherit-fd")
            .filter_map(|value| Some(value.to_str()?.split_once(':')?.1.to_owned()))
            .collect(),
        cgroups: if by_criu {
            cgroups_of_criu(&setup.line, source, cgroups)
        } else {
            cgroups
        },
        ..here
    };
    let plan = plan(source, &mut target, &policy, by_criu)?;
    Ok((target, plan))
}

/// Plans with what is here. criu makes missing cgroups before it opens files, so what is not there yet may well be then.
fn plan(
    source: &Source,
    target: &mut Target,
    policy: &Policy,
    by_criu: bool,
) -> Result<Plan, String> {
    facts::gather(source, target, policy).map_err(|error| chain(&error))?;
    if by_criu {
        let below = |path: &HostPath| {
            let mut mounts = target.cgroup_mounts.iter();
            mounts.any(|mount| path.strip(&mount.mount_point).is_some())
        };
        target
            .files
            .retain(|path, fact| fact.is_some() || !below(path));
        target
            .watched
            .retain(|path, found| found.is_some() || !below(path));
    }
    Ok(restow::plan::plan(source, target, policy))
}

/// Whether cgroups are not criu's business: so by default, and when the user says it.
fn ignores_cgroups(line: &CommandLine) -> bool {
    let asked = line.has("manage-cgroups");
    !asked
        || line
            .value("manage-cgroups")
            .is_some_and(|mode| mode == "ignore")
}

/// Where criu puts the tree when cgroups are its business: below `--cgroup-root`, or where it was.
fn cgroups_of_criu(
    line: &CommandLine,
    source: &Source,
    own: BTreeMap<Hierarchy, CgroupPath>,
) -> BTreeMap<Hierarchy, CgroupPath> {
    let old = source.container_cgroups();
    let roots: Vec<(Option<Hierarchy>, CgroupPath)> = line
        .values("cgroup-root")
        .map(|value| {
            let text = value.to_string_lossy();
            // `[controller:]/path` (criu(8)); version 2 has the empty name.
            match text.split_once(":/") {
                Some((name, path)) => (Some(Hierarchy(name.to_owned())), CgroupPath::new(path)),
                None => (None, CgroupPath::new(text.as_ref())),
            }
        })
        .collect();
    let placed = |hierarchy: &Hierarchy| {
        let mut named = roots.iter().rev();
        let exact = named.find(|(name, _)| name.as_ref() == Some(hierarchy));
        let root = exact.or_else(|| roots.iter().rev().find(|(name, _)| name.is_none()));
        root.map(|(_, path)| path)
            .or_else(|| old.get(hierarchy))
            .cloned()
    };
    own.into_iter()
        .map(|(hierarchy, path)| {
            let placed = placed(&hierarchy).unwrap_or(path);
            (hierarchy, placed)
        })
        .collect()
}

/// The sources that the command line gives for external mounts: `--external mnt[KEY]:SOURCE`, or in the old spelling
/// `--ext-mount-map KEY:SOURCE` (`criu/mount.c`, `ext_mount_add`).
fn external_mounts(line: &CommandLine) -> Vec<TargetMount> {
    let external = line.values("external").filter_map(|value| {
        let rest = value.to_str()?.strip_prefix("mnt[")?;
        rest.split_once("]:")
    });
    let mapped = line
        .values("ext-mount-map")
        .filter_map(|value| value.to_str()?.split_once(':'));
    external
        .chain(mapped)
        .map(|(key, source)| TargetMount {
            key: key.to_owned(),
            source: HostPath::new(Path::new(source)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn line(words: &[&str]) -> CommandLine {
        CommandLine::parse(words.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn cgroups_are_criu_s_only_when_the_user_says_so() {
        assert!(ignores_cgroups(&line(&["restore"])));
        assert!(ignores_cgroups(&line(&["--manage-cgroups=ignore"])));
        // Without a value it means soft.
        for word in ["--manage-cgroups", "--manage-cgroups=full"] {
            assert!(!ignores_cgroups(&line(&[word])), "{word}");
        }
    }

    #[test]
    fn a_cgroup_root_counts_for_its_hierarchy() {
        let hierarchy = |name: &str| Hierarchy(name.into());
        let own: BTreeMap<_, _> = ["", "cpu", "memory"]
            .map(|name| (hierarchy(name), CgroupPath::new("/own")))
            .into();
        let line = line(&[
            "--cgroup-root",
            ":/two",
            "--cgroup-root=cpu:/one",
            "--cgroup-root",
            "/rest",
        ]);
        let found = cgroups_of_criu(&line, &Source::default(), own);
        let paths: Vec<_> = found.values().map(ToString::to_string).collect();
        assert_eq!(paths, ["/two", "/one", "/rest"]);
    }

    #[test]
    fn sources_of_external_mounts_in_both_spellings() {
        let line = line(&[
            "--external",
            "mnt[k]:/a",
            "--external",
            "mnt[]:sm",
            "-M",
            "l:/b",
        ]);
        let found: Vec<_> = external_mounts(&line)
            .into_iter()
            .map(|mount| (mount.key, mount.source.to_string()))
            .collect();
        assert_eq!(
            found,
            [
                ("k".into(), "/a".into()),
                (String::new(), "/sm".into()),
                ("l".into(), "/b".into())
            ]
        );
    }
}
