"""Alerts, runbook and dashboard, by a real Prometheus: every expression is valid, every metric in one exists, an alert goes off when it
should and not before, and each has a section that says what to do."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "towers.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PARTS = ("**What it means.**", "**How to see it.**", "**First three moves.**", "**What not to do.**")
QUIET = {"Sources late or failed", "What was left out, and why", "Answers made without a part"}
"""Panels that may have nothing to show while all is well."""


def program(name):
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is not there: deploy/setup.sh dev brings it, or apt-get install prometheus"
    return found


def promtool(*arguments):
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_what_prometheus_reads():
    promtool("check", "rules", PROMETHEUS / "alerts.yml")
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_each_alert_has_a_section_and_each_section_an_alert():
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.DOTALL | re.MULTILINE))
    assert set(sections) == {alert["alert"] for alert in ALERTS}
    for name, text in sections.items():
        assert [text.count(part) for part in PARTS] == [1, 1, 1, 1], name
        assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == ["1", "2", "3"], name
    for alert in ALERTS:
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in ("critical", "warning") and alert["annotations"]["summary"]


def test_what_the_console_and_the_dashboard_name_stands_in_the_runbook():
    named = re.findall(r'runbook: "(\w+)"', (ROOT / "serve" / "web" / "console_charts.js").read_text())
    named += re.findall(r"Runbook: (\w+)", json.dumps(DASHBOARD))
    assert len(named) > 30
    assert set(named) <= {alert["alert"] for alert in ALERTS}


def series(name, values):
    return {"series": name, "values": values}


def latency(slow_per_minute, of=100):
    """A hundred answers a minute, so many of them slower than both objectives."""
    fast = of - slow_per_minute
    labels = 'job="towers", instance="a", stage="total"'
    return [
        *(series(f'towers_request_seconds_bucket{{{labels}, le="{le}"}}', f"0+{fast}x90") for le in ("0.2", "0.5")),
        series(f'towers_request_seconds_bucket{{{labels}, le="+Inf"}}', f"0+{of}x90"),
        series(f"towers_request_seconds_count{{{labels}}}", f"0+{of}x90"),
    ]


A = 'job="towers", instance="a"'
ANSWERS = series(f'towers_answers_total{{{A}, answered_by="personalised"}}', "0+100x90")
CASES = [  # (what happens, a sample a minute), (minute, {alert: severities that are firing})
    (latency(80), (60, {"TowersAnswersSlow": ["critical", "warning"], "TowersAnswersTooSlow": ["critical", "warning"]})),
    (latency(40), (60, {"TowersAnswersSlow": ["warning"]})),  # eight times the slack: above 6, below 14.4
    (latency(10), (60, {"TowersAnswersSlow": [], "TowersAnswersTooSlow": ["warning"]})),
    (latency(4), (60, {"TowersAnswersSlow": [], "TowersAnswersTooSlow": []})),
    (latency(80), (1, {"TowersAnswersSlow": []})),  # not at once
    ([series('up{job="towers", instance="a"}', "1x4 0x20")], (4, {"TowersDown": []})),
    ([series('up{job="towers", instance="a"}', "1x4 0x20")], (7, {"TowersDown": ["critical"]})),
    ([ANSWERS, series(f"towers_fallbacks_total{{{A}}}", "0+2x60")], (30, {"TowersFallbacks": ["warning"]})),
    ([ANSWERS, series(f"towers_fallbacks_total{{{A}}}", "0+20x60")], (30, {"TowersFallbacks": ["critical", "warning"]})),
    ([ANSWERS, series(f"towers_fallbacks_total{{{A}}}", "0x60")], (30, {"TowersFallbacks": []})),
    ([series(f'towers_answers_total{{{A}, answered_by="personalised"}}', "0+100x10 1000x60")], (19, {"TowersNoTraffic": []})),
    ([series(f'towers_answers_total{{{A}, answered_by="personalised"}}', "0+100x10 1000x60")], (40, {"TowersNoTraffic": ["warning"]})),
    ([series(f'towers_part_ready{{{A}, part="triton"}}', "1x5 0x20")], (9, {"TowersPartNotReady": []})),
    ([series(f'towers_part_ready{{{A}, part="triton"}}', "1x5 0x20")], (12, {"TowersPartNotReady": ["critical"]})),
    (
        [ANSWERS, series(f'towers_source_missing_total{{{A}, source="content", why="late"}}', "0+2x60"),
         series(f'towers_source_missing_total{{{A}, source="popular", why="late"}}', "0x60")],
        (40, {"TowersSourceMissing": ["warning"]}),
    ),
    ([ANSWERS, series(f'towers_refused_total{{{A}, status="503"}}', "0+5x60")], (20, {"TowersRefusing": ["critical"]})),
    ([ANSWERS, series(f'towers_refused_total{{{A}, status="422"}}', "0+50x60")], (20, {"TowersRefusing": []})),
    (
        [series(f'towers_event_stored_lag_seconds_bucket{{{A}, le="{le}"}}', f"0+{count}x60") for le, count in
         (("60.0", 90), ("300.0", 100), ("+Inf", 100))],
        (50, {"TowersEventsLate": ["warning"]}),
    ),
    ([series(f"towers_live_counts_age_seconds{{{A}}}", "1x5 70x10")], (9, {"TowersLiveCountsStandStill": ["critical"]})),
    ([series(f'towers_lost_total{{{A}, what="slates not logged"}}', "0x5 3x30")], (7, {"TowersSlatesLost": ["critical"]})),
    ([series(f'towers_lost_total{{{A}, what="slates not logged"}}', "3x40")], (30, {"TowersSlatesLost": []})),
    ([series(f"towers_slates_waiting{{{A}}}", "0x5 2000x20")], (12, {"TowersSlatesWaiting": ["warning"]})),
    (
        [series(f"towers_index_recall_sum{{{A}}}", "0+0.85x200"), series(f"towers_index_recall_count{{{A}}}", "0+1x200")],
        (100, {"TowersIndexRecallLow": ["warning"]}),
    ),
    (  # too few were judged to say
        [series(f"towers_index_recall_sum{{{A}}}", "0+0.085x200"), series(f"towers_index_recall_count{{{A}}}", "0+0.1x200")],
        (100, {"TowersIndexRecallLow": []}),
    ),
    ([series(f"towers_experiment_mismatch_p{{{A}}}", "0.0001x5")], (2, {"TowersSampleRatioMismatch": ["warning"]})),
    ([series(f"towers_experiment_mismatch_p{{{A}}}", "0.5x5")], (2, {"TowersSampleRatioMismatch": []})),
    (
        [series(f'towers_release_info{{job="towers", instance="{one}", arm="champion", version="v{one}"}}', "1x40") for one in "ab"],
        (20, {"TowersReleasesDiffer": ["warning"]}),
    ),
    (  # the clock of promtool begins at 0: a release of two weeks and some hours before the time asked about
        [series(f'towers_release_created_timestamp_seconds{{{A}, arm="champion"}}', f"{-15 * 86400}x100")],
        (90, {"TowersReleaseOld": ["warning"]}),
    ),
]  # fmt: skip


def test_alerts_go_off_when_they_should_and_not_before(tmp_path):
    told = {alert["alert"] for _, (_, expected) in CASES for alert in ALERTS if alert["alert"] in expected}
    assert told == {alert["alert"] for alert in ALERTS}
    lines = (PROMETHEUS / "alerts.yml").read_text()
    quiet = re.sub(r"^( +)annotations:\n(?:\1  .*\n?)+", "", lines, flags=re.MULTILINE)  # their values are not what is tested
    (tmp_path / "alerts.yml").write_text(quiet)
    tests = []
    for input_series, (minute, expected) in CASES:
        rules = [
            {
                "eval_time": f"{minute}m", "alertname": name,
                "exp_alerts": [{"exp_labels": labels(name, severity)} for severity in severities],
            }
            for name, severities in expected.items()
        ]  # fmt: skip
        tests.append({"interval": "1m", "input_series": input_series, "alert_rule_test": rules})
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", tmp_path / "tests.yml")


def labels(name, severity):
    """The labels that a firing alert of `CASES` bears."""
    more = {
        "TowersAnswersSlow": {"objective": "200ms"}, "TowersAnswersTooSlow": {"objective": "500ms"}, "TowersDown": {"instance": "a"},
        "TowersPartNotReady": {"instance": "a", "part": "triton"}, "TowersSourceMissing": {"source": "content"},
        "TowersLiveCountsStandStill": {"instance": "a"}, "TowersSlatesLost": {"instance": "a"}, "TowersSlatesWaiting": {"instance": "a"},
        "TowersSampleRatioMismatch": {"instance": "a"},
    }  # fmt: skip
    return {"severity": severity, "job": "towers"} | more.get(name, {})


@contextmanager
def prometheus(folder, target):
    """A real Prometheus that asks `target` every second and evaluates the rules as often; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shutil.copy(PROMETHEUS / "alerts.yml", folder / "alerts.yml")
    told = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    told["scrape_configs"] = [{"job_name": "towers", "static_configs": [{"targets": [target]}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
    arguments = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([program("prometheus"), *arguments], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def asked(client, expression):
    """What an instant query finds; fails on an invalid one."""
    response = client.get("/api/v1/query", params={"query": expression})
    assert response.status_code == 200, f"{expression}: {response.text}"
    return response.json()["data"]["result"]


def within(expression):
    """A dashboard's expression with what Grafana would put in."""
    return expression.replace("$__rate_interval", "10s").replace("$instance", ".*")


def names(expression):
    return set(re.findall(r"\bjob:[\w:]+|\b(?:towers|process)_\w+", expression))


def test_dashboard_and_alerts_ask_a_real_server_for_what_it_has(watched, tmp_path):
    host = watched.address.removeprefix("http://")
    with prometheus(tmp_path, host) as address, httpx.Client(base_url=address, timeout=10) as client:
        deadline = time.monotonic() + 60
        unanswered = {(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"] if panel["title"] not in QUIET}
        while unanswered:
            assert time.monotonic() < deadline, (unanswered, (tmp_path / "prometheus.log").read_text()[-2000:])
            watched.visit()
            time.sleep(1)
            try:
                client.get("/-/ready").raise_for_status()
            except httpx.HTTPError:
                continue
            unanswered = {one for one in unanswered if not asked(client, within(one[1]))}
        expressions = [within(target["expr"]) for panel in PANELS for target in panel["targets"]]
        expressions += [one["expr"] for one in DASHBOARD["annotations"]["list"]]
        expressions += [rule["expr"] for group in RULES for rule in group["rules"]]
        for expression in expressions:
            asked(client, expression)
        health = client.get("/api/v1/rules").json()["data"]["groups"]
        assert {rule["health"] for group in health for rule in group["rules"]} == {"ok"}
        alerts = client.get("/api/v1/alerts").json()["data"]["alerts"]
        firing = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
    exposed = httpx.get(f"{watched.address}/metrics").text
    told = set(re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE)) | set(re.findall(r"^(\w+)[{ ]", exposed, re.MULTILINE))
    recorded = {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
    asked_for = {name for expression in expressions for name in names(expression)}
    assert asked_for - told - recorded == set()
    assert {name for name in told if name.startswith("towers_") and name.endswith("_total")} - asked_for == set()  # nothing is hidden
    assert firing == set()


def test_grafana_finds_its_datasource_and_its_dashboards():
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/towers.yml").read_text())["providers"]
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", "15s")
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"] == "15s"
    boxes = [tuple(panel["gridPos"][side] for side in "xywh") for panel in DASHBOARD["panels"]]
    places = [(x + right, y + down) for x, y, w, h in boxes for right in range(w) for down in range(h)]
    assert len(places) == len(set(places))  # no panel lies on another
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
