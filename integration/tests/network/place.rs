//! Pods with listeners and connections, and what is asked of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Result, anyhow, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Mode};
use restow_integration::journey::{Arrival, Journey, Verdict};
use restow_integration::network::{OUTSIDE, Outside, ask, bridge};
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::{Stock, compare, skip};
use restow_integration::stack::Stack;
use restow_integration::suite::Suite;

pub(crate) fn journey(container: ContainerOptions) -> Journey {
    let mut journey = Journey::new(container);
    journey.from = journey.from.network();
    journey.to = journey.to.network();
    journey
}

/// Every listener of a pod: on its addresses, on any and on the loopback address, unix ones by path and by abstract name.
pub(crate) fn listeners() -> ContainerOptions {
    [
        "0:listen:{ip4}:8001",
        "0:listen:[{ip6}]:8002",
        "0:listen:0.0.0.0:8003",
        "0:listen:[::]:8004",
        "0:listen:127.0.0.1:8005",
        "0:listen:[::1]:8006",
        "1:listen:[::ffff:{ip4}]:8007",
        "0:udp:{ip4}:8001",
        "0:udp:[{ip6}]:8002",
        "0:udp:0.0.0.0:8003",
        "0:unix:/run.sock",
        "0:unix:@restow/abstract",
        "0:unix-dgram:/data/dgram.sock",
        "0:unix-seqpacket:@restow/packets",
        "1:unix:relative.sock",
    ]
    .into_iter()
    .fold(
        ContainerOptions::new(1)
            .volume("/data")
            .probe("--cwd", "/data"),
        ContainerOptions::socket,
    )
}

/// What is asked of those listeners after the move, and whether from outside the pod.
pub(crate) const ASKED: [(&str, &str, bool); 14] = [
    ("tcp", "{ip4}:8001", true),
    ("tcp", "[{ip6}]:8002", true),
    ("tcp", "{ip4}:8003", true),
    ("tcp", "[{ip6}]:8004", true),
    ("tcp", "{ip4}:8004", true),
    ("tcp", "127.0.0.1:8005", false),
    ("tcp", "[::1]:8006", false),
    ("tcp", "{ip4}:8007", true),
    ("udp", "{ip4}:8001", true),
    ("udp", "[{ip6}]:8002", true),
    ("udp", "{ip4}:8003", true),
    ("unix", "/run.sock", false),
    ("unix", "@restow/abstract", false),
    ("unix-dgram", "/data/dgram.sock", false),
];

pub(crate) fn answers(there: &Arrival) -> Result<()> {
    let [v4, v6] = there.pod.addresses();
    for (kind, address, outside) in ASKED {
        let address = address.replace("{ip4}", &v4).replace("{ip6}", &v6);
        let answer = if outside {
            ask(there.engine, kind, &address)?
        } else {
            there.container.exec(&["/probe", "ask", kind, &address])?
        };
        let (counter, word) = answer.trim().split_once(' ').unwrap_or(("", &answer));
        ensure!(
            word == "ping"
                && counter
                    .parse()
                    .is_ok_and(|n: u64| n >= there.origin.reports[0].counter),
            "{kind} {address} answers {answer:?}"
        );
    }
    Ok(())
}

/// Servers outside, one for each family.
pub(crate) fn outside(engine: &Engine) -> Result<Vec<Outside>> {
    bridge(engine)?;
    let [v4, v6] = OUTSIDE;
    [format!("{v4}:7000"), format!("[{v6}]:7000")]
        .iter()
        .map(|address| Outside::start(engine, address))
        .collect()
}

/// What failed as it should, in these words.
pub(crate) fn refused(verdict: Verdict, words: &[&str]) -> Verdict {
    match verdict {
        Verdict::Wrong(text) if words.iter().all(|word| text.contains(word)) => {
            Verdict::Right(format!("refused: {text}"))
        }
        Verdict::Right(text) => Verdict::Wrong(format!("it is not refused: {text}")),
        wrong => wrong,
    }
}

/// Compares a scenario with internet sockets, or says by name why that cannot be done here.
pub(crate) fn inet(
    name: &str,
    suite: Suite,
    stock: Stock,
    run: impl Fn(&Engine) -> Result<Verdict>,
) -> Result<()> {
    match cannot_dump(suite)? {
        Some(why) => skip(name, Stack::v2(suite), &why),
        None => compare(name, Stack::v2(suite), stock.crun(stock), run),
    }
}

/// Why the suite's criu dumps no internet socket on this kernel, found by having it dump one: since Linux 6.16 the question for
/// `SO_PASSCRED` (1:16) of one is an error, and criu before 4.2 asks it of every socket.
pub(crate) fn cannot_dump(suite: Suite) -> Result<Option<String>> {
    static TRIED: Mutex<BTreeMap<&str, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut tried = TRIED.lock().map_err(|_| anyhow!("another test panicked"))?;
    let key = if suite == Suite::Stable {
        "stable"
    } else {
        "testing"
    };
    if let Some(known) = tried.get(key) {
        return Ok(known.clone());
    }
    let engine = Engine::start(Stack::v2(suite), Mode::Stock)?;
    let pod = Pod::start(&engine, &PodOptions::new("trial"))?;
    let mut container = pod.container(&ContainerOptions::new(0).socket("0:udp:0.0.0.0:9"))?;
    container.start()?;
    let checkpoint = Checkpoint::new(&engine, "trial")?;
    let why = match container.checkpoint(&checkpoint) {
        Ok(()) => None,
        Err(error) if format!("{error:#}").contains("Can't get 1:16 opt") => {
            let versions = engine.versions()?;
            let criu = versions.split(", ").nth(1).unwrap_or("criu");
            Some(format!(
                "{criu} cannot dump other sockets than unix on this kernel (tried: Can't get 1:16 opt)"
            ))
        }
        Err(error) => return Err(error.context("A container with one socket")),
    };
    tried.insert(key, why.clone());
    Ok(why)
}
