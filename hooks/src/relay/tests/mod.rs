//! The relay between a fake client and a fake criu, without root.

mod rig;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc;

use self::rig::{Rig, Setup, Told, ended, error_text, message};
use super::*;
use crate::rpc;

const RESTORE_STAGES: [&str; 6] = [
    "pre-restore",
    "setup-namespaces",
    "post-setup-namespaces",
    "post-restore",
    "pre-resume",
    "post-resume",
];

#[test]
fn a_restore_goes_through_and_the_stage_is_left_alone_after_post_restore() {
    let rig = Rig::new(Setup::default());
    for script in RESTORE_STAGES {
        rig.notify(script);
    }
    let (seen, told) = rig.finish(true, Kind::RESTORE);
    assert_eq!(seen, rpc::result(Kind::RESTORE, true));
    let notified = |script: &&str| Told::Notified((*script).to_owned());
    let mut expected: Vec<Told> = RESTORE_STAGES[..4].iter().map(notified).collect();
    expected.extend([Told::Result(true, None), Told::Finished]);
    assert_eq!(told, expected);
}

#[test]
fn notifications_the_client_did_not_ask_for_are_swallowed() {
    let rig = Rig::new(Setup {
        kind: Kind::DUMP,
        client_notified: false,
        ..Setup::default()
    });
    for script in ["pre-dump", "query-ext-files", "post-dump"] {
        rig.notify_unseen(script, true);
    }
    // The first thing the client reads is the result.
    let (seen, told) = rig.finish(true, Kind::DUMP);
    assert_eq!(seen, rpc::result(Kind::DUMP, true));
    assert_eq!(told.len(), 5);
}

#[test]
fn the_stage_hears_when_criu_goes_on_but_not_after_post_restore() {
    for client_notified in [true, false] {
        let rig = Rig::new(Setup {
            client_notified,
            attentive: true,
            ..Setup::default()
        });
        for script in ["setup-namespaces", "post-restore", "pre-resume"] {
            if client_notified {
                rig.notify(script);
            } else {
                rig.notify_unseen(script, true);
            }
        }
        let (_, told) = rig.finish(true, Kind::RESTORE);
        let expected = [
            Told::Begun,
            Told::Notified("setup-namespaces".into()),
            Told::Answered("setup-namespaces".into()),
            Told::Notified("post-restore".into()),
            Told::Result(true, None),
            Told::Finished,
        ];
        assert_eq!(told, expected, "{client_notified}");
    }
}

#[test]
fn a_veto_is_told_to_criu_and_explained_to_the_client() {
    let rig = Rig::new(Setup {
        veto: Some("post-restore"),
        ..Setup::default()
    });
    rig.notify("setup-namespaces");
    rig.notify_unseen("post-restore", false);
    let (seen, told) = rig.finish(false, Kind::RESTORE);
    assert_eq!(error_text(&seen), "not as planned");
    assert_eq!(
        told[2..],
        [
            Told::Result(false, Some("not as planned".into())),
            Told::Finished
        ]
    );
}

#[test]
fn external_files_are_added_to_the_reply_whether_or_not_the_client_sees_the_question() {
    let keys = vec!["file[9f:5eb3]".to_owned()];
    for client_notified in [true, false] {
        let externals = keys.clone();
        let rig = Rig::new(Setup {
            kind: Kind::DUMP,
            client_notified,
            externals,
            ..Setup::default()
        });
        rig.criu()
            .send(&rpc::notification("query-ext-files", None), &[])
            .unwrap();
        if client_notified {
            message(rig.client());
            rig.client().send(&rpc::notify_reply(true), &[]).unwrap();
        }
        let expected = rpc::with_externals(&rpc::notify_reply(true), &keys).unwrap();
        assert_eq!(message(rig.criu()), expected);
        // Once.
        if client_notified {
            rig.notify("post-dump");
        } else {
            rig.notify_unseen("post-dump", true);
        }
        rig.finish(true, Kind::DUMP);
    }
}

#[test]
fn messages_of_every_size_pass_in_both_directions() {
    let rig = Rig::new(Setup::default());
    for size in [0, 1, 200_000] {
        let bytes = vec![0xff; size];
        rig.client().send(&bytes, &[]).unwrap();
        assert_eq!(message(rig.criu()), bytes);
        rig.criu().send(&bytes, &[]).unwrap();
        assert_eq!(message(rig.client()), bytes);
    }
    rig.finish(true, Kind::RESTORE);
}

#[test]
fn descriptors_pass_in_both_directions() {
    let rig = Rig::new(Setup::default());
    let file = File::open("/dev/zero").unwrap();
    let pairs = [(rig.criu(), rig.client()), (rig.client(), rig.criu())];
    for (from, to) in pairs {
        from.send(
            &rpc::notification("orphan-pts-master", None),
            &[file.as_fd()],
        )
        .unwrap();
        let Received::Message(_, fds) = to.receive().unwrap() else {
            panic!("no message")
        };
        assert_eq!(fds.len(), 1);
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fds[0].as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some("/dev/zero"));
    }
    rig.finish(true, Kind::RESTORE);
}

#[test]
fn a_descriptor_in_a_swallowed_notification_is_closed() {
    let rig = Rig::new(Setup {
        client_notified: false,
        ..Setup::default()
    });
    let (read, write) = std::io::pipe().unwrap();
    rig.criu()
        .send(
            &rpc::notification("orphan-pts-master", None),
            &[write.as_fd()],
        )
        .unwrap();
    drop(write);
    assert_eq!(message(rig.criu()), rpc::notify_reply(true));
    rig.finish(true, Kind::RESTORE);
    // Only a writer that is left open anywhere would keep this from ending.
    assert_eq!(std::io::read_to_string(read).unwrap(), "");
}

#[test]
fn a_half_close_by_the_client_is_passed_on_and_the_result_still_arrives() {
    let rig = Rig::new(Setup::default());
    rig.client().finish();
    assert!(ended(rig.criu()));
    let (seen, _) = rig.finish(true, Kind::RESTORE);
    assert_eq!(seen, rpc::result(Kind::RESTORE, true));
}

#[test]
fn when_criu_dies_the_client_gets_a_failed_result_and_what_was_restored_is_ended() {
    for (kind, stages) in [
        (Kind::RESTORE, &RESTORE_STAGES[..]),
        (Kind::DUMP, &["pre-dump", "post-dump"][..]),
    ] {
        for died_after in 0..=stages.len() {
            let mut rig = Rig::new(Setup {
                kind,
                ..Setup::default()
            });
            for script in &stages[..died_after] {
                rig.notify(script);
            }
            drop(rig.criu.take());
            let seen = message(rig.client());
            let response = Response::parse(&seen).unwrap();
            assert_eq!((response.kind, response.success), (kind, false));
            assert!(error_text(&seen).contains("criu ended without a result"));
            assert!(ended(rig.client()));
            assert_eq!(rig.relay.join().unwrap(), Outcome::Abandoned);
            let told: Vec<Told> = rig.told.iter().collect();
            assert!(
                told.contains(&Told::Abandoned),
                "after {died_after} of {stages:?}"
            );
            assert_eq!(told.last(), Some(&Told::Finished));
        }
    }
}

#[test]
fn when_the_client_dies_criu_reads_the_end_and_the_relay_goes_with_criu() {
    for (kind, stages) in [
        (Kind::RESTORE, &RESTORE_STAGES[..]),
        (Kind::DUMP, &["pre-dump", "post-dump"][..]),
    ] {
        for died_after in 0..=stages.len() {
            let mut rig = Rig::new(Setup {
                kind,
                ..Setup::default()
            });
            for script in &stages[..died_after] {
                rig.notify(script);
            }
            drop(rig.client.take());
            // criu waits for the reply to its next notification, and reads the end instead.
            let _ = rig.criu().send(&rpc::notification("next", None), &[]);
            assert!(ended(rig.criu()), "after {died_after} of {stages:?}");
            rig.criu().send(&rpc::result(kind, false), &[]).unwrap();
            drop(rig.criu.take());
            assert_eq!(rig.relay.join().unwrap(), Outcome::Result(false));
            assert_eq!(rig.told.iter().last(), Some(Told::Finished));
        }
    }
}

#[test]
fn a_dead_client_that_asked_for_nothing_is_noticed_too() {
    let mut rig = Rig::new(Setup {
        kind: Kind::DUMP,
        client_notified: false,
        ..Setup::default()
    });
    rig.notify_unseen("pre-dump", true);
    drop(rig.client.take());
    // Its end is passed on; criu still finishes what it can.
    assert!(ended(rig.criu()));
    rig.criu()
        .send(&rpc::result(Kind::DUMP, true), &[])
        .unwrap();
    drop(rig.criu.take());
    assert_eq!(rig.relay.join().unwrap(), Outcome::Result(true));
}

#[test]
fn a_runtime_does_not_hear_of_post_restore_when_criu_died_meanwhile() {
    let (done, wait) = mpsc::channel::<()>();
    let during = move |script: &str| {
        if script == "post-restore" {
            wait.recv().unwrap();
        }
    };
    let mut rig = Rig::new(Setup {
        during: Box::new(during),
        ..Setup::default()
    });
    rig.criu()
        .send(&rpc::notification("post-restore", Some(42)), &[])
        .unwrap();
    assert_eq!(
        rig.told.recv().unwrap(),
        Told::Notified("post-restore".into())
    );
    drop(rig.criu.take());
    rig.process.0.kill().unwrap();
    rig.process.0.wait().unwrap();
    done.send(()).unwrap();
    let seen = message(rig.client());
    let response = Response::parse(&seen).unwrap();
    assert_eq!(
        (response.kind, response.success),
        (Kind::RESTORE, false),
        "the result, not the notification"
    );
    assert!(error_text(&seen).contains("criu went away"));
    let told: Vec<Told> = rig.told.iter().collect();
    assert!(told.contains(&Told::Abandoned));
}

#[test]
fn criu_is_gone_when_its_process_is_although_its_children_hold_the_socket() {
    let mut rig = Rig::new(Setup::default());
    rig.notify("setup-namespaces");
    // What criu said before it died still counts.
    rig.criu().send(b"\xff last words", &[]).unwrap();
    rig.process.0.kill().unwrap();
    assert_eq!(message(rig.client()), b"\xff last words");
    let seen = message(rig.client());
    assert!(!Response::parse(&seen).unwrap().success);
    assert!(rig.criu.is_some(), "the socket is still open");
    assert_eq!(rig.relay.join().unwrap(), Outcome::Abandoned);
    assert!(rig.told.iter().any(|told| told == Told::Abandoned));
}

#[test]
fn what_is_no_protobuf_passes_untouched() {
    let rig = Rig::new(Setup::default());
    let garbage = [0xff; 7];
    rig.criu().send(&garbage, &[]).unwrap();
    assert_eq!(message(rig.client()), garbage);
    rig.finish(true, Kind::RESTORE);
}
