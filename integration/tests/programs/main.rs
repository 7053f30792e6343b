//! Programs as people run them, moved from pod to pod: each is checkpointed by `restow checkpoint`, its pod is removed whole, and where
//! `restow restore` makes a new one, its own client finds all that it had, and it goes on.

#[path = "../command/mod.rs"]
mod command;
mod counting;
mod nginx;
mod place;
mod postgresql;
mod program;
mod redis;
mod registry;

use anyhow::{Context, Result, ensure};
use command::{Lab, ProbePod};
use place::Place;
use program::{Client, Program};
use restow_cri::api::ImageSpec;
use restow_cri::{ContainerId, PodId};
use restow_integration::containerd::{Registry, Shim, handler};
use restow_integration::node::{CgroupView, hierarchies};
use restow_integration::on_both_suites;
use restow_integration::programs;
use restow_integration::record::{Entry, Outcome};
use restow_integration::scenario::NO_RESTORE;
use restow_integration::stack::{Manager, Mode, Runtime, Stack};
use restow_integration::suite::Suite;

on_both_suites!(
    programs_go_on_in_another_pod,
    programs_below_containerds_own_shim,
);

/// In the order of [`restow_integration::scenarios`].
const PROGRAMS: &[Program] = &[
    redis::REDIS,
    nginx::NGINX,
    counting::NODE,
    counting::JVM,
    registry::REGISTRY,
    counting::PYTHON,
    postgresql::POSTGRESQL,
];

/// Why containerd's own restore is not tried with crun.
const NOT_WITH_CRUN: &str = "containerd 2.1 gives crun's restore a flag that it has not got";

/// A pod with a program, and what its client keeps in mind.
struct Moving<'l> {
    lab: &'l Lab,
    program: &'static Program,
    place: Place,
    shim: Shim,
    pod: ProbePod,
}

/// What became of a program.
enum End {
    /// It goes on; what shows it.
    GoesOn(String),
    /// It is not there, or has lost something.
    Lost(String),
    /// It cannot be tried here.
    Skipped(String),
}

impl<'l> Moving<'l> {
    fn start(
        lab: &'l Lab,
        program: &'static Program,
        place: Place,
        shim: Shim,
        image: &str,
    ) -> Result<Self> {
        let name = program.name;
        let uid = format!("0c4d-{name}-{}", handler(lab.runtime, shim));
        let limit = lab.containerd.node().state().cgroup_view == CgroupView::Hybrid;
        let mut config = program.container(place, limit);
        config.image = Some(ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        });
        let settings = program.settings(place);
        let pod = lab.pod_of(name, &uid, shim, config, &settings, command::ENABLED)?;
        Ok(Self {
            lab,
            program,
            place,
            shim,
            pod,
        })
    }

    fn client(&self) -> Client<'l> {
        Client {
            lab: self.lab,
            container: self.pod.container.clone(),
            place: self.place,
        }
    }

    /// Moves it. An error is one of the stage, before there is anything to restore.
    fn journey(self) -> Result<End> {
        let seen = (self.program.before)(&self.client())?;
        let name = self.program.name;
        if let Some(capability) = self.program.needs
            && !program::has_capability(capability.0)?
        {
            self.lab.remove(&self.pod)?;
            return Ok(End::Skipped(format!("{} is missing here", capability.1)));
        }
        let checkpoint = ["checkpoint", &self.pod.what(), "--name", name, "--json"];
        self.lab.restow(&checkpoint)?.json()?;
        self.lab.remove(&self.pod)?;
        let end = match self.arrive(&seen) {
            Ok(shown) => End::GoesOn(shown),
            Err(error) => End::Lost(format!("{error:#}")),
        };
        self.lab.restow(&["rm", name, "--json"])?.json()?;
        Ok(end)
    }

    /// Restores it in a new pod; what shows that all is there.
    fn arrive(&self, seen: &str) -> Result<String> {
        let name = self.program.name;
        let new = format!("{name}-2");
        let by = handler(self.lab.runtime, self.shim);
        let args = ["restore", name, "--pod", &new, "--handler", by, "--json"];
        let restored = self.lab.restow(&args)?.json()?;
        let text = |name: &str| restored[name].as_str().context("restow restore says less");
        let client = Client {
            lab: self.lab,
            container: ContainerId(text("container")?.to_owned()),
            place: self.place,
        };
        let shown = (self.program.after)(&client, seen)?;
        if let Place::Tcp = self.place {
            client.connect_from_outside(&PodId(text("sandbox")?.to_owned()))?;
        }
        Ok(shown)
    }
}

/// The node: with version 1 controllers where the machine has them, since CPU limits are there. Not with crun: what containerd 1.7 has crun
/// 1.21 do when a sandbox has ended froze the whole node there.
fn stack(suite: Suite) -> Result<Stack> {
    let hybrid = hierarchies()?.iter().any(|it| it.v1.is_some());
    let stack = match Runtime::chosen() {
        Runtime::Runc if hybrid => Stack::hybrid(suite),
        _ => Stack::v2(suite),
    };
    Ok(Stack {
        manager: Manager::Containerd,
        ..stack
    })
}

/// A node with the image of the programs.
fn lab(stack: Stack) -> Result<Lab> {
    let lab = Lab::on(stack)?;
    lab.write(
        program::NO_IO_URING,
        include_str!("served/no-io-uring.json"),
    )?;
    lab.containerd.import(&programs::image()?)?;
    knows(&lab, programs::IMAGE)?;
    Ok(lab)
}

fn knows(lab: &Lab, image: &str) -> Result<()> {
    lab.until("the CRI plugin knows the image", || {
        let image = lab.call(lab.cri().image(image))?;
        Ok(image.is_some_and(|image| !image.repo_digests.is_empty()))
    })
}

/// Adds what became of a program to the record, as the scenario that it is.
fn keep(stack: Stack, mode: Mode, number: usize, outcome: Outcome) -> Result<()> {
    let scenario = format!("Programs {}", number + 1);
    Entry::new(&scenario, stack, mode, "", outcome).keep()
}

/// Moves all programs; the ends of those that could be tried.
fn move_all(lab: &Lab, stack: Stack, shim: Shim, image: &str) -> Result<Vec<(String, End)>> {
    let (place, mode) = match shim {
        Shim::Restow => (Place::on(lab), Mode::Restow),
        Shim::Stock => (Place::on(lab), Mode::Stock),
    };
    // All of them start at once, and are moved one after the other.
    let pods = PROGRAMS
        .iter()
        .map(|program| Moving::start(lab, program, place, shim, image))
        .collect::<Result<Vec<_>>>()?;
    let mut ends = Vec::new();
    for (number, pod) in pods.into_iter().enumerate() {
        let name = pod.program.name;
        let what = format!(
            "{name} | {}, {}, {mode}",
            stack.suite,
            lab.runtime.program()
        );
        let end = pod.journey().with_context(|| what.clone())?;
        let outcome = match &end {
            End::GoesOn(text) => Outcome::Right(text.clone()),
            End::Lost(text) => Outcome::Wrong(text.clone()),
            End::Skipped(text) => Outcome::Skipped(text.clone()),
        };
        match &end {
            End::GoesOn(text) => println!("{what}: {text}"),
            End::Lost(text) => println!("{what}: WRONG: {text}"),
            End::Skipped(text) => println!("{what}: SKIPPED: {text}"),
        }
        keep(stack, mode, number, outcome)?;
        ends.push((what, end));
    }
    Ok(ends)
}

fn programs_go_on_in_another_pod(suite: Suite) -> Result<()> {
    let stack = stack(suite)?;
    let lab = lab(stack)?;
    goes_on(&move_all(&lab, stack, Shim::Restow, programs::IMAGE)?)
}

/// None of them is lost.
fn goes_on(ends: &[(String, End)]) -> Result<()> {
    let lost = ends.iter().filter_map(|(what, end)| match end {
        End::Lost(text) => Some(format!("{what}: {text}")),
        _ => None,
    });
    let lost: Vec<String> = lost.collect();
    ensure!(lost.is_empty(), "{}", lost.join("\n"));
    Ok(())
}

/// The same without Restow, where there is a restore. Clients of these programs see no difference. They cannot see whose cgroup the files
/// are of that the server in Go holds: `Cgroup 8` shows that.
fn programs_below_containerds_own_shim(suite: Suite) -> Result<()> {
    let stack = stack(suite)?;
    let not_run = match (suite, stack.runtime) {
        (Suite::Stable, _) => Some(Outcome::NoRestore(NO_RESTORE.to_owned())),
        (_, Runtime::Crun) => Some(Outcome::Skipped(NOT_WITH_CRUN.to_owned())),
        _ => None,
    };
    if let Some(outcome) = not_run {
        println!("stock | {suite}: not run: {outcome:?}");
        return (0..PROGRAMS.len())
            .try_for_each(|number| keep(stack, Mode::Stock, number, outcome.clone()));
    }
    let lab = lab(stack)?;
    let registry = Registry::start(&lab.containerd)?;
    lab.containerd
        .name_also(programs::IMAGE, programs::REGISTRY_IMAGE)?;
    registry.push(&lab.containerd, programs::REGISTRY_IMAGE)?;
    knows(&lab, programs::REGISTRY_IMAGE)?;
    goes_on(&move_all(
        &lab,
        stack,
        Shim::Stock,
        programs::REGISTRY_IMAGE,
    )?)
}
