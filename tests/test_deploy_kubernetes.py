"""The manifests: strictly what Kubernetes' schemas allow, naming only what is there, agreeing with what serving reads and measures."""

import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from serve.commands.listening import DRAIN_S
from serve.gauges import Gauges
from serve.settings import CONF, settings
from tests.deployment import BASE, KUBERNETES, PROJECT, accepted, containers, kustomization, objects, pods

OLDEST, NEWEST = "1.30", "1.34"


def matches(selector, labels):
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))


def patched(told, operations):
    """`told` after a JSON patch of `add` and `test` (RFC 6902)."""
    told = json.loads(json.dumps(told))
    for one in operations:
        *way, leaf = [part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:]]
        place = told
        for part in way:
            place = place[int(part) if isinstance(place, list) else part]
        if one["op"] == "test":
            assert place[leaf] == one["value"], one
        else:
            assert one["op"] == "add" and leaf not in place, one
            place[leaf] = one["value"]
    return told


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_manifests_are_what_kubernetes_says_and_nothing_more(version):
    for name, told in objects().items():
        kubernetes_validate.validate(told, version, strict=True)
        if name == "Deployment/towers":
            patch = yaml.safe_load((KUBERNETES / "gpu" / "triton.yaml").read_text())
            kubernetes_validate.validate(patched(told, patch), version, strict=True)
            with pytest.raises(kubernetes_validate.ValidationError):
                kubernetes_validate.validate(told | {"spec": told["spec"] | {"replica": 2}}, version, strict=True)


def test_with_a_gpu_triton_alone_has_it_and_the_pod_goes_where_one_is():
    (patch,) = kustomization(KUBERNETES / "gpu")["patches"]
    told = patched(objects()["Deployment/towers"], yaml.safe_load((KUBERNETES / "gpu" / patch["path"]).read_text()))
    pod = told["spec"]["template"]["spec"]
    assert [one["name"] for one in containers({"spec": pod}) if "nvidia.com/gpu" in one["resources"]["limits"]] == ["triton"]
    assert "nvidia.com/gpu.present" in pod["nodeSelector"]
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    for folder in (KUBERNETES, KUBERNETES / "gpu"):
        assert all((folder / one / "kustomization.yaml").exists() for one in kustomization(folder)["resources"])


def test_everything_a_manifest_names_is_there():
    every = objects()
    made = {f"ConfigMap/{one['name']}" for one in kustomization()["configMapGenerator"]}
    for one in kustomization()["configMapGenerator"]:
        assert all((BASE / name).is_file() for name in one["files"])
    for name, pod in pods().items():
        volumes = {one["name"]: one for one in pod["spec"].get("volumes", ())}
        claims = {one["metadata"]["name"] for one in every[name]["spec"].get("volumeClaimTemplates", ())}
        mounted = set()
        for one in containers(pod):
            for mount in one["volumeMounts"]:
                assert mount["name"] in set(volumes) | claims, f"{name}: {mount['name']}"
                mounted.add(mount["name"])
            for variable in one.get("env", ()):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["key"] in every[f"Secret/{reference['name']}"]["stringData"], f"{name}: {reference}"
        assert mounted == set(volumes) | claims, f"{name} mounts not what it declares"
        for one in volumes.values():
            if "persistentVolumeClaim" in one:
                assert f"PersistentVolumeClaim/{one['persistentVolumeClaim']['claimName']}" in every
            if "secret" in one:
                assert f"Secret/{one['secret']['secretName']}" in every
            if "configMap" in one:
                assert f"ConfigMap/{one['configMap']['name']}" in made
    assert not any(any(told["stringData"].values()) for name, told in every.items() if name.startswith("Secret/"))


def test_selectors_choose_the_pods_that_are_there():
    every, labels = objects(), {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for name, told in every.items():
        kind, spec = name.split("/")[0], told.get("spec", {})
        if kind in ("Deployment", "StatefulSet"):
            assert matches(spec["selector"], labels[name]), name
        if kind == "Service":
            assert any(spec["selector"].items() <= one.items() for one in labels.values()), name
        if kind in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = spec.get("selector") or spec["podSelector"]
            assert any(matches(selector, one) for one in labels.values()), name
    target = every["HorizontalPodAutoscaler/towers"]["spec"]["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" in every
    assert "replicas" not in every["Deployment/towers"]["spec"], "the autoscaler's number and ours would fight"
    assert every["StatefulSet/towers-redis"]["spec"]["serviceName"] == "towers-redis"


def test_named_ports_are_those_of_the_container_that_is_asked(monkeypatch):
    every, asked = objects(), set()
    for name, told in every.items():
        if name.startswith("Service/"):
            chosen = [pod for pod in pods().values() if told["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
            for port in told["spec"]["ports"]:
                assert port["targetPort"] in {p["name"] for pod in chosen for one in containers(pod) for p in one.get("ports", ())}, name
    for name, pod in pods().items():
        for one in containers(pod):
            ports = {port["name"]: port["containerPort"] for port in one.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "httpGet" in one.get(probe, {}):
                    assert one[probe]["httpGet"]["port"] in ports, f"{name} {one['name']} {probe}"
                    asked.add((one["name"], probe, one[probe]["httpGet"]["path"]))
    server = next(one for one in containers(pods()["Deployment/towers"]) if one["name"] == "server")
    monkeypatch.setenv("STORE_URL", "redis://:x@towers-redis:6379/0")
    chosen = accepted(server["args"])
    assert (chosen.host, chosen.port) == ("0.0.0.0", server["ports"][0]["containerPort"])
    assert ("server", "startupProbe", "/readyz") in asked and ("server", "readinessProbe", "/healthz") in asked
    assert chosen.at_once == 2 * int(server["resources"]["limits"]["cpu"])
    mounts = {mount["mountPath"] for mount in server["volumeMounts"]}
    assert str(chosen.editorial.parent) in mounts
    assert str(Path(next(word for word in server["args"] if word.startswith("access.keys=")).split("=")[1]).parent) in mounts
    redis_url = next(one["value"] for one in server["env"] if one["name"] == "STORE_URL")
    assert f"Service/{redis_url.split('@')[1].split(':')[0]}" in every


def test_every_command_line_of_the_cluster_is_one_that_serve_takes(monkeypatch):
    monkeypatch.setenv("STORE_URL", "redis://:x@towers-redis:6379/0")
    ours = [
        (name, one)
        for name, pod in pods().items()
        for one in containers(pod)
        if one["image"] in ("towers", "towers-train") and "command" not in one
    ]
    assert {one["name"] for _, one in ours} == {"server", "retrain", "withdraw", "refresh", "precompute"}
    for _, one in ours:
        assert (one["args"][:2] == ["-m", "serve"]) == (one["image"] == "towers-train"), one["name"]
        accepted(one["args"])
    assert {one["name"]: one["newTag"] for one in kustomization()["images"]} == {
        "towers": PROJECT["version"], "towers-train": PROJECT["version"],
    }  # fmt: skip


def test_every_pod_is_restricted_and_all_that_share_a_volume_are_one_user():
    for name, pod in pods().items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        assert spec["securityContext"]["runAsUser"] == (999 if "redis" in name else 10001), name
        assert not spec["automountServiceAccountToken"] and not spec["enableServiceLinks"], name
        for one in containers(pod):
            told = one["securityContext"]
            assert told == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, name
            assert "memory" in one["resources"]["limits"] and "cpu" in one["resources"]["requests"], f"{name} {one['name']}"


def test_a_pod_has_time_to_finish_what_it_began():
    pod = pods()["Deployment/towers"]["spec"]
    (server,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > server["lifecycle"]["preStop"]["sleep"]["seconds"] + 2 * DRAIN_S
    assert [one["name"] for one in pod["initContainers"]] == ["pin", "triton"], "what is pinned first is what Triton finds"
    assert pod["initContainers"][1]["restartPolicy"] == "Always"


def test_the_autoscaler_follows_a_figure_that_is_measured():
    values = yaml.safe_load((KUBERNETES / "monitoring" / "prometheus-adapter-values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    pods_metric = objects()["HorizontalPodAutoscaler/towers"]["spec"]["metrics"][0]["pods"]
    assert rule["name"]["as"] == pods_metric["metric"]["name"]
    series = rule["seriesQuery"].split("{")[0]
    assert re.fullmatch(rule["name"]["matches"], series)
    gauges = Gauges()
    gauges._seconds.labels("total").observe(0.2)
    assert f'{series}{{le="0.25",stage="total"}}' in gauges.text().decode()
    buckets = [float(edge) for edge in re.findall(rf'{series}{{le="([\d.]+)",stage="total"}}', gauges.text().decode())]
    target = int(pods_metric["target"]["averageValue"].removesuffix("m")) / 1000
    assert buckets[0] < target < settings([]).deadline_ms / 1000
    monitor = yaml.safe_load((KUBERNETES / "monitoring" / "service-monitor.yaml").read_text())["spec"]
    found = [
        told for name, told in objects().items() if name.startswith("Service/") and matches(monitor["selector"], told["metadata"]["labels"])
    ]
    assert {port["name"] for told in found for port in told["spec"]["ports"]} == {one["port"] for one in monitor["endpoints"]}


def test_the_curated_list_of_the_cluster_begins_as_the_one_of_conf():
    assert (BASE / "editorial.yaml").read_text() == (CONF / "editorial.yaml").read_text()
