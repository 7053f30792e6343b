//! Servers in Node.js, Java and Python that answer each request with how many there have been, and how far timers or threads have come.

use anyhow::{Context, Result, ensure};

use crate::program::{Client, PLAIN, Program, number};

/// libuv takes io_uring where it can, which CRIU cannot dump. UV_USE_IO_URING=0 forbids one of two uses since libuv 1.49; containerd's default
/// filter of system calls forbids both since 2.0.
pub(crate) const NODE: Program = Program {
    name: "node",
    args: |place| vec!["node", "/settings/server.js", place.argument()],
    environment: &[("UV_USE_IO_URING", "0")],
    no_io_uring: true,
    files: &[("server.js", include_str!("served/server.js"))],
    before,
    after,
    ..PLAIN
};

/// A runtime of Java has no compiler: Eclipse's does it, in Java, and the same process then becomes the server's.
pub(crate) const JVM: Program = Program {
    name: "jvm",
    args: |place| vec!["sh", "-c", COMPILE_AND_RUN, "sh", place.argument()],
    files: &[("Server.java", include_str!("served/Server.java"))],
    before,
    after,
    ..PLAIN
};

const COMPILE_AND_RUN: &str = "java=$(echo /usr/lib/jvm/java-21-openjdk-*/bin/java); \
    compiler=/usr/share/java/eclipse-jdt-core-compiler-batch.jar; \
    $java -cp $compiler org.eclipse.jdt.internal.compiler.batch.Main -17 -d /tmp /settings/Server.java && \
    exec $java -Xmx64m -cp /tmp Server $1";

pub(crate) const PYTHON: Program = Program {
    name: "python",
    args: |place| vec!["python3", "/settings/server.py", place.argument()],
    files: &[("server.py", include_str!("served/server.py"))],
    before,
    after,
    ..PLAIN
};

/// Requests and ticks.
fn ask(client: &Client<'_>) -> Result<(u64, u64)> {
    counts(&client.curl(&[], "/")?)
}

fn counts(text: &str) -> Result<(u64, u64)> {
    let (requests, ticks) = text
        .trim()
        .split_once(' ')
        .with_context(|| text.to_owned())?;
    Ok((number(requests)?, number(ticks)?))
}

fn before(client: &Client<'_>) -> Result<String> {
    client.curl_insist("/")?;
    client.lab.until("it ticks", || Ok(ask(client)?.1 > 20))?;
    client.curl(&[], "/")
}

fn after(client: &Client<'_>, seen: &str) -> Result<String> {
    let (requests, ticks) = counts(seen)?;
    let (now, there) = ask(client)?;
    ensure!(
        now == requests + 1 && there >= ticks,
        "it has answered {now} requests and ticked {there} times, after {requests} and {ticks}"
    );
    client
        .lab
        .until("it ticks on", || Ok(ask(client)?.1 > there + 5))?;
    Ok(format!(
        "goes on from request {requests} and tick {ticks}, and ticks on"
    ))
}
