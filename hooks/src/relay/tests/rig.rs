//! A relay between a fake client and a fake criu.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use super::super::*;
use crate::rpc;

/// What the stage was told, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Begun,
    Notified(String),
    Answered(String),
    Abandoned,
    Result(bool, Option<String>),
    Finished,
}

/// A stage that records what it is told and vetoes one notification.
pub(super) struct Recorder {
    told: Sender<Told>,
    veto: Option<&'static str>,
    /// Whether it records when criu goes on, too.
    attentive: bool,
    /// What it names at `query-ext-files`.
    externals: Vec<String>,
    /// Runs in every notification, while criu waits.
    during: Box<dyn FnMut(&str) + Send>,
}

impl Stage for Recorder {
    fn begun(&mut self) {
        if self.attentive {
            self.told.send(Told::Begun).unwrap();
        }
    }

    fn answered(&mut self, script: &str) {
        if self.attentive {
            self.told.send(Told::Answered(script.to_owned())).unwrap();
        }
    }

    fn notified(&mut self, notification: &Notification) -> Answer {
        self.told
            .send(Told::Notified(notification.script.clone()))
            .unwrap();
        (self.during)(&notification.script);
        match self.veto {
            _ if notification.script == "query-ext-files" => {
                Answer::External(self.externals.clone())
            }
            Some(script) if script == notification.script => Answer::Veto("not as planned".into()),
            _ => Answer::Forward,
        }
    }

    fn abandoned(&mut self) {
        self.told.send(Told::Abandoned).unwrap();
    }

    fn result(&mut self, success: bool, veto: Option<&str>) {
        self.told
            .send(Told::Result(success, veto.map(str::to_owned)))
            .unwrap();
    }

    fn finished(&mut self) {
        self.told.send(Told::Finished).unwrap();
    }
}

/// A running relay with both its neighbours.
pub(super) struct Rig {
    pub(super) client: Option<Connection>,
    pub(super) criu: Option<Connection>,
    pub(super) told: Receiver<Told>,
    pub(super) relay: JoinHandle<Outcome>,
    /// A process that stands for criu's.
    pub(super) process: Process,
}

/// A process that does nothing until it is dropped.
pub(super) struct Process(pub(super) Child);

impl Process {
    pub(super) fn new() -> Self {
        Self(
            Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    pub(super) fn open(&self) -> PidFd {
        PidFd::open(i32::try_from(self.0.id()).unwrap()).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a rig differs from a RESTORE whose client asked for notifications and whose stage agrees to everything.
pub(super) struct Setup {
    pub(super) kind: Kind,
    pub(super) client_notified: bool,
    pub(super) veto: Option<&'static str>,
    pub(super) attentive: bool,
    pub(super) externals: Vec<String>,
    pub(super) during: Box<dyn FnMut(&str) + Send>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            kind: Kind::RESTORE,
            client_notified: true,
            veto: None,
            attentive: false,
            externals: Vec::new(),
            during: Box::new(|_| {}),
        }
    }
}

impl Rig {
    pub(super) fn new(setup: Setup) -> Self {
        let (client, for_client) = Connection::pair().unwrap();
        let (criu, for_criu) = Connection::pair().unwrap();
        let (told_to, told) = mpsc::channel();
        let Setup {
            kind,
            client_notified,
            veto,
            attentive,
            externals,
            during,
        } = setup;
        let mut stage = Recorder {
            told: told_to,
            veto,
            attentive,
            externals,
            during,
        };
        let process = Process::new();
        let criu_process = process.open();
        let relay = std::thread::spawn(move || {
            Relay {
                client: &client,
                criu: &criu,
                criu_process: &criu_process,
                kind,
                client_notified,
                stage: &mut stage,
            }
            .run()
            .unwrap()
        });
        let ours = |end| Some(Connection::new(end).unwrap());
        Self {
            client: ours(for_client),
            criu: ours(for_criu),
            told,
            relay,
            process,
        }
    }

    pub(super) fn client(&self) -> &Connection {
        self.client.as_ref().unwrap()
    }

    pub(super) fn criu(&self) -> &Connection {
        self.criu.as_ref().unwrap()
    }

    /// criu notifies, the client sees it and replies, criu sees the reply.
    pub(super) fn notify(&self, script: &str) {
        let sent = rpc::notification(script, Some(42));
        self.criu().send(&sent, &[]).unwrap();
        assert_eq!(message(self.client()), sent, "{script}");
        self.client().send(&rpc::notify_reply(true), &[]).unwrap();
        assert_eq!(message(self.criu()), rpc::notify_reply(true), "{script}");
    }

    /// criu notifies and hears this reply, without the client.
    pub(super) fn notify_unseen(&self, script: &str, success: bool) {
        self.criu()
            .send(&rpc::notification(script, Some(42)), &[])
            .unwrap();
        assert_eq!(message(self.criu()), rpc::notify_reply(success), "{script}");
    }

    /// criu gives its result, which the client reads, and leaves.
    pub(super) fn finish(mut self, success: bool, kind: Kind) -> (Vec<u8>, Vec<Told>) {
        self.criu().send(&rpc::result(kind, success), &[]).unwrap();
        let seen = message(self.client());
        drop(self.criu.take());
        assert!(ended(self.client()));
        assert_eq!(self.relay.join().unwrap(), Outcome::Result(success));
        (seen, self.told.iter().collect())
    }
}

pub(super) fn message(connection: &Connection) -> Vec<u8> {
    match connection.receive().unwrap() {
        Received::Message(bytes, _) => bytes,
        Received::End => panic!("the other side ended"),
    }
}

pub(super) fn ended(connection: &Connection) -> bool {
    matches!(connection.receive().unwrap(), Received::End)
}

pub(super) fn error_text(response: &[u8]) -> String {
    let message = criu_image::wire::Message::parse(response).unwrap();
    message.str(9).unwrap_or_default().to_owned()
}
