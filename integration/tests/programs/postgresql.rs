//! PostgreSQL: rows that a crash would take away, and the time when the server started.
//!
//! It does not run as root, so that nothing of it can be dumped without `CAP_SYS_RESOURCE`.

use anyhow::Result;

use crate::place::{PORT, Place};
use crate::program::{Client, PLAIN, Program, same};

pub(crate) const POSTGRESQL: Program = Program {
    name: "postgresql",
    args: |place| {
        let addresses = match place {
            Place::Tcp => "*",
            Place::Unix => "",
        };
        vec!["sh", "-c", MAKE_AND_RUN, PORT, addresses]
    },
    user: Some(33),
    needs: Some((24, "CAP_SYS_RESOURCE")),
    before,
    after,
    ..PLAIN
};

const MAKE_AND_RUN: &str = "bin=/usr/lib/postgresql/17/bin; \
    $bin/initdb --no-sync --auth trust --username kept --pgdata /tmp/data && \
    exec $bin/postgres -D /tmp/data -k /tmp -p $0 -h \"$1\" \
    -c jit=off -c fsync=off -c dynamic_shared_memory_type=mmap";

/// psql, with what stands before a statement.
const PSQL: &[&str] = &[
    "/usr/lib/postgresql/17/bin/psql",
    "--no-psqlrc",
    "--quiet",
    "--tuples-only",
    "--no-align",
    "--username=kept",
    "--host=/tmp",
    "--port",
    PORT,
    "--dbname=postgres",
    "--command",
];

const STARTED: &str = "SELECT pg_postmaster_start_time()";

fn sql(client: &Client<'_>, statement: &str) -> Result<String> {
    client.run(&[PSQL, &[statement]].concat())
}

fn before(client: &Client<'_>) -> Result<String> {
    client.insist(&[PSQL, &[STARTED]].concat())?;
    sql(client, "CREATE UNLOGGED TABLE ships (name text, teu int)")?;
    sql(
        client,
        "INSERT INTO ships SELECT 'ship ' || i, i FROM generate_series(1, 5000) i",
    )?;
    sql(client, STARTED)
}

fn after(client: &Client<'_>, seen: &str) -> Result<String> {
    same("the time of its start", &sql(client, STARTED)?, seen)?;
    let sum = "SELECT count(*) || ' ' || sum(teu) FROM ships";
    same("the table", &sql(client, sum)?, "5000 12502500")?;
    sql(client, "INSERT INTO ships VALUES ('another', 1)")?;
    same("the table", &sql(client, sum)?, "5001 12502501")?;
    Ok("the same run of it has all rows and takes new ones".to_owned())
}
