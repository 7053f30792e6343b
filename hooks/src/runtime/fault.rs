//! Telling callers of a runtime what went wrong, where they look: standard error, and the log that `--log` names.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::SystemTime;

use super::call::Call;

/// Says that the call failed. The log's last line is what containerd, podman and CRI-O show their users.
pub fn tell(call: &Call, reason: &str) {
    eprintln!("restow: {reason}");
    log(call, "error", reason);
}

/// Writes one line into the runtime's own log, if it has one.
pub fn log(call: &Call, level: &str, reason: &str) {
    let Some(path) = call.global("log") else {
        return;
    };
    let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) else {
        return;
    };
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    let line = if call
        .global("log-format")
        .is_some_and(|format| format == "json")
    {
        let message = format!("restow: {reason}");
        serde_json::json!({"level": level, "msg": message, "time": time.to_string()}).to_string()
    } else {
        format!(
            "time=\"{time}\" level={level} msg={:?}",
            format!("restow: {reason}")
        )
    };
    // Nothing can be done for a log that cannot be written.
    let _ = file.write_all(format!("{line}\n").as_bytes());
}
