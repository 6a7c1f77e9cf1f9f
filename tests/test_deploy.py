"""Settings, ports, routes, options and metrics in deploy/ and the Dockerfile exist, and their numbers agree."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.serving.running_server import RunningServer
from detector.artifact import load_artifact
from service.cluster.ray_serve import Arguments, build, deployment_options
from service.http.observability.metrics import Metrics
from service.http.paths import OPEN_PATHS
from service.http.server.app import create_app
from service.http.server.run import FAILED_EXIT_CODE
from service.http.settings import Settings, read_settings
from service.requests.serving import ServeRequest
from tests.conftest import SEED
from tests.service.cli.command_line import request_of
from tests.tiny_artifact import save_tiny_artifact

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = ROOT / "Dockerfile"
PAGE = ROOT / "docs" / "deployment.md"
FILES = [DOCKERFILE, PAGE, *sorted(path for path in DEPLOY.rglob("*") if path.is_file())]
TEXTS = {path: path.read_text(encoding="utf-8") for path in FILES}
DEFAULTS = Settings()


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(TEXTS[path]))


def every(path: Path, key: str) -> list[Any]:
    """All values of `key`, at any depth of a YAML file."""

    def walk(node: Any) -> Iterator[Any]:
        if isinstance(node, dict):
            if key in node:
                yield node[key]
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from walk(child)

    return list(walk(documents(path)))


def pods() -> dict[str, dict[str, Any]]:
    """The specs of pods."""
    (deployment,) = documents(KUBERNETES / "deployment.yaml")
    runtime, _ = documents(DEPLOY / "kserve.yaml")
    return {"kubernetes": deployment["spec"]["template"]["spec"], "kserve": runtime["spec"]}


def environment(entries: list[dict[str, Any]]) -> dict[str, str]:
    # Kubernetes sets the number of cores; it is 2 here.
    return {entry["name"]: entry.get("value", "2") for entry in entries}


def compose() -> dict[str, Any]:
    services: dict[str, Any] = documents(DEPLOY / "compose.yaml")[0]["services"]
    return services


def environments() -> dict[str, dict[str, str]]:
    """The environment variables of the server, by file."""
    found = {name: environment(pod["containers"][0]["env"]) for name, pod in pods().items()}
    found["compose"] = compose()["plumbline"]["environment"]
    found["image"] = dict(re.findall(r"^\s+(PLUMBLINE_\w+)=(\S+?)(?: \\)?$", TEXTS[DOCKERFILE], re.MULTILINE))
    unit = TEXTS[DEPLOY / "plumbline.service"]
    found["unit"] = dict(re.findall(r"^Environment=(PLUMBLINE_\w+)=(\S+)$", unit, re.MULTILINE))
    return found


def settings_of(where: str) -> Settings:
    inherited = environments()["image"] if where in ("kubernetes", "kserve", "compose") else {}
    variables = inherited | environments()[where]
    return read_settings(**{name.removeprefix("PLUMBLINE_").lower(): value for name, value in variables.items()})


def seconds(text: Any) -> float:
    return float(str(text).removesuffix("s"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"\bPLUMBLINE_[A-Z0-9_]+\b", TEXTS[path]))
    assert named <= {f"PLUMBLINE_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_yaml_is_read(path: Path) -> None:
    assert all(isinstance(document, dict) and document for document in documents(path))


@pytest.mark.parametrize("where", ["image", "compose", "kubernetes", "kserve", "unit"])
def test_the_server_accepts_the_settings(where: str) -> None:
    assert environments()[where]
    settings_of(where)


@pytest.mark.parametrize("where", ["compose", "kubernetes", "kserve"])
def test_reachable_servers_have_keys_for_both_ports(where: str) -> None:
    settings = settings_of(where)
    assert settings.host == settings.admin_host == "0.0.0.0"
    assert settings.api_keys_file
    assert settings.admin_keys_file
    assert settings.api_keys_file != settings.admin_keys_file
    assert not settings.insecure


def test_ports_are_those_of_the_server() -> None:
    settings = settings_of("image")
    exposed = re.search(r"^EXPOSE (.*)$", TEXTS[DOCKERFILE], re.MULTILINE)
    assert exposed
    assert [int(port) for port in exposed[1].split()] == [settings.port, settings.admin_port]
    assert (settings.port, settings.admin_port) == (DEFAULTS.port, DEFAULTS.admin_port)
    assert compose()["plumbline"]["expose"] == [str(settings.port), str(settings.admin_port)]
    assert f"server plumbline:{settings.port} " in TEXTS[DEPLOY / "nginx.conf"]
    ports = {port["name"]: port["containerPort"] for port in pods()["kubernetes"]["containers"][0]["ports"]}
    assert ports == {"http": settings.port, "admin": settings.admin_port}
    assert every(KUBERNETES / "service.yaml", "targetPort") == ["http"]
    allowed = [entry["port"] for ports in every(KUBERNETES / "network-policy.yaml", "ports") for entry in ports]
    assert set(allowed) == set(ports)
    (port,) = pods()["kserve"]["containers"][0]["ports"]
    assert port["containerPort"] == settings.port
    assert pods()["kserve"]["annotations"]["prometheus.kserve.io/port"] == str(settings.admin_port)


@pytest.mark.parametrize("where", ["kubernetes", "kserve"])
def test_probes_use_open_routes_of_the_main_port(where: str) -> None:
    container = pods()[where]["containers"][0]
    names = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert {"livenessProbe", "readinessProbe"} <= set(probes)
    for name, probe in probes.items():
        assert probe["path"] in OPEN_PATHS, name
        assert names.get(probe["port"], probe["port"]) == DEFAULTS.port, name
    # A draining server gets no requests, but must not be killed.
    assert probes["readinessProbe"]["path"] == "/v2/health/ready"
    assert probes["livenessProbe"]["path"] == "/v2/health/live"


def test_the_termination_period_covers_grace_and_drain() -> None:
    _, service = documents(DEPLOY / "kserve.yaml")
    unit = re.search(r"^TimeoutStopSec=(\d+)$", TEXTS[DEPLOY / "plumbline.service"], re.MULTILINE)
    assert unit
    given = {
        "kubernetes": pods()["kubernetes"]["terminationGracePeriodSeconds"],
        "kserve": service["spec"]["predictor"]["terminationGracePeriodSeconds"],
        "compose": seconds(compose()["plumbline"]["stop_grace_period"]),
        "unit": int(unit[1]),
    }
    for where, allowed in given.items():
        settings = settings_of(where)
        # A second for requests in transit, and one to end threads.
        assert allowed >= settings.shutdown_grace_s + settings.drain_timeout_s + 5, where


def test_the_startup_probe_allows_more_time_than_the_liveness_probe() -> None:
    container = pods()["kubernetes"]["containers"][0]
    startup, liveness = container["startupProbe"], container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
    assert liveness["periodSeconds"] * liveness["failureThreshold"] < 60


def test_a_service_of_the_same_name_does_not_set_the_port() -> None:
    (service,) = documents(KUBERNETES / "service.yaml")
    assert service["metadata"]["name"] == "plumbline"
    assert pods()["kubernetes"]["enableServiceLinks"] is False
    assert environments()["kserve"]["PLUMBLINE_PORT"] == str(DEFAULTS.port)


@pytest.mark.parametrize("where", ["kubernetes", "kserve"])
def test_containers_fit_the_restricted_profile(where: str) -> None:
    pod = pods()[where]
    (container,) = pod["containers"]
    context = pod.get("securityContext", {}) | container["securityContext"]
    assert context["runAsNonRoot"] is True
    user = re.search(r"^USER (\d+)$", TEXTS[DOCKERFILE], re.MULTILINE)
    assert user
    assert context["runAsUser"] == int(user[1])
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    keys = Path(environments()[where]["PLUMBLINE_API_KEYS_FILE"])
    assert mounts[str(keys.parent)] == "keys"  # as a folder, because a single file is not updated
    assert "/tmp" in mounts
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts.values())


def test_the_composed_containers_have_no_privileges() -> None:
    declared = documents(DEPLOY / "compose.yaml")[0]
    for name, container in compose().items():
        assert container["read_only"] is True, name
        assert container["cap_drop"] == ["ALL"], name
        assert container["security_opt"] == ["no-new-privileges:true"], name
        assert set(container["secrets"]) <= set(declared["secrets"]), name
        assert container["mem_limit"]
    assert declared["networks"]["inside"] == {"internal": True}
    assert compose()["plumbline"]["networks"] == ["inside"]
    assert "ports" not in compose()["plumbline"]
    settings = settings_of("compose")
    for path, secret in ((settings.api_keys_file, "keys"), (settings.admin_keys_file, "admin_keys")):
        assert str(path) == f"/run/secrets/{secret}"
        assert secret in compose()["plumbline"]["secrets"]
    for secret in compose()["proxy"]["secrets"]:
        assert f"/run/secrets/{secret};" in TEXTS[DEPLOY / "nginx.conf"]


def test_the_proxy_has_wider_limits_than_the_server() -> None:
    text = TEXTS[DEPLOY / "nginx.conf"]

    def number(directive: str) -> int:
        found = re.search(rf"^\s*{directive} (\d+)[ms]?;", text, re.MULTILINE)
        assert found, directive
        return int(found[1])

    mib = 1024 * 1024
    assert DEFAULTS.max_body_bytes <= number("client_max_body_size") * mib <= DEFAULTS.max_body_bytes + 2 * mib
    assert f"at most {DEFAULTS.max_body_bytes // mib} MiB" in text
    buffers = re.search(r"large_client_header_buffers (\d+) (\d+)k;", text)
    assert buffers
    assert int(buffers[1]) * int(buffers[2]) * 1024 >= DEFAULTS.max_header_bytes
    assert number("proxy_read_timeout") > DEFAULTS.request_timeout_s
    assert "proxy_request_buffering on;" in text
    health = compose()["proxy"]["healthcheck"]["test"]
    assert health[-1].removeprefix("https://127.0.0.1:8443") in OPEN_PATHS


def commands() -> list[tuple[str, list[str]]]:
    """Every command that starts the server: its file, and its arguments after `plumbline`."""
    found = [(name, pod["containers"][0]["args"]) for name, pod in pods().items()]
    image = re.search(r"^CMD (\[.*\])$", TEXTS[DOCKERFILE], re.MULTILINE)
    assert image
    assert 'ENTRYPOINT ["plumbline"]' in TEXTS[DOCKERFILE]
    found.append(("image", json.loads(image[1])))
    unit = re.search(r"^ExecStart=(.*)$", TEXTS[DEPLOY / "plumbline.service"], re.MULTILINE)
    assert unit
    program, *words = shlex.split(unit[1])
    assert Path(program).name == "plumbline"
    return [*found, ("unit", words)]


@pytest.mark.parametrize(("where", "words"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_command_line_accepts_the_commands(where: str, words: list[str]) -> None:
    request = request_of(*words)
    assert isinstance(request, ServeRequest)
    assert len(request.artifact) == 1


def test_the_unit_restarts_after_failures_but_not_after_invalid_settings() -> None:
    text = TEXTS[DEPLOY / "plumbline.service"]
    assert "\nRestart=on-failure\n" in text
    prevented = re.search(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)
    assert prevented
    statuses = [int(status) for status in prevented[1].split()]
    assert FAILED_EXIT_CODE not in statuses
    assert 2 in statuses  # the exit status for errors that need an operator
    assert f"with {FAILED_EXIT_CODE}." in text
    assert "kill -HUP $MAINPID" in text
    assert "\nRestartForceExitStatus=SIGHUP\n" in text
    files = re.search(r"^LimitNOFILE=(\d+)$", text, re.MULTILINE)
    assert files
    assert int(files[1]) >= 2 * Settings().max_connections + 64


def test_references_between_manifests_are_valid() -> None:
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    separate = {"kustomization.yaml", "custom-metrics.yaml", "artifact-on-a-volume.yaml"}
    assert set(kustomization["resources"]) == {path.name for path in KUBERNETES.iterdir()} - separate
    labels = pods_labels = documents(KUBERNETES / "deployment.yaml")[0]["spec"]["template"]["metadata"]["labels"]
    for name in ("deployment", "disruption-budget", "network-policy"):
        assert {"matchLabels": labels} in [
            *every(KUBERNETES / f"{name}.yaml", "selector"), *every(KUBERNETES / f"{name}.yaml", "podSelector")
        ]  # fmt: skip
    assert every(KUBERNETES / "service.yaml", "selector") == [pods_labels]
    (autoscaler,) = documents(KUBERNETES / "autoscaler.yaml")
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "plumbline"
    monitor, _ = documents(KUBERNETES / "custom-metrics.yaml")
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "admin"
    (patch,) = documents(KUBERNETES / "artifact-on-a-volume.yaml")
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["name"] == pods()["kubernetes"]["containers"][0]["name"]
    assert pods()["kubernetes"]["containers"][0]["args"][-1].endswith(f"={container['volumeMounts'][0]['mountPath']}")


def exported() -> dict[str, set[str]]:
    """The labels of every time series of the server, by name."""
    found: dict[str, set[str]] = {}
    for collector in vars(Metrics()).values():
        names = getattr(collector, "_labelnames", None)
        if names is None:
            continue
        (family,) = collector.describe()
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for suffix in suffixes:
            found[family.name + suffix] = {*names, *({"le"} if suffix == "_bucket" else ())}
    return found


def test_every_metric_is_exported_with_its_labels() -> None:
    known = exported()
    assert "plumbline_queue_length" in known
    place = {"instance", "namespace", "pod", "job"}
    files = (
        "prometheus-rules.yaml",
        "grafana-dashboard.json",
        "kubernetes/custom-metrics.yaml",
        "kubernetes/autoscaler.yaml",
    )
    for path in (DEPLOY / name for name in files):
        named = re.findall(r"\b(plumbline_[a-z0-9_]+)\b(?:\{([^}]*)\})?", re.sub(r"#.*", "", TEXTS[path]))
        assert named
        for name, matchers in named:
            # An annotation may refer to a histogram as a whole.
            assert name in known or f"{name}_bucket" in known, f"{path.name}: {name}"
            labels = set(re.findall(r"(\w+)(?:=~|!=|=)", matchers))
            assert labels <= known.get(name, set()) | place, f"{path.name}: {name}"


def test_alerts_are_complete_and_use_existing_labels() -> None:
    (rules,) = documents(DEPLOY / "prometheus-rules.yaml")
    alarms = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({alarm["alert"] for alarm in alarms}) == len(alarms)
    labels = {label for names in exported().values() for label in names} | {"instance"}
    for alarm in alarms:
        assert alarm["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} <= set(alarm["annotations"])
        for grouped in re.findall(r"\bby \(([^)]*)\)", alarm["expr"]):
            assert {label.strip() for label in grouped.split(",")} <= labels, alarm["alert"]
        shown = set(re.findall(r"\$labels\.(\w+)", json.dumps(alarm["annotations"])))
        assert shown <= labels, alarm["alert"]
        kept = re.search(r"\bby \(([^)]*)\)", alarm["expr"])
        if kept:  # an aggregation drops all other labels, which the text must not use
            assert shown <= {label.strip() for label in kept[1].split(",")}, alarm["alert"]


def test_every_alert_is_documented_with_its_severity() -> None:
    (rules,) = documents(DEPLOY / "prometheus-rules.yaml")
    alarms = {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    assert dict(re.findall(r"^\| `(Plumbline\w+)` \| (\w+) \|", TEXTS[PAGE], re.MULTILINE)) == alarms


def test_ray_accepts_the_arguments_of_its_config() -> None:
    (config,) = documents(DEPLOY / "ray-serve.yaml")
    assert config["http_options"]["host"] == "127.0.0.1"
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is build
    arguments = Arguments.model_validate(application["args"])
    options = deployment_options(arguments, read_settings())
    (deployment,) = application["deployments"]
    assert {"name", *options} >= set(deployment)
    assert config["http_options"]["request_timeout_s"] > DEFAULTS.request_timeout_s + DEFAULTS.receive_timeout_s


def test_the_health_check_of_the_image_detects_a_server(tmp_path: Path) -> None:
    found = re.search(r"^HEALTHCHECK .*\n\s+CMD (\[.*\])$", TEXTS[DOCKERFILE], re.MULTILINE)
    assert found
    python, *words = json.loads(found[1])
    assert python == "python"

    def check(port: int) -> int:
        env = os.environ | {"PLUMBLINE_PORT": str(port)}
        return subprocess.run([sys.executable, *words], env=env, stderr=subprocess.DEVNULL, check=False).returncode

    artifact = load_artifact(save_tiny_artifact(tmp_path / "tiny", SEED))
    server = RunningServer(create_app(artifact, Settings(torch_threads=1, decode_threads=1)))
    try:
        assert check(server.port) == 0
    finally:
        server.stop()
    assert check(server.port) != 0
