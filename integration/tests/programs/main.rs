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
use restow_cri::{ContainerId, PodId};
use restow_integration::containerd::{Shim, handler};
use restow_integration::node::{CgroupView, hierarchies};
use restow_integration::on_both_suites;
use restow_integration::programs;
use restow_integration::stack::{Runtime, Stack};
use restow_integration::suite::Suite;

on_both_suites!(programs_go_on_in_another_pod);

const PROGRAMS: &[Program] = &[
    redis::REDIS,
    nginx::NGINX,
    counting::NODE,
    counting::JVM,
    registry::REGISTRY,
    counting::PYTHON,
    postgresql::POSTGRESQL,
];

/// A pod with a program, and what its client keeps in mind.
struct Moving<'l> {
    lab: &'l Lab,
    program: &'static Program,
    place: Place,
    shim: Shim,
    pod: ProbePod,
}

impl<'l> Moving<'l> {
    fn start(lab: &'l Lab, program: &'static Program, place: Place, shim: Shim) -> Result<Self> {
        let name = program.name;
        let uid = format!("0c4d-{name}-{}", handler(lab.runtime, shim));
        let limit = lab.containerd.node().state().cgroup_view == CgroupView::Hybrid;
        let config = program.container(place, limit);
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

    /// Moves it; what shows that all is there.
    fn journey(self) -> Result<String> {
        let seen = (self.program.before)(&self.client())?;
        let name = self.program.name;
        if let Some(capability) = self.program.needs
            && !program::has_capability(capability.0)?
        {
            self.lab.remove(&self.pod)?;
            return Ok(format!("SKIPPED: {} is missing here", capability.1));
        }
        self.lab
            .restow(&["checkpoint", &self.pod.what(), "--name", name, "--json"])?
            .json()?;
        self.lab.remove(&self.pod)?;
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
        let shown = (self.program.after)(&client, &seen)?;
        if let Place::Tcp = self.place {
            client.connect_from_outside(&PodId(text("sandbox")?.to_owned()))?;
        }
        self.lab.restow(&["rm", name, "--json"])?.json()?;
        Ok(shown)
    }
}

/// The node: with version 1 controllers where the machine has them, since CPU limits are there. Not with crun: what containerd 1.7 has crun
/// 1.21 do when a sandbox has ended froze the whole node there.
fn lab(suite: Suite) -> Result<Lab> {
    let hybrid = hierarchies()?.iter().any(|it| it.v1.is_some());
    let lab = Lab::on(match Runtime::chosen() {
        Runtime::Runc if hybrid => Stack::hybrid(suite),
        _ => Stack::v2(suite),
    })?;
    lab.write(
        program::NO_IO_URING,
        include_str!("served/no-io-uring.json"),
    )?;
    lab.containerd.import(&programs::image()?)?;
    lab.until("the CRI plugin knows the image", || {
        let image = lab.call(lab.cri().image(programs::IMAGE))?;
        Ok(image.is_some_and(|image| !image.repo_digests.is_empty()))
    })?;
    Ok(lab)
}

fn programs_go_on_in_another_pod(suite: Suite) -> Result<()> {
    let lab = lab(suite)?;
    let place = Place::on(&lab);
    // All of them start at once, and are moved one after the other.
    let pods = PROGRAMS
        .iter()
        .map(|program| Moving::start(&lab, program, place, Shim::Restow))
        .collect::<Result<Vec<_>>>()?;
    let mut faults = Vec::new();
    for pod in pods {
        let what = format!("{} | {suite}, {}", pod.program.name, lab.runtime.program());
        match pod.journey() {
            Ok(shown) => println!("{what}: {shown}"),
            Err(error) => faults.push(format!("{what}: {error:#}")),
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
