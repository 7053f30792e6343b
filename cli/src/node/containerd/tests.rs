use super::*;

fn config(main: &str, version: i64, merges: bool) -> Config {
    Config {
        files: vec![(PathBuf::from(MAIN), main.to_owned())],
        exists: !main.is_empty(),
        version,
        merges,
        default: None,
    }
}

fn handler() -> Handler {
    Handler {
        name: "restow".to_owned(),
        shim: "/usr/local/lib/restow/containerd-shim-restow-v2".into(),
        runtime: None,
    }
}

const KUBEADM: &str = r#"version = 2 # as kubeadm has it

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.10" # keep
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        pod_annotations = ["example.com/*"]
        privileged_without_host_devices = true
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
          SystemdCgroup = true
"#;

#[test]
fn containerd_1_gets_the_handler_behind_its_own_section() {
    let changes = config(KUBEADM, 2, false).changes(&[handler()]).unwrap();
    let [one] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(one.path, Path::new(MAIN));
    let Wanted::Edited { base, text } = &one.wanted else {
        panic!("{one:?}")
    };
    assert_eq!(base, KUBEADM);
    let block = text.strip_prefix(KUBEADM).unwrap();
    assert_eq!(
        block,
        format!(
            r#"{BEGIN}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.restow]
runtime_type = "io.containerd.runc.v2"
runtime_path = "/usr/local/lib/restow/containerd-shim-restow-v2"
pod_annotations = ["example.com/*", "restow.dev/*"]
privileged_without_host_devices = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.restow.options]
SystemdCgroup = true
{END}
"#
        )
    );
    assert_eq!(without_ours(text), KUBEADM);
    // What somebody wrote meanwhile stays.
    let changed = format!("# mine\n{text}[metrics]\n");
    assert_eq!(
        without_ours(&changed),
        format!("# mine\n{KUBEADM}[metrics]\n")
    );
}

#[test]
fn containerd_2_gets_a_file_of_its_own_and_one_import() {
    for (main, expected) in [
        (
            "version = 3\n# a comment\nimports = ['/etc/containerd/mine.toml']  # first\n",
            "version = 3\n# a comment\nimports = ['/etc/containerd/mine.toml', \"/etc/containerd/conf.d/restow.toml\"]  # first\n".to_owned(),
        ),
        (
            "version = 3\n[debug]\nlevel = 'info'\n",
            format!("{BEGIN}\nimports = [\"{DROP_IN}\"]\n{END}\nversion = 3\n[debug]\nlevel = 'info'\n"),
        ),
    ] {
        let changes = config(main, 3, true).changes(&[handler()]).unwrap();
        let [drop_in, import] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(drop_in.path, Path::new(DROP_IN));
        let Wanted::File(text) = &drop_in.wanted else { panic!("{drop_in:?}") };
        let doc: DocumentMut = text.parse().unwrap();
        let ours = &doc["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["restow"];
        assert_eq!(ours["runtime_type"].as_str(), Some(RUNTIME_TYPE));
        assert_eq!(doc["version"].as_integer(), Some(3));
        let Wanted::Edited { text, .. } = &import.wanted else { panic!("{import:?}") };
        assert_eq!(*text, expected);
        assert_eq!(without_ours(text), main);
    }
}

#[test]
fn the_handler_that_containerd_has_without_a_file_stays() {
    let without = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/x\"\n";
    let mut config = config(without, 2, false);
    config.default = Some(format!("{KUBEADM}          BinaryName = \"\"\n"));
    let changes = config.changes(&[handler()]).unwrap();
    let Wanted::Edited { text, .. } = &changes[0].wanted else {
        panic!("{changes:?}")
    };
    let doc: DocumentMut = text.parse().unwrap();
    let runtimes = &doc["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    assert_eq!(
        runtimes["runc"]["runtime_type"].as_str(),
        Some(RUNTIME_TYPE)
    );
    assert_eq!(runtimes["runc"]["options"]["BinaryName"].as_str(), Some(""));
    assert_eq!(
        runtimes["runc"].get("runtime_path").map(Item::is_none),
        None
    );
    assert!(runtimes["restow"]["runtime_path"].is_str());
}

#[test]
fn what_is_imported_already_is_left_alone() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let changes = config(main, 2, true).changes(&[handler()]).unwrap();
    let [drop_in] = &changes[..] else {
        panic!("{changes:?}")
    };
    let Wanted::File(text) = &drop_in.wanted else {
        panic!("{drop_in:?}")
    };
    // The file has to be of the same version: containerd 2 migrates what it has merged.
    assert!(
        text.contains("version = 2") && text.contains("io.containerd.grpc.v1.cri"),
        "{text}"
    );
}

#[test]
fn a_node_without_a_configuration_gets_one() {
    let changes = config("", 2, false).changes(&[handler()]).unwrap();
    let [one] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert!(matches!(&one.wanted, Wanted::File(text) if text.starts_with("version = 2\n[plugins")));
    let changes = config("", 3, true).changes(&[handler()]).unwrap();
    let [_, main] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert!(
        matches!(&main.wanted, Wanted::File(text) if text.contains(PATTERN)),
        "{main:?}"
    );
}

#[test]
fn the_section_is_looked_for_in_imported_files_too() {
    let mut config = config(
        "version = 2\nimports = ['/etc/containerd/cri.toml']\n",
        2,
        false,
    );
    config
        .files
        .push(("/etc/containerd/cri.toml".into(), KUBEADM.to_owned()));
    let changes = config.changes(&[handler()]).unwrap();
    assert_eq!(changes[0].path, Path::new("/etc/containerd/cri.toml"));
}

#[test]
fn a_handler_of_somebody_else_and_inline_tables_are_refused() {
    let taken = format!(
        "{KUBEADM}[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.restow]\nruntime_type = 'x'\n"
    );
    let error = config(&taken, 2, false).changes(&[handler()]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has a runtime handler \"restow\" already"),
        "{error}"
    );
    let inline =
        "version = 2\nplugins = { \"io.containerd.grpc.v1.cri\" = { sandbox_image = 'x' } }\n";
    let error = config(inline, 2, false).changes(&[handler()]).unwrap_err();
    assert!(error.to_string().contains("inline tables"), "{error}");
}

#[test]
fn a_block_without_its_end_is_not_guessed_at() {
    let text = format!("a = 1\n{BEGIN}\nb = 2\n");
    assert_eq!(without_ours(&text), text);
}
