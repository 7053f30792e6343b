//! Measures the restore of a pod's container below Restow's shim beside the same restore below the stock shim, on containerd 2.1.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use restow_cri::api::{ContainerConfig, ContainerState};
use restow_integration::bench::{self, Line, Sample, Standing, ms};
use restow_integration::containerd::{
    Containerd, Image, REGISTRY_PROBE_IMAGE, Registry, Shim, handler,
};
use restow_integration::kubelet::{Kubelet, plain_container, pod_config};
use restow_integration::stack::{Runtime, Stack};
use restow_integration::suite::Suite;
use serde_json::json;

/// Most that may be added.
const RESTORE_MS: f64 = 10.0;

/// Where Restow looks for checkpoints of the pods' namespace.
const STORE: &str = "/var/lib/restow/checkpoints/default";
/// The name of the one checkpoint.
const CHECKPOINT: &str = "measured";

/// A container counts within a second where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures the restore of a pod's container below Restow's shim beside the same restore below the stock shim, on containerd 2.1
///
/// One checkpoint of a container below the stock shim is restored in new pods, three times a round: by containerd's own restore below the
/// stock shim and below Restow's, and as an annotation of the pod asks Restow's shim for it. Measured are CreateContainer and StartContainer
/// together. The order changes from round to round. With runc: containerd 2.1 restores nothing with crun.
#[derive(Parser)]
#[command(name = "pods", bin_name = "cargo xtask bench pods")]
struct Cli {
    /// Rounds
    #[arg(long, default_value_t = 25)]
    runs: usize,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// How a container is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// containerd's own restore, the archive given as the image.
    Containerd(Shim),
    /// Restow's, for which the pod's annotation asks.
    Annotation,
}

const WAYS: [By; 3] = [
    By::Containerd(Shim::Stock),
    By::Containerd(Shim::Restow),
    By::Annotation,
];

impl By {
    fn shim(self) -> Shim {
        match self {
            Self::Containerd(shim) => shim,
            Self::Annotation => Shim::Restow,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Containerd(Shim::Stock) => "containerd's restore, stock shim, ms",
            Self::Containerd(Shim::Restow) => "containerd's restore, Restow's shim, ms",
            Self::Annotation => "Restow's restore by annotation, ms",
        }
    }
}

fn main() -> ExitCode {
    bench::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<bool> {
    let node = Node::start()?;
    node.checkpoint()?;
    let mut samples: [Sample; 3] = Default::default();
    // The first round warms caches and does not count.
    for round in 0..=cli.runs {
        for turn in 0..WAYS.len() {
            let way = (round + turn) % WAYS.len();
            let took = node
                .restore(WAYS[way], &format!("pod-{round}-{way}"))
                .with_context(|| format!("Round {round}, {:?}", WAYS[way]))?;
            if round > 0 {
                samples[way].push(took);
            }
        }
    }
    let [stock, restow, asked] = &samples;
    let lines = [
        ("a restore by containerd over the stock shim's", restow),
        ("Restow's own restore over the stock shim's", asked),
    ]
    .map(|(what, own)| {
        let over = own.over(stock);
        Line {
            what: what.to_owned(),
            measured: over.median(),
            unit: "ms",
            limit: RESTORE_MS,
            standing: Standing::of(&over, RESTORE_MS),
        }
    });
    if cli.json {
        let samples: HashMap<&str, &Sample> =
            WAYS.map(By::what).into_iter().zip(&samples).collect();
        let all = json!({ "lines": lines, "rounds": cli.runs, "samples": samples });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        println!("{}, {} rounds:", node.versions()?, cli.runs);
        for line in &lines {
            println!("  {line}");
        }
        for (way, sample) in WAYS.iter().zip(&samples) {
            println!(
                "    {:<42} {:>9.3} ({:.3} to {:.3})",
                way.what(),
                sample.median(),
                sample.min(),
                sample.max()
            );
        }
    }
    Ok(lines.iter().all(|line| line.standing.held()))
}

/// A node of the newer suite, whose containerd restores.
struct Node {
    kubelet: Kubelet,
    _registry: Registry,
}

impl Node {
    fn start() -> Result<Self> {
        let containerd = Rc::new(Containerd::start(Stack {
            runtime: Runtime::Runc,
            ..Stack::v2(Suite::Testing)
        })?);
        let kubelet = Kubelet::new(containerd)?;
        let image = Image::probe()?.called(REGISTRY_PROBE_IMAGE);
        let registry = Registry::with_image(kubelet.containerd(), &image)?;
        kubelet.wait_for_image(REGISTRY_PROBE_IMAGE)?;
        Ok(Self {
            kubelet,
            _registry: registry,
        })
    }

    fn versions(&self) -> Result<String> {
        let containerd = self.kubelet.containerd();
        let first = |program: &str| -> Result<String> {
            let text = containerd.run(program, &["--version"])?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        Ok(["containerd", "runc", "criu"]
            .into_iter()
            .map(first)
            .collect::<Result<Vec<_>>>()?
            .join(", "))
    }

    fn archive() -> String {
        format!("{STORE}/{CHECKPOINT}.tar")
    }

    /// Checkpoints a container below the stock shim, once it has counted, and removes its pod.
    fn checkpoint(&self) -> Result<()> {
        let store = self.kubelet.containerd().node().path(STORE);
        std::fs::create_dir_all(&store).with_context(|| format!("Create {}", store.display()))?;
        let cri = self.kubelet.cri();
        let config = pod_config("source", "source", &cgroup("source"));
        let pod = self
            .kubelet
            .call(cri.run_pod(&config, handler(Runtime::Runc, Shim::Stock)))?;
        let container = container(REGISTRY_PROBE_IMAGE);
        let id = self
            .kubelet
            .call(cri.create_container(&pod, &container, &config))?;
        self.kubelet.call(cri.start_container(&id))?;
        let log = format!("{}/probe.log", config.log_directory);
        let log = self.kubelet.containerd().node().path(log);
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("count ")
        {
            ensure!(Instant::now() < deadline, "The container does not count");
            std::thread::sleep(Duration::from_millis(5));
        }
        let archive = Self::archive();
        self.kubelet
            .call(cri.checkpoint_container(&id, Path::new(&archive), None))?;
        self.kubelet.call(cri.stop_pod(&pod))?;
        self.kubelet.call(cri.remove_pod(&pod))
    }

    /// Restores it in a new pod; how long that took, in milliseconds. The pod is removed.
    fn restore(&self, by: By, name: &str) -> Result<f64> {
        let cri = self.kubelet.cri();
        let mut config = pod_config(name, name, &cgroup(name));
        if by.shim() == Shim::Restow {
            let enabled = ("restow.dev/enabled".to_owned(), "true".to_owned());
            config.annotations.extend([enabled]);
        }
        let mut container = container(&Self::archive());
        if by == By::Annotation {
            container = self::container(REGISTRY_PROBE_IMAGE);
            let from = ("restow.dev/restore-from".to_owned(), CHECKPOINT.to_owned());
            config.annotations.extend([from]);
        }
        let pod = self
            .kubelet
            .call(cri.run_pod(&config, handler(Runtime::Runc, by.shim())))?;
        bench::any_moment();
        let asked = Instant::now();
        let id = self
            .kubelet
            .call(cri.create_container(&pod, &container, &config))?;
        self.kubelet.call(cri.start_container(&id))?;
        let took = ms(asked.elapsed());
        let status = self.kubelet.call(cri.container_status(&id, false))?.status;
        let state = status.context("The container has no state")?.state();
        ensure!(
            state == ContainerState::ContainerRunning,
            "The restored container is {state:?}"
        );
        self.kubelet.call(cri.stop_pod(&pod))?;
        self.kubelet.call(cri.remove_pod(&pod))?;
        Ok(took)
    }
}

fn cgroup(pod: &str) -> String {
    format!("/kubepods/burstable/pod{pod}")
}

/// The probe, which counts.
fn container(image: &str) -> ContainerConfig {
    plain_container("probe", image, &["/probe", "run"])
}
