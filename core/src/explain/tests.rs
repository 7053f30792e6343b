use super::*;

fn read(log: &str) -> Report {
    Report::read(log.as_bytes()).unwrap()
}

const DUMP: &str = "\
(00.000000) Version: 4.2.1 (gitid 0)
(00.001) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.003) Dumping processes (pid: 780 comm: app)
(00.007) Dumping task (pid: 780 comm: app)
(00.007879) ----------------------------------------
(00.007935) 780 fdinfo 0: pos:                0 flags:           100002/0
(00.007959) Dumping path for 0 fd via self 13 [/dev/null]
(00.008022) 780 fdinfo 3: pos:                0 flags:                2/0
(00.005863) sockets: Searching for socket 0x98899 family 2
(00.005865) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.
(00.008037) ----------------------------------------
(00.008042) Error (criu/cr-dump.c:1681): Dump files (pid: 780) failed with -1
(00.008533) Error (criu/cr-dump.c:2111): Dumping FAILED.
";

#[test]
fn the_object_comes_from_the_lines_before() {
    let report = read(DUMP);
    assert_eq!(report.outcome, Outcome::Failed);
    assert_eq!(report.operation, Some(Operation::Dump));
    assert_eq!(report.criu.as_deref(), Some("4.2.1"));
    assert_eq!(report.causes.len(), 1, "{report:?}");
    let cause = report.decisive().unwrap();
    assert_eq!(cause.cause, "tcp-established");
    assert_eq!(
        cause.finding.object.to_string(),
        "fd 3 of process 780: TCP connection"
    );
    assert_eq!(cause.quote.line, 10);
    assert!(report.unknown.is_empty());
    let sentence = report.sentence().unwrap();
    assert!(
        sentence.starts_with("fd 3 of process 780: TCP connection: the process has")
            && sentence.ends_with("[tcp-established]"),
        "{sentence}"
    );
}

#[test]
fn the_object_comes_from_the_lines_after() {
    let report = read(
        "(00.002391)    910: 	Receive fd for 1
(00.002399)    910: Error (criu/files-reg.c:2175): File tmp/w/f has bad size 9 (expect 6)
(00.002402)    910: Error (criu/files.c:1221): Unable to open fd=3 id=0x3
(00.003083) Error (criu/cr-restore.c:1258): 910 exited, status=1
(00.003093) Error (criu/cr-restore.c:2320): Restoring FAILED.
",
    );
    let cause = report.decisive().unwrap();
    assert_eq!(
        cause.finding.object.to_string(),
        "fd 3 of process 910: file /tmp/w/f"
    );
    assert_eq!(cause.facts["size"], "9");
    assert_eq!(cause.facts["expected"], "6");
    let report = read(
        "(00.1)   12: Error (criu/files-reg.c:2353): Can't open file srv on restore: No such file or directory
(00.1)   12: Error (criu/files-reg.c:2267): Can't open file srv: No such file or directory
(00.1)   12: Error (criu/files.c:1400): Can't open cwd
",
    );
    let cause = report.decisive().unwrap();
    assert_eq!((cause.cause, cause.times), ("file-missing", 2));
    assert_eq!(
        cause.finding.object.to_string(),
        "the working directory of process 12: file /srv"
    );
}

#[test]
fn the_root_comes_before_its_consequences() {
    let report = read(
        "(00.1)   7: Error (criu/x.c:1): Something that nobody has seen
(00.1) Error (criu/cr-restore.c:1262): 7 killed by signal 11: Segmentation fault
(00.1)   8: Error (criu/files-reg.c:2353): Can't open file a on restore: Permission denied
(00.1) Error (criu/cr-restore.c:2320): Restoring FAILED.
",
    );
    let names: Vec<_> = report.causes.iter().map(|cause| cause.cause).collect();
    assert_eq!(names, ["file-not-opened", "killed-during-restore"]);
    assert_eq!(report.unknown.len(), 1);
    assert_eq!(report.unknown[0].line, 1);
}

#[test]
fn a_refusal_of_restows_is_the_root_and_its_explanations_are_not_read_back() {
    let explained = format!(
        "{DUMP}Error (restow): {}; the log is kept as /x\n",
        read(DUMP).sentence().unwrap()
    );
    let report = read(&explained);
    assert_eq!(report.causes.len(), 1);
    assert_eq!(report.decisive().unwrap().cause, "tcp-established");
    let refused =
        format!("{DUMP}Error (restow): The restore is not possible: mount /data is in use\n");
    let report = read(&refused);
    let cause = report.decisive().unwrap();
    assert_eq!(cause.cause, "restow-refused");
    assert_eq!(
        cause.meaning,
        "The restore is not possible: mount /data is in use"
    );
    assert_eq!(report.causes.len(), 2);
}

#[test]
fn unknown_errors_are_quoted_as_they_stand() {
    let report = read(
        "(00.1)   7: Error (criu/x.c:1): Something that nobody has seen\n(00.2) Error (criu/cr-restore.c:1): Restoring FAILED.\n",
    );
    assert!(report.causes.is_empty());
    assert_eq!(
        report.sentence().unwrap(),
        "process 7: CRIU says: Something that nobody has seen"
    );
}

#[test]
fn logs_without_a_verdict() {
    let report = read("(00.1) Error (criu/cr-dump.c:2111): Dumping FAILED.\n");
    assert_eq!(report.unknown.len(), 1, "all there is, is shown");
    let report = read("(00.1) Error (criu/cr-dump.c:2111): Dumping FAILED.\n");
    assert_eq!(report.unknown.len(), 1, "all there is, is shown");
    assert_eq!(read("").outcome, Outcome::Empty);
    assert_eq!(read("\n\n").outcome, Outcome::Empty);
    assert_eq!(read("").sentence(), None);
    assert_eq!(read("root:x:0:0\n").outcome, Outcome::Foreign);
    let report = read("(00.1) Reading image tree\n(00.2) Add mnt ns 6 pid 1868\n");
    assert_eq!(report.outcome, Outcome::Unfinished);
    assert_eq!(report.operation, Some(Operation::Restore));
    assert_eq!(report.decisive().unwrap().cause, "criu-ended-early");
    let report = read(
        "(00.1) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: no\n(00.2) Dumping finished successfully\n",
    );
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(report.causes.is_empty() && report.unknown.is_empty());
}

#[test]
fn what_comes_is_bounded() {
    use std::fmt::Write as _;
    let mut log = String::new();
    for number in 0..1000 {
        let _ = writeln!(
            log,
            "(00.1)  {number}: Error (criu/x.c:1): File f{number} has bad size 1 (expect 2)"
        );
        let _ = writeln!(
            log,
            "(00.1)  {number}: Error (criu/x.c:1): Unheard-of {number}"
        );
    }
    log.push_str(&"x".repeat(1 << 20));
    let report = read(&log);
    assert_eq!(report.causes.len(), MOST_FINDINGS);
    assert_eq!(report.unknown.len(), MOST_UNKNOWN);
    assert_eq!(
        report.more,
        2000 - MOST_FINDINGS as u64 - MOST_UNKNOWN as u64
    );
    assert_eq!(report.lines, 2001);
    assert!(
        report
            .last
            .iter()
            .all(|quote| quote.text.len() <= LONGEST_LINE)
    );
    // What is no text harms nothing.
    assert_eq!(
        Report::read(&b"\xff\xfe\0 Error (\xff:1): x\n"[..])
            .unwrap()
            .lines,
        1
    );
}

/// Names are stable and lead to one cause, and every cause can be found by each of its lines.
#[test]
fn the_table_is_sound() {
    let mut names = Vec::new();
    for (_, cause) in all() {
        assert!(
            cause
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{}",
            cause.name
        );
        assert!(
            !names.contains(&cause.name),
            "{} is there twice",
            cause.name
        );
        names.push(cause.name);
        let own_words = [causes::REFUSAL.name, causes::UNFINISHED.name].contains(&cause.name);
        assert!(own_words || !cause.lines.is_empty() || !cause.warnings.is_empty());
        assert!(
            own_words || !cause.meaning.is_empty() && !cause.remedy.is_empty(),
            "{}",
            cause.name
        );
        for text in [cause.object, cause.meaning, cause.remedy] {
            assert!(!text.ends_with('.'), "{}: {text}", cause.name);
            assert_eq!(text.matches('{').count(), text.matches('}').count());
        }
        let lines = cause.lines.iter().map(|line| (Level::Error, line));
        let warnings = cause.warnings.iter().map(|line| (Level::Warning, line));
        for (level, pattern) in lines.chain(warnings) {
            let text = sample(pattern);
            let line = Line {
                level,
                is_criu: true,
                pid: None,
                file: Some("criu/x.c"),
                message: &text,
            };
            let (found, _) = causes::find(&line).unwrap_or_else(|| panic!("{pattern}"));
            assert_eq!(found.name, cause.name, "{text} is taken by another cause");
            if cause.vague {
                continue;
            }
            assert!(
                quiet::of(&text).is_none() || context::afterwards(&text).is_some(),
                "{text} is said to be quiet"
            );
        }
    }
}

/// A text that a pattern matches.
fn sample(pattern: &str) -> String {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some((literal, after)) = rest.split_once('{') {
        text.push_str(literal);
        let (name, after) = after.split_once('}').unwrap();
        text.push_str(if name.ends_with('#') { "17" } else { "word" });
        rest = after;
    }
    text + rest
}
