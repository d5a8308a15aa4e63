"""Prometheus: its own tools like what we write, and a real server scrapes it."""

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.system.gate import ROOT, Gate
from tests.system.test_stock_amqtt import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.system


def test_promtool_finds_nothing_wrong(need, gate: Gate):
    """`promtool check metrics` on a scrape that has every family."""
    need("promtool", "mosquitto_pub")
    gate.add("prom")
    gate.publish("prom", "devices/prom/telemetry", '{"v": 1}')
    gate.publish("prom", "devices/prom/telemetry", "bad")
    gate.publish("prom", "devices/other/telemetry", "{}")
    wait_until(lambda: gate.total("fleetgate_messages_quarantined_total") == 1)
    text = gate.get("/metrics", token=False)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_files_in_config_are_right(need):
    """Configuration, rules, and the rules' own tests."""
    need("promtool")
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=ROOT / "config", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_real_prometheus_scrapes(need, gate: Gate, tmp_path: Path):
    """With config/prometheus.yml, the port aside; the series of a device come out of its query API."""
    need("prometheus", "mosquitto_pub")
    gate.add("scraped")
    gate.publish("scraped", "devices/scraped/telemetry", '{"v": 1}')
    config = (ROOT / "config/prometheus.yml").read_text()
    config = config.replace("127.0.0.1:8080", gate.addresses["http"]).replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "alerts.yml").write_text((ROOT / "config/alerts.yml").read_text())
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--web.listen-address={address}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, f"--storage.tsdb.path={tmp_path}/data"], stdout=log, stderr=log, cwd=tmp_path
        )
    try:

        def value(query: str) -> str | None:
            try:
                with urllib.request.urlopen(f"http://{address}/api/v1/query?query={query}", timeout=5) as answer:
                    found = json.load(answer)["data"]["result"]
            except OSError:
                return None
            return found[0]["value"][1] if found else None

        wait_until(lambda: value('fleetgate_device_messages_total{device="scraped"}') == "1", 40)
        assert value('up{job="fleetgate"}') == "1"
    finally:
        server.terminate()
        server.wait(10)


def test_the_dashboard_asks_for_metrics_that_exist(gate: Gate):
    """Every metric named in the dashboard and in the alerts is one we expose."""
    import re

    exposed = {
        re.sub(r"_(bucket|sum|count)$", "", line.split()[2])
        for line in gate.get("/metrics", token=False).splitlines()
        if line.startswith("# TYPE")
    }
    text = (ROOT / "config/grafana/fleetgate.json").read_text() + (ROOT / "config/alerts.yml").read_text()
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"fleetgate_[a-z_]+", text)}
    assert named <= exposed
    assert json.loads((ROOT / "config/grafana/fleetgate.json").read_text())["panels"]
