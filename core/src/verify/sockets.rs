//! Sockets: each has to be where the plan puts it, and to be what it was.

use std::io;
use std::net::SocketAddr;

use super::{Restored, Verdict};
use crate::finding::Object;
use crate::ids::HostPid;
use crate::plan::{SocketPlan, SocketsPlan, UnixPlan};
use crate::source::{Protocol, State};

/// An internet socket as its network namespace lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InetLine {
    /// What it speaks.
    pub protocol: Protocol,
    /// The address it is bound to.
    pub local: SocketAddr,
    /// The address it is connected to.
    pub peer: Option<SocketAddr>,
    /// Its state.
    pub state: State,
}

/// A unix socket as its network namespace lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixLine {
    /// Its name as it was bound, abstract ones with `@` for each zero byte; empty when it has none.
    pub name: Vec<u8>,
    /// It listens.
    pub listens: bool,
}

pub(super) fn sockets(plan: &SocketsPlan, tree: &impl Restored, verdict: &mut Verdict) {
    // The lists have no sockets of other protocols.
    let inet = plan
        .inet
        .iter()
        .filter(|socket| socket.protocol != Protocol::Other);
    for socket in inet {
        for holder in &socket.holders {
            let found = task(tree, holder.pid).and_then(|pid| tree.inet_socket(pid, holder.fd));
            let wrong = match found {
                Ok(found) => inet_differs(socket, found),
                Err(error) => Some(format!("it cannot be looked at: {error}")),
            };
            let object = || Object::Socket {
                protocol: socket.protocol.to_string(),
                local: socket.new.local.to_string(),
                peer: socket.new.peer.map(|peer| peer.to_string()),
                holders: vec![*holder],
            };
            verdict.check(object, wrong);
        }
    }
    for socket in &plan.unix {
        for holder in &socket.holders {
            let found = task(tree, holder.pid).and_then(|pid| tree.unix_socket(pid, holder.fd));
            let wrong = match found {
                Ok(found) => unix_differs(socket, found),
                Err(error) => Some(format!("it cannot be looked at: {error}")),
            };
            let object = || Object::Socket {
                protocol: "unix".into(),
                local: socket.name.clone(),
                peer: None,
                holders: vec![*holder],
            };
            verdict.check(object, wrong);
        }
    }
}

fn task(tree: &impl Restored, pid: crate::ids::NsPid) -> io::Result<HostPid> {
    let found = tree.tasks().get(&pid).copied();
    found.ok_or_else(|| io::Error::other(format!("process {pid} is not there")))
}

fn inet_differs(plan: &SocketPlan, found: Option<InetLine>) -> Option<String> {
    let wanted = plan.new;
    let Some(found) = found else {
        // A TCP socket that is bound but neither listens nor is connected is in no list.
        let listed = plan.listens
            || wanted.peer.is_some()
            || (plan.protocol == Protocol::Udp && wanted.local.port() != 0);
        return listed.then(|| format!("it is not bound and should be at {}", wanted.local));
    };
    let peer =
        |peer: Option<SocketAddr>| peer.map_or_else(|| "nothing".into(), |at| at.to_string());
    if found.local != wanted.local && wanted.local.port() != 0 {
        return Some(format!(
            "it is at {} and should be at {}",
            found.local, wanted.local
        ));
    }
    if found.peer != wanted.peer {
        let (found, wanted) = (peer(found.peer), peer(wanted.peer));
        return Some(format!(
            "it is connected to {found} and should be to {wanted}"
        ));
    }
    let listens = plan.protocol == Protocol::Tcp && found.state == State::LISTENING;
    (listens != plan.listens).then(|| {
        let (is, was) = if listens {
            ("listens", "not")
        } else {
            ("does not listen", "so")
        };
        format!("it {is} and did {was} before")
    })
}

fn unix_differs(plan: &UnixPlan, found: Option<UnixLine>) -> Option<String> {
    let Some(found) = found else {
        return Some("its network namespace does not know it".to_owned());
    };
    let name = String::from_utf8_lossy(&found.name);
    let same = match plan.name.strip_prefix('@') {
        // The kernel lists zero bytes as `@`; what else is escaped here is not compared.
        Some(wanted) if wanted.contains('\\') => true,
        Some(_) => plan.name == name,
        // It may have been bound as a relative path.
        None => plan
            .name
            .strip_suffix(&*name)
            .is_some_and(|above| !name.is_empty() && (above.is_empty() || above.ends_with('/'))),
    };
    if !same {
        return Some(format!("it is bound to {name:?}"));
    }
    (found.listens != plan.listens).then(|| {
        let is = if found.listens {
            "listens and did not"
        } else {
            "does not listen and did"
        };
        format!("it {is} before")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Rule;
    use crate::ids::FileId;
    use crate::plan::{SocketAction, SocketPlace};
    use crate::source::UnixKind;

    fn listener(local: &str) -> SocketPlan {
        let place = SocketPlace {
            local: local.parse().unwrap(),
            peer: None,
        };
        SocketPlan {
            id: FileId(1),
            protocol: Protocol::Tcp,
            old: place,
            new: place,
            listens: true,
            action: SocketAction::Rebind,
            rule: Rule::Socket,
            holders: Vec::new(),
        }
    }

    fn found(local: &str, peer: Option<&str>, state: State) -> Option<InetLine> {
        Some(InetLine {
            protocol: Protocol::Tcp,
            local: local.parse().unwrap(),
            peer: peer.map(|peer| peer.parse().unwrap()),
            state,
        })
    }

    #[test]
    fn what_is_not_where_the_plan_has_it_is_told() {
        let plan = listener("10.0.0.2:80");
        let wrong = |found| inet_differs(&plan, found).unwrap_or_default();
        assert_eq!(wrong(found("10.0.0.2:80", None, State::LISTENING)), "");
        assert!(wrong(None).contains("should be at 10.0.0.2:80"));
        assert!(
            wrong(found("10.0.0.1:80", None, State::LISTENING)).contains("it is at 10.0.0.1:80")
        );
        assert!(wrong(found("10.0.0.2:80", None, State::CLOSED)).contains("does not listen"));
        let connected = found("10.0.0.2:80", Some("10.0.0.9:1"), State::ESTABLISHED);
        assert!(wrong(connected).contains("connected to 10.0.0.9:1 and should be to nothing"));
        // A connection that the plan closes is in no list.
        let mut closed = listener("0.0.0.0:0");
        (closed.listens, closed.action) = (false, SocketAction::Close);
        assert_eq!(inet_differs(&closed, None), None);
        assert!(inet_differs(&closed, connected).is_some());
    }

    #[test]
    fn names_are_compared_as_the_kernel_shows_them() {
        let differs = |name: &str, shown: &str| {
            let plan = UnixPlan {
                id: FileId(1),
                kind: UnixKind::Stream,
                name: name.into(),
                listens: true,
                holders: Vec::new(),
            };
            let found = UnixLine {
                name: shown.into(),
                listens: true,
            };
            unix_differs(&plan, Some(found)).is_some()
        };
        assert!(!differs("/data/x", "/data/x"));
        assert!(!differs("/data/x", "x"));
        assert!(differs("/data/x", "ta/x"));
        assert!(differs("/data/x", ""));
        assert!(!differs("@a", "@a"));
        assert!(differs("@a", "@b"));
    }
}
