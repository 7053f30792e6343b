"""Checks deploy/kubernetes against the schemas that Kubernetes publishes, as the package kubernetes-validate has them."""

import pathlib
import sys

import kubernetes_validate
import yaml

# The oldest and the newest that the manifests are for.
VERSIONS = ("1.30", "1.36")
# Kustomize reads it, no API server.
OTHERS = "kustomize.config.k8s.io"

folder = pathlib.Path(sys.argv[1])
count = 0
for path in sorted(folder.rglob("*.yaml")):
    for number, manifest in enumerate(yaml.safe_load_all(path.read_text())):
        if manifest["apiVersion"].startswith(OTHERS):
            known = {entry.name for entry in path.parent.iterdir()} | {"../"}
            missing = set(manifest["resources"]) - known
            if missing:
                sys.exit(f"{path}: there is no {missing}")
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                sys.exit(f"{path}, document {number}, Kubernetes {version}: {error.message} at {list(error.path)}")
        count += 1
if count < 4:
    sys.exit(f"only {count} manifests in {folder}")
print(f"{count} manifests are valid for Kubernetes {' and '.join(VERSIONS)}")
