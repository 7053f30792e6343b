//! What the container that is created could do to its own files: no more may come to it with a checkpoint.
//!
//! A program with set-user-id or file capabilities gives whoever runs it rights. A container that runs as root can make one,
//! so for it nothing is gained by one that arrives; neither where the kernel ignores both (`no_new_privs`). Any other
//! container could not have made it, so it is refused rather than taken in, or silently changed.

use serde_json::Value;

/// `security.capability`, the file capabilities.
const FILE_CAPABILITIES: &str = "security.capability";

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

/// Rights of the container that is created, as its spec says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rights {
    user: u64,
    groups: Vec<u64>,
    no_new_privileges: bool,
    /// It runs in a user namespace of its own, so that owners on the disk are not those that it sees.
    pub(super) mapped: bool,
}

impl Rights {
    pub(super) fn of(spec: &Value) -> Self {
        let process = &spec["process"];
        let user = &process["user"];
        let more = user["additionalGids"].as_array().into_iter().flatten();
        let groups = more.chain([&user["gid"]]).filter_map(Value::as_u64);
        let mappings = spec["linux"]["uidMappings"].as_array();
        let namespaces = spec["linux"]["namespaces"].as_array();
        let own = namespaces
            .into_iter()
            .flatten()
            .any(|namespace| namespace["type"] == "user");
        Self {
            user: user["uid"].as_u64().unwrap_or(0),
            groups: groups.collect(),
            no_new_privileges: process["noNewPrivileges"] == true,
            mapped: own || mappings.is_some_and(|mappings| !mappings.is_empty()),
        }
    }

    /// Whether a regular file with these rights may be put into the container.
    pub(super) fn allow<'n>(
        &self,
        (owner, group): (u32, u32),
        mode: u32,
        mut attributes: impl Iterator<Item = &'n str>,
    ) -> Result<(), String> {
        if self.user == 0 || self.no_new_privileges {
            return Ok(());
        }
        let set = if mode & SET_USER_ID != 0 && u64::from(owner) != self.user {
            format!("it is set-user-id of user {owner}")
        } else if mode & SET_GROUP_ID != 0
            && mode & 0o010 != 0
            && !self.groups.contains(&u64::from(group))
        {
            format!("it is set-group-id of group {group}")
        } else if attributes.any(|name| name == FILE_CAPABILITIES) {
            "it has file capabilities".into()
        } else {
            return Ok(());
        };
        Err(format!(
            "{set}, which the new container, running as user {}, could not have made; let the pod run as root or without \
             privilege escalation (allowPrivilegeEscalation: false)",
            self.user
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rights_that_the_container_could_not_have_given_are_refused() {
        let allow = |spec: Value, owner, mode, attributes: &[&str]| {
            Rights::of(&spec).allow((owner, owner), mode, attributes.iter().copied())
        };
        let root = json!({"process": {"user": {"uid": 0, "gid": 0}}});
        let user = json!({"process": {"user": {"uid": 1000, "gid": 1000, "additionalGids": [7]}}});
        let bounded = json!({"process": {"user": {"uid": 1000}, "noNewPrivileges": true}});
        for (owner, mode, attributes) in [
            (0, 0o4755, [].as_slice()),
            (0, 0o2755, &[]),
            (1000, 0o755, &["security.capability"]),
        ] {
            assert_eq!(allow(root.clone(), owner, mode, attributes), Ok(()));
            assert_eq!(allow(bounded.clone(), owner, mode, attributes), Ok(()));
            let refused = allow(user.clone(), owner, mode, attributes).unwrap_err();
            assert!(refused.contains("could not have made"), "{refused}");
        }
        assert_eq!(allow(user.clone(), 1000, 0o6755, &["user.x"]), Ok(()));
        assert_eq!(allow(user.clone(), 7, 0o2755, &[]), Ok(()));
        // Mandatory locking, not a program.
        assert_eq!(allow(user, 0, 0o2644, &[]), Ok(()));
    }

    #[test]
    fn a_user_namespace_is_seen() {
        let own = json!({"linux": {"namespaces": [{"type": "user"}]}});
        assert!(Rights::of(&own).mapped);
        assert!(!Rights::of(&json!({"linux": {"namespaces": [{"type": "pid"}]}})).mapped);
    }
}
