//! The end of tests that would never end: a run that is cut off from outside says nothing about why.

use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

/// No test takes a fifth of it, on busy machines too.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs a test. One that does not end fails, with what the machine's processes are at. It is left behind, and ends with the process.
///
/// # Errors
/// Of the test, or that it does not end.
///
/// # Panics
/// When the test does.
pub fn within(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    ends_within(LIMIT, name, test)
}

fn ends_within(
    limit: Duration,
    name: &str,
    test: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let (done, waiting) = mpsc::channel();
    let thread = thread::spawn(move || {
        // Nobody waits any more when the limit has been reached.
        let _ = done.send(test());
    });
    match waiting.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => bail!("{name} has no result"),
        },
        Err(RecvTimeoutError::Timeout) => {
            let output = Command::new("ps")
                .args(["-ww", "-e", "f", "-o", "pid,stat,etime,time,wchan:24,args"])
                .output();
            if let Ok(output) = output {
                println!("{}", String::from_utf8_lossy(&output.stdout));
            }
            bail!(
                "{name} has not ended after {} s; the processes of this machine are listed above",
                limit.as_secs()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_does_not_end_fails() {
        let error = ends_within(Duration::from_millis(50), "sleeper", || {
            thread::sleep(Duration::from_secs(600));
            Ok(())
        })
        .unwrap_err();
        assert!(
            error.to_string().contains("sleeper has not ended"),
            "{error}"
        );
        ends_within(Duration::from_secs(600), "quick", || Ok(())).unwrap();
        let error =
            ends_within(Duration::from_secs(600), "wrong", || bail!("so it is")).unwrap_err();
        assert_eq!(error.to_string(), "so it is");
    }

    #[test]
    #[should_panic(expected = "so it is")]
    fn a_test_that_panics_panics() {
        let _ = ends_within(Duration::from_secs(600), "panics", || panic!("so it is"));
    }
}
